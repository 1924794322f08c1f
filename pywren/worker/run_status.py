"""What ``run_status`` reports about a call besides its outcome: the keys of PyWren 0.4, for every executor.

``Status`` contains these keys as ``info``, and ``Status.document`` adds the call's identity and its failure. Times are
in seconds since the epoch, durations in seconds.
"""

from __future__ import annotations

import functools
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pywren.worker.task import RunResult

TAIL_LIMIT = 32 * 1024
"""The most characters of output, text or traceback in a status, because statuses are listed and fetched often."""


def first_info(
    *,
    func_key: str,
    data_key: str,
    status_key: str,
    host_submit_time: float,
    start_time: float,
    runtime_cached: bool,
    context: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what is known about a call before it runs.

    Args:
        func_key: the key of the object with the function.
        data_key: the key of the object with the argument.
        status_key: the key under which the status will be written.
        host_submit_time: when the client invoked the call.
        start_time: when the worker started to handle the call.
        runtime_cached: whether the worker was warm.
        context: what the platform reports about the invocation; only its strings are included.
    """
    return {
        "start_time": start_time,
        "setup_time": 0.0,
        "host_submit_time": host_submit_time,
        "func_key": func_key,
        "data_key": data_key,
        "status_key": status_key,
        "runtime_cached": runtime_cached,
        "runtime_s3_key_used": None,
        "runtime_s3_bucket_used": None,
        "retcode": None,
        "stdout": "",
        "stderr": "",
        "func_download_time": 0.0,
        "data_download_time": 0.0,
        "output_upload_time": 0.0,
        "server_info": server_info(),
        "free_disk_bytes": shutil.disk_usage(tempfile.gettempdir()).free,
        **texts(context),
    }


def add_result(info: dict[str, Any], result: RunResult, limit: int | None = TAIL_LIMIT) -> None:
    """Add what the child process reports: times, exit code, the tails of its output.

    Args:
        info: what ``first_info`` returned. It contains the handler's ``setup_time``, to which the child's is added.
        result: the child's result.
        limit: how many characters of each output to keep; ``None`` keeps everything that the child sent.
    """
    fetching = info["setup_time"]
    info.update(result.info)
    info.update(
        setup_time=fetching + float(result.info.get("setup_time", 0.0)),
        retcode=result.returncode,
        stdout=tail(result.stdout, limit),
        stderr=tail(result.stderr, limit),
    )


def texts(context: Mapping[str, Any]) -> dict[str, str]:
    """Return the part of the platform's context that goes into the status."""
    return {key: value for key, value in context.items() if isinstance(value, str)}


def tail(text: str | None, limit: int | None = TAIL_LIMIT) -> str | None:
    """Return the end of a long text."""
    if text is None or limit is None or len(text) <= limit:
        return text
    return "…" + text[-limit:]


def server_info() -> dict[str, Any]:
    """Describe this machine: system, Python, processors, memory in bytes, and the files of ``/proc`` that 0.4 sent."""
    return {**_machine(), **_memory(int(time.monotonic()))}


@functools.lru_cache(maxsize=1)
def _memory(second: int) -> Mapping[str, str]:
    """Return what the system says about its memory in this second. Thousands of short calls need not ask each time."""
    return _proc_file("/proc/meminfo")


def _proc_file(path: str) -> dict[str, str]:
    """Return the beginning of a file in the form of 0.4's ``server_info``, if the file exists (on Linux)."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return {path: file.read(TAIL_LIMIT)}
    except OSError:
        return {}


@functools.cache  # they do not change, and reading /proc/cpuinfo takes milliseconds on machines with many processors
def _machine() -> Mapping[str, Any]:
    system = (platform.system(), platform.node(), platform.release(), platform.version(), platform.machine())
    info: dict[str, Any] = {
        "uname": " ".join(system),
        "python_version": platform.python_version(),
        "cpu_count": os.cpu_count(),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        info["memory_bytes"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/proc/cpuinfo", "/proc/self/cgroup", "/proc/cgroups"):
        info.update(_proc_file(path))
    return info
