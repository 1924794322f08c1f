"""Lambda's control plane and Invoke, called with botocore's serializer and read with its parser.

Every answer, including errors, is checked against botocore's model: ``Conforming`` wraps the API.
Pages cited: [api] docs.aws.amazon.com/lambda/latest/api/API_<name>.html,
[dg] docs.aws.amazon.com/lambda/latest/dg/<page>.html.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import re
import zipfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from botocore import xform_name
from botocore.serialize import create_serializer
from conforming import Refused, conforming, misfits

from pywren.testing.emulator._container import Reply
from pywren.testing.emulator._faults import FaultPlan, Faults
from pywren.testing.emulator._functions import Function, FunctionTable, Refusal
from pywren.testing.emulator._lambda_api import Answer, LambdaApi
from pywren.testing.emulator._operations import Operation, operation_of, service_model
from pywren.testing.emulator._settings import Limits, Settings

ROLE = "arn:aws:iam::123456789012:role/worker"
BUCKET = "arn:aws:s3:::records"
ARN = "arn:aws:lambda:us-west-2:123456789012:function:f"
PLAN = FaultPlan(Faults())


def zipped(files: dict[str, str] | None = None) -> bytes:
    """Return a zip of readable files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in (files or {"handler.py": "def handle(event, context): return event"}).items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, text)
    return buffer.getvalue()


class StandInDispatcher:
    """A dispatcher that records its invocations, and answers with the payload."""

    def __init__(self) -> None:
        self.accepted: list[tuple[Function, bytes, str]] = []
        self.retired: list[tuple[str, int | None]] = []
        self.reply = {"error": "", "payload": None, "log_tail": b"START\nEND\n"}
        self.refusal: Refusal | None = None

    def accept(self, function: Function, payload: bytes, request_id: str, plan: FaultPlan) -> None:
        self.accepted.append((function, payload, request_id))

    async def run(self, function: Function, payload: bytes, request_id: str, plan: FaultPlan) -> Reply:
        if self.refusal is not None:
            raise self.refusal
        answered = payload if self.reply["payload"] is None else self.reply["payload"]
        return Reply(answered, self.reply["error"], 1.0, 2, None, 40, self.reply["log_tail"], "ok", True)

    async def retire(self, function: Function) -> None:
        self.retired.append((function.name, function.current and function.current.number))


class Transitions:
    """Transitions that last until the test ends them."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Event] = []

    async def sleep(self, seconds: float) -> None:
        event = asyncio.Event()
        self._waiting.append(event)
        await event.wait()

    async def end(self) -> None:
        """End all transitions in progress."""
        await _let_run()
        for event in self._waiting:
            event.set()
        self._waiting.clear()
        await _let_run()


async def _let_run() -> None:
    """Let all ready tasks run."""
    for _ in range(5):
        await asyncio.sleep(0)


class Conforming:
    """An API whose every answer, including errors, is checked against botocore's model of the operation."""

    def __init__(self, api: LambdaApi, model: Any) -> None:
        self._api, self._model = api, model

    async def answer(
        self, operation: Operation, query: str, headers: Mapping[str, str], body: bytes, plan: FaultPlan
    ) -> Answer:
        answer = await self._api.answer(operation, query, headers, body, plan)
        if operation.name:
            with contextlib.suppress(Refused):
                conforming(self._model.operation_model(operation.name), answer)
        return answer


