from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_job.contracts import ObjectInfo
from dreambooth_job.errors import InputChanged
from dreambooth_job.storage.folder import FolderStore
from dreambooth_job.storage.objects import write_bytes
from dreambooth_job.storage.snapshot import fetch, local_name, snapshot
from dreambooth_job.storage.uris import parse

CALM = threading.Event()


@settings(max_examples=50, deadline=None)
@given(key=st.text(min_size=1))
def test_no_key_chooses_its_local_name(key: str) -> None:
    assert re.fullmatch(r"00007-[0-9a-f]{16}(\.[a-z0-9]{1,12})?", local_name(7, key))


@pytest.mark.parametrize(
    ("key", "suffix"),
    [
        ("a/b.WEBP", ".webp"),
        ("a.b/c", ""),
        ("x.tar.gz", ".gz"),
        ("../../etc/passwd", ""),
        ("a.<script>", ""),
        ("a." + "x" * 13, ""),
        (".webp", ""),
    ],
)
def test_a_safe_suffix_is_kept(key: str, suffix: str) -> None:
    assert local_name(0, key)[22:] == suffix


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path / "store")
    for key in ("rex/b.webp", "rex/a/c.webp", "rexford/d.webp", "rex.zip"):
        write_bytes(store, key.encode(), key)
    return store


@pytest.mark.parametrize(
    ("uri", "keys"),
    [
        ("s3://photos/rex/", ["rex/a/c.webp", "rex/b.webp"]),
        ("s3://photos/rex", ["rex/a/c.webp", "rex/b.webp"]),
        ("s3://photos/rex.zip", ["rex.zip"]),
        ("s3://photos/nothing", []),
    ],
)
def test_a_snapshot_is_one_object_or_a_folder(store: FolderStore, uri: str, keys: list[str]) -> None:
    assert [info.key for info in snapshot(store, parse(uri))] == keys


def test_everything_is_fetched_in_order_under_local_names(store: FolderStore, tmp_path: Path) -> None:
    fetched = fetch(store, snapshot(store, parse("s3://photos/rex/")), tmp_path / "in", CALM)
    assert [one.path.read_bytes() for one in fetched] == [b"rex/a/c.webp", b"rex/b.webp"]
    assert [one.path.name for one in fetched] == [local_name(0, "rex/a/c.webp"), local_name(1, "rex/b.webp")]


def test_one_changed_input_fails_the_whole_fetch(store: FolderStore, tmp_path: Path) -> None:
    infos = snapshot(store, parse("s3://photos/rex/"))
    write_bytes(store, b"other", "rex/b.webp")
    with pytest.raises(InputChanged):
        fetch(store, infos, tmp_path / "in", CALM)


def test_two_objects_never_share_a_file(store: FolderStore, tmp_path: Path) -> None:
    infos = [ObjectInfo("a", 1, "x"), ObjectInfo("b", 1, "x")]
    with pytest.raises(ValueError, match="one local name"):
        fetch(store, infos, tmp_path, CALM, name=lambda index, key: "same")
