"""Calls that ended without their worker's doing, as Lambda's records at the on-failure destination tell of them."""

from __future__ import annotations

import json
import logging
import pickle
import time
from unittest.mock import Mock

import pytest

import pywren
from pywren._callset import Callset
from pywren._failure_records import FIRST_LOOK, error_of
from pywren._monitor import Monitor
from pywren._staged_calls import StagedCallset
from pywren._wire import Outcome, Status
from pywren.exceptions import (
    CallLostError,
    CallTimeoutError,
    StorageError,
    WorkerCrashedError,
)
from pywren.invokers import LambdaInvoker
from pywren.storage import Storage

TIMED_OUT = {"errorType": "Sandbox.Timedout", "errorMessage": "RequestId: 1 Error: Task timed out after 3.00 seconds"}
KILLED = {
    "errorType": "Runtime.ExitError",
    "errorMessage": "RequestId: 1 Error: Runtime exited with error: signal: killed",
}


class Failing:
    """A callset of a Lambda function in this machine's storage, and what Lambda writes about its calls."""

    def __init__(self, count=1, function="pywren_1"):
        self.now = time.time()
        self.storage = Storage(pywren.wrenconfig.extract_storage_config(pywren.wrenconfig.default()))
        self.callset = Callset(
            self.storage.prefix, job_max_runtime=10, queue_patience=21_600, function=function, submitted=self.now
        )
        self.origin = StagedCallset(self.callset, self.storage, Mock(spec=Monitor), clock=lambda: self.now)
        self.futures = self.origin.add(f"{number:05d}" for number in range(count))
        self._written = 0

    def write(self, response=None, *, call_id="00000", condition="RetriesExhausted", function="pywren_1", **request):
        record = {
            "version": "1.0",
            "requestContext": {"condition": condition},
            "requestPayload": {"callset_id": self.callset.id, "call_id": call_id, **request},
        }
        if response is not None:
            record["responsePayload"] = response
        self.write_bytes(json.dumps(record).encode(), function)

    def write_bytes(self, data, function="pywren_1", seconds=1.0):
        self._written += 1
        when = time.strftime("%Y/%m/%d/%Y-%m-%dT%H.%M.%S", time.gmtime(self.callset.submitted + seconds))
        self.storage.put(f"aws/lambda/async/{function}/{when}-{self._written:08x}-4e1d-4e4d-8b3a-000000000000", data)

    def look(self, seconds=FIRST_LOOK + 1):
        """Let time go by, and look."""
        self.now += seconds
        self.origin.examine()

    def ended(self):
        return [number for number, future in enumerate(self.futures) if future._state == "FINISHED"]

    def commit(self, call_id="00000", value=1):
        status = Status(self.callset.id, call_id, outcome=Outcome(True, pickle.dumps(value)).encode())
        data = status.encode(self.callset.attempt_key(call_id, 1))
        return self.storage.commit_status(self.callset.call_keys(call_id).status, data)


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
    """What Lambda wrote becomes the error of the call, and stands in the storage for others to find."""
    failing = Failing()
    failing.write(response, condition=condition)
    failing.look()
    with pytest.raises(error, match=text) as caught:
        failing.futures[0].result(0)
    assert (caught.value.callset_id, caught.value.call_id) == (failing.callset.id, "00000")
    assert failing.storage.read_status(failing.callset.id, "00000") is not None
    assert not failing.commit()


def test_other_calls_go_on():
    """A record ends the call that it names and no other, of this callset or another."""
    failing = Failing(3)
    failing.write(KILLED, call_id="00001")
    failing.write(KILLED, call_id="00002", callset_id="another")
    failing.write(KILLED, call_id="00002", function="another")
    failing.look()
    assert failing.ended() == [1]


def test_a_call_with_a_status_is_not_touched():
    """A status that was there before the record was looked at stands."""
    failing = Failing()
    failing.commit(value=5)
    failing.write(KILLED)
    failing.look()
    assert failing.futures[0].result(0) == 5


def test_what_is_signed_after_the_record_is_not_believed(monkeypatch):
    """The record holds the attempt's key, which others can read: a status that then appears is no value."""
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
    """Quick calls cost no request for it, longer ones a listing every few seconds, and no record is read again."""
    failing = Failing(2)
    listings, read = [], []
    list_keys, get = failing.storage.backend.list, failing.storage.get
    monkeypatch.setattr(failing.storage.backend, "list", lambda *key: (listings.append(key[0]), list_keys(*key))[1])
    monkeypatch.setattr(failing.storage, "get", lambda key, *more: (read.append(key), get(key, *more))[1])
    failing.write(KILLED, call_id="00001", callset_id="another")
    failing.look(FIRST_LOOK - 1)
    assert listings == []
    for seconds in (1, 1, 1, 1, 1, 1, 1):
        failing.look(seconds)
    assert listings == ["aws/lambda/async/pywren_1/"] * 2
    assert len(read) == 1


def test_records_of_earlier_days_are_not_read():
    """What was written before the callset was submitted is nothing of its."""
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
    """Whatever lies there, the look goes on."""
    failing = Failing(2)
    failing.write_bytes(data)
    failing.write(KILLED, call_id="00001")
    failing.look()
    assert failing.ended() == [1]


def test_a_member_of_another_type_is_passed_over():
    """Records with members of unexpected types still make an error."""
    assert isinstance(
        error_of({"requestContext": 3, "responsePayload": {"errorType": [], "errorMessage": {}}}), WorkerCrashedError
    )


def test_a_user_who_may_not_look_is_told_once(monkeypatch, caplog):
    """Without the permission the callset is watched as before, with one warning that names the remedy."""
    failing = Failing()
    refused = Mock(side_effect=StorageError("403"))
    monkeypatch.setattr(failing.storage.backend, "list", refused)
    with caplog.at_level(logging.WARNING):
        failing.look()
        failing.look(60)
    assert [record.message.count("pywren iam --print user") for record in caplog.records] == [1]
    assert refused.call_count == 1
    assert failing.ended() == []


def test_only_lambda_has_records():
    """Where no Lambda function runs the calls, nothing is looked for."""
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
    """The records stand under the bare name of the function, however the configuration names it."""
    assert LambdaInvoker("us-west-2", name).function_name == "pywren_1"
