"""Error responses in the format of each AWS protocol, so that clients can read the error code."""

from __future__ import annotations

import json
import uuid
from typing import NamedTuple
from xml.sax.saxutils import escape


class ErrorAnswer(NamedTuple):
    """An error response.

    Args:
        status: the HTTP status.
        headers: the headers.
        body: the body.
    """

    status: int
    headers: dict[str, str]
    body: bytes


_S3 = (
    "<Error><Code>{code}</Code><Message>{message}</Message><RequestId>{id}</RequestId><HostId>emulator</HostId></Error>"
)
_QUERY = (
    "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error>"
    "<RequestId>{id}</RequestId></ErrorResponse>"
)
_EC2 = (
    "<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors>"
    "<RequestID>{id}</RequestID></Response>"
)


def error_answer(service: str, content_type: str, status: int, code: str, message: str) -> ErrorAnswer:
    """Return an error response that the clients of a service understand.

    Args:
        service: botocore's name for the service; an unknown service gets S3's format.
        content_type: the request's content type, which distinguishes the query protocol from JSON.
        status: the HTTP status.
        code: the error code, for programs.
        message: the message, for people.
    """
    request_id = str(uuid.uuid4())
    headers = {"x-amzn-RequestId": request_id, "x-amz-request-id": request_id}
    form = _xml_form(service, content_type)
    if form:
        text = form.format(code=escape(code), message=escape(message), id=request_id)
        headers["Content-Type"] = "application/xml"
        return ErrorAnswer(status, headers, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode())
    headers["Content-Type"] = content_type if "json" in content_type else "application/json"
    headers["x-amzn-ErrorType"] = code
    return ErrorAnswer(status, headers, json.dumps({"__type": code, "message": message}).encode())


def _xml_form(service: str, content_type: str) -> str:
    if service in ("s3", ""):
        return _S3
    if service == "ec2":
        return _EC2
    return _QUERY if content_type.startswith("application/x-www-form-urlencoded") else ""
