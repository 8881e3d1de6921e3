"""HTTP/2 as a server of gRPC needs it (RFC 9113): frames, windows, and what a caller may not do.

The package hpack reads headers. The answers' are written without its table, so that they are constants. A library for
all of HTTP/2 in Python costs more for each call than a small model does.
"""

import math
import struct
import time
from collections.abc import Iterable

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

MAX_CALLS = 1000
"""Calls of one connection at once."""

HEADER_BYTES, FRAME_BYTES, WINDOW_BYTES = 65_536, 65_536, 1_048_576
"""The longest headers of a call, the longest frame, and what a caller may send of one call before it is read."""

CONNECTION_BYTES = 8 * WINDOW_BYTES
"""What a caller may send of all calls before it is read."""

MAX_CONTINUATIONS, MAX_KNOWN = 16, 64
LARGEST = 2**31 - 1

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM, ACK, END_HEADERS, PADDED, WITH_PRIORITY = 0x1, 0x1, 0x4, 0x8, 0x20

NO_ERROR, PROTOCOL_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR = 0x0, 0x1, 0x3, 0x6
REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 0x7, 0x8, 0x9, 0xB

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)

OUR_SETTINGS = {
    MAX_CONCURRENT_STREAMS: MAX_CALLS,
    INITIAL_WINDOW_SIZE: WINDOW_BYTES,
    MAX_FRAME_SIZE: FRAME_BYTES,
    MAX_HEADER_LIST_SIZE: HEADER_BYTES,
}

_head = struct.Struct(">HBBBI")
"""The 9 bytes before a frame's payload: its length in 3 bytes, its kind, its flags, its stream."""
_number = struct.Struct(">I")

Headers = dict[bytes, bytes]


