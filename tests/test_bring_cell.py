"""A cell holds: what runs in it reaches nothing outside, and what it leaves behind leads nobody out who collects it."""

import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bring import neighbours
from contract.cell import calls, host, sandbox
from contract.cell.enter import NOTHING, RULES
from contract.cell.harvest import MAX_RECORD, Harvest
from contract.cell.host import NO_FILES, NO_NAMESPACES, NO_USER, Parts
from contract.cell.sandbox import Cell, ChildFailed, Limits
from contract.code import ROOT
from contract.errors import BroughtError
from contract.manifest import Manifest, sha256_of_files, write_manifest
from tests import cell_attacks, cells
from tests.cells import MARKER, MODES

# Attacks from inside


@functools.cache
def attacked(mode: str, module: str = "tests.cells") -> dict[str, Any]:
    """What the module's attacks came to, on the system of a mode."""
    if reason := cells.why_not(mode):
        pytest.skip(reason)
    folder = cells.public_folder(mode)
    try:
        done = cells.run_as(mode, "-m", module, folder, mode)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if "a part of the sandbox is missing" in done.stderr and ("namespaces" in mode or not cells.can_unshare()):
        pytest.skip("this kernel gives neither namespaces nor Landlock")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("attack", cell_attacks.ATTACKS)
@pytest.mark.parametrize("mode", MODES)
def test_an_attack_reaches_nothing(mode: str, attack: str) -> None:
    result = attacked(mode)["results"][attack]
    assert "held" in result or "was ended" in result
    assert "ESCAPED" not in result


@pytest.mark.parametrize("attack", cell_attacks.ATTACKS)
@pytest.mark.parametrize("mode", [mode for mode in MODES if "without" not in mode])
def test_an_attack_from_a_served_model_reaches_nothing(mode: str, attack: str) -> None:
    done = attacked(mode)
    if not done["served"]:
        pytest.skip("this system gives no namespaces, without which a model is served in the service")
    assert done["served"][attack] == "held"


@pytest.mark.parametrize("mode", MODES)
def test_no_necessary_part_is_missing(mode: str) -> None:
    assert attacked(mode)["parts"]["lacks"] == []


def test_every_call_that_is_forbidden_has_its_numbers() -> None:
    names = {rule.name for others in (True, False) for rule in calls.rules(others, others)}
    assert names == set(calls.NUMBERS)


SIGNALS_BY_A_FILE = """
import fcntl, os, socket, struct
from contract.cell import calls, kernel
kernel.forbid_new_privileges()
calls.forbid(calls.rules(others_visible=True, files_by_rules=False))
file = socket.socketpair()[0]
owner = struct.pack("i", os.getppid())
tries = [lambda command=command: fcntl.fcntl(file, command, 9) for command in (fcntl.F_SETOWN, fcntl.F_SETSIG)]
tries += [lambda: fcntl.fcntl(file, 15, struct.pack("ii", 1, os.getppid())), lambda: fcntl.ioctl(file, 0x8901, owner)]
for ask in [*tries, lambda: fcntl.ioctl(file, 0x8902, owner)]:
    try:
        ask()
        print("ESCAPED")
    except PermissionError:
        print("refused")
"""


