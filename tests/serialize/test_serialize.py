"""Which kinds of functions can be sent, and what cannot."""

import pickle
import sys
import threading
from pathlib import Path

import pytest

from pywren.exceptions import SerializationError
from pywren.pickling.finished_futures import FinishedFuture
from pywren.pickling.packed import Scalars
from pywren.serialize import SerializeIndependent, Serializer, create_mod_data
from pywren.storage.runtime_info import LAMBDA_PREINSTALLS

KINDS = """
import collections, dataclasses, enum, functools
import numpy as np

def closure():
    offset = 10
    return lambda x: x + offset

def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)

def even(n):
    return True if n == 0 else odd(n - 1)

def odd(n):
    return False if n == 0 else even(n - 1)

class Model:
    scale = 3
    def __init__(self, k):
        self.k = k
    def predict(self, x):
        return self.k * x * self.scale
    @staticmethod
    def static(x):
        return x + 1
    @classmethod
    def make(cls, x):
        return cls(x).k
    def __call__(self, x):
        return self.k - x

class Child(Model):
    def predict(self, x):
        return super().predict(x) + 1

@dataclasses.dataclass
class Point:
    x: int
    y: int = dataclasses.field(default=5)
    def total(self):
        return self.x + self.y

class Colour(enum.Enum):
    RED = 1
    GREEN = 2

Pair = collections.namedtuple("Pair", "a b")

def default(x, *, y=[7]):
    return x + y[0]

def nested(x):
    def inner(y):
        import json
        return json.dumps({"y": y + constant})
    return inner(x)

constant = 41
counter = [0]

@functools.wraps(default)
def wrapped(x):
    return default(x)

def generator_sum(x):
    return sum(i for i in range(x))

class Failing(Exception):
    def __init__(self, code, detail):
        super().__init__(detail)
        self.code = code

def catches(x):
    try:
        raise Failing(3, "no")
    except Failing as error:
        return error.code

KINDS = {
    "closure": (closure(), 1),
    "lambda": (lambda x: x * 2, 4),
    "recursion": (fib, 10),
    "mutual recursion": (even, 7),
    "bound method": (Model(2).predict, 5),
    "inherited method": (Child(2).predict, 5),
    "static method": (Model.static, 5),
    "class method": (Model.make, 5),
    "callable object": (Model(9), 5),
    "class": (Model, 5),
    "partial": (functools.partial(pow, 2), 5),
    "partial of a closure": (functools.partial(closure()), 5),
    "dataclass": (Point.total, Point(1)),
    "enum": (lambda c: c is Colour.GREEN, Colour.GREEN),
    "namedtuple": (lambda p: p.a + p.b, Pair(1, 2)),
    "keyword default": (default, 1),
    "import in an inner function": (nested, 1),
    "wrapped": (wrapped, 1),
    "generator": (generator_sum, 5),
    "exception class": (catches, 0),
    "builtin": (len, [1, 2]),
    "builtin method": ([1, 2, 3].index, 2),
    "numpy function": (np.linalg.norm, np.array([3.0, 4.0])),
    "numpy closure": ((lambda array: lambda x: float((array * x).sum()))(np.ones(3)), np.float64(2)),
    "numpy ufunc": (np.add.reduce, np.arange(4)),
    "type of a result": (lambda x: type(x).__name__, Model(1)),
}

def func(item):
    name, function, argument = item
    value = function(argument)
    return name, value.k if isinstance(value, Model) else value
"""

RESULTS = {
    "closure": 11,
    "lambda": 8,
    "recursion": 55,
    "mutual recursion": False,
    "bound method": 30,
    "inherited method": 31,
    "static method": 6,
    "class method": 5,
    "callable object": 4,
    "class": 5,
    "partial": 32,
    "partial of a closure": 15,
    "dataclass": 6,
    "enum": True,
    "namedtuple": 3,
    "keyword default": 8,
    "import in an inner function": '{"y": 42}',
    "wrapped": 8,
    "generator": 10,
    "exception class": 3,
    "builtin": 2,
    "builtin method": 1,
    "numpy function": 5.0,
    "numpy closure": 6.0,
    "numpy ufunc": 6,
    "type of a result": "Model",
}


