"""Artifacts on disk -> models that can be run.

A damaged artifact is not loaded; the others still are. Loading happens in the process that serves, after it was
forked: runtimes have threads.
"""

import functools
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from contract.behaviour import read_behaviour
from contract.errors import ArtifactError, ModelUnavailable, UnknownModel
from contract.failed_edge import FailedEdge, read_failed_edges
from contract.formats import FORMATS, family_of
from contract.manifest import MANIFEST, Manifest, read_manifest, verify_files
from contract.parity_result import Status, read_status
from serve.protocol.oip_reader import RequestReader
from serve.remote.runtime import RemoteRuntime
from serve.runtimes import Runtime, load_runtime
from serve.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """An artifact and its runtime, or the reason why it has none."""

    name: str
    folder: Path
    manifest: Manifest | None
    status: Status
    source: str | None
    """The served name of the model's source artifact; None when this is the source, or there is none."""
    loaded: Runtime | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    """The bytes of each file, as they were when it was loaded."""
    failure: str = ""
    """Why it could not be loaded."""
    mixing: str = "whether rows depend on each other was never tried; run `make verify`"
    """Why requests must not share a call; empty where each row's answer was shown to depend on that row alone."""

    @property
    def error(self) -> str:
        """Why it cannot be run now; empty when it can. A remote's trouble may pass."""
        return self.loaded.trouble if isinstance(self.loaded, RemoteRuntime) else self.failure

    @property
    def ready(self) -> bool:
        return self.loaded is not None and not self.error

    def check_runnable(self) -> None:
        """Raise ModelUnavailable when the artifact could not be loaded, or its remote does not answer."""
        if self.loaded is None or self.error:
            raise ModelUnavailable(f"{self.name} is not served: {self.error}")

    @property
    def runtime(self) -> Runtime:
        """What runs the model. Raises ModelUnavailable as `check_runnable` does."""
        self.check_runnable()
        return cast(Runtime, self.loaded)

    @functools.cached_property
    def reader(self) -> RequestReader:
        """What reads the requests of the Open Inference Protocol. Raises ModelUnavailable as `described` does."""
        return RequestReader(self.described)

    @property
    def described(self) -> Manifest:
        """The manifest. Raises ModelUnavailable when it could not be read."""
        if self.manifest is None:
            raise ModelUnavailable(f"{self.name} is not served: {self.error}")
        return self.manifest


class Catalog(Mapping[str, ServedModel]):
    """The served models by name, in a fixed order: by model, then as `FORMATS` has them."""

    def __init__(self, models: list[ServedModel], failed_edges: Iterable[FailedEdge] = ()) -> None:
        self._models = {model.name: model for model in models}
        self.failed_edges = {edge.name: edge for edge in failed_edges if edge.name not in self._models}
        """The failed conversions by the names that their artifacts would have; without those that succeeded later."""

    def __getitem__(self, name: str) -> ServedModel:
        """Raises UnknownModel, which names the known models, or ModelUnavailable if the model's conversion failed."""
        try:
            return self._models[name]
        except KeyError:
            if edge := self.failed_edges.get(name):
                raise ModelUnavailable(
                    f"There is no {name}: its conversion from {edge.parent} failed. {edge.reason}"
                ) from None
            known = ", ".join(self._models) or "none"
            raise UnknownModel(f"No model is named {name[:100]!r}. Served here: {known}.") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def close(self) -> None:
        """Close every runtime."""
        for model in self._models.values():
            if model.loaded is not None:
                model.loaded.close()


def load_catalog(artifacts: Path, settings: Settings = Settings()) -> Catalog:  # noqa: B008 - it is frozen
    """Load every artifact in `artifacts` of the settings' formats, warmed up with one row."""
    folders = find_artifacts(artifacts, settings.formats)
    failed = [
        edge
        for edge in read_failed_edges(artifacts)
        if not settings.formats or family_of(edge.format) in settings.formats
    ]
    return Catalog([load_model(folder, settings) for folder in sorted(folders, key=_order)], failed)


def find_artifacts(artifacts: Path, formats: Collection[str] = ()) -> list[Path]:
    """Every folder with a manifest, of these formats if any are given; not the hidden ones, which are half-written."""
    folders = [path.parent for path in artifacts.glob(f"*/*/{MANIFEST}")]
    return [
        folder
        for folder in folders
        if not (folder.name.startswith(".") or folder.parent.name.startswith("."))
        and (not formats or family_of(folder.name) in formats)
    ]


def load_model(folder: Path, settings: Settings = Settings()) -> ServedModel:  # noqa: B008 - it is frozen
    """Load one artifact; what is wrong with it is in its `error`, and in the log."""
    name = f"{folder.parent.name}-{folder.name}"
    manifest, status, source = None, Status("failed", ""), None
    try:
        manifest = read_manifest(folder)
        if manifest.name != name:
            raise ModelUnavailable(f"{folder / MANIFEST} is the manifest of {manifest.name}, expected {name}")
        status, source = read_status(folder), _source(folder, manifest)
        behaviour = read_behaviour(folder)
        if behaviour and behaviour.unsteady:
            raise ModelUnavailable(f"{name} {behaviour.unsteady_words}")
        known = {} if behaviour is None else {"mixing": behaviour.mixing}
        if address := settings.remotes.get(family_of(folder.name)):  # the files may lie only there
            remote = RemoteRuntime(address, manifest, settings.timeout)
            return ServedModel(name, folder, manifest, status, source, remote, remote.sizes, **known)
        verify_files(folder, manifest)
        sizes = {file: (folder / file).stat().st_size for file in manifest.files}
        runtime = load_runtime(folder, manifest, settings.threads)
    except (ArtifactError, ModelUnavailable, OSError) as error:
        log.warning("%s is not served: %s", name, error)
        return ServedModel(name, folder, manifest, Status("failed", str(error)), source, failure=str(error))
    return ServedModel(name, folder, manifest, status, source, runtime, sizes, **known)


def _order(folder: Path) -> tuple[str, int, str]:
    return folder.parent.name, _place(folder.name), folder.name


def _place(format: str) -> int:
    """The place of its family in the table of formats; a format that is not in the table comes last."""
    return list(FORMATS).index(family) if (family := family_of(format)) in FORMATS else len(FORMATS)


def _source(folder: Path, manifest: Manifest) -> str | None:
    """Follow the parents up to the artifact that has none."""
    name = manifest.format
    for _ in FORMATS:
        parent = manifest.parent
        if parent is None:
            return None if name == folder.name else f"{manifest.model}-{name}"
        try:
            name, manifest = parent, read_manifest(folder.with_name(parent))
        except (ArtifactError, OSError):
            return None
    return None
