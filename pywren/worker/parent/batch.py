"""``Batch``: the calls of one ``submit`` to the local pool, with snapshots of everything that they need.

A batch has no lock of its own. ``add`` runs on the submitting thread before any other thread knows the batch.
Everything else happens with the pool's lock held.
"""

from __future__ import annotations

import itertools
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from pywren.pickling.packed import Packed, Scalars
from pywren.worker import frames
from pywren.worker.frames import Outgoing, UnlinkedFile
from pywren.worker.pages import Page
from pywren.worker.protocol import function_segments, packed_segments
from pywren.worker.task import Function, Repeat, Repeats, RunResult

Entry = Any
"""An argument as it is sent to a child: the number or string itself; the pickle; or for any other argument,
``(segments or (arena, offset, sizes), references)``.

A reference is an encoded outcome or, if that is big, ``(arena, offset, size)``.
"""

OnStart = Callable[[int], None]
Label = Callable[[int], str]
OnResults = Callable[[list[tuple[int, RunResult]]], Sequence[Repeat] | None]
"""Gets ``[(index, result), …]``, all results that have arrived together, and returns the calls to run again.

Only calls that ``Repeats`` includes may run again. Every other result is final, and there is exactly one final result
for every call.
"""


OnPage = Callable[[Sequence[int], Page], None]
"""Gets the indices of calls that have returned, and their results, in place of ``OnResults``."""


# Any thread takes the next key, without a lock: ``next`` of a count is one step in CPython.
_keys = itertools.count(1)
_arena_numbers = itertools.count(1)

# On Linux an arena is memory (memfd_create(2)) until the last of its calls ends, so a bigger one would keep the
# arguments of ended calls for longer. A smaller one would use more descriptors: one here, and one in each child that
# has the arena.
_ARENA_BYTES = 64 * 1024 * 1024
# The most bytes of arguments that one ``take`` gives to a child. A call that is taken back sends its argument to the
# other child once more, so this bounds what is sent in vain.
_INLINE_AHEAD_BYTES = 128 * 1024
_BIG_ENTRY_BYTES = 1024  # what a big argument counts as, because only its place in an arena is sent


def _no_label(_: int) -> str:
    return ""


