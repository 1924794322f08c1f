"""Functions made from functions: what reduce, submit and chunks send to workers."""

from __future__ import annotations

import pickle

import pytest

from pywren.pickling.adapters import Application, Chunk, Reduction, Spread


class Finished:
    """A finished future as a worker sees it."""

    def __init__(self, value=None, error=None):
        self.value, self.error = value, error

    def result(self):
        if self.error is not None:
            raise self.error
        return self.value


def test_reduction_calls_with_the_results():
    """The function gets the list of results, in order."""
    assert Reduction(list)([Finished(1), Finished(2)]) == [1, 2]


def test_reduction_raises_the_first_failure():
    """The function is not called when an input failed."""

    def never(results):
        pytest.fail("called")

    with pytest.raises(OSError, match="first"):
        Reduction(never)([Finished(1), Finished(error=OSError("first")), Finished(error=ValueError("second"))])


def test_application_takes_both_kinds_of_arguments():
    """Positional and keyword arguments travel together."""
    assert Application(dict)(([[("a", 1)]], {"b": 2})) == {"a": 1, "b": 2}


def test_chunk_returns_one_result_for_each():
    """A chunk is a list of results, in order."""
    assert Chunk(pow)([(2, 3), (3, 2)]) == [8, 9]


def test_chunk_runs_coroutines():
    """Each call of a coroutine function in a chunk gives its value."""

    async def double(x):
        return 2 * x

    assert Chunk(double)([(1,), (2,)]) == [2, 4]


def test_spread_takes_positional_arguments():
    """The elements of the argument are the arguments of the function."""
    assert Spread(pow)((2, 3)) == 8


@pytest.mark.parametrize("adapter", [Reduction, Application, Spread, Chunk])
def test_they_pickle(adapter):
    """Adapters can be pickled, and equal ones stay equal."""
    assert pickle.loads(pickle.dumps(adapter(len))) == adapter(len)
