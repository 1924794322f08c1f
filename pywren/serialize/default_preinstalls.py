"""Kept for PyWren 0.4: the modules that a worker has without a runtime."""

import os
import pkgutil
import sys

from pywren.storage.runtime_info import LAMBDA_PREINSTALLS


def _standard_library() -> list[tuple[str, bool]]:
    packages = {module.name for module in pkgutil.iter_modules([os.path.dirname(os.__file__)]) if module.ispkg}
    return [(name, name in packages) for name in sys.stdlib_module_names]


modules: list[tuple[str, bool]] = sorted([*_standard_library(), *((name, True) for name in LAMBDA_PREINSTALLS)])
"""Pairs of a module's name and whether it is a package: the standard library and what every deployed function has."""
