"""Named jobs: ``publish`` makes a callset known under a name, and ``Job`` is what finds it again.

``publish`` runs on the thread that calls ``map``, after everything is staged and before anything is invoked. All other
functions run on the threads of the program that looks for a job, often on another machine. Helper threads
(``for_each``) only send requests. No lock is held here.

A record is believed only if it is signed with a key that is derived from the user's key, so nobody else can make a
client invoke or unpickle anything. The manifest is verified by the digest in the record before it is read.
"""

from __future__ import annotations

import difflib
import logging
import os
import shlex
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pywren.client.callset import Callset
from pywren.client.elsewhere import copies_in, origin_for
from pywren.client.lease import STALE, Lease, held
from pywren.client.presence import announce, client_file, client_of
from pywren.client.protocols import Invoker
from pywren.exceptions import (
    ArgumentError,
    DecodeError,
    IntegrityError,
    StorageNoSuchKeyError,
    VersionMismatchError,
)
from pywren.future import ResponseFuture, futures_of
from pywren.storage import Storage
from pywren.system.home import home_path, user_key
from pywren.system.threads import for_each
from pywren.version import PYTHON, __version__
from pywren.wire.call import Call
from pywren.wire.digests import sha256, verify_sha256
from pywren.wire.keys import job_key, jobs_prefix
from pywren.wire.lease import Holder
from pywren.wire.manifest import (
    ATTEMPTS_EACH,
    RECORD_LIMIT,
    RESUMPTION_LIMIT,
    JobRecord,
    Manifest,
    Place,
    Resumption,
    reference_members,
    shared_members,
)
from pywren.wire.outcome import Outcome
from pywren.wire.status import Status
from pywren.wrenutil import create_call_id

logger = logging.getLogger(__name__)

PIECE = 32 * 1024 * 1024
"""The most bytes of arguments that are joined to one object, unless a single argument is longer."""

_PATIENCE = 5.0  # seconds in which a child that a client was starting when it was killed has come to run its program
_THREADS = 32  # enough to hide the latency of S3, as in client.staged_calls
_PLAIN = (str, int, float, bool, type(None))


class Resumer(Protocol):
    """Invokes stored calls again: what ``Job.resume`` needs of a dispatcher."""

    def resume(
        self,
        callset: Callset,
        template: Call,
        own: Mapping[str, Mapping[str, Any]],
        call_ids: Sequence[str],
        lease: Lease,
    ) -> list[ResponseFuture]:
        """Invoke some calls of a callset again, and return the futures of all its calls.

        Args:
            callset: the callset. Failures of attempts before ``callset.first_attempt`` do not count.
            template: what the calls share. Their function and arguments are stored.
            own: further fields of the calls to invoke, by their ids.
            call_ids: the ids of all calls of the callset, in order.
            lease: the lease on the callset, which this client has just acquired and must renew.
        """


class Progress(NamedTuple):
    """How far a job is.

    Args:
        total: how many calls it has.
        done: how many calls have returned a value.
        failed: how many have ended in another way: with an error, or cancelled.
    """

    total: int
    done: int
    failed: int

    @property
    def outstanding(self) -> int:
        """How many calls have not ended."""
        return self.total - self.done - self.failed


# -- making a job --------------------------------------------------------------------------------------------------


def require_free(storage: Storage, name: str) -> None:
    """Check that no job has a name. ``publish`` checks it again; this spares the staging of a map in vain.

    Raises:
        ArgumentError: the name is not valid, or is taken. The message says since when, and what to do.
    """
    key = job_key(storage.prefix, name)
    try:
        job = _found(storage, key, name)
    except StorageNoSuchKeyError:
        return
    except (IntegrityError, DecodeError) as error:
        raise ArgumentError(
            f"the name {name!r} is taken in {storage!r} by a job that this user cannot read ({error}): choose another "
            "name. Nothing was invoked"
        ) from error
    if job.exists():
        raise ArgumentError(
            f"the name {name!r} is taken: {job.description()}. Collect its results with pywren.attach({name!r}), "
            f"run what failed or is missing again with `pywren resume {shlex.quote(name)}`, choose another name, or "
            f"delete the job with `pywren cancel --remove {shlex.quote(name)}`. Nothing was invoked"
        )


