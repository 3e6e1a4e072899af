from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LOCKS = sorted((ROOT / "images").glob("*.lock"))


def pins(path: Path) -> dict[str, set[str]]:
    """name==version -> its hashes."""
    entries = re.split(r"\n(?=\S)", path.read_text())
    return {entry.split()[0]: set(re.findall(r"sha256:[0-9a-f]{64}", entry)) for entry in entries if "==" in entry}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_an_images_lock_is_a_part_of_the_lock(lock: Path) -> None:
    everything, ours = pins(ROOT / "requirements.lock"), pins(lock)
    assert ours
    for name, hashes in ours.items():
        assert hashes
        assert hashes <= everything[name], f"{name}: run `make lock`"


def test_every_lock_is_installed_by_the_dockerfile() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert {path.name for path in LOCKS} == set(re.findall(r"images/(\w+\.lock)", dockerfile))
    assert dockerfile.count("--require-hashes") == len(LOCKS)
