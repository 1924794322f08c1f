"""The specification of failure of the commands: docs/failures.md, "Setting up and removing".

Every row of that section is a test here, with the row's number in its docstring; test_failures_page.py compares
both.
"""

import json
import os
import re
import sys
import time

import pytest
from accounts import configuration
from moto.awslambda.utils import get_backend

import pywren as package
from pywren import wrenconfig
from pywren.cloud.policies import lambda_trust_policy
from pywren.cloud.resources import Resources
from pywren.scripts import setupscript
from pywren.scripts.setupscript import interactive_setup
from pywren.worker import bundle

pytestmark = pytest.mark.moto

REGION = "us-west-2"
BUCKET = f"pywren-123456789012-{REGION}"


def refused(done, *said):
    """Check that a command failed with one line on stderr and exit code 1."""
    assert done.code == 1, done
    lines = done.err.strip().splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("Error: ")
    for words in said:
        assert words in lines[0]


@pytest.fixture
def setup(run, monkeypatch):
    """Run ``pywren-setup`` without calling the test function."""
    monkeypatch.setattr(setupscript, "call_hello", lambda config, patience: "Hello world")

    def invoke(*arguments, input="", yes=True):
        return run(*arguments, *(["--yes"] if yes else []), command=interactive_setup, input=input)

    return invoke


@pytest.fixture
def made(account):
    """Return the account, with everything from the configuration in it."""
    resources = account.resources()
    for resource in [*resources.for_lambda, *resources.for_standalone]:
        for step in resource.plan():
            step.run()
    account.requests.clear()
    return account


# -- identity, region and names --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["create_bucket", "deploy_lambda", "cleanup_all", "get_aws_account_id"])
def test_no_credentials(pywren, monkeypatch, command):
    """Row 120: the error says how to get credentials, and that this machine needs none."""
    refused(pywren(command), "no AWS credentials were found", "aws configure", "PYWREN_EXECUTOR=local")


