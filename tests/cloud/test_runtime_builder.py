"""Building runtimes: which wheels are used, what is left out, and what the tarball contains."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import subprocess
import sys
import tarfile
import venv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from wheelhouse import Wheelhouse, make_the_index

from pywren.aws.requests import AWS
from pywren.cloud import _wheels, runtime_builder
from pywren.cloud._environment import Pin, install_nearest, installed
from pywren.cloud._wheels import Installer, Target, find_installers
from pywren.cloud.runtime_builder import Built, Disk
from pywren.exceptions import DeploymentError
from pywren.worker.extraction import extract

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
AL2, AL2023 = Target("3.11"), Target("3.12")
TOOLS = {"uv": _wheels._find_uv(), "pip": _wheels._find_pip()}
QUICK = "uv" if TOOLS["uv"] else "pip"


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheelhouse:
    """The wheels of a local index."""
    return make_the_index(tmp_path / "wheels", monkeypatch)


@pytest.fixture(params=TOOLS)
def tool(request: pytest.FixtureRequest) -> str:
    """Yield each installed tool."""
    if not TOOLS[request.param]:
        pytest.skip(f"{request.param} is not here")
    return str(request.param)


def installer(target: Target, tool: str = QUICK) -> Installer:
    """Return a tool for a target."""
    command = TOOLS[tool]
    assert command
    return Installer(target, tool, command)


def build(tmp_path: Path, requirements: str, target: Target = AL2023, tool: str = QUICK) -> tuple[Built, list[str]]:
    """Build from requirements, and return the runtime and the lines for the user."""
    file = tmp_path / "requirements.txt"
    file.write_text(requirements)
    said: list[str] = []
    (directory := tmp_path / f"build-{len(list(tmp_path.iterdir()))}").mkdir()
    tools = [installer(target, tool)]
    built = runtime_builder.build_from_requirements([file], target, directory, said.append, installers=tools)
    return built, said


def members(built: Built) -> dict[str, tarfile.TarInfo]:
    """Return the files in a tarball, by path below its directory of packages."""
    with tarfile.open(built.path) as tar:
        place = f"lib/python{built.meta['python_ver']}/site-packages/"
        return {member.name.removeprefix(place): member for member in tar if member.isfile()}


# -- packages in a runtime -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "newest", "oldest"),
    [
        (Target("3.10"), "manylinux_2_26_x86_64", "manylinux1_x86_64"),
        (Target("3.11", "arm64"), "manylinux_2_26_aarch64", "manylinux2014_aarch64"),
        (Target("3.12"), "manylinux_2_34_x86_64", "manylinux1_x86_64"),
        (Target("3.13", "arm64"), "manylinux_2_34_aarch64", "manylinux2014_aarch64"),
    ],
)
def test_platforms_of_the_function(target: Target, newest: str, oldest: str) -> None:
    """Since Python 3.12, Lambda uses another Linux, which has other wheel platforms."""
    assert (target.platforms[0], target.platforms[-1]) == (newest, oldest)
    assert f"manylinux_2_17_{target.machine}" in target.platforms


def test_wheels_suit_the_function(tmp_path: Path, wheels: Wheelhouse, tool: str) -> None:
    """Each target gets the newest version that has a wheel for its C library, architecture and Python."""
    wheels.add("lib", "1.0", tag="cp311-cp311-manylinux2014_x86_64")
    wheels.add("lib", "1.1", tag="cp312-cp312-manylinux2014_aarch64")
    wheels.add("lib", "1.2", tag="cp311-cp311-manylinux_2_28_x86_64")
    wheels.add("lib", "1.3", tag="cp312-cp312-manylinux_2_34_x86_64")
    wheels.add("lib", "1.4", tag="cp312-cp312-manylinux_2_35_x86_64")
    wheels.add("lib", "1.5", tag="cp312-cp312-musllinux_1_2_x86_64")
    found = {}
    for target in (AL2, AL2023, Target("3.12", "arm64")):
        built, _ = build(tmp_path, "lib\n", target, tool)
        (found[str(target)],) = (version for _, version in built.meta["pkg_ver_list"])
    assert list(found.values()) == ["1.0", "1.3", "1.1"]


def test_the_description(tmp_path: Path, wheels: Wheelhouse) -> None:
    """Python, architecture, top-level modules including Lambda's, versions, digest and size."""
    wheels.add("one", "1.0", requires=["two"])
    files = {"two.py": "", "_two.cpython-312-x86_64-linux-gnu.so": "", "three/a/b.py": "", "two_data/x.txt": "12345"}
    wheels.add("two", "2.0", files=files)
    built, _ = build(tmp_path, "one\n")
    meta = built.meta
    assert (meta["python_ver"], meta["arch"]) == ("3.12", "x86_64")
    assert meta["pkg_ver_list"] == [["one", "1.0"], ["two", "2.0"]]
    modules = dict(meta["preinstalls"])
    assert {"one", "two", "_two", "three.a.b", "boto3", "cloudpickle", "tblib", "pywren"} <= set(modules)
    assert (modules["one"], modules["two"], modules["_two"], modules["three.a.b"]) == (True, False, False, False)
    assert "three" not in modules  # another distribution may contain part of this namespace
    assert meta["sha256"] == built.sha256 == hashlib.sha256(built.path.read_bytes()).hexdigest()
    assert meta["size"] == sum(member.size for member in members(built).values())
    assert json.loads(json.dumps(meta)) == meta


