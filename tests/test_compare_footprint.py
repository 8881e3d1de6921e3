"""Bytes: of files, of packages with what they require, of images; and what is said where there are none."""

import gzip
from pathlib import Path

import brotli
import pytest

from compare.figures import Figure, Missing
from compare.footprint import file_figures, image, installed, requirements
from contract.formats import FORMATS, Format
from contract.manifest import read_manifest


def test_files_are_counted_as_they_lie_and_as_they_are_sent(artifacts: Path) -> None:
    folder = artifacts / "keras_cnn" / "tfjs"
    manifest = read_manifest(folder)
    contents = [(folder / name).read_bytes() for name in manifest.files]
    figures = file_figures(folder, manifest)
    values = {name: figure.value for name, figure in figures.items() if isinstance(figure, Figure)}
    assert values["disk"] == sum(map(len, contents))
    assert values["brotli"] < values["gzip"] < values["disk"]
    assert values["gzip"] == sum(len(gzip.compress(content, 6)) for content in contents)
    assert values["brotli"] == sum(len(brotli.compress(content)) for content in contents)


def test_what_a_package_requires_is_counted_with_it() -> None:
    found = requirements(["onnxruntime"])
    assert {"onnxruntime", "numpy", "protobuf", "flatbuffers"} <= found
    assert "torch" not in found
    assert "keras" in requirements(["tensorflow-cpu"]), "of what it requires, too"


def test_the_small_runtimes_are_small() -> None:
    sizes = {family: installed(family) for family in FORMATS}
    values = {family: figure.value for family, figure in sizes.items() if isinstance(figure, Figure)}
    assert values.keys() == sizes.keys()
    assert values["tflite"] < values["torch"]
    assert values["onnx"] < values["torch"]
    assert values["keras"] == values["savedmodel"] > 500e6, "Keras is part of what TensorFlow requires"


def test_a_package_that_is_not_installed_is_missing_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "other", Format("other", "Other", "serve-other", packages=("no-such-package",)))
    found = installed("other")
    assert isinstance(found, Missing)
    assert "no-such-package" in found.missing


def write_docker(folder: Path, script: str) -> None:
    (folder / "docker").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "docker").chmod(0o755)


def test_an_image_has_the_size_that_the_engine_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_docker(tmp_path, '[ "$*" = "image inspect --format {{.Size}} some/image" ] && echo 104000000')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = image.__wrapped__("some/image")
    assert isinstance(found, Figure)
    assert found.value == 104e6


def test_an_image_that_is_not_there_is_missing_with_the_engines_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_docker(tmp_path, 'echo "Error: No such image: some/image" >&2; exit 1')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    found = image.__wrapped__("some/image")
    assert isinstance(found, Missing)
    assert "No such image: some/image" in found.missing
    monkeypatch.setenv("PATH", "/nowhere")
    assert image.__wrapped__("some/image") == Missing("No container engine is here: `docker` is not on the PATH.")
