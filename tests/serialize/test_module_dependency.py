"""Which of the user's modules are sent, and that they work on the worker."""

import os
import zipfile

import pytest

from pywren.exceptions import SerializationError
from pywren.serialize import ModuleDependencyAnalyzer, _modules
from pywren.storage.runtime_info import LAMBDA_PREINSTALLS

LAMBDA = "{'boto3', 'botocore'}"


def test_a_module_beside_the_script_is_shipped_with_its_imports(ship):
    """Modules in the script's directory are found, and so are the modules that they import."""
    ship.write(
        {
            "first.py": "import second\ndef f(x):\n    return second.g(x)\n",
            "second.py": "from third import VALUE\ndef g(x):\n    return x + VALUE\n",
            "third.py": "VALUE = 100\n",
            "unused.py": "",
        }
    )
    assert ship("import first\ndef func(x):\n    return first.f(x)\n") == 101
    assert set(ship.modules) == {"first.py", "second.py", "third.py"}


def test_a_function_imported_from_a_module_is_shipped(ship):
    """A function of a module is pickled by reference, so its module is sent."""
    ship.write({"first.py": "def f(x):\n    return x * 2\n"})
    assert ship("from first import f as func\n") == 2


def test_an_import_inside_a_function_is_shipped(ship):
    """What a function imports when it runs is shipped, in scripts and in modules."""
    ship.write(
        {
            "first.py": "def f(x):\n    import second\n    return second.g(x)\n",
            "second.py": "def g(x):\n    from third import h as h2\n    return h2(x)\n",
            "third.py": "import importlib\ndef h(x):\n    return importlib.import_module('fourth').VALUE\n",
            "fourth.py": "VALUE = 4\n",
        }
    )
    assert (
        ship("def func(x):\n    def inner():\n        import first\n        return first.f(x)\n    return inner()\n")
        == 4
    )


def test_a_module_imported_by_name_in_the_function_is_shipped(ship):
    """A literal name passed to importlib.import_module in a script's function counts as an import."""
    ship.write({"first.py": "VALUE = 5\n"})
    assert ship("import importlib\ndef func(x):\n    return importlib.import_module('first').VALUE\n") == 5


def test_a_package_is_shipped_with_subpackages_and_data(ship):
    """A package's whole directory is sent, with data and subpackages that nothing imports, but without caches."""
    ship.write(
        {
            "pkg/__init__.py": "",
            "pkg/core.py": """
import os
from . import helper
from .sub.leaf import leaf
def f(x):
    with open(os.path.join(os.path.dirname(__file__), 'data', 'table.bin'), 'rb') as file:
        return helper.h(x), leaf(), file.read()
""",
            "pkg/helper.py": "from .sub import NAME\ndef h(x):\n    return NAME\n",
            "pkg/sub/__init__.py": "NAME = 'sub'\n",
            "pkg/sub/leaf.py": """
from ..other import OTHER
from .. import __name__ as name
def leaf():
    return name, OTHER
""",
            "pkg/other.py": "OTHER = 9\n",
            "pkg/never/__init__.py": "",
            "pkg/data/table.bin": b"\x00\xff",
            "pkg/__pycache__/core.cpython-39.pyc": b"",
            "pkg/.git/config": b"",
        }
    )
    assert ship("import pkg.core\ndef func(x):\n    return pkg.core.f(x)\n") == ("sub", ("pkg", 9), b"\x00\xff")
    assert "pkg/never/__init__.py" in ship.modules
    assert not [name for name in ship.modules if "__pycache__" in name or ".git" in name]


def test_a_dotted_import_brings_all_its_parents(ship):
    """``import a.b.c`` works on the worker, and so do imports of the parent packages."""
    ship.write(
        {
            "a/__init__.py": "import top_helper\n",
            "a/b/__init__.py": "",
            "a/b/c.py": "def f(x):\n    import a\n    return a.top_helper.VALUE\n",
            "top_helper.py": "VALUE = 'helped'\n",
        }
    )
    assert ship("import a.b.c\ndef func(x):\n    return a.b.c.f(x)\n") == "helped"


def test_from_a_package_import_a_submodule(ship):
    """``from a import b`` includes b if it is a module."""
    ship.write(
        {"a/__init__.py": "", "a/b.py": "import beside\ndef f(x):\n    return beside.V\n", "beside.py": "V = 'b'\n"}
    )
    assert ship("def func(x):\n    from a import b\n    return b.f(x)\n") == "b"


