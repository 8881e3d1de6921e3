"""A program of Core ML, `.mlpackage`, from its bytes: its inputs and outputs, its operators, and what they compute in.

Nothing is loaded: Core ML is a part of Apple's systems, and its converter is installed in few places. The numbers are
those of the fields in Model.proto, FeatureTypes.proto and MIL.proto of coremltools.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contract.manifest import Manifest, TensorSpec
from contract.wire import Bytes, fields, messages, numbers, text

PACKAGE = "model.mlpackage"
MODEL, WEIGHTS = "Data/com.apple.CoreML/model.mlmodel", "Data/com.apple.CoreML/weights/weight.bin"
INDEX = "Manifest.json"
FILES = (INDEX, MODEL, WEIGHTS)
"""What a package consists of; without weights, it has no last one."""
MAIN = "main"

VERSION, DESCRIPTION, PROGRAM = 1, 2, 502
"""All that a model has which is one program."""
ARRAYS = {65568: "float32", 65600: "float64", 131104: "int32", 131080: "int8", 65552: "float16"}
"""The numbers of dtypes where an app meets them."""
DTYPES = {
    1: "bool", 2: "string", 10: "float16", 11: "float32", 12: "float64", 13: "bfloat16", 21: "int8", 22: "int16",
    23: "int32", 24: "int64", 31: "uint8", 32: "uint16", 33: "uint32", 34: "uint64",
}  # fmt: skip
"""The numbers of dtypes within a program."""
FULL = {"bool", "string", "float32", "int32", "int8", "int16", "uint8", "uint16"}
"""What a program of float32 has: its numbers, their indices, and the settings of its operators."""
STORED_AS = {"float64": "float32", "int64": "int32"}
"""The source's dtype -> Core ML's, where it has none so wide."""
COMPRESSED = ("constexpr_", "quantize", "dequantize")
"""How the operators begin that make weights or values of fewer bits."""

Size = int | tuple[int, int] | None
"""Of an axis: fixed, from and to, or any."""


@dataclass(frozen=True)
class Value:
    """An input or output of a program."""

    name: str
    dtype: str
    shape: tuple[Size, ...]

    def __str__(self) -> str:
        sizes = (f"{size[0]} to {size[1]}" if isinstance(size, tuple) else str(size or "any") for size in self.shape)
        return f"{self.name} {self.dtype} [{', '.join(sizes)}]"


@dataclass(frozen=True)
class Program:
    """What a package's program is."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    operators: frozenset[str]
    dtypes: frozenset[str]
    """Of all values in it."""


def read(package: Path) -> Program:
    """The program of a package. Raises ValueError where it is damaged or no program alone, OSError where it is gone."""
    model = (package / MODEL).read_bytes()
    if others := {number for number, _ in fields(model)} - {VERSION, DESCRIPTION, PROGRAM}:
        raise ValueError(f"it has the field {min(others)}: expected a model that is one program")
    functions = dict(_entries(_last(model, PROGRAM), 2))
    if [*functions] != [MAIN]:
        raise ValueError(f"its functions are {', '.join(functions) or 'none'}: expected {MAIN} alone")
    blocks = [block for _, block in _entries(functions[MAIN], 3)]
    if len(blocks) != 1:
        raise ValueError(f"its function has {len(blocks)} blocks, expected one")
    operations = list(_operations(blocks[0]))
    types = [type for operation in operations for type in _types(operation)]
    made = {text(each, 1): _last(each, 2) for operation in operations for each in messages(operation, 3)}
    given = {text(each, 1): _last(each, 2) for each in messages(functions[MAIN], 1)}
    description = _last(model, DESCRIPTION)
    return Program(
        inputs=tuple(_values(description, 1, given)),
        outputs=tuple(_values(description, 10, given | made)),
        operators=frozenset(text(operation, 1) for operation in operations),
        dtypes=frozenset(dtype for type in [*types, *given.values()] for dtype in _dtypes(type)),
    )


def faults(package: Path, manifest: Manifest) -> list[str]:
    """What a package has that is not as its manifest and its name say, one phrase for each; empty where all is."""
    try:
        program = read(package)
    except (OSError, ValueError) as error:
        return [f"its program cannot be read: {error}"]
    phrases = [*_differences("inputs", manifest.inputs, program.inputs, manifest.batch)]
    phrases += _differences("outputs", manifest.outputs, program.outputs, manifest.batch)
    if less := sorted(program.dtypes - FULL):
        phrases.append(f"it has values of {', '.join(less)}, expected float32: its name says no other precision")
    if compressed := sorted(name for name in program.operators if name.startswith(COMPRESSED)):
        phrases.append(f"it has the operators {', '.join(compressed)}, which make weights or values of fewer bits")
    return phrases