def test_no_credentials_for_setup(setup, tmp_path, monkeypatch):
    """Row 120: ``pywren-setup`` reports it before it asks for names, and writes nothing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    refused(setup(), "no AWS credentials were found")
    assert not (tmp_path / ".pywren_config").exists()


@pytest.mark.parametrize("command", ["test_config", "create_bucket", "deploy_lambda"])
@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"AWS_PROFILE": "nope"}, "The config profile (nope) could not be found"),
        ({"AWS_CONFIG_FILE": "broken"}, "Unable to parse config file: broken"),
    ],
)
def test_a_profile_that_is_wrong(account, run, tmp_path, command, env, said):
    """Row 208: the error is one line, also in ``pywren-setup``."""
    (tmp_path / "broken").write_text("[[[\nx")
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(configuration()))
    remedy = "check AWS_PROFILE and ~/.aws/config"
    refused(run("--filename", path, command, env=env), said, remedy)
    refused(run("--yes", command=interactive_setup, env=env), said, remedy)


def test_expired_credentials(account, pywren, monkeypatch):
    """Row 121: the error gives the command that signs in again."""
    account.refuse("GetCallerIdentity", code="ExpiredToken")
    refused(pywren("create_role"), "have expired", "aws sso login")


def test_another_account(account, pywren):
    """Row 122: nothing is created in an account that the configuration does not name."""
    refused(pywren("deploy_lambda", account={"aws_account_id": 42}), "000000000042", "123456789012")
    assert account.changes == []


def test_a_region_that_does_not_exist(account, setup, pywren):
    """Row 123: ``pywren-setup`` asks again, and the other commands refuse it."""
    done = setup("--dryrun", input="us-wst-2\neu-west-1\n", yes=False)
    assert "AWS has no region us-wst-2; choose one of" in done.out
    assert done.code == 0
    assert "pywren-123456789012-eu-west-1" in done.out
    done = pywren("test_config", account={"aws_region": "us-wst-2"})
    assert done.code == 1
    assert "wrong region: AWS has no region us-wst-2: correct `account: aws_region`" in done.out


def test_a_bucket_name_that_is_not_valid(account, pywren, setup):
    """Row 124: the name is refused before anything is sent, and ``pywren-setup`` asks again."""
    refused(pywren("create_bucket", s3={"bucket": "Upper_Case"}), "'Upper_Case' is not a valid bucket name")
    assert account.requests == []
    done = setup("--dryrun", input="\n\nUpper_Case\nlower-case\n", yes=False)
    assert "'Upper_Case' is not a valid bucket name" in done.out
    assert "would create the bucket lower-case" in done.out


def test_a_bucket_of_somebody_else(account, pywren, setup):
    """Row 125: it is refused; ``pywren-setup`` asks again, or fails if nobody can answer."""
    account.refuse("HeadBucket", code="403", message="Forbidden")
    refused(pywren("create_bucket"), "the-bucket belongs to somebody else", "choose another name")

    def only_one(arguments):
        if arguments["Bucket"] == "taken":
            refuse(arguments)

    refuse = account._before["HeadBucket"]
    account.before("HeadBucket", only_one)
    done = setup("--dryrun", input="\n\ntaken\nmine\n", yes=False)
    assert "taken belongs to somebody else" in done.out
    assert "would create the bucket mine" in done.out
    account.refuse("HeadBucket", code="403", message="Forbidden")
    refused(setup(), "belongs to somebody else")


def test_a_bucket_name_that_is_taken_while_it_is_made(account, pywren):
    """Row 125: an error from S3 itself gets the same remedy."""
    account.refuse("CreateBucket", code="BucketAlreadyExists", status=409)
    refused(pywren("create_bucket"), "belongs to somebody else", "s3: bucket")


def test_a_bucket_in_another_region(account, pywren):
    """Row 126: the error names that region."""
    account.make_bucket(region="eu-west-1")
    refused(pywren("create_bucket"), "the-bucket is in eu-west-1", "`account: aws_region` is us-west-2")


def test_the_placeholder_bucket(account, pywren):
    """Row 127: this is the configuration that ``create_config`` writes when no bucket is given."""
    refused(pywren("create_bucket", s3={"bucket": "pywren.data"}), "make sure you change the default bucket")
    assert account.requests == []


def test_an_empty_prefix(account, pywren):
    """Row 128: otherwise the whole bucket would count as pywren's, and would be deleted."""
    refused(pywren("delete_bucket", s3={"pywren_prefix": "/"}), "s3: pywren_prefix", "whole bucket")
    assert account.requests == []


# -- existing resources --------------------------------------------------------------------------------------


def test_a_bucket_with_other_things(account, pywren):
    """Row 129: its objects and its public access settings stay unchanged."""
    account.make_bucket()
    account.put("website/index.html")
    done = pywren("create_bucket")
    assert done.code == 0
    assert "calls expire after 7 days" in done.out
    assert "PutPublicAccessBlock" not in account.changes
    assert account.keys() == ["website/index.html"]


def test_a_role_of_somebody_else(account, pywren):
    """Row 130: the role is used, but neither changed nor deleted."""
    trust = json.dumps(lambda_trust_policy())
    account.ask("iam", "create_role", RoleName="the-role", AssumeRolePolicyDocument=trust)
    account.requests.clear()
    done = pywren("create_role")
    assert (done.code, done.out) == (
        0,
        "kept the role the-role: pywren did not create it; it must allow what `pywren iam --print execution` prints\n",
    )
    done = pywren("delete_role")
    assert (done.code, done.out) == (0, "kept the role the-role: pywren did not create it\n")
    assert account.changes == []


def test_a_function_of_somebody_else(account, pywren):
    """Row 131: neither the function nor its log is changed, and nothing else is created for it."""
    account.make_function()
    account.requests.clear()
    refused(pywren("deploy_lambda"), "the-function is not pywren's", "lambda: function_name")
    assert pywren("delete_lambda") == (
        0,
        "kept the function the-function: it is not pywren's\n"
        "kept the log group /aws/lambda/the-function: it belongs to a function that pywren did not create\n",
        "",
    )
    assert pywren("cleanup_all").code == 0
    assert account.changes == []


