"""Requests that wait for the same model run together, and each caller gets its own answer."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.errors import DeadlineExceeded, InputError, ModelUnavailable, Overloaded, RosettaError, RuntimeFailure
from contract.manifest import Manifest, TensorSpec
from contract.parity_result import Status
from contract.tensors import Tensors
from serve.batching import RELAYED, Answered, Batcher, Limits
from serve.catalog import Catalog, ServedModel
from serve.dataplane import DataPlane
from serve.protocol import InferRequest, Reply
from serve.remote.runtime import RemoteRuntime
from serve.settings import Settings
from serve.stats import ModelStats

BAD = -1.0
"""A row that the runtime below chokes on."""


class Doubling:
    """A runtime that doubles its input; it notes each call's rows, takes its time, and can be held up."""

    title = "Doubling 1.0"
    platform = "doubling"
    in_process = True

    def __init__(self, seconds: float = 0) -> None:
        self.seconds = seconds
        self.calls: list[int] = []
        self.threads: set[str] = set()
        self.open = threading.Event()
        self.open.set()

    def predict(self, inputs: Tensors) -> Tensors:
        rows = inputs["x"]
        self.calls.append(len(rows))
        self.threads.add(threading.current_thread().name)
        time.sleep(self.seconds)
        self.open.wait(20)
        if (rows == BAD).any():
            raise ZeroDivisionError("a bad row")
        return {"y": 2 * rows}

    def close(self) -> None:
        self.open.set()


def served(runtime: Any, batch: int | None = None, name: str = "double", mixing: str = "") -> ServedModel:
    inputs, outputs = (TensorSpec(tensor, "float32", (batch, None), "NC") for tensor in "xy")
    manifest = Manifest(name, "onnx", None, (inputs,), (outputs,), None, ())
    return ServedModel(manifest.name, Path(), manifest, Status("source", ""), None, runtime, mixing=mixing)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2, thread_name_prefix="inference") as executor:
        yield executor


QUICK, SLOW = 0.0, 1.0
"""What a call is expected to cost: by this a queue decides where it runs."""

Make = Callable[..., Batcher]


@pytest.fixture
def batcher(pool: ThreadPoolExecutor) -> Make:
    """Make a queue; to be called in the event loop."""

    def make(runtime: Any, expected: float, calls: int = 1, batch: int | None = None, **limits: Any) -> Batcher:
        stats = ModelStats(call_seconds=expected)
        return Batcher(served(runtime, batch), stats, pool, calls, Limits(**limits))

    return make


def rows(*values: float, width: int = 1) -> Tensors:
    return {"x": np.array(values, np.float32).reshape(-1, 1).repeat(width, 1)}


def submit(queue: Batcher, *values: float, width: int = 1, seconds: float = 20) -> Awaitable[Any]:
    """Submit, and wait for the outputs alone."""
    future = queue.submit(rows(*values, width=width), time.perf_counter() + seconds)

    async def outputs() -> list[float]:
        answer, queued, computed = await future
        assert queued >= 0
        assert computed >= 0
        return answer["y"][:, 0].tolist()  # type: ignore[no-any-return]

    return outputs()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


# What runs together


def test_the_requests_of_one_turn_run_together_in_the_event_loop(batcher: Make) -> None:
    async def main() -> None:
        runtime = Doubling()
        queue = batcher(runtime, QUICK)
        answers: list[Any] = await asyncio.gather(*(submit(queue, *sent) for sent in ([1], [2, 3], [4])))
        assert answers == [[2], [4, 6], [8]]
        assert runtime.calls == [4]
        assert runtime.threads == {threading.main_thread().name}
        assert await submit(queue, 5) == [10]
        assert runtime.calls == [4, 1]

    asyncio.run(main())


def test_a_model_whose_rows_mix_answers_each_request_alone(pool: ThreadPoolExecutor) -> None:
    async def main() -> None:
        runtime = Doubling()
        model = served(runtime, mixing="the output y of a row differs by 0.5 when 2 share a call")
        queue = Batcher(model, ModelStats(call_seconds=QUICK), pool, 1, Limits())
        answers: list[Any] = await asyncio.gather(*(submit(queue, *sent) for sent in ([1], [2, 3], [4])))
        assert answers == [[2], [4, 6], [8]]
        assert runtime.calls == [1, 2, 1]

    asyncio.run(main())


