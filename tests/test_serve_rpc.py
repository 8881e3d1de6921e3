"""The protocol over gRPC: NVIDIA's client against the real service, and the calls that it has no words for."""

import contextlib
import itertools
import os
import queue
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from numpy.typing import NDArray
from tritonclient import grpc as triton
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.utils import InferenceServerException

from contract.code import ROOT
from contract.errors import InputError
from serve.__main__ import check_grpc
from serve.keys import add_key
from serve.rpc import tensors
from serve.rpc.messages import HEALTH, INFERENCE, REFLECTION, ModelInferRequest, message, pool
from serve.rpc.proto_files import read_proto
from serve.rpc.server import GRACE_SECONDS
from serve.settings import SettingError, Settings
from tests.conftest import NUMBERS, write_every_type
from tests.serving import Service, free_port, halt, listens, started, wait_until
from tests.test_docs import write_model
from tests.test_serve_tls import make_certificate

MODEL, TYPED = "keras_cnn-onnx", "every_type-onnx"

PROMPTLY = 10
"""Seconds; far less than a request's time limit."""


# The messages


def fields_of(descriptor: Any) -> dict[str, tuple[int, int]]:
    return {field.name: (field.number, field.type) for field in descriptor.fields}


def test_every_message_is_as_it_was_published() -> None:
    published = {**service_pb2.DESCRIPTOR.message_types_by_name, **model_config_pb2.DESCRIPTOR.message_types_by_name}
    ours = pool.FindFileByName("inference.proto").message_types_by_name
    assert len(ours) > 30
    for name, descriptor in ours.items():
        theirs = fields_of(published[name])
        assert fields_of(descriptor).items() <= theirs.items(), name
        for nested in descriptor.nested_types:
            (same,) = (other for other in published[name].nested_types if other.name == nested.name)
            assert fields_of(nested).items() <= fields_of(same).items(), nested.name
    assert ours["ModelInferRequest"].fields_by_name["raw_input_contents"].type == FieldDescriptor.TYPE_BYTES


def test_every_call_is_as_it_was_published() -> None:
    theirs = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    ours = pool.FindServiceByName(INFERENCE).methods_by_name
    assert {name: theirs[name].input_type.name for name in ours} == {n: m.input_type.name for n, m in ours.items()}
    assert {name: theirs[name].output_type.name for name in ours} == {n: m.output_type.name for n, m in ours.items()}


@pytest.mark.parametrize("name", ["inference", "health", "reflection"])
def test_what_is_read_is_what_the_proto_files_say(name: str) -> None:
    text = re.sub(r"//.*", "", (ROOT / "serve" / "rpc" / f"{name}.proto").read_text())
    written = sorted(re.findall(r"(\w+) = (\d+);", text))
    file: Any = pool.FindFileByName(f"{name}.proto")
    messages = list(file.message_types_by_name.values())
    for descriptor in messages:
        messages += [nested for nested in descriptor.nested_types if not nested.GetOptions().map_entry]
    enums = [*file.enum_types_by_name.values(), *(enum for message in messages for enum in message.enum_types)]
    read = [(field.name, str(field.number)) for message in messages for field in message.fields]
    read += [(value.name, str(value.number)) for enum in enums for value in enum.values]
    assert sorted(read) == written
    assert sorted(re.findall(r"rpc (\w+)", text)) == sorted(
        method.name for service in file.services_by_name.values() for method in service.methods
    )


PROTO = """
syntax = "proto3";
package a.b;  // a comment
service S { rpc Do(stream Outer) returns (Outer.Inner); }
message Outer {
  message Inner { Kind kind = 1; Other other = 2; }
  enum Kind { NONE = 0; SOME = 3; }
  repeated Inner inners = 4;
  map<string, Other> by_name = 5;
  oneof choice { bytes raw = 6; Kind other_kind = 7; }
}
message Other { double value = 1; }
"""


