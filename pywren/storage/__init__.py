"""Where callsets are kept: ``Storage`` over a backend, and what is known of runtimes."""

from pywren.storage.runtime_info import get_runtime_info
from pywren.storage.storage import Storage

__all__ = ["Storage", "get_runtime_info"]
