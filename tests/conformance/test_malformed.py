"""Malformed input in bulk: seeded changes of valid requests. Any answer is fine but a failure of the server."""

import contextlib
import itertools
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from .mutations import changed, damaged
from .wire import HEADER_LENGTH, Answer, HttpServer, Inexpressible, Model, Server, assert_same, outputs, to_raw

if TYPE_CHECKING:
    from .grpc_wire import GrpcServer

CASES = 300


def is_sound(answer: Answer) -> bool:
    if answer.status == 200:
        outputs(answer)
        return True
    return answer.is_refusal


@pytest.fixture
def good(server: Server, model: Model) -> Any:
    """After the malformed requests, a good one is still answered as before."""
    if not model.fits_json:
        pytest.skip(f"{model.name} has an input that has to be raw")
    document = model.document(model.values())
    before = outputs(server.infer(model, document))
    yield document
    assert_same(outputs(server.infer(model, document)), before)


def failures(answers: list[Answer]) -> list[str]:
    """The first few answers that are neither a result nor a refusal, and how many there are."""
    unsound = [str(answer) for answer in answers if not is_sound(answer)]
    return [f"{len(unsound)} of {len(answers)}", *unsound[:5]] if unsound else []


def bodies(server: Server, path: str, document: Any, random: np.random.Generator) -> Iterator[bytes]:
    """Changed requests without end, but for those that the transport has no form for."""
    while True:
        with contextlib.suppress(Inexpressible):
            yield server.encode(path, changed(document, random))


def test_a_request_with_odd_values_never_fails_the_server(server: Server, model: Model, good: Any) -> None:
    """Required API, Inference Response JSON Error Object: a failed request has an error status and {"error"}."""
    random, path = np.random.default_rng(0), f"{model.path}/infer"
    cases = itertools.islice(bodies(server, path, good, random), CASES)
    assert failures([server.send(path, body) for body in cases]) == []


def test_a_request_with_damaged_bytes_never_fails_the_server(server: Server, model: Model, good: Any) -> None:
    """Required API, Inference Response JSON Error Object: a failed request has an error status and {"error"}."""
    random, path = np.random.default_rng(1), f"{model.path}/infer"
    whole = server.encode(path, good)
    assert failures([server.send(path, damaged(whole, random)) for _ in range(CASES)]) == []


@pytest.mark.over_http("a message of raw tensors names no lengths beside it: see the next test")
def test_damaged_raw_tensors_never_fail_the_server(
    server: HttpServer, model: Model, good: Any, extensions: list[str]
) -> None:
    """Binary tensor data extension: the lengths that a request names may be wrong."""
    if "binary_tensor_data" not in extensions:
        pytest.skip("the server does not list binary_tensor_data")
    random, path = np.random.default_rng(2), f"{model.path}/infer"
    document, payload = model.raw(model.values())
    answers = []
    for _ in range(CASES):
        header = json.dumps(changed(document, random) if random.integers(2) else document).encode()
        length = len(header) + int(random.choice([0, 0, 0, 1, -1, 10, -10, 10**6, 10**19 // 2, -(10**6)]))
        body = damaged(header + payload, random) if random.integers(2) else header + payload
        answers.append(server.ask("POST", path, body, {HEADER_LENGTH: str(length)}))
    assert failures(answers) == []


@pytest.mark.over_grpc("the lengths of raw tensors are in a header: see the test before")
def test_a_damaged_message_of_raw_tensors_never_fails_the_server(server: "GrpcServer", model: Model, good: Any) -> None:
    """ModelInferRequest, raw_input_contents: "the size of this content must match"."""
    random, path = np.random.default_rng(2), f"{model.path}/infer"
    values = model.values()
    document, _ = model.raw(values)
    parts = [to_raw(array) for array in values.values()]
    whole = server.encode_raw(model, document, parts)
    tail = whole.removeprefix(server.encode(path, document))
    cases = [body + tail for body in itertools.islice(bodies(server, path, document, random), CASES // 2)]
    cases += [damaged(whole, random) for _ in range(CASES // 2)]
    assert failures([server.send(path, body) for body in cases]) == []
