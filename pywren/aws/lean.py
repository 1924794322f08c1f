"""Sends S3's GetObject, PutObject and ListObjectsV2, and Lambda's Invoke, with half of botocore's work.

botocore composes each request anew, and asks dozens of event handlers on the way. But two requests of one kind differ
only in a key, a range, a body. So botocore sends the first request of a kind, and this module notes what it sent: the
*form* of the kind. Later requests fill in the form. botocore's own signer signs them with the session's credentials,
and they are sent over connections that botocore has opened: where none is open, botocore sends the request. So the
endpoint, TLS and time limits are the client's.

**Only the usual answer is handled here.** A refusal, a redirect, a broken connection or an unexpected answer is *handed
over*: botocore makes the same call, and a handler of its event ``before-send`` gives it the answer that has come
already, or raises the error. For botocore this was its own first try. So errors, retries, pauses and redirects are as
without this module, and no request is sent twice. What botocore sends afterwards is noted as the new form.

``form_of`` and ``_Lean._is_watched`` say what goes through botocore from the start.

Threads: any thread may call any function. The forms of a client are a dict of immutable objects, and a form may be
noted by several threads at once; the last one counts. What a call hands over is local to its thread.
"""

from __future__ import annotations

import http.client
import io
import logging
import ssl
import threading
import types
import weakref
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

from pywren.aws.kept_connections import Answer, exchange, request_head
from pywren.aws.s3_pages import Page, page_of, scan_page
from pywren.system.private_names import connection_pool, event_handlers, event_registrations, steps_of_requests

Result = TypeVar("Result")

LARGEST_BODY = 2**20
"""The most bytes of a body that is sent here. botocore asks before it sends a body (``Expect: 100-continue``), which
takes a round trip: that pays only for a big one. A payload of Lambda has at most 1 MB."""

MOST_FORMS = 64
"""The most forms of one client: a bucket has three, a function one."""


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
_KINDS = {"s3": (GET, PUT, LIST), "lambda": (INVOKE,)}