def publish(storage: Storage, callset: Callset, calls: Sequence[Call], *, name: str, invoker: Invoker) -> None:
    """Make a staged callset known under a name. Call this after staging, and before the first invocation.

    Args:
        storage: where the callset is staged.
        callset: the callset; its ``name`` is set, and its directory on this machine is not deleted any more.
        calls: all its calls, in order, as they were staged. Arguments inside the payloads are stored here.
        name: the name, as ``require_free`` checked it.
        invoker: starts the calls.

    Raises:
        ArgumentError: another client has taken the name meanwhile.
        StorageError: something could not be stored.
    """
    where = _whereabouts(invoker)
    data = _manifest(storage, callset, calls, invoker).encode()
    storage.put(callset.keys.manifest, data)
    record = JobRecord(
        name=name,
        callset_id=callset.id,
        submitted=storage.now(),
        calls=len(calls),
        where=where,
        manifest_sha256=sha256(data),
        manifest_size=len(data),
        pywren_version=__version__,
        python_version=PYTHON,
    )
    # Before the record: whoever finds the record must find this client alive.
    if where["kind"] == _HERE:
        _announce(storage, callset)
    _put_record(storage, job_key(storage.prefix, name), name, record.encode(user_key()))
    callset.name = name
    if callset.deletion is not None:
        callset.deletion.detach()


def _put_record(storage: Storage, key: str, name: str, data: bytes) -> None:
    # Conditional: of two clients that take a name at the same time, one gets it.
    if storage.put(key, data, if_absent=True):
        return
    require_free(storage, name)
    # The record of a job whose objects have expired. Two clients may both come here; the one that is overwritten sees
    # that now, unless the other one was slower than the next request.
    storage.put(key, data)
    if storage.get(key, limit=RECORD_LIMIT) != data:
        raise ArgumentError(f"another client has just taken the name {name!r}: choose another. Nothing was invoked")


def _manifest(storage: Storage, callset: Callset, calls: Sequence[Call], invoker: Invoker) -> Manifest:
    stored = _store_inline(storage, callset, calls)
    references = {number: members for number, call in enumerate(calls) if (members := reference_members(call))}
    return Manifest(
        shared=shared_members(calls[0]),
        places=[stored.get(number) or _place(callset, call) for number, call in enumerate(calls)],
        references=references,
        # Only the names: the values may be secrets, and no secret is stored.
        env_names=sorted(calls[0].extra_env or ()),
        queue_patience=invoker.queue_patience,
        function=invoker.function_name,
        modules=sorted(callset.modules),
        facts={key: value for key, value in callset.facts.items() if isinstance(value, _PLAIN)},
    )


def _place(callset: Callset, call: Call) -> Place:
    digest, size = bytes.fromhex(call.data_sha256 or ""), call.data_size or 0
    if call.data_byte_range is not None:
        return Place(call.data_key, call.data_byte_range[0], size, digest)
    return Place(None, 0, size, digest)


def _store_inline(storage: Storage, callset: Callset, calls: Sequence[Call]) -> dict[int, Place]:
    """Store the arguments that are inside the payloads, many in one object, and return where they are."""
    places: dict[int, Place] = {}
    pieces: list[list[bytes]] = []
    room = 0
    for number, call in enumerate(calls):
        data = call.data_inline
        if data is None:
            continue
        if len(data) > room:
            pieces.append([])
            room = PIECE
        key, start = callset.keys.stored_arguments(len(pieces) - 1), PIECE - room
        places[number] = Place(key, start, len(data), bytes.fromhex(sha256(data)))
        pieces[-1].append(data)
        room -= len(data)

    def put(index: int) -> None:
        storage.put(callset.keys.stored_arguments(index), b"".join(pieces[index]))

    for_each(put, range(len(pieces)), _threads(storage))
    return places


# -- where a job runs ------------------------------------------------------------------------------------------------

_HERE = "here"


def _whereabouts(invoker: Invoker) -> dict[str, Any]:
    known = invoker.config()
    if invoker.function_name is not None:
        where = {"kind": "lambda", "function": known.get("lambda_function_name"), "region": known.get("region_name")}
        return {**where, "copies": known["lambda_copies"]} if "lambda_copies" in known else where
    if "sqs_queue_name_name" in known:
        return {"kind": "queue", "queue": known["sqs_queue_name_name"], "region": known.get("region_name")}
    if invoker.runs_here:
        return {"kind": _HERE, "host": socket.gethostname(), "pid": os.getpid()}
    return {"kind": "other", "invoker": type(invoker).__name__}


