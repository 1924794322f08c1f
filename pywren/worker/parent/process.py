"""``Process``: the parent's handle for one child process, from its start to the removal of what it left.

Any thread may kill a child while another waits for it. Signals are sent to process ids, and the kernel may reuse an id
as soon as its process is *reaped*. So ``_lock`` covers the check of ``reaped`` together with the signal, and the
reaping together with setting ``reaped``. No thread waits while holding it. ``_sending`` is held while a frame is
written to the socket, so that frames of several threads do not mix.

The end of a child is noticed on ``pidfd``. This is a descriptor from the kernel or, where the kernel has none, a pipe
that a thread closes when ``waitpid`` returns.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping, Sequence

from pywren.exceptions import ConfigError
from pywren.worker import process_tree
from pywren.worker.descriptors import above_standard, high_descriptor, pipe, socket_pair, wait_readable
from pywren.worker.directories import private_directory, remove_directory
from pywren.worker.frames import Channel, Outgoing, UnlinkedFile

_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS", "NUMEXPR_NUM_THREADS"),
    "1",
)

# The child finds pywren, cloudpickle and tblib where the parent finds them, but nothing else in these directories,
# which belong to the user. The empty entry of ``sys.path`` is the client's working directory.
_BOOTSTRAP = """\
import sys
from importlib.machinery import PathFinder

class Homes:
    def find_spec(self, name, path=None, target=None):
        home = homes.get(name)
        return PathFinder.find_spec(name, [home]) if home else None

