"""A picture becomes the tensor that the rules define; anything else raises ImageError and no other error."""

import io
import json
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import PIL.Image
import PIL.ImageFile
import PIL.WebPImagePlugin
import pytest

from contract import dataset, errors
from contract.image import HELD_BYTES, Pixels, decode, fit, held_bytes, image_to_batch
from contract.manifest import FITS, ImageSpec
from tests.golden import make

GOLDEN = Path(make.__file__).parent
TABLE = json.loads((GOLDEN / "cases.json").read_text(encoding="utf-8"))
FASHION = dataset.FASHION_MNIST.image


def saved(pixels: Pixels, kind: str = "PNG", **options: Any) -> bytes:
    """(H, W) grey or (H, W, 3) RGB -> a file's bytes."""
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def smooth(height: int, width: int) -> Pixels:
    """A picture with no symmetry and no edges, which JPEG hardly changes."""
    y, x = np.mgrid[:height, :width]
    return np.stack([40 + 3 * x, 200 - 4 * y, 60 + x + y], axis=2).astype(np.uint8)


# The golden files


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: str(case["name"]))
def test_a_golden_picture_becomes_its_tensor_bit_for_bit(case: dict[str, Any]) -> None:
    spec = ImageSpec(**case["spec"])
    expected = np.frombuffer((GOLDEN / case["tensor"]).read_bytes(), np.uint8).reshape(1, *spec.shape)
    batch = image_to_batch((GOLDEN / case["file"]).read_bytes(), spec)
    np.testing.assert_array_equal(batch, expected)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous


@pytest.mark.parametrize("case", TABLE["errors"], ids=lambda case: str(case["file"]))
def test_a_golden_error_is_raised_and_says_what_to_do(case: dict[str, Any]) -> None:
    with pytest.raises(errors.ImageError, match=r"(Send|Make it|Save it)") as caught:
        decode((GOLDEN / case["file"]).read_bytes())
    assert type(caught.value).__name__ == case["error"]


@pytest.mark.parametrize("format", ["heic", "avif"])
def test_a_photo_of_a_phone_that_is_not_read_is_named(format: str) -> None:
    with pytest.raises(errors.UnsupportedImage, match=rf"^{format.upper()} pictures are not read\. Save it as JPEG"):
        decode((GOLDEN / f"phone.{format}").read_bytes())


@pytest.mark.parametrize("data", [b"\0\0\0\x18ftyp", b"\xff\xff\xff\xffftypisom", b"\0\0\0\x10ftypisom\0\0\0\0heic"])
def test_another_file_with_such_a_box_is_not_called_a_photo(data: bytes) -> None:
    with pytest.raises(errors.UnsupportedImage, match="Not a picture in a supported format"):
        decode(data)


def test_the_golden_files_are_what_make_writes(tmp_path: Path) -> None:
    make.make(tmp_path)
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {path.name for path in GOLDEN.iterdir()} - {"make.py", "__init__.py", "__pycache__"}
    assert [name for name in made if inflated(tmp_path / name) != inflated(GOLDEN / name)] == []


def inflated(path: Path) -> list[bytes]:
    """A file's bytes. A PNG's data are decompressed, since another zlib may compress the same data in another way."""
    content = path.read_bytes()
    if not content.startswith(make.SIGNATURE) or any(path.name == case["file"] for case in TABLE["errors"]):
        return [content]
    chunks, data, position = [], b"", 8
    while position < len(content):
        length, name = struct.unpack_from(">I4s", content, position)
        body = content[position + 8 : position + 8 + length]
        if name == b"IDAT":
            data += body
        elif name == b"iCCP":
            profile, _, packed = body.partition(b"\0\0")
            chunks += [name, profile, zlib.decompress(packed)]
        else:
            chunks += [name, body]
        position += 12 + length
    return [*chunks, zlib.decompress(data)]


def test_the_golden_files_are_small() -> None:
    assert sum(path.stat().st_size for path in GOLDEN.iterdir() if path.is_file()) < 300_000


# The rules, on pictures made at random


def random_picture(rng: random.Random) -> tuple[make.Picture, make.Layout]:
    depths = {make.GREY: (1, 2, 4, 8, 16), make.PALETTE: (1, 2, 4, 8)}
    kind = rng.choice(list(make.CHANNELS))
    depth = rng.choice(depths.get(kind, (8, 16)))
    picture = make.noise(str(rng.random()), kind, depth, rng.randint(1, 40), rng.randint(1, 40))
    if rng.random() < 0.5:
        # A light or a dark picture: independent random pixels would hardly ever be inverted.
        picture = replace(picture, rows=[[rng.choice(picture.rows[0])] * len(row) for row in picture.rows])
    if kind == make.PALETTE:
        picture = replace(picture, transparency=tuple(rng.randrange(256) for _ in range(rng.randrange(2**depth))))
    elif kind in (make.GREY, make.RGB) and rng.random() < 0.5:
        picture = replace(picture, transparency=rng.choice(rng.choice(picture.rows)))
    layout = make.Layout(rng.random() < 0.3, tuple(rng.choices(range(5), k=7)), idat=rng.choice((17, 1000)))
    return replace(picture, orientation=rng.randint(1, 8)), layout


