"""Weights in .safetensors, from their bytes: a JSON header, then the tensors, end to end."""

import json
from pathlib import Path
from typing import Any

from bring.verdict.findings import Examination, count_of

HEADER_LIMIT = 100_000_000
BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "C64": 64, "BF16": 16} | {
    name: bits for bits in (8, 16, 32, 64) for name in (f"I{bits}", f"U{bits}", f"F{bits}")
}


def file(path: Path, max_bytes: int) -> Examination:
    """Judge a .safetensors file. Raises ValueError unless its tensors fill it without gap or overlap."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > min(HEADER_LIMIT, size - 8):
            raise ValueError(f"its header has {length} bytes, and the file {size}")
        header = json.loads(stream.read(length), object_pairs_hook=_once)
    header.pop("__metadata__", None)
    if not header:
        raise ValueError("it holds no tensors")
    at = 0
    for (start, end), name, tensor in sorted((tuple(t["data_offsets"]), name, t) for name, t in header.items()):
        bits = 8 if tensor["dtype"].startswith("F8_") else BITS[tensor["dtype"]]
        if start != at or (end - start) * 8 != bits * count_of(tensor["shape"], 2 * size):
            raise ValueError(f"the tensor {name[:80]!r} lies at {start} to {end}, expected {at} and its shape's size")
        at = end
    if at != size - 8 - length:
        raise ValueError(f"its tensors end at byte {at + 8 + length}, and the file at {size}")
    return Examination("weights", [], (path,))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) != len(unique := dict(pairs)):
        raise ValueError("its header names something twice")
    return unique
