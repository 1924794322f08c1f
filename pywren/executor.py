"""``Executor``: maps functions over data and returns futures."""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, overload

from pywren import wrenconfig
from pywren.client import arguments, call_state, waiting
from pywren.client.arguments import CallOptions, MapOnlyOptions
from pywren.client.call_output import show_output as show_output_of
from pywren.client.call_state import CallState
from pywren.client.callset import Callset, Submission
from pywren.client.driver.budget import Budget
from pywren.client.driver.capacity import USUAL_CONCURRENCY
from pywren.client.driver.policy import Policy
from pywren.client.grouping import members_by_group
from pywren.client.inputs import Inputs
from pywren.client.jobs import Job
from pywren.client.protocols import Dispatcher, Invoker, Origin, adapted
from pywren.client.routes import make_dispatcher
from pywren.client.staging import StagedDispatcher, agg_data
from pywren.client.typevars import A, B, HasOutcome, T
from pywren.client.verbs import MoreVerbs
from pywren.cloud.prices import billing_of, tariff_of
from pywren.display import progress as bars
from pywren.exceptions import ArgumentError, StorageError
from pywren.future import ResponseFuture
from pywren.pickling.adapters import Application, Initialized, Reduction, is_adapter
from pywren.pickling.mentions import Mentions
from pywren.pickling.packed import Scalars
from pywren.runtime import check_runtime, get_runtime_info
from pywren.serialize import Serializer
from pywren.serialize._skew import warn_of_skew
from pywren.storage import Storage
from pywren.system import shutdown
from pywren.wait import cancel_each, list_of, wait
from pywren.wire.call import Call

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from pywren.display.estimate import Estimate
    from pywren.display.objects import MapState

logger = logging.getLogger(__name__)

SHOW_OUTPUT_VARIABLE = "PYWREN_SHOW_OUTPUT"
"""The environment variable that, set to any value, shows the output of local calls, as ``local: show_output`` does."""


