"""The same requests through botocore and through ``aws.lean``: what is sent, and what comes of every answer."""

from __future__ import annotations

import concurrent.futures
import functools
import gc
import json
import logging
import os
import pkgutil
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from http.client import HTTPResponse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.client
import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.stub import Stubber
from scripted_server import DATE, Answer, ScriptedServer, Seen, answer, certificate, page, refusal, usual
from without_moto import keep_moto_out

from pywren.aws import lean
from pywren.aws.requests import AWS
from pywren.aws.s3_pages import Page, scan_page
from pywren.aws.sending import CLIENT_OPTIONS, Retry
from pywren.aws.service_clock import ServiceClock
from pywren.exceptions import IntegrityError, InvocationThrottledError, PywrenError, StorageNoSuchKeyError
from pywren.storage.s3_backend import S3Backend

REGION = "us-west-2"
ACCESS_KEY, SECRET_KEY = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEYab"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set credentials, and no proxy."""
    set_environment(monkeypatch)


def set_environment(patch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AWS_") or name.lower().endswith("_proxy"):
            patch.delenv(name)
    keep_moto_out(patch)
    patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    patch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    """Return the server to which all requests go."""
    with closing(ScriptedServer()) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


class Requests:
    """pywren's requests to one server, with a clock that only sleeping advances. The first of each kind are sent.

    Args:
        server: the server.
        plain: have botocore send everything.
    """

    def __init__(self, server: ScriptedServer, *, plain: bool = False) -> None:
        self.now = 0.0
        retry = Retry(sleep=self.sleep, clock=lambda: self.now, jitter=lambda: 0.5)
        self.server = server
        self.storage = S3Backend("bucket", REGION, retry=retry)
        self.aws = AWS(REGION, sleep=self.sleep, clock=lambda: self.now)
        self.aws._retry_invocations = replace(self.aws._retry_invocations, jitter=lambda: 0.5)
        if plain:
            self.watch()
        self.put(), self.get(), self.list(), self.invoke()
        server.seen.clear()

    def sleep(self, seconds: float) -> None:
        """Advance the clock."""
        self.now += seconds

    def watch(self) -> list[str]:
        """Register a handler of the user's, which botocore is to call; return the list of what it has seen."""
        seen: list[str] = []
        for client in (self.storage.s3client, self.aws.client("lambda")):
            client.meta.events.register("before-call", lambda model, **_: seen.append(model.name))
        return seen

    def get(self, key: str = "p/k", byte_range: tuple[int, int] | None = None) -> bytes:
        return self.storage.get(key, byte_range)

    def put(self, key: str = "p/k", data: bytes = b"data", *, if_absent: bool = False) -> bool:
        return self.storage.put(key, data, if_absent=if_absent)

    def list(self, prefix: str = "p/", start_after: str = "") -> list[str]:
        return self.storage.list(prefix, start_after)

    def invoke(self, function_name: str = "f", payload: bytes = b"{}") -> str:
        return self.aws.invoke_async(function_name, payload)

    def open(self) -> None:
        """Have a connection open to each service."""
        self.get(), self.invoke()

    def close(self) -> None:
        """Close the connections."""
        self.storage.close()
        self.aws.close()


@pytest.fixture
def requests(server: ScriptedServer) -> Iterator[Requests]:
    """Return requests of which the next are lean."""
    with closing(Requests(server)) as made:
        yield made


@contextmanager
def make_pair() -> Iterator[tuple[Requests, Requests]]:
    """Yield requests through botocore and lean ones, for many tests, because making clients takes a while."""
    with pytest.MonkeyPatch.context() as patch, closing(ScriptedServer()) as server:
        set_environment(patch)
        patch.setenv("AWS_ENDPOINT_URL", server.url)
        with closing(Requests(server, plain=True)) as plain, closing(Requests(server)) as ours:
            yield plain, ours


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Requests, Requests]]:
    """Return requests to a service without trouble."""
    with make_pair() as pair:
        yield pair


