"""TF.js models, from their bytes: model.json and the weight files that it names."""

import json
from pathlib import Path
from typing import Any

from bring.verdict import operators, others
from bring.verdict.archives import MEMBER_LIMIT
from bring.verdict.findings import EXPECTED, Examination, Finding, count_of, few, leaves, part_of
from contract.errors import BroughtError

BYTES = {"float32": 4, "int32": 4, "uint8": 1, "uint16": 2, "float16": 2, "bool": 1, "complex64": 8}

MOST = 1 << 40
"""Values of a weight."""


def file(path: Path, max_bytes: int) -> Examination:
    """Judge a model.json, of a graph model or a layers model. Raises BroughtError if weights are missing or cut off."""
    if path.stat().st_size > MEMBER_LIMIT:
        raise ValueError(f"it has more than {MEMBER_LIMIT} bytes")
    model = json.loads(path.read_bytes())
    topology = model.get("modelTopology") if isinstance(model, dict) else None
    if not isinstance(topology, dict) and (seems := others.seems_json(model)):
        raise BroughtError(f"{path} is {seems}. {EXPECTED}")
    if not isinstance(topology, dict):
        raise BroughtError(f"{path} is JSON, but not a TF.js model: it has no modelTopology. {EXPECTED}")
    is_layers = model.get("format") == "layers-model" or "node" not in topology
    if is_layers:
        from bring.verdict import keras

        findings = list(keras.config_findings(topology.get("model_config", topology)))
    else:
        findings = list(operators.findings(_operators(model), "tfjs", "TF.js's"))
    files = [path]
    for group in model["weightsManifest"]:
        outside = [name for name in group["paths"] if leaves(path.parent, name)]
        if outside:
            findings.append(Finding(f"its weights {few(outside)} lie outside of its folder", False))
            continue
        shards = [part_of(path.parent, name, path) for name in group["paths"]]
        files += shards
        got, sizes = sum(shard.stat().st_size for shard in shards), [_size(weight) for weight in group["weights"]]
        if None not in sizes and got != (expected := sum(size or 0 for size in sizes)):
            raise BroughtError(
                f"The weights {few(group['paths'])} of {path} have {got} bytes, expected {expected}: they are "
                "truncated or another model's. Bring the whole folder."
            )
    return Examination("layers" if is_layers else "tfjs", findings, tuple(files))


def _operators(model: dict[str, Any]) -> dict[str, None]:
    """The operators of the graph, of the functions that it calls, and of the graph that runs when it is loaded."""
    names: dict[str, None] = {}
    for graph in (model["modelTopology"], model.get("modelInitializer") or {}):
        functions = (graph.get("library") or {}).get("function") or []
        nodes = [*graph.get("node", []), *(node for function in functions for node in function.get("nodeDef") or [])]
        names |= {str(node["op"]): None for node in nodes}
    return names


def _size(weight: dict[str, Any]) -> int | None:
    """The bytes of a weight; None where they depend on its content (strings)."""
    dtype = weight.get("quantization", weight)["dtype"]
    return None if dtype == "string" else BYTES[dtype] * count_of(weight["shape"], MOST)
