"""Sessions and clients of botocore: the one place that imports it.

A source of credentials is foreign code and foreign files: a program prints no JSON, a cache is cut off, a key was
pasted with its line's end. botocore lets through whatever ``json``, ``int`` or ``subprocess`` raise then. Here each
source is watched, so that its trouble leaves as ``SetUpError``, which names the source and the remedy, and never
shows what the source gave.
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
from pywren.aws.errors import SetUpError, is_aws_error, is_certificate_error, one_line, remedy_of_source
from pywren.aws.sending import CLIENT_OPTIONS

Value = TypeVar("Value")

SOURCE_SECONDS = 60.0
"""Seconds that a source of credentials may take: a program that waits for a password that nobody types never ends."""


def make_session(profile: str | None = None, *, source_seconds: float = SOURCE_SECONDS) -> Any:
    """Return a botocore session whose sources of credentials say what is wrong with them.

    Args:
        profile: the profile of ``~/.aws/config``; ``None`` takes ``AWS_PROFILE`` or the default.
        source_seconds: how long a source may take.
    """
    import botocore.session

    session = botocore.session.Session(profile=profile)
    with _told_as_settings():
        resolver = session.get_component("credential_provider")
        files = {name: str(session.get_config_variable(name)) for name in ("config_file", "credentials_file")}
    session.register_component("response_parser_factory", _Parsers(session.get_component("response_parser_factory")))
    place = (str(session.profile), *files.values())
    resolver.providers[:] = [
        _Provider(each, files, _Patience(source_seconds, (each.METHOD, *place))) for each in resolver.providers
    ]
    return session


def make_client(session: Any, service: str, region: str | None) -> Any:
    """Return a client of a service, which threads may share.

    Args:
        session: a botocore session.
        service: botocore's name of the service.
        region: ``None`` takes that of the profile or environment.
    """
    import botocore.config

    with _told_as_settings(service):
        client = session.create_client(service, region_name=region, config=botocore.config.Config(**CLIENT_OPTIONS))
    events = client.meta.events
    # First: botocore's own handler would try a certificate that nobody trusts three times, seconds apart.
    events.register_first("needs-retry.*", _give_up_on_certificates)
    # Last: what the others have made of the request is what is logged.
    events.register_last("before-call.*", _hush_request)
    if service == "s3":
        events.register_first("before-sign.s3.*", _use_content_md5)
    remember_session(client, session)
    return client


def make_resource(session: Any, service: str, region: str | None) -> Any:
    """Return boto3's resource of a service, for programs of 0.4; threads must not share it.

    Args:
        session: a botocore session.
        service: boto3's name of the service.
        region: ``None`` takes that of the profile or environment.
    """
    import boto3

    with _told_as_settings(service):
        return boto3.session.Session(region_name=region, botocore_session=session).resource(service)


@contextlib.contextmanager
def _told_as_settings(service: str = "") -> Iterator[None]:
    """Tell what botocore lets through when a setting is not what it expects: it asks ``int``, ``json`` and the like."""
    try:
        yield
    except Exception as error:
        if is_aws_error(error):
            raise
        variables = "AWS_ENDPOINT_URL" + (f" and AWS_ENDPOINT_URL_{service.upper()}" if service else "")
        what = variables if "endpoint" in str(error).lower() else "the AWS_… environment variables and ~/.aws/config"
        raise SetUpError(f"a setting of AWS is wrong: check {what}", _said(error)) from error


# -- credentials ---------------------------------------------------------------------------------------------


class _Source(NamedTuple):
    """Where credentials come from.

    Args:
        name: for "the AWS credentials from …".
        remedy: what to do, in the imperative; may hold ``{login}`` and the like, see ``Meaning``.
    """

    name: str
    remedy: str


_CONFIG = "{config_file}"
_BY_HAND = "run that command in a shell: it has to print JSON with Version 1, AccessKeyId, SecretAccessKey, and keys "
_SOURCES = {
    "env": _Source(
        "the environment variables AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN",
        "set them again, or unset them to use a profile",
    ),
    "custom-process": _Source(f"credential_process of {_CONFIG}", f"{_BY_HAND}that have not expired"),
    "shared-credentials-file": _Source("the file {credentials_file}", "write them again with `aws configure`"),
    "config-file": _Source(f"the file {_CONFIG}", "write them again with `aws configure`"),
    "sso": _Source(f"single sign-on (sso_… of {_CONFIG})", "run `{{login}}`"),
    "login": _Source(f"`aws login` (login_session of {_CONFIG})", "run `{{aws_login}}`"),
    "assume-role": _Source(
        f"the role to assume (role_arn of {_CONFIG})",
        "check role_arn, source_profile and credential_source of the profile, and that the role trusts you",
    ),
    "assume-role-with-web-identity": _Source(
        "the web identity (AWS_WEB_IDENTITY_TOKEN_FILE)",
        "check that file, AWS_ROLE_ARN, and that the role trusts the one who issued the token",
    ),
    "container-role": _Source(
        "the role of this container (AWS_CONTAINER_CREDENTIALS_…)", "check these variables and the role of the task"
    ),
    "iam-role": _Source("the role of this machine (instance metadata)", "check the role of its instance profile"),
}


class _Provider:
    """One source in the chain of a session, watched.

    Args:
        provider: botocore's.
        files: names of the files of AWS, by botocore's name of the setting.
        patience: waits for it.
    """

    def __init__(self, provider: Any, files: dict[str, str], patience: _Patience) -> None:
        self.METHOD = provider.METHOD
        self.CANONICAL_NAME = getattr(provider, "CANONICAL_NAME", None)
        self._provider = provider
        self._patience = patience
        name, remedy = _SOURCES.get(self.METHOD, _Source(str(self.METHOD), "check the profile and the variables AWS_…"))
        known = {setting: path.replace("{", "{{").replace("}", "}}") for setting, path in files.items()}
        self._source = _Source(name.format(**known), remedy.format(**known))

    def load(self) -> _Credentials | None:
        """Return credentials, ``None`` when this source has none."""
        with _told_as(self._source):
            found = self._patience.wait_for(self._provider.load)
        return None if found is None else _Credentials(found, self._source, self._patience)


class _Credentials:
    """Credentials of botocore, which may renew themselves, watched.

    Args:
        credentials: botocore's.
        source: where they come from.
        patience: waits for their renewal.
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
        with _told_as(self._source):
            return getattr(self._credentials, name)

    def get_frozen_credentials(self) -> Any:
        """Return access key, secret key and token that belong together; every request is signed with them."""
        if self._needs_renewal is None:  # keys that stay as they are: every request comes here, and nothing can fail
            frozen = self._credentials.get_frozen_credentials()
        else:
            with _told_as(self._source):
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
def _told_as(source: _Source) -> Iterator[None]:
    """Tell the trouble of a source as such; what the network or the choice of a profile has to do with it stays."""
    try:
        yield
    except Exception as error:
        remedy = remedy_of_source(error, source.remedy)
        if remedy is None:
            raise
        # Without the cause: its text, and that of its own causes, may show what the source gave.
        raise SetUpError(f"the AWS credentials from {source.name} cannot be used: {remedy}", _said(error)) from None


