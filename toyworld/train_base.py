"""Makes the toy base: `python -m toyworld.train_base --out toyworld/base`.

Recipe: first the VAE (`train_vae`), then the UNet and the text encoder together on the VAE's latents, encoded once.
Noise prediction with min-SNR weights (Hang et al. 2023, gamma 5: without it the nearly clean steps, which decide
nothing, dominate), timesteps spread evenly over each batch, a tenth of the captions empty for guidance, AdamW with
the rate falling to nothing, the running mean of the weights kept. The prompts of each batch go through the text
encoder as they train.

What is saved is an ordinary Stable Diffusion 1 folder in half precision and, beside it, the same weights as one file
in the original layout. A run that was interrupted goes on from the state in `--work`; the same seed and the same
number of threads give the same weights.
"""

import argparse
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import save_file
from transformers import CLIPTextModel, CLIPTokenizer

from dreambooth_job.families import sd1_layout
from toyworld.models import new_scheduler, new_text_encoder, new_unet
from toyworld.tokenizer import learn_merges, new_tokenizer, world_words
from toyworld.train_vae import draw_pixels, encode, save_state, train_vae, warmup_then_cosine
from toyworld.world import Scene, caption, random_scene

SINGLE_FILE = "toy-sd1.safetensors"
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
        unet.set_attn_processor(AttnProcessor())  # on a CPU in bf16 faster than the fused kernel for heads this narrow
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


def scenes_and_latents(work: Path, vae: AutoencoderKL, pictures: int, seed: int) -> tuple[list[Scene], torch.Tensor]:
    """The training set; the latents are encoded once and kept in `work`."""
    rng = random.Random(seed + 1)
    scenes = [random_scene(rng) for _ in range(pictures)]
    file = work / "latents.pt"
    if not file.exists():
        save_state(file, encode(vae, draw_pixels(scenes)))
    return scenes, torch.load(file, weights_only=True)


def train_denoiser(rank: int, workers: int, work: Path, vae: AutoencoderKL, args: argparse.Namespace) -> None:
    """One of several workers that train the same weights, each on its share of every batch; goes on from the state in
    `work/denoiser.pt` and leaves the finished one there. Workers of one thread each are twice as fast as one worker
    of two threads on a machine that does other things, because threads wait for each other many times a step.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{(work / 'rendezvous').absolute()}", rank=rank, world_size=workers)
    torch.manual_seed(args.seed)
    denoiser = Denoiser.new()
    weights = denoiser.parameters()
    mean = [weight.detach().clone() for weight in weights]
    optimizer = torch.optim.AdamW(weights, lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_then_cosine(step, args.steps))
    state_file, first = work / "denoiser.pt", 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        copy_into(weights, state["weights"])
        mean = state["mean"]
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        first = state["step"]
    scenes, latents = scenes_and_latents(work, vae, args.pictures, args.seed)
    share = BATCH // workers
    began = time.monotonic()
    for step in range(first, args.steps):
        number = (args.seed + step) * workers + rank
        torch.manual_seed(number)
        chosen = torch.randint(len(scenes), (share,))
        captions = training_captions([scenes[i] for i in chosen], random.Random(number))
        with torch.autocast("cpu", torch.bfloat16):
            loss = denoiser.loss(latents[chosen], captions)
        optimizer.zero_grad()
        loss.backward()
        average_gradients(weights, workers)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            torch._foreach_lerp_(mean, weights, 1 - min(MEAN_DECAY, step / (step + 10)))
        if rank == 0 and step % 100 == 0:
            print(f"denoiser step {step} loss {loss.item():.4f} {time.monotonic() - began:.0f} s", flush=True)
        if rank == 0 and (step % 500 == 499 or step + 1 == args.steps):
            state = {"weights": weights, "mean": mean, "optimizer": optimizer.state_dict(), "step": step + 1}
            save_state(state_file, state | {"schedule": schedule.state_dict()})
    dist.destroy_process_group()


def average_gradients(weights: list[torch.nn.Parameter], workers: int) -> None:
    if workers == 1:
        return
    together = torch.cat([weight.grad.flatten() for weight in weights])
    dist.all_reduce(together)
    sizes = [weight.numel() for weight in weights]
    for weight, gradient in zip(weights, (together / workers).split(sizes), strict=True):
        weight.grad.copy_(gradient.view_as(weight))


def finished_denoiser(work: Path) -> Denoiser:
    """With the running mean of the weights."""
    denoiser = Denoiser.new()
    copy_into(denoiser.parameters(), torch.load(work / "denoiser.pt", weights_only=True)["mean"])
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


def original_tensors(pipeline: StableDiffusionPipeline) -> dict[str, torch.Tensor]:
    """The weights under the names of the original single-file checkpoints."""
    parts = {"denoiser": pipeline.unet, "vae": pipeline.vae, "text.0": pipeline.text_encoder}
    tensors = {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}
    return {name: value.contiguous() for name, value in sd1_layout.original_layout(tensors).items()}


def save_base(pipeline: StableDiffusionPipeline, out: Path) -> None:
    """The folder in half precision, the tokenizer also as its two classic files; the single file beside."""
    pipeline.to(torch.float16).save_pretrained(out, safe_serialization=True)
    vocabulary = dict(sorted(pipeline.tokenizer.get_vocab().items(), key=lambda entry: entry[1]))
    (out / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    merges = [" ".join(pair) for pair in learn_merges(world_words())]
    (out / "tokenizer" / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    save_file(original_tensors(pipeline), out.with_name(SINGLE_FILE), metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the finished base")
    parser.add_argument("--work", type=Path, default=Path(".cache/toyworld"), help="state of an interrupted run")
    parser.add_argument("--vae-steps", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=4800, help="steps of the denoiser")
    parser.add_argument("--pictures", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2, help="processor cores to use")
    args = parser.parse_args()
    torch.set_num_threads(args.workers)
    args.work.mkdir(parents=True, exist_ok=True)
    vae = train_vae(args.work, args.vae_steps, args.seed)
    scenes_and_latents(args.work, vae, args.pictures, args.seed)
    (args.work / "rendezvous").unlink(missing_ok=True)
    torch.multiprocessing.spawn(train_denoiser, (args.workers, args.work, vae, args), nprocs=args.workers)
    save_base(assemble(vae, finished_denoiser(args.work)), args.out)


if __name__ == "__main__":
    main()
