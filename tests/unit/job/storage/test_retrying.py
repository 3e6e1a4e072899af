"""One test a row of the failure table, with a clock that only the policy's own sleep moves."""

from __future__ import annotations

import threading

import botocore.exceptions as boto
import pytest
import urllib3.exceptions

from dreambooth_job.errors import (
    Interrupted,
    StorageDenied,
    StorageFull,
    StorageMisconfigured,
    StorageNotFound,
    StorageUnavailable,
)
from dreambooth_job.storage.failures import (
    BY_CODE,
    BY_STATUS,
    Action,
    ConditionLost,
    Kind,
    TransferFault,
    UploadLost,
    classify,
)
from dreambooth_job.storage.retrying import Concurrency, Retrying

READ = Action("s3:GetObject", "photos", "rex/holiday/a.webp")


class Clock:
    def __init__(self) -> None:
        self.now, self.slept = 1000.0, []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def _policy(clock: Clock, **changes) -> Retrying:
    """Without jitter: always the longest wait of the interval."""
    concurrency = Concurrency(16, clock=clock)
    return Retrying(clock=clock, sleep=clock.sleep, uniform=lambda low, high: high, concurrency=concurrency, **changes)


def _answer(code: str = "", status: int = 400, **headers: str) -> boto.ClientError:
    metadata = {"HTTPStatusCode": status, "RequestId": "R1", "HTTPHeaders": headers}
    return boto.ClientError({"Error": {"Code": code}, "ResponseMetadata": metadata}, "GetObject")


def _run(policy: Retrying, *errors: BaseException, **options) -> str:
    script = iter(errors)

    def request() -> str:
        for error in script:
            raise error
        return "done"

    return policy.call(READ, request, **options)


TRANSPORT = {
    "dns": boto.EndpointConnectionError(endpoint_url="http://x"),
    "connect timeout": boto.ConnectTimeoutError(endpoint_url="http://x"),
    "read timeout": boto.ReadTimeoutError(endpoint_url="http://x"),
    "closed": boto.ConnectionClosedError(endpoint_url="http://x"),
    "short body": boto.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    "stream": urllib3.exceptions.ProtocolError("Connection broken"),
    "reset": ConnectionResetError(),
    "tls cut": boto.SSLError(endpoint_url="http://x", error="UNEXPECTED_EOF_WHILE_READING"),
    "fault": TransferFault("the body ended early"),
}
PERMANENT = {
    "denied": (_answer("AccessDenied", 403), StorageDenied, "Grant s3:GetObject"),
    "head denied": (_answer("403", 403), StorageDenied, "Grant s3:GetObject"),
    "bad key": (_answer("InvalidAccessKeyId", 403), StorageDenied, "access key"),
    "bad secret": (_answer("SignatureDoesNotMatch", 403), StorageDenied, "secret"),
    "no key": (_answer("NoSuchKey", 404), StorageNotFound, "letter by letter"),
    "head not found": (_answer("404", 404), StorageNotFound, "letter by letter"),
    "no bucket": (_answer("NoSuchBucket", 404), StorageNotFound, "create it"),
    "full": (_answer("", 507), StorageFull, "Free space"),
    "minio quota": (_answer("XMinioAdminBucketQuotaExceeded", 400), StorageFull, "quota"),
    "too large": (_answer("EntityTooLarge", 400), StorageFull, "size"),
    "region": (_answer("PermanentRedirect", 301), StorageMisconfigured, "storage.region"),
    "clash": (_answer("ObjectParentIsFile", 409), StorageMisconfigured, "in the way"),
    "unknown": (_answer("NotImplemented", 501), StorageMisconfigured, "does not know"),
    "certificate": (
        boto.SSLError(endpoint_url="https://x", error="CERTIFICATE_VERIFY_FAILED"), StorageMisconfigured, "CA_BUNDLE",
    ),
    "no credentials": (boto.NoCredentialsError(), StorageMisconfigured, "credentialsSecretRef"),
}  # fmt: skip


@pytest.mark.parametrize("code", [code for code, row in BY_CODE.items() if row.kind is Kind.TRANSIENT])
def test_transient_codes_are_tried_again(code: str) -> None:
    assert _run(_policy(Clock()), _answer(code), _answer(code)) == "done"


@pytest.mark.parametrize("status", [status for status, row in BY_STATUS.items() if row.kind is Kind.TRANSIENT])
def test_transient_statuses_are_tried_again(status: int) -> None:
    assert _run(_policy(Clock()), _answer("", status)) == "done"


@pytest.mark.parametrize("name", TRANSPORT)
def test_broken_transports_are_tried_again(name: str) -> None:
    assert _run(_policy(Clock()), TRANSPORT[name]) == "done"


