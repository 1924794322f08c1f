"""The versions that must be the same in client and worker: that of this package and that of Python."""

import sys

__version__ = "1.0.0b1"

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""This Python's major and minor version, such as ``"3.13"``. Pickled code works only with the same version."""
