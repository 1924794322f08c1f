"""``ShippedModules``: the user's modules that were sent with functions. Only one function's modules are importable.

Two functions may bring different modules of the same name. Each set of modules has its own directory, whose name is the
digest of the set. The directory is on ``sys.path`` while a function of this set runs. When another set becomes active,
the modules that a function has loaded are removed from ``sys.modules``. They return when their own set becomes active
again: a function that was kept must find the same module objects, or its classes would no longer be the classes of its
modules.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Mapping
from types import ModuleType

from pywren.version import PYTHON
from pywren.worker.directories import own_umask, remove_directory
from pywren.worker.task import Function

_KEPT_SETS = 4  # sets of modules to keep; the modules of an older set are imported again when they are needed
_sha256 = hashlib.sha256  # the user's function may replace it


def modules_digest(modules: Mapping[str, bytes]) -> str:
    """Return a name for a set of modules. Equal sets have equal names; the name of an empty set is empty."""
    if not modules:
        return ""
    digest = _sha256()
    for path in sorted(modules):
        digest.update(f"{path}\0{len(modules[path])}\0".encode())
        digest.update(modules[path])
    return digest.hexdigest()[:32]


class ShippedModules:
    """Makes only one function's modules importable.

    Args:
        root: the directory in which each set of modules gets its own directory.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._active = ""
        self._runtime: str | None = None
        self._runtime_entries: list[str] = []
        # In the order in which the sets were set aside, so the first is the oldest.
        self._set_aside: dict[tuple[str, str | None], dict[str, ModuleType]] = {}

    @property
    def directory(self) -> str:
        """The directory of the modules that are importable now."""
        return self._directory(self._active)

    def _directory(self, digest: str) -> str:
        return os.path.join(self._root, f"modules-{digest}")

    def activate(self, function: Function, digest: str) -> bool:
        """Make only one function's modules importable.

        Args:
            function: the function, with its modules and its runtime.
            digest: the ``modules_digest`` of its modules.

        Returns:
            Whether anything changed; False when these modules were active already.
        """
        # This runs before each call, and usually ends here.
        if digest == self._active and function.runtime_path == self._runtime:
            return False
        self._deactivate()
        if digest:
            # Write before anything is recorded as active: if the disk is full, the next call tries again.
            _write_modules(self._directory(digest), function.modules)
        self._active, self._runtime = digest, function.runtime_path
        if function.runtime_path is not None:
            self._runtime_entries = runtime_directories(function.runtime_path)
            # In front, so that the runtime's packages win over those of this machine. The user's own modules, next, win
            # over both.
            sys.path[:0] = self._runtime_entries
        if digest:
            sys.path.insert(0, self.directory)
        sys.modules.update(self._set_aside.pop((digest, function.runtime_path), {}))
        # The finders cache the contents of directories by modification time, whose steps may be too coarse to show new
        # files.
        importlib.invalidate_caches()
        return True

    def _deactivate(self) -> None:
        unwanted = [*self._runtime_entries, *([self.directory] if self._active else ())]
        if not unwanted:
            return
        # The same list object: ``Place`` takes another one for damage and puts this one back.
        sys.path[:] = [entry for entry in sys.path if entry not in unwanted]
        self._runtime_entries = []
        # Extension modules are among these. They cannot be unloaded, and importing one twice may crash, which is a
        # reason for setting modules aside instead of dropping them.
        names = [name for entry in unwanted for name in _modules_in(entry + os.sep)]
        self._set_aside[self._active, self._runtime] = {name: sys.modules.pop(name) for name in dict.fromkeys(names)}
        # Nothing is active from here on: if the next modules cannot be written, the call after that finds it so.
        self._active, self._runtime = "", None
        while len(self._set_aside) > _KEPT_SETS:
            del self._set_aside[next(iter(self._set_aside))]


def runtime_directories(runtime: str) -> list[str]:
    """Return the directories in an extracted runtime that contain packages and are not yet on ``sys.path``.

    Some of them are already on the path when the runtime's own interpreter runs this.
    """
    packages = os.path.join("lib", f"python{PYTHON}", "site-packages")
    places = (os.path.join("condaruntime", packages), packages, "site-packages")
    directories = [*(os.path.join(runtime, place) for place in places), runtime]
    return [directory for directory in directories if directory not in sys.path and os.path.isdir(directory)]


def _modules_in(directory: str) -> list[str]:
    """Return the names of the loaded modules whose file or package is in a directory."""
    found = []
    # A copy, because a library's thread, or a ``__path__`` that is computed here, may import. Not list(), which makes
    # tuples: that may run the garbage collector, and a destructor may import while the list is being made.
    for name, module in sys.modules.copy().items():
        places = [getattr(module, "__file__", None)]
        try:
            places += list(getattr(module, "__path__", None) or ())
        except Exception:  # noqa: BLE001 -- sys.modules may contain odd objects, and computing a __path__ may import
            pass
        if any(isinstance(place, str) and (place + os.sep).startswith(directory) for place in places):
            found.append(name)
    return found


def _write_modules(directory: str, modules: Mapping[str, bytes]) -> None:
    """Write modules to a directory. It gets its name when it is complete, so that no process imports half of it."""
    if os.path.isdir(directory):
        return
    # Named after this process: the forks of one server share the root, and two of them may write the same set at once.
    temporary = f"{directory}.{os.getpid()}"
    with own_umask():
        for path, content in modules.items():
            target = os.path.join(temporary, *path.split("/"))
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "wb") as file:
                file.write(content)
    try:
        # rename(2) is atomic, and fails (ENOTEMPTY) if the other process has put a complete directory there.
        os.rename(temporary, directory)
    except OSError:
        if not os.path.isdir(directory):  # otherwise another process with the same root has just created it
            raise
        remove_directory(temporary)