def test_a_relative_import_in_a_function_of_the_script(ship):
    """A function of a module run with -m keeps its relative imports."""
    code = compile("def f():\n    from . import sibling\n", "x", "exec").co_consts[0]
    ship.write({"pkg/__init__.py": "", "pkg/sibling.py": ""})
    analyzer = ModuleDependencyAnalyzer()
    analyzer.add_code(code, "pkg")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ship.client)
        assert {file.relative for file in analyzer.files()} == {"pkg/__init__.py", "pkg/sibling.py"}


def test_a_source_in_another_encoding_is_shipped_as_it_is(ship):
    """A source that is not UTF-8 is parsed in the encoding that it declares, and shipped unchanged."""
    source = "# -*- coding: latin-1 -*-\nfrom späti import WORT\ndef f(x):\n    return 'é' + WORT\n".encode("latin-1")
    ship.write({"first.py": source, "späti.py": "WORT = 'ü'\n"})
    assert ship("import first\nfunc = first.f\n") == "éü"


def test_a_namespace_package_is_shipped(ship):
    """A package without __init__.py keeps its place, and only the parts that are used are sent."""
    ship.write(
        {
            "space/part/mod.py": "from space.other import V\ndef f(x):\n    return V\n",
            "space/other.py": "V = 'ns'\n",
            "space/full/__init__.py": "from .inner import W\n",
            "space/full/inner.py": "W = 1\n",
            "space/unused.py": "",
        }
    )
    assert ship(
        "import space.part.mod\nimport space.full\ndef func(x):\n    return space.part.mod.f(x), space.full.W\n"
    ) == (
        "ns",
        1,
    )
    assert "space/unused.py" not in ship.modules


def test_modules_on_pythonpath_are_shipped(ship, tmp_path):
    """A module found through PYTHONPATH is the user's own."""
    library = tmp_path / "library"
    library.mkdir()
    (library / "on_path.py").write_text("def f(x):\n    return 'path'\n")
    assert ship("import on_path\nfunc = on_path.f\n", path=(str(library),)) == "path"


def test_a_module_in_a_zip_file_is_shipped(ship, tmp_path):
    """Modules and packages imported from a zip file are extracted and sent, with their imports."""
    archive = tmp_path / "library.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("zpkg/__init__.py", "from . import inner\n")
        opened.writestr("zpkg/inner.py", "import zmod\ndef f(x):\n    return zmod.V\n")
        opened.writestr("zmod.py", "V = 'zip'\n")
    assert ship("import zpkg\ndef func(x):\n    return zpkg.inner.f(x)\n", path=(str(archive),)) == "zip"
    assert set(ship.modules) == {"zpkg/__init__.py", "zpkg/inner.py", "zmod.py"}


def test_an_editable_install_is_shipped(ship, tmp_path):
    """A package found through a finder or .pth file in site-packages is the user's own."""
    source = tmp_path / "project" / "src"
    (source / "edi").mkdir(parents=True)
    (source / "edi" / "__init__.py").write_text("def f(x):\n    return 'editable'\n")
    finder = f"""
import importlib.util, sys
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "edi":
            where = {str(source / "edi")!r}
            return importlib.util.spec_from_file_location(
                name, where + "/__init__.py", submodule_search_locations=[where])
sys.meta_path.append(Finder)
def func(x):
    import edi
    return edi.f(x)
"""
    assert ship(finder) == "editable"


def test_a_conditional_import_that_is_missing_is_no_error(ship):
    """A module that is imported only if it exists may be missing."""
    ship.write(
        {
            "first.py": """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import only_for_types
try:
    import missing_module
except ImportError:
    missing_module = None
try:
    import numpy
except (ImportError, OSError):
    numpy = None
def f(x):
    return missing_module
def plot(x):
    import numpy.linalg
"""
        }
    )
    assert ship("import first\nfunc = first.f\n", options=LAMBDA) is None


def test_an_extension_that_a_module_needs_is_refused_for_lambda(ship):
    """The error names the library and the module that imports it."""
    ship.write({"first.py": "import numpy as np\ndef f(x):\n    return np.zeros(x)\n"})
    with pytest.raises(SerializationError, match=r"numpy.*the module first imports it.*exclude_modules") as caught:
        ship.pack("import first\nfunc = first.f\n", options=LAMBDA)
    assert caught.value.path == "numpy"


def test_an_extension_of_the_users_own_is_refused_for_lambda_only(ship):
    """A package with its own C extension runs on this machine, but cannot be sent to Lambda."""
    ship.write({"pkg/__init__.py": "def f(x):\n    return x\n", "pkg/fast.abi3.so": b"\x7fELF"})
    with pytest.raises(SerializationError, match=r"fast\.abi3\.so"):
        ship.pack("import pkg\nfunc = pkg.f\n", options=LAMBDA)
    assert ship("import pkg\nfunc = pkg.f\n") == 1
    assert "pkg/fast.abi3.so" in ship.modules


