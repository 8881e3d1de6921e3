"""The Flask views: a few lines each, over the protocol and the data plane."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, current_app, g, request
from werkzeug.exceptions import NotFound, RequestEntityTooLarge, ServiceUnavailable

from contract.device_check import FOLDER as DEVICES
from contract.device_check import keep_check, read_check
from contract.errors import ArtifactMissing, InputError, ModelUnavailable, RosettaError
from contract.failed_edge import FAILED, FailedEdge, log_file
from contract.formats import FORMATS, family_of, needs
from contract.parity_result import ORDINARY, UNVERIFIED
from serve import files, metrics
from serve.catalog import ServedModel
from serve.control import refuse_files
from serve.dataplane import DataPlane
from serve.openapi import openapi
from serve.pipeline import READERS_OF_V1, Pipeline, Read, read_infer
from serve.protocol import MAX_BATCH, VERSION, Reply, encoding, oip, tfserving
from serve.replies import json_reply, status_code, too_large
from serve.settings import PAGE, RELEASE

EXTENSIONS = ("binary_tensor_data", "model_configuration", "statistics")

api = Blueprint("api", __name__)


def plane() -> DataPlane:
    """The data plane of the running application."""
    running: DataPlane = current_app.extensions["plane"]
    return running


def respond(reply: Reply) -> Response:
    """A reply as a response."""
    return Response(reply.body, reply.code, content_type=reply.content_type, headers=reply.headers)


def respond_compressed(reply: Reply) -> Response:
    """A reply as a response, compressed if the caller accepts that.

    What describes the service is never compressed: tritonclient's aio client accepts it, and takes it for text.
    """
    body, compression = encoding.compress(reply.body, request.headers.get("Accept-Encoding", ""))
    response = respond(Reply(body, reply.code, reply.content_type, reply.headers))
    if compression:
        response.headers["Content-Encoding"] = compression
        response.headers["Vary"] = "Accept-Encoding"
    return response


# --- Open Inference Protocol v2


@api.get("/v2")
@api.get("/v2/")
def server() -> Response:
    return respond(json_reply(server_metadata(plane())))


def server_metadata(plane: DataPlane) -> dict[str, Any]:
    """The server, and the extensions of the protocol that it has."""
    extensions = [*EXTENSIONS, *(["model_repository"] if plane.settings.control else [])]
    return {"name": "rosetta-serve", "version": RELEASE, "extensions": extensions}


@api.get("/v2/health/live")
def live() -> Response:
    return respond(json_reply({"live": True}))


@api.get("/v2/health/ready")
def ready() -> Response:
    return respond(json_reply({"ready": plane().ready}, 200 if plane().ready else 503))


@api.post("/v2/repository/index")
def repository_index() -> Response:
    return respond(json_reply(index_entries(plane(), _json_object().get("ready") is True)))


@api.post("/v2/repository/models/<name>/<any(load, unload):verb>")
def repository_control(name: str, verb: str) -> Response:
    """Triton's extension."""
    parameters = _json_object().get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InputError("The request's parameters are not a JSON object. None are needed.")
    refuse_files(parameters)
    getattr(plane().control, verb)(name)
    return respond(json_reply({}))


def index_entries(plane: DataPlane, ready: bool) -> list[dict[str, Any]]:
    """Every model and its state, or those that are ready."""
    entries = [
        {
            "name": model.name,
            "version": model.version,
            "state": "READY" if model.ready else "UNAVAILABLE",
            "reason": model.error or _doubt(model),
            **_not_run(model),
        }
        for model in plane.catalog.every_version()
        if model.ready or not ready
    ]
    if not ready:
        entries += [_failed_edge(edge, plane.settings.artifacts) for edge in plane.catalog.failed_edges.values()]
    return entries


def _not_run(model: ServedModel) -> dict[str, Any]:
    """What the page has to know of a model that is converted alone, which the protocol's metadata would not give."""
    if model.manifest is None or not (model.sizes and needs(model.manifest.format)):
        return {}
    described = oip.model_metadata(model.manifest, family_of(model.manifest.format))
    return {"not_run": described | {"parameters": _parameters(model) | {"needs": needs(model.manifest.format)}}}


