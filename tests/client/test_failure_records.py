"""Calls that end without a report from their worker, found through Lambda's records at the on-failure destination."""

from __future__ import annotations

import json
import logging
import pickle
import time
from unittest.mock import Mock

import pytest
from botocore.exceptions import ClientError

import pywren
from pywren.client import call_state, failure_records, staged_calls
from pywren.client.callset import Callset
from pywren.client.elsewhere import copies_in
from pywren.client.failure_records import ASK_AGAIN, LISTING_INTERVAL, FailureRecords, Noted, death_of
from pywren.client.monitor import Monitor
from pywren.client.staged_calls import StagedCallset
from pywren.client.staging import StagedDispatcher
from pywren.exceptions import (
    CallLostError,
    CallTimeoutError,
    IntegrityError,
    StorageError,
    WorkerCrashedError,
)
from pywren.future import futures_of
from pywren.invokers import LambdaInvoker
from pywren.storage import Storage
from pywren.wire.failure import Failure
from pywren.wire.outcome import Outcome
from pywren.wire.status import Status

TIMED_OUT = {"errorType": "Sandbox.Timedout", "errorMessage": "RequestId: 1 Error: Task timed out after 3.00 seconds"}
KILLED = {
    "errorType": "Runtime.ExitError",
    "errorMessage": "RequestId: 1 Error: Runtime exited with error: signal: killed",
}


@pytest.fixture(autouse=True)
def not_driven(monkeypatch):
    """These clients only read, and no driver holds the callset: otherwise the calls would be the driver's to end."""
    monkeypatch.setattr(staged_calls, "held", lambda *_: None)


class Failing:
    """A callset of a Lambda function in this machine's storage, and what Lambda writes about its calls."""

    def __init__(self, count=1, function="pywren_1"):
        self.now = time.time()
        self.storage = Storage(pywren.wrenconfig.extract_storage_config(pywren.wrenconfig.default()))
        self.callset = Callset(
            self.storage.prefix, job_max_runtime=10, queue_patience=21_600, function=function, submitted=self.now
        )
        self.origin = StagedCallset(
            self.callset, self.storage, Mock(spec=Monitor), clock=lambda: self.now, timer=lambda: self.now
        )
        self.futures = futures_of(self.origin, (f"{number:05d}" for number in range(count)))
        self._written = 0

    def write(self, response=None, *, call_id="00000", condition="RetriesExhausted", function="pywren_1", **request):
        record = {
            "version": "1.0",
            "requestContext": {"condition": condition},
            "requestPayload": self.payload(call_id, **request),
        }
        if response is not None:
            record["responsePayload"] = response
        self.write_bytes(json.dumps(record).encode(), function)

    def payload(self, call_id="00000", attempt=1, **other):
        key = self.callset.attempt_key(call_id, attempt).hex()
        return {"callset_id": self.callset.id, "call_id": call_id, "attempt": attempt, "attempt_key": key, **other}

    def write_bytes(self, data, function="pywren_1", seconds=1.0):
        self._written += 1
        when = time.strftime("%Y/%m/%d/%Y-%m-%dT%H.%M.%S", time.gmtime(self.callset.submitted + seconds))
        self.storage.put(f"aws/lambda/async/{function}/{when}-{self._written:08x}-4e1d-4e4d-8b3a-000000000000", data)

    def look(self, seconds=LISTING_INTERVAL + 1):
        """Advance the clock, and poll."""
        self.now += seconds
        self.origin.examine()

    def ended(self):
        return [number for number, future in enumerate(self.futures) if future._state == "FINISHED"]

    def commit(self, call_id="00000", value=1, attempt=1):
        """Write a status as the worker does, or as anybody who has its key can."""
        outcome = Outcome(True, pickle.dumps(value)).encode()
        status = Status(self.callset.id, call_id, attempt=attempt, outcome=outcome)
        return self.stand(status.encode(self.callset.attempt_key(call_id, attempt)), call_id)

    def stand(self, data, call_id="00000"):
        return self.storage.commit_status(self.callset.call_keys(call_id).status, data)

    def ends(self, call_id="00000"):
        """Return how a call ended: its value, or the class of its error."""
        future = self.futures[int(call_id)]
        assert call_state.is_done(future)
        ended = call_state.verdict_of(future)
        return ended.value if ended.error is None else type(ended.error)


