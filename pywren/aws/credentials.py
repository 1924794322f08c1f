"""Credentials that have been renewed at their source while a client still uses the old ones.

botocore reads a profile, an environment or a sign-in once for each session. When a service refuses what it read, only
a new session finds out whether there is something newer by now.
"""

from __future__ import annotations

import concurrent.futures
import threading
import weakref
from collections.abc import Callable
from typing import Any

_sessions: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()  # client → the session it was made by


def remember_session(client: Any, session: Any) -> None:
    """Note which session a client was made by."""
    _sessions[client] = session


class Renewals:
    """Renews the credentials of one sender of requests, for all threads that are refused at once.

    Reading credentials may run a program of the user's, ask a service, or take a minute. So one thread does it, and the
    others wait for what it finds.

    Args:
        make_session: makes a session that has read nothing yet.
        take: takes the new session, for the requests that follow.
    """

    def __init__(self, make_session: Callable[[], Any], take: Callable[[Any], None]) -> None:
        self._make_session = make_session
        self._take = take
        self._lock = threading.Lock()  # guards what follows, for no longer than it takes to look at it
        self._under_way: concurrent.futures.Future[bool] | None = None

    def renew(self, client: Any, refusal: BaseException) -> bool:
        """Look for other credentials than a client has; returns whether there were any, which are taken then.

        Args:
            client: a client of botocore whose credentials were refused.
            refusal: the error that said so.

        Raises:
            Exception: what botocore raises when the source of the credentials fails.
        """
        mine: concurrent.futures.Future[bool] = concurrent.futures.Future()
        with self._lock:
            others = self._under_way
            if others is None:
                self._under_way = mine
        if others is not None:
            return others.result()
        renewed = False
        try:
            session = renewed_session(client, refusal, self._make_session)
            if session is not None:
                self._take(session)
                renewed = True
        except Exception as error:
            mine.set_exception(error)
            raise
        finally:
            self._under_way = None
            if not mine.done():  # after Ctrl-C, which is no business of the others, they have found nothing
                mine.set_result(renewed)
        return renewed


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
