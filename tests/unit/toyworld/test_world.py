import random

import pytest

from toyworld.subject import SUBJECTS, UNSEEN_PLACE, subject_pictures
from toyworld.tokenizer import RARE_WORDS, world_words
from toyworld.world import CLASSES, PLACES, Paint, Scene, caption, draw, random_scene


def scene(thing: str = "robot", place: str = "on the grass", seed: int = 1) -> Scene:
    return Scene(thing, place, Paint((200, 30, 30)), seed)


def test_a_scene_always_gives_the_same_picture() -> None:
    assert draw(scene()).tobytes() == draw(scene()).tobytes()


def test_another_seed_moves_the_thing() -> None:
    assert draw(scene(seed=1)).tobytes() != draw(scene(seed=2)).tobytes()


def test_every_thing_and_every_place_looks_different() -> None:
    pictures = {draw(scene(thing, place)).tobytes() for thing in CLASSES for place in PLACES}
    assert len(pictures) == len(CLASSES) * len(PLACES)


@pytest.mark.parametrize("side_px", [64, 256])
def test_a_picture_has_the_side_asked_for(side_px: int) -> None:
    assert draw(scene(), side_px).size == (side_px, side_px)


def test_captions_speak_the_vocabulary_and_never_a_rare_word() -> None:
    rng = random.Random(0)
    words = {word for _ in range(500) for word in caption(random_scene(rng), rng).split()}
    assert words == set(world_words()) - set(RARE_WORDS)


def test_a_colour_is_named_only_where_the_paint_has_a_name() -> None:
    rng = random.Random(0)
    unnamed = [s for s in (random_scene(rng) for _ in range(200)) if s.colour is None]
    assert unnamed
    assert all(caption(s, rng).split()[4] in CLASSES for s in unnamed)


def test_a_subject_is_never_photographed_in_the_unseen_place() -> None:
    subject = SUBJECTS["robot"]
    shown = [picture.tobytes() for picture in subject_pictures(subject, side_px=64)]
    assert len(set(shown)) == 6
    rng = random.Random(0)
    seeds = [rng.getrandbits(32) for _ in range(6)]
    assert not any(draw(subject.scene(UNSEEN_PLACE, seed)).tobytes() in shown for seed in seeds)


def test_a_subject_differs_from_its_class_in_the_same_paint() -> None:
    for subject in SUBJECTS.values():
        plain = Scene(subject.thing, "in a room", subject.paint, 3)
        assert draw(subject.scene("in a room", 3)).tobytes() != draw(plain).tobytes()
