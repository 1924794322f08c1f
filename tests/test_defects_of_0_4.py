"""The defects of PyWren 0.4 that must not come back, in the order of the list that names them."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import pywren
import pywren.testing
from pywren import invokers, wrenconfig, wrenhandler
from pywren.aws.requests import AWS
from pywren.client import staged_calls
from pywren.exceptions import CallLostError, DecodeError, InvocationError, StorageNoSuchKeyError, WorkerCrashedError
from pywren.executor import Executor
from pywren.future import ResponseFuture
from pywren.worker.handler import Container
from pywren.worker.parent.pool import LocalPool

WAIT = 60.0


@pytest.fixture(scope="module")
def aws() -> Iterator[dict[str, Any]]:
    """Return the configuration of a mocked account."""
    with pywren.testing.mock_aws() as config:
        yield config


@pytest.fixture(scope="module")
def on_lambda(aws: dict[str, Any]) -> Executor:
    """Return an executor on Lambda that tests share."""
    return pywren.lambda_executor(config=aws)


@pytest.fixture(scope="module", autouse=True)
def pool_of_the_module() -> Iterator[None]:
    """End the local pool with the module."""
    yield
    LocalPool.close_shared()


@pytest.fixture(params=["local", pytest.param("lambda", marks=pytest.mark.moto)])
def pwex(request: pytest.FixtureRequest) -> Executor:
    """Yield an executor on this machine, and one on Lambda."""
    if request.param == "local":
        return pywren.local_executor()
    return request.getfixturevalue("on_lambda")  # type: ignore[no-any-return]


def statements(policy: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the statements of an IAM policy."""
    return list(policy["Statement"])


def texts(value: str | list[str]) -> list[str]:
    """Return a list of texts, which IAM writes as one text or several."""
    return [value] if isinstance(value, str) else value


# -- 1: a worker that is killed, runs out of memory or never starts leaves no status -----------------------------