@pytest.mark.parametrize("seed", range(12))
def test_random_pictures_agree_with_the_slow_reference(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(10):
        picture, layout = random_picture(rng)
        fits, inverts = rng.choice(FITS), rng.choice(("auto", "never"))
        spec = ImageSpec(rng.randint(1, 33), rng.randint(1, 33), rng.choice((1, 3)), fit=fits, invert=inverts)
        expected = np.frombuffer(make.reference(picture, spec), np.uint8).reshape(1, *spec.shape)
        np.testing.assert_array_equal(image_to_batch(make.encode(picture, layout), spec), expected)


def test_no_fashion_mnist_picture_is_altered() -> None:
    images = dataset.load("fashion_mnist", "test").images
    assert len(images) == 10_000
    for index, image in enumerate(images):
        batch = image_to_batch(saved(image[:, :, 0], compress_level=1), FASHION)
        assert (batch[0] == image).all(), f"test image {index} was altered"


def test_a_picture_on_white_is_inverted() -> None:
    image = dataset.load("fashion_mnist", "test", limit=1).images[0]
    negative = saved(255 - image[:, :, 0])
    np.testing.assert_array_equal(image_to_batch(negative, FASHION)[0], image)
    np.testing.assert_array_equal(image_to_batch(negative, replace(FASHION, invert="never"))[0], 255 - image)


@pytest.mark.parametrize("brightness", [0, 127])
def test_a_picture_on_black_is_not_inverted(brightness: int) -> None:
    pixels = np.full((40, 60), brightness, np.uint8)
    pixels[1:-1, 1:-1] = 255
    data = saved(pixels)
    np.testing.assert_array_equal(image_to_batch(data, FASHION), image_to_batch(data, replace(FASHION, invert="never")))


def test_contain_centres_the_picture_on_black() -> None:
    batch = image_to_batch(saved(np.full((10, 20), 90, np.uint8)), FASHION)
    assert batch[0, 7:21].min() == batch.max() == 90
    assert batch[0, :7].max() == batch[0, 21:].max() == 0


def test_stretch_shows_the_whole_picture_without_margins() -> None:
    halves = np.repeat(np.array([[40, 200]], np.uint8), 5, axis=1).repeat(3, axis=0)  # 3 x 10: dark left, bright right
    batch = image_to_batch(saved(halves), replace(FASHION, fit="stretch", invert="never"))
    assert (batch[0, :, :14] == 40).all() and (batch[0, :, 14:] == 200).all()


# Formats


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True}), ("GIF", {}), ("JPEG", {"quality": 95})],
)
def test_every_format_gives_the_same_pixels(kind: str, options: dict[str, Any]) -> None:
    pixels = np.repeat(np.arange(0, 250, 25, dtype=np.uint8), 10).reshape(10, 10)
    tolerance = 4 if kind == "JPEG" else 0
    np.testing.assert_allclose(decode(saved(pixels, kind, **options))[:, :, 0].astype(int), pixels, atol=tolerance)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_jpeg_is_shown_upright(orientation: int) -> None:
    upright = smooth(32, 48)
    undo = {6: 8, 8: 6}.get(orientation, orientation)
    stored = np.array(make.orient(upright.tolist(), undo), np.uint8)
    exif = PIL.Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0112] = orientation
    got = decode(saved(stored, "JPEG", quality=95, subsampling=0, exif=exif))
    # JPEG is lossy; a mirrored or rotated picture would differ by a hundred.
    np.testing.assert_allclose(got.astype(int), upright, atol=4)


def test_only_exif_turns_a_jpeg() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
    pixels = smooth(16, 24)
    np.testing.assert_array_equal(decode(saved(pixels, "JPEG", xmp=xmp)), decode(saved(pixels, "JPEG")))


@pytest.mark.parametrize("exif", [b"", b"II*\0", make.exif(6)[:20], b"MM\0*\xff\xff\xff\xff", b"nonsense"])
def test_broken_exif_is_ignored(exif: bytes) -> None:
    pixels = smooth(16, 24)
    broken = saved(pixels, "WEBP", lossless=True, exif=b"Exif\0\0" + exif)
    np.testing.assert_array_equal(decode(broken), pixels)


