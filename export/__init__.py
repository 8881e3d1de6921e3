"""Exporters: one file an edge of the graph of formats.

    keras --> savedmodel --> tflite          torch --> onnx --> savedmodel --> tflite
      |           '--> tfjs                                         '--> tfjs
      '--> onnx

`export_artifact(parent, format)` finds the edge, calls it, hashes what came, and writes the manifest. An artifact's
inputs and outputs are its source's: names, dtype, layout and meaning do not change on any edge.
"""

import importlib
import importlib.metadata
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from contract.errors import ExportError, RosettaError, UnknownEdge
from contract.manifest import Manifest, read_manifest, sha256_of_files, staged, verify_files, write_manifest

Exporter = Callable[[Path, Manifest, Path], Sequence[Path]]
"""(the parent's folder, its manifest, the target folder) -> the files written into the target folder."""

EXPORTERS: dict[tuple[str, str], str] = {
    ("keras", "onnx"): "export.keras_to_onnx",
    ("keras", "savedmodel"): "export.keras_to_savedmodel",
    ("torch", "onnx"): "export.torch_to_onnx",
    ("onnx", "savedmodel"): "export.onnx_to_savedmodel",
    ("savedmodel", "tflite"): "export.savedmodel_to_tflite",
    ("savedmodel", "tfjs"): "export.savedmodel_to_tfjs",
}
"""(parent's format, format) -> the module whose `export` is the exporter and whose `CONVERTERS` it is made with.

Modules are named and not imported: each brings a framework of its own.
"""


def find_exporter(parent: str, format: str) -> tuple[Exporter, dict[str, str]]:
    """The exporter of an edge, and the version of each package that it converts with."""
    try:
        module = importlib.import_module(EXPORTERS[parent, format])
    except KeyError:
        known = sorted(target for source, target in EXPORTERS if source == parent)
        raise UnknownEdge(
            f"No exporter {parent} -> {format}. Known from {parent}: {', '.join(known) or 'none'}."
        ) from None
    exporter: Exporter = module.export
    return exporter, {package: importlib.metadata.version(package) for package in module.CONVERTERS}


def export_artifact(parent: Path, format: str, folder: Path | None = None) -> Manifest:
    """Convert the artifact in `parent` to `format`, into `folder` (by default its sibling of that name).

    Raises UnknownEdge for an edge that is not in EXPORTERS, ArtifactError for a parent that is missing or damaged, and
    ExportError when the converter fails. In each case what was in `folder` before is still there.
    """
    folder = folder or parent.with_name(format)
    source = read_manifest(parent)
    exporter, converters = find_exporter(source.format, format)
    verify_files(parent, source)
    with staged(folder) as staging:
        start = time.perf_counter()
        files = _convert(exporter, parent, source, staging, format)
        manifest = replace(
            source,
            format=format,
            parent=source.format,
            files=sha256_of_files(staging, files),
            made_with={"converters": converters, "seconds": round(time.perf_counter() - start, 1)},
        )
        write_manifest(staging, manifest)
    return manifest


def export_all(source: Path) -> Iterator[Manifest]:
    """Convert the artifact in `source` to every format that can be reached from it, each along the fewest edges.

    Raises what `export_artifact` raises; what was converted until then stays.
    """
    parents = [source]
    known = {read_manifest(source).format}
    for parent in parents:
        for format in [target for edge, target in EXPORTERS if edge == parent.name and target not in known]:
            known.add(format)
            parents.append(parent.with_name(format))
            yield export_artifact(parent, format)


def _convert(exporter: Exporter, parent: Path, source: Manifest, staging: Path, format: str) -> Sequence[Path]:
    edge = f"{source.name} -> {format}"
    try:
        files = exporter(parent, source, staging)
    except RosettaError:
        raise
    except Exception as error:  # a converter may raise anything; what it says is what a person needs to know
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ExportError(f"{edge} failed in its converter: {said}") from error
    if not files:
        raise ExportError(f"{edge} wrote no file, expected at least one. This is a fault of the exporter.")
    return files
