"""The scripts of docker/ with an engine that only pretends: what is missing is one line that says what to do."""

import contextlib
import importlib.metadata
import re
import shutil
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from contract.code import ROOT
from docker.requirements import split

PROGRAMS = "bash env sh sed tail head cut cat dirname basename mktemp rm cp mkdir df awk tr grep sleep timeout id uname"

RUNNING = """
case "$1 $2" in
  "buildx version" | "info "* | "compose version" | "info --format"*) exit 0 ;;
  "image inspect") exit 0 ;;
esac
[ "$1" != build ] || while [ $# -gt 0 ]; do [ "$1" != --iidfile ] || echo sha256:new >"$2"; shift; done
"""
"""An engine that has every image and builds anything."""


class Machine:
    """A copy of the scripts, and a PATH that has the usual programs and what is written here."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "project"
        self.bin = folder / "bin"
        self.calls = folder / "calls"
        self.bin.mkdir()
        for name in PROGRAMS.split():
            found = shutil.which(name)
            assert found, name
            (self.bin / name).symlink_to(found)
        shutil.copytree(ROOT / "docker", self.project / "docker", ignore=shutil.ignore_patterns("*.whl", "*.tar"))
        (self.project / "contract").mkdir()
        shutil.copy(ROOT / "contract" / "__init__.py", self.project / "contract")
        for file in ("pyproject.toml", "bootstrap"):
            shutil.copy(ROOT / file, self.project)
        self.wheel = folder / "links" / "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl"
        self.wheel.parent.mkdir()
        self.wheel.write_bytes(b"wheel")

    def program(self, name: str, script: str) -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.calls}\n{script}\n')
        path.chmod(0o755)

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        settings = {
            "PATH": str(self.bin),
            "PIP_FIND_LINKS": str(self.wheel.parent),
            "HOME": "/nonexistent",
            **environment,
        }
        return subprocess.run(
            [str(self.project / command[0]), *command[1:]],
            env={name: value for name, value in settings.items() if value},
            capture_output=True,
            text=True,
            check=False,
        )

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a script that fails leaves."""
    assert done.returncode == 1, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == done.stderr.splitlines()[-1:], done.stderr
    return errors[0]


SCRIPTS = [
    ("docker/build",),
    ("docker/base-image",),
    ("docker/stack", "up"),
    ("docker/sbom",),
    ("docker/offline/fill-wheelhouse",),
]


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_an_engine_make_run_is_the_way(machine: Machine, script: tuple[str, ...]) -> None:
    error = error_of(machine.run(*script))
    assert error.startswith(
        "error: There is no container engine: neither docker nor podman is on the PATH. Install one"
    )
    assert "`make run`" in error


