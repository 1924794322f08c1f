"""``Serializer``: turns a function, the arguments of its calls, and the user's modules into bytes."""

from __future__ import annotations

import os
from collections.abc import Collection, Container, Iterable, Sequence
from typing import Any, NamedTuple

from pywren.pickling.format import PersistentId
from pywren.pickling.mentions import Mentions
from pywren.pickling.packed import Packed, Scalars, dump, dumps, raise_unpicklable
from pywren.serialize._imports import imports_of_code
from pywren.serialize._modules import Module, check_size, contents_of, files_below, files_of
from pywren.serialize._repeats import Repeats, State
from pywren.serialize.module_dependency import THIS_INTERPRETER, ModuleDependencyAnalyzer, is_always_there
from pywren.wrenutil import bytes_to_b64str


class PackedCalls(NamedTuple):
    """The function, arguments and modules of a map, converted to bytes.

    Args:
        func: the pickled function.
        items: the pickled arguments, in order.
        modules: the contents of the user's modules and data files, by relative POSIX path.
    """

    func: Packed
    items: Sequence[Packed]
    modules: dict[str, bytes]


class Serializer:
    """Pickles functions and arguments, and collects the user's modules that they need.

    Args:
        preinstalls: the top-level names of modules that the worker has besides the standard library and pywren. By
            default the worker shares this interpreter and its site-packages.
        exclude: modules whose file path contains one of these strings are never sent.
    """

    def __init__(self, preinstalls: Container[str] = THIS_INTERPRETER, exclude: Collection[str] = ()) -> None:
        self.preinstalls = preinstalls
        self.exclude = tuple(exclude)
        self._repeats = Repeats()

    def pack_call(
        self,
        func: Any,
        items: Iterable[Any] | Scalars,
        *,
        out_of_band: bool = False,
        persistent_id: PersistentId | None = None,
        exclude_modules: Collection[str] | None = None,
        mentions: Mentions | None = None,
    ) -> PackedCalls:
        """Pickle a function and the arguments of all its calls.

        Args:
            func: the function.
            items: one argument per call. The items are taken one at a time, after the function is pickled. Scalars are
                returned as they are.
            out_of_band: keep big buffers outside the pickles, as views of the objects' own memory.
            persistent_id: returns what to send in place of a future. While the function is pickled, which happens
                first, it may return only finished futures that contain their values.
            exclude_modules: modules whose file path contains one of these strings are not sent with this map.
            mentions: what the pickles mention is added to this object. All modules that it then contains are sent.

        Raises:
            SerializationError: an object cannot be pickled, or a module cannot be sent. The message names the object or
                module.
        """
        mentions = Mentions() if mentions is None else mentions
        packed_func = self._pack_function(func, out_of_band, persistent_id, mentions)
        if not isinstance(items, Scalars):
            items = _pack_items(items, out_of_band, persistent_id, mentions)
        return PackedCalls(packed_func, items, self._modules(mentions, exclude_modules or ()))

    def pack_object(
        self, obj: Any, *, persistent_id: PersistentId | None = None, mentions: Mentions
    ) -> tuple[Packed, dict[str, bytes]]:
        """Pickle an object that many calls may take, and find the modules that it needs.

        Args:
            obj: the object.
            persistent_id: returns what to send in place of a future: finished futures that contain their values.
            mentions: what the pickle mentions is added to this object.

        Raises:
            SerializationError: as for ``pack_call``.
        """
        packed = dumps(obj, path="the object", persistent_id=persistent_id, references=False, mentions=mentions)
        return packed, self._modules(mentions, ())

    def _pack_function(
        self, func: Any, out_of_band: bool, persistent_id: PersistentId | None, mentions: Mentions
    ) -> Packed:
        packed = self._repeats.find(func, mentions)
        if packed is None:
            state = State.of(func)
            name = getattr(func, "__name__", None) or f"the {type(func).__name__}"
            own = Mentions()
            packed = dumps(
                func, out_of_band=out_of_band, path=name, persistent_id=persistent_id, references=False, mentions=own
            )
            # Code without imports needs no modules.
            own.code = {code: package for code, package in own.code.items() if imports_of_code(code, package)}
            self._repeats.keep(func, state, packed, own)
            mentions.add(own)
        return packed

    def _modules(self, mentions: Mentions, exclude: Collection[str]) -> dict[str, bytes]:
        if (
            all(map(is_always_there, mentions.modules))
            and not mentions.hinted
            and not any(imports_of_code(*item) for item in mentions.code.items())
        ):
            return {}
        analyzer = ModuleDependencyAnalyzer(self.preinstalls, (*self.exclude, *exclude))
        _add_mentions(analyzer, mentions)
        return contents_of(analyzer.files())