@pytest.mark.parametrize(
    ("response", "condition", "error", "text"),
    [
        (TIMED_OUT, "RetriesExhausted", CallTimeoutError, "lambda: timeout"),
        (KILLED, "RetriesExhausted", WorkerCrashedError, "lambda: memory"),
        (
            {"errorType": "Runtime.ImportModuleError", "errorMessage": "Unable to import module 'pywren.wrenhandler'"},
            "RetriesExhausted",
            CallLostError,
            "Unable to import module.*pywren deploy_lambda",
        ),
        (
            {"errorType": "DecodeError", "errorMessage": "no payload"},
            "RetriesExhausted",
            WorkerCrashedError,
            "no payload",
        ),
        (None, "EventAgeExceeded", CallLostError, "lambda: event_age"),
        (None, "ZeroReservedConcurrency", CallLostError, "reserved concurrency is 0"),
        ("not an object", "SomethingNew", WorkerCrashedError, "SomethingNew"),
    ],
)
def test_a_record_ends_its_call_with_the_cause_and_the_remedy(response, condition, error, text):
    """Lambda's record becomes the error of the call, and is stored for other clients to find."""
    failing = Failing()
    failing.write(response, condition=condition)
    failing.look()
    with pytest.raises(error, match=text) as caught:
        failing.futures[0].result(0)
    assert (caught.value.callset_id, caught.value.call_id) == (failing.callset.id, "00000")
    assert failing.storage.read_status(failing.callset.id, "00000") is not None
    assert not failing.commit()


def test_other_calls_go_on():
    """A record ends the call that it names and no other, in this callset or another."""
    failing = Failing(3)
    failing.write(KILLED, call_id="00001")
    failing.write(KILLED, call_id="00002", callset_id="another", attempt_key="ab" * 32)
    failing.write(KILLED, call_id="00002", function="another")
    failing.look()
    assert failing.ended() == [1]


