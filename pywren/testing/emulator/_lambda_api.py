"""Lambda's API: ``Invoke`` and the operations on functions and layers, following botocore's service model.

Each operation is a coroutine method with its name (``create_function``). It takes the decoded arguments and returns
the fields of the answer; decoding, status codes and errors are generic. ``Invoke``, which is called most often, has its
own, faster code.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qs

from pywren.testing.emulator._dispatch import Dispatcher
from pywren.testing.emulator._faults import FaultPlan
from pywren.testing.emulator._functions import LATEST, Function, FunctionTable, pending
from pywren.testing.emulator._layer_table import LayerVersion
from pywren.testing.emulator._operations import Operation, service_model
from pywren.testing.emulator._rest_json import Answer as Answer
from pywren.testing.emulator._rest_json import Refusal, check, decode, encode, encode_refusal

Item = TypeVar("Item")

_CODE_STORAGE = 75 * 1024**3
"""The maximum size in bytes of all uploaded zips of an account."""

_DESTINATIONS = ("arn:aws:s3:::", "arn:aws:sqs:")
"""The kinds of destinations to which the emulator can send records of failed events."""


class LambdaApi:
    """Answers requests to Lambda.

    Args:
        functions: the deployed functions.
        dispatcher: runs invocations.
        model: botocore's model of Lambda; loaded by default.
        clock: returns seconds since the epoch.
    """

    def __init__(
        self,
        functions: FunctionTable,
        dispatcher: Dispatcher,
        *,
        model: Any = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        import botocore

        self._table = functions
        self._dispatcher = dispatcher
        self._model = model or service_model("lambda")
        self._clock = clock
        self._limits = functions.settings.limits
        self._methods: dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]] = {}
        for name in self._model.operation_names:
            method = getattr(self, botocore.xform_name(name), None)
            if method is not None:
                self._methods[name] = method

    async def answer(
        self, operation: Operation, query: str, headers: Mapping[str, str], body: bytes, plan: FaultPlan
    ) -> Answer:
        """Answer one request; if the request is refused, the refusal is the answer."""
        request_id = str(uuid.uuid4())
        try:
            if operation.name == "Invoke":
                return await self._invoke(operation, query, headers, body, request_id, plan)
            return await self._control(operation, query, headers, body, request_id)
        except Refusal as refusal:
            return encode_refusal(self._model, refusal, request_id)

    async def _control(
        self, operation: Operation, query: str, headers: Mapping[str, str], body: bytes, request_id: str
    ) -> Answer:
        if not operation.name:
            raise Refusal("UnknownOperationException", "this is not a Lambda operation")
        method = self._methods.get(operation.name)
        if method is None:
            raise Refusal("NotImplemented", f"lambda:{operation.name} is not emulated")
        model = self._model.operation_model(operation.name)
        request = decode(model, operation.path_arguments, query, headers, body)
        _check_runtime(model, request)
        check(model.input_shape, request)
        return encode(model, await method(request), request_id)

    # -- Invoke --------------------------------------------------------------------------------------------

    async def _invoke(
        self,
        operation: Operation,
        query: str,
        headers: Mapping[str, str],
        body: bytes,
        request_id: str,
        plan: FaultPlan,
    ) -> Answer:
        given = {name.lower(): value for name, value in headers.items()}
        kind = given.get("x-amz-invocation-type", "RequestResponse")
        log_type = given.get("x-amz-log-type", "None")
        if kind not in ("Event", "RequestResponse", "DryRun") or log_type not in ("None", "Tail"):
            model = self._model.operation_model("Invoke")
            check(model.input_shape, decode(model, operation.path_arguments, query, headers, body))
        qualifier = parse_qs(query)["Qualifier"][0] if query else None
        function = self._table.find(operation.path_arguments["FunctionName"], qualifier)
        self._check_payload(kind, body)
        if function.state != "Active":
            raise pending(function)
        answered = {"x-amzn-RequestId": request_id}
        if kind == "DryRun":
            return Answer(204, answered, b"")
        payload = body or b"{}"
        if kind == "Event":
            self._dispatcher.accept(function, payload, request_id, plan)
            return Answer(202, answered, b"")
        reply = await self._dispatcher.run(function, payload, request_id, plan)
        answered |= {"X-Amz-Executed-Version": LATEST, "Content-Type": "application/json"}
        if reply.error:
            answered["X-Amz-Function-Error"] = reply.error
        if log_type == "Tail":
            answered["X-Amz-Log-Result"] = base64.b64encode(reply.log_tail[-self._limits.log_tail :]).decode()
        return Answer(200, answered, reply.payload)

    def _check_payload(self, kind: str, payload: bytes) -> None:
        limits = self._limits
        most = limits.asynchronous_payload if kind == "Event" else limits.synchronous_payload
        if len(payload) > most:
            raise Refusal(
                "RequestTooLargeException",
                f"{len(payload)} byte payload is too large for the {kind} invocation type (limit {most} bytes)",
            )
        if not payload:
            return
        try:
            _JSON.decode(payload.decode())
        except ValueError as error:
            raise Refusal(
                "InvalidRequestContentException",
                f"Could not parse request body into json: Could not parse payload into json: {error}",
            ) from error

    # -- functions -----------------------------------------------------------------------------------------

    async def create_function(self, request: dict[str, Any]) -> dict[str, Any]:
        """Create a function; ``Publish`` has no effect, since there are no versions."""
        return (await self._table.create(request)).configuration()

    async def update_function_code(self, request: dict[str, Any]) -> dict[str, Any]:
        """Update the code; ``Publish`` has no effect, since there are no versions."""
        return await self._table.update_code(request)

    async def update_function_configuration(self, request: dict[str, Any]) -> dict[str, Any]:
        """Change the given settings, and keep the others."""
        return await self._table.update_configuration(request)

    async def delete_function(self, request: dict[str, Any]) -> dict[str, Any]:
        """Delete a function immediately."""
        await self._table.delete(request["FunctionName"], request.get("Qualifier"))
        return {}

    async def get_function(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return a function; the location of its code is a placeholder and cannot be downloaded."""
        function = self._find(request)
        answer: dict[str, Any] = {
            "Configuration": function.configuration(),
            "Code": {"RepositoryType": "S3", "Location": f"https://code.invalid/functions/{function.name}"},
        }
        if function.tags:
            answer["Tags"] = function.tags
        return answer | ({"Concurrency": found} if (found := _concurrency(function)) else {})

    async def get_function_configuration(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the configuration with its states; during an update, return the upcoming configuration."""
        return self._find(request).configuration()

    async def list_functions(self, request: dict[str, Any]) -> dict[str, Any]:
        """List the functions, without their states, as on AWS."""
        page, more = _page(self._table.functions(), request)
        return {"Functions": [function.configuration(states=False) for function in page]} | more

    async def list_versions_by_function(self, request: dict[str, Any]) -> dict[str, Any]:
        """List the only version, ``$LATEST``."""
        function = self._find(request)
        version = function.configuration(states=False) | {"FunctionArn": f"{function.arn}:{LATEST}"}
        return {"Versions": [version]}

    async def get_account_settings(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the limits of the account and how much of them is used."""
        functions = self._table.functions()
        sizes = [function.configuration()["CodeSize"] for function in functions]
        limits = {
            "TotalCodeSize": _CODE_STORAGE,
            "CodeSizeUnzipped": self._limits.unzipped,
            "CodeSizeZipped": self._limits.zip_direct,
            "ConcurrentExecutions": self._limits.concurrency,
            "UnreservedConcurrentExecutions": self._table.unreserved,
        }
        return {"AccountLimit": limits, "AccountUsage": {"TotalCodeSize": sum(sizes), "FunctionCount": len(functions)}}

    def _find(self, request: Mapping[str, Any]) -> Function:
        return self._table.find(request["FunctionName"], request.get("Qualifier"))

    # -- concurrency ---------------------------------------------------------------------------------------

    async def put_function_concurrency(self, request: dict[str, Any]) -> dict[str, Any]:
        """Reserve concurrency for a function; this reduces the concurrency that other functions share."""
        return _concurrency(self._table.reserve(request["FunctionName"], request["ReservedConcurrentExecutions"]))

    async def get_function_concurrency(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the reserved concurrency; the answer is empty if there is no reservation."""
        return _concurrency(self._find(request))

    async def delete_function_concurrency(self, request: dict[str, Any]) -> dict[str, Any]:
        """Delete the reservation, so that the function shares the account's concurrency again."""
        self._table.reserve(request["FunctionName"], None)
        return {}

    # -- asynchronous invocation ---------------------------------------------------------------------------

    async def put_function_event_invoke_config(self, request: dict[str, Any]) -> dict[str, Any]:
        """Replace the settings for asynchronous invocations; settings that are not given return to their defaults."""
        return self._set_event_invoke(request, {})

    async def update_function_event_invoke_config(self, request: dict[str, Any]) -> dict[str, Any]:
        """Change the given settings for asynchronous invocations, and keep the others."""
        return self._set_event_invoke(request, self._configured(request).event_invoke)

    async def get_function_event_invoke_config(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the settings for asynchronous invocations."""
        return _event_invoke(self._configured(request))

    async def delete_function_event_invoke_config(self, request: dict[str, Any]) -> dict[str, Any]:
        """Delete the settings for asynchronous invocations, so that Lambda's defaults apply again."""
        self._configured(request).event_invoke = {}
        return {}

    async def list_function_event_invoke_configs(self, request: dict[str, Any]) -> dict[str, Any]:
        """List the settings for asynchronous invocations: at most one entry, for ``$LATEST``."""
        function = self._find(request)
        return {"FunctionEventInvokeConfigs": [_event_invoke(function)] if function.event_invoke else []}

    def _set_event_invoke(self, request: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
        function = self._find(request)
        names = ("MaximumRetryAttempts", "MaximumEventAgeInSeconds", "DestinationConfig")
        given = {name: request[name] for name in names if name in request}
        if not given:
            raise _invalid("You must specify at least one of error handling or destination setting.")
        _check_destinations(given.get("DestinationConfig", {}))
        function.event_invoke = {**earlier, **given}
        function.event_invoke_modified = self._clock()
        return _event_invoke(function)

    def _configured(self, request: Mapping[str, Any]) -> Function:
        function = self._find(request)
        if not function.event_invoke:
            raise Refusal(
                "ResourceNotFoundException", f"The function {function.arn}:{LATEST} doesn't have an EventInvokeConfig"
            )
        return function

    # -- layers --------------------------------------------------------------------------------------------

    async def publish_layer_version(self, request: dict[str, Any]) -> dict[str, Any]:
        """Publish a layer's next version."""
        return _layer_content(await self._table.layers.publish(request))

    async def get_layer_version(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return a version of a layer; the location of its code is a placeholder and cannot be downloaded."""
        return _layer_content(self._table.layers.get(request["LayerName"], request["VersionNumber"]))

    async def get_layer_version_by_arn(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return a version of a layer, found by its ARN."""
        return _layer_content(self._table.layers.get_by_arn(request["Arn"]))

    async def list_layer_versions(self, request: dict[str, Any]) -> dict[str, Any]:
        """List the versions of a layer, the latest first."""
        versions = self._table.layers.versions(request["LayerName"])
        page, more = _page([version for version in versions if version.suits(request)], request)
        return {"LayerVersions": [_layer_version(version) for version in page]} | more

    async def list_layers(self, request: dict[str, Any]) -> dict[str, Any]:
        """List the layers, each with its latest version."""
        page, more = _page(self._table.layers.latest(request), request)
        layers = [
            {
                "LayerName": version.name,
                "LayerArn": version.layer_arn,
                "LatestMatchingVersion": _layer_version(version),
            }
            for version in page
        ]
        return {"Layers": layers} | more

    async def delete_layer_version(self, request: dict[str, Any]) -> dict[str, Any]:
        """Delete a version of a layer; functions that use the version keep it."""
        self._table.layers.delete(request["LayerName"], request["VersionNumber"])
        return {}

    # -- tags ----------------------------------------------------------------------------------------------

    async def tag_resource(self, request: dict[str, Any]) -> dict[str, Any]:
        """Add tags to a function; other resources cannot be tagged."""
        self._table.find(request["Resource"]).tags.update(request["Tags"])
        return {}

    async def untag_resource(self, request: dict[str, Any]) -> dict[str, Any]:
        """Remove tags from a function; missing keys are ignored."""
        tags = self._table.find(request["Resource"]).tags
        for key in request["TagKeys"]:
            tags.pop(key, None)
        return {}

    async def list_tags(self, request: dict[str, Any]) -> dict[str, Any]:
        """List the tags of a function."""
        return {"Tags": self._table.find(request["Resource"]).tags}

    # -- policy: stored and returned, never enforced -------------------------------------------------------

    async def add_permission(self, request: dict[str, Any]) -> dict[str, Any]:
        """Add a statement to the function's policy."""
        function = self._find(request)
        statement_id = request["StatementId"]
        if statement_id in function.statements:
            raise Refusal(
                "ResourceConflictException",
                f"The statement id ({statement_id}) provided already exists. Please provide a new statement id, "
                "or remove the existing statement.",
            )
        function.statements[statement_id] = statement = _statement(function, request)
        function.touch()
        return {"Statement": json.dumps(statement)}

    async def get_policy(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the function's policy as a string of JSON."""
        function = self._find(request)
        if not function.statements:
            raise Refusal("ResourceNotFoundException", "The resource you requested does not exist.")
        policy = {"Version": "2012-10-17", "Id": "default", "Statement": list(function.statements.values())}
        return {"Policy": json.dumps(policy), "RevisionId": function.revision_id}

    async def remove_permission(self, request: dict[str, Any]) -> dict[str, Any]:
        """Remove a statement from the function's policy."""
        function = self._find(request)
        if function.statements.pop(request["StatementId"], None) is None:
            raise Refusal(
                "ResourceNotFoundException", f"Statement {request['StatementId']} is not found in resource policy."
            )
        function.touch()
        return {}


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_constant=_no_constant)


def _check_runtime(model: Any, request: Mapping[str, Any]) -> None:
    """Refuse an unknown runtime before the model's checks, because AWS has a special message for it."""
    if "Runtime" not in request:
        return
    known = model.input_shape.members["Runtime"].metadata["enum"]
    if request["Runtime"] not in known:
        raise _invalid(
            f"Value {request['Runtime']} at 'runtime' failed to satisfy constraint: "
            f"Member must satisfy enum value set: [{', '.join(known)}] or be a valid ARN"
        )


def _check_destinations(config: Mapping[str, Any]) -> None:
    if config.get("OnSuccess", {}).get("Destination"):
        raise Refusal("NotImplemented", "OnSuccess destinations are not emulated")
    destination = config.get("OnFailure", {}).get("Destination")
    if destination and not destination.startswith(_DESTINATIONS):
        raise Refusal("NotImplemented", f"only S3 and SQS destinations are emulated, not {destination}")


def _event_invoke(function: Function) -> dict[str, Any]:
    config = function.event_invoke
    destinations = {"OnSuccess": {}, "OnFailure": {}, **config.get("DestinationConfig", {})}
    return {
        **config,
        "DestinationConfig": destinations,
        "FunctionArn": f"{function.arn}:{LATEST}",
        "LastModified": function.event_invoke_modified,
    }


def _concurrency(function: Function) -> dict[str, int]:
    reserved = function.reserved_concurrency
    return {} if reserved is None else {"ReservedConcurrentExecutions": reserved}


def _layer_version(version: LayerVersion) -> dict[str, Any]:
    return {
        **version.details,
        "LayerVersionArn": version.arn,
        "Version": version.number,
        "CreatedDate": version.created,
    }


def _layer_content(version: LayerVersion) -> dict[str, Any]:
    content = {
        "Location": f"https://code.invalid/layers/{version.name}/{version.number}",
        "CodeSha256": version.code.sha256,
        "CodeSize": version.code.size,
    }
    return {**_layer_version(version), "LayerArn": version.layer_arn, "Content": content}


def _statement(function: Function, request: Mapping[str, Any]) -> dict[str, Any]:
    principal = request["Principal"]
    conditions = {
        "ArnLike": {"AWS:SourceArn": request.get("SourceArn")},
        "StringEquals": {"AWS:SourceAccount": request.get("SourceAccount")},
    }
    given = {test: values for test, values in conditions.items() if None not in values.values()}
    statement = {
        "Sid": request["StatementId"],
        "Effect": "Allow",
        "Principal": {"Service" if principal.endswith(".amazonaws.com") else "AWS": principal},
        "Action": request["Action"],
        "Resource": function.arn,
    }
    return statement | ({"Condition": given} if given else {})


def _page(items: Sequence[Item], request: Mapping[str, Any]) -> tuple[Sequence[Item], dict[str, str]]:
    """Return one page of a listing, and the marker for the next page if there is a next page."""
    marker = request.get("Marker", "0")
    if not marker.isdecimal():
        raise _invalid(f"{marker!r} is not a marker that a listing returned")
    start = int(marker)
    end = start + min(request.get("MaxItems", 50), 50)
    return items[start:end], {"NextMarker": str(end)} if end < len(items) else {}


def _invalid(message: str) -> Refusal:
    return Refusal("InvalidParameterValueException", message)
