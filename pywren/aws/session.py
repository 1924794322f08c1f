"""Makes botocore's sessions and clients. Besides ``aws.lean`` this is the only module that imports botocore.

Credential sources are programs and files of the user: a program may print something other than JSON, a cache may be
truncated, a key may have been pasted with a newline. botocore does not catch the exceptions of ``json``, ``int`` or
``subprocess`` that this causes. This module wraps each source and turns its errors into ``SetUpError``, which names the
source and the remedy but never shows what the source returned.

Threads: a source that may hang is read in a daemon thread ``pywren-credentials``, and the caller waits for a limited
time. The thread cannot be stopped; ``_Patience`` limits how many of these threads may hang at the same time.
"""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from pywren.aws.credentials import remember_session
from pywren.aws.errors import SetUpError, is_aws_error, is_certificate_error, is_throttling, one_line, remedy_of_source
from pywren.aws.sending import CLIENT_OPTIONS

Value = TypeVar("Value")

SOURCE_SECONDS = 60.0
"""Seconds that a credential source may take. A program may be waiting for a password that nobody types."""


def make_session(profile: str | None = None, *, source_seconds: float = SOURCE_SECONDS) -> Any:
    """Return a botocore session whose credential sources raise ``SetUpError`` if something is wrong with them.

    Args:
        profile: a profile of ``~/.aws/config``; by default ``AWS_PROFILE`` or the default profile.
        source_seconds: how many seconds a source may take.
    """
    import botocore.session

    session = botocore.session.Session(profile=profile)
    with _setting_errors():
        resolver = session.get_component("credential_provider")
        files = {name: str(session.get_config_variable(name)) for name in ("config_file", "credentials_file")}
    session.register_component("response_parser_factory", _Parsers(session.get_component("response_parser_factory")))
    place = (str(session.profile), *files.values())
    resolver.providers[:] = [
        _Provider(each, files, _Patience(source_seconds, (each.METHOD, *place))) for each in resolver.providers
    ]
    return session


def make_client(session: Any, service: str, region: str | None) -> Any:
    """Return a client for a service. Threads may share the client.

    Args:
        session: a botocore session.
        service: botocore's name of the service.
        region: by default the region of the profile or environment.
    """
    import botocore.config

    with _setting_errors(service):
        client = session.create_client(service, region_name=region, config=botocore.config.Config(**CLIENT_OPTIONS))
    events = client.meta.events
    # This handler must be first: botocore's own would retry three times, seconds apart, if a certificate is untrusted.
    events.register_first("needs-retry.*", _give_up_on_certificates)
    # This handler must be last: botocore logs the request as it is after all handlers.
    events.register_last("before-call.*", _hush_request)
    if service == "lambda":
        events.register_first("needs-retry.lambda.Invoke", _let_the_caller_pace)
    if service == "s3":
        events.register_first("before-sign.s3.*", _use_content_md5)
    remember_session(client, session)
    return client


def make_resource(session: Any, service: str, region: str | None) -> Any:
    """Return boto3's resource for a service, for programs written for 0.4. Threads must not share the resource.

    Args:
        session: a botocore session.
        service: boto3's name of the service.
        region: by default the region of the profile or environment.
    """
    import boto3

    with _setting_errors(service):
        return boto3.session.Session(region_name=region, botocore_session=session).resource(service)


@contextlib.contextmanager
def _setting_errors(service: str = "") -> Iterator[None]:
    """Turn exceptions that wrong settings cause, such as those of ``int`` and ``json``, into ``SetUpError``."""
    try:
        yield
    except Exception as error:
        if is_aws_error(error):
            raise
        variables = "AWS_ENDPOINT_URL" + (f" and AWS_ENDPOINT_URL_{service.upper()}" if service else "")
        what = variables if "endpoint" in str(error).lower() else "the AWS_… environment variables and ~/.aws/config"
        raise SetUpError(f"an AWS setting is wrong: check {what}", _said(error)) from error


# -- credentials ---------------------------------------------------------------------------------------------


