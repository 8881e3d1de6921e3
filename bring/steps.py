"""Run steps, each in a fork of this process, which has loaded the frameworks that they share.

    python -m bring.steps 5        answers bring/workshop.py, in a cell; steps write their output to the open file 5

A request is a line of JSON: the modules to load here, and the step, `[module, arguments...]`, or null for none. The
answer is a line with the step's exit status, negative for a signal. Where `answer_loaded` is set, another line comes
once the modules are there. Frameworks are imported here and never called: a fork has one thread, and waits for ever for
those that a computation started.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import sys
import traceback
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn
from unittest import mock

from contract.cell import kernel

READY, LOADED = b"ready\n", b"loaded\n"
UNUSED = ("matplotlib", "pandas")
"""Keras imports them for plots and tables where they are installed, which takes half a second."""


def main() -> None:
    """Answer requests until there are no more."""
    kernel.hide_from_others()  # no step looks into this process
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    requests, answers = os.fdopen(os.dup(0), "rb"), os.dup(1)
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    output = int(sys.argv[1])
    os.dup2(output, 1)
    os.close(output)
    os.write(answers, READY)
    for line in requests:
        request = json.loads(line)
        _load(request["modules"])
        if request["answer_loaded"]:
            os.write(answers, LOADED)
        if request["step"] is None:
            continue
        child = os.fork()
        if child == 0:
            requests.close()
            os.close(answers)
            _become(request["step"])
        _, status = os.waitpid(child, 0)
        _end_others()
        os.write(answers, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _load(modules: Iterable[str]) -> None:
    """Import what can be: a step says what is wrong with the rest.

    A framework is a million objects that stay. To look for garbage among them takes a fifth of the import's time, and
    again in each step, which would copy the memory that it shares with this process.
    """
    gc.disable()
    with _without_unused():
        for module in modules:
            with contextlib.suppress(Exception):
                importlib.import_module(module)
    gc.freeze()
    gc.enable()


@contextlib.contextmanager
def _without_unused() -> Iterator[None]:
    missing = {name: None for name in UNUSED if name not in sys.modules}
    try:
        sys.modules |= missing  # type: ignore[arg-type]
        yield
    finally:
        for name in missing:
            del sys.modules[name]


def _become(step: Sequence[str]) -> NoReturn:
    """Run the step as `python -m` does, and end without taking the frameworks apart, which takes a second."""
    kernel.show_to_others()
    module, *arguments = step
    status = 1
    try:
        with mock.patch.object(sys, "argv", [module, *arguments]):
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as error:
        status = _status_of(error)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _status_of(error: SystemExit) -> int:
    """As Python itself takes it: a text is printed."""
    if error.code is None or isinstance(error.code, int):
        return (error.code or 0) & 0xFF
    print(error.code, file=sys.stderr)
    return 1


def _end_others() -> None:
    """End what a step left running: everything in this process namespace but its first process and this one."""
    if os.getppid() != 1:
        raise OSError("A cell without a process namespace has no steps: its processes cannot be ended all at once.")
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)


if __name__ == "__main__":
    main()
