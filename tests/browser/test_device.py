"""Is it right on my device? Every row is asked the same questions; a planted fault is seen; the check is handed in."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, Route, expect

from contract.device_check import FOLDER, read_check
from contract.manifest import read_manifest, write_manifest
from tests.browser.conftest import OpenPage, wait_until
from tests.browser.test_page import LIGHT_BROWSER_ROWS
from tests.serving import Service, started

FAULTY = "keras_cnn-tfjs@tfjs-wasm"

PLANT = """
// A backend that gives the classes of every fourth answer in reverse, as a wrong kernel on some adapter would.
const Original = window.Worker;
let calls = 0;
window.Worker = class extends Original {
  set onmessage(listener) {
    super.onmessage = (event) => {
      const outputs = event.data.result;
      if (this.isFaulty && Array.isArray(outputs) && outputs[0]?.data && calls++ % 4 === 0) outputs[0].data.reverse();
      listener(event);
    };
  }
  constructor(url, options) {
    super(url, options);
    this.isFaulty = options?.name === 'tfjs-wasm';
  }
};
"""


PLANT_ALL = PLANT.replace("calls++ % 4 === 0", "true").replace("tfjs-wasm", "litert-wasm")
REDUCED = "tflite-fp16"


def checked(page: Page) -> dict[str, int]:
    """Run the check to its end: each row, and how many of its answers are wrong."""
    page.get_by_role("button", name="Check this device").click()
    wait_until(page, "document.querySelector('[data-check]').dataset.check === 'done'", 150)
    rows = page.locator("[data-checked]").evaluate_all(
        "(rows) => rows.map(({ dataset }) => [dataset.checked, dataset.state, Number(dataset.wrong)])"
    )
    assert {state for _, state, _ in rows} == {"done"}
    return {row: wrong for row, _, wrong in rows}


def test_a_fault_of_one_backend_is_found_shown_and_handed_in(
    open_page: OpenPage, light_service: Service, light_artifacts: Path, tmp_path: Path
) -> None:
    page = open_page(light_service, lambda page: page.add_init_script(PLANT), path="/?idle#device")
    wait_until(page, "document.documentElement.dataset.ready")
    wrong = checked(page)
    assert wrong.keys() >= LIGHT_BROWSER_ROWS
    assert 20 <= wrong.pop(FAULTY) <= 50, "every fourth of 200, unless its classes are as good as symmetric"
    assert set(wrong.values()) == {0}
    verdict = page.get_by_test_id("device-verdict")
    expect(verdict).to_contain_text(f"Wrong on this device: {FAULTY}, ")
    expect(verdict).to_contain_text(" of 200.")
    pictures = page.locator(f"[data-wrong-of='{FAULTY}'] li")
    assert pictures.count() >= 20
    expect(pictures.first.locator(".sprite")).to_be_visible()
    expect(pictures.first).to_contain_text("→")

    page.get_by_label("Device", exact=True).fill("A phone")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as JSON").click()
    download.value.save_as(tmp_path / "check.json")
    page.get_by_role("button", name="Hand it to the service").click()
    expect(page.get_by_test_id("handed-in")).to_contain_text("The service keeps the check.")
    (kept,) = (light_artifacts / FOLDER).iterdir()
    assert kept.read_bytes() == (tmp_path / "check.json").read_bytes()
    manifests = [read_manifest(path) for path in (light_artifacts / "keras_cnn").iterdir()]
    files = {manifest.name: manifest.files for manifest in manifests}
    check = read_check(kept.read_bytes(), files)
    assert check.device == "A phone"
    assert len(check.rows[FAULTY].wrong) >= 20 and check.rows[FAULTY].questions == 200
    assert all(row.ms for row in check.rows.values())

    altered = kept.read_bytes().replace(b"A phone", b"A Phone")
    for data, said in {
        altered: "was altered",
        b"{}": "not a check of a device",
        b"x" * 1_000_001: "the limit is",
    }.items():
        status, _, body = light_service.ask("POST", "/devices", data)
        assert status in (400, 413) and said in json.loads(body)["error"]
    assert len(list((light_artifacts / FOLDER).iterdir())) == 1, "nothing of them is kept"


def test_what_a_reduced_precision_loses_on_the_server_too_is_not_wrong_on_this_device(
    open_page: OpenPage, light_artifacts: Path, tmp_path: Path
) -> None:
    """The browser's LiteRT gives all classes in reverse, and the server does so for the reduced artifact alone."""
    model = light_artifacts / "keras_cnn"
    shutil.rmtree(model / "tfjs")
    folder = shutil.copytree(model / "tflite", model / REDUCED)
    write_manifest(folder, replace(read_manifest(folder), format=REDUCED))

    def reverse(route: Route) -> None:
        response = route.fetch()
        start = int(response.headers["inference-header-content-length"])
        body = response.body()
        route.fulfill(response=response, body=body[:start] + np.frombuffer(body[start:], "<f4")[::-1].tobytes())

    def prepare(page: Page) -> None:
        page.add_init_script(PLANT_ALL)
        page.route(f"**/v2/models/keras_cnn-{REDUCED}/infer", reverse)

    with started(light_artifacts, tmp_path / "log") as service:
        page = open_page(service, prepare, path="/?idle#device")
        wait_until(page, "document.documentElement.dataset.ready")
        wrong = checked(page)
        assert wrong.pop("keras_cnn-tflite@litert-wasm") >= 100, "unless the classes are as good as symmetric"
        assert set(wrong.values()) == {0}
        row = page.locator(f"[data-checked='keras_cnn-{REDUCED}@litert-wasm']")
        assert int(row.get_attribute("data-lost") or 0) >= 100
        expect(row).to_contain_text("lost by its precision, here as on the server")
        expect(page.get_by_test_id("device-verdict")).to_contain_text("1 of reduced precision loses some")
