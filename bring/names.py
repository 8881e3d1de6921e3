"""The names of a brought model's tensors: one rule, which every reader follows.

A name becomes a key in every format, and an argument of a function in some. So it is letters of ASCII, digits and _,
begins with a letter, is not a word of Python, and no other input or output has it: no dictionary can lose a tensor.
"""

import itertools
import keyword
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

from contract.manifest import TensorSpec

FIRST = ":0"
"""How TensorFlow marks the first output of an operator, which is mostly its only one."""
TAKEN = {*keyword.kwlist, "self"}
"""Words that no argument can have as its name."""
SHOWN = 6
"""How many changes of names are told."""


class Named(NamedTuple):
    """The tensors of a file, under names of their own."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    renamed: str
    """Which names are others than in the file, for people; empty where all are the same."""


def own(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Named:
    """The tensors of a file, which have its own names there, in their order."""
    specs = [*inputs, *outputs]
    names = unique([spec.name for spec in specs])
    named = tuple(replace(spec, name=name) for spec, name in zip(specs, names, strict=True))
    return Named(named[: len(inputs)], named[len(inputs) :], changes([spec.name for spec in specs], names))


def unique(names: Sequence[str]) -> list[str]:
    """A name of its own for each tensor, in their order. What can keep its name does."""
    wanted = [clean(name) for name in names]
    results = [""] * len(names)
    for place in sorted(range(len(names)), key=lambda place: wanted[place] != names[place]):
        results[place] = unlike(wanted[place], {*results, *wanted}) if wanted[place] in results else wanted[place]
    return results


def clean(name: str) -> str:
    """The name as every format takes it."""
    letters = re.sub(r"[^A-Za-z0-9_]", "_", name.removesuffix(FIRST))
    if not re.match("[A-Za-z]", letters):
        letters = f"tensor_{letters.strip('_')}".rstrip("_")
    return f"{letters}_" if letters in TAKEN else letters


def unlike(name: str, taken: Collection[str]) -> str:
    """The name with the first number with which it is another than all that are taken."""
    return next(each for each in (f"{name}_{number}" for number in itertools.count(1)) if each not in taken)


def changes(old: Sequence[str], new: Sequence[str]) -> str:
    """Which tensors have other names than in their file, for people; empty where none has.

    That a dot or a slash is _ here is not told.
    """
    pairs = zip(old, new, strict=True)
    changed = [f"{was!r} is {name}" for was, name in pairs if re.sub(r"\W", "_", was.removesuffix(FIRST)) != name]
    if not changed:
        return ""
    more = f", and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
    return f"Tensors have other names than in the file: {', '.join(changed[:SHOWN])}{more}."
