"""A Stable Diffusion 1 of random weights, small enough to be made in a second, with every structural rule kept.

Three levels of one block instead of four of two: sizes are in the shapes, so nothing that reads or writes a model may
assume the published ones. Words are spelled letter by letter: the vocabulary holds bytes only.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreambooth_job.contracts import Example
from dreambooth_job.families import clip_vocabulary
from dreambooth_job.families.sd1_source import SCHEDULER_CONFIG

SIDE_PX = 32
WIDTH = 64


def tiny_sd1(folder: Path, **scheduler: object) -> Path:
    """Writes the model as a diffusers folder; the weights are the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _pipeline(**scheduler).save_pretrained(folder)
    return folder


def tiny_examples(count: int = 4) -> list[Example]:
    """Noise for pictures; the second half are class pictures of weight 0.5."""
    generator = torch.Generator().manual_seed(7)
    pixels = torch.rand(count, 3, SIDE_PX, SIDE_PX, generator=generator) * 2 - 1
    own = [Example(p, "a sks dog", 1.0) for p in pixels[: count // 2]]
    return own + [Example(p, "a dog", 0.5, is_class_image=True) for p in pixels[count // 2 :]]


def tiny_tokenizer() -> CLIPTokenizer:
    symbols = clip_vocabulary.byte_symbols()
    words = [*symbols, *[f"{s}</w>" for s in symbols], "<|startoftext|>", "<|endoftext|>"]
    return clip_vocabulary.build({word: number for number, word in enumerate(words)}, [])


def tiny_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIDE_PX // 4,
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(32, 32, 32),
        layers_per_block=1,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
    )


def tiny_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_attention_heads=1,
        num_hidden_layers=2,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def _pipeline(**scheduler: object) -> StableDiffusionPipeline:
    noise = {k: v for k, v in SCHEDULER_CONFIG.items() if k != "trained_betas"} | scheduler
    tokenizer = tiny_tokenizer()
    return StableDiffusionPipeline(
        vae=tiny_vae(),
        text_encoder=tiny_text_encoder(tokenizer),
        tokenizer=tokenizer,
        unet=tiny_unet(),
        scheduler=DDIMScheduler(**noise),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
