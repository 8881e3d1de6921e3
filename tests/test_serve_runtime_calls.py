"""The fast ways to call a graph give the framework's own answers, and step back where they cannot."""

import warnings
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch
from torch import nn

from contract.manifest import Manifest, TensorSpec
from serve.runtimes.tensorflow_call import eager_call, frozen_call
from serve.runtimes.torch_call import BATCH, for_batches, straight_line

layers = keras.layers


# TensorFlow


def concrete(model: keras.Model, *specs: Any) -> tuple[Any, Any]:
    """A model's concrete function, and its owner."""
    function = tf.function(lambda *tensors: model(tensors[0] if len(tensors) == 1 else list(tensors), training=False))
    return function.get_concrete_function(*specs), function


@pytest.mark.parametrize(
    "build",
    [
        lambda: keras.Sequential([keras.Input((9, 4)), layers.LSTM(5), layers.Dense(3, activation="softmax")]),
        lambda: keras.Sequential([keras.Input((None, 4)), layers.Bidirectional(layers.GRU(5))]),
        lambda: keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.BatchNormalization()]),
    ],
    ids=["lstm", "gru of any length", "convolution"],
)
@pytest.mark.parametrize("rows", [1, 7])
def test_a_frozen_graph_answers_as_keras(build: Any, rows: int) -> None:
    model = build()
    (entry,) = model.inputs
    function, _ = concrete(model, tf.TensorSpec(entry.shape, entry.dtype))
    call = frozen_call(function, 1, 1)
    assert call is not None
    value = np.random.default_rng(0).normal(size=(rows, *(size or 6 for size in entry.shape[1:]))).astype(np.float32)
    np.testing.assert_allclose(call(value)[0], model(value).numpy(), rtol=0, atol=1e-6)


def test_several_outputs_keep_their_order() -> None:
    entry = keras.Input((3,))
    model = keras.Model(entry, [entry * 2, entry + 1])
    function, _ = concrete(model, tf.TensorSpec((None, 3), tf.float32))
    call = frozen_call(function, 1, 1)
    assert call is not None
    double, more = call(np.ones((2, 3), np.float32))
    assert double.tolist() == [[2.0] * 3] * 2 and more.tolist() == [[2.0] * 3] * 2
    assert call(np.zeros((1, 3), np.float32))[1].tolist() == [[1.0] * 3]


def test_a_model_that_reads_a_table_is_called_eagerly() -> None:
    words = layers.StringLookup(vocabulary=["a", "b"])
    function, _owner = concrete(
        keras.Sequential([keras.Input((1,), dtype="string"), words]), tf.TensorSpec((None, 1), tf.string)
    )
    assert frozen_call(function, 1, 1) is None
    assert eager_call(function)(np.array([[b"b"], [b"z"]], object))[0].tolist() == [[2], [0]]


def test_a_function_that_changes_a_variable_is_called_eagerly() -> None:
    count = tf.Variable(0.0)

    @tf.function(input_signature=[tf.TensorSpec((None,))])  # type: ignore[untyped-decorator]
    def counted(x: Any) -> Any:
        count.assign_add(1.0)
        return x + count

    function = counted.get_concrete_function()
    assert frozen_call(function, 1, 1) is None
    call = eager_call(function)
    assert [call(np.zeros(1, np.float32))[0].tolist() for _ in range(2)] == [[1.0], [2.0]]


def test_a_model_with_many_weights_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4)])
    function, _owner = concrete(model, tf.TensorSpec((None, 3), tf.float32))
    assert frozen_call(function, 1, 1) is not None
    monkeypatch.setattr("serve.runtimes.tensorflow_call.MAX_BYTES", 4 * (3 * 4 + 4) - 1)
    assert frozen_call(function, 1, 1) is None


# PyTorch


