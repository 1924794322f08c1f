"""What is very large, empty, or odd in another way, and what happens when disks, clocks, credentials and S3 fail."""

from __future__ import annotations

import array
import itertools
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import executors
import hostile
import psutil
import pytest
import yaml
from child_processes import wait_until
from executors import WAIT

import pywren
from pywren.aws import sending
from pywren.client import trouble
from pywren.exceptions import StorageError
from pywren.testing.emulator import Emulator, Fault, Faults
from pywren.testing.emulator._container import can_isolate

pytestmark = pytest.mark.thorough

BIG = 200_000_000
"""Bytes of the largest argument, closure and result that are tested."""

MANY = 100_000
HOUR = 3600
PATIENT = 240.0
"""Seconds that are enough to move 200 MB back and forth, even on a busy machine."""

HERE = Path(__file__).parent
MARK = "CLIENT_OF_TESTS"
"""The environment variable that the processes of a client inherit."""


@pytest.fixture(scope="module", params=["local", pytest.param("emulated", marks=pytest.mark.emulator)])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[executors.Ready]:
    """Make an executor of this machine, and one of the emulated Lambda."""
    emulator = request.getfixturevalue("emulator") if request.param == "emulated" else None
    with executors.make(request.param, tmp_path_factory.mktemp("home"), emulator) as made:
        yield made


@pytest.fixture
def ready(made: executors.Ready) -> Iterator[executors.Ready]:
    """Return that executor, with the environment variables that it needs."""
    with made.environment():
        yield made


@pytest.fixture(scope="module")
def config(emulator: Emulator) -> dict[str, Any]:
    """Return the configuration of a function that no test changes."""
    return emulator.deploy()


@pytest.fixture
def executor(emulator: Emulator, config: dict[str, Any]) -> Iterator[Any]:
    """Return an executor on that function. Its container is warm, so that what follows takes little time."""
    with on_lambda(config) as made:
        made.call_async(hostile.echo, "warm").result(WAIT)
        yield made


@contextmanager
def on_lambda(config: dict[str, Any]) -> Iterator[Any]:
    """Make an executor on Lambda, and close its connections, too."""
    with pywren.lambda_executor(config=config) as made:
        yield made
        made.invoker.close()
        made.storage.close()


# -- large -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_large_argument(ready: executors.Ready) -> None:
    """An argument of 200 MB arrives whole."""
    large = _pattern(BIG)
    assert ready.call(lambda data: (len(data), data[-5:]), large).result(PATIENT) == (BIG, large[-5:])


@pytest.mark.slow
def test_a_large_closure(ready: executors.Ready) -> None:
    """A function that holds 200 MB arrives whole, and is sent once for a map."""
    large = _pattern(BIG)
    futures = ready.map(lambda x: (len(large), large[x]), range(3))
    assert [future.result(PATIENT) for future in futures] == [(BIG, large[x]) for x in range(3)]


