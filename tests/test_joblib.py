"""joblib's backend ``pywren``, with joblib and scikit-learn themselves."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import traceback
import warnings

import executors
import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from callees import add_one, change, fail_at, square, total, type_of
from executors import Presence
from hostile import waits_to_go_on
from joblib import Parallel, delayed

import pywren
import pywren.joblib
from pywren.client import large_arguments, pool_executor
from pywren.exceptions import ArgumentError, SerializationError, WorkerCrashedError

LARGE = 200_000  # numbers of 8 bytes are more than joblib's limit of 1 MB


@pytest.fixture
def presence():
    """Return a server to which running calls connect."""
    with Presence() as made:
        yield made


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Return an executor of this machine."""
    with executors.make("local", tmp_path_factory.mktemp("home")) as made:
        yield made.executor


@pytest.fixture
def here(local):
    """Use the backend on this machine, with two jobs."""
    with joblib.parallel_config(backend="pywren", executor=local, n_jobs=2):
        yield


@pytest.fixture(scope="module")
def mocked(tmp_path_factory):
    """Return an executor of a mocked Lambda."""
    with executors.make("lambda", tmp_path_factory.mktemp("home")) as made:
        yield made.executor


@pytest.fixture
def on_lambda(mocked):
    """Use the backend on a mocked Lambda, with four jobs."""
    with joblib.parallel_config(backend="pywren", executor=mocked, n_jobs=4):
        yield


# -- results ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("batch_size", ["auto", 1, 7])
@pytest.mark.parametrize("pre_dispatch", ["2*n_jobs", "all", 1])
def test_results_come_in_order(batch_size, pre_dispatch):
    """Whatever the size of the batches, and however many are dispatched ahead."""
    run = Parallel(batch_size=batch_size, pre_dispatch=pre_dispatch)
    assert run(delayed(square)(x) for x in range(40)) == [x * x for x in range(40)]


@pytest.mark.usefixtures("here")
def test_results_as_they_come():
    """``return_as`` gives generators, of which two may run in turns."""
    ordered = Parallel(return_as="generator")(delayed(square)(x) for x in range(10))
    unordered = Parallel(return_as="generator_unordered")(delayed(square)(x) for x in range(10))
    assert next(ordered) == 0
    assert next(unordered) in {x * x for x in range(10)}
    assert Parallel()(delayed(square)(x) for x in range(3)) == [0, 1, 4]
    assert list(ordered) == [x * x for x in range(1, 10)]
    assert len(list(unordered)) == 9


@pytest.mark.usefixtures("here")
def test_a_parallel_can_be_used_again():
    """Also after an error, within a ``with`` block and outside."""
    with Parallel() as run:
        assert run(delayed(square)(x) for x in range(5)) == [0, 1, 4, 9, 16]
        with pytest.raises(LookupError):
            run(delayed(fail_at)(x, 3) for x in range(30))
        assert run(delayed(square)(x) for x in range(3)) == [0, 1, 4]
    assert run(delayed(square)(x) for x in range(3)) == [0, 1, 4]
    assert run([]) == []


@pytest.mark.usefixtures("here")
def test_what_runs_within_a_call_runs_there():
    """A ``Parallel`` within a call runs its functions one after the other, in the process of the call."""

    def nested(n):
        found = Parallel(n_jobs=-1)(delayed(os.getpid)() for _ in range(n))
        return set(found) == {os.getpid()}

    assert Parallel()(delayed(nested)(n) for n in range(1, 5)) == [True] * 4


