"""The race: rows against each other in workers of their own, watched, cancelled, exported; every fault is shown."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import OpenPage, wait_until
from tests.browser.test_care import AXE
from tests.serving import Service, started

WATCH = """
window.programs = []; // which calls compile or start a runtime in the page's own thread
for (const name of ['compile', 'compileStreaming', 'instantiate', 'instantiateStreaming']) {
  const original = WebAssembly[name];
  WebAssembly[name] = function (...parameters) {
    programs.push(name);
    return original.apply(this, parameters);
  };
}
window.phases = [];
new MutationObserver((changes) => {
  for (const { target: { dataset } } of changes) phases.push([dataset.lane, dataset.phase]);
}).observe(document, { subtree: true, attributeFilter: ['data-phase'] });
"""

QUICK = ["keras_cnn-tflite@litert-wasm", "keras_cnn-onnx@onnx-wasm", "keras_cnn-onnx@server"]


@pytest.fixture
def race(open_page: OpenPage, service: Service) -> Page:
    return open_race(open_page, service)


def open_race(open_page: OpenPage, service: Service, **options: Any) -> Page:
    """The race, with no row chosen; the page runs nothing else meanwhile."""
    page = open_page(service, lambda page: page.add_init_script(WATCH), path="/?idle#race", **options)
    wait_until(page, "document.documentElement.dataset.ready")
    page.get_by_role("button", name="None").click()
    return page


def start(page: Page, rows: list[str], seconds: float) -> None:
    for row in rows:
        page.get_by_label(row, exact=True).check()
    page.get_by_label("Seconds per row").fill(str(seconds))
    page.get_by_role("button", name="Start the race").click()


def lanes(page: Page) -> dict[str, str]:
    """Each row and its phase."""
    found = page.locator("[data-lane]").evaluate_all(
        "(rows) => rows.map(({ dataset }) => [dataset.lane, dataset.phase])"
    )
    return dict(found)


def finish(page: Page) -> str:
    """Wait for the end; the state of the race."""
    wait_until(page, "!['running', undefined].includes(document.querySelector('[data-race]')?.dataset.race)", 100)
    return page.locator("[data-race]").get_attribute("data-race") or ""


def exported(page: Page, folder: Path) -> Any:
    with page.expect_download() as download:
        page.get_by_role("button", name="Export as JSON").click()
    file = folder / "race.json"
    download.value.save_as(file)
    return json.loads(file.read_bytes())


def test_rows_race_one_after_another_and_every_sample_is_exported(race: Page, tmp_path: Path) -> None:
    start(race, QUICK, 1)
    expect(race.get_by_role("progressbar")).to_have_attribute("max", "3")
    assert finish(race) == "done"
    assert lanes(race) == dict.fromkeys(QUICK, "done")
    for row in QUICK:
        phases = [phase for lane, phase in race.evaluate("phases") if lane == row]
        assert "timed" in phases and phases == sorted(phases, key=["load", "warm-up", "timed", "done"].index), row
    assert race.locator(".chart rect").count() >= 3, "each row has bars"
    assert race.locator("[data-mark=winner]").count() == 1
    medians = [float(cell.split()[0]) for cell in race.locator("[data-cell=median]").all_text_contents()]
    assert medians == sorted(medians), "the fastest stands first"
    assert race.locator("[data-lane]").first.locator("[data-mark=front]").count() == 1
    race.evaluate(AXE.read_text())
    assert race.evaluate("axe.run().then(({ violations }) => violations.map(({ id }) => id))") == []
    report = exported(race, tmp_path)
    assert [row["row"] for row in report["rows"]] == sorted(QUICK, key=[row["row"] for row in report["rows"]].index)
    assert report["crossOriginIsolated"] is True
    for row in report["rows"]:
        assert len(row["samples"]) >= 3 and len(row["warmUp"]) >= 3
        assert row["median"] == pytest.approx(np.sort(row["samples"])[len(row["samples"]) // 2])
        assert 0 < row["median"] <= row["p95"] and row["firstAnswer"] > 0
        assert not row["wasHidden"]
    backends = {row["row"]: row["backend"] for row in report["rows"]}
    assert "threads: " in backends["keras_cnn-tflite@litert-wasm"] and "wasm" in backends["keras_cnn-onnx@onnx-wasm"]
    assert backends["keras_cnn-onnx@server"].startswith("ONNX Runtime ")


def test_no_model_runs_in_the_page_s_own_thread_while_rows_race(race: Page) -> None:
    start(race, QUICK, 0.5)
    assert finish(race) == "done"
    assert race.evaluate("programs") == []
    empty = "Uint8Array.of(0, 0x61, 0x73, 0x6d, 1, 0, 0, 0)"
    assert race.evaluate(f"WebAssembly.compile({empty}).then(() => programs)") == ["compile"]


def test_a_race_is_cancelled_at_once_and_another_one_starts(race: Page, tmp_path: Path) -> None:
    start(race, QUICK[:2], 30)
    wait_until(race, "document.querySelector('[data-lane]')?.dataset.phase === 'timed'", 60)
    race.get_by_role("button", name="Cancel").click()
    expect(race.get_by_text("Cancelled. The measurements so far are below.")).to_be_visible()  # each row has 30 s
    report = exported(race, tmp_path)
    assert report["state"] == "cancelled"
    assert [row["phase"] for row in report["rows"]] == ["failed", "waiting"]
    assert len(report["rows"][0]["samples"]) > 0, "what was measured is kept"
    assert report["rows"][0]["median"] > 0 and race.locator(".chart rect").count() > 0, "and is shown"
    race.get_by_label("Seconds per row").fill("0.2")
    race.get_by_role("button", name="Start the race").click()
    wait_until(race, "document.querySelector('[data-race]').dataset.race !== 'cancelled'")
    assert finish(race) == "done"


@pytest.mark.failed_requests
def test_a_runtime_that_does_not_start_fails_in_its_own_lane(race: Page) -> None:
    race.route("**/runtimes/onnx/*.wasm", lambda route: route.abort())
    start(race, QUICK, 0.2)
    assert finish(race) == "done"
    assert lanes(race) == dict.fromkeys(QUICK, "done") | {"keras_cnn-onnx@onnx-wasm": "failed"}
    expect(race.locator("[data-lane='keras_cnn-onnx@onnx-wasm'] .error")).to_contain_text(
        "ONNX Runtime Web did not start"
    )


@pytest.mark.failed_requests
def test_a_server_that_stops_half_way_fails_in_its_own_lane(
    open_page: OpenPage, light_artifacts: Path, tmp_path: Path
) -> None:
    with started(light_artifacts, tmp_path / "log") as service:
        race = open_race(open_page, service)
        start(race, ["keras_cnn-onnx@onnx-wasm", "keras_cnn-tflite@server"], 6)  # longer than a server takes to stop
        wait_until(race, "document.querySelector('[data-lane$=server]')?.dataset.phase === 'timed'", 60)
        service.stop()
        assert finish(race) == "done"
    assert lanes(race) == {"keras_cnn-onnx@onnx-wasm": "done", "keras_cnn-tflite@server": "failed"}
    expect(race.locator("[data-lane$=server] .error")).to_contain_text("The server did not answer")


def test_a_tab_in_the_background_is_reported(race: Page) -> None:
    def hide(route: Route) -> None:
        race.evaluate("""() => {
            Object.defineProperty(document, 'hidden', { get: () => true, configurable: true });
            document.dispatchEvent(new Event('visibilitychange'));
            delete document.hidden;
        }""")
        route.continue_()

    race.route("**/runtimes/litert/*.wasm", hide)  # while the row loads, however soon that is over
    start(race, QUICK[:1], 0.5)
    assert finish(race) == "done"
    expect(race.locator("[data-lane]")).to_contain_text("The tab was in the background")


@pytest.mark.failed_requests
def test_without_test_images_the_race_says_what_to_do(race: Page) -> None:
    race.route("**/samples/**", lambda route: route.abort())
    start(race, QUICK[:1], 0.2)
    expect(race.get_by_role("alert")).to_contain_text("The race needs test images, and the server has none")
