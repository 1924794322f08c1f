"""Installed distributions are sent whole, with modules and metadata, to workers that lack them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pywren.exceptions import SerializationError
from pywren.serialize import ModuleDependencyAnalyzer, _distributions, _modules
from pywren.serialize.serialize import create_mod_data

LAMBDA = "{'boto3', 'botocore'}"
EXTENSION = ".cpython-39-x86_64-linux-gnu.so"


class Site:
    """A site-packages directory of its own, on the client only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def install(
        self,
        name: str,
        files: Mapping[str, str],
        *,
        requires: tuple[str, ...] = (),
        info: Mapping[str, str] | None = None,
        record: bool = True,
    ) -> None:
        """Install a distribution, version 2.5."""
        folder = f"{name}-2.5.dist-info"
        lines = [
            "Metadata-Version: 2.1",
            f"Name: {name}",
            "Version: 2.5",
            *(f"Requires-Dist: {one}" for one in requires),
        ]
        every = {**files, f"{folder}/METADATA": "\n".join([*lines, "", "Text\n"])}
        every |= {f"{folder}/{inside}": text for inside, text in (info or {}).items()}
        for path, text in every.items():
            (full := self.path / path).parent.mkdir(parents=True, exist_ok=True)
            full.write_text(text)
        if record:
            rows = [
                f'"{path}",,' if "," in path else f"{path},," for path in (*every, "../../bin/tool", f"{folder}/RECORD")
            ]
            (self.path / folder / "RECORD").write_text("\n".join(rows) + "\n")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return the directory into which libraries are installed."""
    return Site(tmp_path / "site-packages")


def send(ship: Any, site: Site, script: str, **options: Any) -> Any:
    """Run a script's ``func`` on a worker like Lambda's, without the libraries installed here."""
    return ship(script, options=LAMBDA, path=(str(site.path),), **options)


def test_a_library_that_asks_for_its_version(ship: Any, site: Site) -> None:
    """Row 282: metadata is sent too: version, entry points and the list of files."""
    site.install(
        "calx",
        {"calx/__init__.py": "from importlib.metadata import version\n__version__ = version('calx')\n"},
        info={"entry_points.txt": "[calx.plugins]\none = calx:__name__\n", "direct_url.json": "{}", "INSTALLER": "pip"},
    )
    script = """
import calx
def func(x):
    from importlib.metadata import entry_points, files
    [one] = entry_points(group="calx.plugins")
    return calx.__version__, one.load(), "calx/__init__.py" in map(str, files("calx"))
"""
    assert send(ship, site, script) == ("2.5", "calx", True)
    assert not [name for name in ship.modules if "direct_url" in name or "INSTALLER" in name or "bin/" in name]


@pytest.mark.parametrize("used", ["front", "_back", "side"])
def test_a_library_of_several_modules(ship: Any, site: Site, used: str) -> None:
    """Row 282: whichever module is imported, all of the library's files and packages are sent."""
    files = {"front/__init__.py": "from _back import V\nimport side\n", "_back/__init__.py": "V = 1\n", "side.py": ""}
    site.install("Front.Lib", files)
    assert send(
        ship, site, f"import {used}\ndef func(x):\n    import front\n    return front.V, {used}.__name__\n"
    ) == (1, used)


def test_what_it_requires_goes_along(ship: Any, site: Site) -> None:
    """Requirements are sent transitively, by distribution name; extras and missing ones are not."""
    site.install("one", {"one.py": "import second_name\n"}, requires=("Two_dist (>=1)", "extra1; extra == 'x'", "gone"))
    site.install(
        "two-dist", {"second_name/__init__.py": "import third\n"}, requires=("three[x]>=2; os_name == 'posix'",)
    )
    site.install("three", {"third.py": ""})
    site.install("extra1", {"extra1.py": ""})
    assert send(ship, site, "import one\ndef func(x):\n    return one.second_name.third.__name__\n") == "third"
    assert "extra1.py" not in ship.modules


