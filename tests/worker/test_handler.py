"""The handler: from a payload to a committed status, with the localhost storage and a real fork server."""

import os
import sys
import threading
import time
from dataclasses import replace
from functools import partial

import cloudpickle
import pytest

from pywren.exceptions import DecodeError, StorageError
from pywren.pickling.packed import Packed, in_band, load_result, loads
from pywren.storage import Storage
from pywren.version import __version__
from pywren.wire import digests
from pywren.wire.beacon import Beacon
from pywren.wire.call import FORMAT, Call, Envelope
from pywren.wire.cause import CURABLE, Cause
from pywren.wire.failure import Failure
from pywren.wire.function import StagedFunction
from pywren.wire.keys import CallsetKeys
from pywren.wire.outcome import INLINE_OUTCOME_LIMIT, Outcome
from pywren.wire.references import Reference, encode_references
from pywren.wire.status import STATUS_LIMIT, Status
from pywren.worker import memory
from pywren.worker.handler import Container
from pywren.worker.parent.fork_server import ForkServer
from pywren.worker.task import RunResult
from pywren.wrenhandler import aws_lambda_handler, generic_handler

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SECRET = b"s" * 32
WAIT = 30.0


@pytest.fixture(scope="module")
def runner():
    """Return one fork server for all tests, as in a warm worker."""
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def storage(tmp_path):
    """Return a localhost storage."""
    return Storage(
        {
            "storage_backend": "localhost",
            "storage_prefix": "jobs",
            "backend_config": {"root": str(tmp_path / "store")},
        }
    )


@pytest.fixture
def container(runner):
    """Return a warm worker."""
    with Container(runner) as made:
        yield made


class Client:
    """A client that stages calls."""

    def __init__(self, storage, callset_id="callset"):
        self.storage = storage
        self.callset_id = callset_id
        self.keys = CallsetKeys("jobs", callset_id)

    def call(self, function, argument, call_id="00000", modules=None, **changes):
        staged = StagedFunction(cloudpickle.dumps(function), modules or {}).encode()
        data = cloudpickle.dumps(argument)
        keys = self.keys.call(call_id)
        self.storage.put(self.keys.func, staged)
        self.storage.put(keys.data, data)
        attempt = changes.get("attempt", 1)
        call = Call(
            storage_config=self.storage.storage_config,
            callset_id=self.callset_id,
            call_id=call_id,
            func_key=self.keys.func,
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
            data_sha256=digests.sha256(data),
            data_size=len(data),
            attempt_key=digests.attempt_key(SECRET, call_id, attempt),
        )
        return replace(call, **changes)

    def move_to(self, callset_id):
        """Be the client of another callset from now on."""
        self.callset_id, self.keys = callset_id, CallsetKeys("jobs", callset_id)
        return self

    def status(self, call_id="00000"):
        data = self.storage.read_status(self.callset_id, call_id)
        return None if data is None else Status.verify(data, SECRET, self.callset_id, call_id)

    def result(self, call_id="00000"):
        status = self.status(call_id)
        assert status.signed
        assert status.failure is None
        outcome = status.outcome
        if outcome is None:
            outcome = self.storage.get(status.output_key)
            assert digests.sha256(outcome) == status.output_sha256
        decoded = Outcome.decode(outcome)
        assert decoded.success
        return load_result(Packed(decoded.body))


@pytest.fixture
def client(storage):
    """Return the client."""
    return Client(storage)


# -- a successful call ---------------------------------------------------------------------------------------


def test_a_call_ends_with_a_signed_status(container, client):
    """The status has the call's key, is signed with the attempt's key, and contains the value."""
    document = container.handle(client.call(lambda x: x + 1, 41).encode())
    assert client.result() == 42
    assert document["call_id"] == "00000"
    assert "outcome" not in document


def test_a_payload_is_decoded_once(container, client, monkeypatch):
    """The envelope is decoded separately only when this version cannot read the whole payload."""
    decoded = []
    real = Call.decode.__func__
    monkeypatch.setattr(Call, "decode", classmethod(lambda cls, payload: decoded.append(payload) or real(cls, payload)))
    monkeypatch.setattr(Envelope, "decode", lambda payload: pytest.fail("the payload was decoded twice"))
    payload = client.call(abs, -1).encode()
    container.handle(payload)
    assert client.result() == 1
    assert decoded == [payload]


def test_the_status_tells_what_0_4_told(container, client):
    """The status contains 0.4's statistics of the run."""

    def talkative(x):
        print("häl", x)
        print("err", file=sys.stderr)

    call = client.call(talkative, "lo")
    context = {"aws_request_id": "r-1", "log_group_name": "g", "log_stream_name": "s", "remaining_seconds": 100.0}
    container.handle(call.encode(), context)
    info = client.status().info
    assert info["stdout"] == "häl lo\n"
    assert info["stderr"] == "err\n"
    assert info["start_time"] <= info["end_time"]
    assert info["retcode"] == 0
    assert info["func_key"] == call.func_key
    assert info["data_key"] == call.data_key
    assert info["status_key"] == call.status_key
    assert info["host_submit_time"] == call.host_submit_time
    assert info["free_disk_bytes"] > 0
    assert "uname" in info["server_info"]
    assert (info["aws_request_id"], info["log_group_name"], info["log_stream_name"]) == ("r-1", "g", "s")
    for name in ("setup_time", "exec_time", "func_download_time", "data_download_time", "output_upload_time"):
        assert info[name] >= 0
    assert {"runtime_cached", "runtime_s3_key_used", "runtime_s3_bucket_used"} <= set(info)


