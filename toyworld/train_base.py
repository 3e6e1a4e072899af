"""Makes the toy base: `python -m toyworld.train_base --out toyworld/base`.

Recipe: first the VAE (`train_vae`), then the UNet and the text encoder together on the VAE's latents, encoded once.
Noise prediction with min-SNR weights (Hang et al. 2023, gamma 5: without it the nearly clean steps, which decide nothing,
dominate), timesteps spread evenly over each batch, a tenth of the captions empty for guidance, AdamW with the rate falling
to nothing, the running mean of the weights kept. The prompts of each batch go through the text encoder as they train.

What is saved is an ordinary Stable Diffusion 1 folder in half precision. A run that was interrupted goes on from the state
in `--work`; the same seed and the same number of threads give the same weights.
"""

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel, CLIPTokenizer

from toyworld.models import new_scheduler, new_text_encoder, new_unet
from toyworld.tokenizer import learn_merges, new_tokenizer, world_words
from toyworld.train_vae import draw_pixels, encode, save_state, train_vae, warmup_then_cosine
from toyworld.world import Scene, caption, random_scene

BATCH = 16
PEAK_RATE = 8e-4
SNR_CAP = 5.0
EMPTY_CAPTION_SHARE = 0.1
MEAN_DECAY = 0.998


@dataclass
class Denoiser:
    """The two networks that learn together, and what turns captions into their input."""

    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler

    @classmethod
    def new(cls) -> "Denoiser":
        tokenizer = new_tokenizer()
        unet = new_unet()
        unet.set_attn_processor(AttnProcessor())  # on a CPU twice as fast as the fused kernel for heads this narrow
        return cls(unet, new_text_encoder(tokenizer), tokenizer, new_scheduler())

    def parameters(self) -> list[torch.nn.Parameter]:
        return [*self.unet.parameters(), *self.text_encoder.parameters()]

    def encode_captions(self, captions: list[str]) -> torch.Tensor:
        """[len(captions),77,width]; every different caption is encoded once."""
        different = sorted(set(captions))
        tokens = self.tokenizer(different, padding="max_length", truncation=True, return_tensors="pt").input_ids
        rows = [different.index(text) for text in captions]
        return self.text_encoder(tokens).last_hidden_state[rows]

    def loss(self, latents: torch.Tensor, captions: list[str]) -> torch.Tensor:
        count = len(latents)
        steps = ((torch.arange(count) + torch.rand(count)) * (1000 / count)).long()
        noise = torch.randn_like(latents)
        noisy = self.scheduler.add_noise(latents, noise, steps)
        predicted = self.unet(noisy, steps, self.encode_captions(captions)).sample.float()
        signal = self.scheduler.alphas_cumprod[steps]
        snr = signal / (1 - signal)
        return ((predicted - noise).square().mean(dim=(1, 2, 3)) * snr.clamp(max=SNR_CAP) / snr).mean()


def training_captions(scenes: list[Scene], rng: random.Random) -> list[str]:
    return ["" if rng.random() < EMPTY_CAPTION_SHARE else caption(scene, rng) for scene in scenes]


def train_denoiser(work: Path, vae: AutoencoderKL, steps: int, seed: int, pictures: int) -> Denoiser:
    """Trains from the newest state in `work/denoiser.pt` on; returns the running mean of the weights."""
    torch.manual_seed(seed)
    denoiser = Denoiser.new()
    weights = denoiser.parameters()
    mean = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_then_cosine(step, steps))
    state_file, first = work / "denoiser.pt", 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        copy_into(weights, state["weights"])
        mean = state["mean"]
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]
    if first < steps:
        rng = random.Random(seed + 1)
        scenes = [random_scene(rng) for _ in range(pictures)]
        latents = encode(vae, draw_pixels(scenes))
    began = time.monotonic()
    for step in range(first, steps):
        torch.manual_seed(seed + step)
        chosen = torch.randint(pictures, (BATCH,))
        captions = training_captions([scenes[i] for i in chosen], random.Random(seed + step))
        with torch.autocast("cpu", torch.bfloat16):
            loss = denoiser.loss(latents[chosen], captions)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            torch._foreach_lerp_(mean, weights, 1 - min(MEAN_DECAY, step / (step + 10)))
        if step % 100 == 0:
            print(f"denoiser step {step} loss {loss.item():.4f} {time.monotonic() - began:.0f} s", flush=True)
        if step % 500 == 499 or step + 1 == steps:
            state = {"weights": weights, "mean": mean, "optimizer": optimizer.state_dict(), "step": step + 1}
            save_state(state_file, state | {"schedule": schedule.state_dict()})
    copy_into(weights, mean)
    return denoiser


@torch.no_grad()
def copy_into(weights: list[torch.nn.Parameter], values: list[torch.Tensor]) -> None:
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)


def assemble(vae: AutoencoderKL, denoiser: Denoiser) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=denoiser.text_encoder.eval(),
        tokenizer=denoiser.tokenizer,
        unet=denoiser.unet.eval(),
        scheduler=denoiser.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def save_base(pipeline: StableDiffusionPipeline, out: Path) -> None:
    """The folder, in half precision; the tokenizer also as the two files that Stable Diffusion 1 folders have."""
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
    tokenizer: CLIPTokenizer = pipeline.tokenizer
    (out / "tokenizer" / "vocab.json").write_text(json.dumps(tokenizer.get_vocab(), ensure_ascii=False))
    merges = [" ".join(pair) for pair in learn_merges(world_words())]
    (out / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished base")
    parser.add_argument("--work", type=Path, default=Path(".cache/toyworld"), help="state of an interrupted run")
    parser.add_argument("--vae-steps", type=int, default=5000)
    parser.add_argument("--steps", type=int, default=8000, help="steps of the denoiser")
    parser.add_argument("--pictures", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.work.mkdir(parents=True, exist_ok=True)
    vae = train_vae(args.work, args.vae_steps, args.seed)
    denoiser = train_denoiser(args.work, vae, args.steps, args.seed, args.pictures)
    save_base(assemble(vae, denoiser), args.out)


if __name__ == "__main__":
    main()
