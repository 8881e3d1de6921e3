"""Artifacts on disk -> models that can be run.

An artifact that is damaged, or would do more than compute, is not loaded; the others still are. Loading happens in the
process that serves, after it was forked: runtimes have threads.
"""

import functools
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np

from bring.verdict.artifact import insist_on_artifact, is_trusted, source_of
from contract.behaviour import read_behaviour
from contract.errors import ArtifactError, BroughtError, ModelUnavailable, UnknownModel, one_line
from contract.failed_edge import FailedEdge, read_failed_edges
from contract.formats import FORMATS, family_of, why_not_run
from contract.ledger import Ledger, read_ledger
from contract.manifest import BROUGHT, MANIFEST, Manifest, read_manifest, verify_files
from contract.parity_result import FAILED, Status, read_status
from serve.apart.runtime import ApartRuntime
from serve.artifacts import NUMBER, find_versions
from serve.breaker import Breaker
from serve.protocol import VERSION
from serve.protocol.oip_reader import RequestReader
from serve.remote.runtime import RemoteRuntime
from serve.runtimes import Runtime, load_runtime, warm_up_inputs
from serve.settings import Settings

log = logging.getLogger(__name__)

NO_LIMIT = (
    "SERVE_ISOLATION_BYTES limits the memory of brought models by a control group, and the system lets this process "
    "make none. Set it to 0, and limit the memory of the whole service instead, or start it as a user that may."
)
NO_NAMESPACES = (
    "SERVE_ISOLATION=all runs every model in a process apart, and the system gives no namespaces, which keep it there. "
    "Set it to 1 to run models in the service where they have to."
)


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
    is_refused: bool = False
    """Whether it should not run: it would do more than compute, or gives other answers to the same question."""
    mixing: str = "whether rows depend on each other was never tried; run `make verify`"
    """Why requests must not share a call; empty where each row's answer was shown to depend on that row alone."""
    ledger: Ledger | None = None
    """What is in the file of a reduced precision; None for others, and where `make verify` did not look."""

    warm_up: str = ""
    """What is wrong with its answer to a row of zeros; empty where nothing is. A remote's own service says it."""

    breaker: Breaker = field(default_factory=Breaker, compare=False)
    """Whether it answers, where another process runs it."""
    version: str = VERSION

    @functools.cached_property
    def key(self) -> str:
        """What its queue and its counts go by: its name, and its version unless that is the first."""
        return self.name if self.version == VERSION else f"{self.name}:{self.version}"

    @property
    def error(self) -> str:
        """Why it cannot be run now; empty when it can. A remote's trouble may pass, and so may a process that hangs."""
        return (self.loaded.trouble if isinstance(self.loaded, RemoteRuntime) else self.failure) or self.breaker.trouble

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
    """The newest version of each served model by name, in a fixed order: by model, then as `FORMATS` has them."""

    def __init__(self, models: list[ServedModel], failed_edges: Iterable[FailedEdge] = ()) -> None:
        self._versions: dict[str, dict[str, ServedModel]] = {}
        for model in models:  # the newest is the last one
            self._versions.setdefault(model.name, {})[model.version] = model
        self._models = _newest(self._versions)
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

    def __contains__(self, name: object) -> bool:
        return name in self._models

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def version(self, name: str, version: str | None) -> ServedModel:
        """This version of a model, or the newest one; raises what `catalog[name]` does."""
        newest, versions = self[name], self._versions[name]
        if version is not None and version not in versions:
            known = ", ".join(versions)
            raise UnknownModel(f"{name} has no version {version[:40]!r} here. Served of it: {known}.")
        return newest if version is None else versions[version]

    def versions(self, name: str) -> list[ServedModel]:
        """All served versions of a model, the newest last; none of a model that is not served."""
        return list(self._versions.get(name, {}).values())

    def every_version(self) -> list[ServedModel]:
        """All served versions of all models."""
        return [model for versions in self._versions.copy().values() for model in versions.values()]

    def replace(self, versions: list[ServedModel]) -> list[ServedModel]:
        """Let the versions of a model take the places of those of its name, which are returned."""
        name = versions[-1].name
        old = self.versions(name)
        every = {**self._versions, name: {model.version: model for model in versions}}
        self._versions = {name: every[name] for name in sorted(every, key=_order)}
        self._models = _newest(self._versions)
        self.failed_edges.pop(name, None)
        return old

    def close(self) -> None:
        """Close every runtime."""
        for model in self.every_version():
            if model.loaded is not None:
                model.loaded.close()


def _newest(versions: Mapping[str, dict[str, ServedModel]]) -> dict[str, ServedModel]:
    return {name: list(each.values())[-1] for name, each in versions.items()}


def load_catalog(artifacts: Path, settings: Settings = Settings()) -> Catalog:  # noqa: B008 - it is frozen
    """Load the artifacts in `artifacts` of the settings' formats and number of versions, warmed up with one row."""
    versions = find_versions(artifacts, settings.formats, settings.versions)
    failed = [
        edge
        for edge in read_failed_edges(artifacts)
        if not settings.formats or family_of(edge.format) in settings.formats
    ]
    names = sorted(versions, key=_order)
    return Catalog([model for name in names for model in load_versions(name, versions[name], settings)], failed)


def load_versions(name: str, folders: Mapping[str, Path], settings: Settings) -> list[ServedModel]:
    """Load the versions of a model."""
    return [load_model(folder, settings, name, version) for version, folder in folders.items()]


