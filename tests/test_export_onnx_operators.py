"""Each family of ONNX's operators, translated one by one, answers as ONNX Runtime does; what is unknown is named."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnx.helper import make_node as node

from contract.errors import ExportError
from contract.manifest import Manifest, TensorSpec
from export.known_operators import in_known_operators
from export.onnx_operators import translation
from export.onnx_to_savedmodel import by_operators

ROWS = 3
RANDOM = np.random.default_rng(5)
Arrays = Mapping[str, NDArray[Any]]
Case = tuple[list[NodeProto], tuple[Any, ...], Arrays, int]
"""Nodes from `x` to `y`, the sizes of a row of `x`, the weights, the opset."""


def weights(*shape: int) -> NDArray[np.float32]:
    return (RANDOM.normal(size=shape) * 0.5).astype(np.float32)


def whole(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def model_of(nodes: Sequence[NodeProto], sizes: Sequence[Any], arrays: Arrays, opset: int) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "case",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *sizes])],
        [onnx.ValueInfoProto(name=name) for name in outputs_of(nodes)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 19 else 9)


def outputs_of(nodes: Sequence[NodeProto]) -> list[str]:
    return [name for name in ("y", "z") if any(name in each.output for each in nodes)]


def answers(model: onnx.ModelProto, sizes: Sequence[int | None], rows: NDArray[np.float32]) -> list[NDArray[Any]]:
    """What the translation answers, traced with a free batch."""
    function = translation(model)
    with in_known_operators():
        signature = tf.TensorSpec((None, *sizes), tf.float32)
        traced = tf.function(lambda x: function(x), autograph=False).get_concrete_function(signature)
    return [output.numpy() for output in traced(tf.constant(rows))]


def conv(*, kernel: tuple[int, ...] = (6, 4, 3, 3), **settings: Any) -> Case:
    return [node("Conv", ["x", "w", "b"], ["y"], **settings)], (4, 9, 8), {"w": weights(*kernel), "b": weights(6)}, 17


def pool(operator: str, **settings: Any) -> Case:
    return [node(operator, ["x"], ["y"], **settings)], (4, 9, 8), {}, 19


def grown(**settings: Any) -> Case:
    return [node("ConvTranspose", ["x", "w"], ["y"], **settings)], (4, 7, 6), {"w": weights(4, 6, 3, 3)}, 17


def resize(scales: Sequence[float], **settings: Any) -> Case:
    return [node("Resize", ["x", "", "s"], ["y"], **settings)], (4, 9, 8), {"s": np.array(scales, np.float32)}, 18


def layer(operator: str, gates: int, direction: str = "forward", states: int = 1, **settings: Any) -> Case:
    two = 2 if direction == "bidirectional" else 1
    ends = ["h", "c"][:states]
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node(operator, ["t", "w", "r", "b"], ["all", *ends], hidden_size=5, direction=direction, **settings),
        node("Transpose", ["all"], ["y"], perm=[2, 0, 1, 3]),
        node("Transpose", ["h"], ["z"], perm=[1, 0, 2]),
    ]
    arrays = {"w": weights(two, gates * 5, 4), "r": weights(two, gates * 5, 5), "b": weights(two, gates * 10)}
    return nodes, (6, 4), arrays, 17


def quantised() -> Case:
    """As quantisers write a layer: input, weights and result each as 8-bit numbers."""
    nodes = [
        node("QuantizeLinear", ["x", "s", "z0"], ["xq"]),
        node("DequantizeLinear", ["xq", "s", "z0"], ["xd"]),
        node("DequantizeLinear", ["wq", "ws", "wz"], ["wd"], axis=0),
        node("Conv", ["xd", "wd"], ["c"]),
        node("QuantizeLinear", ["c", "s2", "z2"], ["cq"]),
        node("DequantizeLinear", ["cq", "s2", "z2"], ["y"]),
    ]
    arrays: dict[str, Any] = {
        "s": np.float32(0.05),
        "z0": np.uint8(128),
        "wq": RANDOM.integers(-100, 100, (6, 4, 3, 3)).astype(np.int8),
        "ws": (np.abs(weights(6)) * 0.05 + 0.01).astype(np.float32),
        "wz": np.zeros(6, np.int8),
        "s2": np.float32(0.1),
        "z2": np.uint8(90),
    }
    return nodes, (4, 9, 8), arrays, 17


def looped() -> Case:
    """y = x doubled four times, by a Loop; z is each pass's value."""
    body = helper.make_graph(
        [node("Add", ["v", "v"], ["w"]), node("Identity", ["go"], ["on"]), node("Identity", ["w"], ["each"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("each", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        node("Loop", ["n", "true", "x"], ["y", "all"], body=body),
        node("Transpose", ["all"], ["z"], perm=[1, 0, 2]),
    ]
    return nodes, (5,), {"n": whole(4).reshape(()), "true": np.array(True)}, 17


def chosen() -> Case:
    """An If whose condition is a shape: it is decided while the graph is translated."""

    def branch(name: str, operator: str) -> onnx.GraphProto:
        return helper.make_graph(
            [node(operator, ["x"], [name])], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        )

    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "one"], ["width"]),
        node("Equal", ["width", "five"], ["is"]),
        node("If", ["is"], ["y"], then_branch=branch("yes", "Neg"), else_branch=branch("no", "Abs")),
    ]
    return nodes, (5,), {"one": whole(1).reshape(()), "five": whole(5).reshape(())}, 17


def shaped() -> Case:
    """A reshape to sizes that the graph computes, as exporters write it."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Unsqueeze", ["n", "at"], ["n1"]),
        node("Concat", ["n1", "rest"], ["to"], axis=0),
        node("Reshape", ["x", "to"], ["r"]),
        node("Transpose", ["r"], ["y"], perm=[0, 2, 1]),
    ]
    return nodes, (4, 9, 8), {"zero": whole(0).reshape(()), "at": whole(0), "rest": whole(36, 8)}, 17


def counted() -> Case:
    """The shape of a shape: how many axes there are."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Shape", ["s"], ["axes"]),
        node("Cast", ["axes"], ["many"], to=TensorProto.FLOAT),
        node("Mul", ["x", "many"], ["y"]),
    ]
    return nodes, (4, 9), {}, 17


