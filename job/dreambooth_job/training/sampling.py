"""Pictures from a model as it is now: a prompt and a seed give the same picture, whatever is drawn beside them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from dreambooth_job.contracts import Family, Model
from dreambooth_job.training import precision


@torch.no_grad()
def draw(
    family: Family,
    model: Model,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int = 25,
    guidance: float = 7.5,
    negative: str = "",
    size_px: int | None = None,
    precision_name: str = "fp32",
    batch_size: int = 4,
) -> list[Image.Image]:
    """One picture per prompt and its seed, `size_px` square (the base's own size when left out).

    Uses generators of its own and changes no mode, so training goes on as if nothing had been drawn.
    """
    pipeline = family.pipeline(model)
    side = size_px or model.resolution_px
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), batch_size):
        chosen = prompts[start : start + batch_size]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + batch_size]]
        with precision.autocast(model.denoiser.device, precision_name):
            latents = pipeline(
                **family.pipeline_inputs(model, chosen, negative),
                generator=generators,
                num_inference_steps=steps,
                guidance_scale=guidance,
                height=side,
                width=side,
                output_type="latent",
            ).images
        for latent in latents.split(1):  # one by one: at 512 px a float32 VAE takes about a GiB for each
            pictures += to_images(family.decode_latents(model, latent))
    return pictures


def to_images(pixels: Tensor) -> list[Image.Image]:
    """[B, 3, H, W] in [-1, 1] -> RGB pictures."""
    rounded = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(picture) for picture in rounded.permute(0, 2, 3, 1).cpu().numpy()]
