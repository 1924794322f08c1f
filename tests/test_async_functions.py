"""``async def`` functions: they run on an event loop of the worker, and their coroutine's value is the result."""

from __future__ import annotations

import asyncio
import contextlib
import decimal
import os
import sys
import traceback

import executors
import pytest
from executors import KINDS, WAIT

import pywren
from pywren.exceptions import ResultSerializationError, WorkerCrashedError
from pywren.system.coroutines import finished


@pytest.fixture(scope="module", params=KINDS)
def ready(request, tmp_path_factory):
    """Return one executor of each kind, shared by all tests."""
    with executors.make(request.param, tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Return a local executor."""
    with executors.make("local", tmp_path_factory.mktemp("home")) as made:
        yield made.executor


async def double(x):
    await asyncio.sleep(0.001)
    return x * 2


async def fails(x):
    await asyncio.sleep(0)
    raise KeyError(x)


class Doubler:
    """An object whose call is a coroutine."""

    async def __call__(self, x):
        return await double(x)

    async def method(self, x):
        return await double(x)


class TestOnEveryExecutor:
    """The common cases."""

    @pytest.mark.parametrize("func", [double, lambda x: double(x), Doubler(), Doubler().method])
    def test_the_value_of_the_coroutine_is_the_result(self, ready, func):
        """It does not matter how the coroutine comes about."""
        assert ready.call(func, 4).result(WAIT) == 8

    def test_its_exception_is_the_calls(self, ready):
        """The traceback shows the function, and neither pywren's nor asyncio's loop."""
        with pytest.raises(KeyError) as caught:
            ready.call(fails, "key").result(WAIT)
        shown = "".join(traceback.format_exception(caught.value))
        assert "in fails" in shown
        assert "run_forever" not in shown
        assert "coroutines.py" not in shown

    def test_with_every_verb(self, ready):
        """The other verbs run coroutines too."""
        pwex = ready.executor
        futures = [pwex.submit(double, x=2), *pwex.starmap(double, [(3,)]), *pwex.zip_map(double, [4])]
        ready.run()
        assert pywren.get_all_results(futures, WAIT) == [4, 6, 8]

    def test_reduce(self, ready):
        """A reduction may be a coroutine."""

        async def total(numbers):
            return sum([await double(number) for number in numbers])

        assert ready.reduce(total, ready.map(double, [1, 2])).result(WAIT) == 12


def test_pools(local):
    """``PoolExecutor`` runs them too, also several in a chunk."""
    with pywren.PoolExecutor(local) as pool:
        assert pool.submit(double, 1).result(WAIT) == 2
        assert list(pool.map(double, range(5), chunksize=2)) == [0, 2, 4, 6, 8]
    assert list(local.imap(double, range(3))) == [0, 2, 4]


def test_what_asyncio_offers(local):
    """Groups of tasks, threads, subprocesses and time-outs work."""

    async def many(x):
        numbers = await asyncio.gather(*[double(n) for n in range(3)])
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(60), 0.001)
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(7)", stdout=-1)
        return numbers, await asyncio.to_thread(abs, -x), (await child.communicate())[0].split()

    assert local.call_async(many, 5).result(WAIT) == ([0, 2, 4], 5, [b"7"])


def test_tasks_left_behind_are_ended(local):
    """Their clean-up runs before the call ends, and the process runs further calls."""

    async def leaves(x):
        async def background():
            try:
                await asyncio.sleep(600)
            finally:
                print("cleaned up")

        async def numbers():
            try:
                yield 1
                yield 2
            finally:
                print("closed")

        task = asyncio.create_task(background())
        generator = numbers()
        await generator.__anext__()
        await asyncio.sleep(0)
        return os.getpid(), task.done(), generator is None

    future = local.call_async(leaves, 1)
    pid, was_done, _ = future.result(WAIT)
    assert not was_done
    assert sorted(future.run_status["stdout"].split()) == ["cleaned", "closed", "up"]
    pids = pywren.get_all_results(local.map(lambda _: os.getpid(), range(20)))
    assert pid in pids


def test_context_variables_of_one_call_do_not_reach_the_next(local):
    """Each coroutine has a context of its own."""

    async def precision(x):
        before = decimal.getcontext().prec
        decimal.setcontext(decimal.Context(prec=x))
        return before

    assert set(pywren.get_all_results(local.map(precision, [5] * 10))) == {decimal.getcontext().prec}


def test_the_next_call_finds_asyncio_as_it_was(local):
    """No loop is left set, and none counts as set earlier: ``get_event_loop`` gives the same as in a new process."""

    def kind_of_loop(_):
        try:
            loop = asyncio.get_event_loop_policy().get_event_loop()
        except RuntimeError as error:
            return str(error)
        loop.close()
        return "a new loop"

    def after_a_coroutine(x):
        finished(double(x))
        return kind_of_loop(x)

    with pywren.local_executor() as other:
        assert other.call_async(after_a_coroutine, 1).result(WAIT) == local.call_async(kind_of_loop, 1).result(WAIT)


def test_a_coroutine_that_is_cancelled(local):
    """The call fails with an error that no waiting task mistakes for its own cancellation."""

    async def gives_up(_):
        asyncio.current_task().cancel()
        await asyncio.sleep(60)

    with pytest.raises(RuntimeError, match="was cancelled on the worker") as caught:
        local.call_async(gives_up, 1).result(WAIT)
    assert isinstance(caught.value.__cause__, asyncio.CancelledError)


def test_a_coroutine_that_exits(local):
    """``sys.exit`` ends the worker's process, as in any function."""

    async def leaves(code):
        await asyncio.sleep(0)
        sys.exit(code)

    with pytest.raises(WorkerCrashedError, match="non-zero return code: 3"):
        local.call_async(leaves, 3).result(WAIT)


@pytest.mark.parametrize(
    ("func", "message"),
    [
        (lambda x: [double(x)], r"a coroutine cannot be pickled; only the coroutine .* await this one"),
        (lambda x: (n for n in [x]), r"a generator cannot be pickled; return a list of its items, list\(\.\.\.\)"),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
def test_what_cannot_be_returned(local, func, message):
    """Coroutines in a result, and generators, are errors that say what to do."""
    with pytest.raises(ResultSerializationError, match=message):
        local.call_async(func, 1).result(WAIT)


def test_an_asynchronous_generator(local):
    """The error says how to make a list of it."""

    async def items(x):
        yield x

    with pytest.raises(ResultSerializationError, match=r"an async_generator cannot be pickled; .* async for item in"):
        local.call_async(items, 1).result(WAIT)


def test_other_awaitable_results_are_returned_as_they_are():
    """Only coroutines are run: a future that a function returns stays a future."""

    class Awaitable:
        def __await__(self):
            raise AssertionError

    for value in (1, "text", None, Awaitable(), Awaitable):
        assert finished(value) is value
