"""What both exporters to ONNX do last: the source's names, a batch called "batch", and a check of the file."""

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto

from contract.errors import ExportError
from contract.manifest import Manifest, TensorSpec

BATCH = "batch"


def finish_onnx(path: Path, manifest: Manifest) -> None:
    """Give the graph's inputs and outputs the manifest's names, in its order, and rewrite the file.

    Raises ExportError when their number, dtype or shape is not the manifest's.
    """
    model = onnx.load(path)
    for kind, values, specs in (
        ("input", model.graph.input, manifest.inputs),
        ("output", model.graph.output, manifest.outputs),
    ):
        if len(values) != len(specs):
            raise ExportError(f"The ONNX graph has {len(values)} {kind}s, expected {[spec.name for spec in specs]}.")
        for value, spec in zip(values, specs, strict=True):
            _check(kind, value, spec)
            _rename(model, value, spec.name)
            value.type.tensor_type.shape.dim[0].dim_param = BATCH
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def _check(kind: str, value: ValueInfoProto, spec: TensorSpec) -> None:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    dtype = TensorProto.DataType.Name(tensor.elem_type)
    expected = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    if shape != spec.shape or tensor.elem_type != expected:
        raise ExportError(
            f"The ONNX graph's {kind} {value.name} is {dtype} {list(shape)}, "
            f"expected {spec.name}: {spec.dtype} {list(spec.shape)}."
        )


def _rename(model: ModelProto, value: ValueInfoProto, name: str) -> None:
    old, value.name = value.name, name
    if old == name:
        return
    for node in model.graph.node:
        for ends in (node.input, node.output):
            for position, end in enumerate(ends):
                if end == old:
                    ends[position] = name
