"""Answers on another processor: this Python takes the place of the emulated one, so what runs there is tested."""

import contextlib
import dataclasses
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper

from compare.advice import add_recommendations
from compare.page import PAGE, write_page
from compare.report import REPORT, read_report, write_report
from contract.arm_proof import ARM, ArmProof, read_proof, write_proof
from contract.code import ROOT
from contract.errors import ModelUnavailable, RuntimeFailure
from contract.manifest import Manifest, TensorSpec, read_manifest, sha256_of_files, write_manifest
from contract.parity_result import PARITY, SOURCE, UNVERIFIED, VERIFIED, read_status
from serve.app import create_app
from serve.catalog import load_catalog
from serve.settings import Settings
from tests.reports import KERAS, NO_LIMITS, PROOF, TFLITE, report_of
from tests.test_makefile import Run, copy_bootstrap, on_a_disk, run_bootstrap, write_program
from verify.arm import __main__ as command
from verify.arm.emulation import ARM as SYSTEM
from verify.arm.emulation import Emulated, Emulation, of_phone
from verify.arm.proof import prove_model
from verify.parity import verify_model
from verify.questions import FOLDER, Questions
from verify.questions import write as write_questions

WIDTH = 4
WEIGHTS = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)).astype(np.float32)
ENTRY = TensorSpec("x", "float32", (None, WIDTH), "NC")
HERE = Emulation([sys.executable], None, "this processor", platform.machine())
ROWS = np.random.default_rng(1).normal(size=(300, WIDTH)).astype(np.float32)

Plant = Callable[[str], Emulation]


def questions() -> Questions:
    return Questions({"x": ROWS}, (ROWS @ WEIGHTS).argmax(axis=1), "rows")


def write_onnx(folder: Path, nodes: list[onnx.NodeProto], parent: str | None, **constants: object) -> None:
    """The artifact of a graph from x to y."""
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH])] for name in "xy"]
    values = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "net", *ends, values)
    folder.mkdir(parents=True)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(made, folder / "model.onnx")
    write_artifact(folder, parent)


def write_artifact(folder: Path, parent: str | None) -> None:
    files = sha256_of_files(folder, list(folder.glob("model.*")))
    labels, ends = tuple("abcd"), ((ENTRY,), (dataclasses.replace(ENTRY, name="y"),))
    write_manifest(folder, Manifest("net", folder.name, parent, *ends, None, labels, files))


