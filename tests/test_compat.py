"""The public surface of PyWren 0.4, row by row, as programs of 2018 use it: names, signatures, keys, texts, files."""

from __future__ import annotations

import base64
import hashlib
import inspect
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
from callees import add_one, leave, sleep, variable

import pywren
import pywren.testing
from pywren import (
    executor,
    future,
    invokers,
    local,
    queues,
    runtime,
    serialize,
    storage,
    wrenconfig,
    wrenhandler,
    wrenlogging,
    wrenutil,
)
from pywren.exceptions import ConfigError, DecodeError
from pywren.serialize.module_dependency import ModuleDependencyAnalyzer
from pywren.serialize.serialize import SerializeIndependent
from pywren.storage import exceptions as storage_exceptions
from pywren.storage import storage_utils
from pywren.worker.handler import Container
from pywren.worker.parent.pool import LocalPool

ROOT = Path(__file__).parent.parent
PROGRAMS = Path(__file__).parent / "scripts_of_2018"
CONFIG_OF_2018 = str(Path(__file__).parent / "golden" / "pywren_config_2018.yaml")
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
WAIT = 120.0


# -- where the calls run -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aws() -> Iterator[dict[str, Any]]:
    """Return the configuration of a mocked account, like a file of 2018 with its own names."""
    with pywren.testing.mock_aws() as config:
        yield config


@pytest.fixture(scope="module")
def on_lambda(aws: dict[str, Any]) -> executor.Executor:
    """Return an executor on Lambda that tests share, because making its clients takes a quarter of a second."""
    return pywren.lambda_executor(config=aws)


@pytest.fixture(scope="module", autouse=True)
def pool_of_the_module() -> Iterator[None]:
    """End the local pool with the module."""
    yield
    LocalPool.close_shared()


Make = Callable[..., executor.Executor]


@pytest.fixture(params=["local", "dummy", pytest.param("lambda", marks=pytest.mark.moto)])
def make(request: pytest.FixtureRequest) -> Make:
    """Return a function that makes executors of one kind; a dummy runs its calls itself."""
    if request.param == "lambda":
        config, made = request.getfixturevalue("aws"), request.getfixturevalue("on_lambda")
        return lambda **options: pywren.lambda_executor(config=config, **options) if options else made
    if request.param == "local":
        return pywren.local_executor
    return request.getfixturevalue("eager_dummy")  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    """Return a warm worker that dummy executors of several tests share."""
    with Container() as made:
        yield made


@pytest.fixture
def eager_dummy(container: Container) -> Make:
    """Return a function that makes executors which stage on this machine and run their calls at once."""

    class Invoker(invokers.DummyInvoker):
        def invoke(self, payload: Mapping[str, Any]) -> None:
            container.handle(payload)

    def make_dummy(job_max_runtime: float = 300) -> executor.Executor:
        return executor.Executor(Invoker(), wrenconfig.default(), job_max_runtime)

    return make_dummy


# -- top level -----------------------------------------------------------------------------------------------


def _words(text: str) -> list[str]:
    return text.split()


NAMES = _words(
    "default_executor lambda_executor dummy_executor remote_executor standalone_executor local_executor "
    "get_all_results wait ALL_COMPLETED ANY_COMPLETED ALWAYS Executor __version__ SOURCE_DIR "
)
SUBMODULES = _words(
    "wrenconfig invokers queues wrenlogging runtime wren executor future storage serialize wrenutil version local "
)
LOOK = """
import json, pywren
def describe(name):
    value = getattr(pywren, name)
    return getattr(value, "__name__", repr(value)), type(value).__name__
print(json.dumps({name: describe(name) for name in %r}))
"""


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a fresh interpreter that can import this pywren."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=WAIT,
        check=True,
    )


@pytest.fixture(scope="module")
def seen() -> dict[str, list[str]]:
    """Return what a program sees after ``import pywren``: name and type of each attribute."""
    return dict(json.loads(python("-c", LOOK % (NAMES + SUBMODULES)).stdout))


@pytest.mark.parametrize("name", SUBMODULES)
def test_submodules_are_attributes(seen: Mapping[str, list[str]], name: str) -> None:
    """Submodules can be used after a plain import."""
    assert seen[name] == [f"pywren.{name}", "module"]


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(("_executor", "_results", "wait"))])
def test_functions_of_the_top_level(seen: Mapping[str, list[str]], name: str) -> None:
    """The factories, ``get_all_results`` and ``wait`` are functions, although modules have the same names."""
    assert seen[name] == ["remote_executor" if name == "standalone_executor" else name, "function"]


def test_other_names_of_the_top_level(seen: Mapping[str, list[str]]) -> None:
    """Constants have 0.4's values."""
    assert [seen[name][0] for name in ("ALL_COMPLETED", "ANY_COMPLETED", "ALWAYS")] == ["1", "2", "3"]
    assert seen["Executor"] == ["Executor", "type"]
    assert Path(pywren.SOURCE_DIR, "wren.py").is_file()
    assert pywren.__version__ == pywren.version.__version__
    assert pywren.standalone_executor is pywren.remote_executor


def test_logging_at_import() -> None:
    """``PYWREN_LOGLEVEL`` shows messages of pywren and the program, and quiets boto; without it nothing is set."""
    program = (
        "import pywren, logging; logging.getLogger('mine').info('my own'); logging.getLogger('pywren.x').info('ours');"
        "logging.getLogger('botocore').info('noise'); logging.getLogger('boto3').info('noise')"
    )
    shown = python("-c", program, PYWREN_LOGLEVEL="INFO").stderr
    assert "my own" in shown
    assert "ours" in shown
    assert "noise" not in shown
    assert python("-c", program).stderr == ""
    assert callable(wrenlogging.default_config)


# -- signatures ----------------------------------------------------------------------------------------------