sys.path[:] = [entry for entry in sys.path if entry]
count = 2 * int(sys.argv[1]) + 2
homes = dict(zip(sys.argv[2:count:2], sys.argv[3:count:2]))
sys.meta_path.insert(0, Homes())
from pywren.worker.child.main import main
main(sys.argv[count:])
"""


def check_platform() -> None:
    """Check that this platform can run child processes in the way pywren needs.

    Raises:
        ConfigError: this is neither Linux nor macOS.
    """
    if not hasattr(os, "posix_spawn") or not hasattr(socket, "AF_UNIX"):
        raise ConfigError(
            "the local executor needs Linux or macOS; on Windows use PyWren through Lambda "
            "(PYWREN_EXECUTOR=lambda with a config file), or run it inside WSL"
        )


class Process:
    """One child process: a fresh interpreter that runs ``pywren.worker.child.main`` in its own session.

    Args:
        mode: ``pool`` or ``fork``.
        executable: the Python interpreter; ``None`` for this one.
        output: files for the child's descriptors 1 and 2; ``None`` for this process's own.
        environment: the child's environment variables; ``None`` for this process's own.

    Attributes:
        pid: the child's process id, which is also the id of its process group.
        pidfd: a descriptor that becomes readable when the child has ended; -1 once closed.
        root: the child's private directory, which the child creates.
        channel: the parent's end of the data socket; it does not block.
        lifeline: the write end of a pipe that closes with this process, however this process ends.
        tickets_in: the read end of the ticket pipe, for taking tickets back; it does not block.
        tickets_out: the write end of the ticket pipe.
        returncode: the exit code; negative for a signal, ``None`` while the child runs or if it is unknown.
        reaped: whether its process id may already belong to another process.

    Raises:
        OSError: the child cannot be started.
        ConfigError: ``sys.executable`` is empty.
    """

    def __init__(
        self,
        mode: str,
        *,
        executable: str | None = None,
        output: tuple[UnlinkedFile, UnlinkedFile] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.output = output
        self.root = private_directory()
        self.returncode: int | None = None
        self.reaped = self._killed = False
        self.pidfd = -1
        # Order of locks: the pool's, then one of these two. No thread takes both of these.
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        parent, child = socket_pair()
        # Python opens descriptors close-on-exec, so no other program that the client starts keeps the write end open. A
        # fork of the client does, until ``forget`` closes it there.
        lifeline, self.lifeline = pipe()
        self.tickets_in, self.tickets_out = pipe()
        # Each end of a socket pair has its own flags, so the child's end still blocks, as ``frames`` requires.
        parent.setblocking(False)
        # Use high numbers: the child expects its ends at low numbers, and no end may overwrite another when it is
        # moved.
        self.channel = Channel(parent)
        theirs = [high_descriptor(child.detach()), high_descriptor(lifeline), high_descriptor(os.dup(self.tickets_in))]
        try:
            self.pid = _spawn(_command(mode, self.root, executable), self.root, theirs, output, environment)
        except BaseException:
            self._close_descriptors()
            raise
        finally:
            # Only the child may have its ends: the lifeline must close with this process, and the channel with either
            # process.
            for descriptor in theirs:
                os.close(descriptor)
        # Set this after the start. The flag belongs to the open pipe, so now both sides have it, as the child expects.
        os.set_blocking(self.tickets_in, False)
        self._watch_end()

    def _watch_end(self) -> None:
        """Set ``pidfd`` to a descriptor that becomes readable when the child has ended."""
        if hasattr(os, "pidfd_open"):
            try:
                # Nothing reaps the child before this object does, so the id is still the child's. If the program reaps
                # all children by itself, this fails (ESRCH), and ``_reap`` finds no child.
                self.pidfd = above_standard(os.pidfd_open(self.pid))
                return
            except OSError:
                pass  # a kernel before Linux 5.3, or a sandbox that lacks the call
        # The same contract without pidfd_open(2): the descriptor is readable from the end of the process on, here as
        # end of file.
        self.pidfd, ended = pipe()
        threading.Thread(target=self._wait, args=(ended,), name="pywren-wait", daemon=True).start()

    def _wait(self, ended: int) -> None:
        self._reap()
        # Only after the reaping, which is one step later than with a pidfd: whoever sees the end finds ``reaped`` set.
        os.close(ended)

    def has_ended(self) -> bool:
        """Tell whether the child has ended."""
        return self.reaped or wait_readable(self.pidfd, 0.0)

    def send(self, frame: Outgoing) -> None:
        """Send a whole frame to the child. Several threads may do so at the same time."""
        # Not ``_lock``: this may wait until the child reads, and a kill must be possible meanwhile.
        with self._sending:
            self.channel.send_whole(frame)

    def kill(self) -> None:
        """Kill the child and everything below it. This may take a second; ``pidfd`` shows when the child has ended."""
        if self.reaped:  # read without the lock: it is checked again just before the signal to the group
            return
        # Descendants first, while the process is stopped but alive: after its death they would be orphans under another
        # parent.
        self._killed = process_tree.kill_descendants(self.pid)
        self._kill_group()

    def _kill_group(self) -> None:
        with self._lock:
            if not self.reaped:
                # SIGKILL also ends a process that SIGSTOP has stopped (signal(7)), so it need not be continued first.
                process_tree.kill_group(self.pid)

    def wait(self) -> int | None:
        """Wait until the child has ended, kill the rest of its process group, and return its exit code."""
        self._reap()
        return self.returncode

    def _reap(self) -> None:
        """Wait until the child has ended, and reap it once, even if several threads wait."""
        try:
            if hasattr(os, "waitid"):
                # WNOWAIT leaves the process a zombie (waitid(2)). Several threads may wait here at once, and all of
                # them return.
                os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
                self._kill_group()  # while the child is a zombie, no other process or group can have its number
                # Reap the child and record that in one step: between two steps, another thread could signal a
                # stranger's group.
                with self._lock:
                    if not self.reaped:
                        self._take_status(os.waitpid(self.pid, 0)[1])
            else:  # macOS before Python 3.13
                # There is no waitid, so the reaping and its record are two steps. The lock cannot cover them, because
                # this call blocks. The gap is a few instructions, and the kernel counts through the other numbers
                # before it reuses one.
                self._take_status(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            self.reaped = True  # the user's program reaps all children itself, or ignores SIGCHLD

    def _take_status(self, status: int) -> None:
        self.reaped = True
        self.returncode = os.waitstatus_to_exitcode(status)

    def close(self) -> None:
        """Kill the child if it is still running, wait until it has ended, and release everything that it used."""
        self.kill()
        self.end()
        self.remove_traces()

    def end(self) -> None:
        """After the child was killed or has died, wait until it has ended, and close the descriptors."""
        self.wait()
        self._close_descriptors()

    def remove_traces(self) -> None:
        """Remove what the child left when it ended: its private directory, and processes outside its group."""
        if not self._killed:  # the child died by itself, so nothing has killed the processes below it
            # By the mark in their environment, because the links between parents and children are gone with the
            # process. This must come before the directory is removed: what still runs would write to it.
            process_tree.kill_marked(self.root)
        remove_directory(self.root)

    def forget(self) -> None:
        """In a process that was forked from this one, close the descriptors: the child belongs to the original."""
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        self.channel.close()
        for name in ("lifeline", "tickets_in", "tickets_out", "pidfd"):
            descriptor = getattr(self, name)
            if descriptor >= 0:
                os.close(descriptor)
                # Never close a number twice: by the second time it may belong to a file that another thread has opened.
                setattr(self, name, -1)


def _command(mode: str, root: str, executable: str | None) -> list[str]:
    python = executable or sys.executable
    if not python:
        raise ConfigError(
            "Python does not know its own executable (sys.executable is empty): set sys.executable, or use Lambda"
        )
    homes = [part for item in _homes().items() for part in item]
    return [python, "-c", _BOOTSTRAP, str(len(homes) // 2), *homes, mode, root, *_clients_own_directories()]


def _homes() -> dict[str, str]:
    """Return the directories that contain pywren, cloudpickle and tblib."""
    homes: dict[str, str] = {}
    for name in ("pywren", "cloudpickle", "tblib"):
        loaded = sys.modules.get(name)
        if loaded is not None and loaded.__file__:
            homes[name] = os.path.dirname(os.path.dirname(os.path.abspath(loaded.__file__)))
            continue
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name)
        if spec is not None and spec.origin:
            homes[name] = os.path.dirname(os.path.dirname(os.path.abspath(spec.origin)))
    return homes


def _clients_own_directories() -> list[str]:
    """Return the directories that are on the client's ``sys.path`` only because the client was started in them."""
    own = []
    try:
        own.append(os.getcwd())
    except FileNotFoundError:
        pass  # the directory was removed
    script = getattr(sys.modules.get("__main__"), "__dict__", {}).get(
        "__file__"
    )  # reading this attribute of a worker's own __main__ would write a file
    if script:
        own.append(os.path.dirname(os.path.abspath(script)))
    return own


