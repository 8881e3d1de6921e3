"""The page in use: large pictures, runtimes that hang, a server that goes and returns, many models, the keyboard."""

import functools
import io
import json
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import OpenPage, finished_rows, wait_until
from tests.browser.test_page import (
    BROWSER_ROWS,
    FIRST,
    LIGHT_BROWSER_ROWS,
    LIGHT_SERVER_ROWS,
    SERVER_ROWS,
    SOURCES,
    choose_tab,
    settled,
    shoe_photo,
    upload,
)
from tests.serving import Service, started

WATCH = """
window.shift = 0;
window.shifts = []; // what moved, for the message of a test that fails
const nameOf = (node) => node && `${node.nodeName} ${node.className ?? ''} "${node.textContent.slice(0, 40)}"`;
new PerformanceObserver((list) => {
  for (const { value, hadRecentInput, startTime, sources } of list.getEntries()) {
    if (hadRecentInput) continue;
    window.shift += value;
    const moved = sources.map(({ node, previousRect: { y, height }, currentRect: { y: newY, height: newHeight } }) =>
      `${nameOf(node)}: ${y}+${height} to ${newY}+${newHeight}`);
    shifts.push(`${value.toFixed(4)} at ${Math.round(startTime)} ms: ${moved.join('; ')}`);
  }
}).observe({ type: 'layout-shift', buffered: true });
window.languages = [];
new MutationObserver((changes) => {
  for (const { target } of changes) if (target === document.documentElement) languages.push(target.lang);
}).observe(document, { subtree: true, attributeFilter: ['lang'] });
window.pixelWork = []; // which calls read or decode pixels in the page's own thread
const watched = [
  [window, 'createImageBitmap'],
  [CanvasRenderingContext2D.prototype, 'getImageData'],
  [OffscreenCanvasRenderingContext2D.prototype, 'getImageData'],
];
for (const [owner, name] of watched) {
  const original = owner[name];
  owner[name] = function (...parameters) {
    pixelWork.push(name);
    return original.apply(this, parameters);
  };
}
"""

MOST_SHIFT = 0.05
HEALTH = "**/v2/health/live"

SLOW_GPU = """
const ask = GPU.prototype.requestAdapter;
GPU.prototype.requestAdapter = async function (...options) {
  await new Promise((done) => setTimeout(done, 1500));
  return ask.apply(this, options);
};
"""
MEGAPIXELS = 12
HANGING_SECONDS = 60
"""Far less than the page's patience with a runtime; the others must have answered by then."""

DROP_LINK = """
() => {
  const link = new DataTransfer();
  link.setData('text/uri-list', 'http://elsewhere.test/');
  const drop = (target) => !target.dispatchEvent(
    new DragEvent('drop', { bubbles: true, cancelable: true, dataTransfer: link }));
  return drop(document.querySelector('main'));
}
"""


@pytest.fixture
def light(light_service: Service, open_page: OpenPage) -> OpenPage:
    """`light(prepare)`: the page of a service that has one model. The page is closed before the service stops."""
    return functools.partial(open_page, light_service)


def test_the_layout_keeps_its_place_and_the_line_above_says_what_it_comes_to(
    open_page: OpenPage, service: Service
) -> None:
    for width in (390, 1280):
        requested: list[str] = []

        def prepare(page: Page, requested: list[str] = requested) -> None:
            page.on("request", lambda request: requested.append(request.url))
            page.add_init_script(WATCH)

        page = open_page(service, prepare, viewport={"width": width, "height": 844})
        finished_rows(page, FIRST)
        said = settled(page)
        assert f"All {len(SERVER_ROWS | BROWSER_ROWS) - len(SOURCES)} converted rows agree with their source." in said
        assert "Largest difference" in said and "Fastest here" in said and "Smallest download" in said
        answer = page.locator(".summary [data-cell=summed]")
        labels = set(page.locator("[data-cell=label]").all_text_contents())
        assert labels and all(label in answer.inner_text() for label in labels), "it says what the rows say"
        assert answer.bounding_box()["y"] < 844, "it is seen without scrolling"  # type: ignore[index]
        page.locator('[data-sample="0001.png"]').click()
        finished_rows(page, "test image 1")
        assert page.evaluate("window.shift") < MOST_SHIFT, "\n".join(page.evaluate("shifts"))
        assert len(page.evaluate("languages")) <= 1, "whenever it is set, the browser styles each element anew"
        samples = [url for url in requested if "/samples/" in url]
        assert len(samples) <= 5, "all thumbnails are one picture"


