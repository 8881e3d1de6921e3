"""Malformed input in bulk: seeded changes of valid requests. Any answer is fine but a failure of the server."""

import json
from typing import Any

import numpy as np
import pytest

from .mutations import changed, damaged
from .wire import HEADER_LENGTH, Answer, Model, Server, assert_same, outputs

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
        pytest.skip(f"{model.name} has an input that JSON cannot carry")
    document = model.document(model.values())
    before = outputs(server.infer(model, document))
    yield document
    assert_same(outputs(server.infer(model, document)), before)


def failures(answers: list[Answer]) -> list[str]:
    """The first few answers that are neither a result nor a refusal, and how many there are."""
    unsound = [str(answer) for answer in answers if not is_sound(answer)]
    return [f"{len(unsound)} of {len(answers)}", *unsound[:5]] if unsound else []


def test_a_request_with_odd_values_never_fails_the_server(server: Server, model: Model, good: Any) -> None:
    """Required API, Inference Response JSON Error Object: a failed request has an error status and {"error"}."""
    random = np.random.default_rng(0)
    assert failures([server.infer(model, changed(good, random)) for _ in range(CASES)]) == []


def test_a_request_with_damaged_bytes_never_fails_the_server(server: Server, model: Model, good: Any) -> None:
    """Required API, Inference Response JSON Error Object: a failed request has an error status and {"error"}."""
    random, path = np.random.default_rng(1), f"{model.path}/infer"
    bodies = [damaged(json.dumps(good).encode(), random) for _ in range(CASES)]
    assert failures([server.ask("POST", path, body, {"Content-Type": "application/json"}) for body in bodies]) == []


def test_damaged_raw_tensors_never_fail_the_server(
    server: Server, model: Model, good: Any, extensions: list[str]
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
