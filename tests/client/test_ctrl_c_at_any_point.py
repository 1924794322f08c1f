"""Ctrl-C at every point of a call's way into the pool of this machine at which Python handles signals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

WAIT = 240.0

# Python handles signals when a function begins, and when one that is written in C has returned. These are events of a
# profile function, which can raise there. (The end of a loop's body is another such point, but not such an event.)
_PROGRAM = """
    import faulthandler, json, os, sys, threading, time
    import pywren

    faulthandler.dump_traceback_later(200, exit=True)
    pwex = pywren.local_executor()
    pywren.get_all_results(pwex.map(abs, range(10)))
    pool = pwex._dispatcher._use.pool

    def is_on_the_way(frame):
        name = frame.f_code.co_filename
        return "/pywren/worker/parent/" in name or name.endswith(("client/local_calls.py", "client/call_state.py"))

    def is_of_destructor(frame):
        # Python only prints what a destructor raises.
        while frame is not None:
            if frame.f_code.co_name == "__del__" or frame.f_code.co_filename.endswith("weakref.py"):
                return True
            frame = frame.f_back
        return False

    def interrupted(verb, number):
        count, where = 0, None

        def profile(frame, event, argument):
            nonlocal count, where
            # threading.py is on the way, too: much there that looks like one step is a function.
            caller = frame.f_back if frame.f_code.co_filename == threading.__file__ else frame
            if event not in ("call", "c_return") or caller is None or not is_on_the_way(caller):
                return
            if getattr(argument, "__name__", "") == "__enter__" or is_of_destructor(frame):
                return
            count += 1
            if count == number:
                where = f"{caller.f_code.co_filename.rpartition('/pywren/')[2]}:{caller.f_lineno}"
                raise KeyboardInterrupt

        sys.setprofile(profile)
        try:
            verb()
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(None)
        return where

    def problem():
        try:
            if pwex.map(abs, [-7])[0].result(30) != 7:
                return "the next map returned something else"
        except pywren.WaitTimeoutError:
            return "the next map does not end"
        until = time.monotonic() + 30
        while pool._ledger.outstanding or any(origin.outstanding() for origin in pwex._origins()):
            if time.monotonic() > until:
                return f"{pool._ledger.outstanding} calls do not end"
            time.sleep(0.001)
        return None

    def map_some():
        return pwex.map(abs, range(-5, 0))

    def submit_some():
        return [pwex.submit(abs, number) for number in range(3)]

    def cancel_some():
        for future in map_some():
            future.cancel()

    def follow():
        return pwex.submit(abs, pwex.submit(abs, -1))

    verb, problems, points = globals()[sys.argv[1]], {}, 0
    while True:
        where = interrupted(verb, points + 1)
        if where is None:
            break
        points += 1
        if (found := problem()) is not None:
            problems[where] = found
            break
    print(json.dumps([points, problems]), flush=True)
    os._exit(0)  # the end of the program would wait for calls that do not end
"""


@pytest.mark.parametrize("verb", ["map_some", "submit_some", "cancel_some", "follow"])
def test_ctrl_c_at_any_point(verb, tmp_path):
    """Wherever it comes, the calls that the pool has accepted end, and the next map works."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(_PROGRAM))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "PYWREN_HOME": str(tmp_path)}
    command = [sys.executable, "-W", "error", str(script), verb]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WAIT, check=False)
    assert done.returncode == 0, done.stderr
    points, problems = json.loads(done.stdout)
    assert not problems
    assert points > 50  # otherwise nothing was tried