@pytest.fixture(scope="module")
def troubled() -> Iterator[tuple[Requests, Requests]]:
    """Return requests to a service with trouble, where botocore never runs out of retries."""
    with make_pair() as pair, pytest.MonkeyPatch.context() as patch:
        patch.setattr("botocore.retries.quota.RetryQuota.acquire", lambda quota, amount: True)
        yield pair


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Record botocore's pauses instead of waiting."""
    pauses: list[float] = []
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=pauses.append))
    return pauses


# -- what is sent --------------------------------------------------------------------------------------------

KEYS = [
    "p/k",
    "k",
    "ä/ö €😀",
    "a b+c&d=e?f#g%h;i:j@k$l,m",
    "/k",
    "a//b",
    "a/./b",
    "a/../b",
    "..",
    "k/",
    "~-._",
    "p/'\"<>",
]
SENT: dict[str, Callable[[Requests], object]] = {
    **{f"get {key}": functools.partial(Requests.get, key=key) for key in KEYS},
    **{f"put {key}": functools.partial(Requests.put, key=key) for key in KEYS},
    **{f"list {key}": functools.partial(Requests.list, prefix=key, start_after=key) for key in KEYS},
    "get a range": lambda requests: requests.get("p/k", (5, 9)),
    "put if absent": lambda requests: requests.put("p/k", b"x", if_absent=True),
    "put nothing": lambda requests: requests.put("p/k", b""),
    "put much": lambda requests: requests.put("p/k", b"x" * lean.LARGEST_BODY),
    "list all": lambda requests: requests.list(""),
    "invoke": lambda requests: requests.invoke(payload=b'{"a": "\xc3\xa4"}'),
    "invoke by ARN": lambda requests: requests.invoke("arn:aws:lambda:us-west-2:123456789012:function:f:live"),
}
_NUMBERED = {"amz-sdk-invocation-id", "amz-sdk-request", "expect", "x-amz-date", "authorization"}


def meaning(seen: Seen) -> tuple[object, ...]:
    """Return all that two requests must have in common, and the names of the headers that are signed."""
    signed = seen.headers["authorization"].split("SignedHeaders=")[1].split(",")[0]
    headers = {name: value for name, value in seen.headers.items() if name not in _NUMBERED}
    return seen.method, seen.target, headers, seen.body, signed


def signature(seen: Seen) -> str:
    """Return the signature that a request should have, computed from what has arrived."""
    credential, signed, _ = seen.headers["authorization"].split(", ")
    service = credential.split("/")[3]
    auth = (S3SigV4Auth if service == "s3" else SigV4Auth)(Credentials(ACCESS_KEY, SECRET_KEY), service, REGION)
    headers = {name: seen.headers[name] for name in signed.split("=")[1].split(";")}
    request = AWSRequest(seen.method, f"http://{seen.headers['host']}{seen.target}", headers=headers, data=seen.body)
    request.context["timestamp"] = seen.headers["x-amz-date"]
    return str(auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request))


@pytest.mark.parametrize("name", SENT)
def test_the_same_is_sent(shared: tuple[Requests, Requests], name: str) -> None:
    """The service gets what botocore would have sent, with a signature that is right, and the answer means the same."""
    sent = []
    for requests in shared:
        requests.server.seen.clear()
        SENT[name](requests)  # the first request to a function is botocore's
        result = SENT[name](requests)
        last = requests.server.seen[-1]
        assert last.by_botocore == (requests is shared[0])
        assert last.headers["authorization"].endswith(f"Signature={signature(last)}")
        sent.append((result, meaning(last)))
    assert sent[0] == sent[1]


def test_a_listing_of_many_pages(requests: Requests) -> None:
    """Each page is requested with the token of the one before, and the keys are decoded."""
    requests.server.script = [answer(200, page(["p/a%2Bb", "p/c+d"], "t/+= 1")), answer(200, page(["p/%C3%A4"]))]
    assert requests.list("p/", "p/a") == ["p/a+b", "p/c d", "p/ä"]
    first, second = requests.server.seen
    assert first.target.endswith("&start-after=p%2Fa&encoding-type=url")
    assert second.target.endswith("&continuation-token=t%2F%2B%3D%201&encoding-type=url")
    assert not any(seen.by_botocore for seen in requests.server.seen)