class _Source(NamedTuple):
    """Where credentials come from.

    Args:
        name: completes "the AWS credentials from …".
        remedy: what to do if the source fails; may contain ``{login}`` and the other placeholders of ``Meaning``.
    """

    name: str
    remedy: str


_CONFIG = "{config_file}"
_BY_HAND = "run its command in a shell; it must print JSON with Version 1, AccessKeyId, SecretAccessKey, and keys "
_SOURCES = {
    "env": _Source(
        "the environment variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN",
        "set them again, or unset them to use a profile",
    ),
    "custom-process": _Source(f"credential_process in {_CONFIG}", f"{_BY_HAND}that have not expired"),
    "shared-credentials-file": _Source("the file {credentials_file}", "write them again with `aws configure`"),
    "config-file": _Source(f"the file {_CONFIG}", "write them again with `aws configure`"),
    "sso": _Source(f"single sign-on (sso_… in {_CONFIG})", "run `{{login}}`"),
    "login": _Source(f"`aws login` (login_session in {_CONFIG})", "run `{{aws_login}}`"),
    "assume-role": _Source(
        f"the role to assume (role_arn in {_CONFIG})",
        "check the profile's role_arn, source_profile and credential_source, and whether the role trusts you",
    ),
    "assume-role-with-web-identity": _Source(
        "the web identity (AWS_WEB_IDENTITY_TOKEN_FILE)",
        "check the token's file and AWS_ROLE_ARN, and whether the role trusts the token's issuer",
    ),
    "container-role": _Source(
        "the role of this container (AWS_CONTAINER_CREDENTIALS_…)", "check these variables and the role of the task"
    ),
    "iam-role": _Source("the role of this machine (instance metadata)", "check the role of its instance profile"),
}


class _Provider:
    """Wraps one of the credential sources that a session tries in turn.

    Args:
        provider: botocore's provider, which reads the source.
        files: the paths of AWS's files, by botocore's names of the settings.
        patience: waits for the source.
    """

    def __init__(self, provider: Any, files: dict[str, str], patience: _Patience) -> None:
        self.METHOD = provider.METHOD
        self.CANONICAL_NAME = getattr(provider, "CANONICAL_NAME", None)
        self._provider = provider
        self._patience = patience
        name, remedy = _SOURCES.get(
            self.METHOD, _Source(str(self.METHOD), "check the profile and the AWS_… environment variables")
        )
        known = {setting: path.replace("{", "{{").replace("}", "}}") for setting, path in files.items()}
        self._source = _Source(name.format(**known), remedy.format(**known))

    def load(self) -> _Credentials | None:
        """Return the credentials from the source, or ``None`` if it has none."""
        with _source_errors(self._source):
            found = self._patience.wait_for(self._provider.load)
        return None if found is None else _Credentials(found, self._source, self._patience)


class _Credentials:
    """Wraps botocore's credentials, which may refresh themselves from their source.

    Args:
        credentials: botocore's credentials.
        source: where the credentials come from.
        patience: waits while the credentials refresh themselves.
    """

    def __init__(self, credentials: Any, source: _Source, patience: _Patience) -> None:
        self._credentials = credentials
        self._source = source
        self._patience = patience
        self._needs_renewal: Any = getattr(credentials, "refresh_needed", None)
        self._checked: Any = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        with _source_errors(self._source):
            return getattr(self._credentials, name)

    def get_frozen_credentials(self) -> Any:
        """Return an access key, secret key and token that belong together. botocore calls this for every request."""
        if self._needs_renewal is None:  # fixed keys need no wait, and this code runs for every request
            frozen = self._credentials.get_frozen_credentials()
        else:
            with _source_errors(self._source):
                frozen = self._renewed()
        if frozen != self._checked:
            _check_keys(frozen, self._source)
            self._checked = frozen
        return frozen

    def _renewed(self) -> Any:
        if self._needs_renewal():
            return self._patience.wait_for(self._credentials.get_frozen_credentials)
        return self._credentials.get_frozen_credentials()


