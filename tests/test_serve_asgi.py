"""The real service under gunicorn's asgi worker: the Flask application's answers, come what may."""

import contextlib
import gzip
import http.client
import json
import os
import shutil
import signal
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families

from contract.dataset import Split
from serve.app import create_app
from serve.catalog import load_catalog
from serve.pipeline import LARGE
from serve.protocol.oip import HEADER_LENGTH
from serve.replies import HEADERS
from serve.settings import Settings
from serve.stats import WRITE_SECONDS
from tests.serving import Answer, Service, ask_on, halt, started, wait_until

MAX_BYTES = 1_000_000
FORMATS = ("onnx", "tflite", "tfjs")
INFER = "/v2/models/keras_cnn-onnx/infer"


@pytest.fixture(scope="module")
def light(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts that load in an instant: two in the worker itself, one in a Node process, and a damaged one."""
    folder = tmp_path_factory.mktemp("light") / "artifacts"
    for format in FORMATS:
        shutil.copytree(artifacts / "keras_cnn" / format, folder / "keras_cnn" / format)
    shutil.copytree(artifacts / "torch_cnn" / "onnx", folder / "torch_cnn" / "onnx")
    (folder / "torch_cnn" / "onnx" / "model.onnx").write_bytes(b"damaged")
    shutil.copytree(artifacts / "samples", folder / "samples")
    return folder


@pytest.fixture(scope="module")
def service(light: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two workers, with an access log."""
    more = {"SERVE_WORKERS": "2", "SERVE_ACCESS_LOG": "1", "SERVE_MAX_BYTES": str(MAX_BYTES), "SERVE_READY": "any"}
    with started(light, tmp_path_factory.mktemp("output") / "service", **more) as running:
        wait_until(lambda: len(running.workers()) == 2)
        yield running


@pytest.fixture(scope="module")
def flask_client(light: Path) -> Iterator[FlaskClient]:
    catalog = load_catalog(light)
    yield create_app(catalog, Settings(artifacts=light, max_bytes=MAX_BYTES, ready="any")).test_client()
    catalog.close()


@pytest.fixture(scope="module")
def pixels(test_split: Split) -> Any:
    return test_split.images[:4].astype(np.float32)


def infer_json(pixels: Any, **fields: Any) -> bytes:
    tensor = {"name": "pixels", "datatype": "FP32", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
    return json.dumps({"inputs": [tensor], **fields}).encode()


def infer_binary(pixels: Any) -> tuple[bytes, str]:
    size = {"binary_data_size": pixels.nbytes}
    tensor = {"name": "pixels", "datatype": "FP32", "shape": list(pixels.shape), "parameters": size}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return header + pixels.tobytes(), str(len(header))


# The same answers as the Flask application's

Request = tuple[str, str, bytes, Mapping[str, str]]


NO_HEADERS: Mapping[str, str] = {}
TOO_LARGE = b"x" * (MAX_BYTES + 1)

GETS = [
    *("/", "/v2", "/v2/", "/v2/health/live", "/v2/health/ready", "/v2/health/ready/", "/v2/health/live?x=%ff"),
    *("/v2/models/keras_cnn-onnx", "/v2/models/keras_cnn-tfjs/ready", "/v2/models/torch_cnn-onnx/ready"),
    *("/v2/models/torch_cnn-onnx", "/v2/models/none", "/v2/models/keras_cnn-onnx/versions/2", "/nothing"),
    *("/v2/models/keras_cnn-onnx/config", "/v2/models/none/stats", "/v2/models/torch_cnn-onnx/versions/1/config"),
    *("/v1/models/keras_cnn-onnx", "/v1/models/keras_cnn-onnx/metadata", "/v1/models/torch_cnn-onnx"),
    *("/v1/models/none", "/v1/models/keras_cnn-onnx:predict", "/openapi.json", "/samples/0000.png", "/samples/x"),
    *("/artifacts/keras_cnn/onnx/manifest.json", "/artifacts/keras_cnn/onnx/../tflite/model.tflite"),
    *("/artifacts/keras_cnn/failed/onnx.log", "/artifacts/keras_cnn/failed/x"),
    *("/v2//health/live", "/v2/models/%6beras_cnn-onnx", "/v2/models/%ff%00%0a%22", "/v2/models/짧은"),
    *(INFER, "/predict/keras_cnn-onnx", "/compare", "/v2/repository/index", f"/{'x' * 3000}", "/favicon.ico"),
    *("/predict/none", "/predict/", "/predict/a/./b?c", "/predict/%ed%95%9c/config"),
    *("/report/report.html", "/report/../samples/index.json", "/report/diagnose-keras_cnn-onnx.json", "/report/x.json"),
]

OTHERS = [
    *(
        ("HEAD", path)
        for path in ("/v2/health/live", "/v2/health/ready", "/v2", INFER, "/nothing", "/samples/0000.png")
    ),
    *(("OPTIONS", path) for path in ("/v2/health/live", INFER, "/compare", "/v1/models/keras_cnn-onnx:predict")),
    *((method, INFER) for method in ("PUT", "DELETE", "PATCH", "MOVE")),
    *((method, "/v2/health/live") for method in ("DELETE", "PURGE")),
]

Post = tuple[str, bytes, Mapping[str, str]]


def infer_posts(pixels: Any) -> Iterator[Post]:
    plain, (binary, length) = infer_json(pixels), infer_binary(pixels)
    yield from ((f"/v2/models/keras_cnn-{format}/infer", plain, NO_HEADERS) for format in FORMATS)
    for format in FORMATS:
        yield f"/v2/models/keras_cnn-{format}/versions/1/infer", binary, {HEADER_LENGTH: length}
    yield INFER, pixels.tobytes(), {HEADER_LENGTH: "0"}
    yield INFER, pixels.tobytes(), {HEADER_LENGTH: "-1"}
    yield INFER, gzip.compress(plain), {"Content-Encoding": "gzip"}
    yield INFER, zlib.compress(plain), {"Content-Encoding": "deflate", "Accept-Encoding": "gzip"}
    yield INFER, infer_json(pixels.repeat(20, 0)), {"Accept-Encoding": "gzip, deflate"}
    yield INFER, infer_json(pixels.repeat(20, 0)), {"Accept-Encoding": "deflate;q=0.5, gzip;q=0"}
    yield INFER, gzip.compress(b" " * (MAX_BYTES + 1)), {"Content-Encoding": "gzip"}
    yield INFER, plain, {"Content-Encoding": "gzip"}
    yield INFER, plain, {"Content-Encoding": "br"}
    yield INFER, plain, {"X-Request-ID": "a-1"}
    yield INFER, plain, {"X-Request-ID": "x" * 300}
    yield INFER, b"{", {"X-Request-ID": "of an error"}
    yield INFER, infer_json(pixels, id="짧은"), NO_HEADERS
    yield INFER, infer_json(pixels, outputs=[{"name": "x"}]), NO_HEADERS
    yield from ((INFER, body, NO_HEADERS) for body in (b"", b"{}", b"[" * 100_000, b"\xff", TOO_LARGE))
    yield f"{INFER}/", plain, NO_HEADERS
    yield "/v2/models/none/infer", plain, NO_HEADERS
    yield "/v2/models/keras_cnn-onnx/versions/2/infer", plain, NO_HEADERS
    yield from (("/v2/models/torch_cnn-onnx/infer", body, NO_HEADERS) for body in (plain, b"{"))


def predict_posts(pixels: Any) -> Iterator[Post]:
    """TensorFlow Serving's."""
    yield "/v1/models/keras_cnn-onnx:predict", json.dumps({"instances": pixels.tolist()}).encode(), NO_HEADERS
    yield "/v1/models/keras_cnn-tfjs:predict", json.dumps({"inputs": pixels.tolist()}).encode(), NO_HEADERS
    examples = json.dumps({"examples": [{"pixels": row.ravel().tolist()} for row in pixels]}).encode()
    for path in ("", "/versions/1", "/labels/stable"):
        yield f"/v1/models/keras_cnn-onnx{path}:classify", examples, NO_HEADERS
    yield "/v1/models/keras_cnn-onnx:regress", examples, NO_HEADERS
    yield "/v1/models/keras_cnn-onnx:explain", examples, NO_HEADERS
    yield "/v1/models/keras_cnn-onnx/labels/canary:predict", examples, NO_HEADERS
    for name in ("keras_cnn", "torch_cnn", "none"):
        yield f"/v1/models/{name}-onnx:predict", b"{}", NO_HEADERS


def picture_posts(picture: bytes) -> Iterator[Post]:
    form = b'--a\r\nContent-Disposition: form-data; name="image"; filename="x.png"\r\n\r\n' + picture + b"\r\n--a--\r\n"
    multipart = {"Content-Type": "multipart/form-data; boundary=a"}
    yield "/predict/keras_cnn-onnx", picture, NO_HEADERS
    yield "/predict/keras_cnn-tfjs", form, multipart
    yield "/predict/keras_cnn-onnx", gzip.compress(picture), {"Content-Encoding": "gzip"}
    yield from (("/predict/keras_cnn-onnx", body, NO_HEADERS) for body in (b"", b"x", picture[:200], TOO_LARGE))
    yield "/predict/keras_cnn-onnx", form[:-10] + TOO_LARGE, multipart
    yield from ((f"/predict/{name}-onnx", picture, NO_HEADERS) for name in ("torch_cnn", "none"))
    yield from (("/compare", body, {"X-Request-ID": "b"}) for body in (picture, b"x", TOO_LARGE))


def other_posts() -> Iterator[Post]:
    for body in (b"", b"{}", b'{"ready": true}', b"[]", TOO_LARGE):
        yield "/v2/repository/index", body, NO_HEADERS
    yield "/v2/repository/models/keras_cnn-onnx/unload", b"", NO_HEADERS
    yield "/v2/repository/models/none/load", b"{}", NO_HEADERS
    yield from (("/devices", body, NO_HEADERS) for body in (b"", b'{"check":{},"sha256":"0"}', TOO_LARGE))
    yield "/v2/health/live", b"", NO_HEADERS
    yield "/nothing", TOO_LARGE, NO_HEADERS


@pytest.fixture(scope="module")
def table(light: Path, pixels: Any) -> list[Request]:
    """Good and bad requests to every route."""
    picture = (light / "samples" / "0000.png").read_bytes()
    posts = [*infer_posts(pixels), *predict_posts(pixels), *picture_posts(picture), *other_posts()]
    return [
        *(("GET", path, b"", NO_HEADERS) for path in GETS),
        *(("POST", *post) for post in posts),
        *((method, path, b"", NO_HEADERS) for method, path in OTHERS),
    ]


IMPORTANT = [
    *HEADERS,
    *("Content-Type", "Content-Encoding", "Vary", "Allow", "Retry-After", "Location", "ETag", "Cache-Control"),
    *("X-Request-ID", HEADER_LENGTH),
]


def comparable(status: int, headers: Any, body: bytes) -> Any:
    """What two answers to the same request must have in common: all but times and the body's compressed bytes."""
    if body and (coding := headers.get("Content-Encoding")):
        body = gzip.decompress(body) if coding == "gzip" else zlib.decompress(body)
    if headers.get("Content-Type") == "application/json" and body:
        return status, important(headers), without_times(json.loads(body))
    return status, important(headers), body


def important(headers: Any) -> dict[str, Any]:
    found = {name: headers.get(name) for name in IMPORTANT}
    if found["Allow"]:
        found["Allow"] = sorted(found["Allow"].split(", "))
    if found["Location"]:
        found["Location"] = "/" + found["Location"].split("/", 3)[-1]
    return found


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key != "ms"}
    if isinstance(value, float):
        return round(value, 6)
    return [without_times(item) for item in value] if isinstance(value, list) else value


def test_every_request_is_answered_as_the_flask_application_answers_it(
    service: Service, flask_client: FlaskClient, table: list[Request]
) -> None:
    different = []
    with contextlib.closing(service.connect()) as connection:
        for method, path, body, headers in table:
            sent = {"Host": "localhost", **headers}
            got = comparable(*ask_on(connection, method, quoted(path), body or None, sent))
            response = flask_client.open(path, method=method, data=body, headers=sent)
            expected = comparable(response.status_code, response.headers, response.data)
            if got != expected:
                different.append(f"{method} {path[:80]} {dict(headers)} {body[:40]!r}:\n  {got}\n  {expected}")
    assert not different, "\n".join(different)
    assert len(table) > 100


def quoted(path: str) -> str:
    return "".join(
        letter if letter.isascii() else "".join(f"%{byte:02x}" for byte in letter.encode()) for letter in path
    )


def test_the_table_has_every_route(flask_client: FlaskClient, table: list[Request]) -> None:
    adapter = flask_client.application.url_map.bind("localhost")
    routed = set()
    for method, path, _, _ in table:
        with contextlib.suppress(Exception):
            routed.add(adapter.match(path.partition("?")[0], method)[0])
    routes = {rule.endpoint for rule in flask_client.application.url_map.iter_rules()}
    assert routes - routed == {"api.prometheus"}  # its answer is counts: see below


# Several workers


def requests_of(service: Service, model: str, code: str = "200") -> float:
    """How many requests the metrics count."""
    text = service.ask("GET", "/metrics")[2].decode()
    (family,) = (family for family in text_string_to_metric_families(text) if family.name == "rosetta_requests")
    counts = [s.value for s in family.samples if s.labels == {"model": model, "code": code}]
    return sum(counts)


def stats_of(service: Service, model: str) -> Any:
    (stats,) = json.loads(service.ask("GET", f"/v2/models/{model}/stats")[2])["model_stats"]
    return stats


def test_the_counts_of_both_workers_add_up(service: Service, pixels: Any) -> None:
    time.sleep(5 * WRITE_SECONDS)  # by then, each worker knows what the other did before
    before, before_rows = requests_of(service, "keras_cnn-tflite"), stats_of(service, "keras_cnn-tflite")
    path, body = "/v2/models/keras_cnn-tflite/infer", infer_json(pixels)

    def ask(number: int) -> int:
        return service.ask("POST", path, body if number % 4 else b"{")[0]

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(ask, range(80)))
    assert (statuses.count(200), statuses.count(400)) == (60, 20)
    wait_until(lambda: requests_of(service, "keras_cnn-tflite") == before + 60)
    for _ in range(10):  # whichever worker answers
        wait_until(
            lambda: stats_of(service, "keras_cnn-tflite")["inference_count"] == before_rows["inference_count"] + 240
        )
    now = stats_of(service, "keras_cnn-tflite")
    assert now["inference_stats"]["fail"]["count"] >= before_rows["inference_stats"]["fail"]["count"] + 20
    assert 1 <= now["execution_count"] - before_rows["execution_count"] <= 60


