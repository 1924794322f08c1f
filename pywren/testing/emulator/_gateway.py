"""The gateway: the only endpoint of the emulated AWS.

It identifies and counts each request, applies faults, and forwards the request. The credential scope of the signature
names the service: ``s3`` goes to SeaweedFS, ``lambda`` to ``LambdaApi``, and everything else to moto's server. Requests
need an access key that the emulator issued, because every user of the machine can reach the port, and Lambda executes
any code that it receives. The gateway checks only the key; it verifies no signatures.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import secrets
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from aiohttp import web

from pywren.exceptions import ArgumentError
from pywren.testing.emulator._counters import RequestKind, Tally
from pywren.testing.emulator._door import Door
from pywren.testing.emulator._error_answers import error_answer
from pywren.testing.emulator._faults import FaultPlan, Faults
from pywren.testing.emulator._lambda_api import LambdaApi
from pywren.testing.emulator._operations import (
    Operation,
    Scope,
    condition_of,
    credential_scope,
    operation_of,
    resource_of,
    service_model,
)
from pywren.testing.emulator._proxy import BackendError, Exchange, Proxy
from pywren.testing.emulator._rest_json import Refusal, encode_refusal
from pywren.testing.emulator._seaweed import MISTAKEN, Buckets
from pywren.testing.emulator._settings import ACCOUNT_ID

logger = logging.getLogger(__name__)

CONTROL_PATH = "/_emulator"
"""The path where the user's process reads counters and sets faults, with a bearer token that functions do not have."""

_LONGEST_BODY = 128 * 1024 * 1024
_LONGEST_LINE = 64 * 1024
_CLOSE_SECONDS = 0.2
_LINGER_SECONDS = 2.0  # time to read the rest of a refused body: without reading it, closing would lose the answer
_BACKLOG = 1024
_STRANGER = RequestKind("unknown", "", "")
_NEW_KEYS = frozenset({"AssumeRole", "CreateAccessKey", "GetFederationToken", "GetSessionToken"})
_KNOWN_KEY = b"AKIAIOSFODNN7EXAMPLE"
_NEW_KEY = re.compile(rb"<AccessKeyId>([^<]+)</AccessKeyId>")


class _Asked(NamedTuple):
    """A request whose caller is known by its access key."""

    request: web.BaseRequest
    path: str
    query: str
    scope: Scope
    caller: str

    def operation(self, body: bytes) -> Operation:
        """Return the operation that the request asks for."""
        request = self.request
        return operation_of(self.scope.service, request.method, self.path, self.query, request.headers, body)


