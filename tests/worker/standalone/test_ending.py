"""When a stand-alone worker ends: rows 182, 183, 188 and 189 of the failure table."""

import pytest

from pywren.exceptions import StorageError
from pywren.worker.standalone.ending import LONGEST_PAUSE, EndRule, Trouble
from pywren.worker.standalone.worker import FIRST_PATIENCE, PATIENCE


@pytest.mark.parametrize(
    ("granularity", "idle", "uptime", "ends"),
    [
        (0, 59, 1000, False),
        (0, 60, 1000, True),
        (30, 60, 1000, True),  # all of a short period is near its end
        (3600, 60, 1000, False),
        (3600, 60, 3419, False),
        (3600, 60, 3420, True),
        (3600, 59, 3599, False),
        (3600, 60, 3601, False),
        (3600, 60, 7190, True),
    ],
)
def test_an_idle_worker_ends_near_the_end_of_a_period(granularity, idle, uptime, ends):
    """Row 188: an idle worker ends after its idle time, in the last twentieth of the period, which is paid anyway."""
    assert EndRule(max_idle_time=60, granularity=granularity).is_idle_too_long(idle, uptime) is ends


def test_without_an_idle_time_a_worker_never_ends_idle():
    """A worker that was started by hand does not end."""
    assert not EndRule(granularity=3600).is_idle_too_long(1e9, 3599)


@pytest.mark.parametrize(
    ("rule", "idle", "ran", "seconds"),
    [
        (EndRule(), 5, 5, 20),
        (EndRule(max_idle_time=60), 0, 0, 20),
        (EndRule(max_idle_time=60), 50.5, 100, 10),
        (EndRule(max_idle_time=60), 59.9, 100, 1),
        (EndRule(max_idle_time=60, granularity=3600), 100, 100, 20),
        (EndRule(max_idle_time=0), 0, 0, 1),
        (EndRule(max_idle_time=60, granularity=30), 70, 100, 1),
        (EndRule(max_idle_time=60, max_life_time=103), 0, 100, 3),
    ],
)
def test_a_worker_waits_no_longer_than_its_rule_allows(rule, idle, ran, seconds):
    """A poll never lasts longer than the rule allows, but at least a second, or SQS would miss messages."""
    assert rule.longest_wait(20, idle, ran) == seconds


def test_trouble_for_too_long_ends_the_worker():
    """Rows 182, 183: errors end a worker after a minute before SQS's first answer, and after an hour later on."""
    now = [0.0]
    trouble = Trouble(PATIENCE, lambda: now[0], FIRST_PATIENCE)
    error = StorageError("not well")
    assert trouble.pause() == 0
    trouble.note(error)
    now[0] += FIRST_PATIENCE - 1
    assert 0 < trouble.pause() <= LONGEST_PAUSE
    now[0] += 1
    with pytest.raises(StorageError):
        trouble.pause()
    trouble.passed()
    assert trouble.pause() == 0
    trouble.note(error)
    now[0] += PATIENCE - 1
    trouble.note(error)
    assert trouble.pause() > 0
    now[0] += 1
    with pytest.raises(StorageError):
        trouble.pause()
