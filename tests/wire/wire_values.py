"""Values that the messages between client and worker may have, and what anyone may have written in their place."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import strategies as st

from pywren.exceptions import WORKER_ERRORS
from pywren.wire.beacon import Beacon
from pywren.wire.call import CALL_FIELDS, Call
from pywren.wire.cause import Cause
from pywren.wire.failure import Failure
from pywren.wire.function import StagedFunction
from pywren.wire.outcome import Outcome
from pywren.wire.references import Reference
from pywren.wire.status import Status

GOLDEN = Path(__file__).parents[1] / "golden"
SECRET = bytes(range(32))
CALLSET = "6f3cf9f0-3c5e-4c3e-9f2b-2f8a0d9c1e77"


def golden(name: str) -> bytes:
    """Return an object that some release has written."""
    return (GOLDEN / name).read_bytes()


texts = st.text(max_size=20)
json_scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
json_values = st.recursive(
    json_scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
json_bytes = json_values.map(lambda value: json.dumps(value).encode())
hostile_bytes = st.one_of(
    st.binary(max_size=200),
    json_bytes,
    st.tuples(json_bytes, st.binary(max_size=30)).map(b"\n".join),
)
small_json = st.dictionaries(texts.filter(lambda name: name not in CALL_FIELDS), st.integers() | texts, max_size=3)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
byte_ranges = st.tuples(st.integers(0, 9), st.integers(9, 99))
sizes = st.none() | st.integers(0, 10**12)

references = st.lists(st.builds(Reference, texts, digests, texts, texts, sizes), max_size=2).map(tuple)
calls = st.builds(
    Call,
    storage_config=small_json,
    callset_id=texts,
    call_id=texts,
    func_key=texts,
    data_key=texts,
    output_key=texts,
    status_key=texts,
    cancel_key=texts,
    job_max_runtime=st.integers(0, 900) | st.floats(0, 900),
    data_byte_range=st.none() | byte_ranges,
    use_cached_runtime=st.booleans(),
    runtime=st.none() | small_json,
    runtime_url=st.none() | texts,
    pywren_version=texts,
    extra_env=st.none() | st.dictionaries(texts, texts, max_size=2),
    host_submit_time=st.floats(0, 2e9),
    python_version=st.none() | texts,
    attempt=st.integers(1, 5),
    attempt_key=st.none() | st.binary(max_size=32),
    func_sha256=st.none() | digests,
    data_sha256=st.none() | digests,
    runtime_sha256=st.none() | digests,
    data_inline=st.none() | st.binary(max_size=50),
    references=references,
    references_sha256=st.none() | digests,
    func_size=sizes,
    data_size=sizes,
    runtime_size=sizes,
    references_size=sizes,
    retryable=st.booleans(),
    retry_exceptions=st.booleans(),
    beacon=st.booleans(),
    client_process=st.none() | texts,
    format=st.integers(1, 5),
    extra=small_json,
)
path_parts = st.text("abcé_. -", min_size=1, max_size=8).filter(lambda part: part not in (".", ".."))
paths = st.lists(path_parts, min_size=1, max_size=3).map("/".join)
staged_functions = st.builds(
    StagedFunction, pickle=st.binary(max_size=50), modules=st.dictionaries(paths, st.binary(max_size=30), max_size=3)
)
values = st.builds(Outcome, success=st.just(True), body=st.binary(max_size=60))
errors = st.builds(
    Outcome,
    success=st.just(False),
    body=st.binary(max_size=60),
    exception=st.none() | texts,
    exception_args=st.none() | texts,
    exception_traceback=st.none() | texts,
)
failures = st.builds(
    Failure,
    kind=st.sampled_from(sorted(WORKER_ERRORS)),
    message=texts,
    details=st.lists(st.none() | st.integers() | texts, max_size=2).map(tuple),
    cause=st.none() | st.sampled_from(Cause),
)
info = st.dictionaries(st.sampled_from(["start_time", "stdout", "retcode", "server_info"]), st.integers() | texts)
ended = st.one_of(
    st.builds(lambda failure: {"failure": failure}, failures),
    st.builds(lambda outcome: {"outcome": outcome}, st.binary(max_size=60)),
    st.builds(
        lambda key, digest, size: {"output_key": key, "output_sha256": digest, "output_size": size},
        texts,
        digests,
        st.integers(0, 9),
    ),
)
beacons = st.builds(
    Beacon,
    callset_id=texts,
    call_id=texts,
    attempt=st.integers(1, 99),
    started_at=st.floats(0, 2e9),
    renewed=st.integers(0, 9999),
    request_id=texts,
    log_group=texts,
    log_stream=texts,
    instance=texts,
)
statuses = st.builds(
    lambda callset_id, call_id, attempt, info, end: Status(callset_id, call_id, attempt, info=info, **end),
    texts,
    texts,
    st.integers(1, 5),
    info,
    ended,
)