@contextlib.contextmanager
def _source_errors(source: _Source) -> Iterator[None]:
    """Turn errors of a source into ``SetUpError``, except errors of the network or in the choice of the profile."""
    try:
        yield
    except Exception as error:
        remedy = remedy_of_source(error, source.remedy)
        if remedy is None:
            raise
        # Raise "from None": the text of any error in the chain of causes may show what the source returned.
        raise SetUpError(f"the AWS credentials from {source.name} cannot be used: {remedy}", _said(error)) from None


class _Patience:
    """Waits for a credential source that may never answer. Such a source is asked again only after growing pauses.

    All sessions that need renewed credentials ask the same source. Each question without an answer keeps a thread, and
    perhaps a user's program, running. The pause doubles with each such question. So few questions hang at a time, but
    pywren notices when the source works again.

    Args:
        seconds: how long to wait for an answer.
        source: identifies the source within this process.
    """

    def __init__(self, seconds: float, source: tuple[str, ...]) -> None:
        self._seconds = seconds
        self._hanging = _hanging.setdefault(source, [])

    def wait_for(self, read: Callable[[], Value]) -> Value:
        """Call a function in a daemon thread and return its result, or raise an error if it takes too long."""
        # No lock: several threads may each ask once, and each thread replaces the list's content in one step.
        still = [each for each in self._hanging if not each.answer.done()]
        began = time.monotonic()
        if not still or began >= max(each.began for each in still) + self._seconds * 2 ** len(still):
            answer = _in_a_thread(read)
            if not concurrent.futures.wait([answer], timeout=self._seconds).not_done:
                return answer.result()
            still.append(_Hanging(answer, began))
        self._hanging[:] = still
        raise _SourceHangsError(f"it did not answer within {self._seconds:g} seconds")


class _Hanging(NamedTuple):
    """A question to a credential source that was not answered in time.

    Args:
        answer: a future that becomes done if the answer arrives after all.
        began: when the question was asked, in monotonic seconds.
    """

    answer: concurrent.futures.Future[Any]
    began: float


_hanging: dict[tuple[str, ...], list[_Hanging]] = {}


def _forget_hanging() -> None:
    for each in _hanging.values():
        each.clear()  # the hanging threads belong to the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_hanging)


def _in_a_thread(read: Callable[[], Value]) -> concurrent.futures.Future[Value]:
    answer: concurrent.futures.Future[Value] = concurrent.futures.Future()

    def run() -> None:
        try:
            answer.set_result(read())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            answer.set_exception(error)

    try:
        threading.Thread(target=run, name="pywren-credentials", daemon=True).start()
    except RuntimeError:  # the interpreter is shutting down and starts no more threads
        run()
    return answer


class _SourceHangsError(Exception):
    """A credential source took too long to answer."""


_IN_A_HEADER = re.compile(r"[!-~]+")
# Secret keys are only hashed, never sent. A private S3 server may accept spaces in a secret key.
_SECRET = re.compile(r"[!-~]([ -~]*[!-~])?")


def _check_keys(frozen: Any, source: _Source) -> None:
    """Check the characters of keys. No server accepts other characters, and http.client's error would show the key."""
    for name, value, rule in (
        ("access key", frozen.access_key, _IN_A_HEADER),
        ("secret key", frozen.secret_key, _SECRET),
        ("session token", frozen.token, _IN_A_HEADER),
    ):
        if value is None and name == "session token":
            continue
        fault = _fault(value, rule)
        if fault:
            what = f"the {name} {fault}: {source.remedy}"
            raise SetUpError(f"the AWS credentials from {source.name} cannot be used: {what}", "its value is not shown")


def _fault(value: object, rule: re.Pattern[str]) -> str:
    """Return what is wrong with a key, without showing the key; empty if nothing is wrong."""
    if not isinstance(value, str):
        return "is not text"
    if not value.strip():
        return "is empty"
    if value[0] in "'\"" and value[-1] == value[0] and len(value) > 1:
        return "has quotation marks around it"
    if not value.isascii():
        return "contains a non-ASCII character"
    if rule.fullmatch(value):
        return ""
    return "contains a line break" if "\n" in value or "\r" in value else "contains a space or a control character"


