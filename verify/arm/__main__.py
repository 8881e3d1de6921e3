"""Prove on an emulated phone's processor that artifacts answer as they do here.

python -m verify.arm artifacts      asks the artifacts of all models there, and writes `arm.json` beside each manifest

Artifacts of a model that somebody brought are asked in a cell, here and on the emulated processor.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from contract import dataset
from contract.arm_proof import ARM, ArmProof
from contract.cell import command, sandbox
from contract.cell.command import is_own
from contract.cell.sandbox import ChildFailed, Finished
from contract.errors import ArtifactMissing, RosettaError
from contract.manifest import MANIFEST
from contract.records import decode, parse
from verify.arm.emulation import ARM as SYSTEM
from verify.arm.emulation import of_phone
from verify.arm.proof import prove_model
from verify.questions import give
from verify.questions import load as load_questions
from verify.questions import read as read_questions

ROWS = 500
"""An emulated processor answers a hundred small pictures a second, and the slowest artifact a third of them."""
CELL_SECONDS = 3600.0
"""The most that the artifacts of one model take in a cell, unless MINUTES says otherwise."""

READERS = {ARM: lambda content: decode(ArmProof, parse(content))}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prove every model in the folder; exit status 1 where an artifact answers otherwise on ARM."""
    options = _parser().parse_args(arguments)
    failures: list[str] = []
    try:
        emulation = of_phone(options.system)
        for folder in _models(options):
            if not (options.in_cell or is_own(folder)):
                failures += prove_in_cell(folder, options)
                continue
            model = command.linked(folder, options.records, (ARM,)) if options.records else folder
            questions = (
                read_questions(options.questions, options.limit)
                if options.questions
                else load_questions(folder, options.dataset, options.limit)
            )
            failures += _failed(prove_model(model, questions, emulation))
    except RosettaError as error:
        sys.exit(f"error: {error}")
    if not options.in_cell:
        print(f"The processor was an emulated {emulation.processor}: that says nothing of time.", flush=True)
    if failures:
        sys.exit(f"error: {' '.join(failures)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m verify.arm", description="Prove artifacts on emulated ARM.")
    parser.add_argument(
        "artifacts", type=Path, help="the folder of all models, such as artifacts; one model's in a cell"
    )
    parser.add_argument("--dataset", default="fashion_mnist", help=f"one of {', '.join(dataset.DATASETS)}")
    parser.add_argument("--limit", type=int, default=ROWS, help="ask the first rows only (%(default)s)")
    parser.add_argument(
        "--system", type=Path, default=SYSTEM, help="the emulated system (what `make verify-arm` sets up)"
    )
    parser.add_argument(
        "--in-cell", action="store_true", help="this process is in a cell, with the folder of one model"
    )
    parser.add_argument("--questions", type=Path, help="a model's questions, where they do not lie beside it")
    parser.add_argument("--records", type=Path, help="write proofs into this folder, not beside the manifests")
    return parser


def _models(options: argparse.Namespace) -> list[Path]:
    """The folders of the models to prove. Raises ArtifactMissing where there is none."""
    if options.in_cell:
        return [options.artifacts]
    models = sorted({path.parents[1] for path in options.artifacts.glob(f"[!.]*/[!.]*/{MANIFEST}")})
    if not models:
        raise ArtifactMissing(f"There is no artifact in {options.artifacts}. Make some: make artifacts.")
    return models


def _failed(proofs: Sequence[ArmProof]) -> list[str]:
    """The artifacts that failed, as a sentence."""
    failed = [proof.artifact for proof in proofs if not proof.passed]
    return [f"{', '.join(failed)} answer otherwise on 64-bit ARM; the reasons are above."] if failed else []


def prove_in_cell(model: Path, options: argparse.Namespace) -> list[str]:
    """Prove a model in a cell, and publish the proofs: what failed, as sentences.

    Raises BroughtError where there is no cell, or where something else than a proof comes out of it.
    """
    with command.cell_of(model, CELL_SECONDS) as cell:
        cell = sandbox.showing_folder(cell, options.system)
        questions = give(cell, model, options.dataset, options.limit)
        about = ["--system", options.system.resolve(), "--limit", options.limit, "--questions", questions]
        try:
            done: Finished | ChildFailed = command.run(cell, "verify.arm", cell.file, *about, "--records", cell.folder)
        except ChildFailed as error:
            done = error
        failure = command.show(done, cell)
        command.publish_records(command.records_of(cell, READERS), model, READERS)
        return [failure] if failure else []


if __name__ == "__main__":
    main()
