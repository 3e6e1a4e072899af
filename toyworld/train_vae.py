"""Trains the base's picture codec (VAE) and folds its latents to a unit normal; called by `train_base`, apart because
it shares nothing with the denoiser's training but the finished weights.

Half of the training pictures carry random shapes in random colours on top of the drawing, so that the codec also
keeps what the world itself never draws: a subject's hat, its badge.
"""

import math
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from toyworld.models import SIDE_PX, new_vae
from toyworld.world import Colour, Pen, Scene, draw, random_scene

BATCH = 8
CROP_BATCH, CROP_PX = 24, 32
CROP_SHARE = 0.88  # of all steps, the first ones
PEAK_RATE = 1e-3
EDGE_WEIGHT = 0.5
KL_WEIGHT = 5e-5


def draw_pixels(scenes: list[Scene]) -> torch.Tensor:
    """uint8 [N,3,64,64]."""
    pictures = np.stack([np.asarray(draw(scene, SIDE_PX)) for scene in scenes])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()


def to_model_range(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 -> float32 in [-1,1]."""
    return pixels.float() / 127.5 - 1


def random_shapes(rng: random.Random) -> Callable[[Pen], None]:
    """One to four shapes of random colours about the thing's origin."""
    seed = rng.getrandbits(32)

    def details(pen: Pen) -> None:
        shapes = random.Random(seed)
        for _ in range(shapes.randint(1, 4)):
            colour: Colour = tuple(shapes.randint(0, 255) for _ in range(3))
            x, y, radius = shapes.uniform(-35, 35), shapes.uniform(-40, 35), shapes.uniform(3, 18)
            kind = shapes.choice(["ellipse", "box", "star", "triangle"])
            if kind == "ellipse":
                pen.ellipse(x - radius, y - radius, x + radius, y + radius * shapes.uniform(0.3, 1), colour)
            elif kind == "box":
                pen.box(x - radius, y - radius, x + radius, y + radius * shapes.uniform(-0.6, 1), colour)
            elif kind == "star":
                pen.star((x, y), radius, colour)
            else:
                pen.polygon([(x - radius, y), (x, y - 1.5 * radius), (x + radius, y)], colour)

    return details


def codec_scenes(count: int, seed: int) -> list[Scene]:
    rng = random.Random(seed)
    scenes = [random_scene(rng) for _ in range(count)]
    return [
        scene if index % 2 else Scene(scene.thing, scene.place, scene.paint, scene.seed, details=random_shapes(rng))
        for index, scene in enumerate(scenes)
    ]


def batch_of_pictures(pixels: torch.Tensor) -> torch.Tensor:
    return pixels[torch.randint(len(pixels), (BATCH,))]


def batch_of_crops(pixels: torch.Tensor) -> torch.Tensor:
    """Squares mostly about the middle, where the thing is: they are cheap, and the places are easily learned."""
    left, top = torch.randint((SIDE_PX - CROP_PX) // 2 + 1, (2, 2)).sum(dim=0).tolist()
    return pixels[torch.randint(len(pixels), (CROP_BATCH,)), :, top : top + CROP_PX, left : left + CROP_PX]


def edges(pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return pixels.diff(dim=-1), pixels.diff(dim=-2)


def codec_loss(vae: AutoencoderKL, pixels: torch.Tensor) -> torch.Tensor:
    """L1 and L2 of pixels (L2 for colours, far off at first), L1 of their differences (edges stay soft without it), and
    a faint pull to a unit normal.
    """
    posterior = vae.encode(pixels).latent_dist
    decoded = vae.decode(posterior.sample()).sample.float()
    loss = F.l1_loss(decoded, pixels) + F.mse_loss(decoded, pixels)
    loss = loss + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
    for made, wanted in zip(edges(decoded), edges(pixels), strict=True):
        loss = loss + EDGE_WEIGHT * F.l1_loss(made, wanted)
    return loss


@torch.no_grad()
def encode(vae: AutoencoderKL, pixels: torch.Tensor, batch: int = 64) -> torch.Tensor:
    """uint8 pictures -> scaled latents [N,4,16,16], the posterior's mean."""
    parts = [vae.encode(to_model_range(part)).latent_dist.mean for part in pixels.split(batch)]
    return torch.cat(parts) * vae.config.scaling_factor


@torch.no_grad()
def fold_to_unit_normal(vae: AutoencoderKL, pixels: torch.Tensor) -> None:
    """Gives each latent channel mean 0 and, times the scaling factor, deviation 1, by changing nothing but the two
    1 x 1 convolutions around the latents; what is decoded stays the same.
    """
    latents = encode(vae, pixels)
    mean, gain = latents.mean(dim=(0, 2, 3)) / vae.config.scaling_factor, 1 / latents.std(dim=(0, 2, 3))
    inward, outward = vae.quant_conv, vae.post_quant_conv  # inward: rows 0-3 give the mean, rows 4-7 the log-variance
    outward.bias += outward.weight[:, :, 0, 0] @ mean
    outward.weight /= gain.view(1, -1, 1, 1)
    inward.weight[:4] *= gain.view(-1, 1, 1, 1)
    inward.bias[:4] = (inward.bias[:4] - mean) * gain
    inward.bias[4:] += 2 * gain.log()


def train_vae(work: Path, steps: int, seed: int = 0, pictures: int = 12_000) -> AutoencoderKL:
    """Trains from the newest state in `work/vae.pt` on, and leaves the finished codec there; returns it."""
    torch.manual_seed(seed)
    vae = new_vae()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_then_cosine(step, steps))
    state_file, first = work / "vae.pt", 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        vae.load_state_dict(state["vae"])
        if state["done"]:
            return vae.eval()
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]
    pixels = draw_pixels(codec_scenes(pictures, seed))
    began = time.monotonic()
    for step in range(first, steps):
        torch.manual_seed(seed + step)
        batch = batch_of_crops(pixels) if step < CROP_SHARE * steps else batch_of_pictures(pixels)
        with torch.autocast("cpu", torch.bfloat16):
            loss = codec_loss(vae, to_model_range(batch))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            print(f"vae step {step} loss {loss.item():.4f} {time.monotonic() - began:.0f} s", flush=True)
        if step % 200 == 199 or step + 1 == steps:
            done = step + 1 == steps
            if done:
                fold_to_unit_normal(vae, pixels[:1000])
            save_state(
                state_file,
                {
                    "vae": vae.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "schedule": schedule.state_dict(),
                    "step": step + 1,
                    "done": done,
                },
            )
    return vae.eval()


def warmup_then_cosine(step: int, steps: int, warmup: int = 100) -> float:
    """The share of the peak rate at a step: up in a straight line, then down to nothing along half a cosine."""
    return min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * min(step / steps, 1)))


def save_state(file: Path, state: dict) -> None:
    """Whole or not at all."""
    temporary = file.with_suffix(".part")
    torch.save(state, temporary)
    temporary.rename(file)
