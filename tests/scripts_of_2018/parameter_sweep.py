"""Try many parameters, take each result as it comes, try again what failed, and keep the futures in a file."""
from __future__ import print_function

import os
import pickle
import sys

import pywren
import pywren.wrenconfig as wc
from pywren.future import JobState
from sweep_model import InfeasibleError, Model

config = wc.default()


def evaluate(param):
    model = Model(scale=int(os.environ["MODEL_SCALE"]))
    return param, model.loss(param)


def flaky(param):
    if param == 3:
        sys.exit(-1)
    return evaluate(param)


if __name__ == "__main__":
    filename = sys.argv[1]
    wrenexec = pywren.default_executor(config=config, job_max_runtime=60)
    env = {"MODEL_SCALE": "10"}

    # as they come
    futures = wrenexec.map(evaluate, range(8), extra_env=env, extra_meta={"experiment": "sweep"})
    best, left = None, futures
    while left:
        done, left = pywren.wait(left, return_when=pywren.ANY_COMPLETED, THREADPOOL_SIZE=8, WAIT_DUR_SEC=1)
        for f in done:
            param, loss = f.result()
            if best is None or loss < best[1]:
                best = (param, loss)
    print("best", best)
    assert all(f.succeeded() for f in futures)

    # with failures, which are looked at and done again
    futures = wrenexec.map(flaky, range(5), extra_env=env)
    pywren.wait(futures)
    results = [f.result(throw_except=False) for f in futures]
    failed = [i for i, f in enumerate(futures) if f.errored()]
    assert failed == [3], failed
    try:
        futures[3].result()
    except Exception as e:
        assert "non-zero return code" in str(e), e
    again = wrenexec.map(evaluate, failed, extra_env=env)
    for i, f in zip(failed, again):
        results[i] = f.result()
    print("losses", [loss for _, loss in results])

    # the user's own exceptions
    fut = wrenexec.call_async(evaluate, -1, extra_env=env)
    try:
        fut.result()
    except InfeasibleError as e:
        print("infeasible", e)
    assert "InfeasibleError" in fut.run_status["exception_traceback"]

    # keep the futures, and read them again as if tomorrow
    futures = wrenexec.map(evaluate, [5, 6], extra_env=env, data_all_as_one=False)
    with open(filename, "wb") as fid:
        pickle.dump(futures, fid)
    del futures
    with open(filename, "rb") as fid:
        futures = pickle.load(fid)
    print("kept", pywren.get_all_results(futures))
