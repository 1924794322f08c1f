"""The pytest plugin: its fixtures in pytest processes of their own."""

import subprocess
import sys
from importlib.metadata import entry_points

import pytest

MAP = """
import os
import pathlib
import pytest
import pywren

def calls():
    named = lambda x: (x, os.environ["AWS_LAMBDA_FUNCTION_NAME"])
    return pywren.get_all_results(pywren.default_executor().map(named, [1, 2]))
"""

BEFORE_AND_AFTER = (
    MAP
    + """
def test_before():
    assert os.environ["PYWREN_EXECUTOR"] == "local"
    assert os.environ["AWS_PROFILE"] == "mine"

@pytest.mark.parametrize("number", range(2))
def test_during(pywren_aws, number, tmp_path):
    name = pywren_aws["lambda"]["function_name"]
    assert calls() == [(1, name), (2, name)]
    assert "AWS_PROFILE" not in os.environ
    assert not any(tmp_path.iterdir())
    pathlib.Path(name).touch()

def test_after():
    test_before()
    assert "PYWREN_CONFIG_FILE" not in os.environ
    assert len(list(pathlib.Path().glob("pywren-mock-*"))) == 2
"""
)

SHARED = (
    MAP
    + """
seen = []

@pytest.mark.parametrize("number", range(2))
def test_shared(pywren_aws_session, number):
    seen.append(pywren_aws_session["lambda"]["function_name"])
    assert calls()[0][1] == seen[0]

def test_one_of_its_own_beside_it(pywren_aws_session, pywren_aws):
    assert calls()[0][1] == pywren_aws["lambda"]["function_name"] != seen[0]

def test_shared_again(pywren_aws_session):
    assert calls()[0][1] == seen[0]
"""
)

EMULATED = (
    MAP
    + """
from pywren.testing.emulator import Fault, Faults

endpoints = []

@pytest.mark.parametrize("number", range(2))
def test_emulated(pywren_emulator, number):
    endpoints.append(os.environ["AWS_ENDPOINT_URL"])
    assert endpoints[0] == pywren_emulator.endpoint == endpoints[-1]
    config = pywren_emulator.deploy(memory=256)
    # had the faults of the first test remained, the call of the second would be refused
    assert pywren.lambda_executor(config=config).call_async(abs, -number).result() == number
    pywren_emulator.set_faults(Faults(fail_invoke=Fault()))

def test_mocked_between(pywren_aws):
    assert "AWS_ENDPOINT_URL" not in os.environ
    assert calls()[0][1] == pywren_aws["lambda"]["function_name"]

def test_emulated_again(pywren_emulator):
    assert pywren_emulator.endpoint == endpoints[0]
    assert "PYWREN_CONFIG_FILE" not in os.environ

def test_both(pywren_aws, pywren_emulator):
    pass
"""
)

WITHOUT = "import sys\nsys.modules[{module!r}] = None\n"


@pytest.fixture
def run(pytester, monkeypatch):
    """Return a function that runs pytest in a process of its own, in the environment of somebody who uses AWS."""
    monkeypatch.setenv("PYWREN_EXECUTOR", "local")
    monkeypatch.setenv("AWS_PROFILE", "mine")

    def run_tests(tests, *options, conftest=""):
        pytester.makeconftest(conftest)
        pytester.makepyfile(tests)
        return pytester.runpytest_subprocess("-q", "-W", "error", "-p", "no:cacheprovider", *options, timeout=240)

    return run_tests


def test_it_is_installed():
    """pytest finds the plugin by itself."""
    assert "pywren" in {one.name for one in entry_points(group="pytest11")}, "install pywren again: pip install -e ."


def test_loading_it_is_cheap():
    """The plugin, which pytest loads at each start, loads nothing besides pytest."""
    program = (
        "import sys, pytest; before = set(sys.modules); import pywren.testing.plugin\n"
        "print({name.partition('.')[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "{'pywren'}"


@pytest.mark.moto
@pytest.mark.thorough
@pytest.mark.parametrize("options", [(), ("-n", "2")], ids=["one process", "two processes"])
def test_each_test_has_an_aws_of_its_own(run, options):
    """``default_executor()`` uses it; before and after, the environment is the user's."""
    tests = BEFORE_AND_AFTER if not options else BEFORE_AND_AFTER.replace("def test_after", "def not_a_test")
    run(tests, *options).assert_outcomes(passed=3 if options else 4)


@pytest.mark.moto
@pytest.mark.thorough
def test_a_session_shares_an_aws(run):
    """The configuration stays the same for all tests, and a test may have an AWS of its own in between."""
    run(SHARED).assert_outcomes(passed=4)


@pytest.mark.moto
@pytest.mark.thorough
def test_a_conftest_chooses_the_options(run):
    """Whoever defines ``pywren_aws_options`` again chooses the arguments of ``mock_aws``."""
    conftest = "import pytest\n@pytest.fixture(scope='session')\ndef pywren_aws_options(): return {'lambda_timeout': 7}"
    tests = "def test_it(pywren_aws): assert pywren_aws['lambda']['timeout'] == 7"
    run(tests, conftest=conftest).assert_outcomes(passed=1)


@pytest.mark.moto
@pytest.mark.thorough
def test_ctrl_c_ends_the_mocked_aws(run):
    """Ctrl-C in a test ends the calls and the mocked AWS with the session."""
    tests = "import pywren, time\ndef test_it(pywren_aws):\n"
    tests += "    pywren.default_executor().call_async(time.sleep, 300)\n    raise KeyboardInterrupt"
    done = run(tests)
    assert done.ret == pytest.ExitCode.INTERRUPTED
    assert done.duration < 200  # the call would take longer


@pytest.mark.parametrize(
    ("fixture", "module", "extra"),
    [
        ("pywren_aws", "moto", "testing"),
        ("pywren_aws_session", "moto", "testing"),
        ("pywren_emulator", "aiohttp", "emulator"),
    ],
)
def test_without_its_packages_a_fixture_says_what_to_install(run, fixture, module, extra):
    """A missing package is an error where it is needed, with the remedy; other tests run."""
    tests = f"def test_that_needs_it({fixture}): pass\ndef test_that_does_not(): pass\n"
    done = run(tests, conftest=WITHOUT.format(module=module))
    done.assert_outcomes(passed=1, errors=1)
    report = done.stdout.str()
    assert f"the fixture {fixture} cannot be used: " in report
    assert f"pip install 'pywren[{extra}]'" in report
    assert "During handling" not in report


@pytest.mark.emulator
@pytest.mark.thorough
def test_a_session_shares_an_emulator(run):
    """Its tests deploy functions of their own; faults end with a test; tests with a mocked AWS may come in between."""
    done = run(EMULATED)
    done.assert_outcomes(passed=4, errors=1)
    done.stdout.fnmatch_lines(["*a test can use either pywren_emulator or pywren_aws: both stand in for AWS*"])
