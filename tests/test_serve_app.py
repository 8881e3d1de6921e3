"""Every call of the HTTP surface over all real artifacts: right answers, and JSON errors that say what to do."""

import gzip
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from flask.testing import FlaskClient
from numpy.typing import NDArray
from werkzeug.test import TestResponse

import serve.views
from contract.dataset import Split
from contract.failed_edge import write_failed_edge
from contract.formats import needs
from contract.image import image_to_batch
from contract.manifest import MANIFEST, sha256_of
from contract.parity_result import PARITY
from contract.tensors import Tensors
from export import exported_from
from serve.app import create_app
from serve.catalog import Catalog, ServedModel, load_catalog, load_model
from serve.dataplane import DataPlane
from serve.replies import DATA_HEADERS, DATA_TYPES, HEADERS
from serve.settings import PAGE, Settings
from tests.brought_artifacts import CLASSES, FAILED, LOG, write_photo, write_sequence
from tests.formats_here import run_from

NAMES = [
    *(f"keras_cnn-{format}" for format in ("keras", *run_from("keras"))),
    *(f"torch_cnn-{format}" for format in ("torch", *run_from("torch"))),
]
NOT_RUN = [f"torch_cnn-{format}" for format in exported_from("torch") if needs(format)]
"""What is converted alone: its row says why."""
MAX_BYTES = 2_000_000
MAX_PIXELS = 100_000

every_model = pytest.mark.parametrize("name", NAMES)


class Opened(FlaskClient):
    """A client that looks at every answer: the headers are there, an error is JSON, and it is never a 500."""

    may_fail = False

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        response = super().open(*args, **kwargs)
        if response.status_code not in (304, 308):
            expected = DATA_HEADERS if response.mimetype in DATA_TYPES else HEADERS
            assert {name: response.headers.get(name) for name in HEADERS if name in response.headers} == expected
        if response.status_code >= 400:
            assert response.content_type == "application/json"
            if kwargs.get("method") != "HEAD":
                assert response.get_json().keys() in ({"error"}, {"ready"}, {"name", "ready"})
        assert response.status_code != 500 or self.may_fail
        return response


def client_of(catalog: Catalog, artifacts: Path) -> Opened:
    app = create_app(catalog, Settings(artifacts=artifacts, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS))
    app.test_client_class = Opened
    client = app.test_client()
    assert isinstance(client, Opened)
    return client


@pytest.fixture(scope="module")
def client(catalog: Catalog, artifacts: Path) -> Opened:
    return client_of(catalog, artifacts)


def with_models(catalog: Catalog, artifacts: Path, *models: ServedModel) -> Opened:
    """A client of the same catalog, in which these models take the place of those of their names."""
    return client_of(Catalog(list({**catalog, **{model.name: model for model in models}}.values())), artifacts)


def get(client: Opened, path: str, code: int = 200, **arguments: Any) -> Any:
    response = client.get(path, **arguments)
    assert response.status_code == code, response.get_data(as_text=True)
    return response.get_json()


def post(client: Opened, path: str, code: int = 200, **arguments: Any) -> Any:
    response = client.post(path, **arguments)
    assert response.status_code == code, response.get_data(as_text=True)
    return response.get_json()


def infer_body(pixels: NDArray[Any], **fields: Any) -> dict[str, Any]:
    data = pixels.ravel().tolist()
    tensor = {"name": "pixels", "datatype": "FP32", "shape": list(pixels.shape), "data": data}
    return {"inputs": [tensor], **fields}


def answers_of(response: Any) -> NDArray[np.float32]:
    (output,) = response["outputs"]
    return np.array(output["data"], np.float32).reshape(output["shape"])


def png(pixels: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels.squeeze()).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def images(test_split: Split) -> NDArray[np.float32]:
    return test_split.images.astype(np.float32)


@pytest.fixture(scope="module")
def picture(test_split: Split) -> bytes:
    return png(test_split.images[0])


@pytest.fixture(scope="module")
def photo() -> bytes:
    """A picture of another size, in colour, on white."""
    pixels = np.full((120, 90, 3), 250, np.uint8)
    pixels[20:100, 30:70] = (20, 90, 160)
    return png(pixels)


# Open Inference Protocol


def test_the_server_describes_itself(client: Opened) -> None:
    answer = get(client, "/v2")
    assert answer["name"] == "rosetta-serve"
    assert answer["version"]
    assert answer["extensions"] == ["binary_tensor_data", "model_configuration", "statistics"]


def test_the_server_is_live_and_ready(client: Opened) -> None:
    assert get(client, "/v2/health/live") == {"live": True}
    assert get(client, "/v2/health/ready") == {"ready": True}


def test_the_index_lists_every_model_in_order(client: Opened) -> None:
    index = post(client, "/v2/repository/index")
    *served, last = [(model["name"], model["state"], model["reason"]) for model in index]
    assert served == [(name, "READY", "") for name in NAMES]
    why = "it is converted, and not run here: Core ML needs macOS."
    assert [last] == [(name, "UNAVAILABLE", why) for name in NOT_RUN]


