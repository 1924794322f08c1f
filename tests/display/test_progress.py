"""The bar of a wait, and the line that it logs: who sees them, what they say, and that they hurt nothing."""

from __future__ import annotations

import io
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import pywren
from pywren.client import call_state, waiting
from pywren.client.callset import Callset
from pywren.client.driver.driver import Driver
from pywren.client.driver.policy import Policy
from pywren.client.driver.record import Counts
from pywren.client.invoking import Invocations
from pywren.client.protocols import Invoker
from pywren.client.verdict import Verdict
from pywren.display import progress as bars
from pywren.display.progress import Invoking, Progress
from pywren.exceptions import ArgumentError, ConfigError, StorageError
from pywren.future import ResponseFuture, new_futures

ROOT = Path(__file__).parents[2]


class Terminal(io.StringIO):
    """A stderr that a person looks at."""

    def isatty(self) -> bool:
        return True


class Broken(Terminal):
    """A stderr whose reader is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError("the reader is gone")


class Origin:
    """An origin whose futures end when the test says so."""

    storage_path = ["localhost", "nowhere", "prefix"]

    def __init__(self, callset_id: str = "12345678-a-callset", counts: Counts | None = None) -> None:
        self.callset = Callset("prefix", callset_id)
        self._counts = counts

    def futures(self, count: int) -> list[ResponseFuture]:
        return new_futures(self, [f"{number:05d}" for number in range(count)])

    def take(self, futures):
        pass

    def expect(self, futures):
        pass

    def outstanding(self):
        return []

    def withdraw(self, *, record=False):
        return 0

    def counts(self):
        return self._counts


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def settle(futures, error=None):
    call_state.settle([(one, Verdict(1, error)) for one in futures])


def set_stderr(monkeypatch: pytest.MonkeyPatch, stderr: object) -> None:
    """Replace the stderr that bars are drawn on; pytest itself replaces ``sys.stderr`` after the fixtures."""
    monkeypatch.setattr(bars, "sys", SimpleNamespace(stderr=stderr, modules=sys.modules))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make stderr a terminal, and this no continuous integration."""
    found = Terminal()
    set_stderr(monkeypatch, found)
    monkeypatch.delenv("CI", raising=False)
    return found


def show(futures, progress="auto", seconds=1.0, clock=None):
    """Begin a wait, and look once after some seconds. Return the ``Progress``."""
    clock = clock or Clock()
    found = Progress(futures, progress, clock)
    found.begin(sum(not call_state.is_done(one) for one in futures))
    clock.now += seconds
    found.look()
    return found


# -- what it says ----------------------------------------------------------------------------------------------------


def test_the_bar_says_what_is_done_failed_running_and_retried(terminal):
    """It shows how many calls are done of how many, and the rest in words."""
    futures = Origin(counts=Counts(20, 3, 0, 0, 0, 0, 0, retried=2)).futures(20)
    settle(futures[:4])
    settle(futures[4:5], ValueError())
    for one in futures[5:9]:
        call_state.mark_running(one)
    found = show(futures)
    assert " 25%|" in terminal.getvalue()
    assert "| 5/20 calls [00:01<" in terminal.getvalue()
    assert ", 1 failed, 4 running, 2 retried, 3 not invoked]" in terminal.getvalue()
    found.end()


def test_the_bar_says_how_much_time_is_left(terminal):
    """The time left is derived from the calls that have ended during the wait, not from those that were done before."""
    futures, clock = Origin().futures(100), Clock()
    settle(futures[:50])
    found = Progress(futures, True, clock)
    found.begin(50)
    settle(futures[50:60])
    found._bar._bar.start_t -= 10  # ten seconds ago
    found.look()
    assert "60/100 calls [00:10<00:40]" in terminal.getvalue()
    found.end()


def test_a_bar_that_is_complete_stays_on_the_terminal(terminal):
    """When all calls are done, the bar is left with a new line after it."""
    futures = Origin().futures(2)
    found = show(futures)
    settle(futures)
    found.end()
    assert "100%|" in terminal.getvalue()
    assert terminal.getvalue().endswith("\n")


