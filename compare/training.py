"""The two training scripts side by side: speed, accuracy, lines of code, and the message for the same mistake.

    python -m compare.training keras        makes a deliberate error in the shapes, and prints the message as JSON

The mistake is the same in both: pictures of 32 x 32 for a network whose last layers expect pictures of 28 x 28.
"""

import ast
import json
import re
import statistics
import subprocess
import sys
import tokenize
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compare.figures import Figure, Measured, exact, once
from compare.report import Training
from contract.code import ROOT
from contract.errors import RuntimeFailure
from contract.manifest import Manifest, read_manifest

FAULT_FILE = "<the error>"
FAULT_SECONDS = 120
COLOURS = re.compile(r"\x1b\[[0-9;]*m")

NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


@dataclass(frozen=True)
class Script:
    """A framework's training script, the names in it whose lines are counted, and the deliberate error."""

    file: str
    model: tuple[str, ...]
    training: tuple[str, ...]
    fault: str


SCRIPTS = {
    "keras": Script(
        "train/keras_cnn.py",
        model=("build",),
        training=("train",),
        fault="import numpy as np\n"
        "from train.keras_cnn import build\n\n"
        "model = build((28, 28, 1), 10)\n"
        "model(np.zeros((1, 32, 32, 1), np.float32))",
    ),
    "torch": Script(
        "train/torch_cnn.py",
        model=("ClassicCNN", "Shipped"),
        training=("train", "export"),
        fault="import torch\n"
        "from train.torch_cnn import ClassicCNN\n\n"
        "net = ClassicCNN((28, 28, 1), 10)\n"
        "net(torch.zeros(1, 1, 32, 32))",
    ),
}
"""Format of the source artifact -> its script."""


def compare_training(folder: Path, fault: Mapping[str, str]) -> Training | None:
    """The training of the source artifact in `folder`; None if none of this project's scripts made it."""
    manifest = read_manifest(folder)
    script = SCRIPTS.get(manifest.format)
    if script is None or "epoch_seconds" not in manifest.made_with:
        return None
    return Training(
        model=manifest.model,
        framework=str(manifest.made_with["framework"]),
        script=script.file,
        figures=_speed(manifest) | _lines(script),
        fault=script.fault,
        message=fault["message"],
        where=fault["where"],
    )


def _speed(manifest: Manifest) -> dict[str, Measured]:
    made = manifest.made_with
    epochs = [float(seconds) for seconds in made["epoch_seconds"]]
    images = int(made["train_images"])
    quarters = statistics.quantiles(epochs, n=4) if len(epochs) > 1 else [epochs[0]] * 3
    epoch = Figure(statistics.median(epochs), "s", quarters[0], quarters[2], len(epochs), "middle half of the epochs")
    return {
        "epoch": epoch,
        "images_per_second": Figure(
            images / epoch.value, "1/s", images / epoch.high, images / epoch.low, len(epochs), epoch.spread
        ),
        "training": once(float(made["seconds"]), "s"),
        "parameters": exact(int(made["parameters"]), ""),
        "epochs": exact(int(made["epochs"]), ""),
    }


def _lines(script: Script) -> dict[str, Measured]:
    file = ROOT / script.file
    return {
        "model_lines": exact(lines_of_code(file, script.model), ""),
        "training_lines": exact(lines_of_code(file, script.training), ""),
        "script_lines": exact(lines_of_code(file), ""),
    }


def lines_of_code(file: Path, names: tuple[str, ...] | None = None) -> int:
    """Lines of code, without blank lines, comments and docstrings: of the file, or of these functions and classes.

    Raises KeyError for a name that the file does not define.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    with tokenize.open(file) as source:
        tokens = [token for token in tokenize.generate_tokens(source.readline) if token.type not in NO_CODE]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str())):  # a docstring
                lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    if names is None:
        return len(lines)
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return len(lines & {line for name in names for line in _span(defined[name])})


def _span(node: ast.FunctionDef | ast.ClassDef) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def fault_of(framework: str) -> dict[str, str]:
    """The message of the deliberate error, and the last line of this project's code in its traceback.

    Runs in its own process. Raises RuntimeFailure if the code cannot run.
    """
    command = [sys.executable, "-m", "compare.training", framework]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=FAULT_SECONDS)
    if done.returncode:
        raise RuntimeFailure(
            f"The deliberate error could not be made: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}"
        )
    answer: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _make_fault(framework: str) -> dict[str, str]:
    fault = SCRIPTS[framework].fault
    try:
        exec(compile(fault, FAULT_FILE, "exec"), {})
    except ImportError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [
            frame for frame in frames if frame.filename == FAULT_FILE or Path(frame.filename).parent == ROOT / "train"
        ]
        text = "".join(traceback.format_exception_only(error)).strip()
        return {"message": COLOURS.sub("", text), "where": _place(own[-1], fault)}
    return {"message": "No error was raised.", "where": ""}


def _place(frame: traceback.FrameSummary, fault: str) -> str:
    """The line of a frame, with its file unless it is the deliberate error itself."""
    line = frame.lineno or 0
    if frame.filename == FAULT_FILE:
        return f"line {line}: {fault.splitlines()[line - 1]}"
    return f"{Path(frame.filename).relative_to(ROOT)}, line {line}: {frame.line}"


if __name__ == "__main__":
    print(json.dumps(_make_fault(sys.argv[1])))
