"""Artifacts that act when verify, diagnose and compare load them reach nothing: these commands load them in cells."""

from typing import Any

import pytest

from tests import cells
from tests.test_bring_cell import attacked

MODES = ("root", "user", "root without namespaces", "user without namespaces")
"""Each takes a minute, so not all of tests/cells.py."""
CODE, GRAPHS = ("answers", "latency", "turns"), ("verify", "diagnose")
"""The commands that load the model `code` of tests/command_attacks.py, and those that load `acts`."""


def results(mode: str) -> dict[str, Any]:
    """What came of each command, on the system of a mode."""
    done = attacked(mode, "tests.command_attacks")
    if done["lacks"] and ("namespaces" in mode or not cells.can_unshare()):
        pytest.skip("this kernel gives neither namespaces nor Landlock")
    assert done["lacks"] == []
    return done["results"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("command", [*CODE, *GRAPHS])
@pytest.mark.parametrize("mode", MODES)
def test_an_artifact_that_acts_when_a_command_loads_it_reaches_nothing(mode: str, command: str) -> None:
    result = results(mode)[command]
    assert result["changed"] == [] and result["left"] == 0
    if command in CODE:
        assert "ATTACKED {}" in result["wrote"], "it acted, and reached nothing"
    else:
        assert "could not be loaded" in result["wrote"] and "secret" in result["wrote"], "it acts no more"
