"""Named jobs: calls that are found again, in another process or on another machine.

::

    pwex.map(simulate, seeds, name="night-7")      # today, on the laptop

    futures = pywren.attach("night-7")             # tomorrow, anywhere with the configuration and the user's key

A job is a callset to which ``Executor.map`` or ``call_async`` gave a name. The storage keeps it for as long as its
results.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pywren import wrenconfig
from pywren.client import jobs
from pywren.exceptions import ArgumentError
from pywren.future import ResponseFuture
from pywren.storage import Storage
from pywren.wren import configuration, lambda_executor, local_executor, remote_executor

if TYPE_CHECKING:
    from pywren.executor import Executor

__all__ = ["JobSummary", "attach", "cancel", "list_jobs", "remove", "resume"]


class JobSummary(NamedTuple):
    """A named job, and how far it is.

    Args:
        name: its name.
        callset_id: the callset that it names.
        submitted: when it was made, by the storage's clock, in seconds since the epoch.
        age: seconds since then.
        total: how many calls it has.
        done: how many calls have returned a value.
        failed: how many calls have ended in another way: with an error, or cancelled.
        outstanding: how many calls have not ended.
        where: where its calls run, in words.
    """

    name: str
    callset_id: str
    submitted: float
    age: float
    total: int
    done: int
    failed: int
    outstanding: int
    where: str


def attach(
    name: str, *, config: Mapping[str, Any] | None = None, storage: Storage | None = None
) -> list[ResponseFuture]:
    """Return the futures of a named job.

    This works in any process and on any machine that can reach the storage and has the key of the user who made the
    job. The key is the file ``key`` in pywren's directory, ``~/.pywren`` or ``PYWREN_HOME``.

    Args:
        name: the name that ``map`` or ``call_async`` gave the job.
        config: the configuration; ``None`` reads the file. If there is no file, jobs of this machine are meant.
        storage: the storage, instead of that of the configuration; for example ``executor.storage``.

    Returns:
        One future for each call, in the order of the map.

    Raises:
        ArgumentError: there is no such job, or it has expired. The message names similar names.
        IntegrityError: the record of the job is not signed with the key of this user.
        DecodeError: another version of pywren has made the job in a form that this version cannot read.
        StorageError: the storage could not be read.
    """
    return jobs.find(_storage(config, storage), name).futures()


def list_jobs(*, config: Mapping[str, Any] | None = None, storage: Storage | None = None) -> list[JobSummary]:
    """Return this user's jobs that have not expired, the oldest first.

    This reads the status of each call that has ended, which takes one request for each call.

    Args:
        config: the configuration, as for ``attach``.
        storage: the storage, as for ``attach``.

    Raises:
        StorageError: the storage could not be read.
    """
    return [_summary(job) for job in jobs.all_jobs(_storage(config, storage))]


def cancel(name: str, *, config: Mapping[str, Any] | None = None, storage: Storage | None = None) -> int:
    """Cancel all calls of a job that have not ended. Do nothing if all have ended.

    Args:
        name: the name of the job.
        config: the configuration, as for ``attach``.
        storage: the storage, as for ``attach``.

    Returns:
        How many calls were cancelled.

    Raises:
        PywrenError: as for ``attach``.
    """
    return jobs.find(_storage(config, storage), name).cancel()


def remove(name: str, *, config: Mapping[str, Any] | None = None, storage: Storage | None = None) -> int:
    """Cancel a job, delete its function, arguments and results, and free its name.

    Args:
        name: the name of the job.
        config: the configuration, as for ``attach``.
        storage: the storage, as for ``attach``.

    Returns:
        How many calls were cancelled.

    Raises:
        PywrenError: as for ``attach``.
    """
    return jobs.find(_storage(config, storage), name).remove()


def resume(
    name: str,
    *,
    extra_env: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    executor: Executor | None = None,
) -> list[ResponseFuture]:
    """Run the calls of a job again that failed, were cancelled, or have not ended because their client is gone.

    Nothing is pickled or uploaded again: the calls take the function and the arguments that were stored for them. A
    call that has not ended may still be running somewhere, so it may run twice; the first result counts.

    Args:
        name: the name of the job.
        extra_env: the environment variables of the calls. They must be given again if ``map`` had any, because the
            storage does not keep their values.
        config: the configuration, as for ``attach``.
        executor: the executor that invokes the calls; by default a new one, whose calls run where the job's ran.

    Returns:
        One future for each call, in the order of the map. Futures that have already shown a failure keep it.

    Raises:
        ArgumentError: there is no such job, another client drives it, or ``extra_env`` lacks a variable.
        VersionMismatchError: the job was made with another version of pywren.
        PywrenError: as for ``attach``, and what ``map`` raises when it invokes calls.
    """
    storage = executor.storage if executor is not None else _storage(config, None)
    job = jobs.find(storage, name)
    if executor is None:
        executor = _executor_for(job, configuration(config))
    return executor.resume_job(job, extra_env)


def _executor_for(job: jobs.Job, config: Mapping[str, Any]) -> Executor:
    where = job.record.where
    if job.is_here:
        return local_executor(config=config)
    elsewhere = {**config, "account": {**(config.get("account") or {}), "aws_region": where.get("region")}}
    if where.get("kind") == "lambda":
        section = {
            **(config.get("lambda") or {}),
            "function_name": where.get("function"),
            "copies": where.get("copies", 1),
        }
        return lambda_executor(config={**elsewhere, "lambda": section})
    if where.get("kind") == "queue":
        section = {**(config.get("standalone") or {}), "sqs_queue_name": where.get("queue")}
        return remote_executor(config={**elsewhere, "standalone": section})
    raise ArgumentError(
        f"the calls of the job {job.name!r} were started by {where.get('invoker')}, an invoker of your program's own: "
        "pass an executor with such an invoker to pywren.resume()"
    )


def _storage(config: Mapping[str, Any] | None, storage: Storage | None) -> Storage:
    if storage is not None:
        return storage
    return Storage(wrenconfig.extract_storage_config(configuration(config)))


def _summary(job: jobs.Job) -> JobSummary:
    total, done, failed = progress = job.progress()
    return JobSummary(
        job.name,
        job.record.callset_id,
        job.record.submitted,
        job.age,
        total,
        done,
        failed,
        progress.outstanding,
        job.place(),
    )
