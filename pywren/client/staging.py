"""``StagedDispatcher``: puts a callset into a storage and invokes its calls.

The program's thread that calls ``map`` does this work. Helper threads (``for_each``) store arguments, and those of
``client.invoking`` invoke calls; each call is handled by one of these threads. The monitor begins to poll when all
calls are invoked, or held back on purpose, or earlier if something waits for one of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
import math
import os
import random
import sys
import time
import weakref
from collections.abc import Container, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from pywren.client import call_state, jobs
from pywren.client.callset import Callset, Submission
from pywren.client.driver.chunks import FEWEST_CALLS
from pywren.client.driver.driver import Driver
from pywren.client.driver.policy import Policy
from pywren.client.driver.service import Service
from pywren.client.failure_records import FailureRecords, Noted
from pywren.client.fan_out import FanOut
from pywren.client.following import Following, must_follow
from pywren.client.invoking import Invocations
from pywren.client.lease import Lease
from pywren.client.monitor import Monitor
from pywren.client.payloads import Payloads
from pywren.client.protocols import Invoker
from pywren.client.staged_calls import StagedCallset
from pywren.client.staged_functions import StagedFunctions
from pywren.client.verdict import Verdict, encoded
from pywren.display.progress import Invoking
from pywren.exceptions import ArgumentError
from pywren.future import ResponseFuture, futures_of
from pywren.pickling.packed import Packed
from pywren.storage import Storage
from pywren.storage.runtime_info import has_own_runtime, required_sha256
from pywren.system.threads import for_each
from pywren.version import PYTHON, __version__
from pywren.wire.call import INLINE_ARGUMENT_LIMIT, Call, encode_fields
from pywren.wire.digests import sha256
from pywren.wire.function import StagedFunction
from pywren.wire.references import INLINE_REFERENCES, Reference, encode_references
from pywren.wire.status import Status
from pywren.wrenconfig import MAX_AGG_DATA_SIZE
from pywren.wrenutil import create_call_id

logger = logging.getLogger(__name__)

_PAYLOAD_HEADROOM = 2_000
_ITEM_HEADROOM = 500  # bytes of the names, ids and keys of one call in the payload of a chunk
_NONE_FOLLOW: Mapping[str, Sequence[ResponseFuture]] = MappingProxyType({})


class StagedDispatcher:
    """Stages callsets in a storage and invokes their calls.

    Args:
        storage: where functions, arguments and outcomes are stored.
        invoker: starts the calls.
        runtime: the ``runtime`` section of the configuration, with the ``urls`` of the runtime's copies.
    """

    out_of_band = False  # a pickle and its buffers share one object
    shows_output = False
    longest_runtime = sys.float_info.max  # JSON has no infinity

    def __init__(self, storage: Storage, invoker: Invoker, runtime: Mapping[str, Any]) -> None:
        self.storage = storage
        self.invoker = invoker
        # One monitor, and so one polling thread, for all callsets of this executor. It starts with the first watch().
        self.monitor = Monitor()
        self._runtime = _runtime_members(runtime)
        self._shards = _shards_of(runtime)
        self._kept: list[Callset] = []
        self._noted = Noted()
        self._functions = StagedFunctions(storage.now)
        self._service = Service()  # one for all callsets: what one of them sees helps the others
        function = invoker.function_name
        # For Storage.get_call_output(), which a program may call without a future: 0.0 searches all records, and what
        # it finds is shared with the polls.
        copies = invoker.function_copies
        storage.hold_against(
            None if function is None else FailureRecords(storage, function, "", 0.0, self._noted, lambda: copies)
        )

    def close(self) -> None:
        """Release the callsets on this machine. The directory of each is deleted when all its futures are gone."""
        self._kept.clear()

    def dispatch(self, submission: Submission) -> list[ResponseFuture]:
        """Stage a callset, invoke its calls and return their futures.

        Raises:
            ArgumentError: the function or an argument is too large for the storage, or a payload for the invoker;
                nothing was invoked.
            StorageError: staging failed; nothing was invoked.
            InvocationError: a call was refused; the calls invoked before it continue.
        """
        callset, name = submission.callset, submission.options.get("name")
        if name is not None:
            jobs.require_free(self.storage, name)
        # Before anything is written, so that a Ctrl-C during staging leaves no directory behind.
        self._keep_while_used(callset)
        following = self._following(submission)
        template, own = self._stage(submission, following)
        # Threads hide the latency of the invoker's requests. for_each() starts MOST_AT_ONCE at most, one for each
        # connection that a client keeps.
        threads = submission.options.get("invoke_pool_threads", 64)
        callset.overwrite = submission.options.get("overwrite_invoke_args") or {}
        policy = self._completed(self._chunked(submission), callset)
        payloads = Payloads.of(template, own)
        for members, shard in zip(payloads.own.values(), itertools.cycle(self._shards), strict=False):
            members.update(shard)
        payloads.shared.update(_reporting(policy))
        payloads.overwrite(callset.overwrite)
        if name is not None:
            self._check_payloads(callset, payloads)  # nobody should find a job that was never invoked
            self._publish(callset, name, template, own)
        del own  # nobody needs it while the calls are invoked
        return self._start(callset, payloads, policy, threads, following=following, as_values=submission.as_values)

    def _publish(self, callset: Callset, name: str, template: Call, own: Mapping[str, Mapping[str, Any]]) -> None:
        calls = [template.sibling(call_id, callset.call_keys(call_id), fields) for call_id, fields in own.items()]
        jobs.publish(self.storage, callset, calls, name=name, invoker=self.invoker)

    def _chunked(self, submission: Submission) -> Policy:
        """Return what the user allows, with the size of chunks that the map asks for if calls can share payloads."""
        callset, policy, size = submission.callset, submission.policy, submission.options.get("chunksize", 1)
        count = len(submission.arguments)
        if size is None and (count < FEWEST_CALLS or _needs_single_calls(submission)):
            return policy
        # A worker that does not know chunks would take the member of the payload for one of its own.
        if size == 1 or count == 1 or not self.invoker.takes_chunks or "chunk" in (submission.extra_meta or {}):
            return policy
        callset.has_chunks = True
        longest = min((size or count) * callset.job_max_runtime, self.invoker.longest_run or math.inf)
        return policy._replace(chunksize=None if size is None else min(size, count), chunk_runtime=longest)

    def _following(self, submission: Submission) -> dict[str, Sequence[ResponseFuture]]:
        """Return the futures of the calls that are to be held until these futures are done, by call."""
        if submission.options.get("name") is not None:
            return {}  # other processes resume such calls, and read what their arguments are before they are invoked
        path, as_values = self.storage.path, submission.as_values
        # Once, before anything is staged: the answer may change at any moment.
        return {
            create_call_id(index): inputs
            for index, inputs in enumerate(submission.inputs)
            if inputs and must_follow(inputs, as_values=as_values, path=path)
        }

    def join(self, function: Packed, argument: Packed, policy: Policy, max_runtime: float) -> None:
        """Return ``None``: what a callset consists of is staged before its calls are invoked."""

    def put(self, callset: Callset, packed: Packed) -> ResponseFuture:
        """Store an object that calls may refer to, and return its future.

        Raises:
            ArgumentError: it is too large for the storage.
            StorageError: it cannot be stored.
        """
        self._check_sizes({"the object": len(packed.data)})
        self._keep_while_used(callset)
        callset.queue_patience = 0.0  # a process that gets the reference must not wait for a status that was deleted
        origin = StagedCallset(callset, self.storage, self.monitor, noted=self._noted)
        status = origin.put(packed)
        future = futures_of(origin, [status.call_id])[0]
        origin.know(future, status)
        return future

    def resume(
        self,
        callset: Callset,
        template: Call,
        own: Mapping[str, Mapping[str, Any]],
        call_ids: Sequence[str],
        lease: Lease,
    ) -> list[ResponseFuture]:
        """Invoke some calls of a named job again. See ``jobs.Resumer``."""
        callset.facts.update(self.invoker.config())
        policy = self._completed(Policy(), callset)
        payloads = Payloads.of(template, own)
        payloads.shared.update(_reporting(policy))
        return self._start(callset, payloads, policy, threads=64, call_ids=call_ids, lease=lease)

    def invoke_stored(self, callset: Callset, call: Call, overwrite: Mapping[str, Any]) -> ResponseFuture:
        """Invoke one call whose function and argument are already stored."""
        # Read both, only to name their digests in the payload: workers load nothing that does not match.
        function = self.storage.get(call.func_key)
        data = self.storage.get(call.data_key, call.data_byte_range)
        call = dataclasses.replace(
            call,
            pywren_version=__version__,
            python_version=PYTHON,
            func_sha256=sha256(function),
            func_size=len(function),
            data_sha256=sha256(data),
            data_size=len(data),
            **self._runtime,
        )
        callset.overwrite = overwrite
        policy = self._completed(Policy(retries=0), callset)
        # Its keys may be any, so all members are its own.
        payloads = Payloads({}, {call.call_id: call.encode()})
        payloads.overwrite(overwrite)
        return self._start(callset, payloads, policy, threads=1)[0]

    def _completed(self, policy: Policy, callset: Callset) -> Policy:
        """Return what the user allows, with what is known about the service."""
        if not self.invoker.may_repeat:
            policy = policy._replace(retries=0, retry_on=(), backup=False)
        return policy._replace(
            event_age=self.invoker.queue_patience,
            job_max_runtime=callset.job_max_runtime,
            may_lose_calls=self.invoker.may_lose_calls,
        )

    def _start(
        self,
        callset: Callset,
        payloads: Payloads,
        policy: Policy,
        threads: int,
        *,
        call_ids: Sequence[str] = (),
        lease: Lease | None = None,
        following: Mapping[str, Sequence[ResponseFuture]] = _NONE_FOLLOW,
        as_values: bool = False,
    ) -> list[ResponseFuture]:
        # Before the first invocation: half a map that runs is worse than an error.
        largest = self._check_payloads(callset, payloads)
        callset.submitted = self.storage.now()  # by the storage's clock: machines with other clocks read this time
        # All of these before StagedCallset is made: its polls, on another thread, read them without a lock.
        callset.queue_patience = policy.event_age
        sizes: dict[str, int] = {}
        if policy.chunksize != 1:
            if callset.queue_patience is not None:
                callset.queue_patience += policy.chunk_runtime  # a call also waits for those before it in its chunk
            sizes = {call_id: _own_size(members) + _ITEM_HEADROOM for call_id, members in payloads.own.items()}
            limit = self.invoker.payload_limit
            policy = policy._replace(chunk_room=None if limit is None else limit - _PAYLOAD_HEADROOM - largest)
        callset.function, callset.copies = self.invoker.function_name, self.invoker.function_copies
        explain = self.invoker.explain_silence
        lease = lease or Lease(self.storage, callset)
        origin = StagedCallset(
            callset, self.storage, self.monitor, explain_silence=explain, noted=self._noted, lease=lease,
            copies=self.invoker.used_copies,
        )  # fmt: skip
        invoked = list(payloads.own)
        origin.keep_payloads(payloads)
        payloads.own.clear()  # what was kept is smaller
        driver = Driver(
            invoked, policy, service=self._service, first_attempt=callset.first_attempt, following=following,
            sizes=sizes,
        )  # fmt: skip
        invocations = Invocations(
            driver, self.invoker, payload=origin.payload, now=self.storage.now, refused=origin.refuse,
            note=origin.note_invocation, callset_id=callset.id, threads=threads, fan_out=self._fan_out(policy, callset),
        )  # fmt: skip
        origin.drive(driver, invocations)
        futures = futures_of(origin, call_ids or invoked)
        self._hold(origin, following, as_values)
        # Returns when every helper thread has ended, also after an error or Ctrl-C.
        self._invoke(origin, driver, invocations, Invoking(futures, callset.progress))
        # Last: polls before this would find out little, and compete with the invocations.
        origin.watch()
        return futures

    def _fan_out(self, policy: Policy, callset: Callset) -> FanOut | None:
        """Return what decides about relays; ``None`` where each call must be invoked by this program."""
        # A relay may die with what it has not handed on, so its calls must be repeatable. Its price is in no budget.
        # And a program that changes payloads may expect them to arrive as they are.
        if policy.retries == 0 or policy.budget is not None or callset.overwrite:
            return None
        return self.invoker.fan_out

    def _hold(self, origin: StagedCallset, following: Mapping[str, Sequence[ResponseFuture]], as_values: bool) -> None:
        """Have calls let go when their inputs are done."""
        references = _References(self.storage, origin.callset)
        for call_id, inputs in following.items():
            origin.complete_later(call_id, partial(references.payload, call_id, inputs))
        for call_id, inputs in following.items():
            self.invoker.follow(Following(origin, call_id, inputs, as_values=as_values, path=self.storage.path))

    def _keep_while_used(self, callset: Callset) -> None:
        """On this machine, delete the callset's directory when no executor and no future needs it any more."""
        if self.storage.path[0] == "localhost":
            self._kept.append(callset)
            # It runs on whichever thread drops the last reference, or at exit. It may not refer to the callset, which
            # would then never be freed.
            callset.deletion = weakref.finalize(callset, _delete_own, os.getpid(), self.storage, callset.id)

    def _stage(self, submission: Submission, following: Container[str]) -> tuple[Call, dict[str, dict[str, Any]]]:
        """Store what the calls need. Return a call that has what they share, and the further fields of each."""
        submission = submission._replace(arguments=list(submission.arguments))  # each argument is pickled once
        callset, options = submission.callset, submission.options
        staged = StagedFunction(submission.function.data, submission.modules).encode()
        self._check_objects(staged, submission.arguments)
        facts = callset.facts
        facts["func_upload_timestamp"] = started = time.time()
        # The function before anything that refers to it: a worker may start within milliseconds of the first
        # invocation.
        digest = sha256(staged)
        func_key = self._put_function(submission, staged, digest)
        facts["func_upload_time"] = time.time() - started
        facts["func_module_str_len"] = len(staged)
        template = Call(
            storage_config=self.storage.get_storage_config(),
            callset_id=callset.id,
            call_id="",
            func_key=func_key,
            data_key="",
            output_key="",
            status_key="",
            cancel_key="",
            job_max_runtime=callset.job_max_runtime,
            use_cached_runtime=options.get("use_cached_runtime", True),
            pywren_version=__version__,
            python_version=PYTHON,
            func_sha256=digest,
            func_size=len(staged),
            extra_env=submission.extra_env,
            extra=submission.extra_meta or {},
            **self._runtime,
        )
        return template, _ArgumentStager(self.storage, submission, following).stage()

    def _put_function(self, submission: Submission, staged: bytes, digest: str) -> str:
        """Store the function, unless this executor has stored it for another callset a moment ago. Return its key."""
        callset = submission.callset
        # A job may be resumed days later, and a directory of this machine ends with its callset: both keep their own.
        is_alone = submission.options.get("name") is not None or self.storage.path[0] == "localhost"
        found = None if is_alone else self._functions.find(digest)
        if found is not None:
            # Should the object be gone nevertheless, because somebody has emptied the bucket, the next map stores it.
            callset.on_lost_object = partial(self._functions.forget, digest)
            return found
        stored_at = self.storage.now()
        self.storage.put(callset.keys.func, staged)
        if not is_alone:
            self._functions.keep(digest, callset.keys.func, stored_at)
        return callset.keys.func

    def _check_objects(self, function: bytes, arguments: Sequence[Packed]) -> None:
        index, largest = max(enumerate(arguments), key=lambda item: len(item[1].data))
        sizes = {"the function, with its data and modules,": len(function), f"argument {index}": len(largest.data)}
        self._check_sizes(sizes)

    def _check_sizes(self, sizes: Mapping[str, int]) -> None:
        # Before the first PUT: S3 refuses an object that is too big only after it has received most of it.
        limit = getattr(self.storage.backend, "object_limit", None)
        if limit is None:
            return
        for what, size in sizes.items():
            if size > limit:
                raise ArgumentError(
                    f"{what} has {size:,} bytes, but the limit for one object is {limit:,}: split it over more calls, "
                    "or store it where workers can fetch it and pass its location. Nothing was stored or invoked"
                )

    def _check_payloads(self, callset: Callset, payloads: Payloads) -> int:
        """Return the size of the largest payload; 0 if nothing limits it."""
        limit = self.invoker.payload_limit
        if limit is None:
            return 0
        # Other differences between the payloads of a map are small, so encoding the largest payload is enough.
        largest = max(payloads.own, key=lambda call_id: _own_size(payloads.own[call_id]))
        size = len(json.dumps(payloads.whole(callset, largest), default=str))
        if size + _PAYLOAD_HEADROOM > limit:
            raise ArgumentError(
                f"the payload of call {largest} has {size:,} bytes, but the service accepts "
                f"at most {limit:,}: put less into extra_env and extra_meta. Nothing was invoked"
            )
        return size

    def _invoke(self, origin: StagedCallset, driver: Driver, invocations: Invocations, watcher: Invoking) -> None:
        callset = origin.callset

        def begun() -> None:
            # What the first calls take decides how many the next invocations have. If there are too many threads, that
            # is not known, and each call is alone.
            if driver.policy.chunksize is None:
                with contextlib.suppress(RuntimeError):
                    origin.watch()

        try:
            with watcher:  # its end removes the bar before anything below writes to the same terminal
                invocations.run(watcher, begun)
        except BaseException as error:
            invoked, total = driver.count_accepted(), driver.counts().total
            if invoked:
                uncertain = invocations.uncertain
                logger.warning(
                    "callset %s: %d of %d calls were invoked before map() was stopped%s; they keep running%s",
                    callset.id, invoked - uncertain, total,
                    f", and {uncertain} more may have been" if uncertain else "", _how_to_stop(callset, error),
                )  # fmt: skip
            raise


