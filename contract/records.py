"""Frozen dataclasses <-> JSON: how every record that is kept on disk is written and read.

Manifests, parity results, failed edges, descriptions and reports all go through `encode` and `decode`. The type hints
are the schema, so what is written comes back equal. Nothing is ignored: a key that is unknown or missing is an error,
and the message names the place, such as `outputs[0].shape[1]: got "28", expected a whole number or null`.
"""

import functools
import json
import stat
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

MOST_BYTES = 256 << 20
KEY = "key"
"""In a field's metadata: its key in JSON, where that is not the field's name."""


class RecordError(ValueError):
    """Text that is not JSON, or JSON that is not the record that was expected."""


def encode(value: Any) -> Any:
    """A record, or what a field of it holds, as JSON takes it."""
    if is_dataclass(value):
        return {_key_of(part): encode(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def decode(kind: type[T], data: Any) -> T:
    """What `encode` made of a record of this type. Raises RecordError on anything else.

    Fields may be dataclasses, tuples, mappings, literals, paths, plain values, and unions of these. Every field has to
    be there: defaults are for code, and whoever reads a record that is older than a field adds that field first.
    """
    record: T = _decode(kind, data, "")
    return record


def content_of(path: Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a record's file. Raises RecordError, and OSError where there is none.

    Anybody may have written the folder: a pipe is not waited for, and a device without an end is not read.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise RecordError("it is not a regular file")
    if status.st_size > most:
        raise RecordError(f"it has {status.st_size} bytes, expected at most {most}")
    return path.read_bytes()


def parse(text: str | bytes) -> Any:
    """JSON text -> its value. Raises RecordError."""
    try:
        return json.loads(text)
    except RecursionError:
        raise RecordError("the JSON is nested too deeply") from None
    except ValueError as error:  # the text's encoding included
        raise RecordError(f"it is not JSON: {error}") from None


def without_schema(data: Any, expected: int) -> dict[str, Any]:
    """The rest of an object whose key `schema` is the number expected. Raises RecordError."""
    if not isinstance(data, dict):
        raise RecordError(f"got {_shown(data)}, expected an object")
    rest = dict(data)
    if (schema := rest.pop("schema", None)) != expected or isinstance(schema, bool):
        raise RecordError(f"schema: got {_shown(schema)}, expected {expected}")
    return rest


def _decode(kind: Any, data: Any, path: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return data
    if origin in (Union, types.UnionType):
        return _decode_union(arguments, data, path)
    if origin is Literal and data in arguments:
        return data
    if origin is tuple and isinstance(data, list):
        return _decode_tuple(kind, data, path)
    if isinstance(data, dict):
        if is_dataclass(kind):
            return _decode_record(kind, data, path)
        if origin is not None and issubclass(origin, Mapping):
            return {key: _decode(arguments[1], item, f"{path}[{json.dumps(key)}]") for key, item in data.items()}
    if kind is float and type(data) is int and abs(data) < 2**1023:
        return float(data)
    if kind is Path and isinstance(data, str):
        return Path(data)
    if type(data) is kind:  # not isinstance: true is not a number
        return data
    raise _unexpected(data, path, kind)


def _decode_record(kind: Any, data: dict[str, Any], path: str) -> Any:
    known = {_key_of(part): part.name for part in fields(kind)}
    if missing := [key for key in known if key not in data]:
        raise RecordError(f"{_below(path, missing[0])}: it is missing")
    if unknown := [key for key in data if key not in known]:
        raise RecordError(f"{_below(path, unknown[0])}: it is unknown, expected only {', '.join(known)}")
    hints = _hints(kind)
    values = {name: _decode(hints[name], data[key], _below(path, key)) for key, name in known.items()}
    try:
        return kind(**values)
    except ValueError as error:  # what the record itself checks
        raise RecordError(_at(path, str(error))) from error


def _decode_tuple(kind: Any, data: list[Any], path: str) -> tuple[Any, ...]:
    kinds = get_args(kind)
    if kinds[1:] == (...,):
        kinds = kinds[:1] * len(data)
    if len(kinds) != len(data):
        raise _unexpected(data, path, kind)
    return tuple(_decode(part, item, f"{path}[{i}]") for i, (part, item) in enumerate(zip(kinds, data, strict=True)))


def _decode_union(kinds: tuple[Any, ...], data: Any, path: str) -> Any:
    """As the alternative that fits. Of several records, that is the one with exactly the object's keys."""
    if data is None and type(None) in kinds:
        return None
    candidates = [kind for kind in kinds if kind is not type(None)]
    if isinstance(data, dict) and len(candidates) > 1:
        records = [kind for kind in candidates if is_dataclass(kind)]
        candidates = [kind for kind in records if {_key_of(part) for part in fields(kind)} == data.keys()]
    if len(candidates) == 1 and isinstance(data, dict | list):
        return _decode(candidates[0], data, path)  # its errors name a place further down
    for kind in candidates:
        try:
            return _decode(kind, data, path)
        except RecordError:
            continue
    raise _unexpected(data, path, *kinds)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _key_of(part: Any) -> str:
    return str(part.metadata.get(KEY, part.name))


def _below(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _at(path: str, message: str) -> str:
    return f"{path}: {message}" if path else message


def _unexpected(data: Any, path: str, *kinds: Any) -> RecordError:
    return RecordError(_at(path, f"got {_shown(data)}, expected {' or '.join(map(_named, kinds))}"))


def _shown(data: Any) -> str:
    try:
        text = json.dumps(data, ensure_ascii=False)
    except RecursionError:
        return "deeply nested JSON"
    return text if len(text) <= 60 else f"{text[:60]} ..."


NAMES = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    Path: "a path",
    type(None): "null",
}


def _named(kind: Any) -> str:
    """A type, for people who know JSON."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_named, arguments))
    if origin is Literal:
        return " or ".join(map(_shown, arguments))
    if origin is tuple:
        return "a list" if arguments[1:] == (...,) else f"a list of {len(arguments)}"
    if is_dataclass(kind):
        return f"an object with {', '.join(_key_of(part) for part in fields(kind))}"
    return NAMES.get(kind, "an object")
