"""What people send to the service: tensors in the protocol's binary form or as JSON, or a picture as a file.

Each form is a whole HTTP request as bytes, and how to read the answer from the body of its response.
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from compare.servers import HOST
from contract.manifest import Manifest
from verify.parity import Answers

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The binary tensor extension's header: how many bytes of the body are JSON."""

Pictures = NDArray[Any]
"""(N, H, W, C), uint8."""


@dataclass(frozen=True)
class Form:
    """A form of a request: what it is called in a sentence, how it is written, and how its answer is read."""

    title: str
    figure: str
    """The name of its time: a figure of one picture in a request."""
    write: Callable[[Manifest, Pictures], bytes]
    read: Callable[[bytes, Manifest], Answers]
    """The response's body -> (rows, classes)."""
    takes_files: bool = False
    """Whether only models that classify pictures take it, one at a time."""


def _post(path: str, body: bytes, content_type: str, *headers: str) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        f"Host: {HOST}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def binary(manifest: Manifest, pictures: Pictures) -> bytes:
    """The Open Inference Protocol with its binary tensor extension, both ways."""
    spec, output = manifest.inputs[0], manifest.outputs[0]
    rows = pictures.astype(spec.dtype)
    tensor = {"name": spec.name, "shape": rows.shape, "datatype": "FP32"}
    header = json.dumps(
        {
            "inputs": [tensor | {"parameters": {"binary_data_size": rows.nbytes}}],
            "outputs": [{"name": output.name, "parameters": {"binary_data": True}}],
        }
    ).encode()
    path, length = f"/v2/models/{manifest.name}/infer", f"{HEADER_LENGTH}: {len(header)}"
    return _post(path, header + rows.tobytes(), "application/octet-stream", length)


def _read_binary(body: bytes, manifest: Manifest) -> Answers:
    header, end = json.JSONDecoder().raw_decode(body.decode("latin-1"))  # a byte is a character
    return np.frombuffer(body[end:], np.float32).reshape(header["outputs"][0]["shape"])


def as_json(manifest: Manifest, pictures: Pictures) -> bytes:
    """TensorFlow Serving's REST API."""
    body = json.dumps({"instances": pictures.tolist()}, separators=(",", ":")).encode()
    return _post(f"/v1/models/{manifest.name}:predict", body, "application/json")


def _read_json(body: bytes, manifest: Manifest) -> Answers:
    rows = json.loads(body)["predictions"]
    name = manifest.outputs[0].name  # a row of several outputs is an object
    return np.array([row[name] if isinstance(row, dict) else row for row in rows], np.float32)


def file_of(picture: Pictures, format: str) -> bytes:
    """A picture (H, W, C) as the bytes of a file."""
    file = io.BytesIO()
    PIL.Image.fromarray(picture.squeeze()).save(file, format)
    return file.getvalue()


def _upload(format: str) -> Callable[[Manifest, Pictures], bytes]:
    def write(manifest: Manifest, pictures: Pictures) -> bytes:
        return _post(f"/predict/{manifest.name}", file_of(pictures[0], format), f"image/{format.lower()}")

    return write


def _read_upload(body: bytes, manifest: Manifest) -> Answers:
    return np.array([list(json.loads(body)["probabilities"].values())], np.float32)


FORMS: Mapping[str, Form] = {
    "binary": Form("binary tensors", "http_p50@1", binary, _read_binary),
    "json": Form("JSON", "json_p50@1", as_json, _read_json),
    "png": Form("a PNG file", "png_p50@1", _upload("PNG"), _read_upload, takes_files=True),
    "jpeg": Form("a JPEG file", "jpeg_p50@1", _upload("JPEG"), _read_upload, takes_files=True),
}
"""What REQUEST may name -> the form."""


def forms_of(manifest: Manifest) -> Mapping[str, Form]:
    """The forms that a model takes."""
    return {name: form for name, form in FORMS.items() if manifest.classifies or not form.takes_files}
