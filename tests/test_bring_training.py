"""A network that was exported as in training is refused with a way out; one that only looks so is not."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from bring.description import Description
from bring.readers.onnx import OnnxSource
from bring.readers.torch import read_program
from contract.errors import BroughtError

Net = Callable[[], nn.Module]

NORM = ["x", "scale", "bias", "mean", "variance"]
"""The inputs of a BatchNormalization."""


class Recurrent(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.steps = nn.LSTM(4, 4, 2, batch_first=True, dropout=dropout)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.steps(x[:, None])[0][:, 0]  # type: ignore[no-any-return]


def saved(path: Path, net: nn.Module, is_decomposed: bool) -> Path:
    batch = torch.export.Dim("batch", min=2, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own: of weights of recurrent layers, of its decompositions
        program = torch.export.export(net, (torch.randn(3, 4),), dynamic_shapes=({0: batch},))
        torch.export.save(program.run_decompositions() if is_decomposed else program, path)
    return path


@pytest.mark.parametrize("is_decomposed", [False, True])
@pytest.mark.parametrize(
    ("net", "operator"),
    [
        (lambda: nn.BatchNorm1d(4), "batch_norm"),
        (lambda: nn.Dropout(0.5), "dropout"),
        (lambda: nn.Sequential(nn.Linear(4, 4), nn.AlphaDropout(0.1)), "alpha_dropout"),
    ],
)
def test_a_program_in_training_is_refused(tmp_path: Path, net: Net, operator: str, is_decomposed: bool) -> None:
    if is_decomposed and operator != "batch_norm":
        pytest.skip("its numbers of chance are operators of their own: the same question twice shows them")
    path = saved(tmp_path / "net.pt2", net().train(), is_decomposed)
    with pytest.raises(BroughtError, match=rf"exported in training mode: its \w*{operator}\w* computes .* model\.eval"):
        read_program(path, Description())


@pytest.mark.parametrize("is_decomposed", [False, True])
@pytest.mark.parametrize(
    "net",
    [
        lambda: nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.RReLU()).eval(),
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.0)).train(),
        lambda: nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)).eval(),
        lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), nn.InstanceNorm1d(2, affine=True), nn.Flatten()).eval(),
        lambda: Recurrent(0.0).train(),
    ],
    ids=["for inference", "a dropout of nothing", "without statistics", "over each row", "recurrent, no dropout"],
)
def test_what_only_looks_like_training_is_read(tmp_path: Path, net: Net, is_decomposed: bool) -> None:
    source = read_program(saved(tmp_path / "net.pt2", net(), is_decomposed), Description())
    (answer,) = source.predict({source.inputs[0].name: np.ones((3, 4), np.float32)})
    assert answer.shape == (3, 4)


def graph(path: Path, node: onnx.NodeProto, is_initializer: bool = True) -> Path:
    """An ONNX model of one node; the ratio of a dropout, and whether it trains, may be nodes, too."""
    tensors = {name: np.full(4, place, np.float32) for place, name in enumerate(NORM[1:], 1)}
    tensors |= {"half": np.array(0.5, np.float32), "nothing": np.array(0.0, np.float32)}
    tensors |= {"yes": np.array(True), "no": np.array(False)}
    known = [numpy_helper.from_array(value, name) for name, value in tensors.items()]
    nodes = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in known]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4]) for name in "xy")
    made = helper.make_graph(
        [node] if is_initializer else [*nodes, node], "net", [x], [y], known if is_initializer else []
    )
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.mark.parametrize("is_initializer", [True, False])
@pytest.mark.parametrize(
    ("node", "is_refused"),
    [
        (helper.make_node("BatchNormalization", NORM, ["y", "m", "v"], training_mode=1), True),
        (helper.make_node("BatchNormalization", NORM, ["y"]), False),
        (helper.make_node("Dropout", ["x", "half", "yes"], ["y"]), True),
        (helper.make_node("Dropout", ["x", "", "yes"], ["y"]), True),
        (helper.make_node("Dropout", ["x", "nothing", "yes"], ["y"]), False),
        (helper.make_node("Dropout", ["x", "half", "no"], ["y"]), False),
        (helper.make_node("Dropout", ["x", "half"], ["y"]), False),
    ],
)
def test_a_graph_in_training_is_refused(
    tmp_path: Path, node: onnx.NodeProto, is_refused: bool, is_initializer: bool
) -> None:
    path = graph(tmp_path / "net.onnx", node, is_initializer)
    if is_refused:
        with pytest.raises(BroughtError, match=rf"training mode: its {node.op_type} computes .* Export it for"):
            OnnxSource(path, Description())
    else:
        (answer,) = OnnxSource(path, Description()).predict({"x": np.ones((3, 4), np.float32)})
        assert answer.shape == (3, 4)
