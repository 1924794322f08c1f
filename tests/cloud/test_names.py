"""Names made from any text, which AWS must accept."""

from __future__ import annotations

import getpass
import itertools

import pytest

from pywren.cloud.names import Names, bucket_name, check_bucket_name
from pywren.exceptions import ConfigError
from pywren.scripts import setupscript

SUFFIXES = [
    *("", "two", "My_Team", "my-team", "a.b", "a b\n", "a/b", "..", "-", "_", "two-", "$(rm)", "1.2.3.4"),
    *("x" * 40, "x" * 63, "x" * 200, "Müller & Söhne", "Mueller", "数据", "İ", "\udcff"),
    *("s3alias", ".mrap", "-x-s3", "--ol-s3"),
]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("account", ["123456789012", None])
@pytest.mark.parametrize("region", ["us-west-2", "ap-southeast-17"])
def test_what_the_set_up_proposes_is_valid(region: str, account: str | None, suffix: str) -> None:
    """Row 237: whatever the suffix, AWS accepts the proposed names."""
    proposed = setupscript._defaults(region, account, suffix)
    Names.of(proposed.config(), "")
    assert "." not in proposed.bucket


def test_what_is_valid_as_it_is_stays() -> None:
    """A suffix that AWS accepts is not changed, in any name."""
    proposed = setupscript._defaults("us-west-2", "123456789012", "My_Team")
    assert (proposed.role, proposed.function) == ("pywren_exec_role_1_My_Team", "pywren_1_My_Team")
    assert (proposed.queue, proposed.instances) == ("pywren-jobs-1-My_Team", "pywren-standalone-My_Team")
    assert setupscript._defaults("us-west-2", "1" * 12, "two").bucket == "pywren-111111111111-us-west-2-two"


def test_different_suffixes_make_different_names() -> None:
    """Suffixes that differ only in replaced characters give different names; bucket names have no capital letters."""
    proposals = [setupscript._defaults("us-west-2", "123456789012", suffix) for suffix in SUFFIXES]
    for one, other in itertools.combinations(proposals, 2):
        assert one.bucket != other.bucket
        assert one.function != other.function
        assert one.role != other.role
        assert one.queue != other.queue


@pytest.mark.parametrize("user", ["Jörg", "corp\\alice.smith", "x" * 100, "用户", ""])
def test_names_of_users(monkeypatch: pytest.MonkeyPatch, user: str) -> None:
    """Row 237: without an account the bucket is named after the user, whatever the user's name."""
    monkeypatch.setattr(getpass, "getuser", lambda: user)
    check_bucket_name(setupscript._defaults("us-west-2", None, "").bucket)


@pytest.mark.parametrize("error", [OSError, KeyError("uid not found"), ImportError])
def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Row 237: in a container the user may have only a number."""

    def getuser() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", getuser)
    assert setupscript._defaults("us-west-2", None, "").bucket == "pywren-me-us-west-2"


@pytest.mark.parametrize(
    "name",
    [
        *("ab", "a" * 64, "Upper", "under_score", "-a-b", "a-b-", "a..b", "192.168.5.4", "ä-bucket", "a b", "a\n"),
        *("xn--bucket", "sthree-bucket", "amzn-s3-demo-bucket", "a-s3alias", "a--ol-s3", "a.mrap", "a--x-s3"),
    ],
)
def test_buckets_that_s3_refuses(name: str) -> None:
    """Bucket names that S3 rejects are refused before anything is sent, and replaced when made from other text."""
    with pytest.raises(ConfigError, match="not a valid bucket name"):
        check_bucket_name(name)
    check_bucket_name(bucket_name("pywren", name))


@pytest.mark.parametrize("name", ["Rolle_ä", "роль", "r" * 65, "a b", "a/b", "a\n"])
def test_roles_that_iam_refuses(name: str) -> None:
    """Role names may contain only ASCII letters."""
    config = {"account": {"aws_region": "us-west-2", "aws_lambda_role": name}, "s3": {"bucket": "any"}}
    with pytest.raises(ConfigError, match="aws_lambda_role"):
        Names.of(config, "")
