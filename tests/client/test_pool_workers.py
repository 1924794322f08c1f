"""The arguments of ``PoolExecutor`` that concern its workers: how many, how prepared, and for how many calls."""

from __future__ import annotations

import concurrent.futures
import functools
import gc
import logging
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading

import executors
import hostile
import psutil
import pytest
import yaml
from child_processes import complaints
from executors import WAIT, is_there

import pywren
from pywren.exceptions import ArgumentError, BrokenPoolError, SerializationError, WorkerCrashedError
from pywren.worker.parent.pool import LocalPool, usual_processes


@pytest.fixture(autouse=True)
def _on_this_machine(monkeypatch):
    monkeypatch.setenv("PYWREN_EXECUTOR", "local")


def run_program(program):
    """Run a program to its end, and return what it printed."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, complaints(done.stderr)) == (0, "")
    return done.stdout.splitlines()


def held_calls(pool, directory, count):
    """Submit calls that show that they run, and that wait for a gate."""
    return [
        pool.submit(hostile.holds_until, str(directory / f"held{n}"), str(directory / "gate")) for n in range(count)
    ]


class TestMaxWorkers:
    """``max_workers``."""

    def test_more_than_processors(self, tmp_path):
        """So many calls run together, however many processors there are, as in a ``ProcessPoolExecutor``."""
        count = usual_processes() + 2
        with pywren.PoolExecutor(count) as pool:
            futures = held_calls(pool, tmp_path, count)
            assert all(is_there(tmp_path / f"held{n}") for n in range(count))
            (tmp_path / "gate").touch()
            assert [future.result(WAIT) for future in futures] == ["on time"] * count

    @pytest.mark.parametrize("given", [False, True], ids=["default executor", "own executor"])
    def test_bounds_what_runs(self, given, tmp_path):
        """Further calls wait, and run when others have ended."""
        with pywren.local_executor() as executor:
            with pywren.PoolExecutor(1, executor=executor if given else None) as pool:
                first, second = held_calls(pool, tmp_path, 2)
                assert is_there(tmp_path / "held0")
                assert not second.running()
                assert not (tmp_path / "held1").exists()
                (tmp_path / "gate").touch()
                assert [first.result(WAIT), second.result(WAIT)] == ["on time"] * 2
            assert executor.call_async(abs, -1).result(WAIT) == 1

    def test_elsewhere(self):
        """Through a storage, the driver of the calls keeps to the bound, over all calls of the pool."""
        with pywren.dummy_executor() as executor, pywren.PoolExecutor(2, executor=executor) as pool:
            assert pool._max_workers == 2
            futures = [pool.submit(abs, -n) for n in range(5)]
            most = 0
            while not all(future.done() for future in futures):
                most = max(most, len(executor.invoker.payloads))
                executor.invoker.run_jobs()
            assert most == 2
            assert [future.result(WAIT) for future in futures] == list(range(5))

    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            ({}, 1000),
            ({"lambda": {"concurrency": 7}}, 7),
            ({"lambda": {"concurrency": 7}, "scheduler": {"max_concurrency": 3}}, 3),
        ],
    )
    def test_default_elsewhere(self, config, expected):
        """The configured bound, the account's concurrency, or that of a new account."""
        config = {**pywren.wren.configuration(), **config}
        with pywren.dummy_executor(config) as executor:
            assert pywren.PoolExecutor(executor)._max_workers == expected
            assert pywren.PoolExecutor(5, executor=executor)._max_workers == (3 if expected == 3 else 5)

    @pytest.mark.moto
    @pytest.mark.parametrize(("known", "most"), [(4, 4), (None, 1000)])
    def test_default_of_lambda(self, known, most, monkeypatch, tmp_path):
        """A pool that makes its own executor for Lambda has no more in flight than the account runs."""
        monkeypatch.setenv("PYWREN_EXECUTOR", "lambda")
        monkeypatch.setenv("PYWREN_CONFIG_FILE", str(tmp_path / "config"))
        with pywren.testing.mock_aws() as config:
            on_lambda = {**config["lambda"], "concurrency": known} if known else config["lambda"]
            (tmp_path / "config").write_text(yaml.dump({**config, "lambda": on_lambda}), encoding="utf-8")
            with pywren.PoolExecutor() as pool:
                assert pool._max_workers == pool._executor._policy().max_concurrency == most
                assert pool.submit(abs, -1).result(WAIT) == 1

    def test_default_here(self):
        """Without arguments a pool shares the processes of all executors of this machine."""
        with pywren.PoolExecutor() as pool, pywren.PoolExecutor(usual_processes()) as other:
            assert pool._max_workers == other._max_workers == usual_processes()
            assert pool._executor.invoker.pool is other._executor.invoker.pool is LocalPool.shared()

    def test_numpy_numbers(self):
        """Any whole number is accepted."""
        import numpy as np

        with pywren.PoolExecutor(np.int64(1)) as pool:
            assert pool.submit(abs, -1).result(WAIT) == 1

    def test_needs_an_executor_of_pywren(self):
        """What only has the methods of an executor cannot be bounded."""

        class Verbs:
            def map(self, func, iterdata):
                raise AssertionError

            call_async = map

        with pytest.raises(ArgumentError, match="max_workers bounds only"):
            pywren.PoolExecutor(2, executor=Verbs())


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": -3}, ArgumentError, "max_workers must be greater than 0"),
        ({"max_workers": 1.5}, TypeError, "must be an integer or None"),
        ({"max_workers": "4"}, TypeError, "executor="),
        ({"initializer": 3}, TypeError, "initializer must be a callable"),
        ({"initializer": abs, "initargs": 3}, TypeError, "iterable"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be >= 1"),
        ({"max_tasks_per_child": "1"}, TypeError, "max_tasks_per_child must be an integer"),
        ({"executor": 3}, ArgumentError, r"pywren.local_executor\(\)"),
        ({"max_workers": 2, "executor": "local"}, ValueError, r"pywren.local_executor\(\)"),
    ],
)
def test_wrong_arguments(arguments, error, message):
    """The errors are the standard library's, and nothing is started."""
    with pytest.raises(error, match=message):
        pywren.PoolExecutor(**arguments)


