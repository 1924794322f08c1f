"""One process pickles futures into a file, and another process collects them.

Run it with ``python examples/collect_elsewhere.py``.

On Lambda the first process may end meanwhile: the calls go on, and anyone with the file and access to the bucket can
collect them. Keep the file private: it holds the secret that signs the results. On this machine the calls run in the
workers of the first process, which therefore waits for the second.
"""

import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import pywren


def start_and_hand_over(path):
    pwex = pywren.default_executor()
    futures = pwex.map(lambda x: x**2, range(8))
    path.write_bytes(pickle.dumps(futures))
    subprocess.run([sys.executable, __file__, str(path)], check=True)


def collect(path):
    futures = pickle.loads(path.read_bytes())
    done, not_done = pywren.wait(futures)
    print(f"collected by another process: {[future.result() for future in done]}, still open: {len(not_done)}")


if len(sys.argv) > 1:
    collect(Path(sys.argv[1]))
else:
    with tempfile.TemporaryDirectory() as directory:
        start_and_hand_over(Path(directory) / "futures.pickle")