def test_the_same_packages_give_the_same_bytes(tmp_path: Path, wheels: Wheelhouse) -> None:
    """The tarball is the same for any tool and time; it has no scripts and no trace of this machine."""
    wheels.add(
        "one", files={"one/__init__.py": "", "one-1.0.dist-info/entry_points.txt": "[console_scripts]\nx = one:x\n"}
    )
    tools = [name for name, command in TOOLS.items() if command]
    built = [build(tmp_path, "one\n", tool=tool)[0] for tool in [*tools, "pip"]]
    assert len({item.sha256 for item in built}) == 1
    inside = members(built[0])
    assert not [
        name for name in inside if name.startswith("bin/") or name.endswith((".pyc", "/INSTALLER", "/REQUESTED"))
    ]
    assert {(member.mtime, member.uid, member.uname, member.mode) for member in inside.values()} == {
        (315_532_800, 0, "", 0o644)
    }


def test_workers_take_it(tmp_path: Path, wheels: Wheelhouse) -> None:
    """A worker can extract the tarball."""
    wheels.add("one")
    built, _ = build(tmp_path, "one\n")
    (target := tmp_path / "extracted").mkdir()
    with built.path.open("rb") as file:
        extract(file, str(target), lambda size: None)
    assert (target / "lib/python3.12/site-packages/one/__init__.py").read_text() == "VERSION = '1.0'\n"


# -- packages left out of it ---------------------------------------------------------------------------------


def test_what_the_worker_has_is_left_out(tmp_path: Path, wheels: Wheelhouse, tool: str) -> None:
    """cloudpickle and tblib are always left out, boto3 unless a requirement names it; other dependencies are kept."""
    wheels.add("one", requires=["cloudpickle", "tblib", "boto3"])
    wheels.add("cloudpickle", "1.0")
    wheels.add("tblib", "0.1")
    wheels.add("boto3", "1.0", requires=["jmespath"])
    wheels.add("jmespath")
    built, said = build(tmp_path, "one\ncloudpickle==1.0\n", tool=tool)
    assert [name for name, _ in built.meta["pkg_ver_list"]] == ["jmespath", "one"]
    assert not [name for name in members(built) if name.startswith(("cloudpickle", "tblib", "boto3"))]
    assert "cloudpickle 1.0 is left out: every worker has it" in said
    assert "boto3 1.0 is left out: Lambda has it" in said
    built, _ = build(tmp_path, "boto3 >= 1.0\n", tool=tool)
    assert ["boto3", "1.0"] in built.meta["pkg_ver_list"]


