"""Named, pinned, checksummed data sets: `load("fashion_mnist", "test")`.

    python -m contract.dataset fashion_mnist      downloads the files that are missing, and checks them all

The sha256 of each file's *content* is pinned: Debian's package and the public downloads hold the same images in gzip
files with different headers.
"""

import gzip
import hashlib
import http.client
import io
import math
import os
import sys
import tarfile
import time
import urllib.request
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from contract.errors import DataError
from contract.manifest import ImageSpec

Bytes = NDArray[np.uint8]

DATA = Path(os.environ.get("ROSETTA_DATA") or Path(__file__).resolve().parent.parent / "data")


@dataclass(frozen=True)
class Split:
    """Pictures and their classes: images (N, H, W, C) uint8, labels (N,) uint8."""

    images: Bytes
    labels: Bytes

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels):
            raise DataError(f"{len(self.images)} images but {len(self.labels)} labels: each image needs one label.")


@dataclass(frozen=True)
class Dataset:
    """A data set as its publisher names it, and where its files may be."""

    name: str
    title: str
    licence: str
    image: ImageSpec
    labels: tuple[str, ...]
    files: Mapping[str, str]
    """The sha256 of each file's content."""
    splits: Mapping[str, tuple[str, ...]]
    parse: Callable[[ImageSpec, list[bytes]], Split]
    homes: tuple[str, ...]
    """Base URLs to download from, tried in this order."""
    archive: str | None = None
    """The archive at `homes` that holds all files; None where each file is downloaded by itself."""
    system_folder: Path | None = None
    system_package: str | None = None


def parse_idx(image: ImageSpec, contents: list[bytes]) -> Split:
    """An IDX file of images and an IDX file of labels, as MNIST's publishers defined them (big-endian headers)."""
    images, labels = (_parse_idx_array(content) for content in contents)
    if (*images.shape[1:], 1)[:3] != image.shape or labels.ndim != 1:
        raise DataError(
            f"The IDX files hold {images.shape} pictures and {labels.shape} labels, "
            f"expected (N, {', '.join(map(str, image.shape))}) and (N,)."
        )
    return Split(images.reshape(-1, *image.shape), labels)


def _parse_idx_array(content: bytes) -> Bytes:
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise DataError(f"Not an IDX file of unsigned bytes: it starts with {content[:4].hex(' ')}, expected 00 00 08.")
    rank = content[3]
    if not 1 <= rank <= 4 or len(content) < 4 + 4 * rank:
        raise DataError(f"An IDX file of {len(content)} bytes claims {rank} dimensions, expected 1 to 4.")
    shape = np.frombuffer(content, ">u4", rank, offset=4).tolist()
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
    expected = math.prod(shape)
    if values.size != expected:
        raise DataError(f"An IDX file claims {expected} values ({shape}), but holds {values.size}.")
    return values.reshape(shape)


def parse_cifar(image: ImageSpec, contents: list[bytes]) -> Split:
    """CIFAR-10's binary version: records of one label byte, then the red, the green and the blue plane."""
    height, width, channels = image.shape
    record = 1 + height * width * channels
    for content in contents:
        if not content or len(content) % record:
            raise DataError(f"A CIFAR-10 batch has {len(content)} bytes, expected a multiple of {record}.")
    records = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, record)
    planes = records[:, 1:].reshape(-1, channels, height, width)
    return Split(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, 0].copy())


