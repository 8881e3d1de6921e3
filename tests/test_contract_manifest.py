"""Whatever happens, an artifact's folder is the old one or the new one, and only files that match its manifest load."""

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contract import manifest
from contract.code import ROOT
from contract.errors import ArtifactCorrupt, ArtifactError, ArtifactMissing
from contract.manifest import MANIFEST, ImageSpec, Manifest, TensorSpec, read_manifest, staged, verify_files

EXAMPLE = Manifest(
    model="keras_cnn",
    format="tflite-int8",
    parent="savedmodel",
    inputs=(TensorSpec("image", "float32", (None, 28, 28, 1), "NHWC"),),
    outputs=(TensorSpec("probabilities", "float32", (None, 10), "NC"),),
    image=ImageSpec(28, 28, 1, fit="contain", invert="auto"),
    labels=("Ankle boot", "치마"),
    files={"model.tflite": "ab" * 32},
    made_with={"tensorflow": "2.21.0", "seconds": 1.5},
)


def make_artifact(folder: Path, content: bytes = b"the old weights") -> Manifest:
    """Write a folder with one file and its manifest."""
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(content)
    made = replace(EXAMPLE, files=manifest.sha256_of_files(folder, [folder / "model.bin"]))
    manifest.write_manifest(folder, made)
    return made


def everything_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# The manifest's text


@pytest.mark.parametrize("made", [EXAMPLE, replace(EXAMPLE, parent=None, image=None, labels=(), files={})])
def test_a_manifest_is_read_as_it_was_written(tmp_path: Path, made: Manifest) -> None:
    manifest.write_manifest(tmp_path, made)
    assert read_manifest(tmp_path) == made


def test_a_manifest_is_readable_text_with_the_schema_first(tmp_path: Path) -> None:
    manifest.write_manifest(tmp_path, EXAMPLE)
    text = (tmp_path / MANIFEST).read_text(encoding="utf-8")
    assert "치마" in text
    assert next(iter(json.loads(text))) == "schema"


def test_the_name_is_the_models_and_the_formats() -> None:
    assert EXAMPLE.name == "keras_cnn-tflite-int8"
    assert not EXAMPLE.is_source
    assert replace(EXAMPLE, parent=None).is_source


@pytest.mark.parametrize("name", ["", "Keras", "a-b", "a b", "../a", "a/b", "치마", "a\n"])
def test_a_bad_model_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a model name"):
        replace(EXAMPLE, model=name)


@pytest.mark.parametrize("name", ["", "onnx-", "-int8", "a-b-c", "a_b", "ONNX", "..", "a/b", "onnx\n"])
def test_a_bad_format_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a format name"):
        replace(EXAMPLE, parent=name)
    with pytest.raises(ValueError, match="is not a format name"):
        replace(EXAMPLE, format=name)


@pytest.mark.parametrize(
    "change",
    [
        {"height": 0},
        {"width": -1},
        {"channels": 2},
        {"channels": 4},
        {"fit": "stretched"},
        {"invert": "always"},
        {"resample": "cubic"},
    ],
)
def test_an_image_spec_that_nothing_implements_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        replace(ImageSpec(28, 28, 1), **change)


