"""What a store's failure means: one table from error code, HTTP status or exception to class, reason and advice.

Every library error is translated here and nowhere else. The classes decide what `retrying.py` does:
TRANSIENT is repeated within the budget; THROTTLED too, with fewer requests at a time and not before Retry-After;
EXPIRED renews the credentials once, then is TRANSIENT for two minutes; PERMANENT ends the job at once;
CONDITION_LOST is for the caller, who reads the winner and decides.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum

import urllib3.exceptions
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from dreambooth_job.errors import (
    StorageDenied,
    StorageError,
    StorageFull,
    StorageMisconfigured,
    StorageNotFound,
    StorageUnavailable,
)


class Kind(StrEnum):
    TRANSIENT = "transient"
    THROTTLED = "throttled"
    EXPIRED = "expired"
    PERMANENT = "permanent"
    CONDITION_LOST = "condition-lost"


class ConditionLost(StorageError):
    """A conditional write found that another writer was first; never seen by a user."""


class RequestUnknown(StorageMisconfigured):
    """The store does not know a request or one of its headers."""


class TransferFault(Exception):
    """A body that came too short, too slowly or out of place; the part is asked for again."""


class UploadLost(Exception):
    """The multipart upload is gone from the store and its object is not ours: upload again from the start."""


@dataclass(frozen=True)
class Failure:
    kind: Kind
    error: type[StorageError]
    advice: str


_TRY_LATER = "Check the store and the network between the node and it."
_SCHEMA = "storage.endpoint and storage.region"
TRANSIENT = Failure(Kind.TRANSIENT, StorageUnavailable, _TRY_LATER)
THROTTLED = Failure(Kind.THROTTLED, StorageUnavailable, "The store asks for fewer requests; raise its limits.")
EXPIRED = Failure(Kind.EXPIRED, StorageDenied, "The credentials have expired; renew the Secret that holds them.")
DENIED = Failure(Kind.PERMANENT, StorageDenied, "Grant {action} on it to the credentials in use, or name others.")
BAD_KEY = Failure(
    Kind.PERMANENT, StorageDenied, "The store does not accept the access key or its secret; correct them."
)
NO_BUCKET = Failure(Kind.PERMANENT, StorageNotFound, "The bucket does not exist: create it or correct its name.")
MISSING = Failure(Kind.PERMANENT, StorageNotFound, "Check the key letter by letter; keys are case-sensitive.")
FULL = Failure(Kind.PERMANENT, StorageFull, "Free space in the bucket or raise its quota.")
TOO_LARGE = Failure(Kind.PERMANENT, StorageFull, "The store does not take an object of this size; raise its limit.")
REGION = Failure(Kind.PERMANENT, StorageMisconfigured, "The bucket is in another region; set storage.region to it.")
CLOCK = Failure(Kind.PERMANENT, StorageMisconfigured, "Set the node's clock.")
CERTIFICATE = Failure(
    Kind.PERMANENT, StorageMisconfigured, "Its certificate is not trusted; put the CA into AWS_CA_BUNDLE of the Secret."
)
NO_CREDENTIALS = Failure(Kind.PERMANENT, StorageMisconfigured, "No credentials; set storage.credentialsSecretRef.")
UNSUPPORTED = Failure(Kind.PERMANENT, RequestUnknown, f"The store does not know this request; check {_SCHEMA}.")
CLASH = Failure(Kind.PERMANENT, StorageMisconfigured, "Another object is in the way of this key; remove it.")
LOST = Failure(Kind.CONDITION_LOST, ConditionLost, "")

BY_CODE: dict[str, Failure] = {
    **dict.fromkeys(["InternalError", "RequestTimeout", "IncompleteBody", "OperationAborted"], TRANSIENT),
    # Our bytes were damaged on their way: the store compared them with the checksum we sent.
    **dict.fromkeys(["BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch"], TRANSIENT),
    **dict.fromkeys(["XAmzContentChecksumMismatch", "ConditionalRequestConflict"], TRANSIENT),
    **dict.fromkeys(["SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable"], THROTTLED),
    **dict.fromkeys(["Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests"], THROTTLED),
    **dict.fromkeys(["ExpiredToken", "TokenRefreshRequired", "RequestExpired"], EXPIRED),
    **dict.fromkeys(["AccessDenied", "AllAccessDisabled", "AccountProblem"], DENIED),
    **dict.fromkeys(["SignatureDoesNotMatch", "InvalidAccessKeyId", "InvalidToken"], BAD_KEY),
    **dict.fromkeys(["NoSuchBucket", "InvalidBucketName"], NO_BUCKET),
    **dict.fromkeys(["NoSuchKey", "NotFound", "NoSuchUpload"], MISSING),
    **dict.fromkeys(["XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded"], FULL),
    **dict.fromkeys(["InsufficientStorage", "InsufficientCapacity", "NoSpaceLeft"], FULL),
    "EntityTooLarge": TOO_LARGE,
    **dict.fromkeys(
        ["PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"], REGION
    ),
    "RequestTimeTooSkewed": CLOCK,
    "PreconditionFailed": LOST,
}
BY_STATUS: dict[int, Failure] = {
    301: REGION, 307: TRANSIENT, 401: BAD_KEY, 403: DENIED, 404: MISSING, 408: TRANSIENT, 409: CLASH, 412: LOST,
    413: TOO_LARGE, 429: THROTTLED, 500: TRANSIENT, 502: TRANSIENT, 503: THROTTLED, 504: TRANSIENT, 507: FULL,
}  # fmt: skip


@dataclass(frozen=True)
class Answer:
    """What the store said, as far as it said it."""

    code: str
    status: int
    request_id: str
    retry_after_seconds: float
    clock_skew_seconds: float

    def __str__(self) -> str:
        request = f", request {self.request_id}" if self.request_id else ""
        return f"{self.code} (HTTP {self.status}{request})"


@dataclass(frozen=True)
class Action:
    """What was asked of which object, in the store's own word for the right it needs."""

    permission: str  # "s3:GetObject"
    bucket: str
    key: str = ""  # an object's key, or a prefix that ends with "/"

    def __str__(self) -> str:
        """Folders below the bucket may carry people's names: an object shows as its base name, a prefix whole."""
        slash, name = self.key.rpartition("/")[1:]
        shown = f".../{name}" if slash and name else self.key
        return f"{self.permission} on s3://{self.bucket}/{shown}"


