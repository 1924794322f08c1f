"""Commands without a configuration, and ``pywren.ec2standalone``, as programs of 2018 use them."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accounts
import click
import pytest
import yaml
from accounts import ACCOUNT_ID, REGION

from pywren import ec2standalone, wrenconfig
from pywren.exceptions import ConfigError
from pywren.scripts import pywrencli

pytestmark = pytest.mark.moto


# -- before there is a configuration -------------------------------------------------------------------------


@pytest.fixture(params=["nothing", "variable", "option", "broken"])
def before(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the options of a command without a usable configuration: the named file is missing or broken."""
    path = tmp_path / "not-yet.yaml"
    if request.param == "variable":
        monkeypatch.setenv("PYWREN_CONFIG_FILE", str(path))
    if request.param == "broken":
        path.write_text("s3: {bucket: BUCKET_NAME}")
    return ["--filename", str(path)] if request.param in ("option", "broken") else []


def test_the_account_before_there_is_a_configuration(account: Any, run: Callable[..., Any], before: list[str]) -> None:
    """Row 293: the owner of the credentials is found without a file."""
    assert run(*before, "get_aws_account_id") == (0, f"The AWS account ID is {ACCOUNT_ID}\n", "")


@pytest.mark.parametrize("before", ["nothing", "variable", "option"], indirect=True)
def test_test_config_before_there_is_a_configuration(account: Any, run: Callable[..., Any], before: list[str]) -> None:
    """Row 293: the credentials are checked, and the output says what to do next."""
    done = run(*before, "test_config")
    assert (done.code, done.err) == (0, "")
    assert "ok    credentials: arn:aws:sts::123456789012" in done.out
    assert "note  configuration: there is no configuration" in done.out
    assert "pywren create_config" in done.out


@pytest.mark.parametrize("command", ["get_aws_account_id", "test_config"])
def test_without_credentials_either(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """The error says that the credentials are missing."""
    _no_credentials(tmp_path, monkeypatch)
    done = run(command)
    assert done.code == 1
    assert "credentials" in done.out + done.err
    assert "Traceback" not in done.out + done.err


def test_the_command_can_be_invoked_for_what_it_returns(account: Any, run: Callable[..., Any]) -> None:
    """0.4's own set-up script calls the command as a function."""

    @click.command()
    @click.pass_context
    def program(ctx: click.Context) -> None:
        ctx.obj = None
        click.echo(ctx.invoke(pywrencli.get_aws_account_id, verbose=False))

    assert run(command=program).out == f"{ACCOUNT_ID}\n"


# -- a new configuration -------------------------------------------------------------------------------------


def test_keys_of_a_new_configuration(account: Any, run: Callable[..., Any], tmp_path: Path) -> None:
    """A program finds the keys that 0.4's file had, and the account."""
    path = tmp_path / "c.yaml"
    assert run("--filename", path, "create_config", "--bucket_name", "mine-1").code == 0
    config = wrenconfig.load(path)
    assert config["account"]["aws_account_id"] == ACCOUNT_ID
    of_2018 = yaml.safe_load((Path(__file__).parents[1] / "golden" / "pywren_config_2018.yaml").read_text())
    missing = {
        f"{section}.{key}"
        for section, keys in of_2018.items()
        for key in keys
        if key not in config.get(section, {}) and section != "runtime"
    }
    assert missing == set()
    assert config["standalone"]["max_idle_time"] == 60
    assert config["standalone"]["ec2_ssh_key"] is None


def test_a_new_configuration_without_credentials(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 294: the file is written, and the account is looked up when needed."""
    _no_credentials(tmp_path, monkeypatch)
    path = tmp_path / "c.yaml"
    done = run("--filename", path, "create_config", "--bucket_name", "mine-1")
    assert (done.code, done.out) == (0, f"new configuration written to {path}\n")
    assert wrenconfig.load(path)["account"]["aws_account_id"] is None


def _no_credentials(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("HOME", str(home))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(home / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(home / "none"))


# -- workers on EC2 ------------------------------------------------------------------------------------------


@pytest.fixture
def configured(ready: accounts.Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> accounts.Account:
    """Return an account with everything that stand-alone workers need, and a configuration that programs find."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(accounts.configuration()))
    monkeypatch.setenv("PYWREN_CONFIG_FILE", str(path))
    return ready


def launch(number: int, name: str = "my-workers", **options: Any) -> list[tuple[str, Any]]:
    """Launch as 0.4's command did."""
    return ec2standalone.launch_instances(
        number, None, REGION, None, "m5.large", name, "the-profile", "the-queue", **options
    )


def test_launch_list_and_terminate(configured: accounts.Account, capsys: pytest.CaptureFixture[str]) -> None:
    """The list has pairs of a name and boto3's instance; it contains only running instances with that name."""
    launched = launch(2, max_idle_time=30, pywren_git_branch="master")
    launch(1, "others")
    assert [name for name, _ in launched] == ["my-workers"] * 2
    listed = ec2standalone.list_instances(REGION, "my-work")
    assert sorted(one.id for _, one in listed) == sorted(one.id for _, one in launched)
    name, one = listed[0]
    assert (one.instance_id, one.state["Name"], one.instance_type) == (one.id, "running", "m5.large")
    assert ec2standalone.tags_to_dict(one.tags)["Name"] == name
    ec2standalone.prettyprint_instances(listed)
    ec2standalone.prettyprint_instance_uptimes(listed)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"my-workers {one.public_dns_name}"
    assert lines[2] == f"my-workers {datetime.timedelta(seconds=int(lines[2].rpartition(':')[2]))}"
    ec2standalone.terminate_instances(listed)
    assert ec2standalone.list_instances(REGION, "my-workers") == []
    assert [name for name, _ in ec2standalone.list_instances(REGION, "")] == ["others"]


def test_what_is_asked_for(configured: accounts.Account) -> None:
    """Arguments take precedence over the configuration."""
    launch(1, spot_price=0.5, fast_io=True, default_volume_size=200, parallelism=2, availability_zone="us-west-2b")
    (request,) = [arguments for _, operation, arguments in configured.requests if operation == "RunInstances"]
    assert request["InstanceMarketOptions"]["SpotOptions"]["MaxPrice"] == "0.5"
    assert request["BlockDeviceMappings"][0]["Ebs"]["VolumeSize"] == 200
    assert request["Placement"] == {"AvailabilityZone": "us-west-2b"}
    assert "KeyName" not in request


def test_an_instance_profile(configured: accounts.Account) -> None:
    """The profile is created with its role, and an existing one is left unchanged."""
    ec2standalone.create_instance_profile("another-profile")
    found = configured.ask("iam", "get_instance_profile", InstanceProfileName="another-profile")
    assert [role["RoleName"] for role in found["InstanceProfile"]["Roles"]] == ["another-profile"]
    configured.requests.clear()
    ec2standalone.create_instance_profile("another-profile")
    assert configured.changes == []


def test_workers_without_a_configuration(account: accounts.Account) -> None:
    """Row 296: workers need a bucket, which only a configuration can name."""
    for call in (lambda: launch(1), lambda: ec2standalone.create_instance_profile("p")):
        with pytest.raises(ConfigError, match="create_config"):
            call()