SIGNATURES = [
    (pywren.default_executor, "**kwargs"),
    (pywren.lambda_executor, "config=None, job_max_runtime=280"),
    (pywren.dummy_executor, "config=None, job_max_runtime=300"),
    (pywren.remote_executor, "config=None, job_max_runtime=3600"),
    (pywren.local_executor, "invoker_object=None, config=None, job_max_runtime=300"),
    (pywren.get_all_results, "fs"),
    (pywren.wait, "fs, return_when=1, THREADPOOL_SIZE=64, WAIT_DUR_SEC=5"),
    (executor.Executor.__init__, "self, invoker, config, job_max_runtime"),
    (
        executor.Executor.map,
        "self, func, iterdata, extra_env=None, extra_meta=None, invoke_pool_threads=64, data_all_as_one=True, "
        "use_cached_runtime=True, overwrite_invoke_args=None, exclude_modules=None",
    ),
    (executor.Executor.call_async, "self, func, data, extra_env=None, extra_meta=None"),
    (executor.Executor.reduce, "self, function, list_of_futures, extra_env=None, extra_meta=None"),
    (executor.Executor.get_logs, "self, future, verbose=True"),
    (executor.Executor.agg_data, "data_strs"),
    (future.ResponseFuture.__init__, "self, call_id, callset_id, invoke_metadata=ANY, storage_path=ANY"),
    (
        future.ResponseFuture.result,
        "self, timeout=None, check_only=False, throw_except=True, storage_handler=None",
    ),
    (future.ResponseFuture.cancel, "self, storage_handler=None"),
    (future.ResponseFuture.done, "self"),
    (future.ResponseFuture.succeeded, "self"),
    (future.ResponseFuture.errored, "self"),
    (future.ResponseFuture.exception, "self, timeout=None"),
    (future.ResponseFuture.add_done_callback, "self, fn"),
    (invokers.LambdaInvoker.__init__, "self, region_name, lambda_function_name"),
    (invokers.DummyInvoker.__init__, "self"),
    (invokers.DummyInvoker.run_jobs, "self, MAXJOBS=-1, run_dir=ANY"),
    (invokers.DummyInvoker.run_jobs_threaded, "self, MAXJOBS=-1, run_dir=ANY"),
    (invokers.LocalInvoker.__init__, "self, run_dir=ANY"),
    (queues.SQSInvoker.__init__, "self, region_name, sqs_queue_name"),
    (queues.sqs_run_local, "region_name, sqs_queue_name, job_num=1, run_dir=ANY"),
    (wrenhandler.aws_lambda_handler, "event, context"),
    (wrenhandler.generic_handler, "event, context_dict, custom_handler_env=None"),
    (wrenconfig.load, "config_filename"),
    (wrenconfig.default, ""),
    (wrenconfig.get_default_config_filename, ""),
    (wrenconfig.get_default_home_filename, ""),
    (wrenconfig.extract_storage_config, "config"),
    (wrenconfig.patch_storage_config, "config_data"),
    (storage.Storage.__init__, "self, config"),
    (storage.get_runtime_info, "runtime_config"),
    (storage.Storage.put_data, "self, key, data"),
    (storage.Storage.put_func, "self, key, func"),
    (storage.Storage.put_cancelled, "self, callset_id, call_id, cancelled_data=ANY"),
    (storage.Storage.get_callset_status, "self, callset_id"),
    (storage.Storage.get_call_status, "self, callset_id, call_id"),
    (storage.Storage.get_call_output, "self, callset_id, call_id"),
    (storage_exceptions.StorageNoSuchKeyError.__init__, "self, key"),
    (storage_exceptions.StorageOutputNotFoundError.__init__, "self, callset_id, call_id"),
    (storage_exceptions.StorageConfigMismatchError.__init__, "self, current_path, prev_path"),
    (wrenlogging.default_config, "log_level=ANY"),
]


@pytest.mark.parametrize(
    ("function", "expected"), SIGNATURES, ids=[function.__qualname__ for function, _ in SIGNATURES]
)
def test_signatures(function: Callable[..., Any], expected: str) -> None:
    """Names, positions and defaults are 0.4's; new parameters come after them and are optional."""
    wanted = list(inspect.signature(eval(f"lambda {expected}: None", {"ANY": ANY})).parameters.values())
    found = list(inspect.signature(function).parameters.values())
    assert [(p.name, p.kind, p.default) for p in wanted] == [(p.name, p.kind, p.default) for p in found[: len(wanted)]]
    assert all(parameter.default is not inspect.Parameter.empty for parameter in found[len(wanted) :])


# -- factories -----------------------------------------------------------------------------------------------


@pytest.mark.moto
@pytest.mark.parametrize(
    ("name", "invoker"),
    [
        (None, invokers.LambdaInvoker),
        ("lambda", invokers.LambdaInvoker),
        ("remote", queues.SQSInvoker),
        ("standalone", queues.SQSInvoker),
        ("dummy", invokers.DummyInvoker),
        ("local", invokers.LocalInvoker),
    ],
)
def test_the_environment_says_which_executor(
    aws: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str | None, invoker: type
) -> None:
    """``PYWREN_EXECUTOR`` names the factory; without it a configuration means Lambda."""
    if name is not None:
        monkeypatch.setenv("PYWREN_EXECUTOR", name)
    assert type(pywren.default_executor(config=aws, job_max_runtime=77).invoker) is invoker
    assert pywren.default_executor(config=aws, job_max_runtime=77).job_max_runtime == 77


def test_an_unknown_executor_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name is an error of ``default_executor``; 0.4 silently used Lambda."""
    monkeypatch.setenv("PYWREN_EXECUTOR", "lamda")
    with pytest.raises(ConfigError, match=r"lamda.*lambda"):
        pywren.default_executor()


def test_the_default_configuration_may_be_passed_on(caplog: pytest.LogCaptureFixture) -> None:
    """``default_executor(config=wrenconfig.default())`` equals ``default_executor()``, with and without a file."""
    config = pywren.wrenconfig.default()
    made = pywren.default_executor(config=config)
    assert made.call_async(add_one, 1).result() == 2
    with pytest.raises(ConfigError, match="localhost"):
        pywren.lambda_executor(config=config)


def test_a_directory_to_run_in_is_accepted(tmp_path: Path) -> None:
    """``local_run_dir`` from the configuration reaches the invoker, and so does a program's own invoker."""
    config = {**wrenconfig.default(), "local_run_dir": str(tmp_path)}
    assert pywren.local_executor(config=config).invoker.run_dir == str(tmp_path)
    own = invokers.LocalInvoker(run_dir=str(tmp_path))
    assert pywren.local_executor(own).invoker is own


@pytest.mark.moto
def test_the_queue_comes_from_the_configuration(aws: dict[str, Any]) -> None:
    """``remote_executor`` uses ``standalone: sqs_queue_name``."""
    assert pywren.remote_executor(config=aws).invoker.sqs_queue_name == aws["standalone"]["sqs_queue_name"]


# -- Executor ------------------------------------------------------------------------------------------------


def test_attributes_of_an_executor(make: Make) -> None:
    """All of 0.4's attributes are there."""
    made = make(job_max_runtime=99)
    assert made.job_max_runtime == 99
    assert made.map_item_limit == (made.config.get("scheduler") or {}).get("map_item_limit")
    assert made.storage_config == wrenconfig.extract_storage_config(made.config)
    assert isinstance(made.storage, storage.Storage)
    assert {"python_ver", "preinstalls", "pkg_ver_list"} <= set(made.runtime_meta_info)
    assert made.runtime_meta_info["python_ver"] == HERE
    assert made.serializer is not None
    assert made.invoker.config() is not None


def test_map(make: Make) -> None:
    """There is one future per item, in order; an item is one positional argument; no items give no futures."""
    made = make()
    futures = made.map(lambda pair: (type(pair).__name__, pair), ((x, -x) for x in range(3)))
    assert [f.result() for f in futures] == [("tuple", (x, -x)) for x in range(3)]
    assert [f.call_id for f in futures] == ["00000", "00001", "00002"]
    assert len({f.callset_id for f in futures}) == 1
    assert str(uuid.UUID(futures[0].callset_id, version=4)) == futures[0].callset_id
    assert made.map(add_one, []) == []


def test_reduce_gets_the_list(make: Make) -> None:
    """To the program, all inputs have finished when ``reduce`` returns; the function gets a list of their results."""
    made = make()
    futures = made.map(add_one, range(4))
    reduced = made.reduce(lambda results: (type(results).__name__, results), futures)
    assert all(f.succeeded() for f in futures)
    assert reduced.result() == ("list", [1, 2, 3, 4])


def test_futures_among_arguments_arrive_finished(make: Make) -> None:
    """``.result()`` on the worker returns what the earlier call returned."""
    made = make()
    futures = made.map(add_one, range(3))
    assert made.call_async(lambda fs: [f.result() for f in fs], futures).result() == [1, 2, 3]


def test_extra_env_reaches_the_function(make: Make) -> None:
    """The variable is set in the environment of the call."""
    assert make().call_async(variable, "GREETING", extra_env={"GREETING": "hello"}).result() == "hello"


def test_extra_meta_is_in_invoke_status_and_must_not_clash(make: Make) -> None:
    """Programs identify their calls by members that they add to the payload."""
    made = make()
    one = made.map(add_one, [1], extra_meta={"experiment": "first"})[0]
    one.result()
    assert one.invoke_status["experiment"] == "first"
    with pytest.raises(ValueError, match="call_id"):
        made.map(add_one, [1], extra_meta={"call_id": "mine"})