class Explosive:
    """An object that leaves a mark when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle of somebody else was loaded",)


@pytest.fixture
def forged():
    """Make a call whose worker died, with a status forged with the key in the record."""
    failing = Failing()
    failing.write(KILLED)
    assert failing.commit(value=Explosive())
    return failing


class TestBelief:
    """Which statuses are believed when records reveal keys."""

    def test_a_forged_status_is_no_value(self, forged):
        """Row 61: it is not unpickled; the true error is raised, and stored for clients that may not read records."""
        forged.look(0)
        assert forged.ends() is WorkerCrashedError
        standing = Status.decode(forged.storage.read_status(forged.callset.id, "00000"))
        assert (standing.failure.kind, standing.outcome) == ("WorkerCrashedError", None)

    def test_a_quick_call_is_held_against_records_too(self, forged):
        """The status is checked against the records however soon after its submission the call died."""
        assert forged.now == forged.callset.submitted
        forged.origin.examine()
        assert forged.ends() is WorkerCrashedError

    def test_a_forged_error_does_not_hide_the_true_one(self):
        """A forged cancellation is not believed either."""
        for failure in (Failure("CallLostError", "look elsewhere"), Failure("CallCancelledError", "cancelled")):
            failing = Failing()
            failing.write(KILLED)
            key = failing.callset.attempt_key("00000", 1)
            failing.stand(Status(failing.callset.id, "00000", failure=failure).encode(key))
            failing.look()
            assert failing.ends() is WorkerCrashedError

    @pytest.mark.parametrize("data", [b"garbage", b"{}", b"[]", b"\xff" * 100, b"[" * 5000])
    def test_what_is_no_status_does_not_hide_it_either(self, data):
        """An invalid status does not hide the true error."""
        failing = Failing()
        failing.write(KILLED)
        failing.stand(data)
        failing.look()
        assert failing.ends() is WorkerCrashedError

    def test_an_unsigned_status_does_not_hide_it_either(self):
        """An unsigned status is not believed, whether it claims a value or an error."""
        for members in ({"outcome": b"{}"}, {"failure": Failure("CallLostError", "look elsewhere")}):
            failing = Failing()
            failing.write(KILLED)
            failing.stand(Status(failing.callset.id, "00000", **members).encode(None))
            failing.look()
            assert failing.ends() is WorkerCrashedError

    def test_a_record_that_comes_between_status_and_listing(self, monkeypatch):
        """Records are listed after the status is read, so a key that the forger read is already in them."""
        failing = Failing()
        read, forged = failing.storage.read_status, []

        def forge(callset_id, call_id):
            if not forged:
                forged.append(failing.write(KILLED))
                failing.commit(value=Explosive())
            return read(callset_id, call_id)

        monkeypatch.setattr(failing.storage, "read_status", forge)
        failing.look(0)
        assert failing.ends() is WorkerCrashedError

    def test_one_listing_does_for_all_statuses_of_a_look(self, monkeypatch):
        """A poll that finds 50 results costs one listing; a poll that finds no results costs no listing."""
        failing = Failing(60)
        for number in range(50):
            failing.commit(f"{number:05d}", value=number)
        listings, list_keys = [], failing.storage.backend.list
        monkeypatch.setattr(failing.storage.backend, "list", lambda *key: (listings.append(key[0]), list_keys(*key))[1])
        failing.look(0.5)
        failing.look(0.5)
        assert [key for key in listings if key.startswith("aws/")] == ["aws/lambda/async/pywren_1/"]
        assert failing.ended() == list(range(50))

    @pytest.mark.parametrize(
        "payload",
        [
            lambda one: {"calls": [{"nothing": 1}, one]},
            lambda one: [one, one],
            lambda one: json.dumps(one),
            lambda one: {"Records": [{"body": json.dumps(one)}]},
            lambda one: {**one, "callset_id": "another", "call_id": "00007"},
            lambda one: {"note": f"the key is {one['attempt_key']}."},
            lambda one: {one["attempt_key"]: None},
            lambda one: one["attempt_key"],
        ],
    )
    def test_wherever_the_payload_carries_the_key(self, payload):
        """The record of a batch, a nested event or another call condemns each call whose key it reveals."""
        failing = Failing()
        failing.write_bytes(json.dumps({"requestPayload": payload(failing.payload())}).encode())
        failing.commit(value=Explosive())
        failing.look()
        assert failing.ends() is WorkerCrashedError

    def test_a_record_condemns_all_calls_that_it_shows(self):
        """A record condemns the calls whose keys it reveals, and no other."""
        failing = Failing(4)
        batch = [failing.payload("00001"), failing.payload("00003")]
        failing.write_bytes(json.dumps({"requestPayload": {"batch": batch}, "responsePayload": KILLED}).encode())
        for number in (1, 2):
            failing.commit(f"{number:05d}", value="a value")
        failing.look()
        assert failing.ended() == [1, 2, 3]
        assert [failing.ends(f"{n:05d}") for n in (1, 2, 3)] == [WorkerCrashedError, "a value", WorkerCrashedError]

    def test_a_delivery_that_dies_after_another_has_reported(self):
        """Once a key has been revealed, a status from an honest worker cannot be told from a forged one."""
        failing = Failing()
        failing.commit(value="honest")
        failing.write(KILLED)
        failing.look()
        assert failing.ends() is WorkerCrashedError

    def test_what_was_believed_stays(self):
        """A result that was collected before the record appeared stays valid."""
        failing = Failing()
        failing.commit(value="before")
        failing.look()
        failing.write(KILLED)
        failing.look()
        assert failing.ends() == "before"

    def test_the_key_of_another_attempt_proves_nothing(self):
        """The record of one attempt does not discredit the next, which signs with its own key."""
        failing = Failing()
        failing.write(KILLED, attempt=1)
        failing.commit(value="second", attempt=2)
        failing.look()
        assert failing.ends() == "second"

    def test_a_record_without_the_key_shows_none(self):
        """A record without a call's key discredits no result; a call without a result ends."""
        failing = Failing(2)
        for call_id in ("00000", "00001"):
            failing.write(KILLED, call_id=call_id, attempt_key=None)
        failing.commit(value="honest")
        failing.look()
        assert (failing.ends("00000"), failing.ends("00001")) == ("honest", WorkerCrashedError)

    def test_a_pickled_future_is_as_careful(self, forged):
        """An unpickled future checks the records since the submission of its call, wherever it is collected."""
        (copied,) = pickle.loads(pickle.dumps(forged.futures))
        with pytest.raises(WorkerCrashedError):
            copied.result(10)

    def test_cancelling_tells_the_true_error(self, forged):
        """Cancelling a call that has died raises its true error, whatever its status is."""
        assert not forged.futures[0].cancel()
        assert forged.ends() is WorkerCrashedError

    def test_records_of_any_size(self, monkeypatch):
        """Only the maximum size of a record is read from a bigger object; a key in that part counts."""
        monkeypatch.setattr(failure_records, "RECORD_LIMIT", 1000)
        failing = Failing(4)
        failing.write(KILLED, filler="x" * 2000)
        failing.write(KILLED, call_id="00001")
        behind = {"requestPayload": {"filler": "x" * 2000, **failing.payload("00002")}}
        failing.write_bytes(json.dumps(behind).encode())
        failing.write_bytes(b"no JSON, but " + json.dumps(failing.payload("00003")).encode())
        for number in (0, 3):
            failing.commit(f"{number:05d}", value=Explosive())
        failing.look()
        assert failing.ended() == [0, 1, 3]