def test_a_namespace_of_several_libraries(ship: Any, site: Site) -> None:
    """From a namespace package, only the libraries that are used and their requirements are sent."""
    site.install("goo-a", {"goo/a/__init__.py": "import goo.b.deep\nV = goo.b.deep.V\n"}, requires=("goo-b",))
    site.install("goo-b", {"goo/b/deep.py": "V = 7\n", "goo/b/table.txt": "t"})
    site.install("goo-c", {"goo/c.py": ""})
    assert send(ship, site, "import goo.a\ndef func(x):\n    return goo.a.V\n") == 7
    assert "goo/c.py" not in ship.modules
    assert "goo/b/table.txt" in ship.modules


def test_data_of_a_library(ship: Any, site: Site) -> None:
    """Recorded or not, data files are found by ``importlib.resources`` and by path; hidden ones only if recorded."""
    files = {
        "lib/__init__.py": "",
        "lib/templates/.dockerignore": "x",
        "lib/a,b.txt": "comma",
        "lib_data/x.csv": "1,2",
    }
    site.install("lib", files)
    (site.path / "lib" / "added.txt").write_text("later")
    (site.path / "lib" / ".hidden").write_text("")
    script = """
import lib
def func(x):
    from importlib.resources import files
    here = files(lib)
    names = ["templates/.dockerignore", "a,b.txt", "../lib_data/x.csv", "added.txt"]
    return [here.joinpath(name).read_text() for name in names], here.joinpath(".hidden").exists()
"""
    assert send(ship, site, script) == (["x", "comma", "1,2", "later"], False)


def test_a_library_without_a_record(ship: Any, site: Site) -> None:
    """Packages of the system or conda are found by ``top_level.txt``; plain copies are sent as they are."""
    site.install(
        "noted",
        {"noted/__init__.py": "", "beside_it.py": ""},
        info={"top_level.txt": "noted\nbeside_it\n"},
        record=False,
    )
    egg = site.path / "old-1.0.egg-info"
    egg.write_text("Metadata-Version: 1.0\nName: old\nVersion: 1.0\n")
    (site.path / "copied.py").write_text("import noted, beside_it\n")
    script = """
import copied
def func(x):
    from importlib.metadata import version
    return version("noted"), copied.noted.__name__, copied.beside_it.__name__
"""
    assert send(ship, site, script) == ("2.5", "noted", "beside_it")


def test_what_the_worker_has_stays_here(ship: Any, site: Site) -> None:
    """A library, or a part of one, that is installed on the worker is not sent."""
    site.install("there", {"there/__init__.py": "raise ImportError('mine')\n"})
    site.install("half", {"half/__init__.py": "", "boto3/__init__.py": ""})
    ship.pack("def func(x):\n    import there, half\n", options="{'there', 'boto3'}", path=(str(site.path),))
    assert {name.partition("/")[0] for name in ship.modules} == {"half", "half-2.5.dist-info"}


def test_a_namespace_of_which_the_worker_has_a_part(ship: Any, site: Site) -> None:
    """The runtime's ``goo.b`` is used, with its library; ``goo.a`` and the user's modules are sent."""
    site.install("goo-a", {"goo/a/__init__.py": ""}, requires=("goo-b",))
    site.install("goo-b", {"goo/b/__init__.py": "", "goo/b/table.txt": ""})
    ship.write({"goo/mine.py": "import goo.a, goo.b\ndef f(x):\n    return x\n"})
    ship.pack("import goo.mine\nfunc = goo.mine.f\n", options="{'boto3', 'goo.b'}", path=(str(site.path),))
    assert {name for name in ship.modules if name.endswith(".py")} == {"goo/a/__init__.py", "goo/mine.py"}
    assert not [name for name in ship.modules if name.startswith("goo_b") or "goo-b" in name]


def test_a_worker_of_this_machine_gets_no_libraries(ship: Any, site: Site) -> None:
    """Such a worker has the same site-packages."""
    site.install("lib", {"lib.py": ""})
    ship.pack("import lib\ndef func(x):\n    return lib\n", path=(str(site.path),))
    assert ship.modules == {}


