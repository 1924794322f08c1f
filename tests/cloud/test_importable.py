"""Checking a runtime: the requested packages can be imported from it, on its Python and system."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from wheelhouse import Wheelhouse, make_the_index

from pywren.cloud import _wheels, runtime_builder
from pywren.cloud._wheels import Installer, Target
from pywren.exceptions import DeploymentError

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHER = Target("3.11" if HERE != "3.11" else "3.12", "arm64")
UV = _wheels._find_uv()
PIP = _wheels._find_pip()


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheelhouse:
    """The wheels of a local index."""
    return make_the_index(tmp_path / "wheels", monkeypatch)


@pytest.fixture(params=[Target(HERE), OTHER], ids=["this-python", "another"])
def target(request: pytest.FixtureRequest) -> Target:
    """Return a target whose packages can be imported here, and one whose packages cannot."""
    return request.param  # type: ignore[no-any-return]


def build(tmp_path: Path, requirements: str, target: Target, tool: str = "uv" if UV else "pip") -> tuple[set[str], Any]:
    """Build from requirements, and return the names of the distributions and the lines for the user."""
    (file := tmp_path / "requirements.txt").write_text(requirements)
    said: list[str] = []
    (directory := tmp_path / "build").mkdir()
    command = UV if tool == "uv" else PIP
    assert command
    tools = [Installer(target, tool, command)]
    built = runtime_builder.build_from_requirements([file], target, directory, said.append, installers=tools)
    return {name for name, _ in built.meta["pkg_ver_list"]}, said


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"lib/__init__.py": "import missing_one\n"}, r"lib cannot be imported: .*missing_one"),
        ({"lib/__init__.py": "from . import a\n", "lib/a.py": "from missing_one.b import c\n"}, "missing_one"),
        ({"lib.py": "class C:\n    import missing_one\n"}, "missing_one"),
        ({"other_name/__init__.py": "import missing_one\n"}, "other_name cannot be imported"),
        ({"lib/__init__.py": "", "second.py": "import missing_one\n"}, "second cannot be imported"),
        (
            {"lib/__init__.py": "from ._fast import f\n", "lib/_fast.cpython-39-x86_64-linux-gnu.so": "\x7fELF"},
            "_fast",
        ),
        ({"lib.cpython-39-x86_64-linux-gnu.so": "\x7fELF"}, "lib cannot be imported"),
        ({"lib.abi3.so": "no library"}, "lib cannot be imported"),
        ({"lib/__init__.py": "from lib import _fast\n", "lib/_fast.pyd": "MZ"}, "lib cannot be imported"),
        ({}, "it has no module"),
    ],
)
def test_what_cannot_be_imported_is_refused(
    tmp_path: Path, wheels: Wheelhouse, target: Target, files: dict[str, str], says: str
) -> None:
    """Row 281: for any target, the error names modules that are missing or for another system, and the requirement."""
    wheels.add("lib", files=files)
    with pytest.raises(DeploymentError, match=rf"line 1 of .*requirements.txt requires lib.*{says}"):
        build(tmp_path, "lib\n", target)


@pytest.mark.parametrize(
    "files",
    [
        {"lib/__init__.py": "try:\n    import missing_one\nexcept ImportError:\n    pass\n"},
        {"lib/__init__.py": "import sys\nif sys.platform == 'win32':\n    import missing_one\n"},
        {"lib/__init__.py": "def f():\n    import missing_one\n"},
        {
            "lib/__init__.py": "import contextlib\nwith contextlib.suppress(ImportError):\n    import missing_one\n",
        },
        {"lib/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import missing_one\n"},
        {
            "lib/__init__.py": "__version__ = 1\nfrom . import b\n",
            "lib/b.py": "from . import c, __version__\n",
            "lib/c.py": "import lib.b\n",
        },
        {"lib/__init__.py": "import boto3\nimport cloudpickle, tblib, json.decoder\n"},
        {
            "lib/__init__.py": "",
            "lib/_fast.cpython-39-x86_64-linux-gnu.so": "\x7fELF",
            "lib/unused.py": "import missing",
        },
        {"lib/__init__.py": "", "tests/__init__.py": "import pytest_of_theirs\n"},
        {"space/lib/__init__.py": "from space.lib import x\n", "space/lib/x.py": ""},
        {"lib-stubs/__init__.pyi": ""},
        {
            "lib/__init__.py": "import os, sys\nsys.path.append(os.path.join(__path__[0], 'v'))\nimport inner_one\n",
            "lib/v/inner_one.py": "",
        },
        {"lib/__init__.py": "from .v4 import table\n", "lib/v4/__init__.py": "table = 1\n", "lib/v4/table.json": ""},
        {"lib/__init__.py": "import sys, types\nsys.modules['lib.made'] = types.ModuleType('made')\nimport lib.made\n"},
    ],
)
def test_what_can_be_imported_is_taken(
    tmp_path: Path, wheels: Wheelhouse, target: Target, files: dict[str, str]
) -> None:
    """Optional imports, the worker's own modules, and modules that nothing imports do not stop a build."""
    wheels.add("lib", files=files)
    assert build(tmp_path, "lib\n", target) == ({"lib"}, [])


