"""An id beyond the vocabulary is the caller's mistake, in every format: no runtime's own answer to it is sent."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
import torch
from flask.testing import FlaskClient
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from bring.description import Description, Input
from bring.readers.keras import KerasSource
from bring.readers.onnx import OnnxSource
from bring.readers.savedmodel import SavedModelSource
from bring.readers.torch import read_program
from bring.wrapping import plan
from contract.errors import BroughtError
from contract.manifest import Manifest, TensorSpec, read_manifest, sha256_of_files, write_manifest
from serve.app import create_app
from serve.catalog import load_catalog
from serve.settings import Settings
from tests.commands import brought

ROWS = 50
TABLE = np.arange(ROWS * 3, dtype=np.float32).reshape(ROWS, 3) / 100
FORMATS = ("keras", "onnx", "savedmodel", "tflite", "tfjs")


def keras_model(dtype: str = "int32") -> Any:
    """ids -> the mean of their rows."""
    layers = keras.layers
    ids = keras.Input((4,), dtype=dtype, name="tokens")
    model = keras.Model(ids, layers.GlobalAveragePooling1D(name="mean")(layers.Embedding(ROWS, 3, name="table")(ids)))
    model.get_layer("table").set_weights([TABLE])
    return model


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ids")
    keras_model().save(folder / "net.keras")
    return brought(folder / "net.keras", folder / "artifacts")


@pytest.fixture(scope="module")
def client(artifacts: Path) -> Iterator[FlaskClient]:
    catalog = load_catalog(artifacts)
    yield create_app(catalog, Settings(artifacts=artifacts)).test_client()
    catalog.close()


@pytest.fixture(scope="module")
def unknowing(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    """The same artifacts, whose manifests do not know the table."""
    folder = shutil.copytree(artifacts, tmp_path_factory.mktemp("unknowing") / "artifacts")
    for path in (folder / "net" / format for format in FORMATS):
        manifest = read_manifest(path)
        write_manifest(path, replace(manifest, inputs=(replace(manifest.inputs[0], bounds=None),)))
    catalog = load_catalog(folder)
    yield create_app(catalog, Settings(artifacts=folder)).test_client()
    catalog.close()


def ask(client: FlaskClient, format: str, ids: list[int]) -> Any:
    tensor = {"name": "tokens", "datatype": "INT32", "shape": [1, 4], "data": ids}
    return client.post(f"/v2/models/net-{format}/infer", json={"inputs": [tensor]})


@pytest.mark.parametrize("format", FORMATS)
def test_every_id_of_the_table_has_its_row(client: FlaskClient, format: str) -> None:
    for ids in ([0, 1, 2, 3], [49, 49, 49, 49], [-1, -1, -50, -50]):  # Keras counts negative ids from the end
        answer = ask(client, format, ids)
        assert answer.status_code == 200, answer.json
        np.testing.assert_allclose(answer.json["outputs"][0]["data"], TABLE[ids].mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("id", [50, -51, 2**31 - 1])
def test_an_id_beyond_the_table_is_refused_with_the_inputs_name(client: FlaskClient, format: str, id: int) -> None:
    answer = ask(client, format, [0, 1, id, 2])
    assert answer.status_code == 400
    assert f"The input 'tokens' holds {id}, expected ids from -50 to 49" in answer.json["error"]
    rows: Any = client.post(f"/v1/models/net-{format}:predict", json={"instances": [[0, 1, id, 2]]})
    assert rows.status_code == 400 and "'tokens' holds" in rows.json["error"]


@pytest.mark.parametrize("format", ["keras", "onnx", "savedmodel"])
def test_what_only_the_runtime_knows_is_the_callers_mistake_too(unknowing: FlaskClient, format: str) -> None:
    answer = ask(unknowing, format, [0, 1, 77, 2])
    assert answer.status_code == 400, answer.json
    assert "no row in its table for the id 77, which the input 'tokens' holds: expected " in answer.json["error"]


# Where the bounds come from


def test_fractions_are_ids_too_where_they_go_into_an_embedding(tmp_path: Path) -> None:
    keras_model("float32").save(tmp_path / "net.keras")
    wrapping = plan(KerasSource(tmp_path / "net.keras", Description()), Description(), "net")
    assert wrapping.inputs[0].bounds == (-50, 49)


def test_an_embedding_in_a_model_that_is_a_layer_is_found(tmp_path: Path) -> None:
    inner = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(7, 2), keras.layers.Flatten()])
    ids, other = keras.Input((4,), dtype="int32", name="ids"), keras.Input((4,), name="other")
    keras.Model([ids, other], keras.layers.Concatenate()([inner(ids), other])).save(tmp_path / "net.keras")
    source = KerasSource(tmp_path / "net.keras", Description())
    assert [spec.bounds for spec in source.inputs] == [(-7, 6), None]


def test_what_is_counted_before_the_embedding_is_not_guessed(tmp_path: Path) -> None:
    ids = keras.Input((4,), dtype="int32")
    keras.Model(ids, keras.layers.Embedding(17, 2)(keras.ops.mod(ids, 17))).save(tmp_path / "net.keras")
    assert KerasSource(tmp_path / "net.keras", Description()).inputs[0].bounds is None


def test_a_savedmodels_tables_are_found(tmp_path: Path) -> None:
    keras_model().export(tmp_path / "net", verbose=False)
    assert SavedModelSource(tmp_path / "net", Description()).inputs[0].bounds == (-50, 49)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32])
def test_a_programs_tables_are_found_and_torch_refuses_negative_ids(tmp_path: Path, dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Embedding(30, 6), nn.Flatten(), nn.Linear(24, 3)).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(2, 4, dtype=dtype),)), tmp_path / "net.pt2")
    assert read_program(tmp_path / "net.pt2", Description()).inputs[0].bounds == (0, 29)


def onnx_source(folder: Path) -> OnnxSource:
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["tokens"], ["ids"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "ids"], ["rows"]),
            helper.make_node("Gather", ["rows", "last"], ["answer"], axis=1),
        ],
        "net",
        [helper.make_tensor_value_info("tokens", TensorProto.INT32, ["batch", 4])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(TABLE, "table"), numpy_helper.from_array(np.array(3), "last")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save(model, folder / "net.onnx")
    return OnnxSource(folder / "net.onnx", Description())


def test_an_onnx_graphs_tables_are_found(tmp_path: Path) -> None:
    assert onnx_source(tmp_path).inputs[0].bounds == (-50, 49)


def test_a_vocabulary_bounds_the_ids_and_may_not_be_larger_than_the_table(tmp_path: Path) -> None:
    source = onnx_source(tmp_path)
    wrapping = plan(source, Description(inputs=(Input("tokens", vocabulary=40),)), "net")
    assert wrapping.inputs[0].bounds == (0, 39)
    with pytest.raises(
        BroughtError, match="has the values ids from 0 to 50, the file says a table for ids from -50 to"
    ):
        plan(onnx_source(tmp_path), Description(inputs=(Input("tokens", vocabulary=51),)), "net")


def test_pytorchs_own_refusal_is_known(tmp_path: Path) -> None:
    """It names neither the id nor the table."""
    folder = tmp_path / "artifacts" / "net" / "torch"
    folder.mkdir(parents=True)
    net = nn.Sequential(nn.Embedding(ROWS, 3), nn.Flatten()).eval()
    torch.export.save(torch.export.export(net, (torch.zeros(1, 4, dtype=torch.int32),)), folder / "model.pt2")
    inputs, outputs = TensorSpec("tokens", "int32", (1, 4), "NT"), TensorSpec("rows", "float32", (1, 12), "NC")
    files = sha256_of_files(folder, [folder / "model.pt2"])
    write_manifest(folder, Manifest("net", "torch", None, (inputs,), (outputs,), None, (), files))
    catalog = load_catalog(tmp_path / "artifacts")
    client = create_app(catalog, Settings(artifacts=tmp_path / "artifacts")).test_client()
    answer = ask(client, "torch", [0, 1, 77, 2])
    assert answer.status_code == 400 and "no row in its table for an id in 'tokens'" in answer.json["error"]
    catalog.close()
