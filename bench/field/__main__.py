"""Bring the models that people published, each by the ordinary command, and make a table of what came of them.

    python -m bench.field magika centerface     some of them (default: all), as `make field ONLY="..."`
    python -m bench.field --write docs/field.md

Results are kept in `build/field/results`: an interrupted run continues, and a model is brought again when code changed.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from bench.edges import COMPARED_HERE, converted, read_edges, reasons_and_routes
from bench.field.package import Listed, fetch, read_list
from compare.machine import this_machine
from compare.store import Record, Store
from compare.tables import write_tables
from contract.cell.sandbox import GIB
from contract.code import LOCK, ROOT, digest, files_of
from contract.errors import RosettaError, one_line, shortened
from contract.manifest import MANIFEST
from contract.precisions import NONE

FOLDER = ROOT / "build" / "field"
MINUTES = 15.0
CODE = ("bring.*", "export.*", "verify.*", "serve.runtimes.*")
"""The modules that a row depends on."""
LONGEST = 500
"""Characters of an error that the table has."""
LATE = "It took longer than"
"""How the error begins of a command that was ended."""
GRACE_SECONDS = 30
"""For a command that is ended, to remove what it made."""


def main() -> None:
    """The command line. An error in one model becomes a row of the table, and does not stop the others."""
    try:
        models = read_list()
    except RosettaError as error:
        sys.exit(f"error: {error}")
    parser = argparse.ArgumentParser(prog="python -m bench.field", description="Bring models that people published.")
    parser.add_argument("models", nargs="*", default=list(models), help="some of them, by name (default: all)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where packages, artifacts and results are kept")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="limit of time for a model (%(default)s)")
    parser.add_argument("--stored", action="store_true", help="bring nothing: tabulate what was brought before")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table into this Markdown page as well")
    options = parser.parse_args()
    if unknown := [name for name in options.models if name not in models]:
        sys.exit(f"error: {', '.join(unknown)}: no such model. Known: {', '.join(models)}.")
    if not options.stored:
        measure_all([models[name] for name in options.models], options.folder, options.minutes)
    try:
        lines = list(table(models, results(options.folder, models)))
        if options.write:
            write_tables(options.write, {"field": lines})
    except RosettaError as error:
        sys.exit(f"error: {error}")
    print("\n".join(lines))


def measure_all(models: Sequence[Listed], folder: Path, minutes: float) -> None:
    """Bring each model that this code did not bring yet."""
    store, code = Store(folder / "results"), digest([*files_of(*CODE), LOCK])
    run = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    for model in models:
        about = {
            "code": code,
            "minutes": minutes,
            "model": [*model.files, model.version, *model.settings.items(), model.toml],
        }
        about = json.loads(json.dumps(about))  # as it is stored
        if store.get(model.name, about) is None:
            print(f"{model.name}: {model.about}", flush=True)
            try:
                result = measure(model, folder, minutes)
            except (RosettaError, OSError) as error:
                result = {"error": one_line(error)}
            print(f"{model.name}: {_outcome(result)}", flush=True)
            store.put(model.name, about, {"run": run, "machine": str(this_machine()), **result})


def measure(model: Listed, folder: Path, minutes: float) -> dict[str, Any]:
    """Fetch a model and bring it. Raises RosettaError where it cannot be fetched, or its artifacts cannot be read."""
    file, artifacts = fetch(model, folder), folder / "artifacts"
    shutil.rmtree(artifacts / model.name, ignore_errors=True)
    command = [sys.executable, "-m", "bring", str(file), "--artifacts", str(artifacts), "--name", model.name]
    command += ["--precision", NONE]  # the table has no column for variants
    for name, value in model.settings.items():
        command += [f"--{name}", value]
    start = time.monotonic()
    message, peak = _ended(command, 60 * minutes)
    result: dict[str, Any] = {"seconds": time.monotonic() - start, "peak": peak}
    if not any((artifacts / model.name).glob(f"*/{MANIFEST}")):
        # The command names the file, and where it lies here says nothing to anybody.
        return result | {"error": message.removeprefix(f"{file.name}: ").replace(f"{file.parent}/", "")}
    source, edges = read_edges(artifacts, model.name)
    return result | {"source": source.format, "edges": edges}


def _ended(command: Sequence[str], seconds: float) -> tuple[str, int]:
    """The command's last error, and the most resident bytes that its children took."""
    with tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as output:
        child = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=errors, start_new_session=True)
        deadline, ended_at, late = time.monotonic() + seconds, None, f"{LATE} {seconds / 60:.0f} minutes."
        while True:
            process, _, usage = os.wait4(child.pid, os.WNOHANG)
            if process:
                break
            if ended_at is None and time.monotonic() > deadline:
                ended_at = time.monotonic()
                child.send_signal(signal.SIGTERM)
            elif ended_at is not None and time.monotonic() > ended_at + GRACE_SECONDS:
                child.kill()
            time.sleep(0.2)
        child.returncode = 0  # it was waited for here
        log, printed = map(_content, (errors, output))
    message = late if ended_at else _message(log)
    return message, _peak(printed) or 1024 * usage.ru_maxrss