def test_a_set_up_with_a_function_of_somebody_else(account, setup, tmp_path):
    """Row 131: the set-up is refused before anything is created."""
    account.make_function("pywren_1")
    account.requests.clear()
    refused(setup(), "pywren_1 is not pywren's")
    assert account.changes == []


def test_the_records_of_a_function_of_somebody_else(account, pywren):
    """Row 131: its records are never deleted, even in a bucket that is used for calls."""
    account.make_function()
    assert pywren("create_bucket").code == 0
    rules = account.ask("s3", "get_bucket_lifecycle_configuration", Bucket="the-bucket")["Rules"]
    prefixes = {rule["Filter"]["Prefix"] for rule in rules}
    assert prefixes == {"the.jobs/jobs/", *(f"the.jobs/{digit}" for digit in "0123456789abcdef")}
    account.put("aws/lambda/async/the-function/2026/11/22/x", "the.jobs/0/x")
    assert pywren("gc", "--older-than", "0m", "--yes").code == 0
    done = pywren("cleanup_all")
    assert "the bucket the-bucket: it holds other objects, such as aws/lambda/async/the-function/" in done.out
    assert account.keys() == ["aws/lambda/async/the-function/2026/11/22/x"]


def test_a_log_without_a_function(account, pywren):
    """Row 207: only a log group that pywren created is deleted."""
    account.ask("logs", "create_log_group", logGroupName="/aws/lambda/the-function")
    done = pywren("delete_lambda")
    assert "kept the log group /aws/lambda/the-function: pywren did not create it" in done.out
    account.ask("logs", "delete_log_group", logGroupName="/aws/lambda/the-function")
    assert pywren("deploy_lambda").code == 0
    account.ask("lambda", "delete_function", FunctionName="the-function")
    assert "deleted the log group /aws/lambda/the-function" in pywren("delete_lambda").out


def test_a_queue_of_somebody_else(account, pywren):
    """Row 205: the queue is used unchanged, with its messages."""
    url = account.make_queue("precious")
    account.requests.clear()
    said = "kept the queue the-queue: pywren did not create it"
    assert pywren("create_queue") == (0, f"{said}, and uses it as it is\n", "")
    assert pywren("delete_queue") == (0, f"{said}\n", "")
    assert said in pywren("cleanup_all").out
    assert account.changes == []
    assert pywren("standalone", "queue_size").out == "the-queue: 1 call is waiting, 0 are with workers\n"
    (message,) = account.ask("sqs", "receive_message", QueueUrl=url)["Messages"]
    assert message["Body"] == "precious"


