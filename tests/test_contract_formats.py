"""The lists that cannot import the table of formats, or the release, agree with them."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
import yaml

from bench.images import IMAGES
from contract import __version__
from contract.code import ROOT
from contract.formats import FORMATS, FORMATS_OF_IMAGE, TABLE, Format, family_of, is_installed
from contract.manifest import Manifest, write_manifest
from export import EXPORTED, EXPORTED_HERE, EXPORTERS
from serve.openapi import openapi
from serve.runtimes import RUNTIMES
from verify.diagnose.tracers import TRACERS, UNTRACED

DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
SERVING = {*FORMATS_OF_IMAGE, "gateway"}
ON_REQUEST = {format.image: (format.name,) for format in TABLE if format.image and format.is_optional}
"""Image of an optional runtime -> its format."""


def test_a_precision_belongs_to_its_family() -> None:
    assert [family_of(name) for name in ("onnx", "onnx-int8", "tflite-fp16")] == ["onnx", "onnx", "tflite"]


def test_every_format_has_a_runtime_an_edge_and_a_tracer_or_a_reason() -> None:
    assert {*TRACERS, *UNTRACED} == {name for edge in EXPORTERS for name in edge} == set(FORMATS)
    assert set(RUNTIMES) == {format.name for format in TABLE if not format.needs}
    assert not TRACERS.keys() & UNTRACED.keys()
    assert set(EXPORTED) == {target for _, target in EXPORTERS}
    assert set(EXPORTED_HERE) == {name for name in EXPORTED if is_installed(name)}


def test_an_optional_runtime_is_known_to_make_and_has_a_lock() -> None:
    optional = [format.name for format in TABLE if format.is_optional]
    assert words(r"^OPTIONAL := (.*?)$", (ROOT / "Makefile").read_text()) == optional
    assert {path.name for path in ROOT.glob("requirements.*.lock")} == {
        f"requirements.{name}.lock" for name in optional
    }
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    always = (ROOT / "requirements.lock").read_text()
    for name in optional:
        lock = (ROOT / f"requirements.{name}.lock").read_text()
        assert all(f"{pin} \\\n" in lock for pin in extras[name])
        pinned = re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)
        assert not [package for package in pinned if f"\n{package}==" in always], "the lock has only what is more"


@pytest.mark.parametrize(("name", "source"), [("openvino", "onnx"), ("executorch", "torch"), ("coreai", "torch")])
def test_a_runtime_that_is_not_installed_is_named_with_the_command_that_installs_it(
    tmp_path: Path, name: str, source: str
) -> None:
    """Whatever is installed here: the module is hidden from a process of its own."""
    program = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda name, *more: None if name == {name!r} else find(name, *more)\n"
        "from export import EXPORTED_HERE, export_artifact\n"
        "from contract.manifest import Manifest\n"
        "from serve.runtimes import import_runtime\n"
        "from verify.diagnose.tracers import load_tracer\n"
        "from bring.search import reachable\n"
        "from pathlib import Path\n"
        f"assert {name!r} not in EXPORTED_HERE and 'onnx' in EXPORTED_HERE\n"
        f"assert {name!r} not in [edge.format for edge in reachable('torch')]\n"
        f"manifest = Manifest('net', {name!r}, {source!r}, (), (), None, (), {{}})\n"
        "calls = (lambda: import_runtime(manifest), lambda: load_tracer(Path(), manifest),\n"
        f"         lambda: export_artifact(Path(sys.argv[1]), {name!r}))\n"
        "for call in calls:\n"
        "    try:\n"
        "        call()\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__, error)\n"
    )
    folder = tmp_path / "net" / source
    folder.mkdir(parents=True)
    write_manifest(folder, Manifest("net", source, None, (), (), None, (), {}))
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    title = FORMATS[name].runtime
    told = f"{title} is not installed. Install it: make runtimes RUNTIMES={name}"
    untraced = f"{UNTRACED[name]}." if name in UNTRACED else told
    assert done.stdout.splitlines() == [
        f"ModelUnavailable net-{name} cannot be run here: {told}",
        f"ModelUnavailable net-{name} cannot be traced: {untraced}",
        f"ExportError net-{source} -> {name} cannot be made here: {told}",
    ], done.stderr


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
    (match,) = re.findall(pattern, text, re.DOTALL | re.MULTILINE)
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


@pytest.mark.parametrize("image", [*FORMATS_OF_IMAGE, *ON_REQUEST])
def test_an_image_serves_its_formats(image: str) -> None:
    name, arguments = stage_of(image)
    (stage,) = re.findall(rf"^FROM \S+ AS {name}$(.*?)(?=^FROM|\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    for argument, value in arguments.items():
        stage = stage.replace(f"${argument}", value)
    formats = FORMATS_OF_IMAGE.get(image) or ON_REQUEST[image]
    assert words(r"SERVE_FORMATS=(\S+)", stage) == [",".join(formats)]
    (folder,) = words(r"COPY --from=artifacts /packed/(\S+)", stage)
    assert words(rf"pack\.py /artifacts /packed/{folder} ([a-z ]+)", DOCKERFILE) == [*formats]


def test_the_gateway_knows_where_every_format_is_served() -> None:
    (remotes,) = words(r"SERVE_REMOTES=(\S+)", DOCKERFILE)
    stack = {name: format.image for name, format in FORMATS.items() if format.image in FORMATS_OF_IMAGE}
    places = {name: f"http://{image}:8000" for name, image in stack.items()}
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


def test_an_outlook_names_the_version_that_is_installed_and_the_page_has_it_in_korean() -> None:
    versions = json.loads((ROOT / "web" / "package.json").read_text())["dependencies"]
    korean = (ROOT / "web" / "src" / "text.ko.ts").read_text()
    for format in TABLE:
        if format.outlook:
            version = versions[format.browser.package] if format.browser else locked_version(format)
            assert version in format.outlook
            assert re.search(rf"outlooks: {{[^}}]*\b{format.name}: '[^']*{re.escape(version)}", korean)
        if format.proven_on:
            place = format.proven_on.replace("'", "\\'")
            assert f"places: {{ '{place}': '" in korean


def locked_version(format: Format) -> str:
    lock = (ROOT / f"requirements.{format.name}.lock").read_text()
    (version,) = re.findall(rf"^{re.escape(format.packages[0])}==(\S+)", lock, re.MULTILINE)
    return str(version)


@pytest.mark.parametrize(
    ("list", "formats"),
    [
        ("WITHOUT_IMAGE", [format.name for format in TABLE if not format.image]),
        ("ON_REQUEST", [format.name for format in TABLE if format.image and format.is_optional]),
    ],
)
def test_the_page_knows_which_formats_no_image_of_the_stack_serves(list: str, formats: Sequence[str]) -> None:
    source = (ROOT / "web" / "src" / "snippets.ts").read_text()
    (names,) = re.findall(rf"const {list} = \[(.*?)\];", source)
    assert re.findall(r"'(\w+)'", names) == formats


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
