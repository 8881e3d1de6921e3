"""python -m bench.serving: measure the service, print the tables, write build/bench-serve.json."""

import argparse
import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.serving import batching, efficiency, isolation, memory, photos, restarts, result, rpc, startup, throughput
from bench.serving.calls import Model
from bench.serving.environments import CACHE, wrk
from bench.serving.result import Row
from bench.serving.setting import Setting
from bring.verdict.artifact import judge_again
from compare.machine import this_machine
from compare.tables import write_tables
from contract import dataset
from contract.cell.command import insist_on_own
from contract.errors import RosettaError
from contract.manifest import read_manifest

RESULT = Path("build/bench-serve.json")

MEASURES: dict[str, Callable[[Setting], list[Row]]] = {
    "json": throughput.json_against_fastapi,
    "binary": throughput.binary_against_fastapi,
    "large": throughput.large_bodies_against_fastapi,
    "keys": throughput.with_keys,
    "grpc": rpc.grpc_against_http,
    "servers": throughput.against_frameworks,
    "photo": photos.large_photo,
    "efficiency": efficiency.cpu_time_an_image,
    "memory": memory.flat_memory,
    "batching": batching.slow_model_batched,
    "isolation": isolation.requests_and_load,
    "start": startup.one_model,
    "all": startup.every_artifact,
    "restarts": restarts.reloaded_and_killed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=_names, default=list(MEASURES), help=f"some of {','.join(MEASURES)}")
    parser.add_argument("--seconds", type=float, default=5, help="of load in each round (5)")
    parser.add_argument("--rounds", type=int, default=5, help="how often servers take turns (5)")
    parser.add_argument("--artifacts", type=Path, default=Path(os.environ.get("ARTIFACTS") or "artifacts"))
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write the table into this Markdown page as well")
    arguments = parser.parse_args()
    try:
        setting = _setting(arguments)
        wrk()
        rows = [row for name in arguments.only for row in _measure(name, setting)]
        if arguments.write:
            measured_on = f"Measured on {this_machine()}, {arguments.rounds} rounds of {arguments.seconds:g} s."
            write_tables(arguments.write, {"serving": [*result.markdown(rows), "", measured_on]})
    except (RosettaError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    settings = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version()}
    result.write(RESULT, rows, settings | {"seconds": arguments.seconds, "rounds": arguments.rounds})
    print(f"\nWritten to {RESULT}. Targets missed: {sum(row.reached is False for row in rows)}.")


def _measure(name: str, setting: Setting) -> list[Row]:
    rows = MEASURES[name](setting)
    print(result.table(rows), flush=True)
    return rows


def _setting(arguments: argparse.Namespace) -> Setting:
    """The first test pictures, and a folder with the Keras model as ONNX alone."""
    pictures = dataset.load("fashion_mnist", "test", 320).images.astype(np.float32)
    artifacts = CACHE / "model"
    shutil.rmtree(artifacts, ignore_errors=True)
    original = arguments.artifacts / "keras_cnn" / "onnx"
    insist_on_own(original.parent)
    judge_again(original, read_manifest(original))
    folder = shutil.copytree(original, artifacts / "keras_cnn" / "onnx")
    return Setting(arguments.artifacts, artifacts, Model(folder, pictures), arguments.seconds, arguments.rounds)


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - MEASURES.keys():
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(MEASURES)}")
    return names


if __name__ == "__main__":
    main()
