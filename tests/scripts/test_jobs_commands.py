"""The commands ``pywren jobs``, ``resume`` and ``cancel``."""

from __future__ import annotations

import json
import os
import re

import callees
import pytest

import pywren as package
from pywren import jobs
from pywren.scripts.jobs import _age

NOTHING = 'no jobs: pwex.map(function, items, name="my-job") makes one\n'


def square_or_fail(path):
    if not os.path.exists(path) or os.environ.get("FORBIDDEN"):
        raise ValueError(f"no {os.path.basename(path)}")
    return os.environ.get("TOKEN")


@pytest.fixture
def job(tmp_path):
    """A job of two calls on this machine, one of which has failed until a file exists."""
    with package.local_executor() as executor:
        paths = [__file__, str(tmp_path / "flag")]
        package.wait(executor.map(square_or_fail, paths, name="job-7", extra_env={"TOKEN": "t"}))
    return tmp_path / "flag"


def test_an_empty_list_says_how_to_make_a_job(run):
    """Without a configuration, the jobs of this machine are meant."""
    assert run("jobs") == (0, NOTHING, "")
    assert run("jobs", "--json") == (0, "[]\n", "")


def test_jobs_are_listed(run, job):
    """One line for a job; times are short, and JSON has all."""
    code, out, _ = run("jobs")
    assert code == 0
    heading, line = out.splitlines()
    assert heading.split() == ["NAME", "AGE", "CALLS", "DONE", "FAILED", "OUTSTANDING", "WHERE"]
    assert re.fullmatch(r"job-7 +\d+s +2 +1 +1 +0  process \d+ on .+", line)
    (found,) = json.loads(run("jobs", "--json").out)
    assert (found["name"], found["total"], found["done"], found["failed"], found["outstanding"]) == (
        "job-7",
        2,
        1,
        1,
        0,
    )


def test_resume_runs_what_failed(run, job):
    """The command needs the variables, waits, and tells which calls fail again."""
    code, _, err = run("resume", "job-7")
    assert (code, "pass TOKEN again" in err) == (1, True)
    code, out, err = run("resume", "job-7", "--env", "TOKEN=u")
    assert (code, out) == (1, "job-7: 1 call of 2 started again\n")
    assert "1 call of 2 failed; the first with ValueError: no flag. To see all, use pywren.attach('job-7')" in err
    job.touch()
    code, out, err = run("resume", "job-7", "--env", "TOKEN", env={"TOKEN": "v"})
    assert (code, out, err) == (0, "job-7: 1 call of 2 started again\njob-7: all done\n", "")
    assert [future.result() for future in package.attach("job-7")] == ["t", "v"]
    assert run("resume", "job-7") == (0, "job-7: all done\n", "")


def test_resume_refuses_a_variable_that_does_not_exist(run, job):
    """A misspelt name is not an empty value."""
    code, _, err = run("resume", "job-7", "--env", "NO_SUCH_VARIABLE")
    assert (code, "--env NO_SUCH_VARIABLE: this command has no such environment variable" in err) == (2, True)


def test_cancel_and_remove(run, job):
    """Cancelling a job that has ended does nothing; removing it frees its name."""
    assert run("cancel", "job-7") == (0, "job-7: 0 calls cancelled\n", "")
    assert run("cancel", "job-7", "--remove", "--yes") == (0, "job-7: 0 calls cancelled, job deleted\n", "")
    assert run("jobs").out == NOTHING


@pytest.mark.parametrize("command", ["cancel", "resume"])
def test_an_unknown_name_is_one_line(run, job, command):
    """It suggests what was meant."""
    code, _, err = run(command, "job7")
    assert code == 1
    assert err.startswith("Error: there is no job 'job7' in ")
    assert "did you mean 'job-7'?" in err
    assert err.count("\n") == 1


def test_a_name_cannot_control_the_terminal(run):
    """Names are the user's own, but scripts may take them from elsewhere."""
    with package.dummy_executor() as executor:
        executor.map(len, [b""], name="a\x1b[31m\nb")
        executor.invoker.run_jobs()
    out = run("jobs").out
    assert out.splitlines()[1].startswith("a\\x1b[31m\\nb ")
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (119, "119s"), (121, "2m"), (7199, "119m"), (7200, "2h"), (172_800, "2d"), (10**7, "115d")],
)
def test_ages_are_short(seconds, text):
    """Two digits or three, and a unit."""
    assert _age(seconds) == text


def test_resume_tells_of_calls_that_have_ended_already(run, job, monkeypatch):
    """A call that fails again before the command looks is not taken for one that was done."""
    resume = jobs.resume

    def slowly(*arguments, **options):
        futures = resume(*arguments, **options)
        package.wait(futures)
        return futures

    monkeypatch.setattr(jobs, "resume", slowly)
    code, out, err = run("resume", "job-7", "--env", "TOKEN=u")
    assert (code, out) == (1, "job-7: 1 call of 2 started again\n")
    assert "1 call of 2 failed" in err


def speaks(x):
    import sys

    print("out", x)
    print("err", x, file=sys.stderr)


def test_logs_of_a_job(run):
    """What its calls have printed, each line with its call; or one call only."""
    with package.local_executor() as executor:
        futures = executor.map(speaks, [1, 2], name="job-8")
        package.wait(futures)
    label = f"[{futures[0].callset_id[:8]}/"
    assert run("logs", "job-8") == (
        0,
        f"{label}00000] out 1\n{label}00001] out 2\n",
        f"{label}00000] err 1\n{label}00001] err 2\n",
    )
    assert run("logs", "job-8", "1", "--follow") == (0, f"{label}00001] out 2\n", f"{label}00001] err 2\n")


def test_logs_of_calls_that_run(run):
    """Without ``--follow`` the command says how many have not ended; with it, it prints them as they end."""
    with package.local_executor() as executor:
        (future,) = executor.map(callees.later, ["x"], name="job-9")
        assert run("logs", "job-9").err.endswith("1 call of job-9 not ended yet: --follow waits\n")
        assert run("logs", "job-9", "--follow") == (0, "", "")
        assert future.result(60) == "x"


def test_logs_of_what_is_not_there(run):
    """A job or a call that does not exist is an error."""
    with package.local_executor() as executor:
        package.wait(executor.map(abs, [1], name="job-10"))
    assert "job-11" in run("logs", "job-11").err
    code, _, err = run("logs", "job-10", "1")
    assert (code, "job-10 has 1 call, numbered from 0: there is no call 1" in err) == (2, True)
