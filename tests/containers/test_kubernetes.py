"""The Kubernetes manifests, as the real kubectl renders them: valid by Kubernetes' own schemas, and like the stack.

No cluster runs here. What is shown is that the manifests are well-formed, and that every pod is held to what the tests
of the engine ran with; not that a cluster schedules them, that network policies bite, or that KServe takes what is its:
its schemas are its own, so only the pods in them are checked.
"""

import json
import subprocess
from collections.abc import Mapping
from functools import cache
from typing import Any

import kubernetes_validate
import pytest
import yaml

from contract.code import ROOT
from contract.formats import FORMATS_OF_IMAGE
from serve.settings import RELEASE
from tests.containers.conftest import SERVING, Engine, Stack

KUBERNETES = ROOT / "docker" / "kubernetes"
OVERLAYS = sorted(path.parent.name for path in KUBERNETES.glob("overlays/*/kustomization.yaml"))
VERSIONS = ("1.27", kubernetes_validate.latest_version())
"""The oldest Kubernetes that is promised, and the newest whose schemas are there."""

Resource = Mapping[str, Any]


@cache
def kubectl() -> str:
    found = subprocess.run([ROOT / "docker" / "offline" / "kubectl"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


def rendered(overlay: str) -> list[Resource]:
    command = [kubectl(), "kustomize", str(KUBERNETES / "overlays" / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def pods(overlay: str) -> dict[str, Resource]:
    """The pod specification of every service, by its name."""
    found = {}
    for resource in rendered(overlay):
        if resource["kind"] == "Deployment":
            found[resource["metadata"]["name"]] = resource["spec"]["template"]["spec"]
        elif resource["kind"] == "InferenceService":
            scaling = ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget")
            predictor = resource["spec"]["predictor"]
            found[resource["metadata"]["name"]] = {k: v for k, v in predictor.items() if k not in scaling}
    return found


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_resource_is_valid(overlay: str, version: str) -> None:
    resources = rendered(overlay)
    assert len(resources) >= 6
    for resource in resources:
        if not resource["apiVersion"].startswith("serving.kserve.io/"):
            kubernetes_validate.validate(resource, version, strict=True)
    for name, pod in pods(overlay).items():
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod}
        kubernetes_validate.validate(whole, version, strict=True)


def test_the_schemas_refuse_a_misspelt_field() -> None:
    (gateway,) = (r for r in rendered("cluster") if r["kind"] == "Deployment" and r["metadata"]["name"] == "gateway")
    wrong = json.loads(json.dumps(gateway).replace("readOnlyRootFilesystem", "readonlyRootFilesystem"))
    with pytest.raises(kubernetes_validate.ValidationError, match="readonlyRootFilesystem"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_image_of_the_stack_is_there(overlay: str) -> None:
    expected = set(FORMATS_OF_IMAGE) if overlay == "kserve" else set(SERVING)
    assert set(pods(overlay)) == expected
    for name, pod in pods(overlay).items():
        (container,) = pod["containers"]
        assert container["image"] == f"rosetta-serve/{name}:{RELEASE}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_held_to_what_the_stack_ran_with(engine: Engine, stack: Stack, overlay: str) -> None:
    for name, pod in pods(overlay).items():
        (container,) = pod["containers"]
        ran, image = stack.container(name), engine.inspect("image", f"rosetta-serve/{name}:latest")["Config"]
        held = container["securityContext"]
        assert held["readOnlyRootFilesystem"] is ran["HostConfig"]["ReadonlyRootfs"] is True
        assert held["capabilities"] == {"drop": ran["HostConfig"]["CapDrop"]} == {"drop": ["ALL"]}
        assert held["allowPrivilegeEscalation"] is False, "as no-new-privileges has it"
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert engine.output(name, "id", "-u").strip() == str(pod["securityContext"]["runAsUser"])
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, "restricted asks for it"
        limits = container["resources"]["limits"]
        assert limits == {"cpu": str(ran["HostConfig"]["NanoCpus"] // 10**9), "memory": _memory(ran)}
        assert [port["containerPort"] for port in container["ports"]] == [
            int(port.split("/")[0]) for port in image["ExposedPorts"]
        ]
        _check_probes(container, image["Healthcheck"])
        grace = ran["Config"]["StopTimeout"]
        assert pod["terminationGracePeriodSeconds"] == grace + int(
            container["lifecycle"]["preStop"]["exec"]["command"][1]
        )


def _memory(ran: Resource) -> str:
    return f"{ran['HostConfig']['Memory'] // 2**20}Mi"


def _check_probes(container: Resource, health: Resource) -> None:
    """The image's health check asks for /v2/health/ready (serve/health.py)."""
    ready = container["readinessProbe"]
    assert ready["httpGet"] == container["startupProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": "http"}
    assert container["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"
    seconds = 10**9
    assert (ready["periodSeconds"], ready["timeoutSeconds"], ready["failureThreshold"]) == (
        health["Interval"] // seconds,
        health["Timeout"] // seconds,
        health["Retries"],
    )
    start = container["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] == health["StartPeriod"] // seconds


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if name != "kserve"])
def test_what_belongs_together_finds_each_other(overlay: str) -> None:
    resources = rendered(overlay)
    by_kind: dict[str, dict[str, Resource]] = {}
    for resource in resources:
        by_kind.setdefault(resource["kind"], {})[resource["metadata"]["name"]] = resource
    for name, deployment in by_kind["Deployment"].items():
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        for selector in (
            deployment["spec"]["selector"]["matchLabels"],
            by_kind["Service"][name]["spec"]["selector"],
            by_kind["PodDisruptionBudget"][name]["spec"]["selector"]["matchLabels"],
        ):
            assert selector.items() <= labels.items()
            others = [d for other, d in by_kind["Deployment"].items() if other != name]
            assert not any(selector.items() <= d["spec"]["template"]["metadata"]["labels"].items() for d in others)
        if overlay == "cluster":
            scaled = by_kind["HorizontalPodAutoscaler"][name]["spec"]
            assert (scaled["scaleTargetRef"]["name"], scaled["minReplicas"]) == (name, 2)
    assert ("HorizontalPodAutoscaler" in by_kind) == (overlay != "one-node")


def test_a_runtime_is_reached_only_by_the_gateway_and_reaches_nothing() -> None:
    policies = {r["metadata"]["name"]: r["spec"] for r in rendered("cluster") if r["kind"] == "NetworkPolicy"}
    runtimes = policies["runtimes"]
    assert runtimes["podSelector"]["matchLabels"] == {"app.kubernetes.io/component": "runtime"}
    assert "egress" not in runtimes
    assert "Egress" in runtimes["policyTypes"]
    (source,) = [source for rule in runtimes["ingress"] for source in rule["from"]]
    assert source == {"podSelector": {"matchLabels": {"app.kubernetes.io/component": "gateway"}}}
    assert policies["nothing-else"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def test_the_gateway_asks_the_services_by_their_names(engine: Engine, stack: Stack) -> None:
    """One setting, baked into the image, holds for Compose and for Kubernetes."""
    (line,) = [e for e in stack.container("gateway")["Config"]["Env"] if e.startswith("SERVE_REMOTES=")]
    asked = dict(entry.split("=", 1) for entry in line.removeprefix("SERVE_REMOTES=").split(","))
    assert asked == {f: f"http://{name}:8000" for name, formats in FORMATS_OF_IMAGE.items() for f in formats}
    services = {r["metadata"]["name"] for r in rendered("cluster") if r["kind"] == "Service"}
    assert services == set(SERVING)
