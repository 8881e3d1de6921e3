"""Pictures that are not of the model's shape: they reach it as they do in its own framework, and the user is told."""

from pathlib import Path

import keras
import numpy as np
import onnx
import PIL.Image
import pytest

from bring.data_folder import questions_for
from bring.description import Description, parse_preprocess
from bring.readers.onnx import OnnxSource
from bring.source import write_source
from bring.wrapping import Source, plan
from contract.manifest import Manifest
from serve.app import create_app
from serve.catalog import load_catalog
from serve.runtimes import load_runtime
from serve.settings import Settings
from tests.test_bring_readers import KINDS, SETTINGS

SIZE = 16
COLOURS = {"green": (0, 255, 0), "red": (255, 0, 0)}
MISLABELLED = 3
"""As many red pictures lie in the folder of the green ones: the model cannot have all right."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey pictures, wide and tall, with a colour at their beginning: margins hide it, and so does a crop."""
    folder = tmp_path_factory.mktemp("data") / "strips"
    for index in range(20):
        is_red = index % 2
        label = "red" if is_red and index >= 2 * MISLABELLED else "green"
        pixels = np.full((SIZE, 4 * SIZE + index, 3), 128, np.uint8)
        pixels[:, : SIZE + index % 5] = COLOURS["red" if is_red else "green"]
        file = folder / label / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(pixels if index % 4 < 2 else pixels.swapaxes(0, 1)).save(file)
    return folder


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Keras model that looks at the first pixel alone: is it green, or red?"""
    weights = np.zeros((SIZE, SIZE, 3, 2), np.float32)
    weights[0, 0, 0] = -9, 9
    weights[0, 0, 1] = 9, -9
    net = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    net.layers[-1].set_weights([weights.reshape(-1, 2), np.zeros(2, np.float32)])
    path = tmp_path_factory.mktemp("model") / "strips.keras"
    net.save(path)
    return path


def accuracy_by_keras(file: Path, pictures: Path) -> float:
    """As a user measures it: Keras reads the folder, in its own way."""
    batches = keras.utils.image_dataset_from_directory(pictures, image_size=(SIZE, SIZE), shuffle=False, verbose=False)
    model = keras.saving.load_model(file)
    right = [model.predict(rows, verbose=0).argmax(axis=1) == labels.numpy() for rows, labels in batches]
    return float(np.concatenate(right).mean())


def brought(file: Path, folder: Path, preprocess: str = "") -> Manifest:
    settings = parse_preprocess(preprocess) if preprocess else None
    return write_source(file, folder, "strips", Description(preprocess=settings, classes=tuple(COLOURS))).manifest


def accuracy(manifest: Manifest, folder: Path, pictures: Path) -> float:
    """By the questions that parity, `make compare` and the samples are made from."""
    rows = questions_for(manifest, Description(data=pictures), 2, "strips")
    runtime = load_runtime(folder / manifest.format, manifest)
    try:
        answers = runtime.predict({"pixels": rows.inputs["pixels"].astype(np.float32)})
    finally:
        runtime.close()
    return float((answers["probabilities"].argmax(axis=1) == rows.labels).mean())


def test_a_keras_model_is_as_accurate_as_keras_says(
    file: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = brought(file, tmp_path)
    expected = accuracy_by_keras(file, pictures)
    assert expected == 1 - MISLABELLED / 20
    assert accuracy(manifest, tmp_path, pictures) == expected
    assert capsys.readouterr().out.splitlines() == [
        "20 of 20 pictures of strips have another aspect ratio than the model's input of 16x16: fit=stretch was used, "
        "the default of its framework's loaders. If training used another, add fit=contain or fit=cover to PREPROCESS."
    ]


@pytest.mark.parametrize("fit", ["contain", "cover"])
def test_another_fit_shows_the_model_something_else_and_a_chosen_one_is_not_explained(
    file: Path, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fit: str
) -> None:
    manifest = brought(file, tmp_path, f"fit={fit}")
    assert manifest.image is not None and manifest.image.fit == fit
    assert accuracy(manifest, tmp_path, pictures) < accuracy_by_keras(file, pictures) - 0.1
    assert capsys.readouterr().out == ""


def test_pictures_of_the_models_shape_need_no_words(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in COLOURS:
        (tmp_path / "data" / name).mkdir(parents=True)
        PIL.Image.new("RGB", (2 * SIZE, 2 * SIZE), name).save(tmp_path / "data" / name / "1.png")
    questions_for(brought(file, tmp_path / "artifacts"), Description(data=tmp_path / "data"), 2, "strips")
    assert capsys.readouterr().out == ""


def test_the_service_takes_pictures_as_the_questions_do_and_says_how(
    file: Path, pictures: Path, tmp_path: Path
) -> None:
    brought(file, tmp_path / "strips")
    client = create_app(load_catalog(tmp_path), Settings(artifacts=tmp_path)).test_client()
    parameters = client.get("/v2/models/strips-keras").get_json()["parameters"]
    assert (parameters["image"]["fit"], parameters["made_with"]["fit_is_default"]) == ("stretch", True)
    files = sorted(pictures.rglob("*.png"))
    labels = [client.post("/predict/strips-keras", data=file.read_bytes()).get_json()["label"] for file in files]
    right = np.mean([label == file.parent.name for label, file in zip(labels, files, strict=True)])
    assert right == 1 - MISLABELLED / 20


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_word_the_fit_is_that_of_the_framework(tmp_path: Path, kind: str) -> None:
    source = KINDS[kind](tmp_path, True)
    assert fit_of(source) == ("cover" if kind == "torch" else "stretch")
    assert fit_of(source, "contain") == "contain"


def test_an_onnx_file_that_pytorch_wrote_is_fitted_as_pytorch_does(tmp_path: Path) -> None:
    KINDS["onnx"](tmp_path, True)
    model = onnx.load(tmp_path / "net.onnx")
    model.producer_name = "pytorch"
    onnx.save(model, tmp_path / "net.onnx")
    assert fit_of(OnnxSource(tmp_path / "net.onnx", Description())) == "cover"


def fit_of(source: Source, wanted: str = "") -> str:
    settings = f"{SETTINGS} fit={wanted}" if wanted else SETTINGS
    wrapping = plan(source, Description(preprocess=parse_preprocess(settings)), "net")
    assert wrapping.image is not None and wrapping.preprocess is not None
    assert wrapping.preprocess.fit == wrapping.image.fit
    return wrapping.image.fit
