"""``Bucket``: where calls are staged: private, over TLS only, and cleared of old calls by S3 itself.

In a bucket that was there before, pywren changes nothing but what concerns its own keys.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Iterator
from typing import Any

from pywren.aws.errors import error_code
from pywren.aws.requests import AWS
from pywren.cloud.function import Function, Owner
from pywren.cloud.names import OWNER_TAG, Names, is_ours
from pywren.cloud.plan import Step
from pywren.exceptions import ConfigError, DeploymentError

logger = logging.getLogger(__name__)

EXPIRY_DAYS = 7
"""Days after which S3 deletes the objects of calls, when nothing else is said."""

DELETE_BATCH = 1000
"""Objects that one DeleteObjects takes."""

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
        names: what everything is called.
        aws: the account and region.
        function: whose records of failed calls are in it.
        expiry_days: days after which S3 deletes the objects of calls.
        force: delete the bucket whoever made it, with objects of others too.
    """

    def __init__(
        self, names: Names, aws: AWS, function: Function, *, expiry_days: int = EXPIRY_DAYS, force: bool = False
    ) -> None:
        self.names = names
        self.expiry_days = expiry_days
        self._aws = aws
        self._function = function
        self._force = force

    @property
    def title(self) -> str:
        """``the bucket NAME``."""
        return f"the bucket {self.names.bucket}"

    @functools.cached_property
    def prefixes(self) -> tuple[str, ...]:
        """The beginnings of the keys in it that are pywren's: the records of somebody else's function are not."""
        calls, failures = self.names.prefixes
        return (calls,) if self._function.owner() is Owner.SOMEBODY_ELSE else (calls, failures)

    # -- as it should be -------------------------------------------------------------------------------------

    def plan(self) -> list[Step]:
        """Return the steps until the bucket is there and protected.

        Raises:
            ConfigError: it is in another region.
            DeploymentError: it is somebody else's, or may not be looked at.
        """
        if not self.exists():
            what = f"{self.title} in {self.names.region}, closed to the public, for objects of {self.expiry_days} days"
            return [Step("create", what, self._create)]
        return self._plan_settings()

    def exists(self) -> bool:
        """Tell whether the bucket is there, in the right region, and this account's.

        Raises:
            ConfigError: it is in another region.
            DeploymentError: it is somebody else's, or may not be looked at.
        """
        try:
            answer = self._find("head_bucket", _MISSING, ExpectedBucketOwner=self.names.account_id)
        except DeploymentError as error:
            if error.__cause__ is not None and error_code(error.__cause__) in ("403", "AccessDenied"):
                raise DeploymentError(
                    f"{self.title} belongs to somebody else, or these credentials may not use it: choose another name "
                    f"under s3: bucket, or grant them s3:ListBucket on {self.names.bucket_arn}"
                ) from error.__cause__
            raise
        if answer is None:
            return False
        region = answer.get("BucketRegion") or answer["ResponseMetadata"].get("HTTPHeaders", {}).get(
            "x-amz-bucket-region"
        )
        if region and region != self.names.region:
            raise ConfigError(
                f"{self.title} is in {region}, but account: aws_region is {self.names.region}: write {region} there, "
                "or choose another bucket"
            )
        return True

    def _create(self) -> None:
        # us-east-1 is where a bucket is when nothing is said; it refuses to be named
        region = self.names.region
        where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
        # the answer when another set-up was quicker, or an earlier try's answer was lost
        self._find("create_bucket", ("BucketAlreadyOwnedByYou",), **where)
        self._aws.wait(
            "s3",
            "bucket_exists",
            doing=f"wait for {self.title}",
            permission=f"s3:ListBucket on {self.names.bucket_arn}",
            Bucket=self.names.bucket,
        )
        for step in self._plan_settings():
            step.run()

    def _plan_settings(self) -> list[Step]:
        tags = self._setting("get_bucket_tagging", "TagSet", "NoSuchTagSet")
        policy = self._setting("get_bucket_policy", "Policy", "NoSuchBucketPolicy")
        _, ours = self._statements(json.loads(policy or "{}"))
        # a bucket that nobody has put anything to becomes ours: `aws s3 mb` made it, or a set-up was interrupted
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
        return [self._put("put_bucket_tagging", "its tag, which makes it pywren's", Tagging={"TagSet": tag_set})]

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
            return []  # a server on this machine: the rule would lock everybody out
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
        return {
            "Sid": self._sid,
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": resources,
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }

    @property
    def _sid(self) -> str:
        # two configurations may share a bucket, each with its prefix; a Sid has letters and digits only
        return "PywrenTlsOnly" + hashlib.sha256(self.names.prefix.encode()).hexdigest()[:8]

    def _statements(self, policy: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        """Return the statements of others, and ours."""
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
        what = f"its objects of calls expire after {self.expiry_days} days"
        return [self._put("put_bucket_lifecycle_configuration", what, **_lifecycle(found or {}, [*others, *wanted]))]

    def _rules(self, lifecycle: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        """Return the rules of others, and ours."""
        rules = lifecycle.get("Rules", [])
        own = {rule["ID"] for rule in _expiry_rules(self.names, self.expiry_days)}
        return [rule for rule in rules if rule.get("ID") not in own], [rule for rule in rules if rule.get("ID") in own]

    # -- its end ---------------------------------------------------------------------------------------------

    def plan_removal(self) -> list[Step]:
        """Return the steps until nothing of pywren's is left, nor the bucket unless others made or use it."""
        if not self.exists():
            return []
        steps = []
        for prefix in self.prefixes:
            if self._first_key(prefix) is not None:
                place = f"the objects under s3://{self.names.bucket}/{prefix}"
                steps.append(Step("delete", place, functools.partial(self._delete_objects, prefix)))
        other = self._first_foreign_key()
        if other is not None and self._force:
            everything = Step("delete", f"every object in {self.title}, others' too", lambda: self._delete_objects(""))
            return [everything, Step("delete", self.title, self._delete)]
        if other is not None:
            why = f"it holds objects of others, such as {other}; --force deletes it with all of them"
        elif self._force or is_ours(self._setting("get_bucket_tagging", "TagSet", "NoSuchTagSet")):
            return [*steps, Step("delete", self.title, self._delete)]
        else:
            why = "pywren did not make it; --force deletes it all the same"
        return [*steps, *self._plan_settings_removal(), Step("keep", f"{self.title}: {why}")]

    def _plan_settings_removal(self) -> list[Step]:
        steps = []
        policy = json.loads(self._setting("get_bucket_policy", "Policy", "NoSuchBucketPolicy") or "{}")
        others, ours = self._statements(policy)
        if ours and others:
            document = json.dumps({**policy, "Statement": others})
            steps.append(self._put("put_bucket_policy", "without pywren's statement", Policy=document))
        elif ours:
            steps.append(self._put("delete_bucket_policy", "without pywren's policy"))
        found = self._find("get_bucket_lifecycle_configuration", ("NoSuchLifecycleConfiguration",)) or {}
        other_rules, own_rules = self._rules(found)
        if own_rules and other_rules:
            changed = _lifecycle(found, other_rules)
            steps.append(self._put("put_bucket_lifecycle_configuration", "without pywren's rules", **changed))
        elif own_rules:
            steps.append(self._put("delete_bucket_lifecycle", "without pywren's rules"))
        return steps

    def _delete(self) -> None:
        if self._find("delete_bucket", (*_MISSING, "BucketNotEmpty")) is None and self.exists():
            raise DeploymentError(
                f"cannot delete {self.title}: something was written to it meanwhile; run the command again"
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
        """Delete objects by key; in a bucket that keeps versions that is a mark, and S3's own expiry does the rest."""
        for start in range(0, len(keys), DELETE_BATCH):
            self._delete_batch([{"Key": key} for key in keys[start : start + DELETE_BATCH]])

    def listing(self, prefix: str) -> Iterator[dict[str, Any]]:
        """Yield what ListObjectsV2 says of every object under a prefix: ``Key``, ``Size``, ``LastModified``."""
        position: dict[str, str] = {}
        while True:
            page = self._request("list_objects_v2", Prefix=prefix, **position)
            yield from page.get("Contents", ())
            if not page.get("IsTruncated"):
                return
            position = {"ContinuationToken": page["NextContinuationToken"]}

    def _objects(self, prefix: str) -> Iterator[dict[str, str]]:
        """Yield what DeleteObjects takes for every object, version and delete marker under a prefix."""
        if not self._keeps_versions():
            yield from ({"Key": item["Key"]} for item in self.listing(prefix))
            return
        position: dict[str, str] = {}
        while True:
            page = self._request("list_object_versions", Prefix=prefix, **position)
            for item in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                yield {"Key": item["Key"], "VersionId": item["VersionId"]}
            if not page.get("IsTruncated"):
                return
            position = {"KeyMarker": page["NextKeyMarker"], "VersionIdMarker": page["NextVersionIdMarker"]}

    def _keeps_versions(self) -> bool:
        answer = self._find("get_bucket_versioning", ()) or {}
        return answer.get("Status") in ("Enabled", "Suspended")

    def _first_foreign_key(self) -> str | None:
        """Return the first key that is under none of our prefixes."""
        if self._keeps_versions():
            keys = (item["Key"] for item in self._objects(""))
            return next((key for key in keys if not key.startswith(self.prefixes)), None)
        after = ""  # ours are skipped as a whole, however many they are
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
        doing = f"{_VERBS.get(operation, operation.replace('_', ' '))} {self.title}"
        return self._aws.request("s3", operation, doing=doing, Bucket=self.names.bucket, **arguments)

    def _find(self, operation: str, absent: tuple[str, ...], **arguments: Any) -> dict[str, Any] | None:
        """Send a request: ``None`` for what is absent, ``_UNSUPPORTED`` where the server does not know such a thing."""
        try:
            return self._request(operation, **arguments)
        except DeploymentError as error:
            code = "" if error.__cause__ is None else error_code(error.__cause__)
            if code in absent:
                return None
            if code in _UNKNOWN_TO_SERVER:
                logger.warning("this S3 server does not know %s: %s goes without", operation, self.title)
                return _UNSUPPORTED
            raise

    def _setting(self, operation: str, name: str, absent: str) -> Any:
        found = self._find(operation, (absent,))
        return found if found is None or found is _UNSUPPORTED else found.get(name)

    def _put(self, operation: str, what: str, **arguments: Any) -> Step:
        return Step("update", f"{self.title}: {what}", lambda: self._find(operation, (), **arguments))


_UNSUPPORTED: dict[str, Any] = {}
"""What a server answers that does not know a setting: nothing is set, and nothing will be."""

_VERBS = {"head_bucket": "look at", "create_bucket": "create", "delete_bucket": "delete"}


def _expiry_rules(names: Names, days: int) -> list[dict[str, Any]]:
    """Return the lifecycle rules of a configuration.

    Callsets are UUIDs: a rule for each first digit leaves the runtimes alone, which stand beside them.
    """
    prefixes = {f"pywren {names.prefix} {digit}": f"{names.prefix}/{digit}" for digit in "0123456789abcdef"}
    prefixes[f"pywren {names.prefix} failures of {names.function}"] = f"{names.failure_prefix}/"
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
    """Return the arguments that put rules, keeping what else was set."""
    kept = {name: found[name] for name in ("TransitionDefaultMinimumObjectSize",) if name in found}
    return {"LifecycleConfiguration": {"Rules": rules}, **kept}
