"""The measured tables: where the time of the walk goes, training in both frameworks, and every artifact.

python -m compare.report artifacts                      prints them
python -m compare.report artifacts --write README.md    fills them in between the README's markers
"""

import argparse
import gzip
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from compare.latency import THREADS, Timing
from contract.errors import ArtifactMissing, RosettaError
from contract.manifest import MANIFEST, Manifest, read_manifest
from contract.parity_result import Status, read_status

START, END = "<!-- figures: {} -->", "<!-- /figures -->"


@dataclass(frozen=True)
class Row:
    """One artifact with everything that is known of it."""

    manifest: Manifest
    status: Status
    timing: Timing
    bytes: int
    gzip_bytes: int

    @property
    def accuracy(self) -> float:
        parity = self.status.parity
        return float(self.manifest.made_with["test_accuracy"]) if parity is None else float(parity.accuracy or 0)


def collect(artifacts: Path) -> list[Row]:
    """Measure every artifact. Raises ArtifactMissing when there is none, or one was never compared."""
    folders = sorted(path.parent for path in artifacts.glob(f"*/*/{MANIFEST}"))
    if not folders:
        raise ArtifactMissing(f"There is no artifact in {artifacts}. Make them with `make artifacts`.")
    return [_row(folder) for folder in tqdm(folders, desc="measuring", unit="artifact", disable=None)]


def _row(folder: Path) -> Row:
    manifest, status = read_manifest(folder), read_status(folder)
    if not manifest.is_source and status.parity is None:
        raise ArtifactMissing(f"{manifest.name} has no parity result: {status.reason}.")
    contents = [(folder / name).read_bytes() for name in manifest.files]
    sizes = sum(map(len, contents)), sum(len(gzip.compress(content)) for content in contents)
    return Row(manifest, status, Timing.measured(folder), *sizes)


def artifact_table(rows: Iterable[Row]) -> list[str]:
    """Answers, size and time, one line an artifact."""
    header = (
        "artifact|runtime|accuracy|largest difference|same class|kB|kB gzipped|load, s|"
        "1 picture, µs|64 pictures, µs a picture"
    )
    return _table(header, (_artifact_cells(row) for row in rows))


def _artifact_cells(row: Row) -> list[str]:
    parity = row.status.parity
    one, many = row.timing.latencies
    return [
        f"`{row.manifest.name}`",
        row.timing.runtime,
        f"{row.accuracy:.4f}",
        f"{parity.max_abs_diff:.1e}" if parity else "source",
        f"{parity.agreement:.2%}" if parity else "",
        f"{row.bytes / 1000:.0f}",
        f"{row.gzip_bytes / 1000:.0f}",
        f"{row.timing.load_seconds:.2f}",
        f"{one.p50:.0f}",
        f"{many.p50 / many.batch:.1f}",
    ]


def training_table(rows: Iterable[Row]) -> list[str]:
    """The two frameworks side by side, on the same network, data and settings."""
    sources = [row for row in rows if row.manifest.is_source]
    return _table(
        "model|trained with|parameters|epochs|s an epoch|pictures a second|test accuracy", map(_training, sources)
    )


def _training(row: Row) -> list[str]:
    made = row.manifest.made_with
    epochs = sorted(made["epoch_seconds"])
    median = epochs[len(epochs) // 2]
    return [
        f"`{row.manifest.model}`",
        made["framework"],
        f"{made['parameters']:,}",
        str(made["epochs"]),
        f"{median:.1f}",
        f"{made['train_images'] / median:,.0f}",
        f"{made['test_accuracy']:.4f}",
    ]


def stage_table(rows: Iterable[Row]) -> list[str]:
    """The seconds that each stage of the walk took when its result was made, without the start of its process."""
    stages: list[list[str]] = []
    for row in rows:
        name, made = row.manifest.name, row.manifest.made_with
        edge = f"train `{name}`" if row.manifest.is_source else f"export `{row.manifest.parent}` -> `{name}`"
        stages.append([edge, f"{made['seconds']:.1f}"])
        if row.status.parity:
            parity = row.status.parity
            stages.append([f"verify `{name}` on {parity.images:,} pictures, twice", f"{parity.seconds:.1f}"])
    stages.sort(key=lambda stage: ("train", "expor", "verif").index(stage[0][:5]))
    return _table("stage|seconds", stages)


def _table(header: str, rows: Iterable[Sequence[str]]) -> list[str]:
    names = header.split("|")
    return [f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *rows)]


def machine() -> str:
    """What the figures were measured on."""
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    return f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}, {THREADS} thread a runtime"


def write_tables(page: Path, tables: dict[str, list[str]]) -> None:
    """Put each table between its markers. Raises ArtifactMissing when the page has no place for one."""
    text = page.read_text(encoding="utf-8")
    for name, lines in tables.items():
        start = START.format(name)
        before, found, rest = text.partition(start)
        _, closed, after = rest.partition(END)
        if not (found and closed):
            raise ArtifactMissing(f"{page} has no place for the table {name!r}: {start} ... {END} is expected.")
        text = f"{before}{start}\n" + "\n".join(lines) + f"\n{END}{after}"
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Print the tables, or write them into a page."""
    parser = argparse.ArgumentParser(prog="python -m compare.report")
    parser.add_argument("artifacts", type=Path)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="fill the tables of this Markdown page instead")
    options = parser.parse_args()
    try:
        rows = collect(options.artifacts)
        tables = {
            "artifacts": [*artifact_table(rows), "", f"Measured on {machine()}."],
            "training": training_table(rows),
            "stages": stage_table(rows),
        }
        if options.write:
            write_tables(options.write, tables)
        else:
            print("\n\n".join("\n".join(lines) for lines in tables.values()))
    except RosettaError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
