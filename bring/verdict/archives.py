"""Zip archives: their tables of contents are checked before a member is read."""

import stat
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath

from bring.verdict.findings import Finding, few
from contract.errors import BroughtError

BOMB_FROM = 50_000_000
BOMB_RATIO = 200
"""Weights hardly compress: an archive of more than BOMB_FROM bytes that grows more than this many times is a bomb."""
MEMBER_LIMIT = 256_000_000
"""Bytes of a member that is read whole: JSON, or a pickle without its tensors."""


def check_archive(archive: zipfile.ZipFile, path: Path, max_bytes: int) -> list[Finding]:
    """Findings on members that leave the folder. Raises BroughtError for an archive that is made to harm its reader."""
    members = archive.infolist()
    twice = [name for name, count in Counter(member.filename.casefold() for member in members).items() if count > 1]
    if twice:
        raise BroughtError(
            f"{path} has {few(twice)} more than once: readers differ in which one they read. Save the model again."
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
    """Raises BroughtError if the declared content of a file, `size` bytes in `packed`, is over the limit or a bomb."""
    if size > max_bytes or (size > BOMB_FROM and size > BOMB_RATIO * packed):
        raise BroughtError(
            f"{path} declares {size} bytes of content in {packed}: a decompression bomb, or over the limit of "
            f"{max_bytes}. Weights compress less than {BOMB_RATIO} times. Save it uncompressed."
        )


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member, whole. Raises ValueError when it has more than MEMBER_LIMIT bytes."""
    if (size := archive.getinfo(name).file_size) > MEMBER_LIMIT:
        raise ValueError(f"{name} has {size} bytes, expected at most {MEMBER_LIMIT}")
    return archive.read(name)
