"""Does a source give the same answers in another process? A number that is drawn when it is loaded shows only there.

python -m verify.second_process artifacts/keras_cnn/keras      answers a few rows, and writes `answers.npz` beside it

The first process that runs a source leaves its answers there: with `bring` it is the one that reads the user's file,
which has loaded the framework anyway. Otherwise the gate starts one.
"""

import argparse
import contextlib
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.code import ROOT
from contract.errors import one_line
from contract.manifest import MANIFEST, Manifest, read_manifest, sha256_of
from contract.tensors import Tensors, numpy_dtype
from serve.runtimes import Runtime, load_runtime
from verify.questions import Questions, invented, invented_pictures

ANSWERS = "answers.npz"
ROWS = 3
VALUES = 1000
"""How many values of an output are kept, spread over all of it."""

_MANIFEST, _BELOW = "manifest", "below"


@dataclass(frozen=True)
class Left:
    """What a process left."""

    below: int
    """Whole numbers in the rows that it was asked are less than this."""
    answers: Sequence[Tensors]
    """To each of these rows, as `answer_rows` gives them."""


def answer_rows(runtime: Runtime, manifest: Manifest, below: int) -> list[Tensors]:
    """Some values of each output, for rows that every process can make. Raises what the runtime raises."""
    if manifest.image is not None:
        questions = Questions({manifest.inputs[0].name: invented_pictures(manifest.image, ROWS)}, None, "")
    else:
        are_calls = not manifest.has_rows
        rows = invented(manifest.inputs, ROWS, below, are_calls=are_calls)
        questions = Questions(rows, None, "", are_calls=are_calls)
    dtypes = {spec.name: numpy_dtype(spec.dtype) for spec in manifest.inputs}
    answers = [runtime.predict(questions.rows(row, row + 1, dtypes)) for row in range(ROWS)]
    return [{name: _sample(value) for name, value in answer.items()} for answer in answers]


def _sample(values: NDArray[Any]) -> NDArray[Any]:
    """As a list; reals of every dtype in one that NumPy can write."""
    sample = values.ravel()[:: max(1, values.size // VALUES)]
    return sample if sample.dtype == object or sample.dtype.kind in "iub" else sample.astype(np.float64)


def leave_answers(folder: Path, below: int) -> None:
    """Run the artifact in `folder`, and write its answers beside it. Raises what loading or running it raises."""
    manifest = read_manifest(folder)
    with contextlib.closing(load_runtime(folder, manifest)) as runtime:
        answers = answer_rows(runtime, manifest, below)
    arrays = {
        f"{row} {name}": value.astype(bytes) if value.dtype == object else value  # the other way needs pickle
        for row, answer in enumerate(answers)
        for name, value in answer.items()
    }
    arrays |= {_MANIFEST: np.array(sha256_of(folder / MANIFEST)), _BELOW: np.array(below)}
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    partial = folder / f".{ANSWERS}.{os.getpid()}.partial"
    partial.write_bytes(content.getvalue())
    partial.replace(folder / ANSWERS)


def answers_of_another_process(folder: Path, below: int) -> Left | None:
    """What an earlier process left, or one that is started now; None where that cannot answer, which is printed."""
    if left := _left(folder):
        return left
    done = subprocess.run(
        [sys.executable, "-m", "verify.second_process", str(folder), "--below", str(below)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if left := _left(folder):
        return left
    reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    print(f"{folder} was not run in a second process: {reason.removeprefix('error: ')}", file=sys.stderr, flush=True)
    return None


def _left(folder: Path) -> Left | None:
    """What is beside the manifest; None where there is nothing, or answers of other bytes."""
    try:
        with (folder / ANSWERS).open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            if str(arrays[_MANIFEST]) != sha256_of(folder / MANIFEST):
                return None
            answers: list[dict[str, NDArray[Any]]] = [{} for _ in range(ROWS)]
            for key in arrays.files:
                row, is_answer, name = key.partition(" ")
                if is_answer:
                    value = arrays[key]
                    answers[int(row)][name] = value.astype(object) if value.dtype.kind == "S" else value
            return Left(int(arrays[_BELOW]), answers)
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
        return None


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line: an artifact's folder. An error is one line, and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m verify.second_process", description="Leave a source's answers.")
    parser.add_argument("folder", type=Path, help="the folder of a source artifact")
    parser.add_argument("--below", type=int, default=2, help="whole numbers that it is asked are less (%(default)s)")
    options = parser.parse_args(arguments)
    try:
        leave_answers(options.folder, options.below)
    except Exception as error:  # a runtime may raise anything
        sys.exit(f"error: {one_line(error)}")


if __name__ == "__main__":
    main()
