"""Every error that pywren raises, in one tree.

::

    PywrenError
    ├── ArgumentError (ValueError)      a call of the API was given something it cannot take
    ├── ConfigError (ValueError)        the configuration: which file, which key, what to write there
    ├── SerializationError              an object could not be pickled: which one, at which attribute
    ├── DecodeError (ValueError)        bytes that should be one of our messages are not
    ├── InvocationError                 the service refused to start a call
    │   └── ShutdownError (RuntimeError)    the executor was shut down, or the program is at its end
    ├── DeploymentError                 the service refused to create or change something
    ├── EmulatorError                   a part of the emulated AWS did not come up, or ended
    ├── StorageError                    the storage refused, or is out of reach
    │   ├── StorageNoSuchKeyError
    │   ├── StorageOutputNotFoundError
    │   ├── StorageConfigMismatchError
    │   ├── StorageSetupError (ConfigError)  this machine's credentials, profile, region or endpoint
    │   └── IntegrityError              a digest or a signature does not match: nothing was unpickled
    ├── WaitTimeoutError (TimeoutError) *you* stopped waiting; the call goes on
    │   └── StorageTimeoutError (StorageError) … and the storage could not be asked for it
    └── CallError                       a call failed outside the user's own function
        ├── VersionMismatchError
        ├── RuntimeSetupError
        ├── CallTimeoutError            the call was stopped at ``job_max_runtime``
        ├── CallCancelledError (concurrent.futures.CancelledError)
        ├── WorkerCrashedError
        ├── CallLostError
        └── ResultSerializationError

An exception raised by the user's function, or while its pickle is loaded on the worker, is none of these:
it comes back with its own type.
Every class survives ``pickle``.
"""

from __future__ import annotations

import concurrent.futures
import sys
from collections.abc import Mapping
from typing import Any

__all__ = [
    "ArgumentError",
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
    """Make an error again from its class, its ``args`` and its attributes, without calling its constructor."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class PywrenError(Exception):
    """The base of every error that pywren raises itself."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own reduction calls ``cls(*args)``, which breaks every subclass whose
        # constructor takes something else than the message.
        return rebuild, (type(self), self.args, dict(self.__dict__))


class ArgumentError(PywrenError, ValueError):
    """A call of the API was given something that it cannot take."""


class ConfigError(PywrenError, ValueError):
    """The configuration is missing, unreadable or wrong; says which file, which key and what to write."""


class SerializationError(PywrenError):
    """A function, an argument or a module cannot be sent to the worker.

    Args:
        message: what could not be pickled and what to do about it.
        path: where the offending object sits, for example ``argument 3.model.lock``.
    """

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class DecodeError(PywrenError, ValueError):
    """Bytes that should be a call, a status or an outcome are not one."""


class InvocationError(PywrenError):
    """The service that starts calls refused one.

    Args:
        message: what was refused and what to do about it.
        code: the service's own error code, for example ``ResourceNotFoundException``.
        request_id: the service's id of the request.
    """

    def __init__(self, message: str, *, code: str = "", request_id: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id


class ShutdownError(InvocationError, RuntimeError):
    """No more calls are taken: the executor was shut down, or the program is at its end."""


class DeploymentError(PywrenError):
    """The service refused to create, change or delete something that pywren needs."""


class EmulatorError(PywrenError):
    """A part of the emulated AWS (``pywren.testing.emulator``) did not come up, or ended; has the end of its log."""


class StorageError(PywrenError):
    """The storage refused a request or is out of reach."""


class StorageNoSuchKeyError(StorageError):
    """There is no object under this key.

    Args:
        key: the key that was asked for.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"no such key in the storage: {key}")
        self.key = key


class StorageOutputNotFoundError(StorageError):
    """A call has left no output.

    Args:
        callset_id: the callset of the call.
        call_id: the call within it.
    """

    def __init__(self, callset_id: str, call_id: str) -> None:
        super().__init__(f"no output of call {call_id} of callset {callset_id} in the storage")
        self.callset_id = callset_id
        self.call_id = call_id


class StorageConfigMismatchError(StorageError):
    """A future was made with another storage than the one it is now asked to use.

    Args:
        current_path: ``[backend, bucket, prefix]`` of the storage that was given.
        prev_path: ``[backend, bucket, prefix]`` of the storage the future was made with.
    """

    def __init__(self, current_path: Any, prev_path: Any) -> None:
        super().__init__(
            f"the future was made with the storage {prev_path}, but was given {current_path}; "
            "leave storage_handler out and the future uses its own"
        )
        self.current_path = current_path
        self.prev_path = prev_path


class StorageSetupError(StorageError, ConfigError):
    """This machine is not set up to reach the storage: credentials, profile, region or endpoint."""


class IntegrityError(StorageError):
    """A digest or a signature does not match, so nothing was unpickled."""


if sys.version_info >= (3, 11):
    _BothTimeoutErrors = TimeoutError
else:  # two classes on Python 3.10, and programs catch either

    class _BothTimeoutErrors(concurrent.futures.TimeoutError, TimeoutError):
        pass


class WaitTimeoutError(PywrenError, _BothTimeoutErrors):
    """The caller's own ``timeout`` ran out; the call itself goes on.

    It is the built-in ``TimeoutError`` and ``concurrent.futures.TimeoutError`` on every version of Python.
    """


class StorageTimeoutError(WaitTimeoutError, StorageError):
    """The caller's own ``timeout`` ran out while the storage could not be asked; the call itself goes on."""


class CallError(PywrenError):
    """A call failed outside the user's own function.

    Args:
        message: what happened, to which call, and what to do.
        call_id: the call, ``None`` when it is not known.
        callset_id: its callset.
        status: the worker's status of the call as a dict, when there is one.
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
    """The call was stopped at ``job_max_runtime``.

    Not a ``TimeoutError``: that one means that *you* stopped waiting.
    """


class CallCancelledError(CallError, concurrent.futures.CancelledError):
    """The call was cancelled."""


class WorkerCrashedError(CallError):
    """The process that ran the function ended without an outcome.

    ``args[1]`` is the exit code: negative for a signal, ``None`` when it is not known.
    """

    @property
    def returncode(self) -> int | None:
        """The exit code of the process: negative for a signal, ``None`` when it is not known."""
        code = self.args[1] if len(self.args) > 1 else None
        return code if isinstance(code, int) else None

    @property
    def signal(self) -> int | None:
        """The number of the signal that ended the process, if one did."""
        code = self.returncode
        return -code if code is not None and code < 0 else None


class CallLostError(CallError):
    """The call never started, or vanished without a trace."""


class ResultSerializationError(CallError):
    """The function's result, or the exception it raised, could not be brought back."""


WORKER_ERRORS: Mapping[str, type[PywrenError]] = {
    cls.__name__: cls
    for cls in (
        CallError,
        VersionMismatchError,
        RuntimeSetupError,
        CallTimeoutError,
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
"""The errors that a worker may report, by the name that travels in the status."""
