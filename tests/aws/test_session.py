"""Unusable credentials, certificates, checksums, and what logs show of a request."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from scripted_server import certificate

from pywren.aws import session as _aws_session
from pywren.aws.errors import SetUpError
from pywren.aws.requests import AWS
from pywren.aws.session import make_session
from pywren.exceptions import ConfigError, InvocationThrottledError, StorageSetupError
from pywren.storage.s3_backend import S3Backend

REGION = "us-west-2"
ACCESS_KEY = "AKIAIOSFODNN7EXAMPLE"
SECRET = "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEYab"
TOKEN = "FwoGZXIvYXdzEBYaDKsecretsecret" + "x" * 60
SSO = (
    "sso_start_url = https://x.example/start\nsso_region = us-west-2\nsso_account_id = 123456789012\nsso_role_name = r"
)
SSO_CACHE = f".aws/sso/cache/{hashlib.sha1(b'https://x.example/start').hexdigest()}.json"
ROLE = "arn:aws:iam::123456789012:role/x"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a home directory without AWS files except those that a test writes."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    return tmp_path


def refusal() -> str:
    """Return a storage's error about credentials; check that ``AWS`` gives the same one and neither shows a secret."""
    backend = S3Backend("bucket", REGION)
    with closing(backend), pytest.raises(StorageSetupError) as told:
        backend.get("key")
    with closing(AWS(REGION)) as aws, pytest.raises(ConfigError) as also:
        aws.account_id()
    for caught in (told, also):
        everything = "".join(traceback.format_exception(caught.type, caught.value, caught.tb))
        assert not [secret for secret in (SECRET, TOKEN) if secret in everything]
        assert "\n" not in str(caught.value)
    text = str(told.value)
    assert text.partition(": ")[2].partition(": ")[0] in str(also.value)
    return text


