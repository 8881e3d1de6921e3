"""Prove on an emulated phone's processor that artifacts answer as they do here.

python -m verify.arm artifacts      asks the artifacts of all models there, and writes `arm.json` beside each manifest
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from contract import dataset
from contract.arm_proof import ArmProof
from contract.errors import ArtifactMissing, RosettaError
from contract.manifest import MANIFEST
from verify.arm.emulation import of_phone
from verify.arm.proof import prove_model
from verify.questions import load as load_questions

ROWS = 500
"""An emulated processor answers a hundred small pictures a second, and the slowest artifact a third of them."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Prove every model in the folder; exit status 1 where an artifact answers otherwise on ARM."""
    parser = argparse.ArgumentParser(prog="python -m verify.arm", description="Prove artifacts on emulated ARM.")
    parser.add_argument("artifacts", type=Path, help="the folder of all models, such as artifacts")
    parser.add_argument("--dataset", default="fashion_mnist", help=f"one of {', '.join(dataset.DATASETS)}")
    parser.add_argument("--limit", type=int, default=ROWS, help="ask the first rows only (%(default)s)")
    options = parser.parse_args(arguments)
    proofs: list[ArmProof] = []
    try:
        emulation = of_phone()
        models = sorted({path.parents[1] for path in options.artifacts.glob(f"[!.]*/[!.]*/{MANIFEST}")})
        if not models:
            raise ArtifactMissing(f"There is no artifact in {options.artifacts}. Make some: make artifacts.")
        for folder in models:
            proofs += prove_model(folder, load_questions(folder, options.dataset, options.limit), emulation)
    except RosettaError as error:
        sys.exit(f"error: {error}")
    print(f"The processor was an emulated {emulation.processor}: that says nothing of time.", flush=True)
    if failed := [proof.artifact for proof in proofs if not proof.passed]:
        sys.exit(f"error: {', '.join(failed)} answer otherwise on 64-bit ARM; the reasons are above.")


if __name__ == "__main__":
    main()