@every_model
def test_metadata_describes_the_model_and_its_files(client: Opened, artifacts: Path, name: str) -> None:
    model, format = name.split("-")
    folder = artifacts / model / format
    answer = get(client, f"/v2/models/{name}")
    assert answer == get(client, f"/v2/models/{name}/versions/1")
    assert (answer["name"], answer["versions"]) == (name, ["1"])
    assert answer["inputs"] == [{"name": "pixels", "datatype": "FP32", "shape": [-1, 28, 28, 1]}]
    assert answer["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}]
    about = answer["parameters"]
    assert (about["model"], about["format"]) == (model, format)
    assert about["image"]["invert"] == "auto"
    assert about["labels"][9] == "Ankle boot"
    for file, entry in about["files"].items():
        data = folder / file
        assert entry == {"sha256": sha256_of(data), "bytes": data.stat().st_size}


@every_model
def test_metadata_has_the_distance_of_the_answers_from_the_sources(client: Opened, name: str) -> None:
    about = get(client, f"/v2/models/{name}")["parameters"]
    if name in ("keras_cnn-keras", "torch_cnn-torch"):
        assert (about["source"], about["status"], about["parity"]) == (None, "source", None)
    else:
        assert about["source"] in ("keras_cnn-keras", "torch_cnn-torch")
        assert about["status"] == "verified"
        assert about["parity"]["max_abs_diff"] < 1e-5
        placed = [placement["part"] for placement in about["parity"]["placements"]]
        assert placed == {"onnx": ["NNAPI", "Core ML"], "tflite": ["XNNPACK"], "executorch": ["XNNPACK"]}.get(
            name.partition("-")[2], ["fast kernels"] if name.endswith("-openvino") else []
        )
        assert about["parity"]["agreement"] == 1


@every_model
@pytest.mark.parametrize("version", ["", "/versions/1"])
def test_a_model_is_ready(client: Opened, name: str, version: str) -> None:
    assert get(client, f"/v2/models/{name}{version}/ready") == {"name": name, "ready": True}


@every_model
@pytest.mark.parametrize("batch", [1, 7])
def test_infer_answers_what_the_runtime_does(
    client: Opened, catalog: Catalog, images: NDArray[np.float32], name: str, batch: int
) -> None:
    expected = catalog[name].runtime.predict({"pixels": images[:batch]})["probabilities"]
    for path in (f"/v2/models/{name}/infer", f"/v2/models/{name}/versions/1/infer"):
        answer = post(client, path, json=infer_body(images[:batch], id="7"))
        assert (answer["model_name"], answer["model_version"], answer["id"]) == (name, "1", "7")
        np.testing.assert_array_equal(answers_of(answer), expected)


def test_infer_takes_nested_numbers_and_any_content_type(client: Opened, images: NDArray[np.float32]) -> None:
    body = infer_body(images[:2])
    flat = post(client, "/v2/models/keras_cnn-onnx/infer", json=body)
    body["inputs"][0]["data"] = images[:2].tolist()
    for kind in ("application/octet-stream", "application/x-www-form-urlencoded", ""):
        assert (
            post(client, "/v2/models/keras_cnn-onnx/infer", data=json.dumps(body).encode(), content_type=kind) == flat
        )


# Pictures


@every_model
def test_predict_gives_the_runtimes_answer_to_the_prepared_picture(
    client: Opened, catalog: Catalog, picture: bytes, photo: bytes, name: str
) -> None:
    manifest = catalog[name].described
    assert manifest.image is not None
    for data in (picture, photo):
        expected = catalog[name].runtime.predict({"pixels": image_to_batch(data, manifest.image)})["probabilities"][0]
        answer = post(client, f"/predict/{name}", data=data)
        assert answer["model"] == name
        assert list(answer["probabilities"]) == list(manifest.labels)
        np.testing.assert_array_equal(np.array(list(answer["probabilities"].values()), np.float32), expected)
        assert answer["label"] == manifest.labels[int(expected.argmax())]
        assert answer["ms"].keys() == {"preprocess", "queue", "compute"}
        assert min(answer["ms"].values()) >= 0


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "application/x-www-form-urlencoded", None])
def test_a_raw_body_is_the_picture_whatever_it_is_called(client: Opened, picture: bytes, kind: str | None) -> None:
    expected = post(client, "/predict/keras_cnn-onnx", data=picture)["probabilities"]
    assert post(client, "/predict/keras_cnn-onnx", data=picture, content_type=kind)["probabilities"] == expected


def test_the_file_of_a_form_is_the_picture(client: Opened, picture: bytes) -> None:
    expected = post(client, "/predict/keras_cnn-onnx", data=picture)["probabilities"]
    for field in ("image", "file", "그림"):
        form = {field: (io.BytesIO(picture), "boot.png"), "note": "a boot"}
        answer = post(client, "/predict/keras_cnn-onnx", data=form, content_type="multipart/form-data")
        assert answer["probabilities"] == expected


def test_what_else_is_in_a_form_may_be_long(client: Opened, picture: bytes) -> None:
    parts = [('name="note"', b"x" * 600_000), ('name="image"; filename="boot.png"', picture)]
    form = b"".join(b"--a\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n" % (n.encode(), v) for n, v in parts)
    kind = "multipart/form-data; boundary=a"
    assert post(client, "/predict/keras_cnn-onnx", data=form + b"--a--\r\n", content_type=kind)["label"]


