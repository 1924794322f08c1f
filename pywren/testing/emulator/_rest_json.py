"""Lambda's REST-JSON protocol: parses and checks requests, and writes answers, following botocore's model."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs


class Refusal(Exception):
    """Lambda's refusal of a request. A refusal is an answer, not a failure of the emulator.

    Args:
        code: the error's name in Lambda's model, such as ``ResourceConflictException``.
        message: AWS's message.
        reason: the ``Reason`` field of ``TooManyRequestsException``.
    """

    def __init__(self, code: str, message: str, reason: str = "") -> None:
        super().__init__(code, message, reason)
        self.code, self.message, self.reason = code, message, reason


class Answer(NamedTuple):
    """An HTTP answer.

    Args:
        status: the status.
        headers: the headers.
        body: the body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


RETRY_AFTER_SECONDS = "1"
"""The ``Retry-After`` header of a throttled request."""

_UNMODELED_STATUS = {  # the service model does not contain these answers, because AWS's front end gives them
    "NotImplemented": 501,
    "PreconditionFailedException": 412,
    "UnknownOperationException": 404,
}


def decode(
    operation: Any, path_arguments: Mapping[str, str], query: str, headers: Mapping[str, str], body: bytes
) -> dict[str, Any]:
    """Return the arguments of a request under their names in the model.

    Args:
        operation: botocore's ``OperationModel``.
        path_arguments: the decoded arguments in the path.
        query: the query string.
        headers: the headers.
        body: the body.

    Raises:
        Refusal: an argument does not have the model's type (``SerializationException``).
    """
    shape = operation.input_shape
    if shape is None:
        return {}
    found = _Places(path_arguments, query, headers, body)
    payload = shape.serialization.get("payload")
    arguments: dict[str, Any] = {}
    for name, member in shape.members.items():
        if name == payload:
            arguments[name] = body
            continue
        value = found.get(name, member)
        if value is not None:
            arguments[name] = value
    return arguments


class _Places:
    """The places in a request that may contain arguments: path, query, headers and JSON body."""

    def __init__(self, path: Mapping[str, str], query: str, headers: Mapping[str, str], body: bytes) -> None:
        self._path = path
        self._query = parse_qs(query, keep_blank_values=True)
        self._headers = {name.lower(): value for name, value in headers.items()}
        self._body = body
        self._fields: dict[str, Any] | None = None

    def get(self, name: str, member: Any) -> Any:
        location = member.serialization.get("location")
        wire_name = member.serialization.get("name", name)
        if location == "uri":
            return _from_text(member, self._path.get(wire_name), name)
        if location == "header":
            return _from_text(member, self._headers.get(wire_name.lower()), name)
        if location == "querystring":
            values = self._query.get(wire_name)
            if values is None or member.type_name == "list":
                return values
            return _from_text(member, values[0], name)
        return _from_json(member, self._json().get(wire_name), name)

    def _json(self) -> dict[str, Any]:
        if self._fields is None:
            try:
                fields = json.loads(self._body or b"{}")
            except ValueError as error:
                raise Refusal("SerializationException", f"the body is not JSON: {error}") from error
            if not isinstance(fields, dict):
                raise Refusal("SerializationException", "the body is not a JSON object")
            self._fields = fields
        return self._fields


def _from_text(member: Any, text: str | None, name: str) -> Any:
    if text is None or member.type_name not in ("integer", "long", "boolean"):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise Refusal(
            "SerializationException", f"{text!r} at {_camel(name)!r} is not of type {member.type_name}"
        ) from error


_JSON_TYPES: dict[str, Any] = {
    "structure": (dict,),
    "map": (dict,),
    "list": (list,),
    "string": (str,),
    "blob": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "double": (int, float),
}


