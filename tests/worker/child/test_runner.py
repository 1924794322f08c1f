"""Running tasks in a process: modules, and restored state; state is changed in a separate process."""

from __future__ import annotations

from pathlib import Path

from child_processes import run_script


def test_a_function_is_loaded_with_its_modules(tmp_path: Path) -> None:
    """If loading fails, the user's own exception becomes the outcome."""
    script = """
        import sys
        from pywren.pickling.packed import dumps
        from pywren.pickling.packed_exceptions import load_exception
        from pywren.worker.child.runner import TaskRunner
        runner = TaskRunner(sys.argv[1], sys.argv[1] + "/scratch")
        def load():
            raise ImportError("no such module")
        report = runner.run(load, dumps(1), (), {})
        assert report.success is False and not report.begun and report.info["exec_time"] == 0, report
        assert isinstance(load_exception(report.body), ImportError)
        report = runner.run(lambda: len, dumps("four"), (), {"EXTRA": "x"})
        assert report.success and report.body.data == dumps(4).data
        import os
        assert os.environ["EXTRA"] == "x" and os.getcwd().endswith("scratch")
        runner.place.leave((sys.stdout, sys.stderr))
        assert "EXTRA" not in os.environ
    """
    run_script(script, str(tmp_path))


def test_a_scratch_directory_that_cannot_be_used_again(tmp_path: Path) -> None:
    """A call that removes or fills its directory leaves an empty one for the next."""
    script = """
        import os, shutil, sys
        from pywren.pickling.packed import dumps
        from pywren.worker.child.runner import TaskRunner
        runner = TaskRunner(sys.argv[1], sys.argv[1] + "/scratch")
        def spoil(how):
            if how == "remove":
                shutil.rmtree(os.getcwd())
            else:
                os.makedirs("a/b")
                os.chdir("a")
        for how in ("remove", "fill", "remove"):
            assert runner.run(lambda: spoil, dumps(how), (), {}).success
            runner.place.leave((sys.stdout, sys.stderr))
            assert os.listdir(".") == [] and os.path.isdir(os.getcwd())
    """
    run_script(script, str(tmp_path))
