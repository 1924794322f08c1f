"""``pywren standalone``, command by command: exit code and whole output, and the requests to EC2.

Failures are in test_instance_failures.py.
"""

import base64
import datetime
import hashlib
import json
import subprocess
import sys

import iam
import pytest
from accounts import ACCOUNT_ID, REGION, configuration

from pywren.cloud import policies
from pywren.cloud.instances import Instance
from pywren.cloud.launch import Wish
from pywren.cloud.names import Names
from pywren.scripts import instances as commands
from pywren.scripts import setupscript
from pywren.scripts.setupscript import interactive_setup

pytestmark = pytest.mark.moto

NAMES = Names.of(configuration(), ACCOUNT_ID)
NOBODY = "there is no stand-alone worker of the queue the-queue\n"


def asked(account):
    """Return the launch request that EC2 received, with the boot script as text."""
    requests = [arguments for _, operation, arguments in account.requests if operation == "RunInstances"]
    return [{**request, "UserData": base64.b64decode(request["UserData"]).decode()} for request in requests]


# -- launching -----------------------------------------------------------------------------------------------


def test_launch_instances(ready, pywren):
    """The output names each instance, its job and when it stops; it can only run calls and stop."""
    done = pywren("standalone", "launch_instances", "3")
    ids = ready.running()
    assert len(ids) == 3
    assert (done.code, done.err) == (0, "")
    *launched, told = done.out.splitlines()
    assert sorted(launched) == sorted(f"launched {name}" for name in ids)
    assert told == (
        "3 m5.large for the queue the-queue; each runs 1 call at a time, with 2 processors per call; "
        "they terminate after 60 s without calls, but only near the end of a billing period of 3600 s"
    )
    (request,) = asked(ready)
    assert (request["MinCount"], request["MaxCount"]) == (3, 3)
    assert request["ClientToken"]
    assert request["ImageId"] == ready.image()
    assert request["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert request["MetadataOptions"]["HttpTokens"] == "required"
    assert request["IamInstanceProfile"] == {"Name": "the-profile"}
    assert request["BlockDeviceMappings"] == [
        {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 32, "VolumeType": "gp3", "DeleteOnTermination": True}}
    ]
    assert not {"InstanceMarketOptions", "KeyName", "SubnetId", "Placement"} & set(request)
    for tagged in request["TagSpecifications"]:
        tags = {tag["Key"]: tag["Value"] for tag in tagged["Tags"]}
        assert tags == {"created-by": "pywren", "pywren-queue": "the-queue", "Name": "pywren-standalone"}


def test_the_bundle_is_in_the_bucket(ready, pywren):
    """The bundle's key is its digest, which the boot script checks; the script contains no secret."""
    assert pywren("standalone", "launch_instances").code == 0
    (key,) = ready.keys()
    archive = ready.ask("s3", "get_object", Bucket="the-bucket", Key=key)["Body"].read()
    sha256 = hashlib.sha256(archive).hexdigest()
    assert key == f"the.jobs/bundles/{sha256}.zip"
    (request,) = asked(ready)
    assert key in request["UserData"]
    assert repr(sha256) in request["UserData"]
    assert len(request["UserData"].encode()) < 16 * 1024
    assert "testing" not in request["UserData"]  # the access key and the secret key of these tests


def test_launch_instances_dry_run(ready, pywren):
    """The output says what would be launched, and nothing is launched."""
    options = ["--dry-run", "--spot-price", "0.05", "--instance-type", "t4g.nano"]
    done = pywren("standalone", "launch-instances", "2", *options)
    wanted = f"2 t4g.nano (arm64, {ready.image('arm64')}, for up to $0.05 an hour each)"
    assert done == (0, f"would launch {wanted} for the queue the-queue\n", "")
    assert ready.changes == []
    assert ready.running() == []


def test_arm_instances_boot_an_arm_image(ready, pywren):
    """EC2 is asked which processor an instance type has."""
    kinds = ["t4g.micro", "c7g.large", "m8g.large", "c8g.large"]
    for kind in kinds:
        assert pywren("standalone", "launch_instances", "--instance_type", kind).code == 0
    assert [request["ImageId"] for request in asked(ready)] == [ready.image("arm64")] * len(kinds)


