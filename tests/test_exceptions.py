"""The tree of errors: each class, its text, and that it can be pickled."""

from __future__ import annotations

import concurrent.futures
import copy
import inspect
import pickle
from typing import Any

import pytest

from pywren import exceptions
from pywren.exceptions import (
    CallCancelledError,
    CallError,
    CallTimeoutError,
    PywrenError,
    RuntimeSetupError,
    SerializationError,
    StorageConfigMismatchError,
    StorageNoSuchKeyError,
    StorageOutputNotFoundError,
    WaitTimeoutError,
    WorkerCrashedError,
)

CLASSES = [value for value in vars(exceptions).values() if inspect.isclass(value) and issubclass(value, PywrenError)]
ARGUMENTS: dict[type[PywrenError], tuple[Any, ...]] = {
    StorageNoSuchKeyError: ("jobs/c/func.pickle",),
    StorageOutputNotFoundError: ("c", "00000"),
    StorageConfigMismatchError: (["s3", "a", "p"], ["s3", "b", "p"]),
    WorkerCrashedError: ("non-zero return code", 3),
    RuntimeSetupError: ("too big", "RUNTIME_TOO_BIG"),
}


def make(cls: type[PywrenError]) -> PywrenError:
    return cls(*ARGUMENTS.get(cls, ("what happened",)))


def test_all_names_exactly_the_tree() -> None:
    """``__all__`` lists every error and nothing else, in order, and each is in the diagram of the tree."""
    assert exceptions.__all__ == sorted(cls.__name__ for cls in CLASSES)
    assert exceptions.__doc__ is not None
    assert not [cls.__name__ for cls in CLASSES if cls.__name__ not in exceptions.__doc__]


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_says_in_one_sentence_what_happened(cls: type[PywrenError]) -> None:
    """Each error has its own docstring."""
    assert cls.__doc__
    assert cls.__doc__ != PywrenError.__doc__ or cls is PywrenError


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_survives_pickle(cls: type[PywrenError], protocol: int) -> None:
    """Type, arguments, text, attributes and notes survive pickling, with every protocol."""
    error = make(cls)
    error.__dict__["note"] = "kept"
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is cls
    assert (again.args, str(again), vars(again)) == (error.args, str(error), vars(error))


@pytest.mark.parametrize("cls", CLASSES)
def test_every_class_can_be_copied(cls: type[PywrenError]) -> None:
    """``copy`` works like ``pickle``."""
    error = make(cls)
    assert vars(copy.deepcopy(error)) == vars(error)


@pytest.mark.parametrize("cls", [cls for cls in CLASSES if issubclass(cls, CallError)])
def test_a_call_error_says_which_call(cls: type[CallError]) -> None:
    """Errors of a call have the call, its callset and the worker's status; the text names the call once."""
    error = cls("what happened", "detail", call_id="00003", callset_id="c", status={"retcode": 1})
    assert str(error) == "what happened (call 00003 of callset c)"
    assert str(cls("no call is known")) == "no call is known"
    assert error.args == ("what happened", "detail")
    assert (error.call_id, error.callset_id, error.status) == ("00003", "c", {"retcode": 1})


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (exceptions.ArgumentError, ValueError),
        (exceptions.ConfigError, ValueError),
        (exceptions.DecodeError, ValueError),
        (exceptions.StorageSetupError, exceptions.ConfigError),
        (exceptions.IntegrityError, exceptions.StorageError),
        (WaitTimeoutError, TimeoutError),
        (WaitTimeoutError, concurrent.futures.TimeoutError),
        (CallCancelledError, concurrent.futures.CancelledError),
        (exceptions.BrokenPoolError, concurrent.futures.BrokenExecutor),
    ],
)
def test_errors_are_what_a_caller_would_already_catch(cls: type[PywrenError], builtin: type[Exception]) -> None:
    """A pywren error is also the standard library's error of that kind, on every version of Python."""
    assert issubclass(cls, builtin)
    with pytest.raises(builtin):
        raise make(cls)


def test_a_call_that_ran_too_long_is_no_timeout_of_the_caller() -> None:
    """``except TimeoutError`` around ``result(timeout=…)`` does not catch a call that exceeded its limit."""
    assert not issubclass(CallTimeoutError, TimeoutError)
    assert not issubclass(CallTimeoutError, concurrent.futures.TimeoutError)


@pytest.mark.parametrize(
    ("error", "parts"),
    [
        (StorageNoSuchKeyError("jobs/x"), ["jobs/x"]),
        (StorageOutputNotFoundError("callset", "00007"), ["callset", "00007"]),
        (StorageConfigMismatchError(["s3", "new", "p"], ["s3", "old", "p"]), ["new", "old", "storage_handler"]),
    ],
)
def test_storage_errors_name_what_they_were_made_from(error: PywrenError, parts: list[str]) -> None:
    """0.4's constructors still work, and their arguments appear in the text."""
    assert all(part in str(error) for part in parts)


def test_a_serialization_error_says_where() -> None:
    """The path to the object that cannot be pickled is an attribute."""
    assert SerializationError("a lock", path="argument 3.lock").path == "argument 3.lock"


@pytest.mark.parametrize(("code", "signal"), [(3, None), (0, None), (-9, 9), (None, None)])
def test_a_crash_has_an_exit_code_or_a_signal(code: int | None, signal: int | None) -> None:
    """A negative exit code is the number of the signal."""
    error = WorkerCrashedError("non-zero return code", code)
    assert (error.returncode, error.signal) == (code, signal)


def test_a_crash_without_a_code_has_none() -> None:
    """The exit code may be unknown."""
    assert WorkerCrashedError("gone").returncode is None
