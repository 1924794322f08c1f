"""The one table that says what an error of AWS or of botocore means and what to do about it.

Errors are told by name, so that nothing here imports botocore: the local path never loads it.
A test fails when botocore grows a class that the table does not know.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pywren.exceptions import ConfigError, InvocationError, PywrenError, StorageError, StorageSetupError

# -- what an error is ----------------------------------------------------------------------------------------


class SetUpError(Exception):
    """Something on this machine keeps requests from being sent: a source of credentials, or a setting.

    It stands for whatever botocore lets through, beside its own errors, when it reads what is the user's.

    Args:
        what: a sentence that names the source and the remedy, as in ``Meaning``.
        said: what was said about it, on one line and without secrets.
    """

    def __init__(self, what: str, said: str) -> None:
        super().__init__(what, said)
        self.what = what
        self.said = said


def is_aws_error(error: BaseException) -> bool:
    """Tell whether an exception comes from botocore, or stands for what botocore let through."""
    return isinstance(error, SetUpError) or _is_stale(error) or any(_is_botocore(cls) for cls in type(error).__mro__)


def _is_botocore(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "botocore"


def _is_stale(error: BaseException) -> bool:
    # the one error that botocore raises as a plain RuntimeError: the source gave credentials that have expired
    return type(error) is RuntimeError and "refreshed credentials are still expired" in str(error)


def response(error: BaseException) -> Mapping[str, Any]:
    """Return the service's answer, empty when there was none."""
    answer = getattr(error, "response", None)
    return answer if is_aws_error(error) and isinstance(answer, dict) else {}


def error_code(error: BaseException) -> str:
    """Return the service's error code, such as ``NoSuchKey``; empty when the service did not answer."""
    return str(response(error).get("Error", {}).get("Code", ""))


def service_code(error: PywrenError) -> str:
    """Return the service's code behind one of our errors; empty when no service answered."""
    return "" if error.__cause__ is None else error_code(error.__cause__)


def request_id(error: BaseException) -> str:
    """Return the service's id of the request that failed; empty when the service did not answer."""
    return str(_metadata(error).get("RequestId", ""))


def was_repeated(error: BaseException) -> bool:
    """Tell whether botocore had sent the request before, so that this answer may be to our own echo."""
    return int(_metadata(error).get("RetryAttempts", 0)) > 0


def _metadata(error: BaseException) -> Mapping[str, Any]:
    metadata = response(error).get("ResponseMetadata", {})
    return metadata if isinstance(metadata, dict) else {}


def is_throttling(error: BaseException) -> bool:
    """Tell whether the service was busy or failed inside, so that the same request may succeed later."""
    code, status = error_code(error), _metadata(error).get("HTTPStatusCode", 0)
    # Lambda answers 502 for what will not pass either: a broken function, a key of KMS that refuses
    known_refusal = code in _BY_CODE or code.startswith("KMS")
    return code in _BUSY_CODES or (status in _BUSY_STATUSES and not known_refusal)


_BUSY_STATUSES = (429, 500, 502, 503, 504)


def is_network_error(error: BaseException) -> bool:
    """Tell whether the answer was lost on the way."""
    return not response(error) and meaning(error) in (_NETWORK, _BROKEN_TRANSFER)


def is_certificate_error(error: BaseException) -> bool:
    """Tell whether the two ends will never agree on TLS, however often it is tried."""
    return _meaning_of_tls(error) not in (None, _NETWORK)


def concerns_credentials(error: BaseException) -> bool:
    """Tell whether other credentials, from the same source later, may mend it."""
    code = error_code(error)
    if code:
        return code in _CREDENTIAL_CODES
    source_failed = (_NO_CREDENTIALS, _CREDENTIAL_SOURCE, _EXPIRED, _SSO, _LOGIN)
    return is_aws_error(error) and not response(error) and meaning(error) in source_failed


_CREDENTIAL_CODES = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "InvalidToken",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnauthorizedException",
        "UnrecognizedClientException",
    }
)


