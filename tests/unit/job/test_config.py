"""Every "auto" becomes a value with a reason."""

from __future__ import annotations

import pytest

from dreambooth_api.families import SD1
from dreambooth_api.spec import TrainingJobSpec
from dreambooth_job.config import Hardware, RunConfig, resolve, sample_steps
from tests.wrong_manifests import good_spec

CPU = Hardware("cpu", "no GPU asked for", has_bf16=True)
NEW_GPU = Hardware("cuda", "A100", has_bf16=True)
OLD_GPU = Hardware("cuda", "T4", has_bf16=False)


def resolved(pictures: int = 10, hardware: Hardware = CPU, **sections: object) -> RunConfig:
    spec = TrainingJobSpec.model_validate(good_spec() | sections)
    return resolve(spec, SD1, 512, pictures, hardware)


@pytest.mark.parametrize(("pictures", "steps"), [(1, 400), (6, 600), (20, 2000), (90, 4000)])
def test_steps_are_a_hundred_per_picture_within_bounds(pictures: int, steps: int) -> None:
    assert resolved(pictures).training.steps == steps


@pytest.mark.parametrize(("hardware", "precision"), [(CPU, "fp32"), (NEW_GPU, "bf16"), (OLD_GPU, "fp16")])
def test_precision_follows_the_hardware(hardware: Hardware, precision: str) -> None:
    assert resolved(hardware=hardware).training.precision == precision


def test_rate_follows_the_method_and_text_learns_at_half() -> None:
    lora, full = resolved().training, resolved(method={"full": {}}).training
    assert lora.learning_rate > 10 * full.learning_rate
    assert lora.text_learning_rate == lora.learning_rate / 2


def test_what_the_user_asked_for_wins_and_is_marked_so() -> None:
    config = resolved(training={"steps": 7, "learningRate": 0.5, "precision": "fp16"})
    assert (config.training.steps, config.training.learning_rate, config.training.precision) == (7, 0.5, "fp16")
    asked = ("training.steps", "training.learningRate", "training.precision")
    assert {config.resolved[field].reason for field in asked} == {"as asked"}


@pytest.mark.parametrize(
    ("steps", "every", "expected"),
    [(600, None, (0, 150, 300, 450, 600)), (10, 4, (0, 4, 8, 10)), (1, None, (0, 1)), (8, 4, (0, 4, 8))],
)
def test_pictures_are_drawn_at_the_start_on_the_way_and_at_the_end(
    steps: int, every: int | None, expected: tuple[int, ...]
) -> None:
    assert sample_steps(steps, every) == expected


def test_each_subject_is_drawn_with_its_word_and_without() -> None:
    prompts = resolved(samples={"prompts": ["sks dog on the moon", "a photo of a dog"]}).sample_prompts
    assert prompts == ("sks dog on the moon", "a photo of a dog", "a photo of a sks dog")


def test_checkpoints_are_due_by_time_unless_steps_were_asked_for() -> None:
    assert (resolved().checkpoint_every_seconds, resolved().checkpoint_every_steps) == (300, None)
    by_steps = resolved(checkpoints={"everySteps": 50})
    assert (by_steps.checkpoint_every_seconds, by_steps.checkpoint_every_steps) == (None, 50)
