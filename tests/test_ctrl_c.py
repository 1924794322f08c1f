"""Ctrl-C, in real programs: once is enough, and what runs on this machine ends with the script."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from executors import Presence

WAIT = 60.0

_START = """
    import json, os, sys, time, pywren

    def held(address):
        import socket, time
        connection = socket.create_connection(address)
        time.sleep(600)

    def both(results):
        return len(results)

    addresses = [tuple(json.loads(sys.argv[1]))] * 5
    pwex = pywren.local_executor()
"""

WAITS = {
    "get_all_results": "pywren.get_all_results(pwex.map(held, addresses))",
    "wait": "pywren.wait(pwex.map(held, addresses))",
    "any": "pywren.wait(pwex.map(held, addresses), return_when=pywren.ANY_COMPLETED)",
    "as_completed": "list(pywren.as_completed(pwex.map(held, addresses)))",
    "imap": "list(pwex.imap(held, addresses))",
    "imap_unordered": "list(pwex.imap_unordered(held, addresses, window=4))",
    "with imap": """
        with pwex.imap(held, addresses) as results:
            time.sleep(600)
    """,
    "result": "[future.result() for future in pwex.map(held, addresses)]",
    "exception": "pwex.map(held, addresses)[-1].exception(500)",
    "reduce": "pwex.reduce(both, pwex.map(held, addresses)).result()",
    "map of futures": "pywren.wait(pwex.map(both, [[pwex.call_async(held, addresses[0])]]))",
    "PoolExecutor": "list(pywren.PoolExecutor(pwex).map(held, addresses))",
    "with PoolExecutor": """
        with pywren.PoolExecutor(pwex) as pool:
            list(pool.map(held, addresses))
    """,
    "end of with PoolExecutor": """
        with pywren.PoolExecutor() as pool:
            pool.submit(held, addresses[0])
    """,
    "end of with": """
        with pwex:
            pwex.map(held, addresses)
    """,
    "in with": """
        with pwex:
            futures = pwex.map(held, addresses)
            time.sleep(600)
    """,
    "wait in with": """
        with pwex:
            pywren.wait(pwex.map(held, addresses))
    """,
    "own code": "futures = pwex.map(held, addresses); time.sleep(600)",
    "joblib": """
        import joblib, pywren.joblib
        with joblib.parallel_config(backend="pywren"):
            joblib.Parallel(n_jobs=2)(joblib.delayed(held)(one) for one in addresses)
    """,
    "two executors": "more = pywren.local_executor().map(held, addresses); pywren.wait(pwex.map(held, addresses))",
}


@pytest.fixture
def presence():
    """Return a server to which running calls connect."""
    with Presence() as made:
        yield made


@contextlib.contextmanager
def program(script, presence, tmp_path, *options, first="", **kwargs):
    """Run a program with two processes on this machine, whose calls ``held`` connect to ``presence``."""
    text = f"{first}\n{textwrap.dedent(_START)}{textwrap.dedent(script)}"
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "PYWREN_LOCAL_PROCESSES": "2",
        "PYWREN_HOME": str(tmp_path),
    }
    command = [sys.executable, *options, "-c", text, json.dumps(presence.address)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kwargs
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def press_ctrl_c(process):
    """Send SIGINT to a program whose main thread sleeps."""
    wait_until_idle(process)
    process.send_signal(signal.SIGINT)


def wait_until_idle(process):
    """Wait until the main thread of a program sleeps.

    A signal may come between the last time that Python looks for one and the system call in which the thread sleeps.
    Python notices it only when the call has ended. A thread that still wakes up after 10 s does so all the time, as
    joblib's does, and notices a signal soon. ``client/test_ctrl_c_at_any_point.py`` presses at any other time.
    """
    status, before = Path(f"/proc/{process.pid}/status"), None
    for _ in range(100):
        # The kernel counts how often the thread was switched to, also to wait for Python's global lock.
        now = re.findall(r"^(?:State|\w+_ctxt_switches):.*$", status.read_text(), re.M) if status.exists() else []
        if now == before and (not now or "S (sleeping)" in now[0]):
            return
        before = now
        time.sleep(0.1)


@pytest.mark.parametrize("script", WAITS.values(), ids=WAITS)
def test_one_ctrl_c_ends_a_script(script, presence, tmp_path):
    """The script ends with SIGINT's own status, says the exception once, and its calls are gone."""
    with program(script, presence, tmp_path) as process:
        assert presence.wait()
        press_ctrl_c(process)
        _, err = process.communicate(timeout=WAIT)
    assert process.returncode == -signal.SIGINT
    assert presence.is_over()
    assert err.count("\nKeyboardInterrupt") == 1, err
    assert "waiting for" not in err


def test_an_executor_may_be_dropped_during_ctrl_c(presence, tmp_path):
    """None of pywren's code runs where the last reference to an executor is dropped: Python ignores Ctrl-C there."""
    script = """
        pywren.get_all_results(pwex.map(abs, [1, 2]))

        def interrupt(frame, *_):
            if "pywren" in frame.f_code.co_filename:
                os.kill(os.getpid(), 2)

        sys.settrace(interrupt)
        del pwex
        sys.settrace(None)
        print("went on")
    """
    with program(script, presence, tmp_path) as process:
        out, err = process.communicate(timeout=WAIT)
    assert (out, err) == ("went on\n", "")