def was_denied(error: PywrenError) -> bool:
    """Tell whether one of our errors says that these credentials may not do it, ever."""
    return error_code(error.__cause__ or error) in _DENIALS


_DENIALS = frozenset({"403", "AccessDenied", "AccessDeniedException", "AllAccessDisabled", "UnauthorizedAccess"})


# -- what it means -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Meaning:
    """What is wrong and what to do about it.

    Args:
        text: a sentence; ``{permission}``, ``{login}``, ``{aws}`` and ``{region}`` are filled in.
        setup: it is this machine's set-up that is wrong, nothing that the service decides.
    """

    text: str
    setup: bool = False


_RUN_HERE = "PYWREN_EXECUTOR=local runs everything on this machine, without an account"

_NO_CREDENTIALS = Meaning(
    f"no AWS credentials were found: run `aws configure`, or name a profile in AWS_PROFILE; {_RUN_HERE}", setup=True
)
_CREDENTIAL_SOURCE = Meaning(
    "the source of the AWS credentials failed: check the profile in ~/.aws/config, or the role of this machine; "
    f"{_RUN_HERE}",
    setup=True,
)
_EXPIRED = Meaning(
    "the AWS credentials have expired: get new ones, with single sign-on by `{login}`; long jobs need credentials "
    "that renew themselves",
    setup=True,
)
_SSO = Meaning("the AWS sign-in has ended: run `{login}`", setup=True)
_LOGIN = Meaning("the AWS sign-in has ended or was refused: run `{aws_login}`", setup=True)
_PROFILE = Meaning(
    "the AWS profile or configuration file is wrong: check AWS_PROFILE and ~/.aws/config "
    "(`aws configure list-profiles` shows what there is)",
    setup=True,
)
_CONTENT = Meaning(
    "~/.aws/config holds what cannot be used: correct it, or name another profile in AWS_PROFILE", setup=True
)
_REGION = Meaning(
    "the AWS region is missing or wrong: write it in the configuration under account: aws_region",
    setup=True,
)
_NETWORK = Meaning(
    "the service could not be reached: check the network, the proxy (HTTPS_PROXY), the region and AWS_ENDPOINT_URL"
)
_CERTIFICATE = Meaning(
    "the certificate of the server was refused. If it is that of your company's firewall, or of a server of your own, "
    "name the file of the certificates to trust in AWS_CA_BUNDLE; else check AWS_ENDPOINT_URL and the clock of this "
    "machine",
    setup=True,
)
_CA_BUNDLE = Meaning(
    "the certificates to trust cannot be read: correct AWS_CA_BUNDLE (or REQUESTS_CA_BUNDLE, or ca_bundle in "
    "~/.aws/config), which has to name a file in PEM format",
    setup=True,
)
_NO_TLS = Meaning(
    "the server does not speak TLS: write http:// in AWS_ENDPOINT_URL or HTTPS_PROXY if that is right; with TLS, "
    "AWS_CA_BUNDLE names the certificates to trust",
    setup=True,
)
_BROKEN_TRANSFER = Meaning("the answer was cut off or damaged on the way, again and again: check the network")
_SETTINGS = Meaning("a setting in ~/.aws/config or an AWS_… environment variable is wrong", setup=True)
_NAME = Meaning("the name of a bucket or of another resource in the configuration is not valid", setup=True)
_INSTALLATION = Meaning(
    "botocore could not do what was asked: its version may not fit (`pip install -U boto3`), or this is a bug of pywren"
)
_ANOTHER_SERVER = Meaning(
    "what answered does not speak the protocol of AWS: check AWS_ENDPOINT_URL, and whether a proxy or a sign-in page "
    "is in the way",
    setup=True,
)
_WAITED = Meaning("it did not become ready: look at its state in the AWS console, then try again")
_BUSY = Meaning("the service was too busy, or failed inside, for as long as it was asked: try again later")
_REFUSED = Meaning("the service refused the request")

