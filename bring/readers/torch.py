"""PyTorch files: a `.pt2` of torch.export, or only weights, with the callable that builds the network."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bring import names
from bring.description import Description
from bring.inputs import WEIGHTS_ALONE, described_inputs
from bring.probe import Arrays
from bring.readers import network, training
from bring.verdict.findings import few
from bring.wrapping import Wrapping
from contract.errors import BroughtError, one_line, shortened
from contract.manifest import TensorSpec
from contract.torch_program import without_paths
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
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.bool,
    )
}
DTYPES = {name: dtype for dtype, name in NAMES.items()}


class TorchSource:
    """An exported program: its inputs and outputs are in its signature."""

    format = "torch"
    can_predict = True
    can_wrap = True
    fit = "cover"
    """As torchvision's presets do: they resize the short side, and crop the centre."""

    def __init__(self, program: torch.export.ExportedProgram, is_exported_here: bool) -> None:
        training.refuse_program(program)
        self.note = ""
        self.constants: tuple[str, ...] = ()
        """Inputs that the user describes, and that became constants of the program."""
        self.states: Mapping[str, str] = {}
        self.first_states: Mapping[str, Any] = {}
        self._program, self._is_exported_here = program, is_exported_here
        # Its guards bound the batch to that of the export; `write` exports it again for any batch.
        self._module: Any = Unflattened(program)
        signature = program.graph_signature
        values = {node.name: node.meta.get("val") for node in program.graph.nodes}
        nodes = {node.name: node for node in program.graph.nodes}
        inputs = [
            replace(spec_of(values[name], name), bounds=_bounds(nodes[name]))
            for name in map(str, signature.user_inputs)
        ]
        outputs = [values.get(str(name)) for name in signature.user_outputs]
        if any(not isinstance(value, Tensor) for value in outputs):
            raise BroughtError(
                "The program returns something other than tensors: wrap the module so that it returns only tensors."
            )
        exits = [spec_of(value, f"output_{number}") for number, value in enumerate(outputs)]
        self.inputs, self.outputs, self.renamed = names.own(inputs, exits)
        self.scales = _begins_with_arithmetic(program)

    def call_inputs(self, specs: Sequence[TensorSpec]) -> None:
        """Give the inputs the names of these, which the user or the file has for them, in their order."""
        inputs = [replace(spec, name=own.name) for own, spec in zip(specs, self.inputs, strict=True)]
        self.inputs, self.outputs, self.renamed = names.own(inputs, self.outputs)

    def predict(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        with torch.inference_mode():
            answers = self._module(*(torch.from_numpy(np.array(inputs[spec.name])) for spec in self.inputs))
        return [answer.numpy() for answer in pytree.tree_leaves(answers)]

    def write(self, folder: Path, wrapping: Wrapping) -> Sequence[Path]:
        """Exported again, for any batch; as it is where that fails and nothing is added around its graph."""
        target = folder / "model.pt2"
        samples = tuple(
            torch.zeros(spec.sizes_at(wrapping.batch or 2, FREE), dtype=DTYPES[spec.dtype]) for spec in wrapping.inputs
        )
        free = [
            set() if wrapping.batch else {axis for axis, size in enumerate(spec.shape) if size is None}
            for spec in wrapping.inputs
        ]
        batches = [spec.batch_axis for spec in wrapping.inputs]
        try:
            torch.export.save(without_paths(export(Wrapped(self._module, wrapping), samples, free, batches)), target)
        except Exception as error:  # torch.export may raise anything
            if self._is_exported_here or not wrapping.is_nothing:
                raise BroughtError(f"torch.export cannot put the preprocessing in front: {in_short(error)}") from error
            torch.export.save(without_paths(self._program), target)
        return [target]


ENDINGS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda answers: answers.softmax(1),
    "sigmoid": torch.sigmoid,
    "both": lambda p: torch.cat([1 - p, p], 1),
}


class Wrapped(nn.Module):
    """A module between its pre- and post-processing: it takes pixels (N, H, W, C), 0..255."""

    factor: Tensor
    offset: Tensor

    def __init__(self, module: nn.Module, wrapping: Wrapping) -> None:
        super().__init__()
        self.module = module
        self.preprocess, self.ending = wrapping.preprocess, wrapping.ending
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
        for step in self.ending:
            first = ENDINGS[step](first)
        return (first, *others) if others else first


