"""A data set is the published one or none: read or downloaded, checked, and refused by name when altered."""

import gzip
import hashlib
import io
import random
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from contract import dataset
from contract.dataset import CIFAR10, DATASETS, FASHION_MNIST, Bytes, Dataset, Split, load, parse_cifar, parse_idx
from contract.errors import DataError

SYSTEM = Path("/usr/share/datasets/fashion-mnist")
IMAGES, LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


class Home:
    """A web server on this machine. It serves `files`: path -> body, or (body, Content-Length)."""

    def __init__(self) -> None:
        self.files: dict[str, bytes | tuple[bytes, int]] = {}
        self.requests: list[str] = []
        home = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                home.requests.append(self.path)
                entry = home.files.get(self.path)
                if entry is None:
                    self.send_error(404)
                    return
                body, length = entry if isinstance(entry, tuple) else (entry, len(entry))
                self.send_response(200)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setenv("no_proxy", "*")
    home = Home()
    thread = threading.Thread(target=home.server.serve_forever, args=(0.01,))
    thread.start()
    yield home
    home.server.shutdown()
    thread.join()
    home.server.server_close()


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `DATA`, and no data set installed on the system."""
    monkeypatch.setattr(dataset, "DATA", tmp_path / "data")
    put(monkeypatch, replace(FASHION_MNIST, system_folder=None, homes=()))
    put(monkeypatch, replace(CIFAR10, homes=()))
    return tmp_path / "data"


def put(monkeypatch: pytest.MonkeyPatch, changed: Dataset) -> None:
    monkeypatch.setitem(DATASETS, changed.name, changed)


def small_fashion(monkeypatch: pytest.MonkeyPatch, *homes: str) -> tuple[bytes, bytes]:
    """Make the test split of Fashion-MNIST its first 20 pictures. Returns the contents of both files."""
    whole = load_system("test", 20)
    images = struct.pack(">4I", 0x0803, 20, 28, 28) + whole.images.tobytes()
    labels = struct.pack(">2I", 0x0801, 20) + whole.labels.tobytes()
    files = {IMAGES: hashlib.sha256(images).hexdigest(), LABELS: hashlib.sha256(labels).hexdigest()}
    put(monkeypatch, replace(FASHION_MNIST, files=files, system_folder=None, homes=homes))
    return images, labels


def load_system(split: str, limit: int | None = None) -> Split:
    contents = [gzip.decompress((SYSTEM / f"{file}.gz").read_bytes()) for file in FASHION_MNIST.splits[split]]
    whole = parse_idx(FASHION_MNIST.image, contents)
    return Split(whole.images[:limit], whole.labels[:limit])


def everything_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Fashion-MNIST, the real one


@pytest.mark.parametrize(("split", "count"), [("train", 60_000), ("test", 10_000)])
def test_fashion_mnist_is_whole_and_balanced(split: str, count: int) -> None:
    whole = load("fashion_mnist", split)
    assert whole.images.shape == (count, 28, 28, 1)
    assert whole.labels.shape == (count,)
    assert whole.images.dtype == whole.labels.dtype == np.uint8
    assert np.bincount(whole.labels).tolist() == [count // 10] * 10
    assert len(FASHION_MNIST.labels) == 10


def test_a_limit_takes_the_first_pictures_in_their_order() -> None:
    some, whole = load("fashion_mnist", "test", limit=7), load("fashion_mnist", "test")
    np.testing.assert_array_equal(some.images, whole.images[:7])
    assert [FASHION_MNIST.labels[label] for label in some.labels[:3]] == ["Ankle boot", "Pullover", "Trouser"]


def test_an_unknown_data_set_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"'mnist'.*fashion_mnist, cifar10"):
        load("mnist", "test")


def test_an_unknown_split_is_refused_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"'validation'.*train, test"):
        load("fashion_mnist", "validation")


# Files that are not what was published


@pytest.fixture
def copies(data: Path) -> Path:
    """The test split's real files, in `DATA`."""
    folder = data / "fashion_mnist"
    folder.mkdir(parents=True)
    for file in (IMAGES, LABELS):
        shutil.copy(SYSTEM / f"{file}.gz", folder)
    return folder


