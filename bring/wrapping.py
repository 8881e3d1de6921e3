"""What an artifact takes and answers, and the pre- and post-processing to add around its graph.

It is worked out from the file and from what the user says about it. What neither says is asked for, in an error.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bring import axes, names
from bring.description import FILE, Description, Preprocess
from bring.inputs import described
from bring.probe import INTEGER_BOUNDS, Predicts, Probe, shapes_of
from contract.errors import BroughtError
from contract.manifest import ImageSpec, TensorSpec

CHANNELS = (1, 3)


@dataclass(frozen=True)
class Wrapping:
    """Pre- and post-processing added around a graph, and the tensors of the result."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    image: ImageSpec | None = None
    """The picture that is the input; None when the model takes something else."""
    preprocess: Preprocess | None = None
    """None: the graph takes the input as it is. Its `layout` is the graph's own."""
    ending: tuple[str, ...] = ()
    """What follows the first output: "softmax"; "sigmoid"; "both", which makes 1 - p and p of one probability p."""
    batch: int | None = None
    """Fixed batch size, or None if any batch is accepted."""
    notes: tuple[str, ...] = ()
    """What people should know about it."""
    integer_bound: int = INTEGER_BOUNDS[-1]
    """Invented integers for its inputs stay below this."""

    @property
    def has_rows(self) -> bool:
        """Whether each tensor begins with the batch."""
        return all(spec.batch_axis == 0 for spec in (*self.inputs, *self.outputs))

    @property
    def is_nothing(self) -> bool:
        return self.preprocess is None and not self.ending

    def affine(self) -> tuple[list[float], list[float]]:
        """The preprocessing as `pixels * factor + offset`: one of each per channel, in the graph's channel order."""
        assert self.preprocess is not None and self.image is not None
        channels = self.image.channels
        mean, std = (
            np.resize(values, channels).astype(np.float64) for values in (self.preprocess.mean, self.preprocess.std)
        )
        return (self.preprocess.scale / std).tolist(), (-mean / std).tolist()


class Source(Predicts, Protocol):
    """A model read from a user's file, as it is."""

    format: str
    """Of the artifact that it becomes."""
    outputs: tuple[TensorSpec, ...]
    """As in the file; None in a shape is any size."""
    scales: bool
    """Whether the graph begins with arithmetic on its input, so that it takes pixels 0..255."""
    can_wrap: bool
    """Whether pre- and post-processing can be added around the graph."""
    can_predict: bool
    """Whether `predict` can run it here."""
    fit: str
    """How the usual loaders of the framework that made it fit pictures of another shape: see contract/image.py."""
    renamed: str
    """Which tensors have other names than in the file (bring/names.py); empty where none has."""

    def write(self, folder: Path, wrapping: Wrapping) -> Sequence[Path]:
        """Write the artifact's files into `folder`, and return them."""


class Stateful(Source, Protocol):
    """A model whose file kept a state inside; it is among the inputs and outputs here. Other readers say nothing."""

    states: Mapping[str, str]
    """State's input -> its output, by the names of `inputs` and `outputs`."""
    first_states: Mapping[str, Any]
    """State's input -> what it is at first: a number for all its values, or a list; what is left out begins with 0."""


def plan(source: Source, description: Description, name: str) -> Wrapping:
    """What to add around the graph. Raises BroughtError, which asks for what neither file nor description says."""
    wrapping = _planned(source, description, name)
    # The names that are given here may be those of other tensors of the file.
    inputs, outputs, renamed = names.own(wrapping.inputs, wrapping.outputs)
    return replace(wrapping, inputs=inputs, outputs=outputs, notes=(*wrapping.notes, *filter(None, [renamed])))