class TestOwnProcesses:
    """The processes of a pool that does not share those of all executors."""

    def test_end_with_shutdown(self):
        """When ``shutdown`` returns, they have ended."""
        with pywren.PoolExecutor(usual_processes() + 1) as pool:
            pid = pool.submit(os.getpid).result(WAIT)
            assert psutil.pid_exists(pid)
        assert not psutil.pid_exists(pid)

    def test_go_on_without_waiting(self, tmp_path):
        """After ``shutdown(wait=False)`` the calls that were made still run."""
        pool = pywren.PoolExecutor(1)
        futures = held_calls(pool, tmp_path, 2)
        pool.shutdown(wait=False)
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(abs, 1)
        (tmp_path / "gate").touch()
        assert [future.result(WAIT) for future in futures] == ["on time"] * 2
        pool.shutdown()

    def test_of_a_pool_that_is_gone(self):
        """CPython's ``test_del_shutdown``: the results arrive, and the processes end."""
        pool = pywren.PoolExecutor(1)
        own, results = pool._own_pool, pool.map(abs, range(-5, 5))
        del pool
        gc.collect()
        assert list(results) == [5, 4, 3, 2, 1, 0, 1, 2, 3, 4]
        del results
        gc.collect()
        own.retire()
        assert not own.lifetime.users

    def test_results_that_are_taken_after_shutdown(self):
        """Calls of a lazy map that were not yet made are made when their turn comes."""
        with pywren.PoolExecutor(1) as pool:
            results = pool.map(abs, iter(range(6)), buffersize=2)
        assert list(results) == list(range(6))

    def test_a_copy_has_the_same_workers(self):
        """A pickled pool works where it is unpickled, and says how many workers it has."""
        with pywren.dummy_executor() as executor, pywren.PoolExecutor(3, executor=executor) as pool:
            copy = pickle.loads(pickle.dumps(pool))
            assert copy._max_workers == 3
            assert copy._executor.config["scheduler"]["max_concurrency"] == 3

    def test_a_nested_pool(self):
        """A call may have a pool of its own, which ends with the call."""

        def nested(n):
            import pywren

            with pywren.PoolExecutor(1, initializer=os.putenv, initargs=("A", "1")) as inner:
                return list(inner.map(abs, range(-n, 0)))

        with pywren.PoolExecutor(1) as pool:
            assert list(pool.map(nested, [2, 3])) == [[2, 1], [3, 2, 1]]


KEPT = {}


