"""``CallsetKeys`` and ``CallKeys``: the keys of all objects."""

from __future__ import annotations

import json
from typing import Any

import pytest
from wire_values import CALLSET, golden

from pywren.exceptions import ArgumentError
from pywren.wire.keys import CallsetKeys, job_key

PAYLOAD: dict[str, Any] = json.loads(golden("payload_0.4.json"))


def test_the_keys_of_0_4() -> None:
    """All objects have 0.4's names under ``<prefix>/<callset_id>/<call_id>/``."""
    keys = CallsetKeys("pywren.jobs", CALLSET)
    call = keys.call("00003")
    assert keys.func == PAYLOAD["func_key"]
    assert keys.aggdata == PAYLOAD["data_key"]
    assert call.data == f"pywren.jobs/{CALLSET}/00003/data.pickle"
    assert call.output == PAYLOAD["output_key"]
    assert call.status == PAYLOAD["status_key"]
    assert call.cancel == PAYLOAD["cancel_key"]


def test_no_two_objects_of_a_call_share_a_key() -> None:
    """Attempts, outputs of duplicate deliveries, and inputs each have their own keys below the call's."""
    call = CallsetKeys("p", "c").call("00000")
    spare = call.spare_output(1, "ab" * 32), call.spare_output(2, "ab" * 32), call.spare_output(1, "cd" * 32)
    inputs = call.data, call.references, call.input(0), call.input(1)
    written = [call.output, call.status, call.cancel, call.attempt(1), call.attempt(2), *spare, *inputs]
    assert len(set(written)) == len(written)
    assert all(key.startswith("p/c/00000/") for key in written)


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("p/c/00003/status.json", ("00003", "status", 0)),
        ("p/c/123456/status.json", ("123456", "status", 0)),
        ("p/c/00003/attempts/2.json", ("00003", "attempt", 2)),
        ("p/c/00003/attempts/12.beacon", ("00003", "beacon", 12)),
        ("p/c/00003/attempts/0.json", None),
        ("p/c/00003/attempts/01.json", None),
        ("p/c/00003/attempts/-1.beacon", None),
        ("p/c/00003/attempts/\u0661.beacon", None),
        ("p/c/00003/attempts/1", None),
        ("p/c/00003/attempts/1.json/x", None),
        ("p/c/00003/attempts/1.json.beacon", None),
        ("p/c/00003/attempts/1234567.json", None),
        ("p/c/00003/attempts/1-0123456789abcdef.pickle", None),
        ("p/c/00003/2.json", None),
        ("p/c/driver.json", None),
        ("p/c/manifest.bin", None),
        ("p/c/00003/output.pickle", None),
        ("p/c/00003/attempts/status.json", None),
        ("p/c//status.json", None),
        ("p/c/status.json", None),
        ("p/other/00003/status.json", None),
        ("p/c", None),
        ("", None),
    ],
)
def test_what_a_key_tells(key: str, expected: tuple[str, str, int] | None) -> None:
    """A listing of a callset shows statuses, failed attempts and beacons. Other objects are ignored."""
    assert CallsetKeys("p", "c").parse(key) == expected


@pytest.mark.parametrize("call_id", ["00000", "99999", "100000"])
@pytest.mark.parametrize("attempt", [1, 9, 10, 99])
def test_written_keys_can_be_parsed(call_id: str, attempt: int) -> None:
    """What ``CallKeys`` writes, ``parse`` reads."""
    keys = CallsetKeys("p", "c")
    call = keys.call(call_id)
    assert keys.parse(call.attempt(attempt)) == (call_id, "attempt", attempt)
    assert keys.parse(call.beacon(attempt)) == (call_id, "beacon", attempt)


def test_the_keys_of_a_driver() -> None:
    """The lease and the manifest of a callset are beside its calls."""
    assert CallsetKeys("p", "c").lease == "p/c/driver.json"
    assert CallsetKeys("p", "c").manifest == "p/c/manifest.bin"


# Written so that quoting, shortening, cutting or ignoring case would give two of them the same key.
NAMES = [
    "job-7", "Job-7", "JOB-7", "job 7", "job/7", "job\\7", "job%2F7", "job%7", "..", ".", "../x", "~", "é", "e\u0301",
    "\0", "\n", "x" * 200, "x" * 199, "é" * 200, "é" * 199 + "e", "X" * 200, "%" * 200, ":", "con", "*", "jobs/x",
]  # fmt: skip


def test_names_of_jobs_do_not_collide() -> None:
    """Each name has a key of its own, one segment long, also where file names ignore case."""
    found = [job_key("p", name) for name in NAMES]
    assert len({key.lower() for key in found}) == len(NAMES)
    assert all(key.startswith("p/jobs/") and key.count("/") == 2 and len(key) < 250 for key in found)
    assert all(key.isascii() and key.isprintable() for key in found)
    assert job_key("p", "job-7") == "p/jobs/job-7.json"
    assert job_key("", "job-7") == "jobs/job-7.json"


def test_the_key_of_a_long_name_is_no_name() -> None:
    """Nobody can choose a name that is stored under the key of another."""
    segment = job_key("p", "é" * 200).removeprefix("p/jobs/").removesuffix(".json")
    assert job_key("p", segment) != job_key("p", "é" * 200)


@pytest.mark.parametrize("name", ["", "x" * 201, "\ud800", None, 7, b"job"])
def test_what_no_job_can_be_called(name: Any) -> None:
    """A wrong name is refused before anything is sent."""
    with pytest.raises(ArgumentError, match="name of a job"):
        job_key("p", name)


@pytest.mark.parametrize("prefix", ["", "/"])
def test_an_empty_prefix_adds_no_slash(prefix: str) -> None:
    """Without a prefix the keys start with the callset."""
    assert CallsetKeys(prefix, "c").func == "c/func.pickle"
