"""TensorFlow Serving's REST API: the same models, in rows (`instances`) or in columns (`inputs`)."""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from contract.errors import InputError
from contract.manifest import Manifest, TensorSpec
from contract.tensors import Tensors
from serve.protocol import VERSION, InferRequest, Reply, tensors
from serve.protocol.tensors import show

SIGNATURE = "serving_default"

ROWS, COLUMNS = "instances", "inputs"

DTYPES = {
    "bool": "DT_BOOL",
    "float16": "DT_HALF",
    "bfloat16": "DT_BFLOAT16",
    "float32": "DT_FLOAT",
    "float64": "DT_DOUBLE",
    "bytes": "DT_STRING",
}


def parse_predict(body: bytes, manifest: Manifest) -> tuple[InferRequest, str]:
    """A predict request, and its form: "instances" or "inputs". Raises InputError."""
    try:
        request = orjson.loads(body)
    except ValueError as error:
        raise InputError(f"The request is not JSON ({error}).") from None
    if not isinstance(request, dict):
        raise InputError(f"The request is {show(request)}, expected a JSON object with {ROWS!r} or {COLUMNS!r}.")
    if request.get("signature_name", SIGNATURE) != SIGNATURE:
        raise InputError(f"The signature is {show(request['signature_name'])}, expected {SIGNATURE!r}.")
    forms = [form for form in (ROWS, COLUMNS) if form in request]
    if len(forms) != 1:
        raise InputError(f"The request has {' and '.join(forms) or 'neither'}, expected one of {ROWS!r}, {COLUMNS!r}.")
    (form,) = forms
    columns = _columns_of_rows(request[form], manifest) if form == ROWS else _columns(request[form], manifest)
    inputs = {spec.name: _tensor(columns[spec.name], spec) for spec in manifest.inputs}
    if len({len(array) for array in inputs.values()}) > 1:
        raise InputError(f"The inputs differ in their batch: { {name: len(array) for name, array in inputs.items()} }.")
    return InferRequest(inputs, tuple((spec.name, False) for spec in manifest.outputs)), form


def _columns_of_rows(rows: Any, manifest: Manifest) -> Mapping[str, Any]:
    """A list of rows -> name -> the list of that input's rows. The name of a single input may be left out."""
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{ROWS!r} is {show(rows)}, expected a list of at least one row.")
    names = [spec.name for spec in manifest.inputs]
    named = [isinstance(row, dict) and row.keys() != {"b64"} for row in rows]
    if not any(named) and len(names) == 1:
        return {names[0]: rows}
    for row in rows:
        if not isinstance(row, dict) or row.keys() != set(names):
            raise InputError(f"A row is {show(row)}, expected an object with {', '.join(map(repr, names))}.")
    return {name: [row[name] for row in rows] for name in names}


def _columns(columns: Any, manifest: Manifest) -> Mapping[str, Any]:
    names = [spec.name for spec in manifest.inputs]
    if not isinstance(columns, dict) or columns.keys() == {"b64"}:
        if len(names) == 1:
            return {names[0]: columns}
        raise InputError(f"{COLUMNS!r} is {show(columns)}, expected an object with {', '.join(map(repr, names))}.")
    if columns.keys() != set(names):
        raise InputError(f"The inputs are {', '.join(map(repr, columns)) or 'none'}, expected {', '.join(names)}.")
    return columns


def _tensor(values: Any, spec: TensorSpec) -> tensors.Array:
    """Nested values -> the input. Their nesting is the shape, which the request does not state."""
    if spec.dtype == "bytes":
        try:
            values = _decode(values, spec)
        except RecursionError:
            raise InputError(f"The data of {spec.name!r} is nested too deeply to be read.") from None
    shape: list[int] = []
    level = values
    while isinstance(level, list):
        shape.append(len(level))
        level = level[0] if level else None
    return tensors.from_json(values, tensors.check_shape(shape, spec), spec)


def _decode(value: Any, spec: TensorSpec) -> Any:
    """Replace each {"b64": ...} by the text that it holds."""
    if isinstance(value, list):
        return [_decode(item, spec) for item in value]
    if not isinstance(value, dict):
        return value
    try:
        return base64.b64decode(value["b64"], validate=True).decode("utf-8", "surrogateescape")
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise InputError(f'The data of {spec.name!r} holds {show(value)}, expected {{"b64": "..."}}.') from None


def predict_reply(request: InferRequest, form: str, outputs: Tensors) -> Reply:
    """The answer in the form of the request; the name of a single output is left out."""
    columns = {name: _values(outputs[name]) for name, _ in request.outputs}
    single = next(iter(columns.values())) if len(columns) == 1 else None
    if form == COLUMNS:
        answer: dict[str, Any] = {"outputs": columns if single is None else single}
    elif single is not None:
        answer = {"predictions": single}
    else:
        answer = {"predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}
    return Reply(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY))


def _values(array: tensors.Array) -> Any:
    if array.dtype == object:
        return np.vectorize(lambda item: {"b64": base64.b64encode(item).decode()}, otypes=[object])(array).tolist()
    known = array.dtype.kind in "biu" or array.dtype in (np.float32, np.float64)
    return np.ascontiguousarray(array if known else array.astype(np.float32))


def status(ready: bool, error: str) -> dict[str, Any]:
    """The answer to `GET /v1/models/{model}`."""
    code, state = ("OK", "AVAILABLE") if ready else ("UNAVAILABLE", "END")
    return {
        "model_version_status": [
            {"version": VERSION, "state": state, "status": {"error_code": code, "error_message": error}}
        ]
    }


def metadata(manifest: Manifest) -> dict[str, Any]:
    """The answer to `GET /v1/models/{model}/metadata`."""
    signature = {
        "inputs": {spec.name: _tensor_info(spec) for spec in manifest.inputs},
        "outputs": {spec.name: _tensor_info(spec) for spec in manifest.outputs},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": manifest.name, "signature_name": "", "version": VERSION},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
    }


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    dims = [{"size": str(-1 if size is None else size), "name": ""} for size in spec.shape]
    return {
        "dtype": DTYPES.get(spec.dtype, f"DT_{spec.dtype.upper()}"),
        "tensor_shape": {"dim": dims, "unknown_rank": False},
        "name": f"{spec.name}:0",
    }
