"""``CallWatch`` and ``BeaconWriter``: what looks after a running call."""

from __future__ import annotations

import threading
import time

import pytest

from pywren.exceptions import StorageError
from pywren.wire.beacon import Beacon
from pywren.worker.watch import BeaconWriter, CallWatch

WAIT = 30.0
BEACON = Beacon("callset", "00000", 1, 1.0)


class Written:
    """Beacons, and a clock that only the test advances."""

    def __init__(self) -> None:
        self.now = 0.0
        self.beacons: list[Beacon] = []
        self.refusals = 0
        self.writer = BeaconWriter(BEACON, self.write, 30.0, lambda: self.now)

    def write(self, beacon: Beacon) -> None:
        """Store a beacon, or refuse it."""
        if self.refusals:
            self.refusals -= 1
            raise StorageError("no")
        self.beacons.append(beacon)

    def turns(self, until: float) -> None:
        """Take a turn every three seconds."""
        while self.now < until:
            self.writer.turn()
            self.now += 3.0


def test_a_beacon_is_renewed_every_thirty_seconds() -> None:
    """The first turn writes; later ones only when the beacon is due."""
    written = Written()
    written.turns(until=300.0)
    assert [beacon.renewed for beacon in written.beacons] == list(range(10))
    assert {beacon.started_at for beacon in written.beacons} == {1.0}


def test_a_failed_write_is_repeated_at_the_next_turn() -> None:
    """Not thirty seconds later: clients wait for the beacon."""
    written = Written()
    written.refusals = 2
    written.turns(until=9.0)
    assert len(written.beacons) == 1
    assert written.beacons[0].renewed == 0


def test_a_quick_call_sends_nothing() -> None:
    """Neither a look nor a beacon, and the watch ends at once."""
    asked: list[bool] = []
    began = time.monotonic()
    with CallWatch(lambda: bool(asked.append(True)), BeaconWriter(BEACON, lambda _: asked.append(True)), WAIT, WAIT):
        pass
    assert asked == []
    assert time.monotonic() - began < WAIT


def test_a_process_that_can_start_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of a program on Python 3.12, for example, a call runs unwatched."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)
    with CallWatch(lambda: True, None, 0.0, WAIT) as watch:
        pass
    assert not watch.stopped.is_set()


def test_a_call_that_was_ended_elsewhere_is_stopped_without_a_beacon() -> None:
    """The look comes first. A status makes the beacon useless."""
    written = Written()
    stopped = threading.Event()
    with CallWatch(lambda: True, written.writer, 0.01, 0.01) as watch:
        watch.stopped.listen(stopped.set)
        assert stopped.wait(WAIT)
    assert written.beacons == []


def test_one_thread_sends_all_requests() -> None:
    """Looks and beacons never overlap, so a call has one request open at most."""
    names: list[str] = []
    enough = threading.Event()

    def note() -> bool:
        names.append(threading.current_thread().name)
        if len(names) >= 6:
            enough.set()
        return False

    with CallWatch(note, BeaconWriter(BEACON, lambda _: note(), interval=0.0), 0.01, 0.01):
        assert enough.wait(WAIT)
    assert set(names) == {"pywren-status-watch"}


def test_an_error_of_another_kind_is_not_hidden() -> None:
    """Only errors of the storage are expected."""
    writer = BeaconWriter(BEACON, lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        writer.turn()
