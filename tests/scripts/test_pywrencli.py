"""The command ``pywren``: exit code and whole output."""

import re
import subprocess
import sys

import cloudpickle
import pytest
import yaml
from command_line import runner

import pywren.testing
from pywren import wrenconfig
from pywren.aws.requests import AWS
from pywren.scripts.pywrencli import _hello, cli
from pywren.version import __version__


@pytest.fixture
def run():
    """Run a command line, and return its exit code and output."""

    def invoke(*arguments):
        result = runner().invoke(cli, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout + result.stderr

    return invoke


def test_version(run):
    """The command prints pywren's version."""
    assert run("--version") == (0, f"pywren, version {__version__}\n")


def test_create_config_writes_what_it_is_told(run, tmp_path):
    """The new file can be loaded, and contains the options."""
    path = tmp_path / "config.yaml"
    code, output = run(
        "--filename", path, "create_config", "--aws_region", "eu-west-1", "--bucket_name", "mine",
        "--bucket_prefix", "p", "--lambda_role", "r",
        "--function_name", "f", "--sqs_queue", "q", "--standalone_name", "s",
    )  # fmt: skip
    assert (code, output) == (0, f"new configuration written to {path}\n")
    config = wrenconfig.load(path)
    assert config["account"] == {"aws_lambda_role": "r", "aws_region": "eu-west-1", "aws_account_id": None}
    assert config["lambda"] == {"memory": 1536, "timeout": 300, "function_name": "f"}
    assert config["s3"] == {"bucket": "mine", "pywren_prefix": "p"}
    assert (config["standalone"]["sqs_queue_name"], config["standalone"]["instance_name"]) == ("q", "s")


def test_commands_and_options_may_be_written_with_dashes(run, tmp_path):
    """Underscores are 0.4's spelling; dashes work too."""
    path = tmp_path / "config.yaml"
    code, _ = run("--filename", path, "create-config", "--bucket-name", "mine")
    assert code == 0
    assert wrenconfig.load(path)["s3"]["bucket"] == "mine"


def test_create_config_does_not_overwrite(run, tmp_path):
    """Only ``--force`` replaces a file."""
    path = tmp_path / "config.yaml"
    path.write_text("precious")
    code, output = run("--filename", path, "create_config", "--bucket_name", "mine")
    assert code == 1
    assert "--force" in output
    assert path.read_text() == "precious"
    assert run("--filename", path, "create_config", "--bucket_name", "mine", "--force")[0] == 0
    assert wrenconfig.load(path)["s3"]["bucket"] == "mine"


def test_create_config_warns_of_the_default_bucket(run, tmp_path):
    """A configuration with the placeholder bucket is not usable yet."""
    code, output = run("--filename", tmp_path / "config.yaml", "create_config")
    assert code == 0
    assert "make sure you change the default bucket" in output


def test_create_config_goes_where_the_environment_says(run, tmp_path, monkeypatch):
    """The file is written to ``PYWREN_CONFIG_FILE``, where programs will read it."""
    path = tmp_path / "named.yaml"
    monkeypatch.setenv("PYWREN_CONFIG_FILE", str(path))
    assert run("create_config", "--bucket_name", "mine")[0] == 0
    assert path.exists()


def test_create_config_for_another_python_is_refused(run, tmp_path):
    """Another version is refused, because the function has the client's Python."""
    code, output = run("--filename", tmp_path / "config.yaml", "create_config", "--pythonver", "2.7")
    assert code == 2
    assert f"{sys.version_info.major}.{sys.version_info.minor}" in output


def test_an_unwritable_file_is_an_error_not_a_traceback(run, tmp_path):
    """The error says that the directory is missing."""
    code, output = run("--filename", tmp_path / "nowhere" / "config.yaml", "create_config")
    assert code == 1
    assert "cannot write" in output


@pytest.mark.parametrize("command", ["deploy_lambda", "test_function"])
def test_without_a_configuration_there_is_a_remedy(run, tmp_path, monkeypatch, command):
    """Commands that need a configuration say how to create it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    code, output = run(command)
    assert code == 1
    assert "pywren create_config" in output


@pytest.fixture
def config_file(tmp_path):
    """Return the configuration file of a mocked AWS."""
    with pywren.testing.mock_aws() as config:
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        yield path, config


@pytest.mark.moto
def test_deploy_lambda_creates_and_updates(run, config_file):
    """The command can be repeated; it says what it created, or that nothing differs."""
    path, config = config_file
    name, region = config["lambda"]["function_name"], config["account"]["aws_region"]
    aws = AWS(region)
    aws.delete_function(name)
    for said in (f"created the function {name} with ", f"unchanged: the function {name}\n"):
        code, output = run("--filename", path, "deploy_lambda")
        assert code == 0
        assert output.startswith(f"unchanged: the role {name}\nunchanged: the log group /aws/lambda/{name}\n{said}")
    assert aws.function_config(name) is not None
    aws.close()


@pytest.mark.moto
def test_deploy_lambda_makes_the_role_too(run, config_file, tmp_path):
    """Only the bucket must exist beforehand."""
    _, config = config_file
    config["account"]["aws_lambda_role"], config["lambda"]["function_name"] = "new-role", "new-function"
    path = tmp_path / "new.yaml"
    path.write_text(yaml.safe_dump(config))
    code, output = run("--filename", path, "deploy_lambda")
    assert code == 0
    assert re.findall("^created the (role|log group|function) ", output, re.M) == ["role", "log group", "function"]
    code, output = run("--filename", path, "deploy_lambda")
    assert (code, output.count("unchanged: ")) == (0, 3)


@pytest.mark.moto
def test_test_function_says_hello(run, config_file):
    """The command prints 0.4's message."""
    assert run("--filename", config_file[0], "test_function") == (0, "function returned: Hello world\n")


def test_the_test_function_needs_nothing_that_a_worker_lacks():
    """The function is sent by value, because click is not in the bundle."""
    program = "import cloudpickle, sys; sys.modules['click'] = None; print(cloudpickle.load(sys.stdin.buffer)('world'))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input=cloudpickle.dumps(_hello()), capture_output=True, timeout=60, check=False)
    assert done.stdout.split() == [b"Hello", b"world"], done.stderr


@pytest.mark.moto
def test_an_error_of_aws_is_a_message(run, config_file):
    """A missing function gives exit code 1 and the remedy."""
    path, config = config_file
    aws = AWS(config["account"]["aws_region"])
    aws.delete_function(config["lambda"]["function_name"])
    aws.close()
    code, output = run("--filename", path, "test_function")
    assert code == 1
    assert "pywren deploy_lambda" in output
