"""The conformance suite is fair to both ways of carrying the protocol: it leaves nothing out that a message can say."""

import subprocess
import sys
from typing import Any

import pytest

from contract.code import ROOT
from tests.conformance.grpc_wire import GrpcServer
from tests.conformance.wire import Inexpressible, Model, Tensor
from tests.conformance.wrong_requests import REFUSED, REFUSED_AS_JSON

MODEL = Model("model", (Tensor("x", "FP32", (-1, 3)),), (Tensor("y", "FP32", (-1, 3)),))


def encoded(document: Any) -> bytes:
    return GrpcServer("grpc://127.0.0.1:1").encode(f"{MODEL.path}/infer", document)


@pytest.mark.parametrize("what", REFUSED_AS_JSON)
def test_a_message_has_no_form_of_what_is_tested_over_http_only(what: str) -> None:
    with pytest.raises(Inexpressible):
        encoded(REFUSED_AS_JSON[what](MODEL.document(MODEL.values()), MODEL))


@pytest.mark.parametrize("what", REFUSED)
def test_a_message_differs_from_a_valid_one_where_the_document_does(what: str) -> None:
    valid = MODEL.document(MODEL.values())
    assert encoded(REFUSED[what](valid, MODEL)) != encoded(valid)


def test_over_http_the_suite_needs_no_package_of_grpc() -> None:
    code = (
        "import sys\nsys.modules.update(dict.fromkeys(('grpc', 'tritonclient', 'google.protobuf')))\n"
        "import pytest\nsys.exit(pytest.main(['tests/conformance', '--confcutdir=tests/conformance', "
        "'--url=http://127.0.0.1:1', '--collect-only', '-q', '-p', 'no:cacheprovider']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_malformed" in done.stdout
