"""`make bench-page`: what it measures of a page, and that it sees a page that is slow."""

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import pytest
from playwright.sync_api import Browser, BrowserContext

from bench import page as bench
from bench.serving import photos
from contract.errors import RuntimeFailure
from tests.serving import Service

SLOW = """
addEventListener('change', ({ target }) => {
  if (target.type !== 'file') return;
  setTimeout(() => { for (const end = performance.now() + 400; performance.now() < end;); });
});
addEventListener('DOMContentLoaded', () => {
  const head = document.createElement('p');
  setTimeout(() => { head.style.height = '500px'; document.body.prepend(head); }, 300);
});
"""
"""A page that stands still for 400 ms after a photo was chosen, and whose content jumps."""


class Planted:
    """A browser whose pages run SLOW."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser

    @contextlib.contextmanager
    def new_context(self, **options: Any) -> Iterator[BrowserContext]:
        with self._browser.new_context(**options) as context:
            context.add_init_script(SLOW)
            yield context


def test_a_page_that_blocks_and_jumps_is_seen(
    browser: Browser, light_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photos, "PHOTO", (400, 300))
    visit = bench.visit(browser, light_service.url, 0)
    assert visit.ready > 0 and visit.first_row > 0 and visit.photo > 0 and visit.decoding > 0
    slow = bench.visit(cast(Browser, Planted(browser)), light_service.url, 0)
    assert slow.blocked >= 400
    assert slow.shift > visit.shift + 0.1


def test_the_times_of_rows_are_those_of_the_page_beside_those_of_race(
    browser: Browser, light_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "RACE_SECONDS", 0.2)
    ratios = bench.row_ratios(browser, light_service.url)
    assert ratios.keys() == {
        "keras_cnn-onnx@onnx-wasm",
        "keras_cnn-tflite@litert-wasm",
        "keras_cnn-tfjs@tfjs-wasm",
    }
    assert all(0.1 < ratio < 10 for ratio in ratios.values())


def test_a_page_that_never_comes_to_its_end_is_an_error(
    browser: Browser, light_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "PATIENCE", 0.2)
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"{light_service.url}/?idle")
        with pytest.raises(RuntimeFailure, match=r"did not come to its end within 0\.2 s: window\.never"):
            bench.wait(page, "window.never")


def test_the_table_has_the_middle_of_all_rounds_and_their_range() -> None:
    visits = [
        bench.Visit(ready, 2 * ready, 0.01, 500, blocked, 250) for ready, blocked in ((100, 0), (300, 60), (200, 50))
    ]
    lines = list(bench.table(visits, [{"a@wasm": 0.9, "b@wasm": 1.2}, {"a@wasm": 1.1, "b@wasm": 1.0}]))
    assert lines[2].startswith("| the page is ready | 200 ms (100 to 300) |")
    assert lines[3] == "| the first row has answered | 400 ms (200 to 600) | 2.00x until the page is ready |"
    assert "0.010 (0.010 to 0.010)" in lines[4]
    assert lines[5].endswith("| 500 ms (500 to 500) | 2.00x its decoding alone |")
    assert lines[6].endswith("| 50 ms (0 to 60) | 0.20x its decoding alone |")
    compared = "1.05x what *Race* measures, from 1.00x (`a@wasm`) to 1.10x (`b@wasm`)"
    assert lines[7] == f"| the time that a row shows: 2 rows on WebAssembly |  | {compared} |"
