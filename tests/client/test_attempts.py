"""Staged calls that a driver invokes again: what workers, records and beacons say, and how the calls end."""

from __future__ import annotations

import json
import os
import pickle
import time
from unittest.mock import Mock

import pytest

import pywren
from pywren.aws.errors import concerns_credentials
from pywren.client import staged_calls
from pywren.client.callset import Callset
from pywren.client.driver.driver import Driver
from pywren.client.driver.policy import Policy
from pywren.client.invoking import Invocations
from pywren.client.monitor import FIRST_POLL, Monitor
from pywren.client.payloads import Payloads
from pywren.client.protocols import Invoker
from pywren.client.staged_calls import StagedCallset
from pywren.exceptions import (
    CallLostError,
    InvocationError,
    InvocationThrottledError,
    StorageError,
    VersionMismatchError,
    WorkerCrashedError,
)
from pywren.future import futures_of
from pywren.storage import Storage
from pywren.wire.beacon import Beacon
from pywren.wire.cause import Cause
from pywren.wire.failure import Failure
from pywren.wire.outcome import Outcome
from pywren.wire.status import CLIENT_ATTEMPT, Status


class Service(Invoker):
    """An invoker that keeps payloads, and answers what a test says."""

    may_lose_calls = True

    def __init__(self):
        self.payloads = []
        self.answers = []  # exceptions, for the next invocations

    def invoke(self, payload):
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer
        self.payloads.append(json.loads(json.dumps(payload)))
        return f"request-{len(self.payloads)}"


class Client:
    """A client with a fake service, on a virtual clock. The test plays the workers."""

    def __init__(self, count=1, *, function=None, event_age=3600.0, **policy):
        self.now = time.time()
        self.storage = Storage(pywren.wrenconfig.extract_storage_config(pywren.wrenconfig.default()))
        self.callset = Callset(
            self.storage.prefix, job_max_runtime=10, queue_patience=event_age, function=function, submitted=self.now
        )
        self.service = Service()
        clock = lambda: self.now  # noqa: E731
        self.origin = StagedCallset(self.callset, self.storage, Mock(spec=Monitor), clock=clock, timer=clock)
        ids = [f"{number:05d}" for number in range(count)]
        self.origin.keep_payloads(Payloads({"callset_id": self.callset.id}, {one: {} for one in ids}))
        self.driver = Driver(
            ids,
            Policy(event_age=event_age, job_max_runtime=10, may_lose_calls=True, **policy),
            clock=clock,
            jitter=lambda: 0.0,
        )
        self.invocations = Invocations(
            self.driver,
            self.service,
            payload=self.origin.payload,
            now=clock,
            refused=self.origin.refuse,
            note=self.origin.note_invocation,
            callset_id=self.callset.id,
            threads=1,
            clock=clock,
        )
        # On this thread: the tests decide when the background works.
        self.invocations.wake = lambda: self.invocations._run_behind() if not self.held() else None
        self.origin.drive(self.driver, self.invocations)
        self.items = futures_of(self.origin, ids)
        self.invocations.run()

    def held(self):
        due = self.driver.next_due()
        return due is None or due > 0

    def attempts(self):
        return self.origin.attempts(self.items[0])

    def look(self, seconds=0.0):
        self.now += seconds
        self.origin.examine()

    def invoked(self):
        return [(payload["call_id"], payload["attempt"]) for payload in self.service.payloads]

    def key(self, number, call_id="00000"):
        """Return the key of an attempt as its worker knows it."""
        (payload,) = [one for one in self.service.payloads if (one["call_id"], one["attempt"]) == (call_id, number)]
        return bytes.fromhex(payload["attempt_key"])

    def status(self, number, call_id="00000", **members):
        return Status(self.callset.id, call_id, number, **members)

    def returns(self, number, value, call_id="00000"):
        status = self.status(number, call_id, outcome=Outcome(True, pickle.dumps(value)).encode())
        return self.storage.commit_status(
            self.callset.call_keys(call_id).status, status.encode(self.key(number, call_id))
        )

    def reports(self, number, failure=None, key=None, call_id="00000", **members):
        failure = failure or Failure("WorkerCrashedError", "its worker was killed", (-9,), Cause.KILLED)
        status = self.status(number, call_id, failure=None if members else failure, **members)
        self.storage.put(
            self.callset.call_keys(call_id).attempt(number), status.encode(key or self.key(number, call_id))
        )

    def raises(self, number, error, call_id="00000"):
        outcome = pywren.pickling.packed_exceptions.dump_exception(error).encoded_outcome()
        self.reports(number, outcome=outcome, exception_traceback="Traceback", call_id=call_id)

    def beacon(self, number, call_id="00000", key=None):
        beacon = Beacon(self.callset.id, call_id, number, self.now, log_stream="a log stream")
        name = self.callset.call_keys(call_id).beacon(number)
        self.storage.put(name, beacon.encode(key or self.key(number, call_id)))
        os.utime(self.storage.backend._path(name), (self.now, self.now))  # the storage's clock is virtual too

    def record(self, number=1, kind="Runtime.ExitError", *, payload=None, condition="RetriesExhausted"):
        shown = {"callset_id": self.callset.id, "call_id": "00000", "attempt": number}
        if payload is None:
            payload = {**shown, "attempt_key": self.key(number).hex()}
        when = time.strftime("%Y/%m/%d/%Y-%m-%dT%H.%M.%S", time.gmtime(self.now))
        data = {
            "requestContext": {"condition": condition},
            "requestPayload": payload,
            "responsePayload": {"errorType": kind, "errorMessage": "exit status 1"},
        }
        self.storage.put(
            f"aws/lambda/async/{self.callset.function}/{when}-{time.monotonic_ns()}", json.dumps(data).encode()
        )
        self.now += 10


