"""Bring every architecture of the zoo, and make a table of the formats that it was converted to.

    python -m bench.zoo vit_tiny_torch lstm_keras     some of them (default: all), as `make zoo ZOO="..."`
    python -m bench.zoo --write docs/zoo.md

Results are kept in `build/zoo/results`: an interrupted run continues, and a model is measured again when code changed.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.zoo.models import SMALL, ZOO
from bring.sandbox import GIB, Limits
from bring.search import reachable
from bring.walk import bring
from compare.latency import THREADS
from compare.machine import this_machine
from compare.measure import run_child
from compare.store import Record, Store
from compare.tables import write_tables
from contract import dataset
from contract.code import LOCK, ROOT, digest, files_of
from contract.errors import RosettaError, one_line
from contract.failed_edge import read_failed_edges
from contract.manifest import MANIFEST, read_manifest
from contract.parity_result import read_status
from export import EXPORTED, find_routes

FOLDER = ROOT / "build" / "zoo"
SIDE = 224
"""Pixels of a side of the pictures that are written."""
CODE = ("bench.zoo.models", "bring.*", "export.*", "verify.parity", "serve.runtimes.*")
"""The modules that a row depends on."""


def main() -> None:
    """The command line. An error in one model becomes a row of the table, and does not stop the others."""
    parser = argparse.ArgumentParser(prog="python -m bench.zoo", description="Bring real architectures.")
    parser.add_argument("models", nargs="*", default=list(ZOO), help=f"some of {', '.join(ZOO)} (default: all)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where files, artifacts and results are kept")
    parser.add_argument("--pictures", type=int, default=200, help="number of pictures for parity (%(default)s)")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table into this Markdown page as well")
    options = parser.parse_args()
    if unknown := [name for name in options.models if name not in ZOO | SMALL]:
        sys.exit(f"error: {', '.join(unknown)}: no such model. Known: {', '.join(ZOO)}.")
    try:
        measure_all(options.models, options.folder, options.pictures)
        lines = list(table(results(options.folder)))
        if options.write:
            write_tables(options.write, {"zoo": lines})
    except RosettaError as error:
        sys.exit(f"error: {error}")
    print("\n".join(lines))


def measure_all(names: Sequence[str], folder: Path, pictures: int, timed: Sequence[str] | None = None) -> None:
    """Bring and measure each model that this code did not measure yet. `timed` are the formats to time; None: all.

    Raises DataError if there are no pictures.
    """
    store, code, run = (
        Store(folder / "results"),
        digest([*files_of(*CODE), LOCK]),
        time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    )
    data = write_pictures(folder / f"pictures-{pictures}", pictures)
    for name in names:
        about = {"code": code, "pictures": pictures}
        if store.get(name, about) is None:
            print(f"{name}: {(ZOO | SMALL)[name].title}", flush=True)
            try:
                result = measure(name, folder, data, timed)
            except (RosettaError, RuntimeError, OSError) as error:
                result = {"error": one_line(error)}
                print(f"{name}: {result['error']}", flush=True)
            store.put(name, about, {"run": run, "machine": str(this_machine()), **result})


def write_pictures(folder: Path, count: int) -> Path:
    """Fashion-MNIST's first test pictures, enlarged, one subfolder for each class."""
    split = dataset.load("fashion_mnist", "test", count)
    for number, (pixels, label) in enumerate(zip(split.images, split.labels, strict=True)):
        file = folder / str(label) / f"{number}.png"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(np.asarray(pixels).squeeze()).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            picture.convert("RGB").save(file)
    return folder


def measure(name: str, folder: Path, data: Path, timed: Sequence[str] | None) -> dict[str, Any]:
    """Write a model's file, bring it, and measure its artifacts. Raises RosettaError or RuntimeError."""
    run_child("bench.zoo.models", name, str(folder / "files" / name), str(data))
    (file,) = (folder / "files" / name).glob(f"{name}.*")
    artifacts = folder / "artifacts"
    shutil.rmtree(artifacts / name, ignore_errors=True)
    options = {"data": str(data.resolve())} if (ZOO | SMALL)[name].size else {}
    cost = bring(file, name, artifacts, options, Limits())
    assert cost is not None  # nothing of it was there
    reasons = {edge.format: edge for edge in read_failed_edges(artifacts) if edge.model == name}
    source = next(
        manifest
        for path in (artifacts / name).glob(f"*/{MANIFEST}")
        if (manifest := read_manifest(path.parent)).is_source
    )
    edges: dict[str, dict[str, Any]] = {}
    for format in (source.format, *(edge.format for edge in reachable(source.format))):
        artifact = artifacts / name / format
        if not (artifact / MANIFEST).exists():
            failed = reasons[format]
            edges[format] = {"reason": " ".join(filter(None, (failed.reason, failed.cause, failed.advice)))}
            continue
        manifest, parity = read_manifest(artifact), read_status(artifact).parity
        edges[format] = {
            "bytes": sum((artifact / part).stat().st_size for part in manifest.files),
            "route": _route(manifest.parent, format, manifest.made_with.get("route")),
        }
        if timed is None or format in timed:
            edges[format]["p50"] = _p50(artifact)
        if parity:
            edges[format] |= {"passed": parity.passed, "off": parity.max_abs_diff, "reason": "; ".join(parity.reasons)}
    return {"source": source.format, "seconds": cost.seconds, "peak": cost.peak, "edges": edges}