def test_a_photo_with_a_second_picture_inside_is_its_first_picture() -> None:
    """Phones write such files (MPO): a preview or a depth map follows the photo."""
    photo, preview = smooth(32, 48), PIL.Image.new("RGB", (8, 8))
    exif = PIL.Image.Exif()
    exif[0x0112] = 3
    data = saved(photo, "MPO", save_all=True, append_images=[preview], quality=95, exif=exif)
    np.testing.assert_allclose(decode(data).astype(int), photo[::-1, ::-1], atol=8)


def test_a_transparent_gif_is_blended_over_white() -> None:
    picture = PIL.Image.new("P", (4, 4), 1)
    picture.putpalette([9, 9, 9, 200, 10, 10])
    picture.putpixel((0, 0), 0)
    stream = io.BytesIO()
    picture.save(stream, "GIF", transparency=1)
    pixels = decode(stream.getvalue())
    assert pixels[0, 0].tolist() == [9, 9, 9]
    assert (pixels[1:] == 255).all()


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    stream = io.BytesIO()
    PIL.Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(stream, "JPEG")
    np.testing.assert_allclose(decode(stream.getvalue())[4, 4].astype(int), [255, 0, 0], atol=4)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "WEBP"])
def test_an_animation_is_refused(kind: str) -> None:
    frames = [PIL.Image.new("L", (8, 8), value) for value in (0, 100, 200)]
    stream = io.BytesIO()
    frames[0].save(stream, kind, save_all=True, append_images=frames[1:])
    with pytest.raises(errors.ImageError, match="animated: got 3 frames"):
        decode(stream.getvalue())


# Pictures that are too large


@pytest.fixture
def never_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(picture: PIL.ImageFile.ImageFile) -> NoReturn:
        pytest.fail(f"{picture.format} was decoded")

    monkeypatch.setattr(PIL.ImageFile.ImageFile, "load", load)
    monkeypatch.setattr(PIL.WebPImagePlugin.WebPImageFile, "load", load)


def enormous() -> Iterator[bytes]:
    yield (GOLDEN / "enormous_60000x60000.png").read_bytes()
    yield b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"\x2c" + struct.pack("<4HBB", 0, 0, 9, 9, 0, 2)
    bmp = bytearray(saved(smooth(8, 8), "BMP"))
    bmp[18:26] = struct.pack("<ii", 40000, 40000)
    yield bytes(bmp)
    jpeg = bytearray(saved(smooth(8, 8), "JPEG"))
    size = jpeg.index(b"\xff\xc0") + 5
    jpeg[size : size + 4] = struct.pack(">HH", 65000, 65000)
    yield bytes(jpeg)


@pytest.mark.usefixtures("never_decoding")
@pytest.mark.parametrize("data", list(enormous()), ids=["png", "gif", "bmp", "jpeg"])
def test_an_enormous_picture_is_refused_before_it_is_decoded(data: bytes) -> None:
    assert len(data) < 2000
    with pytest.raises(errors.ImageTooLarge, match="the limit is 50000000"):
        decode(data)


@pytest.mark.usefixtures("never_decoding")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_one_pixel_over_the_limit_is_refused_before_it_is_decoded(kind: str) -> None:
    with pytest.raises(errors.ImageTooLarge, match="10 x 10 = 100 pixels, the limit is 99"):
        decode(saved(np.zeros((10, 10), np.uint8), kind), max_pixels=99)


def test_a_picture_at_the_limit_is_accepted() -> None:
    assert decode(saved(np.zeros((10, 10), np.uint8)), max_pixels=100).shape == (10, 10, 1)


@pytest.mark.parametrize("fits", FITS)
@pytest.mark.parametrize("shape", [(2, 2_000_000, 3), (2_000_000, 2, 3), (2000, 2000, 3)])
def test_resampling_takes_little_more_memory_than_the_picture(shape: tuple[int, int, int], fits: str) -> None:
    pixels = np.zeros(shape, np.uint8)
    tracemalloc.start()
    try:
        fit(pixels, ImageSpec(28, 28, 3, fit=fits))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.5 * pixels.nbytes


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["RGBA", "RGB", "LA", "L"])
def test_flattening_holds_little_more_than_its_result(mode: str, channels: int) -> None:
    """Pillow's own memory, 4 bytes a pixel, is not traced."""
    stream = io.BytesIO()
    PIL.Image.new(mode, (2500, 2000)).save(stream, "PNG")
    tracemalloc.start()
    try:
        result = decode(stream.getvalue(), channels=channels)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.shape[2] == (channels if mode.startswith("RGB") else 1)
    assert peak < result.nbytes + 10_000_000
    assert held_bytes(stream.getvalue()) == HELD_BYTES * 2500 * 2000


