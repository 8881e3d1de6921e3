"""python -m compare artifacts: measure everything, write artifacts/report/, and say which format to ship and why.

--target server|browser|android|ios [--max-mb N] [--max-ms N] [--min-agreement SHARE] [--allow-precision float32,int8]
                            constraints; to change only these needs no new measurement
--request binary|json|png|jpeg
                            what is sent to a server, where its time decides
--baseline old/artifacts    measure old and new by turns, and print what changed; exit status 1 if answers changed or a
                            figure got worse. Without the old artifacts: old/report.json
--again                     repeat measurements that were stored

measure.py      makes the measurements, in their order; store.py keeps them
answers.py, latency.py, http_calls.py, footprint.py, browser.py, training.py: one kind of measurement each
devices.py      adds what visitors' own devices answered
assemble.py     turns measurements into the typed report of report.py; figures.py: a figure and its spread
marks.py        a reduced precision beside its float32: slower, larger, stored only
recommend.py    decides which row to ship; advice.py explains it; baseline.py compares two reports
turns.py        measures two folders of artifacts by turns, for the baseline
page.py, plots.py, tables.py: show the report to people
"""

import argparse
import dataclasses
import random
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from compare.advice import add_recommendations
from compare.assemble import assemble, targets_for
from compare.baseline import MARGIN, Change, doubtful, reversals
from compare.latency import BATCHES, THREADS
from compare.measure import Bench
from compare.page import PAGE, write_page
from compare.recommend import TARGETS, check
from compare.report import REPORT, Constraints, Recommendation, Report, ReportError, Settings, write_report
from compare.requests import FORMS
from compare.turns import CLOSE, FAR
from compare.upgrade import Baseline, changes_since
from contract import dataset
from contract.errors import RosettaError
from verify.parity import BATCHES as PARITY_BATCHES

ROUNDS = 3
SECONDS = 0.3


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    options = _parser().parse_args(arguments)
    allowed = tuple(word for part in options.allow_precision.split(",") if (word := part.strip()))
    constraints = Constraints(options.max_mb, options.max_ms, options.min_agreement, allowed)
    try:
        check(options.target, constraints)
        baseline = Baseline.at(options.baseline, options.artifacts) if options.baseline else None
        bench = _bench(options)
        report = _measure(bench, baseline.by_figures(bench) if baseline else None, options.margin)
        report = dataclasses.replace(report, targets=targets_for(options.request, report))
        report = add_recommendations(report, options.target, constraints)
        folder = options.artifacts / "report"
        write_report(folder, report)
        write_page(report, folder)
        since = changes_since(baseline, bench, report, options.margin) if baseline else None
    except (RosettaError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted. Run the same command again to continue.")
    print(_as_text(report.recommendations[:1] if options.target else report.recommendations))
    print(f"\nAll figures: {folder / PAGE}, {folder / REPORT}")
    if since is not None:
        print(f"\nSince the baseline {options.baseline}:")
        if baseline and baseline.report:
            _print_order(baseline.report, report)
        _print_changes(since)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m compare", description="Which format should I ship?")
    parser.add_argument("artifacts", type=Path)
    parser.add_argument("--target", help=", ".join(TARGETS))
    parser.add_argument("--max-mb", type=float)
    parser.add_argument("--max-ms", type=float)
    parser.add_argument(
        "--min-agreement", type=float, help="share of the pictures that must keep their class, such as 0.999"
    )
    parser.add_argument("--allow-precision", default="", help="the precisions to choose from: float32, int8, fp16 ...")
    parser.add_argument("--request", choices=FORMS, default="binary", help="what is sent to a server (binary)")
    parser.add_argument("--baseline", type=Path, help="an older folder of artifacts, or an older report.json")
    parser.add_argument(
        "--margin",
        type=float,
        help=f"share by which a figure may get worse ({MARGIN}; by turns {CLOSE}, for starts and browsers {FAR})",
    )
    parser.add_argument("--again", action="store_true", help="repeat measurements that were stored")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"how often each row is measured ({ROUNDS})")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"of calls with one picture in each round ({SECONDS})"
    )
    parser.add_argument("--dataset", default="fashion_mnist", help=f"one of {', '.join(dataset.DATASETS)}")
    parser.add_argument("--limit", type=int, help="use only the first test pictures")
    return parser


def _bench(options: argparse.Namespace) -> Bench:
    """What is to be measured. Raises ReportError for settings that measure nothing."""
    if options.rounds < 1 or not options.seconds > 0:
        raise ReportError(
            f"{options.rounds} rounds of {options.seconds:g} s measure nothing; use at least 1 round of more than 0 s."
        )
    if options.again:
        shutil.rmtree(options.artifacts / "report" / "measured", ignore_errors=True)
    seed = random.SystemRandom().randrange(10_000)
    settings = Settings(options.rounds, options.seconds, THREADS, BATCHES, PARITY_BATCHES, seed)
    return Bench(options.artifacts, options.dataset, options.limit, settings)


def _measure(bench: Bench, old: Report | None, margin: float | None) -> Report:
    """The report; rows that are worse than in the old one are measured in more rounds."""
    report = assemble(bench, bench.run())
    if old and (rows := doubtful(old, report, MARGIN if margin is None else margin)):
        print(f"Worse than the baseline: {', '.join(sorted(rows))}. Measuring these rows in {ROUNDS} more rounds.")
        bench.doubt(rows, ROUNDS)
        report = assemble(bench, bench.run())
    return report


def _as_text(recommendations: Sequence[Recommendation]) -> str:
    """The recommendations for a terminal."""
    parts = []
    for each in recommendations:
        lines = [sentence.text for sentence in each.reasons]
        lines += [f"  not {name.removesuffix('@server')}: {sentence.text}" for name, sentence in each.rejected.items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) or "Nothing could be measured. The report says why."


def _print_order(old: Report, new: Report) -> None:
    pairs, reversed_pairs = reversals(old, new)
    print(
        f"Order: {pairs} pairs of rows differ beyond the noise in both reports; "
        f"{len(reversed_pairs)} of them changed places."
    )
    print("".join(f"  {pair}\n" for pair in reversed_pairs), end="")


def _print_changes(all_changes: Sequence[Change]) -> None:
    print("\n".join(map(str, all_changes)) or "nothing changed beyond the noise.")
    worse = sum(change.fails for change in all_changes)
    if worse:
        sys.exit(f"error: {worse} changes for the worse: other answers, or figures that got worse beyond their margin.")


if __name__ == "__main__":
    main()
