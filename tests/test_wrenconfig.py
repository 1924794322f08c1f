"""Configuration: where it comes from, what it may contain, and the errors when it is wrong."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pywren import wrenconfig
from pywren.exceptions import ConfigError
from pywren.storage import Storage

CONFIG_OF_2018 = """
account:
    aws_account_id: 123456789012
    aws_lambda_role: pywren_exec_role_1
    aws_region: us-west-2
lambda:
    memory: 1536
    timeout: 300
    function_name: pywren_1
s3:
    bucket: my-own-bucket
    pywren_prefix: pywren.jobs
runtime:
    s3_bucket: pywren-runtimes-public-us-west-2
    s3_key: pywren.runtimes/default_3.6.tar.gz
scheduler:
    map_item_limit: 10000
standalone:
    ec2_instance_type: m4.large
    sqs_queue_name: pywren-jobs-1
    visibility: 10
    ec2_ssh_key : PYWREN_DEFAULT_KEY
    target_ami: ami-7172b611
    instance_name: pywren-standalone
    instance_profile_name: pywren-standalone
    max_idle_time: 60
    idle_terminate_granularity: 3600
"""


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty directory, with an empty home directory and without the variable."""
    for name in ("home", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    monkeypatch.delenv("PYWREN_CONFIG_FILE", raising=False)
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def _file(text: str, name: str = "config.yaml") -> str:
    path = Path(name).absolute()
    path.write_text(text, encoding="utf-8")
    return str(path)


def _changed(**changes: Any) -> str:
    """Return the file of 2018 with some values replaced, given as section__key."""
    config = yaml.safe_load(CONFIG_OF_2018)
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            config.setdefault(section, {})[key] = value
        else:
            config[section] = value
    return str(yaml.safe_dump(config))


# -- where it comes from -------------------------------------------------------------------------------------


def test_order_of_places(empty_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is argument, variable, working directory, home directory, embedded default."""
    assert wrenconfig.find_source() == wrenconfig.Source("embedded")
    assert wrenconfig.get_default_config_filename() is None
    at_home = _file("", str(Path.home() / ".pywren_config"))
    assert wrenconfig.get_default_home_filename() == at_home
    assert wrenconfig.find_source() == wrenconfig.Source("home", at_home)
    here = _file("", ".pywren_config")
    assert wrenconfig.find_source() == wrenconfig.Source("directory", here)
    named = _file("", "named.yaml")
    monkeypatch.setenv("PYWREN_CONFIG_FILE", named)
    assert wrenconfig.find_source() == wrenconfig.Source("environment", named)
    assert wrenconfig.get_default_config_filename() == named
    assert wrenconfig.find_source({}) == wrenconfig.Source("argument")


def test_a_named_file_is_never_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file in PYWREN_CONFIG_FILE is an error, even if other files exist."""
    _file(CONFIG_OF_2018, ".pywren_config")
    monkeypatch.setenv("PYWREN_CONFIG_FILE", "/nowhere/config.yaml")
    for ask in (wrenconfig.default, wrenconfig.get_default_config_filename, wrenconfig.find_source):
        with pytest.raises(ConfigError, match=r"PYWREN_CONFIG_FILE names /nowhere/config\.yaml"):
            ask()


def test_embedded(pywren_home: Path) -> None:
    """Without a file, there is a configuration that keeps everything on this machine."""
    config = wrenconfig.default()
    storage_config = wrenconfig.extract_storage_config(config)
    assert storage_config["storage_backend"] == "localhost"
    storage = Storage(storage_config)
    storage.put("pywren.jobs/x", b"1")
    assert (pywren_home / "jobs" / "pywren.jobs" / "x").read_bytes() == b"1"
    assert config["scheduler"] == {"map_item_limit": None}


def test_embedded_is_fresh_each_time() -> None:
    """A program that changes its configuration does not change another program's."""
    wrenconfig.default()["scheduler"]["map_item_limit"] = 1
    assert wrenconfig.default()["scheduler"]["map_item_limit"] is None


def test_without_a_file_yaml_is_not_loaded() -> None:
    """Running locally never imports yaml."""
    program = "import sys; from pywren import wrenconfig; wrenconfig.default(); print('yaml' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "False"


# -- a file of 0.4 -------------------------------------------------------------------------------------------


def test_a_file_of_2018_loads(caplog: pytest.LogCaptureFixture) -> None:
    """It loads unchanged; placeholders are resolved, and the storage section is added."""
    _file(CONFIG_OF_2018, ".pywren_config")
    config = wrenconfig.default()
    assert config["account"]["aws_account_id"] == 123456789012
    assert config["standalone"]["ec2_ssh_key"] is None
    assert config["storage_backend"] == "s3"
    assert config["storage_prefix"] == "pywren.jobs"
    assert config["runtime"] == {"runtime_storage": "s3"}
    assert wrenconfig.extract_storage_config(config) == {
        "storage_backend": "s3",
        "storage_prefix": "pywren.jobs",
        "backend_config": {"bucket": "my-own-bucket", "region": "us-west-2"},
    }


def test_a_public_runtime_is_ignored_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The bucket is gone and a stranger could register its name, so the runtime is ignored with one warning."""
    filename = _file(CONFIG_OF_2018)
    for _ in range(3):
        assert "s3_bucket" not in wrenconfig.load(filename)["runtime"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "pywren runtime build" in caplog.text
    assert filename in caplog.text


def test_a_runtime_of_ones_own_is_kept() -> None:
    """A runtime in the user's own bucket stays in the configuration."""
    runtime = {"s3_bucket": "my-own-bucket", "s3_key": "runtimes/a.tar.gz"}
    config = wrenconfig.load(_file(_changed(runtime=runtime)))
    assert config["runtime"] == {**runtime, "runtime_storage": "s3"}


def test_storage_keys_of_the_file_win() -> None:
    """``storage_backend`` and ``storage_prefix`` in the file are not overwritten."""
    text = _changed(storage_backend="localhost", storage_prefix="elsewhere", localhost__root="~/store")
    storage_config = wrenconfig.extract_storage_config(wrenconfig.load(_file(text)))
    assert storage_config["storage_backend"] == "localhost"
    assert storage_config["storage_prefix"] == "elsewhere"
    assert storage_config["backend_config"] == {"root": str(Path.home() / "store")}


def test_storage_keys_with_nothing_after_them() -> None:
    """Empty keys have their defaults, like all keys."""
    config = wrenconfig.load(_file(_changed(storage_backend=None, storage_prefix=None)))
    assert (config["storage_backend"], config["storage_prefix"]) == ("s3", "pywren.jobs")


def test_every_key_is_on_the_page() -> None:
    """docs/configuration.md lists exactly the keys that a file may contain."""
    page = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text("utf-8")
    table = page.partition("## The keys")[2].partition("\n## ")[0]
    found = set()
    for cell in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE):
        section = ""
        for name in re.findall("`(.*?)`", cell):
            section, _, key = name.rpartition(": ") if ": " in name else (section, "", name)
            found.add(f"{section}.{key}" if section else key)
    unspoken = {"runtime.runtime_storage"}  # 0.4's key with only one possible value
    assert set(wrenconfig.KEYS) - unspoken <= found <= set(wrenconfig.KEYS)


def test_extract_works_on_an_unpatched_dict() -> None:
    """A dict that a program built by hand does not need ``patch_storage_config``, and is not changed."""
    config = {"account": {"aws_region": "us-west-2"}, "s3": {"bucket": "mine", "pywren_prefix": "p"}}
    assert wrenconfig.extract_storage_config(config)["storage_prefix"] == "p"
    assert set(config) == {"account", "s3"}


def test_patch_changes_in_place_and_returns() -> None:
    """Programs of 0.4 use both the changed argument and the return value."""
    config: dict[str, Any] = {"s3": {"bucket": "mine", "pywren_prefix": "p"}, "runtime": {"s3_bucket": "mine"}}
    assert wrenconfig.patch_storage_config(config) is config
    assert config["storage_backend"] == "s3"
    assert config["storage_prefix"] == "p"
    assert config["runtime"] == {"s3_bucket": "mine", "runtime_storage": "s3"}


def test_names_of_04() -> None:
    """The constants of 0.4 have 0.4's values."""
    assert wrenconfig.MAX_AGG_DATA_SIZE == 4e6
    assert wrenconfig.AWS_REGION_DEFAULT == "us-west-2"
    assert wrenconfig.AWS_S3_BUCKET_DEFAULT == "pywren.data"
    assert wrenconfig.AWS_S3_PREFIX_DEFAULT == "pywren.jobs"
    assert wrenconfig.AWS_LAMBDA_ROLE_DEFAULT == "pywren_exec_role_1"
    assert wrenconfig.AWS_LAMBDA_FUNCTION_NAME_DEFAULT == "pywren_1"
    assert wrenconfig.AWS_SQS_QUEUE_DEFAULT == "pywren-jobs-1"
    assert "3.12" in wrenconfig.default_runtime


# -- errors --------------------------------------------------------------------------------------------------

_LAYER = "arn:aws:lambda:us-west-2:123456789012:layer:numpy:3"

WRONG = [
    (_changed(s3__bucket="BUCKET_NAME"), "s3: bucket", "make sure you change the default bucket"),
    (_changed(s3__bucket="pywren.data"), "s3: bucket", "make sure you change the default bucket"),
    (_changed(s3__bucket=""), "s3: bucket", "the name of your bucket"),
    (_changed(s3={}), "s3: bucket", "the name of your bucket"),
    (_changed(s3=None), "s3: bucket", "the name of your bucket"),
    (_changed(s3="my-own-bucket"), "`s3` is 'my-own-bucket'", "section"),
    (_changed(s3__bucket=12), "`s3: bucket` is 12", "name of your bucket"),
    (_changed(s3__bucket="Bad_Bucket!"), "`s3: bucket` is 'Bad_Bucket!'", "name of your bucket"),
    (_changed(s3__bucket="my bucket"), "`s3: bucket` is 'my bucket'", "name of your bucket"),
    (_changed(s3__bucket="s3://mine"), "`s3: bucket` is 's3://mine'", "name of your bucket"),
    (_changed(lambda__timeout=901), "`lambda: timeout` is 901", "from 1 to 900"),
    (_changed(lambda__timeout="300"), "`lambda: timeout` is '300'", "whole number from 1 to 900"),
    (_changed(lambda__memory=64), "`lambda: memory` is 64", "from 128 to 10240"),
    (_changed(lambda__event_age=30), "`lambda: event_age` is 30", "from 60 to 21600"),
    (_changed(lambda__architecture="x86"), "`lambda: architecture` is 'x86'", "x86_64 or arm64"),
    (_changed(lambda__ephemeral_storage=511), "`lambda: ephemeral_storage` is 511", "from 512 to 10240"),
    (_changed(lambda__layers="arn"), "`lambda: layers` is 'arn'", "a list of up to 5 ARNs"),
    (_changed(lambda__layers=["numpy"]), "`lambda: layers` is ['numpy']", "layers with their versions"),
    (_changed(lambda__layers=[_LAYER] * 6), "`lambda: layers` is", "up to 5"),
    (_changed(lambda__memory=True), "`lambda: memory` is True", "whole number"),
    (_changed(standalone__max_idle_time=float("nan")), "`standalone: max_idle_time` is nan", "a number of at least 0"),
    (_changed(standalone__idle_terminate_granularity=float("inf")), "granularity` is inf", "a number of at least 0"),
    (_changed(scheduler__map_item_limit=0), "`scheduler: map_item_limit` is 0", "at least 1"),
    (_changed(scheduler__retries=-1), "`scheduler: retries` is -1", "from 0 to 100"),
    (_changed(scheduler__retries=1.5), "`scheduler: retries` is 1.5", "whole number"),
    (_changed(scheduler__retries=-1), "`scheduler: retries` is -1", "from 0"),
    (_changed(local__show_output="yes"), "`local: show_output` is 'yes'", "true or false"),
    (_changed(account__aws_region=["us-west-2"]), "account: aws_region", "us-west-2"),
    (_changed(account__aws_region="us west"), "`account: aws_region` is 'us west'", "us-west-2"),
    (_changed(account__aws_region=""), "`account: aws_region` is ''", "us-west-2"),
    (_changed(account__aws_region="https://s3.amazonaws.com"), "account: aws_region", "us-west-2"),
    (_changed(account__aws_account_id="abc"), "`account: aws_account_id` is 'abc'", "the 12 digits"),
    (_changed(account__aws_account_id="1234-5678-9012"), "account: aws_account_id", "the 12 digits"),
    (_changed(account__aws_account_id=1234567890123), "account: aws_account_id", "the 12 digits"),
    (_changed(account__aws_account_id=-1), "`account: aws_account_id` is -1", "the 12 digits"),
    (_changed(storage_backend="gcs"), "storage_backend` is 'gcs'", "s3 or localhost"),
    ("account: [1,\nlambda", "line 2", "not YAML"),
    ("a: b: c", "line 1", "not YAML"),
    ("", "is empty", "pywren create_config"),
    ("- account\n- lambda\n", "is a list", "pywren create_config"),
]


def test_layers_and_the_like_are_taken(tmp_path):
    """Every setting of Lambda can be written into the section ``lambda``."""
    path = tmp_path / "config.yaml"
    path.write_text(
        _changed(lambda__layers=[_LAYER] * 5, lambda__architecture="arm64", lambda__ephemeral_storage=10240)
    )
    section = wrenconfig.load(path)["lambda"]
    assert (section["layers"], section["architecture"]) == ([_LAYER] * 5, "arm64")


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("s3", "bucket", "Old_Bucket.2016"),  # us-east-1 once accepted such names
        ("account", "aws_region", "us-gov-west-1"),
        ("account", "aws_region", "minio"),
        ("account", "aws_account_id", 42),  # YAML has dropped the zeros
        ("account", "aws_account_id", "000000000042"),
    ],
)
def test_names_that_aws_or_another_server_takes(section: str, key: str, value: str) -> None:
    """Buckets and accounts in old files are accepted, and so are regions of servers other than AWS."""
    assert wrenconfig.load(_file(_changed(**{f"{section}__{key}": value})))[section][key] == value


