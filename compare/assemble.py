"""From the measurements of all rounds to one report: every figure with its spread, or the reason why it is missing."""

import dataclasses
import datetime
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from compare import answers
from compare.answers import AnswersByBatch
from compare.browser import runtimes_of
from compare.devices import device_rows
from compare.figures import Figure, Measured, Missing, exact, once, over_rounds, share, shown, within_rounds
from compare.footprint import file_figures, image, installed
from compare.latency import BATCHES
from compare.marks import marked
from compare.measure import Bench, Measurements, Subject, downloads_agree
from compare.metrics import COMPUTE, START, SYSTEM, metric
from compare.recommend import TARGETS
from compare.report import SCHEMA, Artifact, Report, Row, Target, Training
from compare.requests import FORMS
from compare.store import Record
from compare.training import SCRIPTS, compare_training
from contract.errors import ParityError
from contract.formats import FORMATS, family_of, is_reduced, needs, proven_on, why_no_time
from contract.ledger import read_ledger
from contract.manifest import MANIFEST, sha256_of
from contract.parity_result import BatchParity, ParityResult, read_status


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
    report = Report(
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
        devices=device_rows(bench.folder, [each.manifest for each in bench.subjects if each.manifest]),
        paces=_paces(bench, done),
        code=bench.code,
    )
    return marked(report)


def targets_for(request: str, report: Report) -> Mapping[str, Target]:
    """The targets, where a server is asked in this form.

    Without labels, agreement counts as accuracy. A model of something else than pictures is timed without HTTP.
    """
    form = FORMS[request]
    time, label = form.figure, f"the median time of a request with one picture as {form.title}"
    if not _any_has(report, "http_p50@1"):
        time, label = "p50@1", "the median time of one row on the runtime alone"
    targets = {**TARGETS, "server": dataclasses.replace(TARGETS["server"], time=time, time_label=label)}
    accuracy = "accuracy" if _any_has(report, "accuracy") else "agreement"
    return {name: dataclasses.replace(target, accuracy=accuracy) for name, target in targets.items()}


def _any_has(report: Report, figure: str) -> bool:
    """Whether a row on the server has this figure, or none has any time to compare."""
    rows = [name for name, row in report.rows.items() if row.where == "server" and not report.missing(name, "p50@1")]
    return not rows or any(not report.missing(name, figure) for name in rows)


def _paces(bench: Bench, done: Measurements) -> Mapping[str, Measured]:
    """How fast the machine was: each kind of work over the rounds, in each the median beside all rows."""
    figures = {}
    for kind, measurement in ((COMPUTE, "time"), (SYSTEM, "http"), (START, "http")):
        rounds = [
            [
                float(record["pace"][kind])
                for subject in bench.subjects
                if (record := done.results.get(f"{measurement}-{subject.name}-{round}"))
            ]
            for round in range(bench.rounds)
        ]
        if values := [statistics.median(times) for times in rounds if times]:
            figures[kind] = within_rounds(values, "s", sum(map(len, rounds)))
    return figures


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
    status = read_status(subject.folder)
    parity = status.parity
    figures["verified"] = once(parity.seconds, "s") if parity else Missing("`make verify` has not verified it.")
    source = _source(subject, bench)
    parts = _elsewhere(format, parity) if needs(format) else _answered(subject, source, bench, done)
    figures |= parts.pop("figures")
    return Artifact(
        name=subject.name,
        model=model,
        format=format,
        source=None if source is subject or source is None else source.name,
        sha256=sha256_of(subject.folder / MANIFEST),
        figures=figures,
        ledger=read_ledger(subject.folder) if is_reduced(format) else None,
        status=status.word,
        differs=tuple(map(str, parity.differs)) if parity else (),
        placements=parity.placements if parity else (),
        arm=status.arm,
        outlook=FORMATS[family_of(format)].outlook,
        **{"proven_on": proven_on(format), **parts},
    )


def _labels(subject: Subject) -> tuple[str, ...]:
    return subject.manifest.labels if subject.manifest else ()


def _source(subject: Subject, bench: Bench) -> Subject | None:
    """The model's source artifact; for the source, itself."""
    of_model = [other for other in bench.subjects if other.manifest and other.folder.parent == subject.folder.parent]
    return next((other for other in of_model if other.manifest and other.manifest.is_source), None)


