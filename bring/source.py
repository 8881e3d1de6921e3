"""Write a user's file as the source artifact of a model.

    python -m bring.source FILE FOLDER --name NAME [--description JSON]

It runs in a process of its own, in the cell of contract/cell/sandbox.py. The last line that it prints is JSON: the
artifact's format, the bound of integers that may be invented for its inputs, and the files that were read.
"""

import argparse
import contextlib
import importlib
import json
import logging
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bring import states
from bring.description import Description
from bring.files_read import record_reading
from bring.verdict import KINDS, Verdict, examine, insist
from bring.wrapping import Source, Wrapping, labels_of, plan
from contract.errors import BroughtError, RosettaError
from contract.manifest import Manifest, sha256_of_files, staged, write_manifest
from verify.second_process import leave_answers

READERS = {
    "keras": "keras:read",
    "keras_weights": "keras_weights:read",
    "savedmodel": "savedmodel:SavedModelSource",
    "frozen": "frozen:FrozenSource",
    "torch": "torch:read_program",
    "huggingface": "huggingface:read",
    "script": "torchscript:read_script",
    "weights": "torch:read_weights",
    "onnx": "onnx:OnnxSource",
    "layers": "tfjs_layers:read",
    "tflite": "tflite:TFLiteSource",
    "tfjs": "tfjs:TFJSSource",
}
"""Kind of file -> its reader, as module:callable; imported only for a file of that kind."""
QUANTISED = (
    "It is quantised: it computes with whole numbers. Formats that compute with fractions differ from it by rounding, "
    "which parity shows."
)


@dataclass(frozen=True)
class Written:
    """A source artifact."""

    manifest: Manifest
    integer_bound: int
    """Invented integers for its inputs stay below this."""
    files: tuple[Path, ...]
    """Of the user's model."""


def write_source(path: Path, folder: Path, name: str, description: Description) -> Written:
    """Write the source artifact into `folder/<format>`. Raises BroughtError or UntrustedModel."""
    verdict = examine(path)
    insist(verdict, description.trusted)
    source = read(verdict, description)
    description = description.without_inputs(getattr(source, "constants", ()))
    wrapping = plan(source, description, path.name)
    with staged(folder / source.format) as staging:
        files = source.write(staging, wrapping)
        manifest = Manifest(
            model=name,
            format=source.format,
            parent=None,
            inputs=wrapping.inputs,
            outputs=wrapping.outputs,
            image=wrapping.image if wrapping.has_rows else None,
            labels=labels_of(wrapping, description, path.name),
            files=sha256_of_files(staging, [file for file in files if file.is_file()]),
            made_with=_origin(source, verdict, description, wrapping),
            batch=wrapping.batch,
        )
        write_manifest(staging, manifest)
    return Written(manifest, wrapping.integer_bound, verdict.files)


def read(verdict: Verdict, description: Description) -> Source:
    """Raises BroughtError where no reader is for files of this kind: they only come out of a conversion."""
    if verdict.kind not in READERS:
        raise BroughtError(
            f"{verdict.path} is {KINDS[verdict.kind]}, which is not read: bring the model that it was converted from."
        )
    module, _, reader = READERS[verdict.kind].partition(":")
    source: Source = getattr(importlib.import_module(f"bring.readers.{module}"), reader)(verdict.path, description)
    return source


def _origin(source: Source, verdict: Verdict, description: Description, wrapping: Wrapping) -> dict[str, Any]:
    preprocess = wrapping.preprocess and asdict(wrapping.preprocess)
    is_quantised = getattr(source, "is_quantised", False)
    kept = states.recorded(source, wrapping)
    about_states = states.note(kept, verdict.path.name)
    own = [QUANTISED if is_quantised else "", getattr(source, "note", ""), about_states, source.renamed]
    notes = [*filter(None, own), *wrapping.notes]
    origin: dict[str, Any] = {
        "brought": verdict.path.name,
        "verdict": replace(verdict, path=Path(verdict.path.name)).line(),  # not its folder: manifests are published
        "preprocess": preprocess,
        "ending": list(wrapping.ending),
        "notes": notes,
        **kept,
    }
    if is_quantised:
        origin["is_quantised"] = True
    if computed_in := getattr(source, "computed_in", {}):
        origin["computed_in"] = computed_in
    if wrapping.image is not None:
        origin["fit_is_default"] = not (description.preprocess and description.preprocess.fit)
    return origin | ({"trusted": True} if description.trusted and verdict.findings else {})


def main() -> None:
    """The command line. An error is printed as one line, with exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m bring.source", description="Write a file as a source artifact.")
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path, help="the model's folder, such as artifacts-flowers/flowers")
    parser.add_argument("--name", required=True)
    parser.add_argument("--description", type=Description.from_json, default=Description(), help="JSON, by to_json")
    arguments = parser.parse_args()
    logging.getLogger("torch").setLevel(logging.ERROR)
    # With oneDNN, a convolution over a signal that is too short answers with whatever the memory holds.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    files_read = record_reading(arguments.file.parent)
    try:
        written = write_source(arguments.file, arguments.folder, arguments.name, arguments.description)
    except RosettaError as error:
        sys.exit(f"error: {error}")
    format, bound, names = written.manifest.format, written.integer_bound, files_read(written.files)
    with contextlib.suppress(Exception):  # the gate runs it, too, and says why it cannot be run
        leave_answers(arguments.folder / format, bound)
    print(json.dumps({"format": format, "integer_bound": bound, "read": names}))


if __name__ == "__main__":
    main()
