"""ONNX files. The weights may lie in files beside the model; the artifact has them in its one file."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bring.description import Description
from bring.probe import Arrays
from bring.readers import onnx_names, training
from bring.readers.onnx_forms import mend
from bring.readers.onnx_windows import Windows
from bring.wrapping import Wrapping
from contract.errors import BroughtError, one_line
from contract.manifest import TensorSpec
from export.onnx_graph import BATCH, batch_axes, name_sizes, remove_notes
from export.onnx_names import call_ends, rename
from export.onnx_padding import keep_zeros_before_pooling

DTYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.DOUBLE: "float64",
    TensorProto.INT8: "int8",
    TensorProto.INT16: "int16",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.UINT8: "uint8",
    TensorProto.UINT16: "uint16",
    TensorProto.UINT32: "uint32",
    TensorProto.UINT64: "uint64",
    TensorProto.BOOL: "bool",
    TensorProto.STRING: "bytes",
}
ARITHMETIC = ("Div", "Mul", "Sub")
PASSING = ("Transpose", "Cast", "Identity")
ROUNDING = {"QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}
"""What a graph has that computes with whole numbers; one whose weights alone are quantised only restores these."""


class OnnxSource:
    format = "onnx"
    can_predict = True
    can_wrap = True

    def __init__(self, path: Path, description: Description) -> None:
        try:
            self._model = onnx.load(path, format="protobuf")  # as it was judged, whatever its suffix
            self.renamed = onnx_names.clean(self._model)
            mend(self._model)
            keep_zeros_before_pooling(self._model)
            self._windows = Windows(self._model)
            self._session = _session(self._windows.watched(self._model, onnx_names.prefix_in(self._model)))
        except Exception as error:  # ONNX Runtime may raise anything on a damaged file
            raise BroughtError(
                f"ONNX Runtime {onnxruntime.__version__} cannot read {path.name}: {one_line(error, 600)}"
            ) from error
        training.refuse_graph(self._model)
        graph = self._model.graph
        constants = {tensor.name for tensor in graph.initializer}
        entries = [value for value in graph.input if value.name not in constants]
        # The shapes of outputs may be missing in the file: ONNX Runtime infers them.
        self.inputs, self.outputs = (
            tuple(_spec(value, known.shape) for value, known in zip(values, knowns, strict=True))
            for values, knowns in (
                (entries, self._session.get_inputs()),
                (graph.output, self._session.get_outputs()[: len(graph.output)]),
            )
        )
        self.inputs = tuple(replace(spec, bounds=self._bounds(spec.name)) for spec in self.inputs)
        self.scales = self._begins_with_arithmetic()
        self.is_quantised = any(node.op_type in ROUNDING for node in graph.node)
        self.fit = "cover" if self._model.producer_name == "pytorch" else "stretch"

    def predict(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        feeds = {name: _texts(value) for name, value in inputs.items()}
        answers: Sequence[NDArray[Any]] = self._session.run(None, feeds)
        own = len(self._model.graph.output)
        self._windows.check(answers[own:])
        return answers[:own]

    def write(self, folder: Path, wrapping: Wrapping) -> Sequence[Path]:
        """One file, with the weights in it."""
        target = folder / "model.onnx"
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        call_ends(model, [spec.name for spec in wrapping.inputs], [spec.name for spec in wrapping.outputs])
        name_sizes(model, {} if wrapping.batch else batch_axes(wrapping.inputs))
        remove_notes(model)
        prefix = onnx_names.prefix_in(model)
        if wrapping.preprocess is not None:
            _prepare(model, wrapping, prefix)
        if wrapping.ending:
            _end(model, wrapping, prefix)
        for value, spec in zip(model.graph.output, wrapping.outputs, strict=True):
            _declare(value, spec)
        onnx.save(model, target)
        return [target]

    def _bounds(self, name: str) -> tuple[int, int] | None:
        """The ids that an input takes which chooses rows of tables; None where it does not."""
        sizes = list(self._tables(name))
        return (-min(sizes), min(sizes) - 1) if sizes else None  # ONNX counts negative ids from the end

    def _tables(self, name: str) -> Iterator[int]:
        """The numbers of rows of the tables that a tensor chooses rows of, perhaps as another integer."""
        constants = {tensor.name: tensor.dims for tensor in self._model.graph.initializer}
        for node in self._model.graph.node:
            if name not in node.input:
                continue
            if node.op_type in ("Cast", "Identity"):
                yield from self._tables(node.output[0])
            elif node.op_type == "Gather" and node.input[1] == name and not _axis(node):
                yield from constants.get(node.input[0], ())[:1]

    def _begins_with_arithmetic(self) -> bool:
        """Whether the input is scaled before anything else happens to it."""
        name = self.inputs[0].name if self.inputs else ""
        while True:
            users = [node for node in self._model.graph.node if name in node.input]
            if len(users) != 1 or not users[0].output:
                return False
            if users[0].op_type in ARITHMETIC:
                return True
            if users[0].op_type not in PASSING:
                return False
            name = users[0].output[0]


def _session(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # it is asked what it may refuse
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _axis(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0)


def _spec(value: onnx.ValueInfoProto, sizes: Sequence[int | str | None]) -> TensorSpec:
    tensor = value.type.tensor_type
    if tensor.elem_type == TensorProto.BFLOAT16:  # its Python interface is NumPy's arrays, which know no bfloat16
        raise BroughtError(
            f"{value.name} is bfloat16, which ONNX Runtime neither takes from Python nor returns to it. Export the "
            "model with float32 inputs and outputs, and a Cast behind each input and before each output."
        )
    if not value.type.HasField("tensor_type") or tensor.elem_type not in DTYPES:
        raise BroughtError(
            f"{value.name} is not a tensor of a supported dtype: expected one of {', '.join(DTYPES.values())}."
        )
    # What ONNX Runtime infers; where that contradicts the file it knows nothing, and the file's word is checked later.
    declared = [dim.dim_value for dim in tensor.shape.dim]
    pairs = zip(sizes, declared, strict=True) if len(declared) == len(sizes) else ((size, 0) for size in sizes)
    shape = tuple(size if isinstance(size, int) and size > 0 else in_file or None for size, in_file in pairs)
    layout = "NCHW" if len(shape) == 4 else "N" + "D" * (len(shape) - 1)
    return TensorSpec(value.name, DTYPES[tensor.elem_type], shape, layout)


def _prepare(model: onnx.ModelProto, wrapping: Wrapping, prefix: str) -> None:
    """Put the preprocessing in front: a new input, `pixels * factor + offset`, the graph's channel order and layout."""
    assert wrapping.preprocess is not None
    graph, spec = model.graph, wrapping.inputs[0]
    (old,) = graph.input
    rename(model, {old.name: f"{prefix}graph"})
    factors, offsets = wrapping.affine()
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if wrapping.preprocess.order == "BGR":
        reversed_channels = np.arange(len(factors), dtype=np.int64)[::-1].copy()
        graph.initializer.append(numpy_helper.from_array(reversed_channels, f"{prefix}order"))
        steps.append(("Gather", [f"{prefix}order"], {"axis": 3}))
    if wrapping.preprocess.changes_values:
        for name, values in (("factor", factors), ("offset", offsets)):
            graph.initializer.append(numpy_helper.from_array(np.array(values, np.float32), f"{prefix}{name}"))
        steps += [("Mul", [f"{prefix}factor"], {}), ("Add", [f"{prefix}offset"], {})]
    if wrapping.preprocess.layout == "NCHW":
        steps.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
    if old.type.tensor_type.elem_type == TensorProto.FLOAT16:
        steps.append(("Cast", [], {"to": TensorProto.FLOAT16}))
    name, nodes = spec.name, []
    for number, (op, more, attributes) in enumerate(steps):
        output = old.name if number == len(steps) - 1 else f"{prefix}{number}"
        nodes.append(helper.make_node(op, [name, *more], [output], name=f"{prefix}{op}_{number}", **attributes))
        name = output
    dtype = TensorProto.UINT8 if spec.dtype == "uint8" else TensorProto.FLOAT
    batch = wrapping.batch or "batch"
    entry = helper.make_tensor_value_info(spec.name, dtype, [batch, *spec.shape[1:]])
    old_nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *old_nodes])
    position = list(graph.input).index(old)
    graph.input.remove(old)
    graph.input.insert(position, entry)


