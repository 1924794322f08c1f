"""``encode_payload``: a payload as the bytes that a service accepts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pywren.exceptions import ArgumentError


def encode_payload(payload: Mapping[str, Any], limit: int, what: str) -> bytes:
    """Return a payload as compact JSON.

    Args:
        payload: ``Call.encode()``.
        limit: the number of bytes that the service allows.
        what: the service, for the error message.

    Raises:
        ArgumentError: the payload is larger than ``limit``, or cannot be encoded as JSON.
    """
    try:
        body = json.dumps(payload, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"the payload cannot be encoded as JSON: {error}; check extra_meta and extra_env"
        ) from error
    # Lambda and SQS limit the encoded bytes: JSON spells each character beyond ASCII with 6 or 12 of them.
    if len(body) > limit:
        raise ArgumentError(
            f"the payload has {len(body):,} bytes, but {what} accepts at most {limit:,}: "
            "move data from extra_env and extra_meta to the arguments"
        )
    return body