class Lambda:
    """An emulated Lambda, called as botocore calls it and read as botocore reads it."""

    def __init__(self, directory: Path, limits: Limits) -> None:
        self.dispatcher = StandInDispatcher()
        self.transitions = Transitions()
        self.objects: dict[tuple[str, str], bytes] = {}
        self.role_refusal: Refusal | None = None
        self.callers: dict[str, str] = {}
        self.table = FunctionTable(
            directory,
            settings=Settings(limits=limits),
            check_role=self._check_role,
            fetch_object=self._fetch,
            callers=self.callers,
            on_retired=self.dispatcher.retire,
            sleep=self.transitions.sleep,
        )
        self.model = service_model("lambda")
        self.api = Conforming(LambdaApi(self.table, self.dispatcher, clock=lambda: 1e9), self.model)

    async def _check_role(self, arn: str) -> None:
        if self.role_refusal is not None:
            raise self.role_refusal

    async def _fetch(self, bucket: str, key: str, version: str | None) -> bytes:
        if (bucket, key) not in self.objects:
            raise Refusal("NoSuchKey", "The specified key does not exist.")
        return self.objects[bucket, key]

    async def raw(self, operation_name: str, **arguments: Any) -> Answer:
        """Send a request that botocore's serializer makes from the arguments."""
        model = self.model.operation_model(operation_name)
        request = create_serializer("rest-json", include_validation=False).serialize_to_request(arguments, model)
        path, _, fixed = request["url_path"].partition("?")
        query = "&".join(part for part in (fixed, urlencode(request["query_string"], doseq=True)) if part)
        body = request["body"] or b""
        headers = dict(request["headers"])
        operation = operation_of("lambda", request["method"], path, query, headers, body)
        assert operation.name == operation_name
        return await self.api.answer(operation, query, headers, body, PLAN)

    async def __call__(self, operation_name: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer as botocore parses it, checked against the model; raise ``Refused`` for an error."""
        answer = await self.raw(operation_name, **arguments)
        return conforming(self.model.operation_model(operation_name), answer)

    async def created(self, name: str = "f", **arguments: Any) -> dict[str, Any]:
        """Create a function and wait until it is Active."""
        answer = await self("CreateFunction", **function(name, **arguments))
        await self.transitions.end()
        return answer


def function(name: str = "f", **arguments: Any) -> dict[str, Any]:
    """Return the arguments of CreateFunction."""
    return {
        "FunctionName": name,
        "Runtime": "python3.11",
        "Role": ROLE,
        "Handler": "handler.handle",
        "Code": {"ZipFile": zipped()},
        **arguments,
    }


Test = Callable[[Lambda], Awaitable[None]]
Run = Callable[..., None]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that runs a test's coroutine with a new emulated Lambda."""

    def start(test: Test, **limits: Any) -> None:
        async def body() -> None:
            aws = Lambda(tmp_path / "code", Limits(**limits))
            try:
                await test(aws)
            finally:
                await aws.table.close()

        asyncio.run(body())

    return start


async def refused(call: Awaitable[Any], code: str, text: str = "") -> Refused:
    """Check that a call is refused with this code and message."""
    with pytest.raises(Refused) as caught:
        await call
    assert caught.value.code == code, caught.value.message
    assert text in caught.value.message
    return caught.value


# -- CreateFunction ----------------------------------------------------------------------------------------


def test_a_new_function_is_pending_then_active(run: Run) -> None:
    """It is Pending with a reason, then Active with its last update Successful [dg functions-states]."""

    async def test(aws: Lambda) -> None:
        created = await aws("CreateFunction", **function())
        assert created["State"] == "Pending"
        assert created["StateReasonCode"] == "Creating"
        await aws.transitions.end()
        now = await aws("GetFunctionConfiguration", FunctionName="f")
        assert (now["State"], now["LastUpdateStatus"]) == ("Active", "Successful")
        assert now["RevisionId"] != created["RevisionId"]

    run(test)


def test_defaults_of_a_function(run: Run) -> None:
    """The defaults are 3 s, 128 MB, 512 MB of /tmp, x86_64 and $LATEST [api CreateFunction]."""

    async def test(aws: Lambda) -> None:
        created = await aws.created()
        assert created["FunctionArn"] == ARN
        assert (created["Timeout"], created["MemorySize"]) == (3, 128)
        assert created["EphemeralStorage"] == {"Size": 512}
        assert created["Architectures"] == ["x86_64"]
        assert created["Version"] == "$LATEST"
        assert created["PackageType"] == "Zip"
        assert created["CodeSize"] == len(zipped())
        assert "Environment" not in created

    run(test)


def test_arguments_of_a_function_come_back(run: Run) -> None:
    """GetFunction returns all arguments, with tags and concurrency [api GetFunction]."""

    async def test(aws: Lambda) -> None:
        asked = {
            "Timeout": 900,
            "MemorySize": 10240,
            "EphemeralStorage": {"Size": 10240},
            "Architectures": ["arm64"],
            "Environment": {"Variables": {"AB": "c"}},
            "Description": "says what",
        }
        await aws.created(**asked, Tags={"team": "x"})
        await aws("PutFunctionConcurrency", FunctionName="f", ReservedConcurrentExecutions=7)
        found = await aws("GetFunction", FunctionName="f")
        assert asked.items() <= found["Configuration"].items()
        assert found["Tags"] == {"team": "x"}
        assert found["Concurrency"] == {"ReservedConcurrentExecutions": 7}
        assert found["Code"]["RepositoryType"] == "S3"
        assert found["Code"]["Location"]

    run(test)


def test_a_name_that_is_taken(run: Run) -> None:
    """It is ResourceConflictException, 409 [api CreateFunction], also for the slower of two concurrent calls."""

    async def test(aws: Lambda) -> None:
        answers = await asyncio.gather(*(aws("CreateFunction", **function()) for _ in range(2)), return_exceptions=True)
        assert sorted(type(answer) is Refused for answer in answers) == [False, True]
        error = await refused(aws("CreateFunction", **function()), "ResourceConflictException", "already exist: f")
        assert error.status == 409

    run(test)


INVALID, VALIDATION = "InvalidParameterValueException", "ValidationException"
LAYER = "arn:aws:lambda:us-west-2:123456789012:layer:none"
OUT_OF_RANGE = [
    ({"Timeout": 0}, VALIDATION, "Value '0' at 'timeout' failed to satisfy constraint: Member must have value greater"),
    ({"Timeout": 901}, INVALID, "less than or equal to 900"),
    ({"Timeout": 10**6}, VALIDATION, "Member must have value less than or equal to"),
    ({"MemorySize": 127}, VALIDATION, "Member must have value greater than or equal to 128"),
    ({"MemorySize": 10241}, INVALID, "'MemorySize' value failed to satisfy constraint"),
    ({"EphemeralStorage": {"Size": 511}}, VALIDATION, "'ephemeralStorage.size'"),
    ({"EphemeralStorage": {"Size": 10241}}, INVALID, "less than or equal to 10240"),
    ({"Architectures": ["mips"]}, VALIDATION, "enum value set: [x86_64, arm64]"),
    ({"Architectures": ["arm64", "x86_64"]}, VALIDATION, "length less than or equal to 1"),
    ({"Runtime": "python9.9"}, INVALID, "Value python9.9 at 'runtime' failed"),
    ({"Runtime": "python3.8"}, INVALID, "no longer supported"),
    ({"Handler": "with space"}, VALIDATION, "'handler'"),
    ({"Role": "worker"}, VALIDATION, "'role'"),
    ({"FunctionName": "no spaces"}, VALIDATION, "'functionName'"),
    ({"FunctionName": "f" * 65}, VALIDATION, "length less than or equal to 64"),
    ({"Environment": {"Variables": {"1A": "x"}}}, VALIDATION, "'environment.variables'"),
    ({"Environment": {"Variables": {"AWS_REGION": "x"}}}, INVALID, "Reserved keys used in this request: AWS_REGION"),
    ({"Environment": {"Variables": {"AB": "x" * 4096}}}, INVALID, "exceeded the 4KB limit"),
    ({"Code": {"ZipFile": b"no zip"}}, INVALID, "Could not unzip uploaded file"),
    ({"Code": {"ZipFile": b""}}, INVALID, "non-empty zip"),
    ({"Code": {}}, INVALID, "provide a source"),
    ({"Layers": [f"{LAYER}:1"]}, INVALID, "does not exist"),
    ({"Layers": [f"{LAYER}:{n}" for n in range(6)]}, INVALID, "more than 5 layers"),
    ({"PackageType": "Image"}, "NotImplemented", "Image"),
    ({"VpcConfig": {"SubnetIds": ["subnet-1"]}}, "NotImplemented", "VpcConfig"),
    ({"DeadLetterConfig": {"TargetArn": "arn:aws:sqs:us-west-2:123456789012:q"}}, "NotImplemented", "DeadLetterConfig"),
]


@pytest.mark.parametrize(("change", "code", "text"), OUT_OF_RANGE, ids=lambda value: str(value)[:40])
def test_arguments_that_lambda_refuses(run: Run, change: dict[str, Any], code: str, text: str) -> None:
    """The model's ranges and the quotas apply; nothing is made [api CreateFunction, dg gettingstarted-limits]."""

    async def test(aws: Lambda) -> None:
        await refused(aws("CreateFunction", **{**function(), **change}), code, text)
        assert (await aws("ListFunctions"))["Functions"] == []

    run(test)


def test_all_violations_are_named_at_once(run: Run) -> None:
    """The error is ``2 validation errors detected: …; …`` [api CommonErrors: ValidationError]."""

    async def test(aws: Lambda) -> None:
        await refused(
            aws("CreateFunction", **function(Timeout=0, MemorySize=1)), "ValidationException", "2 validation errors"
        )

    run(test)


def test_an_empty_virtual_network_is_no_network(run: Run) -> None:
    """Tools send a VpcConfig with empty lists to mean none [api VpcConfig]."""

    async def test(aws: Lambda) -> None:
        await aws.created(VpcConfig={"SubnetIds": [], "SecurityGroupIds": []})

    run(test)


def test_a_role_that_cannot_be_assumed(run: Run) -> None:
    """It is InvalidParameterValueException, and nothing is created [dg lambda-intro-execution-role]."""

    async def test(aws: Lambda) -> None:
        words = "The role defined for the function cannot be assumed by Lambda."
        aws.role_refusal = Refusal("InvalidParameterValueException", words)
        await refused(aws("CreateFunction", **function()), "InvalidParameterValueException", words)
        aws.role_refusal = None
        await aws.created()

    run(test)


def test_code_from_s3(run: Run) -> None:
    """S3Bucket and S3Key replace ZipFile; the error names a missing object [api FunctionCode]."""

    async def test(aws: Lambda) -> None:
        aws.objects["code", "f.zip"] = zipped()
        created = await aws.created(Code={"S3Bucket": "code", "S3Key": "f.zip"})
        assert created["CodeSize"] == len(zipped())
        missing = function("g", Code={"S3Bucket": "code", "S3Key": "g.zip"})
        await refused(aws("CreateFunction", **missing), "InvalidParameterValueException", "S3 Error Code: NoSuchKey")

    run(test)


def test_a_zip_that_is_too_big_to_be_sent(run: Run) -> None:
    """The limit is 50 MB zipped for direct uploads; S3 allows more [dg gettingstarted-limits]."""

    async def test(aws: Lambda) -> None:
        await refused(
            aws("CreateFunction", **function()),
            "InvalidParameterValueException",
            "Zipped size must be smaller than 100 bytes",
        )
        aws.objects["code", "f.zip"] = zipped()
        await aws.created(Code={"S3Bucket": "code", "S3Key": "f.zip"})

    run(test, zip_direct=100)


def test_code_and_layers_that_are_too_big_together(run: Run) -> None:
    """The limit is 250 MB unzipped, including layers [dg gettingstarted-limits]."""

    async def test(aws: Lambda) -> None:
        big = zipped({"a": "x" * 600})
        await refused(
            aws("PublishLayerVersion", LayerName="l", Content={"ZipFile": zipped({"a": "x" * 1001})}),
            "InvalidParameterValueException",
            "Unzipped size must be smaller than 1000 bytes",
        )
        layer = await aws("PublishLayerVersion", LayerName="l", Content={"ZipFile": big})
        await aws.created("small", Layers=[layer["LayerVersionArn"]])
        both = function(Code={"ZipFile": big}, Layers=[layer["LayerVersionArn"]])
        await refused(
            aws("CreateFunction", **both),
            "InvalidParameterValueException",
            "exceeds the maximum allowed size of 1000 bytes. The actual size is 1200 bytes.",
        )

    run(test, unzipped=1000)


def test_each_function_has_an_access_key_of_its_own(run: Run) -> None:
    """A function's requests are recognised by the credentials that its containers get."""

    async def test(aws: Lambda) -> None:
        await aws.created("f")
        await aws.created("g")
        assert sorted(aws.callers.values()) == ["function:f", "function:g"]

    run(test)


def test_a_body_that_is_not_what_the_model_says(run: Run) -> None:
    """SerializationException, 400, for invalid JSON, a wrong type or invalid base64 [api CommonErrors]."""

    async def test(aws: Lambda) -> None:
        model = aws.model.operation_model("CreateFunction")
        operation = operation_of("lambda", "POST", "/2015-03-31/functions", "", {}, b"")
        bad = [b"{", b"[]", b'{"Timeout": "3"}', b'{"Timeout": true}', b'{"Code": {"ZipFile": "%"}}', b'{"Layers": {}}']
        for body in bad:
            answer = await aws.api.answer(operation, "", {}, body, PLAN)
            with pytest.raises(Refused) as caught:
                conforming(model, answer)
            assert (caught.value.code, caught.value.status) == ("SerializationException", 400)
        answer = await aws.api.answer(operation, "", {}, b'{"New": 1, "Timeout": null}', PLAN)
        with pytest.raises(Refused, match="Member must not be null"):
            conforming(model, answer)

    run(test)


# -- updates -----------------------------------------------------------------------------------------------


def test_an_update_is_in_progress_while_the_old_revision_serves(run: Run) -> None:
    """State stays Active, and calls use the old code and configuration [dg functions-states]."""

    async def test(aws: Lambda) -> None:
        created = await aws.created()
        old = aws.table.find("f").current
        new = zipped({"handler.py": "changed"})
        updated = await aws("UpdateFunctionCode", FunctionName="f", ZipFile=new)
        assert (updated["State"], updated["LastUpdateStatus"]) == ("Active", "InProgress")
        assert updated["CodeSha256"] != created["CodeSha256"]
        assert updated["RevisionId"] != created["RevisionId"]
        assert aws.table.find("f").current is old
        assert (await aws("Invoke", FunctionName="f"))["StatusCode"] == 200
        await aws.transitions.end()
        assert (await aws("GetFunctionConfiguration", FunctionName="f"))["LastUpdateStatus"] == "Successful"
        current = aws.table.find("f").current
        assert current.code.sha256 == updated["CodeSha256"]
        assert current.number > old.number
        assert aws.dispatcher.retired == [("f", current.number)]

    run(test)


def test_a_second_update_meanwhile(run: Run) -> None:
    """It is ResourceConflictException, 409, "An update is in progress for resource: …" [api UpdateFunctionCode]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        await aws("UpdateFunctionConfiguration", FunctionName="f", Timeout=5)
        words = f"The operation cannot be performed at this time. An update is in progress for resource: {ARN}"
        for call in (
            aws("UpdateFunctionCode", FunctionName="f", ZipFile=zipped()),
            aws("UpdateFunctionConfiguration", FunctionName="f", Timeout=6),
            aws("PutFunctionConcurrency", FunctionName="f", ReservedConcurrentExecutions=1),
        ):
            assert (await refused(call, "ResourceConflictException", words)).status == 409
        await aws.transitions.end()
        await aws("UpdateFunctionConfiguration", FunctionName="f", Timeout=6)

    run(test)


def test_two_updates_at_the_same_moment(run: Run) -> None:
    """One is accepted and the other refused, although both saw no update in progress [api UpdateFunctionCode]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        updates = (aws("UpdateFunctionCode", FunctionName="f", ZipFile=zipped()) for _ in range(2))
        answers = await asyncio.gather(*updates, return_exceptions=True)
        assert [answer.code for answer in answers if isinstance(answer, Refused)] == ["ResourceConflictException"]

    run(test)


def test_the_same_code_is_an_update_too(run: Run) -> None:
    """Lambda does not compare the code: it is InProgress, and containers are new [api UpdateFunctionCode]."""

    async def test(aws: Lambda) -> None:
        created = await aws.created()
        updated = await aws("UpdateFunctionCode", FunctionName="f", ZipFile=zipped())
        assert updated["CodeSha256"] == created["CodeSha256"]
        assert updated["LastUpdateStatus"] == "InProgress"

    run(test)


def test_a_dry_run_changes_nothing(run: Run) -> None:
    """DryRun checks the code and returns the usual answer [api UpdateFunctionCode]."""

    async def test(aws: Lambda) -> None:
        created = await aws.created()
        other = zipped({"handler.py": "changed"})
        answer = await aws("UpdateFunctionCode", FunctionName="f", ZipFile=other, DryRun=True)
        assert answer["CodeSha256"] != created["CodeSha256"]
        now = await aws("GetFunctionConfiguration", FunctionName="f")
        assert (now["CodeSha256"], now["LastUpdateStatus"]) == (created["CodeSha256"], "Successful")
        await refused(
            aws("UpdateFunctionCode", FunctionName="f", ZipFile=b"no", DryRun=True), "InvalidParameterValueException"
        )

    run(test)


def test_publish_makes_no_version(run: Run) -> None:
    """Only $LATEST exists, which is a limit of the emulation."""

    async def test(aws: Lambda) -> None:
        assert (await aws.created(Publish=True))["Version"] == "$LATEST"
        versions = (await aws("ListVersionsByFunction", FunctionName="f"))["Versions"]
        assert [version["FunctionArn"] for version in versions] == [f"{ARN}:$LATEST"]

    run(test)


def test_what_an_update_does_not_name_stays(run: Run) -> None:
    """Only the given parameters change; an empty environment clears it [api UpdateFunctionConfiguration]."""

    async def test(aws: Lambda) -> None:
        await aws.created(Timeout=10, MemorySize=256, Environment={"Variables": {"AB": "c"}})
        updated = await aws("UpdateFunctionConfiguration", FunctionName="f", Timeout=20)
        assert (updated["Timeout"], updated["MemorySize"]) == (20, 256)
        assert updated["Environment"] == {"Variables": {"AB": "c"}}
        await aws.transitions.end()
        cleared = await aws("UpdateFunctionConfiguration", FunctionName="f", Environment={"Variables": {}})
        assert "Environment" not in cleared

    run(test)


def test_an_update_of_another_revision(run: Run) -> None:
    """It is PreconditionFailedException, 412, if RevisionId is not the latest [api UpdateFunctionCode]."""

    async def test(aws: Lambda) -> None:
        created = await aws.created()
        stale = {"FunctionName": "f", "Timeout": 5, "RevisionId": created["RevisionId"]}
        error = await refused(aws("UpdateFunctionConfiguration", **stale), "PreconditionFailedException")
        assert error.status == 412
        now = await aws("GetFunctionConfiguration", FunctionName="f")
        await aws("UpdateFunctionConfiguration", **{**stale, "RevisionId": now["RevisionId"]})

    run(test)


def test_an_update_of_what_is_not_there(run: Run) -> None:
    """It is ResourceNotFoundException, 404, with the ARN [api UpdateFunctionConfiguration]."""

    async def test(aws: Lambda) -> None:
        error = await refused(
            aws("UpdateFunctionConfiguration", FunctionName="f", Timeout=5), "ResourceNotFoundException", ARN
        )
        assert (error.status, error.parsed["Type"]) == (404, "User")

    run(test)


def test_an_update_of_a_pending_function(run: Run) -> None:
    """While a function is Pending, operations on it fail [dg functions-states]."""

    async def test(aws: Lambda) -> None:
        await aws("CreateFunction", **function())
        await refused(
            aws("UpdateFunctionCode", FunctionName="f", ZipFile=zipped()), "ResourceConflictException", "Pending"
        )

    run(test)


# -- names, lists, deleting --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["f", ARN, "123456789012:function:f", "123456789012:f", "function:f", f"{ARN}:$LATEST", "f:$LATEST"]
)
def test_names_of_a_function(run: Run, name: str) -> None:
    """Name, ARN and partial ARN are accepted, with and without a version [api GetFunction]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        assert (await aws("GetFunction", FunctionName=name))["Configuration"]["FunctionName"] == "f"
        assert (await aws("Invoke", FunctionName=name))["StatusCode"] == 200

    run(test)


def test_functions_of_elsewhere(run: Run) -> None:
    """Versions, other regions and other accounts do not exist here [api GetFunction]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        for name in ("f:1", ARN.replace("us-west-2", "eu-west-1"), ARN.replace("123456789012", "999999999999"), "g"):
            assert (await refused(aws("GetFunction", FunctionName=name), "ResourceNotFoundException")).status == 404
        await refused(aws("GetFunction", FunctionName="f", Qualifier="7"), "ResourceNotFoundException", f"{ARN}:7")
        await refused(
            aws("GetFunction", FunctionName="f:1", Qualifier="2"), "InvalidParameterValueException", "does not match"
        )

    run(test)