def product(dtype: int) -> list[onnx.NodeProto]:
    """The network, which multiplies in this type."""
    return [
        helper.make_node("Cast", ["x"], ["cast"], to=dtype),
        helper.make_node("MatMul", ["cast", "weights"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["logits"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["logits"], ["y"]),
    ]


def write_tflite(folder: Path) -> None:
    def net(x: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return {"y": tf.nn.softmax(x @ WEIGHTS)}

    module = tf.Module()
    module.net = tf.function(net, [tf.TensorSpec([None, WIDTH], tf.float32, "x")])
    traced = module.net.get_concrete_function()
    folder.mkdir()
    (folder / "model.tflite").write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([traced], module).convert())
    write_artifact(folder, "onnx")


@pytest.fixture(scope="module")
def verified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A brought ONNX file, its TF Lite file and its variant in float16, as the gate leaves them."""
    folder = tmp_path_factory.mktemp("arm") / "net"
    write_onnx(folder / "onnx", product(TensorProto.FLOAT), None, weights=WEIGHTS)
    write_onnx(folder / "onnx-fp16", product(TensorProto.FLOAT16), "onnx", weights=WEIGHTS.astype(np.float16))
    write_tflite(folder / "tflite")
    verify_model(folder, questions(), (0.9,))
    return folder


@pytest.fixture
def model(verified: Path, tmp_path: Path) -> Path:
    subprocess.run(["cp", "-r", verified, tmp_path / "net"], check=True)
    return tmp_path / "net"


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """`plant(code)`: an emulation whose answers this code changes, which has each as `values`."""

    def planted(code: str) -> Emulation:
        script = tmp_path / "planted.py"
        script.write_text(f"""if True:
            import os, sys
            import numpy as np
            from serve.runtimes.onnx import OnnxRuntime
            from verify.arm import child
            ask, sys.argv = OnnxRuntime.predict, sys.argv[2:]
            def answer(runtime, inputs):
                outputs = dict(ask(runtime, inputs))
                values = outputs["y"]
                {code}
                return outputs
            OnnxRuntime.predict = answer
            child.main()
        """)
        return dataclasses.replace(HERE, command=[sys.executable, str(script)])

    return planted


def proofs(model: Path, emulation: Emulation = HERE) -> dict[str, ArmProof]:
    return {proof.artifact.partition("-")[2]: proof for proof in prove_model(model, questions(), emulation)}


# The proof


def test_own_brought_and_reduced_artifacts_are_proven(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = proofs(model)
    assert {format: (proof.passed, proof.expected) for format, proof in made.items()} == {
        "onnx": (True, "net-onnx"),
        "tflite": (True, "net-onnx"),
        "onnx-fp16": (True, "net-onnx-fp16"),
    }
    for format, proof in made.items():
        assert (proof.rows, proof.changed, proof.here_changed, proof.differs) == (300, 0, 0, ())
        assert proof.here_max_abs_diff == 0, "it is the same processor"
        assert read_proof(model / format, read_manifest(model / format)) == proof
    assert made["tflite"].runtime.startswith("LiteRT ")
    assert made["tflite"].edges > 5
    assert capsys.readouterr().out.count("0 of 300 rows change class: proven on ARM\n") == 3
    words = "Answers proven on 64-bit ARM (emulated this processor, 300 questions); no time was measured"
    assert {str(proof) for proof in made.values()} == {words}


@pytest.mark.parametrize(
    ("code", "failed"),
    [
        ("values += 1e-3", {"onnx"}),  # a reduced precision may differ by so much
        ("values += np.float32([0.2, 0, 0, 0])", {"onnx", "onnx-fp16"}),
        ("outputs['y'] = values[:, ::-1]", {"onnx", "onnx-fp16"}),
        ("values[-1] = np.nan", {"onnx", "onnx-fp16"}),
        ("outputs['y'] = values[:, :2]", {"onnx", "onnx-fp16"}),
        ("outputs['z'] = outputs.pop('y')", {"onnx", "onnx-fp16"}),
        ("raise ValueError('no such operator')", {"onnx", "onnx-fp16"}),
    ],
)
def test_other_answers_there_fail(model: Path, plant: Plant, code: str, failed: set[str]) -> None:
    made = proofs(model, plant(code))
    assert {format for format, proof in made.items() if not proof.passed} == failed
    assert all(proof.reasons for proof in made.values() if not proof.passed)
    assert str(made["onnx"]).startswith("Answers differ on 64-bit ARM (emulated this processor): ")


def test_a_process_that_dies_fails_its_artifact_alone(model: Path, plant: Plant) -> None:
    made = proofs(model, plant("os._exit(11) if len(values) > 1 else None"))
    assert made["onnx"].reasons == ("it cannot be compared there: its process ended: it ended, exit status 11",)
    assert (made["onnx"].rows, made["onnx-fp16"].passed, made["tflite"].passed) == (0, False, True)
    assert read_proof(model / "onnx", read_manifest(model / "onnx")) == made["onnx"]


def test_what_differs_at_an_edge_there_alone_is_named(model: Path, plant: Plant) -> None:
    made = proofs(model, plant("values[np.abs(inputs['x']).max() > 5000] = np.nan"))
    assert made["onnx"].passed
    assert any("10,000 everywhere" in words for words in made["onnx"].differs)
    assert "10,000 everywhere" in str(made["onnx"])
    assert made["tflite"].differs == ()


def test_what_is_unverified_here_is_not_asked_there(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "tflite" / PARITY).unlink()
    assert set(proofs(model)) == {"onnx", "onnx-fp16"}
    assert "net-tflite is not asked: it is unverified here, too" in capsys.readouterr().out
    assert not (model / "tflite" / ARM).exists()


def test_what_has_no_runtime_for_arm_is_left_out_and_says_why(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = dataclasses.replace(read_manifest(model / "tflite"), format="executorch")
    (model / "executorch").mkdir()
    write_manifest(model / "executorch", manifest)
    assert "executorch" not in proofs(model)
    assert "net-executorch is left out: its runtime for ARM needs PyTorch's build" in capsys.readouterr().out


def test_a_source_that_fails_is_one_message(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("no such operator")

    monkeypatch.setattr("verify.arm.proof.ask_alone", fail)
    with pytest.raises(RuntimeFailure, match=r"^net-onnx cannot be run: ValueError: no such operator"):
        proofs(model)


# The record


@pytest.fixture
def proven(model: Path) -> Path:
    proofs(model)
    return model


def test_a_status_carries_the_proof(proven: Path) -> None:
    statuses = {format: read_status(proven / format) for format in ("onnx", "tflite")}
    assert [statuses[format].word for format in statuses] == [SOURCE, VERIFIED]
    assert all(status.arm and status.arm.passed for status in statuses.values())


def test_a_changed_artifact_loses_its_proof(proven: Path) -> None:
    folder = proven / "tflite"
    write_manifest(folder, dataclasses.replace(read_manifest(folder), made_with={"again": True}))
    assert read_proof(folder, read_manifest(folder)) is None
    assert read_status(folder).arm is None


def test_a_changed_source_takes_every_proof(proven: Path) -> None:
    write_manifest(proven / "onnx", dataclasses.replace(read_manifest(proven / "onnx"), made_with={"again": True}))
    assert [read_status(proven / format).arm for format in ("onnx", "tflite", "onnx-fp16")] == [None] * 3


def test_an_artifact_that_is_unverified_here_has_no_proof(proven: Path) -> None:
    (proven / "tflite" / PARITY).unlink()
    status = read_status(proven / "tflite")
    assert (status.word, status.arm) == (UNVERIFIED, None)


@pytest.mark.parametrize("text", ["", "[]", '{"passed": true}', '{"passed": '])
def test_a_record_that_cannot_be_read_proves_nothing(proven: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    (proven / "tflite" / ARM).write_text(text)
    assert read_status(proven / "tflite").arm is None
    assert "Run `make verify-arm`." in caplog.text


def test_a_record_has_no_time(proven: Path) -> None:
    record = json.loads((proven / "tflite" / ARM).read_text())
    assert not [key for key in record if key in ("seconds", "ms", "time")]
    write_proof(proven / "tflite", dataclasses.replace(read_proof_of(proven), max_abs_diff=np.inf))
    assert read_proof_of(proven).max_abs_diff == np.inf


def read_proof_of(model: Path) -> ArmProof:
    proof = read_proof(model / "tflite", read_manifest(model / "tflite"))
    assert proof
    return proof


# Where it is shown


def test_the_metadata_carry_the_proof(proven: Path) -> None:
    catalog = load_catalog(proven.parent)
    with contextlib.closing(catalog):
        client = create_app(catalog, Settings(artifacts=proven.parent)).test_client()
        about = client.get("/v2/models/net-tflite").get_json()["parameters"]
        assert about["arm"] == {
            "passed": True, "reasons": [], "rows": 300, "differs": [], "processor": "this processor",
        }  # fmt: skip
    (proven / "tflite" / ARM).unlink()
    with contextlib.closing(load_catalog(proven.parent)) as catalog:
        client = create_app(catalog, Settings(artifacts=proven.parent)).test_client()
        assert client.get("/v2/models/net-tflite").get_json()["parameters"]["arm"] is None


def test_the_report_and_its_page_carry_the_proof(tmp_path: Path) -> None:
    artifact, its_row = TFLITE
    report = report_of(KERAS, (dataclasses.replace(artifact, arm=PROOF), its_row))
    report = add_recommendations(report, "android", NO_LIMITS)
    write_report(tmp_path, report)
    assert read_report(tmp_path / REPORT) == report
    write_page(report, tmp_path)
    assert str(PROOF) in (tmp_path / PAGE).read_text()


def test_a_report_that_is_older_than_the_proof_can_be_read(tmp_path: Path) -> None:
    report = report_of(KERAS, TFLITE)
    write_report(tmp_path, report)
    data = json.loads((tmp_path / REPORT).read_text())
    for each in data["artifacts"].values():
        del each["arm"]
    (tmp_path / REPORT).write_text(json.dumps(data))
    assert read_report(tmp_path / REPORT) == report


# Bad input


@pytest.mark.parametrize(
    ("emulation", "message"),
    [
        (dataclasses.replace(HERE, machine="another"), rf"runs on {platform.machine()}, expected another\. Run `make"),
        (
            dataclasses.replace(HERE, command=["/no/emulator"]),
            r"does not start \(.*No such file.*\)\. Run `make verify",
        ),
        (dataclasses.replace(HERE, command=["false"]), r"does not start \(.*exit status 1\)\. Run `make verify-arm`"),
    ],
)
def test_an_emulation_that_does_not_start_says_so(model: Path, emulation: Emulation, message: str) -> None:
    with contextlib.closing(Emulated(emulation)) as emulated, pytest.raises(ModelUnavailable, match=message):
        emulated.load(model / "onnx", read_manifest(model / "onnx"))


def test_nothing_that_is_set_up_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelUnavailable, match=r"There is no emulated system in .* Run `make verify-arm`"):
        of_phone(tmp_path)
    monkeypatch.setattr(command, "of_phone", lambda _: HERE)
    with pytest.raises(SystemExit, match=r"^error: There is no artifact in .* Make some: make artifacts"):
        command.main([str(tmp_path)])


def test_the_command_proves_every_model_and_fails_where_answers_differ(
    model: Path, plant: Plant, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "load_questions", lambda *_: questions())
    monkeypatch.setattr(command, "of_phone", lambda _: HERE)
    monkeypatch.setattr(command, "is_own", lambda _: True)
    command.main([str(model.parent)])
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["net-onnx", "net-onnx-fp16", "net-tflite"]
    assert last == "The processor was an emulated this processor: that says nothing of time."
    monkeypatch.setattr(command, "of_phone", lambda _: plant("values += 1"))
    with pytest.raises(SystemExit, match=r"^error: net-onnx, net-onnx-fp16 answer otherwise on 64-bit ARM"):
        command.main([str(model.parent)])


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """What stands for the emulated system: its emulator starts this Python, which says that it runs on ARM."""
    folder = tmp_path / "arm"
    write_program(
        folder / "qemu-aarch64",
        f"""shift 6
        exec {sys.executable} -c "import platform, runpy, sys
platform.machine = lambda: 'aarch64'
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)" "$@" """,
    )
    (folder / "root" / "usr" / "bin").mkdir(parents=True)
    (folder / "root" / "usr" / "bin" / "python3.13").touch()
    return folder


