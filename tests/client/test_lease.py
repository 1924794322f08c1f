"""The lease on a callset: when it is written, who holds it, and what is not believed."""

from __future__ import annotations

import json

import pytest

import pywren
from pywren.client.callset import Callset
from pywren.client.lease import FIRST_WRITE, RENEWAL, STALE, YOUNG, Lease, held
from pywren.exceptions import DecodeError, IntegrityError, StorageError
from pywren.storage import Storage
from pywren.wire.lease import LEASE_LIMIT, Holder
from pywren.wire.signed import sign

SUBMITTED = 1_800_000_000.0
SECRET = b"s" * 32


class Clock:
    """The storage's clock; tests set it."""

    def __init__(self):
        self.now = SUBMITTED

    def __call__(self):
        return self.now

    def after(self, seconds):
        self.now = SUBMITTED + seconds
        return self


class Counted(Storage):
    """A storage that counts requests, and that can be out of reach."""

    requests = 0
    reachable = True

    def _request(self):
        self.requests += 1
        if not self.reachable:
            raise StorageError("no route to the storage")

    def get(self, *args, **options):
        self._request()
        return super().get(*args, **options)

    def put(self, *args, **options):
        self._request()
        return super().put(*args, **options)


@pytest.fixture
def clock():
    """The storage's clock."""
    return Clock()


@pytest.fixture
def storage():
    """A storage on this machine."""
    return Counted(pywren.wrenconfig.extract_storage_config(pywren.wrenconfig.default()))


@pytest.fixture
def callset(storage):
    """A callset that was submitted when the clock starts."""
    return Callset(storage.prefix, submitted=SUBMITTED)


@pytest.fixture
def lease(storage, callset, clock):
    """The lease of the client that made the callset."""
    return Lease(storage, callset, clock)


def test_a_short_callset_costs_no_request(lease, storage, clock):
    """Nothing is written, read or deleted for a callset that ends within ten seconds."""
    for second in range(int(FIRST_WRITE)):
        clock.after(second)
        assert lease.renew_if_due()
    lease.release()
    assert storage.requests == 0


def test_it_is_renewed_every_minute(lease, storage, callset, clock):
    """The first write comes after ten seconds, then one renewal a minute, however often the callset is polled."""
    written = []
    for second in range(int(FIRST_WRITE + 3 * RENEWAL) + 1):
        clock.after(second)
        before = storage.requests
        assert lease.renew_if_due()
        if storage.requests > before:
            written.append(second)
    assert written == [10, 70, 130, 190]
    holder = held(storage, callset, clock)
    assert (holder.since, holder.renewed) == (SUBMITTED + 10, SUBMITTED + 190)
    assert str(holder).startswith("process ")


def test_a_lease_that_is_not_renewed_becomes_stale(lease, storage, callset, clock):
    """After three minutes without a renewal nobody drives the callset."""
    clock.after(FIRST_WRITE)
    lease.renew_if_due()
    assert held(storage, callset, clock.after(FIRST_WRITE + STALE - 1)) is not None
    assert held(storage, callset, clock.after(FIRST_WRITE + STALE)) is None


def test_a_young_callset_without_a_lease_counts_as_held(storage, callset, clock):
    """Its client writes no lease in the first seconds. Who it is, is not known."""
    holder = held(storage, callset, clock.after(YOUNG - 1))
    assert holder.id == ""
    assert str(holder) == "the client that made the calls"
    assert held(storage, callset, clock.after(YOUNG)) is None


def test_a_released_lease_is_free_at_once(lease, storage, callset, clock):
    """A client that has nothing left to drive makes room for others."""
    assert lease.acquire()
    clock.after(100)
    assert held(storage, callset, clock) is not None
    lease.release()
    assert held(storage, callset, clock) is None
    lease.release()


def test_of_two_clients_one_gets_it(lease, storage, callset, clock):
    """The other one is refused as long as the first renews."""
    other = Lease(storage, callset, clock)
    assert lease.acquire()
    assert not other.acquire()
    assert not other.renew_if_due()
    other.release()
    assert held(storage, callset, clock) is not None


