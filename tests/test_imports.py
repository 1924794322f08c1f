"""What an import of pywren loads, and what can be used after it, as fresh interpreters show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

LOADED = """
import json, sys
before = set(sys.modules)
{statements}
names = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(json.dumps(sorted(names - set(sys.stdlib_module_names) - {{"__mp_main__", "pywren"}})))
"""

NAMES = [
    "default_executor",
    "lambda_executor",
    "dummy_executor",
    "remote_executor",
    "standalone_executor",
    "local_executor",
    "get_all_results",
    "wait",
    "ALL_COMPLETED",
    "ANY_COMPLETED",
    "ALWAYS",
    "Executor",
    "__version__",
    "SOURCE_DIR",
    "PoolExecutor",
]
SUBMODULES = [
    "wrenconfig",
    "invokers",
    "queues",
    "wrenlogging",
    "runtime",
    "wren",
    "executor",
    "future",
    "storage",
    "serialize",
    "wrenutil",
    "version",
    "local",
    "exceptions",
]


def python(program: str, **environment: str) -> str:
    """Run a program in a fresh interpreter that can import this pywren, with warnings as errors; return its output."""
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def third_party(statements: str) -> set[str]:
    """Return the third-party packages that some statements load."""
    return set(json.loads(python(LOADED.format(statements=statements)).splitlines()[-1]))


def third_party_of(modules: list[str]) -> dict[str, list[str]]:
    """Import modules one after the other, and return for each the third-party packages that it loaded first."""
    loaded = "[name for name in {name.partition('.')[0] for name in sys.modules} - own]"
    program = (
        "import importlib, json, sys\n"
        "own = {*sys.stdlib_module_names, *sys.modules, 'pywren', '__mp_main__'}\n"
        "found = {}\n"
        f"for module in {modules!r}:\n"
        "    importlib.import_module(module)\n"
        f"    new = {loaded}\n"
        "    own.update(new)\n"
        "    if new: found[module] = new\n"
        "print(json.dumps(found))"
    )
    found: dict[str, list[str]] = json.loads(python(program).splitlines()[-1])
    return found


def test_import_pywren_loads_no_third_party_module() -> None:
    """A plain import loads only the standard library."""
    assert third_party("import pywren") == set()


def test_the_modules_of_the_client_load_no_third_party_module() -> None:
    """Importing a client module loads only the standard library too, until the module is used."""
    assert third_party_of([f"pywren.{name}" for name in SUBMODULES]) == {}


def test_the_worker_loads_only_what_the_bundle_carries() -> None:
    """The worker's entry and its child load only cloudpickle and tblib."""
    found = third_party_of(["pywren.worker.handler", "pywren.wrenhandler", "pywren.worker.child.main"])
    assert {name for names in found.values() for name in names} <= {"cloudpickle", "tblib"}, found


def test_the_worker_does_not_import_the_client() -> None:
    """A worker never loads executors, serialization or configuration.

    ``future`` and ``wait`` are loaded with the package itself, because ``pywren.wait`` must be the function.
    """
    program = "import sys, pywren.wrenhandler, pywren.worker.child.main; print(*sorted(sys.modules))"
    client = {"wren", "executor", "client", "invokers", "queues", "wrenconfig", "serialize", "cloud"}
    assert not {f"pywren.{name}" for name in client} & set(python(program).split())


LOCAL_MAP = """
import pywren
pwex = pywren.local_executor()
def loaded(_):
    import sys
    return sorted({name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names))
there = pywren.get_all_results(pwex.map(loaded, [1, 2]))
"""


def test_a_local_map_never_loads_boto3() -> None:
    """The whole local path, from import to results, works without the AWS SDK (0.3 seconds)."""
    assert not third_party(LOCAL_MAP) & {"boto3", "botocore", "moto", "numpy", "click"}


def test_a_local_worker_loads_only_what_the_bundle_carries() -> None:
    """The child that runs the function also loads only pywren, cloudpickle and tblib."""
    there = json.loads(python(f"import json\n{LOCAL_MAP}\nprint(json.dumps(there))"))
    for names in there:
        found = {name for name in names if not name.startswith("_")}  # such as setuptools' start-up hook
        assert found <= {"pywren", "cloudpickle", "tblib"}


def test_everything_of_0_4_is_reachable_after_a_plain_import() -> None:
    """Names and submodules are attributes of the package, without further imports."""
    program = f"import pywren\nfor name in {NAMES + SUBMODULES}: getattr(pywren, name)"
    python(program)


def test_wait_stays_the_function() -> None:
    """``pywren.wait`` is the function, although a module has that name, whatever is imported later."""
    python(
        "import pywren\n"
        "import pywren.wait, pywren.executor, pywren.future\n"
        "from pywren.wait import wait\n"
        "assert pywren.wait is wait and callable(wait)\n"
    )


def test_an_unknown_attribute_is_an_attribute_error() -> None:
    """A misspelt name is an AttributeError, although submodules are loaded lazily."""
    program = "import pywren\ntry: pywren.no_such_name\nexcept AttributeError as error: print(error)"
    assert "no_such_name" in python(program)


def test_dir_lists_the_public_names_only() -> None:
    """Completion in a notebook shows the public names before they are loaded, and nothing else."""
    program = (
        "import pywren\n"
        "before = dir(pywren)\n"
        "pywren.local_executor, pywren.wren, pywren.storage\n"
        "assert dir(pywren) == before, 'depends on what was used'\n"
        "assert {*before} >= {*pywren.__all__}, 'lacks public names'\n"
        "print(*[name for name in before if not name.startswith('__') and name not in pywren.__all__])"
    )
    assert python(program).split() == ["exceptions", "testing"]


def test_importing_installs_no_log_handler() -> None:
    """Importing the library does not configure logging."""
    assert python("import logging, pywren; print(logging.root.handlers)").strip() == "[]"


def test_the_environment_can_ask_for_logging_at_import() -> None:
    """``PYWREN_LOGLEVEL`` sets the level of logging and quiets the AWS SDK, as in 0.4."""
    program = (
        "import logging, pywren\n"
        "print(len(logging.root.handlers), logging.getLogger('pywren').getEffectiveLevel() == logging.INFO,\n"
        "      logging.getLogger('botocore').getEffectiveLevel() > logging.INFO)"
    )
    assert python(program, PYWREN_LOGLEVEL="INFO").split() == ["1", "True", "True"]
