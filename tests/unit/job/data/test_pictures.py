from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dreambooth_api.spec import Captions
from dreambooth_job.data.pictures import SubjectPictures, read_subject
from dreambooth_job.errors import ImagesMissing, ImagesUnusable, InvalidSpec


@pytest.fixture
def read(save, tmp_path):
    """read({key: image or bytes}, mode) -> SubjectPictures, with the files under names of our own as the stage does."""

    def go(
        objects: dict[str, Image.Image | bytes], mode: Captions = Captions.AUTO, **options: object
    ) -> SubjectPictures:
        files = []
        for number, (key, content) in enumerate(objects.items()):
            path = tmp_path / f"{number}-fetched"
            content.save(path, "PNG") if isinstance(content, Image.Image) else path.write_bytes(content)
            files.append((key, path))
        arguments = {"resolution": 64, "scratch": tmp_path / "scratch", "name": "subject sks", **options}
        return read_subject(files, mode, **arguments)

    return go


def test_pictures_are_numbered_in_the_order_of_their_keys(read, photo):
    found = read({"b/x.jpg": photo(1), "a/y.jpg": photo(2), "10_sks dog/z.jpg": photo(3)})
    assert [(p.index, p.base_name, p.width_px, p.height_px) for p in found.pictures] == [
        (1, "z.jpg", 96, 80), (2, "y.jpg", 96, 80), (3, "x.jpg", 96, 80),
    ]  # fmt: skip
    assert all(p.pixels.shape == (64, 64, 3) for p in found.pictures)
    assert all(p.crop_box[2] - p.crop_box[0] == 80 for p in found.pictures)
    assert found.notes == ("the numbers in folder names such as 10_name are not used: steps are counted per picture",)


def test_pixels_are_those_of_the_crop_box(read, photo):
    (one,) = read({"a.jpg": photo(1)}, resolution=80).pictures
    assert np.array_equal(one.pixels, np.asarray(photo(1).crop(one.crop_box)))


def test_every_bad_picture_is_named_in_one_error_by_index_and_base_name(read, photo):
    with pytest.raises(ImagesUnusable) as refused:
        read({
            "private/a.webp": photo(1).resize((70, 60)), "private/b.jpg": b"", "private/c.jpg": photo(2),
            "private/d.jpg": b"<html>", "private/e.png": photo(3),
        })  # fmt: skip
    assert str(refused.value) == (
        "subject sks: 3 of 5 pictures cannot be used, remove or replace them: "
        "image 1 of 5 (a.webp) is 70x60 px; need at least 64 on the short side; "
        "image 2 of 5 (b.jpg) is empty (0 bytes); "
        "image 4 of 5 (d.jpg) is a web page or drawing (HTML, XML, SVG) under a picture's name; "
        "download the picture itself"
    )


def test_small_pictures_are_enlarged_with_a_note(read, photo):
    (one,) = read({"a.png": photo(1).resize((400, 300))}, resolution=512).pictures
    assert one.notes == ("enlarged from 300 to 512 px",)


def test_duplicates_are_reported_and_kept(read, photo, encoded):
    copy = encoded(photo(1), "JPEG", quality=60)
    found = read({"a.png": photo(1), "b.png": photo(2), "c.jpg": copy, "d.png": photo(3), "e.png": photo(3)})
    assert len(found.pictures) == 5
    assert found.duplicate_groups == ((1, 3), (4, 5))
    assert found.notes == (
        "pictures that look alike: images 1, 3; keep one of them", "the same picture: images 4, 5; keep one of them",
    )  # fmt: skip


def test_equal_pixels_have_equal_digests(read, photo, encoded):
    found = read({"a.png": photo(1), "b.bmp": encoded(photo(1), "BMP"), "c.png": photo(2)})
    first, same, other = (p.sha256 for p in found.pictures)
    assert first == same != other
    assert len(first) == 64


