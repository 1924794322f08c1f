"""Classes that the reader cannot import: they arrive unchanged, and the client's own classes are not affected."""

import abc
import collections
import dataclasses
import enum
import threading
import types
import typing

import pytest

from pywren.pickling.packed import Packed, dump_result, dumps, loads

# -- the client's own classes ----------------------------------------------------------------------------------


def test_results_leave_the_classes_of_the_client_alone(there):
    """A call that changes a class, or returns it, does not change the client's class."""

    class Counter:
        made = 0
        seen = []

        def name(self):
            return "first"

    def change(one):
        Counter.made = 99
        Counter.seen.append(1)
        Counter.added = True
        return one, Counter

    one, cls = there(change, Counter())
    assert type(one) is cls is Counter
    assert (Counter.made, Counter.seen, hasattr(Counter, "added")) == (0, [], False)


def test_a_class_changed_here_while_a_call_runs_stays_changed():
    """A result made before a method was replaced does not restore the old method."""

    class Tool:
        def name(self):
            return "first"

    result = dump_result(Tool()).data
    Tool.name = lambda self: "patched"
    assert loads(Packed(result)).name() == "patched"


def test_workers_see_what_the_client_has_changed(there):
    """A class that is sent again arrives as the client has it by then, without changes that earlier calls made."""

    class Setting:
        limit = 1
        gone = 1

    def look(_):
        seen = Setting.limit, hasattr(Setting, "gone"), hasattr(Setting, "marked")
        Setting.marked = True
        return seen

    assert there(look) == (1, True, False)
    Setting.limit = 2
    del Setting.gone
    assert there(look) == (2, False, False)


def test_workers_see_new_names_and_bases(there):
    """A class that was renamed or given other bases arrives that way on a worker that already knew it."""

    class First:
        def who(self):
            return "first"

    class Second:
        def who(self):
            return "second"

    class Tool(First):
        pass

    def look(_):
        return Tool.__name__, Tool.__qualname__, Tool().who(), isinstance(Tool(), First)

    qualname = Tool.__qualname__
    assert there(look) == ("Tool", qualname, "first", True)
    Tool.__bases__ = (Second,)
    assert there(look) == ("Tool", qualname, "second", False)
    Tool.__name__ = Tool.__qualname__ = "Renamed"
    assert there(look) == ("Renamed", "Renamed", "second", False)
    Tool.__bases__ = (Second, First)
    assert there(look) == ("Renamed", "Renamed", "second", True)


def test_a_class_defined_by_a_call_is_the_clients_once_it_is_returned(there):
    """The class comes back with its methods; later changes by the client also reach the worker that made it."""

    def define(x):
        class Made:
            value = x

            def me(self):
                return Made

        return Made

    made = there(define, 3)
    assert made().me() is made
    assert made.value == 3
    made.value = 4
    assert there(lambda cls: cls.value, made) == 4
    assert there(lambda one: one, made) is made


def test_threads_that_load_results_at_once_agree_on_a_class(there):
    """When several threads load results of one call, they share one complete class."""

    def define(_):
        class Made:
            def me(self):
                return type(self) is Made

        return Made()

    packed = dump_result(define(None)).data
    found = []
    ready = threading.Barrier(8)

    def load():
        ready.wait()
        found.append(loads(Packed(packed)).me())

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8


# -- the contents of a class -----------------------------------------------------------------------------------


def test_an_attribute_that_equals_the_bases_is_the_subclasss_own(there):
    """When a call changes the base, the subclass keeps its own numbers, methods, ``None`` and empty tuples."""

    def shared(self):
        return "shared"

    class Base:
        limit, nothing, empty, method = 1, None, (), shared

    class Special(Base):
        limit, nothing, empty, method = 1, None, (), shared

    def look(_):
        Base.limit = Base.nothing = Base.empty = Base.method = 2
        return Special.limit, Special.nothing, Special.empty, Special().method()

    assert there(look) == (1, None, (), "shared")


def test_classes_refer_to_themselves_and_to_each_other(there):
    """``super()``, ``__class__``, nested classes and instances as attributes all refer to the class that was sent."""

    class Outer:
        class Inner:
            def up(self):
                return Outer.Inner

        def who(self):
            return "Outer"

    class Derived(Outer):
        def who(self):
            return f"{__class__.__name__} of {super().who()}"

    Outer.itself, Outer.default, Outer.known = Outer, Outer(), [Outer.Inner(), Derived]

    def look(one):
        assert Outer.itself is Outer
        assert type(Outer.default) is Outer
        assert Outer.known[1] is Derived
        assert type(Outer.known[0]) is Outer.Inner is one.up()
        return Derived().who()

    assert there(look, Outer.Inner()) == "Derived of Outer"


