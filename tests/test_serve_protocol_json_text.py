"""Long JSON: its shape and its values are counted before they are made, and its numbers are read in pieces."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import orjson
import pytest

from contract.errors import BodyTooLarge, InputError
from contract.manifest import Manifest, TensorSpec
from serve.protocol import json_text, oip, tfserving
from serve.protocol.json_text import BLOCK, LONG, MAX_VALUES, PIECE, Numbers

ROWS = 400
SHAPE = (ROWS, 28, 28, 1)
WORDS = TensorSpec("words", "bytes", (None,), "N")


def manifest(dtype: str = "float32") -> Manifest:
    spec = TensorSpec("pixels", dtype, (None, 28, 28, 1), "NHWC")
    return Manifest("digits", "onnx", None, (spec,), (spec,), None, ())


def infer(data: str, dtype: str = "FP32", shape: tuple[int, ...] = SHAPE) -> bytes:
    head = json.dumps({"name": "pixels", "datatype": dtype, "shape": shape})[:-1]
    return f'{{"inputs": [{head}, "data": {data}}}], "id": "7"}}'.encode()


def read_infer(data: str, dtype: str = "float32", name: str = "FP32") -> Any:
    return oip.parse_request(infer(data, name), memoryview(b""), manifest(dtype)).inputs["pixels"]


def read_rows(data: str) -> Any:
    return tfserving.parse_predict(f'{{"instances": {data}}}'.encode(), manifest())[0].inputs["pixels"]


def read_columns(data: str) -> Any:
    return tfserving.parse_predict(f'{{"inputs": {{"pixels": {data}}}}}'.encode(), manifest())[0].inputs["pixels"]


@pytest.fixture
def values() -> Any:
    return np.random.default_rng(5).normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the texts that were given to the parser that makes Python objects."""
    lengths: list[int] = []
    loads = orjson.loads

    def counted(text: bytes) -> Any:
        lengths.append(len(text))
        return loads(text)

    monkeypatch.setattr(orjson, "loads", counted)
    return lengths


@pytest.mark.parametrize("read", [read_infer, read_rows, read_columns])
@pytest.mark.parametrize("space", ["", " ", "\n  "])
def test_long_nested_numbers_are_read_without_an_object_for_each(
    values: Any, made: list[int], read: Callable[[str], Any], space: str
) -> None:
    text = json.dumps(values.tolist(), separators=(f"{space},{space}", ":"))
    assert len(text) > 4 * PIECE
    np.testing.assert_array_equal(read(text), values)
    assert max(made, default=0) < 1000


@pytest.mark.parametrize(
    ("dtype", "name"), [("float64", "FP64"), ("int64", "INT64"), ("uint8", "UINT8"), ("uint64", "UINT64")]
)
def test_long_flat_numbers_of_each_kind_are_read(made: list[int], dtype: str, name: str) -> None:
    top = 2**63 - 1 if dtype == "int64" else 2**64 - 1 if dtype == "uint64" else 255
    numbers = [top, 0, *(number % 256 for number in range(ROWS * 784 - 2))]
    np.testing.assert_array_equal(read_infer(json.dumps(numbers), dtype, name).ravel(), np.array(numbers, dtype))
    assert max(made, default=0) < 1000


def nested(shape: tuple[int, ...], core: str = "0") -> str:
    for size in reversed(shape):
        core = f"[{','.join([core] * size)}]"
    return core


@pytest.mark.parametrize(
    ("data", "words"),
    {
        "ten million lists": ("[" + "[]," * 3_000_000 + "[]]", "nested as [3000001, 1]"),
        "lists in lists": (nested((1000, 1000)), "nested as [1000, 1000]"),
        "too many": (nested((ROWS * 784 + 1,)), "313601 values, expected 313600"),
        "too few": (nested((ROWS * 784 - 1,)), "313599 values, expected 313600"),
        "other rows": (nested((ROWS, 28, 1, 28)), "nested as [400, 28, 1, 28], expected [400, 28, 28, 1]"),
        "1e999 at its end": (nested(SHAPE)[:-4] + ",1e999]]]]", "expected"),
        "a gap": ("[" + "0," * (ROWS * 784 - 2) + ",0]", "is not numbers for FP32"),
        "numbers beside rows": (nested(SHAPE).replace("]],[[", "]],7[[", 1), "a number stands beside a list"),
        "two numbers without a comma": (nested(SHAPE, "0 1"), "is not numbers for FP32"),
        "a number with two points": (nested(SHAPE, "0.0.0"), "is not numbers for FP32"),
        "more than a float32 holds": (nested(SHAPE, "1e39"), "do not fit FP32"),
    }.values(),
)
def test_long_numbers_that_do_not_fit_are_refused_before_they_become_objects(
    made: list[int], data: str, words: str
) -> None:
    with pytest.raises(InputError) as caught:
        read_infer(data)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400
    assert max(made, default=0) < 1000


