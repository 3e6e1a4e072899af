"""A set of class pictures is drawn once, and fetched by the attempts after."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dreambooth_api.families import SD1 as ROW
from dreambooth_api.spec import TrainingJobSpec
from dreambooth_job.config import Hardware, RunConfig, resolve
from dreambooth_job.errors import Interrupted, StorageUnavailable
from dreambooth_job.families import FAMILIES
from dreambooth_job.interruption import Interruption
from dreambooth_job.stages import class_pictures
from dreambooth_job.stages.class_pictures import Drawing, Shelf
from dreambooth_job.storage.folder import FolderStore
from tests.tiny import SIDE_PX
from tests.wrong_manifests import good_spec


@pytest.fixture(scope="module")
def config() -> RunConfig:
    spec = TrainingJobSpec.model_validate(good_spec())
    return resolve(spec, ROW, SIDE_PX, 3, Hardware("cpu", "no GPU asked for", has_bf16=True))


@pytest.fixture(scope="module")
def drawing(tiny_base: Path, config: RunConfig) -> Drawing:
    return Drawing(FAMILIES["sd1"], FAMILIES["sd1"].load(tiny_base), config, "digest", seed=3)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    (tmp_path / "scratch").mkdir()
    return Shelf(FolderStore(tmp_path / "bucket"), ".checkpoints/u/class-images/", tmp_path / "scratch")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pictures each call of `draw` was asked for."""
    calls: list[int] = []
    real = class_pictures.draw

    def counted(family, model, prompts, seeds, **options):
        calls.append(len(prompts))
        return real(family, model, prompts, seeds, steps=1, **options)

    monkeypatch.setattr(class_pictures, "draw", counted)
    return calls


def test_the_second_attempt_fetches_the_very_pictures(drawing: Drawing, shelf: Shelf, drawn: list[int]) -> None:
    first = drawing.pictures("dog", 10, shelf, Interruption())
    second = drawing.pictures("dog", 10, shelf, Interruption())
    assert drawn == [8, 2]
    assert first.shape == (10, SIDE_PX, SIDE_PX, 3)
    assert np.array_equal(first, second)
    assert list(shelf.folder.iterdir()) == []


def test_whatever_decides_the_pictures_asks_for_a_set_of_its_own(
    drawing: Drawing, shelf: Shelf, drawn: list[int], config: RunConfig
) -> None:
    drawing.pictures("dog", 1, shelf, Interruption())
    others = [replace(drawing, seed=4), replace(drawing, base_digest="other"),
              replace(drawing, config=replace(config, guidance=2.0))]  # fmt: skip
    for other in others:
        other.pictures("dog", 1, shelf, Interruption())
    drawing.pictures("cat", 1, shelf, Interruption())
    drawing.pictures("dog", 2, shelf, Interruption())
    assert drawn == [1, 1, 1, 1, 1, 2]


@pytest.mark.parametrize(
    "damage", [b"", b"PK\3\4 damaged", b"words", b"x" * 10_000_000], ids=["empty", "damaged", "words", "too large"]
)
def test_a_set_that_cannot_be_used_is_drawn_again(
    drawing: Drawing, shelf: Shelf, drawn: list[int], damage: bytes
) -> None:
    drawing.pictures("dog", 1, shelf, Interruption())
    (kept,) = shelf.store.list(shelf.prefix)
    (shelf.store.root / kept.key).write_bytes(damage)
    drawing.pictures("dog", 1, shelf, Interruption())
    assert drawn == [1, 1]


def test_a_store_that_takes_nothing_ends_nothing(
    drawing: Drawing, shelf: Shelf, drawn: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StorageUnavailable("away")

    monkeypatch.setattr(FolderStore, "put", away)
    assert len(drawing.pictures("dog", 2, shelf, Interruption())) == 2
    assert list(shelf.folder.iterdir()) == []


def test_drawing_ends_when_the_pod_must_go(drawing: Drawing, shelf: Shelf, drawn: list[int]) -> None:
    interruption = Interruption()
    interruption.request()
    with pytest.raises(Interrupted):
        drawing.pictures("dog", 2, shelf, interruption)
    assert drawn == []
