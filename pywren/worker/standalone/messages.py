"""``MessagesUnderWork``: the messages whose calls are running. A heartbeat hides these messages from other workers.

Threads: the polling thread adds messages and waits for room, each call's thread removes its own, and one thread,
``pywren-queue-heartbeat``, extends the visibility time-out of all of them. One condition guards the table; no request
is sent while it is held.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from pywren.exceptions import PywrenError

if TYPE_CHECKING:
    from pywren.aws.requests import Message

logger = logging.getLogger(__name__)


class MessagesUnderWork:
    """The messages whose calls are running, and the thread that keeps the messages hidden.

    Args:
        hide: hides a message for some more time.
        interval: seconds between two extensions.
        clock: returns monotonic seconds.
    """

    def __init__(self, hide: Callable[[Message], None], interval: float, clock: Callable[[], float]) -> None:
        self._hide = hide
        self._interval = interval
        self._clock = clock
        # By receipt handle: SQS gives a new one at each delivery, so a message that came back is a different entry.
        self._messages: dict[str, Message] = {}
        self._not_kept: set[str] = set()  # receipts whose errors have been logged; the errors repeat with every beat
        self._changed = threading.Condition()
        self._idle_since = clock()
        self._being_hidden: str | None = None  # the receipt in the heartbeat's current request
        # The heartbeat sleeps on it, so the end of the worker never waits for an interval.
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pywren-queue-heartbeat", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._over.set()  # the calls have ended: the pool of their threads was closed earlier
        self._thread.join()

    def __len__(self) -> int:
        # Without the lock: only the polling thread adds messages, so for that thread the number can only be too high,
        # and it asks for one message too few.
        return len(self._messages)

    @property
    def idle(self) -> float | None:
        """Seconds since the last message was removed; ``None`` while there are messages."""
        with self._changed:
            return None if self._messages else self._clock() - self._idle_since

    def add(self, message: Message) -> None:
        """Keep a message hidden from now on."""
        with self._changed:
            # SQS has just hidden it for VISIBILITY seconds; the first beat comes after HEARTBEAT at the latest, a third
            # of that.
            self._messages[message.receipt] = message

    def remove(self, message: Message) -> None:
        """Stop hiding a message. After this returns, no request of the heartbeat affects it."""
        with self._changed:
            # An extension that arrived after the message was given back would hide it from every worker.
            # At most one request long. The lock is released meanwhile, so the heartbeat can finish.
            self._changed.wait_for(lambda: self._being_hidden != message.receipt)
            del self._messages[message.receipt]
            self._not_kept.discard(message.receipt)
            self._idle_since = self._clock()
            self._changed.notify_all()

    def wait_for_room(self, limit: int, over: threading.Event) -> None:
        """Wait until there are fewer messages than the limit, or until ``over`` is set and ``wake`` is called."""
        with self._changed:
            # The polling thread sleeps here while all slots are busy. remove() and wake() notify it.
            self._changed.wait_for(lambda: len(self._messages) < limit or over.is_set())

    def wake(self) -> None:
        """Make ``wait_for_room`` check its conditions again."""
        with self._changed:
            self._changed.notify_all()

    def _beat(self) -> None:
        while not self._over.wait(self._interval):
            # A copy (``list`` of a dict is atomic): the calls' threads remove entries meanwhile, which ``_extend``
            # notices.
            for receipt in list(self._messages):
                # One request each, on one thread: with HEARTBEAT at a third of VISIBILITY, a round may take some 40
                # seconds before the first message shows again.
                self._extend(receipt)

    def _extend(self, receipt: str) -> None:
        with self._changed:
            message = self._messages.get(receipt)
            if message is None:
                return  # the message was removed after the beat began
            self._being_hidden = receipt
        try:
            # Without the lock: add() and remove() of other messages must not wait for a request.
            self._keep(message)
        finally:
            with self._changed:
                # In a finally: remove() of this message waits for it.
                self._being_hidden = None
                self._changed.notify_all()

    def _keep(self, message: Message) -> None:
        try:
            self._hide(message)
        except PywrenError as error:
            # At worst another worker also runs the call; the first status wins.
            if message.receipt not in self._not_kept:
                logger.warning("cannot keep a message hidden from other workers: %s", error)
            self._not_kept.add(message.receipt)
        except Exception:  # whatever the error is, the heartbeat must continue for the other messages
            logger.exception("cannot keep a message hidden from other workers")
