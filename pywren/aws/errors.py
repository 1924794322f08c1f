"""Errors from AWS and botocore: tells what they mean, and turns them into pywren's own errors (``Boundary``).

Errors are recognized by name, so that this module does not import botocore, which calls on this machine do not need.
The meanings are in ``error_table``; a test fails when botocore adds an exception class that the table lacks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pywren.aws.error_table import (
    BROKEN_TRANSFER,
    BUSY,
    BUSY_CODES,
    BUSY_STATUSES,
    BY_CLASS,
    BY_CODE,
    CA_BUNDLE,
    CERTIFICATE,
    CREDENTIAL_CODES,
    CREDENTIAL_SOURCE,
    DENIALS,
    EXPIRED,
    KMS,
    LOGIN,
    NETWORK,
    NO_CONDITIONS,
    NO_CREDENTIALS,
    NO_TLS,
    PROFILE,
    REFUSED,
    SSO,
    Meaning,
)
from pywren.exceptions import ConfigError, InvocationError, PywrenError, StorageError, StorageSetupError

# -- what an error is ----------------------------------------------------------------------------------------


class SetUpError(Exception):
    """A credential source or a setting on this machine prevents requests from being sent.

    This error replaces exceptions of other modules that botocore does not catch while it reads the user's files or runs
    the user's programs.

    Args:
        what: a sentence that names the source and the remedy; it may contain the placeholders of ``Meaning``.
        said: the text of the original error, on one line and without secrets.
    """

    def __init__(self, what: str, said: str) -> None:
        super().__init__(what, said)
        self.what = what
        self.said = said


def is_aws_error(error: BaseException) -> bool:
    """Tell whether an exception comes from botocore, or is a ``SetUpError``."""
    return isinstance(error, SetUpError) or _is_stale(error) or any(_is_botocore(cls) for cls in type(error).__mro__)


def _is_botocore(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "botocore"


def _is_stale(error: BaseException) -> bool:
    # botocore raises a plain RuntimeError if a source returns credentials that have already expired
    return type(error) is RuntimeError and "refreshed credentials are still expired" in str(error)


def response(error: BaseException) -> Mapping[str, Any]:
    """Return the service's response to the failed request; empty if there was no response."""
    answer = getattr(error, "response", None)
    return answer if is_aws_error(error) and isinstance(answer, dict) else {}


def error_code(error: BaseException) -> str:
    """Return the error code from the service, such as ``NoSuchKey``; empty if the service did not answer."""
    return str(response(error).get("Error", {}).get("Code", ""))


def service_code(error: PywrenError) -> str:
    """Return the service's error code that caused a ``PywrenError``; empty if no service answered."""
    return "" if error.__cause__ is None else error_code(error.__cause__)


def request_id(error: BaseException) -> str:
    """Return the id that the service gave the failed request; empty if the service did not answer."""
    return str(_metadata(error).get("RequestId", ""))


def was_repeated(error: BaseException) -> bool:
    """Tell whether botocore sent the request more than once. If so, an earlier try may have succeeded unnoticed."""
    return int(_metadata(error).get("RetryAttempts", 0)) > 0


def _metadata(error: BaseException) -> Mapping[str, Any]:
    metadata = response(error).get("ResponseMetadata", {})
    return metadata if isinstance(metadata, dict) else {}


def is_throttling(error: BaseException) -> bool:
    """Tell whether the service was overloaded or failing, so that the same request may succeed later."""
    code, status = error_code(error), _metadata(error).get("HTTPStatusCode", 0)
    # Lambda also answers 502 for permanent errors, such as a broken function or a KMS key that denies access.
    known_refusal = code in BY_CODE or code.startswith("KMS")
    return code in BUSY_CODES or (status in BUSY_STATUSES and not known_refusal)


def is_network_error(error: BaseException) -> bool:
    """Tell whether the response was lost on the way."""
    return not response(error) and meaning(error) in (NETWORK, BROKEN_TRANSFER)


def is_certificate_error(error: BaseException) -> bool:
    """Tell whether TLS failed in a way that no retry can fix, such as an untrusted certificate."""
    return _meaning_of_tls(error) not in (None, NETWORK)


def concerns_credentials(error: BaseException) -> bool:
    """Tell whether a request that failed with this error may succeed with newer credentials from the same source."""
    code = error_code(error)
    if code:
        return code in CREDENTIAL_CODES
    source_failed = (NO_CREDENTIALS, CREDENTIAL_SOURCE, EXPIRED, SSO, LOGIN)
    return is_aws_error(error) and not response(error) and meaning(error) in source_failed


def was_denied(error: PywrenError) -> bool:
    """Tell whether a ``PywrenError`` means that the credentials lack a permission."""
    return error_code(error.__cause__ or error) in DENIALS


# -- what it means -------------------------------------------------------------------------------------------


