"""Named jobs in a storage: making, finding, cancelling and resuming them, and what is not believed."""

from __future__ import annotations

import gc
import math
import os
import subprocess
import sys
import threading
import time
import weakref

import pytest

import pywren
from pywren import jobs as public
from pywren.client import jobs, staged_calls
from pywren.client.lease import Lease
from pywren.exceptions import (
    ArgumentError,
    CallCancelledError,
    IntegrityError,
    InvocationError,
    StorageError,
    VersionMismatchError,
    WorkerCrashedError,
)
from pywren.system.home import home, user_key
from pywren.wire.beacon import Beacon
from pywren.wire.failure import Failure
from pywren.wire.keys import JOB_NAME_LIMIT, job_key, jobs_prefix
from pywren.wire.manifest import ATTEMPTS_EACH, Resumption
from pywren.wire.status import Status


@pytest.fixture
def executor():
    """An executor whose calls run when the test says so."""
    executor = pywren.dummy_executor()
    yield executor
    executor.close()
    # Most tests never run their calls, and a client watches its jobs until they end.
    for origin in list(staged_calls._callsets):
        origin._with_callbacks.clear()


@pytest.fixture
def run(executor):
    """Run the calls that were invoked, also those of a resumed job."""

    def run_jobs(which=None):
        (which or executor).invoker.run_jobs()

    return run_jobs


def square(x):
    return x * x


def fail_on_odd(x):
    if x % 2:
        raise ValueError(x)
    return x


class Flag:
    """A function that fails until a file exists."""

    def __init__(self, path):
        self.path = str(path)

    def __call__(self, x):
        if x % 2 and not os.path.exists(self.path):
            raise ValueError(x)
        return x * 10


def outcomes(futures):
    return [future.exception() or future.result() for future in futures]


def overwrite(executor, key, data):
    executor.storage.put(key, data)


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["job-7", "../x", "/", "a/b/c", "ж ü 日本", " ", ".", "x" * JOB_NAME_LIMIT, "a\x1b[31m\n"]
)
def test_any_text_is_a_name(executor, run, name):
    """Names cannot lead out of the storage, and come back as they were given."""
    executor.map(square, [2, 3], name=name)
    run()
    assert outcomes(pywren.attach(name)) == [4, 9]
    (job,) = public.list_jobs()
    assert (job.name, job.total, job.done, job.failed, job.outstanding) == (name, 2, 2, 0, 0)
    assert all(key.startswith(f"{executor.storage.prefix}/") for key in executor.storage.backend.list(""))


@pytest.mark.parametrize("name", ["", "x" * 300, "\ud800", 7, b"job"])
def test_what_is_not_a_name_is_refused_before_anything_is_stored(executor, name):
    """The error says what a name is."""
    with pytest.raises(ArgumentError, match="name of a job"):
        executor.map(square, [1], name=name)
    assert executor.storage.backend.list("") == []


def test_a_name_that_is_taken_is_refused(executor, run):
    """The message says when the job was made, how to get its results, and how to free its name."""
    executor.map(square, range(3), name="night")
    with pytest.raises(
        ArgumentError, match=r"a job of 3 calls was made at 20\d\d-.* UTC.*attach\('night'\).*cancel"
    ) as info:
        executor.map(square, range(3), name="night")
    assert "Nothing was invoked" in str(info.value)
    run()
    assert outcomes(pywren.attach("night")) == [0, 1, 4]


def test_call_async_takes_a_name(executor, run):
    """A job may be a single call."""
    executor.call_async(square, 5, name="one")
    run()
    (future,) = pywren.attach("one")
    assert future.result() == 25


def test_of_two_clients_with_one_name_one_gets_it(executor, monkeypatch):
    """The race is decided by a conditional write, after both have found the name free."""
    monkeypatch.setattr(
        jobs, "require_free", lambda storage, name, real=jobs.require_free: _both_found.wait(30) or None
    )
    _both_found = threading.Barrier(2)
    errors, futures = [], []

    def make():
        try:
            futures.extend(executor.map(square, [1], name="race"))
        except ArgumentError as error:
            errors.append(error)

    real = jobs._put_record

    def put(storage, key, name, data):
        monkeypatch.setattr(jobs, "require_free", _refuse)
        real(storage, key, name, data)

    monkeypatch.setattr(jobs, "_put_record", put)
    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(futures), len(errors)) == (1, 1)


