"""``mock_aws``: the S3, Lambda, IAM, SQS and logs of moto, with a bucket and with a function that really runs."""

from __future__ import annotations

import functools
import os
import secrets
import threading
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from pywren.aws.requests import AWS
from pywren.serialize._distributions import installed_modules
from pywren.testing._mock_function import MockFunction
from pywren.testing._set_up import (
    ACCOUNT_ID,
    REGION,
    configuration,
    create_bucket,
    create_resources,
    environment,
    models_are_read_once,
    no_proxy_here,
)
from pywren.worker.bundle import build_zip

CONCURRENCY = 16
"""How many invocations of the function run at once by default."""


@contextmanager
def mock_aws(*, concurrency: int = CONCURRENCY, lambda_timeout: int = 300) -> Iterator[dict[str, Any]]:
    """Mock AWS while the context lasts, with everything that pywren needs already set up.

    A bucket, an execution role, a queue and the deployed function are ready. Calls run as on Lambda: in a child
    process, with Lambda's environment, and with their logs in CloudWatch. Functions that use AWS themselves, through
    boto3 or pywren, reach the same mocked AWS.

    Contexts may be nested, follow each other, or be open in several threads. Each has its own bucket, function and
    queue; all share one moto, which ends with the last context. While a context is open, the environment contains none
    of the user's AWS credentials and settings, and requests to this machine bypass proxies. The end of the last context
    restores the environment.

    Args:
        concurrency: how many invocations run at the same time; the others wait.
        lambda_timeout: seconds after which Lambda kills a call, 1 to 900.

    Yields:
        A configuration for ``default_executor(config=…)``, ``lambda_executor(config=…)`` and the others. Its prices are
        those of us-east-1, so ``estimate``, ``summary`` and ``budget=`` tell what calls would cost there.

    Raises:
        ImportError: moto is not installed.
    """
    with ExitStack() as stack:
        stack.enter_context(_world)
        # the children of the mocked function share this interpreter's packages
        name = f"pywren-mock-{uuid.uuid4().hex[:12]}"
        config = configuration(name, timeout=lambda_timeout, preinstalls=installed_modules())
        # The function comes first, because its fork server starts while this thread sends the requests of _set_up().
        function = MockFunction(
            name,
            account_id=ACCOUNT_ID,
            region=REGION,
            concurrency=concurrency,
            endpoint=_world.endpoint,
            access_key=_world.access_key,
        )
        stack.callback(function.close)
        _world.functions[name] = function
        stack.callback(_world.functions.pop, name)
        _set_up(config)
        yield config


def _set_up(config: dict[str, Any]) -> None:
    """Create the bucket, the queue, the role and the function that a configuration names."""
    aws = AWS(REGION)
    try:
        create_bucket(config, aws)
        create_resources(config, aws, archive=_archive())
    finally:
        aws.close()


@functools.cache
def _archive() -> bytes:
    return build_zip()


class _World(AbstractContextManager["_World"]):
    """The state that all open contexts of the process share: moto, its patches, and the environment.

    ``_lock`` guards the number of open contexts. The first context starts moto while the others wait; the last stops
    it.
    """

    def __init__(self) -> None:
        self.functions: dict[str, MockFunction] = {}
        self.endpoint: str | None = None
        self.access_key = ""
        self._lock = threading.Lock()
        self._open = 0
        self._stack = ExitStack()

    def __enter__(self) -> _World:
        with self._lock:
            if self._open == 0:
                with ExitStack() as stack:
                    self._start(stack)
                    self._stack = stack.pop_all()
            self._open += 1
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._open -= 1
            if self._open == 0:
                self._stack.close()

    def _start(self, stack: ExitStack) -> None:
        moto = _import_moto()
        stack.enter_context(environment({**_ENVIRONMENT, **no_proxy_here()}))
        stack.enter_context(models_are_read_once())
        stack.enter_context(moto.mock_aws(config={"lambda": {"use_docker": False}}))
        from pywren.testing._moto_corrections import atomic_s3, atomic_sqs, over_tls
        from pywren.testing._moto_endpoint import http_server
        from pywren.testing._moto_lambda import invocations

        stack.enter_context(atomic_s3())
        stack.enter_context(atomic_sqs())
        stack.enter_context(over_tls())
        stack.enter_context(invocations(self.functions))
        self.access_key = f"testing-{secrets.token_hex(16)}"
        self.endpoint = stack.enter_context(http_server(self.access_key))


_world = _World()


def _import_moto() -> Any:
    try:
        import moto
    except ImportError as error:
        raise ImportError("pywren.testing.mock_aws needs moto: pip install 'pywren[testing]'") from error
    return moto


_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_SESSION_TOKEN": "testing",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}