def test_the_terminals_ctrl_c(presence, tmp_path):
    """The terminal sends the signal to all processes in front: the script ends as with its own signal."""
    leader, follower = os.openpty()
    take_terminal = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
    )
    text = textwrap.dedent(_START) + WAITS["get_all_results"]
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", take_terminal, sys.executable, "-c", text, json.dumps(presence.address)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYWREN_HOME": str(tmp_path)},
            stdin=follower,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            assert presence.wait()
            wait_until_idle(process)
            os.write(leader, b"\x03")
            assert process.wait(WAIT) == -signal.SIGINT
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(leader)
        os.close(follower)
    assert presence.is_over()


def test_a_script_that_catches_ctrl_c_to_end(presence, tmp_path):
    """A script that ends with a status of its own ends as fast."""
    script = """
        try:
            pywren.get_all_results(pwex.map(held, addresses))
        except KeyboardInterrupt:
            sys.exit(130)
    """
    with program(script, presence, tmp_path) as process:
        assert presence.wait()
        press_ctrl_c(process)
        _, err = process.communicate(timeout=WAIT)
    assert process.returncode == 130
    assert presence.is_over()
    assert "calls were stopped because the program ended" in err or "call was stopped because" in err


def test_ctrl_c_at_the_end_of_a_script(presence, tmp_path):
    """The end waits for local calls and says so; one Ctrl-C ends them, without a traceback.

    ``atexit`` functions run, whether registered before pywren's or after, output is flushed, and ``finally`` was
    executed long before; only then the script ends with SIGINT's own status.
    """
    script = """
        import atexit
        atexit.register(lambda: exec("print('late')"))
        try:
            pwex.map(held, addresses)
        finally:
            print("finally")
    """
    with program(script, presence, tmp_path, first="import atexit; atexit.register(print, 'last')") as process:
        assert presence.wait(2)
        # On a busy machine the line may come before both processes have begun.
        assert re.fullmatch(
            r"the program is ending, but 5 calls (have not ended \(\d running, \d waiting\)|are still waiting to run): "
            r"waiting for them; press Ctrl-C to stop them\n",
            process.stderr.readline(),
        )
        press_ctrl_c(process)
        out, err = process.communicate(timeout=WAIT)
    assert err == "5 calls were stopped because the program ended\n"
    assert out.split() == ["finally", "late", "last"]
    assert process.returncode == -signal.SIGINT
    assert presence.is_over()


def test_a_program_that_goes_on(presence, tmp_path):
    """Running calls go on, the others of their map are cancelled, and the executor works."""
    script = """
        futures = pwex.map(held, addresses)
        other = pwex.call_async(abs, -7)
        try:
            futures[0].result()
        except KeyboardInterrupt:
            print([future.cancelled() for future in futures], other.cancelled(), flush=True)
        new = pwex.call_async(abs, -1)
        print([future.cancel() for future in futures], flush=True)
        print(new.result(), other.result(), flush=True)
        futures = pwex.map(held, addresses)
        print(pwex.cancel_all(), pwex.cancel_all())
        print(pwex.call_async(abs, -2).result())
    """
    with program(script, presence, tmp_path) as process:
        assert presence.wait(2)
        press_ctrl_c(process)
        out, err = process.communicate(timeout=WAIT)
    assert out.splitlines() == [
        "[False, False, True, True, True] False",
        "[True, True, True, True, True]",
        "1 7",
        "5 0",
        "2",
    ]
    stopped, in_the_way = err.splitlines()
    assert stopped.startswith(
        "stopped waiting; 3 calls that were still waiting on this machine were cancelled; "
        "2 calls are still running on this machine: "
    )
    assert stopped.endswith(
        "If the program goes on, the futures stay valid: wait for them again to collect the results, or stop the calls "
        "with cancel() or executor.cancel_all()"
    )
    assert in_the_way == (
        "2 calls of an interrupted wait still run on this machine, and the new calls may have to wait for them: "
        "executor.cancel_all() stops them"
    )
    assert process.returncode == 0


def test_a_program_that_waits_again_at_its_end(presence, tmp_path):
    """A program that makes calls after a Ctrl-C is waited for at its end, as always."""
    script = """
        try:  # the call may run, and Ctrl-C come, before map() has returned
            pywren.wait(pwex.map(held, addresses[:1]))
        except KeyboardInterrupt:
            pwex.cancel_all()
        pwex.call_async(lambda path: time.sleep(1) or open(path, "w").close(), os.environ["PYWREN_HOME"] + "/done")
    """
    with program(script, presence, tmp_path) as process:
        assert presence.wait()
        press_ctrl_c(process)
        process.communicate(timeout=WAIT)
    assert (tmp_path / "done").exists()


def test_an_interactive_session(presence, tmp_path):
    """In a session, the calls go on after Ctrl-C; its end does not wait for them."""
    with program("", presence, tmp_path, "-i", "-u", stdin=subprocess.PIPE) as process:
        process.stdin.write("futures = pwex.map(held, addresses)\npywren.wait(futures)\n")
        process.stdin.flush()
        assert presence.wait(2)
        press_ctrl_c(process)
        process.stdin.write("print([future.cancelled() for future in futures])\n")
        out, err = process.communicate(timeout=WAIT)
    assert out == "[False, False, True, True, True]\n"
    assert "2 calls were stopped because the program ended" in err
    assert presence.is_over()
