"""What people did around Lambda itself: logs, cancelling, the time limit, modules left behind, own constants."""
from __future__ import print_function

import time

import pywren
import sweep_model

config = pywren.wrenconfig.default()


def greet(name):
    print("greeting " + name)
    return "Hello {}!".format(name)


def sleep_for(seconds):
    time.sleep(seconds)
    return seconds


def use_model(x):
    import sweep_model
    return sweep_model.Model().loss(x)


if __name__ == "__main__":
    wrenexec = pywren.lambda_executor(config, job_max_runtime=2)
    print(wrenexec.invoker.config()["lambda_function_name"] == config["lambda"]["function_name"])

    future = wrenexec.call_async(greet, "world")
    print(future.result())
    messages = [message for timestamp, message in wrenexec.get_logs(future, verbose=False)]
    assert messages[0].startswith("START"), messages
    assert messages[-1].startswith("REPORT"), messages
    assert any("greeting world" in m for m in messages), messages
    assert "greeting world" in future.run_status["stdout"]

    # a call that takes too long
    try:
        wrenexec.call_async(sleep_for, 60).result()
    except Exception as e:
        print("too long:", "ran out of time" in str(e))

    # a call that nobody needs any more
    fut = wrenexec.call_async(sleep_for, 60)
    fut.cancel()
    try:
        fut.result()
    except Exception as e:
        print("cancelled:", "cancelled" in str(e))

    # a module that is not sent
    print(wrenexec.call_async(use_model, 6).result())
    f = wrenexec.map(use_model, [6], exclude_modules=["sweep_model.py"])[0]
    try:
        f.result()
    except ImportError as e:
        print("not sent:", "sweep_model" in str(e))

    # a fresh runtime
    f = wrenexec.map(greet, ["again"], use_cached_runtime=False)[0]
    f.result()
    print("cached:", f.run_status["runtime_cached"])

    assert sweep_model.Model is not None
    log_stream = f.run_status["log_stream_name"]
    print("log:", f.run_status["log_group_name"].endswith(config["lambda"]["function_name"]), len(log_stream) > 0)
