"""TensorFlow Serving's REST API: the same models, in rows (`instances`) or in columns (`inputs`)."""

import base64
import binascii
import contextlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import orjson

from contract.errors import InputError, RuntimeFailure
from contract.manifest import Manifest, TensorSpec
from contract.tensors import Tensors, is_endless
from serve.protocol import MAX_BATCH, VERSION, InferRequest, Reply, json_text, tensors
from serve.protocol.json_text import Numbers
from serve.protocol.tensors import show

SIGNATURE = "serving_default"

LABEL = "stable"
"""A label of the newest version."""

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
    request = _parse(body, f"{ROWS!r} or {COLUMNS!r}")
    forms = [form for form in (ROWS, COLUMNS) if form in request]
    if len(forms) != 1:
        raise InputError(f"The request has {' and '.join(forms) or 'neither'}, expected one of {ROWS!r}, {COLUMNS!r}.")
    (form,) = forms
    columns = _columns_of_rows(request[form], manifest) if form == ROWS else _columns(request[form], manifest)
    inputs = {spec.name: _tensor(columns[spec.name], spec) for spec in manifest.inputs}
    tensors.check_batch(inputs, manifest)
    return InferRequest(inputs, tuple((spec.name, False) for spec in manifest.outputs)), form


def _parse(body: bytes, fields: str) -> Mapping[str, Any]:
    """A request's JSON. An empty name of a signature means the default one, as no name does."""
    request = json_text.parse(body)
    if not isinstance(request, dict):
        raise InputError(f"The request is {show(request)}, expected a JSON object with {fields}.")
    if request.get("signature_name") not in (None, "", SIGNATURE):
        raise InputError(f"The signature is {show(request['signature_name'])}, expected {SIGNATURE!r}.")
    return request


def parse_examples(body: bytes, manifest: Manifest) -> InferRequest:
    """A classify or regress request: examples, whose features are the inputs as flat lists. Raises InputError."""
    request = _parse(body, "'examples'")
    examples, context = request.get("examples"), request.get("context", {})
    if not isinstance(examples, list) or not 1 <= len(examples) <= MAX_BATCH:
        raise InputError(f"'examples' is {show(examples)}, expected a list of 1 to {MAX_BATCH} examples.")
    if not isinstance(context, dict) or not all(isinstance(example, dict) for example in examples):
        raise InputError(
            "'context' and each of the 'examples' have to be objects: the names of features, their values."
        )
    inputs = {spec.name: _feature(spec, [{**context, **example} for example in examples]) for spec in manifest.inputs}
    return InferRequest(inputs, ((manifest.outputs[0].name, False),))


def _feature(spec: TensorSpec, examples: list[dict[str, Any]]) -> tensors.Array:
    """An input: of each example the feature of its name, which is one value, or a list of them for the whole row."""
    rows = [example.get(spec.name) for example in examples]
    if None in rows:
        raise InputError(f"The example {rows.index(None)} has no feature {spec.name!r}. The model needs it.")
    lists = [row if isinstance(row, list) else [row] for row in rows]
    sizes = [size for size in spec.shape[1:] if size is not None]
    free = len(spec.shape) - 1 - len(sizes)
    if free > 1 or math.prod(sizes) == 0:
        raise InputError(f"The input {spec.name!r} has several free sizes: send it to :predict, which has its shape.")
    length = len(lists[0]) // math.prod(sizes) if free else 0
    shape = [len(lists), *(length if size is None else size for size in spec.shape[1:])]
    decode = _decode if spec.dtype == "bytes" else None
    values = [value for row in lists for value in row]
    return tensors.from_json(values, tensors.check_shape(shape, spec), spec, decode)


def check_classifies(manifest: Manifest) -> None:
    """Raise InputError for a model that does not give one probability a class."""
    first = manifest.outputs[0].shape
    if not (manifest.classifies or (len(first) == 2 and manifest.labels and first[1] == len(manifest.labels))):
        raise InputError(f"{manifest.name} does not classify: it has not one probability for each class. Use :predict.")


def check_regresses(manifest: Manifest) -> None:
    """Raise InputError for a model that does not give one number for each row."""
    (output, *others) = manifest.outputs
    if others or math.prod(size or 0 for size in output.shape[1:]) != 1 or output.dtype in ("bytes", "bool"):
        raise InputError(f"{manifest.name} does not give one number for each row. Use :predict.")


def classify_reply(manifest: Manifest, request: InferRequest, outputs: Tensors, *_times: float) -> Reply:
    """For each example, each class with its probability."""
    ((name, _),) = request.outputs
    rows = _values(name, outputs[name]).tolist()
    labels = manifest.class_names(len(rows[0]))
    return Reply(orjson.dumps({"results": [list(zip(labels, row, strict=True)) for row in rows]}))


def regress_reply(request: InferRequest, outputs: Tensors, *_times: float) -> Reply:
    """For each example, the number."""
    ((name, _),) = request.outputs
    return Reply(orjson.dumps({"results": _values(name, outputs[name]).ravel().tolist()}))


