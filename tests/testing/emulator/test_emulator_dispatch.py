"""The dispatcher of the emulated Lambda, with containers that the tests control.

Pages cited: [api] docs.aws.amazon.com/lambda/latest/api/API_<name>.html,
[dg] docs.aws.amazon.com/lambda/latest/dg/<page>.html.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pywren.testing.emulator._container import Invocation, Reply
from pywren.testing.emulator._counters import Execution
from pywren.testing.emulator._dispatch import Dispatcher
from pywren.testing.emulator._faults import Faults
from pywren.testing.emulator._functions import Code, Function, Refusal, Revision
from pywren.testing.emulator._settings import Limits, Settings

BUCKET = "arn:aws:s3:::records"


class Container:
    """A container that runs an invocation until the test gives its answer."""

    def __init__(self, world: World, function: Function, revision: Revision) -> None:
        self.world, self.function, self.revision = world, function, revision
        self.closed = asyncio.Event()

    async def run(self, invocation: Invocation) -> Reply:
        running = Running(self, invocation)
        self.world.running.append(running)
        self.world.most = max(self.world.most, len(self.world.running))
        try:
            return await running.reply
        finally:
            self.world.running.remove(running)

    async def close(self) -> None:
        self.closed.set()
        self.world.closed.append(self)


class Running:
    """An invocation that a container has received."""

    def __init__(self, container: Container, invocation: Invocation) -> None:
        self.container, self.invocation = container, invocation
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()

    def end(self, error: str = "", *, alive: bool = True, payload: bytes = b'"done"') -> None:
        outcome = "error" if error else "ok"
        self.reply.set_result(Reply(payload, error, 1.0, 1, None, 30, b"", outcome, alive))


class Plan:
    """A plan of faults that strike always or never."""

    def __init__(self, *kinds: str, **settings: Any) -> None:
        self.kinds, self.faults = kinds, Faults(**settings)

    def strikes(self, kind: str) -> bool:
        return kind in self.kinds


class Tally:
    """A tally that keeps every event."""

    def __init__(self) -> None:
        self.executions: list[Execution] = []
        self.at_once: list[int] = []
        self.events: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()

    def execution(self, ended: Execution, *, memory_mb: int, at_once: int) -> None:
        assert memory_mb == 512
        self.executions.append(ended)
        self.at_once.append(at_once)

    def event(self, function: str, what: str, change: int = 1) -> None:
        self.events[what] += change

    def fault(self, kind: str) -> None:
        self.faults[kind] += 1


class World:
    """A dispatcher, the functions that it finds, and what it did."""

    def __init__(self, **settings: Any) -> None:
        self.functions: dict[str, Function] = {}
        self.running: list[Running] = []
        self.made: list[Container] = []
        self.closed: list[Container] = []
        self.records: list[tuple[str, dict[str, Any]]] = []
        self.most = 0
        self.now = 0.0
        self.tally = Tally()
        self.record_error: Exception | None = None
        self.dispatcher = Dispatcher(
            make_container=self._make,
            tally=self.tally,
            find=self._find,
            send_record=self._send,
            settings=Settings(**settings),
            clock=lambda: self.now,
        )

    def function(self, name: str = "f", **settings: Any) -> Function:
        arn = f"arn:aws:lambda:us-west-2:123456789012:function:{name}"
        made = Function(name, arn, revision(1), None, "key", state="Active", last_update="Successful", **settings)
        self.functions[name] = made
        return made

    def call(self, function: Function, plan: Plan | None = None, request_id: str = "r") -> asyncio.Task[Reply]:
        return asyncio.ensure_future(self.dispatcher.run(function, b"{}", request_id, plan or Plan()))

    def accept(self, function: Function, plan: Plan | None = None, request_id: str = "r") -> None:
        self.dispatcher.accept(function, b'{"x": 1}', request_id, plan or Plan())

    @property
    def ids(self) -> list[str]:
        return [one.invocation.request_id for one in self.running]

    def _make(self, function: Function, revision: Revision) -> Container:
        self.made.append(Container(self, function, revision))
        return self.made[-1]

    def _find(self, name: str) -> Function:
        if name not in self.functions:
            raise Refusal("ResourceNotFoundException", name)
        return self.functions[name]

    async def _send(self, function: Function, destination: str, record: bytes) -> None:
        if self.record_error is not None:
            raise self.record_error
        self.records.append((destination, json.loads(record)))


def revision(number: int) -> Revision:
    return Revision(number, {"MemorySize": 512, "Timeout": 3}, Code(Path("/nowhere"), "", 0, 0), ())


def event_invoke(**settings: Any) -> dict[str, Any]:
    return {"DestinationConfig": {"OnFailure": {"Destination": BUCKET}}, **settings}


async def turn() -> None:
    """Run everything that can run now."""
    for _ in range(30):
        await asyncio.sleep(0)


def play(scenario: Callable[[World], Awaitable[None]], **settings: Any) -> World:
    """Run a scenario in a new world, which must end clean."""

    async def run() -> World:
        world = World(**settings)
        try:
            await asyncio.wait_for(scenario(world), 30)
        finally:
            await world.dispatcher.close()
        assert world.dispatcher.idle
        assert sorted(map(id, world.made)) == sorted(map(id, world.closed))  # each has ended once
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return world

    return asyncio.run(run())


# -- choosing a container ------------------------------------------------------------------------------------


def test_the_container_used_last_is_used_again() -> None:
    """A free warm container is used before a cold one is made [dg lambda-concurrency], the last used first."""

    async def scenario(world: World) -> None:
        f = world.function()
        calls = [world.call(f), world.call(f)]
        await turn()
        first, second = world.running
        second.end()
        first.end()
        await asyncio.gather(*calls)
        again = world.call(f)
        await turn()
        assert world.running[0].container is first.container
        world.running[0].end()
        assert (await again).payload == b'"done"'

    world = play(scenario)
    assert [(one.container, one.cold) for one in world.tally.executions] == [(2, True), (1, True), (1, False)]
    assert max(world.tally.at_once) == 2


def test_a_container_has_one_request_at_a_time() -> None:
    """A busy container takes no second request; further ones get other containers [dg lambda-concurrency]."""

    async def scenario(world: World) -> None:
        f = world.function()
        calls = [world.call(f) for _ in range(4)]
        for _ in range(4):
            world.accept(f)
        while not world.dispatcher.idle or not world.made:
            await turn()
            busy = [running.container for running in world.running]
            assert len(busy) == len(set(busy))
            for running in list(world.running[:2]):
                running.end()
            await turn()
        await asyncio.gather(*calls)

    world = play(scenario, containers=6)
    assert len(world.made) == world.most == 6  # the last two found a free container
    assert len(world.tally.executions) == 8


def test_no_more_processes_than_containers() -> None:
    """Further calls wait for a process, and none is throttled."""

    async def scenario(world: World) -> None:
        f = world.function()
        calls = [world.call(f, request_id=str(number)) for number in range(5)]
        await turn()
        for number in range(5, 8):
            world.accept(f, request_id=str(number))
        await turn()
        seen = []
        while world.running:
            seen.append(world.ids[0])
            world.running[0].end()
            await turn()
        await asyncio.gather(*calls)
        assert seen == [str(number) for number in range(8)]

    world = play(scenario, containers=2)
    assert (world.most, len(world.made)) == (2, 2)
    assert world.tally.events["throttles"] == 0


def test_an_idle_container_makes_room_for_another_function() -> None:
    """The idle container ends before the other starts."""

    async def scenario(world: World) -> None:
        f, g = world.function("f"), world.function("g")
        call = world.call(f)
        await turn()
        world.running[0].end()
        await call
        other = world.call(g)
        await turn()
        assert world.made[0].closed.is_set()
        assert world.running[0].container.function is g
        world.running[0].end()
        await other

    world = play(scenario, containers=1)
    assert len(world.made) == 2


def test_an_idle_container_ends_after_some_time() -> None:
    """When nobody calls the function, its environment is removed [dg lambda-runtime-environment]."""

    async def scenario(world: World) -> None:
        call = world.call(world.function())
        await turn()
        world.running[0].end()
        await call
        await asyncio.wait_for(world.made[0].closed.wait(), 10)

    play(scenario, idle_seconds=0.01)


def test_a_dead_container_is_not_used_again() -> None:
    """After a kill the next call is cold."""

    async def scenario(world: World) -> None:
        f = world.function()
        for alive in (False, True):
            call = world.call(f)
            await turn()
            world.running[0].end("" if alive else "Unhandled", alive=alive)
            await call

    world = play(scenario)
    assert [one.cold for one in world.tally.executions] == [True, True]


def test_a_container_of_an_old_revision_takes_nothing() -> None:
    """After an update idle ones end at once, busy ones after their call; queued events run the new code."""

    async def scenario(world: World) -> None:
        f = world.function()
        calls = [world.call(f), world.call(f)]
        await turn()
        idle, busy = world.running
        idle.end()
        await calls[0]
        f.current = revision(2)
        await world.dispatcher.retire(f)
        assert idle.container.closed.is_set()
        assert not busy.container.closed.is_set()
        busy.end()
        await calls[1]
        await turn()
        assert busy.container.closed.is_set()
        world.accept(f)
        await turn()
        assert world.running[0].container.revision is f.current
        world.running[0].end()
        await world.dispatcher.wait_idle()

    play(scenario)


def test_an_event_runs_what_is_current_when_it_runs() -> None:
    """An event runs the revision that is current when it starts, not when it was accepted."""

    async def scenario(world: World) -> None:
        f = world.function()
        world.accept(f)
        world.accept(f)
        await turn()
        f.current = revision(2)
        world.running[0].end()
        await turn()
        assert world.running[0].container.revision.number == 2
        world.running[0].end()
        await world.dispatcher.wait_idle()

    play(scenario, containers=1)


# -- limits --------------------------------------------------------------------------------------------------


def test_a_synchronous_call_over_the_accounts_concurrency_is_refused() -> None:
    """It raises TooManyRequestsException, with the reason ConcurrentInvocationLimitExceeded [api Invoke]."""

    async def scenario(world: World) -> None:
        f, g = world.function("f"), world.function("g")
        call = world.call(f)
        await turn()
        with pytest.raises(Refusal) as caught:
            await world.call(g)
        assert (caught.value.code, caught.value.reason) == (
            "TooManyRequestsException",
            "ConcurrentInvocationLimitExceeded",
        )
        world.running[0].end()
        await call
        again = world.call(g)
        await turn()
        world.running[0].end()
        await again

    world = play(scenario, limits=Limits(concurrency=1))
    assert world.tally.events["throttles"] == 1


def test_events_over_the_accounts_concurrency_wait_in_the_queue() -> None:
    """They are throttled, kept, and run once when there is room [dg invocation-async-error-handling]."""

    async def scenario(world: World) -> None:
        f, g = world.function("f"), world.function("g")
        call = world.call(f)
        await turn()
        for number in range(3):
            world.accept(g, request_id=f"event {number}")
        seen = []
        while not world.dispatcher.idle:
            await turn()
            seen += world.ids
            world.running[0].end()
            await turn()
        await call
        assert seen == ["r", "event 0", "event 1", "event 2"]

    world = play(scenario, limits=Limits(concurrency=1))
    assert world.most == 1
    assert world.tally.events["throttles"] == 3
    assert world.tally.events["retried"] == 0


def test_what_waits_for_this_machine_counts_as_running() -> None:
    """AWS would be running it, so the concurrency limit counts it although there are too few processes here."""

    async def scenario(world: World) -> None:
        f = world.function()
        calls = [world.call(f), world.call(f)]
        await turn()
        with pytest.raises(Refusal):
            await world.call(f)
        for call in calls:
            world.running[0].end()
            await call
            await turn()

    play(scenario, containers=1, limits=Limits(concurrency=2))


def test_reserved_concurrency() -> None:
    """It limits its function and no other can use it [dg configuration-concurrency], with the reason [api Invoke]."""

    async def scenario(world: World) -> None:
        f, g = world.function("f", reserved_concurrency=1), world.function("g")
        calls = [world.call(f), world.call(g)]
        await turn()
        reasons = []
        for function in (f, g):
            with pytest.raises(Refusal) as caught:
                await world.call(function)
            reasons.append(caught.value.reason)
        assert reasons == ["ReservedFunctionConcurrentInvocationLimitExceeded", "ConcurrentInvocationLimitExceeded"]
        for running in list(world.running):
            running.end()
        await asyncio.gather(*calls)

    play(scenario, limits=Limits(concurrency=2))


def test_reserved_concurrency_of_zero_stops_a_function() -> None:
    """Calls are refused; events go to the destination without retries [dg invocation-async-retain-records]."""

    async def scenario(world: World) -> None:
        f = world.function(reserved_concurrency=0, event_invoke=event_invoke())
        with pytest.raises(Refusal, match="ReservedFunctionConcurrent"):
            await world.call(f)
        world.accept(f, request_id="event")
        await world.dispatcher.wait_idle()

    world = play(scenario)
    ((destination, record),) = world.records
    assert destination == BUCKET
    assert record["requestContext"]["condition"] == "ZeroReservedConcurrency"
    assert record["requestContext"]["approximateInvokeCount"] == 0
    assert "responseContext" not in record
    assert world.made == []


def test_the_scaling_rate_is_lambdas() -> None:
    """1,000 new environments are allowed every 10 seconds; unused ones are not saved up [dg scaling-behavior]."""

    async def scenario(world: World) -> None:
        f = world.function()
        world.now = 3600.0
        calls = []
        for started in (1000, 2000):
            calls += [world.call(f) for _ in range(1000)]
            await turn()
            assert len(world.running) == started
            with pytest.raises(Refusal, match="FunctionInvocationRateLimitExceeded"):
                await world.call(f)
            world.now += 10.0
        for running in list(world.running):
            running.end()
        await asyncio.gather(*calls)

    play(scenario, containers=2000, limits=Limits(concurrency=5000))


def test_the_scaling_rate() -> None:
    """Each function's cold starts are counted separately, and warm ones do not count [dg scaling-behavior]."""

    async def scenario(world: World) -> None:
        f, g = world.function("f"), world.function("g")
        call = world.call(f)
        await turn()
        with pytest.raises(Refusal, match="FunctionInvocationRateLimitExceeded"):
            await world.call(f)
        other = world.call(g)
        await turn()
        world.running[1].end()
        await other
        world.running[0].end()
        await call
        again = world.call(f)
        await turn()
        world.now = 11.0
        later = world.call(f)
        await turn()
        assert len(world.running) == 2
        for running in list(world.running):
            running.end()
        await asyncio.gather(again, later)

    play(scenario, limits=Limits(scaling_environments=1))


