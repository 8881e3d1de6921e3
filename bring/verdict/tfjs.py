"""TF.js models, from their bytes: model.json and the weight files that it names."""

import json
from collections.abc import Iterator
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
    """The operators of the graph, of the functions that it calls, and of the graph that runs when it is loaded.

    Converters leave functions in the library that no node calls any more, such as those of training's summaries. A
    function without a name counts as called.
    """
    names: dict[str, None] = {}
    for graph in (model["modelTopology"], model.get("modelInitializer") or {}):
        waiting, functions = list(graph.get("node", [])), {}
        for function in (graph.get("library") or {}).get("function") or []:
            nodes, name = function.get("nodeDef") or [], (function.get("signature") or {}).get("name")
            if name is None or name in functions:
                waiting += nodes
            else:
                functions[name] = nodes
        while waiting:
            node = waiting.pop()
            names[str(node["op"])] = None
            for name in [str(node["op"]), *_called(node)]:
                waiting += functions.pop(name, [])
    return names


def _called(node: dict[str, Any]) -> Iterator[str]:
    """The names of the functions in a node's attributes."""
    for attribute in (node.get("attr") or {}).values():
        listed = (attribute.get("list") or {}).get("func") or []
        yield from (str(each["name"]) for each in [attribute.get("func"), *listed] if each)


def _size(weight: dict[str, Any]) -> int | None:
    """The bytes of a weight; None where they depend on its content (strings)."""
    dtype = weight.get("quantization", weight)["dtype"]
    return None if dtype == "string" else BYTES[dtype] * count_of(weight["shape"], MOST)
