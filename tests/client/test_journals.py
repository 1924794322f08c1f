"""Journals of chunks as clients read and write them: the test plays the workers. No process runs."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import pytest
from test_attempts import Client

from pywren.client.driver.driver import Ready
from pywren.client.monitor import Monitor
from pywren.client.payloads import Payloads
from pywren.client.staged_calls import StagedCallset
from pywren.exceptions import (
    CallCancelledError,
    CallTimeoutError,
    InvocationThrottledError,
    StorageError,
    StorageOutputNotFoundError,
    VersionMismatchError,
    WorkerCrashedError,
)
from pywren.future import futures_of
from pywren.system.forks import own_name
from pywren.wire.beacon import Beacon
from pywren.wire.call import Call
from pywren.wire.cause import Cause
from pywren.wire.chunk import Chunk
from pywren.wire.failure import Failure
from pywren.wire.journal import Page, Plan
from pywren.wire.outcome import Outcome
from pywren.wire.status import Status

NAME = "00000.1"
CALLS = ["00000", "00001", "00002"]


class Chunked(Client):
    """A client whose calls are in chunks of three; and the workers of the chunks."""

    def __init__(self, count: int = 3, **policy: Any) -> None:
        super().__init__(count, **{"chunksize": 3, "retries": 2, **policy})
        self.callset.has_chunks = True

    @property
    def secret(self) -> bytes:
        return self.callset.known_secret()

    def payload(self, name: str = NAME) -> dict[str, Any]:
        """Return the last payload of a chunk."""
        found = [one for one in self.service.payloads if "chunk" in one and self.name_of(one) == name]
        return found[-1]

    @staticmethod
    def name_of(payload: dict[str, Any]) -> str:
        first = payload["chunk"]["items"][0]
        return f"{first['call_id']}.{first['attempt']}"

    def names(self) -> list[str]:
        """Return what was invoked: chunks by their names, and calls with their attempts."""
        return [
            self.name_of(one) if "chunk" in one else f"{one['call_id']}/{one['attempt']}"
            for one in self.service.payloads
        ]

    def value(self, call_id: str, value: Any, number: int = 1) -> Status:
        outcome = Outcome(True, pickle.dumps(value)).encode()
        return self.status(number, call_id, outcome=outcome, info={"start_time": self.now, "log_stream_name": "log"})

    def page(self, number: int, *statuses: Status, name: str = NAME, **members: Any) -> bool:
        """Write a page as the worker of a chunk. Return whether the number was free."""
        data = Page(self.callset.id, name, number, statuses, **members).encode(
            bytes.fromhex(self.payload(name)["chunk"]["key"])
        )
        return self.storage.put(self.callset.keys.page(name, number), data, if_absent=True)

    def read(self, number: int, name: str = NAME) -> Page:
        """Return a page that stands."""
        data = self.storage.get(self.callset.keys.page(name, number))
        return Page.verify(data, self.secret, self.callset.id, name, number)

    def dies(self, name: str = NAME, kind: str = "Runtime.ExitError", condition: str = "RetriesExhausted") -> None:
        """Write Lambda's record of the invocation of a chunk."""
        self.record(kind=kind, payload=self.payload(name), condition=condition)

    def elsewhere(self) -> list[Any]:
        """Return futures of the same calls in a process that does not drive them."""
        callset = pickle.loads(pickle.dumps(self.callset))
        self.other = StagedCallset(
            callset, self.storage, Mock(spec=Monitor), clock=lambda: self.now, timer=lambda: self.now
        )
        return futures_of(self.other, [one.call_id for one in self.items])

    def results(self) -> list[Any]:
        return [one.result(0) for one in self.items]


def statuses_of(client: Chunked, calls: Sequence[str] = CALLS) -> list[Status]:
    """Return the values of some calls."""
    return [client.value(call_id, call_id.lstrip("0") or "0") for call_id in calls]


