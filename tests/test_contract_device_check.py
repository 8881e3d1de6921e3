"""A check of a device: read as it was written, refused when altered or of other artifacts, kept within bounds."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from contract import device_check
from contract.device_check import MOST_BYTES, keep_check, read_check, read_checks
from contract.errors import BodyTooLarge, InputError

FILES = {"m-onnx": {"model.onnx": "a" * 64}, "m-keras": {"model.h5": "b" * 64}}
ROW: dict[str, Any] = {
    "artifact": "m-onnx",
    "backend": "webgpu: some adapter",
    "questions": 200,
    "wrong": [3, 7],
    "lost": [],
    "difference": 1.5e-7,
    "ms": 0.25,
    "error": "",
}
CHECK: dict[str, Any] = {
    "made": "2026-01-02T03:04:05.678Z",
    "device": "Pixel",
    "browser": "A browser",
    "cores": 8,
    "artifacts": FILES,
    "rows": {"m-onnx@onnx-webgpu": ROW},
}


def written(**change: Any) -> bytes:
    """A check as the page writes it."""
    text = json.dumps(CHECK | change, separators=(",", ":"))
    return f'{{"check":{text},"sha256":"{hashlib.sha256(text.encode()).hexdigest()}"}}'.encode()


def test_a_check_is_read_as_it_was_written() -> None:
    check = read_check(written(), FILES)
    row = check.rows["m-onnx@onnx-webgpu"]
    assert (check.device, row.wrong, row.questions, row.difference) == ("Pixel", (3, 7), 200, 1.5e-7)


def test_one_letter_that_was_changed_is_seen() -> None:
    data = written().replace(b'"wrong":[3,7]', b'"wrong":[3]')
    with pytest.raises(InputError, match=r"was altered: its sha256 is [0-9a-f]{12}\.\.\., it names"):
        read_check(data, FILES)


@pytest.mark.parametrize(
    ("known", "said"),
    [
        ({"m-onnx": FILES["m-onnx"]}, "m-keras is not here"),
        (FILES | {"m-onnx": {"model.onnx": "c" * 64}}, "m-onnx has other files than when the device was checked"),
    ],
)
def test_a_check_of_other_artifacts_is_refused(known: dict[str, dict[str, str]], said: str) -> None:
    with pytest.raises(InputError, match=f"of other artifacts: {said}"):
        read_check(written(), known)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": {}}, "rows: got 0"),
        ({"cores": "8"}, "cores: got"),
        ({"device": "x" * 301}, "longer than 300"),
        ({"more": 1}, "more: it is unknown"),
        ({"rows": {"m-onnx@onnx-webgpu": ROW | {"wrong": [1] * 201}}}, "201 of 200"),
        ({"rows": {"m-onnx@onnx-webgpu": ROW | {"wrong": [1], "lost": [1] * 200}}}, "201 of 200"),
        ({"rows": {"m-onnx@onnx-webgpu": ROW | {"ms": -1.0}}}, "expected a number that is 0 or more"),
        ({"rows": {"m-keras@onnx-webgpu": ROW}}, "is not of its artifact"),
        ({"artifacts": {"m-keras": FILES["m-keras"]}}, "m-onnx was checked"),
    ],
)
def test_what_is_no_check_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        read_check(written(**change), FILES)


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b'{"check":{},"sha256":"' + b"0" * 63 + b'"}'])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="This is not a check of a device"):
        read_check(data, FILES)


def test_nothing_large_is_read() -> None:
    with pytest.raises(BodyTooLarge, match=f"the limit is {MOST_BYTES}"):
        read_check(b" " * (MOST_BYTES + 1), FILES)


def test_a_check_is_kept_once_and_the_folder_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_check, "MOST_FILES", 2)
    folder = tmp_path / "devices"
    names = {keep_check(folder, written(cores=cores)) for cores in (1, 1, 2)}
    assert {file.name for file in folder.iterdir()} == names and len(names) == 2
    with pytest.raises(InputError, match="keeps 2 checks"):
        keep_check(folder, written(cores=3))


def test_what_cannot_be_read_is_left_out_by_name(tmp_path: Path) -> None:
    keep_check(tmp_path / "devices", written())
    (tmp_path / "devices" / "zz.json").write_bytes(b"{}")
    good, bad = read_checks(tmp_path / "devices", FILES)
    assert not isinstance(good, str) and good.device == "Pixel"
    assert str(bad).startswith("zz.json is left out. This is not a check")
