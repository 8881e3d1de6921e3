"""Commands that load artifacts judge them before, as the service does: they may come from elsewhere, too.

The model here has a SavedModel that writes a file whenever it is run, and loading it runs it once.
"""

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from bench.faults import bases
from bench.runtimes.__main__ import SERVED, measure_all
from bench.serving import __main__ as serving
from bring.verdict.artifact import judge_again
from compare import measure
from compare.__main__ import main as compare
from compare.measure import find_subjects
from compare.report import REPORT, read_report
from contract.arm_proof import ARM
from contract.code import ROOT
from contract.errors import ArtifactCorrupt, BroughtError, UntrustedModel
from contract.manifest import MANIFEST, Manifest, TensorSpec, read_manifest, sha256_of_files, write_manifest
from contract.parity_result import PARITY, VERIFIED, Status
from serve.runtimes import load_runtime
from tests.test_bring_verdict_corpus import add_node, onnx_file, tflite_file
from tests.test_bring_verdict_served import HOSTILE, artifact, harmless, keras
from tests.test_verify_arm import HERE
from verify import questions
from verify.__main__ import main as verify
from verify.arm import __main__ as arm
from verify.arm import proof
from verify.diagnose.__main__ import main as diagnose
from verify.questions import Questions

IN, OUT = (TensorSpec("x", "float32", (None, 1), "NC"),), (TensorSpec("y", "float32", (None, 1), "NC"),)
ROWS = np.linspace(-1, 1, 80, dtype=np.float32).reshape(80, 1)
WORDS = "does more than compute"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel that also writes `written`, and a TF Lite file; both answer as `harmless` does. Do not change it."""
    folder = tmp_path_factory.mktemp("made")

    def act(x: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.control_dependencies([tf.io.write_file(str(folder / "written"), "it ran")]):
            return {"y": tf.identity(x)}

    entry = tf.TensorSpec([None, 1], tf.float32, "x")
    module = tf.Module()
    module.act = tf.function(act, [entry])
    tf.saved_model.save(module, str(folder / "savedmodel"), signatures=module.act)
    plain = tf.function(lambda x: {"y": x @ tf.ones([1, 1])}, [entry]).get_concrete_function()
    (folder / "model.tflite").write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([plain]).convert())
    return folder


def sealed(folder: Path, parent: str | None, **made_with: object) -> Path:
    (folder / MANIFEST).unlink(missing_ok=True)
    files = sha256_of_files(folder, [path for path in folder.rglob("*") if path.is_file()])
    write_manifest(folder, Manifest("mine", folder.name, parent, IN, OUT, None, (), files, made_with))
    return folder


@pytest.fixture
def written(made: Path) -> Iterator[Path]:
    """The file that the SavedModel writes; it is not there."""
    (made / "written").unlink(missing_ok=True)
    yield made / "written"


@pytest.fixture
def model(made: Path, written: Path, tmp_path: Path) -> Path:
    """A model as somebody may hand it on: an honest ONNX source, the SavedModel, and an honest TF Lite file."""
    folder = tmp_path / "artifacts" / "mine"
    (folder / "onnx").mkdir(parents=True)
    harmless(folder / "onnx")
    shutil.copytree(made / "savedmodel", folder / "savedmodel")
    (folder / "tflite").mkdir()
    shutil.copy(made / "model.tflite", folder / "tflite")
    for format, parent in (("onnx", None), ("savedmodel", "onnx"), ("tflite", "savedmodel")):
        sealed(folder / format, parent, trusted=True)  # anybody may write that
    questions.write(folder.parent / questions.FOLDER / "mine.npz", Questions({"x": ROWS}, None, "rows", 1e-3))
    return folder


def turned_round(model: Path) -> Path:
    """The same, but the SavedModel is the source."""
    sealed(model / "savedmodel", None, trusted=True)
    sealed(model / "onnx", "savedmodel", trusted=True)
    return model


def with_variant(model: Path) -> None:
    """Add a variant that answers as its source does."""
    (model / "onnx-fp16").mkdir()
    harmless(model / "onnx-fp16")
    sealed(model / "onnx-fp16", "onnx")


def with_variant_of_what_is_refused(model: Path) -> None:
    """Let the TF Lite file be one of the SavedModel."""
    (model / "tflite").rename(model / "tflite-int8")
    sealed(model / "tflite-int8", "savedmodel")


def refused(text: str) -> bool:
    return WORDS in text and "WriteFile" in text and "`make` with TRUST=1" in text


# The verdict


@pytest.mark.parametrize("family", HOSTILE)
def test_every_format_is_judged(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A manifest's word for trust counts where whoever runs the command trusts the model, too."""
    folder = tmp_path / "mine" / family
    folder.mkdir(parents=True)
    hostile, words = HOSTILE[family]
    artifact(folder, family, hostile(folder), trusted=True)
    (subject,) = find_subjects(tmp_path)
    assert subject.manifest is None and words in subject.problem and WORDS in subject.problem
    with pytest.raises(UntrustedModel):
        judge_again(folder, read_manifest(folder))
    monkeypatch.setenv("SERVE_TRUST", "1")
    judge_again(folder, read_manifest(folder))
    write_manifest(folder, replace(read_manifest(folder), made_with={}))
    with pytest.raises(UntrustedModel):
        judge_again(folder, read_manifest(folder))