class TestOutcomes:
    """What is on a page ends calls, for every reader alike."""

    def test_a_chunk_is_one_payload(self) -> None:
        """Its plan is written before; its worker gets one key for all, and that of no attempt."""
        client = Chunked()
        (payload,) = client.service.payloads
        assert [one["call_id"] for one in payload["chunk"]["items"]] == CALLS
        assert "attempt_key" not in payload
        plan = Plan.verify(
            client.storage.get(client.callset.keys.page(NAME, 0)), client.secret, client.callset.id, NAME
        )
        assert plan.attempts == dict.fromkeys(CALLS, 1)

    def test_each_call_of_a_chunk_is_the_one_that_it_would_be_alone(self) -> None:
        """Wherever its argument is: in the payload, in an object of its own, or in one that others share."""
        client = Chunked()
        own: dict[str, dict[str, Any]] = {
            "00000": {"data_inline": b"x", "runtime_url": "s3://a/copy"},
            "00001": {"data_sha256": "ab", "data_size": 3},
            "00002": {"data_key": "p/all", "data_byte_range": (3, 4), "data_sha256": "cd", "data_size": 2},
        }
        names = {"callset_id": client.callset.id, "call_id": "", "data_key": "", "output_key": "", "status_key": ""}
        template = Call({}, **names, func_key="f", cancel_key="", job_max_runtime=9.0, client_process=own_name())
        client.origin.keep_payloads(Payloads.of(template, own))
        payload = Call.decode(json.dumps(client.origin.payload(Ready(NAME, 1))))
        alone = [template.sibling(one, client.callset.call_keys(one), fields) for one, fields in own.items()]
        sent = dataclasses.replace(alone[0], host_submit_time=payload.host_submit_time)
        runtime = {"host_submit_time": payload.host_submit_time, "runtime_url": "s3://a/copy"}
        assert Chunk.of(payload).calls == (sent, *(dataclasses.replace(one, **runtime) for one in alone[1:]))

    def test_outcomes_come_page_by_page(self) -> None:
        """The first page settles its calls, and says which call runs."""
        client = Chunked()
        client.page(1, *statuses_of(client, CALLS[:1]), running=CALLS[1])
        client.look(3)
        assert [one.done() for one in client.items] == [True, False, False]
        assert [one.running() for one in client.items] == [False, True, False]
        client.page(2, *statuses_of(client, CALLS[1:]))
        client.look(1)
        assert client.results() == ["0", "1", "2"]
        assert [one.request_id for one in client.items[2].attempts] == ["request-1"]
        assert client.items[2].run_status["call_id"] == CALLS[2]
        assert client.driver.counts().done == 3

    def test_other_processes_read_the_same(self) -> None:
        """They find the chunks by their plans, at once, and again for another copy of a future."""
        client = Chunked()
        client.page(1, *statuses_of(client, CALLS[:1]), running=CALLS[1])
        copies = client.elsewhere()
        client.other.examine()
        assert [one.done() for one in copies] == [True, False, False]
        assert copies[1].running()
        client.page(2, *statuses_of(client, CALLS[1:]))
        client.now += 3
        client.other.examine()
        assert [one.result(0) for one in copies] == ["0", "1", "2"]
        (again,) = futures_of(client.other, CALLS[:1])
        client.now += 3
        client.other.examine()
        assert again.result(0) == "0"

    def test_listings_begin_at_the_first_open_journal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The process that drives the calls does not list what it knows; another one lists all journals."""
        client = Chunked(9)
        look, asked = client.storage.look, []

        def looked(callset_id: str, start_after: str, first_chunk: str | None) -> Any:
            asked.append((start_after, first_chunk))
            return look(callset_id, start_after, first_chunk)

        monkeypatch.setattr(client.storage, "look", looked)
        calls = [one.call_id for one in client.items]
        for index, name in [(3, "00003.1"), (0, "00000.1"), (6, "00006.1")]:
            client.page(1, *statuses_of(client, calls[index : index + 3]), name=name, last=True)
            client.look(3)
        assert asked == [("", "00000.1"), ("", "00000.1"), ("00005", "00006.1")]
        copies = client.elsewhere()
        client.other.examine()
        assert asked[3:] == [("", "")]
        assert [one.result(0) for one in copies] == client.results()

    def test_readers_without_futures(self) -> None:
        """``Storage`` reads journals as it reads statuses."""
        client = Chunked()
        storage, callset_id = client.storage, client.callset.id
        assert storage.get_callset_status(callset_id) == []
        assert storage.get_call_status(callset_id, CALLS[0]) is None
        client.page(1, client.value(CALLS[0], "value"), client.status(1, CALLS[1], failure=Failure("CallError", "no")))
        assert storage.get_callset_status(callset_id) == CALLS[:2]
        status = storage.get_call_status(callset_id, CALLS[0])
        assert status is not None
        assert (status["call_id"], status["attempt"]) == (CALLS[0], 1)
        for call_id in CALLS[1:]:
            with pytest.raises(StorageOutputNotFoundError):
                storage.get_call_output(callset_id, call_id)
        client.callset.secret = None  # that of this user, which the storage derives too
        assert storage.get_call_status(callset_id, CALLS[2]) is None
        assert pickle.loads(storage.get_call_output(callset_id, CALLS[0]))["result"] == "value"

    def test_a_status_counts_more_than_a_page(self) -> None:
        """Whoever has written it may not have known of the journal."""
        client = Chunked()
        client.page(1, *statuses_of(client))
        failure = Failure.of(CallCancelledError("the call was cancelled"))
        status = Status(client.callset.id, CALLS[1], 0, failure)
        client.storage.commit_status(
            client.callset.call_keys(CALLS[1]).status, status.encode(client.callset.attempt_key(CALLS[1], 0))
        )
        copies = client.elsewhere()
        client.other.examine()
        client.look(3)
        for futures in (client.items, copies):
            assert [futures[0].result(0), futures[1].cancelled(), futures[2].result(0)] == ["0", True, "2"]

    def test_a_look_that_fails_finds_the_same_again(self) -> None:
        """Nothing is kept before all was read."""
        client = Chunked()
        client.page(1, *statuses_of(client))
        records = client.origin._looker._records = Mock()
        records.is_due.return_value = False
        records.is_empty = True
        records.refresh.side_effect = StorageError("no records now")
        client.look(3)
        assert not any(one.done() for one in client.items)
        records.refresh.side_effect = None
        client.look(3)
        assert client.results() == ["0", "1", "2"]

    def test_a_forked_child_reads_the_journals_itself(self) -> None:
        """Its parent drives the calls, and has read the first page."""
        client = Chunked()
        client.page(1, *statuses_of(client, CALLS[:1]))
        client.look(3)
        client.page(2, *statuses_of(client, CALLS[1:]))
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                client.look(3)
                status = 0 if client.results() == ["0", "1", "2"] else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        client.look(3)
        assert client.results() == ["0", "1", "2"]

    def test_the_beacon_of_the_first_call_is_that_of_the_chunk(self) -> None:
        """Also when that call has ended: then it shows that the next one runs."""
        client = Chunked()
        client.page(1, *statuses_of(client, CALLS[:1]))
        client.look(3)
        assert not client.items[1].running()
        client.beacon(1, key=bytes.fromhex(client.payload()["chunk"]["key"]))
        client.look(3)
        assert client.items[1].running()
        assert client.driver.counts().running == 1


class TestLeftBehind:
    """Calls that a worker has not run are invoked again, and count once."""

    def test_what_was_handed_back(self) -> None:
        """It is invoked again at once, together."""
        client = Chunked()
        client.page(1, *statuses_of(client, CALLS[:1]), last=True)
        client.look(3)
        assert client.names() == [NAME, "00001.2"]
        client.page(1, client.value(CALLS[1], "1", 2), client.value(CALLS[2], "2", 2), name="00001.2")
        client.look(3)
        assert client.results() == ["0", "1", "2"]
        assert [one.cause for one in client.items[1].attempts] == ["handed back", None]

    @pytest.mark.parametrize("garbage", [b"", b"{}", b"x" * (9 << 20)])
    def test_garbage_ends_a_journal(self, garbage: bytes) -> None:
        """What its worker writes behind it does not count. The calls are invoked alone."""
        client = Chunked()
        client.page(1, *statuses_of(client, CALLS[:1]))
        client.storage.put(client.callset.keys.page(NAME, 2), garbage)
        client.page(3, *statuses_of(client, CALLS[1:]))
        client.look(3)
        client.look(3)
        assert client.names() == [NAME, "00001/2", "00002/2"]
        client.returns(2, "again", CALLS[1])
        client.look(3)
        assert client.items[1].result(0) == "again"

    def test_a_dead_worker_is_cut_off_before_its_calls_run_again(self) -> None:
        """It may live after all: what it writes after the mark of the client does not count."""
        client = Chunked(function="f")
        client.page(1, *statuses_of(client, CALLS[:1]))
        client.look(3)
        client.dies()
        client.look(3)
        mark = client.read(2)
        assert mark.by_client
        assert mark.last
        assert len(mark.believed) == 1
        assert client.names() == [NAME]
        assert not client.page(2, *statuses_of(client, CALLS[1:]))
        client.page(3, *statuses_of(client, CALLS[1:]))
        client.look(3)
        client.look(3)
        assert client.names() == [NAME, "00001/2", "00002/2"]
        assert [one.cause for one in client.items[1].attempts] == ["killed", None]
        for call_id in CALLS[1:]:
            client.returns(2, "again", call_id)
        client.look(3)
        assert client.results() == ["0", "again", "again"]
        # Somebody who reads only now, when the record shows the key, believes what the client has believed.
        copies = client.elsewhere()
        client.other.examine()
        assert [one.result(0) for one in copies] == ["0", "again", "again"]
        client.callset.secret = None
        assert pickle.loads(client.storage.get_call_output(client.callset.id, CALLS[0]))["result"] == "0"

    def test_a_page_that_came_after_the_record_does_not_count(self) -> None:
        """Everybody who reads the record can sign it. Neither client believes it."""
        client = Chunked(function="f")
        client.dies()
        client.page(1, *statuses_of(client))
        copies = client.elsewhere()
        client.other.examine()
        client.look(3)
        assert client.read(2).believed == ()
        client.look(3)
        client.look(3)
        client.other.examine()
        assert not any(one.done() for one in (*client.items, *copies))
        assert client.names() == [NAME, "00000/2", "00001/2", "00002/2"]

    def test_many_pages_of_somebody_who_has_the_key(self) -> None:
        """They keep nobody waiting: the journal counts as damaged."""
        client = Chunked(function="f")
        client.page(1, *statuses_of(client, CALLS[:1]))
        client.look(3)
        client.dies()
        for number in range(2, 80):
            client.page(number)
        client.look(3)
        client.look(3)
        assert client.items[0].result(0) == "0"
        assert client.names() == [NAME, "00001/2", "00002/2"]

    def test_without_retries_only_the_call_fails_that_may_have_begun(self) -> None:
        """It has the precise cause, and the others never started."""
        client = Chunked(function="f", retries=0)
        assert client.payload()["chunk"]["page_interval"] == 0.0
        client.page(1, *statuses_of(client, CALLS[:1]))
        client.look(3)
        client.dies(kind="Runtime.OutOfMemory")
        client.look(3)
        client.look(3)
        with pytest.raises(WorkerCrashedError, match="memory"):
            client.items[1].result(0)
        assert client.names() == [NAME, "00002/2"]

    def test_a_chunk_that_was_too_old_never_ran(self) -> None:
        """Its calls are invoked again together."""
        client = Chunked(function="f")
        client.dies(condition="EventAgeExceeded")
        for _ in range(3):
            client.look(3)
        assert client.names() == [NAME, "00000.2"]

    def test_a_report_has_its_call_repeated_alone(self) -> None:
        """The chunk goes on. The last report becomes the status of the call."""
        client = Chunked(retries=1)
        failure = Failure("WorkerCrashedError", "said the worker", (None,), Cause.WORKER_FAILED)
        report = client.status(1, CALLS[1], failure=failure)
        client.page(1, client.value(CALLS[0], "0"), report, reports=frozenset({CALLS[1]}))
        client.look(3)
        client.look(3)
        assert client.names() == [NAME, "00001/2"]
        client.page(2, client.value(CALLS[2], "2"))
        client.reports(2, failure, call_id=CALLS[1])
        client.look(3)
        client.look(3)
        assert [client.items[0].result(0), client.items[2].result(0)] == ["0", "2"]
        with pytest.raises(WorkerCrashedError, match=r"said the worker \(attempt 1: worker failed"):
            client.items[1].result(0)
        assert client.storage.read_status(client.callset.id, CALLS[1]) is not None

    def test_a_worker_of_another_version_refuses_all_calls(self) -> None:
        """It does not know chunks, and writes the status of the first call. Every reader understands that."""
        client = Chunked()
        failure = Failure.of(VersionMismatchError("version mismatch", "0.1", "0.2"))
        status = client.status(1, CALLS[0], failure=failure).encode(None)
        client.storage.commit_status(client.callset.call_keys(CALLS[0]).status, status)
        copies = client.elsewhere()
        client.other.examine()
        client.look(3)
        for one in (*client.items, *copies):
            with pytest.raises(VersionMismatchError):
                one.result(0)
        assert client.driver.counts().failed == 3


class TestMarks:
    """Calls of a chunk are ended in its journal."""

    def test_a_call_is_cancelled_by_a_page(self) -> None:
        """The others are not affected, and the worker heeds the page."""
        client = Chunked()
        assert client.items[1].cancel()
        assert [one.call_id for one in client.read(1).statuses] == [CALLS[1]]
        assert not client.page(1, *statuses_of(client))
        client.page(2, *statuses_of(client))  # what it says of the cancelled call comes too late
        client.look(3)
        assert client.items[1].cancelled()
        assert [client.items[0].result(0), client.items[2].result(0)] == ["0", "2"]
        copies = client.elsewhere()
        client.other.examine()
        assert [one.cancelled() for one in copies] == [False, True, False]
        assert client.storage.read_status(client.callset.id, CALLS[1]) is None

    def test_an_outcome_that_was_written_before_counts(self) -> None:
        """``cancel`` is False, and the future has its value."""
        client = Chunked()
        client.page(1, *statuses_of(client))
        assert not client.items[1].cancel()
        assert client.results() == ["0", "1", "2"]

    def test_another_process_cancels(self) -> None:
        """It finds the chunk first."""
        client = Chunked()
        copies = client.elsewhere()
        assert copies[1].cancel()
        client.look(3)
        assert client.items[1].cancelled()
        assert client.read(1).by_client

    def test_the_verb_of_0_4_cancels(self) -> None:
        """``put_cancelled`` needs no future."""
        client = Chunked()
        client.storage.put_cancelled(client.callset.id, CALLS[1])
        client.look(3)
        assert client.items[1].cancelled()
        client.page(2, *statuses_of(client))
        client.look(3)
        client.storage.put_cancelled(client.callset.id, CALLS[2])
        assert client.items[2].result(0) == "2"
        assert client.storage.read_status(client.callset.id, CALLS[2]) is None

    def test_a_call_that_the_chunk_has_left_behind_is_cancelled_as_usual(self) -> None:
        """The journal has ended, so a status of its own ends the call."""
        client = Chunked()
        client.page(1, *statuses_of(client, CALLS[:1]), last=True)
        assert client.items[1].cancel()
        assert client.storage.read_status(client.callset.id, CALLS[1]) is not None
        client.look(3)
        assert client.names() == [NAME, "00002/2"]

    def test_the_end_of_the_time_takes_one_page(self) -> None:
        """All calls of the chunk are on it."""
        client = Chunked(timeout=30.0)
        client.page(1, *statuses_of(client, CALLS[:1]))
        client.look(3)
        client.look(60)
        assert [one.call_id for one in client.read(2).statuses] == CALLS[1:]
        for one in client.items[1:]:
            with pytest.raises(CallTimeoutError):
                one.result(0)
        assert client.items[0].result(0) == "0"


class TestInvoking:
    """The plan comes before the invocation."""

    def test_a_throttled_chunk_is_invoked_again_as_it_is(self) -> None:
        """Its plan is written once."""
        client = Chunked()
        client.page(1, last=True)  # all calls go back
        client.service.answers = [InvocationThrottledError("busy")] * 2
        written = client.storage.put
        client.storage.put = Mock(side_effect=written)  # type: ignore[method-assign]
        for _ in range(20):
            client.look(3)
            if len(client.names()) == 2:
                break
        assert client.names() == [NAME, "00000.2"]
        plans = [one for one in client.storage.put.call_args_list if one.args[0].endswith("/0.json")]
        assert len(plans) == 1
        client.page(1, *[client.value(one, "again", 2) for one in CALLS], name="00000.2")
        client.look(3)
        assert client.results() == ["again"] * 3

    def test_a_plan_that_cannot_be_written_is_written_later(self) -> None:
        """In the background nothing is lost by it; ``map`` raises the error."""
        client = Chunked()
        client.page(1, last=True)  # all calls go back
        written = client.storage.put

        def fails(key: str, data: bytes, **options: Any) -> bool:
            if key.endswith("/0.json"):
                raise StorageError("no plan now")
            return written(key, data, **options)

        client.storage.put = fails  # type: ignore[method-assign]
        client.look(3)
        client.look(3)
        assert client.names() == [NAME]
        client.storage.put = written  # type: ignore[method-assign]
        client.look(60)
        assert client.names() == [NAME, "00000.2"]
        client.page(1, *[client.value(one, "again", 2) for one in CALLS], name="00000.2")
        client.look(3)
        assert client.results() == ["again"] * 3

    def test_a_chunk_that_is_refused_ends_its_calls(self) -> None:
        """In the background each gets the error."""
        client = Chunked()
        client.page(1, last=True)
        client.service.answers = [ValueError("refused for good")]
        client.look(3)
        client.look(3)
        for one in client.items:
            with pytest.raises(Exception, match="refused for good"):
                one.result(0)


def test_a_beacon_is_signed_for_the_chunk() -> None:
    """With the key of an attempt of another call it shows nothing."""
    client = Chunked()
    beacon = Beacon(client.callset.id, CALLS[0], 1, client.now)
    name = client.callset.call_keys(CALLS[0]).beacon(1)
    client.storage.put(name, beacon.encode(b"another key"))
    client.look(3)
    assert not client.items[0].running()
