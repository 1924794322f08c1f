"""``Emulator``: the user's handle on an emulated AWS: its environment, its configuration, its faults and counters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pywren.testing.emulator._counters import Counters, Execution
from pywren.testing.emulator._faults import Faults


class Emulator:
    """A running emulator. Made by ``emulate()``.

    Attributes:
        endpoint: its URL; what ``AWS_ENDPOINT_URL`` is to be.
        region: its region.
    """

    endpoint: str
    region: str

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment variables under which boto3 and pywren use it, and nothing else of AWS."""
        raise NotImplementedError

    def deploy(self, *, memory: int = 1536, timeout: int = 300, **settings: Any) -> dict[str, Any]:
        """Create bucket, role, queue and function, as pywren does on AWS, and return the configuration.

        Args:
            memory: megabytes of the function.
            timeout: its seconds.
            **settings: more keys of the section ``lambda``.
        """
        raise NotImplementedError

    def set_faults(self, faults: Faults) -> None:
        """Have these faults from now on, and no others."""
        raise NotImplementedError

    def counters(self) -> Counters:
        """Return what was asked of it until now."""
        raise NotImplementedError

    def executions(self, function: str | None = None) -> list[Execution]:
        """Return every execution that has ended, oldest first; of one function, or of all."""
        raise NotImplementedError

    def wait_idle(self, timeout: float = 60.0) -> None:
        """Wait until no event waits or runs, and the log is written.

        Raises:
            EmulatorError: that took longer than ``timeout`` seconds.
        """
        raise NotImplementedError

    def close(self) -> None:
        """End it and everything it started."""
        raise NotImplementedError


@contextmanager
def emulate(**settings: Any) -> Iterator[Emulator]:
    """Run an emulated AWS while the context lasts, with the process's environment pointing to it.

    Args:
        **settings: see ``Settings``.

    Raises:
        ImportError: a part is not installed; names ``pywren[emulator]``.
        EmulatorError: a part did not come up.
    """
    raise NotImplementedError
    yield
