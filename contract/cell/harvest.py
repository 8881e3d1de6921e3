"""What comes out of a cell: regular files alone, opened below a descriptor of its folder, and no link is followed.

Whatever ran in the cell may have left anything in its folder: links to the files of others, pipes without an end, files
with holes of terabytes. So the folder's paths are never used as paths, and nothing is written into the folder. Records,
which are small JSON files, are copied into a folder of this process's own before they are read.
"""

import contextlib
import os
import secrets
import shutil
import stat
import weakref
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from contract.behaviour import BEHAVIOUR
from contract.errors import BroughtError
from contract.ledger import LEDGER
from contract.mac_record import QUESTIONS
from contract.manifest import FORMAT_NAME, MANIFEST, read_manifest
from contract.parity_result import PARITY

RECORDS = (MANIFEST, PARITY, BEHAVIOUR, LEDGER, QUESTIONS)
MAX_RECORD = 64 << 20
"""Bytes of a record. A manifest of 100,000 labels and of 10,000 files has a tenth of this."""

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe that nobody writes to is not waited for


class Harvest:
    """The folder of one model in a cell, and the copies of its records in `records`, a folder of this process's own."""

    def __init__(self, folder: Path, model: str, records: Path, names: Collection[str] = RECORDS) -> None:
        self._root = os.open(folder, _FOLDER)
        weakref.finalize(self, os.close, self._root)
        self._model, self._names_of_records = model, set(names)
        self.records = records / model

    def read_records(self) -> None:
        """Copy the records of every artifact over earlier copies. Raises BroughtError where one is not a file."""
        shutil.rmtree(self.records, ignore_errors=True)
        for format in self._names():
            if FORMAT_NAME.fullmatch(format):
                with self._opened(format) as folder:
                    present = set(os.listdir(folder)) & self._names_of_records
                for record in sorted(present):
                    self._copy(f"{format}/{record}", self.records / format / record, MAX_RECORD)

    def counts(self) -> tuple[int, int]:
        """How many artifacts but the source there are, and how many were compared, while others may be written."""
        converted = compared = 0
        for format in filter(FORMAT_NAME.fullmatch, self._names()):
            with contextlib.suppress(OSError, BroughtError), self._opened(format) as folder:
                present = set(os.listdir(folder))
                converted += MANIFEST in present
                compared += PARITY in present
        return max(0, converted - 1), compared

    def copy_artifact(self, format: str, target: Path) -> None:
        """Copy the files that the artifact's manifest names, and its records, into the new folder `target`.

        Raises BroughtError for what is not a regular file, or not there.
        """
        for file in read_manifest(self.records / format).files:
            self._copy(f"{format}/{file}", target / file, None)
        for record in (self.records / format).iterdir():
            shutil.copyfile(record, target / record.name)

    def remove(self, format: str) -> None:
        """Remove an artifact, if it is there."""
        with contextlib.suppress(FileNotFoundError), self._opened("") as model:
            remove_below(model, format)

    def put_aside(self, format: str) -> None:
        """Move an artifact out of the model's folder, in the place of what was put aside before."""
        aside = f"aside-{format}"
        with self._opened("") as model:
            remove_below(self._root, aside)
            os.rename(format, aside, src_dir_fd=model, dst_dir_fd=self._root)

    def take_back(self, format: str) -> None:
        """Undo `put_aside`. Raises BroughtError where nothing is there."""
        self.remove(format)
        with self._opened("") as model:
            os.rename(f"aside-{format}", format, src_dir_fd=self._root, dst_dir_fd=model)
        self.read_records()

    def _names(self) -> list[str]:
        try:
            with self._opened("") as model:
                return sorted(os.listdir(model))
        except FileNotFoundError:
            return []

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        """A descriptor of the model's folder, or of one below it.

        Raises FileNotFoundError, and BroughtError for what is not a folder.
        """
        reached = os.dup(self._root)
        try:
            for part in (self._model, *PurePosixPath(path).parts):
                try:
                    inner = os.open(part, _FOLDER, dir_fd=reached)
                except FileNotFoundError:
                    raise
                except OSError:
                    raise self._refused(path or part) from None
                os.close(reached)
                reached = inner
            yield reached
        finally:
            os.close(reached)

    def _copy(self, path: str, target: Path, most: int | None) -> None:
        inner, _, name = path.rpartition("/")
        try:
            with self._opened(inner) as folder:
                file = os.open(name, _FILE, dir_fd=folder)
        except OSError:
            raise self._refused(path) from None
        try:
            about = os.fstat(file)
            if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1:
                raise self._refused(path)
            if most is not None and about.st_size > most:
                raise BroughtError(f"{path} has {about.st_size} bytes, expected at most {most}: nothing is kept.")
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(file, "rb", closefd=False) as source, target.open("xb") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
        finally:
            os.close(file)

    def _refused(self, path: str) -> BroughtError:
        return BroughtError(f"{path} is not a plain file, or not there: nothing of {self._model} is kept.")


def read_file(folder: Path, name: str, most: int = MAX_RECORD) -> bytes:
    """The content of a file that a child left in its folder, `most` bytes at most.

    Raises BroughtError for what is not a plain file, not there, or larger.
    """
    root = os.open(folder, _FOLDER)
    try:
        file = os.open(name, _FILE, dir_fd=root)
    except OSError:
        raise BroughtError(f"{name} is not a plain file, or not there: nothing of it is kept.") from None
    finally:
        os.close(root)
    with open(file, "rb") as stream:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1 or about.st_size > most:
            raise BroughtError(f"{name} is not a plain file of at most {most} bytes: nothing of it is kept.")
        return stream.read(most + 1)[:most]


def remove_below(folder: int, name: str) -> None:
    """Remove `name` in the folder of this descriptor, with all that is in it, however deep, and follow no link.

    Folders are moved up one by one, so that neither this process's stack nor its open files grow with their depth.
    Raises OSError.
    """
    waiting = [name]
    while waiting:
        place = waiting.pop()
        if not _is_folder(place, folder):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(place, dir_fd=folder)
            continue
        inner = _opened_to_write(place, folder)
        try:
            for entry in os.listdir(inner):
                if not _is_folder(entry, inner):
                    os.unlink(entry, dir_fd=inner)
                    continue
                os.close(_opened_to_write(entry, inner))  # a folder that is moved has to allow that
                waiting.append(f".removed.{secrets.token_hex(8)}")
                os.rename(entry, waiting[-1], src_dir_fd=inner, dst_dir_fd=folder)
        finally:
            os.close(inner)
        os.rmdir(place, dir_fd=folder)


def _is_folder(name: str, folder: int) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _opened_to_write(name: str, folder: int) -> int:
    """A descriptor of a folder, whose owner may write to it from now on."""
    entry = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.chmod(f"/proc/self/fd/{entry}", 0o700)
        return os.open(name, _FOLDER, dir_fd=folder)
    finally:
        os.close(entry)
