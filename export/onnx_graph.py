"""The last steps of every export to ONNX: the source's names, a batch called "batch", a check of the file."""

import contextlib
import gc
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, version_converter

from contract.errors import ExportError
from contract.manifest import Manifest, TensorSpec
from export.floor_division import teach_tf2onnx
from export.onnx_padding import keep_zeros_before_pooling

BATCH = "batch"


OPSET = 18
GELU_SINCE = 20


def write_frozen(function: Any, manifest: Manifest, target: Path) -> Path:
    """Convert a concrete function with tf2onnx; its variables and captured tensors become constants."""
    import tf2onnx
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    teach_tf2onnx()
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
            _rename(model, value, spec.name)
            if manifest.batch is None:
                value.type.tensor_type.shape.dim[0].dim_param = BATCH
    keep_zeros_before_pooling(model)
    _name_global_pooling(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


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
    wanted = (batch, *spec.shape[1:])
    # A size that one of the two leaves open fits any size, and a converter may leave out the whole shape.
    fits = not shape or (
        len(shape) == len(wanted)
        and (batch is not None or shape[0] is None)
        and all(None in pair or pair[0] == pair[1] for pair in zip(shape[1:], wanted[1:], strict=True))
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


def _rename(model: ModelProto, value: ValueInfoProto, name: str) -> None:
    old, value.name = value.name, name
    if old == name:
        return
    for node in model.graph.node:
        for ends in (node.input, node.output):
            for position, end in enumerate(ends):
                if end == old:
                    ends[position] = name
