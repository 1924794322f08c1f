"""Futures among the arguments of calls: such calls are held, and go when the calls that they follow have ended.

The table of failures of this part is in the docstrings: what happens, and what the user sees.
"""

from __future__ import annotations

import gc
import itertools
import operator
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import executors
import hostile
import pytest
from executors import KINDS, WAIT, Presence

import pywren
from pywren.client.call_state import is_done
from pywren.client.driver.driver import FOLLOWS
from pywren.exceptions import ArgumentError, CallCancelledError, CallLostError, StorageError, WorkerCrashedError
from pywren.future import ResponseFuture
from pywren.pickling.finished_futures import add_hint
from pywren.storage import Storage


@pytest.fixture(scope="module", params=KINDS)
def ready(request, tmp_path_factory):
    """Return one executor of each kind, shared by all tests."""
    with executors.make(request.param, tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture
def presence():
    """Return a server to which running functions connect."""
    with Presence() as made:
        yield made
        made.let_go()


@pytest.fixture
def pool(ready):
    """Return a ``PoolExecutor`` over the executor."""
    return pywren.PoolExecutor(executor=ready.executor)


def another(ready):
    """Return another executor of the same kind, whose calls are its own."""
    factory = {"local": pywren.local_executor, "dummy": pywren.dummy_executor, "lambda": pywren.lambda_executor}
    return executors.Ready(ready.kind, factory[ready.kind](config=ready.config), ready.config)


def held(ready, presence):
    """Make a call that runs until the test lets it go; a dummy executor does not run it before ``run``."""
    return ready.executor.call_async(hostile.waits_to_go_on, presence.address)


def error_of(future):
    """Return the error of a call, also of one that was cancelled."""
    try:
        value = future.result(WAIT)
    except Exception as error:  # noqa: BLE001 -- the tests look at it
        return error
    pytest.fail(f"the call returned {value!r}")


# -- as finished futures -------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have no notes")
def test_a_function_that_takes_a_future_for_its_value(ready):
    """Its error has a note that says what to do, once, also when a further call hands the error on."""
    first = ready.executor.call_async(abs, -4)
    ready.run()  # the verbs of a dummy executor that give finished futures wait for them
    wrong = [
        ready.executor.call_async(lambda v: v + 1, first),
        ready.executor.call_async(lambda v: v["a"][0].shape, {"a": [first]}),
        *ready.executor.map_reduce(len, [first], sum),
    ]
    ready.run()
    wrong.append(ready.executor.call_async(lambda v: v.result(), wrong[0]))
    right = [
        ready.executor.call_async(lambda v: v.result() + None, first),
        ready.executor.call_async(lambda v: None + 1, 1),
        ready.executor.call_async(lambda _: {}["FinishedFuture"], first),
        ready.executor.submit(lambda v: v.shape, first),
    ]
    ready.run()
    for future in wrong:
        (note,) = error_of(future).__notes__
        assert note.startswith("this function got a finished future, not its value: call its result(), or ")
    assert not any(hasattr(error_of(future), "__notes__") for future in right)


def test_a_hint_for_an_error_that_takes_none():
    """An error whose own code raises, or that keeps something else where notes are, stays as it is."""

    class Hostile(TypeError):
        def __str__(self):
            raise SystemExit

    add_hint(Hostile())
    odd = TypeError("FinishedFuture")
    odd.__notes__ = 7
    add_hint(odd)
    assert odd.__notes__ == 7


# -- as values -----------------------------------------------------------------------------------------------------


def test_a_future_arrives_as_its_value(ready, pool):
    """``pool.submit(add, future, 2)`` adds the result of the future, at any place and depth of the arguments."""
    first = ready.executor.call_async(abs, -4)
    added = pool.submit(operator.add, first, 2)
    deep = pool.submit(lambda a, *, b: (a, b["k"][0], b["same"] is b["k"][0]), added, b={"k": [first], "same": first})
    ready.run()
    assert added.result(WAIT) == 6
    assert deep.result(WAIT) == (6, 4, True)


def test_verbs_of_an_executor(ready):
    """``submit``, ``starmap`` and ``zip_map`` of an executor give values too."""
    first = ready.executor.call_async(abs, -4)
    futures = [
        ready.executor.submit(operator.add, first, 1),
        *ready.executor.starmap(operator.add, [(first, 2)]),
        *ready.executor.zip_map(operator.add, [first], [3]),
    ]
    ready.run()
    assert [one.result(WAIT) for one in futures] == [5, 6, 7]


def test_a_chain(ready, pool):
    """Each call of a chain follows the one before."""
    last = ready.executor.call_async(abs, 0)
    for _ in range(20):
        last = pool.submit(operator.add, last, 1)
    ready.run()
    assert last.result(WAIT) == 20


def test_futures_in_the_iterables_of_a_pools_map(ready, pool):
    """``PoolExecutor.map`` gives values too, also in chunks."""
    firsts = ready.map(abs, range(-4, 0))
    results = [pool.map(operator.add, firsts, range(4), chunksize=size) for size in (1, 3)]
    ready.run()
    assert [list(one) for one in results] == [[4, 4, 4, 4]] * 2


def test_submit_does_not_wait(ready, pool, presence):
    """``submit`` returns while the input still runs, and so do ``reduce`` and ``map``; nothing has been invoked."""
    if ready.kind == "dummy":
        pytest.skip("the program runs the calls")
    first = held(ready, presence)
    following = [
        pool.submit(operator.not_, first),
        ready.executor.map(lambda future: future.result(), [first])[0],
        ready.executor.reduce(list, [first]),
    ]
    assert presence.wait()
    assert not any(is_done(one) for one in [first, *following])
    presence.let_go()
    assert [one.result(WAIT) for one in following] == [False, "on time", ["on time"]]


def test_a_failed_input(ready, pool):
    """The call ends with the same error and the same remote traceback, and its function is not called."""
    failed = ready.executor.call_async(hostile.raises_value_error, "told")
    following = pool.submit(operator.add, failed, 2)
    after_that = pool.submit(operator.add, following, 2)
    ready.run()
    for one in (following, after_that):
        error = error_of(one)
        assert type(error) is ValueError
        assert str(error) == str(error_of(failed))
        assert error is not error_of(failed)
        assert "raises_value_error" in one.run_status["exception_traceback"]
        assert not one.cancelled()


def test_an_input_that_has_failed_already(ready, pool):
    """The same holds if the input has failed before the call is made."""
    failed = ready.call(hostile.raises_own, "told")
    error_of(failed)
    following = pool.submit(operator.add, failed, 2)
    assert type(error_of(following)) is hostile.OwnError


def test_an_input_whose_worker_crashed(ready, pool):
    """The error names the call whose worker crashed."""
    failed = ready.call(lambda _: os._exit(3), retries=0)
    following = pool.submit(operator.add, failed, 2)
    ready.run()
    error = error_of(following)
    assert type(error) is WorkerCrashedError
    assert error.callset_id == failed.callset_id


def test_the_first_failed_input_counts(ready, pool):
    """Of several failed inputs the first in the arguments counts, whichever ended first."""
    slow = ready.executor.call_async(hostile.raises_own, "first")
    quick = ready.executor.call_async(hostile.raises_value_error, "second")
    following = pool.submit(print, slow, quick)
    ready.run()
    assert type(error_of(following)) is hostile.OwnError


def test_a_cancelled_input(ready, pool, presence):
    """The call is cancelled too, and its error says why."""
    first = held(ready, presence)
    following = [pool.submit(operator.add, first, 2)]
    if ready.kind != "dummy":  # whose reduce() waits for its inputs
        following.append(ready.executor.reduce(list, [first]))
    assert first.cancel()
    ready.run()
    for one in following:
        assert "among" not in str(error_of(one))
        assert f"because call {first.call_id} of callset {first.callset_id} was" in str(error_of(one))
        assert one.cancelled()


def test_cancelling_a_call_that_is_held(ready, pool, presence):
    """It never runs, and its input goes on."""
    first = held(ready, presence)
    following = pool.submit(operator.add, first, 2)
    assert following.cancel()
    assert following.cancelled()
    presence.let_go()
    ready.run()
    assert first.result(WAIT) == "on time"
    assert type(error_of(following)) is CallCancelledError


def test_cancel_all(ready, presence):
    """``cancel_all`` counts the calls that are held."""
    mine = another(ready)
    pool, first = pywren.PoolExecutor(executor=mine.executor), held(ready, presence)
    futures = [pool.submit(operator.not_, first) for _ in range(3)]
    assert mine.executor.cancel_all() == 3
    assert all(one.cancelled() for one in futures)


def test_shutting_a_pool_down(ready, presence):
    """``shutdown`` waits for calls that are held; ``cancel_futures`` cancels them."""
    if ready.kind == "dummy":
        pytest.skip("the program runs the calls")
    mine = pywren.PoolExecutor(executor=another(ready).executor)
    first = held(ready, presence)
    assert presence.wait()
    cancelled = mine.submit(operator.not_, first)
    mine.shutdown(wait=False, cancel_futures=True)
    assert cancelled.cancelled()
    mine = pywren.PoolExecutor(executor=another(ready).executor)
    following = mine.submit(operator.not_, first)
    presence.let_go()
    mine.shutdown()
    assert is_done(following)
    assert following.result(WAIT) is False


def test_a_call_that_followed_others_is_tried_again(ready, tmp_path):
    """Retries count from the first attempt, which begins when the inputs are there."""
    if ready.kind == "dummy":
        pytest.skip("each call of a dummy executor runs once")
    marks = tmp_path / f"marks-{ready.kind}"

    def second_time(future):
        with open(marks, "a") as file:
            file.write("x")
        if marks.read_text() == "x":
            raise ConnectionError("once")
        return future.result()

    first = ready.executor.call_async(abs, -4)
    following = ready.executor.map(second_time, [first], retries=2)[0]
    assert following.result(WAIT) == 4
    assert [one.cause for one in following.attempts] == ["exception", None]


def test_a_backup_of_calls_that_followed_others(ready):
    """``backup=True`` works with futures among the arguments."""
    if ready.kind == "dummy":
        pytest.skip("each call of a dummy executor runs once")
    firsts = ready.executor.map(abs, range(-4, 0))
    following = ready.executor.map(lambda future: future.result(), firsts, backup=True)
    assert pywren.get_all_results(following) == [4, 3, 2, 1]


def test_a_future_without_a_call(ready, pool):
    """A future that was made by hand and belongs to no call is refused at once, instead of being waited for."""
    with pytest.raises(ArgumentError, match="job not yet invoked"):
        pool.submit(operator.add, ResponseFuture("00000", "nothing"), 2)


def test_a_future_in_a_submitted_functions_closure(ready, pool):
    """A future that the function itself refers to is waited for, and arrives as a finished future."""
    first = ready.call(abs, -4)
    following = pool.submit(lambda: first.result() + 1)
    ready.run()
    assert following.result(WAIT) == 5


def test_nobody_holds_the_futures(ready, pool, tmp_path, presence):
    """A call runs even if the program has dropped its future and that of its input."""
    if ready.kind == "dummy":
        pytest.skip("the program runs the calls")
    mark = tmp_path / "mark"
    pool.submit(lambda value, path: open(path, "x").close(), held(ready, presence), str(mark))
    gc.collect()
    assert presence.wait()
    presence.let_go()
    assert executors.is_there(mark)


def test_inputs_are_released_when_they_are_not_needed(ready, pool):
    """As soon as a call has ended, neither the value of its input is kept, nor the objects that its worker has read."""
    first = ready.call(Value, 3)
    reference = weakref.ref(first.result(WAIT))
    following = [pool.submit(operator.attrgetter("number"), first), *ready.executor.map(_number_in, [first])]
    ready.run()
    assert [one.result(WAIT) for one in following] == [3, 3]
    del first
    deadline = time.monotonic() + WAIT
    while reference() is not None and time.monotonic() < deadline:
        time.sleep(0.001)  # a thread may be about to drop it
        gc.collect()
    assert reference() is None
    assert all(one._origin.callset.inputs == {} for one in following)


def test_inputs_are_kept_while_they_are_needed(tmp_path, monkeypatch):
    """The directory of an input whose future was dropped stays until the call that reads it has ended."""
    monkeypatch.setenv("PYWREN_HOME", str(tmp_path))
    executor = pywren.dummy_executor()
    first = executor.map(bytes, [1_000_000])
    executor.invoker.run_jobs()
    pywren.wait(first)
    directory = tmp_path.rglob(first[0].callset_id)
    path = next(directory)
    following = pywren.dummy_executor()
    future = following.submit(len, first[0])
    executor.close()
    del executor, first
    gc.collect()
    assert path.exists()
    following.invoker.run_jobs()
    assert future.result(WAIT) == 1_000_000
    deadline = time.monotonic() + WAIT
    while path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)  # a thread may be about to drop it
        gc.collect()
    assert not path.exists()