def test_the_engine_that_was_asked_for_has_to_be_there(machine: Machine) -> None:
    machine.program("docker", RUNNING)
    assert "podman is on the PATH" not in machine.run("docker/stack", "ps").stderr
    assert error_of(machine.run("docker/stack", "ps", ENGINE="podman")).startswith(
        "error: There is no container engine: no podman is"
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_engine_that_does_not_run_is_to_be_started(machine: Machine, script: tuple[str, ...]) -> None:
    machine.program("docker", '[ "$1" = buildx ] || { echo "Cannot connect to the Docker daemon." >&2; exit 1; }')
    error = error_of(machine.run(*script))
    assert "does not answer. Start it (`sudo systemctl start docker`)" in error
    assert error.endswith("It says: Cannot connect to the Docker daemon.")


def test_a_socket_that_may_not_be_used(machine: Machine) -> None:
    machine.program("docker", '[ "$1" = buildx ] || { echo "permission denied while trying to connect" >&2; exit 1; }')
    assert "sudo usermod -aG docker $USER" in error_of(machine.run("docker/build"))


def test_a_client_that_cannot_build_is_passed_over(machine: Machine, tmp_path: Path) -> None:
    """A newer docker without its plugin, first on the PATH; Debian's own, which needs none, behind it."""
    newer = 'case "$1" in --version) echo "Docker version 28.2.2, build e6534b4" ;; *) exit 1 ;; esac'
    machine.program("docker", newer)
    assert "cannot build: it lacks its plugin buildx. Install that" in error_of(machine.run("docker/build"))
    older = Machine.__new__(Machine)
    older.bin, older.calls = tmp_path / "older", machine.calls
    older.bin.mkdir()
    older.program("docker", f'[ "$1" != --version ] || echo "Docker version 20.10.24+dfsg1, build 297e128"\n{RUNNING}')
    (older.bin / "docker").write_text((older.bin / "docker").read_text().replace('"buildx version" | ', ""))
    done = machine.run("docker/stack", "ps", PATH=f"{machine.bin}:{older.bin}")
    assert done.returncode == 0, done.stderr


def test_no_registry_and_no_root_means_no_base_image(machine: Machine) -> None:
    machine.program("docker", '[ "$1" != pull ] && [ "$1 $2" != "image inspect" ]')
    machine.program("id", "echo 1000")
    error = error_of(machine.run("docker/base-image"))
    assert "there is no base image debian:bookworm-slim; root on Debian can make one" in error
    assert error.endswith("name it with BASE=.")


PULLED = """
case "$*" in
  "image inspect --format"*) echo "debian@sha256:0123"; exit 0 ;;
  "image inspect rosetta-serve/base"*) exit 1 ;;
esac
"""
"""An engine that reaches a registry, and has no base image yet."""


def test_a_base_image_that_was_pulled_is_these_bytes_from_then_on(machine: Machine) -> None:
    machine.program("docker", PULLED + RUNNING)
    assert machine.run("docker/base-image").stdout == "rosetta-serve/base:bookworm\n"
    assert machine.called()[-1] == "docker tag debian@sha256:0123 rosetta-serve/base:bookworm"


def test_an_image_says_on_which_bytes_it_stands(machine: Machine) -> None:
    machine.program("docker", PULLED + RUNNING)
    assert machine.run("docker/build", "gateway").returncode == 0
    (build,) = (call for call in machine.called() if call.startswith("docker build "))
    assert "--label org.opencontainers.image.base.name=debian --label" in build
    assert "--label org.opencontainers.image.base.digest=sha256:0123 " in build
    machine.program("docker", RUNNING)  # a base that was made here has no such digest
    assert machine.run("docker/build", "gateway").returncode == 0
    assert "image.base" not in machine.called()[-3]


def test_a_base_image_that_was_named_has_to_be_had(machine: Machine) -> None:
    machine.program("docker", '[ "$1" != pull ] && [ "$1 $2" != "image inspect" ]')
    assert "The base image mine:1 is not here, and the engine cannot pull it" in error_of(
        machine.run("docker/build", BASE="mine:1")
    )


KUBECTL = """printf 'clientVersion:\\n  major: "1"\\n  minor: "%s"\\n'"""
"""A kubectl that tells its version and does nothing else."""


def test_a_kubectl_that_is_new_enough_is_used(machine: Machine) -> None:
    machine.program("kubectl", f"{KUBECTL} 27")
    assert machine.run("docker/offline/kubectl").stdout == f"{machine.bin / 'kubectl'}\n"


def test_an_old_kubectl_and_no_mirror(machine: Machine) -> None:
    machine.program("kubectl", f"{KUBECTL} 20+")
    assert error_of(machine.run("docker/offline/kubectl")).endswith("and it is not on the PATH: install it.")
    machine.program("apt-get", "echo Could not resolve; exit 100")
    assert "apt-get could not fetch Debian's: build/kubectl.log says why." in error_of(
        machine.run("docker/offline/kubectl")
    )
    assert "Could not resolve" in (machine.project / "build" / "kubectl.log").read_text()


SHOWS_PIP = """
case "$1" in build) for option in "$@"; do case $option in id=pip,*) cat "${option#*src=}" ;; esac; done ;; esac
"""
"""An engine that prints what a build gives to pip."""


@pytest.mark.parametrize("own", ["", "https://wheels.example/cpu"])
def test_a_build_gets_the_address_of_pytorchs_index(machine: Machine, own: str) -> None:
    machine.program("docker", SHOWS_PIP + RUNNING)
    done = machine.run("docker/build", "gateway", PIP_FIND_LINKS="", TORCH_INDEX=own)
    assert done.returncode == 0, done.stderr
    expected = own or machine.run("bootstrap", "torch-index").stdout.strip()
    assert f"export TORCH_INDEX={expected}\n" in done.stdout


def test_a_wheel_of_pytorch_that_pip_would_find_travels_with_the_build(machine: Machine) -> None:
    machine.program("docker", RUNNING)
    assert machine.run("docker/build", "gateway").returncode == 0
    assert (machine.project / "docker" / "wheelhouse" / machine.wheel.name).read_bytes() == b"wheel"


@pytest.mark.parametrize(
    ("image", "arguments"),
    [
        ("serve-onnx", "--target serve --build-arg RUNTIME=onnx "),
        ("serve-keras", "--target serve --build-arg RUNTIME=keras --build-arg FORMATS=keras,savedmodel "),
        ("serve-tfjs", "--target serve-tfjs "),
        (
            "serve-openvino",
            "--target serve --build-arg RUNTIME=openvino --build-arg EXPORTING=export-packages-openvino ",
        ),
    ],
)
def test_images_that_differ_in_their_packages_share_a_stage(machine: Machine, image: str, arguments: str) -> None:
    machine.program("docker", RUNNING)
    assert machine.run("docker/build", image).returncode == 0
    (build,) = [call for call in machine.called() if call.startswith("docker build ")]
    assert arguments in build
    assert machine.called()[-1].endswith(f"rosetta-serve/{image}:latest")


def test_a_ca_bundle_that_is_missing(machine: Machine) -> None:
    machine.program("docker", RUNNING)
    error = error_of(machine.run("docker/build", SSL_CERT_FILE="/nonexistent/ca.pem"))
    assert error.startswith("error: SSL_CERT_FILE=/nonexistent/ca.pem is not a file.")


def test_a_full_disk(machine: Machine) -> None:
    machine.program("docker", f'case "$1 $2" in "info --format") echo / ;; "image inspect") exit 1 ;; esac\n{RUNNING}')
    machine.program("df", "echo header; echo disk 100 90 1234 90% /")
    assert "need 15000 MB of disk, 1234 MB are free in /. Free some" in error_of(machine.run("docker/build"))


def test_images_get_their_names_when_all_are_built(machine: Machine) -> None:
    machine.program("docker", RUNNING)
    done = machine.run("docker/build", "serve-onnx", "gateway")
    assert done.returncode == 0, done.stderr
    verbs = [call.split()[1] for call in machine.called() if call.split()[1] in ("build", "tag")]
    assert verbs == ["build", "build", "tag", "tag", "tag", "tag"]
    (build, _) = [call for call in machine.called() if call.startswith("docker build ")]
    assert "--target serve " in build


def test_the_wheelhouse_is_files_and_no_image(machine: Machine) -> None:
    """An engine that is asked for an image's id fails where files came out."""
    machine.program("docker", 'case "$*" in *--iidfile*) exit 1 ;; esac\n' + RUNNING)
    done = machine.run("docker/build", "wheelhouse")
    assert done.returncode == 0, done.stderr
    (build,) = [call for call in machine.called() if call.startswith("docker build ")]
    assert "--output docker/wheelhouse" in build
    assert not any(call.startswith("docker tag") for call in machine.called())


def test_a_build_that_fails_names_nothing(machine: Machine) -> None:
    machine.program("docker", RUNNING + 'case "$*" in "build "*gateway*) exit 1 ;; esac')
    # the loop of the pretended build has eaten its arguments: look before it
    script = (machine.bin / "docker").read_text()
    guard = 'case "$*" in "build "*gateway*) exit 1 ;; esac\n'
    (machine.bin / "docker").write_text(script.replace('case "$1 $2"', guard + 'case "$1 $2"', 1))
    error = error_of(machine.run("docker/build", "serve-onnx", "gateway"))
    assert "The engine could not build the image gateway" in error
    assert "The images of the last good build are still in place." in error
    assert not any(call.startswith("docker tag") for call in machine.called())


def test_credentials_travel_as_secrets(machine: Machine) -> None:
    machine.program("docker", RUNNING)
    machine.run("docker/build", "gateway", TORCH_INDEX="http://user:password@index", PIP_INDEX_URL="http://p@ss")
    (build,) = [call for call in machine.called() if call.startswith("docker build ")]
    assert "--secret id=pip,src=" in build
    assert "password" not in build
    assert "p@ss" not in build


@pytest.fixture
def taken() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield str(listener.getsockname()[1])


def test_a_port_in_use(machine: Machine, taken: str) -> None:
    machine.program("docker", RUNNING)
    error = error_of(machine.run("docker/stack", "up", PORT=taken))
    assert error == f"error: 127.0.0.1:{taken} is in use. Try another port: make up PORT={int(taken) % 65535 + 1}"


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1", "80 "])
def test_what_is_no_port(machine: Machine, port: str) -> None:
    machine.program("docker", RUNNING)
    assert f"error: PORT={port} is not a port number; use 1 to 65535." in error_of(
        machine.run("docker/stack", "up", PORT=port)
    )


def test_a_stack_without_images(machine: Machine) -> None:
    machine.program("docker", 'case "$1 $2" in "image inspect") exit 1 ;; esac')
    assert error_of(machine.run("docker/stack", "up")) == (
        "error: There is no image rosetta-serve/serve-keras:latest. Build them with `make all`."
    )


def test_an_engine_without_compose(machine: Machine) -> None:
    machine.program("docker", '[ "$1" != compose ]')
    assert "has no Compose. Install it (on Debian: apt-get install docker-compose)" in error_of(
        machine.run("docker/stack", "up")
    )


def test_podman_without_compose_is_reached_through_its_socket(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "podman.sock"
    machine.program("podman", f'[ "$1" = info ] && echo {path} || [ "$1" != compose ]')
    machine.program("docker-compose", "echo $DOCKER_HOST")
    assert "start podman.socket (`systemctl start podman.socket`" in error_of(machine.run("docker/stack", "ps"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        done = machine.run("docker/stack", "ps")
    assert (done.returncode, done.stdout) == (0, f"unix://{path}\n"), done.stderr


def test_a_stack_that_does_not_get_ready(machine: Machine) -> None:
    ready = 'case "$1" in inspect) echo "/serve-onnx running unhealthy" ;; esac\n'
    machine.program("docker", ready + RUNNING)
    error = error_of(machine.run("docker/stack", "up", READY_SECONDS="1", PORT="1"))
    assert "Not ready after 1 s: /serve-onnx running unhealthy;" in error


# What each image installs


def closure(requirement: str, known: frozenset[str] = frozenset()) -> frozenset[str]:
    """The names of a requirement and of all that it needs, as the installed packages say; of extras too."""
    parsed = Requirement(requirement)
    name = canonicalize_name(parsed.name)
    environment = {"extra": ""}
    if parsed.marker and not parsed.marker.evaluate(environment):
        return known
    known |= {name}
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for needed in importlib.metadata.requires(name) or []:
            extras = [{"extra": extra} for extra in (*parsed.extras, "")]
            marker = Requirement(needed).marker
            if canonicalize_name(Requirement(needed).name) not in known and (
                marker is None or any(marker.evaluate(extra) for extra in extras)
            ):
                known |= closure(needed.partition(";")[0], known)
    return known


def lists() -> dict[str, set[str]]:
    text = (ROOT / "docker" / "packages").read_text()
    sections = re.split(r"^\[", text, flags=re.MULTILINE)[1:]
    return {section.partition("]")[0]: set(section.partition("]")[2].split()) for section in sections}


@pytest.mark.parametrize(
    ("image", "extras"),
    [("service", "http"), ("onnx", "http,onnx"), ("tflite", "http,tflite"), ("openvino", "http,openvino")],
)
def test_an_image_installs_what_its_extras_need(image: str, extras: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(line for extra in extras.split(",") for line in optional[extra])]
    left_out = {
        Requirement(override).name
        for override in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["uv"]["override-dependencies"]
        if (marker := Requirement(override).marker) and not marker.evaluate()
    }
    assert frozenset[str]().union(*map(closure, wanted)) - left_out == lists()[image]


def test_every_list_can_be_cut_out_of_the_lock(tmp_path: Path) -> None:
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    (files,) = re.findall(r"requirements\.py pyproject\.toml packages /locks (.*)", dockerfile)
    locks = [ROOT / name for name in files.split()]
    split(ROOT / "pyproject.toml", ROOT / "docker" / "packages", tmp_path / "locks", *locks)
    for image, names in lists().items():
        text = (tmp_path / "locks" / image / "requirements.txt").read_text()
        pinned = set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))
        assert pinned == names - {"torch"}
        assert text.count("--hash=sha256:") >= len(pinned)
        torch = (tmp_path / "locks" / image / "torch.txt").read_text()
        assert torch == ("torch==2.13.0\n" if "torch" in names else "")
