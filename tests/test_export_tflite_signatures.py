"""A TF Lite file leads to ONNX: the same names and answers, with or without signatures; a state inside is told."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from ai_edge_litert.interpreter import Interpreter

from contract.errors import ExportError
from contract.manifest import Manifest, TensorSpec
from export.tflite_to_onnx import export
from tests.commands import run_script

WRITE = """
import sys, numpy as np, tensorflow as tf
class Net(tf.Module):
    def __init__(self):
        self.state = tf.Variable(tf.zeros([1, 3]))
        self.w = tf.constant(np.linspace(-1, 1, 18, dtype=np.float32).reshape(6, 3))
    @tf.function(input_signature=[tf.TensorSpec([1, 6], tf.float32, name="row")])
    def plain(self, row):
        return {"scores": tf.nn.softmax(row @ self.w), "sum": tf.reduce_sum(row, 1, keepdims=True)}
    @tf.function(input_signature=[tf.TensorSpec([1, 6], tf.float32, name="row")])
    def streaming(self, row):
        return {"scores": self.state.assign_add(row @ self.w)}
net = Net()
for name in ("plain", "streaming"):
    tf.saved_model.save(net, f"{sys.argv[1]}/{name}", signatures=getattr(net, name))
    converter = tf.lite.TFLiteConverter.from_saved_model(f"{sys.argv[1]}/{name}")
    converter.experimental_enable_resource_variables = True
    open(f"{sys.argv[1]}/{name}/model.tflite", "wb").write(converter.convert())
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_script(WRITE, tmp_path_factory.mktemp("tflite"))


def manifest(*outputs: tuple[str, int]) -> Manifest:
    return Manifest(
        model="net",
        format="tflite",
        parent=None,
        files={},
        inputs=(TensorSpec("row", "float32", (1, 6), "NC"),),
        outputs=tuple(TensorSpec(name, "float32", (1, size), "NC") for name, size in outputs),
        image=None,
        labels=(),
        made_with={},
        batch=1,
    )


def test_the_answers_have_their_names_whatever_their_order(written: Path, tmp_path: Path) -> None:
    export(written / "plain", manifest(("sum", 1), ("scores", 3)), tmp_path)
    row = np.array([[0.5, -1, 2, 0.25, 3, -0.75]], np.float32)
    expected = Interpreter(str(written / "plain" / "model.tflite")).get_signature_runner()(row=row)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == ["sum", "scores"]
    total, scores = session.run(None, {"row": row})
    np.testing.assert_allclose(total, [[4.0]], atol=1e-6)
    np.testing.assert_allclose(scores, expected["scores"], atol=1e-6)


def test_a_state_inside_is_told(written: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="net-tflite keeps a state between its calls"):
        export(written / "streaming", manifest(("scores", 3)), tmp_path)
