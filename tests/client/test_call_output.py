"""``show_output=True``: what calls print, with their ids, on every kind of executor."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time

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


def shown(capsys, count):
    """Return the lines with an id in both streams when all callbacks have run; ``run_jobs`` shows lines without one.

    Args:
        count: how many lines there must be: a program that has waited may go on before the callbacks are queued.
    """
    found = [], []

    def have_come():
        assert not callbacks.finish(executors.WAIT)
        for lines, text in zip(found, capsys.readouterr(), strict=True):
            lines.extend(line for line in text.splitlines() if line.startswith("["))
        return sum(map(len, found)) >= count

    assert wait_until(have_come)
    return [sorted(lines) for lines in found]


def test_lines_come_with_the_id_of_their_call(ready, capsys):
    """Of calls that return and calls that raise; the program need not ask for any result."""
    futures = ready.map(speaks, [1, 2], show_output=True)
    pywren.wait(futures)
    label = f"[{futures[0].callset_id[:8]}/"
    out, err = shown(capsys, 6)
    assert out == [f"{label}00000] out 1", f"{label}00001] out 2"]
    assert err == [
        f"{label}00000] and two of 1",
        f"{label}00000] one",
        f"{label}00001] and two of 2",
        f"{label}00001] one",
    ]
    assert futures[0].result() == 1
    assert futures[0].run_status["stdout"] == "out 1\n"


def test_lines_appear_while_a_call_runs(tmp_path_factory, capsys):
    """In memory on this machine; a line that has no end yet appears when the call has ended."""

    def speaks_in_between(address):
        print("before\nbegun: ", end="", flush=True)
        hostile.waits_to_go_on(address)
        print("over", flush=True)
        print("no end", end="", flush=True)

    out = ""
    with executors.make("local", tmp_path_factory.mktemp("home")) as made, executors.Presence() as presence:
        future = made.executor.call_async(speaks_in_between, presence.address, show_output=True)
        assert presence.wait()
        deadline = time.monotonic() + executors.WAIT
        while not out and time.monotonic() < deadline:
            time.sleep(0.001)
            out = capsys.readouterr().out
        label = f"[{future.callset_id[:8]}/00000] "
        assert out == f"{label}before\n"
        presence.let_go()
        future.result(executors.WAIT)
        assert capsys.readouterr().out == f"{label}begun: over\n{label}no end\n"
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


def test_a_single_call(ready, capsys):
    """``call_async`` takes the option too."""
    future = ready.executor.call_async(print, "hello", show_output=True)
    ready.run()
    assert future.result() is None
    assert shown(capsys, 1) == [[f"[{future.callset_id[:8]}/{future.call_id}] hello"], []]


def test_nothing_is_shown_unless_asked_for(ready, capsys):
    """Silent calls and calls that are cancelled before they print show nothing either."""
    pywren.wait(ready.map(speaks, [1]))
    silent = ready.map(abs, [1], show_output=True)
    pywren.wait(silent)
    with executors.Presence() as presence:
        cancelled = ready.executor.call_async(speaks_later, presence.address, show_output=True)
        assert cancelled.cancel()
        pywren.wait([cancelled])
        # Within the block: its end lets the call go on, whose process may not be killed yet.
        assert shown(capsys, 0) == [[], []]


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
