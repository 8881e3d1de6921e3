"""The part of Protocol Buffers' wire format that is needed to look into a message without its framework.

It is read as the frameworks read it: the last value of a field counts, and one of another wire type than the field's is
as if it were not there. What readers differ in is damage here.
"""

from collections.abc import Iterator

Bytes = memoryview | bytes
Value = int | Bytes

SMALL = 4096
"""Messages of at most so many bytes are copied: bytes are faster to read than a view."""
HIGHEST = (1 << 29) - 1
"""The highest number of a field. Readers cut off a higher one, and so take it for another field."""


def fields(message: Bytes) -> Iterator[tuple[int, Value]]:
    """The fields of a message, in order: bytes for strings and messages, int for numbers of any length.

    Raises ValueError if it is damaged.
    """
    at, end = 0, len(message)
    if end <= SMALL:
        message = bytes(message)
    while at < end:
        key, at = message[at], at + 1
        if key >= 0x80:  # most have one byte: no call for these
            key, at = _varint(message, at - 1)
        number, wire = key >> 3, key & 7
        if not 0 < number <= HIGHEST:
            raise ValueError(f"a field has the number {number}")
        if wire == 2:
            if at < end and message[at] < 0x80:
                start, at = at + 1, at + 1 + message[at]
            else:
                length, at = _varint(message, at)
                start, at = at, at + length
            yield number, message[start:at]
        elif wire == 0:
            value, at = _varint(message, at)
            yield number, value
        elif wire in (1, 5):
            start, at = at, at + (8 if wire == 1 else 4)
            yield number, int.from_bytes(message[start:at], "little")
        else:
            raise ValueError(f"wire type {wire}")
        if at > end:
            raise ValueError("a field goes beyond its message")


def parts(message: Bytes) -> Iterator[tuple[int, Bytes]]:
    """The fields that hold messages or strings."""
    return ((number, value) for number, value in fields(message) if not isinstance(value, int))


def messages(message: Bytes, number: int) -> Iterator[Bytes]:
    """Every value of a repeated field that holds messages or strings; of one that is not repeated, its parts."""
    return (value for field, value in parts(message) if field == number)


def numbers(message: Bytes, number: int) -> Iterator[int]:
    """Every value of a repeated field of whole numbers, packed or not."""
    for field, value in fields(message):
        if field == number and isinstance(value, int):
            yield value
        elif field == number and not isinstance(value, int):
            at = 0
            while at < len(value):
                entry, at = _varint(value, at)
                yield entry


def text(message: Bytes, number: int) -> str:
    """A string field, or "" where it is not set."""
    last: Bytes = b""
    for value in messages(message, number):
        last = value
    return decoded(last)


def decoded(value: Bytes) -> str:
    return bytes(value).decode(errors="replace")


def outline(message: Bytes) -> tuple[dict[int, type], bool]:
    """The types of the top-level fields, and whether the message is whole: these identify the kind of a file."""
    types: dict[int, type] = {}
    try:
        for number, value in fields(message):
            types[number] = int if isinstance(value, int) else memoryview
    except ValueError:
        return types, False
    return types, True


def _varint(message: Bytes, at: int) -> tuple[int, int]:
    if at < len(message) and message[at] < 0x80:  # most are that short
        return message[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("a number is cut off")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number has more than 64 bits")