def test_a_worker_may_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function makes an executor and maps, as old public scripts do."""

    def outer(n: int) -> int:
        import pywren

        return sum(pywren.get_all_results(pywren.local_executor().map(lambda x: x * x, range(n))))

    assert pywren.local_executor().call_async(outer, 4).result() == 14


@pytest.mark.moto
def test_a_worker_on_lambda_may_map(aws: dict[str, Any]) -> None:
    """With the configuration in the closure, the function's calls run on Lambda too."""

    def outer(n: int) -> int:
        import pywren

        made = pywren.lambda_executor(config=aws)
        return sum(f.result() for f in made.map(lambda x: x * x, range(n)))

    assert pywren.lambda_executor(config=aws).call_async(outer, 3).result(timeout=WAIT) == 5


@pytest.mark.moto
def test_get_logs(on_lambda: executor.Executor) -> None:
    """Log events have milliseconds and messages, and go from START to REPORT."""
    one = on_lambda.call_async(print, "said on Lambda")
    one.result()
    logs = on_lambda.get_logs(one, verbose=False)
    assert all(isinstance(when, int) and isinstance(message, str) for when, message in logs)
    assert logs[0][1].startswith("START")
    assert logs[-1][1].startswith("REPORT")
    assert any("said on Lambda" in message for _, message in logs)


@pytest.mark.moto
def test_get_logs_prints(on_lambda: executor.Executor, capsys: pytest.CaptureFixture[str]) -> None:
    """As in 0.4, it prints what it returns, unless told not to."""
    one = on_lambda.call_async(print, "said on Lambda")
    one.result()
    on_lambda.get_logs(one, verbose=False)
    assert capsys.readouterr().out == ""
    logs = on_lambda.get_logs(one)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "log events returned"
    assert shown[1:] == [f"{when} {message.strip()}" for when, message in logs]


def test_agg_data() -> None:
    """The ranges include their last byte."""
    assert executor.Executor.agg_data([b"ab", b"cde", b"f"]) == (b"abcdef", [(0, 1), (2, 4), (5, 5)])


def test_invoke_with_keys() -> None:
    """A program may store function and argument itself and invoke by key."""
    made = pywren.dummy_executor()
    mapped = made.map(add_one, [41], data_all_as_one=False)[0]
    first = made.invoker.payloads.pop()
    callset_id, call_id = wrenutil.create_callset_id(), wrenutil.create_call_id(0)
    data_key, output_key, status_key, cancel_key = storage_utils.create_keys(made.storage.prefix, callset_id, call_id)
    made.put_data(data_key, made.storage.get(first["data_key"]), callset_id, call_id)
    one = made.invoke_with_keys(
        first["func_key"],
        data_key,
        output_key,
        status_key,
        cancel_key,
        callset_id,
        call_id,
        {"A": "b"},
        {"mine": 1},
        None,
        True,
        {"host": "meta"},
        30,
    )
    made.invoker.run_jobs()
    assert one.result() == 42
    assert one.invoke_status["host"] == "meta"
    assert mapped.callset_id != one.callset_id


# -- objects and payload -------------------------------------------------------------------------------------

PAYLOAD = _words(
    "storage_config func_key data_key output_key status_key cancel_key callset_id call_id job_max_runtime "
    "data_byte_range use_cached_runtime runtime pywren_version runtime_url host_submit_time "
)


def test_keys_of_the_payload() -> None:
    """The payload is a dict that can be encoded as JSON; ``extra_env`` and ``extra_meta`` appear when given."""
    made = pywren.dummy_executor(job_max_runtime=55)
    made.map(add_one, [1, 2])
    made.map(add_one, [3], {"A": "b"}, {"meta": [1]}, use_cached_runtime=False, overwrite_invoke_args={"func_key": "x"})
    plain, _, full = made.invoker.payloads
    assert json.loads(json.dumps(plain)) == plain
    assert set(PAYLOAD) <= set(plain)
    assert "extra_env" not in plain
    assert plain["job_max_runtime"] == 55
    assert plain["use_cached_runtime"] is True
    assert plain["pywren_version"] == pywren.__version__
    assert plain["storage_config"] == made.storage_config
    assert (full["extra_env"], full["meta"], full["use_cached_runtime"]) == ({"A": "b"}, [1], False)
    assert full["func_key"] == "x"


@pytest.mark.moto
def test_layout_of_the_objects(aws: dict[str, Any], on_lambda: executor.Executor) -> None:
    """Function, joined arguments, single argument, output, status and cancel mark have 0.4's keys."""
    made = on_lambda
    together = made.map(len, [os.urandom(200_000)] * 2)
    apart = made.map(bytes, [600_000], data_all_as_one=False)
    assert pywren.get_all_results(together) == [200_000] * 2
    assert len(apart[0].result()) == 600_000
    prefix = aws["s3"]["pywren_prefix"]

    def objects(futures: list[future.ResponseFuture]) -> set[str]:
        root = f"{prefix}/{futures[0].callset_id}/"
        return {key.removeprefix(root) for key in made.storage.backend.list(root)}

    assert objects(together) == {"func.pickle", "aggdata.pickle", "00000/status.json", "00001/status.json"}
    assert objects(apart) == {"func.pickle", *(f"00000/{n}" for n in ("data.pickle", "output.pickle", "status.json"))}
    made.storage.put_cancelled(apart[0].callset_id, "00000", "CANCEL")
    assert "00000/cancel" in objects(apart)


@pytest.mark.moto
def test_storage_config(aws: dict[str, Any]) -> None:
    """The configuration has backend, prefix, and the backend's own section."""
    assert pywren.lambda_executor(config=aws).storage_config == {
        "storage_backend": "s3",
        "storage_prefix": "pywren.jobs",
        "backend_config": {"bucket": aws["s3"]["bucket"], "region": "us-west-2"},
    }


# -- statuses ------------------------------------------------------------------------------------------------

INVOKE_STATUS = _words(
    "agg_data data_size_bytes data_upload_time data_upload_timestamp func_module_str_len func_upload_time "
    "func_upload_timestamp job_invoke_timestamp lambda_invoke_timestamp lambda_invoke_time "
    "status_done_timestamp status_query_count download_output_time download_output_timestamp "
)
RUN_STATUS = _words(
    "exception exception_args exception_traceback start_time setup_time exec_time end_time call_id callset_id "
    "func_key data_key output_key status_key runtime_cached retcode stdout host_submit_time server_info "
    "free_disk_bytes runtime_s3_key_used runtime_s3_bucket_used func_download_time data_download_time "
    "output_upload_time "
)
TIMES = [name for name in INVOKE_STATUS + RUN_STATUS if name.endswith(("_time", "_timestamp"))]


def test_keys_of_the_statuses(make: Make) -> None:
    """All of 0.4's keys exist, but are None until the outcome is known; times are numbers."""
    made = make()
    one = made.map(add_one, [1])[0]
    assert (one.run_status, one.invoke_status) == (None, None)
    one.result()
    assert set(RUN_STATUS) - set(one.run_status) == set()
    assert {*INVOKE_STATUS, *PAYLOAD, *made.invoker.config()} - set(one.invoke_status) == set()
    both = {**one.invoke_status, **one.run_status}
    assert {name: both[name] for name in TIMES if not isinstance(both[name], (int, float))} == {}
    assert one.run_status["start_time"] <= one.run_status["end_time"] <= both["status_done_timestamp"] + 1
    assert (one.run_status["exception"], one.run_status["retcode"]) == (None, 0)
    assert one.invoke_status["call_id"] == one.run_status["call_id"] == "00000"
    json.dumps([one.run_status, one.invoke_status])