def test_lists_come_in_pages_and_without_states(run: Run) -> None:
    """Pages have at most MaxItems, with a NextMarker, without State and LastUpdateStatus [api ListFunctions]."""

    async def test(aws: Lambda) -> None:
        for name in "abc":
            await aws.created(name)
        first = await aws("ListFunctions", MaxItems=2)
        assert [each["FunctionName"] for each in first["Functions"]] == ["a", "b"]
        assert "State" not in first["Functions"][0]
        rest = await aws("ListFunctions", MaxItems=2, Marker=first["NextMarker"])
        assert [each["FunctionName"] for each in rest["Functions"]] == ["c"]
        assert "NextMarker" not in rest
        await refused(aws("ListFunctions", Marker="x"), "InvalidParameterValueException", "marker")

    run(test)


def test_deleting_a_function(run: Run) -> None:
    """It disappears at once, its containers are stopped, and its name is free [api DeleteFunction]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        await aws("DeleteFunction", FunctionName="f")
        assert aws.dispatcher.retired == [("f", None)]
        await refused(aws("Invoke", FunctionName="f"), "ResourceNotFoundException")
        await refused(aws("DeleteFunction", FunctionName="f"), "ResourceNotFoundException")
        assert "MaximumRetryAttempts" not in await aws.created()

    run(test)


def test_deleting_during_an_update(run: Run) -> None:
    """The update is dropped, and does not affect a new function of the same name."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        await aws("UpdateFunctionConfiguration", FunctionName="f", Timeout=9)
        await aws("DeleteFunction", FunctionName="f")
        await aws("CreateFunction", **function())
        await aws.transitions.end()
        assert (await aws("GetFunctionConfiguration", FunctionName="f"))["Timeout"] == 3

    run(test)


