"""Bytes of files, of packages with everything that they require, and of images; and the reason if there are none."""

import gzip
import importlib.metadata
from pathlib import Path

import brotli
import pytest

from compare import footprint
from compare.figures import Figure, Missing, exact
from compare.footprint import file_figures, image, installed, requirements
from contract.formats import FORMATS, Format, is_installed
from contract.manifest import read_manifest


def test_files_are_counted_on_disk_and_compressed(artifacts: Path) -> None:
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
    names = requirements(["onnxruntime"])
    assert {"onnxruntime", "numpy", "protobuf", "flatbuffers"} <= names
    assert "torch" not in names
    assert "keras" in requirements(["tensorflow-cpu"]), "the requirements of a requirement count too"


def test_the_small_runtimes_are_small() -> None:
    sizes = {family: installed(family) for family in FORMATS if is_installed(family)}
    values = {family: figure.value for family, figure in sizes.items() if isinstance(figure, Figure)}
    assert values.keys() == sizes.keys()
    assert values["tflite"] < values["torch"]
    assert values["onnx"] < values["torch"]
    assert values["keras"] == values["savedmodel"] > 500e6, "TensorFlow requires Keras"


def test_a_package_that_is_not_installed_is_missing_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "other", Format("other", "Other", "serve-other", packages=("no-such-package",)))
    figure = installed("other")
    assert isinstance(figure, Missing)
    assert "no-such-package" in figure.missing


def write_docker(folder: Path, script: str) -> None:
    (folder / "docker").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "docker").chmod(0o755)


def test_an_image_has_the_size_that_the_engine_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_docker(tmp_path, '[ "$*" = "image inspect --format {{.Size}} some/image" ] && echo 104000000')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    figure = image.__wrapped__("some/image")
    assert isinstance(figure, Figure)
    assert figure.value == 104e6


def test_an_image_that_does_not_exist_is_missing_with_the_engines_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_docker(tmp_path, 'echo "Error: No such image: some/image" >&2; exit 1')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    figure = image.__wrapped__("some/image")
    assert isinstance(figure, Missing)
    assert "No such image: some/image" in figure.missing
    monkeypatch.setenv("PATH", "/nowhere")
    assert image.__wrapped__("some/image") == Missing("There is no container engine: `docker` is not on the PATH.")


def test_no_runtime_counts_its_language_or_what_a_first_import_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = tmp_path / "node_modules" / "net"
    modules.mkdir(parents=True)
    (modules / "package.json").write_text("{}")
    (modules / "net.js").write_bytes(b"x" * 1000)
    (modules / "net.pyc").write_bytes(b"x" * 100_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(footprint, "NODE_MODULES", tmp_path / "node_modules")
        patch.setenv("PATH", "/nowhere")
        assert footprint._installed_node(["net"]) == exact(1002, "B")
    about = tmp_path / "net-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: net\nVersion: 1.0\n")
    (tmp_path / "net.py").write_bytes(b"x" * 10_000)
    (tmp_path / "net.pyc").write_bytes(b"x" * 100_000)
    (about / "RECORD").write_text("net.py,,\nnet.pyc,,\nnet-1.0.dist-info/METADATA,,\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert len(importlib.metadata.files("net") or []) == 3
    expected = 10_000 + (about / "METADATA").stat().st_size
    assert sum(footprint._files.__wrapped__("net").values()) == expected
