"""Write a user's file as the source artifact of a model.

    python -m bring.source FILE FOLDER --name NAME [--description JSON]

It runs in a process of its own, which bring/sandbox.py gives no network and limits of memory and time. The last line
that it prints is JSON: the artifact's format, and the bound of integers that may be invented for its inputs.
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
from bring.wrapping import Source, Wrapping, labels_of, plan
from contract.errors import RosettaError
from contract.manifest import Manifest, sha256_of_files, staged, write_manifest

READERS = {
    "keras": "keras:KerasSource",
    "savedmodel": "savedmodel:SavedModelSource",
    "torch": "torch:read_program",
    "weights": "torch:read_weights",
    "onnx": "onnx:OnnxSource",
    "tflite": "tflite:TFLiteSource",
    "tfjs": "tfjs:TFJSSource",
}
"""Kind of file -> its reader, as module:callable; imported only for a file of that kind."""


def write_source(path: Path, folder: Path, name: str, description: Description) -> tuple[Manifest, int]:
    """Write the source artifact into `folder/<format>`. Returns its manifest and the bound of invented integers.

    Raises BroughtError or UntrustedModel.
    """
    verdict = examine(path)
    insist(verdict, description.trusted)
    source = read(verdict, description)
    wrapping = plan(source, description, path.name)
    with staged(folder / source.format) as staging:
        files = source.write(staging, wrapping)
        manifest = Manifest(
            model=name,
            format=source.format,
            parent=None,
            inputs=wrapping.inputs,
            outputs=wrapping.outputs,
            image=wrapping.image,
            labels=labels_of(wrapping, description, path.name),
            files=sha256_of_files(staging, [file for file in files if file.is_file()]),
            made_with=_origin(verdict, description, wrapping),
            batch=wrapping.batch,
        )
        write_manifest(staging, manifest)
    return manifest, wrapping.integer_bound


def read(verdict: Verdict, description: Description) -> Source:
    module, _, reader = READERS[verdict.kind].partition(":")
    source: Source = getattr(importlib.import_module(f"bring.readers.{module}"), reader)(verdict.path, description)
    return source


def _origin(verdict: Verdict, description: Description, wrapping: Wrapping) -> dict[str, Any]:
    preprocess = wrapping.preprocess and asdict(wrapping.preprocess)
    origin = {
        "brought": verdict.path.name,
        "verdict": verdict.line(),
        "preprocess": preprocess,
        "softmax": wrapping.softmax,
    }
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
    try:
        manifest, bound = write_source(arguments.file, arguments.folder, arguments.name, arguments.description)
    except RosettaError as error:
        sys.exit(f"error: {error}")
    print(json.dumps({"format": manifest.format, "integer_bound": bound}))


if __name__ == "__main__":
    main()