def _refuse(storage, name):
    raise ArgumentError(f"the name {name!r} is taken")


def test_the_name_of_an_expired_job_is_free(executor, run):
    """What is left of the job is not found, and another job may take its name."""
    (first,) = executor.map(square, [1], name="old")
    executor.storage.delete_callset(first.callset_id)
    assert public.list_jobs() == []
    with pytest.raises(ArgumentError, match="has expired"):
        pywren.attach("old")
    executor.invoker.payloads.clear()
    executor.map(square, [7], name="old")
    run()
    assert outcomes(pywren.attach("old")) == [49]


# -- finding -----------------------------------------------------------------------------------------------------------


def test_an_unknown_name_suggests_similar_ones(executor):
    """A typing error is the most frequent reason."""
    executor.map(square, [1], name="simulation-7")
    with pytest.raises(ArgumentError, match=r"no job 'simulation7'.*did you mean 'simulation-7'\?"):
        pywren.attach("simulation7")
    with pytest.raises(ArgumentError, match="`pywren jobs` lists"):
        pywren.attach("zzz")


def test_the_directory_outlives_the_executor_and_its_futures(executor, run):
    """A job on this machine is not deleted with what made it."""
    executor.map(square, [3], name="kept")
    run()
    executor.close()
    assert outcomes(pywren.attach("kept", storage=executor.storage)) == [9]


def test_big_and_small_arguments_in_any_place(executor, run, tmp_path):
    """Those inside the payloads, those in a common object and those with an object of their own can all run again."""
    flag = tmp_path / "flag"
    function = Fragments(flag)
    items = [b"s", b"x" * 200_000, b"y" * 5_000_000, b"t"]
    executor.map(function, items, name="together")
    executor.map(function, items[:2], name="apart", data_all_as_one=False)
    run()
    assert all(isinstance(error, ValueError) for error in outcomes(pywren.attach("together")))
    flag.touch()
    for name, expected in (("together", [1, 200_000, 5_000_000, 1]), ("apart", [1, 200_000])):
        futures = public.resume(name, executor=executor)
        run()
        assert outcomes(futures) == expected


class Fragments(Flag):
    """Return the length of the argument, once the file exists."""

    def __call__(self, x):
        if not os.path.exists(self.path):
            raise ValueError(len(x))
        return len(x)


def test_arguments_are_stored_in_pieces(executor, run, monkeypatch, tmp_path):
    """Many arguments share objects of limited size, and each is found in its own place."""
    monkeypatch.setattr(jobs, "PIECE", 20)
    executor.map(Flag(tmp_path / "flag"), range(60), name="pieces")
    run()
    (tmp_path / "flag").touch()
    futures = public.resume("pieces", executor=executor)
    run()
    assert outcomes(futures) == [10 * x for x in range(60)]
    (job,) = jobs.all_jobs(executor.storage)
    assert len({place.key for place in job.manifest.places}) > 5


# -- hostile storages --------------------------------------------------------------------------------------------------


def test_the_record_of_another_user_is_not_believed(executor, monkeypatch, tmp_path):
    """Without the key nothing is attached, listed or unpickled, and the message says which file is needed."""
    executor.map(square, [1], name="mine")
    monkeypatch.setenv("PYWREN_HOME", str(tmp_path / "other"))
    with pytest.raises(
        IntegrityError, match=r"job 'mine' .* not signed with the key of this user.*copy the file `key`"
    ):
        pywren.attach("mine", storage=executor.storage)
    assert public.list_jobs(storage=executor.storage) == []
    with pytest.raises(ArgumentError, match=r"taken .* by a job that this user cannot read"):
        executor.map(square, [1], name="mine")


def test_with_a_copy_of_the_key_another_machine_finds_it(executor, run, monkeypatch, tmp_path):
    """Only the key and the configuration are needed."""
    executor.map(square, [4], name="mine")
    run()
    other = tmp_path / "other"
    other.mkdir(0o700)
    (other / "key").write_bytes((home() / "key").read_bytes())
    (other / "key").chmod(0o600)
    monkeypatch.setenv("PYWREN_HOME", str(other))
    assert outcomes(pywren.attach("mine", storage=executor.storage)) == [16]


@pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 100, b"[" * 10_000, b"x" * 1_000_000])
def test_garbage_under_a_name_is_not_believed(executor, data):
    """It is neither listed nor attached, and the name counts as taken."""
    overwrite(executor, job_key(executor.storage.prefix, "bad"), data)
    executor.map(square, [1], name="good")
    assert [job.name for job in public.list_jobs()] == ["good"]
    with pytest.raises(IntegrityError, match="'bad'"):
        pywren.attach("bad")
    with pytest.raises(ArgumentError, match="taken"):
        executor.map(square, [1], name="bad")


def test_a_record_that_was_copied_to_another_name_is_not_believed(executor):
    """A record names its job."""
    executor.map(square, [1], name="a")
    record = executor.storage.get(job_key(executor.storage.prefix, "a"))
    overwrite(executor, job_key(executor.storage.prefix, "b"), record)
    with pytest.raises(IntegrityError, match="record of the job 'a'"):
        pywren.attach("b")
    assert [job.name for job in public.list_jobs()] == ["a"]


@pytest.mark.parametrize("change", [lambda data: b"", lambda data: data[:-1] + b"!", lambda data: data + b"!" * 10**6])
def test_a_manifest_that_was_changed_is_not_read(executor, change):
    """Its digest and its size are in the signed record."""
    (future,) = executor.map(square, [1], name="a")
    key = executor.storage.keys(future.callset_id).manifest
    overwrite(executor, key, change(executor.storage.get(key)))
    with pytest.raises(IntegrityError, match="not what was stored"):
        pywren.attach("a")


def test_statuses_that_nobody_signed_count_as_failed(executor, run):
    """A listing believes no value that is not signed, and counts no call that is not the job's."""
    (future,) = executor.map(square, [1], name="a")
    keys = executor.storage.keys(future.callset_id)
    overwrite(executor, keys.call("00000").status, Status(future.callset_id, "00000", outcome=b"x").encode(None))
    overwrite(executor, keys.call("00007").status, b"x")
    (job,) = public.list_jobs()
    assert (job.total, job.done, job.failed) == (1, 0, 1)
    overwrite(executor, keys.call("00000").status, b"x" * 5_000_000)
    (job,) = public.list_jobs()
    assert (job.total, job.done, job.failed) == (1, 0, 1)


def test_forged_resumptions_are_skipped(executor, run, tmp_path):
    """Anyone can write there; only what is signed counts."""
    futures = executor.map(Flag(tmp_path / "flag"), [1], name="a")
    run()
    keys = executor.storage.keys(futures[0].callset_id)
    secret = jobs.find(executor.storage, "a")._bare_callset.known_secret()
    overwrite(executor, keys.resumptions + "000001.json", b"forged")
    overwrite(executor, keys.resumptions + "999999.json", Resumption(1, 1.0, "copied").encode(secret))
    (tmp_path / "flag").touch()
    again = public.resume("a", executor=executor)
    run()
    assert outcomes(again) == [10]
    assert jobs.find(executor.storage, "a").callset().first_attempt == 2 * ATTEMPTS_EACH + 1


# -- resuming ----------------------------------------------------------------------------------------------------------


def test_only_what_failed_runs_again(executor, run, tmp_path):
    """Futures elsewhere that have not seen the failure get the value; those that have seen it keep it."""
    first = executor.map(Flag(tmp_path / "flag"), range(4), name="a")
    run()
    assert [type(one) for one in outcomes(first)] == [int, ValueError, int, ValueError]
    (tmp_path / "flag").touch()
    again = public.resume("a", executor=executor)
    assert {payload["call_id"] for payload in executor.invoker.payloads} == {"00001", "00003"}
    assert {payload["attempt"] for payload in executor.invoker.payloads} == {ATTEMPTS_EACH + 1}
    elsewhere = pywren.attach("a")
    run()
    assert outcomes(again) == outcomes(elsewhere) == [0, 10, 20, 30]
    assert isinstance(first[1].exception(), ValueError)
    (job,) = public.list_jobs()
    assert (job.done, job.failed) == (4, 0)


