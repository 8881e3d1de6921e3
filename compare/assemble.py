"""From the measurements of all rounds to one report: every figure with its spread, or the reason why it is missing."""

import dataclasses
import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from compare import answers
from compare.browser import RUNTIMES
from compare.figures import Figure, Measured, Missing, exact, once, over_rounds
from compare.footprint import file_figures, image, installed
from compare.latency import BATCHES
from compare.measure import Bench, Measurements, Subject
from compare.recommend import TARGETS
from compare.report import SCHEMA, Artifact, Report, Row, Training
from compare.store import Record
from compare.training import SCRIPTS, compare_training
from contract.errors import ParityError
from contract.formats import FORMATS, family_of
from contract.manifest import MANIFEST, sha256_of
from contract.parity_result import read_status


def assemble(bench: Bench, done: Measurements) -> Report:
    """The report, without recommendations."""
    first = bench.subjects[0]
    questions = bench.questions(first)
    artifacts = {subject.name: _artifact(subject, bench, done) for subject in bench.subjects}
    rows = [
        row
        for subject in bench.subjects
        for row in (_server_row(subject, artifacts[subject.name], bench, done), *_browser_rows(subject, bench, done))
    ]
    return Report(
        schema=SCHEMA,
        made=datetime.datetime.now(datetime.UTC).date().isoformat(),
        seconds=round(sum(float(record.get("seconds", 0)) for record in done.results.values()), 1),
        dataset=bench.dataset,
        title=questions.title,
        labels=_labels(first),
        pictures=questions.count,
        machine=bench.machine,
        settings=bench.settings,
        artifacts=artifacts,
        rows={row.name: row for row in rows},
        training={training.model: training for training in _training(bench, artifacts, done)},
        targets=TARGETS,
    )


# --- Artifacts


def _artifact(subject: Subject, bench: Bench, done: Measurements) -> Artifact:
    model, format = subject.folder.parent.name, subject.folder.name
    if subject.manifest is None:
        nothing = Missing(subject.problem)
        figures: dict[str, Measured] = dict.fromkeys(("accuracy", "agreement", "disk"), nothing)
        return Artifact(subject.name, model, format, None, "", subject.problem, figures)
    manifest = subject.manifest
    figures = file_figures(subject.folder, manifest)
    made = manifest.made_with.get("seconds")
    figures["made"] = Missing("The manifest does not give the seconds.") if made is None else once(float(made), "s")
    status = read_status(subject.folder).parity
    figures["verified"] = once(status.seconds, "s") if status else Missing("`make verify` has not verified it.")
    source = _source(subject, bench)
    parts = _answered(subject, source, bench, done)
    figures |= parts.pop("figures")
    return Artifact(
        name=subject.name,
        model=model,
        format=format,
        source=None if source is subject or source is None else source.name,
        sha256=sha256_of(subject.folder / MANIFEST),
        figures=figures,
        **parts,
    )


def _labels(subject: Subject) -> tuple[str, ...]:
    return subject.manifest.labels if subject.manifest else ()


def _source(subject: Subject, bench: Bench) -> Subject | None:
    """The model's source artifact; for the source, itself."""
    of_model = [other for other in bench.subjects if other.manifest and other.folder.parent == subject.folder.parent]
    return next((other for other in of_model if other.manifest and other.manifest.is_source), None)


def _answered(subject: Subject, source: Subject | None, bench: Bench, done: Measurements) -> dict[str, Any]:
    """The verdict, figures and flipped pictures, from the answers to every test picture."""
    task = f"answers-{subject.name}"
    if task not in done.results:
        reason = done.failures.get(task, "Its answers were not measured.")
        return {
            "verdict": f"not compared: {reason}",
            "figures": dict.fromkeys(("accuracy", "agreement"), Missing(reason)),
        }
    own, labels, questions = bench.answers(subject), _labels(subject), bench.questions(subject)
    figures: dict[str, Measured] = {"accuracy": answers.accuracy(own, questions)}
    parts: dict[str, Any] = {
        "figures": figures,
        "per_class": answers.accuracy_per_class(own, questions, labels),
        "classes": answers.pack_classes(own),
    }
    if source is subject:
        pictures = questions.count
        return parts | {"verdict": "source", "figures": figures | {"agreement": exact(1.0, "share", pictures)}}
    if source is None or f"answers-{source.name}" not in done.results:
        reason = "Its source gave no answers to compare with."
        return parts | {"verdict": f"not compared: {reason}", "figures": figures | {"agreement": Missing(reason)}}
    theirs = bench.answers(source)
    try:
        parity = answers.parity(theirs, own, questions.tolerance)
    except ParityError as error:
        return parts | {"verdict": str(error), "figures": figures | {"agreement": Missing(str(error))}}
    flips = answers.flips(theirs, own, parity, questions, labels)
    figures["accuracy_change"] = answers.accuracy_change(theirs, own, questions)
    figures |= answers.parity_figures(parity, questions.count)
    return parts | {
        "verdict": answers.verdict(parity, questions.tolerance),
        "flips": tuple(flips[: answers.GALLERY]),
        "flip_count": len(flips),
    }


# --- Rows