def test_a_bar_that_is_not_complete_is_removed(terminal):
    """A program that waits for some seconds again and again does not fill the screen."""
    found = show(Origin().futures(2))
    found.end()
    assert "\n" not in terminal.getvalue()
    assert terminal.getvalue().rstrip("\r").endswith(" ")


def test_the_log_says_the_same_in_words_every_ten_seconds(caplog):
    """At INFO a line names the callset, the counts and the time left, whether or not there is a bar."""
    caplog.set_level(logging.INFO, "pywren")
    futures, clock = Origin().futures(40), Clock()
    found = Progress(futures, False, clock)
    assert found.begin(40) >= 1.0
    settle(futures[:9])
    settle(futures[9:10], ValueError())
    for _ in range(20):
        clock.now += 1.0
        found.look()
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "callset 12345678: 10 of 40 calls have ended, 1 failed, about 30 s left",
        "callset 12345678: 10 of 40 calls have ended, 1 failed, about 1 min 0 s left",
    ]


def test_a_line_of_the_log_does_not_tear_the_bar(terminal, caplog):
    """The bar is removed before the line is written, and drawn again afterwards."""
    caplog.set_level(logging.INFO, "pywren")
    futures, clock = Origin().futures(2), Clock()
    found = show(futures, clock=clock)
    clock.now += 10
    found.look()
    cleared = terminal.getvalue()
    assert cleared.endswith("\r")
    assert cleared[:-1].rpartition("\r")[2].strip() == ""
    found.look()
    assert terminal.getvalue().rstrip().endswith("]")
    found.end()


def test_the_line_of_another_thread_does_not_tear_the_bar_either(terminal, caplog):
    """A wait that shows no bar of its own removes that of the other before it logs."""
    caplog.set_level(logging.INFO, "pywren")
    shown, clock = show(Origin("1").futures(2)), Clock()
    other = show(Origin("2").futures(3), clock=clock)
    clock.now += 10
    other.look()
    assert [record.getMessage() for record in caplog.records] == ["callset 2: 0 of 3 calls have ended"]
    assert terminal.getvalue().rstrip("\r").rpartition("\r")[2].strip() == ""
    shown.end()
    other.end()


def test_a_hundred_thousand_calls_are_counted_in_a_small_share_of_the_time(terminal):
    """The next look comes the later the longer a look takes."""

    class Slow(Clock):
        def __call__(self) -> float:
            self.now += 0.1
            return self.now

    found = Progress(Origin().futures(3), True, Slow())
    found.begin(3)
    assert found.look() >= 2.0
    found.end()


# -- whether it is shown ---------------------------------------------------------------------------------------------


def test_nothing_is_shown_in_the_first_second(terminal):
    """The first look of ``"auto"`` comes after a second."""
    futures = Origin().futures(2)
    assert Progress(futures, "auto", Clock()).begin(2) == 1.0
    pywren.wait(futures, timeout=0.01)
    assert terminal.getvalue() == ""


@pytest.mark.parametrize("variable", ["1", "true", "yes"])
def test_nothing_is_shown_in_continuous_integration(terminal, monkeypatch, variable):
    """``CI`` turns ``"auto"`` off, even if stderr is a terminal."""
    monkeypatch.setenv("CI", variable)
    show(Origin().futures(2)).end()
    assert terminal.getvalue() == ""


def test_nothing_is_shown_in_a_pipe(monkeypatch):
    """``"auto"`` shows a bar only on a terminal."""
    pipe = io.StringIO()
    set_stderr(monkeypatch, pipe)
    monkeypatch.delenv("CI", raising=False)
    show(Origin().futures(2)).end()
    assert pipe.getvalue() == ""


def test_true_shows_a_bar_always(monkeypatch):
    """True shows a bar at once, in pipes and CI too, and even if there was nothing to wait for."""
    pipe = io.StringIO()
    set_stderr(monkeypatch, pipe)
    monkeypatch.setenv("CI", "true")
    futures = Origin().futures(2)
    pywren.wait(futures, timeout=0.01, progress=True)
    assert "0/2 calls" in pipe.getvalue()
    settle(futures)
    assert pywren.get_all_results(futures, progress=True) == [1, 1]
    assert "2/2 calls" in pipe.getvalue()