def channels_of_a_shape() -> Case:
    """A convolution whose channels the graph computes: from the values of a sum, which nobody knows before."""
    nodes = [
        node("ReduceMin", ["x"], ["least"], keepdims=0),
        node("Mul", ["least", "nothing"], ["none"]),
        node("Cast", ["none"], ["zero"], to=TensorProto.INT64),
        node("Add", ["sizes", "zero"], ["to"]),
        node("Reshape", ["x", "to"], ["r"]),
        node("Conv", ["r", "w"], ["y"]),
    ]
    arrays: Mapping[str, NDArray[Any]] = {
        "nothing": np.zeros(1, np.float32),
        "sizes": whole(ROWS, 4, 9, 8),
        "w": weights(6, 4, 3, 3),
    }
    return nodes, (4, 72), arrays, 17


CASES: dict[str, Callable[[], Case]] = {
    "a convolution of a computed number of channels": channels_of_a_shape,
    "the shape of a shape": counted,
    "convolution with uneven padding": lambda: conv(pads=[1, 0, 0, 2], strides=[2, 1]),
    "convolution of the same size": lambda: conv(pads=[1, 1, 1, 1]),
    "grouped convolution": lambda: conv(kernel=(6, 2, 3, 3), group=2),
    "dilated convolution, padded below": lambda: conv(auto_pad="SAME_LOWER", strides=[2, 2]),
    "convolution along one axis": lambda: (
        [node("Conv", ["x", "w"], ["y"], pads=[2, 2], dilations=[2])], (4, 9), {"w": weights(6, 4, 3)}, 17),
    "transposed convolution": lambda: grown(strides=[2, 2], pads=[1, 0, 0, 1], output_padding=[1, 0]),
    "transposed convolution, dilated": lambda: grown(dilations=[2, 1], strides=[1, 2]),
    "transposed convolution to a size": lambda: grown(strides=[2, 2], auto_pad="SAME_UPPER"),
    "largest of windows, rounded up": lambda: pool(
        "MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], ceil_mode=1),
    "average without its padding": lambda: pool("AveragePool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    "average with its padding": lambda: pool(
        "AveragePool", kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1], count_include_pad=1),
    "resizing by a fraction": lambda: resize([1, 1, 2, 1.5], mode="linear"),
    "resizing to corners": lambda: resize(
        [1, 1, 2, 1.5], mode="linear", coordinate_transformation_mode="align_corners"),
    "resizing to the nearest": lambda: resize([1, 1, 2, 1.5], mode="nearest", nearest_mode="ceil"),
    "resizing by cubes": lambda: resize([1, 1, 2, 1.5], mode="cubic"),
    "places of a grid": lambda: (
        [node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]), node("Slice", ["t", "at", "two", "last"], ["g"]),
         node("GridSample", ["x", "g"], ["y"], mode="linear", align_corners=0)],
        (4, 9, 8), {"at": whole(0), "two": whole(2), "last": whole(3)}, 20),
    "a Slice that takes everything, behind a convolution": lambda: (
        [node("Conv", ["x", "w"], ["c"]), node("Slice", ["c", "zeros", "ends", "axes"], ["y"])], (4, 9, 8),
        {"w": weights(6, 4, 3, 3), "zeros": whole(0, 0, 0), "ends": whole(2**63 - 1, 2**63 - 1, 2**63 - 1),
         "axes": whole(0, 1, 2)}, 17),
    "a Slice backwards, and one from the end": lambda: (
        [node("Slice", ["x", "last", "least", "one", "back"], ["b"]),
         node("Slice", ["b", "minus", "most", "two"], ["y"])],
        (4, 9, 8), {"last": whole(-1), "least": whole(-(2**63)), "one": whole(1), "back": whole(-1), "minus": whole(-5),
                    "most": whole(2**62), "two": whole(2)}, 17),
    "a vector for the last axis, behind a convolution": lambda: (
        [node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]), node("Mul", ["c", "v"], ["m"]),
         node("MatMul", ["m", "u"], ["y"])], (4, 8, 8),
        {"w": weights(8, 4, 3, 3), "v": weights(8), "u": weights(8, 8)}, 17),
    "operands of two orders": lambda: (
        [node("Conv", ["x", "w"], ["c"]), node("Transpose", ["c"], ["t"], perm=[0, 1, 3, 2]),
         node("Add", ["c", "t"], ["y"])],
        (4, 8, 8), {"w": weights(6, 4, 3, 3)}, 17),
    "softmax over a matrix, as before opset 13": lambda: ([node("Softmax", ["x"], ["y"], axis=1)], (4, 9, 8), {}, 11),
    "a causal mask": lambda: (
        [node("Trilu", ["all"], ["past"], upper=0), node("Cast", ["past"], ["mask"], to=TensorProto.BOOL),
         node("Where", ["mask", "x", "least"], ["m"]), node("Softmax", ["m"], ["y"])], (4, 9, 9),
        {"all": np.ones((9, 9), np.float32), "least": np.array(-np.inf, np.float32)}, 17),
    "softmax over an inner axis": lambda: ([node("Softmax", ["x"], ["y"], axis=2)], (4, 9, 8), {}, 17),
    "the length of a vector": lambda: (
        [node("ReduceL2", ["x"], ["n"], axes=[1], keepdims=1), node("Div", ["x", "n"], ["y"])], (6,), {}, 17),
    "places of the largest": lambda: (
        [node("Conv", ["x", "w"], ["c"]), node("ArgMax", ["c"], ["y"], axis=1, keepdims=0)], (4, 9, 8),
        {"w": weights(6, 4, 3, 3)}, 17),
    "a whole sort": lambda: (  # of as many as there are, which is computed, as torch.sort is written
        [node("Shape", ["x"], ["s"]), node("Gather", ["s", "first"], ["k"], axis=0),
         node("TopK", ["x", "k"], ["y", "z"], axis=0)], (4,), {"first": whole(0)}, 17),
    "gathered values": lambda: (
        [node("GatherElements", ["x", "at"], ["y"], axis=1)], (6,), {"at": np.array([[0, -1], [2, 2], [5, 1]])}, 17),
    "blocks of depth": lambda: ([node("DepthToSpace", ["x"], ["y"], blocksize=2, mode="CRD")], (8, 3, 2), {}, 17),
    "reflected borders": lambda: ([node("Pad", ["x", "p"], ["y"], mode="reflect")], (4, 9, 8),
                                  {"p": whole(0, 0, 1, 2, 0, 0, 2, 0)}, 17),
    "error function": lambda: ([node("Erf", ["x"], ["y"])], (6,), {}, 17),
    "sizes that the graph computes": shaped,
    "LSTM": lambda: layer("LSTM", 4, states=2),
    "LSTM in both directions": lambda: layer("LSTM", 4, "bidirectional", states=2),
    "GRU": lambda: layer("GRU", 3),
    "GRU, reset after the product": lambda: layer("GRU", 3, "reverse", linear_before_reset=1),
    "plain recurrent layer": lambda: layer("RNN", 1, activations=["Relu"]),
    "8-bit numbers": quantised,
    "a loop": looped,
    "a condition of shapes": chosen,
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_it_answers_as_onnx_runtime_does(case: Callable[[], Case]) -> None:
    nodes, sizes, arrays, opset = case()
    model = model_of(nodes, sizes, arrays, opset)
    rows = np.random.default_rng(1).normal(size=(ROWS, *sizes)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": rows})
    got = answers(model, sizes, rows)
    assert [each.shape for each in got] == [each.shape for each in expected]
    for one, other in zip(got, expected, strict=True):
        assert np.ptp(other) > 0, "the same everywhere would show nothing"
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=2e-6)