def test_only_equal_shapes_run_together_in_the_order_in_which_they_came(batcher: Make) -> None:
    async def main() -> None:
        runtime = Doubling()
        queue = batcher(runtime, QUICK)
        widths = [1, 1, 2, 2, 2, 1]
        answers = await asyncio.gather(*(submit(queue, n, width=width) for n, width in enumerate(widths)))
        assert answers == [[2 * n] for n in range(6)]
        assert runtime.calls == [2, 3, 1]

    asyncio.run(main())


def test_a_batch_has_at_most_max_batch_rows_unless_one_request_has_more(batcher: Make) -> None:
    async def main() -> None:
        runtime = Doubling()
        queue = batcher(runtime, QUICK, max_batch=4)
        sizes = [1, 2, 1, 1, 7, 3, 2, 2]
        answers = await asyncio.gather(*(submit(queue, *range(size)) for size in sizes))
        assert answers == [[2 * n for n in range(size)] for size in sizes]
        assert runtime.calls == [4, 1, 7, 3, 4]

    asyncio.run(main())


@pytest.mark.parametrize("limits", [{"enabled": False}, {"batch": 1}])
def test_requests_run_alone_without_batching_and_where_the_batch_is_fixed(batcher: Make, limits: Any) -> None:
    async def main() -> None:
        runtime = Doubling()
        queue = batcher(runtime, QUICK, **limits)
        assert await asyncio.gather(*(submit(queue, n) for n in range(3))) == [[0], [2], [4]]
        assert runtime.calls == [1, 1, 1]

    asyncio.run(main())


def test_what_waits_while_a_slow_model_runs_forms_the_next_batch(batcher: Make) -> None:
    async def main() -> None:
        runtime = Doubling()
        runtime.open.clear()
        queue = batcher(runtime, SLOW)
        first = asyncio.ensure_future(submit(queue, 1))
        await until(lambda: runtime.calls == [1])
        others = [asyncio.ensure_future(submit(queue, n)) for n in range(5)]
        await asyncio.sleep(0.01)
        assert runtime.calls == [1]
        runtime.open.set()
        assert await first == [2]
        assert await asyncio.gather(*others) == [[2 * n] for n in range(5)]
        assert runtime.calls == [1, 5]
        assert all(name.startswith("inference") for name in runtime.threads)

    asyncio.run(main())


def test_a_slow_model_runs_as_often_at_once_as_it_may(batcher: Make) -> None:
    async def main() -> None:
        runtime = Doubling()
        runtime.open.clear()
        queue = batcher(runtime, SLOW, calls=2, max_batch=1)
        answers = [asyncio.ensure_future(submit(queue, n)) for n in range(3)]
        await until(lambda: len(runtime.calls) == 2)
        await asyncio.sleep(0.01)
        assert len(runtime.calls) == 2
        runtime.open.set()
        assert await asyncio.gather(*answers) == [[0], [2], [4]]

    asyncio.run(main())


# What is refused, and what is dropped


def test_a_full_queue_refuses_and_then_takes_again(batcher: Make) -> None:
    async def main() -> None:
        runtime = Doubling()
        runtime.open.clear()
        queue = batcher(runtime, SLOW, max_queue=4)
        taken = [asyncio.ensure_future(submit(queue, 0))]
        await until(lambda: runtime.calls == [1])
        taken += [asyncio.ensure_future(submit(queue, 1, 2, 3))]
        with pytest.raises(Overloaded, match="double-onnx is busy: 3 rows wait for it, at most 4 may"):
            submit(queue, 4, 5)
        taken += [asyncio.ensure_future(submit(queue, 4))]
        runtime.open.set()
        assert await asyncio.gather(*taken) == [[0], [2, 4, 6], [8]]
        assert await submit(queue, 4, 5) == [8, 10]

    asyncio.run(main())


def test_a_request_with_more_rows_than_the_queue_holds_is_taken_when_nothing_waits(batcher: Make) -> None:
    async def main() -> None:
        queue = batcher(Doubling(), SLOW, max_queue=2)
        assert await submit(queue, 1, 2, 3) == [2, 4, 6]

    asyncio.run(main())