class Several(nn.Module):
    """Sizes in the graph, a keyword argument, several outputs, an output that is an input."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        products = x @ y.transpose(1, 2)
        best, place = products.max(dim=-1)
        flat = torch.div(x.view(x.shape[0], -1), 0.3, rounding_mode="floor")
        return {"best": best, "place": place, "flat": torch.cat([flat, torch.ones(x.shape[0], 2)], 1), "x": x}


class Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda x: x * 2, lambda x: x - 1, (x,))  # type: ignore[no-any-return]


class Counter(nn.Module):
    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count.add_(1)
        return x + self.count


def exported(module: nn.Module, *shapes: Sequence[int]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1, max=256)
    examples = tuple(torch.randn(3, *shape) for shape in shapes)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The tensor attributes self._flat_weights")  # of an LSTM
        return torch.export.export(module.eval(), examples, dynamic_shapes=tuple({0: batch} for _ in shapes))


CASES: dict[str, tuple[nn.Module, list[Any]]] = {
    "several outputs": (Several(), [(4, 5), (6, 5)]),
    "a branch": (Branch(), [(4,)]),
    "an lstm": (nn.LSTM(8, 6, batch_first=True), [(5, 8)]),
    "convolutions": (nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), nn.BatchNorm2d(8), nn.Hardswish()), [(3, 9, 9)]),
    "attention": (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), [(5, 16)]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rows", [1, 3, 11])
def test_straight_line_code_answers_as_the_program(name: str, rows: int) -> None:
    module, shapes = CASES[name]
    program = exported(module, *shapes)
    inputs = [torch.randn(rows, *shape) for shape in shapes]
    with torch.inference_mode():
        expected = torch.utils._pytree.tree_leaves(program.module()(*inputs))
        answers = straight_line(program.module())(*inputs)
    assert len(answers) == len(expected)
    for answer, right in zip(answers, expected, strict=True):
        torch.testing.assert_close(answer, right, rtol=0, atol=1e-6)


def test_a_state_is_kept_as_the_program_keeps_it() -> None:
    call = straight_line(exported(Counter(), (4,)).module())
    with torch.inference_mode():
        assert [float(call(torch.zeros(1, 4))[0][0, 0]) for _ in range(3)] == [1.0, 2.0, 3.0]


def manifest(*shape: int | None) -> Manifest:
    entry, answer = TensorSpec("x", "float32", (None, *shape), ""), TensorSpec("y", "float32", (None, 2), "")
    return Manifest("net", "torch", None, (entry,), (answer,), None, (), {})


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8 * 25, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x / 255))))
        return torch.softmax(self.last(x.flatten(1)), 1)


@pytest.mark.parametrize("rows", [BATCH, BATCH + 1, 64])
def test_batches_of_pictures_get_the_programs_answers(rows: int) -> None:
    program = exported(Convolutions(), (3, 9, 9))
    call = for_batches(straight_line(program.module()), program, manifest(3, 9, 9))
    assert call is not None
    pixels = torch.rand(rows, 3, 9, 9) * 255
    with torch.inference_mode():
        torch.testing.assert_close(call(pixels)[0], program.module()(pixels), rtol=0, atol=1e-5)


def test_what_is_traced_is_used_only_where_it_answers_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    program = exported(Convolutions(), (3, 9, 9))
    optimise = torch.jit.optimize_for_inference
    wrong = lambda traced: lambda *inputs: [optimise(traced)(*inputs)[0] + 1e-3]  # noqa: E731
    monkeypatch.setattr(torch.jit, "optimize_for_inference", wrong)
    assert for_batches(straight_line(program.module()), program, manifest(3, 9, 9)) is None


@pytest.mark.parametrize(
    ("module", "shapes", "entry"),
    [
        (nn.Linear(4, 2), [(4,)], manifest(4)),
        (Convolutions(), [(3, 9, 9)], manifest(3, None, None)),
    ],
    ids=["no convolution", "sizes that are free"],
)
def test_other_programs_stay_as_they_are(module: nn.Module, shapes: list[Any], entry: Manifest) -> None:
    program = exported(module, *shapes)
    assert for_batches(straight_line(program.module()), program, entry) is None
