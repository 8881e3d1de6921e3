"""Steps that run in forks of one process: each is as good as a process of its own, and leaves nothing to the next."""

import signal
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bring.workshop import TENSORFLOW, TORCH, WORKSHOPS, Workshop, Workshops, modules_to_run, opened
from contract.cell import host, sandbox
from contract.cell.enter import NOTHING
from contract.cell.sandbox import Cell, ChildFailed, Limits

pytestmark = pytest.mark.skipif(not host.find_parts().is_apart, reason="without namespaces there are no workshops")


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    limits = Limits(seconds=20, memory=2**28, file_size=2**20, disk=2**24)
    with sandbox.cell(tmp_path_factory.mktemp("steps") / "cells", Path(__file__), limits) as made:
        yield made


@pytest.fixture(scope="module")
def workshop(cell: Cell) -> Iterator[Workshop]:
    with opened(cell, {"OF_ALL": "mine"}) as workshop:
        yield workshop


def of(code: str) -> list[str]:
    """A step that runs this code; of all modules of Python, this one runs what it is given."""
    return ["timeit", "-n1", "-r1", textwrap.dedent(code)]


def printed(workshop: Workshop, code: str) -> str:
    return workshop.run(of(code), ()).output.splitlines()[0]


def test_steps_are_forks_of_one_process_and_share_no_changes(workshop: Workshop) -> None:
    code = """
        import json, os, sys
        json.mine = getattr(json, "mine", 0) + 1
        print(os.getppid(), json.mine, os.environ["OF_ALL"], sys.argv[1], sys.stdin.read() == "")
    """
    first, second = (printed(workshop, code) for _ in range(2))
    assert first == second
    assert first.split()[1:] == ["1", "mine", "-n1", "True"]


def test_what_a_step_imports_beforehand_is_there(workshop: Workshop) -> None:
    code = "import sys; print('colorsys' in sys.modules, 'matplotlib' in sys.modules)"
    assert printed(workshop, code) == "False False"
    loaded = workshop.run(of(code), ["colorsys", "no_such_module"])
    assert loaded.output.startswith("True False")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import sys; sys.exit('error: of this kind')", "of this kind"),
        ("raise ValueError('of that kind')", "ValueError: of that kind"),
        ("import os; os.abort()", "ended by SIGABRT"),
        ("import os; os._exit(134)", "exit status 134"),
        ("import pathlib; pathlib.Path('big').write_bytes(b'x' * 2**21)", "File too large"),
    ],
)
def test_a_step_that_goes_wrong_is_one_line_and_the_next_one_runs(workshop: Workshop, code: str, words: str) -> None:
    with pytest.raises(ChildFailed, match=words):
        workshop.run(of(code), ())
    assert printed(workshop, "print('well')") == "well"
    assert workshop.process.returncode is None


def test_nothing_that_a_step_started_outlives_it(workshop: Workshop) -> None:
    started = "import subprocess; print(subprocess.Popen(['sleep', '600'], start_new_session=True).pid)"
    left = int(printed(workshop, started))
    code = f"""
        import pathlib, time
        status = pathlib.Path("/proc/{left}/stat")
        deadline = time.monotonic() + 5
        while status.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        print(status.exists())
    """
    assert printed(workshop, code) == "False"


def test_a_step_sees_nothing_of_the_process_that_forked_it(workshop: Workshop) -> None:
    code = """
        import os
        for name in ("fd", "mem", "environ"):
            try:
                path = f"/proc/{os.getppid()}/{name}"
                print("seen", end=" ") if os.listdir(path) or open(path) else None
            except OSError as error:
                try:
                    open(path, "rb+" if name == "mem" else "rb").close()
                    print("opened", end=" ")
                except OSError:
                    print("refused", end=" ")
        print(sorted(map(int, os.listdir("/proc/self/fd")))[:4])
    """
    assert printed(workshop, code) == "refused refused refused [0, 1, 2, 3]", "3 is the list itself"