_BY_CLASS: Mapping[str, Meaning] = {
    name: meaning
    for names, meaning in (
        ("NoCredentialsError PartialCredentialsError NoAuthTokenError", _NO_CREDENTIALS),
        (
            "CredentialRetrievalError MetadataRetrievalError RefreshWithMFAUnsupportedError UnknownCredentialError "
            "UnknownTokenProviderError InvalidIMDSEndpointError InvalidIMDSEndpointModeError",
            _CREDENTIAL_SOURCE,
        ),
        ("SSOError TokenRetrievalError", _SSO),
        ("LoginError", _LOGIN),
        ("ProfileNotFound ConfigNotFound ConfigParseError", _PROFILE),
        ("InvalidConfigError", _CONTENT),
        ("BaseEndpointResolverError InvalidRegionError ServiceNotInRegionError UnknownRegionError", _REGION),
        ("ConnectionError HTTPClientError", _NETWORK),
        (
            "IncompleteReadError ResponseStreamingError ChecksumError FlexibleChecksumError AwsChunkedWrapperError "
            "UnseekableStreamError",
            _BROKEN_TRANSFER,
        ),
        (
            "InvalidChecksumConfigError InvalidDefaultsMode InvalidEndpointConfigurationError "
            "InvalidEndpointDiscoveryConfigurationError InvalidProxiesConfigError InvalidRetryConfigurationError "
            "InvalidS3AddressingStyleError InvalidS3UsEast1RegionalEndpointConfigError "
            "InvalidSTSRegionalEndpointsConfigError EndpointProviderError",
            _SETTINGS,
        ),
        (
            "InvalidDNSNameError InvalidHostLabelError ParamValidationError ValidationError "
            "UnsupportedOutpostResourceError UnsupportedS3AccesspointConfigurationError UnsupportedS3ArnError "
            "UnsupportedS3ConfigurationError UnsupportedS3ControlArnError UnsupportedS3ControlConfigurationError",
            _NAME,
        ),
        ("ResponseParserError", _ANOTHER_SERVER),
        ("WaiterError", _WAITED),
        ("CapacityNotAvailableError", Meaning("AWS has no capacity of this kind just now: try again later")),
        (
            "ApiVersionNotFoundError DataNotFoundError InvalidExpressionError MD5UnavailableError "
            "MissingDependencyException MissingParametersError OperationNotPageableError PaginationError "
            "StubResponseError UndefinedModelAttributeError UnknownClientMethodError UnknownServiceStyle "
            "UnknownSignatureVersionError UnsupportedServiceProtocolsError UnsupportedSignatureVersionError "
            "WaiterConfigError",
            _INSTALLATION,
        ),
        ("ClientError", _REFUSED),  # what the service answered: told by its code
    )
    for name in names.split()
}

_BUSY_CODES = frozenset(
    {
        "429",
        "500",
        "502",
        "503",
        "504",
        "BandwidthLimitExceeded",
        "ConditionalRequestConflict",
        "EC2ThrottledException",
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "KMS.ThrottlingException",
        "KMSThrottlingException",
        "OperationAborted",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        "TransactionInProgressException",
    }
)

