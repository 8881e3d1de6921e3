"""The HTTP surface, described as OpenAPI 3.1."""

from typing import Any

from serve.protocol.tensors import DATATYPES
from serve.protocol.tfserving import LABEL
from serve.settings import RELEASE

Schema = dict[str, Any]

STRING, NUMBER, BOOLEAN, OBJECT = ({"type": kind} for kind in ("string", "number", "boolean", "object"))
ERROR = {"type": "object", "required": ["error"], "properties": {"error": STRING}}
PARAMETERS = {
    "type": "object",
    "description": "binary_data_size, binary_data, binary_data_output, timeout, allow_nan, times",
}


def openapi() -> dict[str, Any]:
    """The description, as `GET /openapi.json` gives it."""
    model = {"name": "model", "in": "path", "required": True, "schema": STRING, "description": "<model>-<format>"}
    version_of_it = {"name": "version", "in": "path", "required": True, "schema": STRING, "description": "a number"}
    paths: dict[str, Any] = {
        "/v2": _get("The server", _object(name=STRING, version=STRING, extensions=_list(STRING))),
        "/v2/health/live": _get("Is the process alive?", _object(live=BOOLEAN)),
        "/v2/health/ready": _get("Can a model be run?", _object(ready=BOOLEAN), 503),
        "/v2/repository/index": _post("Every model and its state", _json({**OBJECT}), _list(OBJECT), 400, 413, 415),
        "/v2/repository/models/{model}/load": _control("Load an artifact, or load it anew"),
        "/v2/repository/models/{model}/unload": _control("Serve a model no more"),
        "/v2/models/stats": _get("The statistics of every model", _object(model_stats=_list(OBJECT))),
        "/metrics": {"get": {"summary": "Prometheus metrics", "responses": {"200": {"description": "Text"}}}},
        "/compare": _post("A picture through every model", _picture(), _object(results=_list(OBJECT)), *PICTURE_ERRORS),
        "/devices": _post("Keep a check of a visitor's device", _picture(), _object(kept=STRING), 400, 413, 415, 503),
        "/predict/{model}": _post("A picture's label", _picture(), _prediction(), 404, 503, 504, *PICTURE_ERRORS),
    }
    for version in ("", "/versions/{version}"):
        base = f"/v2/models/{{model}}{version}"
        paths[base] = _get("A model's tensors, labels, files and parity", OBJECT, 404, 503)
        paths[f"{base}/ready"] = _get("Can it be run?", _object(name=STRING, ready=BOOLEAN), 404, 503)
        paths[f"{base}/config"] = _get("The model as Triton describes it", OBJECT, 404, 503)
        paths[f"{base}/stats"] = _get("Its statistics", _object(model_stats=_list(OBJECT)), 404)
        paths[f"{base}/infer"] = _post("Tensors in, tensors out", _infer(), _answer(), *TENSOR_ERRORS)
    for version in ("", "/versions/{version}", f"/labels/{LABEL}"):
        served = f"/v1/models/{{model}}{version}"
        paths[served] = _get("Its state, as TensorFlow Serving gives it, and whether it is ready", OBJECT, 404, 503)
        paths[f"{served}/metadata"] = _get("Its signature", OBJECT, 404, 503)
        paths[f"{served}:predict"] = _post("Rows or columns in and out", _predict(), OBJECT, *TENSOR_ERRORS)
        results = _object(results={"type": "array"})
        paths[f"{served}:classify"] = _post("Each class and its probability", _examples(), results, *TENSOR_ERRORS)
        paths[f"{served}:regress"] = _post("A number for each row", _examples(), results, *TENSOR_ERRORS)
    for path, item in paths.items():
        if "{model}" in path:
            item["parameters"] = [model, version_of_it] if "{version}" in path else [model]
    info = {"title": "Rosetta Serve", "version": RELEASE, "description": "One model in every deployment format."}
    return {"openapi": "3.1.0", "info": info, "paths": paths}


PICTURE_ERRORS = (400, 413, 415)
TENSOR_ERRORS = (400, 404, 413, 415, 503, 504)


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _json(schema: Schema) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _picture() -> dict[str, Any]:
    return {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


def _prediction() -> Schema:
    numbers = {"type": "object", "additionalProperties": NUMBER}
    return _object(model=STRING, label=STRING, probabilities=numbers, ms=numbers, tensor=STRING)


def _infer() -> dict[str, Any]:
    tensor = _object(name=STRING, datatype={"enum": list(DATATYPES.values())}, shape=_list({"type": "integer"}))
    tensor["properties"] |= {"data": {"type": "array"}, "parameters": PARAMETERS}
    request = _object(inputs=_list(tensor))
    request["properties"] |= {"id": STRING, "outputs": _list(_object(name=STRING)), "parameters": PARAMETERS}
    return _json(request) | _picture()


def _answer() -> Schema:
    tensor = _object(name=STRING, datatype=STRING, shape=_list({"type": "integer"}))
    return _object(model_name=STRING, model_version=STRING, outputs=_list(tensor))


def _predict() -> dict[str, Any]:
    return _json(
        {"type": "object", "properties": {"instances": {"type": "array"}, "inputs": {}, "signature_name": STRING}}
    )


def _examples() -> dict[str, Any]:
    fields = {"examples": _list(OBJECT), "context": OBJECT, "signature_name": STRING}
    return _json({"type": "object", "required": ["examples"], "properties": fields})


def _control(summary: str) -> dict[str, Any]:
    body = _json({"type": "object", "properties": {"parameters": OBJECT}})
    described = _post(summary, body, OBJECT, 400, 403, 404, 413, 415, 503)
    described["post"]["requestBody"]["required"] = False
    return described


def _get(summary: str, schema: Schema, *errors: int) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": _responses(schema, errors)}}


def _post(summary: str, content: dict[str, Any], schema: Schema, *errors: int) -> dict[str, Any]:
    body = {"required": True, "content": content}
    return {"post": {"summary": summary, "requestBody": body, "responses": _responses(schema, errors)}}


def _responses(schema: Schema, errors: tuple[int, ...]) -> dict[str, Any]:
    good = {"200": {"description": "Done", "content": _json(schema)}}
    return good | {str(code): {"description": "Refused", "content": _json(ERROR)} for code in errors}
