"""Maps over numbers and strings, which need no pickle each.

| what is mapped over | what the function gets |
|---|---|
| numbers and strings of any value | the same value, of the same type |
| objects of classes that extend these types | objects of these classes |
| such items among others, or big ones | the same |
| a list that changes after ``map`` | the items as they were |
| fewer items than processes, thousands, or calls that are cancelled in between | each call its own item |
| calls that fail and run again | the same item again |
"""

from __future__ import annotations

import enum
import math

import executors
import hostile
import pytest

import pywren
from pywren.pickling.packed import Packed, Scalars, loads, size_of

VALUES = [
    0,
    -1,
    2**31,
    -(2**63),
    2**64,
    10**400,
    0.5,
    -0.0,
    math.inf,
    5e-324,
    True,
    False,
    "",
    "é\0",
    "\udc80",
    "😀" * 9,
]
BIG = ["a" * 4096, "b" * 70_000, "é" * 300_000, 3 ** (8 * 70_000)]


class Colour(enum.IntEnum):
    RED = 1


class Name(str):
    pass


class Meta(type):
    def __eq__(cls, other):
        raise LookupError("compared")

    def __hash__(cls):
        raise LookupError("hashed")


class Odd(metaclass=Meta):
    pass


@pytest.fixture(scope="module", params=executors.KINDS)
def ready(request, tmp_path_factory):
    """Return an executor of each kind."""
    with executors.make(request.param, tmp_path_factory.mktemp("home")) as made:
        yield made


def described(x):
    """Return the type of a value, and all its bits: equal numbers may differ, and NaN differs from itself."""
    return type(x).__name__, x.hex() if isinstance(x, float) else x


@pytest.mark.parametrize(
    "items",
    [
        VALUES,
        [math.nan, 1],
        [*VALUES, *BIG],
        [1, None, b"b", 2.0],
        [1, Colour.RED],
        ["a", Name("a")],
        ["a" * 5000] * 90,
    ],
    ids=["scalars", "nan", "big", "others", "enum", "subclass", "many big"],
)
def test_each_arrives_as_it_is(ready, items):
    """Its type, its value, and every bit of it."""
    found = pywren.get_all_results(ready.map(lambda x: (described(x), x), items))
    expected = [described(x) for x in items]
    assert [there for there, _ in found] == expected
    assert [described(x) for _, x in found] == expected


def test_the_list_may_change_afterwards(ready):
    """The calls have the items of the moment of the map."""
    items = list(range(300))
    futures = ready.map(lambda x: x + 1, items)
    items.clear()
    assert pywren.get_all_results(futures) == list(range(1, 301))


def test_calls_that_are_cancelled_take_nothing_from_others(tmp_path):
    """Every third call is cancelled while it waits."""
    with executors.make("local", tmp_path) as made, executors.Presence() as presence:
        blocking = [made.executor.call_async(hostile.waits_to_go_on, presence.address) for _ in range(8)]
        futures = made.map(lambda x: x * 2, range(3000))
        cancelled = {index for index in range(0, 3000, 3) if futures[index].cancel()}
        presence.let_go()
        pywren.wait([*blocking, *futures])
        assert len(cancelled) > 900
        for index, future in enumerate(futures):
            assert future.cancelled() if index in cancelled else future.result() == index * 2


def test_calls_that_run_again_have_the_same_item(tmp_path):
    """The second attempts of calls that raised."""

    def fails_once(x):
        mark = tmp_path / f"{x}"
        if x % 5 == 0 and not mark.exists():
            mark.touch()
            raise OSError("for now")
        return x, mark.exists()

    with executors.make("local", tmp_path) as made:
        found = pywren.get_all_results(made.map(fails_once, range(50), retries=1, retry_on=OSError))
    assert found == [(x, x % 5 == 0) for x in range(50)]


def test_they_are_a_sequence_of_pickles():
    """What stores arguments reads them as any others."""
    packed = Scalars.of(VALUES)
    assert packed is not None
    assert len(packed) == len(VALUES)
    assert all(type(one) is Packed for one in packed)
    assert [loads(one) for one in packed] == VALUES
    assert [loads(one) for one in packed[3:9:2]] == VALUES[3:9:2]
    assert loads(packed[-1]) == VALUES[-1]
    assert 0 < size_of(packed) <= size_of(list(packed))
    again = Scalars.of(["a" * 3000] * 50)
    assert again is not None
    assert 150_000 < size_of(again) <= size_of(list(again))
    with pytest.raises(IndexError):
        packed[len(VALUES)]


@pytest.mark.parametrize(
    "items",
    [[], [1, None], [1, b"b"], [Colour.RED], [Name("a")], [1, [2]], [1, Odd()], BIG[:1]],
    ids=["none", "None", "bytes", "enum", "subclass", "list", "metaclass", "big"],
)
def test_others_are_no_scalars(items):
    """Whatever could change, has a class of the program, or is big is pickled at once."""
    assert Scalars.of(items) is None
