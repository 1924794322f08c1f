"""The conditions of futures: the standard library's functions lock them in an order of their own."""

from __future__ import annotations

import concurrent.futures
import threading

import pytest

import pywren
from pywren.future import ResponseFuture

WAIT = 60.0


@pytest.fixture(scope="module")
def executor():
    with pywren.local_executor() as made:
        yield made


def test_two_maps_locked_in_both_orders(executor):
    """Row 312: threads that wait for futures of the same two maps, in whatever order, do not wait for each other."""
    first, second = executor.map(abs, range(2)), executor.map(abs, range(2))
    concurrent.futures.wait(first + second, WAIT)
    both_hold_one = threading.Barrier(2, timeout=WAIT)
    done = []

    def lock(one: ResponseFuture, other: ResponseFuture) -> None:
        # as concurrent.futures does with the futures that it is given, sorted by their ids
        with one._condition:
            both_hold_one.wait()
            with other._condition:
                done.append(one)

    threads = [
        threading.Thread(target=lock, args=(first[0], second[0]), daemon=True),
        threading.Thread(target=lock, args=(second[1], first[1]), daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert len(done) == 2


def test_results_that_arrive_while_threads_begin_to_wait(executor):
    """Every wait ends, and no earlier than it should, however results and the start of the wait coincide."""
    wrong = []

    def wait(futures: list[ResponseFuture]) -> None:
        done, pending = concurrent.futures.wait(futures, WAIT)
        if pending or not all(one.done() for one in futures) or len(done) != len(futures):
            wrong.append(pending)

    for _ in range(100):
        futures = executor.map(abs, range(20))
        threads = [threading.Thread(target=wait, args=(futures[start:],), daemon=True) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)
    assert not wrong


def test_a_state_that_is_read_by_the_base_class(executor):
    """``concurrent.futures.Future``'s own ``result`` returns when the call ends."""
    assert concurrent.futures.Future.result(executor.call_async(abs, -3), WAIT) == 3