def meaning(error: BaseException) -> Meaning:
    """Return what a botocore error means."""
    if isinstance(error, SetUpError):
        return Meaning(error.what, setup=True)
    if _is_stale(error):
        return EXPIRED
    code = error_code(error)
    text = str(response(error).get("Error", {}).get("Message", ""))
    if code.startswith("KMS") or (code in ("AccessDenied", "AccessDeniedException") and "kms:" in text):
        return KMS
    if is_throttling(error):
        return BUSY
    if code == "NotImplemented" and getattr(error, "operation_name", "") == "PutObject":
        return NO_CONDITIONS
    return BY_CODE.get(code) or _meaning_of_tls(error) or meaning_of_class(type(error)) or REFUSED


def _meaning_of_tls(error: BaseException) -> Meaning | None:
    """Return what a TLS error means, judging by the cause: botocore wraps all errors of ``ssl`` in one class."""
    if "SSLError" not in {cls.__name__ for cls in type(error).__mro__ if _is_botocore(cls)}:
        return None
    inner = getattr(error, "kwargs", {}).get("error")
    while isinstance(inner, BaseException) and inner.args and isinstance(inner.args[0], BaseException):
        inner = inner.args[0]  # botocore's error wraps an error of urllib3, which wraps one of ssl
    if isinstance(inner, ValueError):  # SSLCertVerificationError, or urllib3's error for a name that does not match
        return CERTIFICATE
    if isinstance(inner, _NO_FILE) or getattr(inner, "library", None) in ("X509", "PEM"):
        return CA_BUNDLE
    return NO_TLS if getattr(inner, "reason", None) in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST") else NETWORK


_NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


def remedy_of_source(error: BaseException, otherwise: str) -> str | None:
    """Return what to do about an error of a credential source.

    Args:
        error: what the source raised.
        otherwise: the general remedy for this source, for errors without a remedy of their own.

    Returns:
        The remedy; ``None`` if the cause is not the source but the network, a busy service, the profile or its files.
    """
    if not is_aws_error(error):
        return otherwise
    what = meaning(error)
    if isinstance(error, SetUpError) or what in (BUSY, NETWORK, PROFILE) or is_certificate_error(error):
        return None
    return {SSO: "run `{login}`", LOGIN: "run `{aws_login}`"}.get(what, otherwise)


def meaning_of_class(kind: type[BaseException]) -> Meaning | None:
    """Return what an exception class of botocore means: its entry in the table, or that of its nearest base class."""
    for cls in kind.__mro__:
        if _is_botocore(cls) and cls.__name__ in BY_CLASS:
            return BY_CLASS[cls.__name__]
    return None


# -- the boundary --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Boundary:
    """A context manager around requests that turns botocore's errors into pywren's own.

    Args:
        doing: completes "cannot …" in messages, such as ``read s3://bucket/key``.
        refused: the class of the error to raise if the service refuses the request.
        permission: the IAM permission that the request needs, and the resource that it applies to.
        missing: what to do if the resource does not exist.
        profile: the AWS profile in use.
        special: takes the error and may return a more specific error of pywren.
    """

    doing: str
    refused: type[PywrenError]
    permission: str = "the permission for this request"
    missing: str = "check its name in the configuration"
    profile: str | None = None
    special: Callable[[BaseException], PywrenError | None] = lambda error: None

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and is_aws_error(error):
            raise self.special(error) or self.translate(error) from error

    def translate(self, error: BaseException) -> PywrenError:
        """Return the error of pywren that replaces an error of botocore."""
        what = meaning(error)
        message = f"cannot {self.doing}: {what.text.format(**self._words(error))} ({_said(error)})"
        if issubclass(self.refused, StorageError):
            return StorageSetupError(message) if what.setup else self.refused(message)
        if what.setup:
            return ConfigError(message)
        if issubclass(self.refused, InvocationError):
            return self.refused(message, code=error_code(error), request_id=request_id(error))
        return self.refused(message)

    def _words(self, error: BaseException) -> dict[str, str]:
        profile = self.profile or os.environ.get("AWS_PROFILE")
        suffix = f" --profile {profile}" if profile else ""
        return {
            "permission": self.permission,
            "missing": self.missing,
            "login": "aws sso login" + suffix,
            "aws_login": "aws login" + suffix,
            "aws": "aws" + suffix,
            "region": _region(error),
        }


def _region(error: BaseException) -> str:
    found = _metadata(error).get("HTTPHeaders", {}).get("x-amz-bucket-region") or response(error).get("Error", {}).get(
        "Region"
    )
    return f", {found}" if found else ""


def _said(error: BaseException) -> str:
    answer = response(error)
    if isinstance(error, SetUpError):
        return error.said
    if not answer:
        return one_line(f"{type(error).__name__}: {error}")
    message = str(answer.get("Error", {}).get("Message", ""))
    # EC2 appends hundreds of letters that only `aws sts decode-authorization-message` can read.
    message = message.partition(" Encoded authorization failure message")[0]
    said = f"AWS said {error_code(error) or '?'}: {message}"
    return f"{said}; request {request_id(error)}" if request_id(error) else said


def one_line(text: str) -> str:
    """Return the beginning of a text without line breaks."""
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST_SAID else words[:_LONGEST_SAID] + " …"


_LONGEST_SAID = 400
