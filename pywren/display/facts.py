"""``CallFacts``: when one call was where, and what it used: what summaries, costs and timelines are made from.

Everything comes from what this process knows already, so no request is sent, and no future is marked as collected.
Times are in seconds since the epoch. Those of the worker are by the worker's clock, which may differ from the client's
by some milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pywren.client import call_state
from pywren.client.call_state import DONE, RUNNING
from pywren.client.verdict import Verdict
from pywren.cloud.prices import Billing, measured
from pywren.exceptions import CallError
from pywren.future import ResponseFuture
from pywren.wire.reading import number
from pywren.wire.status import Status
from pywren.worker.task import RunResult

_NOTHING: Mapping[str, Any] = {}


class CallFacts(NamedTuple):
    """What is known about one call; ``None`` for what is not known.

    Args:
        call_id: the call.
        callset_id: its callset.
        state: ``invoked``, ``running``, ``success``, ``error`` or ``cancelled``.
        error: the name of the class of the error.
        message: the error in words.
        submitted: when ``map`` was called.
        invoked: when the service accepted the attempt that has ended the call, or the latest one; ``None`` for a call
            that was never invoked, and if an earlier client did it.
        began: when its worker began to handle it.
        started: when the function began to run.
        returned: when the function had returned or raised.
        known: when this process knew the outcome.
        wait: seconds from the invocation to the worker.
        start: seconds in which the worker got function, argument and process ready.
        run: seconds in which the function ran.
        transfer: seconds from the function's return until this process knew the outcome.
        billed: seconds of the worker's time that the worker itself measured; only of calls on Lambda.
        memory_mb: the memory of the function, in megabytes, as its worker says.
        architecture: ``x86_64`` or ``arm64``.
        result_bytes: the size of the pickled result.
        is_output_apart: whether the result is an object of its own in the storage.
        downloads: how many objects the worker fetched.
        attempts: how many attempts were made; 0 if the call was not invoked.
        backups: how many of these were started beside another.
        where: the worker: a log stream, an instance or a process.
        was_cold: whether the worker had to get the runtime first.
        invocations: the service's ids of the invocations of its attempts, which calls of a chunk share; an empty text
            for one that is unknown, and nothing if all are.
        page: the key of the page of a journal that contains its status; ``None`` if that is an object of its own.
    """

    call_id: str
    callset_id: str
    state: str
    error: str | None
    message: str
    submitted: float | None
    invoked: float | None
    began: float | None
    started: float | None
    returned: float | None
    known: float | None
    wait: float | None
    start: float | None
    run: float | None
    transfer: float | None
    billed: float | None
    memory_mb: float | None
    architecture: str | None
    result_bytes: int | None
    is_output_apart: bool
    downloads: int
    attempts: int
    backups: int
    where: str
    was_cold: bool | None
    invocations: Sequence[str] = ()
    page: str | None = None


class MapFacts(NamedTuple):
    """What is known about one callset, as far as its calls are among those that are looked at.

    Args:
        callset_id: the callset.
        place: where its calls run, in words.
        submitted: when ``map`` was called, in seconds since the epoch.
        staged: when function and arguments were stored, if they were.
        function_bytes: the size of the function with its modules.
        argument_bytes: the size of all arguments of the map.
        billing: what is needed to say what its calls cost; ``None`` if they do not run on Lambda.
        is_local: whether its calls run on this machine.
        calls: the calls that are looked at.
    """

    callset_id: str
    place: str
    submitted: float | None
    staged: float | None
    function_bytes: int | None
    argument_bytes: int | None
    billing: Billing | None
    is_local: bool
    calls: Sequence[CallFacts]


def facts_of(futures: Iterable[ResponseFuture]) -> list[MapFacts]:
    """Return what this process knows about some calls, by callset. It sends no request.

    Args:
        futures: futures of calls that were invoked. Several futures of one call count once.
    """
    groups: dict[str, dict[str, ResponseFuture]] = {}
    for one in futures:
        groups.setdefault(one.callset_id, {}).setdefault(one.call_id, one)
    return [_map_facts(callset_id, list(calls.values())) for callset_id, calls in groups.items()]


def _map_facts(callset_id: str, futures: Sequence[ResponseFuture]) -> MapFacts:
    origin = futures[0]._invoked()
    shared = origin.invoke_status(futures[0])
    uploaded = [
        began + took
        for what in ("func", "data")
        if (began := number(shared.get(f"{what}_upload_timestamp"))) is not None
        and (took := number(shared.get(f"{what}_upload_time"))) is not None
    ]
    is_driven = origin.counts() is not None  # by this process, which then knows all attempts
    return MapFacts(
        callset_id=callset_id,
        place=origin.place,
        submitted=number(origin.callset.submitted),
        staged=max(uploaded, default=None),
        function_bytes=_whole(shared.get("func_module_str_len")),
        argument_bytes=_whole(shared.get("data_size_bytes")),
        billing=origin.callset.billing,
        is_local=origin.place == "on this machine",
        calls=[_call_facts(one, is_driven=is_driven) for one in futures],
    )


def _call_facts(future: ResponseFuture, *, is_driven: bool) -> CallFacts:
    origin = future._invoked()
    verdict = call_state.verdict_of(future) if future._state in DONE else None
    status = (origin.run_status(future) if verdict is not None else None) or _NOTHING
    client = origin.invoke_status(future) if verdict is not None else _NOTHING
    attempts = origin.attempts(future)
    # The attempt whose status counts may not be the latest: a backup may have lost.
    mine = [one for one in attempts if one.number == status.get("attempt", 1)] or attempts[-1:]
    submitted = number(origin.callset.submitted)
    began = number(status.get("start_time"))
    invoked = None
    was_invoked = bool(attempts) or _was_invoked(status, client, is_driven=is_driven)
    if mine:
        invoked = number(mine[0].invoked_at)
    elif was_invoked:
        invoked = number(client.get("lambda_invoke_timestamp")) or submitted
    setup, run = number(status.get("setup_time")), number(status.get("exec_time"))
    used = measured(status)
    source = None if verdict is None else verdict.source
    started = _sum(began, setup)
    returned = _sum(started, run)
    known = number(client.get("status_done_timestamp"))
    error = future._exception
    return CallFacts(
        call_id=future.call_id,
        callset_id=future.callset_id,
        state=_state(future),
        error=None if error is None else type(error).__name__,
        message="" if error is None else _text(error),
        submitted=submitted,
        invoked=invoked,
        began=began,
        started=started,
        returned=returned,
        known=known,
        # A worker may begin before the service's answer is here, and its clock may be a little slow.
        wait=_between(invoked, began),
        start=setup,
        run=run,
        transfer=_between(returned, known),
        billed=used.seconds,
        memory_mb=used.memory_mb,
        architecture=_architecture(status.get("server_info")),
        result_bytes=_result_bytes(verdict),
        is_output_apart=status.get("output_size") is not None,
        downloads=used.downloads,
        attempts=len(attempts) or int(was_invoked),
        backups=sum(one.backup for one in attempts),
        where=mine[0].where if mine else str(status.get("log_stream_name") or ""),
        was_cold=None if "runtime_cached" not in status else not status["runtime_cached"],
        invocations=[one.request_id for one in attempts] or [str(status.get("aws_request_id") or "")],
        page=source.page if isinstance(source, Status) else None,
    )


def _was_invoked(status: Mapping[str, Any], client: Mapping[str, Any], *, is_driven: bool) -> bool:
    """Tell whether a call was invoked of which this process knows no attempt."""
    if status.get("start_time") is not None:
        return True  # a worker has had it, before this process came
    # Calls of other processes are taken to be invoked, unless a client has ended them before a service accepted them.
    return not is_driven and (status.get("ended_by") != "client" or "lambda_invoke_timestamp" in client)


def _state(future: ResponseFuture) -> str:
    if future.cancelled():
        return "cancelled"
    if future._state in DONE:
        return "success" if future._exception is None else "error"
    return "running" if future._state == RUNNING else "invoked"


def _result_bytes(verdict: Verdict | None) -> int | None:
    source = None if verdict is None else verdict.source
    if isinstance(source, Status):
        return source.output_size if source.outcome is None else len(source.outcome)
    if isinstance(source, RunResult) and source.body is not None:
        return source.body.size
    return None


def _text(error: BaseException) -> str:
    try:
        # The ``str`` of a call's error also names the call. The facts name it themselves, and a summary of many calls
        # would seem to say that all of them were that call.
        return str(error.args[0] if isinstance(error, CallError) and error.args else error)
    except Exception:  # noqa: BLE001 -- ``__str__`` may be the program's
        return ""


_ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


def _architecture(info: Any) -> str | None:
    uname = info.get("uname") if isinstance(info, Mapping) else None
    return _ARCHITECTURES.get(uname.rpartition(" ")[2]) if isinstance(uname, str) else None


# Statuses come from workers, so any of their members may have any type.


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


def _between(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else max(0.0, second - first)
