"""``Storage``: its methods, by callset and call."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import pywren.storage
from pywren.exceptions import (
    ConfigError,
    DecodeError,
    IntegrityError,
    StorageConfigMismatchError,
    StorageOutputNotFoundError,
    WorkerCrashedError,
)
from pywren.pickling.packed_exceptions import dump_exception
from pywren.storage import Storage, exceptions, storage_utils
from pywren.system.home import user_key
from pywren.wire.beacon import BEACON_LIMIT
from pywren.wire.digests import attempt_key, callset_secret, sha256
from pywren.wire.failure import Failure
from pywren.wire.outcome import Outcome
from pywren.wire.status import STATUS_LIMIT, Status

CALLSET = "0d1a1cd9-3f1f-4d2f-9f0e-0c1b2a3d4e5f"


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """A storage in a directory of this machine."""
    return Storage(
        {"storage_backend": "localhost", "storage_prefix": "jobs", "backend_config": {"root": str(tmp_path / "root")}}
    )


def test_importing_loads_no_third_party_module() -> None:
    """``import pywren.storage`` and making a storage for S3 load neither boto3 nor botocore nor yaml."""
    program = (
        "import sys; from pywren.storage import Storage;"
        "Storage({'storage_backend': 's3', 'storage_prefix': 'p', 'backend_config': {'bucket': 'b'}});"
        "print(sorted({'boto3', 'botocore', 'yaml', 'cloudpickle'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_copy_by_pickle_sees_the_same_objects(storage: Storage) -> None:
    """A storage is pickled as its configuration."""
    storage.put("jobs/x", b"1")
    copy = pickle.loads(pickle.dumps(storage))
    assert copy.get("jobs/x") == b"1"
    assert copy.get_storage_config() == storage.get_storage_config()


def test_path(tmp_path: Path) -> None:
    """The path contains backend, bucket or directory, and prefix."""
    s3 = {"storage_backend": "s3", "storage_prefix": "p", "backend_config": {"bucket": "b", "region": "r"}}
    assert Storage(s3).path == ["s3", "b", "p"]
    local = {"storage_backend": "localhost", "storage_prefix": "p", "backend_config": {"root": "/r"}}
    assert storage_utils.get_storage_path(local) == ["localhost", "/r", "p"]


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"storage_backend": "gcs", "storage_prefix": "p", "backend_config": {}}, "write s3 or localhost"),
        ({"storage_prefix": "p"}, "write s3 or localhost"),
        ({"storage_backend": "s3", "storage_prefix": "p", "backend_config": {}}, "s3: bucket"),
        ({"storage_backend": "s3"}, "storage_prefix"),
        ({"storage_backend": "s3", "storage_prefix": "p", "backend_config": "b"}, "backend_config"),
    ],
)
def test_wrong_configurations(config: dict[str, object], text: str) -> None:
    """An incomplete configuration is refused at once; the error names the missing key."""
    with pytest.raises(ConfigError, match=text):
        Storage(config)


def test_the_first_status_stands(storage: Storage) -> None:
    """The first commit ends the call; later ones return False."""
    key = storage.keys(CALLSET).call("00000").status
    assert storage.read_status(CALLSET, "00000") is None
    assert storage.commit_status(key, b"first")
    assert not storage.commit_status(key, b"second")
    assert storage.read_status(CALLSET, "00000") == b"first"


def test_finished_calls(storage: Storage) -> None:
    """Calls with a status are listed in order; other objects and callsets are ignored."""
    keys = storage.keys(CALLSET)
    storage.put(keys.func, b"")
    for call_id in ("00000", "00002", "00010"):
        storage.commit_status(keys.call(call_id).status, b"{}")
    storage.put(keys.call("00001").output, b"")
    storage.put(keys.call("00001").attempt(1), b"")
    storage.commit_status(storage.keys("another").call("00005").status, b"{}")
    assert storage.finished_calls(CALLSET) == ["00000", "00002", "00010"]
    assert storage.finished_calls(CALLSET, start_after="00000") == ["00002", "00010"]
    assert storage.finished_calls("nobody") == []
    assert storage.get_callset_status(CALLSET) == storage.finished_calls(CALLSET)


def test_one_look_shows_what_workers_have_written(storage: Storage) -> None:
    """Statuses, failed attempts and beacons come from one listing."""
    keys = storage.keys(CALLSET)
    for key in (keys.func, keys.lease, keys.manifest, keys.call("00001").output, keys.call("00001").input(0)):
        storage.put(key, b"")
    storage.put(keys.call("00000").attempt(1), b"failed")
    storage.put(keys.call("00000").attempt(2), b"failed again")
    storage.put(keys.call("00000").beacon(3), b"running")
    storage.put(keys.call("00001").beacon(1), b"ran")
    storage.commit_status(keys.call("00001").status, b"{}")
    storage.put(keys.call("00002").spare_output(1, "ab" * 32), b"")
    listing = storage.look(CALLSET)
    assert listing.statuses == ["00001"]
    assert listing.attempts == [("00000", 1), ("00000", 2)]
    assert sorted(listing.beacons) == [("00000", 3), ("00001", 1)]
    assert all(abs(when - storage.now()) < 60 for when in listing.beacons.values())
    assert storage.look(CALLSET, start_after="00001") == ([], [], {}, [])
    assert storage.look(CALLSET, start_after="00000").statuses == ["00001"]
    assert storage.look("nobody") == ([], [], {}, [])


def test_what_an_attempt_left(storage: Storage) -> None:
    """The status and the beacon of an attempt are read by their own keys, and are bounded."""
    keys = storage.keys(CALLSET).call("00000")
    assert storage.read_attempt(CALLSET, "00000", 1) is None
    assert storage.read_beacon(CALLSET, "00000", 1) is None
    storage.put(keys.attempt(1), b"failed")
    storage.put(keys.beacon(2), b"running")
    assert storage.read_attempt(CALLSET, "00000", 1) == b"failed"
    assert storage.read_beacon(CALLSET, "00000", 2) == b"running"
    storage.put(keys.attempt(1), b"x" * (STATUS_LIMIT + 1))
    storage.put(keys.beacon(2), b"x" * (BEACON_LIMIT + 1))
    with pytest.raises(IntegrityError, match="longer"):
        storage.read_attempt(CALLSET, "00000", 1)
    with pytest.raises(IntegrityError, match="longer"):
        storage.read_beacon(CALLSET, "00000", 2)


def test_delete_callset(storage: Storage) -> None:
    """All objects of the callset are deleted, and none of another."""
    storage.put(storage.keys(CALLSET).func, b"")
    storage.put(storage.keys(CALLSET).call("00000").attempt(2), b"")
    storage.put(storage.keys("another").func, b"")
    storage.delete_callset(CALLSET)
    storage.delete_callset(CALLSET)
    assert storage.backend.list("") == ["jobs/another/func.pickle"]


def test_call_status_of_04(storage: Storage) -> None:
    """``get_call_status`` returns the dict, or None without a status; invalid bytes raise an error."""
    keys = storage.keys(CALLSET)
    assert storage.get_call_status(CALLSET, "00000") is None
    storage.commit_status(keys.call("00000").status, json.dumps({"exception": None, "end_time": 1.5}).encode())
    assert storage.get_call_status(CALLSET, "00000") == {"exception": None, "end_time": 1.5}
    for call_id, data in (("00001", b"\xff"), ("00002", b"[1]"), ("00003", b"")):
        storage.commit_status(keys.call(call_id).status, data)
        with pytest.raises(DecodeError, match=call_id):
            storage.get_call_status(CALLSET, call_id)


def ended(storage: Storage, call_id: str, *, signed: bool = True, **members: Any) -> None:
    """End a call as its worker would."""
    key = attempt_key(callset_secret(user_key(), CALLSET), call_id, 1) if signed else None
    storage.commit_status(storage.keys(CALLSET).call(call_id).status, Status(CALLSET, call_id, **members).encode(key))


def outcome_of(function: Callable[[], Any]) -> bytes:
    """Return the encoded outcome of a call to this function."""
    try:
        return Outcome(True, cloudpickle.dumps(function())).encode()
    except Exception as error:  # noqa: BLE001 -- as the worker does
        told = dump_exception(error)
        return Outcome(False, told.required_body().data, told.type_name, told.text, told.traceback).encode()


@pytest.mark.parametrize("value", [None, 7, "é", {"a": [1.5]}, b"x" * 10_000], ids=str)
def test_call_output_of_04(storage: Storage, value: Any) -> None:
    """``get_call_output`` returns the pickle that programs of 0.4 load, for small and big results."""
    small, big = outcome_of(lambda: value), storage.keys(CALLSET).call("00001").output
    ended(storage, "00000", outcome=small)
    storage.put(big, small)
    ended(storage, "00001", output_key=big, output_sha256=sha256(small), output_size=len(small))
    for call_id in ("00000", "00001"):
        assert pickle.loads(storage.get_call_output(CALLSET, call_id)) == {"success": True, "result": value}


def test_call_output_of_04_of_a_function_that_raised(storage: Storage) -> None:
    """The output of a failed call contains the exception, its type and its traceback, as in 0.4."""
    ended(storage, "00000", outcome=outcome_of(lambda: [][1]))
    output = pickle.loads(storage.get_call_output(CALLSET, "00000"))
    assert (output["success"], output["exc_type"]) == (False, IndexError)
    assert output["result"] is output["exc_value"]
    assert output["exc_traceback"] is output["exc_value"].__traceback__


def test_call_output_of_04_in_one_request(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result inside the status takes one request."""
    ended(storage, "00000", outcome=outcome_of(lambda: 5))
    asked = []
    get = storage.backend.get
    monkeypatch.setattr(storage.backend, "get", lambda key, **options: asked.append(key) or get(key, **options))
    storage.get_call_output(CALLSET, "00000")
    assert asked == [storage.keys(CALLSET).call("00000").status]


