"""How ``mock_aws`` changes the environment when no other context is open."""

import itertools
import os
import urllib.error
import urllib.request

import pytest
from callees import buckets, endpoint_and_key, through_a_presigned_url, with_a_role

import pywren
import pywren.testing

pytestmark = pytest.mark.moto


def test_credentials_are_out_of_reach_and_come_back(monkeypatch):
    """No test can reach a real account, not even through a profile or an endpoint."""
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


PROXIES = [
    *({name: "http://127.0.0.1:9"} for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")),
    {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "corp.example"},
    {"http_proxy": "http://127.0.0.1:9", "no_proxy": "corp.example,.internal"},
    {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""},
    {"http_proxy": "http://127.0.0.1:9", "NO_PROXY": "*"},
    {"HTTP_PROXY": "no url at all"},
]


@pytest.mark.parametrize("variables", PROXIES, ids=lambda variables: " ".join(f"{k}={v}" for k, v in variables.items()))
def test_proxies_of_the_user_are_not_asked(monkeypatch, variables):
    """Row 238: with a proxy set, a function's boto3 reaches the mocked AWS; hosts excluded from it stay excluded."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with pywren.testing.mock_aws() as config:
        assert pywren.default_executor(config=config).call_async(buckets, 0).result() == [config["s3"]["bucket"]]
        kept = variables.get("no_proxy") or variables.get("NO_PROXY") or ""
        for name in ("NO_PROXY", "no_proxy"):
            assert set(filter(None, kept.split(","))) | {"127.0.0.1", "localhost"} == set(os.environ[name].split(","))
    assert dict(os.environ) == before


SETTINGS = {
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9",
    "AWS_ENDPOINT_URL_LAMBDA": "http://127.0.0.1:9",
    "AWS_CA_BUNDLE": "/no/such/bundle.pem",
    "AWS_CONFIG_FILE": "/no/such/config",
    "AWS_SHARED_CREDENTIALS_FILE": "/no/such/credentials",
    "AWS_PROFILE": "production",
    "AWS_DEFAULT_PROFILE": "production",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "/no/such/token",
    "AWS_REGION": "eu-central-1",
    "AWS_USE_FIPS_ENDPOINT": "true",
    "AWS_MAX_ATTEMPTS": "none",
}


def test_no_setting_of_the_user_gets_in(monkeypatch):
    """Whatever AWS settings the user has, only the mocked AWS is used here and in functions; all are restored."""
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with pywren.testing.mock_aws() as config:
        executor = pywren.default_executor(config=config)
        assert executor.call_async(buckets, 0).result() == [config["s3"]["bucket"]]
    assert dict(os.environ) == before


def signed(key):
    return f"AWS4-HMAC-SHA256 Credential={key}/20260101/us-west-2/lambda/aws4_request, SignedHeaders=host, Signature=0"


HEADERS = [{}] + [
    {"Authorization": value}
    for value in ["", "Bearer x", *map(signed, ["testing", "FOOBARKEY", "AKIAIOSFODNN7EXAMPLE", ""])]
]


def status(url, data, headers):
    """Return the status of the answer to a request."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, data, headers), timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_strangers_are_refused():
    """Row 239: the mocked AWS refuses other users of the machine, and runs none of their code."""
    with pywren.testing.mock_aws() as config:
        endpoint, _ = pywren.default_executor(config=config).call_async(endpoint_and_key, 0).result()
        function, bucket = config["lambda"]["function_name"], config["s3"]["bucket"]
        paths = [f"/2015-03-31/functions/{function}/invocations", f"/{bucket}", "/moto-api/data.json"]
        asked = itertools.product(paths, (None, b"{}"), HEADERS)
        answers = {repr(request): status(endpoint + request[0], *request[1:]) for request in asked}
        assert len(answers) == 42
        assert not {request: code for request, code in answers.items() if code != 403}


def test_each_world_has_a_key_of_its_own():
    """Each context has its own key, which the next one refuses."""
    keys = set()
    for _ in range(2):
        with pywren.testing.mock_aws() as config:
            keys.add(pywren.default_executor(config=config).call_async(endpoint_and_key, 0).result()[1])
    assert len(keys) == 2


def test_what_a_function_may_do_with_its_credentials():
    """A function can assume roles and presign URLs, as on AWS."""
    with pywren.testing.mock_aws() as config:
        executor = pywren.default_executor(config=config)
        assert executor.call_async(with_a_role, 0).result() == 1
        assert executor.call_async(through_a_presigned_url, config["s3"]["bucket"]).result() == b"text"