@pytest.mark.skipif(not calls.is_known_here(), reason="there are no numbers of system calls for this machine")
def test_the_filter_alone_refuses_to_signal_others_by_a_file() -> None:
    """Older kernels' Landlock lets it through, where a process of the same user is in sight."""
    done = subprocess.run([sys.executable, "-c", SIGNALS_BY_A_FILE], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["refused"] * 5, done.stderr


# A child


@pytest.fixture
def cell(tmp_path: Path) -> Iterator[Cell]:
    limits = Limits(seconds=60, memory=2**30, file_size=2**20, disk=2**24)
    with sandbox.cell(tmp_path / "cells", Path(__file__), limits) as made:
        yield made


def run(cell: Cell, code: str, *arguments: str) -> str:
    """The code as a module of its own, in the cell."""
    (cell.folder / "brought_code.py").write_text(textwrap.dedent(code))
    return sandbox.run(cell, "brought_code", *arguments).output


@pytest.mark.parametrize("is_kept", [True, False])
def test_a_folder_of_artifacts_that_stays_empty_is_removed(tmp_path: Path, is_kept: bool) -> None:
    with sandbox.cell(tmp_path / "new", Path(__file__), Limits()):
        if is_kept:
            (tmp_path / "new" / "net").mkdir()
    assert (tmp_path / "new").exists() == is_kept
    (tmp_path / "old").mkdir()
    with sandbox.cell(tmp_path / "old", Path(__file__), Limits()):
        pass
    assert (tmp_path / "old").exists()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit('error: of this kind')", "of this kind"),
        ("raise ValueError('of that kind')", "ValueError: of that kind"),
        ("import os; os.abort()", "ended by SIGABRT"),
        ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL"),
        ("import os; os._exit(134)", "exit status 134"),
        ("held = bytearray(3 * 2**30)\nimport time; time.sleep(60)", "more than 1 GiB of memory"),
        ("import pathlib; pathlib.Path('big').write_bytes(b'x' * 2**21)", "File too large"),
        ("import sys\nwhile True: sys.stdout.write('x' * 2**16)", "more than 64 MiB of messages|File too large"),
        ("import sys; sys.exit('error: \\x1b]0;mine\\x07\\x1b[2Jclean')", r"^\]0;mine\[2Jclean$"),
    ],
)  # fmt: skip
def test_a_child_that_goes_wrong_is_one_line(cell: Cell, code: str, words: str) -> None:
    with pytest.raises(ChildFailed, match=words):
        run(cell, code)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("for n in range(40): open(f'{n}', 'wb').write(b'x' * 2**20)", "more than 0.0156 GiB of files"),
        ("for n in range(100): os.mkdir('d'); os.chdir('d')", "64 folders in each other"),
        ("os.mkdir('closed'); os.chmod('closed', 0)", "cannot be read"),
    ],
)
def test_a_child_that_fills_its_folder_is_ended(cell: Cell, code: str, words: str) -> None:
    if "closed" in code and os.geteuid() == 0:
        pytest.skip("root reads every folder")
    with pytest.raises(ChildFailed, match=words):
        run(cell, f"import os, time\n{code}\ntime.sleep(30)")


def test_memory_counts_in_processes_that_left_their_session(cell: Cell) -> None:
    code = """
        import os, time
        for _ in range(8):
            if os.fork() == 0:
                os.setsid()
                held = bytearray(os.urandom(1)) * (200 * 2**20)
                time.sleep(60)
        time.sleep(60)
    """
    with pytest.raises(ChildFailed, match="more than 1 GiB of memory") as caught:
        run(cell, code)
    assert caught.value.peak >= 2**30, "what it took counts, too"


def test_a_child_that_does_not_end_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    marker = f"{MARKER}-{os.getpid()}-late"
    with sandbox.cell(tmp_path / "cells", tmp_path / "file", Limits(seconds=1.5)) as made:
        code = f"""
            import subprocess, sys, time
            command = [sys.executable, "-c", "import time; time.sleep(600)  # {marker}"]
            subprocess.Popen(command)
            subprocess.Popen(command, start_new_session=True)
            time.sleep(600)
        """
        with pytest.raises(ChildFailed, match="longer than 2 s"):
            run(made, code)
        assert cells.left_behind(marker) == []
    assert not (tmp_path / "cells").exists(), "its folder is gone"


@pytest.mark.parametrize("mode", MODES)
def test_nothing_outlives_whoever_started_it(mode: str) -> None:
    """Killed at once, it can clean nothing up."""
    if reason := cells.why_not(mode):
        pytest.skip(reason)
    marker = f"{MARKER}-{os.getpid()}-{MODES.index(mode)}"
    folder = cells.public_folder(mode)
    code = f"""
        import os, sys
        from pathlib import Path
        from contract.cell import sandbox
        from contract.cell.sandbox import Limits
        with sandbox.cell(Path({str(folder)!r}, "cells"), Path(sys.executable), Limits()) as cell:
            inner = "import os, time; os.fork() or os.setsid(); time.sleep(600)  # {marker}"
            (cell.folder / "brought_code.py").write_text(
                "import subprocess, sys; subprocess.run([sys.executable, '-c', " + repr(inner) + "])"
            )
            (cell.folder / "brought_code.py").chmod(0o644)
            sandbox.run(cell, "brought_code")
    """
    (folder / "starter.py").write_text(textwrap.dedent(code))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, str(folder / "starter.py")]
    starter = subprocess.Popen(command, env=environment, preexec_fn=lambda: cells.enter(mode))
    try:
        wait_until(lambda: len(cells.left_behind(marker)) >= 2, 60)
        starter.send_signal(signal.SIGKILL)
        starter.wait()
        wait_until(lambda: not cells.left_behind(marker), 20)
    finally:
        starter.kill()
        starter.wait()
        shutil.rmtree(folder, ignore_errors=True)


