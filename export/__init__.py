"""Exporters: one file for each edge of the graph of formats.

    keras --> savedmodel --> tflite          torch --> onnx --> savedmodel --> tflite
      |           '--> tfjs                                         '--> tfjs
      '--> onnx   savedmodel --> onnx, for a model that starts there

`export_artifact(parent, format)` finds the edge, calls its exporter, hashes the files, and writes the manifest. An
artifact's inputs and outputs are its source's: no edge changes their names, dtype, layout or meaning.
"""

import importlib
import importlib.metadata
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from contract.errors import ExportError, RosettaError, UnknownEdge, one_line
from contract.formats import FORMATS
from contract.manifest import Manifest, read_manifest, sha256_of_files, staged, verify_files, write_manifest

Exporter = Callable[[Path, Manifest, Path], Sequence[Path]]
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
        Route("onnx2tf", "export.onnx_to_savedmodel:export"),
        Route("onnx2tf, not simplified first", "export.onnx_to_savedmodel:unsimplified"),
        Route("onnx2tf, a batch of 1", "export.onnx_to_savedmodel:export", batch=1),
    ),
    ("savedmodel", "tflite"): (
        Route("built-in operators", "export.savedmodel_to_tflite:export"),
        Route("built-in operators, a batch of 1", "export.savedmodel_to_tflite:export_one", batch=1),
    ),
    ("savedmodel", "tfjs"): (
        Route("graph model", "export.savedmodel_to_tfjs:export"),
        Route("graph model, nothing fused", "export.savedmodel_to_tfjs:unfused"),
        Route("graph model, loops as functions", "export.savedmodel_to_tfjs:with_functions"),
    ),
    ("savedmodel", "onnx"): (Route("tf2onnx of the frozen graph", "export.savedmodel_to_onnx:export"),),
}
"""(parent's format, format) -> its routes, in the order in which they are tried: where the first route fails, or its
artifact does not answer like the source, the next one may succeed."""

EXPORTED = tuple(format for format in FORMATS if any(format == target for _, target in EXPORTERS))
"""The formats that exporters write, in the table's order."""


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
    ExportError when the converter fails. On an error `folder` stays as it was.
    """
    folder = folder or parent.with_name(format)
    source = read_manifest(parent)
    route = find_routes(source.format, format)[number]
    exporter, converters = load_exporter(route)
    source = replace(source, batch=route.batch or source.batch)
    verify_files(parent, source)
    with staged(folder) as staging:
        start = time.perf_counter()
        files = _convert(exporter, parent, source, staging, format)
        manifest = replace(
            source,
            format=format,
            parent=source.format,
            files=sha256_of_files(staging, files),
            made_with={"converters": converters, "route": route.name, "seconds": round(time.perf_counter() - start, 1)},
        )
        write_manifest(staging, manifest)
    return manifest


def export_all(source: Path, failures: dict[str, RosettaError]) -> Iterator[Manifest]:
    """Convert the artifact in `source` to every format that can be reached from it, each along the fewest edges.

    The error of an edge that fails goes into `failures`, by its format, and the other edges go on; formats that can be
    reached only through the failed one are left out.
    """
    parents = [source]
    known = {read_manifest(source).format}
    for parent in parents:
        for format in [target for edge, target in EXPORTERS if edge == parent.name and target not in known]:
            known.add(format)
            print(f"--- {parent.name} -> {format}", file=sys.stderr, flush=True)  # the title of what converters write
            try:
                manifest = export_artifact(parent, format)
            except RosettaError as error:
                failures[format] = error
                continue
            parents.append(parent.with_name(format))
            yield manifest


def _convert(exporter: Exporter, parent: Path, source: Manifest, staging: Path, format: str) -> Sequence[Path]:
    edge = f"{source.name} -> {format}"
    try:
        files = exporter(parent, source, staging)
    except RosettaError:
        raise
    except Exception as error:  # a converter may raise anything, and its message is what the user needs
        raise ExportError(f"{edge} failed in its converter: {one_line(error)}") from error
    if not files:
        raise ExportError(f"{edge} wrote no file, expected at least one. This is a fault in the exporter.")
    return files
