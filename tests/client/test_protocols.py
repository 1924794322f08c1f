"""What the client asks of an invoker, and the defaults for an invoker that does not answer."""

from __future__ import annotations

import pytest

from pywren.client.protocols import Invoker, adapted
from pywren.invokers import DummyInvoker, LambdaInvoker, LocalInvoker
from pywren.queues import SQSInvoker

QUESTIONS = ["payload_limit", "queue_patience", "function_name", "pool", "environment", "runs_here"]


class Of2018:
    """An invoker of 0.4: two methods and nothing else."""

    def __init__(self) -> None:
        self.payloads: list[object] = []

    def invoke(self, payload: object) -> int:
        self.payloads.append(payload)
        return len(self.payloads)

    def config(self) -> dict[str, object]:
        return {"mine": True}


def test_an_invoker_of_2018_has_all_defaults() -> None:
    """Its two methods are called, and everything else has a default."""
    given = Of2018()
    invoker = adapted(given)
    assert invoker.invoke({"call_id": "00000"}) == 1
    assert (given.payloads, invoker.config()) == ([{"call_id": "00000"}], {"mine": True})
    assert {name: getattr(invoker, name) for name in QUESTIONS} == {
        name: getattr(Invoker(), name) for name in QUESTIONS
    }
    assert invoker.explain_silence() is None


def test_what_it_says_counts_and_may_change() -> None:
    """A member that a program adds to its invoker is used, even after the executor was made."""
    given = Of2018()
    invoker = adapted(given)
    given.payload_limit = 100  # type: ignore[attr-defined]
    given.explain_silence = lambda: "nobody works today"  # type: ignore[attr-defined]
    assert (invoker.payload_limit, invoker.explain_silence()) == (100, "nobody works today")
    given.payload_limit = 200  # type: ignore[attr-defined]
    assert invoker.payload_limit == 200


@pytest.mark.parametrize("kind", [LambdaInvoker, DummyInvoker, LocalInvoker, SQSInvoker])
def test_our_own_need_no_adapter(kind: type[Invoker]) -> None:
    """Our own invokers are used without an adapter."""
    made = kind("us-west-2", "name") if kind in (LambdaInvoker, SQSInvoker) else kind()  # type: ignore[call-arg]
    assert adapted(made) is made
    if hasattr(made, "close"):
        made.close()
