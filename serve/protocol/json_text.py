"""JSON -> values, at a cost that is bounded by what a model can use.

A body of a few kilobytes may decompress to millions of lists, and the interpreter stands still while a parser makes
them. So a long body is read in two parts. A long list of numbers, nested evenly or not at all, stays text until its
shape was checked, and is then read piece by piece. All that is around such lists may hold `MAX_VALUES` values.
"""

import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import orjson
import simdjson
from numpy.typing import NDArray

from contract.errors import BodyTooLarge, InputError

MAX_VALUES = 250_000
"""Values that may be around the long lists of numbers: to make so many takes 20 ms or so.

A list or an object costs as much as three other values.
"""

MAX_DEPTH = 32
MAX_TENSORS = 1000

BLOCK = 32_768
LONG = 2 * BLOCK
"""Bytes; a longer text is read in two parts, and a list of numbers is long from so many bytes on."""

PIECE = 262_144
"""Bytes that are parsed at once: other threads run in between."""

NUMBERS = b"0123456789+-.eE"
SPACES = b" \t\r\n"
IN_LISTS = NUMBERS + SPACES + b"[],"
TO_SPACES = bytes.maketrans(b"[]", b"  ")
TO_ZEROS = bytes.maketrans(NUMBERS, b"0" * len(NUMBERS))
MISPLACED = (b"0[", b"]0", b"][")
"""A number before an opening bracket or behind a closing one, and lists without a comma between them."""

KINDS = {"f": ("d", np.float64), "i": ("i", np.int64), "u": ("u", np.uint64)}
"""A dtype's kind -> how simdjson reads numbers for it."""