def test_runtime_cached_is_true_on_a_warm_worker_only(container, client):
    """It is False for a worker's first call, and for one that asks for a fresh runtime."""
    seen = []
    for index, cached in enumerate((True, True, False)):
        call = client.call(len, "abc", call_id=f"{index:05d}", use_cached_runtime=cached)
        seen.append(container.handle(call.encode())["runtime_cached"])
    assert seen == [False, True, False]


def test_an_argument_may_travel_inside_the_payload(container, client):
    """A small argument needs no object of its own."""
    call = client.call(lambda x: x * 2, None, data_inline=cloudpickle.dumps("ab"), data_sha256=None)
    client.storage.backend.delete([call.data_key])
    container.handle(call.encode())
    assert client.result() == "abab"


def test_an_argument_may_be_a_range_of_a_shared_object(container, client):
    """Only the range is read, and the digest is that of the range."""
    parts = [cloudpickle.dumps(text) for text in ("first", "second", "third")]
    client.storage.put(client.keys.aggdata, b"".join(parts))
    begin = len(parts[0])
    call = client.call(
        str.upper,
        None,
        data_key=client.keys.aggdata,
        data_byte_range=(begin, begin + len(parts[1]) - 1),
        data_sha256=digests.sha256(parts[1]),
    )
    container.handle(call.encode())
    assert client.result() == "SECOND"


def test_a_big_outcome_has_an_object_of_its_own(container, client):
    """An outcome that is too big for the status is stored first, and the status has its key and digest."""
    container.handle(client.call(lambda n: b"x" * n, INLINE_OUTCOME_LIMIT + 1).encode())
    assert client.status().outcome is None
    assert client.status().output_key == client.keys.call("00000").output
    assert client.status().output_size > INLINE_OUTCOME_LIMIT
    assert client.result() == b"x" * (INLINE_OUTCOME_LIMIT + 1)


def test_a_raised_exception_is_an_outcome(container, client):
    """The user's exception is an outcome, not a failure: it is returned pickled, with its traceback as text."""

    def fail(x):
        raise ValueError(f"not {x}")

    container.handle(client.call(fail, 7).encode())
    status = client.status()
    assert status.failure is None
    assert not Outcome.decode(status.outcome).success
    assert "in fail" in status.exception_traceback
    assert "ValueError: not 7" in status.exception_traceback


def test_shipped_modules_are_importable(container, client):
    """The child can import the modules that were sent with the function."""

    def use(_):
        import handler_test_module

        return handler_test_module.ANSWER

    container.handle(client.call(use, None, modules={"handler_test_module.py": b"ANSWER = 42\n"}).encode())
    assert client.result() == 42


def test_extra_env_reaches_the_function_over_the_containers(runner, client):
    """The call's variables override the worker's."""

    def look(names):
        import os

        return [os.environ.get(name) for name in names]

    with Container(runner, environment={"A": "worker", "B": "worker"}) as container:
        container.handle(client.call(look, ["A", "B", "C"], extra_env={"B": "call", "C": "call"}).encode())
    assert client.result() == ["worker", "call", "call"]


def test_the_trace_of_the_invocation_reaches_the_function(runner, client, monkeypatch):
    """The SDKs that a function uses send the trace of its own invocation, so that AWS sees endless recursion."""

    def look(_):
        import os

        return os.environ.get("_X_AMZN_TRACE_ID")

    with Container(runner) as container:
        for call_id, trace in [("00000", "Root=1;Lineage=a:0"), ("00001", "Root=1;Lineage=a:1"), ("00002", None)]:
            if trace is None:
                monkeypatch.delenv("_X_AMZN_TRACE_ID")
            else:
                monkeypatch.setenv("_X_AMZN_TRACE_ID", trace)
            container.handle(client.call(look, None, call_id).encode())
            assert client.result(call_id) == trace


def test_0_4s_entry_runs_one_call(client):
    """``generic_handler`` runs a call in a new worker, with the given variables."""

    def look(_):
        import os

        return os.environ["HERE"]

    generic_handler(client.call(look, None).encode(), {"jobnum": "3"}, {"HERE": "yes"})
    assert client.result() == "yes"
    assert client.status().info["jobnum"] == "3"


class LambdaContext:
    """Lambda's context object."""

    aws_request_id = "request"
    log_group_name = "group"
    log_stream_name = "stream"

    def get_remaining_time_in_millis(self):
        """Return the remaining time, as on Lambda."""
        return 60_000


def test_the_lambda_entry_runs_one_call(client):
    """The function sees one BLAS thread, and the status names the invocation and its log."""

    def threads(_):
        import os

        return os.environ["OMP_NUM_THREADS"]

    aws_lambda_handler(client.call(threads, None).encode(), LambdaContext())
    assert client.result() == "1"
    assert client.status().info["aws_request_id"] == "request"


# -- references ----------------------------------------------------------------------------------------------


