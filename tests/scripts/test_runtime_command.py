"""``pywren runtime``: exit code and output of building, listing and deleting, and what a function can then import."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import runner
from wheelhouse import Wheelhouse, make_the_index

import pywren
import pywren.testing
from pywren import wrenconfig
from pywren.aws.requests import AWS
from pywren.cloud import _wheels, runtime_builder
from pywren.cloud.doctor import Doctor, _guarded
from pywren.exceptions import StorageError
from pywren.scripts import _console
from pywren.scripts.pywrencli import cli
from pywren.storage.runtime_info import meta_key
from pywren.storage.s3_backend import S3Backend

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
OTHER = "3.12" if HERE != "3.12" else "3.13"
WAIT = 60.0

pytestmark = pytest.mark.moto


@pytest.fixture(scope="module")
def aws() -> Iterator[dict[str, Any]]:
    """A mocked account."""
    with pywren.testing.mock_aws(concurrency=2) as config:
        yield config


@pytest.fixture
def bucket(aws: dict[str, Any]) -> Iterator[S3Backend]:
    """Return the bucket, without the objects of earlier tests."""
    storage = S3Backend(aws["s3"]["bucket"], aws["account"]["aws_region"])
    yield storage
    storage.delete(storage.list(""))
    storage.close()


@pytest.fixture
def config_file(aws: dict[str, Any], bucket: S3Backend, tmp_path: Path) -> Path:
    """Write a configuration as a person would."""
    path = tmp_path / "config.yaml"
    path.write_text("# my account\n" + yaml.safe_dump({**aws, "runtime": {"preinstalls": ["beside"]}}) + "# the end\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheelhouse:
    """The wheels of a local index."""
    return make_the_index(tmp_path / "wheels", monkeypatch)


@pytest.fixture
def run(config_file: Path) -> Callable[..., tuple[int, str]]:
    """Run ``pywren runtime`` with that configuration, and return its exit code and output."""

    def invoke(*arguments: object, filename: Path | None = config_file) -> tuple[int, str]:
        named = ["--filename", str(filename)] if filename else []
        result = runner().invoke(cli, [*named, "runtime", *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout + result.stderr

    return invoke


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def requirements(tmp_path: Path, wheels: Wheelhouse) -> Path:
    """Write a file that requires one tiny package."""
    wheels.add("tiny_from_wheel", "1.5")
    path = tmp_path / "requirements.txt"
    path.write_text("tiny_from_wheel\n")
    return path


def asking_for_its_version() -> Callable[[Any], str]:
    """Return a function that uses a package of the runtime; it is pickled without this module and its imports."""

    def ask(_: Any) -> str:
        import tiny_from_wheel  # type: ignore[import-not-found]

        return str(tiny_from_wheel.VERSION)

    return ask


# -- building ------------------------------------------------------------------------------------------------


def test_a_function_imports_what_was_built(run: Run, requirements: Path, config_file: Path, bucket: S3Backend) -> None:
    """A runtime is built from requirements and used by a call on Lambda; the rest of the configuration is kept."""
    before = yaml.safe_load(config_file.read_text())
    code, output = run("build", "-r", requirements)
    assert code == 0, output
    config = wrenconfig.load(config_file)
    key = config["runtime"]["s3_key"]
    place = f"s3://{bucket.bucket}/{key}"
    name = Path(key).name.removesuffix(".tar.gz")
    lines = output.splitlines()
    assert lines[0].startswith(f"runtime {name}: 1 package, 0.0 MB, packed 0.0 MB")
    assert lines[1:] == [f"uploaded to {place}", f"written into {config_file}"]
    assert sorted(bucket.list("pywren.jobs/runtimes/")) == sorted([key.replace(".tar.gz", ".meta.json"), key])
    text = config_file.read_text()
    assert text.startswith("# my account\n")
    assert text.endswith("# the end\n")
    assert stat.S_IMODE(config_file.stat().st_mode) == 0o600
    assert config["runtime"]["preinstalls"] == ["beside"]
    assert {**yaml.safe_load(text), "runtime": None} == {**before, "runtime": None}
    with pywren.lambda_executor(config=config) as executor:
        assert ["tiny-from-wheel", "1.5"] in executor.runtime_meta_info["pkg_ver_list"]
        assert executor.call_async(asking_for_its_version(), None).result(timeout=WAIT) == "1.5"


def test_requirements_from_a_pipe(run: Run, requirements: Path) -> None:
    """Row 280: ``-r <(pip freeze)`` names a shell's pipe, which can be read only once."""
    read, write = os.pipe()
    with os.fdopen(write, "w") as pipe:
        pipe.write(
            f"tiny-from-wheel==1.5\n# Editable install with no version control (x==1)\n-e {requirements.parent}\n"
        )
    code, output = run("build", "-r", f"/dev/fd/{read}")
    os.close(read)
    assert code == 0, output
    assert f"{requirements.parent} is left out: it is an editable install" in output
    assert "1 package" in output


