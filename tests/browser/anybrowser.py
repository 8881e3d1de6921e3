"""Firefox and WebKit as visitors have them, without automation: the page asks for scripts, and reports over HTTP.

Automation changes what it tests: TF.js's threads hang in half of the automated starts of Firefox, and in no other. So
a proxy before the service adds one script to the page, which runs what `Tab.evaluate` gives and sends the result back.
"""

import contextlib
import functools
import http.client
import itertools
import json
import logging
import os
import select
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.serving import Service

log = logging.getLogger(__name__)

CHANNEL = "/any-browser/"
START_SECONDS = 60
STARTS = 3
"""A browser that shows no page at all is started again: WebKit did so once in some hundred starts."""
PATIENCE = 120
POLL_SECONDS = 1.0

CLIENT = """
// Replies are counted before any other script makes a worker.
window.replies = {};
window.problems = [];
addEventListener('unhandledrejection', ({ reason }) => problems.push(`unhandled rejection: ${reason}`));
addEventListener('error', ({ message }) => message && problems.push(`uncaught: ${message}`));
const Original = window.Worker;
window.Worker = class extends Original {
  constructor(url, options) {
    super(url, options);
    const name = options?.name ?? '';
    this.addEventListener('message', ({ data }) => {
      if (!data || data.id === undefined || 'progress' in data) return;
      const key = `${name} ${data.id}`;
      window.replies[key] = (window.replies[key] ?? 0) + 1;
    });
  }
};
async function obey() {
  const page = Math.random();
  for (;;) {
    const { id } = await (await fetch(`/any-browser/next?${page}`)).json();
    if (id === null) continue;
    let answer;
    try {
      const { default: run } = await import(`/any-browser/script-${id}.js`);
      answer = { result: (await run()) ?? null };
    } catch (error) {
      answer = { error: String(error?.stack ?? error) };
    }
    await fetch(`/any-browser/result-${id}`, { method: 'POST', body: JSON.stringify(answer) });
  }
}
void obey();
"""

WAIT = """new Promise((done, fail) => {
  const start = performance.now();
  const look = () => {
    if (%s) return done();
    if (performance.now() - start > %d) return fail(new Error('It did not become true: ' + %s));
    setTimeout(look, 50);
  };
  look();
})"""

FIREFOX_SETTINGS: Mapping[str, Any] = {
    "browser.shell.checkDefaultBrowser": False,
    "browser.aboutwelcome.enabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
    "app.update.enabled": False,
    "extensions.update.enabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
}
MINIBROWSER = "/usr/lib/*/webkit2gtk-4.*/MiniBrowser"


class Channel:
    """The script that the page has to run, and what it gave. One at a time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._pending: int | None = None
        self._taken_by = ""
        self._answer: Any = None
        self.script = ""

    def run(self, expression: str, seconds: float) -> Any:
        """The expression's value in the page. Raises RuntimeError for its error, TimeoutError without an answer."""
        with self._changed:
            self.script = f"export default async () => ({expression});"
            self._pending, self._taken_by, self._answer = next(self._numbers), "", None
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: self._pending is None, seconds):
                raise TimeoutError(f"no answer within {seconds:g} s to: {expression[:200]}")
            if "error" in self._answer:
                raise RuntimeError(self._answer["error"])
            return self._answer["result"]

    def next(self, page: str) -> int | None:
        """The number of the script to run, once for each page: one that was left may have taken it along."""
        with self._changed:
            if self._changed.wait_for(lambda: self._pending is not None and self._taken_by != page, POLL_SECONDS):
                self._taken_by = page
                return self._pending
            return None

    def answer(self, number: int, answer: Any) -> None:
        with self._changed:
            if number == self._pending:
                self._pending, self._answer = None, answer
                self._changed.notify_all()


