"""What the user says about inputs, beside what the file says: joined where it fits, and named where it does not."""

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from bring.description import FILE, Description, Input, nearest
from bring.rows import words_of
from contract.errors import BroughtError
from contract.manifest import TensorSpec
from contract.tensors import numpy_dtype
from verify.questions import Domain, known_domains

WEIGHTS_ALONE = "has only weights, which do not say what the inputs are"


def described(specs: Sequence[TensorSpec], description: Description, name: str) -> tuple[TensorSpec, ...]:
    """The file's inputs, with the sizes and the bounds of ids that the user says.

    Raises BroughtError where the user says something else than the file does.
    """
    known = {spec.name: spec for spec in specs}
    for entry in description.inputs:
        if entry.name not in known:
            raise BroughtError(
                f"{FILE} describes the input {entry.name!r}, which {name} does not have{nearest(entry.name, known)} "
                f"Its inputs: {', '.join(known)}."
            )
        known[entry.name] = _joined(known[entry.name], entry)
    return tuple(known.values())


def described_input(entry: Input, dtypes: Collection[str]) -> TensorSpec:
    """An input of which the file says nothing, as the user describes it, of these dtypes. Raises BroughtError."""
    dtype = entry.dtype or "float32"
    if entry.shape is None or dtype not in dtypes:
        problem = "no shape" if entry.shape is None else f"the dtype {dtype}"
        raise BroughtError(
            f"The file does not say it, and model.toml gives {problem} for the input {entry.name}: expected its "
            f"shape, such as [-1, 128], and one of the dtypes {', '.join(dtypes)}."
        )
    axis = 0 if entry.batch is None else entry.batch
    layout = "".join("N" if place == axis else "D" for place in range(len(entry.shape)))
    spec = TensorSpec(entry.name, dtype, entry.shape, layout)
    return replace(spec, shape=spec.shape_at(None))


def described_inputs(
    path: Path, description: Description, dtypes: Collection[str], what: str, called: Sequence[str] = ("tokens",)
) -> list[TensorSpec]:
    """The inputs, as the user describes them; `what` is the matter with the file, where the user does not."""
    if any(entry.shape is not None for entry in description.inputs):
        return [described_input(entry, dtypes) for entry in description.inputs]
    preprocess = description.preprocess
    if preprocess is None or preprocess.size is None:
        raise BroughtError(
            f'{path.name} {what}. For pictures set PREPROCESS="size=224 channels=3 scale=1/255"; for other tensors '
            "write them into model.toml, the batch first: "
            + "".join(
                f'\n\n    [[input]]\n    name = "{name}"\n    dtype = "float32"\n    shape = [-1, 128]'
                for name in called
            )
        )
    channels = preprocess.channels or 3
    shape = (*preprocess.size, channels) if preprocess.layout == "NHWC" else (channels, *preprocess.size)
    return [TensorSpec("pixels", "float32", (None, *shape), "NDDD")]


def suggestion(specs: Sequence[TensorSpec], description: Description) -> str:
    """What to type into model.toml about the inputs of which nothing is known; empty where there is none."""
    domains = known_domains(specs) | description.domains
    unknown = [spec for spec in specs if spec.name not in domains and spec.dtype != "bool" and not description.rows]
    if not unknown:
        return ""
    lines = [line for spec in unknown for line in ("[[input]]", f'name = "{spec.name}"', *_example(spec), "")]
    return f" If its inputs are others than these, say so in {FILE}, such as:\n\n    " + "\n    ".join(lines[:-1])


def rows_in_words(description: Description) -> str:
    """The rows that a model answers when it is brought, for people."""
    if description.rows is not None:
        return f"rows of {description.rows.name}"
    return f"invented rows{f' in the ranges of {FILE}' if description.domains else ''}"


def _example(spec: TensorSpec) -> list[str]:
    if spec.dtype == "bytes":
        return ['values = ["red", "green"]']
    is_whole = numpy_dtype(spec.dtype).kind in "iu"
    return ["vocabulary = 1000  # or range = [1, 12]"] if is_whole else ["range = [0.001, 1000]"]


def _joined(spec: TensorSpec, entry: Input) -> TensorSpec:
    if entry.dtype not in (None, spec.dtype):
        raise _contradiction(spec.name, "dtype", entry.dtype, spec.dtype)
    _check_domain(spec, entry)
    bounds = (0, entry.vocabulary - 1) if entry.vocabulary else spec.bounds
    if entry.batch is not None and entry.batch >= len(spec.shape):
        raise _contradiction(spec.name, "batch as its axis", entry.batch, f"{len(spec.shape)} axes")
    return replace(spec, shape=_shape(spec, entry), bounds=bounds)


def _shape(spec: TensorSpec, entry: Input) -> tuple[int | None, ...]:
    if entry.shape is None:
        return spec.shape
    pairs = list(zip(entry.shape, spec.shape, strict=False))
    if len(entry.shape) != len(spec.shape) or any(None not in pair and pair[0] != pair[1] for pair in pairs):
        shapes = ([-1 if size is None else size for size in shape] for shape in (entry.shape, spec.shape))
        raise _contradiction(spec.name, "shape", *shapes)
    if entry.batch == -1:
        return tuple(size if known is None else known for size, known in pairs)
    return (*spec.shape[:1], *(size if known is None else known for size, known in pairs[1:]))


def _check_domain(spec: TensorSpec, entry: Input) -> None:
    domain = entry.domain
    if domain is None:
        return
    is_text = bool(entry.values) and isinstance(entry.values[0], str)
    if is_text != (spec.dtype == "bytes") or (spec.dtype == "bool" and not entry.values):
        raise _contradiction(spec.name, "values", words_of(domain), f"the dtype {spec.dtype}")
    if spec.bounds and not _is_within(domain, spec.bounds):
        low, high = spec.bounds
        raise _contradiction(spec.name, "values", words_of(domain), f"a table for ids from {low} to {high}")
    if numpy_dtype(spec.dtype).kind in "iu" and not _holds(spec.dtype, domain):
        raise _contradiction(spec.name, "values", words_of(domain), f"the dtype {spec.dtype}")


def _is_within(domain: Domain, bounds: tuple[int, int]) -> bool:
    numbers = [float(value) for value in domain.values or (domain.low, domain.high)]
    return bounds[0] <= min(numbers) and max(numbers) <= bounds[1]


def _holds(dtype: str, domain: Domain) -> bool:
    """Whether an integer dtype has the domain's values."""
    limits, values = np.iinfo(dtype), [float(value) for value in domain.values]
    low, high = (min(values), max(values)) if values else (domain.low, domain.high)
    has_whole = all(value % 1 == 0 for value in values) if values else np.ceil(low) <= np.floor(high)
    return bool(has_whole) and limits.min <= low and high <= limits.max


def _contradiction(name: str, what: str, user: object, file: object) -> BroughtError:
    return BroughtError(
        f"{FILE} says the input {name} has the {what} {user}, the file says {file}. Correct {FILE}, or leave it out."
    )
