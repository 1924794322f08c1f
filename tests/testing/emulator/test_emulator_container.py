"""What an execution environment does with the deployed code: real processes, isolated and not.

Pages cited: [dg] docs.aws.amazon.com/lambda/latest/dg/<page>.html, [pricing] aws.amazon.com/lambda/pricing,
[blog] aws.amazon.com/blogs/compute/<page>.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytest.importorskip("awslambdaric")

from pywren.testing.emulator import _environment
from pywren.testing.emulator._container import Container, Invocation, Reply, can_isolate
from pywren.testing.emulator._functions import Code, Revision
from pywren.testing.emulator._interpreter import PYTHON, make_interpreter
from pywren.testing.emulator._settings import Limits, Settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory and descendants are read from /proc")

HANDLER = '''
import json, os, signal, subprocess, sys, time, uuid

calls = 0
process = uuid.uuid4().hex
def handler(event, context):
    global calls
    calls += 1
    return globals()[event["do"]](event, context)

def count(event, context): return [os.getpid(), calls]
def which(event, context): return [process, calls, open("/proc/self/cmdline").read().split(chr(0))[1:-1]]
def echo(event, context): return event
def fail(event, context): raise ValueError("no such thing")
def leave(event, context): sys.exit(event.get("code", 3))
def vanish(event, context): os._exit(4)
def suicide(event, context): os.kill(os.getpid(), signal.SIGKILL)
def say(event, context): os.write(1, event["text"].encode("latin-1"))
def large(event, context): return "x" * event["size"]
def environ(event, context): return dict(os.environ)
def hang(event, context): time.sleep(60)
def imports(event, context): return [name for name in event["names"] if importable(name)]
def importable(name):
    import importlib.util
    return importlib.util.find_spec(name) is not None
def temporary(event, context):
    import tempfile
    path = os.path.join(tempfile.gettempdir(), "kept")
    found = os.path.exists(path)
    open(path, "w").close()
    return found
def many(event, context):
    for number in range(event["lines"]): print(number)
def background(event, context):
    child = subprocess.Popen(["sleep", event["seconds"]], start_new_session=True)
    if event.get("hang"): time.sleep(60)
    return child.pid
def grandchild(event, context):
    subprocess.run([sys.executable, "-c", "print('from a child of it')"], check=True)
def eat(event, context): return len(bytearray(os.urandom(2**20)) * event["mb"])
def eat_in_child(event, context):
    program = f"import os, time; kept = bytearray(os.urandom(2**20)) * {event['mb']}; time.sleep(60)"
    return subprocess.run([sys.executable, "-c", program]).returncode
def leave_later(event, context):
    import threading
    threading.Timer(0.01, os._exit, (5,)).start()
def remaining(event, context):
    return [context.get_remaining_time_in_millis(), context.aws_request_id, context.invoked_function_arn]
def left_over(event, context):
    program = """if True:
        import os, tempfile, time
        path = os.path.join(tempfile.gettempdir(), "gap")
        longest, last = 0.0, time.monotonic()
        while True:
            time.sleep(0.01)
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            with open(path + ".new", "w") as file: file.write(str(longest))
            os.replace(path + ".new", path)
    """
    subprocess.Popen([sys.executable, "-c", program])
    while not gap_file(): time.sleep(0.01)
def gap_file():
    import tempfile
    path = os.path.join(tempfile.gettempdir(), "gap")
    return float(open(path).read()) if os.path.exists(path) else 0.0
def gap(event, context):
    while gap_file() < event["seconds"]: time.sleep(0.01)
    return gap_file()
'''


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of the containers."""
    return make_interpreter(tmp_path_factory.mktemp("interpreter") / "python")


@pytest.fixture(params=["isolated", "plain"])
def isolated(request: pytest.FixtureRequest) -> bool:
    """Yield both kinds of container."""
    if request.param == "isolated" and not can_isolate():
        pytest.skip("this machine allows no namespaces")
    return bool(request.param == "isolated")