def _doubt(model: ServedModel) -> str:
    """Why a model that runs may answer otherwise than its source; empty where it was shown not to."""
    word, reason = model.status.word, model.status.reason
    return f"{word}: {reason}" if word in (UNVERIFIED, ORDINARY) else ""


def _failed_edge(edge: FailedEdge, artifacts: Path) -> dict[str, Any]:
    """A model whose conversion failed: unavailable for clients of the protocol, with the details for the page."""
    has_log = log_file(artifacts, edge).is_file()
    address = f"/artifacts/{edge.model}/{FAILED}/{edge.format}.log" if has_log else None
    return {
        "name": edge.name,
        "version": VERSION,
        "state": "UNAVAILABLE",
        "reason": edge.reason,
        "failed_edge": edge.to_json() | {"log": address},
    }


@api.get("/v2/models/<name>")
@api.get("/v2/models/<name>/versions/<version>")
def model_metadata(name: str, version: str | None = None) -> Response:
    model = plane().catalog.version(name, version)
    versions = [each.version for each in plane().catalog.versions(name)]
    described = oip.model_metadata(model.described, model.runtime.platform, versions)
    return respond(json_reply(described | {"parameters": _parameters(model)}))


def _parameters(model: ServedModel) -> dict[str, Any]:
    """What the page needs and the protocol has no field for."""
    manifest, parity, arm = model.described, model.status.parity, model.status.arm
    return {
        "model": manifest.model,
        "format": manifest.format,
        "runtime": model.loaded.title if model.loaded else FORMATS[family_of(manifest.format)].runtime,
        "source": model.source,
        "status": model.status.word,
        "status_reason": "; ".join(filter(None, (model.status.reason, model.warm_up))),
        "batching": {"enabled": not model.mixing, "reason": model.mixing},
        "image": manifest.image,
        "classifies": manifest.classifies,
        "labels": manifest.labels,
        "bounds": {spec.name: spec.bounds for spec in manifest.inputs if spec.bounds},
        "least": {spec.name: spec.least for spec in manifest.inputs if spec.least},
        "layouts": {spec.name: spec.layout for spec in (*manifest.inputs, *manifest.outputs)},
        "files": {name: {"sha256": digest, "bytes": model.sizes[name]} for name, digest in manifest.files.items()},
        "parity": parity
        and {
            "max_abs_diff": parity.max_abs_diff,
            "agreement": parity.agreement,
            "differs": list(map(str, parity.differs)),
            "processor": parity.processor,
            "placements": [asdict(placement) for placement in parity.placements],
        },
        "arm": arm and {name: getattr(arm, name) for name in ("passed", "reasons", "rows", "differs", "processor")},
        "warm_up": model.warm_up,
        "stored_only": model.ledger is not None and model.ledger.is_stored_only,
        "made_with": manifest.made_with,
    }


@api.get("/v2/models/<name>/ready")
@api.get("/v2/models/<name>/versions/<version>/ready")
def model_ready(name: str, version: str | None = None) -> Response:
    model = plane().catalog.version(name, version)
    return respond(json_reply({"name": name, "ready": model.ready}, 200 if model.ready else 503))


@api.get("/v2/models/<name>/config")
@api.get("/v2/models/<name>/versions/<version>/config")
def model_config(name: str, version: str | None = None) -> Response:
    model = plane().catalog.version(name, version)
    return respond(json_reply(oip.model_config(model.described, model.runtime.platform, MAX_BATCH)))


@api.get("/v2/models/stats")
@api.get("/v2/models/<name>/stats")
@api.get("/v2/models/<name>/versions/<version>/stats")
def model_stats(name: str | None = None, version: str | None = None) -> Response:
    catalog = plane().catalog
    models = catalog.every_version() if name is None else [catalog.version(name, version)]
    totals = plane().stats.total()
    counts = [totals[model.key].to_json(model.name, model.version) for model in models]
    return respond(json_reply({"model_stats": counts}))