def test_events_wait_for_the_scaling_rate() -> None:
    """They run as soon as the rate allows [dg invocation-async-error-handling]."""

    async def scenario(world: World) -> None:
        f = world.function()
        call = world.call(f)
        await turn()
        world.accept(f, request_id="event")
        await turn()
        assert world.ids == ["r"]
        world.now = 10.0  # the clock that counts; the timer was set earlier, by the same clock
        await world.dispatcher.retire(f)
        await turn()
        assert world.ids == ["r", "event"]
        for running in list(world.running):
            running.end()
        await call
        await world.dispatcher.wait_idle()

    play(scenario, limits=Limits(scaling_environments=1))


# -- events --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("retries", "runs"), [(None, 3), (0, 1), (1, 2)])
def test_a_failed_event_runs_again(retries: int | None, runs: int) -> None:
    """It runs twice more, or as configured [dg invocation-async-error-handling]; then there is a record.

    The record's form and condition are those of AWS [dg invocation-async-retain-records].
    """

    async def scenario(world: World) -> None:
        settings = {} if retries is None else {"MaximumRetryAttempts": retries}
        world.accept(world.function(event_invoke=event_invoke(**settings)), request_id="event")
        while not world.dispatcher.idle:
            await turn()
            if world.running:
                world.running[0].end("Unhandled", payload=b'{"errorType": "E"}')

    world = play(scenario, limits=Limits(retry_delays=(0.0, 0.0)))
    assert [one.request_id for one in world.tally.executions] == ["event"] * runs
    assert world.tally.events["retried"] == runs - 1
    ((destination, record),) = world.records
    assert destination == BUCKET
    assert record["timestamp"].endswith("Z")
    del record["timestamp"]
    assert record == {
        "version": "1.0",
        "requestContext": {
            "requestId": "event",
            "functionArn": "arn:aws:lambda:us-west-2:123456789012:function:f:$LATEST",
            "condition": "RetriesExhausted",
            "approximateInvokeCount": runs,
        },
        "requestPayload": {"x": 1},
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        "responsePayload": {"errorType": "E"},
    }