class Proxy(BaseHTTPRequestHandler):
    """Passes everything on to the service, and adds the script to its page."""

    protocol_version = "HTTP/1.1"

    def __init__(self, service: Service, channel: Channel, *given: Any) -> None:
        self.service, self.channel = service, channel
        super().__init__(*given)

    def do_GET(self) -> None:
        if not self.path.startswith(CHANNEL):
            return self._pass_on()
        name, _, page = self.path.removeprefix(CHANNEL).partition("?")
        if name == "next":
            return self._send(json.dumps({"id": self.channel.next(page)}).encode(), "application/json")
        source = CLIENT if name == "client.js" else self.channel.script
        return self._send(source.encode(), "text/javascript")

    def do_POST(self) -> None:
        if not self.path.startswith(CHANNEL):
            return self._pass_on()
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.channel.answer(int(self.path.rpartition("-")[2]), json.loads(body))
        return self._send(b"{}", "application/json")

    def _pass_on(self) -> None:
        headers = dict(self.headers.items())
        is_page = self.path.partition("?")[0] == "/"
        if is_page:
            headers.pop("Accept-Encoding", None)
            headers.pop("If-None-Match", None)
        body = self.rfile.read(int(headers.get("Content-Length", 0)))
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            data = response.read()
        if is_page:
            script = f'<script type="module" src="{CHANNEL}client.js"></script>'.encode()
            data = data.replace(b"<head>", b"<head>" + script)
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _send(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        for name, value in (("Content-Type", kind), ("Content-Length", len(data)), ("Cache-Control", "no-store")):
            self.send_header(name, str(value))
        self.end_headers()
        with contextlib.suppress(OSError):  # a page that was left
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing: the service has a log."""


class Server(ThreadingHTTPServer):
    """Browsers end connections as they like; that is not an error of a test."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Tab:
    """One tab of a browser that runs by itself."""

    def __init__(self, channel: Channel, url: str) -> None:
        self._channel, self.url = channel, url

    def evaluate(self, expression: str, *given: Any, seconds: float = PATIENCE) -> Any:
        """The value of an expression; with more arguments, of the function that it is."""
        if given:
            expression = f"await ({expression})({', '.join(map(json.dumps, given))})"
        return self._channel.run(expression, seconds)

    def wait_until(self, expression: str, seconds: float = PATIENCE) -> None:
        """The page looks by itself until the expression is true. Raises RuntimeError where it does not become so."""
        self._channel.run(WAIT % (expression, 1000 * seconds, json.dumps(expression)), seconds + START_SECONDS)


def missing(name: str) -> str:
    """Why a browser cannot be had here; empty if it can."""
    programs = {"firefox": ["firefox-esr"], "webkit": ["Xvfb"]}[name]
    absent = [program for program in programs if not shutil.which(program)]
    if name == "webkit" and not _minibrowser():
        absent.append("MiniBrowser of webkit2gtk-driver")
    return f"{', '.join(absent)} is not installed: run `./bootstrap browsers` as root" if absent else ""


def _minibrowser() -> str:
    return next((str(path) for path in Path("/").glob(MINIBROWSER[1:])), "")


@contextlib.contextmanager
def opened(name: str, service: Service, folder: Path, path: str = "/") -> Iterator[Tab]:
    """The service's page in a new browser with an empty profile, until the end of the block."""
    channel = Channel()
    server = Server(("127.0.0.1", 0), functools.partial(Proxy, service, channel))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        with contextlib.ExitStack() as running:
            for attempt in range(1, STARTS + 1):
                running.enter_context(LAUNCHERS[name](url + path, _new(folder / f"{attempt}")))
                tab = Tab(channel, url)
                try:
                    tab.evaluate("true", seconds=START_SECONDS)
                    break
                except TimeoutError as error:
                    if attempt == STARTS:
                        raise
                    running.close()
                    log.warning("%s is started again: %s", name, error)
            yield tab
    finally:
        server.shutdown()
        server.server_close()


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


@contextlib.contextmanager
def _firefox(url: str, folder: Path) -> Iterator[None]:
    profile = folder / "firefox"
    profile.mkdir()
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});\n" for name, value in FIREFOX_SETTINGS.items()]
    (profile / "user.js").write_text("".join(lines))
    command = ["firefox-esr", "--headless", "--no-remote", "--profile", str(profile), url]
    with _running(command, folder, HOME=str(folder)):
        yield


@contextlib.contextmanager
def _webkit(url: str, folder: Path) -> Iterator[None]:
    read, write = os.pipe()
    with _running(["Xvfb", "-displayfd", str(write), "-screen", "0", "1280x900x24"], folder, pass_fds=(write,)):
        os.close(write)
        with os.fdopen(read) as number:
            if not select.select([number], [], [], START_SECONDS)[0]:
                raise TimeoutError(f"Xvfb did not start within {START_SECONDS} s")
            display = f":{number.readline().strip()}"
        command = [_minibrowser(), "--private", "--geometry=1280x900", url]
        with _running(command, folder, DISPLAY=display, HOME=str(folder), GDK_BACKEND="x11"):
            yield


@contextlib.contextmanager
def _running(command: list[str], folder: Path, pass_fds: tuple[int, ...] = (), **environment: str) -> Iterator[None]:
    with (folder / f"{Path(command[0]).name}.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=os.environ | environment, stdout=log, stderr=log, pass_fds=pass_fds, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


LAUNCHERS: Mapping[str, Callable[[str, Path], contextlib.AbstractContextManager[None]]] = {
    "firefox": _firefox,
    "webkit": _webkit,
}
