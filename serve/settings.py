"""Every setting of the service, read from the environment once, at start."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from contract.errors import RosettaError
from contract.image import MAX_PIXELS


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

    @classmethod
    def from_environment(cls) -> Self:
        """Raises SettingError for a value that is no number, or none in range."""
        return cls(
            artifacts=Path(os.environ.get("ARTIFACTS") or cls.artifacts),
            host=os.environ.get("HOST") or cls.host,
            port=_number("PORT", cls.port, 1, 65535),
            threads=_number("SERVE_THREADS", cls.threads, 1, 1024),
            max_bytes=_number("SERVE_MAX_BYTES", cls.max_bytes, 1, 2**40),
            max_pixels=_number("SERVE_MAX_PIXELS", cls.max_pixels, 1, 2**32),
        )


def _number(name: str, default: int, least: int, most: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isascii() or not text.isdigit() or len(text) > 20 or not least <= int(text) <= most:
        raise SettingError(f"{name}={text[:40]} cannot be used: expected a whole number from {least} to {most}.")
    return int(text)
