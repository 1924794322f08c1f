"""Copies of the function, on the emulated AWS: each is really deployed, and really runs calls."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
from collections import Counter
from contextlib import closing
from typing import Any

import hostile
import pytest
from executors import WAIT, version_module

import pywren
from pywren.aws.requests import AWS
from pywren.client import copies, failure_records
from pywren.exceptions import VersionMismatchError
from pywren.testing.emulator import Emulator, Fault, Faults


@pytest.fixture(autouse=True)
def one_call_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the copies take turns from the first call on."""
    monkeypatch.setattr(copies, "RAMP", 1)


@pytest.fixture
def config(emulator: Emulator) -> dict[str, Any]:
    """Return the configuration of a function with three copies."""
    return emulator.deploy(copies=3)


def each_name(config: dict[str, Any]) -> list[str]:
    """Return the names of the copies."""
    name = str(config["lambda"]["function_name"])
    return [name, f"{name}_copy2", f"{name}_copy3"]


def where(futures: list[Any]) -> Counter[str]:
    """Count the calls that ran in each function."""
    return Counter(str(future.run_status["log_group_name"]).rpartition("/")[2] for future in futures)


def test_calls_run_in_all_copies(config: dict[str, Any]) -> None:
    """A map is spread, and everything about it is as with one function."""
    with pywren.lambda_executor(config=config) as executor:
        futures = executor.map(lambda x: x + 1, range(9))
        assert pywren.get_all_results(futures) == list(range(1, 10))
        assert where(futures) == dict.fromkeys(each_name(config), 3)
        assert futures[0].invoke_status["lambda_copies"] == 3
        chunked = executor.map(lambda x: x + 1, range(12), chunksize=2)
        assert pywren.get_all_results(chunked) == list(range(1, 13))
        assert len(where(chunked)) == 3


@pytest.mark.thorough
def test_a_worker_of_a_copy_that_is_killed(emulator: Emulator, config: dict[str, Any], monkeypatch: Any) -> None:
    """Its record is found among those of its copy, and the call runs again."""
    monkeypatch.setattr(failure_records, "LISTING_INTERVAL", 0.1)
    with pywren.lambda_executor(config=config) as executor:
        emulator.set_faults(Faults(kill_container=Fault(most=3), kill_at="start"))
        futures = executor.map(hostile.echo, range(3))
        assert pywren.get_all_results(futures) == [0, 1, 2]
        assert [[one.cause for one in future.attempts] for future in futures] == [["killed", None]] * 3


@pytest.mark.thorough
def test_a_copy_that_is_missing(config: dict[str, Any], emulator: Emulator, caplog: Any) -> None:
    """The others take its calls, and one warning says how to bring it back."""
    with closing(AWS(emulator.region)) as aws:
        aws.delete_function(each_name(config)[1])
    with caplog.at_level(logging.WARNING), pywren.lambda_executor(config=config) as executor:
        futures = executor.map(hostile.echo, range(6))
        assert pywren.get_all_results(futures) == list(range(6))
    first, _, third = each_name(config)
    assert where(futures) == {first: 3, third: 3}
    (said,) = [one.getMessage() for one in caplog.records if "other copies" in one.getMessage()]
    assert "pywren deploy_lambda" in said


@pytest.mark.thorough
def test_a_copy_of_another_version(config: dict[str, Any], emulator: Emulator) -> None:
    """Only the calls that it gets fail, and their error says what to deploy."""
    from pywren.worker.bundle import build_zip, worker_files

    with closing(AWS(emulator.region)) as aws:
        archive = build_zip({**worker_files(), "pywren/version.py": version_module("0.9.9")})
        aws.update_function_code(each_name(config)[2], {"ZipFile": archive})
    with pywren.lambda_executor(config=config) as executor:
        futures = executor.map(hostile.echo, range(6))
        pywren.wait(futures, timeout=WAIT)
        errors = [future.exception() for future in futures]
    assert Counter(map(type, errors)) == {type(None): 4, VersionMismatchError: 2}
    assert "pywren deploy_lambda" in str(next(one for one in errors if one))


_COLLECT = """
import pickle, sys, json, logging
futures = pickle.load(open(sys.argv[1], "rb"))
print(json.dumps([type(future.exception(timeout=60)).__name__ for future in futures]))
"""


@pytest.mark.thorough
def test_another_process_finds_the_records_of_copies(emulator: Emulator, config: dict[str, Any], tmp_path: Any) -> None:
    """Pickled futures search the records of all copies."""
    with pywren.lambda_executor(config=config) as executor:
        executor.retries = 0
        emulator.set_faults(Faults(kill_container=Fault(), kill_at="start"))
        futures = executor.map(hostile.echo, range(3))
        emulator.wait_idle()
        (tmp_path / "futures").write_bytes(pickle.dumps(futures))
        done = subprocess.run(
            [sys.executable, "-c", _COLLECT, str(tmp_path / "futures")],
            capture_output=True, text=True, timeout=WAIT, check=True,
        )  # fmt: skip
        assert json.loads(done.stdout) == ["WorkerCrashedError"] * 3
