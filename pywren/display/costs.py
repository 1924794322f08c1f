"""``Costs``: what calls on Lambda have cost, as far as it is known.

Only what was measured counts: the seconds that workers report, the invocations that the service accepted, and the
requests to S3 that every call needs. So a sum is a lower bound, and ``missing`` says what is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pywren.cloud.prices import CHECKED, REGION, Billing, Usage, dollars_of, money, total
from pywren.display.facts import CallFacts, MapFacts
from pywren.display.words import number
from pywren.wire.relay import relays_of


class Costs(NamedTuple):
    """What calls have cost at least, or will.

    Args:
        gb_seconds: the memory of the workers times the seconds that they measured.
        invocations: how many invocations the service accepted.
        puts: how many PUT requests to S3 the calls needed.
        gets: how many GET requests to S3 the calls needed.
        parts: US dollars by what they are paid for; ``None`` for what has no known price.
        elsewhere: the sum at the prices of ``prices.REGION``, where those of the calls' region are not known.
        region: the region of the calls; ``None`` if it is not known, or if there are several.
        unmeasured: how many attempts left no figures, so that their seconds are not in the sum.
        others: whether some calls ran on workers of which pywren does not know what they cost.
        relays: how many of the invocations handed others on.
    """

    gb_seconds: float
    invocations: int
    puts: int
    gets: int
    parts: Mapping[str, float | None]
    elsewhere: float | None
    region: str | None
    unmeasured: int = 0
    others: bool = False
    relays: int = 0

    @property
    def dollars(self) -> float | None:
        """The sum in US dollars; ``None`` if any price is not known."""
        return total(self.parts)

    @property
    def missing(self) -> list[str]:
        """What is not in the sum, in words."""
        missing = ["the start of containers (INIT)", "the polls of this program, signs of life and retried requests"]
        if self.relays:
            missing.insert(0, f"the seconds of {number(self.relays, 'relay')}")
        if self.unmeasured:
            missing.insert(0, f"the seconds of {number(self.unmeasured, 'attempt')} that left no figures")
        if self.others:
            missing.insert(0, "workers of a queue, and calls that other processes have made")
        return missing

    def spoken(self, least: str = "at least ") -> str:
        """Return the sum in words."""
        amount = f"{self.gb_seconds:,.4g} GB-s" if self.gb_seconds < 10_000 else f"{self.gb_seconds:,.0f} GB-s"
        if self.others:
            return f"{amount}; dollars are unknown, as some calls did not run on Lambda, or another process made them"
        if self.dollars is None:
            there = "" if self.elsewhere is None else f" (in {REGION} it would be {money(self.elsewhere)})"
            where = "these workers" if self.region is None else self.region
            return f"{amount}; dollars are unknown{there}: set `prices` in the configuration to those of {where}"
        parts = ", ".join(f"{name} {money(one)}" for name, one in self.parts.items() if one)
        return f"{amount}, {least}{money(self.dollars)} ({parts})" if parts else f"{amount}, {money(self.dollars)}"

    def to_dict(self) -> dict[str, Any]:
        """Return the costs as a dict that JSON can encode."""
        prices = {"region": REGION, "checked": CHECKED}
        return {**self._asdict(), "parts": dict(self.parts), "missing": self.missing, "dollars": self.dollars,
                "table": prices}  # fmt: skip


def costs_of(maps: Iterable[MapFacts], times: float = 1.0) -> Costs | None:
    """Return what some calls have cost; ``None`` if none of them ran in AWS.

    Args:
        maps: the calls, by callset.
        times: how many times the calls are to be counted, to extrapolate. What a map needs once is counted once.
    """
    paid = [one for one in maps if not one.is_local]
    if not paid:
        return None
    found = [_costs_of_map(one, one.billing, times) for one in paid if one.billing is not None]
    regions = {one.region for one in found}
    others = len(found) < len(paid)
    parts = _added(one.parts for one in found)
    elsewhere = [one.elsewhere for one in found]
    if others:
        parts = {**parts, "other workers": None}
    return Costs(
        gb_seconds=sum(one.gb_seconds for one in found),
        invocations=sum(one.invocations for one in found),
        puts=sum(one.puts for one in found),
        gets=sum(one.gets for one in found),
        parts=parts,
        elsewhere=None if others or None in elsewhere else math.fsum(one for one in elsewhere if one is not None),
        region=regions.pop() if len(regions) == 1 else None,
        unmeasured=sum(one.unmeasured for one in found),
        others=others,
        relays=sum(one.relays for one in found),
    )


def _costs_of_map(one: MapFacts, billing: Billing, times: float) -> Costs:
    invoked = [call for call in one.calls if call.invoked is not None]
    ids = [name for call in invoked for name in call.invocations or [""] * call.attempts]
    relays = relays_of(ids)
    invocations = len({name for name in ids if name}) + ids.count("") + len(relays)
    pages = {call.page for call in one.calls if call.page is not None}
    plans = {page.rpartition("/")[0] for page in pages}
    # The plans of chunks, and the pages with what became of their calls.
    usage = Usage(invocations=invocations, puts=len(plans) + len(pages), gets=len(pages))
    for call in one.calls:
        usage = usage.plus(_usage_of(call))
    usage = usage.times(times).plus(Usage(puts=1))  # the function, however many calls there are
    architecture = next((call.architecture for call in one.calls if call.architecture), None)
    parts = dollars_of(usage, billing.prices(architecture), billing.storage_mb)
    elsewhere = None
    if total(parts) is None:
        elsewhere = total(dollars_of(usage, billing.prices_of_table(architecture), billing.storage_mb))
    unmeasured = sum(
        call.attempts - (call.billed is not None and call.memory_mb is not None)
        for call in one.calls
        if call.invoked is not None
    )
    return Costs(
        usage.gb_seconds, usage.invocations, usage.puts, usage.gets, parts, elsewhere, billing.region,
        round(unmeasured * times), relays=round(len(relays) * times),
    )  # fmt: skip


def _usage_of(call: CallFacts) -> Usage:
    """Return what a call has used, apart from its invocations."""
    apart, downloads = call.is_output_apart, call.downloads
    if not call.attempts:  # by its status other processes learn how it ended, if it has
        return Usage(puts=int(call.state not in ("invoked", "running")))
    if call.billed is None:  # it has not reported
        return Usage(puts=int(apart), gets=apart + downloads)
    seconds = 0.0 if call.memory_mb is None else call.billed
    used = Usage.of_attempt(seconds, call.memory_mb or 0.0, is_output_apart=apart, downloads=downloads)
    return used if call.page is None else used.plus(Usage(puts=-1, gets=-1))  # its page was counted


def _added(several: Iterable[Mapping[str, float | None]]) -> dict[str, float | None]:
    added: dict[str, float | None] = {}
    for parts in several:
        for name, one in parts.items():
            before = added.get(name, 0.0)
            added[name] = None if one is None or before is None else before + one
    return added
