"""TF Lite files, copied as they are: nothing can be added around their graphs."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from bring.description import Description
from bring.wrapping import Arrays, Wrapping
from contract.errors import BroughtError, one_line
from contract.manifest import TensorSpec


class TFLiteSource:
    format = "tflite"
    can_predict = True
    can_wrap = False
    scales = False

    def __init__(self, path: Path, description: Description) -> None:
        self._path = path
        try:
            self._interpreter = Interpreter(model_content=path.read_bytes())
            known = self._interpreter.get_signature_list()
            self._runner: Any = None
            if known:
                self._runner = self._interpreter.get_signature_runner(
                    "serving_default" if "serving_default" in known else next(iter(known))
                )
                inputs, outputs = self._runner.get_input_details(), self._runner.get_output_details()
            else:
                inputs = {detail["name"]: detail for detail in self._interpreter.get_input_details()}
                outputs = {detail["name"]: detail for detail in self._interpreter.get_output_details()}
        except (ValueError, RuntimeError) as error:
            raise BroughtError(f"LiteRT cannot read {path.name}: {one_line(error, 600)}") from error
        self.inputs, self.outputs = _specs(inputs), _specs(outputs)

    def predict(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        if self._runner is not None:
            answers: Mapping[str, NDArray[Any]] = self._runner(**inputs)
            return [answers[spec.name] for spec in self.outputs]
        return run_plain(self._interpreter, inputs)

    def write(self, folder: Path, wrapping: Wrapping) -> Sequence[Path]:
        """A copy of the file."""
        target = folder / "model.tflite"
        shutil.copyfile(self._path, target)
        return [target]


def run_plain(interpreter: Interpreter, inputs: Arrays) -> list[NDArray[Any]]:
    """Run a file without signatures; its inputs are resized where they differ from the last call's."""
    details = interpreter.get_input_details()
    for detail in details:
        if tuple(detail["shape"]) != inputs[detail["name"]].shape:
            interpreter.resize_tensor_input(detail["index"], inputs[detail["name"]].shape)
    interpreter.allocate_tensors()
    for detail in details:
        interpreter.set_tensor(detail["index"], inputs[detail["name"]])
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def _specs(details: Mapping[str, Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
    specs = []
    for name, detail in details.items():
        signature = detail.get("shape_signature")
        sizes = detail["shape"] if signature is None or len(signature) == 0 else signature
        shape = tuple(None if size < 0 else int(size) for size in sizes)
        layout = "NHWC" if len(shape) == 4 else "N" + "D" * (len(shape) - 1)
        specs.append(TensorSpec(name, np.dtype(detail["dtype"]).name, shape, layout))
    return tuple(specs)
