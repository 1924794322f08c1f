"""The program that serves moto's IAM, STS, SQS, logs, EC2 and SSM; ``_backends`` runs it.

The server handles each connection in its own thread; ``atomic_sqs`` prevents races between these threads in SQS.
"""

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
"""Services that the server loads before it reports its port; moto loads others on their first request."""

SECRET_VARIABLE = "PYWREN_EMULATOR_SECRET"
"""The environment variable with the secret that each request must carry in ``SECRET_HEADER``."""


def main() -> None:
    """Listen on a free port of 127.0.0.1, print the port, and serve forever."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    from pywren.testing._moto_corrections import atomic_sqs

    class Handler(request_handler()):  # type: ignore[misc]
        protocol_version = "HTTP/1.1"  # keep connections open
        disable_nagle_algorithm = True  # otherwise each answer on a kept connection waits 40 ms for an acknowledgement

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # at lower levels it logs every request
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
    return hmac.compare_digest(given.encode("latin-1"), secret)  # WSGI decodes headers as latin-1


if __name__ == "__main__":
    main()