def test_spot_instances(ready, pywren):
    """Spot instances are one-time requests up to a price, and terminate when reclaimed; 0 means on-demand."""
    assert pywren("standalone", "launch_instances", "--spot_price", "0.05").code == 0
    options = asked(ready)[0]["InstanceMarketOptions"]
    assert options["MarketType"] == "spot"
    assert options["SpotOptions"] == {
        "MaxPrice": "0.05",
        "SpotInstanceType": "one-time",
        "InstanceInterruptionBehavior": "terminate",
    }
    kinds = {item["ResourceType"] for item in asked(ready)[0]["TagSpecifications"]}
    assert kinds == {"instance", "volume", "spot-instances-request"}
    assert pywren("standalone", "list_instances").out.rstrip().endswith("  spot")
    assert pywren("standalone", "launch_instances", "--spot_price", "0.0").code == 0
    assert "InstanceMarketOptions" not in asked(ready)[1]


def test_the_configuration_says_how(ready, pywren):
    """The section ``standalone`` sets type, key, image, name, zone, subnet, disk and times."""
    arm = ready.image("arm64")
    (subnet,) = [
        item["SubnetId"]
        for item in ready.ask("ec2", "describe_subnets")["Subnets"]
        if item["AvailabilityZone"] == "us-west-2b"
    ]
    ready.ask("ec2", "create_key_pair", KeyName="my-key")
    said = {
        "ec2_instance_type": "t4g.small",
        "ec2_ssh_key": "my-key",
        "target_ami": arm,
        "instance_name": "my workers",
        "availability_zone": "us-west-2b",
        "subnet_id": subnet,
        "fast_io": True,
        "max_idle_time": 7,
        "idle_terminate_granularity": 0,
    }
    done = pywren("standalone", "launch_instances", standalone=said)
    assert done.out.splitlines()[-1].endswith("they terminate after 7 s without calls")
    (request,) = asked(ready)
    assert request["InstanceType"] == "t4g.small"
    assert request["KeyName"] == "my-key"
    assert request["ImageId"] == arm
    assert request["Placement"] == {"AvailabilityZone": "us-west-2b"}
    assert request["SubnetId"] == subnet
    assert request["BlockDeviceMappings"][0]["Ebs"]["Iops"] == 10_000
    assert {"Key": "Name", "Value": "my workers"} in request["TagSpecifications"][0]["Tags"]
    assert "--max_idle_time 7 --idle_terminate_granularity 0 " in request["UserData"]
    assert "  my workers  " in pywren("standalone", "list_instances").out


def test_options_come_before_the_configuration(ready, pywren):
    """Each option overrides the configuration, with underscores and with dashes."""
    said = {"ec2_instance_type": "t4g.small", "max_idle_time": 7, "idle_terminate_granularity": 8}
    options = ["--max-idle-time", "1", "--idle_terminate_granularity", "2", "--parallelism", "3"]
    assert pywren("standalone", "launch_instances", *options, "--instance_type", "m5.xlarge", standalone=said).code == 0
    (request,) = asked(ready)
    assert request["InstanceType"] == "m5.xlarge"
    assert "--parallelism 3 " in request["UserData"]
    assert "--max_idle_time 1 --idle_terminate_granularity 2 " in request["UserData"]


def test_options_that_mean_nothing_any_more(ready, pywren):
    """0.4's workers installed pywren from git; today's get the client's own."""
    done = pywren("standalone", "launch_instances", "--pywren_git_branch", "x", "--pywren_git_commit", "y")
    assert (done.code, done.err) == (
        0,
        "--pywren_git_branch and --pywren_git_commit are ignored: workers run this machine's pywren\n",
    )


def test_a_wrong_command_line(account, pywren):
    """A wrong command line prints the usage, with exit code 2, and sends no request to AWS."""
    for arguments in (["0"], ["many"], ["--spot_price", "-1"], ["--parallelism", "0"], ["--max_idle_time", "-1"]):
        assert pywren("standalone", "launch_instances", *arguments).code == 2
    for name in ("max_idle_time", "idle_terminate_granularity", "spot_price"):
        for value in ("nan", "inf"):  # such as an instance that never ends, or a price that nobody pays
            done = pywren("standalone", "launch_instances", f"--{name}", value)
            assert (done.code, f"{value} is not a finite number" in done.err) == (2, True)
    assert pywren("standalone", "no_such_command").code == 2
    assert account.requests == []


# -- looking and ending --------------------------------------------------------------------------------------


