"""Credentials that have been renewed at their source while a client still uses the old ones.

botocore reads a profile, an environment or a sign-in once for each session. When a service refuses what it read, only
a new session finds out whether there is something newer by now.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

_sessions: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()  # client → the session it was made by


def remember_session(client: Any, session: Any) -> None:
    """Note which session a client was made by."""
    _sessions[client] = session


def renewed_session(client: Any, refusal: BaseException, make_session: Callable[[], Any]) -> Any | None:
    """Return a session with other credentials than a client has; ``None`` when their source gives the same again.

    Args:
        client: a client of botocore whose credentials were refused.
        refusal: the error that said so.
        make_session: makes a session that has read nothing yet.

    Raises:
        Exception: what botocore raises when the source of the credentials fails.
    """
    session = _sessions.get(client)
    if session is None:
        return None
    fresh = make_session()
    found = _credentials(fresh)
    if found is None:
        return None
    # a session that found none looks again whenever it is asked, so it cannot tell what its client has
    had_none = type(refusal).__name__ == "NoCredentialsError"
    return fresh if had_none or found != _refused(session) else None


def _refused(session: Any) -> tuple[str, str, str | None] | None:
    try:
        return _credentials(session)
    except Exception:  # noqa: BLE001 -- what it has can be renewed no more, which is why a new session was asked
        return None


def _credentials(session: Any) -> tuple[str, str, str | None] | None:
    found = session.get_credentials()
    if found is None:
        return None
    frozen = found.get_frozen_credentials()
    return frozen.access_key, frozen.secret_key, frozen.token
