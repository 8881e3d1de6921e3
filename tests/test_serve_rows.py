"""Callers whose requests come at once each get the answer to their own, also from models whose rows are not apart."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from tests.serving import Service, ask_on, started
from tests.test_verify_behaviour import Shape, questions_of_four, write_onnx
from verify.parity import verify_model

CALLERS = 8
REQUESTS = 60
node = helper.make_node


def constant(name: str, values: Any) -> onnx.NodeProto:
    return node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(values), name))


def recurrent() -> list[onnx.NodeProto]:
    """Two layers' states of an LSTM over the four numbers of a row: (2, B, 5), and a row's own sum."""
    random = np.random.default_rng(0)
    weights = {"w": (2, 20, 1), "r": (2, 20, 5), "b": (2, 40)}
    return [
        *(constant(name, random.normal(size=shape).astype(np.float32)) for name, shape in weights.items()),
        constant("steps", [-1, 4, 1]),
        node("Reshape", ["x", "steps"], ["rows"]),
        node("Transpose", ["rows"], ["times"], perm=[1, 0, 2]),
        node("LSTM", ["times", "w", "r", "b"], ["", "y1"], hidden_size=5, direction="bidirectional"),
        constant("columns", [1]),
        node("ReduceSum", ["x", "columns"], ["y0"]),
    ]


def time_first() -> list[onnx.NodeProto]:
    """(4, B, 3): the batch is the second axis."""
    kernel = np.linspace(-1, 1, 3, dtype=np.float32).reshape(1, 3)
    return [
        constant("kernel", kernel),
        constant("last", [-1]),
        node("Unsqueeze", ["x", "last"], ["column"]),
        node("MatMul", ["column", "kernel"], ["product"]),
        node("Transpose", ["product"], ["y0"], perm=[1, 0, 2]),
    ]


MODELS: Mapping[str, tuple[list[onnx.NodeProto], Sequence[Shape]]] = {
    "state": (recurrent(), [(None, 1), (2, None, 5)]),
    "times": (time_first(), [(4, None, 3)]),
    "mean": ([node("ReduceMean", ["x", "first"], ["m"]), node("Sub", ["x", "m"], ["y0"])], [(None, 4)]),
    "softmax": ([node("Softmax", ["x"], ["y0"], axis=0)], [(None, 4)]),
    "apart": ([node("Softmax", ["x"], ["y0"], axis=1)], [(None, 4)]),
}
"""The last one's rows are apart: the others answer as sharply as it does only if their requests run alone."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("rows")
    for name, (nodes, outputs) in MODELS.items():
        write_onnx(folder / "artifacts" / name / "onnx", nodes, (None, 4), outputs)
        verify_model(folder / "artifacts" / name, questions_of_four())
    with started(folder / "artifacts", folder / "output", SERVE_WORKERS="1") as running:
        yield running


@pytest.mark.parametrize("name", MODELS)
def test_each_of_many_callers_gets_its_own_answer(service: Service, name: str) -> None:
    path = service.folder.parent / "artifacts" / name / "onnx" / "model.onnx"
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def call(caller: int) -> int:
        """How many of a caller's answers are another's."""
        random, wrong = np.random.default_rng(caller), 0
        with contextlib.closing(service.connect()) as connection:
            for _ in range(REQUESTS):
                x = random.normal(size=(1 + caller % 3, 4)).astype(np.float32)
                body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": list(x.shape), "data": x.tolist()}]}
                status, _, answer = ask_on(connection, "POST", f"/v2/models/{name}-onnx/infer", json.dumps(body))
                assert status == 200, answer
                got = {output["name"]: output for output in json.loads(answer)["outputs"]}
                right: list[NDArray[np.float32]] = session.run(names, {"x": x})
                wrong += any(
                    got[name]["shape"] != list(expected.shape)
                    or not np.allclose(got[name]["data"], expected.ravel(), rtol=0, atol=1e-6)
                    for name, expected in zip(names, right, strict=True)
                )
        return wrong

    with ThreadPoolExecutor(CALLERS) as pool:
        assert sum(pool.map(call, range(CALLERS))) == 0


@pytest.mark.parametrize("name", MODELS)
def test_the_metadata_say_whether_and_why_requests_run_alone(service: Service, name: str) -> None:
    batching = service.ask_json("GET", f"/v2/models/{name}-onnx")["parameters"]["batching"]
    assert batching["enabled"] == (name == "apart") == (batching["reason"] == "")
    assert name == "apart" or "the output y" in batching["reason"]
