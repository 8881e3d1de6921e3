"""What an artifact takes and answers, and the pre- and post-processing to add around its graph.

It is worked out from the file and from what the user says about it. What neither says is asked for, in an error.
"""

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
PROBE_ROWS = 8
"""How many invented rows a model answers, to see what its answers look like."""
INTEGER_BOUNDS = (1000, 100, 10, 2)
"""Bounds to try for integers, which may be indices into a table whose size is not in the file."""


@dataclass(frozen=True)
class Wrapping:
    """Pre- and post-processing added around a graph, and the tensors of the result."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    image: ImageSpec | None = None
    """The picture that is the input; None when the model takes something else."""
    preprocess: Preprocess | None = None
    """None: the graph takes the input as it is. Its `layout` is the graph's own."""
    softmax: bool = False
    """Whether a softmax follows the first output."""
    batch: int | None = None
    """Fixed batch size, or None if any batch is accepted."""
    integer_bound: int = INTEGER_BOUNDS[-1]
    """Invented integers for its inputs stay below this."""

    @property
    def is_nothing(self) -> bool:
        return self.preprocess is None and not self.softmax

    def affine(self) -> tuple[list[float], list[float]]:
        """The preprocessing as `pixels * factor + offset`: one of each per channel, in the graph's channel order."""
        assert self.preprocess is not None and self.image is not None
        channels = self.image.channels
        mean, std = (
            np.resize(values, channels).astype(np.float64) for values in (self.preprocess.mean, self.preprocess.std)
        )
        return (self.preprocess.scale / std).tolist(), (-mean / std).tolist()


class Source(Protocol):
    """A model read from a user's file, as it is."""

    format: str
    """Of the artifact that it becomes."""
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    """As in the file; the first size of each shape is the batch, None where any is accepted."""
    scales: bool
    """Whether the graph begins with arithmetic on its input, so that it takes pixels 0..255."""
    can_wrap: bool
    """Whether pre- and post-processing can be added around the graph."""
    can_predict: bool
    """Whether `predict` can run it here."""

    def predict(self, inputs: Arrays) -> Sequence[NDArray[Any]]:
        """The outputs in their order."""

    def write(self, folder: Path, wrapping: Wrapping) -> Sequence[Path]:
        """Write the artifact's files into `folder`, and return them."""


def plan(source: Source, description: Description, name: str) -> Wrapping:
    """What to add around the graph. Raises BroughtError, which asks for what neither file nor description says."""
    batch = _batch(source, name)
    wrapping = Wrapping(_with_any_batch(source.inputs), _with_any_batch(source.outputs), batch=batch)
    if (image := _image(source, description, name)) is not None:
        wrapping = _for_pictures(wrapping, source, description, image, name)
    if not source.can_predict:
        return wrapping
    wrapping, answers = _probe(wrapping, source, name)
    wrapping = replace(wrapping, outputs=_with_rank_of(answers, wrapping.outputs))
    if _classes(wrapping) and _looks_like_logits(answers[0], description, wrapping):
        wrapping = replace(wrapping, softmax=source.can_wrap)
    if wrapping.softmax or (wrapping.image and _classes(wrapping) and source.can_wrap):
        first, *others = wrapping.outputs
        wrapping = replace(wrapping, outputs=(replace(first, name="probabilities"), *others))
    return wrapping


def labels_of(wrapping: Wrapping, description: Description, name: str) -> tuple[str, ...]:
    """A label for each class; empty for a model that does not classify. Raises BroughtError for another number."""
    classes = _classes(wrapping)
    if not description.labels:
        if classes and len(description.classes) == classes:
            return description.classes
        return tuple(f"class {number}" for number in range(classes)) if wrapping.image else ()
    if len(description.labels) != classes:
        raise BroughtError(
            f"Got {len(description.labels)} labels for {name}, whose answers {list(wrapping.outputs[0].shape)} have "
            f"{classes or 'no'} classes: expected one label for each class."
        )
    return description.labels


