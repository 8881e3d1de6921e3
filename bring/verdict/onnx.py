"""ONNX files, from their bytes: operators, opset, and where the weights are. ONNX is not imported.

The numbers are those of the fields in onnx.proto. External data is not read.
"""

from collections.abc import Iterator
from pathlib import Path

from bring.verdict import operators
from bring.verdict.findings import Examination, Finding, few, leaves, mapped, part_of
from contract.wire import Bytes, decoded, messages, numbers, parts, text

NEWEST_OPSET = 24
"""Of ONNX 1.19, which the converters read; a test compares it."""
OWN = ("", "ai.onnx")
MEMORY = "_ORT_MEM_ADDR_"
"""Part of a place of weights by which ONNX Runtime means an address in its own memory, not a file."""
EXTERNAL = 1


def file(path: Path, max_bytes: int) -> Examination:
    """Judge an .onnx file. Raises BroughtError if a file with its weights is missing or truncated."""
    model = mapped(path)
    graphs = list(messages(model, 7))
    if not all(any(True for graph in graphs for _ in messages(graph, field)) for field in (1, 12)):
        raise ValueError("it has no graph with outputs")
    names, tensors = _contents(model)
    local = {_name(text(function, 10), text(function, 1)) for function in messages(model, 25)}
    local -= operators.purposes("onnx").keys()  # a function does not make an operator of the same name harmless
    judged = [name for name in names if name not in local]
    findings = list(operators.findings(judged, "onnx", "ONNX's or ONNX Runtime's"))
    findings += _of_opset(model)
    files: dict[str, Path | None] = {}
    for tensor in tensors:
        findings += _of_place(path, tensor, files)
    return Examination("onnx", findings, tuple({path: None} | dict.fromkeys(filter(None, files.values()))))


def places(model: Bytes) -> list[str]:
    """The paths of files with weights that are written in the model, in order, as they are written.

    Raises ValueError if it is damaged.
    """
    _, tensors = _contents(model)
    return sorted({place for tensor in tensors for key, place in _external(tensor) if key == "location"})


def _contents(model: Bytes) -> tuple[dict[str, None], list[Bytes]]:
    """The names of all operators, and all tensors, of the graphs, those of training, and the functions."""
    graphs = [(graph, 1) for graph in messages(model, 7)]
    for training in messages(model, 20):
        graphs += [(graph, 1) for graph in (*messages(training, 1), *messages(training, 2))]
    graphs += [(function, 7) for function in messages(model, 25)]  # a function has its nodes in the field 7, not 1
    names: dict[str, None] = {}
    tensors: list[Bytes] = []
    while graphs:
        _look_into(*graphs.pop(), graphs, names, tensors)
    return names, tensors


def _external(tensor: Bytes) -> list[tuple[str, str]]:
    """Key and value of all that a tensor says of its place outside."""
    return [(text(entry, 1), text(entry, 2)) for entry in messages(tensor, 13)]


def _look_into(
    graph: Bytes, node_field: int, graphs: list[tuple[Bytes, int]], names: dict[str, None], tensors: list[Bytes]
) -> None:
    """Add the operators and tensors of a graph or function, and the graphs in attributes (If, Loop, Scan)."""
    for number, value in parts(graph):
        if number == node_field:
            operator = domain = ""
            for field, part in parts(value):
                if field == 4:
                    operator = decoded(part)
                elif field == 7:
                    domain = decoded(part)
                elif field == 5:
                    _look_into_attribute(part, graphs, tensors)
            names[_name(domain, operator)] = None
        elif number == 11 and node_field == 7:  # a default of a function's attribute
            _look_into_attribute(value, graphs, tensors)
        elif number == 5 and node_field == 1:
            tensors.append(value)
        elif number == 15 and node_field == 1:
            tensors += _of_sparse(value)


def _look_into_attribute(attribute: Bytes, graphs: list[tuple[Bytes, int]], tensors: list[Bytes]) -> None:
    for number, value in parts(attribute):
        if number in (6, 11):
            graphs.append((value, 1))
        elif number in (5, 10):
            tensors.append(value)
        elif number in (22, 23):
            tensors += _of_sparse(value)


def _of_sparse(tensor: Bytes) -> Iterator[Bytes]:
    """The values and the indices of a sparse tensor."""
    return (value for number, value in parts(tensor) if number in (1, 2))


def _of_opset(model: Bytes) -> Iterator[Finding]:
    """A finding on an opset that the converters do not know yet."""
    opset = 0
    for entry in messages(model, 8):
        if text(entry, 1) in OWN:
            opset = max([opset, *numbers(entry, 2)])
    if opset > NEWEST_OPSET:
        newest = f"opset_version={NEWEST_OPSET}"
        yield Finding(f"its opset is {opset}, newer than {NEWEST_OPSET}. Export it with {newest}.", False)


def _of_place(path: Path, tensor: Bytes, files: dict[str, Path | None]) -> Iterator[Finding]:
    """Findings on weights outside of the folder. Raises BroughtError where they are missing or cut off.

    A place becomes one of the `files`, or None where it is outside. Many weights share one: it is looked up once.
    """
    places = [number & 0xFFFFFFFF for number in numbers(tensor, 14)]  # as the readers cut them off
    if places[-1:] != [EXTERNAL]:
        return
    name = text(tensor, 8)
    entries = _external(tensor)
    locations = [value for key, value in entries if key == "location"] or [""]
    known = dict(entries)
    for location in locations:
        if location not in files:
            outside = not location or MEMORY in location or leaves(path.parent, location)
            files[location] = None if outside else part_of(path.parent, location, path)
        if (part := files[location]) is None:
            yield Finding(f"the weights {few([name])} lie outside of its folder, in {few([location])}", False)
        else:
            needed = int(known.get("offset") or 0) + int(known.get("length") or 0)
            if needed > part.stat().st_size:
                part_of(path.parent, location, path, at_least=needed)


def _name(domain: str, operator: str) -> str:
    return operator if domain in OWN else f"{domain}::{operator}"
