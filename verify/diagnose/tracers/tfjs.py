"""TF.js: the graph model's nodes, which carry the SavedModel's names, fetched from the runtime's own Node process."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.manifest import Manifest
from serve.runtimes.tfjs import TFJSRuntime
from verify.diagnose.tracers import Kept, Step, Trace, Values


class TFJSTracer:
    """Traces a graph model on the backend that the service runs it on."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._input = manifest.inputs[0].name
        self._folder = folder
        self._model = json.loads((folder / "model.json").read_bytes())
        self._nodes = self._model["modelTopology"]["node"]
        self._output = self._model["signature"]["outputs"][manifest.outputs[0].name]["name"].removesuffix(":0")
        self._runtime = TFJSRuntime(folder, manifest, 1)

    def trace(self, images: Values, kept: Kept = None) -> Trace:
        computed = [node["name"] for node in self._nodes if node["op"] not in ("Const", "Placeholder")]
        computed = [name for name in computed if kept is None or name in kept or name == self._output]
        values = {**self._runtime.fetch({self._input: images}, computed), self._input: images}
        return Trace.of(self._steps(values), self._input, self._output, len(images))

    def _steps(self, values: dict[str, NDArray[Any]]) -> Iterator[Step]:
        for node in self._nodes:
            name = node["name"]
            inputs = tuple(parent.removeprefix("^").removesuffix(":0") for parent in node.get("input", ()))
            yield Step(name, "/".join(name.split("/")[-2:]), node["op"], inputs, values.get(name))

    def weights(self) -> Iterator[NDArray[Any]]:
        for group in self._model["weightsManifest"]:
            content, start = b"".join((self._folder / path).read_bytes() for path in group["paths"]), 0
            for spec in group["weights"]:
                dtype = np.dtype(spec.get("quantization", spec)["dtype"])
                count = int(np.prod(spec["shape"]))
                yield np.frombuffer(content, dtype, count, start).reshape(spec["shape"])
                start += count * dtype.itemsize

    def close(self) -> None:
        self._runtime.close()
