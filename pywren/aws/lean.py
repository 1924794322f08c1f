"""Sends S3's GetObject, PutObject and ListObjectsV2, and Lambda's Invoke, with a fifth of botocore's work.

botocore composes each request anew, and asks dozens of event handlers on the way: 1 ms of CPU. But two requests of one
kind differ only in a key, a range, a body. So botocore sends the first request of a kind, and this module notes what it
sent: the *form* of the kind. Later requests fill in the form. They are signed by botocore's own signer with the
session's credentials, and go out on a connection that botocore has opened.

**Only the usual case is handled here**: an open connection, a request like the noted one, and the expected answer.
Everything else is botocore's.

- Before sending: what ``unfit_form``, ``unfit_request`` and ``_Lean.is_watched`` name goes through botocore.
- After sending: a refusal, a redirect, a broken connection or an unexpected answer is *handed over*. botocore makes the
  same call, and a handler of its event ``before-send`` gives it the answer that has come already, or raises the error.
  For botocore this was its own first try. So errors, retries, pauses, redirects and their numbers are as without this
  module, and no request is sent twice.

Threads: any thread may call any function. The forms of a client are a dict of immutable objects, and a form may be
noted by several threads at once; the last one counts. What a call hands over is local to its thread.
"""

from __future__ import annotations

import logging
import threading
import types
import uuid
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, quote, urlsplit

from pywren.aws.kept_connections import Reply, borrow
from pywren.aws.s3_pages import Page, page_of, scan_page
from pywren.system.private_names import api_call, connection_pool, event_handlers, event_registrations

Result = TypeVar("Result")

LARGEST_BODY = 2**20
"""The most bytes of a body that is sent here. botocore asks before it sends a body (``Expect: 100-continue``), which
takes a round trip: that pays only for a big one. A payload of Lambda has at most 1 MB."""

MOST_FORMS = 64
"""The most forms of one client: a bucket has three, a function one."""

TRUST = 5
"""How many requests botocore sends after one that failed: its quota of retries, of which a retry takes 5, gets 1 back
with each success ("Standard retry mode", boto3 guide)."""


class Kind(NamedTuple):
    """A kind of request.

    Args:
        operation: the operation's name in botocore's events.
        function: the client's method.
        method: the HTTP method.
    """

    operation: str
    function: str
    method: str


GET = Kind("GetObject", "get_object", "GET")
PUT = Kind("PutObject", "put_object", "PUT")
LIST = Kind("ListObjectsV2", "list_objects_v2", "GET")
INVOKE = Kind("Invoke", "invoke", "POST")


@dataclass(frozen=True)
class Request:
    """One request.

    Args:
        kind: its kind.
        place: the bucket or function.
        ending: what follows in the URL after the part that all requests of the form share.
        arguments: the arguments of botocore's method for the same request.
        headers: the headers that only some requests of this kind have.
        body: what is sent.
    """

    kind: Kind
    place: str
    ending: str
    arguments: Mapping[str, Any] = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


class Note(NamedTuple):
    """What botocore was about to sign.

    Args:
        url: the whole URL.
        headers: the headers.
        context: botocore's notes on the request, of which some concern its signature.
        signer: botocore's object that makes signatures.
        signature: which signature: its version.
        signing: the name of the service and the region in the signature.
    """

    url: str
    headers: Mapping[str, str]
    context: Mapping[str, Any]
    signer: Any
    signature: str
    signing: Mapping[str, str]


@dataclass(frozen=True)
class Form:
    """What all requests of one kind to one bucket or function have in common.

    Args:
        url: the URL without its ending.
        target: the part of ``url`` after the host.
        host: the header ``Host``.
        headers: the headers.
        note: what it was made of.
        context: the parts of the context that concern the signature.
        pool: urllib3's pool with the client's connections.
        timeout: how many seconds the service may send nothing.
    """

    url: str
    target: str
    host: str
    headers: Mapping[str, str]
    note: Note
    context: Mapping[str, Any]
    pool: Any
    timeout: float


# -- the functions -------------------------------------------------------------------------------------------


def get_object(client: Any, bucket: str, key: str, byte_range: tuple[int, int] | None = None) -> Any:
    """Request an object, and return its body: an object with ``read`` and ``close``, such as botocore's.

    Args:
        client: a botocore client for S3, as for the other functions of this module.
        bucket: the bucket.
        key: the object's key.
        byte_range: the first and the last offset, both inclusive; by default the whole object.
    """
    ranged = {} if byte_range is None else {"Range": f"bytes={byte_range[0]}-{byte_range[1]}"}
    request = Request(GET, bucket, _encoded(key), {"Bucket": bucket, "Key": key, **ranged}, ranged)
    return _lean_of(client).send(client, request, lambda reply: reply, lambda answer: answer["Body"])


