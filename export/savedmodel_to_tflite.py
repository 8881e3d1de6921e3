"""savedmodel -> tflite. Load the result with `ai_edge_litert.interpreter.Interpreter("model.tflite")`.

One file with two signatures over the same weights: `serving_default` takes any batch (the server), `batch1` takes one
row (browsers and phones, whose LiteRT refuses a free batch). `get_signature_runner` chooses between them; an
interpreter's own `invoke` runs `batch1`, and takes more rows after `resize_tensor_input` and `allocate_tensors`.
"""

import contextlib
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.lite.python import schema_py_generated as schema

from contract.errors import ExportError
from contract.manifest import Manifest
from export import error_function, overflow, signatures
from export.in_float32 import in_float32
from export.sizes import DIVISIONS, divide_in_32_bits
from export.splicing import rewritten
from export.tflite_roots import with_roots

CONVERTERS = ("tensorflow-cpu",)
FINITE: Mapping[str, Callable[[Any], Any]] = {"Softplus": overflow.softplus, "IsInf": overflow.is_infinite}


def export(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write `model.tflite`, with LiteRT's built-in operators only."""
    # Subgraph 0, which callers without signatures run, is the static one.
    return _converted(parent, manifest, target, ["batch1", "serving_default"])


def export_one(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write the same for one row at a time: some operators are converted only where every size is known."""
    return _converted(parent, manifest, target, ["batch1"])


def written_out(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write the same with the error function written out. Raises ExportError for a graph that has none."""
    with tempfile.TemporaryDirectory() as scratch:
        if not _rewritten(parent, manifest, Path(scratch), error_function.written_out):
            raise ExportError("There is no error function in the graph.")
        return _converted(Path(scratch), manifest, target, ["batch1", "serving_default"])


def computed_in_float32(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write the same with float64 and float16 computed in float32. Raises ExportError for a graph without them."""
    with tempfile.TemporaryDirectory() as scratch:
        if not _rewritten(parent, manifest, Path(scratch), in_float32):
            raise ExportError("There is neither float64 nor float16 in the graph.")
        return _converted(Path(scratch), manifest, target, ["batch1", "serving_default"])


def _rewritten(parent: Path, manifest: Manifest, target: Path, rewrite: Callable[[Any], bool]) -> bool:
    """Write the SavedModel with its graph rewritten, and its inputs and outputs as they were; whether it was."""
    model = tf.saved_model.load(str(parent))
    signature = model.signatures["serving_default"]
    function = rewritten(signature, rewrite)
    if function is None:
        return False
    # TensorFlow's flat order is by sorted names.
    inputs, outputs = sorted(signature.structured_input_signature[1]), sorted(signature.structured_outputs)

    def call(*tensors: Any) -> Sequence[Any]:
        given = dict(zip((spec.name for spec in manifest.inputs), tensors, strict=True))
        computed = (tf.cast(given[name], tensor.dtype) for name, tensor in zip(inputs, function.inputs, strict=True))
        answers = dict(zip(outputs, function(*computed), strict=True))
        dtypes = {name: signature.structured_outputs[name].dtype for name in outputs}
        return [tf.cast(answers[spec.name], dtypes[spec.name]) for spec in manifest.outputs]

    signatures.save(call, [], manifest, target)
    return True


@contextlib.contextmanager
def ready(parent: Path, manifest: Manifest) -> Iterator[Path]:
    """The SavedModel's folder, or a copy without what TF Lite lacks, or computes otherwise, and can be written out.

    In the copy no Softplus can overflow, every infinity is seen, and sizes are divided in 32 bits. See
    export/overflow.py and export/sizes.py. What Keras exports here was traced without a Softplus.
    """
    with tempfile.TemporaryDirectory() as scratch:
        content = (parent / "saved_model.pb").read_bytes()
        may_be = any(name.encode() in content for name in (*FINITE, *DIVISIONS))
        yield Path(scratch) if may_be and _rewritten(parent, manifest, Path(scratch), _make_ready) else parent


def _make_ready(definition: Any) -> bool:
    return any([error_function.written_out(definition, FINITE), divide_in_32_bits(definition)])


def _converted(parent: Path, manifest: Manifest, target: Path, keys: list[str]) -> Sequence[Path]:
    with ready(parent, manifest) as folder:
        return _written(folder, target, keys)


def _written(parent: Path, target: Path, keys: list[str]) -> Sequence[Path]:
    converter = tf.lite.TFLiteConverter.from_saved_model(str(parent), signature_keys=keys)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    path, content = target / "model.tflite", bytearray(with_roots(converter.convert()))
    free_the_rows(content)
    path.write_bytes(content)
    return [path]


def free_the_rows(content: bytearray) -> None:
    """In a file's first graph, let each Reshape of one row to [1, ...] take any number of rows: [-1, ...].

    Only then can an interpreter resize the graph's input. A constant that something else uses stays as it is.
    """
    model = schema.Model.GetRootAs(content, 0)
    uses = defaultdict[int, set[bool]](set)
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        for operator in map(graph.Operators, range(graph.OperatorsLength())):
            shape = _shape_of_one_row(model, operator) if number == 0 else None
            for place in map(operator.Inputs, range(operator.InputsLength())):
                buffer = graph.Tensors(place).Buffer() if place >= 0 else 0  # an input that is left out
                uses[buffer].add(buffer == shape)
    for buffer, are_shapes in uses.items():
        if are_shapes == {True}:
            model.Buffers(buffer).DataAsNumpy().view(np.int32)[0] = -1


def _shape_of_one_row(model: Any, operator: Any) -> int | None:
    """The buffer of the constant shape to which an operator of the first graph reshapes one row as one row."""
    if model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode() != schema.BuiltinOperator.RESHAPE:
        return None
    if operator.InputsLength() < 2:
        return None
    rows, shape = (model.Subgraphs(0).Tensors(operator.Inputs(place)) for place in range(2))
    buffer = model.Buffers(shape.Buffer())
    if not buffer.DataLength() or not rows.ShapeLength() or shape.Type() != schema.TensorType.INT32:
        return None
    before, after = rows.ShapeAsNumpy(), buffer.DataAsNumpy().view(np.int32)
    keeps_rows = before[0] == after[0] == 1 and len(after) > 1 and (after > 0).all()
    return int(shape.Buffer()) if keeps_rows and before.prod() == after.prod() else None
