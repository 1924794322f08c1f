"""Pickling of values, futures and exceptions between client and worker."""

import copyreg
import dataclasses
import functools
import linecache
import os
import pickle
import subprocess
import sys
import threading
import traceback
import types
from pathlib import Path

import cloudpickle
import numpy as np
import pytest
import tblib.pickling_support

import pywren
from pywren.exceptions import ResultSerializationError, SerializationError
from pywren.pickling.arguments import load_argument
from pywren.pickling.finished_futures import FinishedFuture
from pywren.pickling.mentions import Mentions
from pywren.pickling.packed import OUT_OF_BAND_MIN, Packed, dump_result, dumps, load_result, loads
from pywren.pickling.packed_exceptions import dump_exception, load_exception
from pywren.pickling.remote_errors import RemoteTraceback
from pywren.wire.outcome import Outcome

ROOT = str(Path(pywren.__file__).parent.parent)

# -- values

PLAIN = [
    0,
    -1,
    2**100,
    1.5,
    "text ü",
    b"bytes",
    True,
    None,
    ...,
    1j,
    [1, "a", (2.0, None), {3}],
    {"k": [b"", frozenset({1})]},
    [],
    {},
    list(range(1000)),
]


@pytest.mark.parametrize("value", PLAIN, ids=repr)
def test_plain_values_come_back(value):
    """Built-in values come back equal and of the same type, with plain pickle."""
    packed = dumps(value)
    assert packed.data == pickle.dumps(value, 5)
    assert type(loads(packed)) is type(value)
    assert loads(packed) == value


SCALARS = [
    np.bool_(True),
    *(kind(7) for kind in (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint32, np.uint64)),
    *(kind(0.1) for kind in (np.float16, np.float32, np.float64, np.longdouble, np.complex64, np.complex128)),
    np.float64("inf"),
    np.str_("s"),
    np.bytes_(b"b"),
    np.datetime64("2026-11-22"),
    np.timedelta64(3, "s"),
]


@pytest.mark.parametrize("value", SCALARS, ids=lambda value: type(value).__name__)
def test_numpy_scalars_come_back(value):
    """numpy scalars come back with value and type, and the pickle records that its reader needs numpy."""
    mentions = Mentions()
    back = loads(dumps(value, mentions=mentions))
    assert type(back) is type(value)
    assert back == value
    assert {module.partition(".")[0] for module in mentions.modules} == {"numpy"}


def test_numpy_arrays_come_back():
    """Arrays come back with shape, dtype and order: plain, structured, empty and of objects."""
    structured = np.zeros(2, dtype=[("a", "i4"), ("b", "f8")])
    for array in (np.arange(6).reshape(2, 3), np.asfortranarray(np.eye(3)), structured, np.empty((0, 3))):
        back = loads(dumps(array))
        assert back.dtype == array.dtype
        assert back.flags["F_CONTIGUOUS"] == array.flags["F_CONTIGUOUS"]
        np.testing.assert_array_equal(back, array)
    back = loads(dumps(np.array([lambda: 5, None], dtype=object)))
    assert back[0]() == 5


def test_big_buffers_stay_out_of_band():
    """Big arrays are stored beside the pickle, as views of the owner's memory; small ones are in the pickle."""
    big, small = np.ones(OUT_OF_BAND_MIN), np.ones(3)
    packed = dumps({"big": big, "small": small, "f": lambda: 1}, out_of_band=True)
    assert len(packed.buffers) == 1
    assert np.shares_memory(np.frombuffer(packed.buffers[0], dtype="f8"), big)
    assert len(packed.data) < OUT_OF_BAND_MIN
    assert packed.size == len(packed.data) + big.nbytes
    np.testing.assert_array_equal(loads(packed)["big"], big)
    assert dumps(big).buffers == ()
    assert dumps(big, out_of_band=True).buffers != ()


def test_classes_of_a_module_registered_by_value_travel_by_value():
    """Classes of a module that the user registered with cloudpickle are never pickled by reference."""
    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        assert b"make_class" in dumps([Plain()]).data
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert b"make_class" not in dumps([Plain()]).data


class Plain:
    pass


