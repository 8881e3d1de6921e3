"""TorchScript files: read by PyTorch's own interpreter, and turned into the program of torch.export that they compute.

The program is what is served and converted: it needs no TorchScript, which PyTorch no longer develops.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._export.converter import TS2EPConverter
from torch.utils import _pytree as pytree

from bring import names
from bring.description import Description
from bring.inputs import described_inputs
from bring.readers.torch import DTYPES, TorchSource, in_short, spec_of
from bring.readers.torchscript_state import Script, StateStays, put_outside
from contract.errors import BroughtError
from contract.manifest import TensorSpec
from verify.questions import FREE

NUMBERS: Mapping[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,)}
"""TorchScript's type of an argument that is one number -> what may be given for it."""


def read_script(path: Path, description: Description) -> TorchSource:
    """A TorchScript file, as the program that it computes. Raises BroughtError."""
    try:
        script = _loaded(path)
        arguments = [each for each in script.forward.schema.arguments[1:] if not each.has_default_value()]
    except Exception as error:  # PyTorch may raise anything on a damaged file
        raise BroughtError(f"PyTorch {torch.__version__} cannot read {path.name}: {in_short(error)}") from error
    numbers = _numbers(arguments, description, path)
    if numbers:
        description = description.without_inputs(numbers)
    called = [each.name for each in arguments if each.name not in numbers]
    inputs = _of_script(script, path, description, called)
    if [names.clean(spec.name) for spec in inputs] != list(map(names.clean, called)):
        raise BroughtError(
            f"{path.name} takes {', '.join(called)}, and model.toml describes "
            f"{', '.join(spec.name for spec in inputs)}: describe each input by its name, in this order."
        )
    samples = tuple(torch.ones(spec.sizes_at(2, FREE), dtype=DTYPES[spec.dtype]) for spec in inputs)
    call = _calling(arguments, numbers)
    whole = Script(lambda: _loaded(path), call, inputs, description.domains)
    source = _with_state_outside(whole, path)
    if source is None:
        script = _with_numbers(script, call, numbers, samples, path)
        source = TorchSource(_as_program(script, samples, path), is_exported_here=True)
        source.inputs = tuple(replace(spec, shape=own.shape) for own, spec in zip(inputs, source.inputs, strict=True))
        source.call_inputs(inputs)
    source.constants = tuple(numbers)
    return source


def _loaded(path: Path) -> Any:
    return torch.jit.load(path, map_location="cpu").eval()


def _calling(arguments: Sequence[Any], numbers: Mapping[str, Any]) -> Callable[[Any, Sequence[Tensor]], Any]:
    """How a script is called with tensors: each number is at its place among them."""

    def call(script: Any, tensors: Sequence[Tensor]) -> Any:
        left = iter(tensors)
        return script(*(numbers[each.name] if each.name in numbers else next(left) for each in arguments))

    return call


def _numbers(arguments: Sequence[Any], description: Description, path: Path) -> dict[str, Any]:
    """The arguments that are no tensors, with the only value that the user gives each. Raises BroughtError."""
    numbers = {}
    for each in arguments:
        kind = str(each.type)
        if kind not in NUMBERS:
            continue
        values = next((entry.values for entry in description.inputs if entry.name == each.name), ())
        if len(values) != 1 or type(values[0]) not in NUMBERS[kind]:
            example = {"int": "16000", "float": "0.5", "bool": "true"}[kind]
            raise BroughtError(
                f"{path.name} takes {each.name} as a number ({kind}), not as a tensor: no other format does. Write the "
                f"value that it shall always have into model.toml, besides the inputs:\n\n    [[input]]\n    "
                f'name = "{each.name}"\n    values = [{example}]'
            )
        numbers[each.name] = values[0]
    return numbers


