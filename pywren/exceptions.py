"""Every error that pywren raises, in one tree.

::

    PywrenError
    ├── ArgumentError (ValueError)      a function or method got an argument it does not accept
    ├── ConfigError (ValueError)        the configuration is missing, unreadable or wrong
    ├── SerializationError              a function, an argument or a module cannot be sent
    ├── DecodeError (ValueError)        bytes are not a valid pywren message
    ├── BrokenPoolError (concurrent.futures.BrokenExecutor)  the initializer of a ``PoolExecutor`` failed
    ├── InvocationError                 the service refused to start a call
    │   ├── ShutdownError (RuntimeError)    the executor was shut down, or the program is exiting
    │   └── InvocationThrottledError    the service is too busy to start a call now
    ├── DeploymentError                 the service refused to create, change or delete something
    ├── EmulatorError                   a part of the emulated AWS failed to start, or stopped
    ├── StorageError                    the storage refused a request, or cannot be reached
    │   ├── StorageNoSuchKeyError
    │   ├── StorageOutputNotFoundError
    │   ├── StorageConfigMismatchError
    │   ├── StorageSetupError (ConfigError)  this machine's credentials, profile, region or endpoint are wrong
    │   └── IntegrityError              a digest or a signature does not match: nothing was unpickled
    ├── WaitTimeoutError (TimeoutError) *you* stopped waiting; the call is still running
    │   └── StorageTimeoutError (StorageError)  the same, and the storage could not be reached
    └── CallError                       a call failed outside the user's own function
        ├── VersionMismatchError
        ├── RuntimeSetupError
        ├── CallTimeoutError            the call was stopped at ``job_max_runtime``, or with ``timeout`` of its map
        ├── BudgetExceededError         the call was not invoked, because ``budget`` of its map was spent
        ├── CallCancelledError (concurrent.futures.CancelledError)
        ├── WorkerCrashedError
        ├── CallLostError
        └── ResultSerializationError

An exception that the user's function raises, or that is raised while the function is unpickled on the worker, is raised
in the client with its own type. All classes in this module can be pickled.
"""

from __future__ import annotations

import concurrent.futures
import sys
from collections.abc import Mapping
from typing import Any

__all__ = [
    "ArgumentError",
    "BrokenPoolError",
    "BudgetExceededError",
    "CallCancelledError",
    "CallError",
    "CallLostError",
    "CallTimeoutError",
    "ConfigError",
    "DecodeError",
    "DeploymentError",
    "EmulatorError",
    "IntegrityError",
    "InvocationError",
    "InvocationThrottledError",
    "PywrenError",
    "ResultSerializationError",
    "RuntimeSetupError",
    "SerializationError",
    "ShutdownError",
    "StorageConfigMismatchError",
    "StorageError",
    "StorageNoSuchKeyError",
    "StorageOutputNotFoundError",
    "StorageSetupError",
    "StorageTimeoutError",
    "VersionMismatchError",
    "WaitTimeoutError",
    "WorkerCrashedError",
]


def rebuild(cls: type[PywrenError], args: tuple[Any, ...], state: Mapping[str, Any]) -> PywrenError:
    """Rebuild an error from its class, its ``args`` and its attributes, without calling its constructor."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class PywrenError(Exception):
    """The base class of every error that pywren itself raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException is pickled as the call ``cls(*args)``, which fails if the constructor of ``cls`` takes anything
        # besides the message.
        return rebuild, (type(self), self.args, dict(self.__dict__))


class ArgumentError(PywrenError, ValueError):
    """A function or method got an argument that it does not accept."""


class ConfigError(PywrenError, ValueError):
    """The configuration is missing, unreadable or wrong. The message names the file and the key, and what to write."""


class SerializationError(PywrenError):
    """A function, an argument or a module cannot be sent to the worker.

    Args:
        message: what cannot be sent and what to do about it.
        path: where the object is that cannot be pickled, for example ``argument 3.model.lock``.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class DecodeError(PywrenError, ValueError):
    """Bytes are not a valid call, status or outcome."""


class BrokenPoolError(PywrenError, concurrent.futures.BrokenExecutor):
    """The initializer of a ``PoolExecutor`` failed on a worker, so the pool takes no more calls.

    Args:
        message: how the initializer failed.
        pool: identifies the ``PoolExecutor``.
    """

    def __init__(self, message: str, *, pool: str = "") -> None:
        super().__init__(message)
        self.pool = pool


class InvocationError(PywrenError):
    """The service that starts calls refused to start one.

    Args:
        message: what was refused and what to do about it.
        code: the service's own error code, for example ``ResourceNotFoundException``.
        request_id: the id that the service gave the request.
    """

    def __init__(self, message: str, *, code: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id


class ShutdownError(InvocationError, RuntimeError):
    """The executor takes no more calls: it was shut down, or the program is exiting."""


class InvocationThrottledError(InvocationError):
    """The service that starts calls is too busy, or cannot be reached now. The same request may succeed later.

    The executor sends such requests again, more slowly. A program sees this error only if they keep failing.
    """


class DeploymentError(PywrenError):
    """The service refused to create, change or delete something that pywren needs."""


class EmulatorError(PywrenError):
    """A part of the emulated AWS (``pywren.testing.emulator``) failed to start or stopped. The message has its log."""


class StorageError(PywrenError):
    """The storage refused a request, or cannot be reached."""


class StorageNoSuchKeyError(StorageError):
    """The storage has no object with this key.

    Args:
        key: the requested key.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"no such key in the storage: {key}")
        self.key = key


