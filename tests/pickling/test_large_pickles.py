"""Large pickles and copies: the same result as without pieces, while other threads run."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from lines import lines_run

from pywren.pickling import large_pickles
from pywren.pickling.packed import Packed, loads
from pywren.system import large_copies
from pywren.system.large_copies import copied

OBJECTS = {
    "numbers": [float(number) for number in range(300_000)],
    "dicts": [{"number": number, "text": str(number)} for number in range(80_000)],
    "bytes": b"x" * 3_000_000,
    "text": "é" * 2_000_000,
    "array": np.arange(400_000),
    "bytearray": bytearray(3_000_000),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", OBJECTS.values(), ids=OBJECTS)
def test_the_same_object_comes_back(value, protocol):
    """Whatever the protocol, and although more bytes may follow the pickle."""
    found = large_pickles.loads(pickle.dumps(value, protocol) + b"more bytes")
    assert type(found) is type(value)
    assert np.array_equal(found, value) if isinstance(value, np.ndarray) else found == value


def test_buffers_stay_out_of_band():
    """An array is made over its buffer, without a copy."""
    array, buffers = np.arange(300_000), []
    data = pickle.dumps([array, "x" * large_pickles.LEAST], 5, buffer_callback=buffers.append)
    found, _ = loads(Packed(data, tuple(buffers)))
    assert np.shares_memory(found, array)


@pytest.mark.parametrize("cut", [1, 100_000, 2_999_999])
def test_a_pickle_that_is_cut_off(cut):
    """The error is one of pickle's own."""
    with pytest.raises((pickle.UnpicklingError, EOFError)):
        large_pickles.loads(pickle.dumps(OBJECTS["bytes"], 5)[:cut])


@pytest.mark.parametrize("value", OBJECTS.values(), ids=OBJECTS)
def test_python_code_runs_all_along(value):
    """The interpreter lets other threads run between two lines of Python code, and only there."""
    data = pickle.dumps(value, 5)
    _, count = lines_run(large_pickles.__name__, loads, Packed(data))
    assert count >= len(data) // (256 * 1024)


def test_copies_are_made_in_pieces():
    """The copy is complete, with or without its beginning; a small one takes one step."""
    data = bytes(range(256)) * 20_000
    assert copied(memoryview(data)) == data
    assert copied(data, 3) == data[3:]
    assert copied(b"short", 2) == b"ort"
    _, count = lines_run(large_copies.__name__, copied, data)
    assert count >= len(data) // (256 * 1024)
