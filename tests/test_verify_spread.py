"""Invented pictures of which a source is too sure are blended, and a fault that they hid is seen."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from contract.dataset import Bytes
from contract.manifest import Manifest, read_manifest
from contract.tensors import Tensors
from tests.conftest import write_keras, write_source
from verify.questions import Questions
from verify.spread import SURE, spread


class Sure:
    """A classifier by the mean of red less blue, sharpened: its best probability is 1.000 nearly everywhere."""

    title = platform = "sure"
    in_process = True

    def __init__(self, sharpness: float, channels: tuple[int, int] = (0, 2)) -> None:
        self.sharpness, self.channels = sharpness, channels

    def predict(self, inputs: Tensors) -> Tensors:
        first, second = self.channels
        pixels = inputs["pixels"].astype(np.float64)
        logit = self.sharpness * (pixels[..., first] - pixels[..., second]).mean(axis=(1, 2))
        red = 1 / (1 + np.exp(-np.clip(logit, -500, 500)))
        return {"probabilities": np.stack([red, 1 - red, 0 * red], axis=1)}

    def close(self) -> None:
        pass


def manifest(tmp_path: Path) -> Manifest:
    write_source(tmp_path / "odd" / "keras", write_keras)
    known = read_manifest(tmp_path / "odd" / "keras")
    outputs = (replace(known.outputs[0], shape=(None, 3)),)
    return replace(known, outputs=outputs, labels=("a", "b", "c"))


def questions(images: Bytes) -> Questions:
    return Questions({"pixels": images}, None, "invented", 1e-3)


def best(runtime: Sure, asked: Questions) -> np.ndarray:
    return np.asarray(runtime.predict(asked.inputs)["probabilities"].max(axis=1))


def test_pictures_of_which_it_is_sure_are_blended(
    tmp_path: Path, odd_images: Bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    runtime = Sure(2.0)
    asked = spread(runtime, manifest(tmp_path), questions(odd_images))
    before, after = best(runtime, questions(odd_images)), best(runtime, asked)
    assert (before > SURE).mean() > 0.5
    changed = np.flatnonzero((asked.inputs["pixels"] != odd_images).any(axis=(1, 2, 3)))
    assert len(changed) >= 8
    assert (after[changed] < 0.99).all()
    assert "of them are blended" in capsys.readouterr().out


@pytest.mark.parametrize("change", ["not sure", "real pictures", "one class"])
def test_otherwise_they_stay(tmp_path: Path, odd_images: Bytes, change: str) -> None:
    asked = questions(odd_images)
    runtime = Sure(0.001 if change == "not sure" else 2.0)
    if change == "real pictures":
        asked = replace(asked, labels=np.zeros(len(odd_images), np.uint8))
    if change == "one class":
        runtime = Sure(2.0, (0, 0))
    assert spread(runtime, manifest(tmp_path), asked) is asked


def test_a_fault_that_a_sure_source_hides_is_seen_on_blended_pictures(tmp_path: Path, odd_images: Bytes) -> None:
    source, faulty, tolerance = Sure(2.0), Sure(2.1), 1e-3

    def off(asked: Questions) -> np.ndarray:
        here, there = (runtime.predict(asked.inputs)["probabilities"] for runtime in (source, faulty))
        return np.asarray(np.abs(here - there).max(axis=1))

    sure = best(source, questions(odd_images)) > 0.9999
    hidden = Questions({"pixels": odd_images[sure]}, None, "invented", tolerance)
    assert off(hidden).max() <= tolerance
    assert off(spread(source, manifest(tmp_path), hidden)).max() > tolerance
