"""Rows that the user has, as the inputs of a model: from a `.npz` or a `.csv` file.

    rows.npz    one array for each input, by its name; the first axis is the rows
    rows.csv    a line with names, then a line for each row. A column is named like an input of one value, or like
                one of an input's values: `features[0]`, `features[1]`. For a model with one input any names will do.

Neither format can hold code: arrays are read without pickle.
"""

import csv
import math
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bring.names import clean
from contract.errors import BroughtError, one_line
from contract.manifest import TensorSpec
from contract.tensors import numpy_dtype
from verify.questions import Domain, known_domains

MAX_BYTES = 256_000_000
"""Of a file, and of the arrays that it holds."""
MAX_ROWS = 2000
"""More are not used: each artifact answers every row twice."""

Arrays = dict[str, NDArray[Any]]


def read_rows(
    file: Path, specs: Sequence[TensorSpec], domains: Mapping[str, Domain], are_calls: bool = False
) -> Arrays:
    """At most MAX_ROWS rows of the file, in random order, as the inputs of `specs`, each (rows, ...).

    Where rows are whole calls, each has the whole shape of its input. Raises BroughtError where the file cannot be
    read, and where it contradicts the inputs or their domains.
    """
    if file.stat().st_size > MAX_BYTES:
        raise BroughtError(f"{file.name} has {file.stat().st_size} bytes, expected at most {MAX_BYTES}.")
    if are_calls:  # the rows of the file come before the input's own axes
        specs = [replace(spec, shape=(None, *spec.shape_at(1)), least=None) for spec in specs]
    columns = _read_csv(file, specs) if file.suffix == ".csv" else _read_npz(file, specs)
    arrays = {spec.name: _fitted(columns[spec.name], spec, file.name) for spec in specs}
    counts = {name: len(array) for name, array in arrays.items()}
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise BroughtError(
            f"{file.name} has these rows for the inputs: {counts}. Expected as many for each, one at least."
        )
    known = known_domains(specs) | dict(domains)
    for name, array in arrays.items():
        if name in known and not known[name].has(array):
            raise BroughtError(
                f"{file.name} has values from {_shown(array.min())} to {_shown(array.max())} for the input {name}, "
                f"which takes {words_of(known[name])}, as model.toml or the model's file says."
            )
    order = np.random.default_rng(0).permutation(next(iter(counts.values())))[:MAX_ROWS]
    return {name: array[order] for name, array in arrays.items()}


def words_of(domain: Domain) -> str:
    """The values of a domain, for people."""
    if domain.values:
        some = ", ".join(map(str, domain.values[:5])) + (", ..." if len(domain.values) > 5 else "")
        return f"one of {some}"
    return f"{'ids' if domain.is_whole else 'values'} from {domain.low} to {domain.high}"


def _shown(value: Any) -> str:
    return repr(value) if isinstance(value, bytes) else f"{value:.6g}"


def _read_npz(file: Path, specs: Sequence[TensorSpec]) -> Arrays:
    names = ", ".join(spec.name for spec in specs)
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MAX_BYTES:
            raise BroughtError(f"The arrays of {file.name} have {size} bytes, expected at most {MAX_BYTES}.")
        with np.load(file, allow_pickle=False) as content:
            keys = {clean(key): key for key in content.files}
            if set(keys) != {spec.name for spec in specs} or len(keys) != len(content.files):
                raise BroughtError(
                    f"{file.name} has the arrays {', '.join(content.files) or 'none'}, and the model takes {names}: "
                    "expected one array for each input, by its name."
                )
            return {name: content[key] for name, key in keys.items()}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise BroughtError(
            f"{file.name} cannot be read as rows ({one_line(error, 200)}): expected what "
            f"numpy.savez({file.name!r}, {specs[0].name}=array) writes, or a file that ends in .csv."
        ) from error


def _read_csv(file: Path, specs: Sequence[TensorSpec]) -> Arrays:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream)
            names = [_column_name(name.strip()) for name in next(lines, [])]
            rows = []
            for line in lines:
                if line and len(line) != len(names):
                    raise BroughtError(
                        f"{file.name}, line {lines.line_num}, has {len(line)} values, expected {len(names)}: as many "
                        "as its first line has names."
                    )
                rows += [line] if line else []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BroughtError(f"{file.name} cannot be read as CSV: {one_line(error, 200)}.") from error
    if not rows:
        raise BroughtError(f"{file.name} has no row: expected a line with names, then a line for each row.")
    table = np.array(rows, dtype=object)
    return {spec.name: _column(table[:, places], spec, file.name) for spec, places in _places(names, specs, file.name)}


