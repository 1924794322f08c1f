"""``of_status``: what a call's status and outcome say to the client."""

from __future__ import annotations

import pickle

import pytest

from pywren.client.verdict import of_status
from pywren.exceptions import ResultSerializationError
from pywren.wire.outcome import Outcome
from pywren.wire.status import Status

CALLSET, CALL = "a-callset", "00003"


class FailsToLoad(Exception):
    def __reduce__(self):
        return int, ("no number",)


@pytest.mark.parametrize(
    "outcome",
    [Outcome(returned, pickle.dumps(FailsToLoad())).encode() for returned in (True, False)],
    ids=["value", "exception"],
)
def test_what_cannot_be_unpickled_tells_which_call_it_was(outcome):
    """The error has the status of the call, whose figures show where it ran."""
    status = Status(CALLSET, CALL, 1, info={"aws_request_id": "a-request"}, outcome=outcome)
    verdict = of_status(status, outcome, CALLSET)
    assert isinstance(verdict.error, ResultSerializationError)
    assert (verdict.error.callset_id, verdict.error.call_id) == (CALLSET, CALL)
    assert verdict.error.status == status.document()
    assert verdict.error.status["aws_request_id"] == "a-request"