@pytest.mark.parametrize(("text", "key", "remedy"), WRONG)
def test_what_is_said_of_a_wrong_file(text: str, key: str, remedy: str) -> None:
    """Row 201: the error is a ``ValueError`` that names the file, the key and what to write."""
    filename = _file(text)
    with pytest.raises(ConfigError) as caught:
        wrenconfig.load(filename)
    assert isinstance(caught.value, ValueError)
    for part in (filename, key, remedy):
        assert part in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing files, directories and files that are not text are configuration errors too."""
    with pytest.raises(ConfigError, match="pywren create_config"):
        wrenconfig.load("nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot read"):
        wrenconfig.load(tmp_path)
    Path("binary").write_bytes(b"account: \xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        wrenconfig.load("binary")


def test_yaml_never_makes_objects() -> None:
    """A YAML tag for a Python object is refused."""
    with pytest.raises(ConfigError, match="not YAML"):
        wrenconfig.load(_file("a: !!python/object/apply:os.getcwd []"))


def test_unknown_keys_only_get_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The warning names a misspelt key and the likely correct one; the file loads."""
    text = _changed(scheduler__map_item_limits=5, lambda__memroy=512, something_else=1, standalone__my_tag="x")
    config = wrenconfig.load(_file(text))
    assert config["something_else"] == 1
    warnings = [record.getMessage() for record in caplog.records if "unknown key" in record.getMessage()]
    assert len(warnings) == 4
    assert any("did you mean `scheduler: map_item_limit`?" in text for text in warnings)
    assert any("did you mean `lambda: memory`?" in text for text in warnings)


