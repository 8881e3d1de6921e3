"""From what a file tells and what is said of it: what its artifact takes and gives, and what goes around its graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bring.description import Description, Preprocess
from contract.errors import BroughtError, one_line
from contract.manifest import ImageSpec, TensorSpec
from verify.questions import invented

Arrays = Mapping[str, NDArray[Any]]

CHANNELS = (1, 3)
ROWS = 8
"""How many invented rows a model is asked, to see what its answers look like."""
BELOW = (1000, 100, 10, 2)
"""Bounds that are tried for whole numbers, which may be indices into a table whose size no file tells."""


@dataclass(frozen=True)
class Around:
    """What is put around a graph, and the tensors that come of it."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    image: ImageSpec | None = None
    preprocess: Preprocess | None = None
    """None: the graph takes the input as it comes. Its `layout` is the graph's own."""
    softmax: bool = False
    batch: int | None = None
    below: int = BELOW[-1]
    """Whole numbers that are invented for it stay below this."""

    @property
    def is_nothing(self) -> bool:
        return self.preprocess is None and not self.softmax

    def affine(self) -> tuple[list[float], list[float]]:
        """The preprocessing as `pixels * factor + offset`, one of each a channel, in the graph's own order."""
        assert self.preprocess is not None and self.image is not None
        channels, said = self.image.channels, self.preprocess
        mean, std = (np.resize(values, channels).astype(np.float64) for values in (said.mean, said.std))
        return (said.scale / std).tolist(), (-mean / std).tolist()


class Brought(Protocol):
    """A file that was read, as it is."""

    format: str
    """Its artifact's."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    """As the file has them; the first size of each shape is the batch, None where it is free."""
    scales: bool
    """Whether the graph begins with arithmetic on its input, so that it takes pixels as they are."""
    can_wrap: bool
    """Whether something can be put around the graph."""
    can_ask: bool
    """Whether `predict` runs it here."""

    def predict(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        """The outputs in their order."""

    def write(self, folder: Path, around: Around) -> Sequence[Path]:
        """Write the artifact's files into `folder`."""


def plan(brought: Brought, description: Description, name: str) -> Around:
    """What to put around the graph. Raises BroughtError, which asks for what neither the file nor the person tells."""
    batch = _batch(brought, name)
    around = Around(_free(brought.inputs), _free(brought.outputs), batch=batch)
    if (image := _picture(brought, description, name)) is not None:
        around = _for_pictures(around, brought, description, image, name)
    if not brought.can_ask:
        return around
    around, answers = _probed(around, brought, name)
    around = replace(around, outputs=_measured(around.outputs, answers))
    if _classes(around) and _looks_like_logits(answers[0], description, around):
        around = replace(around, softmax=brought.can_wrap)
    if around.softmax or (around.image and _classes(around) and brought.can_wrap):
        first, *others = around.outputs
        around = replace(around, outputs=(replace(first, name="probabilities"), *others))
    return around


def labels_of(around: Around, description: Description, name: str) -> tuple[str, ...]:
    """A name for each class; empty for a model that does not classify. Raises BroughtError where the number differs."""
    classes = _classes(around)
    if not description.labels:
        if classes and len(description.classes) == classes:
            return description.classes
        return tuple(f"class {number}" for number in range(classes)) if around.image else ()
    if len(description.labels) != classes:
        raise BroughtError(
            f"{len(description.labels)} labels were given for {name}, whose answers have "
            f"{classes or 'no'} classes {list(around.outputs[0].shape)}: one label a class is expected."
        )
    return description.labels


def _batch(brought: Brought, name: str) -> int | None:
    """The batch, where the graph has a fixed one. Raises BroughtError where tensors have none."""
    for spec in (*brought.inputs, *brought.outputs):
        if not spec.shape:
            raise BroughtError(
                f"{name}: the tensor {spec.name!r} is a single value. Every input and output needs a batch as its "
                "first size: wrap the model so that it has, and save it again."
            )
    sizes = {spec.shape[0] for spec in brought.inputs} - {None}
    if len(sizes) > 1:
        raise BroughtError(
            f"{name}: its inputs have different first sizes, {sorted(sizes, key=str)}: which is the batch?"
        )
    return sizes.pop() if sizes else None


