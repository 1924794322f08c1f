"""The methods of ``Executor``, over every kind of executor."""

from __future__ import annotations

import array
import dataclasses
import importlib
import itertools
import json
import logging
import os
import pickle
import subprocess
import sys
import threading
import typing
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import executors
import hostile
import numpy as np
import pytest
from executors import KINDS, STAGED_KINDS, WAIT

import pywren
import pywren.testing
from pywren import wrenconfig
from pywren.exceptions import ArgumentError, ConfigError, SerializationError
from pywren.executor import Executor
from pywren.invokers import DummyInvoker, LambdaInvoker, LocalInvoker
from pywren.pickling import packed
from pywren.queues import SQSInvoker, sqs_run_local
from pywren.wire.references import INLINE_REFERENCES

ROOT = Path(pywren.__file__).parent.parent

# what compat.md says about a call
RUN_STATUS = """
    exception exception_args exception_traceback start_time setup_time exec_time end_time call_id callset_id func_key
    data_key output_key status_key runtime_cached retcode stdout host_submit_time server_info free_disk_bytes
    runtime_s3_key_used runtime_s3_bucket_used func_download_time data_download_time output_upload_time
"""
RUN_STATUS_ON_LAMBDA = " aws_request_id log_group_name log_stream_name"
INVOKE_STATUS = """
    agg_data data_size_bytes data_upload_time data_upload_timestamp func_module_str_len func_upload_time
    func_upload_timestamp job_invoke_timestamp lambda_invoke_timestamp lambda_invoke_time status_done_timestamp
    status_query_count download_output_time download_output_timestamp
"""
PAYLOAD = """
    storage_config func_key data_key output_key status_key cancel_key callset_id call_id job_max_runtime
    data_byte_range use_cached_runtime runtime pywren_version runtime_url host_submit_time
"""


@pytest.fixture(scope="module", params=KINDS)
def ready(request, tmp_path_factory):
    """Return one executor of each kind, shared by all tests."""
    with executors.make(request.param, tmp_path_factory.mktemp("home")) as made:
        yield made


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Return one executor on this machine, for tests that need no other kind."""
    with executors.make("local", tmp_path_factory.mktemp("home")) as made:
        yield made


def another(ready, **options):
    """Return another executor of the same kind, with its own configuration."""
    factory = {"local": pywren.local_executor, "dummy": pywren.dummy_executor, "lambda": pywren.lambda_executor}
    return executors.Ready(ready.kind, factory[ready.kind](config=ready.config, **options), ready.config)


# -- map and call_async -------------------------------------------------------------------------------------------


def test_map_in_order(ready):
    """One future for each item, in order, with numbered ids."""
    futures = ready.map(lambda x: x * 2, range(25))
    assert pywren.get_all_results(futures) == [x * 2 for x in range(25)]
    assert [future.call_id for future in futures] == [f"{n:05d}" for n in range(25)]
    assert len({future.callset_id for future in futures}) == 1


def test_map_of_nothing(ready):
    """A map of no items returns no futures."""
    assert ready.executor.map(abs, []) == []
    assert ready.executor.map(abs, iter(())) == []


class Dataset:
    """A map-style data set: ``__getitem__`` and ``__len__``, no ``__iter__``."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        if self.length is None:
            raise RuntimeError("nobody knows")
        return self.length

    def __getitem__(self, index):
        if index >= 2:
            raise IndexError(index)
        return -index - 1


class Hints:
    """An iterator whose length hint is not a number."""

    def __init__(self):
        self.left = iter((-1, -2))

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.left)

    def __length_hint__(self):
        raise RuntimeError("do not ask")


ITERABLES = {
    "generator": lambda: (x for x in (-1, -2)),
    "dict": lambda: {-1: 0, -2: 0},
    "keys": lambda: {-1: 0, -2: 0}.keys(),
    "values": lambda: {0: -1, 1: -2}.values(),
    "tuple": lambda: (-1, -2),
    "another map": lambda: map(int, ["-1", "-2"]),
    "range": lambda: range(-1, -3, -1),
    "sequence": lambda: Dataset(2),
    "sequence with a wrong length": lambda: Dataset(10**12),
    "sequence of unknown length": lambda: Dataset(None),
    "iterator with a wrong hint": Hints,
    "deque": lambda: deque([-1, -2]),
    "array": lambda: array.array("b", [-1, -2]),
    "numpy": lambda: np.array([-1, -2]),
    "Series": lambda: pytest.importorskip("pandas").Series([-1, -2]),
    "memoryview": lambda: memoryview(array.array("b", [-1, -2])),
    "callable and sentinel": lambda: iter(iter((-1, -2, 0)).__next__, 0),
}


@pytest.mark.parametrize("what", ITERABLES)
def test_map_of_all_that_iter_takes(here, what):
    """``map`` takes any object that ``iter()`` takes, and does not need its length."""
    assert [int(result) for result in pywren.get_all_results(here.map(abs, ITERABLES[what]()))] == [1, 2]


