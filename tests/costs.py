"""What requests cost a service while they are answered: processor time, memory, and how long a health check waits."""

import contextlib
import http.client
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, TypeVar

from tests.serving import Service

CPU_SECONDS, MEMORY_MB, WAIT_SECONDS = 0.5, 300, 0.05
"""What a request of less than a million bytes may cost, and how long a health check may wait meanwhile."""

DOZEN = 12

TRIES = 6
"""The machine may be busy with something else: a body is too dear if it is so each time."""

PAUSE, DELAYS = 0.003, 3
"""Seconds between two health checks, and how often a check has to wait for a processor: there, at its answer, and in
between for whoever holds the interpreter."""

TIMEOUT = 20

COUNTED_MB = 1.0
"""Less is the allocator's own step, not what a request needs: a short one would seem to need thousands of times its
bytes."""

TICK = os.sysconf("SC_CLK_TCK")

GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "8388608", "MALLOC_TRIM_THRESHOLD_": "8388608"}
"""Settings by which the C library of a service gives back what is free in pieces of 8 MB. Else it keeps hundreds of
MB, and a request that uses them seems to need nothing."""

R = TypeVar("R")

Send = Callable[[R], int]
"""Sends a request, waits until it is answered, and returns how many bytes it had. Raises where the answer is wrong."""


@dataclass(frozen=True)
class Cost:
    """Of a request, or of several, one after the other."""

    cpu: float
    """Seconds."""
    memory: float
    """MB: by how much the worker's peak was above what it had before the request; of several, the highest."""
    wait: float
    """Seconds: the longest health check."""
    size: int = 0
    """Bytes that were sent."""
    memory_per_byte: float = 0.0
    """Bytes of memory for each byte sent; of several requests, the highest."""
    largest: int = 0
    """The place of the request with the highest memory."""
    peak: float = 0.0
    """MB that the worker had at the most, with what it keeps of earlier requests."""

    def __str__(self) -> str:
        return (
            f"{self.size} bytes, {self.cpu:.2f} s of CPU, {self.memory:.1f} MB, {self.memory_per_byte:.0f} bytes of "
            f"memory a byte; a health check waits {1000 * self.wait:.0f} ms"
        )

    @property
    def is_too_high(self) -> bool:
        return not self.is_within(Cost(CPU_SECONDS, MEMORY_MB, WAIT_SECONDS))

    def is_within(self, most: "Cost") -> bool:
        return self.cpu <= most.cpu and self.memory <= most.memory and self.wait <= most.wait

    def least(self, other: "Cost") -> "Cost":
        """The lower time of each, but the higher memory: no busy machine takes more of it, and a second try may find
        what the first one got.
        """
        largest = self if self.memory >= other.memory else other
        cpu, wait, peak = min(self.cpu, other.cpu), min(self.wait, other.wait), max(self.peak, other.peak)
        return replace(largest, cpu=cpu, wait=wait, peak=peak)


class Meter(Generic[R]):
    """Sends requests to a service with one worker, and measures what they cost there."""

    def __init__(self, service: Service, connect: Callable[[], AbstractContextManager[Send[R]]]) -> None:
        (worker,) = service.workers()
        self._process = Path(f"/proc/{worker}")
        self._port = service.port
        self._connect = connect
        self._waits, self._delays = [0.0], [0.0]
        self._is_done = threading.Event()
        self._checks = threading.Thread(target=self._keep_checking)

    def __enter__(self) -> "Meter[R]":
        self._checks.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._checks.join(TIMEOUT)

    def _keep_checking(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT)
        with contextlib.closing(connection):
            while True:
                start = time.perf_counter()
                if self._is_done.wait(PAUSE):
                    return
                self._delays.append(time.perf_counter() - start - PAUSE)  # a busy machine's, which is not the service's
                start = time.perf_counter()
                connection.request("GET", "/v2/health/live")
                answer = connection.getresponse()
                answer.read()
                self._waits.append(time.perf_counter() - start if answer.status == 200 else TIMEOUT)

    def cost(self, requests: Sequence[R]) -> Cost:
        """What they cost, one after the other."""
        cpu, growths, sizes, peak = self._cpu(), [], [], 0.0
        self._waits.clear()
        self._delays.clear()
        with self._connect() as send:
            for request in requests:
                (self._process / "clear_refs").write_text("5")  # the peak is that of the memory from now on
                before = self.memory()
                sizes.append(send(request))
                highest = self.memory("VmHWM")
                growths.append(highest - before)
                peak = max(peak, highest)
        time.sleep(0.005)  # the health check that waited is answered
        wait = max(self._waits, default=TIMEOUT) - DELAYS * max(self._delays, default=0.0)
        memory = max(growths)
        ratios = [2**20 * mb / size for mb, size in zip(growths, sizes, strict=True) if mb >= COUNTED_MB]
        return Cost(self._cpu() - cpu, memory, wait, sum(sizes), max(ratios, default=0.0), growths.index(memory), peak)

    def least_cost(self, requests: Sequence[R]) -> Cost:
        """Of several tries, until it is not too high."""
        cost = self.cost(requests)
        for _ in range(TRIES - 1):
            if not cost.is_too_high:
                break
            time.sleep(0.1)
            cost = cost.least(self.cost(requests))
        return cost

    def memory(self, name: str = "VmRSS") -> float:
        """MB that the worker has, or its peak by the name VmHWM."""
        lines = (self._process / "status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024

    def _cpu(self) -> float:
        fields = (self._process / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK


class Costs(Generic[R]):
    """What very many requests cost. They are sent by the dozen: where a dozen costs no more than one may, none does."""

    def __init__(self, meter: Meter[R]) -> None:
        self._meter = meter
        self._cases, self._sent, self._cpu, self._memory, self._memory_per_byte = 0, 0, 0.0, 0.0, 0.0
        self._before = self._peak = meter.memory()
        self.dear: list[tuple[R, Cost]] = []
        """The requests that cost too much."""

    def add(self, requests: Sequence[R]) -> None:
        """Send a dozen, and each of them alone if they cost too much."""
        cost = self._meter.cost(requests)
        self._cases, self._sent, self._cpu = self._cases + len(requests), self._sent + cost.size, self._cpu + cost.cpu
        self._memory, self._peak = max(self._memory, cost.memory), max(self._peak, cost.peak)
        self._memory_per_byte = max(self._memory_per_byte, cost.memory_per_byte)
        if cost.memory > MEMORY_MB:  # sent again, it may get what the worker still has from the first time
            self.dear.append((requests[cost.largest], cost))
        elif cost.is_too_high:
            alone = [(request, self._meter.least_cost([request])) for request in requests]
            self.dear += [(request, cost) for request, cost in alone if cost.is_too_high]

    @property
    def growth(self) -> float:
        """MB: the worker's peak above what it had before all of them. It keeps some, so that a later one needs less."""
        return self._peak - self._before

    def __str__(self) -> str:
        return (
            f"{self._cases} hostile requests, {self._sent / self._cases:.0f} bytes each: "
            f"{1e6 * self._cpu / self._sent:.2f} s of CPU a megabyte; {self._memory:.0f} MB, and "
            f"{self._memory_per_byte:.0f} bytes of memory a byte, at the most; the worker had {self._before:.0f} MB, "
            f"{self._peak:.0f} MB at its peak, and has {self._meter.memory():.0f} MB"
        )
