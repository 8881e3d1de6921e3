"""TF Lite in reduced precision, by TensorFlow's converter. It starts from the SavedModel that the parent was made from:
a finished TF Lite file is not taken apart again."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from contract.calibration import Calibration
from contract.errors import ExportError
from contract.manifest import Manifest, read_manifest, verify_files
from export.savedmodel_to_tflite import ready
from export.signatures import SIGNATURES
from export.tflite_roots import with_roots

CONVERTERS = ("tensorflow-cpu",)

BUILTINS = tf.lite.OpsSet.TFLITE_BUILTINS
INT8 = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
INT16 = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8


def half(parent: Path, manifest: Manifest, target: Path, rows: Calibration | None) -> Mapping[str, Any]:
    """Store weights as float16. The file makes float32 of them when it is loaded."""
    with _converter(parent, manifest) as converter:
        converter.target_spec.supported_types = [tf.float16]
        return _write(converter, target)


def dynamic(parent: Path, manifest: Manifest, target: Path, rows: Calibration | None) -> Mapping[str, Any]:
    """Store weights as int8; operators that can multiply by int8 quantise their input at each call."""
    with _converter(parent, manifest) as converter:
        return _write(converter, target)


def static(parent: Path, manifest: Manifest, target: Path, rows: Calibration | None) -> Mapping[str, Any]:
    """Quantise weights and activations to int8; what has no int8 kernel stays in float32."""
    with _calibrated(parent, manifest, rows, INT8) as converter:
        return _write(converter, target)


def full(parent: Path, manifest: Manifest, target: Path, rows: Calibration | None) -> Mapping[str, Any]:
    """Quantise all to int8, inputs and outputs, too: for processors that have no floats.

    An operator without an int8 kernel is an error of the converter. The notes say how values become int8 and back.
    """
    with _calibrated(parent, manifest, rows, INT8) as converter:
        converter.target_spec.supported_ops = [INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        _write(converter, target)
    return {"quantised": _ends(target / "model.tflite")}


def _ends(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Input or output -> its dtype, scale and zero point: a value is (number - zero point) * scale."""
    runner = Interpreter(str(path)).get_signature_runner("batch1")
    both = {"inputs": runner.get_input_details(), "outputs": runner.get_output_details()}
    return {
        which: {
            name: {
                "dtype": np.dtype(detail["dtype"]).name,
                "scale": float(detail["quantization"][0]),
                "zero_point": int(detail["quantization"][1]),
            }
            for name, detail in details.items()
        }
        for which, details in both.items()
    }


def static_int16(parent: Path, manifest: Manifest, target: Path, rows: Calibration | None) -> Mapping[str, Any]:
    """Quantise weights to int8 and activations to int16; what has no such kernel stays in float32."""
    with _calibrated(parent, manifest, rows, INT16) as converter:
        return _write(converter, target)


@contextlib.contextmanager
def _calibrated(parent: Path, manifest: Manifest, rows: Calibration | None, operators: Any) -> Iterator[Any]:
    assert rows is not None  # make_variant gives them where the precision is calibrated
    with _converter(parent, manifest) as converter:
        converter.target_spec.supported_ops = [operators, BUILTINS]
        converter.representative_dataset = _feed(rows, manifest)
        yield converter


@contextlib.contextmanager
def _converter(parent: Path, manifest: Manifest) -> Iterator[Any]:
    """A converter with default quantisation, for the parent's signatures. Raises ExportError.

    What overflows in TF Lite is written out, as it is for the parent.
    """
    if manifest.parent != "savedmodel":
        raise ExportError(
            "TF Lite is quantised from the SavedModel that it was converted from, and this file was brought as it is. "
            "Bring the model in the format that it was trained in."
        )
    savedmodel = parent.with_name(manifest.parent)
    verify_files(savedmodel, read_manifest(savedmodel))
    with ready(savedmodel, manifest) as folder:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=_signatures(manifest))
        converter.target_spec.supported_ops = [BUILTINS]
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        yield converter


def _signatures(manifest: Manifest) -> list[str]:
    """Those of the parent: one row alone where its batch is fixed."""
    return [name for name, batch in sorted(SIGNATURES.items()) if batch or manifest.batch is None]


def _feed(rows: Calibration, manifest: Manifest) -> Callable[[], Iterator[tuple[str, Mapping[str, Any]]]]:
    """Every row, one at a time, for each signature: each has ranges of its own."""

    def feed() -> Iterator[tuple[str, Mapping[str, Any]]]:
        for row in rows.batches(manifest.inputs, manifest.batch or 1):
            for signature in _signatures(manifest):
                yield signature, row

    return feed


def _write(converter: Any, target: Path) -> Mapping[str, Any]:
    (target / "model.tflite").write_bytes(with_roots(converter.convert()))
    return {}
