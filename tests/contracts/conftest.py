from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.servers import fresh_bucket, plain_client, s3_server  # noqa: F401

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs over a real S3 server is an integration test; the local folder is not."""
    for item in (i for i in items if i.path.is_relative_to(HERE)):
        if "fresh_bucket" in item.fixturenames or "[s3" in item.name:
            item.add_marker(pytest.mark.integration)
