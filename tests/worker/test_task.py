"""Tasks of a worker process: failures and their texts, and the request to end a call."""

from __future__ import annotations

from pywren.exceptions import WorkerCrashedError
from pywren.worker.task import Stop, crash_failure, timeout_failure


def test_failures_are_errors_with_the_words_that_programs_match() -> None:
    """Failures have the texts of compat.md, exit codes, and the last lines of output."""
    crash = crash_failure(3, "one\ntwo\n", "\n".join(map(str, range(100)))).error("set", "00001")
    assert type(crash) is WorkerCrashedError
    assert crash.args[1] == 3
    assert "non-zero return code: 3" in str(crash)
    assert "  99" in str(crash)
    assert "  12\n" not in str(crash)
    assert "two" in str(crash)
    assert "ran out of time" in str(timeout_failure(280).error("set", "00001"))
    assert "280 s" in str(timeout_failure(280).error("set", "00001"))
    assert "SIGTERM" in crash_failure(-15).message
    assert "memory" not in crash_failure(-15).message
    assert "memory" in crash_failure(-9).message
    assert "unknown" in crash_failure(None).message


def test_a_stop_calls_its_listener_once() -> None:
    """A listener is called once, even if the stop came before it, and never after it stopped listening."""
    told: list[str] = []
    stop = Stop()
    stop.listen(lambda: told.append("first"))
    stop.listen(None)
    stop.set()
    assert stop.is_set()
    stop.set()
    assert told == []
    stop.listen(lambda: told.append("late"))
    assert told == ["late"]
