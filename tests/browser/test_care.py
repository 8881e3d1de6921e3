"""The page is made with care: light, quick, readable by all, in two languages, and usable without the server."""

import gzip
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from contract.code import ROOT
from contract.formats import FORMATS
from tests.browser.conftest import PAGE, OpenPage, finished_rows, wait_until
from tests.browser.test_page import FIRST, LIGHT_BROWSER_ROWS, LIGHT_SERVER_ROWS
from tests.serving import Service, started

AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
SERIOUS = ("serious", "critical")

SMALL = """
() => [...document.querySelectorAll('a[href], button, input, select, textarea, summary')].filter((one) => {
  const { width, height } = (one.closest('label') ?? one).getBoundingClientRect();
  return width && (width < 24 || height < 24) && !one.closest('p'); // links in a sentence are as high as its line
}).map((one) => one.outerHTML.slice(0, 200))
"""

VIEWS = ("compare", "race", "device", "inside", "report", "ship")

COMPRESSED_BYTES = 200_000


@pytest.fixture
def idle(open_page: OpenPage, service: Service) -> Page:
    """The page, which runs nothing by itself."""
    page = open_page(service, path="/?idle")
    wait_until(page, "document.documentElement.dataset.ready")
    return page


def show(page: Page, view: str) -> None:
    page.locator(f".views a[href='#{view}']").click()
    expect(page.locator(f".views a[href='#{view}']")).to_have_attribute("aria-current", "page")
    page.locator(
        {
            "compare": ".comparing",
            "race": ".racing",
            "device": ".checking",
            "inside": ".inside",
            "report": ".reporting",
            "ship": ".shipping",
        }[view]
    ).wait_for()


def test_all_of_the_page_before_any_runtime_is_small(open_page: OpenPage, service: Service) -> None:
    page = open_page(service, path="/?idle")
    wait_until(page, "document.documentElement.dataset.ready")
    for view in VIEWS:
        show(page, view)
    names = page.evaluate("performance.getEntriesByType('resource').map(({ name }) => new URL(name).pathname)")
    files = [PAGE, *(PAGE.parent / name[1:] for name in names if name.startswith("/assets/"))]
    assert len(files) >= 4, "the document, its style, its script, and the parts that were opened"
    assert sum(len(gzip.compress(file.read_bytes())) for file in files) < COMPRESSED_BYTES


def test_a_picture_is_answered_in_every_theme_and_language_without_serious_faults(
    open_page: OpenPage, service: Service, subtests: pytest.Subtests
) -> None:
    page = open_page(service, color_scheme="light", viewport={"width": 1280, "height": 800})
    finished_rows(page, FIRST)
    page.evaluate(AXE.read_text())
    for dark, width in ((False, 1280), (True, 390)):
        page.emulate_media(color_scheme="dark" if dark else "light")
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") is dark
        for view in VIEWS:
            show(page, view)
            found = page.evaluate("async () => (await axe.run()).violations")
            with subtests.test(view=view, dark=dark):
                assert [f"{one['id']}: {one['nodes'][0]['html']}" for one in found if one["impact"] in SERIOUS] == []
                assert page.evaluate(SMALL) == [], "what is clicked, or touched, is at least 24 pixels wide and high"


def test_axe_finds_what_is_not_readable(idle: Page) -> None:
    idle.evaluate(AXE.read_text())
    idle.evaluate("document.querySelector('h1').style.color = 'color-mix(in srgb, currentcolor 5%, transparent)'")
    found = idle.evaluate("async () => (await axe.run()).violations")
    assert "color-contrast" in [one["id"] for one in found]


def test_the_page_uses_the_browser_s_language_until_another_is_chosen(open_page: OpenPage, service: Service) -> None:
    page = open_page(service, path="/?idle", locale="ko-KR")
    wait_until(page, "document.documentElement.dataset.ready")
    expect(page.locator("html")).to_have_attribute("lang", "ko")
    expect(page.get_by_role("tab", name="테스트 이미지")).to_be_visible()
    page.locator(".language select").select_option("en")
    expect(page.get_by_role("tab", name="Test image")).to_be_visible()
    page.reload()
    expect(page.locator("html")).to_have_attribute("lang", "en")


