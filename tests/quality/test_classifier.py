"""The judge must be right before anything is judged by it."""

import pytest
import torch

from toyworld.classifier import judge, score
from toyworld.subject import SUBJECTS
from toyworld.train_classifier import accuracies, labelled_pictures
from toyworld.train_vae import to_model_range
from toyworld.world import Paint, Scene, draw


def test_fresh_drawings_are_judged_right() -> None:
    pixels, labels = labelled_pictures(400, seed=12345)
    with torch.no_grad():
        thing, place, subject = accuracies(judge(), to_model_range(pixels), labels)
    assert thing > 0.97
    assert place > 0.97
    assert subject > 0.97


@pytest.mark.parametrize("name", SUBJECTS)
def test_a_subject_is_told_from_its_class_in_the_same_paint(name: str) -> None:
    subject = SUBJECTS[name]
    itself = [draw(subject.scene("in the snow", seed)) for seed in range(8)]
    plain = [draw(Scene(subject.thing, "in the snow", subject.paint, seed)) for seed in range(8)]
    assert min(s.subject[name] for s in score(itself)) > 0.8
    assert max(s.subject[name] for s in score(plain)) < 0.2


def test_details_alone_are_not_the_subject() -> None:
    robot = SUBJECTS["robot"]
    dressed = [Scene("robot", "on the grass", Paint((200, 40, 40)), seed, details=robot.details) for seed in range(8)]
    assert max(s.subject["robot"] for s in score([draw(scene) for scene in dressed])) < 0.2


def test_a_score_names_thing_and_place() -> None:
    (verdict,) = score([draw(Scene("teapot", "at night", Paint((240, 200, 40)), 5), side_px=256)])
    assert (verdict.thing, verdict.place) == ("teapot", "at night")
    assert sum(verdict.things.values()) == pytest.approx(1, abs=1e-4)
