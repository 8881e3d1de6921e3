"""Core AI on the CPU, in Apple's own runtime for Linux: for proof of its answers, not for time.

It computes with plain kernels in one thread, and nobody ships it: an app on an Apple device has Core AI in its system.
"""

import asyncio
import hashlib
import importlib.metadata
import threading
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


class CoreAIRuntime:
    """Runs `model.aimodel`: any batch at once, where its sizes are free."""

    platform = "coreai"
    in_process = True

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self.title = f"Core AI {VERSION}"
        _check(folder / "model.aimodel")
        # A call outside of a running event loop ends the process, so one thread has a loop that always runs.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="coreai", daemon=True)
        self._thread.start()
        try:
            with silent():
                self._function = self._wait(_load(folder / "model.aimodel"))
            descriptor = self._function.desc
            self._dtypes = {
                spec.name: np.dtype(descriptor.input_descriptor(spec.name).dtype) for spec in manifest.inputs
            }
        except BaseException:
            self.close()
            raise
        self._outputs = [spec.name for spec in manifest.outputs]

    def predict(self, inputs: Tensors) -> Tensors:
        for name, dtype in self._dtypes.items():
            if inputs[name].dtype in (np.int64, np.uint64) and dtype != inputs[name].dtype:
                check_32_bits(name, inputs[name], "Core AI")
        answers: Tensors = self._wait(self._call(inputs))
        return answers

    async def _call(self, inputs: Tensors) -> Tensors:
        values = {name: NDArray(np.ascontiguousarray(inputs[name], dtype)) for name, dtype in self._dtypes.items()}
        answers = await self._function(inputs=values)
        return {name: answers[name].numpy() for name in self._outputs}

    def _wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


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
