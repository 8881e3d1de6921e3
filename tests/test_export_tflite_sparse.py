"""Sparse weights of a TF Lite file are written out as they are filled up by LiteRT."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from export.tflite_file import unpacked
from export.tflite_sparse import DENSIFY, without_sparse

RANDOM = np.random.default_rng(5)


def pruned(shape: tuple[int, ...], block: int) -> NDArray[np.float32]:
    """Weights of which nine blocks of ten are zero, along the axis that is the last one in the file."""
    values = RANDOM.normal(size=shape)
    kept = RANDOM.random((*shape[:-2], shape[-2] // block, 1, shape[-1])) < 0.1
    return (values.reshape(*shape[:-2], -1, block, shape[-1]) * kept).reshape(shape).astype(np.float32)


def write_pruned(path: Path, block: int, half: bool) -> Path:
    kernel, table = pruned((1, 1, 32, 64), block), pruned((64, 32), block)

    def net(rows: Any) -> Any:
        return tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(rows, kernel, 1, "SAME")), [1, 2]) @ table

    traced = tf.function(net, input_signature=[tf.TensorSpec((1, 4, 4, 32), name="rows")])
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced.get_concrete_function()])
    converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    if half:
        converter.optimizations.append(tf.lite.Optimize.DEFAULT)
        converter.target_spec.supported_types = [tf.float16]
    path.write_bytes(converter.convert())
    return path


def answers(content: bytes, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], rows)
    interpreter.invoke()
    return np.asarray(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))


# LiteRT itself answers NaN to blocks of float16.
@pytest.mark.parametrize(("block", "half"), [(1, False), (4, False), (1, True)])
def test_a_file_without_its_sparse_weights_answers_the_same(tmp_path: Path, block: int, half: bool) -> None:
    content = write_pruned(tmp_path / "net.tflite", block, half).read_bytes()
    assert any(tensor.sparsity for tensor in unpacked(content).subgraphs[0].tensors)
    whole = without_sparse(content)
    model = unpacked(whole)
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    assert not any(tensor.sparsity for tensor in model.subgraphs[0].tensors)
    assert DENSIFY not in [codes[operator.opcodeIndex] for operator in model.subgraphs[0].operators]
    rows = RANDOM.normal(size=(1, 4, 4, 32)).astype(np.float32)
    np.testing.assert_allclose(answers(whole, rows), answers(content, rows), atol=1e-5)
    assert without_sparse(whole) is whole
