"""``state``: how much memory the client needs for an item that is outstanding, and for one that has ended."""

from __future__ import annotations

import dataclasses
import gc
import sys
import types
from collections.abc import Iterable
from typing import Any, NamedTuple

import pywren
from benchmarks.simulated.client import Scenario, World

_CODE = (type, types.ModuleType, types.FunctionType, types.CodeType, types.BuiltinFunctionType, types.MethodType)


class State(NamedTuple):
    """Bytes for each item.

    Args:
        future: of its future, while the item is outstanding.
        besides: what the client knows besides.
        ended: of its future, and what the client knows besides, when the item has ended.
    """

    future: float
    besides: float
    ended: float


def state(scenario: Scenario, step: int = 1_000) -> State:
    """Return what one more item needs. Measured with ``step`` and with twice as many items."""
    less, more = (_size(dataclasses.replace(scenario, items=items)) for items in (step, 2 * step))
    return State(*((many - few) / step for few, many in zip(less, more, strict=True)))


def _size(scenario: Scenario) -> State:
    simulated = World(scenario)
    # The client refers to its services, whose memory is not the client's.
    services = (simulated, simulated.world, simulated.objects, simulated.functions, simulated.workers)
    with simulated.installed():
        futures = simulated.map(simulated.executor())
        origins = [*{id(one): one for one in (future._origin for future in futures)}.values()]
        known = {id(one) for one in services}
        besides = _deep_size(origins, known)
        of_futures = _deep_size(futures, known)
        pywren.wait(futures)
        ended = _deep_size([*origins, *futures], {id(one) for one in services})
        simulated.world.end()
    return State(of_futures, besides, ended)


def _deep_size(roots: Iterable[Any], known: set[int]) -> float:
    """Return the bytes of objects and of everything that they refer to and that is not known yet. Weak references do
    not count."""
    size, rest = 0, list(roots)
    while rest:
        one = rest.pop()
        if id(one) in known or isinstance(one, _CODE):
            continue
        known.add(id(one))
        size += sys.getsizeof(one)
        rest.extend(gc.get_referents(one))
        # Python 3.13 keeps attributes beside an object, where neither of the above finds them, until somebody asks. An
        # object without such attributes gets its dictionary only now.
        rest.append(getattr(one, "__dict__", None) or None)
    return size