WORDS = """
() => {
  const body = document.querySelector('#page').cloneNode(true);
  for (const name of body.querySelectorAll('code, h2, .runtime')) name.remove(); // names are the same everywhere
  return body.textContent;
}
"""


def test_korean_leaves_nothing_in_english(open_page: OpenPage, service: Service) -> None:
    page = open_page(service, path="/?idle", locale="ko-KR")
    wait_until(page, "document.documentElement.dataset.ready")
    names = {"Rosetta Serve", "English", "WebGPU", "Fashion-MNIST", "JSON", "PNG, JPEG, WebP, GIF, BMP"}
    names |= {"Markdown", "CSV", "Core ML", "macOS", *FORMATS}
    for view in ("compare", "race", "device", "inside"):
        show(page, view)
        shown = page.evaluate(WORDS)
        labels = page.evaluate("fetch('/samples/index.json').then((index) => index.json())")["labels"]
        for name in sorted(names | {*labels}, key=len, reverse=True):  # executorch before torch
            shown = shown.replace(name, "")
        assert set(re.findall("[A-Za-z]{4,}", shown)) == set(), shown


@pytest.mark.failed_requests
def test_once_loaded_the_page_works_without_the_server(
    open_page: OpenPage, light_artifacts: Path, tmp_path: Path
) -> None:
    with started(light_artifacts, tmp_path / "log") as service:
        page = open_page(service, service_workers="allow")
        wait_until(page, "document.documentElement.dataset.kept", 100)
        service.stop()
        page.reload()
        rows = finished_rows(page, FIRST)
        assert {row.id for row in rows.values() if row.state == "done"} >= LIGHT_BROWSER_ROWS
        assert all(rows[row].state == "failed" for row in LIGHT_SERVER_ROWS)
        expect(page.get_by_role("alert")).to_contain_text("The server does not answer.")
        for view in VIEWS:
            show(page, view)
        with started(light_artifacts, tmp_path / "again", PORT=str(service.port)):
            expect(page.get_by_role("alert")).to_have_count(0)
            show(page, "compare")
            page.locator('[data-sample="0001.png"]').click()
            assert {row.state for row in finished_rows(page, "test image 1").values()} == {"done"}


def test_a_new_build_deletes_the_old_one_s_files(open_page: OpenPage, service: Service) -> None:
    page = open_page(service, path="/?idle", service_workers="allow")
    wait_until(page, "Boolean(navigator.serviceWorker.controller)")
    page.evaluate("caches.open('rosetta?another-build').then((cache) => cache.add('/icon.svg'))")
    page.evaluate("navigator.serviceWorker.register('/sw.js?newer-build')")
    wait_until(page, "caches.keys().then((names) => !names.includes('rosetta?another-build'))")


def test_missing_capabilities_are_named(idle: Page) -> None:
    has_gpu = idle.evaluate("navigator.gpu?.requestAdapter().then(Boolean) ?? false")
    missing = idle.get_by_test_id("missing")
    if has_gpu:
        expect(missing).to_have_count(0)
    else:
        expect(missing).to_contain_text("WebGPU")
        expect(missing).not_to_contain_text("WebGL")


def test_a_browser_without_webgl_names_it_and_has_no_row_for_it(open_page: OpenPage, service: Service) -> None:
    script = "OffscreenCanvas.prototype.getContext = () => null;"
    page = open_page(service, lambda page: page.add_init_script(script), path="/?idle")
    wait_until(page, "document.documentElement.dataset.ready")
    expect(page.get_by_test_id("missing")).to_contain_text("WebGL")
    rows = page.evaluate("window.rosetta.rows()")
    assert "keras_cnn-tfjs@tfjs-wasm" in rows
    assert "keras_cnn-tfjs@tfjs-webgl" not in rows


@pytest.mark.parametrize(("width", "height"), [(360, 740), (3840, 2160)])
def test_every_view_fits_from_a_telephone_to_4k(open_page: OpenPage, service: Service, width: int, height: int) -> None:
    page = open_page(service, path="/?idle", viewport={"width": width, "height": height})
    wait_until(page, "document.documentElement.dataset.ready")
    for view in VIEWS:
        show(page, view)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
