"""Chunks in the driver: one invocation for several calls, each of which keeps its own record."""

from __future__ import annotations

import pytest

from pywren.client.driver.chunks import ENOUGH, LEARNING, LONG_LEARNING
from pywren.client.driver.driver import Driver, Later, Ready
from pywren.client.driver.policy import Policy
from pywren.client.driver.record import Counts
from pywren.client.driver.retrying import MOST_HANDED_BACK
from pywren.exceptions import CallLostError, WorkerCrashedError
from pywren.wire.cause import Cause

NAME = "00000.1"
CALLS = ["00000", "00001", "00002"]


class Clock:
    """A clock that the test advances."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def driver_of(count: int = 3, clock: Clock | None = None, **policy: object) -> Driver:
    """Return a driver of some calls, in chunks of three unless the policy says otherwise."""
    calls = [f"{number:05d}" for number in range(count)]
    options = {"chunksize": 3, "event_age": 3600.0, "job_max_runtime": 60.0, "may_lose_calls": True, **policy}
    return Driver(calls, Policy(**options), clock=clock or Clock(), jitter=lambda: 0.0)


def invoked(driver: Driver) -> list[str]:
    """Have everything accepted that the driver lets go, and return the names."""
    names = []
    while isinstance(step := driver.next_call(), Ready):
        driver.accepted(*step, "request", 100.0)
        names.append(step.call_id)
    return names


def counts(driver: Driver) -> tuple[int, ...]:
    """Return how many calls are held, being sent, sent, running and done."""
    found = driver.counts()
    return (found.held, found.sending, found.sent, found.running, found.done)


def end(driver: Driver, call_id: str, number: int = 1) -> None:
    """Report the value of a call."""
    driver.ended(call_id, number, 1.0, "log", failed=False)


def causes(driver: Driver, call_id: str) -> list[str | None]:
    """Return why the attempts of a call have ended."""
    return [one.cause for one in driver.attempts(call_id)]


def test_calls_share_an_invocation_and_the_last_one_is_alone() -> None:
    """A chunk is named after its first call; what would be a chunk of one call is none."""
    driver = driver_of(7)
    assert invoked(driver) == [NAME, "00003.1", "00006"]
    assert counts(driver) == (0, 0, 7, 0, 0)
    assert driver.chunk_of(NAME) == (dict.fromkeys(CALLS, 1), CALLS, None)
    assert driver.chunk_of("00006") is None
    assert all(driver.attempts(one)[0].request_id == "request" for one in CALLS)


def test_without_chunks_nothing_changes() -> None:
    """Each call has its own invocation."""
    driver = driver_of(2, chunksize=1)
    assert invoked(driver) == ["00000", "00001"]


def test_a_chunk_takes_the_room_of_one_invocation() -> None:
    """``max_concurrency`` bounds invocations; calls are counted for people."""
    driver = driver_of(9, max_concurrency=2)
    assert invoked(driver) == [NAME, "00003.1"]
    assert counts(driver) == (3, 0, 6, 0, 0)
    for call_id in CALLS[:2]:
        end(driver, call_id)
        assert isinstance(driver.next_call(), Later)
    end(driver, CALLS[2])
    assert invoked(driver) == ["00006.1"]
    assert counts(driver) == (0, 0, 6, 0, 3)


def test_calls_end_one_by_one() -> None:
    """An outcome shows that the chunk runs; the others are sent until theirs come."""
    driver = driver_of()
    invoked(driver)
    end(driver, CALLS[0])
    assert counts(driver) == (0, 0, 2, 0, 1)
    driver.running(NAME, 0, 1.0, "log")
    driver.runs_in_chunk(CALLS[1])
    assert counts(driver) == (0, 0, 1, 1, 1)
    end(driver, CALLS[1])
    end(driver, CALLS[2])
    assert driver.counts() == Counts(3, 0, 0, 0, 0, 3, 0, 0)
    driver.running(NAME, 0, 1.0, "log")  # its last beacon
    assert counts(driver) == (0, 0, 0, 0, 3)


def test_outcomes_may_come_before_the_answer_of_the_service() -> None:
    """The times of the invocation are noted all the same."""
    driver = driver_of()
    step = driver.next_call()
    assert step == Ready(NAME, 1)
    for call_id in CALLS:
        end(driver, call_id)
    driver.accepted(*step, "request", 100.0)
    assert counts(driver) == (0, 0, 0, 0, 3)
    assert [driver.attempts(one)[0].invoked_at for one in CALLS] == [100.0] * 3


def test_a_throttled_chunk_stays_as_it_is() -> None:
    """Its plan is written. Its calls count as never invoked, and Ctrl-C drops them."""
    clock = Clock()
    driver = driver_of(5, clock)
    driver.throttled(*driver.next_call())
    clock.now += 1.0
    assert counts(driver) == (5, 0, 0, 0, 0)
    assert driver.not_invoked_yet() == 5
    assert driver.has_uninvoked()
    assert not driver.has_begun()
    assert sorted(invoked(driver)) == [NAME, "00003.1"]
    assert driver.not_invoked_yet() == 0
    assert [len(driver.attempts(one)) for one in CALLS] == [1, 1, 1]


def test_calls_of_a_throttled_chunk_are_dropped() -> None:
    """Nothing of it is invoked then."""
    clock = Clock()
    driver = driver_of(3, clock)
    driver.throttled(*driver.next_call())
    assert driver.drop_held() == CALLS
    clock.now += 60.0
    assert driver.next_call() is None
    assert driver.counts().failed == 3


def test_a_cancelled_call_of_a_throttled_chunk_leaves_it() -> None:
    """The others are invoked."""
    clock = Clock()
    driver = driver_of(3, clock)
    driver.throttled(*driver.next_call())
    driver.settled(CALLS[1], failed=True, cancelled=True)
    clock.now += 60.0
    assert invoked(driver) == [NAME]
    assert driver.chunk_of(NAME) == (dict.fromkeys(CALLS, 1), [CALLS[0], CALLS[2]], None)
    assert counts(driver) == (0, 0, 2, 0, 0)


def test_what_was_handed_back_is_invoked_again_in_chunks() -> None:
    """It never started, so it does not count as a failure, even where nothing may be repeated."""
    for retries in (0, 2):
        driver = driver_of(retries=retries)
        invoked(driver)
        end(driver, CALLS[0])
        assert driver.leave(NAME) == []
        assert invoked(driver) == ["00001.2"]
        assert driver.chunk_of("00001.2") == ({"00001": 2, "00002": 2}, CALLS[1:], None)
        assert causes(driver, CALLS[1]) == ["handed back", None]
        assert driver.lost_chunks() == []


def test_a_dead_worker_costs_the_calls_without_an_outcome() -> None:
    """Each of them is invoked alone. Whose memory or time was used up is not known, so no such cause is named."""
    clock = Clock()
    driver = driver_of(3, clock, retries=2)
    invoked(driver)
    end(driver, CALLS[0])
    driver.died(NAME, Cause.OUT_OF_MEMORY, WorkerCrashedError("memory", None))
    assert driver.lost_chunks() == [NAME]
    driver.running(NAME, 0, 1.0, "log")  # too late: its calls are being taken back
    assert driver.leave(NAME) == []
    assert driver.lost_chunks() == []
    clock.now += 60.0
    assert invoked(driver) == CALLS[1:]
    assert causes(driver, CALLS[1]) == causes(driver, CALLS[2]) == ["killed", None]
    assert causes(driver, CALLS[0]) == [None]


def test_without_retries_only_the_call_fails_that_may_have_begun() -> None:
    """Outcomes are written before the next call begins, so the others have not."""
    driver = driver_of(retries=0)
    invoked(driver)
    end(driver, CALLS[0])
    error = WorkerCrashedError("memory", None)
    driver.died(NAME, Cause.OUT_OF_MEMORY, error)
    assert [(one.call_id, one.error) for one in driver.leave(NAME)] == [(CALLS[1], error)]
    assert invoked(driver) == [CALLS[2]]
    assert causes(driver, CALLS[1]) == ["out of memory"]
    assert causes(driver, CALLS[2]) == ["handed back", None]


def test_a_chunk_that_the_service_has_forgotten_never_ran() -> None:
    """Its calls are invoked again together, also without retries."""
    driver = driver_of(retries=0)
    invoked(driver)
    driver.died(NAME, Cause.TOO_OLD, CallLostError("too old"))
    assert driver.leave(NAME) == []
    assert invoked(driver) == ["00000.2"]


def test_a_damaged_journal_leaves_calls_to_be_invoked_alone() -> None:
    """Nobody knows what its worker does."""
    clock = Clock()
    driver = driver_of(3, clock)
    invoked(driver)
    assert driver.leave(NAME, damaged=True) == []
    clock.now += 60.0
    assert invoked(driver) == CALLS


def test_a_call_that_has_failed_is_repeated_alone() -> None:
    """The chunk goes on without it."""
    clock = Clock()
    driver = driver_of(3, clock, retries=2)
    invoked(driver)
    driver.failed(CALLS[1], 1, Cause.WORKER_FAILED, WorkerCrashedError("no disk", None), 1.0, "log")
    clock.now += 60.0
    assert invoked(driver) == [CALLS[1]]
    end(driver, CALLS[0])
    end(driver, CALLS[2])
    assert counts(driver) == (0, 0, 1, 0, 2)
    assert driver.lost_chunks() == []


def test_a_chunk_that_gives_no_sign_of_life_is_taken_back() -> None:
    """It is suspected like a call, and its journal is ended before its calls run again."""
    clock = Clock()
    driver = driver_of(6, clock, retries=2)
    assert invoked(driver) == [NAME, "00003.1"]
    for _ in range(40):
        clock.now += 5.0
        driver.look()
        driver.running("00003.1", 0, 1.0, "log")
        assert driver.decide() == []
    assert driver.lost_chunks() == [NAME]
    assert driver.leave(NAME) == []
    assert invoked(driver) == ["00000.2"]
    assert causes(driver, CALLS[0])[0] == "dropped"


def test_a_chunk_whose_beacon_stops_has_vanished() -> None:
    """Its calls are invoked alone."""
    clock = Clock()
    driver = driver_of(3, clock, retries=2)
    invoked(driver)
    driver.look()
    driver.running(NAME, 0, 1.0, "log")
    for _ in range(20):
        clock.now += 5.0
        driver.look()
        driver.decide()
    assert driver.lost_chunks() == [NAME]
    driver.leave(NAME)
    clock.now += 60.0
    assert invoked(driver) == CALLS
    assert causes(driver, CALLS[0])[0] == "vanished"


def test_a_refused_chunk_ends_all_its_calls() -> None:
    """A call that is refused alone is its own chunk."""
    driver = driver_of(4)
    step = driver.next_call()
    assert driver.refused(*step, RuntimeError("no permission"))
    assert driver.refused_calls(NAME) == CALLS
    assert driver.refused_calls("00003") == ["00003"]
    assert counts(driver) == (1, 0, 0, 0, 0)
    assert driver.counts().failed == 3


def test_an_interrupted_invocation_counts_as_accepted() -> None:
    """The service may have the chunk."""
    driver = driver_of()
    driver.next_call()
    driver.accept_rest(100.0)
    assert counts(driver) == (0, 0, 3, 0, 0)
    assert [len(driver.attempts(one)) for one in CALLS] == [1, 1, 1]


def test_a_chunk_has_the_time_of_all_its_calls() -> None:
    """It waits as long as a call may, and then runs them one after the other."""
    driver = driver_of(4, chunk_runtime=180.0)
    invoked(driver)
    longest = 100.0 + 3600.0 + 60.0 + 10.0
    assert [one.call_id for one in driver.overdue(longest + 1.0, 10.0)] == ["00003"]
    assert driver.lost_chunks() == []
    driver.overdue(longest + 181.0, 10.0)
    assert driver.lost_chunks() == [NAME]


@pytest.mark.parametrize(("room", "expected"), [(100, ["00000", "00001", "00002"]), (250, ["00000.1", "00002"])])
def test_a_chunk_fits_into_a_payload(room: int, expected: list[str]) -> None:
    """It has fewer calls than was asked for if they would not fit; one call is always invoked."""
    driver = Driver(CALLS, Policy(chunksize=3, chunk_room=room), sizes=dict.fromkeys(CALLS, 120), clock=Clock())
    assert invoked(driver) == expected


def test_calls_that_follow_others_are_alone() -> None:
    """Their inputs end at different times."""
    driver = Driver(CALLS, Policy(chunksize=3), following={"00001"}, clock=Clock())
    assert invoked(driver) == ["00000.1"]
    assert driver.chunk_of("00000.1") == ({"00000": 1, "00002": 1}, ["00000", "00002"], None)
    driver.let_go("00001")
    assert invoked(driver) == ["00001"]


def test_the_time_of_a_map_ends_calls_of_chunks_too() -> None:
    """All of them are to be stopped."""
    clock = Clock()
    driver = driver_of(3, clock, timeout=10.0)
    invoked(driver)
    clock.now = 11.0
    assert [(one.call_id, one.attempts) for one in driver.stops()] == [(one, 1) for one in CALLS]


# -- sizes that the driver chooses -----------------------------------------------------------------------------------


def sizes_of(driver: Driver, most: int) -> list[int]:
    """Have some invocations accepted, and return how many calls each has."""
    found = []
    for _ in range(most):
        step = driver.next_call()
        assert isinstance(step, Ready)
        driver.accepted(*step, "request", 100.0)
        chunk = driver.chunk_of(step.call_id)
        found.append(1 if chunk is None else len(chunk.left))
    return found


def after_some(seconds: float, clock: Clock, count: int = 1_000, **policy: object) -> Driver:
    """Return a driver whose first calls have ended after some seconds each; the client invokes 500 a second."""
    driver = driver_of(count, clock, chunksize=None, **policy)
    for _ in range(20):
        assert sizes_of(driver, 1) == [1]
        clock.now += 0.002
    for index in range(20):
        driver.ended(f"{index:05d}", 1, 1.0, "log", failed=False, seconds=seconds)
    driver.look()
    driver.review()
    return driver


def test_the_first_calls_are_alone_and_then_short_ones_share_invocations() -> None:
    """The client needs longer for an invocation than a worker for a call."""
    clock = Clock()
    driver = driver_of(1_000, clock, chunksize=None)
    assert sizes_of(driver, 20) == [1] * 20
    [first, *rest] = sizes_of(after_some(0.001, clock, 3_000), 5)
    assert 50 < first < 200
    assert rest == sorted(rest, reverse=True)


def test_a_chunk_whose_size_the_driver_chose_has_a_time_limit() -> None:
    """After twice the expected time, and half a second at least."""
    driver = after_some(0.001, Clock())
    step = driver.next_call()
    assert isinstance(step, Ready)
    chunk = driver.chunk_of(step.call_id)
    assert chunk is not None
    assert chunk.time_limit == 0.5


def test_long_calls_stay_alone() -> None:
    """The service runs them all at once; where it does not, up to four seconds of work share an invocation."""
    assert sizes_of(after_some(1.0, Clock()), 20) == [1] * 20
    assert sizes_of(after_some(1.0, Clock(), max_concurrency=20), 5) == [4] * 5
    assert sizes_of(after_some(10.0, Clock(), max_concurrency=20), 5) == [1] * 5


def test_calls_that_have_not_ended_count() -> None:
    """Among calls that begin together the short ones end first."""
    clock = Clock()
    driver = driver_of(2_000, clock, chunksize=None)
    for _ in range(30):
        sizes_of(driver, 1)
        clock.now += 0.002

    def after(seconds: float) -> list[int]:
        clock.now += seconds
        driver.look()
        driver.review()
        return sizes_of(driver, 1)

    for index in range(10, 30):
        driver.ended(f"{index:05d}", 1, 1.0, "log", failed=False, seconds=0.001)
    assert after(0.0) > [20]
    assert after(3.0) < [3]  # ten were invoked before these, and so have started before; ten times 3 s are a lot
    assert after(3.0) > [20]  # if they had, they would have shown that by now


def first_ones(clock: Clock, count: int = 10_000) -> tuple[Driver, list[str]]:
    """Return a driver of a map, and what it lets go before anything is known; the client invokes 1,000 a second."""
    driver, names = driver_of(count, clock, chunksize=None), []
    while isinstance(step := driver.next_call(), Ready):
        driver.accepted(*step, "request", 100.0)
        names.append(step.call_id)
        clock.now += 0.001
    return driver, names


def test_most_calls_wait_for_the_first_wave() -> None:
    """Once it is known that they are short, they share invocations, and their number is known too."""
    clock = Clock()
    driver, names = first_ones(clock)
    assert names == [f"{index:05d}" for index in range(100)]
    later = driver.next_call()
    assert isinstance(later, Later)
    assert later.wait == pytest.approx(LEARNING - 0.1)
    assert driver.next_due() == later.wait
    assert driver.expected_invocations() == 0
    assert driver.is_learning()
    clock.now += 0.5
    for call_id in names[:20]:
        driver.ended(call_id, 1, 1.0, "log", failed=False, seconds=0.001)
    assert isinstance(driver.next_call(), Later)  # what is found with one look counts together
    driver.look()
    driver.review()
    assert not driver.is_learning()
    assert driver.expected_invocations() < 200
    assert all(size > 50 for size in sizes_of(driver, 20))


def test_nothing_waits_for_long_calls() -> None:
    """First the service gets as many as it runs at once, and after a second and a half all; each is alone."""
    clock = Clock()
    driver, _ = first_ones(clock)
    clock.now = LEARNING + 0.01
    assert driver.expected_invocations() == 900
    for _ in range(900):
        assert sizes_of(driver, 1) == [1]
        clock.now += 0.0005
    assert isinstance(driver.next_call(), Later)
    clock.now = LONG_LEARNING + 0.01
    assert not driver.is_learning()
    assert sizes_of(driver, 20) == [1] * 20
    assert driver.expected_invocations() == 8_980


def test_until_enough_is_known_calls_that_make_way_are_alone() -> None:
    """The very first ones may not be like most."""
    clock = Clock()
    driver, names = first_ones(clock)
    for call_id in names[: ENOUGH - 1]:
        driver.ended(call_id, 1, 1.0, "log", failed=False, seconds=0.001)
    driver.look()
    driver.review()
    assert sizes_of(driver, ENOUGH - 1) == [1] * (ENOUGH - 1)
    assert isinstance(driver.next_call(), Later)


def test_what_ends_while_outcomes_are_read_is_no_long_call() -> None:
    """Up to where the client has seen is when it began to look. To read many outcomes takes long."""
    clock = Clock()
    driver, names = first_ones(clock)
    clock.now = 0.5
    driver.begin_look()
    clock.now = 3.0
    for call_id in names[30:]:
        driver.ended(call_id, 1, 1.0, "log", failed=False, seconds=0.001)
    driver.review()
    assert all(size > 50 for size in sizes_of(driver, 20))


def test_calls_that_end_make_way_for_as_many() -> None:
    """As long as more is not known than that some calls are long, the service is kept busy."""
    clock = Clock()
    driver, names = first_ones(clock)
    clock.now += 0.5
    for call_id in names[:3]:
        driver.ended(call_id, 1, 1.0, "log", failed=False, seconds=10.0)
    driver.look()
    driver.review()
    assert sizes_of(driver, 3) == [1] * 3
    assert isinstance(driver.next_call(), Later)


def test_calls_that_the_service_runs_at_once_do_not_wait() -> None:
    """A thousand calls are invoked as before."""
    assert len(first_ones(Clock(), 1_000)[1]) == 1_000


def test_what_a_chunk_hands_back_while_it_runs_is_invoked_at_once() -> None:
    """It never began, so that does not count as an attempt that failed; and the chunk goes on."""
    driver = driver_of(3)
    invoked(driver)
    error = CallLostError("handed back")
    for call_id in CALLS[1:]:
        assert driver.failed(call_id, 1, Cause.HANDED_BACK, error) is not None
    assert counts(driver) == (2, 0, 1, 0, 0)
    assert invoked(driver) == ["00001.2"]
    end(driver, CALLS[0])
    end(driver, CALLS[1], 2)
    end(driver, CALLS[2], 2)
    assert driver.counts() == Counts(3, 0, 0, 0, 0, 3, 0, 2)


@pytest.mark.parametrize("by_report", [True, False])
@pytest.mark.parametrize("retries", [0, 2])
def test_chunks_cannot_hand_a_call_back_without_end(by_report: bool, retries: int) -> None:
    """A worker that runs calls, and says that it has not, gets each of them a limited number of times."""
    driver = driver_of(3, retries=retries)
    for number in range(1, MOST_HANDED_BACK + 1):
        assert invoked(driver) == [f"00000.{number}"]
        if by_report:
            for call_id in CALLS:
                driver.failed(call_id, number, Cause.HANDED_BACK, CallLostError("handed back"))
        else:
            assert driver.leave(f"00000.{number}") == []
    assert invoked(driver) == CALLS  # alone: there, nobody believes a worker that says so
    assert all(causes(driver, one) == ["handed back"] * MOST_HANDED_BACK + [None] for one in CALLS)


def test_a_pause_is_no_invocation() -> None:
    """While calls wait for the first wave, the client has nothing to invoke."""
    clock = Clock()
    driver, names = first_ones(clock)
    assert isinstance(driver.next_call(), Later)
    clock.now += 0.05
    for call_id in names[:ENOUGH]:
        driver.ended(call_id, 1, 1.0, "log", failed=False, seconds=0.001)
    driver.review()
    sizes_of(driver, 1)
    assert driver._record.times.invoking == pytest.approx(0.001)


def test_a_call_that_was_seen_to_run_counts_from_then_on() -> None:
    """Whatever starts take: its worker shows itself after two seconds."""
    clock = Clock()
    driver, names = first_ones(clock)
    for call_id in names[1:]:
        clock.now += 0.1
        driver.ended(call_id, 1, 1.0, "log", failed=False, seconds=0.001)
    driver.look()
    driver.running(names[0], 1, 1.0, "log")
    clock.now += 3.0
    driver.look()
    driver.review()
    assert driver._record.times.unfinished == pytest.approx(5.0)