def test_an_excluded_module_is_an_import_error_on_the_worker(ship):
    """Modules whose path contains an excluded text are not sent."""
    ship.write({"first.py": "import second\ndef f(x):\n    return x\n", "second.py": ""})
    with pytest.raises(ImportError, match="second"):
        ship("import first\nfunc = first.f\n", exclude_modules=["second"])
    assert set(ship.modules) == {"first.py"}


def test_a_module_that_shadows_the_standard_library_is_shipped(ship):
    """A user's file with the name of a standard module is still sent."""
    ship.write({"colorsys.py": "def f(x):\n    return 'mine'\n"})
    assert ship("import colorsys\ndef func(x):\n    return colorsys.f(x)\n") == "mine"


def test_the_standard_library_and_pywren_are_never_shipped(ship):
    """Modules that every worker has are not sent."""
    ship.pack(
        "import json.decoder, email.mime.text, xml.etree.ElementTree as ET, pywren, cloudpickle, tblib\n"
        "def func(x):\n    import asyncio, pywren.exceptions\n"
        "    return json.decoder, email, ET, pywren, cloudpickle, tblib\n"
    )
    assert ship.modules == {}


def test_two_modules_that_import_each_other(ship):
    """A cycle of imports causes no endless loop."""
    ship.write(
        {
            "first.py": "import second\ndef f(x):\n    return second.g(x)\n",
            "second.py": "import first\ndef g(x):\n    return first.__name__\n",
        }
    )
    assert ship("import first\nfunc = first.f\n") == "first"


def test_a_module_loaded_in_an_unusual_way_brings_its_imports(ship):
    """A submodule that is loaded here without an import statement is sent with its imports."""
    ship.write(
        {
            "pkg/__init__.py": "import importlib\nname = 'plugin'\nplugin = importlib.import_module('pkg.' + name)\n",
            "pkg/plugin.py": "import for_plugin\n",
            "for_plugin.py": "V = 'plugged'\n",
        }
    )
    assert ship("import pkg\ndef func(x):\n    return pkg.plugin.for_plugin.V\n") == "plugged"


def test_a_module_that_is_not_python_is_left_to_the_worker(ship):
    """A source with a syntax error adds no imports, and is no error in the client."""
    ship.write({"broken.py": "def f(:\n", "first.py": "def f(x):\n    import broken\n"})
    with pytest.raises(SyntaxError):
        ship("import first\nfunc = first.f\n")
    assert "broken.py" in ship.modules


def test_a_package_over_the_limit_is_refused(ship, monkeypatch):
    """The error names the package, its size and the remedy."""
    monkeypatch.setattr(_modules, "PACKAGE_LIMIT", 1_000_000)
    ship.write({"big_pkg/__init__.py": "", "big_pkg/data.bin": bytes(2_000_000)})
    monkeypatch.syspath_prepend(ship.client)
    analyzer = ModuleDependencyAnalyzer()
    analyzer.add("big_pkg")
    with pytest.raises(SerializationError, match=r"big_pkg .* is 2 MB, over the limit of 1 MB.*exclude_modules"):
        analyzer.files()


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="needs symbolic links")
def test_symbolic_links_are_followed_once(ship, monkeypatch):
    """A linked data directory is sent; a link to a parent directory causes no endless loop."""
    ship.write({"linked/__init__.py": "", "elsewhere/table.txt": "t"})
    (ship.client / "linked" / "data").symlink_to(ship.client / "elsewhere")
    (ship.client / "linked" / "loop").symlink_to(ship.client / "linked")
    (ship.client / "linked" / "dangling").symlink_to(ship.client / "nowhere")
    monkeypatch.syspath_prepend(ship.client)
    analyzer = ModuleDependencyAnalyzer()
    analyzer.add("linked")
    assert {file.relative for file in analyzer.files()} == {"linked/__init__.py", "linked/data/table.txt"}


def test_ignored_modules_are_left_out():
    """Names in 0.4's ``ignore`` are taken as installed on the worker."""
    analyzer = ModuleDependencyAnalyzer(LAMBDA_PREINSTALLS)
    analyzer.ignore(["numpy"])
    analyzer.add("numpy.linalg")
    assert analyzer.get_and_clear_paths() == set()


def test_a_virtual_environment_inside_a_package_is_not_shipped(ship, monkeypatch):
    """A directory with a pyvenv.cfg is not part of the package that contains it."""
    ship.write({"around/__init__.py": "", "around/env/pyvenv.cfg": "", "around/env/lib/x.py": ""})
    monkeypatch.syspath_prepend(ship.client)
    analyzer = ModuleDependencyAnalyzer()
    analyzer.add("around")
    assert {file.relative for file in analyzer.files()} == {"around/__init__.py"}
