"""``pywren.timeline``: when each call was where, as a picture and as a trace."""

from __future__ import annotations

import json
import sys

import pytest
from test_summary import call, on_lambda, square

import pywren
from pywren.display.timeline import Timeline
from pywren.exceptions import ArgumentError


def two_calls() -> Timeline:
    """Return the timeline of a call that succeeded, and of one that began before it and failed."""
    failed = call(
        call_id="00001", state="error", error="ValueError", submitted=100.0, invoked=100.5, began=101.0, started=101.1,
        returned=102.8, known=None,
    )  # fmt: skip
    return Timeline([on_lambda(call(), failed)])


def test_the_steps_of_a_call_follow_each_other():
    """Times are in seconds since the first map; a step whose times are not known is left out."""
    found = two_calls()
    second, first = (one for _, one in found.rows())
    assert (found.began, found.seconds) == (100.0, 4.0)
    assert list(found.spans(first)) == [
        ("invoking", 0.0, 1.0),
        ("waiting", 1.0, 2.0),
        ("starting", 2.0, 2.5),
        ("running", 2.5, 3.0),
        ("fetching", 3.0, 4.0),
    ]
    assert [span.step for span in found.spans(second)] == ["invoking", "waiting", "starting", "running"]


def test_calls_are_drawn_in_the_order_in_which_they_began():
    """Calls that never began come last."""
    never = call(call_id="00002", began=None, started=None, returned=None)
    found = Timeline([on_lambda(never, call(began=103.0), call(call_id="00001", began=102.0))])
    assert [(row, one.call_id) for row, one in found.rows()] == [(0, "00001"), (1, "00000"), (2, "00002")]


def test_how_many_run_at_a_time():
    """The lower part of the picture counts the functions that run."""
    times, counts = two_calls().running()
    assert times == [0.0, pytest.approx(1.1), 2.5, pytest.approx(2.8), 3.0]
    assert counts == [0, 1, 2, 1, 0]


def test_clocks_that_differ_draw_nothing_backwards():
    """A worker whose clock is slow seems to begin before it was invoked."""
    found = Timeline([on_lambda(call(began=100.9))])
    assert "waiting" not in [span.step for span in found.spans(found.rows()[0][1])]


def test_the_trace_has_what_chrome_reads(tmp_path):
    """A process for each map, a thread for each call, and complete events in microseconds."""
    two_calls().to_chrome_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    names = [one["args"]["name"] for one in events if one["ph"] == "M"]
    assert names == ["callset a-callse in the Lambda function f", "call 00000", "call 00001"]
    runs = [one for one in events if one["name"] == "running"]
    assert [(one["ts"], one["dur"], one["tid"], one["cat"]) for one in runs] == [
        (2_500_000.0, 500_000.0, 1, "success"),
        (pytest.approx(1_100_000.0), pytest.approx(1_700_000.0), 2, "error"),
    ]
    assert runs[1]["args"]["error"] == "ValueError"


def test_without_matplotlib_there_is_still_a_trace(tmp_path, monkeypatch):
    """The error names the extra; a notebook shows what there is."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr("pywren.display.timeline._has_matplotlib", lambda: False)
    found = two_calls()
    with pytest.raises(ArgumentError, match=r'needs matplotlib: `pip install "pywren\[plots\]"`'):
        found.save(tmp_path / "x.png")
    assert found._repr_png_() is None
    assert "pywren[plots]" in found._repr_html_()
    found.to_chrome_trace(tmp_path / "trace.json")


def test_no_calls_and_calls_that_have_not_ended(tmp_path):
    """There is a picture of nothing, too, and of calls that still wait."""
    nothing = pywren.timeline([])
    assert (repr(nothing), nothing.began, nothing.running()) == ("<Timeline of 0 calls in 0 s>", None, ([0.0], [0]))
    nothing.to_chrome_trace(tmp_path / "trace.json")
    with pytest.raises(ArgumentError, match=r"timeline\(\) takes pywren futures"):
        pywren.timeline([1])
    with pywren.local_executor() as executor:
        futures = executor.map(square, range(50))
        assert "50 calls" in repr(pywren.timeline(futures))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # old releases of matplotlib use old names of pyparsing
def test_the_picture(tmp_path):
    """Calls on this machine are drawn without pyplot, in a few collections of lines."""
    pytest.importorskip("matplotlib")
    had_pyplot = "matplotlib.pyplot" in sys.modules
    with pywren.local_executor() as executor:
        futures = executor.map(square, range(20))
        pywren.wait(futures)
    found = pywren.timeline(futures)
    found.save(tmp_path / "timeline.png")
    assert (tmp_path / "timeline.png").read_bytes().startswith(b"\x89PNG")
    assert found._repr_html_() is None
    assert found._repr_png_().startswith(b"\x89PNG")
    calls, load = found.figure().axes
    assert len(calls.collections) <= 6
    assert load.get_xlabel() == "seconds since map()"
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot
    Timeline([]).figure().savefig(tmp_path / "nothing.svg")