class Gateway:
    """The server that receives all requests.

    Args:
        s3: the door to SeaweedFS.
        moto: the door to moto's server.
        functions: answers requests to Lambda.
        callers: the caller for each access key: ``client`` or ``function:NAME``; the gateway adds the keys that moto
            issues.
        tally: counts requests and faults.
        plan: the faults; replaced by ``PUT /_emulator/faults``.
        token: the bearer token of control requests.
        wait_idle: waits until nothing runs, for at most the given number of seconds; tells whether that happened.
        cut_off: kills the container with the given session token if a fault is to kill it before it writes; tells
            whether the container was killed.
    """

    def __init__(
        self,
        *,
        s3: Door,
        moto: Door,
        functions: LambdaApi,
        callers: dict[str, str],
        tally: Tally,
        plan: FaultPlan,
        token: str,
        wait_idle: Callable[[float], Awaitable[bool]],
        cut_off: Callable[[str], bool] = lambda token: False,
    ) -> None:
        self.plan = plan
        self._s3 = s3
        self._moto = moto
        self._functions = functions
        self._callers = callers
        self._tally = tally
        self._token = token
        self._wait_idle = wait_idle
        self._cut_off = cut_off
        self._controls: Mapping[tuple[str, str], Callable[[web.BaseRequest], Awaitable[object]]] = {
            ("GET", "/counters"): self._get_counters,
            ("GET", "/executions"): self._get_executions,
            ("PUT", "/faults"): self._put_faults,
            ("POST", "/wait-idle"): self._post_wait_idle,
        }
        self._buckets = Buckets()
        self._proxies: dict[Door, Proxy] = {}
        self._web: web.Server | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> int:
        """Listen on a free port of 127.0.0.1 and return it."""
        self._proxies = {door: Proxy(door) for door in (self._s3, self._moto)}
        self._web = web.Server(
            self.answer,
            access_log=None,
            auto_decompress=False,
            lingering_time=_LINGER_SECONDS,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_LINE,
        )
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._web, "127.0.0.1", 0, backlog=_BACKLOG)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening, and end the requests in progress."""
        if self._server is not None and self._web is not None:
            self._server.close()
            await self._web.shutdown(_CLOSE_SECONDS)
            await self._server.wait_closed()
        for proxy in self._proxies.values():
            await proxy.close()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        try:
            return await self._answer(request)
        except ConnectionError as error:
            # The client is gone, or half of the answer has been sent: only closing the connection is left.
            logger.debug("a connection was interrupted: %s", error)
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=503)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        if path.startswith(CONTROL_PATH + "/"):
            return await self._control(request, path.removeprefix(CONTROL_PATH))
        scope = credential_scope(request.headers, query)
        caller = self._callers.get(scope.access_key)
        if caller is None:
            return self._refuse_stranger(request, scope)
        asked = _Asked(request, path, query, scope, caller)
        if self._is_expired(request):
            return self._count(asked, Operation(scope.service, "", {}), _expired(asked), b"")
        if scope.service == "s3":
            return await self._answer_s3(asked)
        return await self._answer_others(asked)

    def _refuse_stranger(self, request: web.BaseRequest, scope: Scope) -> web.Response:
        """Refuse a request that has no key or an unknown key, without revealing anything else."""
        logger.debug("refused a request for %s: its access key is not ours", scope.service or "an unknown service")
        if not scope.access_key:
            code, message = "AccessDenied", "Access Denied: the request has no access key"
        elif scope.service == "s3":
            code, message = "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."
        else:
            code = "AuthFailure" if scope.service == "ec2" else "UnrecognizedClientException"
            message = "The security token included in the request is invalid."
        response = _error(request, scope.service, 403, code, message)
        self._tally.request(_STRANGER, status=403, bytes_in=0, bytes_out=_size(response), action=None)
        return response

    async def _answer_s3(self, asked: _Asked) -> web.StreamResponse:
        token = asked.request.headers.get("X-Amz-Security-Token", "")
        if asked.request.method not in ("GET", "HEAD") and self._cut_off(token):
            raise ConnectionResetError("the requester was killed")
        operation = asked.operation(b"")
        if self.plan.faults.s3_latency:
            await asyncio.sleep(self.plan.faults.s3_latency)
        if self._strikes("lose_s3", asked):
            self._count(asked, operation, Exchange(web.Response(status=503), 0, 0), b"")
            raise ConnectionResetError("a fault ends the connection")
        if self._strikes("slow_down_s3", asked):
            exchange = _refused(asked, 503, "SlowDown", "Please reduce your request rate.")
        elif self._strikes("fail_s3", asked):
            exchange = _refused(asked, 500, "InternalError", "We encountered an internal error. Please try again.")
        elif not operation.name or operation.name in MISTAKEN:
            exchange = _refused(asked, 501, "NotImplemented", _not_there(asked, operation))
        else:
            exchange = await self._ask_s3(asked, operation)
        return self._count(asked, operation, exchange, b"")

    async def _ask_s3(self, asked: _Asked, operation: Operation) -> Exchange:
        if operation.name in ("ListBuckets", "GetBucketLocation"):
            arguments = {**dict(parse_qsl(asked.query)), **operation.path_arguments}
            body = self._buckets.answer(operation.name, arguments)
            if body is not None:
                return Exchange(web.Response(body=body, content_type="application/xml"), 0, len(body))
        await _let_body_come(asked.request)
        exchange = await self._forward(asked, operation, self._s3)
        if exchange.response.status < 300 and operation.name in ("CreateBucket", "DeleteBucket"):
            self._buckets.note(operation.name, operation.path_arguments["Bucket"], asked.scope.region)
        return exchange

    async def _answer_others(self, asked: _Asked) -> web.StreamResponse:
        """Answer a request to any service except S3. Its body, which may name the operation, fits into memory."""
        request = asked.request
        await _let_body_come(request)
        body = await _read(request)
        if body is None:
            message = f"the body is longer than {_LONGEST_BODY} bytes"
            exchange = _refused(asked, 413, "RequestEntityTooLargeException", message)
            return self._count(asked, Operation(asked.scope.service, "", {}), exchange, b"")
        operation = asked.operation(body)
        if operation.service != "lambda":
            exchange = await self._forward(asked, operation, self._moto, body)
            self._learn_keys(asked, operation, exchange.response)
        else:
            response = await self._ask_lambda(asked, operation, body)
            exchange = Exchange(response, len(body), _size(response))
        return self._count(asked, operation, exchange, body)

    async def _ask_lambda(self, asked: _Asked, operation: Operation, body: bytes) -> web.Response:
        request, faults = asked.request, self.plan.faults
        if not operation.name:
            return _error(request, "lambda", 501, "NotImplemented", _not_there(asked, operation))
        if operation.name == "Invoke":
            if faults.invoke_latency:
                await asyncio.sleep(faults.invoke_latency)
            if self._strikes("throttle_invoke", asked):
                return _refused_by_lambda("TooManyRequestsException", "Rate exceeded", "CallerRateLimitExceeded")
            if self._strikes("fail_invoke", asked):
                return _refused_by_lambda("ServiceException", "The Lambda service encountered an internal error.")
        answer = await self._functions.answer(operation, asked.query, request.headers, body, self.plan)
        return web.Response(status=answer.status, headers=answer.headers, body=answer.body)

    async def _forward(self, asked: _Asked, operation: Operation, door: Door, body: bytes | None = None) -> Exchange:
        try:
            return await self._proxies[door].forward(asked.request, body)
        except BackendError as error:
            logger.warning("%s of %s: %s", operation.name, operation.service, error)
            return _refused(asked, 503, "ServiceUnavailable", str(error))
        except ConnectionError:
            broken = web.Response(status=503)
            self._count(asked, operation, Exchange(broken, 0, 0), body or b"")
            raise

    def _count(self, asked: _Asked, operation: Operation, exchange: Exchange, body: bytes) -> web.StreamResponse:
        action = None
        if operation.name:
            resource = resource_of(operation, asked.scope.region, ACCOUNT_ID, body)
            action = operation.action, resource, condition_of(operation, asked.query)
        self._tally.request(
            RequestKind(asked.caller, operation.service, operation.name),
            status=exchange.response.status,
            bytes_in=exchange.bytes_in,
            bytes_out=exchange.bytes_out,
            action=action,
        )
        return exchange.response

    def _is_expired(self, request: web.BaseRequest) -> bool:
        token = request.headers.get("X-Amz-Security-Token", "")
        return bool(token) and token == self.plan.faults.expired_token

    def _strikes(self, kind: str, asked: _Asked) -> bool:
        struck = self.plan.strikes(kind, asked.caller)
        if struck:
            self._tally.fault(kind)
        return struck

    def _learn_keys(self, asked: _Asked, operation: Operation, response: web.StreamResponse) -> None:
        """Add the access keys in moto's answer; requests with these keys count for the same caller."""
        if operation.name in _NEW_KEYS and isinstance(response, web.Response) and isinstance(response.body, bytes):
            # Some of moto's answers contain the example key from AWS's documentation, which everyone knows.
            response.body = response.body.replace(_KNOWN_KEY, f"ASIA{secrets.token_hex(8).upper()}".encode())
            for key in _NEW_KEY.findall(response.body):
                self._callers.setdefault(key.decode(), asked.caller)

    # --- control requests

    async def _control(self, request: web.BaseRequest, path: str) -> web.Response:
        """Answer a control request, which only the process that started the emulator can make."""
        given = request.headers.get("Authorization", "").encode(errors="replace")
        if not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
            return _closing(_json({"message": "control requests need the emulator's token"}, status=403))
        control = self._controls.get((request.method, path))
        if control is None:
            return _closing(_json({"message": f"there is no {request.method} {path}"}, status=404))
        try:
            return _json(await control(request))
        except ArgumentError as error:
            return _json({"message": str(error)}, status=400)
        except TimeoutError as error:
            return _json({"message": str(error)}, status=408)

    async def _get_counters(self, request: web.BaseRequest) -> object:
        return self._tally.snapshot().encode()

    async def _get_executions(self, request: web.BaseRequest) -> object:
        return [execution.encode() for execution in self._tally.executions()]

    async def _put_faults(self, request: web.BaseRequest) -> object:
        faults = Faults.decode(await _fields(request))
        self.plan = FaultPlan(faults)
        return faults.encode()

    async def _post_wait_idle(self, request: web.BaseRequest) -> object:
        timeout = (await _fields(request)).get("timeout")
        if not isinstance(timeout, (int, float)) or timeout < 0:
            raise ArgumentError(f"timeout must be a number of seconds, not {timeout!r}")
        if not await self._wait_idle(timeout):
            raise TimeoutError(f"events are still waiting or running after {timeout:g} s")
        return {}


