"""Commands that load artifacts judge them before, as the service does, in a cell: they may come from elsewhere, too.

The model here has a SavedModel that writes a file whenever it is run, and loading it runs it once.
"""

import json
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
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
from compare.answers import ask_in_cell
from compare.http_calls import folder_of
from compare.latency import checked, measure_in_cell
from compare.measure import find_subjects
from compare.report import REPORT, read_report
from contract.arm_proof import ARM
from contract.behaviour import BEHAVIOUR, Behaviour
from contract.cell import command, host
from contract.cell.command import is_own
from contract.cell.enter import NOTHING
from contract.cell.host import Parts
from contract.cell.sandbox import GIB, Cell, Finished, Limits
from contract.code import ROOT
from contract.errors import ArtifactCorrupt, BroughtError, UntrustedModel
from contract.manifest import BROUGHT, MANIFEST, Manifest, TensorSpec, read_manifest, sha256_of_files, write_manifest
from contract.parity_result import PARITY, VERIFIED, Status
from serve.runtimes import load_runtime
from tests.test_bring_verdict_corpus import add_node, onnx_file, tflite_file
from tests.test_bring_verdict_served import HOSTILE, artifact, harmless, keras
from tests.test_verify_arm import HERE
from verify import questions
from verify.__main__ import READERS
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