# -- compiled parts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        {"quick/__init__.py": "V = 1\n", f"quick/same{EXTENSION}": "", "quick/same.py": ""},
        {
            "quick/__init__.py": "try:\n    from ._c import V\nexcept ImportError:\n    V = 1\n",
            f"quick/_c{EXTENSION}": "",
        },
        {"quick/__init__.py": "V = 1\n", "00ab__mypyc.so": ""},
        {
            "quick/__init__.py": "import contextlib\nwith contextlib.suppress(ImportError):\n    import _q\nV = 1\n",
            "_q.so": "",
        },
        {
            "quick/__init__.py": "def load():\n    try:\n        from . import _c\n    except (ImportError, OSError):\n"
            "        return 1\nV = load()\n",
            "quick/_c.abi3.so": "",
        },
    ],
)
def test_a_library_that_can_do_without_its_compiled_parts(ship: Any, site: Site, files: dict[str, str]) -> None:
    """Row 40: it is sent without them if Python sources can replace them, or if their ImportError is caught."""
    site.install("quick", files)
    assert send(ship, site, "import quick\ndef func(x):\n    return quick.V\n") == 1
    assert not [name for name in ship.modules if name.endswith(".so")]


@pytest.mark.parametrize(
    "files",
    [
        {"quick/__init__.py": "", f"quick/_c{EXTENSION}": ""},
        {"quick/__init__.py": "", "quick/a.py": "from quick._c import x\n", f"quick/_c{EXTENSION}": ""},
        {"quick/__init__.py": "def f():\n    import _quick\n", f"_quick{EXTENSION}": ""},
        {
            "quick/__init__.py": "try:\n    from . import _c\nexcept ImportError:\n    pass\n",
            "quick/b.py": "def f():\n    from . import _c\n",
            f"quick/_c{EXTENSION}": "",
        },
    ],
)
def test_a_library_that_needs_its_compiled_parts(ship: Any, site: Site, files: dict[str, str]) -> None:
    """Row 40: it is refused if it is needed, with the remedy, and left out if the program may do without it."""
    site.install("quick", files)
    ship.write(
        {"mod.py": "try:\n    import quick\nexcept ImportError:\n    quick = None\ndef f(x):\n    return quick\n"}
    )
    with pytest.raises(SerializationError, match=r"quick.*C extension.*exclude_modules"):
        ship.pack("import quick\ndef func(x):\n    return quick\n", options=LAMBDA, path=(str(site.path),))
    assert send(ship, site, "import mod\nfunc = mod.f\n") is None


def test_a_requirement_under_a_marker(ship: Any, site: Site) -> None:
    """A compiled requirement with an environment marker stops no map unless this program has loaded it."""
    site.install("lib", {"lib.py": ""}, requires=("quick; python_version < '3'",))
    site.install("quick", {"quick/__init__.py": "", f"quick/_c{EXTENSION}": ""})
    with pytest.raises(SerializationError, match=r"quick.*lib requires it"):
        ship.pack("import lib, quick\ndef func(x):\n    lib\n", options=LAMBDA, path=(str(site.path),))
    assert send(ship, site, "import lib\ndef func(x):\n    return lib.__name__\n") == "lib"