def _free(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The batch is free in every artifact; a runtime that takes one alone is asked piece by piece."""
    return tuple(replace(spec, shape=(None, *spec.shape[1:])) for spec in specs)


def _picture(brought: Brought, description: Description, name: str) -> tuple[ImageSpec, str] | None:
    """The picture that the model takes, and the layout that its graph has it in; None when it takes something else."""
    first, *others = brought.inputs
    said = description.preprocess
    if others or len(first.shape) != 4 or first.dtype not in ("float32", "float16", "uint8"):
        if said is not None and said != Preprocess():
            raise BroughtError(
                f"PREPROCESS is for pictures, and {name} takes {_described(brought.inputs)}: leave it out."
            )
        return None
    layout = said.layout if said and said.layout else _layout(first.shape)
    if layout is None:
        if said is None:
            return None
        raise BroughtError(
            f"{name} takes {_described(brought.inputs)}, and nothing tells which size is the channels'. "
            'Say PREPROCESS="layout=NHWC channels=3 size=224", or NCHW.'
        )
    sizes = first.shape[1:] if layout == "NHWC" else (*first.shape[2:], first.shape[1])
    told = ((said.size or (None, None)) if said else (None, None)) + ((said.channels if said else None),)
    wanted: list[int] = []
    for which, in_file, by_person in zip(("height", "width", "channels"), sizes, told, strict=True):
        if in_file and by_person and in_file != by_person:
            raise BroughtError(f"{name} takes a {which} of {in_file}, but PREPROCESS says {by_person}.")
        if not (in_file or by_person):
            setting = "channels=3" if which == "channels" else "size=224"
            raise BroughtError(f'{name} takes pictures of any {which}: say which one to ship, PREPROCESS="{setting}".')
        wanted.append(in_file or by_person or 0)
    height, width, channels = wanted
    if channels not in CHANNELS:
        return None
    return ImageSpec(height, width, channels, fit=said.fit if said else "contain"), layout


def _layout(shape: Sequence[int | None]) -> str | None:
    """Where a size is 1 or 3, channels are meant; the last one wins, as pictures come like that."""
    if shape[3] in CHANNELS:
        return "NHWC"
    return "NCHW" if shape[1] in CHANNELS else None


def _for_pictures(
    around: Around, brought: Brought, description: Description, picture: tuple[ImageSpec, str], name: str
) -> Around:
    image, layout = picture
    (first,) = brought.inputs
    said = description.preprocess
    if said is None:
        if not (brought.scales or first.dtype == "uint8"):
            raise BroughtError(
                f"{name} takes pictures ({image.height}x{image.width}, {image.channels} channels), and the file does "
                "not tell how pixels 0..255 become its input. Say PREPROCESS=unit for 0..1, symmetric for -1..1, "
                "imagenet for ImageNet's mean and deviation, none for pixels as they are, or the numbers: "
                'PREPROCESS="scale=1/255 mean=0.5,0.5,0.5 std=0.25,0.25,0.25".'
            )
        said = Preprocess()
    needed = said.changes_values or layout == "NCHW" or said.order == "BGR" or first.dtype == "float16"
    if first.dtype == "uint8" and said.changes_values:
        raise BroughtError(f"{name} takes pixels as bytes: PREPROCESS cannot change their values. Leave it out.")
    if needed and not brought.can_wrap:
        # It is served for tensors: a picture would be fed wrongly.
        return around
    dtype = "uint8" if first.dtype == "uint8" else "float32"
    pixels = TensorSpec("pixels" if brought.can_wrap else first.name, dtype, (None, *image.shape), "NHWC")
    preprocess = replace(said, layout=layout) if needed else None
    return replace(around, inputs=(pixels,), image=image, preprocess=preprocess)


def _probed(around: Around, brought: Brought, name: str) -> tuple[Around, list[NDArray[Any]]]:
    """Ask the graph, as the file has it, a few rows. Raises BroughtError when its answers are none."""
    specs = tuple(_asked(spec, around) for spec in brought.inputs)
    whole = any(np.dtype(spec.dtype).kind in "iu" for spec in specs if spec.dtype not in ("bytes", "bfloat16"))
    reason = ""
    for below in BELOW if whole and around.image is None else BELOW[-1:]:
        inputs = invented(specs, around.batch or ROWS, below)
        try:
            answers = [np.asarray(answer) for answer in brought.predict(inputs)]
        except Exception as error:  # a framework may raise anything; a smaller bound may do
            reason = one_line(error, 500)
            continue
        _check_answers(answers, brought, specs, below, name)
        return replace(around, below=below), answers
    raise BroughtError(f"{name} was read, but does not answer {_described(brought.inputs)}: {reason}")


def _asked(spec: TensorSpec, around: Around) -> TensorSpec:
    """With the sizes of the picture that is shipped, in the graph's own layout."""
    if around.image is None:
        return spec
    height, width, channels = around.image.shape
    is_nchw = around.preprocess is not None and around.preprocess.layout == "NCHW"
    sizes = (channels, height, width) if is_nchw else (height, width, channels)
    return replace(spec, shape=(spec.shape[0], *sizes))


def _check_answers(
    answers: list[NDArray[Any]], brought: Brought, specs: Sequence[TensorSpec], below: int, name: str
) -> None:
    numbers = [answer for answer in answers if answer.dtype.kind == "f"]
    if any(np.isnan(answer).any() for answer in numbers):
        raise BroughtError(
            f"{name} answers NaN, not a number, to ordinary input: no format of it could be compared. "
            "Its weights, or an operation such as log(0), are to blame: repair it first."
        )
    rows = len(answers[0])
    others = brought.predict(invented(specs, rows, below, seed=1))
    if all(np.array_equal(one, np.asarray(other)) for one, other in zip(answers, others, strict=True)):
        raise BroughtError(
            f"The answers of {name} do not depend on its input: every conversion of it would look right. "
            "Is it the trained model?"
        )


def _measured(specs: Sequence[TensorSpec], answers: Sequence[NDArray[Any]]) -> tuple[TensorSpec, ...]:
    """Output shapes as they came, where the file left sizes open that do not vary; the rank at least."""
    found = []
    for spec, answer in zip(specs, answers, strict=True):
        known = spec.shape[1:] if len(spec.shape) == answer.ndim else (None,) * (answer.ndim - 1)
        found.append(replace(spec, shape=(None, *known)))
    return tuple(found)


def _classes(around: Around) -> int:
    """How many classes the first output tells apart; 0 when it does something else."""
    first = around.outputs[0]
    is_table = len(first.shape) == 2 and first.dtype.startswith(("float", "bfloat"))
    return (first.shape[1] or 0) if is_table and (first.shape[1] or 0) > 1 else 0


def _looks_like_logits(answers: NDArray[Any], description: Description, around: Around) -> bool:
    if description.answers is not None:
        return description.answers == "logits"
    rows = answers.astype(np.float64)
    are_probabilities = bool((rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=1e-3))
    return not are_probabilities and (around.image is not None or bool(description.labels))


def _described(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(
        f"{spec.name}: {spec.dtype} {['any' if size is None else size for size in spec.shape]}" for spec in specs
    )
