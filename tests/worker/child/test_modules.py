"""Modules that arrive with functions: one set can be imported at a time, and digests tell them apart."""

from __future__ import annotations

from pathlib import Path

from child_processes import run_script

from pywren.worker.child.modules import modules_digest


def test_modules_are_set_aside_and_found_again(tmp_path: Path) -> None:
    """A function that runs again uses the same modules that it was loaded with."""
    script = """
        import sys
        from pywren.pickling.packed import Packed
        from pywren.worker.child.modules import ShippedModules, modules_digest
        from pywren.worker.task import Function
        shipped = ShippedModules(sys.argv[1])
        def source(files):
            return Function("", Packed(b""), files), modules_digest(files)
        one = source({"mine.py": b"x = 1", "deep/inner.py": b"y = 1"})
        two = source({"mine.py": b"x = 2"})
        assert shipped.activate(*one) and not shipped.activate(*one)
        import mine, deep.inner
        first = mine
        shipped.activate(*two)
        assert "mine" not in sys.modules and "deep" not in sys.modules and "deep.inner" not in sys.modules
        import mine
        assert mine.x == 2
        shipped.activate(*one)
        assert sys.modules["mine"] is first and "deep.inner" in sys.modules
        shipped.activate(*source({}))
        assert "mine" not in sys.modules
        assert not [entry for entry in sys.path if entry.startswith(sys.argv[1])]
    """
    run_script(script, str(tmp_path))


def test_the_digest_tells_modules_apart() -> None:
    """Equal modules have equal digests, in any order; other paths or contents differ; no modules give an empty one."""
    assert modules_digest({}) == ""
    assert modules_digest({"a": b"1", "b": b"2"}) == modules_digest({"b": b"2", "a": b"1"})
    assert len({modules_digest(files) for files in ({"a": b"12"}, {"a1": b"2"}, {"a": b"1", "b": b"2"})}) == 3