def test_a_bucket_that_somebody_else_made(account, pywren):
    """Row 206: pywren's objects and settings are removed, and the bucket stays; ``--force`` deletes it."""
    theirs = {"Sid": "Theirs", "Effect": "Allow", "Principal": {"AWS": "arn:aws:iam::123456789012:root"}}
    theirs |= {"Action": "s3:GetObject", "Resource": "arn:aws:s3:::the-bucket/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [theirs]})
    account.make_bucket()
    account.ask("s3", "put_bucket_policy", Bucket="the-bucket", Policy=policy)
    assert pywren("create_bucket").code == 0
    account.put("the.jobs/0/x")
    kept = "kept the bucket the-bucket: pywren did not create it; --force deletes it anyway"
    done = pywren("cleanup_all")
    assert done.code == 0
    assert kept in done.out.splitlines()
    assert account.keys() == []
    left = json.loads(account.ask("s3", "get_bucket_policy", Bucket="the-bucket")["Policy"])["Statement"]
    assert left == [theirs]
    account.refuse("GetBucketLifecycleConfiguration", code="NoSuchLifecycleConfiguration", status=404)
    assert pywren("delete_bucket").out == f"{kept}\n"
    account.relent()
    assert pywren("delete_bucket", "--force").out == "deleted the bucket the-bucket\n"


@pytest.mark.parametrize(("tags", "becomes"), [([], True), ([{"Key": "team", "Value": "web"}], False)])
def test_an_empty_bucket_becomes_pywrens_unless_somebody_cares_for_it(account, pywren, tags, becomes):
    """Row 206: `aws s3 mb` may have created it for pywren; a bucket with a tag or policy stays its owner's."""
    account.make_bucket()
    if tags:
        account.ask("s3", "put_bucket_tagging", Bucket="the-bucket", Tagging={"TagSet": tags})
    done = pywren("create_bucket")
    assert ("updated the bucket the-bucket: its tag, which marks it as pywren's" in done.out) is becomes
    assert pywren("cleanup_all").code == 0
    assert ("buckets" not in account.left()) is becomes


def test_a_role_that_an_instance_profile_of_somebody_else_uses(made, pywren):
    """Row 212: neither the role nor the profile is changed."""
    made.ask("iam", "create_instance_profile", InstanceProfileName="theirs")
    made.ask("iam", "add_role_to_instance_profile", InstanceProfileName="theirs", RoleName="the-role")
    made.requests.clear()
    said = "kept the role the-role: the instance profile theirs uses it\n"
    assert pywren("delete_role") == (0, said, "")
    assert made.changes == []


def test_an_instance_profile_of_somebody_else(account, pywren):
    """Row 130: the profile is used, but neither changed nor deleted, and no role is created for it."""
    account.ask("iam", "create_instance_profile", InstanceProfileName="the-profile")
    account.requests.clear()
    said = "kept the instance profile the-profile: pywren did not create it"
    assert pywren("create_instance_profile") == (0, f"{said}, and uses it as it is\n", "")
    assert pywren("delete_instance_profile") == (0, f"{said}\n", "")
    assert account.changes == []


def test_who_deploys_but_may_not_look_at_roles(made, pywren):
    """Row 209: ``deploy_lambda`` uses the role unchecked; ``create_role`` is refused."""
    made.refuse("GetRole")
    done = pywren("deploy_lambda", **{"lambda": {"memory": 2048}})
    assert done.out == (
        "kept the role the-role: these credentials are not allowed to read it\n"
        "unchanged: the log group /aws/lambda/the-function\n"
        "updated the function the-function: its MemorySize\n"
    )
    refused(pywren("create_role"), "iam:GetRole on the role the-role")


# -- interrupted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        ("CreateBucket", "s3:CreateBucket"),
        ("PutBucketPolicy", "s3:PutBucketPolicy"),
        ("CreateRole", "iam:CreateRole and iam:TagRole on the role pywren_exec_role_1"),
        ("PutRolePolicy", "iam:PutRolePolicy on the role pywren_exec_role_1"),
        ("CreateLogGroup", "logs:CreateLogGroup on arn:aws:logs:"),
        ("CreateFunction", "lambda:CreateFunction, and iam:PassRole on arn:aws:iam::"),
        ("PutFunctionEventInvokeConfig", "lambda:PutFunctionEventInvokeConfig"),
    ],
)
def test_a_step_that_is_not_allowed(account, setup, operation, said):
    """Row 132: the error names the step and the permission; the next run continues there."""
    account.refuse(operation)
    refused(setup(), said)
    account.relent()
    account.requests.clear()
    done = setup()
    assert done.code == 0, done
    assert operation in account.changes
    assert_complete(account)


@pytest.mark.parametrize(
    "operation",
    [
        "PutBucketTagging",
        "PutPublicAccessBlock",
        "PutBucketLifecycleConfiguration",
        "PutRolePolicy",
        "PutRetentionPolicy",
        "CreateFunction",
        "PutFunctionEventInvokeConfig",
    ],
)
def test_interrupted_and_run_again(account, setup, operation):
    """Row 133: whichever step finished last, the next run creates only what is missing."""

    def interrupt(arguments):
        raise KeyboardInterrupt

    account.before(operation, interrupt)
    done = setup()
    assert (done.code, done.err.strip()) == (1, "Aborted!")
    account.relent()
    before = list(account.changes)
    account.requests.clear()
    assert setup().code == 0
    again = [change for change in account.changes if change in before and change != operation]
    assert again == []
    assert_complete(account)


