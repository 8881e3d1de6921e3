"""Keys: who may call the service, and what.

A keys file has a line for each key: its name, the key's SHA-256, and what it may call.

    app      9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08   keras_cnn-*
    grafana  60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752   metrics
    admin    fd61a03af4f77d870fc21e05e7e80678095c92d44a4f9b2e6f6c2d5e9a6b6a4d   *

`python -m serve.keys NAME` makes one. A key is 256 random bits, which nobody can guess: its hash needs no salt.
"""

import base64
import binascii
import functools
import hashlib
import hmac
import os
import re
import secrets
import sys
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from contract.errors import RosettaError
from serve.settings import SettingError, Settings
from serve.watched import Watched

ANY = "server"
"""What every key may call: the page, and what describes the service."""

HEALTH, METRICS, COMPARE, REPOSITORY = "health", "metrics", "compare", "repository"
"""What a key may call besides models, whose names all have a `-`."""

MODEL_PATHS = re.compile(r"/(?:v2/models|predict)/([^/]+)|/v1/models/([^/:]+)|/artifacts/([^/]+)/([^/]+)")

LINE = re.compile(r"(?P<name>[\w.@-]+)\s+(?P<digest>[0-9a-f]{64})\s+(?P<calls>[\w*?,-]+)", re.ASCII)

CHALLENGE = 'Bearer realm="Rosetta Serve", Basic realm="Rosetta Serve", charset="UTF-8"'
"""Browsers know Basic alone: they ask for a name, which may be any, and for a password, which is the key."""


class KeyMissing(RosettaError):
    """A request has no key, or one that is not known."""


class CallRefused(RosettaError):
    """A key may not call what it called."""


@dataclass(frozen=True, slots=True, eq=False)  # an object's own hash takes no time
class Key:
    """A line of a keys file."""

    name: str
    digest: bytes
    """The SHA-256 of the key, which is not kept."""
    calls: tuple[str, ...]
    """What it may call: names of models, and the words above, each with `*` for any characters."""

    def may_call(self, called: str) -> bool:
        return called == ANY or any(fnmatchcase(called, pattern) for pattern in self.calls)


class Keys:
    """The keys of a file, which is read again when it changes; without a file, everybody may call everything."""

    def __init__(self, settings: Settings) -> None:
        self._keys: Mapping[bytes, Key] = {}
        self._open = {HEALTH} if settings.open_health else set()
        self._open |= {METRICS} if settings.open_metrics else set()
        self._path = settings.keys_file
        self.are_needed = self._path is not None
        self._watched = Watched([self._path], self._read) if self._path else None

    def look(self) -> None:
        """Read the file again if it changed. If it cannot be read, the keys stay as they are."""
        if self._watched is not None:
            self._watched.look()

    def _read(self) -> None:
        assert self._path is not None
        self._keys = {key.digest: key for key in read_keys(self._path)}
        self._found = functools.lru_cache(256)(self._find)
        self._may_call = functools.lru_cache(1024)(Key.may_call)

    def check(self, authorization: bytes, url: bytes) -> Key | None:
        """The key of a request by its header `Authorization`; None where the URL needs none.

        Raises KeyMissing or CallRefused.
        """
        called = called_by(url)
        if not self.are_needed or called in self._open:
            return None
        key = self._found(authorization)
        if key is None:
            raise KeyMissing(
                "The request has no key that is known here. Send 'Authorization: Bearer' and the key; "
                "`make key` on the service's machine makes one."
                if authorization
                else "The request has no key. Send 'Authorization: Bearer' and the key."
            )
        if not self._may_call(key, called):
            raise CallRefused(
                f"The key {key.name!r} may call {', '.join(key.calls)}, and not {called!r}. "
                "The third column of SERVE_KEYS_FILE says what a key may call."
            )
        return key

    def _find(self, authorization: bytes) -> Key | None:
        """The key that a header holds. Hashes are compared, and in constant time.

        The last headers are remembered: to look one up is to hash it, too, with a number that nobody knows.
        """
        scheme, _, value = authorization.partition(b" ")
        if scheme != b"Bearer":
            value = _value_of(scheme.lower(), value)
        digest = hashlib.sha256(value).digest()
        key = self._keys.get(digest)
        return key if key is not None and hmac.compare_digest(key.digest, digest) else None


def _value_of(scheme: bytes, value: bytes) -> bytes:
    """The key in a header of this scheme; empty if there is none."""
    if scheme == b"basic":
        try:
            return base64.b64decode(value, validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return value if scheme == b"bearer" else b""


@functools.lru_cache(1024)
def called_by(url: bytes) -> str:
    """What a URL calls: a model's name, or one of the words above."""
    path = urllib.parse.unquote(url.partition(b"?")[0].decode("latin-1"))
    if path.startswith("/v2/health/"):
        return HEALTH
    if path in ("/metrics", "/v2/models/stats"):
        return METRICS
    if path == "/compare":
        return COMPARE
    if path.startswith("/v2/repository/models/"):
        return REPOSITORY
    if match := MODEL_PATHS.match(path):
        return match[1] or match[2] or f"{match[3]}-{match[4]}"
    return ANY


def read_keys(path: Path) -> list[Key]:
    """The keys of a file. Raises SettingError, which names the line that cannot be used."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingError(f"SERVE_KEYS_FILE={path} cannot be read: {reason}. `make key` makes one.") from error
    keys: list[Key] = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = LINE.fullmatch(text)
        if match is None or match["name"] in {key.name for key in keys}:
            wrong = "has the name of a line above" if match else "is not a name, a SHA-256 and what it may call"
            raise SettingError(f"SERVE_KEYS_FILE={path} cannot be used: line {number} {wrong}. `make key` adds a line.")
        keys.append(Key(match["name"], bytes.fromhex(match["digest"]), tuple(match["calls"].split(","))))
    return keys


def add_key(path: Path, name: str, calls: str) -> str:
    """Make a key, and add its line to the file, which only its owner may read. Raises SettingError."""
    key = secrets.token_urlsafe(32)
    line = f"{name}  {hashlib.sha256(key.encode()).hexdigest()}  {calls}"
    if not LINE.fullmatch(line):
        raise SettingError(
            f"No key can be named {name[:80]!r} and call {calls[:80]!r}: expected a name of letters, digits and ._@-, "
            "and names of models, metrics, compare or repository, with commas between them."
        )
    if path.exists() and name in {known.name for known in read_keys(path)}:
        raise SettingError(f"{path} has a key named {name!r}. Take another name, or remove its line first.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
    except OSError as error:
        raise SettingError(f"{path} cannot be written: {error.strerror}. Set another SERVE_KEYS_FILE.") from error
    return key


def main() -> None:
    """Make a key, and print it: python -m serve.keys NAME [CALLS]."""
    if len(sys.argv) not in (2, 3) or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m serve.keys NAME [CALLS], such as: python -m serve.keys app 'keras_cnn-*,metrics'")
    path = Path(os.environ.get("SERVE_KEYS_FILE") or "keys")
    try:
        key = add_key(path, sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else "*")
    except SettingError as error:
        sys.exit(f"error: {error}")
    print(f"The hash of the key {sys.argv[1]!r} is in {path}. The key itself is shown only now:", file=sys.stderr)
    print(key)


if __name__ == "__main__":
    main()
