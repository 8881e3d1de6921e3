"""Folders of Hugging Face: transformers builds the network that config.json names, from its own classes, offline."""

import importlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from bring.description import Description
from bring.readers.torch import DTYPES, TorchSource, export, in_short
from bring.verdict.huggingface import CONFIG
from contract.errors import BroughtError
from contract.manifest import TensorSpec
from verify.questions import FREE

ANSWERS = ("logits", "last_hidden_state", "pooler_output", "image_embeds", "text_embeds", "prediction_logits")
"""What of a network's output is an answer, the likeliest first; the rest is for training and for further calls."""


class Plain(nn.Module):
    """A network of transformers as tensors in, one tensor out."""

    def __init__(self, net: Any, names: tuple[str, ...]) -> None:
        super().__init__()
        self.net, self.names = net, names

    def forward(self, *tensors: Tensor) -> Tensor:
        output = self.net(**dict(zip(self.names, tensors, strict=True)), return_dict=True)
        answer: Tensor = next(output[name] for name in ANSWERS if output.get(name) is not None)
        return answer


def read(path: Path, description: Description) -> TorchSource:
    """The network of a folder, as a program. Raises BroughtError."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    name = str(json.loads((path / CONFIG).read_bytes())["architectures"][0])
    try:
        transformers = importlib.import_module("transformers")
    except ImportError:
        raise BroughtError(
            f"{path.name} is built by transformers, which is not installed. Type `.venv/bin/pip install transformers`, "
            "or export the network where it is: "
            '`torch.export.save(torch.export.export(model.eval(), (example,)), "model.pt2")`.'
        ) from None
    build: Any = getattr(transformers, name, None)
    if not isinstance(build, type) or not issubclass(build, transformers.PreTrainedModel):
        raise BroughtError(
            f"{path.name} needs the class {name}, which transformers {transformers.__version__} has not."
        )
    try:
        net = (
            cast(Any, build)
            .from_pretrained(
                path, local_files_only=True, trust_remote_code=False, use_safetensors=True, attn_implementation="eager"
            )
            .eval()
        )
        inputs = _inputs(net)
        program = _exported(Plain(net, tuple(spec.name for spec in inputs)), inputs)
    except Exception as error:  # transformers may raise anything
        raise BroughtError(f"{path.name} cannot be read as {name}: {in_short(error)}") from error
    source = TorchSource(program, is_exported_here=True)
    pairs = zip(inputs, source.inputs, strict=True)
    source.inputs = tuple(replace(spec, shape=own.shape, bounds=own.bounds) for own, spec in pairs)
    source.call_inputs(inputs)
    return source


def _inputs(net: Any) -> list[TensorSpec]:
    """The inputs that a network cannot do without, and the mask of its tokens."""
    config = net.config
    if net.main_input_name == "input_ids":
        bounds = (0, config.vocab_size - 1)
        return [
            TensorSpec("input_ids", "int64", (None, None), "ND", bounds=bounds),
            TensorSpec("attention_mask", "int64", (None, None), "ND", bounds=(0, 1)),
        ]
    if net.main_input_name == "pixel_values":
        size = config.image_size if hasattr(config, "image_size") else 224
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        channels = getattr(config, "num_channels", 3)
        return [TensorSpec("pixel_values", "float32", (None, channels, height, width), "NDDD")]
    raise BroughtError(f"it takes {net.main_input_name}: expected tokens (input_ids) or pictures (pixel_values).")


def _exported(net: nn.Module, inputs: list[TensorSpec]) -> torch.export.ExportedProgram:
    """With a free length of tokens, or with FREE tokens where the network fixes it."""
    samples = tuple(torch.ones(spec.sizes_at(2, FREE), dtype=DTYPES[spec.dtype]) for spec in inputs)
    free = [{axis for axis, size in enumerate(spec.shape) if size is None} for spec in inputs]
    return export(net, samples, free, [0] * len(inputs))
