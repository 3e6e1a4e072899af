"""A real S3 server (versitygw) for the store's tests: one per test process, a bucket of its own per test."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devcluster import toolchain
from devcluster.s3 import S3Server
from dreambooth_job.storage.client import StorageSettings


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


@pytest.fixture
def fresh_bucket(s3_server: S3Server, tmp_path: Path) -> FreshBucket:
    name = f"test-{secrets.token_hex(6)}"
    client = s3_server.access.client()
    client.create_bucket(Bucket=name)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for key, value in s3_server.access.secret_data().items():
        (credentials / key).write_text(value)
    return FreshBucket(name, s3_server, StorageSettings(s3_server.access.endpoint, None, credentials), client)
