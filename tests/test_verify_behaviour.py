"""An artifact is asked whether answers depend on other rows, on earlier calls or on chance, before it is served."""

import json
import re
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
from contract.manifest import (
    MANIFEST,
    Manifest,
    TensorSpec,
    read_manifest,
    sha256_of,
    sha256_of_files,
    write_manifest,
)
from serve.catalog import load_model
from serve.runtimes import load_runtime
from tests.conftest import write_every_type
from verify.behaviour import observe
from verify.parity import verify_model
from verify.questions import Questions, invented
from verify.second_process import ANSWERS, answer_rows, answers_of_another_process, leave_answers, main

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
    with pytest.raises(ParityError, match=r"net-torch does not give the same answer .* after model\.eval\(\)"):
        verify_model(folder.parent, questions_of_four())
    served = load_model(folder)
    assert not served.ready
    assert "earlier calls" in served.error


class DrawnAtLoad(tf.lookup.KeyValueTensorInitializer):  # type: ignore[misc]
    """Fills a table with numbers of chance, once in each process that loads the model."""

    def initialize(self, table: tf.lookup.StaticHashTable) -> tf.Operation:
        # Not `tf.random.uniform`: it keeps the seed that another test may have set, and would be no chance then.
        drawn = tf.raw_ops.RandomUniformInt(shape=self._keys.shape, minval=0, maxval=2**30)
        return tf.raw_ops.LookupTableImportV2(table_handle=table.resource_handle, keys=self._keys, values=drawn)


def write_drawn_at_load(folder: Path) -> Path:
    def write(target: Path) -> None:
        module = tf.Module()
        keys = tf.constant([0], tf.int32)
        module.table = tf.lookup.StaticHashTable(DrawnAtLoad(keys, keys), 0)

        @tf.function(input_signature=[tf.TensorSpec((None, 4), tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def answer(x: tf.Tensor) -> dict[str, tf.Tensor]:
            return {"y0": x + tf.cast(module.table.lookup(keys), tf.float32) / 2**30}

        module.answer = answer
        tf.saved_model.save(module, str(target), signatures=answer.get_concrete_function())

    return write_artifact(folder / "net" / "savedmodel", (None, 4), [(None, 4)], write)


def questions_of_four(rows: int = 12) -> Questions:
    return Questions(invented([TensorSpec("x", "float32", (None, 4), "")], rows, 10), None, "invented", 1e-3)


def test_a_number_that_is_drawn_when_the_model_is_loaded_shows_in_another_process(tmp_path: Path) -> None:
    folder = write_drawn_at_load(tmp_path)
    assert behaviour_of(folder).unsteady == "", "one process sees nothing of it"
    with pytest.raises(ParityError, match=r"the output y0 differs by \S+ when the same row is sent in another process"):
        verify_model(folder.parent, questions_of_four())
    assert not load_model(folder).ready


def test_an_earlier_process_is_compared_with_before_another_one_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_onnx(tmp_path / "net" / "onnx", [node("Softmax", ["x"], ["y0"], axis=1)], (None, 4), [(None, 4)])
    main([str(folder)])
    assert (folder / ANSWERS).stat().st_size < 5000
    monkeypatch.setattr("verify.second_process.subprocess.run", lambda *_, **__: pytest.fail("it was started"))
    verify_model(folder.parent, questions_of_four())
    changed = dict(np.load(folder / ANSWERS))
    np.savez(folder / ANSWERS, **(changed | {"0 y0": changed["0 y0"] + 0.5}))
    with pytest.raises(ParityError, match=r"differs by 0\.5 when the same row is sent in another process"):
        verify_model(folder.parent, questions_of_four())


@pytest.mark.parametrize("damage", ["gone", "cut", "other bytes"])
def test_answers_that_cannot_be_used_are_asked_anew(tmp_path: Path, damage: str) -> None:
    folder = write_onnx(tmp_path / "net" / "onnx", [node("Softmax", ["x"], ["y0"], axis=1)], (None, 4), [(None, 4)])
    leave_answers(folder, 10)
    whole = (folder / ANSWERS).read_bytes()
    if damage == "other bytes":
        (folder / MANIFEST).write_text((folder / MANIFEST).read_text() + " ")
    elif damage == "cut":
        (folder / ANSWERS).write_bytes(whole[:100])
    else:
        (folder / ANSWERS).unlink()
    left = answers_of_another_process(folder, 7)
    assert left is not None and left.below == 7
    assert [answer["y0"].shape for answer in left.answers] == [(4,)] * 3


def test_texts_and_numbers_are_kept_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "net" / "onnx"
    write_every_type(folder, ["bytes", "float32", "int64", "bool"])
    leave_answers(folder, 10)
    manifest, left = read_manifest(folder), answers_of_another_process(folder, 10)
    assert left is not None
    runtime = load_runtime(folder, manifest)
    here = answer_rows(runtime, manifest, 10)
    runtime.close()
    for one, other in zip(here, left.answers, strict=True):
        assert {name: value.dtype for name, value in one.items()} == {name: other[name].dtype for name in one}
        assert all((value == other[name]).all() for name, value in one.items())


def test_a_second_process_that_cannot_answer_is_named_and_nothing_is_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_onnx(tmp_path / "net" / "onnx", [node("Softmax", ["x"], ["y0"], axis=1)], (None, 4), [(None, 4)])
    (folder / "model.onnx").write_bytes(b"not a model")
    assert answers_of_another_process(folder, 2) is None
    assert re.search(r"onnx was not run in a second process: .*could not be loaded", capsys.readouterr().err)


def test_what_was_seen_holds_for_the_bytes_that_were_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_onnx(tmp_path / "net" / "onnx", [node("Softmax", ["x"], ["y0"], axis=1)], (None, 4), [(None, 4)])
    assert read_behaviour(folder) is None
    assert "never tried" in load_model(folder).mixing
    verify_model(folder.parent, questions_of_four())
    assert load_model(folder).mixing == ""
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text() + " ")
    assert read_behaviour(folder) is None
    (folder / BEHAVIOUR).write_text("{")
    assert read_behaviour(folder) is None
    assert "behaviour.json cannot be read" in caplog.text