def test_values_of_the_script_come_back_from_another_process():
    """Instances, lambdas and classes of ``__main__`` cross to a process that does not have the script."""
    script = """
import sys
from pywren.pickling.packed import dumps
class Thing:
    def __init__(self, x): self.x = x
    def __eq__(self, other): return type(other) is type(self) and other.x == self.x
sys.stdout.buffer.write(dumps([Thing(3), (lambda y: y + 1), Thing]).data)
"""
    thing, function, cls = loads(Packed(_python(script)))
    assert (thing.x, function(1), cls(3) == thing) == (3, 2, True)


def _python(script, stdin=b""):
    env = {**os.environ, "PYTHONPATH": ROOT}
    done = subprocess.run([sys.executable, "-c", script], input=stdin, capture_output=True, env=env, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def test_importing_loads_no_third_party_module():
    """cloudpickle and tblib are loaded only when they are needed, numpy never."""
    names = _python("import sys, pywren.pickling.packed as p; p.loads(p.dumps([1, 'a'])); print(*sys.modules)").split()
    assert not {b"cloudpickle", b"tblib", b"numpy", b"boto3"} & set(names)


# -- results


class ExitsOnLoad:
    def __reduce__(self):
        return sys.exit, (0,)


class RaisesOnLoad:
    def __reduce__(self):
        return int, ("x",)


def recurse(n=0):
    return recurse(n + 1)


class RecursesOnLoad:
    def __reduce__(self):
        return recurse, ()


class InterruptsOnLoad:
    def __reduce__(self):
        return _raise, (KeyboardInterrupt,)


def _raise(cls):
    raise cls


@pytest.mark.parametrize("hostile", [ExitsOnLoad, RaisesOnLoad, RecursesOnLoad])
def test_a_result_that_fails_to_load_is_an_error_of_the_call(hostile):
    """A result that raises, exits or recurses when it is unpickled gives ``ResultSerializationError``."""
    with pytest.raises(ResultSerializationError) as caught:
        load_result(dump_result(hostile()), call_id="00003", callset_id="c")
    assert (caught.value.call_id, caught.value.callset_id) == ("00003", "c")
    assert "00003" in str(caught.value)
    assert caught.value.__cause__ is not None


def test_the_users_own_interrupt_is_not_swallowed():
    """Ctrl-C while a result is unpickled raises KeyboardInterrupt as usual."""
    with pytest.raises(KeyboardInterrupt):
        load_result(dump_result(InterruptsOnLoad()))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (threading.Lock, "result: a _thread.lock cannot be pickled"),
        (lambda: {"a": [threading.Lock()]}, r"result\['a'\]\[0\]: a _thread.lock"),
        (lambda: (i for i in ()), "result: a generator"),
    ],
)
def test_a_result_that_does_not_pickle_is_named(make, words):
    """The error names the type and the path within the result."""
    with pytest.raises(ResultSerializationError, match=words):
        dump_result(make())


def test_an_unpicklable_value_without_a_path_is_named_by_its_type():
    """If the value has no name, the error gives its type."""
    thing = Plain()
    thing.lock = threading.Lock()
    with pytest.raises(SerializationError, match=r"^the Plain\.lock: a _thread\.lock"):
        dumps(thing)


def _partial():
    return functools.partial(print, threading.Lock())


@pytest.mark.parametrize(
    ("make", "path"),
    [
        (_partial, "x (argument 0 of the partial)"),
        (lambda: threading.Lock().acquire, "x (the object of its method 'acquire')"),
        (lambda: {1: {threading.Lock()}}, "x[1] (element "),
    ],
)
def test_the_path_goes_through_callables_and_sets(make, path):
    """The path also goes through partials, bound methods and sets."""
    with pytest.raises(SerializationError) as caught:
        dumps(make(), path="x")
    assert caught.value.path.startswith(path)


# -- futures among arguments


class ClientFuture:
    call_id, callset_id = "00007", "set"

    def __reduce__(self):
        raise AssertionError("a future must not be pickled itself")


def _outcome(value):
    return Outcome(True, dump_result(value).data).encode()


def _error_outcome(error):
    packed = dump_exception(error)
    return Outcome(False, packed.body.data, packed.type_name, packed.text, packed.traceback).encode()


