"""What a process apart costs: a request to a small model in each format, and the load that a slower model carries."""

import contextlib
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path

from bench.serving import load, slow_model
from bench.serving.calls import Model
from bench.serving.environments import CACHE
from bench.serving.result import Row
from bench.serving.setting import Setting
from compare import servers
from compare.servers import Server
from contract.formats import FORMATS, is_installed, needs
from contract.manifest import BROUGHT, MANIFEST

REQUEST = "A request to a small model, 1 connection"
MODELS = ("keras_cnn", "torch_cnn")
SIDE = 48
"""Of the slower model's pictures: about 5 ms each."""
CONNECTIONS, WORKERS = 8, 2
MICROSECONDS, SHARE = 60, 0.95
"""The targets."""


def requests_and_load(setting: Setting) -> list[Row]:
    return [*_requests(setting), *_load(setting)]


def _requests(setting: Setting) -> list[Row]:
    """One connection: what is between the medians is what a request costs more."""
    artifacts = CACHE / "brought"
    shutil.rmtree(artifacts, ignore_errors=True)
    folders = [_copy(folder, artifacts) for folder in small_models(setting.all_artifacts)]
    rows = []
    with _both(artifacts, workers=1) as both:
        for folder in folders:
            call = Model(folder, setting.model.inputs[:1]).binary(1)
            loads = load.in_turns(both, call, 1, 1, 2 * setting.rounds + 1)
            apart, own = (1000 * statistics.median(each.p50 for each in loads[name]) for name in both)
            figures = {"us apart": apart, "us in the service": own, "us more": apart - own}
            rows.append(Row(REQUEST, folder.name, figures, None, f"<= {MICROSECONDS} us", apart - own <= MICROSECONDS))
    return rows


def small_models(artifacts: Path) -> list[Path]:
    """One artifact of each format, where there is one and its runtime is installed: some runtimes are optional."""
    folders = [
        artifacts / model / format
        for format in FORMATS
        if is_installed(format) and not needs(format)
        for model in reversed(MODELS)
    ]
    made = {folder.name: folder for folder in folders if (folder / MANIFEST).exists()}
    return list(made.values())


def _copy(folder: Path, artifacts: Path) -> Path:
    """An artifact that the service takes for somebody else's."""
    copy = shutil.copytree(folder, artifacts / folder.parent.name / folder.name)
    (copy.parent / BROUGHT).touch()
    return copy


@contextlib.contextmanager
def _both(artifacts: Path, workers: int) -> Iterator[dict[str, Server]]:
    with (
        servers.ours(artifacts, workers, SERVE_ISOLATION="1") as apart,
        servers.ours(artifacts, workers, SERVE_ISOLATION="0") as own,
    ):
        yield {"a process apart": apart, "in the service": own}


def _load(setting: Setting) -> list[Row]:
    artifacts = CACHE / "apart"
    model = slow_model.write(artifacts, SIDE)
    (model.folder.parent / BROUGHT).touch()  # the service takes it for somebody else's
    measure = f"A model of {1000 * slow_model.seconds(model):.1f} ms, {CONNECTIONS} connections"
    with _both(artifacts, WORKERS) as both:
        loads = load.in_turns(both, model.binary(1), CONNECTIONS, setting.seconds, setting.rounds)
        figures = {name: load.figures(loads[name], server) for name, server in both.items()}
    ratio = load.ratio(*loads.values())
    reached = ratio >= SHARE and not figures["a process apart"]["errors"]
    return [
        Row(measure, "a process apart", figures["a process apart"]),
        Row(measure, "in the service", figures["in the service"], ratio, f">= {SHARE:g}x", reached),
    ]
