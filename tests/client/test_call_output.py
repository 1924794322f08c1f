"""``show_output=True``: what calls print, with their ids, on every kind of executor."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import executors
import hostile
import pytest
from child_processes import complaints, wait_until

import pywren
from pywren.system.callbacks import callbacks
from pywren.worker.parent.output import LabelledLines


@pytest.fixture(scope="module", params=executors.KINDS)
def ready(request, tmp_path_factory):
    """Return an executor of each kind."""
    with executors.make(request.param, tmp_path_factory.mktemp("home")) as made:
        yield made


def speaks(x):
    import sys

    print("out", x)
    print(f"one\nand two of {x}", file=sys.stderr)
    if x == 2:
        raise LookupError(x)
    return x


def speaks_later(address):
    hostile.waits_to_go_on(address)
    print("hello")


class Screen:
    """Stands in for ``sys.stdout`` or ``sys.stderr``.

    One thread may read it while another writes. ``capsys`` loses what is written while ``readouterr`` empties it.
    """

    def __init__(self):
        self._pieces = []

    def write(self, text):
        self._pieces.append(text)
        return len(text)

    def flush(self):
        pass

    @property
    def text(self):
        return "".join(self._pieces)


@contextmanager
def screens():
    """Have a screen for each stream of this process."""
    out, err = Screen(), Screen()
    with redirect_stdout(out), redirect_stderr(err):
        yield out, err


def shown(screens, future, count):
    """Return what both streams show of the callset of a future, when all callbacks have run.

    Callbacks may show lines of earlier tests meanwhile, and ``run_jobs`` shows lines without an id.

    Args:
        count: how many lines there must be: a program that has waited may go on before the callbacks are queued.
    """
    label = f"[{future.callset_id[:8]}/"

    def lines():
        assert not callbacks.finish(executors.WAIT)
        return [sorted(line for line in screen.text.splitlines() if line.startswith(label)) for screen in screens]

    assert wait_until(lambda: sum(map(len, lines())) >= count)
    return lines()


def test_lines_come_with_the_id_of_their_call(ready):
    """Of calls that return and calls that raise; the program need not ask for any result."""
    with screens() as seen:
        futures = ready.map(speaks, [1, 2], show_output=True)
        pywren.wait(futures)
        out, err = shown(seen, futures[0], 6)
    label = f"[{futures[0].callset_id[:8]}/"
    assert out == [f"{label}00000] out 1", f"{label}00001] out 2"]
    assert err == [
        f"{label}00000] and two of 1",
        f"{label}00000] one",
        f"{label}00001] and two of 2",
        f"{label}00001] one",
    ]
    assert futures[0].result() == 1
    assert futures[0].run_status["stdout"] == "out 1\n"


def test_lines_appear_while_a_call_runs(tmp_path_factory):
    """In memory on this machine; a line that has no end yet appears when the call has ended."""

    def speaks_in_between(address):
        print("before\nbegun: ", end="", flush=True)
        hostile.waits_to_go_on(address)
        print("over", flush=True)
        print("no end", end="", flush=True)

    with (
        executors.make("local", tmp_path_factory.mktemp("home")) as made,
        executors.Presence() as presence,
        screens() as seen,
    ):
        future = made.executor.call_async(speaks_in_between, presence.address, show_output=True)
        assert presence.wait()
        label = f"[{future.callset_id[:8]}/00000] "
        assert shown(seen, future, 1) == [[f"{label}before"], []]
        presence.let_go()
        future.result(executors.WAIT)
        assert shown(seen, future, 3) == [[f"{label}before", f"{label}begun: over", f"{label}no end"], []]
    assert future.run_status["stdout"] == "before\nbegun: over\nno end"


def test_a_line_without_an_end_does_not_pile_up():
    """A line that never ends is passed on in pieces."""
    found = []
    lines = LabelledLines(lambda stream, text: found.append((stream, text)))
    lines("stdout", "as it comes")
    lines.begin("[a]")
    for _ in range(100):
        lines("stdout", "x" * 1000)
    lines("stderr", "rest")
    lines.begin("")
    assert found[0] == ("stdout", "as it comes")
    assert len(found) == 4
    assert "".join(text for stream, text in found if stream == "stdout").count("x") == 100_000
    assert found[-1] == ("stderr", "[a] rest\n")


def test_a_single_call(ready):
    """``call_async`` takes the option too."""
    with screens() as seen:
        future = ready.executor.call_async(print, "hello", show_output=True)
        ready.run()
        assert future.result() is None
        assert shown(seen, future, 1) == [[f"[{future.callset_id[:8]}/{future.call_id}] hello"], []]


def test_nothing_is_shown_unless_asked_for(ready):
    """Silent calls and calls that are cancelled before they print show nothing either."""
    with screens() as seen:
        unasked = ready.map(speaks, [1])
        pywren.wait(unasked)
        silent = ready.map(abs, [1], show_output=True)
        pywren.wait(silent)
        with executors.Presence() as presence:
            cancelled = ready.executor.call_async(speaks_later, presence.address, show_output=True)
            assert cancelled.cancel()
            pywren.wait([cancelled])
            # Within the block: its end lets the call go on, whose process may not be killed yet.
            for future in (unasked[0], silent[0], cancelled):
                assert shown(seen, future, 0) == [[], []]


def test_a_program_that_ends_has_shown_everything():
    """Also if it never waits, also beside ``PYWREN_SHOW_OUTPUT``, and each line once."""
    program = """
        import os, pywren
        os.environ["PYWREN_SHOW_OUTPUT"] = "1"
        pywren.local_executor().map(print, range(20), show_output=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120, check=True
    )
    assert [line.partition("] ")[2] for line in sorted(done.stdout.splitlines())] == [str(x) for x in range(20)]
    assert complaints(done.stderr) == ""


def test_a_closed_stream_hurts_nobody(ready, monkeypatch):
    """Results come although the program has no standard output any more."""
    monkeypatch.setattr(sys, "stdout", None)
    assert pywren.get_all_results(ready.map(print, [1], show_output=True)) == [None]
    assert not callbacks.finish(executors.WAIT)
