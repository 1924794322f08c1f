"""Credentials that were renewed at their source: whether a new session is worth a new client."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pywren.storage._credentials import remember_session, renewed_session


class Session:
    """A session of botocore whose source gives a token, nothing, or an error."""

    def __init__(self, token: str | Exception | None) -> None:
        self.token = token

    def get_credentials(self) -> Any:
        """Return what the source gives."""
        if self.token is None:
            return None
        return SimpleNamespace(get_frozen_credentials=self.freeze)

    def freeze(self) -> Any:
        """Return the credentials as they are now, or fail to renew them."""
        if isinstance(self.token, Exception):
            raise self.token
        return SimpleNamespace(access_key="a", secret_key="s", token=self.token)


class Client:
    """What a session made."""


class NoCredentialsError(Exception):
    """As botocore calls it."""


REFUSAL = RuntimeError("refused")
FAILED = OSError("the source failed")


def renewed(before: Session, after: Session, refusal: Exception = REFUSAL) -> Any:
    """Ask for a new session, when the source gave one thing before and gives another now."""
    client = Client()
    remember_session(client, before)
    return renewed_session(client, refusal, lambda: after)


@pytest.mark.parametrize("before", ["old", FAILED, None])
def test_others_than_before(before: Any) -> None:
    """Also when those of before can be renewed no more."""
    after = Session("new")
    assert renewed(Session(before), after) is after


@pytest.mark.parametrize("after", ["old", None])
def test_the_same_as_before_or_none(after: Any) -> None:
    """Nothing would be other with a new client."""
    assert renewed(Session("old"), Session(after)) is None


def test_a_client_without_any() -> None:
    """Its session has found them since, as a new one does."""
    after = Session("new")
    assert renewed(Session("new"), after, NoCredentialsError()) is after


def test_a_source_that_fails_now() -> None:
    """That is what is wrong now."""
    with pytest.raises(OSError, match="the source failed"):
        renewed(Session("old"), Session(FAILED))


def test_a_client_of_somebody_else() -> None:
    """Nothing is known of its session, and nothing is read."""
    assert renewed_session(Client(), REFUSAL, lambda: pytest.fail("a session was made")) is None