def test_slots_stay_slots(there):
    """Slots can be private, documented or given by an iterator, and can be in derived classes."""

    class Private:
        __slots__ = ("__hidden", "__weakref__", "open")

        def __init__(self):
            self.__hidden, self.open = 1, 2

        def both(self):
            return self.__hidden, self.open

    class Documented(Private):
        __slots__ = {"more": "what it is"}

    class Iterated:
        __slots__ = iter(["x"])

    class Number(int):
        __slots__ = ()

    def look(one):
        for made in (one, Iterated(), Number(3)):
            with raises(AttributeError):
                made.other = 1
        return one.both(), Documented.__slots__

    raises = pytest.raises
    assert there(look, Documented()) == ((1, 2), {"more": "what it is"})


def test_dataclasses_are_dataclasses(there):
    """Fields, class variables, frozen, slots and keyword-only work, and a subclass can be made on the worker."""

    @dataclasses.dataclass(order=True)
    class Plain:
        a: int
        b: list = dataclasses.field(default_factory=list, compare=False)
        c: typing.ClassVar[int] = 3
        d: dataclasses.InitVar[int] = 0

        def __post_init__(self, d):
            self.given = d

    @dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
    class Strict:
        a: int

    def look(one):
        with raises(dataclasses.FrozenInstanceError):
            Strict(a=1).a = 2

        @dataclasses.dataclass
        class More(Plain):
            e: int = 9

        return (
            [field.name for field in dataclasses.fields(More)],
            dataclasses.asdict(dataclasses.replace(one, a=5)),
            Plain(1, d=4).given,
            Plain(1) < Plain(2),
        )

    raises = pytest.raises
    names, values, given, less = there(look, Plain(1))
    assert (names, values, given, less) == (["a", "b", "e"], {"a": 5, "b": []}, 4, True)
    assert there(lambda one: one, Strict(a=1)) == Strict(a=1)


def test_abstract_classes_know_their_methods_and_virtual_subclasses(there):
    """An abstract class cannot be instantiated there, and instances of its virtual subclasses are recognised."""

    class Shape(abc.ABC):
        @abc.abstractmethod
        def area(self): ...

    class Square(Shape):
        def area(self):
            return 4

    class Foreign:
        pass

    Shape.register(Foreign)
    Shape.register(int)

    def look(one):
        with raises(TypeError):
            Shape()
        return one.area(), [isinstance(x, Shape) for x in (one, Foreign(), 3, "")]

    raises = pytest.raises
    assert there(look, Square()) == (4, [True, True, True, False])


def test_locks_of_a_class_are_new_ones(there):
    """A lock that is held in the client is free on the worker; one lock under two names stays one; locks work."""

    class Guarded:
        lock = also = threading.Lock()
        again, condition, event = threading.RLock(), threading.Condition(), threading.Event()
        three, local, barrier = threading.BoundedSemaphore(3), threading.local(), threading.Barrier(2)

        @classmethod
        def work(cls):
            with cls.lock, cls.again, cls.condition, cls.three:
                cls.local.x = 1
            return cls.also is cls.lock, cls.event.is_set(), cls.barrier.parties

    with Guarded.lock:
        assert there(lambda _: Guarded.work()) == (True, False, 2)


# -- what ran when the class was defined -----------------------------------------------------------------------


def test_a_hook_for_subclasses_does_not_run_again(there):
    """``__init_subclass__`` with required keywords is not called again; new subclasses call it as usual."""

    class Plugin:
        known = {}

        def __init_subclass__(cls, *, key, **others):
            super().__init_subclass__(**others)
            cls.key = key
            Plugin.known[key] = cls

    class One(Plugin, key="one"):
        pass

    class Two(One, typing.Generic[typing.TypeVar("T")], key="two"):
        pass

    def look(item):
        seen = list(Plugin.known), Plugin.known[item.key] is type(item)

        class Later(Plugin, key="later"):
            pass

        return (*seen, Later.key, list(Plugin.known))

    expected = (["one", "two"], True, "later", ["one", "two", "later"])
    assert there(look, One()) == expected
    assert there(look, Two()) == expected
    assert list(Plugin.known) == ["one", "two"]


def test_a_hook_that_would_fail_now_is_not_called(there):
    """A hook that was added to the base later, or that refuses to run twice, does no harm."""

    class Base:
        pass

    class Derived(Base):
        pass

    def refuse(cls, required):
        raise RuntimeError("it runs again")

    Base.__init_subclass__ = classmethod(refuse)
    assert there(lambda one: type(one) is Derived, Derived()) is True
    assert vars(Base)["__init_subclass__"].__func__ is refuse