def test_a_future_arrives_finished():
    """A future among the arguments arrives finished, with the outcome of the call."""
    future = ClientFuture()
    packed = dumps([future, {"again": future}], persistent_id=lambda obj: 1 if obj is future else None)
    first, rest = load_argument(packed, [b"unused", _outcome([1, 2])])
    assert first is rest["again"]
    assert first.result() == [1, 2]
    assert first.result(0, True) is True
    assert (first.call_id, first.callset_id) == ("00007", "set")
    assert first.done()
    assert first.succeeded()
    assert [first.errored(), first.running(), first.cancelled(), first.cancel()] == [False] * 4
    assert first.exception() is None
    called = []
    first.add_done_callback(called.append)
    assert called == [first]


def test_a_failed_future_raises_on_the_worker():
    """A future whose call raised raises the same on the worker, or returns None when asked not to raise."""
    future = ClientFuture()
    packed = dumps(future, persistent_id=lambda obj: 0 if obj is future else None)
    arrived = load_argument(packed, [_error_outcome(KeyError("k"))])
    assert arrived.errored()
    assert not arrived.succeeded()
    with pytest.raises(KeyError, match="k"):
        arrived.result()
    assert arrived.result(throw_except=False) is None
    assert isinstance(arrived.exception(), KeyError)


@pytest.mark.parametrize(
    "finished",
    [
        FinishedFuture.of_value(lambda: 5, callset_id="set", call_id="00007"),
        FinishedFuture.of_exception(ValueError("no"), callset_id="set", call_id="00007"),
        FinishedFuture(_outcome(3), callset_id="set", call_id="00007"),
    ],
    ids=["value", "exception", "outcome"],
)
@pytest.mark.parametrize("references", [True, False])
def test_a_future_may_travel_by_value(finished, references):
    """A finished future can be part of the argument or function, for a worker that gets no references."""
    future = ClientFuture()
    packed = dumps(
        [future, future], persistent_id=lambda obj: finished if obj is future else None, references=references
    )
    first, second = loads(packed)
    assert first is second
    assert (first.call_id, first.callset_id) == ("00007", "set")
    if finished.errored():
        with pytest.raises(ValueError, match="no"):
            first.result()
    elif callable(finished.result()):
        assert first.result()() == 5
    else:
        assert first.result() == 3


def test_a_finished_future_pickles_on():
    """A finished future can be returned or sent to further calls, whether or not it has been loaded."""
    arrived = FinishedFuture(_outcome("v"), callset_id="c", call_id="00001")
    assert loads(dumps(arrived)).result() == "v"
    assert arrived.result() == "v"
    again = loads(dumps(arrived))
    assert (again.result(), again.call_id) == ("v", "00001")


def test_a_foreign_persistent_id_is_an_error():
    """A persistent id that pywren did not write is refused."""

    class Foreign(pickle.Pickler):
        def persistent_id(self, obj):
            return ("other", 0, None, None) if obj == "x" else None

    import io

    file = io.BytesIO()
    Foreign(file).dump("x")
    with pytest.raises(pickle.UnpicklingError, match="persistent id"):
        load_argument(Packed(file.getvalue()))


# -- exceptions


class OddInit(Exception):
    def __init__(self, code, *, detail):
        super().__init__(f"{code}: {detail}")
        self.code = code


class Doubling(Exception):
    def __init__(self, text):
        super().__init__(f"<{text}>")


class WithSlots(Exception):
    __slots__ = ("message",)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenWithSlots(Exception):
    code: int


class OddOSError(OSError):
    def __init__(self, path):
        super().__init__(2, "gone", path)
        self.path = path


class OwnReduce(Exception):
    def __init__(self, a, b):
        super().__init__(a)
        self.b = b

    def __reduce__(self):
        return type(self), (self.args[0], self.b)


class SelfReferring(Exception):
    pass


def _slots():
    error = WithSlots("w")
    error.message = "kept"
    return error


def _self_referring():
    error = SelfReferring("s")
    error.me = error
    return error


def _import_error():
    return ImportError("m", name="n", path="p")


