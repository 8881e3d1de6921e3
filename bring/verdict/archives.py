"""Zip archives: their tables of contents are checked before a member is read."""

import io
import stat
import struct
import zipfile
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import IO, Any

from bring.verdict.findings import Finding, few, mapped
from contract.errors import BroughtError

BOMB_FROM = 50_000_000
BOMB_RATIO = 200
"""Weights hardly compress: an archive of more than BOMB_FROM bytes that grows more than this many times is a bomb."""
LOCAL_HEADER = 30
"""Bytes before the name of a member; the last four are the lengths of the name, and of what follows it."""
MEMBER_LIMIT = 256_000_000
"""Bytes of a member that is read whole: JSON, or a pickle without its tensors."""


def check_archive(archive: zipfile.ZipFile, path: Path, max_bytes: int, length: int | None = None) -> list[Finding]:
    """Findings on members that leave the folder. Raises BroughtError for an archive that is made to harm its reader.

    `length` is that of an archive inside of the file `path`; None for the file itself.
    """
    members = archive.infolist()
    begins_late = min((member.header_offset for member in members), default=0) != 0
    if archive.comment or begins_late or not _is_table_where_it_says(archive):
        raise BroughtError(
            f"{path} has bytes before its archive or after it: readers differ in what they read. Save the model again."
        )
    if renamed := [member.orig_filename for member in members if member.filename != member.orig_filename]:
        raise BroughtError(
            f"{path} has two names for {few(renamed)}: readers differ in which one they read. Save the model again."
        )
    twice = [name for name, count in Counter(member.filename.casefold() for member in members).items() if count > 1]
    if twice:
        raise BroughtError(
            f"{path} has {few(twice)} more than once: readers differ in which one they read. Save the model again."
        )
    size = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    check_growth(path, packed, size, max_bytes)
    if packed > (path.stat().st_size if length is None else length):
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


def _is_table_where_it_says(archive: zipfile.ZipFile) -> bool:
    """Whether the table of contents lies where the end of the archive says: some readers look there, others before it.

    The end has 22 bytes. In a large archive 20 come before it that say where the 56 are that say the same in 64 bits.
    """
    assert archive.fp is not None
    size = archive.fp.seek(0, io.SEEK_END)
    archive.fp.seek(max(0, size - 98))
    (record, locator, end) = struct.unpack("<56s20s22s", archive.fp.read(98).rjust(98, b"\0"))
    (starts,) = struct.unpack_from("<L", end, 16)
    if not locator.startswith(b"PK\x06\x07"):
        return bool(starts == archive.start_dir)
    (at,), (starts_far,) = struct.unpack_from("<Q", locator, 8), struct.unpack_from("<Q", record, 48)
    return at == size - 98 and starts_far == archive.start_dir and starts in (archive.start_dir, 0xFFFFFFFF)


def check_growth(path: Path, packed: int, size: int, max_bytes: int) -> None:
    """Raises BroughtError if the declared content of a file, `size` bytes in `packed`, is over the limit or a bomb."""
    if size > max_bytes or (size > BOMB_FROM and size > BOMB_RATIO * packed):
        raise BroughtError(
            f"{path} declares {size} bytes of content in {packed}: a decompression bomb, or over the limit of "
            f"{max_bytes}. Weights compress less than {BOMB_RATIO} times. Save it uncompressed."
        )


class Window(io.RawIOBase):
    """A file whose content lies in memory, or is mapped there: nothing is copied before it is read."""

    def __init__(self, content: memoryview) -> None:
        self._content, self._at = content, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._content)}[whence])
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        piece = self._content[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)


def open_member(archive: zipfile.ZipFile, name: str, path: Path) -> IO[bytes]:
    """A member for reading here and there: as it lies in the file `path`, where it is not compressed."""
    stream = archive.open(name)  # compares its two headers
    member = archive.getinfo(name)
    if member.compress_type != zipfile.ZIP_STORED:
        return stream
    stream.close()
    content = mapped(path)
    header = content[member.header_offset : member.header_offset + LOCAL_HEADER]
    start = member.header_offset + LOCAL_HEADER + sum(struct.unpack("<HH", header[-4:]))
    return io.BufferedReader(Window(content[start : start + member.file_size]))


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member, whole. Raises ValueError when it has more than MEMBER_LIMIT bytes."""
    if (size := archive.getinfo(name).file_size) > MEMBER_LIMIT:
        raise ValueError(f"{name} has {size} bytes, expected at most {MEMBER_LIMIT}")
    return archive.read(name)
