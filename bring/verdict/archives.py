"""Zip archives: what one declares is checked before a member of it is read."""

import stat
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath

from bring.verdict.findings import Finding, few
from contract.errors import BroughtError

BOMB_FROM = 50_000_000
BOMB_RATIO = 200
"""Weights hardly compress; an archive that grows this many times, to this many bytes, holds no model."""
MEMBER_LIMIT = 256_000_000
"""Bytes of one description (JSON, a pickle without its tensors) that is read whole."""


def check_archive(archive: zipfile.ZipFile, path: Path, max_bytes: int) -> list[Finding]:
    """Members that leave the folder. Raises BroughtError for an archive that is made to harm its reader."""
    members = archive.infolist()
    twice = [name for name, count in Counter(member.filename.casefold() for member in members).items() if count > 1]
    if twice:
        raise BroughtError(
            f"{path} holds {few(twice)} more than once: readers differ in which one they take. Save the model again."
        )
    size = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    check_growth(path, packed, size, max_bytes)
    if packed > path.stat().st_size:
        raise BroughtError(f"{path} has members that overlap: a decompression bomb. Save the model again.")
    outside = [
        member.filename
        for member in members
        if PurePosixPath(member.filename.replace("\\", "/")).is_absolute()
        or ".." in PurePosixPath(member.filename.replace("\\", "/")).parts
        or ":" in member.filename
        or stat.S_ISLNK(member.external_attr >> 16)
    ]
    if not outside:
        return []
    return [Finding(f"its members {few(outside)} leave the folder that they are unpacked to, or are links", False)]


def check_growth(path: Path, packed: int, size: int, max_bytes: int) -> None:
    """Raise BroughtError for a file whose content, as it declares it, is too large or grows beyond reason."""
    if size > max_bytes or (size > BOMB_FROM and size > BOMB_RATIO * packed):
        raise BroughtError(
            f"{path} declares {size} bytes of content in {packed}: a decompression bomb, or over the limit of "
            f"{max_bytes}. Expected weights, which compress less than {BOMB_RATIO} times. Save it uncompressed."
        )


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """One member, whole. Raises ValueError when it is too long for a description."""
    if (size := archive.getinfo(name).file_size) > MEMBER_LIMIT:
        raise ValueError(f"{name} has {size} bytes, expected at most {MEMBER_LIMIT}")
    return archive.read(name)