EXCEPTIONS = [
    ValueError("x"),
    KeyError(("a", 1)),
    OddInit(3, detail="d"),
    Doubling("t"),
    _slots(),
    OSError(2, "No such file", "f"),
    OddOSError("p"),
    Frozen(3),
    FrozenWithSlots(3),
    OwnReduce(1, 2),
    _import_error(),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    StopIteration(5),
    SyntaxError("s", ("f.py", 3, 1, "text")),
    pytest.fail.Exception("failed"),
    subprocess.CalledProcessError(3, ["a"], b"out", b"err"),
    ResultSerializationError("r", call_id="00001"),
]


@pytest.mark.parametrize("error", EXCEPTIONS, ids=lambda error: type(error).__name__)
def test_exceptions_come_back(error):
    """An exception comes back with its type, text, ``args`` and attributes, whatever its ``__init__`` takes."""
    packed = dump_exception(error)
    assert packed.error is None
    back = load_exception(packed.body)
    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.args == error.args
    assert vars(back) == vars(error)
    for name in ("errno", "filename", "name", "path", "start", "object", "lineno", "value", "message", "returncode"):
        assert getattr(back, name, None) == getattr(error, name, None)
    assert getattr(back, "code", None) == getattr(error, "code", None)
    assert (packed.type_name, packed.text) == (type(error).__name__, str(error))


@pytest.mark.parametrize("error", EXCEPTIONS, ids=lambda error: type(error).__name__)
def test_exceptions_are_values_too(error):
    """An exception that is returned or passed as an argument comes back unchanged, whatever its ``__init__`` takes."""
    back = loads(dumps([error]))[0]
    assert type(back) is type(error)
    assert back.args == error.args
    assert vars(back) == vars(error)


def test_a_registered_reduction_is_used():
    """Reductions that the user registered with copyreg are used, except tblib's for every exception."""
    copyreg.pickle(Registered, lambda error: (Registered, ("from the registry",)))
    copyreg.pickle(OddInit, tblib.pickling_support.pickle_exception)
    try:
        assert load_exception(dump_exception(Registered("x")).body).args == ("from the registry",)
        assert load_exception(dump_exception(OddInit(3, detail="d")).body).code == 3
    finally:
        del copyreg.dispatch_table[Registered], copyreg.dispatch_table[OddInit]


class Registered(Exception):
    pass


def test_an_exception_that_refers_to_itself_comes_back():
    """An exception whose attribute refers back to it comes back with that cycle."""
    back = load_exception(dump_exception(_self_referring()).body)
    assert back.me is back


def test_a_returned_exception_keeps_its_traceback():
    """An exception that was caught and returned still shows where it was raised."""
    back = loads(dumps(_raised(_chain)))
    assert "in _chain" in "".join(traceback.format_exception(back))


def _raised(function, *args):
    try:
        function(*args)
    except Exception as error:  # noqa: BLE001 - the test wants whatever was raised
        return error
    raise AssertionError("nothing raised")


def _chain():
    try:
        try:
            raise KeyError("innermost")
        except KeyError:
            raise ValueError("middle")  # noqa: B904 - the test is about the context
    except ValueError as error:
        raise OddInit(1, detail="outer") from error


def test_causes_and_contexts_are_kept():
    """``__cause__``, ``__context__`` and their tracebacks come back, and printing shows them all."""
    back = load_exception(dump_exception(_raised(_chain)).body)
    assert isinstance(back.__cause__, ValueError)
    assert back.__cause__ is back.__context__
    assert isinstance(back.__cause__.__context__, KeyError)
    assert back.__cause__.__context__.__cause__ is None
    printed = "".join(traceback.format_exception(back))
    for line in ('raise KeyError("innermost")', 'raise ValueError("middle")', "in _chain", "direct cause"):
        assert line in printed


def test_a_suppressed_context_stays_suppressed():
    """``raise … from None`` prints no context in the client either."""

    def suppressed():
        try:
            raise KeyError("hidden")
        except KeyError:
            raise ValueError("shown") from None

    back = load_exception(dump_exception(_raised(suppressed)).body)
    assert back.__suppress_context__
    assert "hidden" not in "".join(traceback.format_exception(back))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes are new in 3.11")
