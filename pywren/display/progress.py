"""``Progress``: what a wait shows while it lasts: a bar, and a line in the log every 10 seconds.

``Invoking`` shows the same while ``map`` invokes the calls. The thread that waits draws the bar whenever
``client.waiting`` lets it, so there is no thread of its own. It reads the states of the futures, and what their drivers
have counted; it sends no request.

A process shows one bar at a time: that of the wait which showed its bar first. Waits of other threads, and waits
inside that wait, show theirs once it has ended. ``_owner`` is a weak reference to the ``Progress`` that shows its bar,
so a bar that Ctrl-C kept from being closed is in nobody's way. ``_choosing`` guards it; a thread holds this lock only
to read and assign the reference. Bars are drawn without it.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pywren.client.call_state import DONE, RUNNING, CallState
from pywren.display.words import duration, number
from pywren.exceptions import ArgumentError, ConfigError

if TYPE_CHECKING:
    from types import TracebackType

    from pywren.client.protocols import Origin

logger = logging.getLogger(__name__)

Choice = bool | Literal["auto"]
"""Whether waits show a bar; ``"auto"`` is on a terminal or in a notebook, once a wait has lasted a second."""

PROGRESS_VARIABLE = "PYWREN_PROGRESS"
"""The environment variable that says whether waits show a bar: ``1``, ``0`` or ``auto``, or a word for these."""

FIRST_LOOK = 1.0
"""Seconds after which a wait shows a bar with ``"auto"``. Less does not feel like waiting."""

LOG_INTERVAL = 10.0
"""Seconds between two lines in the log."""

_DRAW_INTERVAL = 0.2  # seconds: the eye sees no more, and the wait wakes for each
_LINE_INTERVAL = 1.0  # the same where every drawing may become a line, as in a file or in a notebook that is saved
_MOST_OF_THE_TIME = 0.05  # the share of the time that the waiting thread may spend on counting 100,000 futures

_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}"

_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def checked(progress: object) -> Choice:
    """Return the argument ``progress`` of a verb if it is one of its three values.

    Raises:
        ArgumentError: it is something else.
    """
    if isinstance(progress, bool):
        return progress
    if isinstance(progress, str) and progress == "auto":
        return "auto"
    raise ArgumentError(f"progress is {progress!r}; it must be True, False or 'auto'")


def from_environment() -> Choice:
    """Return what ``PYWREN_PROGRESS`` says; ``"auto"`` if it is not set.

    Raises:
        ConfigError: it says something else than yes, no or auto.
    """
    text = os.environ.get(PROGRESS_VARIABLE, "").strip().lower()
    if text in _WORDS:
        return _WORDS[text]
    if text in ("", "auto"):
        return "auto"
    raise ConfigError(f"{PROGRESS_VARIABLE} is {text!r}: set it to 1, 0 or auto, or unset it")


def preferred(progress: object, configured: Choice) -> Choice:
    """Return what waits for the calls of a map show by default.

    Args:
        progress: the argument of the map, which comes first; the environment comes second.
        configured: ``scheduler.progress`` of the configuration.

    Raises:
        ArgumentError: ``progress`` is not one of its three values.
        ConfigError: ``PYWREN_PROGRESS`` has a wrong value.
    """
    choices = (checked(progress), from_environment(), configured)
    return next((one for one in choices if one != "auto"), "auto")


class Tally(NamedTuple):
    """How far the calls of a wait are.

    Args:
        total: how many calls there are.
        done: how many have ended, with a value or an error.
        failed: how many of these have ended with an error.
        running: how many are known to run.
        retried: how many attempts were made again, as far as this process drives the calls.
        held: how many calls of these callsets wait in this program to be invoked.
    """

    total: int
    done: int
    failed: int
    running: int
    retried: int
    held: int

    def notes(self) -> str:
        """Return what a bar says besides the number of calls that are done."""
        counts = {"failed": self.failed, "running": self.running, "retried": self.retried, "not invoked": self.held}
        return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


class Progress:
    """Shows how far the calls are that one thread waits for. A context manager, whose end closes the bar.

    Args:
        futures: the futures, each only once.
        progress: the argument of the verb.
        clock: returns monotonic seconds.

    Raises:
        ArgumentError: ``progress`` is not one of its three values.
    """

    _unit = "calls"
    _said = "have ended"
    _stays = True  # whether the complete bar is left on the terminal

    def __init__(
        self, futures: Sequence[CallState], progress: object = "auto", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._choice = checked(progress)
        self._futures = futures
        self._clock = clock
        # These are looked at again with every look; the others have ended.
        self._open: Sequence[CallState] = futures
        self._failed = 0
        self._began = 0.0
        self._done_before: int | None = None  # None until the wait has begun to sleep
        self._next_line = math.inf
        self._bar: Any = None
        self._interval = _DRAW_INTERVAL
        self._wants_bar: bool | None = None  # None until the first look

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    # -- for client.waiting ------------------------------------------------------------------------------------

    def begin(self, waiting: int) -> float:
        """Note that the wait begins to sleep. Return in how many seconds to call ``look``.

        Args:
            waiting: how many futures are not done.
        """
        self._began = self._clock()
        self._done_before = len(self._futures) - waiting
        self._next_line = self._began + LOG_INTERVAL
        return self.look() if self._choice is True else FIRST_LOOK

    def look(self) -> float:
        """Show how far the calls are. Return in how many seconds to call this again."""
        started = self._clock()
        if self._wants_bar is None:
            self._wants_bar = self._is_wanted()
        tally = None
        if self._wants_bar and (self._bar is not None or _take(self)):
            tally = self._tally()
            self._draw(tally)
        now = self._clock()
        if now >= self._next_line:
            self._next_line = now + LOG_INTERVAL
            if logger.isEnabledFor(logging.INFO):
                self._log(tally or self._tally(), now)
        until_line = self._next_line - now
        if not self._wants_bar:
            return until_line
        return min(until_line, max(self._interval, (self._clock() - started) / _MOST_OF_THE_TIME))

    def end(self) -> None:
        """Draw the bar for the last time, and close it. May be called again."""
        if self._choice is True and self._done_before is None and self._futures:
            self.begin(0)  # the futures were done already: True shows a bar all the same
        bar, self._bar = self._bar, None
        try:
            if bar is not None:
                tally = self._tally()
                bar.show(tally)
                # A program that waits in a loop, for one call or for some seconds, would get a screen full of bars.
                bar.close(leave=self._stays and tally.done == tally.total)
        except Exception as error:  # noqa: BLE001 -- see _give_up()
            self._give_up(error)
        finally:
            _leave(self)

    # -- inside ------------------------------------------------------------------------------------------------

    def _is_wanted(self) -> bool:
        if not self._futures:
            return False
        choice = self._choice
        if choice == "auto":
            preferences = {one.callset.progress for one in self._origins()}
            if True in preferences or preferences == {False}:
                return True in preferences
            try:
                choice = from_environment()
            except ConfigError as error:
                # A wait that has gone well so far must not fail of it. An executor that is made refuses it.
                logger.debug("%s", error)
        return _is_watched() if choice == "auto" else bool(choice)

    def _draw(self, tally: Tally) -> None:
        try:
            if self._bar is None:
                since = self._clock() - self._began
                self._bar = _Bar(tally.total, self._unit, done_before=self._done_before or 0, since=since)
                self._interval = _DRAW_INTERVAL if _is_terminal() else _LINE_INTERVAL
            self._bar.show(tally)
        except Exception as error:  # noqa: BLE001 -- see _give_up()
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Go on without a bar: the program's stderr, tqdm or a notebook's widgets have raised an error."""
        logger.debug("no progress is shown, because that failed: %s: %s", type(error).__name__, error)
        self._bar, self._wants_bar = None, False
        _leave(self)

    def _tally(self) -> Tally:
        still_open, failed, running = [], 0, 0
        for one in self._open:
            # Without the condition: a final state never changes, and is assigned after the exception.
            state = one._state
            if state in DONE:
                failed += one._exception is not None
            else:
                running += state == RUNNING
                still_open.append(one)
        self._failed += failed
        self._open = still_open
        total = len(self._futures)
        counts = [found for found in (one.counts() for one in self._origins()) if found is not None]
        retried, held = sum(one.retried for one in counts), sum(one.held for one in counts)
        return Tally(total, total - len(still_open), self._failed, running, retried, min(held, len(still_open)))

    def _origins(self) -> Iterable[Origin]:
        # Those of the futures that are not done: of a finished callset nothing is of interest any more.
        found = {id(one._origin): one._origin for one in self._open or self._futures}
        return [one for one in found.values() if one is not None]

    def _log(self, tally: Tally, now: float) -> None:
        done = tally.done - (self._done_before or 0)
        left = (now - self._began) * (tally.total - tally.done) / done if done else None
        words = [f"{tally.done:,} of {number(tally.total, 'call')} {self._said}", tally.notes()]
        words.append("" if left is None else f"about {duration(max(1, round(left)))} left")
        _clear_bar()
        logger.info("%s: %s", self._callsets(), ", ".join(filter(None, words)))

    def _callsets(self) -> str:
        names = sorted({one.callset_id[:8] for one in self._futures})
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return f"callset{'s' if len(names) > 1 else ''} {', '.join(names[:3])}{more}"


