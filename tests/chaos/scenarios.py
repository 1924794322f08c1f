"""What goes wrong in each trial, on the emulated AWS and on this machine."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Literal, NamedTuple

import psutil

import pywren
from pywren.testing.emulator import Emulator, Fault, Faults

from .remains import Remains, left_since
from .trial import Outcome, run, square_after

CALL_SECONDS = 0.2
LOCAL_SECONDS = 0.02
KILL_EVERY = 0.15
_IDLE_SECONDS = 120.0
_GRACE_SECONDS = 30.0


class Scenario(NamedTuple):
    """What goes wrong on the emulated AWS.

    Args:
        name: the scenario, in words.
        faults: the faults, without their seed.
        containers: how many containers the machine has.
        event_age_scale: by how much Lambda forgets waiting events sooner than configured.
        chunksize: how many calls share an invocation.
        seconds: how long a call takes.
    """

    name: str
    faults: Faults
    containers: int = 8
    event_age_scale: float = 1.0
    chunksize: int | Literal["auto"] = 1
    seconds: float = CALL_SECONDS


WITHOUT = Scenario("no faults", Faults())

SINGLE = (
    Scenario("10 % of containers killed", Faults(kill_container=Fault(0.1))),
    Scenario("10 % killed at their start", Faults(kill_container=Fault(0.1), kill_at="start")),
    Scenario("10 % killed before their response", Faults(kill_container=Fault(0.1), kill_at="before_response")),
    Scenario("5 % of events dropped", Faults(drop_event=Fault(0.05))),
    Scenario("5 % of events repeated", Faults(repeat_event=Fault(0.05))),
    Scenario("20 % of Invoke throttled", Faults(throttle_invoke=Fault(0.2))),
    Scenario(
        "2 % of S3 requests fail", Faults(slow_down_s3=Fault(0.01), fail_s3=Fault(0.005), lose_s3=Fault(0.005))
    ),
    # 60 s, the least that can be configured, become 1.5 s: 14 calls start by then
    Scenario("two containers, events too old", Faults(), containers=2, event_age_scale=0.025),
)  # fmt: skip

EVERYTHING = Scenario(
    "everything at once",
    Faults(
        kill_container=Fault(0.1),
        drop_event=Fault(0.05),
        repeat_event=Fault(0.05),
        throttle_invoke=Fault(0.2),
        slow_down_s3=Fault(0.01),
        fail_s3=Fault(0.01),
    ),
)
"""What the promise is about: 1,000 of 1,000 calls right."""

IN_CHUNKS = EVERYTHING._replace(name="everything at once, in chunks of 5", chunksize=5)

MANY = EVERYTHING._replace(name="everything at once, short calls", chunksize="auto", seconds=0.01)
"""Chunks as pywren chooses them."""


@contextmanager
def emulated(scenario: Scenario) -> Iterator[Emulator]:
    """Start an emulated AWS for a scenario. The environment is not changed: ``on_lambda`` does that."""
    from pywren.testing.emulator import Limits, emulate

    limits = Limits(retry_delays=(0.1, 0.2), event_age_scale=scenario.event_age_scale)
    with emulate(containers=scenario.containers, limits=limits) as emulator:
        yield emulator


def on_lambda(emulator: Emulator, scenario: Scenario, *, calls: int, seed: int, patience: float) -> Outcome:
    """Run one map on the emulated AWS, and return what has become of its calls."""
    config: dict[str, Any] = emulator.deploy(event_age=60) if scenario.event_age_scale != 1.0 else emulator.deploy()
    before = Remains.now()
    outcome = _mapped(emulator, config, scenario, calls, seed, patience)
    return dataclasses.replace(outcome, left=left_since(before, _GRACE_SECONDS))


def _mapped(
    emulator: Emulator, config: dict[str, Any], scenario: Scenario, calls: int, seed: int, patience: float
) -> Outcome:
    with pywren.lambda_executor(config=config) as executor:
        pywren.get_all_results(executor.map(square_after(0.0), range(scenario.containers)))  # warm from now on
        counted = emulator.counters()
        emulator.set_faults(dataclasses.replace(scenario.faults, seed=seed))
        try:
            outcome = run(
                lambda: executor.map(square_after(scenario.seconds), range(calls), chunksize=scenario.chunksize),
                patience=patience,
                idle=lambda: emulator.wait_idle(_IDLE_SECONDS),
            )
        finally:
            emulator.set_faults(Faults())
        struck = (emulator.counters() - counted).faults
        executor.invoker.close()
        executor.storage.close()
    return dataclasses.replace(outcome, faults=struck)


def on_this_machine(*, calls: int, seed: int, patience: float, processes: int = 2, killed: bool = True) -> Outcome:
    """Run one map on this machine while its processes are killed, and return what has become of its calls."""
    before = Remains.now()
    outcome = _mapped_here(before.processes, calls, seed, patience, processes, KILL_EVERY if killed else None)
    return dataclasses.replace(outcome, left=left_since(before, _GRACE_SECONDS))


def _mapped_here(
    others: frozenset[int], calls: int, seed: int, patience: float, processes: int, every: float | None
) -> Outcome:
    from pywren.invokers import LocalInvoker
    from pywren.worker.parent.pool import LocalPool

    with closing(LocalPool(processes)) as pool, pywren.local_executor(LocalInvoker(pool=pool)) as executor:
        pywren.get_all_results(executor.map(square_after(0.0), range(2 * processes)))
        with kill_children(others, seed, every) as kills:
            outcome = run(lambda: executor.map(square_after(LOCAL_SECONDS), range(calls)), patience=patience)
        return dataclasses.replace(outcome, faults={"kill_process": kills()} if every is not None else {})


@contextmanager
def kill_children(spared: frozenset[int], seed: int, every: float | None) -> Iterator[Callable[[], int]]:
    """Kill one of this process's children every so many seconds; yield what counts the kills.

    Args:
        spared: the ids of children that are not killed.
        seed: the seed that decides which one is killed.
        every: the seconds between two kills; ``None`` kills none.
    """
    done, kills, choice = threading.Event(), 0, random.Random(seed)

    def kill() -> None:
        nonlocal kills
        while not done.wait(every):
            found = [child for child in psutil.Process().children() if child.pid not in spared]
            if found:
                try:
                    choice.choice(sorted(found, key=lambda child: child.pid)).kill()
                except psutil.NoSuchProcess:
                    continue
                kills += 1

    thread = threading.Thread(target=kill, name="killer", daemon=True)
    if every is not None:
        thread.start()
    try:
        yield lambda: kills
    finally:
        done.set()
        if every is not None:
            thread.join()
