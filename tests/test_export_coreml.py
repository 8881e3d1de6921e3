"""Core ML: what its file shows here, and what a Mac proves. A module in coremltools' place answers as the Mac would."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from compare import assemble, measure
from compare.figures import Figure, Missing
from compare.report import Artifact, Settings
from contract.code import ROOT
from contract.coreml_program import MODEL, PACKAGE, faults, read
from contract.errors import ArtifactCorrupt, ModelUnavailable
from contract.formats import is_installed, not_installed
from contract.mac_record import MAC, QUESTIONS, SCRIPT, UNITS
from contract.manifest import MANIFEST, Manifest, TensorSpec, read_manifest, sha256_of_files, write_manifest
from contract.parity_result import PARITY, read_status
from contract.tensors import Tensors
from serve.catalog import load_model
from serve.runtimes import Runtime, load_runtime
from verify.mac import prove_on_mac
from verify.parity import verify_model
from verify.questions import Questions

pytestmark = pytest.mark.skipif(not is_installed("coreml"), reason=not_installed("coreml"))

IDS, MASK = TensorSpec("ids", "int64", (None, None), "NL"), TensorSpec("mask", "float32", (None, None), "NL")
TAGS, NEXT = TensorSpec("tags", "float32", (None, None, 4), "NLC"), TensorSpec("next", "int64", (None, None), "NL")
CLASSES = TensorSpec("classes", "float32", (None, 4), "NC")
ROWS = 40


class Tagger(torch.nn.Module):
    """Ids (N, L) and how much each counts (N, L) -> (N, L, 4), and the ids that follow."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = torch.nn.Embedding(50, 8), torch.nn.Linear(8, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores: torch.Tensor = self.out(self.table(ids)) * mask[:, :, None]
        return scores.softmax(-1), ids + 1