def test_only_the_whole_function_can_be_deleted(run: Run) -> None:
    """$LATEST cannot be deleted on its own [api DeleteFunction]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        await refused(
            aws("DeleteFunction", FunctionName="f", Qualifier="$LATEST"), "InvalidParameterValueException", "$LATEST"
        )

    run(test)


# -- asynchronous configuration, concurrency, account ------------------------------------------------------


def test_event_invoke_configuration(run: Run) -> None:
    """Put replaces, Update changes only what is given, Delete removes [api PutFunctionEventInvokeConfig]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        destination = {"OnFailure": {"Destination": BUCKET}}
        put = await aws(
            "PutFunctionEventInvokeConfig",
            FunctionName="f",
            MaximumRetryAttempts=0,
            MaximumEventAgeInSeconds=60,
            DestinationConfig=destination,
        )
        assert put["FunctionArn"] == f"{ARN}:$LATEST"
        assert put["LastModified"].timestamp() == 1e9
        assert put["DestinationConfig"] == {"OnSuccess": {}, **destination}
        assert aws.table.find("f").event_invoke["DestinationConfig"] == destination
        updated = await aws("UpdateFunctionEventInvokeConfig", FunctionName="f", MaximumRetryAttempts=2)
        assert (updated["MaximumRetryAttempts"], updated["MaximumEventAgeInSeconds"]) == (2, 60)
        listed = await aws("ListFunctionEventInvokeConfigs", FunctionName="f")
        assert listed["FunctionEventInvokeConfigs"] == [updated]
        replaced = await aws("PutFunctionEventInvokeConfig", FunctionName="f", MaximumRetryAttempts=1)
        assert "MaximumEventAgeInSeconds" not in replaced
        await aws("DeleteFunctionEventInvokeConfig", FunctionName="f")
        error = await refused(aws("GetFunctionEventInvokeConfig", FunctionName="f"), "ResourceNotFoundException")
        assert "doesn't have an EventInvokeConfig" in error.message
        await refused(
            aws("UpdateFunctionEventInvokeConfig", FunctionName="f", MaximumRetryAttempts=1),
            "ResourceNotFoundException",
        )

    run(test)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({}, "InvalidParameterValueException"),
        ({"MaximumRetryAttempts": 3}, "ValidationException"),
        ({"MaximumRetryAttempts": -1}, "ValidationException"),
        ({"MaximumEventAgeInSeconds": 59}, "ValidationException"),
        ({"MaximumEventAgeInSeconds": 21601}, "ValidationException"),
        ({"DestinationConfig": {"OnFailure": {"Destination": "somewhere"}}}, "ValidationException"),
        ({"DestinationConfig": {"OnSuccess": {"Destination": BUCKET}}}, "NotImplemented"),
        ({"DestinationConfig": {"OnFailure": {"Destination": ARN}}}, "NotImplemented"),
    ],
)
def test_event_invoke_arguments_that_lambda_refuses(run: Run, arguments: dict[str, Any], code: str) -> None:
    """0 to 2 retries, 60 to 21,600 s and a destination's ARN are valid [api PutFunctionEventInvokeConfig]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        await refused(aws("PutFunctionEventInvokeConfig", FunctionName="f", **arguments), code)

    run(test)


def test_reserved_concurrency(run: Run) -> None:
    """Reserved concurrency reduces the account's pool, of which 100 stay unreserved [dg configuration-concurrency]."""

    async def test(aws: Lambda) -> None:
        await aws.created("f")
        await aws.created("g")
        put = await aws("PutFunctionConcurrency", FunctionName="f", ReservedConcurrentExecutions=800)
        assert put == {"ReservedConcurrentExecutions": 800}
        limit = (await aws("GetAccountSettings"))["AccountLimit"]
        assert (limit["ConcurrentExecutions"], limit["UnreservedConcurrentExecutions"]) == (1000, 200)
        await refused(
            aws("PutFunctionConcurrency", FunctionName="g", ReservedConcurrentExecutions=101),
            "InvalidParameterValueException",
            "below its minimum value of [100]",
        )
        await aws("PutFunctionConcurrency", FunctionName="f", ReservedConcurrentExecutions=900)
        await aws("PutFunctionConcurrency", FunctionName="g", ReservedConcurrentExecutions=0)
        assert aws.table.find("g").reserved_concurrency == 0
        assert await aws("GetFunctionConcurrency", FunctionName="f") == {"ReservedConcurrentExecutions": 900}
        await aws("DeleteFunctionConcurrency", FunctionName="f")
        assert await aws("GetFunctionConcurrency", FunctionName="f") == {}

    run(test)


