"""``Bucket``: the private bucket in which calls are staged. It requires TLS, and S3 deletes old calls from it.

In a bucket that pywren did not create, pywren changes only settings that concern its own keys.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pywren.aws.errors import service_code, was_denied
from pywren.aws.requests import AWS
from pywren.cloud.function import LambdaFunction, Owner
from pywren.cloud.names import OWNER_TAG, Names, is_ours
from pywren.cloud.plan import Step
from pywren.cloud.policies import tls_only
from pywren.exceptions import ConfigError, DeploymentError
from pywren.wire.keys import MOST_COPIES, jobs_prefix

logger = logging.getLogger(__name__)

EXPIRY_DAYS = 7
"""Days after which S3 deletes calls' objects by default."""

DELETE_BATCH = 1000
"""The maximum number of objects in one DeleteObjects request (Amazon S3 API Reference)."""

_CLOSED = {
    "BlockPublicAcls": True,
    "IgnorePublicAcls": True,
    "BlockPublicPolicy": True,
    "RestrictPublicBuckets": True,
}
_UNKNOWN_TO_SERVER = ("NotImplemented", "MethodNotAllowed", "501", "405")
_MISSING = ("404", "NoSuchBucket")
_AFTER_ALL_KEYS = "\U0010ffff"


class Bucket:
    """The bucket of a configuration.

    Args:
        names: the names of all resources.
        aws: the account and region.
        functions: the function and its copies, whose records of failed calls are in the bucket.
        expiry_days: days after which S3 deletes calls' objects.
        force: delete the bucket with all its objects, even if pywren did not create it.
    """

    def __init__(
        self,
        names: Names,
        aws: AWS,
        functions: Sequence[LambdaFunction],
        *,
        expiry_days: int = EXPIRY_DAYS,
        force: bool = False,
    ) -> None:
        self.names = names
        self.expiry_days = expiry_days
        self._aws = aws
        self._functions = functions
        self._force = force

    @property
    def title(self) -> str:
        """The kind and name of the resource, such as ``the bucket NAME``."""
        return f"the bucket {self.names.bucket}"

    @functools.cached_property
    def prefixes(self) -> tuple[str, ...]:
        """The prefixes of pywren's keys, that of the calls first. Records of failed calls are pywren's only if the
        function is.
        """
        calls, *failures = self.names.prefixes
        owners = [one.owner() for one in self._functions]
        return calls, *(one for one, owner in zip(failures, owners, strict=True) if owner is not Owner.SOMEBODY_ELSE)

    # -- creating and updating -------------------------------------------------------------------------------

    def plan(self) -> list[Step]:
        """Return the steps that create and protect the bucket.

        Raises:
            ConfigError: the bucket is in another region.
            DeploymentError: the bucket belongs to somebody else, or these credentials may not use it.
        """
        if not self.exists():
            what = f"{self.title} in {self.names.region}, private, with calls deleted after {self.expiry_days} days"
            return [Step("create", what, self._create)]
        return self._plan_settings()

    def exists(self) -> bool:
        """Tell whether the bucket exists, in the right region and in this account.

        Raises:
            ConfigError: the bucket is in another region.
            DeploymentError: the bucket belongs to somebody else, or these credentials may not use it.
        """
        try:
            answer = self._find("head_bucket", _MISSING, ExpectedBucketOwner=self.names.account_id)
        except DeploymentError as error:
            if was_denied(error):
                raise DeploymentError(
                    f"{self.title} belongs to somebody else, or these credentials may not use it: choose another name "
                    f"under `s3: bucket`, or grant them s3:ListBucket on {self.names.bucket_arn}"
                ) from error.__cause__
            raise
        if answer is None:
            return False
        region = answer.get("BucketRegion") or answer["ResponseMetadata"].get("HTTPHeaders", {}).get(
            "x-amz-bucket-region"
        )
        if region and region != self.names.region:
            raise ConfigError(
                f"{self.title} is in {region}, but `account: aws_region` is {self.names.region}: write {region} there, "
                "or choose another bucket"
            )
        return True

    def _create(self) -> None:
        # us-east-1 is the default, which S3 refuses as a LocationConstraint
        region = self.names.region
        where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        # BucketAlreadyOwnedByYou: another set-up was faster, or the response to an earlier attempt was lost
        self._find("create_bucket", ("BucketAlreadyOwnedByYou",), **where)
        self._aws.wait(
            "s3",
            "bucket_exists",
            doing=f"wait for {self.title}",
            permission=f"s3:ListBucket on {self.names.bucket_arn}",
            Bucket=self.names.bucket,
        )
        # Each setting is a separate request. If a set-up is interrupted here, the next one completes it.
        for step in self._plan_settings():
            step.run()

    def _plan_settings(self) -> list[Step]:
        tags = self._setting("get_bucket_tagging", "TagSet", "NoSuchTagSet")
        policy = self._setting("get_bucket_policy", "Policy", "NoSuchBucketPolicy")
        _, ours = self._statements(json.loads(policy or "{}"))
        # pywren adopts an empty bucket without settings: `aws s3 mb` created it, or a set-up was interrupted.
        whole = (
            is_ours(tags) or self._tls_statement(True) in ours or (not policy and not tags and not self._first_key())
        )
        steps = [*self._plan_tag(tags), *self._plan_closing()] if whole else []
        return [*steps, *self._plan_tls(policy, whole), *self._plan_expiry()]

    def _plan_tag(self, tags: Any) -> list[Step]:
        if tags is _UNSUPPORTED or is_ours(tags):
            return []
        key, value = OWNER_TAG
        tag_set = [tag for tag in tags or () if tag["Key"] != key] + [{"Key": key, "Value": value}]
        return [self._put("put_bucket_tagging", "its tag, which marks it as pywren's", Tagging={"TagSet": tag_set})]

    def _plan_closing(self) -> list[Step]:
        found = self._setting(
            "get_public_access_block", "PublicAccessBlockConfiguration", "NoSuchPublicAccessBlockConfiguration"
        )
        if found is _UNSUPPORTED or found == _CLOSED:
            return []
        return [
            self._put("put_public_access_block", "closed to the public", PublicAccessBlockConfiguration=dict(_CLOSED))
        ]

    def _plan_tls(self, found_policy: Any, whole: bool) -> list[Step]:
        if found_policy is _UNSUPPORTED or str(self._aws.client("s3").meta.endpoint_url).startswith("http://"):
            return []  # the server has no TLS, so the policy would lock everybody out
        policy = json.loads(found_policy or "{}")
        wanted = self._tls_statement(whole)
        others, found = self._statements(policy)
        if found == [wanted]:
            return []
        document = {"Version": "2012-10-17", **policy, "Statement": [*others, wanted]}
        return [self._put("put_bucket_policy", "over TLS only", Policy=json.dumps(document))]

    def _tls_statement(self, whole: bool) -> dict[str, Any]:
        arn = self.names.bucket_arn
        resources = [arn, f"{arn}/*"] if whole else [f"{arn}/{prefix}*" for prefix in self.prefixes]
        return tls_only(self._sid, "s3", resources)

    @property
    def _sid(self) -> str:
        # Two configurations may share a bucket, each with its own prefix. IAM allows only letters and digits in a Sid.
        return "PywrenTlsOnly" + hashlib.sha256(self.names.prefix.encode()).hexdigest()[:8]

    def _statements(self, policy: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        """Return two lists of a policy's statements: those of other people, and those of pywren."""
        statements = policy.get("Statement") or []
        statements = statements if isinstance(statements, list) else [statements]
        ours = [statement for statement in statements if statement.get("Sid") == self._sid]
        return [statement for statement in statements if statement.get("Sid") != self._sid], ours

    def _plan_expiry(self) -> list[Step]:
        found = self._find("get_bucket_lifecycle_configuration", ("NoSuchLifecycleConfiguration",))
        if found is _UNSUPPORTED:
            return []
        others, ours = self._rules(found or {})
        rules = _expiry_rules(self.names, self.expiry_days)
        wanted = [rule for rule in rules if rule["Filter"]["Prefix"].startswith(self.prefixes)]
        if sorted(ours, key=_rule_id) == sorted(wanted, key=_rule_id):
            return []
        what = f"calls expire after {self.expiry_days} days"
        return [self._put("put_bucket_lifecycle_configuration", what, **_lifecycle(found or {}, [*others, *wanted]))]

    def _rules(self, lifecycle: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        """Return two lists of lifecycle rules: those of other people, and those of pywren."""
        rules = lifecycle.get("Rules", [])
        # Those of former copies too.
        own = {rule["ID"] for rule in _expiry_rules(replace(self.names, copies=MOST_COPIES), self.expiry_days)}
        return [rule for rule in rules if rule.get("ID") not in own], [rule for rule in rules if rule.get("ID") in own]

    # -- deleting --------------------------------------------------------------------------------------------

    def plan_removal(self) -> list[Step]:
        """Return the steps that delete pywren's objects, and the bucket unless somebody else created or uses it."""
        if not self.exists():
            return []
        steps = []
        for prefix in self.prefixes:
            if self._first_key(prefix) is not None:
                place = f"the objects under s3://{self.names.bucket}/{prefix}"
                steps.append(Step("delete", place, functools.partial(self._delete_objects, prefix)))
        other = self._first_foreign_key()
        if other is not None and self._force:
            everything = Step(
                "delete",
                f"every object in {self.title}, including those that pywren did not create",
                lambda: self._delete_objects(""),
            )
            return [everything, Step("delete", self.title, self._delete)]
        if other is not None:
            why = f"it holds other objects, such as {other}; --force deletes the bucket with all its objects"
        elif self._force or is_ours(self._setting("get_bucket_tagging", "TagSet", "NoSuchTagSet")):
            return [*steps, Step("delete", self.title, self._delete)]
        else:
            why = "pywren did not create it; --force deletes it anyway"
        return [*steps, *self._plan_settings_removal(), Step("keep", f"{self.title}: {why}")]

    def _plan_settings_removal(self) -> list[Step]:
        steps = []
        policy = json.loads(self._setting("get_bucket_policy", "Policy", "NoSuchBucketPolicy") or "{}")
        others, ours = self._statements(policy)
        if ours and others:
            document = json.dumps({**policy, "Statement": others})
            steps.append(self._put("put_bucket_policy", "pywren's statement removed from the policy", Policy=document))
        elif ours:
            steps.append(self._put("delete_bucket_policy", "pywren's policy removed"))
        found = self._find("get_bucket_lifecycle_configuration", ("NoSuchLifecycleConfiguration",)) or {}
        other_rules, own_rules = self._rules(found)
        if own_rules and other_rules:
            changed = _lifecycle(found, other_rules)
            steps.append(self._put("put_bucket_lifecycle_configuration", "pywren's lifecycle rules removed", **changed))
        elif own_rules:
            steps.append(self._put("delete_bucket_lifecycle", "pywren's lifecycle rules removed"))
        return steps

    def _delete(self) -> None:
        if self._find("delete_bucket", (*_MISSING, "BucketNotEmpty")) is None and self.exists():
            raise DeploymentError(
                f"cannot delete {self.title}: something wrote to it in the meantime; run the command again"
            )

    def _delete_objects(self, prefix: str) -> None:
        batch: list[dict[str, str]] = []
        for item in self._objects(prefix):
            batch.append(item)
            if len(batch) == DELETE_BATCH:
                self._delete_batch(batch)
                batch = []
        if batch:
            self._delete_batch(batch)

    def _delete_batch(self, batch: list[dict[str, str]]) -> None:
        answer = self._request("delete_objects", Delete={"Objects": batch, "Quiet": True})
        for refused in answer.get("Errors", ()):
            raise DeploymentError(
                f"cannot delete s3://{self.names.bucket}/{refused['Key']}: grant these credentials s3:DeleteObject and "
                f"s3:DeleteObjectVersion (AWS said {refused.get('Code')}: {refused.get('Message', '')})"
            )

    def delete_keys(self, keys: list[str]) -> None:
        """Delete objects by key. In a versioned bucket this only adds delete markers; S3 deletes old versions later."""
        for start in range(0, len(keys), DELETE_BATCH):
            self._delete_batch([{"Key": key} for key in keys[start : start + DELETE_BATCH]])

    def listing(self, prefix: str) -> Iterator[dict[str, Any]]:
        """Yield every object under a prefix as ListObjectsV2 describes it: ``Key``, ``Size``, ``LastModified``."""
        tokens = {"ContinuationToken": "NextContinuationToken"}
        for page in self._pages("list_objects_v2", tokens, prefix):
            yield from page.get("Contents", ())

    def _objects(self, prefix: str) -> Iterator[dict[str, str]]:
        """Yield every object, version and delete marker under a prefix, in the form that DeleteObjects expects."""
        if not self._keeps_versions():
            yield from ({"Key": item["Key"]} for item in self.listing(prefix))
            return
        tokens = {"KeyMarker": "NextKeyMarker", "VersionIdMarker": "NextVersionIdMarker"}
        for page in self._pages("list_object_versions", tokens, prefix):
            for item in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                yield {"Key": item["Key"], "VersionId": item["VersionId"]}

    def _keeps_versions(self) -> bool:
        answer = self._find("get_bucket_versioning", ()) or {}
        return answer.get("Status") in ("Enabled", "Suspended")

    def _first_foreign_key(self) -> str | None:
        """Return the first key that has none of pywren's prefixes; ``None`` when there is no such key."""
        if self._keeps_versions():
            keys = (item["Key"] for item in self._objects(""))
            return next((key for key in keys if not key.startswith(self.prefixes)), None)
        after = ""  # one request skips all keys with one of pywren's prefixes, however many there are
        while (key := self._first_key(after=after)) is not None:
            ours = [prefix for prefix in self.prefixes if key.startswith(prefix)]
            if not ours:
                return key
            after = ours[0] + _AFTER_ALL_KEYS
        return None

    def _first_key(self, prefix: str = "", after: str = "") -> str | None:
        if self._keeps_versions():
            return next((item["Key"] for item in self._objects(prefix)), None)
        start = {"StartAfter": after} if after else {}
        found = self._request("list_objects_v2", Prefix=prefix, MaxKeys=1, **start).get("Contents", [])
        return str(found[0]["Key"]) if found else None

    # -- requests --------------------------------------------------------------------------------------------

    def _request(self, operation: str, **arguments: Any) -> dict[str, Any]:
        doing = self._doing(operation)
        return self._aws.request("s3", operation, doing=doing, Bucket=self.names.bucket, **arguments)

    def _pages(self, operation: str, tokens: dict[str, str], prefix: str) -> Iterator[dict[str, Any]]:
        doing = self._doing(operation)
        return self._aws.pages("s3", operation, tokens=tokens, doing=doing, Bucket=self.names.bucket, Prefix=prefix)

    def _doing(self, operation: str) -> str:
        return f"{_VERBS.get(operation, operation.replace('_', ' '))} {self.title}"

    def _find(self, operation: str, absent: tuple[str, ...], **arguments: Any) -> dict[str, Any] | None:
        """Send a request; return ``None`` for an error in ``absent``, ``_UNSUPPORTED`` for an unsupported operation."""
        try:
            return self._request(operation, **arguments)
        except DeploymentError as error:
            code = service_code(error)
            if code in absent:
                return None
            if code in _UNKNOWN_TO_SERVER:
                logger.warning("skipped %s for %s: this S3 server does not support it", operation, self.title)
                return _UNSUPPORTED
            raise

    def _setting(self, operation: str, name: str, absent: str) -> Any:
        found = self._find(operation, (absent,))
        return found if found is None or found is _UNSUPPORTED else found.get(name)

    def _put(self, operation: str, what: str, **arguments: Any) -> Step:
        return Step("update", f"{self.title}: {what}", lambda: self._find(operation, (), **arguments))


_UNSUPPORTED: dict[str, Any] = {}
"""The value of a setting that the server does not support, and that is therefore skipped."""

_VERBS = {"head_bucket": "check", "create_bucket": "create", "delete_bucket": "delete"}


def _expiry_rules(names: Names, days: int) -> list[dict[str, Any]]:
    """Return the lifecycle rules of a configuration.

    Runtimes have the same prefix as callsets but must not expire. The ids of callsets are UUIDs, so there is one rule
    for each hexadecimal digit that an id can start with. The names of jobs expire like their callsets.
    """
    prefixes = {f"pywren {names.prefix} {digit}": f"{names.prefix}/{digit}" for digit in "0123456789abcdef"}
    prefixes[f"pywren {names.prefix} jobs"] = jobs_prefix(names.prefix)
    for one in names.each_copy():
        prefixes[f"pywren {names.prefix} failures of {one.function}"] = f"{one.failure_prefix}/"
    return [
        {
            "ID": name,
            "Filter": {"Prefix": prefix},
            "Status": "Enabled",
            "Expiration": {"Days": days},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 1},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1},
        }
        for name, prefix in prefixes.items()
    ]


def _rule_id(rule: dict[str, Any]) -> str:
    return str(rule["ID"])


def _lifecycle(found: dict[str, Any], rules: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the request arguments that set these lifecycle rules and keep the other lifecycle settings."""
    kept = {name: found[name] for name in ("TransitionDefaultMinimumObjectSize",) if name in found}
    return {"LifecycleConfiguration": {"Rules": rules}, **kept}