class _Patience:
    """Waits for a source that may never answer, and seldom again while it has not.

    Each session that looks for renewed credentials asks the same source. What has not answered goes on, a thread and
    perhaps a program of the user's. So it is asked again only after a pause, which doubles each time: it may be that it
    would answer by now, and not too many may be left hanging.

    Args:
        seconds: how long to wait.
        source: what tells the source from others of this process.
    """

    def __init__(self, seconds: float, source: tuple[str, ...]) -> None:
        self._seconds = seconds
        self._hanging = _hanging.setdefault(source, [])

    def wait_for(self, read: Callable[[], Value]) -> Value:
        """Call it in a thread, and return its answer."""
        # Threads that come at once may each ask; what they change is replaced as a whole.
        still = [each for each in self._hanging if not each.answer.done()]
        began = time.monotonic()
        if not still or began >= max(each.began for each in still) + self._seconds * 2 ** len(still):
            answer = _in_a_thread(read)
            if not concurrent.futures.wait([answer], timeout=self._seconds).not_done:
                return answer.result()
            still.append(_Hanging(answer, began))
        self._hanging[:] = still
        raise _SourceHangsError(f"it has not answered within {self._seconds:g} seconds")


class _Hanging(NamedTuple):
    """A question that has not been answered in time.

    Args:
        answer: done when it is answered after all.
        began: when it was asked, in monotonic seconds.
    """

    answer: concurrent.futures.Future[Any]
    began: float


_hanging: dict[tuple[str, ...], list[_Hanging]] = {}


def _forget_hanging() -> None:
    for each in _hanging.values():
        each.clear()  # its threads are the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_hanging)


