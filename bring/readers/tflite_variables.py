"""A TF Lite file whose variables are among its inputs and outputs.

A variable that a call reads before it writes it is a state: its first reading becomes an input, and the value that is
written last an output. One that is never written is a constant. VAR_HANDLE, READ_VARIABLE, ASSIGN_VARIABLE, CALL_ONCE
and the graphs that CALL_ONCE runs are left out.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from tensorflow.lite.python import schema_py_generated as schema

from bring import names
from contract.errors import one_line
from export.tflite_file import packed, unpacked

Code = schema.BuiltinOperator
VARIABLES = (Code.VAR_HANDLE, Code.READ_VARIABLE, Code.ASSIGN_VARIABLE)
TABLES = (Code.HASHTABLE, Code.HASHTABLE_IMPORT, Code.HASHTABLE_FIND, Code.HASHTABLE_SIZE)
WORDS = {number: name for name, number in vars(Code).items() if isinstance(number, int)}
"""An operator's number -> its name."""

Variable = tuple[bytes, bytes]
"""Its container and its name in the file."""


class StateStays(Exception):
    """Why a state cannot be put among the inputs and outputs, as a part of a sentence."""


@dataclass(frozen=True)
class Rewritten:
    """A file without variables."""

    content: bytes
    states: Mapping[str, str]
    """Input -> output, by the names of the signatures, and of the tensors; they come after the file's own."""
    first: Mapping[str, NDArray[Any]]
    """Input -> what the file begins with."""
    readings: Mapping[str, int]
    """Input -> the tensor, in the file as it was, that holds the state that a call begins with."""
    graph: int
    """The number of the graph that was rewritten, in the file as it was."""


def rewritten(content: bytes, signature: str | None) -> Rewritten:
    """The file with its states among the inputs and outputs of this signature; of the first graph without one.

    Raises StateStays.
    """
    model = unpacked(content)
    if model is None:
        raise StateStays("the file has more than 2 GB")
    number = next((each.subgraphIndex for each in _signatures(model) if _text(each.signatureKey) == signature), 0)
    graph, codes = model.subgraphs[number], _codes(model)
    walk = _Walk(graph, codes)
    once = list(dict.fromkeys(walk.once))
    _check_others(model, codes, number, once)
    first = _first_values(content, once)
    pairs = {variable: (reading, walk.values[variable]) for variable, reading in walk.readings.items()}
    for variable, (reading, value) in pairs.items():
        _check_tensors(graph, variable, reading, value, first)
        if variable not in walk.written:
            graph.tensors[reading].buffer = _buffer(model, first[variable])
    changing = {each: pairs[each] for each in walk.handles.values() if each in pairs and each in walk.written}
    readings = [reading for reading, _ in changing.values()]
    graph.operators, graph.inputs = walk.operators, [*_numbers(graph.inputs), *readings]
    outputs = [*map(walk.current, graph.outputs), *(value for _, value in changing.values())]
    placed = _apart(model, graph, outputs, readings)
    moved = dict(zip(_numbers(graph.outputs), placed, strict=False))
    graph.outputs, values = placed, placed[len(placed) - len(changing) :]
    states = _name(model, graph, [name for _, name in changing], readings, values)
    _extend_signatures(model, number, moved, states, readings, values)
    _leave_out_tensors(model, number, {*walk.handles, *walk.same})
    _leave_out_graphs(model, once)
    firsts = [first[variable] for variable in changing]
    return Rewritten(
        packed(model), states, dict(zip(states, firsts, strict=True)), dict(zip(states, readings, strict=True)), number
    )


