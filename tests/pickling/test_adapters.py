"""Functions made from functions: what reduce, submit and chunks send to workers."""

from __future__ import annotations

import pickle

import pytest

from pywren.pickling.adapters import Application, Chunk, Reduction, Spread


def test_reduction_takes_a_list_of_results():
    """The function gets the list of results, in order."""
    assert Reduction(list)([1, 2]) == [1, 2]


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
