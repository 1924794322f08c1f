"""The supervisor of one child process: whatever happens, nothing of it outlives the emulator.

``python -m pywren.testing.emulator._supervisor CMD…`` starts the command, becomes the reaper of all that descends from
it, and kills all of it when its own standard input ends (the emulator is gone, however it went) or the command ends.
"""

from __future__ import annotations

from collections.abc import Sequence


def supervised(command: Sequence[str]) -> list[str]:
    """Return the command line that runs a command under a supervisor."""
    raise NotImplementedError


def main() -> None:
    """Run the supervisor."""
    raise NotImplementedError
