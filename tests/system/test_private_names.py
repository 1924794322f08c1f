"""Each private name that the package uses is tested alone: a failure shows which dependency has moved it."""

from __future__ import annotations

import abc
import ast
import asyncio
import concurrent.futures
import importlib.metadata
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.client
import botocore.session
import pytest
from botocore.httpsession import ProxyConfiguration

from pywren.system import private_names

PACKAGE = Path(private_names.__file__).parent
PYTHON = f"Python {sys.version.split()[0]}"
FOREIGN = (
    *(
        "cloudpickle",
        "tblib",
        "botocore",
        "boto3",
        "s3transfer",
        "moto",
        "concurrent",
        "linecache",
        "abc",
        "enum",
        "os",
    ),
    *("sys", "threading", "_thread", "pickle", "weakref", "typing", "functools", "dataclasses", "dis", "inspect"),
)
"""Modules whose private names are searched for; private names of objects that they make are in the tests below."""
PUBLIC = {("os", "_exit"), ("sys", "_getframe"), ("sys", "_current_frames")}  # documented, despite their names


def moved(dependency: str, name: str) -> str:
    """Return the message for a private name that has moved."""
    version = importlib.metadata.version(dependency) if dependency != "python" else PYTHON
    return f"{dependency} {version} has moved {name}: mend pywren/system/private_names.py"


def test_futures_have_the_states_they_had():
    """Standard futures have the states that ours use."""
    states = private_names.future_states()
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    note = moved("python", "concurrent.futures._base: the states of a future")
    assert future._state == states.pending, note
    future.set_running_or_notify_cancel()
    assert future._state == states.running, note
    future.set_result(1)
    assert future._state == states.finished, note
    cancelled: concurrent.futures.Future[int] = concurrent.futures.Future()
    cancelled.cancel()
    assert cancelled._state == states.cancelled, note
    cancelled.set_running_or_notify_cancel()
    assert cancelled._state == states.cancelled_and_notified, note


@pytest.mark.parametrize("name", private_names.FUTURE_ATTRIBUTES)
def test_futures_have_the_attributes_that_waiting_looks_at(name):
    """Standard futures have each attribute of ours that ``wait``, ``as_completed`` and asyncio use."""
    assert hasattr(concurrent.futures.Future(), name), moved("python", f"concurrent.futures.Future.{name}")


def test_futures_log_what_callbacks_raise(caplog):
    """The standard futures' logger logs exceptions of callbacks."""
    future: concurrent.futures.Future[int] = concurrent.futures.Future()
    future.add_done_callback(lambda done: 1 / 0)
    future.set_result(1)
    (record,) = caplog.records
    assert record.name == private_names.futures_logger().name, moved("python", "concurrent.futures._base.LOGGER")


def test_moto_keeps_a_statement():
    """moto's object for a policy statement contains the statement."""
    from moto.iam.access_control import IAMPolicyStatement

    statement = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    try:
        found = private_names.policy_statement(IAMPolicyStatement(statement))
    except AttributeError:
        pytest.fail(moved("moto", "IAMPolicyStatement._statement"))
    assert found == statement


