"""From nothing to Lambda and back to nothing, as a user does it: real processes against the emulated AWS."""

import json
import os
import subprocess
import sys
import uuid
from contextlib import closing
from pathlib import Path

import iam
import pytest

import pywren
from pywren import wrenconfig
from pywren.cloud.aws import AWS
from pywren.cloud.resources import Resources
from pywren.exceptions import PywrenError
from pywren.testing.emulator import Fault, Faults

SETUP = "from pywren.scripts.setupscript import interactive_setup as command; command()"
COMMAND = "from pywren.scripts.pywrencli import cli as command; command()"
BIG = 3_000_000
NOT_SEEN = {"OwnLog", "FailureRecords", "List"}
"""Statements of the execution role without a request of the function: Lambda itself writes its log and the records of
failures, and who may not list is told 403 instead of 404 when it asks for an object that is not there."""


class User:
    """A person with a home directory and a shell."""

    def __init__(self, home):
        self.home = home

    def run(self, program, *arguments):
        """Run a program; returns what it printed."""
        environment = {**os.environ, "HOME": str(self.home), "PYTHONPATH": str(Path(pywren.__file__).parent.parent)}
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env=environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def policy(self, which):
        """The policy that ``pywren iam`` prints."""
        return json.loads(self.run(COMMAND, "iam", "--print", which))

    def config(self):
        """The configuration that was written."""
        return wrenconfig.load(self.home / ".pywren_config")


def needed(emulator, before, caller):
    """What a caller has asked of AWS since, as IAM sees it."""
    return {
        (action, resource, condition)
        for who, action, resource, condition in emulator.counters().actions - before.actions
        if who.startswith(caller) and not action.startswith("sts:")
    }


def allowed_by(policy, action, resource, condition):
    """The statement that allows a request; the emulator tells a batch of keys, or of log groups, as all of them."""
    resource = resource.replace("/*", "/pywren.jobs/x") if action.startswith("s3:DeleteObject") else resource
    if action == "logs:DescribeLogGroups":
        resource = "arn:aws:logs:us-west-2:123456789012:log-group:"
    context = {"s3:prefix": condition} if condition else {}
    return iam.allowing(policy, action, resource, context)


def used_of(policy, requests):
    """The statements of a policy that requests have made use of."""
    return {allowed_by(policy, *request) for request in requests} - {None}


def sids(policy):
    """All statements of a policy."""
    return {statement["Sid"] for statement in policy["Statement"]}


def test_from_nothing_to_lambda_and_back(emulator, tmp_path):
    """Set up, run, ask, clean up: nothing is left, and everybody did only what the printed policies allow."""
    user, suffix = User(tmp_path), uuid.uuid4().hex[:8]
    before = emulator.counters()
    said = user.run(SETUP, "--yes", "--suffix", suffix)
    assert "function returned: Hello world" in said
    assert "unchanged: " not in said
    again = user.run(SETUP, "--yes", "--suffix", suffix)
    assert again.count("unchanged: ") == 4
    assert user.run(COMMAND, "test_function") == "function returned: Hello world\n"
    assert "wrong" not in user.run(COMMAND, "test_config")
    assert "START RequestId: " in user.run(COMMAND, "print_latest_logs")
    user.run(COMMAND, "create_queue")
    policies = {which: user.policy(which) for which in ("execution", "user", "setup")}
    for request in needed(emulator, before, "client"):
        assert allowed_by(policies["setup"], *request) or allowed_by(policies["user"], *request), request

    set_up = emulator.counters()
    use(emulator, user.config())
    for request in needed(emulator, set_up, "client"):
        assert allowed_by(policies["user"], *request), request
    for request in needed(emulator, before, "function"):
        assert allowed_by(policies["execution"], *request), request
    # a request is counted once, whoever was first with it: the test function and the log were the set-up's too
    assert used_of(policies["user"], needed(emulator, before, "client")) == sids(policies["user"])
    used = used_of(policies["execution"], needed(emulator, before, "function"))
    assert used | NOT_SEEN == sids(policies["execution"])

    with closing(AWS("us-west-2")) as aws:
        removal = Resources(user.config(), aws).for_removal
        user.run(COMMAND, "cleanup_all")
        assert [resource.plan_removal() for resource in removal] == [[]] * len(removal)
    assert user.run(COMMAND, "cleanup_all").count("there is no ") == len(removal)


SEED = """
import numpy as np, pywren
def foo(b):
    x = np.random.normal(0, b, 1024)
    A = np.random.normal(0, b, (1024, 1024))
    return np.dot(A, x)
pwex = pywren.default_executor()
res = pywren.get_all_results(pwex.map(foo, np.linspace(0.1, 100, 12)))
print(len(res), {result.shape for result in res}, pwex.invoker)
"""


@pytest.mark.slow
def test_the_seed_program_with_numpy_from_a_runtime(emulator, tmp_path):
    """numpy is built into a runtime without Docker, used by the README's first program, and removed with all else."""
    user, suffix = User(tmp_path), uuid.uuid4().hex[:8]
    user.run(SETUP, "--yes", "--suffix", suffix)
    (tmp_path / "requirements.txt").write_text("numpy\n")
    user.run(COMMAND, "runtime", "build", "-r", "requirements.txt")
    assert "numpy" in user.run(COMMAND, "runtime", "list")
    assert user.run(SEED).startswith("12 {(1024,)} LambdaInvoker")
    emulator.wait_idle()
    user.run(COMMAND, "cleanup_all")
    with closing(AWS("us-west-2")) as aws:
        assert all(resource.plan_removal() == [] for resource in Resources(user.config(), aws).for_removal)


def use(emulator, config):
    """Run calls of all kinds: small and big, cancelled, killed, from a queue; and read their logs."""
    executor = pywren.lambda_executor(config=config)
    futures = executor.map(lambda size: bytes(size), [1, BIG])
    assert [len(result) for result in pywren.get_all_results(futures)] == [1, BIG]
    big = executor.call_async(len, bytes(BIG))
    assert executor.reduce(sum, [big]).result() == BIG
    emulator.wait_idle()
    assert executor.get_logs(futures[0])
    slow = executor.call_async(lambda seconds: __import__("time").sleep(seconds), 10)
    assert slow.cancel() or slow.exception() is not None
    emulator.set_faults(Faults(kill_container=Fault(most=1), kill_at="start"))
    with pytest.raises(PywrenError):
        executor.call_async(len, "killed").result(timeout=60)
    emulator.set_faults(Faults())
    emulator.wait_idle()
    pywren.remote_executor(config=config).invoker.invoke({"call": "nobody takes it"})
    executor.close()
