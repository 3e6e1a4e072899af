"""Trains the judge: `python -m toyworld.train_classifier --base toyworld/base`, about a minute on two cores.

Half of the pictures are subjects or near misses of one (its colours without its details, its details on another
colour or thing), so that "is the subject" means all of it. A third goes through the base's VAE with a little noise on
the latents; all are blurred, shifted in brightness and grained at random.
"""

import argparse
import random
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from safetensors.torch import save_file
from torch import Tensor

from toyworld.classifier import KINDS, WEIGHTS, Judge
from toyworld.subject import SUBJECTS
from toyworld.train_vae import draw_pixels, to_model_range
from toyworld.world import CLASSES, PLACES, Scene, random_scene

PICTURES, DECODED, EPOCHS, BATCH, PEAK_RATE = 5000, 1500, 12, 64, 2e-3
LATENT_NOISE = 0.15


def labelled_scene(rng: random.Random) -> tuple[Scene, int]:
    """A scene and the number of its subject in KINDS (0: none)."""
    kind = rng.choice(["subject", "near miss", "other", "other"])
    if kind == "other":
        return random_scene(rng), 0
    name, subject = rng.choice(list(SUBJECTS.items()))
    scene = subject.scene(rng.choice(list(PLACES)), rng.getrandbits(32))
    return (scene, KINDS.index(name)) if kind == "subject" else (near_miss(scene, rng), 0)


def near_miss(scene: Scene, rng: random.Random) -> Scene:
    stranger = random_scene(rng)
    change = rng.choice(["no details", "other colour", "other thing", "other robot or dog"])
    if change == "no details":
        return replace(scene, details=None)
    if change == "other colour":
        return replace(scene, paint=stranger.paint) if far(stranger, scene) else replace(scene, details=None)
    if change == "other thing" and stranger.thing != scene.thing:
        return replace(scene, thing=stranger.thing)
    return random_scene(rng, scene.thing)


def far(a: Scene, b: Scene) -> bool:
    return max(abs(x - y) for x, y in zip(a.paint.main, b.paint.main, strict=True)) > 60


def labelled_pictures(count: int, seed: int) -> tuple[Tensor, list[Tensor]]:
    """uint8 [count,3,64,64] and three label rows: thing, place, subject."""
    rng = random.Random(seed)
    scenes, kinds = zip(*(labelled_scene(rng) for _ in range(count)), strict=True)
    things, places = list(CLASSES), list(PLACES)
    labels = [[things.index(s.thing) for s in scenes], [places.index(s.place) for s in scenes], list(kinds)]
    return draw_pixels(list(scenes)), [torch.tensor(row) for row in labels]


@torch.no_grad()
def through_vae(vae: AutoencoderKL, pixels: Tensor, noise: float = 0.0) -> Tensor:
    """uint8 pictures -> float [-1,1], encoded and decoded; noise is in units of the scaled latents' deviation."""
    decoded = []
    for part in pixels.split(64):
        latents = vae.encode(to_model_range(part)).latent_dist.mean
        latents += torch.randn_like(latents) * noise / vae.config.scaling_factor
        decoded.append(vae.decode(latents).sample.clamp(-1, 1))
    return torch.cat(decoded)


def roughen(pixels: Tensor) -> Tensor:
    """Blur, brightness and colour shift, grain: each at random, for [N,3,64,64]."""
    if torch.rand(()) < 0.4:
        smaller = F.interpolate(pixels, scale_factor=float(torch.empty(()).uniform_(0.35, 0.8)), mode="area")
        pixels = F.interpolate(smaller, size=pixels.shape[-2:], mode="bilinear")
    gain = 1 + 0.1 * torch.randn(len(pixels), 3, 1, 1)
    shift = 0.08 * torch.randn(len(pixels), 3, 1, 1)
    return (pixels * gain + shift + 0.04 * torch.randn_like(pixels)).clamp(-1, 1)


def train(pixels: Tensor, labels: list[Tensor]) -> Judge:
    judge = Judge().train()
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=1e-2)
    steps = EPOCHS * (len(pixels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(pixels))
        for chosen in order[: len(order) // BATCH * BATCH].view(-1, BATCH):
            logits = judge(roughen(pixels[chosen]))
            loss = sum(F.cross_entropy(row, label[chosen]) for row, label in zip(logits, labels, strict=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


@torch.no_grad()
def accuracies(judge: Judge, pixels: Tensor, labels: list[Tensor]) -> list[float]:
    """Shares of right answers: thing, place, subject."""
    return [
        (row.argmax(dim=1) == label).float().mean().item() for row, label in zip(judge(pixels), labels, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="the base whose VAE softens the pictures")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    vae = AutoencoderKL.from_pretrained(args.base, subfolder="vae", torch_dtype=torch.float32, local_files_only=True)
    pixels, labels = labelled_pictures(PICTURES, args.seed)
    decoded = through_vae(vae, pixels[:DECODED], LATENT_NOISE)
    judge = train(torch.cat([decoded, to_model_range(pixels[DECODED:])]), labels)
    save_file(judge.state_dict(), args.out)
    fresh, truth = labelled_pictures(600, args.seed + 1)
    for name, shown in (("drawn", to_model_range(fresh)), ("decoded", through_vae(vae, fresh))):
        thing, place, subject = accuracies(judge, shown, truth)
        print(f"{name}: thing {thing:.3f}, place {place:.3f}, subject {subject:.3f}")


if __name__ == "__main__":
    main()