def test_what_has_expired_is_dropped_before_it_costs_anything(batcher: Make) -> None:
    async def main() -> None:
        runtime = Doubling()
        runtime.open.clear()
        queue = batcher(runtime, SLOW)
        first = asyncio.ensure_future(submit(queue, 1))
        await until(lambda: runtime.calls == [1])
        late, in_time = submit(queue, 2, seconds=0.001), submit(queue, 3)
        await asyncio.sleep(0.02)
        runtime.open.set()
        with pytest.raises(DeadlineExceeded, match=r"waited \d+ ms, longer than its time limit"):
            await late
        assert (await first, await in_time) == ([2], [6])
        assert runtime.calls == [1, 1]

    asyncio.run(main())


def test_a_caller_that_is_gone_is_skipped(batcher: Make) -> None:
    async def main() -> None:
        runtime = Doubling()
        runtime.open.clear()
        queue = batcher(runtime, SLOW)
        running, waiting, third = (asyncio.ensure_future(submit(queue, n)) for n in (1, 2, 3))
        await until(lambda: runtime.calls == [3])
        late = [asyncio.ensure_future(submit(queue, n)) for n in (4, 5)]
        await asyncio.sleep(0)
        running.cancel()
        late[0].cancel()
        runtime.open.set()
        assert (await waiting, await third, await late[1]) == ([4], [6], [10])
        assert runtime.calls == [3, 1]
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())


# What fails


@pytest.mark.parametrize("expected", [QUICK, SLOW])
def test_one_bad_row_fails_alone(batcher: Make, expected: float) -> None:
    async def main() -> None:
        runtime = Doubling()
        queue = batcher(runtime, expected)
        sent = [submit(queue, 1), submit(queue, 2, BAD), submit(queue, 3)]
        good, bad, also_good = await asyncio.gather(*sent, return_exceptions=True)
        assert (good, also_good) == ([2], [6])
        assert isinstance(bad, RuntimeFailure)
        assert str(bad) == "double-onnx failed inside its runtime: ZeroDivisionError: a bad row"
        assert runtime.calls == [4, 1, 2, 1]

    asyncio.run(main())


class Lazy(Doubling):
    """A runtime that answers with one row too few where there are several."""

    def predict(self, inputs: Tensors) -> Tensors:
        outputs = super().predict(inputs)
        return {"y": outputs["y"][: max(1, len(inputs["x"]) - 1)]}


def test_requests_whose_answers_cannot_be_split_run_one_by_one(batcher: Make) -> None:
    async def main() -> None:
        runtime = Lazy()
        queue = batcher(runtime, QUICK)
        assert await asyncio.gather(*(submit(queue, n) for n in range(3))) == [[0], [2], [4]]
        assert runtime.calls == [3, 1, 1, 1]

    asyncio.run(main())


# A remote runtime, whose calls are not waited for


class Remote(RemoteRuntime):
    """A remote that doubles its input, and answers when `answer` is called."""

    def __init__(self) -> None:
        self.trouble = ""
        self.calls: list[tuple[Tensors, Callable[[Tensors | Exception], None]]] = []
        self.relayed: list[Callable[[Reply | Exception], None]] = []

    def start(self, inputs: Tensors, done: Callable[[Tensors | Exception], None]) -> None:
        self.calls.append((inputs, done))

    def relay(self, body: bytes, header: str | None, seconds: float, done: Callable[[Reply | Exception], None]) -> None:
        self.relayed.append(done)

    def rows(self) -> list[int]:
        return [len(inputs["x"]) for inputs, _ in self.calls]

    async def answer(self, missing: int = 0) -> None:
        """Answer all calls, and the calls that follow from these."""
        while self.calls:
            inputs, done = self.calls.pop(0)
            bad = (inputs["x"] == BAD).any()
            done(InputError("a bad row") if bad else {"y": 2 * inputs["x"][missing:]})
            await asyncio.sleep(0.001)


def under_way(queue: Batcher) -> tuple[int, int]:
    """Calls, and requests, that a remote has not answered."""
    return queue._running, queue._under_way


def test_requests_that_come_during_a_remote_call_form_a_batch(batcher: Make) -> None:
    async def main() -> None:
        remote = Remote()
        queue = batcher(remote, SLOW)
        first = asyncio.ensure_future(submit(queue, 1))
        await until(lambda: remote.rows() == [1])
        others = asyncio.gather(submit(queue, 2, 3), submit(queue, 4))
        await asyncio.sleep(0.01)
        assert remote.rows() == [1], "one call at once was allowed"
        await remote.answer()
        assert await first == [2]
        assert list(await others) == [[4, 6], [8]]
        assert queue._stats.calls.keys() == {1, 3}
        assert under_way(queue) == (0, 0)

    asyncio.run(main())


