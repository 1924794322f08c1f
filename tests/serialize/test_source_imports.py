"""The imports that are found in sources and in compiled functions."""

import pytest

from pywren.serialize._imports import Import, imports_of_code, imports_of_source


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import a, b.c", [Import(("a", "b.c"))]),
        ("from a.b import c as d, e", [Import(("a.b", "a.b.c", "a.b.e"))]),
        ("from a import *", [Import(("a",))]),
        ("from . import x", [Import(("pkg.sub", "pkg.sub.x"))]),
        ("from .m import x", [Import(("pkg.sub.m", "pkg.sub.m.x"))]),
        ("from .. import x", [Import(("pkg", "pkg.x"))]),
        ("from ... import x", [Import(())]),
        ("class C:\n    import a", [Import(("a",))]),
        ("with x:\n    import a", [Import(("a",))]),
        ("def f():\n    import a", [Import(("a",), optional=True)]),
        ("async def f():\n    for x in y:\n        import a", [Import(("a",), optional=True)]),
        ("if x:\n    import a\nelse:\n    import b", [Import(("a",), optional=True), Import(("b",), optional=True)]),
        ("try:\n    import a\nexcept ImportError:\n    import b", [Import(("a",), True), Import(("b",), True)]),
        ("try:\n    import a\nfinally:\n    pass", [Import(("a",))]),
        ("try:\n    import a\nexcept KeyError:\n    pass", [Import(("a",))]),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", [Import(("b",))]),
        ("match x:\n    case 1:\n        import a", [Import(("a",), optional=True)]),
        ("importlib.import_module('a.b')\n__import__('c')", [Import(("a.b",), True), Import(("c",), True)]),
        ("'\\d'\nimport a", [Import(("a",))]),
        ("not python", []),
        ("\0", []),
    ],
)
def test_imports_of_source(source, expected):
    """Each form of import gives the names that it may load, and whether they are optional."""
    assert imports_of_source(source.encode(), "pkg.sub") == expected


def test_a_declared_encoding_is_honoured():
    """The source is decoded with the encoding that it declares."""
    source = "# coding: cp1252\nimport caf\u00e9\n".encode("cp1252")
    assert imports_of_source(source, "") == [Import(("caf\u00e9",))]


def test_imports_of_a_compiled_function():
    """A function's imports, and those of its inner functions, are found without its source."""

    def function():
        import json.decoder
        from os import path as p

        def inner():
            from . import sibling

            return sibling

        return json, p, inner

    assert imports_of_code(function.__code__, "pkg") == [
        Import(("json.decoder",)),
        Import(("os", "os.path")),
        Import(("pkg", "pkg.sibling")),
    ]


def test_a_function_that_catches_import_errors_may_do_without():
    """Bytecode does not show which try contains an import, so one handler makes all the function's imports optional."""

    def function():
        try:
            import numpy
        except ImportError:
            return None
        return numpy

    assert imports_of_code(function.__code__, "") == [Import(("numpy",), optional=True)]
