"""``FunctionTable``: the functions and layers in the emulated account, and how their states change."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import secrets
import uuid
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pywren.testing.emulator._code import Code as Code
from pywren.testing.emulator._code import remove, unpack
from pywren.testing.emulator._layer_table import LayerTable
from pywren.testing.emulator._rest_json import Refusal as Refusal
from pywren.testing.emulator._settings import ACCOUNT_ID, Limits, Settings


@dataclass(frozen=True)
class Revision:
    """The code and configuration of a function after one update; each container runs one revision.

    Args:
        number: increases with every update; containers of older revisions accept no more invocations.
        settings: the configuration under AWS's own keys (``Runtime``, ``Role``, ``Handler``, ``Timeout``,
            ``MemorySize``, ``EphemeralStorage``, ``Environment``, ``Layers``, ``Architectures``, …).
        code: the function's unzipped code.
        layers: the unzipped code of the layers, in the layers' order.
    """

    number: int
    settings: Mapping[str, Any]
    code: Code
    layers: tuple[Code, ...]

    @property
    def memory_mb(self) -> int:
        """The ``MemorySize`` in megabytes."""
        return int(self.settings["MemorySize"])

    @property
    def timeout(self) -> float:
        """The ``Timeout`` in seconds."""
        return float(self.settings["Timeout"])


@dataclass
class Function:
    """One function, with ``$LATEST`` as its only version.

    While an update is in progress, invocations still run the revision ``current``, as on AWS.

    Args:
        name: its name.
        arn: its ARN.
        current: the revision that invocations run; ``None`` before the function is first Active, and after it is
            deleted.
        upcoming: the revision that will be current when the update in progress ends; ``None`` without an update.
        access_key: the random key id of its containers' credentials.
        state: ``Pending``, ``Active`` or ``Failed``; ``Deleting`` after it is removed from the table.
        last_update: ``InProgress``, ``Successful`` or ``Failed``.
        reserved_concurrency: its reserved concurrency; with ``None``, the function shares the account's concurrency.
        event_invoke: ``MaximumRetryAttempts``, ``MaximumEventAgeInSeconds``, ``DestinationConfig``.
        event_invoke_modified: when ``event_invoke`` was changed, in seconds since the epoch.
        revision_id: a random id that changes with each update.
        last_modified: the time of the last change, in AWS's format.
        tags: its tags.
        statements: the statements of its policy, by id.
    """

    name: str
    arn: str
    current: Revision | None
    upcoming: Revision | None
    access_key: str
    state: str = "Pending"
    last_update: str = "InProgress"
    reserved_concurrency: int | None = None
    event_invoke: dict[str, Any] = field(default_factory=dict)
    event_invoke_modified: float = 0.0
    revision_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    last_modified: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    statements: dict[str, dict[str, Any]] = field(default_factory=dict)

    def touch(self) -> None:
        """Give the function a new revision id."""
        self.revision_id = str(uuid.uuid4())

    def configuration(self, revision: Revision | None = None, *, states: bool = True) -> dict[str, Any]:
        """Return the function's configuration in AWS's format, ``FunctionConfiguration``.

        Args:
            revision: the revision to describe; by default the upcoming revision, or else the current one.
            states: whether to include the states, which AWS omits in lists.
        """
        shown = revision or self.upcoming or self.current
        if shown is None:
            raise _not_found(self.arn)
        fields = {name: value for name, value in shown.settings.items() if value not in ([], {"Variables": {}})}
        fields |= {
            "FunctionName": self.name,
            "FunctionArn": self.arn,
            "CodeSize": shown.code.size,
            "CodeSha256": shown.code.sha256,
            "LastModified": self.last_modified,
            "RevisionId": self.revision_id,
            "Version": LATEST,
            "PackageType": "Zip",
            "SnapStart": {**shown.settings["SnapStart"], "OptimizationStatus": "Off"},
        }
        return fields | (self._states() if states else {})

    def _states(self) -> dict[str, str]:
        if self.state == "Pending":
            return {
                "State": "Pending",
                "StateReason": "The function is being created.",
                "StateReasonCode": "Creating",
            }
        if self.last_update == "InProgress":
            return {
                "State": self.state,
                "LastUpdateStatus": "InProgress",
                "LastUpdateStatusReason": "The function is being created.",
                "LastUpdateStatusReasonCode": "Creating",
            }
        return {"State": self.state, "LastUpdateStatus": self.last_update}


LATEST = "$LATEST"
"""The only version that the emulator supports."""

_DEFAULTS: dict[str, Any] = {
    "Description": "",
    "Timeout": 3,
    "MemorySize": 128,
    "EphemeralStorage": {"Size": 512},
    "Environment": {"Variables": {}},
    "Layers": [],
    "Architectures": ["x86_64"],
    "TracingConfig": {"Mode": "PassThrough"},
    "SnapStart": {"ApplyOn": "None"},
}
_SETTINGS = (*_DEFAULTS, "Role", "Handler", "Runtime", "LoggingConfig")

_QUOTAS = {"Timeout": 900, "MemorySize": 10_240, "EphemeralStorage": 10_240}
"""Lower than the model's limits, which are those of managed instances and accelerators."""