def refer(client, values, *, in_status):
    """Store outcomes of earlier calls and return references to them."""
    references = []
    for index, value in enumerate(values):
        outcome = Outcome(True, cloudpickle.dumps(value)).encode()
        keys = CallsetKeys("jobs", "earlier").call(f"{index:05d}")
        key = keys.status if in_status else keys.output
        status = Status(callset_id="earlier", call_id=f"{index:05d}", outcome=outcome)
        client.storage.put(key, status.encode(None) if in_status else outcome)
        digest = digests.sha256(outcome)
        references.append(Reference(key, digest, "earlier", f"{index:05d}", len(outcome)))
    return tuple(references)


def argument_of_references(count):
    """Pickle a list of futures, each for one reference."""
    import concurrent.futures

    from pywren.pickling.packed import dumps

    futures = [concurrent.futures.Future() for _ in range(count)]
    places = {id(future): index for index, future in enumerate(futures)}
    return dumps(futures, persistent_id=lambda obj: places.get(id(obj))).data


total = lambda futures: sum(future.result() for future in futures)  # noqa: E731 - pickled by value


@pytest.mark.parametrize("in_status", [True, False])
def test_references_are_fetched_and_verified(container, client, in_status):
    """Futures in an argument arrive finished, from a status or from an output object."""
    references = refer(client, [1, 2, 39], in_status=in_status)
    call = client.call(total, None, references=references, data_inline=argument_of_references(3))
    container.handle(call.encode())
    assert client.result() == 42


def test_a_long_list_of_references_is_an_object(container, client):
    """A list that is too long for the payload is read from the storage, and verified."""
    references = encode_references(refer(client, range(5), in_status=False))
    client.storage.put(client.keys.call("00000").references, references)
    call = client.call(total, None, references_sha256=digests.sha256(references), data_inline=argument_of_references(5))
    container.handle(call.encode())
    assert client.result() == 10


# -- integrity -----------------------------------------------------------------------------------------------


def poison(path):
    """Return a pickle that creates a file when it is loaded."""

    class Poison:
        def __reduce__(self):
            return open, (path, "w")

    return cloudpickle.dumps(Poison())


@pytest.mark.parametrize("what", ["func", "data", "reference", "references"])
def test_an_altered_object_is_reported_and_never_unpickled(container, client, tmp_path, what):
    """A wrong digest gives a signed IntegrityError that names the object; nothing was unpickled."""
    trace = tmp_path / "unpickled"
    references = refer(client, [1, 2], in_status=False)
    listed = encode_references(references)
    client.storage.put(client.keys.call("00000").references, listed)
    call = client.call(len, "abc", references=references)
    if what == "references":
        call = replace(call, references=(), references_sha256=digests.sha256(listed))
    key = {
        "func": call.func_key,
        "data": call.data_key,
        "reference": references[1].key,
        "references": client.keys.call("00000").references,
    }[what]
    bad = StagedFunction(poison(str(trace))).encode() if what == "func" else poison(str(trace))
    client.storage.put(key, bad)
    container.handle(call.encode())
    status = client.status()
    assert status.signed
    assert status.failure.kind == "IntegrityError"
    assert key in status.failure.message
    assert not trace.exists()


class ReadsCounted(Storage):
    """A storage that counts the bytes read of each object."""

    def __init__(self, config):
        super().__init__(config)
        self.bytes = {}

    def get(self, key, byte_range=None, *, limit=None):
        try:
            data = super().get(key, byte_range, limit=limit)
        except StorageError:
            self.bytes[key] = limit
            raise
        self.bytes[key] = len(data)
        return data


@pytest.mark.parametrize("what", ["func", "data", "reference", "references", "status"])
def test_an_object_that_was_made_huge_is_not_read(runner, client, what):
    """Row 224: an object made huge cannot fill a worker's memory, because only the size in the payload is read."""
    references = refer(client, [1, 2], in_status=what == "status")
    listed = encode_references(references)
    client.storage.put(client.keys.call("00000").references, listed)
    call = client.call(len, "abc", references=references)
    if what == "references":
        changes = {"references_sha256": digests.sha256(listed), "references_size": len(listed)}
        call = replace(call, references=(), **changes)
    key = {
        "func": call.func_key,
        "data": call.data_key,
        "reference": references[1].key,
        "references": client.keys.call("00000").references,
        "status": references[1].key,
    }[what]
    stored = client.storage.get(key)
    client.storage.put(key, stored + b"x" * (STATUS_LIMIT + 1))
    made = []
    with Container(runner, make_storage=lambda config: made.append(ReadsCounted(config)) or made[0]) as container:
        container.handle(call.encode())
    assert made[0].bytes[key] == (STATUS_LIMIT if what == "status" else len(stored))
    assert (client.status().signed, client.status().failure.kind) == (True, "IntegrityError")
    assert key in client.status().failure.message


def test_a_status_that_nobody_would_read_is_not_written(client):
    """A status has a size limit; above it the call ends with an error that says so."""
    result = RunResult(True, Packed(cloudpickle.dumps(1)), info={"notes": "x" * (STATUS_LIMIT + 1)})
    with Container(FakeRunner(result)) as container:
        container.handle(client.call(len, "abc").encode())
    assert client.status().signed
    assert "but the limit is" in client.status().failure.message