def _differences(kind: str, expected: Sequence[TensorSpec], got: Sequence[Value], batch: int | None) -> Iterator[str]:
    shapes = [spec.shape if batch is None else spec.shape_at(batch) for spec in expected]
    if len(expected) == len(got) and all(
        spec.name == value.name and STORED_AS.get(spec.dtype, spec.dtype) == value.dtype and _fits(shape, value.shape)
        for spec, shape, value in zip(expected, shapes, got, strict=True)
    ):
        return
    theirs = (f"{spec.name} {spec.dtype} {list(shape)}" for spec, shape in zip(expected, shapes, strict=True))
    yield f"its {kind} are {', '.join(map(str, got)) or 'none'}, its manifest's {', '.join(theirs)}"


def _fits(expected: Sequence[int | None], got: Sequence[Size]) -> bool:
    """Whether free sizes are free, and fixed ones fixed. Core ML need not know that a computed size is fixed."""
    return len(expected) == len(got) and all(
        size is None or (known is None if isinstance(size, tuple) else size == known)
        for known, size in zip(expected, got, strict=True)
    )


def _values(description: Bytes, number: int, types: Mapping[str, Bytes]) -> Iterator[Value]:
    """The inputs or outputs: what an app sees of them, and what the program has. The two have to agree."""
    for feature in messages(description, number):
        name, array = text(feature, 1), _last(_last(feature, 3), 5)
        if name not in types:
            raise ValueError(f"its program has no value {name!r}")
        tensor = _last(types[name], 1)
        dtype, seen = DTYPES.get(_number(tensor, 1), "unknown"), ARRAYS.get(_number(array, 2), "unknown")
        if dtype != seen:
            raise ValueError(f"{name!r} is {seen} to an app, and {dtype} in the program")
        sizes = [_number(_last(each, 1), 1) or None for each in messages(tensor, 3)]
        yield Value(name, dtype, tuple(_ranged(sizes, [*messages(_last(array, 31), 1)])))


def _ranged(sizes: Sequence[int | None], ranges: Sequence[Bytes]) -> Iterator[Size]:
    """A free size from and to its limits, where an app sees them."""
    limits = [(_number(each, 1), _number(each, 2)) for each in ranges] if len(ranges) == len(sizes) else []
    for axis, size in enumerate(sizes):
        yield limits[axis] if size is None and limits else size


def _operations(block: Bytes) -> Iterator[Bytes]:
    """Those of a block, and of the blocks within them."""
    for operation in messages(block, 3):
        yield operation
        for inner in messages(operation, 4):
            yield from _operations(inner)


def _types(operation: Bytes) -> Iterator[Bytes]:
    """Of its outputs, of its settings, and of the values among its inputs."""
    yield from (_last(each, 2) for each in messages(operation, 3))
    yield from (_last(value, 2) for _, value in _entries(operation, 5))
    for _, argument in _entries(operation, 2):
        yield from (_last(_last(binding, 2), 2) for binding in messages(argument, 1))


def _dtypes(type: Bytes) -> Iterator[str]:
    """Those in a type: of a tensor; of a list, a tuple, a dictionary, or a state, of what is in it."""
    for number, part in fields(type):
        if isinstance(part, int):
            continue
        if number == 1:
            yield DTYPES.get(_number(part, 1), "a narrow type")
        else:
            for inner in {2: (1,), 3: (1,), 4: (1, 2), 5: (1,)}.get(number, ()):
                yield from (dtype for each in messages(part, inner) for dtype in _dtypes(each))


def _entries(message: Bytes, number: int) -> Iterator[tuple[str, Bytes]]:
    """Those of a map: key and value."""
    return ((text(entry, 1), _last(entry, 2)) for entry in messages(message, number))


def _last(message: Bytes, number: int) -> Bytes:
    """The value of a field that is not repeated: the last one counts. Empty where it is not there."""
    return [b"", *messages(message, number)][-1]


def _number(message: Bytes, number: int) -> int:
    return [0, *numbers(message, number)][-1]
