"""Runs the coroutine that an ``async def`` function returned, on an event loop of its own.

It does what ``asyncio.run`` does, with two differences. It never sets the thread's event loop, so a later call on the
same worker finds asyncio as if it were the first call. And it raises the function's exception without asyncio's frames.
"""

from __future__ import annotations

from types import CoroutineType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio


def finished(value: Any) -> Any:
    """Return a value; if it is a coroutine, run it to its end and return its value instead.

    Tasks that the coroutine leaves behind are cancelled, and asynchronous generators are closed.

    Args:
        value: anything. Other awaitable objects, such as futures, are returned as they are.

    Raises:
        RuntimeError: the coroutine was cancelled.
        BaseException: what the coroutine raised.
    """
    return run(value) if type(value) is CoroutineType else value


def run(coroutine: CoroutineType[Any, Any, Any]) -> Any:
    """Run a coroutine as ``finished`` does, and return its value."""
    import asyncio  # here: it takes 30 ms, and most workers run no coroutine

    loop = asyncio.new_event_loop()
    try:
        task = loop.create_task(coroutine)
        task.add_done_callback(lambda _: loop.stop())
        loop.run_forever()  # it raises SystemExit and its like at once, as in any program
        return _value_of(task)
    finally:
        _close(loop)


def _value_of(task: asyncio.Task[Any]) -> Any:
    import asyncio

    try:
        error = task.exception()
    except asyncio.CancelledError as cancelled:
        # Not as it is: it is no Exception, and whoever awaits the call's future would seem to be cancelled themselves.
        raise RuntimeError("the coroutine of the function was cancelled on the worker") from cancelled
    if error is None:
        return task.result()
    try:
        raise error
    finally:
        del error, task  # their traceback holds this frame


def _close(loop: asyncio.AbstractEventLoop) -> None:
    import asyncio

    try:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        loop.close()