_GONE = {"python2.7", "python3.6", "python3.7", "python3.8", "python3.9"}
"""Runtimes that the model contains but Lambda no longer accepts."""

_RESERVED_VARIABLES = {
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_EXECUTION_ENV",
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_LAMBDA_FUNCTION_MEMORY_SIZE",
    "AWS_LAMBDA_FUNCTION_VERSION",
    "AWS_LAMBDA_INITIALIZATION_TYPE",
    "AWS_LAMBDA_LOG_GROUP_NAME",
    "AWS_LAMBDA_LOG_STREAM_NAME",
    "AWS_LAMBDA_RUNTIME_API",
    "AWS_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "LAMBDA_TASK_ROOT",
    "LAMBDA_RUNTIME_DIR",
}

_NOT_EMULATED = (
    "AcceleratorConfig",
    "CapacityProviderConfig",
    "CodeSigningConfigArn",
    "DeadLetterConfig",
    "DurableConfig",
    "FileSystemConfigs",
    "ImageConfig",
    "RuntimeConfig",
    "TenancyConfig",
    "VpcConfig",
)

_NAME = re.compile(
    r"(?:arn:aws[a-zA-Z-]*:lambda:)?(?:(?P<region>[a-z]{2}(?:-[a-z]+)+-\d):)?(?:(?P<account>\d{12}):)?"
    r"(?:function:)?(?P<name>[a-zA-Z0-9-_]+)(?::(?P<qualifier>\$LATEST|[a-zA-Z0-9-_]+))?"
)
_MOST_NAME = 64


