"""``Outcome``: a value or an exception."""

from __future__ import annotations

import pytest
from hypothesis import given
from wire_values import errors, golden, values

from pywren.exceptions import DecodeError
from pywren.wire.outcome import Outcome


@given(outcome=values | errors)
def test_an_outcome_survives_its_encoding(outcome: Outcome) -> None:
    """Value and exception come back byte for byte."""
    assert Outcome.decode(outcome.encode()) == outcome


def test_an_output_of_0_4_is_not_unpickled() -> None:
    """0.4's output was a bare pickle: it is refused, never loaded."""
    with pytest.raises(DecodeError):
        Outcome.decode(golden("outcome_0.4.pickle"))


def test_outcomes_that_1_0_has_stored_stay_readable() -> None:
    """What the first release wrote decodes for ever: never regenerate these files."""
    assert Outcome.decode(golden("outcome_value_1.0.bin")) == Outcome(True, b"a pickle")
    assert Outcome.decode(golden("outcome_error_1.0.bin")) == Outcome(
        False, b"a pickle", "ValueError", "x", "Traceback…"
    )
