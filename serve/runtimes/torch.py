"""PyTorch: the self-contained program that `torch.export` wrote, in inference mode."""

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from contract.manifest import Manifest
from contract.tensors import Tensors
from serve.runtimes.torch_call import BATCH, for_batches, keep_memory, straight_line
from serve.runtimes.torch_precision import as_executed, called_in, load_program


class TorchRuntime:
    """Runs a `.pt2` program; no class of the training script is needed to load it."""

    platform = "pytorch_export"
    in_process = True

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        self.title = f"PyTorch {torch.__version__}"
        torch.set_num_threads(threads)
        keep_memory()
        program = load_program(folder / "model.pt2")
        self._for_one = called_in(manifest.format, straight_line(as_executed(program.module(), manifest.format)))
        self._for_batches = for_batches(self._for_one, program, manifest) or self._for_one
        self._rows_of = manifest.rows_of
        self._inputs = [spec.name for spec in manifest.inputs]
        self._outputs = [spec.name for spec in manifest.outputs]

    def predict(self, inputs: Tensors) -> Tensors:
        tensors = [tensor(inputs[name]) for name in self._inputs]
        with torch.inference_mode():
            answers = (self._for_batches if self._rows_of(inputs) >= BATCH else self._for_one)(*tensors)
        return {name: answer.numpy() for name, answer in zip(self._outputs, answers, strict=True)}

    def close(self) -> None:
        """Nothing is held outside this process's memory."""


def tensor(values: NDArray[Any]) -> torch.Tensor:
    """The same memory, except where it is read-only, as a request's is: PyTorch warns about such memory."""
    return torch.from_numpy(values if values.flags.writeable else values.copy())
