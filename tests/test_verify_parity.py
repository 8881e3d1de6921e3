"""The parity gate lets the ten real artifacts through, and no artifact with a planted fault."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from contract.dataset import Split
from contract.errors import ArtifactCorrupt, ArtifactMissing, ParityError
from contract.manifest import (
    MANIFEST,
    ImageSpec,
    Manifest,
    TensorSpec,
    read_manifest,
    sha256_of,
    sha256_of_files,
    write_manifest,
)
from contract.parity_result import PARITY, BatchParity, ParityResult, read_status, write_parity
from contract.records import decode
from contract.tensors import Tensors
from tests.formats_here import run_from
from train.keras_cnn import build
from verify import parity
from verify.__main__ import main
from verify.behaviour import Alone, ask_alone
from verify.parity import (
    BATCHES,
    FLOAT32,
    LARGE,
    USUAL,
    Answers,
    Time,
    Tolerance,
    answer,
    compare,
    compare_all,
    differences_in_words,
    judge,
    large_call,
    verify_model,
)
from verify.questions import Questions, of_split

MODELS = {"keras_cnn": "keras", "torch_cnn": "torch"}
EVERY_EXPORT = [(model, format) for model, source in MODELS.items() for format in run_from(source)]


# The real artifacts


@pytest.mark.parametrize(("model", "format"), EVERY_EXPORT)
def test_every_export_passes_and_its_result_names_exactly_its_bytes(artifacts: Path, model: str, format: str) -> None:
    folder = artifacts / model / format
    status = read_status(folder)
    assert status.word == "verified", status.reason
    result = status.parity
    assert result is not None
    assert result.reasons == ()
    assert result.artifact_sha256 == sha256_of(folder / MANIFEST)
    assert result.source_sha256 == sha256_of(artifacts / model / MODELS[model] / MANIFEST)
    assert (result.artifact, result.source) == (f"{model}-{format}", f"{model}-{MODELS[model]}")
    assert result.images == 256
    assert result.max_abs_diff < 1e-5
    assert result.agreement == 1
    assert result.accuracy is not None
    assert result.accuracy > 0.5


@pytest.mark.parametrize(("model", "format"), EVERY_EXPORT)
def test_parity_is_computed_at_batch_1_at_batch_64_and_in_a_large_call(
    artifacts: Path, model: str, format: str
) -> None:
    result = read_status(artifacts / model / format).parity
    assert result is not None
    assert [batch.batch for batch in result.batches] == [1, 64, LARGE]


@pytest.mark.parametrize("model", MODELS)
def test_the_source_is_compared_with_nothing(artifacts: Path, model: str) -> None:
    folder = artifacts / model / MODELS[model]
    assert read_status(folder).word == "source"
    assert not (folder / PARITY).exists()


class Noted:
    """A runtime that records the size of each batch."""

    title = platform = "noted"
    in_process = True

    def __init__(self) -> None:
        self.batches: list[int] = []

    def predict(self, inputs: Tensors) -> Tensors:
        self.batches.append(len(inputs["pixels"]))
        return {"probabilities": inputs["pixels"].reshape(len(inputs["pixels"]), -1)[:, :10]}

    def close(self) -> None:
        pass


def test_pictures_are_run_in_batches_and_their_answers_stay_in_order(artifacts: Path, test_split: Split) -> None:
    runtime, manifest = Noted(), read_manifest(artifacts / "torch_cnn" / "torch")
    images = test_split.images[:130]
    answers = answer(runtime, manifest, Questions({"pixels": images}, None, ""), 64)["probabilities"]
    assert runtime.batches == [64, 64, 2]
    np.testing.assert_array_equal(answers, images.reshape(130, -1)[:, :10])


# What makes a verified artifact unverified


def test_another_manifest_is_unverified(artifacts_copy: Path) -> None:
    folder = artifacts_copy / "keras_cnn" / "onnx"
    manifest = read_manifest(folder)
    write_manifest(folder, replace(manifest, made_with={**manifest.made_with, "seconds": 0.0}))
    assert_unverified(folder, "for other bytes")


def test_a_changed_byte_of_a_file_is_not_compared_at_all(artifacts_copy: Path, test_split: Split) -> None:
    flip_a_byte(artifacts_copy / "keras_cnn" / "onnx" / "model.onnx")
    with pytest.raises(ArtifactCorrupt, match=r"model\.onnx has sha256"):
        verify_model(artifacts_copy / "keras_cnn", of_split(test_split))


def test_a_new_source_makes_all_its_exports_unverified(artifacts_copy: Path) -> None:
    source = artifacts_copy / "torch_cnn" / "torch"
    manifest = read_manifest(source)
    write_manifest(source, replace(manifest, made_with={**manifest.made_with, "seed": 2}))
    for format in run_from("torch"):
        assert_unverified(artifacts_copy / "torch_cnn" / format, "its source changed")
    for format in run_from("keras"):
        assert read_status(artifacts_copy / "keras_cnn" / format).word == "verified"


def test_an_export_without_its_source_is_unverified(artifacts_copy: Path) -> None:
    (artifacts_copy / "torch_cnn" / "torch" / MANIFEST).unlink()
    assert_unverified(artifacts_copy / "torch_cnn" / "onnx", "its source changed")


def test_an_export_that_was_never_compared_is_unverified(artifacts_copy: Path) -> None:
    (artifacts_copy / "keras_cnn" / "tflite" / PARITY).unlink()
    assert_unverified(artifacts_copy / "keras_cnn" / "tflite", "never compared")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"batches": 3}', '{"batches": [], "reasons": []}'])
def test_a_parity_result_that_cannot_be_read_is_unverified(artifacts_copy: Path, text: str) -> None:
    folder = artifacts_copy / "keras_cnn" / "tflite"
    (folder / PARITY).write_text(text)
    assert_unverified(folder, "cannot be read")


def test_another_artifacts_result_is_unverified(artifacts_copy: Path) -> None:
    model = artifacts_copy / "keras_cnn"
    (model / "tflite" / PARITY).write_bytes((model / "onnx" / PARITY).read_bytes())
    assert_unverified(model / "tflite", "for other bytes")


def test_a_failed_result_is_unverified_and_says_why(artifacts_copy: Path) -> None:
    folder = artifacts_copy / "keras_cnn" / "tflite"
    result = decode(ParityResult, json.loads((folder / PARITY).read_text()))
    write_parity(folder, replace(result, passed=False, reasons=("the largest difference at batch 1 is 0.99",)))
    assert_unverified(folder, "the largest difference at batch 1 is 0.99")


def assert_unverified(folder: Path, reason: str) -> None:
    status = read_status(folder)
    assert status.word == "unverified"
    assert reason in status.reason


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


# Planted faults: PyTorch's weights in Keras's network, beside the PyTorch source


def keras_twin(source: Path, columns: str = "HWC") -> keras.Model:
    """The network with PyTorch's weights; `columns` is the order in which fc1 expects the flattened picture."""
    weights = torch.load(source / "state_dict.pt", weights_only=True)
    fc1 = weights["fc1.weight"].reshape(10, 16, 5, 5)  # CHW, as PyTorch flattens
    if columns == "HWC":
        fc1 = fc1.permute(0, 2, 3, 1)
    kernels = [weights[f"{name}.weight"].permute(2, 3, 1, 0) for name in ("conv1", "conv2")] + [fc1.reshape(10, -1).T]
    biases = [weights[f"{name}.bias"] for name in ("conv1", "conv2", "fc1")]
    model = build((28, 28, 1), 10)
    model.set_weights([array.numpy() for pair in zip(kernels, biases, strict=True) for array in pair])
    return model