class Rounds:
    """All rounds of one kind of measurement for one row, or the reason why there are none."""

    def __init__(self, kind: str, name: str, bench: Bench, done: Measurements, problem: str) -> None:
        tasks = [f"{kind}-{name}-{round}" for round in range(bench.rounds)]
        self.records: dict[int, Record] = {
            round: done.results[task] for round, task in enumerate(tasks) if task in done.results
        }
        reasons = [done.failures[task] for task in tasks if task in done.failures]
        self.missing = Missing(problem or (reasons or ["It was not measured."])[0])

    def figure(
        self, unit: str, take: Callable[[Record], float], calls: Callable[[Record], int] = lambda _: 1
    ) -> Measured:
        """The median over the rounds of the value that `take` gives for each; `calls` gives its number of calls."""
        values = [take(record) for record in self.records.values()]
        return over_rounds(values, unit, sum(map(calls, self.records.values()))) if values else self.missing

    def text(self, key: str) -> str:
        """A text of the first round; empty if there is none."""
        return next((str(record[key]) for record in self.records.values()), "")

    def latencies(self, prefix: str) -> dict[str, Measured]:
        """Percentiles at batch sizes 1 and 64, and pictures per second at each batch size."""
        figures = {}
        for batch in BATCHES:
            unit_of = {"throughput": "1/s"} | (dict.fromkeys(("p50", "p95", "p99"), "s") if batch in (1, 64) else {})
            for name, unit in unit_of.items():
                key = "rows_per_second" if name == "throughput" else name
                figures[f"{prefix}{name}@{batch}"] = self.figure(
                    unit,
                    lambda record, batch=batch, key=key: _of_batch(record, batch)[key],  # type: ignore[misc]
                    lambda record, batch=batch: _of_batch(record, batch)["calls"],  # type: ignore[misc]
                )
        return figures


def _of_batch(record: Record, batch: int) -> Mapping[str, Any]:
    return next(latency for latency in record["latencies"] if latency["batch"] == batch)


def _server_row(subject: Subject, artifact: Artifact, bench: Bench, done: Measurements) -> Row:
    alone = Rounds("time", subject.name, bench, done, subject.problem)
    http = Rounds("http", subject.name, bench, done, subject.problem)
    family = family_of(subject.folder.name)
    figures: dict[str, Measured] = {
        name: alone.figure("s", lambda record, name=name: record[name])  # type: ignore[misc]
        for name in ("import", "load", "first_call")
    }
    figures |= alone.latencies("") | http.latencies("http_")
    figures["http_overhead"] = _overhead(alone, http)
    figures["cold_start"] = http.figure("s", lambda record: record["cold_start"])
    figures["memory"] = alone.figure("B", lambda record: record["memory"] - record["bare"])
    figures["service_memory"] = http.figure("B", lambda record: record["memory"])
    figures["installed"] = installed(family)
    figures["ship"] = _sum(artifact.figures["disk"], figures["installed"])
    figures["image"] = image(f"rosetta-serve/{FORMATS[family].image}")
    threads = bench.settings.threads
    backend = f"CPU, threads: {threads}" if family != "tfjs" else "wasm, SIMD, threads: 1"
    return Row(f"{subject.name}@server", subject.name, "server", alone.text("runtime"), backend, figures)


def _sum(*parts: Measured) -> Measured:
    """The sum of counts of bytes; missing if one of them is."""
    missing = [part for part in parts if isinstance(part, Missing)]
    return (
        missing[0] if missing else exact(sum(part.value for part in parts if isinstance(part, Figure)), "B", len(parts))
    )


def _overhead(alone: Rounds, http: Rounds) -> Measured:
    """The overhead of HTTP in a call with one picture: the difference within each round."""
    rounds = alone.records.keys() & http.records.keys()
    if not rounds:
        return alone.missing if not alone.records else http.missing
    values = [_of_batch(http.records[n], 1)["p50"] - _of_batch(alone.records[n], 1)["p50"] for n in sorted(rounds)]
    return over_rounds(values, "s", sum(_of_batch(http.records[n], 1)["calls"] for n in rounds))


def _browser_rows(subject: Subject, bench: Bench, done: Measurements) -> Iterable[Row]:
    family = family_of(subject.folder.name)
    for runtime, title in RUNTIMES.get(family, {}).items():
        name = f"{subject.name}@{runtime}"
        rounds = Rounds("browser", name, bench, done, subject.problem)
        calls: Callable[[Record], int] = lambda record: record["calls"]  # noqa: E731
        figures = {
            f"{percent}@1": rounds.figure("s", lambda record, percent=percent: record[percent], calls)  # type: ignore[misc]
            for percent in ("p50", "p95", "p99")
        }
        figures["page"] = rounds.figure("s", lambda record: record["page"])
        figures["page_download"] = rounds.figure("B", lambda record: record["page_download"])
        figures["first_answer"] = rounds.figure("s", lambda record: record["first_answer"])
        figures["runtime_download"] = rounds.figure("B", lambda record: record["runtime_download"])
        figures["model_download"] = rounds.figure("B", lambda record: record["model_download"])
        figures["download"] = rounds.figure("B", lambda record: record["runtime_download"] + record["model_download"])
        figures["difference"] = rounds.figure("", lambda record: record["difference"])
        figures["clock"] = rounds.figure("s", lambda record: record["resolution"])
        figures["per_sample"] = rounds.figure("", lambda record: record["calls_per_sample"])
        browser = FORMATS[family].browser
        version = bench.machine.versions.get(browser.package, "") if browser else ""
        yield Row(name, subject.name, "browser", f"{title} {version}".strip(), rounds.text("backend"), figures)


def _training(bench: Bench, artifacts: Mapping[str, Artifact], done: Measurements) -> Sequence[Training]:
    trainings = []
    for source in bench.subjects:
        task = f"fault-{source.folder.name}"
        fault = done.results.get(task) or {
            "message": done.failures.get(task, "The deliberate error was not made."),
            "where": "",
        }
        if source.manifest and source.folder.name in SCRIPTS and (training := compare_training(source.folder, fault)):
            accuracy = artifacts[source.name].figures["accuracy"]
            trainings.append(dataclasses.replace(training, figures={**training.figures, "accuracy": accuracy}))
    return trainings
