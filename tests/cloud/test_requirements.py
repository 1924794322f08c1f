"""Requirements files: each is read only once, and rewritten for uv and pip."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest

from pywren.cloud import _requirements
from pywren.cloud._requirements import Requirements, environment_of, holds
from pywren.cloud._wheels import Target
from pywren.exceptions import DeploymentError

TARGET = Target("3.12")


def read(tmp_path: Path, text: str | bytes) -> tuple[Requirements, list[str]]:
    """Read requirements, and return them and the lines for the user."""
    file = tmp_path / "r.txt"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    said: list[str] = []
    (work := tmp_path / "work").mkdir()
    requirements = Requirements(work, said.append)
    requirements.add(file)
    return requirements, said


def names(requirements: Requirements) -> list[str]:
    """Return the names that are requested on the target."""
    return [item.name for item in requirements.named if item.is_for(TARGET)]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("numpy", ["numpy"]),
        ("Foo.Bar_baz>=1,<2", ["foo-bar-baz"]),
        ("a[x,y] >= 1 ; python_version >= '3.8'", ["a"]),
        ("a ; sys_platform == 'win32'", []),
        ("a==1 --hash=sha256:00 --hash=sha256:11", ["a"]),
        ("a==1 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\nb", ["a", "b"]),
        ("a @ https://example.org/a-1.0-py3-none-any.whl#sha256=00", ["a"]),
        ("a@https://example.org/a-1.0-py3-none-any.whl ; python_version < '3'", []),
        ("https://example.org/Some_Name-1.0-py3-none-any.whl", ["some-name"]),
        ("./dir/x_y-2-cp312-cp312-linux_x86_64.whl", ["x-y"]),
        ("dir/x_y-2-cp312-cp312-linux_x86_64.whl", ["x-y"]),
        ("# a comment\n\n   \na # b\n#c \\\nd", ["a", "d"]),
        ("--index-url https://example.org/simple\n-i https://example.org\n--pre\na", ["a"]),
        ("-f ./wheels\n--no-index\na", ["a"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("\ufeffa", ["a"]),
        (b"\xff\xfe" + "a==1\nb".encode("utf-16-le"), ["a", "b"]),
        ("-c limits.txt\na", ["a"]),
        ("-rmore.txt\nb", ["a-more", "b"]),
        ("--requirement more.txt", ["a-more"]),
        ("-r https://example.org/r.txt\na", ["a"]),
        ("", []),
    ],
)
def test_what_is_asked_for(tmp_path: Path, line: str | bytes, named: list[str]) -> None:
    """Names are found as pip finds them: in any line, in included files, and where markers are true."""
    (tmp_path / "limits.txt").write_text("z==1\n")
    (tmp_path / "more.txt").write_text("a.more\n")
    requirements, said = read(tmp_path, line)
    assert (names(requirements), said) == (named, [])


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    """A shell's ``<(pip freeze)`` is read once: its size is not queried, and the installer does not open it."""
    os.mkfifo(pipe := tmp_path / "pipe")
    writer = threading.Thread(target=pipe.write_text, args=("a==1\nb==2\n",))
    writer.start()
    requirements = Requirements(tmp_path, pytest.fail)
    requirements.add(pipe)
    writer.join()
    assert names(requirements) == ["a", "b"]
    [option, path] = requirements.write()
    assert (option, Path(path).read_text()) == ("-r", "a==1\nb==2\n")