def _column_name(name: str) -> str:
    """As the input is called here, with the number of the value."""
    name, bracket, number = name.partition("[")
    return clean(name) + bracket + number


def _places(names: Sequence[str], specs: Sequence[TensorSpec], file: str) -> list[tuple[TensorSpec, list[int]]]:
    """Each input, and the places of its columns in the order of its values."""
    places = []
    for spec in specs:
        numbered = {
            int(match[1]): place
            for place, name in enumerate(names)
            if (match := re.fullmatch(re.escape(spec.name) + r"\[(\d+)\]", name))
        }
        if numbered and sorted(numbered) == list(range(len(numbered))):
            places.append((spec, [numbered[number] for number in range(len(numbered))]))
        elif spec.name in names:
            places.append((spec, [names.index(spec.name)]))
        elif len(specs) == 1:
            places.append((spec, list(range(len(names)))))
        else:
            raise BroughtError(
                f"{file} has the columns {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}, and none is the "
                f"input {spec.name}: expected {spec.name}, or {spec.name}[0], {spec.name}[1] and so on."
            )
    return places


def _column(table: NDArray[Any], spec: TensorSpec, file: str) -> NDArray[Any]:
    """The cells of an input, as numbers unless it takes texts, in its shape."""
    sizes, width = spec.shape[1:], table.shape[1]
    fixed = math.prod(size for size in sizes if size is not None)
    free = sizes.count(None)
    if free > 1 or width % fixed or (not free and width != fixed):
        raise BroughtError(
            f"{file} has {width} columns for the input {spec.name}, whose shape {_shape(spec)} takes "
            f"{f'a multiple of {fixed}' if free else fixed} a row. An input with several free sizes needs a .npz file."
        )
    if spec.dtype != "bytes":
        table = _numbers(table, spec, file)
    return table.reshape(len(table), *(width // fixed if size is None else size for size in sizes))


def _numbers(table: NDArray[Any], spec: TensorSpec, file: str) -> NDArray[Any]:
    words = {"true": "1", "false": "0"} if spec.dtype == "bool" else {}
    is_whole = np.dtype(numpy_dtype(spec.dtype)).kind in "iu"
    try:
        values = [[words.get(cell.strip().lower(), cell) for cell in row] for row in table]
        try:
            return np.array([[int(cell) if is_whole else float(cell) for cell in row] for row in values])
        except ValueError:
            return np.array([[float(cell) for cell in row] for row in values])
    except (ValueError, OverflowError) as error:
        raise BroughtError(f"{file} holds something else than numbers for {spec.name}: {error}.") from None


def _fitted(array: NDArray[Any], spec: TensorSpec, file: str) -> NDArray[Any]:
    """The array in the input's dtype. Raises BroughtError where its shape or its values do not fit."""
    sizes = list(array.shape)
    fits = len(sizes) == len(spec.shape) and all(
        size in (None, got) for got, size in zip(sizes[1:], spec.shape[1:], strict=True)
    )
    if not fits:
        raise BroughtError(f"{file} has the shape {sizes} for the input {spec.name}, the model takes {_shape(spec)}.")
    if spec.dtype == "bytes":
        if array.dtype.kind not in "SUO":
            raise BroughtError(f"{file} has {array.dtype} for the input {spec.name}, which takes texts.")
        texts: NDArray[Any] = np.frompyfunc(lambda text: text if isinstance(text, bytes) else str(text).encode(), 1, 1)(
            array
        )
        return texts
    if array.dtype.kind not in "biuf":
        raise BroughtError(f"{file} has {array.dtype} for the input {spec.name}, which takes {spec.dtype}.")
    dtype = numpy_dtype(spec.dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        result = array.astype(dtype)
        if dtype.kind in "biu" and not np.array_equal(result.astype(array.dtype), array):
            raise BroughtError(f"{file} has values for the input {spec.name} that are no {spec.dtype}.")
    return result


def _shape(spec: TensorSpec) -> list[int]:
    return [-1 if size is None else size for size in spec.shape]
