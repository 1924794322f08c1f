"""Copies of the function: deployed, updated, examined and deleted together; policies name them."""

from __future__ import annotations

import json

import iam
import pytest
from accounts import ACCOUNT_ID, REGION, configuration

from pywren.cloud import policies
from pywren.cloud.doctor import Doctor
from pywren.cloud.logs import follow_log, latest_log, recent_log
from pywren.cloud.names import Names
from pywren.cloud.resources import Resources
from pywren.exceptions import ConfigError, DeploymentError
from pywren.wire.keys import MOST_COPIES

pytestmark = pytest.mark.moto
COPIES = {"copies": 3}


def carry_out(steps):
    """Run a plan, and return its verbs."""
    for step in steps:
        step.run()
    return [step.verb for step in steps]


def set_up(account, **changes):
    """Create everything that calls on Lambda need."""
    for resource in account.resources(**changes).for_lambda:
        carry_out(resource.plan())


def functions(account):
    """Return the names of all functions."""
    return sorted(account.left()["functions"])


def test_copies_are_made_once_and_deleted_whole(account):
    """After creation a second plan is empty, and deleting leaves nothing."""
    set_up(account, **{"lambda": COPIES})
    assert functions(account) == ["the-function", "the-function_copy2", "the-function_copy3"]
    assert len(account.left()["logs"]) == 3
    account.requests.clear()
    assert [resource.plan() for resource in account.resources(**{"lambda": COPIES}).for_lambda] == [[]] * 4
    assert account.changes == []
    for resource in account.resources(**{"lambda": COPIES}).for_removal:
        assert set(carry_out(resource.plan_removal())) <= {"delete"}
    assert account.left() == {}


def test_all_copies_are_updated(account):
    """A setting of the configuration applies to each copy, and so does where failed calls are recorded."""
    set_up(account, **{"lambda": COPIES})
    resources = account.resources(**{"lambda": {**COPIES, "memory": 2048}})
    assert carry_out(resources.functions.plan()) == ["update"] * 3
    for name in functions(account):
        found = account.ask("lambda", "get_function_configuration", FunctionName=name)
        assert found["MemorySize"] == 2048
        assert account.aws.event_invoke(name)["MaximumRetryAttempts"] == 0


@pytest.mark.parametrize("left", [1, 2])
def test_fewer_copies_than_before(account, left):
    """The next deployment deletes those that are too many, with their logs."""
    set_up(account, **{"lambda": {"copies": 4}})
    resources = account.resources(**{"lambda": {"copies": left}})
    findings = list(Doctor(configuration(**{"lambda": {"copies": left}}), account.aws).examine())
    assert any(one.verdict == "note" and "would delete the function the-function_copy4" in one.said for one in findings)
    for resource in resources.for_deployment:
        carry_out(resource.plan())
    assert len(functions(account)) == len(account.left()["logs"]) == left
    assert resources.functions.plan() == []


def test_an_interrupted_deletion_leaves_no_gap(account):
    """Copies are deleted from the last one on, so that the next deployment finds what is left."""
    set_up(account, **{"lambda": {"copies": 4}})
    first = account.resources().functions.plan()[0]
    first.run()
    assert functions(account) == ["the-function", "the-function_copy2", "the-function_copy3"]
    carry_out(account.resources().functions.plan())
    assert functions(account) == ["the-function"]


def test_removal_finds_the_copies_of_an_earlier_configuration(account):
    """``cleanup_all`` with a configuration that no longer names them deletes them too."""
    set_up(account, **{"lambda": COPIES})
    for resource in account.resources().for_removal:
        carry_out(resource.plan_removal())
    assert account.left() == {}


def test_a_function_of_somebody_else_with_the_name_of_a_copy(account):
    """Deployment refuses to touch it; without copies, nobody looks at it again."""
    account.make_function("the-function_copy2")
    with pytest.raises(DeploymentError, match="the-function_copy2 is not pywren's"):
        account.resources(**{"lambda": COPIES}).functions.plan()
    set_up(account)
    for resource in account.resources().for_removal:
        carry_out(resource.plan_removal())
    assert functions(account) == ["the-function_copy2"]
    assert account.resources(**{"lambda": {"copies": 2}}).bucket.prefixes == (
        "the.jobs/",
        "aws/lambda/async/the-function/",
    )


def test_credentials_that_may_not_look_for_former_copies(account):
    """A policy that is older than copies are: deployment goes on without them."""
    set_up(account)

    def refuse(arguments):
        if "_copy" in arguments["FunctionName"]:
            account.refuse("GetFunctionConfiguration")

    account.before("GetFunctionConfiguration", refuse)
    account.refuse("GetFunctionConfiguration")
    assert account.resources().former_copies.plan() == []


def test_the_doctor_looks_at_each_copy(account):
    """A copy that is missing, outdated or switched off is named."""
    config = configuration(**{"lambda": COPIES})
    set_up(account, **{"lambda": COPIES})
    assert "wrong" not in {one.verdict for one in Doctor(config, account.aws).examine()}
    account.ask("lambda", "delete_function", FunctionName="the-function_copy2")
    account.ask("lambda", "update_function_configuration", FunctionName="the-function_copy3", MemorySize=128)
    found = list(Doctor(config, account.aws).examine())
    wrong = [one for one in found if one.verdict == "wrong"]
    assert [one.what for one in wrong] == ["copy 2", "copy 3"]
    assert {"worker", "worker of copy 3"} < {one.what for one in found}
    assert "the-function_copy2" in wrong[0].said
    assert "the-function_copy3" in wrong[1].said


