"""The build entry point; everything it says stands in ``pyproject.toml``."""

from setuptools import setup

setup(name="pywren")