def _with_numbers(
    script: Any,
    call: Callable[[Any, Sequence[Tensor]], Any],
    numbers: Mapping[str, Any],
    samples: tuple[Tensor, ...],
    path: Path,
) -> Any:
    """The script as one that takes the tensors alone. Raises BroughtError where it does not answer `samples`."""
    if not numbers:
        return script

    class WithNumbers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.script = script

        def forward(self, *tensors: Tensor) -> Any:
            return call(self.script, tensors)

    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # TorchScript is deprecated
            return torch.jit.trace(WithNumbers().eval(), samples, check_trace=False)
    except Exception as error:  # PyTorch may raise anything
        shapes = ", ".join(str(list(sample.shape)) for sample in samples)
        values = ", ".join(f"{name} = {value}" for name, value in numbers.items())
        raise BroughtError(f"{path.name} does not answer {shapes} with {values}: {in_short(error)}") from error


def _of_script(script: Any, path: Path, description: Description, called: Sequence[str]) -> list[TensorSpec]:
    """The inputs: as the user describes them, or as the file was traced. Raises BroughtError where neither is known."""
    recorded = dict(script._c._retrieve_traced_inputs().items())
    traced = recorded.get("forward", ())
    is_described = any(entry.shape is not None for entry in description.inputs) or (
        description.preprocess is not None and description.preprocess.size is not None
    )
    if not is_described and len(traced) == len(called) and all(isinstance(each, Tensor) for each in traced):
        pairs = zip(traced, called, strict=True)
        specs = [spec_of(each, name) for each, name in pairs]
        return [replace(spec, shape=spec.shape_at(None)) if spec.shape else spec for spec in specs]
    inputs = described_inputs(
        path, description, DTYPES, "is TorchScript, which does not say what sizes its inputs have", called
    )
    is_picture = len(inputs) == len(called) == 1 and not description.inputs
    return [replace(inputs[0], name=called[0])] if is_picture else inputs


def _as_program(script: Any, samples: tuple[Tensor, ...], path: Path) -> torch.export.ExportedProgram:
    """The program of a TorchScript module; what it decides by its inputs' values is decided as for `samples` at worst.

    Raises BroughtError where it cannot be had, or answers otherwise than the file.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        reasons = []
        for simplified in (lambda: script, lambda: torch.jit.freeze(script), lambda: torch.jit.trace(script, samples)):
            try:
                program = TS2EPConverter(simplified(), samples).convert()
                if _answer_alike(script, program.module(check_guards=False), samples):
                    return program
                reasons.append("the program answers otherwise")
            except Exception as error:  # PyTorch may raise anything
                reasons.append(in_short(error, 300))
    raise BroughtError(
        f"{path.name} is TorchScript that PyTorch {torch.__version__} cannot turn into a program of torch.export: "
        f"{reasons[-1]} Where its module is built, save it with "
        '`torch.export.save(torch.export.export(model.eval(), (example,)), "model.pt2")`.'
    )


def _with_state_outside(script: Script, path: Path) -> TorchSource | None:
    """None for a file that keeps no state. Raises BroughtError where its state has to stay inside."""
    try:
        return put_outside(script)
    except StateStays as reason:
        raise BroughtError(
            f"{path.name} keeps a state between its calls, which cannot be put among its inputs and outputs: {reason}. "
            "Other formats answer from their inputs alone. Bring the model with its state among its inputs and "
            "outputs; many such models are also shipped so, in ONNX."
        ) from reason


def _answer_alike(script: Any, program: Any, samples: tuple[Tensor, ...]) -> bool:
    """Whether both answer the same, also a second time: some modules keep what they saw before."""
    random = [torch.rand_like(each) if each.is_floating_point() else torch.zeros_like(each) for each in samples]
    for inputs in (samples, random, samples):
        pairs = zip(pytree.tree_leaves(script(*inputs)), pytree.tree_leaves(program(*inputs)), strict=True)
        if not all(torch.allclose(a.double(), b.double(), 1e-3, 1e-4, equal_nan=True) for a, b in pairs):
            return False
    return True