def test_what_a_proto_file_says_is_what_its_classes_do(tmp_path: Path) -> None:
    (tmp_path / "x.proto").write_text(PROTO)
    made = descriptor_pool.DescriptorPool()
    made.AddSerializedFile(read_proto(tmp_path / "x.proto").SerializeToString())
    outer = message_factory.GetMessageClass(made.FindMessageTypeByName("a.b.Outer"))
    sent = outer(by_name={"x": {"value": 0.5}}, inners=[{"kind": 3, "other": {"value": 2}}], raw=b"r")
    got = outer.FromString(sent.SerializeToString())
    assert (got.by_name["x"].value, got.inners[0].kind, got.WhichOneof("choice")) == (0.5, 3, "raw")
    got.other_kind = 3
    assert got.WhichOneof("choice") == "other_kind" and got.raw == b""
    (method,) = made.FindServiceByName("a.b.S").methods
    assert (method.client_streaming, method.server_streaming) == (True, False)
    assert method.output_type.full_name == "a.b.Outer.Inner"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('import "y.proto";', "'import' is not read"),
        ("message M { Nothing x = 1; }", "there is no 'Nothing'"),
        ("message M { int32 x 1; }", "got '1', expected '='"),
    ],
)
def test_what_is_not_read_of_a_proto_file_is_said(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.proto").write_text(f'syntax = "proto3";\npackage a;\n{text}')
    with pytest.raises(ValueError, match=words):
        read_proto(tmp_path / "x.proto")


# The service


@pytest.fixture(scope="module")
def artifacts_of_types(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rpc") / "artifacts"
    write_model(folder / "keras_cnn" / "onnx")
    write_every_type(folder / "every_type" / "onnx", [*NUMBERS, "bytes"])
    write_every_type(folder / "half" / "onnx", ["float16"])
    return folder


@pytest.fixture(scope="module")
def service(artifacts_of_types: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, int]]:
    """The service, and its gRPC port."""
    port = free_port()
    output = tmp_path_factory.mktemp("rpc_output") / "service"
    with started(artifacts_of_types, output, GRPC_PORT=str(port), SERVE_MAX_BYTES="1000000") as running:
        wait_until(lambda: listens(port))
        yield running, port


@pytest.fixture(scope="module")
def client(service: tuple[Service, int]) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(f"127.0.0.1:{service[1]}") as client:
        yield client


def tensor(array: NDArray[Any], name: str = "pixels", datatype: str = "FP32") -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.float32]:
    return np.random.default_rng(1).uniform(0, 255, (3, 28, 28, 1)).astype(np.float32)


def over_http(service: Service, pixels: NDArray[np.float32]) -> Any:
    import json

    body = {"name": "pixels", "datatype": "FP32", "shape": list(pixels.shape), "data": pixels.ravel().tolist()}
    answer = service.ask_json("POST", f"/v2/models/{MODEL}/infer", json.dumps({"inputs": [body]}).encode())
    return np.array(answer["outputs"][0]["data"]).reshape(-1, 10)


