"""The clients that people have - tritonclient, KServe's, whatever reads OpenAPI - against the real service."""

import asyncio
import importlib.util
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, cast

import numpy as np
import pytest
import schemathesis
from google.protobuf import descriptor_pool
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray
from schemathesis.specs.openapi.checks import positive_data_acceptance
from tritonclient import http as triton
from tritonclient.http import aio as triton_aio
from tritonclient.utils import InferenceServerException

from contract.dataset import Split
from export import exported_from

COUNT = 2 + len(exported_from("keras")) + len(exported_from("torch")) + 2
"""Both of our models in each format, and two of other tensors."""
MODEL = "keras_cnn-onnx"
TYPED = "every_type-onnx"

Pixels = NDArray[np.float32]


@pytest.fixture(scope="module")
def pixels(test_split: Split) -> Pixels:
    """(3, 28, 28, 1)"""
    return test_split.images[:3].astype(np.float32)


# NVIDIA's client


@pytest.fixture(scope="module")
def client(service_url: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(service_url.removeprefix("http://"), concurrency=8) as client:
        yield client


def tensor(array: NDArray[Any], binary: bool, name: str = "pixels", datatype: str = "FP32") -> triton.InferInput:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def wanted(binary: bool) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput("probabilities", binary_data=binary)]


@pytest.fixture(scope="module")
def expected(client: triton.InferenceServerClient, pixels: Pixels) -> Pixels:
    """The answer to each row in a request of its own."""
    rows = [client.infer(MODEL, [tensor(pixels[i : i + 1], True)], outputs=wanted(True)) for i in range(len(pixels))]
    return np.concatenate([row.as_numpy("probabilities") for row in rows])


def test_triton_server_and_model_health(client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, "1")
    assert not client.is_model_ready(MODEL, "2")
    assert not client.is_model_ready("nothing")


