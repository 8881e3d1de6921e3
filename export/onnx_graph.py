"""The last steps of every export to ONNX: the source's names, one name for each free size, no notes, a check."""

import contextlib
import gc
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx import FunctionProto, GraphProto, ModelProto, TensorProto, ValueInfoProto, version_converter

from contract.errors import ExportError
from contract.manifest import Manifest, TensorSpec
from export import tf2onnx_operators
from export.onnx_names import call_ends, graphs_in
from export.onnx_padding import keep_zeros_before_pooling
from export.onnx_shapes import fold_shapes

BATCH = "batch"
NOTES = ("pkg.", "namespace")
"""How the keys begin of what PyTorch's exporter notes beside each node and tensor: the maker's line of code and folder,
classes, names in the program. No runtime reads them, and they are a quarter of a small network's file."""

OPSET = 18
GELU_SINCE = 20


def write_frozen(function: Any, manifest: Manifest, target: Path) -> Path:
    """Convert a concrete function with tf2onnx; its variables and captured tensors become constants."""
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    tf2onnx_operators.teach()
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    path = target / "model.onnx"
    with sparing_memory():
        tf2onnx.convert.from_graph_def(
            frozen.graph.as_graph_def(),
            input_names=[tensor.name for tensor in frozen.inputs],
            output_names=[tensor.name for tensor in frozen.outputs],
            opset=OPSET,
            output_path=str(path),
        )
    finish_onnx(path, manifest)
    return path


@contextlib.contextmanager
def sparing_memory() -> Iterator[None]:
    """Keep two copies of tf2onnx's graph in memory, instead of one for each step of its optimisation.

    The copies are reference cycles, which only the garbage collector frees, and it runs too seldom for objects so few
    and so large: ConvNeXt-tiny, 111 MB of ONNX, took 6.4 GiB and 22 s; with a collection at each step it takes 3.1 GiB
    and 17 s.
    """
    from tf2onnx import optimizer

    usual = optimizer._get_optimizers

    def collecting(factory: Callable[[], Any]) -> Callable[[], Any]:
        return lambda: (gc.collect(), factory())[1]

    def optimizers() -> dict[str, Callable[[], Any]]:
        gc.freeze()  # objects that exist already need no collection
        return {name: collecting(factory) for name, factory in usual().items()}

    try:
        with mock.patch.object(optimizer, "_get_optimizers", optimizers):
            yield
    finally:
        gc.unfreeze()


