"""A user's view of an emulated AWS: environment, deployment and control, and that nothing is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import hostile
import psutil
import pytest
from executors import Presence, slow_machine_requests, version_module

import pywren
from pywren.client import failure_records
from pywren.exceptions import (
    ArgumentError,
    EmulatorError,
    SerializationError,
    VersionMismatchError,
    WorkerCrashedError,
)
from pywren.testing.emulator import Emulator, Fault, Faults, Settings, emulate
from pywren.testing.emulator._emulator import start
from pywren.testing.emulator._supervisor import module_command

pytestmark = pytest.mark.emulator


@pytest.fixture(scope="module")
def config(emulator: Emulator) -> dict[str, Any]:
    """Return the configuration of a function that is deployed for this module."""
    return emulator.deploy(timeout=60)


def client(service: str, emulator: Emulator, *, credentials_of: Emulator | None = None) -> Any:
    """Return a client of an emulator, whatever the environment says."""
    import botocore.session

    environment = (credentials_of or emulator).environment
    return botocore.session.Session().create_client(
        service,
        endpoint_url=emulator.endpoint,
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=emulator.region,
    )


# -- use -----------------------------------------------------------------------------------------------------


def test_a_map_runs_on_it(config: dict[str, Any]) -> None:
    """A user's steps work: deploy, make an executor, map, collect."""
    executor = pywren.lambda_executor(config=config)
    assert pywren.get_all_results(executor.map(lambda x: x * x, range(10))) == [x * x for x in range(10)]


