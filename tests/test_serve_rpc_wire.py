"""A gRPC message's raw tensors are taken out of its bytes; what is left reads as the parser of messages reads all."""

import random

import pytest
from google.protobuf.message import DecodeError
from tritonclient.grpc.service_pb2 import ModelInferRequest

from contract.errors import InputError
from serve.rpc.wire import MAX_FIELD_BYTES, MAX_FIELDS, split

RAW, INPUT, ID = b"\x3a", b"\x2a", b"\x1a"
"""Tags of a ModelInferRequest's fields."""


def request() -> ModelInferRequest:
    made = ModelInferRequest(model_name="m" * 200, model_version="1", id="7", raw_input_contents=[b"", b"x" * 70_000])
    made.parameters["timeout"].int64_param = 5
    made.inputs.add(name="first", datatype="FP32", shape=[2, -1, 300])
    made.inputs.add(name="second", datatype="INT64", shape=[1]).contents.int64_contents.extend([-1, 1 << 40])
    made.outputs.add(name="out")
    return made


def joined(body: bytes) -> ModelInferRequest:
    """What was taken apart, put together again by the parser."""
    fields, raw = split(body)
    made = ModelInferRequest.FromString(fields)
    assert not made.raw_input_contents
    made.raw_input_contents.extend(map(bytes, raw))
    return made


@pytest.mark.parametrize("more", [b"", b"\x40\x96\x01", b"\x49" + b"x" * 8, b"\x55" + b"x" * 4, b"\x82\x01\x01x"])
def test_what_is_taken_apart_is_the_whole_message(more: bytes) -> None:
    """Also with fields of every kind that a newer protocol may have, before and behind the others."""
    body = more + request().SerializeToString() + more
    assert joined(body) == ModelInferRequest.FromString(body)
    raw = split(body)[1]
    assert [len(each) for each in raw] == [0, 70_000]
    assert all(each.obj is body for each in raw), "a raw tensor was copied"


def test_raw_tensors_may_stand_anywhere() -> None:
    body = RAW + b"\1a" + ID + b"\1i" + RAW + b"\1b" + INPUT + b"\0" + RAW + b"\1c"
    fields, raw = split(body)
    assert (fields, list(map(bytes, raw))) == (ID + b"\1i" + INPUT + b"\0", [b"a", b"b", b"c"])


def test_damaged_messages_are_refused_as_the_parser_refuses_them() -> None:
    draw, refused = random.Random(0), 0
    small = ModelInferRequest(model_name="m", id="x", raw_input_contents=[b"abc", b"d" * 20])
    small.inputs.add(name="first", datatype="FP32", shape=[2, -1])
    whole = small.SerializeToString()
    for _ in range(5000):
        body = bytearray(whole)
        for _ in range(draw.randrange(1, 4)):
            body[draw.randrange(len(body))] = draw.randrange(256)
        sent = bytes(body[: draw.randrange(1, len(body) + 1)])
        try:
            expected = ModelInferRequest.FromString(sent)
        except DecodeError:
            refused += 1
            with pytest.raises(DecodeError):
                joined(sent)
        else:
            try:
                got = joined(sent)
            except DecodeError:  # groups, which the parser skips
                assert any(byte & 7 in (3, 4) for byte in sent)
            else:
                assert got == expected
    assert refused > 1000


@pytest.mark.parametrize(
    "body", [b"\x3a", b"\x3a\5abc", b"\x80" * 20, b"\x40", b"\x49abc", b"\x3b\x3c", b"\x3a\xff\xff\xff\x7f"]
)
def test_what_does_not_end_is_no_message(body: bytes) -> None:
    with pytest.raises(DecodeError):
        split(body)


def test_a_message_has_so_many_fields() -> None:
    assert len(split(RAW + b"\0" + INPUT + b"\0" * 1)[1]) == 1
    assert len(split((RAW + b"\0") * MAX_FIELDS)[1]) == MAX_FIELDS
    for field in (RAW, INPUT):
        with pytest.raises(InputError, match=f"more than {MAX_FIELDS} fields"):
            split((field + b"\0") * (MAX_FIELDS + 1))


def test_large_tensors_have_to_be_raw() -> None:
    length = MAX_FIELD_BYTES - 5

    def long(tag: bytes, size: int) -> bytes:
        return tag + bytes((size & 127 | 128, size >> 7 & 127 | 128, size >> 14 & 127 | 128, size >> 21)) + bytes(size)

    assert len(split(long(INPUT, length))[0]) == MAX_FIELD_BYTES
    assert len(split(long(RAW, length + 1))[1][0]) == length + 1
    with pytest.raises(InputError, match="Send large tensors as raw_input_contents"):
        split(long(INPUT, length + 1))