def test_a_call_without_digests_is_not_run(container, client):
    """The call is refused."""
    container.handle(client.call(len, "abc", func_sha256=None).encode())
    assert client.status().failure.kind == "IntegrityError"


def test_a_missing_object_is_reported(container, client):
    """A missing function is an error that names its key."""
    call = client.call(len, "abc")
    client.storage.backend.delete([call.func_key])
    container.handle(call.encode())
    assert client.status().failure.kind == "StorageNoSuchKeyError"
    assert call.func_key in client.status().failure.message


def test_an_altered_function_is_not_taken_from_the_cache(container, client):
    """The cache's key includes the digest, so another function under the same object key is another entry."""
    container.handle(client.call(lambda x: 1, None).encode())
    container.handle(client.call(lambda x: 2, None, call_id="00001").encode())
    assert (client.result("00000"), client.result("00001")) == (1, 2)


def test_a_kept_function_is_not_fetched_again(container, client):
    """A warm worker runs the next call of a map without reading the function."""
    container.handle(client.call(len, "abc").encode())
    call = client.call(len, "abcd", call_id="00001")
    client.storage.backend.delete([call.func_key])
    container.handle(call.encode())
    assert client.result("00001") == 4


# -- what a worker refuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"pywren_version": "0.4.0"}, {"python_version": "2.7"}])
def test_another_version_is_refused_before_anything_is_read(container, client, changes):
    """The error names both versions and says how to redeploy."""
    call = client.call(len, "abc", **changes)
    client.storage.backend.delete([call.func_key, call.data_key])
    container.handle(call.encode())
    failure = client.status().failure
    assert failure.kind == "VersionMismatchError"
    assert "version mismatch" in failure.message
    assert __version__ in failure.message
    assert next(iter(changes.values())) in failure.message
    assert "pywren deploy_lambda" in failure.message


@pytest.mark.parametrize("number", [1, FORMAT - 1, FORMAT + 1, 10**30])
def test_another_format_is_refused(container, client, number):
    """Two builds of one version may differ in what they send. The error names both formats, and is final."""
    call = client.call(len, "abc", format=number, retryable=True, retry_exceptions=True)
    client.storage.backend.delete([call.func_key, call.data_key])
    container.handle(call.encode())
    failure = client.status().failure
    assert failure.kind == "VersionMismatchError"
    assert failure.cause is Cause.REFUSED
    assert f"format {number}, the worker reads format {FORMAT}" in failure.message
    assert "pywren deploy_lambda" in failure.message


@pytest.mark.parametrize(
    ("name", "value"), [("func_key", 7), ("format", "next"), ("format", None), ("beacon", "often")]
)
def test_a_payload_of_another_format_is_refused_as_such(container, client, name, value):
    """A format that this worker does not know may have any fields. Only the envelope is read."""
    payload = {**client.call(len, "abc", format=FORMAT + 1).encode(), name: value}
    container.handle(payload)
    assert client.status().signed
    assert client.status().failure.kind == "VersionMismatchError"


def test_a_payload_of_another_version_is_refused_as_such(container, client):
    """A version mismatch is reported even when this version cannot read the payload."""
    payload = client.call(len, "abc", pywren_version="9.0").encode()
    del payload["func_key"]
    container.handle(payload)
    assert client.status().failure.kind == "VersionMismatchError"


@pytest.mark.parametrize("payload", [None, 3, [], "text", {}, {"storage_config": 7, "status_key": "x/status.json"}])
def test_what_is_no_payload_raises(container, payload):
    """A payload without an envelope raises, because there is no other way to report it."""
    with pytest.raises(DecodeError):
        container.handle(payload)


def test_a_broken_payload_leaves_an_error_where_it_says(container, client):
    """If a broken payload has a status key, an error is written there for the client."""
    payload = client.call(len, "abc").encode()
    payload["func_key"] = 7
    with pytest.raises(DecodeError, match="func_key"):
        container.handle(payload)
    assert client.status().failure.kind == "DecodeError"


def test_a_broken_payload_without_a_key_leaves_an_unsigned_error(container, client):
    """Without the attempt's key the status is unsigned, and can only become an error."""
    payload = client.call(len, "abc").encode()
    del payload["attempt_key"], payload["func_key"]
    with pytest.raises(DecodeError):
        container.handle(payload)
    assert not client.status().signed
    assert client.status().failure is not None


# -- failures of the child -----------------------------------------------------------------------------------


def test_a_crash_is_a_failure(container, client):
    """A child that ends without an outcome is reported with its exit code."""
    container.handle(client.call(lambda code: os._exit(code), 3).encode())
    status = client.status()
    assert status.signed
    assert (status.failure.kind, status.failure.details) == ("WorkerCrashedError", (3,))
    assert status.info["retcode"] == 3


def test_a_call_is_stopped_at_its_time(container, client):
    """A call that exceeds ``job_max_runtime`` is killed."""
    container.handle(client.call(time.sleep, 600, job_max_runtime=0.3).encode())
    assert client.status().failure.kind == "CallTimeoutError"
    assert "ran out of time" in client.status().failure.message


def test_a_call_is_stopped_before_the_platform_ends_the_worker(container, client):
    """The function's remaining time, minus the time to report, also limits a call."""
    container.handle(client.call(time.sleep, 600).encode(), {"remaining_seconds": 3.4})
    assert client.status().failure.kind == "CallTimeoutError"


