"""The factories of executors: how configuration and environment decide where calls run."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pywren
from pywren.exceptions import ConfigError

WITHOUT_REGION = "s3: {bucket: my-own-bucket}\n"
FOR_AWS = [pywren.lambda_executor, pywren.remote_executor]


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Run in a directory with a configuration file, without AWS variables in the environment."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ".pywren_config"

    def write(text: str) -> str:
        path.write_text(text)
        return str(path)

    return write


# -- this machine or others ----------------------------------------------------------------------------------


def test_a_file_that_keeps_calls_on_this_machine(
    configured: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    """``storage_backend: localhost`` in the file works as in the ``config`` argument; nothing is logged."""
    configured("storage_backend: localhost\n")
    with pywren.default_executor(job_max_runtime=77) as executor:
        assert executor.call_async(abs, -1).result(60) == 1
        assert executor.job_max_runtime == 77
    assert [record.getMessage() for record in caplog.records] == []


def test_an_argument_that_keeps_calls_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever passes a configuration is not told that there is none."""
    monkeypatch.setattr("pywren.wren._said_where", False)
    pywren.default_executor(config={"storage_backend": "localhost"}).close()
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize("factory", FOR_AWS)
def test_other_machines_do_not_reach_this_one(
    configured: Callable[[str], str], factory: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 202: a factory for other machines raises when the executor is made, and names the file."""
    path = configured("storage_backend: localhost\naccount: {aws_region: us-west-2}\n")
    with pytest.raises(ConfigError, match=r"localhost.*s3: bucket.*create_config") as caught:
        factory()
    assert path in str(caught.value)
    name = "lambda" if factory is pywren.lambda_executor else "remote"
    monkeypatch.setenv("PYWREN_EXECUTOR", name)
    with pytest.raises(ConfigError, match=f"{name}_executor"):
        pywren.default_executor()


def test_a_file_is_read_once(configured: Callable[[str], str], caplog: pytest.LogCaptureFixture) -> None:
    """Each executor causes one warning about an unknown key."""
    configured(WITHOUT_REGION + "account: {aws_region: us-west-2}\nsomething_else: 1\n")
    pywren.default_executor().close()
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "unknown key `something_else`" in warning.getMessage()


# -- the region ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", [*FOR_AWS, pywren.default_executor])
def test_a_region_that_nobody_names(configured: Callable[[str], str], factory: Callable[..., Any]) -> None:
    """Row 200: a missing region is reported when the executor is made, before anything is staged."""
    path = configured(WITHOUT_REGION)
    with pytest.raises(
        ConfigError, match=r"`account: aws_region` is missing: set it to a region.*AWS_REGION"
    ) as caught:
        factory()
    assert path in str(caught.value)
    with pytest.raises(ConfigError, match="the config argument: `account: aws_region` is missing"):
        factory(config={"s3": {"bucket": "my-own-bucket"}, "account": None})


@pytest.mark.parametrize("factory", FOR_AWS)
def test_the_region_of_the_environment(
    configured: Callable[[str], str], factory: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has precedence over the variables and the profile, as AWS's tools do; all parts use the same."""

    def region() -> str:
        with factory() as executor:
            assert executor.storage_config["backend_config"]["region"] == executor.invoker.region_name
            return str(executor.invoker.region_name)

    path = configured(WITHOUT_REGION)
    profile = Path(path).with_name("aws_config")
    profile.write_text("[default]\nregion = eu-west-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(profile))
    assert region() == "eu-west-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-2")
    assert region() == "eu-west-2"
    monkeypatch.setenv("AWS_REGION", "eu-west-3")
    assert region() == "eu-west-3"
    configured(WITHOUT_REGION + "account: {aws_region: us-west-2}\n")
    assert region() == "us-west-2"


def test_a_region_of_the_environment_that_is_none(
    configured: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 201: the environment's region is checked like that of the file."""
    configured(WITHOUT_REGION)
    monkeypatch.setenv("AWS_REGION", "eu west")
    with pytest.raises(ConfigError, match=r"the environment.*aws_region` is 'eu west'"):
        pywren.lambda_executor()


def test_a_profile_that_does_not_exist(configured: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalid profile raises an error that says what is wrong with it."""
    configured(WITHOUT_REGION)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(ConfigError, match="AWS_PROFILE"):
        pywren.lambda_executor()


def test_botocore_is_not_loaded_for_a_region_that_is_there(configured: Callable[[str], str]) -> None:
    """Making an executor is fast: a region in the file or environment is found without the profile."""
    configured(WITHOUT_REGION)
    program = (
        "import os, sys, pywren\n"
        "os.environ['AWS_REGION'] = 'us-west-2'\n"
        "pywren.lambda_executor()\n"
        "print('botocore' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "False\n"
