"""``Faults`` and ``FaultPlan``: which faults can be set, and that the same seed gives the same faults."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pywren.exceptions import ArgumentError
from pywren.testing.emulator._faults import Fault, FaultPlan, Faults


def strikes(plan: FaultPlan, kind: str, occasions: int) -> list[bool]:
    """Return what a plan decides, one occasion after the other."""
    return [plan.strikes(kind) for _ in range(occasions)]


def test_nothing_goes_wrong_by_default() -> None:
    """By default there are no faults."""
    assert not any(strikes(FaultPlan(Faults()), "kill_container", 100))


def test_a_fault_strikes_always_and_so_often_at_most() -> None:
    """The share is 1 by default; ``most`` limits the number of faults."""
    plan = FaultPlan(Faults(drop_event=Fault(most=2), fail_invoke=Fault()))
    assert strikes(plan, "drop_event", 5) == [True, True, False, False, False]
    assert all(strikes(plan, "fail_invoke", 20))


def test_a_share_is_about_kept() -> None:
    """A share of a tenth strikes about a tenth of many occasions."""
    assert 60 < sum(strikes(FaultPlan(Faults(slow_down_s3=Fault(share=0.1))), "slow_down_s3", 1000)) < 140


def test_a_fault_of_some_seconds() -> None:
    """A fault with ``seconds`` strikes from the moment when the faults are set until that time is over."""
    now = 100.0
    plan = FaultPlan(Faults(fail_s3=Fault(seconds=60)), clock=lambda: now)
    assert all(strikes(plan, "fail_s3", 3))
    now = 159.9
    assert plan.strikes("fail_s3")
    now = 160.0
    assert not any(strikes(plan, "fail_s3", 3))


def test_a_fault_of_one_caller() -> None:
    """Requests of others are not even occasions: they do not change on which requests the fault strikes."""
    plan = FaultPlan(Faults(seed=3, fail_s3=Fault(0.5, caller="function")))
    alone = FaultPlan(Faults(seed=3, fail_s3=Fault(0.5)))
    assert not any(plan.strikes("fail_s3", "client") for _ in range(20))
    assert [plan.strikes("fail_s3", "function:f") for _ in range(20)] == strikes(alone, "fail_s3", 20)


def test_the_same_seed_gives_the_same_faults_whatever_else_happens() -> None:
    """Each kind has its own random stream: occasions of other kinds do not affect it, but the seed does."""
    half = Fault(share=0.5)
    alone = strikes(FaultPlan(Faults(seed=7, drop_event=half)), "drop_event", 64)
    mixed = FaultPlan(Faults(seed=7, drop_event=half, fail_invoke=half))
    interleaved = []
    for _ in range(64):
        mixed.strikes("fail_invoke")
        interleaved.append(mixed.strikes("drop_event"))
    assert interleaved == alone
    assert strikes(FaultPlan(Faults(seed=8, drop_event=half)), "drop_event", 64) != alone
    assert strikes(FaultPlan(Faults(seed=7, fail_invoke=half)), "fail_invoke", 64) != alone


def test_the_moment_of_a_kill_is_the_seeds() -> None:
    """A kill comes within a second, at a different moment each time, and repeatably with the same seed."""

    def moments(seed: int) -> list[float]:
        plan = FaultPlan(Faults(seed=seed, kill_container=Fault()))
        return [plan.moment() for _ in range(20) if plan.strikes("kill_container")]

    assert moments(1) == moments(1) != moments(2)
    assert len(set(moments(1))) == 20
    assert all(0 <= moment < 1 for moment in moments(1))


def test_faults_cross_as_json() -> None:
    """Faults survive being encoded as JSON, and missing ones have their defaults."""
    faults = Faults(seed=3, kill_container=Fault(share=0.5, most=2), kill_at="start", s3_latency=0.5)
    assert Faults.decode(json.loads(json.dumps(faults.encode()))) == faults
    faults = Faults(lose_s3=Fault(seconds=2.5, caller="client"), expired_token="OLD")
    assert Faults.decode(json.loads(json.dumps(faults.encode()))) == faults
    assert Faults.decode({"drop_event": {"most": 1}}) == Faults(drop_event=Fault(most=1))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"kill": {}}, "kill"),
        ({"drop_event": {"part": 1}}, "part"),
        ({"drop_event": 0.5}, "drop_event"),
        ({"drop_event": {"share": 1.5}}, "1.5"),
        ({"drop_event": {"share": -0.1}}, "-0.1"),
        ({"drop_event": {"share": float("nan")}}, "nan"),
        ({"drop_event": {"share": "all"}}, "all"),
        ({"drop_event": {"most": -1}}, "-1"),
        ({"drop_event": {"most": 1.5}}, "1.5"),
        ({"fail_s3": {"seconds": -1}}, "seconds"),
        ({"fail_s3": {"seconds": "long"}}, "long"),
        ({"fail_s3": {"caller": "me"}}, "me"),
        ({"drop_event": {"caller": "client"}}, "drop_event has no caller"),
        ({"expired_token": 1}, "expired_token"),
        ({"s3_latency": -1}, "s3_latency"),
        ({"invoke_latency": float("inf")}, "invoke_latency"),
        ({"cold_start_latency": "1"}, "cold_start_latency"),
        ({"kill_at": "end"}, "before_response"),
        ({"seed": "x"}, "seed"),
        ([], "Faults"),
    ],
    ids=str,
)
def test_mistakes_are_named(fields: Any, named: str) -> None:
    """An invalid name or number is an ``ArgumentError`` that names it."""
    with pytest.raises(ArgumentError, match=named):
        Faults.decode(fields)


def test_a_share_in_place_of_a_fault_is_named() -> None:
    """A plain number, a likely mistake, is an error that shows the correct form."""
    with pytest.raises(ArgumentError, match=r"slow_down_s3 must be a Fault, such as Fault\(share=0.1\)"):
        Faults(slow_down_s3=0.1)  # type: ignore[arg-type]
