"""The messages between client and worker: Call, StagedFunction, Outcome, Status."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pywren.exceptions import (
    WORKER_ERRORS,
    DecodeError,
    PywrenError,
)
from pywren.wire.call import CALL_FIELDS, Call, Envelope
from pywren.wire.digests import attempt_key
from pywren.wire.failure import Failure
from pywren.wire.function import StagedFunction
from pywren.wire.outcome import Outcome
from pywren.wire.references import Reference, decode_references, encode_references
from pywren.wire.status import Status

GOLDEN = Path(__file__).parents[1] / "golden"
SECRET = bytes(range(32))
CALLSET = "6f3cf9f0-3c5e-4c3e-9f2b-2f8a0d9c1e77"

settings.register_profile("quick", max_examples=60, deadline=None)
settings.load_profile("quick")


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


# -- test data ----------------------------------------------------------------------------------------------

texts = st.text(max_size=20)
json_scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
json_values = st.recursive(
    json_scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
json_bytes = json_values.map(lambda value: json.dumps(value).encode())
hostile_bytes = st.one_of(
    st.binary(max_size=200),
    json_bytes,
    st.tuples(json_bytes, st.binary(max_size=30)).map(b"\n".join),
)
small_json = st.dictionaries(texts.filter(lambda name: name not in CALL_FIELDS), st.integers() | texts, max_size=3)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
byte_ranges = st.tuples(st.integers(0, 9), st.integers(9, 99))
sizes = st.none() | st.integers(0, 10**12)

references = st.lists(st.builds(Reference, texts, digests, texts, texts, sizes), max_size=2).map(tuple)
calls = st.builds(
    Call,
    storage_config=small_json,
    callset_id=texts,
    call_id=texts,
    func_key=texts,
    data_key=texts,
    output_key=texts,
    status_key=texts,
    cancel_key=texts,
    job_max_runtime=st.integers(0, 900) | st.floats(0, 900),
    data_byte_range=st.none() | byte_ranges,
    use_cached_runtime=st.booleans(),
    runtime=st.none() | small_json,
    runtime_url=st.none() | texts,
    pywren_version=texts,
    extra_env=st.none() | st.dictionaries(texts, texts, max_size=2),
    host_submit_time=st.floats(0, 2e9),
    python_version=st.none() | texts,
    attempt=st.integers(1, 5),
    attempt_key=st.none() | st.binary(max_size=32),
    func_sha256=st.none() | digests,
    data_sha256=st.none() | digests,
    runtime_sha256=st.none() | digests,
    data_inline=st.none() | st.binary(max_size=50),
    references=references,
    references_sha256=st.none() | digests,
    func_size=sizes,
    data_size=sizes,
    runtime_size=sizes,
    references_size=sizes,
    retryable=st.booleans(),
    extra=small_json,
)
path_parts = st.text("abcé_. -", min_size=1, max_size=8).filter(lambda part: part not in (".", ".."))
paths = st.lists(path_parts, min_size=1, max_size=3).map("/".join)
staged_functions = st.builds(
    StagedFunction, pickle=st.binary(max_size=50), modules=st.dictionaries(paths, st.binary(max_size=30), max_size=3)
)
values = st.builds(Outcome, success=st.just(True), body=st.binary(max_size=60))
errors = st.builds(
    Outcome,
    success=st.just(False),
    body=st.binary(max_size=60),
    exception=st.none() | texts,
    exception_args=st.none() | texts,
    exception_traceback=st.none() | texts,
)
failures = st.builds(
    Failure,
    kind=st.sampled_from(sorted(WORKER_ERRORS)),
    message=texts,
    details=st.lists(st.none() | st.integers() | texts, max_size=2).map(tuple),
)
info = st.dictionaries(st.sampled_from(["start_time", "stdout", "retcode", "server_info"]), st.integers() | texts)
ended = st.one_of(
    st.builds(lambda failure: {"failure": failure}, failures),
    st.builds(lambda outcome: {"outcome": outcome}, st.binary(max_size=60)),
    st.builds(
        lambda key, digest, size: {"output_key": key, "output_sha256": digest, "output_size": size},
        texts,
        digests,
        st.integers(0, 9),
    ),
)
statuses = st.builds(
    lambda callset_id, call_id, attempt, info, end: Status(callset_id, call_id, attempt, info=info, **end),
    texts,
    texts,
    st.integers(1, 5),
    info,
    ended,
)

DECODERS: dict[str, Callable[[bytes], Any]] = {
    "call": Call.decode,
    "envelope": Envelope.decode,
    "references": decode_references,
    "staged function": StagedFunction.decode,
    "outcome": Outcome.decode,
    "status": Status.decode,
    "signed status": lambda data: Status.verify(data, SECRET, CALLSET, "00003"),
}

PAYLOAD: dict[str, Any] = json.loads(golden("payload_0.4.json"))
STATUS: dict[str, Any] = json.loads(golden("status_0.4.json"))


# -- decoding untrusted bytes -------------------------------------------------------------------------------


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)
@given(data=hostile_bytes)
def test_any_bytes_decode_to_a_value_or_one_error(decode: Callable[[bytes], Any], data: bytes) -> None:
    """Decoding any bytes returns a value or raises ``DecodeError``, and nothing else."""
    try:
        decode(data)
    except DecodeError:
        pass


@pytest.mark.parametrize("name", sorted(PAYLOAD) + sorted(CALL_FIELDS - PAYLOAD.keys()))
@given(value=json_values)
def test_any_value_of_a_payload_field_decodes_or_is_named(name: str, value: Any) -> None:
    """A payload with any value in one field decodes to a usable call or raises an error."""
    try:
        call = Call.decode({**PAYLOAD, name: value})
    except DecodeError:
        return
    assert math.isfinite(call.job_max_runtime + 1.5)
    assert call.attempt >= 1


@pytest.mark.parametrize(
    "name", [*sorted(STATUS), "attempt", "failure", "outcome", "output_sha256", "output_size", "signature"]
)
@given(value=json_values)
def test_any_value_of_a_status_field_decodes_or_is_named(name: str, value: Any) -> None:
    """A status with any value in one field decodes or raises an error, and its failure can always be raised."""
    data = json.dumps({**STATUS, name: value}).encode()
    try:
        status = Status.decode(data)
    except DecodeError:
        return
    assert not status.signed
    assert not Status.verify(data, SECRET, status.callset_id, status.call_id).signed
    if status.failure is not None:
        error = status.failure.error(status.callset_id, status.call_id, status.document())
        assert isinstance(error, PywrenError)
        assert isinstance(str(error), str)


@pytest.mark.parametrize("payload", [None, [], [1], "", "text", 5, b"[]", b"\xff", b"[" * 100_000])
def test_a_payload_that_is_no_object_is_a_decode_error(payload: Any) -> None:
    """An event that is not a JSON object is refused, and so is one that lacks a field."""
    with pytest.raises(DecodeError, match="the payload"):
        Call.decode(payload)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("call_id", None),
        ("call_id", 3),
        ("job_max_runtime", True),
        ("job_max_runtime", float("nan")),
        ("job_max_runtime", float("inf")),
        ("job_max_runtime", 10**400),
        ("data_byte_range", [0]),
        ("data_byte_range", [5, 4]),
        ("data_byte_range", [-1, 4]),
        ("data_byte_range", [0, 1.5]),
        ("extra_env", {"A": 1}),
        ("attempt", 0),
        ("attempt", -1),
        ("attempt_key", "xyz"),
        ("data_inline", "not base64!"),
        ("data_inline", "é"),
        ("references", [["key", "digest", "callset"]]),
        ("references", [["key", "digest", "callset", 4]]),
        ("references", [["key", "digest", "callset", "call", -1]]),
        ("references", [["key", "digest", "callset", "call", True]]),
        ("references", [["key", "digest", "callset", "call", "4"]]),
        ("references", [["key", "digest", "callset", "call", 4, 5]]),
        ("func_size", -1),
        ("data_size", 1.5),
        ("runtime_size", "12"),
        ("references_size", True),
    ],
)
def test_a_payload_field_that_misfits_is_named(name: str, value: Any) -> None:
    """The error names the invalid field of a payload."""
    with pytest.raises(DecodeError, match=name.rstrip("s")):
        Call.decode({**PAYLOAD, name: value})


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x.py", "a/../../x.py", "a//b.py", "./a.py", "", "a\\b.py", "a/", "a\0b.py"]
)
def test_a_module_path_that_leads_elsewhere_is_refused(path: str) -> None:
    """A staged function cannot make the worker write outside its directory of modules."""
    data = StagedFunction(b"pickle", {path: b"source"}).encode()
    with pytest.raises(DecodeError, match="not a safe path"):
        StagedFunction.decode(data)


@pytest.mark.parametrize(
    "head",
    [
        {"pickle": -5, "modules": [["a.py", 5]]},
        {"pickle": 3, "modules": [["a.py", -3]]},
        {"pickle": 4, "modules": []},
        {"pickle": 10**30, "modules": []},
        {"pickle": 0, "modules": [["a.py", 10**30]]},
        {"pickle": 0, "modules": [["a.py", True]]},
        {"pickle": 0},
        {"modules": []},
    ],
)
def test_lengths_that_do_not_add_up_are_refused(head: dict[str, Any]) -> None:
    """A staged function whose parts overlap, or do not match its length, is a ``DecodeError``."""
    with pytest.raises(DecodeError):
        StagedFunction.decode(json.dumps(head).encode() + b"\n")


# -- round trips --------------------------------------------------------------------------------------------


@given(call=calls)
def test_a_call_survives_its_encoding(call: Call) -> None:
    """A payload decodes to the call that it was made from, directly and through JSON."""
    payload = call.encode()
    assert Call.decode(payload) == call
    assert Call.decode(json.dumps(payload).encode()) == call
    assert Call.decode(json.dumps(payload)) == call


@given(function=staged_functions)
def test_a_staged_function_survives_its_encoding(function: StagedFunction) -> None:
    """The pickle and the files come back byte for byte."""
    assert StagedFunction.decode(function.encode()) == function


@given(outcome=values | errors)
def test_an_outcome_survives_its_encoding(outcome: Outcome) -> None:
    """The value or the exception comes back byte for byte."""
    assert Outcome.decode(outcome.encode()) == outcome


def signed(status: Status, secret: bytes = SECRET) -> bytes:
    """Encode a status as the worker of its attempt does."""
    return status.encode(attempt_key(secret, status.call_id, status.attempt))


def verified(data: bytes, status: Status) -> Status:
    """Verify bytes as the client that waits for the call does."""
    return Status.verify(data, SECRET, status.callset_id, status.call_id)


@given(status=statuses)
def test_a_status_survives_its_encoding(status: Status) -> None:
    """A status comes back unchanged, and says whether the worker of its own attempt signed it."""
    assert Status.decode(status.encode(None)) == status
    assert verified(status.encode(None), status) == status
    assert verified(signed(status), status) == dataclasses.replace(status, signed=True)
    assert verified(signed(status, b"another secret"), status) == status


@given(references=references)
def test_a_list_of_references_survives_its_encoding(references: tuple[Reference, ...]) -> None:
    """The object with a long list of references decodes to that list."""
    assert decode_references(encode_references(references)) == references


@given(call=calls)
def test_an_envelope_is_part_of_a_call(call: Call) -> None:
    """The envelope, which every version can read, matches the call."""
    envelope = Envelope.decode(call.encode())
    for field in dataclasses.fields(envelope):
        assert getattr(envelope, field.name) == getattr(call, field.name)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), "nan"),
        (b"bytes", "b'bytes'"),
        ({1: [2, (3,)]}, {"1": [2, [3]]}),
        ("\ud800", "?"),
        (ValueError("x"), "ValueError('x')"),
    ],
)
def test_whatever_stands_in_a_status_it_can_be_written(value: Any, shown: Any) -> None:
    """A worker can always report how a call ended: values that JSON cannot hold become text."""
    status = Status(CALLSET, "00003", info={"odd": value}, failure=Failure("CallError", "x", (value,)))
    again = Status.decode(status.encode(None))
    assert again.info == {"odd": shown}
    assert again.failure is not None
    assert again.failure.details == (shown,)


def test_info_cannot_shadow_what_the_status_says() -> None:
    """A key in ``info`` that is also a field of the status is left out."""
    status = Status(CALLSET, "00003", outcome=b"value", info={"call_id": "00009", "outcome": "AAAA", "attempt": 7})
    assert Status.decode(status.encode(None)) == dataclasses.replace(status, info={})


@pytest.mark.parametrize("name", sorted(WORKER_ERRORS))
def test_an_error_survives_the_status(name: str) -> None:
    """Each error that a worker may report is raised in the client with its type, text and other arguments."""
    failure = Failure(name, "what happened", (3,))
    again = Status.decode(Status(CALLSET, "00001", failure=failure).encode(None)).failure
    assert again is not None
    error: Any = again.error(CALLSET, "00001", {"retcode": 3})
    assert type(error) is WORKER_ERRORS[name]
    assert error.args == ("what happened", 3)
    assert (error.callset_id, error.call_id, error.status) == (CALLSET, "00001", {"retcode": 3})


# -- signatures ---------------------------------------------------------------------------------------------

SIGNED = Status(
    CALLSET, "00003", info={"stdout": 'x","signature":"' + "0" * 64 + '"}', "start_time": 1.5}, outcome=b"value"
)


def test_a_flipped_bit_anywhere_is_not_signed() -> None:
    """A signed status with any bit flipped is no longer JSON, or no longer correctly signed."""
    data = signed(SIGNED)
    assert verified(data, SIGNED).signed
    for place in range(len(data)):
        altered = bytearray(data)
        altered[place] ^= 1
        try:
            assert not verified(bytes(altered), SIGNED).signed, place
        except DecodeError:
            pass


@given(status=statuses, place=st.integers(0), mask=st.integers(1, 255))
def test_a_changed_byte_is_not_signed(status: Status, place: int, mask: int) -> None:
    """A status whose bytes have changed is no longer correctly signed."""
    data = bytearray(signed(status))
    data[place % len(data)] ^= mask
    try:
        assert not verified(bytes(data), status).signed
    except DecodeError:
        pass


@pytest.mark.parametrize("tail", [b" ", b"\n", b"\0"])
def test_what_stands_behind_a_signature_breaks_it(tail: bytes) -> None:
    """The signature covers the whole status: nothing can be appended."""
    try:
        assert not verified(signed(SIGNED) + tail, SIGNED).signed
    except DecodeError:
        pass


@pytest.mark.parametrize("changes", [{"call_id": "00004"}, {"attempt": 2}, {"callset_id": "another"}])
def test_a_signature_belongs_to_one_attempt_of_one_call(changes: dict[str, Any]) -> None:
    """The signature of another call, attempt or callset is not valid for these bytes."""
    other = dataclasses.replace(SIGNED, **changes)
    genuine = signed(other, b"that callset's own secret" if "callset_id" in changes else SECRET)
    forged = SIGNED.encode(None)[:-1] + genuine[genuine.rindex(b',"signature"') :]
    assert not verified(forged, SIGNED).signed


def test_a_status_moved_to_another_call_is_not_believed() -> None:
    """A signed status that was copied to another call's key names the wrong call."""
    assert not Status.verify(signed(SIGNED), SECRET, CALLSET, "00004").signed
    assert not Status.verify(signed(SIGNED), SECRET, "another", "00003").signed


