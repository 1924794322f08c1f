"""``Policy``: what the user and the service allow the driver to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from pywren.exceptions import CallTimeoutError

if TYPE_CHECKING:
    from pywren.client.driver.budget import Budget

MOST_KILLS = 6
"""How many times a call is invoked again after something outside it ended its attempt."""


class Policy(NamedTuple):
    """What the driver of a callset may do.

    Args:
        retries: how many times an attempt that failed is repeated (``scheduler.retries``). Throttled, dropped and
            too old attempts do not count; attempts that were killed from outside have ``MOST_KILLS`` of their own. With
            0 pywren never starts a call that may have started before.
        retry_on: classes of exceptions, of the user's functions or of pywren, after which a call is tried again.
        backup: whether stragglers get a second attempt.
        max_concurrency: the most attempts in flight; ``None`` for no limit.
        concurrency: how many calls the service runs at once, as far as the user knows; ``None`` if that is unknown.
        event_age: seconds that the service keeps an attempt that it cannot start; ``None`` if it keeps it for ever.
        job_max_runtime: seconds that an attempt may run.
        may_lose_calls: whether the service may lose an accepted attempt without a trace, as Lambda's queue may.
        budget: what the calls may cost; ``None`` for any sum.
        timeout: seconds after which calls that have not ended are stopped, since they were submitted; ``None`` for
            never.
        chunksize: how many calls share an invocation; ``None`` to have ``client.driver.chunks`` decide.
        chunk_room: how many bytes of its payload the calls of a chunk may take; ``None`` for any number.
        chunk_runtime: seconds that a chunk may run.
    """

    retries: int = 2
    retry_on: tuple[type[BaseException], ...] = ()
    backup: bool = False
    max_concurrency: int | None = None
    concurrency: int | None = None
    event_age: float | None = None
    job_max_runtime: float = 0.0
    may_lose_calls: bool = False
    budget: Budget | None = None
    timeout: float | None = None
    chunksize: int | None = 1
    chunk_room: int | None = None
    chunk_runtime: float = 0.0


def too_late(policy: Policy, *, invoked: bool = True) -> CallTimeoutError:
    """Return the error of a call that has not ended when the time of its map is over.

    Args:
        policy: has the time.
        invoked: whether the call was invoked.
    """
    what = "not done" if invoked else "not invoked yet"
    return CallTimeoutError(
        f"the call was stopped, because it was {what} {policy.timeout:g} s after its map was submitted "
        f"(timeout={policy.timeout:g})"
    )
