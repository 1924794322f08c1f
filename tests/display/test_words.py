"""Durations, sizes, counts and sums of money in words."""

from __future__ import annotations

import pytest

from pywren.cloud.prices import money
from pywren.display.words import duration, number, size

DURATIONS = {
    0: "0 s",
    1e-7: "0.1 µs",
    0.000085: "85 µs",
    0.0032: "3.2 ms",
    0.0119: "12 ms",
    0.9949: "995 ms",
    0.996: "0.996 s",
    1.25: "1.25 s",
    59.4: "59.4 s",
    59.6: "1 min 0 s",
    245.2: "4 min 5 s",
    3599.7: "1 h 0 min",
    7800: "2 h 10 min",
    -2: "-2 s",
}
SIZES = {0: "0 bytes", 1: "1 byte", 999: "999 bytes", 1000: "1 kB", 1530: "1.53 kB", 999_999: "1 MB", 5e9: "5 GB"}
SUMS = {0: "$0.00", 0.0000021: "$0.0000021", 0.0123: "$0.012", 0.0949: "$0.095", 0.5: "$0.50", 1234.567: "$1,234.57"}


@pytest.mark.parametrize(("seconds", "text"), DURATIONS.items())
def test_durations(seconds, text):
    """A duration has about three digits and the unit that suits it."""
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), SIZES.items())
def test_sizes(count, text):
    """A size has three digits and a unit of 1000."""
    assert size(count) == text


@pytest.mark.parametrize(("dollars", "text"), SUMS.items())
def test_money(dollars, text):
    """A small sum is not rounded to nothing."""
    assert money(dollars) == text


def test_counts():
    """One is singular, and thousands are separated."""
    assert [number(count, "call") for count in (0, 1, 2, 10_000)] == ["0 calls", "1 call", "2 calls", "10,000 calls"]
