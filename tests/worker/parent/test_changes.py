"""Changes that Ctrl-C interrupts are repaired before anything else happens."""

from __future__ import annotations

import pytest

from pywren.worker.parent.changes import Changes


class Pool:
    """Counts repairs, of which the first few are interrupted too."""

    def __init__(self, interrupted_repairs: int = 0) -> None:
        self.repairs = self.wakes = 0
        self._interrupted = interrupted_repairs
        self.changes = Changes(self._repair, self._wake)

    def _repair(self) -> None:
        self.repairs += 1
        if self.repairs <= self._interrupted:
            raise KeyboardInterrupt

    def _wake(self) -> None:
        self.wakes += 1


def interrupted() -> None:
    """Be interrupted."""
    raise KeyboardInterrupt


def test_a_change_that_ends():
    """It needs no repair, and its result is returned."""
    pool = Pool()
    assert pool.changes.make(divmod, 7, 2) == (3, 1)
    pool.changes.finish()
    assert (pool.repairs, pool.wakes) == (0, 0)


def test_the_next_change_repairs():
    """The pump is woken at once, and whatever comes next repairs the pool once."""
    pool = Pool()
    with pytest.raises(KeyboardInterrupt):
        pool.changes.make(interrupted)
    assert (pool.repairs, pool.wakes) == (0, 1)
    assert [pool.changes.make(lambda: pool.repairs) for _ in range(2)] == [1, 1]


def test_a_repair_that_is_interrupted():
    """It is tried again, and no change is made before it has ended."""
    pool = Pool(interrupted_repairs=1)
    made: list[int] = []
    for change in (interrupted, lambda: made.append(1)):
        with pytest.raises(KeyboardInterrupt):
            pool.changes.make(change)
    assert not made
    pool.changes.finish()
    pool.changes.finish()
    assert pool.repairs == 2


def test_a_destructor_that_makes_a_change():
    """It goes on in the middle of the other change, and is noticed if it was interrupted."""
    pool = Pool()

    def with_destructor(inner) -> None:
        # As Python does with what a destructor raises.
        try:
            pool.changes.make(inner)
        except KeyboardInterrupt:
            pass

    pool.changes.make(with_destructor, lambda: None)
    pool.changes.finish()
    assert pool.repairs == 0
    pool.changes.make(with_destructor, interrupted)
    pool.changes.finish()
    assert pool.repairs == 1
