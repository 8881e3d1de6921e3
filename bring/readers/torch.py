"""PyTorch files: a `.pt2` of torch.export, or only weights, with the callable that builds their network."""

import importlib
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bring.description import Description
from bring.wrapping import Arrays, Wrapping
from contract.errors import BroughtError, one_line
from contract.manifest import TensorSpec
from verify.questions import FREE

MAX_BATCH = 4096
NAMES = {
    dtype: str(dtype).removeprefix("torch.")
    for dtype in (
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.uint8,
        torch.bool,
    )
}
DTYPES = {name: dtype for dtype, name in NAMES.items()}


class TorchSource:
    """An exported program: its inputs and outputs are in its signature."""

    format = "torch"
    can_predict = True
    can_wrap = True

    def __init__(self, program: torch.export.ExportedProgram, file: Path | None) -> None:
        self._program, self._file = program, file
        # Its guards bound the batch to that of the export; `write` exports it again for any batch.
        self._module: Any = program.module(check_guards=False)
        signature = program.graph_signature
        values = {node.name: node.meta.get("val") for node in program.graph.nodes}
        self.inputs = tuple(_spec(values[name], name) for name in map(str, signature.user_inputs))
        outputs = [values.get(str(name)) for name in signature.user_outputs]
        if any(not isinstance(value, Tensor) for value in outputs):
            raise BroughtError(
                "The program returns something other than tensors: wrap the module so that it returns only tensors."
            )
        self.outputs = tuple(_spec(value, f"output_{number}") for number, value in enumerate(outputs))
        self.scales = _begins_with_arithmetic(program)

    def predict(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        with torch.inference_mode():
            answers = self._module(*(torch.from_numpy(np.array(inputs[spec.name])) for spec in self.inputs))
        return [answer.numpy() for answer in pytree.tree_leaves(answers)]

    def write(self, folder: Path, wrapping: Wrapping) -> Sequence[Path]:
        """Exported again, for any batch; a copy of the file where that fails and nothing is added around its graph."""
        target = folder / "model.pt2"
        rows = wrapping.batch or 2
        samples = tuple(
            torch.zeros(rows, *(size or FREE for size in spec.shape[1:]), dtype=DTYPES[spec.dtype])
            for spec in wrapping.inputs
        )
        free = [
            set() if wrapping.batch else {axis for axis, size in enumerate(spec.shape) if size is None}
            for spec in wrapping.inputs
        ]
        try:
            torch.export.save(export(Wrapped(self._module, wrapping), samples, free), target)
        except Exception as error:  # torch.export may raise anything
            if self._file is None or not wrapping.is_nothing:
                raise BroughtError(f"torch.export cannot put the preprocessing in front: {_in_short(error)}") from error
            shutil.copyfile(self._file, target)
        return [target]


class Wrapped(nn.Module):
    """A module between its pre- and post-processing: it takes pixels (N, H, W, C), 0..255."""

    factor: Tensor
    offset: Tensor

    def __init__(self, module: nn.Module, wrapping: Wrapping) -> None:
        super().__init__()
        self.module = module
        self.preprocess, self.softmax = wrapping.preprocess, wrapping.softmax
        if wrapping.preprocess is not None:
            factor, offset = wrapping.affine()
            self.register_buffer("factor", torch.tensor(factor, dtype=torch.float32))
            self.register_buffer("offset", torch.tensor(offset, dtype=torch.float32))

    def forward(self, *tensors: Tensor) -> Any:
        if self.preprocess is not None:
            (pixels,) = tensors
            if self.preprocess.order == "BGR":
                pixels = pixels.flip(-1)
            if self.preprocess.changes_values:
                pixels = pixels * self.factor + self.offset
            tensors = (pixels.permute(0, 3, 1, 2) if self.preprocess.layout == "NCHW" else pixels,)
        first, *others = pytree.tree_leaves(self.module(*tensors))
        if self.softmax:
            first = first.softmax(1)
        return (first, *others) if others else first


class Flat(nn.Module):
    """A network that returns only the tensors of its answer, whatever structure they came in."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *tensors: Tensor) -> Any:
        leaves = [leaf for leaf in pytree.tree_leaves(self.net(*tensors)) if isinstance(leaf, Tensor)]
        return tuple(leaves) if len(leaves) > 1 else leaves[0]


def read_program(path: Path, description: Description) -> TorchSource:
    """A `.pt2`. Raises BroughtError."""
    try:
        with path.open("rb") as stream:
            program = torch.export.load(stream)
    except Exception as error:  # PyTorch may raise anything on a damaged file
        raise BroughtError(f"PyTorch {torch.__version__} cannot read {path.name}: {_in_short(error)}") from error
    return TorchSource(program, path)


def read_weights(path: Path, description: Description) -> TorchSource:
    """A `state_dict`, and the network that ARCH builds. Raises BroughtError."""
    net = _build(path, description)
    weights = _weights(path)
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise BroughtError(
            f"The weights in {path.name} are not those of {description.architecture}: {_in_short(error)}"
        ) from error
    inputs = _inputs(path, description)
    samples = tuple(torch.zeros(2, *(size or 16 for size in shape), dtype=DTYPES[dtype]) for _, dtype, shape in inputs)
    free = [{0, *(axis for axis, size in enumerate(shape, 1) if size is None)} for _, _, shape in inputs]
    flat = Flat(net.eval())
    try:
        program = export(flat, samples, free)
    except Exception:  # torch.export may raise anything; a fixed batch may work
        try:
            program = export(flat, tuple(sample[:1] for sample in samples), [set() for _ in inputs])
        except Exception as error:
            raise BroughtError(f"torch.export cannot export {description.architecture}: {_in_short(error)}") from error
    source = TorchSource(program, None)
    names = [name for name, _, _ in inputs]
    source.inputs = tuple(
        TensorSpec(name, spec.dtype, spec.shape, spec.layout) for name, spec in zip(names, source.inputs, strict=True)
    )
    return source


def export(module: nn.Module, samples: tuple[Tensor, ...], free: Sequence[set[int]]) -> torch.export.ExportedProgram:
    """The module as a program. The sizes at the axes in `free` stay free; axis 0 of all inputs is the same batch."""
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    shapes = tuple({axis: batch if axis == 0 else torch.export.Dim.AUTO for axis in axes} for axes in free)
    dynamic = {"tensors": shapes} if any(free) else None
    return torch.export.export(module, samples, dynamic_shapes=dynamic)


def _build(path: Path, description: Description) -> nn.Module:
    architecture = description.architecture
    if not architecture:
        raise BroughtError(
            f"{path.name} has only weights, not their network. Set ARCH=module:callable, such as ARCH=nets:build: "
            "nets.py lies beside the file, and build() returns the torch.nn.Module."
        )
    module, colon, name = architecture.partition(":")
    sys.path[:0] = [str(path.resolve().parent)]
    try:
        net = getattr(importlib.import_module(module), name)()
    except Exception as error:  # it is the user's own code
        raise BroughtError(f"ARCH={architecture} could not be called: {_in_short(error)}") from error
    if not colon or not isinstance(net, nn.Module):
        raise BroughtError(
            f"ARCH={architecture} returned a {type(net).__name__}, expected a torch.nn.Module. Use module:callable."
        )
    return net


def _weights(path: Path) -> Mapping[str, Tensor]:
    if path.read_bytes()[8:9] == b"{":
        from safetensors.torch import load_file

        loaded: Mapping[str, Tensor] = load_file(path)
        return loaded
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch may raise anything on a damaged file
        raise BroughtError(
            f"{path.name} cannot be read as weights ({_in_short(error)[:200]}). Save them with "
            "torch.save(net.state_dict(), file), or the whole network with torch.export.save."
        ) from error
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise BroughtError(f"{path.name} does not hold a state_dict: expected torch.save(net.state_dict(), file).")
    return content


def _inputs(path: Path, description: Description) -> list[tuple[str, str, tuple[int | None, ...]]]:
    if description.inputs:
        return [(entry.name, entry.dtype, entry.shape) for entry in description.inputs]
    preprocess = description.preprocess
    if preprocess is None or preprocess.size is None:
        raise BroughtError(
            f"{path.name} has only weights, which do not say what the inputs are. For pictures set "
            'PREPROCESS="size=224 channels=3 scale=1/255"; for other tensors write them into model.toml: '
            '[[input]] name = "tokens", dtype = "int64", shape = [-1, 128].'
        )
    channels = preprocess.channels or 3
    shape = (*preprocess.size, channels) if preprocess.layout == "NHWC" else (channels, *preprocess.size)
    return [("pixels", "float32", shape)]


def _spec(value: Any, name: str) -> TensorSpec:
    if not isinstance(value, Tensor) or value.dtype not in NAMES:
        kind = getattr(value, "dtype", type(value).__name__)
        raise BroughtError(f"The program's {name!r} is not a tensor of a supported dtype: got {kind}.")
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    layout = "NCHW" if len(shape) == 4 else "N" + "D" * (len(shape) - 1)
    return TensorSpec(name, NAMES[value.dtype], shape, layout)


def _begins_with_arithmetic(program: torch.export.ExportedProgram) -> bool:
    """Whether the input is scaled before anything else happens to it."""
    node = next((node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs), None)
    while node is not None and len(node.users) == 1:
        node = next(iter(node.users))
        name = str(node.target)
        if any(f"aten.{word}." in name for word in ("div", "mul", "sub")):
            return True
        if not any(
            f"aten.{word}." in name for word in ("permute", "_to_copy", "to", "contiguous", "clone", "transpose")
        ):
            return False
    return False


def _in_short(error: Exception) -> str:
    """Without the advice that PyTorch adds for its own developers."""
    message, _, _ = one_line(error).partition("The error above")
    return message if len(message) <= 600 else f"{message[:600]} ..."
