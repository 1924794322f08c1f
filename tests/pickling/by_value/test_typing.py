"""Objects that ``typing`` makes under a name, and names in string annotations."""

from __future__ import annotations

import sys

import pytest

NAMES = """
import typing
from typing import *
T = TypeVar("T", bound="Outer")
U = TypeVar("U", int, str)
P = ParamSpec("P")
UserId = NewType("UserId", int)
Deep = NewType("Deep", UserId)
class Outer: pass
class Box(Generic[T]):
    def __init__(self, value=None): self.value = value
class Pair(NamedTuple):
    x: int
    y: UserId = 3
class Row(TypedDict, total=False):
    a: int
    b: Outer
@runtime_checkable
class HasWork(Protocol):
    def work(self) -> int: ...
class Works:
    def work(self) -> int: return 1
def decorate(f: Callable[P, U]) -> Callable[P, U]:
    def inner(*args: P.args, **kwargs: P.kwargs) -> U: return f(*args, **kwargs)
    return inner
@decorate
def decorated(x): return x + 1
"""


NAMED = ["T", "U", "P", "UserId", "Deep", "Box", "Pair", "Row", "HasWork"]
SUBSCRIPTED = ["Box[int]", "Callable[P, T]", "List[Deep]"]


def lines(expressions):
    """Write a line that prints each expression whose value is not true."""
    return "".join(f"({text}) or print({text!r})\n" for text in expressions)


def test_named_objects_of_typing_go_and_come_back(script):
    """Type variables, new types and the classes made with them come back as the identical objects."""
    checks = [f"run(lambda x: x, {name}) is {name}" for name in NAMED]
    checks += [f"run(lambda x: x, {name}) == {name}" for name in SUBSCRIPTED]
    assert script(NAMES + lines(checks)) == ""


def test_aliases_of_classes_of_the_library_in_annotations(script):
    """A function travels with ``Future[int]`` in its signature, which Python 3.10 takes for a class."""
    text = """
from concurrent.futures import Future
def f(x, waits: Future[int] = None, keeps: "dict[str, Future[int]]" = None): return f.__annotations__["waits"]
run(f) == Future[int] or print(run(f))
run(lambda alias: alias, Future[int]) == Future[int] or print("as an argument")
"""
    assert script(text) == ""


def test_named_objects_of_typing_work_there(script):
    """Generic classes, named tuples, typed dictionaries, protocols and decorators work on the worker."""
    text = """
def look(box):
    return (Box[int].__args__, Box.__parameters__ == (T,), UserId(3), UserId.__name__, Deep.__supertype__ is UserId,
            Pair(1).y, Row.__total__, isinstance(Works(), HasWork), isinstance(3, HasWork), decorated(1),
            U.__constraints__, T.__module__, T.__bound__.__forward_arg__, type(box) is Box)
print(run(look, Box(1)) == look(Box(1)), run(look, Box(1)))
"""
    assert script(NAMES + text).startswith("True ((<class 'int'>,), True, 3, 'UserId'")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.11's typing")
def test_type_variable_tuples(script):
    """A class over a ``TypeVarTuple`` works, and so does a generic named tuple."""
    text = """
Ts = TypeVarTuple("Ts")
class Array(Generic[Unpack[Ts]]): pass
class Named(NamedTuple, Generic[T]):
    a: T
print(run(lambda x: (x, Array.__parameters__, Array[int, str].__args__), Named(1)) ==
      (Named(1), (Ts,), (int, str)), run(lambda x: x, Ts) is Ts)
"""
    assert script(NAMES + text).strip() == "True True"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12's syntax")
