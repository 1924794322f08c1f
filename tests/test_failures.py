"""The specification of failure, docs/failures.md: what goes wrong, and what ``result()`` then raises or returns.

The page links each row to its tests: rows of ``TABLE`` and ``REFUSALS`` here, and tests here or elsewhere that name
their row in the docstring. All tests here run over every kind of executor.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import executors
import hostile
import pytest
from executors import KINDS_AND_EMULATED, STAGED_KINDS, WAIT, Presence

import pywren
from pywren.exceptions import (
    ArgumentError,
    CallCancelledError,
    CallTimeoutError,
    ConfigError,
    DecodeError,
    IntegrityError,
    InvocationError,
    PywrenError,
    ResultSerializationError,
    SerializationError,
    StorageError,
    VersionMismatchError,
    WaitTimeoutError,
    WorkerCrashedError,
)

PRESENCE = object()
"""Stands for the address where a function shows that it is running."""

CLIENT_FILE = "only-here.txt"
"""A file in the client's directory."""

TEXT_LIMIT = 70_000
"""Characters of a text that may travel in a status."""


@pytest.fixture(scope="module", params=KINDS_AND_EMULATED)
def made(request, tmp_path_factory):
    """Make one executor of each kind for the whole table; it must stay usable."""
    emulator = request.getfixturevalue("emulator") if request.param == "emulated" else None
    with executors.make(request.param, tmp_path_factory.mktemp("home"), emulator) as made:
        yield made


@pytest.fixture
def ready(made):
    """Return that executor, with the environment variables that it needs."""
    with made.environment():
        yield made


