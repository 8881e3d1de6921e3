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
from contract.image import MAX_PIXELS
from serve.runtimes import RUNTIMES

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
    threads: int = 1
    """SERVE_THREADS: how many threads one runtime computes with. One is best for small models and single pictures."""
    max_bytes: int = 32_000_000
    """SERVE_MAX_BYTES: the largest request body, in bytes."""
    max_pixels: int = MAX_PIXELS
    """SERVE_MAX_PIXELS: the largest picture, in pixels."""
    workers: int = 1
    """SERVE_WORKERS: worker processes. Each holds every model, so a second one costs their memory once more."""
    batching: bool = True
    """SERVE_BATCHING: 0 makes each request a call of its own."""
    max_batch: int = 16
    """SERVE_MAX_BATCH: rows that are run together at most, unless one request has more."""
    max_queue: int = 4096
    """SERVE_MAX_QUEUE: rows that may wait for one model in one worker; more are refused with 503."""
    batch_delay: int = 0
    """SERVE_BATCH_DELAY_US: microseconds that a slow model waits for more rows before it starts a small batch."""
    timeout: int = 30
    """SERVE_TIMEOUT: seconds within which a request is answered, or refused with 504."""
    access_log: bool = False
    """SERVE_ACCESS_LOG: 1 writes a line of JSON to standard output for each request."""
    state: Path | None = None
    """SERVE_STATE: a folder in which several workers share their counts; several make one where it is left out."""
    formats: tuple[str, ...] = ()
    """SERVE_FORMATS: the formats that are served, such as `onnx,tflite`; all where it is left out."""
    remotes: Mapping[str, str] = field(default_factory=dict)
    """SERVE_REMOTES: format -> the address of the service that runs it, such as `onnx=http://serve-onnx:8000`."""

    @classmethod
    def from_environment(cls) -> Self:
        """Raises SettingError for a value that is not a number in range, and for a SERVE_* that is not a setting."""
        settings = cls(
            artifacts=Path(_text("ARTIFACTS") or cls.artifacts),
            host=_text("HOST") or cls.host,
            port=_number("PORT", cls.port, 1, 65535),
            threads=_number("SERVE_THREADS", cls.threads, 1, 1024),
            max_bytes=_number("SERVE_MAX_BYTES", cls.max_bytes, 1, 2**40),
            max_pixels=_number("SERVE_MAX_PIXELS", cls.max_pixels, 1, 2**32),
            workers=_number("SERVE_WORKERS", cls.workers, 1, 256),
            batching=bool(_number("SERVE_BATCHING", int(cls.batching), 0, 1)),
            max_batch=_number("SERVE_MAX_BATCH", cls.max_batch, 1, 4096),
            max_queue=_number("SERVE_MAX_QUEUE", cls.max_queue, 1, 2**20),
            batch_delay=_number("SERVE_BATCH_DELAY_US", cls.batch_delay, 0, 10**6),
            timeout=_number("SERVE_TIMEOUT", cls.timeout, 1, 3600),
            access_log=bool(_number("SERVE_ACCESS_LOG", int(cls.access_log), 0, 1)),
            state=Path(state) if (state := _text("SERVE_STATE")) else None,
            formats=_formats(_text("SERVE_FORMATS")),
            remotes=dict(map(_remote, _listed(_text("SERVE_REMOTES")))),
        )
        _refuse_unknown()
        return settings


_known: set[str] = set()
"""The variables that were read: what else is called SERVE_* is a mistake."""


def _text(name: str) -> str:
    _known.add(name)
    return os.environ.get(name) or ""


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


def _formats(text: str) -> tuple[str, ...]:
    formats = tuple(_listed(text))
    if unknown := [name for name in formats if name not in RUNTIMES]:
        raise SettingError(
            f"SERVE_FORMATS={text[:80]} cannot be used: {unknown[0]!r} is not one of {', '.join(RUNTIMES)}."
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
    if format not in RUNTIMES or not is_address or not address.isascii() or " " in address:
        raise SettingError(
            f"SERVE_REMOTES={entry[:80]} cannot be used: expected FORMAT=http://HOST:PORT, the formats being "
            f"{', '.join(RUNTIMES)}, with commas between them."
        )
    return format, address.rstrip("/")
