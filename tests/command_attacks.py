"""Attack verify, diagnose and compare from a model that they load, on the system of a mode.

python -m tests.command_attacks FOLDER MODE      prints JSON: command -> what its model reached, and what changed

Two models act when they are loaded. `code` is a program of PyTorch whose reader compiles the name of an input, which is
Python code: it stands for a file that uses a fault of what reads it, and only what does not judge it loads it. `acts`
is a SavedModel that copies a private file to where everybody may write. Both sides said TRUST=1.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from contract.cell import host
from contract.code import ROOT
from contract.manifest import Manifest, TensorSpec, sha256_of_files, write_manifest
from tests import cell_attacks, cells
from tests.hostile_models import write_code
from verify import questions
from verify.questions import Questions

ATTACKS = (
    "read_what_everybody_may_read",
    "read_the_rest_of_the_checkout",
    "read_the_callers_variables",
    "write_where_everybody_may",
    "have_privileges",
    "connect",
    "leave_a_process_behind",
)
"""Those that do no harm where nothing holds them."""

CODE = """
import importlib.util, json, os, pathlib
here = pathlib.Path(__file__).parent
spec = importlib.util.spec_from_file_location("cell_attacks", here / "cell_attacks.py")
cell_attacks = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cell_attacks)
outside, reached = json.loads((here / "outside").read_text()), {}
for name in outside["attacks"]:
    if by_it := cell_attacks.ATTACKS[name](outside):
        reached[name] = by_it
os.write(2, f"error: ATTACKED {json.dumps(reached)}\\n".encode())
os._exit(1)
"""


def write_models(artifacts: Path, about: dict[str, Any]) -> None:
    code = artifacts / "code" / "torch"
    code.mkdir(parents=True)
    (code / "attack.py").write_text(CODE)
    shutil.copyfile(cell_attacks.__file__, code / "cell_attacks.py")
    (code / "outside").write_text(json.dumps(about | {"attacks": ATTACKS}))
    write_code(code / "model.pt2", f"__import__('runpy').run_path({str(code / 'attack.py')!r})")
    _seal(code, None)
    acting = tf.Module()
    acting.f = tf.function(
        lambda x: _copying(x, about["secret"], f"{about['open']}/copy"), [tf.TensorSpec([None, 4], tf.float32, "x")]
    )
    for format, parent in (("savedmodel", None), ("savedmodel-int8", "savedmodel")):
        tf.saved_model.save(acting, str(artifacts / "acts" / format), signatures=acting.f)
        _seal(artifacts / "acts" / format, parent)
    for model in ("code", "acts"):
        rows = Questions({"x": np.zeros((16, 4), np.float32)}, None, "rows")
        questions.write(artifacts / questions.FOLDER / f"{model}.npz", rows)


def _copying(x: tf.Tensor, source: str, target: str) -> dict[str, tf.Tensor]:
    with tf.control_dependencies([tf.io.write_file(target, tf.io.read_file(source))]):
        return {"y": tf.identity(x)}


def _seal(artifact: Path, parent: str | None) -> None:
    x, y = (TensorSpec(name, "float32", (None, 4), "NC") for name in ("x", "y"))
    files = sha256_of_files(artifact, [path for path in artifact.rglob("*") if path.is_file()])
    about = Manifest(artifact.parent.name, artifact.name, parent, (x,), (y,), None, (), files, {"trusted": True})
    write_manifest(artifact, about)


def main() -> None:
    folder, mode = Path(sys.argv[1]), sys.argv[2]
    (folder / "besides").mkdir()
    results = {}
    with cells.outside(folder / "besides", folder / "besides" / "own") as about:
        artifacts = folder / "artifacts"
        write_models(artifacts, about)
        commands = {
            "answers": ["compare.answers", artifacts / "code" / "torch", folder / "answers.npz"],
            "latency": ["compare.latency", artifacts / "code" / "torch"],
            "turns": ["compare.latency", artifacts / "code" / "torch", "--turns"],
            "verify": ["verify", artifacts / "acts"],
            "diagnose": ["verify.diagnose", "acts", "savedmodel-int8", "--artifacts", artifacts],
        }
        before, known = cells.state(about), set(cells.left_behind(about["marker"]))
        for name, command in commands.items():
            log = folder / "log"  # a pipe would stay open as long as a process that was left behind
            with log.open("wb") as output:
                subprocess.run(
                    [sys.executable, "-m", *map(str, command)],
                    cwd=ROOT,
                    env=os.environ | {"SERVE_TRUST": "1"},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    check=False,
                )
            changed = [path for path, now in cells.state(about).items() if now != before[path]]
            left = set(cells.left_behind(about["marker"])) - known
            for process in left:
                os.kill(process, signal.SIGKILL)
            (Path(about["open"]) / "copy").unlink(missing_ok=True)
            results[name] = {"wrote": log.read_text(errors="replace"), "changed": changed, "left": len(left)}
    parts = host.find_parts()
    print(json.dumps({"lacks": parts.lacks, "mode": mode, "results": results}))


if __name__ == "__main__":
    main()
