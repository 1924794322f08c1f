"""The version of this package; client and worker must agree on it."""

__version__ = "1.0.0a1"
