"""The graph of a TF.js model as JSON, with pre- and post-processing around it. Their constants lie in a file more."""

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bring.wrapping import Wrapping

TYPES = {"float32": "DT_FLOAT", "int32": "DT_INT32"}


class Around:
    """What is put around a graph: nodes, and the constants that they read."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = copy.deepcopy(content)
        self.signature = self.content["signature"]
        self._nodes: list[dict[str, Any]] = self.content["modelTopology"]["node"]
        self._weights: list[dict[str, Any]] = []
        self._data = b""
        names = [*(node["name"] for node in self._nodes), *_files(self.content)]
        prefixes = itertools.chain(["shipped"], (f"shipped{number}" for number in itertools.count(2)))
        # As no other does, also not those of an earlier time, whose constants are among the files.
        self._prefix = next(
            prefix for prefix in prefixes if not any(re.match(rf"{prefix}[_.]", each) for each in names)
        )
        self.file = f"{self._prefix}.bin"
        """The file with the constants of what is added."""

    def prepare(self, wrapping: Wrapping) -> None:
        """Put the preprocessing in front: a new placeholder, whose node takes the old one's place."""
        preprocess = wrapping.preprocess
        assert preprocess is not None
        ((_, old),) = self.signature["inputs"].items()
        end = old["name"].partition(":")[0]
        self._nodes[:] = [node for node in self._nodes if node["name"] != end]
        factors, offsets = wrapping.affine()
        steps: list[tuple[str, Sequence[str]]] = []
        if preprocess.order == "BGR":
            steps.append(("ReverseV2", [self._constant("order", np.array([3], np.int32))]))
        if preprocess.changes_values:
            steps.append(("Mul", [self._constant("factor", np.array(factors, np.float32))]))
            steps.append(("AddV2", [self._constant("offset", np.array(offsets, np.float32))]))
        if preprocess.layout == "NCHW":
            steps.append(("Transpose", [self._constant("axes", np.array([0, 3, 1, 2], np.int32))]))
        spec, name = wrapping.inputs[0], f"{self._prefix}_pixels"
        shape = {"dim": [{"size": "-1" if size is None else str(size)} for size in spec.shape]}
        attributes = {"dtype": {"type": "DT_FLOAT"}, "shape": {"shape": shape}}
        self._nodes.insert(0, {"name": name, "op": "Placeholder", "attr": attributes})
        self.signature["inputs"] = {spec.name: {"name": f"{name}:0", "dtype": "DT_FLOAT", "tensorShape": shape}}
        for number, (operator, more) in enumerate(steps, 1):
            output = end if number == len(steps) else f"{self._prefix}_{number}"
            name = self._node(operator, output, [name, *more])

    def end(self, wrapping: Wrapping) -> None:
        """Put what follows the first output behind it."""
        spec = wrapping.outputs[0]
        (_, old), *others = self.signature["outputs"].items()
        name = old["name"].removesuffix(":0")
        for step in wrapping.ending:
            if step == "both":
                rest = self._node("Sub", f"{self._prefix}_rest", [self._constant("one", np.array(1, np.float32)), name])
                axis = self._constant("axis", np.array(1, np.int32))
                name = self._node("ConcatV2", f"{self._prefix}_both", [rest, name, axis], N={"i": "2"})
            else:
                name = self._node(step.capitalize(), f"{self._prefix}_{step}", [name])
        shape = {"dim": [{"size": "-1" if size is None else str(size)} for size in spec.shape]}
        self.signature["outputs"] = {
            spec.name: {"name": f"{name}:0", "dtype": "DT_FLOAT", "tensorShape": shape},
            **dict(others),
        }

    def rename(self, wrapping: Wrapping) -> None:
        """Call the inputs and outputs of the signature as the manifest does."""
        for kind, specs in (("inputs", wrapping.inputs), ("outputs", wrapping.outputs)):
            tensors = zip(specs, self.signature[kind].values(), strict=True)
            self.signature[kind] = {spec.name: tensor for spec, tensor in tensors}

    def finish(self) -> bytes:
        """Name the file of the constants in the model's JSON, and return its bytes; empty where there are none."""
        if self._weights:
            self.content["weightsManifest"].append({"paths": [self.file], "weights": self._weights})
        return self._data

    def _node(self, operator: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        types = {"T": {"type": "DT_FLOAT"}, "Tidx": {"type": "DT_INT32"}, "Tperm": {"type": "DT_INT32"}}
        self._nodes.append({"name": name, "op": operator, "input": list(inputs), "attr": types | attributes})
        return name

    def _constant(self, name: str, value: NDArray[Any]) -> str:
        name, dtype = f"{self._prefix}_{name}", value.dtype.name
        self._nodes.append({"name": name, "op": "Const", "attr": {"dtype": {"type": TYPES[dtype]}}})
        self._weights.append({"name": name, "shape": list(value.shape), "dtype": dtype})
        self._data += value.tobytes()
        return name


def _files(content: Mapping[str, Any]) -> Iterator[str]:
    """The names of the files with the weights."""
    for group in content["weightsManifest"]:
        yield from group["paths"]