def test_a_job_may_be_resumed_again_and_again(executor, run, tmp_path):
    """Each resumption has numbers of attempts of its own."""
    executor.map(Flag(tmp_path / "flag"), [1], name="a")
    run()
    for number in (1, 2, 3):
        futures = public.resume("a", executor=executor)
        assert executor.invoker.payloads[0]["attempt"] == number * ATTEMPTS_EACH + 1
        run()
        assert isinstance(futures[0].exception(), ValueError)
    (tmp_path / "flag").touch()
    futures = public.resume("a", executor=executor)
    run()
    assert outcomes(futures) == [10]


def test_a_client_whose_job_was_taken_over_only_reads(executor, run):
    """It repeats nothing and gives nothing up, but its futures still get their values."""
    (future,) = executor.map(square, [3], name="a")
    origin = future._origin
    assert Lease(executor.storage, origin.callset).acquire(over_any=True)
    origin._lease._renewed = -math.inf  # a renewal is due
    origin._looker._last_listing = -math.inf
    callset, keys = origin.callset, origin.callset.call_keys("00000")
    report = Status(callset.id, "00000", 1, failure=Failure.of(WorkerCrashedError("killed", -9)))
    executor.storage.put(keys.attempt(1), report.encode(callset.attempt_key("00000", 1)))
    origin._poll()
    assert not origin._may_drive
    assert len(future.attempts) == 1
    assert origin.driver.counts().held == 0
    run()
    assert future.result() == 9


def test_what_earlier_attempts_left_behind_does_not_count(executor, run, tmp_path):
    """Neither reports of failed attempts nor beacons from before the job was resumed end its calls."""
    (future,) = executor.map(Flag(tmp_path / "flag"), [1], name="a")
    run()
    assert isinstance(future.exception(), ValueError)
    callset = jobs.find(executor.storage, "a").callset()
    keys = callset.call_keys("00000")
    crash = Failure.of(WorkerCrashedError("killed", -9))
    for number in (1, 2, 3):
        key = callset.attempt_key("00000", number)
        report = Status(callset.id, "00000", number, failure=crash)
        executor.storage.put(keys.attempt(number), report.encode(key))
        executor.storage.put(keys.beacon(number), Beacon(callset.id, "00000", number, 1.0).encode(key))
    (tmp_path / "flag").touch()
    (again,) = public.resume("a", executor=executor)
    again._origin._looker._last_listing = -math.inf  # the next look lists the callset, as it does every two seconds
    assert not again.done()
    assert [one.number for one in again.attempts] == [ATTEMPTS_EACH + 1]
    run()
    assert again.result() == 10


def test_a_job_that_is_done_is_left_alone(executor, run):
    """Nothing is invoked, not even if variables are missing."""
    executor.map(square, [1, 2], name="a", extra_env={"TOKEN": "x"})
    run()
    assert outcomes(public.resume("a", executor=executor)) == [1, 4]
    assert executor.invoker.payloads == []


def test_cancelled_calls_run_again(executor, run):
    """A job that was cancelled can be taken up again."""
    futures = executor.map(square, [1, 2], name="a")
    executor.invoker.payloads.clear()
    assert public.cancel("a") == 2
    assert public.cancel("a") == 0
    for future in (futures[0], pywren.attach("a")[1]):
        with pytest.raises(CallCancelledError):
            future.result()
    again = public.resume("a", executor=executor)
    run()
    assert outcomes(again) == [1, 4]


def test_values_of_variables_are_not_stored_and_must_be_given_again(executor, run, tmp_path):
    """The names of the missing variables are in the message."""
    secret = os.urandom(8).hex()  # not in the source of this module, which is sent along
    executor.map(Environment(tmp_path / "flag"), [1], name="a", extra_env={"TOKEN": secret, "OTHER": "b"})
    run()
    everything = b"".join(executor.storage.get(key) for key in executor.storage.backend.list(""))
    assert secret.encode() not in everything
    (tmp_path / "flag").touch()
    with pytest.raises(ArgumentError, match="pass OTHER, TOKEN again"):
        public.resume("a", executor=executor)
    futures = public.resume("a", executor=executor, extra_env={"TOKEN": "new", "OTHER": "b"})
    run()
    assert outcomes(futures) == ["new"]


class Environment(Flag):
    """Return a variable, once the file exists."""

    def __call__(self, x):
        if not os.path.exists(self.path):
            raise ValueError(x)
        return os.environ["TOKEN"]