def test_a_client_that_slept_notices_that_another_took_over(lease, storage, callset, clock):
    """It drives no more, neither at its next renewal nor later, and does not release what is not its own."""
    clock.after(FIRST_WRITE)
    lease.renew_if_due()
    clock.after(3600)
    other = Lease(storage, callset, clock)
    assert other.acquire()
    assert not lease.renew_if_due()
    clock.after(9000)
    assert not lease.renew_if_due()
    lease.release()
    assert json.loads(storage.get(callset.keys.lease))["id"] == other._id


def test_a_client_that_slept_alone_goes_on(lease, clock):
    """If nobody has taken the lease meanwhile, it is renewed."""
    clock.after(FIRST_WRITE)
    lease.renew_if_due()
    clock.after(3600)
    assert lease.renew_if_due()


def test_a_dead_holder_is_overruled(lease, storage, callset, clock):
    """Whoever knows that the holder is dead need not wait until its lease is stale."""
    assert lease.acquire()
    assert Lease(storage, callset, clock).acquire(over_any=True)
    clock.after(RENEWAL)
    assert not lease.renew_if_due()


def test_an_unreachable_storage_ends_the_lease_when_others_see_it_stale(lease, storage, clock):
    """A client goes on while its last renewal is fresh, stops when it is stale, and goes on after the outage."""
    clock.after(FIRST_WRITE)
    assert lease.renew_if_due()
    storage.reachable = False
    assert lease.renew_if_due()
    clock.after(FIRST_WRITE + STALE - 1)
    assert lease.renew_if_due()
    clock.after(FIRST_WRITE + STALE)
    assert not lease.renew_if_due()
    storage.reachable = True
    assert lease.renew_if_due()


@pytest.mark.parametrize("jump", [-3600, 3600])
def test_a_clock_that_is_set_does_not_hold_a_callset_for_an_hour(lease, storage, callset, clock, jump):
    """A lease from far in the future says as little as an old one, and its holder renews it at once."""
    clock.after(FIRST_WRITE)
    lease.renew_if_due()
    clock.after(FIRST_WRITE + jump)
    assert held(storage, callset, clock) is None
    assert lease.renew_if_due()
    assert held(storage, callset, clock) is not None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"x" * (LEASE_LIMIT + 1),
        Holder("h", "host", 1, SUBMITTED, SUBMITTED + 100).encode(b"another secret"),
        json.dumps(Holder("h", "host", 1, SUBMITTED, SUBMITTED + 100)._asdict()).encode(),
        sign(b'{"id":"h"}', SECRET, "lease:"),
        sign(b'{"id":"h","host":1,"pid":1,"since":1,"renewed":NaN}', SECRET, "lease:"),
    ],
)
def test_what_is_not_a_lease_counts_as_none(storage, clock, data):
    """Neither a forged lease nor a broken one keeps anybody from driving a callset."""
    callset = Callset(storage.prefix, secret=SECRET, submitted=SUBMITTED)
    storage.put(callset.keys.lease, data)
    clock.after(100)
    assert held(storage, callset, clock) is None
    lease = Lease(storage, callset, clock)
    assert lease.acquire()
    assert held(storage, callset, clock).pid


def test_the_lease_of_one_callset_is_no_lease_of_another(storage, callset, clock):
    """Each callset has a secret of its own."""
    other = Callset(storage.prefix, submitted=SUBMITTED)
    Lease(storage, other, clock).acquire()
    storage.put(callset.keys.lease, storage.get(other.keys.lease))
    assert held(storage, callset, clock.after(100)) is None


def test_the_wire_form():
    """A holder arrives as it was sent; a long name of a host cannot exceed the limit."""
    holder = Holder("id", "hôst" * 1000, 7, 1.5, 2.5)
    data = holder.encode(SECRET)
    assert len(data) <= LEASE_LIMIT
    assert Holder.decode(data, SECRET) == holder._replace(host=holder.host[:255])
    with pytest.raises(IntegrityError, match="not signed"):
        Holder.decode(data, b"other")
    with pytest.raises(DecodeError, match="no 'id'"):
        Holder.decode(sign(b'{"x":1}', SECRET, "lease:"), SECRET)
