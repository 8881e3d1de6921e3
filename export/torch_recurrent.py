"""Recurrent layers of a PyTorch program, for converters that have no such layer: they write each step out.

A program then has tens of operators for each step, and takes seconds a step to convert: three layers over 160 frames
of sound keep a converter busy for many minutes, before the other formats have their turn.
"""

from typing import Any

from contract.errors import ExportError

MOST = 256
"""Steps that are written out, of all layers and directions together."""
LAYERS = ("aten.lstm.input", "aten.gru.input", "aten.rnn_tanh.input", "aten.rnn_relu.input")
"""Their arguments: the input, the first state, weights, has_biases, the number of layers, dropout, train,
bidirectional, batch_first."""


def refuse_many_steps(program: Any, format: str) -> None:
    """Raises ExportError for a torch.export.ExportedProgram of more than MOST steps; free lengths are not counted."""
    steps = sum(_steps(node) for node in program.graph.nodes if str(node.target) in LAYERS)
    if steps > MOST:
        raise ExportError(
            f"{format}'s converter has no recurrent layer, and writes each of its steps out: {steps} steps here, in "
            f"all layers and directions, and at most {MOST} are written. Bring a shorter sequence, or ship ONNX."
        )


def _steps(node: Any) -> int:
    sequence, _, _, _, layers, _, _, is_bidirectional, is_batch_first = node.args
    length = sequence.meta["val"].shape[1 if is_batch_first else 0]
    return length * layers * (2 if is_bidirectional else 1) if isinstance(length, int) else 0