class FakeRunner:
    """A runner that ends every task in the same way."""

    def __init__(self, result):
        self.result = result
        self.ended = 0

    def run(self, task, *, stopped=None):
        """Return the prepared result."""
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def end_waiting(self):
        """Count the calls of this method."""
        self.ended += 1

    def close(self):
        """Do nothing."""


@pytest.mark.parametrize(
    ("first", "second", "ended"),
    [
        ({}, {}, 1),
        ({}, {"callset_id": "another"}, 2),
        ({"client_process": "a"}, {"client_process": "a", "callset_id": "another"}, 1),
        ({"client_process": "a"}, {"client_process": "b", "callset_id": "another"}, 2),
        ({"client_process": "a"}, {"callset_id": "another"}, 2),
        ({}, {"client_process": "callset"}, 2),
        ({"client_process": "a"}, {"client_process": "a", "func_sha256": "0"}, 2),
        ({"client_process": "a"}, {"client_process": "a", "runtime_url": "s3://b/k", "runtime_sha256": "0"}, 2),
        ({}, {"use_cached_runtime": False}, 2),
        ({"client_process": "a"}, {"client_process": "a", "use_cached_runtime": False}, 2),
    ],
)
def test_which_maps_find_the_processes_of_the_last_one(client, first, second, ended):
    """Those of the same function, from the same process of a client; for others, idle processes end first."""
    runner = FakeRunner(RuntimeError("not run"))
    with Container(runner) as container:
        container.handle(client.call(len, "a", **first).encode())
        container.handle(client.call(len, "b", "00001", **second).encode())
    assert runner.ended == ended


OURS = {"client_process": "a client"}
SLOW_TO_IMPORT = {"slow_to_import.py": b"import os\nimported_in = os.getpid()\n"}


def counting():
    """Return a function of a program: it returns its process, and how often it was called as far as it knows."""
    calls = []

    def count(argument):
        import slow_to_import

        calls.append(argument)
        return os.getpid(), slow_to_import.imported_in, len(calls)

    return count


def test_the_next_map_of_a_function_finds_its_imports(client):
    """It runs in the process of the last map, with the function as it was sent."""
    send = partial(client.call, counting(), modules=SLOW_TO_IMPORT)
    with Container() as container:
        for number, changes in enumerate([OURS, OURS, OURS, {"client_process": "another"}]):
            client.move_to(f"map {number}")
            container.handle(send(0, **changes).encode())
            assert client.result()[2] == 1
        found = [client.move_to(f"map {number}").result()[:2] for number in range(4)]
    assert found[0] == found[1] == found[2]
    assert not {*found[0]} & {*found[3]}


def test_a_warm_process_runs_nothing_unverified(client, tmp_path):
    """The function of the next map is verified as that of the first, though an equal one has run already."""
    function = counting()

    def look(argument):
        return os.getpid(), "slow_to_import" in sys.modules

    with Container() as container:
        container.handle(client.call(function, 0, modules=SLOW_TO_IMPORT, **OURS).encode())
        first = client.result()
        client.move_to("the next map")
        call = client.call(function, 0, modules=SLOW_TO_IMPORT, **OURS)
        replaced = StagedFunction(cloudpickle.dumps(lambda _: (tmp_path / "ran").touch())).encode()
        client.storage.put(call.func_key, replaced)
        container.handle(call.encode())
        assert client.status().failure.kind == "IntegrityError"
        # Whoever can send payloads, and knows how this client names itself, gets no process of another function.
        client.move_to("a forger's map")
        container.handle(client.call(look, 0, **OURS).encode())
        pid, is_imported = client.result()
    assert pid != first[0]
    assert not is_imported
    assert not (tmp_path / "ran").exists()


def test_whatever_the_handler_survives_is_reported(client):
    """An error in the worker itself ends the call, and includes its traceback."""
    with Container(FakeRunner(RuntimeError("a bug"))) as container:
        container.handle(client.call(len, "abc").encode())
    assert client.status().signed
    assert client.status().failure.kind == "CallError"
    assert "RuntimeError: a bug" in client.status().failure.message


def left_by_attempt(client, attempt=1, call_id="00000"):
    """Return what a failed attempt left for the client to decide about; ``None`` if it left nothing."""
    data = client.storage.read_attempt(client.callset_id, call_id, attempt)
    return None if data is None else Status.verify(data, SECRET, client.callset_id, call_id)


@pytest.mark.parametrize(
    ("failure", "cause"),
    [
        (Failure("CallLostError", "gone"), Cause.VANISHED),
        (Failure("WorkerCrashedError", "the server is gone", (None,)), Cause.KILLED),
        (Failure("WorkerCrashedError", "killed", (-9,)), Cause.KILLED),
        (Failure("WorkerCrashedError", "terminated", (-15,), Cause.KILLED), Cause.KILLED),
        (Failure("StorageError", "503"), Cause.WORKER_FAILED),
        (Failure("ShutdownError", "the pool is closed"), Cause.WORKER_FAILED),
    ],
    ids=str,
)
def test_a_lost_attempt_that_may_be_retried_does_not_end_the_call(client, failure, cause):
    """The status of a lost attempt has its own key, so that another attempt can end the call."""
    lost = RunResult(None, None, failure=failure, returncode=None)
    with Container(FakeRunner(lost)) as container:
        container.handle(client.call(len, "abc", attempt=2, retryable=True).encode())
    assert client.status() is None
    status = left_by_attempt(client, 2)
    assert status.signed
    assert status.failure == failure._replace(cause=cause)