def _spawn(
    command: list[str],
    root: str,
    theirs: Sequence[int],
    output: tuple[UnlinkedFile, UnlinkedFile] | None,
    environment: Mapping[str, str] | None,
) -> int:
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    ]
    if output is None:
        # If this process has closed a standard stream, the child must not get another file under that number.
        for target in filter(_is_closed, (1, 2)):
            actions.append((os.POSIX_SPAWN_OPEN, target, os.devnull, os.O_WRONLY, 0))
    for target, file in enumerate(output or (), 1):
        actions.append((os.POSIX_SPAWN_DUP2, file.descriptor, target))
    # ``dup2`` clears close-on-exec. Between equal numbers dup2(2) does nothing at all, which is another reason for high
    # ones.
    for target, descriptor in enumerate(theirs, 3):
        actions.append((os.POSIX_SPAWN_DUP2, descriptor, target))
    # One BLAS thread for each process, unless the client chose otherwise: the pool has a process for every processor.
    variables = {**_ONE_THREAD, **(os.environ if environment is None else environment)}
    process_tree.mark(variables, root)
    defaults = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGQUIT]
    # The child itself leaves this session: posix_spawn cannot do that on every platform (POSIX_SPAWN_SETSID).
    # The mask and ignored signals survive an exec (signal(7)). Under nohup, or from a thread that blocks signals, the
    # child and the programs that its calls start would otherwise be deaf to them.
    return os.posix_spawn(command[0], command, variables, file_actions=actions, setsigmask=[], setsigdef=defaults)


def _is_closed(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False
