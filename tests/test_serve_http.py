"""HTTP/1.1 as RFC 9112 has it: what is refused, in which order answers come, and whose requests are answered."""

import contextlib
import gzip
import json
import re
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serve.app import create_app
from serve.catalog import Catalog
from serve.connection import MAX_HEADER_BYTES, MAX_HEADERS, MAX_URL
from serve.dataplane import DataPlane
from serve.open_files import connections_beside, too_few_files
from serve.origins import Origins
from serve.protocol import oip
from serve.settings import SettingError, Settings
from serve.stats import NO_MODEL
from tests.serving import Service, started, wait_until
from tests.test_docs import write_model

INFER = b"/v2/models/keras_cnn-onnx/infer"


def zeros(rows: int) -> bytes:
    """A request of so many rows."""
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [rows, 28, 28, 1], "data": [0] * 784 * rows}
    return json.dumps({"inputs": [tensor]}).encode()


BODY = zeros(1)


@pytest.fixture(scope="module")
def service(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = {"SERVE_FORMATS": "onnx", "SERVE_HOSTS": "models.example.org", "SERVE_CORS": "https://app.example.org"}
    with started(artifacts, tmp_path_factory.mktemp("output") / "service", **settings) as running:
        yield running


def get(target: bytes = b"/v2/health/live", *lines: bytes, version: bytes = b"HTTP/1.1", host: bytes = b"a") -> bytes:
    hosts = (b"Host: " + host,) if host else ()
    return b"\r\n".join([b"GET " + target + b" " + version, *hosts, *lines, b"", b""])


def post(*lines: bytes, body: bytes = BODY, target: bytes = INFER, host: bytes = b"a") -> bytes:
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join([b"POST " + target + b" HTTP/1.1", b"Host: " + host, length, *lines, b"", body])


def chunked(body: bytes, *trailers: bytes) -> bytes:
    head = b"\r\n".join([b"POST " + INFER + b" HTTP/1.1", b"Host: a", b"Transfer-Encoding: chunked", b"", b""])
    return head + b"%x\r\n%b\r\n0\r\n" % (len(body), body) + b"".join(line + b"\r\n" for line in trailers) + b"\r\n"


Answer = tuple[int, dict[str, str], bytes]
"""Status, headers, body."""


def ask(service: Service, sent: bytes, count: int = 1) -> list[Answer]:
    """The answers to these bytes, up to the number that is expected, and what comes with the last one."""
    answers: list[Answer] = []
    received = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        connection.sendall(sent)
        while len(answers) < count and (data := connection.recv(65536)):
            received += data
            while (answer := first_answer(received)) is not None:
                answers.append(answer[0])
                received = answer[1]
    assert received == b""
    return answers


def first_answer(received: bytes) -> tuple[Answer, bytes] | None:
    """An answer that is complete, and what comes behind it."""
    head, end, rest = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if not end or len(rest) < (size := int(headers["content-length"])):
        return None
    return (int(first.split()[1]), headers, rest[:size]), rest[size:]


LONG_HEADER = b"X: " + b"x" * (MAX_HEADER_BYTES // 20)

TABLE: dict[str, tuple[bytes, int]] = {
    "a path": (get(), 200),
    "a whole address": (get(b"http://a/v2/health/live"), 200),
    "a whole address with a query": (get(b"http://a/v2/health/live?x=1"), 200),
    "a whole address of another scheme": (get(b"ftp://a/"), 400),
    "a whole address without a host": (get(b"http:///v2"), 400),
    "no path": (get(b"v2"), 400),
    "a fragment": (get(b"/v2#x"), 400),
    "a star": (get(b"*"), 400),
    "a URL of 65,600 bytes": (get(b"/" + b"x" * 65_600), 414),
    "the longest URL": (get(b"/v2/health/live?" + b"x" * (MAX_URL - 16)), 200),
    "one byte more": (get(b"/v2/health/live?" + b"x" * (MAX_URL - 15)), 414),
    "no Host": (get(host=b""), 400),
    "no Host in HTTP/1.0": (get(host=b"", version=b"HTTP/1.0"), 200),
    "two Host": (get(b"/v2", b"Host: a"), 400),
    "two Origin": (get(b"/v2", b"Origin: http://a", b"Origin: http://a"), 400),
    "an empty Host": (get(b"/v2", b"Host: ", host=b""), 400),
    "a Host with a path": (get(host=b"a/b"), 400),
    "a Host with a user": (get(host=b"x@a"), 400),
    "HTTP/0.9": (b"GET /v2\r\n\r\n", 505),
    "HTTP/0.9 by name": (get(version=b"HTTP/0.9"), 505),
    "HTTP/2.0": (get(version=b"HTTP/2.0"), 505),
    "HTTP/1.2": (get(version=b"HTTP/1.2"), 400),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "another protocol": (get(version=b"ICE/1.0"), 400),
    "an unknown method": (get().replace(b"GET", b"GOT"), 400),
    "CONNECT": (get(b"a:80").replace(b"GET", b"CONNECT"), 400),
    "a space before a colon": (get(b"/v2", b"X : 1"), 400),
    "a folded header": (get(b"/v2", b"X: 1", b" 2"), 400),
    "a NUL in a header": (get(b"/v2", b"X: a\0b"), 400),
    "a bare CR in a header": (get(b"/v2", b"X: a\rb"), 400),
    "a header without a name": (get(b"/v2", b": 1"), 400),
    "a header without a colon": (get(b"/v2", b"X"), 400),
    "a newline alone": (b"GET /v2 HTTP/1.1\nHost: a\n\n", 400),
    "a URL with a space": (get(b"/v2 /x"), 400),
    "a URL with bytes that are not ASCII": (get(b"/\xff"), 400),
    "two lengths": (post(b"Content-Length: 1"), 400),
    "a length and chunks": (post(b"Transfer-Encoding: chunked"), 400),
    "a length with a sign": (b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", 400),
    "a negative length": (b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\nx", 400),
    "a length of 30 digits": (b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\nx", 400),
    "chunks that are encoded once more": (
        b"POST /v2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        400,
    ),
    "a chunk size that is not a number": (
        b"POST /v2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n\r\n",
        400,
    ),
    "chunks": (chunked(BODY), 200),
    "a trailer": (chunked(BODY, b"X: 1"), 200),
    "a trailer that would change the request": (
        chunked(BODY, b"Content-Encoding: gzip", b"Host: b", b"Inference-Header-Content-Length: 4"),
        200,
    ),
    "as many headers as allowed": (get(b"/v2", *[b"X: 1"] * (MAX_HEADERS - 1)), 200),
    "one header more": (get(b"/v2", *[b"X: 1"] * MAX_HEADERS), 431),
    "headers of 95 % of the limit": (get(b"/v2", *[LONG_HEADER] * 19), 200),
    "headers of 107 % of the limit": (get(b"/v2", *[LONG_HEADER] * 22), 431),
    "an offer of another protocol": (get(b"/v2", b"Connection: Upgrade", b"Upgrade: h2c"), 200),
    "a strange name for the service": (get(host=b"evil.example"), 421),
    "a strange name in a whole address": (get(b"http://evil.example/v2"), 421),
    "an address": (get(host=b"10.1.2.3:8000"), 200),
    "an address of IPv6": (get(host=b"[::1]:8000"), 200),
    "localhost": (get(host=b"LOCALHOST:80"), 200),
    "a container's name": (get(host=b"serve-onnx:8000"), 200),
    "a name of Kubernetes": (get(host=b"serve.default.svc.cluster.local"), 200),
    "a name of the settings": (get(host=b"models.example.org"), 200),
    "a POST from the page": (post(b"Origin: http://a", b"Sec-Fetch-Site: same-origin"), 200),
    "a POST from the page, by its origin": (post(b"Origin: http://a"), 200),
    "a POST from another site": (post(b"Origin: http://b", b"Sec-Fetch-Site: cross-site"), 403),
    "a POST from another port": (post(b"Origin: http://a:1", b"Sec-Fetch-Site: same-site"), 403),
    "a POST from another site, by its origin": (post(b"Origin: http://b"), 403),
    "a POST from a file": (post(b"Origin: null"), 403),
    "a POST from a named site": (post(b"Origin: https://app.example.org", b"Sec-Fetch-Site: cross-site"), 200),
    "a GET from another site": (get(b"/v2", b"Origin: http://b", b"Sec-Fetch-Site: cross-site"), 200),
}


@pytest.mark.parametrize("case", TABLE)
def test_a_request_gets_its_status_alone_and_behind_good_ones(service: Service, case: str) -> None:
    sent, status = TABLE[case]
    assert [answer[0] for answer in ask(service, sent)] == [status]
    before = get(b"/v2/health/ready") + post() + get(b"/v2")
    answers = ask(service, before + sent, 4)
    assert [answer[0] for answer in answers] == [200, 200, 200, status]
    assert b"outputs" in answers[1][2]
    if status >= 400:
        assert set(json.loads(answers[3][2])) == {"error"}
        assert answers[3][1]["connection"] == "close"


def test_what_is_refused_before_it_reaches_a_model_is_counted_by_its_status(service: Service) -> None:
    """Also behind a request that is answered, which counts as its model's."""
    before = refusals(service)
    wrong = [case for case, (_, status) in TABLE.items() if status >= 400]
    for case in wrong:
        ask(service, TABLE[case][0])
        ask(service, post() + TABLE[case][0], 2)
    expected = Counter(TABLE[case][1] for case in wrong)
    assert {400, 403, 414, 421, 431, 505} <= expected.keys()
    assert refusals(service) - before == expected + expected


def refusals(service: Service) -> Counter[int]:
    """How many requests the metrics count that reached no model, by their status."""
    text = service.ask("GET", "/metrics")[2].decode()
    (family,) = (family for family in text_string_to_metric_families(text) if family.name == "rosetta_requests")
    counted = [sample for sample in family.samples if sample.labels["model"] == NO_MODEL]
    return Counter({int(sample.labels["code"]): int(sample.value) for sample in counted})


@pytest.mark.parametrize("good", [[post()] * 2, [get(b"/v2")] * 2, [get(b"/v2"), post()], [post(), get(b"/v2")] * 3])
def test_answers_come_in_order_before_the_refusal_of_what_follows(service: Service, good: list[bytes]) -> None:
    answers = ask(service, b"".join(good) + b"garbage\r\n\r\n", len(good) + 1)
    assert [answer[0] for answer in answers] == [200] * len(good) + [400]
    assert [b"outputs" in answer[2] for answer in answers[:-1]] == [sent.startswith(b"POST") for sent in good]
    assert "Traceback" not in service.log


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        (post(host=b"evil.example"), 421),
        (post(target=b"http://evil.example" + INFER), 421),
        (post(b"Origin: http://b"), 403),
        (post().replace(b"HTTP/1.1", b"HTTP/1.2", 1), 400),
        (post().replace(b"POST", b"CONNECT", 1), 400),
        (post(), 200),
    ],
)
def test_a_request_behind_equal_ones_is_checked_where_it_differs(service: Service, changed: bytes, status: int) -> None:
    assert [answer[0] for answer in ask(service, 2 * post() + changed, 3)] == [200, 200, status]


PACKED = gzip.compress(BODY)
PLAIN, GZIP, IDENTITY = b"Content-Encoding:", b"Content-Encoding: gzip", b"Content-Encoding: identity"


@pytest.mark.parametrize(
    ("lines", "body", "status"),
    [
        ((GZIP, GZIP), PACKED, 415),
        ((GZIP, GZIP), gzip.compress(PACKED), 415),
        ((b"Content-Encoding: gzip, gzip",), PACKED, 415),
        ((GZIP, b"content-encoding: br"), PACKED, 415),
        ((b"Content-Encoding: br", GZIP), PACKED, 415),
        *(((first, GZIP), PACKED, 200) for first in (IDENTITY, PLAIN)),
        *(((GZIP, last), PACKED, 200) for last in (IDENTITY, PLAIN)),
        ((IDENTITY, IDENTITY), BODY, 200),
    ],
)
def test_several_lines_of_an_encoding_are_one_list(
    service: Service, artifacts: Path, lines: tuple[bytes, ...], body: bytes, status: int
) -> None:
    """RFC 9110, 5.3. Also for a picture, which Flask reads."""
    assert [answer[0] for answer in ask(service, 2 * post(*lines, body=body), 2)] == [status] * 2
    picture = (artifacts / "samples" / "0000.png").read_bytes()
    picture = picture if body is BODY else gzip.compress(picture)
    (answer,) = ask(service, post(*lines, body=picture, target=b"/predict/keras_cnn-onnx"))
    assert answer[0] == status


def test_several_lines_of_what_is_accepted_are_one_list(service: Service) -> None:
    many = zeros(100)
    (answer,) = ask(service, post(b"Accept-Encoding: gzip", b"Accept-Encoding: br", body=many))
    assert answer[1]["content-encoding"] == "gzip"
    assert gzip.decompress(answer[2]) == ask(service, post(body=many))[0][2]


def test_two_lengths_of_the_json_are_refused(service: Service) -> None:
    length = b"%b: %d" % (oip.HEADER_LENGTH.encode(), len(BODY))
    assert [answer[0] for answer in ask(service, post(length) + post(length, length), 2)] == [200, 400]


def test_a_whole_address_without_a_path_is_the_page(service: Service) -> None:
    page, address = ask(service, get(b"/") + get(b"http://a"), 2)
    assert page[0] == address[0]
    assert page[2] == address[2]


def test_a_named_origin_may_read_the_answer_and_others_may_not(service: Service) -> None:
    origin = b"Origin: https://app.example.org"
    for sent in (post(origin), get(b"/v2", origin), get(b"/v2/health/live", origin)):
        answer = ask(service, 3 * sent, 3)[2]
        assert answer[1]["access-control-allow-origin"] == "https://app.example.org"
        assert "Origin" in answer[1]["vary"]
    asked = (origin, b"Access-Control-Request-Method: POST", b"Access-Control-Request-Headers: content-type")
    (preflight,) = ask(service, get(INFER, *asked).replace(b"GET", b"OPTIONS", 1))
    assert preflight[0] == 200
    assert "POST" in preflight[1]["access-control-allow-methods"]
    assert "Content-Type" in preflight[1]["access-control-allow-headers"]
    other = ask(service, post(origin) + get(b"/v2", b"Origin: https://b"), 2)[1]
    assert "access-control-allow-origin" not in other[1]


@pytest.mark.parametrize(
    ("host", "known"),
    [
        *((b"127.0.0.1", True), (b"[::1]", True), (b"host.docker.internal", True), (b"a.b.localhost:1", True)),
        *((b"a.example", False), (b"127.0.0.1.a.example", False), (b"1.2.3.4.5", False), (b"localhost.a.ex", False)),
        *((b"models.lan:8", True), (b"MODELS.LAN.", True), (b"a.models.lan", False), (b"a b", False), (b"", False)),
    ],
)
def test_a_name_is_known_if_no_stranger_can_own_it_or_the_settings_have_it(host: bytes, known: bool) -> None:
    assert Origins(Settings(host="0.0.0.0", hosts=("models.lan",))).knows_host(host) is known
    assert Origins(Settings(host="models.lan")).knows_host(host) is known


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("SERVE_HOSTS", "a.example, b-c.example,*", ["http://a", "a:80", "a/b", "ä", "[::1]", "a b"]),
        ("SERVE_CORS", "https://a.example,http://b:8080", ["*", "a.example", "https://a/", "https://a/x", "ftp://a"]),
    ],
)
def test_lists_of_names_and_origins_are_checked(
    monkeypatch: pytest.MonkeyPatch, name: str, good: str, bad: list[str]
) -> None:
    monkeypatch.setenv(name, good)
    settings = Settings.from_environment()
    expected = tuple(part.strip() for part in good.split(","))
    assert (settings.hosts if name == "SERVE_HOSTS" else settings.cors) == expected
    for text in bad:
        monkeypatch.setenv(name, text)
        with pytest.raises(SettingError, match=f"{name}=.* cannot be used: .*, such as "):
            Settings.from_environment()


def test_a_redirect_names_no_host(artifacts: Path) -> None:
    client = create_app(Catalog([]), Settings(artifacts=artifacts)).test_client()
    answer = client.get("/report?x=1", base_url="http://evil.example")
    assert (answer.status_code, answer.headers["Location"]) == (308, "/report/?x=1")
    for path in ("//evil.example/report", "//evil.example//v2"):
        assert not client.get(path).headers.get("Location", "/v2").startswith("//")


def test_idle_connections_give_way_to_newcomers(service: Service) -> None:
    with contextlib.ExitStack() as idle:
        for _ in range(Settings().max_connections + 50):
            idle.enter_context(socket.create_connection(("127.0.0.1", service.port), timeout=20))
        time.sleep(0.2)
        for _ in range(20):
            assert ask(service, get())[0][0] == 200
            assert ask(service, post())[0][0] == 200


MANY = 2_000
SHELLS = 1_024
"""How many files a shell often lets a program open."""
AT_ONCE = 5
"""Seconds: far more than an answer takes, and far less than a caller has to wait where no place is free."""


def test_of_2000_idle_connections_the_oldest_give_way_to_newcomers(tmp_path: Path) -> None:
    """The service lets itself open as many files as the system allows; here is the other end of each connection."""
    write_model(tmp_path / "artifacts" / "keras_cnn" / "onnx")
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most < MANY + 500:
        pytest.skip(f"The system lets a process open {most} files, and {MANY} connections need more.")
    settings = {"SERVE_MAX_CONNECTIONS": str(MANY), "SERVE_TIMEOUT": "300"}
    with files_allowed(most), contextlib.ExitStack() as stack:
        with files_allowed(SHELLS):
            service = stack.enter_context(started(tmp_path / "artifacts", tmp_path / "output", **settings))
        idle = [stack.enter_context(connected(service)) for _ in range(MANY)]
        wait_until(lambda: open_files(service) > MANY)
        for sent in [get(), post()] * 10:
            start = time.monotonic()
            newcomer = stack.enter_context(connected(service))
            newcomer.sendall(sent)
            assert newcomer.recv(65536).startswith(b"HTTP/1.1 200 ")
            assert time.monotonic() - start < AT_ONCE
        assert [is_open(connection) for connection in idle] == [False] * 20 + [True] * (MANY - 20)


FEW = 300


@pytest.mark.parametrize("more", [{}, {"SERVE_WORKERS": "2"}], ids=["one worker", "two workers"])
def test_no_newcomer_is_reset_where_the_system_allows_fewer_files_than_connections(
    tmp_path: Path, more: dict[str, str]
) -> None:
    write_model(tmp_path / "artifacts" / "keras_cnn" / "onnx")
    more = {"SERVE_MAX_CONNECTIONS": str(MANY), "SERVE_TIMEOUT": "300", **more}
    with (
        contextlib.ExitStack() as stack,
        started(tmp_path / "artifacts", tmp_path / "output", str(FEW), **more) as service,
    ):
        (taken,) = re.findall(rf"SERVE_MAX_CONNECTIONS={MANY} .*, {FEW}, so a worker takes (\d+) conn", service.log)
        assert FEW // 3 < int(taken) < FEW
        for sent in [get(), post()] * FEW:
            newcomer = stack.enter_context(connected(service))
            newcomer.sendall(sent)
            assert newcomer.recv(65536).startswith(b"HTTP/1.1 200 ")
            stack.enter_context(connected(service))
        assert all(len(list(Path(f"/proc/{worker}/fd").iterdir())) < FEW for worker in service.workers())


def test_a_service_whose_connections_all_fit_says_nothing_of_files(service: Service) -> None:
    assert "SERVE_MAX_CONNECTIONS" not in service.log


@pytest.mark.parametrize(
    ("allowed", "others", "wanted", "ports", "expected"),
    [
        (20_000, 60, 1000, 1, 1000),
        (20_000, 60, 30_000, 1, 17_940),
        (1024, 60, 1000, 1, 862),
        (1024, 60, 1000, 2, 431),
        (1024, 60, 100, 2, 100),
        (128, 60, 1000, 1, 1),
        (resource.RLIM_INFINITY, 60, 2**20, 2, 2**20),
    ],
)
def test_connections_leave_room_for_the_other_files(
    monkeypatch: pytest.MonkeyPatch, allowed: int, others: int, wanted: int, ports: int, expected: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (allowed, resource.RLIM_INFINITY))
    assert connections_beside(others, wanted, ports) == expected
    assert bool(too_few_files(wanted, expected)) == (expected < wanted)


@pytest.mark.parametrize("port", [0, 8001])
def test_http_and_grpc_share_the_files(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_000_000, 1_000_000))
    plane = DataPlane(Catalog([]), Settings(grpc_port=port, max_connections=2**20))
    try:
        assert plane.max_connections // 1000 == (449 if port else 899)
    finally:
        plane.close()


@contextlib.contextmanager
def files_allowed(count: int) -> Iterator[None]:
    """Let this process, and those that it starts meanwhile, open so many files."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def connected(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=20)


def is_open(connection: socket.socket) -> bool:
    """Whether the service has not ended it."""
    connection.setblocking(False)
    try:
        return connection.recv(1) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def open_files(service: Service) -> int:
    (worker,) = service.workers()
    return len(list(Path(f"/proc/{worker}/fd").iterdir()))
