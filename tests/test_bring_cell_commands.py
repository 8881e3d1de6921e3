"""Artifacts that act when verify, diagnose and compare load them reach nothing: these commands load them in cells."""

import functools
import json
import shutil
from typing import Any

import pytest

from tests import cells

MODES = ("root", "user", "root without namespaces", "user without namespaces")
CODE, GRAPHS = ("answers", "latency", "turns"), ("verify", "diagnose")
"""The commands that load the model `code` of tests/command_attacks.py, and those that load `acts`."""


@functools.cache
def attacked(mode: str) -> dict[str, Any]:
    """What came of each command, on the system of a mode."""
    if reason := cells.why_not(mode):
        pytest.skip(reason)
    folder = cells.public_folder(mode)
    try:
        done = cells.run_as(mode, "-m", "tests.command_attacks", folder, mode)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if result["lacks"] and ("namespaces" in mode or not cells.can_unshare()):
        pytest.skip("this kernel gives neither namespaces nor Landlock")
    assert result["lacks"] == []
    return result["results"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("command", [*CODE, *GRAPHS])
@pytest.mark.parametrize("mode", MODES)
def test_an_artifact_that_acts_when_a_command_loads_it_reaches_nothing(mode: str, command: str) -> None:
    result = attacked(mode)[command]
    assert result["changed"] == [] and result["left"] == 0
    if command in CODE:
        assert "ATTACKED {}" in result["wrote"], "it acted, and reached nothing"
    else:
        assert "could not be loaded" in result["wrote"] and "secret" in result["wrote"], "it acts no more"