def test_account_settings(run: Run) -> None:
    """The answer has the account's limits and usage [api GetAccountSettings]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        found = await aws("GetAccountSettings")
        assert found["AccountLimit"]["CodeSizeUnzipped"] == 262144000
        assert found["AccountLimit"]["CodeSizeZipped"] == 52428800
        assert found["AccountUsage"] == {"TotalCodeSize": len(zipped()), "FunctionCount": 1}

    run(test)


# -- layers, tags, policy ----------------------------------------------------------------------------------


def test_versions_of_a_layer(run: Run) -> None:
    """Each publication gets the next number, and numbers are never reused [api PublishLayerVersion]."""

    async def test(aws: Lambda) -> None:
        content = {"ZipFile": zipped({"python/m.py": ""})}
        first = await aws("PublishLayerVersion", LayerName="l", Content=content, CompatibleRuntimes=["python3.11"])
        assert first["LayerVersionArn"] == f"{first['LayerArn']}:1"
        assert first["Content"]["CodeSize"] == len(content["ZipFile"])
        second = await aws("PublishLayerVersion", LayerName=first["LayerArn"], Content=content)
        listed = await aws("ListLayerVersions", LayerName="l")
        assert [version["Version"] for version in listed["LayerVersions"]] == [2, 1]
        suiting = await aws("ListLayers", CompatibleRuntime="python3.11")
        assert suiting["Layers"][0]["LatestMatchingVersion"]["Version"] == 1
        assert await aws("GetLayerVersion", LayerName="l", VersionNumber=2) == second
        assert await aws("GetLayerVersionByArn", Arn=second["LayerVersionArn"]) == second
        await aws("DeleteLayerVersion", LayerName="l", VersionNumber=2)
        await aws("DeleteLayerVersion", LayerName="l", VersionNumber=2)
        await refused(aws("GetLayerVersion", LayerName="l", VersionNumber=2), "ResourceNotFoundException")
        assert (await aws("PublishLayerVersion", LayerName="l", Content=content))["Version"] == 3

    run(test)


def test_a_function_keeps_a_layer_that_is_deleted(run: Run) -> None:
    """Deleting a version does not affect functions that have it [api DeleteLayerVersion]."""

    async def test(aws: Lambda) -> None:
        content = {"ZipFile": zipped({"python/m.py": "x = 1"})}
        layer = await aws("PublishLayerVersion", LayerName="l", Content=content)
        created = await aws.created(Layers=[layer["LayerVersionArn"]])
        assert created["Layers"] == [{"Arn": layer["LayerVersionArn"], "CodeSize": len(content["ZipFile"])}]
        await aws("DeleteLayerVersion", LayerName="l", VersionNumber=1)
        updated = await aws("UpdateFunctionConfiguration", FunctionName="f", Timeout=9)
        assert updated["Layers"] == created["Layers"]
        await aws.transitions.end()
        (code,) = aws.table.find("f").current.layers
        assert (code.directory / "python" / "m.py").read_text() == "x = 1"
        cleared = await aws("UpdateFunctionConfiguration", FunctionName="f", Layers=[])
        assert "Layers" not in cleared

    run(test)


def test_two_versions_of_one_layer(run: Run) -> None:
    """A function can have only one version of a layer [api CreateFunction: Layers]."""

    async def test(aws: Lambda) -> None:
        content = {"ZipFile": zipped()}
        arns = [(await aws("PublishLayerVersion", LayerName="l", Content=content))["LayerVersionArn"] for _ in range(2)]
        await refused(
            aws("CreateFunction", **function(Layers=arns)), "InvalidParameterValueException", "Two different versions"
        )

    run(test)


def test_tags(run: Run) -> None:
    """Tags are added, replaced and removed by ARN [api TagResource]."""

    async def test(aws: Lambda) -> None:
        await aws.created(Tags={"a": "1"})
        await aws("TagResource", Resource=ARN, Tags={"b": "2", "c": "3"})
        await aws("UntagResource", Resource=ARN, TagKeys=["a", "c", "none"])
        assert (await aws("ListTags", Resource=ARN))["Tags"] == {"b": "2"}

    run(test)


def test_policy(run: Run) -> None:
    """Statements can be added once, shown as JSON, and removed [api AddPermission]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        await refused(aws("GetPolicy", FunctionName="f"), "ResourceNotFoundException")
        permission = {
            "FunctionName": "f",
            "StatementId": "s3",
            "Action": "lambda:InvokeFunction",
            "Principal": "s3.amazonaws.com",
            "SourceArn": BUCKET,
        }
        statement = json.loads((await aws("AddPermission", **permission))["Statement"])
        assert statement["Principal"] == {"Service": "s3.amazonaws.com"}
        assert statement["Condition"] == {"ArnLike": {"AWS:SourceArn": BUCKET}}
        await refused(aws("AddPermission", **permission), "ResourceConflictException", "s3")
        assert json.loads((await aws("GetPolicy", FunctionName="f"))["Policy"])["Statement"] == [statement]
        await aws("RemovePermission", FunctionName="f", StatementId="s3")
        await refused(aws("RemovePermission", FunctionName="f", StatementId="s3"), "ResourceNotFoundException")

    run(test)