def test_map_of_items_that_are_collections_themselves(here):
    """Rows of a matrix, characters, keys, lines of a file: the items are those of a ``for`` loop."""
    with open(__file__) as file:
        first, *_ = pywren.get_all_results(here.map(len, file))
    assert first == len((__doc__ or "").partition("\n")[0]) + 7  # with the quotes and the newline
    assert pywren.get_all_results(here.map(np.sum, np.ones((2, 3)))) == [3, 3]
    assert pywren.get_all_results(here.map(np.shape, np.ones((2, 3, 4)))) == [(3, 4)] * 2
    assert pywren.get_all_results(here.map(str.upper, "ab")) == ["A", "B"]
    assert pywren.get_all_results(here.map(abs, b"ab")) == [97, 98]
    assert pywren.get_all_results(here.map(str.upper, {"x": 1, "y": 2}.items().mapping)) == ["X", "Y"]


def test_map_over_a_frame(here):
    """The items of a data frame are its column names, as in a ``for`` loop."""
    frame = pytest.importorskip("pandas").DataFrame({"x": [1], "y": [2]})
    assert pywren.get_all_results(here.map(str.upper, frame)) == ["X", "Y"]


@pytest.mark.parametrize("items", [7, None, np.array(5), abs, object()], ids=lambda items: type(items).__name__)
def test_map_of_what_iter_refuses(here, items):
    """The error says what the object is, why it cannot be iterated over, and what to use for one item."""
    with pytest.raises(ArgumentError, match=rf"not a .*{type(items).__name__} \(.*iter.*call_async"):
        here.executor.map(abs, items)


def test_reduce_and_wait_over_a_sequence(here):
    """Futures may also be in a user's own sequence class."""

    class Futures:
        def __init__(self, futures):
            self.futures = futures

        def __getitem__(self, index):
            return self.futures[index]

    futures = Futures(here.map(abs, [-1, -2]))
    assert pywren.get_all_results(futures) == [1, 2]
    assert here.reduce(sum, futures).result(WAIT) == 3


def test_map_gives_one_positional_argument(ready):
    """A tuple is not unpacked."""
    assert pywren.get_all_results(ready.map(lambda pair: pair, [(1, 2), (3, 4)])) == [(1, 2), (3, 4)]


def test_map_at_the_item_limit(tmp_path):
    """As many items as the limit are mapped, one more is refused, and an infinite iterable does not hang."""
    config = {**wrenconfig.default(), "scheduler": {"map_item_limit": 3}}
    executor = pywren.dummy_executor(config)
    assert executor.map_item_limit == 3
    assert len(executor.map(abs, range(3))) == 3
    for items in (range(4), itertools.count()):
        with pytest.raises(ValueError, match="exceeding map item limit"):
            executor.map(abs, items)
    assert len(executor.invoker.payloads) == 3


def test_call_async(ready):
    """``call_async`` is a map of one item, which has not ended yet."""
    future = ready.executor.call_async(lambda x: x + 1, 7)
    assert not future.succeeded()
    assert future.run_status is None
    assert future.invoke_status is None
    ready.run()
    assert future.result(WAIT) == 8
    assert future.succeeded()


def test_wait_over_several_maps_and_executors(ready):
    """Futures of several maps and several executors are not confused."""
    other = another(ready)
    futures = [*ready.map(abs, [-1, -2]), *ready.map(hostile.raises_own, [1]), *other.map(abs, [-3, -4])]
    done, not_done = pywren.wait(futures)
    assert (done, not_done) == (futures, [])
    assert [future.result(throw_except=False) for future in futures] == [1, 2, None, 3, 4]
    assert [future.errored() for future in futures] == [False, False, True, False, False]


# -- options ------------------------------------------------------------------------------------------------------


def test_extra_env(ready):
    """The variables are set for the function, and for no other call."""

    def look(name):
        import os

        return os.environ.get(name)

    assert ready.call(look, "EXTRA", extra_env={"EXTRA": "ü = 1"}).result(WAIT) == "ü = 1"
    assert ready.call(look, "EXTRA").result(WAIT) is None


def test_extra_meta(ready):
    """New members are added to the payload; one that already exists is refused before anything is invoked."""
    assert ready.call(abs, -1, extra_meta={"mine": 1}).result(WAIT) == 1
    with pytest.raises(ValueError, match="func_key"):
        ready.executor.map(abs, [1], extra_meta={"func_key": "x", "mine": 1})


@pytest.mark.parametrize("meta", [5, [("mine", 1)], {"mine": {1, 2}}, {"mine": float("nan")}, {b"mine": 1}], ids=repr)
def test_extra_meta_that_no_payload_can_hold(ready, meta):
    """Row 192: every executor refuses it before anything is stored."""
    before = ready.executor.storage.backend.list(ready.executor.storage.prefix)
    with pytest.raises(ArgumentError, match="extra_meta"):
        ready.executor.map(abs, [1], extra_meta=meta)
    assert ready.executor.storage.backend.list(ready.executor.storage.prefix) == before