def test_the_output_of_04_is_as_careful(forged):
    """Row 302: a Lambda executor's storage finds the records of any day before it unpickles bytes."""
    StagedDispatcher(forged.storage, LambdaInvoker("us-east-1", "arn:aws:lambda:us-east-1:1:function:pywren_1"), {})
    with pytest.raises(IntegrityError, match="signal: killed"):
        forged.storage.get_call_output(forged.callset.id, "00000")


def test_what_is_signed_after_the_record_is_not_believed(monkeypatch):
    """The record contains the attempt's key, which others can read: a status that appears later is not believed."""
    failing = Failing()
    failing.write(KILLED)
    read = failing.storage.read_status

    def forge_after(callset_id, call_id):
        found = read(callset_id, call_id)
        failing.commit(value="forged")
        return found

    monkeypatch.setattr(failing.storage, "read_status", forge_after)
    failing.look()
    with pytest.raises(WorkerCrashedError):
        failing.futures[0].result(0)


def test_records_are_looked_for_seldom_and_read_once(monkeypatch):
    """Short calls cost no listing, longer calls one every few seconds, and no record is read twice."""
    failing = Failing(2)
    listings, read = [], []
    list_keys, get = failing.storage.backend.list, failing.storage.get
    monkeypatch.setattr(failing.storage.backend, "list", lambda *key: (listings.append(key[0]), list_keys(*key))[1])
    monkeypatch.setattr(failing.storage, "get", lambda key, **more: (read.append(key), get(key, **more))[1])
    failing.write(KILLED, call_id="00001", callset_id="another", attempt_key=None)
    failing.look(LISTING_INTERVAL - 1)
    listings.clear()
    for seconds in (1, 1, 1, 1, 1, 1, 1):
        failing.look(seconds)
    assert [prefix for prefix in listings if prefix.startswith("aws/")] == ["aws/lambda/async/pywren_1/"] * 2
    assert len(read) == 1


