"""Kept for PyWren 0.4: functions that read modules, and that turn bytes into text."""

from pywren.serialize.serialize import create_mod_data
from pywren.wrenutil import bytes_to_b64str

__all__ = ["bytes_to_b64str", "create_mod_data"]