def _in_a_thread(read: Callable[[], Value]) -> concurrent.futures.Future[Value]:
    answer: concurrent.futures.Future[Value] = concurrent.futures.Future()

    def run() -> None:
        try:
            answer.set_result(read())
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
            answer.set_exception(error)

    try:
        threading.Thread(target=run, name="pywren-credentials", daemon=True).start()
    except RuntimeError:  # the interpreter shuts down, and starts no threads any more
        run()
    return answer


class _SourceHangsError(Exception):
    """A source of credentials took too long."""


_IN_A_HEADER = re.compile(r"[!-~]+")
# what an S3 server of one's own may take as a secret, too: it is only hashed
_SECRET = re.compile(r"[!-~]([ -~]*[!-~])?")


def _check_keys(frozen: Any, source: _Source) -> None:
    """Check what keys are made of: http.client refuses some of it in a text that shows it, servers all of it."""
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
    """Return what is wrong with a key, without showing it."""
    if not isinstance(value, str):
        return "is not text"
    if not value.strip():
        return "is empty"
    if value[0] in "'\"" and value[-1] == value[0] and len(value) > 1:
        return "has quotation marks around it"
    if not value.isascii():
        return "has a character that is not ASCII"
    if rule.fullmatch(value):
        return ""
    return "has a line break in it" if "\n" in value or "\r" in value else "has a space or control character in it"


_LIKE_A_KEY = re.compile(r"[A-Za-z0-9/+=_-]{32,}")


def _said(error: Exception) -> str:
    """Return what an error says, on one line, without what may be a key: programs print all kinds of things."""
    return one_line(f"{type(error).__name__}: {_LIKE_A_KEY.sub('…', str(error))}".removeprefix("_SourceHangsError: "))


# -- what is sent, and what is shown of it -------------------------------------------------------------------


def _give_up_on_certificates(caught_exception: BaseException | None = None, **_: object) -> None:
    """Raise an error that no second try changes; the handlers after this one would try again."""
    if caught_exception is not None and is_certificate_error(caught_exception):
        raise caught_exception


def _use_content_md5(request: Any, **_: object) -> None:
    """Send the checksum that every S3 server takes where one is required, in place of the newer ones.

    AWS takes any. MinIO before 2025, PowerScale, Google's and others know no other, and some refuse a header that
    they do not know ("Checking object integrity in Amazon S3", Amazon S3 User Guide, 2026). Sent at all is one only
    where S3 requires it: DeleteObjects, and what is set on buckets.
    """
    newer = [name for name in request.headers if name.lower().startswith("x-amz-checksum-")]
    body = request.body
    if newer and isinstance(body, (bytes, bytearray)):
        for name in (*newer, "x-amz-sdk-checksum-algorithm"):
            del request.headers[name]  # one that is not there is no error: these are email's
        digest = hashlib.md5(body, usedforsecurity=False).digest()
        request.headers["Content-MD5"] = base64.b64encode(digest).decode("ascii")


class _Hushed(bytes):
    """A body that is not shown: payloads carry keys that sign results."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"

    __str__ = __repr__


_LOGGERS = [logging.getLogger(name) for name in ("botocore.endpoint", "botocore.parsers")]
"""They show the bodies of requests and answers at debug level."""


def _hush(message: dict[str, Any]) -> None:
    """Have a body shown as its length; the copy is made only when somebody looks."""
    body = message.get("body")
    if isinstance(body, (bytes, bytearray, str)) and any(each.isEnabledFor(logging.DEBUG) for each in _LOGGERS):
        message["body"] = _Hushed(body.encode() if isinstance(body, str) else body)


def _hush_request(params: dict[str, Any], **_: object) -> None:
    _hush(params)


class _Parsers:
    """The parsers of a session, which log what they parse.

    Args:
        factory: botocore's.
    """

    def __init__(self, factory: Any) -> None:
        self._factory = factory

    def set_parser_defaults(self, **defaults: Any) -> None:
        """Choose how parts of answers are parsed."""
        self._factory.set_parser_defaults(**defaults)

    def create_parser(self, protocol_name: str) -> _Parser:
        """Return the parser of a protocol."""
        return _Parser(self._factory.create_parser(protocol_name))


class _Parser:
    """One of botocore's parsers, which does not see what is not to be shown."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser

    def parse(self, response: dict[str, Any], shape: Any) -> Any:
        """Return what an answer says."""
        _hush(response)
        return self._parser.parse(response, shape)
