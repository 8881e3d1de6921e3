"""The parity gate: compare every artifact of a model with its source.

python -m verify artifacts/keras_cnn      compares all its artifacts, and writes `parity.json` beside each manifest
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from contract import dataset
from contract.errors import RosettaError
from contract.parity_result import ParityResult
from verify.parity import QUICK, USUAL, verify_model
from verify.precision.gate import limits_of
from verify.questions import load as load_questions
from verify.questions import read as read_questions


def main(arguments: Sequence[str] | None = None) -> None:
    """Verify these models; exit status 1 when the parity of an artifact fails."""
    parser = argparse.ArgumentParser(prog="python -m verify", description="Compare artifacts with their source.")
    parser.add_argument("models", type=Path, nargs="+", help="folders of models, such as artifacts/keras_cnn")
    parser.add_argument("--dataset", default="fashion_mnist", help=f"one of {', '.join(dataset.DATASETS)}")
    parser.add_argument("--limit", type=int, help="compare on the first pictures only")
    parser.add_argument("--questions", type=Path, help="a brought model's questions, where they do not lie beside it")
    parser.add_argument(
        "--max-loss", default="", help="what a reduced precision may lose of the accuracy, such as 0.5%%"
    )
    parser.add_argument("--formats", nargs="+", default=(), help="compare only artifacts in these formats")
    parser.add_argument(
        "--until", type=Path, help="compare artifacts of these formats as they come, until this file is"
    )
    parser.add_argument("--in-two", action="store_true", help="compare two artifacts at once, each in its own process")
    parser.add_argument("--quick", action="store_true", help="ask slow artifacts less, and few questions one at a time")
    options = parser.parse_args(arguments)
    try:
        limits = limits_of(options.max_loss)
        results: list[ParityResult] = []
        for folder in options.models:
            questions = (
                read_questions(options.questions, options.limit)
                if options.questions
                else load_questions(folder, options.dataset, options.limit)
            )
            how = options.formats, options.until, options.in_two, QUICK if options.quick else USUAL
            results += verify_model(folder, questions, limits, *how).values()
    except RosettaError as error:
        sys.exit(f"error: {error}")
    # A reduced precision that loses too much is an answer, and no fault of a conversion: it is served as unverified.
    failed = [result.artifact for result in results if not (result.passed or result.kept)]
    if failed:
        model, _, format = failed[0].partition("-")
        hint = f" To see where and why: make diagnose DATASET={options.dataset} MODEL={model} FORMAT={format}"
        # A brought model has no data set, and the one who brings it says more.
        sys.exit(
            f"error: parity failed for {', '.join(failed)}: these are served as unverified."
            f"{'' if options.questions else hint}"
        )


if __name__ == "__main__":
    main()