@dataclass
class _Walk:
    """The variables of a graph, in the order of its operators. Raises StateStays."""

    graph: Any
    codes: Sequence[int]
    handles: dict[int, Variable] = field(default_factory=dict)
    values: dict[Variable, int] = field(default_factory=dict)
    """Variable -> the tensor that holds its value now."""
    readings: dict[Variable, int] = field(default_factory=dict)
    """Variable -> the tensor of its first reading, where nothing was written before."""
    written: set[Variable] = field(default_factory=set)
    same: dict[int, int] = field(default_factory=dict)
    """Tensor of a later reading -> the tensor that holds the value."""
    operators: list[Any] = field(default_factory=list)
    """Those that stay."""
    once: list[int] = field(default_factory=list)
    """The graphs that run before the first call."""

    def __post_init__(self) -> None:
        for operator in self.graph.operators:
            operator.inputs = [self.current(tensor) for tensor in _numbers(operator.inputs)]
            code = self.codes[operator.opcodeIndex]
            if code == Code.VAR_HANDLE:
                options = operator.builtinOptions
                self.handles[int(operator.outputs[0])] = options.container or b"", options.sharedName or b""
            elif code == Code.READ_VARIABLE:
                self._read(self._variable(operator), int(operator.outputs[0]))
            elif code == Code.ASSIGN_VARIABLE:
                variable = self._variable(operator)
                self.values[variable] = operator.inputs[1]
                self.written.add(variable)
            elif code == Code.CALL_ONCE:
                self.once.append(int(operator.builtinOptions.initSubgraphIndex))
            else:
                self._keep(operator, WORDS[code])

    def current(self, tensor: Any) -> int:
        return self.same.get(int(tensor), int(tensor))

    def _variable(self, operator: Any) -> Variable:
        handle = operator.inputs[0]
        if handle not in self.handles:
            raise StateStays("a variable is handed to the graph that reads or writes it")
        return self.handles[handle]

    def _read(self, variable: Variable, tensor: int) -> None:
        if variable not in self.values:
            self.values[variable] = self.readings[variable] = tensor
            return
        value = self.values[variable]
        if not _are_alike(self.graph.tensors[value], self.graph.tensors[tensor]):
            raise StateStays(f"the variable {_word(variable)} is read as another type or scale than it is written as")
        self.same[tensor] = value

    def _keep(self, operator: Any, word: str) -> None:
        if taken := [self.handles[tensor] for tensor in operator.inputs if tensor in self.handles]:
            raise StateStays(f"the variable {_word(taken[0])} is used in a branch or loop, by {word}")
        self.operators.append(operator)


def _check_others(model: Any, codes: Sequence[int], number: int, once: Sequence[int]) -> None:
    """Raises StateStays where something else than one graph holds or changes a state."""
    signatures = {each.subgraphIndex: _text(each.signatureKey) for each in _signatures(model)}
    for place, graph in enumerate(model.subgraphs):
        used = {codes[operator.opcodeIndex] for operator in graph.operators}
        if used & set(TABLES):
            raise StateStays("it keeps a hash table as well")
        if held := [_text(tensor.name) for tensor in graph.tensors if tensor.isVariable]:
            raise StateStays(f"the tensor {held[0]!r} keeps a state of its own, inside an operator")
        if place != number and place not in once and used & {*VARIABLES, Code.CALL_ONCE}:
            where = f"the signature {signatures[place]!r}" if place in signatures else "a branch or loop"
            raise StateStays(f"a variable is used in {where}, in the graph {_text(graph.name)!r}")
        if place in once and (place == number or place in signatures or Code.CALL_ONCE in used):
            raise StateStays("the graph that gives the variables their first values is called in other ways, too")


def _check_tensors(
    graph: Any, variable: Variable, reading: int, value: int, first: Mapping[Variable, NDArray[Any]]
) -> None:
    tensor, word = graph.tensors[reading], _word(variable)
    if variable not in first:
        raise StateStays(f"the file gives the variable {word} no first value")
    if tensor.type in (schema.TensorType.STRING, schema.TensorType.RESOURCE, schema.TensorType.VARIANT):
        raise StateStays(f"the variable {word} holds no numbers")
    shape, begins = tuple(_numbers(tensor.shape)), first[variable]
    if any(size < 0 for size in _numbers(tensor.shapeSignature)) or shape != begins.shape:
        raise StateStays(f"the file leaves the shape of the variable {word} open where it is read")
    if not _are_alike(tensor, graph.tensors[value]):
        raise StateStays(f"the variable {word} is read as another type or scale than it is written as")
    if shape != tuple(_numbers(graph.tensors[value].shape)) and reading != value:
        raise StateStays(f"the variable {word} is written in another shape than it is read in")


