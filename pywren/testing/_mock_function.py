"""``MockFunction``: a mocked Lambda function that runs the worker's real handler.

The handler runs on threads of this process. Asynchronous invocations run on the function's own threads; synchronous
ones run on the thread that handles the request. Each thread has its own log stream, as each execution environment has
on Lambda. The calls run in child processes of a ``ForkServer`` that all threads share.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pywren.worker.handler import Container
from pywren.worker.parent.fork_server import ForkServer
from pywren.wrenhandler import handle_on_lambda

logger = logging.getLogger(__name__)

MEMORY_MB = 1536
"""The memory that the function has, as far as it is told."""


class MockFunction:
    """Runs the invocations of one function; asynchronous invocations run on the function's own threads.

    Args:
        name: the function's name.
        account_id: the mocked account.
        region: the mocked region.
        concurrency: how many asynchronous invocations run at the same time.
        endpoint: the URL at which functions reach the mocked AWS.
        access_key: the key with which functions sign their requests.
    """

    def __init__(
        self,
        name: str,
        *,
        account_id: str,
        region: str,
        concurrency: int,
        endpoint: str | None = None,
        access_key: str = "testing",
    ) -> None:
        self.name = name
        self._account_id = account_id
        self._region = region
        # calls print to the mocked log, not to the test's terminal
        self._runner = ForkServer(on_output=lambda stream, text: None)
        self._container = Container(self._runner, environment=_lambda_environment(name, region, endpoint, access_key))
        self._threads = ThreadPoolExecutor(concurrency, thread_name_prefix="pywren-mock-lambda")
        self._streams = threading.local()
        # A test usually makes calls soon. close() waits for this thread, too.
        self._threads.submit(self._runner.start)

    def invoke_later(self, payload: bytes, timeout: float) -> None:
        """Queue an asynchronous invocation. An exception that it raises is only logged, as on Lambda."""
        self._threads.submit(self.invoke_now, payload, timeout)

    def invoke_now(self, payload: bytes, timeout: float) -> tuple[Any, bool]:
        """Run an invocation, and return when it has ended.

        Args:
            payload: the event as JSON.
            timeout: seconds after which Lambda would kill the invocation.

        Returns:
            The handler's result, or Lambda's description of the exception that it raised; and whether it raised one.
        """
        arn = f"arn:aws:lambda:{self._region}:{self._account_id}:function:{self.name}"
        context = _LambdaContext(self.name, arn, self._log_stream(), timeout)
        begun = time.time()
        failed, output = False, ""
        try:
            answer: Any = handle_on_lambda(self._container, json.loads(payload), context)
            output = (answer or {}).get("stdout", "") + (answer or {}).get("stderr", "")
        except Exception as error:  # noqa: BLE001 - Lambda answers whatever its function raises
            failed = True
            answer = {"errorType": type(error).__name__, "errorMessage": str(error)}
            output = f"[ERROR] {type(error).__name__}: {error}"
            logger.info("the mocked function %s raised %s", self.name, output)
        self._log(context, begun, output)
        return answer, failed

    def close(self) -> None:
        """Drop queued invocations, kill running calls, and end the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._runner.close()
        self._threads.shutdown(wait=True)
        self._container.close()

    def _log_stream(self) -> str:
        """Return the name of this thread's log stream; Lambda has one per execution environment."""
        if not hasattr(self._streams, "name"):
            self._streams.name = f"{time.strftime('%Y/%m/%d')}/[$LATEST]{uuid.uuid4().hex}"
        return str(self._streams.name)

    def _log(self, context: _LambdaContext, begun: float, output: str) -> None:
        """Write an invocation's log to CloudWatch as Lambda does: START, the output, END, REPORT."""
        from moto.backends import get_backend

        request, milliseconds = context.aws_request_id, (time.time() - begun) * 1000
        lines = [
            f"START RequestId: {request} Version: $LATEST",
            *output.splitlines(),
            f"END RequestId: {request}",
            f"REPORT RequestId: {request}\tDuration: {milliseconds:.2f} ms\tBilled Duration: {milliseconds:.0f} ms\t"
            f"Memory Size: {MEMORY_MB} MB\tMax Memory Used: 64 MB",
        ]
        backend: Any = get_backend("logs")[self._account_id][self._region]
        if context.log_group_name not in backend.groups:
            backend.create_log_group(context.log_group_name, {})
        backend.ensure_log_stream(context.log_group_name, context.log_stream_name)
        now = int(time.time() * 1000)
        first = int(begun * 1000)
        events = [
            {"timestamp": first if index == 0 else now, "message": line + "\n"} for index, line in enumerate(lines)
        ]
        backend.put_log_events(context.log_group_name, context.log_stream_name, events)


class _LambdaContext:
    """The context that Lambda passes to a function with the payload."""

    def __init__(self, function_name: str, arn: str, log_stream_name: str, timeout: float) -> None:
        self.function_name = function_name
        self.invoked_function_arn = arn
        self.function_version = "$LATEST"
        self.aws_request_id = str(uuid.uuid4())
        self.log_group_name = f"/aws/lambda/{function_name}"
        self.log_stream_name = log_stream_name
        self.memory_limit_in_mb = str(MEMORY_MB)
        self._deadline = time.monotonic() + timeout

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until Lambda kills the function."""
        return max(0, int((self._deadline - time.monotonic()) * 1000))


def _lambda_environment(name: str, region: str, endpoint: str | None, access_key: str) -> Mapping[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_SESSION_TOKEN": "testing",
        **({} if endpoint is None else {"AWS_ENDPOINT_URL": endpoint}),
        "AWS_LAMBDA_FUNCTION_NAME": name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(MEMORY_MB),
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_EXECUTION_ENV": "AWS_Lambda_python",
        "OMP_NUM_THREADS": "1",
        "TZ": ":UTC",
        "LANG": "en_US.UTF-8",
    }