def test_a_step_beyond_a_limit_ends_its_workshop_and_another_takes_its_place(cell: Cell) -> None:
    with Workshops() as workshops:
        first = workshops._of(cell, WORKSHOPS["export"])
        with pytest.raises(ChildFailed, match=r"more than 0\.25 GiB of memory") as caught:
            first.run(of("held = bytes(1) * 2**29; import time; time.sleep(60)"), ())
        assert caught.value.peak >= 2**28
        assert first.process.returncode == -signal.SIGKILL
        with pytest.raises(ChildFailed, match="arguments are required: parent, format"):
            workshops.run(cell, "export")
        with pytest.raises(ChildFailed, match="arguments are required: parent, format"):
            workshops.run(cell, "export")
        assert workshops._of(cell, WORKSHOPS["export"]).process.returncode is None


def test_without_a_process_namespace_each_step_is_a_process(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(sandbox, "run", lambda cell, *step: ran.append(step))
    bare = replace(cell, parts=replace(cell.parts, means=NOTHING))
    with Workshops() as workshops:
        workshops.prepare(bare, "verify", TENSORFLOW)
        workshops.run(bare, "verify", "folder", load=TENSORFLOW)
    assert ran == [("verify", "folder")]


@pytest.mark.parametrize(
    ("name", "shares"), [("net.keras", False), ("net", False), ("net.pt2", True), ("a.onnx", True)]
)
def test_a_source_of_tensorflow_is_read_where_nothing_converts(
    cell: Cell, monkeypatch: pytest.MonkeyPatch, name: str, shares: bool
) -> None:
    ran = []

    def run(workshop: Workshop, step: list[str], load: Sequence[str]) -> None:
        ran.append((workshop, load))

    monkeypatch.setattr(Workshop, "run", run)
    with Workshops() as workshops:
        workshops.read(replace(cell, file=Path(name)), "bring.source")
        workshops.run(cell, "export")
        (reads, load), (converts, _) = ran
        assert (reads is converts) == shares
        assert (reads.process.returncode is None) == shares
        assert load == (TORCH if name.endswith("pt2") else () if shares else TENSORFLOW)


def test_what_reads_imports_first_and_what_converts_after_it(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str | None, str | None, bool]] = []
    ask = Workshop.ask

    def noted(workshop: Workshop, step: Sequence[str] | None, load: Sequence[str], answer_loaded: bool = False) -> None:
        names = {id(each): name for name, each in workshops._open.items()}
        asked.append((names.get(id(workshop)), step[0] if step else None, answer_loaded))
        ask(workshop, step, load, answer_loaded)

    monkeypatch.setattr(Workshop, "ask", noted)
    monkeypatch.setattr("bring.workshop.TENSORFLOW", ("colorsys",))
    with Workshops() as workshops:
        model = replace(cell, file=Path("net.keras"))
        workshops.prepare_all(model)
        assert workshops.read(model, *of("import sys; print('colorsys' in sys.modules)")).output.startswith("True")
    assert asked == [
        ("reads", None, False),
        ("answers", None, False),
        ("reads", None, True),
        ("converts", None, False),
        ("reads", "timeit", False),
    ]


def test_imports_have_the_time_of_a_step(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bring.workshop.TENSORFLOW", ("colorsys",))
    with Workshops() as workshops:
        model = replace(cell, file=Path("net.keras"), limits=replace(cell.limits, seconds=0))
        workshops.prepare_all(model)
        with pytest.raises(ChildFailed, match="longer than 0 s to import colorsys"):
            workshops.read(model, *of("print('well')"))


def test_frameworks_are_not_searched_for_garbage(workshop: Workshop) -> None:
    assert printed(workshop, "import gc; print(gc.get_freeze_count() > 1000)") == "True"


def test_each_framework_is_loaded_for_what_needs_it() -> None:
    assert modules_to_run(["tflite", "savedmodel", "torch"]) == [*TORCH, *TENSORFLOW]
    assert modules_to_run(["onnx", "tfjs"]) == []
