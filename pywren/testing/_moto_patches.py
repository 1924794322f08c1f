"""What pywren adds to moto while it is mocking: invocations run, and functions reach it too.

Importing this module imports moto.
"""

from __future__ import annotations

import hmac
import json
import logging
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock
from urllib.parse import unquote

from moto.awslambda_simple.models import LambdaSimpleBackend
from moto.core.exceptions import JsonRESTError
from moto.iam.access_control import IAMPolicyStatement, PermissionResult
from moto.iam.models import iam_backends

from pywren.system import private_names
from pywren.testing._guard import guarded, request_handler
from pywren.testing._mock_function import MockFunction
from pywren.wire.call import ASYNC_PAYLOAD_LIMIT


def _payload_too_large(size: int) -> Exception:
    error = JsonRESTError(
        "RequestTooLargeException", f"{size} byte payload is too large for the Event invocation type (limit 1 MB)"
    )
    error.code = 413
    return error  # type: ignore[no-any-return]


@contextmanager
def invocations(functions: Mapping[str, MockFunction]) -> Iterator[None]:
    """Have the functions run when they are invoked; moto itself only echoes the payload."""
    echo = LambdaSimpleBackend.invoke

    def invoke(
        self: LambdaSimpleBackend,
        function_name: str,
        qualifier: str | None,
        body: Any,
        headers: Any,
        response_headers: dict[str, Any],
    ) -> str | bytes | None:
        function = functions.get(unquote(function_name).rpartition(":")[2])
        configuration = self.get_function(function_name, qualifier)  # raises what Lambda says of a missing one
        if function is None:
            return echo(self, function_name, qualifier, body, headers, response_headers)  # type: ignore[no-any-return]
        payload = body.encode() if isinstance(body, str) else bytes(body or b"")
        if headers.get("X-Amz-Invocation-Type") == "DryRun":
            return b""
        if headers.get("X-Amz-Invocation-Type") == "Event":
            if len(payload) > ASYNC_PAYLOAD_LIMIT:
                raise _payload_too_large(len(payload))
            function.invoke_later(payload, float(configuration.timeout))
            return b""
        answer, failed = function.invoke_now(payload, float(configuration.timeout))
        if failed:
            response_headers["x-amz-function-error"] = "Unhandled"
        return json.dumps(answer).encode()

    with mock.patch.object(LambdaSimpleBackend, "invoke", invoke):
        yield


@contextmanager
def over_tls() -> Iterator[None]:
    """Let every request count as encrypted: moto takes no account of conditions, and would refuse all of them.

    The policy that pywren gives to buckets denies what is not.
    """
    permitted = IAMPolicyStatement.is_action_permitted

    def is_action_permitted(self: IAMPolicyStatement, *args: Any, **kwargs: Any) -> PermissionResult:
        condition = private_names.policy_statement(self).get("Condition", {}).get("Bool", {})
        if condition.get("aws:SecureTransport") == "false":
            return PermissionResult.NEUTRAL
        return permitted(self, *args, **kwargs)

    with mock.patch.object(IAMPolicyStatement, "is_action_permitted", is_action_permitted):
        yield


@contextmanager
def http_server(access_key: str) -> Iterator[str | None]:
    """Serve the mocked AWS over HTTP too, for functions that themselves use AWS in their processes.

    Args:
        access_key: requests are answered that are signed with it, or with a key that the mocked IAM has made: who may
            invoke a function, has code run as this user.

    Yields:
        The endpoint's URL; ``None`` when Flask, which moto's server needs, is not installed.
    """
    try:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    except ImportError:
        yield None
        return
    from werkzeug.serving import make_server

    requests = logging.getLogger("werkzeug")
    level = requests.level
    requests.setLevel(logging.ERROR)  # it prints a line for every request, unless it is told not to
    application = guarded(DomainDispatcherApplication(create_backend_app), lambda asked: _is_signed(asked, access_key))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=request_handler())
    thread = threading.Thread(target=server.serve_forever, name="pywren-mock-aws", daemon=True)
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
    """Tell whether a request has a key that we gave; moto verifies no signatures, and the key is a secret here."""
    found = _KEY.search(asked.get("HTTP_AUTHORIZATION", "") or asked.get("QUERY_STRING", ""))
    if found is None:
        return False
    key = unquote(found[1]).partition("/")[0]
    return hmac.compare_digest(key.encode(errors="replace"), access_key.encode()) or _is_of_iam(key)


def _is_of_iam(key: str) -> bool:
    accounts = list(iam_backends.values())  # other threads make new ones
    return any(key in backend.access_keys for account in accounts for backend in list(account.values()))