def test_job_max_runtime(ready):
    """0.4's attribute is used, even when it is changed later."""
    with ready.max_runtime(250):
        future = ready.call(abs, -1)
        assert future.result(WAIT) == 1
        assert future.invoke_status["job_max_runtime"] == 250
    with ready.max_runtime(np.float32(250.5)), ready.max_runtime(np.int64(250)):
        assert ready.call(abs, -1).result(WAIT) == 1


@pytest.mark.parametrize("seconds", ["5", None, float("nan"), -1, 0, True, [5], 10**400], ids=lambda x: repr(x)[:9])
def test_a_job_max_runtime_that_is_no_time(ready, seconds):
    """Row 191: it is refused both when an executor is made and when the attribute is set, which keeps its value."""
    with pytest.raises(ArgumentError, match="job_max_runtime"):
        another(ready, job_max_runtime=seconds)
    before = ready.executor.job_max_runtime
    with pytest.raises(ArgumentError, match="job_max_runtime"):
        ready.executor.job_max_runtime = seconds
    assert ready.executor.job_max_runtime == before


def test_calls_without_an_end(ready):
    """Calls on this machine may run without a limit; a payload needs a number."""
    if ready.kind == "local":
        with ready.max_runtime(float("inf")):
            assert ready.call(abs, -1).result(WAIT) == 1
    else:
        with pytest.raises(ArgumentError, match="job_max_runtime"):
            ready.executor.job_max_runtime = float("inf")


def test_a_map_that_invokes_nothing_says_so_by_its_error_alone(monkeypatch, caplog):
    """The log does not say that calls go on when none was invoked."""
    executor = pywren.dummy_executor(wrenconfig.default())
    monkeypatch.setattr(executor.invoker, "invoke", Mock(side_effect=OSError("refused")))
    with pytest.raises(OSError, match="refused"):
        executor.map(abs, [1, 2])
    assert caplog.messages == []


