"""A script's functions and classes on a worker: ``pickle`` and ``multiprocessing`` find them by name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import pytest
from child_processes import value

import pywren
from pywren.pickling.arguments import load_with_names
from pywren.pickling.mentions import Mentions
from pywren.pickling.packed import dumps, loads
from pywren.worker.child.program import Program
from pywren.worker.task import Function, Task

WAIT = 240.0  # the script makes some 150 calls, which are slow on a busy machine
ROOT = str(Path(pywren.__file__).parent.parent)

SCRIPT = """
import collections, concurrent.futures, copy, dataclasses, enum, functools, json, multiprocessing, pickle, sys, types
import typing
import pywren

class Record:
    class Inner:
        pass
    def __init__(self, x=0):
        self.x = x
    def value(self):
        return self.x

@dataclasses.dataclass
class Data:
    x: int

class Color(enum.Enum):
    RED = 1

class Point(typing.NamedTuple):
    x: int

class Refused(Exception):
    pass

Old = collections.namedtuple("Old", "a")

made = types.ModuleType("made_by_hand")
exec("class Item:\\n    pass\\ndef plus(x):\\n    return x + 100", vars(made))
sys.modules["made_by_hand"] = made

def square(x):
    return x * x

def plus_square(x):
    return square(x) + 1

def even(n):
    return n == 0 or odd(n - 1)

def odd(n):
    return n != 0 and even(n - 1)

def refuse(x):
    raise Refused(x)

@functools.lru_cache
def cached(x):
    return x

def again(thing):
    return pickle.loads(pickle.dumps(thing))

def pooled(method, function, x):
    with multiprocessing.get_context(method).Pool(1) as pool:
        return pool.map(function, [x])

def submitted(method, function, x):
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, x).result()

def put(queue):
    queue.put(Record(9))

def from_a_process(method):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=put, args=(queue,))
    process.start()
    record = queue.get()
    process.join()
    return type(record) is Record, record.x

def refused_in_a_pool(method):
    try:
        pooled(method, refuse, 1)
    except Refused:
        return "caught"

def names(_):
    import __main__
    return __name__, __main__.square is square, hasattr(__main__, "main")

def within(_):
    with pywren.local_executor() as inner:
        return inner.call_async(lambda x: again(square)(x), 3).result()

CALLS = {
    "an instance": (lambda _: type(again(Record(4))) is Record, None),
    "a nested class": (lambda _: again(Record.Inner) is Record.Inner, None),
    "a dataclass": (lambda _: again(Data(4)) == Data(4), None),
    "a member of an enum": (lambda _: again(Color.RED) is Color.RED, None),
    "named tuples": (lambda _: again([Point(1), Old(2)]) == [Point(1), Old(2)], None),
    "a function": (lambda _: again(square) is square, None),
    "functions that call each other": (lambda _: again(even)(4) and again(odd) is odd, None),
    "a cached function": (lambda _: again(cached) is cached, None),
    "an exception": (lambda _: type(again(Refused(1))) is Refused, None),
    "a class that only the argument is of": (again, Record(5)),
    "a bound method of the argument": (lambda method: again(method)() == 6, Record(6).value),
    "a deep copy": (lambda _: copy.deepcopy([square, Record]) == [square, Record], None),
    "a module made by hand": (lambda _: (type(again(made.Item())) is made.Item, again(made.plus)(1)), None),
    "the main module": (names, None),
    "a map within a call": (within, None),
    **{
        f"{method}: {what}": (functools.partial(lambda method, call, _: call(method), method, call), None)
        for method in ("fork", "spawn", "forkserver")
        for what, call in {
            "a function": lambda method: pooled(method, square, 3),
            "a function that calls another": lambda method: submitted(method, plus_square, 3),
            "a class": lambda method: submitted(method, Record, 3).x,
            "an argument": lambda method: pooled(method, Record.value, Record(3)),
            "a module made by hand": lambda method: submitted(method, made.plus, 1),
            "a process": from_a_process,
            "an exception": refused_in_a_pool,
        }.items()
    },
}

def main(kind):
    executor = getattr(pywren, kind + "_executor")()
    def run(function, items):
        futures = executor.map(function, items)
        if kind == "dummy":
            executor.invoker.run_jobs()
        return [future.result(100) if future.exception(100) is None else repr(future.exception()) for future in futures]
    times = lambda what: 1 if ": " in what else 2  # those that start processes of their own take long
    seen = {what: run(function, [argument] * times(what)) for what, (function, argument) in CALLS.items()}
    back = seen["a class that only the argument is of"]
    seen["a class that only the argument is of"] = [type(one) is Record for one in back]
    functions = [lambda _: again(square)(2), square, lambda _: again(plus_square)(2), square]
    seen["functions in turn"] = [[run(function, [4])[0] for function in functions]] * 2
    json.dump(seen, sys.stdout)

if __name__ == "__main__":
    main(sys.argv[1])