class Bench:
    """A bench that makes containers of a handler, runs invocations in one, and keeps its log."""

    def __init__(self, python: Path, directory: Path, isolated: bool) -> None:
        self.python, self.directory, self.isolated = python, directory, isolated
        self.log: list[str] = []
        self.made = 0

    def make(self, source: str = HANDLER, layers: tuple[Path, ...] = (), limits: Limits | None = None, **settings):
        """Return a container of a function with this source."""
        self.made += 1
        code = self.directory / f"code{self.made}"
        code.mkdir()
        (code / "module.py").write_text(textwrap.dedent(source))
        chosen = {"Runtime": PYTHON, "Handler": "module.handler", "Timeout": 30, "MemorySize": 512, **settings}
        codes = tuple(Code(layer, "", 0, 0) for layer in layers)
        return Container(
            "fn",
            "arn:aws:lambda:us-west-2:123456789012:function:fn",
            Revision(1, chosen, Code(code, "", 0, 0), codes),
            settings=Settings(isolated=self.isolated, limits=limits or Limits()),
            python=self.python,
            directory=self.directory / f"container{self.made}",
            endpoint="http://127.0.0.1:9",
            credentials=("KEY", "SECRET", "TOKEN"),
            log=lambda _, line: self.log.append(line),
        )

    def run(self, *events: dict[str, object], **settings) -> list[Reply]:
        """Run events one after the other in one container, and close it."""

        async def main() -> list[Reply]:
            container = self.make(**settings)
            try:
                return [await invoke(container, number, event) for number, event in enumerate(events)]
            finally:
                await container.close()

        return asyncio.run(main())


async def invoke(container: Container, number: int, event: dict[str, object]) -> Reply:
    """Run one event; ``kill_at`` in the event is the fault."""
    fault = event.pop("kill_at", None)
    invocation = Invocation(f"id-{number}", json.dumps(event).encode(), kill_at=fault)
    return await asyncio.wait_for(container.run(invocation), 60)


@pytest.fixture
def bench(python: Path, tmp_path: Path, isolated: bool) -> Bench:
    """Return the bench, for both kinds of container."""
    return Bench(python, tmp_path, isolated)


def value(reply: Reply):
    """Return what the function returned."""
    assert (reply.error, reply.outcome) == ("", "ok"), reply
    return json.loads(reply.payload)


def test_a_warm_container_keeps_its_process_and_its_modules(bench: Bench) -> None:
    """Objects declared outside the handler are still there in the second call [dg lambda-runtime-environment]."""
    first, second = bench.run({"do": "count"}, {"do": "count"})
    assert value(first)[0] == value(second)[0]
    assert (value(first)[1], value(second)[1]) == (1, 2)
    assert first.init_ms is not None
    assert second.init_ms is None
    assert first.alive


def test_each_container_is_a_fresh_process_of_the_runtime_client(bench: Bench) -> None:
    """Concurrent calls have their own environments [dg lambda-concurrency]; nothing is shared or forked.

    The process is Amazon's client, which asks the Runtime API for events [dg runtimes-api].
    """

    async def main() -> list[Reply]:
        containers = [bench.make(), bench.make()]
        try:
            calls = [invoke(container, 0, {"do": "which"}) for container in containers * 2]
            return [*await asyncio.gather(*calls[:2]), *await asyncio.gather(*calls[2:])]
        finally:
            await asyncio.gather(*(container.close() for container in containers))

    first, second, first_again, second_again = (value(reply) for reply in asyncio.run(main()))
    assert first[0] != second[0]
    assert (first_again[0], second_again[0]) == (first[0], second[0])
    assert [each[1] for each in (first, second, first_again, second_again)] == [1, 1, 2, 2]
    assert first[2] == second[2] == ["-m", "awslambdaric", "module.handler"]


def test_the_log_of_a_call_is_written_as_lambda_writes_it(bench: Bench) -> None:
    """Each call has START, its output, END and REPORT, the first ``Init Duration`` too [dg python-logging].

    INIT_START comes once before them [dg runtime-management-identify].
    """
    first, second = bench.run({"do": "say", "text": "no line end"}, {"do": "echo"})
    start, begin, said, end, report, *others = bench.log
    assert start.startswith(f"INIT_START Runtime Version: {PYTHON.replace('python', 'python:')}")
    assert (begin, said, end) == ("START RequestId: id-0 Version: $LATEST", "no line end", "END RequestId: id-0")
    assert re.fullmatch(
        r"REPORT RequestId: id-0\tDuration: \d+\.\d\d ms\tBilled Duration: \d+ ms\tMemory Size: 512 MB\t"
        r"Max Memory Used: \d+ MB\tInit Duration: \d+\.\d\d ms\t",
        report,
    )
    assert [line.split(":")[0] for line in others] == ["START RequestId", "END RequestId", "REPORT RequestId"]
    assert "Init Duration" not in others[-1]
    assert first.log_tail.decode().splitlines() == bench.log[:5]
    assert second.log_tail.decode().splitlines() == bench.log[5:]