class Value:
    """Something that weak references can point to."""

    def __init__(self, number):
        self.number = number


def _number_in(future):
    return future.result().number


def test_from_many_threads(ready, pool):
    """Threads can make calls that follow the same input."""
    if ready.kind == "dummy":
        pytest.skip("run_jobs runs what other threads have invoked")
    first = ready.executor.call_async(abs, -4)
    with ThreadPoolExecutor(8) as threads:
        following = list(threads.map(lambda n: pool.submit(operator.add, first, n), range(40)))
    assert [one.result(WAIT) for one in following] == list(range(4, 44))


def test_the_users_classes(ready, pool):
    """If a value is an instance of a class in the user's module, that module is sent to the worker."""
    first = ready.executor.call_async(hostile.returns_point, 1)
    following = pool.submit(operator.attrgetter("x"), first)
    ready.run()
    assert following.result(WAIT) == 1


def test_a_value_that_cannot_be_unpickled(ready, pool):
    """The call fails with an error that says so, on the worker or here."""
    first = ready.executor.call_async(hostile.returns_what_raises_when_unpickled, None)
    following = pool.submit(operator.not_, first)
    ready.run()
    assert "cannot be unpickled" in str(error_of(following))


# -- where the values travel ---------------------------------------------------------------------------------------


@pytest.mark.moto
def test_a_big_result_does_not_come_here(tmp_path):
    """The worker reads a big result from the storage, and this process only learns that it is there."""
    with executors.make("lambda", tmp_path) as ready:
        pool = pywren.PoolExecutor(executor=ready.executor)
        big = ready.executor.call_async(hostile.returns_much, 3_000_000)
        assert pool.submit(len, big).result(WAIT) == 3_000_000
        assert not is_done(big)
        reduced = ready.executor.reduce(lambda values: len(values[0]), [big])
        assert reduced.result(WAIT) == 3_000_000
        assert not is_done(big)
        copy = pickle.loads(pickle.dumps(big))
        assert pool.submit(len, copy).result(WAIT) == 3_000_000
        assert len(big.result(WAIT)) == 3_000_000  # and it comes when it is asked for
        big_error = ready.executor.call_async(lambda size: hostile.raise_own("x" * size), 3_000_000)
        assert len(str(error_of(pool.submit(len, big_error)))) >= 3_000_000