def test_another_version_of_pywren_does_not_resume(executor, run, monkeypatch):
    """Its workers could not run what is stored."""
    executor.map(fail_on_odd, [1], name="a")
    run()
    monkeypatch.setattr(jobs, "__version__", "99.0")
    with pytest.raises(VersionMismatchError, match=r"made with pywren .* but this is pywren 99\.0"):
        public.resume("a", executor=executor)


def test_references_to_earlier_outcomes_are_stored(executor, run, tmp_path):
    """A call whose argument contains a future of another map can run again."""
    (earlier,) = executor.map(square, [5])
    run()
    earlier.result()
    executor.map(Nested(tmp_path / "flag"), [[earlier]], name="a")
    run()
    (tmp_path / "flag").touch()
    futures = public.resume("a", executor=executor)
    run()
    assert outcomes(futures) == [25]


class Nested(Flag):
    """Return the result of the future in the argument, once the file exists."""

    def __call__(self, x):
        if not os.path.exists(self.path):
            raise ValueError("too early")
        return x[0].result()


def test_a_failure_while_resuming_frees_the_lease(executor, run, tmp_path, monkeypatch):
    """Nothing is lost: the calls are missing now, and the next resumption runs them."""
    executor.map(Flag(tmp_path / "flag"), [1], name="a")
    run()
    (tmp_path / "flag").touch()
    with monkeypatch.context() as patch:
        patch.setattr(executor.invoker, "invoke", _refuse_to_invoke)
        with pytest.raises(InvocationError, match="not today"):
            public.resume("a", executor=executor)
    _forget_client(executor, "a")
    futures = public.resume("a", executor=executor)
    run()
    assert outcomes(futures) == [10]


def _refuse_to_invoke(payload):
    raise InvocationError("not today")


def _forget_client(executor, name):
    """Make the job look as if the process that runs its calls had ended."""
    callset = jobs.find(executor.storage, name).callset()
    path = jobs.client_file(executor.storage, callset)
    path.unlink()
    path.touch()


def test_a_living_client_keeps_others_from_resuming(executor):
    """The message says which process drives the job, and since when."""
    executor.map(square, [1], name="a")
    with pytest.raises(
        ArgumentError, match=rf"driven by process {os.getpid()} on .* since 20.* UTC.*Nothing was invoked"
    ) as caught:
        public.resume("a", executor=executor)
    # The lock of a client on this machine is gone with it; the lease of others stays for three minutes.
    assert "wait for the job with pywren.attach('a'), or end that client." in str(caught.value)


def test_of_two_clients_that_resume_at_once_one_does(executor, run, tmp_path, monkeypatch):
    """Between reading the statuses and the lease, the other one was faster."""
    executor.map(Flag(tmp_path / "flag"), [1], name="a")
    run()
    job = jobs.find(executor.storage, "a")
    other = Lease(executor.storage, job.callset())
    assert other.acquire()
    monkeypatch.setattr(jobs.time, "sleep", lambda seconds: None)
    with pytest.raises(ArgumentError, match="is driven by process"):
        public.resume("a", executor=executor)
    other.release()
    real = executor.storage.put

    def lose(key, data, *, if_absent=False):
        return False if "/resumed/" in key else real(key, data, if_absent=if_absent)

    monkeypatch.setattr(executor.storage, "put", lose)
    with pytest.raises(ArgumentError, match="another client resumes the job 'a' at this moment"):
        public.resume("a", executor=executor)
    monkeypatch.undo()


def test_the_executor_must_reach_the_same_workers(executor, run):
    """A job for the calls of this process is not sent elsewhere."""
    executor.map(fail_on_odd, [1], name="a")
    run()
    job = jobs.find(executor.storage, "a")
    with pytest.raises(ArgumentError, match="Resume it with an executor whose calls run there"):
        job.resume(executor._stager, _Elsewhere())


class _Elsewhere(pywren.invokers.Invoker):
    pass


def test_a_job_is_driven_to_its_end_even_if_nothing_holds_its_futures(executor, run):
    """Other processes may wait for it, so its client does not forget it."""
    futures = executor.map(square, [1], name="a")
    kept = weakref.ref(futures[0])
    del futures
    gc.collect()
    assert kept() is not None
    run()
    assert outcomes(pywren.attach("a")) == [1]
    deadline = time.monotonic() + 60
    while kept() is not None and time.monotonic() < deadline:
        time.sleep(0.01)
        gc.collect()
    assert kept() is None


