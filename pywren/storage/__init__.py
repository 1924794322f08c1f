"""The storage of callsets (``Storage`` and its backends), and the descriptions of runtimes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pywren.storage.runtime_info import get_runtime_info
    from pywren.storage.storage import Storage

__all__ = ["Storage", "get_runtime_info"]


def __getattr__(name: str) -> Any:
    # Names are imported on first use: the configuration needs one name from this package but none of its backends.
    if name == "Storage":
        from pywren.storage.storage import Storage

        return Storage
    if name == "get_runtime_info":
        from pywren.storage.runtime_info import get_runtime_info

        return get_runtime_info
    if name in ("exceptions", "s3_backend", "storage", "storage_utils"):  # in 0.4, importing the package loaded these
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