class Batch:
    """The calls of one ``submit``. Only the pool makes and uses it.

    Args:
        function: the function that all calls of the batch run.
        function_key: the number that identifies the function on the channels to children.
        function_frame: the frame that gives a child the function under that key.
        extra_env: environment variables of these calls; ``None`` hides a variable from them.
        timeout: seconds after which a call is killed.
        show_output: whether what these calls print is shown as it arrives.
        label: returns what to put before each line that a call, of which it gets the index, shows.
        on_start: called with the index of a call that is running.
        on_results: called with results as they arrive.
        repeats: which failed calls may run again.
        most_processes: the most processes that hold calls of this batch at the same time; ``None`` for no limit.
        on_tick: called again and again, with 0, as long as calls are outstanding; ``None`` if it is not needed.
    """

    def __init__(
        self,
        function: Function,
        function_key: int,
        function_frame: Outgoing,
        extra_env: Mapping[str, str | None],
        timeout: float | None,
        show_output: bool,
        on_start: OnStart | None,
        on_results: OnResults,
        repeats: Repeats = Repeats.NEVER,
        most_processes: int | None = None,
        on_tick: OnStart | None = None,
        label: Label | None = None,
    ) -> None:
        # ``Ledger.add`` sets both, with the pool's lock held. Until then only the submitting thread has the batch.
        self.number, self.is_accepted = 0, False
        # The function itself is not kept, because its arrays may be big. The frame contains a snapshot of the arrays.
        self.function_id, self.load_anew = function.id, function.load_anew
        self.function_key, self.function_frame = function_key, function_frame
        self.extra_env = dict(extra_env)
        # All other variables that these calls see, in a mapping that never changes; ``None`` for those of the children.
        self.environment: Mapping[str, str] | None = None
        self.timeout = timeout
        self.show_output = show_output
        self.label = label or _no_label
        self.on_start = on_start
        self.on_results = on_results
        self.entries: list[Entry] = []
        self.arenas: list[Arena] = []
        # Where the big references are that calls share, by the ``id`` of the bytes, which ``Arena.shared`` keeps alive.
        self._places: dict[int, Place] = {}
        self.has_big_references = False
        self.done = bytearray()
        self.remaining = 0
        self.repeats, self.most_processes = repeats, most_processes
        self.cancelled: set[int] = set()
        # Failed calls whose results are with ``on_results``, which decides whether they run again. Each keeps its
        # argument until then.
        self.undecided: set[int] = set()
        self.on_tick, self.ticks_at = on_tick, 0.0
        # Calls that a second process has been given while the first had them. Their results say which process it was.
        self.doubled: set[int] = set()
        self.collected: list[tuple[int, RunResult]] = []
        self.on_page: OnPage | None = None
        self.pages: list[tuple[Sequence[int], Page]] = []
        # Calls that wait for ``let_go``, because their references are not known yet.
        self.held: set[int] = set()
        # How many bytes an entry may have, so that ``take`` need not look at each; nobody has looked at pickles.
        self._largest = _INLINE_AHEAD_BYTES
        self._cursor = 0  # the first call that was never given to a child
        self._returned: deque[int] = deque()  # calls that were taken back from a child

    def add(
        self, arguments: Sequence[Packed], references: Sequence[Sequence[bytes]] | None, held: Collection[int] = ()
    ) -> None:
        """Add calls to the batch, with snapshots of the arguments, because the caller may change them later."""
        limit = frames.INLINE_LIMIT
        # No lock is held here, on purpose: copying gigabytes must stop neither the pump nor other callers.
        if isinstance(arguments, Scalars):
            self.entries, self._largest = arguments.values.copy(), arguments.largest
        else:
            self.entries = [
                packed.data if not packed.buffers and len(packed.data) <= limit else self._snapshot(packed)
                for packed in arguments
            ]
        for index, needed in enumerate(references or ()):
            self._refer(index, needed)
        self.held.update(held)
        self.remaining = len(self.entries)
        self.done = bytearray(self.remaining)

    def extend(self, argument: bytes) -> None:
        """Add one more call, whose argument is a plain pickle, while earlier calls are outstanding."""
        self._largest = max(self._largest, len(argument))  # before ``take`` may find the entry
        self.entries.append(argument)
        self.done.append(0)
        self.remaining += 1

    def _refer(self, index: int, references: Sequence[bytes]) -> None:
        if references:
            entry = self.entries[index]
            # References travel only in the last form, which the child tells from the others by its type
            # (``PoolChild._argument``). Numbers and strings have none.
            where = [entry] if type(entry) is bytes else entry[0]
            self.entries[index] = (where, list(references))
            self.has_big_references = self.has_big_references or any(map(_is_big, references))

    def let_go(self, index: int, references: Sequence[bytes]) -> bool:
        """Let a call go that was held. Return whether it must be queued, because its turn has passed."""
        self._refer(index, references)  # before it counts as let go: ``Ledger.repair`` may queue it from then on
        self.held.remove(index)
        return index < self._cursor

    def _snapshot(self, packed: Packed) -> Entry:
        segments = packed_segments(packed)
        sizes = [memoryview(segment).nbytes for segment in segments]
        if sum(sizes) <= frames.INLINE_LIMIT:
            return [bytes(segment) for segment in segments], ()
        arena, offset = self._keep(segments, sum(sizes))
        arena.calls += 1
        return (arena, offset, sizes), ()

    def _keep(self, segments: Sequence[frames.Buffer], size: int) -> tuple[Arena, int]:
        """Write segments to an arena, and return it and where they begin."""
        # What is bigger than a whole arena gets an arena of its own, and nothing is added to that one.
        if self.arenas and self.arenas[-1].file.size + size <= _ARENA_BYTES:
            return self.arenas[-1], self.arenas[-1].file.append(segments)
        arena = Arena()
        offset = arena.file.append(segments)
        self.arenas.append(arena)
        return arena, offset

    def place_references(self, indices: Sequence[int]) -> None:
        """Write the big references of calls, which are about to be given to a child, to an arena.

        Calls that share a reference share its place, so that an object is not copied for each call that refers to it.
        Not before, because calls that wait may have more references than memory has room for twice.
        """
        for index in indices:
            entry = self.entries[index]
            references: Any = entry[1] if type(entry) is tuple else ()
            for position, reference in enumerate(references):
                if _is_big(reference):
                    # No room, or no descriptor left: it is sent in the frame.
                    with suppress(OSError):
                        references[position] = self._placed(reference)

    def _placed(self, reference: bytes) -> Place:
        place = self._places.get(id(reference))
        if place is None:
            arena, offset = self._keep([reference], len(reference))
            place = self._places[id(reference)] = Place(arena, offset, len(reference))
            arena.shared.append(reference)
        place.arena.calls += 1
        return place

    def arenas_of(self, index: int) -> Iterator[Arena]:
        """Yield the arenas that contain the argument of a call and its references, each as often as it is used."""
        entry = self.entries[index]
        # ``None`` is an argument whose call has ended: ``Ledger.finish`` drops the argument, and asks for its arenas
        # before.
        if type(entry) is not tuple:
            return
        where, references = entry
        if type(where) is tuple:
            yield where[0]
        for reference in references:
            if type(reference) is Place:
                yield reference.arena

    def drop_arena(self, arena: Arena) -> None:
        """Let go of an arena that no call uses any more."""
        # The file closes with its last reference.
        self.arenas.remove(arena)
        for reference in arena.shared:
            del self._places[id(reference)]

    def entry(self, index: int) -> Entry:
        """Return the argument of a call in the form in which it is sent."""
        entry = self.entries[index]
        if type(entry) is not tuple:
            return entry
        where, references = entry
        if type(where) is tuple:
            where = (where[0].number, *where[1:])
        return where, [(one[0].number, *one[1:]) if type(one) is Place else one for one in references]

    @property
    def waiting(self) -> int:
        """How many calls no child holds, at most: cancelled and held calls are included until ``take`` skips them."""
        return len(self._returned) + len(self.entries) - self._cursor

    def given(self) -> list[int]:
        """Return the calls that were taken to be given to children, and have not ended or come back since."""
        elsewhere = {*self._returned, *self.undecided, *self.held}
        return [index for index in range(self._cursor) if not self.done[index] and index not in elsewhere]

    def recount(self) -> None:
        """Count the calls that have no result, after Ctrl-C has come between two steps of a change."""
        self.done.extend(bytes(len(self.entries) - len(self.done)))
        self.remaining = self.done.count(0)

    def is_returned(self, index: int) -> bool:
        """Tell whether a call was taken back from a child and waits for another."""
        return index in self._returned

    def give_back(self, indices: Sequence[int]) -> None:
        """Put calls that were taken back from a child in front of all other calls."""
        # ``extendleft`` reverses what it is given. Reversed twice, the calls keep the order of the map.
        self._returned.extendleft(reversed(indices))

    def take(self, count: int) -> list[int]:
        """Take calls to give to a child: first the calls that were taken back, and not too many bytes in total."""
        indices: list[int] = []
        # No limit on bytes here: what one child held was limited when it was given. Calls that were cancelled while
        # they waited are skipped here, because removing them from the middle of a deque would take time for each.
        while self._returned and len(indices) < count:
            index = self._returned.popleft()
            if not self.done[index]:
                indices.append(index)
        start, end = self._cursor, min(self._cursor + count - len(indices), len(self.entries))
        if self.done.find(1, start, end) < 0 and not self.held and (end - start) * self._largest <= _INLINE_AHEAD_BYTES:
            self._cursor = end
            return [*indices, *range(start, end)]  # all of them, as in most long maps
        size = 0
        while self._cursor < len(self.entries) and len(indices) < count and size < _INLINE_AHEAD_BYTES:
            index, self._cursor = self._cursor, self._cursor + 1
            if not self.done[index] and index not in self.held:
                size += _inline_size(self.entries[index])
                indices.append(index)
        return indices


