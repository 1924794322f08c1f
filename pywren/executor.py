"""``Executor``: maps functions over data and returns futures."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pywren import wrenconfig
from pywren.client.callset import Callset, Submission
from pywren.client.local_calls import LocalDispatcher
from pywren.client.staging import StagedDispatcher, agg_data
from pywren.exceptions import ArgumentError
from pywren.future import ResponseFuture, modules_sent_for, settlement
from pywren.pickling.adapters import Reduction
from pywren.pickling.finished_futures import FinishedFuture
from pywren.pickling.mentions import Mentions
from pywren.runtime import check_runtime, get_runtime_info
from pywren.serialize import Serializer
from pywren.serialize._skew import warn_of_skew
from pywren.storage import Storage
from pywren.system import shutdown
from pywren.wait import list_of, wait
from pywren.wire.call import CALL_FIELDS, Call
from pywren.wrenutil import iterate

if TYPE_CHECKING:
    from types import TracebackType

logger = logging.getLogger(__name__)

SHOW_OUTPUT_VARIABLE = "PYWREN_SHOW_OUTPUT"
"""Set to anything, it has what local calls print shown as it comes, as ``local: show_output`` does."""


MOST_ITEMS = 10_000_000
"""Items of one map where no limit is configured: more futures than these fill a machine's memory, and an iterable that
yields more most likely has no end."""

_NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class Executor:
    """Maps functions over data on the workers that its invoker reaches.

    Usually made by ``pywren.default_executor()``. It may be shared by threads, and used as a context manager.

    Args:
        invoker: what starts calls: an object with ``invoke(payload)`` and ``config()``.
        config: the configuration, a nested dict as ``wrenconfig.load`` returns it.
        job_max_runtime: seconds after which a call is stopped; may be changed later.

    Raises:
        ArgumentError: ``job_max_runtime`` is no positive number.
        ConfigError: the configuration is wrong, or its runtime is missing, or of another Python or architecture.
    """

    def __init__(self, invoker: Any, config: Mapping[str, Any], job_max_runtime: float) -> None:
        self.invoker = invoker
        self.config = config
        self.storage_config = wrenconfig.extract_storage_config(config)
        self.storage = Storage(self.storage_config)
        self.map_item_limit: int | None = wrenconfig.setting(config, "scheduler.map_item_limit")
        wrenconfig.warn_of_public_runtime(config)
        runtime_config = config.get("runtime") or {}
        self.runtime_meta_info = get_runtime_info(runtime_config)
        check_runtime(self.runtime_meta_info, _architecture_of_workers(invoker, config))
        self._runtime = {**runtime_config, "urls": self.runtime_meta_info.get("urls")}
        self._dispatcher = _choose_dispatcher(invoker, self.storage, config, self._runtime)
        self._stager = self._dispatcher if isinstance(self._dispatcher, StagedDispatcher) else None
        self.job_max_runtime = job_max_runtime
        self.serializer = _make_serializer(invoker, self.runtime_meta_info)

    def __reduce__(self) -> tuple[Any, ...]:
        # a recipe: whoever holds an executor may be sent to a worker, and calls go from there as they went from here
        return _made_later, (type(self), self.invoker, self.config, self._job_max_runtime)

    def __getattr__(self, name: str) -> Any:  # called for what is not there: anything of one that was unpickled
        recipe = self.__dict__.get("_recipe")
        if recipe is None or name.startswith("__"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        # Two threads may both do so; each finds a whole executor afterwards. No lock: it reads the storage.
        self.__init__(*recipe)  # type: ignore[misc]
        self.__dict__.pop("_recipe", None)
        return getattr(self, name)

    @property
    def job_max_runtime(self) -> float:
        """Seconds after which a call is stopped; on this machine infinity is one, too."""
        return self._job_max_runtime

    @job_max_runtime.setter
    def job_max_runtime(self, seconds: float) -> None:
        self._job_max_runtime = self._checked_runtime(seconds)

    # -- the verbs ---------------------------------------------------------------------------------------------

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
    ) -> list[ResponseFuture]:
        """Call a function once for every item, each call on a worker of its own.

        Args:
            func: takes one item.
            iterdata: the items, all that ``iter()`` takes; consumed before anything is invoked. A future among an
                item is waited for, and arrives on the worker as a finished future.
            extra_env: environment variables for the calls.
            extra_meta: further members for the payloads, which JSON can hold.
            invoke_pool_threads: how many calls are invoked at once, 256 at most.
            data_all_as_one: let small arguments travel together; with False each gets an object of its own.
            use_cached_runtime: let a worker use the runtime that it extracted for an earlier call.
            overwrite_invoke_args: members of the payload to replace, last of all; for tests.
            exclude_modules: modules whose file's path contains one of these are not sent along.

        Returns:
            One future for each item, in order; ``[]`` for no items.

        Raises:
            ArgumentError: there are more items than ``scheduler.map_item_limit`` or ``MOST_ITEMS``, ``extra_meta``
                clashes with a member of the payload or does not fit JSON, or a payload is too large. A
                ``ValueError``; nothing was invoked.
            SerializationError: the function or an item cannot be sent; nothing was invoked.
            StorageError: something could not be stored; nothing was invoked.
            InvocationError: a call was refused.
        """
        items = self._consume(iterdata)
        options = {
            "invoke_pool_threads": invoke_pool_threads,
            "data_all_as_one": data_all_as_one,
            "use_cached_runtime": use_cached_runtime,
            "overwrite_invoke_args": overwrite_invoke_args,
        }
        return self._submit(func, items, extra_env, extra_meta, exclude_modules, options)

    def call_async(
        self,
        func: Callable[[Any], Any],
        data: Any,
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, Any] | None = None,
    ) -> ResponseFuture:
        """Call a function once, on a worker.

        Args:
            func: takes ``data``.
            data: its argument.
            extra_env: environment variables for the call.
            extra_meta: further members for the payload.

        Raises:
            PywrenError: as ``map``.
        """
        return self._submit(func, [data], extra_env, extra_meta)[0]

    def reduce(
        self,
        function: Callable[[list[Any]], Any],
        list_of_futures: Iterable[ResponseFuture],
        extra_env: Mapping[str, str] | None = None,
        extra_meta: Mapping[str, Any] | None = None,
    ) -> ResponseFuture:
        """Wait for all futures, then call a function once, on a worker, with the list of their results.

        The results do not pass through this process when the workers can reach them where they are. When one
        of the calls failed, the call made here raises what it raised.

        Args:
            function: takes the list of results.
            list_of_futures: the futures.
            extra_env: environment variables for the call.
            extra_meta: further members for the payload.

        Raises:
            PywrenError: as ``map``.
        """
        _check_callable(function)
        futures = list_of(list_of_futures, "reduce()")
        wait(futures)
        return self.call_async(Reduction(function), futures, extra_env, extra_meta)

    def get_logs(self, future: ResponseFuture, verbose: bool = True) -> list[tuple[int, str]]:
        """Return what a finished call wrote to the function's log.

        Args:
            future: a future that this executor's calls belong to; waited for.
            verbose: print it too.

        Returns:
            ``(milliseconds since the epoch, message)`` in order, from START to REPORT.

        Raises:
            ArgumentError: the call did not run on Lambda, so it has no log there.
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

    # -- the pieces of 0.4 -----------------------------------------------------------------------------------------

    def put_data(self, data_key: str, data_str: bytes, callset_id: str, call_id: str) -> None:
        """Store a pickled argument. Kept for programs of 0.4.

        Args:
            data_key: its key.
            data_str: its bytes.
            callset_id: the callset it is for.
            call_id: the call it is for.
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
        """Invoke one call whose function and argument a program has stored itself. Kept for programs of 0.4.

        The function and the argument are read once here, for the digests without which no worker unpickles them.

        Args:
            func_key: where the function is, as ``map`` stores it.
            data_key: where the argument is.
            output_key: where a big outcome goes.
            status_key: where the status goes.
            cancel_key: 0.4's mark of a cancelled call.
            callset_id: the callset.
            call_id: the call.
            extra_env: environment variables for the call.
            extra_meta: further members for the payload.
            data_byte_range: the first and last offset of the argument in its object; ``None`` for all of it.
            use_cached_runtime: let the worker use a runtime that it has extracted already.
            host_job_meta: what ``invoke_status`` says besides.
            job_max_runtime: seconds after which the call is stopped.
            overwrite_invoke_args: members of the payload to replace.

        Raises:
            ArgumentError: as ``map``.
            StorageError: the function or the argument is not there.
        """
        _check_meta(extra_meta)
        job_max_runtime = self._checked_runtime(job_max_runtime)
        callset = Callset(self.storage.prefix, callset_id, job_max_runtime=job_max_runtime)
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
                extra_env=_checked_env(extra_env),
                extra=extra_meta or {},
            ),
            overwrite_invoke_args or {},
        )

    @staticmethod
    def agg_data(data_strs: Sequence[bytes]) -> tuple[bytes, list[tuple[int, int]]]:
        """Join byte strings end to end.

        Args:
            data_strs: the pieces.

        Returns:
            The whole, and the first and last offset of each piece in it, both included.
        """
        return agg_data(data_strs)

    # -- its end -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give up what the executor holds; its futures stay usable. Happens by itself when it is dropped."""
        self._dispatcher.close()
        if self._stager is not None:
            self._stager.close()

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _consume(self, iterdata: Iterable[Any]) -> list[Any]:
        remedy = "for one item there is call_async(func, item)"
        iterator = iterate(iterdata, "map() takes an iterable of items", remedy)
        limit = MOST_ITEMS if self.map_item_limit is None else self.map_item_limit
        items = list(islice(iterator, limit + 1))  # list() asks an islice for no length, which may lie
        if len(items) > limit:
            raise ArgumentError(_too_many(self.map_item_limit))
        return items

    def _submit(
        self,
        func: Callable[[Any], Any],
        items: list[Any],
        extra_env: Mapping[str, str] | None,
        extra_meta: Mapping[str, Any] | None,
        exclude_modules: Iterable[str] | None = None,
        options: Mapping[str, Any] = _NO_OPTIONS,
    ) -> list[ResponseFuture]:
        shutdown.require_running()
        _check_callable(func)
        _check_meta(extra_meta)
        if not items:
            return []
        # only a call that is staged has a payload to be changed
        dispatcher = self._stage_calls() if options.get("overwrite_invoke_args") else self._dispatcher
        mentions = Mentions()
        inputs = _Inputs(dispatcher, mentions)
        function, arguments, modules = self.serializer.pack_call(
            func,
            inputs.watch(items),
            out_of_band=dispatcher.out_of_band,
            persistent_id=inputs.persistent_id,
            exclude_modules=_checked_excludes(exclude_modules),
            mentions=mentions,
        )
        if not self._dispatcher.out_of_band:  # else the calls run here, on what is installed here
            warn_of_skew(mentions, self.runtime_meta_info)
        callset = self._new_callset(modules, min(self.job_max_runtime, dispatcher.longest_runtime))
        return dispatcher.dispatch(
            Submission(
                callset,
                function,
                modules,
                arguments,
                inputs.by_argument(len(arguments)),
                extra_env=_checked_env(extra_env),
                extra_meta=extra_meta,
                options=options,
            )
        )

    def _checked_runtime(self, seconds: float) -> float:
        number = math.nan
        if not isinstance(seconds, (str, bytes, bool)):
            with suppress(TypeError, ValueError, OverflowError):
                number = float(seconds)
        if not 0 < number <= self._dispatcher.longest_runtime:
            raise ArgumentError(
                f"job_max_runtime is {seconds!r}; it must be the number of seconds after which a call is stopped, for "
                "example 300"
            )
        return seconds if isinstance(seconds, int) else number  # JSON does not know numpy's

    def _stage_calls(self) -> StagedDispatcher:
        """Return what stages calls, also where they otherwise stay in memory."""
        if self._stager is None:
            self._stager = StagedDispatcher(self.storage, self.invoker, self._runtime)
        return self._stager

    def _new_callset(self, modules: Iterable[str], job_max_runtime: float) -> Callset:
        names = frozenset([path.partition("/")[0].partition(".")[0] for path in modules])
        callset = Callset(self.storage.prefix, job_max_runtime=job_max_runtime, modules=names)
        callset.facts.update(self.invoker.config(), job_invoke_timestamp=callset.submitted)
        return callset


