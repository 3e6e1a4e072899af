"""What every test may lean on; torch is imported only by the tests that need a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.progress_endpoint import progress_endpoint  # noqa: F401

HERE = Path(__file__).parent
MARKS = {  # of every test below a folder; the others say for themselves what they need
    "e2e": pytest.mark.e2e,
    "faults": pytest.mark.integration,
    "integration": pytest.mark.integration,
    "quality": pytest.mark.quality,  # everything there trains or draws with the toy base: minutes, not seconds
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if mark := MARKS.get(item.path.relative_to(HERE).parts[0]):
            item.add_marker(mark)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base as a diffusers folder, made once; nobody writes into it."""
    from tests.tiny import tiny_sd1

    return tiny_sd1(tmp_path_factory.mktemp("base") / "tiny")
