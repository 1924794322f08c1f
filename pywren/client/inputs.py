"""``Inputs``: finds the futures in a map's arguments while the arguments are pickled, and waits for these futures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pywren.client.call_state import modules_sent_for, verdict_of
from pywren.client.verdict import Verdict
from pywren.future import ResponseFuture
from pywren.pickling.finished_futures import FinishedFuture
from pywren.pickling.mentions import Mentions
from pywren.wait import wait


class Inputs:
    """Decides how each future in the arguments is sent: as a reference to its stored outcome, or as its value.

    Args:
        by_reference: whether the workers can read stored outcomes.
        mentions: what the pickles mention. The modules that were sent with the futures' own calls are added to it.
    """

    def __init__(self, *, by_reference: bool, mentions: Mentions) -> None:
        self._mentions = mentions
        self._by_reference = by_reference
        self._current: dict[ResponseFuture, int] | None = None
        self._found: list[dict[ResponseFuture, int]] = []

    def watch(self, items: Iterable[Any]) -> Iterable[Any]:
        """Yield the items of a map, and record which item is being pickled."""
        for item in items:
            if self._by_reference:
                self._current = {}
                self._found.append(self._current)
            yield item

    def persistent_id(self, obj: Any) -> int | FinishedFuture | None:
        """Return what to send in place of a future; return ``None`` for any other object.

        A future is replaced by the number of a reference or by a finished future that contains the value. The value is
        sent for futures that the function itself refers to, and for all futures if the calls run on this machine.
        """
        if not isinstance(obj, ResponseFuture):
            return None
        wait([obj], progress=False)  # one bar after the other, each for one of thousands of inputs, would tell nothing
        self._mentions.modules.update(modules_sent_for(obj))
        if self._by_reference and self._current is not None:
            return self._current.setdefault(obj, len(self._current))
        verdict = verdict_of(obj) or Verdict()
        ids = {"callset_id": obj.callset_id, "call_id": obj.call_id}
        if verdict.error is None:
            return FinishedFuture.of_value(verdict.value, **ids)
        return FinishedFuture.of_exception(verdict.error, **ids)

    def by_argument(self, count: int) -> Sequence[Sequence[ResponseFuture]]:
        """Return, for each argument, the futures in it that are sent as references, in the order of their numbers."""
        if not any(self._found):
            return ()
        return [list(found) for found in self._found[:count]]
