"""What TF.js lacks is written with what it has, and the graph answers as before."""

import contextlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from contract.code import ROOT
from contract.manifest import Manifest, TensorSpec, read_manifest, sha256_of_files, write_manifest
from export import EXPORTERS, signatures
from export.tfjs_operators import NUMBERS_ONLY, without_missing_operators
from serve.runtimes import load_runtime

ROWS = np.array([[0.5, -1.0, 2.0, 0.25], [3.0, -0.5, -2.0, 1.0]], np.float32)


def picked(x: Any) -> Any:
    return tf.where((x > 0)[:, ::-1][:, 1:4:2], 1.0, 0.0)


def hot(x: Any) -> Any:
    return tf.cast(tf.one_hot(tf.argmax(x, 1), 4, True, False), tf.float32)


def banded(x: Any) -> Any:
    square = tf.ones([tf.shape(x)[0], 4, 4]) > 0
    return tf.cast(tf.linalg.band_part(square, -1, 0), tf.float32) * x[:, None]


@pytest.mark.parametrize(
    ("function", "operator"),
    [(picked, "StridedSlice"), (hot, "OneHot"), (banded, "MatrixBandPart"), (tf.math.erfc, "Erfc")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_booleans_are_computed_as_numbers_and_erfc_by_erf(function: Callable[[Any], Any], operator: str) -> None:
    traced = tf.function(function).get_concrete_function(tf.TensorSpec([None, 4], tf.float32))
    assert operator in {node.op for node in traced.graph.as_graph_def().node}
    graph = without_missing_operators(traced.graph)
    definition = graph.as_graph_def()
    assert "Erfc" not in {node.op for node in definition.node}
    masks = [node.name for node in definition.node if node.op in NUMBERS_ONLY and node.attr["T"].type == tf.bool]
    assert masks == []
    with tf.compat.v1.Session(graph=graph) as session:
        got = session.run(traced.outputs[0].name, {traced.inputs[0].name: ROWS})
    np.testing.assert_allclose(got, function(tf.constant(ROWS)), atol=1e-6)


def test_a_graph_that_lacks_nothing_stays_the_same() -> None:
    traced = tf.function(tf.tanh).get_concrete_function(tf.TensorSpec([None, 4], tf.float32))
    assert without_missing_operators(traced.graph) is traced.graph


ENDS = np.iinfo(np.int32)
WHOLE = np.array([[ENDS.min, -(2**24) - 1, -7, -1], [0, 5, 2**24 + 1, ENDS.max]], np.int32)


def rounding(numerator: Any, divisor: Any) -> Any:
    """A floor division that divides float32, as TF.js does on WebAssembly."""
    quotient = tf.floor(tf.cast(numerator, tf.float32) / tf.cast(divisor, tf.float32))
    return tf.cast(tf.clip_by_value(tf.cast(quotient, tf.float64), ENDS.min, ENDS.max), tf.int32)


@pytest.mark.parametrize("divisor", [1, -1, 3, -7, 65537, 2**30 + 1, ENDS.max, ENDS.min])
@pytest.mark.parametrize("divide", [tf.math.floordiv, tf.truncatediv], ids=["floor", "truncate"])
def test_whole_numbers_are_divided_exactly_by_a_division_that_rounds(divide: Callable[..., Any], divisor: int) -> None:
    traced = tf.function(lambda x: divide(x, divisor)).get_concrete_function(tf.TensorSpec([None, 4], tf.int32))
    definition = without_missing_operators(traced.graph).as_graph_def()
    (first,) = [node for node in definition.node if node.op == "FloorDiv"]
    with tf.Graph().as_default() as graph:  # the same with the division that rounds
        given = tf.compat.v1.placeholder(tf.int32, [None, 4], "given")
        first.op, first.input[:] = "Identity", ["rounded"]
        definition.node.add(name="rounded", op="Placeholder").attr["dtype"].type = tf.int32.as_datatype_enum
        mapped = {f"{traced.inputs[0].op.name}:0": given, "rounded:0": rounding(given, tf.constant(divisor))}
        (result,) = tf.graph_util.import_graph_def(definition, mapped, [traced.outputs[0].name], name="")
    numbers = WHOLE if divisor != -1 else WHOLE[:, 1:]  # that of the least number has no place in 32 bits
    with tf.compat.v1.Session(graph=graph) as session:
        got = session.run(result, {given: np.resize(numbers, (2, 4))})
    given_numbers = np.resize(numbers, (2, 4)).astype(np.int64)
    floored = given_numbers // divisor
    is_cut_off = (divide is tf.truncatediv) & (given_numbers % divisor != 0) & (floored < 0)
    np.testing.assert_array_equal(got, floored + is_cut_off)


def test_the_division_of_a_size_stays_as_it_is() -> None:
    traced = tf.function(lambda x: tf.reshape(x, [tf.shape(x)[0] // 2, 8])).get_concrete_function(
        tf.TensorSpec([None, 4], tf.float32)
    )
    assert without_missing_operators(traced.graph) is traced.graph


SLOPES = np.linspace(-1, 2, 4 * 5 * 3, dtype=np.float32).reshape(4, 5, 3)


def turned(x: Any, count: Any) -> list[Any]:
    return [tf.reverse_sequence(x, count, 1), tf.gather(x, tf.minimum(count, 4)[:, None], axis=1, batch_dims=1)]


def asserted(x: Any, count: Any) -> list[Any]:
    with tf.control_dependencies([tf.debugging.assert_non_negative(count)]):
        return [2 * x]


def sloped(x: Any, slopes: Any) -> list[Any]:
    return [tf.nn.relu(x) + -slopes * tf.nn.relu(-x)]  # as Keras writes PReLU


@pytest.mark.parametrize(
    ("function", "sizes", "route"),
    [
        (turned, (5, 3), "graph model"),
        (asserted, (5, 3), "graph model"),
        (lambda x, _: sloped(x, SLOPES[0, 0]), (4, 5, 3), "graph model"),
        (lambda x, _: sloped(x, SLOPES[:, :1, :1]), (4, 5, 3), "graph model, nothing fused"),
    ],
    ids=["rows that are picked", "an Assert", "slopes of channels", "slopes of an outer axis"],
)
def test_tfjs_answers_as_the_savedmodel_does(
    tmp_path: Path, function: Callable[..., Sequence[Any]], sizes: tuple[int, ...], route: str
) -> None:
    rows = np.random.default_rng(0).normal(size=(3, *sizes)).astype(np.float32)
    lengths = np.array([1, 3, 5], np.int32)
    expected = function(rows, lengths)
    layout = "N" + "D" * len(sizes)
    given = TensorSpec("rows", "float32", (None, *sizes), layout), TensorSpec("n", "int32", (None,), "N")
    answers = tuple(
        TensorSpec(f"y{number}", "float32", (None, *value.shape[1:]), layout) for number, value in enumerate(expected)
    )
    manifest = Manifest("net", "savedmodel", None, given, answers, None, ())
    parent, target = tmp_path / "savedmodel", tmp_path / "tfjs"
    files = signatures.save(function, [], manifest, parent)
    write_manifest(parent, replace(manifest, files=sha256_of_files(parent, files)))
    number = [each.name for each in EXPORTERS["savedmodel", "tfjs"]].index(route)
    command = [sys.executable, "-m", "export", str(parent), "tfjs", "--route", str(number)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with contextlib.closing(load_runtime(target, read_manifest(target))) as runtime:
        got = runtime.predict({"rows": rows, "n": lengths})
    for spec, value in zip(answers, expected, strict=True):
        np.testing.assert_allclose(got[spec.name], value, atol=1e-6)
