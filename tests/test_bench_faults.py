"""`make faults`: planted faults are closed and named; some fast ones here, all of them by the command."""

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from bench.faults.__main__ import table
from bench.faults.faults import EDGES, FAULTS, Fault
from bench.faults.outcome import RIGHT, UNKNOWN, WRONG, Outcome, try_out
from contract.behaviour import BEHAVIOUR
from contract.code import ROOT
from contract.parity_result import ORDINARY, VERIFIED

LIMIT = 128

FAST = (
    "clipped-to-0--255",
    "wrong-from-row-64-of-a-batch-on",
    "dropout-left-on",
    "two-classes-swapped",
    "two-labels-swapped",
    "one-filter-negated",
    "bias-missing",
    "columns-of-keras-as-chw",
    "relu-missing",
)


@pytest.fixture(autouse=True)
def artifacts_are_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """They lie elsewhere than where this checkout trains its own."""
    monkeypatch.setenv("SANDBOX", "none")


@pytest.mark.parametrize("name", FAST)
def test_a_planted_fault_is_closed_and_named(artifacts: Path, tmp_path: Path, name: str) -> None:
    outcome = try_out(FAULTS[name], artifacts, tmp_path, LIMIT)
    assert outcome.is_closed, outcome
    assert outcome.named == RIGHT, outcome
    assert outcome.word == (ORDINARY if FAULTS[name].shows == EDGES else "unverified")


def test_planting_nothing_leaves_a_verified_artifact(artifacts: Path, tmp_path: Path) -> None:
    """The faults above are closed for their own sake."""
    nothing = Fault("nothing", "keras_cnn-onnx", lambda bed: None, "")
    outcome = try_out(nothing, artifacts, tmp_path, LIMIT)
    assert (outcome.word, outcome.closed_by, outcome.reason, outcome.cause) == (VERIFIED, (), "", "")


def test_the_healthy_artifacts_stay_as_they_are(artifacts: Path, tmp_path: Path) -> None:
    """Nothing is written to them, also where they were never compared."""
    folder = shutil.copytree(artifacts / "torch_cnn", tmp_path / "artifacts" / "torch_cnn").parent
    (folder / "torch_cnn" / "torch" / BEHAVIOUR).unlink()
    before = contents(folder)
    try_out(FAULTS["relu-missing"], folder, tmp_path, 16)
    assert contents(folder) == before


def contents(folder: Path) -> Mapping[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_are_many_faults_and_each_has_a_name_of_its_own() -> None:
    assert len(FAULTS) >= 40
    assert set(FAST) <= set(FAULTS)
    assert {fault.format for fault in FAULTS.values()} == {"onnx", "savedmodel", "tflite", "tfjs"}


def outcome(word: str, cause: str, shows: str = "closed") -> Outcome:
    fault = Fault("a fault", "keras_cnn-onnx", lambda bed: None, "right", shows)
    return Outcome(fault, word, ("edges", "rows"), "off by 1|2", cause, "", 1.0)


def test_what_counts_as_closed_and_as_named() -> None:
    assert [outcome(word, "").is_closed for word in ("unverified", "failed", ORDINARY, VERIFIED)] == [
        *(True, True),
        *(False, False),
    ]
    assert [outcome(word, "", EDGES).is_closed for word in ("unverified", ORDINARY, VERIFIED)] == [True, True, False]
    assert [outcome("unverified", cause).named for cause in ("right (so)", "unknown", "", "left")] == [
        *(RIGHT, UNKNOWN),
        *(UNKNOWN, WRONG),
    ]


def test_the_table_says_what_is_open_and_what_is_wrong() -> None:
    lines = list(table([outcome("unverified", "right"), outcome(VERIFIED, "left")], LIMIT))
    assert lines[2] == "| a fault | `keras_cnn-onnx` | edges, rows | off by 1/2 | unverified | right |"
    assert lines[3] == "| a fault | `keras_cnn-onnx` | NOT CLOSED | off by 1/2 | verified | WRONG: left |"
    assert lines[-1].startswith("Of 2 faults 1 are closed (50%); 1 are named rightly (50%), 0 are unknown, 1 are named")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "no-such"], "error: no-such: no such fault. Known: channels-as-bgr, "),
        (["--artifacts", "nowhere", "--only", "upside-down"], "error: nowhere/torch_cnn has no source artifact."),
    ],
)
def test_what_cannot_be_planted_is_an_error(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-m", "bench.faults", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr
