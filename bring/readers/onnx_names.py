"""Names in ONNX graphs, as every converter and runtime takes them; and no weights among the inputs.

A name may hold any character, and exporters use `:`, `/`, `@` and blanks. TensorFlow's signatures do not take them, and
onnx2tf fails over some. An output may be listed twice. Before version 4 of the format, weights were among the inputs.
"""

import itertools
import re

from onnx import ModelProto

from bring import names
from export.onnx_names import call_ends, graphs_in, nodes_of, rename, tensors_of

WEIGHTS_APART_SINCE = 4
"""The version of the format in which weights need not be among the inputs."""
BETWEEN = r"[^\w./]"
"""What no tensor between inputs and outputs has in its name: dots and slashes say where in a network it is."""


def clean(model: ModelProto) -> str:
    """Rename in place: inputs and outputs by bring/names.py, and what lies between. Returns the changes, for people."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    for value in [value for value in graph.input if value.name in constants]:
        graph.input.remove(value)
    model.ir_version = max(model.ir_version, WEIGHTS_APART_SINCE)
    inputs, outputs = [value.name for value in graph.input], [value.name for value in graph.output]
    new = names.unique([*inputs, *outputs])
    call_ends(model, new[: len(inputs)], new[len(inputs) :])
    _clean_between(model, {*new})
    for part in graphs_in(model):
        for node in part.node:
            node.name = re.sub(BETWEEN, "_", node.name)
    return names.changes([*inputs, *outputs], new)


def prefix_in(model: ModelProto) -> str:
    """How the names of added tensors and nodes begin: as no other does, also not those of an earlier time."""
    known = [*tensors_of(model), *nodes_of(model)]
    prefixes = itertools.chain(["shipped_"], (f"shipped{number}_" for number in itertools.count(2)))
    return next(prefix for prefix in prefixes if not any(name.startswith(prefix) for name in known))


def _clean_between(model: ModelProto, ends: set[str]) -> None:
    known = tensors_of(model)
    taken = {*ends, *known}
    changes = {}
    for name in known.keys() - ends:
        if (wanted := re.sub(BETWEEN, "_", name)) != name:
            changes[name] = names.unlike(wanted, taken) if wanted in taken else wanted
            taken.add(changes[name])
    rename(model, changes)