def test_a_long_recurrent_layer_is_a_loop_and_a_short_one_is_written_out() -> None:
    nodes, _, arrays, opset = layer("GRU", 3)
    model = model_of(nodes, ("time", 4), arrays, opset)
    rows = np.random.default_rng(1).normal(size=(ROWS, 150, 4)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for length, sizes in ((150, (None, 4)), (6, (6, 4))):
        got = answers(model, sizes, rows[:, :length])
        for one, other in zip(got, session.run(None, {"x": rows[:, :length]}), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-6)


def test_convolutions_in_a_row_leave_the_channels_last() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("Relu", ["a"], ["b"]),
        node("Mul", ["b", "s"], ["c"]),
        node("Conv", ["c", "v"], ["d"]),
        node("GlobalAveragePool", ["d"], ["e"]),
        node("Flatten", ["e"], ["y"]),
    ]
    arrays = {"w": weights(6, 4, 3, 3), "s": weights(6, 1, 1), "v": weights(5, 6, 3, 3)}
    function = translation(model_of(nodes, (4, 9, 8), arrays, 17))
    traced = tf.function(lambda x: function(x), autograph=False).get_concrete_function(
        tf.TensorSpec((None, 4, 9, 8), tf.float32)
    )
    shapes = [op.outputs[0].shape.rank for op in traced.graph.get_operations() if op.type == "Transpose"]
    assert shapes == [4], "only the input is permuted; the kernels were, before"