def _read_all(stream: Any) -> bytes:
    data: bytes = stream.read()
    return data


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
        read: reads the body of a successful answer from a stream.
    """

    kind: Kind
    place: str
    ending: str
    arguments: Mapping[str, Any] = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    read: Callable[[Any], bytes] = field(default=_read_all, repr=False)


class Note(NamedTuple):
    """A request that botocore was about to sign.

    Args:
        url: the whole URL.
        headers: the headers.
        context: what botocore knows about the request, of which some concerns its signature.
        signer: botocore's object that signs requests.
    """

    url: str
    headers: Mapping[str, str]
    context: Mapping[str, Any]
    signer: Any


class Form(NamedTuple):
    """What all requests of one kind to one bucket or function have in common.

    Args:
        url: the URL without its ending.
        target: the part of ``url`` after the host.
        headers: the headers.
        context: the parts of the noted context that concern the signature.
        signer: botocore's object that signs requests.
        pool: returns urllib3's pool of the client's connections; ``None`` once the client was closed. (urllib3 2 closes
            connections when nothing refers to their pool.)
    """

    url: str
    target: str
    headers: Mapping[str, str]
    context: Mapping[str, Any]
    signer: Any
    pool: Callable[[], Any | None]


# -- the requests --------------------------------------------------------------------------------------------


def get_object(
    client: Any,
    bucket: str,
    key: str,
    byte_range: tuple[int, int] | None = None,
    read: Callable[[Any], bytes] = _read_all,
) -> bytes:
    """Return the bytes of an object.

    Args:
        client: a botocore client for S3, as for the other functions of this module.
        bucket: the bucket.
        key: the object's key.
        byte_range: the first and the last offset, both inclusive; by default the whole object.
        read: reads the body from a stream, whose ``read`` takes a number of bytes; by default all of it. What it raises
            is raised.
    """
    ranged = {} if byte_range is None else {"Range": f"bytes={byte_range[0]}-{byte_range[1]}"}
    arguments = {"Bucket": bucket, "Key": key, **ranged}
    request = Request(GET, bucket, _encoded(key, "/"), arguments, ranged, read=read)

    def read_stream(answer: Mapping[str, Any]) -> bytes:
        with closing(answer["Body"]) as stream:
            return read(stream)

    data: bytes = _lean_of(client).send(client, request, lambda answer: answer.body, read_stream)
    return data


def put_object(client: Any, bucket: str, key: str, body: bytes, *, if_absent: bool = False) -> None:
    """Store an object. With ``if_absent``, S3 refuses to replace one (``PreconditionFailed``)."""
    arguments: dict[str, Any] = {"Bucket": bucket, "Key": key, "Body": body}
    if if_absent:
        arguments["IfNoneMatch"] = "*"
    request = Request(PUT, bucket, _encoded(key, "/"), arguments, {"If-None-Match": "*"} if if_absent else {}, body)
    # S3 may answer 200 and say in the body that it failed: botocore repeats such a request.
    _lean_of(client).send(client, request, lambda answer: None if answer.body else True, lambda answer: True)


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
    if token:
        arguments["ContinuationToken"] = token
    elif start_after:
        arguments["StartAfter"] = start_after
    # botocore's order
    query = "".join(f"&{_PARAMETERS[name]}={_encoded(value)}" for name, value in arguments.items() if name != "Bucket")
    request = Request(LIST, bucket, f"?list-type=2{query}&encoding-type=url", arguments)
    return _lean_of(client).send(client, request, lambda answer: scan_page(answer.body), page_of)


_PARAMETERS = {"Prefix": "prefix", "ContinuationToken": "continuation-token", "StartAfter": "start-after"}


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


def _accepted(answer: Answer) -> Accepted | None:
    request_id = answer.headers.get("x-amzn-requestid")
    return Accepted(202, request_id) if answer.status == 202 and request_id else None


def _accepted_by_botocore(answer: Mapping[str, Any]) -> Accepted:
    if "Payload" in answer:
        answer["Payload"].read()  # otherwise the connection does not return to the connection pool
    return Accepted(answer.get("StatusCode", 0), str(answer.get("ResponseMetadata", {}).get("RequestId", "")))


def _encoded(text: str, safe: str = "") -> str:
    """Return a text as botocore writes it in a URL."""
    return quote(text, safe=f"{safe}-._~")


# -- forms ---------------------------------------------------------------------------------------------------

_SHARED_HEADERS = {"user-agent", "content-type", "accept"}
_OWN_HEADERS = {"expect", "range", "if-none-match", "x-amz-invocation-type", "x-amzn-trace-id"}
_OWN_CONTEXT = {"input_params", "s3_redirect", "retries", "timestamp"}  # two of these contain the body


def form_of(client: Any, request: Request, note: Note) -> Form | None:
    """Return the form of a request; ``None`` if botocore must send all requests like this one.

    A form has the effect of every setting that shows in the URL or in what the signer looks at: an endpoint of the
    user's own, a dual-stack, FIPS or accelerated endpoint, the bucket in the host or in the path, the region of a
    bucket that was found by a redirect. It cannot have a proxy, a checksum of the body, or a header that is not known.

    Args:
        client: the client that sent the request.
        request: the request.
        note: what botocore sent for it.
    """
    url = note.url.removesuffix(request.ending)
    pool = connection_pool(client, url)
    strange = {name.lower() for name in note.headers} - _SHARED_HEADERS - _OWN_HEADERS
    if pool is None or strange or note.context.get("checksum") or url + request.ending != note.url:
        return None
    shared = {name: value for name, value in note.headers.items() if name.lower() in _SHARED_HEADERS}
    if not all(isinstance(value, str) and value.isascii() and value.isprintable() for value in shared.values()):
        return None  # ``request_head`` refuses it
    return Form(
        url=url,
        target=urlsplit(url).path or "/",
        headers={"Host": _host_of(url), **shared},
        context={name: value for name, value in note.context.items() if name not in _OWN_CONTEXT},
        signer=note.signer,
        pool=weakref.ref(pool),
    )


def _host_of(url: str) -> str:
    """Return the header ``Host`` for a URL: without a port that is the scheme's own, and without a user's name."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else str(parts.hostname)
    own = {"http": 80, "https": 443}.get(parts.scheme)
    return host if parts.port in (None, own) else f"{host}:{parts.port}"


