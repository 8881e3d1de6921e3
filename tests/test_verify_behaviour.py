"""An artifact is asked whether answers depend on other rows, on earlier calls or on chance, before it is served."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import tensorflow as tf
import torch
from onnx import TensorProto, helper, numpy_helper

from contract.behaviour import BEHAVIOUR, Behaviour, read_behaviour
from contract.errors import ParityError
from contract.manifest import MANIFEST, Manifest, TensorSpec, sha256_of, sha256_of_files, write_manifest
from serve.catalog import load_model
from serve.runtimes import load_runtime
from verify.behaviour import observe
from verify.parity import verify_model
from verify.questions import Questions, invented

Shape = tuple[int | None, ...]


def write_artifact(folder: Path, inputs: Shape, outputs: Sequence[Shape], write: Callable[[Path], None]) -> Path:
    """A source artifact whose files `write` puts into the folder."""
    folder.mkdir(parents=True)
    write(folder)
    manifest = Manifest(
        folder.parent.name,
        folder.name,
        None,
        (TensorSpec("x", "float32", inputs, ""),),
        tuple(TensorSpec(f"y{number}", "float32", shape, "") for number, shape in enumerate(outputs)),
        None,
        (),
        files=sha256_of_files(folder, [file for file in folder.rglob("*") if file.is_file()]),
    )
    write_manifest(folder, manifest)
    return folder


def write_onnx(folder: Path, nodes: Sequence[onnx.NodeProto], inputs: Shape, outputs: Sequence[Shape]) -> Path:
    """An ONNX artifact: `x` -> `y0`, `y1`, ..."""

    def info(name: str, shape: Shape) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N" if size is None else size for size in shape])

    weights = [numpy_helper.from_array(np.array([0]), "first")]
    results = [info(f"y{number}", shape) for number, shape in enumerate(outputs)]
    graph = helper.make_graph(list(nodes), "net", [info("x", inputs)], results, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return write_artifact(folder, inputs, outputs, lambda target: onnx.save(model, target / "model.onnx"))


def behaviour_of(folder: Path, rows: int = 12) -> Behaviour:
    manifest = Manifest.from_json(json.loads((folder / MANIFEST).read_text()))
    runtime = load_runtime(folder, manifest)
    try:
        questions = Questions(invented(manifest.inputs, rows, 10), None, "invented", 1e-3)
        return observe(runtime, manifest, questions, sha256_of(folder / MANIFEST))
    finally:
        runtime.close()


node = helper.make_node

MIXING: dict[str, tuple[list[onnx.NodeProto], Shape, str]] = {
    "softmax over the batch": ([node("Softmax", ["x"], ["y0"], axis=0)], (None, 4), "differs by"),
    "the batch's mean taken away": (
        [node("ReduceMean", ["x", "first"], ["mean"]), node("Sub", ["x", "mean"], ["y0"])],
        (None, 4),
        "differs by",
    ),
    "the batch on the second axis": ([node("Transpose", ["x"], ["y0"], perm=[1, 0])], (4, None), "not a row for each"),
}


@pytest.mark.parametrize("case", MIXING)
def test_rows_that_depend_on_each_other_are_seen(tmp_path: Path, case: str) -> None:
    nodes, output, words = MIXING[case]
    folder = write_onnx(tmp_path / "net" / "onnx", nodes, (None, 4), [output])
    assert words in behaviour_of(folder).mixing


def test_a_state_with_the_batch_in_the_middle_is_seen(tmp_path: Path) -> None:
    nodes = [node("Identity", ["x"], ["y0"]), node("Unsqueeze", ["x", "first"], ["one"])]
    nodes += [node("Concat", ["one", "one"], ["y1"], axis=0)]
    folder = write_onnx(tmp_path / "net" / "onnx", nodes, (None, 4), [(None, 4), (2, None, 4)])
    # Two rows come as two by chance: only their values, or another number of rows, tell.
    assert "the output y1" in behaviour_of(folder).mixing


def test_rows_on_their_own_may_share_a_call(tmp_path: Path) -> None:
    folder = write_onnx(tmp_path / "net" / "onnx", [node("Softmax", ["x"], ["y0"], axis=1)], (None, 4), [(None, 4)])
    assert behaviour_of(folder) == Behaviour(sha256_of(folder / MANIFEST))


def stateful(folder: Path) -> None:
    """Adds each input to a sum, and answers with that."""

    class Net(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.sum = tf.Variable(tf.zeros((1, 4)))

        @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def __call__(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y0": x + self.sum.assign_add(tf.reduce_sum(x, axis=0, keepdims=True))}

    net = Net()
    tf.saved_model.save(net, str(folder), signatures=net.__call__.get_concrete_function())


def with_dropout(folder: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5)).train()
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    torch.export.save(torch.export.export(net, (torch.zeros(2, 4),), dynamic_shapes=(batch,)), folder / "model.pt2")


@pytest.mark.parametrize(
    ("format", "inputs", "output", "write"),
    [("savedmodel", (None, 4), (None, 4), stateful), ("torch", (None, 4), (None, 8), with_dropout)],
)
def test_answers_that_depend_on_earlier_calls_or_on_chance_are_seen(
    tmp_path: Path, format: str, inputs: Shape, output: Shape, write: Callable[[Path], None]
) -> None:
    folder = write_artifact(tmp_path / "net" / format, inputs, [output], write)
    assert "when the same row is sent again" in behaviour_of(folder).unsteady


def test_a_program_exported_for_training_is_refused_with_a_way_out(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "net" / "torch", (None, 4), [(None, 8)], with_dropout)
    questions = Questions(invented([TensorSpec("x", "float32", (None, 4), "")], 12, 10), None, "invented", 1e-3)
    with pytest.raises(ParityError, match=r"net-torch does not give the same answer .* after model\.eval\(\)"):
        verify_model(folder.parent, questions)
    served = load_model(folder)
    assert not served.ready
    assert "earlier calls" in served.error


def test_what_was_seen_holds_for_the_bytes_that_were_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_onnx(tmp_path / "net" / "onnx", [node("Softmax", ["x"], ["y0"], axis=1)], (None, 4), [(None, 4)])
    assert read_behaviour(folder) is None
    assert "never tried" in load_model(folder).mixing
    questions = Questions(invented([TensorSpec("x", "float32", (None, 4), "")], 12, 10), None, "invented", 1e-3)
    verify_model(folder.parent, questions)
    assert load_model(folder).mixing == ""
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text() + " ")
    assert read_behaviour(folder) is None
    (folder / BEHAVIOUR).write_text("{")
    assert read_behaviour(folder) is None
    assert "behaviour.json cannot be read" in caplog.text
