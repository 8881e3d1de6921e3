"""The parity gate: compare every artifact of a model with its source.

python -m verify artifacts/keras_cnn      compares all its artifacts, and writes `parity.json` beside each manifest

Artifacts of a model that somebody brought are judged and compared in a cell. What it writes there are records, which
this process reads as data.
"""

import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from bring.verdict.artifact import judge_again
from contract import dataset
from contract.behaviour import BEHAVIOUR, Behaviour
from contract.cell import command
from contract.cell.command import is_own
from contract.cell.harvest import RECORDS
from contract.cell.sandbox import ChildFailed, Finished
from contract.errors import ArtifactError, BroughtError, RosettaError
from contract.formats import is_reduced, needs
from contract.ledger import LEDGER, decoded
from contract.mac_record import QUESTIONS
from contract.manifest import MANIFEST, read_manifest
from contract.parity_result import PARITY, ParityResult
from contract.records import decode, parse
from verify.mac.proof import leave_script
from verify.parity import QUICK, USUAL, verify_model
from verify.precision.gate import limits_of
from verify.questions import give
from verify.questions import load as load_questions
from verify.questions import read as read_questions

READERS: dict[str, Callable[[bytes], object]] = {
    PARITY: lambda content: decode(ParityResult, parse(content)),
    BEHAVIOUR: lambda content: decode(Behaviour, parse(content)),
    LEDGER: decoded,
    QUESTIONS: len,  # for the script on a Mac; here they are read in a cell alone
}
"""The records that are taken out of a cell -> what reads them, and raises RecordError."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Verify these models; exit status 1 when the parity of an artifact fails, or it does more than compute."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.until and not options.judged:
        parser.error("--until needs --judged: what comes later is not judged here.")
    results: list[ParityResult] = []
    refused: list[str] = []
    failures: list[str] = []
    try:
        limits = limits_of(options.max_loss)
        for folder in options.models:
            if not (options.judged or options.in_cell or is_own(folder)):
                failures += verify_in_cell(folder, options)
                continue
            formats = options.formats
            if not options.judged:
                formats, others = judge_model(folder, formats)
                refused += others
                if others and not formats:
                    continue
            folder = command.linked(folder, options.records, RECORDS, (QUESTIONS,)) if options.records else folder
            questions = (
                read_questions(options.questions, options.limit)
                if options.questions
                else load_questions(folder, options.dataset, options.limit)
            )
            how = formats, options.until, options.in_two, QUICK if options.quick else USUAL
            results += verify_model(folder, questions, limits, *how).values()
    except RosettaError as error:
        sys.exit(f"error: {error}")
    if refused:
        failures.append(f"{', '.join(refused)} were refused, and not compared: the reasons are above.")
    failures += _failed(results, options)
    if failures:
        sys.exit(f"error: {' '.join(failures)}")


def _parser() -> argparse.ArgumentParser:
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
    parser.add_argument(
        "--judged", action="store_true", help="the artifacts were just made, by training or of a file that was judged"
    )
    parser.add_argument("--in-cell", action="store_true", help="this process is in a cell")
    parser.add_argument("--records", type=Path, help="write results into this folder, not beside the manifests")
    return parser


def _failed(results: Sequence[ParityResult], options: argparse.Namespace) -> list[str]:
    """The artifacts that failed, as a sentence. A reduced precision that loses too much is an answer, and no fault of a
    conversion: it is served as unverified."""
    failed = [result.artifact for result in results if not (result.passed or result.kept)]
    if not failed:
        return []
    model, _, format = failed[0].partition("-")
    hint = f" To see where and why: make diagnose DATASET={options.dataset} MODEL={model} FORMAT={format}"
    # A model that is being brought has no data set, and the one who brings it says more.
    return [f"parity failed for {', '.join(failed)}: these are served as unverified.{'' if options.judged else hint}"]


def verify_in_cell(model: Path, options: argparse.Namespace) -> list[str]:
    """Verify a model in a cell, and publish the results: what failed, as sentences.

    Raises BroughtError where there is no cell, where no result comes out of it, or something else.
    """
    with command.cell_of(model) as cell:
        questions = (
            command.give(cell, options.questions, "questions.npz")
            if options.questions
            else give(cell, model, options.dataset, options.limit)
        )
        about = ["--dataset", options.dataset, "--questions", questions, "--records", cell.folder]
        about += ["--limit", options.limit] if options.limit else []
        about += ["--max-loss", options.max_loss] if options.max_loss else []
        about += ["--quick"] if options.quick else []
        about += ["--formats", *options.formats] if options.formats else []
        try:
            done: Finished | ChildFailed = command.run(cell, "verify", cell.file, *about)
        except ChildFailed as error:
            done = error
        failure = command.show(done, cell)
        _leave_scripts(command.publish_records(command.records_of(cell, READERS), model, READERS))
        return [failure] if failure else []


def _leave_scripts(written: Collection[Path]) -> None:
    """Beside each artifact that another system alone runs: what proves it there. These records were written anew."""
    for path in {record.parent for record in written}:
        if needs(path.name) and path / PARITY not in written:  # what a Mac answered counts no longer
            (path / PARITY).unlink(missing_ok=True)
        leave_script(path)


def judge_model(folder: Path, formats: Collection[str]) -> tuple[Collection[str], list[str]]:
    """Judge a model's artifacts: the formats to compare, of those given or of all, and the names of the others.

    Why an artifact is refused is printed. A variant of it is left out, too: its layers are compared with it. Raises
    BroughtError or ArtifactError where it is the source.
    """
    manifests = {path.parent: read_manifest(path.parent) for path in sorted(folder.glob(f"[!.]*/{MANIFEST}"))}
    refused: dict[str, str] = {}
    for path, manifest in manifests.items():
        try:
            judge_again(path, manifest)
        except (ArtifactError, BroughtError) as error:
            if manifest.is_source:
                raise
            refused |= {path.name: manifest.name, manifest.format: manifest.name}
            print(f"{manifest.name} is not compared: {error}", file=sys.stderr, flush=True)
    for manifest in manifests.values():
        if is_reduced(manifest.format) and manifest.parent in refused and manifest.format not in refused:
            refused[manifest.format] = manifest.name
            parent = refused[manifest.parent]
            print(f"{manifest.name} is not compared: it was made from {parent}", file=sys.stderr, flush=True)
    if not refused:
        return formats, []
    left = [each.format for each in manifests.values() if not each.is_source and each.format not in refused]
    return [format for format in left if not formats or format in formats], sorted({*refused.values()})


if __name__ == "__main__":
    main()
