"""Full fine-tuning: every weight of the denoiser moves, and the text encoder's when asked (DreamBooth's own way)."""

from __future__ import annotations

import torch

from dreambooth_api.methods import Full as FullParams
from dreambooth_job.contracts import Learned, LearnedKind, Model, Sites
from dreambooth_job.methods.movable import Movable


class FullTrainable(Movable):
    def learned(self) -> Learned:
        return Learned(LearnedKind.FULL, self.state())


class Full:
    """The `Method` of `spec.method.full`."""

    def attach(self, model: Model, sites: Sites, params: FullParams, generator: torch.Generator) -> FullTrainable:
        """The weights become float32 whatever they were: a step of 2e-6 is lost in half precision."""
        modules = model.modules()
        parts = ["denoiser", *[p for p in modules if p.startswith("text.") and params.train_text_encoder]]
        moving = {}
        for part in parts:
            modules[part].float().requires_grad_(True)
            moving |= {f"{part}.{path}": parameter for path, parameter in modules[part].named_parameters()}
        return FullTrainable(moving)