def test_typed_in_code_has_lines():
    """Code given with ``-c`` has its lines if ``traceback`` itself finds them; otherwise that is not an error."""
    program = (
        "import linecache, traceback\n"
        "from pywren.system import private_names\n"
        "def f(): 1 / 0  # found\n"
        "try: f()\n"
        "except ZeroDivisionError: shown = '# found' in traceback.format_exc()\n"
        "lines = linecache.getlines('<string>') or private_names.interactive_lines(f.__code__)\n"
        "assert ('# found' in ''.join(lines)) == shown, (lines, shown)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{moved('python', 'linecache._getlines_from_code')}\n{done.stderr}"


def test_abstract_classes_tell_what_was_registered():
    """The classes registered with an abstract class are found, except those that have been freed."""

    class Base(abc.ABC):
        @abc.abstractmethod
        def work(self) -> None:
            """Work."""

    Base.register(int)
    Base.register(str)
    assert set(private_names.registered_subclasses(Base)) == {int, str}, moved("python", "abc._get_dump")


def test_a_class_made_by_type_is_made_abstract():
    """A class made by ``type`` with a metaclass derived from ``ABCMeta`` accepts virtual subclasses."""
    made = type.__new__(abc.ABCMeta, "Made", (), {})
    private_names.make_abstract(made)
    made.register(int)
    assert isinstance(1, made), moved("python", "abc._abc_init")


@pytest.mark.parametrize("kind", [threading.Semaphore, threading.BoundedSemaphore])
def test_semaphores_tell_their_value(kind):
    """The value of a semaphore can be read."""
    assert private_names.semaphore_value(kind(3)) == 3, moved("python", f"threading.{kind.__name__}._value")


def test_the_environment_has_its_data(monkeypatch):
    """The dictionary behind ``os.environ`` changes with it."""
    monkeypatch.setenv("PYWREN_TEST_OF_DATA", "here")
    assert private_names.environment_data()[os.fsencode("PYWREN_TEST_OF_DATA")] == b"here", moved(
        "python", "os.environ._data"
    )


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="Python makes no event loop by itself any more")
@pytest.mark.filterwarnings("ignore:There is no current event loop:DeprecationWarning")
def test_a_closed_event_loop_is_forgotten():
    """A thread whose event loop is closed gets another; an open loop is kept."""
    policy = asyncio.get_event_loop_policy()
    policy.set_event_loop(policy.new_event_loop())
    policy.get_event_loop().close()
    private_names.forget_spent_event_loop()
    made = policy.get_event_loop()
    try:
        assert not made.is_closed(), moved("python", "asyncio.events._event_loop_policy")
        private_names.forget_spent_event_loop()
        assert policy.get_event_loop() is made
    finally:
        made.close()
        private_names.forget_spent_event_loop()


def test_threads_are_counted():
    """A running thread is counted, whoever started it."""
    program = (
        "import threading\n"
        "from pywren.system import private_names\n"
        "before, end = private_names.count_threads(), threading.Event()\n"
        "thread = threading.Thread(target=end.wait)\n"
        "thread.start()\n"
        "print(private_names.count_threads() - before)\n"
        "end.set()"
    )  # in a process of its own: threads of other tests may end meanwhile
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["1"], moved("python", "_thread._count")


