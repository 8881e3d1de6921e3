"""Where an artifact's operators really run, as its runtime has placed them after loading it.

A runtime has fast kernels for some operators only, and leaves the others to slow ones without a word. An answer is the
same in both cases; its time is not.
"""

import contextlib
import logging
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from contract.errors import one_line
from contract.formats import family_of
from contract.manifest import Manifest
from contract.placement import Placement

MOST_BYTES = 100_000_000
"""Larger files are not loaded a second time for this: a cell counts the copies in its memory."""

log = logging.getLogger(__name__)


def placements(folder: Path, manifest: Manifest) -> tuple[Placement, ...]:
    """Where the operators of the artifact in `folder` run; empty where its runtime does not show it."""
    look = LOOKS.get(family_of(manifest.format))
    if look is None or sum((folder / name).stat().st_size for name in manifest.files) > MOST_BYTES:
        return ()
    try:
        return tuple(look(folder, manifest))
    except Exception as error:  # a runtime may raise anything, and its answers are judged without this
        log.info("%s: where its operators run is unknown: %s", manifest.name, one_line(error))
        return ()


def _litert(folder: Path, manifest: Manifest) -> Iterator[Placement]:
    """What XNNPACK takes of the first graph. LiteRT adds a node for each piece, and keeps the nodes that are in it."""
    from ai_edge_litert.interpreter import Interpreter

    shapes = {spec.name: spec.sizes_at(1) for spec in manifest.inputs}
    interpreter: Any = Interpreter(model_content=(folder / "model.tflite").read_bytes(), num_threads=1)
    for name, detail in _entries(interpreter, manifest).items():
        interpreter.resize_tensor_input(detail["index"], shapes[name])
    interpreter.allocate_tensors()
    nodes = interpreter._get_ops_details()  # no public function has them
    pieces = [node for node in nodes if node["op_name"] == "DELEGATE"]
    own = [node for node in nodes if node["op_name"] != "DELEGATE"]
    taken = {index for piece in pieces for index in _within(piece, own)}
    yield Placement("XNNPACK", len(taken), len(own), len(pieces), is_loaded=True)


def _entries(interpreter: Any, manifest: Manifest) -> Mapping[str, Any]:
    """The first graph's inputs by their names in the manifest."""
    runners = [interpreter.get_signature_runner(name) for name in interpreter.get_signature_list()]
    for runner in runners:
        if runner._subgraph_index == 0:
            entries: Mapping[str, Any] = runner.get_input_details()
            return entries
    return dict(zip([spec.name for spec in manifest.inputs], interpreter.get_input_details(), strict=True))


def _within(piece: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> set[int]:
    """The nodes between a piece's inputs and its outputs, by their indices."""
    maker = {tensor: node for node in nodes for tensor in node["outputs"]}
    ends, within, waiting = set(piece["inputs"]), set(), list(piece["outputs"])
    while waiting:
        node = maker.get(waiting.pop())
        if node is not None and node["index"] not in within:
            within.add(node["index"])
            waiting += [tensor for tensor in node["inputs"] if tensor not in ends]
    return within


def _onnx(folder: Path, manifest: Manifest) -> Iterator[Placement]:
    """What ONNX Runtime's providers for phones could take, by its own check. They take no graph with free sizes."""
    import onnx

    with _without_torch():
        from onnxruntime.tools.mobile_helpers import usability_checker as checker
        from onnxruntime.tools.onnx_model_utils import fix_output_shapes, make_input_shape_fixed, optimize_model

    model = onnx.load(folder / "model.onnx")
    constants = {tensor.name for tensor in model.graph.initializer}
    entries = [value.name for value in model.graph.input if value.name not in constants]
    is_free = any(None in spec.shape for spec in manifest.inputs)
    for name, spec in zip(entries, manifest.inputs, strict=True):
        make_input_shape_fixed(model.graph, name, spec.sizes_at(1))
    fix_output_shapes(model)
    with tempfile.TemporaryDirectory() as scratch:
        given, basic = Path(scratch, "given.onnx"), Path(scratch, "basic.onnx")
        onnx.save(model, given)
        optimize_model(given, basic)  # to the level that does not depend on the processor
        graph = onnx.shape_inference.infer_shapes(onnx.load(basic))
    checks = {
        "NNAPI": checker.check_nnapi_partitions(graph, True),
        "Core ML": checker.check_coreml_partitions(graph, True, "coreml_supported_mlprogram_ops.md"),
    }
    for part, taken in checks.items():
        counts = taken.num_supported_nodes, taken.num_nodes, taken.num_partitions
        yield Placement(part, *counts, is_loaded=False, if_sizes_are_fixed=is_free)


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Let no import load PyTorch: `onnxruntime.tools` does, for a helper of its own, and that takes a second."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]


def _openvino(folder: Path, manifest: Manifest) -> Iterator[Placement]:
    """How many operators have kernels that are made for the processor; the others have plain ones ("ref")."""
    import openvino

    core = openvino.Core()
    model = core.read_model((folder / "model.xml").read_bytes(), (folder / "model.bin").read_bytes())
    loaded = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).get_runtime_model()
    notes = [operator.get_rt_info() for operator in loaded.get_ordered_ops()]
    kernels = [str(note["primitiveType"].value) for note in notes if note["layerType"].value not in HOLDING]
    plain = sum(kernel.startswith("ref") for kernel in kernels)
    yield Placement("fast kernels", len(kernels) - plain, len(kernels), 0, is_loaded=True)


def _executorch(folder: Path, manifest: Manifest) -> Iterator[Placement]:
    """What XNNPACK took when the program was made: the program has it so, whatever loads it."""
    counts = manifest.made_with["delegated"]
    taken = counts["xnnpack"]
    yield Placement("XNNPACK", taken, taken + counts["others"], counts["parts"], is_loaded=True)


LOOKS = {"tflite": _litert, "onnx": _onnx, "openvino": _openvino, "executorch": _executorch}
HOLDING = ("Const", "Input", "Output")
"""What holds values in a graph of OpenVINO, and computes none."""
