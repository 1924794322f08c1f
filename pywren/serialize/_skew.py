"""Warns if the runtime and this machine have different versions of a library that pickles use."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from typing import Any

from pywren.pickling.mentions import Mentions
from pywren.serialize._distributions import distributions_of, normalized
from pywren.serialize._imports import imports_of_code

logger = logging.getLogger(__name__)


def warn_of_skew(mentions: Mentions, runtime_meta: Mapping[str, Any]) -> None:
    """Warn, once per library, if the version of a library in the runtime differs from the version on this machine.

    Args:
        mentions: what the pickles of a map mention.
        runtime_meta: the dict that ``get_runtime_info`` returns. If it has no ``pkg_ver_list``, nothing is checked.
    """
    listed = runtime_meta.get("pkg_ver_list")
    if not listed:
        return
    tops = {name.partition(".")[0] for name in mentions.modules}
    for code, package in mentions.code.items():
        tops.update(name.partition(".")[0] for item in imports_of_code(code, package) for name in item.names)
    versions = {normalized(str(name)): str(version) for name, version in listed}
    for top in sorted(tops):
        for distribution in distributions_of(top):
            there, here = versions.get(normalized(distribution)), _version(distribution)
            if there is not None and here is not None and there != here:
                _warn(distribution, here, there)


@functools.cache
def _version(distribution: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


@functools.lru_cache(maxsize=256)  # one warning per library, however many maps use it
def _warn(distribution: str, here: str, there: str) -> None:
    logger.warning(
        "%s is %s here, but %s in the runtime of the workers: objects pickled with one may fail to load "
        "with the other, or behave differently. Install %s==%s here, or build the runtime again with "
        "`pywren runtime build`",
        distribution,
        here,
        there,
        distribution,
        there,
    )
