"""Any user's picture -> the canonical batch. `web/src/image.ts` is this file's twin, bit for bit.

The steps, in this order, all in unsigned 8-bit integers:

1.  decode   the first and only frame; 16-bit samples keep their high byte; colour profiles and gamma are ignored
2.  orient   by the EXIF orientation; a broken or missing one counts as 1, and XMP is ignored
3.  flatten  alpha is blended over white: (c * a + 255 * (255 - a) + 127) // 255. A PNG colour key is alpha 0; only its
             low bits count, as many as a sample has. It is ignored in 16-bit pictures, where decoders disagree
4.  colour   for one channel: (19595 R + 38470 G + 7471 B + 32768) >> 16 (BT.601); for three, grey is repeated
5.  invert   "auto": if the grey of more than two thirds of the pixels of the outermost ring is above 127, every value
             v becomes 255 - v: a product on white. None of the 70,000 pictures of Fashion-MNIST is inverted: their
             brightest ring has 57 % bright pixels. "never": no picture is inverted
6.  fit      "contain": the picture is scaled to lie within height x width, centred on 0;
             "cover": its centre is cropped to the aspect ratio, then scaled. Either way the inner size is rounded half
             up and is at least 1; where the margins cannot be equal, the top and left ones are smaller;
             "stretch": the whole picture is scaled to height x width, whatever its own aspect ratio
7.  resample "area": every target pixel is the mean of the source area that it covers, rounded half up

Steps 6 and 7 leave a picture of the model's own size unchanged. The result is float32, NHWC, 0..255.
"""

import io
import struct
from typing import Any

import numpy as np
import PIL.Image
from numpy.typing import NDArray
from PIL.Image import Transpose

from contract.errors import ImageError, ImageTooLarge, UnsupportedImage
from contract.manifest import ImageSpec

Pixels = NDArray[np.uint8]

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
PHONE_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC"}
"""What the `ftyp` box of a phone's photo names, the first that it has -> the format, which is not read."""
MAX_PIXELS = 50_000_000
"""Pictures with more pixels are refused before they are decoded."""

STRIP = 65_536
"""Pixels that are flattened at once."""

HELD_BYTES = 12
"""A pixel takes 4 bytes in Pillow, 4 more while it is turned, and up to 4 as an array."""

TRANSPOSES = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
"""The operation that undoes each EXIF orientation."""

# MAX_PIXELS is checked first; Pillow's own limit would warn below it.
PIL.Image.MAX_IMAGE_PIXELS = None


def image_to_batch(data: bytes, spec: ImageSpec, max_pixels: int = MAX_PIXELS) -> NDArray[np.float32]:
    """Turn a picture's bytes into the batch that a model takes: (1, height, width, channels), float32, 0..255.

    Raises ImageError or one of its subclasses for bytes that are not a usable picture.
    """
    return fit(decode(data, max_pixels, spec.channels), spec)[np.newaxis].astype(np.float32, order="C")


def held_bytes(data: bytes) -> int:
    """How many bytes a picture takes while it is decoded and scaled, by its header; 0 for what is not a picture."""
    try:
        with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return HELD_BYTES * picture.width * picture.height
    except Exception:  # `decode` says what is wrong with it
        return 0


def decode(data: bytes, max_pixels: int = MAX_PIXELS, channels: int = 3) -> Pixels:
    """Steps 1 to 3: bytes -> (H, W, 1) grey or (H, W, 3) RGB, uint8; with step 4, too, where one channel is wanted."""
    if not data:
        raise UnsupportedImage("The picture is empty: got 0 bytes. Send the bytes of a PNG or JPEG file.")
    try:
        picture = PIL.Image.open(io.BytesIO(data), formats=FORMATS)
    except PIL.UnidentifiedImageError:
        raise _unsupported(data) from None
    except Exception as error:  # decoders raise a dozen kinds of error on broken bytes
        raise ImageError(f"The picture's header is broken ({error}). Save it again, as PNG or JPEG.") from error
    with picture:
        width, height = picture.size
        if width * height > max_pixels:
            raise ImageTooLarge(
                f"The picture has {width} x {height} = {width * height} pixels, the limit is {max_pixels}. "
                "Make it smaller."
            )
        try:
            # A phone's photo may hold a second picture (MPO: a preview, a depth map), which does not make it animated.
            frames = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
            if frames == 1:
                return _flatten(picture, data, channels)
        except Exception as error:  # as for the header
            raise ImageError(
                f"The {picture.format} picture of {width} x {height} pixels is truncated or broken ({error}). "
                "Send the whole file, or save it again."
            ) from error
    raise ImageError(f"The {picture.format} picture is animated: got {frames} frames, expected 1. Send one frame.")