def signed_headers(form: Form, request: Request) -> dict[str, str]:
    """Return the headers of a request, with its signature.

    Raises:
        Exception: what botocore raises if there are no credentials, or if their source fails.
    """
    from botocore.awsrequest import AWSRequest
    from botocore.handlers import add_recursion_detection_header

    headers = {**form.headers, **request.headers}
    add_recursion_detection_header({"headers": headers})  # so that AWS stops functions that call each other for ever
    unsigned = AWSRequest(request.kind.method, form.url + request.ending, headers=headers, data=request.body)
    unsigned.context = dict(form.context)  # the signer writes into it
    form.signer.sign(request.kind.operation, unsigned)
    return dict(unsigned.headers.items())


def as_botocore_says(error: OSError | http.client.HTTPException, url: str) -> Exception:
    """Return botocore's exception for a connection that broke, as ``botocore.httpsession`` raises it."""
    from botocore import exceptions

    table = ((TimeoutError, exceptions.ReadTimeoutError), (ssl.SSLError, exceptions.SSLError))
    for cause, meaning in table:
        if isinstance(error, cause):
            said: Exception = meaning(endpoint_url=url, error=error)
            return said
    closed: Exception = exceptions.ConnectionClosedError(endpoint_url=url, error=error)
    return closed


# -- one client ----------------------------------------------------------------------------------------------

_EVENTS = (
    *("provide-client-params", "before-parameter-build", "before-endpoint-resolution", "before-call"),
    *("request-created", "choose-signer", "before-sign", "before-send", "response-received", "before-parse"),
    *("needs-retry", "after-call", "after-call-error"),
)
"""The events of one request. A handler of any of them may change or observe it."""

_OWN_MODULES = ("botocore.", "pywren.aws.", "pywren.storage.")
_LIBRARIES = ("botocore.", "urllib3.")
_LOGGERS = [logging.getLogger(name) for name in ("botocore.endpoint", "urllib3.connectionpool")]
"""The loggers that show every request at debug level."""


def _is_own(handler: Any) -> bool:
    """Tell whether a handler is part of botocore or pywren, so that its effects are known."""
    module = str(getattr(handler, "__module__", ""))
    return module.startswith(_OWN_MODULES) and module != "botocore.stub"


def _is_original(function: Any) -> bool:
    """Tell whether a function is botocore's or urllib3's own, and not a wrapper or mock that replaced it."""
    # A wrapper copies the name of what it wraps, but its code runs in the module that made it.
    return type(function) is types.FunctionType and str(function.__globals__.get("__name__")).startswith(_LIBRARIES)


class _Call:
    """One call of a botocore method by this module.

    Args:
        answer: the answer or the error that botocore is to take for that of its first try; ``None`` lets it send.
    """

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.note: Note | None = None  # what botocore has sent last


class _Here(threading.local):
    """What this thread does. botocore calls its event handlers on the thread that sends."""

    call: _Call | None = None