@pytest.mark.usefixtures("here")
def test_functions_of_the_script_and_of_other_threads():
    """Closures are sent, and several threads may run ``Parallel`` with one backend."""
    found = {}

    def run(n):
        with joblib.parallel_config(backend="pywren", n_jobs=2):
            found[n] = Parallel()(delayed(lambda x: x + n)(x) for x in range(20))

    threads = [threading.Thread(target=run, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {n: [x + n for x in range(20)] for n in range(3)}


@pytest.mark.parametrize(("asked", "found"), [(1, 1), (7, 7), (None, 1), (-1, 3), (-2, 2), (-9, 1)])
def test_the_number_of_jobs(monkeypatch, local, asked, found):
    """As elsewhere in joblib: all workers, all but some, or a number."""
    monkeypatch.setattr(pool_executor, "workers_of", lambda executor: 3)
    assert pywren.joblib.PywrenBackend(executor=local).effective_n_jobs(asked) == found


def test_no_more_jobs_than_asked_for_run_at_once(local, presence):
    """Batches that joblib dispatches ahead wait until a job has ended."""
    with joblib.parallel_config(backend="pywren", executor=local):
        results = Parallel(n_jobs=2, pre_dispatch="all", return_as="generator")(
            delayed(waits_to_go_on)(presence.address) for _ in range(6)
        )
        assert presence.wait(2)
        assert not presence.wait(3, seconds=0.3)
        presence.let_go()
        assert len(list(results)) == 6


# -- what goes wrong -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("here")
def test_an_exception_comes_back_with_the_workers_traceback():
    """joblib raises it as it is; its cause shows where it was raised."""
    with pytest.raises(LookupError, match="5 is bad") as caught:
        Parallel()(delayed(fail_at)(x, 5) for x in range(20))
    text = "".join(traceback.format_exception(caught.value))
    assert "in fail_at" in text
    assert 'raise LookupError(f"{x} is bad")' in text


@pytest.mark.usefixtures("here")
def test_after_an_exception_other_calls_end(presence):
    """What runs is killed, and what has not begun never runs."""

    def work(x, address):
        if x:
            waits_to_go_on(address)
        raise LookupError("the first")

    with pytest.raises(LookupError, match="the first"):
        Parallel(n_jobs=2)(delayed(work)(x, presence.address) for x in range(5))
    presence.wait(2, seconds=1)
    assert presence.is_over()


@pytest.mark.usefixtures("here")
def test_an_argument_that_cannot_be_sent():
    """The error names what is wrong, as for any other map, and is raised where ``Parallel`` was called."""
    with pytest.raises(SerializationError, match="lock"):
        Parallel()(delayed(square)(threading.Lock()) for _ in range(3))


class RaisesWhenPickled:
    """An argument that cannot be pickled."""

    def __init__(self, error):
        self.error = error

    def __reduce__(self):
        raise self.error


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, KeyboardInterrupt])
def test_an_argument_that_ends_the_thread_that_pickles_it(kind):
    """The program gets what pickling raised, whatever it is, instead of waiting for ever."""
    with pytest.raises(kind, match="not me"):
        Parallel(timeout=60)(delayed(type_of)(RaisesWhenPickled(kind("not me"))) for _ in range(3))
    assert Parallel()(delayed(square)(n) for n in range(3)) == [0, 1, 4]


@pytest.mark.usefixtures("here")
def test_an_iterable_that_raises():
    """Its exception is raised where ``Parallel`` was called, also if it comes late."""

    def calls():
        yield from (delayed(square)(x) for x in range(20))
        raise LookupError("no more")

    with pytest.raises(LookupError, match="no more"):
        Parallel()(calls())


@pytest.mark.usefixtures("here")
def test_a_worker_that_dies():
    """``Parallel`` raises pywren's error, and the next run works."""
    with pytest.raises(WorkerCrashedError):
        Parallel()(delayed(os._exit)(3) for _ in range(2))
    assert Parallel()(delayed(square)(x) for x in range(3)) == [0, 1, 4]


@pytest.mark.usefixtures("here")
def test_a_timeout(presence):
    """joblib's own error; the calls end."""
    with pytest.raises(joblib.parallel.TimeoutError):
        Parallel(timeout=0.5)(delayed(waits_to_go_on)(presence.address) for _ in range(2))
    presence.wait(2, seconds=1)
    assert presence.is_over()


@pytest.mark.usefixtures("here")
def test_a_generator_that_is_dropped(presence):
    """joblib warns, and the calls end."""
    results = Parallel(return_as="generator")(delayed(waits_to_go_on)(presence.address) for _ in range(2))
    assert presence.wait(2)
    with pytest.warns(UserWarning, match="cancelled"):
        results.close()
    assert presence.is_over()


