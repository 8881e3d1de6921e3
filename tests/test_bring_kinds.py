"""What a model takes and answers, where its file leaves that open: pictures or tensors, one class or two."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper

from bring.data_folder import questions_for
from bring.description import Description, Preprocess, describe, parse_preprocess
from bring.source import write_source
from bring.wrapping import labels_of, plan
from contract.errors import BroughtError
from serve.runtimes import load_runtime
from tests.test_bring_readers import HEIGHT, KERNEL, KINDS, PIXELS, WIDTH, answers_of, onnx_of

UNIT = parse_preprocess("unit")
TWO = ("cat", "dog")


@pytest.mark.parametrize("answers", [None, "logits"])
@pytest.mark.parametrize("kind", KINDS)
def test_one_value_and_two_names_are_two_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, answers: str | None
) -> None:
    for module in ("CLASSES", "KERNEL"):
        monkeypatch.setattr(f"tests.test_bring_readers.{module}", 1 if module == "CLASSES" else KERNEL[:, :1].copy())
    description = Description(preprocess=UNIT, classes=TWO, answers=answers)
    source = KINDS[kind](tmp_path, False)
    wrapping = plan(source, description, "net")
    assert wrapping.ending == ("sigmoid", "both")
    assert (wrapping.outputs[0].name, wrapping.outputs[0].shape) == ("probabilities", (None, 2))
    assert labels_of(wrapping, description, "net") == TWO
    got = answers_of(source, wrapping, tmp_path / "artifact", PIXELS)
    p = 1 / (1 + np.exp(-(PIXELS.reshape(len(PIXELS), -1) / 255 @ KERNEL[:, :1])))
    np.testing.assert_allclose(got, np.concatenate([1 - p, p], 1), atol=1e-5)


def test_a_probability_is_not_squeezed_again(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Sigmoid", ["m"], ["p"]),
        helper.make_node("Unsqueeze", ["p", "one"], ["y"]),
    ]
    source = onnx_of(tmp_path, nodes, ["batch", HEIGHT, WIDTH, 3], [numpy_helper.from_array(np.array([1]), "one")])
    description = Description(preprocess=UNIT, labels=TWO)
    assert plan(source, description, "net").ending == ("both",)
    assert plan(source, Description(preprocess=UNIT, classes=TWO, answers="values"), "net").ending == ()


def test_a_spectrogram_needs_no_preprocessing(tmp_path: Path) -> None:
    """One channel, and not as high as wide: it is not taken for a picture unless somebody says so."""
    source = onnx_of(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], ["batch", 96, 64, 1])
    wrapping = plan(source, Description(), "net")
    assert (wrapping.image, wrapping.inputs[0].name) == (None, "x")
    picture = plan(source, Description(preprocess=UNIT), "net")
    assert picture.image is not None and picture.image.shape == (96, 64, 1)
    with pytest.raises(BroughtError, match=r"Set PREPROCESS=unit.*set KIND=tensors"):
        plan(source, Description(kind="pictures"), "net")


def test_the_kind_is_asked_where_it_is_open(tmp_path: Path) -> None:
    source = onnx_of(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], ["batch", 28, 28, 1])
    with pytest.raises(BroughtError, match=r"takes pictures.*set KIND=tensors"):
        plan(source, Description(), "net")
    assert plan(source, describe(tmp_path / "net.onnx", {"kind": "tensors"}), "net").image is None
    with pytest.raises(BroughtError, match="kind is 'tensor'; did you mean 'tensors'"):
        describe(tmp_path / "net.onnx", {"kind": "tensor"})


def test_a_picture_whose_answer_has_no_rows_is_a_tensor_behind_its_preprocessing(tmp_path: Path) -> None:
    """As a detector answers: so many boxes, whatever the batch."""
    nodes = [helper.make_node("Squeeze", ["x", "first"], ["y"])]
    onnx_of(tmp_path, nodes, [1, 3, HEIGHT, WIDTH], [numpy_helper.from_array(np.array([0]), "first")])
    description = Description(preprocess=UNIT)
    manifest = write_source(tmp_path / "net.onnx", tmp_path / "net", "net", description).manifest
    assert (manifest.image, manifest.has_rows, manifest.inputs[0].shape) == (None, False, (1, HEIGHT, WIDTH, 3))
    pixels = PIXELS[:1]
    got = load_runtime(tmp_path / "net" / "onnx", manifest).predict({"pixels": pixels})[manifest.outputs[0].name]
    np.testing.assert_allclose(got, pixels[0].transpose(2, 0, 1) / 255, atol=1e-6)
    asked = questions_for(manifest, description, 2, "net").inputs["pixels"]
    assert asked.shape[1:] == (1, HEIGHT, WIDTH, 3) and 100 < asked.max() <= 255


@pytest.mark.parametrize("text", ["size=6x9", "size=6x9 order=BGR", "fit=cover"])
def test_a_size_does_not_say_how_values_change(tmp_path: Path, text: str) -> None:
    source = onnx_of(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], ["batch", HEIGHT, WIDTH, 3])
    with pytest.raises(BroughtError, match=r"nothing says how pixels 0\.\.255 become its input"):
        plan(source, Description(preprocess=parse_preprocess(text)), "net")
    for complete in (f"{text} none", f"none {text}", f"{text} scale=1", f"{text} unit"):
        assert plan(source, Description(preprocess=parse_preprocess(complete)), "net").image is not None
    assert parse_preprocess("none") == Preprocess()
