"""moto's server: the program of the process that is IAM, STS, SQS, logs, EC2 and SSM; ``_backends`` runs it."""

from __future__ import annotations

import hmac
import importlib
import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from pywren.testing._guard import guarded, request_handler
from pywren.testing.emulator._door import SECRET_HEADER

SERVICES = ("iam", "sts", "sqs", "logs", "ec2", "ssm")
"""What is loaded before the server says that it is ready; moto loads the rest when it is asked for."""

SECRET_VARIABLE = "PYWREN_EMULATOR_SECRET"
"""The environment variable with the secret that every request is to have in ``SECRET_HEADER``."""


def main() -> None:
    """Listen on a free port of 127.0.0.1, print it, and serve for ever."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    from pywren.testing._moto_corrections import atomic_sqs

    class Handler(request_handler()):  # type: ignore[misc]
        protocol_version = "HTTP/1.1"  # connections are kept
        disable_nagle_algorithm = True  # or an answer on a kept connection waits 40 ms for its headers' acknowledgement

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request otherwise
    secret = os.environ.pop(SECRET_VARIABLE).encode()
    application = guarded(DomainDispatcherApplication(create_backend_app), lambda request: _knows(secret, request))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    for service in SERVICES:
        importlib.import_module(f"moto.{service}.models")
    with atomic_sqs():
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()


def _knows(secret: bytes, request: Mapping[str, Any]) -> bool:
    given = request.get("HTTP_" + SECRET_HEADER.upper().replace("-", "_"), "")
    return hmac.compare_digest(given.encode("latin-1"), secret)  # WSGI's text for the bytes that came


if __name__ == "__main__":
    main()
