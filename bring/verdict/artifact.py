"""Judge an artifact once more, by what serves it: it need not come from the process that judged the file."""

from pathlib import Path

from bring.verdict import KINDS, examine, insist
from contract.errors import BroughtError
from contract.formats import family_of
from contract.manifest import Manifest

FILES = {
    "torch": "model.pt2",
    "onnx": "model.onnx",
    "tflite": "model.tflite",
    "tfjs": "model.json",
    "savedmodel": "",
    "openvino": "model.xml",
    "executorch": "model.pte",
}
"""What a runtime loads from the folder of an artifact; Keras loads the one file with its suffix."""
ZIPPED = {".keras": True, ".h5": False}
MAX_BYTES = 1 << 40
"""What was brought within the limits may be larger in another format."""


def insist_on_artifact(folder: Path, manifest: Manifest, trusted: bool) -> None:
    """Accept an artifact that only computes; if the user trusted the model, also one that does more.

    Raises BroughtError or UntrustedModel with the reasons. The files have to be those that the manifest names.
    """
    family = family_of(manifest.format)
    if family not in FILES and family != "keras":
        return  # no runtime loads it
    path = folder / (manifest.file(*ZIPPED) if family == "keras" else FILES[family])
    verdict = examine(path, MAX_BYTES)
    if verdict.kind != family or (family == "keras" and ZIPPED[path.suffix] != _is_zipped(path)):
        raise BroughtError(
            f"{path} is {KINDS[verdict.kind]}, but not as its name says: expected {KINDS[family]}. Export it again."
        )
    insist(verdict, trusted, "bring it with TRUST=1, and serve it with SERVE_TRUST=1")


def _is_zipped(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"PK"