def as_it_should_be(source: Path) -> keras.Model:
    return keras_twin(source)


def columns_in_chw_order(source: Path) -> keras.Model:
    return keras_twin(source, columns="CHW")


def without_scaling(source: Path) -> keras.Model:
    """The division by 255 is missing."""
    return keras.Sequential([keras.Input((28, 28, 1), name="pixels"), *keras_twin(source).layers[1:]])


def with_mean_and_deviation(source: Path) -> keras.Model:
    """Normalised as in another training."""
    other = keras.layers.Rescaling(1 / 255 / 0.353, offset=-0.286 / 0.353)
    return keras.Sequential([keras.Input((28, 28, 1), name="pixels"), other, *keras_twin(source).layers[1:]])


def with_two_softmaxes(source: Path) -> keras.Model:
    inputs = keras.Input((28, 28, 1), name="pixels")
    return keras.Sequential([inputs, *keras_twin(source).layers, keras.layers.Softmax()])


def transposed(source: Path) -> keras.Model:
    """Height and width are swapped, which the shape of a square picture does not show."""
    inputs = keras.Input((28, 28, 1), name="pixels")
    return keras.Model(inputs, keras_twin(source)(keras.layers.Permute((2, 1, 3))(inputs)))


@pytest.fixture
def plant(artifacts: Path, tmp_path: Path) -> Callable[[Callable[[Path], keras.Model]], Path]:
    """Write a Keras model as an artifact of torch_cnn, beside its source. Returns the model's folder."""

    def write(fault: Callable[[Path], keras.Model]) -> Path:
        source = artifacts / "torch_cnn" / "torch"
        target = tmp_path / "torch_cnn" / "keras"
        target.mkdir(parents=True)
        (target.parent / "torch").symlink_to(source)
        fault(source).save(target / "model.h5", include_optimizer=False)
        files = sha256_of_files(target, [target / "model.h5"])
        write_manifest(target, replace(read_manifest(source), format="keras", parent="torch", files=files))
        return target.parent

    return write


