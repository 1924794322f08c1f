"""The resources of a configuration: created once, changed where they differ, deleted completely."""

import json

import iam
import pytest
from accounts import ACCOUNT_ID, REGION, configuration

from pywren.cloud import policies
from pywren.cloud.doctor import Doctor
from pywren.cloud.names import Names, check_bucket_name, partition
from pywren.cloud.resources import Resources, check_account, written_account
from pywren.exceptions import ConfigError, DeploymentError
from pywren.wire.call import FORMAT

pytestmark = pytest.mark.moto


def carry_out(steps):
    """Run a plan, and return its verbs."""
    for step in steps:
        step.run()
    return [step.verb for step in steps]


def everything(account):
    """Return all resources, in the order of creation."""
    resources = account.resources()
    return [*resources.for_lambda, *resources.for_standalone]


def test_everything_is_made_once_and_deleted_whole(account):
    """After creation a second plan is empty, and deleting leaves nothing."""
    made = [carry_out(resource.plan()) for resource in everything(account)]
    assert all("create" in verbs for verbs in made)
    account.requests.clear()
    assert [resource.plan() for resource in everything(account)] == [[]] * 6
    assert account.changes == []
    launched = account.launch()
    workers, *others = account.resources().for_removal
    assert launched == account.running()
    assert carry_out(workers.plan_removal()) == ["terminate"]
    for resource in others:
        assert set(carry_out(resource.plan_removal())) == {"delete"}
    assert account.left() == {}
    assert [resource.plan_removal() for resource in account.resources().for_removal] == [[]] * 7


def test_a_plan_changes_nothing(account):
    """Planning only reads, whether the resources exist or not."""
    account.make_bucket()
    account.requests.clear()
    for resource in everything(account):
        resource.plan()
        resource.plan_removal()
    assert account.changes == []


def test_the_plan_says_what_it_does(account):
    """The plan describes each step before and after it is done."""
    (step,) = account.resources().queue.plan()
    assert (step.planned, step.done) == ("would create the queue the-queue", "created the queue the-queue")


# -- bucket --------------------------------------------------------------------------------------------------


def test_a_new_bucket_is_closed_encrypted_on_the_way_and_cleared(account):
    """Public access is blocked, policy and lifecycle are set, and the bucket has pywren's tag."""
    carry_out(account.resources().bucket.plan())
    block = account.ask("s3", "get_public_access_block", Bucket="the-bucket")["PublicAccessBlockConfiguration"]
    assert set(block.values()) == {True}
    (statement,) = json.loads(account.ask("s3", "get_bucket_policy", Bucket="the-bucket")["Policy"])["Statement"]
    assert statement["Effect"] == "Deny"
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert statement["Resource"] == ["arn:aws:s3:::the-bucket", "arn:aws:s3:::the-bucket/*"]
    rules = account.ask("s3", "get_bucket_lifecycle_configuration", Bucket="the-bucket")["Rules"]
    assert {rule["Expiration"]["Days"] for rule in rules} == {7}
    prefixes = {rule["Filter"]["Prefix"] for rule in rules}
    assert "aws/lambda/async/the-function/" in prefixes


@pytest.mark.parametrize(
    ("key", "expires"),
    [
        ("the.jobs/0b2f7c1e-1111-4111-8111-111111111111/00000/status.json", True),
        ("the.jobs/f/x", True),
        ("the.jobs/jobs/job-7.json", True),
        ("the.jobs/runtimes/numpy.tar.gz", False),
        ("the.jobs2/0/x", False),
        ("aws/lambda/async/the-function/2026/11/22/x", True),
        ("aws/lambda/async/the-function2/2026/x", False),
        ("else", False),
    ],
)
def test_calls_expire_and_nothing_else(account, key, expires):
    """Runtimes share their prefix with callsets, and never expire."""
    carry_out(account.resources().bucket.plan())
    rules = account.ask("s3", "get_bucket_lifecycle_configuration", Bucket="the-bucket")["Rules"]
    assert any(key.startswith(rule["Filter"]["Prefix"]) for rule in rules) is expires


