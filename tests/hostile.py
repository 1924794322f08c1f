"""Functions, arguments and results that cause trouble, for the failure table.

Workers import this module, so it imports only the standard library.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

LONG = 300.0
"""Seconds for which functions wait if no test stops them earlier."""


_held = []


def hold(place):
    """Show at a place that this process, or any process that inherited the descriptor, is alive.

    Args:
        place: a file to lock, or the address of an ``executors.Presence`` to connect to.
    """
    _held.append(take(place))
    return _held[-1]


def take(place):
    """Hold a place until the returned object is closed."""
    if isinstance(place, tuple):
        return socket.create_connection(place)
    file = open(place, "wb")  # noqa: SIM115 -- held until the process ends
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


def echo(argument):
    """Return the argument."""
    return argument


# -- exceptions ------------------------------------------------------------------------------------------------


class OwnError(Exception):
    """An exception class of the user."""


class RichError(Exception):
    """An exception whose constructor takes arguments other than its ``args``."""

    def __init__(self, code, *, hint):
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint


class LockedError(Exception):
    """An exception that cannot be pickled."""

    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


class OneWayError(Exception):
    """An exception that can be pickled but not unpickled."""

    def __reduce__(self):
        return _refuse, (str(self.args[0]),)


class UnspeakableError(Exception):
    """An exception whose ``__str__`` raises."""

    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


def _refuse(text):
    raise RuntimeError("does not unpickle: " + text)


def raises_value_error(argument):
    raise ValueError(argument)


def raises_own(argument):
    raise OwnError(argument)


def raises_rich(argument):
    raise RichError(argument, hint="mind the gap")


def raises_locked(argument):
    raise LockedError(argument)


def raises_one_way(argument):
    raise OneWayError(argument)


def raises_from(argument):
    try:
        {}[argument]
    except KeyError as error:
        raise OwnError("outer") from error


def raises_inside_except(argument):
    try:
        {}[argument]
    except KeyError:
        raise OwnError("outer")  # noqa: B904 -- the context is what is tested


def raises_keyboard_interrupt(argument):
    raise KeyboardInterrupt


class OwnBaseException(BaseException):
    """A ``BaseException`` that is not an ``Exception``."""


def raises_base_exception(argument):
    raise OwnBaseException(argument)


def raises_unspeakable(argument):
    raise UnspeakableError(argument)


def raises_at_length(size):
    raise ValueError("x" * size)


def raises_memory_error(argument):
    return bytearray(1 << 60)


def recurses(argument):
    return recurses(argument)


# -- exits -----------------------------------------------------------------------------------------------------


def kills_itself(number):
    os.kill(os.getpid(), number)
    signal.pause()


def segfaults(text):
    print(text, flush=True)
    ctypes.string_at(0)


# -- time ------------------------------------------------------------------------------------------------------


def sleeps_on(path):
    hold(path)
    time.sleep(LONG)


def blocks_signals(path):
    hold(path)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(LONG)


def stays_in_c_code(path):
    hold(path)
    re.match(r"(a+)+$", "a" * 60 + "b")


def waits_for_a_child(path):
    file = hold(path)
    subprocess.run(["sleep", str(LONG)], pass_fds=[file.fileno()], check=False)


def catches_everything(path):
    hold(path)
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        try:
            time.sleep(LONG)
        except BaseException:  # noqa: BLE001 -- that is its trouble
            pass


def holds_until(path, gate):
    """Lock a file, write to it, and wait for another file to exist."""
    file = take(path)
    file.write(b"running")
    file.flush()
    deadline = time.monotonic() + LONG
    while not os.path.exists(gate) and time.monotonic() < deadline:
        time.sleep(0.01)
    return "on time"


def waits_to_go_on(address):
    """Connect, and wait for permission to go on; a connection that is refused or closed is permission, too."""
    try:
        with take(address) as connection:
            connection.recv(1)
    except ConnectionError:
        pass
    return "on time"


def stays_a_second_longer(address):
    """Run for another second once permitted to go on."""
    said = waits_to_go_on(address)
    time.sleep(1)
    return said


# -- space -----------------------------------------------------------------------------------------------------


def fills(path):
    """Write until the disk is full."""
    with open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(16 << 20))


def free_megabytes(argument):
    """Return the free space of the working directory, in MiB."""
    return shutil.disk_usage(".").free >> 20


# -- leftovers -------------------------------------------------------------------------------------------------


def leaves_a_thread(path):
    hold(path)
    threading.Thread(target=time.sleep, args=(LONG,), daemon=False).start()
    return "started"


def leaves_a_job(path):
    file = hold(path)
    subprocess.run(["sh", "-c", f"sleep {LONG} &"], pass_fds=[file.fileno()], check=True)
    return "started"


def leaves_a_process(path):
    file = hold(path)
    subprocess.Popen(["sleep", str(LONG)], pass_fds=[file.fileno()])
    return "started"


def leaves_a_session(path):
    """Leave a process in a separate session, which signals to this process's group do not reach."""
    file = hold(path)
    subprocess.Popen(["sleep", str(LONG)], pass_fds=[file.fileno()], start_new_session=True)
    return "started"


