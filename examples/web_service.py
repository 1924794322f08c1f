"""A web service (FastAPI) whose handlers await calls: it answers other requests while workers compute.

Run it with ``python examples/web_service.py [PORT]``, and then ``curl 'http://127.0.0.1:8000/primes?below=100000'``.
Needs ``pip install fastapi uvicorn``.

``map`` sends requests itself, so it runs on a thread, and the event loop never waits for AWS. If a handler is
cancelled, for example by its time-out, its calls are cancelled too.
"""

import asyncio
import contextlib
import sys

import uvicorn
from fastapi import FastAPI, HTTPException, Query

import pywren

PARTS = 4
SECONDS = 60


def count_primes(numbers):
    """Return how many of the numbers are prime."""
    return sum(all(number % divisor for divisor in range(2, int(number**0.5) + 1)) for number in numbers if number > 1)


@contextlib.asynccontextmanager
async def lifespan(app):
    with pywren.default_executor() as app.state.pwex:  # its end waits for calls that still run
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/primes")
async def primes(below: int = Query(ge=0, le=10_000_000)):
    """Count the primes below a number, in parallel calls."""
    parts = [range(first, below, PARTS) for first in range(PARTS)]
    try:
        futures = await asyncio.to_thread(app.state.pwex.map, count_primes, parts)
        counts = await asyncio.wait_for(asyncio.gather(*futures), SECONDS)
    except asyncio.TimeoutError:
        raise HTTPException(504, f"not done in {SECONDS} s") from None
    return {"below": below, "primes": sum(counts)}


@app.get("/health")
async def health():
    """Answer at once, also while calls run."""
    return {"ok": True}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
