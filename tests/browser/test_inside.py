"""A look inside: both graphs side by side, as the diagnosis matched them; a planted fault lights its node."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

from playwright.sync_api import expect

from bench.faults.files import in_buffer, largest_sign
from bench.faults.plants import planted
from contract.manifest import read_manifest, write_manifest
from tests.browser.conftest import OpenPage, wait_until
from tests.serving import started
from verify.diagnose.__main__ import main as diagnose

SECOND_CONVOLUTION = 16 * 32 * 3 * 3
"""How many weights it has."""


def test_a_planted_fault_lights_its_node(
    open_page: OpenPage, artifacts: Path, light_artifacts: Path, tmp_path: Path
) -> None:
    plant = in_buffer(SECOND_CONVOLUTION, largest_sign)
    bed = planted(light_artifacts / "keras_cnn", "tflite", plant, tmp_path / "faulty")
    first = shutil.copytree(artifacts / "keras_cnn" / "savedmodel", bed.artifact.parent / "savedmodel")
    write_manifest(first, replace(read_manifest(first), parent="onnx"))  # not diagnosed
    assert diagnose(["keras_cnn", "tflite", "--artifacts", str(tmp_path / "faulty"), "--limit", "256"]) == 1
    with started(tmp_path / "faulty", tmp_path / "log") as service:
        page = open_page(service, path="/?idle#inside/keras_cnn-tflite")
        wait_until(page, "document.querySelector('.graphs')")
        lit = page.locator("[data-node][data-place]")
        expect(lit).to_have_count(2)
        assert lit.evaluate_all("(nodes) => nodes.map(({ dataset }) => dataset.side)") == ["source", "artifact"]
        shades = page.locator("[data-match]").evaluate_all(
            "(all) => all.map(({ dataset }) => [dataset.match, 'place' in dataset])"
        )
        place = [is_place for _, is_place in shades].index(True)
        assert place >= 2, "what comes before the second convolution"
        assert {shade for shade, _ in shades[:place]} <= {"equal", "near"}
        assert shades[place][0] == "apart"
        expect(page.locator(".verdict")).to_contain_text("sign of a weight")
        drawn = page.locator("[data-node]").count()
        graphs = json.loads((tmp_path / "faulty" / "report" / "diagnose-keras_cnn-tflite.json").read_text())["graphs"]
        assert drawn == len(graphs["source"]) + len(graphs["artifact"]), "every step of both is drawn"
        assert page.locator(".graphs .group").count() > 0, "fused layers are in a frame"
        page.set_viewport_size({"width": 390, "height": 844})
        hidden = "(around) => around.scrollWidth - around.clientWidth"
        assert page.locator(".inside .scroll").evaluate(hidden) == 0, "a phone shows both graphs at once"

        page.goto(page.url.partition("#")[0] + "#inside")
        page.reload()
        inside = page.locator("[data-inside]")
        expect(inside, "without a wish, what was diagnosed").to_have_attribute("data-inside", "keras_cnn-tflite")
        page.goto(page.url.partition("#")[0] + "#inside/keras_cnn-tflite")

        report = tmp_path / "faulty" / "report" / "diagnose-keras_cnn-tflite.json"
        report.write_text(report.read_text().replace(bed.manifest.files["model.tflite"], "0" * 64))
        page.reload()
        expect(page.get_by_role("alert")).to_contain_text("The diagnosis is of other files")
        report.unlink()
        page.reload()
        expect(page.get_by_test_id("not-diagnosed")).to_contain_text("make diagnose MODEL=keras_cnn FORMAT=tflite")