class TestManyCallsets:
    """The callsets of one executor, such as those of a program that calls ``call_async`` a thousand times."""

    @pytest.fixture
    def several(self, monkeypatch):
        """Make five callsets of one call with a record each, and collect the requests about records."""
        failings, asked, noted = [Failing() for _ in range(5)], [], Noted()
        for number, failing in enumerate(failings):
            failing._written = 10 * number  # each writes its own records
            failing.now = failing.callset.submitted = failings[0].now
            failing.origin = StagedCallset(
                failing.callset,
                failing.storage,
                Mock(spec=Monitor),
                noted=noted,
                clock=lambda failing=failing: failing.now,
                timer=lambda failing=failing: failing.now,
            )
            failing.futures = futures_of(failing.origin, ["00000"])
            backend = failing.storage.backend
            for name in ("list", "get"):
                monkeypatch.setattr(backend, name, self.counted(getattr(backend, name), name, asked))
        return failings, asked

    @staticmethod
    def counted(method, name, asked):
        def count(key, *more, **options):
            if key.startswith("aws/"):
                asked.append(name)
            return method(key, *more, **options)

        return count

    def test_one_listing_and_each_record_once(self, several):
        """Row 303: while no callset has a status, one listing serves all, and all dead calls end."""
        failings, asked = several
        for failing in failings:
            failing.write(KILLED)
        for failing in failings:
            failing.look()
        assert asked == ["list"] + ["get"] * 5
        assert [failing.ends() for failing in failings] == [WorkerCrashedError] * 5

    def test_a_status_takes_a_listing_of_its_own(self, several):
        """Row 303: a listing made before the status was read does not count."""
        failings, asked = several
        failings[0].look()
        for failing in failings[1:]:
            failing.write(KILLED)
            failing.commit(value=Explosive())
            failing.look()
        assert [asked.count(name) for name in ("list", "get")] == [5, 4]
        assert [failing.ends() for failing in failings[1:]] == [WorkerCrashedError] * 4

    def test_an_older_callset_lists_from_its_own_beginning(self, several):
        """Row 303: the listing for a later callset does not cover earlier records."""
        (failing, *_), _asked = several
        noted, now = Noted(), failing.now
        old, new, newer = (
            FailureRecords(failing.storage, "pywren_1", failing.callset.id, now - seconds, noted)
            for seconds in (3600, LISTING_INTERVAL + 1, LISTING_INTERVAL)
        )
        new.refresh(now)
        assert (old.is_due(now), newer.is_due(now)) == (True, False)
        old.refresh(now)
        newer.refresh(now)
        assert not any(each.is_due(now) for each in (old, new, newer))
        assert all(each.is_due(now + LISTING_INTERVAL * 10) for each in (old, new, newer))

    def test_one_warning_for_all(self, several, monkeypatch, caplog):
        """Row 226: a user who may not list gets one warning, and one request a minute is sent."""
        failings, asked = several
        for failing in failings:
            monkeypatch.setattr(failing.storage.backend, "list", self.counted(refused(failing, "403"), "list", asked))
            failing.write(KILLED)
        for failing in failings:
            failing.look()
        assert asked == ["list"]
        assert len([record for record in caplog.records if record.name == failure_records.__name__]) == 1


def test_records_of_earlier_days_are_not_read():
    """Records written before the callset was submitted do not concern it."""
    failing = Failing()
    failing.write_bytes(
        json.dumps({"requestPayload": {"callset_id": failing.callset.id, "call_id": "00000"}}).encode(), seconds=-86_400
    )
    failing.look()
    assert failing.ended() == []


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"[]", b'{"requestPayload": []}', b'{"requestPayload": {"call_id": 3}}', b"[" * 5000]
)
def test_what_is_no_record_is_passed_over(data):
    """Invalid objects among the records are ignored, and the poll goes on."""
    failing = Failing(2)
    failing.write_bytes(data)
    failing.write(KILLED, call_id="00001")
    failing.look()
    assert failing.ended() == [1]