Plant = Callable[[Callable[[Path], keras.Model]], Path]


def test_a_correct_conversion_passes(plant: Plant, test_split: Split) -> None:
    """The faults below fail for their own sake: planting alone passes."""
    model = plant(as_it_should_be)
    result = verify_model(model, of_split(test_split))["keras"]
    assert result.passed, result.reasons
    assert result.max_abs_diff < 1e-5
    assert read_status(model / "keras").word == "verified"


@pytest.mark.parametrize(
    "fault", [columns_in_chw_order, without_scaling, with_mean_and_deviation, with_two_softmaxes, transposed]
)
def test_a_planted_fault_fails(plant: Plant, test_split: Split, fault: Callable[[Path], keras.Model]) -> None:
    model = plant(fault)
    result = verify_model(model, of_split(test_split))["keras"]
    assert not result.passed
    assert result.max_abs_diff > 0.1
    assert read_status(model / "keras").word == "unverified"


def test_unpermuted_columns_are_off_by_more_than_half(plant: Plant, test_split: Split) -> None:
    result = verify_model(plant(columns_in_chw_order), of_split(test_split))["keras"]
    assert all(batch.max_abs_diff > 0.5 for batch in result.batches)
    assert result.agreement < 0.5
    assert len(result.reasons) == 4, "at both batches: the difference, and the classes"


def test_two_softmaxes_fail_although_no_class_changes(plant: Plant, test_split: Split) -> None:
    result = verify_model(plant(with_two_softmaxes), of_split(test_split))["keras"]
    assert result.agreement == 1
    assert not result.passed


