"""What ``mock_aws`` does to the environment when no other context is open."""

import os

import pytest

import pywren
import pywren.testing

pytestmark = pytest.mark.moto


def test_credentials_are_out_of_reach_and_come_back(monkeypatch):
    """No test can reach a real account, through a profile or an endpoint neither."""
    monkeypatch.setenv("AWS_PROFILE", "production")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "real")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://example.com")
    before = dict(os.environ)
    with pywren.testing.mock_aws() as config:
        assert os.environ["AWS_SECRET_ACCESS_KEY"] != "real"
        assert "AWS_PROFILE" not in os.environ
        assert "AWS_ENDPOINT_URL" not in os.environ
        assert pywren.default_executor(config=config).call_async(len, "abc").result() == 3
    assert dict(os.environ) == before