def test_what_cannot_be_imported(run: Run, requirements: Path, wheels: Wheelhouse, bucket: S3Backend) -> None:
    """Row 281: nothing is uploaded, and the exit code is 1."""
    wheels.add("useless", requires=[], files={"useless/__init__.py": "import not_to_be_had\n"})
    requirements.write_text("tiny_from_wheel\nuseless\n")
    code, output = run("build", "-r", requirements)
    assert code == 1
    assert f"line 2 of {requirements} requires useless, but in version 1.0 useless cannot be imported: " in output
    assert "No module named 'not_to_be_had'" in output
    assert bucket.list("") == []


def test_the_same_is_not_uploaded_twice(run: Run, requirements: Path, bucket: S3Backend) -> None:
    """A stored runtime is not uploaded again; a description missing after an interrupted upload is added."""
    assert run("build", "-r", requirements)[0] == 0
    keys = sorted(bucket.list("pywren.jobs/runtimes/"))
    bucket.delete([key for key in keys if key.endswith(".meta.json")])
    assert "incomplete" in run("list")[1]
    code, output = run("build", "-r", requirements)
    assert code == 0
    assert "already stored: s3://" in output
    assert sorted(bucket.list("pywren.jobs/runtimes/")) == keys


def test_another_python_and_architecture(run: Run, requirements: Path, config_file: Path) -> None:
    """Row 215: the runtime is built for them, and the output says which function can use it and what to do."""
    code, output = run("build", "-r", requirements, "--python", OTHER, "--arch", "arm64")
    assert code == 0
    assert f"python{OTHER}-arm64-" in wrenconfig.load(config_file)["runtime"]["s3_key"]
    assert output.splitlines()[-2:] == [
        f"only programs on Python {OTHER} can use this runtime; this command runs on Python {HERE}",
        "only functions on arm64 can use this runtime: set `lambda: architecture` to arm64 in the configuration and "
        "run `pywren deploy_lambda`",
    ]


def test_building_as_a_dry_run(run: Run, requirements: Path, config_file: Path, bucket: S3Backend) -> None:
    """The runtime is built, and the output says what would be done; nothing is uploaded or written."""
    text = config_file.read_text()
    code, output = run("build", "-r", requirements, "--dry-run")
    assert code == 0
    runtime, upload, write, *section = output.splitlines()
    name = runtime.split()[1].rstrip(":")
    assert upload == f"would upload to s3://{bucket.bucket}/pywren.jobs/runtimes/{name}.tar.gz"
    assert write == f"would write into {config_file}:"
    assert sorted(yaml.safe_load("\n".join(section))["runtime"]) == ["s3_bucket", "s3_key", "sha256"]
    assert (bucket.list(""), config_file.read_text()) == ([], text)
    run("build", "-r", requirements)
    assert "\nalready stored: s3://" in run("build", "-r", requirements, "--dry-run")[1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "choose the contents"),
        (["--from-env", "--from-prefix", "."], "give one of"),
        (["-r", "missing.txt"], "'missing.txt' does not exist"),
        (["--from-env", "--arch", "mips"], "'mips' is not one of 'arm64', 'x86_64'"),
        (["--from-env", "--python", "2.7"], "'2.7' is not one of"),
        (["--from-prefix", "no-directory"], "does not exist"),
    ],
)
def test_a_command_line_that_is_wrong(run: Run, arguments: list[str], says: str) -> None:
    """A wrong command line is a usage error with exit code 2."""
    code, output = run("build", *arguments)
    assert code == 2
    assert says in " ".join(output.split())


def test_a_runtime_that_is_too_big(
    run: Run, requirements: Path, wheels: Wheelhouse, config_file: Path, bucket: S3Backend, monkeypatch: Any
) -> None:
    """Row 216: the error gives both sizes, the biggest packages and the remedy; nothing is uploaded or written."""
    wheels.add("big_one", files={"big_one/__init__.py": "", "big_one/data.txt": "x" * 3_000_000})
    (path := config_file.parent / "r.txt").write_text("big_one\ntiny_from_wheel\n")
    monkeypatch.setattr(runtime_builder, "disk_bytes", lambda sizes: 600 * 2**20)
    code, output = run("build", "-r", path)
    assert code == 1
    function = wrenconfig.load(config_file)["lambda"]["function_name"]
    assert f"need 600 MB on the worker's disk, but the function {function} has 512 MB" in output
    assert "set `lambda: ephemeral_storage` to 600 in the configuration and run `pywren deploy_lambda`" in output
    assert "The biggest packages: big-one 3 MB, tiny-from-wheel 0 MB. Nothing was uploaded" in output
    assert bucket.list("") == []
    assert "sha256" not in config_file.read_text()


