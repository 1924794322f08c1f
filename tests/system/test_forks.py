"""What a forked child does first."""

from __future__ import annotations

import os
import weakref

import pytest

from pywren.system.forks import in_each_child, own_name


class Restarted:
    """Notes in which process it was restarted last."""

    def __init__(self) -> None:
        self.where = 0

    def restart(self) -> None:
        self.where = os.getpid()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_objects_are_restarted_in_the_child_alone() -> None:
    """The child restarts those that live; the parent none, and what is gone is not kept."""
    living, gone = Restarted(), Restarted()
    objects = weakref.WeakSet([living, gone])
    in_each_child(objects, Restarted.restart)
    del gone
    assert len(objects) == 1
    pid = os.fork()
    if pid == 0:
        os._exit(0 if living.where == os.getpid() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert living.where == 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_each_process_has_a_name() -> None:
    """It stays the same, and a child, even one of the same program, has another one."""
    name = own_name()
    assert len(name) == 32
    pid = os.fork()
    if pid == 0:
        os._exit(0 if len(own_name()) == 32 and own_name() != name else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert own_name() == name