def test_a_member_of_another_type_is_passed_over():
    """Records with members of unexpected types still become an error."""
    assert isinstance(
        death_of({"requestContext": 3, "responsePayload": {"errorType": [], "errorMessage": {}}}).error,
        WorkerCrashedError,
    )


def refused(failing, code):
    """Return a ``Backend.list`` that lists everything but records."""
    real = failing.storage.backend.list

    def refuse(prefix, *more):
        if prefix.startswith("aws/"):
            raise storage_error(code)
        return real(prefix, *more)

    return refuse


def storage_error(code, status=403):
    """Make an error of the storage as S3 causes it."""
    error = StorageError(f"cannot list s3://bucket/aws/: {code}")
    answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error.__cause__ = ClientError(answer, "ListObjectsV2")
    return error


@pytest.mark.parametrize("method", ["list", "get"])
def test_a_user_who_may_not_look_is_told_once(monkeypatch, caplog, method):
    """Row 226: without the permission, results are believed unchecked; one warning says so and gives the remedy."""
    failing = Failing(2)
    failing.write(KILLED)
    real = getattr(failing.storage.backend, method)

    def refuse(key, *more, **options):
        if key.startswith("aws/"):
            raise storage_error("AccessDenied")
        return real(key, *more, **options)

    monkeypatch.setattr(failing.storage.backend, method, refuse)
    failing.commit(value="as it stands")
    with caplog.at_level(logging.WARNING):
        failing.look()
        failing.look(60)
    (told,) = [record for record in caplog.records if record.name == failure_records.__name__]
    assert "cannot detect a result forged" in told.getMessage()
    assert "pywren iam --print user" in told.getMessage()
    assert failing.ended() == [0]
    assert failing.ends() == "as it stands"


def test_a_record_that_may_not_be_read_hides_no_other(monkeypatch):
    """Row 226: an unreadable record, such as one encrypted with an unknown key, does not hide a readable one."""
    failing = Failing(3)
    failing.write_bytes(b"encrypted")
    failing.write(KILLED)
    failing.write_bytes(b"encrypted")
    failing.write(KILLED, call_id="00001")
    get = failing.storage.backend.get

    def refuse(key, *more, **options):
        data = get(key, *more, **options)
        if data == b"encrypted":
            raise storage_error("AccessDenied")
        return data

    monkeypatch.setattr(failing.storage.backend, "get", refuse)
    failing.commit(value=Explosive())
    failing.look()
    assert failing.ended() == [0, 1]
    assert failing.ends() is WorkerCrashedError


def test_a_user_who_may_look_later_looks(monkeypatch):
    """A permission that is granted in the middle of a map is used from then on."""
    failing = Failing(2)
    with monkeypatch.context() as patch:
        patch.setattr(failing.storage.backend, "list", refused(failing, "AccessDenied"))
        failing.look()
    failing.write(KILLED)
    failing.look(ASK_AGAIN / 2)
    assert failing.ended() == []
    failing.look(ASK_AGAIN)
    assert failing.ends() is WorkerCrashedError


