"""The Python that containers run on: a virtual environment with what Lambda's managed runtime has, and no more.

That is the runtime client awslambdaric, boto3, botocore and what they need, linked from the packages of the
interpreter that runs the emulator; its other packages (numpy, pywren itself) are out of sight, as on Lambda.
"""

from __future__ import annotations

from pathlib import Path

PACKAGES = ("awslambdaric", "boto3")
"""Distributions that are linked in, with everything they require."""


def make_interpreter(directory: Path) -> Path:
    """Make the environment and return its ``python``.

    Raises:
        ImportError: awslambdaric or boto3 is not installed; names the extra.
    """
    raise NotImplementedError