def key_file(**changes: Any) -> str:
    keys = {"Version": 1, "AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET, "SessionToken": TOKEN}
    return json.dumps({**keys, **changes})


PROCESSES = {
    "fails, and shows a key": f"echo 'no login {SECRET}' >&2; exit 3",
    "prints nothing": "true",
    "prints text": f"echo {SECRET}",
    "prints no text": r"printf '\377\376'",
    "prints null": "echo null",
    "prints a list": "echo []",
    "prints keys that have expired": f"echo '{key_file(Expiration='2001-01-01T00:00:00Z')}'",
    "prints no date": f"echo '{key_file(Expiration='tomorrow')}'",
    "prints half of it": f"""echo '{{"Version": 1, "AccessKeyId": "{ACCESS_KEY}"}}'""",
    "prints a number as a key": f"echo '{key_file(AccessKeyId=7)}'",
    "prints null as a key": f"echo '{key_file(SecretAccessKey=None)}'",
    "prints an empty key": f"echo '{key_file(SecretAccessKey='')}'",
    "is of another version": f"echo '{key_file(Version=2)}'",
}


@pytest.mark.parametrize("process", PROCESSES)
def test_a_credential_process_that_gives_no_keys(home: Path, process: str) -> None:
    """Row 230: for any bad output, the error names credential_process and its file, and says what to print."""
    script = home / "process.sh"
    script.write_text(f"#!/bin/sh\n{PROCESSES[process]}\n")
    script.chmod(0o755)
    (home / "config").write_text(f"[default]\ncredential_process = {script}\n")
    text = refusal()
    assert f"credential_process in {home}/config cannot be used" in text
    assert "it must print JSON with Version 1" in text


@pytest.mark.parametrize("command", ["/opt/no-such-helper get", 'echo "x', "/"])
def test_a_credential_process_that_cannot_be_started(home: Path, command: str) -> None:
    """Row 230: a program that is missing is reported like one that prints nothing."""
    (home / "config").write_text(f"[default]\ncredential_process = {command}\n")
    assert "run its command in a shell" in refusal()


def test_a_source_that_hangs(home: Path) -> None:
    """Row 230: a program that hangs is abandoned, and no request waits for it again while it runs."""
    fifo = home / "fifo"
    os.mkfifo(fifo)
    (home / "config").write_text(f"[default]\ncredential_process = cat {fifo}\n")
    session = make_session(source_seconds=0.5)
    for _ in range(2):
        with pytest.raises(SetUpError, match="credential_process") as caught:
            session.get_credentials()
        assert "did not answer within 0.5 seconds" in caught.value.said
    fifo.write_text(key_file())  # now the program ends
    provider = session.get_component("credential_provider").get_provider("custom-process")
    provider._patience._hanging[0].answer.result(30)
    fifo.unlink()
    (home / "keys").write_text(key_file())
    os.symlink("keys", fifo)
    assert session.get_credentials().get_frozen_credentials().access_key == ACCESS_KEY


def test_a_source_that_hangs_is_seldom_asked_again(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 301: later sessions start the program again only after pauses that double."""
    now = 1000.0
    monkeypatch.setattr(_aws_session, "time", SimpleNamespace(monotonic=lambda: now))
    config = home / "config"
    config.write_text(f"[default]\ncredential_process = sh -c 'until [ -e {home}/end ]; do sleep 0.1; done'\n")
    asked = []
    for _ in range(33):
        with pytest.raises(SetUpError, match="credential_process"):
            make_session(source_seconds=0.2).get_credentials()
        (hanging,) = [each for source, each in _aws_session._hanging.items() if str(config) in source and each]
        asked.append(len(hanging))
        now += 0.1
    assert [round(asked.index(number) / 10, 1) for number in range(1, 5)] == [0.0, 0.4, 1.2, 2.8]
    assert asked[-1] == 4
    (home / "end").touch()
    for question in hanging:
        with pytest.raises(ValueError, match="Expecting value"):
            question.answer.result(30)


FILES: dict[str, tuple[str, dict[str, str], str]] = {
    "a cache of SSO that is cut off": (SSO, {SSO_CACHE: '{"accessTok'}, "run `aws sso login`"),
    "a cache of SSO that holds a list": (SSO, {SSO_CACHE: "[]"}, "run `aws sso login`"),
    "a cache of SSO without its fields": (SSO, {SSO_CACHE: "{}"}, "run `aws sso login`"),
    "a sign-in that has ended": (
        SSO,
        {SSO_CACHE: json.dumps({"accessToken": TOKEN, "expiresAt": "2001-01-01T00:00:00Z"})},
        "run `aws sso login`",
    ),
    "no sign-in yet": (SSO, {}, "run `aws sso login`"),
    "a source profile that is not there": (f"role_arn = {ROLE}\nsource_profile = gone", {}, "source_profile"),
    "a role without a source": (f"role_arn = {ROLE}", {}, "source_profile"),
    "a source that is none": (f"role_arn = {ROLE}\ncredential_source = Nowhere", {}, "credential_source"),
    "a role whose source prints text": (
        f"role_arn = {ROLE}\nsource_profile = b\n[profile b]\ncredential_process = echo hi",
        {},
        "the role to assume",
    ),
    "a token file that is not there": (
        f"role_arn = {ROLE}\nweb_identity_token_file = /no/such/token",
        {},
        "the web identity",
    ),
    "half a key": ("", {"credentials": f"[default]\naws_access_key_id = {ACCESS_KEY}"}, "aws configure"),
    "a file without a section": ("", {"credentials": f"aws_secret_access_key = {SECRET}"}, "credentials"),
    "a line that is no setting": ("this is not", {}, "config"),
}


@pytest.mark.parametrize("what", FILES)
def test_files_that_hold_no_credentials(home: Path, what: str) -> None:
    """Row 231: the error for a broken, truncated or outdated file names the file and the remedy."""
    config, files, expected = FILES[what]
    (home / "config").write_text(f"[default]\n{config}\n")
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    assert expected in refusal()


@pytest.mark.parametrize("name", ["config", "credentials"])
def test_files_that_are_not_utf_8(home: Path, name: str) -> None:
    """Row 231: the error names the file."""
    (home / name).write_bytes(b"[default]\n# M\xfcller\naws_access_key_id = \xff\n")
    assert str(home / name) in refusal()


KEYS = [
    (ACCESS_KEY + "\n", SECRET, None, "the access key contains a line break"),
    (ACCESS_KEY[:7] + " " + ACCESS_KEY[7:], SECRET, None, "the access key contains a space"),
    ("\u201c" + ACCESS_KEY, SECRET, None, "the access key contains a non-ASCII character"),
    (ACCESS_KEY + "\udcff", SECRET, None, "the access key contains a non-ASCII character"),
    (" ", SECRET, None, "the access key is empty"),
    (ACCESS_KEY, SECRET + "\r\n", None, "the secret key contains a line break"),
    (ACCESS_KEY, " " + SECRET, None, "the secret key contains a space"),
    (ACCESS_KEY, f'"{SECRET}"', None, "the secret key has quotation marks"),
    (ACCESS_KEY, SECRET + "\u2019", None, "the secret key contains a non-ASCII character"),
    (ACCESS_KEY, SECRET, TOKEN + "\n", "the session token contains a line break"),
    (ACCESS_KEY, SECRET, TOKEN + "\x07", "the session token contains a space or a control character"),
    (ACCESS_KEY, "", None, "AWS_SECRET_ACCESS_KEY"),
]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(("access", "secret", "token", "told"), KEYS)
def test_keys_that_were_pasted_badly(
    monkeypatch: pytest.MonkeyPatch, access: str, secret: str, token: str | None, told: str
) -> None:
    """Row 232: a malformed key is refused before it is sent; the error names its variable and never shows it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    if token is not None:
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
    text = refusal()
    assert told in text
    assert "environment variables AWS_ACCESS_KEY_ID" in text


@pytest.mark.parametrize("key", ["", "AKIA WITH SPACE", f'"{ACCESS_KEY}"'])
def test_keys_in_a_file(home: Path, key: str) -> None:
    """Row 232: the error names the file."""
    (home / "credentials").write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET}\n")
    assert f"the file {home}/credentials cannot be used: the access key" in refusal()


@pytest.mark.usefixtures("home")
def test_a_secret_of_ones_own_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret key with spaces is accepted, because servers other than AWS may use one."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "minio")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a long pass phrase")
    assert make_session().get_credentials().get_frozen_credentials().secret_key == "a long pass phrase"


