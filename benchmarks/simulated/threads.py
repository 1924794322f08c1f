"""``VirtualTime``: runs unchanged programs of several threads in virtual time.

Only one thread runs at a time. It runs until it waits: for a time, a condition, a lock, or another thread. A thread
that waits does what is next on the agenda, until a thread has something to do; if that is another one, it lets it run,
and sleeps. So a program of many threads takes as long as it computes, and every run is the same. Threads are real ones,
or greenlets if ``greenlet`` is installed.

Python's global lock is simulated too: what a thread has computed since it last waited takes time in which no other
thread computes, while the rest of the world goes on. Threads that run *elsewhere*, on workers, do not share that lock,
and what they compute is not counted: how long it takes them is part of the simulation.

``installed`` replaces ``threading`` and ``time`` in modules of pywren, and default arguments that are clocks. ``RLock``
and the locks of conditions remain those of Python. Nobody waits for them, because a thread that holds one never waits
for anything else (no lock is held across I/O); if one did, the simulation would hang.
"""

from __future__ import annotations

import contextlib
import functools
import heapq
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.simulated.agenda import Agenda

try:
    import greenlet
except ImportError:  # threads take its place
    greenlet = None

EPOCH = 1_750_000_000.0
"""Seconds since the epoch at the virtual time 0."""

_HOME = (
    "pywren.client.",
    "pywren.display.progress",
    "pywren.system.threads",
    "pywren.wait",
    "pywren.worker.chunk",
    "pywren.worker.watch",
)
_CLOCKS = {time.monotonic: "monotonic", time.time: "time"}


class Stuck(Exception):
    """A thread waits, and nothing is left that could happen."""


class _Running:
    """A thread, as the scheduler sees it. This kind is a real thread, which sleeps while another one runs."""

    def __init__(self, name: str, *, elsewhere: bool = False) -> None:
        self.name = name
        self.elsewhere = elsewhere  # it is not one of the client's
        self.turn = 0  # of its waits; what would have ended an earlier wait must not end a later one
        self.waits = False
        self.answer = False
        self.mark = 0.0  # the CPU time when it last went on
        self._gate = threading.Lock()  # locked while another thread runs
        self._gate.acquire()

    def start(self, run: Callable[[], object]) -> None:
        """Make it ready to run a function."""

        def wait_and_run() -> None:
            self._gate.acquire()
            run()

        threading.Thread(target=wait_and_run, name=self.name, daemon=True).start()

    def give_way_to(self, other: _Running) -> None:
        """Let another one run, and return when this one is to run."""
        other._gate.release()
        self._gate.acquire()

    def end_for(self, other: _Running) -> None:
        """Let another one run when this one has ended, which it does next."""
        other._gate.release()


class _Greenlet(_Running):
    """The same as a greenlet, whose turns cost the system nothing. On a busy machine that is a hundred times faster.

    The first one, in which the program began, starts all others: a greenlet begins at the depth of the stack of whoever
    starts it, so if they started each other, the stack would overflow.
    """

    def __init__(self, name: str, *, elsewhere: bool = False) -> None:
        super().__init__(name, elsewhere=elsewhere)
        self._greenlet = greenlet.getcurrent()
        self._next: Any = None  # what the first greenlet is to start when this one has ended

    def start(self, run: Callable[[], object]) -> None:
        def run_and_end(*_: object) -> Any:
            run()
            return self._next

        self._greenlet = greenlet.greenlet(run_and_end, _first_greenlet())

    def give_way_to(self, other: _Running) -> None:
        there, first = other._greenlet, _first_greenlet()  # type: ignore[attr-defined]
        # True of a greenlet that has begun.
        answer = there.switch() if there or self._greenlet is first else first.switch(there)
        while isinstance(answer, greenlet.greenlet):  # this is the first one, and shall start another
            answer = answer.switch()

    def end_for(self, other: _Running) -> None:
        there = other._greenlet  # type: ignore[attr-defined]
        if there:
            self._greenlet.parent = there  # runs when this one has ended
        else:
            self._next = there


def _first_greenlet() -> Any:
    first = greenlet.getcurrent()
    while first.parent is not None:
        first = first.parent
    return first


