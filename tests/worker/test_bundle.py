"""The bundle: the files of a worker and the zip that is deployed."""

import io
import json
import os
import subprocess
import sys
import zipfile

import cloudpickle
import pytest

from pywren.exceptions import DeploymentError
from pywren.storage import Storage
from pywren.version import __version__
from pywren.wire.call import Call
from pywren.wire.digests import sha256
from pywren.wire.function import StagedFunction
from pywren.wire.keys import CallsetKeys
from pywren.wire.outcome import Outcome
from pywren.wire.status import Status
from pywren.worker import bundle

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
import {module}
third_party = {{name.partition(".")[0] for name in set(sys.modules) - before}} - set(sys.stdlib_module_names)
print(sorted(third_party), {module}.__file__.startswith(sys.argv[1]))
"""


@pytest.fixture
def archive(tmp_path):
    """The zip of the worker, as a file."""
    path = tmp_path / "worker.zip"
    path.write_bytes(bundle.build_zip())
    return path


def run_in_empty_directory(tmp_path, archive, program, *arguments):
    """Run a program with nothing but the standard library and the zip to import from."""
    empty = tmp_path / "empty"
    empty.mkdir()
    return subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", program, str(archive), *map(str, arguments)],
        cwd=empty,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_same_files_give_the_same_bytes():
    """Building twice gives the same zip and so the same hash."""
    first, second = bundle.build_zip(), bundle.build_zip()
    assert first == second
    assert bundle.code_sha256(first) == bundle.code_sha256(second)


def test_the_order_of_the_files_does_not_count():
    """The zip depends on names and contents only."""
    assert bundle.build_zip({"a.py": b"1", "b.py": b"2"}) == bundle.build_zip({"b.py": b"2", "a.py": b"1"})


def test_a_changed_file_changes_the_hash():
    """A worker that differs has another hash."""
    assert bundle.code_sha256(bundle.build_zip({"a.py": b"1"})) != bundle.code_sha256(bundle.build_zip({"a.py": b"2"}))


def test_entries_have_fixed_times_and_modes():
    """Times and modes do not depend on the machine that builds."""
    with zipfile.ZipFile(io.BytesIO(bundle.build_zip())) as archive:
        entries = archive.infolist()
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.external_attr >> 16 for entry in entries} == {0o100644}
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)


def test_the_bundle_is_a_real_package_with_cloudpickle_and_tblib():
    """The whole of pywren is in it, the pickling libraries too, and no compiled leftovers."""
    files = bundle.worker_files()
    assert {"pywren/__init__.py", "pywren/worker/handler.py", "cloudpickle/__init__.py", "tblib/__init__.py"} <= set(
        files
    )
    assert not [path for path in files if "__pycache__" in path or path.endswith(".pyc")]


def test_a_missing_package_is_named():
    """A package that is not installed gives an error that says how to install it."""
    with pytest.raises(DeploymentError, match="pip install nosuchpackage"):
        bundle.package_directory("nosuchpackage")


@pytest.mark.parametrize("module", ["pywren", "pywren.wrenhandler", "pywren.worker.handler"])
def test_the_handler_imports_from_the_zip_alone(tmp_path, archive, module):
    """With only the zip to import from, the handler loads, and loads no third-party module."""
    done = run_in_empty_directory(tmp_path, archive, PROGRAM.format(module=module))
    assert done.stderr == ""
    assert done.stdout == "['pywren'] True\n"


def test_the_pickling_libraries_import_from_the_zip(tmp_path, archive):
    """What the child needs is in the zip too."""
    program = "import sys; sys.path.insert(0, sys.argv[1]); import cloudpickle, tblib.pickling_support; print('ok')"
    done = run_in_empty_directory(tmp_path, archive, program)
    assert (done.stdout, done.stderr) == ("ok\n", "")


CALL = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
from pywren.wrenhandler import generic_handler
status = generic_handler(json.loads(pathlib.Path(sys.argv[2]).read_text()), None)
print(status["exception"], status.get("failure"))
"""


def test_an_unzipped_bundle_runs_a_call_with_nothing_else(tmp_path):
    """On Lambda there is the bundle and nothing else of ours: handler, fork server and child run from it."""
    zipfile.ZipFile(io.BytesIO(bundle.build_zip())).extractall(tmp_path / "task")
    storage = Storage(
        {"storage_backend": "localhost", "storage_prefix": "", "backend_config": {"root": str(tmp_path / "store")}}
    )
    keys = CallsetKeys("", "callset")
    call = keys.call("00000")
    staged = StagedFunction(cloudpickle.dumps(lambda x: x + 1)).encode()
    storage.put(keys.func, staged)
    payload = Call(
        storage_config=storage.storage_config,
        callset_id="callset",
        call_id="00000",
        func_key=keys.func,
        data_key=call.data,
        output_key=call.output,
        status_key=call.status,
        cancel_key=call.cancel,
        job_max_runtime=60,
        pywren_version=__version__,
        func_sha256=sha256(staged),
        data_inline=cloudpickle.dumps(41),
    )
    path = tmp_path / "payload.json"
    path.write_text(json.dumps(payload.encode()))
    done = run_in_empty_directory(tmp_path, tmp_path / "task", CALL, path)
    assert (done.stdout, done.stderr) == ("None None\n", "")
    status = Status.decode(storage.read_status("callset", "00000"))
    assert cloudpickle.loads(Outcome.decode(status.outcome).body) == 42