_EC2 = (
    (
        "InsufficientInstanceCapacity InsufficientCapacity UnfulfillableCapacity InsufficientFreeAddressesInSubnet",
        Meaning(
            "EC2 has no capacity for so many of this type just now: ask for fewer, for another type with "
            "--instance_type, or without --spot_price, or name another availability zone or subnet under standalone"
        ),
    ),
    (
        "VcpuLimitExceeded InstanceLimitExceeded",
        Meaning(
            "the account may not run so many processors: terminate others (`pywren standalone terminate_instances`), "
            "or ask for more under Service Quotas > Amazon EC2 > Running On-Demand Standard instances"
        ),
    ),
    (
        "MaxSpotInstanceCountExceeded",
        Meaning(
            "the account may not run so many spot instances: ask for fewer, launch without --spot_price, or ask for "
            "more under Service Quotas > Amazon EC2 > All Standard Spot Instance Requests"
        ),
    ),
    (
        "SpotMaxPriceTooLow",
        Meaning("the spot price is below the market's: offer more with --spot_price, or leave it out"),
    ),
    (
        "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
        Meaning(
            "the account has never used spot instances, and these credentials may not make the role that they need: "
            "grant them {permission}, or run `{aws} iam create-service-linked-role --aws-service-name "
            "spot.amazonaws.com` once"
        ),
    ),
    (
        "InvalidKeyPair.NotFound",
        Meaning("there is no such key pair in this region: correct standalone: ec2_ssh_key, or take it out"),
    ),
    (
        "VPCIdNotSpecified DefaultVpcDoesNotExist MissingInput",
        Meaning(
            "there is no default network in this region: make one with `{aws} ec2 create-default-vpc`, or name a "
            "subnet with a way to the internet under standalone: subnet_id"
        ),
    ),
    (
        "InvalidSubnetID.NotFound InvalidSubnet",
        Meaning("there is no such subnet in this region: correct standalone: subnet_id, or take it out"),
    ),
    (
        "InvalidInstanceType Unsupported",
        Meaning(
            "there is no such instance type in this region or availability zone: choose another with --instance_type "
            "or under standalone: ec2_instance_type, or take out standalone: availability_zone"
        ),
    ),
    (
        "InvalidAMIID.NotFound InvalidAMIID.Malformed InvalidAMIID.Unavailable",
        Meaning(
            "there is no such image in this region: take standalone: target_ami out of the configuration (then it is "
            "Amazon Linux 2023), or write another there"
        ),
    ),
    (
        "PendingVerification OptInRequired Blocked",
        Meaning("AWS has not yet cleared this account for EC2 in this region: it sends an e-mail when it has"),
    ),
    (
        "AWS.SimpleQueueService.PurgeQueueInProgress PurgeQueueInProgress",
        Meaning("the queue was purged within the last minute: wait 60 seconds and try again"),
    ),
)

