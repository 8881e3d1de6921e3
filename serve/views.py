"""The Flask views: a few lines each, over the protocol and the data plane."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, current_app, request
from werkzeug.exceptions import NotFound, RequestEntityTooLarge, ServiceUnavailable

from contract.errors import ArtifactMissing, InputError, RosettaError
from contract.failed_edge import FAILED, FailedEdge, log_file
from serve import files, metrics
from serve.catalog import ServedModel
from serve.dataplane import DataPlane
from serve.openapi import openapi
from serve.pipeline import Pipeline, Read, read_infer, read_predict
from serve.protocol import MAX_BATCH, VERSION, Reply, encoding, oip, tfserving
from serve.replies import json_reply, status_code, too_large
from serve.settings import PAGE, RELEASE

EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]

api = Blueprint("api", __name__)


def plane() -> DataPlane:
    """The data plane of the running application."""
    running: DataPlane = current_app.extensions["plane"]
    return running


def respond(reply: Reply) -> Response:
    """A reply as a response, compressed if the caller accepts that."""
    body, compression = encoding.compress(reply.body, request.headers.get("Accept-Encoding", ""))
    response = Response(body, reply.code, content_type=reply.content_type, headers=reply.headers)
    if compression:
        response.headers["Content-Encoding"] = compression
        response.headers["Vary"] = "Accept-Encoding"
    return response


# --- Open Inference Protocol v2


@api.get("/v2")
def server_metadata() -> Response:
    return respond(json_reply({"name": "rosetta-serve", "version": RELEASE, "extensions": EXTENSIONS}))


@api.get("/v2/health/live")
def live() -> Response:
    return respond(json_reply({"live": True}))


@api.get("/v2/health/ready")
def ready() -> Response:
    return respond(json_reply({"ready": plane().ready}, 200 if plane().ready else 503))


@api.post("/v2/repository/index")
def repository_index() -> Response:
    options = _json_object()
    entries = [
        {
            "name": model.name,
            "version": VERSION,
            "state": "READY" if model.ready else "UNAVAILABLE",
            "reason": model.error,
        }
        for model in plane().catalog.values()
        if model.ready or options.get("ready") is not True
    ]
    if options.get("ready") is not True:
        entries += map(_failed_edge, plane().catalog.failed_edges.values())
    return respond(json_reply(entries))


def _failed_edge(edge: FailedEdge) -> dict[str, Any]:
    """A model whose conversion failed: unavailable for clients of the protocol, with the details for the page."""
    has_log = log_file(plane().settings.artifacts, edge).is_file()
    address = f"/artifacts/{edge.model}/{FAILED}/{edge.format}.log" if has_log else None
    return {
        "name": edge.name,
        "version": VERSION,
        "state": "UNAVAILABLE",
        "reason": edge.reason,
        "failed_edge": edge.to_json() | {"log": address},
    }


@api.get("/v2/models/<name>")
@api.get(f"/v2/models/<name>/versions/{VERSION}")
def model_metadata(name: str) -> Response:
    model = plane().catalog[name]
    manifest, runtime = model.described, model.runtime
    return respond(
        json_reply(
            {
                "name": model.name,
                "versions": [VERSION],
                "platform": runtime.platform,
                "inputs": [oip.tensor_metadata(spec) for spec in manifest.inputs],
                "outputs": [oip.tensor_metadata(spec) for spec in manifest.outputs],
                "parameters": _parameters(model),
            }
        )
    )


def _parameters(model: ServedModel) -> dict[str, Any]:
    """What the page needs and the protocol has no field for."""
    manifest, parity = model.described, model.status.parity
    return {
        "model": manifest.model,
        "format": manifest.format,
        "runtime": model.runtime.title,
        "source": model.source,
        "status": model.status.word,
        "status_reason": model.status.reason,
        "batching": {"enabled": not model.mixing, "reason": model.mixing},
        "image": manifest.image,
        "classifies": manifest.classifies,
        "labels": manifest.labels,
        "layouts": {spec.name: spec.layout for spec in (*manifest.inputs, *manifest.outputs)},
        "files": {name: {"sha256": digest, "bytes": model.sizes[name]} for name, digest in manifest.files.items()},
        "parity": parity
        and {
            "max_abs_diff": parity.max_abs_diff,
            "agreement": parity.agreement,
            "differs": list(map(str, parity.differs)),
            "processor": parity.processor,
        },
        "made_with": manifest.made_with,
    }


@api.get("/v2/models/<name>/ready")
@api.get(f"/v2/models/<name>/versions/{VERSION}/ready")
def model_ready(name: str) -> Response:
    model = plane().catalog[name]
    return respond(json_reply({"name": name, "ready": model.ready}, 200 if model.ready else 503))


@api.get("/v2/models/<name>/config")
@api.get(f"/v2/models/<name>/versions/{VERSION}/config")
def model_config(name: str) -> Response:
    model = plane().catalog[name]
    return respond(json_reply(oip.model_config(model.described, model.runtime.platform, MAX_BATCH)))


@api.get("/v2/models/stats")
@api.get("/v2/models/<name>/stats")
@api.get(f"/v2/models/<name>/versions/{VERSION}/stats")
def model_stats(name: str | None = None) -> Response:
    names = list(plane().catalog) if name is None else [plane().catalog[name].name]
    totals = plane().stats.total()
    return respond(json_reply({"model_stats": [totals[name].to_json(name) for name in names]}))


@api.post("/v2/models/<name>/infer")
@api.post(f"/v2/models/<name>/versions/{VERSION}/infer")
def infer(name: str) -> Response:
    return _tensors(name, read_infer)


# --- TensorFlow Serving


@api.get("/v1/models/<name>")
@api.get(f"/v1/models/<name>/versions/{VERSION}")
def tfserving_status(name: str) -> Response:
    model = plane().catalog[name]
    return respond(json_reply(tfserving.status(model.ready, model.error)))


@api.get("/v1/models/<name>/metadata")
@api.get(f"/v1/models/<name>/versions/{VERSION}/metadata")
def tfserving_metadata(name: str) -> Response:
    return respond(json_reply(tfserving.metadata(plane().catalog[name].described)))


@api.post("/v1/models/<name>:predict")
@api.post(f"/v1/models/<name>/versions/{VERSION}:predict")
def tfserving_predict(name: str) -> Response:
    return _tensors(name, read_predict)


def _tensors(name: str, read: Read) -> Response:
    model = plane().catalog[name]
    with _failures_counted(model):
        body = _body()
    headers = {name.lower(): value for name, value in request.headers.items()}
    return respond(Pipeline(plane(), model, read).run_now(body, headers, plane().clock()))


@contextlib.contextmanager
def _failures_counted(model: ServedModel) -> Iterator[None]:
    """Count a request that fails; a request that succeeds is counted where it is run."""
    start = plane().clock()
    try:
        yield
    except RosettaError as error:
        plane().count_failure(model, status_code(error), start)
        raise


# --- Pictures


@api.post("/predict/<name>")
def predict(name: str) -> Response:
    model = plane().catalog[name]
    with _failures_counted(model):
        return respond(json_reply(plane().classify(model, _picture()).to_json()))


@api.post("/compare")
def compare() -> Response:
    return respond(json_reply({"results": list(plane().compare(_picture()))}))


def _picture() -> bytes:
    """The picture's bytes: the raw body, or the one file of a multipart form."""
    if request.mimetype != "multipart/form-data":
        return _body()
    uploads = list(request.files.values())
    if len(uploads) != 1:
        raise InputError(f"The form has {len(uploads)} files, expected one: the picture.")
    data: bytes = uploads[0].read()
    return data


