"""python -m verify.diagnose keras_cnn tflite: exit status 0 when parity passes, 1 when it fails, 2 on an error.

Artifacts of a model that somebody brought are judged and diagnosed in a cell, which leaves the report.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bring.verdict.artifact import insist_on_folder, judge_again
from contract import dataset
from contract.cell import command
from contract.cell.command import is_own
from contract.cell.harvest import read_file
from contract.cell.sandbox import ChildFailed
from contract.errors import ArtifactMissing, BroughtError, RosettaError
from contract.formats import is_reduced
from contract.manifest import MANIFEST, Manifest, read_manifest, verify_files
from contract.records import RecordError, parse
from verify.diagnose.diagnosis import Diagnosis, diagnose
from verify.diagnose.show import text, write_report
from verify.questions import Questions, give
from verify.questions import load as load_questions
from verify.questions import read as read_questions

REPORT = "report"
PNG = b"\x89PNG\r\n"


def find(artifacts: Path, model: str, format: str) -> tuple[Path, Manifest, Manifest]:
    """The model's folder, the artifact's manifest and its source's.

    Raises ArtifactMissing where a name is unknown or is the source's.
    """
    models = sorted({path.parent.parent.name for path in artifacts.glob(f"*/*/{MANIFEST}")})
    if model not in models:
        raise ArtifactMissing(f"No model {model!r} in {artifacts}. {_known('MODEL', models)}")
    return artifacts / model, *manifests_of(artifacts / model, format)


def manifests_of(folder: Path, format: str) -> tuple[Manifest, Manifest]:
    """The artifact's manifest and its source's, of the model in `folder`.

    Raises ArtifactMissing as `find` does, and ArtifactCorrupt where a manifest is another folder's.
    """
    manifests = {path.parent.name: read_manifest(path.parent) for path in sorted(folder.glob(f"*/{MANIFEST}"))}
    sources = [name for name, manifest in manifests.items() if manifest.is_source]
    others = [name for name in manifests if name not in sources]
    if len(sources) != 1:
        raise ArtifactMissing(f"{folder} has {len(sources)} source artifacts, expected one. Run `make artifacts`.")
    if format in sources:
        raise ArtifactMissing(
            f"{folder.name}-{format} is the source, and the source is compared with nothing. {_known('FORMAT', others)}"
        )
    if format not in others:
        raise ArtifactMissing(f"{folder.name} has no format {format!r}. {_known('FORMAT', others)}")
    for name in (format, sources[0]):
        insist_on_folder(folder / name, manifests[name])
    return manifests[format], manifests[sources[0]]


def judge(folder: Path, artifact: Manifest, source: Manifest) -> None:
    """Check and judge the files of both. What a reduced precision was made from is judged, too: its layers are
    compared with it.

    Raises ArtifactCorrupt where a file is damaged, and BroughtError where one does more than compute.
    """
    for manifest in (artifact, source):
        verify_files(folder / manifest.format, manifest)
    parents = {artifact.parent} if is_reduced(artifact.format) else set()
    for name in {artifact.format, *parents, source.format}:
        if name is not None and (folder / name / MANIFEST).exists():
            judge_again(folder / name, read_manifest(folder / name))


def _known(setting: str, names: Sequence[str]) -> str:
    return f"{setting}= may be {', '.join(names)}." if names else "Make it with `make artifacts`."


def main(arguments: Sequence[str] | None = None) -> int:
    """Diagnose one artifact; print it and write its report. The exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m verify.diagnose", description="Find where an artifact parts from its source, and why."
    )
    parser.add_argument("model", nargs="?", default="", help="such as keras_cnn")
    parser.add_argument("format", nargs="?", default="", help="such as tflite")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="default: %(default)s")
    parser.add_argument("--dataset", default="fashion_mnist", help=f"one of {', '.join(dataset.DATASETS)}")
    parser.add_argument("--limit", type=int, help="compare on the first pictures only")
    parser.add_argument(
        "--images", action="store_true", help="also write the pictures with the largest differences, as one PNG"
    )
    parser.add_argument("--in-cell", action="store_true", help="this process is in a cell, and writes its report there")
    parser.add_argument("--questions", type=Path, help="the model's questions, where they do not lie beside it")
    options = parser.parse_args(arguments)
    try:
        if options.in_cell:
            folder = options.artifacts / options.model
            _diagnose(folder, manifests_of(folder, options.format), read_questions(options.questions), options)
            return 0
        folder, *both = find(options.artifacts, options.model, options.format)
        if not is_own(folder):
            return diagnose_in_cell(folder, both[0].name, options)
        questions = load_questions(folder, options.dataset, options.limit)
        diagnosis, paths = _diagnose(folder, both, questions, options)
    except (RosettaError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(*(f"Written: {path}" for path in paths), sep="\n")
    return 1 if diagnosis.reasons else 0


def _diagnose(
    folder: Path, both: Sequence[Manifest], questions: Questions, options: argparse.Namespace
) -> tuple[Diagnosis, list[Path]]:
    """Judge and diagnose, print it, and write its report: where a cell is left, or beside the models."""
    artifact, source = both
    judge(folder, artifact, source)
    diagnosis = diagnose(folder, artifact, source, questions)
    paths = write_report(
        diagnosis, questions, Path() if options.in_cell else options.artifacts / REPORT, options.images
    )
    print(text(diagnosis))
    return diagnosis, paths


def diagnose_in_cell(folder: Path, artifact: str, options: argparse.Namespace) -> int:
    """Diagnose the artifact of this name in a cell, and publish its report; the exit status.

    Raises ChildFailed, and BroughtError where there is no cell, or no report comes out of it.
    """
    with command.cell_of(folder) as cell:
        about = ["--artifacts", cell.file.parent, "--questions", give(cell, folder, options.dataset, options.limit)]
        about += ["--images"] if options.images else []
        try:
            done = command.run(cell, "verify.diagnose", cell.file.name, options.format, *about)
        except ChildFailed as error:
            command.show(error, cell)
            raise
        name = f"diagnose-{artifact}"
        contents = {f"{name}.json": read_file(cell.folder, f"{name}.json")}
        if options.images and (cell.folder / f"{name}.png").exists():
            contents[f"{name}.png"] = read_file(cell.folder, f"{name}.png")
        command.show(done, cell)
    try:
        report = parse(contents[f"{name}.json"])
        is_healthy = bool(report["healthy"])
        if not contents.get(f"{name}.png", PNG).startswith(PNG):
            raise RecordError("the sheet of pictures is no PNG")
    except (RecordError, TypeError, KeyError) as error:
        raise BroughtError(f"{name} was diagnosed, and what is left is no report: {error}") from error
    for path, content in contents.items():
        command.publish(options.artifacts / REPORT / path, content)
        print(f"Written: {options.artifacts / REPORT / path}")
    return 0 if is_healthy else 1


if __name__ == "__main__":
    sys.exit(main())
