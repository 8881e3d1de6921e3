"""Variants of reduced precision: each made from the float32 artifact of the same format.

    python -m export.precision artifacts/keras_cnn        makes the usual ones of a model
    python -m export.precision artifacts/keras_cnn --precision int8,fp16

MAKERS says which file makes which; contract/precisions.py is the table of what there is; calibration rows are
contract/calibration.py. A variant's inputs and outputs are its parent's, as on every edge.
"""

import importlib
import importlib.metadata
import importlib.util
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from contract.calibration import Calibration
from contract.errors import ExportError, RosettaError, one_line
from contract.failed_edge import FAILED, FailedEdge, FailedRoute, write_failed_edge
from contract.formats import is_installed, not_installed
from contract.manifest import (
    MANIFEST,
    Manifest,
    TensorSpec,
    read_manifest,
    sha256_of_files,
    staged,
    verify_files,
    write_manifest,
)
from contract.precisions import PRECISIONS, Precision

Maker = Callable[[Path, Manifest, Path, Calibration | None], Mapping[str, Any]]
"""(the parent's folder, its manifest, the target folder, calibration rows) -> what the manifest notes of the making.
It writes the variant's files into the target folder. Rows are given where the precision is calibrated."""

MAKERS: dict[str, str] = {
    "onnx-fp16": "export.precision.onnx:half",
    "onnx-int8": "export.precision.onnx:static",
    "onnx-int8dyn": "export.precision.onnx:dynamic",
    "onnx-int4": "export.precision.onnx:four_bits",
    "tflite-fp16": "export.precision.tflite:half",
    "tflite-int8": "export.precision.tflite:static",
    "tflite-int8full": "export.precision.tflite:full",
    "tflite-int8dyn": "export.precision.tflite:dynamic",
    "tflite-int16x8": "export.precision.tflite:static_int16",
    "tfjs-fp16": "export.precision.tfjs:half",
    "tfjs-uint8": "export.precision.tfjs:quarter",
    "executorch-int8": "export.precision.executorch:static",
    "torch-int8": "export.precision.torch_int8:static",
    "torch-bf16": "export.precision.torch:brain",
}
"""Format -> `module:function`: a name and not an import, since each needs its own framework. The module's `CONVERTERS`
are the packages that it makes the variant with."""

NO_DATA = (
    "It needs rows to calibrate on, and none were given: the ranges of its activations would be guesses. Set DATA to a "
    "folder with one subfolder of pictures for each class."
)


def make_variant(parent: Path, precision: Precision, rows: Calibration | None) -> Manifest:
    """Make the variant of the artifact in `parent`, beside it.

    Raises ArtifactError for a parent that is missing or damaged, and ExportError when the variant cannot be made, or
    what makes it is not installed. On an error the variant's folder stays as it was.
    """
    source = read_manifest(parent)
    if reason := _missing(precision):
        raise ExportError(f"{source.model}-{precision.format} cannot be made here: {reason}")
    verify_files(parent, source)
    source = replace(source, batch=precision.batch or source.batch)
    if precision.calibrated:
        check_rows(rows, source.inputs)
    name, _, function = MAKERS[precision.format].partition(":")
    module = importlib.import_module(name)
    make: Maker = getattr(module, function)
    with staged(parent.with_name(precision.format)) as staging:
        start = time.perf_counter()
        notes = _made(make, parent, source, staging, precision, rows)
        files = [path for path in staging.rglob("*") if path.is_file()]
        made_with = {
            "converters": {package: importlib.metadata.version(package) for package in module.CONVERTERS},
            "precision": precision.title,
            **({"calibration": rows.described()} if precision.calibrated and rows else {}),
            **notes,
            "seconds": round(time.perf_counter() - start, 1),
        }
        manifest = replace(
            source,
            format=precision.format,
            parent=source.format,
            files=sha256_of_files(staging, files),
            made_with=made_with,
        )
        write_manifest(staging, manifest)
    return manifest


def can_be_made(precision: Precision) -> bool:
    """Whether what makes it is installed here."""
    return not _missing(precision)


