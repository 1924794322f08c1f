"""Functions that the reader cannot import: their variables, and everything that belongs to them."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
import types

import pytest

from pywren.pickling.packed import Packed, dumps, loads

BASE = 7


def again(obj):
    """Pickle and unpickle an object."""
    return loads(Packed(dumps(obj).data))


def make_counter():
    """Return functions and a class that share variables."""
    count, items = 0, []

    def add():
        nonlocal count
        count += 1

    def get():
        return count

    class Both:
        def work(self, item):
            add()
            items.append(item)
            return get(), items

    def work(_):
        before = count
        add()
        Both().work(1)
        return get() - before, len(items)

    return work, add, get, Both


def test_functions_share_their_variables(there):
    """A variable that one inner function or method sets is seen by the others, within the function that is sent."""
    assert there(make_counter()[0]) == (2, 1)


@pytest.mark.parametrize("pack", [list, tuple, lambda pair: {"add": pair[0], "get": pair[1]}.items()])
def test_functions_of_one_argument_share_their_variables(pack):
    """Functions in one argument share a variable, in whatever order they are pickled."""
    _, add, get, _ = make_counter()
    if pack in (list, tuple):
        new_add, new_get = again(pack([add, get]))
        last_get, last_add = again(pack([get, add]))
    else:
        (_, new_add), (_, new_get) = again(list(pack((add, get))))
        (_, last_add), (_, last_get) = again(list(pack((add, get))))
    for one_add, one_get in ((new_add, new_get), (last_add, last_get)):
        one_add()
        one_add()
        assert one_get() == get() + 2


def test_variables_without_a_value_and_recursion():
    """A variable without a value arrives without one; recursive and mutually recursive functions work."""

    def outer():  # noqa: RET503 - the end is never reached, so that the variable has no value
        def early():
            return late

        def down(n):
            return 0 if n == 0 else 1 + up(n - 1)

        def up(n):
            return down(n)

        holder = (lambda: holder,)
        return early, down, holder
        late = 1

    early, down, holder = again(outer())
    with pytest.raises(NameError):
        early()
    assert down(5) == 5
    assert holder[0]() is holder


def test_the_body_of_a_class_in_a_function_finds_globals(there):
    """A global that only an inner class's body, defaults or comprehensions use is sent too."""

    def work(_):
        class Inner:
            value = BASE
            many = [BASE for _ in range(2)]

            def method(self, x=BASE):
                return x

        return Inner.value, Inner.many, Inner().method()

    assert there(work) == (7, [7, 7], 7)


def test_globals_are_shared_and_can_be_set(script):
    """Functions of a script see each other's ``global`` variables, whether old or new, even four hundred of them."""
    text = """
    total = 0
    def add(x):
        global total, last
        total += x
        last = x
        return read()
    def read():
        return total, last
    print(run(add, 3))
    for i in range(400): globals()[f"g{i}"] = i
    exec("def many(_): return " + " + ".join(f"g{i}" for i in range(400)))
    print(run(many))
    """
    assert script(text).split("\n")[:2] == ["(3, 3)", str(sum(range(400)))]


def test_all_that_belongs_to_a_function_arrives(there):
    """The function's defaults, keyword defaults, annotations, attributes, names and signature arrive."""

    def function(a, /, b: int = 1, *rest, c="d", **more) -> str:
        """What it does."""

    function.note = [1]

    def look(f):
        return str(inspect.signature(f)), f.__doc__, f.note, f.__kwdefaults__, f.__qualname__, f.__annotations__

    assert there(look, function) == look(function)


def test_generators_and_coroutines_run(there):
    """Generator functions, coroutine functions and all kinds of context managers work on the worker."""

    class Both:
        async def __aenter__(self):
            return self

        async def __aexit__(self, *error):
            return None

    def numbers(n):
        yield from range(n)

    async def later(n):
        async with Both():
            await asyncio.sleep(0)
            return n

    assert there(lambda _: (list(numbers(3)), asyncio.run(later(4)))) == ([0, 1, 2], 4)


def test_functions_with_globals_of_their_own(there):
    """A function works whose globals are not a module's, and so does one that is its own default."""
    own = types.FunctionType(compile("a + b", "made", "eval"), {"a": 1, "b": 4})

    def itself(f=None):
        return f

    itself.__defaults__ = (itself,)
    assert there(lambda _: (own(), itself() is itself)) == (5, True)


def test_code_arrives_whole():
    """The code of a function and of its inner functions is equal to the original, including the file's name."""

    def function(x):
        return [lambda: 1 / x, (y for y in x)]

    code, back = function.__code__, again(function).__code__
    assert back == code
    assert back.co_filename == code.co_filename == __file__
    assert list(back.co_lines()) == list(code.co_lines())
    inner = [const.co_filename for const in back.co_consts if isinstance(const, types.CodeType)]
    assert inner == [__file__] * 2
    if hasattr(code, "co_positions"):
        assert list(back.co_positions()) == list(code.co_positions())
        assert back.co_qualname == code.co_qualname


def test_a_function_of_a_process_of_multiprocessing(tmp_path):
    """The module that ``multiprocessing`` calls ``__mp_main__`` is treated as a script."""
    path = tmp_path / "the_script.py"
    path.write_text(
        "import functools, multiprocessing, pywren\n"
        "class Kept: value = 2\n"
        "def work(x): return x + Kept.value\n"
        "cached = functools.lru_cache()(functools.partial(work))\n"
        "def program(queue):\n"
        "    with pywren.local_executor() as pwex:\n"
        "        calls = [(work, 1), (lambda x: cached(x), 2), (lambda x: type(x).__name__, Kept())]\n"
        "        queue.put([pwex.map(f, [x])[0].result() for f, x in calls])\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    queue = context.Queue()\n"
        "    process = context.Process(target=program, args=(queue,))\n"
        "    process.start()\n"
        "    print(queue.get(timeout=100))\n"
        "    process.join()\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[3, 4, 'Kept']", done.stderr


def test_submodules_that_a_function_reaches_are_imported(script):
    """``package.submodule``, imported by the script, is available to a function that uses it by that name."""
    text = """
    import xml.etree.ElementTree, concurrent.futures
    def work(_):
        def inner():
            return xml.etree.ElementTree.fromstring("<a/>").tag, concurrent.futures.ThreadPoolExecutor.__name__
        return inner()
    print(run(work))
    """
    assert script(text).strip() == "('a', 'ThreadPoolExecutor')"
