"""The one table of reduced precisions: which variants of a format there are, and what each one has to hold.

A variant is an artifact of its own, made from the float32 artifact of the same format: `tflite-int8` from `tflite`.
Its name says what it is meant to be. What it is, its file says: verify/precision/ledger.py reads that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from contract.errors import PrecisionError

ALL, NONE = "all", "none"


@dataclass(frozen=True)
class Precision:
    """One variant of a family of formats."""

    family: str
    suffix: str
    title: str
    """What it is, for people."""
    dtype: str
    """Of its weights: where the file holds no weight of this dtype, the variant is not what its name says. Of what is
    not stored, the dtype of its products: where nothing is computed in it, the name is wrong."""
    calibrated: bool = False
    """Whether it is made from the ranges that rows of data give to its activations."""
    usual: bool = False
    """Whether it is made unless somebody asks for others."""
    batch: int | None = None
    """The fixed batch of its graph, where it has one; otherwise its parent's."""
    in_browser: bool = True
    """Whether a browser's runtime can be called with the manifest's inputs."""
    is_stored: bool = True
    """Whether the file has it; otherwise it is an option of the runtime, and weights stay float32 in the file."""
    fast_on: tuple[str, ...] = ()
    """The vector instructions, as Linux names them: a processor with none of them computes it slowly."""
    made_by: str = ""
    """The package that makes it, where that is not installed with the others."""

    @property
    def format(self) -> str:
        return f"{self.family}-{self.suffix}"


TABLE = (
    Precision("onnx", "fp16", "float16; inputs and outputs float32", "float16", usual=True),
    Precision(
        "onnx", "int8", "int8 weights by channel, int8 activations; inputs and outputs float32", "int8", True, True
    ),
    Precision("onnx", "int8dyn", "int8 weights; activations become uint8 at each call", "int8"),
    Precision("onnx", "int4", "int4 weights of matrix products, a scale for each 32; computed in float32", "int4"),
    Precision("tflite", "fp16", "float16 weights; inputs and outputs float32", "float16", usual=True),
    Precision(
        "tflite", "int8", "int8 weights by channel, int8 activations; inputs and outputs float32", "int8", True, True
    ),
    Precision(
        "tflite",
        "int8full",
        "int8 throughout; its runtime converts float32 inputs and outputs",
        "int8",
        True,
        in_browser=False,
    ),
    Precision("tflite", "int8dyn", "int8 weights by channel; activations become int8 at each call", "int8", usual=True),
    # Of weights that two signatures share, TensorFlow 2.21's converter quantises the quantised ones again.
    Precision(
        "tflite", "int16x8", "int8 weights by channel, int16 activations; one row at a time", "int8", True, batch=1
    ),
    Precision("tfjs", "fp16", "float16 weights, for the download; computed in float32", "float16"),
    Precision("tfjs", "uint8", "uint8 weights, for the download; computed in float32", "uint8"),
    Precision(
        "executorch",
        "int8",
        "int8 weights by channel, int8 activations; inputs and outputs float32",
        "int8",
        True,
        True,
    ),
    Precision(
        "torch",
        "int8",
        "int8 weights by channel, uint8 activations before them; inputs and outputs float32",
        "int8",
        True,
        made_by="torchao",
    ),
    Precision(
        "torch",
        "bf16",
        "bfloat16 products, by autocast; weights stay float32 in the file",
        "bfloat16",
        is_stored=False,
        fast_on=("avx512_bf16", "amx_bf16", "bf16"),
    ),
)

PRECISIONS: dict[str, Precision] = {precision.format: precision for precision in TABLE}
"""By format, in the order in which they are made."""


def chosen(text: str) -> tuple[Precision, ...]:
    """The precisions that somebody asks for: `all`, `none`, suffixes such as `int8,fp16`; where it is empty, the usual.

    Raises PrecisionError for a word that is none of these.
    """
    words = [word for part in text.split(",") if (word := part.strip())]
    if not words:
        return tuple(precision for precision in TABLE if precision.usual)
    if words == [ALL]:
        return TABLE
    if words == [NONE]:
        return ()
    known = list(dict.fromkeys(precision.suffix for precision in TABLE))
    if unknown := [word for word in words if word not in known]:
        raise PrecisionError(
            f"PRECISION={text[:80]} cannot be used: {unknown[0]!r} is not one of {_listed(known)}. "
            f"Set some of them, {ALL} or {NONE}."
        )
    return tuple(precision for precision in TABLE if precision.suffix in words)


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}"
