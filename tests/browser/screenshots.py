"""Pictures of the page's views, once every row has answered.

python -m tests.browser.screenshots FOLDER                       of a service that is started, and stopped, here
python -m tests.browser.screenshots http://127.0.0.1:8000 FOLDER     of one that runs
"""

import argparse
import contextlib
import itertools
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import PIL.Image
from playwright.sync_api import Browser, Page, ViewportSize

from tests.browser.conftest import ROW_SECONDS, chromium, finished_rows, wait_until
from tests.serving import started

Theme = Literal["light", "dark"]

SIZES = ((390, 844), (1280, 900), (1920, 1080))
THEMES: tuple[Theme, ...] = ("light", "dark")
LANGUAGES = {"en": "test image 0", "ko": "테스트 이미지 0"}
"""Language -> what the page calls the first picture."""
README_SIZE = (1280, 900)
README_BYTES = 200_000
RACE_SECONDS = 0.1


def main() -> None:
    """The command line: where the page is, if it is anywhere, and the folder for the pictures."""
    parser = argparse.ArgumentParser(prog="python -m tests.browser.screenshots")
    parser.add_argument("url", nargs="?", help="a running service; without one, ARTIFACTS are served for the while")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--readme", type=Path, metavar="FILE", help="write the README's picture, too")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        url = options.url
        if url is None:
            log = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "log"
            url = stack.enter_context(started(Path(os.environ.get("ARTIFACTS") or "artifacts").resolve(), log)).url
        browser = stack.enter_context(chromium())
        for size, theme, language in itertools.product(SIZES, THEMES, LANGUAGES):
            with opened(browser, url, size, theme, language) as page:
                take_views(page, options.folder, f"{size[0]}-{theme}-{language}")
        if options.readme:
            with opened(browser, url, README_SIZE, "light", "en") as page:
                show_every_answer(page)
                page.screenshot(path=options.readme)
            shrink(options.readme)


@contextlib.contextmanager
def opened(browser: Browser, url: str, size: tuple[int, int], theme: Theme, language: str) -> Iterator[Page]:
    """The page at this width and height, for a visitor who reads this language."""
    viewport = ViewportSize(width=size[0], height=size[1])
    with browser.new_context(viewport=viewport, color_scheme=theme, locale=language, device_scale_factor=1) as context:
        page = context.new_page()
        page.goto(url)
        yield page


def take_views(page: Page, folder: Path, name: str) -> None:
    """Each view of the page from top to bottom, in a file of its own; the first one's has no suffix."""
    for view, show in VIEWS.items():
        page.locator(f".views a[href='#{view}']").click()
        show(page)
        file = folder / (f"{name}.png" if view == "compare" else f"{name}-{view}.png")
        page.screenshot(path=file, full_page=True)
        print(file)


def shrink(file: Path) -> None:
    """A palette of 256 colours is enough for the page, and a third of the bytes."""
    with PIL.Image.open(file) as picture:
        few = picture.convert("RGB").quantize(256, PIL.Image.Quantize.MAXCOVERAGE, dither=PIL.Image.Dither.NONE)
    few.save(file, optimize=True)
    if (size := file.stat().st_size) > README_BYTES:
        sys.exit(f"error: {file} has {size} bytes, expected at most {README_BYTES}.")


def show_every_answer(page: Page) -> None:
    """Wait until all rows have answered and are timed. Raises RuntimeError if a row failed."""
    rows = finished_rows(page, LANGUAGES[page.evaluate("document.documentElement.lang")])
    wait_until(page, "document.querySelector('[data-summary]').dataset.summary === 'done'", ROW_SECONDS)
    failed = {row.id: row.error for row in rows.values() if row.state != "done"}
    if failed:
        raise RuntimeError(f"These rows failed: {failed}")


def show_race(page: Page) -> None:
    page.locator("[name=seconds]").fill(str(RACE_SECONDS))
    page.locator("form .primary").click()
    wait_until(page, "document.querySelector('[data-race]')?.dataset.race === 'done'", 200)


def show_device(page: Page) -> None:
    page.locator(".checking .primary").click()
    wait_until(page, "document.querySelector('[data-check]').dataset.check === 'done'", 300)


def show_inside(page: Page) -> None:
    """Both graphs where `make diagnose` has run, or the page's word that it has not."""
    page.locator("[data-inside] .card").nth(1).wait_for()


def show_report(page: Page) -> None:
    """The figures of `make compare`, or the page's word that there are none."""
    page.locator(".reporting").first.wait_for()
    page.wait_for_timeout(500)  # plots are drawn when their width is known


def show_shipping(page: Page) -> None:
    page.locator("[data-ship]").wait_for()


VIEWS: Mapping[str, Callable[[Page], None]] = {
    "compare": show_every_answer,
    "race": show_race,
    "device": show_device,
    "inside": show_inside,
    "report": show_report,
    "ship": show_shipping,
}


if __name__ == "__main__":
    main()
