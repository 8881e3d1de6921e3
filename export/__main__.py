"""python -m export artifacts/keras_cnn/keras onnx [FOLDER]: convert one artifact along one edge, or along `all`."""

import argparse
import os
import sys
from pathlib import Path

from contract.errors import RosettaError
from contract.manifest import Manifest
from export import export_all, export_artifact

# With oneDNN, TensorFlow's optimiser puts operators into graphs that no other runtime has. TensorFlow reads this once.
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"


def main() -> None:
    """Convert, and print one line for each artifact; an error is one line, and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m export", description="Convert one artifact along one edge.")
    parser.add_argument("parent", type=Path, help="the parent artifact's folder")
    parser.add_argument("format", help="the format to convert to, or all: every format that can be reached")
    parser.add_argument("folder", type=Path, nargs="?", help="where to write; by default beside the parent")
    parser.add_argument("--route", type=int, default=0, help="the number of the edge's route, from 0")
    arguments = parser.parse_args()
    try:
        if arguments.format == "all":
            if arguments.folder or arguments.route:
                parser.error("all formats are written beside the parent: leave out the folder and the route")
            failures: dict[str, RosettaError] = {}
            for manifest in export_all(arguments.parent, failures):
                _print_line(manifest)
            if failures:
                sys.exit("\n".join(f"error: {format}: {error}" for format, error in failures.items()))
        else:
            _print_line(export_artifact(arguments.parent, arguments.format, arguments.folder, arguments.route))
    except RosettaError as error:
        sys.exit(f"error: {error}")


def _print_line(manifest: Manifest) -> None:
    print(f"{manifest.name}: converted from {manifest.parent} in {manifest.made_with['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
