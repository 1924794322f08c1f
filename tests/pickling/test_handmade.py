"""Modules that were not imported by name: their functions and classes arrive, and so do the modules themselves."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import runpy
import subprocess
import sys
import threading
import types
import zipfile
import zipimport
from pathlib import Path

import executors
import pytest

import pywren
from pywren.exceptions import SerializationError
from pywren.pickling.handmade import is_handmade, is_importable
from pywren.pickling.packed import dumps, loads

WAIT = 60.0

SOURCE = """
FACTOR = 3
class Item:
    def __init__(self, x):
        self.x = x
    def scaled(self):
        return FACTOR * self.x
class Refused(Exception):
    pass
def scale(x):
    return FACTOR * x
def set_factor(value):
    global FACTOR
    FACTOR = value
def refuse(x):
    raise Refused(x)
"""


@pytest.fixture(scope="module", params=["local", "dummy"])
def ready(request, tmp_path_factory):
    """Return an executor in memory, and one whose calls go through a storage."""
    with executors.make(request.param, tmp_path_factory.mktemp("home")) as made:
        yield made


class Maker:
    """A maker of modules in every way except a normal import."""

    def __init__(self, folder: Path, modules: dict[str, types.ModuleType]) -> None:
        self.folder = folder
        self.modules = modules

    def write(self, name: str, source: str = SOURCE) -> str:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(source)
        return str(path)

    def from_path(self, name, path, **options):
        return self.from_spec(importlib.util.spec_from_file_location(name, path, **options))

    def from_spec(self, spec):
        module = self.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def by_hand(self, name, cls=types.ModuleType, **attributes):
        module = self.modules[name] = cls(name)
        vars(module).update(attributes)
        exec(SOURCE, vars(module))
        return module


class Registered(dict):
    """A maker that puts modules into ``sys.modules``, and remembers their names."""

    def __setitem__(self, name, module):
        super().__setitem__(name, module)
        sys.modules[name] = module


@pytest.fixture
def make(tmp_path):
    """Return a maker whose modules are removed afterwards."""
    made = Registered()
    yield Maker(tmp_path, made)
    for name in [name for name in sys.modules if name in made or name.partition(".")[0] in made]:
        del sys.modules[name]


class NoFile:
    """A loader whose modules have no file."""

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(SOURCE, vars(module))


class OwnKind(types.ModuleType):
    """A subclass of the module type."""


def _deleted(make):
    path = make.write("deleted.py")
    module = make.from_path("deleted_since", path)
    Path(path).unlink()
    return module


def _unregistered(make):
    module = make.from_path("unregistered", make.write("unregistered-1.py"))
    del sys.modules["unregistered"]
    return module


def _child(make):
    make.by_hand("made_parent", __path__=[])
    return make.by_hand("made_parent.child")


def _package(make):
    make.write("real/inner.py")
    path = make.write("real/__init__.py", "from . import inner" + SOURCE)
    return make.from_path("alias_of_package", path, submodule_search_locations=[str(make.folder / "real")])


def _beside_its_package(make):
    make.from_path("outer_package", make.write("outer/__init__.py", ""), submodule_search_locations=[make.folder])
    return make.from_path("outer_package.extra", make.write("elsewhere/extra.py"))


def _zipped(make):
    with zipfile.ZipFile(make.folder / "z.zip", "w") as archive:
        archive.writestr("in_a_zip.py", SOURCE)
    return make.from_spec(zipimport.zipimporter(str(make.folder / "z.zip")).find_spec("in_a_zip"))


def _no_suffix(make):
    path = make.write("settings")
    return make.from_path("no_suffix", path, loader=importlib.machinery.SourceFileLoader("no_suffix", path))


def _two_names(make):
    module = make.from_path("its_own_name", make.write("two_names.py"))
    make.modules["its_other_name"] = module
    return module


MAKERS = {
    "from a path": lambda make: make.from_path("settings_v2", make.write("settings-v2.py")),
    "under a name that is none": lambda make: make.from_path("settings-v3", make.write("settings-v3.py")),
    "without a suffix": _no_suffix,
    "from a path, unregistered": _unregistered,
    "with a dot, without a package": lambda make: make.from_path("plugins.first", make.write("first-1.py")),
    "from a file that is gone": _deleted,
    "beside its package": _beside_its_package,
    "a package under another name": _package,
    "a module of such a package": lambda make: sys.modules[_package(make).__name__ + ".inner"],
    "in a zip file": _zipped,
    "under two names": _two_names,
    "by hand": lambda make: make.by_hand("by_hand"),
    "by hand, from a notebook": lambda make: make.by_hand("notebook", __file__=make.write("notebook.ipynb", "{}")),
    "by hand, of a kind of its own": lambda make: make.by_hand("own_kind", OwnKind),
    "by hand, in such a package": _child,
    "by a loader without files": lambda make: make.from_spec(importlib.machinery.ModuleSpec("no_file", NoFile())),
}


@pytest.fixture(params=MAKERS)
def module(request, make):
    """Return a module that was made in one of these ways."""
    return MAKERS[request.param](make)


def test_functions_classes_and_errors(ready, module):
    """Functions, classes and errors of such a module work on the worker, and come back as the client's own."""
    item, error = module.Item(4), module.Refused
    assert ready.call(module.scale, 2).result(WAIT) == 6
    assert ready.call(lambda item: item.scaled(), item).result(WAIT) == 12
    assert type(ready.call(module.Item, 5).result(WAIT)) is module.Item
    assert type(ready.call(module.refuse, 1).exception(WAIT)) is error