class Unflattened(nn.Module):
    """A program that takes its tensors one by one, whatever structure it takes them in, such as a dict."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        super().__init__()
        self.module = program.module(check_guards=False)
        self.structure = program.call_spec.in_spec

    def forward(self, *tensors: Tensor) -> Any:
        arguments, named = pytree.tree_unflatten(tensors, self.structure)
        return self.module(*arguments, **named)


class Flat(nn.Module):
    """A network that takes tensors one by one, and returns only the tensors of its answer, in whatever structure."""

    def __init__(self, net: nn.Module, takes_one_tuple: bool = False) -> None:
        super().__init__()
        self.net, self.takes_one_tuple = net, takes_one_tuple

    def forward(self, *tensors: Tensor) -> Any:
        answer = self.net(tensors) if self.takes_one_tuple else self.net(*tensors)
        leaves = [leaf for leaf in pytree.tree_leaves(answer) if isinstance(leaf, Tensor)]
        return tuple(leaves) if len(leaves) > 1 else leaves[0]


def read_program(path: Path, description: Description) -> TorchSource:
    """A `.pt2`. Raises BroughtError."""
    try:
        with path.open("rb") as stream:
            program = torch.export.load(stream)
    except Exception as error:  # PyTorch may raise anything on a damaged file
        raise BroughtError(f"PyTorch {torch.__version__} cannot read {path.name}: {in_short(error)}") from error
    return TorchSource(program, is_exported_here=False)


def read_weights(path: Path, description: Description) -> TorchSource:
    """A `state_dict`, and the network that ARCH builds. Raises BroughtError."""
    net, note = network.build(path, description, "torch.nn.Module", in_short)
    if not isinstance(net, nn.Module):
        raise BroughtError(
            f"ARCH={description.architecture} returned a {type(net).__name__}, expected a torch.nn.Module."
        )
    unused = _load(net, _weights(path), path, description)
    inputs = described_inputs(path, description, DTYPES, WEIGHTS_ALONE)
    flat = Flat(net.eval(), _takes_one_tuple(net, inputs, description))
    source = TorchSource(_as_program(flat, inputs, description), is_exported_here=True)
    source.call_inputs(inputs)
    source.note = " ".join(filter(None, [note, unused]))
    return source


def _as_program(flat: Flat, inputs: Sequence[TensorSpec], description: Description) -> torch.export.ExportedProgram:
    """For any batch, else for a batch of 1. Raises BroughtError."""
    samples, single = (
        tuple(torch.zeros(spec.sizes_at(batch, FREE), dtype=DTYPES[spec.dtype]) for spec in inputs) for batch in (2, 1)
    )
    free = [{axis for axis, size in enumerate(spec.shape) if size is None} for spec in inputs]
    batches = [spec.batch_axis for spec in inputs]
    try:
        return export(flat, samples, free, batches)
    except Exception:  # torch.export may raise anything; a fixed batch may work
        try:
            return export(flat, single, [set() for _ in inputs], batches)
        except Exception as error:
            more = _about_failure(flat, inputs, network.absent_in(error))
            raise BroughtError(
                f"torch.export cannot export {description.architecture}: {in_short(error)}{more}"
            ) from error


def _about_failure(flat: Flat, inputs: Sequence[TensorSpec], package: str | None) -> str:
    """What may be the reason that a network cannot be exported."""
    needs = f" It needs {package}, which is not there." if package else ""
    if flat.takes_one_tuple:
        described = ", ".join(spec.name for spec in inputs)
        needs += f" It takes one argument, so it was given the inputs {described} as a tuple."
    return needs


def _takes_one_tuple(net: nn.Module, inputs: Sequence[TensorSpec], description: Description) -> bool:
    """Whether the network takes all of its inputs as one tuple. Raises BroughtError where it takes another number."""
    try:
        signature = inspect.signature(net.forward)
    except (TypeError, ValueError):  # not every callable has one
        return False
    for tensors, is_one in ((list(inputs), False), ([tuple(inputs)], len(inputs) > 1)):
        try:
            signature.bind(*tensors)
        except TypeError:
            continue
        if is_one or len(tensors) == len(inputs):
            return is_one
    raise BroughtError(
        f"The network of ARCH={description.architecture} takes {', '.join(signature.parameters)}, and the "
        f"inputs that are described are {', '.join(spec.name for spec in inputs)}. Describe each input in "
        "model.toml, in this order, with its name and its shape."
    )


def export(
    module: nn.Module, samples: tuple[Tensor, ...], free: Sequence[set[int]], batches: Sequence[int | None]
) -> torch.export.ExportedProgram:
    """The module as a program. The sizes at the axes in `free` stay free; `batches` are the axes of the same batch."""
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    shapes = tuple(
        {axis: batch if axis == own else torch.export.Dim.AUTO for axis in axes}
        for axes, own in zip(free, batches, strict=True)
    )
    dynamic = {"tensors": shapes} if any(free) else None
    return torch.export.export(module, samples, dynamic_shapes=dynamic)


def _load(net: nn.Module, weights: Mapping[str, Tensor], path: Path, description: Description) -> str:
    """Give a network its weights. The result is a note on weights of parts that it has not. Raises BroughtError."""
    parameters = net.state_dict()
    weights = _without_prefix(weights, parameters)
    parts = {name.partition(".")[0] for name in (*parameters, *(name for name, _ in net.named_children()))}
    unused = [name for name in weights if (part := name.partition(".")[0]) not in parts and not part.isdigit()]
    try:
        net.load_state_dict({name: value for name, value in weights.items() if name not in unused})
    except RuntimeError as error:
        raise BroughtError(
            f"The weights in {path.name} are not those of {description.architecture}: {in_short(error)}"
        ) from error
    return f"The file's {few(unused)} belong to no part of the network, and are left out." if unused else ""


def _without_prefix(weights: Mapping[str, Tensor], parameters: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The weights by the network's own names, where it was a part of another module when they were saved.

    Such as nn.DataParallel ("module."), torch.compile, or what trained it; they stay as they are where that is not
    clear.
    """
    own = [name for name in parameters if not name.endswith("num_batches_tracked")]  # older files do without
    if not own or any(name in weights for name in own):
        return weights
    prefixes = [name.removesuffix(own[0]) for name in weights if name.endswith(f".{own[0]}")]
    fitting = [prefix for prefix in prefixes if all(f"{prefix}{name}" in weights for name in own)]
    if len(fitting) != 1:
        return weights
    return {name.removeprefix(fitting[0]): value for name, value in weights.items()}


