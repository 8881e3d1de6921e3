"""The variants of reduced precision of the zoo's models: what each one keeps, and what it costs beside float32."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.zoo.models import SMALL, ZOO
from compare.store import Record
from contract.errors import shortened
from contract.failed_edge import read_failed_edges
from contract.formats import family_of
from contract.ledger import read_ledger
from contract.manifest import MANIFEST, read_manifest
from contract.parity_result import UNVERIFIED, read_status
from contract.precisions import PRECISIONS
from verify.precision.gate import CLASSES

NOISE = 1.1
"""Two medians of one run may differ by so much."""
LONGEST = 300
"""Characters of a reason that the table has."""
HEADER = "model|variant|class|kept|time beside float32|bytes beside float32|products in float32|left in float|marks"


def read_variant(artifacts: Path, name: str, format: str, p50: Callable[[Path], float]) -> dict[str, Any] | None:
    """What came of a variant; None where the model has no float32 artifact of its format.

    `p50` gives the seconds of a call. `reason` alone where it was not made.
    """
    folder, float32 = artifacts / name / format, artifacts / name / family_of(format)
    if not (folder / MANIFEST).exists():
        failed = [edge for edge in read_failed_edges(artifacts) if (edge.model, edge.format) == (name, format)]
        return {"reason": failed[0].reason} if failed else None
    status, ledger = read_status(folder), read_ledger(folder)
    kept = status.parity.kept if status.parity else None
    repair = read_manifest(folder).made_with.get("repair")
    seconds = p50(folder), p50(float32)
    return {
        "word": status.word,
        "reason": status.reason,
        "kept": [kept.measure, kept.share, kept.low, kept.high] if kept else None,
        "time": seconds[0] / seconds[1],
        "p50": seconds[0],
        "size": _bytes(folder) / _bytes(float32),
        "computing": dict(ledger.computing) if ledger else {},
        "in_float": repair["in_float"] if isinstance(repair, dict) else [],
        "stored_only": ledger.is_stored_only if ledger else False,
    }


def _bytes(folder: Path) -> int:
    return sum((folder / part).stat().st_size for part in read_manifest(folder).files)


def variants_table(records: Mapping[str, Record]) -> Iterator[str]:
    """A row for each variant that was made; then those that were not made or miss their class, and why."""
    cells = HEADER.split("|")
    rows = [(name, format, each) for name, record in records.items() for format, each in _of(record)]
    made = [_row(*row) for row in rows if "word" in row[2]]
    yield from (f"| {' | '.join(line)} |" for line in (cells, ["---"] * len(cells), *made))
    errors = [f"- `{name}`: {record['error']}" for name, record in records.items() if "error" in record]
    reasons = [
        f"- `{name}-{format}`: {shortened(each['reason'], LONGEST)}" for name, format, each in rows if _fails(each)
    ]
    if errors or reasons:
        yield from ("", "Not made, or not verified for another reason than its class:", "", *errors, *reasons)
    yield ""
    for run in sorted({f"{record['machine']}, {record['run']}" for record in records.values()}):
        yield f"Measured on {run} (UTC)."


def _of(record: Record) -> Iterator[tuple[str, Record]]:
    """In the order of the table of precisions, however they were stored."""
    known = record.get("precisions", {})
    yield from ((format, known[format]) for format in PRECISIONS if format in known)


def _fails(variant: Record) -> bool:
    """Whether there is more to tell than what the row has."""
    return "word" not in variant or (variant["word"] == UNVERIFIED and not variant["kept"])


def _row(name: str, format: str, variant: Record) -> list[str]:
    products = variant["computing"]
    count, total = products.get("float32", 0), sum(products.values())
    marks = [*(["slower"] if variant["time"] > NOISE else []), *(["stored only"] if variant["stored_only"] else [])]
    return [
        (ZOO | SMALL)[name].title,
        f"`{format}`",
        variant["word"].partition(" at ")[2] or _without_class(variant["kept"]),
        _kept(variant["kept"]),
        f"{variant['time']:.2f}x ({1000 * variant['p50']:.3g} ms)",
        f"{variant['size']:.2f}x",
        f"{count} of {total}",
        str(len(variant["in_float"]) or ""),
        ", ".join(f"**{mark}**" for mark in marks),
    ]


def _without_class(kept: list[Any] | None) -> str:
    """Whether it was shown that too much is lost, or nothing was shown."""
    return "too few rows" if kept and kept[3] >= min(CLASSES) else "**missed**"


def _kept(kept: list[Any] | None) -> str:
    if not kept:
        return ""
    measure, *shares = kept
    share, low, high = (f"{100 * each:.2f}" for each in shares)
    return f"{share} % of {measure} ({low} to {high})"