class _Inputs:
    """The futures among the arguments of a map, found while these are pickled, and waited for.

    Their outcomes need the modules that their own calls were sent with.
    """

    def __init__(self, dispatcher: StagedDispatcher | LocalDispatcher, mentions: Mentions) -> None:
        self._mentions = mentions
        self._by_reference = isinstance(dispatcher, StagedDispatcher)
        self._current: dict[ResponseFuture, int] | None = None
        self._found: list[dict[ResponseFuture, int]] = []

    def watch(self, items: Iterable[Any]) -> Iterable[Any]:
        """Yield the items, noting which one is being pickled."""
        for item in items:
            if self._by_reference:
                self._current = {}
                self._found.append(self._current)
            yield item

    def persistent_id(self, obj: Any) -> int | FinishedFuture | None:
        """Say what a future stands for: a reference, or by value for the function's own and this machine's."""
        if not isinstance(obj, ResponseFuture):
            return None
        wait([obj])
        self._mentions.modules.update(modules_sent_for(obj))
        if self._by_reference and self._current is not None:
            return self._current.setdefault(obj, len(self._current))
        ended = settlement(obj)
        ids = {"callset_id": obj.callset_id, "call_id": obj.call_id}
        if ended.error is None:
            return FinishedFuture.of_value(ended.value, **ids)
        return FinishedFuture.of_exception(ended.error, **ids)

    def by_argument(self, count: int) -> Sequence[Sequence[ResponseFuture]]:
        """Return the futures of each argument, in the order of their references."""
        if not any(self._found):
            return ()
        return [list(found) for found in self._found[:count]]