def test_trust_of_both_sides_lets_it_run_in_its_cell(
    model: Path, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVE_TRUST", "1")
    place = re.escape(f"Remove {model / 'savedmodel'} and export it again")
    with pytest.raises(SystemExit, match=f"mine-savedmodel could not be loaded: .*WriteFile.*{place}"):
        verify([str(model)])
    assert not written.exists() and (model / "tflite" / PARITY).exists()


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


# In a cell


def test_a_model_is_own_where_this_checkout_trained_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder from elsewhere may say in its manifests whatever it likes."""
    (ours,) = re.findall(r"^OURS +:= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(ours.split()) == set(command.OWN)
    assert is_own(ROOT / "artifacts" / "keras_cnn")
    assert is_own(ROOT / "artifacts-cifar10" / "torch_cnn")
    assert not is_own(ROOT / "artifacts" / "mine")
    assert not is_own(tmp_path / "artifacts" / "keras_cnn")
    monkeypatch.setattr(command, "ARTIFACTS", {tmp_path})
    assert is_own(tmp_path / "keras_cnn")
    (tmp_path / "keras_cnn").mkdir()
    (tmp_path / "keras_cnn" / BROUGHT).touch()
    assert not is_own(tmp_path / "keras_cnn")


def test_own_models_are_compared_in_the_process_itself(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = model.rename(model.with_name("keras_cnn"))
    for path in own.glob(f"*/{MANIFEST}"):
        write_manifest(path.parent, replace(read_manifest(path.parent), model="keras_cnn"))
    (model.parent / questions.FOLDER / "mine.npz").rename(model.parent / questions.FOLDER / "keras_cnn.npz")
    shutil.rmtree(own / "savedmodel")
    monkeypatch.setattr(command, "ARTIFACTS", {model.parent})
    monkeypatch.setattr(command, "cell_of", lambda *model: pytest.fail("it was compared in a cell"))
    verify([str(own)])
    assert (own / "tflite" / PARITY).exists()


def answers_of(model: Path) -> object:
    return ask_in_cell(model / "tflite", "fashion_mnist", None)


def test_nothing_is_loaded_where_no_cell_can_be_had(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host, "find_parts", lambda: Parts(NOTHING, None))
    words = "mine was not read: a part of the sandbox is missing here: .*SANDBOX=none"
    with pytest.raises(SystemExit, match=f"^error: {words}"):
        verify([str(model)])
    assert diagnose(["mine", "tflite", "--artifacts", str(model.parent)]) == 2
    assert re.search(words, capsys.readouterr().err)
    for load in (answers_of, lambda model: measure_in_cell(model / "tflite", 0.01, 1, [1])):
        with pytest.raises(BroughtError, match=words):
            load(model)
    subjects = find_subjects(model.parent)
    assert all(subject.manifest is None and re.search(words, subject.problem) for subject in subjects)
    assert not any(model.glob(f"*/{PARITY}"))


def test_sandbox_none_loads_it_with_the_parts_that_there_are(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(model / "savedmodel")
    monkeypatch.setattr(host, "find_parts", lambda: Parts(NOTHING, None))
    monkeypatch.setenv("SANDBOX", "none")
    verify([str(model)])
    assert (model / "tflite" / PARITY).exists()


def test_its_limits_are_make_s(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Limits.of_environment(280) == Limits(280)
    for name, value in {"MEMORY_GIB": "2.5", "MINUTES": "3", "SANDBOX": "none"}.items():
        monkeypatch.setenv(name, value)
    assert Limits.of_environment(280) == Limits(180, 2.5 * GIB, insist=False)
    monkeypatch.setenv("MINUTES", "many")
    with pytest.raises(BroughtError, match=r"MINUTES and MEMORY_GIB are numbers, got .*many"):
        Limits.of_environment()


def leaving(*files: str, link: Path | None = None, text: str = "") -> Callable[..., Finished]:
    """In place of a command in a cell: leave these files in its folder, as links or with this text."""

    def run(cell: Cell, *arguments: object) -> Finished:
        for file in files:
            (cell.folder / file).parent.mkdir(parents=True, exist_ok=True)
            (cell.folder / file).symlink_to(link) if link else (cell.folder / file).write_text(text)
        return Finished("", "", 0, 0)

    return run


@pytest.mark.parametrize("text", ["", "{}", "[" * 100_000])
def test_what_a_cell_leaves_is_data_or_nothing(model: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    secret = model.parent / "secret"
    secret.write_text("{}")
    parity, answers, report = f"mine/tflite/{PARITY}", "answers.npz", "diagnose-mine-tflite.json"
    link = None if text else secret
    monkeypatch.setattr(command, "run", leaving(parity, answers, report, link=link, text=text))
    with pytest.raises(SystemExit, match="not a plain file" if link else f"left no {PARITY}"):
        verify([str(model)])
    with pytest.raises(BroughtError, match="not a plain file" if link else "left no answers"):
        answers_of(model)
    assert diagnose(["mine", "tflite", "--artifacts", str(model.parent)]) == 2
    assert not any(model.glob(f"*/{PARITY}")) and not (model.parent / "report").exists()


def test_results_are_not_written_where_a_link_leads(model: Path, tmp_path: Path) -> None:
    outside = shutil.copytree(model / "tflite", tmp_path / "outside" / "tflite")
    shutil.rmtree(model / "tflite")
    (model / "tflite").symlink_to(outside)
    (tmp_path / "records" / "tflite").mkdir(parents=True)
    (tmp_path / "records" / "tflite" / BEHAVIOUR).write_text(json.dumps(asdict(Behaviour("0"))))
    with pytest.raises(BroughtError, match="tflite is a link"):
        command.publish_records(tmp_path / "records", model, READERS)
    assert not (outside / BEHAVIOUR).exists()


def test_questions_that_are_a_link_are_not_shown(model: Path, tmp_path: Path) -> None:
    file = model.parent / questions.FOLDER / "mine.npz"
    file.rename(tmp_path / "private")
    file.symlink_to(tmp_path / "private")
    with pytest.raises(SystemExit, match=r"mine\.npz is not a plain file"):
        verify([str(model)])


@pytest.mark.parametrize(
    "line",
    ["", "1", "{}", '{"runtime": "", "import": 1, "load": 1, "first_call": 1, "memory": true, "latencies": []}',
     '{"runtime": "", "import": 1, "load": 1, "first_call": 1, "memory": 1e999, "latencies": []}',
     '{"runtime": "", "import": 1, "load": 1, "first_call": 1, "memory": 1, "latencies": [{"batch": 1}]}'],
)  # fmt: skip
def test_times_that_are_no_times_are_refused(line: str) -> None:
    with pytest.raises(BroughtError, match="measured in a cell answered something else"):
        checked(line, has_latencies=True)


def test_an_artifact_is_timed_and_takes_turns_in_a_cell(model: Path) -> None:
    measured = measure_in_cell(model / "tflite", 0.01, 1, [1, 4])
    assert [each["batch"] for each in measured["latencies"]] == [1, 4]
    assert measured["runtime"].startswith("LiteRT") and measured["memory"] > 2**24
    command = [sys.executable, "-m", "compare.latency", str(model / "tflite"), "--turns"]
    done = subprocess.run(command, cwd=ROOT, input="1 0.01\n4 0.01\n", capture_output=True, text=True, check=True)
    steps, *seconds = done.stdout.splitlines()
    assert json.loads(steps)["memory"] > 2**24
    assert len(seconds) == 2 and all(0 < float(each) < 1 for each in seconds)


def test_a_service_that_is_measured_runs_it_apart(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sees one artifact alone, and neither its source nor what lies beside the model."""
    for is_theirs in (True, False):
        with folder_of([model / "tflite"]) as folder:
            assert (folder / "mine" / BROUGHT).exists() == is_theirs
        monkeypatch.setattr("compare.http_calls.is_own", lambda model: True)


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    """This Python takes the place of the emulated one, and whoever made the artifacts wrote that all are verified."""
    monkeypatch.setattr(arm, "of_phone", lambda _: replace(HERE, machine=platform.machine()))
    monkeypatch.setattr(arm, "is_own", lambda _: True)
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


def test_bench_times_the_others(
    model: Path, written: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dict(measure_all(model.parent)) == {}
    assert "was not trained by this checkout" in capsys.readouterr().err
    monkeypatch.setenv("SANDBOX", "none")
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
    with pytest.raises(SystemExit, match="was not trained by this checkout"):
        serving.main()
    monkeypatch.setenv("SANDBOX", "none")
    with pytest.raises(SystemExit, match=WORDS):
        serving.main()


def test_faults_are_planted_into_judged_artifacts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "keras_cnn" / "keras"
    folder.mkdir(parents=True)
    artifact(folder, "keras", keras(folder), trusted=True)
    with pytest.raises(BroughtError, match="was not trained by this checkout"):
        bases.find("keras_cnn", tmp_path, tmp_path)
    monkeypatch.setenv("SANDBOX", "none")
    with pytest.raises(BroughtError, match=WORDS):
        bases.find("keras_cnn", tmp_path, tmp_path)
