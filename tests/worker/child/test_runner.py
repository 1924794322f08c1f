"""Running tasks in a process: modules, and what is restored; with a process of its own where state is changed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pywren.exceptions import WorkerCrashedError
from pywren.worker.child.runner import exit_code, modules_digest
from pywren.worker.task import Stop, crash_failure, timeout_failure

_ROOT = Path(__file__).parents[3]


def run(script: str, *arguments: str) -> str:
    """Run a script that uses the runner, as a child would."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env={"PYTHONPATH": str(_ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_modules_are_set_aside_and_found_again(tmp_path: Path) -> None:
    """A function that runs again finds the very modules that it was loaded with."""
    script = """
        import sys
        from pywren.pickling.packed import Packed
        from pywren.worker.child.runner import FunctionSource, ShippedModules, modules_digest
        shipped = ShippedModules(sys.argv[1])
        def source(files):
            return FunctionSource(Packed(b""), files, modules_digest(files), None)
        one = source({"mine.py": b"x = 1", "deep/inner.py": b"y = 1"})
        two = source({"mine.py": b"x = 2"})
        assert shipped.activate(one) and not shipped.activate(one)
        import mine, deep.inner
        first = mine
        shipped.activate(two)
        assert "mine" not in sys.modules and "deep" not in sys.modules and "deep.inner" not in sys.modules
        import mine
        assert mine.x == 2
        shipped.activate(one)
        assert sys.modules["mine"] is first and "deep.inner" in sys.modules
        shipped.activate(source({}))
        assert "mine" not in sys.modules
        assert not [entry for entry in sys.path if entry.startswith(sys.argv[1])]
    """
    run(script, str(tmp_path))


def test_a_function_is_loaded_with_its_modules(tmp_path: Path) -> None:
    """Loading fails with the user's own exception, which becomes the outcome."""
    script = """
        import sys
        from pywren.pickling.packed import dumps
        from pywren.pickling.packed_exceptions import load_exception
        from pywren.worker.child.runner import TaskRunner
        runner = TaskRunner(sys.argv[1], sys.argv[1] + "/scratch")
        def load():
            raise ImportError("no such module")
        report = runner.run(load, dumps(1), (), {})
        assert report.success is False and report.exec_time == 0, report
        assert isinstance(load_exception(report.body), ImportError)
        report = runner.run(lambda: len, dumps("four"), (), {"EXTRA": "x"})
        assert report.success and report.body.data == dumps(4).data
        import os
        assert os.environ["EXTRA"] == "x" and os.getcwd().endswith("scratch")
        runner.place.leave((sys.stdout, sys.stderr))
        assert "EXTRA" not in os.environ
    """
    run(script, str(tmp_path))


def test_a_scratch_directory_that_cannot_be_used_again(tmp_path: Path) -> None:
    """A call that removes its directory, or fills it, leaves an empty one to the next."""
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
    run(script, str(tmp_path))


def test_the_digest_tells_modules_apart() -> None:
    """Equal modules have equal digests, in any order; other paths or contents another; none an empty one."""
    assert modules_digest({}) == ""
    assert modules_digest({"a": b"1", "b": b"2"}) == modules_digest({"b": b"2", "a": b"1"})
    assert len({modules_digest(files) for files in ({"a": b"12"}, {"a1": b"2"}, {"a": b"1", "b": b"2"})}) == 3


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SystemExit(), 0),
        (SystemExit(0), 0),
        (SystemExit(-1), 255),
        (SystemExit(300), 44),
        (SystemExit("text"), 1),
        (GeneratorExit(), 1),
    ],
)
def test_exit_codes_are_pythons(error: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    """A process that ends with an exception has the exit code that Python gives it."""
    assert exit_code(error) == code
    printed = capsys.readouterr().err
    assert ("text" in printed) == (error.args == ("text",))
    assert ("GeneratorExit" in printed) == isinstance(error, GeneratorExit)


def test_failures_are_errors_with_the_words_that_programs_match() -> None:
    """Texts of compat.md, exit codes, and the last lines of output."""
    crash = crash_failure(3, "one\ntwo\n", "\n".join(map(str, range(100)))).error("set", "00001")
    assert type(crash) is WorkerCrashedError
    assert crash.args[1] == 3
    assert "non-zero return code: 3" in str(crash)
    assert "  99" in str(crash)
    assert "  12\n" not in str(crash)
    assert "two" in str(crash)
    assert "ran out of time" in str(timeout_failure(280).error("set", "00001"))
    assert "280 s" in str(timeout_failure(280).error("set", "00001"))
    assert "SIGTERM" in crash_failure(-15).message
    assert "memory" not in crash_failure(-15).message
    assert "memory" in crash_failure(-9).message
    assert "unknown" in crash_failure(None).message


def test_a_stop_calls_its_listener_once() -> None:
    """Whoever listens is told once, also when it was asked before, and never after it stopped listening."""
    told: list[str] = []
    stop = Stop()
    stop.listen(lambda: told.append("first"))
    stop.listen(None)
    stop.set()
    assert stop.is_set()
    stop.set()
    assert told == []
    stop.listen(lambda: told.append("late"))
    assert told == ["late"]
