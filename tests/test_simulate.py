"""The simulated AWS: it reproduces published runs, loses nothing, and is the same every time."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.simulated.client import Report, Scenario, World, run
from benchmarks.simulated.functions import Service
from benchmarks.simulated.published import LEAN, LITHOPS, PYWREN, Published, lambda_today
from benchmarks.simulated.state import state
from benchmarks.simulated.storage import PAGE, Objects, Requests
from benchmarks.simulated.threads import Condition, Lock, Stuck, Thread, VirtualTime
from pywren.exceptions import IntegrityError, StorageNoSuchKeyError

ROOT = Path(__file__).parent.parent
AT_ONCE = Requests(0.0, 0.0, 0.0, 0.0, 0.01, 0.02, 0.03, 0.02)


def second(rng: random.Random, index: int) -> float:
    return 1.0


def quick(rng: random.Random, index: int) -> float:
    return 0.01


# -- published runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("published", "seeds"), [(PYWREN, 1), (LITHOPS, 3)], ids=["PyWren", "Lithops"])
@pytest.mark.thorough
def test_a_published_run_is_reproduced_within_a_fifth(published: Published, seeds: int) -> None:
    """What was published of the run comes out of the simulation, too."""
    reports = [run(replace(published.scenario, seed=seed)) for seed in range(seeds)]
    for check in published.checks:
        found = statistics.median(check.of(report) for report in reports)
        assert found == pytest.approx(check.published, rel=0.2), check.what
    for report in reports:
        assert report.right == report.items
        assert report.repeats == 0


# -- invariants --------------------------------------------------------------------------------------------------------


def test_a_healthy_map_invokes_each_item_once() -> None:
    """Each item has one invocation, one run, and one status that is read once."""
    report = run(Scenario(300, Service(duration=second), AT_ONCE))
    assert report.right == report.items == 300
    assert report.usage.invocations == 300
    assert dict(report.runs) == {1: 300}
    assert report.sent["get"] == report.sent["invoke"] == 300


def test_a_map_in_trouble_brings_every_value() -> None:
    """Events that are lost, doubled or refused, and workers that are taken away, cost attempts, and no item."""
    service = Service(
        concurrency=50, dropped=0.01, doubled=0.01, killed=0.02, records=0.5, throttled=0.05, duration=second
    )
    report = run(Scenario(400, service, AT_ONCE, seed=1))
    assert report.right == report.items == 400
    assert report.repeats > 0
    assert sum(report.runs.values()) == 400  # each call was started
    assert report.most_busy <= 50


def test_calls_of_chunks_share_invocations_and_pages() -> None:
    """30 chunks of 10 cost 30 invocations, a plan and a page for each; the real handler runs each call once."""
    report = run(Scenario(300, Service(duration=quick), AT_ONCE, chunksize=10))
    assert report.right == report.items == 300
    assert report.usage.invocations == report.sent["invoke"] == 30
    assert dict(report.runs) == {1: 300}
    assert report.sent["put"] == 1 + 30
    assert report.sent["get"] == 30
    assert report.repeats == 0


def test_a_chunk_that_takes_longer_shows_its_first_results() -> None:
    """A page comes a second after the first outcome that it has, so results are known while the chunk goes on."""
    report = run(Scenario(10, Service(duration=second), AT_ONCE, chunksize=10))
    assert report.right == 10
    assert report.curves["ended"][0] < 5.0 < 10.0 < report.wall < 14.0


def test_chunks_in_trouble_bring_every_value() -> None:
    """Workers that die in a chunk, events that are lost or doubled, cost attempts, and no item."""
    service = Service(
        concurrency=20, dropped=0.05, doubled=0.05, killed=0.02, records=0.5, throttled=0.05, duration=quick
    )
    report = run(Scenario(400, service, AT_ONCE, chunksize=10, seed=1))
    assert report.right == report.items == 400
    assert report.repeats > 0
    assert sum(report.runs.values()) == 400
    assert report.most_busy <= 20


def test_workers_compute_elsewhere() -> None:
    """What the handler of a worker computes is not counted, and its requests are not among the client's."""
    report = run(Scenario(100, Service(duration=quick), replace(AT_ONCE, get_cpu=0.5, put_cpu=0.5), chunksize=10))
    assert report.spent == pytest.approx(0.5 * (report.sent["get"] + report.sent["put"] + report.sent["list"]))
    assert report.usage.puts == report.sent["put"] + report.sent["list"] + 10  # a page of each chunk
    assert report.usage.gets == report.sent["get"] + 10  # each environment reads the function