# -- Invoke ------------------------------------------------------------------------------------------------


def test_an_event_is_accepted(run: Run) -> None:
    """The answer is 202 without a payload, and the request's id is the event's [api Invoke]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        answer = await aws.raw("Invoke", FunctionName="f", InvocationType="Event", Payload=b'{"a": 1}')
        assert (answer.status, answer.body) == (202, b"")
        assert conforming(aws.model.operation_model("Invoke"), answer)["StatusCode"] == 202
        assert "X-Amz-Executed-Version" not in answer.headers
        function, payload, request_id = aws.dispatcher.accepted[0]
        assert (function.name, payload, request_id) == ("f", b'{"a": 1}', answer.headers["x-amzn-RequestId"])

    run(test)


def test_a_synchronous_call(run: Run) -> None:
    """The answer is 200 with the payload and the version; the log comes only on request [api Invoke]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        answer = await aws("Invoke", FunctionName="f", Payload=b'{"a": 1}')
        assert answer == {"StatusCode": 200, "ExecutedVersion": "$LATEST", "Payload": b'{"a": 1}'}

    run(test)


def test_a_call_without_a_payload(run: Run) -> None:
    """The function gets an empty object."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        assert (await aws("Invoke", FunctionName="f"))["Payload"] == b"{}"

    run(test)


def test_a_function_error(run: Run) -> None:
    """The status is 200, with FunctionError and the error as payload [api Invoke]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        aws.dispatcher.reply |= {"error": "Unhandled", "payload": b'{"errorType": "ValueError"}'}
        answer = await aws("Invoke", FunctionName="f", Payload=b"1")
        assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
        assert json.loads(answer["Payload"]) == {"errorType": "ValueError"}

    run(test)