def test_compare_has_one_row_for_each_model_in_order(client: Opened, test_split: Split) -> None:
    for image in test_split.images[:3]:
        rows = post(client, "/compare", data=png(image))["results"]
        assert [row["model"] for row in rows] == NAMES
        for row in rows:
            source = rows[NAMES.index(row["source"] or row["model"])]
            got, expected = (np.array(list(each["probabilities"].values())) for each in (row, source))
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
            assert row["max_abs_diff"] == pytest.approx(np.abs(got - expected).max(), abs=1e-7)
            assert row["agrees"] is True
            assert row["label"] == source["label"]
            assert row["status"] == ("source" if row is source else "verified")


def test_compare_answers_what_predict_does(client: Opened, photo: bytes) -> None:
    for row in post(client, "/compare", data=photo)["results"]:
        alone = post(client, f"/predict/{row['model']}", data=photo)
        assert {key: row[key] for key in ("model", "label", "probabilities")} == {
            key: alone[key] for key in ("model", "label", "probabilities")
        }


# What fails


@pytest.fixture
def broken(artifacts: Path, tmp_path: Path) -> ServedModel:
    """keras_cnn-onnx with one flipped byte, beside its source."""
    shutil.copytree(artifacts / "keras_cnn" / "keras", tmp_path / "keras_cnn" / "keras")
    folder = shutil.copytree(artifacts / "keras_cnn" / "onnx", tmp_path / "keras_cnn" / "onnx")
    data = bytearray((folder / "model.onnx").read_bytes())
    data[1000] ^= 1
    (folder / "model.onnx").write_bytes(data)
    model = load_model(folder)
    assert not model.ready
    return model


class Exploding:
    """A runtime that fails inside."""

    title = "Exploding 1.0"
    platform = "exploding"
    in_process = True

    def predict(self, inputs: Tensors) -> Tensors:
        raise ZeroDivisionError("in the third layer")

    def close(self) -> None:
        """Nothing is held."""


class Turned:
    """A runtime whose classes are in another order, as after a faulty conversion."""

    title = "Turned 1.0"
    platform = "turned"
    in_process = True

    def __init__(self, catalog: Catalog, name: str) -> None:
        self._right = catalog[name].runtime

    def predict(self, inputs: Tensors) -> Tensors:
        return {name: value[:, ::-1] for name, value in self._right.predict(inputs).items()}

    def close(self) -> None:
        """Nothing is held."""


def test_a_damaged_artifact_is_unavailable_and_the_others_answer(
    catalog: Catalog, artifacts: Path, broken: ServedModel, picture: bytes, images: NDArray[np.float32]
) -> None:
    client = with_models(catalog, artifacts, broken)
    body = infer_body(images[:1])
    answers = [
        client.get("/v2/models/keras_cnn-onnx"),
        client.post("/v2/models/keras_cnn-onnx/infer", json=body),
        client.post("/v2/models/keras_cnn-onnx/infer", json={}),
        client.post("/predict/keras_cnn-onnx", data=picture),
    ]
    for answer in answers:
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert "model.onnx has sha256" in answer.get_json()["error"]
    assert client.get("/v2/models/keras_cnn-onnx/ready").status_code == 503
    index = {model["name"]: model for model in post(client, "/v2/repository/index")}
    assert index["keras_cnn-onnx"]["state"] == "UNAVAILABLE"
    assert "run `make artifacts`" in index["keras_cnn-onnx"]["reason"]
    assert get(client, "/v2/health/ready", 503) == {"ready": False}
    for name in NAMES:
        if name != "keras_cnn-onnx":
            assert client.post(f"/v2/models/{name}/infer", json=body).status_code == 200
    rows = {row["model"]: row for row in post(client, "/compare", data=picture)["results"]}
    assert list(rows) == NAMES
    assert (rows["keras_cnn-onnx"]["status"], rows["keras_cnn-onnx"]["source"]) == ("failed", "keras_cnn-keras")
    assert "has sha256" in rows["keras_cnn-onnx"]["error"]
    assert sum("error" in row for row in rows.values()) == 1


def test_a_runtime_that_fails_inside_is_unavailable_and_the_others_answer(
    catalog: Catalog, artifacts: Path, picture: bytes, images: NDArray[np.float32]
) -> None:
    client = with_models(catalog, artifacts, replace(catalog["torch_cnn-tflite"], loaded=Exploding()))
    for path, sent in (
        ("/v2/models/torch_cnn-tflite/infer", {"json": infer_body(images[:1])}),
        ("/predict/torch_cnn-tflite", {"data": picture}),
    ):
        answer = client.post(path, **sent)
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        message = "torch_cnn-tflite failed inside its runtime: ZeroDivisionError: in the third layer"
        assert answer.get_json() == {"error": message}
    rows = post(client, "/compare", data=picture)["results"]
    assert [row["model"] for row in rows if "error" in row] == ["torch_cnn-tflite"]
    assert all(row["agrees"] for row in rows if "error" not in row)


