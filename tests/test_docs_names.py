"""What the pages name exists: commands with their options, keys of the configuration, and names of the package."""

from __future__ import annotations

import importlib.util
import pkgutil
import re
import shlex
from pathlib import Path

import click
import pytest

from pywren import wrenconfig
from pywren.scripts.pywrencli import cli
from pywren.scripts.setupscript import interactive_setup
from pywren.scripts.standalone import server
from pywren.testing.emulator.__main__ import main as emulator

PAGES = sorted((Path(__file__).parent.parent / "docs").glob("*.md"), key=lambda path: path.name)
PROGRAMS: dict[str, click.Command] = {"pywren": cli, "pywren-setup": interactive_setup, "pywren-server": server}
EMULATOR = "python -m pywren.testing.emulator "
SECTIONS = sorted({key.partition(".")[0] for key in wrenconfig.KEYS if "." in key})
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Return the command lines of a page that call pywren's programs."""
    blocks = FENCE.findall(text)
    spans = re.findall(r"`(pywren(?:-setup|-server)? [^`\n]+)`", FENCE.sub("", text))
    lines = [line for language, block in blocks if language in {"", "sh"} for line in block.splitlines()]
    return [line for line in [*lines, *spans] if line.startswith((*(f"{name} " for name in PROGRAMS), EMULATOR))]


def unknown_part(line: str) -> str | None:
    """Return the part of a command line that its program does not know."""
    name, *words = shlex.split(line.replace("<(", "(").replace(EMULATOR, "emulator "), comments=True)
    command: click.Command = emulator if name == "emulator" else PROGRAMS[name]
    for word in words:
        if word == "--":
            break
        if word.startswith("--"):
            options = {known for param in command.params for known in (*param.opts, *param.secondary_opts)}
            if word.partition("=")[0].replace("-", "_") not in {
                known.replace("-", "_") for known in options | {"--help"}
            }:
                return word
        elif isinstance(command, click.Group) and re.fullmatch(r"[a-z_-]+", word):
            if word.replace("-", "_") not in command.commands:
                return word
            command = command.commands[word.replace("-", "_")]
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_exists_with_its_options(page: Path) -> None:
    """A command that a reader copies is not refused as unknown."""
    lines = commands(page.read_text(encoding="utf-8"))
    assert not {line: unknown_part(line) for line in lines if unknown_part(line)}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_key_of_the_configuration_exists(page: Path) -> None:
    """A key that a page tells its reader to set is one that pywren knows."""
    named = re.findall(rf"`({'|'.join(SECTIONS)}): (\w+)", page.read_text(encoding="utf-8"))
    assert not {f"{section}.{key}" for section, key in named} - set(wrenconfig.KEYS)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_name_of_the_package_exists(page: Path) -> None:
    """What is written as ``pywren.name`` can be written in a program; migrating.md also has names that are gone."""
    text = page.read_text(encoding="utf-8").partition("\n## Gone\n")[0]
    text = re.sub(r"^```\{eval-rst\}.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)  # Sphinx imports what is there
    text = text.replace("pywren.jobs/", "").replace("`pywren.jobs`", "")  # the prefix of keys in the bucket
    named = set(re.findall(r"(?<![\w./-])(pywren(?:\.[A-Za-z_]+)+)\b(?!/)", text))
    assert not [name for name in named if not _exists(name)]


def _exists(name: str) -> bool:
    """Tell whether a program can write the name, after an import of the module if it is one."""
    module, _, attribute = name.rpartition(".")
    try:
        return hasattr(pkgutil.resolve_name(module), attribute) or importlib.util.find_spec(name) is not None
    except (ImportError, AttributeError):
        return False
