"""The requests that are measured, and the check that a server answers them as the model does."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compare import servers
from compare.requests import HEADER_LENGTH
from compare.servers import Server
from contract.manifest import read_manifest
from contract.tensors import Tensors
from serve.runtimes import Runtime, load_runtime

TOLERANCE = 1e-5
"""A float32 in JSON, and another number of threads, may change the last digits."""


@dataclass(frozen=True)
class Call:
    """A POST request, and the model's own answer to it."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    expected: NDArray[np.float32]
    """(rows, classes)"""

    def check(self, server: Server) -> None:
        """Raises RuntimeError unless the server answers as the model does."""
        status, answer = servers.ask(server.port, self.path, self.body, self.headers)
        if status != 200:
            raise RuntimeError(f"{server.name} answers {self.path} with {status}: {answer[:500]!r}")
        got = self._values(answer)
        if got.shape != self.expected.shape or np.abs(got - self.expected).max() > TOLERANCE:
            raise RuntimeError(
                f"{server.name} gives a wrong answer to {self.path}: got {got}, expected {self.expected}."
            )

    def _values(self, answer: bytes) -> NDArray[np.float32]:
        if "application/json" in self.headers["Content-Type"]:
            values = np.array(json.loads(answer)["outputs"][0]["data"], np.float32)
        else:
            values = np.frombuffer(answer[-self.expected.nbytes :], np.float32)
        return values.reshape(self.expected.shape) if values.size == self.expected.size else values


class Model:
    """An artifact with one float32 input and output, its runtime, and rows of input."""

    def __init__(self, folder: Path, inputs: NDArray[np.float32]) -> None:
        self.folder = folder
        self.manifest = read_manifest(folder)
        self.runtime: Runtime = load_runtime(folder, self.manifest)
        self.inputs = inputs
        self._input, self._output = self.manifest.inputs[0].name, self.manifest.outputs[0].name

    @property
    def path(self) -> str:
        """Where its tensors are sent, on a server that speaks the Open Inference Protocol."""
        return f"/v2/models/{self.manifest.name}/infer"

    def tensors(self, rows: int) -> Tensors:
        """This many rows of input; they repeat if there are fewer."""
        return {self._input: np.resize(self.inputs, (rows, *self.inputs.shape[1:]))}

    def json(self, rows: int) -> Call:
        """A request whose numbers are JSON, as `array.tolist()` gives them to a client."""
        data = self.tensors(rows)[self._input].ravel().tolist()
        body = json.dumps({"inputs": [self._tensor(rows) | {"data": data}]}).encode()
        return Call(self.path, body, {"Content-Type": "application/json"}, self._expected(rows))

    def binary(self, rows: int) -> Call:
        """A request by the binary tensor extension, in both directions."""
        payload = self.tensors(rows)[self._input].tobytes()
        tensor = self._tensor(rows) | {"parameters": {"binary_data_size": len(payload)}}
        outputs = [{"name": self._output, "parameters": {"binary_data": True}}]
        header = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
        headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(header))}
        return Call(self.path, header + payload, headers, self._expected(rows))

    def raw(self, rows: int) -> Call:
        """A request that is nothing but the numbers, for a server that accepts that."""
        payload = self.tensors(rows)[self._input].tobytes()
        return Call("/raw", payload, {"Content-Type": "application/octet-stream"}, self._expected(rows))

    def _tensor(self, rows: int) -> dict[str, Any]:
        return {"name": self._input, "shape": [rows, *self.inputs.shape[1:]], "datatype": "FP32"}

    def _expected(self, rows: int) -> NDArray[np.float32]:
        return np.asarray(self.runtime.predict(self.tensors(rows))[self._output], np.float32)