def test_files_in_the_data_folder_are_read(copies: Path) -> None:
    assert len(load("fashion_mnist", "test").images) == 10_000


def test_a_truncated_file_is_refused_by_name(copies: Path) -> None:
    file = copies / f"{LABELS}.gz"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=rf"{LABELS}\.gz is truncated or altered .*Remove .*{LABELS}\.gz and run"):
        load("fashion_mnist", "test")


@pytest.mark.parametrize("position", [0, 3, 100, 4000, -3])
def test_an_altered_byte_is_refused_by_name(copies: Path, position: int) -> None:
    file = copies / f"{LABELS}.gz"
    content = bytearray(file.read_bytes())
    content[position] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"{LABELS}\.gz is truncated or altered"):
        load("fashion_mnist", "test")


@pytest.mark.parametrize(
    "content", [b"", b"<html>Not found</html>", gzip.compress(b"something else")], ids=["nothing", "a page", "another"]
)
def test_another_content_is_refused_by_name(copies: Path, content: bytes) -> None:
    (copies / f"{IMAGES}.gz").write_bytes(content)
    with pytest.raises(DataError, match=rf"{IMAGES}\.gz .*Remove"):
        load("fashion_mnist", "test")


def test_the_systems_files_are_checked_too(copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(copies, copies.parent / "system")
    (copies.parent / "system" / f"{LABELS}.gz").write_bytes(b"")
    put(monkeypatch, replace(FASHION_MNIST, system_folder=copies.parent / "system"))
    with pytest.raises(DataError, match=rf"system/{LABELS}\.gz is truncated or altered"):
        load("fashion_mnist", "test")


# IDX and CIFAR-10 files


@pytest.mark.parametrize("cut", range(17))
def test_an_idx_file_that_ends_in_its_header_is_refused(cut: int) -> None:
    images = struct.pack(">4I", 0x0803, 1, 28, 28) + bytes(784)
    labels = struct.pack(">2I", 0x0801, 1) + bytes(1)
    with pytest.raises(DataError, match="IDX file"):
        parse_idx(FASHION_MNIST.image, [images[:cut], labels])


@pytest.mark.parametrize(
    "header",
    [
        struct.pack(">4I", 0x0803, 2, 28, 28),
        struct.pack(">4I", 0x0803, 1, 28, 27),
        struct.pack(">4I", 0x0803, 2**31, 2**31, 4),
        struct.pack(">4I", 0x0803, 1, 14, 56),
        struct.pack(">4I", 0x0803, 28, 28, 1),
        struct.pack(">4I", 0x0D03, 1, 28, 28),
        struct.pack(">2I", 0x0801, 784),
        struct.pack(">I", 0x0800),
        struct.pack(">I", 0x08FF) + struct.pack(">255I", *[1] * 255),
    ],
)
def test_an_idx_file_whose_header_lies_is_refused(header: bytes) -> None:
    labels = struct.pack(">2I", 0x0801, 1) + bytes(1)
    with pytest.raises(DataError, match="IDX file"):
        parse_idx(FASHION_MNIST.image, [header + bytes(784), labels])


def test_fewer_labels_than_pictures_are_refused() -> None:
    images = struct.pack(">4I", 0x0803, 2, 28, 28) + bytes(2 * 784)
    labels = struct.pack(">2I", 0x0801, 1) + bytes(1)
    with pytest.raises(DataError, match="2 images but 1 labels"):
        parse_idx(FASHION_MNIST.image, [images, labels])


def cifar_batch(images: Bytes, labels: Bytes) -> bytes:
    """(N, 32, 32, 3) pictures in the format of CIFAR-10's authors, value by value."""
    records = []
    for image, label in zip(images, labels, strict=True):
        planes = [int(image[y, x, channel]) for channel in range(3) for y in range(32) for x in range(32)]
        records.append(bytes([int(label), *planes]))
    return b"".join(records)


def pictures(count: int) -> tuple[Bytes, Bytes]:
    rng = np.random.default_rng(count)
    return rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, 10, count, np.uint8)