def test_notes_and_groups_are_kept():
    """``__notes__`` and the members of exception groups come back, with their tracebacks."""
    group = ExceptionGroup("g", [_raised(_chain), TypeError("t")])  # noqa: F821 - 3.11
    group.add_note("look here")
    back = load_exception(dump_exception(group).body)
    assert back.__notes__ == ["look here"]
    assert [type(error) for error in back.exceptions] == [OddInit, TypeError]
    assert "in _chain" in "".join(traceback.format_exception(back))


def test_a_recursion_error_comes_back():
    """A traceback of a thousand frames comes back."""
    back = load_exception(dump_exception(_raised(recurse)).body)
    assert isinstance(back, RecursionError)
    assert "in recurse" in "".join(traceback.format_exception(back))


def test_an_error_of_the_script_keeps_its_class_and_remote_lines(tmp_path):
    """An exception class of the script stays the same class; its remote source is shown even without the file."""
    client = tmp_path / "client.py"
    client.write_text(
        """
import subprocess, sys, traceback
from pywren.pickling.packed import Packed, dumps
from pywren.pickling.packed_exceptions import load_exception
class Mine(Exception):
    def __init__(self, a, b):
        super().__init__(a + b)
        self.a = a
def func(x):
    import remote_only
    try:
        remote_only.fail(x)
    except KeyError as error:
        raise Mine(1, 2) from error
done = subprocess.run([sys.executable, sys.argv[1]], input=dumps(func).data, capture_output=True, check=True)
error = load_exception(Packed(done.stdout))
assert type(error) is Mine and error.a == 1 and isinstance(error.__cause__, KeyError)
traceback.print_exception(type(error), error, error.__traceback__, file=sys.stdout)
"""
    )
    worker = tmp_path / "worker" / "worker.py"
    worker.parent.mkdir()
    (worker.parent / "remote_only.py").write_text("def fail(x):\n    return {}[x]  # the remote line\n")
    worker.write_text(
        """
import os, sys
from pywren.pickling.packed import Packed, loads
from pywren.pickling.packed_exceptions import dump_exception
func = loads(Packed(sys.stdin.buffer.read()))
import remote_only
try:
    func(1)
except Exception as error:
    packed = dump_exception(error)
os.remove(remote_only.__file__)
sys.stdout.buffer.write(packed.body.data)
"""
    )
    env = {**os.environ, "PYTHONPATH": ROOT, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, str(client), str(worker)], capture_output=True, text=True, env=env, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "# the remote line" in done.stdout
    assert "raise Mine(1, 2) from error" in done.stdout
    assert "Mine: 3" in done.stdout


def test_the_text_of_the_remote_traceback_is_added_only_where_the_source_is_missing():
    """If the client has the same sources, the user's own exception chain is not extended."""
    back = load_exception(dump_exception(_raised(_chain)).body)
    assert back.__cause__.__context__.__cause__ is None
    namespace = {}
    exec(compile("def f():\n    raise ValueError('v')\n", "/nowhere/f.py", "exec"), namespace)
    linecache.cache["/nowhere/f.py"] = (1, None, ["def f():\n", "    raise ValueError('v')  # line\n"], "/nowhere/f.py")
    try:
        packed = dump_exception(_raised(namespace["f"]))
    finally:
        del linecache.cache["/nowhere/f.py"]
    back = load_exception(packed.body)
    assert isinstance(back.__cause__, RemoteTraceback)
    assert "raise ValueError('v')  # line" in "".join(traceback.format_exception(back))
    assert "# line" in packed.traceback


# -- exceptions that cannot be brought back


class HoldsLock(Exception):
    def __init__(self):
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class FailsToLoad(Exception):
    def __reduce__(self):
        return int, ("x",)


class ExitsToLoad(Exception):
    def __reduce__(self):
        return sys.exit, (0,)


class BecomesInt(Exception):
    def __reduce__(self):
        return int, ("5",)


class NamesItself(Exception):
    def __reduce__(self):
        return "somewhere"


