"""``Step``: one change to an account, which can be told before it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from pywren.aws.errors import error_code
from pywren.aws.requests import AWS
from pywren.exceptions import PywrenError


class Step(NamedTuple):
    """One change.

    Args:
        verb: ``create``, ``update``, ``delete``, ``terminate``, or ``keep`` when a thing is left as it is for a reason.
        what: the thing, and how it will be.
        run: makes the change.
    """

    verb: str
    what: str
    run: Callable[[], object] = lambda: None

    @property
    def planned(self) -> str:
        """The step before it is run."""
        return f"would {self.verb} {self.what}"

    @property
    def done(self) -> str:
        """The step after it was run."""
        return f"{'kept' if self.verb == 'keep' else self.verb + 'd'} {self.what}"


class Resource(Protocol):
    """A thing on AWS that knows what is missing until it is as it should be, and what deleting it takes.

    Making a plan only looks. A plan that is run and made again is empty, but for what is kept.
    """

    @property
    def title(self) -> str:
        """What it is, such as ``the queue pywren-jobs-1``."""

    def plan(self) -> list[Step]:
        """Return the steps until it is as it should be."""

    def plan_removal(self) -> list[Step]:
        """Return the steps until nothing of it is left; none when there is nothing."""


class Planned(NamedTuple):
    """A thing, and what is to be done about it.

    Args:
        title: what it is.
        steps: in their order; none when it is as it should be.
    """

    title: str
    steps: list[Step]


def plan_all(resources: Iterable[Resource]) -> list[Planned]:
    """Plan things before any of them is changed: one that must not be touched keeps all as they are."""
    return [Planned(resource.title, resource.plan()) for resource in resources]


def find(
    aws: AWS, service: str, operation: str, *, absent: tuple[str, ...], doing: str, **arguments: Any
) -> dict[str, Any] | None:
    """Send a request; return ``None`` when the service says with one of some codes that there is no such thing."""
    try:
        return aws.request(service, operation, doing=doing, **arguments)
    except PywrenError as error:
        if error.__cause__ is not None and error_code(error.__cause__) in absent:
            return None
        raise


def differing(wanted: Mapping[str, Any], found: Mapping[str, Any] | None) -> list[str]:
    """Return the names under which something else is found than wanted."""
    return [name for name, value in wanted.items() if (found or {}).get(name) != value]
