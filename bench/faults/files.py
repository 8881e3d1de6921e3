"""Faults in manifests, and in the bytes of TF Lite and TF.js files."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bench.faults.plants import Bed, Plant
from contract.manifest import Manifest, write_manifest


def in_manifest(change: Callable[[Manifest], Manifest]) -> Plant:
    def plant(bed: Bed) -> None:
        write_manifest(bed.artifact, change(bed.manifest))

    return plant


def two_labels_swapped(manifest: Manifest) -> Manifest:
    """The first label and the seventh: T-shirt and shirt."""
    labels = list(manifest.labels)
    labels[0], labels[6] = labels[6], labels[0]
    return replace(manifest, labels=tuple(labels))


def with_image(**changes: Any) -> Callable[[Manifest], Manifest]:
    def change(manifest: Manifest) -> Manifest:
        assert manifest.image is not None
        return replace(manifest, image=replace(manifest.image, **changes))

    return change


# --- TF Lite


def in_buffer(size: int, change: Callable[[NDArray[Any]], None]) -> Plant:
    """Change the array of `size` floats that the file stores, in place."""

    def plant(bed: Bed) -> None:
        from ai_edge_litert import schema_py_generated as schema

        path = bed.artifact / "model.tflite"
        content = bytearray(path.read_bytes())
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        (data,) = {bytes(each.data) for each in model.buffers if each.data is not None and len(each.data) == 4 * size}
        start = content.index(data)
        array = np.frombuffer(data, np.float32).copy()
        change(array)
        content[start : start + len(data)] = array.tobytes()
        path.write_bytes(content)

    return plant


def largest_sign(array: NDArray[Any]) -> None:
    array[np.abs(array).argmax()] *= -1


def quantised(precision: str) -> Plant:
    """Weights of this precision, by TensorFlow's own converter."""

    def plant(bed: Bed) -> None:
        import tensorflow as tf

        parent = bed.healthy / "savedmodel"
        converter = tf.lite.TFLiteConverter.from_saved_model(str(parent), signature_keys=["batch1", "serving_default"])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        (bed.artifact / "model.tflite").write_bytes(converter.convert())

    return plant


def quantised_dynamically(bed: Bed) -> None:
    """By ONNX Runtime: weights of int8, activations rounded as they come."""
    from onnxruntime.quantization import quantize_dynamic

    path = bed.artifact / "model.onnx"
    graph = onnx.load(path)
    del graph.graph.value_info[:]
    onnx.save(graph, path)
    quantize_dynamic(path, path)


def exponent(array: NDArray[Any]) -> NDArray[Any]:
    """One bit of a large array's middle value is flipped: it becomes four times as large, or a quarter."""
    changed = array.copy()
    if array.size > 4000:
        bits = changed.reshape(-1).view(np.uint32)
        bits[array.size // 2] ^= 1 << 24
    return changed


# --- TF.js


def in_shard(change: Callable[[NDArray[Any]], NDArray[Any]]) -> Plant:
    """Change every array of floats of the weights' files."""

    def plant(bed: Bed) -> None:
        (group,) = json.loads((bed.artifact / "model.json").read_bytes())["weightsManifest"]
        (path,) = (bed.artifact / name for name in group["paths"])
        content, start = bytearray(path.read_bytes()), 0
        for spec in group["weights"]:
            size = int(np.prod(spec["shape"])) * np.dtype(spec["dtype"]).itemsize
            if spec["dtype"] == "float32":
                array = np.frombuffer(content, np.float32, size // 4, start)
                content[start : start + size] = change(array).astype(np.float32).tobytes()
            start += size
        path.write_bytes(content)

    return plant
