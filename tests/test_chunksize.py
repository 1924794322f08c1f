"""Maps with ``chunksize``: on the mocked Lambda, and through a bucket on this machine."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from executors import is_there

import pywren
import pywren.testing
from pywren.client.protocols import Invoker
from pywren.exceptions import ArgumentError, WorkerCrashedError
from pywren.executor import Executor
from pywren.invokers import LambdaInvoker, LocalInvoker
from pywren.wire.chunk import calls_of

pytestmark = [pytest.mark.moto, pytest.mark.thorough]

WAIT = 60.0


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Return the configuration of a mocked AWS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYWREN_HOME", str(tmp_path_factory.mktemp("home")))
        with pywren.testing.mock_aws(concurrency=2) as made:
            yield made


@pytest.fixture(params=["lambda", "here"])
def executor(
    request: pytest.FixtureRequest, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Executor]:
    """Return an executor whose calls go through a bucket, and note in ``payloads`` what it invokes."""
    kind: type[LambdaInvoker | LocalInvoker] = LambdaInvoker if request.param == "lambda" else LocalInvoker
    payloads: list[list[str]] = []
    invoke: Any = kind.invoke

    def noted(self: Any, payload: Any) -> Any:
        payloads.append(calls_of(payload))
        return invoke(self, payload)

    monkeypatch.setattr(kind, "invoke", noted)
    make = pywren.lambda_executor if request.param == "lambda" else pywren.local_executor
    with make(config=config) as made:
        made.payloads = payloads  # type: ignore[attr-defined]
        yield made


def payloads_of(executor: Executor) -> list[list[str]]:
    """Return the calls of each invocation, in order."""
    found: list[list[str]] = executor.payloads  # type: ignore[attr-defined]
    return sorted(found)


def test_ten_calls_are_one_invocation(executor: Executor) -> None:
    """Each has its own future, with its own value, status and attempts."""
    futures = executor.map(lambda x: x * x, range(23), chunksize=10)
    assert pywren.get_all_results(futures) == [x * x for x in range(23)]
    assert [len(one) for one in payloads_of(executor)] == [10, 10, 3]
    assert [one.run_status["call_id"] for one in futures] == [one.call_id for one in futures]
    assert {len(one.attempts) for one in futures} == {1}
    assert all(one.invoke_status["lambda_invoke_time"] >= 0.0 for one in futures)


def test_one_call_has_no_chunk(executor: Executor) -> None:
    """Nor has a map with ``chunksize=1``: each call leaves a status of its own."""
    futures = executor.map(abs, [-1, -2], chunksize=1) + executor.map(abs, [-3], chunksize=10)
    assert pywren.get_all_results(futures) == [1, 2, 3]
    assert [len(one) for one in payloads_of(executor)] == [1, 1, 1]
    for one in futures:
        keys = executor.storage.backend.list(executor.storage.keys(one.callset_id).journals)
        assert keys == []
        assert executor.storage.read_status(one.callset_id, one.call_id) is not None


def test_each_call_fails_alone(executor: Executor) -> None:
    """An exception and the end of a process are those of their call; the others go on."""

    def function(number: int) -> int:
        if number == 1:
            raise ValueError(number)
        if number == 3:
            os._exit(7)
        return number

    futures = executor.map(function, range(6), chunksize=6)
    pywren.wait(futures)
    errors = {index: one.exception() for index, one in enumerate(futures) if one.exception() is not None}
    assert {index: type(error) for index, error in errors.items()} == {1: ValueError, 3: WorkerCrashedError}
    assert [futures[index].result() for index in (0, 2, 4, 5)] == [0, 2, 4, 5]


def test_a_failed_call_is_repeated_alone(executor: Executor, tmp_path: Path) -> None:
    """With ``retries`` its second attempt has an invocation of its own."""

    def function(item: tuple[int, str]) -> int:
        number, place = item
        if number == 1 and not os.path.exists(place):
            with open(place, "w"):
                raise ConnectionError("try again")
        return number

    futures = executor.map(function, [(x, str(tmp_path / "tried")) for x in range(4)], chunksize=4, retries=2)
    assert pywren.get_all_results(futures) == [0, 1, 2, 3]
    assert payloads_of(executor) == [["00000", "00001", "00002", "00003"], ["00001"]]
    assert [one.cause for one in futures[1].attempts] == ["exception", None]


def test_a_waiting_call_of_a_chunk_is_cancelled(executor: Executor, tmp_path: Path) -> None:
    """It never runs, and the others do."""

    def function(item: tuple[int, str, str]) -> int:
        import pathlib
        import time

        number, begun, go_on = item
        (pathlib.Path(begun) / str(number)).touch()
        while number == 0 and not os.path.exists(go_on):
            time.sleep(0.01)
        return number

    go_on = tmp_path / "go on"
    futures = executor.map(function, [(x, str(tmp_path), str(go_on)) for x in range(4)], chunksize=4)
    assert is_there(tmp_path / "0")
    assert futures[2].cancel()
    go_on.touch()
    assert [futures[index].result(WAIT) for index in (0, 1, 3)] == [0, 1, 3]
    assert futures[2].cancelled()


def test_a_running_call_of_a_chunk_is_cancelled(executor: Executor, tmp_path: Path) -> None:
    """Its process is killed, and the next call begins."""

    def function(item: tuple[int, str]) -> int:
        import pathlib
        import time

        number, begun = item
        (pathlib.Path(begun) / str(number)).touch()
        while number == 0:
            time.sleep(0.01)
        return number

    futures = executor.map(function, [(x, str(tmp_path)) for x in range(3)], chunksize=3)
    assert is_there(tmp_path / "0")
    assert futures[0].cancel()
    assert [one.result(WAIT) for one in futures[1:]] == [1, 2]


def test_outcomes_of_chunks_are_arguments(executor: Executor) -> None:
    """A worker finds them on the pages of a journal; ``reduce`` and ``submit`` wait for them as usual."""
    futures = executor.map(lambda x: [x] * 3, range(12), chunksize=5)
    total = executor.reduce(lambda parts: sum(map(sum, parts)), futures)
    first = executor.submit(len, futures[0])
    assert (total.result(WAIT), first.result(WAIT)) == (3 * sum(range(12)), 3)


def test_big_outcomes_have_objects_of_their_own(executor: Executor) -> None:
    """Small ones are on the pages beside them."""
    futures = executor.map(lambda size: b"x" * size, [10, 3_000_000, 10, 400_000], chunksize=4)
    assert [len(one.result(WAIT)) for one in futures] == [10, 3_000_000, 10, 400_000]


def test_big_arguments_go_to_the_storage(executor: Executor) -> None:
    """A chunk refers to them."""
    items = [bytes([index]) * 300_000 for index in range(6)]
    assert pywren.get_all_results(executor.map(len, items, chunksize=3)) == [300_000] * 6
    assert [len(one) for one in payloads_of(executor)] == [3, 3]


def test_a_chunk_is_no_larger_than_a_payload(executor: Executor) -> None:
    """Arguments that are sent inside the payload make chunks smaller than asked for, where payloads are limited."""
    items = [bytes([index]) * 40_000 for index in range(30)]
    assert pywren.get_all_results(executor.map(len, items, chunksize=30)) == [40_000] * 30
    limited = executor.invoker.payload_limit is not None
    assert (len(payloads_of(executor)) > 1) == limited


def test_an_unpickled_future_finds_its_page(executor: Executor, config: dict[str, Any]) -> None:
    """In another process, which knows nothing of the driver."""
    futures = executor.map(lambda x: x + 0.5, range(6), chunksize=3)
    pywren.wait(futures)
    copies = pickle.loads(pickle.dumps(futures))
    assert [one.result(WAIT) for one in copies] == [x + 0.5 for x in range(6)]


def test_the_storage_of_0_4_finds_pages(executor: Executor) -> None:
    """``get_callset_status``, ``get_call_status`` and ``get_call_output`` do."""
    futures = executor.map(lambda x: x + 0.5, range(6), chunksize=3)
    pywren.wait(futures)
    storage, callset_id = executor.storage, futures[0].callset_id
    assert storage.get_callset_status(callset_id) == [one.call_id for one in futures]
    status = storage.get_call_status(callset_id, "00004")
    assert status is not None
    assert status["exception"] is None
    assert pickle.loads(storage.get_call_output(callset_id, "00004"))["result"] == 4.5


def test_the_end_of_a_block_and_cancel_all(executor: Executor, tmp_path: Path) -> None:
    """All calls of all chunks end, wherever they are."""

    def function(item: tuple[int, str]) -> None:
        import pathlib
        import time

        (pathlib.Path(item[1]) / "begun").touch()
        while True:
            time.sleep(0.01)

    # Which of the chunks begin first is for the service to say.
    futures = executor.map(function, [(x, str(tmp_path)) for x in range(40)], chunksize=5)
    assert is_there(tmp_path / "begun")
    assert executor.cancel_all() == 40
    assert all(one.cancelled() for one in futures)


def test_without_retries_outcomes_are_written_one_by_one(executor: Executor) -> None:
    """So that a call which may have begun is never started again."""
    futures = executor.map(abs, range(3), chunksize=3, retries=0)
    assert pywren.get_all_results(futures) == [0, 1, 2]
    keys = executor.storage.backend.list(executor.storage.keys(futures[0].callset_id).journals)
    assert [key.rpartition("/")[2] for key in keys] == ["0.json", "1.json", "2.json", "3.json"]


@pytest.mark.parametrize("chunksize", [0, -1, 2.5, "many", None, True])
def test_what_is_no_size(executor: Executor, chunksize: Any) -> None:
    """Nothing is invoked."""
    with pytest.raises(ArgumentError, match=r"chunksize is .*a whole number above 0"):
        executor.map(abs, [1, 2], chunksize=chunksize)
    assert payloads_of(executor) == []


@pytest.mark.parametrize(
    "options",
    [
        {"backup": True},
        {"name": "a job"},
        {"overwrite_invoke_args": {"attempt": 3}},
        {"extra_meta": {"chunk": 1}},
    ],
    ids=str,
)
def test_what_needs_an_invocation_for_each_call(executor: Executor, options: dict[str, Any]) -> None:
    """The error names it; with ``chunksize=1`` it may be given."""
    with pytest.raises(ArgumentError, match=f"chunksize is 2, but with {next(iter(options))}="):
        executor.map(abs, [1, 2], chunksize=2, **options)
    assert payloads_of(executor) == []


def test_other_verbs_take_a_size(executor: Executor) -> None:
    """They pass it on to ``map``."""
    futures = executor.starmap(pow, [(x, 2) for x in range(6)], chunksize=3)
    futures += executor.zip_map(pow, range(6), [3] * 6, chunksize=2)
    assert pywren.get_all_results(futures) == [*(x**2 for x in range(6)), *(x**3 for x in range(6))]
    assert list(executor.imap(abs, range(-10, 0), chunksize=5)) == list(range(10, 0, -1))
    assert sorted(map(len, payloads_of(executor))) == [2, 2, 2, 3, 3, 5, 5]


def test_by_default_short_calls_share_invocations(executor: Executor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones are alone: they show how long a call takes."""
    monkeypatch.setattr(executor, "_max_concurrency", 4)  # the next ones are invoked when these have ended
    futures = executor.map(lambda x: x + 1, range(200))
    assert pywren.get_all_results(futures) == list(range(1, 201))
    payloads: list[list[str]] = executor.payloads  # type: ignore[attr-defined]
    assert [len(one) for one in payloads[:4]] == [1] * 4
    assert max(map(len, payloads)) > 10
    # A worker of a busy machine hands calls back that take longer than others have.
    assert {call_id for one in payloads for call_id in one} == {one.call_id for one in futures}