def test_status_of_a_failed_call(make: Make) -> None:
    """The exception of a function is not an exception of the worker; its traceback is in the status as text."""
    one = make().call_async(int, "x")
    assert one.result(throw_except=False) is None
    assert (one.run_status["exception"], one.run_status["exception_args"]) == (None, None)
    assert "Traceback" in one.run_status["exception_traceback"]
    assert "invalid literal" in one.run_status["exception_traceback"]


@pytest.mark.parametrize(
    ("function", "argument", "code"),
    [(leave, 4, "RETCODE"), (leave, 0, "RETCODE"), (os.abort, None, "RETCODE"), (sys.exit, "text", "RETCODE")],
    ids=["exit", "exit-0", "signal", "sys-exit"],
)
def test_codes_of_workers_that_died(make: Make, function: Callable[[Any], Any], argument: Any, code: str) -> None:
    """``exception`` is a text with 0.4's code, which is also the first of ``exception_args``."""
    one = make().call_async(lambda x: function() if x is None else function(x), argument)
    pywren.wait([one])
    _assert_code(one, code)


def test_code_of_a_call_out_of_time(make: Make) -> None:
    """The call exceeds ``job_max_runtime``."""
    one = make(job_max_runtime=0.5).call_async(sleep, 600)
    one.exception()
    _assert_code(one, "OUTATIME")


def test_code_of_another_version(make: Make) -> None:
    """The versions of worker and client follow the code, as 0.4's client expects."""
    one = make().map(add_one, [1], overwrite_invoke_args={"pywren_version": "0.0.0"})[0]
    one.exception()
    _assert_code(one, "WRONGVERSION")
    assert one.run_status["exception_args"][2:] == [pywren.__version__, "0.0.0"]


def test_code_of_a_cancelled_call() -> None:
    """A call is cancelled while it waits or runs, by its future or by ``Storage.put_cancelled``."""
    here, dummy = pywren.local_executor(), pywren.dummy_executor()
    futures = [here.call_async(sleep, 600), *dummy.map(add_one, range(2))]
    for one in futures[:2]:
        one.cancel()
    dummy.storage.put_cancelled(futures[2].callset_id, futures[2].call_id, "CANCEL")
    pywren.wait(futures)
    for one in futures:
        _assert_code(one, "CANCELLED")
        with pytest.raises(Exception, match="cancelled"):
            one.result()


def test_a_result_that_does_not_come_back_is_no_exception_of_the_worker(make: Make) -> None:
    """As in 0.4, a failure of the function is not a failure of the worker."""
    one = make().call_async(lambda _: __import__("threading").Lock(), 0)
    one.exception()
    assert (one.run_status["exception"], one.run_status["exception_args"]) == (None, None)


def _assert_code(one: future.ResponseFuture, code: str) -> None:
    run_status = one.run_status
    assert code in run_status["exception"]
    assert isinstance(run_status["exception_args"], list)
    assert run_status["exception_args"][0] == code
    assert isinstance(run_status["exception_args"][1], str)
    assert isinstance(run_status["exception_traceback"], str)
    json.dumps(run_status)


@pytest.mark.moto
def test_keys_of_the_run_status_on_lambda(aws: dict[str, Any], on_lambda: executor.Executor) -> None:
    """Lambda's names for the invocation and its log are included."""
    one = on_lambda.call_async(add_one, 1)
    one.result()
    assert {"aws_request_id", "log_group_name", "log_stream_name"} <= set(one.run_status)
    assert one.run_status["log_group_name"] == f"/aws/lambda/{aws['lambda']['function_name']}"


def test_statuses_outlive_a_pickle(make: Make) -> None:
    """An unpickled future still has the statuses that were known before."""
    one = make().call_async(add_one, 1)
    one.result()
    assert one.run_status is not None
    copy = pickle.loads(pickle.dumps(one))
    assert copy.result() == 2
    assert set(RUN_STATUS) <= set(copy.run_status)
    assert {*INVOKE_STATUS, *PAYLOAD} <= set(copy.invoke_status)


# -- futures -------------------------------------------------------------------------------------------------


def test_setup_time_is_counted_once(make: Make) -> None:
    """The set-up time covers the handler and unpickling, and is shorter than the call."""

    class Slow:
        def __reduce__(self) -> tuple[Any, ...]:
            return sleep, (0.5,)

    one = make().call_async(lambda x: x, Slow())
    one.result()
    status = one.run_status
    assert status["setup_time"] >= 0.5
    assert status["start_time"] + status["setup_time"] + status["exec_time"] <= status["end_time"] + 0.01


def test_server_info(make: Make) -> None:
    """0.4's files of ``/proc`` are there with ``uname``, each limited in size."""
    one = make().call_async(add_one, 1)
    one.result()
    told = one.run_status["server_info"]
    files = {"/proc/cpuinfo", "/proc/meminfo", "/proc/self/cgroup", "/proc/cgroups"}
    assert {"uname", *filter(os.path.exists, files)} <= set(told)
    for name in files & set(told):
        assert isinstance(told[name], str)
        assert len(told[name]) <= 32 * 1024
    assert "MemTotal" in told.get("/proc/meminfo", "MemTotal")


@pytest.mark.parametrize("count", [1, 10_001])
def test_no_item_limit_without_a_section(count: int) -> None:
    """Without a limit in the configuration there is none."""
    for scheduler in (None, {}, {"retries": 1}, {"map_item_limit": None}):
        config = {**wrenconfig.default(), "scheduler": scheduler}
        made = pywren.dummy_executor(config=config)
        assert made.map_item_limit is None
    assert pywren.local_executor().map_item_limit is None
    assert len(made.map(len, [""] * count)) == count


@pytest.mark.parametrize(
    ("section", "missing"),
    [
        ({"s3_key": "pywren.runtimes/default_2.7.meta.json"}, "s3_bucket"),
        ({"s3_key": "mine.tar.gz", "s3_bucket": None}, "s3_bucket"),
        ({"s3_bucket": "mine"}, "s3_key"),
        ({"s3_bucket": "mine", "s3_key": ""}, "s3_key"),
        ({"sha256": "0" * 64}, "s3_bucket"),
    ],
    ids=["key", "empty-bucket", "bucket", "empty-key", "sha256"],
)
def test_half_a_runtime(section: dict[str, Any], missing: str) -> None:
    """Row 290: half a runtime is refused: otherwise it would be ignored, and calls would run without it."""
    config = {**wrenconfig.default(), "runtime": {"runtime_storage": "s3", **section}}
    for factory in (pywren.local_executor, pywren.dummy_executor):
        with pytest.raises(ConfigError, match=f"runtime: {missing}") as caught:
            factory(config=config)
        assert "python version" in str(caught.value)


def test_no_runtime_at_all() -> None:
    """A section without a runtime means the runtime of this machine."""
    for section in ({}, {"s3_key": None, "s3_bucket": None}, {"runtime_storage": "s3"}, {"preinstalls": ["numpy"]}):
        assert pywren.dummy_executor(config={**wrenconfig.default(), "runtime": section}).runtime_meta_info


# -- what programs read although it was never promised -----------------------------------------------------------


