"""SavedModels written byte by byte, as no framework would write them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


def varint(value: int) -> bytes:
    return bytes([value & 0x7F | 0x80]) + varint(value >> 7) if value > 0x7F else bytes([value])


def field(number: int, value: bytes | int | str) -> bytes:
    """A field of Protocol Buffers: a number, or a string or message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def calls(function: str) -> bytes:
    """An attribute that names a function."""
    return field(5, field(1, "f") + field(2, field(10, field(1, function))))


def node(operator: str, name: str = "it", inputs: Sequence[str] = (), more: bytes = b"") -> bytes:
    return field(1, name) + field(2, operator) + b"".join(field(3, each) for each in inputs) + more


def function(name: str, nodes: Iterable[bytes], arguments: Sequence[str] = (), more: bytes = b"") -> bytes:
    signature = field(1, name) + b"".join(field(2, field(1, each)) for each in arguments)
    return field(1, signature) + b"".join(field(3, each) for each in nodes) + more


def signature(output: str, key: str = "serving_default") -> bytes:
    """A field of a meta graph: one signature, with one output."""
    return field(5, field(1, key) + field(2, field(2, field(1, "y") + field(2, field(1, f"{output}:0")))))


def objects(kinds: Sequence[int], bound: Mapping[str, Sequence[int]]) -> bytes:
    """A field of a meta graph: objects by the number of their kind, and which are bound to each function."""
    nodes = b"".join(field(1, field(kind, b"")) for kind in kinds)
    functions = ((name, b"".join(field(2, number) for number in numbers)) for name, numbers in bound.items())
    return field(7, nodes + b"".join(field(2, field(1, name) + field(2, content)) for name, content in functions))


def meta_graph(nodes: Iterable[bytes] = (), functions: Iterable[bytes] = (), more: bytes = b"") -> bytes:
    library = field(2, b"".join(field(1, each) for each in functions))
    return field(2, b"".join(field(1, each) for each in nodes) + library) + more


def write(folder: Path, *graphs: bytes) -> Path:
    (folder / "saved_model.pb").write_bytes(field(1, 1) + b"".join(field(2, each) for each in graphs))
    return folder
