"""The parity gate: compare every artifact of a model with its source.

python -m verify artifacts/keras_cnn      compares all its artifacts, writes `parity.json` beside each
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from contract import dataset
from contract.errors import RosettaError
from contract.parity_result import ParityResult
from verify import questions
from verify.parity import verify_model


def main(arguments: Sequence[str] | None = None) -> None:
    """Verify the models given; exit status 1 when one artifact's parity fails."""
    parser = argparse.ArgumentParser(prog="python -m verify", description="Compare artifacts with their source.")
    parser.add_argument("models", type=Path, nargs="+", help="folders of models, such as artifacts/keras_cnn")
    parser.add_argument("--dataset", default="fashion_mnist", help=f"one of {', '.join(dataset.DATASETS)}")
    parser.add_argument("--limit", type=int, help="compare on the first pictures only")
    options = parser.parse_args(arguments)
    try:
        results: list[ParityResult] = []
        for folder in options.models:
            results += verify_model(folder, questions.load(folder, options.dataset, options.limit)).values()
    except RosettaError as error:
        sys.exit(f"error: {error}")
    failed = [result.artifact for result in results if not result.passed]
    if failed:
        model, _, format = failed[0].partition("-")
        sys.exit(
            f"error: parity failed for {', '.join(failed)}: these are served as unverified. "
            f"Where it goes wrong, and why: make diagnose DATASET={options.dataset} MODEL={model} FORMAT={format}"
        )


if __name__ == "__main__":
    main()