def test_functions_run_before_those_of_atexit():
    """Registered functions run at the end of the program, before those of ``atexit``."""
    program = (
        "import atexit\n"
        "from pywren.system import private_names\n"
        "atexit.register(print, 'atexit')\n"
        "private_names.at_end_of_threads(lambda: print('registered'))\n"
        "print('main')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["main", "registered", "atexit"], moved("python", "threading._register_atexit")


def test_the_base_executable_is_an_interpreter():
    """It is the interpreter that created the virtual environment, not the environment's own."""
    done = subprocess.run(
        [os.path.realpath(private_names.base_executable()), "-c", "import sys; print(sys.prefix == sys.base_prefix)"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "True", moved("python", "sys._base_executable")


def private_uses(path: Path) -> list[str]:
    """Return where a module uses a private name that it imports from outside the package."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in FOREIGN and (root.id, node.attr) not in PUBLIC:
                found.append(f"line {node.lineno}: {root.id}.{node.attr}")
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in FOREIGN:
            parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            found += [f"line {node.lineno}: {part}" for part in parts[1:] if part.startswith("_")]
    return found


@pytest.mark.parametrize(("end", "status"), [("", -signal.SIGINT), ("sys.exit(3)", 3)])
def test_a_program_ends_as_interrupted(end, status):
    """Its status is that of SIGINT, after all other functions of the end, unless it has called ``sys.exit``."""
    text = (
        "import atexit, sys\n"
        "from pywren.system import private_names\n"
        "atexit.register(print, 'over')\n"
        f"atexit.register(private_names.end_as_interrupted)\n{end}"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("over\n", "")
    assert done.returncode == status, moved("python", "the flag that Py_RunMain reads after an interrupt")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_private_names_stand_in_one_module(path):
    """No other module uses a private name of a library or of Python."""
    if path.name != "private_names.py":
        assert not private_uses(path)


def test_batches_that_joblib_has_ready():
    """joblib keeps them in a queue of the ``Parallel``."""
    joblib = pytest.importorskip("joblib")
    parallel = joblib.Parallel(n_jobs=2)
    parallel._ready_batches.put("a batch")
    private_names.forget_ready_batches(parallel)
    assert parallel._ready_batches.empty()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a botocore client."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    session = botocore.session.Session()
    session.set_credentials("testing", "testing")
    client = session.create_client("s3", "us-west-2")
    yield client
    client.close()


def test_handlers_of_a_client(client: Any) -> None:
    """The handlers of an event are found, also those for all operations, and it shows when one is registered."""
    before = private_names.event_registrations(client)
    assert private_names.event_registrations(client) is before

    def handler(**_: object) -> None:
        pass

    for event in ("before-send", "before-send.*.GetObject", "before-send.s3.GetObject"):
        client.meta.events.register(event, handler)
        found = private_names.event_handlers(client, "before-send.s3.GetObject")
        assert handler in found, moved("botocore", "hooks.EventAliaser._emitter._handlers")
        during = private_names.event_registrations(client)
        assert during is not before, moved("botocore", "hooks.EventAliaser._emitter._lookup_cache")
        client.meta.events.unregister(event, handler)
        assert handler not in private_names.event_handlers(client, "before-send.s3.GetObject")
        before = private_names.event_registrations(client)
        assert before is not during


def test_the_functions_through_which_requests_go(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are those that tests and tracing libraries replace."""
    names = ("botocore.client.BaseClient._make_api_call", "botocore.endpoint.Endpoint.make_request")
    for name in (*names, "botocore.httpsession.URLLib3Session.send", "urllib3.HTTPConnectionPool.urlopen"):
        monkeypatch.setattr(name, name)
        assert name in private_names.steps_of_requests(client), moved("botocore", name)
    assert len(private_names.steps_of_requests(client)) == 7


def test_the_connections_of_a_client(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL has one pool of connections, unless a proxy is in between."""
    pool = private_names.connection_pool(client, "https://s3.us-west-2.amazonaws.com/bucket/key")
    assert pool is not None, moved("botocore", "client.BaseClient._endpoint.http_session._manager")
    assert pool.host == "s3.us-west-2.amazonaws.com"
    assert pool is private_names.connection_pool(client, "https://s3.us-west-2.amazonaws.com/other")
    monkeypatch.setattr(client._endpoint.http_session, "_proxy_config", ProxyConfiguration({"https": "http://p:1"}))
    assert private_names.connection_pool(client, "https://s3.us-west-2.amazonaws.com/bucket/key") is None
    assert private_names.connection_pool(object(), "https://s3.us-west-2.amazonaws.com/") is None


def test_a_connection_of_a_client(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool gives back what was put into it last; a connection that is not open has no socket."""
    pool = private_names.connection_pool(client, "https://s3.us-west-2.amazonaws.com/")
    assert pool is not None
    connection = private_names.take_connection(pool)
    assert connection.sock is None, moved("urllib3", "connectionpool.HTTPConnectionPool._get_conn")
    private_names.give_connection_back(pool, connection)
    assert private_names.take_connection(pool) is connection, moved("urllib3", "HTTPConnectionPool._put_conn")
    monkeypatch.delattr("urllib3.connectionpool.HTTPConnectionPool._put_conn")
    assert private_names.connection_pool(client, "https://s3.us-west-2.amazonaws.com/") is None
