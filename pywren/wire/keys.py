"""``CallsetKeys`` and ``CallKeys``: the keys of all objects in a storage."""

from __future__ import annotations

from dataclasses import dataclass

FUNC_SUFFIX = "func.pickle"
AGG_DATA_SUFFIX = "aggdata.pickle"
DATA_SUFFIX = "data.pickle"
OUTPUT_SUFFIX = "output.pickle"
STATUS_SUFFIX = "status.json"
CANCEL_SUFFIX = "cancel"


def failure_prefix(function: str) -> str:
    """Return the prefix of the keys under which Lambda records failed invocations of a function; AWS defines it."""
    return f"aws/lambda/async/{function}"


def function_name(name_or_arn: str) -> str:
    """Return the name of a Lambda function, given its name or ARN, with or without a qualifier."""
    _, arn, name = name_or_arn.rpartition(":function:")
    return (name if arn else name_or_arn).partition(":")[0]


@dataclass(frozen=True)
class CallsetKeys:
    """The keys of all objects of one callset: ``<prefix>/<callset_id>/…``."""

    prefix: str
    callset_id: str

    @property
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

    def call_id_of_status(self, key: str) -> str | None:
        """Return the id of the call whose ``status.json`` has this key, or ``None`` for any other object."""
        if not key.startswith(self.root):
            return None
        call_id, _, name = key[len(self.root) :].partition("/")
        return call_id if call_id and name == STATUS_SUFFIX else None


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