def test_what_included_requirements_name(tmp_path: Path, wheels: Wheelhouse) -> None:
    """Included files count, relative to their file; constraints request nothing, and circular includes end."""
    for name in ("boto3", "botocore", "s3transfer", "pip"):
        wheels.add(name)
    (below := tmp_path / "below it").mkdir()
    (tmp_path / "constraints.txt").write_text("botocore==1.0\n")
    (below / "inner.txt").write_text("boto3  # newer than Lambda's\n-r deeper.txt\n")
    (below / "deeper.txt").write_text("--requirement=inner.txt\ns3transfer >= 1.0\n")
    outer = '# boto3, and what it needs\n-r "below it/inner.txt"  # ours\n-c constraints.txt\nbotocore\npip\n'
    built, said = build(tmp_path, outer)
    assert [name for name, _ in built.meta["pkg_ver_list"]] == ["boto3", "botocore", "pip", "s3transfer"]
    (tmp_path / "one.txt").write_text("one\n")
    wheels.add("one", requires=["botocore"])
    built, said = build(tmp_path, "-r one.txt\n-c constraints.txt\n")
    assert said == ["botocore 1.0 is left out: Lambda has it"]


def test_a_module_of_the_standard_library_is_left_out(tmp_path: Path, wheels: Wheelhouse) -> None:
    """Otherwise it would shadow the standard library on the worker's path."""
    wheels.add("enum34", files={"enum/__init__.py": ""})
    wheels.add("one", requires=["enum34"])
    built, said = build(tmp_path, "one\n")
    assert said == ["enum34 1.0 is left out: its module enum would hide the standard library's"]
    assert not [name for name in members(built) if name.startswith("enum")]


def test_a_distribution_that_brings_the_workers_own_modules(tmp_path: Path, wheels: Wheelhouse) -> None:
    """Such a distribution is refused, and the error names it."""
    wheels.add("evil", files={"pywren/__init__.py": ""})
    with pytest.raises(DeploymentError, match=r"evil 1\.0 has a module pywren"):
        build(tmp_path, "evil\n")


def test_a_record_that_lies(tmp_path: Path, wheels: Wheelhouse) -> None:
    """A wrong RECORD makes removing a distribution delete nothing outside its directory, and no other files."""
    (precious := tmp_path / "precious.txt").write_text("x")
    wheels.add("tblib", recorded=["../" * 8 + str(precious)[1:], str(precious), "one/__init__.py", "one"])
    wheels.add("one", requires=["tblib"])
    for tool in ("pip", "uv"):
        if TOOLS[tool]:
            try:
                built, _ = build(tmp_path, "one\n", tool=tool)
            except DeploymentError:
                continue  # the tool itself rejects such a wheel
            assert "one/__init__.py" in members(built)
    assert precious.exists()


