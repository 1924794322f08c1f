"""What a child does after a call, before it sends the result: it checks what the call left, and may exit.

Everything here runs on the main thread, in a process to which a call may have done anything. So each step must work
with a broken standard library. Before a step that cannot, ``Condition.restore`` repairs the library.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from pywren.worker import call_resources, own_signals
from pywren.worker.child.condition import Condition
from pywren.worker.child.leftovers import leftovers
from pywren.worker.child.output import Output

_exit = os._exit  # the user's function may replace it


def what_is_left(output: Output, condition: Condition, *, is_sound: bool) -> tuple[str, tuple[str, str], bool]:
    """Close what the call opened, and check what else the call left behind.

    Args:
        output: where the call wrote.
        condition: the state of the process before the call.
        is_sound: whether the process has been found sound.

    Returns:
        A description of what the call left running, the tails of its output, and whether the process is still sound.
    """
    if not is_sound:
        condition.restore()  # the process runs no more calls, but the next steps need the standard library
    try:
        return (*_left_and_tails(output), is_sound and output.has_descriptors())
    except Exception:  # noqa: BLE001 -- something is broken that no check finds; report the result anyway
        condition.restore()
        return (*_left_and_tails(output), False)


def _left_and_tails(output: Output) -> tuple[str, tuple[str, str]]:
    call_resources.close_all()  # do this first: the processes of a nested pool are not leftovers
    output.flush()
    return leftovers(), output.tails()


def end_process(error: BaseException, output: Output) -> NoReturn:
    """End this process as Python does when an exception is not caught."""
    if isinstance(error, KeyboardInterrupt):
        # Python ends itself with the signal, so that the parent sees SIGINT instead of an exit code.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        output.flush()
        # With one thread the signal ends the process before this returns (kill(2)). Another thread may take it a moment
        # later, so the lines below must also be right.
        own_signals.interrupt_itself()
    code = exit_code(error)
    output.flush()
    # Not ``sys.exit``: that would wait for the call's threads and run ``atexit`` functions, in a process that is past
    # its use.
    _exit(code)


def exit_code(error: BaseException) -> int:
    """Print what Python prints for an uncaught exception, and return the exit code with which Python would end."""
    if isinstance(error, SystemExit):
        if error.code is None:
            return 0
        if isinstance(error.code, int):
            # The parent sees only eight bits (exit(3)).
            return error.code & 0xFF
        sys.stderr.write(f"{error.code}\n")
        return 1
    import traceback

    traceback.print_exception(type(error), error, error.__traceback__)
    return 1
