"""Which operation of which service a request is, read with botocore's own service models.

REST services (S3, Lambda) are matched by method, path and query; the others say it in ``X-Amz-Target`` or ``Action``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Operation(NamedTuple):
    """What a request asks for.

    Args:
        service: botocore's name of the service.
        name: the operation's name, ``""`` when no operation of the model fits.
        path_arguments: the labels of the path: ``{"Bucket": …, "Key": …}``.
    """

    service: str
    name: str
    path_arguments: Mapping[str, str]

    @property
    def action(self) -> str:
        """The IAM action it takes: ``lambda:InvokeFunction`` for ``Invoke``, ``s3:ListBucket`` for ``ListObjectsV2``."""
        raise NotImplementedError


def credential_scope(headers: Mapping[str, str], query: str) -> tuple[str, str, str]:
    """Return access key id, region and service that a request was signed for (Signature Version 4).

    Args:
        headers: the request's, looked up without regard to case.
        query: its query string: presigned requests say it there.

    Returns:
        Three empty strings for a request that is not signed.
    """
    raise NotImplementedError


def operation_of(
    service: str, method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
) -> Operation:
    """Return the operation that a request asks for. ``body`` is only looked at for query and JSON protocols."""
    raise NotImplementedError


def service_model(service: str) -> Any:
    """Return botocore's model of a service, loaded once."""
    raise NotImplementedError
