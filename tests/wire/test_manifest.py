"""Records of jobs and their manifests: what is in them, what is not, and what is not believed."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc

import pytest

from pywren.exceptions import DecodeError, IntegrityError
from pywren.wire.call import Call
from pywren.wire.keys import CallsetKeys
from pywren.wire.manifest import (
    RECORD_LIMIT,
    RESUMPTION_LIMIT,
    JobRecord,
    Manifest,
    Place,
    Resumption,
    reference_members,
    shared_members,
)
from pywren.wire.references import Reference
from pywren.wire.signed import sign

KEY = b"k" * 32
KEYS = CallsetKeys("p", "c")
RECORD = JobRecord("jöb/7", "c", 1.5, 2, {"kind": "lambda", "function": "f"}, "00", 9, "1.0", "3.13")


def call(number: int = 0, **members: object) -> Call:
    own = KEYS.call(f"{number:05d}")
    return Call(
        **{
            "storage_config": {"storage_backend": "s3"},
            "callset_id": "c",
            "call_id": f"{number:05d}",
            "func_key": KEYS.func,
            "data_key": own.data,
            "output_key": own.output,
            "status_key": own.status,
            "cancel_key": own.cancel,
            "job_max_runtime": 60.0,
            "attempt_key": b"secret of an attempt",
            "extra_env": {"TOKEN": "a secret value"},
            "extra": {"meta": [1, "ü"]},
            "func_sha256": "ab",
            "data_sha256": "00" * 32,
            "data_size": 10,
            **members,
        }
    )


def rebuilt(found: Manifest, number: int, template: Call) -> Call:
    call_id = f"{number:05d}"
    return template.sibling(call_id, KEYS.call(call_id), found.own(number))


def manifest(*places: Place, **members: object) -> Manifest:
    return Manifest(shared=shared_members(call()), places=places, **members)  # type: ignore[arg-type]


def test_a_record_arrives_as_it_was_sent():
    """The signature is that of the user's key, and the name may be any text."""
    data = RECORD.encode(KEY)
    assert len(data) < RECORD_LIMIT
    assert JobRecord.verify(data, KEY) == RECORD


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\x00",
        b"{}",
        RECORD.encode(b"another key"),
        RECORD.encode(KEY).replace(b'"calls":2', b'"calls":3'),
        json.dumps(dataclasses.asdict(RECORD)).encode(),
        Resumption(1, 1.0, "me").encode(KEY),
    ],
)
def test_an_unsigned_record_is_refused(data):
    """Nothing is parsed before it is verified."""
    with pytest.raises(IntegrityError, match="not signed"):
        JobRecord.verify(data, KEY)


def test_a_signed_record_of_another_form_is_a_decode_error():
    """A future version of pywren may write something else, with the same key."""
    import hmac

    data = sign(b'{"name":7}', hmac.digest(KEY, b"jobs", "sha256"), "job:")
    with pytest.raises(DecodeError, match="the record of the job: 'name' is a int"):
        JobRecord.verify(data, KEY)


def test_a_resumption_arrives_as_it_was_sent():
    """It is signed with the secret of the callset."""
    data = Resumption(3, 1.5, "process 1 on h").encode(KEY)
    assert len(data) < RESUMPTION_LIMIT
    assert Resumption.verify(data, KEY) == Resumption(3, 1.5, "process 1 on h")
    with pytest.raises(IntegrityError, match="not signed"):
        Resumption.verify(data, b"other")


def test_a_call_is_rebuilt():
    """What a worker needs is the same as before; the argument is where it was stored."""
    reference = Reference("k", "00", "c0", "00003", 7)
    places = [Place("p/c/aggdata.pickle", 5, 10, b"\1" * 32), Place(None, 0, 10, bytes(32))]
    calls = [call(0), call(1, references=(reference,))]
    sent = manifest(*places, references={1: reference_members(calls[1])}, env_names=["TOKEN"], facts={"a": 1})
    got = Manifest.decode(sent.encode())
    assert got.encode() == sent.encode()
    template = got.template({"storage_backend": "s3"}, "c")
    first, second = (rebuilt(got, number, template) for number in range(2))
    plain = dataclasses.replace(calls[1], attempt_key=None, extra_env=None)
    assert second == plain
    assert (first.data_key, first.data_byte_range) == ("p/c/aggdata.pickle", (5, 14))
    assert (first.data_sha256, first.data_size) == ("01" * 32, 10)


def test_long_lists_of_references_stay_where_they_are():
    """Their own object is named by its digest and size."""
    one = call(0, references_sha256="ab", references_size=5)
    got = Manifest.decode(manifest(Place(None, 0, 1, bytes(32)), references={0: reference_members(one)}).encode())
    found = rebuilt(got, 0, got.template({}, "c"))
    assert (found.references_sha256, found.references_size) == ("ab", 5)


def test_no_secret_is_in_a_manifest():
    """Neither keys nor the values of variables nor the configuration of this machine are stored."""
    data = manifest(Place(None, 0, 1, bytes(32)), env_names=["TOKEN"]).encode()
    assert b"TOKEN" in data
    for secret in (b"a secret value", b"secret of an attempt".hex().encode(), b"attempt_key", b"storage_config"):
        assert secret not in data


GOOD = manifest(Place("a", 0, 1, bytes(32)), Place(None, 0, 1, bytes(32))).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no header line"),
        (b"{}\n", "no 'calls'"),
        (GOOD[:-1], "columns"),
        (GOOD + b"x", "columns"),
        (GOOD.replace(b'"calls":2', b'"calls":9'), "columns"),
        (GOOD.replace(b'"calls":2', b'"calls":-2'), "columns"),
        (GOOD.replace(b'"objects":["a"]', b'"objects":[]'), "not listed"),
        (GOOD.replace(b'"job_max_runtime":60.0', b'"job_max_runtime":NaN'), "finite"),
        (GOOD.replace(b'"references":{}', b'"references":{"x":1}'), "references"),
        (GOOD.replace(b'"shared":', b'"shared_":'), "no 'shared'"),
    ],
)
def test_what_is_not_a_manifest_is_refused(data, message):
    """Every column must have the length that the header states."""
    with pytest.raises(DecodeError, match=message):
        Manifest.decode(data)


def test_a_hundred_thousand_calls_take_five_megabytes():
    """52 bytes a call; reading it takes little more memory than the rows."""
    count = 100_000
    sent = manifest(*[Place("p/c/arguments-0.pickle", 100 * n, 100, bytes(32)) for n in range(count)])
    data = sent.encode()
    assert len(data) < 52 * count + 2_000
    tracemalloc.start()
    got = Manifest.decode(data)
    assert tracemalloc.get_traced_memory()[1] < 60e6
    tracemalloc.stop()
    assert got.places[-1] == sent.places[-1]