def test_exclude_modules(ready, tmp_path, monkeypatch):
    """An excluded module cannot be imported on the worker."""
    name = f"left_out_{ready.kind}"
    (tmp_path / f"{name}.py").write_text("def f(x):\n    return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module(name)
    with pytest.raises(ImportError, match=name):
        ready.call(module.f, 1, exclude_modules=[name]).result(WAIT)


def test_exclude_modules_as_one_text(ready):
    """A text instead of a list is refused: it would exclude every path that contains one of its letters."""
    with pytest.raises(ArgumentError, match=r"\['numpy'\]"):
        ready.map(abs, [1], exclude_modules="numpy")


@pytest.mark.parametrize("together", [True, False])
def test_data_all_as_one(ready, together):
    """Arguments arrive whether they are stored together or separately."""
    items = [bytes([n]) * size for n, size in enumerate([10, 30_000, 300_000])]
    futures = ready.map(len, items, data_all_as_one=together)
    assert pywren.get_all_results(futures) == [10, 30_000, 300_000]


# -- the function's environment on the worker -----------------------------------------------------------------------


def test_place_of_a_call(ready):
    """The working directory is an empty scratch directory, sys.path lacks the client's, and BLAS has one thread."""

    def look(name):
        import os
        import sys

        found = os.listdir(".")
        with open(name, "w") as file:
            file.write("scratch")
        return found, os.getcwd(), sys.path, os.environ.get("OMP_NUM_THREADS"), os.path.exists(name)

    for files, directory, path, threads, written in pywren.get_all_results(ready.map(look, ["a", "b", "c"])):
        assert files == []
        assert directory != os.getcwd()
        assert str(Path(__file__).parent) not in path
        assert os.getcwd() not in path
        assert "" not in path
        assert threads == "1"
        assert written
    assert not os.path.exists("a")


def test_the_clients_directory_is_not_importable(ready, tmp_path, monkeypatch):
    """A module beside the script that the function does not use cannot be imported by name."""
    (tmp_path / "beside.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    def imports(name):
        import importlib

        return importlib.import_module(name)

    with pytest.raises(ModuleNotFoundError, match="beside"):
        ready.call(imports, "beside").result(WAIT)


def test_a_package_with_data_is_sent(ready, tmp_path, monkeypatch):
    """A user's package arrives with its submodules and data files."""
    name = f"sent_{ready.kind}"
    package = tmp_path / name
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("from .inner.deep import read\n")
    (package / "inner" / "__init__.py").write_text("")
    (package / "inner" / "deep.py").write_text(
        "import importlib.resources\n"
        "def read(x):\n"
        "    return importlib.resources.files(__package__).joinpath('data.txt').read_text() * x\n"
    )
    (package / "inner" / "data.txt").write_text("data")
    monkeypatch.syspath_prepend(tmp_path)
    assert ready.call(importlib.import_module(name).read, 2).result(WAIT) == "datadata"


@pytest.mark.parametrize("folder", ["", "namespace/"])
def test_data_beside_a_module_stays_at_home(ready, tmp_path, monkeypatch, folder):
    """Row 195: for a file beside a plain module or in a directory without ``__init__.py``, the error has the remedy."""
    name = f"plain_{ready.kind}{len(folder)}"
    (tmp_path / folder).mkdir(exist_ok=True)
    (tmp_path / folder / f"{name}.py").write_text(
        "import pathlib\ndef read(file):\n    return pathlib.Path(__file__).with_name(file).read_text()\n"
    )
    (tmp_path / folder / "beside.txt").write_text("data")
    monkeypatch.syspath_prepend(tmp_path)
    read = importlib.import_module(f"{folder.replace('/', '.')}{name}").read
    assert read("beside.txt") == "data"
    error = ready.call(read, "beside.txt").exception(WAIT)
    assert type(error) is FileNotFoundError
    assert f"'{folder}beside.txt' exists on the client but was not sent: only packages" in told_by(error)
    assert "only packages" not in told_by(ready.call(read, "nowhere.txt").exception(WAIT))
    sys.modules.pop("namespace", None)


def told_by(error):
    """Return everything that is shown when an error is printed."""
    return "".join([str(error), *getattr(error, "__notes__", ())])


def test_a_missing_file_is_explained_once(ready, tmp_path, monkeypatch):
    """Row 23: this holds whether or not the file exists here, and even when the error is passed to another call."""
    monkeypatch.chdir(tmp_path)
    Path("here.txt").touch()
    here = "'here.txt' exists in the client's directory, but calls run in an empty"
    nowhere = "'nowhere' is a relative path, but calls run in an empty"
    failed = ready.map(os.listdir, ["here.txt", b"here.txt", Path("nowhere")])
    handed_on = ready.reduce(list, failed[:1])
    for future, words in zip([*failed, handed_on], [here, here, nowhere, here], strict=True):
        told = told_by(future.exception(WAIT))
        assert words in told
        assert told.count("calls run in an empty") == 1
        assert told.count("relative path") == (words is nowhere)


def test_an_edited_module_takes_effect(ready, tmp_path, monkeypatch):
    """The next map uses the file as it is now, without a restart."""
    name = f"edited_{ready.kind}"
    file = tmp_path / f"{name}.py"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file.write_text("def f(x):\n    return 'old'\n")
    module = importlib.import_module(name)
    assert pywren.get_all_results(ready.map(module.f, range(3))) == ["old"] * 3
    file.write_text("def f(x):\n    return 'the new one'\n")
    assert pywren.get_all_results(ready.map(module.f, range(3))) == ["the new one"] * 3


def test_state_of_modules_stays_with_the_map(ready):
    """A call that changes standard modules changes them only on its worker, and does not harm pywren."""
    ready.call(hostile.replaces_pickle).result(WAIT)
    assert ready.call(hostile.returns_point, 1).result(WAIT).x == 1


def test_nested_map(ready):
    """A function may itself make an executor and map."""

    def outer(n):
        import pywren

        with pywren.default_executor() as executor:
            return sum(pywren.get_all_results(executor.map(lambda x: x * n, range(4))))

    assert ready.call(outer, 10, extra_env={"PYWREN_EXECUTOR": "local"}).result(WAIT) == 60


class Slotted:
    """Classes with slots, which a method makes so that they are sent by value, like a script's classes."""

    @staticmethod
    def plain():
        class Plain:
            __slots__ = ("__private", "never_set", "x")

            def __init__(self, x):
                self.x = x
                self.__private = x + 1

            def state(self):
                return {"x": self.x, "private": self.__private, **getattr(self, "__dict__", {})}

        return Plain

    @staticmethod
    def inherited():
        class Child(Slotted.plain()):
            __slots__ = "y"

            def state(self):
                return {**super().state(), "y": self.y}

        return Child

    @staticmethod
    def with_dict():
        class Open(Slotted.inherited()):
            __slots__ = ("__dict__", "__weakref__")

        return Open

    @staticmethod
    def without_further_slots():
        class Loose(Slotted.plain()):
            pass

        return Loose

    @staticmethod
    def named_tuple():
        class Pair(typing.NamedTuple):
            x: int
            z: int = 3

            def state(self):
                return self._asdict()

        return Pair

    @staticmethod
    def dataclass():
        @dataclasses.dataclass(slots=True)
        class Data:
            x: int
            y: list = dataclasses.field(default_factory=list)
            z: int = 3

            def state(self):
                return dataclasses.asdict(self)

        return Data

    @staticmethod
    def frozen():
        @dataclasses.dataclass(slots=True, frozen=True)
        class Base:
            x: int

        @dataclasses.dataclass(slots=True, frozen=True)
        class Frozen(Base):
            z: int = 3

            def state(self):
                return dataclasses.asdict(self)

        return Frozen


@pytest.mark.parametrize("kind", [name for name in vars(Slotted) if not name.startswith("_")])
def test_classes_with_slots(ready, kind):
    """Row 197: instances of a script's class with ``__slots__`` come back, even those made on the worker."""
    cls = getattr(Slotted, kind)()
    sent = cls(1)
    if kind not in ("plain", "frozen", "named_tuple"):
        sent.y = 5
    closed = not hasattr(sent, "__dict__")

    def call(thing):
        assert closed is not hasattr(thing, "__dict__")
        assert bool(cls.__weakrefoffset__) is (kind in ("with_dict", "without_further_slots"))
        return thing, cls(7), thing.state()

    back, made, state = ready.call(call, sent).result(WAIT)
    assert type(back) is type(made) is cls
    assert back.state() == state == sent.state()
    assert made.x == 7


# -- reduce, and futures among arguments ---------------------------------------------------------------------------


def test_reduce(ready):
    """The function gets the results in order."""
    assert ready.reduce(list, ready.map(abs, [-3, -1, -2])).result(WAIT) == [3, 1, 2]
    assert ready.reduce(len, []).result(WAIT) == 0


def test_reduce_of_many(ready):
    """The list of inputs is so long that it is stored as its own object."""
    count = INLINE_REFERENCES + 1 if ready.kind == "lambda" else 50
    futures = ready.map(lambda x: x, range(count))
    assert ready.reduce(sum, futures).result(WAIT) == sum(range(count))


def test_reduce_of_big_results(ready):
    """Inputs whose outputs are stored as their own objects are passed on."""
    futures = ready.map(hostile.returns_much, [10, 2_000_000, 200_000])
    assert ready.reduce(lambda values: [len(value) for value in values], futures).result(WAIT) == [
        10,
        2_000_000,
        200_000,
    ]


def test_reduce_of_the_users_classes(ready):
    """If results are instances of a class in the user's module, that module is sent to the worker."""
    futures = ready.map(hostile.returns_point, [1, 2])
    assert len(ready.reduce(tuple, futures).result(WAIT)) == 2


def test_reduce_of_failed(ready):
    """A failed input makes the reduce fail with the same error."""
    futures = ready.map(lambda x: 1 // x, [1, 0])
    with pytest.raises(ZeroDivisionError):
        ready.reduce(sum, futures).result(WAIT)


def test_reduce_of_another_executors_futures(ready, tmp_path):
    """Inputs may come from another executor with another storage."""
    other = another(ready)
    with executors.make("local", tmp_path) as elsewhere:
        futures = [*ready.map(abs, [-1]), *other.map(abs, [-2]), elsewhere.call(abs, -4)]
        assert ready.reduce(sum, futures).result(WAIT) == 7


def test_reduce_of_reduced(ready):
    """The future that reduce returns can be reduced again."""
    first = ready.reduce(sum, ready.map(abs, [-1, -2]))
    second = ready.reduce(sum, ready.map(abs, [-3, -4]))
    assert ready.reduce(sum, [first, second]).result(WAIT) == 10


def test_futures_among_arguments(ready):
    """A future anywhere in an argument arrives as a finished future, as in 0.4."""
    first, second = ready.map(abs, [-5, -6])

    def use(argument):
        inner = argument["deep"][0]
        return inner.result() + argument["other"].result(), inner.done(), inner is argument["same"]

    argument = {"deep": [first], "same": first, "other": second}
    assert ready.call(use, argument).result(WAIT) == (11, True, True)


def test_futures_among_many_arguments(ready):
    """Each call gets its own inputs."""
    futures = ready.map(abs, range(-5, 0))
    chained = ready.map(lambda future: future.result() * 10, futures)
    assert pywren.get_all_results(chained) == [50, 40, 30, 20, 10]


def test_a_future_in_a_closure(ready):
    """A future that the function itself holds arrives finished too."""
    future = ready.call(abs, -5)
    assert pywren.get_all_results(ready.map(lambda x: future.result() + x, [1, 2])) == [6, 7]


def test_an_unfinished_future_is_waited_for(tmp_path):
    """map waits for the futures among its arguments."""
    with executors.make("local", tmp_path) as ready:
        slow = ready.call(lambda path: hostile.holds_until(path, path + ".gate"), str(tmp_path / "held"))
        timer = threading.Timer(0.1, (tmp_path / "held.gate").touch)
        timer.start()
        assert ready.call(hostile.asks_the_future, slow).result(WAIT) == "on time"
        timer.join()


# -- sizes --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["local", "dummy"])
@pytest.mark.parametrize("where", ["argument", "closure"])
def test_200_megabytes(kind, where, tmp_path):
    """Arguments and closures of 200 MB arrive."""
    big = b"x" * 200_000_000
    with executors.make(kind, tmp_path) as ready:
        future = ready.call(len, big) if where == "argument" else ready.call(lambda _: len(big))
        assert future.result(WAIT) == len(big)


# -- sharing ------------------------------------------------------------------------------------------------------


def test_from_many_threads(ready):
    """Threads can share an executor."""
    if ready.kind == "dummy":
        pytest.skip("run_jobs runs what other threads have invoked")
    with ThreadPoolExecutor(8) as threads:
        maps = threads.map(lambda n: pywren.get_all_results(ready.map(lambda x: x * n, range(4))), range(12))
        assert list(maps) == [[x * n for x in range(4)] for n in range(12)]


def test_many_executors_are_cheap():
    """Programs can make many executors, which share the processes of this machine."""
    before = set(threading.enumerate())
    made = [pywren.local_executor() for _ in range(200)]
    futures = [executor.call_async(abs, -1) for executor in made]
    assert pywren.get_all_results(futures) == [1] * 200
    assert len(set(threading.enumerate()) - before) < 10


def test_context_manager(ready):
    """Futures stay usable after the executor's ``with`` block."""
    with another(ready).executor as executor:
        future = executor.call_async(abs, -1)
        if ready.kind == "dummy":
            executor.invoker.run_jobs()
    assert future.result(WAIT) == 1


def test_dropped_executor(ready):
    """Futures stay usable after their executor has been freed."""
    future = another(ready).call(abs, -1)
    assert future.result(WAIT) == 1


# -- the statuses of a call ----------------------------------------------------------------------------------------


def test_run_status(ready):
    """Every key of 0.4 is there, with consistent times."""

    def talk(x):
        print("hello", x)

    future = ready.call(talk, 1)
    future.result(WAIT)
    status = future.run_status
    expected = RUN_STATUS + (RUN_STATUS_ON_LAMBDA if ready.kind == "lambda" else "")
    assert [key for key in expected.split() if key not in status] == []
    assert status["stdout"] == "hello 1\n"
    assert status["exception"] is None
    assert status["retcode"] == 0
    assert status["host_submit_time"] - 1 < status["start_time"] <= status["end_time"]
    assert 0 <= status["exec_time"] < WAIT
    json.dumps(status)


def test_run_status_of_an_error(ready):
    """As in 0.4, an exception of the function is not a failure of the worker; its traceback is there as text."""
    future = ready.call(hostile.raises_value_error, "told")
    future.exception(WAIT)
    status = future.run_status
    assert (status["exception"], status["exception_args"]) == (None, None)
    assert "raises_value_error" in status["exception_traceback"]
    assert "told" in status["exception_traceback"]


@pytest.mark.parametrize("size", [10, 2_000_000])
def test_invoke_status(ready, size):
    """Every key of 0.4 is there, whether results are in the status or in their own objects."""
    future = ready.call(hostile.returns_much, size)
    future.result(WAIT)
    status = future.invoke_status
    expected = INVOKE_STATUS + (PAYLOAD if ready.kind != "local" else "call_id callset_id")
    assert [key for key in expected.split() if key not in status] == []
    assert status["status_done_timestamp"] >= status["job_invoke_timestamp"]
    if ready.kind == "lambda":
        assert status["lambda_function_name"] == ready.config["lambda"]["function_name"]
        assert status["region_name"] == ready.config["account"]["aws_region"]


def test_attributes_of_0_4(ready):
    """Programs read these attributes."""
    executor = ready.executor
    assert isinstance(executor, Executor)
    assert executor.map_item_limit == (10_000 if "account" in executor.config else None)
    assert executor.storage_config["storage_backend"] == ("s3" if ready.kind == "lambda" else "localhost")
    assert set(executor.storage_config) == {"storage_backend", "storage_prefix", "backend_config"}
    assert executor.storage.get_storage_config() == executor.storage_config
    assert executor.runtime_meta_info["python_ver"] == f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert executor.serializer is not None
    assert executor.config is not None
    future = ready.call(abs, -1)
    assert future.storage_path == executor.storage.path
    assert future.result(WAIT) == 1


@pytest.mark.moto
def test_get_logs(tmp_path):
    """On Lambda a call's log goes from START to REPORT; elsewhere a call has no log."""
    with executors.make("lambda", tmp_path / "lambda") as ready:
        future = ready.call(print, "into the log")
        logs = ready.executor.get_logs(future, verbose=False)
    messages = [message for _, message in logs]
    assert messages[0].startswith("START")
    assert any("into the log" in message for message in messages)
    assert messages[-1].startswith("REPORT")
    assert all(isinstance(timestamp, int) for timestamp, _ in logs)
    with executors.make("local", tmp_path / "local") as ready, pytest.raises(ArgumentError, match="stdout"):
        ready.executor.get_logs(ready.call(print, "nowhere"))


@pytest.mark.parametrize("kind", STAGED_KINDS)
def test_invoke_with_keys(kind, tmp_path):
    """0.4's lower-level method works: a program stores function and argument itself."""
    with executors.make(kind, tmp_path) as ready:
        executor = ready.executor
        stored = ready.call(abs, -3, overwrite_invoke_args={})
        assert stored.result(WAIT) == 3
        keys = executor.storage.keys("by-hand").call("00000")
        executor.put_data(keys.data, b"\x80\x05K\x07.", "by-hand", "00000")
        func_key = stored.invoke_status["func_key"]
        future = executor.invoke_with_keys(
            func_key, keys.data, keys.output, keys.status, keys.cancel, "by-hand", "00000", None, None, None,
            True, {"note": "mine"}, 100,
        )  # fmt: skip
        ready.run()
        assert future.result(WAIT) == 7
        assert future.invoke_status["note"] == "mine"


# -- printing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [True, False])
def test_what_calls_print(shown, tmp_path):
    """Local calls print nothing, unless the configuration asks for their output."""
    program = (
        "import pywren, sys\n"
        "config = {**pywren.wrenconfig.default(), 'local': {'show_output': sys.argv[1] == 'True'}}\n"
        "future = pywren.local_executor(config=config).call_async(print, 'from the worker')\n"
        "future.result(60)\n"
        "assert future.run_status['stdout'] == 'from the worker\\n', future.run_status\n"
    )
    done = run(program, str(shown))
    assert done.stdout == ("from the worker\n" if shown else "")


# -- factories ----------------------------------------------------------------------------------------------------


def run(program, *arguments, **environment):
    """Run a program that uses pywren, and return the finished process."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=WAIT, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def config():
    """Return the configuration of a mocked account."""
    with pywren.testing.mock_aws() as made:
        yield made


@pytest.mark.moto
@pytest.mark.parametrize(
    ("name", "max_runtime", "invoker"),
    [
        ("lambda_executor", 280, "LambdaInvoker"),
        ("dummy_executor", 300, "DummyInvoker"),
        ("remote_executor", 3600, "SQSInvoker"),
        ("standalone_executor", 3600, "SQSInvoker"),
    ],
)
def test_factories(config, name, max_runtime, invoker):
    """Each makes an executor with its own invoker and default ``job_max_runtime``, by position or keyword."""
    factory = getattr(pywren, name)
    made = factory(config)
    assert (type(made.invoker).__name__, made.job_max_runtime) == (invoker, max_runtime)
    assert factory(config=config, job_max_runtime=17).job_max_runtime == 17
    assert pywren.standalone_executor is pywren.remote_executor


@pytest.mark.moto
def test_local_factory(config):
    """It takes an invoker first, and stages if a configuration says so."""
    invoker = pywren.invokers.LocalInvoker()
    made = pywren.local_executor(invoker, config, 17)
    assert (made.invoker, made.job_max_runtime) == (invoker, 17)
    assert made.storage_config["storage_backend"] == "s3"
    assert made.call_async(abs, -1).result(WAIT) == 1
    made = pywren.local_executor()
    assert (type(made.invoker).__name__, made.job_max_runtime) == ("LocalInvoker", 300)


@pytest.mark.moto
def test_remote_executor_runs(config):
    """Its calls wait in the queue until a stand-alone worker takes them."""
    executor = pywren.remote_executor(config)
    assert executor.invoker.config()["sqs_queue_name_name"] == config["standalone"]["sqs_queue_name"]
    future = executor.call_async(abs, -1)
    assert not future.done()
    assert sqs_run_local(config["account"]["aws_region"], config["standalone"]["sqs_queue_name"]) == 1
    assert future.result(WAIT) == 1


@pytest.mark.moto
@pytest.mark.parametrize(
    ("value", "invoker"),
    [
        (None, "LambdaInvoker"),
        ("lambda", "LambdaInvoker"),
        ("remote", "SQSInvoker"),
        ("standalone", "SQSInvoker"),
        ("dummy", "DummyInvoker"),
        ("local", "LocalInvoker"),
    ],
)
def test_default_executor(config, monkeypatch, value, invoker):
    """``PYWREN_EXECUTOR`` decides; without it, a configuration selects Lambda."""
    if value is not None:
        monkeypatch.setenv("PYWREN_EXECUTOR", value)
    made = pywren.default_executor(config=config, job_max_runtime=17)
    assert (type(made.invoker).__name__, made.job_max_runtime) == (invoker, 17)


def test_unknown_executor(monkeypatch):
    """An unknown name is an error; 0.4 used Lambda."""
    monkeypatch.setenv("PYWREN_EXECUTOR", "lamda")
    with pytest.raises(ConfigError, match=r"lamda.*lambda"):
        pywren.default_executor()


def test_without_configuration_one_line_says_so():
    """The default executor then runs calls here, and logs that once."""
    program = (
        "import logging, pywren\n"
        "logging.basicConfig(format='%(name)s: %(message)s')\n"
        "for _ in range(3):\n"
        "    print(pywren.default_executor().call_async(abs, -1).result(60))\n"
    )
    done = run(program)
    assert done.stdout == "1\n1\n1\n"
    (line,) = done.stderr.splitlines()
    assert "calls run on this machine" in line
    assert "pywren-setup" in line


def test_a_configuration_file_that_is_missing(monkeypatch, tmp_path):
    """A file that was named explicitly is never silently replaced by defaults."""
    monkeypatch.setenv("PYWREN_CONFIG_FILE", str(tmp_path / "not-there"))
    for factory in (pywren.default_executor, pywren.local_executor, pywren.lambda_executor):
        with pytest.raises(ConfigError, match="not-there"):
            factory()


def test_lambda_without_configuration():
    """Only the default executor falls back to this machine."""
    for factory in (pywren.lambda_executor, pywren.remote_executor):
        with pytest.raises(ConfigError, match="create_config"):
            factory()


def test_a_configuration_that_is_none():
    """The error names an argument that is not a dict, or the placeholder bucket."""
    with pytest.raises(ArgumentError, match="str"):
        pywren.lambda_executor("~/.pywren_config")
    config = {"account": {"aws_region": "us-west-2"}, "s3": {"bucket": "BUCKET_NAME", "pywren_prefix": "p"}}
    with pytest.raises(ConfigError, match="make sure you change the default bucket"):
        pywren.lambda_executor(config)


def test_what_cannot_be_sent_names_itself(ready):
    """The error contains the path to the object."""
    with pytest.raises(SerializationError) as caught:
        ready.executor.map(abs, [0, {"model": hostile.Holder(threading.Lock())}])
    assert caught.value.path.startswith("argument 1")


def test_nothing_is_printed(ready, capfd, caplog):
    """A successful map logs nothing."""
    with caplog.at_level(logging.INFO):
        assert ready.call(abs, -1).result(WAIT) == 1
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.name.startswith("pywren")] == []


# -- an executor that is sent to a worker --------------------------------------------------------------------------


class Study:
    """An object that holds an executor, as users' objects do."""

    def __init__(self, executor):
        self.executor = executor
        self.pool = pywren.PoolExecutor(executor)

    def scale(self, x):
        return x * 10

    def nested(self, x):
        return pywren.get_all_results(self.executor.map(abs, [-x, x])), self.pool.submit(pow, x, 2).result()


def test_an_object_that_holds_an_executor(ready):
    """Its methods can be mapped like any others; its executor is made on the worker only when it is used."""
    study = Study(ready.executor)
    assert ready.call(study.scale, 2).result(WAIT) == 20
    assert ready.call(lambda held: "storage" in vars(held.executor), study).result(WAIT) is False


def test_an_executor_used_on_a_worker(here):
    """Calls from a worker work like calls from the client."""
    assert here.call(Study(here.executor).nested, 3).result(WAIT) == ([3, 3], 9)
    held = here.executor
    assert here.call(lambda x: held.call_async(abs, -x).result(), 4).result(WAIT) == 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: LambdaInvoker("us-east-1", "f", queue_patience=60.0),
        lambda: SQSInvoker("us-east-1", "q"),
        lambda: LocalInvoker("somewhere"),
        lambda: DummyInvoker(),
    ],
)
def test_invokers_travel_as_recipes(make):
    """Each invoker is rebuilt for the same function or queue."""
    invoker = make()
    invoker.own = threading.Lock()  # its other attributes are not sent
    copy = pickle.loads(pickle.dumps(invoker))
    assert type(copy) is type(invoker)
    assert repr(copy) == repr(invoker)
    for name in ("region_name", "lambda_function_name", "sqs_queue_name", "queue_patience", "run_dir"):
        assert vars(copy).get(name) == vars(invoker).get(name)


def test_an_executor_that_was_unpickled():
    """It keeps its class, invoker, configuration, time limit and settings for retries."""

    class Own(Executor):
        pass

    config = {**wrenconfig.default(), "scheduler": {"map_item_limit": 3}}
    made = Own(DummyInvoker(), config, 17)
    made.retries, made.retry_on = 5, KeyError
    copy = packed.loads(packed.dumps(made))
    assert type(copy) is Own
    assert (copy.retries, copy.retry_on) == (5, (KeyError,))
    assert (copy.job_max_runtime, copy.map_item_limit, copy.config) == (17, 3, config)
    assert copy.invoker is not made.invoker
    assert len(copy.map(abs, range(3))) == 3
    with pytest.raises(AttributeError, match="'Own' object has no attribute 'no_such_thing'"):
        copy.no_such_thing  # noqa: B018 - reading the attribute is the test
    copy.close()
    made.close()


def test_an_executor_whose_invoker_cannot_travel(here):
    """The error says where the invoker is, and what in it cannot be pickled."""

    class Holding:
        def __init__(self):
            self.lock = threading.Lock()

        def invoke(self, payload):
            raise NotImplementedError

        def config(self):
            return {}

    held = Executor(Holding(), wrenconfig.default(), 17)
    with pytest.raises(SerializationError, match=r"variable 'held'\).*\.lock: a _thread.lock cannot be pickled"):
        here.executor.call_async(lambda x: held, 1)
