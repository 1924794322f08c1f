"""``Lease``: shows all clients of a storage which of them drives a callset. ``held`` reads it.

Only the thread that polls a callset calls the methods of its lease, and it holds no lock meanwhile: they send requests.
All times are by the storage's clock, so the clocks of the clients do not matter.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable

from pywren.client.callset import Callset
from pywren.exceptions import DecodeError, IntegrityError, StorageError, StorageNoSuchKeyError
from pywren.storage import Storage
from pywren.wire.lease import LEASE_LIMIT, Holder
from pywren.wrenutil import uuid_str

logger = logging.getLogger(__name__)

FIRST_WRITE = 10.0
"""Seconds from the submission of a callset to the first write of its lease. Most callsets have ended by then, and cost
no request."""

RENEWAL = 60.0
"""Seconds between two renewals."""

STALE = 180.0
"""Seconds after which a lease that was not renewed counts as given up: two renewals have failed, and some more."""

YOUNG = 60.0
"""The age in seconds below which a callset without a lease counts as held by the client that made it."""


class Lease:
    """The lease of one client on one callset.

    Args:
        storage: where the callset is.
        callset: the callset; ``callset.submitted`` must be set already.
        clock: returns seconds since the epoch; by default it is the storage's clock.
    """

    def __init__(self, storage: Storage, callset: Callset, clock: Callable[[], float] | None = None) -> None:
        self._storage = storage
        self._callset = callset
        self._clock = storage.now if clock is None else clock
        self._id = uuid_str()
        self._since: float | None = None
        self._renewed: float | None = None  # when this client last wrote the lease; None before the first write
        self._lost = False

    def renew_if_due(self) -> bool:
        """Write or renew the lease if it is time to do so. Return whether this client may drive the callset.

        The answer is False once another client has taken the lease over, and then stays False. If the storage cannot
        be reached, the answer is True for as long as others see the last renewal as fresh.
        """
        if self._lost:
            return False
        now = self._clock()
        if self._is_due(now):
            try:
                self._lost = not self._renew(now)
            except StorageError as error:
                logger.debug("cannot renew the lease on callset %s: %s", self._callset.id, error)
                # Not lost for good: if nobody takes the lease meanwhile, a later renewal succeeds.
                return now - (self._callset.submitted if self._renewed is None else self._renewed) < STALE
        return not self._lost

    def acquire(self, *, over_any: bool = False) -> bool:
        """Write the lease now, unless another client holds it. Return whether this client holds it.

        Args:
            over_any: whether the present holder is known to be dead, however fresh its lease is.

        Raises:
            StorageError: the lease could not be read or written.
        """
        self._lost = not self._renew(self._clock(), over_any)
        return not self._lost

    def release(self) -> None:
        """Delete the lease if this client holds it, so that another client need not wait until it is stale."""
        if self._renewed is None or self._lost:
            return
        try:
            found = _read(self._storage, self._callset)
            # Between this and the deletion another client could take the lease only if it is stale, that is, if this
            # client was suspended here. The other client then notices at its next renewal.
            if found is not None and found.id == self._id:
                self._storage.backend.delete([self._callset.keys.lease])
        except StorageError as error:
            logger.debug("cannot release the lease on callset %s: %s", self._callset.id, error)
        self._renewed = None

    def _is_due(self, now: float) -> bool:
        # abs(): a clock that was set back must not postpone the next renewal by as much.
        if self._renewed is None:
            return abs(now - self._callset.submitted) >= FIRST_WRITE
        return abs(now - self._renewed) >= RENEWAL

    def _renew(self, now: float, over_any: bool = False) -> bool:
        key, secret = self._callset.keys.lease, self._callset.known_secret()
        since = now if self._since is None else self._since
        data = Holder(self._id, socket.gethostname(), os.getpid(), since, now).encode(secret)
        # The first write is conditional, so of two clients that begin at the same time only one gets the lease. Later
        # writes read first: a client that slept for an hour finds that another one has taken over.
        if self._renewed is not None or not self._storage.put(key, data, if_absent=True):
            found = _read(self._storage, self._callset)
            if found is not None and found.id != self._id and _is_fresh(found, now) and not over_any:
                return False
            self._storage.put(key, data)
        self._since, self._renewed = since, now
        return True


def held(storage: Storage, callset: Callset, clock: Callable[[], float] | None = None) -> Holder | None:
    """Return which client drives a callset; ``None`` if none does, as far as the storage shows.

    A lease that is unsigned or signed with another key counts as none. A callset that is younger than ``YOUNG`` and has
    no lease counts as held by the client that made it; the ``id`` of this holder is empty.

    Args:
        storage: where the callset is.
        callset: the callset.
        clock: returns seconds since the epoch; by default it is the storage's clock.

    Raises:
        StorageError: the lease could not be read.
    """
    found = _read(storage, callset)
    now = (storage.now if clock is None else clock)()  # after the request, whose answer shows S3's time
    if found is not None:
        return found if _is_fresh(found, now) else None
    if abs(now - callset.submitted) < YOUNG:
        return Holder("", "", 0, callset.submitted, callset.submitted)
    return None


def _is_fresh(holder: Holder, now: float) -> bool:
    # abs(): a lease from the future was written before the clock was set back, and says as little as an old one.
    return abs(now - holder.renewed) < STALE


def _read(storage: Storage, callset: Callset) -> Holder | None:
    key = callset.keys.lease
    try:
        return Holder.decode(storage.get(key, limit=LEASE_LIMIT), callset.known_secret())
    except StorageNoSuchKeyError:
        return None
    except (IntegrityError, DecodeError) as error:
        logger.debug("the lease %s is ignored: %s", key, error)
        return None
