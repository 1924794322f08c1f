"""Functions that make executors. Each executor determines where its calls run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from pywren import wrenconfig
from pywren.client.driver.capacity import USUAL_CONCURRENCY
from pywren.client.pool_executor import ExecutorAdapter, checked_max_workers, checked_setup, has_verbs, workers_of
from pywren.exceptions import ArgumentError, ConfigError
from pywren.wait import ALL_COMPLETED, ALWAYS, ANY_COMPLETED, get_all_results, wait

__all__ = [
    "ALL_COMPLETED",
    "ALWAYS",
    "ANY_COMPLETED",
    "PoolExecutor",
    "default_executor",
    "dummy_executor",
    "get_all_results",
    "lambda_executor",
    "local_executor",
    "remote_executor",
    "standalone_executor",
    "wait",
]

if TYPE_CHECKING:
    from pywren.client.protocols import Verbs
    from pywren.executor import Executor
    from pywren.invokers import LocalInvoker
    from pywren.pickling.adapters import Setup
    from pywren.worker.parent.lifetime import Use
    from pywren.worker.parent.pool import LocalPool

logger = logging.getLogger(__name__)

EXECUTOR_VARIABLE = "PYWREN_EXECUTOR"


def default_executor(**kwargs: Any) -> Executor:
    """Make the executor that the environment selects.

    The environment variable ``PYWREN_EXECUTOR`` names the executor: ``lambda``, ``remote`` (or ``standalone``),
    ``dummy`` or ``local``. If this variable is not set, calls go to AWS Lambda if there is a configuration. They run on
    this machine if there is no configuration, or if the configuration contains ``storage_backend: localhost``.

    Args:
        kwargs: passed to the function that makes the executor: ``config`` and ``job_max_runtime``.

    Raises:
        ConfigError: ``PYWREN_EXECUTOR`` has another value, or the configuration is missing or wrong.
    """
    checked = _checked(kwargs.pop("config", None))
    return _default_factory(checked)(config=checked, **kwargs)


def _default_factory(checked: _Checked) -> Callable[..., Executor]:
    """Return the function that makes the default executor."""
    name = os.environ.get(EXECUTOR_VARIABLE)
    if name:
        factory = _FACTORIES.get(name)
        if factory is None:
            raise ConfigError(f"{EXECUTOR_VARIABLE} is {name!r}; set it to one of {', '.join(_FACTORIES)}, or unset it")
        return factory
    if not checked.stays_here:
        return lambda_executor
    if checked.source.embedded:  # a user who has written this setting, into a file or an argument, knows it
        _say_where()
    return local_executor


def lambda_executor(config: Mapping[str, Any] | None = None, job_max_runtime: float = 280) -> Executor:
    """Make an executor whose calls run on AWS Lambda.

    Args:
        config: the configuration; ``None`` reads the file.
        job_max_runtime: seconds after which a call is stopped; Lambda itself allows up to 900.

    Raises:
        ConfigError: there is no configuration, it is wrong, or no region is set in it, in the environment or in the AWS
            profile.
    """
    from pywren.invokers import LambdaInvoker

    config = _config_for_aws(config, "lambda_executor")
    region = wrenconfig.setting(config, "account.aws_region")
    function, copies, fan_out = (
        wrenconfig.setting(config, f"lambda.{key}") for key in ("function_name", "copies", "fan_out")
    )
    invoker = LambdaInvoker(region, function, copies=copies, fan_out=fan_out)
    invoker.queue_patience = wrenconfig.setting(config, "lambda.event_age")
    return _executor(invoker, config, job_max_runtime)


def dummy_executor(config: Mapping[str, Any] | None = None, job_max_runtime: float = 300) -> Executor:
    """Make an executor that keeps its calls until ``executor.invoker.run_jobs()`` runs them on this machine.

    Args:
        config: the configuration; ``None`` reads the file. If there is no file, calls are staged on this machine.
        job_max_runtime: seconds after which a call is stopped.

    Raises:
        ConfigError: the configuration is wrong.
    """
    from pywren.invokers import DummyInvoker

    return _executor(DummyInvoker(), _checked(config).config, job_max_runtime)


def remote_executor(config: Mapping[str, Any] | None = None, job_max_runtime: float = 3600) -> Executor:
    """Make an executor whose calls go to stand-alone workers through an SQS queue.

    Args:
        config: the configuration; ``None`` reads the file.
        job_max_runtime: seconds after which a call is stopped.

    Raises:
        ConfigError: there is no configuration, it is wrong, or no region is set in it, in the environment or in the AWS
            profile.
    """
    from pywren.queues import SQSInvoker

    config = _config_for_aws(config, "remote_executor")
    region = wrenconfig.setting(config, "account.aws_region")
    invoker = SQSInvoker(region, wrenconfig.require(config, "standalone.sqs_queue_name"))
    return _executor(invoker, config, job_max_runtime)


standalone_executor = remote_executor


def local_executor(
    invoker_object: Any = None, config: Mapping[str, Any] | None = None, job_max_runtime: float = 300
) -> Executor:
    """Make an executor whose calls run on this machine, in separate processes.

    Without a configuration everything stays in memory. If the configuration has a bucket, calls are staged in the
    bucket, as in 0.4. Calls get the environment variables that this process has now, even if it changes them later.

    Args:
        invoker_object: an invoker to use instead of a new ``LocalInvoker``.
        config: the configuration; ``None`` reads the file, if there is one.
        job_max_runtime: seconds after which a call is stopped.

    Raises:
        ConfigError: the configuration is wrong, or this machine runs Windows.
    """
    config = _checked(config).config
    if invoker_object is None:
        from pywren.worker.parent.pool import LocalPool

        LocalPool.shared()  # the first process of the pool starts while this process is still importing
        from pywren.invokers import LOCAL_RUN_DIR, LocalInvoker

        invoker_object = LocalInvoker(run_dir=wrenconfig.setting(config, "local_run_dir") or LOCAL_RUN_DIR)
    return _executor(invoker_object, config, job_max_runtime)


class PoolExecutor(ExecutorAdapter):
    """A ``concurrent.futures.Executor`` whose workers are pywren's.

    For programs written for ``ProcessPoolExecutor``, whose arguments it takes. No ``if __name__ == "__main__"`` guard
    is needed. On this machine the pool shares the worker processes of all executors, unless its arguments ask for
    other processes: then it has processes of its own.

    Args:
        max_workers: how many calls may be in flight; more calls wait in this process. By default on this machine as
            many as there are worker processes. Elsewhere by default ``scheduler.max_concurrency``; without that, if the
            pool makes its own executor, the account's concurrency (``lambda.concurrency``), or 1,000 if it is unknown.
        mp_context: has no effect; accepted for programs that pass it. Worker processes are always new interpreters, as
            with multiprocessing's "spawn".
        initializer: called once in each worker process, before the first call. Global variables, the environment and
            other state of the process that it sets stay for the calls of this pool. On Lambda and in a queue, a process
            runs calls of one ``submit`` or ``map``. If the initializer raises, the pool takes no more calls.
        initargs: the arguments of ``initializer``.
        max_tasks_per_child: how many calls a worker process runs before another one replaces it; ``None`` for no limit.
        executor: the executor to use, which stays open; ``None`` makes ``pywren.default_executor()``. An executor may
            also take the place of ``max_workers``.

    Raises:
        ArgumentError: ``max_workers`` or ``max_tasks_per_child`` is less than 1, or ``executor`` is not an executor. It
            is a ``ValueError``.
        TypeError: an argument has the wrong type.
        ConfigError: as for ``default_executor``.
    """

    def __init__(
        self,
        max_workers: int | Verbs | None = None,
        mp_context: object = None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        *,
        max_tasks_per_child: int | None = None,
        executor: Verbs | None = None,
    ) -> None:
        if executor is None and has_verbs(max_workers):
            executor, max_workers = cast("Verbs", max_workers), None
        if executor is not None and not has_verbs(executor):
            raise ArgumentError(f"executor is {executor!r}; pass a pywren executor, such as pywren.local_executor()")
        most = checked_max_workers(max_workers)
        setup = checked_setup(initializer, initargs, max_tasks_per_child)
        chosen = self._default(most, setup) if executor is None else self._adapted(executor, most, setup)
        super().__init__(chosen, is_own=chosen is not executor, max_workers=workers_of(chosen), setup=setup)

    # The processes that this pool alone uses.
    _own_pool: LocalPool | None = None
    _use: Use[LocalPool] | None = None

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Accept no more calls.

        Args:
            wait: return only when all calls have ended and, if the pool has processes of its own, these too.
            cancel_futures: cancel the calls that are not known to be running.
        """
        super().shutdown(wait, cancel_futures=cancel_futures)
        if self._own_pool is not None and self._use is not None:
            self._use.end()
            if wait:
                self._own_pool.retire()

    def _default(self, most: int | None, setup: Setup | None) -> Executor:
        """Make the default executor, with a bound of what is in flight."""
        checked = _checked(None)
        factory = _default_factory(checked)
        if factory is local_executor:
            from pywren.worker.parent.pool import usual_processes

            usual = usual_processes()
            needs_own = setup is not None or most not in (None, usual)
            return factory(self._own_processes(most or usual) if needs_own else None, checked)
        if factory is lambda_executor and most is None:
            most = wrenconfig.setting(checked.config, "lambda.concurrency") or USUAL_CONCURRENCY
        return factory(config=checked._replace(config=_bounded(checked.config, most)))

    def _adapted(self, executor: Verbs, most: int | None, setup: Setup | None) -> Verbs:
        """Return the executor, or one like it that bounds what is in flight or has processes of its own."""
        from pywren.executor import Executor
        from pywren.invokers import LocalInvoker

        if most is None and setup is None:
            return executor
        if not isinstance(executor, Executor):
            if most is None:
                return executor
            raise ArgumentError(f"max_workers bounds only pywren's own executors, and {executor!r} is none of them")
        invoker, config = executor.invoker, _bounded(executor.config, most)
        if isinstance(invoker, LocalInvoker):
            size = invoker.pool.size
            if setup is None and most == size:
                return executor
            own = self._own_processes(most or size)
            own.environment = invoker.environment
            invoker, config = own, executor.config
        elif most is None:
            return executor
        made = Executor(invoker, config, executor.job_max_runtime)
        made.retries, made.retry_on = executor.retries, executor.retry_on
        return made

    def _own_processes(self, count: int) -> LocalInvoker:
        """Start processes that run this pool's calls only, until it is shut down or gone."""
        from pywren.invokers import LocalInvoker
        from pywren.worker.parent.lifetime import Use
        from pywren.worker.parent.pool import LocalPool

        self._own_pool = pool = LocalPool(count)
        self._use = Use(self, pool)
        return LocalInvoker(pool=pool)


