from __future__ import annotations

import io

from PIL import Image, ImageEnhance

from dreambooth_job.data.duplicates import fingerprint, groups


def compressed(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    return Image.open(buffer).convert("RGB")


def test_recoded_resized_and_brightened_copies_are_one_group(photo):
    one, other = photo(1), photo(2)
    copies = [one, compressed(one), one.resize((200, 170)), ImageEnhance.Brightness(one).enhance(1.1)]
    assert groups([fingerprint(i) for i in (other, *copies)]) == [[1, 2, 3, 4]]


def test_different_pictures_stay_apart(photo):
    assert groups([fingerprint(photo(seed)) for seed in range(200)]) == []


def test_flat_pictures_are_alike():
    assert groups([fingerprint(Image.new("RGB", (64, 64), c)) for c in ("red", "red")]) == [[0, 1]]


def test_several_groups_are_kept_apart(photo):
    assert groups([fingerprint(photo(seed)) for seed in (1, 2, 1, 3, 2)]) == [[0, 2], [1, 4]]
