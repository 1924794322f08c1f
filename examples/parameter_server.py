"""Train one model from many workers at once, with a parameter server on Redis.

Run it with ``python examples/parameter_server.py``; the server's URL is ``redis://localhost:6379``, or that in the
variable ``REDIS_URL`` (arguments of a program can be read by others). Start one with ``redis-server``
(``apt-get install redis-server``). Needs ``pip install numpy redis``.

Each worker has its own part of the data. Again and again it fetches the weights, computes the gradient of a small
batch, and adds its step to the weights. Redis adds atomically, so no step of another worker is lost; weights that are
some steps old do no harm. A call that runs twice makes more steps, and the model is none the worse.
"""

import os
import uuid

import numpy as np
import redis

import pywren

FEATURES, SAMPLES, BATCH, RATE = 20, 2_000, 50, 0.5
WORKERS, STEPS = 4, 100


def samples(seed):
    """Return the part of the data that belongs to a seed: points, and on which side of a plane they are."""
    generator = np.random.default_rng([2017, seed])
    points = generator.normal(size=(SAMPLES, FEATURES))
    plane = np.random.default_rng(2017).normal(size=FEATURES)
    return points, (points @ plane + generator.normal(scale=0.5, size=SAMPLES) > 0).astype(float)


def weights(client):
    """Fetch the weights."""
    return np.array([float(text or 0) for text in client.hmget(key, range(FEATURES))])


def train(seed):
    """Make the steps of one worker; return how many they were."""
    points, sides = samples(seed)
    with redis.Redis.from_url(url) as client:
        for step in range(STEPS):
            at = step * BATCH % SAMPLES
            batch, wanted = points[at : at + BATCH], sides[at : at + BATCH]
            predicted = 1 / (1 + np.exp(-batch @ weights(client)))
            gradient = batch.T @ (predicted - wanted) / BATCH
            with client.pipeline() as pipeline:  # one round trip, and all of it or nothing
                for index, slope in enumerate(gradient):
                    pipeline.hincrbyfloat(key, index, -RATE * float(slope))
                pipeline.execute()
    return STEPS


def accuracy(client):
    """Return the share of points that no worker has seen and the weights put on the right side."""
    points, sides = samples(WORKERS)
    return float(((points @ weights(client) > 0) == sides).mean())


url = os.environ.get("REDIS_URL") or "redis://localhost:6379"
key = f"weights-{uuid.uuid4().hex}"
with redis.Redis.from_url(url) as client:
    try:
        before = accuracy(client)
        steps = sum(pywren.get_all_results(pywren.default_executor().map(train, range(WORKERS))))
        print(f"accuracy {before:.2f} before, {accuracy(client):.2f} after {steps} steps of {WORKERS} workers")
    finally:
        client.delete(key)