def test_a_damaged_file_is_no_matter_of_trust(model: Path) -> None:
    (model / "onnx" / "model.onnx").write_bytes(b"")
    with pytest.raises(ArtifactCorrupt, match="has sha256"):
        judge_again(model / "onnx", read_manifest(model / "onnx"))


def test_what_is_judged_is_what_is_loaded(model: Path) -> None:
    """Some code goes by the folder's name, and some by the manifest's."""
    (model / "onnx").rename(model / "tfjs")
    with pytest.raises(ArtifactCorrupt, match="is the manifest of mine-onnx, expected one in the format tfjs"):
        judge_again(model / "tfjs", read_manifest(model / "tfjs"))


def test_verify_waits_for_no_artifact_that_nobody_judges(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "end").touch()
    with pytest.raises(SystemExit):
        verify([str(model), "--formats", "tfjs", "--until", str(tmp_path / "end")])
    assert "--until needs --judged" in capsys.readouterr().err


def test_the_savedmodel_writes_its_file_when_it_is_loaded(model: Path, written: Path) -> None:
    load_runtime(model / "savedmodel", read_manifest(model / "savedmodel")).close()
    assert written.exists()


def test_make_passes_trust_on() -> None:
    for trust, passed_on in (("1", "1"), ("", "")):
        command = ["make", f"TRUST={trust}", "--no-print-directory", "--eval", 'shown: ; @echo "<$$SERVE_TRUST>"']
        done = subprocess.run([*command, "shown"], cwd=ROOT, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == f"<{passed_on}>"


# Each command


def test_verify_compares_the_others(model: Path, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="error: mine-savedmodel were refused, and not compared"):
        verify([str(model)])
    assert refused(capsys.readouterr().err)
    assert not written.exists()
    assert (model / "tflite" / PARITY).exists() and not (model / "savedmodel" / PARITY).exists()


def test_verify_takes_what_only_computes(model: Path) -> None:
    shutil.rmtree(model / "savedmodel")
    verify([str(model)])
    assert (model / "tflite" / PARITY).exists()


def test_verify_ends_where_the_source_is_refused(model: Path, written: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        verify([str(turned_round(model))])
    assert refused(str(ended.value)) and str(ended.value).startswith("error: ")
    assert not written.exists()


def test_verify_leaves_out_a_variant_of_what_is_refused(
    model: Path, written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its layers are compared with those of the artifact that it was made from."""
    with_variant_of_what_is_refused(model)
    with pytest.raises(SystemExit, match="error: mine-savedmodel, mine-tflite-int8 were refused"):
        verify([str(model)])
    assert "mine-tflite-int8 is not compared: it was made from mine-savedmodel" in capsys.readouterr().err
    assert not written.exists()


def test_trust_of_both_sides_lets_it_run(model: Path, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_TRUST", "1")
    verify([str(model)])
    assert written.exists() and (model / "savedmodel" / PARITY).exists()


@pytest.mark.parametrize("change", [lambda model: model, turned_round], ids=["artifact", "source"])
def test_diagnose_refuses_either_side(
    model: Path, written: Path, change: Callable[[Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    is_source = read_manifest(change(model) / "savedmodel").is_source
    assert diagnose(["mine", "onnx" if is_source else "savedmodel", "--artifacts", str(model.parent)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and refused(error)
    assert not written.exists()


def test_diagnose_takes_what_only_computes(model: Path, written: Path) -> None:
    with_variant(model)
    assert diagnose(["mine", "onnx-fp16", "--artifacts", str(model.parent)]) == 0
    assert not written.exists()


def test_diagnose_judges_what_a_variant_was_made_from(
    model: Path, written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_variant_of_what_is_refused(model)
    assert diagnose(["mine", "tflite-int8", "--artifacts", str(model.parent)]) == 2
    assert refused(capsys.readouterr().err) and not written.exists()


def test_compare_measures_the_others(
    model: Path, written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("compare.__main__.write_page", lambda report, folder: None)  # drawing takes seconds
    monkeypatch.setattr(measure, "runtimes_of", lambda format: {})
    compare([str(model.parent), "--rounds", "1", "--seconds", "0.02", "--limit", "16"])
    assert refused(capsys.readouterr().err)
    assert not written.exists()
    report = read_report(model.parent / "report" / REPORT)
    assert refused(report.artifacts["mine-savedmodel"].verdict)
    assert report.artifacts["mine-tflite"].verdict == "passed"


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """This Python takes the place of the emulated one, and whoever made the artifacts wrote that all are verified."""
    monkeypatch.setattr(arm, "of_phone", lambda: replace(HERE, machine=platform.machine()))
    monkeypatch.setattr(proof, "read_status", lambda folder: Status(VERIFIED, ""))


@pytest.mark.usefixtures("emulated")
def test_verify_arm_leaves_it_out(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(model / "savedmodel")
    (model / "tflite" / "model.tflite").unlink()
    tflite_file(model / "tflite", 173).rename(model / "tflite" / "model.tflite")
    sealed(model / "tflite", "onnx")
    with_variant(model)
    arm.main([str(model.parent)])
    printed = capsys.readouterr().out
    assert "mine-tflite is not asked: " in printed and WORDS in printed
    assert not (model / "tflite" / ARM).exists()
    assert (model / "onnx-fp16" / ARM).exists()


@pytest.mark.usefixtures("emulated")
def test_verify_arm_ends_where_the_source_is_refused(model: Path, written: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        arm.main([str(turned_round(model).parent)])
    assert refused(str(ended.value)) and not written.exists()


def test_bench_times_the_others(model: Path, written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(model / "tflite")
    times = dict(measure_all(model.parent))
    assert times.keys() == {"mine-onnx"} and SERVED in times["mine-onnx"]
    assert refused(capsys.readouterr().err) and not written.exists()


def test_bench_of_the_service_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "keras_cnn" / "onnx"
    folder.mkdir(parents=True)
    artifact(folder, "onnx", onnx_file(folder, add_node("EPContext", "com.microsoft")))
    monkeypatch.setattr(sys, "argv", ["bench.serving", "--artifacts", str(tmp_path)])
    monkeypatch.setattr(serving, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(serving, "Model", lambda *_: pytest.fail("it is loaded"))
    with pytest.raises(SystemExit, match=WORDS):
        serving.main()


def test_faults_are_planted_into_judged_artifacts_alone(tmp_path: Path) -> None:
    folder = tmp_path / "keras_cnn" / "keras"
    folder.mkdir(parents=True)
    artifact(folder, "keras", keras(folder), trusted=True)
    with pytest.raises(BroughtError, match=WORDS):
        bases.find("keras_cnn", tmp_path, tmp_path)