def test_the_default_executor_finds_it_by_the_configuration(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program needs only a configuration file with what ``deploy`` returns."""
    import yaml

    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("PYWREN_CONFIG_FILE", str(path))
    assert pywren.default_executor().call_async(len, "four").result() == 4


def test_what_it_counts(emulator: Emulator, config: dict[str, Any]) -> None:
    """It counts requests by caller and operation and executions by function, and keeps each execution."""
    name = config["lambda"]["function_name"]
    executor = pywren.lambda_executor(config=config)
    emulator.wait_idle()
    before, ran, began = emulator.counters(), len(emulator.executions(name)), time.monotonic()
    pywren.get_all_results(executor.map(str, range(3)))
    seconds = time.monotonic() - began
    emulator.wait_idle()
    more = slow_machine_requests(emulator.executions(name)[ran:], seconds)
    counted = emulator.counters() - before
    assert counted.count(caller="client", operation="Invoke").requests == 3
    assert 0 <= counted.count(caller=f"function:{name}", operation="PutObject").requests - 3 <= more
    assert counted.executions[name].invocations == 3
    assert [each.outcome for each in emulator.executions(name)[ran:]] == ["ok"] * 3
    assert not emulator.executions("another")
    assert name in str(counted)


def test_faults_strike_as_long_as_they_are_set(emulator: Emulator, config: dict[str, Any]) -> None:
    """A fault strikes as often as requested and no more, and pywren copes."""
    before = emulator.counters()
    emulator.set_faults(Faults(throttle_invoke=Fault(most=2)))
    executor = pywren.lambda_executor(config=config)
    assert pywren.get_all_results(executor.map(str, range(3))) == ["0", "1", "2"]
    assert (emulator.counters() - before).faults == {"throttle_invoke": 2}


def test_a_killed_container_costs_its_call_an_attempt(
    emulator: Emulator, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even when calls are short, a container is killed in the middle of one."""
    monkeypatch.setattr(failure_records, "LISTING_INTERVAL", 0.1)
    emulator.set_faults(Faults(kill_container=Fault(most=2)))
    futures = pywren.lambda_executor(config=config).map(str, range(4))
    assert pywren.get_all_results(futures) == ["0", "1", "2", "3"]
    causes = [one.cause for future in futures for one in future.attempts]
    assert sorted(filter(None, causes)) == ["killed"] * 2


def test_a_function_is_killed_while_it_runs(
    emulator: Emulator, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long call is killed after it has begun and before it ends."""
    monkeypatch.setattr(failure_records, "LISTING_INTERVAL", 0.1)
    executor = pywren.lambda_executor(config=config)
    executor.call_async(str, 0).result()  # a warm worker starts within the 0.97 s of this seed
    emulator.set_faults(Faults(seed=35, kill_container=Fault(most=1)))
    with Presence() as presence:
        # Once, or a second attempt would follow.
        (future,) = executor.map(hostile.waits_to_go_on, [presence.address], retries=0)
        assert presence.wait()
        with pytest.raises(WorkerCrashedError, match="signal: killed"):
            future.result()
        assert presence.is_over()


def test_the_function_has_lambdas_packages_only(emulator: Emulator, config: dict[str, Any]) -> None:
    """``map`` refuses numpy unless it is in a layer, as on AWS."""
    import numpy

    def total(size: int) -> int:
        return int(numpy.arange(size).sum())

    with pytest.raises(SerializationError, match="numpy"):
        pywren.lambda_executor(config=config).map(total, [3])
    with_numpy = emulator.deploy(timeout=60, packages=["numpy"])
    assert pywren.lambda_executor(config=with_numpy).call_async(total, 4).result() == 6


def test_files_of_the_worker_may_be_replaced(emulator: Emulator) -> None:
    """A test can deploy any files: here a worker of another version."""
    config = emulator.deploy(timeout=60, files={"pywren/version.py": version_module("0.0.1")})
    with pytest.raises(VersionMismatchError, match="version mismatch"):
        pywren.lambda_executor(config=config).call_async(len, "four").result()


def test_a_package_that_is_not_installed_is_named(emulator: Emulator) -> None:
    """The error names the package, and nothing is deployed."""
    with pytest.raises(ArgumentError, match="no-such-package"):
        emulator.deploy(packages=["no-such-package"])


def test_a_setting_of_a_function_that_is_not_there_is_named(emulator: Emulator) -> None:
    """Row 116: the error names the setting, and nothing is deployed."""
    with pytest.raises(ArgumentError, match=r"no setting memroy: did you mean memory\?"):
        emulator.deploy(memroy=256)
    with pytest.raises(ArgumentError, match=r"no setting threads: choose from .*architecture"):
        emulator.deploy(threads=2)


def test_deploying_leaves_the_environment_alone(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is neither read nor changed, so other threads can use it meanwhile."""
    for name, value in {
        "AWS_PROFILE": "production",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "mine",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "NO_PROXY": "",
    }.items():
        monkeypatch.setenv(name, value)
    changes: list[object] = []
    for change in ("putenv", "unsetenv"):
        monkeypatch.setattr(os, change, lambda *names: changes.append(names))
    config = emulator.deploy()
    assert changes == []
    monkeypatch.undo()
    assert client("s3", emulator).list_objects_v2(Bucket=config["s3"]["bucket"])["KeyCount"] == 0


def test_waiting_has_an_end(emulator: Emulator, config: dict[str, Any]) -> None:
    """``wait_idle`` raises an error if something still runs."""
    future = pywren.lambda_executor(config=config).call_async(lambda seconds: __import__("time").sleep(seconds), 3)
    with pytest.raises(EmulatorError, match="still"):
        emulator.wait_idle(timeout=0.1)
    future.result()
    emulator.wait_idle()


# -- isolation -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def second() -> Iterator[Emulator]:
    """Start another emulator beside the shared one, for a few tests; the last of them breaks it."""
    with closing(start(Settings(region="us-east-1", containers=1))) as running:
        yield running


def test_two_do_not_know_each_other(emulator: Emulator, second: Emulator) -> None:
    """Endpoints, state and credentials are separate; each refuses the other's credentials."""
    from botocore.exceptions import ClientError

    config = second.deploy()
    assert config["account"]["aws_region"] == "us-east-1"
    buckets = client("s3", emulator).list_buckets()["Buckets"]
    assert config["s3"]["bucket"] not in {bucket["Name"] for bucket in buckets}
    with pytest.raises(ClientError, match="InvalidAccessKeyId"):
        client("s3", second, credentials_of=emulator).list_buckets()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_keep_it_alive(second: Emulator) -> None:
    """Only the parent holds the lifeline; the child can still send requests."""
    lifeline = second._server._process.stdin
    assert lifeline is not None
    pid = os.fork()
    if pid == 0:
        os._exit(int(os.readlink(f"/proc/self/fd/{lifeline.fileno()}") != os.devnull))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_part_that_dies_is_named_with_its_log(second: Emulator) -> None:
    """Later requests to the emulator raise an error that says which part has ended."""
    server = psutil.Process(second._server._process.pid)
    weeds = [child for child in server.children(recursive=True) if child.name() == "weed"]
    assert len(weeds) == 1
    weeds[0].kill()
    server.wait(60)
    with pytest.raises(EmulatorError, match=r"SeaweedFS.*has ended, with exit code 137(.|\n)*end of its log"):
        second.counters()


def test_the_environment_is_the_emulators_and_then_yours_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own AWS is out of reach inside, even through boto3's default session, and restored afterwards."""
    import boto3

    mine = {
        "AWS_PROFILE": "production",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "mine",
        "PYWREN_CONFIG_FILE": "/nowhere/config",
        "NO_PROXY": "example.org",
    }
    for name, value in mine.items():
        monkeypatch.setenv(name, value)
    session = object()
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", session)
    before = dict(os.environ)
    with emulate(region="eu-west-1") as aws:
        assert {name for name in os.environ if name.startswith("AWS_")} == {
            name for name in aws.environment if name.startswith("AWS_")
        }
        assert "PYWREN_CONFIG_FILE" not in os.environ
        assert os.environ["NO_PROXY"] == "example.org,127.0.0.1,localhost"
        bucket = {"LocationConstraint": "eu-west-1"}
        boto3.client("s3").create_bucket(Bucket="in-my-region", CreateBucketConfiguration=bucket)
        directory = Path(aws._server.ready.directory)
        server = psutil.Process(aws._server._process.pid)
        processes = [server, *server.children(recursive=True)]
        assert directory.exists()
    assert dict(os.environ) == before
    assert boto3.DEFAULT_SESSION is session
    assert not directory.exists()
    assert not [process for process in processes if process.is_running()]
    with pytest.raises(EmulatorError, match="closed"):
        aws.counters()


def test_a_setting_that_is_not_there_is_named() -> None:
    """An unknown setting is an error before anything is started."""
    with pytest.raises(ArgumentError, match="memory"), emulate(memory=1):
        pass


def test_an_emulator_that_does_not_come_up_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error contains the end of its process's log."""
    monkeypatch.setattr("pywren.testing.emulator._emulator.module_command", lambda _: module_command("no_such_module"))
    with pytest.raises(EmulatorError, match=r"did not start(.|\n)*no_such_module"):
        start(Settings())


def test_an_emulator_that_cannot_make_containers_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 110: errors in the context that follow from it give the reason."""
    monkeypatch.setenv("PATH", str(tmp_path))  # without unshare

    def use() -> None:
        with emulate(isolated=True) as aws:
            pywren.lambda_executor(config=aws.deploy()).call_async(len, "never")
            psutil.Process(aws._server._process.pid).wait(30)
            raise ConnectionError("refused")

    with pytest.raises(EmulatorError, match=r"cannot create a container.*unshare"):
        use()


# -- however it ends -----------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pywren.testing.emulator import emulate
with emulate() as aws:
    config = aws.deploy(timeout=100)
    import pywren
    future = pywren.lambda_executor(config=config).call_async(time.sleep, 90)
    while not aws.counters().count(operation="GetObject", caller="function").requests:
        pass
    print(aws._server._process.pid, aws._server.ready.directory, flush=True)
    time.sleep(600)
"""


def test_nothing_is_left_when_it_is_killed() -> None:
    """After SIGKILL of the user's process or the emulator's, every process ends and the directory is removed."""
    command = [sys.executable, "-c", textwrap.dedent(HOLDER)]
    with ExitStack() as stack:  # they start in parallel, which takes seconds
        holders = [stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE)) for _ in range(2)]
        try:
            for victim, holder in zip(["user", "server"], holders, strict=True):
                check_that_nothing_is_left(holder, victim)
        finally:
            for holder in holders:
                holder.kill()


def check_that_nothing_is_left(holder: subprocess.Popen[bytes], victim: str) -> None:
    """Kill a process that holds an emulator, or the emulator's server, and check what is left of both."""
    with holder:
        assert holder.stdout is not None
        pid, directory = holder.stdout.readline().decode().split()
        server = psutil.Process(int(pid))
        family = [server, *server.children(recursive=True)]
        assert len(family) > 5
        os.kill(holder.pid if victim == "user" else server.pid, signal.SIGKILL)
        _, left = psutil.wait_procs(family[1:], timeout=60)
        holder.kill()  # its parent has not waited for it yet, or is dead
    left += psutil.wait_procs(family[:1], timeout=60)[1]
    assert not left, victim
    if victim == "server":  # removed when the next one starts
        from pywren.testing.emulator._directory import sweep

        assert Path(directory).parent == Path(tempfile.gettempdir())
        sweep()
    assert not Path(directory).exists()
