from __future__ import annotations

import threading
from pathlib import Path

import pytest

from dreambooth_job.contracts import ObjectInfo
from dreambooth_job.errors import StorageDenied, StorageFull, StorageUnavailable
from dreambooth_job.storage.checkpoints import BackgroundSaver, Checkpoints
from dreambooth_job.storage.folder import FolderStore
from dreambooth_job.storage.objects import write_bytes

BASE = "rex/.checkpoints/1111/"


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(FolderStore(tmp_path / "bucket"), BASE, "rex-1111-r0-aaaa")


def _files(folder: Path, step: int) -> dict[str, Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("state.safetensors", "loop.json"):
        (folder / f"{step}-{name}").write_text(f"{name} of step {step}")
    return {name: folder / f"{step}-{name}" for name in ("state.safetensors", "loop.json")}


def _save(checkpoints: Checkpoints, folder: Path, *steps: int) -> None:
    for step in steps:
        checkpoints.save(step, _files(folder, step))


def _names(checkpoints: Checkpoints) -> list[str]:
    return sorted({info.key.removeprefix(BASE).partition("-")[0] for info in checkpoints.store.list(BASE)})


def test_the_newest_comes_back_whole(checkpoints: Checkpoints, tmp_path: Path) -> None:
    _save(checkpoints, tmp_path / "out", 5, 10)
    restored = checkpoints.newest_complete(tmp_path / "in")
    assert (restored.step, restored.attempt) == (10, "rex-1111-r0-aaaa")
    assert {name: path.read_text() for name, path in restored.files.items()} == {
        "state.safetensors": "state.safetensors of step 10",
        "loop.json": "loop.json of step 10",
    }


def test_without_a_checkpoint_there_is_none(checkpoints: Checkpoints, tmp_path: Path) -> None:
    assert checkpoints.newest_complete(tmp_path / "in") is None


def test_the_newest_few_are_kept(checkpoints: Checkpoints, tmp_path: Path) -> None:
    _save(checkpoints, tmp_path / "out", 5, 10, 15, 100)
    assert _names(checkpoints) == ["00000015", "00000100"]


def test_another_attempt_resumes_and_goes_on(checkpoints: Checkpoints, tmp_path: Path) -> None:
    _save(checkpoints, tmp_path / "out", 5, 10)
    later = Checkpoints(checkpoints.store, BASE, "rex-1111-r1-bbbb")
    assert later.newest_complete(tmp_path / "in").attempt == "rex-1111-r0-aaaa"
    _save(later, tmp_path / "out", 15)
    assert later.newest_complete(tmp_path / "in").attempt == "rex-1111-r1-bbbb"


DAMAGE = {
    "flipped": lambda path: path.write_bytes(path.read_bytes()[:-1] + b"?"),
    "shortened": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("name", ["state.safetensors", "loop.json", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    checkpoints: Checkpoints, tmp_path: Path, damage: str, name: str
) -> None:
    _save(checkpoints, tmp_path / "out", 5, 10)
    DAMAGE[damage](tmp_path / "bucket" / f"{BASE}00000010-rex-1111-r0-aaaa" / name)
    assert checkpoints.newest_complete(tmp_path / "in").step == 5


def test_a_manifest_that_names_files_elsewhere_is_not_followed(checkpoints: Checkpoints, tmp_path: Path) -> None:
    evil = b'{"step": 7, "attempt": "x", "files": [{"path": "../../x", "sizeBytes": 0, "sha256": "%s"}]}' % (b"0" * 64)
    write_bytes(checkpoints.store, evil, f"{BASE}00000007-x/manifest.json")
    assert checkpoints.newest_complete(tmp_path / "in") is None


class FailingStore(FolderStore):
    """Fails from the n-th write on."""

    def put(self, source: Path, key: str, **condition) -> ObjectInfo:
        countdown.append(key)
        if len(countdown) > allowed[0]:
            raise error[0]
        return super().put(source, key, **condition)


countdown: list[str] = []
allowed, error = [0], [StorageUnavailable("away")]


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_save_that_breaks_off_keeps_the_old_ones(checkpoints: Checkpoints, tmp_path: Path, writes: int) -> None:
    _save(checkpoints, tmp_path / "out", 5, 10)
    countdown.clear()
    allowed[0], error[0] = writes, StorageUnavailable("away")
    broken = Checkpoints(FailingStore(tmp_path / "bucket"), BASE, "rex-1111-r0-aaaa")
    with pytest.raises(StorageUnavailable):
        _save(broken, tmp_path / "out", 15)
    assert checkpoints.newest_complete(tmp_path / "in").step == 10
    _save(checkpoints, tmp_path / "out", 20, 25)
    assert _names(checkpoints) == ["00000020", "00000025"]


def test_a_refusal_is_never_read_as_no_checkpoint(checkpoints: Checkpoints, tmp_path: Path) -> None:
    class Denying(FolderStore):
        def get(self, info: ObjectInfo, to: Path, sha256: str | None = None):
            raise StorageDenied("denied")

    _save(checkpoints, tmp_path / "out", 5)
    with pytest.raises(StorageDenied):
        Checkpoints(Denying(tmp_path / "bucket"), BASE, "x").newest_complete(tmp_path / "in")


def test_all_go_once_the_result_stands(checkpoints: Checkpoints, tmp_path: Path) -> None:
    _save(checkpoints, tmp_path / "out", 5, 10)
    write_bytes(checkpoints.store, b"x", "rex/.checkpoints/2222/00000001-y/manifest.json")
    assert checkpoints.remove_all() == 6
    assert [info.key for info in checkpoints.store.list("")] == ["rex/.checkpoints/2222/00000001-y/manifest.json"]


class SlowStore(FolderStore):
    def put(self, source: Path, key: str, **condition) -> ObjectInfo:
        assert release.wait(10)
        return super().put(source, key, **condition)


release = threading.Event()


def test_one_checkpoint_at_a_time_travels_in_the_background(tmp_path: Path) -> None:
    release.clear()
    saved: list[int] = []
    checkpoints = Checkpoints(SlowStore(tmp_path / "bucket"), BASE, "a")
    saver = BackgroundSaver(checkpoints, saved.append)
    assert saver.start(5, _files(tmp_path / "out", 5))
    assert not saver.start(10, _files(tmp_path / "out", 10))
    assert not saver.wait(0.01)
    release.set()
    assert saver.wait(10)
    assert saver.start(15, _files(tmp_path / "out", 15))
    assert saver.wait(10)
    assert saved == [5, 15]
    assert checkpoints.newest_complete(tmp_path / "in").step == 15


@pytest.mark.parametrize(
    ("failure", "fatal"), [(StorageUnavailable("away"), False), (StorageFull("full"), True)], ids=["away", "full"]
)
def test_training_outlives_a_store_that_is_away_but_not_one_that_is_full(
    tmp_path: Path, failure: Exception, fatal: bool
) -> None:
    countdown.clear()
    allowed[0], error[0] = 0, failure
    saver = BackgroundSaver(Checkpoints(FailingStore(tmp_path / "bucket"), BASE, "a"))
    saver.start(5, _files(tmp_path / "out", 5))
    assert saver.wait(10)
    if fatal:
        with pytest.raises(StorageFull):
            saver.start(10, _files(tmp_path / "out", 10))
    else:
        assert saver.start(10, _files(tmp_path / "out", 10))
        assert saver.wait(10)