PASSING = [
    StorageError("the service is busy"),
    storage_error("SlowDown", 503),
    storage_error("InternalError", 500),
    storage_error("ExpiredToken", 400),
    storage_error("InvalidAccessKeyId"),
    storage_error("RequestTimeTooSkewed"),
    storage_error("SomethingNew", 400),
    MemoryError("full"),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
@pytest.mark.parametrize("method", ["list", "get"])
def test_an_error_that_passes_does_not_end_the_looking(monkeypatch, error, method):
    """Row 227: no result is believed until the records can be read; then each call has its error or result."""
    failing = Failing(2)
    failing.write(KILLED)
    failing.commit("00001", value=5)
    real = getattr(failing.storage.backend, method)

    def fail(key, *more, **options):
        if key.startswith("aws/"):
            raise error
        return real(key, *more, **options)

    with monkeypatch.context() as patch:
        patch.setattr(failing.storage.backend, method, fail)
        failing.look()
        failing.look()
    assert failing.ended() == []
    failing.look()
    assert (failing.ends("00000"), failing.ends("00001")) == (WorkerCrashedError, 5)


def test_only_lambda_has_records():
    """No records are listed unless a Lambda function runs the calls."""
    failing = Failing(function=None)
    failing.write(KILLED)
    failing.look()
    assert failing.ended() == []


@pytest.mark.parametrize(
    "name",
    [
        "pywren_1",
        "pywren_1:live",
        "arn:aws:lambda:us-west-2:123456789012:function:pywren_1",
        "arn:aws:lambda:us-west-2:123456789012:function:pywren_1:live",
    ],
)
def test_the_function_of_an_invoker(name):
    """The records are stored under the function's bare name, however the configuration names it."""
    assert LambdaInvoker("us-west-2", name).function_name == "pywren_1"


# -- copies of the function ------------------------------------------------------------------------------------


class Copied(Failing):
    """A callset whose calls may be at some of the copies of a function; tells the prefixes that are listed."""

    def __init__(self, used):
        super().__init__()
        self.used = used
        self.noted = Noted()
        self.listed = []
        backend_list = self.storage.backend.list

        def listing(prefix, after=""):
            self.listed.append(prefix)
            return backend_list(prefix, after)

        self.storage.backend.list = listing
        self.records = self.search()

    def search(self):
        return FailureRecords(
            self.storage, "pywren_1", self.callset.id, self.callset.submitted, self.noted, lambda: self.used
        )


def test_records_of_the_copies_that_got_calls_are_read():
    """Those of the other copies cost no request."""
    failing = Copied(used=2)
    failing.write(TIMED_OUT, function="pywren_1_copy2")
    failing.records.refresh(failing.now)
    assert sorted(failing.listed) == ["aws/lambda/async/pywren_1/", "aws/lambda/async/pywren_1_copy2/"]
    assert failing.records.of_key(failing.callset.attempt_key("00000", 1)) is not None


def test_a_copy_that_gets_its_first_call_is_searched_from_then_on():
    """A listing without its records does not count for the callset that needs them."""
    failing = Copied(used=1)
    failing.write(KILLED, function="pywren_1_copy3")
    failing.now += LISTING_INTERVAL + 1.0
    failing.records.refresh(failing.now)
    assert failing.records.of_call("00000") == {}
    other = failing.search()
    assert not other.is_due(failing.now)
    failing.used = 3
    assert other.is_due(failing.now)
    other.refresh(failing.now)
    assert set(failing.records.of_call("00000")) == {1}
    assert not failing.search().is_due(failing.now)


def test_futures_read_elsewhere_search_all_copies():
    """A pickled callset knows how many copies there are; so does a future made by hand from ``invoke_status``."""
    failing = Failing()
    failing.callset.copies = 2
    assert pickle.loads(pickle.dumps(failing.callset)).copies == 2
    failing.write(TIMED_OUT, function="pywren_1_copy2")
    failing.look()
    assert failing.ends() is CallTimeoutError


@pytest.mark.parametrize(("told", "copies"), [(4, 4), (None, 1), ("4", 1), (True, 1), (10, 1), (0, 1)])
def test_what_metadata_says_about_copies(told, copies):
    """Anything but a number of copies is ignored."""
    assert copies_in({"lambda_copies": told}) == copies


def test_the_invoker_says_how_many_copies_there_are():
    """``invoke_status`` has the number, and a copy of the invoker in another process has as many copies."""
    invoker = LambdaInvoker("us-west-2", "pywren_1", copies=3)
    assert invoker.config()["lambda_copies"] == pickle.loads(pickle.dumps(invoker)).function_copies == 3
    assert "lambda_copies" not in LambdaInvoker("us-west-2", "pywren_1").config()
