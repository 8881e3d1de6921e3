"""The part of Protocol Buffers' wire format that is needed to look into a message without its framework."""

from collections.abc import Iterator

Value = int | memoryview


def fields(message: memoryview) -> Iterator[tuple[int, Value]]:
    """The fields of a message, in order: numbers as int, the others as bytes. Raises ValueError if it is damaged."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if not number:
            raise ValueError("a field has the number 0")
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        yield number, message[at : at + length]
        at += length
        if at > end:
            raise ValueError("a field goes beyond its message")


def messages(message: memoryview, number: int) -> Iterator[memoryview]:
    """Every value of a repeated field that holds messages or strings."""
    return (value for field, value in fields(message) if field == number and isinstance(value, memoryview))


def text(message: memoryview, number: int) -> str:
    """A string field, or "" where it is not set."""
    return next((bytes(value).decode(errors="replace") for value in messages(message, number)), "")


def outline(message: memoryview) -> tuple[dict[int, type], bool]:
    """The types of the top-level fields, and whether the message is whole: these identify the kind of a file."""
    types: dict[int, type] = {}
    try:
        for number, value in fields(message):
            types[number] = type(value)
    except ValueError:
        return types, False
    return types, True


def _varint(message: memoryview, at: int) -> tuple[int, int]:
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
