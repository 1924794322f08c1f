"""``LogShipper``: sends the output of containers to moto's CloudWatch Logs, in batches.

The event loop's thread adds lines and never waits; the shipper's own thread sends the lines. ``_changed`` guards all
state that both threads use, and is not held during a request.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any

from pywren.testing.emulator._door import Door

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.1
"""How long lines are collected before they are sent."""

_BATCH_LINES = 10_000
_BATCH_BYTES = 1_048_576
_LINE_OVERHEAD = 26  # CloudWatch adds this number of bytes to the size of each event
_QUEUE_LINES = 400_000
_CLOSE_SECONDS = 5.0

_Line = tuple[str, str, int, str]


class LogShipper:
    """Sends lines in the background, to one stream per container.

    Args:
        moto: the door to moto's server.
        region: the region.
    """

    def __init__(self, moto: Door, region: str) -> None:
        self._moto, self._region = moto, region
        self._changed = threading.Condition()
        self._lines: deque[_Line] = deque()
        self._streams: deque[tuple[str, str]] = deque()
        self._lost = 0
        self._sending = self._closed = self._hurry = False
        self._thread = threading.Thread(target=self._run, name="pywren-emulator-logs", daemon=True)
        self._thread.start()

    def stream(self, group: str, stream: str) -> None:
        """Create a log stream, and its group if necessary, as Lambda does if the function's role allows this."""
        with self._changed:
            self._streams.append((group, stream))
            self._changed.notify_all()

    def write(self, group: str, stream: str, timestamp_ms: int, line: str) -> None:
        """Add one line and return immediately. If the queue is full, drop the line and count it as dropped."""
        with self._changed:
            if len(self._lines) >= _QUEUE_LINES:
                self._lost += 1
                return
            self._lines.append((group, stream, timestamp_ms, line))
            if len(self._lines) == 1:
                self._changed.notify_all()

    def flush(self, timeout: float = _CLOSE_SECONDS) -> bool:
        """Wait until all queued lines are sent, at most ``timeout`` seconds; tell whether they were."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not (self._lines or self._streams or self._sending), timeout)

    def close(self) -> None:
        """Send the remaining lines, and end the thread; do not wait long for a server that does not answer."""
        self.flush()
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        client = _client(self._moto, self._region)
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._lines or self._streams or self._closed)
                    if self._closed:
                        return
                    self._changed.wait_for(lambda: self._closed or self._hurry, _PAUSE_SECONDS)
                    streams, lines = list(self._streams), list(self._lines)
                    self._streams.clear()
                    self._lines.clear()
                    lost, self._lost = self._lost, 0
                    self._sending = True
                self._send(client, streams, lines, lost)
                with self._changed:
                    self._sending = False
                    self._hurry = self._hurry and bool(self._lines or self._streams)
                    self._changed.notify_all()
        finally:
            client.close()

    def _send(self, client: Any, streams: list[tuple[str, str]], lines: list[_Line], lost: int) -> None:
        from botocore.exceptions import BotoCoreError, ClientError

        if lost:
            logger.warning("dropped %d lines of the functions' logs: they came faster than moto could store them", lost)
        events: dict[tuple[str, str], list[tuple[int, str]]] = {}
        for group, stream, timestamp_ms, line in lines:
            events.setdefault((group, stream), []).append((timestamp_ms, line))
        try:
            for group, stream in streams:
                _create(client, group, stream)
            for (group, stream), kept in events.items():
                for batch in batches(kept):
                    if self._closed:
                        return
                    client.put_log_events(logGroupName=group, logStreamName=stream, logEvents=batch)
        except (BotoCoreError, ClientError) as error:
            logger.warning("moto refused some of the functions' logs: %s", error)


def batches(lines: list[tuple[int, str]]) -> list[list[dict[str, Any]]]:
    """Return the lines of a stream as the events of one or more requests within CloudWatch's limits.

    Args:
        lines: pairs of time in milliseconds and text. An empty line becomes a space, because CloudWatch refuses empty
            events.
    """
    found: list[list[dict[str, Any]]] = []
    size = 0
    for timestamp_ms, line in sorted(lines, key=lambda one: one[0]):
        text = line or " "
        length = len(text.encode("utf-8", "replace")) + _LINE_OVERHEAD
        if not found or len(found[-1]) == _BATCH_LINES or size + length > _BATCH_BYTES:
            found.append([])
            size = 0
        size += length
        found[-1].append({"timestamp": timestamp_ms, "message": text})
    return found


def _create(client: Any, group: str, stream: str) -> None:
    exists = client.exceptions.ResourceAlreadyExistsException
    for create, names in (
        (client.create_log_group, {"logGroupName": group}),
        (client.create_log_stream, {"logGroupName": group, "logStreamName": stream}),
    ):
        try:
            create(**names)
        except exists:  # the deployment or an earlier container has created it
            pass


def _client(moto: Door, region: str) -> Any:
    import boto3
    from botocore.config import Config

    session = boto3.Session(aws_access_key_id="emulator", aws_secret_access_key="emulator", region_name=region)
    config = Config(connect_timeout=1, read_timeout=_CLOSE_SECONDS, retries={"total_max_attempts": 2}, proxies={})
    client = session.client("logs", endpoint_url=moto.url, config=config)

    def show_secret(request: Any, **_: object) -> None:
        for name, value in moto.headers.items():
            request.headers[name] = value

    client.meta.events.register("before-sign.logs.*", show_secret)
    return client