class VirtualTime(Agenda):
    """The virtual time, and the threads that live in it. The thread that makes it is the first.

    Args:
        measured: whether what threads compute takes as long as it takes here. Otherwise it takes no time, so that every
            run is the same, and only ``request`` says how long it takes.

    Attributes:
        computed: for how many seconds the threads have computed, as measured.
        spent: how many seconds of computing were entered with ``request``.
    """

    def __init__(self, *, measured: bool = False) -> None:
        super().__init__()
        self.measured = measured
        self.computed = self.spent = 0.0
        self._free = 0.0  # when no thread computes any more
        self._thread_goes_on: Callable[..., object] = object  # marks the steps that let a thread go on
        self._others: set[Thread] = set()
        self._kind = _Running if greenlet is None else _Greenlet
        self._here = self._kind(threading.current_thread().name)
        self._here.mark = time.thread_time()

    # -- waiting -------------------------------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""
        self.wait(seconds)

    def request(self, computing: float, latency: float, arrives: Callable[[], object] | None = None) -> None:
        """Compute something that is not run here, send it, and wait for the answer.

        Args:
            computing: for how many seconds the thread computes, if it is one of the client's.
            latency: for how many seconds it then waits.
            arrives: called after half of the latency.
        """
        self._charge()
        sent = self.now
        if not self._here.elsewhere:
            self.spent += computing
            sent = self._free = max(self._free, self.now) + computing
        if arrives is not None:
            self.at(sent + latency / 2.0, arrives)
        self.wait(latency)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until ``wake`` is called for this thread. Return False if the timeout, in seconds, is over first."""
        me = self._here
        self._charge()
        me.turn += 1
        me.waits = True
        if timeout is not None:
            begins = self.now if me.elsewhere else max(self.now, self._free)
            self.at(begins + timeout, self._thread_goes_on, me, me.turn, False)
        self._give_way(me)
        return me.answer

    def ticket(self) -> tuple[object, int]:
        """Return what ``wake`` takes to end the next ``wait`` of this thread."""
        me = self._here
        return me, me.turn + 1

    def wake(self, ticket: tuple[object, int]) -> None:
        """End a wait. Nothing happens if it has ended already."""
        self.at(self.now, self._thread_goes_on, *ticket, True)

    def end(self, patience: float = 600.0) -> None:
        """Wait until all other threads have ended.

        Raises:
            Stuck: they have not ended after some seconds.
        """
        until = self.now + patience
        while self._others:
            if self.now >= until:
                raise Stuck(f"these threads do not end: {', '.join(sorted(one.name for one in self._others))}")
            self.sleep(1.0)

    @property
    def is_elsewhere(self) -> bool:
        """Whether the thread that runs is not one of the client's."""
        return self._here.elsewhere

    # -- threads ---------------------------------------------------------------------------------------------------

    def _charge(self) -> None:
        """Count what this thread has computed since it went on."""
        me, now = self._here, time.thread_time()
        computed, me.mark = now - me.mark, now
        if me.elsewhere:
            return
        self.computed += computed
        if self.measured:
            self._free = max(self._free, self.now) + computed

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """Do something in this thread that its program would not compute."""
        self._charge()
        try:
            yield
        finally:
            self._here.mark = time.thread_time()

    def _give_way(self, me: _Running) -> None:
        """Do what is next until some thread goes on. Return when this one does."""
        other = self._next_thread()
        if other is not me:
            me.give_way_to(other)
        self._here = me
        me.mark = time.thread_time()

    def _next_thread(self) -> _Running:
        while self._steps:
            when, _, step, arguments = self._steps[0]
            if step is not self._thread_goes_on:
                self.advance()
                continue
            who, turn, answer = arguments
            heapq.heappop(self._steps)
            if not isinstance(who, _Running) or who.turn != turn or not who.waits:
                continue  # that wait has ended already
            if when < self._free and not who.elsewhere:  # another thread computes until then
                self.at(self._free, step, who, turn, answer)
                continue
            self.now = max(self.now, when)
            who.waits, who.answer = False, bool(answer)
            return who
        raise Stuck(f"the thread {self._here.name} waits, and nothing is left that could happen")

    # -- what pywren's modules see -----------------------------------------------------------------------------------

    def monotonic(self) -> float:
        """Return monotonic seconds."""
        return self.now

    def time(self) -> float:
        """Return seconds since the epoch."""
        return EPOCH + self.now

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Have pywren's client live in this time."""
        clocks = {"monotonic": self.monotonic, "time": self.time, "sleep": self.sleep}
        own = {
            "Thread": functools.partial(Thread, self),
            "Lock": functools.partial(Lock, self),
            "Condition": functools.partial(Condition, self),
        }
        replaced = {
            "time": types.SimpleNamespace(**{**vars(time), **clocks}),
            "threading": types.SimpleNamespace(**{**vars(threading), **own}),
        }
        modules = [one for name, one in sys.modules.items() if one is not None and name.startswith(_HOME)]
        with contextlib.ExitStack() as undo:
            for module in modules:
                for name, real in (("time", time), ("threading", threading)):
                    if vars(module).get(name) is real:
                        undo.callback(setattr, module, name, real)
                        setattr(module, name, replaced[name])
                for function in _functions(module):
                    self._install_defaults(function, undo)
            yield

    def _install_defaults(self, function: types.FunctionType, undo: contextlib.ExitStack) -> None:
        if any(one in _CLOCKS for one in _hashable(function.__defaults__ or ())):
            undo.callback(setattr, function, "__defaults__", function.__defaults__)
            function.__defaults__ = tuple(self._virtual(one) for one in function.__defaults__ or ())
        named: Mapping[str, Any] = function.__kwdefaults__ or {}
        if any(one in _CLOCKS for one in _hashable(tuple(named.values()))):
            undo.callback(setattr, function, "__kwdefaults__", dict(named))
            function.__kwdefaults__ = {name: self._virtual(one) for name, one in named.items()}

    def _virtual(self, default: Any) -> Any:
        is_clock = isinstance(default, types.BuiltinFunctionType) and default in _CLOCKS
        return getattr(self, _CLOCKS[default]) if is_clock else default


