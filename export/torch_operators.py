"""Operators of PyTorch that its exporter to ONNX translates otherwise than PyTorch means them."""

from collections.abc import Callable
from typing import Any, Optional

import torch
from onnxscript.function_libs.torch_lib.ops.core import aten_div_mode
from onnxscript.function_libs.torch_lib.tensor_typing import TFloat, TReal
from onnxscript.onnx_opset import opset18

op: Any = opset18


def log_sigmoid(self: TFloat) -> TFloat:
    """-Softplus(-x): the logarithm of a sigmoid is -inf from -18 on in ONNX Runtime, and from -104 on everywhere."""
    result: TFloat = op.Neg(op.Softplus(op.Neg(self)))
    return result


def div_mode(self: TReal, other: TReal, rounding_mode: Optional[str] = None) -> TReal:  # noqa: UP045 # onnxscript reads it
    """Whole numbers divided as such: as float32, which the exporter makes of them, they are rounded from 2^24 on."""
    if rounding_mode is None or not self.dtype.is_integer():
        result: TReal = aten_div_mode(self, other, rounding_mode=rounding_mode)
        return result
    cut: TReal = op.Div(self, other)
    if rounding_mode == "trunc":
        return cut
    # The remainder of what was cut off, and that with the divisor's sign, are the same where nothing was below 0.
    remainder, floored = op.Sub(self, op.Mul(cut, other)), op.Mod(self, other)
    result = op.Sub(cut, op.CastLike(op.Not(op.Equal(remainder, floored)), self))
    return result


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.log_sigmoid.default: log_sigmoid,
    torch.ops.aten.div.Tensor_mode: div_mode,
    torch.ops.aten.div.Scalar_mode: div_mode,
}
"""Operator -> its translation, for `torch.onnx.export`."""
