"""The page's own part in what a visitor waits for: its first row, a large photo, and the times that it shows.

python -m bench.page artifacts                            prints the table
python -m bench.page artifacts --write docs/compare.md    writes it between the markers of that page

The rows' runtimes are measured by `make compare`. Here each figure stands beside another of the same run: the page's
time for a row beside Race's, and how long a photo blocks the page beside what its decoding would.
"""

import argparse
import base64
import datetime
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from bench.serving import photos
from compare import servers
from compare.browser import chromium
from compare.machine import this_machine
from compare.tables import markdown, write_tables
from contract.errors import RosettaError, RuntimeFailure

ROUNDS = 3
PATIENCE = 120
"""Seconds until a page that does not come to its end is an error."""
RACE_SECONDS = 1.0
SOFTWARE = ("webgl", "webgpu")
"""Where there is no graphics processor, the CPU imitates one, and its times vary by more than is looked for here."""

WATCH = """
window.watched = { first: null, shift: 0, chosen: Infinity, answered: null, blocked: 0 };
const answered = () => document.querySelector('[data-row][data-state=done]');
new MutationObserver(() => {
  const now = performance.now();
  if (watched.first === null && answered()) watched.first = now;
  const shown = document.querySelector('.results')?.dataset.picture;
  if (watched.answered === null && shown === watched.photo && answered()) watched.answered = now;
}).observe(document, { subtree: true, childList: true, attributeFilter: ['data-state', 'data-picture'] });
new PerformanceObserver((list) => {
  for (const { value, hadRecentInput } of list.getEntries()) if (!hadRecentInput) watched.shift += value;
}).observe({ type: 'layout-shift', buffered: true });
new PerformanceObserver((list) => {
  for (const { startTime, duration } of list.getEntries()) {
    if (startTime >= watched.chosen) watched.blocked = Math.max(watched.blocked, duration);
  }
}).observe({ type: 'longtask' });
addEventListener('change', ({ target }) => {
  if (target.type !== 'file') return;
  watched.chosen = performance.now(); // the driver's own work comes before
  watched.photo = target.files[0].name;
}, true);
"""

ALL_TIMED = """[...document.querySelectorAll('[data-row]')]
  .every(({ dataset }) => dataset.state === 'failed' || 'timed' in dataset)"""

DECODE = """
async (base64) => {
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const start = performance.now();
  const picture = await createImageBitmap(new Blob([bytes], { type: 'image/jpeg' }));
  const canvas = new OffscreenCanvas(picture.width, picture.height).getContext('2d', { willReadFrequently: true });
  canvas.drawImage(picture, 0, 0);
  canvas.getImageData(0, 0, picture.width, picture.height);
  return performance.now() - start;
}
"""
"""What a page does that reads a photo's pixels by itself; milliseconds."""


@dataclass(frozen=True)
class Visit:
    """One visit with an empty cache. All times are in milliseconds."""

    ready: float
    first_row: float
    shift: float
    photo: float
    blocked: float
    """The longest task of the page's thread after the photo was chosen; 0 where none took 50 ms."""
    decoding: float


def main() -> None:
    """The command line: the artifacts, and where to write the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.page", description="What the page itself costs a visitor.")
    parser.add_argument("artifacts", type=Path)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table into this Markdown page")
    options = parser.parse_args()
    try:
        with servers.ours(options.artifacts, 1) as service, chromium() as browser:
            url = f"http://{servers.HOST}:{service.port}"
            visits = [visit(browser, url, seed) for seed in range(ROUNDS)]
            ratios = [row_ratios(browser, url) for _ in range(ROUNDS)]
        lines = list(table(visits, ratios))
        if options.write:
            write_tables([options.write], {"page": lines})
        else:
            print("\n".join(lines))
    except (RosettaError, RuntimeError) as error:
        sys.exit(f"error: {error}")


def visit(browser: Browser, url: str, seed: int) -> Visit:
    """Open the page, let every row answer, then choose a photo of 12 megapixels."""
    with browser.new_context(service_workers="block") as context:
        page = context.new_page()
        page.add_init_script(WATCH)
        page.goto(url)
        wait(page, "document.documentElement.dataset.ready")
        ready = page.evaluate("performance.now()")
        wait(page, ALL_TIMED)
        shift = page.evaluate("watched.shift")
        page.locator("[role=tab]", has_text="Upload").first.click()
        photo = photos.photo(seed)
        files: Any = {"name": f"photo-{seed}.jpg", "mimeType": "image/jpeg", "buffer": photo}
        page.locator(".drop input[type=file]").set_input_files(files)
        wait(page, "watched.answered !== null")
        wait(page, ALL_TIMED)
        watched = page.evaluate("watched")
        decoding = decoding_of(browser, url, photo)
    return Visit(
        ready=ready,
        first_row=watched["first"],
        shift=shift,
        photo=watched["answered"] - watched["chosen"],
        blocked=watched["blocked"],
        decoding=decoding,
    )


def wait(page: Page, expression: str) -> None:
    """Until the expression is true. Raises RuntimeFailure where it never is."""
    deadline = time.monotonic() + PATIENCE
    while not page.evaluate(expression):  # the page's policy forbids wait_for_function
        if time.monotonic() > deadline:
            raise RuntimeFailure(f"The page did not come to its end within {PATIENCE} s: {expression}")
        page.wait_for_timeout(50)


def decoding_of(browser: Browser, url: str, photo: bytes) -> float:
    """How long a page takes that reads the photo's pixels by itself, and does nothing else."""
    with browser.new_context(service_workers="block") as context:
        page = context.new_page()
        page.goto(f"{url}/?idle")
        wait(page, "document.documentElement.dataset.ready")
        took: float = page.evaluate(DECODE, base64.b64encode(photo).decode())
    return took