def test_compare_shows_a_faulty_conversion(catalog: Catalog, artifacts: Path, picture: bytes) -> None:
    turned = replace(catalog["keras_cnn-onnx"], loaded=Turned(catalog, "keras_cnn-onnx"))
    rows = post(with_models(catalog, artifacts, turned), "/compare", data=picture)["results"]
    assert [row["model"] for row in rows if not row["agrees"]] == ["keras_cnn-onnx"]
    assert rows[1]["max_abs_diff"] > 0.1


def test_an_answer_with_nan_is_an_error_of_the_model_and_names_no_class(
    catalog: Catalog, artifacts: Path, picture: bytes
) -> None:
    class NotANumber(Turned):
        def predict(self, inputs: Tensors) -> Tensors:
            return {
                name: np.where(value == value.max(), np.nan, value) for name, value in super().predict(inputs).items()
            }

    fault = replace(catalog["keras_cnn-onnx"], loaded=NotANumber(catalog, "keras_cnn-onnx"))
    client = with_models(catalog, artifacts, fault)
    message = post(client, "/predict/keras_cnn-onnx", 503, data=picture)["error"]
    assert "with 1 values that are not numbers (NaN) of 10" in message
    assert "make diagnose MODEL=keras_cnn FORMAT=onnx" in message
    rows = post(client, "/compare", data=picture)["results"]
    assert rows[1]["error"] == message
    assert all(row["label"] for row in rows if row is not rows[1])


@pytest.mark.parametrize("why", ["its source is not known", "its source cannot be run"])
def test_without_its_source_nothing_agrees(catalog: Catalog, artifacts: Path, picture: bytes, why: str) -> None:
    if why == "its source is not known":
        models = [replace(catalog["keras_cnn-onnx"], source=None)]
    else:
        models = [replace(catalog["keras_cnn-keras"], loaded=Exploding())]
    rows = post(with_models(catalog, artifacts, *models), "/compare", data=picture)["results"]
    assert (rows[1]["agrees"], rows[1]["max_abs_diff"]) == (None, None)
    assert rows[1]["label"]
    assert rows[6]["agrees"] is True


def test_a_model_that_takes_other_tensors_takes_no_pictures(
    catalog: Catalog, artifacts: Path, picture: bytes, images: NDArray[np.float32]
) -> None:
    model = catalog["keras_cnn-onnx"]
    client = with_models(catalog, artifacts, replace(model, manifest=replace(model.described, image=None)))
    message = post(client, "/predict/keras_cnn-onnx", 400, data=picture)["error"]
    assert "Send tensors to /v2/models/keras_cnn-onnx/infer" in message
    rows = post(client, "/compare", data=picture)["results"]
    assert [row["model"] for row in rows] == [name for name in NAMES if name != "keras_cnn-onnx"]
    assert get(client, "/v2/models/keras_cnn-onnx")["parameters"]["image"] is None
    assert post(client, "/v2/models/keras_cnn-onnx/infer", json=infer_body(images[:1]))["outputs"]


@pytest.mark.parametrize(
    ("models", "all_of_them", "any_of_them"),
    [
        ("good bad", False, True),
        ("good refused", True, True),
        ("refused", False, False),
        ("bad refused", False, False),
        ("good", True, True),
    ],
)
def test_ready_means_all_that_should_run_or_any(
    catalog: Catalog, broken: ServedModel, models: str, all_of_them: bool, any_of_them: bool
) -> None:
    kinds = {
        "good": catalog["torch_cnn-onnx"],
        "bad": broken,
        "refused": replace(broken, name="keras_cnn-tfjs", is_refused=True),
    }
    served = Catalog([kinds[kind] for kind in models.split()])
    for word, expected in (("all", all_of_them), ("any", any_of_them)):
        assert DataPlane(served, Settings(ready=word)).ready == expected, word


def test_without_a_model_nothing_is_ready(artifacts: Path, broken: ServedModel, picture: bytes) -> None:
    client = client_of(Catalog([broken]), artifacts)
    assert client.get("/v2/health/ready").status_code == 503
    assert get(client, "/v2/health/live") == {"live": True}
    (row,) = post(client, "/compare", data=picture)["results"]
    assert row["error"]
    assert client_of(Catalog([]), artifacts).get("/v2/health/ready").status_code == 503