class Invoking(Progress):
    """Shows how many calls a map has invoked. The thread that calls ``map`` draws it between its own invocations.

    The arguments are those of ``Progress``. The bar is removed when the calls are invoked: then a wait shows its own.
    """

    _unit = "calls invoked"
    _said = "are invoked"
    _stays = False

    def _tally(self) -> Tally:
        counts = next((found for found in (one.counts() for one in self._origins()) if found is not None), None)
        if counts is None:  # in a forked child, which drives nothing
            return Tally(len(self._futures), 0, 0, 0, 0, 0)
        invoked = counts.total - counts.held - counts.sending
        return Tally(counts.total, invoked, counts.failed, counts.running, counts.retried, 0)


class _Bar:
    """One bar of tqdm.

    Args:
        total: how many calls there are.
        unit: what is counted, in words.
        done_before: how many of them were done before the wait, which say nothing about the speed.
        since: how many seconds ago the wait began.
    """

    def __init__(self, total: int, unit: str, *, done_before: int, since: float) -> None:
        with warnings.catch_warnings():
            # In a notebook without ipywidgets tqdm advises to install them. Its bar of text is good enough.
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm

        class Quiet(tqdm):  # type: ignore[type-arg,misc,unused-ignore]
            # tqdm's own thread, which draws bars that nothing updates, would outlive the bar.
            monitor_interval = 0

            # If stderr fails, tqdm's own two keep the lock of all bars, for which every other thread would wait.
            def refresh(self, nolock: bool = False, lock_args: object = None) -> Any:
                with contextlib.nullcontext() if nolock else self.get_lock():
                    return super().refresh(nolock=True)

            def clear(self, nolock: bool = False) -> None:
                with contextlib.nullcontext() if nolock else self.get_lock():
                    super().clear(nolock=True)

            def __del__(self) -> None:
                # tqdm's would draw wherever the garbage collector runs, and raises if the bar could not be made.
                pass

        self._bar = Quiet(
            total=total,
            initial=done_before,
            file=sys.stderr,
            dynamic_ncols=True,
            smoothing=0,  # the average: calls end in waves, whose momentary speed says little
            bar_format=f"{_BAR} {unit} [{{elapsed}}<{{remaining}}{{postfix}}]",
        )
        self._bar.start_t -= since

    def show(self, tally: Tally) -> None:
        """Draw the bar."""
        self._bar.n = tally.done
        self._bar.set_postfix_str(tally.notes(), refresh=False)
        self._bar.refresh()

    def clear(self) -> None:
        """Remove the bar from the terminal until it is drawn again."""
        self._bar.clear()

    def close(self, *, leave: bool) -> None:
        """Draw the bar for the last time and leave it where it is, or remove it."""
        is_widget = hasattr(self._bar, "container")
        if not leave:
            self._bar.total = None  # otherwise tqdm leaves a red bar in a notebook
        # None: on a terminal only the first of several bars stays, so that no bar of the program is pushed away.
        self._bar.leave = leave and (is_widget or None)
        self._bar.close()


