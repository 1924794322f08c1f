"""``LocalhostBackend``: files on this machine as a storage."""

from __future__ import annotations

import os
import stat
import threading
import uuid
from pathlib import Path

import pytest
from backend_conformance import BackendConformance

from pywren.exceptions import StorageError, StorageNoSuchKeyError
from pywren.storage.localhost_backend import LocalhostBackend
from pywren.wire.keys import job_key

DAY = 86400.0


class TestLocalhostBackend(BackendConformance):
    """The promises of every backend."""

    @pytest.fixture
    def backend(self, tmp_path: Path) -> LocalhostBackend:
        """A backend over a directory that does not exist yet."""
        return LocalhostBackend(tmp_path / "root")


@pytest.fixture
def backend(tmp_path: Path) -> LocalhostBackend:
    """A backend over a directory that does not exist yet."""
    return LocalhostBackend(tmp_path / "root")


def test_default_root_is_in_pywrens_home(pywren_home: Path) -> None:
    """Without a directory, objects are stored below ``PYWREN_HOME``."""
    assert LocalhostBackend().root == pywren_home / "jobs"


def test_only_the_owner_may_look(backend: LocalhostBackend) -> None:
    """Directories have mode 0700 and files 0600, whatever the umask."""
    before = os.umask(0)
    try:
        backend.put("p/c/status.json", b"x")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [backend.root, *backend.root.rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


@pytest.mark.parametrize(
    "key",
    ["", "/etc/passwd", "../x", "p/../../x", "p//x", "p/./x", "p/", "p/\0x", ".pywren-incoming/x", ".pywren-expired"],
)
def test_keys_stay_inside_the_root(backend: LocalhostBackend, key: str) -> None:
    """Every method refuses a key that leads out of the directory, or to our own files."""
    with pytest.raises(StorageError, match="cannot be an object"):
        backend.put(key, b"x")
    with pytest.raises(StorageError, match="cannot be an object"):
        backend.get(key)
    with pytest.raises(StorageError, match="cannot be an object"):
        backend.delete([key])


def test_listing_never_leaves_the_root(backend: LocalhostBackend, tmp_path: Path) -> None:
    """A prefix cannot lead out of the directory, and links are not followed."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").touch()
    backend.put("p/a", b"")
    (backend.root / "p" / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
    with pytest.raises(StorageError):
        backend.list("../outside/")
    assert "p/link/secret" not in backend.list("p/")


def test_no_partial_or_temporary_object_is_ever_seen(backend: LocalhostBackend) -> None:
    """While writers replace objects, readers and listings see only complete ones."""
    versions = [bytes([number]) * 300_000 for number in range(2)]
    backend.put("p/a", versions[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for version in versions:
                backend.put("p/a", version)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(50):
            assert backend.get("p/a") in versions
            assert backend.list("") == ["p/a"]
    finally:
        stop.set()
        writer.join()


def test_writers_and_deleters_of_one_directory(backend: LocalhostBackend) -> None:
    """A put succeeds even while another thread keeps removing its empty directory."""
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            backend.put("p/c/other", b"")
            backend.delete(["p/c/other"])

    deleter = threading.Thread(target=churn)
    deleter.start()
    try:
        for number in range(200):
            backend.put(f"p/c/{number}", b"x", if_absent=True)
            backend.delete([f"p/c/{number}"])
    finally:
        stop.set()
        deleter.join()


def test_deleting_removes_empty_directories(backend: LocalhostBackend) -> None:
    """Empty directories are removed, except the root."""
    backend.put("p/c/00000/status.json", b"")
    backend.put("p/d/x", b"")
    backend.delete(["p/c/00000/status.json"])
    assert not (backend.root / "p" / "c").exists()
    backend.delete(["p/d/x"])
    assert not (backend.root / "p").exists()
    assert backend.root.is_dir()


def test_nothing_temporary_is_left(backend: LocalhostBackend) -> None:
    """A put leaves no temporary file, even when it wrote nothing."""
    backend.put("p/a", b"1", if_absent=True)
    backend.put("p/a", b"2", if_absent=True)
    backend.put("p/a", b"3")
    assert list((backend.root / ".pywren-incoming").iterdir()) == []


def test_an_object_cannot_have_keys_below_it(backend: LocalhostBackend) -> None:
    """A key below an existing object is an error, and nothing is lost."""
    backend.put("p/a", b"x")
    with pytest.raises(StorageError, match="cannot write"):
        backend.put("p/a/b", b"y")
    with pytest.raises(StorageNoSuchKeyError):
        backend.get("p/a/b")
    assert backend.get("p/a") == b"x"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    """The error names the path and the remedy."""
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(StorageError, match="PYWREN_HOME"):
        LocalhostBackend(tmp_path / "locked" / "root").put("a", b"")


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    """A root that is not a directory is a storage error, not an ``OSError``."""
    (tmp_path / "root").touch()
    with pytest.raises(StorageError, match="root"):
        LocalhostBackend(tmp_path / "root").put("a", b"")


# -- age and size --------------------------------------------------------------------------------------------


def _callset(backend: LocalhostBackend, age_seconds: float, now: float, size: int = 1) -> str:
    callset_id = str(uuid.uuid4())
    backend.put(f"pywren.jobs/{callset_id}/func.pickle", b"x" * (size - 1))
    backend.put(f"pywren.jobs/{callset_id}/00000/status.json", b"x")
    for path in (backend.root / "pywren.jobs" / callset_id, *(backend.root / "pywren.jobs" / callset_id).rglob("*")):
        os.utime(path, (now - age_seconds, now - age_seconds))
    return callset_id


def test_old_callsets_are_deleted_whole(backend: LocalhostBackend) -> None:
    """A callset without writes for a week is deleted; younger ones stay."""
    now = 1_800_000_000.0
    old, young = _callset(backend, 8 * DAY, now), _callset(backend, 6 * DAY, now)
    assert backend.expire(now=lambda: now) == 1
    assert backend.list(f"pywren.jobs/{old}") == []
    assert len(backend.list(f"pywren.jobs/{young}")) == 2


def test_a_callset_in_use_is_kept(backend: LocalhostBackend) -> None:
    """One fresh status keeps a callset whose other files are old."""
    now = 1_800_000_000.0
    callset_id = _callset(backend, 30 * DAY, now)
    os.utime(backend.root / "pywren.jobs" / callset_id / "00000" / "status.json", (now, now))
    assert backend.expire(now=lambda: now) == 0


def test_names_of_jobs_expire_with_their_callsets(backend: LocalhostBackend) -> None:
    """The name of a job that nobody can collect any more is deleted; nothing else in such a place is."""
    old = [job_key("pywren.jobs", "old"), job_key("", "old"), job_key("a/b", "old")]
    stays = [job_key("pywren.jobs", "new"), "pywren.jobs/jobs/x.txt", "pywren.jobs/other/x.json", "x.json"]
    for key in (*old, *stays):
        backend.put(key, b"{}")
        if key != stays[0]:
            os.utime(backend.root / key, (0, 0))
    backend.expire(budget_seconds=30.0)
    assert backend.list("") == sorted(stays)


def test_only_callsets_expire(backend: LocalhostBackend) -> None:
    """Files outside callsets' directories are never deleted for their age."""
    now = 1_800_000_000.0
    backend.put("runtimes/default.tar.gz", b"x")
    os.utime(backend.root / "runtimes" / "default.tar.gz", (0, 0))
    os.utime(backend.root / "runtimes", (0, 0))
    assert backend.expire(now=lambda: now) == 0
    assert backend.list("") == ["runtimes/default.tar.gz"]


def test_above_a_size_the_oldest_go_before_their_time(backend: LocalhostBackend) -> None:
    """When the total size is too big, the oldest callsets are deleted until the rest fits."""
    now = 1_800_000_000.0
    ages = {age: _callset(backend, age * DAY, now, size=100) for age in (3, 5, 2, 4)}
    assert backend.expire(max_bytes=400, now=lambda: now) == 0
    assert backend.expire(max_bytes=250, now=lambda: now) == 2
    assert {key.split("/")[1] for key in backend.list("")} == {ages[2], ages[3]}


def test_young_callsets_are_kept_whatever_their_size(backend: LocalhostBackend) -> None:
    """A callset that was written to within a day is kept, because its calls may still run."""
    now = 1_800_000_000.0
    old, young = _callset(backend, 1.1 * DAY, now, size=100), _callset(backend, 0.9 * DAY, now, size=10_000)
    assert backend.expire(max_bytes=50, now=lambda: now) == 1
    assert backend.list(f"pywren.jobs/{old}") == []
    assert len(backend.list(f"pywren.jobs/{young}")) == 2


@pytest.mark.skipif(os.name == "nt", reason="calls are not shared with other processes there")
def test_a_callset_that_a_process_holds_is_kept(backend: LocalhostBackend) -> None:
    """A callset is kept while its client lives, however old or big it is."""
    import fcntl

    now = 1_800_000_000.0
    held = _callset(backend, 30 * DAY, now, size=100)
    client = backend.root / "pywren.jobs" / held / "client"
    with open(client, "wb") as file:
        os.utime(client, (0, 0))
        os.utime(client.parent, (0, 0))
        fcntl.flock(file, fcntl.LOCK_EX)
        assert backend.expire(max_bytes=50, now=lambda: now) == 0
    assert backend.expire(max_bytes=50, now=lambda: now) == 1


def test_expiry_stops_when_its_time_is_up(backend: LocalhostBackend) -> None:
    """Each run is limited in time; it begins with the oldest callsets and leaves the rest to the next run."""
    now = 1_800_000_000.0
    callsets = [_callset(backend, age * DAY, now) for age in (8, 12, 9, 11, 10)]
    ticks = iter(range(100))
    first = backend.expire(now=lambda: now, budget_seconds=6.5, clock=lambda: float(next(ticks)))
    assert 0 < first < 5
    oldest_first = [callsets[number] for number in (1, 3, 4, 2, 0)]
    assert {key.split("/")[1] for key in backend.list("")} == set(oldest_first[first:])
    assert backend.expire(now=lambda: now) == 5 - first


def test_expiry_removes_what_killed_writers_left(backend: LocalhostBackend) -> None:
    """Old temporary files are deleted too."""
    backend.put("p/a", b"")
    orphan = backend.root / ".pywren-incoming" / "tmporphan"
    orphan.touch()
    os.utime(orphan, (0, 0))
    backend.expire()
    assert not orphan.exists()


def test_expiry_runs_at_most_once_an_hour(backend: LocalhostBackend) -> None:
    """When many programs start, only one an hour searches; a marker file records the time."""
    now = 1_800_000_000.0
    backend.put("p/a", b"")
    backend.expire_if_due(now=lambda: now)
    old = _callset(backend, 8 * DAY, now)
    backend.expire_if_due(now=lambda: now + 1800)
    assert backend.list(f"pywren.jobs/{old}")
    backend.expire_if_due(now=lambda: now + 3700)
    assert not backend.list(f"pywren.jobs/{old}")


def test_expiry_makes_no_directory(backend: LocalhostBackend) -> None:
    """Searching where nothing was ever stored leaves no trace."""
    backend.expire_if_due()
    assert backend.expire() == 0
    assert not backend.root.exists()