@pytest.fixture(scope="module")
def results(make_shipping):
    """Return the results of all kinds of functions, run once in another process."""
    ship = make_shipping()
    packed = ship.pack(KINDS, items="[(name, *pair) for name, pair in KINDS.items()]")
    return ship.run(*packed)


@pytest.mark.parametrize("kind", RESULTS)
def test_each_kind_of_function_runs_in_another_process(results, kind):
    """Whatever a script defines runs on a worker that does not have the script."""
    returned, value = results[list(RESULTS).index(kind)]
    assert returned, value
    assert value == (kind, RESULTS[kind])


def test_notebook_functions_run_in_another_process(ship):
    """A function defined in a notebook cell, with the globals of other cells, runs on the worker."""
    script = """
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
shell.history_manager.enabled = False
cells = "import math; base = 4", "def helper(x): return math.sqrt(x) + base", "def f(x): return helper(x)"
for cell in cells:
    shell.run_cell(cell).raise_error()
func = shell.user_ns["f"]
"""
    assert ship(script, items="[9]") == 7.0


# -- what cannot be sent


class Holder:
    def __init__(self, **parts):
        self.__dict__.update(parts)


class Slotted:
    __slots__ = ("lock",)


class Raises:
    def __reduce__(self):
        raise ValueError("not me")


def slotted():
    thing = Slotted()
    thing.lock = threading.Lock()
    return thing


def nest(depth):
    nested = []
    for _ in range(depth):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    ("make", "path", "words"),
    [
        (lambda: Holder(model=Holder(lock=threading.Lock())), "argument 1.model.lock", "a _thread.lock cannot be"),
        (lambda: {"a": [0, threading.Lock()]}, "argument 1['a'][1]", "_thread.lock"),
        (slotted, "argument 1.lock", "_thread.lock"),
        (lambda: (i for i in ()), "argument 1", "a generator cannot be pickled"),
        (lambda: {"k": Raises()}, "argument 1['k']", "ValueError: not me"),
        (lambda: nest(100_000), "argument 1", "nested too deeply"),
    ],
)
def test_an_argument_that_does_not_pickle_is_named_with_its_path(make, path, words):
    """The error says which argument and attribute cannot be pickled, and why."""
    with pytest.raises(SerializationError) as caught:
        Serializer().pack_call(len, [0, make()])
    assert caught.value.path == path
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


def test_what_a_reduction_raises_is_the_cause():
    """The exception that the user's own __reduce__ raised is kept as the cause."""
    with pytest.raises(SerializationError) as caught:
        Serializer().pack_call(len, [Raises()])
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_open_file_is_not_sent():
    """An open file is refused, though cloudpickle would send a copy of its contents."""
    with open(__file__) as file, pytest.raises(SerializationError, match=r"argument 0: .*open file"):
        Serializer().pack_call(len, [file])


def test_a_closure_variable_that_does_not_pickle_is_named():
    """The error names the closure variable, and the attribute below it."""
    conn = Holder(lock=threading.Lock())

    def foo(x):
        return conn

    with pytest.raises(SerializationError) as caught:
        Serializer().pack_call(foo, [1])
    assert caught.value.path == "foo (closure variable 'conn').lock"


def test_a_global_variable_that_does_not_pickle_is_named(ship):
    """The error names the script's global variable that the function uses."""
    script = "import threading\nguard = threading.Lock()\ndef func(x):\n    return guard\n"
    with pytest.raises(SerializationError) as caught:
        ship.pack(script)
    assert caught.value.path == "func (global variable 'guard')"


def test_futures_among_arguments_are_seen_by_the_hook():
    """The hook is called for every object in an argument, and an object that it identifies is not pickled itself."""
    future = Holder(lock=threading.Lock(), call_id="00001", callset_id="c")
    packed = Serializer().pack_call(
        len, [{"deep": [future]}], persistent_id=lambda obj: 0 if isinstance(obj, Holder) else None
    )
    assert b"pywren-future" in packed.items[0].data


def test_a_future_that_the_function_uses_travels_by_value():
    """A future in the function's closure also arrives finished."""
    future = Holder(lock=threading.Lock())

    def function(x):
        return future.result() + x

    def hook(obj):
        return FinishedFuture.of_value(5) if obj is future else None

    packed = Serializer().pack_call(function, [1], persistent_id=hook)
    assert pickle.loads(packed.func.data)(1) == 6


