"""What an image holds, as a CycloneDX document: run inside it, by docker/sbom. It needs Python alone.

python3 - NAME VERSION <docker/sbom.py
"""

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

APP = Path("/app")


def components() -> Iterator[dict[str, Any]]:
    """Debian's packages, Python's, Node's, and the artifacts with the sha256 of their files."""
    listed = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Architecture}\n"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    for line in listed.stdout.splitlines():
        name, version, architecture = line.split()
        yield _library(name, version, f"pkg:deb/debian/{name}@{version}?arch={architecture}")
    for package in importlib.metadata.distributions():
        name = package.metadata["Name"].lower()
        yield _library(name, package.version, f"pkg:pypi/{name}@{package.version}")
    for file in sorted(APP.glob("web/node_modules/**/package.json")):
        described = json.loads(file.read_text())
        if "name" in described and "version" in described:
            name = described["name"].replace("@", "%40")
            yield _library(described["name"], described["version"], f"pkg:npm/{name}@{described['version']}")
    for file in sorted(APP.glob("artifacts/*/*/manifest.json")):
        manifest = json.loads(file.read_text())
        held = {path: digest for path, digest in manifest["files"].items() if (file.parent / path).is_file()}
        if held:
            yield _artifact(f"{manifest['model']}-{manifest['format']}", held)


def _library(name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _artifact(name: str, files: dict[str, str]) -> dict[str, Any]:
    parts = [
        {"type": "file", "bom-ref": f"{name}/{path}", "name": path, "hashes": [{"alg": "SHA-256", "content": digest}]}
        for path, digest in files.items()
    ]
    return {"type": "machine-learning-model", "bom-ref": name, "name": name, "components": parts}


def main() -> None:
    """Print the document; each component once, in order."""
    name, version = sys.argv[1:]
    parts = {component["bom-ref"]: component for component in components()}
    image = {"type": "container", "bom-ref": name, "name": name, "version": version}
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": image | {"licenses": [{"license": {"id": "Apache-2.0"}}]}},
        "components": list(parts.values()),
    }
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
