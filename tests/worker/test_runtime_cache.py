"""``RuntimeCache``: runtimes are fetched, verified and extracted once, inside their own directory."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import stat
import subprocess
import sys
import tarfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pywren
import pywren.testing
from pywren.exceptions import ConfigError, RuntimeSetupError, StorageError
from pywren.storage import Storage
from pywren.storage.runtime_info import meta_key
from pywren.worker import extraction, runtime_cache
from pywren.worker.parent.fork_server import ForkServer
from pywren.worker.runtime_cache import Archive, RuntimeCache

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
PLENTY = 10**12
WAIT = 60.0

Member = tuple[str, dict[str, Any], bytes]


def file(name: str, content: bytes = b"x", **attributes: Any) -> Member:
    """Return a file as an archive's member."""
    return name, attributes, content


def other(name: str, kind: bytes, linkname: str = "") -> Member:
    """Return a member of an archive that is not a file."""
    return name, {"type": kind, "linkname": linkname}, b""


def symlink(name: str, target: str) -> Member:
    """Return a symbolic link as an archive's member."""
    return other(name, tarfile.SYMTYPE, target)


def hardlink(name: str, target: str) -> Member:
    """Return a hard link as an archive's member."""
    return other(name, tarfile.LNKTYPE, target)


def tarball(*members: Member, mode: str = "w:gz") -> bytes:
    """Return an archive of exactly these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, attributes, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in attributes.items():
                setattr(member, key, value)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def archive(data: bytes, key: str = "runtimes/a.tar.gz") -> Archive:
    """Return a tarball as a payload names it."""
    return Archive("mine", key, hashlib.sha256(data).hexdigest())


class Source:
    """A bucket with tarballs by digest, which counts the fetches."""

    def __init__(self, *tarballs: bytes) -> None:
        self.tarballs = {hashlib.sha256(data).hexdigest(): data for data in tarballs}
        self.fetched = 0

    def __call__(self, wanted: Archive) -> Iterator[bytes]:
        self.fetched += 1
        data = self.tarballs[wanted.sha256]
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the directory of the runtimes, which does not exist yet."""
    return tmp_path / "parent" / "runtimes"


Make = Callable[..., RuntimeCache]


@pytest.fixture
def make(root: Path) -> Iterator[Make]:
    """Return a function that makes a worker's runtimes from some tarballs."""
    made = []

    def make_one(source: Callable[[Archive], Iterator[bytes]], free: Callable[[str], int] = lambda _: PLENTY) -> Any:
        made.append(RuntimeCache(str(root), fetch=source, free_disk=free))
        return made[-1]

    yield make_one
    for one in made:
        one.close()


def refusal(files: RuntimeCache, wanted: Archive) -> RuntimeSetupError:
    """Return the error of setting up a runtime, which leaves nothing behind."""
    with pytest.raises(RuntimeSetupError) as caught, files.lease(wanted):
        pass
    assert os.listdir(files.root) == []
    return caught.value


# -- contents of an archive ----------------------------------------------------------------------------------


