"""TF.js graph models: their JSON, with the wrapping in its graph, and their weights. Node runs them, as later."""

import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bring import names
from bring.description import Description
from bring.probe import Arrays
from bring.readers.tfjs_graph import Around
from bring.wrapping import Wrapping
from contract.errors import BroughtError, ModelUnavailable
from contract.manifest import Manifest, TensorSpec
from serve.runtimes import Runtime
from serve.runtimes.tfjs import TFJSRuntime

DTYPES = {"DT_FLOAT": "float32", "DT_BOOL": "bool"} | {
    f"DT_{kind}{bits}": f"{kind.lower()}{bits}" for kind in ("INT", "UINT") for bits in (8, 16, 32, 64)
}
"""TF.js holds every kind of whole numbers in 32 bits."""


class TFJSSource:
    format = "tfjs"
    can_wrap = True
    fit = "stretch"
    scales = False

    def __init__(self, path: Path, description: Description) -> None:
        self._file = path
        self._given = json.loads(self._file.read_bytes())
        signature = signature_of(self._given)
        if not signature["inputs"] or not signature["outputs"]:
            raise BroughtError(
                f"{self._file.name} has no signature, which names its inputs and outputs, and its graph has no "
                "placeholder or no end. Convert the model again with a newer tensorflowjs converter."
            )
        for name, tensor in (*signature["inputs"].items(), *signature["outputs"].items()):
            if not tensor.get("name"):
                raise BroughtError(
                    f"The signature of {self._file.name} names no tensor of its graph for {name!r}. Convert the model "
                    "again, or remove the signature: then placeholders go in, and what no node reads comes out."
                )
        self._content = _signed(self._given, signature)
        self.inputs, self.outputs, self.renamed = names.own(
            *(_specs(signature[kind]) for kind in ("inputs", "outputs"))
        )
        self._runtime = self._started()
        self.can_predict = self._runtime is not None

    def _started(self) -> Runtime | None:
        """What runs the model here; None where Node is not there."""
        copy = Path(tempfile.mkdtemp(prefix="tfjs."))
        self.write(copy, Wrapping(self.inputs, self.outputs))
        try:
            runtime = TFJSRuntime(copy, Manifest("model", "tfjs", None, self.inputs, self.outputs, None, ()), 1)
        except ModelUnavailable:
            return None
        weakref.finalize(self, runtime.close)
        return runtime

    def predict(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        assert self._runtime is not None  # see `can_predict`
        answers = self._runtime.predict(inputs)
        return [answers[spec.name] for spec in self.outputs]

    def write(self, folder: Path, wrapping: Wrapping) -> Sequence[Path]:
        """The file with what is added around its graph, and copies of its weights, under its own names for them."""
        files = ["model.json", *(name for group in self._content["weightsManifest"] for name in group["paths"])]
        for name in files:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._file if name == "model.json" else self._file.parent / name, target)
        return [*(folder / name for name in files), *self._wrap(folder, wrapping)]

    def _wrap(self, folder: Path, wrapping: Wrapping) -> Sequence[Path]:
        """Add the wrapping to the copy of the file; the files that it needs more."""
        around = Around(self._content)
        around.rename(wrapping)
        if wrapping.preprocess is not None:
            around.prepare(wrapping)
        if wrapping.ending:
            around.end(wrapping)
        if constants := around.finish():
            (folder / around.file).write_bytes(constants)
        if around.content != self._given:
            (folder / "model.json").write_text(json.dumps(around.content), encoding="utf-8")
        return [folder / around.file] if constants else []


def signature_of(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The tensors that go in and come out, each by its name, with its dtype and its sizes where they are known.

    What the file does not say is as TF.js takes it: placeholders go in, and what no node reads comes out.
    """
    given, nodes = _given(content), content["modelTopology"]["node"]
    read = {end.lstrip("^").partition(":")[0] for node in nodes for end in node.get("input") or []}
    entries = {node["name"]: _tensor(node) for node in nodes if node["op"].startswith("Placeholder")}
    ends = [node for node in nodes if node["name"] not in read and node["op"] not in ("Const", "NoOp")]
    exits = {node["name"]: _tensor(node) for node in ends if node["name"] not in entries}
    known = {f"{node['name']}:0": _tensor(node) for node in nodes}
    return {
        kind: {
            name: {**known.get(f"{str(tensor.get('name')).removesuffix(':0')}:0", {}), **tensor}
            for name, tensor in (given.get(kind) or default).items()
        }
        for kind, default in (("inputs", entries), ("outputs", exits))
    }


def _given(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The signature that TF.js takes: where there are two, the metadata's."""
    return (content.get("userDefinedMetadata") or {}).get("signature") or content.get("signature") or {}


def _signed(content: Mapping[str, Any], signature: Mapping[str, Any]) -> dict[str, Any]:
    """The model with this signature, and none in its metadata, where TF.js would prefer it."""
    metadata = {key: value for key, value in (content.get("userDefinedMetadata") or {}).items() if key != "signature"}
    rest = {key: value for key, value in content.items() if key != "userDefinedMetadata"}
    return {**rest, **({"userDefinedMetadata": metadata} if metadata else {}), "signature": signature}


def _tensor(node: Mapping[str, Any]) -> dict[str, Any]:
    """A node's first output, as a signature describes it."""
    attributes = node.get("attr") or {}
    types = (attributes.get(name, {}).get("type") for name in ("dtype", "DstT", "T"))
    dtype = next(filter(None, types), "DT_FLOAT")
    shape = (attributes.get("shape") or {}).get("shape")
    return {"name": f"{node['name']}:0", "dtype": dtype, **({"tensorShape": shape} if shape else {})}


def _specs(tensors: Mapping[str, Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    specs = []
    for name, tensor in tensors.items():
        sizes = [int(dim["size"]) for dim in (tensor.get("tensorShape") or {}).get("dim", [])]
        dtype = DTYPES.get(str(tensor.get("dtype")))
        if tensor.get("dtype") == "DT_STRING":
            raise BroughtError(
                f"{name!r} holds texts, and TF.js models are served with numbers and bool alone. Bring the SavedModel "
                "that it was made from."
            )
        if dtype is None:
            raise BroughtError(f"{name!r} is {tensor.get('dtype')}: TF.js runs real and whole numbers, and bool.")
        shape = tuple(None if size < 0 else size for size in sizes)
        layout = "NHWC" if len(shape) == 4 else "N" + "D" * (len(shape) - 1)
        specs.append(TensorSpec(name, dtype, shape, layout))
    return tuple(specs)
