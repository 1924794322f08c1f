"""``Watch``: the descriptors that the pump waits for: a wake-up pipe, and the descriptors of each member.

Only the pump calls ``wait``, without the pool's lock. ``wake`` may be called by any thread at any time. Everything else
happens with the lock held.
"""

from __future__ import annotations

import os
import select

from pywren.worker.descriptors import drain, pipe
from pywren.worker.parent.member import Member
from pywren.worker.parent.members import Members


class Watch:
    """The descriptors that the pump waits for. The wake-up pipe exists only after ``open``."""

    def __init__(self) -> None:
        # poll(2) rather than epoll(7), which macOS lacks. A poll object refuses a second ``poll`` at the same time, and
        # only the pump calls it.
        self._poll = select.poll()
        self._owners: dict[int, Member] = {}
        self._wake_in = self._wake_out = -1

    def open(self) -> None:
        """Create the wake-up pipe."""
        if self._wake_in >= 0:  # Ctrl-C has kept the pump from being started after this
            return
        wake_in, wake_out = pipe()
        for descriptor in (wake_in, wake_out):
            os.set_blocking(descriptor, False)  # a full pipe wakes the pump as well as a pipe with one byte
        self._poll.register(wake_in, select.POLLIN)
        self._wake_in, self._wake_out = wake_in, wake_out

    def close(self) -> None:
        """Close the wake-up pipe."""
        if self._wake_in >= 0:
            self._poll.unregister(self._wake_in)
            os.close(self._wake_in)
            os.close(self._wake_out)
            self._wake_in = self._wake_out = -1

    def wake(self) -> None:
        """Wake the pump."""
        try:
            # A pipe remembers: a wake-up that comes before ``wait`` ends that wait at once. A condition variable would
            # lose it. After ``close`` the number is -1, so the write fails (EBADF). All callers hold the pool's lock,
            # as ``close`` does. Otherwise the number could be closed and belong to another file by now.
            os.write(self._wake_out, b"w")
        except OSError:
            pass  # the pipe is full, so the pump wakes anyway; or the pump has ended

    def wait(self, milliseconds: float | None) -> list[tuple[int, int]]:
        """Wait for a descriptor or until the time is up. Return the descriptors that are ready, with their events."""
        # Without the lock, so that callers can submit meanwhile. Only the pump changes what is watched while it runs.
        return self._poll.poll(milliseconds)

    def member_of(self, descriptor: int) -> Member | None:
        """Return the member whose descriptor is ready; ``None`` for the wake-up pipe, which is then emptied."""
        if descriptor == self._wake_in:
            # Emptied before the turn, with the lock held: a wake-up that comes after this stays in the pipe for the
            # next wait.
            drain(descriptor)
            return None
        return self._owners[descriptor]

    def update(self, members: Members) -> None:
        """Watch exactly the descriptors that each member names now."""
        for member in members:
            if member.watched_for != member.watch_for:
                self._update(member)

    def _update(self, member: Member) -> None:
        member.watched_for = member.watch_for
        wanted = member.events()
        for descriptor in [number for number in member.watched if number not in wanted]:
            self._poll.unregister(descriptor)
            del member.watched[descriptor], self._owners[descriptor]
        for descriptor, events in wanted.items():
            if member.watched.get(descriptor) != events:
                self._poll.register(descriptor, events)
                member.watched[descriptor] = events
                self._owners[descriptor] = member

    def forget(self, member: Member) -> None:
        """Stop watching a member whose descriptors are about to be closed."""
        # Before they are closed: the kernel gives a closed number to the next file, and ``poll`` would report that as
        # this member's.
        for descriptor in [number for number, owner in self._owners.items() if owner is member]:
            self._poll.unregister(descriptor)
            del self._owners[descriptor]