def test_files_directories_and_links_are_extracted(make: Make) -> None:
    """Files, directories and links are extracted, whatever the compression."""
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        data = tarball(
            other("./", tarfile.DIRTYPE),
            other("./lib", tarfile.DIRTYPE),
            file("./lib/a.py", b"A = 1", mode=0o644),
            file("bin/tool", b"#!/bin/sh", mode=0o755),
            symlink("lib64", "lib"),
            symlink("bin/up", "../lib/a.py"),
            hardlink("lib/b.py", "lib/a.py"),
            mode=mode,
        )
        with make(Source(data)).lease(archive(data)) as lease:
            top = Path(lease.path)
            assert (top / "lib64" / "b.py").read_text() == (top / "bin" / "up").read_text() == "A = 1"
            assert os.access(top / "bin" / "tool", os.X_OK)
            assert not os.access(top / "lib" / "a.py", os.X_OK)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([file("../evil")], r"'\.\.' in its path"),
        ([file("a/../../evil")], r"'\.\.' in its path"),
        ([file("/evil")], "absolute path"),
        ([symlink("a", "/etc")], "which may lead outside"),
        ([symlink("a", "..")], "which may lead outside"),
        ([symlink("d/a", "../../evil")], "which may lead outside"),
        # each stays inside when only its text is checked
        ([symlink("d/d/a", "../.."), symlink("b", "d/d/a/../evil")], "which may lead outside"),
        ([symlink("a", "d"), file("a/evil")], "has a link in its path"),
        ([symlink("a", "."), symlink("a/b", "..")], "has a link in its path"),
        ([hardlink("a", "../evil")], r"'\.\.' in its path"),
        ([hardlink("a", "/etc/passwd")], "absolute path"),
        ([hardlink("a", "nowhere")], "not an earlier file"),
        ([symlink("a", "b"), hardlink("c", "a")], "not an earlier file"),
        ([symlink("a", "."), hardlink("b", "a/c")], "has a link in its path"),
        ([other("a", tarfile.CHRTYPE)], "neither a file, a directory nor a link"),
        ([other("a", tarfile.BLKTYPE)], "neither a file, a directory nor a link"),
        ([other("a", tarfile.FIFOTYPE)], "neither a file, a directory nor a link"),
    ],
)
def test_a_hostile_member(make: Make, root: Path, members: list[Member], says: str) -> None:
    """A hostile member is refused; nothing is written outside, and nothing is left inside."""
    data = tarball(file("good"), *members)
    error = refusal(make(Source(data)), archive(data))
    assert error.args[1] == "RUNTIME_ERROR"
    with pytest.raises(RuntimeSetupError, match=says):
        raise error
    assert [path.name for path in root.parent.iterdir()] == ["runtimes"]


def test_a_member_that_replaces_a_link_is_not_written_through_it(make: Make) -> None:
    """Of two members with the same name, the last one wins."""
    data = tarball(file("kept", b"1"), symlink("a", "kept"), file("a", b"2"), file("b", b"3"), file("b", b"4"))
    with make(Source(data)).lease(archive(data)) as lease:
        found = {name: Path(lease.path, name).read_text() for name in ("kept", "a", "b")}
    assert found == {"kept": "1", "a": "2", "b": "4"}


