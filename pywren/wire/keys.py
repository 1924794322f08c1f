"""``CallsetKeys`` and ``CallKeys``: the keys of all objects in a storage."""

from __future__ import annotations

import functools
import re
import string
from dataclasses import dataclass
from typing import NamedTuple

from pywren.exceptions import ArgumentError
from pywren.wire.digests import sha256

FUNC_SUFFIX = "func.pickle"
AGG_DATA_SUFFIX = "aggdata.pickle"
DATA_SUFFIX = "data.pickle"
OUTPUT_SUFFIX = "output.pickle"
STATUS_SUFFIX = "status.json"
CANCEL_SUFFIX = "cancel"
BEACON_SUFFIX = ".beacon"

JOB_NAME_LIMIT = 200
"""The most characters of a job's name."""

_LONGEST_SEGMENT = 200
"""The most bytes of a quoted name. File systems allow 255 in a file's name (Linux, macOS and Windows)."""

_UNQUOTED = frozenset(string.ascii_lowercase + string.digits + "-_.")


def jobs_prefix(prefix: str) -> str:
    """Return the prefix of the keys of all named jobs, with its trailing slash."""
    return "/".join(part for part in (prefix.strip("/"), "jobs") if part) + "/"


def job_key(prefix: str, name: str) -> str:
    """Return the key under which the job of this name is found.

    Args:
        prefix: the storage's prefix.
        name: any text of 1 to ``JOB_NAME_LIMIT`` characters.

    Raises:
        ArgumentError: the name is empty, too long, or contains half of a surrogate pair.
    """
    if not isinstance(name, str) or not 0 < len(name) <= JOB_NAME_LIMIT:
        raise ArgumentError(f"the name of a job is a text of 1 to {JOB_NAME_LIMIT} characters, not {name!r:.220}")
    try:
        quoted = "".join(_quoted(character) for character in name)
    except UnicodeEncodeError as error:
        raise ArgumentError(f"the name of a job cannot be encoded as UTF-8: {name!r}") from error
    if len(quoted) > _LONGEST_SEGMENT:
        # A quoted name contains no "~", so no other name has this key.
        quoted = "~" + sha256(name.encode())
    return f"{jobs_prefix(prefix)}{quoted}.json"


def _quoted(character: str) -> str:
    # Capitals are quoted too: some file systems do not distinguish them from small letters.
    return character if character in _UNQUOTED else "".join(f"%{byte:02X}" for byte in character.encode())


class ParsedKey(NamedTuple):
    """What the key of an object tells about a call.

    Args:
        call_id: the call.
        kind: ``status``, ``attempt`` (the status of a failed attempt after which the call may be tried again) or
            ``beacon``.
        attempt: the attempt, from 1; 0 for a ``status``.
    """

    call_id: str
    kind: str
    attempt: int = 0


def failure_prefix(function: str) -> str:
    """Return the prefix of the keys under which Lambda records failed invocations of a function; AWS defines it."""
    return f"aws/lambda/async/{function}"


def function_name(name_or_arn: str) -> str:
    """Return the name of a Lambda function, given its name or ARN, with or without a qualifier."""
    _, arn, name = name_or_arn.rpartition(":function:")
    return (name if arn else name_or_arn).partition(":")[0]


MOST_COPIES = 9
"""The most copies of a function, the function itself included. Names of copies end in one digit, so that a policy can
name all of them."""


def copies_of(function: str, copies: int) -> tuple[str, ...]:
    """Return the names of the copies of a Lambda function, the function itself first.

    Args:
        function: the function's name or ARN, with or without a qualifier.
        copies: how many there are, the function itself included: from 1 to ``MOST_COPIES``.
    """
    start, arn, name = function.rpartition(":function:")
    name, colon, qualifier = name.partition(":")
    further = (f"{start}{arn}{name}_copy{number}{colon}{qualifier}" for number in range(2, copies + 1))
    return (function, *further)


def chunk_name(call_id: str, attempt: int) -> str:
    """Return the name of the chunk whose first call, and whose attempt of it, these are."""
    return f"{call_id}.{attempt}"