def test_a_folder_without_a_manifest_is_not_an_artifact(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        with pytest.raises(ArtifactMissing, match="make artifacts"):
            read_manifest(folder)


@pytest.mark.parametrize(
    "text", [b"", b"{", b"null", b"[]", b'"text"', b"{}", b"\xff\xfe\xff", b"[" * 100_000, b'{"schema": 1}']
)
def test_broken_json_is_a_corrupt_artifact(tmp_path: Path, text: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(text)
    with pytest.raises(ArtifactCorrupt, match=r"cannot be read as a manifest .*Remove"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("schema", 2),
        ("schema", None),
        ("model", "../keras"),
        ("model", 7),
        ("format", "a/b"),
        ("inputs", [{"name": "image"}]),
        ("inputs", None),
        ("image", {"height": 28}),
        ("image", {"height": 28, "width": 28, "channels": 1, "fit": "stretched"}),
        ("image", {"height": 28, "width": 28, "channels": 1, "colour": "sepia"}),
        ("image", {"height": "28", "width": 28, "channels": 1}),
        ("labels", None),
        ("files", ["model.bin"]),
        ("files", {"../model.bin": "00"}),
        ("files", {"/etc/passwd": "00"}),
        ("files", {"a/../../b": "00"}),
        ("made_with", "a converter"),
    ],
)
def test_a_manifest_with_a_wrong_field_is_a_corrupt_artifact(tmp_path: Path, field: str, value: object) -> None:
    manifest.write_json(tmp_path / MANIFEST, {**EXAMPLE.to_json(), field: value})
    with pytest.raises(ArtifactCorrupt, match="cannot be read as a manifest"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("field", [field for field in EXAMPLE.to_json() if field != "batch"])
def test_a_manifest_without_a_field_is_a_corrupt_artifact(tmp_path: Path, field: str) -> None:
    data = EXAMPLE.to_json()
    del data[field]
    manifest.write_json(tmp_path / MANIFEST, data)
    with pytest.raises(ArtifactCorrupt, match=field):
        read_manifest(tmp_path)


def test_a_manifest_from_before_fixed_batches_takes_any_batch(tmp_path: Path) -> None:
    data = EXAMPLE.to_json()
    del data["batch"]
    manifest.write_json(tmp_path / MANIFEST, data)
    assert read_manifest(tmp_path).batch is None


@pytest.mark.parametrize("batch", [0, -1, 1.5, "1", True])
def test_an_invalid_batch_is_a_corrupt_artifact(tmp_path: Path, batch: object) -> None:
    manifest.write_json(tmp_path / MANIFEST, {**EXAMPLE.to_json(), "batch": batch})
    with pytest.raises(ArtifactCorrupt, match="batch"):
        read_manifest(tmp_path)


# The files


def test_files_that_match_their_hashes_pass(tmp_path: Path) -> None:
    made = make_artifact(tmp_path / "onnx")
    verify_files(tmp_path / "onnx", made)


def test_hashes_are_of_relative_paths_in_order(tmp_path: Path) -> None:
    (tmp_path / "variables").mkdir()
    files = [tmp_path / "variables" / "data", tmp_path / "model.pb"]
    for file in files:
        file.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert list(manifest.sha256_of_files(tmp_path, files).items()) == [
        ("model.pb", digest),
        ("variables/data", digest),
    ]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    made = make_artifact(tmp_path / "onnx")
    (tmp_path / "onnx" / "model.bin").unlink()
    with pytest.raises(ArtifactCorrupt, match=r"model\.bin is missing.*Remove.*make artifacts"):
        verify_files(tmp_path / "onnx", made)


@pytest.mark.parametrize("content", [b"", b"the old weightS", b"the old weights "])
def test_an_altered_file_is_named(tmp_path: Path, content: bytes) -> None:
    made = make_artifact(tmp_path / "onnx")
    (tmp_path / "onnx" / "model.bin").write_bytes(content)
    with pytest.raises(ArtifactCorrupt, match=r"model\.bin has sha256 .*expected"):
        verify_files(tmp_path / "onnx", made)


# Writing


def test_json_is_replaced_at_once_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    manifest.write_json(path, {"number": 1})
    before = path.stat().st_ino
    manifest.write_json(path, {"number": 2})
    assert json.loads(path.read_bytes()) == {"number": 2}
    assert path.stat().st_ino != before, "the file was changed in place, not replaced"
    assert everything_in(tmp_path) == ["report.json"]


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    manifest.write_json(path, {"number": 1})
    with pytest.raises(TypeError):
        manifest.write_json(path, {"number": object()})

    def cut_off(partial: Path, text: str, encoding: str) -> int:
        partial.write_bytes(text[:5].encode())
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", cut_off)
    with pytest.raises(OSError, match="No space left"):
        manifest.write_json(path, {"number": 2})
    assert json.loads(path.read_bytes()) == {"number": 1}
    assert everything_in(tmp_path) == ["report.json"]


def test_a_staged_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "artifacts" / "keras_cnn" / "onnx"
    with staged(target) as staging:
        assert everything_in(staging) == []
        (staging / "model.bin").touch()
        assert not target.exists()
    assert everything_in(target) == ["model.bin"]
    assert everything_in(target.parent) == ["onnx"]


def test_a_staged_folder_replaces_the_whole_of_the_old_one(tmp_path: Path) -> None:
    make_artifact(tmp_path / "onnx")
    with staged(tmp_path / "onnx") as staging:
        (staging / "other.bin").touch()
        assert everything_in(tmp_path / "onnx") == [MANIFEST, "model.bin"]
    assert everything_in(tmp_path / "onnx") == ["other.bin"]
    assert everything_in(tmp_path) == ["onnx"]


@pytest.mark.parametrize("error", [RuntimeError("converter"), KeyboardInterrupt(), PermissionError(errno.EACCES, "no")])
def test_a_block_that_raises_keeps_the_old_artifact(tmp_path: Path, error: BaseException) -> None:
    made = make_artifact(tmp_path / "onnx")
    with pytest.raises(type(error)), staged(tmp_path / "onnx") as staging:
        (staging / "half").touch()
        raise error
    verify_files(tmp_path / "onnx", read_manifest(tmp_path / "onnx"))
    assert read_manifest(tmp_path / "onnx") == made
    assert everything_in(tmp_path) == ["onnx"]


def test_a_rename_that_fails_puts_the_old_artifact_back(tmp_path: Path) -> None:
    make_artifact(tmp_path / "onnx")
    with pytest.raises(FileNotFoundError), staged(tmp_path / "onnx") as staging:
        staging.rmdir()  # so that nothing can replace the old folder
    verify_files(tmp_path / "onnx", read_manifest(tmp_path / "onnx"))
    assert everything_in(tmp_path) == ["onnx"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_a_clear_error_and_keeps_the_old_artifact(tmp_path: Path, number: int) -> None:
    make_artifact(tmp_path / "onnx")
    with pytest.raises(ArtifactError, match=r"No disk space is left for .*onnx\. Free some"), staged(tmp_path / "onnx"):
        raise OSError(number, os.strerror(number))
    verify_files(tmp_path / "onnx", read_manifest(tmp_path / "onnx"))
    assert everything_in(tmp_path) == ["onnx"]


def test_a_write_to_a_full_device_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No disk space is left"), staged(tmp_path / "onnx"):
        Path("/dev/full").write_bytes(b"weights")
    assert everything_in(tmp_path) == []


def test_a_killed_run_leaves_the_old_artifact_and_the_next_one_sweeps_up(tmp_path: Path) -> None:
    target = tmp_path / "onnx"
    make_artifact(target)
    make_artifact(tmp_path / "onnx-int8")
    run = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from contract.manifest import staged
        with staged(Path(sys.argv[1])) as staging:
            (staging / "model.bin").write_bytes(b"half of the new weights")
            os.kill(os.getpid(), signal.SIGKILL)
    """)
    killed = subprocess.run([sys.executable, "-c", run, str(target)], cwd=ROOT, timeout=60, check=False)
    assert killed.returncode == -signal.SIGKILL
    verify_files(target, read_manifest(target))
    assert len(everything_in(tmp_path)) == 3, "the killed run should have left its folder"
    with staged(target) as staging:
        assert everything_in(tmp_path) == sorted([staging.name, "onnx", "onnx-int8"])
        (staging / "model.bin").write_bytes(b"the new weights")
    assert everything_in(tmp_path) == ["onnx", "onnx-int8"]
    assert (target / "model.bin").read_bytes() == b"the new weights"


def test_a_run_killed_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    target = tmp_path / "onnx"
    made = make_artifact(target)
    target.rename(tmp_path / ".onnx.123.old.partial")
    (tmp_path / ".onnx.123.partial").mkdir()
    with pytest.raises(RuntimeError), staged(target):
        raise RuntimeError("the next run fails too")
    assert everything_in(tmp_path) == ["onnx"]
    verify_files(target, made)


def test_infinity_is_written_as_json_that_browsers_read(tmp_path: Path) -> None:
    data = {"Infinity": "Infinity", "worst": [float("inf"), float("-inf"), 1.5], "last": float("inf")}
    manifest.write_json(tmp_path / "numbers.json", data)
    text = (tmp_path / "numbers.json").read_text()

    def refuse(constant: str) -> float:
        raise ValueError(constant)  # JavaScript's JSON.parse does

    assert json.loads(text, parse_constant=refuse) == data


@pytest.mark.parametrize(("shape", "has_classes"), [((None, 3), True), ((None, 8, 8, 3), False)])
def test_a_map_of_classes_is_no_answer_of_classes(shape: tuple[int | None, ...], has_classes: bool) -> None:
    """A segmentation network's labels are those of places: "the same class" of a whole answer would mean nothing."""
    pixels, answer = TensorSpec("pixels", "float32", (None, 8, 8, 3), "NHWC"), TensorSpec("map", "float32", shape, "N")
    manifest = Manifest("net", "onnx", None, (pixels,), (answer,), None, ("sky", "sea", "sand"))
    assert manifest.has_classes == has_classes