_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class Executor(MoreVerbs):
    """Maps functions over data on the workers that its invoker reaches.

    Usually ``pywren.default_executor()`` creates it. Threads may share an executor. It is also a context manager.

    Args:
        invoker: starts the calls: an object with ``invoke(payload)`` and ``config()``.
        config: the configuration, a nested dict as ``wrenconfig.load`` returns it.
        job_max_runtime: seconds after which a call is stopped; may be changed later.

    Raises:
        ArgumentError: ``job_max_runtime`` is not a positive number.
        ConfigError: the configuration is wrong, or its runtime is missing or made for another Python or architecture.
    """

    # The futures to keep within a ``with`` block, whose end waits for them, and after a Ctrl-C during ``map``. In the
    # class, because __enter__ of an executor that was just unpickled comes before __init__.
    _kept: set[CallState] | None = None

    def __init__(self, invoker: Any, config: Mapping[str, Any], job_max_runtime: float) -> None:
        self.invoker = invoker
        self.config = config
        self.storage_config = wrenconfig.extract_storage_config(config)
        self.storage = Storage(self.storage_config)
        self.map_item_limit: int | None = wrenconfig.setting(config, "scheduler.map_item_limit")
        wrenconfig.warn_of_public_runtime(config)
        runtime_config = config.get("runtime") or {}
        self.runtime_meta_info = get_runtime_info(runtime_config)
        self._calls_to = adapted(invoker)  # ``self.invoker`` remains the object that the program passed
        check_runtime(self.runtime_meta_info, _architecture_of_workers(self._calls_to, config))
        self._runtime = {**runtime_config, "urls": self.runtime_meta_info.get("urls")}
        shown = bool(os.environ.get(SHOW_OUTPUT_VARIABLE)) or wrenconfig.setting(config, "local.show_output")
        self._dispatcher = make_dispatcher(self._calls_to, self.storage, self._runtime, show_output=shown)
        self._stager = self._dispatcher if isinstance(self._dispatcher, StagedDispatcher) else None
        # Weak: a callset lives as long as its futures, or as its calls run on this machine.
        self._callsets: weakref.WeakSet[Callset] = weakref.WeakSet()
        self.job_max_runtime = job_max_runtime
        # An executor that was unpickled has these already when it is initialized (``_made_later``).
        self._retries: int = self.__dict__.get("_retries", wrenconfig.setting(config, "scheduler.retries"))
        self._retry_on: tuple[type[BaseException], ...] = self.__dict__.get("_retry_on", ())
        self._max_concurrency: int | None = wrenconfig.setting(config, "scheduler.max_concurrency")
        self._concurrency: int | None = wrenconfig.setting(config, "lambda.concurrency")
        self._said: set[str] = set()
        self._progress: bars.Choice = wrenconfig.setting(config, "scheduler.progress")
        bars.from_environment()  # a wrong value is refused here rather than in the middle of a wait
        self.serializer = _make_serializer(self._calls_to, self.runtime_meta_info)

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickle only how to make the executor, so that objects that hold one can be sent to workers and use it there.
        settings = {"_retries": self._retries, "_retry_on": self._retry_on}
        return _made_later, (type(self), (self.invoker, self.config, self._job_max_runtime), settings)

    def __repr__(self) -> str:
        from pywren.display.objects import executor_text  # imported here, as few programs look at an executor

        return executor_text(*self._shown())

    def _repr_html_(self) -> str:
        """Return what a notebook shows: how far the maps are whose futures the program has, and their first errors."""
        from pywren.display.objects import executor_html

        return executor_html(*self._shown())

    def _shown(self) -> tuple[str, str, list[MapState]]:
        from pywren.display.objects import states_of

        # An executor that was just unpickled is not initialized by somebody who only looks at it.
        if "_recipe" in self.__dict__ or "_dispatcher" not in self.__dict__:
            return type(self).__name__, "that was not used yet", []
        return type(self).__name__, self._place(), states_of(self._origins())

    def _place(self) -> str:
        function = self._calls_to.function_name
        if function is not None:
            return f"in the Lambda function {function}"
        queue = self.invoker.config().get("sqs_queue_name_name")
        here = "on this machine" if self._calls_to.runs_here else "on workers"
        return here if queue is None else f"on the workers of the queue {queue}"

    def __getattr__(self, name: str) -> Any:
        # Python calls this for a missing attribute. An executor that was just unpickled lacks all attributes.
        recipe = self.__dict__.get("_recipe")
        if recipe is None or name.startswith(("__", "_repr_", "_ipython_")):  # notebooks ask for such names
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        # Two threads may both do this; both then have a complete executor. A lock would be held during requests.
        self.__init__(*recipe)  # type: ignore[misc]
        self.__dict__.pop("_recipe", None)
        return getattr(self, name)

    @property
    def job_max_runtime(self) -> float:
        """How many seconds a call may run before it is stopped; may be infinite for calls on this machine."""
        return self._job_max_runtime

    @job_max_runtime.setter
    def job_max_runtime(self, seconds: float) -> None:
        self._job_max_runtime = arguments.checked_runtime(seconds, self._dispatcher.longest_runtime)

    @property
    def retries(self) -> int:
        """How many times a call that failed is tried again, unless a map says otherwise; see ``map``."""
        return self._retries

    @retries.setter
    def retries(self, retries: int) -> None:
        self._retries = arguments.checked_retries(retries)

    @property
    def retry_on(self) -> tuple[type[BaseException], ...]:
        """The exceptions after which a call is tried again, unless a map says otherwise; see ``map``."""
        return self._retry_on

    @retry_on.setter
    def retry_on(self, retry_on: type[BaseException] | Iterable[type[BaseException]]) -> None:
        self._retry_on = arguments.checked_errors(retry_on)

    # -- making calls ------------------------------------------------------------------------------------------

    @overload  # an ``async def`` function: its coroutine's value is the result
    def map(
        self,
        func: Callable[[A], Coroutine[Any, Any, T]],
        iterdata: Iterable[A],
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, Any] | None = None,
        invoke_pool_threads: int = 64,
        data_all_as_one: bool = True,
        use_cached_runtime: bool = True,
        overwrite_invoke_args: Mapping[str, Any] | None = None,
        exclude_modules: Iterable[str] | None = None,
        **options: Unpack[MapOnlyOptions],
    ) -> list[ResponseFuture[T]]: ...

    @overload
    def map(
        self,
        func: Callable[[A], T],
        iterdata: Iterable[A],
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, Any] | None = None,
        invoke_pool_threads: int = 64,
        data_all_as_one: bool = True,
        use_cached_runtime: bool = True,
        overwrite_invoke_args: Mapping[str, Any] | None = None,
        exclude_modules: Iterable[str] | None = None,
        **options: Unpack[MapOnlyOptions],
    ) -> list[ResponseFuture[T]]: ...

    def map(
        self,
        func: Callable[[Any], Any],
        iterdata: Iterable[Any],
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, Any] | None = None,
        invoke_pool_threads: int = 64,
        data_all_as_one: bool = True,
        use_cached_runtime: bool = True,
        overwrite_invoke_args: Mapping[str, Any] | None = None,
        exclude_modules: Iterable[str] | None = None,
        *,
        retries: int | None = None,
        retry_on: type[BaseException] | Iterable[type[BaseException]] | None = None,
        backup: bool = False,
        name: str | None = None,
        progress: bool | str = "auto",
        show_output: bool = False,
        job_max_runtime: float | None = None,
        memory: int | None = None,
        timeout: float | None = None,
        budget: float | None = None,
        chunksize: int | Literal["auto"] = "auto",
    ) -> list[ResponseFuture]:
        """Call a function once for every item, in parallel.

        Args:
            func: takes one item.
            iterdata: the items: anything that ``iter()`` accepts. All items are taken before anything is invoked. If an
                item contains futures, its call is held until they are done, and the worker receives finished futures.
            extra_env: environment variables for the calls.
            extra_meta: further members for the payloads; must be encodable as JSON.
            invoke_pool_threads: how many calls to invoke in parallel, at most 256.
            data_all_as_one: store small arguments together; with False each argument gets its own object.
            use_cached_runtime: let a worker use the runtime that it extracted for an earlier call.
            overwrite_invoke_args: members of the payload to replace just before the call is invoked; for tests.
            exclude_modules: strings; a module is not sent if the path of its file contains one of them.
            retries: how many times a call that failed is tried again, besides the attempts that the platform took away;
                by default ``scheduler.retries`` (2). With 0, a call that may have started is never started again.
            retry_on: the classes of exceptions after which a call is tried again; the function may then run several
                times. By default none, or ``Exception`` if ``retries`` is given.
            backup: start a second attempt of calls that take over three times as long as the others.
            name: a name under which ``pywren.attach`` finds the calls again, from any process and machine.
            progress: whether ``wait`` and ``get_all_results`` show a bar for these calls: True, False, or ``"auto"``,
                which leaves it to ``PYWREN_PROGRESS`` and ``scheduler.progress``; see ``pywren.wait``.
            show_output: print what each call prints, each line with the ids of callset and call. In memory on this
                machine, lines appear while the call runs; elsewhere, the last 32 KB of each stream appear as soon as
                the outcome of the call is known.
            job_max_runtime: seconds after which each of these calls is stopped, since it began; by default, the
                executor's.
            memory: megabytes that each call needs. The memory of a Lambda function is set when it is deployed, so more
                than it has is an error. Elsewhere this has no effect.
            timeout: seconds after which all calls that have not ended are stopped, since the map was submitted, if the
                program still runs then. They end with a ``CallTimeoutError``.
            budget: what the calls may cost, in US dollars. When it is spent, calls that were not invoked end with a
                ``BudgetExceededError``, and no call is tried again; those in flight go on. What calls in flight cost is
                estimated. On this machine, and with a dummy executor, this has no effect.
            chunksize: how many calls share an invocation of Lambda, whose worker runs them one after the other; see
                docs/chunks.md. Each call still has its own future, attempts, time limit and error. By default pywren
                decides, once it has seen how long the first calls take: short calls share invocations if there are
                many, and with ``retries=0`` none do. Where an invocation costs nothing, as in the memory of this
                machine, or takes one call only, this has no effect.

        Returns:
            One future for each item, in order; ``[]`` for no items.

        Raises:
            ArgumentError: there are more items than ``scheduler.map_item_limit`` or 10,000,000, ``extra_meta``
                clashes with a member of the payload or cannot be encoded as JSON, a payload is too large, ``memory`` is
                more than there is, or ``chunksize`` is above 1 and each call needs an invocation of its own
                (``backup``, ``name``, ``overwrite_invoke_args``). This error is a ``ValueError``; nothing was invoked.
            ConfigError: ``budget`` is given, and a price is unknown; nothing was invoked.
            SerializationError: the function or an item cannot be sent; nothing was invoked.
            StorageError: something could not be stored; nothing was invoked.
            InvocationError: a call was refused.
        """
        size = arguments.checked_chunksize(
            chunksize,
            backup=backup,
            name=name is not None,
            overwrite_invoke_args=overwrite_invoke_args,
            extra_meta="chunk" in (extra_meta if isinstance(extra_meta, Mapping) else ()),
        )
        items = arguments.consume(iterdata, self.map_item_limit)
        options = {
            "chunksize": size,
            "invoke_pool_threads": invoke_pool_threads,
            "data_all_as_one": data_all_as_one,
            "use_cached_runtime": use_cached_runtime,
            "overwrite_invoke_args": overwrite_invoke_args,
            "name": name,
            "progress": bars.preferred(progress, self._progress),
            "show_output": show_output,
        }
        policy = self._policy(
            retries, retry_on, backup, job_max_runtime=job_max_runtime, memory=memory, timeout=timeout, budget=budget
        )
        return self._submit(func, items, extra_env, extra_meta, exclude_modules, options, policy)

    @overload
    def call_async(
        self,
        func: Callable[[A], Coroutine[Any, Any, T]],
        data: A,
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, Any] | None = None,
        *,
        retries: int | None = None,
        retry_on: type[BaseException] | Iterable[type[BaseException]] | None = None,
        name: str | None = None,
        show_output: bool = False,
        job_max_runtime: float | None = None,
        memory: int | None = None,
        timeout: float | None = None,
    ) -> ResponseFuture[T]: ...

    @overload
    def call_async(
        self,
        func: Callable[[A], T],
        data: A,
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, Any] | None = None,
        *,
        retries: int | None = None,
        retry_on: type[BaseException] | Iterable[type[BaseException]] | None = None,
        name: str | None = None,
        show_output: bool = False,
        job_max_runtime: float | None = None,
        memory: int | None = None,
        timeout: float | None = None,
    ) -> ResponseFuture[T]: ...

    def call_async(
        self,
        func: Callable[[Any], Any],
        data: Any,
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, Any] | None = None,
        *,
        retries: int | None = None,
        retry_on: type[BaseException] | Iterable[type[BaseException]] | None = None,
        name: str | None = None,
        show_output: bool = False,
        job_max_runtime: float | None = None,
        memory: int | None = None,
        timeout: float | None = None,
    ) -> ResponseFuture:
        """Call a function once, on a worker.

        Args:
            func: takes ``data``.
            data: the argument of ``func``.
            extra_env: environment variables for the call.
            extra_meta: further members for the payload.
            retries: see ``map``.
            retry_on: see ``map``.
            name: see ``map``.
            show_output: see ``map``.
            job_max_runtime: see ``map``.
            memory: see ``map``.
            timeout: see ``map``.

        Raises:
            PywrenError: as for ``map``.
        """
        policy = self._policy(retries, retry_on, job_max_runtime=job_max_runtime, memory=memory, timeout=timeout)
        options = {"name": name, "show_output": show_output}
        return self._submit(func, [data], extra_env, extra_meta, options=options, policy=policy)[0]

    @overload
    def reduce(
        self,
        function: Callable[[list[A]], Coroutine[Any, Any, T]],
        list_of_futures: Iterable[HasOutcome[A]],
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, Any] | None = None,
    ) -> ResponseFuture[T]: ...

    @overload
    def reduce(
        self,
        function: Callable[[list[A]], T],
        list_of_futures: Iterable[HasOutcome[A]],
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, Any] | None = None,
    ) -> ResponseFuture[T]: ...

    def reduce(
        self,
        function: Callable[[list[Any]], Any],
        list_of_futures: Iterable[HasOutcome[Any]],
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, Any] | None = None,
    ) -> ResponseFuture:
        """Call a function once, on a worker, with the list of the results of some futures, as soon as all are done.

        This method does not wait for the futures, except with a dummy executor. To programs written for 0.4, whose
        ``reduce`` waited, they have ended nevertheless: ``succeeded``, ``errored`` and ``run_status`` of an input wait
        for its outcome. Big results do not pass through this process if the workers can read them from the storage. If
        one of the calls failed, the new call fails with the same error when all have ended; if one was cancelled, so is
        the new call.

        Args:
            function: takes the list of results.
            list_of_futures: the futures.
            extra_env: environment variables for the call.
            extra_meta: further members for the payload.

        Raises:
            PywrenError: as for ``map``.
        """
        arguments.check_callable(function)
        futures = list_of(list_of_futures, "reduce()")
        if not self._calls_to.starts_calls:
            wait(futures)  # as in 0.4: the program's next run_jobs() then finds the call
        call_state.promise(futures)
        return self.call_async(Reduction(function), futures, extra_env, extra_meta)

    def estimate(
        self, func: Callable[[Any], Any], iterdata: Iterable[Any], sample: int = 10, *, progress: bool | str = "auto"
    ) -> Estimate:
        """Run a sample of the calls of a map, wait for it, and tell what the whole map would take and cost.

        Args:
            func: takes one item. It really runs, with whatever it does and costs.
            iterdata: the items of the map; all are taken.
            sample: how many calls to run. Their items are spread evenly over all items.
            progress: whether to show a bar meanwhile; see ``wait``.

        Returns:
            An object that prints, that notebooks show, and that has ``seconds``, ``dollars`` and ``to_dict()``.

        Raises:
            ArgumentError: there are no items, ``sample`` is not a positive whole number, or this executor's calls run
                only when the program runs them.
            PywrenError: as for ``map``. Calls of the sample that fail raise nothing; the estimate tells.
        """
        from pywren.display.estimate import Estimate, choose  # imported here, as few programs need them
        from pywren.display.summary import summary

        if not self._calls_to.starts_calls:
            raise ArgumentError("estimate() waits for calls, but those of this executor run only with run_jobs()")
        items = arguments.consume(iterdata, self.map_item_limit)
        chosen = choose(items, sample)
        logger.info("estimate: running a sample of %d of %d calls", len(chosen), len(items))
        futures = self.map(func, chosen, progress=progress)
        wait(futures)
        pool = self._calls_to.pool
        limits = (self._max_concurrency, self._concurrency, None if pool is None else pool.size)
        at_once = min((one for one in limits if one is not None), default=None)
        assumed = at_once is None and self._calls_to.function_name is not None
        return Estimate(summary(futures), len(items), USUAL_CONCURRENCY if assumed else at_once, assumed=assumed)

    @overload
    def map_reduce(
        self,
        func: Callable[[A], Coroutine[Any, Any, B]],
        iterdata: Iterable[A],
        reduce_func: Callable[[list[B]], Coroutine[Any, Any, T]],
        groups: Callable[[A], Hashable] | Callable[[A, int], Hashable] | Iterable[Hashable] | None = None,
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> list[ResponseFuture[T]]: ...

    @overload
    def map_reduce(
        self,
        func: Callable[[A], Coroutine[Any, Any, B]],
        iterdata: Iterable[A],
        reduce_func: Callable[[list[B]], T],
        groups: Callable[[A], Hashable] | Callable[[A, int], Hashable] | Iterable[Hashable] | None = None,
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> list[ResponseFuture[T]]: ...

    @overload
    def map_reduce(
        self,
        func: Callable[[A], B],
        iterdata: Iterable[A],
        reduce_func: Callable[[list[B]], Coroutine[Any, Any, T]],
        groups: Callable[[A], Hashable] | Callable[[A, int], Hashable] | Iterable[Hashable] | None = None,
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> list[ResponseFuture[T]]: ...

    @overload
    def map_reduce(
        self,
        func: Callable[[A], B],
        iterdata: Iterable[A],
        reduce_func: Callable[[list[B]], T],
        groups: Callable[[A], Hashable] | Callable[[A, int], Hashable] | Iterable[Hashable] | None = None,
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> list[ResponseFuture[T]]: ...

    def map_reduce(
        self,
        func: Callable[[Any], Any],
        iterdata: Iterable[Any],
        reduce_func: Callable[[list[Any]], Any],
        groups: Callable[..., Any] | Iterable[Any] | None = None,
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, Any] | None = None,
        *,
        retries: int | None = None,
        retry_on: type[BaseException] | Iterable[type[BaseException]] | None = None,
        job_max_runtime: float | None = None,
        memory: int | None = None,
        timeout: float | None = None,
        budget: float | None = None,
    ) -> list[ResponseFuture]:
        """Call a function for every item, and another function with the list of the results, each on a worker.

        This method waits for no call. The second function is called as soon as the results that it takes are there. Big
        results do not pass through this process if the workers can read them from the storage.

        Args:
            func: takes one item.
            iterdata: the items.
            reduce_func: takes a list of results, in the order of the items.
            groups: to which group each item belongs: a function that takes the item, or the item and its index; or a
                sequence with one key for each item. Keys must be hashable. By default all items are one group.
            extra_env: environment variables for all calls.
            extra_meta: further members for the payloads.
            retries: see ``map``.
            retry_on: see ``map``.
            job_max_runtime: see ``map``.
            memory: see ``map``.
            timeout: see ``map``; it holds for all calls, and counts from now.
            budget: see ``map``; it is one sum for all calls.

        Returns:
            One future for each group, in the order in which the groups first appear among the items. Without
            ``groups``, a list of one future.

        Raises:
            ArgumentError: ``groups`` does not have one key for each item.
            PywrenError: as for ``map``.
        """
        arguments.check_callable(reduce_func)
        items = arguments.consume(iterdata, self.map_item_limit)
        members = members_by_group(items, groups)
        policy = self._policy(
            retries, retry_on, job_max_runtime=job_max_runtime, memory=memory, timeout=timeout, budget=budget
        )
        mapped = self._submit(func, items, extra_env, extra_meta, policy=policy)
        inputs = [[mapped[index] for index in indices] for indices in members]
        return self._submit(Reduction(reduce_func), inputs, extra_env, extra_meta, policy=policy)

    def put(self, obj: Any) -> ResponseFuture:
        """Store an object once, for any number of calls, and return a reference to it.

        The reference is the future of a call that has returned the object. It may be an argument, or a part of one,
        wherever futures may be. A worker reads the object once, keeps it while it has room, and verifies its digest.
        The reference can be pickled and used in other processes and executors. The object as it is now is stored;
        later changes to it do not count. The storage deletes it when it deletes the results of calls of that age.

        Args:
            obj: the object: anything that can be an argument.

        Raises:
            ArgumentError: the object is too large for the storage.
            SerializationError: the object cannot be sent.
            StorageError: the object could not be stored.
        """
        shutdown.require_running()
        mentions = Mentions()
        inputs = Inputs(as_values=False, at_once=True, mentions=mentions)
        packed, modules = self.serializer.pack_object(obj, persistent_id=inputs.persistent_id, mentions=mentions)
        return self._dispatcher.put(self._new_callset(modules, job_max_runtime=0.0), packed)

    def resume_job(self, job: Job, extra_env: Mapping[str, str] | None = None) -> list[ResponseFuture]:
        """Run the calls of a named job again that have not returned a value. ``pywren.resume`` calls this.

        Args:
            job: the job, from this executor's storage.
            extra_env: the environment variables of the calls, if they had any.

        Raises:
            PywrenError: as for ``pywren.resume``.
        """
        shutdown.require_running()
        return job.resume(self._stage_calls(), self._calls_to, arguments.checked_env(extra_env))

    def get_logs(self, future: ResponseFuture, verbose: bool = True) -> list[tuple[int, str]]:
        """Return what a finished call wrote to the log of the Lambda function.

        Args:
            future: the future of one of this executor's calls. ``get_logs`` waits until the call has finished.
            verbose: whether to print the log as well.

        Returns:
            Pairs ``(milliseconds since the epoch, message)`` in order, from START to REPORT.

        Raises:
            ArgumentError: the call did not run on Lambda, so it has no log on Lambda.
        """
        from pywren.aws.requests import AWS
        from pywren.cloud.logs import call_logs

        wait([future])
        run_status = future.run_status or {}
        if not run_status.get("log_stream_name"):
            raise ArgumentError(
                f"{future!r} did not run on Lambda: its output is in run_status['stdout'] and ['stderr']"
            )
        aws = AWS(wrenconfig.setting(self.config, "account.aws_region"))
        try:
            events = call_logs(aws, run_status)
        finally:
            aws.close()
        if verbose:
            from click import echo

            echo("log events returned")
            for timestamp, message in events:
                echo(f"{timestamp} {message.strip()}")
        return events

    # -- kept for programs written for 0.4 -------------------------------------------------------------------------

    def put_data(self, data_key: str, data_str: bytes, callset_id: str, call_id: str) -> None:
        """Store a pickled argument. Kept for programs written for 0.4.

        Args:
            data_key: the key under which to store the argument.
            data_str: the pickled argument.
            callset_id: the callset of the call that takes the argument.
            call_id: the call that takes the argument.
        """
        self.storage.put_data(data_key, data_str)
        logger.debug("stored %d bytes for call %s of callset %s", len(data_str), call_id, callset_id)

    def invoke_with_keys(
        self,
        func_key: str,
        data_key: str,
        output_key: str,
        status_key: str,
        cancel_key: str,
        callset_id: str,
        call_id: str,
        extra_env: Mapping[str, str] | None,
        extra_meta: Mapping[str, Any] | None,
        data_byte_range: tuple[int, int] | None,
        use_cached_runtime: bool,
        host_job_meta: Mapping[str, Any],
        job_max_runtime: float,
        overwrite_invoke_args: Mapping[str, Any] | None = None,
    ) -> ResponseFuture:
        """Invoke one call whose function and argument the program itself has stored. Kept for programs written for 0.4.

        This method reads the function and the argument once to compute their digests, because workers unpickle nothing
        without a digest.

        Args:
            func_key: where the function is, as ``map`` stores it.
            data_key: where the argument is.
            output_key: where the worker writes a big outcome.
            status_key: where the worker writes the status.
            cancel_key: where PyWren 0.4 marked a call as cancelled.
            callset_id: the callset.
            call_id: the call.
            extra_env: environment variables for the call.
            extra_meta: further members for the payload.
            data_byte_range: the first and last offset of the argument in its object; ``None`` for the whole object.
            use_cached_runtime: let the worker use a runtime that it has extracted already.
            host_job_meta: further members of ``invoke_status``.
            job_max_runtime: seconds after which the call is stopped.
            overwrite_invoke_args: members of the payload to replace.

        Raises:
            ArgumentError: as for ``map``.
            StorageError: the function or the argument does not exist.
        """
        arguments.check_meta(extra_meta)
        job_max_runtime = arguments.checked_runtime(job_max_runtime, self._dispatcher.longest_runtime)
        callset = Callset(self.storage.prefix, callset_id, job_max_runtime=job_max_runtime)
        self._callsets.add(callset)
        callset.facts.update(self.invoker.config(), **host_job_meta)
        return self._stage_calls().invoke_stored(
            callset,
            Call(
                storage_config=self.storage_config,
                callset_id=callset_id,
                call_id=call_id,
                func_key=func_key,
                data_key=data_key,
                output_key=output_key,
                status_key=status_key,
                cancel_key=cancel_key,
                job_max_runtime=job_max_runtime,
                data_byte_range=data_byte_range,
                use_cached_runtime=use_cached_runtime,
                extra_env=arguments.checked_env(extra_env),
                extra=extra_meta or {},
            ),
            overwrite_invoke_args or {},
        )

    @staticmethod
    def agg_data(data_strs: Sequence[bytes]) -> tuple[bytes, list[tuple[int, int]]]:
        """Join byte strings end to end.

        Args:
            data_strs: the byte strings.

        Returns:
            The joined bytes, and the first and last offset (both inclusive) of each byte string in them.
        """
        return agg_data(data_strs)

    # -- stopping ------------------------------------------------------------------------------------------------

    def cancel_all(self) -> int:
        """Cancel all calls of this executor that have not ended: running, waiting, and still being invoked.

        It cancels the calls whose futures the program still has, and all calls in the memory of this machine. Calls
        that another thread makes meanwhile may be missed.

        Returns:
            How many calls were cancelled.

        Raises:
            StorageError: some calls could not be cancelled, because their storage cannot be written. The others were.
        """
        origins, count, trouble = self._origins(), 0, None
        # First what has not begun: the driver would invoke it as soon as cancelled calls make room.
        for origin in origins:
            try:
                count += origin.withdraw(record=True)
            except StorageError as error:
                trouble = error
        count += cancel_each(_outstanding_of(origins))
        if trouble is not None:
            raise trouble
        return count

    @property
    def _is_in_memory(self) -> bool:
        return self._dispatcher.out_of_band

    def _origins(self) -> list[Origin]:
        """Return the origins of the executor's futures, in the order of their maps."""
        while True:
            try:
                callsets = list(self._callsets)
                break
            except RuntimeError:  # another thread has made a callset meanwhile, and WeakSet has no lock
                continue
        callsets.sort(key=lambda callset: callset.submitted)
        found = [None if callset.origin is None else callset.origin() for callset in callsets]
        return [origin for origin in found if origin is not None]

    # -- closing -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Release the executor's resources; its futures remain usable. Garbage collection closes an executor too."""
        self._dispatcher.close()
        if self._stager is not None:
            self._stager.close()

    def __enter__(self) -> Self:
        if self._kept is None:
            self._kept = set()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Wait for the executor's calls, as the standard library's executors do, and close the executor.

        Calls of a ``dummy_executor`` are not waited for: they run only when the program runs them. After Ctrl-C nothing
        is waited for; calls that have not begun on this machine are cancelled. After another exception the calls are
        waited for too, and a line says so after 2 s.
        """
        try:
            if isinstance(error, KeyboardInterrupt):
                self._stop_waiting()
            elif self._calls_to.starts_calls:
                self._await_calls(error)
        finally:
            self._kept = None
            self.close()

    def _stop_waiting(self) -> None:
        if not shutdown.is_interrupted():
            waiting.stop_waiting(self._origins())
            return
        # The wait that Ctrl-C has interrupted in the block has said already what runs.
        for origin in self._origins():
            origin.withdraw()

    def _await_calls(self, error: BaseException | None) -> None:
        patience = None if error is None else shutdown.WARNING_SECONDS
        # In a loop, because callbacks may make more calls.
        while futures := _outstanding_of(self._origins()):
            _, left = wait(futures, timeout=patience)
            if left:
                calls = "1 call" if len(left) == 1 else f"{len(left)} calls"
                logger.warning(
                    "the block of the executor ended with %s; waiting for %s; press Ctrl-C to stop",
                    type(error).__name__, calls,
                )  # fmt: skip
                patience = None

    # -- inside ----------------------------------------------------------------------------------------------------

    def _submit(
        self,
        func: Callable[[Any], Any],
        items: list[Any],
        extra_env: Mapping[str, str] | None,
        extra_meta: Mapping[str, Any] | None,
        exclude_modules: Iterable[str] | None = None,
        options: Mapping[str, Any] = _NO_OPTIONS,
        policy: Policy | None = None,
    ) -> list[ResponseFuture]:
        shutdown.require_running()
        shutdown.go_on()
        arguments.check_callable(func)
        arguments.check_meta(extra_meta)
        if not items:
            return []
        # Only staged calls have payloads, whose members can be replaced, and can be found by others.
        staged = options.get("overwrite_invoke_args") or options.get("name") is not None
        dispatcher = self._stage_calls() if staged else self._dispatcher
        mentions = Mentions()
        as_values = is_adapter(func)
        # Other processes resume a named job, and the program itself lets calls of a dummy executor go: 0.4's verbs wait
        # for the futures among their arguments then.
        at_once = options.get("name") is not None or not (as_values or self._calls_to.starts_calls)
        inputs = Inputs(as_values=as_values, at_once=at_once, mentions=mentions)
        function, pickled, modules = self.serializer.pack_call(
            func,
            Scalars.of(items) or inputs.watch(items),
            out_of_band=dispatcher.out_of_band,
            persistent_id=inputs.persistent_id,
            exclude_modules=arguments.checked_excludes(exclude_modules),
            mentions=mentions,
        )
        if not self._dispatcher.out_of_band:  # otherwise calls run here, with this machine's packages
            warn_of_skew(mentions, self.runtime_meta_info)
        awaited = inputs.by_argument(len(pickled))
        policy = policy or self._policy()
        max_runtime = min(policy.job_max_runtime, dispatcher.longest_runtime)
        if (
            type(func) in (Application, Initialized)
            and len(pickled) == 1
            and not (awaited or modules or extra_env or extra_meta or staged)
        ):
            # Calls of submit() come one by one. Those of one function need not have a callset each.
            joined = dispatcher.join(function, pickled[0], policy, max_runtime)
            if joined is not None:
                return [joined]
        callset = self._new_callset(modules, max_runtime)
        callset.progress = options.get("progress", self._progress)
        submission = Submission(
            callset,
            function,
            modules,
            pickled,
            awaited,
            as_values,
            extra_env=arguments.checked_env(extra_env),
            extra_meta=extra_meta,
            options=options,
            policy=policy,
        )
        return self._dispatch(dispatcher, submission)

    def _dispatch(self, dispatcher: Dispatcher, submission: Submission) -> list[ResponseFuture]:
        if self._calls_to.runs_here:
            waiting.say_what_is_in_the_way("on this machine")
        try:
            futures = dispatcher.dispatch(submission)
            if self._kept is not None and not self._is_in_memory:
                self._keep(futures)
            if submission.options.get("show_output") and not dispatcher.shows_output:
                for future in futures:
                    future.add_done_callback(show_output_of)
            return futures
        except KeyboardInterrupt:
            self._give_up(submission.callset)
            raise

    def _give_up(self, callset: Callset) -> None:
        """After Ctrl-C during a map, whose futures the program never gets."""
        shutdown.interrupt()
        origin = None if callset.origin is None else callset.origin()
        if origin is None:
            return
        if self._is_in_memory:
            waiting.stop_waiting([origin])
        else:
            # The dispatcher says itself how many it has invoked. cancel_all() must still know those.
            self._keep([one for one in origin.outstanding() if origin.attempts(one)])

    def _keep(self, futures: Iterable[CallState]) -> None:
        """Keep futures until they are done, because an origin in a storage forgets futures that nothing else holds."""
        kept = self._kept = set() if self._kept is None else self._kept
        kept.update(futures)
        for future in futures:
            # It runs on the thread that settles, under the callset's condition, so it must not wait: discard() takes no
            # lock.
            call_state.tell_when_ended(future, kept.discard)

    def _policy(
        self,
        retries: Any = None,
        retry_on: Any = None,
        backup: bool = False,
        *,
        job_max_runtime: Any = None,
        memory: Any = None,
        timeout: Any = None,
        budget: Any = None,
    ) -> Policy:
        """Return what the driver may do, from the arguments of a map and the settings."""
        longest = self.job_max_runtime
        if job_max_runtime is not None:
            longest = arguments.checked_runtime(job_max_runtime, self._dispatcher.longest_runtime)
        if memory is not None:
            self._check_memory(arguments.checked_memory(memory))
        if retry_on is None and retries is not None:
            retry_on = self._retry_on or Exception
        return Policy(
            retries=self._retries if retries is None else arguments.checked_retries(retries),
            retry_on=self._retry_on if retry_on is None else arguments.checked_errors(retry_on),
            backup=bool(backup),
            max_concurrency=self._max_concurrency,
            concurrency=self._concurrency,
            job_max_runtime=longest,
            timeout=None if timeout is None else arguments.checked_timeout(timeout),
            budget=None if budget is None else self._budget(arguments.checked_budget(budget), longest),
        )

    def _budget(self, dollars: float, job_max_runtime: float) -> Budget | None:
        """Return the budget of a map; ``None`` where calls cost nothing.

        Raises:
            ArgumentError: what the workers cost is unknown.
            ConfigError: a price is unknown.
        """
        if self._calls_to.runs_here:
            self._say_once("budget= has no effect: calls of this executor run on this machine, and cost nothing")
            return None
        if self._calls_to.function_name is None:
            raise ArgumentError(
                "budget: what the workers of this executor cost is unknown, because instances are paid for by the hour "
                "and not by the call. Limit how many there are, or how long they wait for calls. Nothing was invoked"
            )
        billing = billing_of(self.config, self.invoker.config().get("region_name"))
        return Budget(dollars, tariff_of(billing, self.config, job_max_runtime))

    def _check_memory(self, megabytes: int) -> None:
        """Raise ``ArgumentError`` if calls have less memory than that, as far as it is known."""
        name = self._calls_to.function_name
        if name is None:
            self._say_once("memory= has no effect: pywren limits no memory of calls on workers that are not on Lambda")
            return
        has = self._calls_to.deployed_memory() or int(wrenconfig.setting(self.config, "lambda.memory"))
        if megabytes > has:
            raise ArgumentError(
                f"memory is {megabytes:,}, but the Lambda function {name} has {has:,} MB: write `memory: {megabytes}` "
                "into the section `lambda` of the configuration, and run `pywren deploy_lambda`. Nothing was invoked"
            )

    def _say_once(self, text: str) -> None:
        # Two threads may both say it.
        if text not in self._said:
            self._said.add(text)
            logger.info("%s", text)

    def _stage_calls(self) -> StagedDispatcher:
        """Return a dispatcher that stages calls, even if the calls of this executor usually stay in memory."""
        if self._stager is None:
            self._stager = StagedDispatcher(self.storage, self._calls_to, self._runtime)
        return self._stager

    def _new_callset(self, modules: Iterable[str], job_max_runtime: float) -> Callset:
        names = frozenset([path.partition("/")[0].partition(".")[0] for path in modules]) if modules else frozenset()
        callset = Callset(self.storage.prefix, job_max_runtime=job_max_runtime, modules=names)
        self._callsets.add(callset)
        callset.facts.update(self.invoker.config(), job_invoke_timestamp=callset.submitted)
        if self._calls_to.function_name is not None:
            callset.billing = billing_of(self.config, callset.facts.get("region_name"))
        return callset


def _outstanding_of(origins: Iterable[Origin]) -> list[ResponseFuture]:
    return [one for origin in origins for one in origin.outstanding() if isinstance(one, ResponseFuture)]


def _made_later(cls: type[Executor], recipe: tuple[Any, ...], settings: Mapping[str, Any]) -> Executor:
    """Unpickle an executor. It is initialized on first use, because most unpickled executors are never used."""
    executor = cls.__new__(cls)
    executor.__dict__.update(settings, _recipe=recipe)
    return executor


def _architecture_of_workers(invoker: Invoker, config: Mapping[str, Any]) -> str | None:
    """Return the architecture of the workers on Lambda, as configured; ``None`` for workers elsewhere."""
    on_lambda = invoker.function_name is not None
    return str(wrenconfig.setting(config, "lambda.architecture")) if on_lambda else None


def _make_serializer(invoker: Invoker, runtime_meta: Mapping[str, Any]) -> Serializer:
    """Make the serializer. It sends no packages that workers have: all of this machine's, or those of the runtime."""
    if invoker.runs_here:
        return Serializer()
    return Serializer({name for name, _ in runtime_meta["preinstalls"]})
