"""Keeps moto out of the clients that a test makes."""

from __future__ import annotations

import botocore.handlers
import pytest


def keep_moto_out(patch: pytest.MonkeyPatch) -> None:
    """Make clients without moto's handlers, which ``import moto`` adds to all clients of the process."""
    own = [each for each in botocore.handlers.BUILTIN_HANDLERS if each[1].__module__.startswith("botocore.")]
    patch.setattr("botocore.handlers.BUILTIN_HANDLERS", own)