@dataclass(frozen=True)
class CallsetKeys:
    """The keys of all objects of one callset: ``<prefix>/<callset_id>/…``."""

    prefix: str
    callset_id: str

    @functools.cached_property  # a listing asks once for each key
    def root(self) -> str:
        """The prefix of all keys of the callset, with its trailing slash."""
        return "/".join(part for part in (self.prefix.strip("/"), self.callset_id) if part) + "/"

    @property
    def func(self) -> str:
        """The key of the function and its modules."""
        return self.root + FUNC_SUFFIX

    @property
    def aggdata(self) -> str:
        """The key of many small arguments, joined end to end."""
        return self.root + AGG_DATA_SUFFIX

    def call(self, call_id: str) -> CallKeys:
        """Return the keys of one call."""
        return CallKeys(f"{self.root}{call_id}/")

    @property
    def lease(self) -> str:
        """The key of the lease of the driver that owns the calls."""
        return self.root + "driver.json"

    @property
    def manifest(self) -> str:
        """The key of what is needed to find a named callset again."""
        return self.root + "manifest.bin"

    @property
    def resumptions(self) -> str:
        """The prefix of the keys of the records of who resumed a named job."""
        return self.root + "resumed/"

    def stored_arguments(self, index: int) -> str:
        """Return the key of some arguments of a named job, joined end to end, which its payloads contain as well."""
        return f"{self.root}arguments-{index}.pickle"

    @property
    def journals(self) -> str:
        """The prefix of the keys of the journals of all chunks."""
        return self.root + "chunks/"

    def page(self, chunk: str, number: int) -> str:
        """Return the key of a page of the journal of a chunk; 0 is the plan."""
        return f"{self.journals}{chunk}/{number}.json"

    def parse_page(self, key: str) -> tuple[str, int] | None:
        """Return the name of the chunk and the number of the page that a key names; ``None`` for any other object."""
        found = _PAGE.fullmatch(key.removeprefix(self.journals)) if key.startswith(self.journals) else None
        return None if found is None else (found[1], int(found[2]))

    def parse(self, key: str) -> ParsedKey | None:
        """Return what a key tells about a call of this callset; ``None`` for any other object."""
        if not key.startswith(self.root):
            return None
        call_id, _, name = key[len(self.root) :].partition("/")
        if not call_id:
            return None
        if name == STATUS_SUFFIX:
            return ParsedKey(call_id, "status")
        return _of_attempt(call_id, name)


def _of_attempt(call_id: str, name: str) -> ParsedKey | None:
    folder, _, file = name.partition("/")
    number, dot, suffix = file.partition(".")
    kind = _KINDS.get(dot + suffix)
    # Exactly as ``CallKeys`` writes numbers: two keys must not name the same attempt.
    if folder != "attempts" or kind is None or not _NUMBER.fullmatch(number):
        return None
    return ParsedKey(call_id, kind, int(number))


_KINDS = {".json": "attempt", BEACON_SUFFIX: "beacon"}
_NUMBER = re.compile("[1-9][0-9]{0,5}")
_PAGE = re.compile(r"([^/]+\.[1-9][0-9]{0,5})/(0|[1-9][0-9]{0,5})\.json")


@dataclass(frozen=True)
class CallKeys:
    """The keys of the objects of one call: ``<prefix>/<callset_id>/<call_id>/…``."""

    root: str

    @property
    def data(self) -> str:
        """The key of the argument, if it has its own object."""
        return self.root + DATA_SUFFIX

    @property
    def output(self) -> str:
        """The key of the outcome, if it is too big for the status."""
        return self.root + OUTPUT_SUFFIX

    @property
    def status(self) -> str:
        """The key of the final status. The first write of this object ends the call."""
        return self.root + STATUS_SUFFIX

    @property
    def cancel(self) -> str:
        """The key of 0.4's marker of a cancelled call."""
        return self.root + CANCEL_SUFFIX

    def attempt(self, attempt: int) -> str:
        """Return the key of the status of a failed attempt after which the call may be tried again."""
        return f"{self.root}attempts/{attempt}.json"

    def beacon(self, attempt: int) -> str:
        """Return the key of the object with which a worker shows that it runs an attempt."""
        return f"{self.root}attempts/{attempt}{BEACON_SUFFIX}"

    def spare_output(self, attempt: int, sha256: str) -> str:
        """Return the key for an outcome if ``output`` already exists, because Lambda may deliver a call twice."""
        return f"{self.root}attempts/{attempt}-{sha256[:16]}.pickle"

    @property
    def references(self) -> str:
        """The key of the list of references, if it is too long for the payload."""
        return self.root + "references.json"

    def input(self, index: int) -> str:
        """Return the key for a copy of an outcome. An argument refers to the outcome, and this storage lacked it."""
        return f"{self.root}inputs/{index}.pickle"