def _missing(precision: Precision) -> str:
    """What is not installed, and what to do; empty where all is there."""
    if not is_installed(precision.format):
        return not_installed(precision.format)
    if precision.made_by and importlib.util.find_spec(precision.made_by) is None:
        return f"{precision.made_by} is not installed. It comes with ExecuTorch: make runtimes RUNTIMES=executorch"
    return ""


def check_rows(rows: Calibration | None, inputs: Sequence[TensorSpec]) -> None:
    """Raise ExportError for rows that no range can be taken from, or that are not what the model takes."""
    if rows is None:
        raise ExportError(NO_DATA)
    for spec in inputs:
        shape = rows.inputs[spec.name].shape if spec.name in rows.inputs else ()
        known = len(shape) == len(spec.shape) and all(
            size in (None, got) for size, got in zip(spec.shape[1:], shape[1:], strict=True)
        )
        if not known:
            got = f"{list(shape[1:])}" if shape else "none"
            raise ExportError(
                f"The calibration rows ({rows.title}) are not what the model takes: {got} for {spec.name}, expected "
                f"{list(spec.shape[1:])}. Give rows like those that the model will see."
            )
    for name, values in rows.inputs.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            count = int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum())
            raise ExportError(
                f"{count} of the {len(values)} calibration rows ({rows.title}) have NaN or infinity in {name}."
            )
    if all((values == values[:1]).all() for values in rows.inputs.values()):
        raise ExportError(
            f"All {len(rows.which)} calibration rows ({rows.title}) are equal: the ranges would be those of one row. "
            "Give rows like those that the model will see."
        )


def _made(
    make: Maker, parent: Path, source: Manifest, staging: Path, precision: Precision, rows: Calibration | None
) -> Mapping[str, Any]:
    try:
        return make(parent, source, staging, rows if precision.calibrated else None)
    except RosettaError:
        raise
    except Exception as error:  # a quantiser may raise anything, and its message is what the user needs
        raise ExportError(f"{source.model}-{precision.format} failed in its quantiser: {one_line(error)}") from error


def make_variants(
    model: Path,
    precisions: Iterable[Precision],
    calibration: Callable[[Manifest], Calibration | None],
    only: str | None = None,
) -> Iterator[Manifest | FailedEdge]:
    """Make these variants of every artifact of a model that they can be made of.

    Variants in the folder that are not asked for, or can no longer be made, are removed. Those of a format that is not
    installed here are left as they are. `calibration` gives the rows; it is called once, and only where a variant needs
    them. A variant that cannot be made leaves its record in `failed/`, and the others go on. With the name of a format
    as `only`, that variant alone is made, and the others stay.
    """
    wanted = {precision.format: precision for precision in precisions if (model / precision.family / MANIFEST).exists()}
    if only:
        wanted = {format: precision for format, precision in wanted.items() if format == only}
    for format in () if only else PRECISIONS.keys() - wanted.keys():
        _remove(model, format)
    here = [precision for precision in wanted.values() if can_be_made(precision)]
    rows: Calibration | None = None
    if first := next((each for each in here if each.calibrated), None):
        rows = calibration(read_manifest(model / first.family))
    for precision in here:
        try:
            manifest = make_variant(model / precision.family, precision, rows)
        except RosettaError as error:
            _remove(model, precision.format)
            yield _record(model, precision, error)
            continue
        _forget_failure(model, precision.format)
        yield manifest


def _remove(model: Path, format: str) -> None:
    shutil.rmtree(model / format, ignore_errors=True)
    _forget_failure(model, format)


def _forget_failure(model: Path, format: str) -> None:
    for suffix in ("json", "log"):
        (model / FAILED / f"{format}.{suffix}").unlink(missing_ok=True)


def _record(model: Path, precision: Precision, error: RosettaError) -> FailedEdge:
    reason = one_line(error)
    edge = FailedEdge(
        model.name,
        precision.format,
        precision.family,
        reason,
        routes=(FailedRoute(precision.title, reason),),
    )
    write_failed_edge(model.parent, edge, f"{error}\n")
    return edge
