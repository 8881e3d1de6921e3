"""onnx -> savedmodel, by onnx2tf. Load the result with `tf.saved_model.load(folder).signatures["serving_default"]`."""

import contextlib
import io
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx2tf

from contract.errors import ExportError
from contract.manifest import Manifest
from export import signatures

CONVERTERS = ("onnx2tf", "tensorflow-cpu", "tf-keras", "onnx")


def export(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write the SavedModel's files, with the signatures `serving_default` and `batch1`."""
    with tempfile.TemporaryDirectory() as scratch:
        # A copy, since onnx2tf rewrites its input file when it can simplify it.
        copy = shutil.copy(parent / "model.onnx", scratch)
        model = _convert(copy, scratch, manifest)
    names = [spec.name for spec in manifest.inputs]

    def function(*tensors: Any) -> Sequence[Any]:
        outputs = model(dict(zip(names, tensors, strict=True)), training=False)
        return outputs if isinstance(outputs, list | tuple) else [outputs]

    return signatures.save(function, model.weights, manifest, target)


def _convert(path: str, scratch: str, manifest: Manifest) -> Any:
    """The ONNX graph as a tf_keras model with the same inputs; raises ExportError with the converter's own words."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            return onnx2tf.convert(
                input_onnx_file_path=path,
                output_folder_path=scratch,
                # Without this, an NHWC input is taken for NCHW and permuted once more.
                keep_shape_absolutely_input_names=[spec.name for spec in manifest.inputs],
                disable_model_save=True,
                non_verbose=True,
            )
    except SystemExit as error:  # onnx2tf calls sys.exit(1) when an operator has no counterpart
        raise ExportError(f"onnx2tf gave up on {manifest.name}: {_in_one_line(said.getvalue())}") from error


def _in_one_line(said: str) -> str:
    """The beginning of what onnx2tf wrote, without its colours and the frames of its traceback."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", said).splitlines()
    words = " ".join(line for line in lines if not line.startswith((" ", "Traceback"))).split()
    return " ".join(words)[:500]
