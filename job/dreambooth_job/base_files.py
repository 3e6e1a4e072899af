"""Which files of a diffusers folder are read. Apart from their reader, so that they are fetched while torch loads."""

from __future__ import annotations

from collections.abc import Iterable

FOLDERS = {"denoiser": "unet", "vae": "vae", "text.0": "text_encoder"}  # by part
WEIGHT_NAMES = [
    f"{stem}{variant}{suffix}"
    for suffix in (".safetensors", ".bin")
    for variant in ("", ".fp16")
    for stem in ("diffusion_pytorch_model", "model", "pytorch_model")
]


def select_files(paths: Iterable[str]) -> list[str]:
    """The files of a diffusers folder that are read here, out of all that lie there (relative paths, `/` between).

    A published SD1 folder also holds a safety checker and the same weights in two or three forms: 10 GB instead of 4.
    """
    there = set(paths)
    wanted = ["model_index.json", "scheduler/scheduler_config.json", *[f"{f}/config.json" for f in FOLDERS.values()]]
    wanted += [f"tokenizer/{name}" for name in ("vocab.json", "merges.txt", "tokenizer.json")]
    for folder in FOLDERS.values():
        wanted += [f"{folder}/{name}" for name in WEIGHT_NAMES if f"{folder}/{name}" in there][:1]
    return [path for path in wanted if path in there]