def test_a_call_without_an_output_of_04(storage: Storage) -> None:
    """Row 292: the error names the call."""
    ended(storage, "00001", failure=Failure("CallTimeoutError", "too long"))
    ended(storage, "00002", output_key="gone", output_sha256=sha256(b""), output_size=0)
    for call_id in ("00000", "00001", "00002"):
        with pytest.raises(StorageOutputNotFoundError, match=f"{call_id}.*{CALLSET}"):
            storage.get_call_output(CALLSET, call_id)


def test_an_output_of_04_that_cannot_be_believed(storage: Storage) -> None:
    """Row 291: an unsigned output is not returned, because programs unpickle it."""
    outcome = outcome_of(lambda: 5)
    ended(storage, "00000", signed=False, outcome=outcome)
    planted = storage.keys(CALLSET).call("00001").output
    storage.put(planted, b"planted")
    ended(storage, "00001", output_key=planted, output_sha256=sha256(outcome), output_size=len(outcome))
    for call_id in ("00000", "00001"):
        with pytest.raises(IntegrityError):
            storage.get_call_output(CALLSET, call_id)
    storage.put(storage.keys(CALLSET).call("00002").output, b"planted before the call has ended")
    with pytest.raises(StorageOutputNotFoundError):
        storage.get_call_output(CALLSET, "00002")