CHOICES = [  # of the wait, of the map, of the environment; whether a bar is shown on a terminal, and whether in a pipe
    ("auto", "auto", "", True, False),
    ("auto", "auto", "auto", True, False),
    ("auto", "auto", "0", False, False),
    ("auto", "auto", "off", False, False),
    ("auto", "auto", "YES", True, True),
    ("auto", False, "1", False, False),
    ("auto", True, "0", True, True),
    (True, False, "0", True, True),
    (False, True, "1", False, False),
    ("auto", "auto", "sometimes", True, False),
]


@pytest.mark.parametrize(("of_wait", "of_map", "variable", "on_terminal", "in_pipe"), CHOICES)
def test_the_nearest_choice_counts(terminal, monkeypatch, of_wait, of_map, variable, on_terminal, in_pipe):
    """The argument of the wait comes before that of the map, and that before the environment."""
    monkeypatch.setenv("PYWREN_PROGRESS", variable)
    for stderr, wanted in ((terminal, on_terminal), (io.StringIO(), in_pipe)):
        set_stderr(monkeypatch, stderr)
        origin = Origin()
        origin.callset.progress = of_map
        found = show(origin.futures(2), of_wait)
        assert bool(stderr.getvalue()) == wanted
        found.end()


def test_one_map_that_wants_a_bar_is_enough(terminal):
    """A wait for calls of several maps is silent only if none of them wants a bar."""
    first, second = Origin("1"), Origin("2")
    first.callset.progress, second.callset.progress = False, "auto"
    found = show([*first.futures(1), *second.futures(1)])
    assert "0/2" in terminal.getvalue()
    found.end()


@pytest.mark.parametrize("wrong", ["always", None, 1, 0.5, [], "True"])
def test_another_value_is_refused_at_once(wrong):
    """The error names the three values."""
    with pytest.raises(ArgumentError, match=r"progress is .*; it must be True, False or 'auto'"):
        pywren.wait([], pywren.ALWAYS, progress=wrong)
    with pywren.local_executor() as executor, pytest.raises(ArgumentError, match="True, False or 'auto'"):
        executor.map(abs, [1], progress=wrong)


def test_a_wrong_variable_is_refused_when_an_executor_is_made(monkeypatch):
    """The error names the variable and its values."""
    monkeypatch.setenv("PYWREN_PROGRESS", "sometimes")
    with pytest.raises(ConfigError, match="PYWREN_PROGRESS is 'sometimes': set it to 1, 0 or auto"):
        pywren.local_executor()


def test_the_configuration_and_the_map_decide_for_the_calls():
    """``scheduler.progress`` is the default of maps; futures that leave the process take no choice along."""
    with pywren.local_executor(config={"storage_backend": "localhost", "scheduler": {"progress": False}}) as executor:
        silent, shown = executor.map(abs, [1]), executor.map(abs, [1], progress=True)
        assert executor.call_async(abs, 1)._origin.callset.progress is False
    assert (silent[0]._origin.callset.progress, shown[0]._origin.callset.progress) == (False, True)
    assert pickle.loads(pickle.dumps(silent[0]._origin.callset)).progress == "auto"


def test_a_wrong_value_in_the_configuration_is_refused():
    """The error names the key."""
    with pytest.raises(ConfigError, match=r"`scheduler: progress` is 'always'; it must be true, false or auto"):
        pywren.wrenconfig.validate({"storage_backend": "localhost", "scheduler": {"progress": "always"}})


# -- one bar at a time -----------------------------------------------------------------------------------------------


def test_there_is_one_bar_and_the_next_wait_takes_over(terminal):
    """While one wait shows its bar, others show none; when it ends, the next does."""
    first, second = show(Origin().futures(3)), show(Origin().futures(5))
    assert "0/3 calls" in terminal.getvalue()
    assert "0/5 calls" not in terminal.getvalue()
    first.end()
    second.look()
    assert "0/5 calls" in terminal.getvalue()
    second.end()


