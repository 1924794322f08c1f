"""``Prices``: what AWS charges, as far as pywren knows. This is the one place with sums of money in it.

The table is that of us-east-1 on the day in ``CHECKED``, without taxes, free tiers, savings plans and discounts. Prices
of other regions are not known here, and are not guessed: the section ``prices`` of the configuration says them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pywren import wrenconfig

CHECKED = "2026-11"
"""The month in which these prices were read (https://aws.amazon.com/lambda/pricing/, https://aws.amazon.com/s3/pricing/)."""

REGION = "us-east-1"
"""The region whose prices these are."""

FREE_STORAGE_MB = 512
"""Megabytes of a function's ``/tmp`` that cost nothing."""


class Prices(NamedTuple):
    """Prices in US dollars; ``None`` for a price that is not known.

    Args:
        gb_second: one GB-second of a function's memory.
        million_requests: one million invocations.
        storage_gb_second: one GB-second of ``/tmp`` above 512 MB.
        thousand_puts: 1,000 PUT and LIST requests to S3.
        thousand_gets: 1,000 GET requests to S3.
    """

    gb_second: float | None = None
    million_requests: float | None = None
    storage_gb_second: float | None = None
    thousand_puts: float | None = None
    thousand_gets: float | None = None


_KNOWN = {
    "x86_64": Prices(0.0000166667, 0.20, 0.0000000309, 0.005, 0.0004),
    "arm64": Prices(0.0000133334, 0.20, 0.0000000309, 0.005, 0.0004),
}


class Billing(NamedTuple):
    """What is needed to say what calls on Lambda have cost. Callsets carry it, and so do pickled futures.

    Args:
        region: the region of the function; ``None`` if it is unknown.
        storage_mb: the size of the function's ``/tmp``, in megabytes.
        own: the prices of the configuration, which take precedence.
    """

    region: str | None
    storage_mb: int
    own: Prices

    def prices(self, architecture: str | None) -> Prices:
        """Return the prices that hold for these calls.

        Args:
            architecture: ``x86_64`` or ``arm64``; ``None`` if it is unknown.
        """
        known = _KNOWN.get(architecture or "", Prices()) if self.region == REGION else Prices()
        return Prices(*(known_one if own is None else own for own, known_one in zip(self.own, known, strict=True)))

    def prices_of_table(self, architecture: str | None) -> Prices:
        """Return the prices of ``REGION``, for comparison where those of the region are not known."""
        return self._replace(region=REGION).prices(architecture)


def billing_of(config: Mapping[str, Any], region: str | None) -> Billing:
    """Return what a configuration says about costs.

    Args:
        config: the configuration.
        region: the region of the function.
    """
    own = Prices(*(wrenconfig.setting(config, f"prices.{name}") for name in Prices._fields))
    return Billing(region, int(wrenconfig.setting(config, "lambda.ephemeral_storage")), own)