def put_object(client: Any, bucket: str, key: str, body: bytes, *, if_absent: bool = False) -> None:
    """Store an object. With ``if_absent``, S3 refuses to replace one (``PreconditionFailed``)."""
    arguments: dict[str, Any] = {"Bucket": bucket, "Key": key, "Body": body}
    if if_absent:
        arguments["IfNoneMatch"] = "*"
    request = Request(PUT, bucket, _encoded(key), arguments, {"If-None-Match": "*"} if if_absent else {}, body)
    _lean_of(client).send(client, request, lambda reply: True, lambda answer: True)


def list_objects(client: Any, bucket: str, prefix: str, *, start_after: str = "", token: str = "") -> Page:
    """Return one page of the keys that start with a prefix.

    Args:
        client: a botocore client for S3.
        bucket: the bucket.
        prefix: the prefix.
        start_after: list only keys after this one.
        token: the ``next`` of the page before.
    """
    arguments = {"Bucket": bucket, "Prefix": prefix}
    query = f"?list-type=2&encoding-type=url&prefix={_encoded(prefix, '')}"
    if token:
        arguments["ContinuationToken"] = token
        query += f"&continuation-token={_encoded(token, '')}"
    elif start_after:
        arguments["StartAfter"] = start_after
        query += f"&start-after={_encoded(start_after, '')}"
    request = Request(LIST, bucket, query, arguments)
    return _lean_of(client).send(client, request, lambda reply: scan_page(reply.body), page_of)


class Accepted(NamedTuple):
    """Lambda's answer to an asynchronous invocation.

    Args:
        status: the HTTP status, 202 if Lambda has accepted the event.
        request_id: the id that Lambda gave the request.
    """

    status: int
    request_id: str


def invoke_event(client: Any, function_name: str, payload: bytes) -> Accepted:
    """Start a Lambda function without waiting for it.

    Args:
        client: a botocore client for Lambda.
        function_name: the function's name or ARN.
        payload: the payload as JSON.
    """
    arguments = {"FunctionName": function_name, "InvocationType": "Event", "Payload": payload}
    request = Request(INVOKE, function_name, "", arguments, {"X-Amz-Invocation-Type": "Event"}, payload)
    return _lean_of(client).send(client, request, _accepted, _accepted_by_botocore)


def when_dated(client: Any, note: Callable[[str | None], object]) -> None:
    """Have a function called with the header ``Date`` of each answer that botocore does not see.

    Args:
        client: a botocore client.
        note: the function.
    """
    _lean_of(client).note_date = note


def _accepted(reply: Reply) -> Accepted | None:
    return Accepted(202, reply.header("x-amzn-requestid") or "") if reply.status == 202 else None


def _accepted_by_botocore(answer: Mapping[str, Any]) -> Accepted:
    if "Payload" in answer:
        answer["Payload"].read()  # otherwise the connection does not return to the connection pool
    return Accepted(answer.get("StatusCode", 0), str(answer.get("ResponseMetadata", {}).get("RequestId", "")))


def _encoded(text: str, safe: str = "/") -> str:
    """Return a text as botocore writes it in a URL."""
    return quote(text, safe=f"{safe}-._~")


# -- what goes through botocore ------------------------------------------------------------------------------

_SIGNATURES = ("v4", "s3v4")
_SIGNING = {"region", "signing_name", "disableDoubleEncoding"}
_COMMON_HEADERS = {"user-agent", "content-type", "accept"}
_OWN_HEADERS = {"expect", "range", "if-none-match", "x-amz-invocation-type", "x-amzn-trace-id", "content-length"}
_LIST_PARAMETERS = {"list-type", "encoding-type", "prefix", "continuation-token", "start-after"}
_SIGNATURE_CONTEXT = ("client_config", "has_streaming_input", "payload_signing_enabled", "unsigned_payload")