def _columns_of_rows(rows: Any, manifest: Manifest) -> Mapping[str, Any]:
    """A list of rows -> name -> the list of that input's rows. The name of a single input may be left out."""
    if not manifest.has_rows:
        raise InputError(f"{manifest.name} takes no rows, since not all of its tensors have them. Send {COLUMNS!r}.")
    names = [spec.name for spec in manifest.inputs]
    if isinstance(rows, Numbers) and len(names) == 1:
        return {names[0]: rows}
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{ROWS!r} is {show(rows)}, expected a list of at least one row.")
    if len(rows) > MAX_BATCH:
        raise InputError(f"{ROWS!r} has {len(rows)} rows, expected 1 to {MAX_BATCH}.")
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
        raise InputError(f"The inputs are {show(list(columns))}, expected {', '.join(names)}.")
    return columns


def _tensor(values: Any, spec: TensorSpec) -> tensors.Array:
    """Nested values -> the input. Their nesting is the shape, which the request does not state."""
    shape: list[int] = []
    level = values
    while isinstance(level, list):
        shape.append(len(level))
        level = level[0] if level else None
    if isinstance(level, Numbers):
        shape += level.sizes
    decode = _decode if spec.dtype == "bytes" else None
    if not shape and not spec.shape:  # a single value, which is not a list
        values = [values]
    return tensors.from_json(values, tensors.check_shape(shape, spec), spec, decode)


def _decode(value: Any, spec: TensorSpec) -> Any:
    """The text that a {"b64": ...} holds; any other value as it is."""
    if not isinstance(value, dict):
        return value
    try:
        return base64.b64decode(value["b64"], validate=True).decode("utf-8", "surrogateescape")
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise InputError(f'The data of {spec.name!r} holds {show(value)}, expected {{"b64": "..."}}.') from None


def predict_reply(request: InferRequest, form: str, outputs: Tensors, *_times: float) -> Reply:
    """The answer in the form of the request; the name of a single output is left out."""
    columns = {name: _values(name, outputs[name]) for name, _ in request.outputs}
    single = next(iter(columns.values())) if len(columns) == 1 else None
    if form == COLUMNS:
        answer: dict[str, Any] = {"outputs": columns if single is None else single}
    elif single is not None:
        answer = {"predictions": single}
    else:
        answer = {"predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}
    return Reply(orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY))


def _values(name: str, array: tensors.Array) -> Any:
    """Values that become lists in each other. Raises RuntimeFailure for a shape of rows without end and content."""
    if is_endless(array.shape, array.nbytes):
        raise RuntimeFailure(
            f"The model answered {name!r} in the shape {list(array.shape)}, which is too long to write."
        )
    if array.dtype == object:
        is_binary = name.endswith("_bytes")
        return np.vectorize(lambda item: _text(item, is_binary), otypes=[object])(array).tolist()
    known = array.dtype.kind in "biu" or array.dtype in (np.float32, np.float64)
    return np.ascontiguousarray(array if known else array.astype(np.float32))


def _text(item: bytes, is_binary: bool) -> str | dict[str, str]:
    """A byte string as text; where its output's name ends with `_bytes`, or where it is not text, as base64."""
    if not is_binary:
        with contextlib.suppress(UnicodeDecodeError):
            return item.decode()
    return {"b64": base64.b64encode(item).decode()}


def status(name: str, versions: Mapping[str, tuple[bool, str]]) -> dict[str, Any]:
    """The answer to `GET /v1/models/{model}`: TensorFlow Serving's state of each version, and KServe's readiness.

    A version has whether it is ready, and why it is not.
    """
    return {
        "name": name,
        "ready": any(ready for ready, _ in versions.values()),
        "model_version_status": [_state(version, *state) for version, state in versions.items()],
    }


def _state(version: str, ready: bool, error: str) -> dict[str, Any]:
    code, state = ("OK", "AVAILABLE") if ready else ("UNAVAILABLE", "END")
    return {"version": version, "state": state, "status": {"error_code": code, "error_message": error}}


def metadata(manifest: Manifest, version: str = VERSION) -> dict[str, Any]:
    """The answer to `GET /v1/models/{model}/metadata`."""
    signature = {
        "inputs": {spec.name: _tensor_info(spec) for spec in manifest.inputs},
        "outputs": {spec.name: _tensor_info(spec) for spec in manifest.outputs},
        "method_name": "tensorflow/serving/predict",
    }
    return {
        "model_spec": {"name": manifest.name, "signature_name": "", "version": version},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
    }


def _tensor_info(spec: TensorSpec) -> dict[str, Any]:
    dims = [{"size": str(-1 if size is None else size), "name": ""} for size in spec.shape]
    return {
        "dtype": DTYPES.get(spec.dtype, f"DT_{spec.dtype.upper()}"),
        "tensor_shape": {"dim": dims, "unknown_rank": False},
        "name": f"{spec.name}:0",
    }
