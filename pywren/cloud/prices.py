"""``Prices``: what AWS charges, as far as pywren knows, and for what. This is the one place with sums of money in it.

The table is that of us-east-1 on the day in ``CHECKED``, without taxes, free tiers, savings plans and discounts. Prices
of other regions are not known here, and are not guessed: the section ``prices`` of the configuration says them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from pywren import wrenconfig
from pywren.exceptions import ConfigError
from pywren.wire.reading import number

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


def section() -> dict[str, float]:
    """Return the section ``prices`` of a configuration, with the prices of ``REGION`` on x86."""
    return {name: price for name, price in _KNOWN["x86_64"]._asdict().items() if price is not None}


class Measured(NamedTuple):
    """What the worker of one attempt has measured; ``None`` for what it has not.

    Args:
        seconds: from when it took the call until it wrote the status.
        memory_mb: the memory of the function, in megabytes.
        downloads: how many objects it fetched.
    """

    seconds: float | None
    memory_mb: float | None
    downloads: int


def measured(status: Mapping[str, Any]) -> Measured:
    """Return what a worker has measured. It may have written anything.

    Args:
        status: the members of its status.
    """
    memory = status.get("memory_limit_in_mb")
    text = memory if isinstance(memory, str) and memory.isascii() and memory.isdigit() and len(memory) < 9 else None
    return Measured(
        measured_seconds(status),
        None if text is None else float(text),
        sum(bool(number(status.get(f"{what}_download_time"))) for what in ("func", "data")),
    )


def measured_seconds(status: Mapping[str, Any]) -> float | None:
    """Return only the ``seconds`` of what ``measured`` returns."""
    first, last = number(status.get("start_time")), number(status.get("end_time"))
    return None if first is None or last is None else max(0.0, last - first)


class Usage(NamedTuple):
    """What calls have used that AWS charges for.

    Args:
        seconds: seconds of workers. Lambda bills whole milliseconds.
        gb_seconds: these seconds times the workers' memory in GB.
        invocations: how many invocations the service has accepted.
        puts: how many PUT requests to S3 were sent.
        gets: how many GET requests to S3 were sent.
    """

    seconds: float = 0.0
    gb_seconds: float = 0.0
    invocations: int = 0
    puts: int = 0
    gets: int = 0

    @classmethod
    def of_attempt(cls, seconds: float, memory_mb: float, *, is_output_apart: bool, downloads: int) -> Usage:
        """Return what an attempt has used that has reported, apart from its invocation.

        Args:
            seconds: what its worker measured.
            memory_mb: the memory of the function, in megabytes.
            is_output_apart: whether its output is an object of its own in the storage.
            downloads: how many objects its worker fetched.
        """
        billed = math.ceil(max(0.0, seconds) * 1000) / 1000
        # The worker writes the status and perhaps the output, and this program reads them.
        return cls(billed, billed * memory_mb / 1024, 0, 1 + is_output_apart, 1 + is_output_apart + downloads)

    def plus(self, other: Usage) -> Usage:
        """Return the sum of two."""
        return Usage(
            self.seconds + other.seconds,
            self.gb_seconds + other.gb_seconds,
            self.invocations + other.invocations,
            self.puts + other.puts,
            self.gets + other.gets,
        )

    def times(self, factor: float) -> Usage:
        """Return so many times this usage; requests are whole numbers."""
        return Usage(
            self.seconds * factor,
            self.gb_seconds * factor,
            round(self.invocations * factor),
            round(self.puts * factor),
            round(self.gets * factor),
        )


def dollars_of(usage: Usage, prices: Prices, storage_mb: int) -> dict[str, float | None]:
    """Return US dollars by what they are paid for; ``None`` for what has no known price.

    Args:
        usage: what was used.
        prices: the prices.
        storage_mb: the size of the function's ``/tmp``, in megabytes.
    """
    storage = usage.seconds * max(0, storage_mb - FREE_STORAGE_MB) / 1024
    written, read = _times(usage.puts / 1000, prices.thousand_puts), _times(usage.gets / 1000, prices.thousand_gets)
    return {
        "compute": _times(usage.gb_seconds, prices.gb_second),
        "invocations": _times(usage.invocations / 1e6, prices.million_requests),
        "/tmp": _times(storage, prices.storage_gb_second),
        "S3": None if written is None or read is None else written + read,
    }


def total(parts: Mapping[str, float | None]) -> float | None:
    """Return the sum of some parts; ``None`` if any of them is not known."""
    sums = list(parts.values())
    return None if None in sums else math.fsum(one for one in sums if one is not None)


def _times(amount: float, price: float | None) -> float | None:
    if not amount:
        return 0.0
    return None if price is None else amount * price


def money(dollars: float) -> str:
    """Return a sum of money with two decimals; a smaller sum with two significant digits: ``"$0.0000021"``."""
    if dollars >= 0.095 or dollars == 0:
        return f"${dollars:,.2f}"
    return f"${dollars:.{1 - math.floor(math.log10(dollars))}f}"


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


class Tariff(NamedTuple):
    """What attempts of calls of one function cost. All prices that it needs are known.

    Args:
        prices: the prices.
        storage_mb: the size of the function's ``/tmp``, in megabytes.
        memory_mb: the memory of the function, in megabytes, for attempts whose workers have not told it yet.
        longest: the most seconds that an attempt may run.
    """

    prices: Prices
    storage_mb: int
    memory_mb: int
    longest: float

    def cost(self, usage: Usage) -> float:
        """Return what was used in US dollars."""
        return total(dollars_of(usage, self.prices, self.storage_mb)) or 0.0

    def cost_of_running(self, seconds: float) -> float:
        """Return what an attempt costs that runs for some seconds, apart from its invocation, in US dollars."""
        return self.cost(Usage.of_attempt(seconds, self.memory_mb, is_output_apart=False, downloads=0))


def tariff_of(billing: Billing, config: Mapping[str, Any], job_max_runtime: float) -> Tariff:
    """Return what attempts of calls cost.

    Args:
        billing: what the configuration says about costs.
        config: the configuration.
        job_max_runtime: seconds after which a call is stopped.

    Raises:
        ConfigError: a price is unknown.
    """
    architecture = str(wrenconfig.setting(config, "lambda.architecture"))
    prices = billing.prices(architecture)
    needed = prices if billing.storage_mb > FREE_STORAGE_MB else prices._replace(storage_gb_second=0.0)
    unknown = [name for name, price in needed._asdict().items() if price is None]
    if unknown:
        raise ConfigError(
            f"budget: what a call costs is unknown, because pywren knows only the prices of {REGION}, and the function "
            f"is in {billing.region or 'an unknown region'}: write {', '.join(unknown)} into the section `prices` of "
            "the configuration. Nothing was invoked"
        )
    longest = min(job_max_runtime, float(wrenconfig.setting(config, "lambda.timeout")))
    return Tariff(prices, billing.storage_mb, int(wrenconfig.setting(config, "lambda.memory")), longest)
