"""Enumerations that the reader cannot import: their members are the same there as in the client."""

from __future__ import annotations

import abc
import dataclasses
import datetime
import enum
import sys

import pytest


class Mixed:
    """Enumerations of every kind, made anew for each test."""

    def __init__(self) -> None:
        class Level(enum.Enum):
            LOW = 1
            MINIMUM = 1  # noqa: PIE796 - an alias
            HIGH = 2

        class Access(enum.Flag):
            NONE = 0
            READ = 1
            WRITE = 2
            ALL = READ | WRITE
            FAR = 1 << 70

        class Mode(enum.IntFlag):
            X = 1
            W = 2
            R = 4

        class Tagged(str, enum.Enum):
            def __new__(cls, value, label):
                made = str.__new__(cls, value)
                made._value_ = value
                made.label = label
                return made

            A = ("a", "first")

        class Planet(enum.Enum):
            EARTH = (5.976e24, 6.378e6)

            def __init__(self, mass, radius):
                self.mass = mass
                self.radius = radius

        class Day(datetime.date, enum.Enum):
            NEW_YEAR = 2020, 1, 1

        class Items(list, enum.Enum):
            PAIR = [1, 2]

        class Table(dict, enum.Enum):
            ROW = {"a": 1}

        @dataclasses.dataclass(frozen=True)
        class Point:
            x: int
            y: int = 0

        class Place(Point, enum.Enum):
            HOME = 1, 2

        class AbstractEnum(enum.EnumMeta, abc.ABCMeta):
            pass

        class HasName(abc.ABC):
            @abc.abstractmethod
            def told(self): ...

        class Told(HasName, enum.Enum, metaclass=AbstractEnum):
            ONE = 1

            def told(self):
                return self.name

        class Named(enum.Enum):
            def _generate_next_value_(name, start, count, last_values):  # noqa: N805
                return name.lower()

            FIRST = enum.auto()

        class Lenient(enum.Enum):
            OTHER = "other"

            @classmethod
            def _missing_(cls, value):
                return cls.OTHER

        functional = enum.Enum("Hidden", {"P": [1], "Q": {2: 3}})
        self.members = {
            "alias": Level.MINIMUM,
            "composite flag": Access.ALL,
            "zero flag": Access.NONE,
            "big flag": Access.FAR,
            "flags combined": Access.READ | Access.FAR,
            "integers combined": Mode.R | Mode.W,
            "inverted": ~Mode.R,
            "own __new__": Tagged.A,
            "own __init__": Planet.EARTH,
            "date": Day.NEW_YEAR,
            "list": Items.PAIR,
            "dictionary": Table.ROW,
            "dataclass": Place.HOME,
            "abstract": Told.ONE,
            "generated": Named.FIRST,
            "_missing_": Lenient.OTHER,
            "functional, unhashable value": functional.Q,
        }


KINDS = list(Mixed().members)


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_goes_and_comes_back_as_itself(there, kind):
    """A member that is sent and returned is the identical member, and its class's other members are unchanged."""
    member = Mixed().members[kind]
    before = list(type(member).__members__.items())
    assert there(lambda one: one, member) is member
    assert there(lambda one: [one, {one.name: type(one)}], member) == [member, {member.name: type(member)}]
    assert list(type(member).__members__.items()) == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_is_found_by_value_and_name_there(there, kind):
    """On the worker, looking up a member by its value or name returns the member that was sent."""
    member = Mixed().members[kind]

    def look(one):
        cls = type(one)
        by_value = cls(one.value)
        by_name = cls[one.name] if one.name in cls.__members__ else one
        return by_value is one, by_name is one, str(one), dict(vars(one)).keys() - {"__objclass__"}

    assert there(look, member) == (True, True, str(member), vars(member).keys() - {"__objclass__"})


def test_attributes_beside_the_value_are_there(there):
    """Attributes that ``__new__`` or ``__init__`` set on a member are also set on the worker."""
    members = Mixed().members
    assert there(lambda one: one.label, members["own __new__"]) == "first"
    assert there(lambda one: (one.mass, one.radius), members["own __init__"]) == (5.976e24, 6.378e6)
    assert there(lambda one: (one.x, one.y), members["dataclass"]) == (1, 2)
    assert there(list, members["list"]) == [1, 2]
    assert there(lambda one: one["a"], members["dictionary"]) == 1
    assert there(lambda one: one.year, members["date"]) == 2020


def test_an_enumeration_behaves_there(there):
    """Order, aliases, errors for invalid values, and ``_missing_`` work as in the client."""
    members = Mixed().members
    level, lenient = type(members["alias"]), type(members["_missing_"])

    def behave(_):
        with pytest_raises(ValueError):
            level(9)
        with pytest_raises(AttributeError):
            level.LOW = 3
        return [one.name for one in level], list(level.__members__), lenient("any").name

    pytest_raises = pytest.raises
    assert there(behave) == (["LOW", "HIGH"], ["LOW", "MINIMUM", "HIGH"], "OTHER")


def test_members_of_members_and_of_other_kinds(there):
    """Members that hold functions or each other's class arrive, and so do enumerations without members."""

    class Base(enum.Enum):
        def shout(self):
            return self.name.upper()

    class Derived(Base):
        quiet = 1

        def next(self):
            return Derived.quiet

    assert there(lambda one: (one.shout(), one.next() is one), Derived.quiet) == ("QUIET", True)
    assert there(lambda cls: len(cls), Base) == 0


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.11's enum")
def test_what_python_3_11_added(there):
    """``StrEnum``, ``member``, ``nonmember``, ``verify`` and boundaries arrive."""

    class Word(enum.StrEnum):
        ONE = enum.auto()

    @enum.verify(enum.UNIQUE)
    class Marked(enum.Enum):
        A = 1
        other = enum.nonmember(5)

        @enum.member
        def work(self):
            return 3

    class Kept(enum.Flag, boundary=enum.KEEP):
        A = 1

    for member in (Word.ONE, Marked.work, Kept(9)):
        assert there(lambda one: one, member) is member
    assert there(lambda _: (Marked.other, Word.ONE + "!", Kept(9).value)) == (5, "one!", 9)


def test_what_a_call_sets_on_a_member_stays_there(there):
    """A call that changes a member affects neither the client nor the next map."""

    class Job(enum.Enum):
        DONE = 1

    def change(one):
        one.note = "set by the call"
        return one

    assert there(change, Job.DONE) is Job.DONE
    assert not hasattr(Job.DONE, "note")
    assert there(lambda one: hasattr(one, "note"), Job.DONE) is False