def test_what_is_required_must_be_there_too(tmp_path: Path, wheels: Wheelhouse, target: Target) -> None:
    """Row 281: for an import that fails in a dependency, the error shows the path from the requested library to it."""
    wheels.add("lib", requires=["below"], files={"lib/__init__.py": "import below\n"})
    wheels.add("below", files={"below/__init__.py": "import missing_one\n"})
    with pytest.raises(DeploymentError, match=r"lib cannot be imported: .*missing_one"):
        build(tmp_path, "lib\n", target)


def test_an_import_that_raises_is_told(tmp_path: Path, wheels: Wheelhouse) -> None:
    """An exception or crash during an import here may be due to this machine, so it is only reported."""
    wheels.add("raising", files={"raising.py": "raise RuntimeError('no display')\n"})
    wheels.add("ending", files={"ending.py": "import os\nprint('x')\nos._exit(3)\n"})
    wheels.add("lying", files={"lying.py": "exec('import missing_one')\n"})
    names, said = build(tmp_path, "raising\nending\n", Target(HERE))
    assert names == {"raising", "ending"}
    assert sorted(line.partition(" on this")[0] for line in said) == [
        "importing ending raises an exit of the process",
        "importing raising raises RuntimeError",
    ]
    (tmp_path / "build").rename(tmp_path / "earlier")
    with pytest.raises(DeploymentError, match="lying cannot be imported: No module named 'missing_one'"):
        build(tmp_path, "lying\n", Target(HERE))


def test_what_cannot_be_imported_here_either(
    tmp_path: Path, wheels: Wheelhouse, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries in ``pip freeze`` that cannot be imported here either, for lack of a dependency, are only reported."""
    wheels.add("lib", files={"lib.py": "import missing_one\n", "lib2.py": "exec('import missing_one')\n"})
    site = tmp_path / "installed"
    (site / "lib-1.0.dist-info").mkdir(parents=True)
    (site / "lib-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: lib\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(site)
    names, said = build(tmp_path, "lib\n", target)
    assert names == {"lib"}
    tried = ["lib", "lib2"] if target.python == HERE else ["lib"]
    assert [line.partition(" of lib 1.0 cannot be imported, neither here nor")[0] for line in said] == tried


def test_a_marker_that_pip_judges_by_this_machine(tmp_path: Path, wheels: Wheelhouse) -> None:
    """Row 281: a package that pip left out is an error if the target needs it."""
    wheels.add("lib")
    wheels.add("only_there")
    if not PIP:
        pytest.skip("pip is not here")
    text = f"lib\nonly_there ; python_version == '{OTHER.python}'\n"
    with pytest.raises(DeploymentError, match=r"line 2 of .* requires only-there, which was not installed"):
        build(tmp_path, text, OTHER, "pip")
    (tmp_path / "build").rename(tmp_path / "earlier")
    assert build(tmp_path, "lib\nonly_there ; sys_platform == 'win32'\n", OTHER, "pip")[0] == {"lib"}


def test_modules_that_would_hide_the_standard_library(tmp_path: Path, wheels: Wheelhouse) -> None:
    """Only those modules are removed, for the target's Python: ``cgi`` is not a standard module of 3.13."""
    wheels.add("configparser", files={"configparser.py": "", "backports_of_it/__init__.py": ""})
    wheels.add("enum34", files={"enum/__init__.py": ""})
    wheels.add("legacy_cgi", files={"cgi.py": ""})
    names, said = build(tmp_path, "configparser\nenum34\nlegacy_cgi\n", Target("3.13"))
    assert names == {"configparser", "legacy-cgi"}
    assert sorted(said) == [
        "configparser from configparser 1.0 is left out: its module configparser would hide the standard library's",
        "enum34 1.0 is left out: its module enum would hide the standard library's",
    ]
    (tmp_path / "build").rename(tmp_path / "earlier")
    wheels.add("lib")
    names, said = build(tmp_path, "lib\nlegacy_cgi\n", Target("3.12"))
    assert (names, said) == ({"lib"}, ["legacy-cgi 1.0 is left out: its module cgi would hide the standard library's"])
