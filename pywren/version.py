"""The versions that client and worker must agree on: this package's, and Python's."""

import sys

__version__ = "1.0.0a1"

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
"""This Python's major and minor version, such as ``"3.13"``: pickles of code are tied to it."""