def _end(model: onnx.ModelProto, wrapping: Wrapping, prefix: str) -> None:
    """Put what follows the first output behind it: a new output, with the spec's name and shape."""
    first, spec = model.graph.output[0], wrapping.outputs[0]
    rename(model, {first.name: f"{prefix}answers"})
    name = first.name
    for number, step in enumerate(wrapping.ending, 1):
        output = spec.name if number == len(wrapping.ending) else f"{prefix}{step}"
        if step == "both":
            dtype = helper.tensor_dtype_to_np_dtype(first.type.tensor_type.elem_type)
            model.graph.initializer.append(numpy_helper.from_array(np.array(1, dtype), f"{prefix}one"))
            other = f"{prefix}other"
            model.graph.node.append(helper.make_node("Sub", [f"{prefix}one", name], [other], name=other))
            node = helper.make_node("Concat", [other, name], [output], name=f"{prefix}both", axis=1)
        else:
            axis = {"axis": 1} if step == "softmax" else {}
            node = helper.make_node(step.capitalize(), [name], [output], name=f"{prefix}{step}", **axis)
        model.graph.node.append(node)
        name = output
    sizes = [dim.dim_param or dim.dim_value or None for dim in first.type.tensor_type.shape.dim[:1]]
    entry = helper.make_tensor_value_info(spec.name, first.type.tensor_type.elem_type, [*sizes, *spec.shape[1:]])
    model.graph.output.remove(first)
    model.graph.output.insert(0, entry)


def _declare(value: onnx.ValueInfoProto, spec: TensorSpec) -> None:
    """Correct what a file says of an output where it is another rank, or another size, than is answered."""
    dims = value.type.tensor_type.shape.dim
    declared = [dim.dim_value or None for dim in dims]
    if len(declared) == len(spec.shape) and all(
        here in (None, size) for here, size in zip(declared[1:], spec.shape[1:], strict=True)
    ):
        return
    del dims[:]
    for axis, size in enumerate(spec.shape):
        dim = dims.add()
        if size is not None:
            dim.dim_value = size
        elif axis == spec.batch_axis:
            dim.dim_param = BATCH


def _texts(value: NDArray[Any]) -> NDArray[Any]:
    return np.frompyfunc(bytes.decode, 1, 1)(value) if value.dtype == object else value