def _p50(folder: Path) -> float:
    """The median seconds of a call of the bare runtime with one row."""
    timing = json.loads(run_child("compare.latency", str(folder), "--batches", "1").splitlines()[-1])
    return float(timing["latencies"][0]["p50"])


def _route(parent: str | None, format: str, taken: str | None) -> str:
    """The name of the route, or "" if it was the edge's first."""
    return "" if parent is None or taken in (None, find_routes(parent, format)[0].name) else str(taken)


# --- The table


def results(folder: Path) -> dict[str, Record]:
    """The result of each model, by name, in the zoo's order, whatever code it is from."""
    files = {name: folder / "results" / f"{name}.json" for name in ZOO | SMALL}
    return {name: json.loads(file.read_bytes())["measured"] for name, file in files.items() if file.is_file()}


def table(records: Mapping[str, Record]) -> Iterator[str]:
    """A row for each model; then what fails and why, what did not take the first route, and the machine."""
    names = ("model", "input", "source", *EXPORTED, "brought in", "memory", "run")
    yield from _lines([names, ["---"] * len(names), *(_row(name, record) for name, record in records.items())])
    reasons = [
        f"- `{name}-{format}`: {edge['reason']}"
        for name, format, edge in _edges(records)
        if not edge.get("passed") and "reason" in edge
    ]
    errors = [f"- `{name}`: {record['error']}" for name, record in records.items() if "error" in record]
    routes = [f"- `{name}-{format}`: {edge['route']}" for name, format, edge in _edges(records) if edge.get("route")]
    for title, lines in (("What fails, and why", errors + reasons), ("Not by the first route", routes)):
        if lines:
            yield from ("", f"{title}:", "", *lines)
    yield from ("", *_summary(records))


def _edges(records: Mapping[str, Record]) -> Iterator[tuple[str, str, Record]]:
    for name, record in records.items():
        for format, edge in record.get("edges", {}).items():
            if format != record["source"]:
                yield name, format, edge


def _row(name: str, record: Record) -> list[str]:
    member = (ZOO | SMALL)[name]
    entry = f"{member.size} px" if member.size else "tensors"
    if "error" in record:
        return [member.title, entry, "FAILED", *[""] * (len(EXPORTED) + 2), record["run"]]
    edges, source = record["edges"], record["source"]
    cells = [_cell(edges[format]) if format in edges else "" for format in EXPORTED]
    cost = f"{record['seconds']:.0f} s", f"{record['peak'] / GIB:.1f} GiB"
    return [member.title, entry, f"{source}: {_figures(edges[source])}", *cells, *cost, record["run"]]


def _cell(edge: Record) -> str:
    if "bytes" not in edge:
        return "FAILED"
    return f"{'passed' if edge['passed'] else 'FAILED'} {edge['off']:.0e} / {_figures(edge)}"


def _figures(edge: Record) -> str:
    time = f" / {1000 * edge['p50']:.3g} ms" if "p50" in edge else ""
    return f"{edge['bytes'] / 1e6:.3g} MB{time}"


def _summary(records: Mapping[str, Record]) -> Iterator[str]:
    networks = {name: record for name, record in records.items() if (ZOO | SMALL)[name].kind == "convolutions"}
    convolutional = [bool(edge.get("passed")) for _, _, edge in _edges(networks)]
    convolutional += [False for record in networks.values() if "error" in record for _ in EXPORTED]
    if convolutional:
        share = sum(convolutional) / len(convolutional)
        yield f"Of the convolutional networks' edges {sum(convolutional)} of {len(convolutional)} pass ({share:.1%})."
    if left := [name for name in ZOO if name not in records]:
        yield f"Not run: {', '.join(left)}."
    for machine in sorted({record["machine"] for record in records.values()}):
        yield f"Measured on {machine}, {THREADS} thread a runtime."


def _lines(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    return (f"| {' | '.join(cells)} |" for cells in rows)


if __name__ == "__main__":
    main()