def test_a_killed_worker_is_replaced_and_no_count_falls(service: Service, pixels: Any) -> None:
    for _ in range(20):
        assert service.ask("POST", INFER, infer_json(pixels))[0] == 200
    before = requests_of(service, "keras_cnn-onnx")
    workers = service.workers()
    victim = min(workers)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: len(service.workers() - {victim}) == 2)
    assert requests_of(service, "keras_cnn-onnx") >= before
    for _ in range(20):
        assert service.ask("POST", INFER, infer_json(pixels))[0] == 200
    wait_until(lambda: requests_of(service, "keras_cnn-onnx") >= before + 20)


def test_connections_are_shared_out_and_a_new_worker_gets_its_share(service: Service) -> None:
    """Roughly: where others keep the processors busy, a worker that has fewer may wake up too late."""
    with contextlib.ExitStack() as kept:

        def open_many(count: int) -> int:
            """What the worker with fewer connections has."""
            for _ in range(count):
                connection = kept.enter_context(contextlib.closing(service.connect()))
                assert ask_on(connection, "GET", "/v2/health/live")[0] == 200
            return min(sockets_of(worker) for worker in service.workers()) - alone

        alone = min(map(sockets_of, service.workers()))
        wait_until(lambda: open_many(1) >= 1)  # both listen
        assert open_many(40) >= 8
        victim = min(service.workers())
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: len(service.workers() - {victim}) == 2)
        wait_until(lambda: open_many(1) >= 1)
        assert open_many(40) >= 8