def prepare(value):
    """Leave a variable, something in place, an environment variable, a signal handler and a thread."""
    global PREPARED
    PREPARED = value
    KEPT.setdefault(value, []).append(os.getpid())
    os.environ["PREPARED"] = value
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=threading.Event().wait, daemon=True).start()


def what_is_prepared(_=None):
    """Return all that ``prepare`` has left."""
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    return os.getpid(), globals().get("PREPARED"), KEPT, os.environ.get("PREPARED"), ignored, threading.active_count()


def fail(error=ValueError):
    """Raise an error."""
    raise error("nothing works")


class TestInitializer:
    """``initializer`` and ``initargs``."""

    def test_once_in_each_process(self):
        """What it has done is there for all calls, and the process stays."""
        with pywren.PoolExecutor(1, initializer=prepare, initargs=["a"]) as pool:
            found = [pool.submit(what_is_prepared).result(WAIT) for _ in range(3)]
            found += list(pool.map(what_is_prepared, range(3), chunksize=2))
        pid = found[0][0]
        assert found == [(pid, "a", {"a": [pid]}, "a", True, 2)] * 6

    def test_before_the_call_in_each(self, tmp_path):
        """Every process is prepared, not only the first."""

        def held(n):
            hostile.holds_until(str(tmp_path / f"held{n}"), str(tmp_path / "gate"))
            return what_is_prepared()

        with pywren.PoolExecutor(2, initializer=prepare, initargs=["b"]) as pool:
            futures = [pool.submit(held, n) for n in range(2)]
            assert all(is_there(tmp_path / f"held{n}") for n in range(2))
            (tmp_path / "gate").touch()
            found = [future.result(WAIT)[:3] for future in futures]
        assert found == [(pid, "b", {"b": [pid]}) for pid, _, _ in found]
        assert len({pid for pid, _, _ in found}) == 2

    def test_of_a_script(self):
        """Functions of ``__main__`` are sent by value, and still see what the initializer has set, once for all."""
        program = """
            import os, pywren
            CACHE, COUNT, N = {}, [], 1
            def load():
                CACHE["model"] = os.getpid()
            def init(x):
                global X
                X = x
                COUNT.append(1)
                load()
            def f(n):
                return X, len(COUNT), CACHE["model"] == os.getpid(), N, n
            def plain(n):
                return X + n
            def change():
                global X
                X += 1
                return X
            def g():
                CACHE["seen"] = CACHE.get("seen", 0) + 1
                return CACHE["seen"], X
            with pywren.PoolExecutor(1, initializer=init, initargs=(5,)) as pool:
                print(pool.submit(f, 1).result())
                N = 2
                print(*pool.map(f, [2, 3]))
                print(pool.submit(g).result(), pool.submit(g).result(), pool.submit(lambda: X).result())
                print(*[pool.submit(plain, n).result() for n in range(4)], *pool.map(plain, [1]))
                print(*[pool.submit(change).result() for _ in range(3)])
        """
        assert run_program(program) == [
            "(5, 1, True, 1, 1)",
            "(5, 1, True, 2, 2) (5, 1, True, 2, 3)",
            "(1, 5) (2, 5) 5",
            "5 6 7 8 6",
            "6 6 6",
        ]

    @pytest.mark.parametrize("kind", ["method", "partial", "class"])
    def test_any_callable(self, kind):
        """Whatever can be called may be the initializer."""

        class Preparing:
            def __init__(self, value):
                os.environ["PREPARED"] = value

            def prepare(self, value):
                os.environ["PREPARED"] = value

        method = Preparing("x").prepare
        initializers = {"method": method, "partial": functools.partial(method), "class": Preparing}
        with pywren.PoolExecutor(1, initializer=initializers[kind], initargs=("y",)) as pool:
            assert pool.submit(os.getenv, "PREPARED").result(WAIT) == "y"

    @pytest.mark.moto
    def test_on_lambda(self, tmp_path):
        """On Lambda the initializer runs in each process that runs calls of the pool."""
        with executors.make("lambda", tmp_path) as ready:
            with pywren.PoolExecutor(initializer=prepare, initargs=["c"], executor=ready.executor) as pool:
                found = list(pool.map(what_is_prepared, range(3)))
                # Calls of a later ``submit`` find the process as the initializer has left it.
                later = [pool.submit(what_is_prepared, None).result(WAIT) for _ in range(2)]
            assert [one[1:5] for one in found] == [("c", {"c": [one[0]]}, "c", True) for one in found]
            assert later[0] == later[1]
            with pywren.PoolExecutor(initializer=fail, executor=ready.executor) as pool:
                assert isinstance(pool.submit(abs, 1).exception(WAIT), BrokenPoolError)

    @pytest.mark.parametrize("error", [ValueError, SystemExit])
    def test_that_fails(self, error, caplog):
        """The calls end with a ``BrokenExecutor``, a line says why, and the pool takes no more calls."""
        with pywren.PoolExecutor(1, initializer=fail, initargs=[error]) as pool:
            futures = [pool.submit(abs, n) for n in range(3)]
            reported = threading.Event()
            futures[-1].add_done_callback(lambda _: reported.set())
            for future in futures:
                with pytest.raises(concurrent.futures.BrokenExecutor, match=f"{error.__name__}: nothing works"):
                    future.result(WAIT)
            assert reported.wait(WAIT)
            for refused in (lambda: pool.submit(abs, 1), lambda: pool.map(abs, [1])):
                with pytest.raises(BrokenPoolError, match="nothing works"):
                    refused()
        lines = [record for record in caplog.records if record.name == "concurrent.futures"]
        assert [record.levelno for record in lines] == [logging.CRITICAL]
        assert isinstance(lines[0].exc_info[1].__cause__, error)

    def test_that_fails_in_a_pool_of_the_call(self):
        """A broken pool within a call does not break the pool that runs the call."""

        def nested():
            with pywren.PoolExecutor(1, initializer=fail) as inner:
                return inner.submit(abs, 1).result()

        with pywren.PoolExecutor(1, initializer=prepare, initargs=["d"]) as pool:
            with pytest.raises(BrokenPoolError):
                pool.submit(nested).result(WAIT)
            assert pool.submit(abs, -1).result(WAIT) == 1
            assert not pool._broken

    def test_that_ends_its_process(self):
        """``os._exit`` ends only the process; each call ends with the usual error."""
        with pywren.PoolExecutor(1, initializer=os._exit, initargs=[3]) as pool:
            assert isinstance(pool.submit(abs, 1).exception(WAIT), WorkerCrashedError)
            assert not pool._broken

    def test_that_cannot_be_sent(self):
        """``submit`` says so at once."""
        pool = pywren.PoolExecutor(1, initializer=print, initargs=[threading.Lock()])
        with pool, pytest.raises(SerializationError, match="lock"):
            pool.submit(abs, 1)


