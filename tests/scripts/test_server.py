"""``pywren-server`` and ``python -m pywren.worker.standalone``: their command lines, and real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from command_line import runner

import pywren
from pywren.scripts.standalone import server
from pywren.worker.standalone.__main__ import main
from pywren.worker.standalone.server import Settings

ROOT = Path(pywren.__file__).parent.parent
WAIT = 60.0


@pytest.fixture
def no_account(monkeypatch):
    """Set useless credentials, and leave logging unchanged."""
    monkeypatch.setenv("PYWREN_LOGLEVEL", "INFO")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--parallelism", "0"], "--parallelism"),
        (["--queue_receive_message_timeout", "21"], "1<=x<=20"),
        (["--max-idle-time", "soon"], "'soon' is not a valid float"),
        (["--idle_terminate_granularity", "nan"], "nan is not a finite number"),
        (["--colour"], "No such option"),
        (["more"], "unexpected extra argument"),
    ],
)
def test_a_wrong_command_line_is_told(arguments, said):
    """A wrong command line prints the usage, with exit code 2."""
    done = runner().invoke(server, arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_help():
    """Every option of 0.4 exists, in both spellings."""
    said = runner().invoke(server, ["--help"]).stdout
    for name in ("max_run_time", "max_life_time", "run_dir", "aws_region", "sqs_queue_name", "max_idle_time"):
        assert f"--{name}" in said
        assert f"--{name.replace('_', '-')}" in said


def test_a_directory_that_cannot_be_made(no_account, tmp_path):
    """The error is one line, with exit code 1."""
    (tmp_path / "file").touch()
    done = runner().invoke(server, ["--run_dir", str(tmp_path / "file" / "below")])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == f"Error: cannot make the directory {tmp_path / 'file' / 'below'}: Not a directory\n"


NOWHERE = ["--sqs_queue_name", "nowhere"]


def check_missing_queue(line):
    """Check that the line has the queue and the remedy."""
    assert line.startswith("Error: cannot find the queue nowhere: ")
    assert "`pywren create_queue`" in line


@pytest.mark.moto
def test_a_missing_queue_is_told(no_account):
    """The error is one line with the remedy, with exit code 1."""
    import moto

    with moto.mock_aws():
        done = runner().invoke(server, NOWHERE)
    assert (done.exit_code, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    check_missing_queue(line)


# -- the entry of instances ----------------------------------------------------------------------------------


@pytest.mark.moto
def test_an_instance_tells_the_same(no_account):
    """On an instance too, which has no click, an error is one line with exit code 1."""
    import moto

    with moto.mock_aws(), pytest.raises(SystemExit) as ended:
        main(NOWHERE)
    check_missing_queue(ended.value.code)


@pytest.mark.parametrize("arguments", [["--parallelism", "two"], ["--colour"], ["more"]])
def test_a_wrong_command_line_of_an_instance(arguments, capsys):
    """A wrong command line prints the usage, with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: python -m pywren.worker.standalone" in capsys.readouterr().err


def test_both_entries_have_the_same_options(monkeypatch):
    """Each setting is an option of both, with the same default."""
    served = []
    monkeypatch.setattr("pywren.worker.standalone.__main__.serve", served.append)
    monkeypatch.setattr("pywren.scripts.standalone.serve", served.append)
    line = ["--max_idle_time", "7.5", "--parallelism", "3", "--run_dir", "runs", "--sqs_queue_name", "q"]
    for arguments in ([], line):
        main(arguments)
        assert runner().invoke(server, arguments).exit_code == 0
    assert served[:2] == [Settings(), Settings()]
    assert served[2:] == [Settings(max_idle_time=7.5, parallelism=3, run_dir="runs", sqs_queue_name="q")] * 2


def test_an_instance_needs_no_click():
    """The bundle has no click, and instances do not install it."""
    program = "import sys; sys.modules['click'] = None; sys.argv[1:] = ['--help']; import runpy; "
    run = f"{program}runpy.run_module('pywren.worker.standalone', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--max_run_time" in done.stdout


# -- real processes ------------------------------------------------------------------------------------------


