"""Every "auto" becomes a value, once, with its reason: resolve(spec, what was found) -> RunConfig.

Called by the pipeline after the pictures are read and before the first weight moves. The values and their reasons are
published as config.json and shown in the report, so nobody has to guess what a run was.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from dreambooth_api.families import FamilyRow
from dreambooth_api.spec import Precision, Subject, TrainingJobSpec
from dreambooth_job.data.captions import class_prompt, instance_prompt
from dreambooth_job.training.config import TrainingConfig

STEPS_PER_PICTURE = 100
FEWEST_STEPS, MOST_STEPS = 400, 4000
CHECKPOINT_SECONDS = 300
SAMPLES_PER_RUN = 4


@dataclass(frozen=True)
class Hardware:
    """What the process sees of the node: `device` is cuda or cpu."""

    device: str
    name: str
    has_bf16: bool


@dataclass(frozen=True)
class Value:
    """One resolved setting: what it is, and why."""

    value: object
    reason: str


@dataclass(frozen=True)
class RunConfig:
    training: TrainingConfig
    resolution: int
    sample_steps: tuple[int, ...]  # optimizer steps after which pictures are drawn; 0 and the last are among them
    sample_prompts: tuple[str, ...]
    guidance: float
    checkpoint_every_steps: int | None
    checkpoint_every_seconds: int | None
    resolved: Mapping[str, Value]  # by the field's path in the spec


def resolve(spec: TrainingJobSpec, family: FamilyRow, resolution: int, pictures: int, hardware: Hardware) -> RunConfig:
    """`resolution` is what the pictures were cut to, `pictures` counts the subjects' own."""
    steps = _steps(spec, pictures)
    rate, text_rate = _rates(spec, family)
    precision = _precision(spec, hardware)
    every_steps = spec.checkpoints.every_steps
    every_seconds = spec.checkpoints.every_seconds or (None if every_steps else CHECKPOINT_SECONDS)
    training = spec.training
    return RunConfig(
        training=TrainingConfig(
            steps=int(str(steps.value)),
            learning_rate=float(str(rate.value)),
            text_learning_rate=float(str(text_rate.value)),
            schedule=training.schedule.value,
            warmup_steps=training.warmup_steps,
            gradient_accumulation=training.gradient_accumulation,
            max_grad_norm=training.max_grad_norm,
            precision=str(precision.value),
            seed=training.seed,
        ),
        resolution=resolution,
        sample_steps=sample_steps(int(str(steps.value)), spec.samples.every_steps),
        sample_prompts=sample_prompts(spec),
        guidance=spec.samples.guidance,
        checkpoint_every_steps=every_steps,
        checkpoint_every_seconds=every_seconds,
        resolved={
            "training.steps": steps,
            "training.learningRate": rate,
            "training.textLearningRate": text_rate,
            "training.resolution": Value(resolution, _because(training.resolution, "the base model's own size")),
            "training.precision": precision,
            "device": Value(hardware.device, f"runtime.gpu.count is {spec.runtime.gpu.count}; found {hardware.name}"),
        },
    )


def sample_steps(steps: int, every_steps: int | None) -> tuple[int, ...]:
    """0, every so many, and the last."""
    every = every_steps or max(1, math.ceil(steps / SAMPLES_PER_RUN))
    return (*range(0, steps, every), steps)


def sample_prompts(spec: TrainingJobSpec) -> tuple[str, ...]:
    """The user's own, then each subject with its word and without it; each prompt once, in this order."""
    pairs = [(prompt_of(subject), class_prompt(subject.class_name)) for subject in spec.subjects]
    return tuple(dict.fromkeys([*spec.samples.prompts, *(prompt for pair in pairs for prompt in pair)]))


def prompt_of(subject: Subject) -> str:
    return subject.prompt or instance_prompt(subject.token, subject.class_name)


def _because(asked: object | None, otherwise: str) -> str:
    return "as asked" if asked is not None else otherwise


def _steps(spec: TrainingJobSpec, pictures: int) -> Value:
    if spec.training.steps is not None:
        return Value(spec.training.steps, "as asked")
    steps = min(max(STEPS_PER_PICTURE * pictures, FEWEST_STEPS), MOST_STEPS)
    return Value(steps, f"{STEPS_PER_PICTURE} per picture, {pictures} pictures, {FEWEST_STEPS} to {MOST_STEPS}")


def _rates(spec: TrainingJobSpec, family: FamilyRow) -> tuple[Value, Value]:
    usual = family.rates[spec.method.name]
    asked, text_asked = spec.training.learning_rate, spec.training.text_learning_rate
    rate = Value(asked or usual, _because(asked, family.rate_reasons[spec.method.name]))
    text = Value(text_asked or float(str(rate.value)) / 2, _because(text_asked, "half of learningRate"))
    return rate, text


def _precision(spec: TrainingJobSpec, hardware: Hardware) -> Value:
    if spec.training.precision is not Precision.AUTO:
        return Value(spec.training.precision.value, "as asked")
    if hardware.device == "cpu":
        return Value(Precision.FP32.value, "the usual on a CPU")
    if hardware.has_bf16:
        return Value(Precision.BF16.value, f"{hardware.name} computes bf16")
    return Value(Precision.FP16.value, f"{hardware.name} has no bf16")