def test_a_library_over_the_limit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the name and size of the library, which counts all its modules."""
    site.install("fat", {"fat.py": "#" * 600_000, "fat2.py": "#" * 600_000})
    monkeypatch.setattr(_modules, "PACKAGE_LIMIT", 1_000_000)
    monkeypatch.syspath_prepend(site.path)
    analyzer = ModuleDependencyAnalyzer()
    analyzer.add("fat")
    with pytest.raises(SerializationError, match=r"fat .* is 1 MB, over the limit"):
        analyzer.files()


# -- projects ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", LAMBDA])
def test_a_project_beside_its_metadata(ship: Any, options: str) -> None:
    """With its ``.egg-info`` from ``setup.py develop``, a package is sent to every worker."""
    ship.write(
        {
            "proj/__init__.py": "from importlib.metadata import version\n__version__ = version('my-proj')\n",
            "my_proj.egg-info/PKG-INFO": "Metadata-Version: 2.1\nName: my-proj\nVersion: 0.3\n",
            "my_proj.egg-info/top_level.txt": "proj\n",
        }
    )
    assert ship("import proj\ndef func(x):\n    return proj.__version__\n", options=options) == "0.3"


@pytest.mark.parametrize("src", ["", "src/"])
def test_an_editable_project_brings_its_metadata(ship: Any, site: Site, tmp_path: Path, src: str) -> None:
    """Row 282: its version and entry points can be read on the worker as here, in any layout."""
    project = tmp_path / "a project"
    (package := project / src / "proj").mkdir(parents=True)
    (package / "__init__.py").write_text("from importlib.metadata import version\n__version__ = version('My.Proj')\n")
    url = f'{{"url": "{project.as_uri()}", "dir_info": {{"editable": true}}}}'
    site.install("My.Proj", {"my_proj.pth": f"{project / src}\n"}, info={"direct_url.json": url})
    script = (
        f"import sys\nsys.path.append({str(project / src)!r})\nimport proj\ndef func(x):\n    return proj.__version__\n"
    )
    assert send(ship, site, script) == "2.5"
    assert not [name for name in ship.modules if name.endswith((".pth", "direct_url.json"))]


# -- looking up ----------------------------------------------------------------------------------------------


def test_what_is_installed_later_is_found(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """``%pip install`` in a notebook, or an upgrade, affects the next map."""
    monkeypatch.syspath_prepend(site.path)
    os.utime(site.path, (1, 1))
    assert _distributions.find_distribution("later") is None
    site.install("later", {"later.py": ""})
    found = _distributions.find_distribution("later")
    assert found is not None
    assert found.modules == ("later",)
    assert "later" in _distributions.installed_modules()


def test_odd_metadata(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metadata that is incomplete, missing, wrong or not text is not an error."""
    monkeypatch.syspath_prepend(site.path)
    monkeypatch.setattr(sys, "path", [*sys.path, str(site.path / "nowhere"), str(site.path / "file.zip"), ""])
    (site.path / "file.zip").write_bytes(b"")
    (site.path / "empty-1.0.dist-info").mkdir()
    (site.path / "~olden-1.0.dist-info").mkdir()
    site.install("bytes", {"bytes_.py": ""})
    (site.path / "bytes-2.5.dist-info" / "METADATA").write_bytes(b"Name: bytes\nAuthor: \xff\xfe\n\n")
    site.install("lying", {"lying.py": ""}, info={"direct_url.json": '{"editable"'})
    record = site.path / "lying-2.5.dist-info" / "RECORD"
    record.write_text("../../etc/passwd,,\n/etc/passwd,,\nlying.py,,\ngone.py,,\n")
    analyzer = ModuleDependencyAnalyzer()
    for name in ("bytes_", "lying", "empty"):
        analyzer.add(name)
    shipped = {file.relative for file in analyzer.files()}
    assert {name for name in shipped if name.endswith(".py")} == {"bytes_.py", "lying.py"}
    assert not [name for name in shipped if "passwd" in name]


def test_paths_of_0_4_are_those_of_whole_distributions(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """``get_and_clear_paths`` and ``create_mod_data`` include the modules and the metadata."""
    site.install("two", {"two/__init__.py": "", "_two.py": ""})
    monkeypatch.syspath_prepend(site.path)
    analyzer = ModuleDependencyAnalyzer()
    analyzer.add("two")
    paths = analyzer.get_and_clear_paths()
    assert {os.path.basename(path) for path in paths} == {"two", "_two.py", "two-2.5.dist-info"}
    assert {"two/__init__.py", "_two.py", "two-2.5.dist-info/METADATA"} <= set(create_mod_data(paths))