def wait_until(condition: object, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


# Missing parts


def test_a_file_is_not_read_where_a_part_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "find_parts", lambda: Parts(NOTHING, None))
    expected = re.escape(f"model.h5 was not read: a part of the sandbox is missing here: {NO_FILES}")
    with (
        pytest.raises(BroughtError, match=f"^{expected}.*SANDBOX=none"),
        sandbox.cell(tmp_path, tmp_path / "model.h5", Limits()),
    ):
        pytest.fail("it was read")


def test_a_part_that_something_weaker_replaces_is_named_before_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host, "find_parts", lambda: Parts(RULES, None))
    with sandbox.cell(tmp_path / "cells", Path(__file__), Limits()):
        written = capsys.readouterr().out
    assert NO_NAMESPACES in written
    assert (NO_USER in written) == (os.geteuid() == 0)


def test_sandbox_none_reads_it_with_the_parts_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host, "find_parts", lambda: Parts(NOTHING, None))
    code = "print([line for line in open('/proc/self/status') if line.startswith(('NoNewPrivs', 'CapEff'))])"
    with sandbox.cell(tmp_path / "cells", Path(__file__), Limits(insist=False)) as made:
        status = run(made, code)
    assert "NoNewPrivs:\\t1" in status and "CapEff:\\t0000000000000000" in status
    assert NO_FILES in capsys.readouterr().out


