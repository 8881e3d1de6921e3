"""A connection of gRPC in this process, on real sockets, by a clock that the tests set forward."""

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable, Iterator

import hpack
import pytest

from serve.catalog import Catalog
from serve.dataplane import DataPlane
from serve.rpc import connection, http2
from serve.rpc.http2 import PREFACE
from serve.rpc.messages import INFERENCE
from serve.rpc.server import Server
from serve.settings import Settings
from tests.serving import free_port
from tests.test_serve_rpc_http2 import EMPTY, Frame, frame

TIMEOUT = 20
"""Seconds that a caller waits for what has to come."""


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be set forward: what was to happen until then is due at once."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


class Peer:
    """A caller's side of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._encoder = hpack.Encoder()

    def send(self, *frames: bytes) -> None:
        self._writer.write(b"".join(frames))

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    def call(self, stream: int, name: str = "ServerLive", body: bytes = EMPTY) -> None:
        """Ask whether the service is live, or send another call."""
        self.begin(stream, name)
        self.send(frame(http2.DATA, http2.END_STREAM, stream, body))

    def begin(self, stream: int, name: str) -> None:
        """Send the headers of a call."""
        path = f"/{INFERENCE}/{name}"
        fields = {":method": "POST", ":scheme": "http", ":path": path, "content-type": "application/grpc"}
        self.send(frame(http2.HEADERS, http2.END_HEADERS, stream, self._encoder.encode(list(fields.items()))))

    async def frames_until(self, is_last: Callable[[Frame], bool]) -> list[Frame]:
        """What comes, to this frame. Raises IncompleteReadError where the connection ends before."""
        frames: list[Frame] = []
        async with asyncio.timeout(TIMEOUT):
            while not frames or not is_last(frames[-1]):
                head = await self._reader.readexactly(9)
                payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                frames.append((head[3], head[4], struct.unpack(">I", head[5:])[0], payload))
        return frames

    async def pinged(self, payload: bytes) -> list[Frame]:
        """Ping, and return what comes until that is answered."""
        self.send(frame(http2.PING, 0, 0, payload))
        return await self.frames_until(lambda each: each == (http2.PING, http2.ACK, 0, payload))

    async def is_hung_up_on(self) -> bool:
        """Whether the connection ends, and nothing else comes."""
        try:
            async with asyncio.timeout(TIMEOUT):
                return await self._reader.read() == b""
        except ConnectionError:
            return True


Play = Callable[[Loop, "Connect"], Awaitable[None]]
Connect = Callable[[], Awaitable[Peer]]


@pytest.fixture
def plane() -> Iterator[DataPlane]:
    plane = DataPlane(Catalog([]), Settings(grpc_port=free_port()))
    yield plane
    plane.close()


def play(plane: DataPlane, scene: Play) -> None:
    """Run a scene against a server over the data plane."""
    peers: list[Peer] = []

    async def connect() -> Peer:
        peers.append(peer := Peer(*await asyncio.open_connection("127.0.0.1", plane.settings.grpc_port)))
        peer.send(PREFACE, frame(http2.SETTINGS))
        await peer.pinged(b"are you ")
        return peer

    async def main() -> None:
        server = Server(plane)
        await server.start()
        try:
            await scene(loop, connect)
        finally:
            for peer in peers:
                await peer.close()
            server.end()
            await server.wait()

    loop = Loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def acks(frames: list[Frame]) -> int:
    return sum(kind == http2.PING and flags == http2.ACK for kind, flags, _, _ in frames)


# Newcomers


@pytest.mark.parametrize("calls", [0, 1], ids=["idle", "with a call"])
def test_the_longest_silent_of_those_without_calls_gives_way_to_a_newcomer(plane: DataPlane, calls: int) -> None:
    plane.max_connections = 3

    async def scene(loop: Loop, connect: Connect) -> None:
        first, *others = [await connect() for _ in range(3)]
        for _ in range(calls):
            first.begin(1, "ModelStreamInfer")
            await first.pinged(b"the call")
        for peer in others:
            pass_by(loop, 1)
            await peer.pinged(b"not idle")
        newcomer = await connect()
        let_go, *stay = [others[0], first, others[1]] if calls else [first, *others]
        assert [kind for kind, *_ in await let_go.frames_until(lambda each: each[0] == http2.GOAWAY)] == [http2.GOAWAY]
        assert await let_go.is_hung_up_on()
        for peer in (*stay, newcomer):
            assert await is_live(peer, 3)

    play(plane, scene)


def test_where_all_have_calls_the_newcomer_is_let_go(plane: DataPlane) -> None:
    plane.max_connections = 1

    async def scene(loop: Loop, connect: Connect) -> None:
        only = await connect()
        only.begin(1, "ModelStreamInfer")
        await only.pinged(b"the call")
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await connect()
        assert await is_live(only, 3)

    play(plane, scene)


# Turns


def test_a_flood_of_frames_lets_others_have_their_turns(plane: DataPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a turn is a single frame, a call that comes after 5,000 of them is answered before most of them."""
    monkeypatch.setattr(connection, "TURN_SECONDS", -1.0)

    async def scene(loop: Loop, connect: Connect) -> None:
        flood, other = await connect(), await connect()
        flood.send(frame(http2.PING, 0, 0, bytes(8)) * 5000)
        reading = asyncio.ensure_future(flood.pinged(b"the last"))
        other.call(1)
        frames = await other.frames_until(lambda each: each[0] == http2.DATA)
        assert frames[-1][3] == b"\0\0\0\0\2\x08\x01"
        assert not reading.done(), "all frames of the flood were taken first"
        assert acks(await reading) == 5001  # none is lost, and what comes behind them is read, too

    play(plane, scene)