def _unsupported(data: bytes) -> UnsupportedImage:
    box = data[: min(int.from_bytes(data[:4]), 256)] if data[4:8] == b"ftyp" else b""
    brands = [box[at : at + 4] for at in range(8, len(box), 4)]
    for brand, format in PHONE_BRANDS.items():
        if brand in brands:
            return UnsupportedImage(f"{format} pictures are not read. Save it as JPEG or PNG, and send that.")
    return UnsupportedImage(
        f"Not a picture in a supported format: got {len(data)} bytes that start with {data[:8].hex(' ')}. "
        f"Send one of {', '.join(FORMATS)}."
    )


def _flatten(picture: PIL.Image.Image, data: bytes, channels: int) -> Pixels:
    """The picture in strips, so that no more than one strip is held in wide integers, or in two forms."""
    picture.load()
    key = picture.info.get("transparency") if picture.mode != "P" else None
    depth = data[24] if picture.format == "PNG" else 8
    picture = _orient(picture)
    width, height = picture.size
    rows = max(1, STRIP // width)
    result: Pixels | None = None
    for top in range(0, height, rows):
        strip = picture.crop((0, top, width, min(top + rows, height)))
        pixels = _flatten_strip(strip, None if key is None or depth > 8 else _scaled_key(key, depth), channels)
        if result is None:
            result = np.empty((height, *pixels.shape[1:]), np.uint8)
        result[top : top + rows] = pixels
    assert result is not None  # a picture has at least one row
    return result


def _flatten_strip(picture: PIL.Image.Image, key: NDArray[Any] | None, channels: int) -> Pixels:
    if picture.mode.startswith("I;16") or picture.mode == "I":
        grey = np.asarray(picture) >> 8
        return grey.astype(np.uint8)[:, :, np.newaxis]
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA")
    elif picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode not in ("L", "LA", "RGB", "RGBA"):
        picture = picture.convert("RGB")
    if channels == 1 and picture.mode == "RGB" and key is None:
        picture = picture.convert("L")
    pixels = np.asarray(picture)
    if pixels.ndim == 2:
        pixels = pixels[:, :, np.newaxis]
    if picture.mode in ("LA", "RGBA"):
        pixels = _over_white(pixels[:, :, :-1], pixels[:, :, -1:])
        return _grey_by_pillow(pixels) if channels == 1 else pixels
    if key is not None:
        return np.where((pixels == key).all(axis=2, keepdims=True), np.uint8(255), pixels)
    return pixels


def _grey_by_pillow(pixels: Pixels) -> Pixels:
    """Pillow's formula is that of step 4, and three times as fast as NumPy."""
    if pixels.shape[2] == 1:
        return pixels
    return np.asarray(PIL.Image.fromarray(pixels).convert("L"))[:, :, np.newaxis]


def _scaled_key(key: Any, depth: int) -> NDArray[Any]:
    """Pillow scales samples of 1, 2 and 4 bits up to 8, but gives the key as it stands in the file."""
    highest = 2**depth - 1
    scaled: NDArray[Any] = (np.asarray(key).reshape(-1) & highest) * (255 // highest)
    return scaled


def _orient(picture: PIL.Image.Image) -> PIL.Image.Image:
    method = TRANSPOSES.get(_orientation(picture.info.get("exif", b"")))
    return picture if method is None else picture.transpose(method)


def _orientation(exif: bytes) -> int:
    """The orientation in an EXIF block, 1 if it has none. (Pillow's reader would also read XMP; browsers do not.)"""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for entry in range(entries):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, directory + 2 + 12 * entry)
            if (tag, kind) == (0x0112, 3):
                return int(value)
    except struct.error:  # it ends too early
        pass
    return 1


def _over_white(colour: Pixels, alpha: Pixels) -> Pixels:
    if (alpha == 255).all():
        return colour
    a = alpha.astype(np.uint16)
    blended = colour * a + 255 * (255 - a) + 127
    # to divide takes five times as long; for all that 16 bits hold but the last value, this is the same as // 255
    return ((blended + (blended >> 8) + 1) >> 8).astype(np.uint8)


def fit(pixels: Pixels, spec: ImageSpec) -> Pixels:
    """Steps 4 to 7: (H, W, 1 or 3) -> (height, width, channels), uint8."""
    pixels = _to_channels(pixels, spec.channels)
    if spec.invert == "auto" and _has_bright_ring(pixels):
        pixels = 255 - pixels
    resize = {"contain": _contain, "cover": _cover, "stretch": _area}[spec.fit]
    return resize(pixels, spec.height, spec.width)


def _to_channels(pixels: Pixels, channels: int) -> Pixels:
    if pixels.shape[2] == channels:
        return pixels
    return _grey(pixels) if channels == 1 else np.repeat(pixels, 3, axis=2)


def _grey(pixels: Pixels) -> Pixels:
    if pixels.shape[2] == 1:
        return pixels
    red, green, blue = (pixels[:, :, channel : channel + 1].astype(np.uint32) for channel in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(np.uint8)


def _has_bright_ring(pixels: Pixels) -> bool:
    height, width, channels = pixels.shape
    edges = pixels[:: max(1, height - 1)], pixels[1:-1, :: max(1, width - 1)]  # the first and the last of each
    ring = np.concatenate([edge.reshape(-1, 1, channels) for edge in edges])
    return bool(3 * np.count_nonzero(_grey(ring) > 127) > 2 * len(ring))


def _contain(pixels: Pixels, height: int, width: int) -> Pixels:
    source_height, source_width, channels = pixels.shape
    if source_width * height >= source_height * width:
        inner_height, inner_width = max(1, _divide(source_height * width, source_width)), width
    else:
        inner_height, inner_width = height, max(1, _divide(source_width * height, source_height))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    result = np.zeros((height, width, channels), np.uint8)
    result[top : top + inner_height, left : left + inner_width] = _area(pixels, inner_height, inner_width)
    return result


def _cover(pixels: Pixels, height: int, width: int) -> Pixels:
    source_height, source_width, _ = pixels.shape
    if source_width * height >= source_height * width:
        inner_height, inner_width = source_height, max(1, _divide(source_height * width, height))
    else:
        inner_height, inner_width = max(1, _divide(source_width * height, width)), source_width
    top, left = (source_height - inner_height) // 2, (source_width - inner_width) // 2
    return _area(pixels[top : top + inner_height, left : left + inner_width], height, width)


def _area(pixels: Pixels, height: int, width: int) -> Pixels:
    """Step 7. Sums are exact integers below 2**53, so that a JavaScript number holds them too."""
    source_height, source_width, _ = pixels.shape
    if (source_height, source_width) == (height, width):
        return pixels
    if height * source_width > 2 * source_height * width:  # columns go first where that keeps much less in between
        return _area(pixels.swapaxes(0, 1), width, height).swapaxes(0, 1)
    rows = _sum_spans(pixels, height)
    sums = _sum_spans(rows.swapaxes(0, 1), width).swapaxes(0, 1)
    means: Pixels = _divide(sums.astype(np.int64), source_height * source_width).astype(np.uint8)
    return means


def _sum_spans(pixels: NDArray[Any], count: int) -> NDArray[np.float64]:
    """Cut axis 0 into `count` equal spans and sum each; a whole source pixel weighs `count`.

    The sums are whole numbers that a float holds exactly, in whatever order they are added: below 2**24 or 2**53.
    """
    size = len(pixels)
    exact: Any = np.float32 if pixels.dtype == np.uint8 and 255 * size < 2**24 else np.float64
    result = np.empty((count, *pixels.shape[1:]))
    for target in range(count):
        start, stop = target * size, (target + 1) * size
        first, last = start // count, -(-stop // count)
        edges = np.arange(first, last + 1) * count
        covered = np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start)
        # one slice at a time: the whole picture is never held as floats
        span = pixels[first:last].astype(exact, order="C").reshape(last - first, -1)
        result[target] = (covered.astype(exact) @ span).reshape(pixels.shape[1:])
    return result


def _divide(dividend: Any, divisor: int) -> Any:
    """Divide, rounding half up, in integers."""
    return (2 * dividend + divisor) // (2 * divisor)