def test_a_status_without_a_key_is_unsigned_plain_json() -> None:
    """A worker that could not decode its payload, and 0.4's tools, write a status that is plain JSON."""
    document = json.loads(SIGNED.encode(None))
    assert "signature" not in document
    assert document["call_id"] == "00003"


# -- 0.4 ----------------------------------------------------------------------------------------------------


def test_a_payload_of_0_4_decodes() -> None:
    """Every key of a 0.4 payload is read, a program's own keys are kept, and new fields have their defaults."""
    call = Call.decode(golden("payload_0.4.json"))
    assert call.extra == {"experiment": "extra_meta travels too"}
    assert call.data_byte_range == (66, 87)
    for name in PAYLOAD.keys() - {"experiment", "data_byte_range"}:
        assert getattr(call, name) == PAYLOAD[name], name
    assert (call.attempt, call.attempt_key, call.references) == (1, None, ())


def test_a_payload_is_encoded_with_the_keys_of_0_4() -> None:
    """Code that reads 0.4's payload can read today's: no key is renamed or dropped."""
    payload = json.loads(json.dumps(Call.decode(PAYLOAD).encode()))
    assert {name: payload[name] for name in PAYLOAD} == PAYLOAD


def test_extra_env_is_absent_when_not_given() -> None:
    """As in 0.4, a payload without ``extra_env`` has no such key."""
    call = dataclasses.replace(Call.decode(PAYLOAD), extra_env=None)
    assert "extra_env" not in call.encode()