def assert_complete(account):
    """Check that another set-up would change nothing, and that the bucket is protected."""
    resources = Resources(wrenconfig.load(wrenconfig.get_default_home_filename()), account.aws)
    assert [resource.plan() for resource in resources.for_lambda] == [[]] * 4
    block = account.ask("s3", "get_public_access_block", Bucket=BUCKET)["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True}


def test_run_twice(account, setup):
    """Row 134: the file is kept, and nothing changes."""
    assert setup().code == 0
    account.requests.clear()
    done = setup()
    assert done.code == 0
    assert done.out.count("unchanged: ") == 4
    assert account.changes == []


def test_a_role_that_is_too_new(account, setup, monkeypatch):
    """Row 135: the request is repeated until Lambda knows the role."""
    asked = []

    def too_new(arguments):
        asked.append(arguments)
        if len(asked) < 3:
            raise_too_new(arguments)

    text = "The role defined for the function cannot be assumed by Lambda."
    account.refuse("CreateFunction", code="InvalidParameterValueException", status=400, message=text)
    raise_too_new = account._before["CreateFunction"]
    account.before("CreateFunction", too_new)
    monkeypatch.setattr("pywren.aws.sending.compute_backoff", lambda attempt, **settings: 0.0)
    assert setup().code == 0
    assert len(asked) == 3


# -- removing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["delete_lambda", "delete_role", "delete_queue", "delete_instance_profile"])
def test_half_is_there(made, pywren, missing):
    """Row 136: the rest is deleted."""
    assert pywren(missing).code == 0
    done = pywren("cleanup_all")
    assert (done.code, done.err) == (0, "")
    assert made.left() == {}


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("delete_lambda", "there is no function the-function\nthere is no log group /aws/lambda/the-function\n"),
        ("delete_role", "there is no role the-role\n"),
        ("delete_queue", "there is no queue the-queue\n"),
        ("delete_instance_profile", "there is no instance profile the-profile\n"),
        ("delete_bucket", "there is no bucket the-bucket\n"),
    ],
)
def test_nothing_is_there(account, pywren, command, said):
    """Row 137: deleting something that does not exist succeeds."""
    done = pywren(command)
    assert (done.code, done.out, done.err) == (0, said, "")


def test_one_thing_cannot_be_deleted(made, pywren):
    """Row 138: everything else is deleted."""
    made.refuse("DeleteQueue", "DeleteFunction")
    refused(pywren("cleanup_all"), "sqs:DeleteQueue", "lambda:DeleteFunction")
    assert set(made.left()) == {"queues", "functions"}


def test_objects_of_others_keep_the_bucket(made, pywren):
    """Row 139: the bucket is kept, unless ``--force`` is given."""
    made.put("the.jobs/0/x", "theirs")
    done = pywren("delete_bucket")
    assert done.code == 0
    assert "kept the bucket the-bucket: it holds other objects, such as theirs; --force deletes the bucket" in done.out
    assert made.keys() == ["theirs"]
    assert pywren("delete_bucket", "--force").code == 0
    assert "buckets" not in made.left()


def test_a_bucket_that_keeps_versions(made, pywren):
    """Row 140: old versions are deleted too."""
    made.ask("s3", "put_bucket_versioning", Bucket="the-bucket", VersioningConfiguration={"Status": "Enabled"})
    made.put("the.jobs/0/x", "the.jobs/0/x")
    assert pywren("delete_bucket").code == 0
    assert "buckets" not in made.left()


def test_a_prefix_that_begins_like_ours(made, pywren):
    """Row 141: objects under such a prefix are not pywren's."""
    made.put("the.jobs2/0/x", "aws/lambda/async/the-function2/x", "the.jobs/0/x", "aws/lambda/async/the-function/x")
    assert pywren("delete_bucket").code == 0
    assert made.keys() == ["aws/lambda/async/the-function2/x", "the.jobs2/0/x"]


