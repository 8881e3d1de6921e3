"""The Flask application: complete under any WSGI server, and behind the fast front of `serve/asgi.py`."""

import atexit
import contextlib
import logging
from urllib.parse import quote, urlsplit, urlunsplit

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from contract.errors import RosettaError, UnknownModel
from serve.catalog import Catalog, load_catalog
from serve.dataplane import DataPlane
from serve.keys import CallRefused, KeyMissing
from serve.protocol import Reply
from serve.replies import (
    CODE_HEADERS,
    DATA_HEADERS,
    DATA_TYPES,
    HEADERS,
    echoed,
    error_reply,
    fault_reply,
    json_reply,
    status_code,
    too_large,
)
from serve.settings import Settings
from serve.stats import NO_MODEL
from serve.views import api, plane, respond

log = logging.getLogger(__name__)


def create_app(catalog: Catalog | None = None, settings: Settings | None = None) -> Flask:
    """The application over a catalog, by default the one of the settings' artifacts, which are loaded here."""
    settings = settings or Settings.from_environment()
    if catalog is None:
        catalog = load_catalog(settings.artifacts, settings)
    running = DataPlane(catalog, settings)
    atexit.register(running.close)
    return app_over(running)


def app_over(running: DataPlane) -> Flask:
    """The application over a data plane that the caller closes."""
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = app.config["MAX_FORM_MEMORY_SIZE"] = running.settings.max_bytes
    app.extensions["plane"] = running
    app.before_request(_check_key)
    app.register_blueprint(api)
    app.register_error_handler(RosettaError, _answer_known_error)
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(Exception, _answer_unknown_error)
    app.after_request(_add_headers)
    app.teardown_request(_forget_wrong_path)
    return app


def _forget_wrong_path(_: BaseException | None) -> None:
    """A request to no path has the error of that, whose traceback has the request: the cycle would hold its body."""
    request.routing_exception = None


def _check_key() -> None:
    """The fast front has checked it, too: this holds under any other server. OPTIONS calls nothing."""
    if request.method == "OPTIONS":
        return
    url = quote(request.path).encode()
    plane().keys.check(request.headers.get("Authorization", "").encode("latin-1"), url)


def _answer_known_error(error: RosettaError) -> Response:
    if isinstance(error, UnknownModel | KeyMissing | CallRefused):  # all others are counted where the model is known
        plane().stats[NO_MODEL].count_failure(status_code(error), 0.0)
    return _answer(error_reply(error))


def _answer(reply: Reply) -> Response:
    _read_to_the_end()
    return respond(reply)


def _read_to_the_end() -> None:
    """Read the rest of the body, within bounds: else the sender may get a broken connection instead of the answer."""
    left = 4 * plane().settings.max_bytes
    with contextlib.suppress(Exception):  # the sender hung up, or sent a malformed chunk
        while left > 0 and (data := request.environ["wsgi.input"].read(65536)):
            left -= len(data)


def _answer_http_error(error: HTTPException) -> Response:
    allowed = ", ".join(sorted(getattr(error, "valid_methods", None) or []))
    path = request.path[:200]
    messages = {
        404: f"There is nothing at {path}. The page is at /, the models are in /v2/repository/index.",
        405: f"{request.method} is not allowed at {path}; allowed: {allowed}.",
        413: str(too_large(plane().settings.max_bytes)),
    }
    code = error.code or 500
    plane().stats[NO_MODEL].count_failure(code, 0.0)
    headers = {"Allow": allowed} if code == 405 else CODE_HEADERS.get(code, {})
    reply = json_reply({"error": messages.get(code, error.description or error.name)}, code)
    return _answer(Reply(reply.body, code, headers=headers))


def _answer_unknown_error(error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return _answer(fault_reply())


def _add_headers(response: Response) -> Response:
    if location := response.headers.get("Location"):
        target = urlsplit(location)  # without its host, which is the caller's word
        response.headers["Location"] = urlunsplit(("", "", f"/{target.path.lstrip('/')}", target.query, ""))
    for name, value in (DATA_HEADERS if response.mimetype in DATA_TYPES else HEADERS).items():
        response.headers.setdefault(name, value)
    if request_id := echoed(request.headers.get("X-Request-ID", "")):
        response.headers["X-Request-ID"] = request_id
    return response