def test_health_metadata_configuration_and_index(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live() and client.is_server_ready() and client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert client.get_server_metadata().name == "rosetta-serve"
    metadata = client.get_model_metadata(MODEL)
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [("pixels", "FP32", [-1, 28, 28, 1])]
    config = client.get_model_config(MODEL).config
    assert config.max_batch_size > 1 and config.input[0].data_type == model_config_pb2.TYPE_FP32
    assert [(m.name, m.state) for m in client.get_model_repository_index().models] == [
        (name, "READY") for name in (TYPED, "half-onnx", MODEL)
    ]


def test_an_answer_is_that_of_http_and_both_are_counted(
    client: triton.InferenceServerClient, service: tuple[Service, int], pixels: Any
) -> None:
    def stats() -> tuple[int, int]:
        (model,) = client.get_inference_statistics(MODEL).model_stats
        return model.inference_stats.success.count, model.inference_count

    before = stats()
    for _ in range(3):  # the header is new, and then remembered
        result = client.infer(MODEL, [tensor(pixels)], outputs=[triton.InferRequestedOutput("probabilities")])
        np.testing.assert_allclose(result.as_numpy("probabilities"), over_http(service[0], pixels), atol=1e-6)
    result = client.infer(MODEL, [tensor(pixels)], request_id="r", timeout=5_000_000, parameters={"times": False})
    assert result.get_response().id == "r" and result.get_response().model_version == "1"
    after = stats()
    assert (after[0] - before[0], after[1] - before[1]) == (7, 21)


def every_type(client: triton.InferenceServerClient) -> dict[str, tuple[str, NDArray[Any]]]:
    kinds = {spec.name: spec.datatype for spec in client.get_model_metadata(TYPED).inputs}
    arrays = {}
    for name, datatype in kinds.items():
        kind = {"BOOL": "bool", "FP32": "float32", "FP64": "float64"}.get(datatype, datatype.lower())
        plain = np.array([[0, 1], [1, 100]], "int64" if datatype == "BYTES" else kind)
        texts = np.array([[b"a", b""], [b"x" * 300, "짧은".encode()]], object)
        arrays[name] = datatype, texts if datatype == "BYTES" else plain
    return arrays


def test_every_datatype_comes_back_as_it_went_raw_or_in_fields(
    client: triton.InferenceServerClient, service: tuple[Service, int]
) -> None:
    arrays = every_type(client)
    result = client.infer(TYPED, [tensor(array, name, datatype) for name, (datatype, array) in arrays.items()])
    for name, (_, array) in arrays.items():
        assert result.as_numpy(name.replace("_in", "_out")).tolist() == array.tolist()
    places = {"BOOL": "bool", "INT64": "int64", "UINT64": "uint64", "FP32": "fp32", "FP64": "fp64", "BYTES": "bytes"}
    asked = service_pb2.ModelInferRequest(model_name=TYPED)
    for name, (datatype, array) in arrays.items():
        contents = service_pb2.InferTensorContents()
        field = places.get(datatype, "uint" if datatype.startswith("U") else "int")
        getattr(contents, f"{field}_contents").extend(array.ravel().tolist())
        asked.inputs.add(name=name, datatype=datatype, shape=[2, 2], contents=contents)
    answer = service_pb2.ModelInferResponse.FromString(call(service, "ModelInfer", asked.SerializeToString()))
    assert list(answer.raw_output_contents) == list(result.get_response().raw_output_contents)
    half = np.array([[0.5, np.nan]], np.float16)
    np.testing.assert_array_equal(
        client.infer("half-onnx", [tensor(half, "float16_in", "FP16")]).as_numpy("float16_out"), half
    )


def test_a_stream_answers_in_order_and_goes_on_after_an_error(
    client: triton.InferenceServerClient, pixels: NDArray[np.float32]
) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error or result.get_response().id))
    for number in range(20):
        client.async_stream_infer(MODEL if number % 5 else "none", [tensor(pixels)], request_id=str(number))
    got = [answers.get(timeout=20) for _ in range(20)]
    client.stop_stream()
    for number, answer in enumerate(got):
        assert answer == str(number) if number % 5 else "No model is named 'none'" in answer.message()


def call(service: tuple[Service, int], name: str, body: bytes, service_name: str = INFERENCE, key: str = "") -> bytes:
    metadata = [("authorization", f"Bearer {key}")] if key else []
    with grpc.insecure_channel(f"127.0.0.1:{service[1]}") as channel:
        answer: bytes = channel.unary_unary(f"/{service_name}/{name}")(body, timeout=20, metadata=metadata)
        return answer


def refused(service: tuple[Service, int], name: str, body: bytes, key: str = "") -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(service, name, body, key=key)
    error: Any = caught.value
    return error.code(), error.details()


