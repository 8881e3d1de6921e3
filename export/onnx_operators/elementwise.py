"""Operators that compute each value from those at the same place: any order of axes will do."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from export.error_function import erf
from export.onnx_operators.graph import Handler, Node, dtype_of
from export.onnx_operators.values import ChannelsLast, Sizes, plain, turned
from export.overflow import is_infinite


def alike(function: Callable[..., Any]) -> Handler:
    """A handler that calls `function(node, *operands)` with operands of one order of axes."""

    def apply(node: Node, *values: Any) -> Any:
        ranks = [value.rank for value in values if isinstance(value, ChannelsLast)]
        if ranks:
            operands = [turned(value, max(ranks)) for value in values]
            if all(operand is not None for operand in operands):
                return ChannelsLast(function(node, *operands))
        return function(node, *[plain(value) for value in values])

    return apply


def of_one(function: Callable[[Any], Any]) -> Handler:
    return alike(lambda node, x: function(x))


def of_two(function: Callable[[Any, Any], Any]) -> Handler:
    return alike(lambda node, x, y: function(x, y))


def of_many(function: Callable[[Any, Any], Any]) -> Handler:
    def apply(node: Node, *values: Any) -> Any:
        total, *others = values
        for value in others:
            total = function(total, value)
        return total

    return alike(apply)


def of_sizes(number: Callable[[Any, Any], Any], function: Callable[[Any, Any], Any]) -> Handler:
    """The same for a computation that shapes are made by: sizes stay sizes."""
    general = of_two(function)

    def apply(node: Node, x: Any, y: Any) -> Any:
        if not isinstance(x, Sizes) and not isinstance(y, Sizes):
            return general(node, x, y)
        ones, others = (_numbers(value) for value in (x, y))
        if ones is None or others is None:
            return general(node, x, y)
        is_vector = any(_is_vector(value) for value in (x, y))
        count = max(len(ones), len(others))
        ones, others = (numbers * (count if len(numbers) == 1 else 1) for numbers in (ones, others))
        return Sizes(tuple(number(here, there) for here, there in zip(ones, others, strict=True)), is_vector)

    return apply


def _is_vector(value: Any) -> bool:
    return value.is_vector if isinstance(value, Sizes) else value.ndim == 1


def _numbers(value: Any) -> list[Any] | None:
    if isinstance(value, Sizes):
        return list(value.items)
    is_whole = isinstance(value, np.ndarray) and value.ndim <= 1 and value.dtype.kind in "iu"
    return [int(number) for number in value.reshape(-1)] if is_whole else None


def _quotient(x: Any, y: Any) -> Any:
    return tf.truncatediv(x, y) if tf.as_dtype(x.dtype).is_integer else tf.divide(x, y)


def _remainder(node: Node, x: Any, y: Any) -> Any:
    return tf.truncatemod(x, y) if node.get("fmod", 0) else tf.math.floormod(x, y)


def _power(x: Any, y: Any) -> Any:
    if isinstance(y, np.ndarray) and y.size == 1 and float(y.reshape(-1)[0]) == 2.0:
        return tf.square(x)
    if isinstance(y, np.ndarray) and y.size == 1 and float(y.reshape(-1)[0]) == 0.5:
        return tf.sqrt(x)
    return tf.pow(x, tf.cast(y, x.dtype))


def _clip(node: Node, x: Any, low: Any = None, high: Any = None) -> Any:
    low, high = node.setting("min", low), node.setting("max", high)

    def apply(node: Node, x: Any) -> Any:
        if low is not None and np.ndim(low) == 0 and high is not None and _is(low, 0) and _is(high, 6):
            return tf.nn.relu6(x)
        if low is not None:
            x = tf.nn.relu(x) if _is(low, 0) and x.dtype == tf.float32 else tf.maximum(x, tf.cast(low, x.dtype))
        return x if high is None else tf.minimum(x, tf.cast(high, x.dtype))

    return alike(apply)(node, x)


def _is(value: Any, number: float) -> bool:
    return isinstance(value, np.ndarray) and value.size == 1 and float(value.reshape(-1)[0]) == number


def _softplus(x: Any) -> Any:
    return tf.nn.relu(x) - tf.math.log(tf.sigmoid(tf.abs(x)))  # finite, where log(1 + exp(x)) is not


def _leaky(node: Node, x: Any) -> Any:
    return tf.nn.leaky_relu(x, node.get("alpha", 0.01))


def _prelu(node: Node, x: Any, slope: Any) -> Any:
    return tf.nn.relu(x) - slope * tf.nn.relu(-x)


def _elu(node: Node, x: Any) -> Any:
    alpha = node.get("alpha", 1.0)
    return tf.nn.elu(x) if alpha == 1.0 else tf.nn.relu(x) + alpha * tf.nn.elu(-tf.nn.relu(-x))


def _selu(node: Node, x: Any) -> Any:
    alpha, gamma = node.get("alpha", 1.67326319217681884765625), node.get("gamma", 1.05070102214813232421875)
    return gamma * (tf.nn.relu(x) + alpha * tf.nn.elu(-tf.nn.relu(-x)))


def _celu(node: Node, x: Any) -> Any:
    alpha = node.get("alpha", 1.0)
    return tf.nn.relu(x) + alpha * tf.nn.elu(-tf.nn.relu(-x) / alpha)


def _hard_sigmoid(node: Node, x: Any) -> Any:
    return tf.clip_by_value(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0.0, 1.0)


def _shrink(node: Node, x: Any) -> Any:
    bias, edge = node.get("bias", 0.0), node.get("lambd", 0.5)
    return tf.where(x < -edge, x + bias, tf.where(x > edge, x - bias, tf.zeros_like(x)))


def _gelu(node: Node, x: Any) -> Any:
    return tf.nn.gelu(x, approximate=node.get("approximate", "none") == "tanh")


def _cast(node: Node, x: Any, *like: Any) -> Any:
    target = like[0].dtype if like else dtype_of(node.get("to"))
    if isinstance(x, Sizes) and target in (tf.int64, tf.int32):
        return x
    return alike(lambda node, value: _as(value, target))(node, x)


def _as(x: Any, target: Any) -> Any:
    if target == tf.bool:
        return tf.not_equal(x, tf.cast(0, x.dtype)) if x.dtype != tf.bool else tf.identity(x)
    return tf.cast(x, target)


def _is_infinite(node: Node, x: Any) -> Any:
    signs = [sign for name, sign in (("detect_positive", 1), ("detect_negative", -1)) if node.get(name, 1)]
    return is_infinite(x) if len(signs) == 2 else x * tf.cast(signs[0], x.dtype) > x.dtype.max


def _where(node: Node, condition: Any, x: Any, y: Any) -> Any:
    return tf.where(condition, x, y)


OPERATORS: dict[str, Handler] = {
    "Abs": of_one(tf.abs), "Neg": of_one(tf.negative), "Sign": of_one(tf.sign), "Ceil": of_one(tf.math.ceil),
    "Floor": of_one(tf.floor), "Round": of_one(tf.round), "Sqrt": of_one(tf.sqrt), "Exp": of_one(tf.exp),
    "Reciprocal": of_one(lambda x: tf.cast(1, x.dtype) / x), "Log": of_one(tf.math.log), "Erf": of_one(erf),
    "Sin": of_one(tf.sin), "Cos": of_one(tf.cos), "Tan": of_one(tf.tan), "Asin": of_one(tf.asin),
    "Acos": of_one(tf.acos), "Atan": of_one(tf.atan), "Sinh": of_one(tf.sinh), "Cosh": of_one(tf.cosh),
    "Asinh": of_one(tf.asinh), "Acosh": of_one(tf.acosh), "Atanh": of_one(tf.atanh), "Tanh": of_one(tf.tanh),
    "Relu": of_one(tf.nn.relu), "Sigmoid": of_one(tf.sigmoid), "Softplus": of_one(_softplus),
    "Softsign": of_one(lambda x: x / (1.0 + tf.abs(x))), "HardSwish": of_one(lambda x: x * tf.nn.relu6(x + 3.0) / 6.0),
    "Mish": of_one(lambda x: x * tf.tanh(_softplus(x))), "Swish": of_one(tf.nn.silu), "Not": of_one(tf.logical_not),
    "IsNaN": of_one(tf.math.is_nan), "BitwiseNot": of_one(tf.bitwise.invert),
    "Identity": lambda node, x: x, "Dropout": lambda node, x, *more: (x, None)[: node.outputs],
    "LeakyRelu": alike(_leaky), "PRelu": alike(_prelu), "Elu": alike(_elu), "Selu": alike(_selu), "Celu": alike(_celu),
    "HardSigmoid": alike(_hard_sigmoid), "Shrink": alike(_shrink), "Gelu": alike(_gelu), "IsInf": alike(_is_infinite),
    "ThresholdedRelu": alike(lambda node, x: tf.where(x > node.get("alpha", 1.0), x, tf.zeros_like(x))),
    "Clip": _clip, "Cast": _cast, "CastLike": _cast,
    "Add": of_sizes(lambda x, y: x + y, tf.add), "Sub": of_sizes(lambda x, y: x - y, tf.subtract),
    "Mul": of_sizes(lambda x, y: x * y, tf.multiply), "Div": of_sizes(lambda x, y: x // y, _quotient),
    "Pow": of_two(_power), "Mod": alike(_remainder), "And": of_two(tf.logical_and), "Or": of_two(tf.logical_or),
    "Xor": of_two(tf.math.logical_xor), "Equal": of_two(tf.equal), "Greater": of_two(tf.greater),
    "Less": of_two(tf.less),
    "GreaterOrEqual": of_two(tf.greater_equal), "LessOrEqual": of_two(tf.less_equal),
    "BitwiseAnd": of_two(tf.bitwise.bitwise_and), "BitwiseOr": of_two(tf.bitwise.bitwise_or),
    "BitwiseXor": of_two(tf.bitwise.bitwise_xor), "Where": alike(_where),
    "Max": of_many(tf.maximum), "Min": of_many(tf.minimum), "Sum": of_many(tf.add),
    "Mean": alike(lambda node, *operands: tf.add_n([*operands]) / len(operands)),
}  # fmt: skip