class Violation(Exception):
    """The caller did what HTTP/2 forbids: the connection ends with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"HTTP/2 error {code}")
        self.code = code


class Http2:
    """The server's side of a connection, without its socket: `receive` takes what came, `out` is what is to be sent.

    Subclasses say what becomes of a call's headers, data, end and reset.
    """

    def __init__(self) -> None:
        self.out = bytearray()
        self.highest = 0
        """The newest call."""
        self.is_ending = False
        """Whether further calls are refused."""
        self._rest = b""
        self._has_begun = self._has_settings = False
        self._decoder = hpack.Decoder(HEADER_BYTES)
        self._known: dict[bytes, Headers] = {}
        """The headers that blocks stand for which only name entries of the table."""
        self._block: tuple[int, int, bytearray] | None = None
        """Headers whose end has not come: the call, the flags, the bytes."""
        self._continuations = 0
        self._room, self._first_room, self._frame_bytes = 65_535, 65_535, 16_384
        """What may be sent of all calls, at first of a new one, and in one frame."""
        self._rooms: dict[int, int] = {}
        """What may be sent of each call, besides `_first_room`, which a caller may change for all of them at once."""
        self._most_room = 0
        """No call in `_rooms` has more."""
        self._is_roomier = False
        self._window, self._unread = 65_535, 0
        self._windows: dict[int, int] = {}
        """What may still come of each call whose request has not ended."""
        self._unread_of: dict[int, int] = {}
        """Of each such call: what was acknowledged, and the caller was not told of yet."""
        settings = b"".join(struct.pack(">HI", name, value) for name, value in OUR_SETTINGS.items())
        self._frame(SETTINGS, 0, 0, settings)
        self._widen(0, CONNECTION_BYTES - self._window)
        self._window = CONNECTION_BYTES

    # --- What a subclass does with it

    def on_headers(self, stream: int, headers: Headers) -> None:
        """A call begins."""

    def on_data(self, stream: int, data: bytes, size: int) -> None:
        """Data came for an open call; `size` is what is to be acknowledged."""

    def on_end(self, stream: int) -> None:
        """A call's request has ended."""

    def on_reset(self, stream: int) -> None:
        """The caller takes a call back."""

    def on_room(self) -> None:
        """More may be sent than before."""

    # --- What comes

    def receive(self, data: bytes, until: float = math.inf) -> bool:
        """Take what came. Raises Violation.

        True where it is later than `until`, by `time.monotonic`, and there is more to take: call it again without data.
        """
        is_late = self._take_frames(data, until)
        if self._is_roomier:  # once for all frames: a thousand calls may wait for room
            self._is_roomier = False
            self.on_room()
        return is_late

    def _take_frames(self, data: bytes, until: float) -> bool:
        data = self._rest + data if self._rest else data
        place, end = 0, len(data)
        if not self._has_begun:
            _insist(data.startswith(PREFACE[:end]))
            if end < len(PREFACE):
                self._rest = data
                return False
            self._has_begun, place = True, len(PREFACE)
        while end - place >= 9:
            high, low, kind, flags, stream = _head.unpack_from(data, place)
            size = high << 8 | low
            if size > FRAME_BYTES:
                raise Violation(FRAME_SIZE_ERROR)
            if end - place < 9 + size:
                break
            payload = data[place + 9 : place + 9 + size]
            place += 9 + size
            self._take(kind, flags, stream & LARGEST, payload)
            if time.monotonic() > until:
                self._rest = data[place:]
                return True
        self._rest = data[place:]
        return False

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if self._block is not None and kind != CONTINUATION:
            raise Violation(PROTOCOL_ERROR)
        if not self._has_settings and (kind != SETTINGS or flags & ACK):
            raise Violation(PROTOCOL_ERROR)
        if kind == DATA:
            self._take_data(flags, stream, payload)
        elif kind == HEADERS:
            self._take_headers(flags, stream, payload)
        elif kind == CONTINUATION:
            self._take_continuation(flags, stream, payload)
        elif kind == WINDOW_UPDATE:
            self._take_room(stream, payload)
        elif kind == SETTINGS:
            self._take_settings(flags, stream, payload)
        elif kind == PING:
            _insist(len(payload) == 8, FRAME_SIZE_ERROR)
            _insist(stream == 0)
            if not flags & ACK:
                self._frame(PING, ACK, 0, payload)
        elif kind == RST_STREAM:
            _insist(len(payload) == 4, FRAME_SIZE_ERROR)
            _insist(0 < stream <= self.highest)
            self.on_reset(stream)
        elif kind == PUSH_PROMISE:
            raise Violation(PROTOCOL_ERROR)

    def _take_data(self, flags: int, stream: int, payload: bytes) -> None:
        _insist(0 < stream <= self.highest)
        size = len(payload)
        self._window -= size
        _insist(self._window >= 0, FLOW_CONTROL_ERROR)
        if flags & PADDED:
            payload = _without_padding(payload)
        if stream not in self._windows:  # it is over, and the caller does not know that yet
            self.acknowledge(stream, size)
            return
        self._windows[stream] -= size
        _insist(self._windows[stream] >= 0, FLOW_CONTROL_ERROR)
        self.on_data(stream, payload, size)
        if flags & END_STREAM:
            self._end(stream)

    def _end(self, stream: int) -> None:
        self._unread_of.pop(stream, None)
        if self._windows.pop(stream, None) is not None:
            self.on_end(stream)

    def _take_headers(self, flags: int, stream: int, payload: bytes) -> None:
        if flags & PADDED:
            payload = _without_padding(payload)
        if flags & WITH_PRIORITY:
            _insist(len(payload) >= 5, FRAME_SIZE_ERROR)
            payload = payload[5:]
        if flags & END_HEADERS:
            self._begin(flags, stream, payload)
        else:
            self._block, self._continuations = (stream, flags, bytearray(payload)), 0

    def _take_continuation(self, flags: int, stream: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream:
            raise Violation(PROTOCOL_ERROR)
        _, first_flags, block = self._block
        block += payload
        self._continuations += 1
        if self._continuations > MAX_CONTINUATIONS or len(block) > HEADER_BYTES:
            raise Violation(ENHANCE_YOUR_CALM)
        if flags & END_HEADERS:
            self._block = None
            self._begin(first_flags, stream, bytes(block))

    def _begin(self, flags: int, stream: int, block: bytes) -> None:
        _insist(stream % 2 == 1)
        headers = self._decoded(block)  # in any case: the table changes with it
        if stream <= self.highest:  # trailers, which gRPC's callers have no use for
            _insist(bool(flags & END_STREAM))
            self._end(stream)
            return
        self.highest = stream
        if self.is_ending or len(self._rooms) >= MAX_CALLS:
            self.reset(stream, REFUSED_STREAM)
            return
        self._rooms[stream], self._windows[stream] = 0, WINDOW_BYTES
        self.on_headers(stream, headers)
        if flags & END_STREAM:
            self._end(stream)

    def _decoded(self, block: bytes) -> Headers:
        """A call's headers; the first one of each name counts.

        A block of bytes from 0x80 to 0xFE only names entries of the table. It means the same until another block comes,
        which may change the table.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        try:
            fields = self._decoder.decode(block, raw=True)
        except (hpack.HPACKError, ValueError, IndexError) as error:
            raise Violation(COMPRESSION_ERROR) from error
        headers: Headers = {}
        for name, value in fields:
            headers.setdefault(bytes(name), bytes(value))
        if block and min(block) >= 0x80 and max(block) < 0xFF and len(self._known) < MAX_KNOWN:
            self._known[block] = headers
        else:
            self._known.clear()
        return headers

    def _take_room(self, stream: int, payload: bytes) -> None:
        _insist(len(payload) == 4, FRAME_SIZE_ERROR)
        more = _number.unpack(payload)[0] & LARGEST
        _insist(more > 0 and stream <= self.highest)
        if stream == 0:
            self._room += more
            _insist(self._room <= LARGEST, FLOW_CONTROL_ERROR)
        elif stream in self._rooms:
            self._rooms[stream] += more
            self._most_room = max(self._most_room, self._rooms[stream])
            self._check_rooms()
        self._is_roomier = True

    def _check_rooms(self) -> None:
        """Raise Violation where a call has more room than there may be."""
        if self._most_room + self._first_room > LARGEST:  # or a call had, which is over
            self._most_room = max(self._rooms.values(), default=0)
            _insist(self._most_room + self._first_room <= LARGEST, FLOW_CONTROL_ERROR)

    def _take_settings(self, flags: int, stream: int, payload: bytes) -> None:
        _insist(stream == 0)
        _insist(len(payload) % 6 == 0 and not (flags & ACK and payload), FRAME_SIZE_ERROR)
        if flags & ACK:
            return
        self._has_settings = True
        for name, value in struct.iter_unpack(">HI", payload):
            if name == INITIAL_WINDOW_SIZE:
                _insist(value <= LARGEST, FLOW_CONTROL_ERROR)
                self._first_room = value
                self._check_rooms()
            elif name == MAX_FRAME_SIZE:
                _insist(16_384 <= value < 2**24)
                self._frame_bytes = value
        self._frame(SETTINGS, ACK, 0, b"")
        self._is_roomier = True

    # --- What goes

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes | bytearray) -> None:
        size = len(payload)
        self.out += _head.pack(size >> 8, size & 0xFF, kind, flags, stream)
        self.out += payload

    def _widen(self, stream: int, more: int) -> None:
        self._frame(WINDOW_UPDATE, 0, stream, _number.pack(more))

    def acknowledge(self, stream: int, size: int) -> None:
        """Let the caller send as much again."""
        self._unread += size
        if self._unread >= CONNECTION_BYTES // 2:
            self._widen(0, self._unread)
            self._window, self._unread = self._window + self._unread, 0
        if stream in self._windows:
            unread = self._unread_of.get(stream, 0) + size
            if unread >= WINDOW_BYTES // 2:
                self._widen(stream, unread)
                self._windows[stream] += unread
                unread = 0
            self._unread_of[stream] = unread

    def room(self, stream: int) -> int:
        """How many bytes of a call may be sent now, in one frame."""
        if stream not in self._rooms:
            return 0
        return min(self._room, self._rooms[stream] + self._first_room, self._frame_bytes)

    def send_data(self, stream: int, data: bytes | bytearray) -> None:
        """Send a part of an answer, for which there is room."""
        self._room -= len(data)
        self._rooms[stream] -= len(data)
        self._frame(DATA, 0, stream, data)

    def send_headers(self, stream: int, block: bytes, is_end: bool = False) -> None:
        """Send what `header_block` made."""
        self._frame(HEADERS, END_HEADERS | (END_STREAM if is_end else 0), stream, block)

    def reset(self, stream: int, code: int) -> None:
        """Tell the caller that nothing more of a call is read or sent."""
        self._frame(RST_STREAM, 0, stream, _number.pack(code))

    def ping(self) -> None:
        """Ask whether the caller is there."""
        self._frame(PING, 0, 0, b"are you?")

    def go_away(self, code: int) -> None:
        """Refuse further calls."""
        self.is_ending = True
        self._frame(GOAWAY, 0, 0, _number.pack(self.highest) + _number.pack(code))

    def forget(self, stream: int) -> None:
        """A call is over."""
        self._rooms.pop(stream, None)
        self._windows.pop(stream, None)
        self._unread_of.pop(stream, None)


def header_block(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as HPACK has them where nothing goes into the table: names and values as they are."""
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in headers)


def _text(text: bytes) -> bytes:
    """A text behind its length: an integer whose first byte has 7 bits (RFC 7541, 5.1)."""
    if len(text) < 127:
        return bytes((len(text),)) + text
    rest, length = len(text) - 127, bytearray(b"\x7f")
    while rest >= 128:
        length.append(rest % 128 + 128)
        rest //= 128
    length.append(rest)
    return bytes(length) + text


def _without_padding(payload: bytes) -> bytes:
    _insist(len(payload) > 0 and payload[0] < len(payload))
    return payload[1 : len(payload) - payload[0]]


def _insist(is_kept: bool, code: int = PROTOCOL_ERROR) -> None:
    if not is_kept:
        raise Violation(code)
