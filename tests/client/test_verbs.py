"""The verbs beside those of 0.4, over every kind of executor."""

from __future__ import annotations

import os
import threading

import executors
import pytest
from callees import add_one
from executors import KINDS, WAIT

import pywren
from pywren.exceptions import ArgumentError, SerializationError, WorkerCrashedError


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


def described(*args, **kwargs):
    return args, kwargs


def results_of(ready, futures):
    ready.run()
    return pywren.get_all_results(futures, WAIT)


class TestSubmit:
    """``submit``."""

    def test_passes_positional_and_keyword_arguments(self, ready):
        """The function gets its arguments unchanged, even under names of the verb's own parameters."""
        futures = [ready.executor.submit(described, 1, x=2, func=3, self=4), ready.executor.submit(described)]
        assert results_of(ready, futures) == [((1,), {"x": 2, "func": 3, "self": 4}), ((), {})]

    def test_the_functions_own_exception(self, local):
        """What the function raises arrives with its own type."""
        with pytest.raises(ZeroDivisionError):
            local.submit(divmod, 1, 0).result(WAIT)


class TestStarmap:
    """``starmap``."""

    def test_spreads_each_tuple(self, ready):
        """The elements of each item are the positional arguments; items may be any iterables, of different lengths."""
        futures = ready.executor.starmap(described, iter([(1, 2), [3], "ab", ()]), retries=0)
        assert [args for args, _ in results_of(ready, futures)] == [(1, 2), (3,), ("a", "b"), ()]

    def test_options_of_map(self, ready):
        """The keyword arguments are options of ``map``, not of the function."""
        futures = ready.executor.starmap(os.environ.get, [("GREETING", "none")], extra_env={"GREETING": "hello"})
        assert len(results_of(ready, futures)) == 1
        with pytest.raises(TypeError, match="no_such_option"):
            ready.executor.starmap(described, [(1,)], no_such_option=1)

    def test_of_nothing(self, local):
        """No tuples make no calls."""
        assert local.starmap(pow, []) == []


class TestZipMap:
    """``zip_map``."""

    def test_takes_the_iterables_in_parallel(self, ready):
        """The shortest iterable ends the map, even beside one without an end."""
        futures = ready.executor.zip_map(pow, iter(int, 1), [2, 0], (n for n in [3, 5, 7]))
        assert results_of(ready, futures) == [0, 1]

    def test_of_one_iterable(self, local):
        """With one iterable it is ``map``."""
        assert pywren.get_all_results(local.zip_map(abs, [-1, 2])) == [1, 2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda pwex: pwex.submit(5), "a int, which cannot be called"),
        (lambda pwex: pwex.starmap(5, []), "cannot be called"),
        (lambda pwex: pwex.zip_map(5, []), "cannot be called"),
        (lambda pwex: pwex.imap(5, []), "cannot be called"),
        (lambda pwex: pwex.imap_unordered(5, []), "cannot be called"),
        (lambda pwex: pwex.starmap(pow, 5), "an iterable of tuples, not a int"),
        (lambda pwex: pwex.starmap(abs, [(1,), 2]), r"item 1 must be one, not a int .*use map\(\)"),
        (lambda pwex: pwex.zip_map(pow), "at least one iterable"),
        (lambda pwex: pwex.zip_map(pow, [1], 2), "takes iterables, not a int"),
        (lambda pwex: pwex.imap(abs, 5), "an iterable of items, not a int"),
        (lambda pwex: pwex.imap(abs, [1], window=0), "window is 0; it must be a whole number above 0"),
        (lambda pwex: pwex.imap(abs, [1], window=1.5), "window is 1.5"),
        (lambda pwex: pwex.imap_unordered(abs, [1], window="8"), "window is '8'"),
        (lambda pwex: pwex.imap_unordered(abs, [1], window=True), "window is True"),
        (lambda pwex: pwex.imap(abs, [1], name="night"), "a stream has no name"),
        (lambda pwex: pwex.imap(abs, [1], retries=-1), "retries is -1"),
    ],
)
def test_wrong_arguments_are_errors_at_once(local, make, message):
    """Every verb checks its arguments before it makes a call, and says what to pass instead."""
    with pytest.raises(ArgumentError, match=message):
        make(local)


def test_an_endless_iterable_of_map_leads_to_imap(local, monkeypatch):
    """The error of ``map`` names the verb that takes such an iterable."""
    monkeypatch.setattr(pywren.client.arguments, "MOST_ITEMS", 10)
    monkeypatch.setattr(local, "map_item_limit", None)
    with pytest.raises(ArgumentError, match=r"Use imap\(\)"):
        local.map(abs, iter(int, 1))


class TestStreams:
    """``imap`` and ``imap_unordered`` over every kind of executor."""

    @pytest.mark.parametrize("verb", ["imap", "imap_unordered"])
    def test_results(self, ready, verb):
        """All results arrive, in order if that was asked for, although more calls are made meanwhile."""
        results = getattr(ready.executor, verb)(add_one, iter(range(10)), window=4, extra_env={"NAME": "value"})
        found = []
        for _ in range(10):
            ready.run()  # of a dummy executor, the calls that were made when the last result was taken
            found.append(next(results))
        assert next(results, "no more") == "no more"
        assert (found if verb == "imap" else sorted(found)) == list(range(1, 11))

    def test_a_worker_that_dies(self, ready):
        """Its call fails where its result would be, and the others go on."""
        results = ready.executor.imap(lambda n: n or os._exit(7), [1, 0, 2], return_exceptions=True, retries=0)
        ready.run()
        assert next(results) == 1
        assert isinstance(next(results), WorkerCrashedError)
        assert next(results) == 2

    def test_what_cannot_be_sent(self, ready):
        """A function that cannot be sent is an error at once; an item, after the results of the calls made before."""
        lock = threading.Lock()
        with pytest.raises(SerializationError, match="lock"):
            ready.executor.imap(lambda x: lock, [1])
        results = ready.executor.imap(add_one, [1, 2, lock], window=1)
        ready.run()
        assert next(results) == 2
        ready.run()
        assert next(results) == 3
        with pytest.raises(SerializationError, match="lock"):
            next(results)
        assert next(results, "no more") == "no more"

    def test_window_and_item_limit(self, local, monkeypatch):
        """A stream may be longer than ``scheduler.map_item_limit``, which concerns single maps."""
        monkeypatch.setattr(local, "map_item_limit", 3)
        assert list(local.imap(add_one, range(10))) == list(range(1, 11))
