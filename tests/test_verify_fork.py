"""A fork compares artifacts beside the process that made it: each is compared once, and every log stays whole."""

import os
import signal
import time
from pathlib import Path

import pytest

from contract.errors import RuntimeFailure
from contract.manifest import MANIFEST, Manifest, TensorSpec, sha256_of, write_manifest
from contract.parity_result import BatchParity, ParityResult, write_parity
from verify.fork import Taken, forked
from verify.parity import Compared, _add

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def test_a_fork_returns_what_its_work_returns_and_its_log_is_printed_when_it_has_ended(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "written"

    def work(number: int) -> int:
        os.write(2, b"from a library\n")
        written.touch()
        return 2 * number

    with forked(work) as fork:
        fork.begin(21)
        while not written.exists():
            time.sleep(0.01)
        assert capfd.readouterr().err == ""
        assert fork.result() == 42
        assert capfd.readouterr().err == "from a library\n"


def test_a_fork_that_crashes_is_an_error_with_the_signal() -> None:
    with forked(lambda given: os.kill(os.getpid(), signal.SIGKILL)) as fork:
        fork.begin(None)
        with pytest.raises(RuntimeFailure, match=r"^It was ended by SIGKILL: the library that it ran crashed"):
            fork.result()


def test_a_fork_with_nothing_to_do_ends_with_its_block() -> None:
    with pytest.raises(ValueError, match="no source"), forked(str) as fork:
        raise ValueError("no source")
    assert fork.wait() == 0


def test_each_part_is_taken_by_one_process(tmp_path: Path) -> None:
    def take_all(parts: list[str]) -> list[str]:
        return [part for part in parts if taken.take(part)]

    taken, parts = Taken(tmp_path), [f"part {number}" for number in range(500)]
    with forked(take_all) as fork:
        fork.begin(parts)
        own = take_all(parts)
        others = fork.result()
    assert sorted(own + others) == sorted(parts)
    assert taken.by_others() == sorted(others)


def test_where_the_fork_crashes_what_it_compared_before_counts(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = TensorSpec("x", "float32", (None, 2), "ND")
    (tmp_path / "taken").mkdir()
    for format, parent in (("keras", None), ("onnx", "keras"), ("tflite", "keras"), ("tfjs", "keras")):
        (tmp_path / format).mkdir()
        write_manifest(tmp_path / format, Manifest("net", format, parent, (spec,), (spec,), None, ()))
    taken = Taken(tmp_path / "taken")

    def work(formats: list[str]) -> None:
        for format in formats:
            taken.take(format)
            if format == "tfjs":
                os.kill(os.getpid(), signal.SIGKILL)
            write_parity(tmp_path / format, result_of(tmp_path, format))

    own = Compared({"onnx": result_of(tmp_path, "onnx")})
    taken.take("onnx")
    with forked(work) as fork:
        fork.begin(["tflite", "tfjs"])
        _add(own, fork, tmp_path, taken)
    assert own.results == {format: result_of(tmp_path, format) for format in ("onnx", "tflite")}
    assert [str(error) for error in own.errors] == [
        "It was ended by SIGKILL: the library that it ran crashed on this file."
    ]
    assert "net-tfjs cannot be compared: It was ended by SIGKILL" in capfd.readouterr().err


def result_of(folder: Path, format: str) -> ParityResult:
    return ParityResult(
        artifact=f"net-{format}",
        source="net-keras",
        artifact_sha256=sha256_of(folder / format / MANIFEST),
        source_sha256=sha256_of(folder / "keras" / MANIFEST),
        passed=True,
        reasons=(),
        tolerance=1e-4,
        images=1,
        accuracy=None,
        batches=(BatchParity(1, 0.0, 0.0, 1.0, None, 1.0, ()),),
        seconds=0.0,
        edges=0,
        differs=(),
        processor="",
    )
