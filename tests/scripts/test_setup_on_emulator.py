"""From nothing to Lambda and back, as a user does it: real processes against the emulated AWS."""

import json
import os
import re
import subprocess
import sys
import uuid
from contextlib import closing
from pathlib import Path

import iam
import pytest

import pywren
from pywren import wrenconfig
from pywren.aws.requests import AWS
from pywren.testing.emulator import Fault, Faults

SETUP = "from pywren.scripts.setupscript import interactive_setup as command; command()"
COMMAND = "from pywren.scripts.pywrencli import cli as command; command()"
BIG = 3_000_000
NOT_SEEN = {"OwnLog"}
"""Statements of the execution role that no visible request uses: the emulated Lambda writes its log without any
request to CloudWatch, but on AWS the role must allow it."""


class User:
    """A person with a home directory and a shell."""

    def __init__(self, home):
        self.home = home

    def run(self, program, *arguments):
        """Run a program, and return its output."""
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
        """Return the policy that ``pywren iam`` prints."""
        return json.loads(self.run(COMMAND, "iam", "--print", which))

    def config(self):
        """Return the configuration that was written."""
        return wrenconfig.load(self.home / ".pywren_config")


def needed(emulator, before, caller):
    """Return the permissions that a caller's requests have needed since then."""
    return {
        (action, resource, condition)
        for who, action, resource, condition in emulator.counters().actions - before.actions
        if who.startswith(caller) and not action.startswith("sts:")
    }


def left(emulator, suffix):
    """Return the ARNs and names of everything in the account that ends with a suffix, as the services list it."""
    with closing(AWS(emulator.region)) as aws:

        def listed(service, operation, found, name, **arguments):
            answer = aws.request(service, operation, doing="look", **arguments)
            assert not any(answer.get(more) for more in ("IsTruncated", "NextMarker", "nextToken", "NextToken"))
            return [name(item) for item in answer.get(found, ())]

        found = {
            "buckets": listed("s3", "list_buckets", "Buckets", lambda item: item["Name"]),
            "roles": listed("iam", "list_roles", "Roles", lambda item: item["RoleName"], MaxItems=1000),
            "profiles": listed(
                "iam", "list_instance_profiles", "InstanceProfiles", lambda item: item["InstanceProfileName"]
            ),
            "functions": listed("lambda", "list_functions", "Functions", lambda item: item["FunctionName"]),
            "logs": listed("logs", "describe_log_groups", "logGroups", lambda item: item["logGroupName"]),
            "queues": listed("sqs", "list_queues", "QueueUrls", str),
        }
    return {kind: mine for kind, names in found.items() if (mine := [name for name in names if name.endswith(suffix)])}


def allowed_by(policy, action, resource, condition):
    """Return the statement that allows a request; the emulator reports a batch of keys or log groups as ``*``."""
    resource = resource.replace("/*", "/pywren.jobs/x") if action.startswith("s3:DeleteObject") else resource
    if action == "logs:DescribeLogGroups":
        resource = "arn:aws:logs:us-west-2:123456789012:log-group:"
    context = {"s3:prefix": condition} if condition else {}
    return iam.allowing(policy, action, resource, context)


def used_of(policy, requests):
    """Return the statements of a policy that requests have used."""
    return {allowed_by(policy, *request) for request in requests} - {None}


def sids(policy):
    """Return all statements of a policy."""
    return {statement["Sid"] for statement in policy["Statement"]}