@pytest.mark.parametrize("line", ["metadata_service_timeout = abc", "max_attempts = abc\ns3 = path", "s3 = path"])
def test_a_setting_that_botocore_stumbles_over(home: Path, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    """Row 233: the error is reported as an invalid setting, not as a bad endpoint or a bug."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    (home / "config").write_text(f"[default]\n{line}\n")
    with pytest.raises(StorageSetupError, match=r"an AWS setting is wrong.*~/.aws/config"):
        S3Backend("bucket", REGION).get("key")


# -- certificates --------------------------------------------------------------------------------------------


class Silent(BaseHTTPRequestHandler):
    """A handler that sends the server's ``answer``, and records requests in its ``asked``."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        """Print nothing."""

    def answer(self) -> None:
        server: Any = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.asked.append((f"{self.command} {self.path}", dict(self.headers), body))
        reply = server.answer(self.headers, body)
        self.send_response(reply[0])
        self.send_header("Content-Length", str(len(reply[1])))
        self.end_headers()
        self.wfile.write(reply[1])

    do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - http.server's names


@contextmanager
def serving(
    pem: Path | None = None, answer: Callable[[Any, bytes], tuple[int, bytes]] = lambda headers, body: (200, b"")
) -> Iterator[ThreadingHTTPServer]:
    """Run a server, with TLS if a certificate is given."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    server.asked, server.answer, server.handle_error = [], answer, lambda *args: None
    server.connections = 0
    accept = server.get_request

    def get_request() -> Any:
        server.connections += 1
        return accept()

    server.get_request = get_request
    if pem is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def account(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set valid credentials."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return home


@pytest.mark.parametrize(
    ("name", "days", "trusted"),
    [("127.0.0.1", 2, False), ("other.example", 2, True), ("127.0.0.1", -1, True)],
    ids=["of nobody known", "of another name", "expired"],
)
def test_a_certificate_that_is_refused(
    account: Path, monkeypatch: pytest.MonkeyPatch, name: str, days: int, trusted: bool
) -> None:
    """Row 234: the error names AWS_CA_BUNDLE and comes at the first connection, for every service."""
    pem = certificate(account, name, days=days)
    if trusted:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(pem))
    with serving(pem) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{server.server_port}")
        with pytest.raises(StorageSetupError, match=r"the server.s certificate is not trusted.*AWS_CA_BUNDLE"):
            S3Backend("bucket", REGION).get("key")
        with pytest.raises(ConfigError, match="AWS_CA_BUNDLE"):
            AWS(REGION).account_id()
        assert server.connections == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("bundle", ["missing", "a directory", "no certificate", "half a certificate", "empty"])
@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"])
def test_certificates_to_trust_that_cannot_be_read(
    account: Path, monkeypatch: pytest.MonkeyPatch, bundle: str, variable: str
) -> None:
    """Row 234: a bad bundle is reported at once, as a problem of the file."""
    path = account / "bundle.pem"
    pem = certificate(account, "127.0.0.1")
    if bundle == "a directory":
        path.mkdir()
    elif bundle != "missing":
        text = pem.read_text()
        path.write_text({"no": "hello", "ha": text[: len(text) * 3 // 4], "em": ""}[bundle[:2]])
    monkeypatch.setenv(variable, str(path))
    with serving(pem) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{server.server_port}")
        with pytest.raises(StorageSetupError, match=r"AWS_CA_BUNDLE"):
            S3Backend("bucket", REGION).get("key")


def test_a_server_without_tls(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 234: an https:// URL for a server without TLS is reported at once."""
    with serving() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{server.server_port}")
        with pytest.raises(StorageSetupError, match="does not speak TLS"):
            S3Backend("bucket", REGION).get("key")


def test_a_certificate_that_was_named(account: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With AWS_CA_BUNDLE the server's certificate is trusted."""
    pem = certificate(account, "127.0.0.1")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(pem))
    with serving(pem) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{server.server_port}")
        backend = S3Backend("bucket", REGION)
        assert backend.get("key") == b""
        backend.close()


# -- checksums -----------------------------------------------------------------------------------------------


def _wants_content_md5(headers: Any, body: bytes) -> tuple[int, bytes]:
    """Answer as servers do that support only Content-MD5, or reject other checksum headers."""
    if [name for name in headers if name.lower().startswith("x-amz-checksum-")]:
        return 501, b"<Error><Code>NotImplemented</Code><Message>A header you provided</Message></Error>"
    if headers.get("Content-MD5") != base64.b64encode(hashlib.md5(body).digest()).decode():
        return 400, b"<Error><Code>MissingContentMD5</Code><Message>Missing required header</Message></Error>"
    return 200, b"<DeleteResult/>"


CHANGES: list[tuple[str, dict[str, Any]]] = [
    ("put_bucket_policy", {"Policy": "{}"}),
    ("put_bucket_lifecycle_configuration", {"LifecycleConfiguration": {"Rules": []}}),
    ("put_public_access_block", {"PublicAccessBlockConfiguration": {"BlockPublicAcls": True}}),
    ("put_bucket_tagging", {"Tagging": {"TagSet": []}}),
    ("put_bucket_encryption", {"ServerSideEncryptionConfiguration": {"Rules": []}}),
    ("delete_objects", {"Delete": {"Objects": [{"Key": "k"}]}}),
]


@pytest.mark.parametrize(("operation", "arguments"), CHANGES)
@pytest.mark.usefixtures("account")
def test_a_server_that_wants_content_md5(
    monkeypatch: pytest.MonkeyPatch, operation: str, arguments: dict[str, Any]
) -> None:
    """Row 235: every request that needs a checksum has Content-MD5, and no other."""
    with serving(answer=_wants_content_md5) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        with closing(AWS(REGION)) as aws:
            aws.request("s3", operation, doing="change the bucket", Bucket="bucket", **arguments)


@pytest.mark.usefixtures("account")
def test_deleting_on_a_server_that_wants_content_md5(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 235: deleting the storage's objects works on such a server."""
    with serving(answer=_wants_content_md5) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{server.server_port}")
        backend = S3Backend("bucket", REGION)
        backend.delete(["a", "b"])
        backend.close()
        assert b"<Key>a</Key>" in server.asked[0][2]  # type: ignore[attr-defined]


# -- who paces invocations -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize(
    ("status", "code"), [(429, "TooManyRequestsException"), (503, "ServiceUnavailable"), (500, "ServiceException")]
)
def test_botocore_does_not_repeat_a_throttled_invocation(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    """One refusal costs one request and no pause. Other requests are repeated as before."""
    seen = []

    def busy(headers: Any, body: bytes) -> tuple[int, bytes]:
        seen.append(headers.get("X-Amz-Invocation-Type"))
        return status, json.dumps({"Type": "User", "message": "busy", "__type": code}).encode()

    with serving(answer=busy) as server, closing(AWS(REGION)) as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        began = time.monotonic()
        with pytest.raises(InvocationThrottledError):
            aws.invoke_async("f", b"{}")
        assert seen == ["Event"]
        assert time.monotonic() - began < 5
        with pytest.raises(Exception, match="Invoke"):
            aws.client("lambda").invoke(FunctionName="f", Payload=b"{}")
        assert len(seen) == 4


# -- what logs show ------------------------------------------------------------------------------------------


def _answers_with_a_payload(headers: Any, body: bytes) -> tuple[int, bytes]:
    target = headers.get("X-Amz-Target", "")
    if target.endswith("SendMessage"):
        return 200, json.dumps(
            {"MessageId": "1", "MD5OfMessageBody": hashlib.md5(PAYLOAD.encode()).hexdigest()}
        ).encode()
    if target.endswith("ReceiveMessage"):
        message = {"Body": PAYLOAD, "ReceiptHandle": "r", "MessageId": "1"}
        message["MD5OfBody"] = hashlib.md5(PAYLOAD.encode()).hexdigest()
        return 200, json.dumps({"Messages": [message]}).encode()
    return 202, b""


PAYLOAD = json.dumps({"attempt_key": "the-key-of-this-attempt"})


@pytest.mark.usefixtures("account")
def test_no_logger_shows_a_payload(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Row 236: botocore's debug log shows bodies of requests and answers only as their lengths."""
    caplog.set_level(logging.DEBUG)
    for name in ("botocore", "botocore.endpoint", "botocore.parsers", "urllib3"):
        caplog.set_level(logging.DEBUG, name)
    with serving(answer=_answers_with_a_payload) as server, closing(AWS(REGION)) as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        aws.invoke_async("f", PAYLOAD.encode())
        aws.send_message("http://queue/q", PAYLOAD)
        messages = aws.receive("http://queue/q")
        assert [message.body for message in messages] == [PAYLOAD]
        backend = S3Backend("bucket", REGION)
        backend.put("key", PAYLOAD.encode())
        backend.close()
        assert b"the-key-of-this-attempt" in b"".join(each[2] for each in server.asked)  # type: ignore[attr-defined]
    assert "Making request for OperationModel(name=Invoke)" in caplog.text
    assert f"<{len(PAYLOAD)} bytes>" in caplog.text
    assert "the-key-of-this-attempt" not in caplog.text
    assert "the-key-of-this-attempt" not in repr(messages)


def test_botocore_still_has_what_is_relied_on(home: Path) -> None:
    """botocore's sessions still allow their credential sources and their parsers to be replaced."""
    session = make_session()
    resolver = session.get_component("credential_provider")
    assert all(isinstance(each, _aws_session._Provider) for each in resolver.providers)
    assert {each.METHOD for each in resolver.providers} >= {"env", "custom-process", "sso", "assume-role"}
    assert isinstance(session.get_component("response_parser_factory"), _aws_session._Parsers)