def test_names_inside_a_future(make: Make) -> None:
    """They are None before the outcome is known, and then tell how the call ended."""
    made = make(job_max_runtime=30)
    good, bad, dead = made.call_async(add_one, 1), made.call_async(int, "x"), made.call_async(leave, 3)
    for one in (good, bad, dead):
        assert (one._traceback, one._return_val, one._call_invoker_result) == (None, None, None)
        assert one._invoke_metadata["call_id"] == "00000"
    pywren.wait([good, bad, dead])
    assert (good._traceback, good._return_val) == (None, 2)
    assert good._call_invoker_result == {"success": True, "result": 2}
    kind, value, trace = bad._traceback
    assert (kind, type(value), bad._return_val) == (ValueError, ValueError, None)
    with pytest.raises(ValueError, match="invalid literal"):
        raise value.with_traceback(trace)
    told = bad._call_invoker_result
    assert (told["success"], told["result"], told["exc_type"], told["exc_value"]) == (False, value, ValueError, value)
    assert dead._traceback[0] is pywren.exceptions.WorkerCrashedError
    assert dead._call_invoker_result is None
    assert good._invoke_metadata == good.invoke_status


def test_names_inside_a_future_whose_result_did_not_come_back(make: Make) -> None:
    """0.4 set ``pickle_fail`` in this case."""
    one = make().call_async(lambda _: __import__("threading").Lock(), 0)
    one.exception()
    assert one._call_invoker_result["pickle_fail"] is True
    assert one._call_invoker_result["success"] is False


def test_setting_the_state_of_a_future() -> None:
    """Row 295: a program can declare a running call ended; a call that has ended keeps its state."""
    made = pywren.dummy_executor()
    given_up, done, runs, ended = made.map(add_one, range(4))
    for one in (given_up, done, runs, ended):
        one._set_state(future.JobState.invoked)
        assert one.job_state is future.JobState.invoked
    given_up._set_state(future.JobState.error)
    done._set_state(future.JobState.success)
    runs._set_state(future.JobState.running)
    assert runs.running()
    assert given_up.errored()
    assert done.succeeded()
    assert pywren.wait([given_up, done], pywren.ALWAYS) == ([given_up, done], [])
    with pytest.raises(pywren.exceptions.CallError, match="set the call's state"):
        given_up.result()
    made.invoker.run_jobs()
    assert ended.result() == 4
    ended._set_state(future.JobState.error)
    assert ended.result() == 4
    assert runs.result() == 3


def test_a_future_that_a_program_makes_itself() -> None:
    """The future keeps the storage that it was given."""
    one = future.ResponseFuture("00000", "some-callset", {"mine": 1}, None)
    assert one._invoke_metadata == {"mine": 1}
    assert (one._traceback, one._return_val, one._call_invoker_result) == (None, None, None)
    made = pywren.dummy_executor()
    mapped = made.call_async(add_one, 1)
    copy = future.ResponseFuture(mapped.call_id, mapped.callset_id, {"mine": 1}, mapped.storage_path)
    copy._set_state(future.JobState.invoked)
    made.invoker.run_jobs()
    assert copy.result() == 2
    assert copy._invoke_metadata["mine"] == 1


def test_job_states() -> None:
    """Names and numbers are 0.4's."""
    assert {state.name: state.value for state in future.JobState} == {
        "new": 1,
        "invoked": 2,
        "running": 3,
        "success": 4,
        "error": 5,
    }


def test_a_new_future_has_no_result() -> None:
    """The error has 0.4's text."""
    with pytest.raises(ValueError, match="job not yet invoked"):
        future.ResponseFuture("00000", "callset", None, None).result()


def test_surface_of_a_future(make: Make) -> None:
    """A future has 0.4's attributes, methods that poll, and methods that only repeat the last answer."""
    made = make()
    one = made.call_async(add_one, 1)
    assert not one.succeeded()
    assert not one.errored()
    assert one.result(check_only=True) in (True, False)
    assert one.result(storage_handler=made.storage) == 2
    assert one.done()
    assert one.succeeded()
    assert not one.errored()
    assert one.status_query_count >= 0
    assert one.storage_path == storage_utils.get_storage_path(made.storage_config)
    assert isinstance(future.ResponseFuture.GET_RESULT_SLEEP_SECS, (int, float))


def test_what_0_4_left_unimplemented(make: Make) -> None:
    """``timeout``, ``exception``, callbacks, ``running`` and ``cancelled`` work as in the standard library."""
    made = make()
    good, bad = made.map(int, ["1", "x"])
    assert good.exception(timeout=WAIT) is None
    assert type(bad.exception()) is ValueError
    assert bad.errored()
    told: list[Any] = []
    good.add_done_callback(told.append)
    assert told == [good]
    assert (good.running(), good.cancelled()) == (False, False)
    waiting = pywren.dummy_executor().call_async(add_one, 1)
    with pytest.raises(TimeoutError):
        waiting.result(timeout=0.01)


def test_a_pickled_list_of_futures(make: Make) -> None:
    """Programs store futures in files, load them, and wait for them."""
    futures = pickle.loads(pickle.dumps(make().map(add_one, range(3))))
    done, not_done = pywren.wait(futures)
    assert (done, not_done) == (futures, [])
    assert [f.result() for f in futures] == [1, 2, 3]


# -- texts ---------------------------------------------------------------------------------------------------


def raised_by(one: future.ResponseFuture) -> Exception:
    """Return what a call raises; programs of 0.4 catch ``Exception``."""
    try:
        one.result(timeout=WAIT)
    except Exception as error:  # noqa: BLE001 -- as those programs do
        return error
    raise AssertionError("the call returned")


def test_text_when_cancelled() -> None:
    """A cancelled call has 0.4's text."""
    one = pywren.dummy_executor().call_async(add_one, 1)
    one.cancel()
    assert "cancelled" in str(raised_by(one))


def test_text_when_cancelled_while_it_runs() -> None:
    """A call on this machine that waits forever is cancelled with 0.4's text."""
    one = pywren.local_executor().call_async(sleep, 600)
    one.cancel()
    assert "cancelled" in str(raised_by(one))


def test_text_when_out_of_time(make: Make) -> None:
    """A call over ``job_max_runtime`` has 0.4's text."""
    assert "ran out of time" in str(raised_by(make(job_max_runtime=0.5).call_async(sleep, 600)))


def test_text_when_the_process_died(make: Make) -> None:
    """``sys.exit(-1)`` and a crash have 0.4's text."""
    made = make()
    for end, code in ((sys.exit, -1), (os._exit, 3)):
        assert "non-zero return code" in str(raised_by(made.call_async(end, code)))


def test_text_of_another_version(make: Make) -> None:
    """``pywren_version`` differs, as 0.4's own test arranges."""
    one = make().map(add_one, [1], overwrite_invoke_args={"pywren_version": "0.0.0"})[0]
    assert "version mismatch" in str(raised_by(one))


@pytest.mark.parametrize(
    ("overwrite", "text"),
    [
        ({"func_key": "nowhere/func.pickle"}, "nowhere/func.pickle"),
        ({"func_sha256": "0" * 64}, "func.pickle"),
        ({"job_max_runtime": 0.2}, "ran out of time"),
        ({"extra_env": {"WAIT": "no"}}, None),
        ({}, None),
    ],
    ids=["func_key", "func_sha256", "job_max_runtime", "extra_env", "nothing"],
)
def test_overwrite_invoke_args_counts_everywhere(make: Make, overwrite: dict[str, Any], text: str | None) -> None:
    """The worker gets every payload member that a program replaces, even on this machine."""

    def wait(seconds: float) -> str | None:
        import time

        if seconds and "WAIT" not in os.environ:
            time.sleep(seconds)
        return os.environ.get("WAIT")

    one = make().map(wait, [600 if overwrite else 0], overwrite_invoke_args=overwrite)[0]
    if text is None:
        assert one.result(timeout=WAIT) == overwrite.get("extra_env", {}).get("WAIT")
    else:
        assert text in str(raised_by(one))


