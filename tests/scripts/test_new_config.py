"""A new configuration file reads back unchanged, whatever names it contains."""

import os
import re
import stat

import pytest
import yaml

from pywren import wrenconfig
from pywren.scripts._new_config import config_text, write_config

NAMES = {
    "aws_region": "us-west-2",
    "bucket_name": "mine",
    "bucket_prefix": "pywren.jobs",
    "lambda_role": "role",
    "function_name": "function",
    "sqs_queue": "queue",
    "standalone_name": "workers",
}


@pytest.mark.parametrize(
    "name", ["no", "null", "true", "1e5", "12345", "0x1f", "a: b", "#x", "äö", 'quo"te', "2018-01-01", "plain"]
)
def test_every_name_comes_back(name):
    """Names that YAML would interpret are quoted."""
    config = yaml.safe_load(config_text(**{**NAMES, "lambda_role": name, "sqs_queue": name}))
    assert config["account"]["aws_lambda_role"] == name
    assert config["standalone"]["sqs_queue_name"] == name


def test_the_account_may_have_leading_zeros():
    """The account is written as text."""
    assert (
        yaml.safe_load(config_text(**NAMES, account_id="000000000042"))["account"]["aws_account_id"] == "000000000042"
    )


def test_what_is_commented_out_shows_the_default():
    """Removing the comment signs gives a valid file with the same meaning."""
    text = re.sub(r"^  # (\w+: \S+)(  # .*)?$", r"  \1", config_text(**NAMES, account_id="1" * 12), flags=re.MULTILINE)
    config = yaml.safe_load(text)
    wrenconfig.validate(config)
    for path in [
        "lambda.memory",
        "lambda.timeout",
        "lambda.ephemeral_storage",
        "lambda.architecture",
        "lambda.event_age",
        "s3.expiry_days",
        "standalone.visibility",
        "standalone.max_idle_time",
        "standalone.idle_terminate_granularity",
    ]:
        section, _, name = path.partition(".")
        assert config[section][name] == wrenconfig.KEYS[path].default, path


def test_it_is_its_owners_alone(tmp_path):
    """The file is private, even when it replaces a readable one; a symbolic link stays a link."""
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    real.chmod(0o644)
    link.symlink_to(real)
    write_config(link, "new", force=True)
    assert link.is_symlink()
    assert real.read_text() == "new"
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    write_config(tmp_path / "first", "text", force=False)
    assert stat.S_IMODE((tmp_path / "first").stat().st_mode) == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link", "first"}


# -- the command --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("bucket_name", "Bad_Name!", "'Bad_Name!' is not a valid bucket name"),
        ("aws_region", "nowhere", "AWS has no region nowhere"),
        ("aws_region", "us west", "`account: aws_region` is 'us west'"),
        ("function_name", "a b", "`lambda: function_name` is 'a b'"),
        ("bucket_prefix", "*", "`s3: pywren_prefix` is '*'"),
        ("lambda_role", "a/b", "`account: aws_lambda_role` is 'a/b'"),
        ("sqs_queue", "", "`standalone: sqs_queue_name` is ''"),
        ("standalone_name", "a\nb", "standalone: instance_"),
    ],
)
def test_create_config_checks_what_it_is_told(run, tmp_path, option, value, said):
    """Row 204: a name that AWS rejects is refused in one line with the remedy, and no file is written."""
    path = tmp_path / "config.yaml"
    done = run("--filename", path, "create_config", "--bucket_name", "mine-1", f"--{option}", value)
    assert (done.code, done.out) == (1, "")
    assert said in done.err
    assert done.err.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_create_config_for_another_server_takes_any_region(run, tmp_path, monkeypatch):
    """Regions are checked only for AWS itself."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:9000")
    done = run(
        "--filename", tmp_path / "config.yaml", "create_config", "--bucket_name", "mine", "--aws_region", "minio"
    )
    assert (done.code, done.err) == (0, "")
    assert wrenconfig.load(tmp_path / "config.yaml")["account"]["aws_region"] == "minio"
