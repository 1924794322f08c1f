"""``ShippedModules``: which modules of the user a call can import."""

from __future__ import annotations

import sys

import pytest
from child_processes import run_script

from pywren.pickling.packed import dumps
from pywren.worker.child.modules import ShippedModules
from pywren.worker.task import Function


def function(name: str) -> Function:
    """Return a function with one module."""
    return Function(name, dumps(abs), {f"{name}.py": b"x = 1\n"})


def test_modules_that_cannot_be_written_take_no_others_along(tmp_path, monkeypatch):
    """After a call whose modules did not fit on the disk, an earlier function finds its own modules again."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "modules-full").touch()  # a file where the directory would be
    modules = ShippedModules(str(tmp_path))
    assert modules.activate(function("first"), "first")
    with pytest.raises(OSError, match="modules-full"):
        modules.activate(function("second"), "full")
    assert modules.activate(function("first"), "first")
    assert modules.directory in sys.path


def test_modules_can_be_listed_while_a_destructor_imports(tmp_path):
    """Before Python 3.12 the garbage collector may run at any allocation, and with it a destructor that imports."""
    script = """
        import gc, sys, types
        from pywren.worker.child.modules import _modules_in
        class Imports:
            def __init__(self):
                self.itself = self
            def __del__(self):
                name = f"imported_{len(sys.modules)}"
                sys.modules[name] = types.ModuleType(name)
        gc.set_threshold(1)
        for _ in range(200):
            for _ in range(20):
                Imports()
            assert _modules_in("/no/such/directory/") == []
    """
    run_script(script, str(tmp_path))