@pytest.mark.thorough
def test_from_nothing_to_lambda_and_back(emulator, tmp_path):
    """Set up, run, inspect, clean up: nothing is left, and all requests are within the printed policies."""
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
    user.run(COMMAND, "create_instance_profile")
    policies = {which: user.policy(which) for which in ("execution", "user", "setup")}
    for request in needed(emulator, before, "client"):
        assert allowed_by(policies["setup"], *request) or allowed_by(policies["user"], *request), request

    set_up = emulator.counters()
    use(emulator, user.config())
    assert "printed by a call" in user.run(COMMAND, "logs")
    for request in needed(emulator, set_up, "client"):
        assert allowed_by(policies["user"], *request), request
    # requests are counted once for the first caller: the set-up also called the test function and read the log
    assert used_of(policies["user"], needed(emulator, before, "client")) == sids(policies["user"])
    check_role(emulator, before, user.config()["lambda"]["function_name"], policies)

    assert set(left(emulator, suffix)) == {"buckets", "roles", "profiles", "functions", "logs", "queues"}
    used = emulator.counters()
    said = user.run(COMMAND, "gc", "--older-than", "0m", "--yes")
    assert re.match("deleted [1-9].* callsets and 1 failure records", said), said
    user.run(COMMAND, "cleanup_all")
    for request in needed(emulator, used, "client"):
        assert allowed_by(policies["setup"], *request), request
    assert left(emulator, suffix) == {}
    assert user.run(COMMAND, "cleanup_all").count("there is no ") == 7


def check_role(emulator, before, function, policies):
    """Check the requests made with the function's role, by its calls and by Lambda itself."""
    records = {
        request
        for request in needed(emulator, before, "lambda")
        if request[0] == "s3:PutObject" and f"/aws/lambda/async/{function}/" in request[1]
    }
    requests = needed(emulator, before, f"function:{function}") | records
    maps = {"lambda:InvokeFunction", "lambda:GetFunctionConfiguration"}  # a function that maps needs what users need
    for request in requests:
        own, more = allowed_by(policies["execution"], *request), allowed_by(policies["user"], *request)
        assert own or (request[0] in maps and more), request
    assert used_of(policies["execution"], requests) | NOT_SEEN == sids(policies["execution"])


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


@pytest.mark.thorough
def test_the_seed_program_with_numpy_from_a_runtime(emulator, tmp_path):
    """The README's first program uses a numpy runtime, which is built without Docker and deleted with the rest."""
    user, suffix = User(tmp_path), uuid.uuid4().hex[:8]
    user.run(SETUP, "--yes", "--suffix", suffix)
    (tmp_path / "requirements.txt").write_text("numpy\n")
    user.run(COMMAND, "runtime", "build", "-r", "requirements.txt")
    assert "numpy" in user.run(COMMAND, "runtime", "list")
    assert user.run(SEED).startswith("12 {(1024,)} LambdaInvoker")
    emulator.wait_idle()
    user.run(COMMAND, "cleanup_all")
    assert left(emulator, suffix) == {}


def use(emulator, config):
    """Run all kinds of calls: small, big, nested, cancelled, killed and queued ones; and read their logs."""

    def maps(count):
        print("printed by a call")
        with pywren.lambda_executor(config=config) as inner:
            return pywren.get_all_results(inner.map(lambda x: x + 1, range(count)))

    executor = pywren.lambda_executor(config=config)
    futures = executor.map(lambda size: bytes(size), [1, BIG])
    assert [len(result) for result in pywren.get_all_results(futures)] == [1, BIG]
    assert executor.call_async(maps, 6).result() == [1, 2, 3, 4, 5, 6]
    big = executor.call_async(len, bytes(BIG))
    assert executor.reduce(sum, [big]).result() == BIG
    emulator.wait_idle()
    assert executor.get_logs(futures[0])
    slow = executor.call_async(lambda seconds: __import__("time").sleep(seconds), 10)
    assert slow.cancel() or slow.exception() is not None
    emulator.set_faults(Faults(kill_container=Fault(most=1), kill_at="start"))
    assert executor.call_async(len, "killed").result(timeout=60) == 6  # the second attempt
    emulator.set_faults(Faults())
    emulator.wait_idle()
    pywren.remote_executor(config=config).invoker.invoke({"call": "nobody takes it"})
    executor.close()
