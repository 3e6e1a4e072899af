from __future__ import annotations

import pytest

from dreambooth_job.contracts import ObjectInfo
from dreambooth_job.data import listing
from dreambooth_job.data.listing import base_name, classify, in_kohya_folder, kind_of
from dreambooth_job.errors import ImagesMissing, ImagesUnusable


def objects(*keys: str, size: int = 1000) -> list[ObjectInfo]:
    return [ObjectInfo(key, size, "etag") for key in keys]


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("a.jpg", "picture"), ("deep/er/A.JPEG", "picture"), ("10_sks dog/a.png", "picture"), ("x.HEIC", "picture"),
        ("../x.jpg", "picture"), ("/etc/x.png", "picture"), ("a//b.webp", "picture"), ("C:\\x.jpg", "picture"),
        ("a.txt", "caption"), ("a.caption", "caption"), ("set.ZIP", "archive"), ("folder/", "folder"),
        (".DS_Store", "hidden or system file"), ("a/._x.jpg", "hidden or system file"),
        ("__MACOSX/a.jpg", "hidden or system file"), ("Thumbs.db", "hidden or system file"),
        ("desktop.ini", "hidden or system file"), ("@eaDir/a.jpg", "hidden or system file"),
        ("live.mov", ".mov"), ("a.eps", ".eps"), ("a.tar", ".tar"), ("README", "no file extension"),
        ("a.j\u202epg\n", ".jpg"),
    ],
)  # fmt: skip
def test_a_key_is_sorted_by_its_name(key, kind):
    assert kind_of(key) == kind


def test_any_layout_of_folders_reads_alike():
    keys = ["b.jpg", "a/b.png", "a/b.txt", "10_sks dog/c.jpg", "more.zip", "a/", "a/clip.mov", ".DS_Store"]
    found = classify(objects(*keys), "subject sks")
    assert found.pictures == ("10_sks dog/c.jpg", "a/b.png", "b.jpg")
    assert found.captions == ("a/b.txt",)
    assert found.archives == ("more.zip",)
    assert found.ignored == {".mov": 1, "hidden or system file": 1}
    assert set(found.to_fetch()) == set(keys) - {"a/", "a/clip.mov", ".DS_Store"}


def test_case_twins_and_spelling_twins_stay_two_pictures():
    assert len(classify(objects("A.jpg", "a.jpg", "e\u0301.jpg", "\u00e9.jpg"), "x").pictures) == 4


def test_no_picture_says_what_is_there_instead():
    with pytest.raises(ImagesMissing, match=r"subject sks: no picture among 3 objects \(2 x \.mov, 1 x \.pdf\); check"):
        classify(objects("a.mov", "b.mov", "c.pdf"), "subject sks")
    with pytest.raises(ImagesMissing, match="among 0 objects; check the prefix"):
        classify([], "subject sks")


def test_pictures_too_large_to_fetch_are_all_named_by_index():
    big = [*objects("x/b.png", "x/d.png", size=65 << 20), *objects("a.png", "c.png")]
    with pytest.raises(ImagesUnusable) as refused:
        classify(big, "subject sks")
    assert str(refused.value) == (
        "subject sks: remove or replace: image 3 of 4 (b.png) is 65 MB, at most 64 MB; "
        "image 4 of 4 (d.png) is 65 MB, at most 64 MB"
    )


def test_a_zip_too_large_to_fetch_is_refused():
    with pytest.raises(ImagesUnusable, match=r"set\.zip is 5120 MB, a zip may have at most 4 GiB"):
        classify(objects("set.zip", size=5 << 30), "subject sks")


def test_a_whole_data_lake_is_refused(monkeypatch):
    monkeypatch.setattr(listing, "MAX_PICTURES", 3)
    with pytest.raises(ImagesUnusable, match="4 pictures, at most 3; narrow the prefix"):
        classify(objects("a.jpg", "b.jpg", "c.jpg", "d.jpg"), "subject sks")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("secret/folder/a.jpg", "a.jpg"), ("a\nb\x00.jpg", "ab.jpg"), ("a\u202egpj.exe.jpg", "agpj.exe.jpg"),
        ("x/\u200b", "unnamed"), ("a" * 1024, "a" * 80),
    ],
)  # fmt: skip
def test_a_base_name_is_safe_to_print(key, name):
    assert base_name(key) == name


def test_kohya_folders_are_recognised():
    assert in_kohya_folder("x/10_sks dog/a.jpg")
    assert not in_kohya_folder("2024/a.jpg")
    assert not in_kohya_folder("10_a.jpg")
