"""The commands over AWS, one by one: exit code and whole output. Failures are in test_setup_failures.py."""

import contextlib
import datetime
import json
import os
import re
import subprocess
import sys
import time
import uuid

import pytest
from command_line import runner
from moto.backends import get_backend

from pywren.cloud import policies
from pywren.cloud.garbage import find_garbage
from pywren.cloud.logs import follow_log
from pywren.scripts.pywrencli import cli

EVERYTHING = [
    ("create_bucket", "the bucket the-bucket in us-west-2, private, with calls deleted after 7 days"),
    ("create_role", "the role the-role, which only Lambda may assume"),
    ("create_queue", "the queue the-queue"),
]


@pytest.mark.moto
@pytest.mark.parametrize(("command", "what"), EVERYTHING)
def test_things_are_made_once(account, pywren, command, what):
    """A resource is planned, created, and then unchanged."""
    assert pywren(command, "--dry-run") == (0, f"would create {what}\n", "")
    assert account.changes == []
    assert pywren(command) == (0, f"created {what}\n", "")
    title = what.partition(" in ")[0].partition(",")[0]
    assert pywren(command) == (0, f"unchanged: {title}\n", "")


@pytest.mark.moto
def test_create_instance_profile(account, pywren):
    """A profile is created with its own role; another profile can be deleted by name."""
    made = "created the role the-profile, which only EC2 may assume\ncreated the instance profile the-profile\n"
    assert pywren("create_instance_profile") == (0, made, "")
    assert pywren("delete_instance_profile", "another") == (0, "there is no instance profile another\n", "")
    gone = "deleted the instance profile the-profile\ndeleted the role the-profile\n"
    assert pywren("delete_instance_profile", "the-profile") == (0, gone, "")


@pytest.mark.moto
def test_what_has_changed_is_brought_back(account, pywren):
    """The role's policy follows the configuration."""
    assert pywren("create_role").code == 0
    done = pywren("create_role", s3={"pywren_prefix": "other"})
    assert done.out == "updated what the role the-role may do\n"


@pytest.mark.moto
def test_cleanup_all_says_what_it_does(account, pywren):
    """The output has the plan and the deletions, and nothing is left afterwards."""
    for command in ("create_bucket", "deploy_lambda", "create_queue", "create_instance_profile"):
        assert pywren(command).code == 0
    worker = account.launch()[0]
    done = [
        "the function the-function",
        "the log group /aws/lambda/the-function",
        "the queue the-queue",
        "the instance profile the-profile",
        "the role the-profile",
        "the role the-role",
        "the objects under s3://the-bucket/the.jobs/",
        "the bucket the-bucket",
    ]
    first = f"the stand-alone worker of the queue the-queue: {worker}\n"
    planned = f"would terminate {first}" + "".join(f"would delete {what}\n" for what in done)
    assert pywren("cleanup_all", "--dry-run") == (0, planned, "")
    assert pywren("cleanup_all") == (0, f"terminated {first}" + "".join(f"deleted {what}\n" for what in done), "")
    assert account.left() == {}


@pytest.mark.moto
def test_a_person_at_the_terminal_is_asked(account, pywren, monkeypatch):
    """Answering no keeps everything; --yes skips the question; without a terminal there is no question, as in 0.4."""
    assert pywren("create_bucket").code == 0
    monkeypatch.setattr("pywren.scripts._console._at_terminal", lambda: True)
    done = pywren("delete_bucket", input="n\n")
    assert (done.code, done.out) == (1, "would delete the bucket the-bucket\nContinue? [y/N]: n\n")
    assert pywren("delete_bucket", input="").code == 1
    assert "buckets" in account.left()
    assert pywren("delete_bucket", "--yes").out == "deleted the bucket the-bucket\n"
    assert pywren("cleanup_all", "--yes").code == 0