def test_what_pip_freeze_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 280: packages installed from a directory or repository are left out, and messages hide passwords."""
    here = {"mine": "1.0", "repo": "2.0", "condas": "3.0"}
    monkeypatch.setattr(_requirements, "_version_here", here.get)
    (tmp_path / "mine").mkdir()
    requirements, said = read(
        tmp_path,
        "a==1\n"
        "# Editable install with no version control (edi==0.1)\n"
        f"-e {tmp_path}/edi\n"
        "-e git+ssh://git@example.org/x.git@1234#egg=x\n"
        f"mine @ file://{tmp_path}/mine\n"
        "repo @ git+https://user:secret@example.org/repo.git@0123456789\n"
        "condas @ file:///croot/condas_1700000000/work\n"
        "whl @ file:///croot/whl_17/work/dist/whl-4.1-cp312-cp312-linux_x86_64.whl#sha256=00\n"
        "pywren @ file:///gone/pywren\n",
    )
    assert names(requirements) == ["a", "condas", "whl"]
    assert requirements.lines == ["a==1", "condas==3.0", "whl==4.1"]
    assert [line.partition(":")[0].partition(" is left")[0] for line in said] == [
        f"{tmp_path}/edi",
        "git+ssh",
        "mine",
        "repo",
        "condas",
        "whl",
        "pywren",
    ]
    assert "secret" not in "".join(said)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("a @ git+https://example.org/a.git", "line 1 of .*r.txt names the source of a.*pip wheel"),
        ("a @ https://user:pw@example.org/a-1.0.tar.gz", "the source of a, https://example.org"),
        ("\n\na @ file:///nowhere/a", "line 3 of"),
        ("-r missing.txt", "cannot read the requirements .*missing.txt"),
        ("-c missing.txt", "cannot read the requirements .*missing.txt"),
    ],
)
def test_what_cannot_be_asked_for(tmp_path: Path, line: str, says: str) -> None:
    """Row 280: the error gives the line of a source that is not installed here, or of a missing file."""
    with pytest.raises(DeploymentError, match=says) as caught:
        read(tmp_path, line)
    assert "pw@" not in str(caught.value)


def test_files_that_are_included(tmp_path: Path) -> None:
    """Paths are relative to their file, circular includes end, and constraints that installers reject are dropped."""
    (below := tmp_path / "below").mkdir()
    (below / "wheels").mkdir()
    (below / "inner.txt").write_text("b\n-r ../r.txt\n-c limits.txt\n-f wheels\n")
    (below / "limits.txt").write_text("-e ./edi\nc==1\n-c more.txt\n")
    (below / "more.txt").write_text("d==2\n")
    requirements, said = read(tmp_path, "a\n-r below/inner.txt\n")
    assert (names(requirements), said) == (["a", "b"], [])
    a, b, limits, wheels = requirements.lines
    assert (a, b, wheels) == ("a", "b", f"--find-links {below / 'wheels'}")
    constraints = Path(limits.removeprefix("-c ")).read_text().splitlines()
    assert constraints[0] == "c==1"
    assert Path(constraints[1].removeprefix("-c ")).read_text() == "d==2\n"


@pytest.mark.parametrize(
    ("marker", "expected"),
    [
        ("python_version >= '3.9'", True),
        ("python_version < '3.9'", False),
        ("'3.9' <= python_version", True),
        ("python_version == '3.12'", True),
        ("python_version == '3.*'", True),
        ("python_version != '3.12.*'", False),
        ("python_version ~= '3.8'", True),
        ("python_full_version < '3.11.1'", False),
        ("python_version in '2.7, 3.12'", True),
        ("python_version not in '2.7 3.12'", False),
        ("sys_platform == 'linux'", True),
        ("sys_platform=='win32' or platform_system=='Linux'", True),
        ("sys_platform == 'win32' and (python_version < '3' or os_name == 'posix')", False),
        ("(os_name == 'nt') or (os_name == 'posix')", True),
        ("'linux' in sys_platform", True),
        ("'win' not in sys_platform", True),
        ("platform_machine == 'x86_64'", True),
        ("platform_machine == 'aarch64'", False),
        ('implementation_name == "pypy"', False),
        ("extra == 'dev'", False),
        ("something new", True),
        ("python_version >=", True),
    ],
)
def test_markers(marker: str, expected: bool) -> None:
    """Markers are evaluated for the target; the installer handles those that cannot be parsed."""
    assert holds(marker, environment_of(TARGET)) is expected


def test_markers_of_this_python() -> None:
    """The full version is this Python's when the target has the same minor version."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    full = ".".join(map(str, sys.version_info[:3]))
    assert holds(f"python_full_version == '{full}'", environment_of(Target(here)))
