"""Core AI on the CPU, in Apple's own runtime for Linux: for proof of its answers, not for time.

It computes with plain kernels in one thread, and nobody ships it: an app on an Apple device has Core AI in its system.
"""

import asyncio
import atexit
import functools
import hashlib
import importlib.metadata
import os
import threading
import time
import weakref
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
from coreai.authoring import AIModelAsset
from coreai.runtime import NDArray

from contract.coreai_program import operators
from contract.manifest import Manifest
from contract.tensors import Tensors
from serve.runtimes.silence import silent
from serve.runtimes.whole_numbers import check_32_bits

VERSION = importlib.metadata.version("coreai-core")
FUNCTION = "main"
LET_GO_SECONDS, POLL_SECONDS = 1.0, 0.01


class CoreAIRuntime:
    """Runs `model.aimodel`: any batch at once, where its sizes are free."""

    platform = "coreai"
    in_process = True

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self.title = f"Core AI {VERSION}"
        _check(folder / "model.aimodel")
        with silent():
            self._function = _wait(_load(folder / "model.aimodel"))
        descriptor = self._function.desc
        self._dtypes = {spec.name: np.dtype(descriptor.input_descriptor(spec.name).dtype) for spec in manifest.inputs}
        self._outputs = [spec.name for spec in manifest.outputs]

    def predict(self, inputs: Tensors) -> Tensors:
        for name, dtype in self._dtypes.items():
            if inputs[name].dtype in (np.int64, np.uint64) and dtype != inputs[name].dtype:
                check_32_bits(name, inputs[name], "Core AI")
        answers: Tensors = _wait(self._call(inputs))
        return answers

    async def _call(self, inputs: Tensors) -> Tensors:
        values = {name: NDArray(np.ascontiguousarray(inputs[name], dtype)) for name, dtype in self._dtypes.items()}
        answers = await self._function(inputs=values)
        return {name: answers[name].numpy() for name in self._outputs}

    def close(self) -> None:
        """Nothing is held outside this process's memory."""


class _Loop(asyncio.SelectorEventLoop):
    """A loop that knows which of its answers Core AI's threads still hold, after they handed them over.

    A thread that lets go of one when Python is at its end is unwound by Python, through frames of Swift, which ends the
    process with SIGABRT.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held: weakref.WeakSet[asyncio.Future[Any]] = weakref.WeakSet()

    def create_future(self) -> "asyncio.Future[Any]":
        future = super().create_future()
        self._held.add(future)
        return future

    def wait_until_let_go(self) -> None:
        """Wait until nothing is held, but not for ever; then for the threads to be back in Core AI."""
        end = time.monotonic() + LET_GO_SECONDS
        while self._held and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        time.sleep(POLL_SECONDS)


def _wait(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run_coroutine_threadsafe(coroutine, _loop(os.getpid())).result()


@functools.cache
def _loop(process: int) -> _Loop:
    """The loop of a process, which runs until its end: a call outside of a running loop ends the process."""
    loop = _Loop()
    threading.Thread(target=loop.run_forever, name=f"coreai-{process}", daemon=True).start()
    atexit.register(loop.wait_until_let_go)
    return loop


def _check(folder: Path) -> None:
    """Raise ValueError or OSError for a program that is damaged: Core AI itself would end the process."""
    program = (folder / "main.mlirb").read_bytes()
    operators(program)
    if hashlib.sha256(program).digest() != (folder / "main.hash").read_bytes():
        raise ValueError("its program is not the one that main.hash names: it was changed after it was written")


async def _load(folder: Path) -> Any:
    """The function, compiled for this machine in a folder that is gone afterwards."""
    async with AIModelAsset.load(folder).executable() as model:
        return model.load_function(FUNCTION)