def test_an_operator_without_a_translation_is_named() -> None:
    with pytest.raises(ExportError, match=r"no translation of the ONNX operator Det\."):
        translation(model_of([node("Det", ["x"], ["y"])], (3, 3), {}, 17))


def test_a_node_that_cannot_be_translated_is_named_with_the_reason() -> None:
    model = model_of([node("MaxPool", ["x"], ["y", "z"], kernel_shape=[2, 2], name="pool@1")], (4, 9, 8), {}, 17)
    with pytest.raises(ExportError, match=r"MaxPool pool@1 cannot be translated: .*places of the largest values"):
        answers(model, (4, 9, 8), np.zeros((ROWS, 4, 9, 8), np.float32))


def test_the_channels_of_a_convolution_are_those_of_its_kernel() -> None:
    """TF Lite converts it only where they are known."""
    nodes, sizes, arrays, opset = channels_of_a_shape()
    function = translation(model_of(nodes, sizes, arrays, opset))
    traced = tf.function(lambda x: function(x), autograph=False).get_concrete_function(tf.TensorSpec((ROWS, *sizes)))
    (convolution,) = [operation for operation in traced.graph.get_operations() if operation.type == "Conv2D"]
    assert convolution.inputs[0].shape[-1] == 4


def test_both_signatures_share_large_weights(tmp_path: Path) -> None:
    kernel = weights(200, 300)
    model = model_of([node("MatMul", ["x", "w"], ["y"])], (200,), {"w": kernel}, 17)
    parent, target = tmp_path / "onnx", tmp_path / "savedmodel"
    parent.mkdir()
    target.mkdir()
    onnx.save(model, parent / "model.onnx")
    specs = TensorSpec("x", "float32", (None, 200), "NC"), TensorSpec("y", "float32", (None, 300), "NC")
    manifest = Manifest(
        model="m", format="onnx", parent=None, files={}, inputs=specs[:1], outputs=specs[1:], image=None, labels=(),
        made_with={},
    )  # fmt: skip
    files = by_operators(parent, manifest, target)
    assert kernel.nbytes <= sum(file.stat().st_size for file in files) < 1.5 * kernel.nbytes
    signatures = tf.saved_model.load(str(target)).signatures
    row = weights(1, 200)
    for signature in ("serving_default", "batch1"):
        np.testing.assert_allclose(signatures[signature](x=row)["y"], row @ kernel, atol=1e-4)


