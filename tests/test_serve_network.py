"""What an operator does and sees while the service is under load: reloads, scrapers, a log that nobody reads."""

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from contract.code import ROOT
from serve.access_log import MAX_WAITING
from serve.stats import FILES
from tests.serving import Service, ask_on, free_port, started, wait_until
from tests.test_docs import write_model
from tests.test_serve_callers import INFER, body

STATS = "/v2/models/stats"


@contextmanager
def again_and_again(*calls: Callable[[], object]) -> Iterator[None]:
    """Make these calls meanwhile, each in a thread of its own. What one of them raises is raised at the end."""
    stop = threading.Event()

    def keep_calling(call: Callable[[], object]) -> None:
        while not stop.is_set():
            call()

    with ThreadPoolExecutor(len(calls)) as pool:
        running = [pool.submit(keep_calling, call) for call in calls]
        try:
            yield
        finally:
            stop.set()
    for each in running:
        each.result()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_reload_leaves_no_gap_in_the_answers(artifacts: Path, tmp_path: Path, workers: int) -> None:
    """New workers need seconds to start Node and TF.js; the old ones answer all the while."""
    for format in ("onnx", "tfjs"):
        shutil.copytree(artifacts / "keras_cnn" / format, tmp_path / "artifacts" / "keras_cnn" / format)
    with started(tmp_path / "artifacts", tmp_path / "output", SERVE_WORKERS=str(workers)) as service:
        wait_until(lambda: len(service.workers()) == workers)
        answered: list[float] = []

        def ask() -> None:
            assert service.ask("POST", INFER, body(1))[0] == 200
            answered.append(time.monotonic())

        def share_of_the_longest_gap() -> float:
            """Of one reload's time."""
            old, start = service.workers(), time.monotonic()
            os.kill(service.process.pid, signal.SIGHUP)
            wait_until(lambda: len(service.workers()) == workers and not service.workers() & old)
            end = time.monotonic()
            times = sorted([start, end, *(at for at in answered if start < at < end)])
            return max(later - earlier for earlier, later in itertools.pairwise(times)) / (end - start)

        with again_and_again(ask, ask):
            gaps = [share_of_the_longest_gap() for _ in range(3)]
        assert min(gaps) < 1 / 2, "where the old workers end first, nothing is answered while the new ones load"


def test_scrapers_of_two_workers_get_their_answers_under_load_and_beside_a_torn_file(tmp_path: Path) -> None:
    write_model(tmp_path / "artifacts" / "keras_cnn" / "onnx")
    state = tmp_path / "state"
    with started(tmp_path / "artifacts", tmp_path / "output", SERVE_WORKERS="2", SERVE_STATE=str(state)) as service:
        wait_until(lambda: len(list(state.glob(FILES))) == 2)
        scraped = dict.fromkeys(("/metrics", STATS), 0)

        def scrape(path: str) -> None:
            code, _, answer = service.ask("GET", path)
            assert code == 200 and b"keras_cnn" in answer
            scraped[path] += 1

        sizes = iter(range(1, 1_000_000))

        def infer() -> None:
            assert service.ask("POST", INFER, body(next(sizes) % 60 + 1))[0] == 200

        scrapers = [lambda: scrape("/metrics"), lambda: scrape(STATS)] * 3
        with again_and_again(infer, *scrapers):
            wait_until(lambda: min(scraped.values()) >= 150)
            for path in state.glob(FILES):
                (state / FILES.replace("*", f"0-{path.stat().st_ino}")).write_bytes(path.read_bytes()[:40])
            least = {path: count + 50 for path, count in scraped.items()}
            wait_until(lambda: all(scraped[path] >= least[path] for path in least))


@pytest.mark.parametrize("output", ["a pipe that nobody reads", "/dev/full"])
def test_an_access_log_that_cannot_be_written_holds_up_no_answer(tmp_path: Path, output: str) -> None:
    """A pipe takes 64 kB, which are some hundred lines, and MAX_WAITING lines wait for it."""
    write_model(tmp_path / "artifacts" / "keras_cnn" / "onnx")
    port = free_port()
    settings = {"ARTIFACTS": str(tmp_path / "artifacts"), "PORT": str(port), "HOST": "127.0.0.1"}
    settings |= {"SERVE_WORKERS": "1", "SERVE_ACCESS_LOG": "1"}
    reading, writing = os.pipe()
    target = writing if "pipe" in output else os.open(output, os.O_WRONLY)
    with (tmp_path / "stderr").open("wb") as errors:
        environment = {**os.environ, **settings}
        command = [sys.executable, "-m", "serve"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=target, stderr=errors)
    service = Service(process, port, tmp_path)
    try:
        wait_until(lambda: answers(port), 180)
        with closing(service.connect()) as connection:
            codes = {ask_on(connection, "GET", "/v2/health/live")[0] for _ in range(MAX_WAITING + 1_500)}
        assert codes == {200}
        if "pipe" in output:
            assert dropped(service, reading) > 0
    finally:
        process.terminate()
        for descriptor in {reading, writing, target}:
            os.close(descriptor)
        process.wait(60)
    assert "Traceback" not in service.log


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def dropped(service: Service, reading: int) -> int:
    """How many lines the log says are missing, once somebody reads it."""
    log = bytearray()

    def read() -> bool:
        service.ask("GET", "/v2/health/live")
        log.extend(os.read(reading, 1 << 20))  # it may end within a line
        return bool(counts())

    def counts() -> list[int]:
        whole = bytes(log).split(b"\n")[:-1]
        return [json.loads(line)["dropped_lines"] for line in whole if line.startswith(b'{"dropped_lines"')]

    wait_until(read)
    return sum(counts())
