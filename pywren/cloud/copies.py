"""``FormerCopies``: the copies of the function that an earlier configuration had, and the present one has not."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from pywren.aws.errors import was_denied
from pywren.aws.requests import AWS
from pywren.cloud.function import LambdaFunction, Owner
from pywren.cloud.log_group import LogGroup
from pywren.cloud.names import Names
from pywren.cloud.plan import Step
from pywren.exceptions import DeploymentError
from pywren.wire.keys import MOST_COPIES

logger = logging.getLogger(__name__)


class FormerCopies:
    """Copies that are no longer wanted, with their log groups. Both plans delete them.

    Args:
        config: the configuration.
        names: the names of all resources.
        aws: the account and region.
    """

    def __init__(self, config: Mapping[str, Any], names: Names, aws: AWS) -> None:
        self.names = names
        self._config = config
        self._aws = aws

    @property
    def title(self) -> str:
        """The kind and name of the resource."""
        return f"the former copies of the function {self.names.function}"

    def plan(self) -> list[Step]:
        """Return the steps that delete these copies."""
        return self.plan_removal()

    def plan_removal(self) -> list[Step]:
        """Return the steps that delete these copies."""
        # The last copy first: should the deletion be interrupted, the next one finds the others without a gap.
        found = reversed(list(self._found()))
        return [step for function, log in found for step in (*function.plan_removal(), *log.plan_removal())]

    def _found(self) -> Iterator[tuple[LambdaFunction, LogGroup]]:
        for names in self.names.each_copy(MOST_COPIES)[self.names.copies :]:
            function = LambdaFunction(self._config, names, self._aws)
            try:
                owner = function.owner()
            except DeploymentError as error:
                if not was_denied(error):
                    raise
                # The permissions are older than copies are, or for these resources only.
                logger.debug("whether there is a function %s is not known: %s", names.function, error)
                return
            if owner is not Owner.PYWREN:
                return
            yield function, LogGroup(names, self._aws, function)