def sockets_of(process: int) -> int:
    links = Path(f"/proc/{process}/fd").iterdir()
    return sum(link.readlink().name.startswith("socket:") for link in links)


# Connections


def raw_request(service: Service, sent: bytes, seconds: float = 10) -> bytes:
    """Send bytes on a connection, and read until it is closed or nothing comes any more."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=seconds) as connection:
        connection.sendall(sent)
        got = b""
        with contextlib.suppress(TimeoutError):
            while data := connection.recv(65536):
                got += data
        return got


def post_bytes(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: a", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def test_pipelined_requests_are_answered_in_order(service: Service, pixels: Any) -> None:
    requests = [post_bytes(INFER, infer_json(pixels[:1], id=str(n))) for n in range(20)]
    requests[7] = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    requests[11] = post_bytes(INFER, b"{")
    requests.append(b"GET /v2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    answers = raw_request(service, b"".join(requests))
    assert answers.count(b"HTTP/1.1 200 OK") == 20
    assert answers.count(b"HTTP/1.1 400 ") == 1
    ids = [int(part.partition(b'"')[0]) for part in answers.split(b'"id":"')[1:]]
    assert ids == [n for n in range(20) if n not in (7, 11)]


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (INFER, b"{", 400),
        (INFER, b"x" * (MAX_BYTES + 1), 413),
        ("/compare", b"x" * (2 * MAX_BYTES), 413),
        ("/predict/none", b"x" * (2 * MAX_BYTES), 404),
        ("/nothing", b"x" * (2 * MAX_BYTES), 404),
        ("/v2", b"x" * 100_000, 405),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_connection_is_good_after_an_error(
    service: Service, pixels: Any, path: str, body: bytes, code: int, chunked: bool
) -> None:
    with contextlib.closing(service.connect()) as connection:
        connection.connect()
        ours = connection.sock
        for _ in range(3):
            sent: Any = iter([body[:10], body[10:]]) if chunked else body
            status, _, answer = ask_on(connection, "POST", path, sent)
            assert (status, json.loads(answer).keys()) == (code, {"error"})
            assert ask_on(connection, "POST", INFER, infer_json(pixels))[0] == 200
        assert connection.sock is ours


NOT_HTTP = [
    (b"BREW /v2 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"hello\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01", 400),
    (b"GET /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\n", 400),
    (b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", 400),
    (b"POST /v2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
    (b"GET /v2 HTTP/1.1\r\nHost: a\r\nA b: c\r\n\r\n", 400),
    (b"GET /v2 HTTP/1.1\r\n" + b"a: b\r\n" * 101 + b"\r\n", 431),
    (b"GET /v2 HTTP/1.1\r\na: " + b"b" * 1_000_000, 431),
    (b"GET /" + b"b" * 1_000_000, 414),
]


@pytest.mark.parametrize(("sent", "code"), NOT_HTTP)
@pytest.mark.parametrize("before", [b"", b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n", b"of tensors"])
def test_bytes_that_are_not_http_are_refused_and_end_the_connection(
    service: Service, pixels: Any, sent: bytes, code: int, before: bytes
) -> None:
    before = post_bytes(INFER, infer_json(pixels)) if before == b"of tensors" else before
    answers = raw_request(service, before + sent + b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answers.count(b"HTTP/1.1 200 OK") == (1 if before else 0)
    head, _, body = answers[answers.rindex(b"HTTP/1.1 ") :].partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % code)
    assert b"connection: close" in head
    assert json.loads(body).keys() == {"error"}
    assert service.ask("POST", INFER, infer_json(pixels))[0] == 200


@pytest.mark.parametrize("path", ["/v2", INFER])
def test_another_protocol_is_not_spoken_but_the_request_is_answered(service: Service, pixels: Any, path: str) -> None:
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AA")
    sent = post_bytes(path, infer_json(pixels), *upgrade)
    answer = raw_request(service, sent + b"GET /v2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 " if path == INFER else b"HTTP/1.1 405 ")
    assert answer.count(b"HTTP/1.1 200 OK") == (2 if path == INFER else 1)


def test_a_caller_may_wait_for_100_continue_before_the_body(service: Service, pixels: Any) -> None:
    body = infer_json(pixels)
    head, _, _ = post_bytes(INFER, body, "Expect: 100-continue", "Connection: close").partition(b"\r\n\r\n")
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


def test_a_body_that_comes_in_many_pieces_is_one(service: Service, pixels: Any) -> None:
    body, length = infer_binary(pixels.repeat(19, 0))
    assert 200_000 < len(body) < LARGE
    whole = post_bytes(INFER, body, f"{HEADER_LENGTH}: {length}", "Connection: close")
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        for start in range(0, len(whole), 7000):
            connection.sendall(whole[start : start + 7000])
            time.sleep(0.002)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


@pytest.fixture(scope="module")
def impatient(light: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that gives a request one second."""
    with started(light, tmp_path_factory.mktemp("impatient") / "service", SERVE_TIMEOUT="1") as running:
        yield running