def _weights(path: Path) -> Mapping[str, Tensor]:
    if path.read_bytes()[8:9] == b"{":
        from safetensors.torch import load_file

        loaded: Mapping[str, Tensor] = load_file(path)
        return loaded
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch may raise anything on a damaged file
        raise BroughtError(
            f"{path.name} cannot be read as weights ({in_short(error, 200)}). Save them with "
            "torch.save(net.state_dict(), file), or the whole network with torch.export.save."
        ) from error
    for key in ("state_dict", "model_state_dict", "model_state", "params_ema", "params", "weights", "model", "net"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise BroughtError(f"{path.name} does not hold a state_dict: expected torch.save(net.state_dict(), file).")
    return content


def spec_of(value: Any, name: str) -> TensorSpec:
    if not isinstance(value, Tensor) or value.dtype not in NAMES:
        kind = getattr(value, "dtype", type(value).__name__)
        raise BroughtError(f"The program's {name!r} is not a tensor of a supported dtype: got {kind}.")
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    layout = "NCHW" if len(shape) == 4 else "N" + "D" * (len(shape) - 1)
    return TensorSpec(name, NAMES[value.dtype], shape, layout)


def _bounds(node: torch.fx.Node) -> tuple[int, int] | None:
    """The ids that an input takes which goes into embeddings, perhaps as another integer; None where it does not."""
    sizes = list(_tables(node))
    return (0, min(sizes) - 1) if sizes else None


def _tables(node: torch.fx.Node) -> Iterator[int]:
    """The numbers of rows of the embeddings that a node goes into."""
    for user in node.users:
        name = str(user.target)
        if (
            name == "aten.embedding.default"
            and user.args[1] is node
            and isinstance(table := user.args[0], torch.fx.Node)
        ):
            yield int(table.meta["val"].shape[0])
        elif name.startswith(("aten._to_copy.", "aten.to.")):
            yield from _tables(user)


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


def in_short(error: Exception, longest: int = 600) -> str:
    """Without the advice that PyTorch adds for its own developers."""
    return shortened(one_line(error).partition("The error above")[0], longest)
