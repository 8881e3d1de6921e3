"""TorchScript that keeps a state between its calls, as a program with the state among its inputs and outputs.

The file's code is run as it is, and PyTorch's dispatcher records which operators it calls, from the tensors that its
attributes are set to, to those that they hold afterwards. What it remembers and does not change any more, such as the
last sample rate, stays as it is after some calls.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from bring import names
from bring.readers.torch import DTYPES, Flat, TorchSource, export, in_short, spec_of
from bring.states import first_value
from contract.manifest import TensorSpec
from verify.questions import FREE, Domain, invented

CALLS = 6
"""How many calls in a row prove that the program answers as the file does."""
PROVEN = 1
"""The seed of the rows of the proof."""
SETTLED = 3
"""After so many calls, what never changed in them is taken for settled."""


class StateStays(Exception):
    """Why a state cannot be put among the inputs and outputs, as a part of a sentence."""


@dataclass(frozen=True)
class Script:
    """A file that may change itself when it is called."""

    load: Callable[[], Any]
    """A copy that was never called."""
    call: Callable[[Any, Sequence[Tensor]], Any]
    """(copy, tensors) -> its answer, with the numbers that the user gives it."""
    inputs: Sequence[TensorSpec]
    domains: Mapping[str, Domain]

    def rows(self, batch: int, seed: int = 0) -> list[tuple[Tensor, ...]]:
        """With what it is called in a row."""
        specs = [replace(spec, shape=spec.sizes_at(batch, FREE), layout="D" * len(spec.shape)) for spec in self.inputs]
        made = invented(specs, CALLS, 2, seed, self.domains, are_calls=True)
        rows = [[made[spec.name][number] for spec in specs] for number in range(CALLS)]
        kinds = [DTYPES[spec.dtype] for spec in specs]
        return [tuple(torch.as_tensor(each).to(kind) for each, kind in zip(row, kinds, strict=True)) for row in rows]

    def answers(self, copy: Any, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [each for each in pytree.tree_leaves(self.call(copy, tensors)) if isinstance(each, Tensor)]


@dataclass(frozen=True)
class Recorded:
    """What a file computes in one call, at one batch."""

    module: GraphModule
    """(its tensors, its states) -> (its answers, its states)."""
    first: Mapping[str, Tensor]
    """Attribute that is a state -> what it begins with."""


class _Reading(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Whether code reads a tensor's value, and may go another way for another one."""

    is_seen = False

    def __torch_dispatch__(
        self, operator: Any, types: Any, positional: Sequence[Any] = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        self.is_seen |= operator is torch.ops.aten._local_scalar_dense.default
        return operator(*positional, **(named or {}))


def put_outside(script: Script) -> TorchSource | None:
    """The program of a file that changes itself, its states behind its own inputs and outputs; None for another.

    Raises StateStays where it answers from the calls before, and no program does so from its inputs.
    """
    # Optimised, it would run fused parts whose operators nobody sees.
    with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        changed = _first_answered(script)
        if changed is None:
            return None
        reasons = []
        for batches in ((2, 3), (1,)):
            try:
                return _source(script, batches)
            except StateStays as error:
                reasons.append(str(error))
            except Exception as error:  # PyTorch may raise anything
                reasons.append(f"no program can be made of it: {in_short(error, 300)}")
    if changed == "state":
        raise StateStays(reasons[-1])
    return None


def _first_answered(script: Script) -> Literal["itself", "state"] | None:
    """`_changed` at the first batch that the file answers: some answer a single row alone."""
    for batch in (2, 1):
        try:
            return _changed(script, batch)
        except Exception:  # it does not answer these rows: whoever makes a program of it says why
            continue
    return None


def _changed(script: Script, batch: int) -> Literal["itself", "state"] | None:
    """Whether a call changes a file, and with that its answers to later ones; None where it stays as it is.

    Raises whatever the file raises where it does not answer this batch.
    """
    copy, rows = script.load(), script.rows(batch)
    slots = _slots(copy)
    before = _values(copy, slots)
    calls = (*rows[:SETTLED], rows[0])
    answers = [script.answers(copy, row) for row in calls]
    if all(_are_equal(value, before[slot]) for slot, value in _values(copy, slots).items()):
        return None
    alone = [script.answers(script.load(), row) for row in calls]
    return "itself" if all(map(_are_close, answers, alone)) else "state"


def _slots(copy: Any) -> list[str]:
    """Attributes that its code sets, such as `encoder.state`, and buffers, which it may change in place."""
    graph = copy.inlined_graph  # its nodes are gone when it is
    changed = [
        ".".join([*_path(next(iter(node.inputs()))), node.s("name")])
        for node in graph.findAllNodes("prim::SetAttr", recurse=True)
    ]
    return list(dict.fromkeys([*changed, *(name for name, _ in copy.named_buffers())]))


def _path(module: Any) -> list[str]:
    """The names that lead from the whole module to this part of it."""
    node = module.node()
    return [*_path(next(iter(node.inputs()))), node.s("name")] if node.kind() == "prim::GetAttr" else []


def _values(copy: Any, slots: Sequence[str]) -> dict[str, Any]:
    values = {slot: getattr(_owner(copy, slot), slot.rpartition(".")[2]) for slot in slots}
    return {slot: pytree.tree_map_only(Tensor, torch.clone, value) for slot, value in values.items()}


def _owner(copy: Any, slot: str) -> Any:
    return functools.reduce(getattr, slot.split(".")[:-1], copy)


def _source(script: Script, batches: Sequence[int]) -> TorchSource:
    """For any batch where two are tried, else for that one. Raises StateStays, and whatever PyTorch raises."""
    recorded = [_recorded(script, batch) for batch in batches]
    if len({each.module.code for each in recorded}) > 1 or len({tuple(each.first) for each in recorded}) > 1:
        raise StateStays("what it computes depends on the batch")
    slots = list(recorded[0].first)
    inputs = [*script.inputs, *(_spec(slot, [each.first[slot] for each in recorded]) for slot in slots)]
    is_free = len(batches) > 1
    if not is_free and any(None in spec.shape_at(1) for spec in inputs):
        raise StateStays("it would take one length alone: give each of its sizes but the batch in model.toml")
    samples = (*script.rows(batches[0])[0], *recorded[0].first.values())
    free = [{axis for axis, size in enumerate(spec.shape) if size is None and is_free} for spec in inputs]
    places = [spec.batch_axis for spec in inputs]
    source = TorchSource(export(Flat(recorded[0].module), samples, free, places), is_exported_here=True)
    _name(source, inputs, slots)
    for batch, each in zip(batches, recorded, strict=True):
        _prove(script, source, each.first, batch)
    source.first_states = {
        spec.name: _first_value(slot, recorded[0].first[slot], spec)
        for slot, spec in zip(slots, source.inputs[len(script.inputs) :], strict=True)
    }
    return source


def _recorded(script: Script, batch: int) -> Recorded:
    """Raises StateStays where it remembers more than tensors of one shape."""
    copy, rows = script.load(), script.rows(batch)
    slots = _slots(copy)
    fresh, after = _values(copy, slots), []
    for row in rows[:SETTLED]:
        script.call(copy, row)
        after.append(_values(copy, slots))
    states = {
        slot: value for slot, value in after[-1].items() if not all(_are_equal(each[slot], value) for each in after)
    }
    for slot in states:
        _check(slot, [each[slot] for each in after])
    count = len(script.inputs)

    def call(*tensors: Tensor) -> list[Tensor]:
        for slot, state in zip(states, tensors[count:], strict=True):
            setattr(_owner(copy, slot), slot.rpartition(".")[2], state.clone())  # it may be changed in place
        return [*script.answers(copy, tensors[:count]), *_values(copy, list(states)).values()]

    try:
        module = make_fx(call)(*rows[0], *states.values())
    except Exception as error:  # PyTorch may raise anything
        with _Reading() as reading:  # type: ignore[no-untyped-call]
            script.call(copy, rows[0])
        if reading.is_seen:
            raise StateStays("what it computes depends on the values of its tensors") from error
        raise
    module.graph.eliminate_dead_code()
    module.recompile()
    for name, value in module.named_buffers():  # converters copy its constants, and cannot copy one that learns
        setattr(module, name, value.detach())
    begins = {slot: _begin(fresh[slot], value) for slot, value in states.items()}
    return Recorded(module, begins)


def _check(slot: str, values: Sequence[Any]) -> None:
    """Raises StateStays for what no tensor of one shape can hold, by its values after some calls."""
    if not all(isinstance(value, Tensor) for value in values):
        first, second = values[:2]
        if isinstance(second, int | float):
            raise StateStays(f"{slot} is a number that changes with each call: {first}, then {second}")
        raise StateStays(f"{slot} is no tensor, but a {type(second).__name__}")
    if len({(value.shape, value.dtype) for value in values}) > 1:
        shapes = ", then ".join(str(list(value.shape)) for value in values[:2])
        raise StateStays(f"{slot} has another shape after each call: {shapes}")


def _begin(fresh: Any, state: Tensor) -> Tensor:
    """What a state begins with: as it is in the file where that has its shape, else zeros; `_prove` shows whether."""
    is_it = isinstance(fresh, Tensor) and (fresh.shape, fresh.dtype) == (state.shape, state.dtype)
    return fresh.clone() if is_it else torch.zeros_like(state)


def _spec(slot: str, states: Sequence[Tensor]) -> TensorSpec:
    """A state's input, from what it is at some batches: where they differ is the axis of the batch."""
    name = "_".join(part.strip("_") for part in slot.split("."))
    spec = spec_of(states[0], name)
    axes = [axis for axis, sizes in enumerate(zip(*(each.shape for each in states), strict=True)) if len({*sizes}) > 1]
    if len(axes) > 1:
        raise StateStays(f"{slot} grows with the batch along more than one axis")
    layout = "".join("N" if axis in axes else "D" for axis in range(len(spec.shape)))
    shape = tuple(None if axis in axes else size for axis, size in enumerate(spec.shape))
    return replace(spec, shape=shape, layout=layout)


def _name(source: TorchSource, inputs: Sequence[TensorSpec], slots: Sequence[str]) -> None:
    """Give a program the names of these inputs; its last outputs those of its last inputs."""
    answers = len(source.outputs) - len(slots)
    entries = [replace(own, name=spec.name) for spec, own in zip(inputs, source.inputs, strict=True)]
    states = entries[len(entries) - len(slots) :]
    exits = [
        *source.outputs[:answers],
        *(replace(own, name=f"{spec.name}_out") for spec, own in zip(states, source.outputs[answers:], strict=True)),
    ]
    source.inputs, source.outputs, source.renamed = names.own(entries, exits)
    pairs = zip(source.inputs[len(entries) - len(slots) :], source.outputs[answers:], strict=True)
    source.states = {entry.name: exit.name for entry, exit in pairs}


def _prove(script: Script, source: TorchSource, first: Mapping[str, Tensor], batch: int) -> None:
    """Call both some times in a row. Raises StateStays where they differ."""
    copy, states = script.load(), [state.numpy() for state in first.values()]
    # Other rows than were recorded: what it kept of those for ever is a constant of the program, and wrong.
    for number, row in enumerate(script.rows(batch, PROVEN), 1):
        expected = [*script.answers(copy, row), *_values(copy, list(first)).values()]
        values: list[NDArray[Any]] = [*(each.numpy() for each in row), *states]
        named = {spec.name: value for spec, value in zip(source.inputs, values, strict=True)}
        got = list(source.predict(named))
        states = got[len(got) - len(first) :]
        if not _are_close(expected, [torch.from_numpy(each) for each in got]):
            raise StateStays(f"with it among the inputs and outputs, call {number} is answered otherwise")


def _first_value(slot: str, first: Tensor, spec: TensorSpec) -> Any:
    """For the manifest, by `first_value`. Raises StateStays where it cannot be told."""
    value = first_value(first.numpy())
    if value is None or (isinstance(value, list) and None in spec.shape):
        raise StateStays(f"{slot} begins with {first.numel()} different values, which are too many to be told")
    return value


def _are_equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        is_alike = (first.shape, first.dtype) == (second.shape, second.dtype)
        return is_alike and bool(torch.equal(first.nan_to_num(), second.nan_to_num()))
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(_are_equal, first, second))
    return type(first) is type(second) and bool(first == second)


def _are_close(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    pairs = zip(first, second, strict=True)
    return all(a.shape == b.shape and torch.allclose(a.double(), b.double(), 1e-3, 1e-4, True) for a, b in pairs)