def test_few_requests_are_relayed_and_more_form_batches(batcher: Make) -> None:
    async def main() -> None:
        remote = Remote()
        queue = batcher(remote, SLOW)
        answers: list[Reply | RosettaError] = []
        while queue.may_relay:
            queue.relay(b"a request", None, 3, 20, answers.append)
        assert len(remote.relayed) == RELAYED
        waiting = asyncio.gather(*(submit(queue, n) for n in range(3)))
        await until(lambda: remote.rows() == [3])
        for done in remote.relayed:
            done(Reply(b"an answer"))
        assert answers == [Reply(b"an answer")] * RELAYED
        assert queue.may_relay
        await remote.answer()
        assert await waiting == [[0], [2], [4]]
        assert under_way(queue) == (0, 0)
        stats = queue._stats
        assert (stats.calls[3].count, stats.success.count, stats.rows) == (RELAYED + 1, RELAYED, 3 * RELAYED)

    asyncio.run(main())


def test_requests_that_wait_are_not_overtaken(batcher: Make) -> None:
    async def main() -> None:
        remote = Remote()
        queue = batcher(remote, SLOW)
        waiting = asyncio.gather(*(submit(queue, n) for n in range(RELAYED)))
        await until(lambda: remote.rows() == [RELAYED])
        assert not queue.may_relay
        await remote.answer()
        await waiting
        assert queue.may_relay

    asyncio.run(main())


def test_a_request_that_was_passed_on_fails_with_what_the_remote_says(batcher: Make) -> None:
    async def main() -> None:
        remote = Remote()
        queue = batcher(remote, SLOW)
        answers: list[Reply | RosettaError] = []
        for error in (InputError("too much"), ZeroDivisionError("a fault")):
            queue.relay(b"a request", None, 1, 20, answers.append)
            remote.relayed.pop()(error)
        assert [type(answer) for answer in answers] == [InputError, RuntimeFailure]
        assert queue._stats.success.count == 0
        assert under_way(queue) == (0, 0)

    asyncio.run(main())


def test_one_row_that_a_remote_refuses_fails_alone(batcher: Make) -> None:
    async def main() -> None:
        remote = Remote()
        queue = batcher(remote, SLOW)
        sent = asyncio.gather(submit(queue, 1), submit(queue, BAD), submit(queue, 3), return_exceptions=True)
        await until(lambda: remote.rows() == [3])
        await remote.answer()
        good, bad, also_good = await sent
        assert (good, also_good) == ([2], [6])
        assert isinstance(bad, InputError)
        assert under_way(queue) == (0, 0)

    asyncio.run(main())


def test_a_remotes_answers_that_cannot_be_split_are_its_failure(batcher: Make) -> None:
    async def main() -> None:
        remote = Remote()
        queue = batcher(remote, SLOW)
        sent = asyncio.gather(submit(queue, 1), submit(queue, 2), return_exceptions=True)
        await until(lambda: remote.rows() == [2])
        await remote.answer(missing=1)
        assert [str(error) for error in await sent] == ["double-onnx did not give one row for each row."] * 2
        assert under_way(queue) == (0, 0)

    asyncio.run(main())


def test_a_remote_that_cannot_be_called_is_called_again_next_time(batcher: Make) -> None:
    class Broken(Remote):
        def start(self, *_: Any) -> None:
            raise ZeroDivisionError("at once")

    async def main() -> None:
        queue = batcher(Broken(), SLOW)
        for _ in range(2):
            with pytest.raises(RuntimeFailure, match="ZeroDivisionError: at once"):
                await submit(queue, 1)
            assert under_way(queue) == (0, 0)

    asyncio.run(main())


def test_a_remotes_answer_to_a_caller_that_is_gone_is_dropped(batcher: Make) -> None:
    async def main() -> None:
        remote = Remote()
        queue = batcher(remote, SLOW)
        gone = asyncio.ensure_future(submit(queue, 1))
        await until(lambda: remote.rows() == [1])
        gone.cancel()
        await remote.answer()
        assert under_way(queue) == (0, 0)

    asyncio.run(main())


# Many at once