# -- the file ------------------------------------------------------------------------------------------------


def test_the_file_exists(run, tmp_path):
    """Row 142: the file is not overwritten."""
    path = tmp_path / "config.yaml"
    path.write_text("precious")
    refused(run("--filename", path, "create_config"), f"{path} exists", "--force")
    assert path.read_text() == "precious"


def test_the_file_cannot_be_used(run, tmp_path):
    """Row 143: a directory, a file that is not YAML, and an empty file are refused."""
    path = tmp_path / "config.yaml"
    path.write_text("a: [")
    refused(run("--filename", path, "create_role"), f"{path}, line 1", "not YAML")
    path.write_text("")
    refused(run("--filename", path, "create_role"), f"{path} is empty")
    refused(run("--filename", tmp_path / "none", "create_role"), "cannot read the configuration", "create_config")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_read_only(run, tmp_path):
    """Row 144: the error names the file."""
    tmp_path.chmod(0o500)
    refused(run("--filename", tmp_path / "config.yaml", "create_config"), "cannot write", "Permission denied")
    tmp_path.chmod(0o700)


def test_a_directory_that_is_missing(run, tmp_path):
    """Row 144: the error names the file."""
    refused(run("--filename", tmp_path / "none" / "c", "create_config"), f"cannot write {tmp_path}/none/c")


def test_overwriting_is_interrupted(run, tmp_path, monkeypatch):
    """Row 145: the old file stays, and no other file is left."""
    path = tmp_path / "config.yaml"
    path.write_text("old")

    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    assert run("--filename", path, "create_config", "--force").code == 1
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("command", ["deploy_lambda", "test_function", "cleanup_all", "logs", "gc"])
def test_no_configuration(run, tmp_path, monkeypatch, command):
    """Row 146: the error says how to create one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    refused(run(command), "there is no configuration", "pywren create_config")


# -- test_config ---------------------------------------------------------------------------------------------


@pytest.fixture
def settings(monkeypatch):
    """Set the account's quotas, which moto does not have."""
    from pywren.aws.requests import AWS

    answer = {
        "AccountLimit": {"ConcurrentExecutions": 1000, "TotalCodeSize": 100},
        "AccountUsage": {"TotalCodeSize": 1, "FunctionCount": 1},
    }
    request = AWS.request

    def with_settings(self, service, operation, **arguments):
        return answer if operation == "get_account_settings" else request(self, service, operation, **arguments)

    monkeypatch.setattr(AWS, "request", with_settings)
    return answer


def test_all_is_well(made, pywren, settings):
    """The whole output for a good configuration is as expected."""
    done = pywren("test_config")
    assert (done.code, done.err) == (0, "")
    here = f"python{sys.version_info.major}.{sys.version_info.minor}"
    assert done.out.splitlines() == [
        "ok    region: us-west-2",
        "ok    credentials: arn:aws:sts::123456789012:user/moto",
        "ok    clock: right",
        "ok    bucket: s3://the-bucket/the.jobs/ is readable and writable",
        "ok    role: the role the-role",
        "ok    log: the log group /aws/lambda/the-function",
        f"ok    worker: {here}, with this machine's pywren",
        "ok    function: the function the-function",
        "ok    quota: up to 1,000 calls run at once in this account and region",
    ]
    assert pywren("doctor") == done


def test_few_calls_at_once(made, pywren, settings):
    """Row 147: a new account's low limit is reported, but is not a mistake."""
    settings["AccountLimit"]["ConcurrentExecutions"] = 10
    done = pywren("test_config")
    assert done.code == 0
    assert "note  quota: up to 10 calls run at once in this account and region; others wait. Request more" in done.out


def test_no_concurrency(made, pywren):
    """Row 148: with no concurrency, calls would wait forever."""
    name = "the-function"
    made.ask("lambda", "put_function_concurrency", FunctionName=name, ReservedConcurrentExecutions=0)
    done = pywren("test_config")
    assert done.code == 1
    assert "wrong concurrency: the function's reserved concurrency is 0" in done.out
    made.ask("lambda", "put_function_concurrency", FunctionName=name, ReservedConcurrentExecutions=5)
    assert "note  concurrency: the function's reserved concurrency limits it to 5" in pywren("test_config").out


