"""Exporters: one file for each edge of the graph of formats.

    keras --> savedmodel --> tflite          torch --> onnx --> savedmodel --> tflite
      |           '--> tfjs                                         '--> tfjs
      '--> onnx   savedmodel --> onnx and tflite --> onnx, for a model that starts there

Where OpenVINO is installed, onnx leads to openvino, too; where ExecuTorch is, torch leads to executorch, where Core AI
is, to coreai, and where Core ML's converter is, to coreml, which nothing here runs.

precision/ makes variants of reduced precision of some of these: `tflite-int8` from `tflite`.

`export_artifact(parent, format)` finds the edge, calls its exporter, hashes the files, and writes the manifest. An
artifact's inputs and outputs are its source's: no edge changes their names, dtype, layout or meaning.
"""

import importlib
import importlib.metadata
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from contract.errors import ExportError, RosettaError, UnknownEdge, one_line
from contract.formats import FORMATS, is_installed, not_installed
from contract.manifest import Manifest, read_manifest, sha256_of_files, staged, verify_files, write_manifest


@dataclass(frozen=True)
class Written:
    """What an exporter wrote, where there is more to know of it than its files."""

    files: Sequence[Path]
    about: Mapping[str, Any]
    """For the manifest's `made_with`: `largest`, the largest size of each axis of each input, where the artifact is
    bounded; `delegated`, how many operators each part of the runtime computes; `computed_in`, how many layers
    compute in each dtype, where that is not float32; `system`, the oldest that runs it."""


Exporter = Callable[[Path, Manifest, Path], Sequence[Path] | Written]
"""(the parent's folder, its manifest, the target folder) -> the files written into the target folder."""


@dataclass(frozen=True)
class Route:
    """One way along an edge."""

    name: str
    exporter: str
    """`module:function`: a name and not an import, since each needs its own framework. The module's `CONVERTERS` are
    the packages that it converts with."""
    batch: int | None = None
    """The fixed batch size of the artifact that it writes, or None if it accepts what its parent accepts."""


EXPORTERS: dict[tuple[str, str], tuple[Route, ...]] = {
    ("keras", "onnx"): (
        Route("Keras's own export", "export.keras_to_onnx:by_keras"),
        Route("the frozen graph of a call", "export.keras_to_onnx:by_frozen_graph"),
    ),
    ("keras", "savedmodel"): (Route("saved again, with signatures", "export.keras_to_savedmodel:export"),),
    ("torch", "onnx"): (
        Route("PyTorch's own export", "export.torch_to_onnx:export"),
        Route("PyTorch's export by tracing, a batch of 1", "export.torch_to_onnx:traced", batch=1),
    ),
    ("onnx", "savedmodel"): (
        Route("operator by operator", "export.onnx_to_savedmodel:by_operators"),
        Route("onnx2tf", "export.onnx_to_savedmodel:export"),
        Route("onnx2tf, not simplified first", "export.onnx_to_savedmodel:unsimplified"),
        Route("onnx2tf, a batch of 1", "export.onnx_to_savedmodel:export", batch=1),
    ),
    ("savedmodel", "tflite"): (
        Route("built-in operators", "export.savedmodel_to_tflite:export"),
        Route("built-in operators, the error function written out", "export.savedmodel_to_tflite:written_out"),
        Route("built-in operators, all computed in float32", "export.savedmodel_to_tflite:computed_in_float32"),
        Route("built-in operators, a batch of 1", "export.savedmodel_to_tflite:export_one", batch=1),
    ),
    ("savedmodel", "tfjs"): (
        Route("graph model", "export.savedmodel_to_tfjs:export"),
        Route("graph model, nothing fused", "export.savedmodel_to_tfjs:unfused"),
        Route("graph model, loops as functions", "export.savedmodel_to_tfjs:with_functions"),
    ),
    ("tflite", "onnx"): (Route("tf2onnx of the TF Lite file", "export.tflite_to_onnx:export"),),
    ("savedmodel", "onnx"): (Route("tf2onnx of the frozen graph", "export.savedmodel_to_onnx:export"),),
    ("onnx", "openvino"): (
        Route("OpenVINO's own conversion", "export.onnx_to_openvino:export"),
        Route("OpenVINO's own conversion, not simplified", "export.onnx_to_openvino:unsimplified"),
        Route("TensorFlow's operators, one by one", "export.onnx_by_tensorflow_to_openvino:export"),
    ),
    ("torch", "executorch"): (Route("lowered to XNNPACK", "export.torch_to_executorch:export"),),
    ("torch", "coreai"): (Route("Apple's own conversion", "export.torch_to_coreai:export"),),
    ("torch", "coreml"): (Route("coremltools", "export.torch_to_coreml:export"),),
}
"""(parent's format, format) -> its routes, in the order in which they are tried: where the first route fails, or its
artifact does not answer like the source, the next one may succeed."""

