"""Named jobs as programs use them: other processes, clients that die, S3, and the names in ``pywren``."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import executors
import pytest

import pywren
from pywren import jobs
from pywren.exceptions import ArgumentError, CallLostError, ConfigError
from pywren.wire.keys import job_key

WAIT = 120.0


def program(text: str) -> str:
    return textwrap.dedent(text)


def start(text: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program(text), *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )


def output_of(text: str, *arguments: object) -> str:
    process = start(text, *arguments)
    output, _ = process.communicate(timeout=WAIT)
    assert process.returncode == 0
    return output


MAKE = """
import os, sys, time
import pywren

def work(x):
    if x == 2 and not os.path.exists(sys_argv):
        raise ValueError("not yet")
    while x >= 4 and not os.path.exists(sys_argv):
        time.sleep(0.05)
    return x * x

sys_argv = sys.argv[1]
pwex = pywren.local_executor()
# One thread invokes the calls in order: those that wait for the file must not keep the first four from running.
futures = pwex.map(work, range(int(sys.argv[2])), name="night", invoke_pool_threads=1)
if len(sys.argv) > 3:
    pywren.wait(futures[:4])
    print("four are done", flush=True)
    time.sleep(600)
pywren.wait(futures)
"""

ATTACH = """
import pywren
for future in pywren.attach("night"):
    print(repr(future.exception() or future.result()))
"""


def test_another_process_finds_the_results(tmp_path):
    """The job of a program that has ended is found by its name: values, and the user's own exception."""
    output_of(MAKE, tmp_path / "flag", 4)
    assert output_of(ATTACH) == "0\n1\nValueError('not yet')\n9\n"
    (job,) = jobs.list_jobs()
    assert (job.name, job.total, job.done, job.failed) == ("night", 4, 3, 1)


def test_a_job_is_watched_while_it_runs(tmp_path):
    """Another process waits for the calls of a living client, and cannot resume them meanwhile."""
    maker = start(MAKE, tmp_path / "flag", 5)
    try:
        _wait_for_job()
        watcher = start(ATTACH)
        with pytest.raises(ArgumentError, match=f"driven by process {maker.pid} "):
            jobs.resume("night")
        (tmp_path / "flag").touch()
        output, _ = watcher.communicate(timeout=WAIT)
        assert output.splitlines()[-1] == "16"
        assert maker.wait(WAIT) == 0
    finally:
        _end(maker)


def _wait_for_job():
    deadline = time.monotonic() + WAIT
    while not jobs.list_jobs():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _end(process):
    process.kill()
    process.wait()
    process.stdout.close()


def test_a_killed_client_is_noticed_and_its_job_resumed(tmp_path):
    """Those who wait get an error that names the command; resuming runs the rest and what had failed, nothing else."""
    maker = start(MAKE, tmp_path / "flag", 6, "stay")
    try:
        assert maker.stdout.readline() == "four are done\n"
        futures = pywren.attach("night")
        _end(maker)
        began = time.monotonic()
        with pytest.raises(
            CallLostError, match="the process that made the call has ended; run it again with `pywren resume night`"
        ):
            futures[5].result(timeout=60)
        assert time.monotonic() - began < 60
    finally:
        _end(maker)
    (tmp_path / "flag").touch()
    again = jobs.resume("night")
    assert [future.result(timeout=WAIT) for future in again] == [0, 1, 4, 9, 16, 25]
    with pytest.raises(CallLostError):
        futures[5].result()
    assert output_of(ATTACH).split() == ["0", "1", "4", "9", "16", "25"]
    assert [(job.done, job.failed) for job in jobs.list_jobs()] == [(6, 0)]


def test_a_job_is_resumed_before_anyone_has_noticed(tmp_path):
    """Calls without a status run again as well."""
    maker = start(MAKE, tmp_path / "flag", 6, "stay")
    assert maker.stdout.readline() == "four are done\n"
    _end(maker)
    (tmp_path / "flag").touch()
    resume = """
    import pywren
    print([future.result() for future in pywren.resume("night")])
    """
    assert output_of(resume) == "[0, 1, 4, 9, 16, 25]\n"


def test_a_resumed_job_whose_client_dies_again(tmp_path):
    """Each client shows that it lives under the same path."""
    maker = start(MAKE, tmp_path / "flag", 5, "stay")
    assert maker.stdout.readline() == "four are done\n"
    _end(maker)
    resume = """
    import sys, time
    import pywren
    futures = pywren.resume("night")
    print("resumed", flush=True)
    time.sleep(600)
    """
    second = start(resume)
    try:
        assert second.stdout.readline() == "resumed\n"
        with pytest.raises(ArgumentError, match=f"driven by process {second.pid} "):
            jobs.resume("night")
    finally:
        _end(second)
    (tmp_path / "flag").touch()
    assert [future.result(timeout=WAIT) for future in jobs.resume("night")] == [0, 1, 4, 9, 16]