def test_another_worker(made, pywren, monkeypatch):
    """Row 149: a worker with another Python or another pywren is reported."""
    monkeypatch.setattr("pywren.cloud.doctor.build_zip", lambda: bundle.build_zip({"pywren/__init__.py": b"2"}))
    done = pywren("test_config")
    assert done.code == 1
    assert "wrong worker: the function's pywren, cloudpickle or tblib differs" in done.out
    assert "pywren deploy_lambda" in done.out
    function = get_backend("123456789012", REGION).get_function("the-function")
    function.run_time = "python3.9"
    assert "wrong worker: the function has python3.9, but this machine has python3." in pywren("test_config").out


@pytest.mark.parametrize(("seconds", "said"), [(3600, "3600 s ahead of AWS"), (-3600, "3600 s behind AWS")])
def test_a_wrong_clock(account, seconds, said):
    """Row 150: the output gives the difference, even when AWS refuses the credentials because of it."""
    from pywren.cloud.doctor import Doctor

    def clock():
        return time.time() + seconds

    def skewed(findings):
        (finding,) = [finding for finding in findings if finding.what == "clock"]
        assert finding.verdict == "wrong"
        told = re.sub(r"\d+", lambda number: str(round(int(number[0]), -2)), finding.said)
        assert said in told

    skewed(Doctor(configuration(), account.aws, clock=clock).examine())
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    account.refuse("GetCallerIdentity", code="SignatureDoesNotMatch")
    refuse = account._before["GetCallerIdentity"]

    def dated(arguments):
        try:
            refuse(arguments)
        except Exception as error:
            error.response["ResponseMetadata"]["HTTPHeaders"]["date"] = date
            raise

    account.before("GetCallerIdentity", dated)
    skewed(Doctor(configuration(), account.aws, clock=clock).examine())


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        ("GetRole", "note  role: not checked: "),
        ("DescribeLogGroups", "note  log: not checked: "),
        ("GetFunctionConfiguration", "note  function: not checked: "),
        ("PutObject", "wrong bucket: cannot write s3://the-bucket/the.jobs/doctor/"),
    ],
)
def test_what_may_not_be_looked_at_need_not_be_wrong(made, pywren, operation, said):
    """Users who only run calls may not read roles, but they need the bucket."""
    made.refuse(operation)
    done = pywren("test_config")
    assert said in done.out
    assert done.code == (1 if "wrong" in said else 0)
    made.relent()
    assert made.keys() == []


def test_who_only_runs_calls_may_not_ask_for_the_bucket(made, pywren):
    """Without permission to look at the bucket, reading and writing it decides."""
    made.refuse("HeadBucket", code="403", message="Forbidden")
    done = pywren("test_config")
    assert "ok    bucket: s3://the-bucket/the.jobs/ is readable and writable" in done.out
    assert "note  protection of the bucket: not checked: " in done.out
    assert done.code == 0


def test_a_bucket_without_protection(made, pywren):
    """Missing protection is only noted, because calls run."""
    made.ask("s3", "delete_public_access_block", Bucket="the-bucket")
    done = pywren("test_config")
    said = "`pywren create_bucket` would update the bucket the-bucket: closed to the public"
    assert f"note  protection of the bucket: {said}" in done.out
    assert done.code == 0


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("delete_bucket", "wrong bucket: there is no bucket the-bucket: create it with `pywren create_bucket`"),
        ("delete_role", "wrong role: missing: `pywren create_role` would create the role the-role"),
        ("delete_lambda", "wrong function: there is no function the-function: create it with `pywren deploy_lambda`"),
    ],
)
def test_what_is_missing(made, pywren, command, said):
    """Each line names the command that creates the missing resource."""
    assert pywren(command).code == 0
    done = pywren("test_config")
    assert done.code == 1
    assert said in done.out
    assert re.fullmatch(r"Error: (1 problem|\d problems) must be fixed\n", done.err)