def test_a_model_that_others_made_is_proven_in_a_cell(
    model: Path, system: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "prove_model", lambda *_: pytest.fail("it is loaded here"))
    write_questions(model.parent / FOLDER / "net.npz", questions())
    command.main([str(model.parent), "--system", str(system), "--limit", "50"])
    printed = capfd.readouterr().out
    assert printed.count("0 of 50 rows change class: proven on ARM\n") == 3
    assert printed.endswith("The processor was an emulated cortex-a76: that says nothing of time.\n")
    for format in ("onnx", "onnx-fp16", "tflite"):
        proof = read_proof(model / format, read_manifest(model / format))
        assert proof and proof.passed and proof.rows == 50
    (model / "tflite" / ARM).unlink()
    with (model / "tflite" / "model.tflite").open("ab") as file:  # it was changed since
        file.write(b"0")
    with pytest.raises(SystemExit, match=r"^error: .*model\.tflite"):
        command.main([str(model.parent), "--system", str(system), "--limit", "50"])
    assert not (model / "tflite" / ARM).exists()


def test_make_sets_arm_up_and_verifies_or_brings_before_it_proves(make: Run, tmp_path: Path) -> None:
    anew = "-W", "verify/arm/system.sh"
    for setting, before in ("DATASET=fashion_mnist", "-m verify "), ("MODEL=own.onnx", "-m bring "):
        planned = make("-n", *anew, f"ARTIFACTS={tmp_path}/new", setting, "verify-arm").stdout
        assert planned.index("./bootstrap arm") < planned.index(before)
        assert planned.index(before) < planned.index(f"-m verify.arm {tmp_path}/new --dataset fashion_mnist")


