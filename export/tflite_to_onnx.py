"""tflite -> onnx, by tf2onnx. Load the result with `onnxruntime.InferenceSession("model.onnx")`.

Only a TF Lite file that somebody brought goes this way: our own come from a SavedModel, which leads to ONNX itself.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tf2onnx
from ai_edge_litert.interpreter import Interpreter
from tensorflow.lite.python import schema_py_generated as schema

from contract.errors import ExportError
from contract.manifest import Manifest, TensorSpec
from export import tf2onnx_operators
from export.onnx_graph import OPSET, finish_onnx, sparing_memory
from export.tflite_file import packed, unpacked
from export.tflite_sparse import without_sparse

CONVERTERS = ("tf2onnx", "ai-edge-litert", "onnx")


def export(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write `model.onnx`, with the source's names. 8-bit numbers stay 8-bit numbers. Raises ExportError."""
    file, path = parent / "model.tflite", target / "model.onnx"
    content = _named_apart(_with_empty_constants(without_sparse(file.read_bytes())))
    interpreter = Interpreter(model_content=content)
    if "VAR_HANDLE" in {operator["op_name"] for operator in interpreter._get_ops_details()}:
        raise ExportError(f"{manifest.name} keeps a state between its calls, which a graph of ONNX cannot.")
    inputs, outputs = _tensors(interpreter)
    tf2onnx_operators.teach()
    with sparing_memory(), tempfile.NamedTemporaryFile(suffix=".tflite") as copy:
        copy.write(content)
        copy.flush()
        tf2onnx.convert.from_tflite(
            copy.name,
            input_names=_ordered(inputs, manifest.inputs),
            output_names=_ordered(outputs, manifest.outputs),
            opset=OPSET,
            output_path=str(path),
        )
    finish_onnx(path, manifest)
    return [path]


def _with_empty_constants(content: bytes) -> bytes:
    """The file with a buffer for each constant without values, such as the shape of a scalar.

    tf2onnx takes a tensor without a buffer for one that an operator writes, and does not find it.
    """
    model = unpacked(content)
    empty = [] if model is None else [tensor for graph in model.subgraphs for tensor in _empty_constants(model, graph)]
    if not empty:
        return content
    buffer = schema.BufferT()
    buffer.data = np.zeros(0, np.uint8)
    model.buffers.append(buffer)
    for tensor in empty:
        tensor.buffer = len(model.buffers) - 1
    return packed(model)


def _empty_constants(model: Any, graph: Any) -> Iterator[Any]:
    """The tensors of a graph that hold no values, have no buffer, and come from nowhere."""
    written = {place for ends in (graph.inputs, *(each.outputs for each in graph.operators)) for place in ends}
    for place, tensor in enumerate(graph.tensors):
        has_values = tensor.shape is None or np.prod(tensor.shape) > 0
        if not has_values and place not in written and model.buffers[tensor.buffer].data is None:
            yield tensor


def _named_apart(content: bytes) -> bytes:
    """The file with a name of its own for each tensor of a graph: tf2onnx knows tensors by their names alone."""
    model = unpacked(content)
    graphs = [graph.tensors for graph in model.subgraphs] if model is not None else []
    if all(len({tensor.name for tensor in tensors}) == len(tensors) for tensors in graphs):
        return content
    for tensors in graphs:
        for number, tensor in enumerate(tensors):
            tensor.name = b"%d_%b" % (number, tensor.name or b"")
    return packed(model)


def _tensors(interpreter: Any) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The inputs and outputs of the signature that is run, each its name in it and its tensor, in the file's order.

    Raises ExportError where it is another graph of the file than the one that tf2onnx reads.
    """
    known = interpreter.get_signature_list()
    if not known:
        details = interpreter.get_input_details(), interpreter.get_output_details()
        inputs, outputs = ([(str(each["name"]), str(each["name"])) for each in part] for part in details)
        return inputs, outputs
    runner = interpreter.get_signature_runner("serving_default" if "serving_default" in known else next(iter(known)))
    if runner._subgraph_index:
        raise ExportError("The signature that is run is not the first graph of the file, which alone is converted.")
    entries, exits = runner.get_input_details(), runner.get_output_details()
    inputs, outputs = ([(name, str(each["name"])) for name, each in part.items()] for part in (entries, exits))
    return inputs, outputs


def _ordered(tensors: Sequence[tuple[str, str]], specs: Sequence[TensorSpec]) -> list[str]:
    """The tensors in the order of the specs; by their places where a file without signatures has other names."""
    known = dict(tensors)
    is_known = known.keys() == {spec.name for spec in specs}
    return [known[spec.name] for spec in specs] if is_known else [tensor for _, tensor in tensors]
