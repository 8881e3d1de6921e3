"""The real service in a process of its own, and its page in a real Chromium that can reach nothing else."""

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect

from compare.browser import chromium as launched
from contract.code import ROOT
from contract.manifest import read_manifest, write_manifest
from tests.serving import Service, descendants_of, started

PAGE = ROOT / "web" / "dist" / "index.html"

ROW_SECONDS = 100
"""Longer than the page's own patience with a runtime, so that its message is seen, not ours."""

expect.set_options(timeout=30_000)  # ms; a busy machine needs more than the usual five seconds

REPORT = """
addEventListener('unhandledrejection', ({ reason }) => reportProblem(`unhandled rejection: ${reason}`));
addEventListener('securitypolicyviolation', (event) =>
  reportProblem(`${event.violatedDirective} of the page's policy refused ${event.blockedURI}`));
"""

DRAWN = """new Promise((drawn) => {
  requestAnimationFrame(() => requestAnimationFrame(drawn));
  setTimeout(drawn, 300);
})"""
"""Resolves when the page shows what it knows by now: rows are drawn once a frame, after 200 ms at the latest."""

READ_ROWS = """
() => [document.querySelector('.results').dataset.picture, [...document.querySelectorAll('[data-row]')].map((row) => {
  const cell = (name) => row.querySelector(`[data-cell="${name}"]`)?.textContent ?? '';
  return {
    id: row.dataset.row, where: row.dataset.where, state: row.dataset.state,
    probabilities: JSON.parse(row.dataset.probabilities ?? '[]'),
    label: cell('label'), status: cell('status'), diff: cell('diff'), agrees: cell('agrees'), error: cell('error'),
  };
})]
"""

LITERT_STARTS = ("INFO: [", "INFO: Created TensorFlow Lite", "WARNING: [npu_registry.cc")
"""What LiteRT.js writes as errors on the console when it starts."""
FAILED_REQUEST = (
    "Failed to load resource",
    "wasm streaming compile failed",
    "falling back to ArrayBuffer instantiation",
    "failed to asynchronously prepare wasm",
    "Aborted(NetworkError",
)
"""What the browser, or the loader of a WebAssembly runtime, writes when a request fails."""

CONSOLE = "on the console: "

OpenPage = Callable[..., Page]

