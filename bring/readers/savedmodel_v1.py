"""SavedModels of TensorFlow 1: their variables become constants, and their tables those of TensorFlow 2.

TensorFlow 2 runs such a graph, but writes it without the values of variables of that time (references, which it does
not track) and of tables, and freezes no lookup in a variable that it knows from there. A session of TensorFlow 1 has
all of them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef, SignatureDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

v1 = tf.compat.v1

TABLE = "HashTableV2"
HELD = {"HashTable", "MutableHashTable", "MutableHashTableV2", "VarHandleOp", "Variable", "VariableV2"}
"""Other operators whose values a frozen graph would lack."""


class Frozen(NamedTuple):
    """A signature without variables."""

    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    """Key -> tensor, sorted."""
    call: Callable[..., Mapping[str, Any]]
    """Takes the inputs in their order."""
    tables: Sequence[Any]
    """What the call needs, and has to be saved with it."""


def read(folder: Path) -> Frozen | None:
    """The signature with its weights as constants.

    None where TensorFlow 2 wrote it, where it is not clear which graph or signature is meant, and where it needs more
    than weights and tables. Raises whatever TensorFlow raises for a damaged folder.
    """
    graph = _graph_of(folder)
    key = graph and chosen([key for key in graph.signature_def if not key.startswith("__saved_model")])
    return _frozen(folder, graph, graph.signature_def[key]) if graph and key else None


def chosen(signatures: Collection[str]) -> str | None:
    """The signature that is meant: `serving_default`, or the only one."""
    if "serving_default" in signatures:
        return "serving_default"
    return next(iter(signatures)) if len(signatures) == 1 else None


def _graph_of(folder: Path) -> MetaGraphDef | None:
    """The graph that TensorFlow 1 wrote: the only one, or of several, as for training too, the one that is served."""
    graphs = SavedModel.FromString((folder / "saved_model.pb").read_bytes()).meta_graphs
    served = [graph for graph in graphs if len(graphs) == 1 or list(graph.meta_info_def.tags) in (["serve"], [])]
    if len(served) != 1 or served[0].HasField("object_graph_def"):
        return None
    return served[0]


def _frozen(folder: Path, graph: MetaGraphDef, signature: SignatureDef) -> Frozen | None:
    if any(not tensor.name for tensor in (*signature.inputs.values(), *signature.outputs.values())):
        return None  # a sparse tensor is three
    with v1.Graph().as_default() as loaded, v1.Session() as session:
        v1.saved_model.loader.load(session, list(graph.meta_info_def.tags), str(folder))
        ends = {tensor.name.partition(":")[0] for tensor in signature.outputs.values()}
        definition = v1.graph_util.convert_variables_to_constants(session, loaded.as_graph_def(), sorted(ends))
        tables = {node.name: _filled(session, loaded, node) for node in definition.node if node.op == TABLE}
    if HELD & {node.op for node in definition.node}:
        return None
    return _imported(definition, signature, tables)


def _filled(session: Any, graph: Any, node: Any) -> Any:
    """What fills a table as the session's table is."""
    keys, values = (tf.as_dtype(node.attr[name].type) for name in ("key_dtype", "value_dtype"))
    handle = graph.get_tensor_by_name(f"{node.name}:0")
    rows = session.run(tf.raw_ops.LookupTableExportV2(table_handle=handle, Tkeys=keys, Tvalues=values))
    return keys, values, *rows


def _imported(definition: Any, signature: SignatureDef, filled: Mapping[str, Any]) -> Frozen:
    tables = {}
    for name, (keys, values, *rows) in filled.items():
        fill = tf.lookup.KeyValueTensorInitializer(*rows, keys, values)
        # Each lookup in the graph has a default of its own.
        tables[f"{name}:0"] = tf.lookup.StaticHashTable(fill, tf.zeros([], values))

    def graph() -> None:
        capture = v1.get_default_graph().capture
        known = {name: capture(table.resource_handle) for name, table in tables.items()}
        tf.import_graph_def(definition, known, name="")

    imported = v1.wrap_function(graph, [])
    inputs, outputs = (
        {key: imported.graph.as_graph_element(tensor.name) for key, tensor in sorted(ends.items())}
        for ends in (signature.inputs, signature.outputs)
    )
    call = imported.prune(list(inputs.values()), outputs)
    known = {key: _declared(tensor, signature.outputs[key]) for key, tensor in outputs.items()}
    return Frozen(inputs, known, call, list(tables.values()))


def _declared(tensor: Any, declared: Any) -> Any:
    """The tensor, or where its rank is unknown, what the signature says: that of a lookup is no longer known."""
    return tensor if tensor.shape.rank is not None else tf.TensorSpec(declared.tensor_shape, tensor.dtype)
