"""The benchmark of the service measures what there is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from bench.serving import isolation, photos
from contract.manifest import MANIFEST, ImageSpec


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


@pytest.mark.parametrize(("slower", "reached"), [(1.0, True), (2.0, False)])
def test_a_photo_is_timed_beside_pillow_and_misses_the_target_where_our_way_is_slow(
    monkeypatch: pytest.MonkeyPatch, slower: float, reached: bool
) -> None:
    monkeypatch.setattr(photos, "PHOTO", (400, 300))
    seconds = {"ours": 0.1 * slower, "Pillow": 0.1}
    clock = iter([seconds["ours"], seconds["Pillow"]] * 3)

    def timed(way: Callable[[], object]) -> float:
        assert way() is not None
        return next(clock)

    monkeypatch.setattr(photos, "seconds_of", timed)
    ours, pillow = photos._beside_pillow(photos.photo(), ImageSpec(28, 28, 1), 3)
    assert ours.reached is reached
    assert ours.figures == pytest.approx({"ms": 100 * slower, "times Pillow": slower})
    assert pillow.figures == pytest.approx({"ms": 100})
