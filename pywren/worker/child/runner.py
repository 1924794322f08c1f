"""``TaskRunner``: runs one task after the other in a child, each as if it were the first task.

Everything here runs on the child's main thread. The user's function may replace anything that it can reach. So the
names that this module needs *after* a call are bound when it is loaded, and ``Condition.mend`` and
``_restore_pickle`` run before anything else does.
"""

from __future__ import annotations

import pickle
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pywren.pickling import arguments, finished_futures, packed, packed_exceptions
from pywren.pickling.adapters import Initialized
from pywren.pickling.format import FUTURE, NAMES_FOLLOW, PROTOCOL
from pywren.pickling.packed import Packed
from pywren.pickling.plain_values import ATOMS
from pywren.system import coroutines
from pywren.wire.failure import Failure
from pywren.worker import initialized
from pywren.worker.child.condition import Condition
from pywren.worker.child.leftovers import keep_threads
from pywren.worker.child.modules import ShippedModules
from pywren.worker.child.place import Place
from pywren.worker.child.program import Program
from pywren.worker.pages import MOST_BYTES
from pywren.worker.task import Function, RunResult

# The user's function may replace any of these under its public name.
_perf_counter = time.perf_counter
_gettrace, _settrace = sys.gettrace, sys.settrace
_dump_result, _dump_exception = packed.dump_result, packed_exceptions.dump_exception
_add_hint = finished_futures.add_hint
_Exception = Exception
_loads, _load_argument, _load_with_names = packed.loads, arguments.load_argument, arguments.load_with_names
_type, _bytes, _CoroutineType = type, bytes, types.CoroutineType
_FUTURE_MARK = FUTURE.encode()
_plain_loads, _plain_dumps = pickle.loads, pickle.dumps

# Pickling a result goes through code that looks these up by name, so binding them here is not enough.
_PICKLE = tuple((name, getattr(pickle, name)) for name in ("dumps", "loads", "Pickler"))


