"""What a client keeps of each call: a payload comes back whole, futures that are gone are forgotten, little is kept."""

from __future__ import annotations

import gc

from test_staged_calls import Worker

from pywren.client.call_facts import CallFacts
from pywren.wire.status import Status


def payload_of(worker: Worker, call_id: str) -> dict[str, object]:
    keys = worker.callset.call_keys(call_id)
    return {
        "call_id": call_id,
        "attempt": 1,
        "host_submit_time": 5.0,
        "data_key": keys.data,
        "output_key": keys.output,
        "status_key": keys.status,
        "cancel_key": keys.cancel,
        "data_byte_range": None,
        "data_inline": "gAVLAC4=",
    }


def test_a_payload_comes_back_whole() -> None:
    """What follows from the id of a call is not kept, and yet in its payload; a member that is ``None`` stays."""
    worker = Worker()
    payload = payload_of(worker, "00007")
    worker.origin.shared_payload = {"func_key": "shared"}
    worker.origin.keep_payload("00007", payload)
    assert worker.origin.whole_payload("00007") == {**payload, "func_key": "shared"}
    assert dict(worker.origin.records["00007"].members) == {"data_byte_range": None}


def test_a_member_that_the_program_has_overwritten_is_kept() -> None:
    """``overwrite_invoke_args`` may change even a key that follows from the id."""
    worker = Worker()
    payload = {**payload_of(worker, "00007"), "status_key": "elsewhere"}
    worker.origin.keep_payload("00007", payload)
    assert worker.origin.whole_payload("00007") == payload


def test_members_that_are_shared_come_before_those_that_follow_from_the_id() -> None:
    """A map of one call shares all its members, also a status key that the program has overwritten."""
    worker = Worker()
    worker.origin.shared_payload = {"status_key": "elsewhere"}
    worker.origin.keep_payload("00000", {"call_id": "00000"})
    assert worker.origin.whole_payload("00000")["status_key"] == "elsewhere"


def test_the_argument_is_dropped_when_the_call_has_ended() -> None:
    """Only another attempt would need it; ``invoke_status`` never shows it."""
    worker = Worker()
    worker.origin.keep_payload("00000", payload_of(worker, "00000"))
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
