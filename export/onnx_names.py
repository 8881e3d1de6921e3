"""Other names for the tensors of an ONNX graph, in which each tensor has one name and an output is called as it is."""

import itertools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from onnx import FunctionProto, GraphProto, ModelProto, helper


def call_ends(model: ModelProto, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Give the graph's inputs and outputs these names, in their order; each name is there once.

    An output that is an input, or another output, too, becomes a copy of it: as one tensor both would have one name.
    """
    graph = model.graph
    names = {value.name: name for value, name in zip(graph.input, inputs, strict=True)}
    taken = {*tensors_of(model), *inputs, *outputs}
    for value, name in zip(graph.output, outputs, strict=True):
        if value.name in names:
            copy = _numbered(value.name, taken)
            graph.node.append(helper.make_node("Identity", [value.name], [copy], name=_numbered(copy, nodes_of(model))))
            taken.add(copy)
            value.name = copy
        names[value.name] = name
    rename(model, names)


def rename(model: ModelProto, names: Mapping[str, str]) -> None:
    """Give tensors other names, old -> new, also inside of branches and loops.

    A tensor that has a new name of another one already gets a number behind it.
    """
    changes = {old: new for old, new in names.items() if old != new}
    if not changes:
        return
    known = tensors_of(model)
    taken = {*known, *changes.values()}
    for name in set(changes.values()) & known.keys() - changes.keys():
        changes[name] = _numbered(name, taken)
        taken.add(changes[name])
    for graph in graphs_in(model):
        if isinstance(graph, GraphProto):  # a function has names of its own
            _rename_in(graph, changes)


def clean_between(model: ModelProto, ends: Collection[str]) -> None:
    """Give nodes, and tensors that are not among the `ends`, names that TensorFlow takes for its scopes."""
    known = tensors_of(model)
    taken = {*ends, *known}
    changes = {}
    for name in known:
        if name not in ends and (wanted := _plain(name)) != name:
            changes[name] = _numbered(wanted, taken) if wanted in taken else wanted
            taken.add(changes[name])
    rename(model, changes)
    for graph in graphs_in(model):
        for node in graph.node:
            node.name = _plain(node.name)


def tensors_of(model: ModelProto) -> dict[str, None]:
    """The names of all tensors, in their order, also inside of branches and loops."""
    names: dict[str, None] = {}
    for graph in graphs_in(model):
        if isinstance(graph, GraphProto):
            values = (*graph.input, *graph.output, *graph.initializer)
            names |= dict.fromkeys(value.name for value in values)
            names |= dict.fromkeys(sparse.values.name for sparse in graph.sparse_initializer)
            names |= dict.fromkeys(name for node in graph.node for name in (*node.input, *node.output))
    names.pop("", None)  # an input that is left out
    return names


def nodes_of(model: ModelProto) -> set[str]:
    """The names of all nodes."""
    return {node.name for graph in graphs_in(model) for node in graph.node}


def graphs_in(model: ModelProto) -> Iterator[GraphProto | FunctionProto]:
    """The model's graph and functions, and the graphs inside attributes of their nodes (If, Loop, Scan)."""
    waiting: list[GraphProto | FunctionProto] = [model.graph, *model.functions]
    while waiting:
        yield (graph := waiting.pop())
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            waiting += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def _rename_in(graph: GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for ends in (node.input, node.output):
            for place, end in enumerate(ends):
                if end in names:
                    ends[place] = names[end]
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for note in graph.quantization_annotation:
        note.tensor_name = names.get(note.tensor_name, note.tensor_name)


def _plain(name: str) -> str:
    """The name without what TensorFlow's scopes do not take: dots and slashes say where in a network it is."""
    plain = re.sub(r"[^A-Za-z0-9_./]", "_", name)
    return f"n{plain}" if plain[:1] in ("_", "/") else plain


def _numbered(name: str, taken: Mapping[str, None] | set[str]) -> str:
    return next(each for each in (f"{name}_{number}" for number in itertools.count(1)) if each not in taken)