@pytest.fixture
def presence():
    """Return the place where a function shows that it is running."""
    with Presence() as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def client_directory(tmp_path_factory):
    """Make a directory with a file that no worker has."""
    directory = tmp_path_factory.mktemp("client")
    (directory / CLIENT_FILE).write_text("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        yield


@dataclass(frozen=True)
class Row:
    """One row of the page.

    Args:
        number: its number on the page.
        what: what happens, in a few words.
        function: the hostile function.
        argument: its argument; ``PRESENCE`` for the address of one.
        error: the type that ``result()`` raises; ``None`` when it returns.
        match: a pattern in the error's text, if any.
        value: what ``result()`` returns, or a function that says whether it is right.
        check: another check of the future; raises ``AssertionError``.
        afterwards: the next call, and a check of its result.
        max_runtime: seconds after which the call is stopped.
        released: whether every process that showed itself must have ended.
    """

    number: int
    what: str
    function: Callable[[Any], Any]
    argument: Any = 1
    error: type[BaseException] | None = None
    match: str = ""
    value: Any = None
    check: Callable[[Any], None] = lambda future: None
    afterwards: Callable[[Any], None] = lambda result: None
    max_runtime: float | None = None
    released: bool = field(default=False)

    def __str__(self):
        return f"{self.number}-{self.what.replace(' ', '-')}"


# -- checks ----------------------------------------------------------------------------------------------------


def shows_remote_line(future):
    text = "".join(traceback.format_exception(future.exception()))
    assert "raise ValueError(argument)" in text
    assert "hostile.py" in text


def keeps_attributes(future):
    error = future.exception()
    assert (error.code, error.hint) == (7, "mind the gap")


def keeps_cause(future):
    assert isinstance(future.exception().__cause__, KeyError)


def keeps_context(future):
    error = future.exception()
    assert error.__cause__ is None
    assert isinstance(error.__context__, KeyError)


def returncode(code):
    def check(future):
        assert future.exception().returncode == code

    return check


def ended_by(number):
    def check(future):
        assert future.exception().signal == number

    return check


def is_bounded(future):
    future.exception()
    assert len(json.dumps(future.run_status)) < 10 * TEXT_LIMIT
    assert len(future.run_status["exception_traceback"]) <= 2 * TEXT_LIMIT


def keeps_tail(*texts):
    def check(future):
        for text in texts:
            assert text in future.run_status["stdout"]

    return check


def tells_of_bytes(future):
    assert "not text" in future.run_status["stdout"]
    assert "neither" in future.run_status["stderr"]


def has_hint(future):
    error = future.exception()
    told = str(error) + "".join(getattr(error, "__notes__", ()))
    assert "exists in the client's directory" in told


def sees_nothing(result):
    environment, files, path, threads = result
    assert "LEFT_BEHIND" not in environment
    assert environment.get("PATH")
    assert files == []
    assert "/left-behind" not in path
    assert len(path) > 1
    assert threads == 1


def adds_one(value):
    return value(41) == 42


def is_own_error(value):
    return type(value) is hostile.OwnError and value.args == (1,)


# fmt: off
TABLE = [
    # the function raises
    Row(1, "ValueError", hostile.raises_value_error, "x", ValueError, "^x$", check=shows_remote_line),
    Row(2, "a class of the user's", hostile.raises_own, "own", hostile.OwnError, "own"),
    Row(3, "a constructor of its own", hostile.raises_rich, 7, hostile.RichError, "code 7", check=keeps_attributes),
    Row(4, "an exception with a lock", hostile.raises_locked, "why", ResultSerializationError,
        r"(?s)LockedError.*why.*raise LockedError"),
    Row(5, "an exception that does not unpickle", hostile.raises_one_way, "why", ResultSerializationError,
        r"(?s)OneWayError.*why.*raise OneWayError"),
    Row(6, "raise from", hostile.raises_from, "k", hostile.OwnError, "outer", check=keeps_cause),
    Row(6, "raise inside except", hostile.raises_inside_except, "k", hostile.OwnError, "outer", check=keeps_context),
    Row(7, "KeyboardInterrupt", hostile.raises_keyboard_interrupt, 1, WorkerCrashedError, "non-zero return code"),
    Row(7, "BaseException", hostile.raises_base_exception, 1, WorkerCrashedError, "non-zero return code"),
    Row(13, "MemoryError", hostile.raises_memory_error, 1, MemoryError),
    Row(17, "recursion", hostile.recurses, 1, RecursionError),
    Row(29, "no text", hostile.raises_unspeakable, 1, Exception),
    Row(29, "a very long text", hostile.raises_at_length, 10_000_000, Exception, check=is_bounded),

    # the function ends its process
    Row(8, "sys.exit 0", sys.exit, 0, WorkerCrashedError, "exit", check=returncode(0)),
    Row(8, "sys.exit", sys.exit, None, WorkerCrashedError, "exit", check=returncode(0)),
    Row(9, "sys.exit -1", sys.exit, -1, WorkerCrashedError, "non-zero return code", check=returncode(255)),
    Row(9, "sys.exit text", sys.exit, "a last word", WorkerCrashedError, "a last word", check=returncode(1)),
    Row(10, "os._exit", os._exit, 3, WorkerCrashedError, "non-zero return code", check=returncode(3)),
    Row(10, "os._exit 0", os._exit, 0, WorkerCrashedError, "exit", check=returncode(0)),
    Row(11, "SIGKILL", hostile.kills_itself, signal.SIGKILL, WorkerCrashedError, "non-zero return code",
        check=ended_by(signal.SIGKILL)),
    Row(11, "SIGTERM", hostile.kills_itself, signal.SIGTERM, WorkerCrashedError, "SIGTERM",
        check=ended_by(signal.SIGTERM)),
    Row(12, "segmentation fault", hostile.segfaults, "a last word", WorkerCrashedError, "(?s)SIGSEGV.*a last word",
        check=ended_by(signal.SIGSEGV)),
    Row(14, "killed for its memory", hostile.kills_itself, signal.SIGKILL, WorkerCrashedError, "memory"),

    # the function takes too long
    Row(15, "sleeps", hostile.sleeps_on, PRESENCE, CallTimeoutError, "ran out of time", max_runtime=0.3, released=True),
    Row(16, "blocks signals", hostile.blocks_signals, PRESENCE, CallTimeoutError, "ran out of time", max_runtime=0.3,
        released=True),
    Row(16, "catches all", hostile.catches_everything, PRESENCE, CallTimeoutError, "ran out of time", max_runtime=0.3,
        released=True),
    Row(16, "in C code", hostile.stays_in_c_code, PRESENCE, CallTimeoutError, "ran out of time", max_runtime=0.3,
        released=True),
    Row(16, "in a child", hostile.waits_for_a_child, PRESENCE, CallTimeoutError, "ran out of time", max_runtime=0.3,
        released=True),

    # the function leaves things behind, closes, prints, changes
    Row(18, "a thread", hostile.leaves_a_thread, PRESENCE, value="started", released=True),
    Row(19, "a child process", hostile.leaves_a_process, PRESENCE, value="started", released=True),
    Row(19, "a job of a shell", hostile.leaves_a_job, PRESENCE, value="started", released=True),
    Row(20, "closes 0 to 2", hostile.closes_descriptors, 3, value="closed"),
    Row(21, "bytes that are no text", hostile.prints_bytes, value="printed", check=tells_of_bytes),
    Row(21, "100 MB", hostile.prints_much, 100, value="printed", check=keeps_tail("the last line")),
    Row(22, "changes everything", hostile.changes_everything, value="changed", afterwards=sees_nothing),
    Row(23, "a file of the client's", hostile.opens, CLIENT_FILE, FileNotFoundError, check=has_hint),
    Row(24, "sys.stdout", hostile.replaces_stdout, value="replaced"),
    Row(24, "print", hostile.replaces_print, value="replaced"),
    Row(24, "pickle.dumps", hostile.replaces_pickle, value="replaced"),
    Row(26, "an executor of its own", hostile.nests, 10, value=[10, 11, 12, 13]),
    Row(27, "os.fork", hostile.forks_and_returns_twice, value="parent"),
    Row(28, "stdin", hostile.reads_stdin, value=""),

    # arguments and functions
    Row(33, "raises when unpickled", hostile.echo, hostile.Unpickles(hostile.raise_own, "on the worker"),
        hostile.OwnError, "on the worker"),
    Row(34, "exits when unpickled", hostile.echo, hostile.Unpickles(sys.exit, 0), WorkerCrashedError, "exit"),
    Row(34, "crashes when unpickled", hostile.echo, hostile.Unpickles(os._exit, 3), WorkerCrashedError,
        "non-zero return code", check=returncode(3)),

    # results
    Row(50, "a lambda", hostile.returns_lambda, 1, value=adds_one),
    Row(50, "an instance", hostile.returns_point, 5, value=lambda point: type(point) is hostile.Point and point.x == 5),
    Row(51, "a lock", hostile.returns_lock, 1, ResultSerializationError, "lock"),
    Row(51, "a generator", hostile.returns_generator, 1, ResultSerializationError, "generator"),
    Row(52, "raises when pickled", hostile.returns_what_raises_when_pickled, 1, ResultSerializationError,
        "in __reduce__"),
    Row(52, "exits when pickled", hostile.returns_what_exits_when_pickled, 1,
        (ResultSerializationError, WorkerCrashedError)),
    Row(52, "crashes when pickled", hostile.returns_what_crashes_when_pickled, 1, WorkerCrashedError,
        check=returncode(3)),
    Row(53, "raises when unpickled", hostile.returns_what_raises_when_unpickled, 1, ResultSerializationError,
        "in the client"),
    Row(53, "exits when unpickled", hostile.returns_what_exits_when_unpickled, 1, ResultSerializationError,
        "SystemExit"),
    Row(53, "interrupts when unpickled", hostile.returns_what_interrupts_when_unpickled, 1, ResultSerializationError,
        "KeyboardInterrupt"),
    Row(55, "an exception", hostile.returns_an_exception, 1, value=is_own_error),
]
# fmt: on


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_table(ready, row, presence):
    """The call ends as the row says, and the executor stays usable."""
    future, following = start(ready, row, presence)
    if row.error is None:
        value = future.result(WAIT)
        assert row.value(value) if callable(row.value) else value == row.value
    else:
        with pytest.raises(row.error, match=row.match or None) as caught:
            future.result(WAIT)
        assert row.error is Exception or issubclass(type(caught.value), row.error)
    row.check(future)
    assert not row.released or (presence.wait() and presence.is_over())
    row.afterwards(following.result(WAIT))


def start(ready, row, presence):
    """Make a row's call and one more; a call that is to be stopped while it runs must have started."""
    argument = presence.address if row.argument is PRESENCE else row.argument
    for patience in (1, 3, 10):  # a busy machine may need longer to start the worker
        with ready.max_runtime(row.max_runtime and row.max_runtime * patience):
            future, following = ready.call_twice(row.function, argument, hostile.surroundings)
        pywren.wait([future])
        if not row.max_runtime or presence.wait(seconds=0):
            break
    return future, following


# -- the function, continued --------------------------------------------------------------------------------------


SCRIPT = """
import json, pywren, pywren.testing, sys
class OwnError(Exception):
    pass
class Point:
    def __init__(self, x):
        self.x = x
def fails(x):
    raise OwnError(x)
kind = sys.argv[1]
with pywren.testing.mock_aws() if kind == "lambda" else open(__file__) as mocked:
    config = mocked if kind == "lambda" else json.loads(sys.argv[2])
    executor = getattr(pywren, kind.replace("emulated", "lambda") + "_executor")(config=config)
    future, other = executor.call_async(fails, "of the script"), executor.call_async(Point, 5)
    if kind == "dummy":
        executor.invoker.run_jobs()
    try:
        future.result(60)
    except OwnError as error:
        point = other.result(60)
        print(error, type(error) is OwnError, type(point) is Point, point.x)
"""


def test_classes_of_the_script(ready, tmp_path):
    """Rows 2 and 50: exceptions and values of classes in ``__main__`` are instances of the very same classes."""
    (tmp_path / "script.py").write_text(SCRIPT)
    root = str(Path(pywren.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", ready.kind, json.dumps(ready.config)], capture_output=True, text=True,
        timeout=WAIT, check=False, env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert done.stdout == "of the script True True 5\n", done.stderr


def test_closing_all_descriptors(ready):
    """Row 20: closing all descriptors up to 255 harms at most that call."""
    future = ready.call(hostile.closes_descriptors, 256)
    try:
        assert future.result(WAIT) == "closed"
    except WorkerCrashedError:
        pass
    assert ready.call(hostile.echo, "usable").result(WAIT) == "usable"


def test_one_crash_costs_one_call(ready):
    """Row 10: the other calls of the map return."""
    futures = ready.map(lambda x: os._exit(1) if x == 3 else x, range(8))
    results = [future.result(WAIT, throw_except=False) for future in futures]
    assert results == [0, 1, 2, None, 4, 5, 6, 7]


def test_cancelled_while_it_waits(ready, presence, tmp_path):
    """Row 25: a call that has not begun never runs."""
    mark = tmp_path / "mark"
    invoked = ready.executor.map(hostile.waits_to_go_on, [presence.address] * 4)
    waiting = ready.executor.call_async(lambda path: open(path, "w").close(), str(mark))
    if ready.kind != "dummy":  # its calls all wait
        assert presence.wait(2)
    assert waiting.cancel()
    with pytest.raises(CallCancelledError, match="cancelled"):
        waiting.result(WAIT)
    presence.let_go()
    ready.run()
    assert pywren.get_all_results(invoked) == ["on time"] * 4
    assert waiting.cancelled()
    if ready.kind == "local":  # a staged call checks only when it starts late
        assert ready.call(hostile.echo, 1).result(WAIT) == 1
        assert not mark.exists()


def test_cancelled_while_it_runs(ready, presence):
    """Row 25: a running call is killed."""
    future = ready.executor.call_async(hostile.sleeps_on, presence.address)
    runner = threading.Thread(target=ready.run)
    runner.start()
    assert presence.wait()
    assert future.cancel()
    with pytest.raises(CallCancelledError, match="cancelled"):
        future.result(WAIT)
    assert presence.is_over()
    runner.join()
    assert ready.call(hostile.echo, "usable").result(WAIT) == "usable"


# -- arguments and functions ---------------------------------------------------------------------------------------


def nested(depth):
    """Return a list nested deeper than pickle can follow."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def stops_half_way():
    """Yield some items, then raise."""
    yield 1
    raise hostile.OwnError("half-way")


def closure_over(value):
    """Return a function with an object in its closure."""
    return lambda x: (x, value)


@dataclass(frozen=True)
class Refusal:
    """A map that is refused before anything is invoked."""

    number: int
    what: str
    error: type[BaseException]
    match: str
    function: Any = hostile.echo
    items: Callable[[], Any] = lambda: [1]
    options: dict[str, Any] = field(default_factory=dict)
    check: Callable[[BaseException], None] = lambda error: None

    def __str__(self):
        return f"{self.number}-{self.what.replace(' ', '-')}"


def has_cause(error):
    assert isinstance(error.__cause__, hostile.OwnError)


# fmt: off
REFUSALS = [
    Refusal(30, "a lock", SerializationError, r"argument 3\.value.*lock",
            items=lambda: [0, 1, 2, hostile.Holder({"lock": threading.Lock()})]),
    Refusal(30, "an open file", SerializationError, r"argument 1.*TextIOWrapper",
            items=lambda: [0, sys.__stdout__]),
    Refusal(31, "a closure over a lock", SerializationError, r"value.*lock", closure_over(threading.Lock())),
    Refusal(32, "__reduce__ that raises", SerializationError, "argument 0",
            items=lambda: [hostile.Reduces(hostile.raise_own, "in __reduce__")], check=has_cause),
    Refusal(35, "an iterable that raises", hostile.OwnError, "half-way", items=stops_half_way),
    Refusal(36, "items without end", ArgumentError, "exceeding map item limit|no end", items=lambda: iter(int, 1)),
    Refusal(37, "extra_meta that clashes", ValueError, "call_id", options={"extra_meta": {"call_id": "1"}}),
    Refusal(39, "no function", ArgumentError, "int", 7),
    Refusal(39, "no iterable", ArgumentError, "call_async", items=lambda: 7),
    Refusal(43, "a deep nest", SerializationError, "argument 0.*deep", items=lambda: [nested(100_000)]),
    Refusal(44, "a name with =", ArgumentError, "extra_env", options={"extra_env": {"A=B": "1"}}),
    Refusal(44, "a value with NUL", ArgumentError, "extra_env", options={"extra_env": {"A": "\0"}}),
    Refusal(44, "a value that is no text", ArgumentError, "extra_env", options={"extra_env": {"A": 1}}),
]
# fmt: on


@pytest.mark.parametrize("refusal", REFUSALS, ids=str)
def test_refused_at_map(ready, refusal):
    """map refuses what cannot be sent, with the reason, and nothing is invoked."""
    with pytest.raises(refusal.error, match=refusal.match) as caught:
        ready.executor.map(refusal.function, refusal.items(), **refusal.options)
    refusal.check(caught.value)
    if ready.kind == "dummy":
        assert ready.executor.invoker.payloads == []
    assert ready.call(hostile.echo, "usable").result(WAIT) == "usable"


def test_a_module_that_the_worker_lacks(ready, tmp_path, monkeypatch):
    """Row 40: map names a C extension that cannot be sent."""
    name = "an_extension"
    module = types.ModuleType(name)
    module.__file__ = str(tmp_path / (name + importlib.machinery.EXTENSION_SUFFIXES[0]))
    Path(module.__file__).write_bytes(b"\x7fELF")
    module.__spec__ = importlib.machinery.ModuleSpec(
        name, importlib.machinery.ExtensionFileLoader(name, module.__file__), origin=module.__file__
    )
    module.__spec__.has_location = True
    monkeypatch.setitem(sys.modules, name, module)

    def uses(argument):
        return module

    if ready.on_lambda:
        with pytest.raises(SerializationError, match=name):
            ready.executor.call_async(uses, 1)
    else:  # built by this machine's compiler, so this machine can load it: it is sent
        assert ready.executor.call_async(uses, 1)
        ready.run()


def test_an_excluded_module(ready, tmp_path, monkeypatch):
    """Row 41: using a module that was not sent raises ImportError on the worker."""
    name = f"excluded_for_{ready.kind}"
    (tmp_path / f"{name}.py").write_text("def f(x):\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    function = importlib.import_module(name).f
    future = ready.call(function, 1, exclude_modules=[str(tmp_path)])
    with pytest.raises(ImportError, match=name):
        future.result(WAIT)
    assert ready.call(function, 1).result(WAIT) == 1


def test_a_name_that_the_worker_lacks(ready, monkeypatch):
    """Row 42: using a function that the worker's version of a module lacks raises AttributeError there."""

    def patched_in(x):
        return x

    patched_in.__module__, patched_in.__qualname__ = "json", "patched_in"
    monkeypatch.setattr(json, "patched_in", patched_in, raising=False)
    with pytest.raises(AttributeError, match="patched_in"):
        ready.call(patched_in, 1).result(WAIT)


def test_a_failed_future(ready):
    """Row 45: a failed future raises its error wherever its result is used, in reduce and in an argument."""
    failed = ready.call(hostile.raises_own, "upstream")
    with pytest.raises(hostile.OwnError, match="upstream"):
        ready.reduce(sum, [ready.call(hostile.echo, 1), failed]).result(WAIT)
    with pytest.raises(hostile.OwnError, match="upstream"):
        ready.call(hostile.asks_the_future, failed).result(WAIT)
    crashed = ready.call(os._exit, 3)
    with pytest.raises(WorkerCrashedError):
        ready.call(hostile.asks_the_future, crashed).result(WAIT)


# -- results -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_200_megabytes(ready):
    """Row 54: a result of 200 MB arrives whole."""
    value = ready.call(hostile.returns_much, 200_000_000).result(WAIT)
    assert len(value) == 200_000_000
    assert value.count(b"x") == len(value)


# -- between client and worker -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=STAGED_KINDS[:1])
def dummy(request, tmp_path_factory):
    """Return an executor whose calls wait, so that a test can act in between."""
    with executors.make(request.param, tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.mark.parametrize("what", ["func_key", "data_key"])
def test_an_altered_object(dummy, what, tmp_path):
    """Row 60: an object that was altered before the worker read it is not unpickled."""
    future = dummy.executor.map(hostile.echo, [b"x" * 300_000], data_all_as_one=False)[0]
    key = dummy.executor.invoker.payloads[-1][what]
    evil = b"cposix\nsystem\n(S'touch " + str(tmp_path / "evil").encode() + b"'\ntR."
    dummy.executor.storage.put(key, evil)
    dummy.run()
    with pytest.raises(IntegrityError, match="SHA-256"):
        future.result(WAIT)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("member", [{"pywren_version": "0.4.0"}, {"python_version": "2.7"}])
def test_versions_that_differ(ready, member):
    """Row 62: a worker with another version of pywren or Python reports both versions."""
    if ready.kind == "local":
        pytest.skip("its workers are of the client's own Python, and take no payload")
    with pytest.raises(VersionMismatchError, match="version mismatch"):
        ready.call(hostile.echo, 1, overwrite_invoke_args=member).result(WAIT)


def test_no_payload(dummy):
    """Row 63: the handler raises for an event that is not a payload."""
    dummy.executor.invoker.invoke({"no": "payload"})
    with pytest.raises(DecodeError):
        dummy.run()
    assert dummy.call(hostile.echo, "usable").result(WAIT) == "usable"


@pytest.fixture(scope="module")
def aws_config():
    """Return the configuration of a mocked account."""
    with pywren.testing.mock_aws() as config:
        yield config


@pytest.mark.moto
def test_a_function_that_does_not_exist(aws_config):
    """Row 64: map raises Lambda's refusal, with its code and the remedy."""
    config = {**aws_config, "lambda": {**aws_config["lambda"], "function_name": "not-there"}}
    with pytest.raises(InvocationError, match="pywren deploy_lambda") as caught:
        pywren.lambda_executor(config).call_async(hostile.echo, 1)
    assert caught.value.code == "ResourceNotFoundException"


@pytest.mark.moto
def test_a_bucket_that_does_not_exist(aws_config):
    """Row 66: a missing bucket is a StorageError with the remedy."""
    config = {**aws_config, "s3": {**aws_config["s3"], "bucket": "not-there"}}
    with pytest.raises((StorageError, ConfigError), match="create_bucket"):
        pywren.lambda_executor(config).call_async(hostile.echo, 1)


def test_a_wait_that_runs_out(ready, presence):
    """Row 70: a wait that times out raises TimeoutError; the call goes on."""
    future = ready.executor.call_async(hostile.waits_to_go_on, presence.address)
    for kind in (WaitTimeoutError, TimeoutError, PywrenError):
        with pytest.raises(kind, match=future.call_id):
            future.result(0.01)
    presence.let_go()
    ready.run()
    assert future.result(WAIT) == "on time"


def test_ctrl_c_while_waiting(ready, presence, caplog):
    """Row 71: Ctrl-C ends the wait but not the call, and one line says so."""
    future = ready.executor.call_async(hostile.waits_to_go_on, presence.address)
    if ready.kind != "dummy":  # whose calls begin with run()
        assert presence.wait()  # a local call that has not begun would be cancelled
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        future.result(WAIT)
    timer.join()
    (said,) = (record.getMessage() for record in caplog.records if "still run" in record.getMessage())
    assert "1 call is still running " in said
    assert f": {future.callset_id[:8]}/{future.call_id}. If the program goes on, the futures stay valid" in said
    presence.let_go()
    ready.run()
    assert future.result(WAIT) == "on time"


def test_ctrl_c_during_map(dummy, monkeypatch, caplog):
    """Row 71: Ctrl-C during map says how many calls were invoked; the service may have taken the interrupted one."""

    def invoke(payload):
        if payload["call_id"] == "00002":
            raise KeyboardInterrupt

    monkeypatch.setattr(dummy.executor.invoker, "invoke", invoke)
    with pytest.raises(KeyboardInterrupt):
        dummy.executor.map(hostile.echo, range(5), invoke_pool_threads=1)
    assert "2 of 5 calls were invoked before map() was stopped, and 1 more may have been; they" in caplog.text