def unfit_form(request: Request, note: Note, *, direct: bool) -> str:
    """Return why botocore must send all requests like this one; empty if this module can send the same.

    What a setting changes shows in what botocore sent: a dual-stack, FIPS or accelerated endpoint, an endpoint of the
    user's own, the bucket in the host or in the path, the region of a bucket that was found by a redirect. The form has
    all of that. What is named here, a form cannot have.

    Args:
        request: the request.
        note: what botocore sent for it.
        direct: whether the connection leads to the service itself, and not through a proxy.
    """
    path, _, query = note.url.partition("?")
    parameters = parse_qs(query, keep_blank_values=True)
    strange = {name.lower() for name in note.headers} - _COMMON_HEADERS - _OWN_HEADERS
    if not direct:
        return "a proxy is in between"
    if note.signature not in _SIGNATURES:  # anonymous, S3 Express, several regions, a bearer's token
        return f"the signature is {note.signature}"
    if set(note.context.get("signing") or ()) - _SIGNING:
        return "the request has credentials of its own"
    if note.context.get("checksum"):
        return "botocore adds a checksum"
    if strange:
        return f"botocore adds {sorted(strange)}"
    if request.kind is LIST:
        usual = set(parameters) <= _LIST_PARAMETERS and parameters.get("encoding-type") == ["url"]
        return "" if usual else f"botocore asks for {sorted(parameters)}"
    if query or not path.endswith(request.ending):
        return "the URL does not end with the key"
    return ""


def unfit_request(request: Request) -> str:
    """Return why botocore must send this request; empty if this module can send the same."""
    ending = request.ending
    if len(request.body) > LARGEST_BODY:
        return "the body is large"
    # Servers, and libraries on the way, treat such paths as others: leave them as they have always been.
    if request.kind in (GET, PUT) and (ending[:1] in ("", "/", ".") or "//" in ending or "/." in ending):
        return "the path has parts that may be dropped"
    return ""


_EVENTS = (
    *("provide-client-params", "before-parameter-build", "before-endpoint-resolution", "before-call"),
    *("request-created", "choose-signer", "before-sign", "before-send", "response-received", "before-parse"),
    *("needs-retry", "after-call", "after-call-error"),
)
"""The events of one request. A handler of any of them may change or observe it."""

_OWN_MODULES = ("botocore.", "pywren.aws.", "pywren.storage.")
_LOGGERS = tuple(logging.getLogger(name) for name in ("botocore.endpoint", "urllib3.connectionpool"))


def _is_own(handler: Any) -> bool:
    """Tell whether a handler is part of botocore or pywren, so that its effects are known."""
    module = str(getattr(handler, "__module__", ""))
    return module.startswith(_OWN_MODULES) and module != "botocore.stub"


def _is_original(function: Any) -> bool:
    """Tell whether a function is botocore's own, and not a wrapper or mock that replaced it."""
    # A wrapper copies the name of what it wraps, but its code runs in the module that made it.
    return type(function) is types.FunctionType and str(function.__globals__.get("__name__")).startswith("botocore.")


# -- one client ----------------------------------------------------------------------------------------------


class _Ours(threading.local):
    """What the thread's call of a botocore method is about. botocore calls its event handlers on the same thread."""

    request: Request | None = None
    """The request whose form is to be noted, or which has been sent already."""

    answer: Any = None
    """The answer or the error that botocore is to take for that of its first try."""

    note: Note | None = None