class StorageOutputNotFoundError(StorageError):
    """A call left no output.

    Args:
        callset_id: the callset of the call.
        call_id: the call within it.
    """

    def __init__(self, callset_id: str, call_id: str) -> None:
        super().__init__(f"no output of call {call_id} of callset {callset_id} in the storage")
        self.callset_id = callset_id
        self.call_id = call_id


class StorageConfigMismatchError(StorageError):
    """A future was given a storage other than the one it was created with.

    Args:
        current_path: ``[backend, bucket, prefix]`` of the given storage.
        prev_path: ``[backend, bucket, prefix]`` of the storage that the future was created with.
    """

    def __init__(self, current_path: Any, prev_path: Any) -> None:
        super().__init__(
            f"the future was created with the storage {prev_path}, but was given {current_path}: "
            "omit storage_handler to use the future's own"
        )
        self.current_path = current_path
        self.prev_path = prev_path


class StorageSetupError(StorageError, ConfigError):
    """The credentials, profile, region or endpoint of this machine are wrong, so it cannot reach the storage."""


class IntegrityError(StorageError):
    """A digest or a signature does not match. Nothing was unpickled."""


if sys.version_info >= (3, 11):
    _BothTimeoutErrors = TimeoutError
else:  # Python 3.10 has two different classes, and programs catch either of them

    class _BothTimeoutErrors(concurrent.futures.TimeoutError, TimeoutError):
        pass


class WaitTimeoutError(PywrenError, _BothTimeoutErrors):
    """The caller's own ``timeout`` expired; the call itself is still running.

    With every version of Python it is a subclass of both ``TimeoutError`` and ``concurrent.futures.TimeoutError``.
    """


class StorageTimeoutError(WaitTimeoutError, StorageError):
    """The caller's own ``timeout`` expired while the storage could not be reached; the call may still be running."""


class CallError(PywrenError):
    """A call failed outside the user's own function.

    Args:
        message: what happened to which call, and what to do about it.
        call_id: the call; ``None`` if it is not known.
        callset_id: the call's callset.
        status: the status that the worker wrote, as a dict; ``None`` when there is none.
    """

    def __init__(
        self,
        message: str,
        *details: Any,
        call_id: str | None = None,
        callset_id: str | None = None,
        status: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, *details)
        self.call_id = call_id
        self.callset_id = callset_id
        self.status = status

    def __str__(self) -> str:
        message = str(self.args[0]) if self.args else ""
        return message if self.call_id is None else f"{message} (call {self.call_id} of callset {self.callset_id})"


class VersionMismatchError(CallError):
    """Client and worker run different versions of pywren or of Python."""


class RuntimeSetupError(CallError):
    """The runtime could not be set up on the worker.

    ``args[1]`` is ``"RUNTIME_TOO_BIG"``, ``"RUNTIME_ERROR"`` or ``"RUNTIME_READ_ERROR"``.
    """


class CallTimeoutError(CallError):
    """The call was stopped: it ran for ``job_max_runtime``, or had not ended after the ``timeout`` of its map.

    This class is not a ``TimeoutError``, because a ``TimeoutError`` means that *you* stopped waiting.
    """


class BudgetExceededError(CallError):
    """The call was not invoked, or not invoked again, because the ``budget`` of its map was spent.

    ``args[1:]`` are the three numbers that the properties return.
    """

    @property
    def budget(self) -> float | None:
        """The budget, in US dollars; ``None`` if it is not known."""
        return self._number(1)

    @property
    def spent(self) -> float | None:
        """What was spent when the map was stopped, in US dollars; ``None`` if it is not known."""
        return self._number(2)

    @property
    def not_invoked(self) -> int | None:
        """How many calls of the map were not invoked; ``None`` if it is not known."""
        count = self._number(3)
        return None if count is None else int(count)

    def _number(self, index: int) -> float | None:
        value = self.args[index] if len(self.args) > index else None
        return value if isinstance(value, (int, float)) else None


class CallCancelledError(CallError, concurrent.futures.CancelledError):
    """The call was cancelled."""


class WorkerCrashedError(CallError):
    """The process that ran the function exited without an outcome.

    ``args[1]`` is the exit code: negative if a signal killed the process, ``None`` if the exit code is not known.
    """

    @property
    def returncode(self) -> int | None:
        """The exit code of the process: negative if a signal killed it, ``None`` if the exit code is not known."""
        code = self.args[1] if len(self.args) > 1 else None
        return code if isinstance(code, int) else None

    @property
    def signal(self) -> int | None:
        """The number of the signal that killed the process; ``None`` when no signal did."""
        code = self.returncode
        return -code if code is not None and code < 0 else None


class CallLostError(CallError):
    """The call never started, or vanished without a trace."""


class ResultSerializationError(CallError):
    """The function's result, or the exception that it raised, could not be sent back."""


WORKER_ERRORS: Mapping[str, type[PywrenError]] = {
    cls.__name__: cls
    for cls in (
        CallError,
        VersionMismatchError,
        RuntimeSetupError,
        CallTimeoutError,
        BudgetExceededError,
        CallCancelledError,
        WorkerCrashedError,
        CallLostError,
        ResultSerializationError,
        ConfigError,
        DecodeError,
        IntegrityError,
        StorageError,
        StorageNoSuchKeyError,
        StorageOutputNotFoundError,
    )
}
"""The errors that a worker may report, keyed by the names that statuses use for them."""