def test_the_command_line_takes_sandbox_none_and_nothing_else(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bring", str(tmp_path / "none.h5"), "--artifacts", str(tmp_path), "--sandbox"]
    done = subprocess.run([*command, "some"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "invalid choice: 'some'" in done.stderr
    done = subprocess.run([*command, "none"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "There is no " in done.stderr


# What a child sees


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's child is another user")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_root_s_child_reads_a_file_that_root_alone_may_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model"
    file = path if kind == "file" else path / "inner" / "weights"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("content")
    file.chmod(0o600)
    if kind == "folder":
        path.chmod(0o700)
    with sandbox.cell(tmp_path / "cells", path, Limits()) as made:
        found = made.file if kind == "file" else made.file / "inner" / "weights"
        assert run(made, f"print(open({str(found)!r}).read())") == "content\n"
    assert file.stat().st_mode & 0o777 == 0o600


def write_onnx(path: Path, location: str) -> None:
    """A graph whose weights lie in another file, inside the body of an If."""
    weights = numpy_helper.from_array(np.ones((4, 3), np.float32), "w")
    onnx.external_data_helper.set_external_data(weights, location)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 3])
    constant = helper.make_node("Constant", [], ["y"], value=weights)
    branch = helper.make_graph([constant], "branch", [], [output])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    graph = helper.make_graph([choice], "graph", [condition], [output])
    path.write_bytes(helper.make_model(graph).SerializeToString())


@pytest.mark.parametrize(
    ("location", "is_shown"), [("w.bin", True), ("../secret", False), ("link", False), ("none", False)]
)
def test_a_child_sees_the_files_that_the_model_names_and_no_others(
    tmp_path: Path, location: str, is_shown: bool
) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    write_onnx(folder / "net.onnx", location)
    for path in (folder / "w.bin", folder / "diary", tmp_path / "secret"):
        path.write_bytes(bytes(48))
        path.chmod(0o644)
    (folder / "link").symlink_to(tmp_path / "secret")
    with sandbox.cell(tmp_path / "cells", folder / "net.onnx", Limits()) as made:
        found = neighbours.of(folder / "net.onnx", made, None)
    assert found == ([folder / "w.bin"] if is_shown else [])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's children are another user")
def test_a_private_file_is_copied_with_the_files_that_it_names(tmp_path: Path) -> None:
    write_onnx(tmp_path / "net.onnx", "parts/w.bin")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "w.bin").write_bytes(bytes(48))
    for path in (tmp_path / "net.onnx", tmp_path / "parts" / "w.bin"):
        path.chmod(0o600)
    with sandbox.cell(tmp_path / "cells", tmp_path / "net.onnx", Limits()) as made:
        shown = sandbox.showing(made, tmp_path / "net.onnx", [tmp_path / "parts" / "w.bin"])
        verdict = sandbox.run(shown, "bring.verdict", str(shown.file)).output
        assert "nothing in it does more than compute" in verdict
        with pytest.raises(BroughtError, match=f"chmod -R go\\+rX {tmp_path}"):
            sandbox.showing(made, tmp_path / "net.onnx", [tmp_path])
        with pytest.raises(ChildFailed) as failed:
            sandbox.run(shown, "bring.verdict", str(shown.file.with_name("other.onnx")))
        assert str(made.given) not in str(failed.value)


def test_the_module_of_weights_and_the_parts_of_other_kinds_are_found(tmp_path: Path, cell: Cell) -> None:
    model = {"weightsManifest": [{"paths": ["a.bin", "b/c.bin", 5]}, {"paths": ["../d.bin"]}]}
    (tmp_path / "model.json").write_text(json.dumps(model))
    assert neighbours.names_in(tmp_path / "model.json") == ["a.bin", "b/c.bin", "5", "../d.bin"]
    for name, head in {"weights.pt": b"PK\x03\x04", "saved_model.pb": b"\x08\x01", "net.h5": b"\x89HDF"}.items():
        (tmp_path / name).write_bytes(head + bytes(8))
    assert neighbours.of(tmp_path / "weights.pt", cell, "nets:build") == [tmp_path]
    assert neighbours.of(tmp_path / "saved_model.pb", cell, None) == [tmp_path]
    assert neighbours.of(tmp_path / "net.h5", cell, None) == neighbours.of(tmp_path, cell, None) == []


def test_links_on_the_way_are_kept(tmp_path: Path) -> None:
    """A virtual environment's python is a link to a link; each of them has to be there."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "python3.11").touch()
    (tmp_path / "real" / "python3").symlink_to("python3.11")
    (tmp_path / "bin").symlink_to("real")
    (tmp_path / "python").symlink_to(tmp_path / "bin" / "python3")
    real, links = host.paths_of([tmp_path / "python", tmp_path / "bin" / "python3", tmp_path / "none"])
    assert real == [str(tmp_path / "real" / "python3.11")]
    assert links == {
        str(tmp_path / "python"): str(tmp_path / "bin" / "python3"),
        str(tmp_path / "bin"): "real",
        str(tmp_path / "real" / "python3"): "python3.11",
    }
    assert host.paths_of([tmp_path / "python", tmp_path / "real"]) == (
        [str(tmp_path / "real")],
        {str(tmp_path / "python"): str(tmp_path / "bin" / "python3"), str(tmp_path / "bin"): "real"},
    )


# What is collected


@pytest.fixture
def harvest(tmp_path: Path) -> Harvest:
    """A model with one sound artifact, in a folder as a child may leave it."""
    folder = tmp_path / "folder" / "net" / "onnx"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(b"a graph")
    files = sha256_of_files(folder, [folder / "model.onnx"])
    write_manifest(folder, Manifest("net", "onnx", None, (), (), None, (), files))
    return Harvest(tmp_path / "folder", "net", tmp_path / "records")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_sound_artifact_is_collected(harvest: Harvest, tmp_path: Path) -> None:
    harvest.read_records()
    harvest.copy_artifact("onnx", tmp_path / "made" / "onnx")
    assert names(tmp_path / "made" / "onnx") == ["manifest.json", "model.onnx"]


def plant(path: Path, kind: str, target: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    match kind:
        case "link":
            path.symlink_to(target)
        case "hard link":
            path.hardlink_to(target)
        case "pipe":
            os.mkfifo(path)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                here = Path.cwd()
                os.chdir(path.parent)  # the name of a socket is short
                server.bind(path.name)
                os.chdir(here)
        case "folder":
            path.mkdir()


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "socket", "folder"])
@pytest.mark.parametrize("name", ["manifest.json", "parity.json", "behaviour.json", "model.onnx"])
def test_what_is_no_plain_file_is_refused(harvest: Harvest, tmp_path: Path, name: str, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    harvest.read_records()
    plant(tmp_path / "folder" / "net" / "onnx" / name, kind, secret)
    with pytest.raises(BroughtError, match=f"onnx/{name} is not a plain file, or not there: nothing of net is kept"):
        harvest.read_records()
        harvest.copy_artifact("onnx", tmp_path / "made" / "onnx")
    copied = [path for folder in ("made", "records") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert all(b"secret" not in path.read_bytes() for path in copied)


@pytest.mark.parametrize("place", ["net", "net/onnx"])
def test_a_folder_that_is_a_link_is_not_entered(harvest: Harvest, tmp_path: Path, place: str) -> None:
    home = tmp_path / "home"
    shutil.copytree(tmp_path / "folder" / "net", home / "net")
    harvest.read_records()
    plant(tmp_path / "folder" / place, "link", home / place)
    with pytest.raises(BroughtError, match="is not a plain file"):
        harvest.read_records()
    with pytest.raises(BroughtError, match="is not a plain file"):
        harvest.take_back("onnx") if place == "net" else harvest.read_records()
    if place == "net/onnx":
        harvest.remove("onnx")
    assert (home / "net" / "onnx" / "model.onnx").exists()


def test_a_record_with_a_hole_of_terabytes_is_refused(harvest: Harvest, tmp_path: Path) -> None:
    with (tmp_path / "folder" / "net" / "onnx" / "parity.json").open("wb") as stream:
        stream.truncate(8 << 40)
    with pytest.raises(BroughtError, match=f"has {8 << 40} bytes, expected at most {MAX_RECORD}"):
        harvest.read_records()


def test_what_was_put_aside_comes_back(harvest: Harvest, tmp_path: Path) -> None:
    harvest.put_aside("onnx")
    harvest.read_records()
    assert not (harvest.records / "onnx").exists()
    (tmp_path / "folder" / "net" / "onnx").mkdir()
    harvest.take_back("onnx")
    assert (harvest.records / "onnx" / "manifest.json").exists()


def test_a_folder_is_removed_however_deep_it_is_and_no_link_is_followed(harvest: Harvest, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    here = Path.cwd()
    os.chdir(tmp_path / "folder" / "net" / "onnx")
    for _ in range(2000):  # deeper than Python's stack, and longer than a path may be
        Path("file").touch()
        Path("link").symlink_to(outside)
        Path("deeper").mkdir()
        os.chdir("deeper")
    os.chdir(here)
    harvest.remove("onnx")
    assert names(tmp_path / "folder" / "net") == []
    assert names(outside) == ["file"]


EVIL = """
import os, torch
from pathlib import Path

def build():
    folder = Path.cwd()
    for name in ("questions", "evil/failed", "evil/onnx", "evil/brought.json", "evil/samples", "aside-onnx"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(OUTSIDE)
    return torch.nn.Linear(3, 2)
"""


def test_links_that_reading_a_model_left_behind_lead_nobody_out(tmp_path: Path) -> None:
    import torch

    outside, models = tmp_path / "outside", tmp_path / "models"
    outside.mkdir()
    outside.chmod(0o777)
    models.mkdir()
    torch.save(torch.nn.Linear(3, 2).state_dict(), models / "evil.pt")
    (models / "evil_net.py").write_text(EVIL.replace("OUTSIDE", repr(str(outside))))
    (models / "model.toml").write_text('[[input]]\nname = "x"\nshape = [-1, 3]\n')
    command = [sys.executable, "-m", "bring", str(models / "evil.pt"), "--arch", "evil_net:build", "--artifacts"]
    done = subprocess.run(
        [*command, str(tmp_path / "artifacts")], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert names(outside) == []
    assert "Traceback" not in done.stdout + done.stderr
    assert "is not a plain file, or not there: nothing of evil is kept" in done.stderr


def test_make_takes_sandbox_none_from_the_command_line_alone(make: Callable[..., Any]) -> None:
    assert '--sandbox "none"' in make("-n", "MODEL=net.h5", "SANDBOX=none", "bring").stdout
    assert "SANDBOX=none" in make("-n", "MODEL=net.h5", "SANDBOX=none", "all").stdout.replace('"', "")
    assert "--sandbox" not in make("-n", "MODEL=net.h5", "bring").stdout