def _needs_single_calls(submission: Submission) -> bool:
    """Tell whether each call of a map that leaves the size of chunks to pywren has an invocation of its own."""
    policy, options = submission.policy, submission.options
    # Other processes resume the calls of a job one by one. Backups, and tests that change payloads, are about attempts
    # of single calls. And who forbids repeats expects that one dead worker costs one call.
    others = policy.backup or policy.retries == 0 or options.get("name") is not None
    return bool(others or options.get("overwrite_invoke_args"))


def _how_to_stop(callset: Callset, error: BaseException) -> str:
    """Say how to reach calls of a map that was stopped, whose futures the program never gets."""
    if callset.name is not None:
        return f": collect them with pywren.attach({callset.name!r}), or stop them with pywren.jobs.cancel()"
    # After Ctrl-C the executor keeps the calls; see Executor._submit().
    return ": executor.cancel_all() stops them" if isinstance(error, KeyboardInterrupt) else ""


class _ArgumentStager:
    """Decides where each argument of a callset is stored, and stores it there.

    Args:
        storage: the storage.
        submission: the callset and its arguments.
        following: the calls whose inputs are not known yet.
    """

    def __init__(self, storage: Storage, submission: Submission, following: Container[str]) -> None:
        self._storage = storage
        self._submission = submission
        self._callset = submission.callset
        self._following = following
        self._references = _References(storage, submission.callset)

    def stage(self) -> dict[str, dict[str, Any]]:
        """Store the arguments. Return the fields that are each call's own, by their ids."""
        arguments = self._submission.arguments
        apart = not self._submission.options.get("data_all_as_one", True)
        inline = [not apart and len(packed.data) <= INLINE_ARGUMENT_LIMIT for packed in arguments]
        rest = [index for index, inside in enumerate(inline) if not inside]
        together = not apart and sum(len(arguments[i].data) for i in rest) <= MAX_AGG_DATA_SIZE
        started = time.time()
        placed = self._put_together(rest) if together else self._put_apart(rest)
        self._callset.facts.update(
            agg_data=together,
            data_size_bytes=sum(len(packed.data) for packed in arguments),
            data_upload_timestamp=started,
            data_upload_time=time.time() - started,
        )
        own = {
            create_call_id(index): placed.get(index) or {"data_inline": packed.data}
            for index, packed in enumerate(arguments)
        }
        for index, inputs in enumerate(self._submission.inputs):
            call_id = create_call_id(index)
            if inputs and call_id not in self._following:
                own[call_id].update(self._references.members(call_id, inputs))
        return own

    def _put_together(self, indices: Sequence[int]) -> dict[int, dict[str, Any]]:
        if not indices:
            return {}
        arguments = [self._submission.arguments[index].data for index in indices]
        key = self._callset.keys.aggdata
        joined, ranges = agg_data(arguments)
        # One PUT for a whole map: S3 charges by the request, and a range of one object is as fast to read as an object.
        self._storage.put(key, joined)
        return {
            index: {"data_key": key, "data_byte_range": span, "data_sha256": sha256(data), "data_size": len(data)}
            for index, span, data in zip(indices, ranges, arguments, strict=True)
        }

    def _put_apart(self, indices: Sequence[int]) -> dict[int, dict[str, Any]]:
        def put(index: int) -> None:
            key = self._callset.call_keys(create_call_id(index)).data
            self._storage.put(key, self._submission.arguments[index].data)

        # Each helper thread writes other keys. If one fails, nothing has been invoked, and what is stored is never
        # read.
        for_each(put, indices, self._submission.options.get("invoke_pool_threads", 64))
        return {
            index: {
                "data_sha256": sha256(self._submission.arguments[index].data),
                "data_size": len(self._submission.arguments[index].data),
            }
            for index in indices
        }


