"""pywren with other libraries, as docs/integrations.md shows it, and with the libraries themselves."""

from __future__ import annotations

import asyncio
import concurrent.futures
import operator
import os
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import callees
import dask
import dask.bag
import executors
import numpy as np
import pandas as pd
import pytest
from callees import add_one, fail_at, later, square
from scipy.optimize import differential_evolution, rosen
from tqdm.auto import tqdm

import pywren


@pytest.fixture(scope="module")
def executor(tmp_path_factory):
    """Return an executor of this machine."""
    with executors.make("local", tmp_path_factory.mktemp("home")) as made:
        yield made.executor


@pytest.fixture
def pool(executor):
    """Return a pool over the executor."""
    with pywren.PoolExecutor(executor) as made:
        yield made


# -- Dask ------------------------------------------------------------------------------------------------------


@pytest.fixture
def graph():
    """Return the sum of squares that depend on one another as a tree."""
    squares = [dask.delayed(square)(x) for x in range(8)]
    while len(squares) > 1:
        squares = [dask.delayed(operator.add)(*pair) for pair in zip(squares[::2], squares[1::2], strict=True)]
    return squares[0]


def test_dask_with_a_scheduler(pool, graph):
    """A pool is a scheduler for one computation, and a bag's functions run on workers."""
    assert graph.compute(scheduler=pool) == 140
    bag = dask.bag.from_sequence(range(20), npartitions=4)
    assert bag.map(add_one).filter(lambda x: x % 2).sum().compute(scheduler=pool) == 100


def test_dask_with_a_pool(pool, graph):
    """``pool`` in Dask's configuration serves Dask's own scheduler."""
    with dask.config.set(pool=pool, scheduler="threads"):
        assert graph.compute() == 140


def test_dask_with_a_pool_in_place_of_processes(pool):
    """Dask pickles the tasks of this scheduler itself, so their functions are those that workers can import."""
    squares = [dask.delayed(operator.mul)(x, x) for x in range(8)]
    with dask.config.set(pool=pool, scheduler="processes"):
        assert dask.delayed(sum)(squares).compute() == 140


def test_dask_raises_what_a_task_raises(pool):
    """The exception comes back as it is."""
    with pytest.raises(LookupError, match="3 is bad"):
        dask.compute([dask.delayed(fail_at)(x, 3) for x in range(5)], scheduler=pool)


# -- SciPy, tqdm, pandas, NumPy --------------------------------------------------------------------------------


def test_scipy_takes_the_map_of_a_pool(pool):
    """``workers=`` calls the objective function on workers; the result is that of a run here."""
    options = {"bounds": [(0, 2)] * 2, "seed": 1, "maxiter": 3, "polish": False, "updating": "deferred"}
    found = differential_evolution(rosen, workers=pool.map, **options)
    assert found.x.tolist() == differential_evolution(rosen, **options).x.tolist()


def test_tqdm_over_results(pool, executor):
    """Bars over a map in order, and over futures as they complete."""
    with tqdm(pool.map(square, range(10)), total=10, disable=False, leave=False) as bar:
        assert list(bar) == [x * x for x in range(10)]
        assert bar.n == 10
    futures = executor.map(square, range(10))
    with tqdm(concurrent.futures.as_completed(futures), total=10, leave=False) as bar:
        assert sorted(future.result() for future in bar) == [x * x for x in range(10)]
        assert bar.n == 10


def test_groups_of_a_data_frame(executor):
    """A call for each group; the results become a frame again."""
    frame = pd.DataFrame({"key": list("abcabc"), "x": range(6)})
    keys, groups = zip(*frame.groupby("key"), strict=True)
    results = pywren.get_all_results(executor.map(lambda group: group["x"].agg(["sum", "max"]), groups))
    found = pd.concat(results, axis=1, keys=keys).T
    pd.testing.assert_frame_equal(found, frame.groupby("key")["x"].agg(["sum", "max"]), check_names=False)


def test_pieces_of_an_array(executor):
    """A call for each piece; the results become an array again."""
    array = np.arange(1000.0).reshape(100, 10)
    pieces = pywren.get_all_results(executor.map(np.sqrt, np.array_split(array, 7)))
    assert np.array_equal(np.concatenate(pieces), np.sqrt(array))


# -- asyncio ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["local", pytest.param("lambda", marks=pytest.mark.moto)])
def test_results_are_unpickled_away_from_the_event_loop(kind, tmp_path):
    """Small and large results; the thread of the loop only gets them."""

    def make(size):
        return callees.Placed(), b"x" * size

    async def main(executor):
        return await asyncio.gather(*executor.map(make, [10, 2_000_000]))

    with executors.make(kind, tmp_path) as ready:
        results = asyncio.run(main(ready.executor))
    assert [len(data) for _, data in results] == [10, 2_000_000]
    for placed, _ in results:
        assert placed.thread not in (None, threading.get_ident())