def test_values_of_another_storage(ready, pool, tmp_path):
    """Between executors that share no storage the value travels through this process."""
    other = another(ready)
    with executors.make("local", tmp_path) as elsewhere:
        firsts = [other.executor.call_async(abs, -1), elsewhere.call(hostile.returns_much, 2_000_000)]
        other.run()
        pywren.wait(firsts[1:], timeout=WAIT)  # run_jobs() of a dummy executor does not wait for calls elsewhere
        following = pool.submit(lambda one, many: one + len(many), *firsts)
        back = pywren.PoolExecutor(executor=elsewhere.executor).submit(operator.add, following, 1)
        ready.run()
        assert following.result(WAIT) == 2_000_001
        assert back.result(WAIT) == 2_000_002


def test_a_value_that_cannot_be_handed_on(ready, pool, tmp_path, monkeypatch):
    """If the value of another storage cannot be stored, the call ends with that error."""
    if ready.kind == "local":
        pytest.skip("values stay in memory")
    put = Storage.put

    def refuse(self, key, *args, **options):
        if "/input" in key:
            raise StorageError("no more room")
        return put(self, key, *args, **options)

    with executors.make("local", tmp_path) as elsewhere, Presence() as presence:
        first = elsewhere.executor.call_async(hostile.waits_to_go_on, presence.address)
        following = pool.submit(operator.not_, first)
        monkeypatch.setattr(Storage, "put", refuse)
        monkeypatch.setattr("pywren.invokers._ARRIVAL", 0.2)
        presence.let_go()
        assert first.result(WAIT) == "on time"
        ready.run()
        assert "no more room" in str(error_of(following))