def test_a_condition_of_values_and_a_loop_of_values_stay_in_the_graph() -> None:
    """What a convolution made is read in a branch and in a loop's body, and behind them."""

    def graph(name: str, nodes: list[NodeProto], inputs: Sequence[tuple[str, int]], outputs: Sequence[str]) -> Any:
        shapes = {TensorProto.FLOAT: None}
        values = [helper.make_tensor_value_info(each, kind, shapes.get(kind, [])) for each, kind in inputs]
        return helper.make_graph(nodes, name, values, [onnx.ValueInfoProto(name=each) for each in outputs])

    kinds = [("i", TensorProto.INT64), ("go", TensorProto.BOOL), ("v", TensorProto.FLOAT)]
    body = graph(
        "body",
        [
            node("Add", ["v", "c"], ["w"]),
            node("ReduceMax", ["w"], ["m"], keepdims=0),
            node("Less", ["m", "top"], ["on"]),
        ],
        kinds,
        ["on", "w"],
    )
    nodes = [
        node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
        node("ReduceMax", ["x"], ["high"], keepdims=0),
        node("Less", ["high", "top"], ["low"]),
        node("If", ["low"], ["b"], then_branch=graph("yes", [node("Neg", ["c"], ["n"])], [], ["n"]),
             else_branch=graph("no", [node("Abs", ["c"], ["a"])], [], ["a"])),
        node("Loop", ["passes", "low", "b"], ["d"], body=body),
        node("Add", ["d", "c"], ["y"]),
    ]  # fmt: skip
    arrays: dict[str, Any] = {"k": np.abs(weights(4, 4, 3, 3)), "top": np.float32(50), "passes": np.int64(40)}
    model = model_of(nodes, (4, 5, 6), arrays, 17)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for factor in (1, 100):
        rows = factor * np.abs(np.random.default_rng(1).normal(size=(ROWS, 4, 5, 6))).astype(np.float32)
        (expected,), (got,) = session.run(None, {"x": rows}), answers(model, (4, 5, 6), rows)
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("batch", [10, None], ids=["a batch of 10", "a free batch"])
def test_a_graph_with_a_fixed_batch_becomes_a_savedmodel(tmp_path: Path, batch: int | None) -> None:
    """As exporters write it that do not know of other batches: the reshape has the 10 in it, and a name is odd."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="conv @1"),
        node("Reshape", ["c", "to"], ["y"], name="my/reshape:0"),
    ]
    arrays: dict[str, Any] = {"w": weights(6, 4, 3, 3), "to": whole(batch or -1, 252)}
    model = model_of(nodes, (4, 9, 8), arrays, 17)
    if batch:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    parent, target = tmp_path / "onnx", tmp_path / "savedmodel"
    for folder in (parent, target):
        folder.mkdir()
    onnx.save(model, parent / "model.onnx")
    specs = TensorSpec("x", "float32", (None, 4, 9, 8), "NCHW"), TensorSpec("y", "float32", (None, 252), "NC")
    by_operators(parent, Manifest("m", "onnx", None, specs[:1], specs[1:], None, (), batch=batch), target)
    rows = np.random.default_rng(1).normal(size=(batch or 3, 4, 9, 8)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(parent / "model.onnx").run(None, {"x": rows})
    got = tf.saved_model.load(str(target)).signatures["serving_default"](x=rows)["y"]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=2e-6)


def branches(then: list[NodeProto], otherwise: list[NodeProto], out: str) -> dict[str, onnx.GraphProto]:
    both = {"then_branch": then, "else_branch": otherwise}
    return {key: helper.make_graph(nodes, key, [], [onnx.ValueInfoProto(name=out)]) for key, nodes in both.items()}


def test_an_axis_that_is_left_out_if_its_size_is_1_is_left_out() -> None:
    """As PyTorch writes squeeze: which branch is taken is known only when the rows come, and the rank before."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "two"], ["length"]),
        node("Equal", ["length", "one"], ["is"]),
        node("If", ["is"], ["v"],
             **branches([node("Squeeze", ["x", "axis"], ["v"])], [node("Identity", ["x"], ["v"])], "v")),
        node("MatMul", ["v", "w"], ["y"]),
    ]  # fmt: skip
    arrays: dict[str, Any] = {
        "two": whole(2).reshape(()),
        "one": whole(1).reshape(()),
        "axis": whole(2),
        "w": weights(4, 3),
    }
    rows = np.random.default_rng(1).normal(size=(ROWS, 4, 1)).astype(np.float32)
    (got,) = answers(model_of(nodes, (4, "length"), arrays, 17), (4, None), rows)
    np.testing.assert_allclose(got, rows[..., 0] @ arrays["w"], atol=2e-6)


