"""The source lines of functions, which are sent so that tracebacks and ``inspect`` can show them to the reader.

Only the lines of the functions themselves are sent. The reader adds them to ``linecache``, where tracebacks, debuggers
and ``inspect.getsource`` find them.
"""

from __future__ import annotations

import linecache
import operator
import types
import weakref
from typing import Any

from pywren.system import private_names

_MAX_CHARACTERS = 64 * 1024
"""The most characters of one function's source to send; the rest is cut off."""

_MAX_LINE = 200_000
"""The last line of a file to keep: ``linecache`` needs a list as long as the file."""

_MAX_FILES = 256
"""The most files whose lines are kept; the oldest is dropped first."""

_SECOND, _THIRD = operator.itemgetter(1), operator.itemgetter(2)

_kept: dict[str, tuple[Any, ...]] = {}


_known: weakref.WeakKeyDictionary[types.CodeType, tuple[str, str]] = weakref.WeakKeyDictionary()


def source_of(code: types.CodeType, space: dict[str, Any]) -> str:
    """Return the source lines of a function as they were when first requested; an empty string if there are none.

    Args:
        code: the code of the function.
        space: its globals, which may contain the loader of its file.
    """
    filename, source = _known.get(code, ("", ""))
    if filename != code.co_filename:  # comparing code objects ignores the file name
        source = _read_source(code, space)
        _known[code] = code.co_filename, source
    return source


def _read_source(code: types.CodeType, space: dict[str, Any]) -> str:
    lines = _lines_of(code, space)
    first = code.co_firstlineno - 1
    if not 0 <= first < len(lines):
        return ""
    last = min(_last_line(code), len(lines))
    if code.co_name != "<lambda>":  # after a lambda, the rest of the statement around it may follow
        last = _end_of_block(lines, first, last)
    return "".join(lines[first:last])[:_MAX_CHARACTERS]


def _lines_of(code: types.CodeType, space: dict[str, Any]) -> list[str]:
    try:
        linecache.checkcache(code.co_filename)
        return linecache.getlines(code.co_filename, space) or private_names.interactive_lines(code)
    except Exception:  # noqa: BLE001 - the loader of the file, or what replaced linecache's functions, is the user's
        return []


def _last_line(code: types.CodeType) -> int:
    positions = getattr(code, "co_positions", None)  # new in Python 3.11: a statement may span several lines
    lines: set[Any] = set(map(_THIRD, code.co_lines()) if positions is None else map(_SECOND, positions()))
    lines.discard(None)
    inner = [_last_line(constant) for constant in code.co_consts if type(constant) is types.CodeType]
    last: int = max([code.co_firstlineno, *lines, *inner])
    return last


def _end_of_block(lines: list[str], first: int, last: int) -> int:
    """Return the number of a block's last line, which may follow its code: a comment, docstring or closing bracket."""
    indent = _indent(lines[first])
    end = place = max(last, first + 1)
    while place < len(lines) and (not lines[place].strip() or _indent(lines[place]) > indent):
        place += 1
        if lines[place - 1].strip():
            end = place
    return end


def _indent(line: str) -> int:
    expanded = line.expandtabs()
    return len(expanded) - len(expanded.lstrip())


def remember_source(code: types.CodeType, source: str, *, replace: bool) -> None:
    """Add source lines that came with a function to ``linecache``.

    Args:
        code: the code of the function.
        source: the source lines of the function.
        replace: whether these lines replace a local file of the same name. They do so on a worker, which may have
            another version of the script.
    """
    filename, first = code.co_filename, code.co_firstlineno - 1
    new = source.splitlines(keepends=True) if "\r" not in source and "\f" not in source else _split(source)
    end = first + len(new)
    if first < 0 or end > _MAX_LINE:
        return
    known = linecache.getlines(filename)
    if known[first:end] == new:
        return
    entry = linecache.cache.get(filename)
    own = entry is not None and entry is _kept.get(filename)
    if known and not own and not replace:
        return
    lines = list(known)
    lines.extend(["\n"] * (end - len(lines)))
    lines[first:end] = new
    _keep(filename, lines)


def _split(source: str) -> list[str]:
    # str.splitlines also splits at characters that do not end a line of a file.
    return [line + "\n" for line in source.removesuffix("\n").split("\n")]


def _keep(filename: str, lines: list[str]) -> None:
    # Without a modification time, linecache.checkcache keeps the entry even if the file does not exist.
    entry: Any = (sum(map(len, lines)), None, lines, filename)
    _kept.pop(filename, None)
    _kept[filename] = linecache.cache[filename] = entry
    while len(_kept) > _MAX_FILES:
        oldest, forgotten = next(iter(_kept.items()))
        del _kept[oldest]
        if linecache.cache.get(oldest) is forgotten:
            del linecache.cache[oldest]
