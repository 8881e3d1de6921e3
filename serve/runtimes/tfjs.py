"""TF.js on the server: a Node child process that this runtime starts, watches and restarts.

Both sides speak in frames (contract/cell/frames.py), the tensors' bytes in the header's order. The header numbers the
call, and an answer repeats the number: a frame that was not written or read to its end must never pass for another
call's answer. Tensors of names, dtypes and shapes that came before are not described again: their layout has a number,
and the frame is a short one. Closing its standard input ends the child, so it never outlives this process.
"""

import contextlib
import itertools
import math
import shutil
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from contract.cell.frames import Frames
from contract.errors import ArtifactError, ModelUnavailable, RuntimeFailure
from contract.manifest import Manifest, verify_files
from contract.tensors import Tensors
from serve.runtimes.whole_numbers import check_32_bits

SCRIPT = Path(__file__).with_suffix(".mjs")
PACKAGES = SCRIPT.parents[2] / "web" / "node_modules"

START_SECONDS = 60.0
CALL_SECONDS = 60.0
LAYOUTS = 100
"""How many layouts have a number; others are described at each call."""


@dataclass(frozen=True)
class _Answer:
    """What an answer consists of, and how many bytes it has."""

    outputs: Sequence[Mapping[str, Any]]
    bytes: int


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
        self._numbers = itertools.count(1)
        self._is_closed = False
        self._child = self._start()
        self.title = f"TF.js {self._version}"

    def predict(self, inputs: Tensors) -> Tensors:
        """Raises InputError for a whole number that TF.js cannot hold, and RuntimeFailure when the child dies or hangs.

        The next call starts a new child. Raises ModelUnavailable once the runtime is closed, also for a call under way.
        """
        return self._call({name: _held(name, value) for name, value in inputs.items()}, None)

    def fetch(self, inputs: Tensors, nodes: Sequence[str]) -> Tensors:
        """The values of these nodes of the graph. Raises as `predict` does."""
        return self._call({name: _held(name, value) for name, value in inputs.items()}, nodes)

    def _call(self, inputs: Tensors, nodes: Sequence[str] | None) -> Tensors:
        with self._lock:
            if self._is_closed:
                raise self._ended()
            if self._child.poll() is not None:
                self._restart()
            number, deadline = next(self._numbers), time.monotonic() + CALL_SECONDS
            try:
                layout = self._send(number, inputs, nodes, deadline)
                known = self._answers.get(layout)
                header, payload = self._frames.receive(deadline, known.bytes if known else 0)
                if header.get("call") != number:
                    raise EOFError(f"it answered call {header.get('call')}, not {number}")
            except BaseException as error:  # whatever it is, part of a frame may be on its way
                self._stop()
                if not isinstance(error, Exception):
                    raise
                if self._is_closed:
                    raise self._ended() from error
                raise RuntimeFailure(f"The Node process of {self._name} failed ({error}). It is restarted.") from error
        if "error" in header:
            raise RuntimeFailure(f"TF.js could not run {self._name}: {header['error']}")
        if known is None or "same" not in header:
            known = _Answer(header["outputs"], len(payload))
            if layout:
                self._answers[layout] = known
        return self._tensors(known.outputs, payload)

    def _ended(self) -> ModelUnavailable:
        return ModelUnavailable(
            f"The Node process of {self._name} has ended, since the service ends or another model has its place. "
            "Send the request again."
        )

    def close(self) -> None:
        self._is_closed = True
        self._child.kill()  # first: a call that hangs has the lock until its child ends
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
        child = self._child = subprocess.Popen(
            [node, str(SCRIPT), str(self._folder.resolve())], bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._frames = Frames(_open(child.stdin).fileno(), _open(child.stdout).fileno())
        self._layouts: dict[tuple[Any, ...], int] = {}
        self._answers: dict[int, _Answer] = {}
        """Layout -> the last answer to inputs of it."""
        try:
            header, _ = self._frames.receive(time.monotonic() + START_SECONDS)
        except (OSError, EOFError, ValueError) as error:
            self._stop()
            raise ModelUnavailable(
                f"The Node process of {self._name} did not start ({error}, with exit status {child.returncode}). Its "
                "own message is in the log."
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

    def _send(self, number: int, inputs: Tensors, nodes: Sequence[str] | None, deadline: float) -> int:
        """Write a call. Returns the number of its layout; 0 if it has none."""
        values = {name: np.asarray(value, order="C") for name, value in inputs.items()}
        flat = [value.reshape(-1) for value in values.values()]
        payloads = [value.data.cast("B") for value in flat if value.size]  # no view of nothing can be cast
        key = tuple((name, value.shape, value.dtype.char) for name, value in values.items())
        layout = self._layouts.get(key, 0) if nodes is None else 0
        if layout:
            self._frames.send_short(layout, number, deadline, payloads)
            return layout
        if nodes is None and len(self._layouts) < LAYOUTS:
            layout = self._layouts[key] = len(self._layouts) + 1
        tensors = [{"name": name, "dtype": value.dtype.name, "shape": value.shape} for name, value in values.items()]
        self._frames.send({"call": number, "layout": layout, "inputs": tensors, "nodes": nodes}, payloads, deadline)
        return layout

    def _tensors(self, specs: Sequence[Mapping[str, Any]], payload: memoryview) -> Tensors:
        outputs: dict[str, NDArray[Any]] = {}
        start = 0
        for spec in specs:
            shape, dtype = spec["shape"], np.dtype(spec["dtype"])
            count = math.prod(shape)
            values = np.frombuffer(payload, dtype, count, start).reshape(shape)
            outputs[spec["name"]] = values.astype(self._dtypes.get(spec["name"], dtype), copy=False)
            start += count * dtype.itemsize
        return outputs


def _held(name: str, value: NDArray[Any]) -> NDArray[Any]:
    """The values as TF.js holds them: fractions and whole numbers of 32 bits. Raises InputError beyond the latter."""
    if value.dtype == np.float32:
        return value
    if value.dtype.kind == "f" or value.dtype.name == "bfloat16":
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
            return value.astype(np.float32, copy=False)
    if value.dtype.kind not in "iu" or value.dtype == np.int32:
        return value
    if value.dtype.itemsize >= 4:
        check_32_bits(name, value, "TF.js")
    return value.astype(np.int32)


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None  # both were opened as pipes
    return stream
