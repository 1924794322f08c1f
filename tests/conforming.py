"""Checks of the emulated Lambda's answers against botocore's model of the service."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from botocore.awsrequest import HeadersDict
from botocore.parsers import create_parser
from botocore.validate import ParamValidator

from pywren.testing.emulator._lambda_api import Answer

UNMODELED = {"ValidationException", "SerializationException", "NotImplemented", "UnknownOperationException"}
"""Errors that AWS's front end returns; no operation's model lists them."""

ANSWERED_TOO = {("LastUpdateStatusReasonCode", "Creating")}
"""Values that AWS returns although its model does not list them."""


class Refused(Exception):
    """A refusal by Lambda: its code, message and status, and the parsed error."""

    def __init__(self, code: str, message: str, status: int, parsed: dict[str, Any]) -> None:
        super().__init__(code, message)
        self.code, self.message, self.status, self.parsed = code, message, status, parsed


def conforming(model: Any, answer: Answer) -> dict[str, Any]:
    """Parse an answer, and check that it has everything that the model's shape requires and nothing else."""
    assert answer.headers["x-amzn-RequestId"]
    response = {"status_code": answer.status, "headers": HeadersDict(answer.headers), "body": answer.body}
    parsed = create_parser("rest-json").parse(response, model.output_shape)
    metadata = parsed.pop("ResponseMetadata")
    assert metadata["RequestId"] == answer.headers["x-amzn-RequestId"]
    if answer.status >= 300:
        error = parsed["Error"]
        shape = next((shape for shape in model.error_shapes if shape.name == error["Code"]), None)
        assert shape is not None or error["Code"] in UNMODELED
        if shape is not None:
            assert answer.status == shape.metadata["error"]["httpStatusCode"]
            assert not list(misfits(shape, json.loads(answer.body), error["Code"]))
        raise Refused(error["Code"], error["Message"], answer.status, json.loads(answer.body))
    if model.name != "Invoke":
        assert answer.status == model.http["responseCode"]
    if model.output_shape is None:
        assert answer.body == b""
        return parsed
    report = ParamValidator().validate(parsed, model.output_shape)
    assert not report.has_errors(), report.generate_report()
    if "payload" in model.output_shape.serialization:
        return {**parsed, "Payload": answer.body}  # clients get it as a stream
    assert not list(misfits(model.output_shape, json.loads(answer.body), model.name))
    return parsed


def misfits(shape: Any, value: Any, path: str) -> Iterator[str]:
    """Yield each way in which a value does not match its shape: members, enumerations, patterns, ranges."""
    kind, says = shape.type_name, shape.metadata
    if kind == "structure":
        yield from (f"{path}.{name} is missing" for name in shape.required_members if name not in value)
        for name, item in value.items():
            if name in shape.members:
                yield from misfits(shape.members[name], item, f"{path}.{name}")
            else:
                yield f"{path}.{name} is unknown"
    elif kind == "list":
        for item in value:
            yield from misfits(shape.member, item, f"{path}[]")
    elif kind == "map":
        for key, item in value.items():
            yield from misfits(shape.key, key, f"{path} key")
            yield from misfits(shape.value, item, f"{path}.{key}")
    elif kind == "string" and not _is_spelt(shape, value):
        yield f"{path} is {value!r}"
    if kind in ("string", "list", "map", "integer", "long"):
        size = value if kind in ("integer", "long") else len(value)
        if not says.get("min", size) <= size <= says.get("max", size):
            yield f"{path} is out of range: {size}"


def _is_spelt(shape: Any, text: str) -> bool:
    """Return whether a text matches its shape's enumeration and pattern."""
    values, pattern = shape.metadata.get("enum"), shape.metadata.get("pattern")
    if values and text not in values:
        return (shape.name, text) in ANSWERED_TOO
    # Python's re lacks Java's character properties, which patterns of tags use
    return not pattern or r"\p{" in pattern or re.fullmatch(pattern, text) is not None
