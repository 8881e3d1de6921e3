"""What is printed about a model that is brought, and what is recorded of an edge that failed."""

import re
from pathlib import Path

from bring.causes import explain
from bring.search import Attempt, Edge
from contract.cell.sandbox import GIB
from contract.failed_edge import FailedEdge, FailedRoute
from contract.manifest import Manifest
from contract.parity_result import ParityResult


def unchanged(name: str) -> str:
    return f"{name}: nothing changed since it was brought"


def done(name: str, seconds: float, peak: int) -> str:
    return f"{name}: brought in {seconds:.0f} s, at most {peak / GIB:.1f} GiB of memory"


def taken_as_logits(name: str, ending: str) -> str:
    seen = "do not add up to 1" if ending == "softmax" else "are not all from 0 to 1"
    return (
        f"{name}: its answers {seen}, so they are taken as logits, and a {ending} follows them. "
        "Set ANSWERS=values if they are not classes."
    )


def kept(name: str, edge: Edge, ending: Attempt, has_classes: bool) -> str:
    """What is kept of an edge; where it does not pass, also what became of its other routes."""
    line = f"{name}: {of_attempt(ending, has_classes)}"
    others = (
        [] if ending.passed or ending.is_unknown else [attempt for attempt in edge.attempts if attempt is not ending]
    )
    tried = [f"by {attempt.route}: {of_attempt(attempt, has_classes)}" for attempt in others]
    return f"{line}. Tried as well, {'; '.join(tried)}" if tried else line


def failed(edge: FailedEdge) -> str:
    return f"{edge.name}: failed. {' '.join(filter(None, (edge.reason, edge.advice)))}"


def of_parity(parity: ParityResult, has_classes: bool) -> str:
    if parity.kept:
        verdict = f"verified at {100 * parity.kept.limit:g} %" if parity.passed else "; ".join(parity.reasons)
        return f"keeps {parity.kept}: {verdict}"
    same = f"same class {parity.agreement:.2%} of {parity.images}" if has_classes else f"{parity.images} questions"
    figures = f"largest difference {parity.max_abs_diff:.1e}, {same}"
    return f"{figures}, verified" if parity.passed else f"{figures}: {'; '.join(parity.reasons)}"


def of_attempt(attempt: Attempt, has_classes: bool) -> str:
    """What came of a route: an error, or what parity says."""
    if attempt.is_unknown:
        return f"it is converted, and not run: it needs {attempt.needs}"
    if attempt.conversion_error is not None:
        return attempt.conversion_error
    if attempt.parity is None:
        return f"its runtime cannot run it: {attempt.runtime_error or 'see the log'}"
    return of_parity(attempt.parity, has_classes)


def failed_edge(source: Manifest, edge: Edge, ending: Attempt | None, log: str, folder: Path) -> FailedEdge:
    """What is recorded of an edge that ends with `ending`: no artifact, or one that cannot be run.

    `folder` is where the converters ran: its path is taken out of their messages.
    """
    has_classes = source.has_classes
    reason = _reason(edge, ending, has_classes)
    cause = explain(f"{edge.parent} -> {edge.format}", _readable(reason, folder), log)
    routes = tuple(
        FailedRoute(attempt.route, _readable(of_attempt(attempt, has_classes), folder)) for attempt in edge.attempts
    )
    return FailedEdge(source.model, edge.format, edge.parent, cause.reason, cause.cause, cause.advice, routes)


def _reason(edge: Edge, ending: Attempt | None, has_classes: bool) -> str:
    if ending is not None:
        error = [attempt.runtime_error for attempt in edge.attempts if attempt.runtime_error is not None][-1]
        return f"it was converted, and its runtime cannot run it: {error}"
    if edge.attempts:
        return of_attempt(edge.attempts[-1], has_classes)
    return f"its parent, {edge.parent}, could not be made"


def not_made_line(name: str, reason: str) -> str:
    return f"{name}: not made. {' '.join(reason.split())}"


def not_made(output: str, name: str) -> dict[str, str]:
    """Format -> why the variant was not made, as `python -m export.precision` says for the model of this name."""
    return dict(re.findall(rf"^{re.escape(name)}-(\S+): not made\. (.*)$", output, re.MULTILINE))


def section(log: str, title: str) -> str:
    """What a log of several steps has under this title; a child writes such titles before each step."""
    match = re.search(rf"^--- {re.escape(title)}\n(.*?)(?=^--- |^error: |\Z)", log, re.MULTILINE | re.DOTALL)
    return match[1] if match else ""


def runtime_error(log: str, name: str, ended: str = "") -> str:
    """Why the artifact of this name could not be run, as parity's log says; else why the comparison `ended`."""
    prefix = f"{name} cannot be compared: "
    own = [line for line in log.splitlines() if line.startswith(prefix)]
    errors = [line for line in log.splitlines() if line.startswith("error: ")]
    return own[-1].removeprefix(prefix) if own else (errors or [ended or "see the log"])[-1].removeprefix("error: ")


def _readable(message: str, folder: Path) -> str:
    """Without the path of `folder`, which is gone when somebody reads the message, and without advice about it."""
    message = re.sub(r" Remove \S+ and (?:export it again|run `make artifacts`)\.", "", message)
    return message.replace(f"{folder}/", "")
