"""How many requests a map makes, as the emulated AWS counts them."""

import os

import pytest

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


def requests_of(emulator, executor, function, items):
    """Run a map, check the results, and return the requests and executions that it caused."""
    before, earlier = emulator.counters(), len(emulator.executions())
    assert pywren.get_all_results(executor.map(function, items)) == list(map(function, items))
    emulator.wait_idle()
    return emulator.counters() - before, emulator.executions()[earlier:]


def test_a_map_takes_two_requests_of_s3_per_call(emulator, executor):
    """Client and worker together write and read one status per call, and little else."""
    counted, _ = requests_of(emulator, executor, lambda x: x + 1, range(COUNT))
    assert counted.count(service="s3").requests <= 2.3 * COUNT
    assert counted.count(service="s3", caller="client", operation="GetObject").requests <= COUNT


def test_a_quick_call_is_one_put_of_the_worker_and_nothing_else(emulator, executor):
    """Arguments arrive in the payload, and each container reads the function only once."""
    counted, executions = requests_of(emulator, executor, lambda x: x * 2, range(COUNT))
    containers = len({one.container for one in executions})
    assert counted.count(service="s3", caller="function", operation="PutObject").requests == COUNT
    assert counted.count(service="s3", caller="function", operation="GetObject").requests == containers
    assert counted.count(service="s3", caller="function").requests == COUNT + containers


def test_small_arguments_and_results_have_no_objects(emulator, executor):
    """The client writes only the function, and reads only the statuses."""
    counted, _ = requests_of(emulator, executor, lambda text: text.upper(), ["abc" * 100] * COUNT)
    assert counted.count(service="s3", caller="client", operation="PutObject").requests == 1
    assert counted.count(service="s3", operation="GetObject").requests <= COUNT + CONTAINERS
    assert counted.count(service="lambda", operation="Invoke").requests == COUNT


def test_a_function_of_a_megabyte_is_read_once_per_container(emulator, executor):
    """The number of bytes read does not grow with the number of calls."""
    ballast = os.urandom(FUNCTION_BYTES)
    counted, executions = requests_of(emulator, executor, lambda x: len(ballast) + x, range(COUNT))
    containers = len({one.container for one in executions})
    read = counted.count(service="s3", caller="function", operation="GetObject")
    assert read.requests == containers
    assert read.bytes_out < 1.1 * FUNCTION_BYTES * containers