def asked(model: str = MODEL, raw: bytes | None = b"\0" * 3136, **fields: Any) -> bytes:
    """A ModelInferRequest of one picture."""
    one = {"name": "pixels", "datatype": "FP32", "shape": [1, 28, 28, 1], **fields}
    made = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[] if raw is None else [raw])
    made.inputs.add(**one)
    body: bytes = made.SerializeToString()
    return body


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (b"\xff", "INVALID_ARGUMENT", "not a message"),
        (asked("none"), "NOT_FOUND", "No model is named 'none'"),
        (asked(raw=b"\0" * 8), "INVALID_ARGUMENT", "8 bytes"),
        (asked(raw=None), "INVALID_ARGUMENT", "is 0 values, expected 784"),
        (asked(raw=None, datatype="FP16"), "INVALID_ARGUMENT", "has to be raw"),
        (asked(contents={"fp32_contents": [0] * 784}), "INVALID_ARGUMENT", "has contents, and the request has raw"),
        (asked(shape=[1, 28]), "INVALID_ARGUMENT", "has shape [1, 28]"),
        (asked(datatype="INT8"), "INVALID_ARGUMENT", "expected 'FP32'"),
        (asked(name="x"), "INVALID_ARGUMENT", "no input 'x'"),
        (service_pb2.ModelInferRequest(model_name=MODEL).SerializeToString(), "INVALID_ARGUMENT", "is missing"),
        (
            service_pb2.ModelInferRequest(model_name=MODEL, raw_input_contents=[b""]).SerializeToString(),
            "INVALID_ARGUMENT",
            "1 raw_input_contents",
        ),
        (
            service_pb2.ModelInferRequest(model_name=MODEL, model_version="2").SerializeToString(),
            "NOT_FOUND",
            "no version '2'",
        ),
        (asked(raw=None) + b"\x2a\x00" * 4000, "INVALID_ARGUMENT", "4001 inputs, expected 1"),
        (asked(raw=None) + b"\x32\x00" * 4000, "INVALID_ARGUMENT", "4000 outputs, expected 1000"),
        (asked(raw=None) + b"\x2a\x00" * 400_000, "INVALID_ARGUMENT", "more than 4096 fields"),
        (asked(raw=b"\0" * 2_000_000), "RESOURCE_EXHAUSTED", ""),
    ],
)
def test_a_request_that_does_not_fit_is_refused(
    service: tuple[Service, int], body: bytes, code: str, words: str
) -> None:
    got = refused(service, "ModelInfer", body)
    assert (got[0].name, words in got[1]) == (code, True), got
    assert call(service, "ModelInfer", asked())


def test_messages_without_tensors_are_small(service: tuple[Service, int]) -> None:
    """They are read in the event loop, which holds up all others."""
    body = message("inference.RepositoryModelLoadRequest")(model_name="x" * 70_000).SerializeToString()
    code, words = refused(service, "RepositoryModelLoad", body)
    assert (code.name, "expected 65536 at most" in words) == ("RESOURCE_EXHAUSTED", True)
    request = message("grpc.reflection.v1alpha.ServerReflectionRequest")(list_services="x" * 70_000)
    with grpc.insecure_channel(f"127.0.0.1:{service[1]}") as channel, pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream(f"/{REFLECTION}/ServerReflectionInfo")(iter([request.SerializeToString()])))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_input_has_so_many_dimensions(service: tuple[Service, int]) -> None:
    code, words = refused(service, "ModelInfer", asked(shape=[1] * 65))
    assert (code.name, "65 dimensions, expected 64" in words) == ("INVALID_ARGUMENT", True)


def test_the_strings_of_an_input_are_counted_before_they_are_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensors, "MAX_VALUES", 3)
    for count, is_refused in ((3, False), (4, True)):
        sent = ModelInferRequest()
        sent.inputs.add(name="x", datatype="BYTES", shape=[count]).contents.bytes_contents.extend([b"a"] * count)
        with pytest.raises(InputError, match="is 4 byte strings, expected 3 at most") if is_refused else nullcontext():
            assert tensors._input(sent.inputs[0], None)["data"] == ["a"] * 3


