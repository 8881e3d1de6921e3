"""What is whole on disk is served, in a fixed order; what is not is listed with its reason beside the others."""

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from onnx import TensorProto, helper

from contract.errors import ModelUnavailable, UnknownModel
from contract.formats import needs
from contract.manifest import MANIFEST, read_manifest, write_json, write_manifest
from contract.parity_result import PARITY, read_status
from export import exported_from
from serve.app import create_app
from serve.artifacts import find_artifacts
from serve.catalog import Catalog, ServedModel, load_catalog, load_model
from serve.settings import Settings
from tests.test_export_precision import WIDTH, artifact

CHEAP = ("onnx", "tflite")
"""The formats that load in an instant; the sources are not needed to run them."""


@pytest.fixture
def cheap(artifacts: Path, tmp_path: Path) -> Path:
    """Both models with their sources' manifests, and the artifacts that load in an instant."""
    folder = tmp_path / "artifacts"
    for source, formats in (("keras_cnn/keras", ("savedmodel", *CHEAP)), ("torch_cnn/torch", ("savedmodel", *CHEAP))):
        model = source.split("/")[0]
        (folder / source).mkdir(parents=True)
        shutil.copy(artifacts / source / MANIFEST, folder / source / MANIFEST)
        for format in formats:
            shutil.copytree(artifacts / model / format, folder / model / format)
    shutil.copytree(artifacts / "samples", folder / "samples")
    return folder


@pytest.fixture
def onnx(cheap: Path) -> Path:
    """An artifact to damage."""
    return cheap / "keras_cnn" / "onnx"


def only(cheap: Path, *names: str) -> Catalog:
    """The catalog after removing the other artifacts' manifests: loading TensorFlow for nothing takes seconds."""
    for folder in find_artifacts(cheap):
        if f"{folder.parent.name}-{folder.name}" not in names:
            (folder / MANIFEST).unlink()
    return load_catalog(cheap)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


# What is there


def test_all_are_served_in_order_with_their_sources_and_statuses(catalog: Catalog) -> None:
    expected: list[tuple[str, str | None, str, bool]] = []
    for model, source in (("keras_cnn", "keras"), ("torch_cnn", "torch")):
        expected.append((f"{model}-{source}", None, "source", True))
        for format in exported_from(source):
            known = ("unverified", False) if needs(format) else ("verified", True)
            expected.append((f"{model}-{format}", f"{model}-{source}", *known))
    assert [(model.name, model.source, model.status.word, model.ready) for model in catalog.values()] == expected


def test_a_verified_artifact_knows_its_parity_and_its_sizes(onnx: Path) -> None:
    model = load_model(onnx)
    assert model.status.parity is not None
    assert model.status.parity.max_abs_diff < 1e-4
    assert "questions, largest difference" in model.status.reason
    assert model.sizes == {"model.onnx": (onnx / "model.onnx").stat().st_size}


@pytest.mark.parametrize("content", ["nothing", "a file", "a folder"])
def test_without_artifacts_the_catalog_is_empty(tmp_path: Path, content: str) -> None:
    folder = tmp_path / "artifacts"
    if content == "a file":
        folder.write_text("")
    elif content == "a folder":
        (folder / "samples").mkdir(parents=True)
    assert len(load_catalog(folder)) == 0


def test_an_unknown_name_is_an_error_that_names_the_models(cheap: Path) -> None:
    catalog = only(cheap, "keras_cnn-onnx", "keras_cnn-tflite")
    with pytest.raises(UnknownModel, match=r"'keras_cnn'\. Served here: keras_cnn-onnx, keras_cnn-tflite\."):
        catalog["keras_cnn"]
    with pytest.raises(UnknownModel) as caught:
        catalog["x" * 10_000]
    assert len(str(caught.value)) < 300


def test_hidden_and_half_written_folders_are_not_there(cheap: Path, onnx: Path) -> None:
    shutil.copytree(onnx, onnx.with_name(".onnx.123.partial"))
    shutil.copytree(onnx, onnx.with_name(".onnx.123.old.partial"))
    shutil.copytree(onnx.parent, cheap / ".keras_cnn.123.partial")
    (cheap / "keras_cnn" / "tfjs").mkdir()
    (cheap / "keras_cnn" / "tfjs" / "model.json").write_text("{}")
    (cheap / MANIFEST).write_text("{}")
    (cheap / "keras_cnn" / MANIFEST).write_text("{}")
    assert list(only(cheap, "keras_cnn-onnx", "keras_cnn-tflite")) == ["keras_cnn-onnx", "keras_cnn-tflite"]


