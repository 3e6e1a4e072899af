"""Stage 3: the base model, every setting resolved, class pictures drawn, the method attached, ready for step one."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dreambooth_api.families import FAMILIES as FAMILY_ROWS
from dreambooth_api.spec import TrainingJobSpec
from dreambooth_job.config import Hardware, RunConfig, resolve
from dreambooth_job.contracts import Example, Family, Model
from dreambooth_job.data.examples import Examples, Subject, class_examples, instance_examples
from dreambooth_job.errors import DeviceUnavailable, InvalidSpec
from dreambooth_job.families import FAMILIES
from dreambooth_job.interruption import Interruption
from dreambooth_job.methods import METHODS
from dreambooth_job.stages.class_pictures import Drawing, Shelf
from dreambooth_job.stages.fetch import Inputs
from dreambooth_job.stages.prepare import Prepared, PreparedSubject
from dreambooth_job.training.loop import TrainingState, begin, generator_for

ATTACH = -1  # the number of the "batch" whose randomness initialises the method


@dataclass(frozen=True)
class Loaded:
    family: Family
    model: Model
    config: RunConfig
    examples: Examples
    state: TrainingState


def load(spec: TrainingJobSpec, inputs: Inputs, prepared: Prepared, shelf: Shelf, interruption: Interruption) -> Loaded:
    """Raises BaseModelUnreadable, BaseModelUnsupported, PickleRefused, InvalidSpec, DeviceUnavailable."""
    family, row = FAMILIES["sd1"], FAMILY_ROWS["sd1"]
    if refusal := row.refusal(spec.method):
        raise InvalidSpec(f"method: {refusal}; choose another method or base model")
    hardware = find_hardware(spec.runtime.gpu.count)
    config = resolve(spec, row, prepared.resolution, prepared.pictures, hardware)
    model = family.load(
        inputs.base, dtype=_base_dtype(spec, config), device=hardware.device, config_source=inputs.config,
        vae=inputs.vae, allow_pickle=spec.base_model.allow_pickle,
    )  # fmt: skip
    drawing = Drawing(family, model, config, inputs.base_digest, spec.training.seed)
    examples = Examples(
        tuple(_subject(s, spec.training.prior_weight, drawing, shelf, interruption) for s in prepared.subjects),
        seed=spec.training.seed,
        batch_size=spec.training.batch_size,
    )
    generator = generator_for(spec.training.seed, ATTACH)
    trainable = METHODS[spec.method.name].attach(model, family.sites(model), spec.method.params, generator)
    return Loaded(family, model, config, examples, begin(trainable, config.training, hardware.device))


def find_hardware(gpus: int) -> Hardware:
    """Raises DeviceUnavailable when a GPU was asked for and none works."""
    if gpus == 0:
        return Hardware("cpu", "no GPU asked for", has_bf16=True)
    if not torch.cuda.is_available():
        raise DeviceUnavailable(
            "a GPU was asked for (runtime.gpu.count: 1) but torch sees none; check the node's driver and device "
            "plugin, or set runtime.gpu.count: 0 to train on the CPU"
        )
    return Hardware("cuda", torch.cuda.get_device_name(), has_bf16=torch.cuda.is_bf16_supported())


def _base_dtype(spec: TrainingJobSpec, config: RunConfig) -> torch.dtype:
    """Weights that move stay float32; a frozen base may lie in the precision it is computed in."""
    if spec.method.full is not None:
        return torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[config.training.precision]


def _subject(
    prepared: PreparedSubject, weight: float, drawing: Drawing, shelf: Shelf, interruption: Interruption
) -> Subject:
    subject = prepared.spec
    instances, _ = instance_examples(prepared.pictures.pictures, subject.token, subject.class_name, subject.prompt)
    if subject.class_images is None:
        return Subject(instances)
    if prepared.given_classes is not None:
        given = [(p.pixels, p.caption) for p in prepared.given_classes.pictures]
        return Subject(instances, class_examples(given, subject.class_name, weight))
    count = subject.class_images.generate or 0
    drawn = drawing.pictures(subject.class_name, count, shelf, interruption)
    return Subject(instances, class_examples([(pixels, None) for pixels in drawn], subject.class_name, weight))


def all_examples(examples: Examples) -> list[Example]:
    return [example for subject in examples.subjects for example in (*subject.instances, *subject.classes)]
