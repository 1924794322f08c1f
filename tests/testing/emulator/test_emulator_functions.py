"""The table of functions below the API: where code is extracted, how safely, and for how long it is kept."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import stat
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pywren.testing.emulator import _functions
from pywren.testing.emulator._code import BAD_ZIP, Code, remove, unpack
from pywren.testing.emulator._functions import Function, FunctionTable, Refusal
from pywren.testing.emulator._settings import Settings

ROLE = "arn:aws:iam::123456789012:role/worker"


def zipped(*files: tuple[str, str, int]) -> bytes:
    """Return a zip of ``(name, text, Unix mode)``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text, mode in files:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16 or 0x20  # "archive", the attribute that Windows sets
            archive.writestr(entry, text)
    return buffer.getvalue()


CODE = zipped(("handler.py", "def handle(event, context): return event", 0o100644))


def request(name: str = "f", **arguments: Any) -> dict[str, Any]:
    """Return the decoded arguments of a CreateFunction."""
    code = {"ZipFile": CODE}
    return {"FunctionName": name, "Runtime": "python3.11", "Role": ROLE, "Handler": "h.h", "Code": code, **arguments}


def mode(path: Path) -> int:
    """Return the permissions of a file."""
    return stat.S_IMODE(path.lstat().st_mode)


# -- extracting --------------------------------------------------------------------------------------------


def test_a_function_gets_what_the_mode_grants_to_others(tmp_path: Path) -> None:
    """Lambda's user owns none of the files: 0600 cannot be read, 0755 can be executed, and nothing can be written."""
    archive = zipped(("a", "x", 0o100644), ("b", "x", 0o100600), ("bin/c", "x", 0o100755), ("d", "x", 0o100777))
    unpack(archive, tmp_path / "code", 1000)
    modes = {name: mode(tmp_path / "code" / name) for name in ("a", "b", "bin/c", "d", "bin", "")}
    assert modes == {"a": 0o444, "b": 0, "bin/c": 0o555, "d": 0o555, "bin": 0o555, "": 0o555}
    remove(tmp_path / "code")


def test_a_zip_without_modes(tmp_path: Path) -> None:
    """In zips made on Windows, which have no modes, every file can be read."""
    unpack(zipped(("lib/", "", 0), ("lib/a", "x", 0)), tmp_path / "code", 1000)
    assert (mode(tmp_path / "code" / "lib"), mode(tmp_path / "code" / "lib" / "a")) == (0o555, 0o444)
    remove(tmp_path / "code")


def test_code_knows_its_sizes_and_digest(tmp_path: Path) -> None:
    """CodeSha256 and CodeSize describe the zip."""
    code = unpack(CODE, tmp_path / "code", 1000)
    assert (code.size, code.unzipped) == (len(CODE), len("def handle(event, context): return event"))
    assert code.sha256 == unpack(CODE, tmp_path / "again", 1000).sha256
    remove(tmp_path / "code")
    remove(tmp_path / "again")


def corrupted(archive: bytes) -> bytes:
    """Return the same zip with a first file that does not match its checksum."""
    start = 30 + struct.unpack("<H", archive[26:28])[0]
    return archive[:start] + bytes(8) + archive[start + 8 :]


def lying() -> bytes:
    """Return a zip with a file that is longer than its directory says."""
    archive = zipped(("a", "x" * 5000, 0o100644))
    return archive.replace(struct.pack("<I", 5000), struct.pack("<I", 10))


def encrypted() -> bytes:
    """Return a zip with a file that is marked as encrypted."""
    archive = bytearray(zipped(("a", "x", 0o100644)))
    archive[archive.index(b"PK\x01\x02") + 8] |= 1
    return bytes(archive)


BAD_ZIPS = {
    "no zip": b"no zip",
    "cut": CODE[:-10],
    "corrupted": corrupted(CODE),
    "longer than it says": lying(),
    "encrypted": encrypted(),
    "upwards": zipped(("../outside", "x", 0o100644)),
    "upwards within": zipped(("a/../../outside", "x", 0o100644)),
    "absolute": zipped(("/outside", "x", 0o100644)),
    "a file that is a directory too": zipped(("a", "x", 0o100644), ("a/b", "x", 0o100644)),
    "through a link": zipped(("a", "..", 0o120777), ("a/outside", "x", 0o100644)),
    "a link that is a file too": zipped(("a", "..", 0o120777), ("./a", "x", 0o100644)),
}