def _planned(source: Source, description: Description, name: str) -> Wrapping:
    source.inputs = described(source.inputs, description, name)
    picture = _image(source, description, name)
    signature = _signature(source, description, picture, name)
    source.inputs = signature.inputs
    wrapping = Wrapping(
        _accepted(signature.inputs, signature),
        _accepted(signature.outputs, signature),
        batch=signature.batch,
        notes=tuple(_corrections(source.outputs, signature.outputs)),
    )
    if picture is not None:
        wrapping = _for_pictures(wrapping, source, description, picture, name)
    if not source.can_predict:
        return wrapping
    probe = Probe(source, description, signature.batch, not signature.has_rows, wrapping.image, wrapping.preprocess)
    answers, bound = probe.run(name)
    wrapping = replace(wrapping, outputs=_as_answered(answers, wrapping.outputs), integer_bound=bound)
    classes = _classes(wrapping, description)
    is_one = _is_one_of_two(wrapping, description)
    _check_kind(answers[0], description, classes or 2 * is_one, name)
    if is_one and source.can_wrap:
        return _with_both(wrapping, answers[0], description)
    if classes and _looks_like_logits(answers[0], description, wrapping) and source.can_wrap:
        wrapping = replace(wrapping, ending=("softmax",))
    if wrapping.ending or (wrapping.image and classes and source.can_wrap):
        first, *others = wrapping.outputs
        wrapping = replace(wrapping, outputs=(replace(first, name="probabilities"), *others))
    return wrapping


def _is_one_of_two(wrapping: Wrapping, description: Description) -> bool:
    """Whether the first output is one value a row, of a model of which the user names two classes."""
    first, names = wrapping.outputs[0], description.labels or description.classes
    is_one = first.shape == (None, 1) and first.dtype.startswith(("float", "bfloat"))
    return is_one and wrapping.has_rows and len(names) == 2 and description.answers != "values"


def _with_both(wrapping: Wrapping, answers: NDArray[Any], description: Description) -> Wrapping:
    """With the probabilities of both classes in place of the second one's alone."""
    values = answers.astype(np.float64)
    is_probability = bool(((values >= 0) & (values <= 1)).all())
    is_logit = description.answers == "logits" or (description.answers is None and not is_probability)
    first, *others = wrapping.outputs
    both = replace(first, name="probabilities", shape=(None, 2))
    return replace(wrapping, ending=("sigmoid", "both") if is_logit else ("both",), outputs=(both, *others))


def labels_of(wrapping: Wrapping, description: Description, name: str) -> tuple[str, ...]:
    """A label for each class; empty for a model that does not classify. Raises BroughtError for another number."""
    classes = _classes(wrapping, description)
    if not description.labels:
        if classes and len(description.classes) == classes:
            return description.classes
        return tuple(f"class {number}" for number in range(classes)) if wrapping.image else ()
    if len(description.labels) != classes:
        shape = [-1 if size is None else size for size in wrapping.outputs[0].shape]
        raise BroughtError(
            f"LABELS or {FILE} gives {len(description.labels)} labels, and the answers of {name}, {shape}, have "
            f"{classes or 'no'} classes: expected one label for each class."
        )
    return description.labels


def _signature(
    source: Source, description: Description, picture: tuple[ImageSpec, str] | None, name: str
) -> axes.Signature:
    """The tensors, with what shows when the model is asked: the axis of the batch, and the least sizes."""
    if picture is not None:
        image, layout = picture
        height, width, channels = image.shape
        sizes = (height, width, channels) if layout == "NHWC" else (channels, height, width)
        source.inputs = (replace(source.inputs[0], shape=(source.inputs[0].shape[0], *sizes)),)
    if source.can_predict:
        return axes.find(source, source.outputs, description, name)
    firsts = {spec.shape[:1] for spec in source.inputs}
    batch = firsts.pop()[0] if len(firsts) == 1 and () not in firsts else None
    return axes.Signature(tuple(source.inputs), tuple(source.outputs), batch)