def _elsewhere(format: str, parity: ParityResult | None) -> dict[str, Any]:
    """The verdict and figures of an artifact that another system alone runs: what `make verify` judged of it."""
    why = why_no_time(format)
    figures: dict[str, Measured] = {"accuracy": Missing(why), "agreement": Missing(why)}
    if parity is None:
        return {"verdict": f"not compared: {why}", "figures": figures, "needs": needs(format)}
    figures["agreement"] = exact(parity.agreement, "share", parity.images)
    verdict = "passed" if parity.passed else "; ".join(parity.reasons)
    return {"verdict": verdict, "figures": figures, "proven_on": f"{parity.system} ({parity.processor})"}


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
        "right": answers.pack_right(own, questions),
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
    figures["accuracy_change"] = change = answers.accuracy_change(theirs, own, questions)
    if is_reduced(subject.folder.name):
        figures["points_lost"] = answers.points_lost(change)
    figures |= answers.parity_figures(parity, questions.count)
    return parts | {
        "verdict": _reduced_verdict(subject, figures) or _verdict(theirs, own, parity, questions.tolerance),
        "flips": tuple(flips[: answers.GALLERY]),
        "flip_count": len(flips),
    }


def _verdict(source: AnswersByBatch, own: AnswersByBatch, parity: tuple[BatchParity, ...], tolerance: float) -> str:
    """The word `passed`, or why the artifact did not pass: at a batch size, or else in a large call."""
    verdict = answers.verdict(parity, tolerance)
    return verdict if verdict != "passed" else answers.wrong_in_a_large_call(source, own, tolerance) or verdict


def _reduced_verdict(subject: Subject, figures: dict[str, Measured]) -> str:
    """The class of a reduced precision, as its parity result says, and the figure of it; empty for another artifact."""
    if not is_reduced(subject.folder.name):
        return ""
    parity = read_status(subject.folder).parity
    if parity is None or parity.kept is None:
        return "not compared: `make verify` has not verified it."
    kept = parity.kept
    figures["kept"] = Figure(kept.share, "share", kept.low, kept.high, kept.rows, "95% interval of the paired answers")
    return f"passed at {100 * kept.limit:g} %" if parity.passed else "; ".join(parity.reasons)


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
        self, name: str, unit: str, take: Callable[[Record], float], calls: Callable[[Record], int] = lambda _: 1
    ) -> Measured:
        """The median over the rounds of the value that `take` gives for each; `calls` gives its number of calls."""
        values, samples = [take(record) for record in self.records.values()], sum(map(calls, self.records.values()))
        return over_rounds(values, unit, samples, metric(name).reach) if values else self.missing

    def text(self, key: str) -> str:
        """A text of the first round; empty if there is none."""
        return next((str(record[key]) for record in self.records.values()), "")

    def latencies(self, prefix: str) -> dict[str, Measured]:
        """Percentiles at batch sizes 1 and 64, and pictures per second at each batch size."""
        figures: dict[str, Measured] = {}
        measured = {latency["batch"] for record in self.records.values() for latency in record["latencies"]}
        for batch in BATCHES:
            unit_of = {"throughput": "1/s"} | (dict.fromkeys(("p50", "p95", "p99"), "s") if batch in (1, 64) else {})
            for name, unit in unit_of.items():
                key = "rows_per_second" if name == "throughput" else name
                if self.records and batch not in measured:
                    figures[f"{prefix}{name}@{batch}"] = Missing("The model is called as a whole, without rows.")
                    continue
                figures[f"{prefix}{name}@{batch}"] = self.figure(
                    f"{prefix}{name}",
                    unit,
                    lambda record, batch=batch, key=key: _of_batch(record, batch)[key],  # type: ignore[misc]
                    lambda record, batch=batch: _of_batch(record, batch)["calls"],  # type: ignore[misc]
                )
        return figures


def _of_batch(record: Record, batch: int) -> Mapping[str, Any]:
    return next(latency for latency in record["latencies"] if latency["batch"] == batch)


def _server_row(subject: Subject, artifact: Artifact, bench: Bench, done: Measurements) -> Row:
    family = family_of(subject.folder.name)
    problem = subject.problem or why_no_time(family)
    alone, http = (Rounds(kind, subject.name, bench, done, problem) for kind in ("time", "http"))
    figures: dict[str, Measured] = {
        name: alone.figure(name, "s", lambda record, name=name: record[name])  # type: ignore[misc]
        for name in ("import", "load", "first_call")
    }
    figures |= alone.latencies("") | http.latencies("http_")
    figures |= _forms(http)
    figures["http_overhead"] = _overhead(alone, http)
    figures["cold_start"] = http.figure("cold_start", "s", lambda record: record["cold_start"])
    figures["memory"] = alone.figure("memory", "B", lambda record: record["memory"] - record["bare"])
    figures["service_memory"] = http.figure("service_memory", "B", lambda record: record["memory"])
    figures["installed"] = installed(family)
    figures["ship"] = _sum(artifact.figures["disk"], figures["installed"])
    figures["image"] = _image(family)
    threads = bench.settings.threads
    backend = f"CPU, threads: {threads}" if family != "tfjs" else "wasm, SIMD, threads: 1"
    runtime = alone.text("runtime") or (FORMATS[family].runtime if why_no_time(family) else "")
    return Row(f"{subject.name}@server", subject.name, "server", runtime, backend, figures)


