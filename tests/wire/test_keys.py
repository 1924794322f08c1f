"""``CallsetKeys`` and ``CallKeys``: the keys of all objects."""

from __future__ import annotations

import json
from typing import Any

import pytest
from wire_values import CALLSET, golden

from pywren.wire.keys import CallsetKeys

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
    ("key", "call_id"),
    [
        ("p/c/00003/status.json", "00003"),
        ("p/c/123456/status.json", "123456"),
        ("p/c/00003/output.pickle", None),
        ("p/c/00003/attempts/status.json", None),
        ("p/c//status.json", None),
        ("p/c/status.json", None),
        ("p/other/00003/status.json", None),
        ("p/c", None),
        ("", None),
    ],
)
def test_only_a_status_key_names_a_call(key: str, call_id: str | None) -> None:
    """A listing of a callset returns the calls that have ended, and ignores other objects."""
    assert CallsetKeys("p", "c").call_id_of_status(key) == call_id


@pytest.mark.parametrize("prefix", ["", "/"])
def test_an_empty_prefix_adds_no_slash(prefix: str) -> None:
    """Without a prefix the keys start with the callset."""
    assert CallsetKeys(prefix, "c").func == "c/func.pickle"
