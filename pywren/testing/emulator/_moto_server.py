"""moto's server: the program of the process that is IAM, STS, SQS, logs, EC2 and SSM; ``_backends`` runs it."""

from __future__ import annotations

import hmac
import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

from pywren.testing.emulator._door import SECRET_HEADER

SERVICES = ("iam", "sts", "sqs", "logs", "ec2", "ssm")
"""What is loaded before the server says that it is ready; moto loads the rest when it is asked for."""

SECRET_VARIABLE = "PYWREN_EMULATOR_SECRET"
"""The environment variable with the secret that every request is to have in ``SECRET_HEADER``."""

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


def main() -> None:
    """Listen on a free port of 127.0.0.1, print it, and serve for ever."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    from pywren.testing._atomic_moto import atomic_sqs

    class Handler(MotoRequestHandler):  # type: ignore[misc]
        protocol_version = "HTTP/1.1"  # connections are kept
        disable_nagle_algorithm = True  # or an answer on a kept connection waits 40 ms for its headers' acknowledgement

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request otherwise
    application = for_those_who_know(os.environ.pop(SECRET_VARIABLE), DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    for service in SERVICES:
        importlib.import_module(f"moto.{service}.models")
    with atomic_sqs():
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


def for_those_who_know(secret: str, application: Application) -> Application:
    """Return an application that answers only requests with the secret: every user of the machine can send some."""
    name = "HTTP_" + SECRET_HEADER.upper().replace("-", "_")

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        given = environ.pop(name, "").encode("latin-1")  # WSGI's text for the bytes that came
        if hmac.compare_digest(given, secret.encode()):
            return application(environ, start_response)
        start_response("403 Forbidden", [("Content-Length", "0"), ("Connection", "close")])
        return []

    return answer


if __name__ == "__main__":
    main()