@pytest.mark.parametrize(
    "sent", [b"", b"GET /v2 HT", post_bytes(INFER, b"x" * 1000)[:-990], post_bytes("/compare", b"x" * 1000)[:-990]]
)
def test_a_request_that_is_not_whole_in_time_is_408(impatient: Service, sent: bytes) -> None:
    start = time.monotonic()
    head, _, body = raw_request(impatient, sent, seconds=20).partition(b"\r\n\r\n")
    assert 1 <= time.monotonic() - start < 10
    assert head.startswith(b"HTTP/1.1 408 ")
    assert "was not complete within 1 s" in json.loads(body)["error"]


def test_one_who_does_not_read_is_let_go(impatient: Service, pixels: Any) -> None:
    with socket.create_connection(("127.0.0.1", impatient.port), timeout=20) as connection:
        connection.sendall(b"GET /artifacts/keras_cnn/onnx/model.onnx HTTP/1.1\r\nHost: a\r\n\r\n" * 2000)
        deadline = time.monotonic() + 30
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while time.monotonic() < deadline:
                connection.sendall(b"G")
                time.sleep(0.1)
    assert impatient.ask("POST", INFER, infer_json(pixels))[0] == 200
    assert "Traceback" not in impatient.log


def test_a_connection_over_the_limit_is_refused_with_retry_after(single: Service, pixels: Any) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(Settings().max_connections):
            busy = stack.enter_context(socket.create_connection(("127.0.0.1", single.port), timeout=20))
            busy.sendall(b"POST /v2")
        answer = raw_request(single, post_bytes(INFER, infer_json(pixels)))
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer.lower()
    wait_until(lambda: single.ask("POST", INFER, infer_json(pixels))[0] == 200)