def reported(line: str, name: str) -> float:
    """Return the milliseconds that a REPORT line gives for a name."""
    found = re.search(rf"\t{name}: ([\d.]+) ms", line)
    assert found is not None, line
    return float(found[1])


def test_what_is_billed(bench: Bench) -> None:
    """The billed duration is rounded up to the next millisecond [pricing] and includes the init phase.

    The init phase is billed since August 2025 [blog aws-lambda-standardizes-billing-for-init-phase].
    """
    source = "import time; time.sleep(0.2)\ndef handler(event, context): pass"
    cold, warm = bench.run({}, {}, source=source)
    first, second = (line for line in bench.log if line.startswith("REPORT"))
    assert reported(first, "Init Duration") > 200
    whole = reported(first, "Duration") + reported(first, "Init Duration")
    rounding = 0.02  # from the report
    assert reported(first, "Billed Duration") == cold.billed_ms
    assert -rounding < cold.billed_ms - whole < 1 + rounding
    assert reported(second, "Billed Duration") == warm.billed_ms
    assert -rounding < warm.billed_ms - reported(second, "Duration") < 1 + rounding


DEFINED_BY_LAMBDA = {
    "_HANDLER": "module.handler",
    "_X_AMZN_TRACE_ID": r"Root=1-[0-9a-f]{8}-[0-9a-f]{24};.*Sampled=0",
    "AWS_DEFAULT_REGION": "us-west-2",
    "AWS_REGION": "us-west-2",
    "AWS_EXECUTION_ENV": f"AWS_Lambda_{PYTHON}",
    "AWS_LAMBDA_FUNCTION_NAME": "fn",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "512",
    "AWS_LAMBDA_FUNCTION_VERSION": r"\$LATEST",
    "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
    "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/fn",
    "AWS_LAMBDA_LOG_STREAM_NAME": r".*\[\$LATEST\][0-9a-f]{32}",
    "AWS_ACCESS_KEY_ID": "KEY",
    "AWS_SECRET_ACCESS_KEY": "SECRET",
    "AWS_SESSION_TOKEN": "TOKEN",
    "AWS_LAMBDA_RUNTIME_API": r"127\.0\.0\.1:\d+",
    "LAMBDA_TASK_ROOT": "/.+",
    "LAMBDA_RUNTIME_DIR": "/var/runtime",
    "LANG": "en_US.UTF-8",
    "PATH": "/.+",
    "LD_LIBRARY_PATH": "/.+",
    "PYTHONPATH": "/.+",
    "TZ": ":UTC",
}
OF_THE_EMULATION = {
    *("AWS_ENDPOINT_URL", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_EC2_METADATA_DISABLED", "NO_PROXY"),
    *("HOME", "TMPDIR", "PYTHONDONTWRITEBYTECODE", "LC_CTYPE"),
}
"""Variables for the emulated endpoint, for containers without isolation, and of Python for a missing locale."""


def test_the_environment_is_lambdas_and_nothing_of_the_users(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function sees Lambda's variables, and none of the emulator's process [dg configuration-envvars]."""
    monkeypatch.setenv("MINE", "secret")
    monkeypatch.setenv("AWS_PROFILE", "real")
    found = value(bench.run({"do": "environ"})[0])
    wrong = {name: found.get(name) for name, form in DEFINED_BY_LAMBDA.items() if not matches(form, found.get(name))}
    assert not wrong
    assert found.keys() <= DEFINED_BY_LAMBDA.keys() | OF_THE_EMULATION
    assert not os.path.exists(found["HOME"])


def matches(form: str, text: str | None) -> bool:
    """Return whether a variable is set and its whole value has this form."""
    return text is not None and re.fullmatch(form, text) is not None


def test_a_functions_own_variables(bench: Bench) -> None:
    """They are set and may replace unreserved ones: the time zone, not the region [dg configuration-envvars]."""
    variables = {"Variables": {"OWN": "1", "TZ": "Europe/Berlin", "AWS_REGION": "no"}}
    found = value(bench.run({"do": "environ"}, Environment=variables)[0])
    assert (found["OWN"], found["TZ"], found["AWS_REGION"]) == ("1", "Europe/Berlin", "us-west-2")


def test_only_the_runtimes_packages_can_be_imported(bench: Bench) -> None:
    """boto3 can be imported; numpy and pywren, which the emulator's own interpreter has, cannot."""
    names = ["boto3", "botocore", "awslambdaric", "numpy", "pywren", "pytest", "cloudpickle"]
    assert value(bench.run({"do": "imports", "names": names})[0]) == ["boto3", "botocore", "awslambdaric"]


def test_layers_are_on_the_path_the_last_one_first(bench: Bench, tmp_path: Path) -> None:
    """They are merged in the function's order [dg adding-layers], and found below ``python`` [dg packaging-layers]."""
    layers = (tmp_path / "one", tmp_path / "two")
    for layer in layers:
        (layer / "python").mkdir(parents=True)
        (layer / "python" / "layered.py").write_text(f"where = {layer.name!r}")
        (layer / "python" / f"only_{layer.name}.py").write_text("")
    source = "import layered, only_one, only_two\ndef handler(event, context): return layered.where"
    assert value(bench.run({}, source=source, layers=layers)[0]) == "two"
    assert (
        value(bench.run({}, source="import layered\nhandler = lambda *_: layered.where", layers=layers[:1])[0]) == "one"
    )


def test_temporary_files_are_kept_in_a_container_and_not_shared(bench: Bench) -> None:
    """A later call finds the files, even after a reset [dg lambda-runtime-environment]; other containers do not."""
    first, second, crash, third = bench.run(
        {"do": "temporary"}, {"do": "temporary"}, {"do": "vanish"}, {"do": "temporary"}
    )
    assert crash.outcome == "exited"
    assert [value(reply) for reply in (first, second, third)] == [False, True, True]
    assert value(bench.run({"do": "temporary"})[0]) is False


def test_an_exception_is_reported_as_the_runtime_client_does(bench: Bench) -> None:
    """The error has type, message and traceback, and the process goes on."""
    before, failed, after = bench.run({"do": "count"}, {"do": "fail"}, {"do": "count"})
    error = json.loads(failed.payload)
    assert (failed.error, failed.outcome) == ("Unhandled", "error")
    assert (error["errorType"], error["errorMessage"]) == ("ValueError", "no such thing")
    assert value(before)[0] == value(after)[0]
    assert any(line.startswith("[ERROR] ValueError: no such thing\nTraceback") for line in bench.log)


def test_a_module_that_cannot_be_imported_fails_each_call(bench: Bench) -> None:
    """The init phase is repeated in the call, which returns its error [dg lambda-runtime-environment]."""
    replies = bench.run({}, {}, source="import does_not_exist")
    for reply in replies:
        assert (reply.error, reply.outcome) == ("Unhandled", "init")
        assert json.loads(reply.payload)["errorType"] == "Runtime.ImportModuleError"
    phases = [line.split("\t")[1:] for line in bench.log if line.startswith("INIT_REPORT")]
    failed = ["Status: error", "Error Type: Runtime.ImportModuleError"]
    assert phases == [["Phase: init", *failed], ["Phase: invoke", *failed], ["Phase: invoke", *failed]]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"do": "leave"}, "Runtime exited with error: exit status 3"),
        ({"do": "leave", "code": 0}, "Runtime exited without providing a reason"),
        ({"do": "vanish"}, "Runtime exited with error: exit status 4"),
        ({"do": "suicide"}, "Runtime exited with error: signal: killed"),
    ],
)
def test_a_process_that_ends_in_a_call_fails_it_and_is_started_again(bench: Bench, event, said: str) -> None:
    """``Runtime.ExitError`` gives the reason; the next call has a new process [dg lambda-runtime-environment]."""
    ended, after = bench.run(event, {"do": "count"})
    assert (ended.error, ended.outcome, ended.alive) == ("Unhandled", "exited", True)
    assert json.loads(ended.payload) == {
        "errorType": "Runtime.ExitError",
        "errorMessage": f"RequestId: id-0 Error: {said}",
    }
    assert f"RequestId: id-0 Error: {said}" in bench.log
    assert "Runtime.ExitError" in bench.log
    assert value(after)[1] == 1
    assert after.init_ms is None


