"""ONNX files. The weights may lie in files beside the model; the artifact has them in its one file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bring.description import Description
from bring.wrapping import Arrays, Wrapping
from contract.errors import BroughtError, one_line
from contract.manifest import TensorSpec
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
    TensorProto.BOOL: "bool",
    TensorProto.STRING: "bytes",
}
ARITHMETIC = ("Div", "Mul", "Sub")
PASSING = ("Transpose", "Cast", "Identity")


class OnnxSource:
    format = "onnx"
    can_predict = True
    can_wrap = True

    def __init__(self, path: Path, description: Description) -> None:
        try:
            self._model = onnx.load(path)
            keep_zeros_before_pooling(self._model)
            self._session = _session(self._model)
        except Exception as error:  # ONNX Runtime may raise anything on a damaged file
            raise BroughtError(
                f"ONNX Runtime {onnxruntime.__version__} cannot read {path.name}: {one_line(error, 600)}"
            ) from error
        graph = self._model.graph
        constants = {tensor.name for tensor in graph.initializer}
        entries = [value for value in graph.input if value.name not in constants]
        # The shapes of outputs may be missing in the file: ONNX Runtime infers them.
        self.inputs, self.outputs = (
            tuple(_spec(value, known.shape) for value, known in zip(values, knowns, strict=True))
            for values, knowns in (
                (entries, self._session.get_inputs()),
                (graph.output, self._session.get_outputs()),
            )
        )
        self.scales = self._begins_with_arithmetic()

    def predict(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        feeds = {name: _texts(value) for name, value in inputs.items()}
        answers: Sequence[NDArray[Any]] = self._session.run(None, feeds)
        return answers

    def write(self, folder: Path, wrapping: Wrapping) -> Sequence[Path]:
        """One file, with the weights in it."""
        target = folder / "model.onnx"
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        if wrapping.preprocess is not None:
            _prepare(model, wrapping)
        if wrapping.softmax:
            _soften(model, wrapping.outputs[0].name)
        elif wrapping.image is not None and wrapping.outputs[0].name != model.graph.output[0].name:
            _rename_output(model, wrapping.outputs[0].name)
        if wrapping.image is not None and wrapping.preprocess is None:
            _rename_input(model, wrapping.inputs[0].name)
        onnx.save(model, target)
        return [target]

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
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _spec(value: onnx.ValueInfoProto, sizes: Sequence[int | str | None]) -> TensorSpec:
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or tensor.elem_type not in DTYPES:
        raise BroughtError(
            f"{value.name} is not a tensor of a supported dtype: expected one of {', '.join(DTYPES.values())}."
        )
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in sizes)
    layout = "NCHW" if len(shape) == 4 else "N" + "D" * (len(shape) - 1)
    return TensorSpec(value.name, DTYPES[tensor.elem_type], shape, layout)


def _prepare(model: onnx.ModelProto, wrapping: Wrapping) -> None:
    """Put the preprocessing in front: a new input, `pixels * factor + offset`, the graph's channel order and layout."""
    assert wrapping.preprocess is not None
    graph, spec = model.graph, wrapping.inputs[0]
    (old,) = [value for value in graph.input if value.name not in {tensor.name for tensor in graph.initializer}]
    factors, offsets = wrapping.affine()
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if wrapping.preprocess.order == "BGR":
        reversed_channels = np.arange(len(factors), dtype=np.int64)[::-1].copy()
        graph.initializer.append(numpy_helper.from_array(reversed_channels, "shipped_order"))
        steps.append(("Gather", ["shipped_order"], {"axis": 3}))
    if wrapping.preprocess.changes_values:
        for name, values in (("factor", factors), ("offset", offsets)):
            graph.initializer.append(numpy_helper.from_array(np.array(values, np.float32), f"shipped_{name}"))
        steps += [("Mul", ["shipped_factor"], {}), ("Add", ["shipped_offset"], {})]
    if wrapping.preprocess.layout == "NCHW":
        steps.append(("Transpose", [], {"perm": [0, 3, 1, 2]}))
    if old.type.tensor_type.elem_type == TensorProto.FLOAT16:
        steps.append(("Cast", [], {"to": TensorProto.FLOAT16}))
    name, nodes = spec.name, []
    for number, (op, more, attributes) in enumerate(steps):
        output = old.name if number == len(steps) - 1 else f"shipped_{number}"
        nodes.append(helper.make_node(op, [name, *more], [output], name=f"shipped_{op}_{number}", **attributes))
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


def _soften(model: onnx.ModelProto, name: str) -> None:
    first = model.graph.output[0]
    model.graph.node.append(helper.make_node("Softmax", [first.name], [name], name="shipped_softmax", axis=1))
    entry = onnx.ValueInfoProto()
    entry.CopyFrom(first)
    entry.name = name
    model.graph.output.remove(first)
    model.graph.output.insert(0, entry)


def _rename_output(model: onnx.ModelProto, name: str) -> None:
    old, model.graph.output[0].name = model.graph.output[0].name, name
    for node in model.graph.node:
        for ends in (node.input, node.output):
            for place, end in enumerate(ends):
                if end == old:
                    ends[place] = name


def _rename_input(model: onnx.ModelProto, name: str) -> None:
    constants = {tensor.name for tensor in model.graph.initializer}
    (entry,) = [value for value in model.graph.input if value.name not in constants]
    old, entry.name = entry.name, name
    for node in model.graph.node:
        for place, end in enumerate(node.input):
            if end == old:
                node.input[place] = name


def _texts(value: NDArray[Any]) -> NDArray[Any]:
    return np.frompyfunc(bytes.decode, 1, 1)(value) if value.dtype == object else value