def _announce(storage: Storage, callset: Callset) -> None:
    path = client_file(storage, callset)
    if path is not None:
        announce(path, Path(storage.path[1], ".pywren-incoming"))


def _threads(storage: Storage) -> int:
    return 1 if storage.path[0] == "localhost" else _THREADS


# -- finding jobs ----------------------------------------------------------------------------------------------------


def find(storage: Storage, name: str) -> Job:
    """Return the job with a name.

    Raises:
        ArgumentError: there is no such job, or it has expired.
        IntegrityError: its record is not signed with the key of this user.
        DecodeError: another version of pywren has written its record.
    """
    try:
        job = _found(storage, job_key(storage.prefix, name), name)
    except StorageNoSuchKeyError:
        raise ArgumentError(_unknown(storage, name)) from None
    except IntegrityError as error:
        raise IntegrityError(
            f"the job {name!r} in {storage!r} cannot be read: {error}. If you made it on another machine, copy the "
            f"file `key` from pywren's directory there (~/.pywren) to {home_path()}"
        ) from error
    if not job.exists():
        raise ArgumentError(f"the job {name!r} has expired: its objects in {storage!r} were deleted. Run it again")
    return job


def all_jobs(storage: Storage) -> list[Job]:
    """Return this user's jobs that have not expired, the oldest first."""
    found: list[Job] = []

    def read(key: str) -> None:
        try:
            job = _found(storage, key)
            if job.exists():
                found.append(job)  # atomic; for_each() has joined its helpers when this list is read
        except StorageNoSuchKeyError:  # removed since the listing
            pass
        except (IntegrityError, DecodeError) as error:
            logger.debug("the record %s is ignored: %s", key, error)

    for_each(read, storage.backend.list(jobs_prefix(storage.prefix)), _threads(storage))
    return sorted(found, key=lambda job: (job.record.submitted, job.name))


def _found(storage: Storage, key: str, name: str | None = None) -> Job:
    record = JobRecord.verify(storage.get(key, limit=RECORD_LIMIT), user_key())
    # Somebody could have copied the record of one job to the key of another.
    if job_key(storage.prefix, record.name) != key or name not in (None, record.name):
        raise IntegrityError(f"it is the record of the job {record.name!r}")
    return Job(storage, record)


def _unknown(storage: Storage, name: str) -> str:
    names = [job.name for job in all_jobs(storage)]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else "; `pywren jobs` lists the jobs that exist"
    return f"there is no job {name!r} in {storage!r}{hint}"