class TestMaxTasksPerChild:
    """``max_tasks_per_child``."""

    def test_replaces_the_process(self):
        """A process runs so many calls and no more."""
        with pywren.PoolExecutor(1, max_tasks_per_child=3) as pool:
            pids = [pool.submit(os.getpid).result(WAIT) for _ in range(7)]
        assert [len(set(pids[at : at + 3])) for at in (0, 3, 6)] == [1, 1, 1]
        assert len(set(pids)) == 3

    def test_of_many_calls_together(self):
        """Calls that were given ahead to a process that is spent run in the next one."""
        with pywren.PoolExecutor(2, max_tasks_per_child=2) as pool:
            pids = list(pool.map(lambda _: os.getpid(), range(10)))
        assert max(map(pids.count, pids)) <= 2

    def test_with_an_initializer(self):
        """Each new process is prepared."""
        with pywren.PoolExecutor(1, initializer=prepare, initargs=["e"], max_tasks_per_child=1) as pool:
            found = [pool.submit(what_is_prepared).result(WAIT)[:3] for _ in range(3)]
        assert found == [(pid, "e", {"e": [pid]}) for pid, _, _ in found]
        assert len({pid for pid, _, _ in found}) == 3

    @pytest.mark.moto
    def test_on_lambda(self, tmp_path):
        """Processes on Lambda are replaced as well."""
        with executors.make("lambda", tmp_path) as ready:
            pool = pywren.PoolExecutor(1, max_tasks_per_child=1, executor=ready.executor)
            with pool:
                assert len(set(pool.map(lambda _: os.getpid(), range(3)))) == 3
            with pywren.PoolExecutor(1, max_tasks_per_child=2, executor=ready.executor) as pool:
                pids = [pool.submit(os.getpid).result(WAIT) for _ in range(5)]
            assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [2, 2, 1]
