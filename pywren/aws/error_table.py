"""The table of errors: what each exception class of botocore and each error code of AWS means, and what to do about it.

Errors are listed by name, so that this module does not import botocore. The codes come from the API references of the
services, from botocore's own retry rules, and from S3-compatible servers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Meaning:
    """What is wrong and what to do about it.

    Args:
        text: a sentence with the placeholders ``{permission}``, ``{missing}``, ``{login}``, ``{aws_login}``, ``{aws}``
            and ``{region}``.
        setup: whether the cause is the set-up of this machine rather than a decision of the service.
    """

    text: str
    setup: bool = False


_RUN_HERE = "to run calls on this machine, without an account, set PYWREN_EXECUTOR=local"

NO_CREDENTIALS = Meaning(
    f"no AWS credentials were found: run `aws configure`, or set AWS_PROFILE to a profile; {_RUN_HERE}", setup=True
)
CREDENTIAL_SOURCE = Meaning(
    f"the AWS credential source failed: check the profile in ~/.aws/config, or the role of this machine; {_RUN_HERE}",
    setup=True,
)
EXPIRED = Meaning(
    "the AWS credentials have expired: get new credentials (single sign-on: run `{login}`); long jobs need credentials "
    "that renew themselves",
    setup=True,
)
SSO = Meaning("the AWS sign-in has expired: run `{login}`", setup=True)
LOGIN = Meaning("the AWS sign-in has expired or was refused: run `{aws_login}`", setup=True)
PROFILE = Meaning(
    "the AWS profile or configuration file is wrong: check AWS_PROFILE and ~/.aws/config "
    "(`aws configure list-profiles` lists the profiles)",
    setup=True,
)
CONTENT = Meaning(
    "~/.aws/config contains a setting that cannot be used: correct it, or choose another profile with AWS_PROFILE",
    setup=True,
)
REGION = Meaning(
    "the AWS region is missing or wrong: set `account: aws_region` in the configuration",
    setup=True,
)
NETWORK = Meaning(
    "the service could not be reached: check the network, the proxy (HTTPS_PROXY), the region and AWS_ENDPOINT_URL"
)
CERTIFICATE = Meaning(
    "the server's certificate is not trusted. If it belongs to your company's firewall or to your own server, set "
    "AWS_CA_BUNDLE to a file with the certificates to trust; otherwise check AWS_ENDPOINT_URL and this machine's clock",
    setup=True,
)
CA_BUNDLE = Meaning(
    "the trusted certificates cannot be read: set AWS_CA_BUNDLE (or REQUESTS_CA_BUNDLE, or ca_bundle in "
    "~/.aws/config) to a file in PEM format",
    setup=True,
)
NO_TLS = Meaning(
    "the server does not speak TLS: if that is intended, write http:// in AWS_ENDPOINT_URL or HTTPS_PROXY; with TLS, "
    "set AWS_CA_BUNDLE to the certificates to trust",
    setup=True,
)
BROKEN_TRANSFER = Meaning("the response was repeatedly cut off or damaged in transit: check the network")
SETTINGS = Meaning("a setting in ~/.aws/config or an AWS_… environment variable is wrong: correct it", setup=True)
NAME = Meaning("the configuration contains an invalid name for a bucket or another resource", setup=True)
INSTALLATION = Meaning(
    "botocore could not carry out the request: its version may be incompatible (`pip install -U boto3`), or this is a "
    "bug in pywren"
)
ANOTHER_SERVER = Meaning(
    "the response does not follow the AWS protocol: check AWS_ENDPOINT_URL, and whether a proxy or a sign-in page "
    "intercepts requests",
    setup=True,
)
WAITED = Meaning("the resource did not become ready: check its state in the AWS console, then try again")
BUSY = Meaning("the service was overloaded or failing, and retries did not help: try again later")
REFUSED = Meaning("the service refused the request")

BY_CLASS: Mapping[str, Meaning] = {
    name: meaning
    for names, meaning in (
        ("NoCredentialsError PartialCredentialsError NoAuthTokenError", NO_CREDENTIALS),
        (
            "CredentialRetrievalError MetadataRetrievalError RefreshWithMFAUnsupportedError UnknownCredentialError "
            "UnknownTokenProviderError InvalidIMDSEndpointError InvalidIMDSEndpointModeError",
            CREDENTIAL_SOURCE,
        ),
        ("SSOError TokenRetrievalError", SSO),
        ("LoginError", LOGIN),
        ("ProfileNotFound ConfigNotFound ConfigParseError", PROFILE),
        ("InvalidConfigError", CONTENT),
        ("BaseEndpointResolverError InvalidRegionError ServiceNotInRegionError UnknownRegionError", REGION),
        ("ConnectionError HTTPClientError", NETWORK),
        (
            "IncompleteReadError ResponseStreamingError ChecksumError FlexibleChecksumError AwsChunkedWrapperError "
            "UnseekableStreamError",
            BROKEN_TRANSFER,
        ),
        (
            "InvalidChecksumConfigError InvalidDefaultsMode InvalidEndpointConfigurationError "
            "InvalidEndpointDiscoveryConfigurationError InvalidProxiesConfigError InvalidRetryConfigurationError "
            "InvalidS3AddressingStyleError InvalidS3UsEast1RegionalEndpointConfigError "
            "InvalidSTSRegionalEndpointsConfigError EndpointProviderError",
            SETTINGS,
        ),
        (
            "InvalidDNSNameError InvalidHostLabelError ParamValidationError ValidationError "
            "UnsupportedOutpostResourceError UnsupportedS3AccesspointConfigurationError UnsupportedS3ArnError "
            "UnsupportedS3ConfigurationError UnsupportedS3ControlArnError UnsupportedS3ControlConfigurationError",
            NAME,
        ),
        ("ResponseParserError", ANOTHER_SERVER),
        ("WaiterError", WAITED),
        ("CapacityNotAvailableError", Meaning("AWS has no capacity of this kind right now: try again later")),
        (
            "ApiVersionNotFoundError DataNotFoundError InvalidExpressionError MD5UnavailableError "
            "MissingDependencyException MissingParametersError OperationNotPageableError PaginationError "
            "StubResponseError UndefinedModelAttributeError UnknownClientMethodError UnknownServiceStyle "
            "UnknownSignatureVersionError UnsupportedServiceProtocolsError UnsupportedSignatureVersionError "
            "WaiterConfigError",
            INSTALLATION,
        ),
        ("ClientError", REFUSED),  # the service answered; its error code says more
    )
    for name in names.split()
}
"""What each exception class of botocore means, by the name of the class."""

BUSY_CODES = frozenset(
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
"""Error codes that an overloaded or failing service sends. The same request may succeed later."""

_EC2 = (
    (
        "InsufficientInstanceCapacity InsufficientCapacity UnfulfillableCapacity InsufficientFreeAddressesInSubnet",
        Meaning(
            "EC2 does not have enough capacity for this type right now: ask for fewer instances, choose another "
            "--instance_type, leave out --spot_price, or set `standalone: availability_zone` or `standalone: "
            "subnet_id` to another value"
        ),
    ),
    (
        "VcpuLimitExceeded InstanceLimitExceeded",
        Meaning(
            "the account's quota does not allow that many processors: terminate other instances (`pywren standalone "
            "terminate_instances`), or request more under Service Quotas > Amazon EC2 > Running On-Demand Standard "
            "instances"
        ),
    ),
    (
        "MaxSpotInstanceCountExceeded",
        Meaning(
            "the account's quota does not allow that many spot instances: ask for fewer instances, launch without "
            "--spot_price, or request more under Service Quotas > Amazon EC2 > All Standard Spot Instance Requests"
        ),
    ),
    (
        "SpotMaxPriceTooLow",
        Meaning("the spot price is below the market price: offer more with --spot_price, or leave the option out"),
    ),
    (
        "AuthFailure.ServiceLinkedRoleCreationNotPermitted",
        Meaning(
            "the account has never used spot instances, and these credentials are not allowed to create the "
            "role that spot instances need: grant them {permission}, or run `{aws} iam create-service-linked-role "
            "--aws-service-name spot.amazonaws.com` once"
        ),
    ),
    (
        "InvalidKeyPair.NotFound",
        Meaning("there is no such key pair in this region: correct or remove `standalone: ec2_ssh_key`"),
    ),
    (
        "VPCIdNotSpecified DefaultVpcDoesNotExist MissingInput",
        Meaning(
            "this region has no default network: create one with `{aws} ec2 create-default-vpc`, or set standalone: "
            "subnet_id to a subnet with internet access"
        ),
    ),
    (
        "InvalidSubnetID.NotFound InvalidSubnet",
        Meaning("there is no such subnet in this region: correct or remove `standalone: subnet_id`"),
    ),
    (
        "InvalidInstanceType Unsupported",
        Meaning(
            "there is no such instance type in this region or availability zone: choose another with --instance_type "
            "or under `standalone: ec2_instance_type`, or remove `standalone: availability_zone`"
        ),
    ),
    (
        "InvalidAMIID.NotFound InvalidAMIID.Malformed InvalidAMIID.Unavailable",
        Meaning(
            "there is no such image in this region: remove `standalone: target_ami` from the configuration to use "
            "Amazon Linux 2023, or set it to another image"
        ),
    ),
    (
        "PendingVerification OptInRequired Blocked",
        Meaning("AWS has not yet approved this account for EC2 in this region: wait for the e-mail that says it has"),
    ),
    (
        "AWS.SimpleQueueService.PurgeQueueInProgress PurgeQueueInProgress",
        Meaning("the queue was purged within the last minute: wait 60 seconds and try again"),
    ),
)

BY_CODE: Mapping[str, Meaning] = {
    name: meaning
    for names, meaning in (
        (
            "403 AccessDenied AccessDeniedException UnauthorizedOperation UnauthorizedAccess AuthorizationError",
            Meaning("these AWS credentials are not allowed to do this: grant them {permission}"),
        ),
        ("ExpiredToken ExpiredTokenException RequestExpired UnauthorizedException", EXPIRED),
        (
            "InvalidAccessKeyId InvalidClientTokenId UnrecognizedClientException AuthFailure InvalidToken",
            Meaning(
                "AWS does not know these credentials: they were deleted, or belong to another partition or server. "
                "`{aws} sts get-caller-identity` shows which credentials are in use; `aws configure` sets new ones",
                setup=True,
            ),
        ),
        (
            "SignatureDoesNotMatch InvalidSignatureException IncompleteSignature MissingAuthenticationToken",
            Meaning(
                "the secret key does not belong to the access key, or this machine's clock is wrong: check both "
                "(`aws configure` sets new keys)",
                setup=True,
            ),
        ),
        (
            "RequestTimeTooSkewed RequestInTheFuture",
            Meaning("this machine's clock is wrong: set it (for example with NTP)", setup=True),
        ),
        (
            "NoSuchBucket",
            Meaning(
                "there is no such bucket: create it with `pywren create_bucket`, or set `s3: bucket` in the "
                "configuration to your own bucket"
            ),
        ),
        (
            "PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException 301",
            Meaning("the bucket is in another region{region}: set `account: aws_region` to that region", setup=True),
        ),
        (
            "InvalidBucketName",
            Meaning("this is not a valid bucket name: correct `s3: bucket` in the configuration", setup=True),
        ),
        ("NotImplemented", Meaning("the S3 server does not support this request")),
        (
            "MissingContentMD5 InvalidDigest",
            Meaning("the S3 server requires a checksum other than Content-MD5: try a newer version of the server"),
        ),
        ("InvalidRange 416", Meaning("the object is shorter than the requested range")),
        (
            "EntityTooLarge",
            Meaning(
                "the object is larger than the service stores (S3: 5 TB): return less data, or have the function "
                "store the data in parts and return the locations of the parts"
            ),
        ),
        (
            "RequestTooLarge RequestTooLargeException RequestEntityTooLargeException 413",
            Meaning(
                "the payload is larger than the service accepts (1 MB for an asynchronous call): move data out of "
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
        ("NoSuchEntity", Meaning("there is no such role or policy: create it with `pywren create_role`")),
        (
            "BucketAlreadyExists",
            Meaning("the bucket belongs to somebody else: choose another name under `s3: bucket`"),
        ),
        (
            "TooManyBuckets LimitExceeded LimitExceededException OverLimit",
            Meaning(
                "the account has reached its quota for this kind of resource: delete some of these resources, or "
                "request a higher quota under Service Quotas"
            ),
        ),
        (
            "AWS.SimpleQueueService.QueueDeletedRecently QueueDeletedRecently",
            Meaning("a queue of this name was deleted within the last minute: wait 60 seconds and try again"),
        ),
        (
            "EntityAlreadyExists DeleteConflict ConcurrentModification ConcurrentModificationException",
            Meaning("another request is changing the same resource: run the command again"),
        ),
        (
            "InvalidRuntimeException InvalidZipFileException InvalidSecurityGroupIDException InvalidSubnetIDException",
            Meaning("the deployed function is broken: deploy it again with `pywren deploy_lambda`"),
        ),
        (
            "RecursiveInvocationException",
            Meaning(
                "AWS stopped a chain of functions that invoke each other (about 16 deep): nest fewer maps in one "
                "another"
            ),
        ),
        (
            "ResourceConflictException",
            Meaning("the resource already exists, or is already being changed: wait a moment and try again"),
        ),
        *_EC2,
        (
            "CodeStorageExceededException",
            Meaning(
                "the account's storage for function code is full: delete old functions or old versions of functions"
            ),
        ),
    )
    for name in names.split()
}
"""What each error code of a service means."""

NO_CONDITIONS = Meaning("the S3 server does not support conditional writes (If-None-Match), which pywren needs")

KMS = Meaning(
    "access to the KMS key that encrypts the data was denied: grant kms:Decrypt and kms:GenerateDataKey on the key to "
    "these credentials and to the function's role, and check that the key is enabled"
)

# -- codes grouped by what can be done about them --------------------------------------------------------------

BUSY_STATUSES = (429, 500, 502, 503, 504)
"""HTTP statuses that an overloaded or failing service sends."""

CREDENTIAL_CODES = frozenset(
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
"""Error codes of requests that may succeed with newer credentials from the same source."""

DENIALS = frozenset({"403", "AccessDenied", "AccessDeniedException", "AllAccessDisabled", "UnauthorizedAccess"})
"""Error codes with which a service denies a request permanently."""
