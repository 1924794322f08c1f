"""Makes invocations of moto's Lambda run the mocked function; moto itself only echoes the payload.

Importing this module imports moto.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock
from urllib.parse import unquote

from moto.awslambda_simple.models import LambdaSimpleBackend
from moto.core.exceptions import JsonRESTError

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
    """Run invocations of these functions while the context lasts; moto answers invocations of all other functions.

    Synchronous invocations run on the thread that handles the request, asynchronous invocations on the function's own
    threads.

    Args:
        functions: the functions by name; the mapping may change while the context lasts.
    """
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
        configuration = self.get_function(function_name, qualifier)  # raises Lambda's error if there is no function
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
