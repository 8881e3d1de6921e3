"""Rows that are picked or reversed by numbers of their own are so in TF.js, too."""

import contextlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from contract.code import ROOT
from contract.manifest import Manifest, TensorSpec, read_manifest, sha256_of_files, write_manifest
from export import signatures
from export.tfjs_gathers import is_gather_by_rows
from export.tfjs_operators import without_missing_operators
from serve.runtimes import load_runtime

LENGTHS = np.array([0, 1, 3, 5], np.int32)


def operators(graph: Any) -> set[str]:
    return {node.op for node in graph.as_graph_def().node}


def answered(traced: Any, rows: Any, *others: Any) -> tuple[Any, set[str]]:
    """What the rewritten graph answers, and its operators."""
    frozen = convert_variables_to_constants_v2(traced)
    assert any(node.op == "ReverseSequence" or is_gather_by_rows(node) for node in frozen.graph.as_graph_def().node)
    graph = without_missing_operators(frozen.graph)
    given = dict(zip((tensor.name for tensor in frozen.inputs), (rows, *others), strict=True))
    assert not any(map(is_gather_by_rows, graph.as_graph_def().node))
    with tf.compat.v1.Session(graph=graph) as session:
        return session.run(frozen.outputs[0].name, given), operators(graph)


@pytest.mark.parametrize(("sequence", "batch"), [(1, 0), (0, 1), (2, 0), (3, 1)])
@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_each_row_is_reversed_up_to_its_length(sequence: int, batch: int, dtype: str) -> None:
    shape = [3, 2, 6, 7]
    shape[batch], shape[sequence] = len(LENGTHS), 5
    rows = (np.random.default_rng(0).normal(size=shape) * 2).astype(dtype)
    traced = tf.function(lambda x, count: tf.reverse_sequence(x, count, sequence, batch)).get_concrete_function(
        tf.TensorSpec([None] * 4, dtype), tf.TensorSpec([None], tf.int64)
    )
    got, known = answered(traced, rows, LENGTHS)
    np.testing.assert_array_equal(got, tf.reverse_sequence(rows, LENGTHS, sequence, batch))
    assert (got.dtype, "ReverseSequence" in known) == (dtype, False)


@pytest.mark.parametrize(("lengths", "operator"), [([5, 5], "ReverseV2"), ([5, 4], "GatherV2")])
def test_rows_as_long_as_the_axis_need_no_gather(lengths: list[int], operator: str) -> None:
    rows = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    traced = tf.function(lambda x: tf.reverse_sequence(x, lengths, 0, 1)).get_concrete_function(
        tf.TensorSpec(rows.shape, tf.float32)
    )
    got, known = answered(traced, rows)
    np.testing.assert_array_equal(got, tf.reverse_sequence(rows, lengths, 0, 1))
    assert known & {"ReverseV2", "GatherV2"} == {operator}


@pytest.mark.parametrize(
    ("axis", "batch", "sizes"),
    [(1, 1, (2, 6)), (3, 1, (2, 6)), (-1, 2, (2, 3)), (2, -1, (2, 3, 6))],
)
@pytest.mark.parametrize("dtype", ["float32", "bool"])
def test_each_row_is_picked_from_by_its_own_numbers(axis: int, batch: int, sizes: tuple[int, ...], dtype: str) -> None:
    random = np.random.default_rng(0)
    rows, places = (random.normal(size=(2, 3, 4, 5)) * 2).astype(dtype), random.integers(0, 3, sizes)
    traced = tf.function(lambda x, places: tf.gather(x, places, axis=axis, batch_dims=batch)).get_concrete_function(
        tf.TensorSpec([None] * 4, dtype), tf.TensorSpec([None] * len(sizes), tf.int64)
    )
    got, _ = answered(traced, rows, places)
    np.testing.assert_array_equal(got, tf.gather(rows, places, axis=axis, batch_dims=batch))


def test_it_is_reversed_inside_a_loop() -> None:
    def twice(x: Any, count: Any) -> Any:
        return tf.while_loop(
            lambda turn, _: turn < 2, lambda turn, y: (turn + 1, tf.reverse_sequence(y + 1, count, 1)), (0, x)
        )[1]

    rows = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    traced = tf.function(twice).get_concrete_function(tf.TensorSpec([None, 5]), tf.TensorSpec([None], tf.int32))
    got, known = answered(traced, rows, LENGTHS)
    np.testing.assert_allclose(got, rows + 2, rtol=1e-6)
    assert "Enter" in known


def test_tfjs_answers_as_the_savedmodel_does(tmp_path: Path) -> None:
    def function(x: Any, count: Any) -> list[Any]:
        return [tf.reverse_sequence(x, count, 1), tf.gather(x, tf.minimum(count, 4)[:, None], axis=1, batch_dims=1)]

    given = TensorSpec("rows", "float32", (None, 5, 3), "ND"), TensorSpec("lengths", "int32", (None,), "ND")
    answers = tuple(TensorSpec(name, "float32", (None, size, 3), "ND") for name, size in (("turned", 5), ("picked", 1)))
    manifest = Manifest("net", "savedmodel", None, given, answers, None, ())
    parent, target = tmp_path / "savedmodel", tmp_path / "tfjs"
    files = signatures.save(function, [], manifest, parent)
    write_manifest(parent, replace(manifest, files=sha256_of_files(parent, files)))
    command = [sys.executable, "-m", "export", str(parent), "tfjs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows, lengths = np.random.default_rng(0).normal(size=(3, 5, 3)).astype(np.float32), LENGTHS[1:]
    with contextlib.closing(load_runtime(target, read_manifest(target))) as runtime:
        got = runtime.predict({"rows": rows, "lengths": lengths})
    for name, expected in zip(("turned", "picked"), function(rows, lengths), strict=True):
        np.testing.assert_array_equal(got[name], expected)
