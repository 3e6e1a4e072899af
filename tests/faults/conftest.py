"""The faults need a real S3 server behind the proxy."""

from __future__ import annotations

from tests.faults.servers import faulty, fresh_bucket, plain_client, s3_server  # noqa: F401
