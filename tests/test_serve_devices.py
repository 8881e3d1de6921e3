"""Checks of visitors' devices over HTTP: kept beside the artifacts, or refused in words."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from contract.device_check import FOLDER
from contract.manifest import read_manifest
from serve.app import create_app
from serve.catalog import load_catalog
from serve.settings import Settings
from tests.test_contract_device_check import CHECK, ROW


@pytest.fixture
def folder(artifacts: Path, tmp_path: Path) -> Path:
    shutil.copytree(artifacts / "keras_cnn" / "onnx", tmp_path / "served" / "keras_cnn" / "onnx")
    return tmp_path / "served"


@pytest.fixture
def client(folder: Path) -> Iterator[FlaskClient]:
    catalog = load_catalog(folder)
    yield create_app(catalog, Settings(artifacts=folder)).test_client()
    catalog.close()


def check_of(folder: Path) -> bytes:
    """A check of the artifact in a folder, as the page writes it."""
    name = "keras_cnn-onnx"
    files = dict(read_manifest(folder / "keras_cnn" / "onnx").files)
    rows = {f"{name}@onnx-wasm": ROW | {"artifact": name}}
    text = json.dumps(CHECK | {"artifacts": {name: files}, "rows": rows})
    return f'{{"check":{text},"sha256":"{hashlib.sha256(text.encode()).hexdigest()}"}}'.encode()


def error_of(answer: Any) -> str:
    return str(answer.get_json()["error"])


def test_a_check_is_kept_as_it_was_sent(client: FlaskClient, folder: Path) -> None:
    data = check_of(folder)
    answer = client.post("/devices", data=data)
    assert answer.status_code == 200
    assert (folder / FOLDER / answer.get_json()["kept"]).read_bytes() == data
    assert client.post("/devices", data=data).get_json() == answer.get_json(), "the same check is kept once"


def test_what_is_refused_is_not_kept(client: FlaskClient, folder: Path) -> None:
    data = check_of(folder)
    altered = client.post("/devices", data=data.replace(b'"device": "Pixel"', b'"device": "Other"'))
    assert altered.status_code == 400 and "was altered" in error_of(altered)
    model = folder / "keras_cnn" / "onnx"
    files = read_manifest(model).files["model.onnx"]
    text = data.replace(files.encode(), b"0" * 64)
    body = text[len(b'{"check":') : text.rindex(b',"sha256"')]
    other = client.post("/devices", data=text[:-66] + hashlib.sha256(body).hexdigest().encode() + b'"}')
    assert other.status_code == 400 and "of other artifacts: keras_cnn-onnx has other files" in error_of(other)
    large = client.post("/devices", data=b" " * 1_000_001)
    assert large.status_code == 413
    assert not (folder / FOLDER).exists()


def test_where_nothing_can_be_written_the_check_can_be_put_there(client: FlaskClient, folder: Path) -> None:
    (folder / FOLDER).write_text("in the way")
    answer = client.post("/devices", data=check_of(folder))
    assert answer.status_code == 503
    assert "cannot write into its artifacts" in error_of(answer) and "Download the check" in error_of(answer)