def test_a_bar_of_the_programs_own_stays_in_its_place(terminal):
    """Inside the program's own tqdm loop, a wait's bar is below that of the loop, and is removed at its end."""
    from tqdm import tqdm

    class Quiet(tqdm):
        monitor_interval = 0  # its thread would be left behind

    with Quiet(total=10, file=terminal):
        found = show(futures := Origin().futures(3))
        settle(futures)
        found.end()
        assert "3/3 calls" in terminal.getvalue()
        shown = terminal.getvalue().rpartition("3/3 calls")[2]
        assert shown.endswith("\x1b[A")  # back to the line of the loop's bar


def test_a_bar_that_was_never_closed_is_in_nobodys_way(terminal):
    """A Ctrl-C may come between any two lines, also those that close a bar."""
    show(Origin().futures(3))  # dropped
    second = show(Origin().futures(5))
    assert "0/5 calls" in terminal.getvalue()
    second.end()


def test_several_threads_wait_with_one_bar(terminal):
    """Each wait ends when its calls have ended, and one bar is drawn at a time."""
    groups = [Origin(str(number)).futures(4) for number in range(4)]
    threads = [threading.Thread(target=pywren.wait, args=(one,), kwargs={"progress": True}) for one in groups]
    for thread in threads:
        thread.start()
    for futures in reversed(groups):
        settle(futures)
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert bars._owner is None


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_the_bar_of_the_parent_is_not_in_the_way_of_a_forked_child(terminal):
    """A forked child may show a bar of its own."""
    found = show(Origin().futures(3))
    child = os.fork()
    if child == 0:
        mine = show(Origin().futures(5))
        os._exit(0 if "0/5 calls" in terminal.getvalue() and mine is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    found.end()


# -- while map invokes -----------------------------------------------------------------------------------------------


class Slow(Invoker):
    """An invoker that takes a moment for each call."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def invoke(self, payload):
        self.clock.now += 0.5


def invoke(progress) -> None:
    """Invoke six calls as ``map`` does, half a second each."""
    clock, origin = Clock(), Origin()
    origin.callset.progress = progress
    futures = origin.futures(6)
    driver = Driver([one.call_id for one in futures], Policy(), clock=clock)
    origin.counts = driver.counts
    invocations = Invocations(
        driver, Slow(clock), payload=lambda ready: {}, now=clock, refused=print, note=lambda *_: None,
        callset_id="c", threads=1, clock=clock,
    )  # fmt: skip
    with Invoking(futures, origin.callset.progress, clock) as watcher:
        invocations.run(watcher)


def test_map_shows_how_many_calls_are_invoked(terminal):
    """Its bar is drawn by the thread that calls ``map``, and is gone when the calls are invoked."""
    invoke("auto")
    text = terminal.getvalue()
    assert "2/6 calls invoked [00:01<" in text
    assert "5/6 calls invoked [00:01<" in text
    assert "\n" not in text
    assert text.rpartition("\r")[0].rpartition("\r")[2].strip() == ""


def test_a_map_that_says_false_is_silent(terminal):
    """Nothing is drawn while it invokes, either."""
    invoke(False)
    assert terminal.getvalue() == ""


def test_a_map_that_is_refused_removes_its_bar(terminal):
    """The error of the service is not torn by a bar."""

    class Refusing(Slow):
        def invoke(self, payload):
            raise ValueError("no")

        may_repeat = False

    pwex = pywren.local_executor(Refusing(Clock()), config={"storage_backend": "localhost"})
    with pytest.raises(ValueError, match="no"):
        pwex.map(abs, range(6), progress=True)
    assert bars._owner is None
    assert "calls invoked" in terminal.getvalue()


# -- it hurts nothing ------------------------------------------------------------------------------------------------


def _closed() -> Terminal:
    stderr = Terminal()
    stderr.close()
    return stderr


@pytest.mark.parametrize("stderr", [None, _closed(), Broken(), object()], ids=["none", "closed", "broken", "object"])
@pytest.mark.parametrize("progress", ["auto", True])
def test_a_broken_stderr_does_not_hurt_a_wait(monkeypatch, stderr, progress):
    """The wait goes on without a bar, and the next one may try again."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(bars, "FIRST_LOOK", 0.01)
    futures = Origin().futures(2)
    timer = threading.Timer(0.1, settle, (futures,))
    timer.start()
    set_stderr(monkeypatch, stderr)
    done, _ = pywren.wait(futures, progress=progress)
    monkeypatch.undo()
    timer.join()
    assert done == futures
    assert bars._owner is None


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_broken_stderr_does_not_hold_up_the_bars_of_other_threads(terminal, monkeypatch, fails_at):
    """Wherever it fails, the lock that all bars of tqdm share is free afterwards."""
    from tqdm.auto import tqdm

    found = Progress(Origin().futures(2), True)
    if fails_at == 1:
        set_stderr(monkeypatch, Broken())
    found.begin(2)
    if fails_at == 2:
        monkeypatch.setattr(terminal, "write", Broken().write)
        found.look()
    if fails_at == 3:
        monkeypatch.setattr(terminal, "write", Broken().write)
        bars._clear_bar()
    found.end()
    acquired = []

    def draw_another() -> None:
        lock = tqdm.get_lock().locks[-1]
        acquired.append(lock.acquire(timeout=60))
        if acquired[0]:
            lock.release()

    thread = threading.Thread(target=draw_another)
    thread.start()
    thread.join()
    assert acquired == [True]


def test_a_worker_without_tqdm_waits_without_a_bar(terminal, monkeypatch):
    """The bundle of a Lambda function does not carry tqdm."""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    found = show(Origin().futures(2), True)
    found.end()
    assert terminal.getvalue() == ""


def test_an_error_closes_the_bar(terminal, monkeypatch):
    """The bar is gone when the error of a wait is raised."""
    monkeypatch.setattr(bars, "FIRST_LOOK", 0.0)
    futures = Origin().futures(2)
    began = threading.Event()
    monkeypatch.setattr(Progress, "look", lambda self, look=Progress.look: (look(self), began.set())[0])

    def fail():
        began.wait(60)
        waiting.report_trouble(futures, StorageError("no network"), time.monotonic())

    thread = threading.Thread(target=fail)
    thread.start()
    with pytest.raises(StorageError, match="no network"):
        pywren.wait(futures)
    thread.join()
    assert bars._owner is None
    assert "0/2 calls" in terminal.getvalue()


def test_tqdm_starts_no_thread_of_its_own(terminal):
    """tqdm's monitor, a thread that never ends, is not needed."""
    before = set(threading.enumerate())
    found = show(Origin().futures(2))
    assert set(threading.enumerate()) == before
    found.end()


def test_tqdm_is_imported_only_when_a_bar_is_shown():
    """A program whose waits are short, or that nobody looks at, never loads tqdm."""
    program = (
        "import pywren, sys, time\n"
        "with pywren.local_executor() as executor:\n"
        "    pywren.get_all_results(executor.map(abs, [1]))\n"
        "    pywren.wait(executor.map(time.sleep, [1.2]))\n"
        "    assert 'tqdm' not in sys.modules\n"
        "    pywren.wait(executor.map(abs, [1]), progress=True)\n"
        "    assert 'tqdm' in sys.modules\n"
    )
    finished = _run(program)
    assert finished.returncode == 0, finished.stderr
    assert "1/1 calls" in finished.stderr


def _run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


CTRL_C = """
import pywren, sys, threading, time
with pywren.local_executor() as executor:
    futures = executor.map(time.sleep, [100] * 30)
    pywren.wait(futures, progress=True)
"""


@pytest.mark.slow
def test_ctrl_c_removes_the_bar_before_it_says_what_runs():
    """The line of the interrupted wait is not torn, and the program ends."""
    program = subprocess.Popen(
        [sys.executable, "-c", CTRL_C],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYWREN_LOCAL_PROCESSES": "2"},
        stderr=subprocess.PIPE,
        text=True,
    )
    seen = ""
    while "running" not in seen:
        seen += program.stderr.read(1)
    program.send_signal(signal.SIGINT)
    _, rest = program.communicate(timeout=60)
    line = next(one for one in rest.replace("\r", "\n").splitlines() if "stopped waiting" in one)
    # How many had begun depends on how fast the processes have started: none, one or two.
    assert re.match("stopped waiting; (28|29|30) calls that were still waiting on this machine were cancelled", line)
    assert "KeyboardInterrupt" in rest