@pytest.mark.parametrize("archive", BAD_ZIPS.values(), ids=BAD_ZIPS)
def test_zips_that_cannot_be_extracted(tmp_path: Path, archive: bytes) -> None:
    """They are refused with AWS's message, and leave no files anywhere."""
    with pytest.raises(Refusal, match="Could not unzip") as caught:
        unpack(archive, tmp_path / "inner" / "code", 10_000)
    assert (caught.value.code, caught.value.message) == ("InvalidParameterValueException", BAD_ZIP)
    assert [path for path in tmp_path.rglob("*") if path.name != "inner"] == []


def test_a_zip_that_is_too_big_is_not_extracted(tmp_path: Path) -> None:
    """The size is checked before anything is written."""
    with pytest.raises(Refusal, match="Unzipped size must be smaller than 999 bytes"):
        unpack(zipped(("a", "x" * 1000, 0o100644)), tmp_path / "code", 999)
    assert list(tmp_path.iterdir()) == []


def test_links_are_kept_and_never_followed(tmp_path: Path) -> None:
    """A link is extracted as a link; removing the code does not touch its target."""
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    (outside / "kept").write_text("x")
    archive = zipped(("lib.so.1", "x", 0o100755), ("lib.so", "lib.so.1", 0o120777), ("out", str(outside), 0o120777))
    unpack(archive, tmp_path / "code", 1000)
    assert (tmp_path / "code" / "lib.so").readlink() == Path("lib.so.1")
    remove(tmp_path / "code")
    assert not (tmp_path / "code").exists()
    assert ((outside / "kept").read_text(), mode(outside)) == ("x", 0o755)


@pytest.mark.skipif(os.geteuid() != 0, reason="others are protected by their own user")
def test_read_only_code_is_removed_without_being_root(tmp_path: Path) -> None:
    """Directories without write permission are removed too."""
    program = (
        "import os, sys; from pathlib import Path\n"
        "from pywren.testing.emulator._code import remove, unpack\n"
        "b'x'.decode('cp437'); os.setuid(65534)  # who may not read this Python\n"
        "code = Path(sys.argv[1]); unpack(sys.stdin.buffer.read(), code, 1000)\n"
        "assert not os.access(code / 'a', os.W_OK)\n"
        "remove(code); assert not code.exists()\n"
    )
    # accessible to every user, unlike pytest's own directories
    top = Path("/tmp") / f"pywren-test-{os.getpid()}"
    top.mkdir(mode=0o777)
    top.chmod(0o777)
    try:
        archive = zipped(("a/b/c", "x", 0o100644), ("closed/", "", 0o040700))
        command = [sys.executable, "-c", program, str(top / "code")]
        done = subprocess.run(command, input=archive, capture_output=True, check=False, env={"PYTHONPATH": _root()})
        assert done.returncode == 0, done.stderr.decode()
    finally:
        top.rmdir()


def _root() -> str:
    return str(Path(__file__).parents[3])


# -- the table ---------------------------------------------------------------------------------------------


class World:
    """A table whose transitions take no time, and the events that it reports."""

    def __init__(self, directory: Path) -> None:
        self.retired: list[Function] = []
        self.slept: list[float] = []
        self.callers: dict[str, str] = {}
        self.directory = directory
        self.table = FunctionTable(
            directory,
            settings=Settings(),
            check_role=self._any_role,
            fetch_object=self._no_object,
            callers=self.callers,
            on_retired=self._retire,
            sleep=self._sleep,
        )

    async def _any_role(self, arn: str) -> None:
        pass

    async def _no_object(self, bucket: str, key: str, version: str | None) -> bytes:
        raise Refusal("NoSuchBucket", "The specified bucket does not exist")

    async def _retire(self, function: Function) -> None:
        self.retired.append(function)

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def settled(self) -> None:
        """Wait until no transition is in progress."""
        await asyncio.gather(*self.table._transitions)

    async def removed(self, directory: Path) -> None:
        """Wait until a directory is gone."""

        async def gone() -> None:
            while directory.exists():
                gc.collect()
                await asyncio.sleep(0.001)

        await asyncio.wait_for(gone(), 10)


def run(directory: Path, test: Callable[[World], Awaitable[None]]) -> None:
    """Run a test's coroutine with a new table."""

    async def body() -> None:
        world = World(directory)
        try:
            await test(world)
        finally:
            await world.table.close()

    asyncio.run(body())


def test_a_transition_takes_what_the_settings_say(tmp_path: Path) -> None:
    """Creating and updating take ``transition_seconds``."""

    async def test(world: World) -> None:
        await world.table.create(request())
        await world.settled()
        await world.table.update_configuration({"FunctionName": "f", "Timeout": 9})
        await world.settled()
        assert world.slept == [Settings().transition_seconds] * 2

    run(tmp_path, test)


