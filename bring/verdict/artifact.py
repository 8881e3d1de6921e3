"""Judge an artifact once more, by what loads it: it need not come from the process that judged the file.

python -m bring.verdict.artifact FOLDER      judges every artifact of a model, one line of JSON each; see `judge_model`
"""

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from bring.verdict import KINDS, examine, insist
from bring.verdict.findings import few
from contract.errors import ArtifactCorrupt, ArtifactError, BroughtError, RosettaError
from contract.formats import FORMATS, family_of
from contract.manifest import MANIFEST, Manifest, read_manifest, verify_files

FILES = {
    "torch": "model.pt2",
    "onnx": "model.onnx",
    "tflite": "model.tflite",
    "tfjs": "model.json",
    "savedmodel": "",
    "openvino": "model.xml",
    "executorch": "model.pte",
    "coreai": "model.aimodel",
}
"""What a runtime loads from the folder of an artifact; Keras loads the one file with its suffix."""
ZIPPED = {".keras": True, ".h5": False}
MAX_BYTES = 1 << 40
"""What was brought within the limits may be larger in another format."""
SERVE = "bring it with TRUST=1, and serve it with SERVE_TRUST=1"
RUN = "bring it with TRUST=1, and run this command with it, too: `make` with TRUST=1, `python -m` with SERVE_TRUST=1"


def judge_again(folder: Path, manifest: Manifest) -> None:
    """Judge an artifact as the service does, before a command loads it.

    Anybody may have written the manifest, so its word for trust counts only with SERVE_TRUST=1, as the service's.
    Raises BroughtError or UntrustedModel with the reasons, and ArtifactCorrupt where a file is not the manifest's, or
    the manifest not the folder's: whoever loads an artifact may go by either name.
    """
    insist_on_folder(folder, manifest)
    try:
        insist_on_artifact(folder, manifest, os.environ.get("SERVE_TRUST") == "1" and is_trusted(folder, manifest), RUN)
    except BroughtError:
        verify_files(folder, manifest)  # a damaged file is not a matter of trust
        raise


def insist_on_folder(folder: Path, manifest: Manifest) -> None:
    """Raises ArtifactCorrupt where a manifest is of another format than the folder that it lies in."""
    if manifest.format != folder.name:
        raise ArtifactCorrupt(
            f"{folder / MANIFEST} is the manifest of {manifest.name}, expected one in the format {folder.name}. "
            f"Remove {folder} and make it again."
        )


def judge_model(model: Path) -> Mapping[str, str]:
    """The formats of a brought model -> why the artifact is not loaded, or "". They are judged in a cell.

    Raises BroughtError where there is no cell.
    """
    from contract.cell import command  # a service starts without it
    from contract.cell.sandbox import ChildFailed

    with command.cell_of(model) as cell:
        try:
            output, ended = command.run(cell, "bring.verdict.artifact", cell.file).output, "nothing was said of it"
        except ChildFailed as error:
            output, ended = error.output, str(error)
    reasons = {path.parent.name: f"It could not be judged: {ended}" for path in model.glob(f"*/{MANIFEST}")}
    for line in output.splitlines():
        with contextlib.suppress(ValueError, TypeError):
            format, reason = json.loads(line)
            if format in reasons and isinstance(reason, str):
                reasons[format] = reason
    return reasons


def is_trusted(folder: Path, manifest: Manifest) -> bool:
    """Whether the manifest of the model that it is, or was made from, says that the user trusted it."""
    source = source_of(folder, manifest)
    return (read_manifest(source) if source else manifest).is_trusted


def source_of(folder: Path, manifest: Manifest) -> Path | None:
    """The folder of the artifact at the top of its parents; None where one of them cannot be read."""
    for _ in FORMATS:
        if manifest.parent is None:
            return folder
        try:
            folder = folder.with_name(manifest.parent)
            manifest = read_manifest(folder)
        except (ArtifactError, OSError):
            return None
    return None


def insist_on_artifact(folder: Path, manifest: Manifest, trusted: bool, switch: str = SERVE) -> None:
    """Accept an artifact that only computes; if the user trusted the model, also one that does more.

    Raises BroughtError or UntrustedModel with the reasons. The files have to be those that the manifest names.
    """
    family = family_of(manifest.format)
    if family not in FILES and family != "keras":
        return  # no runtime loads it
    if odd := [member for member in folder.rglob("*") if member.exists() and not (member.is_file() or member.is_dir())]:
        raise BroughtError(
            f"{folder} has {few(str(member.relative_to(folder)) for member in odd)}, expected files and folders alone: "
            "what reads a pipe waits for ever. Export it again."
        )
    path = folder / (manifest.file(*ZIPPED) if family == "keras" else FILES[family])
    verdict = examine(path, MAX_BYTES)
    if verdict.kind != family or (family == "keras" and ZIPPED[path.suffix] != _is_zipped(path)):
        raise BroughtError(
            f"{path} is {KINDS[verdict.kind]}, but not as its name says: expected {KINDS[family]}. Export it again."
        )
    insist(verdict, trusted, switch)


def _is_zipped(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"PK"


def main() -> None:
    """Judge each artifact of a model, in a cell: a line each, the format and why it is not loaded, or ""."""
    for path in sorted(Path(sys.argv[1]).glob(f"*/{MANIFEST}")):
        try:
            judge_again(path.parent, read_manifest(path.parent))
        except (RosettaError, OSError) as error:
            print(json.dumps([path.parent.name, str(error)]), flush=True)
        else:
            print(json.dumps([path.parent.name, ""]), flush=True)


if __name__ == "__main__":
    main()