def _batch(source: Source, name: str) -> int | None:
    """Fixed batch size, or None if any batch is accepted. Raises BroughtError where a tensor has no batch."""
    for spec in (*source.inputs, *source.outputs):
        if not spec.shape:
            raise BroughtError(
                f"{name}: the tensor {spec.name!r} is a single value. Every input and output needs a batch as its "
                "first size: wrap the model to add one, and save it again."
            )
    sizes = {spec.shape[0] for spec in source.inputs} - {None}
    if len(sizes) > 1:
        raise BroughtError(
            f"{name}: its inputs have different first sizes, {sorted(sizes, key=str)}: which is the batch?"
        )
    return sizes.pop() if sizes else None


def _with_any_batch(specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Every artifact accepts any batch: a runtime that takes a fixed one is called piece by piece."""
    return tuple(replace(spec, shape=(None, *spec.shape[1:])) for spec in specs)


def _image(source: Source, description: Description, name: str) -> tuple[ImageSpec, str] | None:
    """The picture that the model takes, and its layout in the graph; None when the model takes something else."""
    first, *others = source.inputs
    preprocess = description.preprocess
    if others or len(first.shape) != 4 or first.dtype not in ("float32", "float16", "uint8"):
        if preprocess is not None and preprocess != Preprocess():
            raise BroughtError(
                f"PREPROCESS is for pictures, and {name} takes {_shapes(source.inputs)}: leave PREPROCESS out."
            )
        return None
    layout = preprocess.layout if preprocess and preprocess.layout else _layout(first.shape)
    if layout is None:
        if preprocess is None:
            return None
        raise BroughtError(
            f"{name} takes {_shapes(source.inputs)}: which size is the channels' cannot be seen. "
            'Set PREPROCESS="layout=NHWC channels=3 size=224", or NCHW.'
        )
    sizes = first.shape[1:] if layout == "NHWC" else (*first.shape[2:], first.shape[1])
    height, width, channels = _picture_sizes(sizes, preprocess or Preprocess(), name)
    if channels not in CHANNELS:
        return None
    return ImageSpec(height, width, channels, fit=preprocess.fit if preprocess else "contain"), layout


def _picture_sizes(in_file: Sequence[int | None], preprocess: Preprocess, name: str) -> list[int]:
    """Height, width and channels. Raises BroughtError where file and description disagree, or neither has one."""
    sizes: list[int] = []
    described = (*(preprocess.size or (None, None)), preprocess.channels)
    for which, known, wanted in zip(("height", "width", "channels"), in_file, described, strict=True):
        if known and wanted and known != wanted:
            raise BroughtError(f"{name} takes a {which} of {known}, but PREPROCESS says {wanted}.")
        if not (known or wanted):
            setting = "channels=3" if which == "channels" else "size=224"
            raise BroughtError(
                f'{name} takes pictures of any {which}: choose the one to ship, such as PREPROCESS="{setting}".'
            )
        sizes.append(known or wanted or 0)
    return sizes


def _layout(shape: Sequence[int | None]) -> str | None:
    """A size of 1 or 3 is the channels; where both could be, the last one is, as pictures are usually stored."""
    if shape[3] in CHANNELS:
        return "NHWC"
    return "NCHW" if shape[1] in CHANNELS else None


def _for_pictures(
    wrapping: Wrapping, source: Source, description: Description, picture: tuple[ImageSpec, str], name: str
) -> Wrapping:
    image, layout = picture
    (first,) = source.inputs
    preprocess = description.preprocess
    if preprocess is None:
        if not (source.scales or first.dtype == "uint8"):
            raise BroughtError(
                f"{name} takes pictures ({image.height}x{image.width}, {image.channels} channels), and the file does "
                "not say how pixels 0..255 become its input. Set PREPROCESS=unit for 0..1, symmetric for -1..1, "
                "imagenet for ImageNet's mean and deviation, none for pixels as they are, or the numbers: "
                'PREPROCESS="scale=1/255 mean=0.5,0.5,0.5 std=0.25,0.25,0.25".'
            )
        preprocess = Preprocess()
    is_needed = preprocess.changes_values or layout == "NCHW" or preprocess.order == "BGR" or first.dtype == "float16"
    if first.dtype == "uint8" and preprocess.changes_values:
        raise BroughtError(f"{name} takes pixels as bytes: PREPROCESS cannot change their values. Leave it out.")
    if is_needed and not source.can_wrap:
        # It is served for tensors: a picture would reach it without its preprocessing.
        return wrapping
    dtype = "uint8" if first.dtype == "uint8" else "float32"
    pixels = TensorSpec("pixels" if source.can_wrap else first.name, dtype, (None, *image.shape), "NHWC")
    needed = replace(preprocess, layout=layout) if is_needed else None
    return replace(wrapping, inputs=(pixels,), image=image, preprocess=needed)


def _probe(wrapping: Wrapping, source: Source, name: str) -> tuple[Wrapping, list[NDArray[Any]]]:
    """Run the graph, as in the file, on a few rows. Raises BroughtError when it does not answer or answers nonsense."""
    specs = tuple(_probe_spec(spec, wrapping) for spec in source.inputs)
    has_integers = any(np.dtype(spec.dtype).kind in "iu" for spec in specs if spec.dtype not in ("bytes", "bfloat16"))
    reason = ""
    for bound in INTEGER_BOUNDS if has_integers and wrapping.image is None else INTEGER_BOUNDS[-1:]:
        inputs = invented(specs, wrapping.batch or PROBE_ROWS, bound)
        try:
            answers = [np.asarray(answer) for answer in source.predict(inputs)]
        except Exception as error:  # a framework may raise anything; a smaller bound may work
            reason = one_line(error, 500)
            continue
        _check_answers(answers, source, specs, bound, name)
        return replace(wrapping, integer_bound=bound), answers
    raise BroughtError(f"{name} was read, but does not answer {_shapes(source.inputs)}: {reason}")


def _probe_spec(spec: TensorSpec, wrapping: Wrapping) -> TensorSpec:
    """With the sizes of the picture that is shipped, in the graph's own layout."""
    if wrapping.image is None:
        return spec
    height, width, channels = wrapping.image.shape
    is_nchw = wrapping.preprocess is not None and wrapping.preprocess.layout == "NCHW"
    sizes = (channels, height, width) if is_nchw else (height, width, channels)
    return replace(spec, shape=(spec.shape[0], *sizes))


def _check_answers(
    answers: list[NDArray[Any]], source: Source, specs: Sequence[TensorSpec], bound: int, name: str
) -> None:
    floats = [answer for answer in answers if answer.dtype.kind == "f"]
    if any(np.isnan(answer).any() for answer in floats):
        raise BroughtError(
            f"{name} answers NaN, not a number, to ordinary input: no format of it could be compared. "
            "Its weights, or an operation such as log(0), are to blame: repair it first."
        )
    others = source.predict(invented(specs, len(answers[0]), bound, seed=1))
    if all(np.array_equal(answer, np.asarray(other)) for answer, other in zip(answers, others, strict=True)):
        raise BroughtError(
            f"The answers of {name} do not depend on its input: every conversion of it would look right. "
            "Is it the trained model?"
        )


def _with_rank_of(answers: Sequence[NDArray[Any]], specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The output specs, with free sizes where the file has another number of sizes than the answers."""
    measured = []
    for spec, answer in zip(specs, answers, strict=True):
        sizes = spec.shape[1:] if len(spec.shape) == answer.ndim else (None,) * (answer.ndim - 1)
        measured.append(replace(spec, shape=(None, *sizes)))
    return tuple(measured)


def _classes(wrapping: Wrapping) -> int:
    """The number of classes in the first output; 0 when the model does not classify."""
    first = wrapping.outputs[0]
    is_table = len(first.shape) == 2 and first.dtype.startswith(("float", "bfloat"))
    return (first.shape[1] or 0) if is_table and (first.shape[1] or 0) > 1 else 0


def _looks_like_logits(answers: NDArray[Any], description: Description, wrapping: Wrapping) -> bool:
    if description.answers is not None:
        return description.answers == "logits"
    rows = answers.astype(np.float64)
    are_probabilities = bool((rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=1e-3))
    return not are_probabilities and (wrapping.image is not None or bool(description.labels))


def _shapes(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(
        f"{spec.name}: {spec.dtype} {['any' if size is None else size for size in spec.shape]}" for spec in specs
    )