def _refused(asked: _Asked, status: int, code: str, message: str) -> Exchange:
    response = _error(asked.request, asked.scope.service, status, code, message)
    return Exchange(response, 0, _size(response))


def _expired(asked: _Asked) -> Exchange:
    """Return the answer to a request whose credentials have expired, in the words of the service."""
    if asked.scope.service == "s3":
        return _refused(asked, 400, "ExpiredToken", "The provided token has expired.")
    return _refused(asked, 403, "ExpiredTokenException", "The security token included in the request is expired")


def _refused_by_lambda(code: str, message: str, reason: str = "") -> web.Response:
    answer = encode_refusal(service_model("lambda"), Refusal(code, message, reason), str(uuid.uuid4()))
    return web.Response(status=answer.status, headers=answer.headers, body=answer.body)


def _not_there(asked: _Asked, operation: Operation) -> str:
    wanted = operation.name or f"operation for {asked.request.method} {asked.path}"
    return f"the emulated AWS has no {wanted} of {asked.scope.service}"


async def _fields(request: web.BaseRequest) -> dict[str, Any]:
    """Return the JSON object of a control request."""
    try:
        fields = json.loads(await request.read())
    except ValueError as error:
        raise ArgumentError(f"the body is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ArgumentError("the body is not a JSON object")
    return fields


async def _read(request: web.BaseRequest) -> bytes | None:
    """Return the body of a request; ``None`` if the body is longer than any that AWS accepts."""
    if not request.body_exists:
        return b""
    if (request.content_length or 0) > _LONGEST_BODY:
        return None
    chunks, size = [], 0
    async for chunk in request.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > _LONGEST_BODY:
            return None
    return b"".join(chunks)


async def _let_body_come(request: web.BaseRequest) -> None:
    """Tell a client to send its body, if the client waits for that, as boto3 does for S3."""
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # otherwise aiohttp would assume that the answer has begun


def _error(request: web.BaseRequest, service: str, status: int, code: str, message: str) -> web.Response:
    content_type = request.headers.get("Content-Type", "")
    error = error_answer(service, content_type, status, code, message)
    body = None if request.method == "HEAD" else error.body
    response = web.Response(status=error.status, headers=error.headers, body=body)
    # A client that was not told to continue may send the body or not: the next bytes would be ambiguous
    return response if request.content.at_eof() else _closing(response)


def _closing(response: web.Response) -> web.Response:
    response.force_close()
    return response


def _json(fields: object, status: int = 200) -> web.Response:
    return web.Response(status=status, body=json.dumps(fields).encode(), content_type="application/json")


def _size(response: web.Response) -> int:
    return len(response.body) if isinstance(response.body, bytes) else 0