class Job:
    """A named job that exists in a storage.

    Args:
        storage: where it is.
        record: its record, verified.
    """

    def __init__(self, storage: Storage, record: JobRecord) -> None:
        self.storage = storage
        self.record = record

    @property
    def name(self) -> str:
        """The name of the job."""
        return self.record.name

    @property
    def is_here(self) -> bool:
        """Whether the calls run in the process that made or resumed the job."""
        return self.record.where.get("kind") == _HERE

    @property
    def age(self) -> float:
        """Seconds since the job was made, by the storage's clock."""
        return max(0.0, self.storage.now() - self.record.submitted)

    @property
    def call_ids(self) -> list[str]:
        """The ids of all calls, in order."""
        return [create_call_id(number) for number in range(self.record.calls)]

    def place(self) -> str:
        """Return where the calls run, in words."""
        where = self.record.where
        texts = {
            "lambda": f"function {where.get('function')} in {where.get('region')}",
            "queue": f"queue {where.get('queue')} in {where.get('region')}",
            _HERE: f"process {where.get('pid')} on {where.get('host')}",
        }
        return texts.get(str(where.get("kind")), "a program's own invoker")

    def description(self) -> str:
        """Return a sentence part about the job: its size, and when it was made."""
        calls = "1 call" if self.record.calls == 1 else f"{self.record.calls:,} calls"
        made = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(self.record.submitted))
        return f"a job of {calls} was made at {made} UTC"

    def exists(self) -> bool:
        """Tell whether the objects of the job still exist."""
        key = self.storage.keys(self.record.callset_id).manifest
        return key in self.storage.backend.list(key)

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest, verified.

        Raises:
            StorageError: it cannot be read, or is not the one that was written.
            DecodeError: another version of pywren has written it.
        """
        key = self.storage.keys(self.record.callset_id).manifest
        data = self.storage.get(key, limit=self.record.manifest_size)
        verify_sha256(data, self.record.manifest_sha256, f"the manifest of the job {self.name!r}")
        return Manifest.decode(data)

    @property
    def _bare_callset(self) -> Callset:
        """The callset as far as the record describes it: enough for its keys and its secret."""
        return Callset(self.storage.prefix, self.record.callset_id, submitted=self.record.submitted, name=self.name)

    def callset(self) -> Callset:
        """Return the callset as it is since it was last resumed.

        Raises:
            StorageError: the storage could not be read.
        """
        manifest, resumed = self.manifest, self._last_resumption()
        return replace(
            self._bare_callset,
            submitted=self.record.submitted if resumed is None else resumed.at,
            first_attempt=1 if resumed is None else _first_attempt(resumed),
            job_max_runtime=manifest.job_max_runtime,
            queue_patience=manifest.queue_patience,
            function=manifest.function,
            copies=copies_in(manifest.facts),
            modules=frozenset(manifest.modules),
            facts=dict(manifest.facts),
        )

    # -- collecting ------------------------------------------------------------------------------------------------

    def futures(self) -> list[ResponseFuture]:
        """Return the futures of all calls, in order.

        Raises:
            StorageError: the storage could not be read.
        """
        callset = self.callset()
        client, alive = self._client(callset)
        origin = origin_for(callset, self.storage, client, alive)
        # An origin that this process had already may be from before the last resumption. Each assignment is atomic.
        origin.callset.submitted = max(origin.callset.submitted, callset.submitted)
        origin.callset.first_attempt = max(origin.callset.first_attempt, callset.first_attempt)
        return futures_of(origin, self.call_ids)

    def _client(self, callset: Callset) -> tuple[str | None, Callable[[], bool] | None]:
        """Return how to find out whether the process that runs the calls is alive: a file, or a function."""
        if not self.is_here:
            return None, None
        path = client_file(self.storage, callset)
        return (None, _Driven(self.storage, callset)) if path is None else (str(path), None)

    def progress(self) -> Progress:
        """Return how many calls have ended, and how. This reads the status of every call that has ended.

        Raises:
            StorageError: the storage could not be read.
        """
        ended = self._ended()
        done = sum(ended.values())
        return Progress(self.record.calls, done, len(ended) - done)

    def _ended(self) -> dict[str, bool]:
        """Return for each call that has ended whether it returned a value."""
        callset, known = self._bare_callset, set(self.call_ids)
        ended: dict[str, bool] = {}

        def read(call_id: str) -> None:
            try:
                data = self.storage.read_status(callset.id, call_id)
            except IntegrityError:  # it is longer than any status
                ended[call_id] = False
                return
            if data is not None:
                ended[call_id] = _succeeded(data, callset, call_id)

        # Each helper thread writes other keys.
        finished = [one for one in self.storage.finished_calls(callset.id) if one in known]
        for_each(read, finished, _threads(self.storage))
        return ended

    def cancel(self) -> int:
        """Cancel the calls that have not ended. Return how many were cancelled.

        Raises:
            StorageError: the storage could not be read or written.
        """
        futures = self.futures()
        ended = set(self.storage.finished_calls(self.record.callset_id))
        cancelled: list[bool] = []  # append is atomic

        def cancel(future: ResponseFuture) -> None:
            cancelled.append(future.cancel())

        for_each(cancel, [one for one in futures if one.call_id not in ended], _threads(self.storage))
        return sum(cancelled)

    def remove(self) -> int:
        """Cancel the calls that have not ended, and free the name. Return how many calls were cancelled.

        The objects of the job are deleted. If calls had to be cancelled, only the function and the arguments are: the
        workers need the statuses to notice that they must stop. The rest expires.
        """
        cancelled = self.cancel()
        keys = self.storage.keys(self.record.callset_id)
        found = self.storage.backend.list(keys.root)
        own = [key for key in found if not cancelled or "/" not in key[len(keys.root) :]]
        self.storage.backend.delete([job_key(self.storage.prefix, self.name), keys.manifest])
        self.storage.backend.delete([key for key in own if key != keys.manifest])
        return cancelled

    # -- resuming --------------------------------------------------------------------------------------------------

    def holder(self, callset: Callset, patience: float = 0.0) -> Holder | None:
        """Return which client drives the job; ``None`` if none does. For ``patience``, see ``client_of``."""
        path = client_file(self.storage, callset) if self.is_here else None
        if path is None:
            return held(self.storage, callset)
        client = client_of(path, patience)
        return None if client is None else Holder("here", socket.gethostname(), client.pid, client.since, time.time())

    def resume(
        self, resumer: Resumer, invoker: Invoker, extra_env: Mapping[str, str] | None = None
    ) -> list[ResponseFuture]:
        """Run the calls again that have failed, were cancelled or have not ended, with what was staged for them.

        Args:
            resumer: invokes the calls.
            invoker: what it invokes them with; it must reach the same workers as the one that the job was made with.
            extra_env: the environment variables of the calls, if they had any: their values are not stored.

        Returns:
            The futures of all calls, in order. Futures elsewhere that have seen a failure keep it; all others get the
            new outcome.

        Raises:
            ArgumentError: another client drives the job, ``extra_env`` lacks a variable, or the invoker is another.
            VersionMismatchError: the job was made with another version of pywren.
            StorageError: the storage could not be read or written.
        """
        callset, ended = self.callset(), self._ended()
        again = [number for number, call_id in enumerate(self.call_ids) if not ended.get(call_id)]
        if not again:
            return self.futures()
        where = self._checked_place(invoker)
        environment = self._environment(extra_env)
        self._check_version()
        lease = self._take_lease(callset, outstanding=len(ended) < self.record.calls)
        try:
            callset = self._claim(callset, where)
            if self.is_here:
                _announce(self.storage, callset)
            self._make_way([call_id for call_id, succeeded in ended.items() if not succeeded])
            storage_config = self.storage.get_storage_config()
            template = replace(self.manifest.template(storage_config, callset.id), extra_env=environment)
            own = {create_call_id(number): self._own(callset, number) for number in again}
            return resumer.resume(callset, template, own, self.call_ids, lease)
        except BaseException:
            lease.release()
            raise

    def _checked_place(self, invoker: Invoker) -> Mapping[str, Any]:
        where, made = _whereabouts(invoker), self.record.where
        # Of calls that run in their client, the process and the host may be others than before.
        if where["kind"] != made.get("kind") or (not self.is_here and where != made):
            raise ArgumentError(
                f"the calls of the job {self.name!r} run in this place: {self.place()}. Resume it with an executor "
                "whose calls run there"
            )
        return where

    def _environment(self, extra_env: Mapping[str, str] | None) -> Mapping[str, str] | None:
        missing = sorted(set(self.manifest.env_names) - set(extra_env or ()))
        if missing:
            raise ArgumentError(
                f"the calls of the job {self.name!r} have environment variables, whose values are not stored: pass "
                f"{', '.join(missing)} again, in extra_env or with `pywren resume --env NAME=VALUE`"
            )
        return extra_env

    def _check_version(self) -> None:
        made = self.record.pywren_version, self.record.python_version
        here = __version__, PYTHON if self.is_here else self.record.python_version
        if made != here:
            raise VersionMismatchError(
                f"the job {self.name!r} was made with pywren {made[0]} and Python {made[1]}, but this is pywren "
                f"{__version__} with Python {PYTHON}: resume it with the versions that it was made with"
            )

    def _take_lease(self, callset: Callset, *, outstanding: bool) -> Lease:
        """Become the client that drives the job.

        Args:
            callset: the callset.
            outstanding: whether calls have not ended. Otherwise a client that made the job, and has not written a lease
                or runs the calls itself, has nothing left to drive.

        Raises:
            ArgumentError: another client drives it.
        """
        path = client_file(self.storage, callset) if self.is_here else None
        holder = self.holder(callset, _PATIENCE)
        if holder is not None and (outstanding or (path is None and holder.id)):
            raise self._driven_by(holder)
        lease = Lease(self.storage, callset)
        # On this machine, a lock that is gone shows at once that the holder is dead.
        dead = path is not None and holder is None
        # A client whose calls have all ended releases its lease a moment after it has shown their outcomes.
        for delay in (0.0,) if outstanding else (0.1, 0.4, 1.5, 0.0):
            if lease.acquire(over_any=dead):
                return lease
            time.sleep(delay)
        raise self._driven_by(held(self.storage, callset))

    def _driven_by(self, holder: Holder | None) -> ArgumentError:
        since = "" if holder is None else time.strftime(" since %Y-%m-%d %H:%M:%S UTC", time.gmtime(holder.since))
        # On this machine the kernel releases the lock of a client that ends.
        then = "end that client" if self.is_here else f"resume it {STALE / 60:.0f} minutes after that client has ended"
        return ArgumentError(
            f"the job {self.name!r} is driven by {holder or 'another client'}{since}. That client runs failed calls "
            f"again by itself: wait for the job with pywren.attach({self.name!r}), or {then}. Nothing was invoked"
        )

    def _claim(self, callset: Callset, where: Mapping[str, Any]) -> Callset:
        """Take the number of this resumption, and return the callset as it is from now on.

        Args:
            callset: the callset as it was until now.
            where: where its calls run from now on.

        Raises:
            ArgumentError: another client has taken the number at the same time.
        """
        prefix = callset.keys.resumptions
        taken = set(self.storage.backend.list(prefix))
        number = (callset.first_attempt - 1) // ATTEMPTS_EACH + 1
        while _resumption_key(prefix, number) in taken:  # forged: it was not found to be the last one
            number += 1
        resumption = Resumption(number, self.storage.now(), f"process {os.getpid()} on {socket.gethostname()}")
        data = resumption.encode(callset.known_secret())
        if not self.storage.put(_resumption_key(prefix, number), data, if_absent=True):
            raise ArgumentError(f"another client resumes the job {self.name!r} at this moment. Nothing was invoked")
        # Written again: its age is that of the last resumption for `pywren gc` and for the rules of the bucket.
        self.record = replace(self.record, where=where)
        self.storage.put(job_key(self.storage.prefix, self.name), self.record.encode(user_key()))
        return replace(callset, submitted=resumption.at, first_attempt=_first_attempt(resumption))

    def _last_resumption(self) -> Resumption | None:
        callset = self._bare_callset
        for key in sorted(self.storage.backend.list(callset.keys.resumptions), reverse=True):
            try:
                found = Resumption.verify(self.storage.get(key, limit=RESUMPTION_LIMIT), callset.known_secret())
            except (IntegrityError, DecodeError) as error:
                logger.debug("the record %s is ignored: %s", key, error)
                continue
            if key == _resumption_key(callset.keys.resumptions, found.number):
                return found
        return None

    def _make_way(self, failed: Iterable[str]) -> None:
        """Delete the statuses of calls that failed: the first status that is written after this ends its call."""
        # Futures that have not seen such a status find the call outstanding from now on, and get its new outcome.
        self.storage.backend.delete([self.storage.keys(self.record.callset_id).call(one).status for one in failed])

    def _own(self, callset: Callset, number: int) -> dict[str, Any]:
        return {"attempt": callset.first_attempt, **self.manifest.own(number)}


class _Driven:
    """Tells whether any client drives a callset, with at most one request in some seconds. Only polls call it."""

    _EVERY = 15.0

    def __init__(self, storage: Storage, callset: Callset) -> None:
        self._storage, self._callset = storage, callset
        self._asked, self._answer = -self._EVERY, True

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._asked >= self._EVERY:
            self._answer = held(self._storage, self._callset) is not None
            self._asked = now
        return self._answer


def _succeeded(data: bytes, callset: Callset, call_id: str) -> bool:
    """Tell whether the status of a call can be believed and reports a value."""
    try:
        status = Status.verify(data, callset.known_secret(), callset.id, call_id)
        if not status.signed or status.failure is not None:
            return False
        if status.outcome is not None:
            return Outcome.decode(status.outcome).success
    except DecodeError:
        return False
    # The outcome is in an object of its own, which need not be read for this.
    return status.output_sha256 is not None and status.exception_traceback is None


def _resumption_key(prefix: str, number: int) -> str:
    return f"{prefix}{number:06d}.json"  # six digits, so that the keys are listed in order


def _first_attempt(resumption: Resumption) -> int:
    return resumption.number * ATTEMPTS_EACH + 1
