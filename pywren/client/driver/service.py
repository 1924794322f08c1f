"""``Service``: what the callsets of one function, queue or pool share.

They share how fast the service may be asked, how many calls it runs together, and what its starts say about the calls
that have not started. A program may make one callset of 2,000 calls or 2,000 of one call; the service sees no
difference, so the decisions must not either.

It is plain data with one lock, ``lock``, which also guards the records of these callsets (``client.driver.driver``). It
has one observed clock for all of them. A callset is looked at just before it decides, so time that passed while others
were looked at has been observed for it too.

What is known here grows with the attempts that wait or run, and not with the callsets that have ended. A driver that
the program drops leaves nothing behind.
"""

from __future__ import annotations

import bisect
import math
import threading
import time
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Callable

from pywren.client.driver.calls import AttemptRecord, CallRecord, Phase
from pywren.client.driver.pace import Pace
from pywren.system.forks import in_each_child
from pywren.wire.cause import NEVER_RAN, Cause

UNSEEN = 2.0
"""Seconds for which a worker runs a call before it shows that it does; a shorter call is seen only when it ends."""

GENERATION = 30.0
"""Seconds over which waits are collected. The usual wait follows from the last two such stretches of time. After as
many seconds without any call, what is known of the service is out of date."""

USUAL = 0.95
"""The share of the waits that the usual wait is not exceeded by."""

QUEUED = 10.0
"""Seconds from which on a wait shows that there is a queue."""

FULL = 0.9
"""The part of the most attempts ever seen running together from which on the service counts as full. What ends is seen
at once, and what starts only after ``UNSEEN`` seconds, so a full service is rarely seen completely full."""

LONGEST_STEP = 15.0
"""The most seconds by which the observed time advances between two looks: three of the slowest polls. A client that did
not look for longer, because it was suspended or stuck, has observed nothing in the rest of that time."""

NEVER_STARTED = NEVER_RAN | {Cause.VANISHED, Cause.CANCELLED, Cause.REFUSED}
"""Causes of an end that do not show that the attempt has started."""

_MOST_KEPT = 4_096  # the most times at which newer attempts were seen to start; an even number
_MOST_WOKEN = 64  # callsets at once, each by a thread of its own
_ORDERING = 1e-6  # seconds for which the order of one waiting attempt may be out of date: it costs 3 % of that to renew

Waker = Callable[[], Callable[[], object] | None]
"""A weak reference to a function."""


class Histogram:
    """Counts positive numbers in bins of 10 % each, so that its quantiles cost the same for any count of numbers."""

    _LOG_WIDTH = math.log(1.1)
    _LEAST = 1e-3

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self._bins: Counter[int] = Counter()

    def add(self, value: float) -> None:
        """Count a number; less than a thousandth counts as a thousandth."""
        self.count += 1
        self.sum += value
        self._bins[math.ceil(math.log(max(self._LEAST, value) / self._LEAST) / self._LOG_WIDTH)] += 1

    def quantile(self, share: float) -> float:
        """Return the least upper edge of a bin that a share of the numbers does not exceed; ``nan`` if it is empty."""
        left = share * self.count
        for one in sorted(self._bins):
            left -= self._bins[one]
            if left <= 1e-9:
                return self._LEAST * math.exp(one * self._LOG_WIDTH)
        return math.nan


class Share:
    """What one callset has at the service.

    Attempts that wait at the service, and attempts that run, are each in one index from which they are taken when they
    end, when they are suspected, or when their call ends. The service has the same indexes for all its callsets.
    """

    def __init__(self) -> None:
        self.in_phase = [0] * len(Phase)
        # Accepted attempts that were not seen to start, and their calls, in the order in which they were accepted. Each
        # iteration passes over what was taken from the front, so each look calls ``tidy``. An OrderedDict would not
        # need that, but 33 bytes more for each call.
        self.waiting: dict[AttemptRecord, CallRecord] = {}
        self._most_waiting = 0  # since ``waiting`` was last tidied
        self.running: dict[AttemptRecord, CallRecord] = {}
        # Calls that were suspected to be dropped and gave no sign of life since.
        self.repeated: dict[CallRecord, None] = {}
        self.looked = math.nan  # when it was last looked at
        self.life = -1  # of the service, when this was added to it; a forked child has another

    def tidy(self) -> None:
        """Give back the memory of attempts that have left ``waiting``, if these are most of them."""
        self._most_waiting = max(self._most_waiting, len(self.waiting))
        if 2 * len(self.waiting) < self._most_waiting:
            before, self.waiting = self.waiting, dict(self.waiting)
            # The garbage collector may have run a destructor in between that has ended one of the calls. The lock does
            # not keep it out, as it is on this thread.
            for attempt in self.waiting.keys() - before.keys():
                del self.waiting[attempt]
            self._most_waiting = len(self.waiting)


