"""TF Lite files, copied as they are but for names and states: nothing can be added around their graphs."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from bring import names
from bring.description import Description
from bring.probe import Arrays
from bring.wrapping import Wrapping
from contract.errors import BroughtError, one_line
from contract.manifest import TensorSpec

STATE = "VAR_HANDLE"
"""The operator that a file has where it keeps a state."""


class TFLiteSource:
    format = "tflite"
    can_predict = True
    can_wrap = False
    fit = "stretch"
    scales = False

    def __init__(self, path: Path, description: Description) -> None:
        self._content, self._name = path.read_bytes(), path.name
        self.states: Mapping[str, str] = {}
        self.first_states: Mapping[str, Any] = {}
        self.note = self.state_stays = ""
        """What people should know; and why a state has to stay inside."""
        self._open()
        self.keeps_state = STATE in {each["op_name"] for each in self._interpreter._get_ops_details()}
        """Whether variables inside outlive a call."""
        if self.keeps_state:
            self._put_states_outside(description)

    def _open(self) -> None:
        try:
            self._interpreter = Interpreter(model_content=self._content)
            known = self._interpreter.get_signature_list()
            self._runner: Any = None
            self._signature = "serving_default" if "serving_default" in known else next(iter(known), None)
            if self._signature is not None:
                self._runner = self._interpreter.get_signature_runner(self._signature)
                inputs, outputs = self._runner.get_input_details(), self._runner.get_output_details()
                self._keys = _states_last(inputs, self.states), _states_last(outputs, self.states.values())
                pairs = zip(self._keys, (inputs, outputs), strict=True)
                entries, exits = (_specs(keys, [details[key] for key in keys]) for keys, details in pairs)
            else:
                tensors = self._interpreter.get_input_details(), self._interpreter.get_output_details()
                entries, exits = (_specs([each["name"] for each in details], details) for details in tensors)
            self.is_quantised = any(detail["quantization"][0] for detail in self._interpreter.get_tensor_details())
        except (ValueError, RuntimeError) as error:
            raise BroughtError(f"LiteRT cannot read {self._name}: {one_line(error, 600)}") from error
        self.inputs, self.outputs, self.renamed = names.own(entries, exits)

    def _put_states_outside(self, description: Description) -> None:
        """Where it cannot be done, the state stays inside, and the note says why. Raises BroughtError."""
        # Few files need them, and they take seconds.
        from bring.readers import tflite_states
        from bring.readers.tflite_variables import StateStays

        signature = None if self._signature is None else (self._signature, *self._keys)
        try:
            outside = tflite_states.outside(self._content, signature, self.inputs, description.domains, self._name)
        except StateStays as reason:
            self.state_stays = f"The state cannot be put among its inputs and outputs: {reason}."
            self.note = f"It keeps a state between its calls. {self.state_stays}"
            return
        self._content, self.states, self.first_states = outside.content, outside.states, tflite_states.firsts(outside)
        self.keeps_state = False
        self._open()

    def predict(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        if self._runner is not None:
            keys = zip(self._keys[0], self.inputs, strict=True)
            answers: Mapping[str, NDArray[Any]] = self._runner(**{key: inputs[spec.name] for key, spec in keys})
            return [answers[key] for key in self._keys[1]]
        return run_plain(self._interpreter, [inputs[spec.name] for spec in self.inputs])

    def write(self, folder: Path, wrapping: Wrapping) -> Sequence[Path]:
        """The file, its states outside; its signatures call the tensors as the manifest does."""
        target = folder / "model.tflite"
        target.write_bytes(self._content)
        if self._runner is not None:
            pairs = zip(self._keys, (self.inputs, self.outputs), strict=True)
            others = [
                {key: spec.name for key, spec in zip(keys, specs, strict=True) if key != spec.name}
                for keys, specs in pairs
            ]
            if any(others):
                _call_tensors(target, *others)
        return [target]


def _states_last(keys: Iterable[str], states: Collection[str]) -> list[str]:
    """The keys of a signature, which a file has in the order of letters: what comes first is taken as the answer."""
    return sorted(keys, key=lambda key: key in states)


def run_plain(interpreter: Interpreter, values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Run a file without signatures; its inputs, in its order, are resized where they differ from the last call's."""
    details = interpreter.get_input_details()
    for detail, value in zip(details, values, strict=True):
        if tuple(detail["shape"]) != value.shape:
            interpreter.resize_tensor_input(detail["index"], value.shape)
    interpreter.allocate_tensors()
    for detail, value in zip(details, values, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def _call_tensors(path: Path, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Give tensors other names in the file's signatures, which every runtime finds them by."""
    from export import tflite_file  # few files need it, and it takes seconds

    model = tflite_file.unpacked(path.read_bytes())
    if model is None:
        raise BroughtError(
            f"{path.name} has more than 2 GB, and tensors called {', '.join([*inputs, *outputs])}, which not every "
            "format can: convert it again with names of letters, digits and _, each for one tensor."
        )
    for signature in model.signatureDefs:
        for tensors, others in ((signature.inputs, inputs), (signature.outputs, outputs)):
            for tensor in tensors:
                name = tensor.name.decode()
                tensor.name = others.get(name, name).encode()
    path.write_bytes(tflite_file.packed(model))


def _specs(names: Iterable[str], details: Iterable[Mapping[str, Any]]) -> list[TensorSpec]:
    specs = []
    for name, detail in zip(names, details, strict=True):
        signature = detail.get("shape_signature")
        sizes = detail["shape"] if signature is None or len(signature) == 0 else signature
        shape = tuple(None if size < 0 else int(size) for size in sizes)
        layout = "NHWC" if len(shape) == 4 else "N" + "D" * (len(shape) - 1)
        specs.append(TensorSpec(name, np.dtype(detail["dtype"]).name, shape, layout))
    return specs