@pytest.mark.parametrize("expected", [QUICK, SLOW])
def test_600_requests_each_get_their_own_answer(batcher: Make, expected: float) -> None:
    async def main() -> None:
        runtime = Doubling()
        queue = batcher(runtime, expected, calls=2, max_batch=16)
        generator = np.random.default_rng(3)

        async def ask(number: int) -> None:
            await asyncio.sleep(float(generator.random()) / 50)
            size, width = int(generator.integers(1, 6)), int(generator.integers(1, 3))
            values = [1000 * number + n for n in range(size)]
            assert await submit(queue, *values, width=width) == [2 * value for value in values]

        await asyncio.gather(*(ask(number) for number in generator.permutation(600).tolist()))
        assert len(runtime.calls) < 600
        assert max(runtime.calls) <= 16

    asyncio.run(main())


def test_the_counts_are_those_of_the_calls(pool: ThreadPoolExecutor) -> None:
    async def main() -> None:
        stats = ModelStats(call_seconds=QUICK)
        queue = Batcher(served(Doubling()), stats, pool, 1, Limits())
        await asyncio.gather(submit(queue, 1, 2), submit(queue, 3))
        await submit(queue, 4)
        assert {size: call.count for size, call in stats.calls.items()} == {3: 1, 1: 1}

    asyncio.run(main())


# The delay


def test_a_slow_model_waits_for_more_rows_when_a_delay_is_set(batcher: Make) -> None:
    async def main() -> None:
        runtime = Doubling()
        queue = batcher(runtime, SLOW, delay=0.05)
        first = asyncio.ensure_future(submit(queue, 1))
        await asyncio.sleep(0.005)
        second = submit(queue, 2)
        assert runtime.calls == []
        assert (await first, await second) == ([2], [4])
        assert runtime.calls == [2]

    asyncio.run(main())


def test_a_full_batch_does_not_wait(batcher: Make) -> None:
    async def main() -> None:
        runtime = Doubling()
        queue = batcher(runtime, SLOW, delay=30.0, max_batch=3)
        first = asyncio.ensure_future(submit(queue, 1))
        await asyncio.sleep(0.005)
        second = submit(queue, 2, 3)
        async with asyncio.timeout(10):
            assert (await first, await second) == ([2], [4, 6])
        assert runtime.calls == [3]

    asyncio.run(main())


def test_a_quick_model_does_not_wait(batcher: Make) -> None:
    async def main() -> None:
        queue = batcher(Doubling(), QUICK, delay=30.0)
        async with asyncio.timeout(10):
            assert await submit(queue, 1) == [2]

    asyncio.run(main())


# The data plane around the queues


class Hanging(Doubling):
    """A runtime in another process, that hangs."""

    in_process = False


def request(*values: float, timeout: float | None = None) -> InferRequest:
    return InferRequest(rows(*values), (("y", False),), timeout=timeout)


