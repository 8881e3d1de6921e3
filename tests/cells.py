"""Run attacks in cells, as root and as an ordinary user, on a system with namespaces and on one that forbids them.

python -m tests.cells FOLDER MODE       prints JSON: attack -> its result
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from contract.cell import calls, host, kernel, sandbox
from contract.cell.calls import Rule
from contract.cell.enter import BUBBLEWRAP
from contract.cell.host import Parts
from contract.cell.sandbox import ChildFailed, Limits
from contract.code import ROOT
from tests import cell_attacks

ORDINARY = 12345
"""The number of a user that no system has."""
MODES = (
    "root",
    "user",
    "user with bubblewrap",
    "root without namespaces",
    "root in a private folder without namespaces",
    "user without namespaces",
)
DOCKER = {0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31}
"""The capabilities that Docker leaves to root in a container."""
MARKER = "rosetta-cell-marker"


# The systems


def why_not(mode: str) -> str:
    """Why this process cannot imitate a system; empty where it can."""
    if mode.endswith("bubblewrap") and not shutil.which("bwrap"):
        return "bubblewrap is not installed"
    if os.geteuid() != 0:
        return "" if mode.startswith("user") else "only root can"
    if "private" in mode:
        return "others may run this Python" if _others_may_run_python() else ""
    if mode != "root" and not _others_may_run_python() and not can_unshare():
        return "others cannot run this Python, and no mount namespace can be had to show it to them"
    return ""


def can_unshare() -> bool:
    command = ["unshare", "--mount", "true"]
    return bool(shutil.which("unshare")) and subprocess.run(command, capture_output=True, check=False).returncode == 0


def enter(mode: str) -> None:
    """In a child before its program starts: imitate a system. It is called where `why_not` says nothing."""
    if os.geteuid() == 0 and mode != "root" and "private" not in mode and not _others_may_run_python():
        _show_python_to_others()
    if mode.endswith("without namespaces"):
        if os.geteuid() != 0:
            kernel.forbid_new_privileges()
        calls.forbid(_as_containers_do())
    if os.geteuid() != 0:
        return
    if mode.startswith("root") and mode != "root":
        for capability in set(range(64)) - DOCKER:
            with contextlib.suppress(OSError):
                kernel.prctl(24, capability)
    elif mode.startswith("user"):
        os.setgroups([])
        os.setresgid(ORDINARY, ORDINARY, ORDINARY)
        os.setresuid(ORDINARY, ORDINARY, ORDINARY)


def _as_containers_do() -> Iterator[Rule]:
    yield from (Rule(name) for name in ("unshare", "mount", "setns", "pivot_root", "mount_setattr", "umount2"))
    yield Rule("clone3", 38)
    yield Rule("clone", argument=0, mask=kernel.NEW_ANYTHING, unless=True)


def _python() -> list[Path]:
    return [Path(path).resolve() for path in (sys.base_prefix, sys.prefix, ROOT)]


def _others_may_run_python() -> bool:
    return all(sandbox._others_may_enter(path) for path in _python())


def _show_python_to_others() -> None:
    """In a mount namespace, where the folders above Python that nobody else may enter hold Python alone."""
    kernel.unshare(kernel.NEW_MOUNTS)
    kernel.mount("none", "/", flags=kernel.RECURSIVE | kernel.PRIVATE)
    for path in _python():
        closed = [folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001]
        if closed:
            keep = tempfile.mkdtemp()
            kernel.mount(str(path), keep, flags=kernel.BIND | kernel.RECURSIVE)
            kernel.mount("none", str(closed[0]), "tmpfs", options="mode=755")
            path.mkdir(parents=True)
            kernel.mount(keep, str(path), flags=kernel.BIND | kernel.RECURSIVE)


def public_folder(mode: str) -> Path:
    """A new folder that the user of a mode may write to, and everybody may enter."""
    folder = Path(tempfile.mkdtemp(prefix="cells.", dir="/tmp"))  # others cannot enter pytest's own
    folder.chmod(0o755)
    if os.geteuid() == 0 and mode.startswith("user"):
        os.chown(folder, ORDINARY, ORDINARY)
    return folder


def run_as(mode: str, *command: object) -> subprocess.CompletedProcess[str]:
    """Run `python *command` on the system of a mode."""
    environment = {**os.environ, "TMPDIR": "/tmp", "PYTHONDONTWRITEBYTECODE": "1", "ROSETTA_TEST_SECRET": "1"}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=environment,
        text=True,
        capture_output=True,
        check=False,
        timeout=500,
        preexec_fn=lambda: enter(mode),
    )


# What lies outside


@contextlib.contextmanager
def outside(folder: Path, file: Path) -> Iterator[dict[str, Any]]:
    """Files, processes, sockets and memory outside of any cell, as attacks expect them."""
    home, open_to_all = folder / "home", folder / "open"
    home.mkdir()
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    (home / "secret").write_text("secret")
    (folder / "own").write_text("own")
    (open_to_all / "there").write_text("there")
    (open_to_all / "there").chmod(0o666)
    set_user_id = folder / "id"
    shutil.copyfile(shutil.which("id") or "/usr/bin/id", set_user_id)
    set_user_id.chmod(0o4755)
    marker = f"{MARKER}-{os.getpid()}"
    command = [sys.executable, "-I", "-S", "-c", f"import time; time.sleep(600)  # {marker}"]
    user = host.find_parts().user
    with contextlib.ExitStack() as stack:
        victim = stack.enter_context(subprocess.Popen(command))
        stack.callback(victim.kill)
        while victim.pid not in left_behind(marker):  # its command line is there a moment after it has started
            time.sleep(0.01)
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        for address in (f"\0{marker}", f"{open_to_all}/socket"):
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(address)
            server.listen()
        (open_to_all / "socket").chmod(0o777)
        leaked = os.open(home / "secret", os.O_RDONLY)
        stack.callback(os.close, leaked)
        os.set_inheritable(leaked, True)
        libc = ctypes.CDLL(None)
        key = 0x52530000 + os.getpid() % 65536
        memory = libc.shmget(key, 4096, 0o1666)
        stack.callback(libc.shmctl, memory, 0, None)
        yield {
            "secret": str(home / "secret"),
            "own": str(folder / "own"),
            "open": str(open_to_all),
            "file": str(file),
            "set_user_id": str(set_user_id),
            "checkout": str(ROOT),
            "marker": marker,
            "processes": [victim.pid, os.getpid(), os.getppid()],
            "port": listener.getsockname()[1],
            "socket": f"{open_to_all}/socket",
            "shared_memory": key,
            "shared_memory_id": memory,
            "is_root": user is None and os.geteuid() == 0,
        }


def left_behind(marker: str) -> list[int]:
    """The processes outside whose command line has the marker."""
    found = []
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if marker.encode() in line.read_bytes():
                found.append(int(line.parent.name))
    return found


def state(about: dict[str, Any]) -> dict[str, Any]:
    """What must not change: content, mode and time of files outside."""
    paths = [Path(about[name]) for name in ("secret", "own", "file")] + [Path(about["open"], "there")]
    return {
        str(path): (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime) if path.exists() else None
        for path in paths
    } | {"names": sorted(path.name for path in Path(about["open"]).iterdir())}


# The attacks


def attack_all(folder: Path, names: list[str]) -> dict[str, str]:
    """Each attack's result, on this system: `held`, or what it reached."""
    file = folder / "model.h5"
    file.write_bytes(b"a model")
    limits = Limits(seconds=60, memory=2 << 30, file_size=1 << 30, processes=64)
    results = {}
    with outside(folder, file) as about, sandbox.cell(folder / "cells", file, limits) as cell:
        (cell.kept / "mine").write_text("kept")
        (cell.given / "mine").write_text(json.dumps(about))
        shutil.copyfile(cell_attacks.__file__, cell.folder / "cell_attacks.py")
        (cell.folder / "cell_attacks.py").chmod(0o644)
        before, known = state(about), set(left_behind(about["marker"]))
        for name in names:
            try:
                output = sandbox.run(cell, "cell_attacks", name, str(cell.given / "mine")).output
            except ChildFailed as error:
                output = f"{error.log.splitlines()[0] if error.log.strip() else ''}; {error}"
            after = state(about)
            if changed := [path for path in before if after[path] != before[path]]:
                output += f"ESCAPED: changed {changed}"
            if left := set(left_behind(about["marker"])) - known:
                output += f"ESCAPED: left {len(left)} processes"
                for process in left:
                    os.kill(process, signal.SIGKILL)
            if not known <= set(left_behind(about["marker"])):
                output += "ESCAPED: ended a process outside"
            results[name] = output.strip()
    return results


