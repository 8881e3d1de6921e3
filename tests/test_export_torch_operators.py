"""PyTorch's operators are in ONNX what they are in PyTorch, at large and at negative numbers too."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from contract.manifest import Manifest, TensorSpec
from export.torch_to_onnx import export

pytestmark = pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning")  # of PyTorch, in its own exporter

BIG = 2**31 - 1
NUMBERS = [-BIG - 1, -BIG, -(2**24) - 1, -7, -6, -3, -2, -1, 0, 1, 2, 3, 7, 2**24 + 1, BIG]


class Formula(nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(x)


def answers(function: Callable[[Any], Any], values: Any, folder: Path) -> Any:
    """What ONNX Runtime answers; its one output has the dtype of the input."""
    specs = [TensorSpec(name, values.dtype.name, (None, values.shape[1]), "NC") for name in ("x", "y")]
    manifest = Manifest("net", "torch", None, (specs[0],), (specs[1],), None, ())
    batch = torch.export.Dim("batch", min=1, max=64)
    example = (torch.from_numpy(np.repeat(values[:1], 2, 0)),)
    program = torch.export.export(Formula(function).eval(), example, dynamic_shapes={"x": {0: batch}})
    torch.export.save(program, folder / "model.pt2")
    (path,) = export(folder, manifest, folder)
    (got,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": values})
    return got


def test_the_logarithm_of_a_sigmoid_stays_finite(tmp_path: Path) -> None:
    values = np.array([[-1e4, -104, -88, -30, -18, -1, 0, 1, 18, 88, 1e4]], np.float32)
    got = answers(nn.functional.logsigmoid, values, tmp_path)
    np.testing.assert_allclose(got, -np.logaddexp(0, -values.astype(np.float64)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("divisor", [3, -3])
@pytest.mark.parametrize("mode", ["floor", "trunc"])
def test_whole_numbers_are_divided_as_such(tmp_path: Path, mode: str, divisor: int, dtype: str) -> None:
    numbers = [*NUMBERS, *([2**53 + 1, -(2**53) - 1, 2**63 - 1, -(2**63)] if dtype == "int64" else [])]
    got = answers(lambda x: torch.div(x, divisor, rounding_mode=mode), np.array([numbers], dtype), tmp_path)
    exact = [number // divisor for number in numbers]
    cut = [number // divisor + (number // divisor < 0 and number % divisor != 0) for number in numbers]
    np.testing.assert_array_equal(got, [exact if mode == "floor" else cut])


def test_fractions_are_divided_as_before(tmp_path: Path) -> None:
    values = np.array([[-7.5, -1, -0.5, 0, 0.5, 1, 7.5]], np.float32)
    got = answers(lambda x: torch.div(x, 2, rounding_mode="floor"), values, tmp_path)
    np.testing.assert_array_equal(got, values // 2)
