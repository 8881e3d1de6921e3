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
from bring.options import OPTIONS, PATHS
from bring.verdict.others import CHECKPOINT
from bring.walk import Reduced, bring
from contract.cell.sandbox import GIB, Limits
from contract.errors import BroughtError, RosettaError, plain
from contract.precisions import chosen
from verify.precision.gate import limits_of

SUFFIXES = (".h5", ".hdf5", ".keras", ".pt2", ".pt", ".pth", ".jit", ".safetensors", ".onnx", ".tflite", ".pb")
FOLDER_MARKS = ("saved_model.pb", "model.json", "MLmodel", "model.safetensors")
"""A folder that holds one of these files is a model."""


def main() -> None:
    """Bring each model, whatever becomes of the others; exit status 1 when none could be brought."""
    parser = argparse.ArgumentParser(prog="python -m bring", description="Bring your own model.")
    parser.add_argument("models", type=Path, nargs="+", help="files, or folders of files")
    parser.add_argument("--artifacts", type=Path, required=True, help="the folder to write artifacts to")
    for name, help in OPTIONS.items():
        parser.add_argument(f"--{name}", default="", help=help)
    parser.add_argument("--memory-gib", type=float, default=6.0, help="limit of memory of a child (%(default)s)")
    parser.add_argument("--minutes", type=float, default=15.0, help="limit of time of a child (%(default)s)")
    parser.add_argument("--sandbox", choices=["none"], help="none: go on where a part of the sandbox cannot be had")
    parser.add_argument("--precision", default="", help="variants to make: all, none, or some, such as int8,fp16")
    parser.add_argument("--max-loss", default="", help="what a variant may lose of the accuracy, such as 0.5%%")
    arguments = parser.parse_args()
    options = {name: value for name in OPTIONS if (value := getattr(arguments, name.replace("-", "_")))}
    options |= {name: str(Path(options[name]).resolve()) for name in PATHS if name in options}
    limits = Limits(60 * arguments.minutes, arguments.memory_gib * GIB, insist=arguments.sandbox != "none")
    # A signal becomes an exception, so that children and their folders are removed, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: ended before it was done. Nothing half-written is left."))
    try:
        models = named(arguments.models, options)
        reduced = Reduced(arguments.precision, arguments.max_loss)
        check(reduced)
    except RosettaError as error:
        sys.exit(f"error: {error}")
    failures = []
    for name, path in models.items():
        try:
            bring(path, name, arguments.artifacts, options, limits, reduced)
        except (RosettaError, OSError) as error:
            print(plain(f"error: {_of_file(path, str(error))}"), file=sys.stderr, flush=True)
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


def _of_file(path: Path, error: str) -> str:
    """The message with the file's name in front, once: many messages begin with it, or with the file's path."""
    error = error.removeprefix(f"{path.parent}/")
    return error if error.startswith((f"{path.name} ", f"{path.name}: ")) else f"{path.name}: {error}"


def check(reduced: Reduced) -> None:
    """Raise PrecisionError or ParityError for a precision or a limit that is none."""
    chosen(reduced.precision)
    limits_of(reduced.max_loss)


def named(paths: Sequence[Path], options: Mapping[str, str]) -> dict[str, Path]:
    """The models by name. Raises BroughtError for a path that does not exist, a bad name, and two of the same name."""
    models: dict[str, Path] = {}
    for path in (model for given in paths for model in _models_in(given)):
        name = _name(path, options)
        if name in models:
            raise BroughtError(
                f"{path} and {models[name]} would both be called {name}: rename one, or write another name into its "
                f"{MODEL_TOML}."
            )
        models[name] = path
    return models


def _name(path: Path, options: Mapping[str, str]) -> str:
    """The name that the user gave, or else the file's, in the characters of a model name."""
    given = options.get("name") or describe(path, {}).name or ""
    if re.search(r"[/\\]", given):
        raise BroughtError(f"{given!r} is a path, not a model name: use letters, digits and _.")
    name = given or (path.stem if path.is_file() else path.name)
    clean = re.sub(r"[^a-z0-9_]", "_", name.lower())
    if not re.search(r"[a-z0-9]", clean):
        raise BroughtError(f"{name!r} is not a model name: use letters, digits and _. Set NAME=...")
    return clean


def _models_in(path: Path) -> list[Path]:
    """The path itself, or the models in a folder of models."""
    if not path.exists():
        raise BroughtError(f"There is no {path}. Set MODEL=path/to/model.h5, or MODELS=folder.")
    if path.is_file() or _is_model_folder(path):
        return [path]
    inside = [entry for entry in sorted(path.iterdir()) if entry.suffix in SUFFIXES or _is_model_folder(entry)]
    if not inside and any(path.glob("*.index")) and any(path.glob("*.data-00000-of-*")):
        raise BroughtError(f"{path} holds a TensorFlow checkpoint: {CHECKPOINT}.")
    if not inside:
        raise BroughtError(f"{path} has no model in it: expected files such as {', '.join(SUFFIXES)}, or SavedModels.")
    return inside


def _is_model_folder(path: Path) -> bool:
    return any((path / name).exists() for name in FOLDER_MARKS)


if __name__ == "__main__":
    main()