def _hashable(defaults: Sequence[Any]) -> list[Any]:
    return [one for one in defaults if isinstance(one, types.BuiltinFunctionType)]


def _functions(module: types.ModuleType) -> Iterator[types.FunctionType]:
    for one in vars(module).values():
        if getattr(one, "__module__", None) != module.__name__:
            continue
        if isinstance(one, types.FunctionType):
            yield one
        elif isinstance(one, type):
            yield from (member for member in vars(one).values() if isinstance(member, types.FunctionType))


class Thread:
    """``threading.Thread`` in virtual time."""

    def __init__(
        self,
        world: VirtualTime,
        group: None = None,
        target: Callable[..., object] | None = None,
        name: str | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        daemon: bool | None = None,
        elsewhere: bool | None = None,
    ) -> None:
        self._world, self._target, self._args, self._kwargs = world, target, args, kwargs or {}
        self.name = name or "thread"
        self.ident: int | None = None
        # What a thread on a worker starts runs there too.
        self._running = world._kind(self.name, elsewhere=world._here.elsewhere if elsewhere is None else elsewhere)
        self._waiters: list[tuple[object, int]] = []
        self._ended = False

    def is_alive(self) -> bool:
        return self.ident is not None and not self._ended

    def start(self) -> None:
        # The start of a real thread counts as computing: the client starts real threads too.
        self.ident = id(self)
        self._running.start(self._run)
        self._world._others.add(self)
        self._running.waits = True
        self._world.wake((self._running, 0))

    def join(self, timeout: float | None = None) -> None:
        if not self._ended:
            self._waiters.append(self._world.ticket())
            self._world.wait(timeout)

    def _run(self) -> None:
        me, world = self._running, self._world
        world._here = me
        me.mark = time.thread_time()
        try:
            if self._target is not None:
                self._target(*self._args, **self._kwargs)
        finally:
            world._charge()
            self._ended = True
            world._others.discard(self)
            for ticket in self._waiters:
                world.wake(ticket)
            me.end_for(world._next_thread())


class Lock:
    """``threading.Lock`` in virtual time. Another thread may release it, as pywren's gates are."""

    def __init__(self, world: VirtualTime) -> None:
        self._world = world
        self._real = threading.Lock()
        self._waiters: list[tuple[object, int]] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._real.acquire(blocking=False):
            return True
        until = self._world.now + timeout if timeout >= 0 else None
        while blocking:
            ticket = self._world.ticket()
            self._waiters.append(ticket)
            woken = self._world.wait(None if until is None else max(0.0, until - self._world.now))
            if self._real.acquire(blocking=False):
                return True
            if not woken:
                self._waiters.remove(ticket)
                return False
        return False

    def release(self) -> None:
        self._real.release()
        if self._waiters:
            self._world.wake(self._waiters.pop(0))

    def locked(self) -> bool:
        return self._real.locked()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()


class Condition:
    """``threading.Condition`` in virtual time, over a real lock."""

    def __init__(self, world: VirtualTime, lock: Any = None) -> None:
        self._world = world
        self._lock = threading.RLock() if lock is None else lock
        self.acquire, self.release = self._lock.acquire, self._lock.release
        self._waiters: list[tuple[object, int]] = []

    def __enter__(self) -> bool:
        return bool(self._lock.__enter__())

    def __exit__(self, *exc_info: object) -> None:
        self._lock.__exit__(*exc_info)

    def wait(self, timeout: float | None = None) -> bool:
        ticket = self._world.ticket()
        self._waiters.append(ticket)
        state = self._lock._release_save()
        try:
            woken = self._world.wait(timeout)
        finally:
            self._lock._acquire_restore(state)
        if not woken and ticket in self._waiters:
            self._waiters.remove(ticket)
        return woken

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        until = None if timeout is None else self._world.now + timeout
        while not (result := predicate()):
            left = None if until is None else until - self._world.now
            if left is not None and left <= 0.0:
                break
            self.wait(left)
        return result

    def notify(self, n: int = 1) -> None:
        for ticket in self._waiters[:n]:
            self._world.wake(ticket)
        del self._waiters[:n]

    def notify_all(self) -> None:
        self.notify(len(self._waiters))