class _Lean:
    """The forms of one botocore client.

    It must not refer to the client, which its weak dictionary would keep alive then.

    Args:
        client: the client.
    """

    def __init__(self, client: Any) -> None:
        self.note_date: Callable[[str | None], object] = lambda date: None
        self._service = client.meta.service_model.service_id.hyphenize()
        self._timeout = client.meta.config.read_timeout
        self._forms: dict[tuple[Kind, str], Form] = {}
        # Replaced as a whole: the registrations, and the operations that were looked at since they changed.
        self._watched: tuple[object, dict[str, bool]] = (None, {})
        self._ours = _Ours()
        self._owed = 0  # threads may lose a count of another: it is about the order of magnitude

    def attach(self, client: Any) -> None:
        """Register the handlers that note and hand over."""
        events = client.meta.events
        events.register_last(f"before-sign.{self._service}", self._see)
        events.register_first(f"before-send.{self._service}", self._answer)
        events.register_first(f"needs-retry.{self._service}", self._adopt)

    def send(
        self,
        client: Any,
        request: Request,
        accept: Callable[[Reply], Result | None],
        otherwise: Callable[[Mapping[str, Any]], Result],
    ) -> Result:
        """Send a request.

        Args:
            client: the client.
            request: the request.
            accept: makes the result of a successful answer, or returns ``None`` if the answer is not as expected.
            otherwise: makes the result of botocore's answer.
        """
        form = self._forms.get((request.kind, request.place))
        if form is None or unfit_request(request) or self._must_yield(client, request.kind):
            return otherwise(self._by_botocore(client, request, note=form is None))
        sent = self._first_try(form, request)
        if isinstance(sent, Reply):
            if sent.status < 300:
                result = accept(sent)
                if result is not None:
                    self.note_date(sent.header("date"))
                    return result
            return otherwise(self._hand_over(client, request, sent))
        # Without an open connection botocore opens one. If its pool was closed, the form is to be noted again.
        return otherwise(self._by_botocore(client, request, sent, note=form.pool.pool is None))

    def _must_yield(self, client: Any, kind: Kind) -> bool:
        if self._owed > 0:
            self._owed -= 1
            return True
        return any(logger.isEnabledFor(logging.DEBUG) for logger in _LOGGERS) or self.is_watched(client, kind)

    def is_watched(self, client: Any, kind: Kind) -> bool:
        """Tell whether something besides botocore and pywren may change or observe such requests.

        That is an event handler of the user's, moto or botocore's ``Stubber``, or a function of botocore that was
        replaced, by a mock or by a library that traces requests.
        """
        from botocore.endpoint import Endpoint
        from botocore.httpsession import URLLib3Session

        try:
            registrations = event_registrations(client)
            if registrations is not self._watched[0]:
                self._watched = (registrations, {})
            known = self._watched[1]
            if kind.operation not in known:
                known[kind.operation] = not all(
                    _is_own(handler)
                    for event in _EVENTS
                    for handler in event_handlers(client, f"{event}.{self._service}.{kind.operation}")
                )
            return (
                known[kind.operation]
                or kind.function in vars(client)
                or not all(map(_is_original, (api_call(client), Endpoint.make_request, URLLib3Session.send)))
            )
        except AttributeError:  # another version of botocore has other names: leave all requests to it
            return True

    def _first_try(self, form: Form, request: Request) -> Reply | Exception | None:
        """Return the answer to a request, or the error that botocore would have had; ``None`` if it was not sent."""
        from botocore.exceptions import HTTPClientError

        # Signed before a connection is borrowed: the signer may have to fetch new credentials, which may take long.
        message = compose(form, request)
        connection = None if message is None else borrow(form.pool)
        if message is None or connection is None:
            return None
        method, url = request.kind.method, form.url + request.ending
        try:
            reply = Reply(form.pool, connection, message, method, url, form.timeout)
            if request.kind is not GET or reply.status >= 300:
                reply.load()
        except HTTPClientError as lost:
            error: Exception = lost
            return error
        return reply

    # -- botocore's part -----------------------------------------------------------------------------------

    def _hand_over(self, client: Any, request: Request, reply: Reply) -> Mapping[str, Any]:
        from botocore.awsrequest import AWSResponse

        if reply.status in _ELSEWHERE:
            self._forms.pop((request.kind, request.place), None)  # the next one that succeeds is the new form
        answer = AWSResponse(reply.url, reply.status, dict(reply.headers()), _Body(reply.body))
        return self._by_botocore(client, request, answer, note=reply.status in _ELSEWHERE)

    def _by_botocore(self, client: Any, request: Request, answer: Any = None, *, note: bool) -> Mapping[str, Any]:
        if answer is not None and _is_trouble(answer):
            self._owed = min(self._owed + TRUST, 100 * TRUST)
        ours = self._ours
        if note or answer is not None:
            ours.request, ours.answer = request, answer
        try:
            result: Mapping[str, Any] = getattr(client, request.kind.function)(**request.arguments)
        finally:
            ours.request = ours.answer = ours.note = None
        return result

    def _see(self, request: Any, operation_name: str, **signing: Any) -> None:
        """Note what botocore is about to sign. A handler of ``before-sign``."""
        ours = self._ours
        if ours.request is None or ours.request.kind.operation != operation_name:
            return
        own = request.context.get("signing") or {}
        ours.note = Note(
            url=request.url,
            headers=dict(request.headers.items()),
            context=request.context,
            signer=signing["request_signer"],
            signature=str(signing["signature_version"]),
            signing={
                "signing_name": own.get("signing_name") or signing["signing_name"],
                "region_name": own.get("region") or signing["region_name"],
            },
        )

    def _answer(self, event_name: str, **_: object) -> Any:
        """Give botocore the answer that has come already. A handler of ``before-send``."""
        ours = self._ours
        # The operation is compared, because botocore sends other requests on the way, for example to find a bucket.
        if ours.answer is None or ours.request is None or not event_name.endswith(f".{ours.request.kind.operation}"):
            return None
        answer, ours.answer = ours.answer, None  # botocore itself sends every further try
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _adopt(self, response: Any, endpoint: Any, operation: Any, **_: object) -> None:
        """Make a form of what was noted, if the service has accepted it. A handler of ``needs-retry``."""
        ours = self._ours
        request, note = ours.request, ours.note
        if request is None or note is None or response is None or operation.name != request.kind.operation:
            return
        if response[0].status_code < 300:
            form = form_of(request, note, endpoint.http_session, self._timeout)
            if len(self._forms) >= MOST_FORMS:
                self._forms.clear()
            if form is not None:
                self._forms[request.kind, request.place] = form


