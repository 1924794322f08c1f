"""The program of a worker process. In *pool* mode it runs calls; in *fork* mode it forks a process for each function.

The program is a fresh interpreter that loads neither the client's main script nor anything from its directory. It
imports pywren's worker, wire and pickling packages, cloudpickle and tblib. Before any of the user's code runs, this
module sets up the session, ``sys.path``, the descriptors and the private directory, and makes sure that the process
ends with its parent. Then ``pool_mode`` or ``fork_mode`` takes over.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import NoReturn

from pywren.version import PYTHON
from pywren.worker.child.fork_mode import ForkLoop
from pywren.worker.child.pool_mode import PoolChild
from pywren.worker.descriptors import close_all_but, high_descriptor
from pywren.worker.directories import hold_directory
from pywren.worker.frames import Channel

_SETSIG = 10  # F_SETSIG, which the fcntl module lacks before Python 3.14
_CHANNEL, _LIFELINE, _TICKETS = 3, 4, 5


def main(arguments: Sequence[str]) -> NoReturn:
    """Run the program.

    Args:
        arguments: the mode, ``pool`` or ``fork``; then the private directory; then the directories from which only the
            client imports.
    """
    mode, root, *unwanted = arguments
    # The user's code must find no arguments of ours, for example when it uses argparse.
    sys.argv = [""]
    # The session comes first: it gives this process a group of its own, to which the signal of the lifeline and the
    # kills of the parent go.
    _leave_the_clients_session()
    _tidy_path(unwanted)
    # Before anything opens a file: at the low numbers it would be closed with the rest.
    channel, lifeline, tickets = _take_descriptors(has_tickets=mode == "pool")
    # The directory exists and is locked before anything is written to it.
    hold_directory(root)
    if mode == "pool":
        _die_with_parent(lifeline)
        PoolChild(channel, tickets, root).serve()
    ForkLoop(channel, lifeline, root).serve()


def _leave_the_clients_session() -> None:
    """Start a new session: Ctrl-C at the client's terminal, or a kill of its group, must not reach this process."""
    if os.getsid(0) != os.getpid():
        os.setsid()  # this fails for the leader of a process group, but a new process from posix_spawn is not one


def _tidy_path(unwanted: Sequence[str]) -> None:
    """Move the entries of ``PYTHONPATH`` to the end of ``sys.path``, and remove the client's own directories."""
    named = [_absolute(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    own = {_absolute(entry) for entry in unwanted}
    fixed = [entry for entry in sys.path if entry and _absolute(entry) not in named]
    kept = [entry for entry in named if entry not in own]
    sys.path[:] = fixed + list(dict.fromkeys([*kept, *_path_on_lambda()]))


def _path_on_lambda() -> list[str]:
    """Return what Lambda adds to its process's ``sys.path`` but not to ``PYTHONPATH``: the deployed code and layers."""
    code = os.environ.get("LAMBDA_TASK_ROOT")
    if not code:
        return []
    return [code, f"/opt/python/lib/python{PYTHON}/site-packages", "/opt/python"]


def _absolute(path: str) -> str:
    try:
        return os.path.abspath(path)
    except FileNotFoundError:  # the client's working directory, to which the path is relative, no longer exists
        return path


def _take_descriptors(*, has_tickets: bool) -> tuple[Channel, int, int]:
    """Move the inherited channels to numbers that programs do not close in bulk. Close all other descriptors."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=high_descriptor(_CHANNEL))
    lifeline = high_descriptor(_LIFELINE)
    tickets = high_descriptor(_TICKETS) if has_tickets else -1
    # The client may have inheritable descriptors of its own. Left open here, a pipe of the client's would not end for
    # its reader while this process lives.
    close_all_but({0, 1, 2, sock.fileno(), lifeline, tickets})
    return Channel(sock), lifeline, tickets


def _die_with_parent(lifeline: int) -> None:
    """Have the kernel kill this process group when the parent has ended, for whatever reason (Linux).

    Nothing is ever written to the lifeline, so the only event on it is that the parent's side closes. The kernel sends
    the signal to the lifeline's owner. Here the owner is the process group (a negative number), and the signal is
    SIGKILL instead of SIGIO. On other systems the child notices the end of file between calls.

    The fork server does not use this: it runs none of the user's code, notices the end of the lifeline itself, and must
    first kill the groups of the processes that it forked.
    """
    if sys.platform != "linux":
        return
    import fcntl

    # Owner and signal come before O_ASYNC (fcntl(2)): from that flag on, the kernel sends whatever is set.
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, _SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_NONBLOCK | fcntl.FASYNC)
    try:
        # Read after setting up: the signal is sent only at the moment of the end, and not for an end that came before.
        if not os.read(lifeline, 1):
            os._exit(1)  # the parent ended before this was set up
    except BlockingIOError:
        pass