def _bounded(config: Mapping[str, Any], most: int | None) -> Mapping[str, Any]:
    """Return a configuration with at most so many calls in flight."""
    if most is None:
        return config
    known = wrenconfig.setting(config, "scheduler.max_concurrency") or most
    return {**config, "scheduler": {**(config.get("scheduler") or {}), "max_concurrency": min(most, known)}}


def configuration(config: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
    """Return the configuration that an executor would use.

    Args:
        config: the configuration; ``None`` reads the file. If there is no file, everything is on this machine.

    Raises:
        ConfigError: the configuration is wrong.
    """
    return _checked(config).config


def _executor(invoker: Any, config: Mapping[str, Any], job_max_runtime: float) -> Executor:
    from pywren.executor import Executor

    return Executor(invoker, config, job_max_runtime)


_FACTORIES: Mapping[str, Callable[..., Executor]] = {
    "lambda": lambda_executor,
    "remote": remote_executor,
    "standalone": standalone_executor,
    "dummy": dummy_executor,
    "local": local_executor,
}


class _Checked(NamedTuple):
    """A checked configuration.

    Args:
        config: the configuration.
        source: where it was found.
    """

    config: Mapping[str, Any]
    source: wrenconfig.Source

    @property
    def stays_here(self) -> bool:
        """Whether calls can run only on this machine, because they are staged where no other machine can read."""
        return bool(wrenconfig.setting(self.config, "storage_backend") == "localhost")


def _checked(config: Mapping[str, Any] | _Checked | None) -> _Checked:
    """Check the configuration that was passed as an argument, or read the default configuration."""
    if isinstance(config, _Checked):  # ``default_executor`` has already read it
        return config
    source = wrenconfig.find_source(config)
    if config is None:
        return _Checked(wrenconfig.embedded() if source.path is None else wrenconfig.load(source.path), source)
    if not isinstance(config, Mapping):
        raise ArgumentError(
            f"config is a {type(config).__name__}; pass a dict like the one that pywren.wrenconfig.load() returns"
        )
    wrenconfig.validate(config, str(source))
    return _Checked(config, source)


def _config_for_aws(config: Mapping[str, Any] | None, who: str) -> Mapping[str, Any]:
    """Return the configuration for an executor whose workers are other machines. The result always has a region."""
    checked = _checked(config)
    if checked.source.embedded:
        raise ConfigError(
            f"{who}() needs a configuration, and none was found: run `pywren create_config`, which writes "
            "~/.pywren_config. To run on this machine, use default_executor() or local_executor()"
        )
    if checked.stays_here:
        raise ConfigError(
            f"{checked.source}: storage_backend is localhost, which the workers of {who}() cannot reach: set "
            "`s3: bucket` instead (`pywren create_config` makes such a configuration). To run on this machine, use "
            "default_executor() or local_executor()"
        )
    if wrenconfig.setting(checked.config, "account.aws_region") is not None:
        return checked.config
    account = {**(checked.config.get("account") or {}), "aws_region": _region_of_environment(checked.source)}
    return {**checked.config, "account": account}


def _region_of_environment(source: wrenconfig.Source) -> str:
    """Return the region that AWS's own tools would use. It is needed if the configuration has no region."""
    from pywren.aws.requests import AWS

    region = os.environ.get("AWS_REGION")  # botocore ignores this variable, but other tools prefer it
    region = region or os.environ.get("AWS_DEFAULT_REGION") or AWS().configured_region()
    if not region:
        raise ConfigError(
            f"{source}: `account: aws_region` is missing: set it to a region such as us-west-2, or set AWS_REGION"
        )
    wrenconfig.check_value("account.aws_region", region, "the environment or the AWS profile")
    return region


_said_where = False


def _say_where() -> None:
    global _said_where
    if not _said_where:
        _said_where = True
        logger.warning(
            "no configuration: calls run on this machine. To use AWS Lambda, run `pywren-setup`, which writes a "
            "configuration and creates the AWS resources that it names. To silence this notice, use "
            "pywren.local_executor()"
        )
