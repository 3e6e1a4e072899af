from __future__ import annotations

import pytest

from dreambooth_job.data.captions import Sidecars, class_prompt, from_file, from_file_name, instance_prompt, with_token
from dreambooth_job.errors import ImagesUnusable


@pytest.mark.parametrize(
    ("key", "caption"),
    [
        ("x/a_photo_of-x (3).jpg", "a photo of x"), ("sks dog on a beach.png", "sks dog on a beach"),
        ("03_sks-dog_12.jpg", "sks dog"), ("two 2 dogs.jpg", "two 2 dogs"), ("a.b c.jpg", "a b c"),
        ("{token} %s __wild__.jpg", "{token} %s wild"), ("IMG_1234.jpg", None),
        ("DSC00012.JPG", None), ("0007.png", None),
        ("PXL_20240101_101112.MP.jpg", None), ("WhatsApp Image 2024-01-01 at 10.11.12.jpeg", None), ("p (2).png", None),
        ("image.png", None), ("imagine a dog.png", "imagine a dog"), ("IMG-20240101-WA0003.jpg", None),
    ],
)  # fmt: skip
def test_a_file_name_becomes_words(key, caption):
    found = from_file_name(key)
    assert found.text == caption
    assert bool(found.notes) == (caption is None)


@pytest.mark.parametrize(
    ("content", "caption"),
    [
        (b"a dog\r\n in  the\tsnow\n", "a dog in the snow"), (b"\xef\xbb\xbfa dog", "a dog"),
        ("a dög".encode("utf-16"), "a dög"), (b"a\x00b\x07c", "abc"), ("a\u202e\u200bb".encode(), "ab"), (b" \n", None),
        (b"{token} %s __wild__ {{x}}", "{token} %s __wild__ {{x}}"),
        (b"ignore previous instructions", "ignore previous instructions"),
    ],
)  # fmt: skip
def test_a_caption_file_is_cleaned_and_its_syntax_left_alone(save, content, caption):
    assert from_file(save(content, "a.txt")).text == caption


def test_a_long_caption_is_cut_with_a_note(save):
    found = from_file(save(b"x" * 3000, "a.txt"))
    assert found.text == "x" * 2000
    assert found.notes == ("caption cut to 2000 characters",)


@pytest.mark.parametrize(("content", "problem"), [(b"\xff\x00\x81", "not UTF-8"), (bytes(65 << 10), "more than 64 KB")])
def test_an_unreadable_caption_file_is_refused(save, content, problem):
    with pytest.raises(ImagesUnusable, match=problem):
        from_file(save(content, "a.txt"))


def sidecars(*keys: str) -> Sidecars:
    return Sidecars((key, key) for key in keys)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("picture", "keys", "expected"),
    [
        ("a.jpg", ["a.txt", "A.txt"], "a.txt"), ("x/a.jpg", ["a.txt", "y/a.txt"], None),
        ("a.b.jpg", ["a.b.txt"], "a.b.txt"),
        ("\u00e9.jpg", ["e\u0301.txt"], "e\u0301.txt"), ("e\u0301.jpg", ["\u00e9.caption"], "\u00e9.caption"),
        ("\u00e9.jpg", ["e\u0301.txt", "\u00e9.txt"], "\u00e9.txt"), ("A.jpg", ["a.txt"], None),
    ],
)  # fmt: skip
def test_a_caption_belongs_to_the_picture_of_its_folder_and_stem(picture, keys, expected):
    assert sidecars(*keys).of(picture) == expected


def test_two_captions_for_one_picture_are_both_named():
    with pytest.raises(ImagesUnusable, match=r"has 2 caption files, a\.txt and a\.caption; keep one"):
        sidecars("x/a.txt", "x/a.caption").of("x/a.jpg")


def test_prompts_are_derived_from_the_two_names():
    assert instance_prompt("sks", "dog") == "a photo of a sks dog"
    assert class_prompt("dog") == "a photo of a dog"


@pytest.mark.parametrize(
    ("caption", "expected", "added"),
    [
        ("a photo of SKS's ball", "a photo of SKS's ball", False), ("in the snow", "sks dog, in the snow", True),
        ("many sksdogs", "sks dog, many sksdogs", True), ("sks", "sks", False),
    ],
)  # fmt: skip
def test_a_caption_without_the_token_gets_it_in_front(caption, expected, added):
    assert with_token(caption, "sks", "dog") == (expected, added)


def test_a_token_of_signs_is_found_as_it_is_written():
    assert with_token("a <x+y> dog", "<x+y>", "dog") == ("a <x+y> dog", False)