def test_a_stream_of_many_messages_lets_others_have_their_turns(
    plane: DataPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them is refused at once, so that nothing else makes it wait."""
    monkeypatch.setattr(connection, "TURN_SECONDS", -1.0)

    async def scene(loop: Loop, connect: Connect) -> None:
        flood = await connect()
        flood.send(frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 10**6)))
        flood.send(frame(http2.SETTINGS, 0, 0, struct.pack(">HI", http2.INITIAL_WINDOW_SIZE, 10**6)))
        flood.call(1, "ModelStreamInfer", EMPTY * 2000)
        reading = asyncio.ensure_future(flood.frames_until(is_end))
        turns = 0
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1
        assert sum(kind == http2.DATA for kind, *_ in reading.result()) == 2000
        assert turns > 2000

    play(plane, scene)


def is_end(each: Frame) -> bool:
    """Whether a call ends with it."""
    kind, flags, _, _ = each
    return kind == http2.HEADERS and bool(flags & http2.END_STREAM)


# Keepalive

ASKED = (http2.PING, 0, 0, b"are you?")
"""The frame by which a silent caller is asked whether it is there."""


def pass_by(loop: Loop, seconds: float) -> None:
    loop.ahead += seconds


async def is_live(peer: Peer, stream: int) -> bool:
    peer.call(stream)
    return (await peer.frames_until(is_end))[-1][2] == stream


def test_a_caller_is_asked_after_a_minute_of_silence_and_not_before(plane: DataPlane) -> None:
    async def scene(loop: Loop, connect: Connect) -> None:
        peer = await connect()
        for _ in range(3):  # each of its own pings ends the silence
            pass_by(loop, connection.SILENT_SECONDS - 10)
            await asyncio.sleep(0.01)
            assert ASKED not in await peer.pinged(b"here I a")
        pass_by(loop, connection.SILENT_SECONDS + 1)
        assert await peer.frames_until(lambda each: each[0] == http2.PING) == [ASKED]

    play(plane, scene)


def test_a_silent_caller_that_answers_stays(plane: DataPlane) -> None:
    async def scene(loop: Loop, connect: Connect) -> None:
        peer = await connect()
        for stream in (1, 3, 5):
            pass_by(loop, connection.SILENT_SECONDS + 1)
            await peer.frames_until(lambda each: each == ASKED)
            peer.send(frame(http2.PING, http2.ACK, 0, ASKED[3]))
            await asyncio.sleep(0.05)  # it is taken
            pass_by(loop, connection.PING_SECONDS + 1)
            await asyncio.sleep(0.01)  # the connection is looked at
            assert await is_live(peer, stream)

    play(plane, scene)


def test_a_silent_caller_that_does_not_answer_is_let_go_alone(plane: DataPlane) -> None:
    async def scene(loop: Loop, connect: Connect) -> None:
        silent, other = await connect(), await connect()
        pass_by(loop, connection.SILENT_SECONDS + 1)
        for peer in (silent, other):
            await peer.frames_until(lambda each: each == ASKED)
        assert await is_live(other, 1)
        pass_by(loop, connection.PING_SECONDS + 1)
        assert await silent.is_hung_up_on()
        assert await is_live(other, 3)

    play(plane, scene)


def test_a_caller_that_waits_is_let_go_no_sooner_than_the_last_moment(plane: DataPlane) -> None:
    async def scene(loop: Loop, connect: Connect) -> None:
        peer = await connect()
        pass_by(loop, connection.SILENT_SECONDS + 1)
        await peer.frames_until(lambda each: each == ASKED)
        pass_by(loop, connection.PING_SECONDS - connection.CHECK_SECONDS - 1)
        await asyncio.sleep(0.01)
        assert await is_live(peer, 1)

    play(plane, scene)


def test_a_caller_may_ping_as_often_as_it_likes(plane: DataPlane) -> None:
    """gRPC's own servers end a connection that pings more than twice in five minutes without a call."""

    async def scene(loop: Loop, connect: Connect) -> None:
        peer = await connect()
        for number in range(300):
            frames = await peer.pinged(struct.pack(">Q", number))
            assert [each[0] for each in frames] == [http2.PING]
        assert await is_live(peer, 1)

    play(plane, scene)
