"""Exceptions come back with their own type, and the program retries calls that failed for a temporary reason.

Run it with ``python examples/exceptions_and_retries.py``.
"""

import os

import pywren
from pywren.exceptions import WorkerCrashedError

MAX_ATTEMPTS = 3


class TemporaryFailure(Exception):
    """The error of a busy service."""


def work(job):
    number, attempt = job
    if number == 2 and attempt < 3:
        raise TemporaryFailure(f"job {number} met a busy service")
    if number == 3 and attempt < 2:
        os._exit(1)  # a crash: the other calls are not affected
    if number == 4:
        raise ValueError(f"job {number} will never work")
    return number * number


pwex = pywren.default_executor()
results = {}
open_jobs = list(range(6))

for attempt in range(1, MAX_ATTEMPTS + 1):
    futures = dict(zip(open_jobs, pwex.map(work, [(number, attempt) for number in open_jobs]), strict=True))
    pywren.wait(list(futures.values()))
    open_jobs = []
    for number, future in futures.items():
        try:
            results[number] = future.result()
        except (TemporaryFailure, WorkerCrashedError) as error:
            print(f"attempt {attempt}, job {number}: {type(error).__name__}, will be tried again")
            open_jobs.append(number)
        except ValueError as error:
            print(f"attempt {attempt}, job {number}: {type(error).__name__}: {error}")
    if not open_jobs:
        break

print(f"results: {results}")
