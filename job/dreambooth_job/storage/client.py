"""The one place that imports boto3: the classic client, its credentials, and a bucket's requests under the policy.

Never boto3's CRT mode: it ignores `endpoint_url` and would send private pictures to a public host (boto3#4839).
That mode is reached through `upload_file` and `download_file` alone, which nobody here calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import CredentialProvider, Credentials, ReadOnlyCredentials
from botocore.loaders import create_loader

from dreambooth_job.errors import StorageMisconfigured
from dreambooth_job.storage.failures import Action
from dreambooth_job.storage.retrying import Retrying
from dreambooth_job.storage.workers import in_order

T = TypeVar("T")
_LOADER = create_loader()  # S3's model is 1 MB of JSON: read once, not for each client
_VERBS = {
    "list": "s3:ListBucket", "read": "s3:GetObject", "write": "s3:PutObject", "delete": "s3:DeleteObject",
    "abort": "s3:AbortMultipartUpload", "list-uploads": "s3:ListBucketMultipartUploads",
}  # fmt: skip


@dataclass(frozen=True)
class StorageSettings:
    """`credentials_dir` holds one file a key, as a mounted Secret does; None: boto3's default chain without IMDS."""

    endpoint: str | None = None
    region: str | None = None
    credentials_dir: Path | None = None
    connect_timeout_seconds: float = 5.0
    read_timeout_seconds: float = 20.0


class FolderCredentials(Credentials):
    """Read anew for every request, so a rotated Secret is seen by the next one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        keys = self.get_frozen_credentials()
        super().__init__(keys.access_key, keys.secret_key, keys.token, method="dreambooth-folder")

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """A mounted Secret swaps a symlink when it rotates: all keys are read behind one resolved target."""
        folder = (self._folder / "AWS_ACCESS_KEY_ID").resolve().parent
        token = folder / "AWS_SESSION_TOKEN"
        try:
            return ReadOnlyCredentials(
                _read(folder / "AWS_ACCESS_KEY_ID"),
                _read(folder / "AWS_SECRET_ACCESS_KEY"),
                _read(token) if token.exists() else None,
            )
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise StorageMisconfigured(
                f"the credentials Secret has no key {missing}; it needs AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from None


def _read(path: Path) -> str:
    return path.read_text().strip()


class _FolderProvider(CredentialProvider):
    METHOD = "dreambooth-folder"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    def load(self) -> Credentials:
        return FolderCredentials(self._folder)


def connect(settings: StorageSettings) -> Any:
    """A classic S3 client. The node's own role (IMDS) is never used: it is not the user's identity."""
    session = botocore.session.Session()
    session.register_component("data_loader", _LOADER)
    chain = session.get_component("credential_provider")
    chain.remove("iam-role")
    if settings.credentials_dir:  # before the environment, which would shadow the Secret for ever
        chain.insert_before("env", _FolderProvider(settings.credentials_dir))
    try:
        return _client(session, settings)
    except ValueError as error:  # botocore's word for an endpoint that is no URL
        raise StorageMisconfigured(
            f"storage.endpoint: {error}; write it as https://host or https://host:port"
        ) from None


def _client(session: botocore.session.Session, settings: StorageSettings) -> Any:
    return boto3.session.Session(botocore_session=session).client(
        "s3",
        endpoint_url=settings.endpoint,
        region_name=settings.region or ("us-east-1" if settings.endpoint else None),
        verify=_ca_bundle(settings),
        config=Config(
            connect_timeout=settings.connect_timeout_seconds,
            read_timeout=settings.read_timeout_seconds,
            retries={"total_max_attempts": 1, "mode": "standard"},  # ours are in retrying.py
            max_pool_connections=36,
            tcp_keepalive=True,
            # Checksums are ours to choose: some stores keep botocore's trailers inside the object (boto3#4435).
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"} if settings.endpoint else None,
        ),
    )


def _ca_bundle(settings: StorageSettings) -> str | None:
    bundle = settings.credentials_dir / "AWS_CA_BUNDLE" if settings.credentials_dir else None
    return str(bundle) if bundle and bundle.exists() else None


class Connection:
    """The client of one endpoint, replaced by a fresh one when its credentials have expired."""

    def __init__(self, settings: StorageSettings) -> None:
        self._settings, self._lock = settings, threading.Lock()
        self.client = connect(settings)

    def renew(self, used: Any) -> None:
        """Many parts notice together that `used` has expired: the first one replaces it."""
        with self._lock:
            if self.client is used:
                self.client = connect(self._settings)


@dataclass(frozen=True)
class Bucket:
    """One bucket's requests: repeated by the policy, translated, and given up at once when told to stop."""

    name: str
    connection: Connection
    retrying: Retrying

    def send(self, verb: str, key: str, request: Callable[[Any], T]) -> T:
        """One small request from the main thread; a store that does not answer cannot delay a stop."""
        (answer,) = in_order([lambda cancelled: self.send_here(verb, key, request)], 1, self.retrying.stop)
        return answer

    def send_here(self, verb: str, key: str, request: Callable[[Any], T], progress: Callable[[], int] = lambda: 0) -> T:
        """The same from a thread that already is a worker. `request` gets the client of the moment."""
        used = self.connection.client

        def attempt() -> T:
            nonlocal used
            used = self.connection.client
            return request(used)

        return self.retrying.call(
            Action(_VERBS[verb], self.name, key),
            attempt,
            renew=lambda: self.connection.renew(used),
            progress=progress,
        )

    def within(self, budget_seconds: float, stop: threading.Event) -> Bucket:
        return replace(self, retrying=self.retrying.within(budget_seconds, stop))
