"""``guarded``: makes a WSGI application refuse unknown callers, since every user of the machine can reach its port."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]

_REFUSAL = (
    b"<Error><Code>InvalidAccessKeyId</Code><Message>the request does not have this AWS's credentials: "
    b"use those in the environment</Message></Error>"
)


def request_handler() -> Any:
    """Return the request handler class for moto's server: moto's own since moto 5.2.5, before that werkzeug's.

    Raises:
        ImportError: Flask, which the server needs, is not installed.
    """
    from moto.moto_server import werkzeug_app
    from werkzeug.serving import WSGIRequestHandler

    return getattr(werkzeug_app, "MotoRequestHandler", WSGIRequestHandler)


def guarded(application: Application, admits: Callable[[Mapping[str, Any]], bool]) -> Application:
    """Return an application that refuses requests from unknown callers before it reads their bodies.

    Args:
        application: the application that answers the admitted requests.
        admits: decides from a request's ``environ`` whether to answer it.
    """

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if admits(environ):
            return application(environ, start_response)
        # the request's body is still unread, so no other request can follow on this connection
        headers = [("Content-Type", "text/xml"), ("Content-Length", str(len(_REFUSAL))), ("Connection", "close")]
        start_response("403 Forbidden", headers)
        return [_REFUSAL]

    return answer