def test_the_module_itself(ready, module):
    """It arrives as a variable and as an argument; its functions and code that sets its variables share one module."""

    def use(x):
        module.set_factor(5)
        seen = module.scale(x), module.Item(x).scaled(), module.FACTOR
        module.FACTOR = 3
        return *seen, module.scale(x), module.__name__

    assert ready.call(use, 2).result(WAIT) == (10, 10, 5, 6, module.__name__)
    assert ready.call(lambda argument: argument.scale(3), module).result(WAIT) == 9


def test_what_runpy_returns(ready, make):
    """Functions of a script that ``runpy.run_path`` ran arrive, during the run and afterwards."""
    ran = types.SimpleNamespace(**runpy.run_path(make.write("script.py")))
    assert ready.call(ran.scale, 2).result(WAIT) == 6
    assert type(ready.call(ran.refuse, 1).exception(WAIT)) is ran.Refused
    calls = "import sys\nCALLED = sys.modules['tests_call'](scale, 2)\n"
    make.modules["tests_call"] = lambda function, x: ready.call(function, x).result(WAIT)
    assert runpy.run_path(make.write("calls.py", SOURCE + calls))["CALLED"] == 6


def test_imports_under_another_name(ready, make):
    """A function may import a module by the name that the program gave it."""
    _two_names(make)

    def use(x):
        import its_other_name

        return its_other_name.scale(x)

    assert ready.call(use, 2).result(WAIT) == 6


def test_what_it_holds_and_cannot_travel_is_named(make):
    """A module sent by value must be picklable as a whole; one of its functions takes only what it uses."""
    module = make.by_hand("holds_a_lock", lock=threading.Lock())
    with pytest.raises(SerializationError, match=r"global variable 'module'|closure variable 'module'.*\.lock: a _thr"):
        pywren.local_executor().call_async(lambda x: module.scale(x), 1)
    assert loads(dumps(module.scale))(2) == 6


def test_a_module_that_changes_is_sent_again(ready, make):
    """Each map sends the module as it is at that time."""
    module = make.by_hand("changes")
    function = make_user(module)
    assert ready.call(function, 2).result(WAIT) == 6
    module.set_factor(4)
    assert ready.call(function, 2).result(WAIT) == 8


def make_user(module):
    """Return a function that the serializer would remember."""
    return lambda x: module.scale(x)


@pytest.mark.parametrize("name", ["json", "os.path", "numpy.linalg", "numpy.random.mtrand", "pywren.wren", "pytest"])
def test_modules_that_can_be_imported_travel_by_name(name):
    """The standard library, extensions and packages are not copied."""
    imported = importlib.import_module(name)
    assert not is_handmade(imported.__name__)
    assert is_importable(imported)
    assert loads(dumps(imported)) is imported


def test_a_module_that_its_package_makes_travels_by_name(make):
    """A module that its package makes on import, as ``six`` makes ``six.moves``, is made on the worker too."""
    source = """
import sys, types
class Moves(types.ModuleType):
    pass
moves = sys.modules["like_six.moves"] = Moves("like_six.moves")
"""
    package = make.from_path("like_six", make.write("like_six.py", source))
    assert loads(dumps(package.moves)) is package.moves


def test_no_module_of_this_process_is_taken_for_one():
    """Every module that this program has loaded from a file or package is recognised as importable."""
    program = (
        "import sys, asyncio, multiprocessing.pool\n"
        "import boto3, cloudpickle, click, numpy.linalg, pytest, pywren, tblib, yaml\n"
        "from pywren.pickling.handmade import is_handmade\n"
        "loaded = [name for name, module in sys.modules.items() if getattr(module, '__spec__', None)]\n"
        "print([name for name in loaded if is_handmade(name)])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr
