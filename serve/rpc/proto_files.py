"""The .proto files of this folder -> descriptors, which protobuf's own compiler would make.

The package protobuf cannot read such files, and its compiler is not part of a running service. What is read here is
what these files use of proto3: messages, enumerations, services, `repeated`, `map`, `oneof` and `stream`.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

TOKENS = re.compile(r'"[^"]*"|[\w.]+|[{}()<>,;=]')

SCALARS = ("double", "float", "int64", "uint64", "int32", "bool", "string", "bytes", "uint32")


def read_proto(path: Path) -> FileDescriptorProto:
    """The descriptor of a file. Raises ValueError for what is not read here."""
    text = re.sub(r"//.*", "", path.read_text(encoding="utf-8"))
    file = FileDescriptorProto(name=path.name, syntax="proto3")
    tokens = iter(TOKENS.findall(text))
    for word in tokens:
        if word == "syntax":
            _expect(tokens, "=", '"proto3"', ";")
        elif word == "package":
            file.package = next(tokens)
            _expect(tokens, ";")
        elif word == "message":
            _message(file.message_type.add(name=next(tokens)), tokens)
        elif word == "enum":
            _enum(file.enum_type.add(name=next(tokens)), tokens)
        elif word == "service":
            _service(file.service.add(name=next(tokens)), file.package, tokens)
        else:
            raise ValueError(f"{path.name}: {word!r} is not read")
    for message in file.message_type:
        _resolve(message, f".{file.package}", file)
    return file


def _expect(tokens: Iterator[str], *expected: str) -> None:
    for word in expected:
        if (got := next(tokens)) != word:
            raise ValueError(f"got {got!r}, expected {word!r}")


def _message(message: Any, tokens: Iterator[str]) -> None:
    _expect(tokens, "{")
    while (word := next(tokens)) != "}":
        if word == "message":
            _message(message.nested_type.add(name=next(tokens)), tokens)
        elif word == "enum":
            _enum(message.enum_type.add(name=next(tokens)), tokens)
        elif word == "oneof":
            message.oneof_decl.add(name=next(tokens))
            _expect(tokens, "{")
            while (kind := next(tokens)) != "}":
                _field(message, kind, tokens).oneof_index = len(message.oneof_decl) - 1
        elif word == "repeated":
            _field(message, next(tokens), tokens).label = FieldDescriptorProto.LABEL_REPEATED
        elif word == "map":
            _map(message, tokens)
        else:
            _field(message, word, tokens)


def _field(message: Any, kind: str, tokens: Iterator[str]) -> Any:
    field = message.field.add(name=next(tokens), label=FieldDescriptorProto.LABEL_OPTIONAL)
    _expect(tokens, "=")
    field.number = int(next(tokens))
    _expect(tokens, ";")
    _type(field, kind)
    return field


def _type(field: Any, kind: str) -> None:
    """A scalar's number, or the name as it is written, until all names are known."""
    if kind in SCALARS:
        field.type = getattr(FieldDescriptorProto, f"TYPE_{kind.upper()}")
    else:
        field.type_name = kind


def _map(message: Any, tokens: Iterator[str]) -> None:
    """A map is a repeated message of a key and a value."""
    _expect(tokens, "<")
    key = next(tokens)
    _expect(tokens, ",")
    value = next(tokens)
    _expect(tokens, ">")
    name = next(tokens)
    entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
    entry.options.map_entry = True
    for number, (part, kind) in enumerate((("key", key), ("value", value)), 1):
        _type(entry.field.add(name=part, number=number, label=FieldDescriptorProto.LABEL_OPTIONAL), kind)
    field = message.field.add(name=name, label=FieldDescriptorProto.LABEL_REPEATED, type_name=entry.name)
    _expect(tokens, "=")
    field.number = int(next(tokens))
    _expect(tokens, ";")


def _enum(enum: Any, tokens: Iterator[str]) -> None:
    _expect(tokens, "{")
    while (name := next(tokens)) != "}":
        _expect(tokens, "=")
        enum.value.add(name=name, number=int(next(tokens)))
        _expect(tokens, ";")


def _service(service: Any, package: str, tokens: Iterator[str]) -> None:
    _expect(tokens, "{")
    while next(tokens) == "rpc":
        method = service.method.add(name=next(tokens))
        method.client_streaming, method.input_type = _argument(package, tokens)
        _expect(tokens, "returns")
        method.server_streaming, method.output_type = _argument(package, tokens)
        _expect(tokens, ";")


def _argument(package: str, tokens: Iterator[str]) -> tuple[bool, str]:
    """Whether it is a stream, and the message."""
    _expect(tokens, "(")
    name = next(tokens)
    if is_stream := name == "stream":
        name = next(tokens)
    _expect(tokens, ")")
    return is_stream, f".{package}.{name}"


def _resolve(message: Any, scope: str, file: FileDescriptorProto) -> None:
    """Give the types of fields their full names: from the innermost message that has one of this name."""
    place = f"{scope}.{message.name}"
    for field in message.field:
        if field.type_name:
            field.type, field.type_name = _find(field.type_name, place, file)
    for nested in message.nested_type:
        _resolve(nested, place, file)


def _find(name: str, place: str, file: FileDescriptorProto) -> tuple[Any, str]:
    kinds = dict(_types(f".{file.package}", file.message_type, file.enum_type))
    while place:
        if (full := f"{place}.{name}") in kinds:
            return kinds[full], full
        place = place.rpartition(".")[0]
    raise ValueError(f"{file.name}: there is no {name!r}")


def _types(scope: str, messages: Any, enums: Any) -> Iterator[tuple[str, Any]]:
    """The full name and the kind of every message and enumeration."""
    for enum in enums:
        yield f"{scope}.{enum.name}", FieldDescriptorProto.TYPE_ENUM
    for message in messages:
        yield f"{scope}.{message.name}", FieldDescriptorProto.TYPE_MESSAGE
        yield from _types(f"{scope}.{message.name}", message.nested_type, message.enum_type)