@pytest.mark.parametrize(
    "failure",
    [
        Failure("CallTimeoutError", "too long"),
        Failure("WorkerCrashedError", "exit code 3", (3,)),
        Failure("WorkerCrashedError", "it killed itself", (-9,), Cause.ENDED_ITSELF),
        Failure("WorkerCrashedError", "too much", (-9,), Cause.OUT_OF_MEMORY),
        Failure("ResultSerializationError", "a lock"),
    ],
    ids=str,
)
def test_what_the_function_did_is_repeated_only_on_request(client, failure):
    """Another attempt would most likely end the same way, so it needs ``retry_exceptions``."""
    with Container(FakeRunner(RunResult(None, None, failure=failure, returncode=None))) as container:
        container.handle(client.call(len, "abc", "00000", retryable=True).encode())
        container.handle(client.call(len, "abc", "00001", retryable=True, retry_exceptions=True).encode())
    assert client.status("00000").failure.kind == failure.kind
    assert left_by_attempt(client, call_id="00000") is None
    assert client.status("00001") is None
    assert left_by_attempt(client, call_id="00001").failure.cause not in CURABLE


@pytest.mark.parametrize("failure", [Failure("CallCancelledError", "cancelled"), Failure("IntegrityError", "forged")])
def test_what_no_attempt_can_cure_ends_the_call(client, failure):
    """A cancelled call and a replaced object stay what they are, whatever the client retries."""
    with Container(FakeRunner(RunResult(None, None, failure=failure, returncode=None))) as container:
        container.handle(client.call(len, "abc", retryable=True, retry_exceptions=True).encode())
    assert client.status().failure.kind == failure.kind
    assert left_by_attempt(client) is None


@pytest.mark.parametrize("size", [3, INLINE_OUTCOME_LIMIT + 1])
def test_an_exception_that_may_be_retried_does_not_end_the_call(container, client, size):
    """The exception is kept with the attempt, in the same form as an outcome that counts."""

    def fails(size):
        raise ConnectionError("x" * size)

    container.handle(client.call(fails, size, attempt=2, retryable=True, retry_exceptions=True).encode())
    assert client.status() is None
    status = left_by_attempt(client, 2)
    assert status.signed
    outcome = Outcome.decode(status.outcome or client.storage.get(status.output_key))
    assert not outcome.success
    assert outcome.exception == "ConnectionError"
    container.handle(client.call(fails, size, "00001", retryable=True).encode())
    assert client.status("00001").failure is None
    assert left_by_attempt(client, call_id="00001") is None


def test_a_value_always_ends_the_call(container, client):
    """Whatever may be retried, a success is final."""
    container.handle(client.call(len, "abc", retryable=True, retry_exceptions=True).encode())
    assert client.result() == 3
    assert left_by_attempt(client) is None


def test_of_an_attempt_that_was_delivered_twice_the_first_failure_counts(client):
    """Lambda may deliver an event twice; the second failure does not replace the first."""
    call = client.call(len, "abc", retryable=True).encode()
    for text in ("first", "second"):
        failure = Failure("CallLostError", text)
        with Container(FakeRunner(RunResult(None, None, failure=failure, returncode=None))) as container:
            container.handle(call)
    assert left_by_attempt(client).failure.message == "first"


def test_a_failed_attempt_costs_one_request(client):
    """The worker only writes: it does not check what other attempts did."""
    requests = []

    class CountingStorage(Storage):
        def get(self, key, byte_range=None, **options):
            requests.append(key)
            return super().get(key, byte_range, **options)

        def put(self, key, data, **options):
            requests.append(key)
            return super().put(key, data, **options)

    lost = RunResult(None, None, failure=Failure("CallLostError", "gone"), returncode=None)
    with Container(FakeRunner(lost), make_storage=CountingStorage) as container:
        call = client.call(len, "abc", retryable=True, data_inline=cloudpickle.dumps("abc"), beacon=True)
        container.handle(call.encode())
    assert requests == [client.keys.func, client.keys.call("00000").attempt(1)]


def test_a_crash_is_final_even_if_the_call_may_be_retried(container, client):
    """``os._exit`` is final, because the function would do it again."""
    container.handle(client.call(lambda code: os._exit(code), 3, retryable=True).encode())
    assert client.status().failure.kind == "WorkerCrashedError"
    assert client.status().failure.cause is Cause.ENDED_ITSELF


def test_a_missing_function_is_final(container, client):
    """What was deleted does not come back."""
    call = client.call(len, "abc", retryable=True, retry_exceptions=True)
    client.storage.backend.delete([client.keys.func])
    container.handle(call.encode())
    assert client.status().failure.cause is Cause.REFUSED