@pytest.mark.parametrize(("factor", "magnifies"), [(1e5, True), (1.0, False)])
def test_a_source_that_would_not_pass_beside_itself_is_named_where_an_artifact_differs(
    tmp_path: Path, factor: float, magnifies: bool
) -> None:
    """A large factor times the difference of two inputs that are nearly the same."""
    spec = TensorSpec("x", "float32", (None, 2), "ND")
    for format, off in (("keras", 0.0), ("savedmodel", 0.01)):
        folder = tmp_path / "net" / format
        folder.mkdir(parents=True)
        net = keras.Sequential([keras.Input((2,), name="x"), keras.layers.Dense(1, activation="sigmoid")])
        net.set_weights([np.array([[factor], [-factor]]), np.array([off])])
        if format == "keras":
            net.save(folder / "model.h5", include_optimizer=False)
        else:
            net.export(folder, format="tf_saved_model", verbose=False)
        files = sha256_of_files(folder, [path for path in folder.rglob("*") if path.is_file()])
        parent = None if format == "keras" else "keras"
        outputs = (TensorSpec("output_0", "float32", (None, 1), "ND"),)
        write_manifest(folder, Manifest("net", format, parent, (spec,), outputs, None, (), files))
    first, between = np.random.default_rng(0).random((2, 64), np.float32)
    rows = np.stack([first, first + between / factor], axis=1)
    result = verify_model(tmp_path / "net", Questions({"x": rows}, None, "rows"))["savedmodel"]
    assert not result.passed
    assert any("its source's own answers move by" in reason for reason in result.reasons) == magnifies


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model is taken for one of ours: a cell follows none of the links that `plant` makes."""
    monkeypatch.setattr("verify.__main__.is_own", lambda model: True)


@pytest.mark.usefixtures("own")
def test_a_failed_parity_ends_the_command_with_exit_status_1(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    hint = r"make diagnose DATASET=fashion_mnist MODEL=torch_cnn FORMAT=keras$"
    with pytest.raises(SystemExit, match=rf"^error: parity failed for torch_cnn-keras: .*unverified\. .*{hint}"):
        main([str(plant(without_scaling)), "--limit", "64"])
    assert "unverified: the largest difference at batch 1 is" in capsys.readouterr().out


@pytest.mark.usefixtures("own")
def test_no_pictures_are_an_error_and_not_a_pass(plant: Plant) -> None:
    model = plant(as_it_should_be)
    with pytest.raises(SystemExit, match="error: No answers were compared"):
        main([str(model), "--limit", "0"])
    assert not (model / "keras" / PARITY).exists()


@pytest.mark.parametrize("count", [0, 2])
def test_a_model_needs_exactly_one_source(plant: Plant, test_split: Split, count: int) -> None:
    model = plant(as_it_should_be)
    if count == 0:
        (model / "torch").unlink()
    else:
        write_manifest(model / "keras", replace(read_manifest(model / "keras"), parent=None))
    with pytest.raises(ArtifactMissing, match=rf"has {count} source artifacts, expected one"):
        verify_model(model, of_split(test_split))


# compare and judge


RANDOM = np.random.default_rng(1)


def probabilities(count: int = 50) -> NDArray[np.float32]:
    """Answers (count, 10) with a clear best class each."""
    logits = RANDOM.normal(size=(count, 10)) * 0.1
    logits[np.arange(count), np.arange(count) % 10] += 5
    exponents = np.exp(logits)
    result: NDArray[np.float32] = (exponents / exponents.sum(axis=1, keepdims=True)).astype(np.float32)
    return result


def test_equal_answers_pass_with_a_difference_of_zero() -> None:
    answers = probabilities()
    result = compare(answers, answers.copy(), 64)
    assert (result.max_abs_diff, result.mean_abs_diff, result.agreement, result.flips) == (0, 0, 1, ())
    assert result.min_cosine == pytest.approx(1)
    assert judge([result]) == []


@pytest.mark.parametrize(("difference", "passes"), [(0.9e-4, True), (1.1e-4, False)])
def test_the_tolerance_is_1e_4_for_the_largest_difference(difference: float, passes: bool) -> None:
    answers = probabilities().astype(np.float64)
    moved = answers.copy()
    moved[17, 3] += difference
    result = compare(answers, moved, 1)
    assert result.max_abs_diff == pytest.approx(difference)
    assert result.mean_abs_diff == pytest.approx(difference / 500)
    assert (judge([result]) == []) is passes
    assert judge([result], Tolerance(1e-3)) == []
    assert FLOAT32.max_abs_diff == 1e-4


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_an_answer_that_is_not_a_number_fails(wrong: float) -> None:
    answers, broken = probabilities(), probabilities()
    broken[7, 7] = wrong
    for reference, candidate in ((answers, broken), (broken, answers), (broken, broken.copy())):
        result = compare(reference, candidate, 1)
        assert result.max_abs_diff == np.inf
        assert judge([result]) != []


def test_nothing_to_compare_is_an_error() -> None:
    for shape in ((0, 10), (5, 0), (0, 0)):
        with pytest.raises(ParityError, match="at least one input is needed"):
            compare(np.empty(shape), np.empty(shape), 1)


@pytest.mark.parametrize("shape", [(49, 10), (50, 9), (50, 10, 1), (50,)])
def test_answers_of_another_shape_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ParityError, match=r"have shape \(.*expected the source's \(50, 10\)"):
        compare(probabilities(), np.zeros(shape), 1)


def swapped(margin: float, difference: float) -> tuple[Answers, Answers]:
    """One picture whose two best classes are `margin` apart in the source; a change of `difference` swaps them."""
    reference = np.array([[0.5 + margin / 2, 0.5 - margin / 2]])
    return reference, reference + np.array([[-difference, difference]])


def test_a_near_tie_that_rounding_swaps_is_listed_and_passes() -> None:
    result = compare(*swapped(margin=1e-6, difference=1e-6), 1)
    (flip,) = result.flips
    assert flip.near_tie
    assert (flip.image, flip.source, flip.artifact) == (0, 0, 1)
    assert flip.margin == pytest.approx(1e-6)
    assert flip.difference == pytest.approx(1e-6)
    assert result.agreement == 0
    assert judge([result]) == []


@pytest.mark.parametrize(("margin", "near_tie"), [(1.9e-4, True), (2.1e-4, False)])
def test_a_near_tie_is_within_twice_the_tolerance(margin: float, near_tie: bool) -> None:
    """A class changes only where the difference is at least half of the margin, however wrong the answer is."""
    result = compare(*swapped(margin, difference=margin * 0.51), 1)
    assert [flip.near_tie for flip in result.flips] == [near_tie]
    assert (judge([result]) == []) is near_tie
    assert [flip.near_tie for flip in compare(*swapped(margin, 0.4), 1).flips] == [near_tie]
    assert compare(*swapped(margin, margin * 0.51), 1, Tolerance(1e-3)).flips[0].near_tie


def test_a_class_that_changes_beyond_a_near_tie_is_a_reason_of_its_own() -> None:
    reasons = judge([compare(*swapped(margin=0.3, difference=0.2), 1)])
    assert reasons == [
        "the largest difference at batch 1 is 0.2, at most 0.0001",
        "1 answers change class at batch 1 (0)",
    ]


def test_every_batch_is_judged() -> None:
    good = compare(*swapped(1e-6, 1e-6), 1)
    bad = replace(good, batch=64, max_abs_diff=0.25)
    assert judge([good, bad]) == ["the largest difference at batch 64 is 0.25, at most 0.0001"]
    assert BATCHES == (1, 64)


@pytest.mark.parametrize(("seconds", "count"), [(0.001, 64), (0.5, 40), (10.0, 16)])
def test_a_slow_model_is_asked_fewer_questions_and_says_so(
    capsys: pytest.CaptureFixture[str], seconds: float, count: int
) -> None:
    spec = TensorSpec("pixels", "float32", (None, 4, 4, 1), "NHWC")
    manifest = Manifest("net", "onnx", None, (spec,), (spec,), None, ())
    questions = Questions({"pixels": np.arange(64 * 16).reshape(64, 4, 4, 1)}, np.arange(64), "")
    asked = parity.in_time(manifest, questions, seconds)
    assert asked.labels is not None and asked.count == len(asked.labels) == count
    np.testing.assert_array_equal(asked.inputs["pixels"], questions.inputs["pixels"][:count])
    assert (f"{count} of 64 rows are compared" in capsys.readouterr().out) == (count < 64)


def test_invented_questions_are_given_less_time(capsys: pytest.CaptureFixture[str]) -> None:
    spec = TensorSpec("x", "float32", (None, 2), "ND")
    manifest = Manifest("net", "onnx", None, (spec,), (spec,), None, ())
    real = Questions({"x": np.zeros((64, 2), np.float32)}, None, "")
    assert parity.in_time(manifest, real, 0.05).count == 64
    assert parity.in_time(manifest, replace(real, are_invented=True), 0.05).count == 20
    assert "20 of 64 rows are compared" in capsys.readouterr().out


def test_an_artifact_may_be_given_less_time_than_usual(
    plant: Plant, test_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    times: list[float] = []
    in_time = parity.in_time

    def noted(manifest: Manifest, questions: Questions, seconds: float, allowed: float) -> Questions:
        times.append(allowed)
        return in_time(manifest, questions, 0.5, allowed)

    monkeypatch.setattr(parity, "in_time", noted)
    result = verify_model(plant(keras_twin), of_split(test_split), time_allowed=Time(10.0))["keras"]
    assert times == [10.0, 10.0]  # the source's, and the artifact's
    assert result.images == 20
    assert result.passed, result.reasons


@pytest.mark.parametrize(("invented", "count"), [(True, 9), (False, 256)])
def test_where_the_first_answers_to_invented_questions_are_wrong_the_others_are_not_asked_for(
    plant: Plant, test_split: Split, invented: bool, count: int
) -> None:
    folder = plant(without_scaling)
    result = verify_model(folder, replace(of_split(test_split), labels=None, are_invented=invented))["keras"]
    assert not result.passed
    assert result.images == count
    assert "the largest difference at batch 1 is" in result.reasons[0]


def test_right_answers_to_invented_questions_are_all_compared(
    plant: Plant, test_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "INVENTED_SECONDS", 1e9)
    asked = replace(of_split(test_split), labels=None, are_invented=True)
    result = verify_model(plant(keras_twin), asked)["keras"]
    assert result.passed, result.reasons
    assert result.images == 256
    assert [batch.batch for batch in result.batches] == [1, 64, LARGE]


def test_an_artifact_that_is_asked_fewer_questions_gets_the_same_large_call(
    plant: Plant, test_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "in_time", lambda manifest, given, *_: given if manifest.is_source else given.first(16))
    result = verify_model(plant(keras_twin), replace(of_split(test_split), labels=None))["keras"]
    assert result.images == 16
    assert [batch.batch for batch in result.batches] == [1, 64, LARGE]
    assert result.passed, result.reasons


def test_artifacts_are_compared_as_they_come(tmp_path: Path) -> None:
    spec = TensorSpec("x", "float32", (None, 2), "ND")

    def make(format: str) -> None:
        (tmp_path / format).mkdir()
        write_manifest(tmp_path / format, Manifest("net", format, "keras", (spec,), (spec,), None, ()))

    make("onnx")
    coming = parity._arriving(tmp_path, ["onnx", "tflite", "tfjs"], tmp_path / "over")
    assert next(coming)[0].name == "onnx"
    make("tflite")
    assert next(coming)[1].format == "tflite"
    (tmp_path / "over").touch()
    assert list(coming) == [], "tfjs could not be made"


def test_what_came_last_is_compared_too(tmp_path: Path) -> None:
    spec = TensorSpec("x", "float32", (None, 2), "ND")
    (tmp_path / "over").touch()
    (tmp_path / "onnx").mkdir()
    write_manifest(tmp_path / "onnx", Manifest("net", "onnx", "keras", (spec,), (spec,), None, ()))
    assert [path.name for path, _ in parity._arriving(tmp_path, ["onnx", "tfjs"], tmp_path / "over")] == ["onnx"]


@pytest.mark.parametrize(("seconds", "takes_long"), [(0.1, False), (0.2, True)])
def test_a_slow_artifact_is_not_sent_the_large_call_and_that_is_said(
    capsys: pytest.CaptureFixture[str], seconds: float, takes_long: bool
) -> None:
    spec = TensorSpec("x", "float32", (None, 2), "ND")
    manifest = Manifest("net", "tfjs", "onnx", (spec,), (spec,), None, ())
    assert parity._takes_long(manifest, Alone((), (), seconds)) == takes_long
    assert ("it is not asked 257 rows in one call" in capsys.readouterr().out) == takes_long


def test_a_slow_artifact_is_compared_with_the_answers_to_the_questions_that_it_is_asked() -> None:
    questions = Questions({"pixels": np.zeros((64, 2))}, np.arange(64), "")
    answers = {1: {"y": np.arange(64.0)[:, None]}, 64: {"y": np.arange(64.0)[:, None]}}
    some = parity.Reference(questions, answers, None, ()).first(16)
    assert some.questions.count == 16 and all(len(table["y"]) == 16 for table in some.ordinary.values())
    state = {1: {"y": np.zeros((64, 1)), "h": np.zeros((128, 1))}}
    assert parity.Reference(questions, state, None, ()).first(16).questions.count == 64, "a state is not a row for each"


@pytest.mark.parametrize(("row", "rows"), [(1 << 20, 64), (50 << 20, 16), (1 << 30, 4)])
def test_fewer_rows_are_asked_at_once_where_they_take_much_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], row: int, rows: int
) -> None:
    runtime = Noted()
    monkeypatch.setattr(parity, "_peak", lambda: (1 << 30) + row * max(runtime.batches, default=1))
    spec = TensorSpec("pixels", "float32", (None, 4, 4, 1), "NHWC")
    manifest = Manifest("net", "onnx", None, (spec,), (spec,), None, ())
    questions = Questions({"pixels": np.zeros((64, 4, 4, 1), np.uint8)}, None, "")
    assert parity._batches(runtime, manifest, questions) == (1, rows)
    assert ("compared" in capsys.readouterr().out) == (rows < 64)


def test_no_question_is_asked_twice_only_to_be_answered(artifacts: Path) -> None:
    """The nine that show its behaviour, and those together, are answers already."""
    manifest = read_manifest(artifacts / "torch_cnn" / "torch")
    pictures = np.random.default_rng(1).integers(0, 255, manifest.inputs[0].sizes_at(64)).astype(np.uint8)
    questions, runtime = Questions({"pixels": pictures}, np.zeros(64, int), ""), Noted()
    alone = ask_alone(runtime, manifest, questions)
    asked, ordinary = parity._answered(runtime, manifest, questions, alone, USUAL)
    assert asked is questions
    assert sorted(runtime.batches) == [1] * 64 + [4, 16, 64]
    for table in (ordinary[1], ordinary[64]):
        np.testing.assert_array_equal(table["probabilities"], pictures.reshape(64, -1)[:, :10])
    _, fewer = parity._answered(runtime, manifest, questions, replace(alone, seconds=0.05), Time(20.0, 1.0))
    assert {batch: len(table["probabilities"]) for batch, table in fewer.items()} == {1: 20, 64: 64}


def test_where_time_is_short_all_questions_are_asked_together_and_fewer_alone(
    plant: Plant, test_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, int, int]] = []

    def noted(reference: Any, candidate: Any, batch: int, tolerance: Tolerance) -> BatchParity:
        compared.append((batch, len(reference["probabilities"]), len(candidate["probabilities"])))
        return compare_all(reference, candidate, batch, tolerance)

    monkeypatch.setattr(parity, "compare_all", noted)
    result = verify_model(plant(keras_twin), of_split(test_split), time_allowed=Time(20.0, 1e-9))["keras"]
    assert sorted(compared) == [(1, 16, 16), (64, 256, 256), (LARGE, LARGE, LARGE)]
    assert result.images == 256
    assert result.passed, result.reasons


@pytest.mark.parametrize(("seconds", "count"), [(0.001, 64), (0.05, 20), (10.0, 16)])
def test_an_artifact_is_asked_alone_what_it_answers_in_time(seconds: float, count: int) -> None:
    questions = Questions({"x": np.zeros((64, 2), np.float32)}, None, "")
    answers = {1: {"y": np.zeros((40, 1))}, 64: {"y": np.zeros((64, 1))}}  # the source was asked 40
    spec = TensorSpec("x", "float32", (None, 2), "ND")
    manifest, alone = Manifest("net", "onnx", "keras", (spec,), (spec,), None, ()), Alone((), (), seconds)
    source = parity.Reference(questions, answers, None, (), time_allowed=Time(1e9, 1.0))
    reference = parity._to_ask(manifest, source, alone, FLOAT32)
    assert reference.questions_at(1).count == len(reference.ordinary[1]["y"]) == min(40, count)
    assert reference.questions_at(64).count == len(reference.ordinary[64]["y"]) == 64
    state = {1: {"h": np.zeros((40, 2))}, 64: {"h": np.zeros((128, 2))}}
    whole = parity._to_ask(manifest, replace(source, ordinary=state), alone, FLOAT32)
    assert len(whole.ordinary[1]["h"]) == 40 and whole.questions_at(1).count == 64, "a state is not a row for each"


# The large call, and what manifests say


def test_the_large_call_repeats_the_questions_where_they_are_few() -> None:
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    large = large_call(Questions({"pixels": images}, None, ""))
    assert large is not None
    assert large.count == LARGE > BATCHES[-1]
    np.testing.assert_array_equal(large.inputs["pixels"].ravel(), np.arange(LARGE) % 10)


def test_large_pictures_are_not_sent_in_one_large_call() -> None:
    assert large_call(Questions({"pixels": np.zeros((2, 224, 224, 3), np.uint8)}, None, "")) is None
    # Rows that are as large as memory are not even copied.
    assert large_call(Questions({"pixels": np.broadcast_to(np.uint8(0), (2, 2**20, 2**20, 3))}, None, "")) is None


@pytest.mark.parametrize(
    ("changes", "phrase"),
    [
        ({}, None),
        ({"made_with": {}, "format": "onnx", "parent": "torch"}, None),
        ({"labels": ("b", "a", "c")}, "2 labels are not its source's: class 0 is 'b' instead of 'a'"),
        ({"labels": ("a", "b")}, "1 labels are not its source's: class 2 is 'none' instead of 'c'"),
        (
            {"image": ImageSpec(28, 28, 1, fit="cover", invert="auto")},
            "its pictures are not made as its source's: "
            "fit is 'cover' instead of 'contain', invert is 'auto' instead of 'never'",
        ),
        (
            {"outputs": (TensorSpec("p", "float32", (None, 4), "NC"),)},
            "its manifest's outputs are p float32 [None, 4] NC, its source's p float32 [None, 3] NC",
        ),
    ],
)
def test_what_a_manifest_says_is_compared(changes: dict[str, Any], phrase: str | None) -> None:
    pixels, p = TensorSpec("pixels", "float32", (None, 28, 28, 1), "NHWC"), TensorSpec("p", "float32", (None, 3), "NC")
    source = Manifest("m", "torch", None, (pixels,), (p,), ImageSpec(28, 28, 1), ("a", "b", "c"))
    assert differences_in_words(source, replace(source, **changes)) == ([] if phrase is None else [phrase])


def test_two_swapped_labels_are_not_verified(artifacts_copy: Path, test_split: Split) -> None:
    """The answers are the source's, and /predict would name another class."""
    folder = artifacts_copy / "keras_cnn" / "onnx"
    manifest = read_manifest(folder)
    write_manifest(folder, replace(manifest, labels=manifest.labels[::-1]))
    result = verify_model(artifacts_copy / "keras_cnn", of_split(test_split))["onnx"]
    assert result.max_abs_diff < 1e-5
    assert result.reasons == ("10 labels are not its source's: class 0 is 'Ankle boot' instead of 'T-shirt/top'",)
    assert_unverified(folder, "labels are not its source's")
