"""python -m export.precision artifacts/keras_cnn: make a model's variants of reduced precision.

A variant that cannot be made is one line, and no failure: the float32 artifacts stay, and its record says why.
"""

import argparse
import os
import sys
from pathlib import Path

from contract import calibration, dataset
from contract.errors import RosettaError
from contract.failed_edge import FailedEdge
from contract.manifest import Manifest
from contract.precisions import PRECISIONS, chosen
from export.precision import make_variants

# With oneDNN, TensorFlow's optimiser puts operators into graphs that no other runtime has. TensorFlow reads this once.
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"


def main() -> None:
    """Make them, and print one line for each; an error is one line, and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m export.precision", description="Make variants of a model.")
    parser.add_argument("model", type=Path, help="the model's folder")
    parser.add_argument("--precision", default="", help="all, none, or some of them, such as int8,fp16")
    parser.add_argument("--only", choices=PRECISIONS, help="make this variant alone, and leave the others as they are")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--dataset", help=f"calibrate on training pictures of {', '.join(dataset.DATASETS)}")
    source.add_argument("--calibration", type=Path, help="calibrate on the rows of this file")
    arguments = parser.parse_args()

    def rows(manifest: Manifest) -> calibration.Calibration | None:
        if arguments.calibration:
            return calibration.read(arguments.calibration)
        return calibration.of_training(arguments.dataset, manifest.inputs[0].name) if arguments.dataset else None

    try:
        for made in make_variants(arguments.model, chosen(arguments.precision), rows, arguments.only):
            print(_line(made), flush=True)
    except RosettaError as error:
        sys.exit(f"error: {error}")


def _line(made: Manifest | FailedEdge) -> str:
    if isinstance(made, FailedEdge):
        return f"{made.name}: not made. {made.reason}"
    return f"{made.name}: made from {made.parent} in {made.made_with['seconds']} s"


if __name__ == "__main__":
    main()