_LIKE_A_KEY = re.compile(r"[A-Za-z0-9/+=_-]{32,}")


def _said(error: Exception) -> str:
    """Return an error's text on one line, without anything that may be a key, because programs may print keys."""
    return one_line(f"{type(error).__name__}: {_LIKE_A_KEY.sub('…', str(error))}".removeprefix("_SourceHangsError: "))


# -- what is sent, and what the logs show of it --------------------------------------------------------------


def _give_up_on_certificates(caught_exception: BaseException | None = None, **_: object) -> None:
    """Raise certificate errors immediately. No retry fixes them, but botocore's own handlers would retry."""
    if caught_exception is not None and is_certificate_error(caught_exception):
        raise caught_exception


def _let_the_caller_pace(response: Any = None, request_dict: Any = None, **_: object) -> None:
    """Raise the refusal of a busy service immediately if a call was to be started.

    botocore's own handlers would pause and try again, on every thread. Whoever invokes calls knows how many others are
    refused at the same time, and paces all of them.
    """
    import botocore.exceptions

    headers = (request_dict or {}).get("headers", {})
    if response is None or headers.get("X-Amz-Invocation-Type") != "Event":
        return
    error = botocore.exceptions.ClientError(response[1], "Invoke")
    if response[0].status_code >= 300 and is_throttling(error):
        raise error


def _use_content_md5(request: Any, **_: object) -> None:
    """Replace botocore's newer checksums with Content-MD5, which every S3 server accepts.

    AWS accepts any checksum. MinIO before 2025, PowerScale, Google and others support only Content-MD5, and some refuse
    unknown headers ("Checking object integrity in Amazon S3", Amazon S3 User Guide, 2026). Only requests that require a
    checksum have one: DeleteObjects and requests that change bucket settings.
    """
    newer = [name for name in request.headers if name.lower().startswith("x-amz-checksum-")]
    body = request.body
    if newer and isinstance(body, (bytes, bytearray)):
        for name in (*newer, "x-amz-sdk-checksum-algorithm"):
            del request.headers[name]  # deleting a header that does not exist is not an error
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        request.headers["Content-MD5"] = base64.b64encode(digest).decode("ascii")


class _Hushed(bytes):
    """The body of a message. Its ``repr`` hides the content, because payloads contain keys that sign results."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"

    __str__ = __repr__


_LOGGERS = [logging.getLogger(name) for name in ("botocore.endpoint", "botocore.parsers")]
"""The botocore loggers that show the bodies of requests and answers at debug level."""


def _hush(message: dict[str, Any]) -> None:
    """Make logs show the length of a body instead of the body. Copy the body only if a logger is at debug level."""
    body = message.get("body")
    if isinstance(body, (bytes, bytearray, str)) and any(each.isEnabledFor(logging.DEBUG) for each in _LOGGERS):
        message["body"] = _Hushed(body.encode() if isinstance(body, str) else body)


def _hush_request(params: dict[str, Any], **_: object) -> None:
    _hush(params)


class _Parsers:
    """Wraps the parser factory of a session, so that its parsers do not log the bodies that they parse.

    Args:
        factory: botocore's parser factory.
    """

    def __init__(self, factory: Any) -> None:
        self._factory = factory

    def set_parser_defaults(self, **defaults: Any) -> None:
        """Pass default settings for new parsers on to botocore's factory."""
        self._factory.set_parser_defaults(**defaults)

    def create_parser(self, protocol_name: str) -> _Parser:
        """Return a wrapped parser for answers in one of AWS's protocols, such as ``json`` or ``rest-xml``."""
        return _Parser(self._factory.create_parser(protocol_name))


class _Parser:
    """Wraps one of botocore's parsers, so that logs do not show the bodies of answers."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser

    def parse(self, response: dict[str, Any], shape: Any) -> Any:
        """Parse an answer and return it as a dict."""
        _hush(response)
        return self._parser.parse(response, shape)
