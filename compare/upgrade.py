"""What changed since an older state: a folder of artifacts, a report, or both.

Artifacts that are still there are measured again, by turns with the new ones (compare/turns.py). A report is compared
by its figures (compare/baseline.py), where nothing better is known: the artifacts are gone, or the runtimes and the
code that ran them are.
"""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from compare.assemble import assemble
from compare.baseline import MARGIN, Change, changed_answers, changes, failures_first
from compare.measure import Bench
from compare.report import REPORT, Report, ReportError, read_report
from compare.turns import compare_by_turns, root_of, timed_rows
from contract.code import ROOT
from contract.errors import RosettaError
from contract.manifest import MANIFEST, sha256_of


@dataclass(frozen=True)
class Baseline:
    """The older state."""

    folder: Path | None
    """Its artifacts, if they are still there."""
    report: Report | None
    """What `make compare` wrote of them, if it did."""

    @classmethod
    def at(cls, path: Path, artifacts: Path) -> Self:
        """The baseline that `path` names: a folder of artifacts, or a report. `artifacts` are the new ones.

        Raises ReportError if there is neither, or if both are the same.
        """
        if path.is_dir() and not (path / REPORT).is_file():
            if path.resolve() == artifacts.resolve():
                raise ReportError(
                    f"BASELINE={path} is the folder to compare. Name a copy of an older one, or a report."
                )
            report = None
            with contextlib.suppress(ReportError):  # of another version, or none at all
                report = read_report(path / "report" / REPORT)
            return cls(path, report)
        file = path / REPORT if path.is_dir() else path
        report = read_report(file)
        folder = file.resolve().parent.parent
        is_there = folder != artifacts.resolve() and _has_all(folder, report)
        return cls(folder if is_there else None, report)

    def by_figures(self, bench: Bench) -> Report | None:
        """The report, where its times say what turns cannot: what the runtimes and the code of that day took."""
        if self.report is None or self.folder is None:
            return self.report
        same = (self.report.machine.versions, self.report.code) == (bench.machine.versions, bench.code)
        return None if same or root_of(self.folder) != ROOT else self.report


def _has_all(folder: Path, report: Report) -> bool:
    """Whether every artifact of the report lies in the folder, unchanged."""
    known = [each for each in report.artifacts.values() if each.sha256]
    manifests = {each.sha256: folder / each.model / each.format / MANIFEST for each in known}
    return all(file.is_file() and sha256_of(file) == digest for digest, file in manifests.items()) and bool(known)


def changes_since(baseline: Baseline, bench: Bench, new: Report, margin: float | None) -> list[Change]:
    """Everything that changed beyond the noise; failures come first."""
    changed: list[Change] = []
    if old := baseline.by_figures(bench):
        changed += changes(old, new, MARGIN if margin is None else margin)
    elif baseline.report:
        changed += changed_answers(baseline.report, new)
    if baseline.folder:
        changed += _by_turns(baseline.folder, bench, new, margin)
    return failures_first(changed)


def _by_turns(folder: Path, bench: Bench, new: Report, margin: float | None) -> list[Change]:
    """The old artifacts' answers, sizes and times, beside the new ones'."""
    stored = bench.folder / "report" / "baseline"
    old = Bench(folder, bench.dataset, bench.limit, bench.settings, root_of(folder), stored)
    changed = changes(assemble(old, old.run(only_answers=True)), new, MARGIN if margin is None else margin)
    try:
        with timed_rows(old, bench, new) as rows:
            return changed + compare_by_turns(rows, margin, bench.settings.seed)
    except RosettaError as error:
        return [*changed, Change("turns", f"nothing was measured by turns: {error}", True)]