# -- 0.4's verbs ---------------------------------------------------------------------------------------------------


def test_a_failed_input_of_a_map(ready):
    """A function that is mapped gets a finished future, and decides itself about a failure, as in 0.4."""
    failed = ready.map(hostile.raises_value_error, ["told"])
    following = ready.executor.map(lambda future: type(future.exception()).__name__, failed)
    ready.run()
    assert following[0].result(WAIT) == "ValueError"


def test_the_inputs_of_reduce_are_collected(ready):
    """As after 0.4's ``reduce``, which waited, ``succeeded``, ``errored`` and ``run_status`` tell of its inputs."""
    futures = ready.map(lambda x: 1 // x, [1, 0])
    assert not any(one.succeeded() or one.errored() for one in futures)
    ready.executor.reduce(sum, futures)
    assert [one.succeeded() for one in futures] == [True, False]
    assert [one.errored() for one in futures] == [False, True]
    assert all(one.run_status for one in futures)


def test_a_failed_reduce(ready, tmp_path):
    """The function of ``reduce`` is not called if an input failed."""
    mark = tmp_path / "mark"
    futures = ready.map(lambda x: 1 // x, [1, 0])
    reduced = ready.reduce(lambda values: mark.touch(), futures)
    assert type(error_of(reduced)) is ZeroDivisionError
    assert not mark.exists()


def test_a_named_job_waits(ready, tmp_path):
    """A named map waits for the futures among its arguments, so that other processes can resume it."""
    if ready.kind == "local":
        pytest.skip("such calls are staged, as the others are")
    first = ready.call(abs, -4)
    named = ready.map(lambda future: future.result(), [first], name="follows")
    assert named[0].result(WAIT) == 4
    assert pywren.attach("follows", storage=ready.executor.storage)[0].result(WAIT) == 4


# -- map_reduce ----------------------------------------------------------------------------------------------------


def test_map_reduce(ready):
    """Without groups there is one future, whose function gets all results in order."""
    reduced = ready.executor.map_reduce(abs, (n for n in (-3, -1, -2)), list)
    ready.run()
    assert [one.result(WAIT) for one in reduced] == [[3, 1, 2]]


@pytest.mark.parametrize(
    "groups",
    [lambda item: item % 3, lambda item, index: index % 3, [0, 1, 2, 0, 1], iter([0, 1, 2, 0, 1]), "abcab"],
    ids=["of the item", "of the index", "keys", "an iterator", "letters"],
)
def test_groups(groups, tmp_path):
    """One future for each group, in the order in which the groups first appear."""
    with executors.make("local", tmp_path) as ready:
        reduced = ready.executor.map_reduce(lambda x: x * 10, range(5), list, groups)
        assert [one.result(WAIT) for one in reduced] == [[0, 30], [10, 40], [20]]


@pytest.mark.parametrize(
    ("groups", "match"),
    [
        ([1], "has 1 keys, but there are 2 items"),
        (itertools.cycle([1]), "has more than 2 keys"),
        (lambda item: [item], "key of item 0 is a list"),
        (7, "groups takes a function"),
    ],
)
def test_wrong_groups(groups, match, tmp_path):
    """``groups`` that do not fit are an ArgumentError, before anything is invoked."""
    with executors.make("local", tmp_path) as ready, pytest.raises(ArgumentError, match=match):
        ready.executor.map_reduce(hostile.sleeps_on, range(2), list, groups)


def test_map_reduce_of_nothing(ready):
    """Without items the result is that of an empty list; with groups there is no group."""
    reduced = ready.executor.map_reduce(abs, [], len)
    ready.run()
    assert [one.result(WAIT) for one in reduced] == [0]
    assert ready.executor.map_reduce(abs, [], len, groups=[]) == []


def test_a_group_with_a_failed_item(ready):
    """Only the groups of failed items fail."""
    odd, even = ready.executor.map_reduce(lambda x: 12 // (x - 2), [1, 2, 3, 4], sum, groups=lambda x: x % 2)
    ready.run()
    assert odd.result(WAIT) == 0
    assert type(error_of(even)) is ZeroDivisionError


# -- a dummy executor ----------------------------------------------------------------------------------------------


def test_run_jobs_runs_what_follows(tmp_path):
    """``run_jobs`` also runs the calls that have only waited for those that it has run; ``MAXJOBS`` limits all."""
    with executors.make("dummy", tmp_path) as ready:
        pool, invoker = pywren.PoolExecutor(executor=ready.executor), ready.executor.invoker
        first = ready.executor.call_async(abs, -4)
        last = pool.submit(operator.add, pool.submit(operator.add, first, 1), 1)
        assert len(invoker.payloads) == 1
        invoker.run_jobs(2)
        assert len(invoker.payloads) == 1
        invoker.run_jobs()
        assert last.result(WAIT) == 6
        pool.submit(operator.add, first, 1)
        assert len(invoker.payloads) == 1  # the input has ended: nothing is held
        invoker.run_jobs_threaded()
        invoker.thread.join()
        assert invoker.payloads == []


def test_run_jobs_after_inputs_of_others(tmp_path):
    """``run_jobs`` asks whether inputs of other executors have ended."""
    with executors.make("dummy", tmp_path / "a") as ready, executors.make("local", tmp_path / "b") as other:
        with Presence() as presence:
            first = held(other, presence)
            following = pywren.PoolExecutor(executor=ready.executor).submit(operator.not_, first)
            ready.run()
            assert not is_done(following)
            presence.let_go()
        first.result(WAIT)
        ready.run()
        assert following.result(WAIT) is False


def test_run_jobs_waits_for_calls_that_are_on_their_way(tmp_path, monkeypatch):
    """A call that was let go when it was made may still have its inputs stored: ``run_jobs`` runs it too."""
    put, go_on = Storage.put, threading.Event()

    def slowly(self, key, *args, **options):
        # On the thread that makes the call, if the first one is known to have ended by then.
        if "/input" in key and threading.current_thread() is not threading.main_thread():
            assert go_on.wait(WAIT)
        return put(self, key, *args, **options)

    with executors.make("dummy", tmp_path / "a") as ready, executors.make("dummy", tmp_path / "b") as other:
        first = other.executor.call_async(abs, -1)
        other.run()
        monkeypatch.setattr(Storage, "put", slowly)
        following = pywren.PoolExecutor(executor=ready.executor).submit(operator.add, first, 1)
        # Whether it is let go when it is made, or by run_jobs(), depends on when the first call was last asked about.
        ready.executor.invoker.run_jobs_threaded()
        ready.executor.invoker.thread.join(0.2)
        go_on.set()
        ready.executor.invoker.thread.join()
        assert following.result(WAIT) == 2


# -- the end of a program, forks, other processes ------------------------------------------------------------------


def run(script, *arguments):
    """Run a script in a process of its own, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments], capture_output=True, text=True, timeout=WAIT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_end_of_a_program(tmp_path):
    """A program that ends waits for calls that are held on this machine, and for what they follow."""
    mark = tmp_path / "mark"
    run(
        """
        import sys, time, pywren
        pool = pywren.PoolExecutor(executor=pywren.local_executor())
        first = pool.submit(time.sleep, 0.5)
        pool.submit(lambda _, path: open(path, "x").close(), pool.submit(lambda _: 1, first), sys.argv[1])
        """,
        str(mark),
    )
    assert mark.exists()


def test_the_end_of_a_program_with_a_dummy_executor():
    """A call of a dummy executor that is held does not keep the program from ending."""
    run(
        """
        import pywren
        executor = pywren.dummy_executor()
        pywren.PoolExecutor(executor=executor).submit(abs, executor.call_async(abs, -1))
        """
    )


def test_a_forked_process(ready, pool, presence):
    """In a forked process a call on this machine that is held is lost, and others are only waited for."""
    if ready.kind == "dummy":
        pytest.skip("the program runs the calls")
    first = held(ready, presence)
    following = pool.submit(operator.not_, first)
    assert presence.wait()
    child = os.fork()
    if not child:
        lost = is_done(following) and type(following._exception) is CallLostError
        os._exit(0 if lost == (ready.kind == "local") else 1)
    assert os.waitpid(child, 0)[1] == 0
    presence.let_go()
    assert following.result(WAIT) is False


@pytest.mark.parametrize("is_another", [False, True], ids=["same", "another executor"])
def test_an_input_that_only_the_held_call_needs(ready, presence, is_another):
    """The program drops the input, and the garbage collector runs: the call gets its value all the same."""
    if ready.kind == "dummy":
        pytest.skip("the program runs the calls")
    follower = pywren.local_executor() if is_another else ready.executor
    first = held(ready, presence)
    following = follower.submit(operator.not_, first)
    del first
    gc.collect()
    assert presence.wait()
    presence.let_go()
    assert following.result(WAIT) is False


def test_an_input_is_freed_when_the_program_drops_it(ready, pool, presence):
    """Nothing keeps a result that other calls have used, not even until the garbage collector runs."""
    if ready.kind == "dummy":
        pytest.skip("the program runs the calls")
    first = held(ready, presence)
    following = pool.submit(operator.not_, first)
    assert presence.wait()
    presence.let_go()
    assert following.result(WAIT) is False
    assert first.result(WAIT) == "on time"
    assert not [one for one in first._waiting if type(one).__name__.endswith("Teller")]


def test_a_pickled_future_of_a_call_that_is_held(ready, pool, presence):
    """A copy of its future waits for the call, which this process drives; also if the input fails."""
    if ready.kind == "dummy":
        pytest.skip("the program runs the calls")
    first = held(ready, presence)
    failing = pool.submit(lambda _: 1 // 0, first)
    futures = [pool.submit(operator.not_, first), pool.submit(operator.not_, failing)]
    script = """
        import pickle, sys
        value, failed = pickle.loads(bytes.fromhex(sys.argv[1]))
        print(value.result(60), type(failed.exception(60)).__name__)
    """
    printed, pickled = [], pickle.dumps(futures)
    if ready.kind == "lambda":  # the mocked AWS exists in this process only
        presence.let_go()
        value, failed = pickle.loads(pickled)
        assert value.result(WAIT) is False
        assert type(error_of(failed)) is ZeroDivisionError
        return
    thread = threading.Thread(target=lambda: printed.append(run(script, pickled.hex())))
    thread.start()
    assert presence.wait()
    presence.let_go()
    thread.join()
    assert printed == ["False ZeroDivisionError\n"]


def test_a_call_that_is_held_says_why(ready, pool, presence):
    """What the end of a program logs about calls that are held names their inputs."""
    if ready.kind != "lambda":
        pytest.skip("calls of this machine are counted as outstanding")
    first = held(ready, presence)
    following = pool.submit(operator.not_, first)
    assert following._origin.held_back() == f"1 call is not invoked yet ({FOLLOWS})"
    presence.let_go()
    assert following.result(WAIT) is False


def test_the_end_of_a_program_that_has_not_run_the_inputs(tmp_path):
    """A call that follows one of a dummy executor ends with the program, and so do those that follow it."""
    program = """
        import pywren
        first = pywren.dummy_executor().call_async(abs, -1)
        local = pywren.local_executor()
        second = local.submit(abs, first)
        third = local.submit(abs, second)
        local.submit(abs, first).cancel()
        third.add_done_callback(lambda ended: print(ended.exception))
        second.add_done_callback(lambda ended: print(ended.cancelled(), str(ended._exception).partition(" (")[0]))
    """
    run = [sys.executable, "-W", "error", "-c", textwrap.dedent(program)]
    environment = {**os.environ, "PYWREN_HOME": str(tmp_path)}
    done = subprocess.run(run, env=environment, capture_output=True, text=True, timeout=WAIT, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert done.stderr.count("1 call was not run, because it follows calls of a dummy executor that have not run") == 1
    assert "which run_jobs() has not run" in done.stdout


@pytest.mark.parametrize("problem", [RuntimeError, SystemExit])
def test_an_error_in_a_decision_ends_the_call(ready, pool, presence, monkeypatch, problem):
    """An unforeseen error while a call is let go becomes the error of that call, and other calls go on."""
    if ready.kind == "dummy":
        pytest.skip("the program runs the calls")
    first = held(ready, presence)
    broken, sound = pool.submit(operator.not_, first), pool.submit(operator.not_, first)
    let_go = type(broken._origin).let_go

    def fail(self, *arguments):
        if self is broken._origin:
            raise problem("a defect")
        return let_go(self, *arguments)

    monkeypatch.setattr(type(broken._origin), "let_go", fail)
    assert presence.wait()
    presence.let_go()
    assert f"{problem.__name__}: a defect" in str(error_of(broken))
    assert sound.result(WAIT) is False