def test_the_type_statement_and_its_kin(script):
    """Aliases, recursive or with parameters, and generic classes and functions in the new syntax work."""
    text = """
type Alias = dict[str, int]
type Json = dict[str, Json] | list[Json] | int
type Tree[X] = dict[X, Tree[X]]
type Many[X: (int, str), *Ys, **Z] = Callable[Z, tuple[X, *Ys]]
class Gen[X: Outer]:
    def m(self, x: X) -> X: return x
class Derived[X](Gen[X]):
    def m(self, x): return super().m(x)
def gen[X](x: X, j: Json = 3) -> X: return x
def look(made):
    assert Json.__value__.__args__[0].__args__[1] is Json and Json.__module__ == "__main__"
    assert Tree.__value__.__args__[0] is Tree.__type_params__[0] and Tree[int].__args__ == (int,)
    assert Many.__type_params__[0].__constraints__ == (int, str) and Alias.__value__ == dict[str, int]
    assert Gen.__type_params__[0].__bound__ is Outer and Derived().m(2) == gen(2) == 2
    return made
"""
    checks = [
        f"(back := run(look, {made})) is {made} or back.__code__ == {made}.__code__"
        for made in ("Json", "Tree", "Many", "Gen", "gen", "Alias")
    ]
    assert script(NAMES + text + lines([*checks, "isinstance(run(look, Derived()), Derived)"])) == ""


HINTED = """
import dataclasses, decimal, typing, xml.dom as dom
@dataclasses.dataclass
class Point:
    x: "int"
@dataclasses.dataclass
class Line:
    start: "Point"
    ends: "typing.List[typing.Optional['Point']]" = None
    price: "decimal.Decimal" = None
class Row(typing.NamedTuple):
    point: "Point"
class Table(typing.TypedDict):
    point: "Point"
Named = "Point"
def function(p: "Named", q: "dom.Node" = None) -> "Row": return p
def make():
    def inner(p: "Line"): return p
    return inner
inner = make()
names = lambda x: {key: getattr(value, "__name__", str(value)) for key, value in typing.get_type_hints(x).items()}
"""


@pytest.mark.parametrize("future", [False, True])
def test_names_in_string_annotations_are_there(script, future):
    """``typing.get_type_hints`` resolves on the worker what it resolves in the client, for classes and functions."""
    kinds = ["Line", "Row", "Table", "function", "inner", "Point"]
    checks = [f"run(lambda x: names({kind})) == names({kind}) == run(names, {kind})" for kind in kinds]
    assert script(HINTED + lines(checks), future=future) == ""


def test_a_dataclass_can_be_derived_from_there(script):
    """A call can define a dataclass with string annotations derived from one of the script's."""
    text = """
    import dataclasses, typing
    @dataclasses.dataclass
    class Point:
        x: int
    def work(_):
        @dataclasses.dataclass
        class Named(Point):
            name: str = "a"
            other: typing.ClassVar[int] = 1
        def inner(p: Point) -> typing.Any: return p
        hints = typing.get_type_hints(Named), typing.get_type_hints(inner)
        assert hints[0]["other"] == typing.ClassVar[int] and hints[1] == {"p": Point, "return": typing.Any}, hints
        return [field.name for field in dataclasses.fields(Named)]
    print(run(work))
    """
    assert script(text, future=True).strip() == "['x', 'name']"


def test_a_library_that_only_annotations_name_need_not_be_there(script, tmp_path):
    """Row 263: the call runs without the library; only reading the type hints raises an error."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "only_here.py").write_text("class Thing: pass\n")
    text = f"""
    import sys, typing
    sys.path.append({str(tmp_path / "elsewhere")!r})
    import only_here
    from only_here import Thing
    def work(x: "only_here.Thing", y: "Thing" = None): return x + 1
    def ask(_):
        try: return typing.get_type_hints(work)
        except NameError as error: return "NameError"
    from pywren.serialize import Serializer
    packed = Serializer().pack_call(work, [1], exclude_modules=["only_here"])
    print(run(work, 1), packed.modules, "only_here.py" in Serializer().pack_call(work, [1]).modules)
    """
    assert script(text).strip() == "2 {} True"


def test_a_changed_name_is_sent(script):
    """A function is sent again when an object that its annotation names has changed."""
    text = """
    import typing
    def f(x: "Alias"): return str(typing.get_type_hints(f)["x"])
    Alias = "int"
    print(run(f), end=" ")
    Alias = "str"
    print(run(f))
    """
    assert script(text).strip() == "<class 'int'> <class 'str'>"