def test_the_time_out_kills_everything_that_the_call_started(bench: Bench) -> None:
    """After ``Timeout`` seconds [dg configuration-timeout] even a grandchild in its own session is killed.

    The environment is reset: the next call has a new process [dg lambda-runtime-environment].
    """
    seconds = str(random.randrange(10**6, 10**8))
    late, after = bench.run({"do": "background", "seconds": seconds, "hang": True}, {"do": "count"}, Timeout=1)
    assert (late.error, late.outcome, late.duration_ms, late.alive) == ("Unhandled", "timeout", 1000.0, True)
    text = "Task timed out after 1.00 seconds"
    assert json.loads(late.payload) == {
        "errorType": "Sandbox.Timedout",
        "errorMessage": f"RequestId: id-0 Error: {text}",
    }
    assert any(re.fullmatch(rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{{3}}Z id-0 {text}", line) for line in bench.log)
    assert value(after)[1] == 1
    assert not processes_named(seconds)


def test_init_that_takes_too_long_is_done_again_at_the_calls_cost(bench: Bench) -> None:
    """The first attempt may take 10 s, the second the function's time-out [dg lambda-runtime-environment]."""
    assert Limits().init_seconds == 10
    source = "import time; time.sleep(60)\ndef handler(event, context): pass"
    reply = bench.run({}, source=source, limits=Limits(init_seconds=0.2), Timeout=1)[0]
    assert (reply.outcome, json.loads(reply.payload)["errorType"]) == ("timeout", "Sandbox.Timedout")
    assert sum("Status: timeout" in line for line in bench.log if line.startswith("INIT_REPORT")) == 2


def test_slow_init_costs_the_call_nothing(bench: Bench) -> None:
    """The time-out covers only the invoke phase, so a longer import is allowed [dg lambda-runtime-environment]."""
    source = "import time; time.sleep(1.2)\ndef handler(event, context): return 1"
    reply = bench.run({}, source=source, Timeout=1)[0]
    assert value(reply) == 1
    assert reply.init_ms > 1000


def test_the_biggest_process_is_killed_at_the_memory_limit(bench: Bench) -> None:
    """``MemorySize`` limits all processes together [dg configuration-memory]; the report shows it as used."""
    reply, after = bench.run({"do": "eat_in_child", "mb": 400}, {"do": "count"}, MemorySize=128)
    assert value(reply) == -9
    assert reply.max_memory_mb == 128
    assert value(after)[1] == 2


def test_a_handler_that_uses_too_much_memory_is_killed(bench: Bench) -> None:
    """Exceeding ``MemorySize`` [dg configuration-memory] is ``Runtime.ExitError``; the next call has a new process."""
    reply, after = bench.run({"do": "eat", "mb": 2000}, {"do": "count"}, MemorySize=128)
    assert reply.outcome == "exited"
    assert json.loads(reply.payload)["errorMessage"].endswith("signal: killed")
    assert reply.max_memory_mb == 128
    assert value(after)[1] == 1


def test_what_others_use_too_counts_in_full(bench: Bench, tmp_path: Path) -> None:
    """Lambda's containers share no memory, so library pages count in full, even if others read them here."""
    source = """
        import mmap, os, sys
        directory = next(each for each in sys.path if os.path.exists(os.path.join(each, "library")))
        def handler(event, context):
            with open(os.path.join(directory, "library"), "rb") as file:
                global mapped
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            return sum(mapped[place] for place in range(0, len(mapped), 4096))
    """
    layer = tmp_path / "layer"
    (layer / "python").mkdir(parents=True)
    (layer / "python" / "library").write_bytes(bytes(96 * 2**20))

    async def main() -> list[int]:
        containers = [bench.make(source, layers=(layer,)) for _ in range(3)]
        try:
            replies = [await invoke(container, 0, {}) for container in containers]
        finally:
            await asyncio.gather(*(container.close() for container in containers))
        return [reply.max_memory_mb for reply in replies]

    first, *_, last = asyncio.run(main())
    assert first > 96
    assert abs(first - last) <= 5


def test_a_response_beyond_the_limit_is_refused(bench: Bench) -> None:
    """Above 6 MB [dg gettingstarted-limits] it is ``Function.ResponseSizeTooLarge``; the container goes on."""
    large, after = bench.run({"do": "large", "size": 7 * 2**20}, {"do": "echo"})
    assert (large.error, large.outcome) == ("Unhandled", "error")
    assert json.loads(large.payload)["errorType"] == "Function.ResponseSizeTooLarge"
    assert value(after) == {"do": "echo"}
    assert len(value(bench.run({"do": "large", "size": 6 * 2**20 - 2})[0])) == 6 * 2**20 - 2


def test_output_of_any_kind_becomes_lines(bench: Bench) -> None:
    """All output to stdout or stderr is logged [dg python-logging]: bytes, empty lines, a child's output."""
    bench.run({"do": "say", "text": "caf\xe9\n\nend"}, {"do": "grandchild"})
    start = bench.log.index("START RequestId: id-0 Version: $LATEST")
    assert bench.log[start + 1 : start + 5] == ["caf�", "", "end", "END RequestId: id-0"]
    assert "from a child of it" in bench.log


def test_a_hundred_thousand_lines_arrive_in_order(bench: Bench) -> None:
    """No line is lost however fast they are printed, and the tail is limited in size."""
    reply = bench.run({"do": "many", "lines": 100_000})[0]
    assert bench.log[2:100_002] == [str(number) for number in range(100_000)]
    assert len(reply.log_tail) == 4096


@pytest.mark.parametrize("kill_at", ["start", "running", "before_response"])
def test_a_fault_kills_the_container_in_the_middle_of_a_call(bench: Bench, kill_at: str) -> None:
    """The answer is discarded, and the container cannot be used again."""
    before, killed = bench.run({"do": "echo"}, {"do": "echo", "kill_at": kill_at})
    assert before.alive
    assert (killed.outcome, killed.error, killed.alive) == ("killed", "Unhandled", False)


def test_the_function_is_told_its_deadline(bench: Bench) -> None:
    """The context has the remaining time, the request id and the ARN [dg python-context]."""
    left, request_id, arn = value(bench.run({"do": "remaining"}, Timeout=20)[0])
    assert 15_000 < left <= 20_000
    assert (request_id, arn) == ("id-0", "arn:aws:lambda:us-west-2:123456789012:function:fn")


def test_another_runtime_than_the_emulators_is_refused(bench: Bench) -> None:
    """``Runtime.InvalidRuntime`` says which Python is available."""
    reply = bench.run({}, Runtime="python3.8")[0]
    error = json.loads(reply.payload)
    assert error["errorType"] == "Runtime.InvalidRuntime"
    assert PYTHON in error["errorMessage"]


def test_a_process_that_ends_between_calls_is_started_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call does not fail, but takes the time of a new start."""
    # a frozen process could not end
    monkeypatch.setattr("pywren.testing.emulator._container._FREEZE_SECONDS", 600)

    async def main() -> Reply:
        container = bench.make()
        try:
            value(await invoke(container, 0, {"do": "leave_later"}))
            await asyncio.wait_for(container._running_environment().exited, 60)
            return await invoke(container, 1, {"do": "count"})
        finally:
            await container.close()

    reply = asyncio.run(main())
    assert value(reply)[1] == 1
    assert reply.init_ms is None


def test_closing_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    """No process, directory or mount is left, not even of what a call has left running."""
    seconds = str(random.randrange(10**6, 10**8))
    bench.run({"do": "background", "seconds": seconds})
    assert not processes_named(seconds)
    assert not (tmp_path / "container1").exists()
    assert str(tmp_path) not in Path("/proc/mounts").read_text()


def test_closing_ends_a_call_that_runs(bench: Bench) -> None:
    """The running call ends as killed."""

    async def main() -> Reply:
        container = bench.make()
        running = asyncio.ensure_future(invoke(container, 0, {"do": "hang"}))
        while not any(line.startswith("START") for line in bench.log):
            await asyncio.sleep(0.01)
        await container.close()
        return await running

    reply = asyncio.run(main())
    assert (reply.outcome, reply.alive) == ("killed", False)


def test_between_calls_everything_stands_still(bench: Bench) -> None:
    """Leftover processes stop and resume with the next call [dg lambda-runtime-environment]; they see a gap."""

    async def main() -> Reply:
        container = bench.make()
        try:
            value(await invoke(container, 0, {"do": "left_over"}))
            await asyncio.sleep(0.8)  # the pause itself is tested
            return await invoke(container, 1, {"do": "gap", "seconds": 0.5})
        finally:
            await container.close()

    assert value(asyncio.run(main())) >= 0.5


def processes_named(argument: str) -> list[str]:
    """Return the processes that have this argument."""
    found = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if line.endswith(f"sleep {argument}") and not line.startswith("Z")]


def test_a_machine_without_namespaces(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """The log gives the reason; containers are then like the ``plain`` ones above."""
    monkeypatch.setattr(_environment.shutil, "which", lambda name: None)
    assert not _environment._probe.__wrapped__()
    assert "no namespaces of their own on this machine: there is no unshare" in caplog.text