# -- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requirements", "says"),
    [
        ("lib==1.0\n", r"Only wheels can be used.*manylinux_2_34_x86_64"),
        ("only_source\n", r"Only wheels can be used.*pip wheel NAME"),
        ("one==1.0\none==2.0\n", "Correct the requirements|Only wheels"),
        ("clash_a\nclash_b\n", "says: .*(one|clash)"),
        ("one ==== 1\n", "Correct the requirements"),
        ("", "no package is left|says"),
    ],
)
def test_requirements_that_cannot_be_had(
    tmp_path: Path, wheels: Wheelhouse, tool: str, requirements: str, says: str
) -> None:
    """Row 218: the error contains the target, the tool's own message and the remedy."""
    wheels.add("lib", tag="cp312-cp312-win_amd64")
    wheels.add("one", "1.0")
    wheels.add("one", "2.0")
    wheels.add("clash_a", requires=["one==1.0"])
    wheels.add("clash_b", requires=["one==2.0"])
    with tarfile.open(wheels.path / "only_source-1.0.tar.gz", "w:gz") as tar:
        info = tarfile.TarInfo("only_source-1.0/setup.py")
        tar.addfile(info, io.BytesIO())
    with pytest.raises(DeploymentError, match=says) as caught:
        build(tmp_path, requirements, tool=tool)
    if requirements:
        assert f"cannot build a runtime for Python 3.12 on x86_64 (glibc 2.34); {tool} says: " in str(caught.value)


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy is about the network, not about wheels."""
    settings = tmp_path / "uv.toml"
    settings.write_text("")
    monkeypatch.setenv("UV_CONFIG_FILE", str(settings))
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_NO_CACHE", "1")
    if not TOOLS["uv"]:
        pytest.skip("uv is not here")
    with pytest.raises(DeploymentError, match="Check the network"):
        build(tmp_path, "one\n", tool="uv")
    with pytest.raises(DeploymentError, match="Check the network"):
        installer(AL2023, "uv").obtainable(["one"], tmp_path)


def test_the_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    """uv is tried first, then pip where there is no uv or pip knows more tags; without both it is an error."""
    monkeypatch.setattr(_wheels, "_find_uv", lambda: ["uv", "pip"])
    assert [item.tool for item in find_installers(Target("3.13"))] == ["uv"]
    for target in (Target("3.10"), Target("3.11", "arm64")):
        assert [item.tool for item in find_installers(target)] == ["uv", "pip"]
    monkeypatch.setattr(_wheels, "_find_uv", lambda: None)
    assert [item.tool for item in find_installers(AL2023)] == ["pip"]
    monkeypatch.setattr(_wheels, "_find_pip", lambda: None)
    with pytest.raises(DeploymentError, match="uv or pip"):
        find_installers(AL2023)


# -- from this environment -----------------------------------------------------------------------------------


def test_the_nearest_version_is_taken(tmp_path: Path, wheels: Wheelhouse) -> None:
    """The next lower version is used, else the next higher one; a package without any wheel is left out."""
    wheels.add("plain", "1.0")
    for version in ("1.0", "1.9", "2.2"):
        wheels.add("lib", version)
    wheels.add("lib", "2.0", tag="cp312-cp312-win_amd64")
    wheels.add("late", "3.0")
    wheels.add("needs_lib", "5.0", requires=["lib>=2.0"])
    wheels.add("needs_lib", "4.0", requires=["lib"])
    wheels.add("windows", tag="cp312-cp312-win_amd64")
    pins = [Pin(*pair.split()) for pair in ("plain 1.0", "lib 2.0", "late 2.0+cpu", "needs-lib 5.0", "windows 1.0")]
    said: list[str] = []
    (directory := tmp_path / "site").mkdir()
    install_nearest(pins, [installer(AL2023, QUICK)], directory, said.append)
    found = {item.name: item.version for item in importlib.metadata.distributions(path=[str(directory)])}
    assert found == {"plain": "1.0", "lib": "1.9", "late": "3.0", "needs_lib": "4.0"}
    assert said == [f"windows 1.0 is left out: no version of it has a wheel for {AL2023}"]


def test_each_tool_knows_what_can_be_had(tmp_path: Path, wheels: Wheelhouse, tool: str) -> None:
    """Each tool finds out whether a version has a wheel, and which version a range selects."""
    wheels.add("lib", "1.0")
    wheels.add("lib", "2.0", tag="cp312-cp312-win_amd64")
    asked = installer(AL2023, tool)
    assert not asked.obtainable(["lib==2.0"], tmp_path)
    assert asked.choose("lib<=2.0", tmp_path) == "1.0"
    assert asked.choose("lib>2.0", tmp_path, lowest=True) is None


def test_from_the_environment(tmp_path: Path, wheels: Wheelhouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 218: a line names the version without a wheel and the one that is used instead."""
    wheels.add("one", "0.9")
    wheels.add("two", "2.0")
    monkeypatch.setattr(runtime_builder, "installed", lambda say: [Pin("one", "1.0"), Pin("two", "2.0")])
    said: list[str] = []
    (directory := tmp_path / "work").mkdir()
    built = runtime_builder.build_from_environment(
        AL2023, directory, said.append, installers=[installer(AL2023, QUICK)]
    )
    assert built.meta["pkg_ver_list"] == [["one", "0.9"], ["two", "2.0"]]
    (line,) = said
    assert "one 1.0, which is installed here, has no wheel for Python 3.12 on x86_64 (glibc 2.34)" in line
    assert line.endswith("using 0.9")


