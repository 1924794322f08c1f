"""A fresh home for each test, one emulated AWS for all, and a check of what the suite leaves behind."""

from __future__ import annotations

import gc
import itertools
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from pywren.testing.emulator import Emulator

pytest_plugins = ["pytester"]  # runs pytest in the tests of the pytest plugin

# pywren writes nothing outside its home except temporary files. The suite has a temporary directory of its own, so that
# anything there at the end was left behind. Its path is short, because macOS limits a socket's path to 104 bytes.
# pytest's own directories stay in their usual place.
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
_TEMPORARY = Path(tempfile.mkdtemp(prefix="pw-"))
_HOME = Path(tempfile.mkdtemp(prefix="pw-home-"))
_numbers = itertools.count()
_SESSION_VARIABLE = "SUITE_OF_TESTS"
_GRACE_SECONDS = 60.0  # processes end slowly on a busy machine
_SPARE_DESCRIPTORS = 16  # files that pytest, hypothesis, moto and logging open once and keep


def pytest_configure(config: pytest.Config) -> None:
    """Hide the user's own AWS account, configuration and home before anything is imported."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "PYWREN_")):
            del os.environ[name]
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = str(_HOME / "no-aws-config")
    os.environ["HOME"] = str(_HOME)
    os.environ["PYWREN_HOME"] = str(_HOME / "shared" / "pywren")  # for what several tests share; each test has its own
    os.environ["TMPDIR"] = tempfile.tempdir = str(_TEMPORARY)
    os.environ[_SESSION_VARIABLE] = str(os.getpid())
    # A shell's background jobs ignore SIGINT, and those of nohup SIGHUP. Their children would, too, and the tests that
    # send these signals would wait for ever.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the suite's own directories."""
    shutil.rmtree(_TEMPORARY, ignore_errors=True)
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def pywren_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Set ``PYWREN_HOME`` to a directory that does not exist yet and that no other test uses."""
    # not tmp_path_factory.mktemp(): it lists the directories of all earlier tests to number the next
    home = _HOME / f"test-{next(_numbers)}" / "pywren"
    home.parent.mkdir()
    monkeypatch.setenv("PYWREN_HOME", str(home))
    yield home
    # A process keeps one file open for each directory in which it made named jobs: here, one for each test.
    if presence := sys.modules.get("pywren.client.presence"):
        presence.forget_all()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Let exceptions among a test's parameters, which last as long as the session, forget the frames they went through.

    Such a frame would keep its executor, and with it the executor's connections.
    """
    for value in getattr(getattr(item, "callspec", None), "params", {}).values():
        if isinstance(value, BaseException):
            for kept in ("__traceback__", "__context__"):
                BaseException.__setattr__(value, kept, None)  # a frozen exception would refuse


@pytest.fixture(scope="session", autouse=True)
def _models_of_aws_are_read_once() -> Iterator[None]:
    """Let all botocore sessions share their loaders, as a program's clients share one session."""
    from pywren.testing import _set_up

    with _set_up.models_are_read_once():
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Fail the session if a process, a thread, a file or many descriptors are left."""
    descriptors = _descriptors()
    yield
    _close_shared_workers()
    gc.collect()
    left = {
        "child processes": _settle(_processes),
        "threads": _settle(_threads),
        "temporary files": _settle(_temporary_files),
        "files in the home directory": [str(path) for path in _HOME.glob(".pywren*")],
        "file descriptors": _settle(lambda: _opened_since(descriptors)),
    }
    report = [f"{what}: " + "\n    ".join(["", *found]) for what, found in left.items() if found]
    if report:
        pytest.fail("the suite leaves behind\n  " + "\n  ".join(report), pytrace=False)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the shared emulator."""
    for item in items:
        if "emulator" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.emulator)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Freeze everything that collecting loaded: garbage collections need not scan it again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def emulator() -> Iterator[Emulator]:
    """Return an emulated AWS that all tests of this process share; each test deploys its own function.

    Events are retried soon and expire soon (60 s become 0.6 s), and at most four containers run at once.
    """
    from pywren.testing.emulator import Limits, Settings
    from pywren.testing.emulator._emulator import start

    limits = Limits(retry_delays=(0.1, 0.2), event_age_scale=0.01)
    with closing(start(Settings(containers=4, limits=limits))) as running:
        yield running


@pytest.fixture(autouse=True)
def _in_the_emulated_world(request: pytest.FixtureRequest) -> Iterator[None]:
    """Point a test that uses the emulator to it, and afterwards clear the faults that the test set."""
    if "emulator" not in request.fixturenames:
        yield
        return
    from pywren.testing import _set_up
    from pywren.testing.emulator import Faults

    shared: Emulator = request.getfixturevalue("emulator")
    with _set_up.environment(shared.environment):
        yield
    shared.set_faults(Faults())


def _close_shared_workers() -> None:
    """Close the pool that all local executors share; otherwise it lasts as long as the process."""
    pool = sys.modules.get("pywren.worker.parent.pool")
    if pool is not None:
        pool.LocalPool.close_shared()


def _settle(check: Callable[[], list[str]]) -> list[str]:
    """Check until nothing is left or the grace period is over: processes and threads take a moment to end."""
    deadline = time.monotonic() + _GRACE_SECONDS
    while (found := check()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def _processes() -> list[str]:
    """Return the descendants of this process, and detached processes, whose environment still has the suite's mark."""
    found = {process.pid: process for process in psutil.Process().children(recursive=True)}
    mark = str(os.getpid())
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(_SESSION_VARIABLE) == mark:
                found[process.pid] = process
        except psutil.Error:
            continue  # it has ended, or belongs to another user
    # multiprocessing's resource tracker lasts as long as the process that uses multiprocessing
    return [text for text in map(_described, found.values()) if "multiprocessing.resource_tracker" not in text]


def _described(process: psutil.Process) -> str:
    try:
        return f"{process.pid} ({process.status()}) {' '.join(process.cmdline())[:200]}"
    except psutil.Error:
        return f"{process.pid} (gone)"


def _threads() -> list[str]:
    return [
        repr(thread)
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and (not thread.daemon or thread.name.startswith("pywren"))
    ]


def _temporary_files() -> list[str]:
    # The next client and emulator remove the directories of those that tests killed, but here none follows.
    from pywren.testing.emulator import _directory
    from pywren.worker.directories import remove_abandoned_directories

    remove_abandoned_directories(older_than=0.0)
    _directory.sweep()
    return [str(path) for path in _TEMPORARY.iterdir()]


def _descriptors() -> dict[int, str]:
    """Return the open descriptors and what each refers to, on systems that have ``/proc``."""
    found = {}
    for link in Path("/proc/self/fd").glob("*"):
        try:
            found[int(link.name)] = os.readlink(link)
        except OSError:
            continue  # the descriptor that listed the directory
    return found


def _opened_since(before: dict[int, str]) -> list[str]:
    gc.collect()  # a thread that the last collection ended, such as a pool's, may have released more
    opened = [f"{number}: {target}" for number, target in _descriptors().items() if number not in before]
    return opened if len(opened) > _SPARE_DESCRIPTORS else []
