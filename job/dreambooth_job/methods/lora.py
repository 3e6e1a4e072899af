"""LoRA (Hu et al. 2021, arXiv 2106.09685): W x + alpha/rank * up(down(x)) beside weights that stay as they are.

The adapters hang on the base's modules as forward hooks: module names and the base's state stay untouched, samples see
the adapters, and `remove()` takes them off again. They are float32 on a base of any precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dreambooth_api.methods import Lora as LoraParams
from dreambooth_job.contracts import Learned, LearnedKind, Model, Site, Sites
from dreambooth_job.methods.movable import Movable


class Adapter(nn.Module):
    """Starts as zero: `down` is random, `up` is not. A convolution's `down` keeps its kernel, stride and padding."""

    def __init__(self, base: nn.Module, rank: int, alpha: int, generator: torch.Generator) -> None:
        super().__init__()
        if isinstance(base, nn.Conv2d):
            self.down: nn.Module = nn.Conv2d(
                base.in_channels, rank, base.kernel_size, base.stride, base.padding, base.dilation, bias=False
            )
            self.up: nn.Module = nn.Conv2d(rank, base.out_channels, 1, bias=False)
        else:
            self.down = nn.Linear(base.in_features, rank, bias=False)
            self.up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5), generator=generator)  # on the CPU: same everywhere
        nn.init.zeros_(self.up.weight)
        self.alpha = alpha
        self.scale = alpha / rank
        self.to(base.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x.to(self.down.weight.dtype))) * self.scale

    def add_to(self, base: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return base.register_forward_hook(lambda _, inputs, output: output + self(inputs[0]).to(output.dtype))


class LoraTrainable(Movable):
    def __init__(self, adapters: Mapping[str, Adapter], handles: list[Any]) -> None:
        self.adapters, self._handles = adapters, handles
        super().__init__(
            {
                f"{place}.lora_{side}.weight": getattr(adapter, side).weight
                for place, adapter in adapters.items()
                for side in ("down", "up")
            }
        )

    def learned(self) -> Learned:
        """Also `<place>.alpha` for each adapter: without it readers take alpha for the rank."""
        alphas = {f"{place}.alpha": torch.tensor(float(a.alpha)) for place, a in self.adapters.items()}
        return Learned(LearnedKind.LORA, self.state() | alphas)

    def remove(self) -> None:
        """Takes the adapters off; the base predicts as before."""
        for handle in self._handles:
            handle.remove()


class Lora:
    """The `Method` of `spec.method.lora`."""

    def attach(self, model: Model, sites: Sites, params: LoraParams, generator: torch.Generator) -> LoraTrainable:
        linear = [s for s in sites.linear if params.train_text_encoder or not s.part.startswith("text.")]
        adapters = {_place(s): Adapter(s.module, params.rank, params.alpha or params.rank, generator) for s in linear}
        if params.conv_rank:
            alpha = params.conv_alpha or params.conv_rank
            adapters |= {_place(s): Adapter(s.module, params.conv_rank, alpha, generator) for s in sites.conv}
        chosen = [s for s in [*linear, *sites.conv] if _place(s) in adapters]
        return LoraTrainable(adapters, [adapters[_place(s)].add_to(s.module) for s in chosen])


def _place(site: Site) -> str:
    return f"{site.part}.{site.path}"
