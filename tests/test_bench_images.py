"""How `make bench-images` reads an engine's output."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from bench.images import Container, Engine, picture_call
from contract.errors import ArtifactMissing


def engine(folder: Path, script: str) -> Engine:
    client = folder / "docker"
    client.write_text(f"#!/bin/sh\n{script}\n")
    client.chmod(0o755)
    return Engine(str(client), "latest")


@pytest.mark.parametrize(
    ("printed", "megabytes"),
    [("69.37MiB / 256MiB", 72.74), ("1.5GiB / 2GiB", 1610.6), ("900KiB / 1GiB", 0.9216), ("74.2MB / 268MB", 74.2)],
)
def test_memory_is_in_megabytes_whatever_the_engine_prints(tmp_path: Path, printed: str, megabytes: float) -> None:
    used = engine(tmp_path, f"echo '{printed}'").memory(Container("id", 1, 0.1))
    assert used == pytest.approx(megabytes, rel=1e-3)


def test_an_image_is_as_large_as_it_is_compressed(tmp_path: Path) -> None:
    content = np.random.default_rng(1).bytes(2_000_000) + bytes(3_000_000)
    (tmp_path / "image").write_bytes(content)
    size = engine(tmp_path, f"cat {tmp_path}/image").compressed("gateway")
    assert size == pytest.approx(len(gzip.compress(content, 6)), rel=1e-3)


def test_an_engine_that_fails_says_why_in_one_line(tmp_path: Path) -> None:
    broken = engine(tmp_path, "echo 'Error: No such image: gateway' >&2; exit 1")
    with pytest.raises(ArtifactMissing, match=r"` failed: Error: No such image: gateway\. Are the images built"):
        broken("run", "gateway")
    with pytest.raises(ArtifactMissing, match="rosetta-serve/gateway:latest cannot be saved"):
        broken.compressed("gateway")


def test_the_request_declares_its_picture_as_the_protocol_wants() -> None:
    call = picture_call("m-onnx")
    length = int(call.headers["Inference-Header-Content-Length"])
    (tensor,) = json.loads(call.body[:length])["inputs"]
    assert tensor["parameters"]["binary_data_size"] == len(call.body) - length == 28 * 28 * 4
