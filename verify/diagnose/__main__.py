"""python -m verify.diagnose keras_cnn tflite: exit status 0 when parity passes, 1 when it fails, 2 on an error."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bring.verdict.artifact import judge_again
from contract import dataset
from contract.errors import ArtifactMissing, RosettaError
from contract.formats import is_reduced
from contract.manifest import MANIFEST, Manifest, read_manifest, verify_files
from verify.diagnose.diagnosis import diagnose
from verify.diagnose.show import text, write_report
from verify.questions import load as load_questions


def find(artifacts: Path, model: str, format: str) -> tuple[Path, Manifest, Manifest]:
    """The model's folder, the artifact's manifest and its source's, after checking and judging the files of both.

    Raises ArtifactMissing where a name is unknown or is the source's, ArtifactCorrupt where a file is damaged, and
    BroughtError where one does more than compute. What a reduced precision was made from is judged, too: its layers
    are compared with it.
    """
    models = sorted({path.parent.parent.name for path in artifacts.glob(f"*/*/{MANIFEST}")})
    if model not in models:
        raise ArtifactMissing(f"No model {model!r} in {artifacts}. {_known('MODEL', models)}")
    folder = artifacts / model
    manifests = {path.parent.name: read_manifest(path.parent) for path in sorted(folder.glob(f"*/{MANIFEST}"))}
    sources = [name for name, manifest in manifests.items() if manifest.is_source]
    others = [name for name in manifests if name not in sources]
    if len(sources) != 1:
        raise ArtifactMissing(f"{folder} has {len(sources)} source artifacts, expected one. Run `make artifacts`.")
    if format in sources:
        raise ArtifactMissing(
            f"{model}-{format} is the source, and the source is compared with nothing. {_known('FORMAT', others)}"
        )
    if format not in others:
        raise ArtifactMissing(f"{model} has no format {format!r}. {_known('FORMAT', others)}")
    for name in (format, *sources):
        verify_files(folder / name, manifests[name])
    parents = {manifests[format].parent} if is_reduced(format) else set()
    for name in manifests.keys() & {format, *parents, *sources}:
        judge_again(folder / name, manifests[name])
    return folder, manifests[format], manifests[sources[0]]


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
    options = parser.parse_args(arguments)
    try:
        folder, artifact, source = find(options.artifacts, options.model, options.format)
        questions = load_questions(folder, options.dataset, options.limit)
        diagnosis = diagnose(folder, artifact, source, questions)
        paths = write_report(diagnosis, questions, options.artifacts / "report", options.images)
    except (RosettaError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(text(diagnosis), *(f"Written: {path}" for path in paths), sep="\n")
    return 1 if diagnosis.reasons else 0


if __name__ == "__main__":
    sys.exit(main())
