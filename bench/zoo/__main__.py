"""Bring every architecture of the zoo, and make a table of the formats that it was converted to.

    python -m bench.zoo vit_tiny_torch lstm_keras     some of them (default: all), as `make zoo ZOO="..."`
    python -m bench.zoo --write docs/zoo.md
    python -m bench.zoo --precision int8,fp16 --write docs/zoo.md       the table of variants of reduced precision

Results are kept in `build/zoo/results` and `build/zoo/variants`: an interrupted run continues, and a model is measured
again when code changed.
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

from bench.edges import COMPARED_HERE, converted, read_edges, reasons_and_routes
from bench.zoo.models import SMALL, ZOO
from bench.zoo.variants import read_variant, variants_table
from bring.walk import Reduced, bring
from compare.latency import THREADS
from compare.machine import this_machine
from compare.measure import run_child
from compare.store import Record, Store
from compare.tables import write_tables
from contract import dataset
from contract.cell.sandbox import GIB, Limits
from contract.code import LOCK, ROOT, digest, files_of
from contract.errors import RosettaError, one_line
from contract.precisions import NONE

FOLDER = ROOT / "build" / "zoo"
PICTURES, OF_VARIANTS = 200, 600
"""How many are brought with: a fifth calibrates variants, and the others have to be enough to show a class."""
SIDE = 224
"""Pixels of a side of the pictures that are written."""
CODE = ("bench.zoo.models", "bring.*", "export.*", "verify.parity", "serve.runtimes.*")
"""The modules that a row depends on."""


def main() -> None:
    """The command line. An error in one model becomes a row of the table, and does not stop the others."""
    parser = argparse.ArgumentParser(prog="python -m bench.zoo", description="Bring real architectures.")
    parser.add_argument("models", nargs="*", default=list(ZOO), help=f"some of {', '.join(ZOO)} (default: all)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where files, artifacts and results are kept")
    parser.add_argument("--pictures", type=int, help=f"for parity ({PICTURES}, with variants {OF_VARIANTS})")
    parser.add_argument("--precision", default=NONE, help="variants to make too: all, or some, such as int8,fp16")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table into this Markdown page as well")
    options = parser.parse_args()
    if unknown := [name for name in options.models if name not in ZOO | SMALL]:
        sys.exit(f"error: {', '.join(unknown)}: no such model. Known: {', '.join(ZOO)}.")
    try:
        is_of_variants = options.precision != NONE
        pictures = options.pictures or (OF_VARIANTS if is_of_variants else PICTURES)
        measure_all(options.models, options.folder, pictures, precision=options.precision)
        records = results(options.folder, options.precision)
        lines = list(variants_table(records) if is_of_variants else table(records))
        if options.write:
            write_tables(options.write, {"variants" if is_of_variants else "zoo": lines})
    except RosettaError as error:
        sys.exit(f"error: {error}")
    print("\n".join(lines))


def measure_all(
    names: Sequence[str], folder: Path, pictures: int, timed: Sequence[str] | None = None, precision: str = NONE
) -> None:
    """Bring and measure each model that this code did not measure yet. `timed` are the formats to time; None: all.

    Raises DataError if there are no pictures, and PrecisionError for a precision that is none.
    """
    reduced = Reduced(precision)
    store, code, run = (
        Store(_kept_in(folder, precision)),
        digest([*files_of(*CODE), LOCK]),
        time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    )
    data = write_pictures(folder / f"pictures-{pictures}", pictures)
    for name in names:
        about = {"code": code, "pictures": pictures, "precisions": list(reduced.formats)}
        if store.get(name, about) is None:
            print(f"{name}: {(ZOO | SMALL)[name].title}", flush=True)
            try:
                result = measure(name, folder, data, timed, reduced)
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


def measure(name: str, folder: Path, data: Path, timed: Sequence[str] | None, reduced: Reduced) -> dict[str, Any]:
    """Write a model's file, bring it, and measure its artifacts. Raises RosettaError or RuntimeError."""
    run_child("bench.zoo.models", name, str(folder / "files" / name), str(data))
    (file,) = (folder / "files" / name).glob(f"{name}.*")
    artifacts = folder / "artifacts"
    shutil.rmtree(artifacts / name, ignore_errors=True)
    options = {"data": str(data.resolve())} if (ZOO | SMALL)[name].size else {}
    cost = bring(file, name, artifacts, options, Limits(), reduced)
    assert cost is not None  # nothing of it was there
    source, edges = read_edges(artifacts, name)
    for format, edge in edges.items():
        if "bytes" in edge and (timed is None or format in timed):
            edge["p50"] = _p50(artifacts / name / format)
    variants = {format: read_variant(artifacts, name, format, _p50) for format in reduced.formats}
    return {
        "source": source.format,
        "seconds": cost.seconds,
        "peak": cost.peak,
        "edges": edges,
        "precisions": {format: each for format, each in variants.items() if each},
    }


def _p50(folder: Path) -> float:
    """The median seconds of a call of the bare runtime with one row."""
    timing = json.loads(run_child("compare.latency", str(folder), "--batches", "1").splitlines()[-1])
    return float(timing["latencies"][0]["p50"])


# --- The table


def results(folder: Path, precision: str = NONE) -> dict[str, Record]:
    """The result of each model, by name, in the zoo's order, whatever code it is from."""
    files = {name: _kept_in(folder, precision) / f"{name}.json" for name in ZOO | SMALL}
    return {name: json.loads(file.read_bytes())["measured"] for name, file in files.items() if file.is_file()}


def _kept_in(folder: Path, precision: str) -> Path:
    """Times of variants are compared with those of their own run, so runs with them are apart."""
    return folder / ("results" if precision == NONE else "variants")


def table(records: Mapping[str, Record]) -> Iterator[str]:
    """A row for each model; then what fails and why, what did not take the first route, and the machine."""
    names = ("model", "input", "source", *COMPARED_HERE, "brought in", "memory", "run")
    yield from _lines([names, ["---"] * len(names), *(_row(name, record) for name, record in records.items())])
    yield from reasons_and_routes(records)
    yield from ("", *_summary(records))


def _row(name: str, record: Record) -> list[str]:
    member = (ZOO | SMALL)[name]
    entry = f"{member.size} px" if member.size else "tensors"
    if "error" in record:
        return [member.title, entry, "FAILED", *[""] * (len(COMPARED_HERE) + 2), record["run"]]
    edges, source = record["edges"], record["source"]
    cells = [_cell(edges[format]) if format in edges else "" for format in COMPARED_HERE]
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
    convolutional = [bool(edge.get("passed")) for _, _, edge in converted(networks)]
    convolutional += [False for record in networks.values() if "error" in record for _ in COMPARED_HERE]
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