@pytest.mark.parametrize("name", PERMANENT)
def test_permanent_failures_end_at_once_and_say_what_to_do(name: str) -> None:
    error, kind, words = PERMANENT[name]
    clock = Clock()
    with pytest.raises(kind, match=words) as caught:
        _run(_policy(clock), error)
    assert clock.slept == []
    assert "s3:GetObject on s3://photos/.../a.webp" in str(caught.value)
    assert "holiday" not in str(caught.value)


def test_every_permanent_row_of_the_table_has_its_error_and_its_advice() -> None:
    for row in (*BY_CODE.values(), *BY_STATUS.values()):
        assert row.advice or row.error is ConditionLost


def test_waits_double_up_to_half_a_minute() -> None:
    clock = Clock()
    _run(_policy(clock), *[TransferFault("x")] * 10)
    assert clock.slept == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]


def test_jitter_spreads_from_zero() -> None:
    intervals = []
    clock = Clock()
    policy = Retrying(clock=clock, sleep=clock.sleep, uniform=lambda low, high: intervals.append((low, high)) or 0.0)
    _run(policy, TransferFault("x"), TransferFault("x"))
    assert intervals == [(0.0, 0.2), (0.0, 0.4)]


def test_the_budget_ends_in_a_named_failure() -> None:
    clock = Clock()
    with pytest.raises(StorageUnavailable, match=r"HTTP 500, request R1\) for \d+ s.*Check the store and the network"):
        _run(_policy(clock, budget_seconds=900), *[_answer("InternalError", 500)] * 100)
    assert 840 < sum(clock.slept) <= 900


def test_bytes_that_flow_wind_the_budget_up_again() -> None:
    clock, done = Clock(), iter(range(0, 10**9, 10**7))
    assert _run(_policy(clock, budget_seconds=1), *[TransferFault("x")] * 40, progress=lambda: next(done)) == "done"


def test_a_trickle_does_not_wind_the_budget_up() -> None:
    clock, done = Clock(), iter(range(10**6))
    with pytest.raises(StorageUnavailable):
        _run(_policy(clock, budget_seconds=10), *[TransferFault("x")] * 100, progress=lambda: next(done))


@pytest.mark.parametrize(("code", "status"), [("SlowDown", 503), ("", 503), ("", 429), ("ThrottlingException", 400)])
def test_throttling_halves_the_requests_and_honours_retry_after(code: str, status: int) -> None:
    clock = Clock()
    policy = _policy(clock)
    _run(policy, _answer(code, status, **{"retry-after": "7"}))
    assert clock.slept == [7.0]
    assert policy.concurrency.allowed == 8


def test_requests_come_back_one_each_half_minute() -> None:
    clock = Clock()
    concurrency = Concurrency(16, clock=clock)
    concurrency.halve()
    concurrency.halve()  # the same storm, met by another part
    assert concurrency.allowed == 8
    clock.sleep(61)
    assert concurrency.allowed == 10
    concurrency.halve()
    assert concurrency.allowed == 5
    clock.sleep(3600)
    assert concurrency.allowed == 16


def test_no_more_requests_run_than_allowed() -> None:
    concurrency, stop, running, most = Concurrency(3), threading.Event(), [], []

    def work() -> None:
        with concurrency.slot(stop):
            running.append(1)
            most.append(len(running))
            stop.wait(0.01)
            running.pop()

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) <= 3
    assert len(most) == 12


@pytest.mark.parametrize("error", [_answer("ExpiredToken"), _answer("400", 400)], ids=["told", "head without a body"])
def test_expired_credentials_are_renewed_once_and_then_waited_for_two_minutes(error: Exception) -> None:
    clock, renewed = Clock(), []
    assert _run(_policy(clock), error, renew=lambda: renewed.append(1)) == "done"
    with pytest.raises(StorageDenied, match="renew the Secret"):
        _run(_policy(clock), *[error] * 100, renew=lambda: renewed.append(1))
    assert len(renewed) == 2
    assert 90 < sum(clock.slept) < 125


def test_a_lost_condition_is_the_callers_business() -> None:
    for error in (_answer("PreconditionFailed", 412), _answer("412", 412)):
        with pytest.raises(ConditionLost):
            _run(_policy(Clock()), error)


def test_a_clock_that_is_off_is_named_with_its_error() -> None:
    with pytest.raises(StorageMisconfigured, match=r"\d+ s ahead"):
        _run(_policy(Clock()), _answer("RequestTimeTooSkewed", 403, date="Sat, 01 Jan 2000 00:00:00 GMT"))


@pytest.mark.parametrize("error", [KeyError("a bug"), OSError(28, "No space left"), Interrupted("stop"), UploadLost()])
def test_what_no_store_caused_passes_through(error: Exception) -> None:
    assert classify(error) is None
    with pytest.raises(type(error)):
        _run(_policy(Clock()), error)


def test_a_stop_ends_the_waiting() -> None:
    stop = threading.Event()
    policy = Retrying(base_seconds=600, cap_seconds=600, uniform=lambda low, high: high, stop=stop)
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(Interrupted):
        _run(policy, TransferFault("x"))