def test_an_output_of_04_that_was_replaced_by_a_bigger_one(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 224: at most the size in the status is read."""
    outcome, key = outcome_of(lambda: 5), storage.keys(CALLSET).call("00000").output
    ended(storage, "00000", output_key=key, output_sha256=sha256(outcome), output_size=len(outcome))
    storage.put(key, outcome + bytes(10_000_000))
    limits = []
    get = storage.backend.get
    monkeypatch.setattr(storage.backend, "get", lambda key, **options: limits.append(options) or get(key, **options))
    with pytest.raises(IntegrityError, match="longer than"):
        storage.get_call_output(CALLSET, "00000")
    assert limits[-1] == {"limit": len(outcome)}


class Shown:
    """A stand-in for Lambda's records, which reveal the keys of some calls once they are read."""

    def __init__(self, *call_ids: str) -> None:
        self.events: list[str] = []
        self._keys = [attempt_key(callset_secret(user_key(), CALLSET), call_id, 1) for call_id in call_ids]

    def refresh(self, now: float) -> None:
        """Read the records."""
        self.events.append("records")

    def of_key(self, key: bytes) -> WorkerCrashedError | None:
        """Return why the call died."""
        shown = "records" in self.events and key in self._keys
        return WorkerCrashedError("it was killed", None) if shown else None


def test_an_output_of_04_that_is_signed_with_the_key_of_a_dead_call(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 302: an output with a revealed key is not returned; records are listed after the status was read."""
    outcome, key = outcome_of(lambda: 5), storage.keys(CALLSET).call("00001").output
    ended(storage, "00000", outcome=outcome)
    storage.put(key, outcome)
    ended(storage, "00001", output_key=key, output_sha256=sha256(outcome), output_size=len(outcome))
    ended(storage, "00002", outcome=outcome)
    records = Shown("00000", "00001")
    storage.hold_against(records)
    get = storage.backend.get
    monkeypatch.setattr(
        storage.backend, "get", lambda key, **options: records.events.append("object") or get(key, **options)
    )
    for call_id in ("00000", "00001"):
        with pytest.raises(IntegrityError, match=f"{call_id}.*it was killed"):
            storage.get_call_output(CALLSET, call_id)
    assert pickle.loads(storage.get_call_output(CALLSET, "00002"))["result"] == 5
    assert records.events == ["object", "records"] * 3


def test_an_output_of_04_from_a_storage_that_knows_no_records(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Row 302: a storage on S3 that does not know the records warns once."""
    made = Storage({"storage_backend": "s3", "storage_prefix": "jobs", "backend_config": {"bucket": "a-bucket"}})
    key = attempt_key(callset_secret(user_key(), CALLSET), "00000", 1)
    status = Status(CALLSET, "00000", outcome=outcome_of(lambda: 5)).encode(key)
    monkeypatch.setattr(made.backend, "get", lambda key, **options: status)
    for _ in range(2):
        assert pickle.loads(made.get_call_output(CALLSET, "00000"))["result"] == 5
    (told,) = caplog.messages
    assert "Lambda's records" in told
    assert "executor" in told


def test_the_backend_of_04(storage: Storage) -> None:
    """0.4's names for the backend and its type work."""
    assert (storage.backend_type, storage.backend_handler) == ("localhost", storage.backend)


def test_cancelling_by_key_ends_the_call(storage: Storage) -> None:
    """0.4's ``put_cancelled`` writes the mark and an unsigned status, which can only become an error."""
    keys = storage.keys(CALLSET).call("00003")
    storage.put_cancelled(CALLSET, "00003", "CANCEL")
    data = storage.read_status(CALLSET, "00003")
    assert data is not None
    status = Status.decode(data)
    assert (status.callset_id, status.call_id, status.signed) == (CALLSET, "00003", False)
    assert status.failure is not None
    assert "cancelled" in status.failure.message
    assert storage.get(keys.cancel)


def test_cancelling_a_finished_call_changes_nothing(storage: Storage) -> None:
    """A cancellation does not replace a status."""
    keys = storage.keys(CALLSET).call("00003")
    storage.commit_status(keys.status, b"{}")
    storage.put_cancelled(CALLSET, "00003", "CANCEL")
    assert storage.read_status(CALLSET, "00003") == b"{}"


def test_keys_of_04() -> None:
    """0.4's functions return 0.4's layout."""
    assert storage_utils.create_func_key("p", "c") == "p/c/func.pickle"
    assert storage_utils.create_agg_data_key("p", "c") == "p/c/aggdata.pickle"
    expected = ("p/c/00000/data.pickle", "p/c/00000/output.pickle", "p/c/00000/status.json", "p/c/00000/cancel")
    assert storage_utils.create_keys("p", "c", "00000") == expected
    singles = (
        storage_utils.create_data_key,
        storage_utils.create_output_key,
        storage_utils.create_status_key,
        storage_utils.create_cancel_key,
    )
    assert tuple(create("p", "c", "00000") for create in singles) == expected


def test_check_storage_path() -> None:
    """The same storage passes; for a different one the error names both."""
    config = {"storage_backend": "s3", "storage_prefix": "p", "backend_config": {"bucket": "b"}}
    storage_utils.check_storage_path(config, ["s3", "b", "p"])
    with pytest.raises(StorageConfigMismatchError) as caught:
        storage_utils.check_storage_path(config, ["s3", "other", "p"])
    assert caught.value.prev_path == ["s3", "other", "p"]


def test_doors_of_04() -> None:
    """0.4's import paths lead to the same classes."""
    assert exceptions.StorageNoSuchKeyError is pywren.exceptions.StorageNoSuchKeyError
    assert exceptions.StorageConfigMismatchError is StorageConfigMismatchError
