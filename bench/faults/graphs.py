"""Faults in ONNX graphs: each function changes a graph in place, or makes such a function."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

Change = Callable[[ModelProto], None]

BATCH_AXIS, HEIGHT_AXIS, CHANNEL_AXIS = 0, 1, 3
"""Of the pictures, which are NHWC in every graph."""


def node_of(graph: GraphProto, op: str, number: int = 0) -> NodeProto:
    """The `number`-th node of this operator, in the graph's order."""
    return [node for node in graph.node if node.op_type == op][number]


def weight_of(graph: GraphProto, name: str) -> TensorProto:
    """The only stored array whose name ends so."""
    (weight,) = (weight for weight in graph.initializer if weight.name.endswith(name))
    return weight


def constant(graph: GraphProto, value: Any, dtype: Any = np.float32) -> str:
    """Store an array; returns its name."""
    name = f"planted_{len(graph.initializer)}"
    graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
    return name


def set_attribute(node: NodeProto, name: str, value: Any) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def use_at_least(model: ModelProto, opset: int) -> None:
    """Declare this version of the operators, where the graph has an older one."""
    for used in model.opset_import:
        used.version = max(used.version, opset) if not used.domain else used.version


# --- What stands between the pictures and the graph, and between the graph and the answers

Build = Callable[[GraphProto, str, str], Sequence[NodeProto]]
"""(graph, the tensor's name, the name of the new one) -> the nodes that compute it."""


def at_entry(build: Build) -> Change:
    """The graph gets what these nodes make of its first input."""

    def change(model: ModelProto) -> None:
        graph = model.graph
        name = graph.input[0].name
        for node in graph.node:
            node.input[:] = ["planted_entry" if each == name else each for each in node.input]
        nodes = [*build(graph, name, "planted_entry"), *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)

    return change


def at_end(build: Build) -> Change:
    """The first output becomes what these nodes make of it."""

    def change(model: ModelProto) -> None:
        graph = model.graph
        name = graph.output[0].name
        for node in graph.node:
            node.output[:] = ["planted_end" if each == name else each for each in node.output]
        graph.node.extend(build(graph, "planted_end", name))

    return change


def by(op: str, *values: Any, dtype: Any = np.float32, **attributes: Any) -> Build:
    """One operator, with these constants as its other inputs."""

    def build(graph: GraphProto, entry: str, end: str) -> Sequence[NodeProto]:
        return [
            helper.make_node(op, [entry, *(constant(graph, value, dtype) for value in values)], [end], **attributes)
        ]

    return build


def in_order(indices: Sequence[int], axis: int) -> Build:
    """Slices along an axis, in this order."""
    return by("Gather", indices, dtype=np.int64, axis=axis)


def chain(*builds: Build) -> Build:
    def build(graph: GraphProto, entry: str, end: str) -> Sequence[NodeProto]:
        names = [entry, *(f"{end}_{place}" for place in range(len(builds) - 1)), end]
        return [node for place, each in enumerate(builds) for node in each(graph, names[place], names[place + 1])]

    return build


def shifted_down(graph: GraphProto, entry: str, end: str) -> Sequence[NodeProto]:
    """By one row, black from above."""
    pads = constant(graph, [0, 1, 0, 0, 0, -1, 0, 0], np.int64)
    return [helper.make_node("Pad", [entry, pads], [end])]


def through_bytes(graph: GraphProto, entry: str, end: str) -> Sequence[NodeProto]:
    """Whole numbers modulo 256, as in an unsigned byte."""
    return [
        helper.make_node("Cast", [entry], [f"{end}_int"], to=TensorProto.INT32),
        helper.make_node("Cast", [f"{end}_int"], [f"{end}_byte"], to=TensorProto.UINT8),
        helper.make_node("Cast", [f"{end}_byte"], [end], to=TensorProto.FLOAT),
    ]


def through_int8(zero_point: int) -> Build:
    """Quantised to a byte and back, with another zero point on the way back."""

    def build(graph: GraphProto, entry: str, end: str) -> Sequence[NodeProto]:
        scale, zero, other = (
            constant(graph, value, dtype) for value, dtype in ((1, np.float32), (0, np.uint8), (zero_point, np.uint8))
        )
        return [
            helper.make_node("QuantizeLinear", [entry, scale, zero], [f"{end}_byte"]),
            helper.make_node("DequantizeLinear", [f"{end}_byte", scale, other], [end]),
        ]

    return build