@pytest.mark.parametrize("kills", [(3, 4), (3, 3), (None, None)])
def test_exhausted_memory_is_named(client, monkeypatch, kills):
    """A process that the system killed for its memory is told from one that somebody killed."""
    counts = list(kills)
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", raising=False)
    monkeypatch.setattr(memory, "oom_kills", lambda *root: counts.pop(0))
    killed = Failure("WorkerCrashedError", "killed\nlast lines of stdout:\n  x", (-9,), Cause.KILLED)
    with Container(FakeRunner(RunResult(None, None, failure=killed, returncode=-9))) as container:
        container.handle(client.call(len, "abc", retryable=True).encode())
    if kills == (3, 4):
        failure = client.status().failure
        assert failure.cause is Cause.OUT_OF_MEMORY
        assert failure.message.startswith("the call ran out of memory")
        assert failure.message.endswith("last lines of stdout:\n  x")
    else:
        assert client.status() is None
        assert left_by_attempt(client).failure == killed


# -- signs of life -------------------------------------------------------------------------------------------


def test_a_quick_call_has_no_beacon(container, client):
    """Calls under two seconds cost no request more."""
    container.handle(client.call(len, "abc", beacon=True).encode())
    assert client.storage.look(client.callset_id) == (["00000"], [], {}, [])


def test_a_slow_call_shows_that_it_runs(runner, client):
    """The beacon is signed, names the worker, and is renewed."""
    context = {"aws_request_id": "r-1", "log_group_name": "/aws/lambda/f", "log_stream_name": "stream"}
    with Container(runner, first_look=0.1, look_interval=0.1, beacon_interval=0.2) as container:
        started = time.time()
        container.handle(client.call(time.sleep, 1.0, attempt=2, beacon=True).encode(), context)
    data = client.storage.read_beacon(client.callset_id, "00000", 2)
    beacon = Beacon.verify(data, SECRET, client.callset_id, "00000", 2)
    assert beacon.renewed >= 1
    assert started <= beacon.started_at <= started + 1
    assert (beacon.request_id, beacon.log_group, beacon.where) == ("r-1", "/aws/lambda/f", "stream")
    assert list(client.storage.look(client.callset_id).beacons) == [("00000", 2)]


@pytest.mark.parametrize("changes", [{}, {"beacon": True, "attempt_key": None}], ids=["not asked", "no key"])
def test_a_call_without_a_beacon(runner, client, changes):
    """A client that does not ask for a beacon, or sends no key to sign it with, gets none."""
    with Container(runner, first_look=0.1, look_interval=0.1) as container:
        container.handle(client.call(time.sleep, 0.5, **changes).encode())
    assert client.storage.look(client.callset_id) == (["00000"], [], {}, [])


def test_setting_up_a_runtime_shows_too(client):
    """The beacon comes before the child runs: a big function or runtime takes long to fetch."""
    seen = threading.Event()

    class SlowStorage(Storage):
        def get(self, key, byte_range=None, **options):
            if key.endswith("func.pickle"):
                assert seen.wait(WAIT)
            return super().get(key, byte_range, **options)

        def put(self, key, data, **options):
            if key.endswith(".beacon"):
                seen.set()
            return super().put(key, data, **options)

    result = RunResult(True, Packed(cloudpickle.dumps(1)))
    with Container(FakeRunner(result), make_storage=SlowStorage, first_look=0.1, look_interval=0.1) as container:
        container.handle(client.call(len, "abc", beacon=True).encode())
    assert client.result() == 1


def test_a_beacon_that_cannot_be_written_does_not_end_the_call(runner, client, caplog):
    """The storage refuses the first two writes: they are logged, and the next turn tries again."""
    writes = []

    class RefusingStorage(Storage):
        def put(self, key, data, **options):
            if key.endswith(".beacon"):
                writes.append(key)
                if len(writes) < 3:
                    raise StorageError("503 Slow Down")
            return super().put(key, data, **options)

    with Container(runner, make_storage=RefusingStorage, first_look=0.05, look_interval=0.05) as container:
        container.handle(client.call(time.sleep, 1.0, beacon=True).encode())
    assert client.result() is None
    assert len(writes) == 3
    assert caplog.text.count("cannot show that call 00000 still runs: 503 Slow Down") == 2


def test_a_call_that_was_ended_elsewhere_writes_no_beacon_any_more(runner, client):
    """The watch looks for a status before it writes."""
    call = client.call(time.sleep, WAIT, beacon=True)
    client.storage.put_cancelled(call.callset_id, call.call_id)
    with Container(runner, first_look=0.1, look_interval=0.1) as container:
        assert container.handle(call.encode()) is None
    assert client.storage.look(client.callset_id).beacons == {}


def test_output_is_cut_to_its_end(client):
    """A status contains only the end of the output."""
    result = RunResult(True, Packed(cloudpickle.dumps(1)), stdout="x" * 10**6 + "end", stderr="é" * 10**6)
    with Container(FakeRunner(result)) as container:
        container.handle(client.call(len, "abc").encode())
    assert client.status().info["stdout"].endswith("xend")
    assert len(client.storage.read_status(client.callset_id, "00000")) < 400_000


