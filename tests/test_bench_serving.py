"""The benchmark of the service measures what there is."""

from pathlib import Path

import pytest

from bench.serving import isolation
from contract.manifest import MANIFEST


def test_formats_that_are_not_made_or_whose_runtime_is_not_installed_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("keras_cnn/keras", "keras_cnn/onnx", "keras_cnn/openvino", "torch_cnn/torch", "torch_cnn/onnx"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / MANIFEST).touch()
    (tmp_path / "keras_cnn" / "tflite").mkdir()
    monkeypatch.setattr(isolation, "is_installed", lambda format: format != "openvino")
    measured = [folder.relative_to(tmp_path).as_posix() for folder in isolation.small_models(tmp_path)]
    assert measured == ["keras_cnn/keras", "torch_cnn/torch", "keras_cnn/onnx"]
