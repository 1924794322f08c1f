"""``Container``: one execution environment, that is, a process that runs the deployed code under awslambdaric.

A container serves the Lambda Runtime API to that process on its own port, one request at a time. It kills the process
at the function's time-out. It also watches the memory: beyond the limit it kills the largest process, as the kernel
would. A time-out or crash *resets* the environment: the process restarts, and ``/tmp`` is kept.

Where the kernel allows it (``unshare``), the environment has its own user, mount and process namespaces: a private
``/tmp`` of ``EphemeralStorage`` size, the code read-only at ``/var/task``, layers at ``/opt``, no ``/dev/shm``, and no
home directory. No process outlives the environment. Where the kernel does not allow namespaces, ``TMPDIR`` names a
directory, and the environment's first process kills the others.

Between invocations all processes in the container are stopped, as on Lambda. This happens after a short delay, so that
a container that is reused immediately does not have to be resumed.

The ``Container`` runs on the event loop of the emulator's process; the deployed code runs in the container's own
processes. They communicate through the Runtime API's socket and the pipe to the container's first process.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pywren.exceptions import EmulatorError
from pywren.testing.emulator._environment import (
    INTERPRETER,
    KILLED,
    LAYER_ROOT,
    TASK_ROOT,
    Environment,
    Plan,
    can_isolate,
    container_view,
    memory_kib,
)
from pywren.testing.emulator._functions import Revision
from pywren.testing.emulator._interpreter import PYTHON
from pywren.testing.emulator._output import Output
from pywren.testing.emulator._runtime_api import Answer, RuntimeApi
from pywren.testing.emulator._settings import Settings

__all__ = ["Container", "Invocation", "Reply", "can_isolate"]

_FREEZE_SECONDS = 0.05
_WATCH_SECONDS = 0.02
_NO_HOME = "/home/sbx_user1051"  # HOME has this value on Lambda, where the directory does not exist either


@dataclass(frozen=True)
class Invocation:
    """One requested execution.

    Args:
        request_id: the request's id.
        payload: the event as JSON.
        kill_at: when a fault kills the container: ``start``, ``running`` or ``before_response``; ``None`` for never.
        kill_after: with ``running``, the container is killed at most this number of seconds after the event.
        start_delay: the seconds that a fault adds to a cold start.
    """

    request_id: str
    payload: bytes
    kill_at: str | None = None
    kill_after: float = 0.0
    start_delay: float = 0.0


@dataclass(frozen=True)
class Reply:
    """The result of an execution.

    Args:
        payload: what the function returned, or Lambda's JSON for the error (``errorType``, ``errorMessage``, …).
        error: ``Handled`` or ``Unhandled`` as in ``X-Amz-Function-Error``; ``""`` without an error.
        duration_ms: the time from the moment when the process gets the event until its answer.
        billed_ms: the billed time, rounded up, including the init phase.
        init_ms: the duration of the init phase of a cold start; ``None`` when warm.
        max_memory_mb: the most memory that the environment used.
        log_tail: the last 4 KiB of the log.
        outcome: ``ok``, ``error``, ``timeout``, ``killed``, ``exited`` or ``init``, as in ``Execution``.
        alive: whether the container can run another invocation; false after a kill from outside.
    """

    payload: bytes
    error: str
    duration_ms: float
    billed_ms: int
    init_ms: float | None
    max_memory_mb: int
    log_tail: bytes
    outcome: str
    alive: bool


@dataclass(frozen=True)
class _Ending:
    """How an invocation, or the init phase, ended.

    Args:
        outcome: as in ``Reply``.
        payload: as in ``Reply``.
        error_type: Lambda's name for the error; ``""`` without an error, or when the function reported it itself.
        lines: the lines that Lambda writes to the log about this.
    """

    outcome: str
    payload: bytes
    error_type: str = ""
    lines: tuple[str, ...] = ()


class Container:
    """One execution environment.

    Args:
        function_name: the function's name.
        arn: the function's ARN.
        revision: the revision of the function to run.
        settings: the emulator's settings; the limits and the isolation apply here.
        python: the interpreter.
        directory: the container's own directory, removed when the container is closed.
        endpoint: the gateway's URL, for the function's own requests.
        credentials: access key, secret and token of the execution role.
        log: takes each line of the log with its time in milliseconds. If it has attributes ``group`` and ``stream``,
            the function sees them as the names of its log group and log stream.
    """

    def __init__(
        self,
        function_name: str,
        arn: str,
        revision: Revision,
        *,
        settings: Settings,
        python: Path,
        directory: Path,
        endpoint: str,
        credentials: tuple[str, str, str],
        log: Callable[[int, str], None],
    ) -> None:
        self._name, self._arn, self._revision = function_name, arn, revision
        self._settings, self._python, self._directory = settings, python, directory
        self._endpoint, self._credentials, self._log = endpoint, credentials, log
        self._environment: Environment | None = None
        self._made = AsyncExitStack()
        self._kill_at: str | None = None
        self._struck = self._watched = self._frozen = self._closed = False
        self._freezing: asyncio.TimerHandle | None = None

    async def run(self, invocation: Invocation) -> Reply:
        """Run one invocation, and start the process if necessary; the reply also reports failures of the function.

        On a cold start the init phase comes first. Up to ``init_seconds``, it does not count towards the time-out.

        Raises:
            EmulatorError: the environment cannot be set up on this machine.
        """
        init_ms: float | None = None
        if self._environment is None:
            await self._build()
            self._output.begin()
            refused = _wrong_runtime(self._revision.settings)
            if refused is None:
                await asyncio.sleep(invocation.start_delay)
                init_ms = await self._first_init()
        else:
            self._output.begin()
            refused = _wrong_runtime(self._revision.settings)
            self._thaw()
        self._struck, self._kill_at = False, invocation.kill_at
        began = time.perf_counter()
        ending = refused or await self._invoke(invocation, began)
        duration_ms = min((time.perf_counter() - began) * 1000, self._revision.timeout * 1000)
        return await self._finish(invocation, ending, duration_ms, init_ms)

    def cut_off(self) -> bool:
        """Kill the container if a fault is to kill it while it runs; tell whether this happened.

        The gateway calls this before a write to S3, which would outlive the container.
        """
        if self._kill_at != "running":
            return False
        self._strike()
        return True

    async def close(self) -> None:
        """Kill all processes of the container, and remove its directory."""
        if self._closed:
            return
        self._closed = True
        if self._freezing is not None:
            self._freezing.cancel()
        await self._made.aclose()

    async def _build(self) -> None:
        """Set up the environment, without starting the function's process."""
        wished = self._settings.isolated
        isolated = await asyncio.to_thread(can_isolate) if wished is None else wished
        self._api = RuntimeApi(limit=self._settings.limits.synchronous_payload, takes_answer=self._takes_answer)
        self._made.push_async_callback(self._api.close)
        address = await self._api.start()
        self._made.push_async_callback(asyncio.to_thread, _remove, self._directory)
        plan = await asyncio.to_thread(self._plan, isolated, address)
        self._output = Output(self._log, tail=self._settings.limits.log_tail)
        self._made.callback(self._output.close)
        environment = Environment(plan, self._output.descriptor)
        self._made.push_async_callback(environment.close)
        await environment.start()
        self._environment = environment

    def _plan(self, isolated: bool, address: str) -> Plan:
        """Create the directories of the environment, and return its ``Plan``."""
        revision = self._revision
        self._directory.mkdir(parents=True, exist_ok=True)
        layers = _merge_layers([layer.directory for layer in revision.layers], self._directory / "opt")
        memory = memory_kib(revision.memory_mb)
        if not isolated:
            scratch = self._directory / "tmp"
            scratch.mkdir()
            env = self._variables(address, str(revision.code.directory), str(layers or self._directory / "opt"))
            env |= {"TMPDIR": str(scratch), "HOME": str(self._directory / "home"), "PYTHONDONTWRITEBYTECODE": "1"}
            return Plan(
                False,
                [str(self._python), "-m", "awslambdaric", revision.settings["Handler"]],
                env,
                str(revision.code.directory),
                memory,
            )
        binds, links = container_view(self._python, revision.code.directory, layers)
        size = int(revision.settings.get("EphemeralStorage", {}).get("Size", 512)) * 1024 * 1024
        root = self._directory / "root"
        env = self._variables(address, TASK_ROOT, LAYER_ROOT)
        command = [INTERPRETER, "-m", "awslambdaric", revision.settings["Handler"]]
        return Plan(True, command, env, TASK_ROOT, memory, size, str(root), binds, links)

    def _variables(self, address: str, code: str, layers: str) -> dict[str, str]:
        """Return the function's environment variables: Lambda's defaults, its own variables, and reserved variables."""
        settings = self._revision.settings
        own = dict(settings.get("Environment", {}).get("Variables", {}))
        path = [code, f"{layers}/python/lib/{PYTHON}/site-packages", f"{layers}/python"]
        path += [own.pop("PYTHONPATH")] if "PYTHONPATH" in own else []
        region = self._settings.region
        key, secret, token = self._credentials
        return {
            "PATH": f"/var/lang/bin:/usr/local/bin:/usr/bin:/bin:{layers}/bin",
            "LD_LIBRARY_PATH": f"{code}:{code}/lib:{layers}/lib",
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "HOME": _NO_HOME,
            **own,
            "PYTHONPATH": ":".join(path),
            "LAMBDA_TASK_ROOT": code,
            "LAMBDA_RUNTIME_DIR": "/var/runtime",
            "_HANDLER": settings["Handler"],
            "AWS_LAMBDA_RUNTIME_API": address,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{PYTHON}",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_FUNCTION_NAME": self._name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self._revision.memory_mb),
            "AWS_LAMBDA_LOG_GROUP_NAME": getattr(self._log, "group", f"/aws/lambda/{self._name}"),
            "AWS_LAMBDA_LOG_STREAM_NAME": getattr(self._log, "stream", f"[$LATEST]{uuid.uuid4().hex}"),
            "AWS_REGION": region,
            "AWS_DEFAULT_REGION": region,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_SESSION_TOKEN": token,
            # Lambda does not set these variables: they direct the function's requests here, not to the user's own
            # account.
            "AWS_ENDPOINT_URL": self._endpoint,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    async def _first_init(self) -> float:
        """Run the init phase of a cold start and return its duration; if the phase fails, the invocation repeats it."""
        arn = f"arn:aws:lambda:{self._settings.region}::runtime:{hashlib.sha256(PYTHON.encode()).hexdigest()}"
        self._output.say(
            f"INIT_START Runtime Version: {PYTHON.replace('python', 'python:')}.v1\tRuntime Version ARN: {arn}"
        )
        began = time.perf_counter()
        failure = await self._init(self._settings.limits.init_seconds)
        took = (time.perf_counter() - began) * 1000
        if failure is not None:
            self._report_init(took, "init", failure)
        return took

    async def _init(self, seconds: float, request_id: str = "") -> _Ending | None:
        """Start the process, and wait until it asks for an event; return ``None``, or how the start failed."""
        environment = self._running_environment()
        self._api.reset()
        environment.launch()
        self._watched = True
        await _first_of(self._api.asked, self._api.init_error, environment.exited, seconds=seconds)
        if self._api.asked.done():
            return None
        posted = self._api.init_error.result() if self._api.init_error.done() else None
        exited = environment.exited.result() if environment.exited.done() else None
        await environment.kill()
        self._output.drain()
        if posted is not None:
            return _Ending("init", posted, str(_error_type(posted)))
        if exited is None:
            return _timed_out(request_id, self._revision.timeout)
        return _exited(request_id, exited, "init")

    def _report_init(self, took_ms: float, phase: str, failure: _Ending) -> None:
        timed_out = failure.outcome == "timeout"
        status = "Status: timeout" if timed_out else f"Status: error\tError Type: {failure.error_type}"
        self._output.say(f"INIT_REPORT Init Duration: {took_ms:.2f} ms\tPhase: {phase}\t{status}")

    async def _invoke(self, invocation: Invocation, began: float) -> _Ending:
        """Hand the event to the process when it asks for one, and return how the invocation ended."""
        request_id = invocation.request_id
        if not (failure := await self._make_ready(request_id)):
            remaining = self._revision.timeout - (time.perf_counter() - began)
            self._output.say(f"START RequestId: {request_id} Version: $LATEST")
            return await self._hand_over(invocation, remaining)
        self._report_init((time.perf_counter() - began) * 1000, "invoke", failure)
        self._output.say(f"START RequestId: {request_id} Version: $LATEST")
        return failure

    async def _make_ready(self, request_id: str) -> _Ending | None:
        """Wait until the process asks for an event; after a reset, start it first, within the invocation's time-out."""
        environment = self._running_environment()
        timeout = self._revision.timeout
        if environment.running and not self._api.asked.done():
            await _first_of(self._api.asked, environment.exited, seconds=timeout)
            if not self._api.asked.done():
                await environment.kill()
        if environment.running:
            return None
        if environment.lost:
            return _exited(request_id, KILLED, "killed")
        return await self._init(timeout, request_id)

    async def _hand_over(self, invocation: Invocation, seconds: float) -> _Ending:
        environment = self._running_environment()
        headers = {
            "Lambda-Runtime-Deadline-Ms": str(int((time.time() + seconds) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": self._arn,
            "Lambda-Runtime-Trace-Id": f"Root=1-{int(time.time()):08x}-{uuid.uuid4().hex[:24]};Sampled=0",
        }
        timers = [asyncio.get_running_loop().call_later(_WATCH_SECONDS, self._watch)]
        if invocation.kill_at == "running":
            timers.append(asyncio.get_running_loop().call_later(invocation.kill_after, self._strike))
        try:
            self._api.hand_over(invocation.request_id, invocation.payload, headers)
            if invocation.kill_at == "start":
                self._struck = True
                await environment.kill()
            else:
                await _first_of(self._api.answer, environment.exited, seconds=seconds)
        finally:
            self._kill_at = None
            for timer in timers:
                timer.cancel()
        if self._struck or environment.lost:
            return _exited(invocation.request_id, KILLED, "killed")
        if self._api.answer.done():
            return self._answered(self._api.answer.result())
        if environment.exited.done():
            return _exited(invocation.request_id, environment.exited.result(), "exited")
        await environment.kill()
        return _timed_out(invocation.request_id, self._revision.timeout)

    def _answered(self, answer: Answer) -> _Ending:
        if answer.kind == "response":
            return _Ending("ok", answer.body)
        if answer.kind == "error":
            return _Ending("error", answer.body)
        limit = self._settings.limits.synchronous_payload
        message = f"Response payload size exceeded maximum allowed payload size ({limit} bytes)."
        kind = "Function.ResponseSizeTooLarge"
        return _Ending("error", _error(kind, message), kind)

    async def _finish(
        self, invocation: Invocation, ending: _Ending, duration_ms: float, init_ms: float | None
    ) -> Reply:
        """Write the last lines of the log, and return the reply."""
        environment = self._running_environment()
        if self._watched and environment.running:
            await environment.rest()
        self._watched = False
        self._output.drain()
        for line in ending.lines:
            self._output.say(line)
        billed_ms = math.ceil(duration_ms + (init_ms or 0.0))
        size = self._revision.memory_mb
        used = min(size, math.ceil(environment.most_kib / 1024))
        request = f"RequestId: {invocation.request_id}"
        self._output.say(f"END {request}")
        fields = [
            f"REPORT {request}",
            f"Duration: {duration_ms:.2f} ms",
            f"Billed Duration: {billed_ms} ms",
            f"Memory Size: {size} MB",
            f"Max Memory Used: {used} MB",
        ]
        fields += [f"Init Duration: {init_ms:.2f} ms"] if init_ms is not None else []
        if ending.outcome == "timeout":
            fields.append("Status: timeout")
        elif ending.error_type:
            fields += ["Status: error", f"Error Type: {ending.error_type}"]
        self._output.say("\t".join([*fields, ""]))
        alive = not (self._struck or environment.lost)
        if alive and environment.running:
            self._freezing = asyncio.get_running_loop().call_later(_FREEZE_SECONDS, self._freeze)
        error = "" if ending.outcome == "ok" else "Unhandled"
        tail, outcome = self._output.tail, ending.outcome
        return Reply(ending.payload, error, duration_ms, billed_ms, init_ms, used, tail, outcome, alive)

    def _running_environment(self) -> Environment:
        if self._environment is None:  # pragma: no cover - ``run`` builds it first
            raise EmulatorError("a container was used before it was built")
        return self._environment

    def _takes_answer(self) -> bool:
        if self._kill_at is None:
            return True
        self._strike()
        return False

    def _strike(self) -> None:
        self._struck = True
        self._running_environment().send("kill")

    def _watch(self) -> None:
        self._watched = True
        self._running_environment().send("watch")

    def _freeze(self) -> None:
        self._frozen = True
        self._running_environment().send("stop")

    def _thaw(self) -> None:
        if self._freezing is not None:
            self._freezing.cancel()
        if self._frozen:
            self._frozen = False
            self._running_environment().send("cont")


async def _first_of(*futures: asyncio.Future[Any], seconds: float) -> None:
    """Wait until one of the futures is done or the time is over; the caller must check which of these happened."""
    await asyncio.wait(futures, timeout=max(seconds, 0.0), return_when=asyncio.FIRST_COMPLETED)


def _wrong_runtime(settings: Mapping[str, Any]) -> _Ending | None:
    runtime = settings.get("Runtime", PYTHON)
    if runtime == PYTHON:
        return None
    kind = "Runtime.InvalidRuntime"
    message = f"the function's runtime is {runtime}; this emulator runs on {PYTHON} and supports no other"
    return _Ending("init", _error(kind, message), kind, (message,))


def _timed_out(request_id: str, seconds: float) -> _Ending:
    text = f"Task timed out after {seconds:.2f} seconds"
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
    payload = _error("Sandbox.Timedout", f"RequestId: {request_id} Error: {text}")
    return _Ending("timeout", payload, "Sandbox.Timedout", (f"{stamp} {request_id} {text}",))


def _exited(request_id: str, code: int, outcome: str) -> _Ending:
    if code == 0:
        text = "Runtime exited without providing a reason"
    elif code > 0:
        text = f"Runtime exited with error: exit status {code}"
    else:
        text = f"Runtime exited with error: signal: {(signal.strsignal(-code) or str(-code)).lower()}"
    message = f"RequestId: {request_id} Error: {text}"
    return _Ending(outcome, _error("Runtime.ExitError", message), "Runtime.ExitError", (message, "Runtime.ExitError"))


def _error(kind: str, message: str) -> bytes:
    return json.dumps({"errorType": kind, "errorMessage": message}).encode()


def _error_type(posted: bytes) -> str:
    """Return the type of the error in the text that a runtime client posted; the text need not be valid JSON."""
    try:
        found = json.loads(posted)
    except ValueError:
        return "Runtime.Unknown"
    return str(found.get("errorType", "Runtime.Unknown")) if isinstance(found, dict) else "Runtime.Unknown"


def _merge_layers(layers: list[Path], directory: Path) -> Path | None:
    """Return a directory with hard links to the files of all layers; later layers replace files of earlier layers."""
    if len(layers) < 2:
        return layers[0] if layers else None
    for layer in reversed(layers):
        _link_tree(layer, directory)
    return directory


def _link_tree(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for entry in os.scandir(source):
        place = target / entry.name
        if entry.is_dir(follow_symlinks=False):
            if not os.path.lexists(place) or place.is_dir():
                _link_tree(Path(entry.path), place)
        elif not os.path.lexists(place):
            os.link(entry.path, place, follow_symlinks=False)


def _remove(directory: Path) -> None:
    """Remove a directory, including directories that the function made unreadable."""
    for path, names, _ in os.walk(directory):
        for name in names:
            if not os.path.islink(os.path.join(path, name)):
                os.chmod(os.path.join(path, name), 0o700)
    shutil.rmtree(directory, ignore_errors=True)