def _from_json(shape: Any, value: Any, path: str) -> Any:
    """Return a value from a JSON body in the type of its shape; ``None``, which AWS treats as absent, is kept."""
    if value is None:
        return None
    kind = shape.type_name
    if not isinstance(value, _JSON_TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        raise Refusal("SerializationException", f"the value at {_camel(path)!r} cannot be converted to a {kind}")
    if kind == "structure":
        members = ((name, _from_json(member, value.get(name), name)) for name, member in shape.members.items())
        return {name: member for name, member in members if member is not None}
    if kind == "map":
        return {key: _from_json(shape.value, item, f"{path}.{key}") for key, item in value.items()}
    if kind == "list":
        return [_from_json(shape.member, item, path) for item in value]
    return _blob(value, path) if kind == "blob" else value


def _blob(text: str, path: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal("SerializationException", f"the value at {_camel(path)!r} is not base64") from error


# -- checking ----------------------------------------------------------------------------------------------


def check(shape: Any, arguments: Mapping[str, Any]) -> None:
    """Check decoded arguments against the model: required members, ranges, lengths, patterns, enumerations.

    Raises:
        Refusal: a constraint is not satisfied (``ValidationException``, with AWS's message).
    """
    found = list(_violations(shape, arguments, "")) if shape is not None else []
    if found:
        plural = "error" if len(found) == 1 else "errors"
        raise Refusal("ValidationException", f"{len(found)} validation {plural} detected: {'; '.join(found)}")


def _violations(shape: Any, value: Any, path: str) -> Iterator[str]:
    kind = shape.type_name
    if kind == "structure":
        for name in shape.required_members:
            if name not in value:
                yield f"Value null at '{_below(path, name)}' failed to satisfy constraint: Member must not be null"
        for name, item in value.items():
            yield from _violations(shape.members[name], item, _below(path, name))
        return
    for constraint in _broken(shape, value):
        shown = "Value" if shape.metadata.get("sensitive") else f"Value '{_shown(value)}'"
        yield f"{shown} at '{path}' failed to satisfy constraint: {constraint}"
    if kind == "list":
        for number, item in enumerate(value, start=1):
            yield from _violations(shape.member, item, f"{path}.{number}.member")
    elif kind == "map":
        for key, item in value.items():
            for constraint in _broken(shape.key, key):
                broken = f"Map keys must satisfy constraint: [{constraint}]"
                yield f"Value at '{path}' failed to satisfy constraint: {broken}"
            yield from _violations(shape.value, item, f"{path}.{key}.member")


def _broken(shape: Any, value: Any) -> Iterator[str]:
    """Yield the descriptions of a shape's constraints that a value does not satisfy."""
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    number = shape.type_name in ("integer", "long", "double")
    measured, what = (value, "value") if number else (_length(value), "length")
    if least is not None and measured is not None and measured < least:
        yield f"Member must have {what} greater than or equal to {least}"
    if most is not None and measured is not None and measured > most:
        yield f"Member must have {what} less than or equal to {most}"
    values = shape.metadata.get("enum")
    if values and value not in values:
        yield f"Member must satisfy enum value set: [{', '.join(values)}]"
    pattern = shape.metadata.get("pattern")
    # Python does not know Java's character properties, which the pattern for tags has
    if pattern and r"\p{" not in pattern and not re.fullmatch(pattern, value):
        yield f"Member must satisfy regular expression pattern: {pattern}"


def _length(value: Any) -> int | None:
    return len(value) if isinstance(value, (str, bytes, list, dict)) else None


def _shown(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _below(path: str, name: str) -> str:
    return f"{path}.{_camel(name)}" if path else _camel(name)


def _camel(name: str) -> str:
    return name[:1].lower() + name[1:]


# -- answering ---------------------------------------------------------------------------------------------


def encode(operation: Any, fields: Mapping[str, Any], request_id: str) -> Answer:
    """Return the answer of an operation; timestamps in the fields are seconds since the epoch."""
    status = int(operation.http.get("responseCode", 200))
    headers = {"x-amzn-RequestId": request_id}
    if operation.output_shape is None or status == 204:
        return Answer(status, headers, b"")
    headers["Content-Type"] = "application/json"
    return Answer(status, headers, json.dumps(fields).encode())


def encode_refusal(model: Any, refusal: Refusal, request_id: str) -> Answer:
    """Return the answer for a refusal, in the model's format for its error.

    Args:
        model: botocore's ``ServiceModel``.
        refusal: the refusal.
        request_id: the request's id.
    """
    shape = next((shape for shape in model.error_shapes if shape.name == refusal.code), None)
    known = {} if shape is None else shape.metadata.get("error", {})
    status = int(known.get("httpStatusCode", _UNMODELED_STATUS.get(refusal.code, 400)))
    members = {"message": None} if shape is None else shape.members
    fields = {"Message" if "Message" in members else "message": refusal.message}
    headers = {
        "x-amzn-RequestId": request_id,
        "x-amzn-ErrorType": refusal.code,
        "Content-Type": "application/json",
    }
    if "Type" in members:
        fields["Type"] = "User" if status < 500 else "Service"
    if "Reason" in members and refusal.reason:
        fields["Reason"] = refusal.reason
    if "retryAfterSeconds" in members:
        headers["Retry-After"] = RETRY_AFTER_SECONDS
    return Answer(status, headers, json.dumps(fields).encode())