def _made_later(cls: type[Executor], *recipe: Any) -> Executor:
    """Unpickle an executor: it is made when it is first used, which most that came along never are."""
    executor = cls.__new__(cls)
    executor.__dict__["_recipe"] = recipe
    return executor


def _choose_dispatcher(
    invoker: Any, storage: Storage, config: Mapping[str, Any], runtime: Mapping[str, Any]
) -> StagedDispatcher | LocalDispatcher:
    """Let calls of this machine stay in memory, unless a configuration says where to stage them."""
    if storage.path[0] == "localhost" and getattr(invoker, "pool", None) is not None:
        shown = bool(os.environ.get(SHOW_OUTPUT_VARIABLE)) or wrenconfig.setting(config, "local.show_output")
        return LocalDispatcher(storage, invoker, show_output=shown)
    return StagedDispatcher(storage, invoker, runtime)


def _check_callable(func: object) -> None:
    if not callable(func):
        raise ArgumentError(f"the function to call is a {type(func).__name__}, which cannot be called")


def _check_meta(extra_meta: Mapping[str, Any] | None) -> None:
    if extra_meta is None:
        return
    if not isinstance(extra_meta, Mapping):
        raise ArgumentError(f"extra_meta is a {type(extra_meta).__name__}, not a dict. Nothing was invoked")
    clash = sorted(CALL_FIELDS.intersection(extra_meta))
    if clash:
        raise ArgumentError(
            f"extra_meta has {', '.join(map(repr, clash))}, which the payload has of its own: choose another name. "
            "Nothing was invoked"
        )
    try:
        json.dumps(dict(extra_meta), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentError(
            f"extra_meta does not fit JSON: {error}. Put there texts, finite numbers, and lists and dicts of them, and "
            "everything else into the arguments. Nothing was invoked"
        ) from error


def _checked_excludes(exclude_modules: Iterable[str] | None) -> Sequence[str]:
    if isinstance(exclude_modules, str):  # each of its letters would be taken for a path of its own
        raise ArgumentError(f"exclude_modules is the text {exclude_modules!r}; pass a list: [{exclude_modules!r}]")
    return tuple(exclude_modules or ())


def _too_many(limit: int | None) -> str:
    if limit is None:
        return (
            f"the iterable has more than {MOST_ITEMS:,} items, or no end, and map() makes a future for each before it "
            "returns. Map over it in pieces, or use pywren.PoolExecutor, whose map() goes on as results are taken. "
            "Nothing was invoked"
        )
    return (
        f"exceeding map item limit: more than {limit:,} items in one map. Raise scheduler: map_item_limit in the "
        "configuration, or map over them in pieces. Nothing was invoked"
    )


def _checked_env(extra_env: Mapping[str, str] | None) -> Mapping[str, str] | None:
    if extra_env is not None and not isinstance(extra_env, Mapping):
        raise ArgumentError(
            f"extra_env is a {type(extra_env).__name__}, not a dict. A function gets one item: for several arguments "
            "map over tuples (zip), or use pywren.PoolExecutor"
        )
    for name, value in (extra_env or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ArgumentError(f"extra_env: {name!r} and its value {value!r} must both be text")
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise ArgumentError(f"extra_env: no environment can hold {name!r} with the value {value!r}")
    return extra_env


def _architecture_of_workers(invoker: Any, config: Mapping[str, Any]) -> str | None:
    """Return the workers' architecture, where the configuration decides on it: on Lambda."""
    on_lambda = getattr(invoker, "function_name", None) is not None
    return str(wrenconfig.setting(config, "lambda.architecture")) if on_lambda else None


def _make_serializer(invoker: Any, runtime_meta: Mapping[str, Any]) -> Serializer:
    """Say what need not be sent: on this machine all that is installed, elsewhere what the runtime lists."""
    if getattr(invoker, "runs_here", False):
        return Serializer()
    return Serializer({name for name, _ in runtime_meta["preinstalls"]})
