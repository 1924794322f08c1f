"""Serves the mocked AWS over HTTP to functions that use AWS themselves, because they run in other processes.

Importing this module imports moto.
"""

from __future__ import annotations

import hmac
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from moto.iam.models import iam_backends

from pywren.testing._guard import guarded, request_handler

_POLL_SECONDS = 0.05  # how soon the server notices that the context ends


@contextmanager
def http_server(access_key: str) -> Iterator[str | None]:
    """Serve the mocked AWS on 127.0.0.1 while the context lasts.

    The server accepts connections on one thread and answers each on another thread; all of them use the moto of this
    process.

    Args:
        access_key: the server answers requests signed with this key, or with a key that the mocked IAM created. The
            server refuses all other requests, because anyone who can invoke a function can run code as this user.

    Yields:
        The endpoint's URL, or ``None`` if Flask, which moto's server needs, is not installed.
    """
    try:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    except ImportError:
        yield None
        return
    from werkzeug.serving import make_server

    requests = logging.getLogger("werkzeug")
    level = requests.level
    requests.setLevel(logging.ERROR)  # at lower levels the logger prints a line for every request
    application = guarded(DomainDispatcherApplication(create_backend_app), lambda asked: _is_signed(asked, access_key))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=request_handler())
    thread = threading.Thread(target=server.serve_forever, args=(_POLL_SECONDS,), name="pywren-mock-aws", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        requests.setLevel(level)


_KEY = re.compile(r"(?:Credential=|AWSAccessKeyId=|AWS )([^/&:,\s]+)")


def _is_signed(asked: Mapping[str, Any], access_key: str) -> bool:
    """Tell whether a request uses a key of the mocked AWS; moto verifies no signatures, so the key is the secret."""
    found = _KEY.search(asked.get("HTTP_AUTHORIZATION", "") or asked.get("QUERY_STRING", ""))
    if found is None:
        return False
    key = unquote(found[1]).partition("/")[0]
    return hmac.compare_digest(key.encode(errors="replace"), access_key.encode()) or _is_of_iam(key)


def _is_of_iam(key: str) -> bool:
    """Tell whether the mocked IAM created this key."""
    accounts = list(iam_backends.values())  # copy the mappings, because other threads add accounts and regions
    return any(key in backend.access_keys for account in accounts for backend in list(account.values()))