class Arena:
    """One unlinked file for many big arguments and references. A file for each would use up the descriptors.

    Attributes:
        number: names the arena on the channels to children.
        calls: how many times calls that have not ended use it.
        shared: the references in it.
    """

    def __init__(self) -> None:
        self.number = next(_arena_numbers)
        self.file = UnlinkedFile()
        self.calls = 0
        self.shared: list[bytes] = []


class Place(NamedTuple):
    """Where a big reference is: in an arena, from a byte on, so many bytes."""

    arena: Arena
    offset: int
    size: int


def _is_big(reference: bytes | Place) -> bool:
    return type(reference) is bytes and len(reference) > frames.INLINE_LIMIT


def _inline_size(entry: Entry) -> int:
    """Return how many bytes are sent to a child for an argument, not counting what it finds in an arena."""
    if type(entry) is tuple:
        return _BIG_ENTRY_BYTES + _inline_bytes(entry[1])
    return len(entry) if type(entry) is bytes else sys.getsizeof(entry)


def _inline_bytes(references: Sequence[bytes | Place]) -> int:
    return sum(len(one) for one in references if type(one) is bytes and len(one) <= frames.INLINE_LIMIT)


class EncodedFunctions:
    """Encodes functions for children. It keeps the last encoded function, because maps often use it again.

    Any thread may use it without a lock: what it keeps is replaced in one step.
    """

    def __init__(self) -> None:
        self._last: tuple[str | bytes, int, Outgoing] | None = None

    def encode(self, function: Function) -> tuple[int, Outgoing]:
        """Return a key for a function, and the frame that gives a child the function under that key.

        The frame is a snapshot, and can be sent to any number of children. A big function is written to a file, which
        all these children map.
        """
        last = self._last
        if last is None or last[0] != function.id:
            key = next(_keys)
            frame = frames.encode(frames.FUNCTION, number=key, segments=function_segments(function))
            last = self._last = (function.id, key, frame)
        return last[1], last[2]

    def forget(self) -> None:
        """Drop the encoded function that is kept, because it may be big."""
        self._last = None
