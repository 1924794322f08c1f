"""The specification of failure of ``pywren standalone``: docs/failures.md, "Stand-alone workers on EC2".

Every test has its row's number in its docstring; test_failures_page.py compares both. Rows about what an instance
does by itself are in tests/cloud/test_user_data.py.
"""

import botocore.exceptions
import pytest

pytestmark = pytest.mark.moto

NO_CAPACITY = "We currently do not have sufficient m5.large capacity in the Availability Zone you requested"


def refused(done, *said):
    """Check that a command failed with one line on stderr and exit code 1."""
    assert done.code == 1, done
    lines = done.err.strip().splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("Error: ")
    for words in said:
        assert words in lines[0]


def nothing_was_made(account):
    """Check that nothing was launched or uploaded."""
    assert account.changes == []
    assert account.running() == []


def test_amazon_linux_has_no_such_python(ready, pywren, monkeypatch):
    """Row 160: the error comes before anything is created; the user's own image is trusted."""
    monkeypatch.setattr("pywren.cloud.launch.PYTHON", "3.10")
    monkeypatch.setattr("pywren.cloud.launch.PACKAGED_PYTHONS", frozenset({"3.11", "3.12"}))
    refused(
        pywren("standalone", "launch_instances"), "has no Python 3.10", "3.11 or 3.12", "set `standalone: target_ami`"
    )
    nothing_was_made(ready)
    own = {"target_ami": ready.image()}
    assert pywren("standalone", "launch_instances", "--dry-run", standalone=own).code == 0


def test_there_is_no_queue(ready, pywren):
    """Row 161: without a queue no instance is launched, which would cost money without work."""
    assert pywren("delete_queue").code == 0
    ready.requests.clear()
    refused(pywren("standalone", "launch_instances"), "the queue the-queue", "`pywren create_queue`")
    refused(pywren("standalone", "queue_size"), "`pywren create_queue`")
    refused(pywren("standalone", "purge_queue"), "`pywren create_queue`")
    nothing_was_made(ready)


def test_there_is_no_instance_profile(ready, pywren):
    """Row 161: an instance that cannot take calls is not launched either; nor when the profile has lost its role."""
    ready.ask("iam", "remove_role_from_instance_profile", InstanceProfileName="the-profile", RoleName="the-profile")
    ready.requests.clear()
    refused(pywren("standalone", "launch_instances"), "the-profile has no role", "`pywren create_instance_profile`")
    nothing_was_made(ready)
    assert pywren("delete_instance_profile").code == 0
    ready.requests.clear()
    refused(pywren("standalone", "launch_instances"), "there is no instance profile the-profile")
    nothing_was_made(ready)


def test_a_new_instance_profile_is_waited_for(ready, pywren):
    """Row 162: the launch is retried, because EC2 sees a new profile some seconds later."""
    seen = []

    def too_new(arguments):
        seen.append(arguments["ClientToken"])
        if len(seen) == 3:
            ready.relent()
        else:
            text = "Value (the-profile) for parameter iamInstanceProfile.name is invalid. "
            raise client_error("InvalidParameterValue", 400, text + "Invalid IAM Instance Profile name")

    ready.before("RunInstances", too_new)
    assert pywren("standalone", "launch_instances").code == 0
    assert len(seen) == 3
    assert len(ready.running()) == 1


def client_error(code, status, message):
    """Return the error that botocore raises for a response of EC2."""
    told = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return botocore.exceptions.ClientError(told, "RunInstances")


def test_an_instance_type_that_does_not_exist(ready, pywren):
    """Row 163: the type does not exist in the region, or not in the zone."""
    refused(pywren("standalone", "launch_instances", "--instance_type", "m5.huge"), "m5.huge", "with --instance_type")
    nothing_was_made(ready)
    ready.refuse("RunInstances", code="Unsupported", status=400, message="not supported in your requested zone")
    refused(pywren("standalone", "launch_instances"), "with --instance_type", "standalone: availability_zone")


def test_an_image_of_2018(ready, pywren):
    """Row 164: the image no longer exists, or is for another processor."""
    gone = "ami-0123456789abcdef0"
    refused(pywren("standalone", "launch_instances", standalone={"target_ami": gone}), gone, "standalone: target_ami")
    own = ready.image()
    done = pywren("standalone", "launch_instances", "--instance_type", "t4g.nano", standalone={"target_ami": own})
    refused(done, f"the image {own} is for x86_64", "t4g.nano are arm64", "--instance_type")
    nothing_was_made(ready)


