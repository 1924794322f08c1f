"""``Services``: Lambda's own requests to other services, for IAM roles, code in S3 and on-failure destinations."""

from __future__ import annotations

import json
import time
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Callable
from datetime import datetime, timezone
from typing import NamedTuple
from urllib.parse import quote, unquote, urlencode

import aiohttp

from pywren.testing.emulator._counters import RequestKind, Tally
from pywren.testing.emulator._door import Door
from pywren.testing.emulator._functions import Function, Refusal
from pywren.testing.emulator._settings import ACCOUNT_ID, Settings

CALLER = "lambda"
"""The caller under which these requests are counted."""

_NOT_ASSUMABLE = "The role defined for the function cannot be assumed by Lambda."
_TRUSTED = "lambda.amazonaws.com"
_SECONDS = 30.0


class DestinationError(Exception):
    """A destination did not accept a record."""


class _Answer(NamedTuple):
    status: int
    body: bytes


class Services:
    """Sends Lambda's requests to SeaweedFS and moto. It must be created in a running event loop.

    Args:
        s3: the door to SeaweedFS.
        moto: the door to moto's server.
        settings: the emulator's settings; the region and ``role_seconds`` apply here.
        tally: counts requests to S3 and SQS.
        clock: returns seconds since the epoch.
    """

    def __init__(
        self, *, s3: Door, moto: Door, settings: Settings, tally: Tally, clock: Callable[[], float] = time.time
    ) -> None:
        self._s3 = s3
        self._moto = moto
        self._settings = settings
        self._tally = tally
        self._clock = clock
        timeout = aiohttp.ClientTimeout(total=_SECONDS)
        self._s3_session, self._moto_session = s3.session(timeout=timeout), moto.session(timeout=timeout)

    async def close(self) -> None:
        """Close the connections."""
        await self._s3_session.close()
        await self._moto_session.close()

    # -- roles -----------------------------------------------------------------------------------------------

    async def check_role(self, arn: str) -> None:
        """Check that Lambda may assume a role.

        Raises:
            Refusal: the role does not exist, does not trust Lambda, or was created less than ``role_seconds`` ago.
        """
        name = arn.rpartition("/")[2]
        body = urlencode({"Action": "GetRole", "Version": "2010-05-08", "RoleName": name}).encode()
        answer = await self._ask_moto("iam", body, {"Content-Type": "application/x-www-form-urlencoded"})
        if answer.status != 200 or not self._assumable(ET.fromstring(answer.body), arn):
            raise Refusal("InvalidParameterValueException", _NOT_ASSUMABLE)

    def _assumable(self, answer: ET.Element, arn: str) -> bool:
        fields = {element.tag.rpartition("}")[2]: element.text or "" for element in answer.iter()}
        created = datetime.fromisoformat(fields["CreateDate"].replace("Z", "+00:00")).timestamp()
        trusted = _trusts_lambda(unquote(fields["AssumeRolePolicyDocument"]))
        return fields["Arn"] == arn and trusted and self._clock() - created >= self._settings.role_seconds

    # -- code ------------------------------------------------------------------------------------------------

    async def fetch_object(self, bucket: str, key: str, version: str | None = None) -> bytes:
        """Return an object that contains a zip.

        Raises:
            Refusal: the object cannot be read; the code and the message are S3's.
        """
        query = f"?versionId={quote(version)}" if version else ""
        answer = await self._ask_s3("GET", bucket, f"{quote(key)}{query}")
        self._count("s3", "GetObject", answer, 0, f"arn:aws:s3:::{bucket}/{key}")
        if answer.status != 200:
            code, message = _s3_error(answer)
            raise Refusal(
                "InvalidParameterValueException",
                f"Error occurred while GetObject. S3 Error Code: {code}. S3 Error Message: {message}",
            )
        return answer.body

    # -- records ---------------------------------------------------------------------------------------------

    async def send_record(self, function: Function, destination: str, record: bytes) -> None:
        """Send an on-failure record to a destination.

        Args:
            function: the event's function.
            destination: the ARN of a bucket or a queue.
            record: the record as JSON.

        Raises:
            DestinationError: the destination refused the record, or is of a kind that the emulator does not support.
        """
        service, _, name = destination.split(":", 2)[2].partition(":")
        if service == "s3":
            bucket = name.lstrip(":")
            key = record_key(function.name, datetime.fromtimestamp(self._clock(), timezone.utc))
            answer = await self._ask_s3("PUT", bucket, quote(key), record)
            self._count("s3", "PutObject", answer, len(record), f"{destination}/{key}")
        elif service == "sqs":
            answer = await self._send_message(name.rpartition(":")[2], record)
            self._count("sqs", "SendMessage", answer, len(record), destination)
        else:
            raise DestinationError(f"destinations of {service} are not emulated: {destination}")
        if answer.status >= 300:
            raise DestinationError(f"{destination} responded with status {answer.status}: {answer.body[:500]!r}")

    async def _send_message(self, queue: str, record: bytes) -> _Answer:
        message = {"QueueUrl": f"{self._moto.url}/{ACCOUNT_ID}/{queue}", "MessageBody": record.decode()}
        headers = {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": "AmazonSQS.SendMessage"}
        return await self._ask_moto("sqs", json.dumps(message).encode(), headers)

    # -- requests --------------------------------------------------------------------------------------------

    async def _ask_s3(self, method: str, bucket: str, path: str, body: bytes | None = None) -> _Answer:
        async with self._s3_session.request(method, f"{self._s3.url}/{bucket}/{path}", data=body) as answer:
            return _Answer(answer.status, await answer.read())

    async def _ask_moto(self, service: str, body: bytes, headers: dict[str, str]) -> _Answer:
        # moto identifies the service by the signature's scope, and does not verify the signature
        scope = f"lambda/{datetime.now(timezone.utc):%Y%m%d}/{self._settings.region}/{service}/aws4_request"
        signed = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0"
        headers = {**headers, "Authorization": signed}
        async with self._moto_session.post(self._moto.url, data=body, headers=headers) as answer:
            return _Answer(answer.status, await answer.read())

    def _count(self, service: str, operation: str, answer: _Answer, bytes_in: int, resource: str) -> None:
        self._tally.request(
            RequestKind(CALLER, service, operation),
            status=answer.status,
            bytes_in=bytes_in,
            bytes_out=len(answer.body),
            action=(f"{service}:{operation}", resource, ""),
        )


def record_key(function_name: str, when: datetime) -> str:
    """Return the key under which Lambda stores a record in a bucket.

    Source: docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html
    """
    return f"aws/lambda/async/{function_name}/{when:%Y/%m/%d}/{when:%Y-%m-%dT%H.%M.%S}-{uuid.uuid4()}"


def _trusts_lambda(policy: str) -> bool:
    """Tell whether a trust policy lets Lambda assume the role."""
    try:
        statements = json.loads(policy).get("Statement", [])
    except (ValueError, AttributeError):
        return False
    for statement in statements if isinstance(statements, list) else [statements]:
        principal = statement.get("Principal")
        services = principal.get("Service", []) if isinstance(principal, dict) else []
        actions = statement.get("Action", [])
        if (
            statement.get("Effect") == "Allow"
            and _TRUSTED in ([services] if isinstance(services, str) else services)
            and {"sts:AssumeRole", "sts:*", "*"} & set([actions] if isinstance(actions, str) else actions)
        ):
            return True
    return False


def _s3_error(answer: _Answer) -> tuple[str, str]:
    try:
        fields = {element.tag.rpartition("}")[2]: element.text or "" for element in ET.fromstring(answer.body).iter()}
    except ET.ParseError:
        fields = {}
    return fields.get("Code", str(answer.status)), fields.get("Message", "")
