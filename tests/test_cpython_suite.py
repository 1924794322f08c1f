"""CPython's own tests of ``concurrent.futures``, from the interpreter's ``test`` package, over ``PoolExecutor``.

CPython writes these tests as mixins, and runs each over its thread pool and its process pools. Here all run over
``pywren.PoolExecutor`` on this machine, and those about calls also over a mocked Lambda. Tests that cannot apply are in
``EXCLUDED``, each with its reason.
"""

from __future__ import annotations

import importlib
import multiprocessing
import pickle
import sys
import unittest
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import pywren
import pywren.testing
from pywren.exceptions import CallError

package = pytest.importorskip("test.test_concurrent_futures", reason="this Python has come without its own tests")


def _modules() -> list[ModuleType]:
    if not hasattr(package, "__path__"):
        return [package]  # Python 3.10 and 3.11
    names = ("executor", "util", "test_wait", "test_as_completed", "test_shutdown", "test_init", "test_deadlock")
    return [importlib.import_module(f"{package.__name__}.{name}") for name in (*names, "test_process_pool")]


MODULES = _modules()
MIXINS = (
    "ExecutorTest",
    "WaitTests",
    "AsCompletedTests",
    "ExecutorShutdownTest",
    "InitializerMixin",
    "FailingInitializerMixin",
    "ExecutorDeadlockTest",
    "ProcessPoolExecutorTest",
)
MIXINS_ON_LAMBDA = ("ExecutorTest", "WaitTests", "AsCompletedTests", "InitializerMixin", "FailingInitializerMixin")
"""Those that ask what becomes of calls. The others are about processes of this machine and the end of the program."""

INNARDS = "it looks into ProcessPoolExecutor: its processes, threads or queues"
EXCLUDED = {
    "test_error_at_task_pickle": "submit() itself raises for an argument that cannot be pickled",
    "test_shutdown_deadlock_pickle": INNARDS,
    "test_gh105829_should_not_deadlock_if_wakeup_pipe_full": INNARDS,
    "test_exit_during_func_exec_on_worker": "sys.exit() on a worker never raises SystemExit in the client",
    "test_exit_during_result_pickle_on_worker": "sys.exit() on a worker never raises SystemExit in the client",
    "test_error_during_result_pickle_on_worker": "the error is a ResultSerializationError, which says what to do",
    "test_killed_child": INNARDS,
    "test_saturation": INNARDS,
    "test_idle_process_reuse_one": INNARDS,
    "test_idle_process_reuse_multiple": INNARDS,
    "test_max_tasks_per_child": INNARDS,
    "test_max_tasks_per_child_defaults_to_spawn_context": INNARDS,
    "test_python_finalization_error": INNARDS,
    "test_max_workers_too_large": "Windows has no local executor",
    "test_traceback": "the cause is not a _RemoteTraceback: the remote frames are in the traceback itself",
    "test_ressources_gced_in_workers": "its argument holds a lock, which pywren refuses to send",
}
"""The tests that do not run, by name, each with its reason."""

EXCLUDED_ON_LAMBDA = dict.fromkeys(
    ("test_free_reference", "test_free_reference_yielded_future"),
    "it collects garbage ten times, which takes long among moto's objects; it runs on this machine",
)
"""The tests that do not run over the mocked Lambda either."""


class Executor(pywren.PoolExecutor):
    """Runs its calls on this machine."""


class OnThisMachine:
    """What the mixins need to know about the executor. It has no ``ctx``, as a thread pool has none."""

    place = "local"
    excluded = EXCLUDED
    executor_type = Executor
    worker_count = 2

    def get_context(self) -> Any:
        return multiprocessing.get_context("spawn")  # for ``mp_context``, which has no effect


class OnLambda(OnThisMachine):
    """The same over a mocked Lambda."""

    place = "lambda"
    excluded = EXCLUDED | EXCLUDED_ON_LAMBDA


def _found(name: str) -> Any:
    return next(getattr(module, name) for module in MODULES if hasattr(module, name))


def _test_case(mixin: type, where: type[OnThisMachine]) -> type[unittest.TestCase]:
    """Return the tests of a mixin as a class, with those that are excluded marked as skipped."""
    reasons = where.excluded
    skipped = {name: unittest.skip(reasons[name])(getattr(mixin, name)) for name in dir(mixin) if name in reasons}
    # CPython's BaseTestCase is left out: it reaps child processes of the whole process, those of the pool included.
    makes_executor = _found("ExecutorMixin")
    bases = (mixin,) if issubclass(mixin, makes_executor) else (mixin, makes_executor)
    return type(f"Test{mixin.__name__}{where.__name__}", (where, *bases, unittest.TestCase), skipped)


TEST_CASES = [
    *[_test_case(_found(name), OnThisMachine) for name in MIXINS],
    *[pytest.mark.thorough(pytest.mark.moto(_test_case(_found(name), OnLambda))) for name in MIXINS_ON_LAMBDA],
]
globals().update({case.__name__: case for case in TEST_CASES})


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the file with the configuration of a mocked AWS."""
    path = tmp_path_factory.mktemp("mocked") / "config"
    with pywren.testing.mock_aws(concurrency=4) as config:
        path.write_text(yaml.dump(config), encoding="utf-8")
        yield path


@pytest.fixture(autouse=True)
def _as_for_the_standard_library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose the executor, and translate the names that CPython's tests know: of a module, and of errors."""
    place = getattr(request.cls, "place", "local")
    monkeypatch.setenv("PYWREN_EXECUTOR", place)
    if place == "lambda":
        monkeypatch.setenv("PYWREN_CONFIG_FILE", str(request.getfixturevalue("config_file")))
    for module in MODULES:
        if hasattr(module, "BrokenProcessPool"):
            # An error that unpickling raises on the worker comes back with its own type.
            monkeypatch.setattr(module, "BrokenProcessPool", (CallError, pickle.UnpicklingError))
        if hasattr(module, "assert_python_ok"):
            monkeypatch.setattr(module, "assert_python_ok", _imported_from_pywren(module.assert_python_ok))


def _imported_from_pywren(run: Any) -> Any:
    def run_script(option: str, script: str) -> Any:
        script = script.replace(
            "from concurrent.futures import Executor", "from pywren import PoolExecutor as Executor"
        )
        code, out, err = run(option, script, PYWREN_EXECUTOR="local", PYWREN_SHOW_OUTPUT="1")
        return code, out, err.replace(b"pywren.exceptions.ShutdownError", b"RuntimeError")  # whose subclass it is

    return run_script


def test_each_exclusion_is_a_test(request: pytest.FixtureRequest) -> None:
    """The tables name no test that does not exist, and the terminal shows how many run and how many do not."""
    excluded = [
        name
        for case in TEST_CASES
        for name in unittest.defaultTestLoader.getTestCaseNames(case)
        if name in case.excluded  # type: ignore[attr-defined]
    ]
    count = unittest.TestSuite(map(unittest.defaultTestLoader.loadTestsFromTestCase, TEST_CASES)).countTestCases()
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        run = count - len(excluded)
        reporter.write_line(f"CPython's tests of concurrent.futures: {run} run, {len(excluded)} excluded")
    known = EXCLUDED.keys() | EXCLUDED_ON_LAMBDA.keys()
    assert set(excluded) == known if sys.version_info[:2] == (3, 13) else set(excluded) <= known
    assert count > len(excluded) > 0
