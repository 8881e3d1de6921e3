"""The command line: every fault, or some, and the table."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.faults.faults import FAULTS
from bench.faults.outcome import RIGHT, UNKNOWN, WRONG, Outcome, try_out
from compare.tables import write_tables
from contract.code import LOCK, ROOT, digest, files_of
from contract.errors import RosettaError

FOLDER = ROOT / "build" / "faults"
LIMIT = 512


def main() -> None:
    """Exit status 1 where a fault was not closed, or named wrongly."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description="Plant faults, and look who sees them.")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="the own models (%(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the other healthy models are kept")
    parser.add_argument("--limit", type=int, default=LIMIT, help="how many pictures are asked (%(default)s)")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=list(FAULTS), help="some faults, by name")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table into this Markdown page as well")
    options = parser.parse_args()
    if unknown := [name for name in options.only if name not in FAULTS]:
        sys.exit(f"error: {', '.join(unknown)}: no such fault. Known: {', '.join(FAULTS)}.")
    try:
        code = digest([*files_of("bench.faults.bases", "export.*"), LOCK])
        outcomes = list(_tried(options.only, options.artifacts, options.folder / code[:12], options.limit))
        lines = list(table(outcomes, options.limit))
        if options.write:
            write_tables(options.write, {"faults": lines})
    except RosettaError as error:
        sys.exit(f"error: {error}")
    print("\n".join(lines))
    sys.exit(0 if all(outcome.is_closed and outcome.named != WRONG for outcome in outcomes) else 1)


def _tried(names: Sequence[str], artifacts: Path, folder: Path, limit: int) -> Iterator[Outcome]:
    for name in names:
        outcome = try_out(FAULTS[name], artifacts, folder, limit)
        conclusion = ": ".join(filter(None, (outcome.cause, outcome.evidence)))
        print(f"{name}: {outcome.word}; {outcome.named}: {conclusion} ({outcome.seconds} s)", flush=True)
        yield outcome


def table(outcomes: Sequence[Outcome], limit: int) -> Iterator[str]:
    """A row for each fault, and what they come to."""
    yield "| fault | in | noticed by | what parity says first | status | named |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for outcome in outcomes:
        fault, noticed = outcome.fault, ", ".join(outcome.closed_by)
        named = {RIGHT: outcome.cause, UNKNOWN: "unknown", WRONG: f"WRONG: {outcome.cause}"}[outcome.named]
        cells = (noticed if outcome.is_closed else "NOT CLOSED", _short(outcome.reason), outcome.word, named)
        yield f"| {fault.title} | `{fault.artifact}` | {' | '.join(cells)} |"
    count = len(outcomes)
    closed_count = sum(outcome.is_closed for outcome in outcomes)
    right, unknown, wrong = (sum(each.named == word for each in outcomes) for word in (RIGHT, UNKNOWN, WRONG))
    yield ""
    yield (
        f"Of {count} faults {closed_count} are closed ({closed_count / count:.0%}); {right} are named rightly "
        f"({right / count:.0%}), {unknown} are unknown, {wrong} are named wrongly. "
        f"Each was asked {limit} questions at most."
    )


def _short(text: str) -> str:
    """Short enough for a cell, and without its bars."""
    text = text.replace("|", "/")
    return text if len(text) <= 90 else f"{text[:87]}..."


if __name__ == "__main__":
    main()
