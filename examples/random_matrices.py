"""Multiply a random matrix by a random vector a thousand times, once per call: PyWren's own first example.

Run it with ``python examples/random_matrices.py [COUNT]``.
"""

import sys
import time

import numpy as np

import pywren


def foo(b):
    x = np.random.normal(0, b, 1024)
    A = np.random.normal(0, b, (1024, 1024))
    return np.dot(A, x)


count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000

started = time.perf_counter()
pwex = pywren.default_executor()
res = pywren.get_all_results(pwex.map(foo, np.linspace(0.1, 100, count)))

print(f"{len(res)} vectors of {res[0].size} numbers in {time.perf_counter() - started:.1f} s")
