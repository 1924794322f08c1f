"""``Members``: the processes of the local pool, how many there should be, and when the next processes start.

All of this happens with the pool's lock held, on the pump's thread or a caller's thread.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Mapping

from pywren.wire.cause import Cause
from pywren.wire.failure import Failure
from pywren.worker.parent.member import Member

logger = logging.getLogger(__name__)

GROW_SECONDS = 0.2
"""Seconds after the first process is ready when the others start, even if there has been no second call."""

_MAX_FAILED_ROUNDS = 3  # how many rounds in a row may fail to start a process before calls fail
_MOST_START_DELAY = 10.0
_KILLED_STARTS_SECONDS = 120.0


class Members:
    """The processes of a pool.

    The first process starts alone: interpreters that start at the same time slow each other down, and the first result
    needs only one. The others start with the second call, or ``GROW_SECONDS`` after the first process is ready.

    Args:
        size: how many processes there should be at most.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._members: list[Member] = []
        self._shown: list[tuple[str, str]] = []
        # All processes start with one environment; other variables that a call must see are sent with the call.
        self._environment: Mapping[str, str] = {}
        self._equal_environment: Mapping[str, str] | None = None  # an equal one of a caller, which never changes
        # About processes that ended before they were ready: how many there were since a process became ready, and in
        # how many rounds no process was left. After each, the next start waits longer, as long as another process can
        # run calls.
        self._failed_starts = self._failed_rounds = 0
        self._starts_at = 0.0
        self._killed_since = float("inf")  # when the first process was killed since one became ready
        self._wanted = 1
        self._grows_at = float("inf")

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def alive(self) -> int:
        """Return how many processes are not about to be killed."""
        return len([member for member in self._members if not member.dying])

    def has_idle(self) -> bool:
        """Tell whether any process could run a call immediately."""
        return any(member.idle for member in self._members)

    # -- starting ----------------------------------------------------------------------------------------------

    def start_missing(self, outstanding: int, coming: int = 0) -> bool:
        """Start the processes that are missing. If some cannot be started, one running process is enough.

        Args:
            outstanding: how many calls have no result.
            coming: how many calls are about to be added.

        Returns:
            Whether processes were missing and their start was not delayed.

        Raises:
            OSError: no process can be started, and there is none.
        """
        # The second call shows that the program makes many. It stays so until ``kill``, or until no process could
        # start.
        if outstanding + coming > 1:
            self._wanted = self._size
        if not self._members and not outstanding:
            # Only if no call waits, because waiting calls were compared with the earlier environment.
            self._environment, self._equal_environment = dict(os.environ), None
        alive = self.alive()
        # Without any living process the delay does not count: calls would wait for nothing.
        if alive and time.monotonic() < self._starts_at:
            return False
        missing = self._wanted - alive
        for _ in range(missing):
            try:
                # Appended one by one, so that those that have started are kept when the next one fails.
                self._members.append(Member(self._environment, self._show))
            except OSError:  # the machine is short of processes, memory or descriptors
                if not self.alive():
                    raise
                self._delay_starts()
                logger.warning("only %d of %d worker processes could be started", len(self._members), self._size)
                break
        return missing > 0

    def _delay_starts(self) -> None:
        """Delay the next start of a process, because starting takes memory and time from the processes with calls."""
        # Doubled with each failure up to ten seconds: memory that is short now is rarely free again within one second.
        self._starts_at = time.monotonic() + min(GROW_SECONDS * 2**self._failed_starts, _MOST_START_DELAY)
        self._failed_starts += 1

    def note_ready(self, member: Member) -> None:
        """Record that a process is ready."""
        member.ready = True
        member.last = member.started = time.monotonic()
        self._failed_starts = self._failed_rounds = 0
        self._starts_at = 0.0
        self._killed_since = float("inf")
        # Count from this moment, not from the start of the process: a slow machine may take longer than that to start
        # it.
        # Each start that becomes ready sets this anew. It is infinite again as soon as the others have been started.
        if self._wanted < self._size:
            self._grows_at = member.started + GROW_SECONDS

    def next_start(self) -> float:
        """Return the monotonic time when the next processes must be started; infinity when none must be."""
        return min(self._grows_at, self._starts_at) if self._is_missing_some() else self._grows_at

    def start_due(self, outstanding: int) -> None:
        """Start the processes whose time has come.

        Raises:
            OSError: no process can be started, and there is none.
        """
        now = time.monotonic()
        if now >= self._grows_at:
            self._wanted, self._grows_at = self._size, float("inf")
            self.start_missing(outstanding)
        elif self._is_missing_some() and now >= self._starts_at:
            self.start_missing(outstanding)

    def _is_missing_some(self) -> bool:
        """Whether there are processes whose start was delayed and has not happened yet."""
        return bool(self._starts_at) and self.alive() < self._wanted

    # -- ending ------------------------------------------------------------------------------------------------

    def remove(self, member: Member, last: Failure) -> None:
        """Remove a process that has ended. Delay the next start if this process could not start.

        Args:
            member: the process.
            last: the failure with which it ended.
        """
        self._members.remove(member)
        # A process that ended after it was ready died of a call, and one that was killed was meant to end. Neither says
        # anything about the machine.
        if member.ready or member.killed or self._was_killed_while_starting(last):
            return
        self._delay_starts()
        if not self.alive():
            # This machine may not have enough memory to start several processes together, so the next one starts alone.
            self._failed_rounds += 1
            self._wanted = 1

    def _was_killed_while_starting(self, last: Failure) -> bool:
        """Tell whether somebody has killed a process that was starting, which says nothing about the next one.

        Something that kills every process, such as a lack of memory, is believed to be the machine's state after
        ``_KILLED_STARTS_SECONDS`` without a process that became ready.
        """
        # Where the exit code is unknown, a process that was killed cannot be told from one that cannot start.
        if last.cause is not Cause.KILLED or last.details == (None,):
            return False
        now = time.monotonic()
        self._killed_since = min(self._killed_since, now)
        return now - self._killed_since < _KILLED_STARTS_SECONDS

    def give_up(self, last: Failure) -> Failure | None:
        """If too many starts in a row have failed, return why and reset the count; otherwise return ``None``.

        Args:
            last: the failure with which the last process ended.
        """
        if self._failed_rounds < _MAX_FAILED_ROUNDS:
            return None
        self._failed_rounds = 0
        self._killed_since = float("inf")
        text = f"worker processes cannot start on this machine: {_MAX_FAILED_ROUNDS} in a row ended while starting"
        return last._replace(message=f"{text}. Last failure: {last.message}")

    def kill(self) -> None:
        """Condemn all processes. The next use of the pool starts with a single process again."""
        self._wanted, self._grows_at = 1, float("inf")
        for member in self._members:
            member.kill()

    def take_condemned(self) -> list[Member]:
        """Return the processes that must be killed, each of them only once."""
        # Cleared here with the lock held, so each is killed once. It stays a member until ``pidfd`` reports its end.
        found = [member for member in self._members if member.condemned]
        for member in found:
            member.condemned = False
        return found

    def close(self) -> None:
        """Kill all processes, and wait until they have ended."""
        for member in self._members:
            # Only after a failure of the pump. The lock is held until the processes have ended, but the pool takes no
            # more calls.
            member.process.close()
            member.close_shown()
        self._members.clear()

    def forget_after_fork(self) -> None:
        """Drop the processes in a process that was forked from the client: they belong to the client."""
        for member in self._members:
            # Only the descriptors of this copy are closed. A signal or a wait here would reach the children of the
            # other process.
            member.process.forget()
            member.close_shown()

    # -- shown output ------------------------------------------------------------------------------------------

    def _show(self, stream: str, text: str) -> None:
        # Called by ``OutputTail`` with the pool's lock held. A write to the terminal here would stop every caller while
        # it blocks.
        self._shown.append((stream, text))

    def take_shown(self) -> list[tuple[str, str]]:
        """Return the output to show, as pairs of the stream's name and a text. Each piece is returned only once."""
        shown, self._shown = self._shown, []
        return shown

    # -- environment -------------------------------------------------------------------------------------------

    def environment_changes(self, environment: Mapping[str, str] | None) -> dict[str, str | None]:
        """Return the variables in which an environment differs from the processes' own; ``None`` marks a missing one.

        Args:
            environment: the environment, which must never change afterwards; ``None`` for the processes' own
                environment.
        """
        if environment is None or environment is self._equal_environment:
            return {}
        if environment == self._environment:
            self._equal_environment = environment  # because comparing again would take as long as a small call
            return {}
        before = self._environment
        changed: dict[str, str | None] = {
            name: value for name, value in environment.items() if before.get(name) != value
        }
        return changed | dict.fromkeys(before.keys() - environment.keys())
