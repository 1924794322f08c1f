"""The build entry point. All that it says is in ``pyproject.toml``, except the README as it is shown by PyPI."""

import re
from pathlib import Path

from setuptools import setup

SOURCE = "https://github.com/pywren/pywren"
HERE = Path(__file__).parent


def long_description() -> str:
    """Return the README, whose links into the repository lead to the files of this version."""
    (version,) = re.findall('^__version__ = "(.+)"$', (HERE / "pywren" / "version.py").read_text("utf-8"), re.MULTILINE)

    def absolute(link: re.Match[str]) -> str:
        kind = "raw" if link[1].startswith("!") else "blob"  # a picture, or a page about the file
        return f"{link[1]}({SOURCE}/{kind}/v{version}/{link[2]})"

    parts = re.split("(^```.*?^```)", (HERE / "README.md").read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    parts[::2] = [re.sub(r"(!?\[[^]]*\])\((?![a-z]+:|#)([^)\s]+)\)", absolute, prose) for prose in parts[::2]]
    return "".join(parts)


setup(name="pywren", long_description=long_description(), long_description_content_type="text/markdown")