def _content(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read().decode(errors="replace")


def _peak(printed: str) -> int:
    """The memory that the command says its children took, in bytes; 0 where it came to no end."""
    known = re.search(r", at most ([\d.]+) GiB of memory$", printed, re.MULTILINE)
    return int(float(known[1]) * GIB) if known else 0


def _message(log: str) -> str:
    """The first error of what a command wrote, in one line."""
    _, *errors = re.split(r"^error: ", log, flags=re.MULTILINE)
    return shortened(" ".join(errors[0].split()), LONGEST) if errors else "It ended without a word."


def results(folder: Path, models: Mapping[str, Listed]) -> dict[str, Record]:
    """The result of each model, by name, in the list's order, whatever code it is from."""
    files = {name: folder / "results" / f"{name}.json" for name in models}
    return {name: json.loads(file.read_bytes())["measured"] for name, file in files.items() if file.is_file()}


def _outcome(result: Record) -> str:
    if "error" in result:
        return f"refused: {result['error']}"
    edges = [edge for _, _, edge in converted({"": result})]
    return f"{sum(bool(edge.get('passed')) for edge in edges)} of {len(edges)} edges pass, {result['seconds']:.0f} s"


# --- The table


def table(models: Mapping[str, Listed], records: Mapping[str, Record]) -> Iterator[str]:
    """A row for each model; then what fails and why, what did not take the first route, and the machine."""
    names = ("model", "what it is", "source", *COMPARED_HERE, "took", "memory", "run")
    rows = [_row(models[name], record) for name, record in records.items()]
    yield from (f"| {' | '.join(cells)} |" for cells in (names, ["---"] * len(names), *rows))
    yield from reasons_and_routes(records)
    yield from ("", *_summary(models, records))


def _row(model: Listed, record: Record) -> list[str]:
    cost = [f"{record['seconds']:.0f} s", f"{record['peak'] / GIB:.1f} GiB"] if "seconds" in record else ["", ""]
    about = f"`{model.name}`", model.about
    if "error" in record:
        return [
            *about,
            "not in time" if record["error"].startswith(LATE) else "refused",
            *[""] * len(COMPARED_HERE),
            *cost,
            record["run"],
        ]
    edges = record["edges"]
    cells = [_cell(edges[format]) if format in edges and format != record["source"] else "" for format in COMPARED_HERE]
    return [*about, record["source"], *cells, *cost, record["run"]]


def _cell(edge: Record) -> str:
    if "bytes" not in edge:
        return "FAILED"
    return f"{'passed' if edge['passed'] else 'FAILED'} {edge['off']:.0e}"


def _summary(models: Mapping[str, Listed], records: Mapping[str, Record]) -> Iterator[str]:
    taken = [record for record in records.values() if "error" not in record]
    passed = [bool(edge.get("passed")) for _, _, edge in converted(records)]
    if records:
        yield f"Of {len(records)} models {len(taken)} are accepted; of their {len(passed)} edges {sum(passed)} pass."
    if left := [name for name in models if name not in records]:
        yield f"Not run: {', '.join(left)}."
    for machine in sorted({record["machine"] for record in records.values()}):
        yield f"Run on {machine}."


if __name__ == "__main__":
    main()