def test_a_branch_that_inputs_of_this_size_cannot_take_is_left_out() -> None:
    """As networks for two rates of audio have it: rows of one length fit one branch alone."""
    nodes = [
        node("ReduceMax", ["x"], ["high"], keepdims=0),
        node("Less", ["high", "top"], ["low"]),
        node("If", ["low"], ["y"],
             **branches([node("MatMul", ["x", "v"], ["y"])], [node("MatMul", ["x", "w"], ["y"])], "y")),
    ]  # fmt: skip
    arrays: dict[str, Any] = {"top": np.float32(0), "v": weights(5, 3), "w": weights(6, 3)}
    rows = np.random.default_rng(1).normal(size=(ROWS, 6)).astype(np.float32)
    (got,) = answers(model_of(nodes, (6,), arrays, 17), (6,), rows)
    np.testing.assert_allclose(got, rows @ arrays["w"], atol=2e-6)


@pytest.mark.parametrize("is_by_centre", [0, 1])
def test_boxes_that_overlap_are_left_out_as_by_onnx_runtime(is_by_centre: int) -> None:
    nodes = [
        node("Sigmoid", ["x"], ["boxes"]),
        node("Slice", ["boxes", "zero", "one", "last"], ["score"]),
        node("Transpose", ["score"], ["scores"], perm=[0, 2, 1]),
        node("NonMaxSuppression", ["boxes", "scores", "most", "shared", "least"], ["y"], center_point_box=is_by_centre),
    ]
    arrays: dict[str, Any] = {"zero": whole(0), "one": whole(1), "last": whole(2), "most": whole(9)}
    arrays |= {"shared": np.array([0.3], np.float32), "least": np.array([0.2], np.float32)}
    model = model_of(nodes, (20, 4), arrays, 17)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    rows = np.random.default_rng(2).normal(size=(2, 20, 4)).astype(np.float32)
    (expected,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": rows})
    traced = tf.function(lambda x: translation(model)(x), autograph=False)
    (got,) = traced.get_concrete_function(tf.TensorSpec((2, 20, 4), tf.float32))(tf.constant(rows))
    assert 4 < len(expected) < 30
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("case", ["Gemm", "GRU"])
def test_known_matrices_are_exchanged_before_they_become_the_graphs_own(case: str) -> None:
    """A fused product with a matrix to be exchanged is wrong in TF.js 4.22: it was 0.8 off."""
    nodes, sizes, arrays, opset = {
        "Gemm": ([node("Gemm", ["x", "w", "b"], ["y"], transB=1)], (6,), {"w": weights(50, 6), "b": weights(50)}, 17),
        "GRU": layer("GRU", 3),
    }[case]
    function = translation(model_of(nodes, sizes, arrays, opset))
    traced = tf.function(lambda x: function(x), autograph=False).get_concrete_function(
        tf.TensorSpec((None, *sizes), tf.float32)
    )
    operations = traced.graph.get_operations()
    products = [operation for operation in operations if operation.type in ("MatMul", "BatchMatMulV2")]
    assert products and not any(product.get_attr("transpose_b") for product in products if product.type == "MatMul")
    transposed = [operation.inputs[0] for operation in operations if operation.type == "Transpose"]
    assert all(tensor.shape[0] is None or tensor.shape.rank > 2 for tensor in transposed), "no weights are"
