"""``state``: how much memory the client needs for an item that is outstanding."""

from __future__ import annotations

import dataclasses
import gc
import sys
import types
from collections.abc import Iterable
from typing import Any, NamedTuple

from benchmarks.simulated.client import Scenario, World

_CODE = (type, types.ModuleType, types.FunctionType, types.CodeType, types.BuiltinFunctionType, types.MethodType)


class State(NamedTuple):
    """Bytes for each outstanding item: its future, and what the client knows besides."""

    future: float
    besides: float


def state(scenario: Scenario, step: int = 1_000) -> State:
    """Return what one more item needs while all calls run. Measured with ``step`` and with twice as many items."""
    less, more = (_size(dataclasses.replace(scenario, items=items)) for items in (step, 2 * step))
    return State((more.future - less.future) / step, (more.besides - less.besides) / step)


def _size(scenario: Scenario) -> State:
    simulated = World(scenario)
    with simulated.installed():
        futures = simulated.map(simulated.executor())
        origins = {id(one): one for one in (future._origin for future in futures)}
        # The client refers to its services, whose memory is not the client's.
        known = {id(one) for one in (simulated, simulated.world, simulated.objects, simulated.functions)}
        besides = _deep_size([*origins.values()], known)
        of_futures = _deep_size(futures, known)
        futures.clear()
        simulated.world.end()
    return State(of_futures, besides)


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
        # Python 3.13 keeps attributes beside an object, where neither of the above finds them, until somebody asks.
        rest.append(getattr(one, "__dict__", None))
    return size
