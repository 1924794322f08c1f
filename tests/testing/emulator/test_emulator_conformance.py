"""Every rule of Lambda that the emulator follows, with AWS's own words as its source and the test that shows it.

A rule is a row of ``TABLE``. Its test has the citation in its docstring: ``[dg <page>]`` is
docs.aws.amazon.com/lambda/latest/dg/<page>.html, ``[api <name>]`` …/lambda/latest/api/API_<name>.html,
``[pricing]`` aws.amazon.com/lambda/pricing, ``[blog <page>]`` aws.amazon.com/blogs/compute/<page>,
``[iam <page>]`` docs.aws.amazon.com/IAM/latest/UserGuide/<page>.html, ``[image <file>]``
github.com/aws/aws-lambda-base-images.
"""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from pywren.testing.emulator._operations import service_model

HERE = Path(__file__).parent

TABLE = """
Pending, then Active | dg functions-states | lambda_api: a_new_function_is_pending_then_active
Pending: no calls | dg functions-states | lambda_api: calls_of_a_pending_function
Pending: no updates | dg functions-states | lambda_api: an_update_of_a_pending_function
LastUpdateStatus | dg functions-states | lambda_api: an_update_is_in_progress_while_the_old_revision_serves
conflict of updates | api UpdateFunctionCode | lambda_api: a_second_update_meanwhile
conflict of names | api CreateFunction | lambda_api: a_name_that_is_taken
role not yet assumable | iam troubleshoot_general | services: a_role_that_was_just_made
role never assumable | dg lambda-intro-execution-role | services: a_role_that_does_not_trust_lambda
layers: versions | api PublishLayerVersion | lambda_api: versions_of_a_layer
layers: sizes | dg gettingstarted-limits | lambda_api: code_and_layers_that_are_too_big_together
layers: merged | dg adding-layers | container: layers_are_on_the_path_the_last_one_first
event-invoke config | api PutFunctionEventInvokeConfig | lambda_api: event_invoke_configuration
reserved concurrency: kept | dg configuration-concurrency | lambda_api: reserved_concurrency
reserved concurrency: held | dg configuration-concurrency | dispatch: reserved_concurrency
the deployed zip runs | api FunctionCode | services: code_in_s3
a fresh process a container | dg lambda-concurrency | container: each_container_is_a_fresh_process_of_the_runtime_client
the official runtime client | dg runtimes-api | container: each_container_is_a_fresh_process_of_the_runtime_client
scrubbed environment | dg configuration-envvars | container: the_environment_is_lambdas_and_nothing_of_the_users
own /tmp | dg lambda-runtime-environment | container: temporary_files_are_kept_in_a_container_and_not_shared
size of /tmp | api CreateFunction | sandbox: temporary_storage_is_as_large_as_the_function_asked_for
task root | dg configuration-envvars | sandbox: the_task_root_is_lambdas_and_read_only
cwd | image Dockerfile.python3.11: WORKDIR | sandbox: the_task_root_is_lambdas_and_read_only
warm reuse | dg lambda-runtime-environment | container: a_warm_container_keeps_its_process_and_its_modules
warm before cold | dg lambda-concurrency | dispatch: the_container_used_last_is_used_again
frozen between | dg lambda-runtime-environment | container: between_calls_everything_stands_still
one request at a time | dg lambda-concurrency | dispatch: a_container_has_one_request_at_a_time
Timeout kills | dg configuration-timeout | container: the_time_out_kills_everything_that_the_call_started
init: 10 s | dg lambda-runtime-environment | container: init_that_takes_too_long_is_done_again_at_the_calls_cost
MemorySize bounds | dg configuration-memory | container: a_handler_that_uses_too_much_memory_is_killed
202 | api Invoke | lambda_api: an_event_is_accepted
queue | dg invocation-async-error-handling | dispatch: events_over_the_accounts_concurrency_wait_in_the_queue
retries | dg invocation-async-error-handling | dispatch: a_failed_event_runs_again
waits of retries | dg invocation-async-error-handling | dispatch: retries_wait_a_minute_and_then_two
maximum age | dg invocation-async-configuring | dispatch: an_event_that_is_too_old_is_given_up
maximum age by default | dg invocation-async-error-handling | dispatch: an_event_is_kept_for_six_hours
on-failure destination: S3 | dg invocation-async-retain-records | services: a_record_in_s3
on-failure destination: SQS | dg invocation-async-retain-records | services: a_record_in_a_queue
zero concurrency | dg invocation-async-retain-records | dispatch: reserved_concurrency_of_zero_stops_a_function
payload: 1 MB, 6 MB | api Invoke | lambda_api: payloads_that_are_too_large
payload of an answer: 6 MB | dg gettingstarted-limits | container: a_response_beyond_the_limit_is_refused
concurrency limit | api Invoke | dispatch: a_synchronous_call_over_the_accounts_concurrency_is_refused
scaling rate | dg scaling-behavior | dispatch: the_scaling_rate_is_lambdas
scaling rate of a function | dg scaling-behavior | dispatch: the_scaling_rate
429 | api Invoke: TooManyRequestsException | lambda_api: a_throttled_call
START, END, REPORT | dg python-logging | container: the_log_of_a_call_is_written_as_lambda_writes_it
output | dg python-logging | container: output_of_any_kind_becomes_lines
in CloudWatch's logs | dg python-logging | services: each_container_has_a_stream_in_the_functions_group
Init Duration | dg python-logging | container: the_log_of_a_call_is_written_as_lambda_writes_it
billed milliseconds | pricing | container: what_is_billed
init is billed | blog aws-lambda-standardizes-billing-for-init-phase | container: what_is_billed
"""
"""The rule, its source at AWS, and the test: the part after ``test_`` in ``test_emulator_<module>.py``."""

RULES = [tuple(part.strip() for part in line.split("|")) for line in TABLE.strip().splitlines()]


@functools.cache
def docstrings(name: str) -> dict[str, str]:
    """Return the tests of a module in this folder, and their docstrings as one line each."""
    tree = ast.parse((HERE / f"test_emulator_{name}.py").read_text("utf-8"))
    tests = [each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name.startswith("test_")]
    return {each.name.removeprefix("test_"): " ".join((ast.get_docstring(each) or "").split()) for each in tests}


@pytest.mark.parametrize(("rule", "citation", "test"), RULES, ids=[rule for rule, _, _ in RULES])
def test_a_rule_is_cited_by_the_test_that_shows_it(rule: str, citation: str, test: str) -> None:
    """Every rule has a test, and the test cites its source."""
    module, _, name = test.partition(": ")
    assert name in docstrings(module), f"{rule}: there is no such test: {test}"
    assert f"[{citation}]" in docstrings(module)[name], f"{rule}: {test} does not cite {citation}"


def test_rules_have_names_of_their_own() -> None:
    """Each rule has only one row."""
    assert len({rule for rule, _, _ in RULES}) == len(RULES)


def test_citations_of_the_api_name_what_there_is() -> None:
    """They are operations or shapes in botocore's model, whose names are those of the pages."""
    model = service_model("lambda")
    known = {*model.operation_names, *model.shape_names, "CommonErrors"}
    files = [path.stem.removeprefix("test_emulator_") for path in HERE.glob("test_emulator_*.py")]
    texts = [text for name in files for text in docstrings(name).values()]
    cited = {name for text in texts for name in re.findall(r"\bapi (\w+)(?=[\]:,])", text)}
    assert len(cited) > 15
    assert not cited - known
