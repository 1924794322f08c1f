"""docs/failures.md, "Lambda itself": failures that only Lambda has, on the emulated AWS."""

from __future__ import annotations

import json
import pickle
import threading
from typing import Any

import hostile
import pytest
from executors import WAIT, Presence, version_module

import pywren
from pywren.aws.requests import AWS
from pywren.client import failure_records
from pywren.client.driver import retrying
from pywren.exceptions import CallLostError, CallTimeoutError, VersionMismatchError, WorkerCrashedError
from pywren.testing.emulator import Counters, Emulator, Fault, Faults
from pywren.testing.emulator._container import can_isolate

HANDLER = b"from pywren_has_lost_this import aws_lambda_handler\n"


@pytest.fixture(scope="module")
def config(emulator: Emulator) -> dict[str, Any]:
    """Return the configuration of a function that no test changes."""
    return emulator.deploy()


@pytest.fixture
def executor(config: dict[str, Any]) -> Any:
    """Return an executor on that function."""
    with pywren.lambda_executor(config=config) as made:
        yield made


@pytest.fixture
def aws(emulator: Emulator) -> Any:
    """Return the emulated account."""
    made = AWS(emulator.region)
    yield made
    made.close()


@pytest.fixture
def presence() -> Any:
    """Return the place where a function shows that it is running."""
    with Presence() as made:
        yield made


def name_of(config: dict[str, Any]) -> str:
    """Return the name of a function."""
    return str(config["lambda"]["function_name"])


