"""The same artifacts in a real Chromium: each runtime in a fresh page with a cold cache.

The page's `window.rosetta.time` measures its own runtimes: without the warm-up, with reading the answer back, in
samples far longer than a step of the browser's clock. Downloads are the bytes on the wire.
"""

import base64
import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Browser, Error, Page, Request, sync_playwright

from compare import servers
from compare.http_calls import folder_of
from contract.errors import ModelUnavailable, RuntimeFailure
from contract.formats import TABLE, family_of
from contract.manifest import Manifest, read_manifest
from contract.precisions import PRECISIONS
from verify.parity import Answers, same_artifact

RUNTIMES: Mapping[str, Mapping[str, str]] = {
    format.name: dict.fromkeys(format.browser.ids, format.browser.title) for format in TABLE if format.browser
}
"""Family of formats -> the page's runtimes for it, with their titles."""


def runtimes_of(format: str) -> Mapping[str, str]:
    """The page's runtimes for artifacts of a format, with their titles."""
    precision = PRECISIONS.get(format)
    return RUNTIMES.get(family_of(format), {}) if precision is None or precision.in_browser else {}


CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    # Every host but the service's is unknown, so that a fetch from elsewhere fails with or without internet.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
WEBGPU = "--enable-unsafe-webgpu"
"""Chromium on Linux offers WebGPU only with this flag; without a graphics processor, SwiftShader computes it."""

SWIFTSHADER = "swiftshader"
"""In the name of a backend: the processor computes what a graphics processor should."""

READY_SECONDS = 60
PATIENCE = 120
"""Seconds after which a row without an answer fails: a runtime may wait for its threads forever."""
PICTURES = 16
"""How many pictures the timed calls cycle through."""
CLASS_PICTURES, CLASS_SECONDS, CLASS_BYTES = 1_000, 1.5, 64_000_000
"""How many pictures a row is asked once for their classes; fewer where these take longer, or are larger as floats."""

TIME = """
async ([row, base64, count, timed, seconds, moreSeconds, patience]) => {
  const pixels = new Float32Array(Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer);
  const size = pixels.length / count;
  const pictures = Array.from({ length: count }, (_, i) => Array.from(pixels.subarray(i * size, (i + 1) * size)));
  const late = new Promise((_, reject) => {
    setTimeout(() => reject(new Error(`no answer within ${patience} s`)), patience * 1000);
  });
  const more = moreSeconds ? pictures : [];
  return Promise.race([window.rosetta.time(row, pictures.slice(0, timed), seconds, more, moreSeconds), late]);
}
"""


@contextlib.contextmanager
def chromium(*more: str) -> Iterator[Browser]:
    """A headless Chromium: the one that CHROMIUM names, or the system's. Raises ModelUnavailable if there is none."""
    candidates = (os.environ.get("CHROMIUM", ""), *CHROMIUM)
    executable = next(filter(None, map(shutil.which, filter(None, candidates))), None)
    if executable is None:
        raise ModelUnavailable("Chromium is missing: run `./bootstrap browser`, or set CHROMIUM=/path/to/chromium.")
    flags = [*FLAGS, *more, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=flags)
        with browser:
            yield browser


