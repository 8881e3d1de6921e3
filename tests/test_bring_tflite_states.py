"""A TF Lite file that keeps a state inside: the state is among its inputs and outputs, and the answers stay."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from bring.description import Description
from bring.readers import tflite_states
from bring.readers.tflite import run_plain
from bring.readers.tflite_variables import StateStays, rewritten
from bring.source import write_source
from contract.errors import BroughtError
from contract.manifest import Manifest, read_manifest
from export import tflite_file
from export.onnx_to_savedmodel import by_operators
from export.tflite_to_onnx import export
from serve.runtimes.tflite import LiteRTRuntime
from tests.commands import run_script

WRITE = """
import sys, numpy as np, tensorflow as tf
def taking(size):
    return tf.function(input_signature=[tf.TensorSpec([1, size], tf.float32, name="row")])
class Net(tf.Module):
    def __init__(self):
        self.past = tf.Variable(tf.zeros([1, 3]), name="layer/past")
        self.total = tf.Variable(tf.fill([1, 3], 2.5), name="total")
        self.steps = tf.Variable([[1.0, -2.0, 3.0]], name="steps")
        self.many = tf.Variable(np.linspace(-1, 1, 99, dtype=np.float32).reshape(1, 99), name="many")
        self.w = tf.constant(np.linspace(-1, 1, 18, dtype=np.float32).reshape(6, 3))
    @taking(6)
    def late(self, row):
        scores = tf.round(self.past / 1e6)
        self.past.assign(row @ self.w)
        return {"scores": scores}
    @taking(6)
    def two(self, row):
        scores = self.past + row @ self.w
        self.total.assign_add(scores)
        self.past.assign(tf.tanh(scores))
        return {"zoom": tf.tanh(self.total), "level": tf.reduce_sum(self.past * self.total, 1, keepdims=True)}
    @taking(6)
    def handed(self, row):  # the answer is the state, and the state becomes the row
        before = tf.identity(self.steps)
        self.steps.assign(row[:, :3])
        self.past.assign(self.steps)
        return {"before": before, "after": self.past + 0.0}
    @taking(6)
    def branch(self, row):
        def more():
            self.past.assign_add(row @ self.w)
            return tf.constant(1.0)
        def less():
            return tf.constant(0.0)
        kind = tf.cond(tf.reduce_sum(row) > 0, more, less)
        return {"scores": tf.round(self.past / 1e6), "kind": tf.round(kind / 1e6)}
    @taking(99)
    def large(self, row):
        return {"scores": self.many.assign_add(row)}
    @taking(6)
    def whole(self, row):
        window = tf.concat([self.past[:, :2], tf.nn.relu(row @ self.w)], 1)
        self.past.assign(window[:, 1:4])
        return {"scores": tf.sigmoid(tf.reduce_mean(window, 1, keepdims=True))}
net = Net()
for name in ("late", "two", "handed", "branch", "large", "whole"):
    tf.saved_model.save(net, f"{sys.argv[1]}/{name}", signatures=getattr(net, name))
    converter = tf.lite.TFLiteConverter.from_saved_model(f"{sys.argv[1]}/{name}")
    converter.experimental_enable_resource_variables = True
    if name == "whole":
        rows = np.random.default_rng(0).normal(size=(32, 1, 6)).astype(np.float32)
        converter._experimental_variable_quantization = True
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([row] for row in rows)
        converter.inference_input_type = converter.inference_output_type = tf.int8
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    open(f"{sys.argv[1]}/{name}.tflite", "wb").write(converter.convert())
"""

Answers = list[list[NDArray[Any]]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_script(WRITE, tmp_path_factory.mktemp("states"))


def changed(file: Path, target: Path, change: Callable[[Any], None]) -> Path:
    """A copy of a file, changed."""
    model = tflite_file.unpacked(file.read_bytes())
    change(model)
    target.write_bytes(tflite_file.packed(model))
    return target


def bring(file: Path, folder: Path) -> Manifest:
    return write_source(file, folder / "net", "net", Description()).manifest


def calls(manifest: Manifest, count: int = 12) -> Iterator[NDArray[Any]]:
    """Rows for the first input, one a call."""
    spec, random = manifest.inputs[0], np.random.default_rng(7)
    for _ in range(count):
        values = random.normal(size=spec.sizes_at(1, 1)) * 2
        yield values.astype(np.float32) if spec.dtype == "float32" else (values * 40).clip(-128, 127).astype(spec.dtype)


def originals(file: Path, manifest: Manifest) -> Answers:
    """What the user's own file answers, call by call."""
    interpreter = Interpreter(model_content=file.read_bytes())
    if not interpreter.get_signature_list():
        return [run_plain(interpreter, [row]) for row in calls(manifest)]
    runner, names = interpreter.get_signature_runner(), [spec.name for spec in manifest.outputs]
    answers = [runner(row=row) for row in calls(manifest)]
    return [[each[name] for name in names if name in each] for each in answers]