def _pack_items(
    items: Iterable[Any], out_of_band: bool, persistent_id: PersistentId | None, mentions: Mentions
) -> list[Packed]:
    packed: list[Packed] = []
    item: Any = None
    try:
        for item in items:
            packed.append(dump(item, out_of_band=out_of_band, persistent_id=persistent_id, mentions=mentions))
    except Exception as error:  # noqa: BLE001 - __reduce__ of the user's classes may raise anything
        raise_unpicklable(item, error, f"argument {len(packed)}", persistent_id=persistent_id)
    return packed


def _add_mentions(analyzer: ModuleDependencyAnalyzer, mentions: Mentions) -> None:
    for name in mentions.modules:
        analyzer.add(name)
    for name in mentions.hinted:
        analyzer.add_hint(name)
    for code, package in mentions.code.items():
        analyzer.add_code(code, package)


# -- names of 0.4 ----------------------------------------------------------------------------------------------


class SerializeIndependent:
    """PyWren 0.4's serializer: pickles objects one by one, and finds the paths of the modules that the objects need.

    Args:
        preinstalled_modules: the modules that the worker has: names, or pairs of a name and whether it is a package.
    """

    def __init__(self, preinstalled_modules: Iterable[Any] = ()) -> None:
        self.preinstalled_modules = frozenset(
            item if isinstance(item, str) else str(item[0]) for item in preinstalled_modules
        )

    def __call__(
        self, list_of_objs: Sequence[Any], exclude_modules: Collection[str] | None = None
    ) -> tuple[list[bytes], set[str]]:
        """Pickle objects.

        Args:
            list_of_objs: the objects.
            exclude_modules: modules whose file path contains one of these strings are left out.

        Returns:
            The pickles, and the paths of the modules to send: files and the directories of packages.

        Raises:
            SerializationError: an object cannot be pickled, or a module cannot be sent.
        """
        mentions = Mentions()
        packed = [dumps(obj, path=f"object {index}", mentions=mentions).data for index, obj in enumerate(list_of_objs)]
        analyzer = ModuleDependencyAnalyzer(self.preinstalled_modules, exclude_modules or ())
        _add_mentions(analyzer, mentions)
        return packed, analyzer.get_and_clear_paths()


def create_mod_data(mod_paths: Iterable[str]) -> dict[str, str]:
    """Read the files of modules. Kept for programs written for PyWren 0.4.

    Args:
        mod_paths: paths of files, and of the directories of packages.

    Returns:
        The contents in base64. The keys are POSIX paths relative to the directory that must be on ``sys.path``.

    Raises:
        SerializationError: a package is too big or cannot be read.
    """
    data: dict[str, str] = {}
    for path in mod_paths:
        if os.path.isdir(path):
            files = list(files_below(path, os.path.basename(os.path.normpath(path))))
            check_size(files, os.path.basename(path), path)
        else:
            files = files_of(Module(os.path.splitext(os.path.basename(path))[0], path))
        data.update({name: bytes_to_b64str(content) for name, content in contents_of(files).items()})
    return data