@pytest.mark.parametrize("path", [INFER, "/predict/keras_cnn-onnx"])
def test_slow_senders_do_not_block_others(service: Service, light: Path, pixels: Any, path: str) -> None:
    beginnings = [
        *[post_bytes(path, b"x" * 1000)[:-990]] * 25,
        *[f"POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab".encode()] * 10,
        *[b"POST /v2/models/ke"] * 10,
    ]
    with contextlib.ExitStack() as stack:
        for beginning in beginnings:
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=10))
            connection.sendall(beginning)
        picture, start = (light / "samples" / "0000.png").read_bytes(), time.monotonic()
        for _ in range(10):
            assert service.ask("POST", INFER, infer_json(pixels))[0] == 200
            assert service.ask("POST", "/predict/keras_cnn-onnx", picture)[0] == 200
            assert service.ask("GET", "/v2")[0] == 200
        assert time.monotonic() - start < 10


def test_a_large_body_does_not_hold_up_the_others(single: Service, pixels: Any) -> None:
    """A megabyte of nested numbers takes a while to read; health checks are answered meanwhile."""
    nested = json.dumps({"instances": np.zeros((250, 28, 28, 1)).tolist()}).encode()
    assert 250_000 < len(nested) < 32_000_000
    with ThreadPoolExecutor(2) as pool:
        sent = [pool.submit(single.ask, "POST", "/v1/models/keras_cnn-onnx:predict", nested) for _ in range(6)]
        assert single.ask("GET", "/v2/health/live")[0] == 200
        assert single.ask("POST", INFER, infer_json(pixels))[0] == 200
        for done in sent:
            status, _, body = done.result()
            assert (status, len(json.loads(body)["predictions"])) == (200, 250)


