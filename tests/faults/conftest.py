"""The faults need a real S3 server behind the proxy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.servers import faulty, fresh_bucket, plain_client, s3_server  # noqa: F401

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.integration)