@pytest.mark.moto
def test_text_of_a_runtime_for_another_python(aws: dict[str, Any]) -> None:
    """Making the executor fails when a runtime in the user's bucket is for another Python."""
    with pytest.raises(Exception, match="python version"):
        pywren.lambda_executor(config=_with_runtime(aws, "2.7"))


@pytest.mark.moto
def test_a_missing_runtime_is_told_when_the_executor_is_made(aws: dict[str, Any]) -> None:
    """Making the executor fails when a runtime in the user's bucket does not exist."""
    config = {**aws, "runtime": {"s3_bucket": aws["s3"]["bucket"], "s3_key": "nowhere.tar.gz"}}
    with pytest.raises(ConfigError, match=r"there is no runtime s3://.*/nowhere"):
        pywren.lambda_executor(config=config)


def _with_runtime(config: dict[str, Any], python_ver: str) -> dict[str, Any]:
    place = {"s3_bucket": config["s3"]["bucket"], "s3_key": f"runtimes/{python_ver}.tar.gz"}
    meta = {"python_ver": python_ver, "preinstalls": [["numpy", True]], "pkg_ver_list": []}
    kept = storage.Storage(wrenconfig.extract_storage_config(config))
    kept.put(f"runtimes/{python_ver}.meta.json", json.dumps(meta).encode())
    kept.put(place["s3_key"], b"")
    kept.close()
    return {**config, "runtime": place}


@pytest.mark.moto
def test_args_of_a_broken_runtime(aws: dict[str, Any], on_lambda: executor.Executor) -> None:
    """``args[1]`` says what is wrong with the runtime."""
    huge = tarfile.TarInfo("bigger than any disk")
    huge.size = 10**17
    tarballs = {"RUNTIME_TOO_BIG": huge.tobuf(tarfile.GNU_FORMAT), "RUNTIME_ERROR": b"no archive"}
    for code in (*tarballs, "RUNTIME_READ_ERROR"):
        content = tarballs.get(code)
        if content is not None:
            on_lambda.storage.put(f"runtimes/{code}.tar.gz", content)
        url = f"s3://{aws['s3']['bucket']}/runtimes/{code}.tar.gz"
        named = {"runtime_url": url, "runtime_sha256": hashlib.sha256(content or b"").hexdigest()}
        one = on_lambda.map(add_one, [1], overwrite_invoke_args=named)[0]
        error = raised_by(one)
        assert error.args[1] == code
        assert url in str(error)
        assert one.run_status["exception_args"][0] == code


def test_text_over_the_item_limit() -> None:
    """Mapping more items than ``scheduler: map_item_limit`` has 0.4's text."""
    config = wrenconfig.default()
    config["scheduler"]["map_item_limit"] = 5
    with pytest.raises(ValueError, match="exceeding map item limit"):
        pywren.local_executor(config=config).map(add_one, range(6))


def test_text_of_the_placeholder_bucket(tmp_path: Path) -> None:
    """A configuration with the placeholder bucket has 0.4's text."""
    path = tmp_path / "config"
    path.write_text(Path(CONFIG_OF_2018).read_text().replace("my-bucket-of-2018", "BUCKET_NAME"))
    with pytest.raises(Exception, match="make sure you change the default bucket"):
        wrenconfig.load(str(path))


def test_text_of_a_bad_url() -> None:
    """Any URL that is not ``s3://bucket/key`` is refused."""
    with pytest.raises(ValueError, match="is not valid"):
        wrenutil.split_s3_url("http://example.org/key")


def test_the_users_own_exception(make: Make) -> None:
    """The exception has its own type, and a readable remote traceback."""
    error = raised_by(make().call_async(int, "not a number"))
    assert type(error) is ValueError


# -- wait ----------------------------------------------------------------------------------------------------


def test_wait_over_maps_and_executors() -> None:
    """Two lists keep their order; equal call ids of two maps are not confused; ``ALWAYS`` polls once."""
    dummy, here = pywren.dummy_executor(), pywren.local_executor()
    later, now = dummy.map(add_one, range(2)), here.map(add_one, range(2))
    assert pywren.wait(now) == (now, [])
    mixed = [now[0], later[0], now[1], later[1]]
    assert pywren.wait(mixed, return_when=pywren.ALWAYS) == (now, later)
    assert pywren.wait(mixed, return_when=pywren.ANY_COMPLETED, THREADPOOL_SIZE=2, WAIT_DUR_SEC=1) == (now, later)
    dummy.invoker.run_jobs(MAXJOBS=1)
    assert pywren.wait(pickle.loads(pickle.dumps(later)), pywren.ANY_COMPLETED)[1] != []
    dummy.invoker.run_jobs()
    assert pywren.wait(mixed, pywren.ALL_COMPLETED) == (mixed, [])
    assert pywren.wait.__module__ == "pywren.wait"


# -- invokers and queues -------------------------------------------------------------------------------------


@pytest.mark.moto
def test_lambda_invoker(aws: dict[str, Any]) -> None:
    """The invoker has 0.4's client, time limit and ``config()``."""
    one = invokers.LambdaInvoker("us-west-2", aws["lambda"]["function_name"])
    assert one.config() == {"lambda_function_name": aws["lambda"]["function_name"], "region_name": "us-west-2"}
    assert one.TIME_LIMIT
    assert one.lambclient.meta.service_model.service_name == "lambda"
    one.close()


def test_dummy_invoker() -> None:
    """It keeps payloads until they are run: some, all, or several at once."""
    made = pywren.dummy_executor()
    futures = made.map(add_one, range(4))
    assert len(made.invoker.payloads) == 4
    made.invoker.run_jobs(2)
    assert len(made.invoker.payloads) == 2
    made.invoker.run_jobs_threaded()
    made.invoker.thread.join()
    assert [f.result() for f in futures] == [1, 2, 3, 4]
    assert made.invoker.config() == {}
    assert not made.invoker.TIME_LIMIT


def test_local_invoker(tmp_path: Path) -> None:
    """It takes a directory, as 0.4's does."""
    assert invokers.LocalInvoker(run_dir=str(tmp_path)).config() == {}


def test_an_invoker_of_ones_own() -> None:
    """Any object with ``invoke`` and ``config`` is accepted."""

    class Mine:
        def __init__(self) -> None:
            self.payloads: list[Any] = []

        def invoke(self, payload: Any) -> None:
            self.payloads.append(payload)

        def config(self) -> dict[str, Any]:
            return {"mine": True}

    mine = Mine()
    one = pywren.Executor(mine, wrenconfig.default(), 30).call_async(add_one, 1)
    local.local_handler(mine.payloads.pop(), "/tmp/tasks", {"invoker": "Mine"})
    assert one.result() == 2
    assert one.invoke_status["mine"] is True
    assert one.run_status["invoker"] == "Mine"


@pytest.mark.moto
def test_sqs(aws: dict[str, Any]) -> None:
    """Calls go through the queue; the key of ``config()`` has 0.4's spelling."""
    made = pywren.remote_executor(config=aws)
    name = aws["standalone"]["sqs_queue_name"]
    assert made.invoker.config()["sqs_queue_name_name"] == name
    assert (made.invoker.region_name, made.invoker.sqs_queue_name) == ("us-west-2", name)
    assert made.invoker.queue.url.endswith(name)
    made.invoker.queue.send_message(MessageBody="no call")
    (message,) = made.invoker.queue.receive_messages(MaxNumberOfMessages=1)
    assert message.body == "no call"
    message.delete()
    futures = made.map(add_one, range(2))
    queues.sqs_run_local("us-west-2", name, job_num=2)
    assert [f.result() for f in futures] == [1, 2]


# -- worker --------------------------------------------------------------------------------------------------


