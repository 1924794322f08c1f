"""Sum up in rounds, several executors at once, futures of many maps in one wait; then look at the storage by hand."""
from __future__ import print_function

import json
import time

import pywren
from pywren import storage, wrenconfig, wrenutil
from pywren.storage import storage_utils
from pywren.storage.exceptions import StorageNoSuchKeyError


def add(pair):
    return sum(pair)


def square_later(x):
    time.sleep(0.05 * (x % 3))
    return x * x


def add_finished(fs):
    return sum(f.result() for f in fs)


if __name__ == "__main__":
    config = wrenconfig.default()
    first = pywren.default_executor()
    second = pywren.default_executor()

    # equal call ids in both maps
    fs1 = first.map(square_later, range(5))
    fs2 = second.map(square_later, range(5, 10))
    pywren.wait(fs1 + fs2)
    numbers = [f.result() for f in fs1 + fs2]
    assert numbers == [x * x for x in range(10)]

    # rounds
    while len(numbers) > 1:
        pairs = [numbers[i:i + 2] for i in range(0, len(numbers), 2)]
        numbers = [f.result() for f in first.map(add, pairs, invoke_pool_threads=4)]
    print("sum", numbers[0])

    # futures as arguments, and reduce
    print("futures", first.call_async(add_finished, fs1).result())
    print("reduced", second.reduce(sum, fs1 + fs2).result())
    print("empty", first.map(add, []))

    # the storage
    storage_config = wrenconfig.extract_storage_config(config)
    handler = storage.Storage(storage_config)
    assert fs1[0].storage_path == storage_utils.get_storage_path(storage_config)
    storage_utils.check_storage_path(storage_config, fs1[0].storage_path)
    keys = storage_utils.create_keys(storage_config["storage_prefix"], fs1[0].callset_id, fs1[0].call_id)
    assert keys[2].endswith("/00000/status.json"), keys
    assert fs1[0].result(storage_handler=handler) == 0
    assert fs1[0].result(check_only=True) is True
    json.dumps(fs1[0].run_status)
    json.dumps(fs1[0].invoke_status)
    assert len(wrenutil.create_callset_id()) == 36
    assert wrenutil.split_s3_url("s3://bucket/some/key") == ("bucket", "some/key")
    print("done")
