"""``after``: which attempts are repeated, how often, and after how long."""

from __future__ import annotations

import pytest

from pywren.client.driver.calls import AttemptRecord, CallRecord, Phase
from pywren.client.driver.policy import MOST_KILLS, Policy
from pywren.client.driver.retrying import LONGEST_DELAY, Again, Over, after, described
from pywren.wire.cause import NEVER_RAN, TAKEN_AWAY, Cause

LAMBDA = Policy(may_lose_calls=True)
OTHERS = sorted(set(Cause) - NEVER_RAN - TAKEN_AWAY - {Cause.WORKER_FAILED})


def failed(*causes: Cause, phase: Phase = Phase.RUNNING) -> CallRecord:
    """Return a call whose attempts have ended for these causes."""
    attempts = [AttemptRecord(number, ended=1.0, cause=cause) for number, cause in enumerate(causes, 1)]
    return CallRecord("00000", phase, attempts=attempts)


def decide(call: CallRecord, policy: Policy = LAMBDA, wanted: bool = False) -> Again | Over | None:
    assert call.current is not None
    return after(call, call.current, wanted, policy, 0.5)


@pytest.mark.parametrize("cause", sorted(NEVER_RAN))
def test_what_never_ran_is_repeated_without_limit(cause: Cause) -> None:
    for count in (1, 7, 100, 2_000):
        assert isinstance(decide(failed(*[cause] * count)), Again)


@pytest.mark.parametrize("cause", sorted(TAKEN_AWAY))
def test_what_was_taken_away_is_repeated_six_times(cause: Cause) -> None:
    assert MOST_KILLS == 6
    assert isinstance(decide(failed(*[cause] * 6)), Again)
    assert isinstance(decide(failed(*[cause] * 7)), Over)


def test_kills_and_vanished_workers_are_counted_together() -> None:
    assert isinstance(decide(failed(*[Cause.KILLED, Cause.VANISHED] * 3)), Again)
    assert isinstance(decide(failed(*[Cause.KILLED, Cause.VANISHED] * 3, Cause.KILLED)), Over)


def test_faults_of_the_platform_do_not_use_up_the_retries_of_the_user() -> None:
    platform = [Cause.DROPPED, Cause.KILLED, Cause.TOO_OLD] * 2
    assert isinstance(decide(failed(*platform, Cause.EXCEPTION, Cause.EXCEPTION), wanted=True), Again)
    assert isinstance(decide(failed(*platform, *[Cause.EXCEPTION] * 3), wanted=True), Over)
    assert isinstance(decide(failed(*[Cause.WORKER_FAILED] * 2, *[Cause.KILLED] * 6)), Again)


@pytest.mark.parametrize("retries", [1, 2, 5])
def test_a_worker_that_fails_is_tried_as_often_as_the_retries_say(retries: int) -> None:
    policy = LAMBDA._replace(retries=retries)
    assert isinstance(decide(failed(*[Cause.WORKER_FAILED] * retries), policy), Again)
    assert isinstance(decide(failed(*[Cause.WORKER_FAILED] * (retries + 1)), policy), Over)


@pytest.mark.parametrize("cause", OTHERS)
def test_what_the_call_did_itself_is_not_repeated_unless_asked(cause: Cause) -> None:
    assert decide(failed(cause)) == Over("")


@pytest.mark.parametrize("cause", sorted(set(OTHERS) - {Cause.CANCELLED, Cause.REFUSED}))
def test_what_the_call_did_itself_is_repeated_if_asked(cause: Cause) -> None:
    assert isinstance(decide(failed(cause, cause), wanted=True), Again)
    assert isinstance(decide(failed(cause, cause, cause), wanted=True), Over)


@pytest.mark.parametrize("cause", [Cause.CANCELLED, Cause.REFUSED])
def test_a_cancelled_or_refused_call_is_never_repeated(cause: Cause) -> None:
    assert decide(failed(cause), wanted=True) == Over("")


NEVER_BEGUN = [Cause.TOO_OLD, Cause.HANDED_BACK]


@pytest.mark.parametrize("cause", sorted(set(Cause) - set(NEVER_BEGUN)))
def test_without_retries_nothing_starts_twice(cause: Cause) -> None:
    assert decide(failed(cause), LAMBDA._replace(retries=0), wanted=True) == Over("")


@pytest.mark.parametrize("cause", NEVER_BEGUN)
def test_without_retries_a_call_that_never_began_is_repeated(cause: Cause) -> None:
    assert isinstance(decide(failed(cause), LAMBDA._replace(retries=0)), Again)


@pytest.mark.parametrize("cause", sorted(Cause))
def test_nothing_is_done_while_another_attempt_is_in_flight(cause: Cause) -> None:
    call = failed(cause)
    call.attempts += (AttemptRecord(2, backup=True),)
    assert after(call, call.attempts[0], False, LAMBDA, 0.5) is None