def _body() -> bytes:
    limit = plane().settings.max_bytes
    try:
        # curl --data-binary labels any body as a form: do not parse it as one.
        data = request.get_data(cache=False, parse_form_data=False)
    except RequestEntityTooLarge:
        raise too_large(limit) from None
    # Werkzeug silently cuts a body of unknown length off at the limit.
    if request.content_length is None and len(data) >= limit and request.environ["wsgi.input"].read(1):
        raise too_large(limit)
    return encoding.decompress(data, request.headers.get("Content-Encoding", ""), limit)


def _json_object() -> Mapping[str, Any]:
    """The body as a JSON object; an empty body is an empty object."""
    body = _body()
    return oip.parse_object(body) if body else {}


# --- Operation


@api.get("/metrics")
def prometheus() -> Response:
    return respond(Reply(metrics.exposition(plane().catalog, plane().stats.total()), content_type=metrics.CONTENT_TYPE))


@api.get("/openapi.json")
def description() -> Response:
    return respond(json_reply(openapi()))


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


def file_or_null(optional: str, folder: Path, name: str) -> Response:
    """A file of a folder; null for the optional one if it is missing: a 404 would be an error in the page's console."""
    if name == optional and not (folder / name).is_file():
        return respond(json_reply(None))
    return files.page_file(folder, name)


@api.get("/samples/<name>")
def sample(name: str) -> Response:
    folder = plane().settings.artifacts / "samples"
    return file_or_null("index.json", folder, name)


@api.get("/report/")
@api.get("/report/<name>")
def report(name: str = "report.html") -> Response:
    """The files that `make compare` wrote: the page, its plots, and the figures."""
    if not name.endswith((".html", ".json", ".png")):
        raise NotFound
    folder = plane().settings.artifacts / "report"
    return file_or_null("report.json", folder, name)


@api.get(f"/artifacts/<model>/{FAILED}/<format>.log")
def failed_log(model: str, format: str) -> Response:
    """The output of a conversion that failed."""
    edge = plane().catalog.failed_edges.get(f"{model}-{format}")
    if edge is None:
        raise ArtifactMissing(f"No conversion of {model[:100]!r} to {format[:100]!r} failed.")
    path = log_file(plane().settings.artifacts, edge)
    return files.page_file(path.parent, path.name)


@api.get("/artifacts/<model>/<format>/<path:name>")
def artifact(model: str, format: str, name: str) -> Response:
    """A file for the in-browser runtimes: one that the manifest names, or the manifest itself."""
    return files.artifact_file(plane().catalog[f"{model}-{format}"], name)
