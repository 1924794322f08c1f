"""``Step``: one change to an account, which can be shown before it is made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

logger = logging.getLogger(__name__)


class Step(NamedTuple):
    """One change.

    Args:
        verb: ``create``, ``update``, ``delete``, ``terminate``, or ``keep`` for a thing that is left as it is.
        what: the thing and its new state; for ``keep``, the thing and the reason.
        run: makes the change.
    """

    verb: str
    what: str
    run: Callable[[], object] = lambda: None

    @property
    def planned(self) -> str:
        """The description of the step before it runs."""
        return f"would {self.verb} {self.what}"

    @property
    def done(self) -> str:
        """The description of the step after it has run."""
        return f"{'kept' if self.verb == 'keep' else self.verb + 'd'} {self.what}"


class Resource(Protocol):
    """A thing on AWS that can plan how to create, update and delete itself.

    Planning only reads. After a plan has run, the next plan has only ``keep`` steps.
    """

    @property
    def title(self) -> str:
        """The kind and name of the resource, such as ``the queue pywren-jobs-1``."""

    def plan(self) -> list[Step]:
        """Return the steps that create the resource, or change the settings that differ."""

    def plan_removal(self) -> list[Step]:
        """Return the steps that delete the resource; empty if it does not exist."""


class Together:
    """Several resources that are shown as one. Their steps follow each other.

    Args:
        title: the title of all.
        resources: the resources, in the order of creation.
    """

    def __init__(self, title: str, resources: Sequence[Resource]) -> None:
        self.title = title
        self._resources = resources

    def plan(self) -> list[Step]:
        """Return the steps of all resources."""
        return [step for resource in self._resources for step in resource.plan()]

    def plan_removal(self) -> list[Step]:
        """Return the steps that delete all resources, the last first."""
        return [step for resource in reversed(self._resources) for step in resource.plan_removal()]


class Planned(NamedTuple):
    """A resource and its plan.

    Args:
        title: the resource's title.
        steps: the steps in order; empty if nothing differs.
    """

    title: str
    steps: list[Step]


def plan_all(resources: Iterable[Resource]) -> list[Planned]:
    """Plan all resources before changing any, so that an error in one plan leaves all of them unchanged."""
    return [Planned(resource.title, resource.plan()) for resource in resources]


def create_all(resources: Iterable[Resource]) -> None:
    """Create resources, or change the settings that differ, and log each step."""
    for planned in plan_all(resources):
        for step in planned.steps:
            step.run()
            logger.info("%s", step.done)


def differing(wanted: Mapping[str, Any], found: Mapping[str, Any] | None) -> list[str]:
    """Return the names of the settings whose value differs from the wanted value."""
    return [name for name, value in wanted.items() if (found or {}).get(name) != value]