def test_without_a_configuration(run: Run, requirements: Path, aws: dict[str, Any], monkeypatch: Any) -> None:
    """The bucket must be given, and the output says what to write into a configuration."""
    monkeypatch.chdir(requirements.parent)
    monkeypatch.setenv("HOME", str(requirements.parent))
    code, output = run("build", "-r", requirements, filename=None)
    assert (code, output) == (
        1,
        "Error: there is no configuration: create one with `pywren create_config`, or build with --bucket NAME\n",
    )
    code, output = run("build", "-r", requirements, "--bucket", aws["s3"]["bucket"], filename=None)
    assert code == 0, output
    section = yaml.safe_load(output[output.index("runtime:\n") :])["runtime"]
    assert sorted(section) == ["s3_bucket", "s3_key", "sha256"]
    assert section["s3_bucket"] == aws["s3"]["bucket"]
    assert "write this into the configuration" in output


def test_a_configuration_that_cannot_be_written(
    run: Run, requirements: Path, config_file: Path, monkeypatch: Any
) -> None:
    """The runtime is uploaded, and the output says what to write by hand."""
    text = config_file.read_text()
    writable = os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **kw: path != config_file and writable(path, mode, **kw))
    code, output = run("build", "-r", requirements)
    assert code == 1
    assert (
        f"cannot change the configuration {config_file}: it is read-only; write s3_bucket, s3_key, sha256 in its"
        in output
    )
    assert "\n  sha256: " in output
    assert config_file.read_text() == text


def test_a_bucket_that_is_not_there(run: Run, requirements: Path, config_file: Path) -> None:
    """The error names the bucket, and the configuration stays unchanged."""
    text = config_file.read_text()
    code, output = run("build", "-r", requirements, "--bucket", "no-such-bucket-of-anybody")
    assert code == 1
    assert "no-such-bucket-of-anybody" in output
    assert config_file.read_text() == text


