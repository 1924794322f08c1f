"""What the client knows about runtimes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

import pywren.storage
from pywren import runtime
from pywren.exceptions import ConfigError, StorageError
from pywren.storage.s3_backend import S3Backend

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"
OWN = {"s3_bucket": "mine", "s3_key": "runtimes/a.tar.gz", "runtime_storage": "s3"}


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Mock S3 with the bucket of the runtime."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws():
        client = boto3.client("s3", "us-east-1")
        client.create_bucket(Bucket="mine")
        yield client
        client.close()


def test_version_str() -> None:
    """A version text has major and minor version only."""
    assert runtime.version_str((3, 12, 1)) == "3.12"
    assert runtime.version_str(sys.version_info) == HERE


@pytest.mark.parametrize(
    "config",
    [
        None,
        {},
        {"runtime_storage": "s3"},
        {"s3_bucket": "pywren-runtimes-public-us-west-2", "s3_key": "pywren.runtimes/default_3.6.tar.gz"},
    ],
)
def test_no_runtime_is_the_workers_own_python(config: dict[str, Any] | None) -> None:
    """Without a runtime, or with one of 0.4's public ones, no request is sent and Python is the client's."""
    info = runtime.get_runtime_info(config)
    assert info["python_ver"] == HERE
    assert ["cloudpickle", True] in info["preinstalls"]
    assert runtime.runtime_valid(info)


@pytest.mark.moto
def test_a_runtime_of_ones_own(s3: Any) -> None:
    """The description beside the tarball is read, under either of 0.4's names."""
    meta = {"python_ver": HERE, "preinstalls": [["numpy", True]], "pkg_ver_list": [["numpy", "2.0"]]}
    s3.put_object(Bucket="mine", Key="runtimes/a.meta.json", Body=json.dumps(meta))
    s3.put_object(Bucket="mine", Key="runtimes/a.tar.gz", Body=b"x")
    assert runtime.get_runtime_info(OWN) == meta
    assert pywren.storage.get_runtime_info(OWN) == meta


@pytest.mark.moto
def test_a_runtime_that_is_missing(s3: Any) -> None:
    """Row 214: the error names it and says how to make one."""
    with pytest.raises(ConfigError, match=r"s3://mine/runtimes/a\.meta\.json.*runtimes\.md"):
        runtime.get_runtime_info(OWN)


@pytest.mark.moto
def test_a_runtime_without_its_tarball(s3: Any) -> None:
    """Row 214: a description without its tarball is not a runtime, unless it lists copies."""
    s3.put_object(Bucket="mine", Key="runtimes/a.meta.json", Body=json.dumps({"python_ver": HERE}))
    with pytest.raises(ConfigError, match=r"no runtime s3://mine/runtimes/a\.tar\.gz.*runtimes\.md"):
        runtime.get_runtime_info(OWN)
    copies = {"python_ver": HERE, "urls": ["s3://mine/copy.tar.gz"]}
    s3.put_object(Bucket="mine", Key="runtimes/a.meta.json", Body=json.dumps(copies))
    assert runtime.get_runtime_info(OWN)["urls"] == ["s3://mine/copy.tar.gz"]


@pytest.mark.moto
def test_a_tarball_that_only_workers_may_read(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker reports whether it can read the tarball; the client needs only the description."""
    s3.put_object(Bucket="mine", Key="runtimes/a.meta.json", Body=json.dumps({"python_ver": HERE}))
    get = S3Backend.get

    def refusing(self: S3Backend, key: str, *more: Any, **options: Any) -> bytes:
        if key.endswith(".tar.gz"):
            raise StorageError("access denied")
        return get(self, key, *more, **options)

    monkeypatch.setattr(S3Backend, "get", refusing)
    assert runtime.get_runtime_info(OWN)["python_ver"] == HERE


@pytest.mark.moto
@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"{}", b'{"python_ver": 3.12}'])
def test_a_description_that_is_none(s3: Any, body: bytes) -> None:
    """Invalid bytes in a description are an error that names the object."""
    s3.put_object(Bucket="mine", Key="runtimes/a.meta.json", Body=body)
    with pytest.raises(ConfigError, match=r"runtimes/a\.meta\.json"):
        runtime.get_runtime_info(OWN)


def test_a_runtime_of_another_python() -> None:
    """It is not valid, and the check says which Python version it has and what to do."""
    meta = {"python_ver": "2.7"}
    assert not runtime.runtime_valid(meta)
    with pytest.raises(ConfigError, match=rf"python version is 2\.7.*runs on {HERE}.*runtimes\.md"):
        runtime.check_runtime(meta)
    runtime.check_runtime({"python_ver": HERE})


def test_a_runtime_of_another_architecture() -> None:
    """Row 215: the error says what to write and run; if either architecture is unknown, there is no error."""
    meta = {"python_ver": HERE, "arch": "arm64"}
    says = r"is for arm64, but .* for x86_64: set `lambda: architecture` to arm64 .*pywren deploy_lambda.*build"
    with pytest.raises(ConfigError, match=says):
        runtime.check_runtime(meta, "x86_64")
    runtime.check_runtime(meta, "arm64")
    runtime.check_runtime(meta)
    runtime.check_runtime({"python_ver": HERE}, "x86_64")
