"""What the denoiser is asked to predict: noise (epsilon) or velocity (v), as the checkpoint's scheduler config says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dreambooth_job.errors import BaseModelUnsupported

_BETA_SCHEDULES = {
    "linear": lambda start, end, steps: torch.linspace(start, end, steps, dtype=torch.float64),
    "scaled_linear": lambda start, end, steps: torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2,
}


class Epsilon:
    """Ho et al. 2020 (arXiv 2006.11239), eq. 4 and 14: noisy = sqrt(a) x + sqrt(1 - a) n, and the target is n."""

    def __init__(self, alphas_cumprod: Tensor) -> None:
        self._signal = alphas_cumprod.sqrt().float()
        self._noise = (1 - alphas_cumprod).sqrt().float()

    def timesteps(self, count: int, generator: torch.Generator) -> Tensor:
        """Uniform over the training steps; int64 [count] on the generator's device."""
        return torch.randint(len(self._signal), (count,), generator=generator, device=generator.device)

    def corrupt(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        signal_share, noise_share = self._shares(timesteps, latents)
        return signal_share * latents + noise_share * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise

    def _shares(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        index = timesteps.cpu()
        shape = (-1, *[1] * (like.ndim - 1))
        return tuple(table[index].view(shape).to(like.device, like.dtype) for table in (self._signal, self._noise))


class Velocity(Epsilon):
    """Salimans and Ho 2022 (arXiv 2202.00512), appendix D: the target is v = sqrt(a) n - sqrt(1 - a) x."""

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        signal_share, noise_share = self._shares(timesteps, latents)
        return signal_share * noise - noise_share * latents


def from_scheduler_config(config: Mapping[str, Any]) -> Epsilon:
    """The objective of a diffusers scheduler config; raises BaseModelUnsupported for one that is not known here."""
    kind, schedule = config.get("prediction_type", "epsilon"), config.get("beta_schedule", "linear")
    if kind not in ("epsilon", "v_prediction") or schedule not in _BETA_SCHEDULES or config.get("trained_betas"):
        raise BaseModelUnsupported(
            f"the base model's noise schedule ({kind!r}, {schedule!r}, custom betas or not) is not known here; "
            "epsilon and v_prediction with linear or scaled_linear betas are"
        )
    betas = _BETA_SCHEDULES[schedule](config["beta_start"], config["beta_end"], config["num_train_timesteps"])
    alphas_cumprod = torch.cumprod(1 - betas, 0)
    if config.get("rescale_betas_zero_snr"):
        alphas_cumprod = _zero_terminal_snr(alphas_cumprod)
    return (Velocity if kind == "v_prediction" else Epsilon)(alphas_cumprod)


def _zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Lin et al. 2023 (arXiv 2305.08891), algorithm 1: the last step keeps no signal, the first stays as it was."""
    signal = alphas_cumprod.sqrt()
    first, last = signal[0].clone(), signal[-1].clone()
    return ((signal - last) * first / (first - last)) ** 2