def test_a_status_of_0_4_decodes() -> None:
    """A 0.4 status is read as unsigned: it can be shown, and can only become an error."""
    status = Status.verify(golden("status_0.4.json"), SECRET, CALLSET, "00003")
    assert (status.callset_id, status.call_id, status.signed) == (CALLSET, "00003", False)
    assert status.output_key == STATUS["output_key"]
    assert status.info["log_group_name"] == "/aws/lambda/pywren_1"
    shown = status.document()
    assert shown.keys() >= STATUS.keys()


def test_a_failed_status_of_0_4_decodes() -> None:
    """0.4's texts and lists are dropped, as they are not our failures; the traceback is kept for people."""
    status = Status.decode(golden("status_failed_0.4.json"))
    assert status.failure is None
    assert "RUNTIME_ERROR" in (status.exception_traceback or "")
    assert status.document()["exception"] is None


def test_an_output_of_0_4_is_not_unpickled() -> None:
    """0.4's output was a bare pickle, which is refused and never loaded."""
    with pytest.raises(DecodeError):
        Outcome.decode(golden("outcome_0.4.pickle"))


# -- the current format ---------------------------------------------------------------------------------------


def test_objects_that_1_0_has_stored_stay_readable() -> None:
    """Objects of the first release must stay readable forever: never regenerate these files."""
    call = Call.decode(golden("payload_1.0.json"))
    assert (call.attempt, call.attempt_key, call.data_inline) == (2, bytes(range(32)), b"argument")
    assert call.references == (Reference("jobs/c/00000/output.pickle", "ab" * 32, "c", "00000"),)
    assert StagedFunction.decode(golden("function_1.0.bin")) == StagedFunction(
        b"a pickle\n", {"mod.py": b"x = 1\n", "package/data.bin": b"\0\n"}
    )
    assert Outcome.decode(golden("outcome_value_1.0.bin")) == Outcome(True, b"a pickle")
    assert Outcome.decode(golden("outcome_error_1.0.bin")) == Outcome(
        False, b"a pickle", "ValueError", "x", "Traceback…"
    )
    status = Status.verify(golden("status_1.0.json"), SECRET, CALLSET, "00003")
    assert status.signed
    assert status.failure == Failure("WorkerCrashedError", "non-zero return code", (3,))
    assert status.info == {"stdout": "é\n", "retcode": 3}
