"""A photo of 12 megapixels, from JPEG to the model's pixels: the service's own way beside Pillow's decode and resize.

Both run in this process, in turns, on one thread. Pillow's way is shorter: it turns no photo upright, mixes no
transparency, and rounds what the page would round otherwise.
"""

import io
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import PIL.Image

from bench.serving.result import Row
from bench.serving.setting import Setting
from contract.image import image_to_batch
from contract.manifest import ImageSpec

PHOTO = (4000, 3000)
TARGET = 1.3
"""The most that the service's way may take, as a multiple of Pillow's."""


def large_photo(setting: Setting) -> list[Row]:
    """To the pixels of the model itself, grey and 28 pixels wide, and to what most networks take."""
    image = setting.model.manifest.image
    assert image is not None
    usual = replace(image, height=224, width=224, channels=3, fit="stretch", invert="never")
    data = photo()
    return [row for spec in (image, usual) for row in _beside_pillow(data, spec, setting.rounds)]


def _beside_pillow(data: bytes, image: ImageSpec, rounds: int) -> list[Row]:
    size, mode = (image.width, image.height), "RGB" if image.channels == 3 else "L"
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: image_to_batch(data, image),
        "Pillow": lambda: PIL.Image.open(io.BytesIO(data)).convert(mode).resize(size, PIL.Image.Resampling.BOX),
    }
    turns = [{name: seconds_of(way) for name, way in ways.items()} for _ in range(rounds)]
    measure = f"A JPEG of {PHOTO[0]} x {PHOTO[1]} pixels, to {image.height} x {image.width} x {image.channels}"
    times = {name: statistics.median(turn[name] for turn in turns) for name in ways}
    ratio = statistics.median(turn["ours"] / turn["Pillow"] for turn in turns)
    return [
        Row(
            measure,
            "ours",
            {"ms": 1e3 * times["ours"], "times Pillow": ratio},
            target=f"<= {TARGET:g} times Pillow",
            reached=ratio <= TARGET,
        ),
        Row(measure, "Pillow", {"ms": 1e3 * times["Pillow"]}),
    ]


def photo(seed: int = 1) -> bytes:
    """A JPEG of PHOTO's size, with details as a camera's."""
    grains = np.random.default_rng(seed).integers(0, 255, (PHOTO[1] // 10, PHOTO[0] // 10, 3), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(grains).resize(PHOTO, PIL.Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    return file.getvalue()


def seconds_of(way: Callable[[], object]) -> float:
    start = time.perf_counter()
    way()
    return time.perf_counter() - start