def test_executors_that_cannot_be_used():
    """Only executors of pywren whose calls start by themselves can be used."""
    with pytest.raises(ArgumentError, match="takes an executor such as"):
        joblib.parallel_config(backend="pywren", executor=4)
    backend = pywren.joblib.PywrenBackend(executor=pywren.dummy_executor())
    with pytest.raises(ArgumentError, match="dummy executor"):
        Parallel(backend=backend, n_jobs=2)(delayed(square)(x) for x in range(3))
    with pytest.raises(ValueError, match="n_jobs == 0"):
        Parallel(backend="pywren", n_jobs=0)(delayed(square)(x) for x in range(3))


def test_without_joblib():
    """The error names what to install."""
    program = "import sys; sys.modules['joblib'] = None; import pywren.joblib"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "ImportError: pywren.joblib needs joblib 1.5 or later: pip install 'pywren[joblib]'" in done.stderr


# -- large arguments -------------------------------------------------------------------------------------------

LARGE_ARGUMENTS = {
    "array": np.arange(LARGE, dtype=float),
    "columns": np.asfortranarray(np.arange(LARGE, dtype=float).reshape(-1, 10)),
    "view": np.arange(2 * LARGE, dtype=float)[::2],
    "frame": pd.DataFrame({"x": np.arange(LARGE), "word": ["a", "b"] * (LARGE // 2)}),
    "series": pd.Series(np.arange(LARGE)),
    "sparse": scipy.sparse.csr_matrix(np.random.default_rng(0).random((2000, 2000)) > 0.9, dtype=float),
}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("argument", LARGE_ARGUMENTS.values(), ids=LARGE_ARGUMENTS)
def test_large_arguments_arrive(argument):
    """Arrays, frames and matrices arrive as what they are, as positional arguments and by name."""
    found = Parallel()(delayed(total)(argument, number=n) for n in range(6))
    assert found == [total(argument, n) for n in range(6)]
    assert Parallel()(delayed(total)(argument=argument, number=n) for n in range(3)) == found[:3]


def test_a_large_argument_is_sent_once(local, monkeypatch):
    """All batches refer to one file, which is gone when the run is over."""
    sent = []
    submit = type(local).map

    def spy(self, function, items, *args, **kwargs):
        sent.extend(items)
        return submit(self, function, items, *args, **kwargs)

    monkeypatch.setattr(type(local), "map", spy)
    array = LARGE_ARGUMENTS["array"]
    with joblib.parallel_config(backend="pywren", executor=local, n_jobs=2):
        Parallel(batch_size=1)(delayed(total)(array, n) for n in range(10))
    paths = {call[1][0].path for item in sent for call in item.items}
    assert len(sent) == 10
    assert len(paths) == 1
    assert not os.path.exists(os.path.dirname(paths.pop()))


def test_changes_of_a_large_argument_stay_where_they_are(local):
    """Large arrays are read-only, as with joblib's own processes; with ``mmap_mode="c"`` each batch has a copy."""
    array = np.zeros(LARGE)
    with joblib.parallel_config(backend="pywren", executor=local, n_jobs=2):
        with pytest.raises(ValueError, match="read-only"):
            Parallel()(delayed(change)(array) for _ in range(4))
        for options in ({"mmap_mode": "c"}, {"mmap_mode": None}, {"max_nbytes": None}):
            assert Parallel(**options)(delayed(change)(array) for _ in range(4)) == [7.0] * 4
    assert not array.any()


class Odd(np.ndarray):
    """An array of a class that workers cannot import."""


@pytest.mark.usefixtures("here")
def test_large_arguments_that_travel_with_their_calls():
    """What only pywren can pickle, and what only one call needs, is sent with the call."""
    odd = np.zeros(LARGE).view(Odd)
    words = np.array([object] * LARGE)
    assert Parallel()(delayed(type_of)(odd) for _ in range(3)) == [Odd] * 3
    assert Parallel()(delayed(len)(words) for _ in range(3)) == [LARGE] * 3
    own = Parallel()(delayed(total)(np.full(LARGE, n, dtype=float), n) for n in range(4))
    assert [one[0] for one in own] == [float(n * LARGE) for n in range(4)]


def test_a_forked_process_leaves_the_files_of_its_parent():
    """Only the process that wrote large arguments removes them."""
    files = large_arguments._Files()
    path, _ = files.write([memoryview(b"large")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # this process has threads
        child = os.fork()
    if child == 0:
        files.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert os.path.exists(path)
    files.close()
    assert not os.path.exists(path)


# -- scikit-learn ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data():
    """Return a small problem of classification."""
    from sklearn.datasets import make_classification

    return make_classification(300, 10, random_state=0)


def results(data):
    """Return what a grid search, a cross-validation and a forest find."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = data
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression()), {"logisticregression__C": [0.01, 1.0]}, cv=3
    ).fit(x, y)
    forest = RandomForestClassifier(8, random_state=0, n_jobs=-1)
    scores = cross_val_score(forest, pd.DataFrame(x), y, cv=3)
    probabilities = forest.fit(x, y).predict_proba(x)
    return search.best_params_, search.best_score_, scores.tolist(), probabilities.tolist()


@pytest.mark.usefixtures("here")
def test_scikit_learn_finds_the_same(data):
    """A grid search, a cross-validation of parallel forests, and a forest give the same results as without pywren."""
    found = results(data)
    with joblib.parallel_config(backend="sequential"):
        assert results(data) == found


@pytest.mark.usefixtures("here")
def test_an_estimator_of_the_script(data):
    """Estimators that the program defines are sent; a failing fit is scikit-learn's own warning."""
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.exceptions import FitFailedWarning
    from sklearn.model_selection import GridSearchCV

    class Constant(ClassifierMixin, BaseEstimator):
        def __init__(self, answer=0):
            self.answer = answer

        def fit(self, x, y):
            if self.answer == 2:
                raise ValueError("there is no class 2")
            self.classes_ = np.unique(y)
            return self

        def predict(self, x):
            return np.full(len(x), self.answer)

    x, y = data
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        search = GridSearchCV(Constant(), {"answer": [0, 1, 2]}, cv=2, error_score=0.0).fit(x, np.where(y > 0, 1, y))
    assert FitFailedWarning in [one.category for one in caught]
    assert search.best_params_["answer"] in (0, 1)


# -- through a storage -----------------------------------------------------------------------------------------


@pytest.mark.moto
@pytest.mark.thorough
@pytest.mark.usefixtures("on_lambda")
def test_a_run_on_lambda():
    """Results come in order, and an exception with the traceback of the worker."""
    assert Parallel(pre_dispatch="all")(delayed(add_one)(x) for x in range(4)) == [1, 2, 3, 4]
    with pytest.raises(LookupError, match="1 is bad") as caught:
        Parallel(pre_dispatch="all")(delayed(fail_at)(x, 1) for x in range(2))
    assert "in fail_at" in "".join(traceback.format_exception(caught.value))
    with pytest.raises(SerializationError, match="lock"):
        Parallel()(delayed(square)(threading.Lock()) for _ in range(3))


@pytest.mark.moto
@pytest.mark.thorough
@pytest.mark.usefixtures("on_lambda")
def test_runs_on_lambda_share_processes():
    """Each run has its maps, whose calls find the modules that those of earlier runs have imported."""
    runs = [Parallel(pre_dispatch="all")(delayed(os.getpid)() for _ in range(2)) for _ in range(3)]
    assert len({pid for pids in runs for pid in pids}) <= 4  # as many calls as run at the same time


@pytest.mark.moto
@pytest.mark.thorough
@pytest.mark.usefixtures("on_lambda")
@pytest.mark.parametrize("name", ["array", "frame"])
def test_large_arguments_on_lambda(name):
    """They are uploaded once, and each call reads the result of the call that took them."""
    argument = LARGE_ARGUMENTS[name]
    found = Parallel(pre_dispatch="all")(delayed(total)(argument, number=n) for n in range(2))
    assert found == [total(argument, n) for n in range(2)]


@pytest.mark.moto
@pytest.mark.thorough
@pytest.mark.usefixtures("on_lambda")
def test_scikit_learn_on_lambda(data):
    """A grid search finds the same as without pywren."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    search = GridSearchCV(LogisticRegression(), {"C": [0.01, 1.0]}, cv=2)
    found = search.fit(*data).cv_results_["mean_test_score"]
    with joblib.parallel_config(backend="sequential"):
        assert search.fit(*data).cv_results_["mean_test_score"].tolist() == found.tolist()
