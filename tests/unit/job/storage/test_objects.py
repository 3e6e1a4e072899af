from __future__ import annotations

from pathlib import Path

import pytest

from dreambooth_job.contracts import ObjectInfo, Verification
from dreambooth_job.errors import InputChanged
from dreambooth_job.storage.folder import FolderStore
from dreambooth_job.storage.objects import delete_below, read_bytes, write_bytes


class BusyStore(FolderStore):
    """Somebody replaces the object just before it is read, a few times."""

    def get(self, info: ObjectInfo, to: Path, sha256: str | None = None) -> Verification:
        if replacements:
            write_bytes(FolderStore(self.root), replacements.pop(), info.key)
        return super().get(info, to, sha256)


replacements: list[bytes] = []


def test_a_small_object_that_is_being_replaced_is_read_again(tmp_path: Path) -> None:
    store = BusyStore(tmp_path)
    write_bytes(store, b"0", "key")
    replacements[:] = [b"3", b"2", b"1"]
    assert read_bytes(store, "key")[0] == b"3"


def test_one_that_never_comes_to_rest_is_named(tmp_path: Path) -> None:
    store = BusyStore(tmp_path)
    write_bytes(store, b"0", "a/key")
    replacements[:] = [b"x"] * 99
    with pytest.raises(InputChanged, match="key was replaced"):
        read_bytes(store, "a/key")


def test_one_that_vanishes_while_it_is_read_is_absent(tmp_path: Path) -> None:
    class Vanishing(FolderStore):
        def get(self, info: ObjectInfo, to: Path, sha256: str | None = None) -> Verification:
            self.delete(info.key)
            return super().get(info, to, sha256)

    write_bytes(FolderStore(tmp_path), b"0", "key")
    assert read_bytes(Vanishing(tmp_path), "key") is None


def test_manifests_are_deleted_before_what_they_list(tmp_path: Path) -> None:
    class Recording(FolderStore):
        def delete(self, key: str) -> None:
            deleted.append(key)
            super().delete(key)

    deleted: list[str] = []
    for key in ("a/1/file", "a/1/manifest.json", "a/2/file", "a/2/manifest.json"):
        write_bytes(FolderStore(tmp_path), b"x", key)
    assert delete_below(Recording(tmp_path), "a/") == 4
    assert deleted == ["a/1/manifest.json", "a/2/manifest.json", "a/1/file", "a/2/file"]