class TaskRunner:
    """Runs one task after the other in this process.

    Args:
        root: a private directory for the users' modules and for scratch directories.
        scratch: the directory in which calls run; created for the first call.
        condition: the state of the process before any call; by default, its present state.
    """

    def __init__(self, root: str, scratch: str, condition: Condition | None = None) -> None:
        self.condition = condition or Condition()
        self.modules = ShippedModules(root)
        self.place = Place(scratch)
        self._program = Program(root)

    def activate(self, function: Function, digest: str, program: Program) -> None:
        """Make only one function's modules importable.

        Args:
            function: the function.
            digest: the ``modules_digest`` of its modules.
            program: contains the modules that the function's pickle defines.
        """
        if self.modules.activate(function, digest):
            # The modules of the other set have left, and what their imports had set in the environment must leave with
            # them.
            self.place.start_over()
            self.condition.count_modules()
        if program is not self._program:
            # Before the new one enters: both may have a module of the same name, as every program has ``__main__``.
            self._program.leave()
            self._program = program
            self.condition.is_main = program.is_main
            program.enter()

    def run(
        self,
        load: Callable[[], Callable[[Any], Any]],
        argument: Any,
        references: Sequence[bytes],
        extra_env: Mapping[str, str | None],
        *,
        mend: bool = True,
    ) -> RunResult:
        """Run one call.

        Args:
            load: returns the function; called in the call's environment, because loading runs the user's imports.
            argument: the pickled argument of the call (``Packed``), or a number or string itself.
            references: encoded outcomes that the argument refers to.
            extra_env: environment variables of this call; ``None`` hides a variable from it.
            mend: False when the call cannot have changed anything that is needed to pickle its result.

        Returns:
            The outcome, without the call's output. ``begun`` is False if the function or its argument could not be
            loaded.

        Raises:
            BaseException: the call raised something that is not an ``Exception``, which ends the process.
        """
        started = _perf_counter()
        called = ended = None
        try:
            # Inside ``try``: if the disk is full, the call fails with that error, and the process goes on.
            self.place.enter(extra_env)
            imported = len(sys.modules)  # a count, because comparing the names would cost more than a small call
            # From here on the user's code runs: first its imports, then what unpickling calls.
            function = load()
            value = self._load_argument(argument, references)
            has_adopted = type(function) is Initialized and self._enter_pool(function, extra_env)
            if len(sys.modules) != imported and not has_adopted:
                # Before the function is called, so that what the call itself changes does not count as the right state.
                self.place.adopt(extra_env)
                self.condition.adopt()
            called = _perf_counter()
            # What is no ``Exception``, such as ``SystemExit``, is not caught: it ends the process, as in any program.
            value = function(value)
            if _type(value) is _CoroutineType:  # here: a trace function that the call has left would break a call
                value = coroutines.run(value)
            ended = _perf_counter()
            if mend:
                if _gettrace() is not self.condition.trace:  # a trace function must not see, or break, our own code
                    _settrace(self.condition.trace)
                self.condition.mend()
                _restore_pickle()
            # Inside ``try`` as well: pickling runs the user's ``__reduce__``. ``ended`` tells such an error from one of
            # the call.
            body = _dump_result(value, out_of_band=True)
            return RunResult(True, body, info={"setup_time": called - started, "exec_time": ended - called})
        except _Exception as error:
            # Taken first, so that the time of mending does not count as the call's.
            now = _perf_counter()
            # The exception may be due to damage that the function did: repair the damage before doing anything else.
            if _gettrace() is not self.condition.trace:
                _settrace(self.condition.trace)
            self.condition.mend()
            _restore_pickle()
            if called is None:  # an import that the function or its argument needs has failed
                return _raised(error, {"setup_time": now - started, "exec_time": 0.0})._replace(begun=False)
            info = {"setup_time": called - started, "exec_time": (ended or now) - called}
            return _raised(error, info, references) if ended is None else _not_pickled(error, info)

    def compute(self, function: Callable[[Any], Any], argument: Any) -> tuple[bytes, float, RunResult | None]:
        """Run one more call of a function that can only compute, when no other call has come in between.

        Args:
            function: the function, as it was loaded for a call before.
            argument: the pickled argument, which is plain data, or a number or string itself.

        Returns:
            What the function returned, as a small pickle, and for how many seconds it ran; the third item is ``None``.
            For an outcome of any other kind, the third item is that outcome.

        Raises:
            BaseException: as for ``run``.
        """
        called = _perf_counter()
        ended = None
        try:
            value = function(_plain_loads(argument) if _type(argument) is _bytes else argument)
            ended = _perf_counter()
            # Numbers and strings as ``dump_result`` pickles them, without its steps: they take longer than such a call.
            if _type(value) in ATOMS:
                body, data = None, _plain_dumps(value, PROTOCOL)
            else:
                body = _dump_result(value, out_of_band=True)
                data = body.data
            if len(data) <= MOST_BYTES and not (body and body.buffers):
                return data, ended - called, None
            info = {"setup_time": 0.0, "exec_time": ended - called}
            return b"", 0.0, RunResult(True, body or Packed(data), info=info)
        except _Exception as error:
            info = {"setup_time": 0.0, "exec_time": (ended or _perf_counter()) - called}
            return b"", 0.0, _raised(error, info) if ended is None else _not_pickled(error, info)

    def _enter_pool(self, function: Initialized, extra_env: Mapping[str, str | None]) -> bool:
        """Run the initializer of a ``PoolExecutor``, unless this process has. Return whether it ran."""
        has_run = initialized.enter(function)
        if has_run:
            keep_threads()
            self.place.adopt_settings(extra_env)
            self.condition.adopt_settings()
        if initialized.is_last(function):
            self.condition.spend()
        return has_run

    def _load_argument(self, argument: Any, references: Sequence[bytes]) -> Any:
        """Unpickle an argument in the quickest way that works: most arguments contain neither futures nor names."""
        if type(argument) is not Packed:
            return argument
        if argument.data.endswith(NAMES_FOLLOW):
            value, names = _load_with_names(argument, references)
            self._program.add(names)
            # Again, because the argument may have brought modules that the function did not.
            self._program.enter()
            return value
        has_futures = references or _FUTURE_MARK in argument.data
        return _load_argument(argument, references) if has_futures else _loads(argument)


def _restore_pickle() -> None:
    """Restore the names in ``pickle`` that are needed to pickle results. The user's function may have replaced them."""
    for name, original in _PICKLE:
        if getattr(pickle, name) is not original:
            setattr(pickle, name, original)


def _raised(error: Exception, info: Mapping[str, Any], references: Sequence[bytes] = ()) -> RunResult:
    if references:
        _add_hint(error)
    told = _dump_exception(error)
    if told.body is None:
        return _not_pickled(told.error or error, info)
    return RunResult(False, told.body, (told.type_name, told.text, told.traceback), info=info)


def _not_pickled(error: Exception, info: Mapping[str, Any]) -> RunResult:
    return RunResult(None, None, failure=Failure("ResultSerializationError", str(error)), info=info)