class LambdaContext:
    """The context that Lambda passes to a handler."""

    aws_request_id = "request"
    log_group_name = "/aws/lambda/f"
    log_stream_name = "stream"

    def get_remaining_time_in_millis(self) -> int:
        """Return the remaining time in milliseconds."""
        return 60_000


def test_aws_lambda_handler() -> None:
    """Lambda's entry runs a payload with ``OMP_NUM_THREADS=1``, and the status names the invocation."""
    made = pywren.dummy_executor()
    one = made.call_async(variable, "OMP_NUM_THREADS")
    wrenhandler.aws_lambda_handler(made.invoker.payloads.pop(), LambdaContext())
    assert one.result() == "1"
    assert one.run_status["log_stream_name"] == "stream"


def test_generic_handler() -> None:
    """0.4's entry for all other platforms runs a payload, with a given environment."""
    made = pywren.dummy_executor()
    one = made.call_async(variable, "MINE")
    wrenhandler.generic_handler(made.invoker.payloads.pop(), {"where": "here"}, {"MINE": "yes"})
    assert one.result() == "yes"
    with pytest.raises(DecodeError):
        wrenhandler.generic_handler({}, {})


def test_modules_of_the_user_travel(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules are sent in any encoding, with indirect imports; excluded ones raise ``ImportError``."""
    source = "# -*- coding: latin-1 -*-\nfrom inner_of_2018 import n\nname = 'é'\n"
    (tmp_path / "outer_of_2018.py").write_text(source, encoding="latin-1")
    (tmp_path / "inner_of_2018.py").write_text("n = 7\n")
    (tmp_path / "not_imported_of_2018.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))

    def use(_: Any) -> tuple[str, int, bool]:
        import importlib.util

        import outer_of_2018

        return outer_of_2018.name, outer_of_2018.n, importlib.util.find_spec("not_imported_of_2018") is None

    made = make()
    assert made.call_async(use, None).result() == ("é", 7, True)
    excluded = made.map(use, [None], exclude_modules=["inner_of_2018"])[0]
    assert isinstance(raised_by(excluded), ImportError)


@pytest.mark.moto
def test_a_fresh_runtime_when_asked(on_lambda: executor.Executor) -> None:
    """``runtime_cached`` says whether the runtime is fresh or cached."""
    made = on_lambda
    made.call_async(add_one, 1).result()
    for cached in (False, True):
        one = made.map(add_one, [1], use_cached_runtime=cached)[0]
        one.result()
        assert one.run_status["runtime_cached"] is cached


@pytest.mark.moto
def test_helpers_of_the_handler(aws: dict[str, Any], on_lambda: executor.Executor, tmp_path: Path) -> None:
    """0.4's small functions next to the entry points exist."""
    handler, bucket = on_lambda.storage.backend_handler, aws["s3"]["bucket"]
    handler.put_object("some/key", "text")
    assert wrenhandler.get_key_size(handler.s3client, bucket, "some/key") == 4
    assert wrenhandler.get_key_size(handler.s3client, bucket, "some") is None
    assert wrenhandler.key_exists(handler.s3client, bucket, "some/key")
    assert not wrenhandler.key_exists(handler.s3client, bucket, "other")
    assert wrenhandler.free_disk_space(str(tmp_path)) > 0
    assert "uname" in wrenhandler.get_server_info()
    assert wrenhandler.b64str_to_bytes("YQ==") == b"a"
    with open(tmp_path / "lock", "w") as lock:
        wrenhandler.file_lock(lock)
        program = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        command = [sys.executable, "-c", program, lock.name]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 1
        wrenhandler.file_unlock(lock)
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


# -- configuration -------------------------------------------------------------------------------------------


def test_a_file_of_2018_loads(caplog: pytest.LogCaptureFixture) -> None:
    """Every value is kept; 0.4's defaults are added; the public runtime is ignored with a warning."""
    import yaml

    with caplog.at_level(logging.WARNING):
        config = wrenconfig.load(CONFIG_OF_2018)
    written = yaml.safe_load(Path(CONFIG_OF_2018).read_text())
    assert {**config, "runtime": written["runtime"]} == {
        **written,
        "standalone": {**written["standalone"], "ec2_ssh_key": None},
        "storage_backend": "s3",
        "storage_prefix": "pywren.jobs",
    }
    assert config["runtime"] == {"runtime_storage": "s3"}
    assert [record.getMessage() for record in caplog.records] == [ANY]
    assert "pywren runtime build" in caplog.text
    assert wrenconfig.extract_storage_config(config)["backend_config"]["bucket"] == "my-bucket-of-2018"
    assert storage.get_runtime_info(config["runtime"])["python_ver"] == HERE


@pytest.mark.moto
def test_a_file_of_2018_runs(aws: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """This also works when the program parses the file itself, with the public runtime still in it."""
    runtime_of_2018 = {"s3_bucket": "pywren-runtimes-public-us-west-2", "s3_key": "pywren.runtimes/default_3.6.tar.gz"}
    config = {**aws, "runtime": {**aws["runtime"], **runtime_of_2018}}
    with caplog.at_level(logging.WARNING):
        assert pywren.lambda_executor(config=config).call_async(add_one, 1).result() == 2
    assert "pywren runtime build" in caplog.text


def test_where_the_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is looked up in the variable, the working directory and the home directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert wrenconfig.get_default_home_filename() == str(tmp_path / ".pywren_config")
    assert wrenconfig.get_default_config_filename() is None
    (tmp_path / ".pywren_config").write_text(Path(CONFIG_OF_2018).read_text())
    assert os.path.abspath(str(wrenconfig.get_default_config_filename())) == str(tmp_path / ".pywren_config")
    monkeypatch.setenv("PYWREN_CONFIG_FILE", CONFIG_OF_2018)
    assert wrenconfig.get_default_config_filename() == CONFIG_OF_2018
    assert wrenconfig.default()["s3"]["bucket"] == "my-bucket-of-2018"


def test_constants_of_the_configuration() -> None:
    """Their values are 0.4's."""
    assert wrenconfig.MAX_AGG_DATA_SIZE == 4e6
    assert wrenconfig.AWS_REGION_DEFAULT == "us-west-2"
    assert wrenconfig.AWS_S3_BUCKET_DEFAULT == "pywren.data"
    assert wrenconfig.AWS_S3_PREFIX_DEFAULT == "pywren.jobs"
    assert wrenconfig.AWS_LAMBDA_ROLE_DEFAULT == "pywren_exec_role_1"
    assert wrenconfig.AWS_LAMBDA_FUNCTION_NAME_DEFAULT == "pywren_1"
    assert wrenconfig.AWS_SQS_QUEUE_DEFAULT == "pywren-jobs-1"
    assert HERE in wrenconfig.default_runtime


# -- storage -------------------------------------------------------------------------------------------------


def test_storage(eager_dummy: Make) -> None:
    """0.4's methods work on objects that a real call has left."""
    made = eager_dummy()
    kept = storage.Storage(made.storage_config)
    one = made.map(bytes, [600_000], data_all_as_one=False)[0]
    assert kept.get_storage_config() == made.storage_config
    assert kept.get_callset_status(one.callset_id) == ["00000"]
    assert kept.get_call_status(one.callset_id, "00000")["call_id"] == "00000"
    assert kept.get_call_status(one.callset_id, "00001") is None
    assert len(kept.get_call_output(one.callset_id, "00000")) > 600_000
    with pytest.raises(storage_exceptions.StorageOutputNotFoundError):
        kept.get_call_output(one.callset_id, "00001")
    kept.put_data("a/data", b"d")
    kept.put_func("a/func", b"f")
    assert (kept.get("a/data"), kept.get("a/func")) == (b"d", b"f")


def test_storage_utils() -> None:
    """Keys, suffixes, and the comparison of storages."""
    assert storage_utils.create_func_key("p", "c") == "p/c/func.pickle"
    assert storage_utils.create_agg_data_key("p", "c") == "p/c/aggdata.pickle"
    keys = {
        storage_utils.create_data_key: "p/c/00001/data.pickle",
        storage_utils.create_output_key: "p/c/00001/output.pickle",
        storage_utils.create_status_key: "p/c/00001/status.json",
        storage_utils.create_cancel_key: "p/c/00001/cancel",
    }
    assert {make: make("p", "c", "00001") for make in keys} == keys
    assert storage_utils.create_keys("p", "c", "00001") == tuple(keys.values())
    suffixes = {name for name in vars(storage_utils) if name.endswith("_suffix")}
    kinds = ("func", "agg_data", "data", "output", "status", "cancel")
    assert suffixes == {f"{kind}_key_suffix" for kind in kinds}
    config = {"storage_backend": "s3", "storage_prefix": "p", "backend_config": {"bucket": "b"}}
    assert storage_utils.get_storage_path(config) == ["s3", "b", "p"]
    storage_utils.check_storage_path(config, ["s3", "b", "p"])
    with pytest.raises(storage_exceptions.StorageConfigMismatchError):
        storage_utils.check_storage_path(config, ["s3", "other", "p"])


@pytest.mark.parametrize(
    "error",
    [
        storage_exceptions.StorageNoSuchKeyError("some/key"),
        storage_exceptions.StorageOutputNotFoundError("some-callset", "00001"),
        storage_exceptions.StorageConfigMismatchError(["s3", "a", "p"], ["s3", "b", "p"]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_storage_exceptions(error: Exception) -> None:
    """They can be constructed as in 0.4, and can be pickled."""
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
    assert isinstance(error, Exception)


# -- small modules -------------------------------------------------------------------------------------------


def test_runtime() -> None:
    """Versions are texts, and a runtime can be checked for a match."""
    assert runtime.version_str(sys.version_info) == HERE
    assert runtime.version_str((3, 6, 1)) == "3.6"
    assert runtime.runtime_valid({"python_ver": HERE})
    assert not runtime.runtime_valid({"python_ver": "2.7"})
    assert runtime.get_runtime_info({}) == storage.get_runtime_info({})


def test_wrenutil() -> None:
    """Every helper of 0.4 exists, with the names of its parameters."""
    assert str(uuid.UUID(wrenutil.create_call_id())) != wrenutil.create_call_id()
    assert wrenutil.b64str_to_bytes(str_data=wrenutil.bytes_to_b64str(byte_data=b"a")) == b"a"
    assert wrenutil.split_s3_url(s3_url="s3://bucket/a/b") == ("bucket", "a/b")
    assert re.fullmatch(r"[0-9a-f-]{36}", wrenutil.uuid_str())
    assert wrenutil.create_callset_id() != wrenutil.create_callset_id()
    assert wrenutil.create_call_id(7) == "00007"
    assert wrenutil.b64str_to_bytes(wrenutil.bytes_to_b64str(b"\xff\0")) == b"\xff\0"
    assert wrenutil.split_s3_url("s3://bucket/a/b") == ("bucket", "a/b")
    assert wrenutil.sdb_to_dict({"Attributes": [{"Name": "a", "Value": "1"}]}) == {"a": "1"}
    import io

    body = wrenutil.WrappedStreamingBody(sb=io.BytesIO(b"abc"), size=3)
    assert (body.seek(0), body.read(), body.getvalue()) == (0, b"abc", b"abc")


def test_serialize(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.4's serializer returns pickles and module paths, whose contents ``create_mod_data`` reads."""
    path = tmp_path / "shipped_of_2018.py"
    path.write_text("n = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import shipped_of_2018  # type: ignore[import-not-found]

    pickles, paths = SerializeIndependent([["numpy", True]])([lambda: shipped_of_2018.n, 5])
    assert [type(one) for one in pickles] == [bytes, bytes]
    assert pickle.loads(pickles[1]) == 5
    assert paths == {str(path)}
    contents = serialize.create_mod_data(paths)
    assert {name: base64.b64decode(text) for name, text in contents.items()} == {"shipped_of_2018.py": b"n = 1\n"}
    analyzer = ModuleDependencyAnalyzer()
    analyzer.ignore("numpy")
    analyzer.ignore(["pandas"])
    analyzer.add("shipped_of_2018")
    assert analyzer.get_and_clear_paths() == {str(path)}


def test_doors_of_the_serializer() -> None:
    """The cloudpickle that 0.4 contained, its helpers, and the list of workers' packages exist."""
    from pywren.serialize import cloudpickle as package
    from pywren.serialize import default_preinstalls, util
    from pywren.serialize.cloudpickle import CloudPickler, cloudpickle

    assert pickle.loads(cloudpickle.dumps(lambda x: x + 1, protocol=2))(1) == 2
    assert package.CloudPickler is CloudPickler is cloudpickle.CloudPickler
    assert package.cloudpickle is cloudpickle
    with pytest.raises(AttributeError):
        package.anything_else  # noqa: B018
    assert util.create_mod_data is serialize.create_mod_data
    assert util.bytes_to_b64str(b"a") == "YQ=="
    names = dict(default_preinstalls.modules)
    assert (names["json"], names["sys"], names["boto3"]) == (True, False, True)
    assert "numpy" not in names
    assert SerializeIndependent(default_preinstalls.modules)([5])[1] == set()


# -- whole programs ------------------------------------------------------------------------------------------

RESULTS: dict[str, tuple[list[str], str]] = {
    "count_words": (["texts", "books/"], "3 the|2 a|2 and|2 cat|2 dog|1 mouse"),
    "matrix_benchmark": (["benchmark.pickle"], "6 workers, all did"),
    "parameter_sweep": (
        ["futures.pickle"],
        "best (4, 0)|losses [160, 90, 40, 10, 0]|infeasible -1 is below zero|kept [(5, 10), (6, 40)]",
    ),
    "tree_sum": ([], "sum 285|futures 30|reduced 285|empty []|done"),
    "logs_and_limits": (
        [],
        "True|Hello world!|too long: True|cancelled: True|4|not sent: True|cached: False|log: True True",
    ),
}
"""Arguments and output of the programs in scripts_of_2018."""

RUNS = [(name, where) for where in ("lambda", "local") for name in RESULTS]
RUNS.remove(("logs_and_limits", "local"))  # this program is about Lambda


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], subprocess.Popen[str]]]:
    """Run all programs at once, each in its own directory."""
    started = {}
    for name, where in RUNS:
        directory = tmp_path_factory.mktemp(f"{name}-{where}")
        arguments = [str(PROGRAMS / f"{name}.py"), *RESULTS[name][0]]
        if where == "lambda" or name == "count_words":
            arguments = [str(ROOT / "tests" / "run_on_mocked_aws.py"), where, *arguments]
        started[name, where] = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYWREN_HOME": str(directory / "home")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    yield started
    for process in started.values():
        process.kill()
        process.communicate()


@pytest.mark.moto
@pytest.mark.slow
@pytest.mark.parametrize(("name", "where"), RUNS)
def test_programs_of_2018(running: Mapping[tuple[str, str], subprocess.Popen[str]], name: str, where: str) -> None:
    """Programs as people wrote them run unchanged, on this machine and on Lambda."""
    process = running[name, where]
    output, errors = process.communicate(timeout=WAIT)
    assert process.returncode == 0, errors
    assert [line.strip() for line in output.splitlines()] == RESULTS[name][1].split("|"), errors