def test_the_tail_of_the_log(run: Run) -> None:
    """LogType Tail returns the last 4 KB of a synchronous call's log as base64 [api Invoke]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        aws.dispatcher.reply["log_tail"] = b"x" * 5000 + b"END"
        answer = await aws("Invoke", FunctionName="f", LogType="Tail")
        assert base64.b64decode(answer["LogResult"]) == b"x" * 4093 + b"END"
        assert "LogResult" not in await aws("Invoke", FunctionName="f", LogType="Tail", InvocationType="Event")

    run(test)


def test_a_dry_run_of_a_call(run: Run) -> None:
    """The answer is 204, and nothing runs [api Invoke]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        aws.dispatcher.refusal = Refusal("ServiceException", "it ran")
        assert (await aws("Invoke", FunctionName="f", InvocationType="DryRun"))["StatusCode"] == 204

    run(test)


def test_calls_of_a_pending_function(run: Run) -> None:
    """ResourceConflictException, 409, for every type of call [dg functions-states]."""

    async def test(aws: Lambda) -> None:
        await aws("CreateFunction", **function())
        for kind in ("Event", "RequestResponse"):
            error = await refused(
                aws("Invoke", FunctionName="f", InvocationType=kind), "ResourceConflictException", "Pending"
            )
            assert error.status == 409
        assert aws.dispatcher.accepted == []

    run(test)


