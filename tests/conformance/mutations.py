"""Seeded changes that make a valid request a malformed one, most of the time."""

import copy
from typing import Any

import numpy as np

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 2**31, 2**63, 2**64, -(2**63), 1e308, "", "0", "\x00", "\u2603", "x" * 5000),
    *([], {}, [[]], [[[[]]]], [None], {"": None}, {"name": "x"}, [0] * 1000, ["a", 1, None], [[1], [1, 2]]),
]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a document; of a long list only to its ends."""
    keys = list(value) if isinstance(value, dict) else []
    if isinstance(value, list):
        keys = sorted({*range(min(3, len(value))), *range(max(0, len(value) - 1), len(value))})
    return [*([path] if path else []), *(place for key in keys for place in places(value[key], (*path, key)))]


def changed(document: Any, random: np.random.Generator) -> Any:
    """A document in which a value is another one, is gone, or is there twice."""
    document = copy.deepcopy(document)
    for _ in range(int(random.integers(1, 4))):
        found = places(document)
        if not found:
            return document
        *way, last = found[random.integers(len(found))]
        parent = document
        for key in way:
            parent = parent[key]
        action = random.integers(4)
        if action == 0:
            del parent[last]
        elif action == 1 and isinstance(parent, list):
            parent.insert(last, parent[last])
        else:
            parent[last] = copy.deepcopy(ODD[random.integers(len(ODD))])
    return document


def damaged(body: bytes, random: np.random.Generator) -> bytes:
    """A body of which some bytes are others, are gone, or come from elsewhere in it."""
    data = bytearray(body)
    for _ in range(int(random.integers(1, 6))):
        start, length = int(random.integers(len(data) + 1)), int(random.integers(1, 20))
        action = random.integers(4)
        if action == 0:
            del data[start : start + length]
        elif action == 1:
            data[start:start] = random.bytes(length)
        elif action == 2:
            data[start : start + length] = data[::-1][:length]
        else:
            del data[start:]
    return bytes(data)
