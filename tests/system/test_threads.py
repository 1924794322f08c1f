"""``for_each``: many short requests at once."""

from __future__ import annotations

import threading

import pytest

from pywren.system.threads import for_each

WAIT = 30.0


def helpers():
    """Return the threads that ``for_each`` started."""
    return [thread for thread in threading.enumerate() if thread.name == "pywren-request"]


@pytest.mark.parametrize("threads", [0, 1, 2, 64])
def test_every_item_once(threads):
    """With any number of threads, each item is handled once and no thread is left."""
    done = []
    for_each(done.append, range(100), threads)
    assert sorted(done) == list(range(100))
    assert helpers() == []


def test_nothing_to_do():
    """Without items, nothing is called."""
    for_each(pytest.fail, [], 8)


def test_one_item_needs_no_thread():
    """A single item is handled in the caller's thread."""
    seen = []
    for_each(lambda item: seen.append(threading.current_thread()), [1], 8)
    assert seen == [threading.current_thread()]


def test_items_are_done_at_once():
    """As many calls run concurrently as there are threads."""
    meeting = threading.Barrier(4)
    for_each(lambda item: meeting.wait(WAIT), range(4), 4)


def test_no_more_at_once_than_a_client_has_connections():
    """The number of threads is capped, because further connections would be made anew for every request."""
    from pywren.aws.sending import CLIENT_OPTIONS

    at_once, all_started = [], threading.Event()

    def work(item):
        if threading.current_thread() in helpers():
            all_started.wait(WAIT)
            return
        at_once.append(1 + len(helpers()))  # the caller's own thread begins to work once it has started the others
        all_started.set()

    for_each(work, range(300), 300)
    assert at_once[0] == CLIENT_OPTIONS["max_pool_connections"]


@pytest.mark.parametrize("threads", [1, 4])
def test_the_first_error_stops_the_rest(threads):
    """The exception of a call is raised, and no further items are handled."""
    done = []

    def work(item):
        done.append(item)
        raise OSError(f"item {item}")

    with pytest.raises(OSError, match="item"):
        for_each(work, range(1000), threads)
    assert len(done) <= threads
    assert helpers() == []


def test_calls_under_way_end_first():
    """No call is left running when the error is raised."""
    began, ended = threading.Event(), []

    def work(item):
        if item == 0:
            assert began.wait(WAIT)
            raise OSError("broken")
        began.set()
        ended.append(item)

    with pytest.raises(OSError, match="broken"):
        for_each(work, range(2), 2)
    assert ended == [1]


def test_ctrl_c_in_the_callers_thread():
    """After an interrupt no further items are handled; it is raised when the other threads have ended."""
    main, interrupted, done = threading.current_thread(), threading.Event(), []

    def work(item):
        if threading.current_thread() is main:
            interrupted.set()
            raise KeyboardInterrupt
        assert interrupted.wait(WAIT)
        done.append(item)

    with pytest.raises(KeyboardInterrupt):
        for_each(work, range(10_000), 2)
    assert len(done) < 10_000
    assert helpers() == []


def test_threads_that_cannot_be_had(monkeypatch):
    """If the system starts no more threads, the existing ones do the work."""
    start, started, done = threading.Thread.start, [], []

    def start_one(thread):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_one)
    for_each(done.append, range(100), 8)
    assert sorted(done) == list(range(100))


def test_an_exit_in_a_helper_comes_out():
    """Exceptions that are not derived from ``Exception`` reach the caller too, from any thread."""

    def leave(item):
        raise SystemExit(item)

    with pytest.raises(SystemExit):
        for_each(leave, range(10), 4)
