"""Figures: correct intervals, and numbers that people can read."""

import itertools
import json
import math
import statistics

import pytest

from compare.figures import Figure, Missing, exact, once, over_rounds, share, shown, within_rounds
from compare.metrics import metric
from contract.code import ROOT

REPEATS: dict[str, dict[str, list[list[float]]]] = json.loads((ROOT / "tests" / "recorded_repeats.json").read_text())
"""Figure -> row -> the rounds of each run, of the same artifacts with the same code."""


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_the_published_one(count: int, total: int, low: float, high: float) -> None:
    """The four examples of Newcombe's comparison of methods (1998), table I."""
    figure = share(count, total)
    assert figure.value == count / total
    assert figure.low == pytest.approx(low, abs=6e-5)
    assert figure.high == pytest.approx(high, abs=6e-5)
    assert figure.samples == total


@pytest.mark.parametrize("count", [0, 1, 5, 10])
def test_a_share_lies_within_its_interval_and_both_within_0_and_1(count: int) -> None:
    figure = share(count, 10)
    assert 0 <= figure.low <= figure.value <= figure.high <= 1
    assert figure.low < figure.high


def test_a_share_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="of nothing"):
        share(0, 0)


def test_rounds_give_their_median_within_an_interval_that_is_wider_than_they_are_apart() -> None:
    figure = over_rounds([2.1, 1.9, 2.0], "s", 42)
    assert (figure.value, figure.samples) == (2.0, 42)
    assert figure.high / figure.value == figure.value / figure.low == pytest.approx((2.1 / 1.9) ** 2)
    assert "3 rounds" in figure.spread
    assert over_rounds([2.1, 1.9, 2.0], "s", 42, reach=0.5).high == pytest.approx(1.5 * figure.high)
    assert within_rounds([2.1, 1.9, 2.0], "s", 3).high == 2.1


@pytest.mark.parametrize("name", REPEATS)
def test_an_interval_holds_nine_of_ten_further_runs(name: str) -> None:
    """Each run's interval beside every other run's median, on a machine with other load from run to run."""
    held = [
        over_rounds(run, "", reach=metric(name).reach).holds(statistics.median(further))
        for runs in REPEATS[name].values()
        for run, further in itertools.permutations(runs, 2)
    ]
    assert len(held) >= 30
    assert statistics.mean(held) >= 0.9


def test_the_range_of_the_rounds_alone_would_hold_far_fewer() -> None:
    held = [
        min(run) <= statistics.median(further) <= max(run)
        for rows in REPEATS.values()
        for runs in rows.values()
        for run, further in itertools.permutations(runs, 2)
    ]
    assert statistics.mean(held) < 0.7


def test_rounds_that_are_the_same_are_a_count() -> None:
    figure = over_rounds([7.0, 7.0, 7.0], "B")
    assert figure.low == figure.value == figure.high == 7.0


def test_a_difference_may_be_below_zero() -> None:
    figure = over_rounds([-1.0, 3.0, 1.0], "s", reach=0.1)
    assert figure.low == pytest.approx(-7.1)
    assert figure.high == pytest.approx(9.1)


def test_one_round_knows_nothing_of_its_spread() -> None:
    assert over_rounds([3.0], "s").spread == once(3.0, "s").spread == "measured once"


def test_figures_differ_only_when_their_spreads_do_not_meet() -> None:
    def within(low: float, high: float) -> Figure:
        return Figure((low + high) / 2, "s", low, high, 3, "")

    assert within(1, 2).differs_from(within(2.1, 3))
    assert within(2.1, 3).differs_from(within(1, 2))
    assert not within(1, 2).differs_from(within(2, 3))
    assert not within(1, 4).differs_from(within(2, 3))
    assert not exact(1, "B").differs_from(exact(1, "B"))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (30.14e-6, "s", "30.1 µs"),
        (0.9999e-3, "s", "1.00 ms"),
        (2.906, "s", "2.91 s"),
        (206.3, "s", "206 s"),
        (0.0, "s", "0 µs"),
        (99.96e6, "B", "100 MB"),
        (39_640, "B", "39.6 kB"),
        (1.54e9, "B", "1.54 GB"),
        (12, "B", "12 B"),
        (0.9032, "share", "90.32 %"),
        (35_019.7, "1/s", "35,000 /s"),
        (3.25, "1/s", "3.25 /s"),
        (8_954, "", "8,954"),
        (2.04e-6, "", "2.0e-06"),
        (0.25, "", "0.25"),
        (0, "", "0"),
        (-4.2e-5, "s", "-42.0 µs"),
    ],
)
def test_values_are_written_for_people(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text


def test_what_is_missing_is_never_a_number() -> None:
    missing = Missing("No browser is here.")
    assert str(missing) == "not measured"
    assert not any(isinstance(value, int | float) and not math.isnan(value) for value in vars(missing).values())
