"""Renewed credentials: when they make a new client."""

from __future__ import annotations

import concurrent.futures
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from pywren.aws.credentials import Renewals, remember_session, renewed_session


class Session:
    """A botocore session whose source returns a token, nothing, or an error."""

    def __init__(self, token: str | Exception | None) -> None:
        self.token = token

    def get_credentials(self) -> Any:
        """Return the source's answer."""
        if self.token is None:
            return None
        return SimpleNamespace(get_frozen_credentials=self.freeze)

    def freeze(self) -> Any:
        """Return the current credentials, or fail to refresh them."""
        if isinstance(self.token, Exception):
            raise self.token
        return SimpleNamespace(access_key="a", secret_key="s", token=self.token)


class Client:
    """A client that a session has made."""


class NoCredentialsError(Exception):
    """An error with botocore's name."""


REFUSAL = RuntimeError("refused")
FAILED = OSError("the source failed")


def renewed(before: Session, after: Session, refusal: Exception = REFUSAL) -> Any:
    """Ask for a new session after the source's answer has changed."""
    client = Client()
    remember_session(client, before)
    return renewed_session(client, refusal, lambda: after)


@pytest.mark.parametrize("before", ["old", FAILED, None])
def test_others_than_before(before: Any) -> None:
    """Newer credentials are used even when the old ones can no longer be refreshed."""
    after = Session("new")
    assert renewed(Session(before), after) is after


@pytest.mark.parametrize("after", ["old", None])
def test_the_same_as_before_or_none(after: Any) -> None:
    """Unchanged or missing credentials make no new client."""
    assert renewed(Session("old"), Session(after)) is None


def test_a_client_without_any() -> None:
    """A client that had no credentials gets those that have appeared since."""
    after = Session("new")
    assert renewed(Session("new"), after, NoCredentialsError()) is after


def test_a_source_that_fails_now() -> None:
    """An error of the credentials' source reaches the caller."""
    with pytest.raises(OSError, match="the source failed"):
        renewed(Session("old"), Session(FAILED))


def test_a_client_of_somebody_else() -> None:
    """A client of unknown origin is left alone, and its credentials are not read."""
    assert renewed_session(Client(), REFUSAL, lambda: pytest.fail("a session was made")) is None


@pytest.mark.parametrize("after", [Session("new"), Session("old"), Session(FAILED)], ids=["new", "same", "broken"])
def test_threads_that_are_refused_at_once(after: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 300: one thread asks the source, and the others share its answer."""
    client, made, taken, ends = Client(), [], [], []
    remember_session(client, Session("old"))
    waiting = threading.Semaphore(0)
    result = concurrent.futures.Future.result
    monkeypatch.setattr(concurrent.futures.Future, "result", lambda *args: (waiting.release(), result(*args))[1])
    others: list[threading.Thread] = []

    def make_session() -> Session:
        made.append(after)
        others.extend(threading.Thread(target=renew) for _ in range(5))
        for other in others:
            other.start()
        for _ in others:
            assert waiting.acquire(timeout=30)
        return after

    def renew() -> None:
        try:
            ends.append(renewals.renew(client, REFUSAL))
        except OSError as error:
            ends.append(error)

    renewals = Renewals(make_session, taken.append)
    renew()
    for other in others:
        other.join(30)
    expected = {"new": True, "old": False}.get(str(after.token), FAILED)
    assert (made, ends) == ([after], [expected] * 6)
    assert taken == ([after] if expected is True else [])


def test_the_next_refusal_asks_again() -> None:
    """Row 300: every refusal reads the source again, because the file may have changed."""
    client, sessions = Client(), [Session("old"), Session(FAILED), Session("new")]
    remember_session(client, Session("old"))
    taken: list[Any] = []
    renewals = Renewals(lambda: sessions.pop(0), taken.append)
    assert not renewals.renew(client, REFUSAL)
    with pytest.raises(OSError, match="the source failed"):
        renewals.renew(client, REFUSAL)
    assert renewals.renew(client, REFUSAL)
    assert len(taken) == 1


def test_ctrl_c_while_the_source_is_asked() -> None:
    """Row 300: Ctrl-C stops the thread that asks; the next refusal asks again."""
    client = Client()
    remember_session(client, Session("old"))

    def interrupted() -> Any:
        raise KeyboardInterrupt

    ways = [interrupted, lambda: Session("new")]
    renewals = Renewals(lambda: ways.pop(0)(), lambda session: None)
    with pytest.raises(KeyboardInterrupt):
        renewals.renew(client, REFUSAL)
    assert renewals.renew(client, REFUSAL)