def _image(family: str) -> Measured:
    name = FORMATS[family].image
    return image(f"rosetta-serve/{name}") if name else Missing("No image serves this format: its runtime is optional.")


def _forms(http: Rounds) -> dict[str, Measured]:
    """One picture in each form of a request besides the binary one, which every batch size has."""
    figures: dict[str, Measured] = {}
    for name, form in FORMS.items():
        if name == "binary":
            continue
        if http.records and not all(name in record["forms"] for record in http.records.values()):
            figures[form.figure] = Missing("It does not classify pictures, so it takes no file of one.")
        else:
            figures[form.figure] = http.figure(
                form.figure,
                "s",
                lambda record, name=name: record["forms"][name]["p50"],  # type: ignore[misc]
                lambda record, name=name: record["forms"][name]["calls"],  # type: ignore[misc]
            )
    return figures


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
    samples = sum(_of_batch(http.records[n], 1)["calls"] for n in rounds)
    return over_rounds(values, "s", samples, metric("http_overhead").reach)


def _browser_rows(subject: Subject, bench: Bench, done: Measurements) -> Iterable[Row]:
    family = family_of(subject.folder.name)
    for runtime, title in runtimes_of(subject.folder.name).items():
        name = f"{subject.name}@{runtime}"
        rounds = Rounds("browser", name, bench, done, subject.problem)
        calls: Callable[[Record], int] = lambda record: record["calls"]  # noqa: E731
        figures = {
            f"{percent}@1": rounds.figure(percent, "s", lambda record, percent=percent: record[percent], calls)  # type: ignore[misc]
            for percent in ("p50", "p95", "p99")
        }
        figures["page"] = rounds.figure("page", "s", lambda record: record["page"])
        figures["page_download"] = rounds.figure("page_download", "B", lambda record: record["page_download"])
        figures["first_answer"] = rounds.figure("first_answer", "s", lambda record: record["first_answer"])
        figures |= _downloads(rounds) | _in_browser(subject, rounds, bench)
        figures["difference"] = rounds.figure("difference", "", lambda record: record["difference"])
        figures["clock"] = rounds.figure("clock", "s", lambda record: record["resolution"])
        figures["per_sample"] = rounds.figure("per_sample", "", lambda record: record["calls_per_sample"])
        browser = FORMATS[family].browser
        version = bench.machine.versions.get(browser.package, "") if browser else ""
        yield Row(name, subject.name, "browser", f"{title} {version}".strip(), rounds.text("backend"), figures)


def _downloads(rounds: Rounds) -> dict[str, Measured]:
    """Bytes on the wire; missing where the rounds do not agree on them."""
    parts = ("runtime_download", "model_download")
    sums = [record[parts[0]] + record[parts[1]] for record in rounds.records.values()]
    if sums and not downloads_agree(sums):
        text = (
            f"Its rounds brought from {shown(min(sums), 'B')} to {shown(max(sums), 'B')}, so its download is unknown."
        )
        return dict.fromkeys((*parts, "download"), Missing(text))
    figures = {part: rounds.figure(part, "B", lambda record, part=part: record[part]) for part in parts}  # type: ignore[misc]
    return figures | {"download": rounds.figure("download", "B", lambda record: record[parts[0]] + record[parts[1]])}


def _in_browser(subject: Subject, rounds: Rounds, bench: Bench) -> dict[str, Measured]:
    """How many pictures keep the class there that they have on the server, and how many are right there."""
    recorded = next((record["classes"] for record in rounds.records.values() if "classes" in record), None)
    if recorded is None:
        return dict.fromkeys(("browser_agreement", "browser_accuracy"), rounds.missing)
    classes, labels = np.array(recorded), bench.questions(subject).labels
    server = answers.most(bench.answers(subject))[: len(classes)].argmax(axis=1)
    right = answers.UNKNOWN if labels is None else share(int((classes == labels[: len(classes)]).sum()), len(classes))
    return {"browser_agreement": share(int((classes == server).sum()), len(classes)), "browser_accuracy": right}


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
