"""Memory over many pictures and races, of the page and of its workers, stays what it was."""

from collections.abc import Callable
from itertools import count

import pytest
from playwright.sync_api import Page

from tests.browser.conftest import OpenPage, finished_rows, wait_until
from tests.browser.test_page import FIRST, settled
from tests.serving import Service

PICTURES, RACES = 25, 3
MOST_GROWTH = 0.1
MOST_ROUNDS = 3
MEASUREMENTS = 3

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
    """Scope -> bytes that are in use: `Window` is the page's, `DedicatedWorkerGlobalScope` all of its workers'.

    The least of some measurements: garbage that one of them still counts differs by 4 % of the page's bytes.
    """
    measurements = [measured(page) for _ in range(MEASUREMENTS)]
    return {scope: min(each[scope] for each in measurements) for scope in measurements[0]}


def measured(page: Page) -> dict[str, int]:
    page.request_gc()
    scopes: dict[str, int] = page.evaluate(USED)
    assert scopes["Window"] > 1_000_000 and scopes["DedicatedWorkerGlobalScope"] > 10_000_000, scopes
    return scopes


def show(page: Page, numbers: range) -> None:
    for number in numbers:
        finished_rows(page, page.evaluate(SHOW, number))


def race(page: Page, times: int) -> None:
    for _ in range(times):
        page.evaluate("document.querySelector('form .primary').click()")
        wait_until(page, "document.querySelector('[data-race]')?.dataset.race === 'done'", 60)


def assert_levels_off(page: Page, work: Callable[[], object]) -> None:
    """A round of this work adds next to nothing.

    Some rounds may: the browser compiles code late, and its tools list the last requests. A leak grows in each round.
    """
    rounds = [used(page)]
    grown = []
    for _ in range(MOST_ROUNDS):
        work()
        rounds.append(used(page))
        grown.append(max((rounds[-1][scope] - rounds[-2][scope]) / bytes for scope, bytes in rounds[0].items()))
        if grown[-1] <= MOST_GROWTH:
            return
    pytest.fail(f"Each round adds more than {MOST_GROWTH:.0%} of the first bytes: {grown} of {rounds[0]}")


def test_pictures_and_races_leave_nothing_behind(light_service: Service, open_page: OpenPage) -> None:
    page = open_page(light_service)
    finished_rows(page, FIRST)
    settled(page)
    show(page, range(1, 4))  # what is made once is there
    firsts = count(4, PICTURES)
    assert_levels_off(page, lambda: show(page, range(first := next(firsts), first + PICTURES)))

    page.locator(".views a[href='#race']").click()
    page.locator("[name=seconds]").fill("0.1")
    page.evaluate(RACE, ["keras_cnn-tflite@litert-wasm", "keras_cnn-onnx@server"])
    race(page, 2)
    assert_levels_off(page, lambda: race(page, RACES))
