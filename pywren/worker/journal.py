"""``JournalWriter``: writes the pages of the journal of a chunk, and heeds those of others.

It sends requests, and is used by one thread at a time (``worker.chunk``). It cannot verify what others have written,
because their key is in no payload. So it believes it: at worst the worker stops, as it would if its call had a status.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from pywren.exceptions import DecodeError, IntegrityError, StorageNoSuchKeyError
from pywren.storage import Storage
from pywren.wire.chunk import Chunk
from pywren.wire.journal import PAGE_LIMIT, Page
from pywren.wire.status import Status

logger = logging.getLogger(__name__)


class JournalWriter:
    """The journal of a chunk, for the worker that runs the chunk.

    Args:
        chunk: the chunk.
        storage: where the journal is.

    Attributes:
        others: the calls of which somebody else has written what became of them: a client that has cancelled them, or
            another worker to which the same chunk was delivered.
        ended: whether nothing can be added any more.
    """

    def __init__(self, chunk: Chunk, storage: Storage) -> None:
        self.others: frozenset[str] = frozenset()
        self.ended = False
        self._chunk = chunk
        self._storage = storage
        self._number = 1

    def write(
        self,
        statuses: Iterable[Status],
        reports: frozenset[str] = frozenset(),
        *,
        last: bool = False,
        running: str | None = None,
    ) -> None:
        """Write a page at the first number that is free, unless the journal has ended.

        Args:
            statuses: what became of calls; those of which others have written already are left out.
            reports: see ``Page``.
            last: see ``Page``.
            running: see ``Page``.

        Raises:
            StorageError: the storage cannot be read or written. It is safe to write the same again.
        """
        while not self.ended:
            kept = tuple(one for one in statuses if one.call_id not in self.others)
            if not kept and not last:
                return
            chunk, named = self._chunk, frozenset(one.call_id for one in kept)
            page = Page(chunk.callset_id, chunk.name, self._number, kept, reports & named, last, running)
            data = page.encode(chunk.key)
            # The storage decides who writes a page: a second worker, or a client that ends calls, may be as quick.
            if self._storage.put(self._key(), data, if_absent=True) or self._heed(data):
                self._number += 1
                self.ended = last
                return

    def look(self) -> None:
        """Read what others have written since.

        Raises:
            StorageError: the storage cannot be read.
        """
        before = 0
        while not self.ended and before != self._number:
            before = self._number
            self._heed(b"")

    def _heed(self, mine: bytes) -> bool:
        """Read the page at the present number, if there is one. Return whether it is this one of this worker."""
        try:
            data = self._storage.get(self._key(), limit=PAGE_LIMIT)
            if data == mine:  # the answer to the first request was lost, and botocore has sent it again
                return True
            page = Page.decode(data)
        except StorageNoSuchKeyError:
            return False
        except (DecodeError, IntegrityError) as error:
            # For readers the journal ends here.
            logger.warning("the journal of chunk %s of callset %s is damaged, so its calls are left to others: %s",
                           self._chunk.name, self._chunk.callset_id, error)  # fmt: skip
            self.ended = True
            return False
        self.others |= {status.call_id for status in page.statuses}
        self.ended = page.last
        self._number += 1
        return False

    def _key(self) -> str:
        return self._storage.keys(self._chunk.callset_id).page(self._chunk.name, self._number)