@pytest.mark.failed_requests
@pytest.mark.parametrize("late", ["the GPU", "the models", "the pictures", "the server"])
def test_the_layout_keeps_its_place_whatever_comes_late(open_page: OpenPage, service: Service, late: str) -> None:
    def hold(route: Route) -> None:
        time.sleep(1)
        route.continue_()

    def prepare(page: Page) -> None:
        page.add_init_script(WATCH)
        if late == "the GPU":
            page.add_init_script(SLOW_GPU)
        elif late == "the server":
            page.route(HEALTH, lambda route: route.abort())
        else:
            page.route("**/v2/repository/index" if late == "the models" else "**/samples/**", hold)

    page = open_page(service, prepare, viewport={"width": 390, "height": 844})
    if late == "the server":
        expect(page.locator(".problem")).to_contain_text("The server does not answer.")
        page.unroute(HEALTH)
        expect(page.locator(".problem")).to_have_count(0)
    finished_rows(page, FIRST)
    settled(page)
    assert page.evaluate("window.shift") < MOST_SHIFT, "\n".join(page.evaluate("shifts"))


def test_a_row_s_download_includes_its_runtime(open_page: OpenPage, service: Service) -> None:
    page = open_page(service)
    finished_rows(page, FIRST)
    settled(page)
    shown = page.locator("[data-where=browser]").evaluate_all(
        "(rows) => rows.map((row) => [row.dataset.row, row.querySelector('[data-cell=bytes]').title])"
    )
    sizes = {row: int(title.replace(",", "")) for row, title in shown}
    assert sizes["keras_cnn-tflite@litert-wasm"] > 2_000_000
    assert 100_000 < sizes["keras_cnn-tfjs@tfjs-wasm"] < 1_000_000
    backends = page.locator("[data-where=browser] .runtime small").all_text_contents()
    threads = {text.rpartition("threads: ")[2] for text in backends if "threads" in text}
    assert len(threads) == 1, "each runtime gets as many"
    webgl = page.locator("[data-row$='@tfjs-webgl']").first
    if "SwiftShader" in (webgl.text_content() or ""):
        expect(webgl).to_contain_text("computed in software")


