"""What every measure gets: the model, and how long and how often to load it."""

from dataclasses import dataclass
from pathlib import Path

from bench.serving.calls import Model


@dataclass(frozen=True)
class Setting:
    all_artifacts: Path
    """The folder with every artifact."""
    artifacts: Path
    """A folder with one ONNX model and nothing else."""
    model: Model
    seconds: float
    """Of load in each round."""
    rounds: int
