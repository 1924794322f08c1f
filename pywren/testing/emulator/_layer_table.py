"""``LayerTable``: the layers of the emulated account, and their versions."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pywren.testing.emulator._code import Code
from pywren.testing.emulator._rest_json import Refusal
from pywren.testing.emulator._settings import ACCOUNT_ID

_ARN = re.compile(r"(?P<layer>arn:[^:]+:lambda:[^:]+:\d{12}:layer:(?P<name>[^:]+))(?::(?P<version>\d+))?")


@dataclass(frozen=True)
class LayerVersion:
    """One version of a layer.

    Args:
        layer_arn: the layer's ARN, without the version.
        number: the version number.
        code: the layer's code.
        created: the time when the version was published, in AWS's format.
        details: ``Description``, ``LicenseInfo``, ``CompatibleRuntimes``, ``CompatibleArchitectures`` as published.
    """

    layer_arn: str
    number: int
    code: Code
    created: str
    details: Mapping[str, Any]

    @property
    def arn(self) -> str:
        """The version's own ARN."""
        return f"{self.layer_arn}:{self.number}"

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.layer_arn.rpartition(":")[2]

    def suits(self, request: Mapping[str, Any]) -> bool:
        """Tell whether the version matches the runtime and architecture that a listing asks for."""
        asked = (("CompatibleRuntime", "CompatibleRuntimes"), ("CompatibleArchitecture", "CompatibleArchitectures"))
        return all(name not in request or request[name] in self.details.get(ours, ()) for name, ours in asked)


class LayerTable:
    """All layers.

    Args:
        region: the region of the layers.
        unpack: extracts the code of ``ZipFile`` or ``S3Bucket``/``S3Key``.
        timestamp: returns the current time in AWS's format.
    """

    def __init__(
        self, region: str, *, unpack: Callable[[Mapping[str, Any]], Awaitable[Code]], timestamp: Callable[[], str]
    ) -> None:
        self._region = region
        self._unpack = unpack
        self._timestamp = timestamp
        self._versions: dict[str, dict[int, LayerVersion]] = {}  # by the layer's ARN
        self._last: dict[str, int] = {}

    async def publish(self, request: Mapping[str, Any]) -> LayerVersion:
        """PublishLayerVersion: return the new version. Its number is never that of a deleted version."""
        arn = self._layer_arn(request["LayerName"])
        code = await self._unpack(request["Content"])
        number = self._last.get(arn, 0) + 1
        details = {name: value for name, value in request.items() if name not in ("LayerName", "Content")}
        version = LayerVersion(arn, number, code, self._timestamp(), details)
        self._last[arn] = number
        self._versions.setdefault(arn, {})[number] = version
        return version

    def get(self, name_or_arn: str, number: int) -> LayerVersion:
        """Return a version; raise ``Refusal`` (``ResourceNotFoundException``) if the version does not exist."""
        version = self._versions.get(self._layer_arn(name_or_arn), {}).get(number)
        if version is None:
            raise Refusal("ResourceNotFoundException", "The resource you requested does not exist.")
        return version

    def get_by_arn(self, version_arn: str) -> LayerVersion:
        """Return the version with this ARN; raise ``Refusal`` (``ResourceNotFoundException``) if there is none."""
        found = _ARN.fullmatch(version_arn)
        return self.get(found["layer"] if found else "", int((found and found["version"]) or 0))

    def delete(self, name_or_arn: str, number: int) -> None:
        """DeleteLayerVersion: functions that use the version keep it. Deleting a missing version is not an error."""
        self._versions.get(self._layer_arn(name_or_arn), {}).pop(number, None)

    def versions(self, name_or_arn: str) -> list[LayerVersion]:
        """Return the versions of a layer, the latest first."""
        found = self._versions.get(self._layer_arn(name_or_arn), {})
        return sorted(found.values(), key=lambda version: version.number, reverse=True)

    def latest(self, request: Mapping[str, Any]) -> list[LayerVersion]:
        """Return the latest version of each layer that matches a ``ListLayers`` request, sorted by name."""
        suiting = (
            [version for version in versions.values() if version.suits(request)]
            for _, versions in sorted(self._versions.items())
        )
        return [max(versions, key=lambda version: version.number) for versions in suiting if versions]

    def of_function(self, arns: Iterable[str], most: int) -> list[LayerVersion]:
        """Return the layers that a function requests.

        Args:
            arns: the ARNs of the versions, in the function's order.
            most: the maximum number of layers.

        Raises:
            Refusal: there are too many layers, a version does not exist, or two versions are of the same layer.
        """
        wanted = list(arns)
        if len(wanted) > most:
            raise _invalid(f"Cannot reference more than {most} layers.")
        chosen: dict[str, LayerVersion] = {}
        for arn in wanted:
            try:
                version = self.get_by_arn(arn)
            except Refusal as refusal:
                raise _invalid(f"Layer version {arn} does not exist.") from refusal
            earlier = chosen.setdefault(version.layer_arn, version)
            if earlier is not version:
                raise _invalid(
                    "Two different versions of the same layer are not allowed to be referenced in the same function. "
                    f"{earlier.arn} and {version.arn}."
                )
        return list(chosen.values())

    def _layer_arn(self, name_or_arn: str) -> str:
        found = _ARN.fullmatch(name_or_arn)
        return found["layer"] if found else f"arn:aws:lambda:{self._region}:{ACCOUNT_ID}:layer:{name_or_arn}"


def _invalid(message: str) -> Refusal:
    return Refusal("InvalidParameterValueException", message)