def closes_descriptors(end):
    os.closerange(0, end)
    return "closed"


def prints_bytes(argument):
    os.write(1, b"\xff\xfe not text\n")
    os.write(2, b"\xff\xfe neither\n")
    return "printed"


def prints_much(megabytes):
    for _ in range(megabytes):
        sys.stdout.write("x" * (1 << 20))
    print("\nthe last line")
    return "printed"


def surroundings(argument):
    """Return the environment, files, import path and number of threads that a call sees."""
    return dict(os.environ), os.listdir("."), list(sys.path), threading.active_count()


def changes_everything(argument):
    os.environ["LEFT_BEHIND"] = "1"
    os.environ.pop("PATH", None)
    with open("left-behind", "w") as file:
        file.write("x")
    os.chdir("/")
    sys.path.insert(0, "/left-behind")
    sys.path[1:] = []
    return "changed"


def opens(name):
    with open(name) as file:
        return file.read()


def replaces_stdout(argument):
    sys.stdout = sys.stderr = None
    return "replaced"


def replaces_print(argument):
    import builtins

    builtins.print = None
    return "replaced"


def replaces_pickle(argument):
    pickle.dumps = pickle.loads = pickle.Pickler = None
    return "replaced"


def nests(argument):
    import pywren

    with pywren.local_executor() as executor:
        return pywren.get_all_results(executor.map(lambda x: x + argument, range(4)))


def forks_and_returns_twice(argument):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return "parent"
    return "child"


def reads_stdin(argument):
    return sys.stdin.read()


# -- what does not pickle --------------------------------------------------------------------------------------


class Holder:
    """An object that holds another."""

    def __init__(self, value):
        self.value = value


class Reduces:
    """An object that calls a function while it is pickled."""

    def __init__(self, deed, *arguments):
        self.deed = deed
        self.arguments = arguments

    def __reduce__(self):
        return self.deed(*self.arguments)


class Unpickles:
    """An object that calls a function while it is unpickled."""

    def __init__(self, deed, *arguments):
        self.deed = deed
        self.arguments = arguments

    def __reduce__(self):
        return self.deed, self.arguments


def raise_own(text):
    raise OwnError(text)


def returns_lambda(argument):
    return lambda x: x + argument


class Point:
    """A value of the user's own class."""

    def __init__(self, x):
        self.x = x


def returns_point(argument):
    return Point(argument)


def returns_lock(argument):
    return Holder([threading.Lock()])


def returns_generator(argument):
    return (x for x in range(argument))


def returns_what_raises_when_pickled(argument):
    return Reduces(raise_own, "in __reduce__")


def returns_what_exits_when_pickled(argument):
    return Reduces(sys.exit, 0)


def returns_what_crashes_when_pickled(argument):
    return Reduces(os._exit, 3)


def returns_what_raises_when_unpickled(argument):
    return Unpickles(raise_own, "in the client")


def returns_what_exits_when_unpickled(argument):
    return Unpickles(sys.exit, 0)


def returns_what_interrupts_when_unpickled(argument):
    return Unpickles(_interrupt, "in the client")


def _interrupt(text):
    raise KeyboardInterrupt(text)


def returns_an_exception(argument):
    return OwnError(argument)


def returns_much(size):
    return b"x" * size


def asks_the_future(future):
    return future.result()


class PicklesOnce:
    """An object that can be pickled in the process that made it, while its copies cannot."""

    def __init__(self, here=True):
        self.here = here

    def __reduce__(self):
        if not self.here:
            raise TypeError("this pickles once")
        return PicklesOnce, (False,)


def returns_what_pickles_once(_):
    return PicklesOnce()
