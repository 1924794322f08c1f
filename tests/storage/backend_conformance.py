"""The promises of ``Backend``: a backend's test class inherits them and provides a ``backend`` fixture."""

from __future__ import annotations

import concurrent.futures
import threading
import time
from typing import Any

import pytest

from pywren.exceptions import IntegrityError, StorageError, StorageNoSuchKeyError
from pywren.storage.backend import Backend


class BackendConformance:
    """Each method is one promise of ``Backend``."""

    @pytest.mark.parametrize("data", [b"", b"x", b"\0\xff" * 1000, bytearray(b"abc"), memoryview(b"abcdef")[1:4]])
    def test_returns_what_was_put(self, backend: Backend, data: bytes | bytearray | memoryview) -> None:
        """An object comes back byte for byte, whatever bytes-like type it was stored as."""
        assert backend.put("p/a", data) is True
        assert backend.get("p/a") == bytes(data)

    @pytest.mark.parametrize("data", [b"v", b"", "text with é", b"\0\xff" * 1000], ids=repr)
    def test_names_of_0_4(self, backend: Backend, data: bytes | str) -> None:
        """0.4's ``put_object``, ``get_object``, ``key_exists`` and ``list_keys_with_prefix`` accept bytes and text."""
        handler: Any = backend
        assert not handler.key_exists("p/a")
        with pytest.raises(StorageNoSuchKeyError):
            handler.get_object("p/a")
        handler.put_object("p/a", data)
        handler.put_object("p/ab", b"")
        assert handler.get_object("p/a") == (data.encode() if isinstance(data, str) else data)
        assert (handler.key_exists("p/a"), handler.key_exists("p"), handler.key_exists("p/b")) == (True, False, False)
        assert handler.list_keys_with_prefix("p/a") == ["p/a", "p/ab"]
        assert handler.list_keys_with_prefix("q") == []

    def test_put_replaces(self, backend: Backend) -> None:
        """A put without a condition replaces the object, and returns True."""
        backend.put("p/a", b"a long first version")
        assert backend.put("p/a", b"second") is True
        assert backend.get("p/a") == b"second"

    def test_put_if_absent_keeps_the_first(self, backend: Backend) -> None:
        """The first conditional put wins; later ones return False and change nothing."""
        assert backend.put("p/a", b"first", if_absent=True) is True
        assert backend.put("p/a", b"second", if_absent=True) is False
        assert backend.get("p/a") == b"first"

    def test_put_if_absent_of_the_same_bytes_is_false(self, backend: Backend) -> None:
        """A conditional put of the same bytes returns False."""
        backend.put("p/a", b"same", if_absent=True)
        assert backend.put("p/a", b"same", if_absent=True) is False

    def test_put_if_absent_after_delete(self, backend: Backend) -> None:
        """A deleted object is absent."""
        backend.put("p/a", b"first")
        backend.delete(["p/a"])
        assert backend.put("p/a", b"second", if_absent=True) is True

    def test_one_of_many_threads_wins(self, backend: Backend) -> None:
        """When many threads put one key with ``if_absent`` at once, exactly one writes it."""
        barrier = threading.Barrier(8)

        def write(number: int) -> bool:
            barrier.wait(timeout=30)
            return backend.put("p/contested/status.json", str(number).encode(), if_absent=True)

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            won = list(pool.map(write, range(8)))
        assert won.count(True) == 1
        assert backend.get("p/contested/status.json") == str(won.index(True)).encode()

    def test_missing_key(self, backend: Backend) -> None:
        """Getting a missing object is an error that names the key."""
        with pytest.raises(StorageNoSuchKeyError, match="p/nothing") as caught:
            backend.get("p/nothing")
        assert caught.value.key == "p/nothing"

    def test_missing_range(self, backend: Backend) -> None:
        """Getting a range of a missing object is the same error."""
        with pytest.raises(StorageNoSuchKeyError):
            backend.get("p/nothing", (0, 3))

    def test_a_prefix_is_no_object(self, backend: Backend) -> None:
        """A prefix of other keys is not an object itself."""
        backend.put("p/a/b", b"x")
        with pytest.raises(StorageNoSuchKeyError):
            backend.get("p/a")

    @pytest.mark.parametrize(
        ("byte_range", "expected"),
        [((0, 0), b"0"), ((2, 4), b"234"), ((0, 9), b"0123456789"), ((9, 9), b"9"), ((8, 50), b"89")],
    )
    def test_range(self, backend: Backend, byte_range: tuple[int, int], expected: bytes) -> None:
        """Both ends of a range are inclusive, and the last may lie beyond the object's end."""
        backend.put("p/a", b"0123456789")
        assert backend.get("p/a", byte_range) == expected

    @pytest.mark.parametrize("limit", [10, 11, 1_000_000])
    def test_what_is_not_longer_than_expected(self, backend: Backend, limit: int) -> None:
        """An object of the expected size, or a smaller one, comes back whole."""
        backend.put("p/a", b"0123456789")
        assert backend.get("p/a", limit=limit) == b"0123456789"
        assert backend.get("p/a", (2, 4), limit=3) == b"234"

    @pytest.mark.parametrize("limit", [0, 1, 9])
    def test_what_is_longer_than_expected(self, backend: Backend, limit: int) -> None:
        """A longer object is an error that names it."""
        backend.put("p/a", b"0123456789")
        with pytest.raises(IntegrityError, match=f"p/a is not what was stored.*{limit} bytes"):
            backend.get("p/a", limit=limit)
        assert backend.get("p/a") == b"0123456789"

    def test_nothing_is_expected_and_nothing_is_there(self, backend: Backend) -> None:
        """An empty object is within any limit."""
        backend.put("p/a", b"")
        assert backend.get("p/a", limit=0) == b""

    def test_limit_of_a_missing_key(self, backend: Backend) -> None:
        """A missing object gives the same error when there is a limit."""
        with pytest.raises(StorageNoSuchKeyError):
            backend.get("p/nothing", limit=3)

    def test_the_storages_time(self, backend: Backend) -> None:
        """The time of a storage on this machine, or of an emulated service, is this machine's time."""
        backend.put("p/a", b"")
        assert abs(backend.now() - time.time()) < 60

    @pytest.mark.parametrize("byte_range", [(10, 12), (5, 3), (-3, -1)])
    def test_impossible_range(self, backend: Backend, byte_range: tuple[int, int]) -> None:
        """A range that is invalid or beyond the object is an error, and never returns other bytes."""
        backend.put("p/a", b"0123456789")
        with pytest.raises(StorageError):
            backend.get("p/a", byte_range)

    def test_list_is_in_order(self, backend: Backend) -> None:
        """Listing returns all keys below a prefix, sorted by code point."""
        keys = ["p/b", "p/a/00010/x", "p/a/00009/x", "p/a-b", "p/a/2", "q/z"]
        for key in keys:
            backend.put(key, b"")
        assert backend.list("p/") == sorted(key for key in keys if key.startswith("p/"))
        assert backend.list("") == sorted(keys)

    def test_list_with_times(self, backend: Backend) -> None:
        """The listing is the same, with the times of objects that were asked for."""
        for key in ("p/a/1.beacon", "p/a/2.json", "p/b/1.beacon", "q/1.beacon"):
            backend.put(key, b"x")
        keys, times = backend.list_timed("p/", suffix=".beacon")
        assert list(keys) == backend.list("p/")
        assert sorted(times) == ["p/a/1.beacon", "p/b/1.beacon"]
        # S3 rounds times to seconds.
        assert all(abs(written - backend.now()) < 60 for written in times.values())
        keys, times = backend.list_timed("p/", "p/a/2.json", suffix=".beacon")
        assert (list(keys), list(times)) == (["p/b/1.beacon"], ["p/b/1.beacon"])

    def test_list_with_keys_left_out(self, backend: Backend) -> None:
        """Keys between two others may be missing, but no key outside is."""
        keys = [f"p/{name}" for name in ("a", "c/1", "c/2", "c/3", "d")]
        for key in keys:
            backend.put(key, b"x")
        found, _ = backend.list_timed("p/", "p/a", suffix="x", skip=("p/c/", "p/c/3"))
        assert {"p/c/3", "p/d"} <= set(found) <= set(keys[1:])
        assert list(found) == sorted(found)

    def test_times_move_when_an_object_is_written_again(self, backend: Backend) -> None:
        """The time is that of the last write."""
        backend.put("p/1.beacon", b"x")
        first = backend.list_timed("p/", suffix=".beacon")[1]["p/1.beacon"]
        time.sleep(1.1)
        backend.put("p/1.beacon", b"x")
        assert backend.list_timed("p/", suffix=".beacon")[1]["p/1.beacon"] > first

    def test_list_of_a_partial_name(self, backend: Backend) -> None:
        """A prefix need not end with a slash."""
        for key in ("p/ab", "p/abc/d", "p/b", "pp/ab"):
            backend.put(key, b"")
        assert backend.list("p/ab") == ["p/ab", "p/abc/d"]
        assert backend.list("p") == ["p/ab", "p/abc/d", "p/b", "pp/ab"]

    def test_list_start_after(self, backend: Backend) -> None:
        """Only keys after ``start_after`` are listed; it need not exist."""
        for number in range(5):
            backend.put(f"p/{number}", b"")
        assert backend.list("p/", "p/2") == ["p/3", "p/4"]
        assert backend.list("p/", "p/25") == ["p/3", "p/4"]
        assert backend.list("p/", "p/9") == []

    def test_list_of_nothing(self, backend: Backend) -> None:
        """A prefix without objects lists nothing."""
        assert backend.list("nothing/here/") == []

    def test_list_sees_what_was_just_put(self, backend: Backend) -> None:
        """Listing sees all completed puts and deletes."""
        backend.put("p/a", b"")
        assert backend.list("p/") == ["p/a"]
        backend.delete(["p/a"])
        assert backend.list("p/") == []

    def test_delete_ignores_what_is_missing(self, backend: Backend) -> None:
        """Deleting ignores missing keys, takes any iterable, and leaves other objects alone."""
        for key in ("p/a/b", "p/a/c", "p/d"):
            backend.put(key, b"x")
        backend.delete(iter(["p/a/b", "p/never", "never/at/all"]))
        backend.delete(["p/a/b"])
        backend.delete([])
        assert backend.list("") == ["p/a/c", "p/d"]

    def test_more_than_one_page(self, backend: Backend) -> None:
        """More objects than fit one request are listed and deleted too."""
        keys = [f"p/{number:05d}" for number in range(1003)]
        for key in keys:
            backend.put(key, b"")
        assert backend.list("p/") == keys
        backend.delete(keys)
        assert backend.list("p/") == []

    def test_close(self, backend: Backend) -> None:
        """Closing twice is allowed."""
        backend.put("p/a", b"")
        backend.close()
        backend.close()
