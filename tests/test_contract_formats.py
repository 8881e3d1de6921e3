"""The lists that cannot import the table of formats, or the release, agree with them."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterable

import pytest
import yaml

from bench.images import IMAGES
from contract import __version__
from contract.code import ROOT
from contract.formats import FORMATS, FORMATS_OF_IMAGE, family_of
from export import EXPORTED, EXPORTERS
from serve.openapi import openapi
from serve.runtimes import RUNTIMES
from verify.diagnose.tracers import TRACERS

DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
SERVING = {*FORMATS_OF_IMAGE, "gateway"}


def test_a_precision_belongs_to_its_family() -> None:
    assert [family_of(name) for name in ("onnx", "onnx-int8", "tflite-fp16")] == ["onnx", "onnx", "tflite"]


def test_every_format_has_a_runtime_a_tracer_and_an_edge() -> None:
    assert set(RUNTIMES) == set(TRACERS) == {name for edge in EXPORTERS for name in edge} == set(FORMATS)
    assert set(EXPORTED) == {target for _, target in EXPORTERS}


def test_every_format_names_the_packages_of_its_runtime() -> None:
    optional = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pinned = {line.partition("==")[0] for lines in optional.values() for line in lines}
    installed = json.loads((ROOT / "web" / "package.json").read_text())["dependencies"]
    for format in FORMATS.values():
        assert format.packages or format.node_packages
        assert pinned >= set(format.packages)
        assert installed.keys() >= {*format.node_packages, *([format.browser.package] if format.browser else [])}


# Containers


def words(pattern: str, text: str) -> Iterable[str]:
    (match,) = re.findall(pattern, text, re.DOTALL)
    return str(match).split()


def test_the_scripts_know_every_image() -> None:
    assert {*words(r"TARGETS=\((.*?)\)", (ROOT / "docker" / "engine.sh").read_text())} == {"train", "export", *SERVING}


def test_every_image_that_serves_is_measured() -> None:
    assert set(IMAGES) == SERVING


def test_the_stack_has_every_image() -> None:
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    assert set(services) == SERVING
    assert all(service["image"] == f"rosetta-serve/{name}:${{TAG:-latest}}" for name, service in services.items())


def stage_of(image: str) -> tuple[str, dict[str, str]]:
    """The stage of the Dockerfile that makes an image, and its build arguments: what docker/build passes."""
    script = 'eval "$(sed -n "/^stage_of()/,/^}/p" docker/build)"; stage_of "$1"; printf "%s\\n" "${stage[@]}"'
    done = subprocess.run(["bash", "-c", script, "bash", image], cwd=ROOT, capture_output=True, text=True, check=True)
    options = done.stdout.split()
    arguments = dict(each.split("=", 1) for each in options if "=" in each)
    return options[options.index("--target") + 1], {"FORMATS": arguments.get("RUNTIME", ""), **arguments}


@pytest.mark.parametrize("image", FORMATS_OF_IMAGE)
def test_an_image_serves_its_formats(image: str) -> None:
    name, arguments = stage_of(image)
    (stage,) = re.findall(rf"^FROM \S+ AS {name}$(.*?)(?=^FROM|\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    for argument, value in arguments.items():
        stage = stage.replace(f"${argument}", value)
    assert words(r"SERVE_FORMATS=(\S+)", stage) == [",".join(FORMATS_OF_IMAGE[image])]
    (folder,) = words(r"COPY --from=artifacts /packed/(\S+)", stage)
    assert words(rf"pack\.py /artifacts /packed/{folder} ([a-z ]+)", DOCKERFILE) == [*FORMATS_OF_IMAGE[image]]


def test_the_gateway_knows_where_every_format_is_served() -> None:
    (remotes,) = words(r"SERVE_REMOTES=(\S+)", DOCKERFILE)
    places = {name: f"http://{format.image}:8000" for name, format in FORMATS.items()}
    assert dict(entry.split("=", 1) for entry in remotes.split(",")) == places


# The page


def test_the_page_has_the_browsers_runtimes() -> None:
    source = (ROOT / "web" / "src" / "runtimes" / "index.ts").read_text()
    (table,) = re.findall(r"BROWSER_RUNTIMES.*?= \{\n(.*?)\n\};", source, re.DOTALL)
    rows = dict(re.findall(r"^  (\w+): \[(.*)\],$", table, re.MULTILINE))
    assert rows.keys() == {format.name for format in FORMATS.values() if format.browser}
    for name, row in rows.items():
        browser = FORMATS[name].browser
        assert browser is not None
        backends = re.findall(r"\w+\('(\w+)'", row) or ["wasm"]  # LiteRT.js has this one
        assert [id.partition("-")[2] for id in browser.ids] == backends
        assert f"title: '{browser.title}'" in source


# The release


def test_the_release_is_the_same_everywhere() -> None:
    package = json.loads((ROOT / "web" / "package.json").read_text())
    lock = json.loads((ROOT / "web" / "package-lock.json").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = [project["version"], package["version"], lock["version"], lock["packages"][""]["version"]]
    assert versions == [__version__] * len(versions)
    assert openapi()["info"]["version"] == __version__


def test_the_kubernetes_manifests_name_the_images_of_this_release() -> None:
    texts = [path.read_text() for path in (ROOT / "docker" / "kubernetes").rglob("*.yaml")]
    tags = [tag for text in texts for tag in re.findall(r"(?:newTag: |rosetta-serve/serve-[a-z]+:)([^\s\"}]+)", text)]
    assert len(tags) >= 2 * len(FORMATS_OF_IMAGE)
    assert set(tags) == {__version__}
