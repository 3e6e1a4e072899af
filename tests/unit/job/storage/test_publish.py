"""The publish protocol over a local folder: what stands, what goes, who wins."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from dreambooth_job.contracts import ObjectInfo
from dreambooth_job.errors import OutputExists
from dreambooth_job.storage.folder import FolderStore
from dreambooth_job.storage.manifest import File, Manifest
from dreambooth_job.storage.objects import read_bytes, write_bytes
from dreambooth_job.storage.publish import Output, Published, publish
from tests.unit.job.storage.outputs import AGAIN, OTHER, REX, CarelessStore, manifest


class Recording:
    """Knows the order of its writes."""

    def put(self, source: Path, key: str, **condition) -> ObjectInfo:
        writes.append(key)
        return super().put(source, key, **condition)


class RecordingStore(Recording, FolderStore): ...


class RecordingCarelessStore(Recording, CarelessStore): ...


writes: list[str] = []


@pytest.fixture(params=[True, False], ids=["conditional", "careless"])
def conditional(request: pytest.FixtureRequest) -> bool:
    return request.param


@pytest.fixture
def store(tmp_path: Path, conditional: bool) -> FolderStore:
    writes.clear()
    return (RecordingStore if conditional else RecordingCarelessStore)(tmp_path / "bucket")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    for name in ("model", "grid"):
        (tmp_path / name).write_bytes(name.encode())
    return {"model.safetensors": tmp_path / "model", "samples/grid.png": tmp_path / "grid"}


@pytest.fixture
def run(store: FolderStore, files: dict[str, Path], conditional: bool):
    def run(output: Output) -> Published:
        return publish(store, replace(output, conditional=conditional), files, lambda listed: manifest(output, listed))

    return run


def _keys(store: FolderStore) -> list[str]:
    return [info.key for info in store.list("")]


def _result(output: Output) -> list[str]:
    return sorted([f"rex/{output.attempt}/{path}" for path in ("model.safetensors", "samples/grid.png")] + [MANIFEST])


MANIFEST = "rex/manifest.json"


def test_files_come_first_and_the_manifest_last(store: FolderStore, run, conditional: bool) -> None:
    published = run(REX)
    assert writes == [f"rex/{REX.attempt}/model.safetensors", f"rex/{REX.attempt}/samples/grid.png", MANIFEST]
    assert Manifest.model_validate_json(read_bytes(store, MANIFEST)[0]) == published.manifest
    assert published.manifest.conditional is conditional


def test_the_manifest_lists_size_and_sha256_of_each_file_and_no_input_name(store: FolderStore, run) -> None:
    run(REX)
    written = json.loads(read_bytes(store, MANIFEST)[0])
    assert written["files"][0] == {
        "path": f"{REX.attempt}/model.safetensors",
        "sizeBytes": 5,
        "sha256": "9372c470eeadd5ecd9c3c74c2b3cb633f8e2f2fad799250a0f70d652b6b825e4",
    }
    assert written["inputs"]["subjects[0].images"] == [
        {"index": 0, "sizeBytes": 9, "etag": '"e"', "verification": "etag"}
    ]


def test_a_second_attempt_finds_the_result_of_the_first(store: FolderStore, run) -> None:
    run(REX)
    second = run(AGAIN)
    assert (second.already, second.manifest.attempt) == (True, REX.attempt)
    assert _keys(store) == _result(REX)


def test_the_result_of_another_job_is_refused_before_anything_is_written(store: FolderStore, run) -> None:
    run(REX)
    writes.clear()
    with pytest.raises(OutputExists, match=r"job rex \(uid 11111111-aaaa\).*overwritePolicy: Replace"):
        run(OTHER)
    assert writes == []


@pytest.mark.parametrize("winner", [AGAIN, OTHER], ids=["same job", "other job"])
def test_who_loses_the_commit_reads_the_winner(
    store: FolderStore, files: dict[str, Path], conditional: bool, winner: Output
) -> None:
    """The winner's manifest appears while the loser builds its own."""

    def build(listed: tuple[File, ...]) -> Manifest:
        write_bytes(store, manifest(winner).to_json(), MANIFEST)
        return manifest(REX, listed)

    output = replace(REX, conditional=conditional)
    if winner is AGAIN:
        published = publish(store, output, files, build)
        assert (published.already, published.manifest.attempt) == (True, AGAIN.attempt)
    else:
        with pytest.raises(OutputExists, match="22222222-bbbb"):
            publish(store, output, files, build)
    assert _keys(store) == [MANIFEST]


def test_a_replacement_deletes_what_it_replaced(store: FolderStore, run) -> None:
    run(REX)
    run(replace(OTHER, replace=True))
    assert _keys(store) == _result(OTHER)


def test_only_this_jobs_leftovers_go(store: FolderStore, run, conditional: bool) -> None:
    mine = [f"rex/{AGAIN.attempt}/half", f"rex/.checkpoints/{REX.job_uid}/00000005-x/state"]
    others = ["rex/notes.txt", f"rex/{OTHER.attempt}/half", f"rex/.checkpoints/{OTHER.job_uid}/00000005-x/state"]
    for key in mine + others:
        write_bytes(store, b"x", key)
    run(REX)
    kept = others if conditional else [*others, mine[0]]  # a careless store may still let another attempt commit
    assert _keys(store) == sorted(kept + _result(REX))


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../b", "a//b", "", "a\\b", "a\nb", "ä"])
def test_a_manifest_that_leads_out_of_its_folder_is_not_read(path: str) -> None:
    with pytest.raises(ValidationError):
        File(path=path, size_bytes=0, sha256="0" * 64)