def test_list_and_uptime(ready, pywren, monkeypatch):
    """Each instance takes one line; those of other queues or other users are not listed."""
    mine = ready.launch(2)
    ready.ask("sqs", "create_queue", QueueName="other-queue")
    ready.launch(standalone={"sqs_queue_name": "other-queue"})
    ready.ask("ec2", "run_instances", ImageId=ready.image(), MinCount=1, MaxCount=1, InstanceType="t3.micro")
    monkeypatch.setattr(commands, "_up", lambda instance: "1:02:03")
    done = pywren("standalone", "list_instances")
    assert done.code == 0
    assert sorted(line.split("  ")[0] for line in done.out.splitlines()) == sorted(mine)
    for line in done.out.splitlines():
        assert line.split("  ")[1:6] == ["running", "m5.large", "us-west-2a", "1:02:03", "pywren-standalone"]
    done = pywren("standalone", "instance-uptime")
    assert done.code == 0
    assert sorted(done.out.splitlines()) == sorted(f"{name}  1:02:03" for name in mine)


def test_uptime_is_told_in_hours():
    """The uptime is in whole seconds and never negative, although the clocks of two machines differ."""
    began = datetime.datetime(2026, 11, 23, tzinfo=datetime.timezone.utc)
    instance = Instance("i-0", "running", "m5.large", "", began)
    assert str(instance.uptime(began + datetime.timedelta(hours=25, seconds=3.9))) == "1 day, 1:00:03"
    assert str(instance.uptime(began - datetime.timedelta(seconds=3))) == "0:00:00"


def test_there_are_none(account, pywren):
    """The output says that there are none, with exit code 0."""
    for command in ("list_instances", "instance_uptime", "terminate_instances"):
        assert pywren("standalone", command) == (0, NOBODY, "")


def test_terminate_instances(ready, pywren, monkeypatch):
    """All instances of the queue are terminated, and no others; at a terminal the command asks first."""
    ready.ask("sqs", "create_queue", QueueName="other-queue")
    others = ready.launch(standalone={"sqs_queue_name": "other-queue"})
    mine = ready.launch(2)
    dry = pywren("standalone", "terminate_instances", "--dry-run")
    assert dry.code == 0
    assert dry.out.startswith("would terminate the 2 stand-alone workers of the queue the-queue: ")
    assert len(ready.running()) == 3
    monkeypatch.setattr("pywren.scripts._console._at_terminal", lambda: True)
    assert pywren("standalone", "terminate_instances", input="n\n").code == 1
    assert len(ready.running()) == 3
    done = pywren("standalone", "terminate_instances", "--yes")
    assert done == (0, dry.out.replace("would terminate", "terminated"), "")
    assert sorted(done.out.rpartition(": ")[2].strip().split(", ")) == sorted(mine)
    assert ready.running() == others


# -- the queue -----------------------------------------------------------------------------------------------


def fill(account, number):
    """Put messages into the queue."""
    url = account.ask("sqs", "get_queue_url", QueueName="the-queue")["QueueUrl"]
    for _ in range(number):
        account.ask("sqs", "send_message", QueueUrl=url, MessageBody="x")
    return url


def test_queue_size(ready, pywren):
    """The output has the number of calls that wait, and of those that workers have taken."""
    assert pywren("standalone", "queue_size") == (0, "the-queue: 0 calls are waiting, 0 are with workers\n", "")
    url = fill(ready, 2)
    ready.ask("sqs", "receive_message", QueueUrl=url)
    assert pywren("standalone", "queue-size") == (0, "the-queue: 1 call is waiting, 1 is with workers\n", "")


def test_purge_queue(ready, pywren, monkeypatch):
    """The purge is planned, confirmed and done."""
    fill(ready, 3)
    what = "the calls in the queue the-queue: 3 calls are waiting, 0 are with workers\n"
    assert pywren("standalone", "purge_queue", "--dry-run") == (0, f"would delete {what}", "")
    monkeypatch.setattr("pywren.scripts._console._at_terminal", lambda: True)
    assert pywren("standalone", "purge_queue", input="n\n").code == 1
    assert pywren("standalone", "queue_size").out == "the-queue: 3 calls are waiting, 0 are with workers\n"
    assert pywren("standalone", "purge_queue", "--yes") == (0, f"deleted {what}", "")
    assert pywren("standalone", "queue_size").out == "the-queue: 0 calls are waiting, 0 are with workers\n"