def test_cifar_planes_become_pixels() -> None:
    images, labels = pictures(3)
    images[0] = (255, 128, 0)
    split = parse_cifar(CIFAR10.image, [cifar_batch(images[:1], labels[:1]), cifar_batch(images[1:], labels[1:])])
    np.testing.assert_array_equal(split.images, images)
    np.testing.assert_array_equal(split.labels, labels)
    assert split.images[0, 5, 7].tolist() == [255, 128, 0]
    assert split.images.flags.c_contiguous


@pytest.mark.parametrize("length", [0, 1, 3072, 3074, 2 * 3073 - 1])
def test_a_cifar_batch_of_a_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(DataError, match=rf"{length} bytes, expected a multiple of 3073"):
        parse_cifar(CIFAR10.image, [bytes(3073), bytes(length)])


# Downloads


def test_a_download_with_another_gzip_header_is_the_same_data(
    data: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(monkeypatch, replace(FASHION_MNIST, system_folder=None, homes=(home.address,)))
    for file in (IMAGES, LABELS):
        content = gzip.decompress((SYSTEM / f"{file}.gz").read_bytes())
        stream = io.BytesIO()
        with gzip.GzipFile("another name", "wb", compresslevel=1, fileobj=stream, mtime=7) as packed:
            packed.write(content)
        home.files[f"/{file}.gz"] = stream.getvalue()
    got, expected = load("fashion_mnist", "test"), load_system("test")
    np.testing.assert_array_equal(got.images, expected.images)
    np.testing.assert_array_equal(got.labels, expected.labels)
    assert everything_in(data / "fashion_mnist") == [f"{IMAGES}.gz", f"{LABELS}.gz"]
    home.files.clear()
    assert len(load("fashion_mnist", "test").images) == 10_000
    assert len(home.requests) == 2, "files on this machine were downloaded again"


BROKEN: dict[str, Callable[[bytes], bytes | tuple[bytes, int]] | None] = {
    "missing": None,
    "empty": lambda packed: b"",
    "cut": lambda packed: packed[: len(packed) // 2],
    "cut off by the connection": lambda packed: (packed[: len(packed) // 2], len(packed)),
    "altered": lambda packed: packed[:-20] + bytes([packed[-20] ^ 1]) + packed[-19:],
    "no deflate stream": lambda packed: packed[:10] + bytes([0x07]) + packed[11:],
    "a page": lambda packed: b"<html>Please log in</html>",
    "something else": lambda packed: gzip.compress(b"something else"),
}


@pytest.mark.parametrize("how", list(BROKEN))
def test_the_second_home_is_tried_when_the_first_one_fails(
    data: Path, home: Home, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    contents = small_fashion(monkeypatch, f"{home.address}/first", f"{home.address}/second")
    for file, content in zip((IMAGES, LABELS), contents, strict=True):
        packed = gzip.compress(content)
        home.files[f"/second/{file}.gz"] = packed
        if damage := BROKEN[how]:
            home.files[f"/first/{file}.gz"] = damage(packed)
    assert len(load("fashion_mnist", "test").images) == 20
    assert home.requests[:2] == [f"/first/{IMAGES}.gz", f"/second/{IMAGES}.gz"]
    assert everything_in(data / "fashion_mnist") == [f"{IMAGES}.gz", f"{LABELS}.gz"]


@pytest.mark.parametrize("how", list(BROKEN))
def test_a_failed_download_leaves_nothing_behind(
    data: Path, home: Home, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    images, _ = small_fashion(monkeypatch, home.address)
    if damage := BROKEN[how]:
        home.files[f"/{IMAGES}.gz"] = damage(gzip.compress(images))
    with pytest.raises(DataError, match=rf"could not be downloaded \({home.address}: .+\)"):
        load("fashion_mnist", "test")
    assert everything_in(data / "fashion_mnist") == []


def test_without_a_home_the_package_and_the_folder_are_named(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    nobody = "http://127.0.0.1:9"
    put(monkeypatch, replace(FASHION_MNIST, system_folder=None, homes=(nobody,)))
    with pytest.raises(DataError, match=rf"apt-get install dataset-fashion-mnist.*{IMAGES}\.gz into {data}") as caught:
        load("fashion_mnist", "test")
    assert nobody in str(caught.value)
    put(monkeypatch, replace(CIFAR10, homes=(nobody,)))
    with pytest.raises(DataError, match=rf"Put cifar-10-binary\.tar\.gz into {data}"):
        load("cifar10", "test")


def test_fetch_gets_every_file(data: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = small_fashion(monkeypatch, home.address)
    for file, content in zip((IMAGES, LABELS), contents, strict=True):
        home.files[f"/{file}.gz"] = gzip.compress(content)
    dataset.fetch("fashion_mnist")
    assert everything_in(data / "fashion_mnist") == [f"{IMAGES}.gz", f"{LABELS}.gz"]


def tar_gz(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.fixture
def small_cifar(data: Path, home: Home, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """CIFAR-10 with a few pictures in each file, served by `home`. Returns the files' contents."""
    contents = {file: cifar_batch(*pictures(2 + number)) for number, file in enumerate(CIFAR10.files)}
    hashes = {file: hashlib.sha256(content).hexdigest() for file, content in contents.items()}
    put(monkeypatch, replace(CIFAR10, files=hashes, homes=(home.address,)))
    return contents


def test_cifar_is_taken_out_of_its_archive(data: Path, home: Home, small_cifar: dict[str, bytes]) -> None:
    inside = {f"cifar-10-batches-bin/{file}": content for file, content in small_cifar.items()}
    home.files["/cifar-10-binary.tar.gz"] = tar_gz({"cifar-10-batches-bin/readme.html": b"", "../evil": b"", **inside})
    images, labels = pictures(7)
    split = load("cifar10", "test")
    np.testing.assert_array_equal(split.images, images)
    np.testing.assert_array_equal(split.labels, labels)
    assert len(load("cifar10", "train").images) == 2 + 3 + 4 + 5 + 6
    assert everything_in(data / "cifar10") == sorted(small_cifar)
    assert everything_in(data.parent) == ["data"]
    assert len(home.requests) == 1, "the archive was downloaded again"


def test_an_archive_put_into_the_folder_is_used(data: Path, home: Home, small_cifar: dict[str, bytes]) -> None:
    (data / "cifar10").mkdir(parents=True)
    archive = data / "cifar10" / "cifar-10-binary.tar.gz"
    archive.write_bytes(tar_gz(small_cifar)[:-50])
    with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz is truncated or altered .*Remove it"):
        load("cifar10", "test")
    archive.write_bytes(tar_gz(small_cifar))
    assert len(load("cifar10", "test").images) == 7
    assert home.requests == []


@pytest.mark.parametrize("how", ["a file is altered", "a file is missing", "cut", "no archive", "a link"])
def test_a_broken_archive_leaves_no_bad_file(data: Path, home: Home, small_cifar: dict[str, bytes], how: str) -> None:
    files = dict(small_cifar)
    if how == "a file is altered":
        files["test_batch.bin"] = bytes(3073)
    elif how in ("a file is missing", "a link"):
        del files["test_batch.bin"]
    archive = tar_gz(files)
    if how == "cut":
        archive = tar_gz({**files, "z": random.Random(0).randbytes(200_000)})[:-150_000]
    elif how == "no archive":
        archive = b"<html>Not found</html>"
    elif how == "a link":
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as tar:
            link = tarfile.TarInfo("test_batch.bin")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
            tar.addfile(link)
        archive = stream.getvalue()
    home.files["/cifar-10-binary.tar.gz"] = archive
    with pytest.raises(DataError, match=r"CIFAR-10 is not on this machine and could not be downloaded \(http.+\)"):
        load("cifar10", "test")
    left = everything_in(data / "cifar10")
    assert "test_batch.bin" not in left
    assert not [name for name in left if (data / "cifar10" / name).read_bytes() != small_cifar[name]]


# The command


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [(["fashion_mnist"], 0, ""), (["mnist"], 1, "error: No data set is named 'mnist'"), ([], 1, "usage: ")],
)
def test_the_command_checks_a_data_set(arguments: list[str], status: int, message: str) -> None:
    root = Path(dataset.__file__).resolve().parent.parent
    command = [sys.executable, "-m", "contract.dataset", *arguments]
    ran = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stderr[: len(message)]) == (status, message)
    assert "Traceback" not in ran.stderr
