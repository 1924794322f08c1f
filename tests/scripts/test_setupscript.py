"""The command ``pywren-setup``: its questions, their order, and the effect of the answers."""

import stat

import pytest

from pywren import wrenconfig
from pywren.exceptions import CallLostError
from pywren.scripts import setupscript
from pywren.scripts.setupscript import interactive_setup

pytestmark = pytest.mark.moto

BUCKET = "pywren-123456789012-us-west-2"


@pytest.fixture
def setup(run, account, monkeypatch):
    """Run ``pywren-setup`` with lines of input, without calling the test function."""
    called = []
    monkeypatch.setattr(setupscript, "call_hello", lambda config, patience: called.append(config) or "Hello world")

    def invoke(*arguments, lines=()):
        return run(*arguments, command=interactive_setup, input="".join(f"{line}\n" for line in lines))

    invoke.called = called
    return invoke


def test_enter_takes_everything(setup, account, tmp_path):
    """The whole dialogue and its result are as expected."""
    done = setup(lines=[""] * 7)
    path = tmp_path / ".pywren_config"
    assert done.code == 0, done
    assert done.err == ""
    asked = "".join(
        f"{question}: "
        for question in (
            "AWS region [us-west-2]",
            f"Configuration file [{path}]",
            f"Bucket for calls [{BUCKET}]",
            f"There is no bucket {BUCKET}. Create it? (y/n) [y]",
            "Key prefix in the bucket [pywren.jobs]",
            "Advanced settings? (y/n) [n]",
            "Stand-alone workers on EC2, too? (y/n) [n]",
        )
    )
    assert asked in done.out
    assert done.out.splitlines()[-2:] == [
        "    import pywren",
        "    print(pywren.get_all_results(pywren.default_executor().map(lambda x: x + 1, range(10))))",
    ]
    assert set(account.left()) == {"buckets", "roles", "functions", "logs"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = wrenconfig.load(path)
    assert config["account"]["aws_account_id"] == "123456789012"
    assert setup.called[0]["s3"] == {"bucket": BUCKET, "pywren_prefix": "pywren.jobs"}


def test_every_answer_counts(setup, account, tmp_path):
    """The answers decide region, file, bucket, prefix, role, function and stand-alone workers."""
    path = tmp_path / "mine.yaml"
    done = setup(lines=["eu-west-1", path, "my-bucket", "y", "my.jobs", "y", "my-role", "my_function", "y"])
    assert done.code == 0, done
    config = wrenconfig.load(path)
    assert config["account"]["aws_region"] == "eu-west-1"
    assert config["account"]["aws_lambda_role"] == "my-role"
    assert config["lambda"]["function_name"] == "my_function"
    assert config["s3"] == {"bucket": "my-bucket", "pywren_prefix": "my.jobs"}
    assert {"profiles", "roles", "buckets"} <= set(account.left())
    assert f"PYWREN_CONFIG_FILE={path}" in done.out


def test_the_suffix_ends_the_names(setup, account):
    """Two set-ups in one account get different names."""
    done = setup("--dryrun", "--suffix", "two", "--yes")
    assert f"the bucket {BUCKET}-two, the role pywren_exec_role_1_two" in done.out
    assert "the function pywren_1_two" in done.out


@pytest.mark.parametrize("spelling", ["--dryrun", "--dry-run", "--dry_run"])
def test_a_dry_run_makes_nothing(setup, account, tmp_path, spelling):
    """It asks the questions, and says what it would create."""
    done = setup(spelling, lines=[""])
    assert done.code == 0
    assert done.out.count("would create the ") == 4
    assert account.changes == []
    assert setup.called == []
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_without_credentials(run, tmp_path, monkeypatch):
    """It says once that it could not check AWS, continues, and claims nothing about what exists."""
    monkeypatch.setenv("HOME", str(tmp_path))
    done = run("--dryrun", "--suffix", "1", command=interactive_setup, input="us-west-2\n\n")
    assert done.code == 0
    assert done.err.count("AWS was not checked: ") == 1
    assert "There is no bucket" not in done.out
    assert "This creates, in us-west-2 and unless they exist, the bucket pywren-" in done.out


def test_a_file_is_kept_unless_told_otherwise(setup, account, tmp_path):
    """Keeping the file sets up the resources that it names; overwriting it leads to more questions."""
    assert setup("--yes", "--suffix", "one").code == 0
    text = (tmp_path / ".pywren_config").read_text()
    done = setup(lines=["", "", "n"])
    assert done.code == 0
    assert f"unchanged: the bucket {BUCKET}-one" in done.out
    assert (tmp_path / ".pywren_config").read_text() == text
    assert setup(lines=["", "", "y"]).code == 0
    assert wrenconfig.load(tmp_path / ".pywren_config")["s3"]["bucket"] == BUCKET


def test_a_second_set_up_gets_a_file_of_its_own(setup, account, tmp_path):
    """Row 210: the new file is next to the first, which stays unchanged; a second run changes nothing."""
    assert setup("--yes").code == 0
    text = (tmp_path / ".pywren_config").read_text()
    second = tmp_path / ".pywren_config_two"
    for made in (True, False):
        account.requests.clear()
        done = setup("--yes", "--suffix", "two")
        assert done.code == 0, done
        assert f"For programs to find {second}, set PYWREN_CONFIG_FILE={second}" in done.out
        assert (account.changes != []) is made
    assert wrenconfig.load(second)["lambda"]["function_name"] == "pywren_1_two"
    assert (tmp_path / ".pywren_config").read_text() == text


def test_a_file_that_is_kept_is_for_another_set_up(setup, account, tmp_path):
    """Row 210: the file wins, and a message says so if another region or suffix was chosen."""
    path = tmp_path / ".pywren_config"
    assert setup("--yes").code == 0
    assert setup("--yes").err == ""
    kept = "The file is for the function pywren_1 in us-west-2, not for {}: for a second set-up choose another file, "
    done = setup("--dryrun", lines=["eu-west-1"])
    assert done.err == kept.format("pywren_1 in eu-west-1") + "here or with PYWREN_CONFIG_FILE\n"
    done = setup("--dryrun", "--suffix", "two", lines=["", path])
    assert done.err == kept.format("pywren_1_two in us-west-2") + "here or with PYWREN_CONFIG_FILE\n"
    assert "would create" not in done.out


def test_a_bucket_that_exists_is_not_asked_about(setup, account):
    """Only creating a bucket needs confirmation; answering no asks for another bucket."""
    account.make_bucket("there")
    done = setup("--dryrun", lines=["", "", "there"])
    assert "Create it?" not in done.out
    done = setup("--dryrun", lines=["", "", "not-there", "n", "there"])
    assert "There is no bucket not-there. Create it? (y/n) [y]" in done.out
    assert "the bucket there, the role" in done.out


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["", "/no/where/config"], "there is no directory /no/where"),
        (["", "/"], "cannot write /"),
        (["", "", "", "", "*"], "pywren_prefix` is '*', which is not valid; write up to 200 letters"),
        (["", "", "", "", "", "perhaps"], "answer y or n"),
        (["", "", "", "", "", "y", "a/b"], "aws_lambda_role` is 'a/b'"),
        (["", "", "", "", "", "y", "", "a.b"], "function_name` is 'a.b'"),
        (["", "", "pywren.data"], "make sure you change the default bucket"),
    ],
)
def test_a_wrong_answer_is_asked_again(setup, account, lines, said):
    """The output says what is wrong; at the end of the input the default is accepted."""
    done = setup("--dryrun", lines=lines)
    assert said in done.out
    assert done.code == 0


def test_a_role_that_is_not_known_everywhere_yet(setup, account, monkeypatch):
    """The first test calls may fail, so the command tries several times."""
    tries = []

    def call_hello(config, patience):
        tries.append(patience)
        if len(tries) < 3:
            raise CallLostError("the worker vanished")
        return "Hello world"

    monkeypatch.setattr(setupscript, "call_hello", call_hello)
    done = setup("--yes")
    assert done.code == 0
    assert done.err.count("not ready yet (the worker vanished); trying again") == 2
    tries[:] = []
    monkeypatch.setattr(setupscript, "_PATIENCE", (1.0, 2.0))
    done = setup("--yes")
    assert (done.code, tries) == (1, [1.0, 2.0])
    assert "Error: the worker vanished" in done.err


def test_the_region_is_the_profiles(setup, account, monkeypatch):
    """The default region is that of the AWS command line's profile."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    assert "AWS region [eu-west-3]: eu-west-3" in setup("--dryrun", "--yes").out