def _first_values(content: bytes, once: Sequence[int]) -> dict[Variable, NDArray[Any]]:
    """What the graphs that run before the first call write into the variables. Raises StateStays."""
    values: dict[Variable, NDArray[Any]] = {}
    for number in once:
        model = unpacked(content)
        graph = model.subgraphs[number]
        walk = _Walk(graph, _codes(model))
        if walk.readings:
            raise StateStays(f"the first value of the variable {_word(next(iter(walk.readings)))} is another's")
        graph.operators, graph.inputs = walk.operators, []
        graph.outputs = list(dict.fromkeys(walk.values.values()))
        call = schema.SignatureDefT()
        call.signatureKey, call.subgraphIndex, call.inputs = b"once", number, []
        call.outputs = [_entry(str(tensor), tensor) for tensor in graph.outputs]
        model.signatureDefs = [call]
        try:
            answers = Interpreter(model_content=packed(model)).get_signature_runner("once")()
        except (ValueError, RuntimeError) as error:
            raise StateStays(f"the first values of its variables cannot be computed: {one_line(error, 300)}") from error
        values |= {variable: answers[str(tensor)] for variable, tensor in walk.values.items()}
    return values


def _apart(model: Any, graph: Any, outputs: Sequence[int], readings: Sequence[int]) -> list[int]:
    """The outputs, with a copy of each that is a state's input, a constant, or an output already.

    Converters know a tensor by its name alone, and lose one of two outputs that are the same tensor.
    """
    made = {int(tensor) for operator in graph.operators for tensor in _numbers(operator.outputs)}
    own = {int(tensor) for tensor in graph.outputs}
    placed: list[int] = []
    for tensor in outputs:
        is_free = tensor not in placed and tensor not in readings and (tensor in made or tensor in own)
        placed.append(tensor if is_free else _copy(model, graph, tensor))
    return placed


def _copy(model: Any, graph: Any, tensor: int) -> int:
    """A new tensor of the same values, by RESHAPE. Raises StateStays where its shape is open."""
    source = graph.tensors[tensor]
    if any(size < 0 for size in _numbers(source.shapeSignature)):
        raise StateStays(f"the file leaves the shape of the output {_text(source.name)!r} open, which is a state")
    sizes = schema.TensorT()
    sizes.name, sizes.shape, sizes.type = b"shape_%d" % len(graph.tensors), [len(source.shape)], schema.TensorType.INT32
    sizes.buffer = _buffer(model, np.array(_numbers(source.shape), np.int32))
    result = schema.TensorT()
    result.name, result.shape, result.type = b"copy_%d" % len(graph.tensors), source.shape, source.type
    result.quantization = source.quantization
    graph.tensors += [sizes, result]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = Code.RESHAPE
    code.version = 1
    model.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs = len(model.operatorCodes) - 1, [tensor, len(graph.tensors) - 2]
    operator.outputs = [len(graph.tensors) - 1]
    operator.builtinOptionsType, operator.builtinOptions = (
        schema.BuiltinOptions.ReshapeOptions,
        schema.ReshapeOptionsT(),
    )
    operator.builtinOptions.newShape = _numbers(source.shape)
    graph.operators.append(operator)
    return len(graph.tensors) - 1


def _name(
    model: Any, graph: Any, wanted: Sequence[bytes], readings: Sequence[int], values: Sequence[int]
) -> dict[str, str]:
    """Give the tensors of the states their names, made from those that are wanted: input -> output."""
    others = [
        tensor
        for place, tensor in enumerate(graph.tensors)
        if place not in {*readings, *values} and tensor.type != schema.TensorType.RESOURCE
    ]
    entries = [entry for signature in _signatures(model) for entry in (*signature.inputs, *signature.outputs)]
    taken = {names.clean(_text(each.name)) for each in (*others, *entries)}
    states = {}
    for name, reading, value in zip(wanted, readings, values, strict=True):
        word = names.clean(_text(name)) if name else "state"
        numbered = (word, *(f"{word}_{count}" for count in range(1, len(taken) + 2)))
        chosen = next(each for each in numbered if not {each, f"{each}_out"} & taken)
        taken |= {chosen, f"{chosen}_out"}
        states[chosen] = f"{chosen}_out"
        graph.tensors[reading].name, graph.tensors[value].name = chosen.encode(), states[chosen].encode()
    return states


