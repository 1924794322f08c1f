"""Kept for PyWren 0.4: the storage errors, which are now defined in ``pywren.exceptions``."""

from pywren.exceptions import StorageConfigMismatchError, StorageNoSuchKeyError, StorageOutputNotFoundError

__all__ = ["StorageConfigMismatchError", "StorageNoSuchKeyError", "StorageOutputNotFoundError"]
