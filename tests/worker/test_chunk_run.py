"""Chunks on a worker: several calls in one invocation, with the localhost storage and a real fork server."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from pywren.exceptions import DecodeError, StorageError
from pywren.pickling.packed import Packed, load_result
from pywren.storage import Storage
from pywren.version import PYTHON, __version__
from pywren.wire import digests
from pywren.wire.beacon import Beacon
from pywren.wire.call import Call
from pywren.wire.cause import Cause
from pywren.wire.chunk import Chunk
from pywren.wire.failure import Failure
from pywren.wire.function import StagedFunction
from pywren.wire.journal import FULL_PAGE, PAGE_LIMIT, Journal, Page, Plan
from pywren.wire.keys import CallsetKeys
from pywren.wire.outcome import INLINE_OUTCOME_LIMIT, Outcome
from pywren.wire.status import CLIENT_ATTEMPT, Status
from pywren.worker.handler import Container
from pywren.worker.parent.fork_server import ForkServer

pytestmark = pytest.mark.usefixtures("by_value")

SECRET = b"s" * 32
CALLSET = "callset"
KEYS = CallsetKeys("jobs", CALLSET)
WAIT = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    """Return one fork server for all tests, as in a warm worker."""
    made = ForkServer(lambda name, text: None)
    yield made
    made.close()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """Return a storage on this machine."""
    root = {"root": str(tmp_path / "store")}
    return Storage({"storage_backend": "localhost", "storage_prefix": "jobs", "backend_config": root})


@pytest.fixture
def container(server: ForkServer) -> Iterator[Container]:
    """Return a warm worker that looks at the journal often."""
    with Container(server, first_look=0.05, look_interval=0.05) as made:
        yield made


def chunk_of(
    storage: Storage, function: Callable[[Any], Any], items: list[Any], interval: float = 60.0, **changes: Any
) -> Chunk:
    """Return a chunk as a client makes it. Its outcomes are written at the end, unless a page is full before."""
    limit = changes.pop("time_limit", None)
    staged = StagedFunction(cloudpickle.dumps(function), {}).encode()
    storage.put(KEYS.func, staged)
    calls = []
    for index, item in enumerate(items):
        call_id = f"{index:05d}"
        keys = KEYS.call(call_id)
        call = Call(
            storage_config=storage.storage_config,
            callset_id=CALLSET,
            call_id=call_id,
            func_key=KEYS.func,
            data_key=keys.data,
            output_key=keys.output,
            status_key=keys.status,
            cancel_key=keys.cancel,
            job_max_runtime=60,
            pywren_version=__version__,
            python_version=PYTHON,
            host_submit_time=time.time(),
            func_sha256=digests.sha256(staged),
            func_size=len(staged),
            data_inline=cloudpickle.dumps(item),
            retryable=True,
        )
        calls.append(replace(call, **changes))
    first = calls[0]
    return Chunk(tuple(calls), digests.chunk_key(SECRET, f"{first.call_id}.{first.attempt}"), interval, limit)


def pages_of(storage: Storage, chunk: Chunk) -> list[Page]:
    """Return the pages of the journal of a chunk; all of them are signed."""
    found: list[Page] = []
    while True:
        number = len(found) + 1
        try:
            data = storage.get(KEYS.page(chunk.name, number))
        except StorageError:
            return found
        found.append(Page.verify(data, SECRET, CALLSET, chunk.name, number))


def journal_of(storage: Storage, chunk: Chunk) -> Journal:
    """Return what the journal of a chunk says."""
    journal = Journal(Plan(CALLSET, chunk.name, {call.call_id: call.attempt for call in chunk.calls}))
    for page in pages_of(storage, chunk):
        journal.add(page)
    return journal


def value_of(status: Status) -> Any:
    """Return what the function of a call returned."""
    decoded = Outcome.decode(status.outcome or b"")
    assert decoded.success
    return load_result(Packed(decoded.body))


def values(storage: Storage, chunk: Chunk) -> list[Any]:
    """Return the values in a journal, in the order in which it got them."""
    return [value_of(status) for status in journal_of(storage, chunk).outcomes.values()]


def write_mark(storage: Storage, chunk: Chunk, number: int, *cancelled: str, last: bool = False) -> bool:
    """Write a page as a client does that cancels calls or ends the journal."""
    failure = Failure("CallCancelledError", "the call was cancelled", cause=Cause.CANCELLED)
    statuses = [Status(CALLSET, call_id, CLIENT_ATTEMPT, failure) for call_id in cancelled]
    page = Page(CALLSET, chunk.name, number, statuses, last=last)
    data = page.encode(digests.mark_key(SECRET, chunk.name))
    return storage.put(KEYS.page(chunk.name, number), data, if_absent=True)


def touch_and_wait(pair: tuple[str, str]) -> str:
    """Say that the call runs, and run until it is told to end."""
    import pathlib
    import time

    begun, end = map(pathlib.Path, pair)
    begun.touch()
    while end.name and not end.exists():
        time.sleep(0.005)
    return begun.name


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + WAIT
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(0.005)


class Running:
    """A worker that runs a chunk on another thread."""

    def __init__(self, container: Container, chunk: Chunk) -> None:
        self.result: Any = None
        self._thread = threading.Thread(target=self._run, args=(container, chunk))
        self._thread.start()

    def _run(self, container: Container, chunk: Chunk) -> None:
        self.result = container.handle(chunk.encode())

    def end(self) -> Any:
        self._thread.join(WAIT)
        assert not self._thread.is_alive()
        return self.result


# -- what a chunk does -----------------------------------------------------------------------------------------------


def test_a_chunk_is_one_page(container: Container, storage: Storage) -> None:
    """Calls run in order, and what became of them is in the journal and nowhere else."""
    chunk = chunk_of(storage, lambda x: x * x, [3, 4, 5])
    result = container.handle(chunk.encode(), {"aws_request_id": "request", "log_stream_name": "stream"})
    assert result == {"callset_id": CALLSET, "chunk": "00000.1", "ran": 3, "handed_back": 0}
    assert values(storage, chunk) == [9, 16, 25]
    assert journal_of(storage, chunk).ended
    assert len(pages_of(storage, chunk)) == 1
    assert storage.finished_calls(CALLSET) == []
    info = journal_of(storage, chunk).outcomes["00001"].info
    assert (info["aws_request_id"], info["log_stream_name"]) == ("request", "stream")
    assert info["start_time"] <= info["end_time"]
    assert info["status_key"] == KEYS.call("00001").status


def test_each_call_has_its_own_output(container: Container, storage: Storage) -> None:
    """Also where they run in the same process."""
    chunk = chunk_of(storage, print, ["one", "two"])
    container.handle(chunk.encode())
    outcomes = journal_of(storage, chunk).outcomes
    assert [outcomes[one].info["stdout"] for one in ("00000", "00001")] == ["one\n", "two\n"]


@pytest.mark.parametrize("how", ["raises", "exits", "dies", "times out"])
def test_a_call_that_fails_ends_alone(container: Container, storage: Storage, how: str) -> None:
    """The next call runs in a fresh process, if the one before has ended its own."""

    def run(fails: bool) -> str:
        import os
        import signal
        import time

        if fails and how == "raises":
            raise ValueError(how)
        if fails and how == "exits":
            os._exit(3)
        if fails and how == "dies":
            os.kill(os.getpid(), signal.SIGSEGV)
        if fails:
            time.sleep(WAIT)
        return "fine"

    runtime = 5.0 if how == "times out" else 60
    chunk = chunk_of(storage, run, [False, True, False], job_max_runtime=runtime)
    container.handle(chunk.encode())
    journal = journal_of(storage, chunk)
    assert not journal.missing()
    assert not journal.reports
    failed = journal.outcomes.pop("00001")
    assert [value_of(status) for status in journal.outcomes.values()] == ["fine", "fine"]
    if how == "raises":
        assert not Outcome.decode(failed.outcome or b"").success
    else:
        assert failed.failure is not None
        assert failed.failure.cause is (Cause.TIMED_OUT if how == "times out" else Cause.ENDED_ITSELF)


def test_a_failure_that_may_be_repeated_is_a_report(container: Container, storage: Storage) -> None:
    """As it would be under a key of its own for a single call."""
    chunk = chunk_of(storage, lambda x: 1 // x, [1, 0, 1], retry_exceptions=True)
    container.handle(chunk.encode())
    journal = journal_of(storage, chunk)
    assert list(journal.reports) == ["00001"]
    assert list(journal.outcomes) == ["00000", "00002"]


def test_a_big_outcome_has_its_own_object(container: Container, storage: Storage) -> None:
    """The page has its key and its digest."""
    chunk = chunk_of(storage, lambda n: b"x" * n, [1, INLINE_OUTCOME_LIMIT + 1])
    container.handle(chunk.encode())
    status = journal_of(storage, chunk).outcomes["00001"]
    assert status.outcome is None
    assert status.output_key == KEYS.call("00001").output
    assert digests.sha256(storage.get(status.output_key)) == status.output_sha256


def fill(item: tuple[int, str]) -> bytes:
    """Return so many bytes, once the call is told to end."""
    import pathlib
    import time

    size, end = item
    while end and not pathlib.Path(end).exists():
        time.sleep(0.005)
    return b"x" * size


def test_a_full_page_is_written_at_once(container: Container, storage: Storage, tmp_path: Path) -> None:
    """However seldom pages are written otherwise, and while the next call runs."""
    size, end = INLINE_OUTCOME_LIMIT - 1_000, tmp_path / "end"
    chunk = chunk_of(storage, fill, [(size, "")] * 11 + [(size, str(end))])
    running = Running(container, chunk)
    try:
        deadline = time.monotonic() + WAIT
        while not pages_of(storage, chunk):
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        end.touch()
        running.end()
    pages = pages_of(storage, chunk)
    assert len(pages) >= 2
    assert all(len(storage.get(KEYS.page(chunk.name, page.number))) < PAGE_LIMIT for page in pages)
    assert len(pages[0].statuses) * size >= FULL_PAGE * 3 // 5
    assert [len(value) for value in values(storage, chunk)] == [size] * 12


def test_outcomes_show_while_later_calls_run(container: Container, storage: Storage, tmp_path: Path) -> None:
    """A page is written a moment after its first outcome, and names the call that runs."""
    items = [(str(tmp_path / "a"), ""), (str(tmp_path / "b"), str(tmp_path / "end"))]
    chunk = chunk_of(storage, touch_and_wait, items, 0.01)
    running = Running(container, chunk)
    deadline = time.monotonic() + WAIT
    while not pages_of(storage, chunk):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert values(storage, chunk) == ["a"]
    assert pages_of(storage, chunk)[0].running in (None, "00001")
    (tmp_path / "end").touch()
    running.end()
    assert values(storage, chunk) == ["a", "b"]


def test_with_an_interval_of_0_each_outcome_is_written_before_the_next_call_starts(
    container: Container, storage: Storage
) -> None:
    """So a dead worker has started no call but the first whose outcome is missing."""
    chunk = chunk_of(storage, lambda x: x, [1, 2, 3], 0.0)
    container.handle(chunk.encode())
    assert [len(one.statuses) for one in pages_of(storage, chunk)] == [1, 1, 1]


def test_the_beacon_is_that_of_the_first_call(container: Container, storage: Storage, tmp_path: Path) -> None:
    """It is signed with the key of the chunk, because the payload has no other."""
    chunk = chunk_of(storage, touch_and_wait, [(str(tmp_path / "a"), str(tmp_path / "end"))] * 2, beacon=True)
    running = Running(container, chunk)
    deadline = time.monotonic() + WAIT
    while (data := storage.read_beacon(CALLSET, "00000", 1)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    (tmp_path / "end").touch()
    running.end()
    assert Beacon.verify(data, SECRET, CALLSET, "00000", 1).started_at > 0


# -- others write into the journal ---------------------------------------------------------------------------------


def test_a_mark_cancels_one_call(container: Container, storage: Storage, tmp_path: Path) -> None:
    """The call that runs is stopped, one that waits does not start, and the chunk goes on."""
    begun = tmp_path / "begun"
    items = [(str(begun), str(tmp_path / "never")), (str(tmp_path / "second"), ""), (str(tmp_path / "third"), "")]
    chunk = chunk_of(storage, touch_and_wait, items)
    running = Running(container, chunk)
    wait_for(begun)
    assert write_mark(storage, chunk, 1, "00000", "00001")
    running.end()
    outcomes = journal_of(storage, chunk).outcomes
    assert [outcomes[one].failure is not None for one in ("00000", "00001", "00002")] == [True, True, False]
    assert not (tmp_path / "second").exists()


def test_an_ended_journal_takes_nothing_more(container: Container, storage: Storage, tmp_path: Path) -> None:
    """A worker presumed dead stops, and can add nothing."""
    begun = tmp_path / "begun"
    chunk = chunk_of(storage, touch_and_wait, [(str(begun), str(tmp_path / "never")), (str(tmp_path / "b"), "")])
    running = Running(container, chunk)
    wait_for(begun)
    assert write_mark(storage, chunk, 1, last=True)
    running.end()
    assert len(pages_of(storage, chunk)) == 1
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("mark", [b"garbage", b"{}", b"x" * (PAGE_LIMIT + 1)], ids=["garbage", "empty", "huge"])
def test_a_worker_stops_at_what_is_no_page(container: Container, storage: Storage, mark: bytes) -> None:
    """For readers the journal ends there."""
    chunk = chunk_of(storage, lambda x: x, [1, 2])
    storage.put(KEYS.page(chunk.name, 1), mark)
    container.handle(chunk.encode())
    with pytest.raises(StorageError):
        storage.get(KEYS.page(chunk.name, 2))


def test_a_late_chunk_that_was_taken_back_does_not_start(
    container: Container, storage: Storage, tmp_path: Path
) -> None:
    """It waited in a queue until its client had given up on it."""
    items = [(str(tmp_path / "a"), ""), (str(tmp_path / "b"), "")]
    chunk = chunk_of(storage, touch_and_wait, items, host_submit_time=time.time() - 60)
    write_mark(storage, chunk, 1, last=True)
    assert container.handle(chunk.encode()) is not None
    assert not (tmp_path / "a").exists()


def test_two_deliveries_share_one_journal(container: Container, storage: Storage) -> None:
    """Lambda delivers at least once. Each call is in the journal once."""
    chunk = chunk_of(storage, lambda x: x, [1, 2, 3], 0.0)
    first = Page(CALLSET, chunk.name, 1, [Status(CALLSET, "00000", 1, outcome=Outcome(True, b"").encode())])
    storage.put(KEYS.page(chunk.name, 1), first.encode(chunk.key))
    container.handle(chunk.encode())
    ids = [status.call_id for page in pages_of(storage, chunk) for status in page.statuses]
    assert ids == ["00000", "00001", "00002"]


# -- the end of a chunk --------------------------------------------------------------------------------------------


def test_the_rest_goes_back_after_the_time_limit(container: Container, storage: Storage) -> None:
    """A page says so, or does not mention them: they never started."""
    chunk = chunk_of(storage, lambda x: x, [1, 2, 3], time_limit=-1.0)
    assert container.handle(chunk.encode()) == {"callset_id": CALLSET, "chunk": "00000.1", "ran": 1, "handed_back": 2}
    journal = journal_of(storage, chunk)
    assert journal.ended
    assert list(journal.outcomes) == ["00000"]
    assert set(journal.missing()) | set(journal.reports) == {"00001", "00002"}


def test_the_rest_goes_back_while_a_call_runs(container: Container, storage: Storage, tmp_path: Path) -> None:
    """A long call keeps none of the others waiting, not even those that it waits for."""
    items = [(str(tmp_path / "a"), str(tmp_path / "end")), (str(tmp_path / "b"), ""), (str(tmp_path / "c"), "")]
    chunk = chunk_of(storage, touch_and_wait, items, time_limit=0.05)
    running = Running(container, chunk)
    deadline = time.monotonic() + WAIT
    while not pages_of(storage, chunk):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    page = pages_of(storage, chunk)[0]
    assert {one.call_id: one.failure.cause for one in page.statuses if one.failure} == dict.fromkeys(
        ["00001", "00002"], Cause.HANDED_BACK
    )
    assert page.reports == {"00001", "00002"}
    (tmp_path / "end").touch()
    running.end()
    assert values(storage, chunk) == ["a"]
    assert journal_of(storage, chunk).ended
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(("retryable", "ran"), [(True, 3), (False, 1)])
def test_the_rest_goes_back_when_time_is_short(
    container: Container, storage: Storage, retryable: bool, ran: int
) -> None:
    """A call that may not be repeated starts only with the time that it would have had alone."""
    chunk = chunk_of(storage, lambda x: x, [1, 2, 3], retryable=retryable, job_max_runtime=1000)
    result = container.handle(chunk.encode(), {"remaining_seconds": 60.0})
    assert result is not None
    assert result["ran"] == ran


def test_no_time_is_left_for_a_second_call(container: Container, storage: Storage) -> None:
    """The first runs in any case, as it would alone."""
    chunk = chunk_of(storage, lambda x: __import__("time").sleep(x), [0.3, 0.0], job_max_runtime=10)
    result = container.handle(chunk.encode(), {"remaining_seconds": 5.5})
    assert result is not None
    assert (result["ran"], result["handed_back"]) == (1, 1)


def test_a_worker_in_trouble_hands_back_the_rest(server: ForkServer, storage: Storage) -> None:
    """What it reports may be repeated, and the others have not been started."""

    class Unreadable(Storage):
        def get(self, key: str, *args: Any, **options: Any) -> bytes:
            if key == KEYS.func:
                raise StorageError("the storage is down")
            return super().get(key, *args, **options)

    chunk = chunk_of(storage, lambda x: x, [1, 2])
    with Container(server, make_storage=Unreadable) as container:
        container.handle(chunk.encode())
    journal = journal_of(storage, chunk)
    assert journal.ended
    assert list(journal.reports) == ["00000"]
    assert journal.missing() == ["00001"]


def test_an_altered_argument_ends_its_call(container: Container, storage: Storage) -> None:
    """It is not unpickled, and the others run."""
    chunk = chunk_of(storage, lambda x: x, [1, 2])
    storage.put(KEYS.call("00000").data, b"altered")
    bad = replace(chunk.calls[0], data_inline=None, data_sha256="0" * 64, data_size=7)
    container.handle(replace(chunk, calls=(bad, chunk.calls[1])).encode())
    outcomes = journal_of(storage, chunk).outcomes
    failure = outcomes["00000"].failure
    assert failure is not None
    assert failure.kind == "IntegrityError"
    assert value_of(outcomes["00001"]) == 2


def test_another_version_refuses_all_calls(container: Container, storage: Storage) -> None:
    """Nothing runs, and each call has the error."""
    chunk = chunk_of(storage, os._exit, [1, 2], pywren_version="9.0")
    container.handle(chunk.encode())
    outcomes = journal_of(storage, chunk).outcomes
    assert [one.failure.kind for one in outcomes.values() if one.failure] == ["VersionMismatchError"] * 2


def test_a_chunk_that_cannot_be_read_is_refused_at_its_first_call(container: Container, storage: Storage) -> None:
    """There the client looks, too."""
    payload = chunk_of(storage, os._exit, [1, 2]).encode()
    payload["chunk"]["items"] = "none"
    with pytest.raises(DecodeError):
        container.handle(payload)
    data = storage.read_status(CALLSET, "00000")
    assert data is not None
    failure = Status.decode(data).failure
    assert failure is not None
    assert failure.kind == "DecodeError"


# -- the storage fails ---------------------------------------------------------------------------------------------


class Failing(Storage):
    """A storage that cannot write pages for a while."""

    failures = 0

    def put(self, key: str, data: Any, *, if_absent: bool = False) -> bool:
        if KEYS.parse_page(key) is not None and type(self).failures > 0:
            type(self).failures -= 1
            raise StorageError("the storage is down")
        return super().put(key, data, if_absent=if_absent)


class AnswerLost(Storage):
    """A storage whose client sends a request again, because the answer to the first was lost."""

    def put(self, key: str, data: Any, *, if_absent: bool = False) -> bool:
        super().put(key, data, if_absent=if_absent)
        return super().put(key, data, if_absent=if_absent)


def test_pages_are_written_later_when_the_storage_fails(
    server: ForkServer, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calls go on meanwhile."""
    monkeypatch.setattr(Failing, "failures", 1)
    chunk = chunk_of(storage, lambda x: __import__("time").sleep(0.1) or x, [1, 2, 3], 0.01)
    with Container(server, make_storage=Failing) as container:
        container.handle(chunk.encode())
    assert values(storage, chunk) == [1, 2, 3]