def test_fewer_than_asked_for(ready, pywren):
    """Row 165: a second request launches as many as EC2 has, and the output names them."""
    orders = []
    says = {}

    def scarce(arguments):
        orders.append(arguments)
        if arguments["MinCount"] > 1:
            raise client_error(**says, message=NO_CAPACITY)

    ready.before("RunInstances", scarce)
    for code, status, remedy in [
        ("InsufficientInstanceCapacity", 500, "choose another --instance_type"),
        ("VcpuLimitExceeded", 400, "Service Quotas > Amazon EC2 > Running On-Demand Standard instances"),
        ("MaxSpotInstanceCountExceeded", 400, "launch without --spot_price"),
    ]:
        says.update(code=code, status=status)
        orders.clear()
        before = ready.running()
        done = pywren("standalone", "launch_instances", "3")
        (only,) = set(ready.running()) - set(before)
        assert done.out.splitlines()[0] == f"launched {only}"
        refused(done, "only 1 of 3 were launched", NO_CAPACITY, remedy)
        assert [(order["MinCount"], order["MaxCount"]) for order in orders] == [(3, 3), (1, 2)]
        assert orders[0]["ClientToken"] != orders[1]["ClientToken"]


@pytest.mark.parametrize("number", [1, 3])
def test_none_at_all(ready, pywren, number):
    """Row 166: the error with the remedy comes at once, without retries."""
    for code, status, remedy in [
        ("InsufficientInstanceCapacity", 500, "choose another --instance_type"),
        ("VcpuLimitExceeded", 400, "or request more under Service Quotas"),
        ("MaxSpotInstanceCountExceeded", 400, "All Standard Spot Instance Requests"),
        ("SpotMaxPriceTooLow", 400, "offer more with --spot_price"),
        ("PendingVerification", 400, "AWS has not yet approved this account"),
    ]:
        ready.refuse("RunInstances", code=code, status=status, message="no")
        refused(pywren("standalone", "launch_instances", number, "--spot_price", "0.01"), remedy, code)
    assert ready.running() == []


def test_who_may_not_launch(ready, pywren):
    """Row 167: EC2's encoded message of hundreds of unreadable letters is left out."""
    told = "You are not authorized to perform this operation. Encoded authorization failure message: " + "x" * 700
    ready.refuse("RunInstances", code="UnauthorizedOperation", message=told)
    done = pywren("standalone", "launch_instances")
    refused(done, "ec2:RunInstances", "`pywren iam --print launch`", "not authorized to perform this operation.")
    assert "xxx" not in done.err
    ready.refuse("RunInstances", code="AuthFailure.ServiceLinkedRoleCreationNotPermitted")
    refused(pywren("standalone", "launch_instances"), "never used spot instances", "`pywren iam --print launch`")


def test_who_may_not_look(ready, pywren):
    """Row 167: the error comes before anything is created."""
    for operation in ("GetInstanceProfile", "DescribeInstanceTypes", "GetParameter", "DescribeImages"):
        ready.refuse(operation, code="UnauthorizedOperation")
        refused(
            pywren("standalone", "launch_instances"),
            "these AWS credentials are not allowed to do this",
            f":{operation}",
        )
        ready.relent()
    nothing_was_made(ready)


def test_key_and_network(ready, pywren):
    """Row 168: the error says what to correct or create."""
    for code, remedy in [
        ("InvalidKeyPair.NotFound", "standalone: ec2_ssh_key"),
        ("InvalidSubnetID.NotFound", "standalone: subnet_id"),
        ("VPCIdNotSpecified", "create-default-vpc"),
        ("MissingInput", "create-default-vpc"),
    ]:
        ready.refuse("RunInstances", code=code, status=400)
        refused(pywren("standalone", "launch_instances", 2), remedy, code)


def test_a_lost_answer(ready, pywren):
    """Row 169: the retry uses the same client token."""
    tokens = []

    def lost(arguments):
        tokens.append(arguments["ClientToken"])
        if len(tokens) < 3:
            raise botocore.exceptions.ReadTimeoutError(endpoint_url="https://ec2")

    ready.before("RunInstances", lost)
    assert pywren("standalone", "launch_instances").code == 0
    assert len(tokens) == 3
    assert len(set(tokens)) == 1


def test_a_second_purge(ready, pywren):
    """Row 173: SQS allows one purge per minute."""
    ready.refuse("PurgeQueue", code="AWS.SimpleQueueService.PurgeQueueInProgress")
    refused(pywren("standalone", "purge_queue"), "wait 60 seconds")


def test_workers_are_cleaned_up_first(ready, pywren):
    """Row 174: instances are deleted first, then queue, profile and bucket; one refusal does not stop the rest."""
    ready.ask("ec2", "run_instances", ImageId=ready.image(), MinCount=1, MaxCount=1)
    strangers = ready.running()
    ready.launch(2)
    ready.refuse("DescribeInstances", code="UnauthorizedOperation")
    ready.requests.clear()
    refused(pywren("cleanup_all", "--dry-run"), "cannot list the instances")
    ready.relent()
    ready.requests.clear()
    assert pywren("cleanup_all").code == 0
    assert ready.running() == strangers
    assert ready.changes[0] == "TerminateInstances"