# What is damaged


def remove_a_file(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def remove_a_field(folder: Path) -> None:
    data = json.loads((folder / MANIFEST).read_text())
    del data["inputs"]
    write_json(folder / MANIFEST, data)


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def rename_the_model(folder: Path) -> None:
    write_manifest(folder, replace(read_manifest(folder), model="another"))


def invent_a_dtype(folder: Path) -> None:
    manifest = read_manifest(folder)
    write_manifest(folder, replace(manifest, inputs=(replace(manifest.inputs[0], dtype="float33"),)))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped byte": (lambda folder: flip_a_byte(folder / "model.onnx"), "has sha256"),
    "a missing file": (remove_a_file, "is missing"),
    "a manifest that is no JSON": (lambda folder: (folder / MANIFEST).write_text("{"), "cannot be read as a manifest"),
    "an empty manifest": (lambda folder: (folder / MANIFEST).write_bytes(b""), "cannot be read as a manifest"),
    "a manifest that is a list": (lambda folder: (folder / MANIFEST).write_text("[]"), "cannot be read as a manifest"),
    "a manifest without a field": (remove_a_field, "inputs: it is missing"),
    "a manifest that is a folder": (lambda folder: make_a_folder(folder / MANIFEST), "it is not a regular file"),
    "another model's manifest": (rename_the_model, "the manifest of another-onnx, expected keras_cnn-onnx"),
    "a dtype that there is not": (invent_a_dtype, "float33"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_artifact_is_listed_with_its_reason_and_the_others_serve(
    cheap: Path, onnx: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    do, reason = DAMAGES[damage]
    do(onnx)
    with caplog.at_level(logging.WARNING):
        catalog = only(cheap, "keras_cnn-onnx", "keras_cnn-tflite", "torch_cnn-onnx")
    assert [(model.name, model.ready) for model in catalog.values()] == [
        ("keras_cnn-onnx", False),
        ("keras_cnn-tflite", True),
        ("torch_cnn-onnx", True),
    ]
    broken = catalog["keras_cnn-onnx"]
    assert broken.status.word == "failed"
    assert reason in broken.error
    assert broken.error == broken.status.reason
    assert [record.getMessage() for record in caplog.records] == [f"keras_cnn-onnx is not served: {broken.error}"]
    with pytest.raises(ModelUnavailable, match="keras_cnn-onnx is not served: "):
        _ = broken.runtime


def test_a_format_that_no_runtime_runs_is_listed_last(cheap: Path, onnx: Path) -> None:
    ncnn = shutil.copytree(onnx, onnx.with_name("ncnn"))
    write_manifest(ncnn, replace(read_manifest(onnx), format="ncnn"))
    catalog = only(cheap, "keras_cnn-onnx", "keras_cnn-ncnn", "keras_cnn-tflite")
    assert list(catalog) == ["keras_cnn-onnx", "keras_cnn-tflite", "keras_cnn-ncnn"]
    assert "'ncnn' is not one of keras, " in catalog["keras_cnn-ncnn"].error
    assert catalog["keras_cnn-onnx"].ready


def test_precisions_stand_beside_their_format(cheap: Path, onnx: Path) -> None:
    for format in ("onnx-int8", "onnx-fp16"):
        copy = shutil.copytree(onnx, onnx.with_name(format))
        write_manifest(copy, replace(read_manifest(onnx), format=format))
    names = ["keras_cnn-onnx", "keras_cnn-onnx-fp16", "keras_cnn-onnx-int8", "keras_cnn-tflite"]
    catalog = only(cheap, *names)
    assert list(catalog) == names
    assert catalog["keras_cnn-onnx-int8"].status.word == "unverified"


def test_without_the_manifest_of_its_source_an_artifact_has_none_and_is_unverified(cheap: Path, onnx: Path) -> None:
    (cheap / "keras_cnn" / "keras" / MANIFEST).unlink()
    model = load_model(onnx)
    assert model.ready
    assert model.source is None
    assert model.status.word == "unverified"
    assert "source changed" in model.status.reason


def test_artifacts_that_are_each_others_parents_have_no_source(onnx: Path) -> None:
    write_manifest(onnx, replace(read_manifest(onnx), parent="tflite"))
    tflite = onnx.with_name("tflite")
    write_manifest(tflite, replace(read_manifest(tflite), parent="onnx"))
    assert load_model(onnx).source is None


# What parity says


def change_parity(folder: Path, **changes: Any) -> None:
    write_json(folder / PARITY, json.loads((folder / PARITY).read_text()) | changes)


def rewrite_the_manifest(folder: Path) -> None:
    write_manifest(folder, replace(read_manifest(folder), made_with={"onnx": "another version"}))


def rewrite_the_source(folder: Path) -> None:
    rewrite_the_manifest(folder.with_name("keras"))


UNVERIFIED: dict[str, tuple[Callable[[Path], object], str]] = {
    "there is none": (lambda folder: (folder / PARITY).unlink(), "never compared"),
    "it is for other bytes": (rewrite_the_manifest, "for other bytes"),
    "its source is another": (rewrite_the_source, "source changed"),
    "it names no known source": (lambda folder: change_parity(folder, source="keras_cnn-h5"), "source changed"),
    "it did not pass": (
        lambda folder: change_parity(folder, passed=False, reasons=["the largest difference is 0.5"]),
        "its answers are not its source's: the largest difference is 0.5",
    ),
    "it is no JSON": (lambda folder: (folder / PARITY).write_text("{"), "cannot be read"),
    "it is no UTF-8": (lambda folder: (folder / PARITY).write_bytes(b"\xff\xfe\xfd"), "cannot be read"),
    "it is a list": (lambda folder: (folder / PARITY).write_text("[]"), "cannot be read"),
    "it is nested too deeply": (lambda folder: (folder / PARITY).write_text("[" * 100_000), "cannot be read"),
    "it has another field": (lambda folder: change_parity(folder, stars=5), "cannot be read"),
    "its source is a number": (lambda folder: change_parity(folder, source=5), "cannot be read"),
    "its batches are a number": (lambda folder: change_parity(folder, batches=5), "cannot be read"),
    "its batches are words": (lambda folder: change_parity(folder, batches=["a"]), "cannot be read"),
    "it compared nothing": (lambda folder: change_parity(folder, batches=[]), "cannot be read"),
    "its reasons are numbers": (lambda folder: change_parity(folder, passed=False, reasons=[5]), "cannot be read"),
    "it is a folder": (lambda folder: make_a_folder(folder / PARITY), "cannot be read"),
}


@pytest.mark.parametrize("case", UNVERIFIED)
def test_an_artifact_is_served_as_unverified_when_its_parity_result(onnx: Path, case: str) -> None:
    assert read_status(onnx).word == "verified"
    change, reason = UNVERIFIED[case]
    change(onnx)
    model = load_model(onnx)
    assert model.ready
    assert model.status.word == "unverified"
    assert reason in model.status.reason
    assert case == "it did not pass" or "`make verify`" in model.status.reason


def test_a_result_that_did_not_pass_is_kept(onnx: Path) -> None:
    change_parity(onnx, passed=False, reasons=["it is far off"])
    parity = load_model(onnx).status.parity
    assert parity is not None
    assert not parity.passed


# Closing


class Closable:
    """Counts how often it was closed."""

    title = platform = "counter"
    in_process = True
    closed = 0

    def predict(self, inputs: Any) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        self.closed += 1


def test_closing_the_catalog_closes_what_was_loaded(onnx: Path) -> None:
    status, runtime = read_status(onnx), Closable()
    loaded = ServedModel("m-onnx", onnx, None, status, None, runtime)
    failed = ServedModel("m-tflite", onnx, None, status, None, failure="it is broken")
    Catalog([loaded, failed]).close()
    assert runtime.closed == 1


# The first answer


def test_an_answer_to_zeros_that_is_no_number_is_said_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """0 / 0 at each of them: the model is served, since other inputs may have answers."""
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", WIDTH])] for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Div", ["x", "x"], ["y"])], "net", *ends)
    with caplog.at_level(logging.WARNING):
        model = load_model(artifact(tmp_path / "net", graph, "x", "y", WIDTH))
    trouble = f"its answer to a row of zeros has values that are not numbers (NaN): {WIDTH} of {WIDTH} in y"
    assert (model.ready, model.warm_up) == (True, trouble)
    assert f"net-onnx: {trouble}" in caplog.text
    client = create_app(Catalog([model]), Settings(artifacts=tmp_path)).test_client()
    described = client.get("/v2/models/net-onnx").get_json()["parameters"]
    assert described["warm_up"] == trouble
    assert described["status_reason"].endswith(f"; {trouble}")
    model.runtime.close()


def test_a_sound_first_answer_says_nothing(cheap: Path) -> None:
    assert only(cheap, "keras_cnn-onnx")["keras_cnn-onnx"].warm_up == ""