@pytest.mark.slow
def test_a_large_result(ready: executors.Ready) -> None:
    """A result of 200 MB arrives whole."""
    made_there = ready.call(lambda size: bytes(range(250)) * (size // 250), BIG).result(PATIENT)
    assert len(made_there) == BIG
    assert made_there[-250:] == bytes(range(250))


@pytest.mark.slow
def test_many_items() -> None:
    """A map over 100,000 items returns as many values in order; futures cost little memory."""
    before = _peak_megabytes()
    with pywren.local_executor() as executor:
        executor.map_item_limit = None
        futures = executor.map(lambda x: x * 2, range(MANY))
        assert pywren.get_all_results(futures) == list(range(0, 2 * MANY, 2))
    assert _peak_megabytes() - before < 600


def _pattern(size: int) -> bytes:
    """Return bytes of which no two neighbouring blocks are equal."""
    block = os.urandom(1_000_003)
    return (block * (size // len(block) + 1))[:size]


def _peak_megabytes() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1_000_000


# -- empty -----------------------------------------------------------------------------------------------------------

EMPTY = [b"", "", [], (), {}, set(), frozenset(), bytearray(), None, array.array("d"), range(0)]


def test_nothing_goes_and_comes(ready: executors.Ready) -> None:
    """Empty arguments and results of every kind arrive as what they were."""
    found = [future.result(WAIT) for future in ready.map(lambda x: x, EMPTY)]
    assert found == EMPTY
    assert list(map(type, found)) == list(map(type, EMPTY))


def test_empty_arrays_go_and_come(ready: executors.Ready) -> None:
    """Arrays without items keep their shape and type."""
    numpy = pytest.importorskip("numpy")
    if ready.on_lambda:
        pytest.skip("the function has no numpy")
    sent = [numpy.empty(0), numpy.empty((0, 3), "i2"), numpy.empty((4, 0), order="F")]
    for before, after in zip(sent, (one.result(WAIT) for one in ready.map(lambda x: x, sent)), strict=True):
        assert (after.shape, after.dtype) == (before.shape, before.dtype)


def test_a_function_that_holds_nothing(ready: executors.Ready) -> None:
    """Empty variables of a closure arrive, and so does a function without any code of its own."""
    nothing, text = b"", ""
    assert ready.call(lambda _: (nothing, text)).result(WAIT) == (b"", "")
    assert ready.call(lambda _: None).result(WAIT) is None


def test_a_map_over_nothing(ready: executors.Ready) -> None:
    """No items, no calls, whatever kind of iterable has none."""
    for nothing in ([], (), {}, "", range(0), iter(()), (x for x in ())):
        assert ready.map(lambda x: x, nothing) == []


# -- a generator that fails ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyError("mine"), hostile.OwnError("mine"), KeyboardInterrupt("mine")], ids=repr)
def test_a_generator_that_raises_half_way(
    ready: executors.Ready, tmp_path: Path, error: BaseException, config_requests: Callable[[], int]
) -> None:
    """``map`` raises the generator's own exception; nothing was invoked or stored, and the executor stays usable."""
    closed = []

    def items() -> Iterator[str]:
        try:
            yield str(tmp_path / "ran")
            raise error
        finally:
            closed.append(True)

    before = config_requests()
    with pytest.raises(type(error)) as caught:
        ready.map(lambda path: Path(path).touch(), items())
    assert caught.value is error
    assert closed
    assert config_requests() == before
    assert ready.call(hostile.echo, "usable").result(WAIT) == "usable"
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def config_requests(ready: executors.Ready) -> Callable[[], int]:
    """Return a function that counts the requests so far that change something on the emulated AWS."""

    def count() -> int:
        if ready.emulator is None:
            return 0
        counted = ready.emulator.counters()
        return int(
            counted.count(caller="client", operation="Invoke").requests
            + counted.count(caller="client", operation="PutObject").requests
        )

    return count


def test_a_generator_that_never_ends(ready: executors.Ready, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a map's items ends an endless iterable; nothing was invoked."""
    monkeypatch.setattr(ready.executor, "map_item_limit", 100)
    with pytest.raises(ValueError, match="100"):
        ready.map(hostile.echo, itertools.count())


# -- characters ------------------------------------------------------------------------------------------------------

MODULE = """
class Fehlér(Exception):
    pass

def größe(текст, *, länge=1):
    print("gedruckt: ☃ 日本")
    return текст.upper(), länge

def wirft(текст):
    raise Fehlér(текст)
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a module whose name, directory, functions and exceptions have characters beyond ASCII."""
    directory = tmp_path / "каталог"
    directory.mkdir()
    (directory / "módulo_日本.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(directory))
    yield __import__("módulo_日本")
    sys.modules.pop("módulo_日本", None)


def test_characters_beyond_ascii(ready: executors.Ready, module: Any) -> None:
    """Names of functions, modules and exceptions, arguments, output and environment arrive as they are."""
    future = ready.executor.call_async(
        module.größe, "straße 日本 ☃", extra_env={"ПЕРЕМЕННАЯ": "значение"}, extra_meta={"clé": "ж", "日": [1, "本"]}
    )
    assert future.result(WAIT) == ("STRASSE 日本 ☃", 1)
    assert "gedruckt: ☃ 日本" in future.run_status["stdout"]
    with pytest.raises(module.Fehlér, match="ünglücklich 😀"):
        ready.call(module.wirft, "ünglücklich 😀").result(WAIT)

    def variable(name: str) -> str | None:
        import os

        return os.environ.get(name)

    found = ready.executor.call_async(variable, "ПЕРЕМЕННАЯ", extra_env={"ПЕРЕМЕННАЯ": "значение"})
    assert found.result(WAIT) == "значение"


@pytest.mark.parametrize("text", ["\ud800", "\x00", "\udcff/\udcfe", "e\u0301", "\u202e", "\U0010ffff"], ids=ascii)
def test_odd_characters(ready: executors.Ready, text: str) -> None:
    """Lone surrogates, null characters and the like go and come, in arguments, errors and output."""
    assert ready.call(lambda x: x, text).result(WAIT) == text

    def raises(x: str) -> None:
        import sys

        sys.stdout.reconfigure(errors="replace")
        print(x)
        raise ValueError(x)

    with pytest.raises(ValueError) as caught:  # noqa: PT011 -- the text is compared below
        ready.call(raises, text).result(WAIT)
    assert caught.value.args == (text,)


@pytest.mark.emulator
def test_a_prefix_beyond_ascii(emulator: Emulator) -> None:
    """The prefix of the keys may have any characters that S3 allows in keys."""
    config = emulator.deploy()
    config["s3"]["pywren_prefix"] = "префикс/日本 +&?#%41=é"
    with on_lambda(config) as executor:
        futures = executor.map(lambda x: x * "ж", range(3))
        assert pywren.get_all_results(futures) == ["", "ж", "жж"]
        assert executor.call_async(lambda _: "x" * 2_000_000, None).result(WAIT) == "x" * 2_000_000
        copied = pickle.loads(pickle.dumps(futures[1]))
        assert copied.result(WAIT) == "ж"
        assert executor.reduce("".join, futures).result(WAIT) == "жжж"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_home_and_a_user_beyond_ascii(tmp_path: Path, encoding: str) -> None:
    """A home, a temporary directory, a program and a user with any name do, whatever the encoding of the terminal."""
    home, temporary = tmp_path / "Zuhause von Jürgen ☃", tmp_path / "врем"
    for directory in (home, temporary):
        directory.mkdir()
    program = home / "прога́мма 1.py"
    program.write_text(
        textwrap.dedent(
            """
            import pywren

            def größe(x):
                print("größe", x)
                return x, "日本"

            if __name__ == "__main__":
                for make in (pywren.local_executor, pywren.dummy_executor):
                    with make() as executor:
                        futures = executor.map(größe, range(3))
                        if make is pywren.dummy_executor:
                            executor.invoker.run_jobs()
                        print(ascii(pywren.get_all_results(futures)))
            """
        ),
        encoding="utf-8",
    )
    variables = {
        **os.environ,
        "HOME": str(home),
        "PYWREN_HOME": str(home / "пайрен"),
        "TMPDIR": str(temporary),
        "USER": "Jürgen",
        "LOGNAME": "Jürgen",
        "PYTHONIOENCODING": encoding,
    }
    if encoding == "ascii":
        variables |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, str(program)], env=variables, cwd=home, capture_output=True, timeout=PATIENT, check=False
    )
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    lines = [line for line in done.stdout.decode(encoding).splitlines() if line.startswith("[")]
    assert lines == [ascii([(x, "日本") for x in range(3)])] * 2


# -- several clients, and clients that are killed --------------------------------------------------------------------

CLIENT = """
    import os, pickle, sys, time
    import pywren

    def slow(x):
        time.sleep(0.3)
        return x, {number}

    print("imported", flush=True)
    executor = pywren.{kind}_executor()
    print("made", flush=True)
    futures = executor.map(slow, range({count}))
    with open(sys.argv[1] + ".part", "wb") as file:
        pickle.dump(futures, file) if "{kind}" == "lambda" else None
    os.rename(sys.argv[1] + ".part", sys.argv[1])
    print("mapped", flush=True)
    assert pywren.get_all_results(futures) == [slow(x) for x in range({count})]
    print("collected", flush=True)
"""


class Client:
    """A program that uses pywren in its own process.

    Args:
        directory: where it may write.
        kind: its executor.
        config: the configuration, if it needs one.
        number: what its calls return, to tell clients apart.
        count: how many calls it makes.
    """

    def __init__(
        self, directory: Path, kind: str, config: dict[str, Any] | None = None, *, number: int = 0, count: int = 8
    ) -> None:
        script = textwrap.dedent(CLIENT).format(kind=kind, number=number, count=count)
        self.mark = f"{directory.name}-{number}-{os.getpid()}"
        self.futures = directory / f"futures-{number}"
        variables = {**os.environ, MARK: self.mark}
        if config is not None:
            path = directory / f"config-{number}.yaml"
            path.write_text(yaml.safe_dump(config), encoding="utf-8")
            variables["PYWREN_CONFIG_FILE"] = str(path)
        program = directory / f"client_{number}.py"
        program.write_text(script, encoding="utf-8")
        self.process = subprocess.Popen(
            [sys.executable, str(program), str(self.futures)], env=variables, stdout=subprocess.PIPE, text=True
        )

    def reaches(self, line: str) -> bool:
        """Wait until the program prints a line; tell whether it did."""
        assert self.process.stdout is not None
        return any(printed.strip() == line for printed in self.process.stdout)

    def kill(self) -> None:
        """Kill the program with SIGKILL."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def is_gone(self) -> bool:
        """Wait until no process of the client is left; tell whether that happened."""
        return wait_until(lambda: not any(map(self._is_ours, psutil.process_iter())))

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


@pytest.mark.slow
@pytest.mark.emulator
def test_two_clients_at_once(emulator: Emulator, config: dict[str, Any], tmp_path: Path) -> None:
    """Two programs use one function at the same time; each gets its own results."""
    clients = [Client(tmp_path, "lambda", config, number=number) for number in range(2)]
    for client in clients:
        assert client.reaches("collected")
        client.process.communicate()
        assert client.process.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("moment", ["imported", "made", "mapped"])
def test_a_client_of_this_machine_that_is_killed(tmp_path: Path, moment: str, delay: float) -> None:
    """No process of the client is left, at whatever moment it is killed, and the next client works."""
    client = Client(tmp_path, "local", count=200)
    assert client.reaches(moment)
    time.sleep(delay)  # a moment within what the program does next
    client.kill()
    assert client.is_gone()


@pytest.mark.slow
@pytest.mark.emulator
@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_a_client_of_lambda_that_is_killed(
    emulator: Emulator, config: dict[str, Any], tmp_path: Path, delay: float
) -> None:
    """The calls go on, and futures that the client had pickled bring the results to another process."""
    client = Client(tmp_path, "lambda", config)
    assert client.reaches("mapped")
    time.sleep(delay)
    client.kill()
    assert client.is_gone()
    with client.futures.open("rb") as file:
        futures = pickle.load(file)
    assert [future.result(WAIT) for future in futures] == [(x, 0) for x in range(8)]


@pytest.mark.slow
@pytest.mark.emulator
def test_a_client_that_is_killed_in_its_map(emulator: Emulator, config: dict[str, Any], tmp_path: Path) -> None:
    """What was invoked ends, nothing else starts, and another client finds the function usable."""
    client = Client(tmp_path, "lambda", config, count=2000)
    assert client.reaches("made")
    before = emulator.counters()
    assert wait_until(lambda: (emulator.counters() - before).count(operation="Invoke").requests > 3)
    client.kill()
    assert client.is_gone()
    emulator.wait_idle(PATIENT)
    ended = emulator.counters()
    invoked = (ended - before).count(operation="Invoke", caller="client").requests
    assert 3 < invoked < 2000
    with on_lambda(config) as executor:
        assert executor.call_async(hostile.echo, "usable").result(WAIT) == "usable"


# -- S3 that fails ---------------------------------------------------------------------------------------------------


@pytest.mark.emulator
@pytest.mark.parametrize("fault", ["fail_s3", "slow_down_s3", "lose_s3"])
@pytest.mark.parametrize("caller", ["client", "function"])
def test_s3_that_fails_for_seconds(emulator: Emulator, executor: Any, fault: str, caller: str) -> None:
    """Staging, polling and the worker's commit wait until S3 answers again; nobody notices."""
    emulator.set_faults(Faults(**{fault: Fault(seconds=2.0, caller=caller)}))
    futures = executor.map(lambda x: x + 1, range(4))
    assert [future.result(WAIT) for future in futures] == [1, 2, 3, 4]
    assert (emulator.counters()).faults[fault] > 0


@pytest.mark.emulator
def test_s3_that_is_gone_when_a_map_is_staged(
    emulator: Emulator, executor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``map`` raises an error that names the storage; nothing was invoked, and the executor stays usable."""
    monkeypatch.setattr(sending, "NETWORK_PATIENCE", 0.3)
    before = emulator.counters()
    emulator.set_faults(Faults(lose_s3=Fault()))
    with pytest.raises(StorageError):
        executor.map(lambda x: x, range(3))  # a function that was mapped before would not be stored again
    emulator.set_faults(Faults())
    assert (emulator.counters() - before).count(operation="Invoke").requests == 0
    assert executor.call_async(hostile.echo, "usable").result(WAIT) == "usable"


@pytest.mark.emulator
@pytest.mark.parametrize("fault", ["lose_s3", "fail_s3"])
def test_s3_that_is_gone_while_results_are_awaited(
    emulator: Emulator, executor: Any, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Who waits gets an error after the patience; the futures stay, and have their values when S3 is back."""
    monkeypatch.setattr(sending, "NETWORK_PATIENCE", 0.3)
    monkeypatch.setattr(sending, "THROTTLING_PATIENCE", 0.3)
    monkeypatch.setattr(trouble, "PATIENCE", 1.0)
    future = executor.call_async(lambda x: __import__("time").sleep(1.0) or x, 7)
    emulator.set_faults(Faults(**{fault: Fault(caller="client")}))
    with pytest.raises(StorageError):
        future.result(WAIT)
    emulator.set_faults(Faults())
    assert future.result(WAIT) == 7


@pytest.mark.slow
@pytest.mark.emulator
def test_s3_that_is_gone_for_the_workers_for_longer_than_they_wait(emulator: Emulator, executor: Any) -> None:
    """Workers give up after some seconds without S3. Their calls are invoked again, until S3 is back."""
    futures = executor.map(lambda x: __import__("time").sleep(1.0) or x, range(4))
    emulator.set_faults(Faults(lose_s3=Fault(seconds=10.0, caller="function")))
    assert [future.result(WAIT) for future in futures] == [0, 1, 2, 3]


@pytest.mark.emulator
def test_credentials_that_expire_during_a_map(
    emulator: Emulator, config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials that the user renews in the file are read again; futures and executor go on with them."""
    file = tmp_path / "credentials"

    def renew(token: str) -> None:
        known = emulator.environment
        file.with_suffix(".new").write_text(
            f"[default]\naws_access_key_id = {known['AWS_ACCESS_KEY_ID']}\n"
            f"aws_secret_access_key = {known['AWS_SECRET_ACCESS_KEY']}\naws_session_token = {token}\n"
        )
        file.with_suffix(".new").replace(file)

    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    renew("OLD")
    with on_lambda(config) as executor:
        futures = executor.map(lambda x: __import__("time").sleep(1.0) or x, range(4))
        emulator.set_faults(Faults(expired_token="OLD"))
        timer = threading.Timer(3.0, renew, ["NEW"])
        timer.start()
        try:
            assert [future.result(WAIT) for future in futures] == [0, 1, 2, 3]
            assert executor.call_async(hostile.echo, "usable").result(WAIT) == "usable"
        finally:
            timer.join()


# -- clocks ----------------------------------------------------------------------------------------------------------

ODD_CLOCK = """
import time

_right = time.time
time.time = lambda: _right() + {seconds}
time.time_ns = lambda: int(time.time() * 1e9)
"""

ODD_DEADLINE = """
from awslambdaric.lambda_context import LambdaContext

_make = LambdaContext.__init__

def _made(self, *args, **kwargs):
    _make(self, *args, **kwargs)
    self._epoch_deadline_time_in_ms += {seconds} * 1000

LambdaContext.__init__ = _made
"""
"""Lambda tells the deadline by the clock of the machine that runs the function, so it is off, too."""


@pytest.mark.slow
@pytest.mark.emulator
@pytest.mark.parametrize("seconds", [-HOUR, HOUR])
def test_a_worker_whose_clock_is_off(emulator: Emulator, seconds: int) -> None:
    """Calls return, long ones too, and no call is taken for lost or late."""
    odd = (ODD_CLOCK + ODD_DEADLINE).format(seconds=seconds).encode()
    config = emulator.deploy(files={"sitecustomize.py": odd})
    with on_lambda(config) as executor:
        futures = executor.map(lambda x: __import__("time").sleep(x) or x, [0.0, 4.0])
        assert [future.result(WAIT) for future in futures] == [0.0, 4.0]
        assert abs(futures[0].run_status["start_time"] - time.time() - seconds) < 120


@pytest.mark.slow
@pytest.mark.emulator
@pytest.mark.parametrize("seconds", [-HOUR, HOUR])
def test_a_client_whose_clock_is_off(
    emulator: Emulator, config: dict[str, Any], tmp_path: Path, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls return, and the client neither takes them for lost nor waits for longer."""
    (tmp_path / "sitecustomize.py").write_text(ODD_CLOCK.format(seconds=seconds), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    client = Client(tmp_path, "lambda", config)
    assert client.reaches("collected")
    client.process.communicate()
    assert client.process.returncode == 0


# -- disks that are full ---------------------------------------------------------------------------------------------

ON_A_FULL_DISK = """
    import os, sys
    import pywren
    from pywren.exceptions import PywrenError

    place = sys.argv[1]
    with open(place + "/fills", "wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError as error:
            print(error.strerror)
    for make in (pywren.local_executor, pywren.dummy_executor):
        try:
            with make() as executor:
                futures = executor.map(lambda x: (x, "x" * 50_000), range(3))
                if make is pywren.dummy_executor:
                    executor.invoker.run_jobs()
                print(sum(len(text) for _, text in pywren.get_all_results(futures)))
        except (PywrenError, OSError) as error:
            print(type(error).__name__, error)
"""


@pytest.mark.skipif(not shutil.which("unshare") or not can_isolate(), reason="needs namespaces, to mount a small disk")
def test_a_client_whose_disk_is_full(tmp_path: Path) -> None:
    """Calls that need no disk return; what cannot be stored is an error that says why."""
    place = tmp_path / "small"
    place.mkdir()
    command = f'mount -t tmpfs -o size=1m tmpfs {place} && exec "$@"'
    variables = {**os.environ, "PYWREN_HOME": f"{place}/pywren", "TMPDIR": str(place), "HOME": str(place)}
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(ON_A_FULL_DISK), encoding="utf-8")
    done = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", command, "sh", sys.executable, str(program), str(place)],
        env=variables,
        capture_output=True,
        text=True,
        timeout=PATIENT,
        check=False,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[:2] == ["No space left on device", "150000"]
    assert lines[2].startswith(f"StorageError cannot write {place}")
    assert "No space left on device; check space and permissions, or set PYWREN_HOME" in lines[2]


@pytest.mark.emulator
@pytest.mark.skipif(not can_isolate(), reason="without namespaces, /tmp is this machine's and has no limit")
def test_a_worker_whose_disk_is_full(emulator: Emulator, module: Any) -> None:
    """A call that needs no space returns; one whose modules find no space fails and says so."""
    with on_lambda(emulator.deploy()) as executor:
        with pytest.raises(OSError, match="No space left"):
            executor.call_async(hostile.fills, "/tmp/left-by-the-function").result(WAIT)
        assert executor.call_async(lambda x: len(x), _pattern(3_000_000)).result(WAIT) == 3_000_000
        error = executor.call_async(module.größe, "x").exception(WAIT)
        assert "No space left" in str(error)