def test_the_days_are_the_configurations(account):
    """The number of days comes from the configuration, and changes with it."""
    carry_out(account.resources().bucket.plan())
    (step,) = account.resources(s3={"expiry_days": 30}).bucket.plan()
    assert step.planned == "would update the bucket the-bucket: calls expire after 30 days"
    step.run()
    rules = account.ask("s3", "get_bucket_lifecycle_configuration", Bucket="the-bucket")["Rules"]
    assert {rule["Expiration"]["Days"] for rule in rules} == {30}


@pytest.mark.parametrize("region", ["us-east-1", "eu-central-1"])
def test_a_bucket_is_made_in_its_region(account, region):
    """us-east-1 accepts no LocationConstraint, and all other regions need one."""
    from pywren.aws.requests import AWS

    config = configuration(account={"aws_region": region})
    aws = AWS(region)
    carry_out(Resources(config, aws).bucket.plan())
    found = aws.request("s3", "get_bucket_location", doing="look", Bucket="the-bucket")["LocationConstraint"]
    assert found == (None if region == "us-east-1" else region)
    aws.close()


def test_two_configurations_share_a_bucket(account):
    """Each configuration has its own rules and statement; deleting one keeps the other's."""
    first, second = account.resources(), account.resources(s3={"pywren_prefix": "other"})
    carry_out(first.bucket.plan())
    carry_out(second.bucket.plan())
    assert first.bucket.plan() == second.bucket.plan() == []
    account.put("the.jobs/0/x", "other/0/x")
    assert carry_out(first.bucket.plan_removal()) == ["delete", "update", "update", "keep"]
    assert account.keys() == ["other/0/x"]
    assert second.bucket.plan() == []