def test_a_listing_jumps(requests: Requests) -> None:
    """After a page that ends among keys that nobody wants, the listing goes on behind them, if keys are in order."""
    pages = [["p/a", "p/c/1", "p/c/2"], ["p/c/7", "p/d"]]
    requests.server.script = [answer(200, page(pages[0], "t")), answer(200, page(pages[1]))]
    keys, _ = requests.storage.list_timed("p/", suffix="x", skip=("p/c/", "p/c/7"))
    assert keys == ["p/a", "p/c/1", "p/c/2", "p/c/7", "p/d"]
    assert requests.server.seen[1].target.endswith("&start-after=p%2Fc%2F7&encoding-type=url")
    for first in (["p/c/2", "p/a", "p/c/1"], ["p/a", "p/b"], ["p/a", "p/c/7"], ["p/a", "p/c/8"]):
        requests.server.seen.clear()
        requests.server.script = [answer(200, page(first, "t")), answer(200, page(["p/d"]))]
        assert requests.storage.list_timed("p/", suffix="x", skip=("p/c/", "p/c/7"))[0] == [*first, "p/d"]
        assert "continuation-token=t" in requests.server.seen[1].target


def test_the_time_comes_from_lean_answers_too(requests: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    """The storage's clock sees the date of every answer."""
    dates: list[str | None] = []
    monkeypatch.setattr(requests.storage._clock, "note", dates.append)
    lean.when_dated(requests.storage.s3client, requests.storage._clock.note)
    requests.get()
    assert dates == [DATE]
    assert isinstance(requests.storage._clock, ServiceClock)


def test_the_trace_header_is_forwarded(requests: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within Lambda each request carries the trace of the invocation, so that AWS stops endless recursion."""
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "f")
    for trace in ("Root=1-a;Lineage=b:1", "Root=1-ä"):
        monkeypatch.setenv("_X_AMZN_TRACE_ID", trace)
        requests.invoke()
    found = [seen.headers["x-amzn-trace-id"] for seen in requests.server.seen]
    assert found == ["Root=1-a;Lineage=b:1", "Root=1-%C3%A4"]
    assert not any(seen.by_botocore for seen in requests.server.seen)
    monkeypatch.delenv("_X_AMZN_TRACE_ID")
    requests.invoke()
    assert "x-amzn-trace-id" not in requests.server.seen[-1].headers


# -- what comes of the answers -------------------------------------------------------------------------------

OPERATIONS: dict[str, Callable[[Requests], object]] = {
    "get": Requests.get,
    "put": Requests.put,
    "put if absent": lambda requests: requests.put(if_absent=True),
    "list": Requests.list,
    "invoke": Requests.invoke,
}
HANG_UP = Answer(b"", close=True)
RESET = Answer(b"", reset=True)
CUT_HEAD = Answer(b"HTTP/1.1 200 OK\r\nContent-Le", close=True)
CUT_BODY = Answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n<List", close=True)
NONSENSE = Answer(b"SSH-2.0-OpenSSH_9.6\r\n", close=True)
SLOW_DOWN = refusal(503, "SlowDown")
ELSEWHERE = {"x-amz-bucket-region": "eu-west-1"}
ANSWERS: dict[str, list[Answer]] = {
    "nothing wrong": [],
    "throttled once": [SLOW_DOWN],
    "throttled for long": [SLOW_DOWN] * 5,
    "internal error": [refusal(500, "InternalError")],
    "an error without a body": [answer(500)],
    "too many": [
        answer(
            429, b'{"Reason": "ConcurrentInvocationLimitExceeded"}', {"x-amzn-ErrorType": "TooManyRequestsException"}
        )
    ],
    "denied": [refusal(403, "AccessDenied")],
    "missing": [refusal(404, "NoSuchKey")],
    "there already": [refusal(412, "PreconditionFailed")],
    "a conflict of writers": [refusal(409, "ConditionalRequestConflict")],
    "clock skew": [refusal(403, "RequestTimeTooSkewed")],
    "no connection left": [HANG_UP] * 12,
    "hung up": [HANG_UP],
    "reset": [RESET],
    "cut off in the head": [CUT_HEAD] * 3,
    "nonsense": [NONSENSE],
    "redirected": [refusal(301, "PermanentRedirect", ELSEWHERE)],
    "redirected for a while": [refusal(307, "TemporaryRedirect", {"Location": "http://127.0.0.1:9/"})],
    "wrong region": [refusal(400, "AuthorizationHeaderMalformed", ELSEWHERE, "<Region>eu-west-1</Region>")],
    "an error in a success": [answer(200, b"<Error><Code>InternalError</Code><Message>no</Message></Error>")],
    "a strange success": [answer(204)],
    "answered before it was read": [Answer(answer(403, b"<Error><Code>AccessDenied</Code></Error>").sent, close=True)],
}


def outcome(requests: Requests, operation: str, script: list[Answer], pauses: list[float]) -> tuple[object, ...]:
    """Return what comes of a request if the server answers with a script: a result or an error, and what it took."""
    server = requests.server
    server.script[:] = script
    server.seen.clear()
    pauses.clear()
    result: object
    try:
        result = OPERATIONS[operation](requests)
    except (PywrenError, KeyError) as error:  # KeyError: a page that is not the last one has no token
        cause = error.__cause__
        # by name: each client makes its own classes of errors
        result = type(error), type(cause).__name__, getattr(cause, "response", None), str(error)
    left = len(server.script)
    server.script.clear()
    return result, left, len(pauses), [seen.target for seen in server.seen]


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", ANSWERS)
def test_the_same_comes_of_an_answer(
    troubled: tuple[Requests, Requests], pauses: list[float], name: str, operation: str
) -> None:
    """Errors, retries and pauses are those of botocore, no request is sent twice, and the client works afterwards."""
    outcomes = []
    for requests in troubled:
        requests.open()
        outcomes.append(outcome(requests, operation, ANSWERS[name], pauses))
        assert requests.server.seen[0].by_botocore == (requests is troubled[0])
        assert requests.get("p/after") == b"/bucket/p/after None"
        assert requests.list() == ["p/1", "p/2"]
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_service_that_says_nothing(
    troubled: tuple[Requests, Requests], pauses: list[float], monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    """After the time limit of the client the request counts as botocore's first try, which it repeats."""
    wait, errors = HTTPResponse.begin, []

    def begin(response: HTTPResponse) -> None:
        wait(response)  # so that the server has seen the request
        if errors:
            raise errors.pop()

    monkeypatch.setattr(HTTPResponse, "begin", begin)
    outcomes = []
    for requests in troubled:
        requests.open()
        errors.append(TimeoutError("timed out"))  # as recv(2) says it after the time limit of the client
        outcomes.append(outcome(requests, operation, [], pauses))
        assert [seen.by_botocore for seen in requests.server.seen] == [requests is troubled[0], True]
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_service_that_is_gone(pauses: list[float], operation: str) -> None:
    """If no new connection can be opened, the error and the tries are botocore's."""
    with make_pair() as pair:
        pair[0].server.close()
        plain, ours = (outcome(requests, operation, [], pauses) for requests in pair)
    assert plain == ours
    assert "EndpointConnectionError" in plain[0]  # type: ignore[operator]


@pytest.mark.parametrize("limit", [None, 100, 2000])
def test_a_short_body_is_read_again(requests: Requests, pauses: list[float], limit: int | None) -> None:
    """A body that ends early is never taken for the object: the request is repeated."""
    requests.server.script = [CUT_BODY, CUT_BODY]
    assert requests.storage.get("p/k", limit=limit) == b"/bucket/p/k None"
    assert [seen.by_botocore for seen in requests.server.seen] == [False, True, True]
    requests.server.script = [CUT_BODY]
    assert requests.list() == ["p/1", "p/2"]


def test_a_body_beyond_the_limit(requests: Requests) -> None:
    """An object that is larger than it may be is not read to its end, and its connection is closed."""
    requests.server.script = [answer(200, b"x" * 1_000_000)]
    with pytest.raises(IntegrityError, match="longer than the 10 bytes"):
        requests.storage.get("p/k", limit=10)
    assert requests.storage.get("p/k", limit=16) == b"/bucket/p/k None"
    assert [seen.connection for seen in requests.server.seen] == [1, 3]  # Lambda's is the second


def test_a_request_that_was_repeated_may_have_written(requests: Requests, pauses: list[float]) -> None:
    """A conditional write whose answer was lost finds its own bytes, and counts as the first."""
    requests.server.script = [HANG_UP, refusal(412, "PreconditionFailed"), answer(200, b"data")]
    assert requests.put(if_absent=True) is True
    requests.server.script = [HANG_UP, refusal(412, "PreconditionFailed"), answer(200, b"other")]
    assert requests.put(if_absent=True) is False


def test_a_busy_lambda_refuses_at_once(requests: Requests, pauses: list[float]) -> None:
    """Whoever invokes paces the calls: neither botocore nor pywren repeats an invocation that was refused."""
    requests.server.script = ANSWERS["too many"] * 3
    with pytest.raises(InvocationThrottledError):
        requests.invoke()
    assert (len(requests.server.seen), pauses) == (1, [])


def test_a_connection_that_the_service_has_closed(requests: Requests) -> None:
    """botocore opens a new connection in place of an idle one that was closed, and the request is sent once."""
    requests.server.drop_connections()
    for _ in range(2):
        assert requests.get() == b"/bucket/p/k None"
    assert [seen.by_botocore for seen in requests.server.seen] == [True, False]


def test_a_connection_that_the_service_wants_closed(requests: Requests) -> None:
    """A connection is not used again after the service has said that it closes it."""
    requests.server.script = [answer(200, b"last", {"Connection": "close"})]
    assert [requests.get(), requests.get()] == [b"last", b"/bucket/p/k None"]
    assert [seen.connection for seen in requests.server.seen] == [1, 3]


@pytest.mark.parametrize("urllib3_2", [True, False])
def test_a_client_that_was_closed(requests: Requests, urllib3_2: bool) -> None:
    """Its connections are closed, and a request through it opens a new one, as with botocore."""
    client = requests.storage.s3client
    pool: Any = None if urllib3_2 else lean._lean_of(client)._forms[lean.GET, "bucket"].pool()
    client.close()
    if pool is not None:  # urllib3 1 closed the pools themselves
        pool.close()
    for _ in range(2):
        assert lean.get_object(client, "bucket", "p/k") == b"/bucket/p/k None"
    assert [seen.by_botocore for seen in requests.server.seen] == [True, False]
    assert requests.server.seen[0].connection == 3  # after one for S3 and one for Lambda


@pytest.mark.parametrize("operation", OPERATIONS)
def test_ctrl_c(requests: Requests, operation: str) -> None:
    """An interrupted request leaves nothing behind that the next one could take for its answer."""
    main = threading.main_thread().ident or 0

    def press() -> None:
        # Not before the main thread waits for the answer: Python would notice it only afterwards.
        while sys._current_frames()[main].f_code.co_name != "readinto":
            time.sleep(0.01)
        time.sleep(0.01)
        signal.pthread_kill(main, signal.SIGINT)

    requests.server.script = [Answer(b"", before=press), answer(200, b"late")]
    with pytest.raises(KeyboardInterrupt):
        OPERATIONS[operation](requests)
    requests.server.script.clear()
    assert requests.get("p/next") == b"/bucket/p/next None"
    assert requests.put() is True
    interrupted, *others = requests.server.seen
    assert not interrupted.by_botocore
    assert interrupted.connection not in {seen.connection for seen in others}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_fork(requests: Requests) -> None:
    """A forked child has connections of its own."""
    assert requests.get()
    child = os.fork()
    if child == 0:
        good = requests.get("p/child") == requests.get("p/child") == b"/bucket/p/child None"
        os._exit(0 if good else 1)
    for index in range(20):
        assert requests.get(f"p/{index}") == f"/bucket/p/{index} None".encode()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    parents = {seen.connection for seen in requests.server.seen if "child" not in seen.target}
    assert parents.isdisjoint({seen.connection for seen in requests.server.seen if "child" in seen.target})


def test_threads(requests: Requests) -> None:
    """Each thread gets the answers to its own requests, also while some of them break."""

    def work(number: int) -> None:
        for index in range(30):
            if index % 7 == 0:
                requests.server.script.append(CUT_BODY)
            assert requests.get(f"p/{number}/{index}") == f"/bucket/p/{number}/{index} None".encode()

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_a_client_dies_with_its_last_user(server: ScriptedServer) -> None:
    """The forms of a client do not keep it alive."""
    requests = Requests(server)
    client = weakref.ref(requests.storage.s3client)
    requests.close()
    del requests
    gc.collect()
    assert client() is None


# -- credentials ---------------------------------------------------------------------------------------------


def test_credentials_that_are_renewed(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each request is signed with the credentials of its time."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    source = tmp_path / "answer"

    def write(token: str) -> None:
        soon = (datetime.now(timezone.utc) + timedelta(minutes=3)).isoformat()  # so that botocore reads them each time
        keys = {"AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY, "SessionToken": token, "Expiration": soon}
        source.write_text(json.dumps({"Version": 1, **keys}))

    (tmp_path / "config").write_text(f"[default]\ncredential_process = cat {source}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    write("token-1")
    with closing(Requests(server)) as requests:
        write("token-2")
        requests.get()
        write("token-3")
        requests.get()
    assert [seen.headers["x-amz-security-token"] for seen in server.seen] == ["token-2", "token-3"]
    assert not any(seen.by_botocore for seen in server.seen)


def test_credentials_that_are_refused(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A refused token lets pywren read the source again, and send the request again with what it found."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    keys = f"[default]\naws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\naws_session_token="
    file.write_text(f"{keys}old\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    with closing(Requests(server)) as requests:
        file.write_text(f"{keys}new\n")
        server.script = [refusal(400, "ExpiredToken")]
        assert requests.get() == b"/bucket/p/k None"
        assert [seen.headers["x-amz-security-token"] for seen in server.seen] == ["old", "new"]


# -- what goes through botocore ------------------------------------------------------------------------------


def all_kinds(requests: Requests) -> list[bool]:
    """Send a request of each kind, and return whether botocore sent them."""
    requests.server.seen.clear()
    requests.get(), requests.put(), requests.list(), requests.invoke()
    return [seen.by_botocore for seen in requests.server.seen]


def test_requests_are_lean(requests: Requests) -> None:
    """If nothing speaks against it, all requests are lean."""
    assert all_kinds(requests) == [False] * 4


def test_a_handler_of_the_users(requests: Requests) -> None:
    """Handlers see every request, and none after they were unregistered."""
    seen = requests.watch()
    assert all_kinds(requests) == [True] * 4
    assert seen == ["GetObject", "PutObject", "ListObjectsV2", "Invoke"]


@pytest.mark.parametrize(
    "event", ["before-send", "before-sign", "request-created.s3", "needs-retry.s3.GetObject", "after-call.*.GetObject"]
)
def test_a_handler_of_any_event(requests: Requests, event: str) -> None:
    """Whatever the event, its handler is called, until it is unregistered."""
    calls: list[object] = []

    def handler(**_: object) -> None:
        calls.append(event)

    events = requests.storage.s3client.meta.events
    events.register(event, handler)
    requests.get()
    assert (len(calls), requests.server.seen[-1].by_botocore) == (1, True)
    events.unregister(event, handler)
    requests.get()
    assert (len(calls), requests.server.seen[-1].by_botocore) == (1, False)


def test_a_stubber(requests: Requests) -> None:
    """botocore's ``Stubber`` answers, and afterwards the service does."""
    client = requests.aws.client("lambda")
    with Stubber(client) as stub:
        stub.add_response("invoke", {"StatusCode": 202, "ResponseMetadata": {"RequestId": "stubbed"}})
        assert requests.invoke() == "stubbed"
    assert requests.server.seen == []
    assert requests.invoke() == "r-1"


def test_a_method_that_was_replaced(requests: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mock of a client's method, or of the function through which all go, is called."""
    monkeypatch.setattr(requests.storage.s3client, "list_objects_v2", lambda **_: {"Contents": [{"Key": "mock"}]})
    assert requests.list() == ["mock"]
    call, seen = botocore.client.BaseClient._make_api_call, []

    @functools.wraps(call)
    def traced(client: Any, operation: str, arguments: Any) -> Any:
        seen.append(operation)
        return call(client, operation, arguments)

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", traced)
    requests.get(), requests.invoke()
    assert seen == ["GetObject", "Invoke"]


@pytest.mark.parametrize("logger", ["botocore", "urllib3"])
def test_a_debug_log(requests: Requests, caplog: pytest.LogCaptureFixture, logger: str) -> None:
    """Who reads the log of botocore or urllib3 sees each request in it."""
    with caplog.at_level(logging.DEBUG, logger):
        assert all_kinds(requests) == [True] * 4
    assert len(caplog.records) >= 4
    assert all_kinds(requests) == [False] * 4


@pytest.mark.parametrize(
    "name",
    [
        "botocore.endpoint.Endpoint.make_request",
        "botocore.httpsession.URLLib3Session.send",
        "urllib3.HTTPConnectionPool.urlopen",
        "botocore.awsrequest.AWSHTTPConnection.request",
    ],
)
def test_a_step_that_was_replaced(requests: Requests, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whatever function a test or a tracing library replaces, it gets every request."""
    owner, _, function = name.rpartition(".")
    seen: list[str] = []
    original = getattr(pkgutil.resolve_name(owner), function)

    @functools.wraps(original)
    def traced(*args: Any, **kwargs: Any) -> Any:
        seen.append(name)
        return original(*args, **kwargs)

    monkeypatch.setattr(name, traced)
    assert all_kinds(requests) == [True] * 4
    assert len(seen) == 4
    monkeypatch.undo()
    assert all_kinds(requests) == [False] * 4


def test_a_user_agent_that_is_not_ascii(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be written without doubt is botocore's."""
    monkeypatch.setattr("pywren.aws.session.CLIENT_OPTIONS", {**CLIENT_OPTIONS, "user_agent": "pywren/ä"})
    with closing(Requests(server)) as requests:
        assert all_kinds(requests) == [True] * 4


def test_a_request_within_a_request(requests: Requests, pauses: list[float]) -> None:
    """A signal handler or a finalizer may send a request while another one is handed over: each has its own answer."""
    within: list[bytes] = []

    def handler(**_: object) -> None:
        if not within:
            within.append(b"")
            within[0] = requests.get("p/within")

    handler.__module__ = "botocore.test"
    requests.server.script = [SLOW_DOWN]
    requests.storage.s3client.meta.events.register("before-call.s3.GetObject", handler)
    assert requests.get("p/outer") == b"/bucket/p/outer None"
    assert within == [b"/bucket/p/within None"]
    assert [(seen.target, seen.by_botocore) for seen in requests.server.seen] == [
        ("/bucket/p/outer", False),
        ("/bucket/p/within", False),
        ("/bucket/p/outer", True),
    ]


def test_a_proxy(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests through a proxy are botocore's."""
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://s3.example:80")
    with closing(S3Backend("bucket", REGION)) as storage:
        for _ in range(2):
            assert storage.put("p/k", b"data") is True
    assert [seen.by_botocore for seen in server.seen] == [True, True]
    assert server.seen[-1].target.startswith("http://")


def test_tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Over TLS, lean requests use the connections that botocore has opened and verified."""
    pem = certificate(tmp_path, "127.0.0.1")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(pem))
    with closing(ScriptedServer(pem)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        with closing(Requests(server)) as requests:
            assert all_kinds(requests) == [False] * 4
            assert server.connections == 2
            for seen in server.seen:
                assert seen.headers["authorization"].endswith(f"Signature={signature(seen)}")


def test_a_large_body(requests: Requests) -> None:
    """Before it sends a large body botocore asks whether the service wants it."""
    data = b"x" * (lean.LARGEST_BODY + 1)
    assert requests.put("p/k", data) is True
    assert requests.server.seen[-1].headers["expect"] == "100-continue"
    assert requests.server.seen[-1].body == data


def test_another_version_of_botocore(requests: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a private name of botocore has moved, everything goes through botocore."""
    client = requests.storage.s3client
    with monkeypatch.context() as moved:
        moved.delattr(botocore.client.BaseClient, "_make_api_call")
        assert lean._lean_of(client)._is_watched(client, lean.GET)

    def moved_too(client: Any, event: str) -> Any:
        raise AttributeError(event)

    monkeypatch.setattr("pywren.aws.lean.event_handlers", moved_too)
    for client in (requests.storage.s3client, requests.aws.client("lambda")):
        client.meta.events.register("another-event", lambda **_: None)  # so that all handlers are looked at again
    assert all_kinds(requests) == [True] * 4


def test_many_places(requests: Requests, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not more forms are kept than there is a use for."""
    monkeypatch.setattr(lean, "MOST_FORMS", 3)
    for number in range(10):
        requests.invoke(f"f-{number % 5}")
    assert len(lean._lean_of(requests.aws.client("lambda"))._forms) <= 3


# -- listings ------------------------------------------------------------------------------------------------


def test_scanning_a_page() -> None:
    """Keys, times and the token are found."""
    assert scan_page(page(["a%2Bb", "c+d", "e"], "t=")) == Page(
        ["a+b", "c d", "e"], [f"2026-03-02T10:00:0{index}.000Z" for index in range(3)], "t="
    )
    assert scan_page(page([])) == Page([], [], None)


BODY = page(["p/1", "p/2"])
STRANGE = {
    "empty": b"",
    "cut off": BODY[:-20],
    "another document": b"<Error><Code>InternalError</Code></Error>",
    "no encoding": BODY.replace(b"<EncodingType>url</EncodingType>", b""),
    "a comment": BODY.replace(b"<Contents>", b"<!-- <Key>x</Key> --><Contents>", 1),
    "CDATA": BODY.replace(b"p/1", b"<![CDATA[p/1]]>"),
    "a character reference": BODY.replace(b"p/1", b"p/&#49;"),
    "an entity": BODY.replace(b"p/1", b"p/&amp;"),
    "a prefix of names": BODY.replace(b"<Key>p/1</Key>", b"<s3:Key>p/1</s3:Key>"),
    "attributes": BODY.replace(b"<Key>p/1", b'<Key a="b">p/1'),
    "an empty key": BODY.replace(b"<Key>p/1</Key>", b"<Key/>"),
    "no times": BODY.replace(b"<LastModified>", b"<Modified>").replace(b"</LastModified>", b"</Modified>"),
    "truncated without a token": BODY.replace(b">false<", b">true<"),
    "not ASCII": BODY.replace(b"p/1", "p/ä".encode()),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_listing_in_another_form(troubled: tuple[Requests, Requests], pauses: list[float], name: str) -> None:
    """A page that is not in S3's own form is left to botocore's parser, which gets the same answer."""
    assert scan_page(STRANGE[name]) is None
    plain, ours = (outcome(requests, "list", [answer(200, STRANGE[name])], pauses) for requests in troubled)
    assert plain == ours


def test_a_missing_key(requests: Requests) -> None:
    """The usual refusal costs one request, and keeps the form."""
    requests.server.script = [refusal(404, "NoSuchKey")]
    with pytest.raises(StorageNoSuchKeyError):
        requests.get()
    requests.get()
    assert [seen.by_botocore for seen in requests.server.seen] == [False, False]
    assert usual(requests.server.seen[-1]).sent
