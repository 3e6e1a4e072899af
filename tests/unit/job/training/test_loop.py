"""The loop's own promises: losses, rates, randomness, the cache, stopping, and when it gives up."""

from __future__ import annotations

import math

import pytest
import torch
from structlog.testing import capture_logs

from dreambooth_api.methods import Lora
from dreambooth_job.contracts import Example
from dreambooth_job.errors import Diverged
from dreambooth_job.families import FAMILIES
from dreambooth_job.methods import METHODS
from dreambooth_job.training import checkpoints, loop
from dreambooth_job.training.config import TrainingConfig
from dreambooth_job.training.sampling import draw
from tests.tiny import tiny_examples

FAMILY = FAMILIES["sd1"]


@pytest.fixture(scope="module")
def model(tiny_base):
    return FAMILY.load(tiny_base)


@pytest.fixture
def attached(model):
    trainable = METHODS["lora"].attach(
        model, FAMILY.sites(model), Lora(rank=2, train_text_encoder=False), torch.Generator().manual_seed(0)
    )
    yield trainable
    trainable.remove()


def config(**values: object) -> TrainingConfig:
    return TrainingConfig(**{"steps": 3, "learning_rate": 1e-3, "text_learning_rate": 1e-3} | values)


def run(model, trainable, settings, examples=None, **options) -> list[loop.Step]:
    examples, steps = examples or tiny_examples(), []
    state = loop.begin(trainable, settings, "cpu")
    loop.train(
        FAMILY, model, state, examples, lambda n: examples[n % 2 :: 2], settings, on_step=steps.append, **options
    )
    return steps


def test_class_pictures_add_their_weighted_mean_to_the_subjects_mean():
    pixels, zero = torch.zeros(3, 1, 1), torch.zeros(4, 1)
    own, other = Example(pixels, "", 1.0), Example(pixels, "", 0.5, is_class_image=True)
    predicted = torch.tensor([[1.0], [3.0], [2.0], [4.0]])  # squared errors 1, 9, 4, 16
    assert loop.weighted_loss(predicted, zero, [own, own, other, other]) == (1 + 9) / 2 + 0.5 * (4 + 16) / 2


def test_the_rate_warms_up_and_then_stays_or_falls():
    constant = config(steps=10, warmup_steps=4)
    assert [constant.rate_factor(step) for step in (0, 1, 3, 9)] == [0.25, 0.5, 1.0, 1.0]
    cosine = config(steps=10, warmup_steps=2, schedule="cosine")
    assert [round(cosine.rate_factor(step), 3) for step in (0, 1, 2, 6, 9)] == [0.5, 1.0, 1.0, 0.5, 0.038]


def test_a_batchs_randomness_depends_on_seed_and_number_alone():
    draws = {(s, n): torch.randn(3, generator=loop.generator_for(s, n)).tolist() for s in (0, 1) for n in (0, 1)}
    assert len({tuple(d) for d in draws.values()}) == 4
    assert torch.randn(3, generator=loop.generator_for(1, 1)).tolist() == draws[1, 1]


def test_steps_tell_number_rate_and_the_mean_loss_now_and_then(model, attached):
    steps = run(model, attached, config(steps=5, loss_every_steps=2, warmup_steps=2))
    assert [s.number for s in steps] == [1, 2, 3, 4, 5]
    assert [s.loss is not None for s in steps] == [False, True, False, True, True]
    assert [s.learning_rate for s in steps] == [5e-4, 1e-3, 1e-3, 1e-3, 1e-3]


def test_it_leaves_at_the_end_of_the_step_in_which_it_is_asked_to(model, attached):
    seen: list[int] = []
    steps = run(model, attached, config(steps=9), stop=lambda: len(seen) == 2 or seen.append(1) is not None)
    assert [s.number for s in steps] == [1, 2]


def test_frozen_text_is_embedded_once_and_equals_the_live_one(model):
    examples = tiny_examples()
    cached = loop.Cache(FAMILY, model, examples, trains_text=False, precision_name="fp32")
    live = loop.Cache(FAMILY, model, examples, trains_text=True, precision_name="fp32")
    chosen = [examples[3], examples[0], examples[3]]
    assert torch.allclose(cached.conditioning(chosen)["text"], live.conditioning(chosen)["text"], atol=1e-6)
    posterior = FAMILY.encode_images(model, torch.stack([e.pixels for e in chosen]))
    assert torch.allclose(cached.posterior(chosen).mean, posterior.mean, atol=1e-6)


def test_a_caption_that_is_cut_is_told_once_and_not_shown(model):
    example = Example(torch.zeros(3, 32, 32), "secret " * 40, 1.0)
    with capture_logs() as logs:
        loop.Cache(FAMILY, model, [example], trains_text=False, precision_name="fp32")
    assert [(e["event"], e["kept_tokens"]) for e in logs] == [("captions_cut", 77)]
    assert "secret" not in str(logs)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_precision_learns_with_float32_weights(model, attached, precision):
    steps = run(model, attached, config(precision=precision, loss_every_steps=1))
    assert all(math.isfinite(s.loss) for s in steps)
    assert {p.dtype for p in attached.state().values()} == {torch.float32}
    assert all(tensor.any() for name, tensor in attached.state().items() if "lora_up" in name)


def test_adapters_learn_on_a_base_that_lies_in_half_precision(tiny_base):
    half = FAMILY.load(tiny_base, dtype=torch.bfloat16)
    adapters = METHODS["lora"].attach(half, FAMILY.sites(half), Lora(rank=2), torch.Generator().manual_seed(0))
    steps = run(half, adapters, config(precision="bf16", loss_every_steps=1))
    assert all(math.isfinite(s.loss) for s in steps)
    assert {p.dtype for p in adapters.state().values()} == {torch.float32}
    assert half.denoiser.dtype == torch.bfloat16
    assert draw(FAMILY, half, ["a dog"], [0], steps=2, precision_name="bf16")[0].size == (32, 32)


def test_a_loss_that_is_no_number_ends_the_run(model, attached):
    examples = [Example(e.pixels * math.inf, e.caption, e.weight) for e in tiny_examples()]
    with pytest.raises(Diverged, match="step 3"):
        run(model, attached, config(), examples)


def test_weights_that_are_no_numbers_are_never_saved(attached, tmp_path):
    state = loop.begin(attached, config(), "cpu")
    next(iter(attached.state().values())).fill_(math.nan)
    with pytest.raises(Diverged):
        checkpoints.save(tmp_path, state)
    assert not any(tmp_path.iterdir())
