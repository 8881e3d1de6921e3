"""Recurrent layers that are written out step by step: how many steps a program has, and that too many are refused."""

from typing import Any

import pytest
import torch

from contract.errors import ExportError
from export.torch_recurrent import MOST, refuse_many_steps

pytestmark = pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export")


class First(torch.nn.Module):
    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.layer(x)[0]
        return answer


def exported(layer: torch.nn.Module, *sizes: int) -> Any:
    return torch.export.export(First(layer).eval(), (torch.zeros(*sizes),))


@pytest.mark.parametrize(
    ("layer", "sizes", "steps"),
    [
        (torch.nn.LSTM(3, 4, 2, batch_first=True, bidirectional=True), (2, 65, 3), 260),
        (torch.nn.GRU(3, 4, 3), (90, 2, 3), 270),
        (torch.nn.RNN(3, 4, batch_first=True), (2, 257, 3), 257),
    ],
    ids=["LSTM", "GRU", "RNN"],
)
def test_too_many_steps_are_refused_at_once(layer: Any, sizes: tuple[int, ...], steps: int) -> None:
    with pytest.raises(
        ExportError, match=rf"ExecuTorch's converter has no recurrent layer.*: {steps} steps here.* at most {MOST}"
    ):
        refuse_many_steps(exported(layer, *sizes), "ExecuTorch")


def test_few_steps_are_not() -> None:
    refuse_many_steps(exported(torch.nn.LSTM(3, 4, 2, batch_first=True), 2, MOST // 2, 3), "Core AI")