"""

RIGHT: dict[str, Any] = {
    "an instance": True,
    "a nested class": True,
    "a dataclass": True,
    "a member of an enum": True,
    "named tuples": True,
    "a function": True,
    "functions that call each other": True,
    "a cached function": True,
    "an exception": True,
    "a class that only the argument is of": True,
    "a bound method of the argument": True,
    "a deep copy": True,
    "a module made by hand": [True, 101],
    "the main module": ["__main__", True, False],
    "a map within a call": 9,
    "functions in turn": [4, 16, 5, 16],
} | {
    f"{method}: {what}": value
    for method in ("fork", "spawn", "forkserver")
    for what, value in {
        "a function": [9],
        "a function that calls another": 10,
        "a class": 3,
        "an argument": [3],
        "a module made by hand": 101,
        "a process": [True, 9],
        "an exception": "caught",
    }.items()
}


@pytest.fixture(scope="module", params=["local", "dummy"])
def seen(request, tmp_path_factory):
    """Return the results of the script's calls: each is made twice, those that use multiprocessing once."""
    folder = tmp_path_factory.mktemp("script")
    (folder / "script.py").write_text(SCRIPT)
    with tempfile.TemporaryDirectory() as temporary:  # a short path, because multiprocessing makes sockets there
        env = {**os.environ, "PYTHONPATH": ROOT, "PYWREN_HOME": str(folder / "home"), "TMPDIR": temporary}
        done = subprocess.run(
            [sys.executable, "script.py", request.param],
            cwd=folder, env=env, capture_output=True, text=True, timeout=2 * WAIT,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("what", RIGHT)
def test_found_by_name(seen, what):
    """An object that came with a function or an argument is also the one that a lookup by name finds."""
    assert seen[what] == [RIGHT[what]] * (1 if ": " in what else 2)


# -- the parts of a program


@pytest.fixture
def own_main(monkeypatch):
    """Return a ``__main__`` with a function and a class, like a script's."""
    main = types.ModuleType("__main__")
    exec("class A:\n    def m(self): pass\n    class B: pass\ndef f(): return A\ndef g(): return g", vars(main))
    monkeypatch.setitem(sys.modules, "__main__", main)
    return main


def names_of(obj):
    packed = dumps(obj, mentions=Mentions())
    assert type(loads(packed)) is type(obj)  # a reader that needs no names reads the pickle like any other
    return set(load_with_names(packed)[1])


def test_names_that_follow_a_pickle(own_main):
    """Functions and classes of the script follow, without methods; objects pickled by name do not."""
    assert names_of(own_main.f) == {("__main__", "f"), ("__main__", "A")}
    assert names_of(own_main.g) == {("__main__", "g")}
    assert names_of([own_main.A()]) == {("__main__", "A")}
    assert names_of(own_main.A.B()) == {("__main__", "A.B")}
    assert names_of(lambda: json.dumps(1)) == set()
    assert names_of([json.dumps, Path("x"), 1]) == set()


def test_a_function_of_a_script_leaves_its_process_to_the_next_call(runner, own_main):
    """Its ``__main__`` is no damage, but one that a call has put in its place is."""
    lines = (
        "import os, sys, types",
        "def where(name):",
        "    if name: sys.modules['__main__'] = types.ModuleType(name)",
        "    return os.getpid()",
    )
    exec("\n".join(lines), vars(own_main))
    packed = dumps(own_main.where, mentions=Mentions())
    pids = [value(runner.run(Task(Function("script", packed), dumps(name)))) for name in ("", "", "__main__", "", "")]
    assert pids[0] == pids[1] == pids[2] != pids[3] == pids[4]


def test_a_nested_class_without_the_outer_one(own_main, tmp_path, monkeypatch):
    """A namespace replaces an outer class that was not sent."""
    program = Program(str(tmp_path))
    program.add({("__main__", "A.B"): own_main.A.B})
    program.enter()
    assert sys.modules["__main__"].A.B is own_main.A.B
    program.leave()
    assert "__main__" not in sys.modules


def test_a_main_module_of_which_nothing_came(own_main, tmp_path):
    """It has no file, because the file would be empty."""
    program = Program(str(tmp_path))
    program.enter()
    assert not hasattr(sys.modules["__main__"], "__file__")
    assert list(tmp_path.iterdir()) == []


def test_a_main_module_that_does_not_pickle(own_main, tmp_path):
    """It has no file either; spawned processes start without it, as in an interactive session."""
    program = Program(str(tmp_path))
    program.add({("__main__", "f"): sys._getframe()})
    program.enter()
    assert not hasattr(sys.modules["__main__"], "__file__")


def test_the_file_is_written_again_when_more_has_come(own_main, tmp_path):
    """It always contains everything, and asking twice returns the same file."""
    program = Program(str(tmp_path))
    program.add({("__main__", "f"): own_main.f})
    program.enter()
    first = sys.modules["__main__"].__file__
    assert sys.modules["__main__"].__file__ == first
    program.add({("__main__", "A"): own_main.A})
    second = sys.modules["__main__"].__file__
    assert second != first
    done = subprocess.run(
        [sys.executable, "-c", f"import runpy; print(sorted(runpy.run_path({second!r})))"],
        env={**os.environ, "PYTHONPATH": ROOT}, capture_output=True, text=True, timeout=WAIT, check=True,
    )  # fmt: skip
    assert "'A'" in done.stdout
    assert "'f'" in done.stdout


def test_programs_of_which_nothing_came_share_nothing(own_main, tmp_path):
    """The next function does not see what a call adds to its ``__main__``, and later names are its own."""
    first, second = Program(str(tmp_path)), Program(str(tmp_path))
    first.enter()
    sys.modules["__main__"].left = 1
    first.leave()
    second.enter()
    assert not hasattr(sys.modules["__main__"], "left")
    second.add({("__main__", "f"): own_main.f})
    second.enter()
    second.leave()
    first.enter()
    assert not hasattr(sys.modules["__main__"], "f")
