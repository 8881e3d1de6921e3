"""onnx -> savedmodel, operator by operator or by onnx2tf.

Load the result with `tf.saved_model.load(folder).signatures["serving_default"]`.
"""

import contextlib
import io
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto

from contract.errors import ExportError, one_line, shortened
from contract.manifest import Manifest
from export import signatures
from export.known_operators import in_known_operators
from export.onnx_graph import name_gelu
from export.onnx_names import clean_between
from export.onnx_operators import translation
from export.overflow import keep_finite

CONVERTERS = ("onnx2tf", "tensorflow-cpu", "tf-keras", "onnx", "onnxscript", "onnxruntime")


def by_operators(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write the SavedModel's files, with the signatures `serving_default` and `batch1`.

    Each operator is translated by itself, in ONNX's own order of axes. Raises ExportError.
    """
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copy(parent / "model.onnx", scratch)
        if manifest.batch is not None:
            _fix_batch(copy, manifest, manifest.batch)
        name_gelu(Path(copy))
        model = _simplified(onnx.inliner.inline_local_functions(onnx.load(copy)), scratch)
    function = translation(model)
    with in_known_operators():
        return signatures.save(function, [], manifest, target)


def export(parent: Path, manifest: Manifest, target: Path, **options: Any) -> Sequence[Path]:
    """Write the same by onnx2tf, which turns the whole graph to channels last; `options` are its own."""
    with tempfile.TemporaryDirectory() as scratch:
        # A copy, since onnx2tf rewrites its input file when it can simplify it.
        copy = shutil.copy(parent / "model.onnx", scratch)
        if manifest.batch is not None:
            _fix_batch(copy, manifest, manifest.batch)
        name_gelu(Path(copy))
        keep_finite(Path(copy))
        _name_plainly(copy, manifest)
        model = _convert(copy, scratch, manifest, options)
    names = [spec.name for spec in manifest.inputs]

    def function(*tensors: Any) -> Sequence[Any]:
        outputs = model(dict(zip(names, tensors, strict=True)), training=False)
        return outputs if isinstance(outputs, list | tuple) else [outputs]

    with in_known_operators():
        return signatures.save(function, model.weights, manifest, target)


def unsimplified(parent: Path, manifest: Manifest, target: Path) -> Sequence[Path]:
    """Write the same from the graph as it is: some graphs cannot be converted once they are simplified."""
    return export(parent, manifest, target, not_use_onnxsim=True)


def _convert(path: str, scratch: str, manifest: Manifest, options: Mapping[str, Any]) -> Any:
    """The ONNX graph as a tf_keras model with the same inputs. Raises ExportError with the converter's message."""
    import onnx2tf.onnx2tf  # it takes seconds, and is not the first route

    output = io.StringIO()
    onnx2tf.onnx2tf.download_test_image_data = _calibration_pictures
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            return onnx2tf.convert(
                input_onnx_file_path=path,
                output_folder_path=scratch,
                # Otherwise onnx2tf takes an NHWC input for NCHW and permutes it once more.
                keep_shape_absolutely_input_names=[spec.name for spec in manifest.inputs],
                disable_model_save=True,
                non_verbose=True,
                **options,
            )
    except SystemExit as error:  # onnx2tf calls sys.exit(1) when an operator has no counterpart
        raise ExportError(f"onnx2tf gave up on {manifest.name}: {_summary(output.getvalue())}") from error
    except Exception as error:
        # Only the output names the operator that failed.
        where = re.search(r"onnx_op_name: ?(\S+)", output.getvalue())
        if where is None:
            raise
        raise ExportError(f"onnx2tf failed at {where[1]} of {manifest.name}: {one_line(error)}") from error


def _name_plainly(path: str, manifest: Manifest) -> None:
    """Rename what lies between inputs and outputs: what was a TF Lite file has names such as `relu;bias_add`."""
    model = onnx.load(path)
    clean_between(model, {spec.name for spec in (*manifest.inputs, *manifest.outputs)})
    onnx.save(model, path)


def _fix_batch(path: str, manifest: Manifest, batch: int) -> None:
    """Fix the batch of every input, and fold the shapes that the graph computes: they are constants then."""
    model = onnx.load(path)
    axes = {spec.name: spec.batch_axis for spec in manifest.inputs}
    for value in model.graph.input:
        if (axis := axes.get(value.name)) is not None:
            value.type.tensor_type.shape.dim[axis].dim_value = batch
    del model.graph.value_info[:]
    _simplify(model, path)


def _simplify(model: ModelProto, path: str) -> None:
    """Write the graph as ONNX Runtime simplifies it for any processor. Raises what it raises for a faulty graph."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = path
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _simplified(model: ModelProto, scratch: str) -> ModelProto:
    """The graph with its constants folded, and normalisation inside the convolutions; as it is where this fails."""
    path = str(Path(scratch, "simplified.onnx"))
    try:
        _simplify(model, path)
        simple = onnx.load(path)
    except Exception:  # of many kinds: a graph that is too large to be handed over, for example
        return model
    is_standard = all(node.domain in ("", "ai.onnx") for node in simple.graph.node)
    return simple if is_standard else model


def _calibration_pictures() -> NDArray[np.float32]:
    """Pictures on which onnx2tf checks the order of axes; without these it downloads some."""
    return np.random.default_rng(0).random((20, 128, 128, 3), dtype=np.float32)


def _summary(output: str) -> str:
    """What onnx2tf wrote, in short, without colours and the frames of its traceback."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines()
    words = " ".join(line for line in lines if not line.startswith((" ", "Traceback"))).split()
    return shortened(" ".join(words), 500)