def test_damaged_messages_are_refused_or_answered(service: tuple[Service, int]) -> None:
    random = np.random.default_rng(2)
    known = {"INVALID_ARGUMENT", "NOT_FOUND"}
    for _ in range(150):
        damaged = bytearray(asked())
        for place in random.integers(0, 60, 3):
            damaged[place] = random.integers(0, 256)
        try:
            call(service, "ModelInfer", bytes(damaged))
        except grpc.RpcError as error:
            assert error.code().name in known, error
    assert "failed" not in service[0].log


def test_grpcs_own_health_checks(service: tuple[Service, int]) -> None:
    request, answer = (message(f"grpc.health.v1.HealthCheck{kind}") for kind in ("Request", "Response"))
    for name in ("", INFERENCE):
        got = answer.FromString(call(service, "Check", request(service=name).SerializeToString(), HEALTH))
        assert got.status == answer.SERVING
    with pytest.raises(grpc.RpcError) as caught:
        call(service, "Check", request(service="x").SerializeToString(), HEALTH)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert refused(service, "ServerLives", b"")[0] == grpc.StatusCode.UNIMPLEMENTED


def test_reflection_names_the_services_and_gives_their_files(service: tuple[Service, int]) -> None:
    request, answer = (message(f"grpc.reflection.v1alpha.ServerReflection{kind}") for kind in ("Request", "Response"))
    requests = [{"list_services": "*"}, {"file_containing_symbol": INFERENCE}, {"file_by_filename": "health.proto"}]
    requests += [{"file_containing_symbol": "none"}, {}]
    with grpc.insecure_channel(f"127.0.0.1:{service[1]}") as channel:
        stream = channel.stream_stream(f"/{REFLECTION}/ServerReflectionInfo")
        sent = iter([request(**fields).SerializeToString() for fields in requests])
        services, file, other, *errors = map(answer.FromString, stream(sent, timeout=20))
    assert {s.name for s in services.list_services_response.service} == {INFERENCE, HEALTH, REFLECTION}
    assert b"ModelInferRequest" in file.file_descriptor_response.file_descriptor_proto[0]
    assert b"HealthCheckRequest" in other.file_descriptor_response.file_descriptor_proto[0]
    assert [error.WhichOneof("message_response") for error in errors] == ["error_response"] * 2


# Keys, TLS, workers


def test_keys_tls_and_two_workers(artifacts_of_types: Path, tmp_path: Path) -> None:
    tls, port = make_certificate(tmp_path / "made"), free_port()
    shutil.copytree(artifacts_of_types, tmp_path / "artifacts")
    keys = {calls: add_key(tmp_path / "keys", name, calls) for name, calls in (("app", "keras_cnn-*"), ("all", "*"))}
    settings = {"SERVE_TLS_CERT": str(tls / "cert.pem"), "SERVE_TLS_KEY": str(tls / "key.pem")}
    settings |= {"SERVE_KEYS_FILE": str(tmp_path / "keys"), "GRPC_PORT": str(port), "SERVE_WORKERS": "2"}
    with started(tmp_path / "artifacts", tmp_path / "output", **settings) as running:
        wait_until(lambda: len(running.workers()) == 2 and listens(port))

        def code(method: str, body: bytes, key: str = "") -> str:
            trust = grpc.ssl_channel_credentials((tls / "authority.pem").read_bytes())
            with grpc.secure_channel(f"localhost:{port}", trust) as channel:
                sent = [("authorization", f"Bearer {key}")] if key else []
                try:
                    channel.unary_unary(f"/{INFERENCE}/{method}")(body, timeout=20, metadata=sent)
                except grpc.RpcError as error:
                    return str(error.code().name)
                return "OK"

        app, everything = keys.values()
        named = service_pb2.ModelStatisticsRequest(name=MODEL).SerializeToString()
        table = [
            *(("ServerReady", b"", key, "OK") for key in ("", app)),
            *(("ModelInfer", asked(), key, "OK") for key in (app, everything)),
            *(("ModelInfer", asked(), key, "UNAUTHENTICATED") for key in ("", "wrong")),
            ("ModelInfer", asked(TYPED), app, "PERMISSION_DENIED"),
            ("ModelInfer", asked(TYPED), everything, "INVALID_ARGUMENT"),
            ("ModelStatistics", b"", app, "PERMISSION_DENIED"),
            ("ModelStatistics", named, app, "OK"),
            ("ServerMetadata", b"", "", "UNAUTHENTICATED"),
            ("RepositoryIndex", b"", app, "OK"),
        ]
        got = [(method, code(method, body, key)) for method, body, key, _ in table]
        assert got == [(method, expected) for method, _, _, expected in table]
        before = {code("ServerLive", b"") for _ in range(5)}
        make_certificate(tmp_path / "made")
        assert before | {code("ServerLive", b"") for _ in itertools.repeat(None, 5)} == {"OK"}