def attack_from_the_service(folder: Path, names: list[str]) -> dict[str, str]:
    """Each attack's result from a cell as a served model has it: its only folder is in memory."""
    artifact, made = folder / "artifact", folder / "apart"
    for path in (artifact, made, made / "work", made / "root"):
        path.mkdir()
        path.chmod(0o755)
    file = artifact / "model.onnx"
    file.write_bytes(b"a model")
    shutil.copyfile(cell_attacks.__file__, artifact / "cell_attacks.py")
    results = {}
    with outside(folder / "besides", file) as about:
        (artifact / "outside").write_text(json.dumps(about))
        for path in artifact.iterdir():
            path.chmod(0o644)
        known = set(left_behind(about["marker"]))
        before = state(about)
        for name in names:
            command = [sys.executable, str(artifact / "cell_attacks.py"), name, str(artifact / "outside")]
            request = host.Request(command, made / "work", made / "root", (artifact,), 1 << 20, 64, scratch=1 << 20)
            with tempfile.TemporaryFile("w+b") as output:
                process = host.start(request, host.environment(request.folder), stdout=output, stderr=output)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.child.wait(60)
                process.stop()
                output.seek(0)
                results[name] = output.read(4096).decode(errors="replace").strip()
            if (after := state(about)) != before:
                results[name] += f"ESCAPED: changed {[path for path in before if after[path] != before[path]]}"
            if set(left_behind(about["marker"])) != known:
                results[name] += "ESCAPED: left processes, or ended some"
    return results


def main() -> None:
    folder, mode = Path(sys.argv[1]), sys.argv[2]
    if mode.endswith("bubblewrap"):  # which this system need not use
        host._candidates = lambda: [Parts(BUBBLEWRAP, None)]
    parts = host.find_parts()
    names = list(cell_attacks.ATTACKS)
    results = attack_all(folder, names)
    served = {}
    if parts.is_apart:
        (folder / "besides").mkdir()
        served = attack_from_the_service(folder, names)
    about = {"means": parts.means, "user": parts.user, "lacks": parts.lacks}
    print(json.dumps({"parts": about, "results": results, "served": served}))


if __name__ == "__main__":
    main()
