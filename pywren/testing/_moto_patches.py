"""What pywren changes in moto while it is mocking: invocations run, and S3 is atomic.

Importing this module imports moto.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock
from urllib.parse import unquote, urlsplit

from moto.awslambda_simple.models import LambdaSimpleBackend
from moto.core.exceptions import JsonRESTError
from moto.core.models import botocore_stubber

from pywren._wire import ASYNC_PAYLOAD_LIMIT
from pywren.testing._mock_function import MockFunction


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
def atomic_s3() -> Iterator[None]:
    """Let one request to S3 finish before the next begins.

    moto looks whether an object stands and then writes it, and lists a dict that others change: with
    workers in several threads the first commit would not always win.
    """
    process = botocore_stubber.process_request
    lock = threading.RLock()

    def one_at_a_time(request: Any) -> Any:
        host = urlsplit(request.url).hostname or ""
        if not any(label == "s3" or label.startswith("s3-") for label in host.split(".")):
            return process(request)
        with lock:
            return process(request)

    with mock.patch.object(botocore_stubber, "process_request", one_at_a_time):
        yield
