"""What an image holds, and what it lacks."""

import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from contract.code import ROOT
from contract.formats import FORMATS_OF_IMAGE
from serve.settings import RELEASE
from tests.containers.conftest import IMAGES, SERVING, Engine, call

UNWANTED = "gcc cc make git pip pip3 npm curl wget"
LEFT = "/root /pip /wheelhouse /locks /run/secrets /var/lib/apt/lists /var/cache/apt"
"""Where a build's own things lie; of what was mounted, an empty folder stays."""
PACKAGES = {
    "serve-keras": "tensorflow",
    "serve-torch": "torch",
    "serve-onnx": "onnxruntime",
    "serve-tflite": "ai_edge_litert",
}
"""Image -> the runtime's package, which no other serving image has."""


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_says_what_it_is_and_runs_as_nobody(engine: Engine, images: Sequence[str], image: str) -> None:
    config = engine.inspect("image", f"rosetta-serve/{image}:latest")["Config"]
    assert config["User"] == "rosetta"
    assert config["Labels"]["org.opencontainers.image.version"] == RELEASE
    assert config["Labels"]["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert engine.output(image, "id", "-u").strip() == "10001"


@pytest.mark.parametrize("image", IMAGES)
def test_no_image_keeps_what_built_it(engine: Engine, images: Sequence[str], image: str) -> None:
    look = (
        f"for program in {UNWANTED}; do command -v $program; done; "
        f"find {LEFT} -type f ! -name '.*rc' ! -name .profile 2>/dev/null; "
        "ls /venv/lib/python3.11/site-packages | grep -iE '^(pip|_?pytest|hypothesis|mypy|ruff|playwright)(-|$)'; true"
    )
    command = ("--user", "0", "--network", "none", f"rosetta-serve/{image}:latest", "sh", "-c", look)
    found = engine.run("run", "--rm", *command).stdout
    assert found == ""


@pytest.mark.parametrize("image", SERVING)
def test_a_serving_image_has_its_own_runtime_alone(engine: Engine, images: Sequence[str], image: str) -> None:
    look = f"import importlib.util as u; print(*(n for n in {[*PACKAGES.values()]} if u.find_spec(n)))"
    assert engine.output(image, "python", "-c", look).split() == [name for name in [PACKAGES.get(image)] if name]
    has_node = engine.output(image, "sh", "-c", "command -v node || true").strip() != ""
    assert has_node == (image == "serve-tfjs")


@pytest.mark.parametrize("image", FORMATS_OF_IMAGE)
def test_one_image_alone_serves_its_format(engine: Engine, images: Sequence[str], image: str) -> None:
    assert_serves(engine, image, FORMATS_OF_IMAGE[image])


def test_the_image_of_an_optional_runtime_is_built_on_request(engine: Engine, images: Sequence[str]) -> None:
    built = call("make", "image-openvino")
    assert built.returncode == 0, built.stdout[-3000:]
    assert_serves(engine, "serve-openvino", ["openvino"])
    look = "import importlib.util as u; print(u.find_spec('onnxruntime'))"
    assert engine.output("serve-openvino", "python", "-c", look).strip() == "None", "what converts is not there"


def assert_serves(engine: Engine, image: str, formats: Sequence[str]) -> None:
    """Whoever has chosen a format ships this: verified, read-only, without a network, a capability or a mount."""
    hardened = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--network", "none")
    container = engine.run("run", "--detach", *hardened, f"rosetta-serve/{image}:latest").stdout.strip()
    try:
        deadline = time.monotonic() + 60
        while engine.run("exec", container, "python", "-m", "serve.health", check=False).returncode:
            assert time.monotonic() < deadline, engine.run("logs", container).stderr
            time.sleep(0.5)
        log = engine.run("logs", container).stdout
        for format in formats:
            models = [line for line in log.splitlines() if line.split()[:1] and line.split()[0].endswith(f"-{format}")]
            assert models, log
            assert all(line.split()[1] in ("source", "verified") for line in models), log
    finally:
        engine.run("rm", "--force", container)


@contextlib.contextmanager
def added(path: Path, content: str) -> Iterator[None]:
    """A file of our own source that is there for a while."""
    path.write_text(content)
    try:
        yield
    finally:
        path.unlink()


def test_a_failed_build_leaves_the_last_images(engine: Engine, images: Sequence[str]) -> None:
    before = engine.inspect("image", "rosetta-serve/serve-onnx:latest")["Id"]
    locked = ROOT / "requirements.lock"
    content = locked.read_text()
    try:
        locked.write_text(content.replace("flask==", "flask-that-is-not==", 1))
        failed = call("docker/build", "serve-onnx")
    finally:
        locked.write_text(content)
    assert failed.returncode == 1
    assert "The engine could not build the image serve-onnx" in failed.stdout
    assert engine.inspect("image", "rosetta-serve/serve-onnx:latest")["Id"] == before


def test_a_change_of_our_source_only_makes_the_last_layers_anew(engine: Engine, images: Sequence[str]) -> None:
    before = {image: engine.inspect("image", f"rosetta-serve/{image}:latest")["Id"] for image in SERVING}
    with added(ROOT / "serve" / "added.py", f"ADDED = {time.time()}\n"):
        built = call("docker/build")
        assert built.returncode == 0, built.stdout[-3000:]
        after = {image: engine.inspect("image", f"rosetta-serve/{image}:latest")["Id"] for image in SERVING}
    assert call("docker/build").returncode == 0, "the images are put back"
    assert all(before[image] != after[image] for image in SERVING), "the change is in every image"
    for again in (
        "epoch 1/",
        "converted from",
        "largest difference",
        "Downloading",
        "Collecting",
        "modules transformed",
    ):
        assert again not in built.stdout


def test_the_sbom_names_what_is_in_the_image(images: Sequence[str]) -> None:
    assert call("docker/sbom").returncode == 0
    document = json.loads((ROOT / "build" / "sbom" / "serve-onnx.cdx.json").read_text())
    names = {component["name"] for component in document["components"]}
    assert {"onnxruntime", "flask", "libc6", "torch_cnn-onnx"} <= names
    assert "tensorflow-cpu" not in names
