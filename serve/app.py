"""The Flask application: one view a call, each only a few lines over the protocol and the data plane."""

import atexit
import contextlib
import logging
from pathlib import Path
from typing import Any

import orjson
from flask import Blueprint, Flask, Response, current_app, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge, ServiceUnavailable

from contract.errors import (
    ArtifactError,
    ImageTooLarge,
    InputError,
    ModelUnavailable,
    RosettaError,
    RuntimeFailure,
    UnknownModel,
    UnsupportedImage,
)
from serve import dataplane, files, protocol
from serve.catalog import Catalog, ServedModel, load_catalog
from serve.settings import Settings

log = logging.getLogger(__name__)

VERSION = "0.1.0"
PAGE = Path(__file__).resolve().parent.parent / "web" / "dist"

STATUS_CODES: tuple[tuple[type[RosettaError], int], ...] = (
    (ImageTooLarge, 413),
    (UnsupportedImage, 415),
    (InputError, 400),
    (UnknownModel, 404),
    (ArtifactError, 404),
    (ModelUnavailable, 503),
    (RuntimeFailure, 503),
)
"""The first match counts."""

HEADERS = {
    # In-browser runtimes use threads only in a page that is isolated from other origins.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    # blob: is where the runtimes' worker scripts live; 'wasm-unsafe-eval' allows WebAssembly, and no eval().
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval' blob:; worker-src 'self' blob:; "
        "img-src 'self' blob: data:; media-src 'self' blob:; style-src 'self' 'unsafe-inline'; "
        "connect-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

api = Blueprint("api", __name__)


def create_app(catalog: Catalog | None = None, settings: Settings | None = None) -> Flask:
    """The application over a catalog, by default the one of the settings' artifacts. Models are loaded here."""
    settings = settings or Settings.from_environment()
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = app.config["MAX_FORM_MEMORY_SIZE"] = settings.max_bytes
    app.extensions["settings"] = settings
    app.extensions["catalog"] = load_catalog(settings.artifacts, settings.threads) if catalog is None else catalog
    atexit.register(app.extensions["catalog"].close)
    app.register_blueprint(api)
    app.register_error_handler(RosettaError, _answer_known_error)
    app.register_error_handler(HTTPException, _answer_http_error)
    app.register_error_handler(Exception, _answer_unknown_error)
    app.after_request(_add_headers)
    return app


def models() -> Catalog:
    """The catalog of the running application."""
    catalog: Catalog = current_app.extensions["catalog"]
    return catalog


def settings() -> Settings:
    """The settings of the running application."""
    current: Settings = current_app.extensions["settings"]
    return current


def reply(data: Any, code: int = 200) -> Response:
    """`data` as JSON. orjson is several times faster on long lists of numbers; NaN becomes null."""
    return Response(orjson.dumps(data), code, content_type="application/json")


# --- Errors


def _answer_known_error(error: RosettaError) -> Response:
    return _error(str(error), next((code for kind, code in STATUS_CODES if isinstance(error, kind)), 500))


def _error(message: str, code: int) -> Response:
    _read_to_the_end()
    response = reply({"error": message}, code)
    if code == 503:
        response.headers["Retry-After"] = "1"
    return response


def _read_to_the_end() -> None:
    """Read what is left of the body, within bounds: else the sender may see a broken connection, not the answer."""
    left = 4 * settings().max_bytes
    with contextlib.suppress(Exception):  # the sender hung up, or sent what is no chunk
        while left > 0 and (data := request.environ["wsgi.input"].read(65536)):
            left -= len(data)


def _answer_http_error(error: HTTPException) -> Response:
    messages = {
        404: f"There is nothing at {request.path[:200]}. The page is at /, the models are in /v2/repository/index.",
        405: f"{request.method} is not allowed at {request.path[:200]}; allowed: {', '.join(_allowed(error))}.",
        413: f"The request is larger than {settings().max_bytes} bytes, the limit. Send less at once.",
    }
    code = error.code or 500
    response = _error(messages.get(code, error.description or error.name), code)
    if code == 405:
        response.headers["Allow"] = ", ".join(_allowed(error))
    return response


def _allowed(error: HTTPException) -> list[str]:
    return sorted(getattr(error, "valid_methods", None) or [])


def _answer_unknown_error(error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.path, exc_info=error)
    return _error("The service failed at this request; its log says why.", 500)


def _add_headers(response: Response) -> Response:
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


# --- Open Inference Protocol v2


@api.get("/v2")
def server_metadata() -> Response:
    return reply({"name": "rosetta-serve", "version": VERSION, "extensions": ["model_repository"]})


@api.get("/v2/health/live")
def live() -> Response:
    return reply({"live": True})


@api.get("/v2/health/ready")
def ready() -> Response:
    """Ready when at least one model is; a damaged artifact does not take the others down."""
    answer = any(model.ready for model in models().values())
    return reply({"ready": answer}, 200 if answer else 503)


@api.post("/v2/repository/index")
def repository_index() -> Response:
    return reply(
        [
            {
                "name": model.name,
                "version": "1",
                "state": "READY" if model.ready else "UNAVAILABLE",
                "reason": model.error,
            }
            for model in models().values()
        ]
    )


@api.get("/v2/models/<name>")
@api.get("/v2/models/<name>/versions/1")
def model_metadata(name: str) -> Response:
    model = models()[name]
    manifest, runtime = model.described, model.runtime
    return reply(
        {
            "name": model.name,
            "versions": ["1"],
            "platform": runtime.platform,
            "inputs": [protocol.tensor_metadata(spec) for spec in manifest.inputs],
            "outputs": [protocol.tensor_metadata(spec) for spec in manifest.outputs],
            "parameters": _parameters(model),
        }
    )


def _parameters(model: ServedModel) -> dict[str, Any]:
    """What the protocol has no field for, and the page needs."""
    manifest, parity = model.described, model.status.parity
    return {
        "model": manifest.model,
        "format": manifest.format,
        "runtime": model.runtime.title,
        "source": model.source,
        "status": model.status.word,
        "status_reason": model.status.reason,
        "image": manifest.image,
        "labels": manifest.labels,
        "files": {name: {"sha256": digest, "bytes": model.sizes[name]} for name, digest in manifest.files.items()},
        "parity": parity and {"max_abs_diff": parity.max_abs_diff, "agreement": parity.agreement},
        "made_with": manifest.made_with,
    }


@api.get("/v2/models/<name>/ready")
@api.get("/v2/models/<name>/versions/1/ready")
def model_ready(name: str) -> Response:
    model = models()[name]
    return reply({"name": name, "ready": model.ready}, 200 if model.ready else 503)


@api.post("/v2/models/<name>/infer")
@api.post("/v2/models/<name>/versions/1/infer")
def infer(name: str) -> Response:
    model = models()[name]
    model.runtime  # noqa: B018 - a model that cannot be run says so, whatever it was sent
    inference = protocol.parse_infer(_body(), model.described)
    outputs, _ = dataplane.infer(model, inference.inputs)
    return reply(protocol.infer_response(name, inference, outputs))


# --- Pictures


@api.post("/predict/<name>")
def predict(name: str) -> Response:
    return reply(dataplane.classify(models()[name], _picture(), settings().max_pixels).to_json())


@api.post("/compare")
def compare() -> Response:
    return reply({"results": list(dataplane.compare(models(), _picture(), settings().max_pixels))})


def _body() -> bytes:
    # curl --data-binary calls any body a form: it is not parsed as one.
    data = request.get_data(cache=False, parse_form_data=False)
    # Werkzeug cuts a body of unknown length off at the limit, and says nothing.
    if request.content_length is None and len(data) >= settings().max_bytes and request.environ["wsgi.input"].read(1):
        raise RequestEntityTooLarge
    return data


def _picture() -> bytes:
    """The picture's bytes: the raw body, or the one file of a multipart form."""
    if request.mimetype != "multipart/form-data":
        return _body()
    uploads = list(request.files.values())
    if len(uploads) != 1:
        raise InputError(f"The form has {len(uploads)} files, expected one: the picture.")
    data: bytes = uploads[0].read()
    return data


# --- Files


@api.get("/")
def page() -> Response:
    if not (PAGE / "index.html").is_file():
        raise ServiceUnavailable("The page is not built. Run `make web`, then load it again; models answer without it.")
    return files.page_file(PAGE, "index.html")


@api.get("/assets/<path:name>")
@api.get("/runtimes/<path:name>")
@api.get("/<name>.<suffix>")
def page_asset(**_: str) -> Response:
    return files.page_file(PAGE, request.path.lstrip("/"))


@api.get("/samples/<name>")
def sample(name: str) -> Response:
    return files.page_file(settings().artifacts / "samples", name)


@api.get("/artifacts/<model>/<format>/<path:name>")
def artifact(model: str, format: str, name: str) -> Response:
    """What the in-browser runtimes download: only files that the manifest names, and the manifest itself."""
    return files.artifact_file(models()[f"{model}-{format}"], name)
