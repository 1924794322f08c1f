"""Measure how much a fleet of workers computes, and keep what happened for the notebook that makes the plots."""
from __future__ import print_function

import logging
import os
import pickle
import sys
import time

import numpy as np

import pywren

WORKERS, LOOPS, SIZE = 6, 3, 64

logger = logging.getLogger("benchmark")
logging.basicConfig(stream=sys.stderr, level=logging.INFO)


def compute_flops(loopcount, matn):
    A = np.arange(matn ** 2, dtype=np.float64).reshape(matn, matn)
    B = A.transpose()
    start = time.time()
    for i in range(loopcount):
        c = np.sum(np.dot(A, B))
    flops = 2 * matn ** 3 * loopcount / max(time.time() - start, 1e-9)
    return c, flops


def benchmark():
    wrenexec = pywren.default_executor(job_max_runtime=100)

    def f(x):
        return {"worker": x, "flops": compute_flops(LOOPS, SIZE)[1], "threads": os.environ.get("OMP_NUM_THREADS")}

    t1 = time.time()
    fs = wrenexec.map(f, range(WORKERS))
    logger.info("invocation done, took {:3.1f} sec".format(time.time() - t1))

    while True:
        fs_dones, fs_notdones = pywren.wait(fs, return_when=pywren.ALWAYS)
        if len(fs_notdones) == 0:
            break
        time.sleep(0.05)

    results = [f.result(throw_except=False) for f in fs]
    return {
        "results": results,
        "run_statuses": [f.run_status for f in fs],
        "invoke_statuses": [f.invoke_status for f in fs],
        "callset_id": fs[0].callset_id,
    }


def rows(res):
    """What the notebook of the paper put into a data frame."""
    for run, invoke in zip(res["run_statuses"], res["invoke_statuses"]):
        host_submit = run["host_submit_time"]
        yield {
            "call_id": run["call_id"],
            "data_size": invoke["data_size_bytes"],
            "agg_data": invoke["agg_data"],
            "func_size": invoke["func_module_str_len"],
            "upload": invoke["func_upload_time"] + invoke["data_upload_time"],
            "uploaded": [invoke["func_upload_timestamp"], invoke["data_upload_timestamp"]],
            "job start": invoke["job_invoke_timestamp"],
            "invoked": invoke["lambda_invoke_timestamp"],
            "invoke": invoke["lambda_invoke_time"],
            "start": run["start_time"] - host_submit,
            "setup": run["setup_time"],
            "exec": run["exec_time"],
            "end": run["end_time"] - host_submit,
            "fetch": run["func_download_time"] + run["data_download_time"] + run["output_upload_time"],
            "done": invoke["status_done_timestamp"] - host_submit,
            "downloaded": invoke["download_output_timestamp"] - host_submit,
            "download": invoke["download_output_time"],
            "queries": invoke["status_query_count"],
            "cached": run["runtime_cached"],
            "where": run["server_info"],
            "disk": run["free_disk_bytes"],
            "key": [invoke["output_key"], run["output_key"]],
        }


if __name__ == "__main__":
    outfile = sys.argv[1]
    with open(outfile, "wb") as fid:
        pickle.dump(benchmark(), fid, -1)

    with open(outfile, "rb") as fid:
        res = pickle.load(fid)
    total = list(rows(res))
    assert [row["call_id"] for row in total] == ["{:05d}".format(i) for i in range(WORKERS)]
    assert all(row["exec"] <= row["end"] for row in total)
    assert all(row["done"] >= 0 for row in total)
    assert all(res_one["threads"] == "1" for res_one in res["results"]), res["results"]
    assert all(r["exception"] is None for r in res["run_statuses"])
    print("{} workers, all did".format(len(total)))
