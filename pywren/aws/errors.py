"""Errors of AWS and botocore: what they are, what they mean, and the boundary that turns them into pywren's own.

Errors are recognized by name, so that nothing here imports botocore: the local path never loads it. Their meanings are
in ``error_table``; a test fails when botocore adds a class that the table lacks.
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
    """Something on this machine prevents requests from being sent: a credential source, or a setting.

    It replaces foreign exceptions that escape from botocore while it reads the user's files or runs programs.

    Args:
        what: a sentence with the source and the remedy, as in ``Meaning``.
        said: the original error's text, on one line and without secrets.
    """

    def __init__(self, what: str, said: str) -> None:
        super().__init__(what, said)
        self.what = what
        self.said = said


def is_aws_error(error: BaseException) -> bool:
    """Tell whether an exception comes from botocore, or replaces one that escaped from it."""
    return isinstance(error, SetUpError) or _is_stale(error) or any(_is_botocore(cls) for cls in type(error).__mro__)


def _is_botocore(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "botocore"


def _is_stale(error: BaseException) -> bool:
    # botocore raises a plain RuntimeError when a source returns credentials that have already expired
    return type(error) is RuntimeError and "refreshed credentials are still expired" in str(error)


def response(error: BaseException) -> Mapping[str, Any]:
    """Return the service's response; empty when there is none."""
    answer = getattr(error, "response", None)
    return answer if is_aws_error(error) and isinstance(answer, dict) else {}


def error_code(error: BaseException) -> str:
    """Return the service's error code, such as ``NoSuchKey``; empty when the service did not answer."""
    return str(response(error).get("Error", {}).get("Code", ""))


def service_code(error: PywrenError) -> str:
    """Return the service's code behind one of our errors; empty when no service answered."""
    return "" if error.__cause__ is None else error_code(error.__cause__)


def request_id(error: BaseException) -> str:
    """Return the service's id for the failed request; empty when the service did not answer."""
    return str(_metadata(error).get("RequestId", ""))


def was_repeated(error: BaseException) -> bool:
    """Tell whether botocore retried the request: an earlier try may have succeeded although its answer was lost."""
    return int(_metadata(error).get("RetryAttempts", 0)) > 0


def _metadata(error: BaseException) -> Mapping[str, Any]:
    metadata = response(error).get("ResponseMetadata", {})
    return metadata if isinstance(metadata, dict) else {}


def is_throttling(error: BaseException) -> bool:
    """Tell whether the service was overloaded or failing, so that the same request may succeed later."""
    code, status = error_code(error), _metadata(error).get("HTTPStatusCode", 0)
    # Lambda also answers 502 for permanent errors: a broken function, a KMS key that denies access
    known_refusal = code in BY_CODE or code.startswith("KMS")
    return code in BUSY_CODES or (status in BUSY_STATUSES and not known_refusal)


def is_network_error(error: BaseException) -> bool:
    """Tell whether the response was lost on the way."""
    return not response(error) and meaning(error) in (NETWORK, BROKEN_TRANSFER)


def is_certificate_error(error: BaseException) -> bool:
    """Tell whether TLS failed in a way that no retry can fix, such as an untrusted certificate."""
    return _meaning_of_tls(error) not in (None, NETWORK)


def concerns_credentials(error: BaseException) -> bool:
    """Tell whether newer credentials from the same source may resolve an error."""
    code = error_code(error)
    if code:
        return code in CREDENTIAL_CODES
    source_failed = (NO_CREDENTIALS, CREDENTIAL_SOURCE, EXPIRED, SSO, LOGIN)
    return is_aws_error(error) and not response(error) and meaning(error) in source_failed


def was_denied(error: PywrenError) -> bool:
    """Tell whether one of pywren's errors means that these credentials lack the permission."""
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
    """Return what a TLS error means: botocore wraps all of ``ssl``'s errors in one class."""
    if "SSLError" not in {cls.__name__ for cls in type(error).__mro__ if _is_botocore(cls)}:
        return None
    inner = getattr(error, "kwargs", {}).get("error")
    while isinstance(inner, BaseException) and inner.args and isinstance(inner.args[0], BaseException):
        inner = inner.args[0]  # botocore's error wraps urllib3's, which wraps ssl's
    if isinstance(inner, ValueError):  # ssl.SSLCertVerificationError, and urllib3's for a name that does not match
        return CERTIFICATE
    if isinstance(inner, _NO_FILE) or getattr(inner, "library", None) in ("X509", "PEM"):
        return CA_BUNDLE
    return NO_TLS if getattr(inner, "reason", None) in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST") else NETWORK


_NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


def remedy_of_source(error: BaseException, otherwise: str) -> str | None:
    """Return what to do about an error of a credential source.

    Args:
        error: what the source raised.
        otherwise: the source's general remedy, for errors without their own.

    Returns:
        ``None`` when the fault lies not with the source but with the network, a busy service, the profile or its files.
    """
    if not is_aws_error(error):
        return otherwise
    what = meaning(error)
    if isinstance(error, SetUpError) or what in (BUSY, NETWORK, PROFILE) or is_certificate_error(error):
        return None
    return {SSO: "run `{login}`", LOGIN: "run `{aws_login}`"}.get(what, otherwise)


def meaning_of_class(kind: type[BaseException]) -> Meaning | None:
    """Return what a botocore exception class means: its own entry in the table, or that of its nearest base."""
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
        refused: the class to raise when the service refuses.
        permission: the IAM permission that the request needs, and the resource it applies to.
        missing: what to do when the resource does not exist.
        profile: the AWS profile in use.
        special: may return a more specific error.
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
        """Return pywren's error for one of botocore's."""
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
    """Return the beginning of a text, on one line."""
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST_SAID else words[:_LONGEST_SAID] + " …"


_LONGEST_SAID = 400
