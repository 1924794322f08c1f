"""``Doctor``: checks everything that calls on Lambda need, and reports what is wrong and how to fix it."""

from __future__ import annotations

import email.utils
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from pywren import wrenconfig
from pywren.aws.errors import response, was_denied
from pywren.aws.requests import AWS
from pywren.cloud.function import LambdaFunction, format_of, is_pywrens
from pywren.cloud.plan import Resource
from pywren.cloud.resources import Resources, check_account
from pywren.exceptions import DeploymentError, PywrenError
from pywren.storage.runtime_info import (
    check_named,
    check_runtime,
    check_tarballs,
    get_runtime_info,
    has_own_runtime,
    required_sha256,
)
from pywren.storage.s3_backend import S3Backend
from pywren.version import PYTHON
from pywren.wire.call import FORMAT
from pywren.worker.bundle import build_zip, code_sha256

CLOCK_TOLERANCE = 60.0
"""Seconds that this machine's clock may be off; AWS refuses signatures that are off by 300 or more."""

ORDINARY_CONCURRENCY = 1000
"""An account's default concurrency limit ("Lambda quotas", AWS Lambda Developer Guide)."""

_NO_CONFIGURATION = (
    "there is no configuration, so calls run on this machine; to use Lambda, create one with `pywren create_config`, "
    "or with `pywren-setup`, which also creates the resources"
)
_PROTECTION = "protection of the bucket"


class Finding(NamedTuple):
    """The result of one check.

    Args:
        verdict: ``ok``, ``wrong``, or ``note`` for something that may be intended.
        what: the thing that was checked.
        said: the state of that thing, and what to do if it is wrong.
    """

    verdict: str
    what: str
    said: str

    def __str__(self) -> str:
        return f"{self.verdict:<6}{self.what}: {self.said}"