_BY_CODE: Mapping[str, Meaning] = {
    name: meaning
    for names, meaning in (
        (
            "403 AccessDenied AccessDeniedException UnauthorizedOperation UnauthorizedAccess AuthorizationError",
            Meaning("these AWS credentials may not do this: grant them {permission}"),
        ),
        ("ExpiredToken ExpiredTokenException RequestExpired UnauthorizedException", _EXPIRED),
        (
            "InvalidAccessKeyId InvalidClientTokenId UnrecognizedClientException AuthFailure InvalidToken",
            Meaning(
                "AWS does not know these credentials: they were deleted or belong elsewhere. `{aws} sts "
                "get-caller-identity` shows which are used; `aws configure` takes new ones",
                setup=True,
            ),
        ),
        (
            "SignatureDoesNotMatch InvalidSignatureException IncompleteSignature MissingAuthenticationToken",
            Meaning(
                "the secret key does not belong to the access key, or the clock of this machine is wrong: check both "
                "(`aws configure` takes new keys)",
                setup=True,
            ),
        ),
        (
            "RequestTimeTooSkewed RequestInTheFuture",
            Meaning("the clock of this machine is wrong: set it (for example with NTP)", setup=True),
        ),
        (
            "NoSuchBucket",
            Meaning(
                "there is no such bucket: create it with `pywren create_bucket`, or name yours in the configuration "
                "under s3: bucket"
            ),
        ),
        (
            "PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException 301",
            Meaning("the bucket is in another region{region}: write that one under account: aws_region", setup=True),
        ),
        (
            "InvalidBucketName",
            Meaning("this is no valid name of a bucket: correct it in the configuration under s3: bucket", setup=True),
        ),
        ("NotImplemented", Meaning("the S3 server does not know this request")),
        (
            "MissingContentMD5 InvalidDigest",
            Meaning("the S3 server wants another checksum than Content-MD5: a newer version of it may not"),
        ),
        ("InvalidRange 416", Meaning("the object is shorter than the range that was asked for")),
        (
            "EntityTooLarge",
            Meaning(
                "the object is larger than the 5 GB that one upload may have: return less, or have the function store "
                "it in parts and return their place"
            ),
        ),
        (
            "RequestTooLarge RequestTooLargeException RequestEntityTooLargeException 413",
            Meaning(
                "the payload is larger than the service takes (1 MB for an asynchronous call): move data out of "
                "extra_env and extra_meta"
            ),
        ),
        (
            "ResourceNotFoundException",
            Meaning("it does not exist in this region and account{region}: {missing}"),
        ),
        (
            "AWS.SimpleQueueService.NonExistentQueue QueueDoesNotExist",
            Meaning("there is no such queue: create it with `pywren create_queue`"),
        ),
        ("NoSuchEntity", Meaning("there is no such role or policy: `pywren create_role` creates it")),
        (
            "BucketAlreadyExists",
            Meaning("the bucket belongs to somebody else: choose another name under s3: bucket"),
        ),
        (
            "TooManyBuckets LimitExceeded LimitExceededException OverLimit",
            Meaning("the account has as many of these as it may: delete some, or ask for more under Service Quotas"),
        ),
        (
            "AWS.SimpleQueueService.QueueDeletedRecently QueueDeletedRecently",
            Meaning("a queue of this name was deleted within the last minute: wait 60 seconds and try again"),
        ),
        (
            "EntityAlreadyExists DeleteConflict ConcurrentModification ConcurrentModificationException",
            Meaning("somebody else is changing it at this moment: run the command again"),
        ),
        (
            "InvalidRuntimeException InvalidZipFileException InvalidSecurityGroupIDException InvalidSubnetIDException",
            Meaning("the function is broken as it was deployed: deploy it again with `pywren deploy_lambda`"),
        ),
        (
            "RecursiveInvocationException",
            Meaning("AWS stopped a chain of functions that invoke each other (about 16 deep): map wider, not deeper"),
        ),
        (
            "ResourceConflictException",
            Meaning("it exists already, or another change to it is under way: wait a moment and try again"),
        ),
        *_EC2,
        (
            "CodeStorageExceededException",
            Meaning("the account's store of function code is full: delete old functions or versions"),
        ),
    )
    for name in names.split()
}

_NO_CONDITIONS = Meaning("the S3 server does not know conditional writes (If-None-Match), which pywren needs")

_KMS = Meaning(
    "the data is encrypted with a KMS key that refuses: grant kms:Decrypt and kms:GenerateDataKey on the key to these "
    "credentials and to the function's role, and check that the key is enabled"
)


def meaning(error: BaseException) -> Meaning:
    """Return what an error of botocore means."""
    if isinstance(error, SetUpError):
        return Meaning(error.what, setup=True)
    if _is_stale(error):
        return _EXPIRED
    code = error_code(error)
    text = str(response(error).get("Error", {}).get("Message", ""))
    if code.startswith("KMS") or (code in ("AccessDenied", "AccessDeniedException") and "kms:" in text):
        return _KMS
    if is_throttling(error):
        return _BUSY
    if code == "NotImplemented" and getattr(error, "operation_name", "") == "PutObject":
        return _NO_CONDITIONS
    return _BY_CODE.get(code) or _meaning_of_tls(error) or meaning_of_class(type(error)) or _REFUSED


def _meaning_of_tls(error: BaseException) -> Meaning | None:
    """Return what an error of TLS means: botocore has one class for all of them, around what ``ssl`` raised."""
    if "SSLError" not in {cls.__name__ for cls in type(error).__mro__ if _is_botocore(cls)}:
        return None
    inner = getattr(error, "kwargs", {}).get("error")
    while isinstance(inner, BaseException) and inner.args and isinstance(inner.args[0], BaseException):
        inner = inner.args[0]  # urllib3's own error is between them
    if isinstance(inner, ValueError):  # ssl.SSLCertVerificationError, and urllib3's for a name that does not match
        return _CERTIFICATE
    if isinstance(inner, _NO_FILE) or getattr(inner, "library", None) in ("X509", "PEM"):
        return _CA_BUNDLE
    return _NO_TLS if getattr(inner, "reason", None) in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST") else _NETWORK


_NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)


def remedy_of_source(error: BaseException, otherwise: str) -> str | None:
    """Return what to do about a source of credentials that raised something.

    Args:
        error: what it raised.
        otherwise: the remedy of the source, for what has none of its own.

    Returns:
        ``None`` when it is not the source's fault: the network, a busy service, or files and profile as such.
    """
    if not is_aws_error(error):
        return otherwise
    what = meaning(error)
    if isinstance(error, SetUpError) or what in (_BUSY, _NETWORK, _PROFILE) or is_certificate_error(error):
        return None
    return {_SSO: "run `{login}`", _LOGIN: "run `{aws_login}`"}.get(what, otherwise)


def meaning_of_class(kind: type[BaseException]) -> Meaning | None:
    """Return what an exception class of botocore means: its own entry, or that of its nearest base."""
    for cls in kind.__mro__:
        if _is_botocore(cls) and cls.__name__ in _BY_CLASS:
            return _BY_CLASS[cls.__name__]
    return None


# -- the boundary --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Boundary:
    """A context manager around requests: what botocore raises leaves it as one of our errors.

    Args:
        doing: what is being done, for "cannot …", such as ``read s3://bucket/key``.
        refused: the class to raise when the service refuses.
        permission: the IAM permission that it takes, and on what.
        missing: what to do when the thing does not exist.
        profile: the AWS profile in use.
        special: may turn an error into a more particular one.
    """

    doing: str
    refused: type[PywrenError]
    permission: str = "the permission for it"
    missing: str = "check its name in the configuration"
    profile: str | None = None
    special: Callable[[BaseException], PywrenError | None] = lambda error: None

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and is_aws_error(error):
            raise self.special(error) or self.translate(error) from error

    def translate(self, error: BaseException) -> PywrenError:
        """Return our error for one of botocore's."""
        what = meaning(error)
        message = f"cannot {self.doing}: {what.text.format(**self._words(error))} ({_said(error)})"
        if issubclass(self.refused, StorageError):
            return StorageSetupError(message) if what.setup else self.refused(message)
        if what.setup:
            return ConfigError(message)
        if issubclass(self.refused, InvocationError):
            return self.refused(message, code=error_code(error), request_id=request_id(error))
        return self.refused(message)

    def _words(self, error: BaseException) -> dict[str, str]:
        profile = self.profile or os.environ.get("AWS_PROFILE")
        suffix = f" --profile {profile}" if profile else ""
        return {
            "permission": self.permission,
            "missing": self.missing,
            "login": "aws sso login" + suffix,
            "aws_login": "aws login" + suffix,
            "aws": "aws" + suffix,
            "region": _region(error),
        }


def _region(error: BaseException) -> str:
    found = _metadata(error).get("HTTPHeaders", {}).get("x-amz-bucket-region") or response(error).get("Error", {}).get(
        "Region"
    )
    return f", {found}" if found else ""


def _said(error: BaseException) -> str:
    answer = response(error)
    if isinstance(error, SetUpError):
        return error.said
    if not answer:
        return one_line(f"{type(error).__name__}: {error}")
    message = str(answer.get("Error", {}).get("Message", ""))
    message = message.partition(" Encoded authorization failure message")[0]  # EC2's: hundreds of letters for nobody
    said = f"AWS said {error_code(error) or '?'}: {message}"
    return f"{said}; request {request_id(error)}" if request_id(error) else said


def one_line(text: str) -> str:
    """Return a text on one line, and not much of it."""
    words = " ".join(text.split())
    return words if len(words) <= _LONGEST_SAID else words[:_LONGEST_SAID] + " …"


_LONGEST_SAID = 400
