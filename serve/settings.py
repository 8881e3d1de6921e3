"""Every setting of the service, read from the environment once, at start."""

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from contract import __version__
from contract.errors import RosettaError
from contract.formats import FORMATS

RELEASE = __version__
PAGE = Path(__file__).resolve().parent.parent / "web" / "dist"


class SettingError(RosettaError):
    """An environment variable has a value that cannot be used."""


@dataclass(frozen=True)
class Settings:
    """The defaults serve the page on this machine alone."""

    artifacts: Path = Path("artifacts")
    """ARTIFACTS: the folder of artifacts."""
    host: str = "127.0.0.1"
    """HOST: the address to listen on."""
    port: int = 8000
    """PORT: the port to listen on."""
    grpc_port: int = 0
    """GRPC_PORT: the port for gRPC; none where it is 0."""
    threads: int = 1
    """SERVE_THREADS: how many threads one runtime computes with. One is best for small models and single pictures."""
    max_bytes: int = 32_000_000
    """SERVE_MAX_BYTES: the largest request body, in bytes."""
    max_pixels: int = 50_000_000
    """SERVE_MAX_PIXELS: the largest picture, in pixels."""
    max_held: int = 512_000_000
    """SERVE_MAX_HELD: bytes of bodies, and of decoded pictures, that all requests in one worker may hold."""
    workers: int = 1
    """SERVE_WORKERS: worker processes. Each holds every model, so a second one costs their memory once more."""
    batching: bool = True
    """SERVE_BATCHING: 0 makes each request a call of its own."""
    max_batch: int = 16
    """SERVE_MAX_BATCH: rows that are run together at most, unless one request has more."""
    max_queue: int = 4096
    """SERVE_MAX_QUEUE: rows that may wait for one model in one worker; more are refused with 503."""
    max_requests: int = 0
    """SERVE_MAX_REQUESTS: requests that may be under way in one worker; 0 for no limit."""
    max_connections: int = 1000
    """SERVE_MAX_CONNECTIONS: connections to one worker."""
    caller_connections: int = 0
    """SERVE_CALLER_CONNECTIONS: connections of one address to one worker; 0 for no limit."""
    caller_requests: int = 0
    """SERVE_CALLER_REQUESTS: requests of one key, or of one address, under way in one worker; 0 for no limit."""
    caller_rows: int = 0
    """SERVE_CALLER_ROWS: rows of one caller under way in one worker; 0 for no limit."""
    caller_bytes: int = 0
    """SERVE_CALLER_BYTES: bytes of bodies of one caller under way in one worker; 0 for no limit."""
    batch_delay: int = 0
    """SERVE_BATCH_DELAY_US: microseconds that a slow model waits for more rows before it starts a small batch."""
    timeout: int = 30
    """SERVE_TIMEOUT: seconds within which a request is answered, or refused with 504."""
    access_log: bool = False
    """SERVE_ACCESS_LOG: 1 writes a line of JSON to standard output for each request."""
    state: Path | None = None
    """SERVE_STATE: a folder in which several workers share their counts; several make one where it is left out."""
    hosts: tuple[str, ...] = ()
    """SERVE_HOSTS: further names by which the service may be called, such as `models.example.org`; `*` for any."""
    cors: tuple[str, ...] = ()
    """SERVE_CORS: origins whose pages may call the service, such as `https://app.example.org`."""
    ready: str = "all"
    """SERVE_READY: `any` makes the service ready as soon as one model can be run; `all` waits for all that should."""
    keys_file: Path | None = None
    """SERVE_KEYS_FILE: the file of the keys that callers need; without it, everybody may call."""
    open_health: bool = True
    """SERVE_OPEN_HEALTH: 0 makes the health checks need a key, where there is a SERVE_KEYS_FILE."""
    open_metrics: bool = False
    """SERVE_OPEN_METRICS: 1 gives the metrics to callers without a key."""
    remote_key: str | None = None
    """SERVE_REMOTE_KEY: the key that a gateway sends to its remotes."""
    tls_cert: Path | None = None
    """SERVE_TLS_CERT: the certificate, and those that vouch for it, as PEM."""
    tls_key: Path | None = None
    """SERVE_TLS_KEY: the key of the certificate, as PEM."""
    control: bool = False
    """SERVE_CONTROL: 1 lets callers load and unload the artifacts of the folder."""
    versions: int = 1
    """SERVE_VERSIONS: how many versions of each artifact are served: the newest ones."""
    formats: tuple[str, ...] = ()
    """SERVE_FORMATS: the formats that are served, such as `onnx,tflite`; all where it is left out."""
    remotes: Mapping[str, str] = field(default_factory=dict)
    """SERVE_REMOTES: format -> the address of the service that runs it, such as `onnx=http://serve-onnx:8000`."""
    isolation: str = "1"
    """SERVE_ISOLATION: 1 runs brought models in processes apart, `all` all models, and 0 none."""
    isolation_bytes: int = 0
    """SERVE_ISOLATION_BYTES: how much memory a process apart may have, which takes a control group; 0: no limit."""
    trust: bool = False
    """SERVE_TRUST: 1 serves a model that does more than compute, if its manifest says that TRUST=1 let it pass."""

    @classmethod
    def from_environment(cls) -> Self:
        """Raises SettingError for a value that is not a number in range, and for a SERVE_* that is not a setting."""
        settings = cls(
            artifacts=Path(_text("ARTIFACTS") or cls.artifacts),
            host=_text("HOST") or cls.host,
            port=_number("PORT", cls.port, 1, 65535),
            grpc_port=_number("GRPC_PORT", cls.grpc_port, 0, 65535),
            threads=_number("SERVE_THREADS", cls.threads, 1, 1024),
            max_bytes=_number("SERVE_MAX_BYTES", cls.max_bytes, 1, 2**40),
            max_pixels=_number("SERVE_MAX_PIXELS", cls.max_pixels, 1, 2**32),
            max_held=_number("SERVE_MAX_HELD", cls.max_held, 1, 2**50),
            workers=_number("SERVE_WORKERS", cls.workers, 1, 256),
            batching=bool(_number("SERVE_BATCHING", int(cls.batching), 0, 1)),
            max_batch=_number("SERVE_MAX_BATCH", cls.max_batch, 1, 4096),
            max_queue=_number("SERVE_MAX_QUEUE", cls.max_queue, 1, 2**20),
            max_requests=_number("SERVE_MAX_REQUESTS", cls.max_requests, 0, 2**30),
            max_connections=_number("SERVE_MAX_CONNECTIONS", cls.max_connections, 1, 2**20),
            caller_connections=_number("SERVE_CALLER_CONNECTIONS", cls.caller_connections, 0, 2**20),
            caller_requests=_number("SERVE_CALLER_REQUESTS", cls.caller_requests, 0, 2**30),
            caller_rows=_number("SERVE_CALLER_ROWS", cls.caller_rows, 0, 2**30),
            caller_bytes=_number("SERVE_CALLER_BYTES", cls.caller_bytes, 0, 2**50),
            batch_delay=_number("SERVE_BATCH_DELAY_US", cls.batch_delay, 0, 10**6),
            timeout=_number("SERVE_TIMEOUT", cls.timeout, 1, 3600),
            access_log=bool(_number("SERVE_ACCESS_LOG", int(cls.access_log), 0, 1)),
            state=_path("SERVE_STATE"),
            hosts=_hosts(_text("SERVE_HOSTS")),
            cors=_origins(_text("SERVE_CORS")),
            ready=_one_of("SERVE_READY", cls.ready, "all", "any"),
            keys_file=_path("SERVE_KEYS_FILE"),
            open_health=bool(_number("SERVE_OPEN_HEALTH", int(cls.open_health), 0, 1)),
            open_metrics=bool(_number("SERVE_OPEN_METRICS", int(cls.open_metrics), 0, 1)),
            remote_key=_key(_text("SERVE_REMOTE_KEY")),
            tls_cert=_path("SERVE_TLS_CERT"),
            tls_key=_path("SERVE_TLS_KEY"),
            control=bool(_number("SERVE_CONTROL", int(cls.control), 0, 1)),
            versions=_number("SERVE_VERSIONS", cls.versions, 1, 1000),
            formats=_formats(_text("SERVE_FORMATS")),
            remotes=dict(map(_remote, _listed(_text("SERVE_REMOTES")))),
            isolation=_one_of("SERVE_ISOLATION", cls.isolation, "0", "1", "all"),
            isolation_bytes=_number("SERVE_ISOLATION_BYTES", cls.isolation_bytes, 0, 2**50),
            trust=bool(_number("SERVE_TRUST", int(cls.trust), 0, 1)),
        )
        _refuse_unknown()
        return settings

    @property
    def calls(self) -> int:
        """How many calls a worker runs at once: all workers' together fill the machine, and more would only wait."""
        return max(1, (os.cpu_count() or 1) // self.threads // self.workers)


_known: set[str] = set()
"""The variables that were read: what else is called SERVE_* is a mistake."""


def _text(name: str) -> str:
    _known.add(name)
    return os.environ.get(name) or ""


def _one_of(name: str, default: str, *choices: str) -> str:
    text = _text(name) or default
    if text not in choices:
        expected = f"{', '.join(choices[:-1])} or {choices[-1]}"
        raise SettingError(f"{name}={text[:40]} cannot be used: expected {expected}.")
    return text


def _path(name: str) -> Path | None:
    return Path(text) if (text := _text(name)) else None


def _key(text: str) -> str | None:
    if not re.fullmatch(r"[!-~]*", text):
        raise SettingError("SERVE_REMOTE_KEY cannot be used: a key is of letters, digits, `-` and `_`.")
    return text or None


def _refuse_unknown() -> None:
    # Kubernetes gives a container SERVE_ONNX_PORT_8000_TCP and the like for each service beside it, such as serve-onnx.
    links = re.compile(r"SERVE_\w+_(PORT(_\d+_\w+)?|SERVICE_(HOST|PORT)(_\w+)?)")
    for name in os.environ:
        if name.startswith("SERVE_") and name not in _known and not links.fullmatch(name):
            settings = sorted(known.removeprefix("SERVE_") for known in _known if known.startswith("SERVE_"))
            nearest = difflib.get_close_matches(name.removeprefix("SERVE_"), settings, 1)
            question = f" Did you mean SERVE_{nearest[0]}?" if nearest else ""
            listed = ", ".join(f"SERVE_{known}" for known in settings)
            raise SettingError(f"{name} is not a setting of the service.{question} The settings are {listed}.")


def _number(name: str, default: int, least: int, most: int) -> int:
    text = _text(name) or str(default)
    if not text.isascii() or not text.isdigit() or len(text) > 20 or not least <= int(text) <= most:
        raise SettingError(f"{name}={text[:40]} cannot be used: expected a whole number from {least} to {most}.")
    return int(text)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _hosts(text: str) -> tuple[str, ...]:
    hosts = tuple(_listed(text))
    if wrong := [host for host in hosts if host != "*" and not re.fullmatch(r"[\w.-]+", host, re.ASCII)]:
        raise SettingError(
            f"SERVE_HOSTS={text[:80]} cannot be used: {wrong[0]!r} is not a name, such as models.example.org."
        )
    return hosts


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(_listed(text))
    if wrong := [origin for origin in origins if not re.fullmatch(r"https?://[\w.-]+(:\d+)?", origin, re.ASCII)]:
        raise SettingError(
            f"SERVE_CORS={text[:80]} cannot be used: {wrong[0]!r} is not an origin, such as https://app.example.org."
        )
    return origins


def _formats(text: str) -> tuple[str, ...]:
    formats = tuple(_listed(text))
    if unknown := [name for name in formats if name not in FORMATS]:
        raise SettingError(
            f"SERVE_FORMATS={text[:80]} cannot be used: {unknown[0]!r} is not one of {', '.join(FORMATS)}."
        )
    return formats


def _remote(entry: str) -> tuple[str, str]:
    """`onnx=http://host:8000` -> the format and the address."""
    format, _, address = entry.partition("=")
    try:
        parts = urlsplit(address)
        is_address = parts.scheme == "http" and bool(parts.hostname) and parts.port != 0
        is_address = is_address and address.rstrip("/") == f"http://{parts.netloc}" and "@" not in parts.netloc
    except ValueError:  # a port that is not a number
        is_address = False
    if format not in FORMATS or not is_address or not address.isascii() or " " in address:
        raise SettingError(
            f"SERVE_REMOTES={entry[:80]} cannot be used: expected FORMAT=http://HOST:PORT, the formats being "
            f"{', '.join(FORMATS)}, with commas between them."
        )
    return format, address.rstrip("/")
