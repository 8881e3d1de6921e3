"""An error in one line."""

import pytest

from contract.errors import DataError, one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such\n  axis"), "ValueError: no such axis"),
        (KeyError("pixels"), "KeyError: 'pixels'"),
        (AssertionError(), "AssertionError"),
        (DataError("The file is missing.\nGet it."), "The file is missing. Get it."),
    ],
)
def test_an_error_is_one_line(error: Exception, line: str) -> None:
    assert one_line(error) == line


def test_a_long_error_is_cut() -> None:
    assert one_line(ValueError("x" * 100 + " no such axis"), 33) == "ValueError: ... xxxxxxxxx no such axis"
    assert one_line(ValueError("12345678"), 20) == "ValueError: 12345678"