class TestReports:
    """A worker says that its attempt has failed."""

    def test_a_killed_attempt_is_repeated(self):
        """The call returns its value, and the future names both attempts."""
        client = Client()
        client.reports(1)
        client.look(3)
        client.look(3)
        assert client.invoked() == [("00000", 1), ("00000", 2)]
        client.returns(2, "value")
        client.look(1)
        assert client.items[0].result(0) == "value"
        first, second = client.attempts()
        assert (first.cause, second.cause, second.request_id) == ("killed", None, "request-2")

    def test_each_attempt_has_a_key_of_its_own(self):
        """A worker of the first attempt cannot sign for the second."""
        client = Client()
        client.reports(1)
        client.look(3)
        client.look(3)
        assert client.key(1) != client.key(2)

    def test_a_call_that_kills_every_worker(self):
        """After seven attempts it ends with the worker's error, which names the attempts."""
        client = Client()
        for number in range(1, 8):
            client.reports(number)
            client.look(3)
            client.look(60)
        assert len(client.invoked()) == 7
        with pytest.raises(WorkerCrashedError, match=r"its worker was killed \(attempt 1: killed.*attempt 7: killed"):
            client.items[0].result(0)
        assert client.storage.read_status(client.callset.id, "00000") is not None
        assert len(client.items[0].run_status["attempts"]) == 7

    @pytest.mark.parametrize("cause", [Cause.ENDED_ITSELF, Cause.TIMED_OUT, Cause.OUT_OF_MEMORY, Cause.REFUSED])
    def test_what_no_other_attempt_cures(self, cause):
        """It ends the call at once."""
        client = Client()
        client.reports(1, Failure("WorkerCrashedError", "said the worker", (1,), cause))
        client.look(3)
        assert client.invoked() == [("00000", 1)]
        with pytest.raises(WorkerCrashedError, match="said the worker"):
            client.items[0].result(0)

    def test_another_wire_format(self):
        """The worker refuses the payload, and the call ends with the worker's words."""
        client = Client()
        client.reports(1, Failure("VersionMismatchError", "run 'pywren deploy_lambda'", (), Cause.REFUSED))
        client.look(3)
        with pytest.raises(VersionMismatchError, match="deploy_lambda"):
            client.items[0].result(0)

    def test_exceptions_that_are_to_be_retried(self):
        """They are repeated; the last attempt's own exception is raised."""
        client = Client(retries=1, retry_on=(ConnectionError,))
        client.raises(1, ConnectionError("first"))
        client.look(3)
        client.look(3)
        client.raises(2, ConnectionError("second"))
        client.look(3)
        assert len(client.invoked()) == 2
        with pytest.raises(ConnectionError, match="second"):
            client.items[0].result(0)

    def test_other_exceptions(self):
        """They end the call."""
        client = Client(retries=1, retry_on=(ConnectionError,))
        client.raises(1, KeyError("mine"))
        client.look(3)
        assert len(client.invoked()) == 1
        assert isinstance(client.items[0].exception(0), KeyError)

    @pytest.mark.parametrize("key", [b"k" * 32, None])
    def test_forged(self, key):
        """A report that is not signed by its attempt is ignored, and the real one that follows counts."""
        client = Client()
        data = client.status(1, failure=Failure("WorkerCrashedError", "forged", (), Cause.KILLED)).encode(key)
        client.storage.put(client.callset.call_keys("00000").attempt(1), data)
        client.look(3)
        client.look(3)
        assert len(client.invoked()) == 1
        client.reports(1)
        client.look(3)
        client.look(3)
        assert len(client.invoked()) == 2

    @pytest.mark.parametrize("cause", [Cause.DROPPED, Cause.TOO_OLD])
    def test_a_worker_that_claims_it_never_ran(self, cause):
        """Repeats of what never ran have no limit, so a worker, which has run, cannot ask for them."""
        client = Client(event_age=None, retries=1)
        for number in (1, 2):
            client.reports(number, Failure("CallLostError", "never ran", (), cause))
            client.look(3)
            client.look(60)
        assert len(client.invoked()) == 2
        assert isinstance(client.items[0].exception(0), CallLostError)

    def test_without_retries(self):
        """With ``retries=0`` no attempt that may have started is repeated."""
        client = Client(retries=0)
        client.reports(1)
        client.look(3)
        assert isinstance(client.items[0].exception(0), WorkerCrashedError)
        assert len(client.invoked()) == 1

    def test_the_end_is_known_elsewhere(self):
        """Another process reads the error that the driver has decided on."""
        client = Client(retries=0)
        client.reports(1)
        client.look(3)
        other = StagedCallset(client.callset, client.storage, Mock(spec=Monitor), clock=lambda: client.now)
        (item,) = futures_of(other, ["00000"])
        other.examine()
        assert isinstance(item.exception(0), WorkerCrashedError)

    @pytest.mark.parametrize("method", ["read_attempt", "look", "read_status"])
    def test_a_storage_that_fails_once(self, monkeypatch, method):
        """What could not be read is read by the next poll."""
        client = Client()
        client.reports(1)
        with monkeypatch.context() as patch:
            patch.setattr(client.storage, method, Mock(side_effect=StorageError("out of reach")))
            client.look(3)
        client.look(3)
        client.look(3)
        assert len(client.invoked()) == 2

    @pytest.mark.parametrize("problem", [StorageError("out of reach"), KeyboardInterrupt()])
    def test_an_end_that_could_not_be_written(self, monkeypatch, problem):
        """The driver decides once; the end is written when the storage takes it, also after Ctrl-C."""
        client = Client(retries=0)
        client.reports(1)
        with monkeypatch.context() as patch:
            patch.setattr(client.storage, "commit_status", Mock(side_effect=problem))
            client.now += 3
            try:
                client.origin.examine()
            except KeyboardInterrupt:
                pass
        client.look(3)
        assert isinstance(client.items[0].exception(0), WorkerCrashedError)


