"""``AWS``: sends all of pywren's requests to AWS except those to the storage.

Its methods raise pywren's errors: ``InvocationError`` if starting a call fails, ``DeploymentError`` if creating or
reading something fails, and ``ConfigError`` if this machine's credentials, profile, region or endpoint are wrong.

Any thread may send requests, because botocore's clients are thread-safe. botocore's sessions are not, so a lock guards
the session while a client is made from it. After ``os.fork`` each process makes its own clients (``PerProcess``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, NamedTuple, TypeVar

from pywren.aws import lean
from pywren.aws.credentials import Renewals
from pywren.aws.errors import (
    Boundary,
    concerns_credentials,
    error_code,
    is_network_error,
    is_throttling,
    response,
    service_code,
)
from pywren.aws.per_process import PerProcess
from pywren.aws.sending import Retry, patience
from pywren.aws.session import make_client, make_resource, make_session
from pywren.exceptions import (
    ArgumentError,
    DeploymentError,
    InvocationError,
    InvocationThrottledError,
    PywrenError,
)

Answer = TypeVar("Answer")

HANDLER = "pywren.wrenhandler.aws_lambda_handler"
"""The entry point of a deployed Lambda function."""

LONG_POLL_SECONDS = 20
"""The longest time in seconds that one ReceiveMessage can wait (Amazon SQS API reference)."""

FUNCTION_CHANGE_PATIENCE = 60.0
"""Seconds to wait while a function is being changed, or while a new role or instance profile spreads through AWS."""

MISSING_QUEUE = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist")
"""The error codes that SQS sends for a queue that does not exist, in its older and its newer protocol."""


class LogStream(NamedTuple):
    """A stream of a log group.

    Args:
        name: its name.
        written_ms: when it was last written, in milliseconds since the epoch; 0 if that is not known yet.
    """

    name: str
    written_ms: int


@dataclass(frozen=True)
class FunctionSpec:
    """The desired settings of a Lambda function.

    Args:
        name: the function's name.
        role_arn: the role that the function has when it runs.
        runtime: Lambda's name of the runtime, such as ``python3.12``.
        memory: the memory in megabytes.
        timeout: the longest time in seconds that an invocation may run.
        ephemeral_storage: the size of ``/tmp`` in megabytes.
        architecture: ``x86_64`` or ``arm64``.
        layers: ARNs of layer versions, in order.
        environment: the function's environment variables; ``None`` leaves them unchanged.
        handler: the function's entry point.
        description: what the console shows; an empty text leaves it unchanged.
    """

    name: str
    role_arn: str
    runtime: str
    memory: int = 1536
    timeout: int = 300
    ephemeral_storage: int = 512
    architecture: str = "x86_64"
    layers: tuple[str, ...] = ()
    environment: Mapping[str, str] | None = None
    handler: str = HANDLER
    description: str = ""

    def configuration(self) -> dict[str, Any]:
        """Return the arguments that CreateFunction and UpdateFunctionConfiguration share."""
        settings = {
            "Role": self.role_arn,
            "Runtime": self.runtime,
            "Handler": self.handler,
            "MemorySize": self.memory,
            "Timeout": self.timeout,
            "EphemeralStorage": {"Size": self.ephemeral_storage},
            "Layers": list(self.layers),
        }
        if self.description:
            settings["Description"] = self.description
        if self.environment is not None:
            settings["Environment"] = {"Variables": dict(self.environment)}
        return settings

    def changes(self, existing: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings that differ from those of the existing function, so that an update changes nothing else.

        Args:
            existing: the answer of GetFunctionConfiguration.
        """
        found = {
            **existing,
            "Layers": [layer["Arn"] for layer in existing.get("Layers") or ()],
            "EphemeralStorage": existing.get("EphemeralStorage") or {"Size": 512},
            "Environment": {"Variables": (existing.get("Environment") or {}).get("Variables") or {}},
        }
        return {key: value for key, value in self.configuration().items() if found.get(key) != value}


@dataclass(frozen=True)
class Message:
    """A message received from a queue.

    Args:
        body: the text of the message; omitted from ``repr``, because a payload contains a key.
        receipt: the handle for deleting the message or for changing how long it stays hidden.
        deliveries: how many times the message was received, including this time; SQS counts approximately.
    """

    body: str = field(repr=False)
    receipt: str
    deliveries: int = 1


