"""How workers share out the connections that come to their common socket."""

import asyncio
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from serve.worker import YIELD_SECONDS, Acceptor, Shares


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def test_the_fewest_connections_are_those_of_workers_that_are_there() -> None:
    shares = Shares()
    first, second = shares.take(), shares.take()
    assert shares.fewest() == 0, "nobody listens yet"
    shares.tell(first, 7)
    assert shares.fewest() == 7, "the second is still loading its models"
    shares.tell(second, 3)
    assert shares.fewest() == 3
    shares.leave(second)
    assert shares.fewest() == 7
    assert shares.take() == second, "its place is free again"


def test_more_workers_than_places_are_served_without() -> None:
    shares = Shares()
    while shares.take() is not None:
        pass
    shares.tell(None, 5)
    shares.leave(None)
    assert shares.fewest() == 0


@pytest.mark.parametrize(
    ("mine", "others", "is_left"), [(0, 0, False), (1, 0, False), (2, 0, True), (9, 8, False), (11, 8, True)]
)
def test_a_connection_is_left_to_a_worker_with_fewer_for_a_moment(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, mine: int, others: int, is_left: bool
) -> None:
    now = 100.0
    monkeypatch.setattr("serve.worker.time", SimpleNamespace(perf_counter=lambda: now))

    async def main() -> None:
        nonlocal now
        shares = Shares()
        me, other = shares.take(), shares.take()
        shares.tell(other, others)
        acceptor = Acceptor(listener, Any, range(mine), shares, me)
        try:
            assert acceptor._is_for_others() == is_left
            now += 1.2 * YIELD_SECONDS
            assert not acceptor._is_for_others(), "the other had its time"
            now += 3 * YIELD_SECONDS
            assert acceptor._is_for_others() == is_left, "this is another connection"
            shares.leave(other)
            assert not acceptor._is_for_others()
        finally:
            acceptor.close()

    asyncio.run(main())


def test_a_worker_that_stops_listening_is_no_longer_counted(listener: socket.socket) -> None:
    async def main() -> None:
        shares = Shares()
        acceptor = Acceptor(listener, Any, range(4), shares, shares.take())
        assert shares.fewest() == 4
        acceptor.close()
        acceptor.tell()  # its last connections end
        assert shares.fewest() == 0

    asyncio.run(main())


def test_what_comes_while_no_file_can_be_opened_is_taken_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serve.worker.PAUSE_SECONDS", 0.05)

    class Exhausted(socket.socket):
        failures = 2

        def accept(self) -> Any:
            if self.failures:
                self.failures -= 1
                raise OSError(24, "Too many open files")
            return super().accept()

    async def main() -> None:
        made = asyncio.Event()

        class Made(asyncio.Protocol):
            def __init__(self, told_when_lost: Any) -> None:
                self.lost = told_when_lost

            def connection_made(self, transport: Any) -> None:
                transport.close()
                made.set()

        with Exhausted() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            acceptor = Acceptor(listener, Made, [], Shares(), None)
            start = time.monotonic()
            with socket.create_connection(listener.getsockname()):
                await asyncio.wait_for(made.wait(), 10)
            assert time.monotonic() - start > 0.09, "it tried without a pause"
            acceptor.close()
            await acceptor.wait_closed()

    asyncio.run(main())
