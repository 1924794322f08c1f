"""Durations, sizes and counts as people read them."""

from __future__ import annotations

import math

_SIZES = ("kB", "MB", "GB", "TB", "PB")


def duration(seconds: float) -> str:
    """Return a duration in words: ``"85 µs"``, ``"3.2 ms"``, ``"1.25 s"``, ``"4 min 5 s"``, ``"2 h 10 min"``.

    Args:
        seconds: the duration; clocks of two machines may make it negative.
    """
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 0.9995e-3:
        return f"{seconds * 1e6:.3g} µs" if seconds else "0 s"
    if seconds < 0.00995:
        return f"{seconds * 1000:.2g} ms"
    if seconds < 0.995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.5:
        return f"{seconds:.3g} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float) -> str:
    """Return a number of bytes in words, in units of 1000: ``"512 bytes"``, ``"1.5 MB"``."""
    if count < 1000:
        return number(round(count), "byte")
    power = min(int(math.log10(count) // 3), len(_SIZES))
    if round(count / 1000**power, 1) >= 1000 and power < len(_SIZES):
        power += 1
    return f"{count / 1000**power:.3g} {_SIZES[power - 1]}"


def number(count: int, noun: str) -> str:
    """Return a count with its noun: ``"1 call"``, ``"10,000 calls"``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
