"""Lines of containers reach CloudWatch Logs complete, in order, and without delaying anything.

Pages cited: [logs] docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_<name>.html.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

pytest.importorskip("flask")

import boto3

from pywren.testing.emulator import _logs
from pywren.testing.emulator._door import Door
from pywren.testing.emulator._logs import LogShipper, batches


def read(moto: str, group: str, stream: str) -> list[str]:
    """Return the events of a stream."""
    client = boto3.client(
        "logs", endpoint_url=moto, region_name="us-west-2", aws_access_key_id="a", aws_secret_access_key="b"
    )
    found: list[str] = []
    answer: dict[str, Any] = {}
    names = {"logGroupName": group, "logStreamName": stream, "startFromHead": True}
    while True:
        token = answer.get("nextForwardToken")
        answer = client.get_log_events(**names, **({"nextToken": token} if token else {}))
        if not answer["events"]:
            client.close()
            return found
        found += [event["message"] for event in answer["events"]]


def now() -> int:
    """Return the time in milliseconds."""
    return time.time_ns() // 1_000_000


def test_lines_arrive_in_their_streams_in_order(moto: str) -> None:
    """Groups and streams are made; an empty line becomes a space, as events cannot be empty [logs InputLogEvent]."""
    shipper = LogShipper(Door(moto), "us-west-2")
    for stream in ("one", "two"):
        shipper.stream("/aws/lambda/order", stream)
    for number in range(50):
        shipper.write("/aws/lambda/order", "one", now(), f"line {number}")
    shipper.write("/aws/lambda/order", "two", now(), "")
    shipper.close()
    assert read(moto, "/aws/lambda/order", "one") == [f"line {number}" for number in range(50)]
    assert read(moto, "/aws/lambda/order", "two") == [" "]


def test_flush_waits_until_everything_was_sent(moto: str) -> None:
    """After a flush, everything written before it is there, and the shipper goes on."""
    shipper = LogShipper(Door(moto), "us-west-2")
    shipper.stream("/aws/lambda/flush", "s")
    for text in ("first", "second"):
        shipper.write("/aws/lambda/flush", "s", now(), text)
        assert shipper.flush(30)
        assert read(moto, "/aws/lambda/flush", "s")[-1] == text
    shipper.close()


def test_a_group_and_stream_that_exist_are_used(moto: str) -> None:
    """A group that the deployment has made is used, with its retention."""
    for _ in range(2):
        shipper = LogShipper(Door(moto), "us-west-2")
        shipper.stream("/aws/lambda/again", "s")
        shipper.write("/aws/lambda/again", "s", now(), "x")
        shipper.close()
    assert read(moto, "/aws/lambda/again", "s") == ["x", "x"]


def test_batches_keep_cloudwatchs_limits() -> None:
    """A batch has at most 10,000 events and 1 MiB, 26 bytes extra per event, sorted by time [logs PutLogEvents]."""
    many = batches([(number, "x") for number in range(25_000)])
    assert [len(batch) for batch in many] == [10_000, 10_000, 5_000]
    large = batches([(1, "é" * 100_000)] * 12)
    assert all(sum(len(event["message"].encode()) + 26 for event in batch) <= 1_048_576 for batch in large)
    assert sum(map(len, large)) == 12
    assert [event["timestamp"] for event in batches([(2, "b"), (1, "a")])[0]] == [1, 2]


def test_a_dead_server_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """``write`` returns at once, ``close`` within its limit, and no thread keeps the process alive."""
    monkeypatch.setattr(_logs, "_CLOSE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        shipper = LogShipper(Door(f"http://127.0.0.1:{silent.getsockname()[1]}"), "us-west-2")
        shipper.stream("/aws/lambda/dead", "s")
        shipper.write("/aws/lambda/dead", "s", now(), "lost")
        closing = threading.Thread(target=shipper.close, daemon=True)
        closing.start()
        closing.join(60)
        assert not closing.is_alive()
    threads = [thread for thread in threading.enumerate() if thread.name == "pywren-emulator-logs"]
    for thread in threads:
        assert thread.daemon
        thread.join(30)


def test_lines_beyond_what_memory_should_be_spent_on_are_counted(
    moto: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first lines are kept, and a warning says how many were dropped."""
    monkeypatch.setattr(_logs, "_QUEUE_LINES", 3)
    monkeypatch.setattr(_logs, "_PAUSE_SECONDS", 5.0)
    shipper = LogShipper(Door(moto), "us-west-2")
    shipper.stream("/aws/lambda/bounded", "s")
    for number in range(10):
        shipper.write("/aws/lambda/bounded", "s", now(), str(number))
    shipper.close()
    assert read(moto, "/aws/lambda/bounded", "s") == ["0", "1", "2"]
    assert "7 lines" in caplog.text
