"""A function that is mapped again is not stored again, and runs in the processes that have run it."""

from __future__ import annotations

import os
import pickle

import pytest

import pywren
import pywren.testing
from pywren.client.staged_functions import StagedFunctions
from pywren.system.forks import own_name
from pywren.wire.function import REUSED_FOR

WAIT = 60.0


class Clock:
    """A clock that the test sets."""

    now = 1000.0

    def __call__(self):
        return self.now


def test_for_how_long():
    """A function is found again for an hour; after that, or if the clock was set back, it is stored again."""
    clock = Clock()
    functions = StagedFunctions(clock)
    assert functions.find("d") is None
    functions.keep("d", "key", clock.now)
    assert functions.find("d") == "key"
    clock.now += REUSED_FOR - 1
    assert functions.find("d") == "key"
    clock.now += 1
    assert functions.find("d") is None
    clock.now = 999.0
    assert functions.find("d") == "key"
    clock.now = 900.0
    assert functions.find("d") is None


def test_it_forgets():
    """What is forgotten, or was stored before many others, is stored again."""
    functions = StagedFunctions(Clock())
    for number in range(300):
        functions.keep(str(number), "key", 1000.0)
    assert functions.find("0") is None
    assert functions.find("299") == "key"
    functions.forget("299")
    functions.forget("299")
    assert functions.find("299") is None


@pytest.fixture
def executor():
    """Return an executor of a mocked AWS."""
    with pywren.testing.mock_aws() as config, pywren.lambda_executor(config=config) as made:
        yield made


def functions_in(executor):
    return [key for key in executor.storage.backend.list(executor.storage.prefix) if key.endswith("func.pickle")]


@pytest.mark.moto
def test_a_function_that_is_mapped_again(executor):
    """Later maps of an equal function use the stored one; one that has changed is stored."""
    factor = [2]

    def multiply(x):
        return x * factor[0]

    for _ in range(3):
        assert pywren.get_all_results(executor.map(multiply, [1, 2])) == [2, 4]
    first = executor.call_async(multiply, 1)
    assert first.result(WAIT) == 2
    assert len(functions_in(executor)) == 1
    assert first.run_status["func_key"] == functions_in(executor)[0]
    assert first.callset_id not in first.run_status["func_key"]
    factor[0] = 3
    assert pywren.get_all_results(executor.map(multiply, [1, 2])) == [3, 6]
    assert len(functions_in(executor)) == 2
    assert executor.map(multiply, [1], name="a job")[0].result(WAIT) == 3
    assert len(functions_in(executor)) == 3  # a job keeps its own


@pytest.mark.moto
def test_a_function_that_is_mapped_again_finds_its_imports(executor):
    """Its process is the same as long as its client is, and its own variables are as they were sent."""
    seen = []

    def look(x):
        import fractions

        seen.append(x)
        fractions.looks = getattr(fractions, "looks", 0) + 1
        return os.getpid(), fractions.looks, len(seen)

    found = [executor.call_async(look, n).result(WAIT) for n in range(2)]
    with pywren.lambda_executor(config=executor.config) as another:
        found.append(another.call_async(look, 2).result(WAIT))
        found.append(another.map(look, [3], extra_env={"A": "1"})[0].result(WAIT))
    found.append(executor.map(look, [4], use_cached_runtime=False)[0].result(WAIT))
    first = found[0][0]
    assert found[:3] == [(first, 1, 1), (first, 2, 1), (first, 3, 1)]
    assert [one[1:] for one in found[3:]] == [(1, 1), (1, 1)]
    assert len({pid for pid, *_ in found}) == 3


@pytest.mark.moto
def test_who_has_made_a_call_is_in_its_payload_alone(executor):
    """The name of the client's process is in no object and no pickled future: it only tells workers what to share."""
    future = executor.call_async(abs, -1)
    assert future.result(WAIT) == 1
    name = own_name()
    assert name not in repr((future.invoke_status, future.run_status))
    assert name.encode() not in pickle.dumps(future)
    objects = executor.storage.backend.list(executor.storage.prefix)
    assert not [key for key in objects if name.encode() in executor.storage.get(key)]


@pytest.mark.moto
@pytest.mark.parametrize("replaced", [False, True])
def test_a_function_that_somebody_has_deleted_or_replaced(executor, replaced):
    """The calls that need it fail, and run nothing else; the next map stores the function again."""
    executor.retries = 0
    assert executor.call_async(abs, -1).result(WAIT) == 1
    [key] = functions_in(executor)
    if replaced:
        executor.storage.put(key, b"something else")
    else:
        executor.storage.backend.delete([key])
    # A warm worker has the function, so the call may succeed all the same.
    executor.call_async(abs, -1).exception(WAIT)
    lost = executor.map(abs, [-1], use_cached_runtime=False)[0]
    lost.exception(WAIT)
    assert executor.call_async(abs, -1).result(WAIT) == 1


@pytest.mark.emulator
def test_a_loop_of_maps_on_a_warm_worker_imports_once(emulator):
    """Each map finds the modules that the first one has imported, and its own variables as they were sent."""
    looks = []

    def look(x):
        import wave

        looks.append(x)
        wave.looks = getattr(wave, "looks", 0) + 1
        return wave.looks, len(looks)

    found = []
    with pywren.lambda_executor(config=emulator.deploy()) as executor:
        for number in range(3):
            found.append(executor.call_async(look, number).result(WAIT))
            emulator.wait_idle()  # a worker that is just ending its call would not get the next one
    assert found == [(1, 1), (2, 1), (3, 1)]