def runs(process):
    """Return whether a process runs; a killed one may remain as a zombie."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.fixture(scope="module")
def config(emulator):
    """Return the configuration of a queue of the emulated AWS; nothing else takes its calls."""
    return emulator.deploy()


@pytest.fixture
def executor(config, emulator):
    """Return an executor whose calls go to the queue."""
    made = pywren.remote_executor(config)
    yield made
    made.close()
    made.invoker.close()
    made.storage.close()


@pytest.fixture
def start(config, tmp_path):
    """Start servers with only the variables that lead to AWS, as instances or as people do."""
    started = []

    def start(*options, module="worker.standalone"):
        keep = {"PATH", "HOME", "TMPDIR", "PYTHONPYCACHEPREFIX", "SUITE_OF_TESTS"}
        environment = {name: value for name, value in os.environ.items() if name in keep or name.startswith("AWS_")}
        queue = config["standalone"]["sqs_queue_name"]
        command = [sys.executable, "-m", f"pywren.{module}", "--sqs_queue_name", queue, *options]
        process = subprocess.Popen(
            [*command, "--queue_receive_message_timeout", "1"],
            env={**environment, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            start_new_session=True,
            stdout=subprocess.DEVNULL,  # what calls print
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        if not process.stderr.closed:
            print(process.communicate()[1], file=sys.stderr)  # if a test fails, show its servers' output


@pytest.mark.parametrize("module", ["worker.standalone", "scripts.standalone"])
def test_a_map_on_a_server(executor, start, tmp_path, module):
    """Values, output and errors come back; calls run concurrently, below the given directory; then the server ends."""
    (tmp_path / "met").mkdir()

    def function(number):
        """Wait for the other call, then return where this one runs."""
        (tmp_path / "met" / str(number)).touch()
        while len(list((tmp_path / "met").iterdir())) < 2:
            threading.Event().wait(0.01)
        print("number", number)
        return 1 // number, os.getcwd(), os.getppid()

    futures = executor.map(function, range(2))  # before the server starts, which would soon end without calls
    options = ["--parallelism", "2", "--max_idle_time", "1", "--run_dir", str(tmp_path / "runs")]
    server = start(*options, module=module)
    value, directory, _ = futures[1].result(WAIT)
    assert value == 1
    assert directory.startswith(str(tmp_path / "runs"))
    assert futures[1].run_status["stdout"] == "number 1\n"
    assert isinstance(futures[0].exception(WAIT), ZeroDivisionError)
    _, log = server.communicate(timeout=WAIT)
    assert server.returncode == 0
    assert "taking calls from the queue" in log
    assert "[INFO] pywren.worker.standalone.server: calls taken: 2" in log
    assert list((tmp_path / "runs").iterdir()) == []


def as_systemd_does(server, below):
    """Send SIGTERM to every process, the server last, as systemd may."""
    for process in (*below, psutil.Process(server.pid)):
        process.terminate()


def as_a_terminal_does(server, below):
    """Send SIGINT to the server's process group, as Ctrl-C does."""
    os.killpg(server.pid, signal.SIGINT)


@pytest.mark.parametrize("end", [as_systemd_does, as_a_terminal_does])
def test_a_call_moves_to_another_server(executor, start, tmp_path, end):
    """Rows 178, 179: a server that gets a signal returns its call to the queue at once, and exits with 0."""

    def function(path):
        """Run forever, unless it has run before."""
        if Path(path).exists():
            return "by another server"
        Path(path).write_text("running")
        threading.Event().wait()
        return "never"

    first = start()
    future = executor.call_async(function, str(tmp_path / "started"))
    deadline = time.monotonic() + WAIT
    while not (tmp_path / "started").exists():
        assert first.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    below = psutil.Process(first.pid).children(recursive=True)
    end(first, below)
    _, log = first.communicate(timeout=WAIT)
    assert (first.returncode, "given back to the queue: 1\n" in log) == (0, True), log
    assert not [process for process in below if runs(process)]
    second = start()
    assert future.result(WAIT) == "by another server"
    second.terminate()
    second.communicate(timeout=WAIT)
    assert second.returncode == 0