TEST_SECONDS = 400
"""More than any test takes, and any wait of its own."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """A script that a page never answers has no limit of its own in Playwright: so each test has one."""
    with limited(TEST_SECONDS):
        return (yield)


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End every Chromium of this process after so long; whoever waits for a page then gets Playwright's Error."""
    over = threading.Event()

    def end() -> None:
        while not over.wait(seconds):
            for process, name in descendants_of(os.getpid()).items():
                if "chrom" in name:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)

    threading.Thread(target=end, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def chromium() -> contextlib.AbstractContextManager[Browser]:
    """A headless Chromium with a camera that shows a test picture; it measures memory at once when it is asked."""
    return launched("--use-fake-device-for-media-stream", "--enable-blink-features=ForceEagerMeasureMemory")


def wait_until(page: Page, expression: str, seconds: float = 30) -> Any:
    """Ask the page again and again until the expression is true. (wait_for_function does not get past the policy.)"""
    deadline = time.monotonic() + seconds
    while not (value := page.evaluate(expression)):
        if time.monotonic() > deadline:
            pytest.fail(f"Not within {seconds} s: {expression}\nThe page shows:\n{page.locator('body').inner_text()}")
        page.wait_for_timeout(25)
    return value


@dataclass(frozen=True)
class Row:
    """A row of the page, as it is shown."""

    id: str
    where: str
    state: str
    probabilities: list[float]
    label: str
    status: str
    diff: str
    agrees: str
    error: str


def finished_rows(page: Page, picture: str) -> dict[str, Row]:
    """The rows by name, once each has answered or failed for the picture with this title.

    What the page was told to do just before is seen: it is asked a frame later, not while it shows the rows of before.
    """
    deadline = time.monotonic() + ROW_SECONDS
    while True:
        shown, found = page.evaluate(f"{DRAWN}.then({READ_ROWS})")
        rows = {row["id"]: Row(**row) for row in found}
        if shown == picture and rows and all(row.state in ("done", "failed") for row in rows.values()):
            return rows
        states = {row.id: row.state for row in rows.values()}
        assert time.monotonic() < deadline, f"Of {shown}, not {picture}, after {ROW_SECONDS} s: {states}"
        page.wait_for_timeout(50)


@pytest.fixture(scope="session")
def service(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service over all ten artifacts. Do not stop it."""
    with started(artifacts, tmp_path_factory.mktemp("service") / "log") as running:
        yield running


@pytest.fixture
def light_artifacts(artifacts: Path, tmp_path: Path) -> Path:
    """One model whose source is its ONNX artifact: a service of it starts soon, since no framework has to be loaded.

    For what stops or damages a service: every runtime of the browser is there.
    """
    shutil.copytree(artifacts / "samples", tmp_path / "light" / "samples")
    for format in ("onnx", "tflite", "tfjs"):
        folder = shutil.copytree(artifacts / "keras_cnn" / format, tmp_path / "light" / "keras_cnn" / format)
        write_manifest(folder, replace(read_manifest(folder), parent=None if format == "onnx" else "onnx"))
    return tmp_path / "light"


@pytest.fixture
def light_service(light_artifacts: Path, tmp_path: Path) -> Iterator[Service]:
    """The service of one model."""
    with started(light_artifacts, tmp_path / "log") as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests; it ends with their module, since nothing else may run an event loop meanwhile."""
    if not PAGE.is_file():
        pytest.fail("The page is not built: run `make web`.", pytrace=False)
    with chromium() as running:
        yield running


@pytest.fixture
def problems() -> list[str]:
    """What no page may do: uncaught errors, errors on its console, violations of its policy, requests elsewhere."""
    return []


@pytest.fixture
def open_page(browser: Browser, problems: list[str], request: pytest.FixtureRequest) -> Iterator[OpenPage]:
    """What `opening` gives. The test fails at its end if there were problems."""
    with opening(browser, problems) as open_one:
        yield open_one
    assert_none(problems, request)


def assert_none(problems: Sequence[str], request: pytest.FixtureRequest) -> None:
    """No problem was found, apart from those of requests that a test marked `failed_requests` lets fail."""
    expected = (
        tuple(CONSOLE + line for line in FAILED_REQUEST) if request.node.get_closest_marker("failed_requests") else ()
    )
    found = [problem for problem in problems if not problem.startswith(expected)]
    assert not found, "\n".join(found)


@contextlib.contextmanager
def opening(browser: Browser, problems: list[str]) -> Iterator[OpenPage]:
    """`open_page(service, prepare, path, **options of the context)`: a page in a context of its own.

    `prepare(page)` is called before anything is loaded. What the pages do wrong is in `problems` at the end. Service
    workers are off unless asked for: what they fetch, `page.route` does not see.
    """
    with contextlib.ExitStack() as contexts:
        opened: list[Page] = []

        def open_one(service: Service, prepare: Callable[[Page], object] = id, path: str = "/", **options: Any) -> Page:
            context = contexts.enter_context(browser.new_context(**{"service_workers": "block", **options}))
            context.expose_binding("reportProblem", lambda _, text: problems.extend(filter(None, [text])))
            context.add_init_script(REPORT)
            page = context.new_page()
            watch(page, service, problems)
            prepare(page)
            page.goto(service.url + path)
            opened.append(page)
            return page

        yield open_one
        for page in opened:
            hear_out(page)


def watch(page: Page, service: Service, problems: list[str]) -> None:
    """Note what the page does wrong, apart from what it can report itself."""

    def on_request(request: Request) -> None:
        if not request.url.startswith((f"{service.url}/", f"blob:{service.url}/", "data:")):
            problems.append(f"a request left the page's origin: {request.url}")

    def on_console(message: ConsoleMessage) -> None:
        if message.type == "error" and not message.text.startswith(LITERT_STARTS):
            problems.append(f"{CONSOLE}{message.text} ({message.location['url']})")

    page.on("console", on_console)
    page.on("pageerror", lambda error: problems.append(f"uncaught: {error}"))
    page.on("crash", lambda _: problems.append("the page crashed"))
    page.on("request", on_request)


def hear_out(page: Page) -> None:
    """Return when all that the page has reported has arrived: reports keep their order, and this is an empty one."""
    page.evaluate("new Promise((done) => setTimeout(() => reportProblem('').then(done)))")


@pytest.fixture
def page(open_page: OpenPage, service: Service) -> Page:
    """The service's page, its rows known."""
    opened = open_page(service)
    wait_until(opened, "document.documentElement.dataset.ready")
    return opened
