"""Both scripts train the same network in the same way, and leave the new artifact or the old one."""

import hashlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from contract import dataset
from contract.code import ROOT
from contract.dataset import CIFAR10, Split
from contract.errors import TrainingError
from contract.manifest import MANIFEST, read_manifest, verify_files
from train import keras_cnn, recipe, torch_cnn
from train.recipe import Recipe, Train, make_artifact

SOURCES = {"keras_cnn": "keras", "torch_cnn": "torch"}

SCRIPTS: dict[str, Train] = {"keras_cnn": keras_cnn.train, "torch_cnn": torch_cnn.train}


# The network


def test_both_networks_have_the_articles_11290_parameters() -> None:
    assert keras_cnn.build((32, 32, 3), 10).count_params() == 11_290
    assert sum(value.numel() for value in torch_cnn.ClassicCNN((32, 32, 3), 10).parameters()) == 11_290


def test_both_networks_have_the_same_layers() -> None:
    kernels = [tuple(weight.shape) for weight in keras_cnn.build((20, 28, 3), 7).weights]
    tensors = [tuple(value.shape) for value in torch_cnn.ClassicCNN((20, 28, 3), 7).parameters()]
    # Keras keeps HWIO and (in, out), PyTorch OIHW and (out, in).
    assert [shape[-1:] + shape[-2:-1] + shape[:-2] for shape in kernels] == tensors


# The recipe


