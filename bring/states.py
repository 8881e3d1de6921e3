"""A state that a model kept inside its file, and takes and answers with now."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bring.wrapping import Source, Wrapping

SHOWN = 6
"""How many states are named to people."""

LISTED = 64
"""How many values of a first state a manifest has, where they are not all the same."""


def first_value(values: NDArray[Any]) -> Any:
    """What a state is at first: a number where its values are all the same, else a list; None if it cannot be told."""
    if not np.isfinite(values).all():
        return None
    if not values.size or (values == values.flat[0]).all():
        return values.flat[0].item() if values.size else 0
    return values.tolist() if values.size <= LISTED else None


def recorded(source: Source, wrapping: Wrapping) -> dict[str, Any]:
    """For the manifest's `made_with`: `states`, each state's input and output, and `first_states` where any is not 0.

    Empty for a model without such states. The names are the artifact's.
    """
    states: Mapping[str, str] = getattr(source, "states", {})
    if not states:
        return {}
    before, after = ((*each.inputs, *each.outputs) for each in (source, wrapping))
    names = {old.name: new.name for old, new in zip(before, after, strict=True)}
    first: Mapping[str, Any] = getattr(source, "first_states", {})
    others = {names[state]: value for state, value in first.items() if value != 0}
    record: dict[str, Any] = {"states": {names[entry]: names[exit] for entry, exit in states.items()}}
    return record | ({"first_states": others} if others else {})


def note(record: Mapping[str, Any], file: str) -> str:
    """What people should know about what `recorded` returned; empty without states."""
    states: Mapping[str, str] = record.get("states", {})
    if not states:
        return ""
    alike: dict[str, list[str]] = {}
    for state in states:
        alike.setdefault(_words(record.get("first_states", {}).get(state, 0)), []).append(state)
    given = ", and ".join(f"{_listed(group)} {words}" for words, group in alike.items())
    return (
        f"{file} keeps a state between its calls: it is among the inputs and outputs now. Give {given} at first, and "
        f"then what {_listed(list(states.values()))} answered."
    )


def _listed(names: Sequence[str]) -> str:
    if len(names) > SHOWN:
        return f"{', '.join(names[:SHOWN])} and {len(names) - SHOWN} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _words(value: Any) -> str:
    if isinstance(value, list):
        return "the values of first_states in the manifest"
    return f"{value} in all places" if value else "zeros"