def test_a_caller_that_hangs_up_in_the_middle_does_no_harm(service: Service, pixels: Any) -> None:
    whole = post_bytes(INFER, infer_json(pixels))
    for length in (10, 100, 500, len(whole) - 1, len(whole)):
        for path in (INFER, "/compare"):
            with socket.create_connection(("127.0.0.1", service.port)) as connection:
                connection.sendall(whole.replace(INFER.encode(), path.encode())[:length])
    assert service.ask("POST", INFER, infer_json(pixels))[0] == 200
    assert "Traceback" not in service.log


@pytest.mark.parametrize("path", ["/v2/health/live", "/v2", INFER, "/compare"])
@pytest.mark.parametrize("sent", ["a-1", "x" * 200, 'of Mr. O\'Brien "7"'])
def test_a_request_id_comes_back(service: Service, path: str, sent: str) -> None:
    method = "POST" if path in (INFER, "/compare") else "GET"
    assert service.ask(method, path, headers={"X-Request-ID": sent})[1]["X-Request-ID"] == sent


@pytest.mark.parametrize("sent", ["x" * 201, "", "a\tb", "caf\xe9"])
@pytest.mark.parametrize("path", ["/v2/health/live", "/v2"])
def test_a_request_id_that_is_not_short_plain_text_does_not(service: Service, path: str, sent: str) -> None:
    status, headers, _ = service.ask("GET", path, headers={"X-Request-ID": sent})
    assert (status, headers["X-Request-ID"]) == (200, None)


# The access log


