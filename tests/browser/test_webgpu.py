"""Rows on WebGPU, which a software adapter computes here: they say which operators it takes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from playwright.sync_api import Browser

from compare.browser import WEBGPU
from compare.browser import chromium as launched
from contract.manifest import read_manifest, sha256_of_files, write_manifest
from tests.browser.conftest import OpenPage, wait_until
from tests.serving import Service

ROW = "keras_cnn-onnx@onnx-webgpu"
TIME = "(row) => window.rosetta.time(row, [Array.from({ length: 784 }, () => 100)], 0.1)"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched(WEBGPU) as running:
        yield running


@pytest.fixture(params=[", all operators", ", operators: 11 of 12, copies: 1"])
def words(light_artifacts: Path, request: pytest.FixtureRequest) -> str:
    """What a row says of a model as it is, and of one that quantises its pictures: WebGPU has no kernel for that."""
    words: str = request.param
    if "copies" in words:
        _round_inputs(light_artifacts / "keras_cnn" / "onnx")
    return words


def _round_inputs(folder: Path) -> None:
    (path,) = folder.glob("*.onnx")
    model = onnx.load(path)
    graph, pixels = model.graph, model.graph.input[0].name
    graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), "step"))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.uint8), "zero"))
    for node in graph.node:
        node.input[:] = ["rounded" if name == pixels else name for name in node.input]
    graph.node.insert(0, helper.make_node("QuantizeLinear", [pixels, "step", "zero"], ["steps"]))
    graph.node.insert(1, helper.make_node("DequantizeLinear", ["steps", "step", "zero"], ["rounded"]))
    onnx.save(model, path)
    manifest = read_manifest(folder)
    write_manifest(folder, replace(manifest, files=sha256_of_files(folder, [path])))


def test_a_row_says_how_many_of_its_operators_the_processor_computes(
    open_page: OpenPage, words: str, light_service: Service
) -> None:
    page = open_page(light_service, path="/?idle")
    wait_until(page, "document.documentElement.dataset.ready")
    assert page.evaluate(TIME, ROW)["backend"].endswith(words)