# -- removing ----------------------------------------------------------------------------------------------------


def test_a_removed_job_leaves_nothing(executor, run):
    """Its objects are deleted, and its name is free."""
    executor.map(square, [1], name="a")
    run()
    assert public.remove("a") == 0
    assert [key for key in executor.storage.backend.list("") if not key.endswith("client")] == []
    executor.map(square, [2], name="a")


def test_a_job_that_runs_is_cancelled_before_it_is_removed(executor):
    """The statuses stay until they expire, because the workers must see them."""
    (future,) = executor.map(square, [1], name="a")
    assert public.remove("a") == 1
    with pytest.raises(CallCancelledError):
        future.result()
    keys = executor.storage.keys(future.callset_id)
    assert executor.storage.backend.list(keys.root) == [keys.call("00000").status]
    assert executor.storage.backend.list(jobs_prefix(executor.storage.prefix)) == []


# -- size and clocks ------------------------------------------------------------------------------------------


def test_a_hundred_thousand_calls(executor):
    """Making the record and the manifest takes a second or two, and finding the job less."""
    from pywren.client.callset import Callset
    from pywren.wire.call import Call

    callset = Callset(executor.storage.prefix, job_max_runtime=60)
    keys = callset.keys
    calls = [
        Call(
            executor.storage.storage_config, callset.id, f"{number:05d}", keys.func, "d", "o", "s", "c", 60,
            data_inline=b"%020d" % number,
        )
        for number in range(100_000)
    ]  # fmt: skip
    started = time.monotonic()
    jobs.publish(executor.storage, callset, calls, name="big", invoker=executor.invoker)
    made = time.monotonic() - started
    started = time.monotonic()
    job = jobs.find(executor.storage, "big")
    template = job.manifest.template(executor.storage.storage_config, callset.id)
    rebuilt = template.sibling("99999", keys.call("99999"), job.manifest.own(99_999))
    found = time.monotonic() - started
    place = rebuilt.data_byte_range
    assert executor.storage.get(rebuilt.data_key, place) == b"%020d" % 99_999
    size = job.record.manifest_size
    print(f"manifest of 100,000 calls: {size:,} bytes, made in {made:.2f} s, found in {found:.2f} s")
    assert size < 5_300_000
    assert made < 60
    assert found < 30


@pytest.mark.parametrize("wrong", [-3600.0, 3600.0])
def test_the_clocks_of_clients_do_not_matter(executor, run, monkeypatch, wrong):
    """Ages and leases are by the storage's clock, on both sides."""
    true = time.time
    monkeypatch.setattr(executor.storage.backend, "now", true)
    monkeypatch.setattr(time, "time", lambda: true() + wrong)
    executor.map(square, [3], name="a")
    run()
    monkeypatch.setattr(time, "time", lambda: true() - wrong)
    (job,) = public.list_jobs(storage=executor.storage)
    assert 0 <= job.age < 60
    assert outcomes(pywren.attach("a", storage=executor.storage)) == [9]


def test_a_storage_that_is_gone_is_a_storage_error(executor, monkeypatch):
    """It is not taken for a job that does not exist."""

    def fail(*args, **options):
        raise StorageError("no route")

    monkeypatch.setattr(executor.storage.backend, "get", fail)
    with pytest.raises(StorageError, match="no route"):
        pywren.attach("a", storage=executor.storage)


def test_the_key_of_jobs_is_not_the_key_of_callsets():
    """A signature for one purpose is of no use for another."""
    from pywren.wire.digests import callset_secret
    from pywren.wire.manifest import _signing_key

    assert _signing_key(user_key()) != callset_secret(user_key(), "jobs")


def test_a_program_waits_for_its_job_on_this_machine(tmp_path):
    """Row 380: its calls run to their end although nothing in the program waits for them."""
    script = tmp_path / "program.py"
    script.write_text(
        "import time, pywren\n"
        "def slow(x):\n    time.sleep(0.3)\n    return x + 1\n"
        "pywren.local_executor().map(slow, range(5), name='at the end')\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr
    assert [future.result(60) for future in public.attach("at the end")] == [1, 2, 3, 4, 5]