def test_a_revision_stays_as_it_was(tmp_path: Path) -> None:
    """A container's revision does not change after it has started; revision numbers grow."""

    async def test(world: World) -> None:
        await world.table.create(request(Timeout=5))
        await world.settled()
        function = world.table.find("f")
        first = function.current
        assert first is not None
        await world.table.update_configuration({"FunctionName": "f", "Timeout": 9, "MemorySize": 256})
        assert function.current is first
        await world.settled()
        second = function.current
        assert second is not None
        assert (first.timeout, first.memory_mb) == (5.0, 128)
        assert (second.timeout, second.memory_mb) == (9.0, 256)
        assert second.number > first.number
        assert second.code is first.code
        assert world.retired == [function]

    run(tmp_path, test)


def test_every_setting_that_a_container_needs_is_there(tmp_path: Path) -> None:
    """A revision has every setting that a container needs, even those that were not given."""

    async def test(world: World) -> None:
        function = await world.table.create(request())
        assert function.upcoming is not None
        settings = function.upcoming.settings
        assert settings["Environment"] == {"Variables": {}}
        assert settings["EphemeralStorage"] == {"Size": 512}
        assert settings["LoggingConfig"]["LogGroup"] == "/aws/lambda/f"
        assert settings["Layers"] == []

    run(tmp_path, test)


def test_old_code_goes_with_the_last_revision_that_has_it(tmp_path: Path) -> None:
    """Old code is kept for as long as a busy container uses it."""

    async def test(world: World) -> None:
        await world.table.create(request())
        await world.settled()
        busy = world.table.find("f").current
        assert busy is not None
        old = busy.code.directory
        new = zipped(("handler.py", "changed", 0o100644))
        await world.table.update_code({"FunctionName": "f", "ZipFile": new})
        await world.settled()
        gc.collect()
        await asyncio.sleep(0)
        assert (old / "handler.py").exists()
        busy = None
        await world.removed(old)
        assert len(list(world.directory.iterdir())) == 1

    run(tmp_path, test)


def test_code_of_a_deleted_function_goes(tmp_path: Path) -> None:
    """Nothing is kept of a deleted function, and its holders see that no call runs any more."""

    async def test(world: World) -> None:
        function = await world.table.create(request())
        await world.settled()
        assert function.current is not None
        directory = function.current.code.directory
        await world.table.delete("f")
        assert (function.state, function.current) == ("Deleting", None)
        assert world.retired == [function]
        await world.removed(directory)

    run(tmp_path, test)


def test_code_that_is_refused_goes(tmp_path: Path) -> None:
    """When two clients create the same function at once, the slower one leaves no files."""

    async def test(world: World) -> None:
        made = await asyncio.gather(*(world.table.create(request()) for _ in range(2)), return_exceptions=True)
        assert [type(one) for one in made if not isinstance(one, Function)] == [Refusal]
        del made
        directories = list(world.directory.iterdir())
        await world.settled()
        current = world.table.find("f").current
        assert current is not None
        for directory in directories:
            if directory != current.code.directory:
                await world.removed(directory)
        assert len(list(world.directory.iterdir())) == 1

    run(tmp_path, test)


def test_the_loop_is_not_held_up_by_a_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zips are extracted in another thread."""
    threads = []

    def extract(archive: bytes, directory: Path, most: int) -> Code:
        threads.append(threading.current_thread())
        return unpack(archive, directory, most)

    monkeypatch.setattr(_functions, "unpack", extract)

    async def test(world: World) -> None:
        await world.table.create(request())
        (thread,) = threads
        assert thread is not threading.current_thread()

    run(tmp_path, test)


def test_a_bucket_that_is_not_there(tmp_path: Path) -> None:
    """Lambda's error contains S3's code and message."""

    async def test(world: World) -> None:
        with pytest.raises(Refusal, match=r"S3 Error Code: NoSuchBucket\. S3 Error Message: The specified bucket"):
            await world.table.create(request(Code={"S3Bucket": "none", "S3Key": "k"}))

    run(tmp_path, test)


def test_closing_ends_transitions(tmp_path: Path) -> None:
    """No transition goes on after the table is closed."""

    async def test(world: World) -> None:
        never = asyncio.Event()

        async def sleep(seconds: float) -> None:
            await never.wait()

        world.table._sleep = sleep
        function = await world.table.create(request())
        await asyncio.sleep(0)
        await world.table.close()
        assert not world.table._transitions
        assert function.state == "Pending"

    run(tmp_path, test)
