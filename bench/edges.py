"""What came of a brought model: its source, and each format that can be reached from it."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bring.search import reachable
from compare.store import Record
from contract.failed_edge import read_failed_edges
from contract.formats import needs
from contract.manifest import MANIFEST, Manifest, read_manifest
from contract.parity_result import read_status
from export import EXPORTED_HERE, find_routes

COMPARED_HERE = tuple(format for format in EXPORTED_HERE if not needs(format))
"""The formats that can be made and run here: others have no figures."""


def read_edges(artifacts: Path, name: str) -> tuple[Manifest, dict[str, dict[str, Any]]]:
    """The source's manifest, and what came of the source and of each format, by its name.

    `reason` alone where there is no artifact; otherwise `bytes`, `route` (empty for the edge's first), and after a
    comparison `passed`, `off` and `reason`.
    """
    reasons = {edge.format: edge for edge in read_failed_edges(artifacts) if edge.model == name}
    manifests = [read_manifest(path.parent) for path in (artifacts / name).glob(f"*/{MANIFEST}")]
    source = next(manifest for manifest in manifests if manifest.is_source)
    edges: dict[str, dict[str, Any]] = {}
    for format in (source.format, *(edge.format for edge in reachable(source.format) if not needs(edge.format))):
        artifact = artifacts / name / format
        if not (artifact / MANIFEST).exists():
            failed = reasons[format]
            edges[format] = {"reason": " ".join(filter(None, (failed.reason, failed.cause, failed.advice)))}
            continue
        manifest, parity = read_manifest(artifact), read_status(artifact).parity
        edges[format] = {
            "bytes": sum((artifact / part).stat().st_size for part in manifest.files),
            "route": _route(manifest.parent, format, manifest.made_with.get("route")),
        }
        if parity:
            edges[format] |= {"passed": parity.passed, "off": parity.max_abs_diff, "reason": "; ".join(parity.reasons)}
    return source, edges


def converted(records: Mapping[str, Record]) -> Iterator[tuple[str, str, Record]]:
    """Model, format and edge, for each format that is not its model's source."""
    for name, record in records.items():
        for format, edge in record.get("edges", {}).items():
            if format != record["source"]:
                yield name, format, edge


def reasons_and_routes(records: Mapping[str, Record]) -> Iterator[str]:
    """Two lists under the table: what fails and why, and what did not take the first route."""
    errors = [f"- `{name}`: {record['error']}" for name, record in records.items() if "error" in record]
    reasons = [
        f"- `{name}-{format}`: {edge['reason']}"
        for name, format, edge in converted(records)
        if not edge.get("passed") and "reason" in edge
    ]
    routes = [f"- `{name}-{format}`: {edge['route']}" for name, format, edge in converted(records) if edge.get("route")]
    for title, lines in (("What fails, and why", errors + reasons), ("Not by the first route", routes)):
        if lines:
            yield from ("", f"{title}:", "", *lines)


def _route(parent: str | None, format: str, taken: str | None) -> str:
    return "" if parent is None or taken in (None, find_routes(parent, format)[0].name) else str(taken)
