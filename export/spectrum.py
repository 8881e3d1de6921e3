"""The spectrum of a real signal in ONNX, as one product with a matrix of cosines or sines.

tf2onnx translates TensorFlow's RFFT only where nothing but its magnitude is used, and LiteRT's RFFT2D of one line,
which is what tf.signal.stft becomes there, not at all where a Squeeze follows. ONNX has no complex numbers: what is
used of them, the magnitude, the real or the imaginary part, is computed at once.
"""

import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

SINCE = 13
"""The opset of tf2onnx's own translations that are used otherwise."""

KEEPS = ("Squeeze", "Reshape", "ExpandDims", "Identity")
"""Operators that keep the values of complex tensors."""
MAGNITUDE, REAL, IMAGINARY = "ComplexAbs", "Real", "Imag"


def teach_tf2onnx() -> None:
    """Have tf2onnx translate RFFT, and RFFT2D of one line, from now on in this process."""
    from tf2onnx.handler import tf_op

    importlib.import_module("tf2onnx.onnx_opset")  # its own translations of this opset would take the place of these
    tf_op.register_handler(_spectrum, SINCE, ["RFFT", "RFFT2D"], "", {})


def _spectrum(graph: Any, node: Any, **settings: Any) -> None:
    from tf2onnx.onnx_opset.signal import RFFT2DOp, RFFTOp

    lengths = node.inputs[1].get_tensor_value(as_list=False).ravel() if node.inputs[1].is_const() else []
    used = list(_uses(graph, node))
    parts = {_part(graph, user) for user in used}
    is_one_line = len(lengths) > 0 and all(length == 1 for length in lengths[:-1])
    if not is_one_line or len(parts) != 1 or None in parts:
        (RFFT2DOp if node.type == "RFFT2D" else RFFTOp).version_13(graph, node, **settings)
        return
    (part,), signal, length = parts, node.input[0], int(lengths[-1])
    shapes, name, outputs = node.output_shapes, node.name, node.output
    real = graph.get_dtype(signal)
    for between in _between(graph, node):
        graph.set_dtype(between.output[0], real)
    graph.remove_node(name)
    cosines, sines = matrices(length)
    if part == MAGNITUDE:
        squares = [_squared(graph, _product(graph, signal, matrix, length)) for matrix in (cosines, sines)]
        total = graph.make_node("Add", squares).output[0]
        graph.make_node("Sqrt", [total], name=name, outputs=outputs, shapes=shapes, dtypes=[real])
    else:
        product = _product(graph, signal, cosines if part == REAL else sines, length)
        graph.make_node("Identity", [product], name=name, outputs=outputs, shapes=shapes, dtypes=[real])
    for user in used:
        user.type = "Identity"


def matrices(length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The real and the imaginary part of the transform of a real signal, each (length, length // 2 + 1)."""
    # The product of two places is reduced first: a large angle in floating point has lost its fraction.
    places = np.outer(np.arange(length), np.arange(length // 2 + 1)) % length
    angles = 2 * np.pi * places / length
    return np.cos(angles).astype(np.float32), -np.sin(angles).astype(np.float32)


def _product(graph: Any, signal: str, matrix: NDArray[np.float32], length: int) -> str:
    """Of the first `length` values of each line, as the transform takes them."""
    from tf2onnx import utils

    constants = [
        graph.make_const(utils.make_name("spectrum"), np.array([value], np.int64)).output[0]
        for value in (0, length, -1)
    ]
    line = graph.make_node("Slice", [signal, *constants]).output[0]
    weights = graph.make_const(utils.make_name("spectrum"), matrix).output[0]
    return str(graph.make_node("MatMul", [line, weights]).output[0])


def _squared(graph: Any, value: str) -> str:
    return str(graph.make_node("Mul", [value, value]).output[0])


def _between(graph: Any, node: Any) -> Iterator[Any]:
    """The operators behind a complex tensor that keep its values."""
    for user in graph.find_output_consumers(node.output[0]):
        if user.type in KEEPS:
            yield user
            yield from _between(graph, user)


def _uses(graph: Any, node: Any) -> Iterator[Any]:
    """The operators that take something from a complex tensor."""
    for user in graph.find_output_consumers(node.output[0]):
        if user.type in KEEPS:
            yield from _uses(graph, user)
        else:
            yield user


def _part(graph: Any, user: Any) -> str | None:
    """What of complex numbers an operator takes; None where that is not known. A Cast to reals takes the real part."""
    if user.type in (MAGNITUDE, REAL, IMAGINARY):
        return str(user.type)
    is_real = user.type == "Cast" and user.get_attr_int("to") == TensorProto.FLOAT
    return REAL if is_real else None
