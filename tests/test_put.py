"""``Executor.put``: an object is stored once, and any number of calls refer to it."""

from __future__ import annotations

import operator
import pickle
import threading

import executors
import hostile
import pytest
from executors import KINDS, STAGED_KINDS, WAIT

import pywren
from pywren.client.call_state import is_done
from pywren.exceptions import SerializationError, StorageError


@pytest.fixture(scope="module", params=KINDS)
def ready(request, tmp_path_factory):
    """Return one executor of each kind, shared by all tests."""
    with executors.make(request.param, tmp_path_factory.mktemp("home")) as made:
        yield made


def error_of(future):
    """Return the error of a call."""
    error = future.exception(WAIT)
    assert error is not None
    return error


@pytest.mark.parametrize("size", [10, 2_000_000])
def test_a_reference_among_the_arguments(ready, size):
    """It arrives as its value in ``submit``, and as a finished future in 0.4's ``map``, as any future does."""
    pool = pywren.PoolExecutor(executor=ready.executor)
    reference = ready.executor.put({"data": b"x" * size})
    mapped = ready.executor.map(
        lambda item: item[0] + len(item[1].result()["data"]), [(n, reference) for n in range(3)]
    )
    submitted = pool.submit(
        lambda value, *, other: (len(value["data"]), value is other[0]), reference, other=[reference]
    )
    ready.run()
    assert pywren.get_all_results(mapped) == [size, size + 1, size + 2]
    assert submitted.result(WAIT) == (size, True)
    assert len(reference.result(WAIT)["data"]) == size


def test_what_it_tells(ready):
    """A reference is a future that is done; it cannot be cancelled, and nobody waits for it."""
    reference = ready.executor.put([1])
    assert not reference.cancel()
    assert reference.done()
    assert reference.result(WAIT) == [1]
    assert reference.exception(WAIT) is None
    assert ready.executor.cancel_all() == 0


def test_later_changes_do_not_count(ready):
    """The object is stored as it is when ``put`` is called."""
    thing = [1]
    reference = ready.executor.put(thing)
    thing.append(2)
    assert ready.call(lambda future: future.result(), reference).result(WAIT) == [1]
    assert reference.result(WAIT) == [1]


def test_it_needs_the_users_modules(ready):
    """Calls that take an object of a class in the user's module get that module."""
    reference = ready.executor.put(hostile.returns_point(1))
    assert ready.call(lambda future: future.result().x, reference).result(WAIT) == 1


def test_it_pickles(ready):
    """A pickled reference can be used as an argument, and its value be read."""
    reference = pickle.loads(pickle.dumps(ready.executor.put("x" * 1_500_000)))
    assert ready.call(lambda future: len(future.result()), reference).result(WAIT) == 1_500_000
    assert len(reference.result(WAIT)) == 1_500_000


def test_other_executors(ready, tmp_path):
    """A reference can be used by an executor with another storage; the value then passes through this process."""
    with executors.make("local", tmp_path) as other:
        reference = ready.executor.put("x" * 1_500_000)
        assert other.call(lambda future: len(future.result()), reference).result(WAIT) == 1_500_000
        back = other.executor.put([7])
        assert ready.call(lambda future: future.result(), back).result(WAIT) == [7]


@pytest.mark.moto
def test_a_reference_from_inside_a_call_on_lambda(tmp_path):
    """A call that returns a reference, or a future, of its own container fails with an error that says why."""

    def refer(_):
        return {"table": [pywren.local_executor().put(1)]}

    def start(_):
        return pywren.local_executor().map(abs, [-1])

    with executors.make("lambda", tmp_path) as ready:
        told = [str(error_of(ready.call(function))) for function in (refer, start)]
    for where, text in zip(["result['table'][0]: a", "result[0]: a"], told, strict=True):
        assert where in text
        assert "only in the memory of this Lambda container" in text


@pytest.mark.moto
def test_what_a_call_on_lambda_can_hand_out(tmp_path):
    """References and futures of an executor on Lambda serve everybody who can read the bucket."""

    def refer(config):
        pwex = pywren.lambda_executor(config=config)
        return pwex.put(1), pwex.call_async(abs, -2)

    with executors.make("lambda", tmp_path) as ready:
        handed = ready.call(refer, ready.config).result(WAIT)
        assert pywren.get_all_results(list(handed), timeout=WAIT) == [1, 2]


def test_a_reference_from_inside_a_call_here(tmp_path):
    """On this machine, a call can return a reference to an object that it has put."""
    with executors.make("local", tmp_path) as ready:
        reference = ready.call(lambda _: pywren.local_executor().put([1])).result(WAIT)
        assert reference.result(WAIT) == [1]


def test_a_future_inside(ready):
    """A future inside the object is waited for, and is a finished future for those who get the object."""
    reference = ready.executor.put({"inner": ready.call(abs, -3)})
    assert ready.call(lambda future: future.result()["inner"].result(), reference).result(WAIT) == 3


def test_what_cannot_be_sent(ready):
    """The error names the object and what is wrong with it."""
    with pytest.raises(SerializationError, match="the object"):
        ready.executor.put({"lock": threading.Lock()})


@pytest.mark.parametrize("kind", STAGED_KINDS)
@pytest.mark.parametrize("size", [10, 2_000_000])
def test_an_object_that_was_deleted(kind, size, tmp_path):
    """The call that takes it fails with an error that says that it is gone, and so does its value here."""
    with executors.make(kind, tmp_path) as ready:
        ready.executor.retries = 0
        reference = ready.executor.put(b"x" * size)
        ready.executor.storage.delete_callset(reference.callset_id)
        call = ready.call(lambda future: future.result(), reference)
        assert "an argument of the call is gone from the storage" in str(error_of(call))
        assert isinstance(error_of(call), StorageError)
        if size > 10:  # a small one came back with the status
            assert isinstance(error_of(reference), StorageError)


@pytest.mark.parametrize("kind", STAGED_KINDS)
def test_an_object_that_was_replaced(kind, tmp_path):
    """Nothing is unpickled that is not what was stored."""
    with executors.make(kind, tmp_path) as ready:
        ready.executor.retries = 0
        reference = ready.executor.put(b"x" * 2_000_000)
        key = ready.executor.storage.keys(reference.callset_id).call(reference.call_id).output
        ready.executor.storage.put(key, b"y" * 2_000_000)
        assert "SHA-256" in str(error_of(ready.call(lambda future: future.result(), reference)))


@pytest.mark.moto
def test_it_is_stored_once_and_read_once_by_a_worker(tmp_path, monkeypatch):
    """However many calls take it, the object is written once; a worker that is warm does not read it again."""
    with executors.make("lambda", tmp_path) as ready:
        reference = ready.executor.put(b"x" * 5_000_000)
        futures = ready.executor.map(lambda item: len(item[1].result()), [(n, reference) for n in range(10)])
        assert sum(pywren.get_all_results(futures)) == 50_000_000
        assert not is_done(reference)  # it was not fetched to this process
        backend = ready.executor.storage.backend
        sizes = [len(backend.get(key)) for key in backend.list(ready.executor.storage.prefix)]
        assert sum(sizes) < 6_000_000


def test_many_calls_in_memory_share_one_copy(tmp_path):
    """On this machine, ten calls with one reference do not need ten copies."""
    with executors.make("local", tmp_path) as ready:
        reference = ready.executor.put(b"x" * 5_000_000)
        pool = pywren.PoolExecutor(executor=ready.executor)
        assert sum(pool.map(operator.add, [pool.submit(len, reference)] * 10, range(10))) == 50_000_045
