"""A door of PyWren 0.4: reading modules, and bytes as text."""

from pywren.serialize.serialize import create_mod_data
from pywren.wrenutil import bytes_to_b64str

__all__ = ["bytes_to_b64str", "create_mod_data"]