def logged(service: Service) -> list[Any]:
    return [json.loads(line) for line in service.printed.splitlines() if line.startswith("{")]


TRICKS = [
    '/%22,"status":200,"x":"',
    "/%0a{%22forged%22:true}",
    "/\\%22%5c",
    "/%5c%22,%22forged%22:1,%22",
    "/%00%1b[31m%7f",
    "/%ff%fe",
    "/%e2%80%a8%f0%9f%98%80",
    "/%(s)s%25(h)s{}",
]


@pytest.mark.parametrize("trick", TRICKS)
def test_the_access_log_is_json_for_any_request(service: Service, trick: str) -> None:
    name = str(time.monotonic_ns())
    sent = f'GET {trick} HTTP/1.1\r\nHost: a\r\nX-Request-ID: {name}\r\nUser-Agent: "\\\r\nConnection: close\r\n\r\n'
    answer = raw_request(service, sent.encode())
    status = int(answer.split()[1])
    assert status in (400, 404)
    if status == 404:
        wait_until(lambda: any(line["request_id"] == name for line in logged(service)))
        (line,) = (line for line in logged(service) if line["request_id"] == name)
        assert (line["method"], line["status"], line["client"]) == ("GET", 404, "127.0.0.1")
        assert line["path"].startswith("/")
    assert not any("forged" in line for line in logged(service))


def test_each_request_has_a_line_with_its_numbers(service: Service, pixels: Any) -> None:
    _, _, body = service.ask("POST", INFER, infer_json(pixels), {"X-Request-ID": "this one"})
    wait_until(lambda: any(line["request_id"] == "this one" for line in logged(service)))
    (line,) = (line for line in logged(service) if line["request_id"] == "this one")
    of_request = {"time", "client", "key", "method", "path", "model", "request_id"}
    assert line.keys() == of_request | {"rows", "queue_ms", "status", "bytes", "seconds"}
    assert (line["path"], line["status"], line["bytes"]) == (INFER, 200, len(body))
    assert 0 < line["seconds"] < 10
    assert line["time"].endswith("+00:00")


# How it starts, fails and ends


