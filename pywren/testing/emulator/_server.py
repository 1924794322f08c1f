"""The emulator's process: starts the parts, says READY on stdout, serves until its standard input ends.

The standard input is a pipe that its parent holds: however the parent goes, the emulator and all its children go too.
"""

from __future__ import annotations


def main() -> None:
    """Run the emulator: what ``python -m pywren.testing.emulator._server`` does."""
    raise NotImplementedError
