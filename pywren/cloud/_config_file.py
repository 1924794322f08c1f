"""Changes one section of a configuration file in place, and leaves the rest of the file untouched."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pywren.exceptions import ConfigError

if TYPE_CHECKING:
    from yaml.nodes import MappingNode, Node

Values = Mapping[str, str | None]
"""The new values of a section's keys; ``None`` removes a key."""


def section_text(section: str, values: Values, newline: str = "\n") -> str:
    """Return a section with these keys and values as YAML text."""
    lines = [f"{section}:", *(f"  {key}: {json.dumps(value)}" for key, value in values.items() if value is not None)]
    return newline.join([*lines, ""])


def change_section(path: str | os.PathLike[str], section: str, values: Values) -> None:
    """Change keys in one section of a YAML file; keep the file's comments, its order of keys and its mode.

    The file is replaced in one step, so readers see either the old file or the new one.

    Args:
        path: the file.
        section: the section; added if it is missing.
        values: the new values by key; a key whose value is ``None`` is removed.

    Raises:
        ConfigError: the file cannot be read or written, or cannot be changed safely; the message names the keys to
            change by hand.
    """
    real = Path(os.path.realpath(path))  # replaces the target of a symbolic link, not the link
    try:
        with real.open(encoding="utf-8", newline="") as file:
            text = file.read()
        changed = changed_text(text, section, values)
        if changed is None:
            raise _by_hand(path, section, values, "it is not made up of sections with their keys indented below them")
        if changed != text:
            _replace(real, changed)
    except OSError as error:
        raise _by_hand(path, section, values, error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise _by_hand(path, section, values, "it is not UTF-8 text") from error


def changed_text(text: str, section: str, values: Values) -> str | None:
    """Return a YAML document with new values in one section; ``None`` when the document cannot be changed safely."""
    import yaml

    try:
        before = yaml.safe_load(text) or {}
        changed = _apply(text, _edits(text, section, values))
        after = yaml.safe_load(changed) or {}
    except (yaml.YAMLError, ValueError, AttributeError):
        return None
    if not isinstance(before, dict) or not isinstance(after, dict):
        return None
    kept = {key: value for key, value in (before.get(section) or {}).items() if key not in values}
    wanted = {**kept, **{key: value for key, value in values.items() if value is not None}}
    # The edits do not cover all of YAML: parse the changed text, and reject it unless it has exactly the wanted values.
    same_elsewhere = {**before, section: None} == {**after, section: None}
    return changed if same_elsewhere and (after.get(section) or {}) == wanted else None


class _Edit(NamedTuple):
    """A part of a document, given by its start and end, and the text that replaces this part."""

    start: int
    end: int
    text: str


def _apply(text: str, edits: list[_Edit]) -> str:
    for edit in sorted(edits, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def _edits(text: str, section: str, values: Values) -> list[_Edit]:
    import yaml

    newline = "\r\n" if "\r\n" in text else "\n"
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    node = _value_of(root, section) if isinstance(root, yaml.MappingNode) else None
    if node is None:
        gap = "" if not text or text.endswith("\n") else newline
        return [_Edit(len(text), len(text), gap + section_text(section, values, newline))]
    if not isinstance(node, yaml.MappingNode) or not node.value:
        below = section_text(section, values, newline).partition(":")[2].removesuffix(newline)
        return [_Edit(node.start_mark.index, node.end_mark.index, below)]
    if node.flow_style:
        old = yaml.safe_load(text)[section]
        merged = {key: value for key, value in {**old, **values}.items() if value is not None}
        flow = str(yaml.safe_dump(merged, default_flow_style=True, sort_keys=False, width=10**6)).strip()
        return [_Edit(node.start_mark.index, node.end_mark.index, flow)]
    return _block_edits(text, node, values, newline)


def _block_edits(text: str, node: MappingNode, values: Values, newline: str) -> list[_Edit]:
    edits, new = [], []
    for key, value in values.items():
        found = next((pair for pair in node.value if pair[0].value == key), None)
        if found is not None and value is None:
            edits.append(_Edit(_line_start(text, found[0].start_mark.index), _line_end(text, _end_of(found)), ""))
        elif found is not None:
            start, end = found[1].start_mark.index, _end_of(found)
            gap = "" if start > found[0].end_mark.index + 1 else " "
            ending = newline if text[start:end].endswith("\n") else ""
            edits.append(_Edit(start, end, gap + json.dumps(value) + ending))
        elif value is not None:
            new.append((key, value))
    if new:
        indent = " " * node.value[0][0].start_mark.column
        after = _line_end(text, _end_of(node.value[-1]))
        gap = "" if text[:after].endswith("\n") else newline
        lines = "".join(f"{indent}{key}: {json.dumps(value)}{newline}" for key, value in new)
        edits.append(_Edit(after, after, gap + lines))
    return edits


def _value_of(root: MappingNode, section: str) -> Node | None:
    return next((value for key, value in root.value if key.value == section), None)


def _end_of(pair: tuple[Any, Any]) -> int:
    """Return the position at which a key's value ends. For a block, PyYAML's own end mark is at the next token."""
    key, value = pair
    last = value
    while getattr(last, "value", None) and isinstance(last.value, list) and not last.flow_style:
        item = last.value[-1]
        last = item[1] if isinstance(item, tuple) else item
    return max(int(key.end_mark.index), int(last.end_mark.index))


def _line_start(text: str, index: int) -> int:
    return text.rfind("\n", 0, index) + 1


def _line_end(text: str, index: int) -> int:
    return text.find("\n", index) + 1 or len(text)


def _replace(path: Path, text: str) -> None:
    status = path.stat()
    if not os.access(path, os.W_OK):
        raise PermissionError(13, "it is read-only")
    descriptor, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(new, status.st_mode & 0o7777)
        if hasattr(os, "chown"):
            with contextlib.suppress(PermissionError):  # only root can change a file's owner
                os.chown(new, status.st_uid, status.st_gid)
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)
        raise


def _by_hand(path: str | os.PathLike[str], section: str, values: Values, why: str) -> ConfigError:
    verb = "remove" if all(value is None for value in values.values()) else "write"
    return ConfigError(
        f"cannot change the configuration {os.fspath(path)}: {why}; {verb} {', '.join(values)} in its section "
        f"{section} yourself"
    )
