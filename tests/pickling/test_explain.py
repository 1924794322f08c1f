"""The error names what cannot be pickled in the user's own terms."""

from __future__ import annotations

import queue
import sqlite3
import threading

import boto3
import pytest

from pywren.exceptions import SerializationError
from pywren.pickling.packed import dumps

REGION = "us-east-1"


class Job:
    def __init__(self, held):
        self.held = held

    def run(self, x):
        return x


HELD = {
    "client": (lambda: boto3.client("s3", region_name=REGION), r"a botocore\.client\.S3 cannot be pickled"),
    "resource": (lambda: boto3.resource("s3", region_name=REGION), r"a boto3\.resources\..*ServiceResource cannot be"),
    "table": (lambda: boto3.resource("dynamodb", region_name=REGION).Table("t"), r"a boto3\..*Table cannot be pickled"),
}


@pytest.mark.parametrize(
    "what", ["client", *(pytest.param(one, marks=pytest.mark.thorough) for one in ("resource", "table"))]
)
def test_an_object_of_a_library_is_named_itself(what):
    """The path ends at the client object instead of going into it, and the remedy is given."""
    make, words = HELD[what]
    job, held = Job(make()), make()
    for obj, place in ((job, r"\.held"), (job.run, r"method 'run'\)\.held"), (lambda: held, r"variable 'held'\)")):
        with pytest.raises(SerializationError, match=rf"{place}: {words} .*; make it inside the function"):
            dumps(obj)


@pytest.mark.parametrize("make", [threading.Lock, queue.Queue, lambda: sqlite3.connect(":memory:")])
def test_what_the_standard_library_makes_is_named_where_it_stands(make):
    """The path leads to the attribute that holds the object."""
    held = make()
    with pytest.raises(SerializationError, match=r"\.held.*cannot be pickled; make it inside the function"):
        dumps(Job(held))
    if hasattr(held, "close"):
        held.close()