def test_an_interrupted_upload_is_not_recorded(
    run: Run, requirements: Path, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration names a runtime only once all of it is in the bucket."""
    put = S3Backend.put

    def broken(self: S3Backend, key: str, *args: Any, **kwargs: Any) -> bool:
        if key.endswith(".meta.json"):
            raise StorageError("the connection broke")
        return put(self, key, *args, **kwargs)

    text = config_file.read_text()
    with monkeypatch.context() as patch:
        patch.setattr(S3Backend, "put", broken)
        code, output = run("build", "-r", requirements)
    assert (code, "the connection broke" in output) == (1, True)
    assert config_file.read_text() == text
    assert run("build", "-r", requirements)[0] == 0


def test_neither_uv_nor_pip(run: Run, requirements: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says how to install one."""
    monkeypatch.setattr(_wheels, "_find_uv", lambda: None)
    monkeypatch.setattr(_wheels, "_find_pip", lambda: None)
    code, output = run("build", "-r", requirements)
    assert (code, "neither is installed: install one" in output) == (1, True)


# -- listing and deleting ------------------------------------------------------------------------------------


def test_list(run: Run, requirements: Path, wheels: Wheelhouse, bucket: S3Backend) -> None:
    """Each runtime is listed with its packages, and the one in use has a star."""
    assert run("list") == (0, f"there is no runtime in s3://{bucket.bucket}/pywren.jobs/runtimes/\n")
    run("build", "-r", requirements)
    wheels.add("tiny_from_wheel", "1.6")
    run("build", "-r", requirements)
    code, output = run("list")
    assert code == 0
    marks = {line.split()[-1]: line[0] for line in output.splitlines()}
    assert marks == {"1.5": " ", "1.6": "*"}


def test_delete(run: Run, requirements: Path, wheels: Wheelhouse, config_file: Path, bucket: S3Backend) -> None:
    """Row 219: the start of the name is enough; ``--force`` deletes one in use and changes the configuration."""
    run("build", "-r", requirements, "--arch", "arm64")
    run("build", "-r", requirements, "--arch", "x86_64")
    code, output = run("delete", f"python{HERE}-arm64")
    assert (code, output.startswith("deleted python")) == (0, True)
    code, output = run("delete", f"python{HERE}")
    assert code == 1
    assert "is in use" in output
    assert "--force" in output
    code, output = run("delete", f"python{HERE}", "--force")
    assert code == 0
    assert f"removed from {config_file}" in output
    assert bucket.list("pywren.jobs/runtimes/") == []
    assert wrenconfig.load(config_file)["runtime"] == {"preinstalls": ["beside"], "runtime_storage": "s3"}


def test_deleting_as_a_dry_run(run: Run, requirements: Path, config_file: Path, bucket: S3Backend) -> None:
    """The output says what would be done, and nothing changes."""
    run("build", "-r", requirements)
    text, keys = config_file.read_text(), bucket.list("")
    name = keys[0].rpartition("/")[2].removesuffix(".meta.json")
    code, output = run("delete", name, "--force", "--dry-run")
    assert (code, output) == (0, f"would remove it from {config_file}\nwould delete {name}\n")
    assert (config_file.read_text(), bucket.list("")) == (text, keys)


def test_deleting_asks_at_a_terminal(
    run: Run, requirements: Path, bucket: S3Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command asks for confirmation unless ``--yes`` is given."""
    run("build", "-r", requirements)
    monkeypatch.setattr(_console, "_at_terminal", lambda: True)
    code, output = run("delete", f"python{HERE}", "--force")
    assert (code, "Continue? [y/N]" in output, len(bucket.list(""))) == (1, True, 2)
    code, output = run("delete", f"python{HERE}", "--force", "--yes")
    assert (code, "Continue?" in output, bucket.list("")) == (0, False, [])


@pytest.mark.parametrize(("name", "says"), [("nothing", "no runtime"), ("python", "more than one"), ("", "no runtime")])
def test_deleting_what_is_not_one(run: Run, bucket: S3Backend, name: str, says: str) -> None:
    """An unknown, ambiguous or empty name is refused, and the error lists the runtimes."""
    for there in ("python3.11-a", "python3.12-b"):
        bucket.put(f"pywren.jobs/runtimes/{there}.tar.gz", b"")
    code, output = run("delete", name)
    assert (code, says in output) == (1, True)
    assert re.search("(runtimes|matches): python3.11-a, python3.12-b", output)
    assert len(bucket.list("pywren.jobs/runtimes/")) == 2


# -- what test_config says of it -----------------------------------------------------------------------------


def test_a_runtime_that_calls_cannot_use(config_file: Path, aws: dict[str, Any], bucket: S3Backend) -> None:
    """Rows 213, 214, 215: ``test_config`` finds a missing digest, tarball, copy or description, and other mistakes."""
    key, meta = "runtimes/a.tar.gz", {"python_ver": HERE, "arch": "arm64"}
    own = {"s3_bucket": bucket.bucket, "s3_key": key, "sha256": "0" * 64}
    place, description = f"s3://{bucket.bucket}/{key}", meta_key(key)
    bucket.put(key, b"x")
    bucket.put(description, json.dumps(meta).encode())

    def said(**changes: Any) -> str:
        config = {**aws, "lambda": {**aws["lambda"], "architecture": "arm64"}, "runtime": {**own, **changes}}
        doctor = Doctor(config, AWS(aws["account"]["aws_region"]))
        (finding,) = _guarded("runtime", doctor._examine_runtime)
        return str(finding)

    config_file.write_text(yaml.safe_dump({**aws, "runtime": own}))
    result = runner().invoke(cli, ["--filename", str(config_file), "test_config"])
    assert result.exit_code == 1
    assert (
        "wrong runtime: the runtime is for arm64, but the function is for x86_64: set" in result.stdout + result.stderr
    )
    assert said() == f"ok    runtime: {place}, Python {HERE}"
    assert said(sha256=None).startswith("wrong runtime: `sha256` is missing or invalid in the `runtime` section")
    bucket.put(description, json.dumps({**meta, "urls": [f"s3://{bucket.bucket}/copy.tar.gz"]}).encode())
    assert said().startswith(f"wrong runtime: there is no runtime s3://{bucket.bucket}/copy.tar.gz: ")
    bucket.put("copy.tar.gz", b"x")
    assert said() == f"ok    runtime: {place}, Python {HERE}"
    bucket.put(description, json.dumps(meta).encode())
    bucket.delete([key])
    assert said().startswith(f"wrong runtime: there is no runtime {place}: ")
    bucket.delete([description])
    assert said().startswith(f"wrong runtime: there is no runtime s3://{bucket.bucket}/{description}: ")