def fed_back(ask: Callable[[dict[str, NDArray[Any]]], Any], manifest: Manifest) -> Answers:
    """What an artifact answers, call by call, with its states handed from call to call."""
    states, first = manifest.made_with["states"], manifest.made_with.get("first_states", {})
    specs = {spec.name: spec for spec in manifest.inputs}
    held = {
        name: np.broadcast_to(np.array(first.get(name, 0), specs[name].dtype), specs[name].sizes_at(1, 1)).copy()
        for name in states
    }
    results: Answers = []
    for row in calls(manifest):
        answers = ask({manifest.inputs[0].name: row, **held})
        held = {name: np.array(answers[output]) for name, output in states.items()}
        results.append([answers[spec.name] for spec in manifest.outputs if spec.name not in states.values()])
    return results


def assert_the_same(here: Answers, there: Answers, tolerance: float = 1e-6) -> None:
    assert len({str(answers) for answers in there}) > 1 or not np.any(there[0][0])
    for ours, theirs in zip(here, there, strict=True):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, atol=tolerance)


CASES = {
    "late": ({"layer_past": "layer_past_out"}, {}),
    "two": ({"layer_past": "layer_past_out", "total": "total_out"}, {"total": 2.5}),
    "whole": ({"layer_past": "layer_past_out"}, {"layer_past": -128}),
}
"""A file -> its states, and those that are not 0 at first."""


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("has_signature", [True, False])
def test_a_state_is_an_input_and_an_output(written: Path, tmp_path: Path, name: str, has_signature: bool) -> None:
    file = written / f"{name}.tflite"
    if not has_signature:
        file = changed(file, tmp_path / file.name, lambda model: setattr(model, "signatureDefs", []))
    manifest = bring(file, tmp_path)
    assert (dict(sorted(manifest.made_with["states"].items())), manifest.made_with.get("first_states", {})) == CASES[
        name
    ]
    folder = tmp_path / "net" / "tflite"
    assert_the_same(fed_back(LiteRTRuntime(folder, manifest, 1).predict, manifest), originals(file, manifest))
    interpreter = Interpreter(str(folder / "model.tflite"))
    assert bool(interpreter.get_signature_list()) == has_signature
    operators = {each["op_name"] for each in interpreter._get_ops_details()}
    assert not operators & {"VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE"}
    assert len(tflite_file.unpacked((folder / "model.tflite").read_bytes()).subgraphs) == 1


