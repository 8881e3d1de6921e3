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
from verify.parity import verify_model
from verify.questions import load as load_questions


def main(arguments: Sequence[str] | None = None) -> None:
    """Verify these models; exit status 1 when the parity of an artifact fails."""
    parser = argparse.ArgumentParser(prog="python -m verify", description="Compare artifacts with their source.")
    parser.add_argument("models", type=Path, nargs="+", help="folders of models, such as artifacts/keras_cnn")
    parser.add_argument("--dataset", default="fashion_mnist", help=f"one of {', '.join(dataset.DATASETS)}")
    parser.add_argument("--limit", type=int, help="compare on the first pictures only")
    options = parser.parse_args(arguments)
    try:
        results: list[ParityResult] = []
        for folder in options.models:
            results += verify_model(folder, load_questions(folder, options.dataset, options.limit)).values()
    except RosettaError as error:
        sys.exit(f"error: {error}")
    failed = [result.artifact for result in results if not result.passed]
    if failed:
        model, _, format = failed[0].partition("-")
        sys.exit(
            f"error: parity failed for {', '.join(failed)}: these are served as unverified. "
            f"To see where and why: make diagnose DATASET={options.dataset} MODEL={model} FORMAT={format}"
        )


if __name__ == "__main__":
    main()
