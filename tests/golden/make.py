"""Make the golden files: pictures, and the exact tensors that they must become.

    python -m tests.golden.make        writes cases.json, the pictures and the tensors beside this file

`contract/image.py` and `web/src/image.ts` are both held to them, so neither is used here. The pictures are written
by the small PNG encoder below, and the tensors are computed from the encoder's *input* by `reference`: the rules in
the docstring of `contract/image.py`, step by step, in plain integers and fractions, as slow as they come.

`cases.json` holds {"cases": [{"name", "file", "spec", "tensor"}], "errors": [{"file", "error"}]}. A tensor is raw
unsigned bytes, height x width x channels; an error is the name of a class in `contract/errors.py`.
"""

import json
import random
import struct
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import cycle
from math import floor
from pathlib import Path

from contract.manifest import FITS, ImageSpec

Pixel = tuple[int, ...]
Rows = list[list[Pixel]]

GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
"""PNG's colour types."""
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}

FASHION = ImageSpec(28, 28, 1, fit="contain", invert="auto")
CIFAR = ImageSpec(32, 32, 3, fit="cover", invert="never")
LOPSIDED = ImageSpec(20, 28, 3, fit="contain", invert="auto")
STRETCHED = ImageSpec(12, 17, 3, fit="stretch")


@dataclass(frozen=True)
class Picture:
    """What a PNG file says: `rows[y][x]` is one pixel's samples, each of `depth` bits, before any scaling."""

    kind: int
    depth: int
    rows: Rows
    palette: tuple[Pixel, ...] = ()
    transparency: tuple[int, ...] = ()
    """The tRNS chunk: the palette's alphas, or the samples of the colour key."""
    orientation: int = 1


# The reference -------------------------------------------------------------------------------------------------


def reference(picture: Picture, spec: ImageSpec) -> bytes:
    """The tensor that `picture` must become: height x width x channels bytes."""
    rows = flatten(orient(decode(picture), picture.orientation))
    rows = invert(colour(rows, spec.channels), spec.invert)
    return bytes(value for row in fit(rows, spec) for pixel in row for value in pixel)


def decode(picture: Picture) -> Rows:
    """Step 1: samples -> pixels of 8 bits, with an alpha value at their end."""
    return [[_decoded(picture, samples) for samples in row] for row in picture.rows]