def test_a_service_of_asyncio(executor):
    """Calls run in a timeout, in a group whose failure cancels the others, and from an executor's point of view."""

    async def main(pool):
        assert await asyncio.wait_for(executor.call_async(later, 1), 60) == 1
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(pool, square, 3) == 9
        with pytest.raises(LookupError):
            await asyncio.gather(executor.call_async(later, 1), pool.submit(fail_at, 1, 1))
        return [await one for one in asyncio.as_completed(executor.map(square, range(3)))]

    with pywren.PoolExecutor(executor) as pool:
        assert sorted(asyncio.run(main(pool))) == [0, 1, 4]


# -- IPython ---------------------------------------------------------------------------------------------------

SHELL = """
    import os, sys, traceback
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()

    def run(cell):
        done = shell.run_cell(cell)
        return done.error_before_exec or done.error_in_exec

    def write(text):
        with open("helpers.py", "w") as file:
            file.write(text)
        # autoreload compares times, which have the precision of the file system
        os.utime("helpers.py", (write.time, write.time))
        write.time += 10

    write.time = 1_700_000_000
    sys.path.insert(0, os.getcwd())
"""


def ipython(tmp_path, program):
    """Run a program around IPython's shell in a process of its own; return what it prints."""
    text = textwrap.dedent(SHELL) + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", text],
        cwd=tmp_path,
        env={**os.environ, "PYWREN_LOCAL_PROCESSES": "2"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_autoreload(tmp_path):
    """A module that IPython has loaded again is sent as it is now, also to workers that have run it before."""
    said = ipython(
        tmp_path,
        """
        write("def f(x):\\n    return 'first'\\n")
        run("%load_ext autoreload\\n%autoreload 2\\nimport pywren, helpers\\npwex = pywren.local_executor()")
        run("print('found', pywren.get_all_results(pwex.map(helpers.f, [1, 2])))")
        run("print('found', pywren.get_all_results(pwex.map(lambda x: helpers.f(x), [1, 2])))")
        write("def f(x):\\n    return 'second'\\n")
        run("print('found', pywren.get_all_results(pwex.map(helpers.f, [1, 2])))")
        run("print('found', pywren.get_all_results(pwex.map(lambda x: helpers.f(x), [1, 2])))")
        """,
    )
    found = [line for line in said.splitlines() if line.startswith("found")]
    assert found == ["found ['first', 'first']"] * 2 + ["found ['second', 'second']"] * 2


def test_tracebacks_have_the_source_of_the_cell(tmp_path):
    """The frames of the worker show the lines of the cell that defined the function."""
    said = ipython(
        tmp_path,
        """
        run("import pywren\\npwex = pywren.local_executor()\\ndef divide(x):\\n    return 1 / x  # by what?")
        error = run("pwex.call_async(divide, 0).result()")
        print(type(error).__name__, "return 1 / x  # by what?" in "".join(traceback.format_exception(error)))
        """,
    )
    assert said.splitlines()[-1] == "ZeroDivisionError True"


def test_an_interrupted_cell_leaves_a_usable_executor(tmp_path):
    """After an interrupt the calls can be cancelled, and the next cell runs, with the same executor."""
    said = ipython(
        tmp_path,
        """
        import signal, threading
        run("import pywren, time\\npwex = pywren.local_executor()\\npwex.call_async(abs, -1).result()")
        main = threading.main_thread().ident
        threading.Timer(0.5, signal.pthread_kill, [main, signal.SIGINT]).start()  # as Jupyter's button does
        print("interrupted by", type(run("pywren.get_all_results(pwex.map(time.sleep, [300, 300]))")).__name__)
        run("print('cancelled', pwex.cancel_all())")
        run("print('then', pwex.call_async(abs, -1).result())")
        """,
    )
    assert "interrupted by KeyboardInterrupt" in said
    assert "cancelled 2\nthen 1\n" in said


# -- the page --------------------------------------------------------------------------------------------------

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "integrations.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^## (.*?)$.*?^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.thorough
@pytest.mark.parametrize("program", [program for _, program in BLOCKS], ids=[title for title, _ in BLOCKS])
def test_a_program_of_the_page_runs(program, tmp_path):
    """Each section's program runs as it is, on this machine."""
    path = tmp_path / "program.py"
    path.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_program_of_the_page_is_tried():
    """No section has a second program, which would not be tried."""
    assert len(BLOCKS) == PAGE.count("```python")
