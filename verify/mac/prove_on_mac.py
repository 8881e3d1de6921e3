"""Ask a Core ML model the questions that lie beside it, on a Mac, and write its answers into mac.json.

    python3 prove_on_mac.py

This needs macOS 13 or later, NumPy, and coremltools (`pip install coremltools`). Copy mac.json back, beside the model's
manifest, and run `make verify` there: it compares the answers in it with the source's.
"""

from __future__ import annotations  # Apple's own Python is 3.9

import base64
import hashlib
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

MANIFEST, QUESTIONS, RECORD, SCHEMA = "manifest.json", "mac_questions.npz", "mac.json", 1


def main(folder: Path) -> None:
    """Ask with the processor alone, then with all that the Mac has. Ends with status 1 where answers are wrong."""
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    files = {name: sha256_of(folder / name) for name in (MANIFEST, *manifest["files"], QUESTIONS)}
    for name, expected in manifest["files"].items():
        if files[name] != expected:
            sys.exit(f"error: {name} has sha256 {files[name][:12]}..., the manifest says {expected[:12]}...: "
                     "it was changed, or not copied whole. Copy the folder again.")  # fmt: skip
    arrays = np.load(folder / QUESTIONS, allow_pickle=False)
    about = json.loads(arrays["about"].tobytes())
    if files[MANIFEST] != about["manifest"]:
        sys.exit(f"error: {QUESTIONS} is of another {MANIFEST}. Run `make verify`, and copy the folder again.")
    runs = [
        run_of(folder / about["package"], units, int(batch), about, arrays)
        for units in about["units"]
        for batch in about["batches"]
    ]
    passed = all(run["max_abs_diff"] <= about["tolerance"] for run in runs)
    record = {
        "schema": SCHEMA,
        "artifact": f"{manifest['model']}-{manifest['format']}",
        "files": files,
        "machine": machine(),
        "system": f"macOS {platform.mac_ver()[0]}",
        "coremltools": coremltools().__version__,
        "tolerance": about["tolerance"],
        "passed": passed,
        "runs": runs,
    }
    partial = folder / f".{RECORD}.partial"
    partial.write_text(json.dumps(record) + "\n", encoding="utf-8")
    partial.replace(folder / RECORD)
    print(f"{folder / RECORD} is written: copy it back, beside {MANIFEST}, and run `make verify` there.")
    if not passed:
        sys.exit("error: the answers are not the source's.")


def coremltools() -> Any:
    """The package, which is imported once the files are known to be whole: that takes seconds."""
    import coremltools

    return coremltools


def run_of(package: Path, units: str, batch: int, about: dict[str, Any], arrays: Any) -> dict[str, Any]:
    """The answers to the questions, `batch` in a call, and how far they are from the source's."""
    count = about["batches"][str(batch)]
    model = coremltools().models.MLModel(str(package), compute_units=getattr(coremltools().ComputeUnit, units))
    calls = []
    for start in range(0, count, batch):
        rows = {name: arrays[f"input {name}"][start : min(start + batch, count)] for name in about["inputs"]}
        rows = {name: rows[name][0] if about["are_calls"] else rows[name] for name in rows}
        answers = model.predict({name: rows[name].astype(dtype) for name, dtype in about["inputs"].items()})
        calls.append({name: np.asarray(answers[name]) for name in about["outputs"]})
    difference, same = compared(calls, batch, about, arrays)
    print(f"{units}, batch {batch}, {count} questions: largest difference {difference:.1e}, same class {same:.2%}")
    stored = [{name: as_json(value) for name, value in call.items()} for call in calls]
    return {"units": units, "batch": batch, "calls": stored, "max_abs_diff": difference, "same_class": same}


def compared(calls: list[dict[str, Any]], batch: int, about: dict[str, Any], arrays: Any) -> tuple[float, float]:
    """The largest difference, in the unit of the output's own values, and the share of rows of the same class."""
    largest, same = 0.0, 1.0
    for place, name in enumerate(about["outputs"]):
        expected = arrays[f"answer {batch} {name}"].astype(np.float64)
        got = np.concatenate([call[name].reshape(-1) for call in calls]).astype(np.float64)
        if got.size != expected.size:
            return float("inf"), 0.0
        got = got.reshape(expected.shape)
        unit = max(1.0, np.abs(expected[np.isfinite(expected)]).max(initial=0))
        difference = np.abs(got - expected) / unit
        largest = max(largest, float(np.where(np.isfinite(difference), difference, np.inf).max()))
        if place == 0:
            same = float((got.argmax(axis=1) == expected.argmax(axis=1)).mean())
    return largest, same


def as_json(value: Any) -> dict[str, Any]:
    value = value.astype(value.dtype.newbyteorder("<"))
    return {
        "dtype": value.dtype.name,
        "shape": list(value.shape),
        "data": base64.b64encode(value.tobytes()).decode(),
    }


def sha256_of(path: Path) -> str:
    if not path.is_file():
        sys.exit(f"error: {path} is missing. Copy the whole folder of the artifact.")
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while part := stream.read(1 << 20):
            total.update(part)
    return total.hexdigest()


def machine() -> str:
    """The name of its processor: "Apple M2"."""
    done = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or platform.machine()


if __name__ == "__main__":
    if platform.system() != "Darwin":
        sys.exit(f"error: Core ML runs on macOS alone, and this is {platform.system()}. Copy this folder to a Mac.")
    main(Path(__file__).resolve().parent)
