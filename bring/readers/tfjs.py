"""TF.js graph models, copied as they are: nothing can be added around their graphs."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bring.description import Description
from bring.wrapping import Arrays, Wrapping
from contract.errors import BroughtError
from contract.manifest import TensorSpec

DTYPES = {"DT_FLOAT": "float32", "DT_INT32": "int32", "DT_BOOL": "bool"}


class TFJSSource:
    format = "tfjs"
    can_predict = False  # only Node runs it, as the service does
    can_wrap = False
    scales = False

    def __init__(self, path: Path, description: Description) -> None:
        self._file = path
        self._content = json.loads(self._file.read_bytes())
        signature = self._content.get("signature") or (self._content.get("userDefinedMetadata") or {}).get("signature")
        if not signature or not signature.get("inputs") or not signature.get("outputs"):
            raise BroughtError(
                f"{self._file.name} has no signature, which names its inputs and outputs. "
                "Convert the model again with a newer tensorflowjs converter."
            )
        self.inputs, self.outputs = (_specs(signature[kind]) for kind in ("inputs", "outputs"))

    def predict(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        """Never called: see `can_predict`."""
        raise AssertionError(self._file)

    def write(self, folder: Path, wrapping: Wrapping) -> Sequence[Path]:
        """Copies of the file and its weights, under the names that the file has for them."""
        names = ["model.json", *(name for group in self._content["weightsManifest"] for name in group["paths"])]
        for name in names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self._file if name == "model.json" else self._file.parent / name, target)
        return [folder / name for name in names]


def _specs(tensors: Mapping[str, Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    specs = []
    for name, tensor in tensors.items():
        sizes = [int(dim["size"]) for dim in (tensor.get("tensorShape") or {}).get("dim", [])]
        dtype = DTYPES.get(str(tensor.get("dtype")))
        if dtype is None:
            raise BroughtError(f"{name!r} is {tensor.get('dtype')}: TF.js runs float32, int32 and bool.")
        shape = tuple(None if size < 0 else size for size in sizes)
        layout = "NHWC" if len(shape) == 4 else "N" + "D" * (len(shape) - 1)
        specs.append(TensorSpec(name.split(":")[0], dtype, shape, layout))
    return tuple(specs)