def test_metaclasses_with_keywords_arrive(there):
    """``__prepare__``, ``__new__`` and ``__init__`` with keywords do not run again; ``__call__`` and operators work."""

    class Meta(type):
        made = []

        @classmethod
        def __prepare__(cls, name, bases, **keywords):
            return collections.OrderedDict(prepared=True)

        def __new__(cls, name, bases, namespace, *, tag):
            made = super().__new__(cls, name, bases, dict(namespace))
            made.tag = tag
            cls.made.append(name)
            return made

        def __init__(cls, name, bases, namespace, *, tag):
            super().__init__(name, bases, namespace)

        def __call__(cls, *args):
            made = super().__call__(*args)
            made.called = True
            return made

        def __setattr__(cls, name, value):
            if name == "fixed":
                raise AttributeError(name)
            super().__setattr__(name, value)

        def __eq__(cls, other):  # no hash
            return cls is other

        def __bool__(cls):
            return False

    class Made(metaclass=Meta, tag="t"):
        fixed = 1

    def look(one):
        return Made.tag, Made.prepared, Made.fixed, Made().called, list(Meta.made), type(one) is Made

    assert there(look, Made()) == ("t", True, 1, True, ["Made"], True)
    assert there(lambda one: one, Made) is Made
    assert Meta.made == ["Made"]


def test_metaclasses_beside_abcmeta_do_not_run_again(there):
    """A metaclass that combines ``ABCMeta`` with another arrives: an enumeration's, a protocol's, one with keywords."""

    class Registering(type):
        known = []

        def __new__(cls, name, bases, namespace, tag):
            cls.known.append((name, tag))
            return super().__new__(cls, name, bases, namespace)

        def __init__(cls, name, bases, namespace, tag):
            super().__init__(name, bases, namespace)

    class Area(abc.ABC):
        @abc.abstractmethod
        def area(self): ...

    class AbstractEnum(abc.ABCMeta, enum.EnumMeta):
        pass

    class AbstractRegistering(abc.ABCMeta, Registering):
        pass

    class RegisteringProtocol(type(typing.Protocol), Registering):
        pass

    class Shape(Area, enum.Enum, metaclass=AbstractEnum):
        SQUARE = 2
        QUADRATIC = SQUARE

        def area(self):
            return self.value**2

    class Tile(Area, metaclass=AbstractRegistering, tag="tile"):
        pass

    class HasArea(metaclass=RegisteringProtocol, tag="has"):
        @abc.abstractmethod
        def area(self): ...

    def look(shape):
        with pytest.raises(TypeError, match="abstract"):
            Tile()
        Tile.register(str)
        return shape is Shape.QUADRATIC, shape.area(), isinstance(shape, Area), isinstance("", Tile), HasArea.known

    known = [("Tile", "tile"), ("HasArea", "has")]
    assert there(look, Shape.SQUARE) == (True, 4, True, True, known)
    assert there(lambda shape: shape, Shape.SQUARE) is Shape.SQUARE
    assert Registering.known == known


def test_descriptors_are_told_their_name_once(there):
    """``__set_name__`` does not run again for a descriptor that already has its name."""

    class Field:
        told = 0

        def __set_name__(self, owner, name):
            self.name = name
            Field.told += 1

        def __get__(self, instance, owner):
            return self.name, Field.told

    class Uses:
        field = Field()

    assert there(lambda one: one.field, Uses()) == ("field", 1)


def test_the_hook_of_an_imported_base_is_called_where_it_can_be(tmp_path, script, monkeypatch):
    """An imported base registers the class in its own module on the worker, as it did in the client."""
    (tmp_path / "plugins.py").write_text(
        "known = []\nclass Base:\n    def __init_subclass__(cls):\n        known.append(cls.__name__)\n"
    )
    text = """
    import plugins
    class Mine(plugins.Base): pass
    print(run(lambda _: (plugins.known, Mine.__mro__[1] is plugins.Base)))
    """
    assert script(text).strip() == "(['Mine'], True)"


def test_odd_classes_arrive():
    """Classes with odd names, odd attributes, or a metaclass that answers to everything arrive."""

    class Greedy(type):
        def __getattr__(cls, name):
            return cls

    class NoHash(type):
        def __eq__(cls, other):
            return "an expression"

    class Answers(metaclass=Greedy):
        pass

    class Compared(metaclass=NoHash):
        pass

    class Hidden:
        @property
        def __dict__(self):
            return {"x": 1}

    spaced = type("A name", (), {"mro": 5})
    for cls in (Answers, Compared, Hidden, spaced):
        back = loads(Packed(dumps([cls(), [cls]]).data))
        assert type(back[0]) is cls
        assert back[1][0] is cls


def test_generic_and_user_dictionaries(there):
    """Classes derived from the library's abstract and generic classes work as in the client."""

    class Table(collections.UserDict, typing.Generic[typing.TypeVar("K")]):
        def __missing__(self, key):
            return key

    assert there(lambda one: (one["a"], one["b"], isinstance(one, collections.abc.Mapping)), Table(a=1)) == (
        1,
        "b",
        True,
    )


def test_a_class_with_what_cannot_be_sent_names_it():
    """Row 261: the error names the class and the attribute."""

    class Holder:
        stream = (one for one in ())

    with pytest.raises(Exception, match=r"'Holder'\)\.stream: a generator cannot be pickled"):
        dumps(Holder(), path="argument 0")
    assert isinstance(Holder.stream, types.GeneratorType)
