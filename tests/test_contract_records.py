"""Records are read as they were written, and the error of a wrong one names the place."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from contract.records import KEY, RecordError, content_of, decode, encode, parse, without_schema


@dataclass(frozen=True)
class Size:
    height: int
    width: int | None

    def __post_init__(self) -> None:
        if self.height < 1:
            raise ValueError(f"height is {self.height}: expected at least 1")


@dataclass(frozen=True)
class Reason:
    reason: str


@dataclass(frozen=True)
class Record:
    name: str
    share: float
    passed: bool
    order: Literal["RGB", "BGR"]
    file: Path | None
    sizes: tuple[Size, ...]
    pair: tuple[int, int]
    by_name: Mapping[str, Size | Reason]
    anything: Any = None
    advice: str = field(default="", metadata={KEY: "try"})


RECORD = Record(
    name="치마",
    share=0.5,
    passed=True,
    order="BGR",
    file=Path("a/b"),
    sizes=(Size(1, None), Size(2, 3)),
    pair=(1, 2),
    by_name={"size": Size(4, 5), "reason": Reason("no browser")},
    anything={"deep": [1, None]},
    advice="again",
)


def test_a_record_is_read_as_it_was_written() -> None:
    text = json.dumps(encode(RECORD))
    assert decode(Record, parse(text)) == RECORD
    assert json.loads(text)["try"] == "again"


def test_a_record_is_a_regular_file_of_some_size(tmp_path: Path) -> None:
    (tmp_path / "record").write_bytes(b"{}")
    assert content_of(tmp_path / "record", 2) == b"{}"
    with pytest.raises(RecordError, match="it has 2 bytes, expected at most 1"):
        content_of(tmp_path / "record", 1)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless"):
        with pytest.raises(RecordError, match="not a regular file"):
            content_of(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        content_of(tmp_path / "none")


def test_a_whole_number_is_accepted_where_a_float_is_expected() -> None:
    share = decode(Record, encode(RECORD) | {"share": 1}).share
    assert isinstance(share, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 7}, "name: got 7, expected a text"),
        ({"share": "fast"}, 'share: got "fast", expected a number'),
        ({"share": True}, "share: got true, expected a number"),
        ({"share": 10**400}, "share: got 1000000000"),
        ({"passed": 1}, "passed: got 1, expected true or false"),
        ({"order": "GBR"}, 'order: got "GBR", expected "RGB" or "BGR"'),
        ({"file": 3}, "file: got 3, expected a path or null"),
        ({"sizes": {}}, "sizes: got {}, expected a list"),
        ({"sizes": "none"}, 'sizes: got "none", expected a list'),
        ({"sizes": [{"height": 1, "width": "2"}]}, 'sizes[0].width: got "2", expected a whole number or null'),
        ({"sizes": [{"height": True, "width": 2}]}, "sizes[0].height: got true, expected a whole number"),
        ({"sizes": [{"height": 1}]}, "sizes[0].width: it is missing"),
        ({"sizes": [{"height": 0, "width": 1}]}, "sizes[0]: height is 0: expected at least 1"),
        ({"sizes": [None]}, "sizes[0]: got null, expected an object with height, width"),
        ({"pair": [1, 2, 3]}, "pair: got [1, 2, 3], expected a list of 2"),
        ({"by_name": []}, "by_name: got [], expected an object"),
        ({"by_name": {"a": {"reason": 3}}}, 'by_name["a"].reason: got 3, expected a text'),
        (
            {"by_name": {"a": {}}},
            'by_name["a"]: got {}, expected an object with height, width or an object with reason',
        ),
        ({"colour": 3}, "colour: it is unknown, expected only name, share"),
        ({"advice": "again"}, "advice: it is unknown"),
    ],
)
def test_the_error_names_the_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecordError) as caught:
        decode(Record, encode(RECORD) | change)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("key", list(encode(RECORD)))
def test_a_field_that_is_missing_is_named_even_if_it_has_a_default(key: str) -> None:
    data = encode(RECORD)
    del data[key]
    with pytest.raises(RecordError, match=f"^{key}: it is missing"):
        decode(Record, data)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_only_an_object_is_a_record(data: object) -> None:
    with pytest.raises(RecordError, match="expected an object with name"):
        decode(Record, data)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not JSON"), (b"\xff\xfe\xff", "not JSON"), ("[" * 100_000, "deep")]
)
def test_text_that_is_not_json_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"schema": 2}, "schema: got 2, expected 1"),
        ({"schema": True}, "schema: got true, expected 1"),
        ({}, "schema: got null, expected 1"),
        ([], "expected an object"),
    ],
)
def test_another_schema_is_refused(data: object, message: str) -> None:
    assert without_schema({"schema": 1, "name": "a"}, 1) == {"name": "a"}
    with pytest.raises(RecordError, match=message):
        without_schema(data, 1)