def test_no_call_keeps_another_of_its_chunk_waiting(
    executor: Executor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Not even if it waits for it."""
    monkeypatch.setattr(executor, "_max_concurrency", 2)

    def function(item: tuple[int, str]) -> int:
        import time

        number, place = item
        if number == 120:
            open(place, "w").close()
        while number == 110 and not os.path.exists(place):
            time.sleep(0.01)
        return number

    futures = executor.map(function, [(x, str(tmp_path / "there")) for x in range(130)])
    assert [one.result(WAIT) for one in futures] == list(range(130))


class Silent(Invoker):
    """An invoker of a program that takes chunks, and runs nothing."""

    takes_chunks = True

    def __init__(self) -> None:
        self.payloads: list[Any] = []

    def invoke(self, payload: Any) -> None:
        self.payloads.append(payload)


class SilentAsIn04(Silent):
    """One that reads payloads."""

    def invoke(self, payload: Any) -> None:
        self.payloads.append(payload["call_id"])


@pytest.mark.parametrize(
    ("expected", "count", "options"),
    [
        (None, 100, {}),
        (None, 100, {"chunksize": "auto"}),
        (1, 99, {}),
        (1, 100, {"chunksize": 1}),
        (1, 100, {"retries": 0}),
        (1, 100, {"backup": True}),
        (1, 100, {"name": "one by one"}),
        (1, 100, {"overwrite_invoke_args": {"extra": 1}}),
        (1, 100, {"extra_meta": {"chunk": 1}}),
    ],
    ids=str,
)
def test_which_maps_are_in_chunks_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: int | None, count: int, options: dict[str, Any]
) -> None:
    """Those of many calls. Who forbids repeats wants that one dead worker costs one call."""
    monkeypatch.setenv("PYWREN_HOME", str(tmp_path))
    with Executor(Silent(), pywren.wrenconfig.default(), 60.0) as executor:
        futures = executor.map(abs, range(count), **options)
        assert futures[0]._origin.driver.policy.chunksize == expected  # type: ignore[attr-defined]
        assert futures[0]._origin.callset.has_chunks == (expected != 1)  # type: ignore[attr-defined]
        executor.cancel_all()


def test_an_invoker_that_invokes_in_its_own_way_gets_payloads_of_one_call() -> None:
    """As in 0.4: it may read them."""
    assert LambdaInvoker.takes_chunks
    assert Silent.takes_chunks
    assert not SilentAsIn04.takes_chunks


def test_where_an_invocation_takes_one_call_the_size_has_no_effect() -> None:
    """In the memory of this machine, with a dummy executor, and with a program's own invoker."""

    class Own:
        """An invoker as 0.4 has them."""

        def __init__(self) -> None:
            self.payloads: list[Any] = []

        def invoke(self, payload: Any) -> None:
            self.payloads.append(payload)

        def config(self) -> dict[str, Any]:
            return {}

    with pywren.local_executor() as here:
        assert pywren.get_all_results(here.map(abs, range(6), chunksize=3)) == list(range(6))
    dummy = pywren.dummy_executor()
    futures = dummy.map(abs, range(6), chunksize=3)
    assert len(dummy.invoker.payloads) == 6
    dummy.invoker.run_jobs()
    assert pywren.get_all_results(futures) == list(range(6))
    own = Own()
    Executor(own, pywren.wrenconfig.default(), 60.0).map(abs, range(6), chunksize=3)
    assert ["chunk" in one for one in own.payloads] == [False] * 6


def test_several_maps_in_several_threads(executor: Executor) -> None:
    """Their chunks share the service and nothing else."""
    results: dict[int, list[int]] = {}

    def work(number: int) -> None:
        results[number] = pywren.get_all_results(executor.map(abs, range(number, number + 8), chunksize=3))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert results == {number: list(range(number, number + 8)) for number in range(4)}
