"""The bundle: a worker's files, and the zip that is deployed."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile

import cloudpickle
import pytest

import pywren
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
    """Return the worker's zip as a file."""
    path = tmp_path / "worker.zip"
    path.write_bytes(bundle.build_zip())
    return path


def run_in_empty_directory(tmp_path, archive, program, *arguments):
    """Run a program that can import only the standard library and the zip."""
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
    """Building twice gives the same zip and thus the same hash."""
    first, second = bundle.build_zip(), bundle.build_zip()
    assert first == second
    assert bundle.code_sha256(first) == bundle.code_sha256(second)


def test_the_order_of_the_files_does_not_count():
    """The zip depends only on names and contents."""
    assert bundle.build_zip({"a.py": b"1", "b.py": b"2"}) == bundle.build_zip({"b.py": b"2", "a.py": b"1"})


def test_a_changed_file_changes_the_hash():
    """A different worker has a different hash."""
    assert bundle.code_sha256(bundle.build_zip({"a.py": b"1"})) != bundle.code_sha256(bundle.build_zip({"a.py": b"2"}))


def test_entries_have_fixed_times_and_modes():
    """Times and modes do not depend on the building machine."""
    with zipfile.ZipFile(io.BytesIO(bundle.build_zip())) as archive:
        entries = archive.infolist()
    assert {entry.date_time for entry in entries} == {(1980, 1, 1, 0, 0, 0)}
    assert {entry.external_attr >> 16 for entry in entries} == {0o100644}
    assert [entry.filename for entry in entries] == sorted(entry.filename for entry in entries)


def test_the_bundle_is_a_real_package_with_cloudpickle_and_tblib():
    """The bundle has pywren and the pickling libraries, and no compiled files."""
    files = bundle.worker_files()
    assert {"pywren/__init__.py", "pywren/worker/handler.py", "cloudpickle/__init__.py", "tblib/__init__.py"} <= set(
        files
    )
    assert not [path for path in files if "__pycache__" in path or path.endswith(".pyc")]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Return a copy of pywren's files that a test may change, used instead of the installed ones."""
    copy = tmp_path / "pywren"
    shutil.copytree(pywren.SOURCE_DIR, copy, ignore=shutil.ignore_patterns("__pycache__"))
    real = bundle.package_directory
    monkeypatch.setattr(bundle, "package_directory", lambda name: copy if name == "pywren" else real(name))
    return copy


@pytest.mark.parametrize("folder", ["testing", "testing/emulator", "scripts"])
def test_a_change_of_what_only_clients_run_changes_no_worker(installed, folder):
    """Editing the emulator, the mock or a command does not change the deployed function."""
    before = bundle.code_sha256(bundle.build_zip())
    (installed / folder / "__init__.py").write_text("CHANGED = True\n")
    (installed / folder / "added.py").write_text("ADDED = True\n")
    assert bundle.code_sha256(bundle.build_zip()) == before


@pytest.mark.parametrize("folder", ["worker", "cloud", "client"])
def test_a_change_of_anything_else_changes_the_worker(installed, folder):
    """A worker has the client too, because functions may start maps."""
    before = bundle.code_sha256(bundle.build_zip())
    (installed / folder / "added.py").write_text("ADDED = True\n")
    assert bundle.code_sha256(bundle.build_zip()) != before


def test_nothing_in_the_bundle_imports_what_is_left_out():
    """No module in the bundle needs the commands or the emulated AWS, not even inside a function."""
    left_out = re.compile(r"^\s*(from|import) pywren\.?\s*(import )?(scripts|testing)\b", re.MULTILINE)
    for_types = re.compile(r"^if TYPE_CHECKING:\n( +.*\n)+", re.MULTILINE)
    files = bundle.worker_files()
    kept = sorted(path for path in files if path.startswith(("pywren/testing/", "pywren/scripts/")))
    assert kept == ["pywren/scripts/__init__.py", "pywren/testing/__init__.py"]
    assert not [path for path, data in files.items() if left_out.search(for_types.sub("", data.decode()))]


MISSING = """
import inspect, sys
sys.path.insert(0, sys.argv[1])
import pywren
try:
    import pywren.testing
except ImportError as error:
    print(error)
try:
    from pywren.testing.emulator import emulate
except ImportError as error:
    print(error)
try:
    pywren.testing
except AttributeError as error:
    print(error)
print(hasattr(pywren, "testing"), len(inspect.getmembers(pywren)) > 20)
"""


def test_what_is_left_out_is_missed_in_the_ordinary_way(tmp_path, archive):
    """On a worker ``pywren.testing`` is an ImportError or an AttributeError; listing members works."""
    done = run_in_empty_directory(tmp_path, archive, MISSING)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        *["pywren.testing is not on workers: import it inside the functions that need it"] * 3,
        "False True",
    ]


def test_a_missing_package_is_named():
    """The error for a missing package says how to install it."""
    with pytest.raises(DeploymentError, match="pip install nosuchpackage"):
        bundle.package_directory("nosuchpackage")


@pytest.mark.parametrize("module", ["pywren", "pywren.wrenhandler", "pywren.worker.handler"])
def test_the_handler_imports_from_the_zip_alone(tmp_path, archive, module):
    """The handler can be imported from the zip alone, and loads no third-party module."""
    done = run_in_empty_directory(tmp_path, archive, PROGRAM.format(module=module))
    assert done.stderr == ""
    assert done.stdout == "['pywren'] True\n"


def test_the_pickling_libraries_import_from_the_zip(tmp_path, archive):
    """The zip contains what the child needs."""
    program = "import sys; sys.path.insert(0, sys.argv[1]); import cloudpickle, tblib.pickling_support; print('ok')"
    done = run_in_empty_directory(tmp_path, archive, program)
    assert (done.stdout, done.stderr) == ("ok\n", "")


def by_value(function):
    """Pickle a function of this module for a worker that does not have the module."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    try:
        return cloudpickle.dumps(function)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


CALL = """
import json, pathlib, sys
sys.path.insert(0, sys.argv[1])
from pywren.wrenhandler import generic_handler
status = generic_handler(json.loads(pathlib.Path(sys.argv[2]).read_text()), None)
print(status["exception"], status.get("failure"))
"""


def nested_map(number):
    """Map inside a call, on the worker's own machine."""
    import pywren

    return sum(pywren.get_all_results(pywren.local_executor().map(lambda x: x * number, range(4))))


@pytest.mark.parametrize(
    ("function", "value"), [(lambda x: x + 1, 42), (nested_map, 246)], ids=["a call", "a call with a map of its own"]
)
def test_an_unzipped_bundle_runs_a_call_with_nothing_else(tmp_path, function, value):
    """Handler, fork server and child run from the bundle alone, as on Lambda."""
    zipfile.ZipFile(io.BytesIO(bundle.build_zip())).extractall(tmp_path / "task")
    storage = Storage(
        {"storage_backend": "localhost", "storage_prefix": "", "backend_config": {"root": str(tmp_path / "store")}}
    )
    keys = CallsetKeys("", "callset")
    call = keys.call("00000")
    staged = StagedFunction(by_value(function)).encode()
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
    assert cloudpickle.loads(Outcome.decode(status.outcome).body) == value