def test_triton_metadata_configuration_and_index(client: triton.InferenceServerClient) -> None:
    assert client.get_server_metadata()["name"] == "rosetta-serve"
    metadata = client.get_model_metadata(MODEL)
    assert metadata["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 28, 28, 1]}]
    config = client.get_model_config(MODEL, "1")
    assert [(t["name"], t["data_type"], t["dims"]) for t in config["input"]] == [("pixels", "TYPE_FP32", [28, 28, 1])]
    assert config["max_batch_size"] > 1
    index = client.get_model_repository_index()
    assert len(index) == COUNT
    assert {model["name"] for model in index if model["state"] != "READY"} <= {"torch_cnn-coreml"}


def test_triton_statistics_count_rows_and_requests(client: triton.InferenceServerClient, pixels: Pixels) -> None:
    (before,) = client.get_inference_statistics(MODEL)["model_stats"]
    client.infer(MODEL, [tensor(pixels, True)])
    (after,) = client.get_inference_statistics(MODEL, "1")["model_stats"]
    assert after["inference_count"] == before["inference_count"] + 3
    assert after["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + 1
    assert len(client.get_inference_statistics()["model_stats"]) == COUNT


@pytest.mark.parametrize("outputs", [None, wanted(True), wanted(False)], ids=["default", "binary", "json"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary input", "json input"])
def test_triton_infer_in_every_form(
    client: triton.InferenceServerClient, pixels: Pixels, expected: Pixels, binary: bool, outputs: Any
) -> None:
    result = client.infer(MODEL, [tensor(pixels, binary)], outputs=outputs, request_id="a request")
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected, rtol=0, atol=1e-6)
    assert result.get_response()["id"] == "a request"
    assert result.get_response()["model_name"] == MODEL


@pytest.mark.parametrize("down", [None, "gzip", "deflate"])
@pytest.mark.parametrize("up", [None, "gzip", "deflate"])
def test_triton_compression_both_ways(
    client: triton.InferenceServerClient, pixels: Pixels, expected: Pixels, up: str | None, down: str | None
) -> None:
    many = np.concatenate([pixels] * 20)
    result = client.infer(
        MODEL, [tensor(many, True)], request_compression_algorithm=up, response_compression_algorithm=down
    )
    np.testing.assert_allclose(result.as_numpy("probabilities"), np.concatenate([expected] * 20), rtol=0, atol=1e-6)


def test_tritons_aio_client_reads_descriptions_and_answers(service_url: str, pixels: Pixels, expected: Pixels) -> None:
    """It asks for gzip, and takes what comes for text."""

    async def ask() -> Any:
        async with triton_aio.InferenceServerClient(service_url.removeprefix("http://")) as client:
            assert (await client.get_model_metadata(MODEL))["name"] == MODEL
            assert (await client.get_model_config(MODEL))["name"] == MODEL
            assert len(await client.get_model_repository_index()) == COUNT
            assert len((await client.get_inference_statistics())["model_stats"]) == COUNT
            many = np.concatenate([pixels] * 20)
            return await client.infer(MODEL, [tensor(many, False)], response_compression_algorithm="gzip")

    result = asyncio.run(ask())
    np.testing.assert_allclose(result.as_numpy("probabilities"), np.concatenate([expected] * 20), rtol=0, atol=1e-6)


def test_nan_and_infinity_go_both_ways_in_json(client: triton.InferenceServerClient) -> None:
    """tritonclient writes them as Python does, and asks for the like."""
    specs = client.get_model_metadata(TYPED)["inputs"]
    arrays = {spec["name"]: values_of(spec["datatype"]) for spec in specs}
    arrays["float32_in"] = np.array([[np.nan, np.inf], [-np.inf, 1.5]], np.float32)
    inputs = [tensor(arrays[spec["name"]], False, spec["name"], spec["datatype"]) for spec in specs]
    outputs = [triton.InferRequestedOutput("float32_out", binary_data=False)]
    result = client.infer(TYPED, inputs, outputs=outputs, parameters={"allow_nan": True})
    np.testing.assert_array_equal(result.as_numpy("float32_out"), arrays["float32_in"])
    result = client.infer(TYPED, inputs, outputs=outputs)
    assert result.get_response()["outputs"][0]["data"] == [None, None, None, 1.5]


def test_triton_asynchronous_answers_are_each_their_own(
    client: triton.InferenceServerClient, pixels: Pixels, expected: Pixels
) -> None:
    rows = [i % 3 for i in range(60)]
    calls = [client.async_infer(MODEL, [tensor(pixels[i : i + 1], True)], request_id=str(i)) for i in rows]
    for row, call in zip(rows, calls, strict=True):
        result = call.get_result()
        assert result.get_response()["id"] == str(row)
        np.testing.assert_allclose(result.as_numpy("probabilities"), expected[row : row + 1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_triton_every_datatype_comes_back_as_it_went(client: triton.InferenceServerClient, binary: bool) -> None:
    arrays = {spec["name"]: values_of(spec["datatype"]) for spec in client.get_model_metadata(TYPED)["inputs"]}
    kinds = {spec["name"]: spec["datatype"] for spec in client.get_model_metadata(TYPED)["inputs"]}
    inputs = [tensor(array, binary, name, kinds[name]) for name, array in arrays.items()]
    outputs = [
        triton.InferRequestedOutput(name.replace("_in", "_out"), binary_data=binary) for name in reversed(arrays)
    ]
    result = client.infer(TYPED, inputs, outputs=outputs)
    assert [output["name"] for output in result.get_response()["outputs"]] == [output.name() for output in outputs]
    for name, array in arrays.items():
        got = result.as_numpy(name.replace("_in", "_out"))
        assert (
            got.tolist() == (array if binary or array.dtype != object else np.vectorize(bytes.decode)(array)).tolist()
        )


def values_of(datatype: str) -> NDArray[Any]:
    """(2, 2)"""
    if datatype == "BYTES":
        return np.array([[b"a", b""], [b"\xed\x95\x9c", b"b" * 300]], object)
    kind = {"BOOL": "bool", "FP32": "float32", "FP64": "float64"}.get(datatype, datatype.lower())
    return np.array([[0, 1], [1, 0]], kind) if kind in ("bool",) else np.array([[0, 1], [7, 100]], kind)


def test_triton_half_precision_is_raw(client: triton.InferenceServerClient) -> None:
    array = np.array([[0.5, np.nan, np.inf]], np.float16)
    result = client.infer("half-onnx", [tensor(array, True, "float16_in", "FP16")])
    np.testing.assert_array_equal(result.as_numpy("float16_out"), array)


def test_triton_nan_passes(client: triton.InferenceServerClient, pixels: Pixels) -> None:
    result = client.infer(MODEL, [tensor(np.full_like(pixels, np.nan), True)], outputs=wanted(True))
    assert result.as_numpy("probabilities").shape == (3, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda client, x: client.infer("nothing", [tensor(x, True)]), "No model is named 'nothing'"),
        (lambda client, x: client.infer(MODEL, [tensor(x[:, :5], True)]), "expected [-1, 28, 28, 1]"),
        (lambda client, x: client.infer(MODEL, [tensor(x, True, "wrong")]), "no input 'wrong'"),
        (
            lambda client, x: client.infer(MODEL, [tensor(x.astype(np.int32), True, datatype="INT32")]),
            "expected 'FP32'",
        ),
        (lambda client, x: client.get_model_metadata("nothing"), "No model is named 'nothing'"),
        (lambda client, x: client.load_model("nothing"), "nothing"),
    ],
)
def test_triton_errors_are_the_services_own_words(
    client: triton.InferenceServerClient, pixels: Pixels, change: Callable[..., Any], message: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        change(client, pixels)
    assert message in caught.value.message()
    assert caught.value.status().startswith("4")


# KServe's client


@pytest.fixture(scope="module")
def kserve() -> Iterator[ModuleType]:
    """KServe's client module. Its package imports KServe's server and Kubernetes' client, so that is left out.

    Its messages have a pool of their own: tritonclient's have the same names.
    """
    spec = importlib.util.find_spec("kserve")
    assert spec is not None
    sys.modules["kserve"] = importlib.util.module_from_spec(spec)
    own = descriptor_pool.DescriptorPool()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(descriptor_pool, "Default", lambda: own)
        module = importlib.import_module("kserve.inference_client")
    yield module
    for name in [name for name in sys.modules if name.partition(".")[0] == "kserve"]:
        del sys.modules[name]


@pytest.mark.parametrize("binary", [False, True], ids=["json", "binary"])
def test_kserve_infer_and_health(
    kserve: ModuleType, service_url: str, pixels: Pixels, expected: Pixels, binary: bool
) -> None:
    async def ask() -> Any:
        client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2", retries=1))
        assert await client.is_server_live(service_url)
        assert await client.is_server_ready(service_url)
        assert await client.is_model_ready(service_url, MODEL)
        made = sys.modules["kserve.protocol.infer_type"].InferInput("pixels", list(pixels.shape), "FP32")
        made.set_data_from_numpy(pixels, binary_data=binary)
        parameters = {"binary_data_output": binary}
        request = kserve.InferRequest(MODEL, [made], request_id="a request", parameters=parameters)
        response = await client.infer(service_url, request, model_name=MODEL)
        await client.close()
        return response

    response = asyncio.run(ask())
    assert response.id == "a request"
    np.testing.assert_allclose(response.outputs[0].as_numpy(), expected, rtol=0, atol=1e-6)


def test_kserve_speaks_tensorflow_serving_too(
    kserve: ModuleType, service_url: str, pixels: Pixels, expected: Pixels
) -> None:
    async def ask() -> Any:
        client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v1", retries=1))
        response = await client.infer(service_url, {"instances": pixels.tolist()}, model_name=MODEL)
        await client.close()
        return response

    np.testing.assert_allclose(asyncio.run(ask())["predictions"], expected, rtol=0, atol=1e-6)


def test_kserve_asks_whether_a_model_is_ready_in_version_1(kserve: ModuleType, service_url: str) -> None:
    async def ask() -> bool:
        client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v1", retries=1))
        ready: bool = await client.is_model_ready(service_url, MODEL)
        await client.close()
        return ready

    assert asyncio.run(ask()) is True


def test_kserve_an_error_is_the_services_own_words(kserve: ModuleType, service_url: str) -> None:
    async def ask() -> None:
        client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2", retries=1))
        try:
            await client.infer(service_url, {"inputs": []}, model_name=MODEL)
        finally:
            await client.close()

    with pytest.raises(kserve.httpx.HTTPStatusError, match="The input 'pixels' is missing"):
        asyncio.run(ask())


# The description


KNOWN = {"model": MODEL, "version": "1"}

EXAMPLES = 20
"""Generated requests for each operation, mode and model's name: some 500 in all, since most GETs have one form."""


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: str(mode.value))
def test_the_service_is_what_its_openapi_description_says(
    service_url: str, mode: schemathesis.GenerationMode, subtests: pytest.Subtests
) -> None:
    """Generated requests: status, content type and body are as described; what breaks the schema is refused.

    The one check left out is that whatever fits the schema is accepted: no schema says which tensors a model takes.
    """
    schema = schemathesis.openapi.from_url(f"{service_url}/openapi.json")
    # Loading would take the models from the other tests; a label is but another name of the version.
    harmless = schema.exclude(path_regex="load$|/labels/")
    operations = [cast(Any, result).ok() for result in harmless.get_all_operations()]
    checked = 0
    for operation in operations:
        if mode is schemathesis.GenerationMode.NEGATIVE and "application/json" not in bodies(operation):
            continue  # any text is a name, any bytes may be a picture: nothing can be wrong
        known = {name: value for name, value in KNOWN.items() if f"{{{name}}}" in operation.path}
        for names in ({}, known) if known else ({},):
            with subtests.test(operation=operation.label, names=names):
                generated(operation.as_strategy(generation_mode=mode, path_parameters=names or None))
                checked += 1
    assert checked >= (40 if mode is schemathesis.GenerationMode.POSITIVE else 9)


def bodies(operation: Any) -> set[str]:
    return {body.media_type for body in operation.body}


def generated(cases: Any) -> None:
    @settings(
        max_examples=EXAMPLES, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(cases)
    def check(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(excluded_checks=[positive_data_acceptance])

    check()