def test_a_suspected_attempt_is_not_in_flight() -> None:
    call = failed(Cause.KILLED)
    call.attempts += (AttemptRecord(2, cause=Cause.DROPPED, suspected=True),)
    assert isinstance(after(call, call.attempts[0], False, LAMBDA, 0.5), Again)


def test_a_call_that_is_in_the_queue_already_is_not_put_there_twice() -> None:
    """The attempt was suspected, and its record arrives before the next attempt is invoked."""
    assert decide(failed(Cause.KILLED, phase=Phase.HELD)) is None
    assert decide(failed(Cause.EXCEPTION, phase=Phase.HELD)) == Over("")


def test_the_delay_grows_to_half_a_minute_and_is_jittered() -> None:
    def delay(count: int, jitter: float) -> float:
        call = failed(*[Cause.DROPPED] * count)
        step = after(call, call.attempts[-1], False, LAMBDA, jitter)
        assert isinstance(step, Again)
        return step.delay

    assert [delay(count, 0.999) for count in (2, 3, 4)] == pytest.approx([1.0, 2.0, 4.0], rel=0.01)
    assert [delay(count, 0.0) for count in (2, 3, 4)] == pytest.approx([0.5, 1.0, 2.0])
    assert all(0.0 <= delay(count, 0.999) <= LONGEST_DELAY for count in range(1, 50))
    assert delay(2_000, 0.5) <= LONGEST_DELAY


def test_a_dropped_call_has_waited_for_long_enough() -> None:
    assert decide(failed(Cause.DROPPED)) == Again(0.0)


def test_the_first_kill_is_repeated_at_once_except_on_lambda() -> None:
    assert decide(failed(Cause.KILLED), Policy()) == Again(0.0)
    assert decide(failed(Cause.KILLED)) == Again(0.375)
    step = decide(failed(Cause.KILLED, Cause.KILLED), Policy())
    assert isinstance(step, Again)
    assert step.delay > 0.0


def test_the_last_error_names_all_attempts() -> None:
    call = failed(Cause.KILLED, Cause.DROPPED, Cause.WORKER_FAILED, Cause.TIMED_OUT)
    call.attempts[0].where = "log/stream"
    call.attempts[2].error = "Traceback …\nStorageError: no answer"
    call.attempts[3].error = "ran out of time"
    assert described(call, call.attempts[3]) == (
        "(attempt 1: killed in log/stream; attempt 2: dropped; attempt 3: worker failed, StorageError: no answer; "
        "attempt 4: timed out)"
    )


def test_equal_errors_are_not_repeated() -> None:
    call = failed(*[Cause.EXCEPTION] * 5)
    for attempt, error in zip(call.attempts, ("A: 1\nsecond line", "A: 1", "B", "A: 1", "C"), strict=True):
        attempt.error = error
    assert described(call, call.attempts[4]) == (
        "(attempt 1: exception, A: 1; attempt 2: exception, as before; attempt 3: exception, B; "
        "attempt 4: exception, A: 1; attempt 5: exception)"
    )


def test_the_error_that_the_words_follow_is_not_among_them() -> None:
    call = failed(*[Cause.KILLED] * 3)
    for attempt in call.attempts:
        attempt.error, attempt.where = "a long hint", f"process {attempt.number}"
    assert described(call, call.attempts[2]) == (
        "(attempt 1: killed in process 1; attempt 2: killed in process 2; attempt 3: killed in process 3)"
    )


def test_the_message_of_many_attempts_names_the_first_and_the_last_three() -> None:
    call = failed(*[Cause.KILLED] * 40)
    words = described(call, call.attempts[-1])
    assert words.startswith("(attempt 1: killed; attempt 2: killed; attempt 3: killed; 34 more; attempt 38: killed; ")
    assert words.endswith("attempt 40: killed)")


def test_the_message_is_bounded_whatever_the_errors_say() -> None:
    call = failed(*[Cause.WORKER_FAILED] * 100)
    for attempt in call.attempts:
        attempt.error, attempt.where = f"{attempt.number}" * 1_000_000, "y" * 1_000_000
    assert len(described(call, call.attempts[-1])) < 4_000


def test_the_message_does_not_end_an_error_within_a_word() -> None:
    """A long error is cut between two words, and the dots say so."""
    call = failed(Cause.KILLED)
    call.attempts[0].error = "memory " * 100
    words = described(call, None)
    assert words.startswith("(attempt 1: killed, memory memory ")
    assert words.endswith(" memory …)")
    assert len(words) < 240


def test_a_single_attempt_needs_no_message() -> None:
    call = failed(Cause.KILLED)
    assert described(call, call.attempts[0]) == ""