def test_a_fault_of_the_service_itself_is_json_without_its_details(
    catalog: Catalog, artifacts: Path, picture: bytes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(DataPlane, "classify", fail)
    client = client_of(catalog, artifacts)
    client.may_fail = True
    assert "a secret" not in post(client, "/predict/keras_cnn-onnx", 500, data=picture)["error"]
    assert "ZeroDivisionError: a secret" in caplog.text


LONG = "x" * 3000

MISSING = {
    "/nothing": "There is nothing at /nothing",
    "/v1/models": "There is nothing",
    "/v1/models/keras_cnn": "Served here: ",
    "/v1/models/keras_cnn-onnx/versions/2": "no version '2' here. Served of it: 1",
    "/v2/models/keras_cnn": "No model is named 'keras_cnn'. Served here: keras_cnn-keras, ",
    f"/v2/models/{LONG}": "Served here: ",
    "/v2/models/%00": "Served here: ",
    "/v2/models/%ff%fe": "Served here: ",
    "/v2/models/keras_cnn-onnx/versions/2": "no version '2' here. Served of it: 1",
    "/v2/models/keras_cnn/ready": "Served here: ",
    "/samples/none.png": "There is nothing",
    "/samples/..%2fkeras_cnn%2fonnx%2fmanifest.json": "There is nothing",
    f"/samples/{LONG}": "There is nothing",
    "/assets/none.js": "There is nothing",
    "/assets/../../serve/app.py": "There is nothing",
    "/assets/..%2f..%2fserve%2fapp.py": "There is nothing",
    "/runtimes/../../package.json": "There is nothing",
    "/..%2fpackage.json": "There is nothing",
    f"/{LONG}": "There is nothing",
    "/%00": "There is nothing",
    "/artifacts/keras_cnn/none/model.onnx": "Served here: ",
    "/artifacts/none/onnx/model.onnx": "Served here: ",
    "/artifacts/keras_cnn/onnx": "There is nothing",
    "/artifacts/keras_cnn/onnx/": "There is nothing",
    "/artifacts": "There is nothing",
}


@pytest.mark.parametrize("path", MISSING, ids=lambda path: path[:50])
def test_what_is_not_there_is_404(client: Opened, path: str) -> None:
    message = get(client, path, 404)["error"]
    assert MISSING[path] in message
    assert len(message) < 500


NOT_ALLOWED = [
    ("POST", "/v2", "GET, HEAD, OPTIONS"),
    ("POST", "/", "GET, HEAD, OPTIONS"),
    ("GET", "/compare", "OPTIONS, POST"),
    ("GET", "/predict/keras_cnn-onnx", "OPTIONS, POST"),
    ("GET", "/v2/models/keras_cnn-onnx/infer", "OPTIONS, POST"),
    ("GET", "/v2/repository/index", "OPTIONS, POST"),
    ("DELETE", "/v2/models/keras_cnn-onnx", "GET, HEAD, OPTIONS"),
    ("PUT", "/artifacts/keras_cnn/onnx/model.onnx", "GET, HEAD, OPTIONS"),
    ("BREW", "/v2/health/live", "GET, HEAD, OPTIONS"),
]


@pytest.mark.parametrize(("method", "path", "allowed"), NOT_ALLOWED)
def test_another_method_is_405_and_names_the_allowed_ones(client: Opened, method: str, path: str, allowed: str) -> None:
    response = client.open(path, method=method)
    assert response.status_code == 405
    assert response.headers["Allow"] == allowed
    assert response.get_json() == {"error": f"{method} is not allowed at {path}; allowed: {allowed}."}


PICTURE_CALLS = ["/predict/torch_cnn-tflite", "/compare"]


@pytest.mark.parametrize("path", [*PICTURE_CALLS, "/v2/models/keras_cnn-onnx/infer"])
def test_a_body_over_the_limit_is_413(client: Opened, path: str) -> None:
    message = post(client, path, 413, data=b"x" * (MAX_BYTES + 1))["error"]
    assert message == f"The request is larger than {MAX_BYTES} bytes, the limit. Send less at once."


@pytest.mark.parametrize("path", PICTURE_CALLS)
def test_a_form_over_the_limit_is_413(client: Opened, path: str) -> None:
    form = b'--a\r\nContent-Disposition: form-data; name="image"; filename="boot.png"\r\n\r\n' + b"x" * MAX_BYTES
    post(client, path, 413, data=form + b"\r\n--a--\r\n", content_type="multipart/form-data; boundary=a")


@pytest.mark.parametrize("path", PICTURE_CALLS)
def test_a_picture_with_too_many_pixels_is_413(client: Opened, path: str) -> None:
    message = post(client, path, 413, data=png(np.zeros((400, 300), np.uint8)))["error"]
    assert f"300 x 400 = 120000 pixels, the limit is {MAX_PIXELS}" in message


@pytest.mark.parametrize("path", PICTURE_CALLS)
@pytest.mark.parametrize("data", [b"", b"x", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"\x00" * 999])
def test_bytes_that_are_not_a_picture_are_415(client: Opened, path: str, data: bytes) -> None:
    assert "PNG" in post(client, path, 415, data=data)["error"]


@pytest.mark.parametrize("path", PICTURE_CALLS)
def test_a_truncated_picture_is_400(client: Opened, path: str, photo: bytes) -> None:
    assert "truncated or broken" in post(client, path, 400, data=photo[: len(photo) // 2])["error"]


@pytest.mark.parametrize("path", PICTURE_CALLS)
def test_a_form_without_exactly_one_file_is_400(client: Opened, path: str, picture: bytes) -> None:
    kind = "multipart/form-data"
    two = {"a": (io.BytesIO(picture), "a.png"), "b": (io.BytesIO(picture), "b.png")}
    assert "0 files, expected one" in post(client, path, 400, data={"a": "text"}, content_type=kind)["error"]
    assert "2 files, expected one" in post(client, path, 400, data=two, content_type=kind)["error"]
    for broken in (kind, f"{kind}; boundary=a", f"{kind}; boundary="):
        assert "0 files" in post(client, path, 400, data=picture, content_type=broken)["error"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not JSON"),
        (b"\xff" * 100, "not JSON"),
        (b"[" * 60_000, "depth"),
        (b"{}", "'inputs' is missing"),
        (json.dumps(infer_body(np.zeros((1, 28, 28)))).encode(), "expected [-1, 28, 28, 1]"),
        (json.dumps(infer_body(np.zeros((1, 28, 28, 1)), id="\ud800")).encode(), "surrogate"),
        (json.dumps({"inputs": [{"name": "\ud800"}]}).encode(), "surrogate"),
        (f'{{"inputs": {"[" * 600}{"]" * 600}}}'.encode(), ""),
    ],
    ids=range(8),
)
def test_a_bad_inference_request_is_400(client: Opened, body: bytes, words: str) -> None:
    assert words in post(client, "/v2/models/keras_cnn-onnx/infer", 400, data=body)["error"]


# Files of artifacts


FILES = [
    ("keras_cnn", "onnx", "model.onnx"),
    ("torch_cnn", "tflite", "model.tflite"),
    ("keras_cnn", "savedmodel", "variables/variables.index"),
    *(("torch_cnn", "tfjs", file) for file in ("model.json", "group1-shard1of1.bin", MANIFEST, PARITY)),
]


@pytest.mark.parametrize(("model", "format", "file"), FILES)
def test_browsers_get_an_artifacts_files(client: Opened, artifacts: Path, model: str, format: str, file: str) -> None:
    response = client.get(f"/artifacts/{model}/{format}/{file}")
    assert response.status_code == 200
    assert response.data == (artifacts / model / format / file).read_bytes()
    json_or_bytes = "application/json" if file.endswith(".json") else "application/octet-stream"
    assert response.content_type == json_or_bytes
    assert response.headers["Cache-Control"] == "no-cache"
    assert client.head(f"/artifacts/{model}/{format}/{file}").data == b""


@pytest.mark.parametrize("accepted", ["gzip", "gzip, deflate, br", "*", "br;q=1.0, gzip;q=0.2"])
def test_a_file_is_compressed_for_those_who_accept_it(client: Opened, artifacts: Path, accepted: str) -> None:
    response = client.get("/artifacts/keras_cnn/tfjs/model.json", headers={"Accept-Encoding": accepted})
    expected = (artifacts / "keras_cnn" / "tfjs" / "model.json").read_bytes()
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.headers["Vary"] == "Accept-Encoding"
    assert gzip.decompress(response.data) == expected
    assert len(response.data) < len(expected)


@pytest.mark.parametrize("accepted", ["", "identity", "br", "gzip;q=0", "nonsense;;q=x"])
def test_a_file_is_not_compressed_for_others(client: Opened, accepted: str) -> None:
    response = client.get("/artifacts/keras_cnn/tfjs/model.json", headers={"Accept-Encoding": accepted})
    assert "Content-Encoding" not in response.headers
    assert response.headers["Vary"] == "Accept-Encoding"
    assert json.loads(response.data)["format"] == "graph-model"


@pytest.mark.parametrize("accepted", ["", "gzip"])
def test_what_has_not_changed_is_not_sent_again(client: Opened, accepted: str) -> None:
    path, headers = "/artifacts/keras_cnn/onnx/model.onnx", {"Accept-Encoding": accepted}
    tag = client.get(path, headers=headers).headers["ETag"]
    again = client.get(path, headers={**headers, "If-None-Match": tag})
    assert (again.status_code, again.data) == (304, b"")
    assert again.headers["ETag"] == tag
    assert client.get(path, headers={**headers, "If-None-Match": '"another"'}).status_code == 200


def test_the_compressed_and_the_plain_file_have_tags_of_their_own(client: Opened) -> None:
    path = "/artifacts/keras_cnn/onnx/model.onnx"
    plain, compressed = (client.get(path, headers={"Accept-Encoding": coding}) for coding in ("", "gzip"))
    assert plain.headers["ETag"] != compressed.headers["ETag"]


TRICKS = [
    "../onnx/model.onnx",
    "../../../serve/app.py",
    "..%2f..%2fkeras%2fmodel.h5",
    "%2e%2e/onnx/model.onnx",
    "%2e%2e%2fonnx%2fmodel.onnx",
    "..%5c..%5cmodel.onnx",
    "/etc/passwd",
    "%2fetc%2fpasswd",
    "//etc/passwd",
    "./model.onnx",
    "model.onnx/",
    "model.onnx/.",
    "model.onnx%00",
    "model.onnx%00.json",
    "MODEL.ONNX",
    "model.onnx~",
    "secret.txt",
    "hidden/secret.txt",
    ".manifest.json.1.partial",
    "",
    LONG,
]


@pytest.mark.parametrize("trick", TRICKS, ids=lambda trick: trick[:50])
def test_no_path_leads_to_a_file_that_the_manifest_does_not_name(artifacts: Path, tmp_path: Path, trick: str) -> None:
    folder = shutil.copytree(artifacts / "keras_cnn" / "onnx", tmp_path / "keras_cnn" / "onnx")
    for secret in ("secret.txt", "hidden/secret.txt", ".manifest.json.1.partial"):
        (folder / secret).parent.mkdir(exist_ok=True)
        (folder / secret).write_text("secret")
    client = client_of(Catalog([load_model(folder)]), tmp_path)
    response = client.get(f"/artifacts/keras_cnn/onnx/{trick}", follow_redirects=True)
    assert response.status_code == 404
    assert len(response.get_json()["error"]) < 500


def test_a_file_that_changed_after_its_model_was_loaded_is_not_sent(artifacts: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(artifacts / "keras_cnn" / "onnx", tmp_path / "keras_cnn" / "onnx")
    client = client_of(Catalog([load_model(folder)]), tmp_path)
    assert client.get("/artifacts/keras_cnn/onnx/model.onnx").status_code == 200
    (folder / "model.onnx").write_bytes(b"another model")
    response = client.get("/artifacts/keras_cnn/onnx/model.onnx")
    assert response.status_code == 503
    assert "changed since keras_cnn-onnx was loaded" in response.get_json()["error"]


def test_a_model_answers_after_its_folder_is_gone(
    artifacts: Path, tmp_path: Path, images: NDArray[np.float32], picture: bytes
) -> None:
    folder = shutil.copytree(artifacts / "keras_cnn" / "onnx", tmp_path / "keras_cnn" / "onnx")
    client = client_of(Catalog([load_model(folder)]), tmp_path)
    before = get(client, "/v2/models/keras_cnn-onnx")
    shutil.rmtree(folder)
    assert get(client, "/v2/models/keras_cnn-onnx") == before
    assert post(client, "/v2/models/keras_cnn-onnx/infer", json=infer_body(images[:1]))["outputs"]
    assert post(client, "/compare", data=picture)["results"][0]["label"]
    assert client.get("/artifacts/keras_cnn/onnx/model.onnx").status_code == 404


# Conversions that failed, and models that take other tensors


@pytest.fixture
def brought(artifacts: Path, tmp_path: Path) -> Opened:
    """A colour classifier without labels, a sequence model; conversions that failed, of which one succeeded later."""
    write_photo(tmp_path / "photo" / "onnx", "probabilities")
    write_photo(tmp_path / "features" / "onnx", "features")
    write_sequence(tmp_path / "sequence" / "onnx")
    write_failed_edge(tmp_path, FAILED, LOG)
    write_failed_edge(tmp_path, replace(FAILED, model="photo", format="onnx"), LOG)
    (tmp_path / "pair" / "failed" / "tfjs.json").write_text("{")
    return client_of(load_catalog(tmp_path), tmp_path)


def test_the_index_has_a_conversion_that_failed_with_all_that_is_known(brought: Opened) -> None:
    *served, failed = post(brought, "/v2/repository/index")
    assert [(model["name"], model["state"]) for model in served] == [
        (name, "READY") for name in ("features-onnx", "photo-onnx", "sequence-onnx")
    ]
    assert (failed["name"], failed["state"], failed["reason"]) == ("pair-onnx-int8", "UNAVAILABLE", FAILED.reason)
    assert failed["failed_edge"] == FAILED.to_json() | {"log": "/artifacts/pair/failed/onnx-int8.log"}
    assert len(post(brought, "/v2/repository/index", json={"ready": True})) == 3
    message = get(brought, "/v2/models/pair-onnx-int8", 503)["error"]
    assert message == f"There is no pair-onnx-int8: its conversion from onnx failed. {FAILED.reason}"


def test_the_log_of_a_conversion_that_failed_is_plain_text(brought: Opened, tmp_path: Path) -> None:
    response = brought.get("/artifacts/pair/failed/onnx-int8.log")
    assert response.get_data(as_text=True) == LOG
    assert response.content_type == "text/plain; charset=utf-8"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    (tmp_path / "pair" / "failed" / "onnx-int8.log").unlink()
    assert get(brought, "/artifacts/pair/failed/onnx-int8.log", 404)["error"]
    assert post(brought, "/v2/repository/index")[-1]["failed_edge"]["log"] is None


@pytest.mark.parametrize(
    "path",
    [
        "pair/failed/tfjs.log",
        "pair/failed/onnx-int8.json",
        "photo/failed/onnx.log",
        "pair/failed/..%2fonnx-int8.log",
        "pair/failed/%2e%2e/failed/onnx-int8.log",
        "../pair/failed/secret.log",
        "pair/failed/secret.log",
        f"pair/failed/{LONG}.log",
    ],
)
def test_no_other_file_is_a_log(brought: Opened, tmp_path: Path, path: str) -> None:
    (tmp_path / "pair" / "failed" / "secret.log").write_text("secret")
    response = brought.get(f"/artifacts/{path}", follow_redirects=True)
    assert response.status_code == 404
    assert len(response.get_json()["error"]) < 500


def test_a_container_of_some_formats_has_their_failed_conversions(brought: Opened, tmp_path: Path) -> None:
    def failed(*formats: str) -> list[str]:
        return list(load_catalog(tmp_path, Settings(formats=formats)).failed_edges)

    assert failed("onnx") == ["pair-onnx-int8"]
    assert failed("tflite") == []


def test_metadata_has_all_that_a_form_needs(brought: Opened) -> None:
    answer = get(brought, "/v2/models/sequence-onnx")
    assert answer["inputs"] == [{"name": "tokens", "datatype": "INT64", "shape": [1, -1]}]
    assert answer["outputs"] == [{"name": "mean", "datatype": "FP32", "shape": [1, 2]}]
    assert answer["parameters"]["layouts"] == {"tokens": "NT", "mean": "NC"}
    assert (answer["parameters"]["image"], answer["parameters"]["classifies"]) == (None, False)


def test_classes_without_labels_go_by_their_numbers(brought: Opened, picture: bytes) -> None:
    answer = post(brought, "/predict/photo-onnx", data=picture)
    assert list(answer["probabilities"]) == [f"class {number}" for number in range(CLASSES)]
    assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].__getitem__)
    assert [row["model"] for row in post(brought, "/compare", data=picture)["results"]] == ["photo-onnx"]
    assert "does not classify pictures" in post(brought, "/predict/features-onnx", 400, data=picture)["error"]
    about = {name: get(brought, f"/v2/models/{name}-onnx")["parameters"] for name in ("photo", "features")}
    assert (about["photo"]["classifies"], about["features"]["classifies"]) == (True, False)
    assert about["features"]["image"]["height"] == 20


# The samples and the page


def test_every_sample_of_the_index_is_a_picture_that_is_answered(client: Opened) -> None:
    index = get(client, "/samples/index.json")
    assert len(index["samples"]) == 200
    for sample in index["samples"][:5]:
        response = client.get(f"/samples/{sample['file']}", headers={"Accept-Encoding": "gzip"})
        assert response.content_type == "image/png"
        assert "Content-Encoding" not in response.headers  # it is compressed already
        assert post(client, "/predict/keras_cnn-onnx", data=response.data)["label"] in index["labels"]


def test_missing_samples_and_a_missing_report_are_null(tmp_path: Path) -> None:
    client = client_of(Catalog([]), tmp_path)
    assert (get(client, "/samples/index.json"), get(client, "/report/report.json")) == (None, None)


def test_the_report_is_served_where_there_is_one(tmp_path: Path) -> None:
    client, report = client_of(Catalog([]), tmp_path), tmp_path / "report"
    assert client.get("/report/").status_code == 404
    (report / "measured").mkdir(parents=True)
    for name in ("report.html", "report.json", "front-dark.png", ".report.html.partial", "measured/time-a.json"):
        (report / name).write_text(name)
    for path, kind in (
        ("/report/", "text/html; charset=utf-8"),
        ("/report/report.json", "application/json"),
        ("/report/front-dark.png", "image/png"),
    ):
        response = client.get(path)
        assert (response.status_code, response.content_type) == (200, kind)
        assert client.open(path, method="HEAD").status_code == 200
    for name in ("measured/time-a.json", ".report.html.partial", "measured", "..%2fa.json", "none.png"):
        assert client.get(f"/report/{name}").status_code == 404


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A built page."""
    folder = tmp_path / "dist"
    for file in ("assets/index-abc123.js", "assets/index-abc123.css", "runtimes/tfjs/a.wasm", "runtimes/onnx/b.mjs"):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("x" * 1000)
    (folder / "index.html").write_text("<!doctype html><title>Rosetta Serve</title>")
    (folder / "icon.svg").write_text("<svg/>")
    (tmp_path / "outside.txt").write_text("secret")
    monkeypatch.setattr(serve.views, "PAGE", folder)
    return folder


@pytest.mark.parametrize(
    ("path", "kind", "cached"),
    [
        ("/", "text/html; charset=utf-8", "no-cache"),
        ("/index.html", "text/html; charset=utf-8", "no-cache"),
        ("/icon.svg", "image/svg+xml", "no-cache"),
        ("/assets/index-abc123.js", "text/javascript; charset=utf-8", "public, max-age=31536000, immutable"),
        ("/assets/index-abc123.css", "text/css; charset=utf-8", "public, max-age=31536000, immutable"),
        ("/runtimes/tfjs/a.wasm", "application/wasm", "no-cache"),
        ("/runtimes/onnx/b.mjs", "text/javascript; charset=utf-8", "no-cache"),
    ],
)
def test_the_page_is_served_with_the_types_that_browsers_insist_on(
    client: Opened, page: Path, path: str, kind: str, cached: str
) -> None:
    response = client.get(path)
    assert response.data == (page / (path.lstrip("/") or "index.html")).read_bytes()
    assert response.content_type == kind
    assert response.headers["Cache-Control"] == cached


@pytest.mark.parametrize("path", ["/../outside.txt", "/..%2foutside.txt", "/assets/../../outside.txt", "/assets/"])
def test_no_path_leads_out_of_the_page(client: Opened, page: Path, path: str) -> None:
    assert client.get(path).status_code == 404


def test_without_a_built_page_the_answer_names_the_command_that_builds_it(
    client: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve.views, "PAGE", tmp_path / "dist")
    assert "Run `make web`" in get(client, "/", 503)["error"]
    assert get(client, "/v2/health/ready") == {"ready": True}


@pytest.mark.skipif(not (PAGE / "index.html").exists(), reason="the page is not built: make web")
def test_every_file_of_the_built_page_is_served(client: Opened) -> None:
    files = [path for path in PAGE.rglob("*") if path.is_file()]
    for file in files:
        assert client.get(f"/{file.relative_to(PAGE).as_posix()}").status_code == 200, file
    assert b"<html" in client.get("/").data