def finish_onnx(path: Path, manifest: Manifest) -> None:
    """Give the graph's inputs and outputs the manifest's names, in its order, and rewrite the file.

    Raises ExportError when their number, dtypes or shapes are not the manifest's.
    """
    model = onnx.load(path)
    for kind, values, specs in (
        ("input", model.graph.input, manifest.inputs),
        ("output", model.graph.output, manifest.outputs),
    ):
        if len(values) != len(specs):
            raise ExportError(f"The ONNX graph has {len(values)} {kind}s, expected {[spec.name for spec in specs]}.")
        for value, spec in zip(values, specs, strict=True):
            _check(kind, value, spec, manifest.batch)
    call_ends(model, [spec.name for spec in manifest.inputs], [spec.name for spec in manifest.outputs])
    batches_of = zip(model.graph.output, manifest.outputs, strict=True) if manifest.batch is None else ()
    firsts = [
        value.type.tensor_type.shape.dim[spec.batch_axis] for value, spec in batches_of if spec.batch_axis is not None
    ]
    # tf2onnx has another name at each place; one that is computed, such as 2*s81, is another size.
    batches = [first for first in firsts if not first.dim_param or first.dim_param.isidentifier()]
    name_sizes(model, {} if manifest.batch else batch_axes(manifest.inputs))
    for first in batches:
        first.dim_param = BATCH
    remove_notes(model)
    keep_zeros_before_pooling(model)
    _name_global_pooling(model)
    name_softmax(model)
    fold_shapes(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def batch_axes(specs: Sequence[TensorSpec]) -> dict[str, int]:
    """The axis of the batch of each input that has one."""
    return {spec.name: spec.batch_axis for spec in specs if spec.batch_axis is not None}


def name_sizes(model: ModelProto, axes: Mapping[str, int]) -> None:
    """Call each free size by one name throughout, the batch by "batch"; a size that no input has loses its name.

    `axes` are those of a free batch, by the inputs' names.

    PyTorch's exporter calls the batch by its symbol, such as s81, and goes on to do so inside when an input's first
    size is renamed. Engines that compare the names, such as tract, refuse such a file.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    entries = [value for value in model.graph.input if value.name not in constants]
    shapes = [value.type.tensor_type.shape.dim for value in entries]
    firsts = [value.type.tensor_type.shape.dim[axes[value.name]] for value in entries if value.name in axes]
    names = {dim.dim_param: dim.dim_param for shape in shapes for dim in shape}
    if firsts:
        names[BATCH] = f"not_the_{BATCH}"  # where only another axis had this name
    names |= {first.dim_param: BATCH for first in firsts}
    for graph in graphs_in(model):
        for dim in (dim for value in _values(graph) for dim in value.type.tensor_type.shape.dim if dim.dim_param):
            if name := names.get(dim.dim_param):
                dim.dim_param = name
            else:
                dim.ClearField("dim_param")
    for first in firsts:
        first.dim_param = BATCH


def remove_notes(model: ModelProto) -> None:
    """Remove what PyTorch's exporters note about the maker's code, which would also decide the size of the file."""
    for graph in graphs_in(model):
        for node in graph.node:
            node.ClearField("doc_string")  # the older exporter keeps its stack traces there
        weights = graph.initializer if isinstance(graph, GraphProto) else []
        for part in (graph, *graph.node, *_values(graph), *weights):
            kept = [entry for entry in part.metadata_props if not entry.key.startswith(NOTES)]
            del part.metadata_props[:]
            part.metadata_props.extend(kept)


def _values(graph: GraphProto | FunctionProto) -> Iterator[ValueInfoProto]:
    yield from graph.value_info
    if isinstance(graph, GraphProto):
        yield from (*graph.input, *graph.output)


def _name_global_pooling(model: ModelProto) -> None:
    """Replace an AveragePool whose window is larger than the picture by GlobalAveragePool, which needs no padding.

    EfficientNet of transformers pools windows of 1280 over 7x7; onnx2tf padded each picture to 8 GB for that.
    """
    pools = [node for node in model.graph.node if node.op_type == "AveragePool"]
    if not pools:
        return
    inferred = onnx.shape_inference.infer_shapes(model).graph
    sizes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim[2:]] for value in inferred.value_info
    }
    for node in pools:
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        size = sizes.get(node.input[0]) or [0]
        is_larger = all(0 < length < window for length, window in zip(size, attributes["kernel_shape"], strict=False))
        if is_larger and attributes.get("ceil_mode") and not any(attributes.get("pads", ())):
            node.op_type = "GlobalAveragePool"
            del node.attribute[:]


def name_softmax(model: ModelProto) -> None:
    """Replace Exp of a LogSoftmax that nothing else takes by Softmax, for which every runtime has fast kernels.

    Networks that were trained on log-probabilities end so: XNNPACK and the accelerators of phones left both operators
    to plain kernels.
    """
    taken = Counter(name for graph in graphs_in(model) for node in graph.node for name in node.input)
    for graph in graphs_in(model):
        ends = {value if isinstance(value, str) else value.name for value in graph.output}
        logs = {node.output[0]: node for node in graph.node if node.op_type == "LogSoftmax"}
        for node in [node for node in graph.node if node.op_type == "Exp" and node.input[0] in logs]:
            between = node.input[0]
            if taken[between] == 1 and between not in ends:
                logs[between].op_type, logs[between].output[0] = "Softmax", node.output[0]
                graph.node.remove(node)
                kept = [value for value in graph.value_info if value.name != between]
                del graph.value_info[:]
                graph.value_info.extend(kept)


def name_gelu(path: Path) -> None:
    """Replace GELU that is written out with Erf by one node: TF Lite has GELU, and no Erf."""
    from onnxscript import rewriter

    model = onnx.load(path)
    if not any(node.op_type == "Erf" for node in model.graph.node):
        return
    if all(used.version < GELU_SINCE for used in model.opset_import if not used.domain):
        try:
            model = version_converter.convert_version(model, GELU_SINCE)
        except Exception:  # of many kinds, for an operator that cannot be upgraded: the file stays as it is
            return
    onnx.save(rewriter.rewrite(model, pattern_rewrite_rules=_gelu_written_out()), path)


def _gelu_written_out() -> Any:
    """x * (1 + erf(x / sqrt(2))) / 2, with its factors in any order."""
    from onnxscript.rewriter import pattern

    def orders(erf: Callable[[Any, Any], Any]) -> list[Callable[[Any, Any], Any]]:
        return [
            lambda op, x: x * (erf(op, x) + 1.0) * 0.5,
            lambda op, x: x * ((erf(op, x) + 1.0) * 0.5),
            lambda op, x: x * 0.5 * (erf(op, x) + 1.0),
        ]

    written = [*orders(lambda op, x: op.Erf(x / math.sqrt(2))), *orders(lambda op, x: op.Erf(x * math.sqrt(0.5)))]
    return pattern.RewriteRuleSet(
        [pattern.RewriteRule(order, lambda op, x: op.Gelu(x)) for order in written], commute=True
    )


def _check(kind: str, value: ValueInfoProto, spec: TensorSpec, batch: int | None) -> None:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    dtype = TensorProto.DataType.Name(tensor.elem_type)
    is_text = spec.dtype == "bytes"
    expected = TensorProto.STRING if is_text else onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    wanted = spec.shape_at(batch)
    # A size that one of the two leaves open fits any size, and a converter may leave out the whole shape.
    fits = not shape or (
        len(shape) == len(wanted)
        and (batch is not None or spec.batch_axis is None or shape[spec.batch_axis] is None)
        and all(None in pair or pair[0] == pair[1] for pair in zip(shape, wanted, strict=True))
    )
    if not fits or tensor.elem_type != expected:
        raise ExportError(
            f"The ONNX graph's {kind} {value.name} is {dtype} {list(shape)}, "
            f"expected {spec.name}: {spec.dtype} {list(wanted)}."
        )
    if not shape:
        for size in wanted:
            dim = tensor.shape.dim.add()
            if size is not None:
                dim.dim_value = size
