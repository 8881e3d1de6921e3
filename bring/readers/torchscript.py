"""TorchScript files: read by PyTorch's own interpreter, and turned into the program of torch.export that they compute.

The program is what is served and converted: it needs no TorchScript, which PyTorch no longer develops.
"""

import warnings
from collections.abc import Sequence
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
from contract.errors import BroughtError
from contract.manifest import TensorSpec
from verify.questions import FREE


def read_script(path: Path, description: Description) -> TorchSource:
    """A TorchScript file, as the program that it computes. Raises BroughtError."""
    try:
        script = torch.jit.load(path, map_location="cpu").eval()
        arguments = [each for each in script.forward.schema.arguments[1:] if not each.has_default_value()]
    except Exception as error:  # PyTorch may raise anything on a damaged file
        raise BroughtError(f"PyTorch {torch.__version__} cannot read {path.name}: {in_short(error)}") from error
    called = [each.name for each in arguments]
    inputs = _of_script(script, path, description, called)
    if [names.clean(spec.name) for spec in inputs] != list(map(names.clean, called)):
        raise BroughtError(
            f"{path.name} takes {', '.join(called)}, and model.toml describes "
            f"{', '.join(spec.name for spec in inputs)}: describe each input by its name, in this order."
        )
    samples = tuple(torch.ones(spec.sizes_at(2, FREE), dtype=DTYPES[spec.dtype]) for spec in inputs)
    source = TorchSource(_as_program(script, samples, path), is_exported_here=True)
    source.inputs = tuple(replace(spec, shape=own.shape) for own, spec in zip(inputs, source.inputs, strict=True))
    source.call_inputs(inputs)
    return source


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


def _answer_alike(script: Any, program: Any, samples: tuple[Tensor, ...]) -> bool:
    """Whether both answer the same, also a second time: some modules keep what they saw before."""
    random = [torch.rand_like(each) if each.is_floating_point() else torch.zeros_like(each) for each in samples]
    for inputs in (samples, random, samples):
        pairs = zip(pytree.tree_leaves(script(*inputs)), pytree.tree_leaves(program(*inputs)), strict=True)
        if not all(torch.allclose(a.double(), b.double(), 1e-3, 1e-4, equal_nan=True) for a, b in pairs):
            return False
    return True