# -- the rest ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["print_latest_logs", "logs"])
def test_no_log_yet(made, pywren, command):
    """Row 151: there is no log group, or it is empty."""
    assert pywren(command) == (0, "", "there is no log yet\n")
    assert pywren("delete_lambda").code == 0
    assert pywren(command) == (0, "", "there is no log yet\n")


def test_ctrl_c_at_a_prompt(account, setup, monkeypatch, tmp_path):
    """Row 152: nothing is created."""

    def interrupt(prompt):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", interrupt)
    done = setup(yes=False)
    assert (done.code, done.err.strip()) == (1, "Aborted!")
    assert account.changes == []
    assert not (tmp_path / ".pywren_config").exists()


@pytest.mark.parametrize("lines", range(7))
def test_the_input_ends(account, setup, lines):
    """Row 153: wherever the input ends, the remaining questions get their defaults."""
    done = setup("--dryrun", input="\n" * lines, yes=False)
    assert done.code == 0, done
    assert f"would create the bucket {BUCKET} in {REGION}" in done.out
    assert account.changes == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["no_such_command"],
        ["create_role", "--no-such-option"],
        ["gc", "--older-than", "week"],
        ["iam", "--print", "all"],
    ],
)
def test_a_command_line_that_is_wrong(pywren, arguments):
    """Row 154: the usage is printed, with exit code 2."""
    done = pywren(*arguments)
    assert done.code == 2
    assert done.err.startswith("Usage: ")


def test_a_queue_that_was_deleted_just_now(account, pywren):
    """Row 155: SQS refuses the name for a minute."""
    account.refuse("CreateQueue", code="AWS.SimpleQueueService.QueueDeletedRecently", status=400)
    refused(pywren("create_queue"), "wait 60 seconds")


def test_one_role_for_two(account, pywren):
    """Row 156: EC2 must not get Lambda's role, nor Lambda EC2's."""
    refused(pywren("create_role", standalone={"instance_profile_name": "the-role"}), "share a role")
    assert account.requests == []


def test_garbage_that_may_still_run(made, pywren):
    """Row 157: such a call may wait for hours in Lambda's queue before it starts."""
    refused(pywren("gc", "--older-than", "1h"), "may still be running", "--yes")
    assert pywren("gc", "--older-than", "1h", "--yes").code == 0
    assert pywren("gc", "--older-than", "1h", "--dry-run").code == 0


@pytest.mark.parametrize(
    "operation",
    ["GetBucketTagging", "GetPublicAccessBlock", "GetBucketPolicy", "GetBucketLifecycleConfiguration"],
)
def test_a_server_that_knows_less(account, pywren, caplog, operation):
    """Row 158: features that the server lacks are skipped, and a second run changes nothing."""
    account.refuse(operation, code="NotImplemented", status=501)
    assert pywren("create_bucket").code == 0
    assert "this S3 server does not support it" in caplog.text
    assert pywren("create_bucket").out == "unchanged: the bucket the-bucket\n"


def test_two_set_ups_at_once(account, pywren):
    """Row 159: resources that the other set-up created meanwhile are used."""

    def quicker(arguments):
        account.relent()
        for command in ("create_bucket", "create_role", "create_instance_profile"):
            assert pywren(command).code == 0

    account.before("CreateBucket", quicker)
    assert pywren("create_bucket").code == 0
    assert pywren("cleanup_all").code == 0
    account.before("CreateRole", quicker)
    assert pywren("create_role").code == 0
    assert pywren("create_role").out == "unchanged: the role the-role\n"
    assert pywren("cleanup_all").code == 0
    account.before("CreateInstanceProfile", quicker)
    assert pywren("create_instance_profile").code == 0
    assert pywren("create_instance_profile").out == "unchanged: the instance profile the-profile\n"


def test_the_package_is_importable_as_before():
    """0.4's names of these modules still work."""
    assert package.scripts.setupscript.interactive_setup is interactive_setup
