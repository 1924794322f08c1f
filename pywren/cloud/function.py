"""``LambdaFunction``: the Lambda function, which runs this machine's pywren, and its records of failed calls."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pywren import wrenconfig
from pywren.aws.requests import AWS, FunctionSpec
from pywren.cloud.names import OWNER_TAG, Names
from pywren.cloud.plan import Step
from pywren.exceptions import DeploymentError
from pywren.version import PYTHON
from pywren.wire.call import FORMAT
from pywren.worker.bundle import HANDLER, build_zip, code_sha256

DIRECT_LIMIT = 50 * 1024 * 1024
"""The largest zip in a request, in bytes; larger ones go through the bucket ("Lambda quotas", Developer Guide)."""

_HANDLERS = (HANDLER, "wrenhandler.aws_lambda_handler")
"""The handlers of pywren's functions; the second is the handler of 0.4."""


class Owner(enum.Enum):
    """The owner of the function; ``NOBODY`` if the function does not exist."""

    PYWREN = "pywren"
    SOMEBODY_ELSE = "somebody else"
    NOBODY = "nobody"


class LambdaFunction:
    """The function of a configuration. pywren never touches a function whose handler is not pywren's.

    Args:
        config: the configuration.
        names: the names of all resources.
        aws: the account and region.
        archive: the zip to deploy; by default this machine's bundle.
    """

    def __init__(self, config: Mapping[str, Any], names: Names, aws: AWS, *, archive: bytes | None = None) -> None:
        self.names = names
        self._config = config
        self._aws = aws
        self._archive = archive

    @property
    def title(self) -> str:
        """The kind and name of the resource, such as ``the function NAME``."""
        return f"the function {self.names.function}"

    def plan(self) -> list[Step]:
        """Return the steps that create the function, or update its code and settings.

        Raises:
            DeploymentError: Lambda has no runtime for this machine's Python, or the function is not pywren's.
        """
        spec = self.spec()
        archive = build_zip() if self._archive is None else self._archive
        # Lambda refuses to change a function while another change is in progress (ResourceConflictException).
        existing = self._aws.settled_function(spec.name)
        if existing is None:
            what = f"{self.title} with {spec.runtime}, {spec.memory} MB and {spec.timeout} s"
            return [Step("create", what, lambda: self._create(spec, archive))]
        if not is_pywrens(existing):
            raise DeploymentError(
                f"{self.title} is not pywren's (its handler is {existing.get('Handler') or 'an image'}): choose "
                "another name under `lambda: function_name`"
            )
        steps = self._plan_update(spec, archive, existing)
        if self._event_invoke_differs():
            steps.append(
                Step("update", f"{self.title}: the place where failed calls are recorded", self._set_event_invoke)
            )
        return steps

    def owner(self) -> Owner:
        """Return the owner of the function, who also owns its log and its records of failed calls."""
        existing = self._aws.function_config(self.names.function)
        if existing is None:
            return Owner.NOBODY
        return Owner.PYWREN if is_pywrens(existing) else Owner.SOMEBODY_ELSE

    def plan_removal(self) -> list[Step]:
        """Return the steps that delete the function."""
        owner = self.owner()
        if owner is Owner.NOBODY:
            return []
        if owner is Owner.SOMEBODY_ELSE:
            return [Step("keep", f"{self.title}: it is not pywren's")]
        return [Step("delete", self.title, lambda: self._aws.delete_function(self.names.function))]

    def spec(self) -> FunctionSpec:
        """Return the code and settings that the function should have.

        Raises:
            DeploymentError: Lambda has no runtime for this machine's Python.
        """
        chosen = {
            key: wrenconfig.setting(self._config, f"lambda.{key}")
            for key in ("memory", "timeout", "ephemeral_storage", "architecture")
        }
        return FunctionSpec(
            name=self.names.function,
            role_arn=self.names.role_arn,
            runtime=lambda_runtime(self._aws.python_runtimes()),
            layers=tuple(wrenconfig.setting(self._config, "lambda.layers")),
            handler=HANDLER,
            description=f"{_DESCRIPTION}{FORMAT}",
            **chosen,
        )

    def _create(self, spec: FunctionSpec, archive: bytes) -> None:
        with self._code(archive) as code:
            self._aws.create_function(spec, code, tags=dict([OWNER_TAG]))
        self._set_event_invoke()

    def _plan_update(self, spec: FunctionSpec, archive: bytes, existing: Mapping[str, Any]) -> list[Step]:
        steps = []
        # Only UpdateFunctionCode can change the architecture, which Lambda treats as part of the code.
        same_architecture = list(existing.get("Architectures") or ["x86_64"]) == [spec.architecture]
        if existing.get("CodeSha256") != code_sha256(archive) or not same_architecture:
            steps.append(Step("update", f"{self.title}: its code", lambda: self._update_code(spec, archive)))
        changes = spec.changes(existing)
        if changes:
            update: Callable[[], None] = lambda: self._aws.update_function_configuration(spec, changes)  # noqa: E731
            steps.append(Step("update", f"{self.title}: its {', '.join(changes)}", update))
        return steps

    def _update_code(self, spec: FunctionSpec, archive: bytes) -> None:
        with self._code(archive) as code:
            self._aws.update_function_code(spec.name, code, architecture=spec.architecture)

    @contextmanager
    def _code(self, archive: bytes) -> Iterator[dict[str, Any]]:
        """Yield the request arguments for the code: the zip itself, or a temporary object in the bucket."""
        if len(archive) <= DIRECT_LIMIT:
            yield {"ZipFile": archive}
            return
        digest = hashlib.sha256(archive).hexdigest()
        place: dict[str, Any] = {"Bucket": self.names.bucket, "Key": f"{self.names.prefix}/deployments/{digest}.zip"}
        self._aws.request("s3", "put_object", doing="put the function's code into the bucket", Body=archive, **place)
        try:
            yield {"S3Bucket": place["Bucket"], "S3Key": place["Key"]}
        finally:
            self._aws.request("s3", "delete_object", doing="delete the function's code from the bucket", **place)

    def _event_invoke(self) -> dict[str, Any]:
        return {
            "event_age": int(wrenconfig.setting(self._config, "lambda.event_age")),
            "on_failure": self.names.bucket_arn,
            # By default Lambda retries an asynchronous call twice, which would run the user's function again unnoticed.
            "retries": 0,
        }

    def _event_invoke_differs(self) -> bool:
        found, wanted = self._aws.event_invoke(self.names.function) or {}, self._event_invoke()
        destination = found.get("DestinationConfig", {}).get("OnFailure", {}).get("Destination")
        told = (found.get("MaximumEventAgeInSeconds"), destination, found.get("MaximumRetryAttempts"))
        return told != (wanted["event_age"], wanted["on_failure"], wanted["retries"])

    def _set_event_invoke(self) -> None:
        self._aws.set_event_invoke(self.names.function, **self._event_invoke())


def is_pywrens(existing: Mapping[str, Any]) -> bool:
    """Tell from a function's configuration whether it is one of pywren's functions."""
    return existing.get("Handler") in _HANDLERS


def format_of(existing: Mapping[str, Any]) -> int:
    """Return the format of the calls that a deployed worker reads, from its function's configuration."""
    number = str(existing.get("Description") or "").removeprefix(_DESCRIPTION)
    return int(number) if number.isdecimal() and len(number) < 10 else 1  # before the first description there was one


_DESCRIPTION = "pywren's worker, for calls of format "


def lambda_runtime(known: Sequence[str], python: str = PYTHON) -> str:
    """Return Lambda's runtime for this machine's Python, since client and worker must use the same version.

    Args:
        known: the Python runtimes that Lambda offers.
        python: this machine's Python.

    Raises:
        DeploymentError: Lambda has no runtime for this Python.
    """
    wanted = f"python{python}"
    if wanted not in known:
        raise DeploymentError(
            f"Lambda has no runtime {wanted}, as far as this machine's botocore knows, and the function needs the "
            f"client's Python: run pywren on one of {', '.join(known)}, or update the SDK (pip install -U boto3)"
        )
    return wanted