def load_model(
    folder: Path,
    settings: Settings = Settings(),  # noqa: B008 - it is frozen
    name: str = "",
    version: str = VERSION,
) -> ServedModel:
    """Load one artifact; what is wrong with it is in its `error`, and in the log.

    Its name is that of its folders, unless it is given.
    """
    name = name or f"{folder.parent.name}-{folder.name}"
    manifest, status, source = None, Status(FAILED, ""), None
    try:
        manifest = read_manifest(folder)
        if manifest.name != name:
            raise ModelUnavailable(f"{folder / MANIFEST} is the manifest of {manifest.name}, expected {name}")
        status, source = read_status(folder), _source(folder, manifest)
        behaviour = read_behaviour(folder)
        if behaviour and behaviour.unsteady:
            raise BroughtError(f"{name} {behaviour.unsteady_words}")
        known: dict[str, Any] = {"version": version} | ({} if behaviour is None else {"mixing": behaviour.mixing})
        known["ledger"] = read_ledger(folder)
        if address := settings.remotes.get(family_of(folder.name)):  # the files may lie only there
            remote = RemoteRuntime(address, manifest, settings.timeout, settings.remote_key, version)
            return ServedModel(name, folder, manifest, status, source, remote, remote.sizes, **known)
        verify_files(folder, manifest)
        sizes = {file: (folder / file).stat().st_size for file in manifest.files}
        if why := why_not_run(manifest.format):
            log.info("%s is not served: %s.", name, why)
            known |= {"failure": f"{why}.", "is_refused": True}
            return ServedModel(name, folder, manifest, status, source, None, sizes, **known)
        runtime = _load(folder, manifest, source, settings)
        known["warm_up"] = _trouble_with_zeros(runtime, manifest)
    except (ArtifactError, BroughtError, ModelUnavailable, OSError) as error:
        log.warning("%s is not served: %s", name, error)
        refused = isinstance(error, BroughtError)
        failed = Status(FAILED, str(error))
        return ServedModel(
            name, folder, manifest, failed, source, failure=str(error), is_refused=refused, version=version
        )
    return ServedModel(name, folder, manifest, status, source, runtime, sizes, **known)


def _trouble_with_zeros(runtime: Runtime, manifest: Manifest) -> str:
    """How many values of the answer to zeros are not numbers. The model is served: other inputs may have answers."""
    try:
        outputs = runtime.predict(warm_up_inputs(manifest))
    except Exception as error:  # a runtime may raise anything; requests get the error
        trouble = f"it gave no answer to a row of zeros: {one_line(error)}"
    else:
        floats = {name: value for name, value in outputs.items() if value.dtype.kind == "f"}
        wrong = {name: count for name, value in floats.items() if (count := int(np.isnan(value).sum()))}
        if not wrong:
            return ""
        counts = ", ".join(f"{count} of {floats[name].size} in {name}" for name, count in wrong.items())
        trouble = f"its answer to a row of zeros has values that are not numbers (NaN): {counts}"
    log.warning("%s: %s. Run `make diagnose` on it.", manifest.name, trouble)
    return trouble


def _load(folder: Path, manifest: Manifest, source: str | None, settings: Settings) -> Runtime:
    """Judge an artifact, then load it. A brought one is left to a process apart, where the system has namespaces.

    Raises ArtifactError, BroughtError, ModelUnavailable.
    """
    trusted = settings.trust and is_trusted(folder, manifest)
    all_apart = settings.isolation == "all"
    if all_apart and not _has_namespaces():
        raise ModelUnavailable(NO_NAMESPACES)
    if all_apart or (settings.isolation == "1" and _is_brought(folder, manifest, source) and _has_namespaces()):
        if settings.isolation_bytes and not _has_groups():
            raise ModelUnavailable(NO_LIMIT)
        return ApartRuntime(folder, manifest, settings.threads, settings.calls, trusted, settings.isolation_bytes)
    insist_on_artifact(folder, manifest, trusted)
    return load_runtime(folder, manifest, settings.threads)


def _is_brought(folder: Path, manifest: Manifest, source: str | None) -> bool:
    """Whether somebody brought the model, as its source or the record beside it says. Raises ArtifactError."""
    if source is not None:
        manifest = read_manifest(folder.with_name(source.removeprefix(f"{manifest.model}-")))
    model = folder.parent.parent if NUMBER.fullmatch(folder.parent.name) else folder.parent
    return "brought" in manifest.made_with or any((place / BROUGHT).exists() for place in (folder.parent, model))


@functools.cache
def _has_namespaces() -> bool:
    from contract.cell import host  # a service without brought models starts without it

    if host.find_parts().is_apart:
        return True
    log.warning("No model runs in a process apart: the system gives no namespaces, which keep it there.")
    return False


@functools.cache
def _has_groups() -> bool:
    from contract.cell import groups

    return groups.find_place() is not None


def _order(name: str) -> tuple[str, int, str]:
    model, _, format = name.partition("-")
    return model, _place(format), format


def _place(format: str) -> int:
    """The place of its family in the table of formats; a format that is not in the table comes last."""
    return list(FORMATS).index(family) if (family := family_of(format)) in FORMATS else len(FORMATS)


def _source(folder: Path, manifest: Manifest) -> str | None:
    """The served name of its source; None when it is one itself, or there is none."""
    source = source_of(folder, manifest)
    return None if source is None or source == folder else f"{manifest.model}-{source.name}"
