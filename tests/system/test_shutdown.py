"""The end of a program that holds calls back, with a fake in place of the driver."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

WAIT = 60.0

_FAKE = """
    import atexit, os, signal, sys, threading, time
    from pywren.system import shutdown

    class Holder:
        def __init__(self):
            self.invoked = threading.Event()

        def held_back(self):
            return None if self.invoked.is_set() else "7 calls are held back: the account's concurrency is 10"

        def wait_until_invoked(self, timeout):
            return self.invoked.wait(timeout)

        def invoke_later(self):
            # On a daemon thread, as the driver does; it invokes when the test says so.
            def work():
                if sys.stdin.readline():  # empty: the test has closed the pipe, and never says so
                    print("invoked", flush=True)
                    self.invoked.set()
            threading.Thread(target=work, daemon=True).start()

    holder = Holder()
    shutdown.wait_for(holder)
"""


@contextlib.contextmanager
def program(script: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program that has a fake which holds 7 calls back, and kill it at the end."""
    client = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(_FAKE) + textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with client:
        try:
            yield client
        finally:
            client.kill()  # a program that hangs must not make the test hang


def test_the_end_waits_for_calls_that_are_held_back() -> None:
    """The program stays until they are invoked, says so after 2 s, and only then runs other functions of ``atexit``."""
    with program("""
        holder.invoke_later()
        atexit.register(print, "the program's own atexit function")
    """) as client:
        assert client.stderr is not None
        assert "the program is ending, but 7 calls are held back: the account's" in client.stderr.readline()
        out, err = client.communicate("go\n", timeout=WAIT)
    assert out.splitlines() == ["invoked", "the program's own atexit function"]
    assert (client.returncode, err) == (0, "")


def test_ctrl_c_ends_the_wait_for_calls_that_are_held_back() -> None:
    """One Ctrl-C is enough; a line says which calls are given up, and ``atexit`` functions still run."""
    with program("""
        holder.invoke_later()
        atexit.register(print, "the program's own atexit function")
    """) as client:
        assert client.stderr is not None
        assert "press Ctrl-C to stop" in client.stderr.readline()
        client.send_signal(signal.SIGINT)
        out, err = client.communicate(timeout=WAIT)
    assert out == "the program's own atexit function\n"
    assert err == (
        "the program was interrupted, and does not wait any more: 7 calls are held back: the account's "
        "concurrency is 10\n"
    )
    assert client.returncode == -signal.SIGINT


@pytest.mark.parametrize(
    "script",
    ["raise KeyboardInterrupt", "shutdown.interrupt()", "shutdown.interrupt(); raise KeyboardInterrupt"],
)
def test_a_program_that_ctrl_c_ends_waits_for_nothing(script: str) -> None:
    """After a Ctrl-C the end does not wait, also when the program has caught the exception."""
    with program(script) as client:
        _, err = client.communicate(timeout=WAIT)
    assert err.count("does not wait any more: 7 calls") == 1
    assert "waiting" not in err


@pytest.mark.parametrize(
    "script",
    [
        "shutdown.interrupt(); shutdown.go_on(); holder.invoke_later()",  # used pywren again after the Ctrl-C
        "sys.ps1 = '> '; sys.last_value = KeyboardInterrupt(); holder.invoke_later()",  # an old one of a session
        "sys.last_value = ValueError(); holder.invoke_later()",
    ],
)
def test_a_program_that_went_on_after_ctrl_c_waits(script: str) -> None:
    """A Ctrl-C from which the program has recovered does not count."""
    with program(script) as client:
        out, err = client.communicate("go\n", timeout=WAIT)
    assert out == "invoked\n"
    assert "does not wait any more" not in err


@pytest.mark.parametrize("script", ["holder.invoked.set()", "del holder"])
def test_nothing_held_back_costs_nothing(script: str) -> None:
    """A holder that holds nothing back, or that is gone, is not waited for."""
    with program(script) as client:
        assert client.communicate(timeout=WAIT) == ("", "")


def test_calls_are_refused_while_held_ones_are_waited_for() -> None:
    """New calls would prolong the wait, and nothing would wait for them; threads may make them until then."""
    with program("""
        def late():
            while not shutdown._has_begun:
                time.sleep(0.01)
            try:
                shutdown.require_running()
            except RuntimeError as error:
                print(error, flush=True)
            holder.invoked.set()
        threading.Thread(target=late, daemon=True).start()
    """) as client:
        out, err = client.communicate(timeout=WAIT)
    assert "cannot schedule new futures after interpreter shutdown" in out
    assert err == ""


def test_threads_that_run_go_on_while_held_calls_are_waited_for() -> None:
    """The driver's threads work until the wait is over, also where Python starts no others any more (3.12)."""
    with program("""
        def late():
            while not shutdown._has_begun:
                time.sleep(0.01)
            time.sleep(0.1)
            holder.invoked.set()
        threading.Thread(target=late, daemon=True).start()
    """) as client:
        assert client.communicate(timeout=WAIT) == ("", "")


@pytest.mark.parametrize("order", ["first, second", "second, first"])
def test_calls_that_pass_from_one_holder_to_another(order: str) -> None:
    """A callset's calls may go to a worker of this machine, which is then waited for whichever was asked first."""
    with program(f"""
        holder.invoked.set()
        first, second = Holder(), Holder()
        second.invoked.set()
        shutdown._holders = [{order}]

        def late():
            while not shutdown._has_begun:
                time.sleep(0.01)
            time.sleep(0.1)
            second.invoked.clear()
            first.invoked.set()
            time.sleep(0.1)
            print("invoked", flush=True)
            second.invoked.set()
        threading.Thread(target=late, daemon=True).start()
    """) as client:
        assert client.communicate(timeout=WAIT) == ("invoked\n", "")


def test_a_process_of_multiprocessing_waits_too() -> None:
    """Such a process skips ``atexit`` functions, so a finalizer waits."""
    with program("""
        import multiprocessing
        holder.invoked.set()

        def work():
            shutdown.wait_for(child)
            threading.Timer(0.5, lambda: (print("invoked", flush=True), child.invoked.set())).start()

        child = Holder()
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        sys.exit(process.exitcode)
    """) as client:
        out, err = client.communicate(timeout=WAIT)
    assert (client.returncode, out, err) == (0, "invoked\n", "")


@pytest.mark.parametrize("end", ["sys.exit()", "os._exit(0)"])
def test_a_forked_child_waits_for_nothing(end: str) -> None:
    """The calls that the parent holds back are the parent's."""
    with program(f"""
        if os.fork() == 0:
            {end}
        os.wait()
        print("the child has ended", flush=True)
        holder.invoked.set()
    """) as client:
        out, _ = client.communicate(timeout=WAIT)
    assert out == "the child has ended\n"