def test_a_job_is_cancelled_from_outside(tmp_path):
    """The calls of another process end, and that process goes on."""
    maker = start(MAKE, tmp_path / "flag", 6, "stay")
    try:
        assert maker.stdout.readline() == "four are done\n"
        assert jobs.cancel("night") == 2
        assert jobs.cancel("night") == 0
        assert maker.poll() is None
    finally:
        _end(maker)
    (job,) = jobs.list_jobs()
    assert (job.failed, job.outstanding) == (3, 0)


def test_pickled_futures_of_a_job_notice_that_its_client_is_gone(tmp_path):
    """Not only attached futures."""
    make = """
    import os, pickle, sys, time
    import pywren
    pwex = pywren.local_executor()
    futures = pwex.map(lambda x: time.sleep(600), [1], name="night")
    with open(sys.argv[1], "wb") as file:
        pickle.dump(futures, file)
    os._exit(0)
    """
    output_of(make, tmp_path / "futures")
    read = """
    import pickle, sys
    import pywren
    with open(sys.argv[1], "rb") as file:
        (future,) = pickle.load(file)
    print(type(future.exception(timeout=60)).__name__)
    """
    assert output_of(read, tmp_path / "futures") == "CallLostError\n"


# -- S3 ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ready(tmp_path: Path):
    """A Lambda executor on a mocked AWS."""
    with executors.make("lambda", tmp_path / "home") as made:
        yield made


def fail_without(path):
    if not os.path.exists(path):
        raise ValueError("not yet")
    return "done"


@pytest.mark.moto
def test_a_job_on_lambda(ready, tmp_path):
    """It is made, listed, found, resumed and removed by the configuration and the name alone."""
    flag = str(tmp_path / "flag")
    futures = ready.executor.map(fail_without, [flag, __file__], name="ночь/7")
    pywren.wait(futures)
    (job,) = jobs.list_jobs(config=ready.config)
    assert (job.name, job.total, job.done, job.failed) == ("ночь/7", 2, 1, 1)
    assert job.where.startswith("function ")
    attached = pywren.attach("ночь/7", config=ready.config)
    assert isinstance(attached[0].exception(), ValueError)
    assert attached[1].result() == "done"
    Path(flag).touch()
    again = pywren.resume("ночь/7", config=ready.config)
    assert [future.result(timeout=WAIT) for future in again] == ["done", "done"]
    assert pywren.attach("ночь/7", config=ready.config)[0].result(timeout=WAIT) == "done"
    assert jobs.remove("ночь/7", config=ready.config) == 0
    assert jobs.list_jobs(config=ready.config) == []


@pytest.mark.moto
def test_named_calls_cost_few_requests_more(ready):
    """A name costs a GET, and PUTs of the arguments, the manifest and the record; no call costs more."""
    sent: collections.Counter[str] = collections.Counter()

    def count(model, **_):
        if threading.current_thread() is threading.main_thread():  # others poll
            sent[model.name] += 1

    ready.executor.storage.backend.s3client.meta.events.register("before-call.s3", count)
    ready.executor.map(len, [b"x"] * 20)
    plain = sent.copy()
    sent.clear()
    ready.executor.map(len, [b"x"] * 20, name="counted")
    assert sent - plain == {"GetObject": 1, "PutObject": 3}


@pytest.mark.moto
def test_the_record_has_no_secret(ready):
    """What anyone who can read the bucket sees: no key, no value of a variable."""
    (future,) = ready.executor.map(len, [b"x"], name="seen", extra_env={"TOKEN": "t0p" + "secret"})
    storage = ready.executor.storage
    seen = storage.get(job_key(storage.prefix, "seen")) + storage.get(storage.keys(future.callset_id).manifest)
    key = future._origin.callset.known_secret()
    for secret in (b"t0p" + b"secret", key, key.hex().encode(), b"attempt_key"):
        assert secret not in seen


# -- names of the package ----------------------------------------------------------------------------------------------


def test_the_names_of_the_package():
    """``pywren.attach`` and ``pywren.resume`` are the most used; the module has the others."""
    assert pywren.attach is jobs.attach
    assert pywren.resume is jobs.resume
    assert pywren.jobs is jobs
    for name in jobs.__all__:
        assert getattr(jobs, name).__doc__


def test_a_wrong_configuration_is_named():
    """The errors are those of executors."""
    with pytest.raises(ConfigError):
        pywren.attach("x", config={"storage_backend": "nowhere"})
