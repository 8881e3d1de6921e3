"""The record of a conversion that failed: why, what to try, and its whole log, for the report and the page.

It is stored beside the model's artifacts, as `failed/<format>.json` and `failed/<format>.log`. That folder has no
manifest, so nothing takes it for an artifact.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from contract.manifest import FORMAT_NAME, MODEL_NAME, check_name, write_json
from contract.records import KEY, RecordError, content_of, decode, encode, parse, without_schema

FAILED = "failed"
SCHEMA = 1
MAX_BYTES = 1_000_000
"""A larger file is not one that this module wrote."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FailedRoute:
    """A route that was tried, and its error."""

    route: str
    error: str


@dataclass(frozen=True)
class FailedEdge:
    """A format that a model could not be converted to."""

    model: str
    format: str
    parent: str
    reason: str
    """One sentence: which operator or feature."""
    cause: str = ""
    """The known cause; empty where it is unknown."""
    advice: str = field(default="", metadata={KEY: "try"})
    """What to try."""
    routes: tuple[FailedRoute, ...] = ()

    def __post_init__(self) -> None:
        check_name("model", self.model, MODEL_NAME)
        check_name("format", self.format, FORMAT_NAME)
        check_name("parent", self.parent, FORMAT_NAME)

    @property
    def name(self) -> str:
        """The name that the artifact would be served by."""
        return f"{self.model}-{self.format}"

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read what `to_json` wrote. Raises RecordError on anything else."""
        return decode(cls, without_schema(data, SCHEMA))

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **encode(self)}


def log_file(artifacts: Path, edge: FailedEdge) -> Path:
    return artifacts / edge.model / FAILED / f"{edge.format}.log"


def write_failed_edge(artifacts: Path, edge: FailedEdge, output: str) -> None:
    """Write the whole log, then the record."""
    path = log_file(artifacts, edge)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(output, encoding="utf-8")
    write_json(path.with_suffix(".json"), edge.to_json())


def read_failed_edges(artifacts: Path) -> list[FailedEdge]:
    """Every record below `artifacts`, by name. One that cannot be read is logged and left out."""
    edges = []
    for path in sorted(artifacts.glob(f"*/{FAILED}/*.json")):
        if path.name.startswith("."):  # half-written
            continue
        try:
            edge = FailedEdge.from_json(parse(content_of(path, MAX_BYTES)))
            if (edge.model, edge.format) != (path.parent.parent.name, path.stem):
                raise RecordError(f"it is the record of {edge.name}")
        except (OSError, RecordError) as error:
            log.warning("%s is not a failed conversion's record (%s).", path, error)
            continue
        edges.append(edge)
    return edges
