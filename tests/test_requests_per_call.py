"""How many requests a map makes, as the emulated AWS counts them."""

import os
import time

import pytest
from executors import slow_machine_requests

import pywren

emulator_module = pytest.importorskip("pywren.testing.emulator")

pytestmark = pytest.mark.emulator

COUNT = 100
CONTAINERS = 4
FUNCTION_BYTES = 1_000_000


@pytest.fixture(scope="module")
def emulator():
    """Start an emulated AWS with a few containers."""
    with emulator_module.emulate(containers=CONTAINERS) as started:
        yield started


@pytest.fixture(scope="module")
def config(emulator):
    """Return the configuration of a deployed function."""
    return emulator.deploy()


@pytest.fixture
def executor(emulator, config):
    """Return an executor whose function has run, so that containers are warm."""
    made = pywren.lambda_executor(config=config)
    pywren.get_all_results(made.map(abs, range(4 * CONTAINERS)))
    emulator.wait_idle()
    yield made
    made.close()
    made.invoker.close()
    made.storage.close()


def requests_of(emulator, executor, function, items, chunksize=1, **options):
    """Run a map, check the results, and return the requests and executions that it caused."""
    options["chunksize"] = chunksize
    before, earlier, began = emulator.counters(), len(emulator.executions()), time.monotonic()
    assert pywren.get_all_results(executor.map(function, items, **options)) == list(map(function, items))
    seconds = time.monotonic() - began
    emulator.wait_idle()
    executions = emulator.executions()[earlier:]
    return emulator.counters() - before, executions, slow_machine_requests(executions, seconds)


def test_a_map_takes_two_requests_of_s3_per_call(emulator, executor):
    """Client and worker together write and read one status per call, and little else."""
    counted, _, more = requests_of(emulator, executor, lambda x: x + 1, range(COUNT))
    assert counted.count(service="s3").requests <= 2.3 * COUNT + more
    assert counted.count(service="s3", caller="client", operation="GetObject").requests <= COUNT + more


def test_a_chunk_takes_two_requests_of_s3_and_one_invocation(emulator, executor):
    """The client writes a plan, the worker a page, which the client reads: for ten calls together."""
    counted, _, more = requests_of(emulator, executor, lambda x: x + 1, range(COUNT), chunksize=10)
    chunks = COUNT // 10
    assert counted.count(service="lambda", operation="Invoke").requests == chunks
    put = counted.count(service="s3", operation="PutObject").requests
    assert 0 <= put - 1 - 2 * chunks <= more  # and the function
    assert counted.count(service="s3", caller="client", operation="GetObject").requests <= chunks + more
    assert counted.count(service="s3").requests <= 0.5 * COUNT + more


def test_many_quick_calls_share_invocations_by_default(emulator, config):
    """Only the first ones, which show that they are quick, have one each."""
    # Without a limit a slow client, which learns of the first results late, would invoke more calls alone until then.
    few_at_once = {**config, "scheduler": {**config["scheduler"], "max_concurrency": COUNT // 2}}
    with pywren.lambda_executor(config=few_at_once) as executor:
        counted, _, more = requests_of(emulator, executor, lambda x: x + 1, range(10 * COUNT), chunksize="auto")
    assert counted.count(service="lambda", operation="Invoke").requests <= 5 * COUNT
    assert counted.count(service="s3").requests <= 13 * COUNT + more


def test_a_quick_call_is_one_put_of_the_worker_and_nothing_else(emulator, executor):
    """Arguments arrive in the payload, and each container reads the function only once."""
    counted, executions, more = requests_of(emulator, executor, lambda x: x * 2, range(COUNT))
    containers = len({one.container for one in executions})
    assert 0 <= counted.count(service="s3", caller="function", operation="PutObject").requests - COUNT <= more
    read = counted.count(service="s3", caller="function", operation="GetObject").requests
    assert 0 <= read - containers <= more
    all_requests = counted.count(service="s3", caller="function").requests
    assert 0 <= all_requests - COUNT - containers <= more


def test_small_arguments_and_results_have_no_objects(emulator, executor):
    """The client writes only the function, and reads only the statuses."""
    counted, _, more = requests_of(emulator, executor, lambda text: text.upper(), ["abc" * 100] * COUNT)
    written = counted.count(service="s3", caller="client", operation="PutObject").requests
    assert 0 <= written - 1 <= more
    assert counted.count(service="s3", operation="GetObject").requests <= COUNT + CONTAINERS + more
    assert counted.count(service="lambda", operation="Invoke").requests == COUNT


def test_a_function_of_a_megabyte_is_read_once_per_container(emulator, executor):
    """The number of bytes read does not grow with the number of calls."""
    ballast = os.urandom(FUNCTION_BYTES)
    counted, executions, more = requests_of(emulator, executor, lambda x: len(ballast) + x, range(COUNT))
    containers = len({one.container for one in executions})
    read = counted.count(service="s3", caller="function", operation="GetObject")
    assert 0 <= read.requests - containers <= more
    assert read.bytes_out < 1.1 * FUNCTION_BYTES * containers