class Classifier(torch.nn.Module):
    """Ids (N, L) and how much each counts (N, L) -> (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.tagger = Tagger()

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        tags: torch.Tensor = self.tagger(ids, mask)[0]
        return tags.mean(1)


def converted(folder: Path, name: str, module: torch.nn.Module, outputs: tuple[TensorSpec, ...]) -> Path:
    """The network in PyTorch, and beside it in Core ML: the latter's folder."""
    source = folder / name / "torch"
    source.mkdir(parents=True)
    batch = torch.export.Dim("batch", min=1, max=4096)
    sizes = tuple({0: batch, 1: torch.export.Dim.AUTO} for _ in range(2))
    sample = torch.zeros(2, 16, dtype=torch.long), torch.ones(2, 16)
    torch.export.save(torch.export.export(module.eval(), sample, dynamic_shapes=sizes), source / "model.pt2")
    files = sha256_of_files(source, [source / "model.pt2"])
    labels = ("a", "b", "c", "d") if outputs == (CLASSES,) else ()
    write_manifest(source, Manifest(name, "torch", None, (IDS, MASK), outputs, None, labels, files))
    command = [sys.executable, "-m", "export", str(source), "coreml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("\n") == 1, "a converter writes to standard error"
    return source.with_name("coreml")


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return converted(tmp_path_factory.mktemp("coreml"), "tagger", Tagger(), (TAGS, NEXT))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return converted(tmp_path_factory.mktemp("coreml"), "net", Classifier(), (CLASSES,))


@pytest.fixture
def folder(classifier: Path, tmp_path: Path) -> Path:
    """A copy, to prove and to damage."""
    return shutil.copytree(classifier.parent, tmp_path / "net") / "coreml"


@pytest.fixture(autouse=True)
def only_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The source is not asked in another process, too: that is another test's, and takes seconds each time."""
    monkeypatch.setattr("verify.parity.answers_of_another_process", lambda *_: None)


# --- The file


def test_names_sizes_and_dtypes_are_the_manifests(tagger: Path) -> None:
    program = read(tagger / PACKAGE)
    batch, length = program.inputs[0].shape
    assert [str(value) for value in program.inputs] == [
        "ids int32 [1 to 4096, 1 to 2147483647]",
        "mask float32 [1 to 4096, 1 to 2147483647]",
    ]
    assert program.inputs[1].shape == (batch, length)
    assert [(value.name, value.dtype, value.shape[-1]) for value in program.outputs] == [
        ("tags", "float32", 4),
        ("next", "int32", None),
    ]
    assert {"float16", "bfloat16"}.isdisjoint(program.dtypes) and "softmax" in program.operators
    manifest = read_manifest(tagger)
    assert faults(tagger / PACKAGE, manifest) == []
    assert manifest.made_with["system"] == "iOS 16, macOS 13"
    assert {name.rpartition("/")[2] for name in manifest.files} == {"Manifest.json", "model.mlmodel", "weight.bin"}
    on_disk = {path.relative_to(tagger).as_posix() for path in (tagger / PACKAGE).rglob("*") if path.is_file()}
    assert on_disk == {*manifest.files}


APPLES_OWN = """
import sys
import coremltools
from coremltools.proto import MIL_pb2
spec = coremltools.models.MLModel(sys.argv[1], skip_model_load=True).get_spec()
block, = spec.mlProgram.functions["main"].block_specializations.values()
print("operators", *sorted({operation.type for operation in block.operations}))
made = {output.type.tensorType.dataType for operation in block.operations for output in operation.outputs}
print("made", *sorted(MIL_pb2.DataType.Name(number).lower() for number in made))
print("inputs", *(feature.name for feature in spec.description.input))
print("outputs", *(feature.name for feature in spec.description.output))
"""


def test_the_file_reads_as_coremltools_reads_it(tagger: Path) -> None:
    command = [sys.executable, "-c", APPLES_OWN, str(tagger / PACKAGE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    theirs = {line.split()[0]: line.split()[1:] for line in done.stdout.splitlines()}
    ours = read(tagger / PACKAGE)
    assert theirs["operators"] == sorted(ours.operators)
    assert {*theirs["made"]} <= ours.dtypes
    assert theirs["inputs"] == [value.name for value in ours.inputs]
    assert theirs["outputs"] == [value.name for value in ours.outputs]


IN_FLOAT16 = """
import sys
import coremltools, torch
program = torch.export.load(sys.argv[1]).run_decompositions({})
target = coremltools.target.iOS16
model = coremltools.convert(program, minimum_deployment_target=target, skip_model_load=True,
                            outputs=[coremltools.TensorType(name="classes")])
model.save(sys.argv[2])
"""


def test_a_program_of_float16_is_not_what_its_name_says(classifier: Path, tmp_path: Path) -> None:
    """It is what the converter makes by itself."""
    command = [
        sys.executable,
        "-c",
        IN_FLOAT16,
        str(classifier.with_name("torch") / "model.pt2"),
        str(tmp_path / PACKAGE),
    ]
    subprocess.run(command, capture_output=True, check=True, timeout=120)
    phrases = "; ".join(faults(tmp_path / PACKAGE, read_manifest(classifier)))
    assert "it has values of float16, expected float32: its name says no other precision" in phrases


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut off": (lambda model: model[: len(model) // 2], "its program cannot be read: a field goes beyond its message"),
    "nothing": (lambda model: b"", "its program cannot be read: its functions are none: expected main alone"),
    "text": (lambda model: b"<html>404</html>", "its program cannot be read"),
    "a pipeline": (lambda model: model + b"\xd2\x0c\x00", "it has the field 202: expected a model that is one program"),
    "another name": (lambda model: model.replace(b"classes", b"cl4sses"), "its outputs are cl4sses float32 [any, 4]"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_something_else_is_refused_with_the_reason(folder: Path, damage: str) -> None:
    change, words = DAMAGES[damage]
    path, manifest = folder / PACKAGE / MODEL, read_manifest(folder)
    path.write_bytes(change(path.read_bytes()))
    assert words in "; ".join(faults(folder / PACKAGE, manifest))
    with pytest.raises(ArtifactCorrupt, match="it is not the file that was exported"):
        verify_model(folder.parent, QUESTIONS_FOR_ALL)
    files = sha256_of_files(folder, [folder / name for name in manifest.files])
    write_manifest(folder, replace(manifest, files=files))
    with pytest.raises(ArtifactCorrupt, match="net-coreml is not what its manifest says: "):
        verify_model(folder.parent, QUESTIONS_FOR_ALL)
    assert read_status(folder).word == "unverified"


# --- Converted, and not run


RANDOM = np.random.default_rng(0)
QUESTIONS_FOR_ALL = Questions(
    {"ids": RANDOM.integers(0, 50, (ROWS, 8)), "mask": RANDOM.normal(size=(ROWS, 8)).astype(np.float32) * 3},
    None,
    "ids",
)


def test_what_was_not_run_is_unverified_and_is_named_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    why = "it is converted, and not run here: Core ML needs macOS"
    assert verify_model(folder.parent, QUESTIONS_FOR_ALL) == {}
    assert f"net-coreml: {why}. Its file was read" in (printed := capsys.readouterr().out)
    assert f"copy the folder net/coreml to a Mac, and run `python3 {SCRIPT}` in it" in printed
    status = read_status(folder)
    assert (status.word, status.parity) == ("unverified", None) and status.reason.startswith(why)
    assert (folder / SCRIPT).read_bytes() == Path(prove_on_mac.__file__).read_bytes()
    with pytest.raises(ModelUnavailable, match=rf"net-coreml cannot be run here: {why}"):
        load_runtime(folder, read_manifest(folder))
    model = load_model(folder)
    assert (model.ready, model.is_refused, model.error) == (False, True, f"{why}.")
    assert model.status.word == "unverified"


# --- Proven on a Mac


class Mac:
    """What stands in coremltools' place: it answers as the source does, with what `change` makes of its answers."""

    __version__ = "9.0"
    ComputeUnit = SimpleNamespace(**{name: name for name in UNITS})

    def __init__(self, source: Runtime, change: Callable[[str, NDArray[Any]], NDArray[Any]]) -> None:
        self._source, self._change = source, change
        self.models = SimpleNamespace(MLModel=self._load)
        self.loaded: list[str] = []

    def _load(self, path: str, compute_units: str) -> Any:
        assert (Path(path) / MODEL).is_file()
        self.loaded.append(compute_units)

        def predict(inputs: Tensors) -> Tensors:
            assert {name: value.dtype.name for name, value in inputs.items()} == {"ids": "int32", "mask": "float32"}
            answers = self._source.predict({**inputs, "ids": inputs["ids"].astype(np.int64)})
            return {name: self._change(compute_units, value) for name, value in answers.items()}

        return SimpleNamespace(predict=predict)


Prove = Callable[..., Mac]


@pytest.fixture
def prove(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Prove:
    """Leave the questions, and run the script with them as a Mac would."""
    source = load_runtime(folder.with_name("torch"), read_manifest(folder.with_name("torch")))
    monkeypatch.setattr(prove_on_mac, "machine", lambda: "Apple M2")
    monkeypatch.setattr("platform.mac_ver", lambda: ("15.5", ("", "", ""), "arm64"))

    def run(change: Callable[[str, NDArray[Any]], NDArray[Any]] = lambda _, value: value) -> Mac:
        verify_model(folder.parent, QUESTIONS_FOR_ALL)
        monkeypatch.setitem(sys.modules, "coremltools", mac := Mac(source, change))
        prove_on_mac.main(folder)
        return mac

    return run


def test_answers_from_a_mac_verify_it(folder: Path, prove: Prove, capsys: pytest.CaptureFixture[str]) -> None:
    assert prove().loaded == ["CPU_ONLY", "CPU_ONLY", "ALL", "ALL"], "each at a batch of 1 and at one of 64"
    assert "CPU_ONLY, batch 64, 40 questions: largest difference 0.0e+00, same class 100.00%" in capsys.readouterr().out
    record = json.loads((folder / MAC).read_text())
    assert (record["machine"], record["system"], record["passed"]) == ("Apple M2", "macOS 15.5", True)
    assert record["files"].keys() == {MANIFEST, QUESTIONS, *read_manifest(folder).files}
    (result,) = verify_model(folder.parent, QUESTIONS_FOR_ALL).values()
    assert result.passed and result.agreement == 1
    assert "verified on macOS 15.5 (Apple M2)" in capsys.readouterr().out
    status = read_status(folder)
    assert status.word == "verified"
    assert status.reason.startswith("on macOS 15.5 (Apple M2): 40 questions, largest difference ")


def test_the_report_says_what_is_known_and_measures_nothing(folder: Path, prove: Prove) -> None:
    bench = measure.Bench(folder.parent.parent, "fashion_mnist", 8, Settings(1, 0.02, 1, (1,), (1,), 1))
    (subject,) = (subject for subject in bench.subjects if subject.folder == folder)
    assert not [task for stage in bench._stages() for task in stage if "coreml" in task.name]

    def reported() -> Artifact:
        return assemble._artifact(subject, bench, measure.Measurements())

    before = reported()
    why = "It is converted, and not run here: Core ML needs macOS."
    assert (before.status, before.needs, before.proven_on) == ("unverified", "macOS", "")
    assert before.verdict == f"not compared: {why}" and before.figures["agreement"] == Missing(why)
    prove()
    verify_model(folder.parent, QUESTIONS_FOR_ALL)
    after = reported()
    assert (after.status, after.verdict, after.needs) == ("verified", "passed", "")
    assert after.proven_on == "macOS 15.5 (Apple M2)"
    assert isinstance(agreement := after.figures["agreement"], Figure) and agreement.value == 1


def test_the_same_questions_stay_and_others_take_their_place(folder: Path, prove: Prove) -> None:
    prove()
    before = (folder / QUESTIONS).read_bytes()
    verify_model(folder.parent, QUESTIONS_FOR_ALL)
    assert (folder / QUESTIONS).read_bytes() == before
    verify_model(folder.parent, QUESTIONS_FOR_ALL.first(20))
    assert (folder / QUESTIONS).read_bytes() != before
    assert read_status(folder).word == "unverified"


@pytest.mark.parametrize("units", UNITS)
def test_wrong_answers_fail_whatever_the_record_says(folder: Path, prove: Prove, units: str) -> None:
    with pytest.raises(SystemExit, match="the answers are not the source's"):
        prove(lambda used, value: value + 0.01 * (used == units))
    rewritten(folder, lambda record: record.update(passed=True))
    (result,) = verify_model(folder.parent, QUESTIONS_FOR_ALL).values()
    assert not result.passed
    assert all(reason.startswith(f"with {units}, the largest difference at batch") for reason in result.reasons)
    status = read_status(folder)
    assert (status.word, status.reason[:36]) == ("unverified", "its answers are not its source's: wi")


def rewritten(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((folder / MAC).read_text())
    change(record)
    (folder / MAC).write_text(json.dumps(record))


def with_another_weight(folder: Path) -> None:
    """A weight of another value, and a manifest that names it."""
    manifest = read_manifest(folder)
    weights = folder / manifest.file("weight.bin")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    files = sha256_of_files(folder, [folder / name for name in manifest.files])
    write_manifest(folder, replace(manifest, files=files))


def cut_off(folder: Path) -> None:
    text = (folder / MAC).read_text()
    (folder / MAC).write_text(text[: len(text) // 2])


def without(record: dict[str, Any], key: str) -> None:
    record["runs"][0]["calls"][0]["classes"][key] = "AAAA"


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "another artifact": (
        lambda folder: rewritten(folder, lambda record: record.update(artifact="other-coreml")),
        "it is of other-coreml",
    ),
    "changed since": (with_another_weight, "it is of another manifest.json than the one that lies here, which was"),
    "cut off": (cut_off, "it is not JSON"),
    "a part is missing": (
        lambda folder: rewritten(folder, lambda record: record["runs"].pop()),
        "it has no answers at batch 64 with ALL",
    ),
    "a call is missing": (
        lambda folder: rewritten(folder, lambda record: record["runs"][0]["calls"].pop()),
        "it has 39 calls at batch 1 with CPU_ONLY, expected 40",
    ),
    "an answer is cut off": (
        lambda folder: rewritten(folder, lambda record: without(record, "data")),
        "an answer cannot be read",
    ),
    "an unknown key": (lambda folder: rewritten(folder, lambda record: record.update(more=1)), "it is unknown"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_record_that_does_not_count_is_refused_with_the_reason(
    folder: Path, prove: Prove, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = REFUSED[what]
    prove()
    verify_model(folder.parent, QUESTIONS_FOR_ALL)
    assert read_status(folder).word == "verified"
    change(folder)
    assert read_status(folder).word == "unverified", "the result was of another record"
    assert verify_model(folder.parent, QUESTIONS_FOR_ALL) == {}
    assert f"net-coreml: its {MAC} does not count: " in (printed := capsys.readouterr().out) and words in printed
    assert not (folder / PARITY).exists()


def test_the_script_refuses_files_that_are_not_the_manifests(folder: Path, prove: Prove) -> None:
    prove()
    (folder / PACKAGE / MODEL).write_bytes(b"")
    with pytest.raises(SystemExit, match=r"model\.mlmodel has sha256 .* the manifest says .*Copy the folder again"):
        prove_on_mac.main(folder)
    (folder / PACKAGE / MODEL).unlink()
    with pytest.raises(SystemExit, match=r"model\.mlmodel is missing\. Copy the whole folder"):
        prove_on_mac.main(folder)


def test_the_script_runs_on_a_mac_alone(folder: Path) -> None:
    verify_model(folder.parent, QUESTIONS_FOR_ALL)
    done = subprocess.run([sys.executable, SCRIPT], cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (
        1,
        "error: Core ML runs on macOS alone, and this is Linux. Copy this folder to a Mac.\n",
    )
