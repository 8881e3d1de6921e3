"""A TF.js graph model: model.json says the dtypes of the weight files. TF.js computes in float32, whatever they are."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from verify.precision.files import Constant, Contents

DTYPES = {"DT_FLOAT": "float32", "DT_INT32": "int32", "DT_BOOL": "bool", "DT_STRING": "bytes", "DT_INT64": "int64"}
MULTIPLYING = {
    "MatMul", "_FusedMatMul", "BatchMatMul", "BatchMatMulV2", "Einsum", "Conv1D", "Conv2D", "_FusedConv2D", "Conv3D",
    "DepthwiseConv2dNative", "FusedDepthwiseConv2dNative", "Conv2DBackpropInput",
}  # fmt: skip


def read(folder: Path) -> Contents:
    """Read `model.json` and the weight files that it names."""
    model = json.loads((folder / "model.json").read_bytes())
    topology = model["modelTopology"]
    functions = topology.get("library", {}).get("function", [])
    nodes = [*topology["node"], *(node for function in functions for node in function.get("nodeDef", []))]
    made = [node for node in nodes if node["op"] not in ("Const", "Placeholder")]
    return Contents(
        inputs=_ends(model, "inputs"),
        outputs=_ends(model, "outputs"),
        constants=tuple(_constants(folder, model)),
        activations=Counter(map(_dtype_of, made)),
        computing=Counter("float32" for node in made if node["op"] in MULTIPLYING),
        casts=sum(node["op"] == "Cast" for node in made),
        inserted=0,
    )


def _ends(model: dict[str, Any], which: str) -> dict[str, str]:
    ends = model["signature"][which]
    return {name: DTYPES.get(end["dtype"], end["dtype"]) for name, end in ends.items()}


def _dtype_of(node: dict[str, Any]) -> str:
    """The dtype that a node's attribute T names; without one, float32, in which TF.js computes."""
    attribute = node.get("attr", {}).get("T", {}).get("type", "DT_FLOAT")
    return DTYPES.get(str(attribute), "float32")


def _constants(folder: Path, model: dict[str, Any]) -> Iterator[Constant]:
    for group in model["weightsManifest"]:
        content, start = b"".join((folder / path).read_bytes() for path in group["paths"]), 0
        for spec in group["weights"]:
            if spec["dtype"] == "string":
                return  # its size depends on its content, and what follows it cannot be placed
            stored = spec.get("quantization", spec)
            dtype = np.dtype(stored["dtype"])
            values = np.frombuffer(content, dtype, int(np.prod(spec["shape"])), start).reshape(spec["shape"])
            start += values.nbytes
            scale = np.array([stored["scale"]]) if "scale" in stored else None
            zero = None if scale is None else -np.array([stored["min"]]) / scale
            yield Constant(spec["name"], dtype.name, values.nbytes, values, scale, zero)