def test_it_is_not_ready_before_a_model_is_and_ready_afterwards(service: Service, light: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(light / "torch_cnn", damaged / "torch_cnn")
    with started(damaged, tmp_path / "output") as running:
        assert running.ask("GET", "/v2/health/live")[::2] == (200, b'{"live":true}')
        assert running.ask("GET", "/v2/health/ready")[::2] == (503, b'{"ready":false}')
    assert service.ask("GET", "/v2/health/ready")[::2] == (200, b'{"ready":true}')


@pytest.fixture
def single(light: Path, tmp_path: Path) -> Iterator[Service]:
    """One worker."""
    with started(light, tmp_path / "output") as running:
        yield running


def under_load(service: Service, bodies: Mapping[str, bytes], act: Callable[[], None]) -> dict[str, list[int]]:
    """Ask for each path on four connections, act after half a second, go on for one more; the statuses by path."""
    stop = threading.Event()

    def ask(path: str) -> list[int]:
        statuses = []
        with contextlib.closing(service.connect()) as connection:
            while not stop.is_set():
                try:
                    statuses.append(ask_on(connection, "POST", path, bodies[path])[0])
                except (OSError, http.client.HTTPException):
                    statuses.append(0)
                    connection.close()
        return statuses

    with ThreadPoolExecutor(4 * len(bodies)) as pool:
        sent = {path: [pool.submit(ask, path) for _ in range(4)] for path in bodies}
        time.sleep(0.5)
        act()
        time.sleep(1)
        stop.set()
        return {path: [status for done in all_of for status in done.result()] for path, all_of in sent.items()}


def test_a_node_process_killed_under_load_fails_only_its_own_requests(single: Service, pixels: Any) -> None:
    def kill() -> None:
        (node,) = (process for process, name in single.descendants().items() if "node" in name.lower())
        os.kill(node, signal.SIGKILL)

    tfjs, body = "/v2/models/keras_cnn-tfjs/infer", infer_json(pixels)
    statuses = under_load(single, {tfjs: body, INFER: body}, kill)
    assert set(statuses[INFER]) == {200}
    assert set(statuses[tfjs]) <= {200, 503}
    assert statuses[tfjs].count(503) <= 4
    assert statuses[tfjs].count(200) > 4
    assert single.ask("POST", tfjs, body)[0] == 200
    assert "Traceback" not in single.log


def test_sigterm_finishes_what_was_accepted(single: Service, light: Path, pixels: Any) -> None:
    """Requests that hang in Node when the signal comes are answered, and so is one whose body is still on its way."""
    picture = (light / "samples" / "0000.png").read_bytes()
    (node,) = (process for process, name in single.descendants().items() if "node" in name.lower())
    tfjs, body = "/v2/models/keras_cnn-tfjs/infer", infer_json(pixels)
    halt(node)
    with ThreadPoolExecutor(6) as pool:
        sent = [pool.submit(single.ask, "POST", tfjs, body) for _ in range(4)]
        sent.append(pool.submit(single.ask, "POST", "/predict/keras_cnn-tfjs", picture))
        whole = post_bytes(INFER, body)
        with socket.create_connection(("127.0.0.1", single.port), timeout=20) as slow:
            slow.sendall(whole[:-10])
            time.sleep(0.5)
            single.process.terminate()
            time.sleep(1.5)
            os.kill(node, signal.SIGCONT)
            slow.sendall(whole[-10:])
            assert slow.recv(1000).startswith(b"HTTP/1.1 200 OK")
        assert [done.result()[0] for done in sent] == [200] * 5
    start = time.monotonic()
    assert single.process.wait(20) == 0
    assert time.monotonic() - start < 10
    assert "Traceback" not in single.log


def test_an_idle_connection_does_not_hold_up_the_end(single: Service) -> None:
    with contextlib.closing(single.connect()) as connection:
        assert ask_on(connection, "GET", "/v2")[0] == 200
        start = time.monotonic()
        single.process.terminate()
        assert single.process.wait(20) == 0
        assert time.monotonic() - start < 8


def test_more_than_the_queue_holds_is_refused_and_the_rest_is_answered(
    light: Path, tmp_path: Path, pixels: Any
) -> None:
    with started(light, tmp_path / "output", SERVE_MAX_QUEUE="8", SERVE_MAX_BATCH="4") as running:
        (node,) = (process for process, name in running.descendants().items() if "node" in name.lower())
        halt(node)
        tfjs, body = "/v2/models/keras_cnn-tfjs/infer", infer_json(pixels)
        with ThreadPoolExecutor(12) as pool:
            sent = [pool.submit(running.ask, "POST", tfjs, body) for _ in range(12)]
            wait_until(lambda: sum(done.done() for done in sent) >= 9)  # one runs, two wait
            assert running.ask("POST", INFER, body)[0] == 200
            os.kill(node, signal.SIGCONT)
            answers: list[Answer] = [done.result() for done in sent]
        statuses = [status for status, _, _ in answers]
        assert 9 <= statuses.count(503) <= 10
        assert statuses.count(200) + statuses.count(503) == 12
        assert {headers["Retry-After"] for status, headers, _ in answers if status == 503} == {"1"}
        assert {json.loads(got)["error"][:24] for status, _, got in answers if status == 503} == {
            "keras_cnn-tfjs is busy: "
        }


def test_a_request_that_takes_too_long_is_504(light: Path, tmp_path: Path, pixels: Any) -> None:
    with started(light, tmp_path / "output", SERVE_TIMEOUT="1") as running:
        (node,) = (process for process, name in running.descendants().items() if "node" in name.lower())
        halt(node)
        tfjs, start = "/v2/models/keras_cnn-tfjs/infer", time.monotonic()
        status, _, answer = running.ask("POST", tfjs, infer_json(pixels))
        assert (status, "within 1 s" in json.loads(answer)["error"]) == (504, True)
        assert 0.9 < time.monotonic() - start < 5
        limited = infer_json(pixels, parameters={"timeout": 50_000})
        status, _, answer = running.ask("POST", tfjs, limited)
        assert (status, "within 0.05 s" in json.loads(answer)["error"]) == (504, True)
        os.kill(node, signal.SIGCONT)
        wait_until(lambda: running.ask("POST", tfjs, infer_json(pixels))[0] == 200)


def test_each_request_that_wants_times_gets_its_own(service: Service) -> None:
    pixels = np.zeros((1, 28, 28, 1))
    wanted = infer_json(pixels, parameters={"times": True})
    for _ in range(3):  # the fast ways to read a request remember what came before
        times = service.ask_json("POST", INFER, wanted)["parameters"]
        assert 0 < times["compute_ms"] < 5000 and times["queue_ms"] >= 0
        assert "parameters" not in service.ask_json("POST", INFER, infer_json(pixels))