def test_out_of_band_buffers_are_joined_without_unpickling():
    """A result that a pool keeps in pieces is stored as one pickle that any reader can load."""
    np = pytest.importorskip("numpy")
    from pywren.pickling.packed import dumps

    array = np.arange(100_000.0)
    packed = dumps({"a": array}, out_of_band=True)
    assert packed.buffers
    loaded = loads(Packed(in_band(packed)))
    assert (loaded["a"] == array).all()
    loaded["a"][0] = 7.0  # still writable


# -- one way to end a call -----------------------------------------------------------------------------------


def test_the_first_commit_stands(container, client):
    """A call that is delivered twice runs twice, and its first status is final."""
    first = container.handle(client.call(lambda x: x, "first").encode())
    second = container.handle(client.call(lambda x: x, "second").encode())
    assert first is not None
    assert second is None
    assert client.result() == "first"


def test_a_late_delivery_does_not_touch_the_output_of_the_first(container, client):
    """The second delivery's big outcome does not overwrite the first one's."""
    size = INLINE_OUTCOME_LIMIT + 1
    container.handle(client.call(lambda n: b"1" * n, size).encode())
    container.handle(client.call(lambda n: b"2" * n, size).encode())
    assert client.result() == b"1" * size


def test_a_planted_output_is_not_adopted(container, client):
    """A forged object at the output's key is not used."""
    size = INLINE_OUTCOME_LIMIT + 1
    client.storage.put(client.keys.call("00000").output, b"planted")
    container.handle(client.call(lambda n: b"1" * n, size).encode())
    assert client.result() == b"1" * size


def test_a_call_that_ended_before_it_started_is_not_run(container, client, tmp_path):
    """A late call checks for a status first, and a cancelled one is not run."""
    trace = tmp_path / "ran"
    call = client.call(lambda path: open(path, "w").close(), str(trace), host_submit_time=time.time() - 60)
    client.storage.put_cancelled(call.callset_id, call.call_id, "CANCEL")
    assert container.handle(call.encode()) is None
    assert not trace.exists()


def test_a_late_call_that_has_not_ended_is_run(container, client):
    """A late call without a status is run."""
    container.handle(client.call(len, "abc", host_submit_time=time.time() - 60).encode())
    assert client.result() == 3


def test_of_late_calls_one_a_second_looks(client):
    """Of many late calls, only one a second sends the request."""
    reads = []

    class CountingStorage(Storage):
        def get(self, key, byte_range=None, **options):
            reads.append(key)
            return super().get(key, byte_range, **options)

    now = time.time()
    result = RunResult(True, Packed(cloudpickle.dumps(1)))
    with Container(FakeRunner(result), make_storage=CountingStorage, clock=lambda: now) as container:
        for index in range(6):
            call = client.call(len, "abc", call_id=f"{index:05d}", host_submit_time=now - 60)
            container.handle(call.encode())
            now += 0.5
    assert sum(key.endswith("status.json") for key in reads) == 3


def test_once_a_late_call_had_ended_the_next_looks_too(client):
    """After one late call had a status, the next one checks too."""
    runner = FakeRunner(RunResult(True, Packed(cloudpickle.dumps(1))))
    calls = [client.call(len, "abc", call_id=f"{index:05d}", host_submit_time=1.0) for index in range(4)]
    for call in calls[1:]:
        client.storage.put_cancelled(call.callset_id, call.call_id, "CANCEL")
    now = 100.0
    ended = []
    with Container(runner, clock=lambda: now) as container:
        for call in calls:
            ended.append(container.handle(call.encode()))
            now += 1.1 if len(ended) == 1 else 0.1
    assert ended[0] is not None
    assert ended[1:] == [None] * 3


def test_a_running_call_that_is_ended_elsewhere_is_killed(runner, client, tmp_path):
    """The worker notices that a status exists, kills the child and leaves the status alone."""
    started = tmp_path / "started"

    def wait_for_ever(path):
        import threading

        open(path, "w").close()
        threading.Event().wait()

    call = client.call(wait_for_ever, str(started))
    with Container(runner, first_look=0.05, look_interval=0.05) as container:
        ended = []
        thread = threading.Thread(target=lambda: ended.append(container.handle(call.encode())))
        thread.start()
        deadline = time.monotonic() + WAIT
        while not started.exists() and time.monotonic() < deadline:
            thread.join(0.01)
        client.storage.put_cancelled(call.callset_id, call.call_id, "CANCEL")
        thread.join(WAIT)
    assert ended == [None]
    assert client.status().failure.kind == "CallCancelledError"


def test_a_quick_call_costs_no_look(client):
    """Only a long or late call checks for a status."""

    reads = []

    class CountingStorage(Storage):
        def get(self, key, byte_range=None, **options):
            reads.append(key)
            return super().get(key, byte_range, **options)

    result = RunResult(True, Packed(cloudpickle.dumps(1)))
    with Container(FakeRunner(result), make_storage=CountingStorage) as container:
        call = client.call(len, "abc")
        container.handle(call.encode())
    assert reads == [call.func_key, call.data_key]


def test_a_storage_is_made_once(client):
    """Connections are kept between calls."""
    made = []

    def make(config):
        made.append(Storage(config))
        return made[-1]

    result = RunResult(True, Packed(cloudpickle.dumps(1)))
    with Container(FakeRunner(result), make_storage=make) as container:
        for index in range(3):
            container.handle(client.call(len, "abc", call_id=f"{index:05d}").encode())
    assert len(made) == 1