FASHION_MNIST = Dataset(
    name="fashion_mnist",
    title="Fashion-MNIST",
    licence="MIT, Zalando SE",
    # Products were photographed on white and inverted by the data set's authors, so that the background is black.
    image=ImageSpec(height=28, width=28, channels=1, fit="contain", invert="auto"),
    labels=(
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    files={
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
    splits={
        "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
        "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    },
    parse=parse_idx,
    homes=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
    ),
    system_folder=Path("/usr/share/datasets/fashion-mnist"),
    system_package="dataset-fashion-mnist",
)

CIFAR10 = Dataset(
    name="cifar10",
    title="CIFAR-10",
    licence="none stated; cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    image=ImageSpec(height=32, width=32, channels=3, fit="cover", invert="never"),
    labels=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    files={
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
    splits={"train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)), "test": ("test_batch.bin",)},
    parse=parse_cifar,
    homes=("https://www.cs.toronto.edu/~kriz",),
    archive="cifar-10-binary.tar.gz",
)

BROKEN = (OSError, EOFError, zlib.error, tarfile.TarError, DataError)
"""What reading a truncated or altered file may raise."""

DATASETS: dict[str, Dataset] = {dataset.name: dataset for dataset in (FASHION_MNIST, CIFAR10)}


def get(name: str) -> Dataset:
    """The data set of this name. Raises DataError for an unknown one."""
    try:
        return DATASETS[name]
    except KeyError:
        raise DataError(f"No data set is named {name!r}. Known: {', '.join(DATASETS)}.") from None


def load(name: str, split: str, limit: int | None = None) -> Split:
    """Read a split, downloading its files where they are missing; at most the first `limit` pictures.

    Raises DataError for an unknown data set or split, and for files that are missing, truncated or altered.
    """
    dataset = get(name)
    if split not in dataset.splits:
        raise DataError(f"{dataset.title} has no split {split!r}. Known: {', '.join(dataset.splits)}.")
    contents = [_content(dataset, file) for file in dataset.splits[split]]
    whole = dataset.parse(dataset.image, contents)
    return Split(whole.images[:limit], whole.labels[:limit])


def fetch(name: str) -> None:
    """Download every file of a data set that is missing, and check them all."""
    dataset = get(name)
    for file in dataset.files:
        _content(dataset, file)


def _content(dataset: Dataset, file: str) -> bytes:
    """A file's content, from the system's package, from `DATA`, or downloaded into `DATA`. Raises DataError."""
    for path in _places(dataset, file):
        if path.is_file():
            return _checked(path, dataset.files[file])
    if dataset.archive and (archive := DATA / dataset.name / dataset.archive).is_file():
        try:
            _unpack(archive, dataset, archive.parent)
        except BROKEN as error:
            raise DataError(f"{archive} is truncated or altered ({error}). Remove it to download it again.") from error
        return _content(dataset, file)
    return _checked(_download(dataset, file), dataset.files[file])


def _places(dataset: Dataset, file: str) -> list[Path]:
    name = file if dataset.archive else f"{file}.gz"
    places = [DATA / dataset.name / name]
    if dataset.system_folder is not None:
        places.insert(0, dataset.system_folder / name)
    return places


def _checked(path: Path, sha256: str) -> bytes:
    """The content of `path`. Raises DataError unless it has this sha256."""
    advice = f"Remove {path} and run the same command again: it is downloaded again."
    try:
        raw = path.read_bytes()
        content = gzip.decompress(raw) if path.suffix == ".gz" else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is truncated or altered ({error}). {advice}") from error
    if (got := hashlib.sha256(content).hexdigest()) != sha256:
        raise DataError(f"{path} is truncated or altered: its content has sha256 {got}, expected {sha256}. {advice}")
    return content


def _download(dataset: Dataset, file: str) -> Path:
    """Download `file` (or the archive that holds it) into `DATA`; a file that fails its check is not kept."""
    folder = DATA / dataset.name
    folder.mkdir(parents=True, exist_ok=True)
    remote = dataset.archive or f"{file}.gz"
    failures = []
    for home in dataset.homes:
        partial = folder / f".{remote}.{os.getpid()}.partial"
        try:
            with urllib.request.urlopen(f"{home}/{remote}", timeout=60) as answer, partial.open("wb") as stream:
                _copy_with_progress(answer, stream, remote, int(answer.headers.get("Content-Length") or 0))
            if dataset.archive:
                _unpack(partial, dataset, folder)
            else:
                _check_download(partial, dataset.files[file])
                partial.replace(folder / remote)
            return folder / (file if dataset.archive else remote)
        except (*BROKEN, http.client.HTTPException) as error:
            failures.append(f"{home}: {error}")
        finally:
            partial.unlink(missing_ok=True)
    package = f"Install it with `apt-get install {dataset.system_package}`, or put" if dataset.system_package else "Put"
    raise DataError(
        f"{dataset.title} is not on this machine and could not be downloaded ({'; '.join(failures)}). "
        f"{package} {remote} into {folder}."
    )


def _check_download(partial: Path, sha256: str) -> None:
    content = gzip.decompress(partial.read_bytes())
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DataError("the download is not the published file: its sha256 differs")


def _unpack(archive: Path, dataset: Dataset, folder: Path) -> None:
    """Extract the data set's own files, whatever folder of the archive they are in, and nothing else."""
    with tarfile.open(archive, "r:gz") as tar:
        members = {Path(member.name).name: member for member in tar.getmembers() if member.isfile()}
        for file, sha256 in dataset.files.items():
            stream = tar.extractfile(members[file]) if file in members else None
            content = stream.read() if stream else b""
            if hashlib.sha256(content).hexdigest() != sha256:
                raise DataError(f"{file} in {dataset.archive} is not the published file: its sha256 differs")
            partial = folder / f".{file}.{os.getpid()}.partial"
            partial.write_bytes(content)
            partial.replace(folder / file)


def _copy_with_progress(source: BinaryIO | io.BufferedIOBase, target: BinaryIO, name: str, total: int) -> None:
    start, done, shown = time.monotonic(), 0, 0.0
    while chunk := source.read(1 << 16):
        target.write(chunk)
        done += len(chunk)
        now = time.monotonic()
        if sys.stderr.isatty() and now - shown > 0.2:
            shown = now
            left = f", {(total - done) * (now - start) / done:.0f} s left" if total else ""
            print(f"\r{name}: {done / 1e6:.1f} of {total / 1e6:.1f} MB{left}  ", end="", file=sys.stderr)
    if shown:
        print(file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m contract.dataset NAME    where NAME is one of {', '.join(DATASETS)}")
    try:
        fetch(sys.argv[1])
    except DataError as error:
        sys.exit(f"error: {error}")