def test_setuid_and_write_permission_for_others_are_dropped(make: Make) -> None:
    """Files belong to the worker's user, whatever mode and owner the archive says."""
    data = tarball(file("a", mode=0o6777, uid=0, gid=0), other("d", tarfile.DIRTYPE), file("unreadable", mode=0))
    with make(Source(data)).lease(archive(data)) as lease:
        found = os.stat(Path(lease.path, "a"))
        assert stat.S_IMODE(found.st_mode) == 0o755
        assert found.st_uid == os.geteuid()
        assert Path(lease.path, "unreadable").read_bytes() == b"x"


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="every release has tarfile's own filters")
def test_a_python_without_filters(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Releases of 3.10 and 3.11 without tarfile's filters extract just as safely."""
    monkeypatch.delattr(tarfile, "data_filter", raising=False)
    data = tarball(file("a", mode=0o6777), symlink("b", "a"), other("d", tarfile.DIRTYPE))
    with make(Source(data)).lease(archive(data)) as lease:
        assert stat.S_IMODE(os.stat(Path(lease.path, "a")).st_mode) == 0o755
        assert sorted(os.listdir(lease.path)) == ["a", "b", "d"]


def cut(data: bytes) -> bytes:
    """Return an archive that ends in the middle of a member."""
    return data[: len(data) // 2]


WHOLE = tarball(file("a", os.urandom(20_000)), file("b", os.urandom(20_000)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a tar",
        gzip.compress(b"not a tar"),
        cut(WHOLE),
        cut(gzip.decompress(WHOLE)),
        tarball(file("a", bytes(512)), file("b", bytes(512)), mode="w")[: 2 * 512],  # between two members
    ],
    ids=["empty", "text", "zipped text", "truncated", "truncated tar", "between members"],
)
def test_something_that_is_no_whole_archive(make: Make, data: bytes) -> None:
    """A damaged archive is an error even when its digest matches."""
    error = refusal(make(Source(data)), archive(data))
    assert error.args[1] == "RUNTIME_ERROR"
    assert "s3://mine/runtimes/a.tar.gz" in error.args[0]


# -- the right archive ---------------------------------------------------------------------------------------


def test_another_digest(make: Make) -> None:
    """An archive with another digest is not extracted."""
    wanted = replace(archive(WHOLE), sha256="0" * 64)
    error = refusal(make(lambda _: iter([WHOLE])), wanted)
    assert error.args[1] == "RUNTIME_ERROR"
    assert hashlib.sha256(WHOLE).hexdigest() in error.args[0]


def test_a_storage_that_refuses(make: Make) -> None:
    """The error gives the storage's reason."""

    def source(_: Archive) -> Iterator[bytes]:
        raise StorageError("access denied")

    error = refusal(make(source), archive(WHOLE))
    assert error.args[1] == "RUNTIME_READ_ERROR"
    assert "access denied" in error.args[0]


@pytest.mark.parametrize("library", ["condaruntime/lib", "lib"])
def test_packages_of_another_python(make: Make, library: str) -> None:
    """Packages for another Python are refused, because they may fail to load, or even load."""
    data = tarball(file(f"{library}/python3.1/site-packages/a.py"))
    error = refusal(make(Source(data)), archive(data))
    assert error.args[1] == "RUNTIME_ERROR"
    assert f"python version is 3.1, but the worker and the client run {HERE}" in error.args[0]


def interpreter(script: str) -> Member:
    """Return a runtime's own interpreter."""
    return file("condaruntime/bin/python", f"#!/bin/sh\n{script}\n".encode(), mode=0o755)


@pytest.mark.parametrize(
    ("script", "says"), [("echo 2.7", "python version is 2.7"), ("echo no libc >&2; exit 1", "does not run.*no libc")]
)
def test_an_interpreter_of_another_python(make: Make, script: str, says: str) -> None:
    """The interpreter is asked for its version once."""
    data = tarball(interpreter(script))
    with pytest.raises(RuntimeSetupError, match=says):
        raise refusal(make(Source(data)), archive(data))


def test_packages_of_this_python(make: Make) -> None:
    """Other directories, such as conda's, do not matter."""
    data = tarball(file("lib/python3.1/a.py"), file(f"lib/python{HERE}/a.py"), interpreter(f"echo {HERE}"))
    with make(Source(data)).lease(archive(data)) as lease:
        assert sorted(os.listdir(lease.path)) == ["condaruntime", "lib"]


# -- disk space and memory -----------------------------------------------------------------------------------


def test_a_bomb(make: Make) -> None:
    """An archive that would fill the disk is refused before it is written, and the next runtime works."""
    bomb = tarball(file("zeros", bytes(3_000_000)))
    small = tarball(file("a"))
    files = make(Source(bomb, small), lambda _: runtime_cache.RESERVE + 2_000_000)
    error = refusal(files, archive(bomb))
    assert error.args[1] == "RUNTIME_TOO_BIG"
    assert "needs more than 3 MB" in error.args[0]
    with files.lease(archive(small)) as lease:
        assert os.listdir(lease.path) == ["a"]


def test_a_bomb_of_many_empty_files(make: Make) -> None:
    """Empty files take space too."""
    bomb = tarball(*(file(str(number), b"") for number in range(500)))
    error = refusal(make(Source(bomb), lambda _: runtime_cache.RESERVE + 1_000_000), archive(bomb))
    assert error.args[1] == "RUNTIME_TOO_BIG"


def header(kind: bytes, size: int, name: str = "a") -> bytes:
    """Return a member's raw header."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def sparse_header() -> bytes:
    """Return GNU's header of a sparse file, whose list of pieces continues in the next blocks."""
    block = bytearray(header(tarfile.GNUTYPE_SPARSE, 0))
    block[482] = 1  # another block with pieces follows
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + sum(block[156:]) + 8 * ord(" "))
    return bytes(block)


def padded(data: bytes) -> bytes:
    """Return contents, padded to a whole block."""
    return data + bytes(-len(data) % 512)


def global_attribute(number: int, size: int) -> bytes:
    """Return a header with an attribute for all following members, and a member."""
    record = b" attribute-%d=" % number + bytes(size) + b"\n"
    record = b"%d" % (len(record) + 6) + record
    return header(tarfile.XGLTYPE, len(record)) + padded(record) + header(tarfile.REGTYPE, 0)


def long_name(number: int, size: int) -> bytes:
    """Return a member with a long name, which is the directory itself."""
    return header(tarfile.GNUTYPE_LONGNAME, size) + padded(b"./" * (size // 2)) + header(tarfile.DIRTYPE, 0)


LOTS = 24 * 2**20
A_PIECE = 400_000  # together with its extensions, less than a header may have
SOME_PIECES = b"%011o\0%011o\0" % (1, 1) * 21 + b"\1" + bytes(7)

FILLERS = {
    "GNU long name": [header(tarfile.GNUTYPE_LONGNAME, LOTS), bytes(LOTS)],
    "GNU long link": [header(tarfile.GNUTYPE_LONGLINK, LOTS), bytes(LOTS)],
    "pax": [header(tarfile.XHDTYPE, LOTS), bytes(LOTS)],
    "pax for all": [header(tarfile.XGLTYPE, LOTS), bytes(LOTS)],
    "one after the other": [header(tarfile.GNUTYPE_LONGNAME, A_PIECE) + padded(bytes(A_PIECE))] * 60,
    "pieces of a sparse file": [sparse_header(), SOME_PIECES * 20_000],
    "attributes that add up": [global_attribute(number, A_PIECE) for number in range(60)],
    "names that add up": [long_name(number, A_PIECE) for number in range(60)],
}


@pytest.mark.parametrize("parts", FILLERS.values(), ids=FILLERS)
def test_headers_that_would_fill_the_memory(tmp_path: Path, parts: list[bytes]) -> None:
    """Row 217: at most 1 MB of a header's extensions is read, and no member is kept in memory."""
    data = gzip.compress(b"".join(parts), 1)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        with suppress(RuntimeSetupError):
            extraction.extract(io.BytesIO(data), str(tmp_path), lambda size: None)
        taken = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert taken < LOTS / 2  # what other threads of the suite take meanwhile counts, too
    assert os.listdir(tmp_path) in ([], ["a"])


def test_a_header_that_is_too_big(make: Make) -> None:
    """Row 217: the error says so; the longest valid names are extracted."""
    data = gzip.compress(b"".join(FILLERS["pax"]), 1)
    error = refusal(make(Source(data)), archive(data))
    assert error.args[1] == "RUNTIME_ERROR"
    assert "has a header larger than 1 MB" in error.args[0]
    deep = "/".join(["d" * 200] * 15)
    for layout in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz", format=layout) as tar:
            tar.addfile(tarfile.TarInfo(deep))
        with make(Source(buffer.getvalue())).lease(archive(buffer.getvalue())) as lease:
            assert Path(lease.path, deep).is_file()


def test_a_disk_that_is_suddenly_full(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """If other programs fill the disk, the error says that it is full."""

    def no_space(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    files = make(Source(WHOLE))
    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extract", no_space)
        assert refusal(files, archive(WHOLE)).args[1] == "RUNTIME_TOO_BIG"
    with files.lease(archive(WHOLE)) as lease:
        assert sorted(os.listdir(lease.path)) == ["a", "b"]


def test_old_runtimes_make_room(make: Make, root: Path) -> None:
    """Idle runtimes are removed to make space; those in use are not."""
    used, idle, new = (tarball(file(name, bytes(100_000))) for name in ("used", "idle", "new"))

    def free(_: str) -> int:
        taken = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        return runtime_cache.RESERVE + 300_000 - taken

    files = make(Source(used, idle, new), free)
    with files.lease(archive(used)) as kept:
        with files.lease(archive(idle)) as gone:
            assert os.path.exists(gone.path)
        with files.lease(archive(new)) as lease:
            assert os.listdir(lease.path) == ["new"]
            assert not os.path.exists(gone.path)
            assert os.listdir(kept.path) == ["used"]


# -- extracting only once ------------------------------------------------------------------------------------


def test_one_extraction_for_many_threads(make: Make) -> None:
    """Concurrent calls wait for the first one's extraction and share it."""
    source = Source(WHOLE)
    files, together = make(source), threading.Barrier(8)

    def call(_: int) -> tuple[str, bool]:
        together.wait(WAIT)
        with files.lease(archive(WHOLE)) as lease:
            return lease.path, lease.cached

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(call, range(8)))
    assert source.fetched == 1
    assert len({path for path, _ in found}) == 1
    assert sorted(cached for _, cached in found) == [False] + [True] * 7


def test_another_container_finds_it_extracted(make: Make) -> None:
    """Containers share the directory; its creator removes it when nobody uses it."""
    source = Source(WHOLE)
    first, second = make(source), make(source)
    with first.lease(archive(WHOLE)):
        pass
    with second.lease(archive(WHOLE)) as lease:
        assert lease.cached
        first.close()
        assert sorted(os.listdir(lease.path)) == ["a", "b"]
    assert source.fetched == 1


EXTRACTING_WORKER = """
import sys
from pywren.worker.runtime_cache import Archive, RuntimeCache
root, tarball, digest = sys.argv[1:]
def fetch(archive):
    print("fetching", flush=True)
    sys.stdin.readline()
    with open(tarball, "rb") as file:
        yield file.read()
print("starting", flush=True)
with RuntimeCache(root, fetch=fetch).lease(Archive("mine", "runtimes/a.tar.gz", digest)) as lease:
    print(lease.path, lease.cached)
"""


def test_one_extraction_for_two_processes(tmp_path: Path, root: Path) -> None:
    """A second process waits for the first one's extraction and shares it."""
    (stored := tmp_path / "stored.tar.gz").write_bytes(WHOLE)
    command = [sys.executable, "-c", EXTRACTING_WORKER, str(root), str(stored), archive(WHOLE).sha256]

    def start(*expected: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert [process.stdout.readline().strip() for _ in expected] == list(expected)
        return process

    with start("starting", "fetching") as first, start("starting") as second:
        with pytest.raises(BlockingIOError):
            runtime_cache._lock_directory(str(root), blocking=False)
        path, cached = first.communicate("go on\n", timeout=WAIT)[0].split()
        assert second.communicate(timeout=WAIT)[0].split() == [path, "True"]
    assert (cached, first.returncode, second.returncode) == ("False", 0, 0)


ANOTHER_WORKER = """
import sys
from pywren.worker.runtime_cache import Archive, RuntimeCache
root, digest = sys.argv[1:]
with RuntimeCache(root, fetch=None).lease(Archive("mine", "runtimes/a.tar.gz", digest)) as lease:
    print(lease.path, lease.cached, flush=True)
    sys.stdin.read()
"""


def test_another_process_finds_it_extracted(make: Make, root: Path) -> None:
    """No process removes a runtime that a call uses."""
    source = Source(WHOLE)
    files, wanted = make(source), archive(WHOLE)
    with files.lease(wanted) as lease:
        command = [sys.executable, "-c", ANOTHER_WORKER, str(root), wanted.sha256]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().split() == [lease.path, "True"]
            with files.lease(wanted, fresh=True):
                assert os.path.exists(lease.path)
            files.close()
            assert sorted(os.listdir(lease.path)) == ["a", "b"]
            process.communicate(timeout=WAIT)
        assert process.returncode == 0
        assert lease.path == files._find(wanted)


def test_a_fresh_one(make: Make) -> None:
    """A fresh copy replaces the cached one, which is removed once it is idle."""
    source = Source(WHOLE)
    files = make(source)
    with files.lease(archive(WHOLE)) as old, files.lease(archive(WHOLE), fresh=True) as new:
        assert (new.cached, new.path != old.path, os.path.exists(old.path)) == (False, True, True)
    with files.lease(archive(WHOLE)) as again:
        assert (again.cached, again.path) == (True, new.path)
    with files.lease(archive(WHOLE), fresh=True) as newest:
        assert os.listdir(files.root) == [os.path.basename(newest.path)]
    assert source.fetched == 3


def test_what_a_killed_worker_left_is_not_taken_for_a_runtime(make: Make, root: Path) -> None:
    """A directory gets its final name only when it is complete."""
    (root / "new" / "half").mkdir(parents=True)
    root.chmod(0o700)
    with make(Source(WHOLE)).lease(archive(WHOLE)) as lease:
        assert sorted(os.listdir(lease.path)) == ["a", "b"]
        assert len(os.listdir(root)) == 1


def test_a_directory_that_others_can_write_to(make: Make, root: Path) -> None:
    """A directory that another user can write to is not used."""
    root.mkdir(parents=True)
    root.chmod(0o777)
    with pytest.raises(RuntimeSetupError, match="belongs to another user"), make(Source()).lease(archive(WHOLE)):
        pass


def test_close_leaves_nothing(make: Make, root: Path) -> None:
    """``close`` removes even the directory, also after failures."""
    files = make(Source(WHOLE, b"no archive"))
    refusal(files, archive(b"no archive"))
    files.close()
    assert not root.exists()
    with files.lease(archive(WHOLE)):
        pass
    files.close()
    assert not root.exists()
    with files.lease(archive(WHOLE)) as lease:
        assert not lease.cached


# -- in a call -----------------------------------------------------------------------------------------------

PACKAGE_PLACES = [
    "",
    "site-packages/",
    f"lib/python{HERE}/site-packages/",
    f"condaruntime/lib/python{HERE}/site-packages/",
]


@pytest.fixture(scope="module")
def aws() -> Iterator[dict[str, Any]]:
    """Return the configuration of a mocked account."""
    with pywren.testing.mock_aws(concurrency=2) as config:
        yield config


def stored(config: dict[str, Any], data: bytes, name: str, **described: Any) -> dict[str, Any]:
    """Put a runtime into the bucket, and return the configuration that names it."""
    key = f"runtimes/{name}.tar.gz"
    meta = {"python_ver": HERE, "preinstalls": [["tiny_in_runtime", True]], "pkg_ver_list": [], **described}
    kept = Storage(pywren.wrenconfig.extract_storage_config(config))
    kept.put(key, data)
    kept.put(meta_key(key), json.dumps(meta).encode())
    kept.close()
    own = {"s3_bucket": config["s3"]["bucket"], "s3_key": key, "sha256": hashlib.sha256(data).hexdigest()}
    return {**config, "runtime": {**config["runtime"], **own}}


def tiny(place: str, value: int = 7) -> bytes:
    """Return a tarball with a package of one function."""
    return tarball(
        file(f"{place}tiny_in_runtime/__init__.py", b"from tiny_in_runtime.part import answer"),
        file(f"{place}tiny_in_runtime/part.py", f"def answer():\n    return {value}\n".encode()),
    )


def ask(_: Any) -> Any:
    """Call the runtime's function."""
    import tiny_in_runtime  # type: ignore[import-not-found]

    return tiny_in_runtime.answer()


def variable(name: str) -> str | None:
    """Return a variable of the worker's environment."""
    return os.environ.get(name)


@pytest.mark.moto
def test_packages_are_importable_on_lambda(aws: dict[str, Any]) -> None:
    """The status has the runtime's key and whether it was cached."""
    config = stored(aws, tiny(f"condaruntime/lib/python{HERE}/site-packages/"), "lambda")
    with pywren.lambda_executor(config=config) as executor:
        seen = []
        for options in ({}, {}, {"use_cached_runtime": False}, {}):
            (future,) = executor.map(ask, [None], **options)
            assert future.result(timeout=WAIT) == 7
            seen.append(future.run_status["runtime_cached"])
    assert seen == [False, True, False, True]
    used = future.run_status["runtime_s3_bucket_used"], future.run_status["runtime_s3_key_used"]
    assert used == (aws["s3"]["bucket"], "runtimes/lambda.tar.gz")


@pytest.mark.moto
def test_calls_share_the_copies_of_a_runtime(aws: dict[str, Any]) -> None:
    """The calls of a map fetch the copies listed as ``urls`` in turn."""
    data, bucket = tiny("", 5), aws["s3"]["bucket"]
    config = stored(aws, data, "sharded")
    kept = Storage(pywren.wrenconfig.extract_storage_config(config))
    keys = [f"runtimes/sharded-{number}.tar.gz" for number in range(2)]
    for key in keys:
        kept.put(key, data)
    meta = {"python_ver": HERE, "urls": [f"s3://{bucket}/{key}" for key in keys]}
    kept.put(meta_key("runtimes/sharded.tar.gz"), json.dumps(meta).encode())
    kept.close()
    with pywren.lambda_executor(config=config) as executor:
        futures = executor.map(ask, range(4))
        assert pywren.get_all_results(futures) == [5] * 4
    used = [future.run_status["runtime_s3_key_used"] for future in futures]
    assert used in ([*keys, *keys], [*reversed(keys), *reversed(keys)])


@pytest.mark.moto
def test_packages_are_importable_wherever_they_stand(aws: dict[str, Any]) -> None:
    """Packages work at the top and where pip and conda put them, and no call sees another's runtime."""
    from pywren.invokers import run_payloads

    payloads, futures = [], []
    for number, place in enumerate(PACKAGE_PLACES):
        with pywren.dummy_executor(config=stored(aws, tiny(place, number), f"dummy-{number}")) as executor:
            futures += executor.map(ask, [None])
            payloads += executor.invoker.payloads
    run_payloads(payloads)
    assert pywren.get_all_results(futures) == [0, 1, 2, 3]


@pytest.mark.moto
def test_packages_are_importable_in_the_local_pool(aws: dict[str, Any]) -> None:
    """A pool process that ran a call with one runtime runs the next with another."""
    executors = [
        pywren.local_executor(config=stored(aws, tiny("site-packages/", number), f"local-{number}"))
        for number in range(2)
    ]
    try:
        for _ in range(2):
            found = [pywren.get_all_results(executor.map(ask, range(4))) for executor in executors]
            assert found == [[0] * 4, [1] * 4]
    finally:
        for executor in executors:
            executor.invoker.close()


@pytest.mark.moto
def test_a_runtime_with_its_own_interpreter(aws: dict[str, Any]) -> None:
    """The runtime's own interpreter runs the call."""
    script = f'OWN_INTERPRETER=1 exec "{sys.executable}" "$@"'
    config = stored(aws, tarball(interpreter(script)), "interpreter")
    with pywren.lambda_executor(config=config) as executor:
        for cached in (True, False):
            (future,) = executor.map(variable, ["OWN_INTERPRETER"], use_cached_runtime=cached)
            assert future.result(timeout=WAIT) == "1"


def test_the_server_of_an_interpreter_ends_with_it(tmp_path: Path) -> None:
    """When a removed runtime's interpreter is replaced by another, it is stopped."""
    server = ForkServer()
    pythons = [tmp_path / name for name in ("first", "second")]
    try:
        for python in pythons:
            python.symlink_to(sys.executable)
        first = server._server(str(pythons[0]))
        pythons[0].unlink()
        server._server(str(pythons[1]))
        assert first.reaped
    finally:
        server.close()


@pytest.mark.moto
def test_a_big_archive_comes_in_pieces(aws: dict[str, Any]) -> None:
    """Archives of any size are read in pieces, even if the last piece is full or the archive is empty."""
    bucket, region = aws["s3"]["bucket"], aws["account"]["aws_region"]
    for data in (b"", b"abc", b"abcdef", b"abcdefg"):
        stored(aws, data, "pieces")
        wanted = Archive(bucket, "runtimes/pieces.tar.gz", "", region)
        assert b"".join(runtime_cache.fetch(wanted, piece_bytes=3)) == data


@pytest.mark.moto
def test_no_more_is_read_of_an_archive_than_its_size(aws: dict[str, Any]) -> None:
    """Row 224: only the expected size of an archive is read; if it is longer or shorter, its digest shows it."""
    bucket, region = aws["s3"]["bucket"], aws["account"]["aws_region"]
    stored(aws, b"abcdefg", "sized")
    for size, expected in ((0, b""), (1, b"a"), (3, b"abc"), (6, b"abcdef"), (7, b"abcdefg"), (8, b"abcdefg")):
        wanted = Archive(bucket, "runtimes/sized.tar.gz", "", region, size)
        assert b"".join(runtime_cache.fetch(wanted, piece_bytes=3)) == expected


# -- reported errors -----------------------------------------------------------------------------------------


@pytest.mark.moto
@pytest.mark.parametrize(
    ("overwrite", "code"),
    [
        ({"runtime_sha256": "0" * 64}, "RUNTIME_ERROR"),
        ({"runtime_sha256": None}, "RUNTIME_ERROR"),
        ({"runtime_url": None}, "RUNTIME_ERROR"),
        ({"runtime_url": "s3://no-such-bucket-of-anybody/a.tar.gz"}, "RUNTIME_READ_ERROR"),
        ({"runtime_url": "http://example.org/a.tar.gz"}, "RUNTIME_READ_ERROR"),
    ],
)
def test_a_runtime_that_is_broken(aws: dict[str, Any], overwrite: dict[str, Any], code: str) -> None:
    """The call ends with the reason, and nothing is extracted."""
    with pywren.lambda_executor(config=stored(aws, tiny(""), "broken")) as executor:
        (future,) = executor.map(ask, [None], overwrite_invoke_args=overwrite)
        error = future.exception(timeout=WAIT)
        assert isinstance(error, RuntimeSetupError)
        assert error.args[1] == code


@pytest.mark.moto
def test_a_runtime_that_does_not_fit(aws: dict[str, Any]) -> None:
    """An archive that claims to be bigger than the disk is refused, and the next call works."""
    huge = tarfile.TarInfo("huge")
    huge.size = 10**17
    data = gzip.compress(huge.tobuf(tarfile.GNU_FORMAT))
    with pywren.lambda_executor(config=stored(aws, data, "huge")) as executor:
        error = executor.call_async(ask, None).exception(timeout=WAIT)
        assert isinstance(error, RuntimeSetupError)
        assert error.args[1] == "RUNTIME_TOO_BIG"
    with pywren.lambda_executor(config=stored(aws, tiny(""), "fits")) as executor:
        assert executor.call_async(ask, None).result(timeout=WAIT) == 7


@pytest.mark.moto
@pytest.mark.parametrize("digest", [None, "abc", 7])
def test_a_configuration_without_the_digest(aws: dict[str, Any], digest: Any) -> None:
    """Row 213: making the executor fails, and the error says how to compute the digest."""
    config = stored(aws, tiny(""), "undigested")
    config["runtime"]["sha256"] = digest
    with pytest.raises(ConfigError, match=r"sha256`.*runtime.*sha256sum|`runtime: sha256` is .*sha256sum"):
        pywren.lambda_executor(config=config)


@pytest.mark.moto
def test_a_runtime_for_another_architecture(aws: dict[str, Any]) -> None:
    """Row 215: making a Lambda executor fails; other executors do not know their workers' architecture."""
    config = stored(aws, tiny(""), "arm", arch="arm64")
    with pytest.raises(ConfigError, match=r"for arm64, but the function is for x86_64.*pywren deploy_lambda"):
        pywren.lambda_executor(config=config)
    config["lambda"] = {**config["lambda"], "architecture": "arm64"}
    with pywren.lambda_executor(config=config), pywren.dummy_executor(config=stored(aws, b"", "arm", arch="arm64")):
        pass