class Doctor:
    """Checks a configuration. The only thing that the checks write is one small object, which they delete again.

    Args:
        config: the configuration; ``None`` to check only the credentials.
        aws: the account and region.
        clock: returns seconds since the epoch.
    """

    def __init__(self, config: Mapping[str, Any] | None, aws: AWS, *, clock: Callable[[], float] = time.time) -> None:
        self._config = config or {}
        self._aws = aws
        self._clock = clock

    def examine(self) -> Iterator[Finding]:
        """Yield findings one by one; stop if the account cannot be reached."""
        if not self._config:
            yield from self._examine_credentials()
            yield Finding("note", "configuration", _NO_CONFIGURATION)
            return
        region = self._examine_region()
        yield region
        reached = False
        for finding in self._examine_credentials():
            reached = reached or (finding.what == "credentials" and finding.verdict == "ok")
            yield finding
        if not reached or region.verdict == "wrong":
            return
        try:
            resources = Resources(self._config, self._aws)
        except PywrenError as error:
            yield Finding("wrong", "configuration", str(error))
            return
        yield from self._examine_resources(resources)

    def _examine_resources(self, resources: Resources) -> Iterator[Finding]:
        yield from _guarded("bucket", lambda: self._examine_bucket(resources))
        yield from _guarded("role", lambda: _compare("role", resources.role, "pywren create_role"))
        yield from _guarded("log", lambda: _compare("log", resources.log_groups, "pywren deploy_lambda"))
        for number, function in enumerate(resources.each_function, 1):
            what = "function" if number == 1 else f"copy {number}"
            yield from _guarded(what, partial(self._examine_function, function, what))
            yield from _guarded("concurrency", partial(self._examine_reserved_concurrency, function))
        yield from _guarded("copies", lambda: _compare_former(resources.former_copies))
        yield from _guarded("quota", lambda: self._examine_quota(resources.names.copies))
        if self._config.get("runtime"):
            yield from _guarded("runtime", self._examine_runtime)

    def _examine_region(self) -> Finding:
        region = str(wrenconfig.require(self._config, "account.aws_region"))
        if self._aws.has_region():
            return Finding("ok", "region", region)
        return Finding("wrong", "region", f"AWS has no region {region}: correct `account: aws_region`")

    def _examine_credentials(self) -> Iterator[Finding]:
        try:
            answer = self._aws.request("sts", "get_caller_identity", doing="find out whose credentials these are")
            check_account(self._config, self._aws)
        except PywrenError as error:
            yield Finding("wrong", "credentials", str(error))
            yield from self._examine_clock(response(error.__cause__) if error.__cause__ else {})
            return
        yield Finding("ok", "credentials", str(answer.get("Arn")))
        yield from self._examine_clock(answer)

    def _examine_clock(self, answer: Mapping[str, Any]) -> Iterator[Finding]:
        date = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date")
        if date is None:
            return
        ahead = self._clock() - email.utils.parsedate_to_datetime(date).timestamp()
        if abs(ahead) <= CLOCK_TOLERANCE:
            yield Finding("ok", "clock", "right")
            return
        where = "ahead of" if ahead > 0 else "behind"
        yield Finding(
            "wrong",
            "clock",
            f"this machine's clock is {abs(ahead):.0f} s {where} AWS's: set the clock, for example with NTP",
        )

    def _examine_bucket(self, resources: Resources) -> Iterator[Finding]:
        name = resources.names.bucket
        if not self._may_exist(resources):
            yield Finding("wrong", "bucket", f"there is no bucket {name}: create it with `pywren create_bucket`")
            return
        self._try_bucket(resources)
        yield Finding("ok", "bucket", f"s3://{name}/{resources.names.prefix}/ is readable and writable")
        yield from _guarded(_PROTECTION, lambda: _compare_quietly(resources.bucket))

    def _may_exist(self, resources: Resources) -> bool:
        """Tell whether the bucket may exist.

        The answer is also true if the credentials may not look: people who only run calls may lack that permission. A
        later check, which writes and reads an object, then decides.
        """
        try:
            return resources.bucket.exists()
        except DeploymentError as error:
            if was_denied(error):
                return True
            raise

    def _try_bucket(self, resources: Resources) -> None:
        backend = S3Backend(resources.names.bucket, resources.names.region)
        key = f"{resources.names.prefix}/doctor/{uuid.uuid4()}"
        try:
            backend.put(key, b"pywren", if_absent=True)
            try:
                backend.get(key)
                backend.list(key)
            finally:
                backend.delete([key])
        finally:
            backend.close()

    def _examine_function(self, function: LambdaFunction, what: str) -> Iterator[Finding]:
        name = function.names.function
        existing = self._aws.function_config(name)
        if existing is None:
            yield Finding("wrong", what, f"there is no function {name}: create it with `pywren deploy_lambda`")
            return
        state = existing.get("State", "Active")
        update = existing.get("LastUpdateStatus", "Successful")
        # an inactive function is fine: the next call activates it
        if state not in ("Active", "Inactive") or update != "Successful":
            reason = existing.get("LastUpdateStatusReason") or existing.get("StateReason") or ""
            yield Finding(
                "wrong",
                what,
                f"{name} is {state}, and its last update is {update} {reason}".rstrip()
                + ": wait a moment and check again, or run `pywren deploy_lambda`",
            )
            return
        worker = self._examine_worker(existing)
        yield worker if what == "function" else worker._replace(what=f"worker of {what}")
        yield from _compare(what, function, "pywren deploy_lambda")

    def _examine_worker(self, existing: Mapping[str, Any]) -> Finding:
        here = f"python{PYTHON}"
        deploy = "update it with `pywren deploy_lambda`"
        if not is_pywrens(existing):
            return Finding("wrong", "worker", "the function is not pywren's: choose another `lambda: function_name`")
        if existing.get("Runtime") != here:
            found = existing.get("Runtime")
            return Finding("wrong", "worker", f"the function has {found}, but this machine has {here}: {deploy}")
        deployed = format_of(existing)
        if deployed != FORMAT:
            older = "an outdated" if deployed < FORMAT else "a newer"
            return Finding(
                "wrong",
                "worker",
                f"the function has {older} worker, which refuses every call: it reads calls of format {deployed}, and "
                f"this machine sends format {FORMAT}: {deploy}",
            )
        if existing.get("CodeSha256") != code_sha256(build_zip()):
            return Finding(
                "wrong", "worker", f"the function's pywren, cloudpickle or tblib differs from this machine's: {deploy}"
            )
        return Finding("ok", "worker", f"{here}, with this machine's pywren")

    def _examine_reserved_concurrency(self, function: LambdaFunction) -> Iterator[Finding]:
        name = function.names.function
        answer = self._aws.find(
            "lambda",
            "get_function_concurrency",
            doing=f"read the concurrency of {name}",
            FunctionName=name,
        )
        reserved = (answer or {}).get("ReservedConcurrentExecutions")
        if reserved == 0:
            remedy = f"run `aws lambda delete-function-concurrency --function-name {name}`"
            yield Finding(
                "wrong", "concurrency", f"the function's reserved concurrency is 0, so no call can run: {remedy}"
            )
        elif reserved is not None:
            yield Finding(
                "note", "concurrency", f"the function's reserved concurrency limits it to {reserved} calls at once"
            )

    def _examine_quota(self, copies: int) -> Iterator[Finding]:
        answer = self._aws.request(
            "lambda",
            "get_account_settings",
            doing="read the account's quotas",
            permission="lambda:GetAccountSettings",
        )
        limit, usage = answer["AccountLimit"], answer["AccountUsage"]
        at_once = limit["ConcurrentExecutions"]
        said = f"up to {at_once:,} calls run at once in this account and region"
        if at_once < ORDINARY_CONCURRENCY:
            said += "; others wait. Request more under Service Quotas > AWS Lambda > Concurrent executions"
        yield Finding("ok" if at_once >= ORDINARY_CONCURRENCY else "note", "quota", said)
        if copies > 1 and at_once <= ORDINARY_CONCURRENCY:
            yield Finding(
                "note", "copies", f"{copies} copies start no more calls than one while the account runs {at_once:,}"
            )
        if usage.get("TotalCodeSize", 0) > 0.9 * limit.get("TotalCodeSize", float("inf")):
            yield Finding(
                "note", "quota", "the account's storage for function code is almost full: delete old functions"
            )

    def _examine_runtime(self) -> Iterator[Finding]:
        runtime = self._config["runtime"]
        check_named(runtime)
        if not has_own_runtime(runtime):
            return
        required_sha256(runtime)
        info = get_runtime_info(runtime)
        check_runtime(info, wrenconfig.setting(self._config, "lambda.architecture"))
        check_tarballs(runtime, info)
        yield Finding("ok", "runtime", f"s3://{runtime['s3_bucket']}/{runtime['s3_key']}, Python {info['python_ver']}")


