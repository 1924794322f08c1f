"""Checks whether the Python of a runtime is the Python of this program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pywren.storage.runtime_info import check_runtime, get_runtime_info
from pywren.version import PYTHON

__all__ = ["check_runtime", "get_runtime_info", "runtime_valid", "version_str"]


def version_str(version_info: Sequence[Any]) -> str:
    """Return the major and minor version of Python as a string, such as ``"3.12"``.

    Args:
        version_info: ``sys.version_info``, or a sequence that begins like it.
    """
    return f"{version_info[0]}.{version_info[1]}"


def runtime_valid(runtime_meta: Mapping[str, Any]) -> bool:
    """Tell whether a runtime has the same version of Python as this program.

    Args:
        runtime_meta: the description of the runtime that ``get_runtime_info`` returns.
    """
    return bool(runtime_meta.get("python_ver") == PYTHON)