def read_answer(error: BaseException) -> Answer | None:
    if not isinstance(error, boto.ClientError):
        return None
    details, metadata = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    headers = metadata.get("HTTPHeaders", {})
    return Answer(
        code=str(details.get("Code", "")),
        status=int(metadata.get("HTTPStatusCode", 0)),
        request_id=str(metadata.get("RequestId", "")).partition(",")[0],
        retry_after_seconds=_seconds(headers.get("retry-after", "")),
        clock_skew_seconds=skew_seconds(headers.get("date", "")),
    )


def _seconds(text: str) -> float:
    return float(text) if text.isdigit() else max(0.0, -skew_seconds(text)) if text else 0.0


def skew_seconds(date: str) -> float:
    """How far this node's clock is ahead of an HTTP date; 0 when there is none."""
    try:
        return time.time() - parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return 0.0


_TRANSPORT = (
    boto.ConnectionError, boto.HTTPClientError, boto.IncompleteReadError, boto.ResponseStreamingError,
    ResponseParserError, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError, TransferFault,
)  # fmt: skip


def classify(error: BaseException) -> Failure | None:
    """The row of an error; None for what no store caused (a bug, a full scratch volume, an interruption)."""
    if (answer := read_answer(error)) is not None:
        return _classify_answer(answer)
    if isinstance(error, (boto.SSLError, urllib3.exceptions.SSLError)):
        return CERTIFICATE if "CERTIFICATE_VERIFY_FAILED" in str(error) else TRANSIENT
    if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError)):
        return NO_CREDENTIALS
    return TRANSIENT if isinstance(error, _TRANSPORT) else None


def _classify_answer(answer: Answer) -> Failure:
    if answer.code in BY_CODE:
        return BY_CODE[answer.code]
    if answer.code == "400":  # a HEAD has no body to say more; an expired token is what it usually means
        return EXPIRED
    return BY_STATUS.get(answer.status, TRANSIENT if answer.status >= 505 else UNSUPPORTED)


def translate(error: BaseException, failure: Failure, action: Action, waited_seconds: float = 0.0) -> StorageError:
    """The job's own error with what, to which thing, and what to do; never a secret, a signature or a whole key."""
    answer = read_answer(error)
    said = str(answer) if answer else f"{type(error).__name__}"
    patience = f" for {waited_seconds:.0f} s" if waited_seconds >= 1 else ""
    skew = answer.clock_skew_seconds if answer and failure is CLOCK else 0.0
    clock = f" It is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}." if skew else ""
    advice = failure.advice.format(action=action.permission)
    return failure.error(f"{action}: {said}{patience}. {advice}{clock}".strip())
