"""What makes a valid request a wrong one, each in a way of its own."""

from collections.abc import Callable
from typing import Any

from .wire import Model

Change = Callable[[dict[str, Any], Model], Any]
"""A valid request and its model -> the wrong request."""


def without(key: str) -> Change:
    return lambda request, model: {name: value for name, value in request.items() if name != key}


def first_input(**fields: Any) -> Change:
    """Other values for fields of the first input; None takes the field away, a function makes it of the input."""

    def change(request: dict[str, Any], model: Model) -> dict[str, Any]:
        tensor = request["inputs"][0]
        made = {name: value(tensor, model) if callable(value) else value for name, value in fields.items()}
        changed = {name: value for name, value in (tensor | made).items() if value is not None}
        return request | {"inputs": [changed, *request["inputs"][1:]]}

    return change


def another_datatype(tensor: dict[str, Any], model: Model) -> str:
    return "INT64" if tensor["datatype"] != "INT64" else "FP64"


def of_another_kind(tensor: dict[str, Any], model: Model) -> list[Any]:
    return [1 if tensor["datatype"] == "BYTES" else "text"] * len(tensor["data"])


REFUSED: dict[str, Change] = {
    "no inputs": without("inputs"),
    "an input missing": lambda request, model: request | {"inputs": request["inputs"][1:]},
    "an unknown input": first_input(name="no_input_has_this_name"),
    "an input without a name": first_input(name=None),
    "an unknown output": lambda request, model: request | {"outputs": [{"name": "no_output_has_this_name"}]},
    "another datatype": first_input(datatype=another_datatype),
    "an unknown datatype": first_input(datatype="FP31"),
    "no datatype": first_input(datatype=None),
    "no shape": first_input(shape=None),
    "a shape of another rank": first_input(shape=lambda tensor, model: [*tensor["shape"], 1]),
    "a fixed size changed": first_input(shape=lambda tensor, model: [*tensor["shape"][:-1], tensor["shape"][-1] + 1]),
    "a negative size": first_input(shape=lambda tensor, model: [-size for size in tensor["shape"]]),
    "a huge size": first_input(shape=lambda tensor, model: [2**62, *tensor["shape"][1:]]),
    "no data": first_input(data=None),
    "a value too few": first_input(data=lambda tensor, model: tensor["data"][:-1]),
    "a value too many": first_input(data=lambda tensor, model: [*tensor["data"], tensor["data"][0]]),
    "values of another kind": first_input(data=of_another_kind),
}

REFUSED_AS_JSON: dict[str, Change] = {
    "inputs that are not a list": lambda request, model: request | {"inputs": request["inputs"][0]},
    "outputs that are not a list": lambda request, model: request | {"outputs": model.outputs[0].name},
    "a fraction for a size": first_input(shape=lambda tensor, model: [size + 0.5 for size in tensor["shape"]]),
    "a size as text": first_input(shape=lambda tensor, model: [str(size) for size in tensor["shape"]]),
    "data that is not a list": first_input(data=7),
    "nulls for values": first_input(data=lambda tensor, model: [None] * len(tensor["data"])),
    "an id that is not a string": lambda request, model: request | {"id": {"a": 1}},
    "parameters that are not an object": lambda request, model: request | {"parameters": [1]},
}
"""Values of a kind that a message's fields do not take."""