def test_retries_wait_a_minute_and_then_two() -> None:
    """The second attempt waits one minute, and the third two [dg invocation-async-error-handling]."""
    waited: list[float] = []

    async def scenario(world: World) -> None:
        loop = asyncio.get_running_loop()
        call_later = loop.call_later

        def soon(delay: float, *call: Any) -> asyncio.TimerHandle:
            if delay not in (60, 120):
                return call_later(delay, *call)
            waited.append(delay)
            return call_later(0, *call)

        loop.call_later = soon  # type: ignore[method-assign,assignment]
        world.accept(world.function())
        while not world.dispatcher.idle:
            await turn()
            if world.running:
                world.running[0].end("Unhandled")

    assert len(play(scenario).tally.executions) == 3
    assert waited == [60, 120]


def test_retries_go_by_the_settings_of_the_moment() -> None:
    """Setting the retries to 0 while a call runs stops them."""

    async def scenario(world: World) -> None:
        f = world.function(event_invoke=event_invoke())
        world.accept(f)
        await turn()
        f.event_invoke = event_invoke(MaximumRetryAttempts=0)
        world.running[0].end("Unhandled")
        await world.dispatcher.wait_idle()

    assert len(play(scenario).tally.executions) == 1


def test_without_a_destination_there_is_no_record() -> None:
    """Lambda discards the event [dg invocation-async-error-handling]."""

    async def scenario(world: World) -> None:
        world.accept(world.function(event_invoke={"MaximumRetryAttempts": 0}))
        await turn()
        world.running[0].end("Unhandled")
        await world.dispatcher.wait_idle()

    world = play(scenario)
    assert (world.records, world.tally.events["records"]) == ([], 0)


