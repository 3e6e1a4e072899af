"""What every test may lean on; torch is imported only by the tests that need a model."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base as a diffusers folder, made once; nobody writes into it."""
    from tests.tiny import tiny_sd1

    return tiny_sd1(tmp_path_factory.mktemp("base") / "tiny")
