"""Unpickles functions and arguments on a worker, with the futures in them and the objects that are found by name."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any

from pywren.pickling.finished_futures import FinishedFuture
from pywren.pickling.format import FUTURE, NAMES_FOLLOW, VALUE, Names
from pywren.pickling.packed import Packed, loads


def load_argument(packed: Packed, references: Sequence[bytes] = ()) -> Any:
    """Unpickle the argument of a call.

    Args:
        packed: the argument.
        references: encoded outcomes of earlier calls; each future in the argument stands for one of them.

    Raises:
        BaseException: the error of an earlier call whose value is part of the argument.
    """
    return _ArgumentUnpickler(packed, references).load()


def load_with_names(packed: Packed, references: Sequence[bytes] = ()) -> tuple[Any, Names]:
    """Unpickle a function or an argument. Also return the objects in it that must be found by name.

    Args:
        packed: the function or argument; if its data ends with ``NAMES_FOLLOW``, it has names.
        references: encoded outcomes of earlier calls.
    """
    if not packed.data.endswith(NAMES_FOLLOW):
        return load_argument(packed, references) if references else loads(packed), {}
    unpickler = _ArgumentUnpickler(packed, references)
    obj = unpickler.load()
    from pywren.pickling.by_value._hints import known_hints  # here: a worker loads it only for functions that need it

    names: Names = unpickler.load()
    return obj, known_hints(names)


class _ArgumentUnpickler(pickle.Unpickler):
    """Unpickles an argument and turns its references into finished futures, or into the values of these.

    Equal references become the same future, or the same value.
    """

    def __init__(self, packed: Packed, references: Sequence[bytes]) -> None:
        super().__init__(io.BytesIO(packed.data), buffers=packed.buffers)
        self._references = references
        self._futures: dict[int, FinishedFuture] = {}

    def persistent_load(self, pid: Any) -> Any:
        mark, place, callset_id, call_id = pid
        if mark not in (FUTURE, VALUE):
            raise pickle.UnpicklingError(f"unknown persistent id {pid!r}")
        if place not in self._futures:
            self._futures[place] = FinishedFuture(self._references[place], callset_id=callset_id, call_id=call_id)
        future = self._futures[place]
        return future if mark == FUTURE else future.result()