EXPORTED = tuple(format for format in FORMATS if any(format == target for _, target in EXPORTERS))
"""The formats that exporters write, in the table's order."""

EXPORTED_HERE = tuple(format for format in EXPORTED if is_installed(format))
"""Those that can be written here: a converter is part of its format's runtime."""


SLOWEST = "tfjs"
"""The format whose runtime takes several times as long to answer as the others."""


def edges_from(source: str) -> list[tuple[str, str]]:
    """The edges to every format that can be made here of a model that starts in this one, each reached along the
    fewest; parents before their children.

    What leads to the slowest runtime comes first: its answers are compared while the other formats are written.
    """
    known, parents = [source], {source: ""}
    for parent in known:
        for edge, format in EXPORTERS:
            if edge == parent and format not in parents and is_installed(format):
                parents[format] = parent
                known.append(format)
    way = [SLOWEST]
    while parent := parents.get(way[-1], ""):
        way.append(parent)
    return [(parents[format], format) for format in sorted(known[1:], key=lambda format: format not in way)]


def exported_from(source: str) -> tuple[str, ...]:
    """The formats that can be made here of a model that starts in this one, in the table's order."""
    made = {format for _, format in edges_from(source)}
    return tuple(format for format in FORMATS if format in made)


def find_routes(parent: str, format: str) -> tuple[Route, ...]:
    """The routes of an edge. Raises UnknownEdge."""
    try:
        return EXPORTERS[parent, format]
    except KeyError:
        known = sorted(target for source, target in EXPORTERS if source == parent)
        raise UnknownEdge(
            f"No exporter {parent} -> {format}. Known from {parent}: {', '.join(known) or 'none'}."
        ) from None


def load_exporter(route: Route) -> tuple[Exporter, dict[str, str]]:
    """The exporter of a route, and the version of each package that it converts with."""
    name, _, function = route.exporter.partition(":")
    module = importlib.import_module(name)
    exporter: Exporter = getattr(module, function)
    return exporter, {package: importlib.metadata.version(package) for package in module.CONVERTERS}


def export_artifact(parent: Path, format: str, folder: Path | None = None, number: int = 0) -> Manifest:
    """Convert the artifact in `parent` to `format`, into `folder` (by default its sibling of that name).

    `number` is the place of the route among the edge's routes.

    Raises UnknownEdge for an edge that is not in EXPORTERS, ArtifactError for a parent that is missing or damaged, and
    ExportError when the converter fails or is not installed. On an error `folder` stays as it was.
    """
    folder = folder or parent.with_name(format)
    source = read_manifest(parent)
    route = find_routes(source.format, format)[number]
    if not is_installed(format):
        raise ExportError(f"{source.name} -> {format} cannot be made here: {not_installed(format)}")
    exporter, converters = load_exporter(route)
    source = replace(source, batch=route.batch or source.batch)
    verify_files(parent, source)
    with staged(folder) as staging:
        start = time.perf_counter()
        written = _convert(exporter, parent, source, staging, format)
        made_with = {"converters": converters, "route": route.name, "seconds": round(time.perf_counter() - start, 1)}
        manifest = replace(
            source,
            format=format,
            parent=source.format,
            files=sha256_of_files(staging, written.files),
            made_with={**made_with, **written.about},
        )
        write_manifest(staging, manifest)
    return manifest


def export_all(source: Path, failures: dict[str, RosettaError]) -> Iterator[Manifest]:
    """Convert the artifact in `source` to every format that can be reached from it here, each along the fewest edges.

    The error of an edge that fails goes into `failures`, by its format, and the other edges go on; formats that can be
    reached only through the failed one are left out.
    """
    made = {source.name}
    for parent, format in edges_from(read_manifest(source).format):
        if parent not in made:
            continue
        print(f"--- {parent} -> {format}", file=sys.stderr, flush=True)  # the title of what converters write
        try:
            manifest = export_artifact(source.with_name(parent), format)
        except RosettaError as error:
            failures[format] = error
            continue
        made.add(format)
        yield manifest


def _convert(exporter: Exporter, parent: Path, source: Manifest, staging: Path, format: str) -> Written:
    edge = f"{source.name} -> {format}"
    try:
        written = exporter(parent, source, staging)
    except RosettaError:
        raise
    except Exception as error:  # a converter may raise anything, and its message is what the user needs
        raise ExportError(f"{edge} failed in its converter: {one_line(error)}") from error
    if not isinstance(written, Written):
        written = Written(written, {})
    if not written.files:
        raise ExportError(f"{edge} wrote no file, expected at least one. This is a fault in the exporter.")
    return written