@pytest.mark.parametrize(("threads", "workers", "calls"), [(1, 1, 8), (2, 1, 4), (1, 2, 4), (2, 3, 1), (16, 1, 1)])
def test_the_calls_of_all_workers_together_fill_the_machine(
    monkeypatch: pytest.MonkeyPatch, threads: int, workers: int, calls: int
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    plane = DataPlane(Catalog([]), Settings(threads=threads, workers=workers))
    try:
        assert plane._pool._max_workers == plane._calls == calls
    finally:
        plane.close()


def test_a_model_that_hangs_blocks_neither_the_loop_nor_other_models() -> None:
    hanging = [served(Hanging(), name=name) for name in ("first", "second")]
    slow, quick = served(Doubling(0.003), name="slow"), served(Doubling(), name="quick")
    plane = DataPlane(Catalog([*hanging, slow, quick]), Settings())

    async def ask(model: ServedModel, timeout: float | None = None) -> list[float]:
        outputs, _, _ = await plane.infer(model, request(7, timeout=timeout), plane.clock())
        return outputs["y"][:, 0].tolist()  # type: ignore[no-any-return]

    async def main() -> None:
        for model in hanging:
            model.runtime.open.clear()  # type: ignore[attr-defined]
        stuck = [asyncio.create_task(ask(model)) for model in hanging for _ in range(5)]
        await asyncio.sleep(0.01)
        async with asyncio.timeout(5):
            for model in (slow, quick):
                assert await ask(model) == [14]
                assert (await asyncio.to_thread(plane.infer_now, model, request(7), plane.clock()))[0]["y"] == 14
            with pytest.raises(DeadlineExceeded, match=r"first-onnx did not answer within 0\.05 s"):
                await ask(hanging[0], timeout=0.05)
        for model in hanging:
            model.runtime.open.set()  # type: ignore[attr-defined]
        assert await asyncio.gather(*stuck) == [[14]] * 10

    asyncio.run(main())
    plane.close()


@pytest.mark.parametrize("order", [1, -1], ids=["the event loop's call runs", "a thread's call runs"])
def test_what_waits_when_the_service_ends_is_unavailable(caplog: pytest.LogCaptureFixture, order: int) -> None:
    """In a queue, in the pool, or not there yet. The call that runs gives its answer."""
    model = served(Hanging())
    plane = DataPlane(Catalog([model]), Settings())
    model.runtime.open.clear()  # type: ignore[attr-defined]

    async def infer(number: float) -> Any:
        return (await plane.infer(model, request(number), plane.clock()))[0]["y"].item()

    async def infer_now(number: float) -> Any:
        outputs, _ = await asyncio.to_thread(plane.infer_now, model, request(number), plane.clock())
        return outputs["y"].item()

    async def main() -> None:
        calls: list[asyncio.Future[Any]] = []
        for way in [infer, infer_now][::order] * 2:
            calls.append(asyncio.ensure_future(way(1)))
            await asyncio.sleep(0.05)
        plane.close()
        calls += [asyncio.ensure_future(way(1)) for way in (infer, infer_now)]
        async with asyncio.timeout(10):
            answer, *others = await asyncio.gather(*calls, return_exceptions=True)
        assert answer == 2
        words = "double-onnx is not called any more: the service ends. Send the request again in a moment."
        assert [(type(error), str(error)) for error in others] == [(ModelUnavailable, words)] * 5

    asyncio.run(main())
    assert not caplog.records


def test_a_time_limit_is_never_longer_than_the_services() -> None:
    model = served(Hanging())
    plane = DataPlane(Catalog([model]), Settings(timeout=1))
    model.runtime.open.clear()  # type: ignore[attr-defined]

    async def main() -> None:
        with pytest.raises(DeadlineExceeded, match="within 1 s"):
            await plane.infer(model, request(1, timeout=3600), plane.clock())

    start = time.monotonic()
    asyncio.run(main())
    with pytest.raises(DeadlineExceeded, match="within 1 s"):
        plane.infer_now(model, request(1, timeout=3600), plane.clock())
    assert time.monotonic() - start < 10
    assert model.loaded is not None
    model.loaded.close()
    plane.close()


def test_a_model_is_measured_before_it_answers() -> None:
    models = [served(Doubling(), name="quick"), served(Doubling(0.002), name="slow"), served(Hanging(), name="other")]
    plane = DataPlane(Catalog(models), Settings())
    quick, slow, other = (plane.stats[model.name].expected_seconds(1) for model in models)
    assert quick < 0.001 < 0.002 <= slow
    assert other == float("inf")
    assert all(not stats.calls for stats in plane.stats.models.values())
    plane.close()


def test_a_model_that_takes_no_eight_rows_is_served_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    class OneRow(Doubling):
        def predict(self, inputs: Tensors) -> Tensors:
            if len(inputs["x"]) > 1:
                raise ValueError("one row only")
            return super().predict(inputs)

    model = served(OneRow())
    plane = DataPlane(Catalog([model]), Settings())
    assert "double-onnx could not be measured: ValueError: one row only" in caplog.text

    async def main() -> list[Answered]:
        return await asyncio.gather(*(plane.infer(model, request(n), plane.clock()) for n in range(4)))

    assert [outputs["y"].item() for outputs, _, _ in asyncio.run(main())] == [0, 2, 4, 6]
    plane.close()


def test_an_error_of_ours_keeps_its_kind() -> None:
    class Failing(Doubling):
        def predict(self, inputs: Tensors) -> Tensors:
            if inputs["x"].any():
                raise RuntimeFailure("The Node process failed.")
            return super().predict(inputs)

    model = served(Failing())
    plane = DataPlane(Catalog([model]), Settings())
    for ask in (
        lambda: asyncio.run(plane.infer(model, request(1), plane.clock())),
        lambda: plane.infer_now(model, request(1), plane.clock()),
    ):
        with pytest.raises(RosettaError) as caught:
            ask()
        assert str(caught.value) == "The Node process failed."
    plane.close()
