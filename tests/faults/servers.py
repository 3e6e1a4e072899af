"""A real S3 server (versitygw) for the store's tests: one per test process, a bucket of its own per test."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from devcluster import toolchain
from devcluster.s3 import S3Server
from dreambooth_job.storage.client import StorageSettings
from dreambooth_job.storage.retrying import Concurrency, Retrying
from dreambooth_job.storage.s3 import MIB, S3Store, Tuning, connect_bucket
from tests.faults.proxy import Proxy, proxy

SMALL = Tuning(MIB, 5 * MIB, download_width=4, upload_width=2, window_seconds=0.5)


@dataclass(frozen=True)
class FreshBucket:
    """A fresh bucket, how to reach it, and a plain client to look behind the store's back."""

    name: str
    server: S3Server
    settings: StorageSettings
    client: Any


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    given = os.environ.get("DREAMBOOTH_VERSITYGW")
    server = S3Server(Path(given) if given else toolchain.tools().versitygw, tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def plain_client(s3_server: S3Server) -> Any:
    return s3_server.access.client()


@pytest.fixture
def fresh_bucket(s3_server: S3Server, plain_client: Any, tmp_path: Path) -> FreshBucket:
    name = f"test-{secrets.token_hex(6)}"
    plain_client.create_bucket(Bucket=name)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for key, value in s3_server.access.secret_data().items():
        (credentials / key).write_text(value)
    return FreshBucket(name, s3_server, StorageSettings(s3_server.access.endpoint, None, credentials), plain_client)


@dataclass(frozen=True)
class Faulty:
    """A fresh bucket behind a proxy that misbehaves on command, and a store with budgets of seconds, not minutes."""

    bucket: FreshBucket
    proxy: Proxy

    def store(self, budget_seconds: float = 10.0) -> S3Store:
        short = {"connect_timeout_seconds": 1.5, "read_timeout_seconds": 1.5}  # the former also limits a blocked send
        settings = replace(self.bucket.settings, endpoint=self.proxy.endpoint, **short)
        policy = Retrying(
            budget_seconds,
            expired_budget_seconds=0.5,
            base_seconds=0.01,
            cap_seconds=0.1,
            concurrency=Concurrency(4, grow_seconds=0.1),
        )
        return S3Store(connect_bucket(self.bucket.name, settings, retrying=policy), SMALL)

    def unfinished_uploads(self) -> list[str]:
        listing = self.bucket.client.list_multipart_uploads(Bucket=self.bucket.name)
        return [upload["Key"] for upload in listing.get("Uploads", [])]


@pytest.fixture
def faulty(fresh_bucket: FreshBucket) -> Iterator[Faulty]:
    with proxy(fresh_bucket.settings.endpoint or "") as running:
        yield Faulty(fresh_bucket, running)
