"""Pictures while training: the same words and seeds give the same pictures, and training notices nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dreambooth_job.families import FAMILIES
from dreambooth_job.training.sampling import draw, to_images
from tests.tiny import SIDE_PX

FAMILY = FAMILIES["sd1"]


@pytest.fixture(scope="module")
def model(tiny_base):
    return FAMILY.load(tiny_base)


def pictures(model, prompts, seeds, **options) -> list[np.ndarray]:
    return [np.asarray(p, dtype=int) for p in draw(FAMILY, model, prompts, seeds, steps=2, **options)]


def test_a_picture_depends_on_its_words_and_seed_alone(model):
    together = pictures(model, ["a dog", "a cat", "a dog"], [1, 2, 3])
    alone = pictures(model, ["a cat"], [2])
    assert together[0].shape == (SIDE_PX, SIDE_PX, 3)
    assert np.abs(together[1] - alone[0]).max() <= 1  # of 255: a batch's sums may differ in the last bit
    assert np.abs(together[0] - together[2]).max() > 1


def test_drawing_twice_gives_the_same_bytes(model):
    one, other = (pictures(model, ["a dog"] * 3, [1, 2, 3], batch_size=2) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_drawing_leaves_randomness_modes_and_gradients_alone(model):
    torch.manual_seed(5)
    expected = torch.random.get_rng_state()
    model.denoiser.train()
    try:
        pictures(model, ["a dog"], [1])
        assert torch.equal(torch.random.get_rng_state(), expected)
        assert model.denoiser.training
        assert torch.is_grad_enabled()
    finally:
        model.denoiser.eval()


def test_the_size_can_be_asked_for(model):
    assert pictures(model, ["a dog"], [1], size_px=64)[0].shape == (64, 64, 3)


def test_pixels_become_bytes_without_wrapping():
    pixels = torch.tensor([-1.0, 0.0, 1.0, 1.5]).view(1, 1, 1, 4).expand(1, 3, 1, 4)
    assert np.asarray(to_images(pixels)[0])[0, :, 0].tolist() == [0, 128, 255, 255]