class TestCtrlC:
    """It comes at the worst moments, and no call is forgotten."""

    def test_between_dropping_calls_and_cancelling_them(self, monkeypatch):
        """The next poll ends the calls that were dropped."""
        monkeypatch.setattr(Invocations, "run", lambda _: None)
        client = Client(count=3)
        with monkeypatch.context() as patch:
            patch.setattr(client.service, "withdraw", Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                client.origin.withdraw()
        client.look(1)
        assert all(one.cancelled() for one in client.items)

    def test_while_the_monitor_finds_a_poll_running(self, monkeypatch):
        """The flag of the poll is cleared, and the next poll hands the callset back to the monitor."""
        client = Client()

        def interrupted(*_):
            client.origin.examine()  # as the monitor's thread does meanwhile
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(client.origin, "_poll_now", interrupted)
            patch.setattr(client.origin, "_hand_back", Mock(side_effect=KeyboardInterrupt))  # while it waits for a lock
            with pytest.raises(KeyboardInterrupt):
                client.origin.examine()
        client.returns(1, "value")
        client.look(1)
        assert client.items[0].result(0) == "value"

    def test_before_an_attempt_is_sent(self, monkeypatch):
        """What was taken from the queue counts as invoked, and is repeated like an event that was dropped."""
        with monkeypatch.context() as patch:
            patch.setattr(Invocations, "run", lambda _: None)
            client = Client()
        with monkeypatch.context() as patch:
            patch.setattr(client.invocations, "invoke", Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                client.invocations.run()
        for _ in range(30):
            client.look(1)
        assert client.invoked()[0] == ("00000", 2)


class TestRecords:
    """Lambda writes a record of an attempt that left no status."""

    def test_a_record_that_shows_the_key(self):
        """The call is invoked again."""
        client = Client(function="f")
        client.record()
        client.look()
        client.look(60)
        client.returns(2, "value")
        client.look(1)
        assert client.items[0].result(0) == "value"

    def test_a_forged_record_that_only_names_the_call(self):
        """Nothing is repeated, and nothing ends."""
        client = Client(function="f")
        client.record(payload={"callset_id": client.callset.id, "call_id": "00000", "attempt": 1})
        client.beacon(1)
        client.look()
        client.look(20)
        assert client.invoked() == [("00000", 1)]
        assert client.attempts()[0].cause is None

    def test_too_old(self):
        """An event that was too old is invoked again, even if nothing else is repeated."""
        client = Client(function="f", retries=0)
        client.record(condition="EventAgeExceeded")
        client.look()
        client.look(60)
        assert len(client.invoked()) == 2

    def test_a_status_whose_key_is_shown(self):
        """It proves nothing any more: it is deleted, and another attempt ends the call."""
        client = Client(function="f")
        client.returns(1, "perhaps forged")
        client.record()
        client.look()
        assert client.storage.read_status(client.callset.id, "00000") is None
        client.look(60)
        assert client.returns(2, "value")
        client.look(1)
        assert client.items[0].result(0) == "value"

    def test_a_status_whose_key_is_shown_and_that_comes_again(self):
        """After some deletions the call ends with the record's error, written over the status."""
        client = Client(function="f")
        client.record()
        for _ in range(6):
            client.returns(1, "forged")
            client.look(10)
        assert isinstance(client.items[0].exception(0), WorkerCrashedError)
        assert b"WorkerCrashedError" in client.storage.read_status(client.callset.id, "00000")

    def test_a_status_that_comes_when_the_call_is_given_up(self, monkeypatch):
        """The status loses if its key is shown, though the end was to be written only where nothing stands."""
        client = Client(function="f", retries=0)
        client.record()
        commit = client.storage.commit_status

        def late(key, data):
            client.returns(1, "late") if monkeypatch.undo() is None else None
            return commit(key, data)

        monkeypatch.setattr(client.storage, "commit_status", late)
        client.look()
        assert not client.items[0].done()
        client.look(10)
        assert isinstance(client.items[0].exception(0), WorkerCrashedError)


class TestSuspicion:
    """Nothing is heard of an attempt."""

    def test_a_dropped_event(self):
        """The call is invoked again after seconds, and the value of either attempt counts."""
        client = Client()
        for _ in range(30):
            client.look(1)
        assert client.invoked()[:2] == [("00000", 1), ("00000", 2)]
        client.returns(1, "late")
        client.look(1)
        assert client.items[0].result(0) == "late"

    def test_a_beacon_prevents_it(self):
        """A call that runs for long is not repeated, and its future runs."""
        client = Client()
        for _ in range(10):
            client.beacon(1)
            client.look(30)
        assert client.items[0].running()
        assert len(client.invoked()) == 1
        assert client.attempts()[0].where == "a log stream"

    def test_a_beacon_that_stops(self):
        """A worker that has vanished is replaced."""
        client = Client()
        client.look(1)
        client.beacon(1)
        for _ in range(12):
            client.look(10)
        assert client.invoked()[:2] == [("00000", 1), ("00000", 2)]
        assert client.attempts()[0].cause == "vanished"

    def test_a_forged_beacon(self):
        """It shows nothing."""
        client = Client()
        client.beacon(1, key=b"k" * 32)
        client.look(3)
        assert not client.items[0].running()

    def test_a_forged_beacon_is_read_once(self, monkeypatch):
        """It is read again when something has written it again, which may be the worker."""
        client = Client()
        client.beacon(1, key=b"k" * 32)
        read = Mock(wraps=client.storage.read_beacon)
        monkeypatch.setattr(client.storage, "read_beacon", read)
        for _ in range(3):
            client.look(3)
        assert read.call_count == 1
        client.beacon(1)
        client.look(3)
        assert client.items[0].running()

    def test_an_old_beacon(self):
        """A client that begins to look when the worker is long dead does not think that it runs."""
        client = Client()
        client.beacon(1)
        client.look(3600)
        assert not client.items[0].running()

    def test_a_client_that_was_suspended(self):
        """An hour in which it could not look proves nothing."""
        client = Client()
        client.look(1)
        client.now += 3600 - 60
        client.beacon(1)
        client.look()
        assert len(client.invoked()) == 1

    def test_given_up_in_the_end(self):
        """When no attempt can bring a status any more, the call is lost."""
        client = Client(retries=0, event_age=100)
        client.look(100 + 10 + staged_calls.LOST_GRACE - 1)
        assert not client.items[0].done()
        client.look(2)
        assert isinstance(client.items[0].exception(0), CallLostError)


class TestInvokingAgain:
    """The service refuses an attempt after ``map`` has returned."""

    def failed(self, *answers, **policy):
        client = Client(**policy)
        client.reports(1)
        client.service.answers += answers
        client.look(3)
        client.look(60)
        return client

    def test_refused_for_good(self):
        """The call ends with the refusal."""
        client = self.failed(InvocationError("no such function"))
        client.look(1)
        with pytest.raises(InvocationError, match="no such function"):
            client.items[0].result(0)

    def test_busy(self):
        """The call waits, and is invoked then."""
        client = self.failed(*[InvocationThrottledError("busy")] * 3)
        for _ in range(10):
            client.look(30)
        assert client.invoked()[1] == ("00000", 2)

    def test_busy_for_ever(self):
        """In the end the call is given up, as one is whose attempt brings no status."""
        client = Client(event_age=100)
        client.invocations.wake = lambda: None  # every invocation is refused as too busy
        client.reports(1)
        end = client.now + 100 + 10 + staged_calls.LOST_GRACE
        while client.now + 10 < end:
            client.look(5)
        assert not client.items[0].done()
        while client.now < end + 10:
            client.look(5)
        assert isinstance(client.items[0].exception(0), CallLostError)
        assert "too busy" in str(client.items[0].exception(0))

    def test_expired_credentials(self, monkeypatch, caplog):
        """The call waits until there are new credentials; one line says so."""
        expired = InvocationError("the credentials have expired")
        monkeypatch.setattr("pywren.client.invoking.concerns_credentials", lambda error: error is expired)
        assert not concerns_credentials(expired)
        client = self.failed(expired, expired)
        client.look(60)
        assert len(client.invoked()) == 1
        client.look(60)
        client.look(60)
        assert client.invoked()[1] == ("00000", 2)
        assert caplog.text.count("credentials have expired") == 1

    def test_cancelled_meanwhile(self):
        """A call that was cancelled is not invoked again."""
        client = Client()
        client.reports(1)
        client.look(3)
        assert client.items[0].cancel()
        client.look(60)
        assert client.items[0].cancelled()
        assert len(client.invoked()) == 1


def test_cancelled_by_another_process():
    """The status of a client is no attempt."""
    client = Client()
    status = client.status(CLIENT_ATTEMPT, failure=Failure("CallCancelledError", "cancelled"))
    client.storage.commit_status(
        client.callset.call_keys("00000").status, status.encode(client.callset.attempt_key("00000", CLIENT_ATTEMPT))
    )
    client.look(1)
    assert client.items[0].cancelled()
    assert [one.number for one in client.attempts()] == [1]


def test_dropped_futures_that_another_process_wants():
    """A call whose future was pickled is driven to its end, even if the program drops the future."""
    client = Client()
    pickle.dumps(client.items)
    client.items = []
    client.reports(1)
    client.look(3)
    client.look(3)
    assert len(client.invoked()) == 2
    client.returns(2, "value")
    client.look(1)
    assert client.origin.examine() is None


def test_dropped_futures():
    """Nobody wants the calls of futures that the program drops: nothing is repeated, nothing is polled."""
    client = Client()
    client.items = []
    client.reports(1)
    client.look(3)
    assert client.origin.examine() is None
    assert len(client.invoked()) == 1


def test_a_callset_that_waits_for_room_sends_no_request(monkeypatch):
    """Row 378: of thousands of calls that are made one by one, each has a callset, which is polled."""
    client = Client(count=2, max_concurrency=0)
    asked = []
    monkeypatch.setattr(client.origin._looker, "look", lambda *arguments: asked.append(arguments))
    for _ in range(5):
        client.look(5)
    assert (client.invoked(), asked) == ([], [])


@pytest.mark.parametrize("is_learning", [True, False])
def test_calls_that_wait_for_the_first_ones_are_not_kept_waiting_by_polls(monkeypatch, is_learning):
    """As long as they wait, the next poll follows at once, whatever a poll costs."""
    client = Client(10)
    look = client.storage.look

    def slow(*args, **options):
        client.now += 0.5
        return look(*args, **options)

    monkeypatch.setattr(client.storage, "look", slow)
    monkeypatch.setattr(client.driver, "is_learning", lambda: is_learning)
    assert client.origin.examine() == pytest.approx(FIRST_POLL if is_learning else 1.0)


def test_how_long_calls_run_is_known_up_to_the_beginning_of_a_look(monkeypatch):
    """What has not ended by then may have ended while the others were read."""
    client = Client(10, chunksize=None)
    began = client.now
    read = client.storage.read_status

    def slow(*args, **options):
        client.now += 7.0
        return read(*args, **options)

    monkeypatch.setattr(client.storage, "read_status", slow)
    client.returns(1, "a", "00009")
    seen = []
    monkeypatch.setattr(client.driver._record, "review", seen.append)
    client.look(1.0)
    assert client.now - began == pytest.approx(8.0)
    assert seen == [pytest.approx(1.0)]