@pytest.mark.parametrize(("name", "tolerance"), [("two", 1e-5), ("whole", 0)])
def test_the_state_goes_to_onnx_and_on(written: Path, tmp_path: Path, name: str, tolerance: float) -> None:
    file, onnx, saved = written / f"{name}.tflite", tmp_path / "onnx", tmp_path / "saved"
    onnx.mkdir()
    manifest = bring(file, tmp_path)
    export(tmp_path / "net" / "tflite", manifest, onnx)
    session = onnxruntime.InferenceSession(onnx / "model.onnx", providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    here = fed_back(lambda inputs: dict(zip(names, session.run(None, inputs), strict=True)), manifest)
    assert_the_same(here, originals(file, manifest), tolerance)
    by_operators(onnx, manifest, saved)
    function = tf.saved_model.load(str(saved)).signatures["serving_default"]
    assert_the_same(fed_back(lambda inputs: function(**inputs), manifest), originals(file, manifest), tolerance)


def test_outputs_that_are_one_tensor_become_two(written: Path, tmp_path: Path) -> None:
    """A state that is answered as it is, and one that is the row or another state."""
    manifest = bring(written / "handed.tflite", tmp_path)
    assert manifest.made_with["first_states"] == {"steps": [[1.0, -2.0, 3.0]]}
    folder = tmp_path / "net" / "tflite"
    graph = tflite_file.unpacked((folder / "model.tflite").read_bytes()).subgraphs[0]
    ends = [*graph.inputs, *graph.outputs]
    assert len({int(tensor) for tensor in ends}) == len(ends) == len({graph.tensors[tensor].name for tensor in ends})
    here = fed_back(LiteRTRuntime(folder, manifest, 1).predict, manifest)
    assert_the_same(here, originals(written / "handed.tflite", manifest))


def test_a_variable_that_nothing_writes_is_a_constant(written: Path, tmp_path: Path) -> None:
    def unwritten(model: Any) -> None:
        graph = model.subgraphs[0]
        handles = {getattr(each.builtinOptions, "sharedName", b""): each.outputs for each in graph.operators}
        (handle,) = handles[b"total"]
        graph.operators = [each for each in graph.operators if len(each.outputs) or handle not in each.inputs]

    file = changed(written / "two.tflite", tmp_path / "two.tflite", unwritten)
    manifest = bring(file, tmp_path)
    assert manifest.made_with["states"] == {"layer_past": "layer_past_out"}
    here = fed_back(LiteRTRuntime(tmp_path / "net" / "tflite", manifest, 1).predict, manifest)
    assert_the_same(here, originals(file, manifest))


def test_people_read_what_to_do_with_the_state(written: Path, tmp_path: Path) -> None:
    (note,) = bring(written / "late.tflite", tmp_path / "late").made_with["notes"]
    assert note == (
        "late.tflite keeps a state between its calls: it is among the inputs and outputs now. Give layer_past zeros at "
        "first, and then what layer_past_out answered."
    )
    (note,) = bring(written / "two.tflite", tmp_path / "two").made_with["notes"]
    assert "Give total 2.5 in all places, and layer_past zeros at first, and then what total_out and " in note
    assert read_manifest(tmp_path / "two" / "net" / "tflite").made_with["first_states"] == {"total": 2.5}


def test_a_variable_in_a_branch_stays_inside(written: Path, tmp_path: Path) -> None:
    reason = "The state cannot be put among its inputs and outputs: the variable 'layer/past' is used in a branch"
    with pytest.raises(BroughtError, match=f"it keeps a state between its calls, and answers from.*{reason}"):
        bring(written / "branch.tflite", tmp_path)


def _without_first_values(model: Any) -> None:
    del model.subgraphs[1], model.subgraphs[0].operators[0]


def _with_open_shapes(model: Any) -> None:
    for tensor in model.subgraphs[0].tensors:
        tensor.shapeSignature = [-1] * len(tensor.shape)


def _with_a_variable_of_an_operator(model: Any) -> None:
    model.subgraphs[0].tensors[0].isVariable = True


def _with_another_signature(model: Any) -> None:
    model.subgraphs.append(copy.deepcopy(model.subgraphs[0]))
    model.signatureDefs.append(copy.deepcopy(model.signatureDefs[0]))
    model.signatureDefs[1].signatureKey, model.signatureDefs[1].subgraphIndex = b"train", 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_without_first_values, "gives the variable 'layer/past' no first value"),
        (_with_open_shapes, "leaves the shape of the variable 'layer/past' open"),
        (_with_a_variable_of_an_operator, "'serving_default_row:0' keeps a state of its own"),
        (_with_another_signature, "a variable is used in the signature 'train'"),
    ],
)
def test_why_a_state_stays_inside(written: Path, tmp_path: Path, change: Callable[[Any], None], reason: str) -> None:
    file = changed(written / "late.tflite", tmp_path / "late.tflite", change)
    with pytest.raises(StateStays, match=reason):
        rewritten(file.read_bytes(), "serving_default")


def test_a_first_state_that_is_too_large_to_be_told_is_refused(written: Path, tmp_path: Path) -> None:
    with pytest.raises(BroughtError, match="begins with 99 different values in many"):
        bring(written / "large.tflite", tmp_path)


@pytest.mark.parametrize(
    ("wrong", "reason"), [("first", "is another state before call 1"), ("content", "it answers call 1 otherwise")]
)
def test_a_file_that_answers_otherwise_is_refused(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str, reason: str
) -> None:
    def amiss(content: bytes, signature: str | None) -> Any:
        new = rewritten(content, signature)
        if wrong == "first":
            return replace(new, first={name: value + 1 for name, value in new.first.items()})
        model = tflite_file.unpacked(new.content)
        first, second, *_ = model.signatureDefs[0].outputs
        first.tensorIndex, second.tensorIndex = second.tensorIndex, first.tensorIndex
        return replace(new, content=tflite_file.packed(model))

    monkeypatch.setattr(tflite_states, "rewritten", amiss)
    with pytest.raises(BroughtError, match=reason):
        bring(written / "two.tflite", tmp_path)