@pytest.mark.moto
@pytest.mark.parametrize("command", ["delete_lambda", "delete_role", "delete_queue", "delete_instance_profile"])
def test_whoever_deletes_is_asked(account, pywren, monkeypatch, command):
    """Each command that deletes asks at a terminal, and accepts --yes."""
    for maker in ("create_bucket", "deploy_lambda", "create_queue", "create_instance_profile"):
        assert pywren(maker).code == 0
    monkeypatch.setattr("pywren.scripts._console._at_terminal", lambda: True)
    account.requests.clear()
    done = pywren(command, input="n\n")
    assert done.code == 1
    assert "would delete the " in done.out
    assert done.out.endswith("Continue? [y/N]: n\n")
    assert account.changes == []
    done = pywren(command, "--yes")
    assert done.code == 0
    assert "Continue?" not in done.out
    assert account.changes != []


@pytest.mark.moto
def test_deploy_lambda_does_what_its_dry_run_says(account, pywren):
    """The plan is accurate for the first deployment, for a change to the role alone, and for no change."""
    for prefix in ("one", "one", "two"):
        account.requests.clear()
        planned = pywren("deploy_lambda", "--dryrun", s3={"pywren_prefix": prefix})
        assert account.changes == []
        done = pywren("deploy_lambda", s3={"pywren_prefix": prefix})
        assert (planned.code, done.code) == (0, 0)
        assert done.out == re.sub(r"^would (create|update) ", r"\1d ", planned.out, flags=re.M)
    assert "updated what the role the-role may do\n" in done.out
    policy = account.ask("iam", "get_role_policy", RoleName="the-role", PolicyName="pywren-worker")["PolicyDocument"]
    assert policy == policies.execution_policy(account.resources(s3={"pywren_prefix": "two"}).names)
    assert pywren("deploy_lambda", s3={"pywren_prefix": "two"}).out.count("unchanged: ") == 3


@pytest.mark.moto
def test_get_aws_account_id(account, run, pywren):
    """The command works with and without a configuration."""
    said = (0, "The AWS account ID is 123456789012\n", "")
    assert pywren("get_aws_account_id") == said
    assert run("get_aws_account_id") == said


@pytest.mark.moto
@pytest.mark.parametrize("which", ["execution", "user", "setup", "launch", "instance"])
def test_iam_prints_a_policy(pywren, which):
    """The policy is printed as JSON; the configuration's account is enough, and AWS is not asked."""
    done = pywren("iam", "--print", which)
    assert done.code == 0
    assert {statement["Effect"] for statement in json.loads(done.out)["Statement"]} == {"Allow"}


def test_log_url(pywren):
    """The URL is encoded as the console expects, and leads to the console of its partition."""
    group = "logsV2:log-groups/log-group/$252Faws$252Flambda$252Fthe-function"
    west = "https://us-west-2.console.aws.amazon.com/cloudwatch/home?region=us-west-2"
    assert pywren("log_url") == (0, f"{west}#{group}\n", "")
    china = pywren("log_url", account={"aws_region": "cn-north-1"}).out
    assert china == f"https://console.amazonaws.cn/cloudwatch/home?region=cn-north-1#{group}\n"


# -- logs and garbage ----------------------------------------------------------------------------------------


def write_log(account, *lines, stream="one", moment=None):
    """Write lines to the function's log."""
    backend = get_backend("logs")["123456789012"]["us-west-2"]
    group = "/aws/lambda/the-function"
    if group not in backend.groups:
        backend.create_log_group(group, {})
    backend.ensure_log_stream(group, stream)
    moment = int(time.time() * 1000) if moment is None else moment
    backend.put_log_events(group, stream, [{"timestamp": moment, "message": line} for line in lines])


@pytest.mark.moto
def test_print_latest_logs(account, pywren):
    """The lines of the container that wrote last are printed with their time."""
    now = int(time.time() * 1000)
    write_log(account, "old", stream="old", moment=now - 1000)
    write_log(account, "START\n", "äöü", moment=now)
    done = pywren("print_latest_logs")
    assert done.code == 0
    assert [line[24:] for line in done.out.splitlines()] == ["START", "äöü"]


@pytest.mark.moto
def test_logs_of_a_time(account, pywren):
    """The lines of all containers since a given time are printed."""
    now = int(time.time() * 1000)
    write_log(account, "yesterday", stream="old", moment=now - 86_400_000)
    write_log(account, "today", moment=now)
    assert [line[24:] for line in pywren("logs").out.splitlines()] == ["today"]
    assert [line[24:] for line in pywren("logs", "--since", "2d").out.splitlines()] == ["yesterday", "today"]