@pytest.mark.parametrize("chunksize", [1, 10])
def test_a_simulation_is_the_same_every_time(chunksize: int) -> None:
    """Chance begins at the seed, and threads run in the same order, so every figure that is not measured is equal."""

    def figures(report: Report) -> tuple[object, ...]:
        return report._replace(computed=0.0, seconds=0.0)

    scenario = Scenario(200, lambda_today(second, dropped=0.01), LEAN, chunksize=chunksize, seed=7)
    assert figures(run(scenario)) == figures(run(scenario))
    assert figures(run(scenario)) != figures(run(replace(scenario, seed=8)))


def test_the_ramp_bounds_how_many_environments_start() -> None:
    """A function gains ``scaling`` environments in 10 s, so 300 calls that last take over 20 s to start."""
    service = Service(scaling=100, concurrency=300, backs_off=False, duration=lambda rng, index: 60.0)
    report = run(Scenario(300, service, AT_ONCE))
    within_ten_seconds = sum(began < 10.0 for began in report.curves["began"])
    assert within_ten_seconds == 100
    assert 20.0 < report.started < 23.0


def test_what_the_client_computes_delays_what_it_sends() -> None:
    """Requests that take 10 ms of CPU time each leave one after the other, whatever the number of threads."""
    report = run(Scenario(100, Service(duration=second), replace(AT_ONCE, invoke_cpu=0.01)))
    assert report.spread == pytest.approx(0.99, abs=0.05)


def test_dollars_are_those_of_the_price_table() -> None:
    """100 calls of 1 s with 1,024 MB cost 100 GB-seconds, and what their requests and starts cost."""
    report = run(Scenario(100, Service(warm=100, duration=second), AT_ONCE, memory=1024))
    requests = 100 * 0.20 / 1e6 + report.usage.puts * 0.005 / 1e3 + report.usage.gets * 0.0004 / 1e3
    assert report.dollars == pytest.approx(100 * 0.0000166667 + requests)


ALONE = 1_000 if sys.version_info >= (3, 12) else 1_100  # strings and dictionaries of older versions are larger


@pytest.mark.parametrize(("chunksize", "most"), [(1, ALONE), pytest.param(100, 1_000, marks=pytest.mark.thorough)])
def test_the_client_needs_little_for_an_item(chunksize: int, most: int) -> None:
    """What the client knows of an outstanding item, besides its future, fits into a kilobyte."""
    service = lambda_today(second, concurrency=3_000, scaling=3_000)
    assert state(Scenario(1, service, LEAN, chunksize=chunksize)).besides <= most


# -- virtual time --------------------------------------------------------------------------------------------------