class _References:
    """Makes the references that are sent in place of the futures among the arguments of a callset.

    Args:
        storage: the storage that the workers read.
        callset: the callset.
    """

    def __init__(self, storage: Storage, callset: Callset) -> None:
        self._storage = storage
        self._callset = callset

    def payload(self, call_id: str, inputs: Sequence[ResponseFuture]) -> dict[str, Any]:
        """Return what ``members`` returns in the form of a payload."""
        return encode_fields(self.members(call_id, inputs))

    def members(self, call_id: str, inputs: Sequence[ResponseFuture]) -> dict[str, Any]:
        """Return the fields of a ``Call`` that refer to the outcomes of some calls, all of which have ended.

        Raises:
            StorageError: something could not be stored.
        """
        references = tuple(self._reference(call_id, number, one) for number, one in enumerate(inputs))
        # Lambda takes 1 MB of payload. So many references go into an object, whose digest the payload carries.
        if len(references) <= INLINE_REFERENCES:
            return {"references": references}
        data = encode_references(references)
        self._storage.put(self._callset.call_keys(call_id).references, data)
        return {"references_sha256": sha256(data), "references_size": len(data)}

    def _reference(self, call_id: str, number: int, one: ResponseFuture) -> Reference:
        """Return a reference to a future's outcome. If it is not in this storage, store a copy of it for this call."""
        verdict = call_state.verdict_of(one)
        status = call_state.stored_status(one) if verdict is None else verdict.source
        if isinstance(status, Status) and status.failure is None and one.storage_path == self._storage.path:
            if one._origin is not None and one._origin.callset.deletion is not None:
                # Keeps the directory, and not the value, until this call has ended (``StagedCallset._settle``).
                self._callset.inputs.setdefault(call_id, []).append(one._origin.callset)
            if status.output_sha256 is not None and status.output_key:
                members = status.output_key, status.output_sha256, one.callset_id, one.call_id, status.output_size
                return Reference(*members)
            if status.outcome is not None:
                key = status.page or self._earlier_status_key(one)
                return Reference(key, sha256(status.outcome), one.callset_id, one.call_id, len(status.outcome))
        # On the program's thread and without a lock: pickling runs the user's code.
        data = encoded(verdict or Verdict())
        key = self._callset.call_keys(call_id).input(number)
        self._storage.put(key, data)
        return Reference(key, sha256(data), one.callset_id, one.call_id, len(data))

    def _earlier_status_key(self, one: ResponseFuture) -> str:
        return self._storage.keys(one.callset_id).call(one.call_id).status


