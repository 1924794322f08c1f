"""Exceptions come back with their own type, and calls that failed for a temporary reason are tried again.

Run it with ``python examples/exceptions_and_retries.py``.
"""

import os
import random

import pywren
from pywren.exceptions import WorkerCrashedError


class TemporaryFailure(Exception):
    """The error of a busy service."""


def work(number):
    if number == 2 and random.random() < 0.5:
        raise TemporaryFailure(f"job {number} met a busy service")
    if number == 3 and random.random() < 0.5:
        os._exit(1)  # a crash: the other calls are not affected
    if number == 4:
        raise ValueError(f"job {number} will never work")
    return number * number


pwex = pywren.default_executor()
futures = pwex.map(work, range(6), retries=20, retry_on=(TemporaryFailure, WorkerCrashedError))

for number, future in enumerate(futures):
    error = future.exception()  # waits for the call
    print(f"job {number}:", f"{type(error).__name__}: {error}" if error else future.result())
    for attempt in future.attempts[:-1]:
        print(f"    attempt {attempt.number}: {attempt.cause}")