def _corrections(declared: Sequence[TensorSpec], answered: Sequence[TensorSpec]) -> Iterator[str]:
    """What the file says of its outputs, and the model answers otherwise."""
    for here, there in zip(declared, answered, strict=True):
        pairs = zip(here.shape[1:], there.shape[1:], strict=False)
        if len(here.shape) != len(there.shape) or any(size is not None and size != got for size, got in pairs):
            shapes = [["any" if size is None else size for size in spec.shape] for spec in (here, there)]
            yield f"the file says {shapes[0]} of its output {here.name}, which is {shapes[1]}: corrected."


def _accepted(specs: Sequence[TensorSpec], signature: axes.Signature) -> tuple[TensorSpec, ...]:
    """Rows are accepted in any number, also where the graph takes a fixed one: it is then called piece by piece."""
    return tuple(replace(spec, shape=spec.shape_at(None)) if signature.has_rows else spec for spec in specs)


def _image(source: Source, description: Description, name: str) -> tuple[ImageSpec, str] | None:
    """The picture that the model takes, and its layout in the graph; None when the model takes something else."""
    first, *others = source.inputs
    preprocess = description.preprocess
    if description.has_tensors:
        if preprocess is not None:
            raise BroughtError(
                f"{FILE} says what values the inputs of {name} take, and PREPROCESS makes its input a picture, of "
                "pixels 0..255. Leave one of them out."
            )
        return None
    if others or len(first.shape) != 4 or first.dtype not in ("float32", "float16", "uint8"):
        if preprocess is not None and preprocess != Preprocess():
            raise BroughtError(
                f"PREPROCESS is for pictures, and {name} takes {shapes_of(source.inputs)}: leave PREPROCESS out."
            )
        return None
    if _may_be_a_spectrogram(first, source) and not description.has_pictures:
        return None
    layout = preprocess.layout if preprocess and preprocess.layout else _layout(first.shape)
    if layout is None:
        if preprocess is None:
            return None
        raise BroughtError(
            f"{name} takes {shapes_of(source.inputs)}: which size is the channels' cannot be seen. "
            'Set PREPROCESS="layout=NHWC channels=3 size=224", or NCHW.'
        )
    sizes = first.shape[1:] if layout == "NHWC" else (*first.shape[2:], first.shape[1])
    height, width, channels = _picture_sizes(sizes, preprocess or Preprocess(), name)
    if channels not in CHANNELS:
        if preprocess is None:
            return None
        raise BroughtError(
            f"PREPROCESS is for pictures of 1 or 3 channels, and {name} takes {shapes_of(source.inputs)}, which has "
            f"{channels} channels as {layout}: correct the layout, or leave PREPROCESS out."
        )
    fit = preprocess.fit if preprocess and preprocess.fit else source.fit
    return ImageSpec(height, width, channels, fit=fit), layout


def _may_be_a_spectrogram(spec: TensorSpec, source: Source) -> bool:
    """Whether it has one channel, and another height than width, and nothing says that it takes pixels."""
    height, width, channels = spec.shape[1:] if spec.shape[3] == 1 else (*spec.shape[2:], spec.shape[1])
    is_known = None not in (height, width) and not source.scales and spec.dtype != "uint8"
    return is_known and channels == 1 and height != width


def _picture_sizes(in_file: Sequence[int | None], preprocess: Preprocess, name: str) -> list[int]:
    """Height, width and channels. Raises BroughtError where file and description disagree, or neither has one."""
    sizes: list[int] = []
    described = (*(preprocess.size or (None, None)), preprocess.channels)
    for which, known, wanted in zip(("height", "width", "channels"), in_file, described, strict=True):
        if known and wanted and known != wanted:
            raise BroughtError(f"PREPROCESS or {FILE} says a {which} of {wanted}, and {name} takes {known}.")
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


def _sized(preprocess: Preprocess) -> str:
    """The size that the user set, for a line to type."""
    return "size={}x{} ".format(*preprocess.size) if preprocess.size else ""