def _decoded(picture: Picture, samples: Pixel) -> Pixel:
    if picture.kind == PALETTE:
        (index,) = samples
        return *picture.palette[index], picture.transparency[index] if index < len(picture.transparency) else 255
    if picture.depth == 16:
        values = tuple(sample // 256 for sample in samples)
    else:
        values = tuple(sample * 255 // (2**picture.depth - 1) for sample in samples)
    if picture.kind in (GREY_ALPHA, RGBA):
        return values
    # Only as many low bits of the key count as a sample has.
    key = tuple(value % 2**picture.depth for value in picture.transparency)
    return *values, 0 if key == samples and picture.depth < 16 else 255


def orient(rows: Rows, orientation: int) -> Rows:
    """Step 2. EXIF says at which side of the scene the file's row 0 and column 0 lie."""
    height, width = len(rows), len(rows[0])
    bottom, right = height - 1, width - 1
    source: dict[int, Callable[[int, int], Pixel]] = {
        1: lambda y, x: rows[y][x],  # top, left
        2: lambda y, x: rows[y][right - x],  # top, right
        3: lambda y, x: rows[bottom - y][right - x],  # bottom, right
        4: lambda y, x: rows[bottom - y][x],  # bottom, left
        5: lambda y, x: rows[x][y],  # left, top
        6: lambda y, x: rows[bottom - x][y],  # right, top
        7: lambda y, x: rows[bottom - x][right - y],  # right, bottom
        8: lambda y, x: rows[x][right - y],  # left, bottom
    }
    if orientation in (5, 6, 7, 8):
        height, width = width, height
    pixel = source.get(orientation, source[1])
    return [[pixel(y, x) for x in range(width)] for y in range(height)]


def flatten(rows: Rows) -> Rows:
    """Step 3: alpha over white."""
    return [[tuple((c * a + 255 * (255 - a) + 127) // 255 for c in values) for *values, a in row] for row in rows]


def colour(rows: Rows, channels: int) -> Rows:
    """Step 4."""
    if channels == 1:
        return [[(grey(pixel),) for pixel in row] for row in rows]
    return [[pixel if len(pixel) == 3 else pixel * 3 for pixel in row] for row in rows]


def grey(pixel: Pixel) -> int:
    """BT.601 luma."""
    if len(pixel) == 1:
        return pixel[0]
    red, green, blue = pixel
    return (19595 * red + 38470 * green + 7471 * blue + 32768) // 65536


def invert(rows: Rows, how: str) -> Rows:
    """Step 5."""
    height, width = len(rows), len(rows[0])
    ring = [rows[y][x] for y in range(height) for x in range(width) if y in (0, height - 1) or x in (0, width - 1)]
    bright = sum(grey(pixel) > 127 for pixel in ring)
    if how == "auto" and Fraction(bright, len(ring)) > Fraction(2, 3):
        return [[tuple(255 - value for value in pixel) for pixel in row] for row in rows]
    return rows


def fit(rows: Rows, spec: ImageSpec) -> Rows:
    """Steps 6 and 7."""
    height, width = len(rows), len(rows[0])
    if spec.fit == "stretch":
        return area(rows, spec.height, spec.width)
    scales = Fraction(spec.height, height), Fraction(spec.width, width)
    if spec.fit == "cover":
        scale = max(scales)
        inner_height, inner_width = (max(1, half_up(size / scale)) for size in (spec.height, spec.width))
        top, left = (height - inner_height) // 2, (width - inner_width) // 2
        rows = [row[left : left + inner_width] for row in rows[top : top + inner_height]]
        return area(rows, spec.height, spec.width)
    scale = min(scales)
    inner_height, inner_width = (max(1, half_up(size * scale)) for size in (height, width))
    top, left = (spec.height - inner_height) // 2, (spec.width - inner_width) // 2
    result: Rows = [[(0,) * spec.channels for _ in range(spec.width)] for _ in range(spec.height)]
    for y, row in enumerate(area(rows, inner_height, inner_width)):
        result[top + y][left : left + inner_width] = row
    return result


def area(rows: Rows, height: int, width: int) -> Rows:
    """Step 7: the mean of what each target pixel covers."""
    vertical = [list(covered(len(rows), height, y)) for y in range(height)]
    horizontal = [list(covered(len(rows[0]), width, x)) for x in range(width)]
    whole = Fraction(len(rows), height) * Fraction(len(rows[0]), width)
    return [
        [
            tuple(
                half_up(sum(down * across * rows[y][x][channel] for y, down in ys for x, across in xs) / whole)
                for channel in range(len(rows[0][0]))
            )
            for xs in horizontal
        ]
        for ys in vertical
    ]


def covered(size: int, count: int, target: int) -> Iterator[tuple[int, Fraction]]:
    """Which of `size` pixels the target-th of `count` equal spans covers, and how much of each."""
    start, stop = Fraction(target * size, count), Fraction((target + 1) * size, count)
    for index in range(floor(start), size):
        overlap = min(stop, Fraction(index + 1)) - max(start, Fraction(index))
        if overlap <= 0:
            return
        yield index, overlap


def half_up(value: Fraction) -> int:
    return floor(value + Fraction(1, 2))


# The PNG encoder -----------------------------------------------------------------------------------------------

ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row, step across, step down of each pass."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Layout:
    """How a picture is written down; none of it may change what it becomes."""

    adam7: bool = False
    filters: tuple[int, ...] = (1, 2, 3, 4, 0)
    """The scanlines' filters, in turn: 0 none, 1 sub, 2 up, 3 average, 4 Paeth."""
    before: tuple[bytes, ...] = ()
    """Chunks between the header and the palette."""
    after: tuple[bytes, ...] = ()
    """Chunks between the picture's data and the end."""
    idat: int = 1 << 20
    """The most bytes in one IDAT chunk."""


def encode(picture: Picture, layout: Layout | None = None) -> bytes:
    """The bytes of a PNG file."""
    layout = layout or Layout()
    chunks = [header(picture, layout.adam7), *layout.before]
    if picture.palette:
        chunks.append(chunk(b"PLTE", bytes(value for entry in picture.palette for value in entry)))
    if picture.transparency:
        chunks.append(chunk(b"tRNS", struct.pack(_transparency_format(picture), *picture.transparency)))
    if picture.orientation != 1 and not layout.after:
        chunks.append(chunk(b"eXIf", exif(picture.orientation)))
    data = zlib.compress(scanlines(picture, layout), 9)
    chunks += [chunk(b"IDAT", data[start : start + layout.idat]) for start in range(0, len(data), layout.idat)]
    return b"".join([SIGNATURE, *chunks, *layout.after, chunk(b"IEND", b"")])


def _transparency_format(picture: Picture) -> str:
    return f">{len(picture.transparency)}{'B' if picture.kind == PALETTE else 'H'}"


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def header(picture: Picture, adam7: bool = False) -> bytes:
    height, width = len(picture.rows), len(picture.rows[0])
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, picture.depth, picture.kind, 0, 0, int(adam7)))


def exif(orientation: int, order: str = "<") -> bytes:
    """A TIFF header and a directory: the width, then the orientation. `order` is "<" (Intel) or ">" (Motorola)."""
    mark = b"II" if order == "<" else b"MM"
    entries = struct.pack(order + "HHIIHHIHH", 0x0100, 4, 1, 8, 0x0112, 3, 1, orientation, 0)
    return mark + struct.pack(order + "HIH", 42, 8, 2) + entries + bytes(4)


def scanlines(picture: Picture, layout: Layout) -> bytes:
    """The filtered rows, of the whole picture or of the seven passes over it."""
    step = max(1, CHANNELS[picture.kind] * picture.depth // 8)
    passes = [picture.rows]
    if layout.adam7:
        passes = [[row[left::across] for row in picture.rows[top::down]] for left, top, across, down in ADAM7]
    result = b""
    for rows in passes:
        filters, above = cycle(layout.filters), b""
        for row in rows if rows and rows[0] else []:
            packed = pack(row, picture.depth)
            above = above or bytes(len(packed))
            result += filtered(next(filters), packed, above, step)
            above = packed
    return result


def pack(row: list[Pixel], depth: int) -> bytes:
    """Samples -> bytes, the leftmost in the highest bits."""
    bits = "".join(f"{sample:0{depth}b}" for pixel in row for sample in pixel)
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def filtered(kind: int, row: bytes, above: bytes, step: int) -> bytes:
    """One scanline: the filter's number, then each byte less what the filter predicts."""
    left, corner = ((bytes(step) + line)[: len(row)] for line in (row, above))
    predict = PREDICTORS[kind]
    neighbours = zip(row, left, above, corner, strict=True)
    return bytes([kind, *((value - predict(a, b, c)) % 256 for value, a, b, c in neighbours)])


def paeth(left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    return min((left, above, corner), key=lambda value: abs(guess - value))


PREDICTORS: tuple[Callable[[int, int, int], int], ...] = (
    lambda left, above, corner: 0,
    lambda left, above, corner: left,
    lambda left, above, corner: above,
    lambda left, above, corner: (left + above) // 2,
    paeth,
)


# The pictures --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Golden:
    """One file, and the specs that it is turned into tensors with."""

    name: str
    picture: Picture
    specs: Sequence[ImageSpec]
    layout: Layout = Layout()


def noise(name: str, kind: int, depth: int, width: int, height: int, transparency: Pixel = ()) -> Picture:
    """Random samples, the same for the same name; a palette where the colour type wants one."""
    bits = random.Random(name).getrandbits
    rows: Rows = [[tuple(bits(depth) for _ in range(CHANNELS[kind])) for _ in range(width)] for _ in range(height)]
    palette = tuple((bits(8), bits(8), bits(8)) for _ in range(2**depth)) if kind == PALETTE else ()
    return Picture(kind, depth, rows, palette, transparency)


def as_it_is(picture: Picture, invert: str = "never") -> ImageSpec:
    """The spec that leaves the picture's pixels as they were decoded."""
    return ImageSpec(len(picture.rows), len(picture.rows[0]), 3, invert=invert)


def every_kind() -> Iterator[Golden]:
    """Every colour type at every depth, once as it is and once for Fashion-MNIST, row by row and interlaced."""
    depths = {GREY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GREY_ALPHA: (8, 16), RGBA: (8, 16)}
    names = {GREY: "grey", RGB: "rgb", PALETTE: "palette", GREY_ALPHA: "grey_alpha", RGBA: "rgba"}
    for kind, depth in [(kind, depth) for kind, several in depths.items() for depth in several]:
        name = f"{names[kind]}_{depth}"
        picture = noise(name, kind, depth, 13, 9)
        yield Golden(name, picture, [as_it_is(picture), FASHION])
        yield Golden(f"{name}_adam7", picture, [as_it_is(picture)], Layout(adam7=True, filters=(4, 3, 2, 1)))


def transparent() -> Iterator[Golden]:
    """Palettes with alpha, and colour keys, which 16-bit pictures are too ragged to have."""
    for depth, alphas in ((1, (128,)), (2, (0, 77, 200)), (4, (255, 0)), (8, tuple(range(256)))):
        picture = noise(f"palette_{depth}_alpha", PALETTE, depth, 11, 7, transparency=alphas)
        yield Golden(f"palette_{depth}_alpha", picture, [as_it_is(picture), LOPSIDED])
    for name, kind, depth in (
        *((f"grey_{depth}_key", GREY, depth) for depth in (1, 2, 4, 8, 16)),
        *((f"rgb_{depth}_key", RGB, depth) for depth in (8, 16)),
    ):
        picture = noise(name, kind, depth, 10, 6)
        for suffix, key in (("", picture.rows[2][3]), ("_other", tuple(2**depth - 1 - v for v in picture.rows[2][3]))):
            keyed = replace(picture, transparency=key)
            yield Golden(f"{name}{suffix}", keyed, [as_it_is(picture)], Layout(adam7=bool(suffix)))
    picture = noise("rgb_8_key_high_bits", RGB, 8, 4, 4)
    high_bits = tuple(value + 256 for value in picture.rows[1][1])
    yield Golden("rgb_8_key_high_bits", replace(picture, transparency=high_bits), [as_it_is(picture)])
    for name, kind in (("grey_16_key_black", GREY), ("rgb_16_key_black", RGB)):
        black = (0,) * CHANNELS[kind]
        picture = Picture(kind, 16, [[black, (9000,) * CHANNELS[kind], black]], transparency=black)
        yield Golden(name, picture, [as_it_is(picture)])


def roundings() -> Iterator[Golden]:
    """Values that lie on the edge between two results."""
    halves = Picture(GREY, 8, [[(0,), (1,)], [(1,), (0,)]])
    yield Golden("half_rounds_up", halves, [ImageSpec(1, 1, 1), ImageSpec(1, 2, 1), ImageSpec(3, 3, 3, fit="cover")])
    edges: list[Pixel] = [(c, a) for a in range(1, 255) for c in range(256) if c * a % 255 in (127, 128)]
    alphas = Picture(GREY_ALPHA, 8, [edges[:20], edges[-20:]])
    yield Golden("alpha_rounds", alphas, [as_it_is(alphas)])
    # Their weighted sums end in 32767 / 65536 and in 32768 / 65536: a weight that is off by one shows.
    below: list[Pixel] = [(61, 244, 88), (69, 252, 96), (204, 162, 65), (228, 186, 89), (252, 210, 113)]
    above: list[Pixel] = [(61, 113, 245), (70, 122, 254), (80, 253, 62), (234, 61, 252), (253, 201, 69)]
    colours = Picture(RGB, 8, [below, above])
    yield Golden("grey_rounds", colours, [replace(as_it_is(colours), channels=1)])


def sizes() -> Iterator[Golden]:
    """Awkward sizes, each in every fit."""
    tall = ImageSpec(28, 9, 3, fit="cover", invert="auto")
    for width, height in (
        (1, 1), (1, 7), (9, 1), (2, 2), (3, 5), (5, 7), (14, 14), (27, 28), (28, 27), (29, 31), (56, 56), (57, 85),
    ):  # fmt: skip
        name = f"size_{width}x{height}"
        yield Golden(name, noise(name, GREY, 8, width, height), [FASHION, LOPSIDED, tall, STRETCHED])
    for width, height in ((700, 3), (2, 500), (1, 1000), (997, 1)):
        name = f"size_{width}x{height}"
        yield Golden(name, noise(name, RGB, 8, width, height), [FASHION, replace(CIFAR, channels=1), tall, STRETCHED])


def shoe(background: int, leather: int) -> Picture:
    """A low shoe on a shaded ground, 200 x 150."""

    def value(x: int, y: int) -> Pixel:
        sole = 25 < x < 178 and 104 <= y < 114
        toe = (x - 130) ** 2 * 4 + (y - 104) ** 2 * 9 < 8100 and y < 104
        heel = 28 < x < 110 and 50 + x // 6 <= y < 104
        if sole:
            return leather // 2, leather // 2, leather // 2
        if toe or heel:
            shade = (x + 2 * y) // 12
            return leather + shade, leather + shade // 2, leather
        ground = background + (x + y) // 50
        return ground, ground, min(255, ground + 2)

    return Picture(RGB, 8, [[value(x, y) for x in range(200)] for y in range(150)])


def products() -> Iterator[Golden]:
    """What people really send: a dark product on white (inverted), and one on black (as it is)."""
    fits = [replace(FASHION, fit=fit) for fit in FITS]
    specs = [*fits, LOPSIDED, CIFAR, replace(FASHION, invert="never")]
    yield Golden("shoe_on_white", shoe(246, 60), specs, Layout(idat=1000))
    yield Golden("shoe_on_black", shoe(6, 170), specs)
    rows: Rows = [[(170, 90, 40, 255 * ((x - 30) ** 2 + (y - 22) ** 2 < 400)) for x in range(60)] for y in range(45)]
    yield Golden("cut_out", Picture(RGBA, 8, rows), [FASHION, CIFAR])
    boot: Rows = [[(max(0, 250 - (x - 14) ** 2 * 3 - (y - 13) ** 2),) for x in range(28)] for y in range(28)]
    yield Golden("already_28x28", Picture(GREY, 8, boot), fits)


def rings() -> Iterator[Golden]:
    """The rule of inversion at its edges: two thirds of the ring, brightness 127, the grey of a colour."""

    def ring(name: str, values: Sequence[Pixel], inside: int) -> Golden:
        around = iter(values)
        middle = (inside,) * len(values[0])
        rows = [[middle if 0 < x < 3 and 0 < y < 3 else next(around) for x in range(4)] for y in range(4)]
        picture = Picture(GREY if len(values[0]) == 1 else RGB, 8, rows)
        return Golden(name, picture, [as_it_is(picture, "auto"), FASHION])

    yield ring("ring_8_of_12_bright", [(200,)] * 8 + [(100,)] * 4, 30)
    yield ring("ring_9_of_12_bright", [(200,)] * 9 + [(100,)] * 3, 30)
    yield ring("ring_of_127", [(127,)] * 12, 200)
    yield ring("ring_of_128", [(128,)] * 12, 200)
    yield ring("ring_red", [(255, 0, 0)] * 12, 250)
    yield ring("ring_yellow", [(255, 255, 0)] * 12, 250)
    yield ring("ring_grey_127", [(254, 73, 73)] * 12, 0)
    yield ring("ring_grey_128", [(255, 73, 73)] * 12, 0)


def chunks() -> Iterator[Golden]:
    """Orientations, which count, and colour management, which does not."""
    yield from orientations()
    gamma = chunk(b"gAMA", struct.pack(">I", 100000))
    srgb = chunk(b"sRGB", b"\0")
    profile = chunk(b"iCCP", b"swapped\0\0" + zlib.compress(swapped_profile(), 9))
    for name, kind, before in (
        ("gamma_rgb", RGB, (gamma,)),
        ("gamma_grey", GREY, (gamma,)),
        ("srgb_rgb", RGB, (gamma, srgb)),
        ("profile_rgb", RGB, (profile,)),
        ("profile_palette", PALETTE, (profile,)),
    ):
        picture = noise(name, kind, 8, 6, 5)
        yield Golden(name, picture, [as_it_is(picture)], Layout(before=before))


def orientations() -> Iterator[Golden]:
    """Every EXIF orientation, in both byte orders, and what must not be taken for one."""
    for orientation in range(1, 10):
        picture = replace(noise("exif", RGB, 8, 5, 3), orientation=orientation)
        spec = as_it_is(replace(picture, rows=orient(picture.rows, orientation)))
        yield Golden(f"exif_{orientation}", picture, [spec])
    motorola = replace(noise("exif_motorola", GREY_ALPHA, 8, 40, 20), orientation=6)
    yield Golden("exif_motorola_at_end", motorola, [FASHION], Layout(after=(chunk(b"eXIf", exif(6, ">")),)))
    for name, kind, depth in (("grey_1", GREY, 1), ("palette_4", PALETTE, 4), ("grey_16", GREY, 16)):
        picture = replace(noise(f"exif_{name}", kind, depth, 7, 4), orientation=8)
        yield Golden(f"exif_{name}", picture, [FASHION])
    upright = noise("upright", RGB, 8, 5, 3)
    xmp = b"XML:com.adobe.xmp\0\0\0\0\0" + b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"/>'
    cut = exif(6)[:12]
    far = b"II*\0\xff\xff\xff\xff" + exif(6)[8:]
    for name, ignored in (
        ("exif_cut", chunk(b"eXIf", cut)),
        ("exif_far", chunk(b"eXIf", far)),
        ("exif_text", chunk(b"eXIf", b"no EXIF at all")),
        ("xmp_orientation", chunk(b"iTXt", xmp)),
    ):
        yield Golden(name, upright, [as_it_is(upright)], Layout(before=(ignored,)))


def swapped_profile() -> bytes:
    """An ICC profile that a decoder must not apply: it shows red as blue."""

    def xyz(*values: float) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))

    curve = b"curv\0\0\0\0" + struct.pack(">I", 1) + struct.pack(">HH", 0x0233, 0)
    text = b"text\0\0\0\0none" + b"\0" * 4
    name = b"swapped\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(78)
    tags = {
        b"desc": description + bytes(-len(description) % 4),
        b"cprt": text,
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
        b"rXYZ": xyz(0.1431, 0.0606, 0.7141),
        b"gXYZ": xyz(0.3851, 0.7169, 0.0971),
        b"bXYZ": xyz(0.4361, 0.2225, 0.0139),
        b"rTRC": curve,
        b"gTRC": curve,
        b"bTRC": curve,
    }
    offset, table, data = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        table += tag + struct.pack(">II", offset + len(data), len(content))
        data += content
    white = struct.pack(">3i", *(round(value * 65536) for value in (0.9642, 1.0, 0.8249)))
    head = struct.pack(">I4sI4s4s4s", offset + len(data), b"\0\0\0\0", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head += struct.pack(">6H4s", 2024, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + white
    return head.ljust(128, b"\0") + table + data


def goldens() -> Iterator[Golden]:
    for group in (every_kind, transparent, roundings, sizes, products, rings, chunks):
        yield from group()


# The files that must be refused --------------------------------------------------------------------------------


def refused() -> Iterator[tuple[str, bytes, str]]:
    """File name, content, name of the error."""
    picture = noise("refused", RGB, 8, 40, 30)
    whole = encode(picture)
    yield "empty.png", b"", "UnsupportedImage"
    yield "text.png", b"This is not a picture.\n", "UnsupportedImage"
    yield "drawing.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>\n', "UnsupportedImage"
    yield "picture.tiff", b"II*\0" + bytes(40), "UnsupportedImage"
    yield "phone.heic", struct.pack(">I", 24) + b"ftypmif1\0\0\0\0mif1heic" + bytes(40), "UnsupportedImage"
    yield "phone.avif", struct.pack(">I", 28) + b"ftypmif1\0\0\0\0mif1miafavif" + bytes(40), "UnsupportedImage"
    yield "truncated.png", whole[: len(whole) // 2], "ImageError"
    yield "short_data.png", _png(header(picture), zlib.compress(scanlines(picture, Layout())[:-200], 9)), "ImageError"
    yield "corrupt_zlib.png", _png(header(picture), b"\xff" * 500), "ImageError"
    enormous = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, RGB, 0, 0, 0))
    yield "enormous_60000x60000.png", _png(enormous, zlib.compress(bytes(1000), 9)), "ImageTooLarge"
    yield "animated.png", animated_png(), "ImageError"
    yield "animated.gif", animated_gif(), "ImageError"


def _png(head: bytes, data: bytes) -> bytes:
    return SIGNATURE + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def animated_png() -> bytes:
    """Two frames of 8 x 8."""
    frames = [noise(f"frame {number}", GREY, 8, 8, 8) for number in range(2)]
    data = [zlib.compress(scanlines(frame, Layout()), 9) for frame in frames]
    control = [chunk(b"fcTL", struct.pack(">5I2H2B", number, 8, 8, 0, 0, 1, 10, 0, 0)) for number in (0, 1)]
    parts = [header(frames[0]), chunk(b"acTL", struct.pack(">II", 2, 0)), control[0], chunk(b"IDAT", data[0])]
    parts += [control[1], chunk(b"fdAT", struct.pack(">I", 2) + data[1]), chunk(b"IEND", b"")]
    return SIGNATURE + b"".join(parts)


def animated_gif() -> bytes:
    """Two frames of 1 x 1, one black and one white."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    frame = b"\x21\xf9\x04\0\x0a\0\0\0" + b"\x2c" + struct.pack("<4HB", 0, 0, 1, 1, 0)
    # Codes of 3 bits: clear (4), the pixel, end (5).
    pixels = (bytes([2, 2, 0x44 | 0, 0x01, 0]), bytes([2, 2, 0x4C, 0x01, 0]))
    return screen + b"".join(frame + pixel for pixel in pixels) + b";"


# Writing it all down -------------------------------------------------------------------------------------------


def make(folder: Path) -> None:
    """Write the golden files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    cases, errors = [], []
    for golden in goldens():
        file = f"{golden.name}.png"
        (folder / file).write_bytes(encode(golden.picture, golden.layout))
        for spec in golden.specs:
            name = f"{golden.name}.{spec.height}x{spec.width}x{spec.channels}-{spec.fit}-{spec.invert}"
            (folder / f"{name}.bin").write_bytes(reference(golden.picture, spec))
            cases.append({"name": name, "file": file, "spec": asdict(spec), "tensor": f"{name}.bin"})
    for file, content, error in refused():
        (folder / file).write_bytes(content)
        errors.append({"file": file, "error": error})
    lines = ",\n".join(f"  {json.dumps(case)}" for case in cases)
    refusals = ",\n".join(f"  {json.dumps(error)}" for error in errors)
    (folder / "cases.json").write_text(f'{{"cases": [\n{lines}\n],\n"errors": [\n{refusals}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent)