def records(aws: AWS, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the objects at a function's on-failure destination."""
    bucket, prefix = config["s3"]["bucket"], f"aws/lambda/async/{name_of(config)}/"
    found = aws.request("s3", "list_objects_v2", doing="list the records", Bucket=bucket, Prefix=prefix)
    keys = [entry["Key"] for entry in found.get("Contents", ())]
    return [
        json.loads(aws.request("s3", "get_object", doing="read a record", Bucket=bucket, Key=key)["Body"].read())
        for key in keys
    ]


def ran(emulator: Emulator, config: dict[str, Any], since: Counters) -> Any:
    """Return what has become of a function's events since then."""
    return (emulator.counters() - since).executions[name_of(config)]


@pytest.fixture
def records_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the client list records at once instead of after some seconds, because few calls leave any."""
    monkeypatch.setattr(failure_records, "LISTING_INTERVAL", 0.1)


def test_the_functions_own_timeout(emulator: Emulator, presence: Presence) -> None:
    """Row 80: the worker stops and reports the call before Lambda would stop the worker; no process of it survives."""
    config = emulator.deploy(timeout=10)  # the call gets 7 s of it: a busy machine takes seconds to start a call
    with pywren.lambda_executor(config=config, job_max_runtime=280) as executor:
        future = executor.call_async(hostile.sleeps_on, presence.address)
        with pytest.raises(CallTimeoutError, match=r"ran out of time.*the function's timeout"):
            future.result(WAIT)
        assert presence.wait()
        assert presence.is_over()
        assert executor.call_async(hostile.echo, "usable").result(WAIT) == "usable"
    emulator.wait_idle()
    assert {each.outcome for each in emulator.executions(name_of(config))} == {"ok"}


def test_the_memory_limit(emulator: Emulator) -> None:
    """Row 81: using too much memory ends the call; the error says so, and gives the function's memory."""
    with pywren.lambda_executor(config=emulator.deploy(memory=192)) as executor:
        future = executor.call_async(lambda size: len(bytes(size).replace(b"\0", b"x")), 1 << 30)
        with pytest.raises(WorkerCrashedError, match=r"out of memory.*the function has 192 MB") as caught:
            future.result(WAIT)
        assert caught.value.signal == 9
        assert executor.call_async(hostile.echo, "usable").result(WAIT) == "usable"


@pytest.mark.usefixtures("records_at_once")
def test_a_container_that_is_killed(emulator: Emulator, aws: AWS, presence: Presence) -> None:
    """Row 82: only Lambda reports the attempt, in a record that the client finds; the next attempt brings the value."""
    config = emulator.deploy()
    with pywren.lambda_executor(config=config) as executor:
        emulator.set_faults(Faults(kill_container=Fault(most=1), kill_at="start"))
        future = executor.call_async(hostile.waits_to_go_on, presence.address)
        assert presence.wait()
        presence.let_go()
        assert future.result(WAIT) == "on time"
        (record,) = records(aws, config)
        assert record["requestContext"]["condition"] == "RetriesExhausted"
        assert record["requestPayload"]["call_id"] == future.call_id
        first, second = future.attempts
        assert (first.cause, second.cause, second.number) == ("killed", None, 2)
        assert "signal: killed" in first.error
        assert [one["cause"] for one in future.run_status["attempts"]] == ["killed", None]


@pytest.mark.usefixtures("records_at_once")
def test_containers_that_are_all_killed(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 82: a call whose workers are killed every time ends after seven attempts, and its error names them."""
    monkeypatch.setattr(retrying, "SHORTEST_DELAY", 0.01)
    config = emulator.deploy()
    with pywren.lambda_executor(config=config) as executor:
        emulator.set_faults(Faults(kill_container=Fault(), kill_at="start"))
        future = executor.call_async(hostile.echo, 1)
        with pytest.raises(WorkerCrashedError, match=r"attempt 1: killed.*attempt 7: killed"):
            future.result(WAIT)
        assert [one.cause for one in future.attempts] == ["killed"] * 7


def test_a_container_that_is_killed_after_its_call(emulator: Emulator, executor: Any) -> None:
    """Row 82: the worker's report counts until the record reveals its key; then the call runs again."""
    assert executor.call_async(hostile.echo, "stored").result(WAIT) == "stored"
    emulator.wait_idle()
    # Until Lambda has written its record, the client cannot read the report, which it would believe.
    no_answers = Fault(caller="client")
    emulator.set_faults(Faults(kill_container=Fault(most=1), kill_at="before_response", lose_s3=no_answers))
    future = executor.call_async(hostile.echo, "reported")
    copied = pickle.loads(pickle.dumps(future))
    emulator.wait_idle()
    emulator.set_faults(Faults())
    assert future.result(WAIT) == copied.result(WAIT) == "reported"
    assert [one.cause for one in future.attempts] == ["killed", None]


def test_dropped_events(emulator: Emulator, config: dict[str, Any], executor: Any) -> None:
    """Row 83: calls that the service has lost are invoked again, although nothing reports them."""
    before = emulator.counters()
    emulator.set_faults(Faults(drop_event=Fault(most=3)))
    futures = executor.map(hostile.echo, range(6))
    assert pywren.get_all_results(futures) == list(range(6))
    emulator.wait_idle()
    assert ran(emulator, config, before).dropped == 3
    assert sorted(one.cause or "" for future in futures for one in future.attempts) == [""] * 6 + ["dropped"] * 3


def test_a_repeated_event(emulator: Emulator, config: dict[str, Any], executor: Any) -> None:
    """Row 84: a call that runs twice has one result."""
    before = emulator.counters()
    emulator.set_faults(Faults(repeat_event=Fault()))
    futures = executor.map(lambda x: x + 1, range(4))
    assert pywren.get_all_results(futures) == [1, 2, 3, 4]
    emulator.wait_idle()
    found = ran(emulator, config, before)
    assert (found.accepted, found.repeated, found.invocations, found.errors) == (4, 4, 8, 0)
    assert [future.result() for future in futures] == [1, 2, 3, 4]


def test_throttled_invocations(emulator: Emulator, executor: Any) -> None:
    """Row 85: the client retries 429 from Invoke."""
    before = emulator.counters()
    emulator.set_faults(Faults(throttle_invoke=Fault(most=6)))
    assert pywren.get_all_results(executor.map(hostile.echo, range(8), invoke_pool_threads=4)) == list(range(8))
    assert (emulator.counters() - before).faults == {"throttle_invoke": 6}


def test_errors_of_the_services(emulator: Emulator, executor: Any) -> None:
    """Row 86: client and worker retry 500 from Invoke and 503 from S3."""
    before = emulator.counters()
    for faults in (Faults(fail_invoke=Fault(most=4)), Faults(slow_down_s3=Fault(share=0.5, most=8))):
        emulator.set_faults(faults)
        assert pywren.get_all_results(executor.map(hostile.echo, range(8), invoke_pool_threads=4)) == list(range(8))
    assert (emulator.counters() - before).faults == {"fail_invoke": 4, "slow_down_s3": 8}


def test_an_s3_that_is_busy_for_the_worker(emulator: Emulator, executor: Any, presence: Presence) -> None:
    """Row 86: a worker whose status is refused writes it again."""
    future = executor.call_async(hostile.waits_to_go_on, presence.address)
    assert presence.wait()
    emulator.set_faults(Faults(slow_down_s3=Fault(most=5)))
    presence.let_go()
    assert future.result(WAIT) == "on time"


def test_more_events_than_concurrency(emulator: Emulator, aws: AWS) -> None:
    """Row 87: calls wait in Lambda's queue."""
    config = emulator.deploy()
    aws.request(
        "lambda", "put_function_concurrency", doing="limit", FunctionName=name_of(config),
        ReservedConcurrentExecutions=2,
    )  # fmt: skip
    before = emulator.counters()
    with pywren.lambda_executor(config=config) as executor:
        assert pywren.get_all_results(executor.map(lambda x: x * x, range(12))) == [x * x for x in range(12)]
    emulator.wait_idle()
    found = ran(emulator, config, before)
    assert found.most_at_once == 2
    assert found.throttles > 0


@pytest.mark.usefixtures("records_at_once")
def test_an_event_that_is_too_old(emulator: Emulator, aws: AWS, presence: Presence) -> None:
    """Row 88: Lambda drops the event, and its record says why; the call is invoked again."""
    config = emulator.deploy(event_age=60)  # which is 0.6 s here
    aws.request(
        "lambda", "put_function_concurrency", doing="limit", FunctionName=name_of(config),
        ReservedConcurrentExecutions=1,
    )  # fmt: skip
    before = emulator.counters()
    with pywren.lambda_executor(config=config) as executor:
        first = executor.call_async(hostile.stays_a_second_longer, presence.address)
        assert presence.wait()
        late = executor.call_async(hostile.echo, "late")  # now the event waits
        presence.let_go()
        assert first.result(WAIT) == "on time"
        assert late.result(WAIT) == "late"
        assert late.attempts[0].cause == "too old"
        assert "too old, and never ran" in late.attempts[0].error
    (record,) = records(aws, config)
    assert record["requestContext"]["condition"] == "EventAgeExceeded"
    assert ran(emulator, config, before).expired == 1


def test_a_deployed_worker_of_another_version(emulator: Emulator) -> None:
    """Row 89: the first call names the command that updates the worker to the client's version."""
    config = emulator.deploy(files={"pywren/version.py": version_module("0.9.9")})
    with pywren.lambda_executor(config=config) as executor:
        future = executor.call_async(hostile.echo, 1)
        with pytest.raises(VersionMismatchError, match=r"version mismatch.*0\.9\.9.*pywren deploy_lambda"):
            future.result(WAIT)


def test_a_package_that_the_worker_lacks(executor: Any) -> None:
    """Row 90: the import fails on the worker and names the module, which the client has."""

    def imports(name: str) -> str:
        import importlib

        return str(importlib.import_module(name).__name__)

    with pytest.raises(ImportError, match="psutil"):
        executor.call_async(imports, "psutil").result(WAIT)
    assert executor.call_async(imports, "boto3").result(WAIT) == "boto3"


@pytest.mark.skipif(not can_isolate(), reason="without namespaces, /tmp is this machine's and has no limit")
def test_a_full_temporary_directory(emulator: Emulator) -> None:
    """Row 91: the call raises its own OSError; the next call in the container finds the space free again."""
    config = emulator.deploy()
    with pywren.lambda_executor(config=config) as executor:
        before = executor.call_async(hostile.free_megabytes, None).result(WAIT)
        with pytest.raises(OSError, match="No space left"):
            executor.call_async(hostile.fills, "in the call's own directory").result(WAIT)
        assert executor.call_async(hostile.free_megabytes, None).result(WAIT) > before - 10
        with pytest.raises(OSError, match="No space left"):
            executor.call_async(hostile.fills, "/tmp/left-by-the-function").result(WAIT)
        assert executor.call_async(hostile.free_megabytes, None).result(WAIT) == 0
    emulator.wait_idle()
    assert len({each.container for each in emulator.executions(name_of(config))}) == 1


def test_a_map_from_inside_a_worker(emulator: Emulator, config: dict[str, Any], executor: Any) -> None:
    """Row 92: a function makes an executor of the same configuration, and its calls run concurrently with it."""

    def maps(count: int) -> int:
        with pywren.lambda_executor(config=config) as inner:
            return sum(pywren.get_all_results(inner.map(lambda x: x + 1, range(count))))

    before = emulator.counters()
    assert executor.call_async(maps, 4).result(WAIT) == 10
    since = emulator.counters() - before
    assert since.count(caller="function", service="lambda", operation="Invoke").requests == 4


@pytest.mark.usefixtures("records_at_once")
def test_a_worker_that_cannot_be_imported(emulator: Emulator, aws: AWS) -> None:
    """Row 93: both the error and the log say why."""
    config = emulator.deploy(files={"pywren/wrenhandler.py": HANDLER})
    with pywren.lambda_executor(config=config) as executor:
        future = executor.call_async(hostile.echo, 1)
        with pytest.raises(CallLostError, match=r"could not start.*pywren_has_lost_this.*pywren deploy_lambda"):
            future.result(WAIT)
        assert [one.cause for one in future.attempts] == ["worker failed"] * 3
    emulator.wait_idle()
    group = f"/aws/lambda/{name_of(config)}"
    events = aws.request("logs", "filter_log_events", doing="read the log", logGroupName=group)["events"]
    assert any("pywren_has_lost_this" in event["message"] for event in events)


def test_a_function_that_is_updated_while_it_is_invoked(emulator: Emulator, aws: AWS) -> None:
    """Row 94: calls of the old and of the new function both succeed."""
    config = emulator.deploy()
    name = name_of(config)
    with pywren.lambda_executor(config=config) as executor:
        ended = threading.Event()

        def update() -> None:
            memory = 1024
            while not ended.is_set():
                memory += 1
                aws.request(
                    "lambda", "update_function_configuration", doing="change", FunctionName=name, MemorySize=memory
                )

        changing = threading.Thread(target=update)
        changing.start()
        try:
            for _ in range(2):
                assert pywren.get_all_results(executor.map(hostile.echo, range(4))) == list(range(4))
        finally:
            ended.set()
            changing.join()