_ELSEWHERE = (301, 302, 307, 308, 400)
"""The statuses with which S3 says that a bucket is in another place, or that a signature is for another region."""


def _is_trouble(answer: Any) -> bool:
    return isinstance(answer, Exception) or answer.status_code >= 500 or answer.status_code == 429


class _Body:
    """A body that was read already, as botocore's ``AWSResponse`` and ``StreamingBody`` read one."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def stream(self) -> list[bytes]:
        """Return all pieces."""
        return [self.read()]

    def read(self, amount: int | None = None) -> bytes:
        """Return the next bytes."""
        size = len(self._data) if amount is None else amount
        piece, self._data = self._data[:size], self._data[size:]
        return piece

    def close(self) -> None:
        """Do nothing: the connection was given back."""


_leans: weakref.WeakKeyDictionary[Any, _Lean] = weakref.WeakKeyDictionary()


def _lean_of(client: Any) -> _Lean:
    lean = _leans.get(client)
    if lean is None:
        made = _Lean(client)
        lean = _leans.setdefault(client, made)  # if two threads get here, one of the two is used
        if lean is made:
            lean.attach(client)
    return lean


# -- forms and messages --------------------------------------------------------------------------------------


def form_of(request: Request, note: Note, http_session: Any, timeout: float) -> Form | None:
    """Return the form of a request; ``None`` if botocore must send all requests like this one.

    Args:
        request: the request.
        note: what botocore sent for it.
        http_session: botocore's object that has the connections.
        timeout: how many seconds the service may send nothing.
    """
    path = note.url.partition("?")[0]
    try:
        pool = connection_pool(http_session, note.url)
    except AttributeError:  # another version of botocore has other names
        return None
    if unfit_form(request, note, direct=pool is not None):
        return None
    url = path if request.kind is LIST else path.removesuffix(request.ending)
    parts = urlsplit(url)
    return Form(
        url=url,
        target=url.removeprefix(f"{parts.scheme}://{parts.netloc}") or "/",
        host=parts.netloc.rpartition("@")[2],
        headers={name: value for name, value in note.headers.items() if name.lower() in _COMMON_HEADERS},
        note=note._replace(context={}),  # which may contain a body
        context={name: note.context[name] for name in _SIGNATURE_CONTEXT if name in note.context},
        pool=pool,
        timeout=timeout,
    )


def compose(form: Form, request: Request) -> bytes | None:
    """Return the bytes of a signed request; ``None`` if they would not be one request.

    Raises:
        Exception: what botocore raises if there are no credentials, or if their source fails.
    """
    from botocore.awsrequest import AWSRequest
    from botocore.handlers import add_recursion_detection_header

    kind = request.kind
    headers = {**form.headers, **request.headers, "Host": form.host}
    add_recursion_detection_header({"headers": headers})  # so that AWS stops functions that call each other for ever
    signed = AWSRequest(method=kind.method, url=form.url + request.ending, headers=headers, data=request.body)
    signed.context = dict(form.context)
    note = form.note
    note.signer.get_auth_instance(**note.signing, signature_version=note.signature).add_auth(signed)
    lines = [f"{kind.method} {form.target}{request.ending} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in signed.headers.items()]
    # botocore adds these after it has signed: it counts its tries, and wants no compressed answer.
    lines += [f"amz-sdk-invocation-id: {uuid.uuid4()}", "amz-sdk-request: attempt=1", "Accept-Encoding: identity"]
    if kind.method != "GET":
        lines.append(f"Content-Length: {len(request.body)}")
    head = "\r\n".join(lines)
    # No value may begin another header or request. botocore says what is wrong with it.
    if not head.isascii() or not head.count("\n") == head.count("\r") == len(lines) - 1:
        return None
    return head.encode("ascii") + b"\r\n\r\n" + request.body
