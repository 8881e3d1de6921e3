"""What is kept of a conversion that failed: why, what to try, and its whole log, for the report and the page.

It lies beside the model's artifacts, as `failed/<format>.json` and `failed/<format>.log`; that folder has no manifest,
so nothing takes it for an artifact.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from contract.manifest import FORMAT_NAME, MODEL_NAME, check_name, write_json

FAILED = "failed"
SCHEMA = 1
MAX_BYTES = 1_000_000
"""A larger record is none of ours."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FailedRoute:
    """One way that was tried."""

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
    """The known cause, if it is one."""
    advice: str = ""
    """What to try."""
    routes: tuple[FailedRoute, ...] = ()

    def __post_init__(self) -> None:
        check_name("model", self.model, MODEL_NAME)
        check_name("format", self.format, FORMAT_NAME)
        check_name("parent", self.parent, FORMAT_NAME)

    @property
    def name(self) -> str:
        """What the artifact would be served as."""
        return f"{self.model}-{self.format}"

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote. Raises KeyError, TypeError or ValueError on anything else."""
        if data["schema"] != SCHEMA:
            raise ValueError(f"schema {data['schema']}, expected {SCHEMA}")
        texts = {name: data[name] for name in ("model", "format", "parent", "reason", "cause", "try")}
        routes = tuple(FailedRoute(str(each["route"]), str(each["error"])) for each in data["routes"])
        if not all(isinstance(text, str) for text in texts.values()):
            raise TypeError("expected strings")
        return cls(advice=texts.pop("try"), routes=routes, **texts)

    def to_json(self) -> dict[str, Any]:
        said = {"model": self.model, "format": self.format, "parent": self.parent, "reason": self.reason}
        return {
            "schema": SCHEMA,
            **said,
            "cause": self.cause,
            "try": self.advice,
            "routes": list(map(vars, self.routes)),
        }


def log_file(artifacts: Path, edge: FailedEdge) -> Path:
    return artifacts / edge.model / FAILED / f"{edge.format}.log"


def write_failed_edge(artifacts: Path, edge: FailedEdge, output: str) -> None:
    """Write the record and, before it, the whole log."""
    path = log_file(artifacts, edge)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(output, encoding="utf-8")
    write_json(path.with_suffix(".json"), edge.to_json())


def read_failed_edges(artifacts: Path) -> list[FailedEdge]:
    """Every record below `artifacts`, by name; one that cannot be read is left out, and the log says so."""
    found = []
    for path in sorted(artifacts.glob(f"*/{FAILED}/*.json")):
        if path.name.startswith("."):  # half-written
            continue
        try:
            if path.stat().st_size > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES} bytes")
            edge = FailedEdge.from_json(json.loads(path.read_bytes()))
            if (edge.model, edge.format) != (path.parent.parent.name, path.stem):
                raise ValueError(f"it is the record of {edge.name}")
        except (OSError, KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            log.warning("%s is not a failed conversion's record (%s: %s).", path, type(error).__name__, error)
            continue
        found.append(edge)
    return found
