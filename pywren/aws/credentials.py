"""``Renewals``: gets new credentials for clients whose own credentials were refused.

A botocore session reads its profile, environment or sign-in only once. If a service refuses these credentials, only a
new session can find out whether their source now has newer ones.
"""

from __future__ import annotations

import concurrent.futures
import threading
import weakref
from collections.abc import Callable
from typing import Any

_sessions: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()  # client → the session that made it


def remember_session(client: Any, session: Any) -> None:
    """Remember which session made a client."""
    _sessions[client] = session


class Renewals:
    """Renews the credentials of one ``AWS`` or ``S3Backend``, once for all threads that are refused at the same time.

    Reading credentials may run a user's program, query a service, or take a minute. So one thread reads the credentials
    without holding the lock, and the other threads wait for its result.

    Args:
        make_session: makes a session that has read nothing yet.
        take: called with the new session, which is to be used for later requests.
    """

    def __init__(self, make_session: Callable[[], Any], take: Callable[[Any], None]) -> None:
        self._make_session = make_session
        self._take = take
        self._lock = threading.Lock()  # guards the next field; held only to read or set that field
        self._under_way: concurrent.futures.Future[bool] | None = None

    def renew(self, client: Any, refusal: BaseException) -> bool:
        """Look for credentials that are newer than a client's. If there are any, use them from now on and return True.

        Args:
            client: a botocore client whose credentials were refused.
            refusal: the error of that request.

        Raises:
            Exception: what botocore raises when the source of the credentials fails.
        """
        # Made before the lock is taken: one of the refused threads publishes its own, the others drop theirs.
        mine: concurrent.futures.Future[bool] = concurrent.futures.Future()
        with self._lock:
            others = self._under_way
            if others is None:
                self._under_way = mine
        if others is not None:
            # Waits for the other thread, however long that takes, and raises what it raises: its error is this thread's
            # too. No lock is held here.
            return others.result()
        renewed = False
        try:
            # On this thread, without the lock: a credential_process may prompt the user, and SSO or IMDS may take long
            # to answer.
            session = renewed_session(client, refusal, self._make_session)
            if session is not None:
                # Before the result is set: a thread that wakes up sends its request again at once, and must find the
                # new session.
                self._take(session)
                renewed = True
        # The others raise the same exception object, so its traceback may show the frames of several threads.
        except Exception as error:
            mine.set_exception(error)
            raise
        finally:
            # One assignment, so without the lock. A thread that is refused after this starts a renewal of its own.
            self._under_way = None
            if not mine.done():  # Ctrl-C affects only this thread; the others continue as if nothing had been found
                mine.set_result(renewed)
        return renewed


def renewed_session(client: Any, refusal: BaseException, make_session: Callable[[], Any]) -> Any | None:
    """Return a session with newer credentials than a client's; ``None`` when their source returns the same.

    Args:
        client: a botocore client whose credentials were refused.
        refusal: the error of that request.
        make_session: makes a session that has read nothing yet.

    Raises:
        Exception: what botocore raises when the source of the credentials fails.
    """
    session = _sessions.get(client)
    if session is None:
        return None
    # A session caches what it has read for good, so the old one would only answer the same.
    fresh = make_session()
    found = _credentials(fresh)
    if found is None:
        return None
    # A session without credentials searches again whenever it is asked, so it cannot tell what its client used.
    had_none = type(refusal).__name__ == "NoCredentialsError"
    # With the same credentials the same refusal would follow, so spare the request.
    return fresh if had_none or found != _refused(session) else None


def _refused(session: Any) -> tuple[str, str, str | None] | None:
    try:
        return _credentials(session)
    except Exception:  # noqa: BLE001 -- if the old credentials can no longer be refreshed, use the new session
        return None


def _credentials(session: Any) -> tuple[str, str, str | None] | None:
    found = session.get_credentials()
    if found is None:
        return None
    # One consistent set: botocore refreshes expiring credentials on other threads, and single attributes could mix two
    # sets. This may send a request to STS or IMDS.
    frozen = found.get_frozen_credentials()
    return frozen.access_key, frozen.secret_key, frozen.token