class _Lean:
    """The forms of one botocore client.

    It must not refer to the client, which its weak dictionary would keep alive then.

    Args:
        client: the client.
    """

    def __init__(self, client: Any) -> None:
        self.note_date: Callable[[str | None], object] = lambda date: None
        self._service = client.meta.service_model.service_id.hyphenize()
        self._forms: dict[tuple[Kind, str], Form] = {}
        # Replaced as a whole: the registrations, and the operations that were looked at since they changed.
        self._watched: tuple[object, dict[str, bool]] = (None, {})
        self._here = _Here()

    def attach(self, client: Any) -> None:
        """Register the handlers that note and hand over."""
        # For these operations alone: botocore sends other requests on the way, for example to find a bucket.
        for kind in _KINDS[self._service]:
            client.meta.events.register_first(f"before-sign.{self._service}.{kind.operation}", self._see)
            client.meta.events.register_first(f"before-send.{self._service}.{kind.operation}", self._answer)

    def send(
        self,
        client: Any,
        request: Request,
        accept: Callable[[Any], Result | None],
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
        if form is None or len(request.body) > LARGEST_BODY or self._is_watched(client, request.kind):
            return otherwise(self._by_botocore(client, request))
        answer = _answer_to(form, request)
        if answer is None or isinstance(answer, Exception):
            return otherwise(self._by_botocore(client, request, answer))
        result = accept(answer) if answer.status < 300 else None
        if result is None:
            return otherwise(self._by_botocore(client, request, _for_botocore(answer, form.url + request.ending)))
        self.note_date(answer.headers.get("date"))
        return result

    def _is_watched(self, client: Any, kind: Kind) -> bool:
        """Tell whether something besides botocore and pywren may change or observe such requests.

        That is an event handler of the user's, moto or botocore's ``Stubber``, a function on the way of a request that
        was replaced, by a mock or by a library that traces or records requests, or a log at debug level.
        """
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
            method = getattr(getattr(client, kind.function), "__func__", None)
            return (
                known[kind.operation]
                or not all(map(_is_original, [method, *steps_of_requests(client)]))
                or any(logger.isEnabledFor(logging.DEBUG) for logger in _LOGGERS)
            )
        except AttributeError:  # another version of botocore has other names: leave all requests to it
            return True

    def _by_botocore(self, client: Any, request: Request, answer: Any = None) -> Mapping[str, Any]:
        """Have botocore send a request, and note what it sent.

        Args:
            client: the client.
            request: the request.
            answer: the answer that has come already, or the error in its place.
        """
        outer = self._here.call  # of code that this one has interrupted: a signal handler, or a finalizer
        self._here.call = call = _Call(answer)
        try:
            result: Mapping[str, Any] = getattr(client, request.kind.function)(**request.arguments)
        finally:
            self._here.call = outer
        if call.note is not None:  # botocore's Stubber answers before anything is signed
            self._keep(request, form_of(client, request, call.note))
        return result

    def _keep(self, request: Request, form: Form | None) -> None:
        if form is None:
            self._forms.pop((request.kind, request.place), None)
            return
        if len(self._forms) >= MOST_FORMS:
            self._forms.clear()
        self._forms[request.kind, request.place] = form

    def _see(self, request: Any, request_signer: Any, **_: object) -> None:
        """Note what botocore is about to sign. A handler of ``before-sign``."""
        call = self._here.call
        if call is not None:
            call.note = Note(request.url, dict(request.headers.items()), request.context, request_signer)

    def _answer(self, **_: object) -> Any:
        """Give botocore the answer that has come already. A handler of ``before-send``."""
        call = self._here.call
        if call is None:
            return None
        answer, call.answer = call.answer, None  # botocore itself sends every further try
        if isinstance(answer, Exception):
            raise answer
        return answer


def _answer_to(form: Form, request: Request) -> Answer | Exception | None:
    """Send a request.

    Returns:
        The answer; botocore's exception if the connection broke or no answer came in time; ``None`` if nothing was
        sent, because no connection is open.
    """
    method, target, headers = request.kind.method, form.target + request.ending, signed_headers(form, request)
    pool = form.pool()
    if pool is None:  # the client was closed
        return None
    head = request_head(method, target, headers, len(request.body))
    try:
        return exchange(pool, method, head + request.body, request.read)
    except (OSError, http.client.HTTPException) as error:
        return as_botocore_says(error, form.url + request.ending)


def _for_botocore(answer: Answer, url: str) -> Any:
    from botocore.awsrequest import AWSResponse

    headers = {name: ", ".join(answer.headers.get_all(name, ())) for name in answer.headers}
    return AWSResponse(url, answer.status, headers, _Body(answer.body))


class _Body(io.BytesIO):
    """A body that was read already, as botocore's ``AWSResponse`` and ``StreamingBody`` read one."""

    def stream(self) -> list[bytes]:
        """Return all pieces."""
        return [self.read()]


_leans: weakref.WeakKeyDictionary[Any, _Lean] = weakref.WeakKeyDictionary()


def _lean_of(client: Any) -> _Lean:
    lean = _leans.get(client)
    if lean is None:
        made = _Lean(client)
        lean = _leans.setdefault(client, made)  # if two threads get here, one of the two is used
        if lean is made:
            lean.attach(client)
    return lean