def infer_in_stream(service: tuple[Service, int], body: bytes) -> bytes:
    """The answer to the only message of a stream, which goes on."""
    ended = threading.Event()

    def messages() -> Iterator[bytes]:
        yield body
        ended.wait(60)

    with grpc.insecure_channel(f"127.0.0.1:{service[1]}") as channel:
        answers = channel.stream_stream(f"/{INFERENCE}/ModelStreamInfer")(messages(), timeout=30)
        try:
            answer: bytes = next(answers)
            return answer
        finally:
            ended.set()


@pytest.mark.parametrize("way", ["a call", "a stream"])
def test_the_end_waits_for_a_slow_answer_and_not_for_a_stream_in_which_nothing_is_due(
    artifacts: Path, tmp_path: Path, pixels: NDArray[np.float32], way: str
) -> None:
    """Node hangs when the signal comes, and for longer than a silent stream has."""
    shutil.copytree(artifacts / "keras_cnn" / "tfjs", tmp_path / "artifacts" / "keras_cnn" / "tfjs")
    port, body = free_port(), asked("keras_cnn-tfjs")
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(started(tmp_path / "artifacts", tmp_path / "output", GRPC_PORT=str(port)))
        wait_until(lambda: listens(port))
        (node,) = (process for process, name in running.descendants().items() if "node" in name.lower())
        silent = stack.enter_context(triton.InferenceServerClient(f"127.0.0.1:{port}"))
        answers: queue.Queue[Any] = queue.Queue()
        silent.start_stream(lambda result, error: answers.put(error))
        silent.async_stream_infer("keras_cnn-tfjs", [tensor(pixels)])
        assert answers.get(timeout=20) is None
        thread = stack.enter_context(ThreadPoolExecutor(1))
        halt(node)
        if way == "a call":
            called = thread.submit(call, (running, port), "ModelInfer", body)
        else:
            called = thread.submit(infer_in_stream, (running, port), body)
        time.sleep(0.5)
        running.process.terminate()
        time.sleep(GRACE_SECONDS + 1)
        os.kill(node, signal.SIGCONT)
        assert len(called.result(20)) > 40
        assert running.process.wait(PROMPTLY) == 0
        assert "Traceback" not in running.log


def test_a_port_that_cannot_be_had_ends_the_start(service: tuple[Service, int]) -> None:
    with pytest.raises(SettingError, match=f"GRPC_PORT={service[1]} cannot be listened on"):
        check_grpc(Settings(grpc_port=service[1]))


def test_an_error_of_the_client_is_the_services_own_words(client: triton.InferenceServerClient, pixels: Any) -> None:
    with pytest.raises(InferenceServerException, match="expected \\[-1, 28, 28, 1\\]"):
        client.infer(MODEL, [tensor(pixels[:, :5])])