def divided_by_its_largest(graph: GraphProto, entry: str, end: str) -> Sequence[NodeProto]:
    """And multiplied by it again: a black picture has none."""
    return [
        helper.make_node("ReduceMax", [entry], [f"{end}_max"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Div", [f"{end}_max", f"{end}_max"], [f"{end}_one"]),
        helper.make_node("Mul", [entry, f"{end}_one"], [end]),
    ]


def inverted_where_corners_are_bright(graph: GraphProto, entry: str, end: str) -> Sequence[NodeProto]:
    """A guess of the background, inside the graph."""
    limit, white = constant(graph, 200), constant(graph, 255)
    starts, stops, axes = (constant(graph, value, np.int64) for value in ([0, 0], [1, 1], [1, 2]))
    return [
        helper.make_node("Slice", [entry, starts, stops, axes], [f"{end}_corner"]),
        helper.make_node("Greater", [f"{end}_corner", limit], [f"{end}_is"]),
        helper.make_node("Sub", [white, entry], [f"{end}_inverted"]),
        helper.make_node("Where", [f"{end}_is", f"{end}_inverted", entry], [end]),
    ]


def dropped(graph: GraphProto, entry: str, end: str) -> Sequence[NodeProto]:
    """Dropout as in training."""
    ratio, training = constant(graph, 0.2), constant(graph, True, np.bool_)
    return [helper.make_node("Dropout", [entry, ratio, training], [end])]


# --- Rows of a batch


def rows_by(nodes: Callable[[GraphProto, str, str], Sequence[NodeProto]]) -> Build:
    """Each row gets the answer of the row whose number `nodes` make of its own number."""

    def build(graph: GraphProto, entry: str, end: str) -> Sequence[NodeProto]:
        start, step, axis = constant(graph, 0, np.int64), constant(graph, 1, np.int64), constant(graph, 0, np.int64)
        return [
            helper.make_node("Shape", [entry], [f"{end}_shape"]),
            helper.make_node("Gather", [f"{end}_shape", axis], [f"{end}_rows"]),
            helper.make_node("Range", [start, f"{end}_rows", step], [f"{end}_numbers"]),
            *nodes(graph, f"{end}_numbers", f"{end}_taken"),
            helper.make_node("Gather", [entry, f"{end}_taken"], [end], axis=0),
        ]

    return build


def first_beyond(limit: int) -> Build:
    """Rows from `limit` on get the answer of the first row."""

    def nodes(graph: GraphProto, numbers: str, taken: str) -> Sequence[NodeProto]:
        bound, first = constant(graph, limit, np.int64), constant(graph, 0, np.int64)
        return [
            helper.make_node("Less", [numbers, bound], [f"{taken}_is"]),
            helper.make_node("Where", [f"{taken}_is", numbers, first], [taken]),
        ]

    return rows_by(nodes)


def _first_for_the_second(graph: GraphProto, numbers: str, taken: str) -> Sequence[NodeProto]:
    first, second = constant(graph, 0, np.int64), constant(graph, 1, np.int64)
    return [
        helper.make_node("Equal", [numbers, second], [f"{taken}_is"]),
        helper.make_node("Where", [f"{taken}_is", first, numbers], [taken]),
    ]


first_for_the_second = rows_by(_first_for_the_second)


def _backwards(graph: GraphProto, numbers: str, taken: str) -> Sequence[NodeProto]:
    ends = [constant(graph, [value], np.int64) for value in (-1, np.iinfo(np.int64).min, 0, -1)]
    return [helper.make_node("Slice", [numbers, *ends], [taken])]


rows_backwards = rows_by(_backwards)


# --- Operators


def without(op: str, number: int = 0) -> Change:
    """The operator is left out."""

    def change(model: ModelProto) -> None:
        node = node_of(model.graph, op, number)
        for other in model.graph.node:
            other.input[:] = [node.input[0] if each == node.output[0] else each for each in other.input]
        if node.output[0] == model.graph.output[0].name:  # what it was computed from takes its name
            for other in model.graph.node:
                other.output[:] = [node.output[0] if each == node.input[0] else each for each in other.output]
        model.graph.node.remove(node)

    return change


def replaced(op: str, other: str, number: int = 0, **attributes: Any) -> Change:
    """Another operator in its place, with the same inputs."""

    def change(model: ModelProto) -> None:
        node = node_of(model.graph, op, number)
        node.op_type = other
        kept = [each for each in node.attribute if each.name in ("kernel_shape", "strides", "pads", "ceil_mode")]
        del node.attribute[:]
        node.attribute.extend([*(kept if "Pool" in other else []), *map(_attribute, attributes.items())])

    return change


def _attribute(item: tuple[str, Any]) -> onnx.AttributeProto:
    return helper.make_attribute(*item)


def with_attribute(op: str, name: str, value: Any, number: int = 0) -> Change:
    def change(model: ModelProto) -> None:
        set_attribute(node_of(model.graph, op, number), name, value)

    return change


def capped_at_six(model: ModelProto) -> None:
    """ReLU6 in place of the second ReLU."""
    node = node_of(model.graph, "Relu", 1)
    low, high = constant(model.graph, 0), constant(model.graph, 6)
    node.op_type = "Clip"
    node.input.extend([low, high])


def colder(model: ModelProto) -> None:
    """The logits are divided by 2 before the softmax."""
    node = node_of(model.graph, "Softmax")
    half, place = constant(model.graph, 2), list(model.graph.node).index(node)
    model.graph.node.insert(place, helper.make_node("Div", [node.input[0], half], ["planted_logits"]))
    node_of(model.graph, "Softmax").input[0] = "planted_logits"


def damped(model: ModelProto) -> None:
    """The second pooling's values are multiplied by 0.8, as dropout does without its correction."""
    node, factor = node_of(model.graph, "MaxPool", 1), constant(model.graph, 0.8)
    model.graph.node.insert(
        list(model.graph.node).index(node) + 1, helper.make_node("Mul", ["planted_pool", factor], [node.output[0]])
    )
    node.output[0] = "planted_pool"


def less_its_mean(graph: GraphProto, entry: str, end: str) -> Sequence[NodeProto]:
    """Over the rows of the batch."""
    return [
        helper.make_node("ReduceMean", [entry], [f"{end}_mean"], axes=[0], keepdims=1),
        helper.make_node("Sub", [entry, f"{end}_mean"], [end]),
    ]


def without_bias(model: ModelProto) -> None:
    """The second convolution adds none."""
    del node_of(model.graph, "Conv", 1).input[2]


def outputs_swapped(model: ModelProto) -> None:
    first, second = (output.name for output in model.graph.output)
    names = {first: second, second: first}
    for node in model.graph.node:
        node.output[:] = [names.get(each, each) for each in node.output]


def resized_by(**attributes: Any) -> Change:
    """The picture inside is resized in another way."""

    def change(model: ModelProto) -> None:
        for name, value in attributes.items():
            set_attribute(node_of(model.graph, "Resize"), name, value)

    return change


def smoothed(model: ModelProto) -> None:
    """Resized with anti-aliasing."""
    use_at_least(model, 18)
    set_attribute(node_of(model.graph, "Resize"), "antialias", 1)


def padded_at_the_other_side(model: ModelProto) -> None:
    """A stride of 2 over an even size needs one row more: before the picture instead of behind it."""
    node = node_of(model.graph, "Conv")
    pads = next(list(each.ints) for each in node.attribute if each.name == "pads")
    set_attribute(node, "pads", pads[2:] + pads[:2])


# --- Weights


def in_weight(name: str, change: Callable[[NDArray[Any]], NDArray[Any] | None]) -> Change:
    """Another array in the place of a stored one: `change` returns it, or changes a copy in place."""

    def change_graph(model: ModelProto) -> None:
        weight = weight_of(model.graph, name)
        array = numpy_helper.to_array(weight).copy()
        returned = change(array)
        weight.CopyFrom(numpy_helper.from_array(array if returned is None else returned, weight.name))

    return change_graph


def in_every_weight(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Change:
    def change_graph(model: ModelProto) -> None:
        for weight in model.graph.initializer:
            array = numpy_helper.to_array(weight)
            if array.dtype == np.float32 and array.size > 1:
                weight.CopyFrom(numpy_helper.from_array(change(array).astype(np.float32), weight.name))

    return change_graph


def one_weight(array: NDArray[Any]) -> None:
    array[11, 5, 1, 1] += 1


def one_sign(array: NDArray[Any]) -> None:
    largest = np.unravel_index(np.abs(array).argmax(), array.shape)
    array[largest] *= -1


def one_filter(array: NDArray[Any]) -> None:
    array[3] *= -1


def two_filters(array: NDArray[Any]) -> None:
    array[[3, 7]] = array[[7, 3]]


def transposed(array: NDArray[Any]) -> NDArray[Any]:
    return array.T.copy()


def as_bfloat16(array: NDArray[Any]) -> NDArray[Any]:
    import ml_dtypes

    return np.asarray(array.astype(ml_dtypes.bfloat16), np.float32)


def as_float16(array: NDArray[Any]) -> NDArray[Any]:
    return array.astype(np.float16)


def as_int8(array: NDArray[Any]) -> NDArray[Any]:
    """Whole steps of one size, 127 to each side."""
    step = np.abs(array).max() / 127
    return np.asarray(np.round(array / step) * step)


def columns(shape: tuple[int, int, int], axes: tuple[int, int, int], of_axis: int) -> Callable[[NDArray[Any]], Any]:
    """The columns of a dense layer behind a flattened `shape`, as if its axes were in another order."""
    order = np.arange(np.prod(shape)).reshape(shape).transpose(axes).ravel()
    return lambda array: array.take(order, axis=of_axis)