@pytest.mark.parametrize(("kind", "most"), [("Event", 2**20), ("RequestResponse", 6 * 2**20)])
def test_payloads_that_are_too_large(run: Run, kind: str, most: int) -> None:
    """1 MB asynchronously, 6 MB synchronously [api Invoke], of 1,024 KB each [dg gettingstarted-limits]; else 413."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        fits = b'"' + b"x" * (most - 2) + b'"'
        await aws("Invoke", FunctionName="f", InvocationType=kind, Payload=fits)
        error = await refused(
            aws("Invoke", FunctionName="f", InvocationType=kind, Payload=fits + b" "),
            "RequestTooLargeException",
            f"{most + 1} byte payload is too large for the {kind} invocation type (limit {most} bytes)",
        )
        assert error.status == 413

    run(test)


@pytest.mark.parametrize("payload", [b"{", b"\xff", b"NaN", b"{} {}"])
def test_payloads_that_are_not_json(run: Run, payload: bytes) -> None:
    """The answer is 400 InvalidRequestContentException, for events too [api Invoke]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        for kind in ("Event", "RequestResponse"):
            call = aws("Invoke", FunctionName="f", InvocationType=kind, Payload=payload)
            error = await refused(call, "InvalidRequestContentException", "Could not parse request body into json")
            assert error.status == 400

    run(test)


def test_calls_of_what_is_not_there(run: Run) -> None:
    """The answer is 404 ResourceNotFoundException for a missing function or version [api Invoke]."""

    async def test(aws: Lambda) -> None:
        await refused(aws("Invoke", FunctionName="f"), "ResourceNotFoundException", ARN)
        await aws.created()
        await refused(aws("Invoke", FunctionName="f", Qualifier="1"), "ResourceNotFoundException", f"{ARN}:1")
        assert (await aws("Invoke", FunctionName="f", Qualifier="$LATEST"))["StatusCode"] == 200

    run(test)


@pytest.mark.parametrize("arguments", [{"InvocationType": "Later"}, {"LogType": "Head"}])
def test_calls_of_an_unknown_kind(run: Run, arguments: dict[str, str]) -> None:
    """ValidationException lists the valid values [api Invoke]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        await refused(aws("Invoke", FunctionName="f", **arguments), "ValidationException", "enum value set")

    run(test)


def test_a_throttled_call(run: Run) -> None:
    """The answer is 429 with Reason and Retry-After [api Invoke: TooManyRequestsException]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        reason = "ReservedFunctionConcurrentInvocationLimitExceeded"
        aws.dispatcher.refusal = Refusal("TooManyRequestsException", "Rate Exceeded.", reason)
        error = await refused(aws("Invoke", FunctionName="f"), "TooManyRequestsException", "Rate Exceeded.")
        assert (error.status, error.parsed["Reason"], error.parsed["Type"]) == (429, reason, "User")
        assert (await aws.raw("Invoke", FunctionName="f")).headers["Retry-After"] == "1"

    run(test)


def test_headers_are_found_whatever_their_case(run: Run) -> None:
    """HTTP headers are case-insensitive (RFC 9110, 5.1)."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        operation = operation_of("lambda", "POST", "/2015-03-31/functions/f/invocations", "", {}, b"")
        answer = await aws.api.answer(operation, "", {"x-amz-INVOCATION-type": "Event"}, b"", PLAN)
        assert answer.status == 202

    run(test)


# -- the rest ----------------------------------------------------------------------------------------------


def test_every_operation_there_is_was_asked_for() -> None:
    """Every answer is checked against the model, because no operation can be added without a test."""
    model = service_model("lambda")
    emulated = {name for name in model.operation_names if hasattr(LambdaApi, xform_name(name))} | {"Invoke"}
    assert len(emulated) >= 30
    assert emulated <= set(re.findall(r'aws(?:\.raw)?\(\s*"(\w+)"', Path(__file__).read_text("utf-8")))


def test_an_answer_that_does_not_conform_is_noticed(run: Run) -> None:
    """Missing, unknown, malformed and out-of-range values are found, on which these tests rely."""

    async def test(aws: Lambda) -> None:
        shape = aws.model.operation_model("CreateFunction").output_shape
        bad = {
            "Runtime": "python1",
            "Role": "x",
            "Timeout": 0,
            "New": 1,
            "Layers": [{"Arn": "x"}],
            "Description": "x" * 300,
        }
        found = list(misfits(shape, bad, ""))
        assert [text.split()[0].rstrip(":") for text in found] == [
            ".Runtime",
            ".Role",
            ".Timeout",
            ".New",
            ".Layers[].Arn",
            ".Description",
        ]
        assert list(misfits(aws.model.shape_for("TagResourceRequest"), {}, "")) == [
            ".Resource is missing",
            ".Tags is missing",
        ]

    run(test)


def test_operations_that_are_not_emulated(run: Run) -> None:
    """The answer is 501 NotImplemented, which names the operation."""

    async def test(aws: Lambda) -> None:
        error = await refused(aws("PublishVersion", FunctionName="f"), "NotImplemented", "lambda:PublishVersion")
        assert error.status == 501

    run(test)


def test_requests_that_are_no_operation(run: Run) -> None:
    """The answer is 404 UnknownOperationException [api CommonErrors]."""

    async def test(aws: Lambda) -> None:
        operation = operation_of("lambda", "GET", "/nowhere", "", {}, b"")
        answer = await aws.api.answer(operation, "", {}, b"", PLAN)
        assert (answer.status, answer.headers["x-amzn-ErrorType"]) == (404, "UnknownOperationException")

    run(test)


def test_an_error_of_the_service_says_so(run: Run) -> None:
    """500 ServiceException has Type Service, and ``Message`` with a capital, as in the model [api Invoke]."""

    async def test(aws: Lambda) -> None:
        await aws.created()
        aws.dispatcher.refusal = Refusal("ServiceException", "broken")
        error = await refused(aws("Invoke", FunctionName="f"), "ServiceException", "broken")
        assert error.parsed == {"Type": "Service", "Message": "broken"}

    run(test)
