"""The test pictures that the page offers, and the one picture that holds a thumbnail of each."""

import json
from pathlib import Path

import numpy as np
import PIL.Image

from verify.samples import PER_CLASS, write_samples


def test_each_sample_is_a_file_and_has_its_place_in_the_sprite(tmp_path: Path) -> None:
    folder = tmp_path / "samples"
    write_samples("fashion_mnist", folder)
    index = json.loads((folder / "index.json").read_bytes())
    assert len(index["samples"]) == 10 * PER_CLASS
    columns = index["sprite"]["columns"]
    with PIL.Image.open(folder / index["sprite"]["file"]) as sprite:
        assert sprite.size == (columns * 28, 10 * PER_CLASS // columns * 28)
        for place in (0, 1, columns, 10 * PER_CLASS - 1):
            row, column = divmod(place, columns)
            box = (28 * column, 28 * row, 28 * (column + 1), 28 * (row + 1))
            with PIL.Image.open(folder / index["samples"][place]["file"]) as sample:
                np.testing.assert_array_equal(np.asarray(sprite.crop(box).convert("L")), np.asarray(sample))