def test_what_others_have_set_stays(account):
    """Policy statements, lifecycle rules, tags and public access of an existing bucket are kept."""
    account.make_bucket()
    account.put("website/index.html")
    theirs = {
        "Sid": "Theirs",
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": "arn:aws:s3:::the-bucket/website/*",
    }
    rule = {"ID": "theirs", "Filter": {"Prefix": "logs/"}, "Status": "Enabled", "Expiration": {"Days": 1}}
    tags = {"TagSet": [{"Key": "team", "Value": "web"}]}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [theirs]})
    account.ask("s3", "put_bucket_policy", Bucket="the-bucket", Policy=policy)
    account.ask("s3", "put_bucket_tagging", Bucket="the-bucket", Tagging=tags)
    account.ask(
        "s3", "put_bucket_lifecycle_configuration", Bucket="the-bucket", LifecycleConfiguration={"Rules": [rule]}
    )
    assert carry_out(account.resources().bucket.plan()) == ["update", "update"]
    statements = json.loads(account.ask("s3", "get_bucket_policy", Bucket="the-bucket")["Policy"])["Statement"]
    assert theirs in statements
    (ours,) = [statement for statement in statements if statement != theirs]
    assert ours["Resource"] == [
        "arn:aws:s3:::the-bucket/the.jobs/*",
        "arn:aws:s3:::the-bucket/aws/lambda/async/the-function/*",
    ]
    assert account.ask("s3", "get_bucket_tagging", Bucket="the-bucket")["TagSet"] == tags["TagSet"]
    assert "PutPublicAccessBlock" not in account.changes
    account.put("the.jobs/0/x")
    carry_out(account.resources().bucket.plan_removal())
    assert account.keys() == ["website/index.html"]
    assert json.loads(account.ask("s3", "get_bucket_policy", Bucket="the-bucket")["Policy"])["Statement"] == [theirs]
    (left,) = account.ask("s3", "get_bucket_lifecycle_configuration", Bucket="the-bucket")["Rules"]
    assert left["ID"] == "theirs"


def test_versions_go_too(account):
    """Objects, versions and delete markers under our prefix are deleted in batches."""
    carry_out(account.resources().bucket.plan())
    account.ask("s3", "put_bucket_versioning", Bucket="the-bucket", VersioningConfiguration={"Status": "Enabled"})
    account.put("the.jobs/0/x", "the.jobs/0/x", "the.jobs/0/y")
    account.ask("s3", "delete_object", Bucket="the-bucket", Key="the.jobs/0/y")
    carry_out(account.resources().bucket.plan_removal())
    assert account.left() == {}


def test_old_versions_of_others_keep_the_bucket(account):
    """A deleted object of another owner keeps the bucket too: its versions still exist."""
    carry_out(account.resources().bucket.plan())
    account.ask("s3", "put_bucket_versioning", Bucket="the-bucket", VersioningConfiguration={"Status": "Enabled"})
    account.put("theirs")
    account.ask("s3", "delete_object", Bucket="the-bucket", Key="theirs")
    assert carry_out(account.resources().bucket.plan_removal())[-1] == "keep"


def test_many_objects_go_in_batches(account, monkeypatch):
    """Listing takes several pages, and deleting takes several requests."""
    monkeypatch.setattr("pywren.cloud.bucket.DELETE_BATCH", 3)
    carry_out(account.resources().bucket.plan())
    account.put(*(f"the.jobs/0/{number}" for number in range(8)))
    carry_out(account.resources().bucket.plan_removal())
    assert account.changes.count("DeleteObjects") == 3
    assert account.left() == {}


def test_an_object_that_cannot_be_deleted_is_named(account):
    """The request succeeds, and its response lists the objects that it could not delete."""
    carry_out(account.resources().bucket.plan())
    account.put("the.jobs/0/x")
    bucket = account.resources().bucket
    answer = {"Errors": [{"Key": "the.jobs/0/x", "Code": "AccessDenied", "Message": "no"}]}
    bucket._request = lambda operation, **arguments: answer
    with pytest.raises(DeploymentError, match=r"s3://the-bucket/the.jobs/0/x.*s3:DeleteObject"):
        bucket.delete_keys(["the.jobs/0/x"])


# -- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ab", "Upper", "under_score", "a..b", "-a-", "10.0.0.1", "x" * 64, "a b"])
def test_names_that_s3_does_not_take(name):
    """They are refused before anything is sent."""
    with pytest.raises(ConfigError, match="not a valid bucket name"):
        check_bucket_name(name)


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("s3", "pywren_prefix", "/", "whole bucket"),
        ("s3", "pywren_prefix", "jobs/*", "pywren_prefix"),
        ("s3", "pywren_prefix", "${aws:username}", "pywren_prefix"),
        ("account", "aws_lambda_role", "a/b", "aws_lambda_role"),
        ("lambda", "function_name", "a.b", "function_name"),
        ("standalone", "sqs_queue_name", "a b", "sqs_queue_name"),
        ("standalone", "sqs_queue_name", "", "sqs_queue_name` is ''"),
        ("lambda", "function_name", "", "function_name` is ''"),
        ("standalone", "instance_profile_name", "the-role", "share"),
    ],
)
def test_names_that_are_not_valid(section, key, value, said):
    """The error names the key; an IAM wildcard never gets into a policy."""
    with pytest.raises(ConfigError, match=said):
        Names.of(configuration(**{section: {key: value}}), ACCOUNT_ID)


def test_slashes_around_the_prefix_do_not_matter():
    """Keys never start with a slash."""
    assert Names.of(configuration(s3={"pywren_prefix": "/a/b/"}), ACCOUNT_ID).prefix == "a/b"


@pytest.mark.parametrize(
    ("region", "name"), [("eu-west-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")]
)
def test_other_partitions_have_other_arns(region, name):
    """Partitions such as China and GovCloud have their own ARNs."""
    assert partition(region) == name
    names = Names.of(configuration(account={"aws_region": region}), ACCOUNT_ID)
    assert f"arn:{name}:s3:::the-bucket/the.jobs/*" in json.dumps(policies.execution_policy(names))


def test_the_account_is_compared_with_the_credentials(account):
    """Leading zeros that YAML dropped are restored; a different account is an error."""
    assert written_account({"account": {"aws_account_id": 42}}) == "000000000042"
    assert check_account(configuration(), account.aws) == ACCOUNT_ID
    with pytest.raises(ConfigError, match=r"account 000000000042, but the credentials belong to 123456789012"):
        check_account(configuration(account={"aws_account_id": 42}), account.aws)


# -- policies ------------------------------------------------------------------------------------------------

NAMES = Names.of(configuration(), ACCOUNT_ID)


def all_policies():
    """Return every policy that the command prints."""
    return {
        "execution": policies.execution_policy(NAMES),
        "user": policies.user_policy(NAMES),
        "setup": policies.setup_policy(NAMES),
        "launch": policies.launch_policy(NAMES),
        "instance": policies.instance_policy(NAMES),
    }


WITHOUT_RESOURCES = {
    "ec2:DescribeImages",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeInstances",
    "lambda:GetAccountSettings",
}
"""Actions that AWS cannot limit to a resource (Service Authorization Reference, 2026)."""


@pytest.mark.parametrize("name", all_policies())
def test_no_policy_is_broader_than_aws_allows(name):
    """Only read actions lack a narrower resource, no action has a wildcard, and the policy fits IAM's size limit."""
    policy = all_policies()[name]
    for statement in policy["Statement"]:
        assert not any("*" in action for action in statement["Action"])
        if "*" in statement["Resource"]:
            assert set(statement["Action"]) <= WITHOUT_RESOURCES
    assert len("".join(json.dumps(policy).split())) <= 6144
    assert len({statement["Sid"] for statement in policy["Statement"]}) == len(policy["Statement"])


def test_the_worker_may_do_no_more_than_it_needs():
    """The worker cannot delete, lists only its prefixes, and writes to one log."""
    policy = policies.execution_policy(NAMES)
    objects = "arn:aws:s3:::the-bucket/the.jobs/0/x"
    assert iam.allowing(policy, "s3:PutObject", objects) == "StagedObjects"
    assert iam.allowing(policy, "s3:DeleteObject", objects) is None
    assert iam.allowing(policy, "s3:GetObject", "arn:aws:s3:::the-bucket/the.jobs2/x") is None
    assert iam.allowing(policy, "s3:ListBucket", "arn:aws:s3:::the-bucket", {"s3:prefix": "the.jobs/0/"}) == "List"
    assert iam.allowing(policy, "s3:ListBucket", "arn:aws:s3:::the-bucket", {"s3:prefix": ""}) is None
    assert iam.allowing(policy, "s3:ListBucket", "arn:aws:s3:::the-bucket") is None
    log = f"arn:aws:logs:{REGION}:{ACCOUNT_ID}:log-group:/aws/lambda/the-function"
    assert iam.allowing(policy, "logs:PutLogEvents", f"{log}:log-stream:x") == "OwnLog"
    assert iam.allowing(policy, "logs:PutLogEvents", f"{log}2:log-stream:x") is None


def test_only_lambda_or_ec2_may_take_a_role():
    """Each trust policy names one service."""
    for policy, service in [(policies.lambda_trust_policy(), "lambda"), (policies.ec2_trust_policy(NAMES), "ec2")]:
        (statement,) = policy["Statement"]
        assert statement["Principal"] == {"Service": f"{service}.amazonaws.com"}


def test_the_setup_policy_allows_what_setting_up_and_removing_takes_and_nothing_else(account):
    """The policy allows every request from creation to deletion, and every action in it is used."""
    live_a_full_life(account)
    policy = policies.setup_policy(NAMES)
    # requests of botocore's waiters for Lambda, and requests that moto does not support, are missing here
    used = {"lambda:GetFunction", "lambda:UpdateFunctionCode", "lambda:UpdateFunctionConfiguration"}
    for service, operation, arguments in account.requests:
        for action, resource, context in iam.required(service, operation, arguments, REGION, ACCOUNT_ID):
            assert iam.allowing(policy, action, resource, context), (action, resource, context)
            used.add(action)
    assert iam.actions(policy) - used == {"s3:AbortMultipartUpload"}  # only after an upload that failed


def test_what_is_outdated_is_named(account):
    """A worker that refuses every call, and a role that lacks a permission, are told apart from other differences."""
    for resource in everything(account):
        carry_out(resource.plan())
    account.ask("lambda", "update_function_configuration", FunctionName="the-function", Description="theirs")
    policy = policies.execution_policy(NAMES)
    document = json.dumps({**policy, "Statement": policy["Statement"][1:]})
    account.ask("iam", "put_role_policy", RoleName="the-role", PolicyName="pywren-worker", PolicyDocument=document)
    wrong = {one.what: one.said for one in Doctor(configuration(), account.aws).examine() if one.verdict == "wrong"}
    assert "outdated worker, which refuses every call: it reads calls of format 1" in wrong["worker"]
    assert f"this machine sends format {FORMAT}: update it with `pywren deploy_lambda`" in wrong["worker"]
    assert wrong["role"].startswith("outdated, or changed by somebody: `pywren create_role`")


def live_a_full_life(account):
    """Create everything, let it drift, repair it, use the bucket, and delete it all, next to other objects."""
    for resource in everything(account):
        carry_out(resource.plan())
    assert "wrong" not in {finding.verdict for finding in Doctor(configuration(), account.aws).examine()}
    with account.unwatched():
        drift(account)
        account.launch()
    for resource in everything(account):
        carry_out(resource.plan())
    account.put("the.jobs/deployments/x")
    account.ask("s3", "get_object", Bucket="the-bucket", Key="the.jobs/deployments/x")["Body"].read()
    for resource in account.resources().for_removal:
        carry_out(resource.plan_removal())
    with account.unwatched():
        versions = account.ask("s3", "list_object_versions", Bucket="the-bucket")
        for item in [*versions.get("Versions", ()), *versions.get("DeleteMarkers", ())]:
            account.ask("s3", "delete_object", Bucket="the-bucket", Key=item["Key"], VersionId=item["VersionId"])
        account.ask("s3", "put_bucket_versioning", Bucket="the-bucket", VersioningConfiguration={"Status": "Suspended"})
    carry_out(account.resources().bucket.plan_removal())
    with account.unwatched():
        assert account.left() == {}


def drift(account):
    """Change everything that a user might change."""
    other = {"Effect": "Allow", "Action": "sqs:ListQueues", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [other]})
    trust = json.dumps(policies.ec2_trust_policy(NAMES))
    account.ask("iam", "put_role_policy", RoleName="the-role", PolicyName="pywren-worker", PolicyDocument=document)
    account.ask("iam", "update_assume_role_policy", RoleName="the-role", PolicyDocument=trust)
    theirs = account.ask("iam", "create_policy", PolicyName="theirs", PolicyDocument=document)["Policy"]["Arn"]
    account.ask("iam", "attach_role_policy", RoleName="the-role", PolicyArn=theirs)
    url = account.ask("sqs", "get_queue_url", QueueName="the-queue")["QueueUrl"]
    account.ask("sqs", "set_queue_attributes", QueueUrl=url, Attributes={"VisibilityTimeout": "1"})
    account.ask("s3", "put_bucket_versioning", Bucket="the-bucket", VersioningConfiguration={"Status": "Enabled"})
    account.put("the.jobs/0/x", "theirs")