@pytest.mark.skipif(not all(TOOLS.values()), reason="uv or pip is not here")
def test_wheels_that_only_pip_knows(tmp_path: Path, wheels: Wheelhouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 218: for Amazon Linux 2 pip is asked too, and a line says what it may get wrong."""
    wheels.add("one", "1.0", tag="py3-none-manylinux2014_x86_64")
    wheels.add("one", "2.0", tag="py3-none-manylinux_2_24_x86_64")
    monkeypatch.setattr(runtime_builder, "installed", lambda say: [Pin("one", "2.0")])
    said: list[str] = []
    (directory := tmp_path / "work").mkdir()
    built = runtime_builder.build_from_environment(AL2, directory, said.append)
    assert built.meta["pkg_ver_list"] == [["one", "2.0"]]
    warned = ["pip collected these packages, but pip evaluates environment markers for this machine"]
    assert [line.partition(", not for")[0] for line in said] == ([] if AL2.is_here else warned)


class Knowing(Installer):
    """A fake tool that finds certain versions of packages."""

    def __init__(self, tool: str, **versions: str) -> None:
        super().__init__(AL2, tool, [])
        self.versions = {name: known.split() for name, known in versions.items()}
        self.installed: list[str] = []

    def install(self, arguments: Sequence[str], directory: Path) -> None:
        if not self.obtainable(arguments, directory):
            raise DeploymentError("no")
        self.installed = list(arguments)

    def obtainable(self, requirements: Sequence[str], directory: Path) -> bool:
        return all(version in self.versions[name] for name, version in (item.split("==") for item in requirements))

    def choose(self, requirement: str, directory: Path, *, lowest: bool = False) -> str | None:
        name, version = requirement.replace("<=", ">").split(">")
        known = [one for one in self.versions[name] if (one > version if lowest else one <= version)]
        return (min if lowest else max)(known, default=None)


def test_the_nearest_version_is_the_nearest_of_both_tools(tmp_path: Path) -> None:
    """Row 218: versions that only pip finds are used, and so are those that uv finds."""
    uv = Knowing("uv", exact="1", below="1", above="4", uvs="2")
    pip = Knowing("pip", exact="1 2", below="1 2", above="4 5", uvs="2")
    pins = [Pin("exact", "2"), Pin("below", "3"), Pin("above", "3"), Pin("uvs", "2")]
    install_nearest(pins, [uv, pip], tmp_path, lambda line: None)
    assert (uv.installed, sorted(pip.installed)) == ([], ["above==4", "below==2", "exact==2", "uvs==2"])


class Installed(importlib.metadata.Distribution):
    """An installed distribution, as ``importlib.metadata`` finds it."""

    def __init__(self, name: str, url: str | None = None) -> None:
        self._texts = {"METADATA": f"Name: {name}\nVersion: 1.0\n"}
        if url:
            self._texts["direct_url.json"] = json.dumps({"url": url})

    def read_text(self, filename: str) -> str | None:
        return self._texts.get(filename)

    def locate_file(self, path: Any) -> Any:
        return Path(path)


def test_what_was_not_installed_from_an_index() -> None:
    """Directories and repositories are left out, and messages hide passwords; wheels count as their version."""
    said: list[str] = []
    pins = installed(
        said.append,
        [
            Installed("Plain.One"),
            Installed("plain_one"),
            Installed("cloudpickle"),
            Installed("pip"),
            Installed("mine", "file:///home/me/mine"),
            Installed("theirs", "git+https://me:secret@example.org/theirs"),
            Installed("wheel-of", "file:///home/me/wheel_of-1.0-py3-none-any.whl"),
        ],
    )
    assert pins == [Pin("plain-one", "1.0"), Pin("wheel-of", "1.0")]
    assert [line.split(" is left out")[0] for line in said] == ["mine 1.0", "theirs 1.0"]
    assert "git+https://example.org/theirs" in said[1]
    with pytest.raises(DeploymentError, match="no package that is installed here can go into a runtime"):
        installed(said.append, [Installed("mine", "file:///home/me/mine")])


# -- from a prefix -------------------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path: Path, wheels: Wheelhouse) -> Path:
    """A virtual environment with a package."""
    path = tmp_path / "venv"
    venv.create(path, symlinks=True)
    site = path / "lib" / f"python{HERE}" / "site-packages"
    wheels.add("one")
    wheels.add("tblib", "0.1")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(site), "one", "tblib"]
    subprocess.run(command, check=True, capture_output=True)
    return path


def from_prefix(prefix: Path, target: Target, directory: Path) -> tuple[Built, list[str]]:
    """Build from an environment, and return the runtime and the lines for the user."""
    said: list[str] = []
    directory.mkdir()
    return runtime_builder.build_from_prefix(prefix, target, directory, said.append), said


def test_a_virtual_environment(environment: Path, tmp_path: Path) -> None:
    """The environment's packages are copied unchanged, without the worker's own."""
    built, said = from_prefix(environment, Target(HERE), tmp_path / "work")
    assert built.meta["pkg_ver_list"] == [["one", "1.0"]]
    assert "one/__init__.py" in members(built)
    assert said == ["tblib 0.1 is left out: every worker has it"]


def test_a_conda_environment(environment: Path, tmp_path: Path) -> None:
    """Its interpreter and libraries are copied, and links that workers would reject are replaced by their targets."""
    (environment / "conda-meta").mkdir()
    libraries = environment / "lib"
    (libraries / "libx.so.1").write_bytes(b"x")
    (libraries / "libx.so").symlink_to("libx.so.1")
    (libraries / "absolute.so").symlink_to(libraries / "libx.so.1")
    (libraries / "dangling.so").symlink_to("/no/such/file")
    built, _ = from_prefix(environment, _target_of_this_machine(), tmp_path / "work")
    (target := tmp_path / "extracted").mkdir()
    with built.path.open("rb") as file:
        extract(file, str(target), lambda size: None)
    root = target / "condaruntime"
    assert (root / "bin" / "python").read_bytes() == Path(sys.executable).resolve().read_bytes()
    assert (root / "lib" / "libx.so").is_symlink()
    assert (root / "lib" / "absolute.so").read_bytes() == b"x"
    assert not (root / "lib" / "dangling.so").exists()
    assert (root / f"lib/python{HERE}/site-packages/one/__init__.py").exists()
    assert "boto3" not in dict(built.meta["preinstalls"])


def _target_of_this_machine() -> Target:
    """Return a target with this Python, as if the function had the C library that this interpreter needs."""

    class Anywhere(Target):
        glibc = 99

    return Anywhere(HERE, next(arch for arch, name in runtime_builder.ARCHITECTURES.items() if name == _machine()))


def _machine() -> str:
    return {62: "x86_64", 183: "aarch64"}[Path(sys.executable).resolve().read_bytes()[18]]


def elf(machine: int, *words: bytes) -> bytes:
    """Return the start of a compiled extension that contains these names."""
    return b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little") + b"\0".join([b"", *words])


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("a.cpython-312-x86_64-linux-gnu.so", elf(183), "is for Linux on aarch64, but"),
        ("a.cpython-312-x86_64-linux-gnu.so", elf(62, b"GLIBC_2.4", b"GLIBC_2.38"), r"needs glibc 2\.38, but"),
        ("a.cpython-312-x86_64-linux-gnu.so", elf(62, b"libc.musl-x86_64.so.1"), "is compiled for musl"),
        ("a.cpython-311-x86_64-linux-gnu.so", elf(62), r"is for Python 3\.11, not for Python 3\.12"),
        ("a.abi3.so", b"\xcf\xfa\xed\xfe", "is for another system"),
        ("a.cpython-312-x86_64-linux-gnu.so", elf(62, b"GLIBC_2.34"), None),
        ("attach_linux_x86.so", elf(3), None),
    ],
)
def test_compiled_for_another_system(tmp_path: Path, name: str, data: bytes, says: str | None) -> None:
    """Extensions are inspected: their machine, C library and Python must match the function's."""
    site = tmp_path / "env" / "lib" / "python3.12" / "site-packages"
    (site / "one-1.0.dist-info").mkdir(parents=True)
    (site / "one-1.0.dist-info" / "METADATA").write_text("Name: one\nVersion: 1.0\n")
    (site / name).write_bytes(data)
    if says is None:
        from_prefix(tmp_path / "env", AL2023, tmp_path / "work")
        return
    with pytest.raises(DeploymentError, match=says):
        from_prefix(tmp_path / "env", AL2023, tmp_path / "work")


def test_a_prefix_that_does_not_fit(environment: Path, tmp_path: Path) -> None:
    """A directory that is not an environment is refused, and so is one for another Python."""
    with pytest.raises(DeploymentError, match="is not a Python environment"):
        from_prefix(tmp_path / "wheels", AL2023, tmp_path / "first")
    other = "3.12" if HERE != "3.12" else "3.13"
    with pytest.raises(DeploymentError, match=rf"is for Python {HERE}, but .* {other}: add --python {HERE}"):
        from_prefix(environment, Target(other), tmp_path / "second")


# -- size ---------------------------------------------------------------------------------------------------


def test_the_size_is_what_the_worker_counts(tmp_path: Path, wheels: Wheelhouse) -> None:
    """The size counts the archive, its members in whole blocks, and a reserve, as the worker does."""
    wheels.add("one", files={"one/__init__.py": "", "one/data": "x" * 100_000})
    built, _ = build(tmp_path, "one\n")
    taken: list[int] = []
    (target := tmp_path / "extracted").mkdir()
    with built.path.open("rb") as file:
        extract(file, str(target), taken.append)
    assert built.needed >= sum(taken) + built.path.stat().st_size + 16 * 2**20

    def never() -> Disk:
        raise AssertionError("every function has the disk for a small one")

    runtime_builder.check_fits(built, never)
    bigger = replace(built, needed=600 * 2**20)
    runtime_builder.check_fits(bigger, lambda: Disk(600, "the function f has", 512))
    with pytest.raises(DeploymentError, match=r"need 600 MB .* f has 512 MB .*ephemeral_storage` to 600 .*one 0 MB"):
        runtime_builder.check_fits(bigger, lambda: Disk(512, "the function f has", 512))


@pytest.mark.parametrize(
    ("found", "config", "says"),
    [
        (
            {"EphemeralStorage": {"Size": 512}},
            {"ephemeral_storage": 2048},
            "the function f has 512 MB .*the configuration's 2,048",
        ),
        ({}, {"ephemeral_storage": 599}, "the function f has 512 MB .*set `lambda: ephemeral_storage` to 600"),
        (None, {"ephemeral_storage": 599}, "the configuration says 599 MB .*set `lambda: ephemeral_storage` to 600"),
        (DeploymentError("not allowed"), {"ephemeral_storage": 599}, "the configuration says 599 MB"),
        (None, None, "by default a function has 512 MB .*set `lambda: ephemeral_storage` to 600"),
        ({"EphemeralStorage": {"Size": 600}}, {}, None),
        (None, {"ephemeral_storage": 600}, None),
    ],
)
def test_whose_disk_it_is(tmp_path: Path, found: Any, config: dict[str, Any] | None, says: str | None) -> None:
    """Row 216: the deployed function's disk counts, or the configuration's if the function cannot be read."""

    class OneFunction(AWS):
        def function_config(self, name: str) -> dict[str, Any] | None:
            assert name == "f"
            if isinstance(found, Exception):
                raise found
            return found

    def ask() -> Disk:
        if config is None:
            return Disk.configured({})
        return Disk.of_function({"lambda": {"function_name": "f", **config}}, OneFunction("us-west-2"))

    built = Built(tmp_path, "", {}, 600 * 2**20, [])
    if says is None:
        runtime_builder.check_fits(built, ask)
        return
    with pytest.raises(DeploymentError, match=says):
        runtime_builder.check_fits(built, ask)


# -- from the real index -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_wheels_for_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy for arm64 and Amazon Linux 2 is built beside a pure Python package."""
    target = Target("3.11" if HERE != "3.11" else "3.10", "arm64")
    file = tmp_path / "requirements.txt"
    file.write_text("numpy\ntoolz\n")
    (directory := tmp_path / "work").mkdir()
    built = runtime_builder.build_from_requirements([file], target, directory, lambda line: None)
    versions = dict(built.meta["pkg_ver_list"])
    assert tuple(map(int, versions["numpy"].split(".")[:2])) < (2, 3)
    assert "toolz" in versions
    extensions = [name for name in members(built) if "_multiarray_umath" in name and name.endswith(".so")]
    assert all(f"cpython-{target.python.replace('.', '')}-aarch64-linux-gnu" in name for name in extensions)
    assert extensions
