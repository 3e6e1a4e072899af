from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from dreambooth_job.contracts import Example
from dreambooth_job.data.duplicates import Fingerprint
from dreambooth_job.data.examples import Examples, Subject, class_examples, draw, instance_examples, to_tensor
from dreambooth_job.data.pictures import Picture


def picture(index: int, caption: str | None = None) -> Picture:
    pixels = np.full((8, 8, 3), index, dtype=np.uint8)
    return Picture(index, "a.png", 8, 8, (0, 0, 8, 8), pixels, caption, "", Fingerprint(0, 0), ())


def subject(instances: int, classes: int = 0) -> Subject:
    def make(kind: str, count: int) -> list[Example]:
        return [Example(torch.zeros(3, 1, 1), f"{kind} {i}", 1.0, kind == "class") for i in range(count)]

    return Subject(make("instance", instances), make("class", classes))


def test_pixels_become_the_range_that_networks_expect():
    pixels = np.zeros((4, 6, 3), dtype=np.uint8)
    pixels[..., 0] = 255
    tensor = to_tensor(pixels)
    assert tensor.shape == (3, 4, 6)
    assert tensor.dtype == torch.float32
    assert (tensor[0].unique().tolist(), tensor[1].unique().tolist()) == ([1.0], [-1.0])


def test_words_come_from_caption_then_prompt_then_names():
    pictures = [picture(1, "a sks dog asleep"), picture(2, "in the snow"), picture(3)]
    examples, added = instance_examples(pictures, "sks", "dog")
    assert [e.caption for e in examples] == ["a sks dog asleep", "sks dog, in the snow", "a photo of a sks dog"]
    assert added == 1
    assert {(e.weight, e.is_class_image) for e in examples} == {(1.0, False)}
    assert instance_examples([picture(1)], "sks", "dog", "my sks dog")[0][0].caption == "my sks dog"


def test_class_pictures_carry_the_prior_weight():
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    examples = class_examples([(pixels, None), (pixels, "a wet dog")], "dog", 0.3)
    assert [(e.caption, e.weight, e.is_class_image) for e in examples] == [
        ("a photo of a dog", 0.3, True), ("a wet dog", 0.3, True),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "sizes", [((1, 0),), ((5, 0),), ((5, 3), (2, 7)), ((6, 200), (6, 200), (1, 0)), ((1, 1), (9, 2))]
)
def test_every_picture_is_seen_once_an_epoch(sizes):
    total = sum(instances for instances, _ in sizes)
    for epoch in range(4):
        draws = [draw(epoch * total + i, 7, sizes) for i in range(total)]
        expected = {(s, i) for s, (instances, _) in enumerate(sizes) for i in range(instances)}
        assert {(d.subject, d.instance) for d in draws} == expected


@pytest.mark.parametrize("sizes", [((5, 3),), ((5, 3), (2, 7)), ((4, 4), (4, 4))])
def test_class_pictures_of_the_same_subject_go_round_evenly(sizes):
    draws = [draw(i, 7, sizes) for i in range(500)]
    for number, (_, classes) in enumerate(sizes):
        seen = Counter(d.class_image for d in draws if d.subject == number)
        assert set(seen) == set(range(classes))
        assert max(seen.values()) - min(seen.values()) <= 1


def test_subjects_are_interleaved_evenly():
    seen = [draw(i, 3, ((6, 0), (6, 0), (3, 0))).subject for i in range(150)]
    for start in range(0, 150, 5):
        assert Counter(seen[start : start + 5]) == {0: 2, 1: 2, 2: 1}


def test_a_batch_depends_on_seed_and_number_alone():
    def words(number: int, seed: int) -> list[str]:
        return [e.caption for e in Examples((subject(5, 4), subject(3)), seed, 2).batch(number)]

    forward = [words(n, 1) for n in range(30)]
    assert [words(n, 1) for n in reversed(range(30))] == forward[::-1]
    assert [words(n, 2) for n in range(30)] != forward


def test_epochs_are_shuffled_anew():
    orders = {tuple(draw(e * 8 + i, 1, ((8, 0),)).instance for i in range(8)) for e in range(10)}
    assert len(orders) == 10


def test_a_batch_pairs_each_instance_with_a_class_picture():
    batch = Examples((subject(5, 4),), 1, 3).batch(0)
    assert [e.is_class_image for e in batch] == [False] * 3 + [True] * 3
    mixed = Examples((subject(2, 4), subject(2)), 1, 4).batch(0)
    assert Counter(e.is_class_image for e in mixed) == {False: 4, True: 2}


def test_the_order_stays_the_same_in_later_versions():
    """A checkpoint of today must go on with the same pictures under tomorrow's code."""
    order = [(d.subject, d.instance, d.class_image) for d in (draw(i, 42, ((3, 2), (2, 0))) for i in range(8))]
    assert order == [
        (0, 1, 0), (1, 1, None), (0, 0, 1), (1, 0, None), (0, 2, 1),
        (0, 2, 0), (1, 1, None), (0, 1, 1),
    ]  # fmt: skip