def _extend_signatures(
    model: Any, number: int, moved: Mapping[int, int], states: Mapping[str, str], readings: Sequence[int],
    values: Sequence[int],
) -> None:  # fmt: skip
    """Let the signatures of the graph name the states, and its outputs where they are now."""
    for signature in _signatures(model):
        if signature.subgraphIndex != number:
            continue
        for entry in signature.outputs:
            entry.tensorIndex = moved.get(entry.tensorIndex, entry.tensorIndex)
        signature.inputs += map(_entry, states, readings)
        signature.outputs += map(_entry, states.values(), values)


def _leave_out_tensors(model: Any, number: int, idle: Collection[int]) -> None:
    """Without tensors of a graph that nothing uses."""
    graph = model.subgraphs[number]
    kept = [place for place in range(len(graph.tensors)) if place not in idle]
    places = {-1: -1} | {place: now for now, place in enumerate(kept)}  # -1: an input that an operator does without
    graph.tensors = [graph.tensors[place] for place in kept]
    graph.inputs, graph.outputs = ([places[each] for each in part] for part in (graph.inputs, graph.outputs))
    for operator in graph.operators:
        for part in ("inputs", "outputs", "intermediates"):
            setattr(operator, part, [places[each] for each in _numbers(getattr(operator, part))])
    for signature in _signatures(model):
        for entry in (*signature.inputs, *signature.outputs) if signature.subgraphIndex == number else ():
            entry.tensorIndex = places[entry.tensorIndex]


def _leave_out_graphs(model: Any, once: Sequence[int]) -> None:
    """Without the graphs of these numbers, and without codes of operators that none is left of."""
    kept = [number for number in range(len(model.subgraphs)) if number not in once]
    places = {number: place for place, number in enumerate(kept)}
    model.subgraphs = [model.subgraphs[number] for number in kept]
    for signature in _signatures(model):
        signature.subgraphIndex = places[signature.subgraphIndex]
    operators = [operator for graph in model.subgraphs for operator in graph.operators]
    for operator in operators:
        for options in filter(None, (operator.builtinOptions, operator.builtinOptions2)):
            for key, value in vars(options).items():
                if key.lower().endswith("subgraphindex") or key == "subgraph":
                    setattr(options, key, places.get(value, value))
    used = sorted({operator.opcodeIndex for operator in operators})
    model.operatorCodes = [model.operatorCodes[number] for number in used]
    for operator in operators:
        operator.opcodeIndex = used.index(operator.opcodeIndex)


def _are_alike(read: Any, written: Any) -> bool:
    """Whether two tensors hold numbers of the same type and scale."""
    return read.type == written.type and _scales(read) == _scales(written)


def _scales(tensor: Any) -> tuple[list[float], list[int]]:
    about = tensor.quantization
    if about is None or about.scale is None:
        return [], []
    return list(map(float, about.scale)), _numbers(about.zeroPoint)


def _codes(model: Any) -> list[int]:
    return [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]


def _signatures(model: Any) -> Iterator[Any]:
    yield from model.signatureDefs or ()


def _numbers(values: Any) -> list[int]:
    """Of a vector that the file may lack."""
    return [] if values is None else [int(value) for value in values]


def _entry(name: str, tensor: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name.encode(), tensor
    return entry


def _buffer(model: Any, values: NDArray[Any]) -> int:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def _word(variable: Variable) -> str:
    return repr(_text(variable[1]))


def _text(name: bytes | None) -> str:
    """A name of the file, which may lack it."""
    return (name or b"").decode(errors="replace")