@api.post("/v2/models/<name>/infer")
@api.post("/v2/models/<name>/versions/<version>/infer")
def infer(name: str, version: str | None = None) -> Response:
    return _tensors(plane().catalog.version(name, version), read_infer)


# --- TensorFlow Serving


@api.get("/v1/models/<name>")
@api.get("/v1/models/<name>/versions/<version>")
@api.get(f"/v1/models/<name>/labels/{tfserving.LABEL}")
def tfserving_status(name: str, version: str | None = None) -> Response:
    chosen = plane().catalog.version(name, version)
    models = plane().catalog.versions(name) if version is None else [chosen]
    states = {model.version: (model.ready, model.error) for model in reversed(models)}
    return respond(json_reply(tfserving.status(name, states), 200 if chosen.ready else 503))


@api.get("/v1/models/<name>/metadata")
@api.get("/v1/models/<name>/versions/<version>/metadata")
@api.get(f"/v1/models/<name>/labels/{tfserving.LABEL}/metadata")
def tfserving_metadata(name: str, version: str | None = None) -> Response:
    model = plane().catalog.version(name, version)
    return respond(json_reply(tfserving.metadata(model.described, model.version)))


VERBS = f"any({', '.join(READERS_OF_V1)})"


@api.post(f"/v1/models/<name>:<{VERBS}:verb>")
@api.post(f"/v1/models/<name>/versions/<version>:<{VERBS}:verb>")
@api.post(f"/v1/models/<name>/labels/{tfserving.LABEL}:<{VERBS}:verb>")
def tfserving_call(name: str, verb: str, version: str | None = None) -> Response:
    return _tensors(plane().catalog.version(name, version), READERS_OF_V1[verb])


def _tensors(model: ServedModel, read: Read) -> Response:
    with _failures_counted(model):
        body = _body()
    headers = {name.lower(): value for name, value in request.headers.items()}
    return respond_compressed(Pipeline(plane(), model, read).run_now(body, headers, plane().clock()))


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
    inflated = encoding.decompress(data, request.headers.get("Content-Encoding", ""), limit)
    if inflated is not data:  # the body as it came is counted by what has read it
        plane().held.take(len(inflated), len(data))
        g.inflated = len(inflated)
    return inflated


@api.teardown_request
def _give_back(_: BaseException | None) -> None:
    plane().held.give(g.pop("inflated", 0))


def _json_object() -> Mapping[str, Any]:
    """The body as a JSON object; an empty body is an empty object."""
    body = _body()
    return oip.parse_object(body) if body else {}


# --- Checks of visitors' devices


@api.post("/devices")
def keep_device() -> Response:
    """Keep what the page found on a visitor's device, for `make compare`."""
    data = _body()
    read_check(data, {model.name: model.manifest.files for model in plane().catalog.values() if model.manifest})
    try:
        kept = keep_check(plane().settings.artifacts / DEVICES, data)
    except OSError as error:
        raise ModelUnavailable(
            f"The service cannot write into its artifacts ({error.strerror}). Download the check, and put it into "
            f"the folder {DEVICES} of the artifacts."
        ) from None
    return respond(json_reply({"kept": kept}))


# --- Operation


@api.get("/metrics")
def prometheus() -> Response:
    text = metrics.exposition(plane().catalog, plane().stats.total(), plane().gauges.total())
    return respond_compressed(Reply(text, content_type=metrics.CONTENT_TYPE))


@api.get("/openapi.json")
def description() -> Response:
    return respond_compressed(json_reply(openapi()))


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
    """The files that `make compare` and `make diagnose` wrote: the page, its plots, the figures, the diagnoses."""
    if not name.endswith((".html", ".json", ".png")):
        raise NotFound
    folder = plane().settings.artifacts / "report"
    return file_or_null(name if name.startswith("diagnose-") else "report.json", folder, name)


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
