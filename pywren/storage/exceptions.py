"""0.4's door to the errors of the storage, which live in ``pywren.exceptions``."""

from pywren.exceptions import StorageConfigMismatchError, StorageNoSuchKeyError, StorageOutputNotFoundError

__all__ = ["StorageConfigMismatchError", "StorageNoSuchKeyError", "StorageOutputNotFoundError"]