def test_a_large_photo_is_decoded_once_and_outside_the_page_s_thread(open_page: OpenPage, service: Service) -> None:
    page = open_page(service, lambda page: page.add_init_script(WATCH))
    finished_rows(page, FIRST)
    settled(page)
    noise = np.random.default_rng(3).integers(0, 255, (300, 400, 3), np.uint8)
    side = PIL.Image.fromarray(noise).resize((4000, 1000 * MEGAPIXELS // 4), PIL.Image.Resampling.BICUBIC)
    file = io.BytesIO()
    side.save(file, "JPEG", quality=85)
    sent: list[int] = []
    page.on("request", lambda request: sent.append(len(request.post_data_buffer or b"")))
    upload(page, "large.jpg", file.getvalue())
    assert {row.state for row in finished_rows(page, "large.jpg").values()} == {"done"}
    settled(page)
    assert len([size for size in sent if size > 100_000]) <= 1, "the server is sent the picture once at most"
    assert page.evaluate("pixelWork") == [], "a worker does it, or the page stands still meanwhile"
    assert page.evaluate("createImageBitmap(new ImageData(1, 1)).then(() => pixelWork)") == ["createImageBitmap"]


def test_a_runtime_that_hangs_does_not_hold_the_others(light: OpenPage) -> None:
    held: list[Route] = []
    page = light(lambda page: page.route("**/runtimes/tfjs/*.wasm", lambda route: held.append(route)))
    others = (LIGHT_SERVER_ROWS | LIGHT_BROWSER_ROWS) - {"keras_cnn-tfjs@tfjs-wasm"}
    done = f"""{json.dumps(sorted(others))}.every((row) =>
        document.querySelector(`[data-row="${{row}}"][data-state=done][data-timed]`))"""
    wait_until(page, done, HANGING_SECONDS)
    assert held
    expect(page.locator("[data-row='keras_cnn-tfjs@tfjs-wasm']")).to_have_attribute("data-state", "loading")
    for route in held:
        route.continue_()
    finished_rows(page, FIRST)
    assert "agree" in settled(page)


@pytest.mark.failed_requests
def test_when_the_server_returns_what_was_said_of_it_goes_and_its_rows_answer(
    open_page: OpenPage, light_artifacts: Path, tmp_path: Path
) -> None:
    with started(light_artifacts, tmp_path / "log") as service:
        page = open_page(service)
        finished_rows(page, FIRST)
        settled(page)
        service.stop()
        page.locator('[data-sample="0001.png"]').click()
        expect(page.locator("[data-cell=picture-error]")).to_contain_text("The server did not answer")
        upload(page, "shoe.png", shoe_photo("PNG"))
        assert {row.state for row in finished_rows(page, "shoe.png").values()} == {"done", "failed"}
        expect(page.get_by_role("alert").first).to_contain_text("The server does not answer")
        with started(light_artifacts, tmp_path / "again", PORT=str(service.port)):
            expect(page.get_by_role("alert")).to_have_count(0)
            wait_until(
                page, "[...document.querySelectorAll('[data-row]')].every((row) => row.dataset.state === 'done')"
            )


@pytest.mark.failed_requests
def test_a_part_of_the_page_that_is_gone_says_what_to_do(open_page: OpenPage, service: Service) -> None:
    page = open_page(service, lambda page: page.route("**/assets/RaceView-*.js", lambda route: route.abort()), "/?idle")
    wait_until(page, "document.documentElement.dataset.ready")
    page.locator(".views a[href='#race']").click()
    expect(page.get_by_role("alert")).to_contain_text("If the page was built anew since you opened it")
    page.route(HEALTH, lambda route: route.abort())
    page.locator(".views a[href='#compare']").click()
    page.locator(".views a[href='#race']").click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer, and this part")


def test_a_drawing_is_kept_and_a_line_is_undone(light: OpenPage) -> None:
    page = light()
    finished_rows(page, FIRST)
    ink = """[...document.querySelector('[data-testid=drawing]').getContext('2d').getImageData(0, 0, 280, 280).data]
        .filter((value) => value < 100).length"""
    choose_tab(page, "Draw")
    page.get_by_test_id("drawing").scroll_into_view_if_needed()
    for y in (60, 160):
        paper = page.get_by_test_id("drawing").bounding_box()
        assert paper
        page.mouse.move(paper["x"] + 60, paper["y"] + y)
        page.mouse.down()
        page.mouse.move(paper["x"] + 200, paper["y"] + y, steps=3)
        page.mouse.up()
    both = page.evaluate(ink)
    choose_tab(page, "Upload")
    choose_tab(page, "Draw")
    assert page.evaluate(ink) == both > 0
    page.get_by_role("button", name="Undo").click()
    assert 0 < page.evaluate(ink) < both
    page.get_by_role("button", name="Undo").click()
    assert page.evaluate(ink) == 0
    wait_until(page, "document.querySelector('[data-summary]').dataset.summary === 'done'", 60)


def test_a_link_that_is_dropped_does_not_replace_the_page(light: OpenPage) -> None:
    page = light(path="/?idle")
    assert page.evaluate(DROP_LINK), "its default is prevented"


def test_tabs_and_test_images_are_one_stop_each_and_the_chosen_one_is_marked(light: OpenPage) -> None:
    page = light()
    finished_rows(page, FIRST)
    expect(page).to_have_title("Compare · Rosetta Serve")
    expect(page.locator("[data-sample][aria-selected=true]")).to_have_attribute("data-sample", "0000.png")
    assert page.locator("[data-sample][tabindex='0']").count() == 1
    page.locator("[data-sample='0000.png']").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    finished_rows(page, "test image 1")
    expect(page.locator("[data-sample][aria-selected=true]")).to_have_attribute("data-sample", "0001.png")
    page.get_by_role("tab", name="Test image").focus()
    page.keyboard.press("End")
    expect(page.get_by_role("tab", name="Camera")).to_be_focused()
    page.keyboard.press("Home")
    expect(page.get_by_role("tab", name="Test image")).to_have_attribute("aria-selected", "true")
    page.locator(".views a[href='#race']").click()
    expect(page).to_have_title("Race · Rosetta Serve")
    expect(page.locator(".choices label").first).to_be_visible()
    heights = page.locator(".choices label").evaluate_all(
        "(all) => all.map((one) => one.getBoundingClientRect().height)"
    )
    assert min(heights) >= 24


def test_many_models_have_a_filter_and_are_chosen_together(open_page: OpenPage, service: Service) -> None:
    names = [f"model_{number:02}" for number in range(30)]

    def index(route: Route) -> None:
        edge: dict[str, object] = {
            "parent": "onnx",
            "reason": "",
            "cause": "",
            "try": "",
            "routes": [],
            "log": None,
            "format": "tflite",
        }
        route.fulfill(json=[{"name": f"{name}-tflite", "failed_edge": edge | {"model": name}} for name in names])

    page = open_page(service, lambda page: page.route("**/v2/repository/index", index))
    chosen = page.locator(".chooser input:checked")
    expect(page.locator(".chooser label")).to_have_count(30)
    page.get_by_label("Filter models").fill("_1")
    expect(page.locator(".chooser label")).to_have_count(10)
    page.locator(".chooser").get_by_role("button", name="All").click()
    expect(chosen).to_have_count(10)
    page.get_by_label("Filter models").fill("")
    page.locator(".chooser").get_by_role("button", name="None").click()
    expect(chosen).to_have_count(0)


def test_a_thousand_classes_are_filtered_by_name(light: OpenPage) -> None:
    listed = [{"file": f"{index:04}.png", "index": index, "label": 200 * index} for index in range(5)]
    samples = {"title": "many", "labels": [f"class {number}" for number in range(1001)], "samples": listed}
    page = light(lambda page: page.route("**/samples/index.json", lambda route: route.fulfill(json=samples)))
    finished_rows(page, FIRST)
    field = page.get_by_label("Class", exact=True)
    expect(field).to_have_attribute("type", "search")
    field.fill("CLASS 6")
    expect(page.locator("[data-sample]")).to_have_count(1)
    field.fill("no such")
    expect(page.locator("[data-sample]")).to_have_count(0)
    expect(page.get_by_role("button", name="Random")).to_be_disabled()
    settled(page)


@pytest.mark.failed_requests
def test_avif_is_taken_where_the_browser_reads_it(light: OpenPage) -> None:
    page = light()
    finished_rows(page, FIRST)
    file = io.BytesIO()
    PIL.Image.open(io.BytesIO(shoe_photo("PNG"))).save(file, "AVIF")
    upload(page, "photo.avif", file.getvalue())
    assert {row.state for row in finished_rows(page, "photo.avif").values()} == {"done"}
    upload(page, "broken.avif", file.getvalue()[:400])
    assert {row.state for row in finished_rows(page, "broken.avif").values()} == {"failed"}
    assert len(page.locator("[data-cell=picture-error]").all_text_contents()) == 1
