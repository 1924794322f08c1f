"""Reads and writes the JSON of messages. Anyone may have written the bytes that are read."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from typing import Any

from pywren.exceptions import DecodeError


def load_object(data: bytes | str, what: str) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        data: the JSON.
        what: what it should be, for the error message, such as ``the payload``.

    Raises:
        DecodeError: the data is not JSON, or not an object.
    """
    value = load_json(data, what)
    if not isinstance(value, dict):
        raise DecodeError(f"{what} is a JSON {type(value).__name__}, not an object")
    return value


def load_json(data: bytes | str, what: str) -> Any:
    """Parse JSON of any kind.

    Args:
        data: the JSON.
        what: what it should be, for the error message.

    Raises:
        DecodeError: the data is not JSON.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # deeply nested JSON exhausts the parser's stack
        raise DecodeError(f"{what} is not valid JSON: {error}") from error


def split_header(data: bytes, what: str) -> tuple[Reader, int]:
    """Read the line of JSON that precedes binary data.

    Args:
        data: the line and the binary data.
        what: what it should be, for error messages.

    Returns:
        A reader of the line, and the offset at which the binary data starts.

    Raises:
        DecodeError: the data does not begin with such a line.
    """
    start = data.find(b"\n") + 1
    if not start:
        raise DecodeError(f"{what} has no header line")
    return Reader(what, load_object(data[:start], f"{what}'s header")), start


def number(value: Any) -> float | None:
    """Return a value if it is a finite number, otherwise ``None``."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


class Reader:
    """Takes typed fields out of a JSON object. A field of the wrong type raises a ``DecodeError`` that names it.

    Args:
        what: what the object should be, for error messages.
        document: the object.

    ``rest`` contains the fields that have not been taken yet. JSON's ``null`` counts as a missing field.
    """

    def __init__(self, what: str, document: Mapping[str, Any]) -> None:
        self.what = what
        self.rest = dict(document)

    def take(self, name: str, kind: type[Any] | tuple[type[Any], ...], default: Any = ...) -> Any:
        """Take a field that must have a certain type. Without a default the field is required."""
        value = self.rest.pop(name, None)
        if value is None:
            if default is ...:
                raise DecodeError(f"{self.what} has no {name!r}")
            return default
        # isinstance() accepts a bool as an int, but JSON's true is not a number.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise DecodeError(f"{self.what}: {name!r} is a {type(value).__name__}")
        return value

    def take_number(self, name: str, default: Any = ...) -> float:
        """Take a field that must be a finite number. Python's JSON also accepts NaN, infinities and huge integers."""
        value: float = self.take(name, (int, float), default)
        try:
            finite = math.isfinite(value)
        except OverflowError:
            finite = False
        if not finite:
            raise DecodeError(f"{self.what}: {name!r} is not a finite number")
        return value

    def take_attempt(self, least: int = 1) -> int:
        """Take the field with the number of the attempt; 1 if it is missing."""
        attempt: int = self.take("attempt", int, 1)
        if attempt < least:
            raise DecodeError(f"{self.what}: 'attempt' is {attempt}, but attempts count from 1")
        return attempt

    def take_size(self, name: str) -> int | None:
        """Take a field that contains a number of bytes; ``None`` if it is missing."""
        size: int | None = self.take(name, int, None)
        if size is not None and size < 0:
            raise DecodeError(f"{self.what}: {name!r} is {size}")
        return size

    def take_bytes(self, name: str) -> bytes | None:
        """Take a field that contains bytes in base64, and decode them; ``None`` if it is missing."""
        text = self.take(name, str, None)
        return None if text is None else _from_base64(text, f"{self.what}: {name!r}")

    def take_hex(self, name: str) -> bytes | None:
        """Take a field that contains bytes in hexadecimal digits, and decode them; ``None`` if it is missing."""
        text = self.take(name, str, None)
        try:
            return None if text is None else bytes.fromhex(text)
        except ValueError as error:
            raise DecodeError(f"{self.what}: {name!r} is not hexadecimal") from error

    def take_range(self, name: str) -> tuple[int, int] | None:
        """Take a field that contains the first and the last offset of a range of bytes; ``None`` if it is missing."""
        value = self.take(name, (list, tuple), None)
        if value is None:
            return None
        if len(value) != 2 or not all(type(end) is int for end in value) or not 0 <= value[0] <= value[1]:
            raise DecodeError(f"{self.what}: {name!r} is not a pair of offsets")
        return value[0], value[1]


def _from_base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise DecodeError(f"{what} is not base64") from error


def to_base64(data: bytes) -> str:
    """Return bytes in base64, which JSON can encode."""
    return base64.b64encode(data).decode("ascii")


def dump(document: Mapping[str, Any]) -> bytes:
    """Encode an object as compact JSON."""
    return json.dumps(document, separators=(",", ":")).encode()