def test_whole_numbers_out_of_range_and_fractions_are_refused_for_whole_numbers() -> None:
    for core, words in (("256", "do not fit UINT8"), ("-1", "not numbers for UINT8"), ("0.5", "not numbers for UINT8")):
        with pytest.raises(InputError, match=words):
            read_infer(nested((ROWS * 784,), core), "uint8", "UINT8")


@pytest.mark.parametrize(
    "text",
    {
        "lists": "[[]," * 100_000 + "[]" + "]" * 100_000,
        "objects": '{"instances": [' + "{}," * 300_000 + "{}]}",
        "keys": "{" + ",".join(f'"{number}":0' for number in range(MAX_VALUES)) + "}",
        "strings": '{"instances": [' + '"",' * 300_000 + '""]}',
        "uneven lists": '{"instances": [' + "[0],[0,0]," * 150_000 + "[0]]}",
        "true": '{"instances": [' + "true," * 300_000 + "true]}",
    }.values(),
)
def test_more_values_than_a_model_can_use_are_refused_before_one_is_made(made: list[int], text: str) -> None:
    for read in (json_text.parse, oip.parse_object, lambda body: tfserving.parse_predict(body, manifest())):
        with pytest.raises(BodyTooLarge, match=f"expected {MAX_VALUES} at most"):
            read(text.encode())
    assert made == []


def test_the_limits_are_kept_to_the_value() -> None:
    text = "[" + ",".join(['""'] * (MAX_VALUES - 2)) + "]"
    assert len(json_text.parse(text.encode())) == MAX_VALUES - 2
    with pytest.raises(BodyTooLarge):
        json_text.parse(text.replace("]", ',""]').encode())
    assert len(json_text.parse(b"[" + b"0," * (LONG // 2 - 2) + b"0]")) == LONG // 2 - 1


def test_a_long_string_and_text_around_numbers_are_kept() -> None:
    picture = "A" * (3 * LONG)
    request, _ = tfserving.parse_predict(
        json.dumps({"instances": [{"b64": picture}] * 2}).encode(),
        Manifest("a", "onnx", None, (WORDS,), (WORDS,), None, ()),
    )
    assert [len(word) for word in request.inputs["words"]] == [len(picture) * 3 // 4] * 2
    numbers = list(range(3 * BLOCK))
    for before, behind in (('{"a": [1, 2], "b": ', ', "c": 3}'), ('{"c": [1, {"d": ', "}, 4]}"), ("  ", "  ")):
        value = json_text.parse(f"{before}{json.dumps(numbers)}{behind}".encode())
        held: Any = value
        while not isinstance(held, Numbers):
            held = held["b"] if "b" in held else held["c"][1]["d"]
        assert np.concatenate(list(held.read(np.dtype(np.int64)))).tolist() == numbers


def test_numbers_where_no_tensor_belongs_are_refused_like_any_other_value() -> None:
    numbers = json.dumps(list(range(3 * BLOCK)))
    for text in (numbers, f'{{"inputs": {numbers}}}', f'{{"inputs": [{{"name": {numbers}}}]}}', f'{{"id": {numbers}}}'):
        with pytest.raises(InputError) as caught:
            oip.parse_request(text.encode(), memoryview(b""), manifest())
        assert len(str(caught.value)) < 400
    for text in (numbers, f'{{"instances": [{numbers}, 1]}}', f'{{"instances": {{"pixels": {numbers}}}}}'):
        with pytest.raises(InputError):
            tfserving.parse_predict(text.encode(), manifest())


def test_random_long_texts_are_read_as_a_plain_parser_reads_them() -> None:
    random = np.random.default_rng(11)
    for _ in range(40):
        shape = tuple(random.integers(1, 60, random.integers(1, 4)).tolist())
        shape = (max(1, int(2.5 * LONG / np.prod(shape) / 8)), *shape)
        array = random.normal(size=shape).round(int(random.integers(0, 4)))
        text = bytearray(json.dumps({"x": array.tolist()}).encode())
        if random.random() < 0.7:
            text[int(random.integers(len(text)))] = ord(random.choice(list('[],0. -e{}"')))
        assert outcome(bytes(text)) == plain_outcome(bytes(text))


def outcome(text: bytes) -> Any:
    try:
        value = json_text.parse(text)
        found = value["x"]
        if isinstance(found, Numbers):
            return np.concatenate(list(found.read(np.dtype(np.float64)))).reshape(found.sizes).tolist()
        return found
    except (ValueError, TypeError, RuntimeError, KeyError, InputError):
        return "refused"


def plain_outcome(text: bytes) -> Any:
    """What the standard library makes of it. A text whose long list is uneven may also be too large."""
    try:
        value = json.loads(text)["x"]
    except (ValueError, KeyError):
        return "refused"
    try:
        return np.array(value, np.float64).tolist()
    except (ValueError, TypeError):
        return "refused"