class Numbers:
    """A long list of numbers that are still text: only its brackets and commas were looked at."""

    def __init__(self, text: bytes, start: int, end: int, sizes: tuple[int, ...]) -> None:
        self._text, self._start, self._end = text, start, end  # a copy of its part would hold up other threads
        self.sizes = sizes
        """How it is nested: one size for a flat list."""

    def __repr__(self) -> str:
        return f"a list of {self.sizes[0]}"

    def read(self, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
        """The values in pieces, as float64 for fractions, as 64-bit numbers else.

        Raises ValueError for text that is not JSON or does not fit 64 bits, TypeError for other values than expected.
        """
        kind, wide = KINDS["f" if dtype.kind not in "iu" else dtype.kind]
        parser = simdjson.Parser()
        for piece in self._pieces():
            if (b"[" in piece or b"]" in piece) and _is_misplaced(piece):
                raise ValueError("a number stands beside a list")
            parsed: Any = parser.parse(b"[%b]" % piece.translate(TO_SPACES))
            yield np.frombuffer(parsed.as_buffer(of_type=kind), wide).copy()
            del parsed  # the parser cannot be used again before

    def _pieces(self) -> Iterator[bytes]:
        start, end = self._start, self._end
        while start < end:
            cut = self._text.find(b",", start + PIECE, end)
            cut = end if cut < 0 else cut
            yield self._text[start:cut]
            start = cut + 1


def _is_misplaced(piece: bytes) -> bool:
    """Whether a number stands beside a list. It is looked for in bulk: a pattern would take longer than to parse."""
    kinds = piece.translate(TO_ZEROS, SPACES)
    return any(wrong in kinds for wrong in MISPLACED)


def parse(body: bytes) -> Any:
    """The value that a JSON text holds, with `Numbers` in place of long lists of numbers.

    NaN and infinities are read, too. Raises InputError, or BodyTooLarge where the values are too many.
    """
    lists: dict[str, Numbers] = {}
    if len(body) > LONG:
        body = _without_numbers(body, lists)
        if (count := _count_values(body)) > MAX_VALUES:
            raise BodyTooLarge(
                f"The request's JSON has {count} values besides long lists of numbers, expected {MAX_VALUES} at most. "
                "Send less at once, or raw tensor data."
            )
    try:
        value = orjson.loads(body)
    except ValueError as error:
        value = _parse_non_finite(body, error)
    return _put_back(value, lists) if lists else value


def _parse_non_finite(body: bytes, error: ValueError) -> Any:
    """JSON as many clients write it: with NaN and Infinity, which the standard does not have."""
    if b"NaN" in body or b"Infinity" in body:
        try:
            return json.loads(body)
        except (ValueError, RecursionError):  # the first error tells more
            pass
    text = body[:60].decode("utf-8", "replace")
    raise InputError(f"The request is not JSON ({error}). It begins with {text!r}.") from None


def _count_values(text: bytes) -> int:
    """How many values a text has at most; lists and objects count as three."""
    return sum(
        len(block) - len(block.translate(None, b",[{:")) + 2 * (block.count(b"[") + block.count(b"{"))
        for block in _blocks(text, 0, len(text))
    )


def _blocks(text: bytes, start: int, end: int) -> Iterable[bytes]:
    return (text[place : min(place + PIECE, end)] for place in range(start, end, PIECE))


def _without_numbers(text: bytes, lists: dict[str, Numbers]) -> bytes:
    """The text with a name in place of each long list of numbers; the lists are put under their names."""
    parts, end = [], 0
    for start, stop in _runs(text):
        first, last = text.find(b"[", start, stop), text.rfind(b"]", start, stop) + 1
        if 0 <= first < last and (sizes := _sizes(text, first, last)):
            name = secrets.token_hex(16)  # no caller can know it
            lists[name] = Numbers(text, first, last, sizes)
            parts += [text[end:first], b'"%b"' % name.encode()]
            end = last
    return b"".join([*parts, text[end:]]) if parts else text


def _runs(text: bytes) -> Iterator[tuple[int, int]]:
    """Where the text has nothing but numbers, brackets, commas and spaces: all such places of two blocks or more."""
    before, start = b"", None
    for place in range(0, len(text) + BLOCK, BLOCK):
        block = text[place : place + BLOCK]
        if block and not block.translate(None, IN_LISTS):
            if start is None:
                start = place - len(before) + len(before.rstrip(IN_LISTS))
        elif start is not None:
            yield start, place + len(block) - len(block.lstrip(IN_LISTS))
            start = None
        before = block


def _sizes(text: bytes, start: int, end: int) -> tuple[int, ...]:
    """How the list there is nested; empty unless all lists of one depth are equally long."""
    brackets = bytearray()
    for block in _blocks(text, start, end):
        brackets += block.translate(None, NUMBERS + SPACES)
    depth = len(brackets[: MAX_DEPTH + 1]) - len(brackets[: MAX_DEPTH + 1].lstrip(b"["))
    if not 0 < depth <= MAX_DEPTH:
        return ()
    sizes: list[int] = []
    unit = b""
    for level in reversed(range(depth)):
        end = _find(brackets, b"]" * (depth - level))
        count, rest = divmod(end - level + depth - level - 1, len(unit) + 1)
        if end < 0 or rest:
            return ()
        sizes.insert(0, count)
        if level:
            unit = b"[%b%b]" % ((unit + b",") * (count - 1), unit)
    return tuple(sizes) if _repeats(brackets, unit, sizes[0]) else ()


def _find(brackets: bytearray, part: bytes) -> int:
    """Where the part is first; -1 if it is nowhere. It is looked for piece by piece, as the whole may be long."""
    for start in range(0, len(brackets), PIECE):
        if (place := brackets.find(part, start, start + PIECE + len(part) - 1)) >= 0:
            return place
    return -1


def _repeats(brackets: bytearray, unit: bytes, count: int) -> bool:
    """Whether this is a list of so many units. It is compared in pieces: the whole may be as long as the request."""
    if len(brackets) != count * (len(unit) + 1) + 1 or brackets[:1] + brackets[-1:] != b"[]":
        return False
    brackets[-1:] = b","
    piece = (unit + b",") * max(1, PIECE // (len(unit) + 1))
    return all(piece.startswith(brackets[start : start + len(piece)]) for start in range(1, len(brackets), len(piece)))


def _put_back(value: Any, lists: Mapping[str, Numbers], depth: int = 4) -> Any:
    """Put the lists where their names stand. No protocol has tensors deeper than this, or more than so many."""
    if isinstance(value, str):
        return lists.get(value, value)
    if depth and isinstance(value, dict) and len(value) <= MAX_TENSORS:
        return {key: _put_back(item, lists, depth - 1) for key, item in value.items()}
    if depth and isinstance(value, list) and len(value) <= MAX_TENSORS:
        return [_put_back(item, lists, depth - 1) for item in value]
    return value
