"""The typed contents of a gRPC message become arrays as they lie there, after the checks that JSON has, too."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from contract.errors import InputError
from contract.manifest import Manifest, TensorSpec
from contract.parity_result import Status
from contract.tensors import numpy_dtype
from serve.catalog import ServedModel
from serve.protocol.tensors import DATATYPES, to_bytes
from serve.rpc.messages import ModelInferRequest
from serve.rpc.tensors import CONTENTS, Sent, read_request

MILLION = 1_000_000

LIMITS = {dtype: np.iinfo(dtype) for dtype in DATATYPES if dtype.startswith(("int", "uint"))}
FLOATS = [float("nan"), float("inf"), -float("inf"), -0.0, 0.1, float(np.finfo(np.float32).max)]


def model_of(spec: TensorSpec) -> ServedModel:
    manifest = Manifest("typed", "onnx", None, (spec,), (TensorSpec("y", "float32", (None,), "N"),), None, ())
    return ServedModel(manifest.name, Path(), manifest, Status("source", ""), None)


def read(spec: TensorSpec, values: list[Any], count: int | None = None) -> Any:
    """One row, as it is read of a message whose typed contents are these values; `count` is what its shape says."""
    datatype = DATATYPES[spec.dtype]
    message = ModelInferRequest()
    tensor = message.inputs.add(name=spec.name, datatype=datatype, shape=[1, len(values) if count is None else count])
    getattr(tensor.contents, CONTENTS[datatype][0]).extend(values)
    return read_request(Sent(message, b"", []), model_of(spec)).inputs[spec.name][0]


def of_dtype(dtype: str, **more: Any) -> TensorSpec:
    return TensorSpec("x", dtype, (None, None), "NC", **more)


@pytest.mark.parametrize("dtype", [name for name, datatype in DATATYPES.items() if datatype in CONTENTS])
def test_every_value_is_read_as_it_was_sent(dtype: str) -> None:
    kinds: dict[str, list[Any]] = {"bool": [True, False, True], "bytes": [b"a", b"", b"\xff", "짧은".encode()]}
    limits = LIMITS.get(dtype)
    values = kinds.get(dtype) or ([limits.min, 0, 1, limits.max] if limits else FLOATS)
    array = read(of_dtype(dtype), values)
    assert array.dtype == numpy_dtype(dtype)
    assert to_bytes(array) == to_bytes(np.array(values, numpy_dtype(dtype)))  # NaN and the sign of zero, too


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint8", "uint16"])
def test_a_number_that_does_not_fit_its_datatype_is_refused(dtype: str) -> None:
    """The protocol has 32 bits for each of them."""
    limits = LIMITS[dtype]
    wrong = [limits.max + 1] if dtype.startswith("u") else [limits.max + 1, limits.min - 1]
    for value in wrong:
        with pytest.raises(InputError, match=f"holds numbers that do not fit {DATATYPES[dtype]}"):
            read(of_dtype(dtype), [0, value, 1])


def test_ids_beyond_the_table_are_refused() -> None:
    spec = of_dtype("int64", bounds=(0, 9))
    assert read(spec, [0, 9]).tolist() == [0, 9]
    with pytest.raises(InputError, match="holds 10, expected ids from 0 to 9"):
        read(spec, [0, 10])


@pytest.mark.parametrize(("dtype", "count"), [("float32", 3), ("int8", 3), ("bool", 0), ("int16", 0), ("bytes", 3)])
def test_the_values_have_to_be_as_many_as_the_shape_has(dtype: str, count: int) -> None:
    values: list[Any] = [b"a" if dtype == "bytes" else 1] * count
    with pytest.raises(InputError, match=f"is {count} values, expected 2 for shape"):
        read(of_dtype(dtype), values, 2)


@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "uint16", "float32", "float64"])
def test_a_million_numbers_take_no_object_each(dtype: str) -> None:
    """A list of them would take 32 bytes for each, and hundreds of times as long."""
    values = (np.arange(MILLION) % 100).astype(dtype).tolist()
    tracemalloc.start()
    try:
        array = read(of_dtype(dtype), values)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert array.tolist() == values
    assert peak < array.nbytes + 5 * MILLION, peak  # the message's own form of a small number has four bytes
