"""``MoreVerbs``: the verbs of an executor beside those of 0.4. All of them make their calls with ``map``."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, overload

from pywren.client import arguments
from pywren.client.arguments import MapOptions
from pywren.client.lazy_calls import InOrder, LazyCalls, Results
from pywren.client.typevars import A, P, T
from pywren.client.waiting import Arrivals
from pywren.exceptions import ArgumentError
from pywren.future import ResponseFuture
from pywren.pickling.adapters import Application, Spread
from pywren.wrenutil import iterate

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack

    Ts = TypeVarTuple("Ts")

WINDOW = 1_000
"""How many calls ``imap`` makes ahead: as many as Lambda runs together in a new account."""


class MoreVerbs:
    """Verbs that pywren adds to those of PyWren 0.4. ``pywren.Executor`` inherits them."""

    if TYPE_CHECKING:
        map: Any
        map_item_limit: int | None

    @overload
    def submit(
        self, func: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> ResponseFuture[T]: ...

    @overload
    def submit(self, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> ResponseFuture[T]: ...

    def submit(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> ResponseFuture:
        """Call a function once, on a worker, with any arguments.

        Args:
            func: the function.
            args: its positional arguments.
            kwargs: its keyword arguments. For the options of ``map``, use ``map`` or ``call_async``.

        Raises:
            PywrenError: as for ``map``.
        """
        arguments.check_callable(func)
        future: ResponseFuture = self.map(Application(func), [(args, kwargs)])[0]
        return future

    @overload
    def starmap(
        self,
        func: Callable[[Unpack[Ts]], Coroutine[Any, Any, T]],
        tuples: Iterable[tuple[Unpack[Ts]]],
        **options: Unpack[MapOptions],
    ) -> list[ResponseFuture[T]]: ...

    @overload
    def starmap(
        self, func: Callable[[Unpack[Ts]], T], tuples: Iterable[tuple[Unpack[Ts]]], **options: Unpack[MapOptions]
    ) -> list[ResponseFuture[T]]: ...

    def starmap(self, func: Callable[..., Any], tuples: Iterable[Iterable[Any]], **options: Any) -> list[Any]:
        """Call a function once for every tuple, with the elements of the tuple as its positional arguments.

        Args:
            func: takes as many arguments as each tuple has elements.
            tuples: the tuples, or other iterables. All of them are taken before anything is invoked.
            options: as for ``map``.

        Returns:
            One future for each tuple, in order.

        Raises:
            ArgumentError: an item of ``tuples`` is not iterable, or as for ``map``.
            PywrenError: as for ``map``.
        """
        arguments.check_callable(func)
        futures: list[ResponseFuture] = self.map(Spread(func), _tuples(tuples), **options)
        return futures

    @overload
    def zip_map(
        self, func: Callable[..., Coroutine[Any, Any, T]], *iterables: Iterable[Any], **options: Unpack[MapOptions]
    ) -> list[ResponseFuture[T]]: ...

    @overload
    def zip_map(
        self, func: Callable[..., T], *iterables: Iterable[Any], **options: Unpack[MapOptions]
    ) -> list[ResponseFuture[T]]: ...

    def zip_map(self, func: Callable[..., Any], *iterables: Iterable[Any], **options: Any) -> list[Any]:
        """Call a function with the items of several iterables in parallel, as the built-in ``map`` does.

        Args:
            func: takes one item of each iterable.
            iterables: the shortest one determines how many calls there are.
            options: as for ``map``.

        Returns:
            One future for each call, in order.

        Raises:
            ArgumentError: there is no iterable, one of ``iterables`` is not iterable, or as for ``map``.
            PywrenError: as for ``map``.
        """
        arguments.check_callable(func)
        if not iterables:
            raise ArgumentError("zip_map() takes a function and at least one iterable")
        each = [iterate(iterable, "zip_map() takes iterables") for iterable in iterables]
        futures: list[ResponseFuture] = self.map(Spread(func), zip(*each), **options)  # noqa: B905 -- the shortest ends it
        return futures

    @overload
    def imap(
        self,
        func: Callable[[A], Coroutine[Any, Any, T]],
        iterdata: Iterable[A],
        *,
        window: int = WINDOW,
        return_exceptions: Literal[False] = False,
        **options: Unpack[MapOptions],
    ) -> Results[T]: ...

    @overload
    def imap(
        self,
        func: Callable[[A], T],
        iterdata: Iterable[A],
        *,
        window: int = WINDOW,
        return_exceptions: Literal[False] = False,
        **options: Unpack[MapOptions],
    ) -> Results[T]: ...

    @overload
    def imap(
        self,
        func: Callable[[A], T],
        iterdata: Iterable[A],
        *,
        window: int = WINDOW,
        return_exceptions: bool,
        **options: Unpack[MapOptions],
    ) -> Results[T | BaseException]: ...

    def imap(
        self,
        func: Callable[[Any], Any],
        iterdata: Iterable[Any],
        *,
        window: int = WINDOW,
        return_exceptions: bool = False,
        **options: Any,
    ) -> Results[Any]:
        """Call a function once for every item of a stream of any length, and return an iterator over the results.

        The first calls are made at once, and further ones as results are taken. So neither the items nor the results
        are ever all in memory, and a program that stops taking results stops the stream.

        Args:
            func: takes one item.
            iterdata: the items, in any number; a generator may be endless. They are taken on the thread that takes
                results. If it raises, that exception follows the results of the items before.
            window: how many calls to make ahead of the results that are taken.
            return_exceptions: return the exceptions of failed calls in place of results. Otherwise the first of them is
                raised, and the outstanding calls are cancelled.
            options: as for ``map``, except ``name``, ``timeout`` and ``budget``.

        Returns:
            An iterator over the results in the order of the items, with ``close()``; it is also a context manager.
            Closing it early, or dropping it, cancels the outstanding calls.

        Raises:
            ArgumentError: ``window`` is not a whole number above 0, one of these options is given, or as for ``map``.
            PywrenError: as for ``map``; for later items, the iterator raises these errors.
        """
        return self._stream(func, iterdata, window, return_exceptions, options, InOrder())

    @overload
    def imap_unordered(
        self,
        func: Callable[[A], Coroutine[Any, Any, T]],
        iterdata: Iterable[A],
        *,
        window: int = WINDOW,
        return_exceptions: Literal[False] = False,
        **options: Unpack[MapOptions],
    ) -> Results[T]: ...

    @overload
    def imap_unordered(
        self,
        func: Callable[[A], T],
        iterdata: Iterable[A],
        *,
        window: int = WINDOW,
        return_exceptions: Literal[False] = False,
        **options: Unpack[MapOptions],
    ) -> Results[T]: ...

    @overload
    def imap_unordered(
        self,
        func: Callable[[A], T],
        iterdata: Iterable[A],
        *,
        window: int = WINDOW,
        return_exceptions: bool,
        **options: Unpack[MapOptions],
    ) -> Results[T | BaseException]: ...

    def imap_unordered(
        self,
        func: Callable[[Any], Any],
        iterdata: Iterable[Any],
        *,
        window: int = WINDOW,
        return_exceptions: bool = False,
        **options: Any,
    ) -> Results[Any]:
        """Do what ``imap`` does, but return the results in the order in which the calls end.

        Args:
            func: see ``imap``.
            iterdata: see ``imap``.
            window: see ``imap``.
            return_exceptions: see ``imap``.
            options: see ``imap``.

        Raises:
            PywrenError: as for ``imap``.
        """
        return self._stream(func, iterdata, window, return_exceptions, options, Arrivals())

    def _stream(
        self,
        func: Callable[[Any], Any],
        iterdata: Iterable[Any],
        window: int,
        return_exceptions: bool,
        options: dict[str, Any],
        futures: InOrder | Arrivals,
    ) -> Results[Any]:
        arguments.check_callable(func)
        for option in ("name", "timeout", "budget"):
            if options.get(option) is not None:
                raise ArgumentError(
                    f"a stream has no {option}, because its calls are several callsets: use map(..., {option}=...)"
                )
        items = iterate(iterdata, "imap() takes an iterable of items")
        ahead = arguments.checked_window(window)
        if self.map_item_limit is not None:
            ahead = min(ahead, self.map_item_limit)  # so that no single map exceeds it
        calls = LazyCalls(partial(self.map, func, **options), items, ahead, futures)
        calls.begin()
        return Results(calls, return_exceptions=return_exceptions)


def _tuples(tuples: Iterable[Iterable[Any]]) -> Iterator[tuple[Any, ...]]:
    remedy = "use map() for a function of one argument"
    for index, item in enumerate(iterate(tuples, "starmap() takes an iterable of tuples")):
        yield tuple(iterate(item, f"starmap() takes tuples, and item {index} must be one", remedy))