@pytest.mark.moto
def test_a_log_is_followed(account):
    """Each line appears once, even if it is late; a log group may appear later."""
    now = int(time.time() * 1000)
    rounds = iter([["a"], ["b"], []])

    def sleep(seconds):
        lines = next(rounds, None)
        if lines is None:
            raise KeyboardInterrupt
        for line in lines:
            write_log(account, line, stream=line, moment=now - ord(line))  # b is read later, but is older

    found = []
    names = account.resources().names
    with contextlib.suppress(KeyboardInterrupt):
        for _, line in follow_log(account.aws, names, start_ms=now - 60_000, sleep=sleep):
            found.append(line)
    assert found == ["a", "b"]


@pytest.mark.moto
def test_ctrl_c_ends_the_log_that_is_followed(account, pywren, monkeypatch):
    """Row 211: the command ends quietly, with exit code 0."""
    monkeypatch.setattr("pywren.cloud.logs.FOLLOW_SECONDS", 0.0)
    write_log(account, "first")
    looks = []

    def interrupted(arguments):
        looks.append(arguments)
        if len(looks) == 2:
            write_log(account, "second", stream="two")
        if len(looks) == 3:
            raise KeyboardInterrupt

    account.before("FilterLogEvents", interrupted)
    done = pywren("logs", "--follow")
    assert (done.code, done.err) == (0, "")
    assert [line[24:] for line in done.out.splitlines()] == ["first", "second"]


@pytest.mark.moto
def test_garbage_is_old_callsets_and_records(account, pywren):
    """Runtimes, other objects and callsets with a new object are kept."""
    assert pywren("gc") == (0, "there is no bucket the-bucket\n", "")
    assert pywren("create_bucket").code == 0
    old = str(uuid.uuid4())
    record = "aws/lambda/async/the-function/2026/11/22/x"
    stays = ["the.jobs/runtimes/numpy.tar.gz", "the.jobs/0/x", "theirs", f"the.jobs2/{old}/x"]
    job = "the.jobs/jobs/job-7.json"
    account.put(f"the.jobs/{old}/func.pickle", f"the.jobs/{old}/00000/status.json", record, job, *stays)
    before = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=2)
    garbage = find_garbage(account.resources().bucket, before)
    assert list(garbage.callsets) == [old]
    assert garbage.records == [record]
    assert garbage.jobs == [job]
    assert str(garbage) == "1 callsets, 1 names of jobs and 1 failure records: 4 objects, 0.0 MB"
    assert find_garbage(account.resources().bucket, before - datetime.timedelta(hours=1)).keys == []
    assert pywren("gc").out == "deleted 0 callsets and 0 failure records: 0 objects, 0.0 MB\n"
    assert pywren("gc", "--older-than", "0m", "--dry-run").out == f"would delete {garbage}\n"
    assert pywren("gc", "--older-than", "0m", "--yes").out == f"deleted {garbage}\n"
    assert sorted(account.keys()) == sorted(stays)


# -- help and completion -------------------------------------------------------------------------------------

COMMANDS = [
    "get_aws_account_id",
    "jobs",
    "resume",
    "cancel",
    "create_config",
    "test_config",
    "create_role",
    "create_bucket",
    "create_instance_profile",
    "delete_instance_profile",
    "deploy_lambda",
    "delete_lambda",
    "delete_role",
    "create_queue",
    "delete_queue",
    "test_function",
    "print_latest_logs",
    "log_url",
    "delete_bucket",
    "cleanup_all",
    "doctor",
    "gc",
    "iam",
    "logs",
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("spell", [str, lambda name: name.replace("_", "-")])
def test_every_command_has_help(run, command, spell):
    """Each command has a help text under both spellings of its name."""
    done = runner().invoke(cli, [spell(command), "--help"])
    assert done.exit_code == 0
    assert len(done.output.splitlines()) > 4


def test_the_shell_completes():
    """Completion is click's own."""
    program = "from pywren.scripts.pywrencli import cli; cli(prog_name='pywren')"
    environment = {**os.environ, "_PYWREN_COMPLETE": "bash_complete", "COMP_WORDS": "pywren del", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "plain,delete_bucket" in done.stdout.splitlines(), done.stderr
