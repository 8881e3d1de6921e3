"""A cell's control group: the kernel ends what takes more memory than the cell may."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bring.workshop import opened
from contract.cell import groups, host, sandbox
from contract.cell.groups import VERSIONS
from contract.cell.sandbox import ChildFailed, Limits

needs_group = pytest.mark.skipif(groups.find_place() is None, reason="no control group can be made here")

GREEDY = "held = bytearray(3 * 2**30)\nimport time; time.sleep(60)"


@needs_group
@pytest.mark.parametrize("is_step", [True, False])
def test_the_kernel_ends_what_takes_more_memory_than_its_cell_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_step: bool
) -> None:
    monkeypatch.setattr(sandbox, "_resident", lambda *processes: 0)  # the kernel alone sees it
    with sandbox.cell(tmp_path / "cells", Path(__file__), Limits(seconds=60, memory=2**29)) as cell:
        (cell.folder / "greedy.py").write_text(GREEDY)
        with pytest.raises(ChildFailed, match=r"It took more than 0\.5 GiB of memory and was ended\.") as failed:
            if is_step:
                with opened(cell, {}) as workshop:
                    workshop.run(["timeit", "-n1", "-r1", GREEDY], [])
            else:
                sandbox.run(cell, "greedy")
        assert failed.value.is_at_limit
        (cell.folder / "modest.py").write_text("print('done')")
        assert sandbox.run(cell, "modest").output == "done\n"


@needs_group
def test_a_group_goes_with_its_cell_and_one_that_was_left_behind_with_the_next(tmp_path: Path) -> None:
    parent, _ = groups.find_place() or pytest.fail()
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = parent / f"{groups.PREFIX}{ended.pid}.left"
    left.mkdir()
    with sandbox.cell(tmp_path / "cells", Path(__file__), Limits()) as cell:
        process = host.start(sandbox.request(cell, [sys.executable, "-c", "import time; time.sleep(60)"]), {})
        own = f"{groups.PREFIX}{os.getpid()}.*"
        assert len([*parent.glob(own)]) == 1
        process.stop()
    assert not [*parent.glob(own)]
    assert not left.exists()


def test_without_a_group_memory_is_looked_at_and_a_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(groups, "find_place", lambda: None)
    with sandbox.cell(tmp_path / "cells", Path(__file__), Limits(seconds=60, memory=2**28)) as cell:
        assert host.NO_GROUP in capsys.readouterr().out
        (cell.folder / "greedy.py").write_text(GREEDY)
        with pytest.raises(ChildFailed, match=r"It took more than 0\.25 GiB of memory and was ended\."):
            sandbox.run(cell, "greedy")


MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 {root} /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
"""
UNIFIED = "30 24 0:26 {root} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.mark.parametrize(
    ("own", "mounts", "expected"),
    [
        ("0::/user.slice/a.scope\n", UNIFIED.format(root="/"), ["user.slice", "user.slice/a.scope"]),
        ("0::/\n", UNIFIED.format(root="/"), [""]),
        ("0::/../b.scope\n", UNIFIED.format(root="/../b.scope"), [""]),
        ("4:memory:/a/b\n1:cpu:/c\n", MOUNTS.format(root="/"), ["memory/a/b"]),
        ("4:memory:/a/b\n0::/\n", MOUNTS.format(root="/a"), ["memory/b"]),
        ("1:cpu:/c\n", MOUNTS.format(root="/"), []),
        ("", "", []),
    ],
)
def test_a_group_is_made_beside_its_own_in_version_2_and_below_it_in_version_1(
    own: str, mounts: str, expected: list[str]
) -> None:
    found = [place for place, _ in groups.places(own, mounts)]
    assert found == [Path("/sys/fs/cgroup", name) for name in expected]


def test_the_files_of_version_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder stands in for the kernel's: most kernels have one version alone."""

    def new(prefix: str, dir: Path) -> str:
        (tmp_path / "new").mkdir()
        for name in ("memory.max", "memory.swap.max"):
            (tmp_path / "new" / name).touch()
        (tmp_path / "new" / "memory.events").write_text("low 0\nmax 7\noom 0\noom_kill 0\noom_group_kill 0\n")
        return str(tmp_path / "new")

    monkeypatch.setattr(tempfile, "mkdtemp", new)
    group = groups._made(tmp_path, VERSIONS["cgroup2"], 2**28)
    assert group is not None and not group.has_ended_processes
    assert (group.folder / "memory.max").read_text() == str(2**28)
    assert (group.folder / "memory.swap.max").read_text() == "0"
    (group.folder / "memory.events").write_text("low 0\nmax 9\noom 1\noom_kill 1\noom_group_kill 0\n")
    assert group.has_ended_processes


def test_a_folder_without_a_limit_of_memory_is_no_place(tmp_path: Path) -> None:
    assert groups._made(tmp_path, VERSIONS["cgroup2"], 2**28) is None
    assert [*tmp_path.iterdir()] == []