def _delete_own(pid: int, storage: Storage, callset_id: str) -> None:
    # Finalizers are copied by fork(2) and run in the child too.
    if pid == os.getpid():  # a forked child must leave the parent's directories alone
        storage.delete_callset(callset_id)


def _runtime_members(runtime: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members of the payload that name the user's own runtime.

    Raises:
        ConfigError: the SHA-256 of the runtime is unknown. Workers extract nothing that they cannot verify.
    """
    if not has_own_runtime(runtime):
        return {}
    named = {key: value for key, value in runtime.items() if key not in ("preinstalls", "urls")}
    url = f"s3://{runtime['s3_bucket']}/{runtime['s3_key']}"
    size = runtime.get("archive_size")  # descriptions that pywren did not write lack it
    known = {"runtime_size": size} if type(size) is int and size > 0 else {}
    return {"runtime": named, "runtime_url": url, "runtime_sha256": required_sha256(runtime), **known}


def _shards_of(runtime: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the URLs from which calls fetch the runtime in turn. Any copies in its description share the load."""
    urls = [str(url) for url in runtime.get("urls") or ()] if has_own_runtime(runtime) else []
    first = random.randrange(len(urls)) if urls else 0  # otherwise all maps of a single call would fetch the same copy
    return [{"runtime_url": url} for url in urls[first:] + urls[:first]] or [{}]


def _reporting(policy: Policy) -> dict[str, bool]:
    """Return the members of the payload that say what the worker is to report under the key of the attempt."""
    if not policy.retries:
        return {"beacon": True}
    return {"beacon": True, "retryable": True, "retry_exceptions": bool(policy.retry_on)}


def _own_size(payload: Mapping[str, Any]) -> int:
    """Count the characters of the members whose size differs between the payloads of a map."""
    references = payload.get("references") or ()
    return len(payload.get("data_inline") or "") + sum(len(str(part)) for parts in references for part in parts)


def agg_data(data_strs: Sequence[bytes]) -> tuple[bytes, list[tuple[int, int]]]:
    """Join byte strings. Return the joined bytes, and the first and last offset (both inclusive) of each string."""
    ranges = []
    position = 0
    for piece in data_strs:
        ranges.append((position, position + len(piece) - 1))
        position += len(piece)
    return b"".join(data_strs), ranges