def in_threads(world: VirtualTime, *functions: Callable[[], object]) -> None:
    threads = [Thread(world, target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_threads_sleep_at_the_same_time() -> None:
    """Two threads that sleep for an hour end after an hour."""
    world = VirtualTime()
    in_threads(world, lambda: world.sleep(3_600.0), lambda: world.sleep(3_000.0))
    assert world.now == 3_600.0


def test_threads_compute_one_after_the_other() -> None:
    """What threads compute adds up, and what they wait for does not."""
    world = VirtualTime()
    in_threads(world, *[lambda: world.request(0.5, 10.0)] * 4)
    assert world.now == pytest.approx(12.0)
    assert world.spent == pytest.approx(2.0)


def test_the_world_goes_on_while_a_thread_computes() -> None:
    """A step of the agenda happens at its time, though a thread computes."""
    world, seen = VirtualTime(), []
    world.at(1.0, lambda: seen.append(world.now))
    world.request(5.0, 0.0)
    assert seen == [1.0]
    assert world.now == 5.0


def test_a_condition_wakes_those_that_wait_and_times_out() -> None:
    """``wait`` returns True when it is notified, and False after its timeout."""
    world, woken = VirtualTime(), []
    changed = Condition(world)

    def waits(timeout: float) -> None:
        with changed:
            woken.append((changed.wait(timeout), world.now))

    def notifies() -> None:
        world.sleep(5.0)
        with changed:
            changed.notify_all()

    in_threads(world, lambda: waits(3.0), lambda: waits(100.0), notifies)
    assert woken == [(False, 3.0), (True, 5.0)]


def test_another_thread_may_release_a_lock() -> None:
    """A lock is a gate: the thread that waits for it goes on when another one opens it."""
    world = VirtualTime()
    gate = Lock(world)
    gate.acquire()
    world.at(2.0, gate.release)
    assert gate.acquire(timeout=10.0)
    assert world.now == 2.0
    assert not gate.acquire(timeout=1.0)
    assert world.now == 3.0
    assert not gate.acquire(blocking=False)


def test_a_wait_without_end_is_an_error() -> None:
    """A simulation in which nothing can happen any more says so instead of hanging."""
    with pytest.raises(Stuck, match="nothing is left"):
        VirtualTime().wait()


def test_the_clocks_come_back() -> None:
    """After a simulation, pywren's modules have Python's own clocks and threads again."""
    import threading
    import time

    from pywren.client import invoking, monitor

    world = VirtualTime()
    with world.installed():
        assert invoking.time.monotonic() == 0.0
        assert monitor.Monitor()._clock() == 0.0
    assert invoking.time is time
    assert invoking.threading is threading
    assert monitor.Monitor()._clock is time.monotonic


# -- the simulated storage ---------------------------------------------------------------------------------------------


def test_a_listing_is_in_order_and_comes_in_pages() -> None:
    """Keys that arrive in any order are listed in order, 1,000 with each request."""
    world = VirtualTime()
    objects = Objects(world, AT_ONCE, random.Random(0))
    keys = [f"p/{index:06d}/status.json" for index in range(5 * PAGE + 1)]
    for key in random.Random(0).sample(keys, len(keys)):
        objects.write(key, b"")
    for key in ("o/1", "q/1"):
        objects.write(key, b"")
    assert objects.list("p/") == keys
    assert objects.sent["list"] == 6
    assert objects.list("p/", keys[1_234]) == keys[1_235:]
    objects.delete(keys[:10])
    assert objects.list("p/")[0] == keys[10]


def test_the_first_conditional_write_counts() -> None:
    """A second ``If-None-Match`` write changes nothing; missing and too long objects are errors."""
    objects = Objects(VirtualTime(), AT_ONCE, random.Random(0))
    assert objects.put("a", b"first", if_absent=True)
    assert not objects.put("a", b"second", if_absent=True)
    assert objects.get("a") == b"first"
    assert objects.get("a", (1, 2)) == b"ir"
    with pytest.raises(StorageNoSuchKeyError):
        objects.get("b")
    with pytest.raises(IntegrityError):
        objects.get("a", limit=4)


# -- the program -------------------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_the_program_prints_a_row_and_draws_a_picture(tmp_path: Path) -> None:
    """``scale`` prints a table and saves its rows; ``picture`` draws them."""
    program = [sys.executable, str(ROOT / "benchmarks" / "simulate.py")]
    saved, drawn = tmp_path / "rows.json", tmp_path / "scale.svg"
    scaled = subprocess.run(
        [*program, "scale", "--items", "50", "--chunksize", "10", "--save", str(saved)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert scaled.returncode == 0, scaled.stderr
    assert scaled.stdout.splitlines()[-1].startswith("| 50 | 10 | 1,000 at once | lean |")
    done = subprocess.run(
        [*program, "picture", "--save", str(saved), "--to", str(drawn)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "50 items" in drawn.read_text(encoding="utf-8")


def test_the_program_refuses_no_items() -> None:
    """A map of no items is a usage error."""
    program = [sys.executable, str(ROOT / "benchmarks" / "simulate.py"), "scale", "--items", "0"]
    refused = subprocess.run(program, capture_output=True, text=True, timeout=60)
    assert refused.returncode == 2
    assert "not a positive number" in refused.stderr


def test_only_the_client_is_real() -> None:
    """The simulated invoker checks and encodes payloads as the real one does."""
    world = World(Scenario(1, Service(), AT_ONCE))
    with world.installed():
        executor = world.executor()
        assert executor.invoker.function_name == "simulated"
        (future,) = world.map(executor)
        assert future.result() == 0
        status = future.run_status
        world.world.end()
    assert status["log_group_name"] == "/aws/lambda/simulated"
    assert status["status_key"].endswith("/00000/status.json")
    assert status["end_time"] - status["start_time"] == pytest.approx(status["exec_time"])
