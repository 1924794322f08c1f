"""``Fleet``: keeps the containers of all functions warm, limits their number, and makes room for new containers."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable

from pywren.testing.emulator._container import Container, Invocation, Reply
from pywren.testing.emulator._functions import Function, Revision

logger = logging.getLogger(__name__)


class Member:
    """One container, which is created when the member runs its first invocation.

    Args:
        number: the container's number.
        function: the function that it runs.
        revision: the function's revision that it runs.
        make: creates the container.
        victim: the member that this one replaces; it is ended before this member's container is created.
    """

    def __init__(
        self,
        number: int,
        function: Function,
        revision: Revision,
        make: Callable[[Function, Revision], Container],
        victim: Member | None,
    ) -> None:
        self.number = number
        self.function = function
        self.revision = revision
        self.cold = True
        self.expiry: asyncio.TimerHandle | None = None
        self._make = make
        self._victim = victim
        self._container: Container | None = None
        self._closed = False

    async def run(self, invocation: Invocation) -> Reply:
        """Run one invocation, and return its reply."""
        victim, self._victim = self._victim, None
        if victim is not None:
            await victim.close()
        if self._container is None:
            self._container = self._make(self.function, self.revision)
        return await self._container.run(invocation)

    async def close(self) -> None:
        """End the container; do nothing if the container has already been ended."""
        if self._closed:
            return
        self._closed = True
        if self.expiry is not None:
            self.expiry.cancel()
        if self._victim is not None:
            await self._victim.close()
        if self._container is not None:
            try:
                await self._container.close()
            except OSError as error:  # the directory cannot be removed, or a process has already ended
                logger.warning("container %d of %s did not end cleanly: %s", self.number, self.function.name, error)


class Fleet:
    """All containers: busy, idle and ending.

    Args:
        make: creates a container.
        is_current: tells whether a revision is still the function's current one.
        most: the maximum number of containers at any time.
        idle_seconds: the idle time after which a container is ended.
        freed: called when there is room for another container.
    """

    def __init__(
        self,
        make: Callable[[Function, Revision], Container],
        is_current: Callable[[Function, Revision], bool],
        *,
        most: int,
        idle_seconds: float,
        freed: Callable[[], None],
    ) -> None:
        self._make = make
        self._is_current = is_current
        self._most = most
        self._idle_seconds = idle_seconds
        self._freed = freed
        self._numbers = itertools.count(1)
        self._busy: set[Member] = set()
        self._idle: deque[Member] = deque()  # ordered by time of use, the most recent last
        self._ending: set[asyncio.Task[None]] = set()

    def has_warm(self, revision: Revision) -> bool:
        """Tell whether an idle container for this revision is available."""
        return any(member.revision is revision for member in self._idle)

    def take(self, function: Function, revision: Revision) -> Member | None:
        """Return the idle container that was used last, or else a new container; ``None`` when all are busy."""
        for member in reversed(self._idle):
            if member.revision is revision:
                self._unidle(member)
                self._busy.add(member)
                return member
        victim = None
        if len(self._busy) + len(self._idle) + len(self._ending) >= self._most:
            if not self._idle:
                return None
            victim = self._idle[0]
            self._unidle(victim)
        member = Member(next(self._numbers), function, revision, self._make, victim)
        self._busy.add(member)
        return member

    def give_back(self, member: Member, *, alive: bool) -> None:
        """Keep a container warm after a call, or end the container if it is dead or its revision is outdated."""
        self._busy.discard(member)
        member.cold = False
        if not alive or not self._is_current(member.function, member.revision):
            self._end(member)
            return
        self._idle.append(member)
        member.expiry = asyncio.get_running_loop().call_later(self._idle_seconds, self._expire, member)

    async def retire(self) -> None:
        """End the idle containers whose revision is outdated."""
        old = [member for member in self._idle if not self._is_current(member.function, member.revision)]
        for member in old:
            self._unidle(member)
        await asyncio.gather(*(self._end(member) for member in old))

    async def close(self) -> None:
        """End every container."""
        members = [*self._idle, *self._busy]
        for member in list(self._idle):
            self._unidle(member)
        self._busy.clear()
        await asyncio.gather(*self._ending, *(self._end(member) for member in members))

    def _unidle(self, member: Member) -> None:
        self._idle.remove(member)
        if member.expiry is not None:
            member.expiry.cancel()
            member.expiry = None

    def _expire(self, member: Member) -> None:
        self._unidle(member)
        self._end(member)

    def _end(self, member: Member) -> asyncio.Task[None]:
        """End a container in the background. The container counts towards ``most`` until it has ended."""
        task = asyncio.get_running_loop().create_task(member.close())
        self._ending.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._ending.discard(task)
        self._freed()
