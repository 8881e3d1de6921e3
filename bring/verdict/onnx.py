"""ONNX files, from their bytes: operators, opset, and where the weights are. External data is not read."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from bring.verdict.findings import Examination, Finding, few, leaves, part_of

DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft"}
"""The domains of operators that ONNX Runtime has without a library of custom operators."""


def file(path: Path, max_bytes: int) -> Examination:
    """Judge an .onnx file. Raises BroughtError if a file with its weights is missing or truncated."""
    model = onnx.load_model_from_string(path.read_bytes())
    if not model.graph.node or not model.graph.output:
        raise ValueError("it has no graph with outputs")
    graphs = list(_graphs([model.graph, *model.functions]))
    local = {(function.domain, function.name) for function in model.functions}
    findings = []
    if custom := [
        f"{node.domain}::{node.op_type}"
        for graph in graphs
        for node in graph.node
        if node.domain not in DOMAINS and (node.domain, node.op_type) not in local
    ]:
        findings.append(
            Finding(
                f"its operators {few(custom)} are neither ONNX's nor ONNX Runtime's own: the library that adds them is "
                "needed. Export the model without them.",
                False,
            )
        )
    newest = onnx.defs.onnx_opset_version()
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=newest)
    if opset > newest:
        findings.append(
            Finding(f"its opset is {opset}, newer than {newest}. Export it with opset_version={newest}.", False)
        )
    parts: dict[Path, None] = {path: None}
    for tensor in _tensors(model, graphs):
        external = {entry.key: entry.value for entry in tensor.external_data}
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = external.get("location", "")
        if not location or leaves(path.parent, location):
            findings.append(
                Finding(f"the weights {few([tensor.name])} lie outside of its folder, in {few([location])}", False)
            )
        else:
            needed = int(external.get("offset") or 0) + int(external.get("length") or 0)
            parts[part_of(path.parent, location, path, at_least=needed)] = None
    return Examination("onnx", findings, tuple(parts))


def _graphs(graphs: list[Any]) -> Iterator[Any]:
    """The graphs, and those inside attributes of their nodes (If, Loop, Scan)."""
    while graphs:
        yield (graph := graphs.pop())
        for node in graph.node:
            for attribute in node.attribute:
                graphs += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _tensors(model: Any, graphs: list[Any]) -> Iterator[Any]:
    """Every tensor: weights, and constants in nodes."""
    for graph in graphs:
        if isinstance(graph, onnx.GraphProto):
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from ([attribute.t] if attribute.HasField("t") else [])
                yield from attribute.tensors
