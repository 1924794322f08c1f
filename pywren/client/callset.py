"""``Callset``: what all calls of one map share."""

from __future__ import annotations

import functools
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from pywren.client.driver.policy import Policy
from pywren.exceptions import CallCancelledError
from pywren.pickling.packed import Packed
from pywren.system.home import user_key
from pywren.system.private_names import OneStepCondition
from pywren.wire import digests
from pywren.wire.keys import CallKeys, CallsetKeys
from pywren.wrenutil import create_callset_id

if TYPE_CHECKING:
    from pywren.cloud.prices import Billing

_MOST_TOLD = 5  # of so many calls that have failed, the error is kept in words
_LONGEST_TOLD = 300  # characters


@dataclass(eq=False)
class Callset:
    """The calls of one map: their id, their secret, and where their objects are.

    Args:
        prefix: the storage's prefix.
        id: a UUID.
        secret: the keys that sign statuses are derived from this secret. If it is ``None``, the secret is derived from
            the user key when it is first needed.
        submitted: when ``map`` was called, in seconds since the epoch.
        job_max_runtime: seconds that each call may run.
        queue_patience: seconds that a call may wait before it starts; ``None`` for no limit.
        function: the Lambda function whose records report failed calls; ``None`` when the calls run elsewhere.
        copies: how many copies of the function may have got the calls, the function itself included.
        overwrite: members of all payloads that the program sets itself (``overwrite_invoke_args``).
        facts: the members of ``invoke_status`` that are the same for all calls.
        modules: top-level names of the user's modules that were sent; unpickling an outcome may need these modules.
        condition: guards the states of all futures of the callset (``client.call_state``).
        inputs: for calls that have not ended, the callsets whose directories on this machine their workers read.
        name: the name of the job, if the program gave it one.
        first_attempt: the number of the first attempt since the job was last resumed. What earlier attempts returned
            counts, but their failures do not.
        on_lost_object: called when a call fails because an object is missing or was replaced; ``None`` if nobody is to
            know.
        deletion: the finalizer that deletes the callset's directory on this machine, if there is one.
        has_chunks: whether an invocation may run several of the calls (docs/chunks.md).
        billing: what is needed to say what the calls cost; ``None`` if they do not run on Lambda.
        failures: the calls that have failed, as far as this process has seen it; for the first of them, the error in
            words, for those who look at the executor.
        progress: whether waits for the calls show a bar: True, False or ``"auto"``.
        origin: a weak reference to what gives the futures of the callset their outcomes, once there are futures.
    """

    prefix: str
    id: str = field(default_factory=create_callset_id)
    secret: bytes | None = field(default=None, repr=False)
    submitted: float = field(default_factory=time.time)
    job_max_runtime: float = 0.0
    queue_patience: float | None = None
    function: str | None = None
    copies: int = 1
    overwrite: Mapping[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    modules: frozenset[str] = frozenset()
    name: str | None = None
    first_attempt: int = 1
    # One for the whole map: settling ten thousand futures takes it once, and making them creates no locks. Only its
    # lock is used; a condition can be re-initialized in place after a fork.
    condition: threading.Condition = field(default_factory=OneStepCondition, repr=False)
    deletion: Any = field(default=None, repr=False)
    on_lost_object: Callable[[], object] | None = field(default=None, repr=False)
    inputs: dict[str, list[Callset]] = field(default_factory=dict, repr=False)
    has_chunks: bool = False
    billing: Billing | None = None
    failures: dict[str, str] = field(default_factory=dict, repr=False)
    progress: bool | str = "auto"
    # Weak: an origin has its callset. The executor, which knows its callsets, finds the calls in this way.
    origin: weakref.ref[Any] | None = field(default=None, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        # Pickle the secret too, because another user cannot derive it. Leave out what only this process has.
        nothing: dict[str, Any] = dict.fromkeys(("condition", "deletion", "origin", "on_lost_object"))
        # Whether anybody looks is known only where the future is unpickled. Errors in words may hold secrets.
        here: dict[str, Any] = {**nothing, "overwrite": {}, "progress": "auto", "failures": {}, "inputs": {}}
        facts = {name: value for name, value in self.facts.items() if name != "extra_env"}  # it may hold secrets
        state = {**self.__dict__, "secret": self.known_secret(), "facts": facts, **here}
        state.pop("keys", None)  # they follow from the id
        return state

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        # A new condition is right even for a copy in the same process: the unpickled futures have their own states.
        self.__dict__.update(state, condition=OneStepCondition())

    @functools.cached_property  # asked for each call
    def keys(self) -> CallsetKeys:
        """The keys of the callset's objects."""
        return CallsetKeys(self.prefix, self.id)

    def call_keys(self, call_id: str) -> CallKeys:
        """Return the keys of one call's objects."""
        return self.keys.call(call_id)

    def known_secret(self) -> bytes:
        """Return the callset's secret. Derive it from the user key, unless it came with a pickled future."""
        # No lock: threads that race here derive the same bytes from the user key and the id, and either assignment will
        # do.
        if self.secret is None:
            self.secret = digests.callset_secret(user_key(), self.id)
        return self.secret

    def attempt_key(self, call_id: str, attempt: int) -> bytes:
        """Return the key that signs the status of one attempt of one call."""
        return digests.attempt_key(self.known_secret(), call_id, attempt)

    def note_failure(self, call_id: str, error: BaseException) -> None:
        """Record that a call has failed. Two threads may both note the same call: the first to do so counts."""
        # On the thread that settles: str() runs the program's code, so only for the first few.
        words = ""
        if len(self.failures) < _MOST_TOLD and not isinstance(error, CallCancelledError):
            from pywren.client.driver.driver import text_of  # imported here, as most calls succeed

            words = text_of(error).strip().partition("\n")[0][:_LONGEST_TOLD]
        self.failures.setdefault(call_id, words)

    def lost_after(self, grace: float) -> float | None:
        """Return when a call without a status counts as lost, in seconds since the epoch; ``None`` means never.

        Args:
            grace: extra seconds for a status to arrive.
        """
        if self.queue_patience is None:
            return None
        return self.submitted + self.queue_patience + self.job_max_runtime + grace


class Submission(NamedTuple):
    """The data of one map, as an executor passes it to a dispatcher.

    Args:
        callset: the callset.
        function: the pickled function.
        modules: the user's modules and data files, by relative path.
        arguments: the pickled arguments, one per call.
        inputs: for each argument, the futures in it, in the order of their persistent ids; empty if there are none.
        as_values: whether these futures arrive as the values of their calls, and not as finished futures.
        extra_env: environment variables of the calls.
        extra_meta: further members of the payload.
        options: ``invoke_pool_threads``, ``data_all_as_one``, ``use_cached_runtime``, ``overwrite_invoke_args``,
            ``name`` and ``show_output`` of ``Executor.map``.
        policy: what the user allows the driver; the dispatcher adds what it knows about the service.
    """

    callset: Callset
    function: Packed
    modules: Mapping[str, bytes]
    arguments: Sequence[Packed]
    inputs: Sequence[Sequence[Any]] = ()
    as_values: bool = False
    extra_env: Mapping[str, str] | None = None
    extra_meta: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = MappingProxyType({})
    policy: Policy = Policy()
