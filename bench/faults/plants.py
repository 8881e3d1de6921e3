"""The ways to plant a fault: a healthy artifact is copied and changed, and its manifest is made to fit again."""

import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx

from contract.code import ROOT
from contract.errors import ExportError
from contract.manifest import MANIFEST, Manifest, read_manifest, sha256_of_files, write_manifest
from verify import questions


@dataclass(frozen=True)
class Bed:
    """A model's folder with its healthy source and the artifact that a fault is planted into."""

    artifact: Path
    source: Path
    healthy: Path
    """The folder of the healthy model, with all its artifacts."""

    @property
    def manifest(self) -> Manifest:
        return read_manifest(self.artifact)


Plant = Callable[[Bed], None]
"""It changes the files of `Bed.artifact`; the hashes in its manifest are made right afterwards."""


def planted(healthy: Path, format: str, plant: Plant, folder: Path) -> Bed:
    """A model in `folder` with the healthy source and, beside it, an artifact with the fault."""
    model = folder / healthy.name
    source = next(path.parent for path in healthy.glob(f"*/{MANIFEST}") if read_manifest(path.parent).is_source)
    model.mkdir(parents=True)
    shutil.copytree(source, model / source.name)  # the gate writes beside the source, too
    shutil.copytree(healthy / format, model / format)
    own = healthy.parent / questions.FOLDER
    if own.is_dir():
        (folder / questions.FOLDER).symlink_to(own.resolve())
    bed = Bed(model / format, model / source.name, healthy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # converters warn of much that is not a concern of ours
        plant(bed)
    rehash(bed.artifact)
    return bed


def rehash(folder: Path, **changes: Any) -> None:
    """Make the manifest fit the files, as a faulty exporter would; with these fields changed."""
    manifest = read_manifest(folder)
    files = sha256_of_files(folder, [folder / name for name in manifest.files])
    write_manifest(folder, replace(manifest, files=files, **changes))


def in_graph(change: Callable[[onnx.ModelProto], None]) -> Plant:
    """Change the ONNX graph in place."""

    def plant(bed: Bed) -> None:
        path = bed.artifact / "model.onnx"
        model = onnx.load(path)
        change(model)
        onnx.checker.check_model(model, full_check=True)
        onnx.save(model, path)

    return plant


def in_network(change: Callable[[Any], Any]) -> Plant:
    """Convert a changed Keras network: `change` takes the healthy source's and returns another one."""

    def plant(bed: Bed) -> None:
        import keras

        network = change(keras.models.load_model(bed.source / "model.h5", compile=False))
        made = bed.artifact.parent.parent / "made" / "keras"
        made.mkdir(parents=True)
        network.save(made / "model.h5", include_optimizer=False)
        manifest = read_manifest(bed.source)
        files = sha256_of_files(made, [made / "model.h5"])
        write_manifest(made, replace(manifest, format="keras", parent=None, files=files, made_with={}))
        convert(made, bed.artifact, bed.manifest)

    return plant


PATHS: dict[tuple[str, str], Sequence[str]] = {
    ("keras", "onnx"): ("onnx",),
    ("keras", "savedmodel"): ("savedmodel",),
    ("keras", "tflite"): ("savedmodel", "tflite"),
    ("keras", "tfjs"): ("savedmodel", "tfjs"),
    ("savedmodel", "tflite"): ("tflite",),
    ("savedmodel", "tfjs"): ("tfjs",),
    ("torch", "onnx"): ("onnx",),
}
"""The edges from a faulty artifact to the format that it is planted as."""


def convert(made: Path, target: Path, manifest: Manifest) -> None:
    """Convert the artifact `made` with the project's exporters, and put its files into the place of `target`'s."""
    for format in PATHS[made.name, manifest.format]:
        command = [sys.executable, "-m", "export", str(made), format]
        if format == "tfjs":  # its converter changes the process that it runs in
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                raise ExportError(f"{made} could not be converted to {format}: {done.stderr[-1000:]}")
        else:
            from export import export_artifact

            export_artifact(made, format)
        made = made.with_name(format)
    put(made, target, manifest)


def put(made: Path, target: Path, manifest: Manifest) -> None:
    """Put the files of the artifact `made` into the place of those of `target`, which keeps its manifest."""
    shutil.rmtree(target)
    shutil.copytree(made, target)
    write_manifest(target, replace(manifest, files=read_manifest(made).files))
