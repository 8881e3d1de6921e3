"""Names in ONNX graphs, as every converter and runtime takes them; and no weights among the inputs.

A name may hold any character, and exporters use `:`, `/`, `@` and blanks. TensorFlow's signatures do not take them, and
onnx2tf fails over some. An output may be listed twice. Before version 4 of the format, weights were among the inputs.
"""

import itertools

from onnx import ModelProto

from bring import names
from export.onnx_names import call_ends, clean_between, nodes_of, tensors_of

WEIGHTS_APART_SINCE = 4
"""The version of the format in which weights need not be among the inputs."""


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
    clean_between(model, {*new})
    return names.changes([*inputs, *outputs], new)


def prefix_in(model: ModelProto) -> str:
    """How the names of added tensors and nodes begin: as no other does, also not those of an earlier time."""
    known = [*tensors_of(model), *nodes_of(model)]
    prefixes = itertools.chain(["shipped_"], (f"shipped{number}_" for number in itertools.count(2)))
    return next(prefix for prefix in prefixes if not any(name.startswith(prefix) for name in known))