def _compare_quietly(bucket: Resource) -> Iterator[Finding]:
    """Report missing settings of the bucket only as notes, because calls run without these settings."""
    for step in bucket.plan():
        yield Finding("note", _PROTECTION, f"`pywren create_bucket` {step.planned}")


def _compare_former(former: Resource) -> Iterator[Finding]:
    """Report copies that the configuration no longer has as notes, because calls run without them."""
    for step in former.plan():
        yield Finding("note", "copies", f"`pywren deploy_lambda` {step.planned}")


def _compare(what: str, resource: Resource, command: str) -> Iterator[Finding]:
    """Report how a resource differs from the configuration."""
    steps = resource.plan()
    if not steps:
        yield Finding("ok", what, resource.title)
    for step in steps:
        if step.verb == "keep":
            yield Finding("note", what, step.what)
        else:
            state = _STATES.get((what, step.verb)) or _STATES["", step.verb]
            yield Finding("wrong", what, f"{state}: `{command}` {step.planned}")


_STATES = {
    ("", "create"): "missing",
    ("", "update"): "differs from the configuration",
    ("role", "update"): "outdated, or changed by somebody",
}


def _guarded(what: str, examine: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Turn an error in a check into a finding; a check that the credentials do not permit yields only a note."""
    try:
        yield from examine()
    except PywrenError as error:
        if (was_denied(error) and what != "bucket") or what == "quota":  # servers other than AWS may have no quotas
            yield Finding("note", what, f"not checked: {error}")
        else:
            yield Finding("wrong", what, str(error))
