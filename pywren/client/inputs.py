"""``Inputs``: finds the futures in a map's arguments while the arguments are pickled."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from pywren.client.call_state import modules_sent_for, verdict_of
from pywren.client.verdict import Verdict
from pywren.future import ResponseFuture
from pywren.pickling.finished_futures import FinishedFuture
from pywren.pickling.format import ValuePlace
from pywren.pickling.mentions import Mentions
from pywren.wait import wait


class Inputs:
    """Decides how each future in the arguments is sent: as a reference to its outcome, or with the outcome inside.

    Args:
        as_values: whether a future arrives as the value of its call, and not as a finished future.
        at_once: whether to wait for the futures here, because the calls must not be held.
        mentions: what the pickles mention. The modules that were sent with the futures' own calls are added to it.
    """

    def __init__(self, *, as_values: bool, at_once: bool, mentions: Mentions) -> None:
        self._place = ValuePlace if as_values else int
        self._at_once = at_once
        self._mentions = mentions
        self._item: int | None = None  # the index of the item that is being pickled; ``None`` for the function
        self._found: dict[int, dict[ResponseFuture, int]] = {}  # only of items with futures, which most have not

    def watch(self, items: Iterable[Any]) -> Iterable[Any]:
        """Yield the items of a map, and record which item is being pickled."""
        for self._item, item in enumerate(items):
            yield item

    def persistent_id(self, obj: Any) -> int | FinishedFuture | None:
        """Return what to send in place of a future; return ``None`` for any other object.

        A future in an argument is replaced by the number of a reference. A future that the function itself refers to is
        waited for, and replaced by a finished future that contains the outcome.
        """
        if not isinstance(obj, ResponseFuture):
            return None
        self._mentions.modules.update(modules_sent_for(obj))
        if self._item is not None:
            if self._at_once and obj._origin is not None:
                _wait_for(obj)
            found = self._found.setdefault(self._item, {})
            return found.setdefault(obj, self._place(len(found)))
        _wait_for(obj)
        verdict = verdict_of(obj) or Verdict()
        ids = {"callset_id": obj.callset_id, "call_id": obj.call_id}
        if verdict.error is None:
            return FinishedFuture.of_value(verdict.value, **ids)
        return FinishedFuture.of_exception(verdict.error, **ids)

    def by_argument(self, count: int) -> Sequence[Sequence[ResponseFuture]]:
        """Return, for each argument, the futures in it, in the order of their numbers; empty if there are none.

        Raises:
            ArgumentError: a program has made one of the futures by hand, and nothing will ever end it.
        """
        if not self._found:
            return ()
        for one in chain.from_iterable(self._found.values()):
            one._invoked()  # only here: an error while the arguments are pickled would be taken for one of pickling
        return [list(self._found.get(index, ())) for index in range(count)]


def _wait_for(future: ResponseFuture) -> None:
    wait([future], progress=False)  # one bar after the other, each for one of thousands of inputs, would tell nothing
