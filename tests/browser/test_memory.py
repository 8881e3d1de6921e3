"""Memory over many pictures and races, of the page and of its workers, stays what it was."""

from playwright.sync_api import Page

from tests.browser.conftest import OpenPage, finished_rows, wait_until
from tests.browser.test_page import FIRST, settled
from tests.serving import Service

PICTURES, RACES = 25, 3
GROWTH = 1.1

USED = """
performance.measureUserAgentSpecificMemory().then(({ breakdown }) => {
  const used = {};
  for (const { bytes, attribution } of breakdown) {
    for (const { scope } of attribution.slice(0, 1)) used[scope] = (used[scope] ?? 0) + bytes;
  }
  return used;
})
"""

SHOW = """
(number) => {
  const sample = document.querySelectorAll('[data-sample]')[number];
  sample.click();
  return `test image ${Number(sample.dataset.sample.slice(0, 4))}`;
}
"""

RACE = """
(rows) => {
  for (const box of document.querySelectorAll('.choices input')) {
    if (rows.includes(box.name) !== box.checked) box.click();
  }
}
"""


def used(page: Page) -> dict[str, int]:
    """Scope -> bytes that are in use: `Window` is the page's, `DedicatedWorkerGlobalScope` all of its workers'."""
    page.request_gc()
    found: dict[str, int] = page.evaluate(USED)
    assert found["Window"] > 1_000_000 and found["DedicatedWorkerGlobalScope"] > 10_000_000, found
    return found


def show(page: Page, numbers: range) -> None:
    for number in numbers:
        finished_rows(page, page.evaluate(SHOW, number))


def race(page: Page, times: int) -> None:
    for _ in range(times):
        page.evaluate("document.querySelector('form .primary').click()")
        wait_until(page, "document.querySelector('[data-race]')?.dataset.race === 'done'", 60)


def assert_kept_within(before: dict[str, int], after: dict[str, int]) -> None:
    assert {scope: after[scope] / bytes for scope, bytes in before.items() if after[scope] > GROWTH * bytes} == {}


def test_pictures_and_races_leave_nothing_behind(light_service: Service, open_page: OpenPage) -> None:
    page = open_page(light_service)
    finished_rows(page, FIRST)
    settled(page)
    show(page, range(1, 4))  # what is made once is there
    before = used(page)
    show(page, range(4, 4 + PICTURES))
    assert_kept_within(before, used(page))

    page.locator(".views a[href='#race']").click()
    page.locator("[name=seconds]").fill("0.1")
    page.evaluate(RACE, ["keras_cnn-tflite@litert-wasm", "keras_cnn-onnx@server"])
    race(page, 2)
    before = used(page)
    race(page, RACES)
    assert_kept_within(before, used(page))