def test_what_is_no_picture_holds_nothing() -> None:
    assert [held_bytes(data) for data in (b"", b"text", saved(np.zeros((9, 9), np.uint8))[:20])] == [0, 0, 0]


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: str(case["name"]))
def test_a_picture_is_the_same_in_strips_of_a_few_rows(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    data, spec = (GOLDEN / case["file"]).read_bytes(), ImageSpec(**case["spec"])
    whole = image_to_batch(data, spec)
    monkeypatch.setattr("contract.image.STRIP", 50)
    np.testing.assert_array_equal(image_to_batch(data, spec), whole)
    np.testing.assert_array_equal(fit(decode(data), spec)[np.newaxis], whole)


def test_every_alpha_over_every_value_and_a_million_colours_follow_the_rules() -> None:
    alpha, value = np.mgrid[:256, :256].astype(np.uint8)
    colour = value[:, :, np.newaxis]
    stream = io.BytesIO()
    PIL.Image.merge("LA", [PIL.Image.fromarray(value), PIL.Image.fromarray(alpha)]).save(stream, "PNG")
    a = alpha[:, :, np.newaxis].astype(np.int64)
    np.testing.assert_array_equal(decode(stream.getvalue()), (colour * a + 255 * (255 - a) + 127) // 255)
    colours = np.random.default_rng(3).integers(0, 256, (1000, 1000, 3), np.uint8)
    red, green, blue = np.moveaxis(colours.astype(np.int64), 2, 0)
    grey = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    np.testing.assert_array_equal(decode(saved(colours), channels=1)[:, :, 0], grey)


# Broken files


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def flip_bytes(data: bytes, rng: random.Random) -> bytes:
    broken = bytearray(data)
    for _ in range(rng.choice((1, 2, 10, 50))):
        broken[rng.randrange(len(broken))] = rng.randrange(256)
    return bytes(broken)


def flip_header(data: bytes, rng: random.Random) -> bytes:
    return flip_bytes(data[:64], rng) + data[64:]


def repeat_a_piece(data: bytes, rng: random.Random) -> bytes:
    start, stop = sorted(rng.choices(range(len(data) + 1), k=2))
    return data[:stop] + data[start:]


def drop_a_piece(data: bytes, rng: random.Random) -> bytes:
    start, stop = sorted(rng.choices(range(len(data) + 1), k=2))
    return data[:start] + data[stop:]


def whole_files() -> dict[str, list[bytes]]:
    photo, exif = smooth(40, 30), b"Exif\0\0" + make.exif(6)
    grey = photo[:, :, 0]
    palette = PIL.Image.fromarray(photo).quantize(16)
    stream = io.BytesIO()
    palette.save(stream, "GIF", transparency=3)
    return {
        "golden": [path.read_bytes() for path in sorted(GOLDEN.glob("*.[pg][ni][gf]")) if path.stat().st_size],
        "jpeg": [
            saved(photo, "JPEG", exif=exif),
            saved(photo, "JPEG", progressive=True),
            saved(grey, "JPEG"),
        ],
        "gif": [stream.getvalue(), saved(grey, "GIF")],
        "webp": [saved(photo, "WEBP", exif=exif), saved(photo, "WEBP", lossless=True)],
        "bmp": [saved(photo, "BMP"), saved(grey, "BMP")],
    }


def test_an_error_after_the_pixels_is_an_image_error_too() -> None:
    """Most broken pixels raise OSError; this chunk raises ValueError."""
    late = make.chunk(b"tRNS", b"\0")
    with pytest.raises(errors.ImageError, match="truncated or broken"):
        decode(make.encode(make.noise("late", make.RGB, 8, 4, 4), make.Layout(after=(late,))))


@pytest.mark.parametrize("damage", [cut, flip_bytes, flip_header, repeat_a_piece, drop_a_piece])
@pytest.mark.parametrize("kind", list(whole_files()))
def test_a_broken_file_raises_nothing_but_image_errors(
    kind: str, damage: Callable[[bytes, random.Random], bytes]
) -> None:
    rng = random.Random(f"{kind} {damage.__name__}")
    files, refused = whole_files()[kind], 0
    for _ in range(60):
        try:
            batch = image_to_batch(damage(rng.choice(files), rng), FASHION, max_pixels=1_000_000)
        except errors.ImageError:
            refused += 1
        else:
            assert batch.shape == (1, 28, 28, 1)
    assert refused or kind == "bmp"  # BMP has no checksums, and its pixels may be anywhere