class Service:
    """What the callsets of one service share. Unless it says otherwise, the caller of a method holds ``lock``.

    Args:
        clock: returns monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._life = 0
        self._begin()
        _services.add(self)

    def _begin(self) -> None:
        """Know nothing. A forked child calls this too: the parent's calls are not its calls."""
        # Reentrant: the garbage collector may run a destructor that cancels a call.
        self.lock = threading.RLock()
        self.pace = Pace()
        self._life += 1
        self._observed, self._looked = 0.0, self.clock()
        # Shares of drivers that nothing refers to any more. A destructor appends to it without the lock, wherever the
        # garbage collector happens to run.
        self.gone: deque[tuple[Share, Waker | None]] = deque()
        # Callsets with calls that wait until other calls end, in the order in which they began to wait.
        self._waiters: dict[Waker, None] = {}
        self.in_phase = [0] * len(Phase)  # of calls that have not ended
        self.waiting: OrderedDict[AttemptRecord, CallRecord] = OrderedDict()
        self.running: dict[AttemptRecord, CallRecord] = {}
        self.repeated: dict[CallRecord, None] = {}
        self.accepted = 0
        self.last_accepted = -math.inf  # when the service last accepted an attempt
        self.newest_started = self.newest_repeat = 0  # the orders of the newest that have started
        self._orders: list[int] = []  # of those that wait, as they were at ``_ordered``
        self._ordered = -math.inf
        self._active = math.inf  # when an attempt was last accepted or ended
        self._begin_load()

    def _begin_load(self) -> None:
        """Forget what was true of earlier calls: the load is another one now."""
        # How many repeats have started while the suspected attempt still had not, since that was last wrong.
        self.proven = 0
        self.first_accepted = math.nan
        self.last_start = math.nan  # of an attempt that was not a repeat
        self.longest_gap = 0.0  # the most seconds without such a start while an attempt waited that then started
        self.kept_up = math.nan  # when a look last found no call that waits, neither here nor there
        self.durations, self.repeat_waits = Histogram(), Histogram()
        self._waits, self._earlier_waits = Histogram(), Histogram()
        self._generation = -math.inf
        # When newer and newer attempts were seen to start, repeats included, as ``(order, time)``; both only grow.
        self._newest: list[tuple[int, float]] = []
        self.longest_delay = 0.0  # the most seconds for which an attempt was overtaken before it was seen to start
        self.queued = 0  # how many attempts have started after they had waited in a queue
        # The most attempts that were seen running together, when that last rose, and when it was last reached.
        self.peak = 0
        self._rise: tuple[int, float] | None = None  # a new peak that is not certain yet, and since when
        self.peak_rose = self.last_full = math.nan

    # -- time ------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """Return the observed time."""
        return self._observed + min(max(0.0, self.clock() - self._looked), LONGEST_STEP)

    def look(self) -> None:
        """Record that the client is looking at one of the callsets now."""
        self._observed, self._looked = self.now(), self.clock()

    # -- callsets --------------------------------------------------------------------------------------------------

    def add(self, share: Share) -> None:
        """Count what a callset has at the service."""
        self.forget_gone()
        share.life = self._life
        for phase in Phase:
            self.in_phase[phase] += share.in_phase[phase]
        self.waiting.update(share.waiting)
        self.running.update(share.running)
        self.repeated.update(share.repeated)

    def forget_gone(self) -> None:
        """Take out what the drivers have left behind that nothing refers to any more."""
        while self.gone:
            share, waker = self.gone.popleft()
            if waker is not None:
                self._waiters.pop(waker, None)
            if share.life == self._life:  # otherwise it is a driver of the parent of this process
                self._take_out(share)

    def _take_out(self, share: Share) -> None:
        for phase in Phase:
            self.in_phase[phase] -= share.in_phase[phase]
        for attempt in [*share.waiting, *share.running]:
            self._forget(share, attempt)
        for call in list(share.repeated):
            self._forgive(share, call)

    def wait_for_room(self, waker: Waker) -> None:
        """Record that a callset has calls that wait until others end."""
        self._waiters.setdefault(waker)

    def take_waiting(self, room: Callable[[], int]) -> list[Callable[[], object]]:
        """Return functions to call without the lock: they invoke calls that have waited for room, the first first.

        Args:
            room: returns how many calls may be invoked now.
        """
        if not self._waiters:
            return []
        self.forget_gone()
        found: list[Callable[[], object]] = []
        most = min(room(), _MOST_WOKEN)
        while self._waiters and len(found) < most:
            waker = next(iter(self._waiters))
            del self._waiters[waker]
            wake = waker()
            if wake is not None:
                found.append(wake)
        return found

    def outstanding(self) -> int:
        """Return how many calls have not ended."""
        return sum(self.in_phase[: Phase.ENDED])

    def move(self, share: Share, call: CallRecord, phase: Phase) -> None:
        """Change the phase of a call, and the counts."""
        before, call.phase = call.phase, phase
        share.in_phase[before] -= 1
        share.in_phase[phase] += 1
        self.in_phase[before] -= 1
        self.in_phase[phase] += 1
        if phase is Phase.SENT:
            self._note_accepted(share, call)
        elif phase is Phase.ENDED:
            self._forgive(share, call)
            for attempt in call.attempts:
                self._forget(share, attempt)

    # -- statistics --------------------------------------------------------------------------------------------------

    def _note_accepted(self, share: Share, call: CallRecord) -> None:
        attempt = call.current
        if attempt is None or math.isnan(attempt.sent) or not math.isnan(attempt.ended):
            return  # it was refused, and an earlier attempt is still in flight
        if attempt.sent > self._active + GENERATION and not (self.waiting or self.running or self.repeated):
            self._begin_load()
        self._active = attempt.sent
        self.accepted += 1
        attempt.order, attempt.beside = self.accepted, self.in_phase[Phase.SENDING]
        share.waiting[attempt] = self.waiting[attempt] = call
        if math.isnan(self.first_accepted):
            self.first_accepted = attempt.sent

    def note_start(self, share: Share, call: CallRecord, attempt: AttemptRecord, now: float) -> None:
        """Record that an attempt is seen to have started. It may be called again, whenever its worker shows itself."""
        self.waiting.pop(attempt, None)
        share.waiting.pop(attempt, None)
        repeated = call in share.repeated
        if repeated:
            self._forgive(share, call)
        if not math.isnan(attempt.ended):
            return  # its last beacon may still be in the storage
        if call.phase is not Phase.ENDED:
            share.running[attempt] = self.running[attempt] = call
        if not math.isnan(attempt.started):
            return
        attempt.started = now
        if attempt.suspected:
            self.proven, self.repeat_waits = 0, Histogram()
        elif repeated:
            self.proven, self.newest_repeat = self.proven + 1, max(self.newest_repeat, attempt.order)
        else:
            if not math.isnan(self.last_start):
                self.longest_gap = max(self.longest_gap, now - max(self.last_start, attempt.sent))
            self.last_start, self.newest_started = now, max(self.newest_started, attempt.order)
        self._note_order(attempt, now)
        if attempt.order:  # otherwise somebody else has invoked it, and it is unknown when
            if repeated and not attempt.suspected:
                self.repeat_waits.add(now - attempt.sent)
                return
            if now >= self._generation + GENERATION:
                self._earlier_waits, self._waits, self._generation = self._waits, Histogram(), now
            self._waits.add(now - attempt.sent)

    def note_end(self, share: Share, call: CallRecord, attempt: AttemptRecord) -> float | None:
        """Record that an attempt has ended, perhaps without having been seen to start. Return how long it ran.

        ``None`` if it did not bring the outcome of its call.
        """
        self._forget(share, attempt)
        self._active = attempt.ended
        if attempt.cause not in NEVER_STARTED:
            self._forgive(share, call)
            self.newest_started = max(self.newest_started, attempt.order)
        if attempt.cause is not None or call.phase is Phase.ENDED:
            return None
        # Its worker was seen UNSEEN seconds late, or the attempt did not run for so long.
        seen = attempt.ended - attempt.started
        whole = attempt.ended - attempt.sent
        duration = seen + UNSEEN if seen > 0.0 else min(whole, UNSEEN) if attempt.order else UNSEEN
        self.durations.add(duration)
        return duration

    def note_suspected(self, share: Share, call: CallRecord, attempt: AttemptRecord, cause: Cause) -> None:
        """Record that an attempt is suspected, until its worker shows itself."""
        self._forget(share, attempt)
        if cause is Cause.DROPPED:
            share.repeated[call] = self.repeated[call] = None

    def note_look(self, share: Share, now: float) -> None:
        """Record how many attempts run together. Everything that a poll found must have been entered before."""
        since, share.looked = now - share.looked, now
        share.tidy()
        if not self.waiting and not self.in_phase[Phase.HELD]:
            self.kept_up = now
        if len(self.running) <= self.peak:
            self._rise = None
        else:
            self._note_rise(len(self.running) == len(share.running), since, now)
        # Repeats alone do not show that the service is full: they follow each other slowly.
        if len(self.running) > self.proven and len(self.running) >= FULL * self.peak:
            self.last_full = now

    def _note_rise(self, all_seen: bool, since: float, now: float) -> None:
        """Record that more attempts than ever seem to run together."""
        self.peak_rose = now
        level, began = self._rise or (len(self.running), now)
        self._rise = min(level, len(self.running)), began
        # Attempts of callsets that were not looked at meanwhile may have ended. It counts when it has lasted.
        if all_seen or now - began > max(LONGEST_STEP, 2.0 * since):
            self.peak, self._rise = self._rise[0], None

    def usual_wait(self) -> float:
        """Return how long attempts usually wait before they are seen to start, in seconds; 0.0 if that is unknown.

        The larger of the last two generations counts: when a queue has been growing, or an account is full, the first
        few new starts tell more than the thousands before.
        """
        both = (self._waits, self._earlier_waits)
        return max((one.quantile(USUAL) for one in both if one.count), default=0.0)

    def overtaken_at(self, attempt: AttemptRecord) -> float:
        """Return when an attempt that was accepted later was first seen to start; ``inf`` if none was."""
        index = bisect.bisect_right(self._newest, (attempt.order, math.inf))
        return self._newest[index][1] if index < len(self._newest) else math.inf

    def last_seen_to_start(self) -> tuple[int, float]:
        """Return the order of the newest attempt of all that have started, and when it was seen to."""
        return self._newest[-1] if self._newest else (0, math.inf)

    def waiting_between(self, first: int, last: int, now: float) -> int:
        """Return how many attempts wait that were accepted after one attempt and before another, by their orders."""
        # Each poll of each callset asks. With thousands of callsets the answer may be some milliseconds old.
        if now > self._ordered + len(self._orders) * _ORDERING:
            self._orders, self._ordered = [one.order for one in self.waiting], now
        return bisect.bisect_left(self._orders, last) - bisect.bisect_right(self._orders, first)

    def _forget(self, share: Share, attempt: AttemptRecord) -> None:
        if share.waiting.pop(attempt, None) is not None:
            self.waiting.pop(attempt, None)
        elif share.running.pop(attempt, None) is not None:
            self.running.pop(attempt, None)

    def _forgive(self, share: Share, call: CallRecord) -> None:
        share.repeated.pop(call, None)
        self.repeated.pop(call, None)

    def _note_order(self, attempt: AttemptRecord, now: float) -> None:
        delay = max(0.0, now - self.overtaken_at(attempt))
        self.longest_delay = max(self.longest_delay, delay)
        if now - attempt.sent >= QUEUED:
            self.queued += 1
        if not self._newest or attempt.order > self._newest[-1][0]:
            if self._newest and self._newest[-1][1] >= now:
                self._newest.pop()  # one look finds many; in which order it does says nothing
            elif len(self._newest) >= _MOST_KEPT:
                self._thin_out()
            self._newest.append((attempt.order, now))

    def _thin_out(self) -> None:
        """Forget starts that have overtaken nothing which still waits; if there are none, every second start."""
        oldest = next(iter(self.waiting), None)
        kept = self._newest[-1:] if oldest is None else self._newest[bisect.bisect(self._newest, (oldest.order,)) :]
        self._newest = kept if len(kept) <= _MOST_KEPT // 2 else self._newest[1::2]


_services: weakref.WeakSet[Service] = weakref.WeakSet()
in_each_child(_services, Service._begin)
