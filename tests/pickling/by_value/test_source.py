"""Source lines of functions: tracebacks and ``inspect`` show them on the worker and in the client."""

from __future__ import annotations

import inspect
import linecache
import subprocess
import sys
import textwrap
import traceback

import pytest

from pywren.pickling.by_value import _source

PROGRAM = """
import inspect, traceback
import pywren

def divide(x):
    "What it does."
    # a comment
    return 1 / x  # the line

class Tool:
    @staticmethod
    def work(x):
        return [1 / x  # the second line
                for _ in "a"]

last = lambda x: 1 / x  # the third line

def main():
    with pywren.local_executor() as pwex:
        for function in (divide, Tool.work, last):
            error = pwex.map(function, [0])[0].exception()
            print("".join(traceback.format_exception(error)))
        print(pwex.map(lambda _: inspect.getsource(divide), [0])[0].result())
main()
"""
SHOWN = ("# the line", "# the second line", "# the third line", "# a comment")


def output(*command: str, text: str | None = None) -> str:
    """Return what a program prints."""
    done = subprocess.run([sys.executable, *command], input=text, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_shown(printed: str) -> None:
    """Check that every expected line is shown."""
    assert [line for line in SHOWN if line not in printed] == []
    assert "<dynamic-code>" not in printed


def test_a_script_shows_its_lines(tmp_path):
    """For functions, methods and lambdas of a script, tracebacks have file and line, and ``getsource`` has the text."""
    path = tmp_path / "my_script.py"
    path.write_text(PROGRAM, encoding="utf-8")
    printed = output(str(path))
    assert_shown(printed)
    assert f'File "{path}", line 8, in divide' in printed


def test_a_module_run_by_name_shows_its_lines(tmp_path, monkeypatch):
    """``python -m`` works like a script."""
    (tmp_path / "my_module.py").write_text(PROGRAM, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert_shown(output("-m", "my_module"))


def test_cells_of_ipython_show_their_lines(tmp_path):
    """IPython cells are shown with the cell's name and lines, although no file contains them."""
    code = "\n".join(
        [
            "from IPython.core.interactiveshell import InteractiveShell",
            "shell = InteractiveShell.instance()",
            f"shell.run_cell({PROGRAM[: PROGRAM.index('def main')]!r}).raise_error()",
            f"shell.run_cell({PROGRAM[PROGRAM.index('def main') :]!r}).raise_error()",
        ]
    )
    path = tmp_path / "shell.py"
    path.write_text(code, encoding="utf-8")
    printed = output(str(path))
    assert_shown(printed)


def test_code_with_lines_in_linecache_shows_them(tmp_path):
    """Code that was executed from a text in ``linecache`` has its lines: attrs, doctest and notebooks do this."""
    path = tmp_path / "runs_text.py"
    path.write_text(
        "import linecache\n"
        f"text = {PROGRAM!r}\n"
        "linecache.cache['<the text>'] = len(text), None, text.splitlines(True), '<the text>'\n"
        "exec(compile(text, '<the text>', 'exec'))\n",
        encoding="utf-8",
    )
    printed = output(str(path))
    assert_shown(printed)
    assert 'File "<the text>", line 8, in divide' in printed


def test_a_doctest_shows_its_lines(tmp_path):
    """A function of a doctest has its source line, also on the worker."""
    path = tmp_path / "documented.py"
    path.write_text(
        textwrap.dedent(
            '''
            """
            >>> import inspect, pywren, traceback
            >>> pwex = pywren.local_executor()
            >>> def f(x):
            ...     return 1 / x  # shown
            >>> "# shown" in "".join(traceback.format_exception(pwex.map(f, [0])[0].exception()))
            True
            >>> "# shown" in pwex.map(lambda x: inspect.getsource(f), [1])[0].result()
            True
            """
            '''
        ),
        encoding="utf-8",
    )
    assert output("-m", "doctest", str(path)) == ""


def test_code_without_source_keeps_its_file_and_line(there):
    """Row 260: code from a text that nobody kept has its file name and line number, but no source line."""
    space = {}
    exec(compile("\n\ndef f(x):\n    return 1 / x\n", "<not kept>", "exec"), space)
    with pytest.raises(ZeroDivisionError) as caught:
        there(space["f"], 0)
    assert 'File "<not kept>", line 4, in f' in "".join(traceback.format_exception(caught.value))


def test_only_the_lines_of_the_function_are_sent():
    """The rest of a function's file is not sent."""
    secret = "what stands beside it"  # noqa: F841

    def function(x):
        text = """
not indented
"""
        return text, max(
            x,
            x,
        )  # its last line

    sent = _source.source_of(function.__code__, globals())
    assert sent.strip().startswith("def function(x):")
    assert "# its last line" in sent
    assert "beside" not in sent
    assert sent == inspect.getsource(function)


def test_the_lines_of_another_version_do_not_count_on_a_worker(monkeypatch):
    """Row 262: a file of the same name with other lines does not hide what was sent; the client shows its own file."""
    monkeypatch.setitem(linecache.cache, "<other>", (8, None, ["old\n", "older\n"], "<other>"))
    code = compile("1 / 0", "<other>", "exec")
    _source.remember_source(code, "new\n", replace=False)
    assert linecache.getlines("<other>") == ["old\n", "older\n"]
    _source.remember_source(code, "new\n", replace=True)
    assert linecache.getlines("<other>") == ["new\n", "older\n"]
    linecache.checkcache()
    assert linecache.getline("<other>", 1) == "new\n"


def test_lines_are_kept_for_so_many_files_only(monkeypatch):
    """The oldest lines are dropped, and those of very long files are not kept at all."""
    monkeypatch.setattr(_source, "_MAX_FILES", 3)
    monkeypatch.setattr(_source, "_kept", {})
    for number in range(5):
        _source.remember_source(compile("1", f"<kept {number}>", "exec"), f"line {number}\n", replace=True)
    kept = [linecache.getline(f"<kept {number}>", 1) for number in range(5)]
    assert kept == ["", "", "line 2\n", "line 3\n", "line 4\n"]
    far = compile("\n" * 300_000 + "1", "<far>", "exec")
    _source.remember_source(far.replace(co_firstlineno=300_001), "line\n", replace=True)
    assert linecache.getlines("<far>") == []
    for number in range(2, 5):
        del linecache.cache[f"<kept {number}>"]