def test_the_queue_keeps_calls_and_talks_over_tls_only(ready, pywren):
    """The queue keeps calls for two weeks, up to a megabyte each; an existing queue keeps its own policy."""
    url = ready.ask("sqs", "get_queue_url", QueueName="the-queue")["QueueUrl"]

    def attributes():
        return ready.ask("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=["All"])["Attributes"]

    made = attributes()
    assert (made["MessageRetentionPeriod"], made["MaximumMessageSize"]) == ("1209600", "1048576")
    (statement,) = json.loads(made["Policy"])["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    ready.ask("sqs", "set_queue_attributes", QueueUrl=url, Attributes={"MessageRetentionPeriod": "60", "Policy": ""})
    assert pywren("create_queue").out == "updated the queue the-queue: its retention, policy (TLS only)\n"
    theirs = json.dumps({"Version": "2012-10-17", "Statement": [{**statement, "Sid": "Theirs"}]})
    ready.ask("sqs", "set_queue_attributes", QueueUrl=url, Attributes={"VisibilityTimeout": "1", "Policy": theirs})
    assert pywren("create_queue").out == "updated the queue the-queue: its visibility\n"
    assert attributes()["Policy"] == theirs


# -- who may -------------------------------------------------------------------------------------------------


def test_the_launch_policy_allows_what_the_commands_do_and_nothing_else(ready, pywren):
    """Every request of every command is allowed, and every statement is used."""
    ready.ask("ec2", "create_key_pair", KeyName="my-key")
    ready.requests.clear()
    key = {"ec2_ssh_key": "my-key"}
    assert pywren("standalone", "launch_instances", "--spot_price", "1", standalone=key).code == 0
    for command in ("list_instances", "instance_uptime", "queue_size", "purge_queue", "terminate_instances"):
        assert pywren("standalone", command).code == 0
    policy = policies.launch_policy(NAMES)
    used = {"FirstSpot"}  # EC2 itself creates the role
    for service, operation, arguments in ready.requests:
        for action, resource, context in iam.required(service, operation, arguments, REGION, ACCOUNT_ID):
            sid = iam.allowing(policy, action, resource, context)
            assert sid, (action, resource, context)
            used.add(sid)
    assert used == {statement["Sid"] for statement in policy["Statement"]}


def test_the_launch_policy_launches_workers_only():
    """The policy requires pywren's tags, profile and the new metadata service, and spares others' instances."""
    policy = policies.launch_policy(NAMES)
    instance = f"arn:aws:ec2:{REGION}:{ACCOUNT_ID}:instance/i-0"
    context = {
        "aws:RequestTag/created-by": "pywren",
        "aws:RequestTag/pywren-queue": "the-queue",
        "ec2:MetadataHttpTokens": "required",
        "ec2:InstanceProfile": NAMES.instance_profile_arn,
    }
    assert iam.allowing(policy, "ec2:RunInstances", instance, context) == "Launch"
    for key in context:
        assert iam.allowing(policy, "ec2:RunInstances", instance, {**context, key: "another"}) is None
        without = {name: value for name, value in context.items() if name != key}
        assert iam.allowing(policy, "ec2:RunInstances", instance, without) is None
    assert iam.allowing(policy, "ec2:TerminateInstances", instance, {"aws:ResourceTag/created-by": "pywren"}) is None
    assert iam.allowing(policy, "iam:PassRole", NAMES.role_arn, {"iam:PassedToService": "ec2.amazonaws.com"}) is None


def test_workers_may_fetch_the_bundle():
    """The statement that lets them read calls covers the bundle too."""
    bundle = f"{NAMES.bucket_arn}/{NAMES.bundle_key('0' * 64)}"
    assert iam.allowing(policies.instance_policy(NAMES), "s3:GetObject", bundle) == "StagedObjects"


# -- around it -----------------------------------------------------------------------------------------------


def test_pywren_setup_makes_all_that_launching_takes(account, run, monkeypatch, tmp_path):
    """After answering yes to stand-alone workers, the new configuration can launch them."""
    monkeypatch.setattr(setupscript, "call_hello", lambda config, patience: "Hello world")
    done = run(command=interactive_setup, input="\n\n\n\n\nn\ny\n")
    assert done.code == 0, done.err
    assert "`pywren standalone launch_instances` starts a worker on EC2" in done.out
    assert run("standalone", "launch_instances").code == 0
    assert len(account.running()) == 1
    assert run("cleanup_all").code == 0
    assert account.left() == {}


def test_the_door_of_0_4():
    """``pywren.ec2standalone`` is reachable as an attribute, and ``import pywren`` does not load it."""
    program = (
        "import sys, pywren; assert 'pywren.ec2standalone' not in sys.modules; "
        "print(sorted(pywren.ec2standalone.__all__), 'botocore' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert said == "['Instance', 'Instances', 'Launcher', 'Order', 'Wish'] False\n"


def test_a_wish_of_none():
    """A count of zero is refused."""
    with pytest.raises(ValueError, match="ask for 1 or more"):
        Wish.of({}, 0)
