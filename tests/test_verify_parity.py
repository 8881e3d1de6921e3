"""The parity gate lets the ten real artifacts through, and no artifact with a planted fault."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from contract.dataset import Split
from contract.errors import ArtifactCorrupt, ArtifactMissing, ParityError
from contract.manifest import MANIFEST, read_manifest, sha256_of, sha256_of_files, write_manifest
from contract.parity_result import PARITY, ParityResult, read_status, write_parity
from contract.records import decode
from contract.tensors import Tensors
from export import EXPORTED
from train.keras_cnn import build
from verify.__main__ import main
from verify.parity import BATCHES, FLOAT32, Answers, Tolerance, answer, compare, judge, verify_model
from verify.questions import Questions, of_split

MODELS = {"keras_cnn": "keras", "torch_cnn": "torch"}
EVERY_EXPORT = [(model, format) for model in MODELS for format in EXPORTED]


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
def test_parity_is_computed_at_batch_1_and_at_batch_64(artifacts: Path, model: str, format: str) -> None:
    result = read_status(artifacts / model / format).parity
    assert result is not None
    assert [batch.batch for batch in result.batches] == [1, 64]


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
    for format in EXPORTED:
        assert_unverified(artifacts_copy / "torch_cnn" / format, "its source changed")
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


def test_a_failed_parity_ends_the_command_with_exit_status_1(plant: Plant, capsys: pytest.CaptureFixture[str]) -> None:
    hint = r"make diagnose DATASET=fashion_mnist MODEL=torch_cnn FORMAT=keras$"
    with pytest.raises(SystemExit, match=rf"^error: parity failed for torch_cnn-keras: .*unverified\. .*{hint}"):
        main([str(plant(without_scaling)), "--limit", "64"])
    assert "FAILED: the largest difference at batch 1 is" in capsys.readouterr().out


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
        "1 pictures change class at batch 1 (0)",
    ]


def test_every_batch_is_judged() -> None:
    good = compare(*swapped(1e-6, 1e-6), 1)
    bad = replace(good, batch=64, max_abs_diff=0.25)
    assert judge([good, bad]) == ["the largest difference at batch 64 is 0.25, at most 0.0001"]
    assert BATCHES == (1, 64)
