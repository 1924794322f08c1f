"""What a client keeps of each call: a payload comes back whole, futures that are gone are forgotten, little is kept."""

from __future__ import annotations

import gc

from test_staged_calls import Worker

from pywren.client.call_facts import CallFacts
from pywren.client.callset import Callset
from pywren.client.payloads import Payloads
from pywren.wire.call import Call
from pywren.wire.references import Reference
from pywren.wire.status import Status

OWN = {"attempt": 1, "host_submit_time": 5.0, "data_inline": "gAVLAC4="}


def test_a_payload_comes_back_whole() -> None:
    """What follows from the id of a call is not kept, and yet in its payload; a member that is ``None`` stays."""
    worker = Worker()
    keys = worker.callset.call_keys("00007")
    shared = {"func_key": "shared", "data_byte_range": None, "attempt": 1, "host_submit_time": 0.0}
    worker.origin.keep_payloads(Payloads(dict(shared), {"00007": dict(OWN)}))
    assert worker.origin.whole_payload("00007") == {
        **shared,
        **OWN,
        "call_id": "00007",
        "data_key": keys.data,
        "output_key": keys.output,
        "status_key": keys.status,
        "cancel_key": keys.cancel,
    }
    assert not worker.origin.records["00007"].members


def test_payloads_in_parts_are_those_of_the_calls() -> None:
    """Whatever a call has of its own, its payload is the one that the call alone would have."""
    callset = Callset("p", job_max_runtime=9.0)
    own = {
        "00000": {"data_inline": b"x"},
        "00001": {"data_key": "p/aggdata", "data_byte_range": (3, 4), "data_sha256": "ab", "data_size": 2},
        "00002": {"data_inline": b"y", "references": (Reference("k", "00", "c", "00003"),), "attempt": 2},
    }
    template = Call({"a": 1}, callset.id, "", "f", "", "", "", "", 9.0, extra={"mine": None}, extra_env={"A": "b"})
    payloads = Payloads.of(template, own)
    calls = {one: template.sibling(one, callset.call_keys(one), fields) for one, fields in own.items()}
    assert {one: payloads.whole(callset, one) for one in own} == {one: call.encode() for one, call in calls.items()}
    assert [Call.decode(payloads.whole(callset, one)) for one in own] == list(calls.values())


def test_a_member_that_the_program_has_overwritten_is_kept() -> None:
    """``overwrite_invoke_args`` may change a key that follows from the id, and what is the call's own."""
    worker = Worker()
    payloads = Payloads({"func_key": "f"}, {"00007": {"data_key": "own", "data_byte_range": [0, 1]}})
    payloads.overwrite({"status_key": "elsewhere", "data_key": "there"})
    worker.origin.keep_payloads(payloads)
    kept = worker.origin.whole_payload("00007")
    assert (kept["status_key"], kept["data_key"], kept["data_byte_range"]) == ("elsewhere", "there", [0, 1])


def test_the_argument_is_dropped_when_the_call_has_ended() -> None:
    """Only another attempt would need it; ``invoke_status`` never shows it."""
    worker = Worker()
    worker.origin.keep_payloads(Payloads({}, {"00000": dict(OWN)}))
    (item,) = worker.futures()
    worker.returns(1)
    assert item.result(10) == 1
    assert worker.origin.records["00000"].argument is None
    shown = item.invoke_status
    assert "data_inline" not in shown
    assert shown["host_submit_time"] == 5.0
    assert shown["status_done_timestamp"] > 0.0


def test_what_the_client_did_is_shown_with_the_names_of_0_4() -> None:
    """The request was sent when the payload was made; before, nothing is said of it."""
    facts = CallFacts({"attempt": 2, "host_submit_time": 5.0})
    assert facts.document() == {}
    facts.seconds = 0.25
    facts.add_others({"download_output_time": 1.0})
    assert facts.document() == {
        "lambda_invoke_timestamp": 5.0,
        "lambda_invoke_time": 0.25,
        "download_output_time": 1.0,
    }
    assert facts.attempt == 2


def test_a_call_is_forgotten_with_its_last_future() -> None:
    """A call may have several futures: while one of them lives, polls look for its outcome."""
    worker = Worker()
    first, second = worker.futures(), worker.futures()
    del first
    gc.collect()
    assert worker.origin.examine() is not None
    assert [one.call_id for one in worker.origin.outstanding()] == ["00000"]
    del second
    gc.collect()
    assert worker.origin.examine() is None


def test_a_future_that_comes_after_all_others_have_gone_is_served() -> None:
    """References to futures that are gone do not hide a new one of the same call."""
    worker = Worker()
    worker.futures()
    (item,) = worker.futures()
    worker.returns("still here")
    assert item.result(10) == "still here"


def test_a_user_who_drops_futures_in_a_destructor_is_safe() -> None:
    """Dropping an outcome may run a destructor that drops futures, while gone futures are being forgotten."""
    worker = Worker()
    items = worker.futures(3)

    class Owner:
        def __init__(self, owned: list[object]) -> None:
            self.owned = owned

        def __del__(self) -> None:
            self.owned.clear()
            worker.origin.outstanding()

    owner: Owner | None = Owner([items.pop(), items.pop()])
    worker.origin.examine()
    owner = None
    gc.collect()
    assert owner is None
    assert [one.call_id for one in worker.origin.outstanding()] == ["00000"]


def test_the_names_of_statuses_are_shared() -> None:
    """Forty names for each of a hundred thousand statuses would take half of their memory."""
    data = Status("a callset", "00000", info={"a name of the worker": 1}).encode(None)
    (first,), (second,) = (Status.decode(data).info for _ in range(2))
    assert first == "a name of the worker"
    assert first is second