SetUp = Callable[..., str]


@pytest.fixture
def set_up(tmp_path: Path, environment: Mapping[str, str]) -> SetUp:
    """`set_up(program=script)`: what `bootstrap arm` says where these programs are others."""
    copy_bootstrap(tmp_path)
    (tmp_path / "verify" / "arm").mkdir(parents=True)
    for file in ("verify/arm/system.sh", "requirements.lock"):
        (tmp_path / file).write_text((ROOT / file).read_text())
    usual = {
        "uname": 'case "$1" in -sm) echo Linux x86_64;; esac',
        "dpkg": 'case "$1" in --extract) mkdir -p "$3/usr/bin"; touch "$3/usr/bin/python3.13";; *) cat;; esac',
        "tar": "touch .venv/arm.partial/qemu-aarch64",
        "apt-get": 'case "$*" in indextargets*) echo x;; *install*) touch "${APT_CONFIG%/*}/archives/a.deb";; esac',
    }

    def run(free_megabytes: int = 10_000, **programs: str) -> str:
        settings = on_a_disk(tmp_path, environment, free_megabytes)
        for name, script in {**usual, **{key.replace("_", "-"): each for key, each in programs.items()}}.items():
            write_program(tmp_path / "path" / name, script)
        write_program(tmp_path / ".venv" / "bin" / "python", 'echo "ERROR: no such wheel" >&2; exit 1')
        done = run_bootstrap(tmp_path, settings, "arm")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert not (tmp_path / ".venv" / "arm").exists()
        (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        return error

    return run


def test_another_architecture_is_refused(set_up: SetUp) -> None:
    assert set_up(uname="echo Linux aarch64") == (
        "error: `make verify-arm` emulates ARM on Linux on x86_64, and this is Linux aarch64. On an ARM machine run "
        "`make verify`: it compares the answers on that processor itself."
    )


def test_a_disk_that_is_too_small_is_refused(set_up: SetUp) -> None:
    assert "needs 400 MB of disk, 100 MB are free" in set_up(free_megabytes=100)


def test_no_mirror_of_debian_names_the_command(set_up: SetUp) -> None:
    assert "apt knows no mirror of Debian" in set_up(apt_get="true")
    assert "Run: sudo apt-get update" in set_up(apt_get="true")


@pytest.mark.parametrize("package", ["python3-minimal", "qemu-user:amd64"])
def test_packages_that_cannot_be_had_are_one_message(set_up: SetUp, package: str) -> None:
    script = (
        f'case "$*" in indextargets*) echo x;; *{package}*) echo "E: Unable to locate {package}" >&2; exit 100;; esac'
    )
    error = set_up(apt_get=script)
    assert error.startswith("error: apt-get could not download packages of Debian trixie for arm64, or its qemu-user")
    assert "Expected both on the mirror that apt uses. Is it reachable" in error


def test_runtimes_that_have_no_build_for_arm_are_one_message(set_up: SetUp) -> None:
    assert set_up().startswith(
        "error: pip could not download the runtimes for ARM: its message is above. Expected builds"
    )


def test_the_runtimes_for_arm_are_locked() -> None:
    """At the versions that answer here."""
    (names,) = [
        line for line in (ROOT / "verify/arm/system.sh").read_text().splitlines() if line.startswith("RUNTIMES_FOR_ARM")
    ]
    lock = (ROOT / "requirements.lock").read_text()
    for name in names.partition('"')[2].strip('"').split():
        assert f"\n{name}==" in lock


# On ARM itself, where it is set up


@pytest.fixture(scope="module")
def phone() -> Emulation:
    if not (SYSTEM / "ready").exists():
        pytest.skip("no ARM system is set up: `make verify-arm` does that")
    return of_phone()


def test_answers_are_proven_on_arm(model: Path, phone: Emulation) -> None:
    made = proofs(model, phone)
    assert [proof.passed for proof in made.values()] == [True] * 3
    assert all(proof.processor == "cortex-a76" for proof in made.values())


def test_a_conversion_to_whole_numbers_that_the_processors_do_differently_shows_on_arm_alone(
    tmp_path: Path, phone: Emulation
) -> None:
    """A negative number as an unsigned one: x86 counts down from the greatest, ARM gives 0. Both are allowed."""
    folder = tmp_path / "net"
    nodes = [
        helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.UINT32),
        helper.make_node("Cast", ["whole"], ["y"], to=TensorProto.FLOAT),
    ]
    write_onnx(folder / "onnx", nodes, None)
    asked_rows = dataclasses.replace(questions(), inputs={"x": 10 * ROWS}, labels=None)
    (proof,) = prove_model(folder, asked_rows, phone)
    assert not proof.passed
    assert "the largest difference at batch 1" in proof.reasons[0]


