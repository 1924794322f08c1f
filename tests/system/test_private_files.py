"""Files that only their user can access, whatever the umask."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from pywren.system.private_files import make_directories, open_file, temporary_file

UMASKS = [0o000, 0o002, 0o007, 0o022, 0o077, 0o277, 0o777]


@pytest.fixture(params=UMASKS, ids=oct)
def umask(request):
    """Set a umask for the test."""
    saved = os.umask(request.param)
    yield request.param
    os.umask(saved)


def mode(path):
    return stat.S_IMODE(Path(path).stat().st_mode)


def test_directories_are_the_owners(tmp_path, umask):
    """Every new directory is private; existing ones stay unchanged."""
    before = tmp_path / "before"
    before.mkdir()
    before.chmod(0o755)
    make_directories(before / "one" / "two" / "three")
    make_directories(before / "one" / "two" / "three")
    assert [mode(before / path) for path in (".", "one", "one/two", "one/two/three")] == [0o755, 0o700, 0o700, 0o700]


def test_files_are_the_owners(tmp_path, umask):
    """New files are private, and so are files with a fixed name or that others could read before."""
    descriptor, path = temporary_file(tmp_path, "x-")
    os.write(descriptor, b"written")
    os.close(descriptor)
    assert mode(path) == 0o600
    os.close(open_file(tmp_path / "named"))
    os.chmod(tmp_path / "named", 0o644)
    os.close(open_file(tmp_path / "named"))
    assert mode(tmp_path / "named") == 0o600


PROGRAM = """
    import os, pickle, stat, sys
    os.umask(int(sys.argv[1]))
    import pywren
    executor = pywren.local_executor()
    def call(x):
        open("file", "w").close()
        return x + os.umask(0)
    futures = executor.map(call, [0, 1])
    shared = pickle.dumps(futures)
    assert pywren.get_all_results(futures) == [int(sys.argv[1]), int(sys.argv[1]) + 1]
    assert pywren.get_all_results(pickle.loads(shared)) == pywren.get_all_results(futures)
    for top in sys.argv[2:]:
        for path, folders, files in os.walk(top):
            for name in [*folders, *files]:
                found = os.lstat(os.path.join(path, name))
                allowed = 0o700 if stat.S_ISDIR(found.st_mode) else 0o600
                if stat.S_IMODE(found.st_mode) != allowed and name != "file":
                    sys.exit(f"{oct(found.st_mode)} {path}/{name}")
"""


@pytest.mark.parametrize("umask", UMASKS, ids=oct)
def test_a_program_of_any_umask(tmp_path, umask):
    """Row 247: with any umask, its calls run and see that umask; its pickled futures stay private."""
    places = [tmp_path / "home", tmp_path / "tmp"]
    for place in places:
        place.mkdir()
    environment = {**os.environ, "HOME": str(places[0]), "TMPDIR": str(places[1])}
    environment.pop("PYWREN_HOME", None)
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(umask), *map(str, places)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
