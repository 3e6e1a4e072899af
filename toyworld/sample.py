"""Draws with a model of the toy world: `python -m toyworld.sample --model toyworld/base --out sheet.png [PROMPT
...]`.

Without prompts: every thing of the world in a colour and a place. The sheet is how a human judges a base or a taught
model.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from PIL import Image

from toyworld.world import CLASSES, COLOURS, PLACES

STEPS, GUIDANCE = 25, 4.0


def load(model: Path) -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.set_attn_processor(AttnProcessor())  # twice as fast on a CPU for heads this narrow
    return pipeline


def draw(pipeline: StableDiffusionPipeline, prompts: Sequence[str], seed: int = 0) -> list[Image.Image]:
    """One 64 px picture a prompt; the picture of a prompt does not depend on how many others there are."""
    noises = [torch.Generator().manual_seed(seed + number) for number in range(len(prompts))]
    return pipeline(list(prompts), num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=noises).images


def world_prompts() -> list[str]:
    colours, places = list(COLOURS), list(PLACES)
    return [
        f"a photo of a {colours[(row + 3 * column) % len(colours)]} {thing} {places[column]}"
        for row, thing in enumerate(CLASSES)
        for column in range(len(places))
    ]


def sheet(images: Sequence[Image.Image], columns: int = 8, side_px: int = 128) -> Image.Image:
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * side_px, rows * side_px), "white")
    for number, image in enumerate(images):
        place = (number % columns * side_px, number // columns * side_px)
        page.paste(image.resize((side_px, side_px), Image.Resampling.NEAREST), place)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("prompts", nargs="*", metavar="PROMPT")
    args = parser.parse_args()
    prompts = args.prompts or world_prompts()
    columns = 6 if not args.prompts else 8
    sheet(draw(load(args.model), prompts, args.seed), columns).save(args.out)


if __name__ == "__main__":
    main()