def test_a_killed_worker_ends_its_call(pwex: Executor) -> None:
    """After SIGKILL, which the kernel sends when memory runs out, the call has an error at once."""

    def kill(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    error = pwex.call_async(kill, None).exception(timeout=WAIT)
    assert isinstance(error, WorkerCrashedError)
    assert error.signal == signal.SIGKILL
    assert "memory" in str(error)


class Dropping(invokers.DummyInvoker):
    """An invoker that loses every call."""

    queue_patience = 0.0

    def invoke(self, payload: Mapping[str, Any]) -> None:
        """Drop the payload."""


def test_a_worker_that_never_starts_is_a_lost_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits forever: when a call can no longer arrive, it is declared lost."""
    monkeypatch.setattr(staged_calls, "LOST_GRACE", 0.0)
    lost = Executor(Dropping(), wrenconfig.default(), 0.2).call_async(len, "x")
    with pytest.raises(CallLostError, match="run the call again"):
        lost.result(timeout=WAIT)


# -- 2: futures of different maps confused; the executor's own configuration ignored -----------------------------


def test_futures_of_different_maps_are_different() -> None:
    """Calls of different callsets are different, even with equal ids."""
    made = pywren.dummy_executor()
    first, second = made.map(len, ["a"]), made.map(len, ["ab"])
    made.invoker.run_jobs(1)
    assert pywren.wait(first + second, pywren.ANY_COMPLETED) == (first, second)
    made.invoker.run_jobs()
    assert pywren.get_all_results(second + first) == [2, 1]


@pytest.mark.moto
def test_a_future_uses_the_configuration_it_was_made_with(
    aws: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``wait``, ``result`` and ``cancel`` ignore the default configuration, which names another bucket here."""
    default = tmp_path / "default.yaml"
    default.write_text("s3: {bucket: of-somebody-else}\naccount: {aws_region: eu-west-1}\n")
    monkeypatch.setenv("PYWREN_CONFIG_FILE", str(default))
    with pywren.testing.mock_aws() as second:
        futures = [pywren.lambda_executor(config=config).call_async(len, "abc") for config in (aws, second)]
        assert [f.storage_path[1] for f in futures] == [config["s3"]["bucket"] for config in (aws, second)]
        assert pywren.wait(futures) == (futures, [])
        assert [f.result() for f in futures] == [3, 3]
        cancelled = pywren.dummy_executor(config=second).call_async(len, "abc")
        assert cancelled.cancel()
        with pytest.raises(Exception, match="cancelled"):
            cancelled.result()


# -- 3: failures that are not reported ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"func_key": "nowhere/func.pickle"}, "nowhere/func.pickle"),
        ({"job_max_runtime": "soon"}, "job_max_runtime"),
        ({"data_byte_range": [5, 1]}, "data_byte_range"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.moto
def test_a_failure_of_the_handler_puts_the_future_in_error(
    on_lambda: Executor, changes: dict[str, Any], text: str
) -> None:
    """An error in the handler, outside the function, becomes the call's error."""
    one = on_lambda.map(len, ["x"], overwrite_invoke_args=changes)[0]
    error = one.exception(timeout=WAIT)
    assert text in str(error)
    assert one.errored()


def test_a_payload_without_a_status_key_is_an_error_of_the_invocation() -> None:
    """Without a status key the worker raises, so that the platform's record of failed invocations reports it."""
    made = pywren.dummy_executor()
    made.call_async(len, "x")
    payload = dict(made.invoker.payloads.pop())
    del payload["status_key"]
    with pytest.raises(DecodeError, match="status_key"):
        wrenhandler.generic_handler(payload, {})


# -- 4: output and statistics -------------------------------------------------------------------------------------


def test_output_in_any_encoding_is_kept(pwex: Executor) -> None:
    """Neither non-ASCII text nor undecodable bytes fail a good call, and stderr is collected too."""

    def talk(_: Any) -> str:
        print("naïve ☃")
        sys.stdout.flush()
        os.write(1, b"\xff\xfe\n")
        os.write(2, "größer\n".encode())
        return "fine"

    one = pwex.call_async(talk, None)
    assert one.result() == "fine"
    assert "naïve ☃" in one.run_status["stdout"]
    assert "\ufffd" in one.run_status["stdout"]
    assert "größer" in one.run_status["stderr"]


@pytest.mark.moto
def test_run_statistics_reach_the_status(aws: dict[str, Any]) -> None:
    """The stored ``status.json`` contains the times of the run; they are not lost with the worker."""
    pwex = pywren.lambda_executor(config=aws)
    one = pwex.call_async(time.sleep, 0.05)
    one.result()
    stored = pwex.storage.get_call_status(one.callset_id, one.call_id)
    assert stored is not None
    assert stored["exec_time"] >= 0.05
    assert stored["start_time"] + stored["setup_time"] <= stored["end_time"]
    assert stored["server_info"]["cpu_count"] == os.cpu_count()
    json.dumps(stored)


# -- 5: results and exits -------------------------------------------------------------------------------------------


def test_a_result_that_plain_pickle_cannot_handle(pwex: Executor) -> None:
    """A closure is returned and works."""

    def make_adder(n: int) -> Any:
        return lambda x: x + n

    assert pwex.call_async(make_adder, 2).result()(40) == 42


@pytest.mark.parametrize("code", [0, None, -1, "a text"])
def test_an_exit_of_the_function_is_no_exit_of_the_client(pwex: Executor, code: Any) -> None:
    """``sys.exit`` is an error of that call, whatever the code, and never a ``SystemExit`` in the client."""
    error = pwex.call_async(sys.exit, code).exception(timeout=WAIT)
    assert isinstance(error, WorkerCrashedError)


# -- 6: invocation ---------------------------------------------------------------------------------------------------


@pytest.mark.moto
def test_a_refused_invocation_is_told_by_map(aws: dict[str, Any]) -> None:
    """The response is checked: invoking a missing function raises an error with the remedy at once."""
    config = {**aws, "lambda": {**aws["lambda"], "function_name": "no-such-function"}}
    with pytest.raises(InvocationError, match=r"no-such-function.*deploy_lambda") as caught:
        pywren.lambda_executor(config=config).map(len, ["a", "b"])
    assert caught.value.code == "ResourceNotFoundException"


@pytest.mark.moto
def test_lambda_does_not_run_a_function_again(aws: dict[str, Any]) -> None:
    """Lambda's own retries are off; calls that it drops are recorded in the bucket."""
    service = AWS(aws["account"]["aws_region"])
    answer = service.request(
        "lambda",
        "get_function_event_invoke_config",
        doing="look",
        FunctionName=aws["lambda"]["function_name"],
    )
    service.close()
    assert answer["MaximumRetryAttempts"] == 0
    assert answer["DestinationConfig"]["OnFailure"]["Destination"].endswith(aws["s3"]["bucket"])


def test_a_call_that_is_delivered_twice_has_one_result() -> None:
    """The first commit is final; the second delivery overwrites nothing."""
    made = pywren.dummy_executor()
    one = made.call_async(lambda size: os.urandom(size), 400_000)
    payload = made.invoker.payloads[0]
    with Container() as container:
        container.handle(payload)
        output = made.storage.get(payload["output_key"])
        assert container.handle(payload) is None
    assert made.storage.get(payload["output_key"]) == output
    assert one.result() in output


# -- 7: leftovers ----------------------------------------------------------------------------------------------------


def test_what_a_map_left_on_this_machine_goes_with_it() -> None:
    """The directory is deleted when neither the executor nor a future needs it."""
    made = pywren.dummy_executor()
    futures = made.map(len, ["a"])
    made.invoker.run_jobs()
    assert futures[0].result() == 1
    root = Path(made.storage.path[1], made.storage.keys(futures[0].callset_id).root)
    assert root.is_dir()
    made.close()
    del made, futures
    gc.collect()
    assert not root.exists()


@pytest.mark.moto
def test_deleting_a_callset_deletes_nothing_else(aws: dict[str, Any]) -> None:
    """Objects that pywren did not write stay in the bucket, and so do other callsets."""
    pwex = pywren.lambda_executor(config=aws)
    first, second = pwex.call_async(len, "a"), pwex.call_async(len, "ab")
    pywren.wait([first, second])
    others = "of-the-user/file", f"{pwex.storage.prefix}/{first.callset_id}-not/file"
    for key in others:
        pwex.storage.put(key, b"mine")
    pwex.storage.delete_callset(first.callset_id)
    assert pwex.storage.get_callset_status(first.callset_id) == []
    with pytest.raises(StorageNoSuchKeyError):
        pwex.storage.get(pwex.storage.keys(first.callset_id).func)
    assert pwex.storage.get_callset_status(second.callset_id) == ["00000"]
    assert [pwex.storage.get(key) for key in others] == [b"mine", b"mine"]


# -- 8: permissions ---------------------------------------------------------------------------------------------------


@pytest.mark.moto
def test_the_worker_may_not_do_everything(aws: dict[str, Any]) -> None:
    """In the role's policy no action and no resource is a bare star, and only Lambda may assume the role."""
    service = AWS(aws["account"]["aws_region"])
    name = aws["account"]["aws_lambda_role"]
    role = service.request("iam", "get_role", doing="look", RoleName=name)["Role"]
    names = service.request("iam", "list_role_policies", doing="look", RoleName=name)["PolicyNames"]
    policies = [
        service.request("iam", "get_role_policy", doing="look", RoleName=name, PolicyName=one)["PolicyDocument"]
        for one in names
    ]
    service.close()
    allowed = [statement for policy in policies for statement in statements(policy)]
    assert allowed
    for statement in allowed:
        assert not [action for action in texts(statement["Action"]) if "*" in action]
        assert not [resource for resource in texts(statement["Resource"]) if resource.split(":", 5)[-1] in ("*", "")]
    assert [one["Principal"] for one in statements(role["AssumeRolePolicyDocument"])] == [
        {"Service": "lambda.amazonaws.com"}
    ]


# -- 9: fixed sleeps --------------------------------------------------------------------------------------------------


def test_a_result_waits_for_no_fixed_time(pwex: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result and its output arrive long before 0.4's polling interval is over."""
    monkeypatch.setattr(ResponseFuture, "GET_RESULT_SLEEP_SECS", 100 * WAIT)
    one = pwex.call_async(print, "a line")
    assert one.result(WAIT) is None
    assert one.run_status["stdout"] == "a line\n"


def test_waiting_ends_with_the_outcome() -> None:
    """``wait`` returns as soon as the last status is committed, whatever ``WAIT_DUR_SEC`` says."""
    made = pywren.dummy_executor()
    futures = made.map(len, ["a", "b"])
    made.invoker.run_jobs()
    assert pywren.wait(futures, WAIT_DUR_SEC=int(100 * WAIT), timeout=WAIT)[1] == []