def test_the_order_of_the_pictures_changes_with_the_epoch_and_the_seed_only() -> None:
    orders = {(seed, epoch): Recipe(seed=seed).order(epoch, 500).tolist() for seed in (1, 2) for epoch in (0, 1)}
    assert all(sorted(order) == list(range(500)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 4
    assert Recipe(epochs=3, limit=9).order(1, 500).tolist() == orders[1, 1]


@pytest.mark.parametrize("model", SOURCES)
def test_both_scripts_take_the_pictures_in_the_recipes_order(
    model: str, test_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders: list[tuple[int, int]] = []
    order = Recipe.order

    def noted(self: Recipe, epoch: int, count: int) -> NDArray[np.int64]:
        orders.append((epoch, count))
        return order(self, epoch, count)

    monkeypatch.setattr(Recipe, "order", noted)
    trained = SCRIPTS[model](Recipe(epochs=2), test_split, test_split, tmp_path)
    assert orders == [(0, 256), (1, 256)]
    assert len(trained.epoch_seconds) == 2


def test_the_first_batch_is_the_same_in_both_frameworks(
    test_split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The input of the first layer in training, pixel by pixel."""
    seen: list[NDArray[np.float32]] = []
    forward = torch_cnn.ClassicCNN.forward

    def noted(self: torch_cnn.ClassicCNN, pictures: torch.Tensor) -> torch.Tensor:
        if self.training and not torch.compiler.is_compiling():
            seen.append(pictures.detach().numpy().copy())
        return forward(self, pictures)

    monkeypatch.setattr(torch_cnn.ClassicCNN, "forward", noted)
    settings = Recipe(epochs=1)
    torch_cnn.train(settings, test_split, test_split, tmp_path)
    expected = test_split.images[settings.order(0, 256)[:64]].transpose(0, 3, 1, 2) / np.float32(255)
    np.testing.assert_allclose(seen[0], expected, rtol=1e-6)


@pytest.mark.parametrize("setting", ["epochs", "batch_size", "limit"])
def test_a_setting_below_one_is_refused(setting: str, tmp_path: Path) -> None:
    option = f"--{setting.replace('_', '-')}"
    with pytest.raises(SystemExit, match=rf"^error: {setting} is 0, expected at least 1\.$"):
        recipe.main(torch_cnn.train, "torch_cnn", "torch", [str(tmp_path / "torch"), option, "0"])


def test_an_unknown_data_set_is_one_clear_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "train.torch_cnn", str(tmp_path / "torch"), "--dataset", "mnist2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: No data set is named 'mnist2'. Known: fashion_mnist, cifar10.\n"
    assert list(tmp_path.iterdir()) == []


# What was trained


@pytest.mark.parametrize("model", SOURCES)
def test_training_really_learns(artifacts: Path, model: str) -> None:
    made_with = read_manifest(artifacts / model / SOURCES[model]).made_with
    assert made_with["test_accuracy"] > 0.5, "chance is 0.1"


@pytest.mark.parametrize("model", SOURCES)
def test_the_manifest_says_how_it_was_trained(artifacts: Path, model: str) -> None:
    manifest = read_manifest(artifacts / model / SOURCES[model])
    assert manifest.is_source
    made_with = manifest.made_with
    assert made_with["parameters"] == 8_954
    assert made_with["seed"] == 1
    assert made_with["epochs"] == len(made_with["epoch_seconds"]) == 1
    assert 0 < made_with["epoch_seconds"][0] <= made_with["seconds"]
    assert made_with["train_images"] == made_with["limit"] == 3_000
    assert made_with["framework"].startswith(("Keras 3", "PyTorch 2"))


def test_the_h5_file_loads_in_safe_mode_and_its_json_rebuilds_it(artifacts: Path, test_split: Split) -> None:
    folder = artifacts / "keras_cnn" / "keras"
    model = keras.models.load_model(folder / "model.h5", compile=False, safe_mode=True)
    rebuilt = keras.models.model_from_json((folder / "model.json").read_text())
    rebuilt.load_weights(folder / "model.h5")
    pixels = test_split.images.astype("float32")
    np.testing.assert_array_equal(model(pixels), rebuilt(pixels))


def test_the_state_dict_is_the_network_inside_the_shipped_program(artifacts: Path, test_split: Split) -> None:
    """NHWC pixels 0..255 go into the program, NCHW pictures 0..1 into the network, whose answers are the logarithms."""
    folder = artifacts / "torch_cnn" / "torch"
    net = torch_cnn.ClassicCNN((28, 28, 1), 10)
    net.load_state_dict(torch.load(folder / "state_dict.pt", weights_only=True))
    program = torch.export.load(folder / "model.pt2").module()
    pixels = torch.tensor(test_split.images).float()
    with torch.inference_mode():
        logarithms = net(pixels.permute(0, 3, 1, 2) / 255)
        probabilities = program(pixels)
    assert float(logarithms.max()) <= 0
    np.testing.assert_allclose(logarithms.exp().numpy(), probabilities.numpy(), atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(dim=1).numpy(), 1, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_the_shipped_program_takes_any_batch(artifacts: Path, test_split: Split, batch: int) -> None:
    program = torch.export.load(artifacts / "torch_cnn" / "torch" / "model.pt2").module()
    with torch.inference_mode():
        assert program(torch.tensor(test_split.images[:batch]).float()).shape == (batch, 10)


@pytest.mark.parametrize("model", SOURCES)
def test_the_written_files_answer_with_the_accuracy_that_the_manifest_names(artifacts: Path, model: str) -> None:
    from serve.runtimes import load_runtime
    from verify.parity import answer
    from verify.questions import of_split

    folder = artifacts / model / SOURCES[model]
    manifest = read_manifest(folder)
    split = dataset.load("fashion_mnist", "test", 3_000)
    answers = answer(load_runtime(folder, manifest), manifest, of_split(split), 500)["probabilities"]
    assert recipe.accuracy(answers, split.labels) == pytest.approx(manifest.made_with["test_accuracy"], abs=1e-3)


# What can go wrong


@pytest.mark.parametrize("model", SOURCES)
def test_a_training_that_diverges_is_an_error_and_keeps_the_old_artifact(
    artifacts_copy: Path, model: str, test_split: Split
) -> None:
    folder = artifacts_copy / model / SOURCES[model]
    diverging = Recipe(epochs=2, limit=256, learning_rate=1e30)
    with pytest.raises(TrainingError, match=rf"{model} did not learn: .*Try a smaller learning rate"):
        make_artifact(SCRIPTS[model], diverging, model, SOURCES[model], folder)
    verify_files(folder, read_manifest(folder))


@pytest.mark.parametrize(
    ("model", "number"), [("keras_cnn", signal.SIGINT), ("torch_cnn", signal.SIGKILL)], ids=["SIGINT", "SIGKILL"]
)
def test_an_interrupted_training_leaves_the_old_artifact(
    artifacts_copy: Path, environment: Mapping[str, str], model: str, number: signal.Signals
) -> None:
    folder = artifacts_copy / model / SOURCES[model]
    before = (folder / MANIFEST).read_bytes()
    with start_training(model, folder, environment) as training:
        wait_for(b"epoch 2/", training)
        training.send_signal(number)
        training.communicate(timeout=60)
    assert training.returncode in (-number, 130), "the training ended before the signal"
    assert (folder / MANIFEST).read_bytes() == before
    verify_files(folder, read_manifest(folder))
    assert {path.parent.name for path in folder.parent.glob(f"*/{MANIFEST}")} == {
        path.name for path in folder.parent.iterdir() if not path.name.startswith(".")
    }


def start_training(model: str, folder: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", f"train.{model}", str(folder), "--epochs", "500", "--limit", "500"]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A process that a shell starts in the background ignores this signal, and so do its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for(words: bytes, training: subprocess.Popen[bytes]) -> None:
    """Read the training's progress until it shows `words`."""
    assert training.stdout is not None
    output, deadline = b"", time.monotonic() + 120
    while words not in output:
        got = training.stdout.read1(1 << 16)  # type: ignore[attr-defined]  # it is a BufferedReader
        assert got, output.decode()
        assert time.monotonic() < deadline, output.decode()
        output += got


# Another data set


@pytest.fixture
def small_cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CIFAR-10's binary files, with 20 random pictures each instead of the published ones."""
    folder = tmp_path / "data" / "cifar10"
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    hashes = {}
    for file in CIFAR10.files:
        records = random.integers(0, 256, (20, 1 + 32 * 32 * 3), np.uint8)
        records[:, 0] = np.arange(20) % 10
        (folder / file).write_bytes(records.tobytes())
        hashes[file] = hashlib.sha256(records.tobytes()).hexdigest()
    monkeypatch.setattr(dataset, "DATA", tmp_path / "data")
    monkeypatch.setitem(dataset.DATASETS, "cifar10", replace(CIFAR10, files=hashes, homes=()))


@pytest.mark.usefixtures("small_cifar")
@pytest.mark.parametrize("model", SOURCES)
def test_pictures_shaped_as_cifars_train_the_articles_network(model: str, tmp_path: Path) -> None:
    folder = tmp_path / model / SOURCES[model]
    manifest = make_artifact(SCRIPTS[model], Recipe("cifar10", epochs=1, limit=70), model, SOURCES[model], folder)
    assert manifest == read_manifest(folder)
    assert manifest.inputs[0].shape == (None, 32, 32, 3)
    assert manifest.labels[6] == "frog"
    assert manifest.made_with["parameters"] == 11_290
    assert manifest.made_with["train_images"] == 70