@pytest.mark.parametrize("interval", [0.0, 60.0])
def test_a_worker_that_cannot_write_fails(
    server: ForkServer, storage: Storage, monkeypatch: pytest.MonkeyPatch, interval: float
) -> None:
    """The platform records it. With an interval of 0 no further call has started."""
    monkeypatch.setattr(Failing, "failures", 1_000)
    chunk = chunk_of(storage, lambda x: x, [1, 2], interval)
    with (
        Container(server, make_storage=Failing) as container,
        pytest.raises(StorageError, match="the storage is down"),
    ):
        container.handle(chunk.encode())
    assert Failing.failures >= (998 if interval else 999)
    assert pages_of(storage, chunk) == []


def test_a_page_that_was_written_already_is_recognized(server: ForkServer, storage: Storage) -> None:
    """It is not taken for that of another worker."""
    chunk = chunk_of(storage, lambda x: x, [1, 2], 0.0)
    with Container(server, make_storage=AnswerLost) as container:
        container.handle(chunk.encode())
    assert [page.number for page in pages_of(storage, chunk)] == [1, 2]
    assert values(storage, chunk) == [1, 2]


def test_no_thread_can_be_started(container: Container, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program ends, or has too many: the thread that runs the calls writes the pages."""

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "pywren-status-watch":
            raise RuntimeError("can't start new thread")
        start(thread)

    start = threading.Thread.start
    chunk = chunk_of(storage, lambda x: x, [1, 2], 0.0)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    container.handle(chunk.encode())
    assert values(storage, chunk) == [1, 2]
