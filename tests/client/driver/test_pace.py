"""``Pace`` against services that throttle in several ways, in virtual time."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import pytest

from pywren.client.driver.pace import SLOWEST, Pace


class Answers(NamedTuple):
    accepted: list[int]  # in each second
    refused: list[int]


def drive(accepts: Callable[[float], bool], seconds: int, fastest: float = 300.0, latency: float = 0.05) -> Answers:
    """Invoke as fast as the pace and the client allow, and count the answers in each second."""
    pace, now, answers = Pace(), 0.0, Answers([0] * (seconds + 1), [0] * (seconds + 1))
    on_the_way: deque[tuple[float, bool]] = deque()
    while now < seconds:
        while on_the_way and on_the_way[0][0] <= now:
            (pace.accepted if on_the_way.popleft()[1] else pace.throttled)(now)
        wait = pace.wait(now)
        if wait > 0.0:
            now += min(wait, 0.02)
            continue
        accepted = accepts(now)
        (answers.accepted if accepted else answers.refused)[int(now)] += 1
        on_the_way.append((now + latency, accepted))
        now += 1.0 / fastest
    return answers


def bucket(rate: Callable[[float], float]) -> Callable[[float], bool]:
    """A service with a token bucket that holds the tokens of one second."""
    state = [rate(0.0), 0.0]

    def accepts(now: float) -> bool:
        state[:] = min(rate(now), state[0] + (now - state[1]) * rate(now)), now
        if state[0] < 1.0:
            return False
        state[0] -= 1.0
        return True

    return accepts


def test_the_rate_is_unlimited_before_the_first_refusal() -> None:
    pace = Pace()
    for _ in range(1_000):
        assert pace.wait(0.0) == 0.0
        pace.accepted(0.0)


def test_no_invocation_is_held_back_where_nothing_is_refused() -> None:
    assert sum(drive(lambda now: True, 10).accepted) >= 2_999


@pytest.mark.parametrize("limit", [10, 100, 1_000])
@pytest.mark.parametrize("latency", [0.01, 0.5])
def test_most_of_a_limit_is_used_with_few_refusals(limit: int, latency: float) -> None:
    answers = drive(bucket(lambda now: limit), 60, fastest=3.0 * limit, latency=latency)
    used = sum(answers.accepted[5:60]) / (55 * limit)
    refused = sum(answers.refused[5:60]) / (55 * limit)
    assert used > 0.7
    assert refused < 0.2


@pytest.mark.parametrize("seed", range(5))
def test_a_share_of_refusals_at_random_does_not_slow_down_a_thousand_calls(seed: int) -> None:
    rng = random.Random(seed)
    answers = drive(lambda now: rng.random() >= 0.2, 8)
    assert sum(answers.accepted) >= 1_000
    assert sum(answers.accepted[:6]) >= 1_000


@pytest.mark.parametrize("seed", range(3))
def test_refusals_at_random_never_bring_it_to_a_stop(seed: int) -> None:
    rng = random.Random(seed)
    answers = drive(lambda now: rng.random() >= 0.2, 60)
    assert min(answers.accepted[:60]) > 60


def test_it_goes_on_trying_while_everything_is_refused_and_recovers_in_seconds() -> None:
    answers = drive(lambda now: not 5.0 <= now < 65.0, 90)
    assert min(answers.refused[5:65]) >= 0
    for start in range(5, 60):
        assert sum(answers.refused[start : start + 5]) >= 3, "it has stopped trying"
    assert sum(answers.refused[10:65]) <= 2 * SLOWEST * 55
    assert sum(answers.accepted[77:87]) > 0.9 * 10 * 300


def test_it_follows_a_limit_that_falls_and_rises() -> None:
    answers = drive(bucket(lambda now: 20.0 if 20.0 <= now < 40.0 else 200.0), 70)
    assert sum(answers.accepted[25:40]) > 0.7 * 15 * 20
    assert sum(answers.refused[25:40]) < 0.3 * 15 * 20
    assert sum(answers.accepted[55:70]) > 0.7 * 15 * 200


def test_a_few_refusals_of_a_program_that_invokes_little_do_not_slow_it_down() -> None:
    pace, now, rng = Pace(), 0.0, random.Random(0)
    for _ in range(200):  # two invocations a second, a fifth of them refused
        now += 0.5
        while wait := pace.wait(now):
            now += wait
        (pace.accepted if rng.random() >= 0.2 else pace.throttled)(now + 0.05)
    assert pace.rate > 2.0
    assert now < 120.0


def test_a_wait_is_never_negative_and_reserves_one_invocation() -> None:
    pace, now = Pace(), 0.0
    for number in range(3_000):
        now += 0.01
        assert pace.wait(now) >= 0.0
        (pace.throttled if number % 2 else pace.accepted)(now)
    pace.wait(now + 100.0)
    burst = 0
    while pace.wait(now + 100.0) == 0.0:
        burst += 1
    assert burst <= max(1.0, pace.rate * 0.2)
