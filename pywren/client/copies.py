"""``Copies``: chooses the copy of a function at which a call is invoked.

Lambda adds up to 1,000 environments to a function every 10 s, to each function on its own (AWS Lambda Developer Guide,
Scaling behavior, 2026). So each copy gets as many calls as it can start at once, the first copy first: small maps stay
where environments are warm. Once all copies have got as many, they take turns.

Threads that invoke share one object. Its lock is innermost: a thread that holds it only counts, and sends nothing.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable, Sequence

from pywren.exceptions import InvocationError, InvocationThrottledError
from pywren.system.forks import in_each_child

logger = logging.getLogger(__name__)

RAMP = 1000
"""How many environments Lambda adds to a function in one ``WINDOW``."""

WINDOW = 10.0
"""Seconds; see ``RAMP``."""

FIRST_REST = 1.0
LONGEST_REST = 60.0
"""Seconds for which a copy that is too busy gets no calls if others do. They double with every refusal in a row."""

ABSENT = 60.0
"""Seconds for which a copy gets no calls that does not exist or may not be invoked."""


class _Copy:
    def __init__(self, name: str) -> None:
        self.name = name
        self.invoked = 0  # in this window
        self.rests_until = 0.0
        self.rest = 0.0


class Copies:
    """The copies of a function.

    Args:
        names: their names or ARNs, the function itself first.
        clock: returns monotonic seconds.

    Attributes:
        names: see above.
        used: how many copies may have got calls: the first so many of ``names``.
    """

    def __init__(self, names: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.names = tuple(names)
        self.used = 1
        self._clock = clock
        self._copies = [_Copy(name) for name in names]
        self._window = -1.0
        self._warned: set[str] = set()
        self._begin()
        _all.add(self)

    def invoke(self, invoke: Callable[[str], str], count: int = 1) -> str:
        """Invoke a call at one copy, and return what the service answered.

        A copy that does not exist, or may not be invoked, is passed over, and one warning says so.

        Args:
            invoke: invokes the call at the copy of this name.
            count: for how many invocations it counts.

        Raises:
            InvocationThrottledError: the copy is too busy. It rests; the next call goes to another one.
            InvocationError: no copy takes the call.
        """
        tried: list[_Copy] = []
        while True:
            copy = self._choose(tried, count)
            try:
                answer = invoke(copy.name)
            except InvocationThrottledError:
                self._rest(copy)
                raise
            except InvocationError as error:
                tried.append(copy)
                if len(tried) == len(self._copies) or not _is_absent(error):
                    raise
                self._pass_over(copy, error)
            else:
                copy.rest = 0.0  # without the lock: threads that race here write the same
                return answer

    def _choose(self, tried: Sequence[_Copy], count: int) -> _Copy:
        if len(self._copies) == 1:
            return self._copies[0]
        now = self._clock()
        with self._lock:
            if now // WINDOW != self._window:
                self._window = now // WINDOW
                for one in self._copies:
                    one.invoked = 0
            left = [one for one in self._copies if one not in tried]
            # If all rest, the one whose rest ends first; of those that are equal, min() takes the first.
            chosen = min(left, key=lambda one: (max(0.0, one.rests_until - now), max(RAMP, one.invoked + 1)))
            chosen.invoked += count
            # Before the call is invoked: whoever looks for its key in Lambda's records must look there.
            self.used = max(self.used, self._copies.index(chosen) + 1)
            return chosen

    def _begin(self) -> None:
        # A forked child calls this too: a thread of the parent may have held the lock.
        self._lock = threading.Lock()

    def _rest(self, copy: _Copy) -> None:
        with self._lock:
            if copy.rests_until > self._clock():
                return  # one of many threads whose calls were refused together
            copy.rest = min(max(FIRST_REST, 2.0 * copy.rest), LONGEST_REST)
            copy.rests_until = self._clock() + copy.rest

    def _pass_over(self, copy: _Copy, error: InvocationError) -> None:
        with self._lock:
            copy.rests_until = self._clock() + ABSENT
            is_known = copy.name in self._warned
            self._warned.add(copy.name)
        if not is_known:
            logger.warning("calls go to the other copies of the function: %s", error)


def _is_absent(error: InvocationError) -> bool:
    """Tell whether another copy may take the call: only this one is missing, or may not be invoked."""
    return error.code in ("ResourceNotFoundException", "AccessDeniedException")


_all: weakref.WeakSet[Copies] = weakref.WeakSet()
in_each_child(_all, Copies._begin)