def test_numbers_and_texts_are_not_pickled_in_advance(monkeypatch):
    """Maps of thousands of them are fast, and what needs a pickle gets one."""
    monkeypatch.setattr(
        "pywren.serialize.serialize.dump", lambda item, **_: pytest.fail(f"{item!r} takes the long way")
    )
    items = [*range(10_000), 1.5, "text", True]
    packed = Serializer().pack_call(len, Scalars.of(items))
    assert [pickle.loads(item.data) for item in packed.items] == items


# -- names of 0.4


def test_serialize_independent_gives_pickles_and_paths(tmp_path, monkeypatch):
    """0.4's serializer returns one pickle per object, and the paths of the modules that they need."""
    package = tmp_path / "ind_pkg"
    package.mkdir()
    (package / "__init__.py").write_text("from ind_single import VALUE\ndef f(x):\n    return x + VALUE\n")
    (tmp_path / "ind_single.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import ind_pkg

    try:
        pickles, paths = SerializeIndependent([["numpy", True], ["os", False]])([ind_pkg.f, 5])
        assert [pickle.loads(text) for text in pickles] == [ind_pkg.f, 5]
        assert paths == {str(package), str(tmp_path / "ind_single.py")}
        data = create_mod_data(paths)
        assert {name for name in data if "__pycache__" not in name} == {"ind_pkg/__init__.py", "ind_single.py"}
        assert SerializeIndependent([])([ind_pkg.f], exclude_modules=["ind_"])[1] == set()
    finally:
        del sys.modules["ind_pkg"], sys.modules["ind_single"]


def test_what_lambda_has_is_not_shipped():
    """boto3 and its dependencies are on Lambda already."""
    import boto3

    assert Serializer(LAMBDA_PREINSTALLS).pack_call(boto3.client, ["s3"]).modules == {}


def test_a_library_with_an_extension_is_refused_for_lambda():
    """A C extension that the worker lacks is reported before anything is invoked, with the remedy."""
    import numpy as np

    with pytest.raises(SerializationError, match=r"numpy.*C extension.*exclude_modules") as caught:
        Serializer(LAMBDA_PREINSTALLS).pack_call(len, [np.float64(1.0)])
    assert caught.value.path == "numpy"
    packed = Serializer(LAMBDA_PREINSTALLS).pack_call(len, [np.float64(1.0)], exclude_modules=["numpy"])
    assert packed.modules == {}
    assert Serializer({*LAMBDA_PREINSTALLS, "numpy"}).pack_call(len, [np.zeros(3)]).modules == {}


def test_a_pure_library_is_shipped_with_what_it_requires():
    """A pure Python library that the worker lacks is sent, with its dependencies."""
    import requests

    modules = Serializer(LAMBDA_PREINSTALLS).pack_call(requests.get, ["x"]).modules
    assert {"requests/__init__.py", "certifi/__init__.py", "certifi/cacert.pem", "idna/__init__.py"} <= set(modules)
    assert not any(name.startswith("urllib3/") for name in modules)


def test_this_interpreters_libraries_are_not_shipped():
    """A worker with the same interpreter has all of its site-packages."""
    import requests

    assert Serializer().pack_call(requests.get, ["x"]).modules == {}


def test_an_edited_module_takes_effect_on_the_next_map(tmp_path, monkeypatch):
    """The file is sent as it is now, not as it was when it was imported or last sent."""
    module = tmp_path / "edited_mod.py"
    module.write_text("def f(x):\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import edited_mod

    try:
        serializer = Serializer()
        first = serializer.pack_call(edited_mod.f, [1]).modules
        module.write_text("import edited_other\ndef f(x):\n    return 2\n")
        (tmp_path / "edited_other.py").write_text("")
        second = serializer.pack_call(edited_mod.f, [1]).modules
        assert b"return 1" in first["edited_mod.py"]
        assert b"return 2" in second["edited_mod.py"]
        assert "edited_other.py" in second
    finally:
        del sys.modules["edited_mod"]


def test_the_test_module_itself_is_shipped_as_a_file():
    """A function of an imported module is pickled by reference, and its module is sent as a file."""
    modules = Serializer().pack_call(nest, [1]).modules
    assert modules[Path(__file__).name] == Path(__file__).read_bytes()