def test_validate_of_a_dict() -> None:
    """A configuration passed as an argument is checked by the same rules."""
    config = yaml.safe_load(CONFIG_OF_2018)
    wrenconfig.validate(config)
    config["lambda"]["timeout"] = 10_000
    with pytest.raises(ConfigError, match=r"the config argument: `lambda: timeout` is 10000"):
        wrenconfig.validate(config)


def test_extract_refuses_a_placeholder() -> None:
    """A dict with the placeholder bucket is refused."""
    with pytest.raises(ConfigError, match="make sure you change the default bucket"):
        wrenconfig.extract_storage_config({"s3": {"bucket": "BUCKET_NAME"}})


def test_extract_refuses_what_is_no_name() -> None:
    """A dict with a name that S3 does not accept is refused."""
    with pytest.raises(ConfigError, match="`s3: bucket` is 'Bad!'"):
        wrenconfig.extract_storage_config({"s3": {"bucket": "Bad!"}})


# -- settings ------------------------------------------------------------------------------------------------


def test_settings_and_their_defaults() -> None:
    """A key that is missing or empty has its default."""
    config: dict[str, Any] = {"scheduler": {"retries": 0}, "lambda": None}
    assert wrenconfig.setting(config, "scheduler.retries") == 0
    assert wrenconfig.setting({}, "scheduler.retries") == 2
    assert wrenconfig.setting(config, "lambda.event_age") == 21600
    assert wrenconfig.setting({}, "local.show_output") is False


def test_require_names_what_is_missing() -> None:
    """A missing key without a default is an error with the remedy."""
    with pytest.raises(ConfigError, match=r"`account: aws_account_id` is missing.*12 digits.*create_config"):
        wrenconfig.require({}, "account.aws_account_id")
    assert wrenconfig.require({}, "lambda.function_name") == "pywren_1"
