"""Calls through a mocked SQS queue."""

import json
import logging

import pytest

import pywren.testing
from pywren.aws.requests import AWS
from pywren.exceptions import ArgumentError, DecodeError, InvocationError
from pywren.queues import MESSAGE_LIMIT, SQSInvoker, sqs_run_local

pytestmark = pytest.mark.moto


@pytest.fixture
def queue():
    """Return region and name of a queue."""
    with pywren.testing.mock_aws() as config:
        yield config["account"]["aws_region"], config["standalone"]["sqs_queue_name"]


class FakeContainer:
    """A container that records what it handles."""

    def __init__(self, error=None):
        self.handled = []
        self.error = error

    def handle(self, payload, context=None):
        """Record a call."""
        self.handled.append(payload)
        if self.error is not None:
            raise self.error


def waiting(queue):
    """Return how many messages are in the queue, including hidden ones."""
    aws = AWS(queue[0])
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    url = aws.queue_url(queue[1])
    answer = aws.request("sqs", "get_queue_attributes", doing="look", QueueUrl=url, AttributeNames=names)
    aws.close()
    return sum(int(value) for value in answer["Attributes"].values())


def test_calls_go_through_the_queue(queue):
    """``sqs_run_local`` receives and runs as many of the invoker's calls as requested."""
    invoker = SQSInvoker(*queue)
    for index in range(3):
        invoker.invoke({"call_id": index, "text": "ä"})
    container = FakeContainer()
    assert sqs_run_local(*queue, job_num=2, container=container) == 2
    assert waiting(queue) == 1
    assert sqs_run_local(*queue, job_num=2, container=container) == 1
    assert sorted(payload["call_id"] for payload in container.handled) == [0, 1, 2]
    assert waiting(queue) == 0
    invoker.close()


def test_the_invoker_says_what_it_is(queue):
    """Attributes and spelling are those of 0.4; the queue is looked up on first use."""
    invoker = SQSInvoker(*queue)
    assert invoker.config() == {"sqs_queue_name_name": queue[1], "region_name": queue[0]}
    assert (invoker.region_name, invoker.sqs_queue_name) == queue
    assert invoker.queue.url.endswith(queue[1])
    invoker.close()


def test_a_missing_queue_is_named(queue):
    """The error says how to create the queue."""
    invoker = SQSInvoker(queue[0], "no-such-queue")
    with pytest.raises(InvocationError, match=r"no-such-queue.*create_queue"):
        invoker.invoke({})
    invoker.close()


def test_a_message_over_the_limit_is_refused(queue):
    """The error contains the sizes, and nothing is sent."""
    invoker = SQSInvoker(*queue)
    assert invoker.payload_limit == MESSAGE_LIMIT
    with pytest.raises(ArgumentError, match="1,048,576"):
        invoker.invoke({"x": "a" * MESSAGE_LIMIT})
    assert waiting(queue) == 0
    invoker.close()


@pytest.mark.parametrize("body", ["no JSON", json.dumps({"no": "call"})])
def test_a_message_that_is_no_call_is_dropped(queue, caplog, body):
    """A message that is not a payload is deleted: otherwise it would come back forever."""
    aws = AWS(queue[0])
    aws.send_message(aws.queue_url(queue[1]), body)
    aws.close()
    with caplog.at_level(logging.WARNING):
        assert sqs_run_local(*queue, container=FakeContainer(DecodeError("not one"))) == 1
    assert "dropped" in caplog.text
    assert waiting(queue) == 0


def test_a_call_that_could_not_be_committed_stays_in_the_queue(queue):
    """The message stays in the queue, because another worker may succeed."""
    from pywren.exceptions import StorageError

    invoker = SQSInvoker(*queue)
    invoker.invoke({})
    with pytest.raises(StorageError):
        sqs_run_local(*queue, container=FakeContainer(StorageError("no bucket")))
    assert waiting(queue) == 1
    invoker.close()