def test_records_of_all_copies_expire(account):
    """There is a rule for each copy; when there are fewer, the rule of a former copy goes."""
    set_up(account, **{"lambda": COPIES})

    def prefixes():
        rules = account.ask("s3", "get_bucket_lifecycle_configuration", Bucket="the-bucket")["Rules"]
        return {rule["Filter"]["Prefix"] for rule in rules}

    copy = "aws/lambda/async/the-function_copy3/"
    assert copy in prefixes()
    carry_out(account.resources().bucket.plan())
    assert copy not in prefixes()
    assert account.resources().bucket.plan() == []


# -- policies --------------------------------------------------------------------------------------------------


def names(copies=3):
    return Names.of(configuration(**{"lambda": {"copies": copies}}), ACCOUNT_ID)


def test_who_may_do_what_with_copies():
    """Users invoke each copy and read its records and logs; the role writes them; no other function is named."""
    function = f"arn:aws:lambda:{REGION}:{ACCOUNT_ID}:function:the-function"
    record = "arn:aws:s3:::the-bucket/aws/lambda/async/the-function"
    log = f"arn:aws:logs:{REGION}:{ACCOUNT_ID}:log-group:/aws/lambda/the-function"
    user, role = policies.user_policy(names()), policies.execution_policy(names())
    for copy, allowed in [("", True), ("_copy2", True), ("_copy3", True), ("_copy4", False), ("2", False)]:
        assert (iam.allowing(user, "lambda:InvokeFunction", function + copy) is not None) is allowed
        assert (iam.allowing(user, "s3:GetObject", f"{record}{copy}/2026/x") is not None) is allowed
        assert (iam.allowing(user, "logs:FilterLogEvents", f"{log}{copy}:*") is not None) is allowed
        assert (iam.allowing(role, "s3:PutObject", f"{record}{copy}/2026/x") is not None) is allowed
        assert (iam.allowing(role, "logs:PutLogEvents", f"{log}{copy}:log-stream:x") is not None) is allowed
    setup = policies.setup_policy(names(1))
    assert iam.allowing(setup, "lambda:DeleteFunction", f"{function}_copy9") == "Function"
    assert iam.allowing(setup, "lambda:DeleteFunction", f"{function}_copy10") is None
    assert iam.allowing(setup, "lambda:DeleteFunction", f"{function}2") is None


@pytest.mark.parametrize("make", [policies.user_policy, policies.execution_policy, policies.setup_policy])
def test_policies_of_most_copies_fit(make):
    """IAM allows 6,144 characters in a managed policy, and 10,240 in those of a role."""
    assert len("".join(json.dumps(make(names(MOST_COPIES))).split())) <= 6144


def test_the_setup_policy_allows_what_copies_take(account):
    """Creating, updating, examining and deleting copies needs no further permission."""
    changes = {"lambda": COPIES}
    set_up(account, **changes)
    list(Doctor(configuration(**changes), account.aws).examine())
    for resource in [*account.resources().for_deployment, *account.resources().for_removal]:
        carry_out(resource.plan())
    for resource in account.resources(**changes).for_removal:
        carry_out(resource.plan_removal())
    policy = policies.setup_policy(names())
    for service, operation, arguments in account.requests:
        for action, resource, context in iam.required(service, operation, arguments, REGION, ACCOUNT_ID):
            assert iam.allowing(policy, action, resource, context), (action, resource, context)


# -- configuration -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copies", [0, -1, MOST_COPIES + 1, 2.0, "2", True])
def test_wrong_numbers_of_copies(account, copies):
    """The message names the key."""
    with pytest.raises(ConfigError, match="`lambda: copies`"):
        Resources(configuration(**{"lambda": {"copies": copies}}), account.aws)


def test_a_name_that_is_too_long_for_copies():
    """The name of the last copy must fit."""
    section = {"function_name": "f" * 58, "copies": 2}
    assert len(Names.of(configuration(**{"lambda": section}), "").each_copy()[-1].function) == 64
    with pytest.raises(ConfigError, match="shorter name under `lambda: function_name`"):
        Names.of(configuration(**{"lambda": {**section, "function_name": "f" * 59}}), "")


# -- logs --------------------------------------------------------------------------------------------------------


def write(account, copy, moment, line):
    """Write a line to the log of a copy."""
    from moto.backends import get_backend

    backend = get_backend("logs")[ACCOUNT_ID][REGION]
    group = f"/aws/lambda/the-function{copy}"
    if group not in backend.groups:
        backend.create_log_group(group, {})
    backend.ensure_log_stream(group, "stream")
    backend.put_log_events(group, "stream", [{"timestamp": moment, "message": line}])


def test_logs_of_all_copies(account):
    """They are one log, in the order of time; the container that wrote last may be one of a copy."""
    import time

    now = int(time.time() * 1000)
    for copy, age, line in [("", 300, "a"), ("_copy3", 200, "b"), ("", 100, "c"), ("_copy2", 0, "d")]:
        write(account, copy, now - age, line)
    assert [line for _, line in recent_log(account.aws, names(), start_ms=now - 1000)] == ["a", "b", "c", "d"]
    assert [line for _, line in latest_log(account.aws, names())] == ["d"]
    following = follow_log(account.aws, names(), start_ms=now - 1000)
    assert sorted(next(following)[1] for _ in range(4)) == ["a", "b", "c", "d"]