def test_a_sum_beyond_float16_shows_on_arm_alone(tmp_path: Path, phone: Emulation) -> None:
    """On x86 ONNX Runtime computes float16 in float32, where nothing overflows."""
    folder = tmp_path / "net"
    large = 60_000 * WEIGHTS / np.abs(WEIGHTS).max()
    for format, dtype, parent in (("onnx", TensorProto.FLOAT, None), ("onnx-fp16", TensorProto.FLOAT16, "onnx")):
        kind = np.float32 if parent is None else np.float16
        nodes = [
            helper.make_node("Cast", ["x"], ["cast"], to=dtype),
            helper.make_node("MatMul", ["cast", "weights"], ["sums"]),
            helper.make_node("Mul", ["sums", "small"], ["logits16"]),
            helper.make_node("Cast", ["logits16"], ["logits"], to=TensorProto.FLOAT),
            helper.make_node("Softmax", ["logits"], ["y"]),
        ]
        write_onnx(folder / format, nodes, parent, weights=large.astype(kind), small=np.asarray(1e-4, kind))
    results = verify_model(folder, questions(), (0.9,))
    assert results["onnx-fp16"].passed, results["onnx-fp16"].reasons
    made = proofs(folder, phone)
    assert (made["onnx"].passed, made["onnx-fp16"].passed) == (True, False)
