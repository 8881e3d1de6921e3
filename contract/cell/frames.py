"""How two processes speak about tensors: in frames, over a pipe in each direction.

A frame is the header's length (4 bytes, little-endian), the header as JSON, and as many bytes as its `bytes` says. A
short frame has no JSON: SHORT in place of the length, then two numbers, for what both sides know already. The other
process may hang, die halfway, or be hostile: every wait has a deadline, and every length a limit.
"""

import json
import os
import select
import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any

MAX_HEADER = 1 << 20
MAX_BYTES = 1 << 30
SHORT = 0xFFFFFFFF
CHUNK = 1 << 16
"""Bytes that a pipe holds."""
LOOKS = 200
"""How often to look for an answer that is due at once, before sleeping: about as many microseconds."""

Payload = memoryview

NOTHING = memoryview(b"")
_SHORT = struct.Struct("<IIQ")


class Frames:
    """One end: the pipe that it writes to, and the pipe that it reads from."""

    def __init__(self, writing: int, reading: int) -> None:
        self._writing, self._reading = writing, reading
        # Whoever hangs reads nothing, and a blocking write would wait for it for ever.
        os.set_blocking(writing, False)
        self._rest = b""
        """What was read beyond the last frame."""
        self._polls = {pipe: select.poll() for pipe in (writing, reading)}
        self._polls[writing].register(writing, select.POLLOUT)
        self._polls[reading].register(reading, select.POLLIN)

    def send(self, header: Mapping[str, Any], payloads: Sequence[Payload] = (), deadline: float | None = None) -> None:
        """Write a frame; `payloads` are of bytes. Raises TimeoutError, and OSError where the other end is closed."""
        size = sum(map(len, payloads))
        text = json.dumps({**header, "bytes": size}, separators=(",", ":")).encode()
        self._write([memoryview(struct.pack("<I", len(text)) + text), *filter(len, payloads)], deadline)

    def send_short(self, same: int, call: int, deadline: float | None = None, payloads: Sequence[Payload] = ()) -> None:
        """Write a short frame, which arrives as the header `{"same": same, "call": call}`. Raises as `send` does.

        The other end has to know how many bytes of `payloads` follow.
        """
        self._write([memoryview(_SHORT.pack(SHORT, same, call)), *filter(len, payloads)], deadline)

    def look(self) -> None:
        """Look for a frame that is due at once, for some 200 us: to be woken costs 20 us where a core fell asleep."""
        arrived = self._polls[self._reading].poll
        for _ in range(LOOKS):
            if arrived(0):
                return
            os.sched_yield()  # whoever is to answer may wait for this core

    def receive(self, deadline: float | None = None, after_short: int = 0) -> tuple[dict[str, Any], Payload]:
        """Read a frame; `after_short` is how many bytes follow if it is a short one.

        Raises TimeoutError, EOFError where the other end is closed, and ValueError for no frame.
        """
        while len(self._rest) < 4:
            self._rest += self._read(deadline)
        (length,) = struct.unpack_from("<I", self._rest)
        if length == SHORT:
            while len(self._rest) < _SHORT.size:
                self._rest += self._read(deadline)
            _, same, call = _SHORT.unpack_from(self._rest)
            self._rest = self._rest[_SHORT.size :]
            return {"same": same, "call": call}, self._payload(after_short, deadline)
        if length > MAX_HEADER:
            raise ValueError(f"a header of {length} bytes")
        while len(self._rest) < 4 + length:
            self._rest += self._read(deadline)
        header = json.loads(self._rest[4 : 4 + length])
        size = header.get("bytes", 0) if isinstance(header, dict) else -1
        if type(size) is not int or not 0 <= size <= MAX_BYTES:
            raise ValueError("a header that does not say how many bytes follow")
        self._rest = self._rest[4 + length :]
        return header, self._payload(size, deadline)

    def _payload(self, size: int, deadline: float | None) -> Payload:
        """The next so many bytes."""
        if not size:
            return NOTHING
        payload, done = memoryview(bytearray(size)), min(size, len(self._rest))
        payload[:done], self._rest = self._rest[:done], self._rest[done:]
        while done < size:
            done += self._read_into(payload[done:], deadline)
        return payload

    def _write(self, parts: list[Payload], deadline: float | None) -> None:
        while parts:
            try:
                written = os.writev(self._writing, parts)
            except BlockingIOError:
                self._wait(self._writing, deadline, "it read nothing within its time limit")
                continue
            while parts and written >= len(parts[0]):
                written -= len(parts.pop(0))
            if parts:
                parts[0] = parts[0][written:]

    def _read(self, deadline: float | None) -> bytes:
        if deadline is not None:  # without one, reading waits by itself
            self._wait(self._reading, deadline, "no answer within its time limit")
        data = os.read(self._reading, CHUNK)
        if not data:
            raise EOFError("it ended")
        return data

    def _read_into(self, view: Payload, deadline: float | None) -> int:
        if deadline is not None:  # without one, reading waits by itself
            self._wait(self._reading, deadline, "no answer within its time limit")
        count = os.readv(self._reading, [view])
        if not count:
            raise EOFError("it ended")
        return count

    def _wait(self, pipe: int, deadline: float | None, problem: str) -> None:
        left = None if deadline is None else max(0.0, 1000 * (deadline - time.monotonic()))
        if not self._polls[pipe].poll(left):
            raise TimeoutError(problem)
