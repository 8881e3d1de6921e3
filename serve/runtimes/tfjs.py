"""TF.js on the server: a Node child process that this runtime starts, watches and restarts.

Both sides speak in frames: a header's length (4 bytes, little-endian), the header as JSON, and the tensors' bytes in
the header's order. The child ends when its standard input is closed, so it never outlives this process.
"""

import contextlib
import json
import os
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from contract.errors import ArtifactError, ModelUnavailable, RuntimeFailure
from contract.manifest import Manifest, verify_files
from contract.tensors import Tensors

SCRIPT = Path(__file__).with_suffix(".mjs")
PACKAGES = SCRIPT.parents[2] / "web" / "node_modules"

START_SECONDS = 60.0
CALL_SECONDS = 60.0


class TFJSRuntime:
    """Runs a TF.js graph model under Node, on the WebAssembly backend."""

    platform = "tensorflowjs_graph"
    in_process = False

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self._folder = folder
        self._manifest = manifest
        self._name = manifest.name
        self._dtypes = {spec.name: spec.dtype for spec in manifest.outputs}
        self._lock = threading.Lock()  # one frame at a time
        self._child = self._start()
        self.title = f"TF.js {self._version}"

    def predict(self, inputs: Tensors) -> Tensors:
        """Raises RuntimeFailure when the child dies or hangs; the next call starts a new one."""
        return self._call(inputs, None)

    def fetch(self, inputs: Tensors, nodes: Sequence[str]) -> Tensors:
        """The values of these nodes of the graph. Raises as `predict` does."""
        return self._call(inputs, nodes)

    def _call(self, inputs: Tensors, nodes: Sequence[str] | None) -> Tensors:
        with self._lock:
            if self._child.poll() is not None:
                self._restart()
            try:
                deadline = time.monotonic() + CALL_SECONDS
                self._send(inputs, nodes, deadline)
                header, payload = self._receive(deadline)
            except (OSError, EOFError, TimeoutError) as error:
                self._stop()
                raise RuntimeFailure(f"The Node process of {self._name} failed ({error}). It is restarted.") from error
        if "error" in header:
            raise RuntimeFailure(f"TF.js could not run {self._name}: {header['error']}")
        return self._tensors(header["outputs"], payload)

    def close(self) -> None:
        with self._lock:
            self._stop()

    @property
    def process_id(self) -> int:
        return self._child.pid

    def _restart(self) -> None:
        self._stop()  # its pipes are still open
        try:
            verify_files(self._folder, self._manifest)  # it may be another export by now
        except ArtifactError as error:
            raise ModelUnavailable(
                f"The Node process of {self._name} cannot be restarted: {error} Or start the service again."
            ) from error
        self._child = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        node = shutil.which("node")
        if node is None:
            raise ModelUnavailable(f"{self._name} needs Node 20 or later: no `node` is on the PATH. Install nodejs.")
        if not PACKAGES.is_dir():
            raise ModelUnavailable(f"{self._name} needs TF.js in web/node_modules, which is missing. Run `make web`.")
        child = subprocess.Popen(
            [node, str(SCRIPT), str(self._folder.resolve())], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._child = child
        # A child that hangs reads nothing, and a blocking write would wait for it for ever.
        os.set_blocking(_open(child.stdin).fileno(), False)
        try:
            header, _ = self._receive(time.monotonic() + START_SECONDS)
        except (OSError, EOFError, TimeoutError) as error:
            self._stop()
            raise ModelUnavailable(
                f"The Node process of {self._name} did not start ({error}). Its own message is in the log."
            ) from error
        if "error" in header:
            self._stop()
            raise ModelUnavailable(
                f"TF.js could not load {self._name}: {header['error']}. Remove {self._folder} and export it again."
            )
        self._version = header["version"]
        return child

    def _stop(self) -> None:
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            with contextlib.suppress(OSError):
                _open(stream).close()

    def _send(self, inputs: Tensors, nodes: Sequence[str] | None, deadline: float) -> None:
        # TF.js has one kind of whole number.
        inputs = {name: value.astype(np.int32) if value.dtype.kind in "iu" else value for name, value in inputs.items()}
        tensors = [{"name": name, "dtype": value.dtype.name, "shape": value.shape} for name, value in inputs.items()]
        header = json.dumps({"inputs": tensors, "nodes": nodes}).encode()
        self._write(memoryview(struct.pack("<I", len(header)) + header), deadline)
        for value in inputs.values():
            self._write(np.ascontiguousarray(value).data.cast("B"), deadline)

    def _write(self, data: memoryview, deadline: float) -> None:
        pipe = _open(self._child.stdin).fileno()
        while data:
            if not select.select([], [pipe], [], max(0.0, deadline - time.monotonic()))[1]:
                raise TimeoutError("it read nothing within its time limit")
            data = data[os.write(pipe, data) :]

    def _receive(self, deadline: float) -> tuple[dict[str, Any], memoryview]:
        (length,) = struct.unpack("<I", self._read(4, deadline))
        header = json.loads(bytes(self._read(length, deadline)))
        return header, self._read(header.get("bytes", 0), deadline)

    def _read(self, count: int, deadline: float) -> memoryview:
        """Exactly `count` bytes."""
        pipe = _open(self._child.stdout).fileno()
        result = bytearray(count)
        view, done = memoryview(result), 0
        while done < count:
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError("no answer within its time limit")
            count_read = os.readv(pipe, [view[done:]])
            if count_read == 0:
                raise EOFError(f"it ended, with exit status {self._child.wait()}")
            done += count_read
        return view

    def _tensors(self, specs: list[dict[str, Any]], payload: memoryview) -> Tensors:
        outputs: dict[str, NDArray[Any]] = {}
        start = 0
        for spec in specs:
            shape, dtype = spec["shape"], np.dtype(spec["dtype"])
            count = int(np.prod(shape, dtype=np.int64))
            values = np.frombuffer(payload, dtype, count, start).reshape(shape)
            outputs[spec["name"]] = values.astype(self._dtypes.get(spec["name"], dtype), copy=False)
            start += count * dtype.itemsize
        return outputs


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # both were opened as pipes
    return stream
