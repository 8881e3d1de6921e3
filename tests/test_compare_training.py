"""Lines of code as a person would count them, and each framework's message for the same mistake."""

from dataclasses import replace
from pathlib import Path

import pytest

from compare.figures import Figure
from compare.training import SCRIPTS, compare_training, fault_of, lines_of_code
from contract.manifest import read_manifest, write_manifest

PROGRAM = '''"""A docstring
of two lines."""

import os  # a comment

# a comment alone


def first(a: int) -> int:
    """What it does."""
    text = """two
lines"""
    return len(text) + (
        a
    )


class Second:
    x = 1

    def method(self) -> None:
        """Nothing."""
'''


@pytest.mark.parametrize(
    ("names", "lines"), [(("first",), 6), (("Second",), 3), (("first", "Second"), 9), (None, 10), ((), 0)]
)
def test_lines_with_code_are_counted(tmp_path: Path, names: tuple[str, ...] | None, lines: int) -> None:
    """Not blank lines, comments or docstrings; a string or call of several lines counts as these."""
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    assert lines_of_code(file, names) == lines


def test_a_name_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    with pytest.raises(KeyError):
        lines_of_code(tmp_path / "program.py", ("third",))


def test_each_framework_says_what_was_wrong_with_the_shapes() -> None:
    keras, torch = fault_of("keras"), fault_of("torch")
    assert (
        "expected axis -1 of input shape to have value 400, but received input with shape (1, 576)" in keras["message"]
    )
    assert "\x1b" not in keras["message"], "no colours"
    assert keras["where"] == "line 5: model(np.zeros((1, 32, 32, 1), np.float32))"
    assert "mat1 and mat2 shapes cannot be multiplied (1x576 and 400x10)" in torch["message"]
    assert torch["where"].startswith("train/torch_cnn.py, line ")
    assert torch["where"].endswith("self.fc1(x.flatten(1)), dim=1)")


def test_the_manifests_say_how_training_went(artifacts: Path) -> None:
    for model, format in (("keras_cnn", "keras"), ("torch_cnn", "torch")):
        training = compare_training(artifacts / model / format, {"message": "m", "where": "w"})
        assert training is not None
        assert training.script == SCRIPTS[format].file
        epoch, speed = training.figures["epoch"], training.figures["images_per_second"]
        assert isinstance(epoch, Figure)
        assert isinstance(speed, Figure)
        images = read_manifest(artifacts / model / format).made_with["train_images"]
        assert speed.value == pytest.approx(images / epoch.value)
        assert speed.low <= speed.value <= speed.high
        model_lines, all_lines = training.figures["model_lines"], training.figures["script_lines"]
        assert isinstance(model_lines, Figure)
        assert isinstance(all_lines, Figure)
        assert 8 < model_lines.value < all_lines.value


def test_an_artifact_that_no_training_script_made_has_no_training(artifacts_copy: Path) -> None:
    fault, brought = {"message": "", "where": ""}, artifacts_copy / "keras_cnn" / "keras"
    write_manifest(brought, replace(read_manifest(brought), made_with={}))
    assert compare_training(brought, fault) is None, "its manifest does not say how it was trained"
    assert compare_training(artifacts_copy / "keras_cnn" / "onnx", fault) is None
