"""SavedModels of TensorFlow 1: their variables become constants, and their tables are kept."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from bring.description import Description
from bring.readers.savedmodel import FROZEN
from bring.source import write_source
from contract.code import ROOT
from serve.runtimes import load_runtime

v1 = tf.compat.v1


def exported(artifact: Path, format: str) -> tuple[int, str]:
    """The status and the words of a conversion."""
    command = [sys.executable, "-m", "export", str(artifact), format]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def write_first(folder: Path, takes: str, variables: str) -> dict[str, Any]:
    """A SavedModel of TensorFlow 1, and a row with its answer: ids of a table, rows, or texts."""
    row: list[Any]
    with v1.Graph().as_default(), v1.Session() as session:
        v1.set_random_seed(5)
        is_resource = variables == "resources"
        table = v1.get_variable("table", [50, 4], use_resource=is_resource)
        kernel = v1.get_variable("kernel", [4, 3], use_resource=is_resource)
        if takes == "ids":
            row, entry = [[1, 2, 3, 4, 5, 49]], v1.placeholder(tf.int32, [None, 6], "entry")
            values = tf.reduce_mean(v1.nn.embedding_lookup(table, entry), 1)
        elif takes == "rows":
            row, entry = [[0.5, -1.0, 2.0, 0.25]], v1.placeholder(tf.float32, [None, 4], "entry")
            values = entry * v1.placeholder_with_default(1.5, [], "scale") + table[0]
        else:
            row, entry = ["a b", "c"], v1.placeholder(tf.string, [None], "entry")
            words = v1.string_split(entry)
            ids = tf.SparseTensor(words.indices, tf.strings.to_hash_bucket_fast(words.values, 50), words.dense_shape)
            values = v1.nn.embedding_lookup_sparse([table], ids, None, combiner="mean")
        scores = tf.nn.softmax(values @ kernel)
        session.run(v1.global_variables_initializer())
        v1.saved_model.simple_save(session, str(folder), {"entry": entry}, {"scores": scores})
        return {"entry": np.array(row), "scores": session.run(scores, {entry: row})}


@pytest.mark.parametrize("variables", ["references", "resources"])
@pytest.mark.parametrize("takes", ["ids", "rows", "texts"])
def test_a_savedmodel_of_tensorflow_1_keeps_its_weights(tmp_path: Path, takes: str, variables: str) -> None:
    known = write_first(tmp_path / "first", takes, variables)
    manifest = write_source(tmp_path / "first", tmp_path / "net", "net", Description()).manifest
    assert FROZEN in manifest.made_with["notes"]
    entry = known["entry"].astype(object if takes == "texts" else manifest.inputs[0].dtype)
    got = load_runtime(tmp_path / "net" / "savedmodel", manifest).predict({"entry": entry})
    np.testing.assert_allclose(got["scores"], known["scores"], atol=1e-6)
    if takes == "ids":
        assert manifest.inputs[0].bounds == (0, 49)
        for format in ("onnx", "tfjs"):
            assert exported(tmp_path / "net" / "savedmodel", format)[0] == 0
    if takes == "texts":
        status, words = exported(tmp_path / "net" / "savedmodel", "tfjs")
        assert status == 1
        assert "Its entry holds texts, and TF.js models are served with numbers and bool alone." in words


def test_a_table_of_tensorflow_1_stays_a_table(tmp_path: Path) -> None:
    with v1.Graph().as_default(), v1.Session() as session:
        words = v1.placeholder(tf.string, [None], "words")
        pairs = tf.lookup.KeyValueTensorInitializer(["a", "b"], [30.0, 40.0])
        numbers = tf.lookup.StaticHashTable(pairs, -10.0).lookup(words)
        numbers += tf.cast(tf.strings.to_hash_bucket_fast(words, 7), tf.float32)
        fill = v1.tables_initializer()
        session.run(fill)
        v1.saved_model.simple_save(
            session, str(tmp_path / "first"), {"words": words}, {"numbers": numbers}, legacy_init_op=fill
        )
        expected = session.run(numbers, {words: ["b", "c", "a"]})
    manifest = write_source(tmp_path / "first", tmp_path / "net", "net", Description()).manifest
    assert FROZEN in manifest.made_with["notes"]
    runtime = load_runtime(tmp_path / "net" / "savedmodel", manifest)
    np.testing.assert_array_equal(runtime.predict({"words": np.array(["b", "c", "a"], object)})["numbers"], expected)


def test_of_a_graph_for_training_and_one_to_serve_the_latter_is_taken(tmp_path: Path) -> None:
    builder = v1.saved_model.Builder(str(tmp_path / "first"))
    for tags, factor in ((["train"], 2.0), ([], 3.0)):
        with v1.Graph().as_default(), v1.Session() as session:
            rows = v1.placeholder(tf.float32, [None, 4], "rows")
            weight = v1.get_variable("weight", [4], initializer=v1.constant_initializer(1.0), use_resource=False)
            signature = v1.saved_model.predict_signature_def({"rows": rows}, {"sums": rows * weight * factor})
            session.run(v1.global_variables_initializer())
            if tags:
                builder.add_meta_graph_and_variables(session, tags, {"default": signature})
            else:
                builder.add_meta_graph(tags, {"default": signature})
    builder.save()
    manifest = write_source(tmp_path / "first", tmp_path / "net", "net", Description()).manifest
    rows = np.arange(8, dtype=np.float32).reshape(2, 4)
    got = load_runtime(tmp_path / "net" / "savedmodel", manifest).predict({"rows": rows})
    np.testing.assert_array_equal(got["sums"], 3 * rows)
