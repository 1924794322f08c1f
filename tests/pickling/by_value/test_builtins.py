"""Decorators and built-in objects with weak references, caches or state of their own."""

import abc
import contextlib
import functools
import inspect
import types
import weakref

from pywren.pickling.packed import Packed, dumps, loads


def again(obj):
    """Pickle and unpickle an object."""
    return loads(Packed(dumps(obj).data))


def test_single_dispatch(there):
    """Single-dispatch functions and methods work as in the client, and more types can be registered there."""

    class Kind:
        pass

    @functools.singledispatch
    def tell(x):
        return "object"

    @tell.register
    def _(x: int):
        return "int"

    @tell.register(Kind)
    def _(x):
        return "Kind"

    class Tool:
        @functools.singledispatchmethod
        def tell(self, x):
            return "object"

        @tell.register
        def _(self, x: int):
            return "int"

    assert tell(1) == "int"  # and its cache has an entry

    def look(x):
        before = tell(""), tell(1), tell(True), tell(Kind()), Tool().tell(1), Tool().tell("")

        @tell.register(str)
        def _(x):
            return "str"

        return (*before, tell(""), str in tell.registry)

    assert there(look) == ("object", "int", "int", "Kind", "int", "object", "str", True)
    assert there(tell, 1) == "int"
    assert str not in tell.registry


def test_caches(there):
    """Cached functions, methods and properties arrive with an empty cache of the same size, and their attributes."""

    @functools.cache
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    fib.note = "n"
    fib(3)

    class Tool:
        @functools.lru_cache(maxsize=7)  # noqa: B019 - this is what the test is about
        def double(self, x):
            return 2 * x

        @functools.cached_property
        def once(self):
            return [Tool]

        @classmethod
        @functools.cache
        def name(cls):
            return cls.__name__

    def look(_):
        tool = Tool()
        empty = fib.cache_info().currsize
        return empty, fib(30), fib.note, Tool.double.cache_parameters()["maxsize"], tool.once is tool.once, Tool.name()

    assert there(look) == (0, 832040, "n", 7, True, "Tool")


def test_other_standard_decorators(there):
    """``contextmanager``, ``total_ordering``, ``partialmethod``, ``wraps`` and nested decorators work."""

    @contextlib.contextmanager
    def inner(x):
        yield x

    @contextlib.contextmanager
    def outer():
        with inner(3) as x:
            yield x

    @functools.total_ordering
    class Version:
        def __init__(self, number):
            self.number = number

        def __eq__(self, other):
            return self.number == other.number

        def __lt__(self, other):
            return self.number < other.number

        plus = functools.partialmethod(lambda self, a, b: a + b + self.number, 1)

    def twice(f):
        @functools.wraps(f)
        def wrapper(*args):
            return f(*args) * 2

        return wrapper

    @twice
    @twice
    def work(_):
        with outer() as x:
            return x if Version(2) >= Version(1) else 0

    assert there(lambda one: (work(0), one.plus(2), work.__wrapped__.__wrapped__(0)), Version(1)) == (12, 4, 3)


def test_properties_and_methods_of_own_kinds():
    """Subclasses of ``property``, ``classmethod``, ``staticmethod`` and ``cached_property`` keep their types."""

    class OfClass(property):
        def __init__(self, function, note=3):
            super().__init__(function)
            self.note = note

        def __get__(self, instance, owner=None):
            return self.fget(owner)

    class Method(classmethod):
        pass

    class Static(staticmethod):
        pass

    class Cached(functools.cached_property):
        pass

    class Tool:
        @OfClass
        def name(cls):  # noqa: N805
            return cls.__name__

        @Method
        def me(cls):  # noqa: N805
            return cls

        @Static
        def four():
            return 4

        @Cached
        def cached(self):
            return Tool

        @property
        def documented(self):
            """What it is."""

        @abc.abstractmethod
        def open(self): ...

    name = Tool.__name__
    made, cls = again((Tool(), Tool))
    assert cls is Tool
    assert made.name == name
    assert made.me() is Tool
    assert made.four() == 4
    assert made.cached is Tool
    assert inspect.getattr_static(cls, "name").note == 3
    assert cls.documented.__doc__ == "What it is."
    assert type(vars(cls)["me"]) is Method
    assert cls.open.__isabstractmethod__


def test_weak_references(there):
    """Weak references, proxies and weak dictionaries refer to objects that are also sent; all others are dead."""

    class Node:
        def __init__(self, parent=None):
            self.parent = weakref.ref(parent) if parent else None
            self.children = []
            if parent:
                parent.children.append(self)

        def name(self):
            return "node"

    class Values(weakref.WeakValueDictionary):
        pass

    root = Node()
    child = Node(root)
    keys, values = weakref.WeakKeyDictionary({root: 1}), Values(a=root)
    method, proxy = weakref.WeakMethod(child.name), weakref.proxy(root)
    gone = weakref.ref(Node())

    def look(sent):
        root, keys, values, method, proxy, gone, members = sent
        child = root.children[0]
        assert child.parent() is root
        assert keys[root] == 1
        assert values["a"] is root
        assert child in members
        return method()(), len(proxy.children), gone(), type(values) is Values

    sent = root, keys, values, method, proxy, gone, weakref.WeakSet([child])
    assert there(look, sent) == ("node", 1, None, True)
    assert there(lambda one: one.parent(), child) is None


def test_read_only_views_see_the_dictionary():
    """A ``MappingProxyType`` is a view of the dictionary that was sent with it."""
    table = {"a": 1}
    table, view = again([table, types.MappingProxyType(table)])
    table["b"] = 2
    assert dict(view) == {"a": 1, "b": 2}
