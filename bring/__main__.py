"""Bring your own models: the command line.

python -m bring flowers.h5 --artifacts artifacts-flowers
"""

import argparse
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bring.description import FILE as MODEL_TOML
from bring.description import describe
from bring.sandbox import GIB, Limits
from bring.walk import bring
from contract.errors import BroughtError, RosettaError

KINDS = (".h5", ".hdf5", ".keras", ".pt2", ".pt", ".pth", ".safetensors", ".onnx", ".tflite")


def main() -> None:
    """The command line: exit status 1 when no model could be brought; one that cannot keeps no other from it."""
    parser = argparse.ArgumentParser(prog="python -m bring", description="Bring your own model.")
    parser.add_argument("models", type=Path, nargs="+", help="files, or folders of files")
    parser.add_argument("--artifacts", type=Path, required=True)
    for name in ("name", "labels", "data", "preprocess", "arch", "answers", "trust"):
        parser.add_argument(f"--{name}", default="", help="see bring/description.py")
    parser.add_argument("--memory-gib", type=float, default=6.0, help="that a child may take (%(default)s)")
    parser.add_argument("--minutes", type=float, default=15.0, help="that a child may take (%(default)s)")
    options = parser.parse_args()
    said = {
        name: str(Path(value).resolve()) if name in ("labels", "data") else value
        for name, value in vars(options).items()
        if name in ("name", "labels", "data", "preprocess", "arch", "answers", "trust") and value
    }
    limits = Limits(seconds=60 * options.minutes, memory=options.memory_gib * GIB)
    # A signal becomes an exception, so that children and their folders go, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: ended before it was done. Nothing half-written is left."))
    failures = []
    try:
        models = named(options.models, said)
    except RosettaError as error:
        sys.exit(f"error: {error}")
    for name, path in models.items():
        try:
            bring(path, name, options.artifacts, said, limits)
        except (RosettaError, OSError) as error:
            print(f"error: {path.name}: {error}", file=sys.stderr, flush=True)
            failures.append(name)
        except KeyboardInterrupt:
            sys.exit("error: interrupted. Nothing half-written is left; the same command begins again.")
    if len(failures) == len(models):
        sys.exit(f"error: {', '.join(failures)} could not be brought.")
    if failures:
        print(
            f"{', '.join(failures)} could not be brought; the other {len(models) - len(failures)} are there.",
            flush=True,
        )


def named(paths: Sequence[Path], said: Mapping[str, str]) -> dict[str, Path]:
    """The models by name. Raises BroughtError for paths that are not there, bad names, and two of one name."""
    found: dict[str, Path] = {}
    for path in (model for given in paths for model in _models_in(given)):
        own = said.get("name") or describe(path, {}).name or ""
        if re.search(r"[/\\]", own):
            raise BroughtError(f"{own!r} is a path, and no name of a model: letters, digits and _ are expected.")
        name = own or (path.stem if path.is_file() else path.name)
        clean = re.sub(r"[^a-z0-9_]", "_", name.lower())
        if not re.search(r"[a-z0-9]", clean):
            raise BroughtError(f"{name!r} is no name of a model: letters, digits and _ are expected. Say NAME=...")
        if clean in found:
            raise BroughtError(
                f"{path} and {found[clean]} would both be called {clean}: rename one, or write another name into its "
                f"{MODEL_TOML}."
            )
        found[clean] = path
    return found


def _models_in(path: Path) -> list[Path]:
    """The path itself, or what a folder of models holds."""
    if not path.exists():
        raise BroughtError(f"There is no {path}. Say MODEL=path/to/model.h5, or MODELS=folder.")
    if path.is_file() or any((path / name).exists() for name in ("saved_model.pb", "model.json")):
        return [path]
    inside = [
        entry
        for entry in sorted(path.iterdir())
        if entry.suffix in KINDS or any((entry / name).exists() for name in ("saved_model.pb", "model.json"))
    ]
    if not inside:
        raise BroughtError(
            f"{path} holds no model: files such as {', '.join(KINDS)} or SavedModel folders are expected."
        )
    return inside


if __name__ == "__main__":
    main()
