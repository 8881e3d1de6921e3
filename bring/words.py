"""What is printed about a model that is brought, and what is recorded of an edge that failed."""

import re
from pathlib import Path

from bring.causes import explain
from bring.sandbox import GIB
from bring.search import Attempt, Edge
from contract.failed_edge import FailedEdge, FailedRoute
from contract.parity_result import ParityResult


def unchanged(name: str) -> str:
    return f"{name}: nothing changed since it was brought"


def done(name: str, seconds: float, peak: int) -> str:
    return f"{name}: brought in {seconds:.0f} s, at most {peak / GIB:.1f} GiB of memory"


def kept(name: str, parity: ParityResult) -> str:
    return f"{name}: {of_parity(parity)}"


def failed(edge: FailedEdge) -> str:
    return f"{edge.name}: failed. {' '.join(filter(None, (edge.reason, edge.advice)))}"


def of_parity(parity: ParityResult) -> str:
    figures = f"largest difference {parity.max_abs_diff:.1e}, same class {parity.agreement:.2%} of {parity.images}"
    return f"{figures}, passed" if parity.passed else f"{figures}: {'; '.join(parity.reasons)}"


def of_attempt(attempt: Attempt) -> str:
    """Why a route's artifact is not kept."""
    if attempt.conversion_error is not None:
        return attempt.conversion_error
    return of_parity(attempt.parity) if attempt.parity else "its runtime cannot run it"


def failed_edge(model: str, edge: Edge, ending: Attempt | None, log: str, folder: Path) -> FailedEdge:
    """What is recorded of an edge that ends with `ending`: no artifact, or one that cannot be run.

    `folder` is where the converters ran: its path is taken out of their messages.
    """
    cause = explain(f"{edge.parent} -> {edge.format}", _readable(_reason(edge, ending), folder), log)
    routes = tuple(FailedRoute(attempt.route, _readable(of_attempt(attempt), folder)) for attempt in edge.attempts)
    return FailedEdge(model, edge.format, edge.parent, cause.reason, cause.cause, cause.advice, routes)


def _reason(edge: Edge, ending: Attempt | None) -> str:
    if ending is not None:
        error = [attempt.runtime_error for attempt in edge.attempts if attempt.runtime_error is not None][-1]
        return f"it was converted, and its runtime cannot run it: {error}"
    return of_attempt(edge.attempts[-1]) if edge.attempts else f"its parent, {edge.parent}, could not be made"


def section(log: str, title: str) -> str:
    """What a log of several steps has under this title; a child writes such titles before each step."""
    match = re.search(rf"^--- {re.escape(title)}\n(.*?)(?=^--- |^error: |\Z)", log, re.MULTILINE | re.DOTALL)
    return match[1] if match else ""


def runtime_error(log: str, name: str) -> str:
    """Why the artifact of this name could not be run, as parity's log says; else the log's last error."""
    prefix = f"{name} cannot be compared: "
    own = [line for line in log.splitlines() if line.startswith(prefix)]
    errors = [line for line in log.splitlines() if line.startswith("error: ")]
    return own[-1].removeprefix(prefix) if own else (errors or ["see the log"])[-1].removeprefix("error: ")


def _readable(message: str, folder: Path) -> str:
    """Without the path of `folder`, which is gone when somebody reads the message, and without advice about it."""
    message = re.sub(r" Remove \S+ and (?:export it again|run `make artifacts`)\.", "", message)
    return message.replace(f"{folder}/", "")
