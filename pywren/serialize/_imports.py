"""Finds the imports of a source file or of a compiled function."""

from __future__ import annotations

import ast
import dis
import threading
import types
import warnings
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_IMPORT_ERRORS = frozenset({"ImportError", "ModuleNotFoundError", "Exception", "BaseException"})


@dataclass(frozen=True)
class Import:
    """One import statement, or one call that imports a module.

    Args:
        names: the dotted names that the import may load: for ``from a import b`` both ``a`` and ``a.b``.
        optional: whether the program may run without the import, because it is in a function, in an ``if``, or in a
            ``try`` that catches ``ImportError``.
        guarded: whether the import is in such a ``try``; for compiled functions this is not known.
    """

    names: tuple[str, ...]
    optional: bool = False
    guarded: bool = field(default=False, compare=False)


# -- in source -----------------------------------------------------------------------------------------------


def imports_of_source(source: bytes, package: str) -> list[Import]:
    """Return the imports of a source file; an empty list if the file is not valid Python.

    Args:
        source: the bytes of the file, in the encoding that the file declares.
        package: the package from which relative imports start.
    """
    try:
        tree = _parse(source)
        found = list(_statements(tree.body, package, optional=False))
        if b"import_module" in source or b"__import__" in source:
            found += _calls(tree)
    except (SyntaxError, ValueError, RecursionError):
        return []
    return found


def _parse(source: bytes) -> ast.Module:
    # Hold a lock, because catch_warnings affects the whole process.
    with _parsing, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about the source, such as "\d", are meant for its author
        return ast.parse(source)


_parsing = threading.Lock()


def _statements(body: Iterable[ast.AST], package: str, *, optional: bool, guarded: bool = False) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            yield Import(tuple(alias.name for alias in node.names), optional, guarded)
        elif isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            yield Import(_from_names(node.module or "", names, node.level, package), optional, guarded)
        elif isinstance(node, ast.If) and _is_type_checking(node.test):
            yield from _statements(node.orelse, package, optional=optional, guarded=guarded)
        elif isinstance(node, ast.stmt):
            caught = guarded or _catches_failure(node)
            inner = optional or caught or isinstance(node, _CONDITIONAL)
            yield from _statements(ast.iter_child_nodes(node), package, optional=inner, guarded=caught)
        elif isinstance(node, (ast.ExceptHandler, ast.match_case)):
            yield from _statements(node.body, package, optional=True, guarded=guarded)


_CONDITIONAL = (ast.FunctionDef, ast.AsyncFunctionDef, ast.If, ast.Match)


def _catches_failure(node: ast.stmt) -> bool:
    if isinstance(node, (ast.With, ast.AsyncWith)):  # contextlib.suppress and similar context managers
        return any(_may_suppress(item.context_expr) for item in node.items)
    return isinstance(node, ast.Try) and any(_catches_import_error(handler.type) for handler in node.handlers)


def _may_suppress(context: ast.expr) -> bool:
    if not isinstance(context, ast.Call):
        return False
    called = _last_name(context.func)
    if called == "suppress":
        return any(_last_name(kind) in _IMPORT_ERRORS for kind in context.args)
    return "import" in called.lower()  # such as optuna's try_import()


def _catches_import_error(kind: ast.expr | None) -> bool:
    if kind is None:
        return True
    kinds = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return any(_last_name(item) in _IMPORT_ERRORS for item in kinds)


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _is_type_checking(test: ast.expr) -> bool:
    return _last_name(test) == "TYPE_CHECKING"


def _calls(tree: ast.AST) -> Iterator[Import]:
    """Yield the imports made by ``importlib.import_module("name")`` and ``__import__("name")``."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = _last_name(node.func)
        what = node.args[0]
        if name in ("import_module", "__import__") and isinstance(what, ast.Constant) and isinstance(what.value, str):
            yield Import((what.value,), optional=True)


def _from_names(module: str, names: Iterable[str], level: int, package: str) -> tuple[str, ...]:
    if level:
        parents = package.split(".") if package else []
        if level - 1 > len(parents) or not parents:
            return ()
        module = ".".join([*parents[: len(parents) - level + 1], *([module] if module else [])])
    return (module, *(f"{module}.{name}" for name in names if name != "*")) if module else ()


# -- in compiled functions -----------------------------------------------------------------------------------

_known: weakref.WeakKeyDictionary[types.CodeType, dict[str, list[Import]]] = weakref.WeakKeyDictionary()


def imports_of_code(code: types.CodeType, package: str) -> list[Import]:
    """Return the imports that a function makes when it runs, including those of functions inside it.

    Args:
        code: the code of the function.
        package: the package from which relative imports start.
    """
    by_package = _known.setdefault(code, {})
    if package not in by_package:
        by_package[package] = list(_code_imports(code, package))
    return by_package[package]


def _code_imports(code: types.CodeType, package: str) -> Iterator[Import]:
    # Bytecode does not show which try statement an import is in.
    optional = not _IMPORT_ERRORS.isdisjoint(code.co_names)
    loaded: list[object] = []
    for instruction in dis.get_instructions(code):
        if instruction.opname == "IMPORT_NAME":
            level, names = loaded[-2:] if len(loaded) > 1 else (0, None)
            yield Import(_code_names(instruction.argval, level, names, package), optional)
        elif instruction.opname.startswith("LOAD_"):
            loaded.append(instruction.argval)
    if "import_module" in code.co_names or "__import__" in code.co_names:
        texts = (text for text in code.co_consts if isinstance(text, str))
        yield from (Import((text,), optional=True) for text in texts if text.replace(".", "").isidentifier())
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code_imports(constant, package)


def _code_names(module: str, level: object, names: object, package: str) -> tuple[str, ...]:
    level = level if isinstance(level, int) else 0
    if not level and not isinstance(names, tuple):
        return (module,)
    return _from_names(module, names if isinstance(names, tuple) else (), level, package)
