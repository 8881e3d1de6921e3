"""The stack on a real engine: `make test-containers` runs these tests, `make test` does not."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from contract.code import ROOT
from contract.formats import FORMATS_OF_IMAGE
from tests.serving import Answer, ask, free_port

SERVING = (*FORMATS_OF_IMAGE, "gateway")
IMAGES = ("train", "export", *SERVING)

COMPOSE_PROJECT = "rosetta-serve-test"


@dataclass(frozen=True)
class Engine:
    """The client of the engine that docker/offline/with-engine started or chose."""

    client: str

    def run(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([self.client, *arguments], capture_output=True, text=True, check=False, **options)
        if check:
            assert done.returncode == 0, f"{' '.join(arguments)}:\n{done.stdout}\n{done.stderr}"
        return done

    def inspect(self, kind: str, name: str) -> dict[str, Any]:
        (described,) = json.loads(self.run(kind, "inspect", name).stdout)
        return dict(described)

    def output(self, image: str, *command: str) -> str:
        """What a command prints in a container of the image."""
        return self.run("run", "--rm", "--network", "none", f"rosetta-serve/{image}:latest", *command).stdout


@pytest.fixture(scope="session")
def engine() -> Engine:
    client = os.environ.get("ENGINE")
    if not client:
        pytest.exit("ENGINE is not set. Run these tests with `make test-containers`.", 2)
    return Engine(client)


def call(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script of docker/; what it says, as a whole, is its standard output."""
    whole = {**os.environ, **environment}
    return subprocess.run(
        command, cwd=ROOT, env=whole, text=True, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.fixture(scope="session")
def images(engine: Engine) -> Sequence[str]:
    """Every image, built by what `make all` calls."""
    built = call("docker/build")
    assert built.returncode == 0, built.stdout[-3000:]
    return IMAGES


@dataclass(frozen=True)
class Stack:
    """The running stack."""

    engine: Engine
    environment: Mapping[str, str]
    printed: str

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        return ask(int(self.environment["PORT"]), method, path, body, headers)

    def container(self, service: str) -> dict[str, Any]:
        filters = ("--filter", f"label=com.docker.compose.project={COMPOSE_PROJECT}")
        found = self.engine.run(
            "ps", "--all", "--quiet", *filters, "--filter", f"label=com.docker.compose.service={service}"
        )
        return self.engine.inspect("container", found.stdout.strip())

    def models(self) -> dict[str, dict[str, Any]]:
        """The repository index by name."""
        status, _, body = self.ask("POST", "/v2/repository/index")
        assert status == 200
        return {model["name"]: model for model in json.loads(body)}


@pytest.fixture(scope="session")
def stack(engine: Engine, images: Sequence[str]) -> Iterator[Stack]:
    """What `make up` starts, on a port and under a name of its own."""
    environment = {"PORT": str(free_port()), "HOST": "127.0.0.1", "COMPOSE_PROJECT_NAME": COMPOSE_PROJECT}
    try:
        up = call("docker/stack", "up", **environment)
        assert up.returncode == 0, up.stdout
        yield Stack(engine, environment, up.stdout)
    finally:
        call("docker/stack", "down", **environment)
