"""Fan-out on the emulated AWS: the relay in the deployed zip really invokes, and really dies."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import hostile
import iam
import pytest
from executors import WAIT, version_module

import pywren
from pywren.aws.requests import AWS
from pywren.client import failure_records, fan_out
from pywren.cloud import policies
from pywren.cloud.names import Names
from pywren.exceptions import VersionMismatchError
from pywren.testing.emulator import Counters, Emulator, Fault, Faults

CALLS = 12


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let three calls be enough for a relay, and look for Lambda's records at once."""
    monkeypatch.setattr(fan_out, "LEAST", 2)
    monkeypatch.setattr(failure_records, "LISTING_INTERVAL", 0.1)


@pytest.fixture(scope="module")
def config(emulator: Emulator) -> dict[str, Any]:
    """Return the configuration of a function that may invoke itself."""
    return emulator.deploy(fan_out=True)


def name_of(config: dict[str, Any]) -> str:
    """Return the name of a function."""
    return str(config["lambda"]["function_name"])


def run(config: dict[str, Any], calls: int = CALLS) -> list[Any]:
    """Run a map, check all values, and return its futures."""
    with pywren.lambda_executor(config=config) as executor:
        futures = executor.map(hostile.echo, range(calls))
        assert [future.result(WAIT) for future in futures] == list(range(calls))
        return futures


def invocations(emulator: Emulator, since: Counters, caller: str) -> int:
    """Return how many invocations were sent since then."""
    return (emulator.counters() - since).count(caller=caller, service="lambda", operation="Invoke").requests


def test_a_relay_hands_calls_on(emulator: Emulator, config: dict[str, Any]) -> None:
    """The program sends one invocation, the function the others; the policy of its role allows them, and no more."""
    before = emulator.counters()
    run(config)
    assert invocations(emulator, before, "client") == 1
    assert invocations(emulator, before, "function") == CALLS
    names = Names.of(config, config["account"]["aws_account_id"])
    policy = policies.execution_policy(names, fan_out=True)
    did = {one[1:3] for one in (emulator.counters() - before).actions if one[0].startswith("function")}
    assert ("lambda:InvokeFunction", names.function_arn) in did
    assert iam.allowing(policy, "lambda:InvokeFunction", names.function_arn) == "InvokeSelf"
    assert iam.allowing(policy, "lambda:InvokeFunction", f"{names.function_arn}2") is None
    assert iam.allowing(policies.execution_policy(names), "lambda:InvokeFunction", names.function_arn) is None


@pytest.mark.thorough
def test_a_relay_of_each_copy(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy hands on to itself."""
    from pywren.client import copies, invoking

    monkeypatch.setattr(copies, "RAMP", 1)
    monkeypatch.setattr(invoking, "MOST_RELAYED", 3)
    config = emulator.deploy(fan_out=True, copies=2)
    futures = run(config)
    ran = [str(future.run_status["log_group_name"]) for future in futures]
    assert set(ran) == {f"/aws/lambda/{name_of(config)}", f"/aws/lambda/{name_of(config)}_copy2"}


@pytest.mark.parametrize("kill_at", ["start", "running", "before_response"])
def test_a_relay_that_is_killed(emulator: Emulator, config: dict[str, Any], kill_at: str) -> None:
    """Before it hands on the first call, after some, or after all: its record shows the keys of all its calls, so they
    run again; each value counts once.
    """
    emulator.set_faults(Faults(kill_container=Fault(most=1), kill_at=kill_at))
    futures = run(config)
    # A call that the relay had invoked may end with the revealed key, just when its second attempt wants to.
    assert all(len(future.attempts) <= 3 for future in futures)


def test_a_relay_that_is_throttled_for_a_while(emulator: Emulator, config: dict[str, Any]) -> None:
    """It tries again, and the program does not notice."""
    emulator.set_faults(Faults(throttle_invoke=Fault(most=5, caller="function")))
    before = emulator.counters()
    futures = run(config)
    assert [len(future.attempts) for future in futures] == [1] * CALLS
    assert invocations(emulator, before, "client") == 1


def test_a_relay_that_stays_throttled(emulator: Emulator) -> None:
    """What it cannot hand on comes back, and the program invokes it itself."""
    source = Path(pywren.__file__).with_name("worker") / "relay.py"
    impatient = source.read_text("utf-8").replace("PATIENCE = 30.0", "PATIENCE = 1.0")
    config = emulator.deploy(fan_out=True, files={"pywren/worker/relay.py": impatient.encode()})
    emulator.set_faults(Faults(throttle_invoke=Fault(caller="function")))
    futures = run(config)
    assert [[one.cause for one in future.attempts] for future in futures] == [["handed back", None]] * CALLS


def test_a_relay_that_is_delivered_twice(emulator: Emulator, config: dict[str, Any]) -> None:
    """Each call is invoked twice, and counts once."""
    emulator.set_faults(Faults(repeat_event=Fault(most=1)))
    before = emulator.counters()
    run(config)
    emulator.wait_idle()
    assert invocations(emulator, before, "function") == 2 * CALLS


@pytest.mark.thorough
def test_a_relay_that_is_dropped(emulator: Emulator, config: dict[str, Any]) -> None:
    """Lambda forgets it without a trace; the calls never start, and the driver invokes them again."""
    emulator.set_faults(Faults(drop_event=Fault(most=1)))
    futures = run(config, 5)
    assert {future.attempts[0].cause for future in futures} == {"dropped"}


@pytest.mark.thorough
def test_a_relay_with_a_worker_of_another_version(emulator: Emulator) -> None:
    """It hands on all the same; each call finds out that it does not fit."""
    config = emulator.deploy(fan_out=True, files={"pywren/version.py": version_module("0.9.9")})
    with pywren.lambda_executor(config=config) as executor:
        futures = executor.map(hostile.echo, range(CALLS))
        for future in futures:
            with pytest.raises(VersionMismatchError, match="pywren deploy_lambda"):
                future.result(WAIT)


@pytest.mark.thorough
def test_a_worker_that_does_not_know_relays(emulator: Emulator) -> None:
    """It refuses the first call, whose error says what to deploy."""
    source = Path(pywren.__file__).with_name("wire") / "relay.py"
    older = source.read_text("utf-8").replace("RELAY_FORMAT = 2_000 + FORMAT", "RELAY_FORMAT = 0")
    config = emulator.deploy(fan_out=True, files={"pywren/wire/relay.py": older.encode()})
    with pywren.lambda_executor(config=config) as executor:
        futures = executor.map(hostile.echo, range(CALLS))
        with pytest.raises(VersionMismatchError, match="pywren deploy_lambda"):
            futures[0].result(WAIT)


def test_a_chain_of_relays_is_refused(emulator: Emulator, config: dict[str, Any]) -> None:
    """Whoever may invoke the function cannot make it invoke itself again and again."""
    from pywren.wire.relay import relay_payload

    first = {"storage_config": {}, "callset_id": "c", "call_id": "00000", "status_key": "s"}
    body = json.dumps(first).encode()
    for _ in range(3):
        body = relay_payload(first, [body])
    before = emulator.counters()
    with closing(AWS(emulator.region)) as aws:
        answer = aws.request("lambda", "invoke", doing="invoke", FunctionName=name_of(config), Payload=body)
        assert b"a relay itself" in answer["Payload"].read()
        assert answer["FunctionError"] == "Unhandled"
    assert invocations(emulator, before, "function") == 0