def _for_pictures(
    wrapping: Wrapping, source: Source, description: Description, picture: tuple[ImageSpec, str], name: str
) -> Wrapping:
    image, layout = picture
    (first,) = source.inputs
    preprocess = description.preprocess or Preprocess()
    if not (preprocess.says_values or source.scales or first.dtype == "uint8"):
        raise BroughtError(
            f"{name} takes pictures ({image.height}x{image.width}, {image.channels} channels), and nothing says how "
            "pixels 0..255 become its input. Set PREPROCESS=unit for 0..1, symmetric for -1..1, imagenet for "
            "ImageNet's mean and deviation, none for pixels as they are, or the numbers: "
            f'PREPROCESS="{_sized(preprocess)}scale=1/255 mean=0.5,0.5,0.5 std=0.25,0.25,0.25". If it takes no '
            "pictures, set KIND=tensors."
        )
    is_needed = preprocess.changes_values or layout == "NCHW" or preprocess.order == "BGR" or first.dtype == "float16"
    if first.dtype == "uint8" and preprocess.changes_values:
        raise BroughtError(f"{name} takes pixels as bytes: PREPROCESS cannot change their values. Leave it out.")
    if is_needed and not source.can_wrap:
        # It is served for tensors: a picture would reach it without its preprocessing.
        return wrapping
    dtype = "uint8" if first.dtype == "uint8" else "float32"
    rows = wrapping.inputs[0].shape[0]
    pixels = TensorSpec("pixels" if source.can_wrap else first.name, dtype, (rows, *image.shape), "NHWC")
    needed = replace(preprocess, layout=layout, fit=image.fit) if is_needed else None
    return replace(wrapping, inputs=(pixels,), image=image, preprocess=needed)


def _as_answered(answers: Sequence[NDArray[Any]], specs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The output specs in the answers' dtypes."""
    dtypes = ("bytes" if answer.dtype.kind in "OSU" else answer.dtype.name for answer in answers)
    return tuple(replace(spec, dtype=dtype) for spec, dtype in zip(specs, dtypes, strict=True))


def _classes(wrapping: Wrapping, description: Description) -> int:
    """The number of classes in the first output; 0 when the model does not classify."""
    first = wrapping.outputs[0]
    is_table = len(first.shape) == 2 and first.batch_axis == 0 and first.dtype.startswith(("float", "bfloat"))
    sizes = first.shape[1] if is_table and description.answers != "values" else None
    return sizes if sizes is not None and sizes > 1 else 0


def _check_kind(answers: NDArray[Any], description: Description, classes: int, name: str) -> None:
    """Raise BroughtError where the user says another kind of answers than the model gives."""
    kind, values = description.answers, answers.astype(np.float64) if answers.dtype.kind != "O" else np.zeros(0)
    shape = [-1, *answers.shape[1:]]
    if kind == "values" and description.labels:
        got = f"and there are {len(description.labels)} labels, which are for classes: leave one of them out"
    elif kind == "logits" and not classes:
        got = f"and the first output of {name} has the shape {shape}, not a logit for each class. Say values"
    elif kind == "logits" and _are_probabilities(values):
        got = f"and what {name} answers are probabilities already: they add up to 1. Leave it out"
    elif kind == "probabilities" and not bool(((values >= -1e-3) & (values <= 1 + 1e-3)).all()):
        got = f"and {name} answers {values.min():.4g} to {values.max():.4g}. Say logits, or values"
    else:
        return
    raise BroughtError(f"{FILE} or ANSWERS says that the answers are {kind}, {got}.")


def _are_probabilities(rows: NDArray[Any]) -> bool:
    return bool((rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=1e-3))


def _looks_like_logits(answers: NDArray[Any], description: Description, wrapping: Wrapping) -> bool:
    if description.answers is not None:
        return description.answers == "logits"
    is_classifier = wrapping.image is not None or bool(description.labels)
    return is_classifier and not _are_probabilities(answers.astype(np.float64))
