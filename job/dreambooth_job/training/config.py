"""The loop's settings as plain values: everything that was "auto" is resolved before (`dreambooth_job/config.py`)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingConfig:
    """How to train. Batches, captions and weights are the examples' business."""

    steps: int  # optimizer steps
    learning_rate: float  # peak, of the denoiser
    text_learning_rate: float  # peak, of the text encoder where the method trains it
    schedule: str = "constant"  # or "cosine", down to zero
    warmup_steps: int = 0
    gradient_accumulation: int = 1
    max_grad_norm: float = 1.0
    precision: str = "fp32"  # or "bf16", "fp16"
    seed: int = 0
    weight_decay: float = 0.01
    loss_every_steps: int = 10  # reading the loss makes a GPU wait for the CPU

    def rate_factor(self, step: int) -> float:
        """What the peak rates are multiplied with in this step, counted from 0."""
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        if self.schedule == "constant" or step < self.warmup_steps:
            return warmup
        progress = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * progress))