@pytest.fixture
def zipped():
    import io
    import zipfile

    def make(**entries: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as target:
            for name, data in entries.items():
                target.writestr(name, data)
        return buffer.getvalue()

    return make


def test_a_zip_reads_like_a_folder(read, photo, encoded, zipped):
    inside = {"in/b.png": encoded(photo(2)), "in/b.txt": b"a sks dog", "__MACOSX/._b.png": b"", "c.mov": b""}
    found = read({"set.zip": zipped(**inside), "a.png": photo(1)}, ignored=Counter({".pdf": 2}))
    assert [(p.index, p.base_name, p.caption) for p in found.pictures] == [
        (1, "a.png", None),
        (2, "b.png", "a sks dog"),
    ]
    assert found.ignored == {"hidden or system file": 1, ".mov": 1, ".pdf": 2}
    assert "ignored (2 x .pdf, 1 x hidden or system file, 1 x .mov)" in found.notes


def test_captions_of_one_zip_do_not_reach_into_another(read, photo, encoded, zipped):
    one = zipped(**{"a.png": encoded(photo(1)), "a.txt": b"first"})
    other = zipped(**{"a.png": encoded(photo(2)), "a.txt": b"second"})
    assert [p.caption for p in read({"1.zip": one, "2.zip": other}).pictures] == ["first", "second"]


def test_nothing_but_junk_in_a_zip_is_no_picture(read, zipped):
    with pytest.raises(ImagesMissing, match=r"subject sks: no picture in what was found \(1 x \.mov\)"):
        read({"set.zip": zipped(**{"a.mov": b""})})


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        (Captions.NONE, (None, None)), (Captions.FILENAME, ("sks dog asleep", None)),
        (Captions.SIDECAR, ("from a file", None)), (Captions.AUTO, ("from a file", None)),
    ],
)  # fmt: skip
def test_captions_come_from_where_the_mode_says(read, photo, mode, expected):
    found = read({"sks_dog_asleep.png": photo(1), "x/IMG_1.png": photo(2), "sks_dog_asleep.txt": b"from a file"}, mode)
    assert tuple(p.caption for p in found.pictures) == expected
    assert found.captioned == sum(c is not None for c in expected)
    assert ("1 of 2 pictures have no caption: the prompt is used" in found.notes) == (mode is not Captions.NONE)


def test_auto_means_none_when_no_caption_file_belongs_to_a_picture(read, photo):
    found = read({"a.png": photo(1), "readme.txt": b"hello"})
    assert found.pictures[0].caption is None
    assert found.notes == ()


def test_sidecars_asked_for_and_not_there_are_an_error(read, photo):
    with pytest.raises(InvalidSpec, match=r"images\.captions is sidecar but none of 1 pictures"):
        read({"a.png": photo(1)}, Captions.SIDECAR)


def test_an_ambiguous_caption_names_the_picture_and_both_files(read, photo):
    with pytest.raises(
        ImagesUnusable, match=r"image 1 of 1 \(a.png\) has 2 caption files, a.caption and a.txt; keep one"
    ):
        read({"x/a.png": photo(1), "x/a.txt": b"1", "x/a.caption": b"2"})


@pytest.mark.parametrize(
    "key", ["../x.png", "/etc/x.png", "a//b.png", "a" * 1000 + ".png", "\u202ex\n.png", "C:\\x.png"]
)
def test_no_key_becomes_a_path(read, photo, tmp_path, key):
    assert len(read({key: photo(1)}).pictures) == 1
    assert {p.name for p in tmp_path.iterdir()} == {"0-fetched"}


def test_twins_by_case_and_by_spelling_stay_apart(read, photo):
    found = read({
        "A.png": photo(1), "a.png": photo(2), "a.txt": b"small", "A.txt": b"large", "e\u0301.png": photo(3),
        "\u00e9.txt": b"composed",
    })  # fmt: skip
    assert [p.caption for p in found.pictures] == ["large", "small", "composed"]


def test_a_heic_trains_like_any_other(read):
    data = Path(__file__).with_name("quadrant.heic").read_bytes()
    (one,) = read({"IMG_0001.HEIC": data}).pictures
    assert (one.width_px, one.height_px, one.notes) == (96, 64, ())