# -- one bar at a time -----------------------------------------------------------------------------------------------

_choosing = threading.RLock()  # reentrant: the garbage collector may run a destructor that waits
_owner: weakref.ref[Progress] | None = None


def _take(progress: Progress) -> bool:
    """Tell whether this wait may show its bar now; if so, others may not."""
    global _owner
    with _choosing:
        owner = None if _owner is None else _owner()
        if owner is not None and owner is not progress:
            return False
        _owner = weakref.ref(progress)
        return True


def _leave(progress: Progress) -> None:
    global _owner
    with _choosing:
        if _owner is not None and _owner() is progress:
            _owner = None


def _clear_bar() -> None:
    """Remove the bar, which may be another thread's, before something else is written; the next look draws it again."""
    with _choosing:
        owner = None if _owner is None else _owner()
    bar = None if owner is None else owner._bar
    try:
        if bar is not None:
            bar.clear()  # without ``_choosing``: tqdm takes its own lock
    except Exception as error:  # noqa: BLE001 -- see Progress._give_up()
        logger.debug("the bar cannot be removed: %s", error)


def _start_over() -> None:
    """In a forked child, forget the bar of the parent, and the lock that one of its threads may hold."""
    global _choosing, _owner
    _choosing, _owner = threading.RLock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_over)


def _is_watched() -> bool:
    """Tell whether a person is likely to look at stderr: a terminal or a notebook, and not continuous integration."""
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        return False
    return _is_notebook() or _is_terminal()


def _is_terminal() -> bool:
    try:
        return sys.stderr is not None and bool(sys.stderr.isatty())
    except Exception as error:  # noqa: BLE001 -- closed, or an object of the program's own
        logger.debug("stderr cannot be asked whether it is a terminal: %s", error)
        return False


def _is_notebook() -> bool:
    # Only if the program runs in IPython, which is loaded then. Its kernels, unlike its terminal, have this section.
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and "IPKernelApp" in getattr(shell, "config", ())