class AWS:
    """Sends requests to one account in one region. botocore is imported only when the first request is sent.

    Args:
        region: by default the region of the profile or environment.
        profile: a profile of ``~/.aws/config``; by default ``AWS_PROFILE`` or the default profile.
        session: a botocore session to use instead of creating one.
        sleep: waits a number of seconds.
        clock: returns monotonic seconds.
    """

    def __init__(
        self,
        region: str | None = None,
        *,
        profile: str | None = None,
        session: Any = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.region = region
        self.profile = profile
        self._given_session = session
        self._sleep = sleep
        self._retry = Retry(patience=_patience, sleep=sleep, clock=clock)
        self._retry_invocations = Retry(patience=_patience_of_invocations, sleep=sleep, clock=clock)
        self._session: PerProcess[Any] = PerProcess(self._make_session)
        self._clients: dict[str, PerProcess[Any]] = {}
        self._session_lock: PerProcess[Lock] = PerProcess(Lock)
        self._renewals = PerProcess(lambda: Renewals(self._make_session, self._use))

    def __repr__(self) -> str:
        return f"AWS({self.region!r})"

    # -- sending -------------------------------------------------------------------------------------------

    def client(self, service: str) -> Any:
        """Return the botocore client of a service, creating it on first use. Threads may share it."""
        holder = self._clients.get(service)
        if holder is None:
            # setdefault is atomic: if several threads get here, all of them get the same holder.
            holder = self._clients.setdefault(service, PerProcess(lambda: self._make_client(service)))
        return holder.get()

    def resource(self, service: str) -> Any:
        """Return boto3's resource for a service, for programs written for 0.4. Threads must not share the resource."""
        with self._own_session(f"create a boto3 resource for {service}") as session:
            return make_resource(session, service, self.region)

    def _make_session(self) -> Any:
        return self._given_session or make_session(self.profile)

    def _make_client(self, service: str) -> Any:
        with self._own_session(f"create a client for {service}") as session:
            try:
                return make_client(session, service, self.region)
            except BaseException:
                self._session.forget()  # the next attempt reads the profile and environment again
                raise

    @contextmanager
    def _own_session(self, doing: str) -> Iterator[Any]:
        """Yield the session to one thread at a time, and turn errors in the profile or region into pywren's errors."""
        with self._session_lock.get(), self._boundary(doing, "", "", DeploymentError):
            yield self._session.get()

    def request(
        self,
        service: str,
        operation: str,
        *,
        doing: str,
        permission: str = "",
        missing: str = "",
        refused: type[PywrenError] = DeploymentError,
        **arguments: Any,
    ) -> dict[str, Any]:
        """Send one request, retry for up to two minutes while the service is busy, and return the answer.

        Args:
            service: botocore's name of the service.
            operation: the client's method.
            doing: completes "cannot …" in messages.
            permission: the IAM permission that the request needs, and on which resource; by default derived from the
                operation's name.
            missing: what to do if the resource does not exist.
            refused: the class of the error to raise if the service refuses the request.
            **arguments: the operation's arguments.
        """
        needed = permission or f"{service}:{operation.title().replace('_', '')}"
        with self._boundary(doing, needed, missing, refused):
            answer: dict[str, Any] = self._retry.run(
                lambda: self._try(service, lambda client: getattr(client, operation)(**arguments))
            )
            return answer

    def find(
        self,
        service: str,
        operation: str,
        *,
        absent: Collection[str] = ("ResourceNotFoundException",),
        doing: str,
        **arguments: Any,
    ) -> dict[str, Any] | None:
        """Send one request about a resource that may not exist.

        Args:
            service: botocore's name of the service.
            operation: the client's method.
            absent: the service's error codes for a resource that does not exist.
            doing: completes "cannot …" in messages.
            **arguments: as for ``request``.

        Returns:
            The answer; ``None`` when the resource does not exist.
        """
        try:
            return self.request(service, operation, doing=doing, **arguments)
        except PywrenError as error:
            if service_code(error) in absent:
                return None
            raise

    def pages(
        self,
        service: str,
        operation: str,
        *,
        tokens: Mapping[str, str],
        absent: Collection[str] = (),
        doing: str,
        **arguments: Any,
    ) -> Iterator[dict[str, Any]]:
        """Yield the pages of an answer, one request each.

        Args:
            service: botocore's name of the service.
            operation: the client's method.
            tokens: the arguments that request the next page, each with the member of the answer that has its value.
            absent: the service's error codes that mean that there is nothing to list.
            doing: completes "cannot …" in messages.
            **arguments: as for ``request``.
        """
        while True:
            page = self.find(service, operation, absent=absent, doing=doing, **arguments)
            if page is None:
                return
            yield page
            # S3 marks the last page with IsTruncated; some S3 servers name a next page even on the last one.
            if page.get("IsTruncated") is False or not any(page.get(member) for member in tokens.values()):
                return
            arguments.update({argument: page[member] for argument, member in tokens.items() if page.get(member)})

    def _try(self, service: str, request: Callable[[Any], Answer]) -> Answer:
        """Send a request. If its credentials are refused and their source has newer ones, send the request again."""
        client = self.client(service)
        try:
            return request(client)
        except Exception as error:
            if not concerns_credentials(error) or not self._renew(service, client, error):
                raise
        return request(self.client(service))

    def _renew(self, service: str, client: Any, refusal: BaseException) -> bool:
        if self._given_session:
            return False
        holder = self._clients.get(service)
        if holder is None or holder.peek() is not client:  # another thread has replaced the client
            return True
        return self._renewals.get().renew(client, refusal)

    def _use(self, session: Any) -> None:
        self._session.put(session)
        self._clients = {}

    def wait(self, service: str, waiter: str, *, doing: str, permission: str, **arguments: Any) -> None:
        """Wait for a state with one of botocore's waiters.

        Args:
            service: botocore's name of the service.
            waiter: the waiter's name.
            doing: completes "cannot …" in messages.
            permission: the IAM permission that the waiter needs, and on which resource.
            **arguments: the arguments of the operation that the waiter repeats.
        """
        with self._boundary(doing, permission, "", DeploymentError):
            self.client(service).get_waiter(waiter).wait(**arguments)

    def _boundary(self, doing: str, permission: str, missing: str, refused: type[PywrenError]) -> Boundary:
        return Boundary(
            doing=doing,
            refused=refused,
            permission=permission,
            missing=missing or "check its name in the configuration",
            profile=self.profile,
        )

    def close(self) -> None:
        """Close the connections."""
        for holder in list(self._clients.values()):
            client = holder.peek()
            holder.forget()
            if client is not None:
                client.close()

    # -- identity -------------------------------------------------------------------------------------------

    def account_id(self) -> str:
        """Return the 12-digit id of the AWS account that the credentials belong to."""
        return str(self.request("sts", "get_caller_identity", doing="find out whose credentials these are")["Account"])

    def regions(self) -> frozenset[str]:
        """Return the names of the regions that have Lambda, as far as this machine's botocore knows."""
        with self._own_session("look up the regions of AWS") as session:
            partitions = session.get_available_partitions()
            found = [session.get_available_regions("lambda", partition_name=partition) for partition in partitions]
        return frozenset(region for regions in found for region in regions)

    def configured_region(self) -> str | None:
        """Return the region that the environment or the profile sets; ``None`` if neither sets a region."""
        with self._own_session("find out the region") as session:
            region = session.get_config_variable("region")
        return None if region is None else str(region)

    def has_region(self) -> bool:
        """Tell whether the region exists. If requests go to a server other than AWS, any region name is accepted."""
        return self.region in self.regions() or ".amazonaws.com" not in str(self.client("lambda").meta.endpoint_url)

    # -- Lambda: calls --------------------------------------------------------------------------------------

    def invoke_async(self, function_name: str, payload: bytes) -> str:
        """Start a Lambda function without waiting for it.

        A busy service is not asked again here: whoever has more calls to invoke decides when to try the next one. A
        network that is down gets a few seconds first, because most of its errors pass.

        Args:
            function_name: the function's name or ARN.
            payload: the payload as JSON, up to 1 MB.

        Returns:
            The id that Lambda gave the request.

        Raises:
            InvocationThrottledError: Lambda is too busy, fails internally, or could not be reached. If only its answer
                was lost, the function was started.
            InvocationError: Lambda refused the request.
        """
        try:
            accepted = self._invoke_event(function_name, payload)
        except InvocationError as error:
            cause = error.__cause__
            if cause is not None and (is_throttling(cause) or is_network_error(cause)):
                raise InvocationThrottledError(str(error), code=error.code, request_id=error.request_id) from cause
            raise
        if accepted.status != 202:
            raise InvocationError(
                f"invoking {function_name}: Lambda answered {accepted.status} instead of 202 "
                f"(request {accepted.request_id})",
                code=str(accepted.status),
                request_id=accepted.request_id,
            )
        return accepted.request_id

    def _invoke_event(self, function_name: str, payload: bytes) -> lean.Accepted:
        doing, permission = f"invoke the function {function_name}", "lambda:InvokeFunction on the function "
        with self._boundary(doing, permission + function_name, _DEPLOY, InvocationError):
            return self._retry_invocations.run(
                lambda: self._try("lambda", lambda client: lean.invoke_event(client, function_name, payload))
            )

    # -- Lambda: functions ----------------------------------------------------------------------------------

    def function_config(self, name: str) -> dict[str, Any] | None:
        """Return a function's configuration, or ``None`` when it does not exist."""
        return self.find(
            "lambda", "get_function_configuration", doing=f"look up the function {name}", FunctionName=name
        )

    def create_function(
        self, spec: FunctionSpec, code: Mapping[str, Any], *, tags: Mapping[str, str] | None = None
    ) -> str:
        """Create a function, wait until it is ready, and return its ARN.

        Args:
            spec: the desired settings.
            code: a dict with ``ZipFile``, or with ``S3Bucket`` and ``S3Key``.
            tags: the function's tags.
        """
        answer = self.request(
            "lambda",
            "create_function",
            doing=f"create the function {spec.name}",
            permission=f"lambda:CreateFunction, and iam:PassRole on {spec.role_arn}",
            FunctionName=spec.name,
            Code=dict(code),
            Architectures=[spec.architecture],
            Tags=dict(tags or {}),
            **spec.configuration(),
        )
        self._wait_for_function("function_active_v2", spec.name)
        return str(answer["FunctionArn"])

    def update_function_code(self, name: str, code: Mapping[str, Any], *, architecture: str = "x86_64") -> None:
        """Replace a function's code and wait until the new code is active. For ``code`` see ``create_function``."""
        self.request(
            "lambda",
            "update_function_code",
            doing=f"update the code of {name}",
            missing=_DEPLOY,
            FunctionName=name,
            Architectures=[architecture],
            **code,
        )
        self._wait_for_function("function_updated_v2", name)

    def update_function_configuration(self, spec: FunctionSpec, changes: Mapping[str, Any] | None = None) -> None:
        """Change a function's configuration and wait until the new configuration is active.

        Args:
            spec: the desired settings.
            changes: the settings to send; by default all of them.
        """
        self.request(
            "lambda",
            "update_function_configuration",
            doing=f"update the configuration of {spec.name}",
            permission=f"lambda:UpdateFunctionConfiguration, and iam:PassRole on {spec.role_arn}",
            missing=_DEPLOY,
            FunctionName=spec.name,
            **(spec.configuration() if changes is None else changes),
        )
        self._wait_for_function("function_updated_v2", spec.name)

    def settled_function(self, name: str) -> dict[str, Any] | None:
        """Wait until no change of a function is in progress. Return its configuration; ``None`` if it does not exist.

        During a change Lambda refuses updates, but already reports the new settings as if they were active ("Lambda
        function states", AWS Lambda Developer Guide).
        """
        found = self.function_config(name)
        if found is None:
            return None
        waiter = ""
        if found.get("State") == "Pending":
            waiter = "function_active_v2"
        elif found.get("LastUpdateStatus") == "InProgress":
            waiter = "function_updated_v2"
        if not waiter:
            return found
        self._wait_for_function(waiter, name)
        return self.function_config(name)

    def python_runtimes(self) -> list[str]:
        """Return Lambda's Python runtimes that both this machine's botocore and pywren support."""
        known: Sequence[str] = self.client("lambda").meta.service_model.shape_for("Runtime").enum
        minors = sorted(
            int(name.removeprefix("python3."))
            for name in known
            if name.startswith("python3.") and name.removeprefix("python3.").isdigit()
        )
        return [f"python3.{minor}" for minor in minors if minor >= _OLDEST_PYTHON_MINOR]

    def _wait_for_function(self, waiter: str, name: str) -> None:
        try:
            self.wait(
                "lambda",
                waiter,
                doing=f"wait for the function {name}",
                permission=f"lambda:GetFunction on the function {name}",
                FunctionName=name,
            )
        except DeploymentError as error:
            reason = _why_failed(error)
            if not reason:
                raise
            raise DeploymentError(f"{error}. Lambda says: {reason}") from error

    def event_invoke(self, name: str) -> dict[str, Any] | None:
        """Return a function's settings for asynchronous calls, or ``None`` when they were never set."""
        return self.find(
            "lambda",
            "get_function_event_invoke_config",
            doing=f"look up the failure destination of {name}",
            FunctionName=name,
        )

    def set_event_invoke(self, name: str, *, event_age: int, on_failure: str, retries: int = 0) -> None:
        """Set what Lambda does with an asynchronous call that fails. Send nothing if the settings are right already.

        Args:
            name: the function.
            event_age: seconds after which Lambda drops a call that could not start, 60 to 21,600.
            on_failure: the ARN of the bucket or queue that receives a record of each failed call.
            retries: how many times Lambda itself retries the call, 0 to 2.
        """
        settings: dict[str, Any] = {
            "MaximumRetryAttempts": retries,
            "MaximumEventAgeInSeconds": event_age,
            "DestinationConfig": {"OnFailure": {"Destination": on_failure}},
        }
        found = self.event_invoke(name)
        if found is not None and _is_within(settings, found):
            return
        self.request(
            "lambda",
            "put_function_event_invoke_config",
            doing=f"set the failure destination of {name}",
            missing=_DEPLOY,
            FunctionName=name,
            **settings,
        )

    def delete_function(self, name: str) -> bool:
        """Delete a function, and return whether it existed."""
        answer = self.find("lambda", "delete_function", doing=f"delete the function {name}", FunctionName=name)
        return answer is not None

    # -- SQS ------------------------------------------------------------------------------------------------

    def queue_url(self, name: str) -> str:
        """Return a queue's URL.

        Raises:
            InvocationError: the queue does not exist.
        """
        return str(
            self.request(
                "sqs",
                "get_queue_url",
                doing=f"find the queue {name}",
                missing=_CREATE_QUEUE,
                refused=InvocationError,
                QueueName=name,
            )["QueueUrl"]
        )

    def queue_numbers(self, queue_url: str, *names: str) -> dict[str, int]:
        """Return numeric attributes of a queue, such as ``ApproximateNumberOfMessages``."""
        answer = self.request(
            "sqs",
            "get_queue_attributes",
            doing=f"look up the queue {queue_url}",
            missing=_CREATE_QUEUE,
            QueueUrl=queue_url,
            AttributeNames=list(names),
        )
        return {name: int(value) for name, value in answer.get("Attributes", {}).items()}

    def send_message(self, queue_url: str, body: str) -> str:
        """Send a message to a queue and return its id.

        Raises:
            InvocationError: the queue refused the message.
        """
        answer = self.request(
            "sqs",
            "send_message",
            doing=f"send to the queue {queue_url}",
            refused=InvocationError,
            QueueUrl=queue_url,
            MessageBody=body,
        )
        return str(answer["MessageId"])

    def receive(
        self, queue_url: str, *, wait_seconds: int = LONG_POLL_SECONDS, most: int = 1, visibility: int | None = None
    ) -> list[Message]:
        """Receive messages from a queue. If the queue is empty, wait for a message.

        Args:
            queue_url: the queue.
            wait_seconds: how many seconds to wait for a message, up to 20.
            most: how many messages to take, up to 10.
            visibility: seconds to hide the messages from other receivers; by default the queue's own setting.
        """
        if not 0 <= wait_seconds <= LONG_POLL_SECONDS:
            raise ArgumentError(f"wait_seconds is {wait_seconds}: SQS accepts 0 to {LONG_POLL_SECONDS}")
        timeout: dict[str, Any] = {} if visibility is None else {"VisibilityTimeout": visibility}
        answer = self.request(
            "sqs",
            "receive_message",
            doing=f"receive from the queue {queue_url}",
            missing=_CREATE_QUEUE,
            QueueUrl=queue_url,
            WaitTimeSeconds=wait_seconds,
            MaxNumberOfMessages=most,
            MessageSystemAttributeNames=["ApproximateReceiveCount"],
            **timeout,
        )
        return [_message(item) for item in answer.get("Messages", ())]

    def extend_message(self, queue_url: str, message: Message, visibility: int) -> None:
        """Hide a received message for ``visibility`` seconds from now; 0 makes it visible to all receivers again."""
        self.request(
            "sqs",
            "change_message_visibility",
            doing=f"keep a message in the queue {queue_url} hidden",
            QueueUrl=queue_url,
            ReceiptHandle=message.receipt,
            VisibilityTimeout=visibility,
        )

    def delete_message(self, queue_url: str, message: Message) -> None:
        """Delete a received message."""
        self.request(
            "sqs",
            "delete_message",
            doing=f"delete a message from the queue {queue_url}",
            QueueUrl=queue_url,
            ReceiptHandle=message.receipt,
        )

    # -- CloudWatch logs ------------------------------------------------------------------------------------

    def log_events(
        self,
        group: str,
        *,
        streams: list[str] | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """Yield a log group's events in chronological order, in the format of FilterLogEvents.

        Args:
            group: the log group, ``/aws/lambda/<function>``; yields nothing when it does not exist.
            streams: yield only events from these log streams.
            start_ms: yield only events from this time on, in milliseconds since the epoch.
            end_ms: yield only events before this time, in milliseconds since the epoch.
        """
        chosen = {
            "logStreamNames": streams,
            "startTime": start_ms,
            "endTime": end_ms,
        }
        for page in self.pages(
            "logs",
            "filter_log_events",
            tokens={"nextToken": "nextToken"},
            absent=("ResourceNotFoundException",),
            doing=f"read the log {group}",
            logGroupName=group,
            **{name: value for name, value in chosen.items() if value is not None},
        ):
            yield from page.get("events", ())

    def latest_log_stream(self, group: str) -> LogStream | None:
        """Return the log stream that was written last in a log group; ``None`` if there is none."""
        page = self.find(
            "logs",
            "describe_log_streams",
            doing=f"look up the log {group}",
            logGroupName=group,
            orderBy="LastEventTime",
            descending=True,
            limit=1,
        )
        found = (page or {}).get("logStreams", ())
        return next(
            (LogStream(str(one["logStreamName"]), int(one.get("lastEventTimestamp", 0))) for one in found), None
        )


_DEPLOY = "deploy it with: pywren deploy_lambda"
_CREATE_QUEUE = "create it with `pywren create_queue`"

_OLDEST_PYTHON_MINOR = 10


def _patience(error: BaseException) -> float:
    """Return for how many seconds to retry after an error. Errors while AWS still applies a change are retried too."""
    code, text = error_code(error), str(response(error).get("Error", {}).get("Message", "")).lower()
    if code == "InvalidParameterValueException" and any(words in text for words in _ROLE_TOO_NEW):
        return FUNCTION_CHANGE_PATIENCE
    if code == "InvalidParameterValue" and "invalid iam instance profile" in text:
        return FUNCTION_CHANGE_PATIENCE
    if code == "ResourceConflictException" and ("pending" in text or "in progress" in text):
        return FUNCTION_CHANGE_PATIENCE
    return patience(error)


def _patience_of_invocations(error: BaseException) -> float:
    """Return for how many seconds to retry an asynchronous invocation; 0 if the service is busy."""
    return 0.0 if is_throttling(error) else _patience(error)


_ROLE_TOO_NEW = ("cannot be assumed", "role does not have permissions")
"""What Lambda says about a role that was created seconds ago: IAM is eventually consistent."""


def is_missing_queue(error: PywrenError) -> bool:
    """Tell whether a request failed because the queue does not exist."""
    return service_code(error) in MISSING_QUEUE


def _message(item: Mapping[str, Any]) -> Message:
    deliveries = item.get("Attributes", {}).get("ApproximateReceiveCount", 1)
    return Message(item["Body"], item["ReceiptHandle"], int(deliveries))


def _why_failed(error: DeploymentError) -> str:
    """Return the reason that Lambda gives for the failed state of a function; empty if Lambda gives none."""
    answer = getattr(error.__cause__, "last_response", None)
    told = answer.get("Configuration", {}) if isinstance(answer, dict) else {}
    return str(told.get("LastUpdateStatusReason") or told.get("StateReason") or "")


def _is_within(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Tell whether ``found`` contains every wanted setting; it may contain more."""
    return all(
        _is_within(value, found.get(key) or {}) if isinstance(value, Mapping) else found.get(key) == value
        for key, value in wanted.items()
    )
