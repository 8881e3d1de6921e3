"""The field: files are taken out of packages safely, each is brought by the ordinary command, and tabulated."""

import io
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench.field import __main__ as field
from bench.field import package as package_module
from bench.field.__main__ import measure_all, results, table
from bench.field.package import LIST, Listed, fetch, read_list, take_out
from contract.errors import BroughtError
from export import exported_from

REACHED = exported_from("onnx")
"""What an ONNX file is converted to."""


def listed(name: str, *files: str, **settings: str) -> Listed:
    return Listed(name, "pypi", name, "1.0", files or ("net.onnx",), f"the model {name}", settings)


def write_wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
    return path


def write_npm(path: Path, members: dict[str, bytes], link: str = "") -> Path:
    with tarfile.open(path, "w:gz") as package:
        for name, content in members.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            package.addfile(entry, io.BytesIO(content))
        if link:
            entry = tarfile.TarInfo(f"package/{link}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            package.addfile(entry)
    return path


# Packages


def test_the_list_can_be_read_and_each_model_has_a_place() -> None:
    models = read_list()
    assert len(models) >= 30
    assert {model.registry for model in models.values()} == {"pypi", "npm"}
    assert all(model.files and model.version and model.about for model in models.values())
    assert models["ppocr_cls"].settings == {"preprocess": "symmetric size=48x192 order=BGR"}


def test_a_setting_that_does_not_exist_is_named(tmp_path: Path) -> None:
    lines = LIST.read_text().splitlines()[:2]
    file = tmp_path / "models.tsv"
    file.write_text("\n".join([*lines, "net\tpypi\tnet\t1.0\tnet.onnx\ta net\tPREPROCES=unit"]) + "\n")
    with pytest.raises(BroughtError, match=r"net: no such setting as PREPROCES; did you mean 'PREPROCESS'\?"):
        read_list(file)


def test_files_and_folders_are_taken_out_of_a_wheel_and_nothing_else(tmp_path: Path) -> None:
    members = {"pkg/a.onnx": b"a", "pkg/sm/saved_model.pb": b"b", "pkg/sm/variables/v": b"c", "pkg/evil.py": b"d"}
    take_out(write_wheel(tmp_path / "pkg.whl", members), ("pkg/sm", "pkg/a.onnx"), tmp_path / "out")
    out = tmp_path / "out"
    files = {file.relative_to(out).as_posix(): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    assert files == {"a.onnx": b"a", "sm/saved_model.pb": b"b", "sm/variables/v": b"c"}


def test_a_model_is_taken_out_beside_the_folder_that_it_lies_in(tmp_path: Path) -> None:
    archive = write_wheel(tmp_path / "pkg.whl", {"pkg/a.pt": b"a", "pkg/nets.py": b"b"})
    take_out(archive, ("pkg/a.pt", "pkg"), tmp_path / "out")
    names = {file.relative_to(tmp_path / "out").as_posix() for file in (tmp_path / "out").rglob("*.*")}
    assert names == {"a.pt", "pkg/a.pt", "pkg/nets.py"}


def test_a_file_of_another_package_and_a_model_toml_lie_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_wheel(tmp_path / "weights-1.0.whl", {"weights/a.pt": b"a"})
    write_wheel(tmp_path / "nets-2.1.whl", {"nets/__init__.py": b"b"})
    copy = lambda package, version, folder: ["cp", str(tmp_path / f"{package}-{version}.whl"), str(folder)]  # noqa: E731
    monkeypatch.setitem(package_module.FETCHERS, "pypi", copy)
    rows = [*LIST.read_text().splitlines()[:2], "net\tpypi\tweights\t1.0\tweights/a.pt nets==2.1/nets\ta net\t"]
    (tmp_path / "models.tsv").write_text("\n".join(rows) + "\n")
    (tmp_path / "net.toml").write_text('kind = "tensors"\n')
    file = fetch(read_list(tmp_path / "models.tsv")["net"], tmp_path / "cache")
    assert file.name == "a.pt" and (file.parent / "nets" / "__init__.py").read_bytes() == b"b"
    assert (file.parent / "model.toml").read_text() == 'kind = "tensors"\n'


def test_files_are_taken_out_of_a_package_of_npm(tmp_path: Path) -> None:
    archive = write_npm(tmp_path / "pkg.tgz", {"models/m.json": b"{}", "models/m.bin": b"\0"})
    take_out(archive, ("models/m.json", "models/m.bin"), tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["m.bin", "m.json"]


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    archive = write_wheel(tmp_path / "pkg.whl", {"pkg/sm/../../../evil": b"x"})
    with pytest.raises(BroughtError, match="leads out of its folder"):
        take_out(archive, ("pkg/sm",), tmp_path / "out")
    assert not (tmp_path / "evil").exists()


def test_a_link_is_not_taken_and_what_is_missing_is_named(tmp_path: Path) -> None:
    archive = write_npm(tmp_path / "pkg.tgz", {"other": b""}, link="m.onnx")
    with pytest.raises(BroughtError, match=r"pkg\.tgz has no m\.onnx"):
        take_out(archive, ("m.onnx",), tmp_path / "out")


# What comes of them


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder after two models were brought: one is taken, the other is not a model."""
    folder = tmp_path_factory.mktemp("field")
    kernel = numpy_helper.from_array(np.eye(6, 3, dtype=np.float32), "w")
    row = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 6), ("y", 3))]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "net", row[:1], row[1:], [kernel])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    archive = write_wheel(
        folder / "pkg.whl", {"net.onnx": model.SerializeToString(), "broken.onnx": b"not a model", "readme": b""}
    )
    for name, file in (("net", "net.onnx"), ("broken", "broken.onnx")):
        take_out(archive, (file,), folder / "files" / name)
    measure_all([listed("net", answers="values"), listed("broken", "broken.onnx")], folder, 5)
    return folder


MODELS = {"net": listed("net"), "broken": listed("broken", "broken.onnx"), "left": listed("left")}


def test_a_model_is_taken_with_all_its_edges_and_a_broken_file_is_refused(brought: Path) -> None:
    records = results(brought, MODELS)
    net = records["net"]
    assert net["source"] == "onnx" and set(net["edges"]) == {"onnx", *REACHED}
    assert all(net["edges"][format]["passed"] for format in REACHED)
    assert 1 < net["seconds"] < 300 and 1e8 < net["peak"] < 6 * 2**30
    assert "broken.onnx" in records["broken"]["error"] and "edges" not in records["broken"]


def test_the_table_counts_what_was_taken_and_what_passed(brought: Path) -> None:
    lines = list(table(MODELS, results(brought, MODELS)))
    net, broken = lines[2:4]
    assert net.startswith("| `net` | the model net | onnx |  | passed ") and net.count("passed ") == len(REACHED)
    assert broken.startswith("| `broken` | the model broken | refused |")
    assert any(line.startswith("- `broken`: ") and "broken.onnx" in line for line in lines)
    assert f"Of 2 models 1 are accepted; of their {len(REACHED)} edges {len(REACHED)} pass." in lines
    assert "Not run: left." in lines


def test_a_model_that_was_brought_is_not_brought_again(brought: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(field, "measure", lambda *_: pytest.fail("it was brought again"))
    measure_all([listed("net", answers="values")], brought, 5)


def test_a_package_that_is_not_there_becomes_a_row(tmp_path: Path) -> None:
    (tmp_path / "packages").write_text("no folder can be made here")
    measure_all([listed("net")], tmp_path, 5)
    shutil.rmtree(tmp_path / "artifacts", ignore_errors=True)
    assert "error" in results(tmp_path, MODELS)["net"]


def test_a_reason_is_in_one_line_with_what_follows_it() -> None:
    log = (
        "some warning\nerror: net.onnx: it answers NaN. Say so in model.toml:\n\n    [[input]]\nerror: net could not be"
    )
    assert field._message(log) == "net.onnx: it answers NaN. Say so in model.toml: [[input]]"
    assert field._peak("net: verdict\nnet: brought in 12 s, at most 1.5 GiB of memory\n") == 1.5 * 2**30
    assert field._message("Killed") == "It ended without a word."
