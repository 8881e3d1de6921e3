"""python -m bring.source FILE FOLDER --name NAME [--said JSON]: write FILE as the source artifact in a model's FOLDER.

It runs in a process of its own, which bring/sandbox.py gives neither a network nor more memory and time than it needs.
The last line that it prints is what was learned, as JSON.
"""

import argparse
import importlib
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bring.description import Description
from bring.verdict import Verdict, examine, insist
from bring.wrapping import Around, Brought, labels_of, plan
from contract.errors import RosettaError
from contract.manifest import Manifest, sha256_of_files, staged, write_manifest

READERS = {
    "keras": "keras:BroughtKeras",
    "savedmodel": "savedmodel:BroughtSavedModel",
    "torch": "torch:read_program",
    "weights": "torch:read_weights",
    "onnx": "onnx:BroughtOnnx",
    "tflite": "tflite:BroughtTFLite",
    "tfjs": "tfjs:BroughtTFJS",
}
"""Kind of file -> what reads it; imported only for a file of that kind."""


def bring(path: Path, folder: Path, name: str, description: Description) -> tuple[Manifest, int]:
    """Write the source artifact into `folder/<format>`; it, and the bound of invented whole numbers.

    Raises BroughtError or UntrustedModel.
    """
    verdict = examine(path)
    insist(verdict, description.trusted)
    brought = read(verdict, description)
    around = plan(brought, description, path.name)
    with staged(folder / brought.format) as staging:
        files = brought.write(staging, around)
        manifest = Manifest(
            model=name,
            format=brought.format,
            parent=None,
            inputs=around.inputs,
            outputs=around.outputs,
            image=around.image,
            labels=labels_of(around, description, path.name),
            files=sha256_of_files(staging, [file for file in files if file.is_file()]),
            made_with=_origin(verdict, description, around),
            batch=around.batch,
        )
        write_manifest(staging, manifest)
    return manifest, around.below


def read(verdict: Verdict, description: Description) -> Brought:
    module, _, reader = READERS[verdict.kind].partition(":")
    brought: Brought = getattr(importlib.import_module(f"bring.readers.{module}"), reader)(verdict.path, description)
    return brought


def _origin(verdict: Verdict, description: Description, around: Around) -> dict[str, Any]:
    preprocess = around.preprocess and asdict(around.preprocess)
    origin = {
        "brought": verdict.path.name,
        "verdict": verdict.line(),
        "preprocess": preprocess,
        "softmax": around.softmax,
    }
    return origin | ({"trusted": True} if description.trusted and verdict.findings else {})


def main() -> None:
    """The command line; an error is one line and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m bring.source", description="Write a file as a source artifact.")
    parser.add_argument("file", type=Path)
    parser.add_argument("folder", type=Path, help="the model's folder, such as artifacts-flowers/flowers")
    parser.add_argument("--name", required=True)
    parser.add_argument("--said", type=Description.from_json, default=Description(), help="as JSON: see description.py")
    options = parser.parse_args()
    logging.getLogger("torch").setLevel(logging.ERROR)
    try:
        manifest, below = bring(options.file, options.folder, options.name, options.said)
    except RosettaError as error:
        sys.exit(f"error: {error}")
    print(json.dumps({"format": manifest.format, "below": below}))


if __name__ == "__main__":
    main()
