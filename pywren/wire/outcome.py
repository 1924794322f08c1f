"""``Outcome``: what a call's function returned or raised."""

from __future__ import annotations

from dataclasses import dataclass, field

from pywren.system.large_copies import copied
from pywren.wire.reading import dump, split_header

INLINE_OUTCOME_LIMIT = 256 * 1024
"""The largest encoded outcome, in bytes, that is sent inside ``status.json``."""

EAGER_OUTPUT_LIMIT = 1024 * 1024
"""The largest separate output, in bytes, that the client fetches before anything asks for it."""

_SUCCESS_LINE = b'{"success":true}\n'  # decoding the most frequent line this way needs no JSON parser


@dataclass(frozen=True)
class Outcome:
    """What the child reports about a call: the value that the function returned or the exception that it raised.

    Args:
        success: whether the function returned.
        body: the pickled value or exception; unpickle it only after it has been verified.
        exception: the name of the exception's type, for humans.
        exception_args: the exception's text.
        exception_traceback: the formatted remote traceback.
    """

    success: bool
    body: bytes = field(repr=False)
    exception: str | None = None
    exception_args: str | None = None
    exception_traceback: str | None = None

    def encode(self) -> bytes:
        """Return the outcome as bytes: a line of JSON, then the body."""
        if self.success:
            return _SUCCESS_LINE + self.body
        head = {
            "success": False,
            "exception": self.exception,
            "exception_args": self.exception_args,
            "exception_traceback": self.exception_traceback,
        }
        return dump(head) + b"\n" + self.body

    @classmethod
    def decode(cls, data: bytes) -> Outcome:
        """Read an outcome without unpickling its body.

        Raises:
            DecodeError: the bytes are not an outcome.
        """
        if data.startswith(_SUCCESS_LINE):
            return cls(True, copied(data, len(_SUCCESS_LINE)))
        reader, start = split_header(data, "the outcome")
        return cls(
            success=reader.take("success", bool),
            body=data[start:],
            exception=reader.take("exception", str, None),
            exception_args=reader.take("exception_args", str, None),
            exception_traceback=reader.take("exception_traceback", str, None),
        )