@dataclass(frozen=True)
class Session:
    """A running Chromium, and a service with the artifacts that run in it."""

    browser: Browser
    url: str

    def measure(
        self,
        folder: Path,
        runtime: str,
        pictures: NDArray[Any],
        answers: Answers,
        seconds: float,
        with_classes: bool = False,
    ) -> dict[str, Any]:
        """One round of one row, in a new browser context, so that its cache is empty; in seconds and bytes.

        `answers` are the artifact's own answers to `pictures` on the server. `with_classes` asks many more pictures
        after the timed calls. Raises RuntimeFailure if the row cannot run or gives other answers.
        """
        manifest = read_manifest(folder)
        name = f"{manifest.name}@{runtime}"
        with self.browser.new_context(service_workers="block") as context:
            page = context.new_page()
            fetched: list[Request] = []
            page.on("requestfinished", lambda request: fetched.append(request))
            try:
                of_page = self._opened(page, name, fetched)
                fetched.clear()  # the requests so far belong to the page itself
                timing = _timed(page, name, pictures, seconds, CLASS_SECONDS if with_classes else 0) | of_page
                sizes = _downloads(fetched, manifest)
            except Error as error:
                raise RuntimeFailure(f"{name} failed: {_first_line(error)}") from error
        difference = float(np.abs(np.array(timing.pop("answers")) - answers[:PICTURES]).max())
        most = same_artifact(manifest.format).max_abs_diff
        if not max(difference, timing["unsteady"]) <= most:
            raise RuntimeFailure(
                f"{name} gave wrong answers while it was timed: they differ by {difference:.2g} "
                f"from the server's and by {timing['unsteady']:.2g} among themselves, at most {most}."
            )
        further = timing.get("further")  # a page of an older checkout asks none
        classes = {"classes": np.array(further).argmax(axis=1).tolist()} if further else {}
        return _figures(timing) | sizes | classes | {"difference": difference, "browser": self.browser.version}

    def _opened(self, page: Page, row: str, fetched: list[Request]) -> dict[str, Any]:
        """Open the page; how long that took, and its bytes. Raises RuntimeFailure if it does not offer the row."""
        page.goto(f"{self.url}/?idle")
        for _ in range(READY_SECONDS * 100):  # the page's policy forbids wait_for_function
            if page.evaluate("document.documentElement.dataset.ready"):
                break
            page.wait_for_timeout(10)
        took = page.evaluate("performance.now()")
        if row not in (rows := page.evaluate("window.rosetta.rows()")):
            raise RuntimeFailure(f"This browser cannot run {row}: it offers {', '.join(rows) or 'nothing'}.")
        return {"page": took / 1000, "page_download": sum(_size(each) for each in fetched if _is_sent(each))}


def _timed(page: Page, row: str, pictures: NDArray[Any], seconds: float, class_seconds: float) -> dict[str, Any]:
    """What the page's `window.rosetta.time` measured, its answers to PICTURES, and then for so long to further ones."""
    count = min(CLASS_PICTURES, CLASS_BYTES // (4 * pictures[0].size)) if class_seconds else 0
    sent = pictures[: max(PICTURES, count)].astype(np.float32)
    pixels = base64.b64encode(sent.tobytes()).decode()
    timing: dict[str, Any] = page.evaluate(TIME, [row, pixels, len(sent), PICTURES, seconds, class_seconds, PATIENCE])
    return timing


@contextlib.contextmanager
def sessions(*sides: tuple[Sequence[Path], Path]) -> Iterator[list[Session]]:
    """A session for each (artifacts, checkout whose service and page are used), in one Chromium, until the block ends.

    Raises ModelUnavailable if Chromium is missing, RuntimeFailure if it or a service does not start.
    """
    with contextlib.ExitStack() as stack:
        try:
            browser = stack.enter_context(chromium(WEBGPU))
            services = [
                stack.enter_context(servers.ours(stack.enter_context(folder_of(folders)), 1, root))
                for folders, root in sides
            ]
        except (Error, RuntimeError) as error:
            raise RuntimeFailure(f"The browser could not be measured: {_first_line(error)}") from error
        yield [Session(browser, f"http://{servers.HOST}:{service.port}") for service in services]


def _figures(timing: dict[str, Any]) -> dict[str, Any]:
    """The page's times, in milliseconds, as percentiles in seconds."""
    samples = np.array(timing["samples"]) / 1000
    p50, p95, p99 = (float(value) for value in np.percentile(samples, [50, 95, 99]))
    return {
        "backend": timing["backend"],
        "page": timing["page"],
        "page_download": timing["page_download"],
        "first_answer": timing["firstAnswer"] / 1000,
        "resolution": timing["resolution"] / 1000,
        "calls_per_sample": timing["callsPerSample"],
        "calls": len(samples) * timing["callsPerSample"],
        "p50": p50,
        "p95": p95,
        "p99": p99,
    }


def _downloads(fetched: list[Request], manifest: Manifest) -> dict[str, int]:
    """Bytes on the wire: of the runtime's code, and of the artifact's files."""
    sizes = {"runtime_download": 0, "model_download": 0}
    for request in fetched:
        if _is_sent(request):
            own = f"/artifacts/{manifest.model}/{manifest.format}/" in request.url
            sizes["model_download" if own else "runtime_download"] += _size(request)
    return sizes


def _is_sent(request: Request) -> bool:
    return request.url.startswith("http")  # a worker's script may be a blob: URL, an icon a data: URL


def _size(request: Request) -> int:
    sizes = request.sizes()
    return sizes["responseBodySize"] + sizes["responseHeadersSize"]


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
