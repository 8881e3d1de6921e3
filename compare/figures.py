"""A measured figure: its value, its unit and its spread; or the reason why it was not measured."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
EXACT = "exact"


@dataclass(frozen=True)
class Figure:
    """A value in a base unit ("s", "B", "1/s", "share", or "" for a plain number), within `low` and `high`."""

    value: float
    unit: str
    low: float
    high: float
    samples: int
    """How many pictures, calls or files the value comes from."""
    spread: str
    """What `low` and `high` are."""

    def differs_from(self, other: "Figure") -> bool:
        """Whether the two can be told apart: their spreads do not overlap."""
        return self.low > other.high or other.low > self.high

    def holds(self, value: float) -> bool:
        """Whether a value lies within the interval."""
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return shown(self.value, self.unit)


@dataclass(frozen=True)
class Missing:
    """A measurement that was not made."""

    missing: str
    """The reason, as a sentence."""

    def __str__(self) -> str:
        return "not measured"


Measured = Figure | Missing


def exact(value: float, unit: str, samples: int = 1) -> Figure:
    """A count, or another value that is the same in every measurement."""
    return Figure(value, unit, value, value, samples, EXACT)


def once(value: float, unit: str) -> Figure:
    """A value that was measured once: its spread is unknown."""
    return Figure(value, unit, value, value, 1, "measured once")


def share(count: int, total: int) -> Figure:
    """`count` of `total` within Wilson's interval, which stays between 0 and 1 and is valid at both ends.

    Raises ValueError if `total` is 0.
    """
    if total < 1:
        raise ValueError("a share of nothing has no value")
    z = statistics.NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    rate, weight = count / total, z * z / total
    middle = (rate + weight / 2) / (1 + weight)
    reach = z / (1 + weight) * math.sqrt(rate * (1 - rate) / total + weight / (4 * total))
    spread = f"Wilson's {CONFIDENCE:.0%} interval"
    return Figure(rate, "share", min(rate, middle - reach), max(rate, middle + reach), total, spread)


WIDER = 2
"""The rounds of one run see less of a machine than two runs do: on each side the interval reaches as far as from the
smallest round to the largest, so many times. Repeats under other load taught this: tests/recorded_repeats.json."""


def over_rounds(values: Sequence[float], unit: str, samples: int | None = None, reach: float = 0.0) -> Figure:
    """The median of several rounds, within an interval for the median of a further run.

    `reach` is the share by which runs differ even where their rounds do not.
    """
    rounds, middle, low, high = len(values), statistics.median(values), min(values), max(values)
    if rounds == 1:
        return Figure(middle, unit, middle, middle, samples or 1, "measured once")
    spread = f"holds 9 of 10 further runs, by {rounds} rounds"
    if low <= 0:  # a difference of two times may be below 0, and has no factor
        far = WIDER * (high - low) + reach * abs(middle)
        return Figure(middle, unit, middle - far, middle + far, samples or rounds, spread)
    factor = (high / low) ** WIDER * (1 + reach)
    return Figure(middle, unit, middle / factor, middle * factor, samples or rounds, spread)


def within_rounds(values: Sequence[float], unit: str, samples: int) -> Figure:
    """The median of several rounds, within the smallest and the largest of them."""
    spread = f"smallest and largest of {len(values)} rounds"
    return Figure(statistics.median(values), unit, min(values), max(values), samples, spread)


SCALES: dict[str, tuple[tuple[float, str], ...]] = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
}


def shown(value: float, unit: str) -> str:
    """A value for people, with three digits unless it is a count: `30.1 µs`, `3.72 MB`, `90.32 %`, `35,000 /s`."""
    if unit == "share":
        return f"{100 * value:.2f} %"
    if unit == "1/s":
        return f"{float(f'{value:.3g}'):,.0f} /s" if value >= 10 else f"{value:.3g} /s"
    if unit in SCALES:
        value = float(f"{value:.3g}")  # before the unit is chosen: 999.9 µs are 1.00 ms
        size, name = next((scale for scale in SCALES[unit] if abs(value) >= scale[0]), SCALES[unit][-1])
        return f"{value:.0f} B" if name == "B" else f"{_digits(value / size)} {name}"
    return f"{value:,.0f}" if value == int(value) else f"{value:.1e}" if abs(value) < 1e-3 else f"{value:.2g}"


def _digits(value: float) -> str:
    """Three digits, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 or value == 0 else f"{value:.{2 - math.floor(math.log10(abs(value)))}f}"
