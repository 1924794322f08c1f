"""Monte Carlo with right random streams: a price of an Asian option that is the same however the paths are shared out.

Run it with ``python examples/monte_carlo.py [PATHS]``. Needs ``pip install numpy``.

``SeedSequence.spawn`` makes a stream for each block of paths. The streams are independent of each other, and depend
only on the seed: not on the workers, their number, or the order in which they finish. A call that runs twice draws the
same numbers again. Never send one generator to all calls: each would draw the same numbers.
"""

import math
import sys

import numpy as np

import pywren

START, STRIKE, RATE, VOLATILITY, YEARS, STEPS = 100.0, 100.0, 0.05, 0.2, 1.0, 64
PATHS_PER_BLOCK = 5_000


def simulate(seed):
    """Return the sum and the sum of squares of the discounted payoffs of one block of paths."""
    generator = np.random.default_rng(seed)
    time_step = YEARS / STEPS
    drift = (RATE - VOLATILITY**2 / 2) * time_step
    shocks = generator.normal(drift, VOLATILITY * math.sqrt(time_step), (PATHS_PER_BLOCK, STEPS))
    means = START * np.exp(np.cumsum(shocks, axis=1)).mean(axis=1)
    payoffs = math.exp(-RATE * YEARS) * np.maximum(means - STRIKE, 0)
    return float(payoffs.sum()), float((payoffs**2).sum())


def estimate(sums, paths):
    """Return the price and its standard error."""
    total, squares = (math.fsum(column) for column in zip(*sums, strict=True))
    price = total / paths
    return price, math.sqrt((squares / paths - price**2) / paths)


blocks = max(1, (int(sys.argv[1]) if len(sys.argv) > 1 else 200_000) // PATHS_PER_BLOCK)
pwex = pywren.default_executor()

sums = pywren.get_all_results(pwex.map(simulate, np.random.SeedSequence(2017).spawn(blocks)))
price, error = estimate(sums, blocks * PATHS_PER_BLOCK)
print(f"{price:.4f} ± {error:.4f} from {blocks * PATHS_PER_BLOCK} paths in {blocks} calls")

# The same seeds, two blocks in each call: the workers and their order differ, and the price does not.
seeds = np.random.SeedSequence(2017).spawn(blocks)
pairs = pwex.map(lambda pair: [simulate(seed) for seed in pair], [seeds[at : at + 2] for at in range(0, blocks, 2)])
again, _ = estimate([block for pair in pairs for block in pair.result()], blocks * PATHS_PER_BLOCK)
print(f"{again:.4f} with two blocks in a call: {'the same' if again == price else 'another price'}")