class NoText(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize("kind", [HoldsLock, FailsToLoad, ExitsToLoad, BecomesInt, NamesItself])
def test_an_exception_that_cannot_be_brought_back_is_described(kind):
    """The caller gets the exception's type and text, the reason why it cannot be sent, and the remote traceback."""

    def fail():
        raise kind()

    packed = dump_exception(_raised(fail))
    assert packed.body is None
    assert packed.type_name == kind.__name__
    assert isinstance(packed.error, ResultSerializationError)
    for words in (kind.__name__, "in fail", "raise kind()"):
        assert words in str(packed.error)
    with pytest.raises(ResultSerializationError):
        packed.required_body()


def test_a_cause_that_cannot_be_brought_back_does_not_hold_up_its_effect():
    """The exception itself comes back; its cause is only described in the text."""

    def fail():
        try:
            raise HoldsLock
        except HoldsLock as error:
            raise ValueError("effect") from error

    packed = dump_exception(_raised(fail))
    back = load_exception(packed.body)
    assert isinstance(back, ValueError)
    assert "holds a lock" in packed.traceback


def test_hostile_attributes_do_not_hold_up_the_report():
    """An exception whose attributes raise when they are read is reported nevertheless."""

    class Hostile(Exception):
        @property
        def __cause__(self):
            raise SystemError("do not look")

        def __str__(self):
            raise SystemExit

    packed = dump_exception(Hostile())
    assert packed.type_name == "Hostile"
    assert packed.body is not None or packed.error is not None


def test_a_replaced_pickle_dumps_is_not_used(monkeypatch):
    """A function that replaces ``pickle.dumps`` does not affect how its result is pickled."""
    monkeypatch.setattr(pickle, "dumps", None)
    monkeypatch.setattr(pickle, "loads", None)
    assert loads(dump_result([1, 2])) == [1, 2]
    assert loads(dump_result(lambda: 3))() == 3


def test_an_exception_without_text_comes_back():
    """An exception whose ``__str__`` raises comes back nevertheless."""
    packed = dump_exception(NoText("t"))
    assert "RuntimeError" in packed.text
    assert isinstance(load_exception(packed.body), NoText)


def test_an_exception_that_fails_to_load_in_the_client_is_an_error_of_the_call():
    """A result that loaded on the worker may fail to load here: the caller gets an error, and never exits."""
    packed = Packed(pickle.dumps((ExitsOnLoad(), "text")))
    error = load_exception(packed, call_id="00002", callset_id="c")
    assert isinstance(error, ResultSerializationError)
    assert error.call_id == "00002"
    assert isinstance(error.__cause__, SystemExit)


def test_a_long_text_is_cut():
    """A megabyte of text in an exception is not sent three times."""
    packed = dump_exception(ValueError("x" * 1_000_000))
    assert len(packed.text) < 70_000
    assert "characters left out" in packed.traceback
    assert len(load_exception(packed.body).args[0]) == 1_000_000


def test_what_a_pickle_mentions_is_noted():
    """The pickle records the modules that its reader imports, and the code of functions sent by value."""

    def function(x):
        return os.path.join(x, subprocess.list2cmdline([]))

    nameless = types.FunctionType(function.__code__, {"os": os, "subprocess": subprocess})
    nameless.__module__ = None
    mentions = Mentions()
    dumps([function, nameless, Plain(), functools.partial(recurse), linecache], mentions=mentions)
    assert {"os", "subprocess", "functools", "linecache", Plain.__module__} <= mentions.modules
    assert list(mentions.code) == [function.__code__]
    assert None not in mentions.modules


@functools.lru_cache(maxsize=7)
def _fibonacci(n):
    return n if n < 2 else _fibonacci(n - 1) + _fibonacci(n - 2)


def test_a_cached_function_of_the_script_travels_with_its_function(monkeypatch):
    """An ``lru_cache`` function of the main script arrives complete, even if it calls itself."""
    monkeypatch.setattr(_fibonacci, "__module__", "__main__")
    copy = loads(dumps(_fibonacci))
    assert copy is not _fibonacci
    assert (copy(10), copy.cache_parameters()["maxsize"]) == (55, 7)


def test_a_cached_function_of_a_module_travels_by_name():
    """A cached function that the worker can import is not copied."""
    assert loads(dumps(_fibonacci)) is _fibonacci


@pytest.mark.parametrize(("result", "remedy"), [((n for n in ()), "a list of its items"), (threading.Lock(), "return")])
def test_a_result_that_does_not_pickle_has_a_remedy_for_results(result, remedy):
    """The error says what to return instead, not where to create the object."""
    with pytest.raises(ResultSerializationError, match=remedy):
        dump_result(result)