class FunctionTable:
    """All functions and layers.

    Args:
        directory: the directory that code is extracted to.
        settings: the emulator's settings; the transition time and the limits apply here.
        check_role: raises ``Refusal`` if a role does not exist, does not trust Lambda or is too new.
        fetch_object: returns an object from S3 (bucket, key, version) for ``Code.S3Bucket``/``S3Key``; raises
            ``Refusal`` with S3's code (``NoSuchKey``) and message.
        callers: the gateway's table of access keys, to which each function's key is added.
        on_retired: awaited with each function that was updated or deleted, to end its outdated containers.
        sleep: waits a number of seconds.
    """

    def __init__(
        self,
        directory: Path,
        *,
        settings: Settings,
        check_role: Callable[[str], Awaitable[None]],
        fetch_object: Callable[[str, str, str | None], Awaitable[bytes]],
        callers: dict[str, str],
        on_retired: Callable[[Function], Awaitable[None]],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.settings = settings
        self.layers = LayerTable(settings.region, unpack=self._unpack, timestamp=_timestamp)
        self._directory = directory
        self._check_role = check_role
        self._fetch_object = fetch_object
        self._callers = callers
        self._on_retired = on_retired
        self._sleep = sleep
        self._functions: dict[str, Function] = {}
        self._numbers = itertools.count(1)
        self._transitions: set[asyncio.Task[None]] = set()

    # -- finding -------------------------------------------------------------------------------------------

    def find(self, name_or_arn: str, qualifier: str | None = None) -> Function:
        """Return a function by name, partial ARN or ARN.

        Args:
            name_or_arn: the name or ARN, which may end with a qualifier.
            qualifier: a version or alias; only ``$LATEST`` exists.

        Raises:
            Refusal: the function or the version does not exist (``ResourceNotFoundException``).
        """
        function = self._functions.get(name_or_arn)  # the fast path: usually the argument is the bare name
        if function is not None and qualifier in (None, LATEST):
            return function
        name, named = self._parse(name_or_arn)
        if qualifier is not None and named is not None and qualifier != named:
            raise _invalid("The derived qualifier from the function name does not match the specified qualifier.")
        version = qualifier or named or LATEST
        function = self._functions.get(name)
        if function is None or version != LATEST:
            raise _not_found(self._arn(name) + (f":{version}" if version != LATEST else ""))
        return function

    def functions(self) -> list[Function]:
        """Return all functions, sorted by name."""
        return [function for _, function in sorted(self._functions.items())]

    @property
    def unreserved(self) -> int:
        """The concurrency that functions without a reservation share."""
        reserved = (function.reserved_concurrency or 0 for function in self._functions.values())
        return self.settings.limits.concurrency - sum(reserved)

    # -- creating, changing, deleting ----------------------------------------------------------------------

    async def create(self, request: Mapping[str, Any]) -> Function:
        """CreateFunction: extract and check the code; the function is then Pending, and later Active."""
        name, qualifier = self._parse(request["FunctionName"])
        if qualifier is not None:
            raise _invalid("The function name of a new function has no version.")
        if len(name) > _MOST_NAME:
            raise Refusal(
                "ValidationException",
                f"1 validation error detected: Value '{name}' at 'functionName' failed to satisfy constraint: "
                f"Member must have length less than or equal to {_MOST_NAME}",
            )
        if request.get("PackageType", "Zip") != "Zip":
            raise _not_emulated("PackageType Image")
        if "Runtime" not in request or "Handler" not in request:
            raise _invalid(
                "Runtime and Handler are mandatory parameters for functions created with deployment packages."
            )
        defaults = {**_DEFAULTS, "LoggingConfig": {"LogFormat": "Text", "LogGroup": f"/aws/lambda/{name}"}}
        settings = _changed(defaults, request)
        await self._check(settings, request)
        self._refuse_existing(name)
        settings, layers = self._with_layers(settings, request.get("Layers", ()))
        revision = self._revision(settings, await self._unpack(request["Code"]), layers)
        self._refuse_existing(name)  # another request may have created the function while the zip was extracted
        access_key = f"ASIA{secrets.token_hex(8).upper()}"
        function = Function(name, self._arn(name), None, revision, access_key, tags=dict(request.get("Tags", {})))
        function.last_modified = _timestamp()
        self._functions[name] = function
        self._callers[access_key] = f"function:{name}"
        self._begin(function, revision)
        return function

    async def update_code(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """UpdateFunctionCode: return the new configuration. An upload of the same code counts as an update too."""
        function, current = self._changeable(request)
        settings = dict(current.settings)
        if "Architectures" in request:
            settings["Architectures"] = request["Architectures"]
        upcoming = self._revision(settings, await self._unpack(request), current.layers)
        if request.get("DryRun"):
            return function.configuration(upcoming)
        return self._update(function, upcoming, request)

    async def update_configuration(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """UpdateFunctionConfiguration: return the new configuration. Settings that the request omits do not change."""
        function, current = self._changeable(request)
        settings, layers = _changed(current.settings, request), current.layers
        await self._check(settings, request)
        if "Layers" in request:  # otherwise the function keeps its layers, even deleted versions
            settings, layers = self._with_layers(settings, request["Layers"])
        return self._update(function, self._revision(settings, current.code, layers), request)

    async def delete(self, name_or_arn: str, qualifier: str | None = None) -> None:
        """DeleteFunction: running calls finish, and no more calls start."""
        if qualifier == LATEST:
            raise _invalid("$LATEST version cannot be deleted without deleting the function.")
        function = self.find(name_or_arn, qualifier)
        del self._functions[function.name]
        # the function's access key stays valid, for calls that are still running
        function.state, function.current, function.upcoming = "Deleting", None, None
        await self._on_retired(function)

    def reserve(self, name_or_arn: str, concurrency: int | None) -> Function:
        """PutFunctionConcurrency, or DeleteFunctionConcurrency if ``concurrency`` is ``None``."""
        function = self.find(name_or_arn)
        _refuse_unsettled(function)
        least = self.settings.limits.unreserved
        if concurrency is not None and self.unreserved + (function.reserved_concurrency or 0) - concurrency < least:
            raise _invalid(
                "Specified ReservedConcurrentExecutions for function decreases account's "
                f"UnreservedConcurrentExecution below its minimum value of [{least}]."
            )
        function.reserved_concurrency = concurrency
        function.touch()
        return function

    async def close(self) -> None:
        """Cancel the transitions that are in progress."""
        for task in self._transitions:
            task.cancel()
        await asyncio.gather(*self._transitions, return_exceptions=True)

    # -- transitions ---------------------------------------------------------------------------------------

    def _changeable(self, request: Mapping[str, Any]) -> tuple[Function, Revision]:
        """Return the function that a request would change, and its current revision."""
        function = self.find(request["FunctionName"])
        _refuse_unsettled(function)
        if request.get("RevisionId", function.revision_id) != function.revision_id:
            raise Refusal(
                "PreconditionFailedException",
                "The Revision Id provided does not match the latest Revision Id. "
                "Call the GetFunction/GetAlias API to retrieve the latest Revision Id",
            )
        if function.current is None:
            raise _not_found(function.arn)
        return function, function.current

    def _update(self, function: Function, upcoming: Revision, request: Mapping[str, Any]) -> dict[str, Any]:
        # the function may have been updated or deleted while this update was prepared
        if self._changeable(request)[0] is not function:
            raise _in_progress(function)
        function.upcoming, function.last_update = upcoming, "InProgress"
        function.last_modified = _timestamp()
        function.touch()
        self._begin(function, upcoming)
        return function.configuration()

    def _begin(self, function: Function, upcoming: Revision) -> None:
        task = asyncio.get_running_loop().create_task(self._settle(function, upcoming))
        self._transitions.add(task)
        task.add_done_callback(self._transitions.discard)

    async def _settle(self, function: Function, upcoming: Revision) -> None:
        """Wait for the transition time, and then make an upcoming revision the current one."""
        await self._sleep(self.settings.transition_seconds)
        if function.upcoming is not upcoming:  # the function was deleted
            return
        updated = function.current is not None
        function.current, function.upcoming = upcoming, None
        function.state, function.last_update = "Active", "Successful"
        function.touch()
        del upcoming  # the code's directory is removed with the last reference to the code
        if updated:
            await self._on_retired(function)

    # -- checking ------------------------------------------------------------------------------------------

    async def _check(self, settings: Mapping[str, Any], request: Mapping[str, Any]) -> None:
        """Refuse settings that botocore's model allows but Lambda does not."""
        for name in _NOT_EMULATED:
            if any(request[name].values() if isinstance(request.get(name), dict) else [request.get(name)]):
                raise _not_emulated(name)
        if settings["LoggingConfig"].get("LogFormat") == "JSON":
            raise _not_emulated("LogFormat JSON")
        runtime = settings["Runtime"]
        if runtime in _GONE and "Runtime" in request:
            raise _invalid(
                f"The runtime parameter of {runtime} is no longer supported for creating or updating AWS Lambda "
                "functions. We recommend you use a supported runtime while creating or updating functions."
            )
        sizes = {**settings, "EphemeralStorage": settings["EphemeralStorage"]["Size"]}
        for name, most in _QUOTAS.items():
            if sizes[name] > most:
                raise _invalid(
                    f"'{name}' value failed to satisfy constraint: Member must have value less than or equal to {most}"
                )
        _check_environment(settings["Environment"].get("Variables", {}), self.settings.limits)
        if "Role" in request:
            await self._check_role(settings["Role"])

    def _refuse_existing(self, name: str) -> None:
        if name in self._functions:
            raise Refusal("ResourceConflictException", f"Function already exist: {name}")

    def _with_layers(self, settings: Mapping[str, Any], arns: Iterable[str]) -> tuple[dict[str, Any], tuple[Code, ...]]:
        """Return the settings with these layers, and the layers' code."""
        versions = self.layers.of_function(arns, self.settings.limits.layers)
        shown = [{"Arn": version.arn, "CodeSize": version.code.size} for version in versions]
        return {**settings, "Layers": shown}, tuple(version.code for version in versions)

    def _revision(self, settings: Mapping[str, Any], code: Code, layers: tuple[Code, ...]) -> Revision:
        most = self.settings.limits.unzipped
        size = code.unzipped + sum(layer.unzipped for layer in layers)
        if size > most:
            raise _invalid(
                f"Function code combined with layers exceeds the maximum allowed size of {most} bytes. "
                f"The actual size is {size} bytes."
            )
        return Revision(next(self._numbers), settings, code, layers)

    # -- code ----------------------------------------------------------------------------------------------

    async def _unpack(self, source: Mapping[str, Any]) -> Code:
        """Extract a request's zip (``ZipFile``, or ``S3Bucket`` and ``S3Key``) in a thread, and return the code."""
        if source.get("ImageUri"):
            raise _not_emulated("ImageUri")
        archive = await self._archive(source)
        directory = self._directory / uuid.uuid4().hex
        code = await asyncio.to_thread(unpack, archive, directory, self.settings.limits.unzipped)
        # containers of an old revision may still run the code: remove its files with the last reference to it
        removal = weakref.finalize(code, _remove_in_thread, asyncio.get_running_loop(), directory)
        removal.atexit = False  # at exit, the emulator's whole directory is removed
        return code

    async def _archive(self, source: Mapping[str, Any]) -> bytes:
        archive: bytes | None = source.get("ZipFile")
        if archive is not None:
            if len(archive) > self.settings.limits.zip_direct:
                raise _invalid(f"Zipped size must be smaller than {self.settings.limits.zip_direct} bytes")
            return archive
        if "S3Bucket" not in source or "S3Key" not in source:
            raise _invalid("Please provide a source for function code.")
        try:
            return await self._fetch_object(source["S3Bucket"], source["S3Key"], source.get("S3ObjectVersion"))
        except Refusal as refusal:
            raise _invalid(
                f"Error occurred while GetObject. S3 Error Code: {refusal.code}. S3 Error Message: {refusal.message}"
            ) from refusal

    # -- names ---------------------------------------------------------------------------------------------

    def _parse(self, name_or_arn: str) -> tuple[str, str | None]:
        """Return the name and the qualifier in a name, a partial ARN or an ARN."""
        found = _NAME.fullmatch(name_or_arn)
        if found is None:
            raise Refusal(
                "ValidationException",
                f"1 validation error detected: Value '{name_or_arn}' at 'functionName' failed to satisfy constraint: "
                "Member must satisfy regular expression pattern of a function's name or ARN",
            )
        ours = self.settings.region
        if found["region"] not in (None, ours):
            raise Refusal(
                "ResourceNotFoundException",
                f"Functions from '{found['region']}' are not reachable in this region ('{ours}')",
            )
        if found["account"] not in (None, ACCOUNT_ID):
            raise _not_found(name_or_arn)
        return found["name"], found["qualifier"]

    def _arn(self, name: str) -> str:
        return f"arn:aws:lambda:{self.settings.region}:{ACCOUNT_ID}:function:{name}"


def _changed(settings: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings as a request changes them; the request's layers are not among these changes."""
    given = {name: request[name] for name in _SETTINGS if name in request and name != "Layers"}
    if "LoggingConfig" in given:
        given["LoggingConfig"] = {**settings["LoggingConfig"], **given["LoggingConfig"]}
    if "Environment" in given:
        given["Environment"] = {"Variables": dict(given["Environment"].get("Variables", {}))}
    return {**settings, **given}


def _check_environment(variables: Mapping[str, str], limits: Limits) -> None:
    refused = "Lambda was unable to configure your environment variables because the environment variables you have "
    reserved = sorted(_RESERVED_VARIABLES & variables.keys())
    if reserved:
        raise _invalid(
            f"{refused}provided contains reserved keys that are currently not supported for modification. "
            f"Reserved keys used in this request: {', '.join(reserved)}"
        )
    measured = json.dumps(dict(variables), separators=(",", ":"), ensure_ascii=False)
    if variables and len(measured.encode()) > limits.environment:
        raise _invalid(
            f"{refused}provided exceeded the {limits.environment // 1024}KB limit. String measured: {measured}"
        )


def _refuse_unsettled(function: Function) -> None:
    if function.state == "Pending":
        raise pending(function)
    if function.last_update == "InProgress":
        raise _in_progress(function)


def pending(function: Function) -> Refusal:
    """Return the refusal that invocations get while the function is Pending."""
    return Refusal(
        "ResourceConflictException",
        "The operation cannot be performed at this time. The function is currently in the following state: "
        f"{function.state}",
    )


def _in_progress(function: Function) -> Refusal:
    return Refusal(
        "ResourceConflictException",
        f"The operation cannot be performed at this time. An update is in progress for resource: {function.arn}",
    )


def _not_found(arn: str) -> Refusal:
    return Refusal("ResourceNotFoundException", f"Function not found: {arn}")


def _invalid(message: str) -> Refusal:
    return Refusal("InvalidParameterValueException", message)


def _not_emulated(what: str) -> Refusal:
    return Refusal("NotImplemented", f"{what} is not emulated")


def _timestamp() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "+0000"


def _remove_in_thread(loop: asyncio.AbstractEventLoop, directory: Path) -> None:
    """Remove a directory in another thread.

    The garbage collector calls this function in any thread, and even after the loop has ended.
    """

    def start() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is ending, and the emulator's whole directory is removed
            loop.run_in_executor(None, remove, directory)

    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(start)