def row_ratios(browser: Browser, url: str) -> dict[str, float]:
    """Each row of the browser -> the time that the page shows for it, as a multiple of what Race measures next."""
    with browser.new_context(service_workers="block") as context:
        page = context.new_page()
        page.goto(url)
        wait(page, "document.documentElement.dataset.ready")
        wait(page, ALL_TIMED)
        shown = times(page, "[data-row][data-where=browser]", "row", "time")
        rows = [row for row in shown if not row.endswith(SOFTWARE)]
        page.goto(f"{url}/?idle#race")
        wait(page, "document.documentElement.dataset.ready")
        page.get_by_role("button", name="None").click()
        for row in rows:
            page.get_by_label(row, exact=True).check()
        page.get_by_label("Seconds per row").fill(str(RACE_SECONDS))
        page.get_by_role("button", name="Start the race").click()
        wait(page, "document.querySelector('[data-race]')?.dataset.race === 'done'")
        raced = times(page, "[data-lane]", "lane", "median")
    return {row: shown[row] / raced[row] for row in rows if row in raced}


def times(page: Page, selector: str, name: str, cell: str) -> dict[str, float]:
    """Each row that has a time -> that time, in milliseconds."""
    exact = f"row.querySelector('[data-cell={cell}]')?.dataset.ms"  # what is shown is rounded to two digits
    read = f"(rows) => rows.map((row) => [row.dataset.{name}, {exact}])"
    return {row: float(ms) for row, ms in page.locator(selector).evaluate_all(read) if ms}


def table(visits: Sequence[Visit], ratios: Sequence[Mapping[str, float]]) -> Iterator[str]:
    """One line for each thing that a visitor waits for, with the middle of all rounds and their range."""
    rows = {row: statistics.median(each[row] for each in ratios) for row in ratios[0]}
    least, *_, most = sorted(rows, key=lambda row: rows[row])
    cells = [
        ["the page is ready", spread([each.ready for each in visits], " ms"), ""],
        ["the first row has answered", spread([each.first_row for each in visits], " ms"),
         beside([each.first_row / each.ready for each in visits], "until the page is ready")],
        ["what moves meanwhile (cumulative layout shift)", spread([each.shift for each in visits], "", 3), ""],
        ["a photo of 12 megapixels: its first answer", spread([each.photo for each in visits], " ms"),
         beside([each.photo / each.decoding for each in visits], "its decoding alone")],
        ["the longest that the photo blocks the page", spread([each.blocked for each in visits], " ms"),
         beside([each.blocked / each.decoding for each in visits], "its decoding alone")],
        [f"the time that a row shows: {len(rows)} rows on WebAssembly", "",
         f"{beside(list(rows.values()), 'what *Race* measures')}, "
         f"from {rows[least]:.2f}x (`{least}`) to {rows[most]:.2f}x (`{most}`)"],
    ]  # fmt: skip
    yield from markdown("what a visitor waits for|in the middle (range)|beside another figure of the same visit", cells)
    yield ""
    machine, today = this_machine(), datetime.date.today()
    yield f"Measured on {machine}, Chromium {machine.versions['chromium']}, {len(visits)} rounds, {today}."


def spread(values: Sequence[float], unit: str, digits: int = 0) -> str:
    """The middle, and the range."""
    return f"{statistics.median(values):.{digits}f}{unit} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def beside(ratios: Sequence[float], what: str) -> str:
    return f"{statistics.median(ratios):.2f}x {what}"


if __name__ == "__main__":
    main()
