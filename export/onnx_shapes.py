"""Sizes that a graph computes at each call, although all but the batch are known when it is written.

TensorFlow writes Flatten as Shape, Gather, Cast, Slice, Concat, Cast and Reshape, which is an eighth of a small
network's time.
"""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto

SHAPE = "{}_shape"


def fold_shapes(model: ModelProto) -> None:
    """Give each Reshape of the main graph a constant shape where one size of its result is free at most.

    Nodes that nothing needs after that are removed.
    """
    graph = model.graph
    known = {tensor.name for tensor in graph.initializer} | {
        name for node in graph.node if node.op_type == "Constant" for name in node.output
    }
    computed = [node for node in graph.node if node.op_type == "Reshape" and node.input[1] not in known]
    if not computed:
        return
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    results = {value.name: value.type.tensor_type.shape for value in (*inferred.value_info, *inferred.output)}
    for node in computed:
        sizes = [dim.dim_value for dim in results[node.output[0]].dim] if node.output[0] in results else []
        if sizes and all(size >= 0 for size in sizes) and sizes.count(0) <= 1:
            # A free size, and one of 0, has the value 0 here: -1 stands for what is left of the elements.
            shape = np.array([size or -1 for size in sizes], np.int64)
            name = SHAPE.format(node.output[0])
            graph.initializer.append(onnx.numpy_helper.from_array(shape, name))
            node.input[1] = name
            del node.attribute[:]  # allowzero means nothing without a 0
    _remove_unused(graph)


def _remove_unused(graph: GraphProto) -> None:
    """Remove nodes and constants of the main graph whose results nothing takes."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):  # in their order: whoever takes a result comes later
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(_taken(node))
    if len(kept) == len(graph.node):
        return
    del graph.node[:]
    graph.node.extend(reversed(kept))
    used = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(used)


def _taken(node: NodeProto) -> Iterator[str]:
    """The names that a node takes, also inside its own graphs (If, Loop, Scan)."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from _taken(inner)