def test_a_destination_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The record is lost: AWS only has a metric for that, too [dg invocation-async-retain-records]."""

    async def scenario(world: World) -> None:
        world.record_error = OSError("no such bucket")
        world.accept(world.function(event_invoke=event_invoke(MaximumRetryAttempts=0)))
        await turn()
        world.running[0].end("Unhandled")
        await world.dispatcher.wait_idle()

    assert play(scenario).tally.events["records"] == 0
    assert "no such bucket" in caplog.text


def test_an_event_that_is_too_old_is_given_up() -> None:
    """Beyond ``MaximumEventAgeInSeconds`` it is dropped, with a record [dg invocation-async-configuring].

    Its age is checked when it could run; the time scale makes that testable.
    """

    async def scenario(world: World) -> None:
        f = world.function(event_invoke=event_invoke(MaximumEventAgeInSeconds=60))
        world.accept(f, request_id="runs")
        world.accept(f, request_id="waits")
        await turn()
        world.now = 7.0
        world.running[0].end()
        await world.dispatcher.wait_idle()

    world = play(scenario, containers=1, limits=Limits(event_age_scale=0.1))
    ((_, record),) = world.records
    assert record["requestContext"]["requestId"] == "waits"
    assert record["requestContext"]["condition"] == "EventAgeExceeded"
    assert world.tally.events["expired"] == 1


def test_an_event_is_kept_for_six_hours() -> None:
    """By default events are kept for six hours, and not a second longer [dg invocation-async-error-handling]."""

    async def scenario(world: World) -> None:
        f = world.function(event_invoke=event_invoke())
        for number in range(3):
            world.accept(f, request_id=str(number))
        await turn()
        for age in (6 * 3600.0, 6 * 3600.0 + 1):
            world.now = age
            world.running[0].end()
            await turn()
        await world.dispatcher.wait_idle()

    world = play(scenario, containers=1)
    assert [one.request_id for one in world.tally.executions] == ["0", "1"]
    assert [record["requestContext"]["requestId"] for _, record in world.records] == ["2"]


def test_the_events_of_a_deleted_function_are_dropped() -> None:
    """The events are dropped, and so are its containers."""

    async def scenario(world: World) -> None:
        f = world.function()
        world.accept(f)
        world.accept(f)
        await turn()
        del world.functions["f"]
        await world.dispatcher.retire(f)
        world.running[0].end("Unhandled")
        await world.dispatcher.wait_idle()
        await turn()
        assert world.made[0].closed.is_set()

    world = play(scenario, containers=1)
    assert len(world.tally.executions) == 1
    assert world.tally.events["waiting"] == 0


# -- faults --------------------------------------------------------------------------------------------------


def test_a_dropped_event_never_runs() -> None:
    """It is accepted, and no failure is reported."""

    async def scenario(world: World) -> None:
        world.accept(world.function(event_invoke=event_invoke()), Plan("drop_event"))
        await world.dispatcher.wait_idle()

    world = play(scenario)
    assert (world.made, world.records) == ([], [])
    assert (world.tally.events["accepted"], world.tally.events["dropped"]) == (1, 1)
    assert world.tally.faults == {"drop_event": 1}


def test_a_repeated_event_runs_twice() -> None:
    """Both runs have the same request id, as can happen on AWS [dg invocation-async-error-handling]."""

    async def scenario(world: World) -> None:
        world.accept(world.function(), Plan("repeat_event"), request_id="event")
        await turn()
        assert world.ids == ["event", "event"]
        for running in list(world.running):
            running.end()
        await world.dispatcher.wait_idle()

    assert play(scenario).tally.events["repeated"] == 1


def test_faults_of_a_container() -> None:
    """The container learns which call to kill, when, and how slow its cold start is."""

    async def scenario(world: World) -> None:
        f = world.function()
        for kind in ("kill_container", "none"):
            call = world.call(f, Plan(kind, kill_at="start", cold_start_latency=2.0))
            await turn()
            seen.append(world.running[0].invocation)
            world.running[0].end()
            await call

    seen: list[Invocation] = []
    assert play(scenario).tally.faults == {"kill_container": 1}
    assert [(one.kill_at, one.start_delay) for one in seen] == [("start", 2.0), (None, 0.0)]


# -- the end -------------------------------------------------------------------------------------------------


def test_closing_ends_what_runs_and_waits() -> None:
    """Callers that wait get an answer."""

    async def scenario(world: World) -> None:
        f = world.function()
        calls = [world.call(f), world.call(f)]
        world.accept(f)
        await turn()
        await world.dispatcher.close()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)

    play(scenario, containers=1)


def test_a_caller_that_goes_gives_up_its_place() -> None:
    """A waiting call whose caller has gone is not run; a running one goes on."""

    async def scenario(world: World) -> None:
        f = world.function()
        first, second = world.call(f), world.call(f, request_id="second")
        await turn()
        for call in (first, second):
            call.cancel()
        await turn()
        assert world.ids == ["r"]
        world.running[0].end()
        await world.dispatcher.wait_idle()

    assert len(play(scenario, containers=1).tally.executions) == 1


@pytest.mark.parametrize("event", [True, False])
def test_a_fault_of_the_emulator_ends_it(event: bool) -> None:
    """After its own error no counter or record would be correct, so the emulator ends."""

    async def scenario(world: World) -> None:
        f = world.function(event_invoke=event_invoke())
        ended = asyncio.ensure_future(world.dispatcher.ended())
        call = None if event else world.call(f)
        if event:
            world.accept(f)
        await turn()
        assert not ended.done()
        world.running[0].reply.set_exception(OSError("no more processes"))
        assert "cannot create a container for f: no more processes" in str(await ended)
        if call is not None:
            with pytest.raises(OSError, match="no more processes"):
                await call

    world = play(scenario)
    assert (world.tally.executions, world.records) == ([], [])
