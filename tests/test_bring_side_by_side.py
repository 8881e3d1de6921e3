"""Where the machine has room, artifacts are compared while others are converted: the results are the same."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bring.walk import Reduced, bring
from bring.workshop import Workshops
from contract.cell import host, sandbox
from contract.cell.harvest import Harvest
from contract.cell.sandbox import GIB, ChildFailed, Finished, Limits, can_be_in_two, has_room_for_two
from contract.manifest import MANIFEST
from contract.parity_result import PARITY, VERIFIED, read_status
from export import exported_from

needs_namespaces = pytest.mark.skipif(
    not host.find_parts().is_apart, reason="without namespaces there is one at a time"
)


def write_net(path: Path) -> Path:
    kernel = np.random.default_rng(4).normal(size=(4, 3)).astype(np.float32)
    entry, ending = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 4), ("y", 3))
    )
    nodes = [helper.make_node("MatMul", ["x", "kernel"], ["product"]), helper.make_node("Tanh", ["product"], ["y"])]
    graph = helper.make_graph(nodes, "net", [entry], [ending], [numpy_helper.from_array(kernel, "kernel")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@needs_namespaces
@pytest.mark.parametrize(
    "case", ["room", "room for a fork", "no room", "room for a fork, and the comparison is ended at a limit"]
)
def test_every_format_is_converted_and_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    steps: list[str] = []
    run = Workshops.run

    def noted(self: Workshops, cell: Any, module: str, *arguments: str, **more: Any) -> Finished:
        assert ("--in-two" in arguments) == ("--until" in arguments and "fork" in case)
        steps.append(f"{module} meanwhile" if "--until" in arguments else module)
        done = run(self, cell, module, *arguments, **more)
        if "--until" in arguments and "limit" in case:
            raise ChildFailed("It took more than 6 GiB of memory and was ended.", "", 0, is_at_limit=True)
        return done

    monkeypatch.setattr(Workshops, "run", noted)
    monkeypatch.setattr(sandbox, "has_room_for_two", lambda cell: case != "no room")
    monkeypatch.setattr(sandbox, "can_be_in_two", lambda cell: "fork" in case)
    bring(write_net(tmp_path / "net.onnx"), "net", tmp_path / "made", {}, Limits(), Reduced("none"))
    for format in exported_from("onnx"):
        assert read_status(tmp_path / "made" / "net" / format).word == VERIFIED
    first = sorted(steps[:2])
    assert first == (["export", "verify"] if case == "no room" else ["export", "verify meanwhile"])
    assert steps[2:] == (["verify"] if "limit" in case else [])
    assert "brought in" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cores", "free", "limit", "has_room", "in_two"),
    [
        (2, 16 * GIB, 6 * GIB, True, True),
        (1, 16 * GIB, 6 * GIB, False, False),
        (2, 3 * GIB, 6 * GIB, False, False),
        (2, 5 * GIB, 6 * GIB, True, False),
        (2, 16 * GIB, 3 * GIB, True, False),
        (2, 3 * GIB, GIB, True, False),
    ],
)
def test_two_work_at_once_where_cores_and_memory_allow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, free: float, limit: float, has_room: bool, in_two: bool
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setattr(sandbox, "_available", lambda: free)
    parts = host.Parts("namespaces", None)
    (tmp_path / "net.onnx").write_bytes(b"0" * 1000)
    cell = sandbox.Cell(tmp_path, tmp_path, tmp_path, tmp_path, tmp_path / "net.onnx", parts, Limits(memory=limit))
    assert parts.is_apart
    assert has_room_for_two(cell) == has_room
    assert can_be_in_two(cell) == in_two


def test_available_memory_is_some_and_less_than_all() -> None:
    everything = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < sandbox._available() <= everything


def test_what_there_is_is_counted_without_opening_it(tmp_path: Path) -> None:
    for format, records in {"keras": [MANIFEST], "onnx": [MANIFEST, PARITY], "tfjs": [MANIFEST], "tflite": []}.items():
        (tmp_path / "net" / format).mkdir(parents=True)
        for record in records:
            (tmp_path / "net" / format / record).symlink_to("/nowhere")
    (tmp_path / "net" / "openvino").symlink_to("/etc")
    assert Harvest(tmp_path, "net", tmp_path / "records").counts() == (2, 1)
    assert Harvest(tmp_path, "other", tmp_path / "records").counts() == (0, 0)
